//! Long work says how far it is, not only that it began and ended.

use std::sync::atomic::{AtomicBool, Ordering};

use kimberlite_store::{
    Store, Tenant,
    append::Expected,
    restore::{Restore, Step, Until, restore},
    words::{Position, TenantName},
};

use crate::support::*;

const EVENTS: usize = 2_000;

/// Some thirty segments.
async fn written(folder: &std::path::Path) -> (Store, Tenant) {
    let (store, tenant) = open(folder).await;
    let data = format!("\"{}\"", "x".repeat(1_000));
    for _ in 0..EVENTS / 100 {
        let events = (0..100).map(|_| event("a", &data)).collect();
        store.append(&tenant, append("s", Expected::Any, events)).await.unwrap();
    }
    (store, tenant)
}

/// Figures of something that came to `total`: they never go back, and some lie between.
fn grows(figures: &[u64], total: u64, what: &str) {
    assert!(figures.is_sorted(), "{what}: {figures:?}");
    assert_eq!(figures.last(), Some(&total), "{what}");
    let mut between: Vec<u64> =
        figures.iter().copied().filter(|bytes| (1..total).contains(bytes)).collect();
    between.dedup();
    assert!(between.len() > 2, "{what} says nothing between start and end: {figures:?}");
}

#[tokio::test]
async fn a_backup_shows_how_far_it_is() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _tenant) = written(folder.path()).await;
    let begun = store.backup(backup.path().to_owned()).await.unwrap();
    let (progress, ended) = (begun.progress(), AtomicBool::new(false));
    let (seen, done) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let figures = progress.figures();
                if seen.last() != Some(&figures) {
                    seen.push(figures);
                }
                std::thread::yield_now();
            }
            seen.push(progress.figures());
            seen
        });
        let done = begun.run().unwrap();
        ended.store(true, Ordering::Relaxed);
        (watching.join().unwrap(), done)
    });
    let figures = done.figures;
    assert!(figures.files_total > 20 && figures.files == figures.files_total, "{figures:?}");
    let bytes: Vec<u64> = seen.iter().map(|f| f.bytes).collect();
    grows(&bytes, figures.bytes_total, "a backup's bytes");
    let files: Vec<u64> = seen.iter().map(|f| f.files).collect();
    grows(&files, figures.files_total, "a backup's files");
    store.close().await;
}

#[tokio::test]
async fn a_restore_shows_its_steps_and_how_far_each_is() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _tenant) = written(folder.path()).await;
    store.backup(backup.path().to_owned()).await.unwrap().run().unwrap();
    store.close().await;
    let target = tempfile::tempdir().unwrap();
    let tenant = TenantName::new("dev").unwrap();
    let position = Position::new(EVENTS as u64 - 7).unwrap();
    let args = Restore {
        backup: backup.path().to_owned(),
        folder: target.path().to_owned(),
        until: Some(Until { tenant, position }),
        actor: actor(),
        keeps_origin: false,
    };
    // It blocks, so on a thread of its own.
    let run = move || {
        let (mut order, mut copied, mut verified) = (Vec::new(), Vec::new(), Vec::new());
        let (mut to_copy, mut to_verify) = (0, 0);
        restore(&args, &mut |step| {
            let name = match step {
                Step::Files(bytes, total) => {
                    copied.push(bytes);
                    to_copy = total;
                    "files"
                }
                Step::Cutting => "cutting",
                Step::Verifying(progress) => {
                    verified.push(progress.bytes);
                    to_verify = progress.bytes_total;
                    "verifying"
                }
            };
            if order.last() != Some(&name) {
                order.push(name);
            }
        })
        .unwrap();
        assert_eq!(order, ["files", "cutting", "verifying"]);
        grows(&copied, to_copy, "what a restore copies");
        grows(&verified, to_verify, "what a restore verifies");
    };
    std::thread::spawn(run).join().unwrap();
}
