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
/// Bytes before a leaf's references, of which the third says how many there are.
const FIXED_BYTES: usize = 36;
/// A reference's role, and what stands for the name.
const REFERENCE_BYTES: usize = 17;

/// Names that a record has either as payloads of these kinds or in an earlier record, and the roles of their references.
pub(super) const NAMES: [(&str, u8); 3] = [("stream", 1), ("type", 2), ("actor", 3)];
/// The role of a reference to a subject.
pub(super) const SUBJECT: u8 = 4;

/// What stands for a name, with its role.
pub(super) type Reference = [u8; REFERENCE_BYTES];

/// What `/v1/records/{position}/opening` answers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Opening {
    pub(super) position: u64,
    pub(super) leaf: String,
    pub(super) hash: String,
    pub(super) payloads: Vec<Payload>,
    /// Where the names stand that the leaf only refers to.
    pub(super) names: Option<Vec<Name>>,
}

/// One payload of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    pub(super) kind: String,
    commitment: String,
    pub(super) state: String,
    salt: Option<String>,
    pub(super) json: Option<String>,
}

/// Where a name stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Name {
    pub(super) kind: String,
    pub(super) position: u64,
}

/// A leaf as it was opened.
pub(super) struct OpenedLeaf {
    pub(super) fields: LeafFields,
    pub(super) hash: Hash,
    pub(super) previous: String,
    pub(super) references: Vec<Reference>,
}

/// Which payloads must be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// Those that are still there.
    All,
    /// Whichever the holder shows.
    Some,
}

impl OpenedLeaf {
    /// The reference with a role.
    pub(super) fn reference(&self, role: u8) -> Option<&Reference> {
        self.references.iter().find(|reference| reference[0] == role)
    }
}

impl Opening {
    /// Reads the leaf; tells what does not hold of it, of the payloads, and of where the names are said to stand.
    pub(super) fn check(&self, open: Open, wrong: &mut Vec<String>) -> Option<OpenedLeaf> {
        let leaf = self.leaf(wrong)?;
        let committed = leaf.fields.payloads.iter().map(|(kind, hash)| (*kind, hash.to_string()));
        let shown = self.payloads.iter().map(|p| (p.kind.as_str(), p.commitment.clone()));
        if !committed.eq(shown) {
            wrong.push("the payloads are not those that the leaf commits to".to_owned());
        }
        wrong.extend(self.payloads.iter().filter_map(|payload| payload.check(open)));
        if let Some(names) = &self.names {
            let elsewhere = self.named_elsewhere(&leaf).map(|(kind, _)| kind);
            if !elsewhere.eq(names.iter().map(|name| name.kind.as_str())) {
                wrong.push("the names are not those that stand in earlier records".to_owned());
            }
            for Name { kind, position } in names.iter().filter(|n| n.position >= self.position) {
                wrong.push(format!(
                    "record {position}, which is to have its {kind}, is not earlier"
                ));
            }
        }
        Some(leaf)
    }

    /// The payload of a kind.
    pub(super) fn payload(&self, kind: &str) -> Option<&Payload> {
        self.payloads.iter().find(|payload| payload.kind == kind)
    }

    /// The kinds of names that the leaf only refers to.
    pub(super) fn named_elsewhere<'a>(
        &'a self,
        leaf: &'a OpenedLeaf,
    ) -> impl Iterator<Item = (&'static str, Reference)> {
        let named = NAMES.iter().filter(|(kind, _)| self.payload(kind).is_none());
        named.filter_map(|(kind, role)| Some((*kind, *leaf.reference(*role)?)))
    }

    fn leaf(&self, wrong: &mut Vec<String>) -> Option<OpenedLeaf> {
        let bytes = shown(&self.leaf);
        let parts =
            bytes.as_ref().and_then(|b| b.split_at_checked(b.len().checked_sub(PREVIOUS_BYTES)?));
        let read = parts.and_then(|(stored, previous)| {
            Some((leaf_fields(stored)?, references(stored)?, previous))
        });
        let (Some(bytes), Some((fields, references, previous))) = (&bytes, read) else {
            wrong.push("the leaf cannot be read".to_owned());
            return None;
        };
        let hash = leaf_hash(bytes);
        if hash.to_string() != self.hash {
            wrong.push("the leaf does not have the hash that is shown".to_owned());
        }
        Some(OpenedLeaf { fields, hash, previous: Hex(previous).to_string(), references })
    }
}

impl Payload {
    fn check(&self, open: Open) -> Option<String> {
        let kind = &self.kind;
        match (self.state.as_str(), &self.salt, &self.json) {
            ("clear", Some(salt), Some(json)) => {
                let salt = shown(salt).filter(|salt| salt.len() == 16);
                let commitment = salt.map(|salt| sha256(&[&salt, json.as_bytes()]));
                let holds = commitment.is_some_and(|found| found == self.commitment);
                (!holds).then(|| format!("the payload {kind} does not match its commitment"))
            }
            ("erased" | "expired", None, None) => None,
            ("clear", None, None) if open == Open::Some => None,
            _ => Some(format!("the payload {kind} is not opened as its state says")),
        }
    }
}

/// A leaf's references, in its order.
fn references(leaf: &[u8]) -> Option<Vec<Reference>> {
    let count = usize::from(*leaf.get(2)?);
    let all = leaf.get(FIXED_BYTES..FIXED_BYTES + count * REFERENCE_BYTES)?;
    Some(all.chunks_exact(REFERENCE_BYTES).map(|r| r.try_into().expect("17 bytes")).collect())
}

pub(super) fn sha256(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Hex(&<[u8; 32]>::from(hasher.finalize())).to_string()
}

/// The bytes of hexadecimal digits as they are shown: in lower case.
fn shown(hex: &str) -> Option<Vec<u8>> {
    unhex(hex).filter(|_| !hex.bytes().any(|b| b.is_ascii_uppercase()))
}

/// The bytes of lower-case or upper-case hexadecimal digits.
pub(super) fn unhex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}
