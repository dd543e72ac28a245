//! What is asked of the log, and what it answers: commands, receipts, refusals.

use bytes::Bytes;
use uuid::Uuid;

use crate::words::{Actor, EventType, Hash, Position, StreamName, Tag, Timestamp, Version};

/// One event as a caller gives it. JSON texts are validated and bounded by the caller.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The event's id; a version 7 UUID is made where it is left out.
    pub id: Option<Uuid>,
    /// The event's type.
    pub event_type: EventType,
    /// The JSON text as it came, or nothing (shown as `null`).
    pub data: Option<Bytes>,
    /// A JSON object's text as it came.
    pub metadata: Option<Bytes>,
    /// The event's own time.
    pub occurred_at: Option<Timestamp>,
    /// Tags, at most [`crate::limits::TAGS_MAX`].
    pub tags: Vec<Tag>,
}

/// What must hold of a stream for a command to go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    #[default]
    Any,
    /// The stream does not exist.
    None,
    /// The stream exists.
    Exists,
    /// The stream's last event has this version.
    Version(Version),
}

/// Events for one stream.
#[derive(Clone, Debug)]
pub struct StreamAppend {
    /// The stream.
    pub stream: StreamName,
    /// Its condition.
    pub expected: Expected,
    /// Whether a deleted stream comes back to life.
    pub recreate: bool,
    /// 1 to [`crate::limits::EVENTS_MAX`] events.
    pub events: Vec<NewEvent>,
}

/// A condition apart from the appended streams' own.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Of a stream.
    Stream {
        /// The stream.
        stream: StreamName,
        /// What must hold.
        expected: Expected,
    },
    /// No event matches any of `items` (a dynamic consistency boundary).
    NoMatch {
        /// OR over items.
        items: Vec<MatchItem>,
        /// Only events behind this position count. It must be one of the log's.
        after: Option<Position>,
    },
}

/// One alternative of a [`Condition::NoMatch`]: one of the types (any, where empty) and all of the tags.
#[derive(Clone, Debug)]
pub struct MatchItem {
    /// OR.
    pub types: Vec<EventType>,
    /// AND.
    pub tags: Vec<Tag>,
}

/// An idempotency key with all that it is scoped by, but the tenant.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The key.
    pub key: String,
    /// The route's operation id.
    pub route: &'static str,
    /// A digest of everything in the request that matters for its answer.
    pub request_digest: [u8; 32],
}

/// An append to one or several streams.
#[derive(Clone, Debug)]
pub struct Append {
    /// Who asks.
    pub actor: Actor,
    /// All or nothing; each stream at most once. May be empty where there are conditions.
    pub appends: Vec<StreamAppend>,
    /// Further conditions.
    pub conditions: Vec<Condition>,
    /// The key under which a repetition is recognised.
    pub idempotency: Option<Idempotency>,
}

/// What happened to one stream's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The stream.
    pub stream: StreamName,
    /// Version of the first event.
    pub first_version: Version,
    /// Version of the last event.
    pub last_version: Version,
    /// Position of the first event.
    pub first_position: Position,
    /// Position of the last event.
    pub last_position: Position,
    /// Commit time.
    pub time: Timestamp,
    /// Leaf hash of the last event.
    pub hash: Hash,
}

/// What an append did, durable by the time it is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// One receipt a stream, in the order asked.
    pub receipts: Vec<Receipt>,
    /// Nothing was written: the command had been carried out before.
    pub replayed: bool,
    /// Position of the last record that the decision rests on; `None` in an empty log.
    pub position: Option<Position>,
}

/// Deletes a stream.
#[derive(Clone, Debug)]
pub struct DeleteStream {
    /// Who asks.
    pub actor: Actor,
    /// The stream.
    pub stream: StreamName,
    /// Its condition.
    pub expected: Expected,
}

/// What a stream is like, in a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actual {
    /// It never existed.
    Absent,
    /// It was deleted at this version.
    Deleted(Version),
    /// Its last event has this version.
    Version(Version),
}

/// Where in a command a condition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `appends[n]`.
    Append(usize),
    /// `conditions[n]`.
    Condition(usize),
}

/// A condition that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailedCondition {
    /// A stream is not as expected.
    Stream {
        /// Where the condition stands.
        place: Place,
        /// The stream.
        stream: StreamName,
        /// What was expected.
        expected: Expected,
        /// What is.
        actual: Actual,
    },
    /// An event matches.
    Match {
        /// Where the condition stands.
        place: Place,
        /// The first event behind `after` that matches.
        position: Position,
    },
}

/// A deterministic refusal. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Every condition that failed.
    ConditionsFailed(Vec<FailedCondition>),
    /// An id is taken by an event with other content, or only some of the ids are known.
    EventIdConflict {
        /// The id.
        id: Uuid,
        /// Where it is taken; `None` where it stands twice in the command.
        position: Option<Position>,
    },
    /// The key was used with another request.
    IdempotencyMismatch,
    /// The stream was deleted; only `recreate` brings it back.
    StreamDeleted(StreamName),
    /// There is no such stream to delete.
    StreamUnknown(StreamName),
    /// The tenant has as many event types as there can be ([`crate::limits::TYPES_MAX`]).
    TypesExhausted {
        /// The first one for which there is no room.
        event_type: EventType,
    },
    /// The tenant has made as many tables as there can be ([`crate::limits::TABLES_MAX`]).
    TablesExhausted,
    /// A boundary's `after` is no position of this log, so nothing can be said of what lies behind it.
    Diverged {
        /// The position it names.
        position: Position,
    },
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Refused; every answer that it rests on is committed.
    #[error("refused")]
    Rejected(Rejection),
    /// The queue is full. Nothing was written.
    #[error("the append queue is full")]
    Overloaded,
    /// Other writers were always faster. Nothing was written.
    #[error("too much contention")]
    Contended,
    /// The command is larger than an op may be ([`crate::limits::COMMAND_BYTES_MAX`]).
    #[error("the command holds {bytes} bytes; the limit is {max}")]
    TooLarge {
        /// Bytes of payloads.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// There is no room on the disk. Nothing was written.
    #[error("there is no room on the disk")]
    NoRoom,
    /// A stream stands twice in one append. Nothing was written.
    #[error("the stream {0} stands twice in one append")]
    StreamTwice(StreamName),
    /// The server is stopping; whether the command was written is unknown to this caller.
    #[error("the store is closed")]
    Closed,
    /// The tenant's log is damaged and takes no writes.
    #[error(transparent)]
    Damaged(#[from] crate::error::Damage),
    /// Reading what the command rests on failed.
    #[error(transparent)]
    Read(#[from] crate::error::ReadError),
}

/// One line of a bulk load: events for one stream that stand or fall by themselves.
pub type Line = StreamAppend;

/// How far a bulk batch came.
#[derive(Debug)]
pub struct BulkOutcome {
    /// Receipts of the lines before the first refused one, in order.
    pub receipts: Vec<Receipt>,
    /// The refusal that ended the batch.
    pub refused: Option<AppendError>,
}
