//! Answers of the engine over real logs.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these speak of the kernel"
)]

mod files;
mod tables;
mod truth;
mod world;
