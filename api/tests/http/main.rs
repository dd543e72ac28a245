//! The API as its users see it: over HTTP, against the real process.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod append;
mod backups;
mod browser;
mod bulk;
mod follow;
mod log;
mod operations;
mod protocol;
mod query;
mod read;
mod refused;
mod settings;
mod stamps;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod witnesses;

use support::Server;

/// A server of the test's own.
fn server() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Server::start(folder.path()), folder)
}
