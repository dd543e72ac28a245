//! Time stamps of checkpoints.

mod token;
