//! Brings back what the log says: from the last checkpoint, and from the ops behind it.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use kimberlite_consensus::{Header, Op};

use crate::{
    checkpoint::{Behind, Checkpoints, Due},
    disk::Disk,
    error::{Damage, OpenError, ReadError},
    index::{
        Names, Pages, Run, Slice,
        derived::{Derived, Kept, run_name},
        rows::Rows,
    },
    log::{
        Segment, Written,
        frame::{Section, SectionRuns},
        framed::Framed,
        recovery::{self, RecoveredOp, Recovery, Start, Visitor},
    },
    node::{Tenants, engine::Uncommitted},
    words::{Hash, TenantName},
};

/// A start that has to read much says so each time that so long has passed.
const TELL_EVERY: Duration = Duration::from_secs(5);

pub(crate) fn io_error(action: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { action, path: ".".into(), source }
}

/// Brings back what the log of a cluster of one says, from the last checkpoint on. `known` adds tenants that no log
/// tells of.
#[cfg(test)]
pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    due: Due,
    lock: Option<File>,
    known: &dyn Fn(&Tenants),
) -> Result<(Arc<Tenants>, Checkpoints, Recovery), OpenError> {
    let Opened { tenants, checkpoints, recovery, .. } = open(disk, due, lock, known, 0)?;
    Ok((tenants, checkpoints, recovery))
}

/// What was brought back.
pub(crate) struct Opened {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) recovery: Recovery,
    /// Header of the last op that was taken in.
    pub(crate) committed: Option<Header>,
    /// The ops behind it.
    pub(crate) suffix: Vec<Uncommitted>,
    /// Something that was read of the log does not hold.
    #[cfg(feature = "sim")]
    pub(crate) damaged: bool,
}

/// Brings back what the log says. Its last `holds` ops are not taken in, but for those that the superblock knows to be
/// committed.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    due: Due,
    lock: Option<File>,
    known: &dyn Fn(&Tenants),
    holds: usize,
) -> Result<Opened, OpenError> {
    let cluster = recovery::cluster(&**disk)?;
    let derived =
        Derived::open(Arc::clone(disk), lock).map_err(io_error("opening the index in"))?;
    let derived = Arc::new(derived);
    let tenants = Arc::new(Tenants::new(Arc::clone(&derived)));
    let (start, next_run) = match load(disk, &derived, &tenants, cluster) {
        Ok(loaded) => loaded,
        Err(why) => {
            tracing::info!(why = crate::error::chain(&why), "the index is made anew");
            derived.reset().map_err(io_error("making the index in"))?;
            tenants.clear();
            (None, 0)
        }
    };
    known(&tenants);
    let checkpoints = Checkpoints::start(Arc::clone(disk), derived, next_run, due);
    let checkpoints = checkpoints.map_err(io_error("starting the writer of checkpoints in"))?;
    let mut replay = Replay {
        tenants: Arc::clone(&tenants),
        checkpoints,
        failed: None,
        committed: start.as_ref().map(|s| s.header.clone()),
        holds,
        held: VecDeque::new(),
        damaged: false,
        told: Instant::now(),
    };
    let recovered = recovery::recover(&**disk, &mut replay, start.as_ref())?;
    replay.take_in(recovered.superblock.commit);
    replay.damaged |= replay.held.iter().any(Held::is_damaged);
    let suffix = replay.suffix().map_err(io_error("reading the end of the log in"))?;
    #[cfg(feature = "sim")]
    let damaged = replay.damaged;
    let Replay { mut checkpoints, failed, committed, .. } = replay;
    if let Some(error) = failed {
        return Err(match error {
            ReadError::Damaged(damage) => damage.into(),
            ReadError::Io { file, source } => {
                OpenError::Io { action: "reading", path: file.into(), source }
            }
            other => unreachable!("taking in a record does not fail so: {other}"),
        });
    }
    if recovered.damage.is_some() {
        checkpoints.stop();
    }
    Ok(Opened {
        tenants,
        checkpoints,
        recovery: recovered,
        committed,
        suffix,
        #[cfg(feature = "sim")]
        damaged,
    })
}

/// Takes the tenants from the last checkpoint: where to read the log on from, and the number of the next run.
///
/// # Errors
/// Why what is derived is of no use: it is made anew then.
fn load(
    disk: &Arc<dyn Disk>,
    derived: &Derived,
    tenants: &Tenants,
    cluster: [u8; 16],
) -> Result<(Option<Start>, u64), LoadError> {
    let (checkpoint, loaded, runs) = match derived.load()? {
        Kept::At(loaded) => loaded,
        Kept::Nothing => return Ok((None, derived.tidy(&[])?)),
        Kept::OtherVersion => return Err(LoadError::OtherVersion),
    };
    let header = bytes::Bytes::from(checkpoint.header);
    let header = Header::decode(&header).map_err(|_| LoadError::Other)?;
    let start = Start { header, segment: checkpoint.segment, frame: checkpoint.frame };
    if checkpoint.cluster != cluster || !recovery::holds(&**disk, cluster, &start)? {
        return Err(LoadError::Other);
    }
    let next_run = derived.tidy(&runs)?;
    let mut segments: HashMap<u64, Arc<Segment>> = HashMap::new();
    let mut slices: HashMap<[u8; 16], Vec<Slice>> = HashMap::new();
    for (number, run) in &runs {
        let pages = Arc::new(Pages::open(&**disk, run_name(*number))?);
        for (tenant, layout) in &run.parts {
            if !layout.can_be() {
                return Err(LoadError::Other);
            }
            let segment = if let Some(segment) = segments.get(&layout.segment) {
                Arc::clone(segment)
            } else {
                let opened = recovery::open_segment(&**disk, cluster, layout.segment)?;
                let opened = Arc::new(opened.ok_or(LoadError::Other)?);
                segments.insert(layout.segment, Arc::clone(&opened));
                opened
            };
            let run = Run::new(segment, Arc::clone(&pages), layout.clone());
            slices.entry(*tenant).or_default().push(Slice::Disk(Arc::new(run)));
        }
    }
    for tenant in loaded {
        let slices = slices.remove(&tenant.tenant).unwrap_or_default();
        let mut next = 0;
        for slice in &slices {
            if slice.first() != next {
                return Err(LoadError::Other);
            }
            next = slice.end();
        }
        if next != tenant.row.count {
            return Err(LoadError::Other);
        }
        let name = tenant.row.name.as_deref().map(TenantName::new).transpose();
        let name = name.map_err(|_| LoadError::Other)?;
        let shared = tenants.make(name, tenant.tenant, tenant.row.log_id);
        let names = Names::load(tenant.row.next_stream, tenant.types, tenant.actors);
        let rows = Rows::load(tenant.tables);
        shared.index.write().restore(names, rows, slices, &tenant.row);
        tenants.add(Arc::new(shared));
    }
    Ok((Some(start), next_run))
}

/// Why what is derived cannot be gone on from.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("reading the index failed")]
    Io(#[from] std::io::Error),
    #[error("another version made the index")]
    OtherVersion,
    #[error("the index does not fit the log")]
    Other,
}

/// Builds the tenants' indexes while the log is read.
pub(crate) struct Replay {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) checkpoints: Checkpoints,
    /// The database of names failed: nothing further is taken in.
    pub(crate) failed: Option<ReadError>,
    /// Header of the last op that was taken in.
    committed: Option<Header>,
    /// So many of the last ops are held back.
    holds: usize,
    held: VecDeque<Held>,
    /// Something that was read does not hold.
    damaged: bool,
    /// When somebody was told how far it is.
    told: Instant,
}

/// An op that may not be committed.
struct Held {
    segment: Arc<Segment>,
    offset: u64,
    length: u64,
    header: Header,
    sections: Vec<(Section, Result<SectionRuns, Damage>)>,
}

impl Held {
    fn is_damaged(&self) -> bool {
        self.sections.iter().any(|(_, runs)| runs.is_err())
    }
}

impl Visitor for Replay {
    fn op(&mut self, op: RecoveredOp<'_>) {
        let RecoveredOp { segment, offset, length, header, sections } = op;
        let (segment, header) = (Arc::clone(segment), header.clone());
        self.held.push_back(Held { segment, offset, length, header, sections });
        if self.held.len() > self.holds
            && let Some(first) = self.held.pop_front()
        {
            self.apply(first);
        }
    }

    fn has_peers(&self) -> bool {
        self.holds > 0
    }

    fn chain(&self, tenant: &[u8; 16]) -> Option<Hash> {
        Some(self.tenants.by_reference(tenant)?.index.read().chain_head)
    }

    fn lost(&mut self, sections: Vec<Section>, damage: Damage) {
        self.checkpoints.stop();
        self.damaged = true;
        for section in sections {
            if let Some(tenant) = self.tenants.by_reference(&section.tenant) {
                tenant.damaged(&damage);
            }
        }
    }
}

impl Replay {
    /// Takes in what was held back, up to `last`.
    fn take_in(&mut self, last: Op) {
        while let Some(first) = self.held.pop_front_if(|h| h.header.op <= last) {
            self.apply(first);
        }
    }

    /// What is still held back.
    fn suffix(&mut self) -> std::io::Result<Vec<Uncommitted>> {
        let read = |held: Held| {
            let Held { segment, offset, length, header, .. } = held;
            let mut frame = vec![0; length as usize];
            segment.file().read_exact_at(&mut frame, offset)?;
            let frame = Framed::new(frame.into(), Some(segment.spot(offset)));
            if frame.sections(&header).is_none() {
                return Err(std::io::Error::other("an op is not what it was a moment ago"));
            }
            let written = Written { segment, offset };
            Ok(Uncommitted { header, written, frame })
        };
        self.held.drain(..).map(read).collect()
    }

    fn apply(&mut self, op: Held) {
        self.committed = Some(op.header.clone());
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            tracing::info!(file = op.segment.name, op = op.header.op.0, "the log is being read");
        }
        if self.failed.is_some() {
            return;
        }
        let mut records = 0;
        let mut damaged = false;
        for (section, runs) in op.sections {
            records += u64::from(section.records);
            damaged |= !self.section(&op.segment, op.offset, section, runs);
        }
        self.damaged |= damaged;
        if damaged {
            self.checkpoints.stop();
        }
        let written = Written { segment: op.segment, offset: op.offset };
        let behind = Behind { header: op.header, written, bytes: op.length };
        self.checkpoints.note(&self.tenants, records, &behind);
        if self.checkpoints.overdue() {
            tracing::debug!("reading on without room for a checkpoint");
        }
    }

    /// Takes in one section; says whether it is whole.
    fn section(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        section: Section,
        runs: Result<SectionRuns, Damage>,
    ) -> bool {
        // Without a tenant there is nothing to serve; its creation was damaged, which is known by now.
        let Some(tenant) = self.tenants.by_reference(&section.tenant) else { return false };
        let created = {
            let mut index = tenant.index.write();
            if index.damage.is_some() {
                return false;
            }
            let applied = runs
                .map_err(ReadError::from)
                .and_then(|runs| index.apply(segment, offset, section, &runs, None));
            match applied {
                Ok(()) => std::mem::take(&mut index.tenants),
                Err(ReadError::Damaged(damage)) => {
                    drop(index);
                    tenant.damaged(&damage);
                    return false;
                }
                Err(error) => {
                    self.failed = Some(error);
                    return false;
                }
            }
        };
        for body in &created {
            if self.tenants.add_created(body).is_none() {
                let what = "a tenant's record cannot be read";
                tenant.damaged(&Damage { file: segment.name.clone(), offset, what });
                return false;
            }
        }
        true
    }
}
