//! Torn tails, flipped bytes, lost files: never served, never skipped, named.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use kimberlite_store::{
    Store,
    append::{AppendError, Expected},
    error::{OpenError, ReadError},
    read::{After, Selection, Shape},
    words::{Position, TenantName},
};

use crate::support::*;

/// A folder as a crash leaves it: copied while the store is open, with nothing in flight.
async fn crashed(events: usize, idle: bool) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    for i in 0..events {
        let data = format!("\"{i} {}\"", "x".repeat(700));
        let new = vec![event("a", &data)];
        store.append(&tenant, append("s", Expected::Any, new)).await.unwrap();
    }
    let dump = dump(&store, &tenant).await.unwrap();
    if idle {
        // The superblock's turn comes after a second without writes.
        let before = superblock(folder.path());
        while superblock(folder.path()) == before {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    let copy = copied(folder.path());
    store.close().await;
    (copy, dump)
}

fn superblock(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("superblock")).unwrap()
}

fn copied(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("log")).unwrap();
    std::fs::copy(folder.join("superblock"), copy.path().join("superblock")).unwrap();
    for file in segments(folder) {
        let to = copy.path().join("log").join(file.file_name().unwrap());
        std::fs::copy(file, to).unwrap();
    }
    copy
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("log")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    // What lies ready for the next one is no segment yet.
    files.retain(|file| file.extension().is_some_and(|e| e == "segment"));
    files.sort();
    files
}

fn writable(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = writable(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Where the frames of a segment lie.
fn frames(path: &Path) -> Vec<(u64, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let (mut at, mut frames) = (4096, Vec::new());
    while bytes[at..].starts_with(b"KOP>") {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        frames.push((at as u64, length as u64));
        at += length;
    }
    frames
}

/// Opens a damaged folder and demands that it says so, in whatever it is asked.
async fn assert_reported(folder: &Path, whole: &str, what: &str) {
    let store = match try_open(folder) {
        Err(OpenError::Damaged(damage)) => return assert!(!damage.file.is_empty()),
        Err(other) => panic!("{what}: {other}"),
        Ok(store) => store,
    };
    let name = TenantName::new("dev").unwrap();
    match store.tenant(&name) {
        None => {
            // Its creation is what is damaged.
            let created = store.create_tenant(actor(), name).await;
            assert!(matches!(created, Err(AppendError::Damaged(_))), "{what}: {created:?}");
        }
        Some(tenant) => {
            let damage = store.damage(&tenant).unwrap_or_else(|| panic!("{what}: unnoticed"));
            assert!(damage.file.starts_with("log/"), "{what}: {damage}");
            let read = dump(&store, &tenant).await;
            assert!(matches!(read, Err(ReadError::Damaged(_))), "{what}: {read:?}");
            let new = append("s", Expected::Any, vec![event("a", "1")]);
            let refused = store.append(&tenant, new).await;
            assert!(matches!(refused, Err(AppendError::Damaged(_))), "{what}: {refused:?}");
            assert_prefix(&store, whole).await;
        }
    }
    store.close().await;
}

/// What is still served is what was there.
async fn assert_prefix(store: &Store, whole: &str) {
    let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
    for (i, line) in whole.lines().enumerate() {
        let position = Position::new(i as u64).unwrap();
        if let Ok(event) = store.event(&tenant, position).await {
            let data = String::from_utf8(event.data.unwrap().to_vec()).unwrap();
            assert!(line.contains(&data), "position {i}");
        }
    }
}

async fn assert_whole(folder: &Path, whole: &str, what: &str) {
    for _ in 0..2 {
        let (store, tenant) = open(folder).await;
        let now = dump(&store, &tenant).await.unwrap();
        assert!(
            now == whole,
            "{what}: {} of {} events",
            now.lines().count(),
            whole.lines().count()
        );
        store.close().await;
    }
    let (store, tenant) = open(folder).await;
    let new = append("s", Expected::Any, vec![event("a", "1")]);
    let done = store.append(&tenant, new).await.unwrap();
    assert_eq!(done.receipts[0].first_position.get(), whole.lines().count() as u64, "{what}");
    store.close().await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_wherever_the_power_went() {
    let (crash, dump) = crashed(12, false).await;
    let segment = segments(crash.path()).pop().unwrap();
    let (at, length) = *frames(&segment).last().unwrap();
    let whole: String = dump.split_inclusive('\n').take(11).collect();
    // Every set of sectors that may have been lost, as long as one is.
    let first = at / 512;
    let sectors = (at + length).div_ceil(512) - first;
    assert!((3..=6).contains(&sectors), "{sectors} sectors");
    for lost in 1..1_u64 << sectors {
        let copy = copied(crash.path());
        let file = writable(&segments(copy.path()).pop().unwrap());
        for sector in (0..sectors).filter(|s| lost >> s & 1 == 1) {
            let from = ((first + sector) * 512).max(at);
            let to = ((first + sector + 1) * 512).min(at + length);
            file.write_all_at(&vec![0; (to - from) as usize], from).unwrap();
        }
        assert_whole(copy.path(), &whole, &format!("lost sectors {lost:b}")).await;
    }
}

#[tokio::test]
async fn a_flipped_byte_in_the_open_segment_is_found_at_start() {
    let (crash, dump) = crashed(6, false).await;
    let segment = segments(crash.path()).pop().unwrap();
    let all = frames(&segment);
    assert_eq!(all.len(), 7, "a tenant and six events");
    let (last, _) = *all.last().unwrap();
    for (at, length) in all {
        // Every byte of the two headers; every 13th of the rest; all of the end.
        let offsets = (0..length).filter(|o| *o < 400 || o % 13 == 0 || *o > length - 16);
        for offset in offsets.filter(|o| at == last || o % 3 == 0) {
            let copy = copied(crash.path());
            flip(&segments(copy.path()).pop().unwrap(), at + offset);
            assert_reported(copy.path(), &dump, &format!("byte {offset} of the op at {at}")).await;
        }
    }
}

#[tokio::test]
async fn neighbours_that_are_damaged_are_not_taken_for_a_torn_tail() {
    let (crash, dump) = crashed(20, false).await;
    let segment = segments(crash.path()).pop().unwrap();
    let all = frames(&segment);
    for (first, count) in [(3, 2), (3, 5), (all.len() - 4, 3)] {
        let copy = copied(crash.path());
        for (at, _) in &all[first..first + count] {
            flip(&segments(copy.path()).pop().unwrap(), at + 30);
        }
        assert_reported(copy.path(), &dump, &format!("{count} ops from {first} on")).await;
    }
}

#[tokio::test]
async fn a_lost_last_op_is_reported_once_the_superblock_knows_it() {
    let (crash, dump) = crashed(4, true).await;
    let segment = segments(crash.path()).pop().unwrap();
    let (at, length) = *frames(&segment).last().unwrap();
    for (from, what) in [(at, "all of it"), (at + 300, "its end"), (at + length - 1, "one byte")] {
        let copy = copied(crash.path());
        let file = writable(&segments(copy.path()).pop().unwrap());
        file.write_all_at(&vec![0; (at + length - from) as usize], from).unwrap();
        assert_reported(copy.path(), &dump, what).await;
    }
}

#[tokio::test]
async fn a_flipped_byte_in_a_closed_segment_is_found() {
    let (crash, dump) = crashed(200, false).await;
    let files = segments(crash.path());
    assert!(files.len() > 2);
    for file in &files[..files.len() - 1] {
        let length = std::fs::metadata(file).unwrap().len();
        for at in [10, 80, 4096, length / 2, length - 900, length - 10] {
            let copy = copied(crash.path());
            flip(&copy.path().join("log").join(file.file_name().unwrap()), at);
            if let Err(OpenError::Damaged(_)) = try_open(copy.path()) {
                continue;
            }
            let what = format!("byte {at} of {}", file.display());
            assert_reported(copy.path(), &dump, &what).await;
        }
    }
}

#[tokio::test]
async fn a_segment_that_ends_early_is_reported_or_torn() {
    let (crash, dump) = crashed(6, true).await;
    let segment = segments(crash.path()).pop().unwrap();
    let (at, length) = *frames(&segment).last().unwrap();
    for left in [0, 1, 19, 20, 100, 300, 304, 308, 340, length - 8, length - 1] {
        let copy = copied(crash.path());
        writable(&segments(copy.path()).pop().unwrap()).set_len(at + left).unwrap();
        assert_reported(copy.path(), &dump, &format!("{left} bytes of the last op")).await;
    }
}

#[tokio::test]
async fn a_missing_segment_is_reported() {
    let (crash, dump) = crashed(200, false).await;
    for file in segments(crash.path()) {
        let copy = copied(crash.path());
        std::fs::remove_file(copy.path().join("log").join(file.file_name().unwrap())).unwrap();
        assert_reported(copy.path(), &dump, &file.display().to_string()).await;
    }
}

#[tokio::test]
async fn damage_that_comes_while_running_is_found_by_the_first_read() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    for i in 0..200 {
        let data = format!("\"{i} {}\"", "y".repeat(700));
        let new = vec![event("a", &data)];
        store.append(&tenant, append("s", Expected::Any, new)).await.unwrap();
    }
    let closed = &segments(folder.path())[0];
    let (at, length) = frames(closed)[20];
    flip(closed, at + length - 100);
    assert!(store.damage(&tenant).is_none());
    let read = dump(&store, &tenant).await;
    let Err(ReadError::Damaged(damage)) = read else { panic!("{read:?}") };
    assert!(closed.ends_with(&damage.file) && (at..at + length).contains(&damage.offset));
    assert_eq!(store.damage(&tenant), Some(damage));
    let new = append("s", Expected::Any, vec![event("a", "1")]);
    assert!(matches!(store.append(&tenant, new).await, Err(AppendError::Damaged(_))));
    // What is whole is still served.
    let after = After::Position(Position::new(100).unwrap());
    let selection = Selection { after, limit: 10, ..everything() };
    assert_eq!(store.read(&tenant, &selection, Shape::Json).await.unwrap().count, 10);
}

#[tokio::test]
async fn an_event_in_the_place_of_another_is_found_by_the_first_read() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    for i in 0..200 {
        let data = format!("\"{i:03} {}\"", "y".repeat(700));
        let new = vec![event("a", &data)];
        store.append(&tenant, append("s", Expected::Any, new)).await.unwrap();
    }
    // An op's payloads where those of the next one are, which take as much room: a write that went elsewhere.
    let closed = &segments(folder.path())[0];
    let bytes = std::fs::read(closed).unwrap();
    let u32_at = |at: u64| {
        let at = at as usize;
        u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
    };
    let payloads = |op: usize| {
        let (frame, _) = frames(closed)[op];
        let leaves = frame + 20 + u32_at(frame + 8) + u32_at(frame + 12);
        let block = leaves + 32 + u32_at(leaves + 4);
        (block, 32 + u32_at(block + 4))
    };
    let ((from, length), (to, same)) = (payloads(20), payloads(21));
    assert_eq!(length, same);
    let stray = &bytes[from as usize..(from + length) as usize];
    writable(closed).write_all_at(stray, to).unwrap();
    let Err(ReadError::Damaged(damage)) = dump(&store, &tenant).await else {
        panic!("it was read as if it were there");
    };
    assert!(closed.ends_with(&damage.file), "{damage:?}");
    assert_eq!((damage.offset, damage.what), (to, "a block's checksum does not match"));
}

#[tokio::test]
async fn a_folder_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _tenant) = open(folder.path()).await;
    assert!(matches!(try_open(folder.path()), Err(OpenError::Locked { .. })));
    store.close().await;
}
