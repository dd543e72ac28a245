//! What a witness is asked and what it answers, without its memory (C2SP tlog-witness, `add-checkpoint`).

use std::fmt;

use super::{
    Checkpoint, HASHES_MAX, NOTE_BYTES_MAX, Note, ProofError, VerifierKey, empty_root,
    hash_from_base64, number, to_base64, verify_consistency,
};
use crate::words::Hash;

/// Longest submission that is read, in bytes: a note, and a line of at most 45 bytes for each hash before it.
pub const SUBMISSION_BYTES_MAX: usize = NOTE_BYTES_MAX + 48 * (HASHES_MAX + 2);

/// A checkpoint that a witness is to cosign: it follows from that of `old` records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    old: u64,
    proof: Vec<Hash>,
    note: Note,
    checkpoint: Checkpoint,
}

/// The bytes are no submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not `old` and a size, a proof's hashes, an empty line and a checkpoint")]
pub struct NoSubmission;

/// Why a witness does not cosign. The order is the one in which it asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not know the log.
    #[error("no log of this origin is known")]
    Origin,
    /// None of the log's keys signed, or a signature of theirs does not hold.
    #[error("the checkpoint is not signed by this log")]
    Signature,
    /// The log would shrink.
    #[error("the old size is above the checkpoint's")]
    Size,
    /// It saw another size last.
    #[error("the last checkpoint that was seen is of size {0}")]
    Stale(u64),
    /// It saw another root of this size: the log has two histories.
    #[error("another root was seen at this size")]
    Root(u64),
    /// The checkpoint does not follow from the one that was seen.
    #[error("the checkpoint does not follow from the one before: {0}")]
    Proof(ProofError),
}

impl Submission {
    /// `checkpoint` is a log's note; `proof` shows that it begins with the checkpoint of `old` records.
    ///
    /// # Errors
    /// [`NoSubmission`]: the note is no checkpoint, or the proof too long.
    pub fn new(old: u64, proof: Vec<Hash>, note: Note) -> Result<Self, NoSubmission> {
        let checkpoint = Checkpoint::parse(note.text()).map_err(|_| NoSubmission)?;
        if proof.len() > HASHES_MAX {
            return Err(NoSubmission);
        }
        Ok(Self { old, proof, note, checkpoint })
    }

    /// Reads a request's body, to the byte.
    ///
    /// # Errors
    /// [`NoSubmission`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoSubmission> {
        let mut rest = bytes;
        let mut line = || {
            let end = rest.iter().position(|b| *b == b'\n').ok_or(NoSubmission)?;
            let (line, behind) = rest.split_at(end);
            rest = &behind[1..];
            std::str::from_utf8(line).map_err(|_| NoSubmission)
        };
        let old = line()?.strip_prefix("old ").and_then(number).ok_or(NoSubmission)?;
        let mut proof = Vec::new();
        loop {
            let line = line()?;
            if line.is_empty() {
                break;
            }
            if proof.len() == HASHES_MAX {
                return Err(NoSubmission);
            }
            proof.push(hash_from_base64(line).ok_or(NoSubmission)?);
        }
        Self::new(old, proof, Note::parse(rest).map_err(|_| NoSubmission)?)
    }

    /// The log's.
    pub fn origin(&self) -> &str {
        &self.checkpoint.origin
    }

    /// The checkpoint, signed.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Whether a witness that trusts `keys` for this origin, and saw `seen` of it last, may cosign; the checkpoint then is what
    /// it saw last.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn judge(
        &self,
        keys: &[VerifierKey],
        seen: Option<&Checkpoint>,
    ) -> Result<&Checkpoint, Refused> {
        let mine: Vec<_> = keys.iter().filter(|key| key.name() == self.origin()).collect();
        if mine.is_empty() {
            return Err(Refused::Origin);
        }
        self.note.verify(mine).map_err(|_| Refused::Signature)?;
        let Checkpoint { size, root, .. } = self.checkpoint;
        if self.old > size {
            return Err(Refused::Size);
        }
        let (seen_size, seen_root) = seen.map_or((0, empty_root()), |seen| (seen.size, seen.root));
        if self.old != seen_size {
            return Err(Refused::Stale(seen_size));
        }
        if size == seen_size && root != seen_root {
            return Err(Refused::Root(seen_size));
        }
        verify_consistency((seen_size, seen_root), (size, root), &self.proof)
            .map_err(Refused::Proof)?;
        Ok(&self.checkpoint)
    }
}

/// The body of the request, as it is read.
impl fmt::Display for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", to_base64(&hash.0)))?;
        write!(f, "\n{}", self.note)
    }
}
