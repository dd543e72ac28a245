//! Reading and following: selections in, ready-made fragments out.

use bytes::Bytes;
use uuid::Uuid;

use crate::words::{EventType, Hash, Position, StreamName, Tag, Timestamp, Version};

/// A place in a log that a client resumes from: a position and the first 4 bytes of its record's hash.
///
/// As text: `<position>.<8 hex digits>`. Thirty-two bits tell accidents apart, not adversaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The position.
    pub position: Position,
    /// The first four bytes of the record's hash.
    pub check: [u8; 4],
}

/// Where a reading starts (exclusive in the direction of reading).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// At the very start (forward) or the very end (backward).
    #[default]
    Nothing,
    /// Behind what is committed now.
    Head,
    /// Behind a position.
    Position(Position),
    /// Behind a position whose record must have this hash.
    Cursor(Cursor),
}

/// What is read.
#[derive(Clone, Debug)]
pub enum Source {
    /// The tenant's events.
    Log,
    /// The visible events of one stream.
    Stream {
        /// The stream.
        name: StreamName,
        /// The first version (inclusive), or the last where reading backward.
        from: Option<Version>,
    },
}

/// Forward or backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Rising positions.
    #[default]
    Forward,
    /// Falling positions.
    Backward,
}

/// Which events are meant. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these types.
    pub types: Vec<EventType>,
    /// All of these tags.
    pub tags: Vec<Tag>,
    /// Streams whose names start so.
    pub stream_prefix: Option<String>,
    /// Commit time at or after this.
    pub from_time: Option<Timestamp>,
    /// `occurred_at` at or after this.
    pub occurred_from: Option<Timestamp>,
    /// `occurred_at` before this.
    pub occurred_to: Option<Timestamp>,
}

/// One question to the log.
#[derive(Clone, Debug)]
pub struct Selection {
    /// What is read.
    pub source: Source,
    /// Where the reading starts.
    pub after: After,
    /// Which events are meant.
    pub filter: Filter,
    /// Forward or backward.
    pub direction: Direction,
    /// At most so many events, 1 to [`crate::limits::PAGE_EVENTS_MAX`].
    pub limit: usize,
    /// No further events once those there are have so many bytes, 1 to [`crate::limits::PAGE_BYTES_MAX`].
    pub bytes: usize,
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Objects separated by `,`; stored JSON byte for byte.
    Json,
    /// An object a line; raw line breaks inside stored JSON are spaces.
    Ndjson,
    /// `event: event`, `id: <cursor>`, `data: <object>` frames; raw line breaks are spaces.
    Sse,
}

/// Some events, in the shape that was asked for.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The text, in pieces to be written one behind the other.
    pub pieces: Vec<Bytes>,
    /// How many events.
    pub count: usize,
    /// The first and last event's version, where `count > 0`.
    pub versions: Option<(Version, Version)>,
    /// Resume here: the last event, or a later record before which nothing else matches. `None` where
    /// nothing lies behind the start.
    pub cursor: Option<Cursor>,
    /// Nothing further matches up to `head`.
    pub finished: bool,
    /// Records committed when this was read: the next position to be.
    pub head: u64,
}

/// One event, taken apart.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Its position.
    pub position: Position,
    /// Its stream.
    pub stream: StreamName,
    /// Its version.
    pub version: Version,
    /// Its id.
    pub id: Uuid,
    /// Its type.
    pub event_type: EventType,
    /// Commit time.
    pub time: Timestamp,
    /// Its own time.
    pub occurred_at: Option<Timestamp>,
    /// JSON text as it came.
    pub data: Option<Bytes>,
    /// JSON text as it came.
    pub metadata: Option<Bytes>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Leaf hash.
    pub hash: Hash,
    /// The stream was deleted after this event.
    pub stream_deleted: bool,
}

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub stream: StreamName,
    /// Version of its last event.
    pub version: Version,
    /// The first version that a reader of the stream sees (later than 0 once it was deleted and recreated).
    pub first_version: Version,
    /// Commit time of its first visible event, which has `first_version`; of a deleted stream, as it was before.
    pub first_time: Timestamp,
    /// Commit time of its last event.
    pub last_time: Timestamp,
    /// It is deleted.
    pub deleted: bool,
}

/// One record of any kind, as `/v1/records/{position}` shows it.
#[derive(Clone, Debug)]
pub struct RecordView {
    /// Its position.
    pub position: Position,
    /// Its kind's name, such as `event`.
    pub kind: &'static str,
    /// Its id.
    pub id: Uuid,
    /// Commit time.
    pub time: Timestamp,
    /// Leaf hash.
    pub hash: Hash,
    /// The leaf's bytes; SHA-256(0x00 ‖ leaf) is `hash`.
    pub leaf: Bytes,
    /// The payloads that the leaf commits to, in its order.
    pub payloads: Vec<PayloadView>,
}

/// A name that a record's leaf has only the reference of, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedBefore {
    /// Whose: `stream`, `type` or `actor`.
    pub kind: &'static str,
    /// The earlier record that has the name as a payload.
    pub position: Position,
}

/// One payload of a record.
#[derive(Clone, Debug)]
pub struct PayloadView {
    /// Its kind's name: `stream`, `type`, `actor`, `data`, `metadata`, `occurred_at`, `tags`, `idempotency`, `body`.
    pub kind: &'static str,
    /// SHA-256 over the stored bytes, as the leaf has it.
    pub commitment: Hash,
    /// Whether the stored bytes are still there.
    pub state: PayloadState,
}

/// What is left of a payload.
#[derive(Clone, Debug)]
pub enum PayloadState {
    /// Clear: the opening (salt) and the JSON text.
    Clear {
        /// 16 random bytes before the JSON in the stored bytes.
        salt: [u8; 16],
        /// The JSON text.
        json: Bytes,
    },
    /// Erased with its subject's key.
    Erased,
    /// Dropped by retention.
    Expired,
}
