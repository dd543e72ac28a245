//! The decoders, as `cargo fuzz` drives them: any bytes, no panic, no allocation beyond the limits. Not part of the API.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    task::{Context, Waker},
};

use bytes::Bytes;

use crate::{
    disk::{Disk, RealDisk},
    index::{Layout, Pages, Run, TenantIndex, derived::decode_rows, write_pages},
    limits::{OP_BYTES_MAX, STRETCH_BYTES},
    log::{
        SEGMENT_HEAD_BYTES, Segment,
        frame::{FrameHead, Section, front_length, read_section, seal_frame},
        framed::Spot,
        packed::{self, stretch_head},
        packed_head,
        superblock::decode_copy,
    },
    proof::{Checkpoint, Note, Receipt, Submission, TilePath, VerifierKey},
    record::{Entry, Leaf, Role, genesis},
    words::{Actor, Hash, Tag, TenantName},
};

/// A frame: its head, sections, blocks, leaves and payloads, and the superblock beside it. Once as it is, and once with
/// checksums that hold, so that what lies behind them is reached.
pub fn op(bytes: &[u8]) {
    decode_copy(bytes);
    read_op(bytes);
    let mut sealed = bytes.to_vec();
    seal_frame(&mut sealed, SPOT);
    read_op(&sealed);
}

/// Where the frame lies.
const SPOT: Spot = Spot { first_op: 1, offset: SEGMENT_HEAD_BYTES };

fn read_op(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    if front_length(bytes).is_none_or(|n| n > bytes.len()) {
        return;
    }
    let Ok(head) = FrameHead::decode(&whole) else { return };
    assert!(head.length <= OP_BYTES_MAX);
    let mut at = head.body_at;
    for section in Section::all(&head.header) {
        let Ok(runs) = read_section(bytes, &mut at, section.leaves_bytes as usize, Some(SPOT))
        else {
            return;
        };
        assert!(runs.leaves.len() + runs.payloads.len() <= bytes.len());
        let Some(segment) = segment(bytes) else { return };
        let mut index = TenantIndex::new(genesis([0; 16]));
        // Whether it fits the log is not what is asked here.
        let _applied = index.apply(&segment, 0, section, &runs, None).is_ok();
        // Neither are commitments and chain.
        let chain_head = Hash([0; 32]);
        let hashes = vec![chain_head; runs.leaves.len() / 36 + 1];
        let section = Section { first_position: 0, chain_head, ..section };
        let mut index = TenantIndex::new(chain_head);
        let _applied = index.apply(&segment, 0, section, &runs, Some(&hashes)).is_ok();
    }
}

/// A leaf and a run of payloads behind it.
pub fn leaf(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first() else { return };
    let (leaf, mut run) = bytes.split_at(usize::from(*length).min(bytes.len()));
    if let Ok(leaf) = Leaf::decode(leaf) {
        leaf.payloads().for_each(drop);
        leaf.reference(Role::Subject);
    }
    while let Ok(entry) = Entry::take(&mut run) {
        if entry.json().is_err() {
            return;
        }
    }
}

/// A page of a derived file.
pub fn derived(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let disk = RealDisk::new(folder.path());
    // Once as it is, which its checksum refuses, and once as content that was written so.
    let raw = disk.create("raw").and_then(|file| file.write_all_at(bytes, 0));
    for name in [raw.map(|()| "raw"), write_pages(&disk, "content", bytes).map(|()| "content")] {
        let Ok(name) = name else { return };
        let Ok(pages) = Pages::open(&disk, name.to_owned()) else { return };
        let mut reader = pages.sequential();
        let mut out = [0; 101];
        let mut at = 0;
        while reader.read(at, &mut out).is_ok() && at < bytes.len() as u64 {
            at += 101;
        }
    }
}

/// The layout of a run on the first line, as its row in the database has it, and the run's content behind it; the same bytes
/// as the other rows of that database.
pub fn run(bytes: &[u8]) {
    let (line, content) = first_line(bytes);
    decode_rows(bytes, line);
    let Ok(layout) = serde_json::from_slice::<Layout>(line) else { return };
    if !layout.can_be() {
        return;
    }
    let Ok(folder) = tempfile::tempdir() else { return };
    let disk = RealDisk::new(folder.path());
    if write_pages(&disk, "run", content).is_err() {
        return;
    }
    let (Ok(pages), Some(segment)) = (Pages::open(&disk, "run".to_owned()), segment(content))
    else {
        return;
    };
    let run = Run::new(segment, Arc::new(pages), layout);
    // Damage is an answer everywhere.
    let mut entries = run.entries(true);
    let _read = (run.first()..run.end()).take(64).all(|position| entries.get(position).is_ok());
    for id in 0..4 {
        let postings = run.stream(id).ok().flatten().map(|(postings, _)| postings);
        for mut postings in postings.into_iter().chain(run.event_type(id).ok().flatten()) {
            let _read = (0..postings.count.min(64)).all(|i| postings.get(i).is_ok());
        }
        let tag = Tag::new(&id.to_string()).expect("a digit is a tag");
        let _found = run.tag(&tag).is_ok();
        let _found = run.find_id(&[id as u8; 16]).is_ok();
        let _found = run.find_idempotency(&[id as u8; 16]).is_ok();
    }
}

/// The manifest of a backup: these bytes as the file, and again as what it seals.
pub fn manifest(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let mut sealed = b"{\"manifest\":".to_vec();
    sealed.extend_from_slice(bytes);
    sealed.extend_from_slice(b",\"blake3\":\"");
    sealed.extend_from_slice(blake3::hash(bytes).to_hex().as_bytes());
    sealed.extend_from_slice(b"\"}\n");
    let args = crate::restore::Restore {
        backup: folder.path().join("backup"),
        folder: folder.path().join("data"),
        until: None,
        actor: Actor::new("fuzz").expect("a word is an actor"),
        keeps_origin: false,
    };
    for manifest in [bytes, &sealed] {
        if write(&args.backup, "manifest.json", manifest).is_none() {
            return;
        }
        let _restored = crate::restore::restore(&args, &mut |_| {}).is_ok();
    }
}

/// What lies beside a signed log: these bytes as the file of its keys, and as what it signed last, once as they are and once
/// under a checksum that holds.
pub fn keys(bytes: &[u8]) {
    static SIGNED: LazyLock<Option<Signed>> = LazyLock::new(Signed::new);
    let Some(signed) = &*SIGNED else { return };
    let (line, text) = first_line(bytes);
    let number = line.first_chunk().map_or(1, |n| u64::from_le_bytes(*n));
    let mut slot = b"KMBSIGN1".to_vec();
    slot.extend_from_slice(&number.to_le_bytes());
    slot.extend_from_slice(&(text.len() as u32).to_le_bytes());
    slot.extend_from_slice(text);
    slot.extend_from_slice(blake3::hash(&slot).as_bytes());
    slot.resize(8192, 0);
    for (what, content) in [(".keys", bytes), (".last", bytes), (".last", &slot[..])] {
        signed.open_with(what, content);
    }
}

/// A data folder that was signed, and its keys.
struct Signed {
    folder: tempfile::TempDir,
    /// Of each log, each with its content.
    files: Vec<(std::path::PathBuf, Vec<u8>)>,
}

impl Signed {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let store = crate::Store::open(Self::options(folder.path())).ok()?;
        let (actor, name) = (Actor::new("fuzz").ok()?, TenantName::new("dev").ok()?);
        {
            let mut made = std::pin::pin!(store.create_tenant(actor, name));
            while made.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                std::thread::yield_now();
            }
        }
        let ends = |path: &Path, end: &str| path.to_string_lossy().ends_with(end);
        let cluster = std::fs::read_dir(folder.path().join("keys")).ok()?.next()?.ok()?.path();
        let listed = || std::fs::read_dir(&cluster).into_iter().flatten().flatten();
        // Its log is signed soon.
        while !listed().any(|file| ends(&file.path(), ".last")) {
            std::thread::yield_now();
        }
        drop(store);
        let kept = |path: std::path::PathBuf| Some((path.clone(), std::fs::read(path).ok()?));
        let files = listed().filter_map(|file| kept(file.path()));
        let files = files.filter(|(path, _)| !ends(path, "origin")).collect();
        Some(Self { folder, files })
    }

    fn options(folder: &Path) -> crate::Options {
        let signing = crate::Signing { folder: folder.join("keys"), origin: "fuzz".to_owned() };
        crate::Options { signing: Some(signing), ..options(&folder.join("data")) }
    }

    /// Opens it with another content of a log's file; it opens or says why not.
    fn open_with(&self, what: &str, content: &[u8]) {
        for (path, _) in
            self.files.iter().filter(|(path, _)| path.to_string_lossy().ends_with(what))
        {
            assert!(std::fs::write(path, content).is_ok(), "the folder is this process's own");
        }
        let _opened = crate::Store::open(Self::options(self.folder.path())).is_ok();
        for (path, content) in &self.files {
            assert!(std::fs::write(path, content).is_ok(), "the folder is this process's own");
        }
    }
}

fn options(folder: &Path) -> crate::Options {
    crate::Options {
        folder: folder.to_owned(),
        segment_bytes: 1 << 20,
        checkpoint_records: 100,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: None,
    }
}

fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Option<()> {
    std::fs::create_dir_all(folder).ok()?;
    std::fs::write(folder.join(name), content).ok()
}

/// A data folder whose first segment goes on with these bytes: it opens or says why not.
pub fn folder(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let Ok(store) = crate::Store::open(options(folder.path())) else { return };
    drop(store);
    let disk = RealDisk::new(folder.path());
    let name = "log/0000000000000001.segment";
    let Ok(file) = disk.open(name) else { return };
    if file.write_all_at(bytes, SEGMENT_HEAD_BYTES).is_err() {
        return;
    }
    let _opened = crate::Store::open(options(folder.path())).is_ok();
}

/// A compressed segment: these bytes behind a head that holds, and again as the one stretch of such a segment.
pub fn packed(bytes: &[u8]) {
    let head_bytes = SEGMENT_HEAD_BYTES;
    let whole = head_bytes + bytes.len() as u64;
    let number = bytes.first_chunk::<8>().map_or(0, |n| u64::from_le_bytes(*n) % (1 << 20));
    read_packed(bytes, head_bytes + number, whole - number.min(bytes.len() as u64));
    let plain = STRETCH_BYTES;
    let mut one = stretch_head(0, 1, plain, bytes).to_vec();
    one.extend_from_slice(bytes);
    let table = head_bytes + one.len() as u64;
    one.extend_from_slice(&(head_bytes as u32).to_le_bytes());
    one.extend_from_slice(&(table as u32).to_le_bytes());
    read_packed(&one, head_bytes + plain as u64, table);
}

fn read_packed(body: &[u8], length: u64, table: u64) {
    let plain = vec![0; SEGMENT_HEAD_BYTES as usize];
    let mut file = packed_head(&plain, length, table);
    file.extend_from_slice(body);
    let Ok(folder) = tempfile::tempdir() else { return };
    let raw = RealDisk::new(folder.path()).create("segment").and_then(|raw| {
        raw.write_all_at(&file, 0)?;
        packed::open(raw)
    });
    let Ok(segment) = raw else { return };
    let mut out = vec![0; 3 * STRETCH_BYTES / 2];
    let mut at = 0;
    while at < length {
        // Damage is an answer.
        let _read = segment.read_at(&mut out, at).is_ok();
        at += out.len() as u64;
    }
}

/// The texts of proofs: a key on the first line, and whatever follows as note, receipt and checkpoint. What is read prints as
/// it was.
pub fn proof(bytes: &[u8]) {
    let (line, rest) = first_line(bytes);
    let line = std::str::from_utf8(line).unwrap_or_default();
    if let Ok(path) = line.parse::<TilePath>() {
        assert_eq!(path.to_string(), line);
    }
    let key = line.parse::<VerifierKey>().ok();
    if let Ok(note) = Note::parse(rest) {
        assert_eq!(note.to_string().as_bytes(), rest);
        if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
            assert!(note.text().starts_with(&checkpoint.to_string()));
        }
        let _held = note.verify(&key).is_ok();
    }
    if let Ok(submission) = Submission::parse(rest) {
        assert_eq!(submission.to_string().as_bytes(), rest);
        let _held = submission.judge(key.as_slice(), None).is_ok();
    }
    if let Ok(receipt) = Receipt::parse(rest) {
        assert_eq!(receipt.to_string().as_bytes(), rest);
        let _held = key.is_some_and(|key| receipt.verify(Hash([0; 32]), &key, &[]).is_ok());
    }
}

fn segment(bytes: &[u8]) -> Option<Arc<Segment>> {
    let folder = tempfile::tempdir().ok()?;
    let file = RealDisk::new(folder.path()).create("segment").ok()?;
    file.write_all_at(bytes, 0).ok()?;
    Some(Arc::new(Segment::new(file, "segment".to_owned(), 1)))
}
