//! The store: an append-only log of records a tenant, the kernel that decides what enters it, and the node that
//! makes it durable.
//!
//! A command goes through `resolve` (I/O, on the caller's task), `decide` (pure), `consensus` (order and
//! durability) and `apply` (the same on every replica and for ever). `FORMAT.md` has every byte on disk;
//! `specs/decisions/0001-kernel-contract.md` has the contract of the four steps.
//!
//! Absent on purpose: HTTP, status codes, principals' rights (they are the layers above), SQL.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "`clippy.toml` names what the pure parts must not do; they refuse it themselves"
)]

pub mod append;
pub mod backup;
pub mod error;
pub mod limits;
pub mod proof;
pub mod read;
pub mod restore;
pub mod scan;
pub mod tables;
pub mod verify;
pub mod words;

mod chance;
mod checkpoint;
mod compress;
#[cfg(test)]
mod cost;
mod disk;
#[cfg(test)]
mod faults;
mod fragment;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod golden;
mod index;
mod kernel;
mod log;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod measure;
mod node;
mod opening;
mod reader;
mod record;
mod resolve;
mod scrub;
mod signing;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;
mod store;
pub mod subscribe;
mod tenant;
mod tiles;
mod tree;

pub use signing::{LogKeyLine, SignedLog, Signing, SigningError};
pub use store::{Consistency, EvidenceError, Options, Stamp, Stamped, Store, StoreStats, Tenant};
