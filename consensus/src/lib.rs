//! Viewstamped Replication, sans I/O.
//!
//! A [`Replica`] is a state machine: [`Replica::step`] takes the time and one [`Input`] and pushes what must be done
//! to an [`Outbox`]. It never reads a clock, a file, a socket or a random number, so a server and a simulator
//! drive the same code. It orders *headers*; the bodies of ops are opaque and stay with the driver.
//!
//! In this version a cluster has one replica: a request becomes a [`Output::Write`], the completed write
//! ([`Input::Written`]) is a quorum of one, and the op is committed ([`Output::Commit`]). Several ops may be in
//! flight; they are written and commit in order. View changes, repair and messages between replicas are absent.

#![warn(clippy::float_arithmetic, clippy::wildcard_enum_match_arm)]

mod header;
mod replica;

pub use header::{Header, HeaderError, Identity, Op, SECTION_BYTES, View};
pub use replica::{Input, Outbox, Output, Recovered, Replica, Superblock};
