//! An opening, held against its leaf: the one form for what a server shows and for a file.

use kimberlite_store::{
    proof::leaf_hash,
    verify::{LeafFields, leaf_fields},
    words::{Hash, Hex},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Bytes at a leaf's end that hold the hash of the leaf before.
const PREVIOUS_BYTES: usize = 32;

/// What `/v1/records/{position}/opening` answers.
#[derive(Deserialize)]
pub(super) struct Opening {
    pub(super) position: u64,
    pub(super) leaf: String,
    pub(super) hash: String,
    pub(super) payloads: Vec<Payload>,
}

/// One payload of it.
#[derive(Deserialize)]
pub(super) struct Payload {
    pub(super) kind: String,
    commitment: String,
    state: String,
    salt: Option<String>,
    pub(super) json: Option<String>,
}

/// A leaf as it was opened.
pub(super) struct OpenedLeaf {
    pub(super) fields: LeafFields,
    pub(super) hash: Hash,
    pub(super) previous: String,
}

impl Opening {
    /// Reads the leaf; tells what does not hold of it and of the payloads.
    pub(super) fn check(&self, wrong: &mut Vec<String>) -> Option<OpenedLeaf> {
        let leaf = self.leaf(wrong)?;
        let committed = leaf.fields.payloads.iter().map(|(kind, hash)| (*kind, hash.to_string()));
        let shown = self.payloads.iter().map(|p| (p.kind.as_str(), p.commitment.clone()));
        if !committed.eq(shown) {
            wrong.push("the payloads are not those that the leaf commits to".to_owned());
        }
        wrong.extend(self.payloads.iter().filter_map(Payload::check));
        Some(leaf)
    }

    fn leaf(&self, wrong: &mut Vec<String>) -> Option<OpenedLeaf> {
        let bytes = unhex(&self.leaf);
        let parts =
            bytes.as_ref().and_then(|b| b.split_at_checked(b.len().checked_sub(PREVIOUS_BYTES)?));
        let read = parts.and_then(|(stored, previous)| Some((leaf_fields(stored)?, previous)));
        let (Some(bytes), Some((fields, previous))) = (&bytes, read) else {
            wrong.push("the leaf cannot be read".to_owned());
            return None;
        };
        let hash = leaf_hash(bytes);
        if hash.to_string() != self.hash {
            wrong.push("the leaf does not have the hash that is shown".to_owned());
        }
        Some(OpenedLeaf { fields, hash, previous: Hex(previous).to_string() })
    }
}

impl Payload {
    fn check(&self) -> Option<String> {
        let kind = &self.kind;
        match (self.state.as_str(), &self.salt, &self.json) {
            ("clear", Some(salt), Some(json)) => {
                let salt = unhex(salt).filter(|salt| salt.len() == 16);
                let commitment = salt.map(|salt| sha256(&[&salt, json.as_bytes()]));
                let holds = commitment.is_some_and(|found| found == self.commitment);
                (!holds).then(|| format!("the payload {kind} does not match its commitment"))
            }
            ("erased" | "expired", None, None) => None,
            _ => Some(format!("the payload {kind} is not opened as its state says")),
        }
    }
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Hex(&<[u8; 32]>::from(hasher.finalize())).to_string()
}

/// The bytes of lower-case or upper-case hexadecimal digits.
pub(super) fn unhex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}
