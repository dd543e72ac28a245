//! How far a backup or a restore has come.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far a backup or a restore has come, for whoever watches it, and the way to break it off.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    files_total: AtomicU64,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    bytes_copied: AtomicU64,
    cancelled: AtomicBool,
}

/// The figures of a [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressFigures {
    /// Files that are done.
    pub files: u64,
    /// Files in all.
    pub files_total: u64,
    /// Bytes that are done: copied, or found to be there.
    pub bytes: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Bytes that were copied.
    pub bytes_copied: u64,
}

impl Progress {
    /// How far it is now.
    pub fn figures(&self) -> ProgressFigures {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ProgressFigures {
            files: read(&self.files),
            files_total: read(&self.files_total),
            bytes: read(&self.bytes),
            bytes_total: read(&self.bytes_total),
            bytes_copied: read(&self.bytes_copied),
        }
    }

    /// Asks for it to be broken off.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked for it to be broken off.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self, files: usize, bytes: u64) {
        self.files_total.store(files as u64, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn copied(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes_copied.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn kept(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn file_done(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }
}
