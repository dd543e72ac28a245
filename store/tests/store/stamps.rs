//! Time stamps: the newest one is found again whatever happened to the log's folder.

use std::path::Path;

use kimberlite_store::{
    Stamp, Stamped, Store, Tenant,
    append::Expected,
    restore::{Restore, Until},
    words::{Position, TenantName, Timestamp},
};

use crate::{
    backup::{back_up, sound, to, try_restore},
    support::{append, event, open},
};

fn stamp(size: u64) -> Stamp {
    let root = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    Stamp {
        checkpoint: format!("log.example/t1\n{size}\n{root}\n\n— log.example/t1 dsPhqmwbyOQ=\n"),
        authority: "http://tsa.example/".to_owned(),
        time: Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap(),
        token: "MAA=".to_owned(),
    }
}

async fn fill(store: &Store, tenant: &Tenant, events: usize) {
    let events = (0..events).map(|n| event("t", &n.to_string())).collect();
    store.append(tenant, append("s", Expected::Any, events)).await.unwrap();
}

async fn newest(folder: &Path) -> Option<Stamped> {
    let (store, tenant) = open(folder).await;
    let newest = store.newest_stamp(&tenant).await.unwrap();
    store.close().await;
    drop((store, tenant));
    newest
}

fn position(n: u64) -> Position {
    Position::new(n).unwrap()
}

#[tokio::test]
async fn the_newest_stamp_is_found_behind_restarts_without_an_index_and_in_restored_logs() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    assert_eq!(store.newest_stamp(&tenant).await.unwrap(), None);
    fill(&store, &tenant, 3).await;
    assert_eq!(store.stamp(&tenant, &stamp(3)).await.unwrap(), position(3));
    let first = Stamped { position: position(3), previous: None, stamp: stamp(3) };
    assert_eq!(store.newest_stamp(&tenant).await.unwrap().as_ref(), Some(&first));
    store.close().await;
    drop((store, tenant));
    assert_eq!(newest(folder.path()).await.as_ref(), Some(&first), "from the log alone");

    let (store, tenant) = open(folder.path()).await;
    assert_eq!(store.stamp(&tenant, &stamp(4)).await.unwrap(), position(4));
    // The index goes to disk more than once behind it.
    for _ in 0..5 {
        fill(&store, &tenant, 100).await;
    }
    let last = Stamped { position: position(4), previous: Some(position(3)), stamp: stamp(4) };
    let backup = tempfile::tempdir().unwrap();
    back_up(&store, backup.path()).await;
    store.close().await;
    drop((store, tenant));
    assert!(folder.path().join("index/0000000000000001.run").exists(), "it went to disk");
    assert_eq!(newest(folder.path()).await.as_ref(), Some(&last), "from the index");
    sound(folder.path());
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    assert_eq!(newest(folder.path()).await.as_ref(), Some(&last), "without one");
    sound(folder.path());

    let tenant = TenantName::new("dev").unwrap();
    for (until, expected) in [(400, Some(last)), (3, Some(first)), (2, None)] {
        let restored = tempfile::tempdir().unwrap();
        let until = Some(Until { tenant: tenant.clone(), position: position(until) });
        let args = to(backup.path(), restored.path().to_owned());
        try_restore(Restore { until, ..args }).unwrap();
        assert_eq!(newest(restored.path()).await, expected);
    }
}

#[tokio::test]
async fn stamps_made_at_one_time_name_each_other_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 1).await;
    let (one, two) = (stamp(1), stamp(1));
    let (a, b) = tokio::join!(store.stamp(&tenant, &one), store.stamp(&tenant, &two));
    let (a, b) = (a.unwrap(), b.unwrap());
    let newest = store.newest_stamp(&tenant).await.unwrap().unwrap();
    assert_eq!((newest.position, newest.previous), (a.max(b), Some(a.min(b))));
}

#[test]
fn a_stamps_own_record_is_no_news() {
    let stamped = |size, position| Stamped {
        position: Position::new(position).unwrap(),
        previous: None,
        stamp: stamp(size),
    };
    // Stamped at once, and behind two records that came meanwhile.
    for (stamped, size, news) in [
        (stamped(3, 3), 3, 0),
        (stamped(3, 3), 4, 0),
        (stamped(3, 3), 5, 1),
        (stamped(3, 5), 3, 0),
        (stamped(3, 5), 4, 1),
        (stamped(3, 5), 6, 2),
        (stamped(3, 5), 7, 3),
        // Less than was stamped.
        (stamped(3, 5), 2, 0),
    ] {
        assert_eq!(stamped.news(size), news, "{} of {size}", stamped.position.get());
    }
}
