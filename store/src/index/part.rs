//! The index of records of one tenant in one segment, in memory.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, OnceLock},
};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use super::IdempotencyBody;
use crate::{
    log::{Segment, run::Place},
    record::{PayloadKinds, RecordKind},
    words::{Hash, Reference, Tag},
};

/// Where a record is and what filters ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordEntry {
    /// Where the leaf's bytes begin, behind their length.
    pub(crate) leaf: Place,
    pub(crate) payloads: Place,
    pub(crate) leaf_bytes: u16,
    pub(crate) payload_bytes: u32,
    pub(crate) kind: RecordKind,
    /// `u32::MAX` where there is none, likewise the type.
    pub(crate) stream: u32,
    pub(crate) event_type: u32,
    pub(crate) version: u64,
    pub(crate) time: i64,
    /// `i64::MIN` where there is none.
    pub(crate) occurred: i64,
    pub(crate) hash: Hash,
    pub(crate) id: [u8; 16],
    /// What the payloads are, so that events are read without their leaves.
    pub(crate) kinds: PayloadKinds,
}

/// One use of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyEntry {
    /// Records that the command wrote, this one the first.
    pub(crate) records: u32,
    /// SHA-256 of the request.
    pub(crate) request: [u8; 32],
    pub(crate) time: i64,
}

impl IdempotencyEntry {
    pub(crate) fn of(body: &IdempotencyBody, time: i64) -> Self {
        let mut request = [0; 32];
        for (byte, digits) in request.iter_mut().zip(body.request.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).unwrap_or("0");
            *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
        }
        Self { records: body.records, request, time }
    }
}

/// A segment's records of one tenant, from `first` on.
#[derive(Debug)]
pub(crate) struct MemoryPart {
    pub(crate) segment: Arc<Segment>,
    /// Position of the first record.
    pub(crate) first: u64,
    pub(crate) rows: RwLock<Rows>,
    /// Set when a checkpoint writes the part, before the database speaks of it: which run before this one has each
    /// of its streams.
    pub(crate) previous: OnceLock<HashMap<u32, u64>>,
}

/// Numbers in postings count from the part's first record and ascend.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) entries: Vec<RecordEntry>,
    pub(crate) streams: FxHashMap<u32, Vec<u32>>,
    pub(crate) types: FxHashMap<u32, Vec<u32>>,
    pub(crate) tags: HashMap<Tag, Vec<u32>>,
    /// `None` where nobody looks for them.
    ids: Option<HashMap<[u8; 16], u32>>,
    pub(crate) idempotency: HashMap<[u8; 16], (u32, IdempotencyEntry)>,
}

impl MemoryPart {
    pub(crate) fn new(segment: Arc<Segment>, first: u64, rows: Rows) -> Self {
        Self { segment, first, rows: RwLock::new(rows), previous: OnceLock::new() }
    }

    pub(crate) fn entry(&self, position: u64) -> RecordEntry {
        self.rows.read().entries[(position - self.first) as usize]
    }

    /// Kinds and leaf hashes of neighbouring records.
    pub(crate) fn leaves(&self, positions: Range<u64>) -> Vec<(RecordKind, Hash)> {
        let rows = self.rows.read();
        let range = (positions.start - self.first) as usize..(positions.end - self.first) as usize;
        rows.entries[range].iter().map(|entry| (entry.kind, entry.hash)).collect()
    }

    /// The position behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.rows.read().entries.len() as u64
    }

    pub(crate) fn find_id(&self, id: &[u8; 16]) -> Option<u64> {
        let rows = self.rows.read();
        rows.ids.as_ref().and_then(|ids| ids.get(id)).map(|n| self.first + u64::from(*n))
    }

    pub(crate) fn find_idempotency(&self, digest: &[u8; 16]) -> Option<(u64, IdempotencyEntry)> {
        let rows = self.rows.read();
        rows.idempotency.get(digest).map(|(n, e)| (self.first + u64::from(*n), *e))
    }
}

impl Rows {
    /// `searched`: whether records will be looked for by their ids.
    pub(crate) fn new(searched: bool) -> Self {
        Self { ids: searched.then(HashMap::new), ..Self::default() }
    }

    /// Forgets what they hold, and keeps its room.
    pub(crate) fn emptied(mut self) -> Self {
        self.entries.clear();
        self.streams.clear();
        self.types.clear();
        self.tags.clear();
        self.idempotency.clear();
        if let Some(ids) = &mut self.ids {
            ids.clear();
        }
        self
    }

    pub(crate) fn push(&mut self, entry: RecordEntry, tags: &[Tag]) {
        let number = self.entries.len() as u32;
        if let Some(ids) = &mut self.ids {
            ids.insert(entry.id, number);
        }
        if entry.kind == RecordKind::Event {
            self.streams.entry(entry.stream).or_default().push(number);
            self.types.entry(entry.event_type).or_default().push(number);
            for tag in tags {
                let posting = match self.tags.get_mut(tag) {
                    Some(posting) => posting,
                    None => self.tags.entry(tag.clone()).or_default(),
                };
                if posting.last() != Some(&number) {
                    posting.push(number);
                }
            }
        }
        self.entries.push(entry);
    }

    /// Remembers the key of the record pushed last.
    pub(crate) fn push_idempotency(&mut self, actor: Reference, body: &IdempotencyBody, time: i64) {
        let digest = idempotency_digest(actor, &body.route, &body.key);
        let number = self.entries.len() as u32 - 1;
        let entry = IdempotencyEntry::of(body, time);
        self.idempotency.insert(digest, (number, entry));
    }
}

/// Under what a key is found: its scope and itself.
pub(crate) fn idempotency_digest(actor: Reference, route: &str, key: &str) -> [u8; 16] {
    let mut hasher = Sha256::new();
    hasher.update(actor.0);
    hasher.update(route);
    hasher.update([0]);
    hasher.update(key);
    hasher.finalize()[..16].try_into().expect("16")
}
