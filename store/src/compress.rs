//! Compresses segments once they are closed, on a thread that takes only the time that nobody else wants.

use std::{
    cell::Cell,
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::{
    disk::{Disk, DiskFile},
    limits::{COMPRESS_BUSY_BYTES_PER_S, COMPRESS_PAUSE_MS, COMPRESS_WAITING_MAX},
    log::{
        packed::{Outcome, PackError, pack},
        recovery,
    },
    node::{Counters, Tenants},
};

/// The lowest priority there is.
const NICE: i32 = 19;

/// For metrics, since the start.
#[derive(Debug, Default)]
pub(crate) struct CompressCounters {
    pub(crate) segments: AtomicU64,
    pub(crate) before: AtomicU64,
    pub(crate) after: AtomicU64,
    /// Times that one could not be compressed.
    pub(crate) failed: AtomicU64,
}

/// The thread; it ends with this.
#[derive(Debug)]
pub(crate) struct Packer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Locked while one waits to be stopped.
    waiting: Mutex<()>,
    stopped: Condvar,
    counters: CompressCounters,
    /// What the owner of the log does meanwhile.
    written: Arc<Counters>,
}

impl Packer {
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        cluster: [u8; 16],
        tenants: Arc<Tenants>,
        written: Arc<Counters>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { written, ..Shared::default() });
        let mut rounds = Rounds::new(disk, cluster, tenants, Arc::clone(&shared));
        let run = move || {
            let thread = Some(rustix::thread::gettid());
            if let Err(error) = rustix::process::setpriority_process(thread, NICE) {
                tracing::debug!(%error, "compression keeps the priority of everything else");
            }
            while rounds.run() {
                rounds.shared.wait(Duration::from_millis(COMPRESS_PAUSE_MS));
            }
        };
        let thread = std::thread::Builder::new().name("compress".into()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn counters(&self) -> &CompressCounters {
        &self.shared.counters
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(self.shared.waiting.lock());
        self.shared.stopped.notify_all();
        if let Some(thread) = self.thread.take() {
            let panicked = thread.join().is_err();
            debug_assert!(!panicked, "the compressing thread does not panic");
        }
    }
}

impl Shared {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits while the log is written to a lot; says whether to stop.
    fn gives_way(&self, patient: bool) -> bool {
        let window = Duration::from_millis(100);
        while patient && !self.stops() {
            let (before, since) = (self.written.bytes.load(Ordering::Relaxed), Instant::now());
            self.wait(window);
            let bytes = self.written.bytes.load(Ordering::Relaxed) - before;
            let most = COMPRESS_BUSY_BYTES_PER_S * since.elapsed().as_micros() as u64 / 1_000_000;
            if bytes < most {
                break;
            }
        }
        self.stops()
    }

    fn wait(&self, time: Duration) {
        let mut waiting = self.waiting.lock();
        if !self.stops() {
            self.stopped.wait_for(&mut waiting, time);
        }
    }
}

/// Looks for closed segments, again and again.
struct Rounds {
    disk: Arc<dyn Disk>,
    cluster: [u8; 16],
    tenants: Arc<Tenants>,
    shared: Arc<Shared>,
    /// Paths that need no further look.
    done: HashSet<String>,
    /// Whether to give way to writers.
    patient: bool,
}

impl Rounds {
    fn new(
        disk: Arc<dyn Disk>,
        cluster: [u8; 16],
        tenants: Arc<Tenants>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { disk, cluster, tenants, shared, done: HashSet::new(), patient: true }
    }

    /// Compresses what is closed by now; false once told to stop.
    fn run(&mut self) -> bool {
        let mut segments = recovery::list_segments(&*self.disk).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the log cannot be listed");
            Vec::new()
        });
        // The last one is open.
        segments.pop();
        segments.retain(|path| !self.done.contains(path));
        for (done, path) in segments.iter().enumerate() {
            let (shared, waiting) = (&self.shared, segments.len() - done);
            let looks = Cell::new(0_u32);
            // Not at each look: a look at the log takes its time.
            let stop = || {
                looks.set(looks.get() + 1);
                let patient = looks.get() % 16 == 1 && waiting <= COMPRESS_WAITING_MAX;
                shared.gives_way(patient && self.patient)
            };
            match pack(&*self.disk, self.cluster, path, &stop) {
                Ok(Outcome::Packed { file, before, after }) => {
                    self.turn(path, &file);
                    let counters = &self.shared.counters;
                    counters.segments.fetch_add(1, Ordering::Relaxed);
                    counters.before.fetch_add(before, Ordering::Relaxed);
                    counters.after.fetch_add(after, Ordering::Relaxed);
                }
                Ok(Outcome::Already) => {}
                Ok(Outcome::Unfit) => continue,
                Ok(Outcome::Stopped) => return false,
                Err(PackError::Fatal(error)) => {
                    tracing::error!(path, error = &error as &dyn std::error::Error, "stopping");
                    self.disk.fatal();
                    return false;
                }
                Err(PackError::Failed(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(path, error, "a segment could not be compressed");
                    self.shared.counters.failed.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            self.done.insert(path.clone());
        }
        !self.shared.stops()
    }

    /// Has those who read the old generation read the new one, so that the old one's room is free.
    fn turn(&self, path: &str, file: &Arc<dyn DiskFile>) {
        for tenant in self.tenants.all() {
            for slice in tenant.view().slices.iter().filter(|s| s.segment().name == path) {
                slice.segment().turn_to(Arc::clone(file));
            }
        }
    }
}

/// Compresses everything that is closed, here and now.
#[cfg(test)]
pub(crate) fn compress_all(disk: &Arc<dyn Disk>, cluster: [u8; 16], tenants: &Arc<Tenants>) -> u64 {
    let shared = Arc::new(Shared::default());
    let mut rounds =
        Rounds::new(Arc::clone(disk), cluster, Arc::clone(tenants), Arc::clone(&shared));
    rounds.patient = false;
    rounds.run();
    shared.counters.segments.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        Options, Store, Tenant,
        append::{Append, Expected, NewEvent, StreamAppend},
        disk::{
            RealDisk,
            simulated::{Fault, SimulatedDisk},
        },
        error::ReadError,
        log::{Head, create_segment, end_segment},
        read::{After, Direction, Filter, Selection, Shape, Source},
        verify::{Finding, FindingKind, Progress, Watcher, verify},
        words::{Actor, EventType, StreamName, TenantName},
    };

    const FIRST: &str = "log/0000000000000001.segment";

    fn open(folder: &Path) -> Store {
        let folder = folder.to_owned();
        let (segment_bytes, checkpoint_records) = (128 << 10, 40);
        let (scrub_bytes_per_s, compresses) = (0, false);
        let options = Options {
            folder,
            segment_bytes,
            checkpoint_records,
            scrub_bytes_per_s,
            compresses,
            signing: None,
        };
        Store::open(options).unwrap()
    }

    fn name() -> TenantName {
        TenantName::new("dev").unwrap()
    }

    /// Several closed segments with what compresses well and what does not.
    async fn written(folder: &Path) -> (Store, Tenant) {
        let store = open(folder);
        let actor = || Actor::new("tester").unwrap();
        let tenant = store.create_tenant(actor(), name()).await.unwrap();
        for i in 0..120_u8 {
            let noise: String = (0..40)
                .map(|_| rand::random_range(10_u64.pow(18)..10_u64.pow(19)).to_string())
                .collect();
            let event = |data: String| NewEvent {
                id: None,
                event_type: EventType::new("t").unwrap(),
                data: Some(data.into()),
                metadata: None,
                occurred_at: None,
                tags: Vec::new(),
            };
            let stream = StreamAppend {
                stream: StreamName::new(["a", "b", "c"][usize::from(i) % 3]).unwrap(),
                expected: Expected::Any,
                recreate: false,
                events: vec![
                    event(format!("\"{noise}\"")),
                    event(format!("\"{}\"", "x".repeat(2000))),
                ],
            };
            let (appends, conditions) = (vec![stream], Vec::new());
            let append = Append { actor: actor(), appends, conditions, idempotency: None };
            store.append(&tenant, append).await.unwrap();
        }
        (store, tenant)
    }

    fn compress(folder: &Path, store: &Store) -> u64 {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder));
        let cluster = recovery::cluster(&*disk).unwrap();
        compress_all(&disk, cluster, store.tenants())
    }

    /// Everything, in both directions and stream by stream, as it is sent.
    async fn answers(store: &Store, tenant: &Tenant) -> Result<Vec<u8>, ReadError> {
        let stream = |s| Source::Stream { name: StreamName::new(s).unwrap(), from: None };
        let mut all = Vec::new();
        for source in [Source::Log, stream("a"), stream("b"), stream("c")] {
            for direction in [Direction::Forward, Direction::Backward] {
                let (source, after, filter) = (source.clone(), After::Nothing, Filter::default());
                let bytes = crate::limits::PAGE_BYTES_MAX;
                let selection = Selection { source, after, filter, direction, limit: 1000, bytes };
                let batch = store.read(tenant, &selection, Shape::Ndjson).await?;
                batch.pieces.iter().for_each(|piece| all.extend_from_slice(piece));
            }
        }
        Ok(all)
    }

    /// What verify says is damaged.
    #[derive(Default)]
    struct Damaged(Vec<String>);

    impl Watcher for Damaged {
        fn progress(&mut self, _: &Progress) {}

        fn found(&mut self, finding: &Finding) {
            if finding.kind == FindingKind::Damage {
                self.0.push(format!("{finding:?}"));
            }
        }
    }

    fn damaged(folder: &Path) -> Vec<String> {
        let mut found = Damaged::default();
        verify(folder, &mut found).unwrap();
        found.0
    }

    #[tokio::test]
    async fn a_compressed_segment_answers_as_before_and_takes_less_room() {
        let folder = tempfile::tempdir().unwrap();
        let (store, tenant) = written(folder.path()).await;
        let before = answers(&store, &tenant).await.unwrap();
        let size = || std::fs::metadata(folder.path().join(FIRST)).unwrap().len();
        let plain = size();
        // Readers go on meanwhile, in what they have open.
        let reading = {
            let (store, tenant, before) = (store.clone(), tenant.clone(), before.clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    assert!(answers(&store, &tenant).await.unwrap() == before);
                }
            })
        };
        let closed = compress(folder.path(), &store);
        assert!(closed >= 2, "{closed} segments");
        assert!(size() < plain * 2 / 3, "{} of {plain} bytes", size());
        assert_eq!(compress(folder.path(), &store), 0, "once");
        reading.await.unwrap();
        assert!(answers(&store, &tenant).await.unwrap() == before);
        store.close().await;
        drop((store, tenant));
        assert_eq!(damaged(folder.path()), Vec::<String>::new());
        for index in ["kept", "deleted"] {
            if index == "deleted" {
                std::fs::remove_dir_all(folder.path().join("index")).unwrap();
            }
            let store = open(folder.path());
            let tenant = store.tenant(&name()).unwrap();
            assert!(answers(&store, &tenant).await.unwrap() == before, "index {index}");
            store.close().await;
        }
    }

    #[tokio::test]
    async fn a_flip_in_a_compressed_segment_is_found_and_never_served() {
        let folder = tempfile::tempdir().unwrap();
        let (store, tenant) = written(folder.path()).await;
        let before = answers(&store, &tenant).await.unwrap();
        compress(folder.path(), &store);
        store.close().await;
        drop((store, tenant));
        let path = folder.path().join(FIRST);
        let good = std::fs::read(&path).unwrap();
        let table = u64::from_le_bytes(good[112..120].try_into().unwrap()) as usize;
        let places = [0, 9, 12, 14, 15, 20, 50, 90, 105, 113, 121, 300, 4000, table, table + 1];
        let rest = [4096, 4097, 4102, 4106, 4125, 4140, good.len() - 1, good.len() - 5];
        let some = (4200..good.len()).step_by(5003);
        let mut refused = 0;
        for at in places.into_iter().chain(rest).chain(some) {
            let mut bad = good.clone();
            bad[at] ^= 8;
            std::fs::write(&path, &bad).unwrap();
            let found = damaged(folder.path());
            assert!(found.iter().any(|f| f.contains(FIRST)), "byte {at}: {found:?}");
            // From the index on disk, and made anew from the log.
            for index in ["kept", "made anew"] {
                if index == "made anew" {
                    std::fs::write(folder.path().join("index/rebuild"), b"").unwrap();
                }
                let Ok(store) = Store::open_on(
                    Arc::new(RealDisk::new(folder.path())),
                    128 << 10,
                    crate::checkpoint::Due { records: 40, bytes: 1 << 20 },
                    None,
                ) else {
                    refused += 1;
                    continue;
                };
                // The damage may have taken the record that made the tenant.
                let answers = match store.tenant(&name()) {
                    Some(tenant) => Some(answers(&store, &tenant).await),
                    None => None,
                };
                match answers {
                    Some(Ok(all)) => assert!(all == before, "byte {at}, index {index}"),
                    Some(Err(ReadError::Damaged(damage))) if damage.file == FIRST => refused += 1,
                    Some(Err(error)) => panic!("byte {at}: {error}"),
                    None => refused += 1,
                }
                store.close().await;
            }
            std::fs::write(&path, &good).unwrap();
        }
        assert!(refused > 40, "{refused} refusals");
        assert_eq!(damaged(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn it_gives_way_to_writers_but_not_for_ever() {
        let shared = Shared::default();
        let (writing, stopped) = (AtomicBool::new(true), AtomicBool::new(false));
        let (writing, stopped, shared) = (&writing, &stopped, &shared);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while writing.load(Ordering::Relaxed) {
                    shared.written.bytes.fetch_add(1 << 20, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let waits = scope.spawn(move || {
                let stop = shared.gives_way(true);
                stopped.store(true, Ordering::Relaxed);
                stop
            });
            // Who has too much to do does not wait.
            assert!(!shared.gives_way(false));
            std::thread::sleep(Duration::from_millis(500));
            assert!(!stopped.load(Ordering::Relaxed), "it goes on beside a gigabyte a second");
            writing.store(false, Ordering::Relaxed);
            assert!(!waits.join().unwrap());
        });
    }

    #[tokio::test]
    async fn what_is_not_closed_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _tenant) = written(folder.path()).await;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
        let cluster = recovery::cluster(&*disk).unwrap();
        let segments = recovery::list_segments(&*disk).unwrap();
        let go_on = || false;
        let open = segments.last().unwrap();
        assert!(matches!(pack(&*disk, cluster, open, &go_on), Ok(Outcome::Unfit)));
        assert!(matches!(pack(&*disk, [7; 16], FIRST, &go_on), Ok(Outcome::Unfit)));
        assert!(matches!(pack(&*disk, cluster, FIRST, &|| true), Ok(Outcome::Stopped)));
        let listed = std::fs::read_dir(folder.path().join("log")).unwrap();
        assert!(listed.flatten().all(|f| f.path().extension().is_none_or(|e| e != "new")));
        store.close().await;
    }

    /// A disk with a closed segment and an open one, and what compresses it.
    fn rounds() -> (Arc<SimulatedDisk>, Rounds) {
        let (disk, cluster) = (SimulatedDisk::new(), [3; 16]);
        let parent = kimberlite_consensus::Identity::root(cluster);
        for first_op in [1, 2] {
            let head = Head { cluster, first_op, parent };
            let segment = create_segment(&*disk, head, 64 << 10).unwrap();
            if first_op == 1 {
                end_segment(&*segment.file(), 40 << 10, 2).unwrap();
            }
        }
        let on = Arc::clone(&disk) as Arc<dyn Disk>;
        let mut rounds = Rounds::new(on, cluster, Arc::default(), Arc::default());
        rounds.patient = false;
        (disk, rounds)
    }

    #[test]
    fn what_fails_is_counted_and_tried_again_but_not_a_sync() {
        let counted = |rounds: &Rounds| {
            let counters = &rounds.shared.counters;
            [&counters.segments, &counters.failed].map(|n| n.load(Ordering::Relaxed))
        };
        // The first write; the sync of the file, and then of its name.
        for (n, fault, goes_on) in [
            (2, Fault::Error, true),
            (2, Fault::Full, true),
            (5, Fault::Full, true),
            (5, Fault::Error, false),
            (7, Fault::Error, false),
        ] {
            let (disk, mut rounds) = rounds();
            disk.fail(n, fault);
            let what = format!("{fault:?} at operation {n}");
            assert_eq!(rounds.run(), goes_on, "{what}");
            assert_eq!(counted(&rounds), [0, u64::from(goes_on)], "{what}");
            assert_eq!(disk.create("log/other").is_ok(), goes_on, "{what}: the process stops");
            if goes_on {
                assert!(rounds.run());
                assert_eq!(counted(&rounds), [1, 1], "{what}");
            }
        }
    }
}
