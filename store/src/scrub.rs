//! Reads again what lies closed on disk, slowly, so that damage is known before somebody asks for the bytes.
//!
//! Closed segments and the files of the index, one after the other, for ever. What is still being written is left to
//! recovery, and nothing is mended here.

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
    index::{Run, Slice, holds},
    limits::SCRUB_PAUSE_MS,
    log::{
        frame::{Section, SectionRuns},
        recovery,
        walk::{ClosedFrames, Frame, check_head},
    },
    node::Tenants,
    record::genesis,
    tenant::TenantShared,
    words::Hash,
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
}

impl Scrubber {
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        cluster: [u8; 16],
        tenants: Arc<Tenants>,
        pace: Pace,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let known = HashSet::new();
        let mut round = Round { disk, cluster, tenants, pace, shared: Arc::clone(&shared), known };
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
        let frames = ClosedFrames::open(&*self.disk, self.cluster, path);
        let mut frames = frames.map_err(io)?;
        while let Some(frame) = frames.next().map_err(io)? {
            match frame {
                Frame::Op { offset, length, sections, .. } => {
                    for (section, runs) in sections {
                        self.section(path, offset, &section, runs, &chains);
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
    ) {
        let tenant = self.tenants.by_reference(&section.tenant);
        let previous = chains.get(&section.tenant).copied();
        let previous = previous.or_else(|| before(tenant.as_deref()?, section.first_position));
        let held = runs.and_then(|runs| {
            let file = path.to_owned();
            holds(section, &runs, previous).map_err(|what| Damage { file, offset, what })
        });
        if let Err(damage) = held {
            self.found(&damage, tenant.as_slice());
        }
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
            tracing::error!(file, offset, what, "scrubbing found damage");
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

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::FileExt,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        Options, Store,
        append::{Append, AppendError, Expected, NewEvent, StreamAppend},
        checkpoint::Due,
        disk::simulated::{ReadFault, SimulatedDisk},
        words::{Actor, EventType, StreamName, TenantName},
    };

    const QUICK: Pace = Pace { bytes_per_s: u64::MAX, pause: Duration::from_millis(5) };

    fn one() -> Append {
        let event = NewEvent {
            id: None,
            event_type: EventType::new("t").unwrap(),
            data: Some(format!("\"{}\"", "x".repeat(3000)).into()),
            metadata: None,
            occurred_at: None,
            tags: Vec::new(),
        };
        let (stream, expected) = (StreamName::new("s").unwrap(), Expected::Any);
        Append {
            actor: Actor::new("tester").unwrap(),
            appends: vec![StreamAppend { stream, expected, recreate: false, events: vec![event] }],
            conditions: Vec::new(),
            idempotency: None,
        }
    }

    async fn opened(folder: &std::path::Path) -> (Store, crate::Tenant) {
        let options = Options {
            folder: folder.to_owned(),
            segment_bytes: 64 << 10,
            checkpoint_records: 40,
            scrub_bytes_per_s: 0,
            compresses: false,
            signing: None,
        };
        let store = Store::open(options).unwrap();
        let name = TenantName::new("dev").unwrap();
        let tenant = store.create_tenant(Actor::new("tester").unwrap(), name).await.unwrap();
        let mut appended = 0;
        // A checkpoint that comes late waits for the next append.
        while appended < 100 || store.stats().checkpoints < 2 {
            store.append(&tenant, one()).await.unwrap();
            appended += 1;
        }
        (store, tenant)
    }

    fn until(mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(20), "it takes too long");
            std::thread::yield_now();
        }
    }

    fn flip(folder: &std::path::Path, file: &str, at: u64) {
        let path = folder.join(file);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }

    fn start(folder: &std::path::Path, store: &Store, pace: Pace) -> Scrubber {
        let disk: Arc<dyn Disk> = Arc::new(crate::disk::RealDisk::new(folder));
        let cluster = recovery::cluster(&*disk).unwrap();
        Scrubber::start(disk, cluster, Arc::clone(store.tenants()), pace).unwrap()
    }

    /// Offsets: the head, its filling, a frame's front, its first block's head and bytes, the middle of the file.
    #[tokio::test]
    async fn a_flip_is_found_without_any_read_and_stops_writes() {
        let first = "log/0000000000000001.segment";
        let cases = [0, 2000, 4096, 4110, 4096 + 200, 9000, 30_000, 50_000];
        let cases =
            cases.map(|at| (first, at)).into_iter().chain([("index/0000000000000000.run", 3000)]);
        for (file, at) in cases {
            let folder = tempfile::tempdir().unwrap();
            let (store, tenant) = opened(folder.path()).await;
            let scrubber = start(folder.path(), &store, QUICK);
            let counters = scrubber.counters();
            until(|| counters.rounds.load(Ordering::Relaxed) > 1);
            assert_eq!(counters.damage.load(Ordering::Relaxed), 0);
            assert!(store.damage(&tenant).is_none());
            assert!(counters.bytes.load(Ordering::Relaxed) > 200_000);
            flip(folder.path(), file, at);
            until(|| counters.damage.load(Ordering::Relaxed) == 1);
            let rounds = counters.rounds.load(Ordering::Relaxed);
            until(|| counters.rounds.load(Ordering::Relaxed) > rounds + 1);
            assert_eq!(counters.damage.load(Ordering::Relaxed), 1, "{file} at {at}");
            // The first frame holds the tenant's creation, which is the system tenant's.
            let system = at > 4095 && at < 4600 && file == first;
            let damage = if system {
                store
                    .tenants()
                    .by_reference(&crate::node::SYSTEM)
                    .unwrap()
                    .index
                    .read()
                    .damage
                    .clone()
            } else {
                let refused = store.append(&tenant, one()).await;
                assert!(matches!(refused, Err(AppendError::Damaged(_))), "{file} at {at}");
                store.damage(&tenant)
            };
            let damage = damage.unwrap_or_else(|| panic!("{file} at {at}"));
            assert_eq!(damage.file, file);
            assert!(damage.offset <= at && at - damage.offset < 4096, "{damage:?}");
        }
    }

    /// Changes a byte of a record and everything that only guards against accidents: the block says that it holds.
    fn forge(folder: &std::path::Path, file: &str, payload: bool, at: usize) -> u64 {
        let path = folder.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let u32_at = |bytes: &[u8], at: usize| {
            u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
        };
        // The third frame: the tenant's creation and the first event lie before it.
        let mut frame = crate::log::SEGMENT_HEAD_BYTES as usize;
        for _ in 0..2 {
            frame += u32_at(&bytes, frame + 4);
        }
        let mut block = frame + 20 + u32_at(&bytes, frame + 8) + u32_at(&bytes, frame + 12);
        if payload {
            block += 32 + u32_at(&bytes, block + 4);
        }
        let end = block + 32 + u32_at(&bytes, block + 4);
        bytes[block + 32 + at] ^= 1;
        // It says nothing of where it lies.
        bytes[block + 2] = 0;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[block..block + 28]);
        crc.update(&bytes[block + 32..end]);
        bytes[block + 28..block + 32].copy_from_slice(&crc.finalize().to_le_bytes());
        std::fs::write(path, bytes).unwrap();
        frame as u64
    }

    /// Places: a payload's text; behind the leaf's length, its id; the leaf's version of its own form.
    #[tokio::test]
    async fn records_are_checked_though_their_blocks_hold() {
        let file = "log/0000000000000001.segment";
        for (payload, at, what) in [
            (true, 1000, "a payload does not match its commitment"),
            (false, 2 + 7, "the chain of leaves does not lead to its head"),
            (false, 2, "unknown leaf version"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (store, tenant) = opened(folder.path()).await;
            let frame = forge(folder.path(), file, payload, at);
            let scrubber = start(folder.path(), &store, QUICK);
            until(|| scrubber.counters().damage.load(Ordering::Relaxed) > 0);
            let damage = store.damage(&tenant).unwrap();
            assert_eq!((damage.file.as_str(), damage.offset, damage.what), (file, frame, what));
            let refused = store.append(&tenant, one()).await;
            assert!(matches!(refused, Err(AppendError::Damaged(_))), "{what}");
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_counted_and_the_rest_is_checked() {
        let disk = SimulatedDisk::new();
        let on = || Arc::clone(&disk) as Arc<dyn Disk>;
        let due = Due { records: 40, bytes: 1 << 20 };
        let store = Store::open_on(on(), 64 << 10, due, None).unwrap();
        let name = TenantName::new("dev").unwrap();
        let tenant = store.create_tenant(Actor::new("tester").unwrap(), name).await.unwrap();
        for _ in 0..100 {
            store.append(&tenant, one()).await.unwrap();
        }
        let cluster = recovery::cluster(&*disk).unwrap();
        let reads = {
            let tenants = Arc::clone(store.tenants());
            let scrubber = Scrubber::start(on(), cluster, tenants, QUICK).unwrap();
            until(|| scrubber.counters().rounds.load(Ordering::Relaxed) > 0);
            let before = disk.reads();
            let rounds = scrubber.counters().rounds.load(Ordering::Relaxed);
            until(|| scrubber.counters().rounds.load(Ordering::Relaxed) > rounds + 1);
            disk.reads() - before
        };
        // In segments and in runs.
        for n in (1..reads).step_by(7) {
            disk.fail_read(n, ReadFault::Error);
            let tenants = Arc::clone(store.tenants());
            let scrubber = Scrubber::start(on(), cluster, tenants, QUICK).unwrap();
            let counters = scrubber.counters();
            until(|| counters.unread.load(Ordering::Relaxed) == 1);
            let rounds = counters.rounds.load(Ordering::Relaxed);
            until(|| counters.rounds.load(Ordering::Relaxed) > rounds + 1);
            assert_eq!(counters.unread.load(Ordering::Relaxed), 1, "read {n} of {reads}");
            assert_eq!(counters.damage.load(Ordering::Relaxed), 0, "read {n} of {reads}");
        }
        assert!(store.damage(&tenant).is_none());
    }

    #[tokio::test]
    async fn it_reads_no_faster_than_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = opened(folder.path()).await;
        let pace = Pace { bytes_per_s: 100_000, ..QUICK };
        let (started, scrubber) = (Instant::now(), start(folder.path(), &store, pace));
        until(|| scrubber.counters().bytes.load(Ordering::Relaxed) > 60_000);
        assert!(started.elapsed() > Duration::from_millis(500));
        drop(scrubber);
        assert!(started.elapsed() < Duration::from_secs(5), "it stops at once");
    }
}
