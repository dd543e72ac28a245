//! The log on disk: segments of frames, one writer, many readers.
//!
//! This module knows files and frames. It does not know records, tenants or what may be appended.

mod ahead;
mod chunks;
mod fetch;
pub(crate) mod frame;
pub(crate) mod framed;
#[cfg(feature = "sim")]
pub(crate) mod holes;
mod last_page;
pub(crate) mod packed;
pub(crate) mod recovery;
pub(crate) mod run;
pub(crate) mod superblock;
pub(crate) mod walk;

use std::{io, sync::Arc};

use kimberlite_consensus::Identity;
use parking_lot::RwLock;

use crate::{
    disk::{DIRECT_BYTES_MIN, Disk, DiskFile, PAGE_BYTES},
    limits::SEGMENT_BYTES_MAX,
};
use ahead::{Ahead, SPARE};
pub(crate) use fetch::OpReader;
use framed::{Framed, Spot};

/// The format that this version writes and reads.
pub(crate) const FORMAT: u32 = 1;
/// Where the first frame of a segment begins.
pub(crate) const SEGMENT_HEAD_BYTES: u64 = 4096;
pub(crate) const END_MARK_BYTES: u64 = 16;
const SEGMENT_MAGIC: &[u8; 8] = b"KMBLSEG1";
const END_MARK: &[u8; 4] = b"KEND";
const SEGMENT_SEALED_BYTES: usize = 72;
/// A segment's head as far as it says something.
pub(crate) const HEAD_SAID_BYTES: usize = 124;

/// Where the segments lie, relative to the data folder.
pub(crate) const FOLDER: &str = "log";
pub(crate) const SEGMENT_SUFFIX: &str = ".segment";

/// A segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Its newest generation.
    file: RwLock<Arc<dyn DiskFile>>,
    /// Relative to the data folder.
    pub(crate) name: String,
    pub(crate) first_op: u64,
}

impl Segment {
    pub(crate) fn new(file: Arc<dyn DiskFile>, name: String, first_op: u64) -> Self {
        Self { file: RwLock::new(file), name, first_op }
    }

    /// Opens a segment, whichever generation is there and whatever its head says.
    pub(crate) fn open(disk: &dyn Disk, path: &str, first_op: u64) -> io::Result<Self> {
        Ok(Self::new(packed::open(disk.open(path)?)?, path.to_owned(), first_op))
    }

    /// The file as it was written, also where it is compressed now.
    pub(crate) fn file(&self) -> Arc<dyn DiskFile> {
        Arc::clone(&self.file.read())
    }

    /// A place in this segment.
    pub(crate) fn spot(&self, offset: u64) -> Spot {
        Spot { first_op: self.first_op, offset }
    }

    /// Reads from another generation from now on, which holds the same.
    pub(crate) fn turn_to(&self, file: Arc<dyn DiskFile>) {
        *self.file.write() = file;
    }
}

/// The path of the segment that begins with this op, relative to the data folder.
pub(crate) fn segment_name(first_op: u64) -> String {
    format!("{FOLDER}/{first_op:016x}{SEGMENT_SUFFIX}")
}

/// The first op of the segment at this path, by its name.
pub(crate) fn segment_op(path: &str) -> Option<u64> {
    let name = path.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(SEGMENT_SUFFIX)?;
    u64::from_str_radix(name, 16).ok()
}

/// The writing end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    cluster: [u8; 16],
    segment_bytes: u64,
    segment: Arc<Segment>,
    /// Where the next frame goes.
    at: u64,
    /// Where the room of the open segment ends.
    room: u64,
    pub(crate) segments: usize,
    ahead: Option<Ahead>,
    /// The page that `at` lies in, up to `at`; behind it, room for a frame to be written.
    pages: Vec<u8>,
}

/// Where an op was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
}

/// Where a log ends.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) segment: Arc<Segment>,
    /// Where the next frame goes.
    pub(crate) at: u64,
    /// Identity of the last op.
    pub(crate) tip: Identity,
}

/// Why an op was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// There is no room on the disk; nothing was written.
    #[error("no room on the disk")]
    NoRoom(#[source] io::Error),
    /// A write or a sync failed: what the disk holds is unknown, and the process must stop.
    #[error("writing the log failed")]
    Fatal(#[source] io::Error),
}

impl Log {
    /// Goes on behind `end`.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        cluster: [u8; 16],
        segment_bytes: u64,
        end: End,
        segments: usize,
    ) -> io::Result<Self> {
        let End { segment, at, tip } = end;
        // A segment that never got its name.
        for left in disk.list(FOLDER)?.iter().filter(|n| !n.ends_with(SEGMENT_SUFFIX)) {
            disk.remove(&format!("{FOLDER}/{left}"))?;
        }
        let (pages, ends) = last_page::read(&segment, at, tip)?;
        let room = if ends { at } else { segment.file().length()? };
        let ahead = disk.ahead().map(|pace| {
            let (disk, file) = (Arc::clone(&disk), segment.file());
            Ahead::start(disk, file, at, room, segment_bytes, pace)
        });
        let ahead = ahead.transpose()?;
        Ok(Self { disk, cluster, segment_bytes, segment, at, room, segments, ahead, pages })
    }

    /// The open segment, and where what was written ends in it.
    pub(crate) fn end(&self) -> (&Segment, u64) {
        (&self.segment, self.at)
    }

    pub(crate) fn cluster(&self) -> [u8; 16] {
        self.cluster
    }

    /// Writes a frame and makes it durable.
    ///
    /// # Errors
    /// After [`WriteError::Fatal`] the log must not be used.
    pub(crate) fn append(
        &mut self,
        frame: &Framed,
        op: u64,
        parent: Identity,
    ) -> Result<Written, WriteError> {
        let length = frame.bytes().len() as u64;
        if self.at + length + END_MARK_BYTES > self.room {
            self.roll(op, parent, length)?;
        }
        let offset = self.at;
        let frame = frame.placed(self.spot());
        self.write_pages(frame.bytes()).map_err(|e| match e.kind() {
            // On a file system that copies on write. Whatever was written is invalid and is overwritten next.
            io::ErrorKind::StorageFull => WriteError::NoRoom(e),
            _ => WriteError::Fatal(e),
        })?;
        self.segment.file().sync().map_err(WriteError::Fatal)?;
        self.at += length;
        let done = self.pages.len() - (self.at % PAGE_BYTES) as usize;
        self.pages.drain(..done);
        Ok(Written { segment: Arc::clone(&self.segment), offset })
    }

    /// Where the next frame lies, if it fits the open segment.
    pub(crate) fn spot(&self) -> Spot {
        self.segment.spot(self.at)
    }

    /// Removes what lies at `from` and behind it, durably; `tip` is the op before. A crash in between is mended at the next
    /// start, by a superblock that says where the log is being cut.
    pub(crate) fn truncate(&mut self, from: &Written, tip: Identity) -> io::Result<()> {
        if from.segment.first_op != self.segment.first_op {
            let files = recovery::list_segments(&*self.disk).map_err(io::Error::other)?;
            let behind: Vec<String> =
                files.into_iter().filter(|f| *f > from.segment.name).collect();
            recovery::remove_behind(&*self.disk, &behind)?;
            self.segments -= behind.len();
            self.segment = Arc::clone(&from.segment);
            // It was closed: the room behind it is gone, and the next op goes to a new segment.
            self.room = self.segment.file().length()?;
            self.at = self.room;
            if let Some(ahead) = &self.ahead {
                ahead.turn_to(self.segment.file(), self.at, self.room);
            }
        }
        recovery::blank(&*self.segment.file(), from.offset, self.at)?;
        self.at = from.offset;
        let ends;
        (self.pages, ends) = last_page::read(&self.segment, self.at, tip)?;
        if ends {
            self.room = self.at;
        }
        Ok(())
    }

    /// Writes a frame at `at` in whole pages: what lies before it in its first page is known, zeros lie behind it.
    /// Leaves in `pages` what was written of the frame's last page, up to its end, and perhaps pages before that;
    /// after an error they are as they were.
    fn write_pages(&mut self, frame: &[u8]) -> io::Result<()> {
        let before = self.pages.len();
        let page = self.at - before as u64;
        let length = before + frame.len();
        let padded = (length as u64).next_multiple_of(PAGE_BYTES).min(self.room - page);
        if let Some(ahead) = &self.ahead {
            ahead.claim(page + padded);
        }
        let first = (PAGE_BYTES as usize - before) % PAGE_BYTES as usize;
        if frame.len() >= DIRECT_BYTES_MIN
            && frame[first..].as_ptr().align_offset(PAGE_BYTES as usize) == 0
        {
            return self.write_in_place(frame, first, page + padded);
        }
        self.pages.extend_from_slice(frame);
        self.pages.resize(padded as usize, 0);
        let written = self.segment.file().write_all_at(&self.pages, page);
        self.pages.truncate(if written.is_ok() { length } else { before });
        written
    }

    /// The same for a frame that lies in memory as in the file, but for its `first` bytes: it is not copied.
    fn write_in_place(&mut self, frame: &[u8], first: usize, end: u64) -> io::Result<()> {
        let file = self.segment.file();
        let before = self.pages.len();
        let (front, rest) = frame.split_at(first);
        let (middle, last) = rest.split_at(rest.len() - rest.len() % PAGE_BYTES as usize);
        if first > 0 {
            self.pages.extend_from_slice(front);
            let written = file.write_all_at(&self.pages, self.at - before as u64);
            self.pages.truncate(before);
            written?;
        }
        let at = self.at + first as u64;
        file.write_all_at(middle, at)?;
        let at = at + middle.len() as u64;
        let mut tail = last.to_vec();
        tail.resize((end - at) as usize, 0);
        file.write_all_at(&tail, at)?;
        tail.truncate(last.len());
        self.pages = tail;
        Ok(())
    }

    /// Closes the open segment and opens the next one with room for at least one frame of `length`.
    fn roll(&mut self, op: u64, parent: Identity, length: u64) -> Result<(), WriteError> {
        let bytes = self.segment_bytes.max(SEGMENT_HEAD_BYTES + length + END_MARK_BYTES);
        let head = Head { cluster: self.cluster, first_op: op, parent };
        let spare = self.ahead.as_ref().and_then(Ahead::take_spare);
        let next = match spare {
            Some(file) if bytes == self.segment_bytes => {
                // Its room is there, but the name may need some: a full disk shows here.
                name_segment(&*self.disk, file, SPARE, head)
            }
            _ => create_segment(&*self.disk, head, bytes),
        };
        let next = next.map_err(WriteError::NoRoom)?;
        // Behind this the old file has less room; nothing more is prepared in it.
        if let Some(ahead) = &self.ahead {
            ahead.turn_to(next.file(), SEGMENT_HEAD_BYTES, bytes);
        }
        end_segment(&*self.segment.file(), self.at, op).map_err(WriteError::Fatal)?;
        self.segment = Arc::new(next);
        self.at = SEGMENT_HEAD_BYTES;
        self.pages.clear();
        self.room = bytes;
        self.segments += 1;
        Ok(())
    }
}

/// Writes the end mark at `at` and cuts the file behind it.
pub(crate) fn end_segment(file: &dyn DiskFile, at: u64, next_op: u64) -> io::Result<()> {
    file.write_all_at(&end_mark(next_op), at)?;
    file.set_length(at + END_MARK_BYTES)?;
    file.sync()
}

/// The mark behind the last frame of a segment that the segment beginning with `next_op` follows.
pub(crate) fn end_mark(next_op: u64) -> [u8; END_MARK_BYTES as usize] {
    let next = next_op.to_le_bytes();
    let mut mark = [0; END_MARK_BYTES as usize];
    mark[..4].copy_from_slice(END_MARK);
    mark[4..8].copy_from_slice(&crc32fast::hash(&next).to_le_bytes());
    mark[8..].copy_from_slice(&next);
    mark
}

/// The first op of the next segment, where `bytes` begin with a valid end mark.
pub(crate) fn read_end_mark(bytes: &[u8]) -> Option<u64> {
    let mark = bytes.get(..END_MARK_BYTES as usize)?;
    let next: [u8; 8] = mark[8..].try_into().expect("8");
    (mark[..4] == END_MARK[..] && mark[4..8] == crc32fast::hash(&next).to_le_bytes())
        .then(|| u64::from_le_bytes(next))
}

/// A segment's generation, as its head has it.
pub(crate) fn generation(head: &[u8]) -> u16 {
    head.get(12..14).map_or(0, |b| u16::from_le_bytes(b.try_into().expect("2")))
}

/// What a segment's head says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) cluster: [u8; 16],
    pub(crate) first_op: u64,
    /// Identity of the op before.
    pub(crate) parent: Identity,
}

/// Makes a segment file with its room and its head, durable together with its name.
pub(crate) fn create_segment(disk: &dyn Disk, head: Head, bytes: u64) -> io::Result<Segment> {
    let made = format!("{}.new", segment_name(head.first_op));
    let file = disk.create(&made)?;
    if let Err(error) = file.reserve(bytes) {
        // What was reserved of it is room that others need.
        disk.remove(&made)?;
        return Err(error);
    }
    name_segment(disk, file, &made, head)
}

/// Gives a prepared file its head and its name, both durable.
fn name_segment(
    disk: &dyn Disk,
    file: Arc<dyn DiskFile>,
    made: &str,
    head: Head,
) -> io::Result<Segment> {
    let name = segment_name(head.first_op);
    file.write_all_at(&encode_segment_head(head), 0)?;
    file.sync()?;
    disk.rename(made, &name)?;
    disk.sync_folder(FOLDER)?;
    Ok(Segment::new(file, name, head.first_op))
}

pub(crate) fn encode_segment_head(of: Head) -> Vec<u8> {
    let mut head = Vec::with_capacity(SEGMENT_HEAD_BYTES as usize);
    head.extend_from_slice(SEGMENT_MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&of.cluster);
    head.extend_from_slice(&of.first_op.to_le_bytes());
    head.extend_from_slice(&of.parent.0);
    assert!(head.len() == SEGMENT_SEALED_BYTES);
    let seal = *blake3::hash(&head).as_bytes();
    head.extend_from_slice(&seal);
    head.resize(SEGMENT_HEAD_BYTES as usize, 0);
    head
}

/// How a segment file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadForm {
    /// Frames, as they were written.
    Frames,
    /// Compressed stretches, and a table of where they lie.
    Packed {
        /// Bytes of the file before.
        length: u64,
        /// Where the table begins.
        table: u64,
    },
}

/// The layout that a head speaks of, where it can be.
pub(crate) fn head_form(head: &[u8]) -> Option<HeadForm> {
    match head.get(14)? {
        0 => Some(HeadForm::Frames),
        1 => {
            let said = head.get(..HEAD_SAID_BYTES)?;
            let number = |at: usize| u64::from_le_bytes(said[at..at + 8].try_into().expect("8"));
            let (length, table) = (number(104), number(112));
            let holds = said[120..] == crc32fast::hash(&said[..120]).to_le_bytes()
                && length <= SEGMENT_BYTES_MAX
                && table <= SEGMENT_BYTES_MAX;
            holds.then_some(HeadForm::Packed { length, table })
        }
        _ => None,
    }
}

/// The head of the compressed generation of a segment that has this head.
pub(crate) fn packed_head(plain: &[u8], length: u64, table: u64) -> Vec<u8> {
    let mut head = plain[..SEGMENT_SEALED_BYTES].to_vec();
    let generation = u16::from_le_bytes(head[12..14].try_into().expect("2")).saturating_add(1);
    head[12..14].copy_from_slice(&generation.to_le_bytes());
    head[14] = 1;
    let seal = *blake3::hash(&head).as_bytes();
    head.extend_from_slice(&seal);
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&table.to_le_bytes());
    head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    assert!(head.len() == HEAD_SAID_BYTES);
    head.resize(SEGMENT_HEAD_BYTES as usize, 0);
    head
}

/// First op and parent of a segment's head, when it holds and belongs to `cluster`.
pub(crate) fn decode_segment_head(bytes: &[u8], cluster: [u8; 16]) -> Option<(u64, Identity)> {
    let (sealed, seal) = bytes.split_at_checked(SEGMENT_SEALED_BYTES)?;
    let holds = sealed[..8] == SEGMENT_MAGIC[..]
        && sealed[8..12] == FORMAT.to_le_bytes()
        && sealed[15] == 0
        && head_form(bytes).is_some()
        && sealed[16..32] == cluster
        && seal.get(..32)? == blake3::hash(sealed).as_bytes();
    let first_op = u64::from_le_bytes(sealed[32..40].try_into().expect("8"));
    holds.then(|| (first_op, Identity(sealed[40..72].try_into().expect("32"))))
}
