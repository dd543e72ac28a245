//! A data folder that stays as it is. Writes to derived files are kept in memory, where a database needs to mend
//! itself before it can be read; all others (what recovery would mend) go nowhere.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Disk, DiskFile, PAGE_BYTES, Pace, RealDisk, ZerosError};
use crate::index::derived::FOLDER;

/// See the module.
#[derive(Debug)]
pub(crate) struct ReadOnlyDisk {
    folder: PathBuf,
    real: RealDisk,
}

#[derive(Debug)]
struct ReadOnlyFile {
    file: File,
    /// `None` where writes go nowhere.
    changed: Option<Mutex<Changed>>,
}

#[derive(Debug)]
struct Changed {
    length: u64,
    pages: HashMap<u64, Vec<u8>>,
}

impl ReadOnlyDisk {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), real: RealDisk::new(folder) }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the data folder is only read")
}

impl Disk for ReadOnlyDisk {
    fn create(&self, _path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Err(refused())
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::open(self.folder.join(path))?;
        let length = file.metadata()?.len();
        let keeps = path.starts_with(FOLDER);
        let changed = keeps.then(|| Mutex::new(Changed { length, pages: HashMap::new() }));
        Ok(Arc::new(ReadOnlyFile { file, changed }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.real.exists(path)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.real.list(folder)
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(refused())
    }

    fn remove(&self, _path: &str) -> io::Result<()> {
        Err(refused())
    }

    fn make_folder(&self, _folder: &str) -> io::Result<()> {
        Err(refused())
    }

    fn sync_folder(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn works_beside(&self) -> bool {
        false
    }

    fn ahead(&self) -> Option<Pace> {
        None
    }

    fn fatal(&self) {}
}

fn read_all(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

/// The pages that these bytes touch: page, where in it, where in the bytes, how many.
fn pages(at: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at + done as u64;
        let inside = (here % PAGE_BYTES) as usize;
        let n = (PAGE_BYTES as usize - inside).min(length - done);
        let next = (here / PAGE_BYTES, inside, done, n);
        done += n;
        (n > 0).then_some(next)
    })
}

impl DiskFile for ReadOnlyFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let Some(changed) = &self.changed else { return read_all(&self.file, bytes, at) };
        let changed = changed.lock();
        let length = changed.length.saturating_sub(at).min(bytes.len() as u64) as usize;
        let bytes = &mut bytes[..length];
        let read = read_all(&self.file, bytes, at)?;
        bytes[read..].fill(0);
        for (page, inside, from, n) in pages(at, length) {
            if let Some(content) = changed.pages.get(&page) {
                bytes[from..from + n].copy_from_slice(&content[inside..inside + n]);
            }
        }
        Ok(length)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let Some(changed) = &self.changed else { return Ok(()) };
        let mut changed = changed.lock();
        changed.length = changed.length.max(at + bytes.len() as u64);
        for (page, inside, from, n) in pages(at, bytes.len()) {
            let content = match changed.pages.entry(page) {
                Entry::Occupied(kept) => kept.into_mut(),
                Entry::Vacant(empty) => {
                    let mut content = vec![0; PAGE_BYTES as usize];
                    read_all(&self.file, &mut content, page * PAGE_BYTES)?;
                    empty.insert(content)
                }
            };
            content[inside..inside + n].copy_from_slice(&bytes[from..from + n]);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        match &self.changed {
            Some(changed) => Ok(changed.lock().length),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        if let Some(changed) = &self.changed {
            changed.lock().length = length;
        }
        Ok(())
    }

    fn reserve(&self, _length: u64) -> io::Result<()> {
        Err(refused())
    }

    fn write_zeros(&self, _from: u64, _to: u64) -> Result<(), ZerosError> {
        Err(refused().into())
    }
}
