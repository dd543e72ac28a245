//! Receipts: that a record stands in a log, for whoever knows the log's key alone (C2SP tlog-proof).

use std::fmt;

use super::{
    Checkpoint, CheckpointError, HASHES_MAX, Note, NoteError, ProofError, VerifierKey, from_base64,
    hash_from_base64, number, to_base64, verify_inclusion,
};
use crate::words::Hash;

/// Longest extra data that is read, in bytes.
pub const EXTRA_BYTES_MAX: usize = 64 << 10;
const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// Why a receipt is not read, or not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// A line is not what must stand there.
    #[error("line {line} of the receipt is not {expected}")]
    Line {
        /// From 1.
        line: usize,
        /// What must stand there.
        expected: &'static str,
    },
    /// The extra data or the proof is too long.
    #[error("the receipt is longer than any can be")]
    TooLong,
    /// The checkpoint is none, or not signed by this log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A witness's cosignature does not hold.
    #[error(transparent)]
    Cosignature(NoteError),
    /// The hashes do not lead from the record to the checkpoint.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// A record's place in a log, the way from its leaf hash to a root, and the checkpoint of that root. Reading one says nothing
/// about whether it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The record's position.
    pub index: u64,
    /// From the leaf's sibling to the root's child.
    pub hashes: Vec<Hash>,
    /// Signed by the log, with its cosignatures.
    pub checkpoint: Note,
    /// Whatever an application put there; nobody signed it.
    pub extra: Option<Vec<u8>>,
}

/// What a receipt shows, once it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The known witnesses that cosigned it, and when, in seconds since 1970.
    pub cosigned: Vec<(String, u64)>,
}

impl Receipt {
    /// Reads a `.tlog-proof`, to the byte.
    ///
    /// # Errors
    /// [`ReceiptError::Line`], [`ReceiptError::TooLong`], [`ReceiptError::Checkpoint`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let mut lines = Lines { rest: bytes, line: 0 };
        if lines.next("text")? != FIRST_LINE {
            return Err(lines.wrong(FIRST_LINE));
        }
        let mut line = lines.next("`index` and a number")?;
        let mut extra = None;
        if let Some(encoded) = line.strip_prefix("extra ") {
            if encoded.len() > EXTRA_BYTES_MAX / 3 * 4 + 4 {
                return Err(ReceiptError::TooLong);
            }
            extra = Some(from_base64(encoded).ok_or(lines.wrong("`extra` and base64"))?);
            line = lines.next("`index` and a number")?;
        }
        let index = line.strip_prefix("index ").and_then(number);
        let index = index.ok_or(lines.wrong("`index` and a number"))?;
        let mut hashes = Vec::new();
        loop {
            let line = lines.next("a hash in base64, or empty")?;
            if line.is_empty() {
                break;
            }
            if hashes.len() == HASHES_MAX {
                return Err(ReceiptError::TooLong);
            }
            hashes.push(hash_from_base64(line).ok_or(lines.wrong("a hash in base64, or empty"))?);
        }
        let checkpoint = Note::parse(lines.rest).map_err(CheckpointError::from)?;
        Ok(Self { index, hashes, checkpoint, extra })
    }

    /// Checks that the record with this leaf hash stands in the log of this key, and which of `witnesses` saw it there.
    ///
    /// # Errors
    /// [`ReceiptError::Checkpoint`], [`ReceiptError::Cosignature`], [`ReceiptError::Proof`].
    pub fn verify(
        &self,
        leaf: Hash,
        log: &VerifierKey,
        witnesses: &[VerifierKey],
    ) -> Result<Covered, ReceiptError> {
        let covered = self.verify_checkpoint(log, witnesses)?;
        let Checkpoint { size, root, .. } = covered.checkpoint;
        verify_inclusion(leaf, self.index, size, root, &self.hashes)?;
        Ok(covered)
    }

    /// Checks the signatures on the checkpoint alone.
    ///
    /// # Errors
    /// [`ReceiptError::Checkpoint`], [`ReceiptError::Cosignature`].
    pub fn verify_checkpoint(
        &self,
        log: &VerifierKey,
        witnesses: &[VerifierKey],
    ) -> Result<Covered, ReceiptError> {
        let checkpoint = Checkpoint::verified(&self.checkpoint, log)?;
        let cosigned = match self.checkpoint.verify(witnesses) {
            Ok(signed) => signed,
            Err(NoteError::Unknown) => Vec::new(),
            Err(error) => return Err(ReceiptError::Cosignature(error)),
        };
        let times = cosigned.iter().filter_map(|s| Some((s.key.name().to_owned(), s.time_s?)));
        Ok(Covered { checkpoint, cosigned: times.collect() })
    }
}

/// The `.tlog-proof`, as it is read.
impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", to_base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|h| writeln!(f, "{}", to_base64(&h.0)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Lines in front of the checkpoint.
struct Lines<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self, expected: &'static str) -> Result<&'a str, ReceiptError> {
        self.line += 1;
        let end = self.rest.iter().position(|b| *b == b'\n').ok_or(self.wrong(expected))?;
        let (line, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        std::str::from_utf8(line).map_err(|_| self.wrong(expected))
    }

    fn wrong(&self, expected: &'static str) -> ReceiptError {
        ReceiptError::Line { line: self.line, expected }
    }
}
