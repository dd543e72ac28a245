//! Notes, checkpoints, proofs and receipts: the standards' vectors, other implementations, and bytes of any kind.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod any_bytes;
mod cost;
mod kept;
mod oracles;
mod support;
mod vectors;
mod witness;
