//! What a log's key signed last, kept beside the key: durable before anybody sees it, so that a log that went back is
//! known by it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    SigningError,
    keys::{KeyFolder, failed, not_durable},
};
use crate::{
    disk::{Disk, DiskFile, ReadOnlyDisk},
    error::OpenError,
    proof::{Checkpoint, Note},
};

/// Two copies, written in turn: whatever a crash tears, the other one holds.
const SLOTS: u64 = 2;
const SLOT_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"KMBSIGN1";
/// Magic, sequence, length.
const HEAD_BYTES: usize = 20;
const SUM_BYTES: usize = 32;
const NOTE_BYTES_MAX: usize = SLOT_BYTES - HEAD_BYTES - SUM_BYTES;

/// The file.
#[derive(Debug)]
pub(crate) struct LastSigned {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    sequence: u64,
}

impl LastSigned {
    /// Makes a file that holds a first checkpoint, durably.
    pub(crate) fn create(
        keys: &KeyFolder,
        tenant: [u8; 16],
        note: &Note,
    ) -> Result<Self, SigningError> {
        let there = keys.last(tenant);
        let (file, path) = (there.create()?, there.path());
        let zeros = [0; SLOT_BYTES * SLOTS as usize];
        file.write_all_at(&zeros, 0).map_err(not_durable("writing", &path))?;
        let mut made = Self { file, path, sequence: 0 };
        made.write(note)?;
        keys.sync()?;
        Ok(made)
    }

    /// Opens the file; the newest checkpoint in it, which is durable then.
    pub(crate) fn open(
        keys: &KeyFolder,
        tenant: [u8; 16],
    ) -> Result<(Self, Checkpoint, Note), SigningError> {
        let there = keys.last(tenant);
        let path = there.path();
        let Some(file) = there.open()? else { return Err(SigningError::KeyMissing { path }) };
        let Some(Kept { bytes, sequence, checkpoint, note }) =
            newest(&*file).map_err(failed("reading", &path))?
        else {
            return Err(SigningError::Damaged { path });
        };
        let opened = Self { file, path, sequence };
        // Whoever wrote it may have been killed before the sync, or the sync may have failed: pages that could not be written
        // count as clean, so another sync alone would succeed without them. Over the same bytes nothing can tear.
        opened.put(sequence, &bytes)?;
        Ok((opened, checkpoint, note))
    }

    /// Puts a note in place of the older copy, durably.
    pub(crate) fn write(&mut self, note: &Note) -> Result<(), SigningError> {
        let sequence = self.sequence + 1;
        let text = note.to_string();
        assert!(text.len() <= NOTE_BYTES_MAX, "an origin is short, and the log alone signs here");
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        slot.extend(MAGIC);
        slot.extend(sequence.to_le_bytes());
        slot.extend((text.len() as u32).to_le_bytes());
        slot.extend(text.as_bytes());
        let sum = blake3::hash(&slot);
        slot.extend(sum.as_bytes());
        slot.resize(SLOT_BYTES, 0);
        self.put(sequence, &slot)?;
        self.sequence = sequence;
        Ok(())
    }

    /// Writes a copy in its place, durably.
    fn put(&self, sequence: u64, slot: &[u8]) -> Result<(), SigningError> {
        let at = sequence % SLOTS * SLOT_BYTES as u64;
        let written = self.file.write_all_at(slot, at).and_then(|()| self.file.sync());
        written.map_err(not_durable("writing", &self.path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What the keys in a folder signed last: each file's path, and the signed note; nothing where no copy of it holds.
///
/// # Errors
/// A file or a folder cannot be read.
pub fn last_signed(keys: &Path) -> Result<Vec<(String, Vec<u8>)>, OpenError> {
    let (disk, mut found) = (ReadOnlyDisk::new(keys), Vec::new());
    let io = |path: &str| {
        let path = keys.join(path);
        move |source| OpenError::Io { action: "reading", path, source }
    };
    for cluster in list(&disk, "").map_err(io(""))? {
        for name in list(&disk, &cluster).map_err(io(&cluster))? {
            let path = format!("{cluster}/{name}");
            if Path::new(&name).extension().is_none_or(|ending| ending != "last") {
                continue;
            }
            let kept = disk.open(&path).and_then(|file| newest(&*file)).map_err(io(&path))?;
            let note = kept.map_or_else(Vec::new, |kept| kept.note.to_string().into_bytes());
            found.push((keys.join(path).display().to_string(), note));
        }
    }
    Ok(found)
}

/// Names in a folder in order; none where there is no such folder.
fn list(disk: &dyn Disk, folder: &str) -> io::Result<Vec<String>> {
    match disk.list(folder) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        names => names,
    }
}

/// A copy that is whole.
struct Kept {
    bytes: Vec<u8>,
    sequence: u64,
    checkpoint: Checkpoint,
    note: Note,
}

/// The newest copy that is whole.
fn newest(file: &dyn DiskFile) -> io::Result<Option<Kept>> {
    let mut newest: Option<Kept> = None;
    for slot in 0..SLOTS {
        let mut bytes = [0; SLOT_BYTES];
        if file.read_at(&mut bytes, slot * SLOT_BYTES as u64)? == SLOT_BYTES {
            let found = decode(&bytes).filter(|copy| copy.sequence % SLOTS == slot);
            newest = newest.into_iter().chain(found).max_by_key(|copy| copy.sequence);
        }
    }
    Ok(newest)
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<Kept> {
    let (head, rest) = slot.split_at_checked(HEAD_BYTES)?;
    let sequence = u64::from_le_bytes(head[8..16].try_into().ok()?);
    let length = u32::from_le_bytes(head[16..20].try_into().ok()?) as usize;
    let (text, sum) = rest.split_at_checked(length)?;
    let sum = sum.get(..SUM_BYTES)?;
    if head[..8] != *MAGIC || *blake3::hash(&slot[..HEAD_BYTES + length]).as_bytes() != *sum {
        return None;
    }
    let note = Note::parse(text).ok()?;
    let checkpoint = Checkpoint::parse(note.text()).ok()?;
    Some(Kept { bytes: slot.to_vec(), sequence, checkpoint, note })
}
