//! The store through its public face, on real files.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod basics;
mod damage;
mod format;
mod support;
