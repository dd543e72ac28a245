//! A backup that is read: every file against the manifest.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FlockOperation, flock};

use super::{FileLine, MANIFEST, Manifest, RestoreError, Step, failed, segment_name, sixteen};
use crate::{
    backup::{
        copy::pieces,
        manifest::{MARK, ManifestError, mark},
    },
    disk::{Disk, DiskFile, ReadOnlyDisk},
    log::{
        FORMAT, Segment, packed,
        walk::{ClosedFrames, Frame},
    },
};

/// What a backup holds whose files are all what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedBackup {
    /// Files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The last op.
    pub op: u64,
    /// Records of all tenants.
    pub records: u64,
    /// Tenants, the system tenant included.
    pub tenants: u64,
    /// When it was made (RFC 3339).
    pub created_at: String,
}

/// Whether a folder is one that backups are written to.
pub fn is_backup(folder: &Path) -> bool {
    folder.join(MARK).exists() || folder.join(MANIFEST).exists()
}

/// Compares every file of a backup with its manifest. Blocks.
///
/// # Errors
/// See [`RestoreError`].
pub fn check_backup(
    folder: &Path,
    told: &mut dyn FnMut(Step<'_>),
) -> Result<CheckedBackup, RestoreError> {
    let source = Source::open(folder)?;
    source.read(None, told)?;
    let manifest = source.manifest;
    Ok(CheckedBackup {
        files: manifest.files.len() as u64,
        bytes: manifest.files.iter().map(|f| f.bytes).sum(),
        op: manifest.tip.op,
        records: manifest.tenants.iter().map(|t| t.records).sum(),
        tenants: manifest.tenants.len() as u64,
        created_at: manifest.created_at,
    })
}

/// See the module. Files are opened for reading alone: a backup may lie where nothing can be written.
pub(super) struct Source {
    folder: PathBuf,
    disk: Arc<dyn Disk>,
    pub(super) manifest: Manifest,
    /// Shared: no backup changes the folder meanwhile.
    _lock: File,
}

impl Source {
    pub(super) fn open(folder: &Path) -> Result<Self, RestoreError> {
        let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk::new(folder));
        let path = folder.join(MARK);
        let no_backup = || RestoreError::NoBackup { folder: folder.to_owned() };
        let damaged = |file, what| RestoreError::Damaged { file, offset: None, what };
        let lock = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                if folder.join(MANIFEST).exists() {
                    damaged(path.clone(), "it is missing")
                } else {
                    no_backup()
                }
            }
            _ => failed("opening", &path)(error),
        })?;
        flock(&lock, FlockOperation::NonBlockingLockShared)
            .map_err(|_| RestoreError::Busy { folder: folder.to_owned() })?;
        let file = folder.join(MANIFEST);
        let manifest = Manifest::read(&*disk).map_err(|error| match error {
            ManifestError::Absent => no_backup(),
            ManifestError::Damaged => damaged(file.clone(), "its seal does not match"),
            ManifestError::Format(found) => RestoreError::Format { found },
            ManifestError::Io(source) => failed("reading", &file)(source),
        })?;
        if manifest.log_format != FORMAT {
            return Err(RestoreError::Format { found: manifest.log_format });
        }
        if std::fs::read(&path).unwrap_or_default() != mark(&manifest.cluster).as_bytes() {
            return Err(damaged(path, "it does not name the cluster of the manifest"));
        }
        Ok(Self { folder: folder.to_owned(), disk, manifest, _lock: lock })
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Reads every file and compares it with the manifest; into a data folder where one is given.
    pub(super) fn read(
        &self,
        into: Option<&dyn Disk>,
        told: &mut dyn FnMut(Step<'_>),
    ) -> Result<(), RestoreError> {
        let total = self.manifest.files.iter().map(|f| f.bytes).sum();
        let mut done = 0;
        for line in &self.manifest.files {
            self.file(line, into, &mut |bytes| {
                done += bytes;
                told(Step::Files(done, total));
            })?;
        }
        Ok(())
    }

    fn file(
        &self,
        line: &FileLine,
        into: Option<&dyn Disk>,
        went_on: &mut dyn FnMut(u64),
    ) -> Result<(), RestoreError> {
        let path = self.folder.join(&line.file);
        let wrong = |offset, what| RestoreError::Damaged { file: path.clone(), offset, what };
        let from = self.disk.open(&line.file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => wrong(None, "it is missing"),
            _ => failed("opening", &path)(error),
        })?;
        let length = from.length().map_err(failed("reading", &path))?;
        if length != line.bytes {
            return Err(wrong(Some(length.min(line.bytes)), "its length is another"));
        }
        let name = segment_name(line.first_op);
        let writing = |error| failed("writing", Path::new(&name))(error);
        let to = into.map(|disk| disk.create(&name)).transpose().map_err(writing)?;
        let mut hasher = blake3::Hasher::new();
        let reading = |error| failed("reading", &path)(error);
        pieces(&*from, length, &reading, &mut |piece, at| {
            hasher.update(piece);
            if let Some(to) = &to {
                to.write_all_at(piece, at).map_err(writing)?;
            }
            went_on(piece.len() as u64);
            Ok(())
        })?;
        if hasher.finalize().to_hex().as_str() != line.blake3 {
            let offset = self.first_damage(line, from);
            return Err(wrong(offset, "its BLAKE3 does not match the manifest"));
        }
        to.map_or(Ok(()), |to| to.sync().map_err(writing))
    }

    /// Where the frames of a file do not hold, as far as they tell.
    fn first_damage(&self, line: &FileLine, file: Arc<dyn DiskFile>) -> Option<u64> {
        let cluster = sixteen(&self.manifest.cluster)?;
        let segment = Segment::new(packed::open(file).ok()?, line.file.clone(), line.first_op);
        let is_last = self.manifest.files.last() == Some(line);
        let end = if is_last { line.bytes } else { u64::MAX };
        let mut frames = ClosedFrames::of(cluster, &Arc::new(segment), end).ok()?;
        loop {
            match frames.next().ok()?? {
                Frame::Op { sections, .. } => {
                    let damage = sections.into_iter().find_map(|(_, runs)| runs.err());
                    if let Some(damage) = damage {
                        return Some(damage.offset);
                    }
                }
                Frame::Lost { damage, .. } => return Some(damage.offset),
            }
        }
    }
}
