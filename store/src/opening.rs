//! Brings back what the log says: from the last checkpoint, and from the ops behind it.

use std::{collections::HashMap, fs::File, sync::Arc};

use kimberlite_consensus::Header;

use crate::{
    checkpoint::{Behind, Checkpoints, Due},
    disk::Disk,
    error::{Damage, OpenError, ReadError},
    index::{
        Names, Pages, Run, Slice,
        derived::{Derived, run_name},
    },
    log::{
        Segment, Written,
        frame::{Section, SectionRuns},
        recovery::{self, RecoveredOp, Recovery, Start, Visitor},
    },
    node::Tenants,
    words::TenantName,
};

pub(crate) fn io_error(action: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { action, path: ".".into(), source }
}

/// Brings back what the log says, from the last checkpoint on. `known` adds tenants that no log tells of.
pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    due: Due,
    lock: Option<File>,
    known: &dyn Fn(&Tenants),
) -> Result<(Arc<Tenants>, Checkpoints, Recovery), OpenError> {
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
    let mut replay = Replay { tenants: Arc::clone(&tenants), checkpoints, failed: None };
    let recovered = recovery::recover(&**disk, &mut replay, start.as_ref())?;
    let Replay { mut checkpoints, failed, .. } = replay;
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
    Ok((tenants, checkpoints, recovered))
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
    let Some((checkpoint, loaded, runs)) = derived.load()? else {
        return Ok((None, derived.tidy(&[])?));
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
        shared.index.write().restore(names, slices, &tenant.row);
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
    #[error("the index does not fit the log")]
    Other,
}

/// Builds the tenants' indexes while the log is read.
pub(crate) struct Replay {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) checkpoints: Checkpoints,
    /// The database of names failed: nothing further is taken in.
    pub(crate) failed: Option<ReadError>,
}

impl Visitor for Replay {
    fn op(&mut self, op: RecoveredOp<'_>) {
        if self.failed.is_some() {
            return;
        }
        let mut records = 0;
        let mut damaged = false;
        for (section, runs) in op.sections {
            records += u64::from(section.records);
            damaged |= !self.section(op.segment, op.offset, section, runs);
        }
        if damaged {
            self.checkpoints.stop();
        }
        let written = Written { segment: Arc::clone(op.segment), offset: op.offset };
        let behind = Behind { header: op.header.clone(), written, bytes: op.length };
        self.checkpoints.note(&self.tenants, records, &behind);
        if self.checkpoints.overdue() {
            tracing::debug!("reading on without room for a checkpoint");
        }
    }

    fn lost(&mut self, sections: Vec<Section>, damage: Damage) {
        self.checkpoints.stop();
        for section in sections {
            if let Some(tenant) = self.tenants.by_reference(&section.tenant) {
                tenant.damaged(&damage);
            }
        }
    }
}

impl Replay {
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
