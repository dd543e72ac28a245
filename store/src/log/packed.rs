//! Closed segments, compressed: what the file held is cut into stretches, each compressed on its own.
//!
//! Offsets stay those of the segment as it was written: what points into a segment points into its compressed
//! generation just as well, and readers need not know which of the two they have.

use std::{
    cell::RefCell,
    error::Error,
    fmt,
    io::{self, ErrorKind},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use zstd::bulk::{Compressor, Decompressor};

use super::{
    END_MARK_BYTES, FOLDER, HEAD_SAID_BYTES, HeadForm, SEGMENT_HEAD_BYTES, head_form, packed_head,
    read_end_mark,
};
use crate::{
    disk::{Disk, DiskFile, ZerosError},
    limits::{STRETCH_BYTES, STRETCHES_KEPT},
};

const STRETCH_HEAD_BYTES: usize = 32;
/// The kind of a stretch, beside those of blocks.
const STRETCH_KIND: u8 = 3;
const LEVEL: i32 = 1;
/// Bytes that are read, or written, at once.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes between two syncs while a file is made, so that none of them takes long.
const SYNC_BYTES: u64 = 8 << 20;

/// A compressed file, as if it were not.
#[derive(Debug)]
struct Packed {
    raw: Arc<dyn DiskFile>,
    /// Of this opening, for what is kept of it.
    id: u64,
    /// Bytes that the file held before.
    length: u64,
    /// Where the table of stretches begins.
    table: u64,
}

/// What cannot be read, because a stretch does not hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    /// Where it begins and ends in the segment as it was written.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Where the stretch begins in the file.
    pub(crate) offset: u64,
    pub(crate) what: &'static str,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damaged at byte {}: {}", self.offset, self.what)
    }
}

impl Error for Lost {}

/// What an error says of damage, if it is that.
pub(crate) fn lost(error: &io::Error) -> Option<Lost> {
    error.get_ref().and_then(|inner| inner.downcast_ref()).copied()
}

/// A segment's file as it was written, whichever generation this is.
pub(crate) fn open(raw: Arc<dyn DiskFile>) -> io::Result<Arc<dyn DiskFile>> {
    static IDS: AtomicU64 = AtomicU64::new(0);
    let mut head = [0; HEAD_SAID_BYTES];
    let read = raw.read_at(&mut head, 0)?;
    match head_form(&head[..read]) {
        Some(HeadForm::Packed { length, table }) => {
            let id = IDS.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(Packed { raw, id, length, table }))
        }
        Some(HeadForm::Frames) | None => Ok(raw),
    }
}

/// How many stretches a segment of this length has.
fn stretches(length: u64) -> u64 {
    length.saturating_sub(SEGMENT_HEAD_BYTES).div_ceil(STRETCH_BYTES as u64)
}

impl Packed {
    /// Where a stretch begins and ends in the segment as it was written.
    fn range(&self, number: u64) -> (u64, u64) {
        let from = SEGMENT_HEAD_BYTES + number * STRETCH_BYTES as u64;
        (from, (from + STRETCH_BYTES as u64).min(self.length))
    }

    /// Reads a stretch; `out` has its length.
    fn unpack(&self, number: u64, out: &mut [u8]) -> io::Result<()> {
        let (from, to) = self.range(number);
        let entry_at = self.table + 4 * number;
        let lost =
            |offset, what| io::Error::new(ErrorKind::InvalidData, Lost { from, to, offset, what });
        let mut entries = [0; 8];
        if self.raw.read_at(&mut entries, entry_at)? < entries.len() {
            return Err(lost(entry_at, "the file ends inside its table"));
        }
        let place = |at: usize| u32::from_le_bytes(entries[at..at + 4].try_into().expect("4"));
        let (at, end) = (u64::from(place(0)), u64::from(place(4)));
        let most = (STRETCH_HEAD_BYTES + STRETCH_BYTES) as u64;
        if end < at + STRETCH_HEAD_BYTES as u64 || end > at + most {
            return Err(lost(entry_at, "the table of stretches does not hold"));
        }
        UNPACKER.with_borrow_mut(|unpacker| {
            let unpacker = match unpacker {
                Some(unpacker) => unpacker,
                None => unpacker.insert(Unpacker::new()?),
            };
            unpacker.stored.resize((end - at) as usize, 0);
            let read = self.raw.read_at(&mut unpacker.stored, at)?;
            unpacker.unpack(number, read, out).map_err(|what| lost(at, what))
        })
    }

    /// A stretch that is kept for whoever reads beside it next.
    fn kept(&self, number: u64) -> io::Result<Arc<[u8]>> {
        let slot = &KEPT[(self.id.wrapping_mul(31).wrapping_add(number) % STRETCHES_KEPT) as usize];
        if let Some((id, n, stretch)) = &*slot.lock()
            && (*id, *n) == (self.id, number)
        {
            return Ok(Arc::clone(stretch));
        }
        let (from, to) = self.range(number);
        let mut stretch = vec![0; (to - from) as usize];
        self.unpack(number, &mut stretch)?;
        let stretch: Arc<[u8]> = stretch.into();
        *slot.lock() = Some((self.id, number, Arc::clone(&stretch)));
        Ok(stretch)
    }
}

type Slot = Mutex<Option<(u64, u64, Arc<[u8]>)>>;

/// Stretches read last, of all files.
static KEPT: LazyLock<Vec<Slot>> =
    LazyLock::new(|| (0..STRETCHES_KEPT).map(|_| Slot::default()).collect());

thread_local! {
    static UNPACKER: RefCell<Option<Unpacker>> = const { RefCell::new(None) };
}

struct Unpacker {
    zstd: Decompressor<'static>,
    stored: Vec<u8>,
}

impl Unpacker {
    fn new() -> io::Result<Self> {
        Ok(Self { zstd: Decompressor::new()?, stored: Vec::new() })
    }

    /// Takes the stretch apart that `stored` holds `read` bytes of; `out` is all that it may become.
    fn unpack(&mut self, number: u64, read: usize, out: &mut [u8]) -> Result<(), &'static str> {
        let (head, stored) = self.stored.split_at(STRETCH_HEAD_BYTES);
        let plain = u32::from_le_bytes(head[8..12].try_into().expect("4"));
        if read < self.stored.len() {
            return Err("the file ends inside a stretch");
        }
        if head[28..] != checksum(number, &head[..28], stored).to_le_bytes() {
            return Err("the checksum of a stretch does not match");
        }
        let lengths_hold =
            head[4..8] == (stored.len() as u32).to_le_bytes() && plain as usize == out.len();
        if head[1] != STRETCH_KIND || !lengths_hold {
            return Err("a stretch is not the one that the table says");
        }
        match head[0] {
            0 if stored.len() == out.len() => out.copy_from_slice(stored),
            1 => match self.zstd.decompress_to_buffer(stored, out) {
                Ok(n) if n == out.len() => {}
                _ => return Err("a stretch cannot be decompressed"),
            },
            _ => return Err("the codec of a stretch is unknown"),
        }
        Ok(())
    }
}

/// What stands before a stretch's stored bytes.
pub(crate) fn stretch_head(
    number: u64,
    codec: u8,
    plain: usize,
    stored: &[u8],
) -> [u8; STRETCH_HEAD_BYTES] {
    let mut head = [0; STRETCH_HEAD_BYTES];
    head[0] = codec;
    head[1] = STRETCH_KIND;
    head[4..8].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    head[8..12].copy_from_slice(&(plain as u32).to_le_bytes());
    let crc = checksum(number, &head[..28], stored);
    head[28..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Of a stretch: of its number too, so that none is taken for another.
fn checksum(number: u64, head: &[u8], stored: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(head);
    crc.update(stored);
    crc.finalize()
}

impl DiskFile for Packed {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let total = (bytes.len() as u64).min(self.length.saturating_sub(at)) as usize;
        let bytes = &mut bytes[..total];
        let mut done = 0;
        while done < total {
            let here = at + done as u64;
            let left = &mut bytes[done..];
            if here < SEGMENT_HEAD_BYTES {
                let n = left.len().min((SEGMENT_HEAD_BYTES - here) as usize);
                self.raw.read_exact_at(&mut left[..n], here)?;
                done += n;
                continue;
            }
            let number = (here - SEGMENT_HEAD_BYTES) / STRETCH_BYTES as u64;
            let (from, to) = self.range(number);
            let n = left.len().min((to - here) as usize);
            if n as u64 == to - from {
                self.unpack(number, &mut left[..n])?;
            } else {
                let inside = (here - from) as usize;
                left[..n].copy_from_slice(&self.kept(number)?[inside..inside + n]);
            }
            done += n;
        }
        Ok(total)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn write_all_at(&self, _bytes: &[u8], _at: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.raw.sync()
    }

    fn set_length(&self, _length: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn reserve(&self, _length: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write_zeros(&self, _from: u64, _to: u64) -> Result<(), ZerosError> {
        Err(io::Error::from(ErrorKind::ReadOnlyFilesystem).into())
    }
}

/// What came of packing a segment.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its name leads to the compressed generation now.
    Packed { file: Arc<dyn DiskFile>, before: u64, after: u64 },
    /// It is compressed already.
    Already,
    /// Its head or its end do not hold (yet): nothing was done.
    Unfit,
    /// It was asked to stop.
    Stopped,
}

/// Why a segment was not packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// The segment is as it was.
    #[error("compressing a segment failed")]
    Failed(#[from] io::Error),
    /// A sync failed: what the disk holds is unknown, and the process must stop. The segment, or its compressed
    /// generation under its name, is whole.
    #[error("a compressed segment may not be durable")]
    Fatal(#[source] io::Error),
}

/// Writes a closed segment's compressed generation beside it, reads that back, and gives it the segment's name.
pub(crate) fn pack(
    disk: &dyn Disk,
    cluster: [u8; 16],
    path: &str,
    stop: &dyn Fn() -> bool,
) -> Result<Outcome, PackError> {
    let plain = disk.open(path)?;
    let before = plain.length()?;
    let mut head = vec![0; SEGMENT_HEAD_BYTES as usize];
    let read = plain.read_at(&mut head, 0)?;
    if matches!(head_form(&head[..read]), Some(HeadForm::Packed { .. })) {
        return Ok(Outcome::Already);
    }
    let mut mark = [0; END_MARK_BYTES as usize];
    let closed = before > SEGMENT_HEAD_BYTES + END_MARK_BYTES && {
        plain.read_exact_at(&mut mark, before - END_MARK_BYTES)?;
        read_end_mark(&mark).is_some()
    };
    if !closed || super::decode_segment_head(&head[..read], cluster).is_none() {
        return Ok(Outcome::Unfit);
    }
    let made = format!("{path}.new");
    let written = write(disk, &*plain, &made, &head, stop).and_then(|file| {
        let Some((file, after)) = file else { return Ok(None) };
        let same = same(&*plain, &*file, before, stop)?;
        Ok(same.then_some((file, after)))
    });
    let (file, after) = match written {
        Ok(Some(written)) => written,
        Ok(None) => {
            disk.remove(&made)?;
            return Ok(Outcome::Stopped);
        }
        Err(error) => {
            // What was written of it is room that others need.
            let _left_to_the_next_start = disk.remove(&made).is_err();
            return Err(error);
        }
    };
    disk.rename(&made, path)?;
    disk.sync_folder(FOLDER).map_err(PackError::Fatal)?;
    Ok(Outcome::Packed { file, before, after })
}

/// A compressed generation, to be read, and the bytes that its file takes.
type Made = (Arc<dyn DiskFile>, u64);

/// Writes the compressed generation, durably; `None` when told to stop.
fn write(
    disk: &dyn Disk,
    plain: &dyn DiskFile,
    made: &str,
    head: &[u8],
    stop: &dyn Fn() -> bool,
) -> Result<Option<Made>, PackError> {
    let length = plain.length()?;
    let raw = disk.create(made)?;
    let mut out = Output { raw: &*raw, bytes: Vec::new(), at: SEGMENT_HEAD_BYTES, synced: 0 };
    let mut zstd = Compressor::new(LEVEL)?;
    let mut table = Vec::with_capacity(4 * (stretches(length) as usize + 1));
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = SEGMENT_HEAD_BYTES;
    let mut number = 0;
    while at < length {
        if stop() {
            return Ok(None);
        }
        let piece = &mut piece[..(PIECE_BYTES as u64).min(length - at) as usize];
        plain.read_exact_at(piece, at)?;
        for stretch in piece.chunks(STRETCH_BYTES) {
            table.extend_from_slice(&out.place()?);
            out.stretch(number, stretch, &mut zstd)?;
            number += 1;
        }
        out.flush()?;
        at += piece.len() as u64;
    }
    table.extend_from_slice(&out.place()?);
    let table_at = out.end();
    out.bytes.extend_from_slice(&table);
    out.flush()?;
    let after = out.at;
    raw.write_all_at(&packed_head(head, length, table_at), 0)?;
    sync(&*raw)?;
    Ok(Some((open(raw)?, after)))
}

/// Makes the file that is being made durable.
fn sync(raw: &dyn DiskFile) -> Result<(), PackError> {
    raw.sync().map_err(|error| match error.kind() {
        // Nothing rests on this file yet, and room may come back.
        ErrorKind::StorageFull => PackError::Failed(error),
        _ => PackError::Fatal(error),
    })
}

struct Output<'a> {
    raw: &'a dyn DiskFile,
    bytes: Vec<u8>,
    /// Where `bytes` begin.
    at: u64,
    synced: u64,
}

impl Output<'_> {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    fn place(&self) -> io::Result<[u8; 4]> {
        let place = u32::try_from(self.end()).map_err(|_| ErrorKind::FileTooLarge)?;
        Ok(place.to_le_bytes())
    }

    fn stretch(&mut self, number: u64, plain: &[u8], zstd: &mut Compressor<'_>) -> io::Result<()> {
        let packed = zstd.compress(plain)?;
        let (codec, stored) =
            if packed.len() < plain.len() { (1, &packed[..]) } else { (0, plain) };
        let head = stretch_head(number, codec, plain.len(), stored);
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(stored);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PackError> {
        self.raw.write_all_at(&self.bytes, self.at)?;
        self.at = self.end();
        self.bytes.clear();
        if self.at - self.synced >= SYNC_BYTES {
            sync(self.raw)?;
            self.synced = self.at;
        }
        Ok(())
    }
}

/// Reads both and compares them behind their heads; false when told to stop.
fn same(
    plain: &dyn DiskFile,
    packed: &dyn DiskFile,
    length: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let (mut one, mut other) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut at = SEGMENT_HEAD_BYTES;
    while at < length {
        if stop() {
            return Ok(false);
        }
        let n = (PIECE_BYTES as u64).min(length - at) as usize;
        plain.read_exact_at(&mut one[..n], at)?;
        packed.read_exact_at(&mut other[..n], at)?;
        if one[..n] != other[..n] {
            return Err(io::Error::other("what was written does not read back as it was"));
        }
        at += n as u64;
    }
    if packed.length()? == length {
        Ok(true)
    } else {
        Err(io::Error::other("it has another length"))
    }
}

#[cfg(test)]
mod tests {
    use kimberlite_consensus::Identity;

    use super::*;
    use crate::{
        disk::simulated::{Fault, SimulatedDisk},
        log::{Head, create_segment, end_segment},
    };

    /// It is made, written, gets its table and its head, is synced, gets its name, and the name is synced.
    #[test]
    fn a_sync_that_fails_while_a_segment_is_packed_is_fatal_and_all_else_can_be_tried_again() {
        let cluster = [3; 16];
        let cases = (1..=7).flat_map(|n| [(n, Fault::Error), (n, Fault::Full)]);
        for (n, fault) in cases {
            let disk = SimulatedDisk::new();
            let head = Head { cluster, first_op: 1, parent: Identity::root(cluster) };
            let segment = create_segment(&*disk, head, 64 << 10).unwrap();
            let path = segment.name.clone();
            end_segment(&*segment.file(), 40 << 10, 2).unwrap();
            let before = disk.operations();
            disk.fail(n, fault);
            let packed = pack(&*disk, cluster, &path, &|| false);
            assert!(disk.operations() >= before + n, "operation {n} was not met");
            let what = format!("{fault:?} at operation {n}");
            // A lack of room shows at the file's sync, before anything rests on it.
            let fatal = n == 7 || (n == 5 && fault == Fault::Error);
            match packed {
                Err(PackError::Fatal(_)) => assert!(fatal, "{what} is no failed sync"),
                Err(PackError::Failed(_)) => {
                    assert!(!fatal, "{what}: nothing is known of the disk");
                    let again = pack(&*disk, cluster, &path, &|| false);
                    assert!(matches!(again, Ok(Outcome::Packed { .. })), "{what}: {again:?}");
                }
                Ok(done) => panic!("{what}: {done:?}"),
            }
        }
    }

    /// A compressed segment of one stretch, which says that it becomes `plain` bytes; the checksums hold.
    fn of_one_stretch(disk: &SimulatedDisk, stored: &[u8], plain: usize) -> Arc<dyn DiskFile> {
        let at = SEGMENT_HEAD_BYTES;
        let table = at + (STRETCH_HEAD_BYTES + stored.len()) as u64;
        let length = at + STRETCH_BYTES as u64;
        let mut file = packed_head(&vec![0; at as usize], length, table);
        file.extend_from_slice(&stretch_head(0, 1, plain, stored));
        file.extend_from_slice(stored);
        file.extend_from_slice(&(at as u32).to_le_bytes());
        file.extend_from_slice(&(table as u32).to_le_bytes());
        let raw = disk.create("segment").unwrap();
        raw.write_all_at(&file, 0).unwrap();
        open(raw).unwrap()
    }

    #[test]
    fn a_stretch_becomes_no_more_than_a_stretch() {
        let read = |stored: &[u8], plain: usize| {
            let mut out = vec![1; 2 * STRETCH_BYTES];
            let disk = SimulatedDisk::new();
            let file = of_one_stretch(&disk, stored, plain);
            let read = file.read_at(&mut out[..STRETCH_BYTES], SEGMENT_HEAD_BYTES);
            assert!(out[STRETCH_BYTES..].iter().all(|b| *b == 1));
            read.map_err(|e| lost(&e).unwrap().what)
        };
        let zeros = |n: usize| zstd::bulk::compress(&vec![0; n], 19).unwrap();
        assert_eq!(read(&zeros(STRETCH_BYTES), STRETCH_BYTES), Ok(STRETCH_BYTES));
        let (bomb, most) = (zeros(64 << 20), STRETCH_BYTES);
        assert!(bomb.len() < STRETCH_BYTES / 2, "{} bytes hold 64 MiB", bomb.len());
        assert_eq!(read(&bomb, most), Err("a stretch cannot be decompressed"));
        assert_eq!(read(&bomb, 64 << 20), Err("a stretch is not the one that the table says"));
        assert_eq!(read(&zeros(most + 1), most), Err("a stretch cannot be decompressed"));
        assert_eq!(read(&zeros(most - 1), most), Err("a stretch cannot be decompressed"));
    }
}
