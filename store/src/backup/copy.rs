//! Segments into a backup: found there, or copied and read back.

use std::{io, path::Path, sync::Arc};

use kimberlite_consensus::Identity;

use super::{Backup, BackupError, failed, manifest::FileLine};
use crate::{
    disk::DiskFile,
    error::Damage,
    log::{
        FOLDER, SEGMENT_HEAD_BYTES, Segment, decode_segment_head, generation, packed, segment_name,
        segment_op,
        walk::{ClosedFrames, Frame},
    },
    node::CommittedLog,
};

pub(crate) const COPY_BYTES: usize = 1 << 20;

/// A segment to be backed up: the file that had its name when the backup began, whatever has it by now.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) first_op: u64,
    file: Arc<dyn DiskFile>,
    head: Vec<u8>,
    /// That are committed.
    pub(super) bytes: u64,
    /// It goes on behind them.
    is_open: bool,
}

impl Source {
    fn new(
        first_op: u64,
        file: Arc<dyn DiskFile>,
        bytes: u64,
        is_open: bool,
    ) -> Result<Self, BackupError> {
        let mut head = vec![0; SEGMENT_HEAD_BYTES as usize];
        let name = segment_name(first_op);
        let read = file.read_at(&mut head, 0).map_err(failed("reading", Path::new(&name)))?;
        head.truncate(read);
        Ok(Self { first_op, file, head, bytes, is_open })
    }

    /// Identity of the op before the first.
    pub(super) fn parent(&self, cluster: [u8; 16]) -> Result<Identity, BackupError> {
        let decoded = decode_segment_head(&self.head, cluster);
        decoded.filter(|(op, _)| *op == self.first_op).map(|(_, parent)| parent).ok_or_else(|| {
            Damage { file: segment_name(self.first_op), offset: 0, what: "a segment's head" }.into()
        })
    }

    /// Where its frames end, if no end mark says so.
    fn end(&self) -> u64 {
        if self.is_open { self.bytes } else { u64::MAX }
    }

    /// Identity of an op inside; `None` where it ends before.
    pub(super) fn identity_of(
        &self,
        log: &CommittedLog,
        op: u64,
    ) -> Result<Option<Identity>, BackupError> {
        let name = segment_name(self.first_op);
        let reading = || failed("reading", Path::new(&name));
        let file = packed::open(Arc::clone(&self.file)).map_err(reading())?;
        let segment = Arc::new(Segment::new(file, name.clone(), self.first_op));
        let mut frames = ClosedFrames::of(log.cluster, &segment, self.end()).map_err(reading())?;
        while let Some(frame) = frames.next().map_err(reading())? {
            match frame {
                Frame::Op { header, .. } if header.op.0 == op => {
                    return Ok(Some(header.identity()));
                }
                Frame::Op { .. } => {}
                Frame::Lost { damage, .. } => return Err(damage.into()),
            }
        }
        Ok(None)
    }
}

/// All segments up to the one that the committed log ends in.
pub(super) fn sources(log: &CommittedLog) -> Result<Vec<Source>, BackupError> {
    let folder = Path::new(FOLDER);
    let mut sources = Vec::new();
    for name in log.disk.list(FOLDER).map_err(failed("listing", folder))? {
        let path = format!("{FOLDER}/{name}");
        let Some(first_op) = segment_op(&path).filter(|op| *op < log.open) else { continue };
        let opened = log.disk.open(&path).and_then(|file| {
            let bytes = file.length()?;
            Ok((file, bytes))
        });
        let (file, bytes) = opened.map_err(failed("opening", Path::new(&path)))?;
        sources.push(Source::new(first_op, file, bytes, false)?);
    }
    sources.push(Source::new(log.open, Arc::clone(&log.file), log.at, true)?);
    for source in &sources {
        source.parent(log.cluster)?;
    }
    Ok(sources)
}

/// Takes a piece of a file, and where it lies.
pub(crate) type Take<'a, E> = dyn FnMut(&[u8], u64) -> Result<(), E> + 'a;

/// Hands on the first `bytes` of a file, in pieces; stops where `take` says so.
pub(crate) fn pieces<E>(
    file: &dyn DiskFile,
    bytes: u64,
    failed: &dyn Fn(io::Error) -> E,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    let mut piece = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(COPY_BYTES as u64) as usize;
        file.read_exact_at(&mut piece[..length], at).map_err(failed)?;
        take(&piece[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

impl Backup {
    /// A closed segment that the folder has: the same generation of the same ops, by its head and its length.
    pub(super) fn find(&self, source: &Source) -> Result<Option<FileLine>, BackupError> {
        let Some(there) = self.there.as_ref().filter(|_| !source.is_open) else { return Ok(None) };
        let generation = generation(&source.head);
        let same = |line: &&FileLine| {
            (line.first_op, line.generation, line.bytes)
                == (source.first_op, generation, source.bytes)
        };
        let Some(line) = there.files.iter().find(same) else { return Ok(None) };
        let path = self.folder.join(&line.file);
        let reading = || failed("reading", &path);
        if !self.target.exists(&line.file).map_err(reading())? {
            return Ok(None);
        }
        let file = self.target.open(&line.file).map_err(reading())?;
        let mut head = vec![0; SEGMENT_HEAD_BYTES as usize];
        let read = file.read_at(&mut head, 0).map_err(reading())?;
        if file.length().map_err(reading())? != source.bytes || head[..read] != source.head {
            return Ok(None);
        }
        self.progress.kept(source.bytes);
        Ok(Some(line.clone()))
    }

    /// Copies a segment, durably, and checks the copy. Its name is durable once the folder is synced.
    pub(super) fn copy(
        &self,
        source: &Source,
        end: (u64, Identity),
    ) -> Result<FileLine, BackupError> {
        let name = segment_name(source.first_op);
        let made = format!("{name}.new");
        let path = self.folder.join(&made);
        let writing = || failed("writing", &path);
        let file = self.target.create(&made).map_err(writing())?;
        let reading = |error| failed("reading", Path::new(&name))(error);
        let mut hasher = blake3::Hasher::new();
        pieces(&*source.file, source.bytes, &reading, &mut |piece, at| {
            hasher.update(piece);
            file.write_all_at(piece, at).map_err(writing())?;
            self.progress.copied(piece.len() as u64);
            self.goes_on()
        })?;
        file.sync().map_err(writing())?;
        let hash = hasher.finalize();
        self.read_back(&*file, source, hash, &path)?;
        self.check_copy(file, source, end)?;
        let hex = hash.to_hex().to_string();
        let line = FileLine::new(source.first_op, generation(&source.head), source.bytes, hex);
        self.target.rename(&made, &line.file).map_err(writing())?;
        Ok(line)
    }

    fn goes_on(&self) -> Result<(), BackupError> {
        if self.progress.is_cancelled() { Err(BackupError::Cancelled) } else { Ok(()) }
    }

    fn read_back(
        &self,
        file: &dyn DiskFile,
        source: &Source,
        hash: blake3::Hash,
        path: &Path,
    ) -> Result<(), BackupError> {
        let mut hasher = blake3::Hasher::new();
        let reading = |error| failed("reading back", path)(error);
        pieces(file, source.bytes, &reading, &mut |piece, _| {
            hasher.update(piece);
            self.goes_on()
        })?;
        if hasher.finalize() == hash {
            Ok(())
        } else {
            Err(BackupError::ReadBack { file: path.to_owned() })
        }
    }

    /// Goes through the frames of a copy: what is backed up is sound, and ends where the log goes on.
    fn check_copy(
        &self,
        file: Arc<dyn DiskFile>,
        source: &Source,
        (end, identity): (u64, Identity),
    ) -> Result<(), BackupError> {
        let name = segment_name(source.first_op);
        let reading = || failed("reading back", Path::new(&name));
        let file = packed::open(file).map_err(reading())?;
        let segment = Arc::new(Segment::new(file, name.clone(), source.first_op));
        let cluster = self.log.cluster;
        let mut frames = ClosedFrames::of(cluster, &segment, source.end()).map_err(reading())?;
        let mut reached = (source.first_op - 1, source.parent(cluster)?);
        while let Some(frame) = frames.next().map_err(reading())? {
            self.goes_on()?;
            match frame {
                Frame::Op { header, sections, offset, .. } => {
                    if (header.op.0, header.parent) != (reached.0 + 1, reached.1) {
                        let what = "an op does not follow the one before";
                        return Err(Damage { file: name.clone(), offset, what }.into());
                    }
                    reached = (header.op.0, header.identity());
                    for (_, runs) in sections {
                        runs?;
                    }
                }
                Frame::Lost { damage, .. } => return Err(damage.into()),
            }
        }
        if reached == (end, identity) {
            return Ok(());
        }
        let what = "a segment does not end where the log goes on";
        Err(Damage { file: name.clone(), offset: 0, what }.into())
    }
}
