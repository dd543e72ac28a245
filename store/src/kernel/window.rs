//! What was written lately: the write-sets of ops in flight (the overlay) and of the last committed ones.

use std::collections::{HashMap, HashSet, VecDeque};

use super::RowDigest;
use crate::{
    index::StreamHead,
    limits::WINDOW_RECORDS,
    words::{Actor, EventType, Hash, Reference, StreamName, Tag},
};

/// What one op writes for one tenant.
#[derive(Debug)]
pub(crate) struct OpWrites {
    pub(crate) op: u64,
    /// Position behind its last record.
    pub(crate) next: u64,
    /// Hash of its last record.
    pub(crate) chain_head: Hash,
    pub(crate) streams: HashMap<StreamName, StreamHead>,
    pub(crate) types: HashMap<EventType, Reference>,
    pub(crate) actors: HashSet<Actor>,
    /// Ids that clients chose.
    pub(crate) ids: HashMap<[u8; 16], u64>,
    pub(crate) idempotency: HashMap<[u8; 16], u64>,
    /// Its events, in order.
    pub(crate) recent: Vec<Recent>,
    /// Position of its last record that is about a stream.
    pub(crate) event: Option<u64>,
    /// Of its last one that changes the schema.
    pub(crate) schema: Option<u64>,
    /// Of the last ones that change these tables' rows, and these rows.
    tables: HashMap<Reference, u64>,
    rows: HashMap<RowDigest, u64>,
}

/// What conditions ask of an event.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) position: u64,
    pub(crate) event_type: EventType,
    pub(crate) tags: Vec<Tag>,
}

impl OpWrites {
    pub(crate) fn new(op: u64, next: u64, chain_head: Hash) -> Self {
        Self {
            op,
            next,
            chain_head,
            streams: HashMap::new(),
            types: HashMap::new(),
            actors: HashSet::new(),
            ids: HashMap::new(),
            idempotency: HashMap::new(),
            recent: Vec::new(),
            event: None,
            schema: None,
            tables: HashMap::new(),
            rows: HashMap::new(),
        }
    }

    /// A record at `position` changes a row.
    pub(crate) fn row(&mut self, table: Reference, row: RowDigest, position: u64) {
        self.tables.insert(table, position);
        self.rows.insert(row, position);
    }
}

/// One tenant's recent writes. A footprint taken at or above [`TenantWindow::base`] together with this shows the
/// log's whole state, uncommitted records included.
#[derive(Debug)]
pub(crate) struct TenantWindow {
    base: u64,
    /// Records that it remembers, but for the last op.
    most: u64,
    committed: VecDeque<OpWrites>,
    committed_next: u64,
    committed_head: Hash,
    /// Ops in flight, oldest first.
    overlay: VecDeque<OpWrites>,
    /// Of all ops in `committed`: the latest write of a key, and the position behind its op.
    streams: HashMap<StreamName, (u64, StreamHead)>,
    types: HashMap<EventType, Reference>,
    actors: HashSet<Actor>,
    ids: HashMap<[u8; 16], u64>,
    idempotency: HashMap<[u8; 16], u64>,
    event: Option<u64>,
    schema: Option<u64>,
    tables: HashMap<Reference, u64>,
    rows: HashMap<RowDigest, u64>,
}

impl TenantWindow {
    /// The window of a log with `next` committed records.
    pub(crate) fn new(next: u64, chain_head: Hash) -> Self {
        Self {
            base: next,
            most: WINDOW_RECORDS as u64,
            committed: VecDeque::new(),
            committed_next: next,
            committed_head: chain_head,
            overlay: VecDeque::new(),
            streams: HashMap::new(),
            types: HashMap::new(),
            actors: HashSet::new(),
            ids: HashMap::new(),
            idempotency: HashMap::new(),
            event: None,
            schema: None,
            tables: HashMap::new(),
            rows: HashMap::new(),
        }
    }

    /// A smaller window.
    #[cfg(feature = "sim")]
    pub(crate) fn remember(&mut self, records: u64) {
        self.most = records;
    }

    /// Records that it remembers, but for the last op.
    #[cfg(feature = "sim")]
    pub(crate) fn surplus(&self) -> u64 {
        if self.committed.len() > 1 { self.committed_next - self.base } else { 0 }
    }

    /// Footprints below this are too old.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// The position of the next record, behind all in flight.
    pub(crate) fn next(&self) -> u64 {
        self.overlay.back().map_or(self.committed_next, |w| w.next)
    }

    /// Hash of the last record, in flight or not.
    pub(crate) fn chain_head(&self) -> Hash {
        self.overlay.back().map_or(self.committed_head, |w| w.chain_head)
    }

    /// The write-set of the op that is being built.
    pub(crate) fn open(&mut self, op: u64) -> &mut OpWrites {
        if self.overlay.back().is_none_or(|w| w.op != op) {
            self.overlay.push_back(OpWrites::new(op, self.next(), self.chain_head()));
        }
        self.overlay.back_mut().expect("pushed just now")
    }

    /// The oldest op in flight, if it is `op`, is committed.
    #[expect(
        clippy::disallowed_methods,
        clippy::iter_over_hash_type,
        reason = "from map to map: the order shows nowhere"
    )]
    pub(crate) fn commit(&mut self, op: u64) {
        if self.overlay.front().is_none_or(|w| w.op != op) {
            return;
        }
        let writes = self.overlay.pop_front().expect("seen just now");
        for (name, head) in &writes.streams {
            self.streams.insert(name.clone(), (writes.next, *head));
        }
        self.types.extend(writes.types.iter().map(|(n, r)| (n.clone(), *r)));
        self.actors.extend(writes.actors.iter().cloned());
        self.ids.extend(&writes.ids);
        self.idempotency.extend(&writes.idempotency);
        self.event = writes.event.or(self.event);
        self.schema = writes.schema.or(self.schema);
        self.tables.extend(&writes.tables);
        self.rows.extend(&writes.rows);
        self.committed_next = writes.next;
        self.committed_head = writes.chain_head;
        self.committed.push_back(writes);
        while self.committed_next - self.base > self.most && self.committed.len() > 1 {
            self.forget();
        }
    }

    /// Drops the oldest committed op.
    #[expect(
        clippy::disallowed_methods,
        clippy::iter_over_hash_type,
        reason = "keys are removed: the order shows nowhere"
    )]
    fn forget(&mut self) {
        let Some(old) = self.committed.pop_front() else { return };
        self.base = old.next;
        for name in old.streams.keys() {
            if self.streams.get(name).is_some_and(|(next, _)| *next <= old.next) {
                self.streams.remove(name);
            }
        }
        for name in old.types.keys() {
            self.types.remove(name);
        }
        for actor in &old.actors {
            self.actors.remove(actor);
        }
        for id in old.ids.keys() {
            self.ids.remove(id);
        }
        for (digest, position) in &old.idempotency {
            if self.idempotency.get(digest) == Some(position) {
                self.idempotency.remove(digest);
            }
        }
        for (table, position) in &old.tables {
            if self.tables.get(table) == Some(position) {
                self.tables.remove(table);
            }
        }
        for (row, position) in &old.rows {
            if self.rows.get(row) == Some(position) {
                self.rows.remove(row);
            }
        }
    }

    /// Ops in flight behind `after` never happened.
    pub(crate) fn abandon(&mut self, after: u64) {
        while self.overlay.back().is_some_and(|w| w.op > after) {
            self.overlay.pop_back();
        }
    }

    /// The state of a stream, given how it was seen at a footprint.
    pub(crate) fn stream(&self, name: &StreamName, seen: Option<StreamHead>) -> Option<StreamHead> {
        let overlay = self.overlay.iter().rev().find_map(|w| w.streams.get(name));
        overlay.copied().or_else(|| self.streams.get(name).map(|(_, h)| *h)).or(seen)
    }

    pub(crate) fn event_type(&self, name: &EventType) -> Option<Reference> {
        let overlay = self.overlay.iter().rev().find_map(|w| w.types.get(name));
        overlay.or_else(|| self.types.get(name)).copied()
    }

    /// How many types records from position `since` on introduced; it lies between two ops, at or behind the base.
    pub(crate) fn types_since(&self, since: u64) -> usize {
        let ops = self.overlay.iter().rev().chain(self.committed.iter().rev());
        ops.take_while(|w| w.next > since).map(|w| w.types.len()).sum()
    }

    pub(crate) fn knows_actor(&self, name: &Actor) -> bool {
        self.overlay.iter().any(|w| w.actors.contains(name)) || self.actors.contains(name)
    }

    pub(crate) fn id(&self, id: &[u8; 16]) -> Option<u64> {
        let overlay = self.overlay.iter().rev().find_map(|w| w.ids.get(id));
        overlay.or_else(|| self.ids.get(id)).copied()
    }

    pub(crate) fn idempotency(&self, digest: &[u8; 16]) -> Option<u64> {
        let overlay = self.overlay.iter().rev().find_map(|w| w.idempotency.get(digest));
        overlay.or_else(|| self.idempotency.get(digest)).copied()
    }

    /// Position of the last record that changed the schema, as far as the window goes.
    pub(crate) fn last_schema(&self) -> Option<u64> {
        self.overlay.iter().rev().find_map(|w| w.schema).or(self.schema)
    }

    /// Likewise of the last one that is about a stream.
    pub(crate) fn last_event(&self) -> Option<u64> {
        self.overlay.iter().rev().find_map(|w| w.event).or(self.event)
    }

    /// Likewise of the last one that changed a row of a table.
    pub(crate) fn last_of_table(&self, table: Reference) -> Option<u64> {
        let overlay = self.overlay.iter().rev().find_map(|w| w.tables.get(&table));
        overlay.or_else(|| self.tables.get(&table)).copied()
    }

    /// Likewise of the last one that changed a row.
    pub(crate) fn last_of_row(&self, row: &RowDigest) -> Option<u64> {
        let overlay = self.overlay.iter().rev().find_map(|w| w.rows.get(row));
        overlay.or_else(|| self.rows.get(row)).copied()
    }

    /// The first event at or behind `since` that `matches`.
    pub(crate) fn first_match(&self, since: u64, matches: impl Fn(&Recent) -> bool) -> Option<u64> {
        let ops = self.committed.iter().chain(&self.overlay).filter(|w| w.next > since);
        ops.flat_map(|w| &w.recent).find(|r| r.position >= since && matches(r)).map(|r| r.position)
    }
}
