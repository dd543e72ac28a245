//! The decoders, as `cargo fuzz` drives them: any bytes, no panic, no allocation beyond the limits. Not part of the API.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    disk::{Disk, RealDisk},
    index::{Pages, TenantIndex, write_pages},
    limits::OP_BYTES_MAX,
    log::{
        Segment,
        frame::{FrameHead, Section, front_length, read_section},
        superblock::decode_copy,
    },
    record::{Entry, Leaf, Role, genesis},
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
        let mut out = [0; 83];
        let mut at = 0;
        while reader.read(at, &mut out).is_ok() && at < bytes.len() as u64 {
            at += 83;
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
    };
    let Ok(store) = crate::Store::open(options()) else { return };
    drop(store);
    let disk = RealDisk::new(folder.path());
    let name = "log/0000000000000001.segment";
    let Ok(file) = disk.open(name) else { return };
    if file.write_all_at(bytes, crate::log::SEGMENT_HEAD_BYTES).is_err() {
        return;
    }
    let _opened = crate::Store::open(options()).is_ok();
}

fn segment(bytes: &[u8]) -> Option<Arc<Segment>> {
    let folder = tempfile::tempdir().ok()?;
    let file = RealDisk::new(folder.path()).create("segment").ok()?;
    file.write_all_at(bytes, 0).ok()?;
    Some(Arc::new(Segment { file, name: "segment".to_owned(), first_op: 1 }))
}
