//! The operating system's files.

use std::{
    cell::RefCell,
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fdatasync, fsync, seek},
    io::{Errno, ReadWriteFlags, preadv2},
};

use super::{DIRECT_BYTES_MIN, Disk, DiskFile, PAGE_BYTES, Pace, ZerosError, may_wait};

/// What goes past the page cache is written in pieces of this many bytes.
const PIECE_BYTES: usize = 1 << 20;

/// A folder of the file system.
#[derive(Debug)]
pub(crate) struct RealDisk {
    folder: PathBuf,
    /// Nobody but the owner reads what is made here.
    private: bool,
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// The same file past the page cache; `None` where that cannot be.
    direct: OnceLock<Option<File>>,
}

impl RealDisk {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), private: false }
    }

    /// One for secrets.
    pub(crate) fn private(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), private: true }
    }

    fn file(&self, path: &str, options: &OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let file = options.open(self.folder.join(path))?;
        Ok(Arc::new(RealFile { file, direct: OnceLock::new() }))
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mode = if self.private { 0o600 } else { 0o666 };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(mode);
        self.file(path, &options)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path, OpenOptions::new().read(true).write(true))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.folder.join(path).try_exists()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.folder.join(folder))? {
            // Names that are not UTF-8 are none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(path))
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        let mode = if self.private { 0o700 } else { 0o777 };
        DirBuilder::new().recursive(true).mode(mode).create(self.folder.join(folder))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        Ok(fsync(File::open(self.folder.join(folder))?)?)
    }

    fn works_beside(&self) -> bool {
        true
    }

    fn ahead(&self) -> Option<Pace> {
        Some(Pace { ahead: 16 << 20, step: 4 << 20 })
    }

    fn fatal(&self) {
        // No core dump: it would hold what people wrote.
        std::process::exit(70);
    }
}

impl RealFile {
    /// By the descriptor, because the file may have another name by now.
    fn open_direct(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// What the operating system has in memory; a file system that cannot tell might wait.
    fn read_cached(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut parts = [io::IoSliceMut::new(bytes)];
        preadv2(&self.file, &mut parts, at, ReadWriteFlags::NOWAIT).map_err(|errno| match errno {
            Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS => io::ErrorKind::WouldBlock.into(),
            other => other.into(),
        })
    }
}

/// Memory that begins at a page, as the disk wants it.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Self {
        let bytes = vec![0_u8; PIECE_BYTES + PAGE_BYTES as usize];
        let start = bytes.as_ptr().align_offset(PAGE_BYTES as usize);
        Self { bytes, start }
    }

    fn piece(&self, length: usize) -> &[u8] {
        &self.bytes[self.start..self.start + length]
    }

    fn fill(&mut self, from: &[u8]) -> &[u8] {
        self.bytes[self.start..self.start + from.len()].copy_from_slice(from);
        self.piece(from.len())
    }
}

thread_local! {
    static STAGE: RefCell<Option<Aligned>> = const { RefCell::new(None) };
}

fn write_direct(direct: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    STAGE.with_borrow_mut(|stage| {
        let stage = stage.get_or_insert_with(Aligned::new);
        let mut at = at;
        for piece in bytes.chunks(PIECE_BYTES) {
            direct.write_all_at(stage.fill(piece), at)?;
            at += piece.len() as u64;
        }
        Ok(())
    })
}

impl DiskFile for RealFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let (mut read, waits) = (0, may_wait());
        while read < bytes.len() {
            let (rest, from) = (&mut bytes[read..], at + read as u64);
            let result =
                if waits { self.file.read_at(rest, from) } else { self.read_cached(rest, from) };
            match result {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let page = PAGE_BYTES as usize;
        let fits = at.is_multiple_of(PAGE_BYTES) && bytes.len().is_multiple_of(page);
        if bytes.len() >= DIRECT_BYTES_MIN
            && fits
            && let Some(direct) = self.direct.get_or_init(|| self.open_direct().ok())
        {
            if bytes.as_ptr().align_offset(page) == 0 {
                return direct.write_all_at(bytes, at);
            }
            return write_direct(direct, bytes, at);
        }
        self.file.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn data_from(&self, at: u64) -> io::Result<Option<u64>> {
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            // A file system that does not know its holes.
            Err(Errno::INVAL) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        Ok(fallocate(&self.file, FallocateFlags::empty(), 0, length)?)
    }

    // Past the page cache: a sync of the log that comes meanwhile must not have to write these zeros.
    // By a descriptor of its own: of a write that failed each descriptor is told once, and the log's owner must be.
    fn write_zeros(&self, from: u64, to: u64) -> Result<(), ZerosError> {
        let zeros = Aligned::new();
        let direct = self.open_direct()?;
        let mut at = from;
        while at < to {
            let n = (to - at).min(PIECE_BYTES as u64) as usize;
            direct.write_all_at(zeros.piece(n), at)?;
            at += n as u64;
        }
        fdatasync(&direct).map_err(|errno| ZerosError::Unsynced(errno.into()))
    }
}
