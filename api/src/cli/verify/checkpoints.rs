//! Signed checkpoints, held against the records that a server shows: the one that it shows, and one from before.

use kimberlite_store::{
    proof::{Checkpoint, Note, Tree, VerifierKey},
    words::Hash,
};

use super::{Found, Told};

/// What a finding means that is told of a checkpoint.
fn found(kind: &'static str, place: &str, what: String) -> Found {
    let (place, tenants) = (place.to_owned(), Vec::new());
    Found { kind, place, offset: None, what, tenants, derived: false }
}

/// Checkpoints that are to be compared, and the tree that grows with the records.
pub(super) struct Checkpoints {
    /// Each with where it comes from.
    wanted: Vec<(String, Checkpoint)>,
    /// `None` behind a record without a leaf hash.
    tree: Option<Tree>,
    compared: u64,
}

impl Checkpoints {
    pub(super) fn new() -> Self {
        Self { wanted: Vec::new(), tree: Some(Tree::default()), compared: 0 }
    }

    /// Takes a checkpoint that one of `keys` signed; tells why it does not take one.
    pub(super) fn add(
        &mut self,
        place: &str,
        note: &[u8],
        keys: &[VerifierKey],
        told: &mut Told,
    ) -> Option<u64> {
        let read = Note::parse(note).map_err(|e| e.to_string()).and_then(|note| {
            let mut verified = keys.iter().map(|key| Checkpoint::verified(&note, key));
            let first = verified.next().expect("nobody asks without a key");
            first.or_else(|error| verified.find_map(Result::ok).ok_or(error.to_string()))
        });
        match read {
            Ok(checkpoint) => {
                let size = checkpoint.size;
                self.wanted.push((place.to_owned(), checkpoint));
                Some(size)
            }
            Err(what) => {
                told.add(found("damage", place, what));
                None
            }
        }
    }

    /// Takes the next record, by its leaf hash.
    pub(super) fn push(&mut self, hash: Option<Hash>, told: &mut Told) {
        self.compare(told);
        match (&mut self.tree, hash) {
            (Some(tree), Some(hash)) => tree.push(hash),
            _ => self.tree = None,
        }
    }

    /// Compares those that are of as many records as were taken.
    fn compare(&mut self, told: &mut Told) {
        let Some(tree) = &self.tree else { return };
        let due = |(_, checkpoint): &mut (String, Checkpoint)| checkpoint.size == tree.size();
        for (place, checkpoint) in self.wanted.extract_if(.., due) {
            self.compared += 1;
            if checkpoint.root != tree.root() {
                let what = format!("the first {} records are not those of it", checkpoint.size);
                told.add(found("damage", &place, what));
            }
        }
    }

    /// Says which checkpoints go beyond the `count` records that are there; returns how many were compared.
    pub(super) fn end(mut self, count: u64, told: &mut Told) -> u64 {
        self.compare(told);
        for (place, Checkpoint { size, .. }) in self.wanted {
            if size > count {
                let what = format!("it is of {size} records, of which {count} are there");
                told.add(found("damage", &place, what));
            } else {
                let what = "not compared: a record before its end cannot be read".to_owned();
                told.add(found("note", &place, what));
            }
        }
        self.compared
    }
}
