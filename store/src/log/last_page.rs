//! The page that a log ends in. The next op is written together with what lies before it there: what a disk read wrongly
//! once would be wrong for good.

#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};

use bytes::Bytes;
use kimberlite_consensus::Identity;

use super::{
    SEGMENT_HEAD_BYTES, Segment,
    frame::{FRAME_TAIL_BYTES, FrameHead, frame_tail},
    framed::{Framed, Spot},
};
use crate::{
    disk::{DiskFile, PAGE_BYTES},
    limits::OP_BYTES_MAX,
};

/// What lies before `at` in its page, behind which the op `tip` ends; and whether it does not hold, so that it may not be
/// written again and the segment has to end here.
pub(super) fn read(segment: &Segment, at: u64, tip: Identity) -> io::Result<(Vec<u8>, bool)> {
    let before = (at % PAGE_BYTES) as usize;
    match checked(segment, at, before, tip) {
        Ok(Some(page)) => Ok((page, false)),
        Ok(None) => Ok((vec![0; before], true)),
        // Less is there than there was: it is damaged.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok((vec![0; before], true)),
        Err(error) => Err(error),
    }
}

/// The last `before` bytes, where every op that has a part in them holds.
fn checked(
    segment: &Segment,
    at: u64,
    before: usize,
    tip: Identity,
) -> io::Result<Option<Vec<u8>>> {
    if before == 0 {
        return Ok(Some(Vec::new()));
    }
    let file = segment.file();
    let mut from = at;
    while from > at - before as u64 {
        let Some(begins) = begin(&*file, from)? else { return Ok(None) };
        from = begins;
    }
    let mut bytes = vec![0; (at - from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    let bytes = Bytes::from(bytes);
    let page = bytes.slice(bytes.len() - before..).to_vec();
    Ok((last(bytes, segment.spot(from)) == Some(tip)).then_some(page))
}

/// Where the frame begins that ends at `end`.
fn begin(file: &dyn DiskFile, end: u64) -> io::Result<Option<u64>> {
    let mut tail = [0; FRAME_TAIL_BYTES];
    file.read_exact_at(&mut tail, end - FRAME_TAIL_BYTES as u64)?;
    let [a, b, c, d, ..] = tail;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let can_be = (1..=OP_BYTES_MAX).contains(&length) && tail == frame_tail(length);
    let begins = end.checked_sub(length as u64).filter(|at| *at >= SEGMENT_HEAD_BYTES);
    Ok(begins.filter(|_| can_be))
}

/// The last one of these frames, the first of which lies at `spot`, if each of them holds and follows the one before.
fn last(mut frames: Bytes, mut spot: Spot) -> Option<Identity> {
    let mut last = None;
    while !frames.is_empty() {
        let head = FrameHead::decode(&frames).ok()?;
        let frame = (head.length <= frames.len()).then(|| frames.split_to(head.length))?;
        Framed::new(frame, Some(spot)).sections(&head.header)?;
        spot = spot.behind(head.length);
        if last.is_some_and(|last| last != head.header.parent) {
            return None;
        }
        last = Some(head.header.identity());
    }
    last
}
