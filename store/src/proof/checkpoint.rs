//! Checkpoints: the size and root of a log, as a note's text (C2SP tlog-checkpoint).

use std::fmt;

use super::{
    KeyKind, LogKey, Note, NoteError, VerifierKey, hash_from_base64, key::is_name, number,
    to_base64,
};
use crate::words::Hash;

/// Why a note is no checkpoint, or not this log's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note does not hold.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The text is not origin, size and root on a line each.
    #[error("a checkpoint's text is origin, size and root on a line each")]
    Form,
    /// It is another log's.
    #[error("the checkpoint is of {found}, not of {expected}")]
    Origin {
        /// The key's name.
        expected: String,
        /// What the checkpoint says.
        found: String,
    },
}

/// What a log commits to: its first `size` records have this root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Names the log, and nothing else in the world.
    pub origin: String,
    /// Records.
    pub size: u64,
    /// The Merkle root over them (RFC 6962).
    pub root: Hash,
}

impl Checkpoint {
    /// Reads a note's text. Extension lines are allowed, and ignored.
    ///
    /// # Errors
    /// [`CheckpointError::Form`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Form)?.split('\n');
        let mut line = || lines.next().filter(|l| !l.is_empty()).ok_or(CheckpointError::Form);
        let origin = line()?.to_owned();
        let size = number(line()?).ok_or(CheckpointError::Form)?;
        let root = hash_from_base64(line()?).ok_or(CheckpointError::Form)?;
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Form);
        }
        Ok(Self { origin, size, root })
    }

    /// Signs it.
    ///
    /// # Panics
    /// When the origin is not the key's name: that would be another log's checkpoint.
    pub fn sign(&self, key: &LogKey) -> Note {
        assert!(self.origin == key.verifier().name(), "a log signs for its own origin");
        let text = self.to_string();
        let signature = key.sign(&text);
        Note::new(text, signature)
    }

    /// Reads the checkpoint of a note that this log's key signed, as its name and origin alike.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn verified(note: &Note, log: &VerifierKey) -> Result<Self, CheckpointError> {
        // A cosigner under the log's name did not write the log.
        note.verify(Some(log).filter(|key| key.kind() == KeyKind::Log))?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin == log.name() {
            Ok(checkpoint)
        } else {
            let expected = log.name().to_owned();
            Err(CheckpointError::Origin { expected, found: checkpoint.origin })
        }
    }

    /// Whether a text can be an origin: one that is also a key's name.
    pub fn is_origin(text: &str) -> bool {
        is_name(text)
    }
}

/// The text that is signed.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, size, root } = self;
        writeln!(f, "{origin}\n{size}\n{}", to_base64(&root.0))
    }
}
