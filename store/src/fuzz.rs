//! The decoders, as `cargo fuzz` drives them: any bytes, no panic, no allocation beyond the limits. Not part of the API.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    disk::{Disk, RealDisk},
    index::{Pages, TenantIndex, write_pages},
    limits::{OP_BYTES_MAX, STRETCH_BYTES},
    log::{
        SEGMENT_HEAD_BYTES, Segment,
        frame::{FrameHead, Section, front_length, read_section},
        packed::{self, stretch_head},
        packed_head,
        superblock::decode_copy,
    },
    proof::{Checkpoint, Note, Receipt, Submission, TilePath, VerifierKey},
    record::{Entry, Leaf, Role, genesis},
    words::Hash,
};

/// A frame: its head, sections, blocks, leaves and payloads, and the superblock beside it.
pub fn op(bytes: &[u8]) {
    decode_copy(bytes);
    let whole = Bytes::copy_from_slice(bytes);
    if front_length(bytes).is_none_or(|n| n > bytes.len()) {
        return;
    }
    let Ok(head) = FrameHead::decode(&whole) else { return };
    assert!(head.length <= OP_BYTES_MAX);
    let mut at = head.body_at;
    for section in Section::all(&head.header) {
        let Ok(runs) = read_section(bytes, &mut at, section.leaves_bytes as usize) else { return };
        assert!(runs.leaves.len() + runs.payloads.len() <= bytes.len());
        let Some(segment) = segment(bytes) else { return };
        let mut index = TenantIndex::new(genesis([0; 16]));
        // Whether it fits the log is not what is asked here.
        let _applied = index.apply(&segment, 0, section, &runs, None).is_ok();
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

/// A data folder whose first segment goes on with these bytes: it opens or says why not.
pub fn folder(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let options = || crate::Options {
        folder: folder.path().to_owned(),
        segment_bytes: 1 << 20,
        checkpoint_records: 100,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: None,
    };
    let Ok(store) = crate::Store::open(options()) else { return };
    drop(store);
    let disk = RealDisk::new(folder.path());
    let name = "log/0000000000000001.segment";
    let Ok(file) = disk.open(name) else { return };
    if file.write_all_at(bytes, SEGMENT_HEAD_BYTES).is_err() {
        return;
    }
    let _opened = crate::Store::open(options()).is_ok();
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
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let (line, rest) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
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
