//! The scrubber on folders and disks that are spoiled while a store is open.

use std::{
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    Options, Store,
    append::{Append, AppendError, Expected, Idempotency, NewEvent, StreamAppend},
    checkpoint::Due,
    disk::simulated::{ReadFault, SimulatedDisk},
    words::{Actor, EventType, StreamName, Tag, TenantName},
};

const QUICK: Pace = Pace { bytes_per_s: u64::MAX, pause: Duration::from_millis(5) };

fn one() -> Append {
    let event = NewEvent {
        id: None,
        event_type: EventType::new("t").unwrap(),
        data: Some(format!("\"{}\"", "x".repeat(3000)).into()),
        metadata: None,
        occurred_at: None,
        tags: ["a", "b", "a"].map(|tag| Tag::new(tag).unwrap()).to_vec(),
    };
    let (stream, expected) = (StreamName::new("s").unwrap(), Expected::Any);
    let key = rand::random::<u64>().to_string();
    let idempotency = Some(Idempotency { key, route: "append", request_digest: [7; 32] });
    Append {
        actor: Actor::new("tester").unwrap(),
        appends: vec![StreamAppend { stream, expected, recreate: false, events: vec![event] }],
        conditions: Vec::new(),
        idempotency,
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
            store.tenants().by_reference(&crate::node::SYSTEM).unwrap().index.read().damage.clone()
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

fn scrubbed(folder: &std::path::Path, store: &Store) -> [u64; 3] {
    let disk: Arc<dyn Disk> = Arc::new(crate::disk::RealDisk::new(folder));
    scrub_all(&disk, recovery::cluster(&*disk).unwrap(), store.tenants())
}

/// Changes a byte of a run, and its page's checksum with it.
fn spoil(folder: &std::path::Path, file: &str, at: u64) {
    let path = folder.join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at as usize] ^= 1;
    let number = at / PAGE_BYTES;
    let page = &mut bytes[(number * PAGE_BYTES) as usize..((number + 1) * PAGE_BYTES) as usize];
    let (content, sum) = page.split_last_chunk_mut::<4>().unwrap();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(content);
    *sum = crc.finalize().to_le_bytes();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn an_index_that_is_not_the_logs_is_found_though_its_pages_hold() {
    let mut tables = 0;
    for table in 0..7 {
        let folder = tempfile::tempdir().unwrap();
        let (store, tenant) = opened(folder.path()).await;
        let shared = store.tenants().by_name(&TenantName::new("dev").unwrap()).unwrap();
        let view = shared.view();
        let Slice::Disk(run) = &view.slices[0] else { panic!("it is on disk") };
        let (file, rows) = (run.pages().name().to_owned(), run.last_rows());
        assert_eq!(rows.len(), 7, "every table has rows");
        assert_eq!(scrubbed(folder.path(), &store), [0, 0, 0]);
        spoil(folder.path(), &file, rows[table]);
        assert_eq!(scrubbed(folder.path(), &store), [1, 1, 0], "the log can make it anew");
        let damage = store.damage(&tenant).unwrap();
        assert_eq!(damage.file, file);
        assert!(damage.what.ends_with("of the index is not the log's"), "{damage}");
        assert!(matches!(store.append(&tenant, one()).await, Err(AppendError::Damaged(_))));
        drop((shared, view));
        store.close().await;
        drop((store, tenant));
        // The next start does so.
        let (store, _tenant) = opened(folder.path()).await;
        assert_eq!(scrubbed(folder.path(), &store), [0, 0, 0], "table {table}");
        tables += 1;
    }
    assert_eq!(tables, 7);
}

/// Neither costs anything that somebody has: writes go on.
#[tokio::test]
async fn damaged_copies_of_the_superblock_and_damaged_tiles_are_found_and_stop_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = opened(folder.path()).await;
    let disk: Arc<dyn Disk> = Arc::new(crate::disk::RealDisk::new(folder.path()));
    let keys: Arc<dyn Disk> = Arc::new(crate::disk::RealDisk::private(&folder.path().join("keys")));
    drop(tenant);
    let signing = crate::Signing { folder: folder.path().join("keys"), origin: String::new() };
    let store = store.signed_on(keys, &signing, &disk).unwrap();
    let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
    while store.signed(&tenant).is_none_or(|signed| signed.checkpoint.size < 256) {
        store.append(&tenant, one()).await.unwrap();
    }
    let scrubber = start(folder.path(), &store, QUICK);
    let counters = scrubber.counters();
    until(|| counters.rounds.load(Ordering::Relaxed) > 1);
    assert_eq!(counters.damage.load(Ordering::Relaxed), 0);
    let tiles = std::fs::read_dir(folder.path().join("tiles")).unwrap();
    let tile = tiles.flatten().next().unwrap().file_name().into_string().unwrap();
    flip(folder.path(), &format!("tiles/{tile}"), 3);
    until(|| counters.damage.load(Ordering::Relaxed) == 1);
    assert_eq!(counters.derived.load(Ordering::Relaxed), 1);
    // A copy that nobody writes meanwhile.
    let rounds = counters.rounds.load(Ordering::Relaxed);
    flip(folder.path(), "superblock", 70);
    flip(folder.path(), "superblock", 4096 + 70);
    until(|| counters.damage.load(Ordering::Relaxed) > 1);
    assert_eq!(counters.derived.load(Ordering::Relaxed), 1, "no log makes a superblock anew");
    assert!(counters.rounds.load(Ordering::Relaxed) >= rounds);
    assert!(store.damage(&tenant).is_none());
    store.append(&tenant, one()).await.unwrap();
}
