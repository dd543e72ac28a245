//! The one seam between the store and the disk: everything that is read or written goes through [`Disk`].
//!
//! Paths are relative to the data folder, or to the one of the signing keys. Names (made, renamed, removed) are durable
//! after [`Disk::sync_folder`], contents after [`DiskFile::sync`].

mod read_only;
mod real;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod simulated;

use std::{cell::Cell, fmt::Debug, io, sync::Arc};

pub(crate) use read_only::ReadOnlyDisk;
pub(crate) use real::RealDisk;

thread_local! {
    static WAITS: Cell<bool> = const { Cell::new(true) };
}

/// Runs a reading that must not wait for the device: a file fails with [`io::ErrorKind::WouldBlock`] instead.
pub(crate) fn without_waiting<T>(read: impl FnOnce() -> T) -> T {
    during(false, read)
}

/// Runs something in such a reading that may wait all the same.
pub(crate) fn waiting<T>(read: impl FnOnce() -> T) -> T {
    during(true, read)
}

fn during<T>(waits: bool, read: impl FnOnce() -> T) -> T {
    struct Before(bool);

    impl Drop for Before {
        fn drop(&mut self) {
            WAITS.set(self.0);
        }
    }

    let _before = Before(WAITS.replace(waits));
    read()
}

/// Whether this thread may wait for the device.
pub(crate) fn may_wait() -> bool {
    WAITS.get()
}

/// A data folder, or one of keys.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Makes a file, or empties the one that is there.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Whether there is such a file.
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// Names of the files in a folder, sorted.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Renames a file over whatever has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes a folder where it is absent.
    fn make_folder(&self, folder: &str) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
    /// Whether room ahead of the log and checkpoints may be prepared by threads beside the log's owner.
    fn works_beside(&self) -> bool;
    /// How room is prepared ahead of the log, if it is.
    fn ahead(&self) -> Option<Pace>;
    /// Ends the process: what the disk holds is unknown now, and only recovery can tell. The caller does
    /// nothing further, should this come back.
    fn fatal(&self);
}

/// An open file.
pub(crate) trait DiskFile: Debug + Send + Sync {
    /// Reads what is there at `at`, less than `bytes` only at the end of the file. See [`without_waiting`].
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `at`.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes the content durable, and the length where it has changed.
    fn sync(&self) -> io::Result<()>;
    /// The first place at or behind `at` that may hold anything but zeros; `None` where there is none.
    fn data_from(&self, at: u64) -> io::Result<Option<u64>> {
        Ok(Some(at))
    }
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Cuts the file, or lengthens it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Reserves room for `length` bytes, all zeros.
    fn reserve(&self, length: u64) -> io::Result<()>;
    /// Writes zeros, durably. `from` and `to` are multiples of [`PAGE_BYTES`], and nothing else is written
    /// between them meanwhile.
    fn write_zeros(&self, from: u64, to: u64) -> Result<(), ZerosError>;
}

/// Why zeros are not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZerosError {
    /// Nothing was synced, so nothing else is in doubt.
    #[error("zeros were not written")]
    Unwritten(#[from] io::Error),
    /// What the disk holds is unknown.
    #[error("zeros were not synced")]
    Unsynced(#[source] io::Error),
}

/// How far ahead room is prepared, in which steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Zeros are written where fewer bytes than this are ready.
    pub(crate) ahead: u64,
    /// Bytes written at once, a multiple of [`PAGE_BYTES`].
    pub(crate) step: u64,
}

/// What the operating system reads and writes at once: writing less of a page may read it first.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// From this size on, whole pages are written past the page cache: making room in it costs more than writing.
/// Tests are content with less, so that faults meet such writes too.
pub(crate) const DIRECT_BYTES_MIN: usize = if cfg!(test) { 8 << 10 } else { 128 << 10 };

impl dyn DiskFile + '_ {
    /// Reads all of `bytes` at `at`, or fails where the file ends inside.
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        if self.read_at(bytes, at)? == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
