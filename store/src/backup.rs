//! Backups: a folder from which a log is brought back, taken while the log goes on.
//!
//! Everything that was committed when a backup began is in it, and nothing that came later. Files are named by their
//! content and never written over; a new manifest takes the place of the last one once all that it names is durable.
//! So a backup that breaks off leaves the one before it whole, and what a folder has already is not copied again.
//!
//! Absent on purpose: `index/`, which is made anew from the log, and the superblock, which the manifest stands for.

pub(crate) mod copy;
pub(crate) mod manifest;
mod progress;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use kimberlite_consensus::{Header, Identity};
use rustix::fs::{FlockOperation, flock};

use crate::{
    disk::{Disk, RealDisk},
    error::Damage,
    log::{FOLDER, FORMAT},
    node::{CommittedLog, TenantTip},
    store::Store,
    words::{Hex, TenantName, Timestamp},
};
use copy::{Source, sources};
use manifest::{
    BACKUP_FORMAT, FileLine, MANIFEST, MARK, Manifest, ManifestError, TenantLine, Tip, mark,
};
pub use progress::{Progress, ProgressFigures};

/// Why a backup is not begun, or is not done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Paths that are not absolute, or go up, mean something else to a server than to who writes them.
    #[error("{} is not an absolute path without `..`", folder.display())]
    Relative {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder lies in a data folder, or is one.
    #[error("{} lies in a data folder", folder.display())]
    DataFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Something else is in the folder.
    #[error("{} is neither empty nor a backup of this cluster", folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
    },
    /// What is in the folder is not a part of this log: it was made before this log was restored, or after.
    #[error("{} holds op {op}, which is not one of this log", folder.display())]
    OtherHistory {
        /// The folder.
        folder: PathBuf,
        /// The last op in there.
        op: u64,
    },
    /// The folder's manifest is damaged.
    #[error("{} is damaged", file.display())]
    Manifest {
        /// The manifest.
        file: PathBuf,
    },
    /// Another backup to this folder is under way.
    #[error("another backup to {} is under way", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// The log is damaged: a copy of it would not be one to go back to.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// What was written reads back otherwise.
    #[error("{} reads back otherwise than it was written", file.display())]
    ReadBack {
        /// The file.
        file: PathBuf,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// It was asked to break off.
    #[error("the backup was cancelled")]
    Cancelled,
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

/// A backup that may be run.
#[derive(Debug)]
pub struct Backup {
    log: CommittedLog,
    /// What was committed by then is in it.
    begun: Timestamp,
    folder: PathBuf,
    target: Arc<dyn Disk>,
    /// What the folder holds by now.
    there: Option<Manifest>,
    progress: Arc<Progress>,
    /// Held while it runs.
    _lock: Option<File>,
}

/// What a backup holds and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// The last op inside.
    pub op: u64,
    /// Files and bytes.
    pub figures: ProgressFigures,
}

impl Store {
    /// Begins a backup of what is committed now to a folder of this machine: a new or empty one, or one with
    /// backups of this cluster.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub async fn backup(&self, folder: PathBuf) -> Result<Backup, BackupError> {
        let of_log = |damage: &Damage| damage.file.starts_with(FOLDER);
        let damaged = || {
            let mut tenants = self.shared.tenants.all().into_iter();
            tenants.find_map(|tenant| self.damage_of(&tenant).filter(of_log))
        };
        if let Some(damage) = self.shared.damage.clone().or_else(damaged) {
            return Err(damage.into());
        }
        self.named().await;
        let begun = Timestamp::now();
        let log = self.shared.node.committed().await.ok_or(BackupError::Closed)?;
        let begun = tokio::task::spawn_blocking(move || begin(log, begun, folder)).await;
        begun.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

fn begin(log: CommittedLog, begun: Timestamp, folder: PathBuf) -> Result<Backup, BackupError> {
    let climbs = folder.components().any(|c| c == Component::ParentDir);
    if !folder.is_absolute() || climbs {
        return Err(BackupError::Relative { folder });
    }
    if lies_in_data(&folder) {
        return Err(BackupError::DataFolder { folder });
    }
    let cluster = Hex(&log.cluster).to_string();
    let lock = take_folder(&folder, &cluster)?;
    let target: Arc<dyn Disk> = Arc::new(RealDisk::new(&folder));
    Backup::new(log, begun, folder, target, Some(lock))
}

/// Whether a folder, as far as it exists, lies in a data folder: ours would take what is in there for its own.
fn lies_in_data(folder: &Path) -> bool {
    let there = folder.ancestors().find_map(|f| f.canonicalize().ok());
    let there = there.unwrap_or_else(|| folder.to_owned());
    there.ancestors().any(|f| f.join("superblock").exists() && f.join(FOLDER).is_dir())
}

/// Makes the folder, or finds that it is empty or ours, and locks it.
fn take_folder(folder: &Path, cluster: &str) -> Result<File, BackupError> {
    const MADE: &str = "kimberlite-backup.new";
    std::fs::create_dir_all(folder).map_err(failed("making", folder))?;
    let disk = RealDisk::new(folder);
    let path = folder.join(MARK);
    let text = mark(cluster);
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    if there != text {
        let names = disk.list("").map_err(failed("listing", folder))?;
        if names.iter().any(|name| name != MADE) {
            return Err(BackupError::Taken { folder: folder.to_owned() });
        }
        let made = disk.create(MADE).and_then(|file| {
            file.write_all_at(text.as_bytes(), 0)?;
            file.sync()?;
            disk.rename(MADE, MARK)
        });
        made.map_err(failed("making", &path))?;
    }
    disk.make_folder(FOLDER).map_err(failed("making a folder in", folder))?;
    disk.sync_folder("").map_err(failed("syncing", folder))?;
    if let Some(parent) = folder.parent() {
        RealDisk::new(parent).sync_folder("").map_err(failed("syncing", parent))?;
    }
    let lock = File::open(&path).map_err(failed("opening", &path))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| BackupError::Busy { folder: folder.to_owned() })?;
    Ok(lock)
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::Io { action, path: path.to_owned(), source }
}

impl Backup {
    fn new(
        log: CommittedLog,
        begun: Timestamp,
        folder: PathBuf,
        target: Arc<dyn Disk>,
        lock: Option<File>,
    ) -> Result<Self, BackupError> {
        let there = match Manifest::read(&*target) {
            Ok(manifest) if manifest.cluster == Hex(&log.cluster).to_string() => Some(manifest),
            Err(ManifestError::Absent) => None,
            Err(ManifestError::Io(source)) => {
                return Err(failed("reading the manifest in", &folder)(source));
            }
            Err(ManifestError::Damaged) => {
                return Err(BackupError::Manifest { file: folder.join(MANIFEST) });
            }
            Ok(_) | Err(ManifestError::Format(_)) => return Err(BackupError::Taken { folder }),
        };
        Ok(Self { log, begun, folder, target, there, progress: Arc::default(), _lock: lock })
    }

    /// How far it has come; stays good while it runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Runs it to its end. Blocks.
    ///
    /// # Errors
    /// See [`BackupError`]. The folder then holds the backup before this one, whole, if there was one.
    pub fn run(self) -> Result<BackedUp, BackupError> {
        let sources = sources(&self.log)?;
        self.progress.begin(sources.len(), sources.iter().map(|s| s.bytes).sum());
        self.check_history(&sources)?;
        let mut files = Vec::with_capacity(sources.len());
        for (i, source) in sources.iter().enumerate() {
            let line = match self.find(source)? {
                Some(line) => line,
                None => self.copy(source, self.end_of(&sources, i)?)?,
            };
            self.progress.file_done();
            files.push(line);
        }
        let at_target = |action| failed(action, &self.folder);
        self.target.sync_folder(FOLDER).map_err(at_target("syncing"))?;
        if self.progress.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let manifest = self.manifest(files);
        manifest.write(&*self.target).map_err(at_target("writing the manifest in"))?;
        self.tidy(&manifest.files).map_err(at_target("tidying"))?;
        Ok(BackedUp { op: manifest.tip.op, figures: self.progress.figures() })
    }

    /// Op and identity that the log has where a source ends.
    fn end_of(&self, sources: &[Source], i: usize) -> Result<(u64, Identity), BackupError> {
        match sources.get(i + 1) {
            Some(next) => Ok((next.first_op - 1, next.parent(self.log.cluster)?)),
            None => Ok(self.tip()),
        }
    }

    fn tip(&self) -> (u64, Identity) {
        let root = || (0, Identity::root(self.log.cluster));
        self.log.tip.as_ref().map_or_else(root, |tip| (tip.op.0, tip.identity()))
    }

    /// The tip of the backup that is there must be an op of this log, or the one that is made would put another
    /// history in the place of it.
    fn check_history(&self, sources: &[Source]) -> Result<(), BackupError> {
        let Some(there) = &self.there else { return Ok(()) };
        let op = there.tip.op;
        let in_it = |i: &usize| sources[*i].first_op <= op;
        let at = (0..sources.len()).rev().find(in_it).unwrap_or(0);
        let (end, identity) = self.end_of(sources, at)?;
        let known =
            if end == op { Some(identity) } else { sources[at].identity_of(&self.log, op)? };
        if known.is_some_and(|known| Hex(&known.0).to_string() == there.tip.identity) {
            Ok(())
        } else {
            Err(BackupError::OtherHistory { folder: self.folder.clone(), op })
        }
    }

    fn manifest(&self, files: Vec<FileLine>) -> Manifest {
        let mut tenants: Vec<TenantLine> = self.log.tenants.iter().map(tenant_line).collect();
        tenants.sort_by(|a, b| a.reference.cmp(&b.reference));
        let (op, identity) = self.tip();
        let view = self.log.tip.as_ref().map_or(0, |tip: &Header| tip.view.0);
        Manifest {
            format: BACKUP_FORMAT,
            log_format: FORMAT,
            cluster: Hex(&self.log.cluster).to_string(),
            created_at: self.begun.to_string(),
            tip: Tip { op, view, identity: Hex(&identity.0).to_string() },
            tenants,
            files,
        }
    }

    /// Removes what the manifest does not name: contents that are no longer the log's, what was broken off.
    fn tidy(&self, files: &[FileLine]) -> io::Result<()> {
        for name in self.target.list(FOLDER)? {
            let path = format!("{FOLDER}/{name}");
            if !files.iter().any(|line| line.file == path) {
                self.target.remove(&path)?;
            }
        }
        self.target.sync_folder(FOLDER)
    }
}

fn tenant_line(tip: &TenantTip) -> TenantLine {
    TenantLine {
        tenant: tip.name.as_ref().map_or("$cluster", TenantName::as_str).to_owned(),
        reference: Hex(&tip.reference).to_string(),
        log_id: Hex(&tip.log_id).to_string(),
        records: tip.records,
        origin: tip.origin.clone(),
    }
}
