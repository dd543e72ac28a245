//! What work costs, counted on the simulated disk: no clock, so no noise.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    Store, Tenant,
    append::{Append, AppendError, Appended, Expected, NewEvent, StreamAppend},
    checkpoint::Due,
    disk::{Disk, simulated::SimulatedDisk},
    fragment::RENDERED,
    kernel::PreparedEvent,
    limits::{OP_RECORDS_MAX, QUEUE_BYTES_MAX, QUEUE_COMMANDS_MAX},
    read::{After, Direction, Filter, Selection, Shape, Source},
    words::{Actor, EventType, StreamName, Tag, TenantName},
};

const OPEN_SEGMENT: &str = "log/0000000000000001.segment";

fn actor() -> Actor {
    Actor::new("tester").unwrap()
}

async fn opened(disk: &Arc<SimulatedDisk>, segment_bytes: u64, records: u64) -> (Store, Tenant) {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let store = Store::open_on(disk, segment_bytes, Due { records, bytes: 1 << 30 }, None).unwrap();
    let name = TenantName::new("dev").unwrap();
    let tenant = store.create_tenant(actor(), name).await.unwrap();
    (store, tenant)
}

fn event(event_type: &str, tags: &[&str], bytes: usize) -> NewEvent {
    NewEvent {
        id: None,
        event_type: EventType::new(event_type).unwrap(),
        data: Some(format!("\"{}\"", "x".repeat(bytes)).into()),
        metadata: None,
        occurred_at: None,
        tags: tags.iter().map(|tag| Tag::new(tag).unwrap()).collect(),
    }
}

fn to_stream(name: &str, events: Vec<NewEvent>) -> StreamAppend {
    let (stream, expected) = (StreamName::new(name).unwrap(), Expected::Any);
    StreamAppend { stream, expected, recreate: false, events }
}

fn append(name: &str, events: Vec<NewEvent>) -> Append {
    let appends = vec![to_stream(name, events)];
    Append { actor: actor(), appends, conditions: Vec::new(), idempotency: None }
}

/// Asked on a disk that is held up, so that they wait together.
type Waiting<'a> = Vec<Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + 'a>>>;

/// Asks until one is refused, or `count` wait.
fn ask<'a>(
    store: &'a Store,
    tenant: &'a Tenant,
    count: usize,
    make: impl Fn() -> Append,
) -> (Waiting<'a>, Option<AppendError>) {
    let mut waiting: Waiting<'a> = Vec::new();
    while waiting.len() < count {
        let mut asked: Waiting<'a> = vec![Box::pin(store.append(tenant, make()))];
        match asked[0].as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => waiting.append(&mut asked),
            Poll::Ready(Err(refused)) => return (waiting, Some(refused)),
            Poll::Ready(Ok(done)) => panic!("answered before it is durable: {done:?}"),
        }
    }
    (waiting, None)
}

/// A large op is written from where it lies in memory, but for its first and last page.
#[tokio::test]
async fn appends_that_wait_together_share_a_write_and_a_sync() {
    for (count, writes_max) in [(16, 1), (64, 3)] {
        let disk = SimulatedDisk::new();
        let (store, tenant) = opened(&disk, 1 << 20, 10_000).await;
        let one = || append("s", vec![event("t", &[], 20)]);
        store.append(&tenant, one()).await.unwrap();
        let (before, ops) = (disk.writes_and_syncs(OPEN_SEGMENT), store.stats().ops);
        let held = disk.hold();
        let (waiting, refused) = ask(&store, &tenant, count, one);
        assert!(refused.is_none());
        drop(held);
        for asked in waiting {
            asked.await.unwrap();
        }
        let ops = store.stats().ops - ops;
        assert!((1..=2).contains(&ops), "what comes while the first is written waits: {ops} ops");
        let (writes, syncs) = disk.writes_and_syncs(OPEN_SEGMENT);
        assert_eq!(syncs - before.1, ops, "{count} appends");
        let writes = writes - before.0;
        assert!((ops..=ops * writes_max).contains(&writes), "{count} appends: {writes} writes");
        store.close().await;
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_takes_appends_again() {
    let many = || append("s", vec![event("t", &[], 10)]);
    let large = || append("s", (0..15).map(|_| event("t", &[], 1 << 20)).collect());
    let nothing = || NewEvent { data: None, ..event("t", &[], 0) };
    let tiny = || append("s", (0..1000).map(|_| nothing()).collect());
    // An event without anything is counted as what it is in memory.
    let of_tiny = 1000 * (size_of::<PreparedEvent>() + size_of::<NewEvent>());
    // Four of the large ones wait; of the small ones as many as there are places. Before that come those that the
    // log's owner has taken from the queue.
    let cases: [(&dyn Fn() -> Append, usize, usize); 3] = [
        (&many, QUEUE_COMMANDS_MAX, OP_RECORDS_MAX + 1),
        (&large, 4, 1),
        (&tiny, QUEUE_BYTES_MAX / of_tiny, OP_RECORDS_MAX / 1000 + 1),
    ];
    for (make, queued, taken) in cases {
        let disk = SimulatedDisk::new();
        let (store, tenant) = opened(&disk, 1 << 20, 1 << 20).await;
        store.append(&tenant, many()).await.unwrap();
        let held = disk.hold();
        let (waiting, refused) = ask(&store, &tenant, queued + taken + 1, make);
        assert!(matches!(refused, Some(AppendError::Overloaded)), "{refused:?}");
        assert!((queued..=queued + taken).contains(&waiting.len()), "{} wait", waiting.len());
        drop(held);
        for asked in waiting {
            asked.await.unwrap();
        }
        assert_eq!(store.stats().queue_commands, 0);
        store.append(&tenant, make()).await.unwrap();
        store.close().await;
    }
}

/// Streams `0` to `999` in turn, each event with a tag of ten. The first event is the only one of its stream, one has a
/// rare tag, one a rare type.
async fn written(disk: &Arc<SimulatedDisk>, records: usize, of_a_run: u64) -> (Store, Tenant) {
    let (store, tenant) = opened(disk, 256 << 10, of_a_run).await;
    for first in (0..records).step_by(50) {
        let one = |n: usize| {
            let event_type = if n == records / 2 { "rare" } else { "usual" };
            let tag = format!("tag-{}", n % 10);
            let tags: &[&str] = if n == records / 3 { &[&tag, "rare"] } else { &[&tag] };
            let stream = if n == 0 { "early".to_owned() } else { (n % 1000).to_string() };
            to_stream(&stream, vec![event(event_type, tags, 200)])
        };
        let appends = (first..first + 50).map(one).collect();
        let append = Append { actor: actor(), appends, conditions: Vec::new(), idempotency: None };
        store.append(&tenant, append).await.unwrap();
    }
    (store, tenant)
}

/// Nothing is stopped in order: the disk is left as it is.
#[tokio::test]
async fn a_start_after_a_kill_reads_the_tail_and_not_the_log() {
    let mut costs = Vec::new();
    for records in [1_000, 10_000] {
        let disk = SimulatedDisk::new();
        let _killed = written(&disk, records, 256).await;
        let image = disk.crashed(|| false);
        let (store, tenant) = opened(&image, 256 << 10, 256).await;
        costs.push((image.reads(), image.read_bytes()));
        assert_eq!(*store.tip(&tenant).borrow(), records as u64);
    }
    let [small, large] = costs[..] else { unreachable!() };
    assert!(large.0 < 2 * small.0, "reads: {small:?}, then {large:?}");
    assert!(large.1 < 2 * small.1, "bytes: {small:?}, then {large:?}");
}

/// Five runs of 2,000 records, so an index that is searched in order takes a megabyte.
#[tokio::test]
async fn what_is_rare_is_found_without_looking_at_everything() {
    let disk = SimulatedDisk::new();
    let (store, tenant) = written(&disk, 10_000, 2_000).await;
    store.close().await;
    drop((store, tenant));
    let cost = async |source: Source, filter: Filter, found: usize| {
        // Opened anew for each, so that nothing is kept of the reading before.
        let image = disk.crashed(|| true);
        let (store, tenant) = opened(&image, 256 << 10, 2_000).await;
        let before = (image.reads(), image.read_bytes());
        let (mut after, mut count, mut finished) = (After::Nothing, 0, false);
        while !finished {
            let selection = Selection {
                source: source.clone(),
                after,
                filter: filter.clone(),
                direction: Direction::Forward,
                limit: 1000,
                bytes: crate::limits::PAGE_BYTES_MAX,
            };
            let batch = store.read(&tenant, &selection, Shape::Ndjson).await.unwrap();
            count += batch.count;
            after = batch.cursor.map_or(after, After::Cursor);
            finished = batch.finished;
        }
        assert_eq!(count, found, "{source:?} {filter:?}");
        (image.reads() - before.0, image.read_bytes() - before.1)
    };
    let none = Filter::default;
    let stream = |name| Source::Stream { name: StreamName::new(name).unwrap(), from: None };
    let (_, all) = cost(Source::Log, none(), 10_000).await;
    assert!(all > 3_000_000, "{all} bytes");
    let tag = Filter { tags: vec![Tag::new("rare").unwrap()], ..none() };
    let kind = Filter { types: vec![EventType::new("rare").unwrap()], ..none() };
    for (source, filter, found, reads_max) in [
        (Source::Log, tag, 1, 35),
        (Source::Log, kind, 1, 35),
        (stream("early"), none(), 1, 16),
        (stream("77"), none(), 10, 80),
    ] {
        let (reads, bytes) = cost(source.clone(), filter, found).await;
        assert!(reads < reads_max && bytes < 5_000 * reads_max, "{source:?}: {reads}, {bytes}");
    }
}

/// Some look at each append, others at every second or third. Of the whole log, a stream, a type.
#[tokio::test]
async fn a_thousand_followers_cost_one_rendering_of_each_event() {
    const FOLLOWERS: usize = 1_000;
    let stream = Source::Stream { name: StreamName::new("s").unwrap(), from: None };
    let typed = Filter { types: vec![EventType::new("t").unwrap()], ..Filter::default() };
    for (source, filter) in
        [(Source::Log, Filter::default()), (stream, Filter::default()), (Source::Log, typed)]
    {
        let disk = SimulatedDisk::new();
        let (store, tenant) = opened(&disk, 1 << 20, 10_000).await;
        let mut followers = vec![(After::Nothing, 0); FOLLOWERS];
        let (before, mut events) = (RENDERED.get(), 0);
        for round in 1..=60 {
            let appended = 1 + round % 4;
            let new = (0..appended).map(|_| event("t", &[], 100)).collect();
            store.append(&tenant, append("s", new)).await.unwrap();
            events += appended;
            for (number, (after, seen)) in followers.iter_mut().enumerate() {
                if round % (1 + number % 3) != 0 {
                    continue;
                }
                let selection = Selection {
                    source: source.clone(),
                    after: *after,
                    filter: filter.clone(),
                    direction: Direction::Forward,
                    limit: 1000,
                    bytes: crate::limits::PAGE_BYTES_MAX,
                };
                let batch = store.read(&tenant, &selection, Shape::Sse).await.unwrap();
                assert!(batch.finished);
                *after = batch.cursor.map_or(*after, After::Cursor);
                *seen += batch.count;
            }
        }
        assert!(followers.iter().all(|(_, seen)| *seen == events), "all see everything");
        let rendered = RENDERED.get() - before;
        assert_eq!(rendered, events as u64, "{source:?} {filter:?}");
        store.close().await;
    }
}
