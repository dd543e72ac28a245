//! Commands with their footprints: what `resolve` found, ready to be decided.

use uuid::Uuid;

use crate::{
    append::{Expected, MatchItem, NewEvent, Receipt},
    index::StreamHead,
    record::Payloads,
    words::{Actor, EventType, Position, Reference, StreamName, Tag},
};

/// A command, resolved against the first `seen_at` records of a tenant's log.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The tenant's reference.
    pub(crate) tenant: [u8; 16],
    /// How many records were committed when it was resolved.
    pub(crate) seen_at: u64,
    pub(crate) command: PreparedCommand,
    /// Bytes of payloads, for the queue's bound.
    pub(crate) bytes: usize,
}

/// What is asked.
#[derive(Debug)]
pub(crate) enum PreparedCommand {
    /// All or nothing.
    Append(PreparedAppend),
    /// Each by itself, up to the first that is refused.
    Lines(Vec<PreparedAppend>),
    Delete(PreparedDelete),
    CreateTenant(PreparedTenant),
    Fork(PreparedFork),
    Stamp(PreparedStamp),
    Change(PreparedChange),
}

#[derive(Debug)]
pub(crate) struct PreparedAppend {
    pub(crate) actor: NameUse<Actor>,
    pub(crate) appends: Vec<StreamUse>,
    pub(crate) conditions: Vec<PreparedCondition>,
    pub(crate) idempotency: Option<PreparedIdempotency>,
    /// How many event types the tenant had then.
    pub(crate) types_seen: usize,
}

impl PreparedAppend {
    /// Bytes that its events take while it waits, for the queue's bound: mostly of payloads, but a thousand events
    /// without any are not nothing.
    pub(crate) fn held_bytes(&self) -> usize {
        self.appends.iter().flat_map(|a| &a.events).map(PreparedEvent::held_bytes).sum()
    }
}

#[derive(Debug)]
pub(crate) struct PreparedDelete {
    pub(crate) actor: NameUse<Actor>,
    pub(crate) id: [u8; 16],
    pub(crate) stream: StreamName,
    pub(crate) head: Option<StreamHead>,
    pub(crate) expected: Expected,
    pub(crate) payloads: Payloads,
}

#[derive(Debug)]
pub(crate) struct PreparedTenant {
    pub(crate) actor: NameUse<Actor>,
    pub(crate) id: [u8; 16],
    pub(crate) payloads: Payloads,
}

/// Says that the log goes on as another one.
#[derive(Debug)]
pub(crate) struct PreparedFork {
    pub(crate) actor: NameUse<Actor>,
    pub(crate) id: [u8; 16],
    pub(crate) payloads: Payloads,
}

/// Says what a time authority says of a checkpoint.
#[derive(Debug)]
pub(crate) struct PreparedStamp {
    pub(crate) actor: NameUse<Actor>,
    pub(crate) id: [u8; 16],
    pub(crate) payloads: Payloads,
}

/// Changes tables and their rows, all or nothing.
#[derive(Debug)]
pub(crate) struct PreparedChange {
    pub(crate) actor: NameUse<Actor>,
    pub(crate) rests: Rests,
    pub(crate) records: Vec<PreparedChanging>,
}

/// What must be as it was seen, beside the schema and the rows that are written.
#[derive(Debug, Default)]
pub(crate) struct Rests {
    /// All events and streams.
    pub(crate) events: bool,
    /// All rows of these tables.
    pub(crate) tables: Vec<Reference>,
    pub(crate) rows: Vec<RowDigest>,
}

/// Which row of a tenant: a digest of the table's reference and the key.
pub(crate) type RowDigest = [u8; 16];

/// One record of a change.
#[derive(Debug)]
pub(crate) struct PreparedChanging {
    pub(crate) id: [u8; 16],
    pub(crate) version: u64,
    pub(crate) payloads: Payloads,
    /// Table and row; `None` where the schema changes.
    pub(crate) row: Option<(Reference, RowDigest)>,
}

impl PreparedChange {
    /// Bytes that it takes while it waits.
    pub(crate) fn held_bytes(&self) -> usize {
        let payloads = |p: &Payloads| p.stored.len() + size_of_val(&*p.heads);
        self.records.iter().map(|r| size_of_val(r) + payloads(&r.payloads)).sum()
    }
}

/// A name and what was known of it.
#[derive(Debug)]
pub(crate) struct NameUse<N> {
    pub(crate) name: N,
    pub(crate) seen: Seen,
}

#[derive(Debug)]
pub(crate) enum Seen {
    /// A reference never changes.
    Known(Reference),
    /// Not known then: what to introduce it with, if it still is not.
    Fresh(Reference, Payloads),
}

/// Events for one stream.
#[derive(Debug)]
pub(crate) struct StreamUse {
    pub(crate) stream: StreamName,
    /// The stream as it was seen.
    pub(crate) head: Option<StreamHead>,
    /// There where `head` is not.
    pub(crate) fresh: Option<(Reference, Payloads)>,
    pub(crate) expected: Expected,
    pub(crate) recreate: bool,
    pub(crate) ids: IdState,
    pub(crate) events: Vec<PreparedEvent>,
}

#[derive(Debug)]
pub(crate) struct PreparedEvent {
    pub(crate) id: [u8; 16],
    /// The client chose it, so it may be taken.
    pub(crate) client_id: bool,
    pub(crate) event_type: NameUse<EventType>,
    pub(crate) payloads: Payloads,
    pub(crate) tags: Vec<Tag>,
}

impl PreparedEvent {
    /// With what the caller asked for, which is kept until the answer.
    fn held_bytes(&self) -> usize {
        let payloads = self.payloads.stored.len() + size_of_val(&*self.payloads.heads);
        let tags = 2 * size_of_val(&*self.tags);
        size_of::<Self>() + size_of::<NewEvent>() + payloads + tags
    }
}

/// What was known of the ids of one stream's events.
#[derive(Debug)]
pub(crate) enum IdState {
    /// None was taken.
    New,
    /// All were there, in order, with the same content.
    Replay(Receipt),
    /// Anything else.
    Conflict { id: Uuid, position: Option<Position> },
}

#[derive(Debug)]
pub(crate) enum PreparedCondition {
    Stream { stream: StreamName, expected: Expected, head: Option<StreamHead> },
    NoMatch { items: Vec<MatchItem>, after: Option<Position>, hit: Option<u64> },
}

#[derive(Debug)]
pub(crate) struct PreparedIdempotency {
    pub(crate) digest: [u8; 16],
    pub(crate) request: [u8; 32],
    pub(crate) payloads: Payloads,
    pub(crate) hit: Option<IdempotencyHit>,
}

/// An earlier use of a key.
#[derive(Debug)]
pub(crate) struct IdempotencyHit {
    pub(crate) request: [u8; 32],
    pub(crate) time: i64,
    pub(crate) receipts: Vec<Receipt>,
}
