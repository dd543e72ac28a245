//! Public keys as arguments.

use kimberlite_store::proof::{KeyError, KeyKind, VerifierKey};

/// A log's key.
pub(super) fn log_key(text: &str) -> Result<VerifierKey, String> {
    key(text, KeyKind::Log, "that is a witness's key, not a log's")
}

/// A witness's key.
pub(super) fn witness_key(text: &str) -> Result<VerifierKey, String> {
    key(text, KeyKind::Cosigner, "that is a log's key, not a witness's")
}

fn key(text: &str, kind: KeyKind, otherwise: &str) -> Result<VerifierKey, String> {
    let key: VerifierKey = text.parse().map_err(|e: KeyError| e.to_string())?;
    if key.kind() == kind { Ok(key) } else { Err(otherwise.to_owned()) }
}
