//! Failures of the outside world: files, damage.

use std::path::PathBuf;

use crate::words::Position;

/// An error with all that caused it, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Bytes on disk that are not what was written there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at byte {offset}: {what}")]
pub struct Damage {
    /// The file, relative to the data folder.
    pub file: String,
    /// Where, in bytes.
    pub offset: u64,
    /// What does not hold.
    pub what: &'static str,
}

impl Damage {
    /// Whether the log can make it anew.
    pub(crate) fn is_derived(&self) -> bool {
        is_derived(&self.file)
    }
}

/// Whether the log can make the file anew.
pub(crate) fn is_derived(file: &str) -> bool {
    let folder = file.split('/').next();
    [crate::index::derived::FOLDER, crate::tiles::FOLDER].map(Some).contains(&folder)
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes on disk are damaged; they are not served.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The file system failed.
    #[error("reading {file} failed")]
    Io {
        /// The file, relative to the data folder.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A cursor that this log cannot have issued.
    #[error("the cursor is not one of this log")]
    Diverged {
        /// The position it names.
        position: Position,
    },
    /// The stream does not exist.
    #[error("the stream does not exist")]
    StreamUnknown,
    /// The stream was deleted.
    #[error("the stream is deleted")]
    StreamDeleted,
    /// There is no record at this position.
    #[error("there is no record at this position")]
    NoRecord,
}

impl ReadError {
    /// Somebody else reads the same, and this reading must not wait.
    pub(crate) fn would_wait() -> Self {
        Self::Io { file: String::new(), source: std::io::ErrorKind::WouldBlock.into() }
    }

    /// Whether it was only that the reading must not wait.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// Why a data folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another process", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// It is being restored, or a restore of it did not come to its end.
    #[error("{} was not restored to its end: delete it and restore again", folder.display())]
    Restoring {
        /// The folder.
        folder: PathBuf,
    },
    /// The file system failed.
    #[error("{action} {} failed", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The folder holds another format version.
    #[error("the data folder has format {found}; this version reads format {supported}")]
    Format {
        /// Found in the folder.
        found: u32,
        /// What this version reads.
        supported: u32,
    },
    /// Its logs cannot be signed.
    #[error("the logs cannot be signed")]
    Signing(#[from] crate::SigningError),
    /// Bytes that everything depends on are damaged (no tenant can be served).
    #[error(transparent)]
    Damaged(#[from] Damage),
}
