//! From records to the text that clients see, once for all of them.
//!
//! A [`Piece`] holds the SSE frames of neighbouring records; the JSON of an event is a part of its frame, so pages,
//! NDJSON and every follower are spliced from the same bytes. Pieces are kept in a bounded cache.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write,
    sync::Arc,
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    error::{Damage, ReadError},
    index::{RecordEntry, TenantIndex},
    limits::FRAGMENT_CACHE_BYTES,
    log::{Segment, frame::BlockKind, run::RunReader},
    read::{Shape, StoredEvent},
    record::{Entry, Leaf, PayloadKind, RecordKind},
    tenant::TenantShared,
    words::{EventType, Position, StreamName, Tag, Timestamp, Version, push_hex},
};

/// Records of one piece at most; pieces begin at multiples of it where nothing else decides.
pub(crate) const PIECE_RECORDS: u64 = 256;
/// Bytes after which a piece ends early.
const PIECE_BYTES: usize = 1 << 20;

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

impl Located {
    pub(crate) fn new(index: &TenantIndex, position: u64) -> Option<Self> {
        let (part, entry) = index.entry(position)?;
        let event = entry.kind == RecordKind::Event;
        let stream = event.then(|| index.names.stream_at(entry.stream));
        let names = stream.map(|s| (s.name.clone(), index.names.type_at(entry.event_type).clone()));
        Some(Self {
            position,
            segment: Arc::clone(&part.segment),
            entry: *entry,
            names,
            stream_deleted: stream.is_some_and(|s| entry.version < s.head.visible_from),
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
        self.runs.open(segment);
        self.leaf.clear();
        self.payloads.clear();
        let bytes = usize::from(entry.leaf_bytes);
        self.runs.read(BlockKind::Leaves, entry.leaf, bytes, &mut self.leaf)?;
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
        let located = Located::new(&tenant.index.read(), position).ok_or(ReadError::NoRecord)?;
        self.located_event(&located)
    }

    pub(crate) fn located_event(
        &mut self,
        located: &Located,
    ) -> Result<Option<StoredEvent>, ReadError> {
        let Some((stream, event_type)) = &located.names else { return Ok(None) };
        self.load(&located.segment, &located.entry)?;
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
            id: Uuid::from_bytes(parts.id),
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
    fn parts(&self, entry: &RecordEntry) -> Result<Parts<'_>, ReadError> {
        let wrong = |what| self.damage(entry, what);
        let leaf = Leaf::decode(&self.leaf).map_err(wrong)?;
        let mut parts = Parts { id: leaf.id, ..Parts::default() };
        let mut run = &self.payloads[..];
        for (kind, _) in leaf.payloads() {
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

    /// Appends an event's JSON object to `out`. Raw line breaks inside stored JSON become spaces with
    /// `one_line`; says whether there were any.
    pub(crate) fn render(
        &mut self,
        located: &Located,
        one_line: bool,
        out: &mut Vec<u8>,
    ) -> Result<bool, ReadError> {
        let Some((stream, event_type)) = &located.names else { return Ok(false) };
        self.load(&located.segment, &located.entry)?;
        if self.time.0 != located.entry.time {
            let time = Timestamp::from_micros(located.entry.time).expect("op times are valid");
            self.time = (located.entry.time, time.to_string());
        }
        let parts = self.parts(&located.entry)?;
        let entry = &located.entry;
        let infallible = "writing to memory";
        write!(out, "{{\"position\":{0},\"cursor\":\"{0}.", located.position).expect(infallible);
        push_hex(out, &entry.hash.0[..4]);
        // Stream names need no escapes.
        write!(out, "\",\"stream\":\"{stream}\",\"version\":{},\"id\":\"", entry.version)
            .expect(infallible);
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        out.extend_from_slice(
            Uuid::from_bytes(parts.id).hyphenated().encode_lower(&mut id).as_bytes(),
        );
        out.extend_from_slice(b"\",\"type\":");
        serde_json::to_writer(&mut *out, event_type.as_str()).expect(infallible);
        write!(out, ",\"time\":\"{}\",\"occurred_at\":", self.time.1).expect(infallible);
        out.extend_from_slice(parts.occurred_at.unwrap_or(b"null"));
        out.extend_from_slice(b",\"data\":");
        let mut breaks = push_json(out, parts.data.unwrap_or(b"null"), one_line);
        out.extend_from_slice(b",\"metadata\":");
        breaks |= push_json(out, parts.metadata.unwrap_or(b"null"), one_line);
        out.extend_from_slice(b",\"subjects\":[],\"tags\":");
        out.extend_from_slice(parts.tags.unwrap_or(b"[]"));
        out.extend_from_slice(b",\"hash\":\"");
        push_hex(out, &entry.hash.0);
        out.push(b'"');
        if located.stream_deleted {
            out.extend_from_slice(b",\"stream_deleted\":true");
        }
        out.push(b'}');
        Ok(breaks)
    }
}

/// Appends stored JSON; says whether it held raw line breaks.
fn push_json(out: &mut Vec<u8>, json: &[u8], one_line: bool) -> bool {
    let start = out.len();
    out.extend_from_slice(json);
    let is_break = |b: &u8| *b == b'\n' || *b == b'\r';
    let breaks = json.iter().any(is_break);
    if breaks && one_line {
        out[start..].iter_mut().filter(|b| is_break(b)).for_each(|b| *b = b' ');
    }
    breaks
}

#[derive(Default)]
struct Parts<'a> {
    id: [u8; 16],
    data: Option<&'a [u8]>,
    metadata: Option<&'a [u8]>,
    occurred_at: Option<&'a [u8]>,
    tags: Option<&'a [u8]>,
}

/// Where one record's text is in a piece. Records that are no events have none.
#[derive(Clone, Copy, Debug)]
struct Span {
    frame: u32,
    json: u32,
    json_end: u32,
    /// The stored JSON holds raw line breaks, so this text is not it byte for byte.
    breaks: bool,
}

/// SSE frames of neighbouring records.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    text: Bytes,
    spans: Vec<Span>,
    generation: u64,
}

impl Piece {
    /// Renders records from `located` on, until the piece is full.
    pub(crate) fn render(
        located: &[Located],
        generation: u64,
        reader: &mut RecordReader,
    ) -> Result<Self, ReadError> {
        let mut text = Vec::with_capacity(located.len() * 512);
        let mut spans = Vec::with_capacity(located.len());
        for record in located {
            let frame = text.len() as u32;
            let (mut json, mut json_end, mut breaks) = (frame, frame, false);
            if record.names.is_some() {
                write!(text, "event: event\nid: {}.", record.position).expect("to memory");
                push_hex(&mut text, &record.entry.hash.0[..4]);
                text.extend_from_slice(b"\ndata: ");
                json = text.len() as u32;
                breaks = reader.render(record, true, &mut text)?;
                json_end = text.len() as u32;
                text.extend_from_slice(b"\n\n");
            }
            spans.push(Span { frame, json, json_end, breaks });
            if text.len() > PIECE_BYTES {
                break;
            }
        }
        Ok(Self { first: located[0].position, text: text.into(), spans, generation })
    }

    /// Bytes of its text: more than its JSON alone has.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The position behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.spans.len() as u64
    }

    fn span(&self, position: u64) -> Span {
        self.spans[(position - self.first) as usize]
    }

    pub(crate) fn is_event(&self, position: u64) -> bool {
        let span = self.span(position);
        span.json != span.json_end
    }

    /// The frames of the records from `from` up to `to` (exclusive), without copying.
    pub(crate) fn frames(&self, from: u64, to: u64) -> Bytes {
        let start = self.span(from).frame as usize;
        let end = if to == self.end() { self.text.len() } else { self.span(to).frame as usize };
        self.text.slice(start..end)
    }

    /// An event's text in `shape`; `None` where only the log has it byte for byte.
    pub(crate) fn text(&self, position: u64, shape: Shape) -> Option<&[u8]> {
        let span = self.span(position);
        match shape {
            Shape::Json if span.breaks => None,
            Shape::Json | Shape::Ndjson => {
                Some(&self.text[span.json as usize..span.json_end as usize])
            }
            Shape::Sse => Some(&self.text[span.frame as usize..span.json_end as usize + 2]),
        }
    }
}

/// Pieces by tenant and first position, the oldest go first.
#[derive(Debug, Default)]
pub(crate) struct FragmentCache {
    pieces: BTreeMap<([u8; 16], u64), Arc<Piece>>,
    order: VecDeque<([u8; 16], u64)>,
    pub(crate) bytes: usize,
}

impl FragmentCache {
    /// The piece that holds `position`, or where the next one begins.
    pub(crate) fn find(
        &self,
        tenant: [u8; 16],
        position: u64,
        generation: u64,
    ) -> Result<Arc<Piece>, Option<u64>> {
        let before = self.pieces.range(..=(tenant, position)).next_back();
        if let Some(((t, _), piece)) = before
            && *t == tenant
            && piece.end() > position
            && piece.generation == generation
        {
            return Ok(Arc::clone(piece));
        }
        let next = self.pieces.range((tenant, position + 1)..).next();
        Err(next.filter(|((t, _), p)| *t == tenant && p.generation == generation).map(|(k, _)| k.1))
    }

    pub(crate) fn insert(&mut self, tenant: [u8; 16], piece: Arc<Piece>) {
        let key = (tenant, piece.first);
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
