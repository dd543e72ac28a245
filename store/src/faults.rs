//! The store on a disk that fails: at every operation in turn, and with every loss of what was not synced. It signs, with
//! its keys on the same disk.

use std::sync::Arc;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    SignedLog, Signing, Store, Tenant,
    append::{
        Append, AppendError, DeleteStream, Expected, Idempotency, NewEvent, Receipt, StreamAppend,
    },
    checkpoint::Due,
    compress::compress_all,
    disk::{
        Disk, PAGE_BYTES, Pace,
        simulated::{Fault, ReadFault, SimulatedDisk},
    },
    error::{OpenError, ReadError},
    log::{recovery, superblock::SuperblockFile},
    proof::Checkpoint,
    read::{After, Direction, Filter, Selection, Shape, Source},
    scrub::scrub_all,
    tiles::Hashes,
    words::{Actor, EventType, StreamName, TenantName},
};

const SEGMENT_BYTES: u64 = 16 << 10;
/// All steps.
const WHOLE: usize = usize::MAX;

fn actor() -> Actor {
    Actor::new("tester").unwrap()
}

/// Room is prepared ahead of the log, in steps small enough for its segments.
fn new_disk() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new();
    disk.prepare_room(Pace { ahead: 2 * PAGE_BYTES, step: PAGE_BYTES });
    disk
}

fn open(disk: &Arc<SimulatedDisk>) -> Result<Store, OpenError> {
    let due = Due { records: 4, bytes: 1 << 20 };
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let store = Store::open_on(Arc::clone(&disk), SEGMENT_BYTES, due, None)?;
    let signing = Signing { folder: "keys".into(), origin: "log".to_owned() };
    store.signed_on(Arc::clone(&disk), &signing, &disk)
}

/// One step of the workload: what is asked, and what must be there once it is acknowledged.
enum Step {
    Append(Vec<(&'static str, usize, usize)>),
    Delete(&'static str),
    Reopen,
    /// Of what is closed by now.
    Compress,
    /// Of what is committed by now.
    Sign,
    /// From there on by another key.
    Rotate,
}

/// Small and large ops, several streams at once, a deletion, ops that close segments, which are compressed, signatures by two
/// keys, and a clean stop in between.
fn script(steps: usize) -> Vec<Step> {
    use Step::{Append, Compress, Delete, Reopen, Rotate, Sign};
    let mut script = vec![
        Append(vec![("a", 1, 10)]),
        Append(vec![("a", 2, 700), ("b", 1, 30)]),
        Append(vec![("c", 1, 9000)]),
        Sign,
        Reopen,
        Append(vec![("b", 3, 5)]),
        Delete("a"),
        Rotate,
        Append(vec![("d", 2, 6000)]),
        Compress,
        Append(vec![("d", 1, 20)]),
    ];
    script.truncate(steps);
    script
}

/// The events that were acknowledged, in order: stream, version, position, data.
type Log = Vec<(String, u64, u64, String)>;

#[derive(Default)]
struct Outcome {
    /// The tenant's creation was acknowledged.
    tenant: bool,
    /// Streams whose deletion was, and the one whose deletion failed.
    deleted: Vec<&'static str>,
    perhaps_deleted: Option<&'static str>,
    acknowledged: Log,
    /// What each step's append was answered: a repetition is answered the same.
    receipts: Vec<(usize, Vec<Receipt>)>,
    /// What the last step would have added, if it failed.
    in_doubt: Vec<(String, String)>,
    failed: bool,
    compressed: u64,
    /// What was shown as signed, the newest last.
    signed: Vec<Arc<SignedLog>>,
}

fn data(step: usize, number: usize, bytes: usize) -> String {
    format!("\"{step}.{number}{}\"", "x".repeat(bytes))
}

/// A repetition is recognised by its key in every other step, by the events' ids in the others.
fn command(step: usize, streams: &[(&'static str, usize, usize)]) -> Append {
    let keyed = step.is_multiple_of(2);
    let event = |stream: &str, n: usize, bytes: usize| NewEvent {
        id: (!keyed).then(|| id(step, stream, n)),
        event_type: EventType::new("t").unwrap(),
        data: Some(data(step, n, bytes).into()),
        metadata: None,
        occurred_at: None,
        tags: Vec::new(),
    };
    let appends = streams.iter().map(|(stream, events, bytes)| StreamAppend {
        stream: StreamName::new(stream).unwrap(),
        expected: Expected::Any,
        recreate: false,
        events: (0..*events).map(|n| event(stream, n, *bytes)).collect(),
    });
    let (appends, conditions) = (appends.collect(), Vec::new());
    let key = format!("step {step}");
    let key = Idempotency { key, route: "append", request_digest: [step as u8; 32] };
    Append { actor: actor(), appends, conditions, idempotency: keyed.then_some(key) }
}

fn id(step: usize, stream: &str, number: usize) -> uuid::Uuid {
    let mut bytes = [7; 16];
    (bytes[13], bytes[14], bytes[15]) = (step as u8, stream.as_bytes()[0], number as u8);
    uuid::Uuid::from_bytes(bytes)
}

fn note(outcome: &mut Outcome, step: usize, sizes: &[(&str, usize, usize)], receipts: &[Receipt]) {
    for (receipt, (_, events, bytes)) in receipts.iter().zip(sizes) {
        let (version, position) = (receipt.first_version.get(), receipt.first_position.get());
        for n in 0..*events {
            let (version, position) = (version + n as u64, position + n as u64);
            let data = data(step, n, *bytes);
            outcome.acknowledged.push((receipt.stream.to_string(), version, position, data));
        }
    }
    outcome.receipts.push((step, receipts.to_vec()));
}

/// Runs the script until something fails. `patient` makes room on a full disk and goes on.
async fn run(disk: &Arc<SimulatedDisk>, steps: usize, patient: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let name = TenantName::new("dev").unwrap();
    let started = async || -> Result<(Store, Tenant), ()> {
        let store = open(disk).map_err(drop)?;
        if let Ok(tenant) = store.create_tenant(actor(), name.clone()).await {
            return Ok((store, tenant));
        }
        store.close().await;
        Err(())
    };
    let mut open = started().await;
    if open.is_err() && patient {
        disk.make_room();
        open = started().await;
    }
    let Ok(mut open) = open else {
        outcome.failed = true;
        return outcome;
    };
    outcome.tenant = true;
    for (number, step) in script(steps).iter().enumerate() {
        let mut tries = 0;
        let done = loop {
            let (store, tenant) = &open;
            let done = match step {
                Step::Append(sizes) => {
                    let done = store.append(tenant, command(number, sizes)).await;
                    done.map(|done| note(&mut outcome, number, sizes, &done.receipts))
                }
                Step::Delete(name) => {
                    let stream = StreamName::new(name).unwrap();
                    let args = DeleteStream { actor: actor(), stream, expected: Expected::Any };
                    let done = store.delete_stream(tenant, args).await;
                    done.map(|_| outcome.deleted.push(name))
                }
                Step::Compress => {
                    outcome.compressed += compress(disk, store);
                    Ok(())
                }
                Step::Sign | Step::Rotate => {
                    sign(store, tenant, matches!(step, Step::Rotate));
                    outcome.signed.extend(store.signed(tenant));
                    Ok(())
                }
                Step::Reopen => {
                    store.close().await;
                    // One at a time: nothing of the old one is left when the new one opens.
                    drop(open);
                    let Ok(again) = started().await else {
                        outcome.failed = true;
                        return outcome;
                    };
                    open = again;
                    Ok(())
                }
            };
            if matches!(done, Err(AppendError::NoRoom)) {
                let (store, tenant) = &open;
                assert_eq!(read(store, tenant).await, outcome.acknowledged, "reading goes on");
            }
            tries += 1;
            if done.is_ok() || !patient || tries == 2 {
                break done;
            }
            disk.make_room();
        };
        if done.is_err() {
            outcome.failed = true;
            if let Step::Append(sizes) = step {
                for (stream, events, bytes) in sizes {
                    let data = (0..*events).map(|n| data(number, n, *bytes));
                    outcome.in_doubt.extend(data.map(|d| ((*stream).to_owned(), d)));
                }
            }
            if let Step::Delete(name) = step {
                outcome.perhaps_deleted = Some(name);
            }
            break;
        }
    }
    open.0.close().await;
    outcome
}

/// What cannot be signed now is signed by a later look.
fn sign(store: &Store, tenant: &Tenant, rotates: bool) {
    let Some(signer) = store.signer() else { return };
    signer.sign_now();
    if rotates && let Some(signed) = store.signed(tenant) {
        let (reference, keys) = (signed.tiles.tenant(), signed.keys.len());
        if let Some(Ok(())) = signer.rotate_now(reference) {
            assert_eq!(store.signed(tenant).unwrap().keys.len(), keys + 1);
        }
    }
}

/// The log is the one that was signed, under the same name, with every key that anybody was shown.
fn check_signed(store: &Store, tenant: &Tenant, outcome: &Outcome, what: &str) {
    sign(store, tenant, false);
    let now = store.signed(tenant).unwrap_or_else(|| panic!("{what}: it is not signed"));
    let shared = store.tenants().by_reference(&now.tiles.tenant()).unwrap();
    let view = shared.view();
    assert_eq!(now.checkpoint.size, view.count, "{what}: what is committed is signed");
    for before in &outcome.signed {
        assert_eq!(now.checkpoint.origin, before.checkpoint.origin, "{what}");
        assert_eq!(now.keys[..before.keys.len()], before.keys, "{what}");
        let tree = Hashes { tiles: &now.tiles, view: &view }.tree(before.checkpoint.size).unwrap();
        assert_eq!(tree.root(), before.checkpoint.root, "{what}");
    }
    Checkpoint::verified(&now.note, &now.keys.last().unwrap().vkey).unwrap();
}

/// How many segments were compressed.
fn compress(disk: &Arc<SimulatedDisk>, store: &Store) -> u64 {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    recovery::cluster(&*disk).map_or(0, |cluster| compress_all(&disk, cluster, store.tenants()))
}

/// Opens what a crash left: every acknowledged event, deletion and tenant is there, at most the one in doubt beside
/// it, what is repeated is recognised, and the log takes further writes.
async fn check(disk: Arc<SimulatedDisk>, outcome: &Outcome, what: &str) {
    let store = open(&disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    let name = TenantName::new("dev").unwrap();
    let Some(tenant) = store.tenant(&name) else {
        assert!(!outcome.tenant, "{what}: the tenant is gone");
        store.create_tenant(actor(), name).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        return store.close().await;
    };
    assert_eq!(store.damage(&tenant), None, "{what}");
    check_signed(&store, &tenant, outcome, what);
    let found = read(&store, &tenant).await;
    let (kept, rest) = found.split_at_checked(outcome.acknowledged.len()).unwrap_or_else(|| {
        panic!("{what}: {} of {} events", found.len(), outcome.acknowledged.len())
    });
    assert!(kept == outcome.acknowledged, "{what}: other events than were acknowledged");
    let rest: Vec<_> = rest.iter().map(|(s, _, _, d)| (s.clone(), d.clone())).collect();
    assert!(rest.is_empty() || rest == outcome.in_doubt, "{what}: part of an append");
    for stream in ["a", "b", "c", "d"] {
        let deleted = is_deleted(&store, &tenant, stream).await;
        let perhaps = outcome.perhaps_deleted == Some(stream);
        assert!(perhaps || deleted == outcome.deleted.contains(&stream), "{what}: {stream}");
    }
    for (step, receipts) in &outcome.receipts {
        let Step::Append(sizes) = &script(usize::MAX)[*step] else { unreachable!() };
        let again = store.append(&tenant, command(*step, sizes)).await;
        let again = again.unwrap_or_else(|e| panic!("{what}: step {step} again: {e}"));
        assert!(again.replayed && again.receipts == *receipts, "{what}: step {step} again");
    }
    let on = Arc::clone(&disk) as Arc<dyn Disk>;
    let scrubbed = scrub_all(&on, recovery::cluster(&*on).unwrap(), store.tenants());
    assert_eq!(scrubbed, [0, 0, 0], "{what}: what is whole is found to be damaged");
    assert_eq!(store.damage(&tenant), None, "{what}");
    let done = store.append(&tenant, command(99, &[("after", 1, 10)])).await;
    let done = done.unwrap_or_else(|e| panic!("{what}: {e}"));
    let last = found.last().map_or(0, |(_, _, position, _)| *position);
    assert!(found.is_empty() || done.receipts[0].first_position.get() > last, "{what}");
    store.close().await;
}

fn everything(source: Source) -> Selection {
    let (after, filter, direction) = (After::Nothing, Filter::default(), Direction::Forward);
    let bytes = crate::limits::PAGE_BYTES_MAX;
    Selection { source, after, filter, direction, limit: 1000, bytes }
}

/// Of a stream that is not there at all, no.
async fn is_deleted(store: &Store, tenant: &Tenant, stream: &str) -> bool {
    let source = Source::Stream { name: StreamName::new(stream).unwrap(), from: None };
    match store.read_events(tenant, &everything(source)).await {
        Ok(_) | Err(ReadError::StreamUnknown) => false,
        Err(ReadError::StreamDeleted) => true,
        Err(error) => panic!("{stream}: {error}"),
    }
}

async fn read(store: &Store, tenant: &Tenant) -> Log {
    let selection = everything(Source::Log);
    let (events, batch) = store.read_events(tenant, &selection).await.unwrap();
    assert!(batch.finished);
    let text = store.read(tenant, &selection, Shape::Ndjson).await.unwrap();
    assert_eq!(text.count, events.len());
    let data = |d: Option<bytes::Bytes>| String::from_utf8(d.unwrap().to_vec()).unwrap();
    let line = |e: crate::read::StoredEvent| {
        (e.stream.to_string(), e.version.get(), e.position.get(), data(e.data))
    };
    events.into_iter().map(line).collect()
}

#[tokio::test]
async fn what_has_to_be_waited_for_is_read_all_the_same() {
    let disk = new_disk();
    let outcome = run(&disk, WHOLE, false).await;
    assert!(!outcome.failed);
    let image = disk.crashed(|| true);
    let store = open(&image).unwrap();
    let tenant = store.create_tenant(actor(), TenantName::new("dev").unwrap()).await.unwrap();
    let there = read(&store, &tenant).await;
    assert_eq!(there, outcome.acknowledged);
    drop(store);
    let image = image.crashed(|| true);
    let store = open(&image).unwrap();
    let tenant = store.create_tenant(actor(), TenantName::new("dev").unwrap()).await.unwrap();
    assert_eq!(image.cool(), 0, "a start waits");
    assert_eq!(read(&store, &tenant).await, there);
    let refused = image.cool();
    assert!(refused > 0, "nothing was tried without waiting");
    for (stream, version, position, data) in &there {
        let source = Source::Stream { name: StreamName::new(stream).unwrap(), from: None };
        let selection = everything(source);
        match store.read_events(&tenant, &selection).await {
            Ok((events, _)) => {
                let same = |e: &crate::read::StoredEvent| e.position.get() == *position;
                let event = events.iter().find(|e| same(e)).unwrap();
                assert_eq!(event.version.get(), *version);
                assert_eq!(event.data.as_deref(), Some(data.as_bytes()));
            }
            Err(crate::error::ReadError::StreamDeleted) => assert_eq!(stream, "a"),
            Err(error) => panic!("{stream}: {error}"),
        }
        let position = crate::words::Position::new(*position).unwrap();
        assert_eq!(store.record(&tenant, position).await.unwrap().position, position);
    }
    assert!(image.cool() > refused);
}

/// Images that a crash may leave of a disk: nothing more than what was synced, all of it, and some by chance.
fn images(disk: &SimulatedDisk, seed: u64) -> Vec<Arc<SimulatedDisk>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut images = vec![disk.crashed(|| false), disk.crashed(|| true)];
    images.extend((0..4).map(|_| disk.crashed(|| random.random_bool(0.5))));
    images
}

#[tokio::test]
async fn a_failure_at_any_operation_loses_nothing_acknowledged() {
    let whole = new_disk();
    let outcome = run(&whole, WHOLE, false).await;
    assert!(!outcome.failed && outcome.acknowledged.len() == 11 && outcome.compressed > 1);
    let operations = whole.operations();
    assert!(operations > 60, "{operations} operations");
    let mut noticed = 0;
    for fault in [Fault::Error, Fault::Torn, Fault::Power] {
        for n in 1..=operations {
            let disk = new_disk();
            disk.fail(n, fault);
            let outcome = run(&disk, WHOLE, false).await;
            // A checkpoint that failed is tried again, and a clean stop comes behind the last answer.
            noticed += u32::from(outcome.failed);
            for (i, image) in images(&disk, n).into_iter().enumerate() {
                check(image, &outcome, &format!("{fault:?} at operation {n}, image {i}")).await;
            }
        }
    }
    assert!(noticed > 100, "{noticed} failures were noticed");
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_takes_them_again() {
    let whole = new_disk();
    run(&whole, WHOLE, false).await;
    let mut gone_through = 0;
    for n in 1..=whole.operations() {
        let disk = new_disk();
        disk.fail(n, Fault::Full);
        let outcome = run(&disk, WHOLE, true).await;
        gone_through += u32::from(!outcome.failed);
        for (i, image) in images(&disk, n).into_iter().enumerate() {
            check(image, &outcome, &format!("full at operation {n}, image {i}")).await;
        }
    }
    assert!(gone_through > 10, "{gone_through} runs went on after there was no room");
}

/// What a disk that stays full is left at, when it was so from each operation on.
#[tokio::test]
async fn a_disk_that_stays_full_refuses_appends_until_there_is_room() {
    let whole = new_disk();
    run(&whole, WHOLE, false).await;
    let (mut gone_through, mut stopped) = (0, 0);
    for n in 1..=whole.operations() {
        for patient in [false, true] {
            let disk = new_disk();
            disk.fail(n, Fault::Filled);
            let outcome = run(&disk, WHOLE, patient).await;
            gone_through += u32::from(patient && !outcome.failed);
            stopped += u32::from(!patient && outcome.failed);
            for (i, image) in images(&disk, n).into_iter().enumerate() {
                let what = format!("filled at operation {n}, patient: {patient}, image {i}");
                check(image, &outcome, &what).await;
            }
        }
    }
    let all = u32::try_from(whole.operations()).unwrap();
    assert!(gone_through > all / 2, "{gone_through} of {all} went on once there was room");
    assert!(stopped > all / 2, "{stopped} of {all} noticed that there was none");
}

/// Only the room that was set aside is left for what a stop writes.
#[tokio::test]
async fn a_full_disk_is_stopped_in_order_by_what_was_set_aside() {
    let open = |disk: &Arc<SimulatedDisk>| {
        let due = Due { records: 10_000, bytes: 1 << 30 };
        Store::open_on(Arc::clone(disk) as Arc<dyn Disk>, 1 << 20, due, None)
    };
    let name = || TenantName::new("dev").unwrap();
    let disk = SimulatedDisk::new();
    let store = open(&disk).unwrap();
    let tenant = store.create_tenant(actor(), name()).await.unwrap();
    assert!(disk.exists("reserve").unwrap());
    disk.leave_room(16 * PAGE_BYTES);
    let mut appended = 0;
    let refused = loop {
        match store.append(&tenant, command(appended * 2, &[("a", 1, 10)])).await {
            Ok(_) => appended += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, AppendError::NoRoom), "{refused}");
    assert!((4..17).contains(&appended), "{appended}");
    assert_eq!(read(&store, &tenant).await.len(), appended);
    store.close().await;
    drop((store, tenant));
    assert!(!disk.exists("reserve").unwrap(), "its room was needed");
    let commit = |disk: &SimulatedDisk| SuperblockFile::open(disk).unwrap().1.commit.0;
    // The tenant's own op is the first.
    let said = commit(&disk.crashed(|| false));
    assert_eq!(said, 1 + appended as u64, "the superblock says what was committed");
    let left = disk.crashed(|| true);
    assert!(!left.exists("reserve").unwrap());
    // What is derived is not thrown away where it cannot be made anew.
    let derived = left.list("index").unwrap();
    assert!(!derived.is_empty());
    left.leave_room(0);
    assert!(matches!(open(&left), Err(OpenError::Io { .. })), "it needs room, here");
    assert_eq!(left.list("index").unwrap(), derived);
    left.make_room();
    let store = open(&left).unwrap();
    assert!(left.exists("reserve").unwrap(), "room is set aside again");
    let tenant = store.tenant(&name()).unwrap();
    store.append(&tenant, command(500, &[("a", 1, 10)])).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn every_loss_of_what_was_not_synced_is_survived() {
    let whole = new_disk();
    run(&whole, 4, false).await;
    let (mut combinations, mut most) = (0, 0);
    for n in 1..=whole.operations() {
        let disk = new_disk();
        disk.fail(n, Fault::Power);
        let outcome = run(&disk, 4, false).await;
        let units = disk.units();
        most = most.max(units);
        if units > 10 {
            // Too many combinations: some by chance.
            for (i, image) in images(&disk, n).into_iter().enumerate() {
                check(image, &outcome, &format!("power gone at {n}, image {i}")).await;
            }
            continue;
        }
        for set in 0..1_u32 << units {
            let mut unit = 0;
            let image = disk.crashed(|| {
                unit += 1;
                set >> (unit - 1) & 1 == 1
            });
            check(image, &outcome, &format!("power gone at {n}, survivors {set:b}")).await;
            combinations += 1;
        }
    }
    assert!(combinations > 500 && most > 10, "{combinations} combinations, {most} units");
}

#[tokio::test]
async fn a_read_that_fails_is_an_error_and_changes_nothing() {
    let disk = new_disk();
    let outcome = run(&disk, WHOLE, false).await;
    let before = disk.reads();
    open(&disk).unwrap().close().await;
    let reads = disk.reads() - before;
    let mut opened = 0;
    for n in 1..=reads {
        let image = disk.crashed(|| true);
        image.fail_read(n, ReadFault::Error);
        // The copies of the superblock stand in for each other, and the index can be made anew.
        if let Ok(store) = open(&image) {
            let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
            assert_eq!(read(&store, &tenant).await, outcome.acknowledged, "read {n} of {reads}");
            opened += 1;
            store.close().await;
        }
        check(image, &outcome, &format!("read {n}")).await;
    }
    assert!((8..reads).contains(&opened), "{opened} of {reads} starts went on");
}
