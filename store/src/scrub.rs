//! Reads again what lies closed on disk, slowly, so that damage is known before somebody asks for the bytes.
//!
//! Closed segments and the files of the index, which is held against them, one after the other, for ever; then the
//! superblock's copies and the tiles. What is still being written is left to recovery, and nothing is mended here.
//!
//! Absent on purpose: the database of names, of which only a process that has it for itself can read every row.

mod derived;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use kimberlite_consensus::Header;
use parking_lot::{Condvar, Mutex};

use crate::{
    disk::Disk,
    error::{Damage, ReadError},
    index::{Run, RunCheck, Slice, check_section, holds},
    limits::SCRUB_PAUSE_MS,
    log::{
        frame::{Section, SectionRuns},
        recovery,
        walk::{ClosedFrames, Frame, check_head},
    },
    node::Tenants,
    record::genesis,
    tenant::TenantShared,
    words::{Hash, Reference},
};

/// Pages of a run file between two looks at the pace.
const PAGES_AT_ONCE: u64 = 16;
const PAGE_BYTES: u64 = 4096;

/// How fast, and how long between two rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) bytes_per_s: u64,
    pub(crate) pause: Duration,
}

impl Pace {
    pub(crate) fn usual(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, pause: Duration::from_millis(SCRUB_PAUSE_MS) }
    }
}

/// For metrics.
#[derive(Debug, Default)]
pub(crate) struct ScrubCounters {
    pub(crate) bytes: AtomicU64,
    pub(crate) rounds: AtomicU64,
    pub(crate) damage: AtomicU64,
    /// Of these places, those in what a start makes anew from the log.
    pub(crate) derived: AtomicU64,
    /// Files that could not be read, in each round anew.
    pub(crate) unread: AtomicU64,
}

/// The thread that reads; it ends with this.
#[derive(Debug)]
pub(crate) struct Scrubber {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: Mutex<bool>,
    stopped: Condvar,
    counters: ScrubCounters,
}

/// Told to stop.
struct Stop;

struct Round {
    disk: Arc<dyn Disk>,
    cluster: [u8; 16],
    tenants: Arc<Tenants>,
    pace: Pace,
    shared: Arc<Shared>,
    /// What was counted before.
    known: HashSet<(String, u64)>,
    /// Each tenant's run of which records come just now.
    checks: HashMap<[u8; 16], RunCheck>,
    /// Numbers of streams that came lately.
    streams: HashMap<([u8; 16], Reference), u32>,
}

impl Scrubber {
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        cluster: [u8; 16],
        tenants: Arc<Tenants>,
        pace: Pace,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut round = Round::new(disk, cluster, tenants, pace, Arc::clone(&shared));
        let run = move || {
            while round.run().is_ok() {
                round.shared.counters.rounds.fetch_add(1, Ordering::Relaxed);
                if round.wait(pace.pause).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("scrub".into()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn counters(&self) -> &ScrubCounters {
        &self.shared.counters
    }
}

/// Reads everything once, here and now; places that are damaged, those that the log can make anew, and files that cannot be
/// read.
#[cfg(test)]
pub(crate) fn scrub_all(
    disk: &Arc<dyn Disk>,
    cluster: [u8; 16],
    tenants: &Arc<Tenants>,
) -> [u64; 3] {
    let shared = Arc::new(Shared::default());
    let pace = Pace { bytes_per_s: u64::MAX, pause: Duration::ZERO };
    let (disk, tenants) = (Arc::clone(disk), Arc::clone(tenants));
    let mut round = Round::new(disk, cluster, tenants, pace, Arc::clone(&shared));
    let stopped = round.run().is_err();
    assert!(!stopped, "nobody stops it");
    let counters = &shared.counters;
    [&counters.damage, &counters.derived, &counters.unread].map(|n| n.load(Ordering::Relaxed))
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        *self.shared.stop.lock() = true;
        self.shared.stopped.notify_all();
        if let Some(thread) = self.thread.take() {
            let panicked = thread.join().is_err();
            debug_assert!(!panicked, "the scrubbing thread does not panic");
        }
    }
}

impl Round {
    fn new(
        disk: Arc<dyn Disk>,
        cluster: [u8; 16],
        tenants: Arc<Tenants>,
        pace: Pace,
        shared: Arc<Shared>,
    ) -> Self {
        let (known, checks, streams) = (HashSet::new(), HashMap::new(), HashMap::new());
        Self { disk, cluster, tenants, pace, shared, known, checks, streams }
    }

    fn run(&mut self) -> Result<(), Stop> {
        let mut segments = recovery::list_segments(&*self.disk).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the log cannot be listed");
            self.shared.counters.unread.fetch_add(1, Ordering::Relaxed);
            Vec::new()
        });
        // The last one is open.
        segments.pop();
        for path in segments {
            match self.segment(&path) {
                Ok(()) => {}
                Err(Ended::Stop) => return Err(Stop),
                Err(Ended::Io(error)) => self.unread(&path, &error),
            }
        }
        for (path, (run, tenants)) in self.runs() {
            match self.run_file(&run, &tenants) {
                Ok(()) => {}
                Err(Ended::Stop) => return Err(Stop),
                Err(Ended::Io(error)) => self.unread(&path, &error),
            }
        }
        self.superblock()?;
        for tenant in self.tenants.all() {
            match self.tiles(&tenant) {
                Ok(()) => {}
                Err(Ended::Stop) => return Err(Stop),
                Err(Ended::Io(error)) => self.unread(crate::tiles::FOLDER, &error),
            }
        }
        Ok(())
    }

    /// Waits, unless told to stop.
    fn wait(&self, time: Duration) -> Result<(), Stop> {
        let mut stop = self.shared.stop.lock();
        if !*stop && !time.is_zero() {
            self.shared.stopped.wait_for(&mut stop, time);
        }
        if *stop { Err(Stop) } else { Ok(()) }
    }

    /// Counts bytes that were read, and waits until more may be.
    fn read(&self, bytes: u64) -> Result<(), Stop> {
        self.shared.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        let micros = bytes.saturating_mul(1_000_000) / self.pace.bytes_per_s.max(1);
        self.wait(Duration::from_micros(micros))
    }

    fn segment(&mut self, path: &str) -> Result<(), Ended> {
        let io = |source| ReadError::Io { file: path.to_owned(), source };
        let (holds, filled) = check_head(&*self.disk, self.cluster, path).map_err(io)?;
        if !holds || filled.is_some() {
            let (offset, what) = (filled.unwrap_or(0), "a segment's head");
            self.found(&Damage { file: path.to_owned(), offset, what }, &self.tenants.all());
        }
        let mut chains: HashMap<[u8; 16], Hash> = HashMap::new();
        // No run has records of two segments.
        self.checks.clear();
        let frames = ClosedFrames::open(&*self.disk, self.cluster, path);
        let mut frames = frames.map_err(io)?;
        while let Some(frame) = frames.next().map_err(io)? {
            match frame {
                Frame::Op { offset, length, sections, .. } => {
                    for (section, runs) in sections {
                        self.section(path, offset, &section, runs, &chains)?;
                        chains.insert(section.tenant, section.chain_head);
                    }
                    self.read(length)?;
                }
                Frame::Lost { damage, header } => {
                    for section in header.iter().flat_map(Section::all) {
                        chains.insert(section.tenant, section.chain_head);
                    }
                    self.found(&damage, &self.concerned(header.as_ref()));
                }
            }
        }
        Ok(())
    }

    /// The tenants that have records in an op; all where that is unknown.
    fn concerned(&self, header: Option<&Header>) -> Vec<Arc<TenantShared>> {
        let Some(header) = header else { return self.tenants.all() };
        Section::all(header).filter_map(|s| self.tenants.by_reference(&s.tenant)).collect()
    }

    fn section(
        &mut self,
        path: &str,
        offset: u64,
        section: &Section,
        runs: Result<SectionRuns, Damage>,
        chains: &HashMap<[u8; 16], Hash>,
    ) -> Result<(), Stop> {
        let tenant = self.tenants.by_reference(&section.tenant);
        let previous = chains.get(&section.tenant).copied();
        let previous = previous.or_else(|| before(tenant.as_deref()?, section.first_position));
        let held = runs.and_then(|runs| {
            let hashes = match previous {
                Some(previous) => check_section(section, &runs, previous).map(Some),
                None => holds(section, &runs, None).map(|()| None),
            };
            let damage = |what| Damage { file: path.to_owned(), offset, what };
            Ok((hashes.map_err(damage)?, runs))
        });
        match (held, &tenant) {
            (Err(damage), _) => self.found(&damage, tenant.as_slice()),
            (Ok((Some(hashes), runs)), Some(tenant)) => {
                self.compare(tenant, section.first_position, (path, offset), (&runs, &hashes))?;
            }
            (Ok(_), _) => {}
        }
        Ok(())
    }

    /// The files of the index, each with a run in it and the tenants that have some.
    fn runs(&self) -> BTreeMap<String, (Arc<Run>, Vec<Arc<TenantShared>>)> {
        let mut files: BTreeMap<String, (Arc<Run>, Vec<Arc<TenantShared>>)> = BTreeMap::new();
        for tenant in self.tenants.all() {
            for slice in tenant.view().slices.iter() {
                let Slice::Disk(run) = slice else { continue };
                let name = run.pages().name().to_owned();
                let (_, tenants) =
                    files.entry(name).or_insert_with(|| (Arc::clone(run), Vec::new()));
                if !tenants.last().is_some_and(|last| Arc::ptr_eq(last, &tenant)) {
                    tenants.push(Arc::clone(&tenant));
                }
            }
        }
        files
    }

    fn run_file(&mut self, run: &Run, tenants: &[Arc<TenantShared>]) -> Result<(), Ended> {
        let pages = run.pages();
        let mut reader = pages.sequential();
        let count = pages.count()?;
        for page in 0..count {
            match reader.check(page) {
                Ok(()) => {}
                Err(ReadError::Damaged(damage)) => self.found(&damage, tenants),
                Err(error) => return Err(error.into()),
            }
            if (page + 1).is_multiple_of(PAGES_AT_ONCE) {
                self.read(PAGES_AT_ONCE * PAGE_BYTES)?;
            }
        }
        Ok(self.read(count % PAGES_AT_ONCE * PAGE_BYTES)?)
    }

    /// What cannot be read cannot be told to be whole. Readers may be luckier, so nothing is stopped.
    fn unread(&self, path: &str, error: &ReadError) {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, file = path, "a file cannot be read to be checked");
        self.shared.counters.unread.fetch_add(1, Ordering::Relaxed);
    }

    fn found(&mut self, damage: &Damage, tenants: &[Arc<TenantShared>]) {
        if self.known.insert((damage.file.clone(), damage.offset)) {
            let Damage { file, offset, what } = damage;
            if damage.is_derived() {
                let found = "scrubbing found damage in what the log can make anew";
                tracing::error!(file, offset, what, "{found}");
                self.shared.counters.derived.fetch_add(1, Ordering::Relaxed);
            } else {
                tracing::error!(file, offset, what, "scrubbing found damage");
            }
            self.shared.counters.damage.fetch_add(1, Ordering::Relaxed);
        }
        for tenant in tenants {
            tenant.damaged(damage);
        }
    }
}

/// The hash of the record before a position, where the index can say.
fn before(tenant: &TenantShared, position: u64) -> Option<Hash> {
    match position.checked_sub(1) {
        None => Some(genesis(tenant.log_id)),
        Some(last) => Some(tenant.view().entry(last).ok()??.1.hash),
    }
}

/// Why a file was not read to its end.
enum Ended {
    Stop,
    Io(ReadError),
}

impl From<Stop> for Ended {
    fn from(_: Stop) -> Self {
        Self::Stop
    }
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        Self::Io(error)
    }
}
