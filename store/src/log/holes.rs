//! Places inside a log that cannot be read and that others can fill: what was there is known from what lies around it.
//!
//! Absent: what lies behind the last op that can be read. Recovery judges that.

use std::{collections::HashMap, io, sync::Arc};

use bytes::Bytes;
use kimberlite_consensus::{Gap, Header, Identity, Op};

use super::{
    END_MARK_BYTES, FOLDER, HEAD_SAID_BYTES, Head, HeadForm, SEGMENT_HEAD_BYTES, Segment,
    chunks::Chunks,
    decode_segment_head, encode_segment_head, end_segment,
    frame::{FrameHead, Section},
    framed::Framed,
    head_form, read_end_mark,
    recovery::{Start, list_segments},
    segment_op,
    walk::{ClosedFrames, Frame, each_start, frame_end, read_frame, resume, sections_hold},
};
use crate::{disk::Disk, words::Hash};

/// A place that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Hole {
    pub(crate) path: String,
    /// Where it begins and ends.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Header of the op before it; `None` at the log's beginning.
    pub(crate) before: Option<Header>,
    /// The ops that it held.
    pub(crate) gap: Gap,
    /// The first op of the next segment, where the hole takes in this one's end mark.
    ends: Option<u64>,
}

impl Hole {
    /// What was in the hole is there again: so must be what closed the file behind it.
    pub(crate) fn close(&self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(&self.path)?;
        match self.ends {
            Some(next) => {
                end_segment(&*file, self.to, next)?;
                disk.sync_folder(FOLDER)
            }
            None => file.sync(),
        }
    }
}

/// What the log is known to be up to some place.
struct Known {
    cluster: [u8; 16],
    op: Op,
    identity: Identity,
    header: Option<Header>,
    /// Hash of the last record of each tenant.
    chains: HashMap<[u8; 16], Hash>,
}

impl Known {
    fn follows(&self, head: &FrameHead) -> bool {
        let previous = head.previous.as_ref().map_or(self.identity, Header::identity);
        head.header.cluster == self.cluster
            && head.header.op == self.op.next()
            && head.header.parent == self.identity
            && previous == self.identity
    }

    fn is(&mut self, header: Header) {
        self.chains.extend(Section::all(&header).map(|s| (s.tenant, s.chain_head)));
        (self.op, self.identity) = (header.op, header.identity());
        self.header = Some(header);
    }
}

/// The first hole of a log. Heads of segments that do not hold are written anew on the way: all that they say is known.
pub(crate) fn first(disk: &dyn Disk, cluster: [u8; 16]) -> io::Result<Option<Hole>> {
    let files = list_segments(disk).map_err(io::Error::other)?;
    let mut known = Known {
        cluster,
        op: Op(0),
        identity: Identity::root(cluster),
        header: None,
        chains: HashMap::new(),
    };
    for (i, path) in files.iter().enumerate() {
        let Some(first_op) = segment_op(path).filter(|op| *op == known.op.next().0) else {
            return Err(io::Error::other("a segment is missing"));
        };
        mend_head(disk, path, Head { cluster, first_op, parent: known.identity })?;
        let next = files.get(i + 1);
        let segment = Arc::new(Segment::open(disk, path, first_op)?);
        if let Some(hole) = in_segment(disk, &segment, next, &mut known)? {
            return Ok(Some(hole));
        }
    }
    Ok(None)
}

fn mend_head(disk: &dyn Disk, path: &str, head: Head) -> io::Result<()> {
    let file = disk.open(path)?;
    let mut said = [0; HEAD_SAID_BYTES];
    let read = file.read_at(&mut said, 0)?;
    if matches!(head_form(&said), Some(HeadForm::Packed { .. })) {
        return Err(io::Error::other("a compressed segment cannot be filled"));
    }
    if decode_segment_head(&said[..read], head.cluster) == Some((head.first_op, head.parent)) {
        return Ok(());
    }
    tracing::warn!(segment = path, "the head of a segment is written anew");
    file.write_all_at(&encode_segment_head(head), 0)?;
    file.sync()
}

fn in_segment(
    disk: &dyn Disk,
    segment: &Arc<Segment>,
    next: Option<&String>,
    known: &mut Known,
) -> io::Result<Option<Hole>> {
    let mut file = Chunks::new(segment)?;
    let mut at = SEGMENT_HEAD_BYTES;
    loop {
        let mark = file.get(at, END_MARK_BYTES as usize)?;
        if read_end_mark(&mark).is_some() && next.is_some() {
            return Ok(None);
        }
        let read = read_frame(&mut file, at)?;
        if let Ok((head, sections)) = read
            && known.follows(&head)
            && sections_hold(&sections, |tenant| known.chains.get(tenant).copied())
        {
            at += head.length as u64;
            known.is(head.header);
            continue;
        }
        return hole_at(disk, segment, next, known, at);
    }
}

/// What cannot be read at `at`; `None` where nothing is known to follow it.
fn hole_at(
    disk: &dyn Disk,
    segment: &Arc<Segment>,
    next: Option<&String>,
    known: &Known,
    at: u64,
) -> io::Result<Option<Hole>> {
    let path = segment.name.clone();
    let (op, before) = (known.op.next(), known.header.clone());
    let mut file = Chunks::new(segment)?;
    let data_end = file.last_nonzero(at)?.map_or(at, |last| last + 1);
    let end = frame_end(&mut file, at, data_end, |head| known.follows(head))?;
    // What was meant for another place may lie in a damaged op: also the beginning of a later one. One that lies before the
    // damaged op's end does, and so does one that would make that op longer.
    let mut starts = Vec::new();
    each_start(segment, known.cluster, at + 1, op.next(), &mut |start, ends| {
        let Start { header, frame: (place, _), .. } = start;
        if end.is_none_or(|end| place == end || (place > end && header.op > op)) {
            starts.push(Beginning { at: place, before: header.op, end: ends });
        }
    })?;
    // Of a file that is closed all but its end mark.
    let ends = [data_end, file.length.saturating_sub(END_MARK_BYTES)];
    let behind = match in_order(&linked(&starts, ends)) {
        Some(place) => resume(disk, known.cluster, &path, place, op.next())?,
        None => None,
    };
    if let Some(Start { header, frame: (to, _), .. }) = behind {
        let gap = Gap { first: op, last: header.op, identity: header.identity() };
        return Ok(Some(Hole { path, from: at, to, before, gap, ends: None }));
    }
    let Some(next) = next else { return Ok(None) };
    let missing = || io::Error::other("what follows a damaged segment is damaged too");
    let next_op = segment_op(next).ok_or_else(missing)?;
    let mut said = [0; HEAD_SAID_BYTES];
    let read = disk.open(next)?.read_at(&mut said, 0)?;
    let said = decode_segment_head(&said[..read], known.cluster);
    let identity = if let Some((_, parent)) = said {
        parent
    } else {
        // The frame behind the head repeats the header that is wanted.
        let start = resume(disk, known.cluster, next, SEGMENT_HEAD_BYTES, Op(next_op))?;
        let start = start.filter(|s| s.header.op.next().0 == next_op);
        start.ok_or_else(missing)?.header.identity()
    };
    let last = Op(next_op - 1);
    let to = match end.filter(|_| last == op) {
        // A crash may have come before the end mark.
        Some(end) => end,
        None => segment.file().length()?.saturating_sub(END_MARK_BYTES),
    };
    if last < op {
        // Only the end mark does not hold.
        end_segment(&*segment.file(), at, next_op)?;
        return first(disk, known.cluster);
    }
    let gap = Gap { first: op, last, identity };
    Ok(Some(Hole { path, from: at, to, before, gap, ends: Some(next_op) }))
}

/// Where the beginning of an op lies.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    at: u64,
    /// The op before it, as it says.
    before: Op,
    /// Where its op ends, as it says.
    end: u64,
}

/// Those that may be where their ops are. That one is not whose next op begins, not where its own ends, but in a later place that is
/// sure: where the op of that one ends, another begins, or all that is written ends.
fn linked(places: &[Beginning], ends: [u64; 2]) -> Vec<Beginning> {
    let mut behind: HashMap<Op, Vec<Beginning>> = HashMap::new();
    for place in places {
        behind.entry(place.before).or_default().push(*place);
    }
    let next = |of: &Beginning| {
        let from = of.at;
        behind.get(&of.before.next()).into_iter().flatten().filter(move |p| p.at > from)
    };
    let leads = |of: &Beginning| next(of).any(|p| p.at == of.end);
    let is_sure = |of: &Beginning| leads(of) || ends.contains(&of.end);
    let is_stray = |of: &&Beginning| !leads(of) && next(of).any(is_sure);
    places.iter().filter(|of| !is_stray(of)).copied().collect()
}

/// The first of the places that is no stray: most of them have later ops in later places. Of those that say the same the last one: a stray
/// lies in an op that is damaged.
fn in_order(places: &[Beginning]) -> Option<u64> {
    // The greatest op that begins a row of one, of two, ... of those that were looked at.
    let mut greatest: Vec<Op> = Vec::new();
    let mut first: Option<(usize, Op, u64)> = None;
    for Beginning { at, before: op, .. } in places.iter().rev() {
        let row = greatest.partition_point(|later| later > op);
        match greatest.get_mut(row) {
            Some(begins) => *begins = (*begins).max(*op),
            None => greatest.push(*op),
        }
        if first
            .is_none_or(|(longest, begins, _)| row > longest || (row == longest && *op < begins))
        {
            first = Some((row, *op, *at));
        }
    }
    first.map(|(.., place)| place)
}

/// An op with its body, from a log that may have holes; `None` where it cannot be read.
pub(crate) fn read(
    disk: &dyn Disk,
    cluster: [u8; 16],
    op: Op,
) -> io::Result<Option<(Header, Bytes)>> {
    let files = list_segments(disk).map_err(io::Error::other)?;
    let Some(path) = files.iter().rfind(|p| segment_op(p).is_some_and(|first| first <= op.0))
    else {
        return Ok(None);
    };
    let mut frames = ClosedFrames::open(disk, cluster, path)?;
    while let Some(frame) = frames.next()? {
        let Frame::Op { offset, length, header, .. } = frame else { continue };
        if header.op < op {
            continue;
        }
        if header.op > op {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        frames.segment().file().read_exact_at(&mut bytes, offset)?;
        let frame = Framed::new(bytes.into(), Some(frames.segment().spot(offset)));
        return Ok(frame.checked_body(&header).map(|body| (header, body)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strays_are_told_from_places_by_their_order() {
        let place = |ops: &[u64]| {
            let places =
                (1..).zip(ops).map(|(at, op)| Beginning { at, before: Op(*op), end: at + 1 });
            in_order(&places.collect::<Vec<_>>())
        };
        assert_eq!(place(&[]), None);
        assert_eq!(place(&[60, 61, 62]), Some(1));
        // Before the hole's end lies what belongs behind it.
        assert_eq!(place(&[62, 60, 61, 63]), Some(2));
        assert_eq!(place(&[63, 62, 60, 61, 64, 65]), Some(3));
        assert_eq!(place(&[62, 60]), Some(2));
        // The same twice.
        assert_eq!(place(&[60, 60, 61]), Some(2));
        // What belongs into the hole lies far behind it.
        assert_eq!(place(&[61, 62, 63, 60, 64]), Some(1));
    }

    #[test]
    fn strays_that_are_in_order_are_told_from_places_by_where_they_end() {
        let first = |places: &[(u64, u64, u64)], data_end| {
            let places = places.iter();
            let places =
                places.map(|(at, op, end)| Beginning { at: *at, before: Op(*op), end: *end });
            in_order(&linked(&places.collect::<Vec<_>>(), [data_end, 1000]))
        };
        // All is where it ought to be, also where one is missing.
        assert_eq!(first(&[(100, 3, 200), (200, 4, 300), (300, 5, 400)], 400), Some(100));
        assert_eq!(first(&[(100, 3, 200), (300, 5, 400)], 400), Some(100));
        // Op 4 lies in op 3, before it: what follows both says where op 4 ends.
        assert_eq!(first(&[(12, 3, 112), (200, 4, 300), (300, 5, 400)], 400), Some(200));
        assert_eq!(first(&[(12, 3, 112), (200, 4, 300)], 300), Some(200));
        assert_eq!(first(&[(12, 3, 112), (200, 4, 1000)], 1400), Some(200));
        // What follows does not begin where the next one ends: it may be the stray itself.
        assert_eq!(first(&[(100, 3, 200), (350, 4, 440), (400, 6, 500)], 500), Some(100));
        assert_eq!(first(&[(100, 3, 200), (350, 4, 440)], 500), Some(100));
        // Two say that they are the same one, of which one leads on.
        assert_eq!(first(&[(100, 3, 200), (200, 4, 300), (150, 3, 250)], 300), Some(100));
    }
}
