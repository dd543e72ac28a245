//! Signed checkpoints, held against the records that a server shows, or that a folder has.

use kimberlite_store::{
    proof::{Checkpoint, Note, NoteError, Tree, VerifierKey},
    words::Hash,
};

use super::{Found, Told};

/// What a finding means that is told of a checkpoint.
pub(super) fn found(kind: &'static str, place: &str, what: String) -> Found {
    let (place, tenants) = (place.to_owned(), Vec::new());
    Found { kind, place, offset: None, what, tenants, derived: false }
}

/// Whose signatures count.
pub(super) struct Signers<'a> {
    /// The log's keys, of which one must have signed.
    pub(super) keys: &'a [VerifierKey],
    /// Its witnesses, whose signatures must hold where they are.
    pub(super) witnesses: &'a [VerifierKey],
    /// So many of them must have signed.
    pub(super) quorum: usize,
}

impl Signers<'_> {
    /// The checkpoint in a signed note.
    fn read(&self, note: &[u8]) -> Result<Checkpoint, String> {
        let note = Note::parse(note).map_err(|error| error.to_string())?;
        let mut verified = self.keys.iter().map(|key| Checkpoint::verified(&note, key));
        let first = verified.next().expect("nobody asks without a key");
        let checkpoint =
            first.or_else(|error| verified.find_map(Result::ok).ok_or(error.to_string()))?;
        let cosigned = match note.verify(self.witnesses) {
            Ok(signed) => signed.len(),
            Err(NoteError::Unknown) => 0,
            Err(error) => return Err(format!("cosignature: {error}")),
        };
        if cosigned < self.quorum {
            let (of, quorum) = (self.witnesses.len(), self.quorum);
            return Err(format!("{cosigned} of {of} witnesses cosigned, not {quorum}"));
        }
        Ok(checkpoint)
    }
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

    /// Takes a checkpoint that was signed as it must be; tells why it does not take one.
    pub(super) fn add(
        &mut self,
        place: &str,
        note: &[u8],
        signers: &Signers<'_>,
        told: &mut Told,
    ) -> Option<u64> {
        match signers.read(note) {
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
