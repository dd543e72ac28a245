//! Backups: what is in them, what they copy, and that nothing that is not whole is brought back.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kimberlite_store::{
    Options, Store, Tenant,
    append::Expected,
    backup::{BackedUp, BackupError},
    error::OpenError,
    restore::{Restore, RestoreError, Restored, check_backup, restore},
    verify::{Finding, Progress, Watcher, verify},
    words::TenantName,
};

use crate::support::*;

pub(crate) async fn back_up(store: &Store, to: &Path) -> BackedUp {
    store.backup(to.to_owned()).await.unwrap().run().unwrap()
}

/// Restores on a thread of its own: it blocks.
pub(crate) fn try_restore(args: Restore) -> Result<Restored, RestoreError> {
    std::thread::spawn(move || restore(&args, &mut |_| {})).join().unwrap()
}

pub(crate) fn to(backup: &Path, folder: PathBuf) -> Restore {
    Restore { backup: backup.to_owned(), folder, until: None, actor: actor(), keeps_origin: false }
}

/// Restores all of a backup to a new folder.
pub(crate) fn restored(backup: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    try_restore(to(backup, folder.path().to_owned())).unwrap();
    folder
}

struct Nothing;

impl Watcher for Nothing {
    fn progress(&mut self, _: &Progress) {}
    fn found(&mut self, finding: &Finding) {
        assert_eq!(finding.file, "index", "{finding:?}");
    }
}

/// Demands that `verify` finds nothing, except that the index is still to be made.
pub(crate) fn sound(folder: &Path) {
    let summary = verify(folder, &mut Nothing).unwrap();
    assert!(summary.damage == 0 && summary.notes <= 1, "{summary:?}");
}

async fn fill(store: &Store, tenant: &Tenant, events: std::ops::Range<usize>) {
    for i in events {
        let data = format!("\"{i} {}\"", "x".repeat(700));
        let new = append("s", Expected::Any, vec![event("a", &data)]);
        store.append(tenant, new).await.unwrap();
    }
}

/// Every file of a folder and the folders in it.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

async fn opened_dump(folder: &Path) -> String {
    let (store, tenant) = open(folder).await;
    let dump = dump(&store, &tenant).await.unwrap();
    store.close().await;
    dump
}

#[tokio::test]
async fn a_backup_holds_what_was_committed_when_it_began_and_nothing_later() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 0..200).await;
    let then = dump(&store, &tenant).await.unwrap();
    let begun = store.backup(backup.path().to_owned()).await.unwrap();
    fill(&store, &tenant, 200..400).await;
    begun.run().unwrap();
    let folder = restored(backup.path());
    sound(folder.path());
    assert_eq!(opened_dump(folder.path()).await, then);
    // It goes on from there.
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 0..200).await;
    store.close().await;
    drop((store, tenant));
    sound(folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_while_four_writers_append_is_a_prefix_of_the_log() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, tenant) = open(folder.path()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let (store, tenant, stop) = (store.clone(), tenant.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let data = format!("\"{}\"", "x".repeat(300 * w));
                    let new = append(&format!("s{w}"), Expected::Any, vec![event("a", &data); 3]);
                    store.append(&tenant, new).await.unwrap();
                }
            })
        })
        .collect();
    let mut tip = store.tip(&tenant);
    for round in 1..4 {
        tip.wait_for(|n| *n > 100 * round).await.unwrap();
        let before = *store.tip(&tenant).borrow();
        let begun = store.backup(backup.path().to_owned()).await.unwrap();
        let after = *store.tip(&tenant).borrow();
        tokio::task::spawn_blocking(|| begun.run().unwrap()).await.unwrap();
        let folder = restored(backup.path());
        sound(folder.path());
        let (copy, of_copy) = open(folder.path()).await;
        let records = *copy.tip(&of_copy).borrow();
        assert!(before <= records && records <= after, "{before} {records} {after}");
        let (have, all) = (dump(&copy, &of_copy).await, dump(&store, &tenant).await);
        assert!(all.unwrap().starts_with(&have.unwrap()));
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_backup_copies_only_what_is_new() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 0..300).await;
    let first = back_up(&store, backup.path()).await.figures;
    assert!(first.files > 3 && first.files == first.files_total, "{first:?}");
    assert_eq!((first.bytes, first.bytes_copied), (first.bytes_total, first.bytes_total));
    let were = files(backup.path());
    fill(&store, &tenant, 300..500).await;
    let second = back_up(&store, backup.path()).await.figures;
    let are = files(backup.path());
    let new: usize = are
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "segment"))
        .filter(|(path, _)| !were.contains_key(*path))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert_eq!(second.bytes_copied, new as u64);
    assert!(second.bytes_copied < second.bytes / 2, "{second:?}");
    // What the open segment was before is gone, all closed ones are as they were.
    let gone = were.keys().filter(|path| !are.contains_key(*path)).count();
    assert_eq!(gone, 1, "the open segment of then");
    assert_eq!(are.len() as u64, second.files + 2, "segments, manifest and mark");
    let folder = restored(backup.path());
    assert_eq!(opened_dump(folder.path()).await, dump(&store, &tenant).await.unwrap());
}

/// Of each segment. One is renamed over another while this reads.
fn generations(folder: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(folder.join("log")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "segment"));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()[12]).collect()
}

/// Opens a folder and waits until all that is closed in it is compressed.
pub(crate) async fn compress(folder: &Path) -> (Store, Tenant) {
    let store = Store::open(Options {
        folder: folder.to_owned(),
        segment_bytes: 64 << 10,
        checkpoint_records: 50,
        scrub_bytes_per_s: 0,
        compresses: true,
        signing: None,
    });
    let store = store.unwrap();
    let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
    while generations(folder).split_last().is_some_and(|(_, closed)| closed.contains(&0)) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    (store, tenant)
}

#[tokio::test]
async fn a_segment_that_was_compressed_since_is_copied_anew_and_only_once() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 0..300).await;
    back_up(&store, backup.path()).await;
    store.close().await;
    drop((store, tenant));
    let (store, tenant) = compress(folder.path()).await;
    let packed = back_up(&store, backup.path()).await.figures;
    assert_eq!(packed.bytes_copied, packed.bytes, "all of it has another generation");
    let mut kept = generations(backup.path());
    assert_eq!((kept.pop(), kept.iter().all(|g| *g == 1)), (Some(0), true));
    let again = back_up(&store, backup.path()).await.figures;
    assert!(again.bytes_copied < again.bytes / 2, "{again:?}");
    let folder = restored(backup.path());
    sound(folder.path());
    assert_eq!(opened_dump(folder.path()).await, dump(&store, &tenant).await.unwrap());
}

/// A backup of a few segments.
async fn small() -> tempfile::TempDir {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 0..120).await;
    back_up(&store, backup.path()).await;
    backup
}

#[tokio::test]
async fn a_flipped_byte_of_any_file_is_found_and_nothing_serves() {
    let backup = small().await;
    let target = tempfile::tempdir().unwrap();
    let folder = target.path().join("data");
    for (path, bytes) in files(backup.path()) {
        let is_segment = path.extension().is_some_and(|e| e == "segment");
        let step = if is_segment { bytes.len() / 20 } else { 1 };
        for at in (0..bytes.len()).step_by(step) {
            let mut other = bytes.clone();
            other[at] ^= 1 << (at % 8);
            std::fs::write(&path, other).unwrap();
            let error = try_restore(to(backup.path(), folder.clone())).unwrap_err();
            let named = match &error {
                RestoreError::Damaged { file, .. } => file == &path,
                _ => false,
            };
            assert!(named, "{} at {at}: {error:?}", path.display());
            assert!(check_backup(backup.path(), &mut |_| {}).is_err(), "{path:?} at {at}");
            assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0, "nothing is left");
        }
        let cut = bytes[..bytes.len() - 1].to_vec();
        std::fs::write(&path, cut).unwrap();
        assert!(try_restore(to(backup.path(), folder.clone())).is_err(), "{path:?} is cut");
        std::fs::remove_file(&path).unwrap();
        assert!(try_restore(to(backup.path(), folder.clone())).is_err(), "{path:?} is missing");
        std::fs::write(&path, bytes).unwrap();
    }
    try_restore(to(backup.path(), folder)).unwrap();
}

#[tokio::test]
async fn damage_is_named_with_its_place() {
    let backup = small().await;
    let (path, mut bytes) = files(&backup.path().join("log")).pop_first().unwrap();
    bytes[20_000] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let error = check_backup(backup.path(), &mut |_| {}).unwrap_err();
    let RestoreError::Damaged { file, offset: Some(offset), .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(file, &path);
    assert!((19_000..=20_000).contains(offset), "the frame that byte 20,000 is in: {offset}");
}

#[tokio::test]
async fn a_file_under_the_name_of_another_is_found() {
    let backup = small().await;
    let mut segments = files(&backup.path().join("log"));
    let (one, _) = segments.pop_first().unwrap();
    let (other, _) = segments.pop_first().unwrap();
    std::fs::copy(&one, &other).unwrap();
    assert!(check_backup(backup.path(), &mut |_| {}).is_err());
}

/// What a backup of a damaged log would be, had nobody looked: everything fits the manifest.
#[tokio::test]
async fn a_log_that_does_not_hold_is_not_served_though_it_is_what_was_backed_up() {
    let backup = small().await;
    let manifest = backup.path().join("manifest.json");
    let (path, mut bytes) = files(&backup.path().join("log")).pop_first().unwrap();
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let before = hash(&bytes);
    bytes[20_000] ^= 4;
    let after = hash(&bytes);
    let renamed = path.to_str().unwrap().replace(&before, &after);
    std::fs::rename(&path, &renamed).unwrap();
    std::fs::write(&renamed, bytes).unwrap();
    let text = std::fs::read_to_string(&manifest).unwrap().replace(&before, &after);
    let (said, _) = text.split_once(",\"blake3\":\"").expect("the seal comes last");
    let said = said.strip_prefix("{\"manifest\":").unwrap();
    let seal = hash(said.as_bytes());
    let text = format!("{{\"manifest\":{said},\"blake3\":\"{seal}\"}}\n");
    std::fs::write(&manifest, text).unwrap();
    check_backup(backup.path(), &mut |_| {}).unwrap();
    let target = tempfile::tempdir().unwrap();
    let error = try_restore(to(backup.path(), target.path().join("data"))).unwrap_err();
    let RestoreError::Log(damage) = &error else { panic!("{error:?}") };
    assert_eq!(damage.file, "log/0000000000000001.segment");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn only_an_empty_folder_takes_a_restored_log() {
    let backup = small().await;
    let target = tempfile::tempdir().unwrap();
    std::fs::write(target.path().join("mine"), "x").unwrap();
    let error = try_restore(to(backup.path(), target.path().to_owned())).unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error:?}");
    assert_eq!(files(target.path()).len(), 1, "it is as it was");
    let error = try_restore(to(target.path(), target.path().join("data"))).unwrap_err();
    assert!(matches!(error, RestoreError::NoBackup { .. }), "{error:?}");
}

#[tokio::test]
async fn a_folder_that_was_not_restored_to_its_end_is_not_opened_and_is_made_anew() {
    let backup = small().await;
    let target = tempfile::tempdir().unwrap();
    let folder = target.path().join("data");
    // As a restore leaves it that was killed before its end.
    try_restore(to(backup.path(), folder.clone())).unwrap();
    std::fs::write(folder.join("restoring"), "").unwrap();
    std::fs::write(folder.join("log/left"), "x").unwrap();
    assert!(matches!(try_open(&folder), Err(OpenError::Restoring { .. })));
    try_restore(to(backup.path(), folder.clone())).unwrap();
    assert!(!folder.join("restoring").exists() && !folder.join("log/left").exists());
    try_open(&folder).unwrap().close().await;
}

/// As a mount point is.
#[tokio::test]
async fn a_folder_that_is_there_and_empty_is_restored_into_and_stays_when_that_fails() {
    use std::os::unix::fs::MetadataExt;
    let backup = small().await;
    let target = tempfile::tempdir().unwrap();
    let inode = || std::fs::metadata(target.path()).unwrap().ino();
    let before = inode();
    let (path, bytes) = files(&backup.path().join("log")).pop_first().unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = try_restore(to(backup.path(), target.path().to_owned())).unwrap_err();
    assert!(matches!(error, RestoreError::Damaged { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0, "it is empty again");
    std::fs::write(&path, &bytes).unwrap();
    try_restore(to(backup.path(), target.path().to_owned())).unwrap();
    try_open(target.path()).unwrap().close().await;
    assert_eq!(inode(), before, "the same folder");
}

#[tokio::test]
async fn a_backup_goes_to_a_folder_of_its_own() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 0..3).await;
    let refused = |folder: PathBuf| {
        let store = store.clone();
        async move { store.backup(folder).await.unwrap_err() }
    };
    let error = refused("backups".into()).await;
    assert!(matches!(error, BackupError::Relative { .. }), "{error:?}");
    let error = refused(backup.path().join("../x")).await;
    assert!(matches!(error, BackupError::Relative { .. }), "{error:?}");
    for inside in [folder.path().to_owned(), folder.path().join("log/deep/er")] {
        let error = refused(inside).await;
        assert!(matches!(error, BackupError::DataFolder { .. }), "{error:?}");
    }
    let other = tempfile::tempdir().unwrap();
    let (of_other, _) = open(other.path()).await;
    let theirs = tempfile::tempdir().unwrap();
    back_up(&of_other, theirs.path()).await;
    let error = refused(theirs.path().to_owned()).await;
    assert!(matches!(error, BackupError::Taken { .. }), "{error:?}");
    std::fs::write(backup.path().join("mine"), "x").unwrap();
    let error = refused(backup.path().to_owned()).await;
    assert!(matches!(error, BackupError::Taken { .. }), "{error:?}");
    let own = backup.path().join("own");
    let begun = store.backup(own.clone()).await.unwrap();
    let error = refused(own.clone()).await;
    assert!(matches!(error, BackupError::Busy { .. }), "{error:?}");
    begun.progress().cancel();
    assert!(matches!(begun.run(), Err(BackupError::Cancelled)));
    assert!(matches!(
        try_restore(to(&own, backup.path().join("data"))),
        Err(RestoreError::NoBackup { .. })
    ));
    back_up(&store, &own).await;
}

#[tokio::test]
async fn a_log_that_went_on_otherwise_does_not_take_the_place_of_its_backup() {
    let (folder, early, late) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 0..100).await;
    back_up(&store, early.path()).await;
    fill(&store, &tenant, 100..200).await;
    back_up(&store, late.path()).await;
    let folder = restored(early.path());
    let (store, tenant) = open(folder.path()).await;
    // Below the op of the later backup, and beyond it.
    for events in [100..150, 150..300] {
        fill(&store, &tenant, events).await;
        let were = files(late.path());
        let error = store.backup(late.path().to_owned()).await.unwrap().run().unwrap_err();
        assert!(matches!(error, BackupError::OtherHistory { .. }), "{error:?}");
        assert!(were == files(late.path()), "the backup is as it was");
        back_up(&store, early.path()).await;
    }
}

#[tokio::test]
async fn an_empty_store_is_backed_up_and_restored() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = try_open(folder.path()).unwrap();
    back_up(&store, backup.path()).await;
    let folder = restored(backup.path());
    sound(folder.path());
    let (store, tenant) = open(folder.path()).await;
    fill(&store, &tenant, 0..3).await;
}
