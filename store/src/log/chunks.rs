//! A segment's file, read in large chunks.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    Segment,
    frame::{FRAME_END, FRAME_TAIL_BYTES, frame_tail},
    packed::{Lost, lost},
};
use crate::{error::Damage, limits::OP_BYTES_MAX};

/// Bytes read at once.
pub(super) const CHUNK_BYTES: usize = 4 << 20;
/// A sector: what a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// A file read in large chunks.
pub(super) struct Chunks {
    pub(super) segment: Arc<Segment>,
    pub(super) length: u64,
    chunk: Bytes,
    chunk_at: u64,
    /// What could not be read lately, and came as zeros.
    lost: Option<Lost>,
}

impl Chunks {
    pub(super) fn new(segment: &Arc<Segment>) -> io::Result<Self> {
        let length = segment.file().length()?;
        Ok(Self {
            segment: Arc::clone(segment),
            length,
            chunk: Bytes::new(),
            chunk_at: 0,
            lost: None,
        })
    }

    /// Up to `length` bytes at `at`; fewer only at the end of the file.
    pub(super) fn get(&mut self, at: u64, length: usize) -> io::Result<Bytes> {
        let length = self.length.saturating_sub(at).min(length as u64) as usize;
        let end = self.chunk_at + self.chunk.len() as u64;
        if at < self.chunk_at || at + length as u64 > end {
            let want = self.length.saturating_sub(at).min(length.max(CHUNK_BYTES) as u64);
            self.load(at, want as usize)?;
        }
        let from = (at - self.chunk_at) as usize;
        Ok(self.chunk.slice(from..from + length))
    }

    /// Has the chunk hold `length` bytes from `at` on. Its room is used again unless somebody has some of it still, and
    /// what it has of them already is not read again.
    fn load(&mut self, at: u64, length: usize) -> io::Result<()> {
        let known = self.chunk.len();
        let mut bytes = std::mem::take(&mut self.chunk).try_into_mut().unwrap_or_default();
        // What stands for a loss is asked for again, so that whoever meets it is told.
        let has = self.chunk_at..self.chunk_at + bytes.len() as u64;
        let kept = if bytes.len() == known && self.lost.is_none() && has.contains(&at) {
            let from = (at - self.chunk_at) as usize;
            bytes.copy_within(from.., 0);
            (bytes.len() - from).min(length)
        } else {
            0
        };
        bytes.resize(length, 0);
        self.chunk_at = at;
        self.read(at, &mut bytes, kept)?;
        self.chunk = bytes.freeze();
        Ok(())
    }

    /// Reads what is there behind the first `done` bytes; zeros stand for stretches that do not hold.
    fn read(&mut self, at: u64, bytes: &mut [u8], mut done: usize) -> io::Result<()> {
        let length = bytes.len();
        while done < length {
            let here = at + done as u64;
            let Err(error) = self.segment.file().read_exact_at(&mut bytes[done..], here) else {
                break;
            };
            let Some(hole) = lost(&error) else { return Err(error) };
            let ends = (hole.to.saturating_sub(at) as usize).clamp(done + 1, length);
            bytes[(hole.from.max(here) - at) as usize..ends].fill(0);
            done = ends;
            // The first one in what is read is what a reader meets first.
            self.lost = self.lost.filter(|known| known.to > at).or(Some(hole));
        }
        Ok(())
    }

    /// Damage found at `offset`: where the file has it, if that cannot be read.
    pub(super) fn damage(&self, offset: u64, what: &'static str) -> Damage {
        let file = self.segment.name.clone();
        match self.lost.filter(|hole| hole.to > offset) {
            Some(hole) => Damage { file, offset: hole.offset, what: hole.what },
            None => Damage { file, offset, what },
        }
    }

    /// The last byte at or behind `at` that is not zero, as far as an op could reach.
    pub(super) fn last_nonzero(&mut self, at: u64) -> io::Result<Option<u64>> {
        let end = self.length.min(at + 2 * OP_BYTES_MAX as u64);
        let (mut from, mut last) = (at, None);
        while from < end {
            // What was only reserved is long and need not be read.
            let Some(data) = self.segment.file().data_from(from)? else { break };
            from = data.max(from);
            let n = end.saturating_sub(from).min(CHUNK_BYTES as u64) as usize;
            let chunk = self.get(from, n)?;
            if let Some(i) = last_nonzero_of(&chunk) {
                last = Some(from + i as u64);
            }
            from += n as u64;
        }
        Ok(last)
    }

    /// Where a frame ends, up to `end`, that says there that it began at `at`. Part of another one may lie behind it.
    pub(super) fn frame_ending(&mut self, at: u64, end: u64) -> io::Result<Option<u64>> {
        let mut from = at;
        while from + FRAME_TAIL_BYTES as u64 <= end {
            let chunk = self.get(from, CHUNK_BYTES.min((end - from) as usize))?;
            for (i, found) in chunk.windows(FRAME_TAIL_BYTES).enumerate() {
                let ends = from + (i + FRAME_TAIL_BYTES) as u64;
                if found[4..] == FRAME_END && found == frame_tail((ends - at) as usize) {
                    return Ok(Some(ends));
                }
            }
            if chunk.len() < FRAME_TAIL_BYTES {
                break;
            }
            // The end of a frame may lie across the border.
            from += (chunk.len() + 1 - FRAME_TAIL_BYTES) as u64;
        }
        Ok(None)
    }

    /// Whether some sector between `at` and `end` holds nothing but zeros there.
    pub(super) fn has_zero_sector(&mut self, at: u64, end: u64) -> io::Result<bool> {
        let mut from = at;
        while from < end {
            let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
            if self.get(from, (to - from) as usize)?.iter().all(|b| *b == 0) {
                return Ok(true);
            }
            from = to;
        }
        Ok(false)
    }
}

/// The last byte that is not zero; stretches of zeros are passed by fast.
fn last_nonzero_of(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let stretches = bytes.chunks(ZEROS.len()).enumerate().rev();
    let mut others = stretches.filter(|(_, stretch)| **stretch != ZEROS[..stretch.len()]);
    let (number, stretch) = others.next()?;
    let inside = stretch.iter().rposition(|byte| *byte != 0).expect("it is not all zeros");
    Some(number * ZEROS.len() + inside)
}

#[cfg(test)]
mod tests {
    use super::last_nonzero_of;

    #[test]
    fn the_last_byte_that_is_not_zero_is_found_wherever_it_is() {
        assert_eq!(last_nonzero_of(&[]), None);
        for length in [1, 4095, 4096, 4097, 10_000] {
            let mut bytes = vec![0; length];
            assert_eq!(last_nonzero_of(&bytes), None);
            for at in [0, 1, 4095, 4096, 8191, 8192, 9_999].into_iter().filter(|at| *at < length) {
                bytes[at] = 1;
                assert_eq!(last_nonzero_of(&bytes), Some(at), "{length}");
            }
        }
    }
}
