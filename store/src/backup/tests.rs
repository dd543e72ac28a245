//! Backups to a disk that fails: at every operation in turn, and with losses of what was not synced.

use std::{path::PathBuf, sync::Arc};

use super::*;
use crate::{
    Tenant,
    append::{Append, Expected, NewEvent, StreamAppend},
    checkpoint::Due,
    disk::simulated::{Fault, SimulatedDisk},
    words::{Actor, EventType, StreamName},
};

fn actor() -> Actor {
    Actor::new("tester").unwrap()
}

async fn fill(store: &Store, tenant: &Tenant, events: usize) {
    for _ in 0..events {
        let new = NewEvent {
            id: None,
            event_type: EventType::new("t").unwrap(),
            data: Some(format!("\"{}\"", "x".repeat(3000)).into()),
            metadata: None,
            occurred_at: None,
            tags: Vec::new(),
        };
        let (stream, expected) = (StreamName::new("s").unwrap(), Expected::Any);
        let appends = vec![StreamAppend { stream, expected, recreate: false, events: vec![new] }];
        let (conditions, idempotency) = (Vec::new(), None);
        let append = Append { actor: actor(), appends, conditions, idempotency };
        store.append(tenant, append).await.unwrap();
    }
}

async fn begun(store: &Store, target: &Arc<SimulatedDisk>) -> Backup {
    let log = store.shared.node.committed().await.unwrap();
    let target = Arc::clone(target) as Arc<dyn Disk>;
    Backup::new(log, Timestamp::now(), PathBuf::from("backup"), target, None).unwrap()
}

/// The last op of the backup on this disk; every file is what the manifest says.
fn whole(disk: &SimulatedDisk, what: &str) -> u64 {
    let manifest = Manifest::read(disk).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    for line in &manifest.files {
        let file = disk.open(&line.file).unwrap_or_else(|e| panic!("{what}: {}: {e}", line.file));
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let hash = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!((bytes.len() as u64, hash), (line.bytes, line.blake3.clone()), "{what}");
    }
    manifest.tip.op
}

#[tokio::test]
async fn a_backup_that_breaks_off_leaves_the_one_before_it_whole() {
    let source = SimulatedDisk::new();
    let due = Due { records: 100, bytes: 1 << 20 };
    let store = Store::open_on(source, 16 << 10, due, None).unwrap();
    let name = TenantName::new("dev").unwrap();
    let tenant = store.create_tenant(actor(), name).await.unwrap();
    fill(&store, &tenant, 10).await;
    let before = SimulatedDisk::new();
    let old = begun(&store, &before).await.run().unwrap().op;
    assert_eq!(whole(&before, "the first"), old);
    fill(&store, &tenant, 10).await;
    let complete = before.crashed(|| true);
    let done = begun(&store, &complete).await.run().unwrap();
    assert!(done.op > old && done.figures.files > 3, "{done:?}");
    assert!(done.figures.bytes_copied < done.figures.bytes, "{done:?}");
    let (mut broken, mut kept, mut taken) = (0, 0, 0);
    for fault in [Fault::Error, Fault::Torn, Fault::Full, Fault::Power] {
        for n in 1..=complete.operations() {
            let target = before.crashed(|| true);
            target.fail(n, fault);
            let result = begun(&store, &target).await.run();
            broken += u32::from(result.is_err());
            let mut random = n;
            let mut images = vec![target.crashed(|| false), target.crashed(|| true)];
            images.extend((0..6).map(|_| {
                target.crashed(|| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    random >> 40 & 1 == 1
                })
            }));
            for (i, image) in images.iter().enumerate() {
                let what = format!("{fault:?} at operation {n}, image {i}");
                let op = whole(image, &what);
                assert!(op == done.op || (result.is_err() && op == old), "{what}: {op}");
                if op == old {
                    kept += 1;
                } else {
                    taken += 1;
                }
                // The next one goes through, whatever this one left.
                let again = begun(&store, image).await.run();
                assert_eq!(again.map(|b| b.op).map_err(|e| e.to_string()), Ok(done.op), "{what}");
                assert_eq!(whole(image, &what), done.op);
            }
        }
    }
    assert!(broken > 50 && kept > 100 && taken > 20, "{broken} {kept} {taken}");
}

#[tokio::test]
async fn a_target_that_keeps_something_else_is_found_out() {
    let source = SimulatedDisk::new();
    let due = Due { records: 100, bytes: 1 << 20 };
    let store = Store::open_on(source, 16 << 10, due, None).unwrap();
    let name = TenantName::new("dev").unwrap();
    let tenant = store.create_tenant(actor(), name).await.unwrap();
    fill(&store, &tenant, 10).await;
    let before = SimulatedDisk::new();
    let old = begun(&store, &before).await.run().unwrap().op;
    fill(&store, &tenant, 10).await;
    let complete = before.crashed(|| true);
    begun(&store, &complete).await.run().unwrap();
    let (mut copies, mut manifests) = (0, 0);
    for n in 1..=complete.operations() {
        let target = before.crashed(|| true);
        target.fail(n, Fault::Flip);
        let result = begun(&store, &target).await.run();
        let what = format!("operation {n}");
        match result {
            Err(BackupError::ReadBack { .. }) => copies += 1,
            Err(BackupError::Io { source, .. }) => {
                manifests += u32::from(source.to_string().contains("reads back otherwise"));
            }
            other => panic!("{what}: {other:?}"),
        }
        // A name that could not be removed or synced is no loss.
        let op = whole(&target, &what);
        assert!(op >= old, "{what}");
    }
    assert!(copies >= 3 && manifests == 1, "{copies} {manifests}");
}

#[tokio::test]
async fn damage_of_the_log_is_not_backed_up() {
    let source = SimulatedDisk::new();
    let due = Due { records: 100, bytes: 1 << 20 };
    let on = Arc::clone(&source) as Arc<dyn Disk>;
    let store = Store::open_on(on, 16 << 10, due, None).unwrap();
    let name = TenantName::new("dev").unwrap();
    let tenant = store.create_tenant(actor(), name).await.unwrap();
    fill(&store, &tenant, 10).await;
    let first = "log/0000000000000001.segment";
    let file = source.open(first).unwrap();
    for at in [40, 5000, file.length().unwrap() - 10] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let target = SimulatedDisk::new();
        let error = begun(&store, &target).await.run().unwrap_err();
        let BackupError::Damaged(damage) = &error else { panic!("{at}: {error:?}") };
        assert_eq!(damage.file, first);
        assert!(matches!(Manifest::read(&*target), Err(ManifestError::Absent)));
        file.write_all_at(&byte, at).unwrap();
    }
    begun(&store, &SimulatedDisk::new()).await.run().unwrap();
}
