//! From records to the text that clients see, once for all of them.
//!
//! A [`Piece`] holds the text of neighbouring records in one shape; pages, streams and every follower are spliced from
//! pieces without copying. Pieces are kept in a bounded cache.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::{
    error::{Damage, ReadError},
    index::{RecordEntry, StreamState, View},
    limits::FRAGMENT_CACHE_BYTES,
    log::{Segment, frame::BlockKind, run::RunReader},
    read::{Shape, StoredEvent},
    record::{Entry, PayloadKind, RecordKind},
    tenant::TenantShared,
    words::{EventType, Position, StreamName, Tag, Timestamp, Version, push_hex},
};

/// Records of one piece at most; pieces begin at multiples of it where nothing else decides.
pub(crate) const PIECE_RECORDS: u64 = 256;
/// Bytes after which a piece ends early.
const PIECE_BYTES: usize = 1 << 20;

#[cfg(test)]
thread_local! {
    /// Events rendered by this thread.
    pub(crate) static RENDERED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// An event with all that its rendering needs from the index.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) position: u64,
    pub(crate) segment: Arc<Segment>,
    pub(crate) entry: RecordEntry,
    /// `None` where the record is no event.
    names: Option<(StreamName, EventType)>,
    stream_deleted: bool,
}

/// Finds records one after the other.
pub(crate) struct Locator<'a> {
    tenant: &'a TenantShared,
    view: &'a View,
    streams: FxHashMap<u32, StreamState>,
}

/// Streams whose states a locator keeps.
const STREAMS_KEPT: usize = 4096;

impl<'a> Locator<'a> {
    pub(crate) fn new(tenant: &'a TenantShared, view: &'a View) -> Self {
        Self { tenant, view, streams: FxHashMap::default() }
    }

    /// One record; `None` where nothing is committed.
    pub(crate) fn one(&mut self, position: u64) -> Result<Option<Located>, ReadError> {
        Ok(self.range(position..position + 1)?.pop())
    }

    /// The committed records in `range` that lie in the slice of the first.
    pub(crate) fn range(&mut self, range: std::ops::Range<u64>) -> Result<Vec<Located>, ReadError> {
        let Some(slice) = self.view.slice_of(range.start) else { return Ok(Vec::new()) };
        let end = range.end.min(slice.end()).min(self.view.count);
        let mut entries = slice.entries(end - range.start > 1);
        let mut located = Vec::with_capacity((end - range.start) as usize);
        for position in range.start..end {
            let entry = entries.get(position)?;
            let segment = Arc::clone(slice.segment());
            let mut found =
                Located { position, segment, entry, names: None, stream_deleted: false };
            if entry.kind == RecordKind::Event {
                let event_type = self.event_type(entry.event_type);
                let stream = self.stream(entry.stream)?;
                found.stream_deleted = entry.version < stream.head.visible_from;
                found.names = Some((stream.name.clone(), event_type));
            }
            located.push(found);
        }
        Ok(located)
    }

    fn event_type(&self, id: u32) -> EventType {
        self.tenant.index.read().names.types.at(id).clone()
    }

    fn stream(&mut self, id: u32) -> Result<&StreamState, ReadError> {
        if self.streams.len() > STREAMS_KEPT {
            self.streams.clear();
        }
        Ok(match self.streams.entry(id) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let state = self.tenant.stream_state(id)?;
                new.insert(state.ok_or(ReadError::StreamUnknown)?)
            }
        })
    }
}

/// Reads records' bytes.
pub(crate) struct RecordReader {
    runs: RunReader,
    pub(crate) leaf: Vec<u8>,
    pub(crate) payloads: Vec<u8>,
    time: (i64, String),
}

impl RecordReader {
    pub(crate) fn point() -> Self {
        Self::new(RunReader::point())
    }

    pub(crate) fn sequential() -> Self {
        Self::new(RunReader::sequential())
    }

    fn new(runs: RunReader) -> Self {
        Self { runs, leaf: Vec::new(), payloads: Vec::new(), time: (i64::MIN, String::new()) }
    }

    /// Reads a record's stored leaf and payload run into this reader.
    pub(crate) fn load(
        &mut self,
        segment: &Arc<Segment>,
        entry: &RecordEntry,
    ) -> Result<(), ReadError> {
        self.load_leaf(segment, entry)?;
        self.load_payloads(segment, entry)
    }

    /// Reads a record's stored leaf alone.
    pub(crate) fn load_leaf(
        &mut self,
        segment: &Arc<Segment>,
        entry: &RecordEntry,
    ) -> Result<(), ReadError> {
        self.runs.open(segment);
        self.leaf.clear();
        let bytes = usize::from(entry.leaf_bytes);
        self.runs.read(BlockKind::Leaves, entry.leaf, bytes, &mut self.leaf)
    }

    /// Reads a record's payload run alone.
    pub(crate) fn load_payloads(
        &mut self,
        segment: &Arc<Segment>,
        entry: &RecordEntry,
    ) -> Result<(), ReadError> {
        self.runs.open(segment);
        self.payloads.clear();
        let bytes = entry.payload_bytes as usize;
        self.runs.read(BlockKind::Payloads, entry.payloads, bytes, &mut self.payloads)
    }

    /// The error for bytes that hold their checksum but are not what the index says.
    pub(crate) fn damage(&self, entry: &RecordEntry, what: &'static str) -> ReadError {
        self.runs.damage(u64::from(entry.leaf.block), what)
    }

    /// The event at a committed position; `None` where the record is no event.
    pub(crate) fn event(
        &mut self,
        tenant: &TenantShared,
        position: u64,
    ) -> Result<Option<StoredEvent>, ReadError> {
        let view = tenant.view();
        let located = Locator::new(tenant, &view).one(position)?.ok_or(ReadError::NoRecord)?;
        self.located_event(&located)
    }

    pub(crate) fn located_event(
        &mut self,
        located: &Located,
    ) -> Result<Option<StoredEvent>, ReadError> {
        let Some((stream, event_type)) = &located.names else { return Ok(None) };
        self.load_payloads(&located.segment, &located.entry)?;
        let parts = self.parts(&located.entry)?;
        let time = |us| Timestamp::from_micros(us).expect("op times are valid");
        let tags: Vec<String> = match parts.tags {
            Some(json) => serde_json::from_slice(json)
                .map_err(|_| self.damage(&located.entry, "tags are not what they must be"))?,
            None => Vec::new(),
        };
        let occurred = located.entry.occurred;
        Ok(Some(StoredEvent {
            position: Position::new(located.position).expect("below 2^53"),
            stream: stream.clone(),
            version: Version::new(located.entry.version).expect("below positions"),
            id: Uuid::from_bytes(located.entry.id),
            event_type: event_type.clone(),
            time: time(located.entry.time),
            occurred_at: (occurred != i64::MIN).then(|| time(occurred)),
            data: parts.data.map(Bytes::copy_from_slice),
            metadata: parts.metadata.map(Bytes::copy_from_slice),
            tags: tags.iter().filter_map(|t| Tag::new(t).ok()).collect(),
            hash: located.entry.hash,
            stream_deleted: located.stream_deleted,
        }))
    }

    /// The loaded record taken apart.
    pub(crate) fn parts(&self, entry: &RecordEntry) -> Result<Parts<'_>, ReadError> {
        let wrong = |what| self.damage(entry, what);
        let mut parts = Parts::default();
        let mut run = &self.payloads[..];
        for kind in entry.kinds.iter() {
            let json = Entry::take(&mut run).and_then(Entry::json).map_err(wrong)?;
            match kind {
                PayloadKind::Data => parts.data = json,
                PayloadKind::Metadata => parts.metadata = json,
                PayloadKind::OccurredAt => parts.occurred_at = json,
                PayloadKind::Tags => parts.tags = json,
                PayloadKind::StreamName
                | PayloadKind::TypeName
                | PayloadKind::ActorName
                | PayloadKind::Idempotency
                | PayloadKind::Body
                | PayloadKind::Row => {}
            }
        }
        Ok(parts)
    }

    /// Appends an event's JSON object to `out`, nothing where the record is no event. Raw line breaks inside stored
    /// JSON become spaces with `one_line`.
    fn render(
        &mut self,
        located: &Located,
        one_line: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let Some((stream, event_type)) = &located.names else { return Ok(()) };
        #[cfg(test)]
        RENDERED.set(RENDERED.get() + 1);
        self.load_payloads(&located.segment, &located.entry)?;
        if self.time.0 != located.entry.time {
            let time = Timestamp::from_micros(located.entry.time).expect("op times are valid");
            self.time = (located.entry.time, time.to_string());
        }
        let parts = self.parts(&located.entry)?;
        let entry = &located.entry;
        out.extend_from_slice(b"{\"position\":");
        push_number(out, located.position);
        out.extend_from_slice(b",\"cursor\":\"");
        push_cursor(out, located);
        // Stream names need no escapes.
        out.extend_from_slice(b"\",\"stream\":\"");
        out.extend_from_slice(stream.as_str().as_bytes());
        out.extend_from_slice(b"\",\"version\":");
        push_number(out, entry.version);
        out.extend_from_slice(b",\"id\":\"");
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        out.extend_from_slice(
            Uuid::from_bytes(entry.id).hyphenated().encode_lower(&mut id).as_bytes(),
        );
        out.extend_from_slice(b"\",\"type\":");
        serde_json::to_writer(&mut *out, event_type.as_str()).expect("writing to memory");
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(self.time.1.as_bytes());
        out.extend_from_slice(b"\",\"occurred_at\":");
        out.extend_from_slice(parts.occurred_at.unwrap_or(b"null"));
        out.extend_from_slice(b",\"data\":");
        push_json(out, parts.data.unwrap_or(b"null"), one_line);
        out.extend_from_slice(b",\"metadata\":");
        push_json(out, parts.metadata.unwrap_or(b"null"), one_line);
        out.extend_from_slice(b",\"subjects\":[],\"tags\":");
        out.extend_from_slice(parts.tags.unwrap_or(b"[]"));
        out.extend_from_slice(b",\"hash\":\"");
        push_hex(out, &entry.hash.0);
        out.push(b'"');
        if located.stream_deleted {
            out.extend_from_slice(b",\"stream_deleted\":true");
        }
        out.push(b'}');
        Ok(())
    }

    /// Appends an event's text in `shape` with what separates it from the next.
    fn render_as(
        &mut self,
        located: &Located,
        shape: Shape,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        if located.names.is_none() {
            return Ok(());
        }
        match shape {
            Shape::Json => {
                self.render(located, false, out)?;
                out.push(b',');
            }
            Shape::Ndjson => {
                self.render(located, true, out)?;
                out.push(b'\n');
            }
            Shape::Sse => {
                out.extend_from_slice(b"event: event\nid: ");
                push_cursor(out, located);
                out.extend_from_slice(b"\ndata: ");
                self.render(located, true, out)?;
                out.extend_from_slice(b"\n\n");
            }
        }
        Ok(())
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_cursor(out: &mut Vec<u8>, located: &Located) {
    push_number(out, located.position);
    out.push(b'.');
    push_hex(out, &located.entry.hash.0[..4]);
}

/// Appends stored JSON.
fn push_json(out: &mut Vec<u8>, json: &[u8], one_line: bool) {
    let start = out.len();
    out.extend_from_slice(json);
    if one_line {
        let text = &mut out[start..];
        let mut from = 0;
        while let Some(at) = memchr::memchr2(b'\n', b'\r', &text[from..]) {
            text[from + at] = b' ';
            from += at + 1;
        }
    }
}

/// JSON of an event's payloads.
#[derive(Default)]
pub(crate) struct Parts<'a> {
    pub(crate) data: Option<&'a [u8]>,
    pub(crate) metadata: Option<&'a [u8]>,
    occurred_at: Option<&'a [u8]>,
    pub(crate) tags: Option<&'a [u8]>,
}

/// Text of neighbouring records in one shape, each event with what separates it from the next.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    text: Bytes,
    /// Where each record's text ends. Records that are no events have none.
    ends: Vec<u32>,
    generation: u64,
}

impl Piece {
    /// Renders records from `located` on, until the piece is full.
    pub(crate) fn render(
        located: &[Located],
        generation: u64,
        shape: Shape,
        reader: &mut RecordReader,
    ) -> Result<Self, ReadError> {
        let mut text = Vec::with_capacity(located.len() * 640);
        let mut ends = Vec::with_capacity(located.len());
        for record in located {
            reader.render_as(record, shape, &mut text)?;
            ends.push(text.len() as u32);
            if text.len() > PIECE_BYTES {
                break;
            }
        }
        // Kept for long, so not larger than its content.
        text.shrink_to_fit();
        Ok(Self { first: located[0].position, text: text.into(), ends, generation })
    }

    /// Of the whole text.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The position behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    fn start(&self, position: u64) -> usize {
        match (position - self.first) as usize {
            0 => 0,
            i => self.ends[i - 1] as usize,
        }
    }

    pub(crate) fn is_event(&self, position: u64) -> bool {
        self.start(position) != self.start(position + 1)
    }

    pub(crate) fn holds(&self, position: u64) -> bool {
        position >= self.first && position < self.end()
    }

    /// The text of the records from `from` up to `to` (exclusive), without copying.
    pub(crate) fn text(&self, from: u64, to: u64) -> Bytes {
        self.text.slice(self.start(from)..self.start(to))
    }
}

/// Tenant, shape and first position of a piece.
type PieceKey = ([u8; 16], Shape, u64);

/// Pieces; the oldest go first.
#[derive(Debug, Default)]
pub(crate) struct FragmentCache {
    pieces: BTreeMap<PieceKey, Arc<Piece>>,
    order: VecDeque<PieceKey>,
    pub(crate) bytes: usize,
}

impl FragmentCache {
    /// The piece that holds `position`, or where the next one begins.
    pub(crate) fn find(
        &self,
        tenant: [u8; 16],
        shape: Shape,
        position: u64,
        generation: u64,
    ) -> Result<Arc<Piece>, Option<u64>> {
        let lowest = (tenant, shape, 0);
        let before = self.pieces.range(lowest..=(tenant, shape, position)).next_back();
        if let Some((_, piece)) = before
            && piece.holds(position)
            && piece.generation == generation
        {
            return Ok(Arc::clone(piece));
        }
        let behind = (tenant, shape, position + 1)..=(tenant, shape, u64::MAX);
        let next = self.pieces.range(behind).next();
        Err(next.filter(|(_, p)| p.generation == generation).map(|((.., at), _)| *at))
    }

    pub(crate) fn insert(&mut self, tenant: [u8; 16], shape: Shape, piece: Arc<Piece>) {
        let key = (tenant, shape, piece.first);
        self.bytes += piece.text.len();
        match self.pieces.insert(key, piece) {
            Some(old) => self.bytes -= old.text.len(),
            None => self.order.push_back(key),
        }
        while self.bytes > FRAGMENT_CACHE_BYTES {
            let Some(key) = self.order.pop_front() else { break };
            if let Some(old) = self.pieces.remove(&key) {
                self.bytes -= old.text.len();
            }
        }
    }
}

/// What a tenant's damage means for who reads up to it.
pub(crate) fn refuse_damage(damage: Option<&Damage>) -> Result<(), ReadError> {
    damage.map_or(Ok(()), |d| Err(ReadError::Damaged(d.clone())))
}
