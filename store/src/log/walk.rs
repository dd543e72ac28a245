//! Walking through a log that may be damaged: where it can be gone on, and what a closed segment holds.

use std::{io, ops::ControlFlow, sync::Arc};

use kimberlite_consensus::{Header, Op};

use super::{
    END_MARK_BYTES, HEAD_SAID_BYTES, HeadForm, SEGMENT_HEAD_BYTES, Segment,
    chunks::{CHUNK_BYTES, Chunks},
    decode_segment_head,
    frame::{
        FRAME_HEAD_BYTES, FRAME_TAIL_BYTES, FrameHead, Section, SectionRuns, front_length,
        read_section,
    },
    head_form, read_end_mark,
    recovery::Start,
    segment_name, segment_op,
};
use crate::{disk::Disk, error::Damage, index, words::Hash};

pub(super) type FrameRead =
    Result<(FrameHead, Vec<(Section, Result<SectionRuns, Damage>)>), &'static str>;

/// Reads the frame at `at` with all its sections.
pub(super) fn read_frame(file: &mut Chunks, at: u64) -> io::Result<FrameRead> {
    let length = front_length(&file.get(at, FRAME_HEAD_BYTES)?);
    let Some(length) = length else { return Ok(Err("no frame begins here")) };
    let head = match FrameHead::decode(&file.get(at, length)?) {
        Ok(head) => head,
        Err(what) => return Ok(Err(what)),
    };
    let frame = file.get(at, head.length)?;
    let spot = Some(file.segment.spot(at));
    let damage = |offset: usize, what| file.damage(at + offset as u64, what);
    let mut sections = Vec::new();
    let mut body_at = head.body_at;
    let mut failed: Option<Damage> = None;
    for section in Section::all(&head.header) {
        let runs = match &failed {
            Some(damage) => Err(damage.clone()),
            None => read_section(&frame, &mut body_at, section.leaves_bytes as usize, spot)
                .map_err(|(offset, what)| damage(offset, what)),
        };
        // Behind damage the next section's place is unknown: it counts as damaged too.
        failed = runs.as_ref().err().cloned();
        sections.push((section, runs));
    }
    if failed.is_none() && (!head.tail_holds(&frame) || body_at + FRAME_TAIL_BYTES != head.length) {
        let broken = damage(body_at, "the end of a frame does not hold");
        if sections.is_empty() {
            return Ok(Err(broken.what));
        }
        for (_, runs) in &mut sections {
            *runs = Err(broken.clone());
        }
    }
    Ok(Ok((head, sections)))
}

/// Whether leaves and payloads are what a header says of each section, as far as it is known what a tenant's follow.
pub(super) fn sections_hold(
    sections: &[(Section, Result<SectionRuns, Damage>)],
    chain: impl Fn(&[u8; 16]) -> Option<Hash>,
) -> bool {
    sections.iter().all(|(section, runs)| {
        let holds = |runs| index::holds(section, runs, chain(&section.tenant)).is_ok();
        runs.as_ref().is_ok_and(holds)
    })
}

/// Where the frame at `at` ends, not behind `end`, though it may not hold: its front says so, or its end.
pub(super) fn frame_end(
    file: &mut Chunks,
    at: u64,
    end: u64,
    follows: impl Fn(&FrameHead) -> bool,
) -> io::Result<Option<u64>> {
    let front = file.get(at, FRAME_HEAD_BYTES)?;
    let front = match front_length(&front) {
        Some(length) => FrameHead::decode(&file.get(at, length)?).ok(),
        None => None,
    };
    match front.filter(follows) {
        Some(head) => Ok(Some(at + head.length as u64)),
        None => file.frame_ending(at, end),
    }
}

/// The first frame at `from` or behind it in this file that can be gone on from, and is of no op before `least`: a start
/// just before it.
pub(crate) fn resume(
    disk: &dyn Disk,
    cluster: [u8; 16],
    path: &str,
    from: u64,
    least: Op,
) -> io::Result<Option<Start>> {
    let Some(first_op) = segment_op(path) else { return Ok(None) };
    resume_in(&Arc::new(Segment::open(disk, path, first_op)?), cluster, from, least)
}

fn resume_in(
    segment: &Arc<Segment>,
    cluster: [u8; 16],
    from: u64,
    least: Op,
) -> io::Result<Option<Start>> {
    let mut found = None;
    starts_in(segment, cluster, from, least, &mut |start, _| {
        found = Some(start);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Tells of every such frame, and where it ends.
pub(super) fn each_start(
    segment: &Arc<Segment>,
    cluster: [u8; 16],
    from: u64,
    least: Op,
    found: &mut dyn FnMut(Start, u64),
) -> io::Result<()> {
    starts_in(segment, cluster, from, least, &mut |start, end| {
        found(start, end);
        ControlFlow::Continue(())
    })
}

fn starts_in(
    segment: &Arc<Segment>,
    cluster: [u8; 16],
    from: u64,
    least: Op,
    found: &mut dyn FnMut(Start, u64) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut file = Chunks::new(segment)?;
    let mut at = from;
    while at < file.length {
        let chunk = file.get(at, CHUNK_BYTES)?;
        for (i, _) in chunk.windows(4).enumerate().filter(|(_, w)| *w == b"KOP>") {
            let candidate = at + i as u64;
            let front = file.get(candidate, FRAME_HEAD_BYTES)?;
            let Some(length) = front_length(&front) else { continue };
            let Ok(head) = FrameHead::decode(&file.get(candidate, length)?) else { continue };
            let Some(header) = head.previous else { continue };
            if head.header.cluster == cluster
                && head.header.parent == header.identity()
                && head.header.op >= least
            {
                let frame = (candidate, candidate);
                let start = Start { header, segment: segment.first_op, frame };
                if found(start, candidate + head.length as u64).is_break() {
                    return Ok(());
                }
            }
        }
        // A sentinel may lie across the border.
        at += (CHUNK_BYTES - 3) as u64;
    }
    Ok(())
}

/// The segment of this name, whatever its head says; `None` where there is no such file.
pub(crate) fn open_by_name(disk: &dyn Disk, first_op: u64) -> io::Result<Option<Segment>> {
    let name = segment_name(first_op);
    if !disk.exists(&name)? {
        return Ok(None);
    }
    Segment::open(disk, &name, first_op).map(Some)
}

/// The cluster's id as a segment's head has it, where the head holds.
pub(crate) fn cluster_of(disk: &dyn Disk, path: &str) -> io::Result<Option<[u8; 16]>> {
    let mut head = [0; HEAD_SAID_BYTES];
    let read = disk.open(path)?.read_at(&mut head, 0)?;
    let cluster: [u8; 16] = head[16..32].try_into().expect("16");
    Ok(decode_segment_head(&head[..read], cluster).map(|_| cluster))
}

/// Whether a segment's head holds, and where what fills it up is not zeros.
pub(crate) fn check_head(
    disk: &dyn Disk,
    cluster: [u8; 16],
    path: &str,
) -> io::Result<(bool, Option<u64>)> {
    let mut head = vec![0; SEGMENT_HEAD_BYTES as usize];
    let read = disk.open(path)?.read_at(&mut head, 0)?;
    let first_op = decode_segment_head(&head[..read], cluster).map(|(op, _)| op);
    let holds = read == head.len() && first_op.is_some() && first_op == segment_op(path);
    let said = match head_form(&head) {
        Some(HeadForm::Packed { .. }) => HEAD_SAID_BYTES,
        _ => 104,
    };
    Ok((holds, head[said..].iter().position(|b| *b != 0).map(|i| (said + i) as u64)))
}

/// What lies in a closed segment.
pub(crate) enum Frame {
    Op {
        offset: u64,
        /// Bytes of the frame.
        length: u64,
        header: Header,
        sections: Vec<(Section, Result<SectionRuns, Damage>)>,
    },
    /// A frame that does not hold; with its header, where the next one repeats it.
    Lost { damage: Damage, header: Option<Header> },
}

/// Reads a closed segment, or what is committed of the open one, frame by frame, on behind damage where that can be.
pub(crate) struct ClosedFrames {
    cluster: [u8; 16],
    file: Chunks,
    at: u64,
    /// Where what is to be read ends, if no end mark says so before.
    end: u64,
    last: Option<Header>,
    ended: bool,
}

impl ClosedFrames {
    pub(crate) fn open(disk: &dyn Disk, cluster: [u8; 16], path: &str) -> io::Result<Self> {
        let first_op = segment_op(path).unwrap_or(0);
        let segment = Segment::open(disk, path, first_op)?;
        Self::of(cluster, &Arc::new(segment), u64::MAX)
    }

    /// Reads an open file up to `end`, where no end mark comes before.
    pub(crate) fn of(cluster: [u8; 16], segment: &Arc<Segment>, end: u64) -> io::Result<Self> {
        let (at, last, ended) = (SEGMENT_HEAD_BYTES, None, false);
        Ok(Self { cluster, file: Chunks::new(segment)?, at, end, last, ended })
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.file.segment
    }

    /// The next frame; `None` behind the last one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame>> {
        let ends = read_end_mark(&self.file.get(self.at, END_MARK_BYTES as usize)?).is_some();
        if self.ended || self.at >= self.end || ends {
            return Ok(None);
        }
        let offset = self.at;
        let follows = |head: &FrameHead| {
            let before = self.last.as_ref();
            head.header.cluster == self.cluster
                && before.is_none_or(|last| head.previous.as_ref() == Some(last))
                && head.previous.as_ref().is_none_or(|p| head.header.parent == p.identity())
        };
        match read_frame(&mut self.file, offset)? {
            Ok((head, sections)) if follows(&head) => {
                let length = head.length as u64;
                self.at += length;
                self.last = Some(head.header.clone());
                Ok(Some(Frame::Op { offset, length, header: head.header, sections }))
            }
            _ => self.lost().map(Some),
        }
    }

    fn lost(&mut self) -> io::Result<Frame> {
        let what = "an op of a closed segment";
        let damage = self.file.damage(self.at, what);
        let first = Op(self.file.segment.first_op);
        let expected = self.last.as_ref().map_or(first, |last| last.op.next());
        let found = resume_in(&self.file.segment, self.cluster, self.at + 1, expected.next())?;
        let Some(Start { header, frame: (at, _), .. }) = found else {
            self.ended = true;
            return Ok(Frame::Lost { damage, header: None });
        };
        self.at = at;
        self.last = Some(header.clone());
        Ok(Frame::Lost { damage, header: Some(header).filter(|h| h.op == expected) })
    }
}

/// The first byte of a segment at `from` or behind it that is not zero.
pub(crate) fn first_nonzero(disk: &dyn Disk, path: &str, from: u64) -> io::Result<Option<u64>> {
    let mut file = Chunks::new(&Arc::new(Segment::open(disk, path, 0)?))?;
    let mut at = from;
    while at < file.length {
        let chunk = file.get(at, CHUNK_BYTES)?;
        if let Some(i) = chunk.iter().position(|b| *b != 0) {
            return Ok(Some(at + i as u64));
        }
        at += chunk.len() as u64;
    }
    Ok(None)
}
