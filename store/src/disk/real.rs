//! The operating system's files.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, OFlags, fallocate, fdatasync, fsync};

use super::{Disk, DiskFile, PAGE_BYTES};

/// Zeros are written in pieces of this many bytes.
const ZEROS_BYTES: usize = 1 << 20;

/// A folder of the file system.
#[derive(Debug)]
pub(crate) struct RealDisk {
    folder: PathBuf,
}

#[derive(Debug)]
struct RealFile(File);

impl RealDisk {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn file(&self, path: &str, options: &OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(options.open(self.folder.join(path))?)))
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path, OpenOptions::new().read(true).write(true).create(true).truncate(true))
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
        std::fs::create_dir_all(self.folder.join(folder))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        Ok(fsync(File::open(self.folder.join(folder))?)?)
    }

    fn works_beside(&self) -> bool {
        true
    }

    fn fatal(&self) {
        // No core dump: it would hold what people wrote.
        std::process::exit(70);
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < bytes.len() {
            match self.0.read_at(&mut bytes[read..], at + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.0)?)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        Ok(fallocate(&self.0, FallocateFlags::empty(), 0, length)?)
    }

    // Past the page cache: a sync of the log that comes meanwhile must not have to write these zeros. By the
    // descriptor, because the file may have another name by now.
    fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", self.0.as_raw_fd()))?;
        let zeros = vec![0_u8; ZEROS_BYTES + PAGE_BYTES as usize];
        let aligned = zeros.as_ptr().align_offset(PAGE_BYTES as usize);
        let zeros = &zeros[aligned..aligned + ZEROS_BYTES];
        let mut at = from;
        while at < to {
            let n = (to - at).min(ZEROS_BYTES as u64);
            direct.write_all_at(&zeros[..n as usize], at)?;
            at += n;
        }
        Ok(fdatasync(&direct)?)
    }
}
