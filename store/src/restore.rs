//! Brings a log back from a backup, into a new data folder.
//!
//! The folder bears a mark, with which no store opens it, until everything in it is verified: each file against its
//! BLAKE3, then all of it as `verify` does. It may be a mount point. One that holds anything else is never touched.

mod cut;
mod fork;
mod leaves;
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
    signing::{RestoredLog, RestoredMark},
    verify::{Finding, FindingKind, Progress, VerifyError, Watcher, verify},
    words::{Actor, Position, TenantName},
};
pub use leaves::read_backup;
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
    /// Nothing was signed beyond the backup, says who restores: logs whose keys are there keep their names. Else all fork
    /// when a server first opens them.
    pub keeps_origin: bool,
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

/// Why nothing was brought back. The folder is as it was, then.
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
    let place = Place::begin(&args.folder)?;
    let made = make(args, &source, &place.folder, told).and_then(|restored| {
        place.publish()?;
        Ok(restored)
    });
    if made.is_err()
        && let Err(error) = place.leave()
    {
        tracing::warn!(%error, "what was restored so far is left behind, with its mark");
    }
    made
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RestoreError + 'a {
    move |source| RestoreError::Io { action, path: path.to_owned(), source }
}

/// The folder that is worked in.
struct Place {
    folder: PathBuf,
    /// It was not there before.
    is_new: bool,
    /// The mark, locked.
    _mark: File,
}

impl Place {
    /// Takes a folder that holds nothing, or is not there. What a restore that was killed left there goes.
    fn begin(folder: &Path) -> Result<Self, RestoreError> {
        let parent = folder.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(failed("making", parent))?;
        let is_new = match std::fs::create_dir(folder) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed("making", folder)(error)),
        };
        let folder = folder.canonicalize().map_err(failed("finding", folder))?;
        let path = folder.join(RESTORING);
        let is_empty =
            std::fs::read_dir(&folder).map_err(failed("listing", &folder))?.next().is_none();
        if !is_empty && !path.exists() {
            return Err(RestoreError::NotEmpty { folder });
        }
        let mut options = File::options();
        let mark = options.write(true).create(true).truncate(false).open(&path);
        let mark = mark.map_err(failed("making", &path))?;
        lock(&mark, &folder)?;
        mark.sync_all().map_err(failed("syncing", &path))?;
        let place = Self { folder, is_new, _mark: mark };
        place.clear().map_err(failed("emptying", &place.folder))?;
        sync(&place.folder)?;
        if is_new {
            sync(place.folder.parent().unwrap_or(&place.folder))?;
        }
        Ok(place)
    }

    /// Removes everything but the mark.
    fn clear(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else if entry.file_name() != RESTORING {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Lets stores open the folder.
    fn publish(&self) -> Result<(), RestoreError> {
        let disk = RealDisk::new(&self.folder);
        let done = disk.remove(RESTORING).and_then(|()| disk.sync_folder(""));
        done.map_err(failed("finishing", &self.folder))
    }

    /// Leaves things as they were.
    fn leave(&self) -> io::Result<()> {
        self.clear()?;
        std::fs::remove_file(self.folder.join(RESTORING))?;
        if self.is_new { std::fs::remove_dir(&self.folder) } else { Ok(()) }
    }
}

fn sync(folder: &Path) -> Result<(), RestoreError> {
    RealDisk::new(folder).sync_folder("").map_err(failed("syncing", folder))
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
    mark(args, manifest, &tenants).leave(&*disk).map_err(failed("marking", folder))?;
    Ok(Restored { tenants, created_at: manifest.created_at.clone() })
}

/// What a server has to know that opens the folder to sign.
fn mark(args: &Restore, manifest: &Manifest, tenants: &[RestoredTenant]) -> RestoredMark {
    let log = |line: &TenantLine| {
        let forked = |t: &RestoredTenant| t.tenant == line.tenant && t.new_log_id.is_some();
        RestoredLog {
            reference: line.reference.clone(),
            origin: line.origin.clone().unwrap_or_default(),
            forked: tenants.iter().any(forked),
        }
    };
    let logs = manifest.tenants.iter().map(log).collect();
    RestoredMark { keeps_origin: args.keeps_origin, logs }
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
