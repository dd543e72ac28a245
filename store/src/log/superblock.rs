//! The superblock file: four copies, of which at most two are in doubt at any moment.

use std::{io, sync::Arc};

use kimberlite_consensus::{Identity, Op, Superblock, View, limits::TIME_MAX_US};

use super::FORMAT;
use crate::disk::{Disk, DiskFile};

const MAGIC: &[u8; 8] = b"KMBLSUP1";
const COPIES: u64 = 4;
pub(crate) const COPY_BYTES: u64 = 4096;
const SEALED_BYTES: usize = 8 + 4 + 4 + 8 + 16 + 8 + 8 + 8 + 8 + 32;
/// Bytes of a copy at most, behind which there are zeros: it is longer while the log is being cut, while its end is
/// uncertain, and once a time was promised.
pub(crate) const SAID_BYTES: usize = SEALED_BYTES + 24 + 32;
/// In place of an op: the log is not being cut.
const NO_CUT: u64 = u64::MAX;
/// Behind that: the log went on behind its end.
const UNCERTAIN: u64 = 1;

/// The file that holds the superblock.
#[derive(Debug)]
pub(crate) struct SuperblockFile {
    file: Arc<dyn DiskFile>,
    sequence: u64,
}

/// Why there is no superblock to go on from.
#[derive(Debug)]
pub(crate) enum SuperblockError {
    Io(io::Error),
    /// Another format.
    Format(u32),
    /// No copy holds.
    Damaged,
}

impl From<io::Error> for SuperblockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) const NAME: &str = "superblock";

impl SuperblockFile {
    /// Makes the file.
    pub(crate) fn create(disk: &dyn Disk, superblock: Superblock) -> io::Result<Self> {
        const MADE: &str = "superblock.new";
        let file = disk.create(MADE)?;
        file.set_length(COPIES * COPY_BYTES)?;
        let mut this = Self { file, sequence: 0 };
        this.write(superblock)?;
        disk.rename(MADE, NAME)?;
        disk.sync_folder("")?;
        Ok(this)
    }

    /// Opens the file and reads the latest valid copy.
    pub(crate) fn open(disk: &dyn Disk) -> Result<(Self, Superblock), SuperblockError> {
        let file = disk.open(NAME)?;
        let mut best = None;
        for copy in 0..COPIES {
            let mut bytes = [0; SAID_BYTES];
            if file.read_exact_at(&mut bytes, copy * COPY_BYTES).is_err() {
                continue;
            }
            let Some((format, sequence, superblock)) = decode(&bytes) else { continue };
            if format != FORMAT {
                return Err(SuperblockError::Format(format));
            }
            if best.is_none_or(|(s, _)| sequence > s) {
                best = Some((sequence, superblock));
            }
        }
        let (sequence, superblock) = best.ok_or(SuperblockError::Damaged)?;
        Ok((Self { file, sequence }, superblock))
    }

    /// Makes a superblock durable. A crash in between leaves two good copies of this one or of the last. After
    /// [`io::ErrorKind::StorageFull`] it can be tried again.
    pub(crate) fn write(&mut self, superblock: Superblock) -> io::Result<()> {
        self.sequence += 1;
        let mut bytes = encode(superblock, self.sequence);
        // Over what a longer copy left.
        bytes.resize(SAID_BYTES, 0);
        for half in [0, 2] {
            self.file.write_all_at(&bytes, half * COPY_BYTES)?;
            self.file.write_all_at(&bytes, (half + 1) * COPY_BYTES)?;
            // A lack of room that shows only now is like any other failed sync: nobody knows what was written.
            self.file.sync().map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Where the copies begin that do not hold, or are not followed by zeros.
pub(crate) fn damaged_copies(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let file = disk.open(NAME)?;
    let mut damaged = Vec::new();
    for at in (0..COPIES).map(|copy| copy * COPY_BYTES) {
        let mut bytes = vec![0; COPY_BYTES as usize];
        let read = file.read_at(&mut bytes, at)?;
        let (copy, rest) = bytes.split_first_chunk().expect("a copy is shorter than its place");
        if read < bytes.len() || decode(copy).is_none() || rest.iter().any(|b| *b != 0) {
            damaged.push(at);
        }
    }
    Ok(damaged)
}

fn encode(s: Superblock, sequence: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEALED_BYTES + 32);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&s.replica.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&s.cluster);
    for n in [s.incarnation, s.view.0, s.log_view.0, s.commit.0] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(&s.identity.0);
    assert!(out.len() == SEALED_BYTES);
    let promised = s.closed_us != 0;
    if s.cut.is_some() || s.uncertain || promised {
        out.extend_from_slice(&s.cut.map_or(NO_CUT, |op| op.0).to_le_bytes());
    }
    if s.uncertain || promised {
        out.extend_from_slice(&(if s.uncertain { UNCERTAIN } else { 0 }).to_le_bytes());
    }
    if promised {
        out.extend_from_slice(&s.closed_us.to_le_bytes());
    }
    let seal = *blake3::hash(&out).as_bytes();
    out.extend_from_slice(&seal);
    out
}

/// Reads a copy as it may lie on disk; as it is, and sealed as each form of it is.
#[cfg(feature = "fuzz")]
pub(crate) fn decode_copy(bytes: &[u8]) {
    let Some(copy) = bytes.first_chunk::<SAID_BYTES>() else { return };
    decode(copy);
    for sealed in [0, 8, 16, 24].map(|more| SEALED_BYTES + more) {
        let mut copy = *copy;
        copy[..8].copy_from_slice(MAGIC);
        let seal = *blake3::hash(&copy[..sealed]).as_bytes();
        copy[sealed..sealed + 32].copy_from_slice(&seal);
        copy[sealed + 32..].fill(0);
        decode(&copy);
    }
}

/// Format, sequence and content of a copy that holds.
fn decode(bytes: &[u8; SAID_BYTES]) -> Option<(u32, u64, Superblock)> {
    let holds = |sealed: usize| {
        let seal = &bytes[sealed..sealed + 32];
        seal == blake3::hash(&bytes[..sealed]).as_bytes()
            && bytes[sealed + 32..].iter().all(|b| *b == 0)
    };
    let promised = holds(SEALED_BYTES + 24);
    let uncertain = promised || holds(SEALED_BYTES + 16);
    let cut = uncertain || holds(SEALED_BYTES + 8);
    if bytes[..8] != MAGIC[..] || !(cut || holds(SEALED_BYTES)) {
        return None;
    }
    let sealed = &bytes[..SEALED_BYTES + 24];
    let u32_at = |at: usize| u32::from_le_bytes(sealed[at..at + 4].try_into().expect("4"));
    let u64_at = |at: usize| u64::from_le_bytes(sealed[at..at + 8].try_into().expect("8"));
    let superblock = Superblock {
        cluster: sealed[24..40].try_into().expect("16"),
        replica: u32_at(12),
        incarnation: u64_at(40),
        view: View(u64_at(48)),
        log_view: View(u64_at(56)),
        commit: Op(u64_at(64)),
        identity: Identity(sealed[72..104].try_into().expect("32")),
        cut: cut.then(|| u64_at(SEALED_BYTES)).filter(|op| *op != NO_CUT).map(Op),
        closed_us: if promised { u64_at(SEALED_BYTES + 16).cast_signed() } else { 0 },
        uncertain: uncertain && u64_at(SEALED_BYTES + 8) == UNCERTAIN,
    };
    let flag = u64_at(SEALED_BYTES + 8);
    if uncertain && flag != UNCERTAIN && !(promised && flag == 0) {
        return None;
    }
    // A promise is a time, and none is not written down.
    if promised && !(1..=TIME_MAX_US).contains(&superblock.closed_us) {
        return None;
    }
    Some((u32_at(8), u64_at(16), superblock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    fn superblock(commit: u64) -> Superblock {
        Superblock {
            cluster: [1; 16],
            replica: 0,
            incarnation: 2,
            view: View(3),
            log_view: View(3),
            commit: Op(commit),
            identity: Identity([4; 32]),
            cut: None,
            closed_us: 0,
            uncertain: false,
        }
    }

    #[test]
    fn a_cut_is_remembered_until_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let disk = &RealDisk::new(folder.path());
        let mut file = SuperblockFile::create(disk, superblock(1)).unwrap();
        let cutting = Superblock { cut: Some(Op(9)), ..superblock(2) };
        file.write(cutting).unwrap();
        assert_eq!(SuperblockFile::open(disk).unwrap().1, cutting);
        assert!(damaged_copies(disk).unwrap().is_empty());
        for promised in [cutting, superblock(3)] {
            for uncertain in [false, true] {
                let promised = Superblock { closed_us: 77, uncertain, ..promised };
                file.write(promised).unwrap();
                assert_eq!(SuperblockFile::open(disk).unwrap().1, promised);
                assert!(damaged_copies(disk).unwrap().is_empty());
            }
        }
        for uncertain in [cutting, superblock(3)] {
            let uncertain = Superblock { uncertain: true, ..uncertain };
            file.write(uncertain).unwrap();
            assert_eq!(SuperblockFile::open(disk).unwrap().1, uncertain);
            assert!(damaged_copies(disk).unwrap().is_empty());
        }
        file.write(superblock(3)).unwrap();
        assert_eq!(SuperblockFile::open(disk).unwrap().1, superblock(3));
        assert!(damaged_copies(disk).unwrap().is_empty(), "nothing is left of the longer copy");
    }

    #[test]
    fn the_latest_copy_counts_and_damaged_copies_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let disk = &RealDisk::new(folder.path());
        let mut file = SuperblockFile::create(disk, superblock(1)).unwrap();
        file.write(superblock(2)).unwrap();
        for copy in [0, 1, 3] {
            file.file.write_all_at(&[0xff], copy * COPY_BYTES + 70).unwrap();
        }
        let (mut file, read) = SuperblockFile::open(disk).unwrap();
        assert_eq!(read, superblock(2));
        file.write(superblock(3)).unwrap();
        // A crash between the halves: the old one is still there twice.
        for copy in [0, 1] {
            file.file.write_all_at(&[0xff], copy * COPY_BYTES + 70).unwrap();
        }
        assert_eq!(SuperblockFile::open(disk).unwrap().1, superblock(3));
        for copy in [2, 3] {
            file.file.write_all_at(&[0xff], copy * COPY_BYTES + 70).unwrap();
        }
        assert!(matches!(SuperblockFile::open(disk), Err(SuperblockError::Damaged)));
    }
}
