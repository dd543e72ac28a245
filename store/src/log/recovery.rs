//! Reading the whole log at start: what holds, what is torn, what is damaged. The cases stand in `FORMAT.md`.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, io, path::PathBuf, sync::Arc};

use kimberlite_consensus::{Header, Identity, Op, Superblock};

use super::{
    END_MARK_BYTES, End, FOLDER, HEAD_SAID_BYTES, Head, SEGMENT_HEAD_BYTES, SEGMENT_SUFFIX,
    Segment,
    chunks::{CHUNK_BYTES, Chunks},
    create_segment, decode_segment_head, end_mark, end_segment,
    frame::{FRAME_HEAD_BYTES, FrameHead, Section, SectionRuns, front_length},
    read_end_mark, segment_name, segment_op,
    superblock::{self, SuperblockError, SuperblockFile},
    walk::{frame_end, read_frame, sections_hold},
};
use crate::{
    disk::{Disk, DiskFile},
    error::{Damage, OpenError},
    words::Hash,
};

pub(crate) const TORN: &str = "a torn write, never acknowledged";

/// One op as recovery hands it on: decoded, with each section checked or damaged.
pub(crate) struct RecoveredOp<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    /// Where the frame begins in the segment.
    pub(crate) offset: u64,
    /// Bytes of the frame.
    pub(crate) length: u64,
    pub(crate) header: &'a Header,
    pub(crate) sections: Vec<(Section, Result<SectionRuns, Damage>)>,
}

/// What is told of the log while it is read.
pub(crate) trait Visitor {
    /// An op that is in order. Damage below the checksums (leaves, chain, commitments) is for the visitor.
    fn op(&mut self, op: RecoveredOp<'_>);
    /// The records of an op are lost for these tenants.
    fn lost(&mut self, sections: Vec<Section>, damage: Damage);
    /// Whether there are others that have what is damaged here.
    fn has_peers(&self) -> bool {
        false
    }
    /// Hash of the tenant's last record before those that are read, where that is known.
    fn chain(&self, _tenant: &[u8; 16]) -> Option<Hash> {
        None
    }
    /// What a crash left, which is mended here without a loss.
    fn mends(&mut self, _left: Damage) {}
}

/// An op up to which the log was read before.
pub(crate) struct Start {
    pub(crate) header: Header,
    /// First op of the segment that holds it.
    pub(crate) segment: u64,
    /// Where its frame begins and ends there.
    pub(crate) frame: (u64, u64),
}

/// How a log was left.
pub(crate) struct Recovery {
    pub(crate) superblock_file: SuperblockFile,
    pub(crate) superblock: Superblock,
    /// Header of the last op.
    pub(crate) tip: Option<Header>,
    /// The segment to go on in, and where; with damage of the log's end, nothing may be written.
    pub(crate) segment: Arc<Segment>,
    pub(crate) at: u64,
    pub(crate) segments: usize,
    /// The end of the log is damaged: what came last is unknown.
    pub(crate) damage: Option<Damage>,
}

impl Recovery {
    /// Where to go on.
    pub(crate) fn end(&self) -> End {
        let root = Identity::root(self.superblock.cluster);
        let tip = self.tip.as_ref().map_or(root, Header::identity);
        End { segment: Arc::clone(&self.segment), at: self.at, tip }
    }
}

fn io_error<'a>(action: &'static str, path: &'a str) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { action, path: PathBuf::from(path), source }
}

/// Makes a log in an empty folder.
pub(crate) fn create(
    disk: &dyn Disk,
    fresh: Superblock,
    segment_bytes: u64,
) -> Result<(), OpenError> {
    disk.make_folder(FOLDER).map_err(io_error("making", FOLDER))?;
    let root = Identity::root(fresh.cluster);
    let head = Head { cluster: fresh.cluster, first_op: 1, parent: root };
    create_segment(disk, head, segment_bytes).map_err(io_error("making a segment in", FOLDER))?;
    disk.sync_folder("").map_err(io_error("syncing", "the data folder"))?;
    SuperblockFile::create(disk, fresh).map_err(io_error("making", superblock::NAME))?;
    Ok(())
}

/// Whether a log was made in this folder.
pub(crate) fn exists(disk: &dyn Disk) -> Result<bool, OpenError> {
    disk.exists(superblock::NAME).map_err(io_error("looking for", superblock::NAME))
}

/// The cluster's id, from the superblock.
pub(crate) fn cluster(disk: &dyn Disk) -> Result<[u8; 16], OpenError> {
    open_superblock(disk).map(|(_, superblock)| superblock.cluster)
}

pub(crate) fn open_superblock(disk: &dyn Disk) -> Result<(SuperblockFile, Superblock), OpenError> {
    SuperblockFile::open(disk).map_err(|error| match error {
        SuperblockError::Io(e) => io_error("opening", superblock::NAME)(e),
        SuperblockError::Format(found) => OpenError::Format { found, supported: super::FORMAT },
        SuperblockError::Damaged => {
            let what = "no copy of the superblock holds";
            Damage { file: superblock::NAME.into(), offset: 0, what }.into()
        }
    })
}

/// Opens the segment that begins with this op; `None` where it is not there or not one of this cluster.
pub(crate) fn open_segment(
    disk: &dyn Disk,
    cluster: [u8; 16],
    first_op: u64,
) -> io::Result<Option<Segment>> {
    let name = segment_name(first_op);
    if !disk.exists(&name)? {
        return Ok(None);
    }
    let segment = Segment::open(disk, &name, first_op)?;
    let mut head = [0; HEAD_SAID_BYTES];
    let read = segment.file().read_at(&mut head, 0)?;
    let decoded = decode_segment_head(&head[..read], cluster);
    let fits = decoded.is_some_and(|(first, _)| first == first_op);
    Ok(fits.then_some(segment))
}

/// Whether the log holds the op that `start` speaks of, where it says.
pub(crate) fn holds(disk: &dyn Disk, cluster: [u8; 16], start: &Start) -> io::Result<bool> {
    let Some(segment) = open_segment(disk, cluster, start.segment)? else { return Ok(false) };
    let mut file = Chunks::new(&Arc::new(segment))?;
    let (at, end) = start.frame;
    let front = file.get(at, FRAME_HEAD_BYTES)?;
    let Some(length) = front_length(&front) else { return Ok(false) };
    let head = FrameHead::decode(&file.get(at, length)?);
    Ok(head.is_ok_and(|head| head.header == start.header && at + head.length as u64 == end))
}

/// How far a log could be read.
pub(crate) struct Scanned {
    tip: Option<Header>,
    pub(crate) segment: Arc<Segment>,
    /// Where reading ended in it.
    pub(crate) at: u64,
    segments: usize,
    pub(crate) damage: Option<Damage>,
    /// The damage is that of the last op, and what came behind it is not known.
    end_damaged: bool,
}

/// Reads a log, behind `start` where it is given, tells `visitor` what it holds, cuts a torn tail.
pub(crate) fn recover(
    disk: &dyn Disk,
    visitor: &mut dyn Visitor,
    start: Option<&Start>,
) -> Result<Recovery, OpenError> {
    // Names that a process before this one made may not be durable, if it stopped just there.
    for folder in ["", FOLDER] {
        disk.sync_folder(folder).map_err(io_error("syncing", folder))?;
    }
    let (mut superblock_file, mut superblock) = open_superblock(disk)?;
    let scanned = scan(disk, superblock, visitor, start)?;
    let Scanned { tip, segment, at, mut segments, mut damage, end_damaged } = scanned;
    // What was read may not be durable yet, if the process before this one was killed between write and sync.
    segment.file().sync().map_err(io_error("syncing", &segment.name))?;
    if end_damaged && visitor.has_peers() {
        // That there was more is kept, durably, before it makes room for what others say that it was.
        tracing::warn!(segment = segment.name, offset = at, "the end of the log is damaged");
        (superblock.uncertain, superblock.cut) = (true, Some(tip.as_ref().map_or(Op(0), |h| h.op)));
        superblock_file.write(superblock).map_err(io_error("writing", superblock::NAME))?;
        blank_behind(&segment, at).map_err(io_error("cutting", FOLDER))?;
        damage = None;
    }
    if superblock.cut.is_some() && damage.is_none() {
        let files = list_segments(disk)?;
        let behind: Vec<String> = files.into_iter().filter(|f| *f > segment.name).collect();
        segments -= behind.len();
        remove_behind(disk, &behind).map_err(io_error("cutting", FOLDER))?;
        superblock.cut = None;
        superblock_file.write(superblock).map_err(io_error("writing", superblock::NAME))?;
    }
    Ok(Recovery { superblock_file, superblock, tip, segment, at, segments, damage })
}

/// Reads a log up to damage that it cannot go on behind.
pub(crate) fn scan(
    disk: &dyn Disk,
    superblock: Superblock,
    visitor: &mut dyn Visitor,
    start: Option<&Start>,
) -> Result<Scanned, OpenError> {
    let files = list_segments(disk)?;
    let mut scan = Scan {
        superblock,
        visitor,
        tip: start.map(|s| s.header.clone()),
        identity: start.map_or_else(|| Identity::root(superblock.cluster), |s| s.header.identity()),
        chains: HashMap::new(),
        damage: None,
        end_damaged: false,
    };
    let mut last = None;
    let before = start.map(|s| segment_name(s.segment));
    for (i, path) in files.iter().enumerate() {
        if before.as_ref().is_some_and(|before| path < before) {
            continue;
        }
        let resume = start.filter(|_| before.as_ref() == Some(path)).map(|s| s.frame.1);
        let (segment, at) = scan.segment(disk, path, files.get(i + 1), resume)?;
        last = Some((segment, at));
        if scan.cuts() || scan.damage.is_some() {
            break;
        }
    }
    let (segment, at) = last.ok_or_else(|| {
        let what = "the first segment is missing";
        OpenError::from(Damage { file: "log".into(), offset: 0, what })
    })?;
    scan.check_floor(&segment, at);
    let Scan { tip, damage, end_damaged, .. } = scan;
    Ok(Scanned { tip, segment, at, segments: files.len(), damage, end_damaged })
}

/// Overwrites with zeros, durably.
pub(crate) fn blank(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK_BYTES];
    let mut at = from;
    while at < to {
        let n = (to - at).min(CHUNK_BYTES as u64) as usize;
        file.write_all_at(&zeros[..n], at)?;
        at += n as u64;
    }
    file.sync()
}

/// Overwrites all that lies behind `at` with zeros, durably.
fn blank_behind(segment: &Arc<Segment>, at: u64) -> io::Result<()> {
    let end = Chunks::new(segment)?.last_nonzero(at)?.map_or(at, |last| last + 1);
    blank(&*segment.file(), at, end)
}

/// Removes segments that are behind the log's end.
pub(crate) fn remove_behind(disk: &dyn Disk, segments: &[String]) -> io::Result<()> {
    // The last one first: what is there after a crash follows on what lies before it.
    for segment in segments.iter().rev() {
        disk.remove(segment)?;
        disk.sync_folder(FOLDER)?;
    }
    Ok(())
}

/// The segments' paths, in order.
pub(crate) fn list_segments(disk: &dyn Disk) -> Result<Vec<String>, OpenError> {
    let names = disk.list(FOLDER).map_err(io_error("listing", FOLDER))?;
    let segments = names.into_iter().filter(|n| n.ends_with(SEGMENT_SUFFIX));
    Ok(segments.map(|n| format!("{FOLDER}/{n}")).collect())
}

struct Scan<'a> {
    superblock: Superblock,
    visitor: &'a mut dyn Visitor,
    tip: Option<Header>,
    /// Of the tip.
    identity: Identity,
    /// Hash of the last record of each tenant that was read.
    chains: HashMap<[u8; 16], Hash>,
    damage: Option<Damage>,
    end_damaged: bool,
}

impl Scan<'_> {
    fn next_op(&self) -> Op {
        self.tip.as_ref().map_or(Op(0), |h| h.op).next()
    }

    /// Reads one segment to its end and returns where that is.
    fn segment(
        &mut self,
        disk: &dyn Disk,
        path: &str,
        next: Option<&String>,
        resume: Option<u64>,
    ) -> Result<(Arc<Segment>, u64), OpenError> {
        let io = io_error("reading", path);
        let segment = Segment::open(disk, path, 0).map_err(io_error("opening", path))?;
        let mut head = [0; HEAD_SAID_BYTES];
        let named = match segment.file().read_exact_at(&mut head, 0) {
            Ok(()) => decode_segment_head(&head, self.superblock.cluster),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(io(error)),
        };
        // Who goes on inside a segment has judged its head before.
        let named = named.or_else(|| resume.and(segment_op(path)).map(|op| (op, self.identity)));
        let Some((first_op, parent)) = named else {
            self.fail(&segment, 0, "a segment's head");
            return Ok((Arc::new(segment), SEGMENT_HEAD_BYTES));
        };
        let segment = Arc::new(Segment { first_op, ..segment });
        if resume.is_none() && (Op(first_op) != self.next_op() || parent != self.identity) {
            self.fail(&segment, 0, "a segment does not follow the one before");
            return Ok((segment, SEGMENT_HEAD_BYTES));
        }
        let at =
            self.frames(disk, &segment, next, resume.unwrap_or(SEGMENT_HEAD_BYTES)).map_err(io)?;
        Ok((segment, at))
    }

    fn fail(&mut self, segment: &Segment, offset: u64, what: &'static str) {
        self.damage.get_or_insert(Damage { file: segment.name.clone(), offset, what });
    }

    fn frames(
        &mut self,
        disk: &dyn Disk,
        segment: &Arc<Segment>,
        next: Option<&String>,
        from: u64,
    ) -> io::Result<u64> {
        let mut file = Chunks::new(segment)?;
        let mut at = from;
        loop {
            if self.cuts() {
                return self.cut(&mut file, at);
            }
            if let Some(next_op) = read_end_mark(&file.get(at, END_MARK_BYTES as usize)?) {
                if next.is_none() || Op(next_op) != self.next_op() {
                    self.fail(segment, at, "the next segment is missing");
                }
                return Ok(at);
            }
            match read_frame(&mut file, at)? {
                Ok((head, sections)) if self.follows(&head) => {
                    let whole = sections.iter().all(|(_, runs)| runs.is_ok());
                    // Blocks hold wherever they lie: those of another op may lie here, if a write went elsewhere.
                    if !whole || (self.visitor.has_peers() && !self.leads(&sections)) {
                        match self.judge(&mut file, at, next)?.0 {
                            Verdict::Torn => return self.cut(&mut file, at),
                            Verdict::Damaged(what) if self.visitor.has_peers() => {
                                return Ok(self.leave(file.damage(at, what), at));
                            }
                            Verdict::DamagedEnd(what) if self.visitor.has_peers() => {
                                return Ok(self.lose_end(file.damage(at, what), at));
                            }
                            Verdict::End | Verdict::Damaged(_) | Verdict::DamagedEnd(_) => {}
                        }
                    }
                    let length = head.length as u64;
                    self.take(segment, at, &head, sections);
                    at += length;
                }
                _ => match self.judge(&mut file, at, next)? {
                    (Verdict::End, _) if next.is_none() => return Ok(at),
                    (Verdict::End, _) => return self.finish(disk, segment, at, next),
                    (Verdict::Torn, _) => return self.cut(&mut file, at),
                    (Verdict::Damaged(what), Some((resume, lost))) if !self.visitor.has_peers() => {
                        self.lose(lost, file.damage(at, what));
                        at = resume;
                    }
                    (Verdict::Damaged(what), _) => {
                        return Ok(self.leave(file.damage(at, what), at));
                    }
                    (Verdict::DamagedEnd(what), _) => {
                        return Ok(self.lose_end(file.damage(at, what), at));
                    }
                },
            }
        }
    }

    /// Whether the log ends here because a crash came while it was being cut.
    fn cuts(&self) -> bool {
        self.superblock.cut.is_some_and(|cut| self.next_op() > cut)
    }

    fn follows(&self, head: &FrameHead) -> bool {
        head.header.op == self.next_op()
            && head.header.parent == self.identity
            && head.header.cluster == self.superblock.cluster
            && head.previous == self.tip
            && self.tip.as_ref().is_none_or(|t| t.time_us < head.header.time_us)
    }

    /// Whether the sections' leaves and payloads are what the header says, as far as it is known what they follow.
    fn leads(&self, sections: &[(Section, Result<SectionRuns, Damage>)]) -> bool {
        sections_hold(sections, |tenant| {
            self.chains.get(tenant).copied().or_else(|| self.visitor.chain(tenant))
        })
    }

    fn take(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        head: &FrameHead,
        sections: Vec<(Section, Result<SectionRuns, Damage>)>,
    ) {
        let (length, header) = (head.length as u64, &head.header);
        self.chains
            .extend(sections.iter().map(|(section, _)| (section.tenant, section.chain_head)));
        self.visitor.op(RecoveredOp { segment, offset, length, header, sections });
        self.identity = head.header.identity();
        self.tip = Some(head.header.clone());
    }

    /// Nothing behind damage is read, nor touched: who has others has it filled, and what lies behind it, though it may
    /// be torn, says what it was.
    fn leave(&mut self, damage: Damage, at: u64) -> u64 {
        self.damage = Some(damage);
        at
    }

    /// What the log ended with is damaged.
    fn lose_end(&mut self, damage: Damage, at: u64) -> u64 {
        (self.damage, self.end_damaged) = (Some(damage), true);
        at
    }

    /// The op behind the tip is damaged; its header is known from the one behind it.
    fn lose(&mut self, lost: Header, damage: Damage) {
        self.chains.extend(Section::all(&lost).map(|section| (section.tenant, section.chain_head)));
        self.visitor.lost(Section::all(&lost).collect(), damage);
        self.identity = lost.identity();
        self.tip = Some(lost);
    }

    /// What the bytes at `at` are, if they are no valid next frame (or one whose blocks do not hold). With
    /// damage comes, where it is known, where to go on and the header of the damaged op.
    fn judge(
        &self,
        file: &mut Chunks,
        at: u64,
        next: Option<&String>,
    ) -> io::Result<(Verdict, Option<(u64, Header)>)> {
        let acknowledged = self.next_op() <= self.superblock.commit;
        let last = file.last_nonzero(at)?;
        let later = last.map(|last| self.later_frame(file, at, last)).transpose()?.flatten();
        if let Some(later) = later {
            let what = "an op that later ones follow";
            return Ok((Verdict::Damaged(what), later.next()));
        }
        let damaged = |what| match next {
            None => Verdict::DamagedEnd(what),
            Some(_) => Verdict::Damaged(what),
        };
        let Some(last) = last else {
            let what = "an acknowledged op is missing";
            return Ok((if acknowledged { damaged(what) } else { Verdict::End }, None));
        };
        if acknowledged {
            return Ok((damaged("an acknowledged op"), None));
        }
        if next.is_some() {
            let mark = end_mark(self.next_op().0);
            let there = file.get(at, mark.len())?;
            let torn = there.iter().zip(mark).all(|(byte, whole)| *byte == 0 || *byte == whole);
            if torn && last < at + END_MARK_BYTES {
                return Ok((Verdict::End, None));
            }
            return Ok((Verdict::Damaged("an op that another segment follows"), None));
        }
        let whole = frame_end(file, at, last + 1, |head| self.follows(head))?;
        let Some(end) = whole else { return Ok((Verdict::Torn, None)) };
        if file.has_zero_sector(at, end)? {
            Ok((Verdict::Torn, None))
        } else {
            Ok((damaged("the last op, which was written whole"), None))
        }
    }

    /// Looks behind `at` for a later op, up to `last`.
    fn later_frame(&self, file: &mut Chunks, at: u64, last: u64) -> io::Result<Option<Later>> {
        let mut from = at + 1;
        while from < last {
            let chunk = file.get(from, CHUNK_BYTES)?;
            for (i, _) in chunk.windows(4).enumerate().filter(|(_, w)| *w == b"KOP>") {
                let candidate = from + i as u64;
                let front = file.get(candidate, FRAME_HEAD_BYTES)?;
                let Some(length) = front_length(&front) else { continue };
                let Ok(head) = FrameHead::decode(&file.get(candidate, length)?) else { continue };
                let Some(previous) = head.previous else { continue };
                if previous.cluster != self.superblock.cluster
                    || head.header.parent != previous.identity()
                    || previous.op < self.next_op()
                {
                    continue;
                }
                let next = previous.op == self.next_op() && previous.parent == self.identity;
                return Ok(Some(if next {
                    Later::Next(candidate, previous)
                } else {
                    Later::Other
                }));
            }
            from += (CHUNK_BYTES - 4) as u64;
        }
        Ok(None)
    }

    /// Cuts a torn tail. It is invalid already and stays so at every moment of this, so zeros are enough.
    fn cut(&mut self, file: &mut Chunks, at: u64) -> io::Result<u64> {
        tracing::info!(segment = file.segment.name, offset = at, "a torn write is cut");
        self.visitor.mends(Damage { file: file.segment.name.clone(), offset: at, what: TORN });
        let end = file.last_nonzero(at)?.map_or(at, |last| last + 1);
        blank(&*file.segment.file(), at, end)?;
        Ok(at)
    }

    /// A crash came between making the next segment and ending this one.
    fn finish(
        &mut self,
        disk: &dyn Disk,
        segment: &Arc<Segment>,
        at: u64,
        next: Option<&String>,
    ) -> io::Result<u64> {
        let path = next.expect("only with a next segment");
        let mut head = [0; HEAD_SAID_BYTES];
        disk.open(path)?.read_exact_at(&mut head, 0)?;
        match decode_segment_head(&head, self.superblock.cluster) {
            Some((op, parent)) if Op(op) == self.next_op() && parent == self.identity => {
                let what = "an end mark was not written yet";
                self.visitor.mends(Damage { file: segment.name.clone(), offset: at, what });
                end_segment(&*segment.file(), at, op)?;
                disk.sync_folder(FOLDER)?;
            }
            _ => self.fail(segment, at, "the next segment does not follow this one"),
        }
        Ok(at)
    }

    /// The log must reach its commit floor.
    fn check_floor(&mut self, segment: &Segment, at: u64) {
        let op = self.tip.as_ref().map_or(Op(0), |h| h.op);
        let floor = self.superblock.commit;
        if op < floor || (op == floor && self.identity != self.superblock.identity) {
            self.end_damaged |= self.damage.is_none();
            self.fail(segment, at, "the log ends below its commit floor");
        }
    }
}

/// An op behind a place that does not hold.
enum Later {
    /// It says what lies between: where it is, and the header that it repeats.
    Next(u64, Header),
    /// More than one op is missing before it.
    Other,
}

impl Later {
    fn next(self) -> Option<(u64, Header)> {
        match self {
            Self::Next(at, header) => Some((at, header)),
            Self::Other => None,
        }
    }
}

enum Verdict {
    End,
    Torn,
    Damaged(&'static str),
    /// The same, and nothing is there behind it.
    DamagedEnd(&'static str),
}
