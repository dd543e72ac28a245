//! Reading single ops of the log again, for replicas that lack them.

use std::{io, sync::Arc};

use bytes::Bytes;
use kimberlite_consensus::{Header, Op};

use super::{
    Log,
    framed::Framed,
    recovery::{list_segments, open_segment},
    segment_op,
    walk::{ClosedFrames, Frame},
};

/// Reads ops one by one; those in a row without searching for each.
#[derive(Default)]
pub(crate) struct OpReader {
    at: Option<Place>,
}

struct Place {
    segment: u64,
    frames: ClosedFrames,
    next: Op,
}

impl std::fmt::Debug for OpReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.at.as_ref().map(|p| (p.segment, p.next));
        f.debug_struct("OpReader").field("at", &place).finish()
    }
}

impl OpReader {
    /// An op with its body; `None` where the log does not have it, or not whole.
    pub(crate) fn read(&mut self, log: &Log, op: Op) -> io::Result<Option<(Header, Bytes)>> {
        let segments = list_segments(&*log.disk).map_err(io::Error::other)?;
        let mut firsts = segments.iter().rev().filter_map(|path| segment_op(path));
        let Some(segment) = firsts.find(|first| *first <= op.0) else { return Ok(None) };
        let place = self.at.take().filter(|p| p.segment == segment && p.next <= op);
        let mut place = match place {
            Some(place) => place,
            None => match Self::open(log, segment)? {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        while let Some(frame) = place.frames.next()? {
            let Frame::Op { offset, length, header, .. } = frame else { continue };
            place.next = header.op.next();
            if header.op < op {
                continue;
            }
            if header.op > op {
                return Ok(None);
            }
            let mut bytes = vec![0; length as usize];
            place.frames.segment().file().read_exact_at(&mut bytes, offset)?;
            let frame = Framed::new(bytes.into(), Some(place.frames.segment().spot(offset)));
            let body = frame.checked_body(&header);
            if segment != log.segment.first_op {
                self.at = Some(place);
            }
            return Ok(body.map(|body| (header, body)));
        }
        Ok(None)
    }

    /// An op as its frame's front says where it is, whether it holds or not: a planted bug.
    #[cfg(feature = "sim")]
    pub(crate) fn read_unchecked(log: &Log, op: Op) -> Option<(Header, Bytes)> {
        let segments = list_segments(&*log.disk).ok()?;
        let mut firsts = segments.iter().rev().filter_map(|path| segment_op(path));
        let segment = firsts.find(|first| *first <= op.0)?;
        let mut place = Self::open(log, segment).ok()??;
        while let Some(frame) = place.frames.next().ok()? {
            let Frame::Op { offset, length, header, .. } = frame else { continue };
            if header.op == op {
                let mut bytes = vec![0; length as usize];
                place.frames.segment().file().read_exact_at(&mut bytes, offset).ok()?;
                let spot = place.frames.segment().spot(offset);
                let body = Framed::new(bytes.into(), Some(spot)).body()?;
                return Some((header, body));
            }
        }
        None
    }

    fn open(log: &Log, segment: u64) -> io::Result<Option<Place>> {
        let end = if segment == log.segment.first_op { log.at } else { u64::MAX };
        let Some(opened) = open_segment(&*log.disk, log.cluster, segment)? else {
            return Ok(None);
        };
        let frames = ClosedFrames::of(log.cluster, &Arc::new(opened), end)?;
        Ok(Some(Place { segment, frames, next: Op(segment) }))
    }
}
