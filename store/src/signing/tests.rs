//! Signing on a disk that fails.

use super::*;
use crate::{
    Store, Tenant,
    append::{Append, Expected, NewEvent, StreamAppend},
    checkpoint::Due,
    disk::simulated::{Fault, SimulatedDisk},
    words::{EventType, StreamName, TenantName},
};

fn actor() -> Actor {
    Actor::new("tester").unwrap()
}

/// Signs by hand, with its keys on the same disk.
fn open(disk: &Arc<SimulatedDisk>) -> Store {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let due = Due { records: 1000, bytes: 1 << 20 };
    let store = Store::open_on(Arc::clone(&disk), 1 << 20, due, None).unwrap();
    let signing = Signing { folder: "keys".into(), origin: "log".to_owned() };
    store.signed_on(Arc::clone(&disk), &signing, &disk).unwrap()
}

async fn append(store: &Store, tenant: &Tenant) {
    let event = NewEvent {
        id: None,
        event_type: EventType::new("t").unwrap(),
        data: None,
        metadata: None,
        occurred_at: None,
        tags: Vec::new(),
    };
    let (stream, expected) = (StreamName::new("s").unwrap(), Expected::Any);
    let appends = vec![StreamAppend { stream, expected, recreate: false, events: vec![event] }];
    let (conditions, idempotency) = (Vec::new(), None);
    let append = Append { actor: actor(), appends, conditions, idempotency };
    store.append(tenant, append).await.unwrap();
}

fn sign(store: &Store) {
    store.signer().unwrap().sign_now();
}

fn reference(store: &Store) -> [u8; 16] {
    store.tenants().by_name(&TenantName::new("dev").unwrap()).unwrap().reference
}

fn rotate(store: &Store) {
    let _refused = store.signer().unwrap().rotate_now(reference(store));
}

async fn tenant(store: &Store) -> Tenant {
    store.create_tenant(actor(), TenantName::new("dev").unwrap()).await.unwrap()
}

/// What the log was signed as, a last look later.
fn shown(store: &Store, tenant: &Tenant) -> (String, u64, Vec<LogKeyLine>) {
    sign(store);
    let signed = store.signed(tenant).unwrap();
    let Checkpoint { origin, size, .. } = signed.checkpoint.clone();
    (origin, size, signed.keys.clone())
}

#[tokio::test]
async fn how_long_a_record_is_not_signed_is_told() {
    let store = open(&SimulatedDisk::new());
    let tenant = tenant(&store).await;
    sign(&store);
    assert_eq!(store.stats().unsigned_us, 0);
    append(&store, &tenant).await;
    let (begun, first) = (Instant::now(), store.stats().unsigned_us);
    while begun.elapsed() < Duration::from_millis(20) {
        append(&store, &tenant).await;
    }
    let later = store.stats().unsigned_us;
    assert!(later >= first + 20_000, "the oldest counts: {first}, then {later}");
    sign(&store);
    assert_eq!(store.stats().unsigned_us, 0);
}

/// The n-th operation of the first signature, of a further one, of a change of keys. A file that cannot be made is no
/// file that may not be on the disk.
#[tokio::test]
async fn a_failed_write_or_sync_stops_the_process_and_a_lack_of_room_does_not() {
    type Act = fn(&Store);
    // Last: made, written twice, synced, its folder synced. Keys: made, written, synced, renamed, the folder synced. The
    // mark: made, synced with both folders. Last: written, synced.
    let (first, first_made): (Act, &[u64]) = (sign, &[1, 6, 11]);
    let (further, change): (Act, Act) = (sign, rotate);
    let (mut stopped, mut went_on) = (0, 0);
    for (act, operations, made, signed) in
        [(first, 16, first_made, false), (further, 2, &[], true), (change, 7, &[1], true)]
    {
        for n in 1..=operations {
            for fault in [Fault::Error, Fault::Torn, Fault::Full] {
                let what = format!("{fault:?} at operation {n} of {operations}");
                let disk = SimulatedDisk::new();
                let store = open(&disk);
                let tenant = tenant(&store).await;
                append(&store, &tenant).await;
                if signed {
                    sign(&store);
                    if operations == 2 {
                        append(&store, &tenant).await;
                    }
                }
                let before = store.signed(&tenant).map(|s| s.note.to_string());
                disk.forget_names();
                disk.fail(n, fault);
                act(&store);
                let stops = fault != Fault::Full && !made.contains(&n);
                assert_eq!(disk.create("other").is_err(), stops, "{what}");
                let now = store.signed(&tenant).map(|s| s.note.to_string());
                assert_eq!(now, before, "{what}: what may not be there is shown");
                if stops {
                    stopped += 1;
                    continue;
                }
                went_on += 1;
                // Whatever is shown now is there when nothing else is.
                let (origin, size, keys) = shown(&store, &tenant);
                let left = disk.crashed(|| false);
                assert!(left.exists(&log::mark(reference(&store))).unwrap(), "{what}");
                let left = open(&left);
                let again = left.tenant(&TenantName::new("dev").unwrap()).unwrap();
                let found = shown(&left, &again);
                assert_eq!((&found.0, found.1), (&origin, size), "{what}");
                assert_eq!(found.2, keys, "{what}");
                left.close().await;
                store.close().await;
            }
        }
    }
    assert_eq!((stopped, went_on), (2 * (25 - 4), 25 + 2 * 4));
}
