//! Restoring to a position: what stays, what the log says of it, and how it goes on.

use kimberlite_store::{
    Store, Tenant,
    append::{Append, DeleteStream, Expected, Idempotency},
    error::ReadError,
    read::{After, Cursor, PayloadState, RecordView, Selection, Shape},
    restore::{Restore, RestoreError, Restored, Until},
    words::{Hash, Position, TenantName},
};
use sha2::{Digest, Sha256};

use crate::{
    backup::{back_up, compress, sound, to, try_restore},
    support::*,
};

fn position(n: u64) -> Position {
    Position::new(n).unwrap()
}

fn name(tenant: &str) -> TenantName {
    TenantName::new(tenant).unwrap()
}

async fn records(store: &Store, tenant: &Tenant) -> Vec<RecordView> {
    let count = *store.tip(tenant).borrow();
    let mut records = Vec::new();
    for n in 0..count {
        records.push(store.record(tenant, position(n)).await.unwrap());
    }
    records
}

/// The definition of RFC 6962, section 2.1, over leaf hashes.
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            let node = [&[1][..], &root(left).0, &root(right).0].concat();
            Hash(Sha256::digest(node).into())
        }
    }
}

/// Ops of one record and of many, of one tenant and of two, a transaction, a deletion, tenants made in between.
async fn history(store: &Store, dev: &Tenant) -> Tenant {
    let one = |s: &str| append(s, Expected::Any, vec![event("a", "1")]);
    store.append(dev, one("a")).await.unwrap();
    let other = store.create_tenant(actor(), name("other")).await.unwrap();
    let three = |s: &str| to_stream(s, Expected::Any, vec![event("b", "[2]"); 3]);
    let both = Append { appends: vec![three("a"), three("b")], ..one("a") };
    store.append(dev, both.clone()).await.unwrap();
    store.append(&other, both).await.unwrap();
    // Sent at once, so that many of them are one op.
    let mut sent = tokio::task::JoinSet::new();
    for _ in 0..8 {
        for tenant in [dev, &other] {
            let (store, tenant, new) = (store.clone(), tenant.clone(), one("c"));
            sent.spawn(async move { store.append(&tenant, new).await.map(drop) });
        }
    }
    while let Some(done) = sent.join_next().await {
        done.unwrap().unwrap();
    }
    let delete = DeleteStream { actor: actor(), stream: stream("a"), expected: Expected::Any };
    store.delete_stream(dev, delete).await.unwrap();
    let late = store.create_tenant(actor(), name("late")).await.unwrap();
    store.append(&late, one("z")).await.unwrap();
    store.append(dev, one("d")).await.unwrap();
    other
}

fn until(tenant: &str, n: u64, restore: Restore) -> Restore {
    Restore { until: Some(Until { tenant: name(tenant), position: position(n) }), ..restore }
}

/// What a fork says: new log id, size, root.
fn fork(record: &RecordView) -> (String, u64, String) {
    assert_eq!(record.kind, "log_forked");
    let body = record.payloads.iter().find(|p| p.kind == "body").unwrap();
    let PayloadState::Clear { json, .. } = &body.state else { panic!("{body:?}") };
    let body: serde_json::Value = serde_json::from_slice(json).unwrap();
    assert_eq!(body["origin"], "", "this log is not signed");
    assert_eq!(body.as_object().unwrap().len(), 4);
    let text = |key: &str| body[key].as_str().unwrap().to_owned();
    (text("new_log_id"), body["size"].as_u64().unwrap(), text("root"))
}

/// The log that was restored, against the one that was backed up.
async fn check(store: &Store, tenant: &Tenant, was: &[RecordView], kept: usize, what: &Restored) {
    let are = records(store, tenant).await;
    let forked = usize::from(kept < was.len());
    assert_eq!(are.len(), kept + forked);
    for (is, was) in are[..kept].iter().zip(was) {
        assert_eq!((is.hash, &is.leaf, is.kind), (was.hash, &was.leaf, was.kind));
        assert_eq!(format!("{:?}", is.payloads), format!("{:?}", was.payloads));
    }
    let line = what.tenants.iter().find(|t| t.tenant == tenant.name().as_str()).unwrap();
    assert_eq!((line.records, line.lost), (kept as u64, (was.len() - kept) as u64));
    let Some(last) = are.get(kept) else {
        assert_eq!(line.new_log_id, None);
        return;
    };
    let (new_log_id, size, of_tree) = fork(last);
    assert_eq!(size, kept as u64);
    let leaves: Vec<Hash> = was[..kept].iter().map(|r| r.hash).collect();
    assert_eq!(of_tree, root(&leaves).to_string());
    assert_eq!(line.new_log_id.as_ref(), Some(&new_log_id));
    // It chains from what was kept: the previous leaf's hash is the last thing in a leaf.
    if let Some(before) = leaves.last() {
        assert!(last.leaf.ends_with(&before.0));
    }
}

fn kept_until(records: &[RecordView], last: &RecordView) -> usize {
    records.iter().filter(|r| r.time <= last.time).count()
}

#[tokio::test]
async fn every_position_can_be_gone_back_to() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, dev) = open(folder.path()).await;
    let other = history(&store, &dev).await;
    let late = store.tenant(&name("late")).unwrap();
    back_up(&store, backup.path()).await;
    let of_dev = records(&store, &dev).await;
    let of_other = records(&store, &other).await;
    let of_late = records(&store, &late).await;
    let shared = of_dev.iter().any(|r| of_other.iter().any(|o| o.time == r.time));
    assert!(shared, "an op has records of both");
    let points = (0..of_dev.len()).map(|n| ("dev", n, &of_dev));
    let points = points.chain((0..of_other.len()).map(|n| ("other", n, &of_other)));
    for (tenant, n, of_tenant) in points {
        let folder = tempfile::tempdir().unwrap();
        let args = until(tenant, n as u64, to(backup.path(), folder.path().to_owned()));
        let what = try_restore(args).unwrap();
        sound(folder.path());
        // Records of one op have one time, and no two ops have the same.
        let last = &of_tenant[n];
        let kept = |name: &str, of: &[RecordView]| {
            if name == tenant { n + 1 } else { kept_until(of, last) }
        };
        let restored = try_open(folder.path()).unwrap();
        for (name, was) in [("dev", &of_dev), ("other", &of_other), ("late", &of_late)] {
            match restored.tenant(&self::name(name)) {
                Some(tenant) => check(&restored, &tenant, was, kept(name, was), &what).await,
                None => assert!(kept(name, was) == 0, "{name} at {n} of {tenant}"),
            }
        }
        // The log of `$cluster` loses a record with each tenant, and says so.
        let system = what.tenants.iter().find(|t| t.tenant == "$cluster").unwrap();
        let tenants = what.tenants.len() - 1;
        assert_eq!((system.records, system.lost), (tenants as u64, (3 - tenants) as u64));
        assert_eq!(system.new_log_id.is_some(), tenants < 3);
        // It takes appends and new tenants, also after another start.
        let again = restored.tenant(&self::name(tenant)).unwrap();
        let new = append("a", Expected::Any, vec![event("new", "{}")]);
        let recreated = || {
            let mut new = new.clone();
            new.appends[0].recreate = true;
            new
        };
        restored.append(&again, recreated()).await.unwrap();
        restored.create_tenant(actor(), self::name("late")).await.unwrap();
        restored.close().await;
        drop((restored, again));
        sound(folder.path());
        let (reopened, of_reopened) = open(folder.path()).await;
        reopened.append(&of_reopened, recreated()).await.unwrap();
    }
}

#[tokio::test]
async fn cursors_of_records_that_are_gone_are_refused() {
    let (folder, backup, target) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, dev) = open(folder.path()).await;
    for _ in 0..10 {
        let new = append("s", Expected::Any, vec![event("a", "1")]);
        store.append(&dev, new).await.unwrap();
    }
    back_up(&store, backup.path()).await;
    let cursor = |n| store.cursor(&dev, position(n)).unwrap().unwrap();
    let cursors: Vec<Cursor> = (0..10).map(cursor).collect();
    try_restore(until("dev", 4, to(backup.path(), target.path().to_owned()))).unwrap();
    let (restored, tenant) = open(target.path()).await;
    let read = async |cursor| {
        let selection = Selection { after: After::Cursor(cursor), ..everything() };
        restored.read(&tenant, &selection, Shape::Ndjson).await.map(drop)
    };
    for appended in [0, 20] {
        for _ in 0..appended {
            let new = append("s", Expected::Any, vec![event("a", "1")]);
            restored.append(&tenant, new).await.unwrap();
        }
        for (n, cursor) in cursors.iter().enumerate() {
            let read = read(*cursor).await;
            match n {
                0..=4 => read.unwrap(),
                _ => assert!(matches!(read, Err(ReadError::Diverged { .. })), "{n}: {read:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_compressed_segment_is_cut_too() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, dev) = open(folder.path()).await;
    for n in 0..200 {
        let data = format!("\"{n} {}\"", "x".repeat(700));
        let new = append("s", Expected::Any, vec![event("a", &data); 2]);
        store.append(&dev, new).await.unwrap();
    }
    let was = records(&store, &dev).await;
    store.close().await;
    drop((store, dev));
    compress(folder.path()).await;
    let store = try_open(folder.path()).unwrap();
    back_up(&store, backup.path()).await;
    for n in [0, 1, 5, 100, 101, 250, 399] {
        let target = tempfile::tempdir().unwrap();
        let args = until("dev", n, to(backup.path(), target.path().to_owned()));
        let what = try_restore(args).unwrap();
        sound(target.path());
        let (restored, tenant) = open(target.path()).await;
        check(&restored, &tenant, &was, n as usize + 1, &what).await;
    }
}

#[tokio::test]
async fn a_key_whose_command_was_cut_is_free_again() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, dev) = open(folder.path()).await;
    let key = Idempotency { key: "k".into(), route: "append", request_digest: [1; 32] };
    let three = append("s", Expected::Any, vec![event("a", "1"); 3]);
    let keyed = Append { idempotency: Some(key), ..three };
    let first = store.append(&dev, keyed.clone()).await.unwrap();
    back_up(&store, backup.path()).await;
    for (last, lost) in [(2, false), (1, true), (0, true)] {
        let target = tempfile::tempdir().unwrap();
        try_restore(until("dev", last, to(backup.path(), target.path().to_owned()))).unwrap();
        let (restored, tenant) = open(target.path()).await;
        // More than the command's records, in the places that those had.
        let fill = append("t", Expected::Any, vec![event("a", "1"); 5]);
        restored.append(&tenant, fill).await.unwrap();
        let again = restored.append(&tenant, keyed.clone()).await.unwrap();
        assert_eq!(again.replayed, !lost, "{last}");
        assert_eq!(again.receipts == first.receipts, !lost, "{last}");
        let twice = restored.append(&tenant, keyed.clone()).await.unwrap();
        assert!(twice.replayed && twice.receipts == again.receipts, "{last}");
    }
}

#[tokio::test]
async fn a_restore_to_what_is_not_in_the_backup_is_refused() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, dev) = open(folder.path()).await;
    let new = append("s", Expected::Any, vec![event("a", "1")]);
    store.append(&dev, new).await.unwrap();
    back_up(&store, backup.path()).await;
    let target = tempfile::tempdir().unwrap();
    let refused = |tenant, n| {
        let args = to(backup.path(), target.path().join("data"));
        try_restore(until(tenant, n, args)).unwrap_err()
    };
    let error = refused("nobody", 0);
    assert!(matches!(error, RestoreError::NoTenant { .. }), "{error:?}");
    let error = refused("dev", 1);
    assert!(matches!(error, RestoreError::NoPosition { records: 1, .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
}
