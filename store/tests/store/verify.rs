//! What `verify` finds, where it says it is, and that it leaves everything as it was.

use std::{collections::BTreeMap, path::Path};

use kimberlite_store::{
    append::{Append, DeleteStream, Expected, Idempotency},
    error::OpenError,
    verify::{
        Extent, Finding, FindingKind, Progress, Summary, VerifyError, Watcher, verify,
        verify_extent,
    },
    words::TenantName,
};
use redb::{Database, ReadableTable, TableDefinition};

use crate::support::*;

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Told {
    found: Vec<Finding>,
    progress: Vec<Progress>,
}

impl Watcher for Told {
    fn progress(&mut self, progress: &Progress) {
        self.progress.push(progress.clone());
    }

    fn found(&mut self, finding: &Finding) {
        self.found.push(finding.clone());
    }
}

impl Told {
    pub(crate) fn damage(&self) -> Vec<&Finding> {
        self.found.iter().filter(|f| f.kind == FindingKind::Damage).collect()
    }
}

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn files(folder: &Path) -> Files {
    let mut files = Files::new();
    for (under, prefix) in [("", ""), ("log", "log/"), ("index", "index/"), ("tiles", "tiles/")] {
        for entry in std::fs::read_dir(folder.join(under)).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Verifies, and demands that nothing changed meanwhile.
pub(crate) fn check(folder: &Path) -> (Summary, Told) {
    check_extent(folder, Extent::All)
}

fn check_extent(folder: &Path, extent: Extent) -> (Summary, Told) {
    let before = files(folder);
    let mut told = Told::default();
    let summary = verify_extent(folder, extent, &mut told).unwrap();
    assert!(before == files(folder), "the folder was changed");
    assert_eq!(summary.damage, told.damage().len() as u64);
    (summary, told)
}

/// Two tenants, several segments, several checkpoints, and every kind of thing an index holds.
pub(crate) async fn written(folder: &Path) {
    let (store, tenant) = open(folder).await;
    let other = TenantName::new("other").unwrap();
    let other = store.create_tenant(actor(), other).await.unwrap();
    for i in 0..120 {
        let data = format!("\"{i} {}\"", "x".repeat(900));
        let mut new = tagged(["a", "b"][i % 2], &["red", ["blue", "green"][i % 2]]);
        new.data = Some(data.into());
        let keyed = Append {
            idempotency: Some(Idempotency {
                key: format!("k{i}"),
                route: "append",
                request_digest: [i as u8; 32],
            }),
            ..append(&format!("stream-{}", i % 7), Expected::Any, vec![new])
        };
        store.append(&tenant, keyed).await.unwrap();
        let plain = append("stream-1", Expected::Any, vec![event("c", "[1]")]);
        store.append(&other, plain).await.unwrap();
    }
    let delete =
        DeleteStream { actor: actor(), stream: stream("stream-2"), expected: Expected::Any };
    store.delete_stream(&tenant, delete).await.unwrap();
    store.close().await;
}

fn is_run(name: &str) -> bool {
    name.strip_suffix(".run").is_some()
}

fn segments(files: &Files) -> Vec<&String> {
    files.keys().filter(|name| name.ends_with(".segment")).collect()
}

/// Where frames begin, and where the last one ends.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut at = 4096;
    let mut frames = vec![at];
    while bytes[at..].starts_with(b"KOP>") {
        at += u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        frames.push(at);
    }
    frames
}

/// Changes a file, verifies, and puts it back.
pub(crate) fn changed(
    folder: &Path,
    name: &str,
    change: impl FnOnce(&mut Vec<u8>),
) -> (Summary, Told) {
    let path = folder.join(name);
    let was = std::fs::read(&path).unwrap();
    let mut bytes = was.clone();
    change(&mut bytes);
    assert_ne!(bytes, was);
    std::fs::write(&path, bytes).unwrap();
    let checked = check(folder);
    std::fs::write(&path, was).unwrap();
    checked
}

#[tokio::test]
async fn a_whole_folder_is_whole_and_all_of_it_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let (summary, told) = check(folder.path());
    assert_eq!(told.found, []);
    assert_eq!((summary.ops, summary.records, summary.tenants), (243, 243, 3));
    let files = files(folder.path());
    assert_eq!(summary.segments, segments(&files).len() as u64);
    assert!(summary.segments >= 3 && summary.parts >= 8, "{summary:?}");
    let last = told.progress.last().unwrap();
    assert_eq!(last.bytes, last.bytes_total);
    assert!(told.progress.is_sorted_by_key(|p| p.bytes));
}

#[tokio::test]
async fn every_flip_in_the_log_the_superblock_and_the_runs_is_found_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let files = files(folder.path());
    let mut flips: Vec<(&String, usize)> = Vec::new();
    let last = segments(&files)[segments(&files).len() - 1];
    for (name, bytes) in &files {
        if name.ends_with(".segment") {
            let frames = frames(bytes);
            let end = frames[frames.len() - 1] + if name == last { 0 } else { 16 };
            let (near, step) = ([0, 8, 11, 16, 35, 40, 71, 103, 104, 4095], 1009);
            flips.extend(near.into_iter().chain((4096..end).step_by(step)).map(|at| (name, at)));
            // Each field of a frame's front and its first block, and the ends of frames.
            let fields = [0, 4, 8, 12, 16, 20, 22, 24, 40, 48, 56, 88, 96, 112, 120, 124, 128];
            flips.extend(fields.map(|at| (name, frames[1] + at)));
            flips.extend((1..9).map(|back| (name, frames[2] - back)));
            flips.extend((frames[frames.len() - 1]..end).map(|at| (name, at)));
        } else if name == "superblock" {
            flips.extend((0..bytes.len()).step_by(61).map(|at| (name, at)));
        } else if is_run(name) {
            flips.extend((0..bytes.len()).step_by(397).map(|at| (name, at)));
        }
    }
    assert!(flips.len() > 500);
    for (name, at) in flips {
        let (_, told) = changed(folder.path(), name, |bytes| bytes[at] ^= 0x10);
        let damage = told.damage();
        let near = |f: &&&Finding| f.file == *name && f.offset <= at as u64;
        let reach = if name == "superblock" { 4096 } else { 8 << 10 };
        let found = damage.iter().find(near);
        let found = found.unwrap_or_else(|| panic!("{name} at {at}: {:?}", told.found));
        assert!(at as u64 - found.offset < reach, "{name} at {at}: {found:?}");
        assert!(damage.iter().all(|f| f.file == *name), "{name} at {at}: {damage:?}");
    }
}

#[tokio::test]
async fn flips_in_the_database_of_names_are_found() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let names = &files(folder.path())["index/names"];
    let texts: [&[u8]; 4] = [b"stream-3", b"tester", b"\"log_id\":", b"\"segment\":"];
    for text in texts {
        let places: Vec<usize> = names
            .windows(text.len())
            .enumerate()
            .filter(|(_, w)| *w == text)
            .map(|p| p.0)
            .collect();
        assert!(!places.is_empty(), "{text:?}");
        let (_, told) = changed(folder.path(), "index/names", |bytes| {
            // Pages that are free now may hold old copies; at least one place is in use.
            for at in &places {
                bytes[*at] ^= 1;
            }
        });
        let damage = told.damage();
        assert!(!damage.is_empty(), "{text:?}");
        assert!(damage.iter().all(|f| f.file == "index/names" && f.is_derived()), "{damage:?}");
    }
    let (_, told) = changed(folder.path(), "index/names", |bytes| bytes.truncate(8000));
    assert_eq!(told.damage()[0].file, "index/names");
    let (_, told) = changed(folder.path(), "index/names", |bytes| bytes[..512].fill(7));
    assert_eq!(told.damage()[0].file, "index/names");
}

#[tokio::test]
async fn an_index_of_another_version_is_no_damage_and_goes_whole() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let answers = || async {
        let (store, tenant) = open(folder.path()).await;
        let answers = dump(&store, &tenant).await.unwrap();
        store.close().await;
        answers
    };
    let before = answers().await;
    say_version(&folder.path().join("index/names"), 2);
    let (_, told) = check(folder.path());
    assert!(told.found.len() == 1 && told.damage().is_empty(), "{:?}", told.found);
    assert!(told.found[0].what.contains("another version"), "{:?}", told.found);
    // Nothing of it is left, for the start behind the one that makes it anew neither.
    for round in ["made anew", "kept"] {
        assert!(answers().await == before, "{round}");
        let (_, told) = check(folder.path());
        assert!(told.found.is_empty(), "{round}: {:?}", told.found);
    }
}

/// Has the database's checkpoint say that this version wrote it.
fn say_version(database: &Path, version: u32) {
    let database = Database::open(database).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let meta = TableDefinition::<'_, &str, &[u8]>::new("meta");
        let mut meta = transaction.open_table(meta).unwrap();
        let row = meta.get("checkpoint").unwrap().unwrap().value().to_vec();
        let mut row: serde_json::Value = serde_json::from_slice(&row).unwrap();
        assert_ne!(row["version"], version);
        row["version"] = version.into();
        meta.insert("checkpoint", &*serde_json::to_vec(&row).unwrap()).unwrap();
    }
    transaction.commit().unwrap();
}

/// What checksums cannot show: bytes that are consistent and not the log's.
#[tokio::test]
async fn rows_that_are_not_the_logs_are_found_though_every_checksum_holds() {
    type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;
    type Numbers = TableDefinition<'static, &'static [u8], u64>;
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let path = folder.path().join("index/names");
    let was = std::fs::read(&path).unwrap();
    let tables: [&str; 7] = [
        "streams",
        "stream names",
        "stream references",
        "stream runs",
        "types",
        "actors",
        "tenants",
    ];
    for table in tables {
        for remove in [false, true] {
            let database = Database::open(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            if ["streams", "types", "actors", "tenants"].contains(&table) {
                let mut rows = transaction.open_table(Rows::new(table)).unwrap();
                let (key, mut value) = {
                    let (key, value) = rows.last().unwrap().unwrap();
                    (key.value().to_vec(), value.value().to_vec())
                };
                rows.remove(&key[..]).unwrap();
                if !remove {
                    // A digit of a tenant's count; else the first byte, which is a reference's.
                    let at = value.windows(8).position(|w| w == b"\"count\":");
                    value[at.map_or(0, |at| at + 8)] ^= 1;
                    rows.insert(&key[..], &value[..]).unwrap();
                }
            } else {
                let mut rows = transaction.open_table(Numbers::new(table)).unwrap();
                let (key, value) = {
                    let (key, value) = rows.last().unwrap().unwrap();
                    (key.value().to_vec(), value.value())
                };
                rows.remove(&key[..]).unwrap();
                if !remove {
                    rows.insert(&key[..], value + 1).unwrap();
                }
            }
            transaction.commit().unwrap();
            drop(database);
            let (_, told) = check(folder.path());
            let damage = told.damage();
            assert!(!damage.is_empty(), "{table}, removed: {remove}");
            assert!(damage.iter().all(|f| f.file == "index/names"), "{damage:?}");
            std::fs::write(&path, &was).unwrap();
        }
    }
}

#[tokio::test]
async fn a_run_that_is_not_the_logs_is_found_though_its_pages_hold() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let files = files(folder.path());
    let runs: Vec<_> = files.keys().filter(|name| is_run(name)).collect();
    let mut what = std::collections::BTreeSet::new();
    for name in runs {
        let length = files[name].len();
        for at in (0..length).step_by(41).filter(|at| at % 4096 < 4092) {
            let page = at / 4096 * 4096;
            // Behind the content, zeros fill up the last page.
            if files[name][at..page + 4092].iter().all(|b| *b == 0) {
                continue;
            }
            let (_, told) = changed(folder.path(), name, |bytes| {
                bytes[at] ^= 1;
                let mut crc = crc32fast::Hasher::new();
                crc.update(&(page as u64 / 4096).to_le_bytes());
                crc.update(&bytes[page..page + 4092]);
                bytes[page + 4092..page + 4096].copy_from_slice(&crc.finalize().to_le_bytes());
            });
            let [found] = told.damage()[..] else { panic!("{name} at {at}: {:?}", told.found) };
            assert_eq!((&found.file, found.offset), (name, page as u64));
            what.insert(found.what);
        }
    }
    for kind in ["an entry", "a stream", "a posting", "an id ", "an idempotency key"] {
        assert!(what.iter().any(|w| w.starts_with(kind)), "{kind}: {what:?}");
    }
}

#[tokio::test]
async fn payloads_and_leaves_are_checked_though_their_blocks_hold() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let files = files(folder.path());
    let name = segments(&files)[1];
    let frame = frames(&files[name])[3];
    let u32_at =
        |at: usize| u32::from_le_bytes(files[name][at..at + 4].try_into().unwrap()) as usize;
    let mut at = frame + 20 + u32_at(frame + 8) + u32_at(frame + 12);
    for expected in ["the chain of leaves does not lead", "a payload does not match"] {
        let (block, stored) = (at, u32_at(at + 4));
        let (_, told) = changed(folder.path(), name, |bytes| {
            // A commitment's last byte; a payload's.
            bytes[block + 32 + stored - 1] ^= 1;
            // It says nothing of where it lies.
            bytes[block + 2] = 0;
            let mut crc = crc32fast::Hasher::new();
            crc.update(&bytes[block..block + 28]);
            crc.update(&bytes[block + 32..block + 32 + stored]);
            bytes[block + 28..block + 32].copy_from_slice(&crc.finalize().to_le_bytes());
        });
        let [found] = told.damage()[..] else { panic!("{:?}", told.found) };
        assert_eq!((&found.file, found.offset), (name, frame as u64));
        let either = [expected, "a payload does not match"];
        assert!(either.iter().any(|w| found.what.starts_with(w)), "{found:?}");
        assert_eq!(found.tenants.len(), 1);
        at += 32 + stored;
    }
}

#[tokio::test]
async fn the_log_alone_is_checked_as_precisely_and_what_is_derived_is_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let files = files(folder.path());
    for name in files.keys().filter(|name| name.starts_with("index/")) {
        std::fs::write(folder.path().join(name), b"not an index").unwrap();
    }
    let (whole, told) = check_extent(folder.path(), Extent::Log);
    assert_eq!(told.found, []);
    assert_eq!((whole.ops, whole.records, whole.tenants, whole.parts), (243, 243, 3, 0));
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    // As where the index is compared, but for the note that it is not there.
    for name in segments(&files) {
        let path = folder.path().join(name);
        let frames = frames(&files[name]);
        for at in (4096..frames[frames.len() - 1]).step_by(2003) {
            let mut bytes = files[name].clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
            let (all, alone) = (check(folder.path()), check_extent(folder.path(), Extent::Log));
            let (found, rest) = all.1.found.split_first().unwrap();
            assert_eq!(found.kind, FindingKind::Note);
            assert_eq!(alone.1.found, rest, "{name} at {at}");
            assert!(alone.0.damage > 0 && alone.0.records == all.0.records, "{name} at {at}");
        }
        std::fs::write(&path, &files[name]).unwrap();
    }
}

#[tokio::test]
async fn what_lies_behind_damage_is_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let files = files(folder.path());
    let segments = segments(&files);
    let (first, second) = (segments[0], segments[1]);
    let (one, two) = (frames(&files[first]), frames(&files[second]));
    // Two neighbours, so that no header says what the first was; and one frame of the next segment.
    let mut bytes = files[first].clone();
    for at in [one[4], one[5], one[9]] {
        bytes[at + 30] ^= 1;
    }
    std::fs::write(folder.path().join(first), &bytes).unwrap();
    let (_, told) = changed(folder.path(), second, |bytes| {
        bytes[5] ^= 1;
        bytes[two[2] + 30] ^= 1;
    });
    let places: Vec<_> = told.damage().iter().map(|f| (f.file.as_str(), f.offset)).collect();
    for place in [(first, one[4]), (first, one[9]), (second, 0), (second, two[2])] {
        assert!(places.contains(&(place.0, place.1 as u64)), "{place:?}: {places:?}");
    }
}

#[tokio::test]
async fn files_that_are_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let files = files(folder.path());
    let segments = segments(&files);
    for name in files
        .keys()
        .filter(|n| !["lock", "reserve", segments[segments.len() - 1]].contains(&n.as_str()))
    {
        std::fs::remove_file(folder.path().join(name)).unwrap();
        let (summary, told) = check(folder.path());
        assert_eq!(summary.damage == 0, name == "index/names", "{name}: {:?}", told.found);
        std::fs::write(folder.path().join(name), &files[name]).unwrap();
    }
    // The last one: the log ends below its floor, and the end mark before it speaks of one more.
    std::fs::remove_file(folder.path().join(segments[segments.len() - 1])).unwrap();
    let (_, told) = check(folder.path());
    assert_eq!(&told.damage()[0].file, segments[segments.len() - 2]);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    std::fs::write(
        folder.path().join(segments[segments.len() - 1]),
        &files[segments[segments.len() - 1]],
    )
    .unwrap();
    let (summary, told) = check(folder.path());
    assert_eq!((summary.damage, told.found.len()), (0, 1), "{:?}", told.found);
}

#[tokio::test]
async fn what_a_crash_leaves_is_noted_and_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    for _ in 0..60 {
        let one = append("s", Expected::Any, vec![event("a", "1")]);
        store.append(&tenant, one).await.unwrap();
    }
    // As kill -9 leaves it: the database is not closed, the superblock knows of nothing yet.
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files(folder.path()) {
        let to = copy.path().join(&name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    assert!(matches!(
        verify(folder.path(), &mut Told::default()),
        Err(VerifyError::Open(OpenError::Locked { .. }))
    ));
    store.close().await;
    let (summary, told) = check(copy.path());
    assert_eq!((summary.damage, summary.records), (0, 61), "{:?}", told.found);
    let all = files(copy.path());
    let name = segments(&all)[0];
    let frames = frames(&all[name]);
    let (last, end) = (frames[frames.len() - 2], frames[frames.len() - 1]);
    let (summary, told) = changed(copy.path(), name, |bytes| bytes[end - 100..end].fill(0));
    assert_eq!((summary.damage, summary.records), (0, 60), "{:?}", told.found);
    let torn = told.found.iter().find(|f| f.file == *name).unwrap();
    assert_eq!((torn.kind, torn.offset), (FindingKind::Note, last as u64));
    // Whole frames behind two damaged neighbours: no crash leaves that, whatever the superblock knows.
    let (_, told) = changed(copy.path(), name, |bytes| {
        bytes[frames[4] + 30] ^= 1;
        bytes[frames[5] + 30] ^= 1;
    });
    let found = told.damage().into_iter().find(|f| f.file == *name).unwrap();
    assert_eq!((found.offset, found.what), (frames[4] as u64, "an op that later ones follow"));
}

#[tokio::test]
async fn a_folder_without_a_log_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let none = verify(folder.path(), &mut Told::default());
    assert!(matches!(none, Err(VerifyError::NoData { .. })));
    assert_eq!(files(folder.path()), Files::new());
}
