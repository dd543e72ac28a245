//! Reading runs of leaves and payloads out of segments, each block checked every time it comes from disk.

use std::sync::Arc;

use super::{
    Segment,
    frame::{BLOCK_HEAD_BYTES, BlockHead, BlockKind, read_block},
    packed::{Lost, lost},
};
use crate::{
    error::{Damage, ReadError},
    limits::BLOCK_BYTES,
};

/// Where a run's bytes begin in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The block's offset in the segment.
    pub(crate) block: u32,
    /// The byte inside the block.
    pub(crate) inside: u16,
}

/// Reads blocks and remembers the last ones, so that neighbours cost one read and one check.
#[derive(Default)]
pub(crate) struct RunReader {
    segment: Option<Arc<Segment>>,
    /// A stretch of the segment as it is on disk.
    window: Vec<u8>,
    window_at: u64,
    /// The last checked leaf block and payload block: offset, taken bytes, content.
    checked: [Option<(u64, usize, Vec<u8>)>; 2],
    /// How much to read at once: more while neighbours are read, up to a bound.
    ahead: usize,
    ahead_max: usize,
}

/// A block as this version writes it.
const AHEAD_LEAST: usize = BLOCK_HEAD_BYTES + BLOCK_BYTES;

impl RunReader {
    /// For readers of single records.
    pub(crate) fn point() -> Self {
        Self { ahead: AHEAD_LEAST, ahead_max: AHEAD_LEAST, ..Self::default() }
    }

    /// For readers of neighbouring records.
    pub(crate) fn sequential() -> Self {
        Self { ahead: AHEAD_LEAST, ahead_max: 256 << 10, ..Self::default() }
    }

    /// Turns to another segment.
    pub(crate) fn open(&mut self, segment: &Arc<Segment>) {
        if !self.segment.as_ref().is_some_and(|s| Arc::ptr_eq(s, segment)) {
            self.segment = Some(Arc::clone(segment));
            self.window.clear();
            self.checked = [None, None];
        }
    }

    /// Appends `length` bytes of a run, from `place` on, to `out`.
    pub(crate) fn read(
        &mut self,
        kind: BlockKind,
        place: Place,
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let (mut block, mut inside, mut left) =
            (u64::from(place.block), usize::from(place.inside), length);
        while left > 0 {
            let (taken, content) = self.block(kind, block)?;
            let part = content.get(inside..).unwrap_or_default();
            let part = &part[..part.len().min(left)];
            if part.is_empty() {
                return Err(self.damage(block, "a run ends before its record does"));
            }
            out.extend_from_slice(part);
            left -= part.len();
            inside = 0;
            block += taken as u64;
        }
        Ok(())
    }

    /// The content of the block at `offset`, and how many bytes it takes in the segment.
    fn block(&mut self, kind: BlockKind, offset: u64) -> Result<(usize, &[u8]), ReadError> {
        let slot = kind as usize - 1;
        if self.checked[slot].as_ref().is_none_or(|(at, ..)| *at != offset) {
            self.fill(offset, BLOCK_HEAD_BYTES)?;
            let spot = self.segment.as_ref().map(|segment| segment.spot(offset));
            let head = BlockHead::decode(self.bytes(offset));
            let head = head.map_err(|what| self.damage(offset, what))?;
            self.fill(offset, BLOCK_HEAD_BYTES + head.stored)?;
            let read =
                read_block(self.bytes(offset), spot).map(|(k, c, taken)| (k, c.to_vec(), taken));
            let (found, content, taken) = read.map_err(|what| self.damage(offset, what))?;
            if found != kind {
                return Err(self.damage(offset, "a block is not of the kind that the index says"));
            }
            self.checked[slot] = Some((offset, taken, content));
        }
        let (_, taken, content) = self.checked[slot].as_ref().expect("filled just now");
        Ok((*taken, content))
    }

    fn bytes(&self, offset: u64) -> &[u8] {
        &self.window[(offset - self.window_at) as usize..]
    }

    /// Makes sure that the window holds `length` bytes from `offset` on.
    fn fill(&mut self, offset: u64, length: usize) -> Result<(), ReadError> {
        let end = self.window_at + self.window.len() as u64;
        if offset >= self.window_at && offset + length as u64 <= end {
            return Ok(());
        }
        let segment = Arc::clone(self.segment.as_ref().expect("open comes first"));
        let goes_on = offset >= self.window_at && offset <= end + self.ahead as u64;
        self.ahead = if goes_on { (self.ahead * 2).min(self.ahead_max) } else { AHEAD_LEAST };
        self.window.resize(length.max(self.ahead), 0);
        self.window_at = offset;
        let read = segment.file().read_at(&mut self.window, offset);
        let read = read.map_err(|source| match lost(&source) {
            Some(Lost { offset, what, .. }) => self.damage(offset, what),
            None => ReadError::Io { file: segment.name.clone(), source },
        })?;
        self.window.truncate(read);
        if read < length {
            return Err(self.damage(offset, "the file ends inside a block"));
        }
        Ok(())
    }

    /// Damage in the segment that is open.
    pub(crate) fn damage(&self, offset: u64, what: &'static str) -> ReadError {
        let file = self.segment.as_ref().map(|s| s.name.clone()).unwrap_or_default();
        Damage { file, offset, what }.into()
    }
}
