//! The log on disk: segments of frames, one writer, many readers.
//!
//! This module knows files and frames. It does not know records, tenants or what may be appended.

pub(crate) mod frame;
pub(crate) mod recovery;
pub(crate) mod run;
pub(crate) mod superblock;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use kimberlite_consensus::Identity;
use rustix::fs::{FallocateFlags, fallocate, fdatasync, fsync};

/// The format that this version writes and reads.
pub(crate) const FORMAT: u32 = 1;
/// Where the first frame of a segment begins.
pub(crate) const SEGMENT_HEAD_BYTES: u64 = 4096;
pub(crate) const END_MARK_BYTES: u64 = 16;
const SEGMENT_MAGIC: &[u8; 8] = b"KMBLSEG1";
const END_MARK: &[u8; 4] = b"KEND";
const SEGMENT_SEALED_BYTES: usize = 72;

/// A segment file, open for reading.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: File,
    /// Relative to the data folder.
    pub(crate) name: String,
    pub(crate) first_op: u64,
}

/// The path of the segment that begins with this op, relative to the data folder.
fn segment_name(first_op: u64) -> String {
    format!("log/{first_op:016x}.segment")
}

/// The writing end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    folder: PathBuf,
    cluster: [u8; 16],
    segment_bytes: u64,
    segment: Arc<Segment>,
    /// Where the next frame goes.
    at: u64,
    /// Where the room of the open segment ends.
    room: u64,
    pub(crate) segments: usize,
}

/// Where an op was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
}

/// Why an op was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// There is no room for another segment; nothing was written.
    #[error("no room for another segment")]
    NoRoom(#[source] io::Error),
    /// A write or a sync failed: what the disk holds is unknown, and the process must stop.
    #[error("writing the log failed")]
    Fatal(#[source] io::Error),
}

impl Log {
    /// Goes on in `segment` at `at`.
    pub(crate) fn new(
        folder: &Path,
        cluster: [u8; 16],
        segment_bytes: u64,
        segment: Arc<Segment>,
        at: u64,
        segments: usize,
    ) -> io::Result<Self> {
        let room = segment.file.metadata()?.len();
        let folder = folder.to_owned();
        Ok(Self { folder, cluster, segment_bytes, segment, at, room, segments })
    }

    /// Writes a frame and makes it durable.
    ///
    /// # Errors
    /// After [`WriteError::Fatal`] the log must not be used.
    pub(crate) fn append(
        &mut self,
        frame: &[u8],
        op: u64,
        parent: Identity,
    ) -> Result<Written, WriteError> {
        let length = frame.len() as u64;
        if self.at + length + END_MARK_BYTES > self.room {
            self.roll(op, parent, length)?;
        }
        let offset = self.at;
        self.segment.file.write_all_at(frame, offset).map_err(WriteError::Fatal)?;
        fdatasync(&self.segment.file).map_err(|e| WriteError::Fatal(e.into()))?;
        self.at += length;
        Ok(Written { segment: Arc::clone(&self.segment), offset })
    }

    /// Closes the open segment and opens the next one with room for at least one frame of `length`.
    fn roll(&mut self, op: u64, parent: Identity, length: u64) -> Result<(), WriteError> {
        let bytes = self.segment_bytes.max(SEGMENT_HEAD_BYTES + length + END_MARK_BYTES);
        let next = create_segment(&self.folder, self.cluster, op, parent, bytes)
            .map_err(WriteError::NoRoom)?;
        end_segment(&self.segment.file, self.at, op).map_err(WriteError::Fatal)?;
        self.segment = Arc::new(next);
        self.at = SEGMENT_HEAD_BYTES;
        self.room = bytes;
        self.segments += 1;
        Ok(())
    }
}

/// Writes the end mark at `at` and cuts the file behind it.
pub(crate) fn end_segment(file: &File, at: u64, next_op: u64) -> io::Result<()> {
    let next = next_op.to_le_bytes();
    let mut mark = [0; END_MARK_BYTES as usize];
    mark[..4].copy_from_slice(END_MARK);
    mark[4..8].copy_from_slice(&crc32fast::hash(&next).to_le_bytes());
    mark[8..].copy_from_slice(&next);
    file.write_all_at(&mark, at)?;
    file.set_len(at + END_MARK_BYTES)?;
    Ok(fsync(file)?)
}

/// The first op of the next segment, where `bytes` begin with a valid end mark.
pub(crate) fn read_end_mark(bytes: &[u8]) -> Option<u64> {
    let mark = bytes.get(..END_MARK_BYTES as usize)?;
    let next: [u8; 8] = mark[8..].try_into().expect("8");
    (mark[..4] == END_MARK[..] && mark[4..8] == crc32fast::hash(&next).to_le_bytes())
        .then(|| u64::from_le_bytes(next))
}

/// Makes a segment file with its room and its head, durable together with its name.
pub(crate) fn create_segment(
    folder: &Path,
    cluster: [u8; 16],
    first_op: u64,
    parent: Identity,
    bytes: u64,
) -> io::Result<Segment> {
    let name = segment_name(first_op);
    let path = folder.join(&name);
    let made = path.with_extension("new");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&made)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    file.write_all_at(&encode_segment_head(cluster, first_op, parent), 0)?;
    fsync(&file)?;
    std::fs::rename(&made, &path)?;
    sync_folder(path.parent().expect("a segment lies in a folder"))?;
    Ok(Segment { file, name, first_op })
}

fn encode_segment_head(cluster: [u8; 16], first_op: u64, parent: Identity) -> Vec<u8> {
    let mut head = Vec::with_capacity(SEGMENT_HEAD_BYTES as usize);
    head.extend_from_slice(SEGMENT_MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&cluster);
    head.extend_from_slice(&first_op.to_le_bytes());
    head.extend_from_slice(&parent.0);
    assert!(head.len() == SEGMENT_SEALED_BYTES);
    let seal = *blake3::hash(&head).as_bytes();
    head.extend_from_slice(&seal);
    head.resize(SEGMENT_HEAD_BYTES as usize, 0);
    head
}

/// First op and parent of a segment's head, when it holds and belongs to `cluster`.
pub(crate) fn decode_segment_head(bytes: &[u8], cluster: [u8; 16]) -> Option<(u64, Identity)> {
    let (sealed, seal) = bytes.split_at_checked(SEGMENT_SEALED_BYTES)?;
    let holds = sealed[..8] == SEGMENT_MAGIC[..]
        && sealed[8..12] == FORMAT.to_le_bytes()
        && sealed[16..32] == cluster
        && seal.get(..32)? == blake3::hash(sealed).as_bytes();
    let first_op = u64::from_le_bytes(sealed[32..40].try_into().expect("8"));
    holds.then(|| (first_op, Identity(sealed[40..72].try_into().expect("32"))))
}

/// Makes names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    Ok(fsync(File::open(folder)?)?)
}
