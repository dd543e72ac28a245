//! The store through its public face, on real files.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "`clippy.toml` speaks of the kernel"
)]

mod backup;
mod basics;
mod damage;
mod derived;
mod flips;
mod forks;
mod format;
mod point_in_time;
mod progress;
mod signing;
mod stamps;
mod subscribe;
mod support;
mod tables;
mod tiles;
mod verify;
