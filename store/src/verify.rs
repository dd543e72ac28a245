//! Checks everything that a data folder holds, and changes nothing in it.
//!
//! The log is read by recovery's own code, on a disk that drops writes; it goes on behind damage wherever a later frame
//! says what came before it. What is derived is compared with what the log makes, run by run, so memory holds the names
//! of streams and a few runs at a time. Reading, hashing, making the index and comparing it go on side by side.

mod ahead;
mod comparing;
mod derived;
mod tiles;
mod walk;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kimberlite_consensus::{Op, Superblock};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::{
    disk::{Disk, ReadOnlyDisk},
    error::{Damage, OpenError, ReadError},
    log::{
        END_MARK_BYTES, SEGMENT_HEAD_BYTES, recovery,
        recovery::Start,
        superblock::{self, SuperblockError, SuperblockFile},
        walk::{check_head, cluster_of, first_nonzero, resume},
    },
    record::Leaf,
    words::{Hash, Timestamp},
};
use tiles::TileCheck;
use walk::Walk;

pub use crate::signing::last_signed;

/// What a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// Bytes are not what was written.
    Damage,
    /// Nothing is lost: what a crash left, and what could not be compared.
    Note,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The file, relative to the data folder.
    pub file: String,
    /// Where, in bytes.
    pub offset: u64,
    /// What does not hold.
    pub what: &'static str,
    /// Tenants whose records are concerned, where that is known.
    pub tenants: Vec<String>,
}

impl Finding {
    /// Whether the file can be deleted: the next start makes it anew from the log.
    pub fn is_derived(&self) -> bool {
        crate::error::is_derived(&self.file)
    }
}

/// How far the checking has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The file that is being read, relative to the data folder.
    pub file: String,
    /// Bytes of files that were dealt with.
    pub bytes: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Segment files.
    pub segments: u64,
    /// Ops that hold.
    pub ops: u64,
    /// Records in them.
    pub records: u64,
    /// Tenants, the system tenant included.
    pub tenants: u64,
    /// Parts of the derived index that were compared with the log.
    pub parts: u64,
    /// Findings that are damage.
    pub damage: u64,
    /// Findings that are not.
    pub notes: u64,
}

/// Records of a tenant that hold, with everything that they commit to, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct CheckedRecords<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// Position of the first. Where it is not behind the one before, records between them are lost.
    pub first: u64,
    /// Their leaf hashes.
    pub hashes: &'a [Hash],
}

/// Who is told while a folder is checked.
pub trait Watcher {
    /// Records hold.
    fn records(&mut self, _records: &CheckedRecords<'_>) {}
    /// It goes on.
    fn progress(&mut self, progress: &Progress);
    /// Something was found.
    fn found(&mut self, finding: &Finding);
}

/// Why a folder could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no log in it.
    #[error("{} is no data folder", folder.display())]
    NoData {
        /// The folder.
        folder: PathBuf,
    },
    /// It cannot be opened, or reading failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What a leaf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFields {
    /// What the record records: `event`, `stream_deleted`, ...
    pub kind: &'static str,
    /// The record's id.
    pub id: Uuid,
    /// An event's index in its stream.
    pub version: u64,
    /// Commit time.
    pub time: Timestamp,
    /// Kind and commitment of each payload.
    pub payloads: Vec<(&'static str, Hash)>,
}

/// Reads a leaf without its previous hash; `None` where the bytes are none.
pub fn leaf_fields(leaf: &[u8]) -> Option<LeafFields> {
    let leaf = Leaf::decode(leaf).ok()?;
    Some(LeafFields {
        kind: leaf.kind.name(),
        id: Uuid::from_bytes(leaf.id),
        version: leaf.version,
        time: Timestamp::from_micros(leaf.time_us)?,
        payloads: leaf.payloads().map(|(kind, commitment)| (kind.name(), commitment)).collect(),
    })
}

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    All,
    /// The log alone: frames, blocks, leaves, commitments and chains, not what is derived from it.
    Log,
}

/// Checks the data folder that no process has open.
///
/// # Errors
/// See [`VerifyError`]. Damage is no error: `watcher` is told, and the summary counts it.
pub fn verify(folder: &Path, watcher: &mut dyn Watcher) -> Result<Summary, VerifyError> {
    verify_extent(folder, Extent::All, watcher)
}

/// Likewise, as much of it as is asked for.
///
/// # Errors
/// See [`verify`].
pub fn verify_extent(
    folder: &Path,
    extent: Extent,
    watcher: &mut dyn Watcher,
) -> Result<Summary, VerifyError> {
    let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk::new(folder));
    let there = |path| disk.exists(path).map_err(|e| io_error(path, e));
    if !there(superblock::NAME)? && !there(crate::log::FOLDER)? {
        return Err(VerifyError::NoData { folder: folder.to_owned() });
    }
    let _lock = lock(folder)?;
    let mut walk = Walk::new(watcher, extent);
    let files = recovery::list_segments(&*disk)?;
    walk.summary.segments = files.len() as u64;
    for path in &files {
        let length = disk.open(path).and_then(|f| f.length()).map_err(|e| io_error(path, e))?;
        walk.progress.bytes_total += length;
    }
    let Some(superblock) = superblock(&*disk, &files, &mut walk)? else {
        return Ok(walk.summary);
    };
    walk.begin(superblock);
    if extent == Extent::All {
        derived::open(&disk, superblock.cluster, &mut walk)?;
        walk.tiles = Some(TileCheck::new(Arc::clone(&disk)));
    }
    check_heads(&*disk, superblock, &files, &mut walk)?;
    read_log(&*disk, superblock, &files, &mut walk)?;
    check_tails(&*disk, &files, &mut walk)?;
    Ok(walk.end())
}

fn io_error(path: &str, source: io::Error) -> OpenError {
    OpenError::Io { action: "reading", path: path.into(), source }
}

/// The folder's lock, where the file is there; none is made.
fn lock(folder: &Path) -> Result<Option<File>, OpenError> {
    let path = folder.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OpenError::Io { action: "opening", path, source }),
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| OpenError::Locked { folder: folder.to_owned() })?;
    Ok(Some(file))
}

/// The superblock, or one that promises nothing where none holds; `None` where nothing says whose log it is.
fn superblock(
    disk: &dyn Disk,
    files: &[String],
    walk: &mut Walk<'_>,
) -> Result<Option<Superblock>, VerifyError> {
    const NAME: &str = superblock::NAME;
    let damage = |offset, what| Damage { file: NAME.into(), offset, what };
    let there = disk.exists(NAME).map_err(|e| io_error(NAME, e))?;
    if there {
        let copies = superblock::damaged_copies(disk).map_err(|e| io_error(NAME, e))?;
        for at in copies {
            walk.damage(&damage(at, "a copy of the superblock does not hold"), Vec::new());
        }
        match SuperblockFile::open(disk) {
            Ok((_, superblock)) => return Ok(Some(superblock)),
            Err(SuperblockError::Damaged) => {}
            Err(SuperblockError::Io(error)) => return Err(io_error(NAME, error).into()),
            Err(SuperblockError::Format(found)) => {
                let supported = crate::log::FORMAT;
                return Err(OpenError::Format { found, supported }.into());
            }
        }
    }
    walk.damage(&damage(0, "no copy of the superblock holds"), Vec::new());
    for path in files {
        if let Some(cluster) = cluster_of(disk, path).map_err(|e| io_error(path, e))? {
            return Ok(Some(Superblock::fresh(cluster)));
        }
    }
    Ok(None)
}

/// Segments' heads, to the zeros that fill them up.
fn check_heads(
    disk: &dyn Disk,
    superblock: Superblock,
    files: &[String],
    walk: &mut Walk<'_>,
) -> Result<(), VerifyError> {
    for path in files {
        let (holds, filled) =
            check_head(disk, superblock.cluster, path).map_err(|e| io_error(path, e))?;
        let damage = |offset, what| Damage { file: path.clone(), offset, what };
        if !holds {
            walk.damage(&damage(0, "a segment's head"), Vec::new());
            walk.headless.insert(path.clone());
        }
        if let Some(at) = filled {
            walk.damage(&damage(at, "what fills up a segment's head is not zeros"), Vec::new());
        }
    }
    Ok(())
}

/// Reads all of the log, from the next place that can be gone on from after damage.
fn read_log(
    disk: &dyn Disk,
    superblock: Superblock,
    files: &[String],
    walk: &mut Walk<'_>,
) -> Result<(), VerifyError> {
    let mut start: Option<Start> = None;
    loop {
        let scanned = ahead::scan(disk, superblock, start.as_ref(), |found| walk.take(found));
        let (damage, ended) = match scanned {
            Ok(scanned) => (scanned.damage, Some((scanned.segment.name.clone(), scanned.at))),
            Err(OpenError::Damaged(damage)) => (Some(damage), None),
            Err(error) => return Err(error.into()),
        };
        let torn = walk.torn.take();
        let Some(behind) = damage.as_ref().or(torn.as_ref()) else { return Ok(()) };
        let (path, at) = match ended {
            Some((path, at)) if path == behind.file && behind.offset > 0 => (path, at + 1),
            _ => (behind.file.clone(), SEGMENT_HEAD_BYTES),
        };
        start = next_start(disk, superblock, files, &path, at)?;
        match (&damage, &start) {
            (Some(damage), _) if damage.offset == 0 && walk.headless.contains(&damage.file) => {}
            (Some(damage), _) => walk.damage(damage, Vec::new()),
            (None, Some(_)) => {
                let what = "ops that later ones follow";
                walk.damage(&Damage { what, ..behind.clone() }, Vec::new());
            }
            (None, None) => walk.note(behind, Vec::new()),
        }
        walk.log_damaged |= damage.is_some() || start.is_some();
        let Some(start) = &start else { return Ok(()) };
        walk.skip_to(&start.header);
    }
}

/// Where to read on in the segment `last` from `at` on, or in a later one.
fn next_start(
    disk: &dyn Disk,
    superblock: Superblock,
    files: &[String],
    last: &str,
    at: u64,
) -> Result<Option<Start>, OpenError> {
    for path in files.iter().filter(|path| path.as_str() >= last) {
        let from = if path == last { at } else { SEGMENT_HEAD_BYTES };
        let found = resume(disk, superblock.cluster, path, from, Op(0));
        let found = found.map_err(|e| io_error(path, e))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Behind a closed segment's end mark there is nothing.
fn check_tails(disk: &dyn Disk, files: &[String], walk: &mut Walk<'_>) -> Result<(), VerifyError> {
    for path in files.iter().take(files.len().saturating_sub(1)) {
        let Some(end) = walk.ends.get(path).copied() else { continue };
        let end = end + END_MARK_BYTES;
        if walk.damaged_files.contains(path) {
            continue;
        }
        let found = first_nonzero(disk, path, end).map_err(|e| io_error(path, e))?;
        if let Some(offset) = found {
            let what = "bytes behind the end of a segment";
            walk.damage(&Damage { file: path.clone(), offset, what }, Vec::new());
        }
    }
    Ok(())
}
