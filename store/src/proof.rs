//! How a log proves itself to a stranger, as text and hashes: signed notes, checkpoints, cosignatures, tiles, proofs and
//! receipts, made and checked.
//!
//! Each is a public standard, so that a tool that is not ours can check what we say: RFC 6962 and RFC 9162 (tree and
//! proofs), C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles, tlog-proof, tlog-witness.
//! `specs/decisions/0018-notes-and-proofs.md` has what the standards leave open.
//!
//! Pure: no files, no clock, no randomness. Hashes are read through a closure, times and seeds are arguments. Absent on
//! purpose: ML-DSA and ECDSA signatures; a note may carry them, and they count as those of unknown keys.

mod checkpoint;
mod key;
mod merkle;
mod note;
mod receipt;
mod tile;
mod witness;

pub use crate::tree::Tree;
pub use checkpoint::{Checkpoint, CheckpointError};
pub use key::{CosignerKey, KeyError, KeyKind, LogKey, VerifierKey};
pub use merkle::{
    HASHES_MAX, Node, ProofError, SIZE_MAX, consistency, empty_root, inclusion, leaf_hash,
    root_of_inclusion, subtree_root, verify_consistency, verify_inclusion,
};
pub use note::{NOTE_BYTES_MAX, Note, NoteError, NoteSignature, SIGNATURES_MAX, Signed};
pub use receipt::{Covered, EXTRA_BYTES_MAX, Receipt, ReceiptError};
pub use tile::{Place, TILE_HASHES, Tile, TilePath};
pub use witness::{NoSubmission, Refused, SUBMISSION_BYTES_MAX, Submission};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::words::Hash;

/// Standard base64 (RFC 4648, section 4), padded.
fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// `None` unless it is what [`to_base64`] prints.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A hash as a line of base64.
fn hash_from_base64(text: &str) -> Option<Hash> {
    from_base64(text)?.try_into().ok().map(Hash)
}

/// A decimal number as the standards have it: digits alone, without leading zeros, at most [`SIZE_MAX`].
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|n| plain && *n <= SIZE_MAX)
}
