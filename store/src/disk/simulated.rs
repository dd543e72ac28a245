//! A disk in memory that fails when told to, and that forgets what was not synced.
//!
//! What a crash leaves is made of units: each 512-byte sector of each write, each change of a length, and each
//! change of a name since the last sync of its file or folder. Sectors and lengths survive or not, each by itself;
//! names survive in order.

#[cfg(test)]
mod watched;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{Disk, DiskFile, Pace, ZerosError, may_wait};
#[cfg(feature = "sim")]
use crate::index::derived::DATABASE;

const SECTOR: usize = 512;

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The device reports an error and nothing was done. After a failed sync what was to be synced is lost.
    Error,
    /// Every other sector of a write is written, then the device reports an error.
    Torn,
    /// A bit of each sector of a write is another one, and nobody is told. Anything else fails.
    Flip,
    /// There is no room, once.
    Full,
    /// There is no room from now on, until [`SimulatedDisk::make_room`].
    #[cfg(test)]
    Filled,
    /// The power goes: neither this operation nor any later one is done.
    Power,
}

/// What a sync is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Syncs {
    #[default]
    Honest,
    /// One of the log's files says that it is done, and is not.
    #[cfg(feature = "sim")]
    Forgotten,
    /// One that fails says that it did not.
    #[cfg(feature = "sim")]
    Hidden,
}

/// How a read fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFault {
    /// The device reports an error.
    Error,
    /// A bit of what is read is another one, and nobody is told.
    #[cfg(feature = "sim")]
    Turned,
    /// What lies elsewhere in the file is read, and nobody is told.
    #[cfg(feature = "sim")]
    Astray,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    name_changes: Vec<NameChange>,
    /// Operations that change something, so far.
    operations: u64,
    reads: u64,
    #[cfg(test)]
    read_bytes: u64,
    fault: Option<(u64, Fault)>,
    read_fault: Option<(u64, ReadFault)>,
    /// Reads that got a bit that had turned, and what lies elsewhere.
    #[cfg(feature = "sim")]
    misreads: [u64; 2],
    off: bool,
    syncs: Syncs,
    /// Names that a sync failed for are none that a later one has to do anything for.
    forgets_names: bool,
    /// Whatever is read has to be waited for.
    cold: bool,
    /// Readings that did not wait for it.
    refused: u64,
    /// Bytes that can still be written, as on a file system that copies what is overwritten; all there are where that
    /// is `None`. What is removed leaves its room.
    room: Option<u64>,
    /// How room is prepared ahead of the log.
    ahead: Option<Pace>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
    #[cfg(test)]
    writes: u64,
    #[cfg(test)]
    syncs: u64,
}

#[derive(Clone, Debug)]
enum Change {
    /// Within one sector.
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Made(String, usize),
    Renamed(String, String),
    Removed(String),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct SimulatedFile {
    disk: Weak<Mutex<State>>,
    inode: usize,
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, written) => {
                let end = at + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(written);
            }
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Renamed(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Removed(name) => {
                names.remove(name);
            }
        }
    }

    fn folder(&self) -> &str {
        let (Self::Made(name, _) | Self::Renamed(_, name) | Self::Removed(name)) = self;
        name.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

fn device_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl State {
    /// Counts an operation; says how it fails, if it does.
    fn operate(&mut self) -> io::Result<Option<Fault>> {
        if self.off {
            return Err(device_error());
        }
        self.operations += 1;
        let due = self.fault.filter(|(n, _)| *n == self.operations).map(|(_, fault)| fault);
        match due {
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Power) => {
                self.off = true;
                Err(device_error())
            }
            #[cfg(test)]
            Some(Fault::Filled) => {
                self.room = Some(0);
                Ok(None)
            }
            other => Ok(other),
        }
    }

    /// Counts an operation that takes room.
    fn operate_in(&mut self, bytes: usize) -> io::Result<Option<Fault>> {
        let fault = self.operate()?;
        if let Some(room) = &mut self.room {
            let left = room.checked_sub(bytes as u64).ok_or(io::ErrorKind::StorageFull)?;
            *room = left;
        }
        Ok(fault)
    }

    fn rename(&mut self, change: NameChange) -> io::Result<()> {
        if self.operate()?.is_some() {
            return Err(device_error());
        }
        change.apply(&mut self.names);
        self.name_changes.push(change);
        Ok(())
    }

    #[cfg(feature = "sim")]
    fn is_of_log(&self, inode: usize) -> bool {
        self.names.iter().any(|(name, i)| *i == inode && name.starts_with("log/"))
    }

    /// What a disk reads that does not tell that it fails; the next read where that would not show.
    #[cfg(feature = "sim")]
    fn misread(&mut self, inode: usize, fault: ReadFault, bytes: &mut [u8], at: usize) -> usize {
        let content = &self.files[inode].content;
        let from = at.min(content.len());
        let n = bytes.len().min(content.len() - from);
        bytes[..n].copy_from_slice(&content[from..from + n]);
        // The database of names does not check what it reads.
        let checked = self.names.iter().any(|(name, i)| *i == inode && name != DATABASE);
        let elsewhere = content.get(from.saturating_sub(SECTOR)..).unwrap_or_default();
        if !checked || n == 0 || elsewhere.len() < n || elsewhere[..n] == bytes[..n] {
            self.read_fault = Some((self.reads + 1, fault));
        } else if fault == ReadFault::Turned {
            bytes[n / 2] ^= 1;
            self.misreads[0] += 1;
        } else {
            self.misreads[1] += 1;
            bytes[..n].copy_from_slice(&elsewhere[..n]);
        }
        n
    }

    fn change(&mut self, inode: usize, change: Change) {
        let file = &mut self.files[inode];
        change.apply(&mut file.content);
        file.changes.push(change);
    }
}

impl SimulatedDisk {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Arc::default() })
    }

    /// The n-th changing operation from now on fails.
    pub(crate) fn fail(&self, n: u64, fault: Fault) {
        let mut state = self.state.lock();
        state.fault = Some((state.operations + n, fault));
    }

    /// From now on, names that a sync failed for are lost to later ones, as contents are.
    #[cfg(test)]
    pub(crate) fn forget_names(&self) {
        self.state.lock().forgets_names = true;
    }

    /// From now on a sync of the log does nothing.
    #[cfg(feature = "sim")]
    pub(crate) fn forget_syncs(&self) {
        self.state.lock().syncs = Syncs::Forgotten;
    }

    /// From now on a sync that fails says that it did not.
    #[cfg(feature = "sim")]
    pub(crate) fn hide_failed_syncs(&self) {
        self.state.lock().syncs = Syncs::Hidden;
    }

    /// From now on whatever is read has to be waited for; says how many readings have not waited so far.
    #[cfg(test)]
    pub(crate) fn cool(&self) -> u64 {
        let mut state = self.state.lock();
        state.cold = true;
        state.refused
    }

    /// Reads that got a bit that had turned, and what lies elsewhere.
    #[cfg(feature = "sim")]
    pub(crate) fn misreads(&self) -> [u64; 2] {
        self.state.lock().misreads
    }

    /// A bit of a file turns, for good, and nobody is told.
    #[cfg(feature = "sim")]
    pub(crate) fn flip(&self, path: &str, at: usize, bit: u8) {
        let mut state = self.state.lock();
        let Some(inode) = state.names.get(path).copied() else { return };
        let file = &mut state.files[inode];
        for byte in [file.content.get_mut(at), file.durable.get_mut(at)].into_iter().flatten() {
            *byte ^= 1 << bit;
        }
    }

    /// Other bytes lie in a file, for good, and nobody is told.
    #[cfg(feature = "sim")]
    pub(crate) fn lay(&self, path: &str, at: usize, bytes: &[u8]) {
        let mut state = self.state.lock();
        let Some(inode) = state.names.get(path).copied() else { return };
        let State { files, .. } = &mut *state;
        let Inode { content, durable, .. } = &mut files[inode];
        for there in [content, durable] {
            if let Some(there) = there.get_mut(at..at + bytes.len()) {
                there.copy_from_slice(bytes);
            }
        }
    }

    /// A file has become shorter, and nobody is told.
    #[cfg(feature = "sim")]
    pub(crate) fn shorten(&self, path: &str, length: usize) {
        let mut state = self.state.lock();
        let Some(inode) = state.names.get(path).copied() else { return };
        state.files[inode].content.truncate(length);
        state.files[inode].durable.truncate(length);
    }

    /// A file is not there any more, and nobody is told.
    #[cfg(feature = "sim")]
    pub(crate) fn forget(&self, path: &str) {
        let mut state = self.state.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    /// The n-th read from now on fails.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn fail_read(&self, n: u64, fault: ReadFault) {
        let mut state = self.state.lock();
        state.read_fault = Some((state.reads + n, fault));
    }

    /// What a crash leaves, when of the units those survive for which `survives` says so. Names survive up to
    /// the first that does not.
    pub(crate) fn crashed(&self, mut survives: impl FnMut() -> bool) -> Arc<Self> {
        let state = self.state.lock();
        let mut names = state.durable_names.clone();
        let mut in_order = true;
        for change in &state.name_changes {
            in_order &= survives();
            if in_order {
                change.apply(&mut names);
            }
        }
        let files = state.files.iter().map(|file| {
            let mut content = file.durable.clone();
            file.changes.iter().filter(|_| survives()).for_each(|c| c.apply(&mut content));
            Inode { durable: content.clone(), content, ..Inode::default() }
        });
        let left = State {
            files: files.collect(),
            durable_names: names.clone(),
            names,
            syncs: state.syncs,
            ahead: state.ahead,
            ..State::default()
        };
        Arc::new(Self { state: Arc::new(Mutex::new(left)) })
    }

    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile { disk: Arc::downgrade(&self.state), inode })
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        if state.room == Some(0) {
            state.operate()?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = state.files.len();
        state.files.push(Inode::default());
        state.rename(NameChange::Made(path.to_owned(), inode))?;
        Ok(self.file(inode))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        let inode = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(*inode))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(self.state.lock().names.contains_key(path))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let inside = |name: &String| {
            let rest = name.strip_prefix(folder)?.strip_prefix('/')?;
            (!rest.contains('/')).then(|| rest.to_owned())
        };
        Ok(state.names.keys().filter_map(inside).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state.lock().rename(NameChange::Renamed(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let left = state.names.get(path).map_or(0, |inode| state.files[*inode].content.len());
        state.rename(NameChange::Removed(path.to_owned()))?;
        if let Some(room) = &mut state.room {
            *room += left as u64;
        }
        Ok(())
    }

    /// Folders are there from the start.
    fn make_folder(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let done = state.operate();
        let done =
            done.and_then(|fault| if fault.is_some() { Err(device_error()) } else { Ok(()) });
        let forgets = state.forgets_names;
        let State { durable_names, name_changes, .. } = &mut *state;
        name_changes.retain(|change| {
            let here = change.folder() == folder;
            if here && done.is_ok() {
                change.apply(durable_names);
            }
            !here || done.is_err() && !forgets
        });
        done
    }

    /// So that a workload does the same operations each time.
    fn works_beside(&self) -> bool {
        false
    }

    fn ahead(&self) -> Option<Pace> {
        self.state.lock().ahead
    }

    fn fatal(&self) {
        self.state.lock().off = true;
    }
}

impl SimulatedFile {
    /// Runs on the disk's state; a disk that is gone fails.
    fn on<T>(&self, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let state = self.disk.upgrade().ok_or_else(device_error)?;
        let mut state = state.lock();
        run(&mut state)
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.on(|state| {
            if state.cold && !may_wait() {
                state.refused += 1;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.reads += 1;
            let fault = state.read_fault.filter(|(n, _)| *n == state.reads).map(|(_, how)| how);
            if state.off || fault == Some(ReadFault::Error) {
                return Err(device_error());
            }
            #[cfg(feature = "sim")]
            if let Some(fault) = fault {
                return Ok(state.misread(self.inode, fault, bytes, at as usize));
            }
            let content = &state.files[self.inode].content;
            let from = (at as usize).min(content.len());
            let n = bytes.len().min(content.len() - from);
            bytes[..n].copy_from_slice(&content[from..from + n]);
            #[cfg(test)]
            state.count_read(n);
            Ok(n)
        })
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.on(|state| {
            let fault = state.operate_in(bytes.len())?;
            #[cfg(test)]
            state.count(self.inode, |file| &mut file.writes);
            if fault == Some(Fault::Error) {
                return Err(device_error());
            }
            let (mut from, end) = (at as usize, at as usize + bytes.len());
            let mut number = 0;
            while from < end {
                let to = ((from / SECTOR + 1) * SECTOR).min(end);
                let mut part = bytes[from - at as usize..to - at as usize].to_vec();
                if fault == Some(Fault::Flip) {
                    part[0] ^= 1;
                }
                if fault != Some(Fault::Torn) || number % 2 == 0 {
                    state.change(self.inode, Change::Write(from, part));
                }
                (from, number) = (to, number + 1);
            }
            if fault == Some(Fault::Torn) { Err(device_error()) } else { Ok(()) }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.on(|state| {
            let fault = state.operate().inspect_err(|_| {
                // Where there was no room for them is the same.
                state.files[self.inode].changes.clear();
            })?;
            #[cfg(test)]
            state.count(self.inode, |file| &mut file.syncs);
            #[cfg(feature = "sim")]
            if state.syncs == Syncs::Forgotten && state.is_of_log(self.inode) {
                return Ok(());
            }
            let file = &mut state.files[self.inode];
            let changes = std::mem::take(&mut file.changes);
            if fault.is_some() {
                // The page cache takes the pages for clean from here on; the device never got them.
                #[cfg(feature = "sim")]
                if state.syncs == Syncs::Hidden {
                    return Ok(());
                }
                return Err(device_error());
            }
            for change in &changes {
                change.apply(&mut file.durable);
            }
            Ok(())
        })
    }

    fn data_from(&self, at: u64) -> io::Result<Option<u64>> {
        self.on(|state| {
            let content = state.files[self.inode].content.iter().enumerate().skip(at as usize);
            Ok(content.into_iter().find(|(_, byte)| **byte != 0).map(|(i, _)| i as u64))
        })
    }

    fn length(&self) -> io::Result<u64> {
        self.on(|state| Ok(state.files[self.inode].content.len() as u64))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.on(|state| {
            let more = (length as usize).saturating_sub(state.files[self.inode].content.len());
            if state.operate_in(more)?.is_some() {
                return Err(device_error());
            }
            state.change(self.inode, Change::Length(length as usize));
            Ok(())
        })
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        self.set_length(length)
    }

    fn write_zeros(&self, from: u64, to: u64) -> Result<(), ZerosError> {
        self.write_all_at(&vec![0; (to - from) as usize], from)?;
        self.sync().map_err(ZerosError::Unsynced)
    }
}
