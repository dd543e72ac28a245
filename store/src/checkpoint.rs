//! Checkpoints: what was derived since the last one goes from memory to disk, while the log goes on.
//!
//! The thread that owns the log freezes what is in memory, between two ops; a thread of its own writes it, as one run
//! file and one transaction, and puts runs in the place of what was frozen. Nothing is durable or readable by virtue of
//! a checkpoint: it only bounds memory, and how much of the log a start has to read.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
};

use kimberlite_consensus::Header;

use crate::{
    disk::Disk,
    error::ReadError,
    index::{
        Changed, KnownActor, Layout, MemoryPart, NO_RUN, Pages, Run, TenantDerived,
        derived::{Checkpoint, Derived, FOLDER, RunRow, TenantChange, TenantRow, run_name},
        rows::{ChangedRows, KnownTable},
        write_pages, write_part,
    },
    log::Written,
    node::Tenants,
    tenant::TenantShared,
    words::{Actor, EventType, Reference, TenantName},
};

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Due {
    /// Beyond so many times of this, while a checkpoint cannot be written, nothing more is taken in.
    const OVERDUE: u64 = 2;
}

/// One tenant, frozen.
struct FrozenTenant {
    tenant: Arc<TenantShared>,
    row: TenantRow,
    streams: Arc<Changed>,
    first_type: u32,
    types: Vec<(EventType, Reference)>,
    actors: Vec<(Actor, KnownActor)>,
    tables: Vec<(u32, KnownTable)>,
    rows: Arc<ChangedRows>,
    parts: Vec<Arc<MemoryPart>>,
}

/// Everything that one checkpoint writes.
struct Frozen {
    checkpoint: Checkpoint,
    tenants: Vec<FrozenTenant>,
}

/// The last op taken in, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    pub(crate) header: Header,
    pub(crate) written: Written,
    pub(crate) bytes: u64,
}

/// The side of the thread that owns the log.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    due: Due,
    /// Since the last freeze.
    records: u64,
    bytes: u64,
    state: State,
    counters: Arc<CheckpointCounters>,
}

/// For metrics.
#[derive(Debug, Default)]
pub(crate) struct CheckpointCounters {
    pub(crate) written: AtomicU64,
    pub(crate) failed: AtomicU64,
}

#[derive(Debug)]
enum State {
    /// Written at once by who freezes.
    Inline(Box<Writer>, Option<Box<Frozen>>),
    Thread {
        jobs: Option<SyncSender<Box<Frozen>>>,
        results: Receiver<Result<(), Box<Frozen>>>,
        busy: bool,
        failed: Option<Box<Frozen>>,
        thread: Option<JoinHandle<()>>,
    },
}

/// What writes checkpoints.
#[derive(Debug)]
struct Writer {
    disk: Arc<dyn Disk>,
    derived: Arc<Derived>,
    next_run: u64,
    counters: Arc<CheckpointCounters>,
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen").field("checkpoint", &self.checkpoint).finish_non_exhaustive()
    }
}

impl Checkpoints {
    /// With a thread of its own where the disk allows that.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        derived: Arc<Derived>,
        next_run: u64,
        due: Due,
    ) -> io::Result<Self> {
        let counters = Arc::new(CheckpointCounters::default());
        let threaded = disk.works_beside();
        let mut writer = Writer { disk, derived, next_run, counters: Arc::clone(&counters) };
        let state = if threaded {
            let (jobs, job) = sync_channel::<Box<Frozen>>(1);
            let (result, results) = sync_channel(1);
            let run = move || {
                while let Ok(frozen) = job.recv() {
                    let done = writer.write(&frozen).map_err(|()| frozen);
                    if result.send(done).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(run)?;
            let (jobs, thread) = (Some(jobs), Some(thread));
            State::Thread { jobs, results, busy: false, failed: None, thread }
        } else {
            State::Inline(Box::new(writer), None)
        };
        Ok(Self { due, records: 0, bytes: 0, state, counters })
    }

    pub(crate) fn counters(&self) -> Arc<CheckpointCounters> {
        Arc::clone(&self.counters)
    }

    /// Takes no further checkpoints: the log is damaged, and what is in memory is not all of it.
    pub(crate) fn stop(&mut self) {
        self.due = Due { records: u64::MAX, bytes: u64::MAX };
    }

    /// Whether so much waits for a checkpoint that nothing more may be taken in. Waits for one that is being written.
    pub(crate) fn overdue(&mut self) -> bool {
        let over = self.records / Due::OVERDUE >= self.due.records
            || self.bytes / Due::OVERDUE >= self.due.bytes;
        if !over {
            return false;
        }
        self.wait();
        self.retry();
        self.wait();
        !self.idle()
    }

    /// Notes an op that was taken in, and starts a checkpoint when one is due.
    pub(crate) fn note(&mut self, tenants: &Tenants, records: u64, behind: &Behind) {
        self.records += records;
        self.bytes += behind.bytes;
        if self.records < self.due.records && self.bytes < self.due.bytes {
            return;
        }
        self.collect();
        self.retry();
        if self.idle() {
            let frozen = freeze(tenants, behind);
            (self.records, self.bytes) = (0, 0);
            self.submit(Box::new(frozen));
        }
    }

    /// Whether the last checkpoint was written, or there is none.
    fn idle(&self) -> bool {
        match &self.state {
            State::Inline(_, failed) => failed.is_none(),
            State::Thread { busy, failed, .. } => !busy && failed.is_none(),
        }
    }

    fn submit(&mut self, frozen: Box<Frozen>) {
        match &mut self.state {
            State::Inline(writer, failed) => {
                *failed = writer.write(&frozen).is_err().then_some(frozen);
            }
            State::Thread { jobs, busy, failed, .. } => {
                let Some(jobs) = jobs else { return };
                match jobs.send(frozen) {
                    Ok(()) => *busy = true,
                    Err(back) => *failed = Some(back.0),
                }
            }
        }
    }

    /// Tries again what failed.
    fn retry(&mut self) {
        let failed = match &mut self.state {
            State::Inline(_, failed) | State::Thread { failed, .. } => failed.take(),
        };
        if let Some(frozen) = failed {
            self.submit(frozen);
        }
    }

    /// Takes a result that is there.
    fn collect(&mut self) {
        if let State::Thread { results, busy, failed, .. } = &mut self.state
            && *busy
        {
            match results.try_recv() {
                Ok(done) => (*busy, *failed) = (false, done.err()),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => *busy = false,
            }
        }
    }

    /// Waits for the checkpoint that is being written.
    fn wait(&mut self) {
        if let State::Thread { results, busy, failed, .. } = &mut self.state
            && *busy
        {
            *failed = results.recv().ok().and_then(Result::err);
            *busy = false;
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wait();
        if let State::Thread { jobs, thread, .. } = &mut self.state {
            *jobs = None;
            if let Some(thread) = thread.take() {
                let panicked = thread.join().is_err();
                debug_assert!(!panicked, "the checkpoint thread does not panic");
            }
        }
    }
}

/// Takes what is in memory of every tenant. Between two ops.
fn freeze(tenants: &Tenants, behind: &Behind) -> Frozen {
    let frozen = tenants.all().into_iter().filter_map(|tenant| {
        let mut index = tenant.index.write();
        if index.saved_count == Some(index.count) {
            return None;
        }
        index.saved_count = Some(index.count);
        let row = TenantRow {
            name: tenant.name.as_ref().map(TenantName::to_string),
            log_id: tenant.log_id,
            count: index.count,
            chain_head: index.chain_head.0,
            generation: index.generation,
            next_stream: index.names.next_stream(),
            last_stamp: index.last_stamp,
        };
        let first_type = index.saved_types;
        let types = index.names.types.list[first_type..].to_vec();
        index.saved_types = index.names.types.list.len();
        let new_actors = std::mem::take(&mut index.new_actors);
        let actors = new_actors.into_iter().map(|name| {
            let known = index.names.actors[&name];
            (name, known)
        });
        let actors = actors.collect();
        let (streams, parts) = (index.names.freeze(), index.freeze());
        let (rows, tables) = index.rows.freeze();
        drop(index);
        let first_type = first_type as u32;
        Some(FrozenTenant { tenant, row, streams, first_type, types, actors, tables, rows, parts })
    });
    let Written { segment, offset } = &behind.written;
    let header = &behind.header;
    let checkpoint = Checkpoint::new(
        header.cluster,
        header.encode(),
        segment.first_op,
        (*offset, offset + behind.bytes),
    );
    Frozen { checkpoint, tenants: frozen.collect() }
}

/// The parts of one tenant as they stand in the run file.
type WrittenPart = (Arc<TenantShared>, Arc<MemoryPart>, Layout);
/// A run file.
type WrittenRun = (Arc<Pages>, Vec<WrittenPart>);

impl Writer {
    /// Writes a checkpoint and lets go of what was frozen; after an error it can be tried again.
    fn write(&mut self, frozen: &Frozen) -> Result<(), ()> {
        let number = self.next_run;
        // A number is used once, so that a file which a failed try left is never taken for another.
        self.next_run += 1;
        match self.try_write(frozen, number) {
            Ok(written) => {
                publish(frozen, written);
                self.counters.written.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if self.derived.broken() || !is_full(&error) => {
                // Going on from what the page cache says would build on what may not be there.
                let error = crate::error::chain(&error);
                tracing::error!(error, "a checkpoint failed; the process stops");
                self.derived.condemn();
                self.disk.fatal();
                Err(())
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(error, "no room for a checkpoint; it will be tried again");
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                let name = run_name(number);
                if self.disk.exists(&name).is_ok_and(|there| there)
                    && let Err(error) = self.disk.remove(&name)
                {
                    tracing::debug!(error = crate::error::chain(&error), name, "left");
                }
                Err(())
            }
        }
    }

    fn try_write(&self, frozen: &Frozen, number: u64) -> Result<Option<WrittenRun>, ReadError> {
        let name = run_name(number);
        let io = |source| ReadError::Io { file: name.clone(), source };
        let mut content = Vec::new();
        let mut written = Vec::new();
        let mut changes = Vec::new();
        for tenant in &frozen.tenants {
            let mut stream_runs = HashMap::new();
            for part in &tenant.parts {
                let layout = self.part(tenant, part, &mut stream_runs, &mut content)?;
                written.push((Arc::clone(&tenant.tenant), Arc::clone(part), layout));
            }
            changes.push(TenantChange {
                tenant: tenant.tenant.reference,
                row: tenant.row.clone(),
                streams: Arc::clone(&tenant.streams),
                first_type: tenant.first_type,
                types: tenant.types.clone(),
                actors: tenant.actors.clone(),
                stream_runs,
                tables: tenant.tables.clone(),
                rows: Arc::clone(&tenant.rows),
            });
        }
        if written.is_empty() {
            self.derived.commit(&frozen.checkpoint, &changes, None).map_err(io)?;
            return Ok(None);
        }
        write_pages(&*self.disk, &name, &content).map_err(io)?;
        self.disk.sync_folder(FOLDER).map_err(io)?;
        let pages = Pages::open(&*self.disk, name.clone()).map_err(io)?;
        let parts = written.iter().map(|(t, _, layout)| (t.reference, layout.clone())).collect();
        let row = RunRow { parts };
        self.derived.commit(&frozen.checkpoint, &changes, Some((number, &row))).map_err(io)?;
        Ok(Some((Arc::new(pages), written)))
    }

    fn part(
        &self,
        tenant: &FrozenTenant,
        part: &Arc<MemoryPart>,
        stream_runs: &mut HashMap<u32, u64>,
        content: &mut Vec<u8>,
    ) -> Result<Layout, ReadError> {
        let derived = TenantDerived::new(Arc::clone(&self.derived), tenant.tenant.reference);
        let first_new = tenant.streams.first_new;
        let mut before_part = HashMap::new();
        let mut previous = |stream: u32| {
            let before = match stream_runs.insert(stream, part.first) {
                Some(before) => before,
                None if stream >= first_new => NO_RUN,
                None => derived.last_run(stream)?,
            };
            before_part.insert(stream, before);
            Ok(before)
        };
        let layout = write_part(content, part, &mut previous)?;
        // A second try finds the same.
        part.previous.get_or_init(|| before_part);
        Ok(layout)
    }
}

/// Whether there was no room. A sync that says so has written nobody knows what, and is no such error.
fn is_full(error: &ReadError) -> bool {
    matches!(error, ReadError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
}

/// Puts runs in the place of what was frozen.
fn publish(frozen: &Frozen, written: Option<WrittenRun>) {
    let mut runs: HashMap<[u8; 16], HashMap<u64, Arc<Run>>> = HashMap::new();
    if let Some((pages, parts)) = written {
        for (tenant, part, layout) in parts {
            let run = Run::new(Arc::clone(&part.segment), Arc::clone(&pages), layout);
            runs.entry(tenant.reference).or_default().insert(part.first, Arc::new(run));
        }
    }
    for tenant in &frozen.tenants {
        let of_tenant = runs.remove(&tenant.tenant.reference).unwrap_or_default();
        tenant.tenant.index.write().thaw(&of_tenant);
    }
}
