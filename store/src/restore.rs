//! Brings a log back from a backup, into a new data folder.
//!
//! The folder is made under another name beside its own, with a mark that no store opens, and gets its own name once
//! everything in it is verified: each file against its BLAKE3, then all of it as `verify` does. A folder that holds
//! anything is never touched.

mod cut;
mod fork;
mod source;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kimberlite_consensus::{Identity, Op, Superblock, View};
use rustix::fs::{FlockOperation, flock};

use crate::{
    append::AppendError,
    backup::manifest::{FileLine, MANIFEST, Manifest, TenantLine},
    disk::{Disk, RealDisk},
    error::{Damage, OpenError, ReadError},
    log::{FOLDER, segment_name, superblock::SuperblockFile},
    node::sixteen,
    verify::{Finding, FindingKind, Progress, VerifyError, Watcher, verify},
    words::{Actor, Position, TenantName},
};
pub use source::{CheckedBackup, check_backup, is_backup};

/// Stands in a folder that is being restored; who opens it is refused.
pub(crate) const RESTORING: &str = "restoring";
/// Room behind the end of what was restored: for the end mark and what comes first.
const ROOM_BYTES: u64 = 64 << 10;

/// What is brought back, and where to.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The backup.
    pub backup: PathBuf,
    /// The data folder to be made.
    pub folder: PathBuf,
    /// Only up to here.
    pub until: Option<Until>,
    /// Who restores.
    pub actor: Actor,
}

/// A point of the log: the state after this record of this tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Until {
    /// The tenant.
    pub tenant: TenantName,
    /// The record's position.
    pub position: Position,
}

/// What was brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Every tenant, in the order of their references.
    pub tenants: Vec<RestoredTenant>,
    /// When the backup was made (RFC 3339).
    pub created_at: String,
}

/// A tenant that was brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredTenant {
    /// Its name; `$cluster` for the system tenant.
    pub tenant: String,
    /// How many records of the backup its log has.
    pub records: u64,
    /// How many records of the backup it has no longer.
    pub lost: u64,
    /// The log id from here on, in hex, where the log forked.
    pub new_log_id: Option<String>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Files are read and compared with the manifest: bytes done, bytes in all.
    Files(u64, u64),
    /// The log is cut behind the point.
    Cutting,
    /// The new folder is verified.
    Verifying(&'a Progress),
}

/// Why nothing was brought back. The new folder is not there then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no manifest: no backup was ever finished here.
    #[error("{} holds no backup that was finished", folder.display())]
    NoBackup {
        /// The folder.
        folder: PathBuf,
    },
    /// A backup into this folder is under way.
    #[error("a backup to {} is under way", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of the backup is not what was written there.
    #[error("{} is not what was backed up: {what}{}", file.display(), at(*offset))]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where, as far as that can be told.
        offset: Option<u64>,
        /// What does not hold.
        what: &'static str,
    },
    /// The backup has another form.
    #[error("the backup has format {found}, which this version does not read")]
    Format {
        /// Found in the manifest.
        found: u32,
    },
    /// The data folder holds something already.
    #[error("{} is not empty", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process restores there.
    #[error("{} is being restored by another process", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The backup has no such tenant.
    #[error("the backup has no tenant {tenant}")]
    NoTenant {
        /// The tenant.
        tenant: TenantName,
    },
    /// The backup ends before the position.
    #[error("the backup has {records} records of {tenant}, so none at position {position}")]
    NoPosition {
        /// The tenant.
        tenant: TenantName,
        /// The position.
        position: Position,
        /// How many records it has.
        records: u64,
    },
    /// The files are what was backed up, but no log.
    #[error("what was restored does not hold: {0}")]
    Log(#[source] Damage),
    /// The restored folder cannot be opened.
    #[error("the restored folder cannot be opened")]
    Open(#[from] OpenError),
    /// The restored log cannot be read.
    #[error("the restored log cannot be read")]
    Read(#[from] ReadError),
    /// The restored folder cannot be verified.
    #[error("the restored folder cannot be verified")]
    Verify(#[from] VerifyError),
    /// The fork could not be written.
    #[error("the fork could not be written")]
    Fork(#[source] AppendError),
    /// The file system failed.
    #[error("{action} {} failed", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn at(offset: Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" (at byte {offset})"))
}

/// Restores. Blocks; must not be called from an async task.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(args: &Restore, told: &mut dyn FnMut(Step<'_>)) -> Result<Restored, RestoreError> {
    let source = source::Source::open(&args.backup)?;
    if let Some(until) = &args.until {
        check_until(&source.manifest, until)?;
    }
    let folder = free_folder(&args.folder)?;
    let (making, lock) = begin(&folder)?;
    let made = make(args, &source, &making, told).and_then(|restored| {
        publish(&making, &folder)?;
        Ok(restored)
    });
    if made.is_err()
        && let Err(error) = std::fs::remove_dir_all(&making)
    {
        tracing::warn!(%error, "what was restored so far is left behind");
    }
    drop(lock);
    made
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RestoreError + 'a {
    move |source| RestoreError::Io { action, path: path.to_owned(), source }
}

/// The data folder's path, if there is none yet or nothing in it.
fn free_folder(folder: &Path) -> Result<PathBuf, RestoreError> {
    let finding = || failed("finding", folder);
    match std::fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => folder.canonicalize().map_err(finding()),
            Some(_) => Err(RestoreError::NotEmpty { folder: folder.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = std::path::absolute(folder).map_err(finding())?;
            let parent = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(parent).map_err(failed("making", parent))?;
            Ok(path)
        }
        Err(error) => Err(failed("listing", folder)(error)),
    }
}

/// Makes the folder to work in, marked and locked; what a restore that was killed left there goes.
fn begin(folder: &Path) -> Result<(PathBuf, File), RestoreError> {
    let mut making = folder.as_os_str().to_owned();
    making.push(".restoring");
    let making = PathBuf::from(making);
    let mark = making.join(RESTORING);
    if making.symlink_metadata().is_ok() {
        let left = File::open(&mark).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RestoreError::NotEmpty { folder: making.clone() },
            _ => failed("opening", &mark)(error),
        })?;
        lock(&left, &making)?;
        std::fs::remove_dir_all(&making).map_err(failed("removing", &making))?;
    }
    std::fs::create_dir(&making).map_err(failed("making", &making))?;
    let file = File::create_new(&mark).map_err(failed("making", &mark))?;
    lock(&file, &making)?;
    file.sync_all().map_err(failed("syncing", &mark))?;
    RealDisk::new(&making).sync_folder("").map_err(failed("syncing", &making))?;
    Ok((making, file))
}

fn lock(file: &File, folder: &Path) -> Result<(), RestoreError> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| RestoreError::Locked { folder: folder.to_owned() })
}

fn line_of<'a>(manifest: &'a Manifest, until: &Until) -> Result<&'a TenantLine, RestoreError> {
    let mut lines = manifest.tenants.iter();
    lines
        .find(|line| line.tenant == until.tenant.as_str())
        .ok_or_else(|| RestoreError::NoTenant { tenant: until.tenant.clone() })
}

fn check_until(manifest: &Manifest, until: &Until) -> Result<(), RestoreError> {
    let records = line_of(manifest, until)?.records;
    if until.position.get() < records {
        return Ok(());
    }
    let Until { tenant, position } = until.clone();
    Err(RestoreError::NoPosition { tenant, position, records })
}

/// Makes everything in a folder that no store opens.
fn make(
    args: &Restore,
    source: &source::Source,
    folder: &Path,
    told: &mut dyn FnMut(Step<'_>),
) -> Result<Restored, RestoreError> {
    let manifest = &source.manifest;
    let unusable = |what| {
        let file = args.backup.join(MANIFEST);
        RestoreError::Damaged { file, offset: None, what }
    };
    let disk = Arc::new(RealDisk::new(folder));
    disk.make_folder(FOLDER).map_err(failed("making a folder in", folder))?;
    source.read(Some(&*disk), told)?;
    for made in [FOLDER, ""] {
        disk.sync_folder(made).map_err(failed("syncing", folder))?;
    }
    let tip = tip_of(manifest).ok_or_else(|| unusable("its tip cannot be read"))?;
    let writing = || failed("writing the superblock in", folder);
    write_superblock(&disk, tip).map_err(writing())?;
    if let Some(until) = &args.until {
        told(Step::Cutting);
        let line = line_of(manifest, until)?;
        let point = cut::Point::new(line, until.position.get());
        let point = point.ok_or_else(|| unusable("a tenant cannot be read"))?;
        let tip = cut::cut(&*disk, folder, tip, point)?;
        write_superblock(&disk, tip).map_err(writing())?;
    }
    leave_room(&*disk).map_err(failed("setting room aside in", folder))?;
    let tenants = match &args.until {
        Some(_) => fork::fork(&disk, &args.actor, manifest)?,
        None => manifest.tenants.iter().map(whole).collect(),
    };
    check(folder, told)?;
    Ok(Restored { tenants, created_at: manifest.created_at.clone() })
}

fn whole(line: &TenantLine) -> RestoredTenant {
    let (tenant, records) = (line.tenant.clone(), line.records);
    RestoredTenant { tenant, records, lost: 0, new_log_id: None }
}

/// Where a log ends: what its superblock says.
#[derive(Clone, Copy, Debug)]
struct LogTip {
    cluster: [u8; 16],
    op: Op,
    view: View,
    identity: Identity,
}

fn tip_of(manifest: &Manifest) -> Option<LogTip> {
    let identity = blake3::Hash::from_hex(&manifest.tip.identity).ok()?;
    Some(LogTip {
        cluster: sixteen(&manifest.cluster)?,
        op: Op(manifest.tip.op),
        view: View(manifest.tip.view),
        identity: Identity(*identity.as_bytes()),
    })
}

/// The tip is the commit floor: a log that ends before it, or with another op, is damaged.
fn write_superblock(disk: &RealDisk, tip: LogTip) -> io::Result<()> {
    let LogTip { cluster, op, view, identity } = tip;
    let fresh = Superblock::fresh(cluster);
    let superblock = Superblock { view, log_view: view, commit: op, identity, ..fresh };
    SuperblockFile::create(disk, superblock).map(drop)
}

/// A backup has none behind the last op.
fn leave_room(disk: &dyn Disk) -> io::Result<()> {
    let names = disk.list(FOLDER)?;
    let Some(last) = names.last() else { return Ok(()) };
    let file = disk.open(&format!("{FOLDER}/{last}"))?;
    file.reserve(file.length()? + ROOM_BYTES)?;
    file.sync()
}

/// Passes on progress, keeps the first damage.
struct Check<'a> {
    told: &'a mut dyn FnMut(Step<'_>),
    damage: Option<Damage>,
}

impl Watcher for Check<'_> {
    fn progress(&mut self, progress: &Progress) {
        (self.told)(Step::Verifying(progress));
    }

    fn found(&mut self, finding: &Finding) {
        if finding.kind == FindingKind::Damage {
            let Finding { file, offset, what, .. } = finding.clone();
            self.damage.get_or_insert(Damage { file, offset, what });
        }
    }
}

fn check(folder: &Path, told: &mut dyn FnMut(Step<'_>)) -> Result<(), RestoreError> {
    let mut check = Check { told, damage: None };
    verify(folder, &mut check)?;
    check.damage.map_or(Ok(()), |damage| Err(RestoreError::Log(damage)))
}

/// Gives the folder its name, durably, if the name is still free or an empty folder's.
fn publish(making: &Path, folder: &Path) -> Result<(), RestoreError> {
    let disk = RealDisk::new(making);
    let done = disk.remove(RESTORING).and_then(|()| disk.sync_folder(""));
    done.map_err(failed("finishing", making))?;
    std::fs::rename(making, folder).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
            RestoreError::NotEmpty { folder: folder.to_owned() }
        }
        _ => failed("renaming", making)(error),
    })?;
    let parent = folder.parent().unwrap_or(folder);
    RealDisk::new(parent).sync_folder("").map_err(failed("syncing", parent))
}
