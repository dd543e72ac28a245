//! What is derived from a tenant's log to find records again: streams, types, tags, ids, keys.
//!
//! Built by [`TenantIndex::apply`] alone, from committed ops alone, live and at recovery alike. A part covers one
//! segment; streams and types are held once a tenant.

mod part;
mod select;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub(crate) use part::{IdempotencyEntry, Part, RecordEntry, idempotency_digest};

use crate::{
    error::Damage,
    log::{
        Segment,
        frame::{Section, SectionRuns},
        run::Place,
    },
    read::StreamInfo,
    record::{Entry, Leaf, PayloadKind, RecordKind, Role, leaf_hash},
    words::{Actor, EventType, Hash, Reference, StreamName, Tag, Timestamp, Version},
};

/// What is known of a stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamState {
    pub(crate) name: StreamName,
    pub(crate) head: StreamHead,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
}

/// What decisions about a stream rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamHead {
    pub(crate) reference: Reference,
    /// Version of the last event.
    pub(crate) version: u64,
    /// Versions below this one are behind a deletion.
    pub(crate) visible_from: u64,
    pub(crate) deleted: bool,
}

/// The JSON of an idempotency payload.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IdempotencyBody {
    pub(crate) route: String,
    pub(crate) key: String,
    /// SHA-256 in hex.
    pub(crate) request: String,
    pub(crate) records: u32,
}

/// The JSON of a tenant's creation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TenantBody {
    pub(crate) tenant: String,
    /// In hex.
    pub(crate) reference: String,
    /// In hex.
    pub(crate) log_id: String,
}

/// Names that one tenant's log has introduced, in both directions.
#[derive(Debug, Default)]
pub(crate) struct Names {
    streams: BTreeMap<StreamName, u32>,
    stream_list: Vec<StreamState>,
    stream_by_reference: HashMap<Reference, u32>,
    types: HashMap<EventType, u32>,
    type_list: Vec<(EventType, Reference)>,
    type_by_reference: HashMap<Reference, u32>,
    actors: HashMap<Actor, Reference>,
}

/// A tenant's log as far as it is committed.
#[derive(Debug)]
pub(crate) struct TenantIndex {
    pub(crate) names: Names,
    pub(crate) parts: Vec<Part>,
    /// Records committed.
    pub(crate) count: u64,
    /// Hash of the last record, or what stands before position 0.
    pub(crate) chain_head: Hash,
    /// Grows with each deletion or recreation: rendered events before it may be out of date.
    pub(crate) generation: u64,
    /// The log ends here though it should not.
    pub(crate) damage: Option<Damage>,
    /// Tenants created by this log (the system tenant's).
    pub(crate) tenants: Vec<TenantBody>,
}

impl TenantIndex {
    pub(crate) fn new(genesis: Hash) -> Self {
        Self {
            names: Names::default(),
            parts: Vec::new(),
            count: 0,
            chain_head: genesis,
            generation: 0,
            damage: None,
            tenants: Vec::new(),
        }
    }

    /// Takes in one op's section. Leaves, chain and names are checked; with `commitments`, payloads too.
    ///
    /// # Errors
    /// Where in the frame, and what does not hold: nothing of the section is taken then.
    pub(crate) fn apply(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        section: Section,
        runs: &SectionRuns,
        commitments: bool,
    ) -> Result<(), Damage> {
        let damage = |what| Damage { file: segment.name.clone(), offset, what };
        if section.first_position != self.count {
            return Err(damage("a section does not begin where the tenant's log ends"));
        }
        let checked =
            check_section(&section, runs, self.chain_head, commitments).map_err(damage)?;
        if self.parts.last().is_none_or(|p| p.segment.first_op != segment.first_op) {
            self.parts.push(Part::new(Arc::clone(segment), self.count));
        }
        for record in checked {
            self.record(offset, runs, &record).map_err(damage)?;
        }
        self.count += u64::from(section.records);
        self.chain_head = section.chain_head;
        Ok(())
    }

    fn record(
        &mut self,
        offset: u64,
        runs: &SectionRuns,
        record: &Checked<'_>,
    ) -> Result<(), &'static str> {
        let leaf = &record.leaf;
        let mut tags: Vec<Tag> = Vec::new();
        let mut occurred = None;
        let mut idempotency = None;
        let mut run = record.payloads;
        for (kind, _) in leaf.payloads() {
            let Some(json) = Entry::take(&mut run)?.json()? else { continue };
            match kind {
                PayloadKind::StreamName => self.names.introduce_stream(leaf, json)?,
                PayloadKind::TypeName => self.names.introduce_type(leaf, json)?,
                PayloadKind::ActorName => self.names.introduce_actor(leaf, json)?,
                PayloadKind::OccurredAt => {
                    let text: String = parse(json)?;
                    occurred = Timestamp::parse(&text).map(Timestamp::micros);
                }
                PayloadKind::Tags => {
                    let texts: Vec<String> = parse(json)?;
                    let made: Result<_, _> = texts.iter().map(|t| Tag::new(t)).collect();
                    tags = made.map_err(|_| "a tag cannot be")?;
                }
                PayloadKind::Idempotency => {
                    idempotency = Some(parse::<IdempotencyBody>(json)?);
                }
                PayloadKind::Body if leaf.kind == RecordKind::TenantCreated => {
                    self.tenants.push(parse(json)?);
                }
                PayloadKind::Data
                | PayloadKind::Metadata
                | PayloadKind::Body
                | PayloadKind::Row => {}
            }
        }
        let stream = leaf
            .reference(Role::Stream)
            .map(|r| self.names.stream_by_reference.get(&r).copied().ok_or("an unknown stream"))
            .transpose()?;
        let event_type = leaf
            .reference(Role::Type)
            .map(|r| self.names.type_by_reference.get(&r).copied().ok_or("an unknown type"))
            .transpose()?;
        if let Some(stream) = stream {
            self.follow_stream(leaf, stream);
        }
        let place = |p: crate::log::frame::RunPlace| Place {
            block: offset as u32 + p.block,
            inside: p.inside,
        };
        let entry = RecordEntry {
            leaf: place(runs.leaf_place(record.leaf_at)),
            payloads: place(runs.payload_place(record.payloads_at)),
            leaf_bytes: record.leaf_bytes,
            payload_bytes: record.payloads.len() as u32,
            kind: leaf.kind,
            stream: stream.unwrap_or(u32::MAX),
            event_type: event_type.unwrap_or(u32::MAX),
            version: leaf.version,
            time: leaf.time_us,
            occurred: occurred.unwrap_or(i64::MIN),
            hash: record.hash,
        };
        let part = self.parts.last_mut().expect("pushed by apply");
        part.push(entry, leaf.id, &tags);
        if let Some(body) = idempotency {
            let actor = leaf.reference(Role::Actor).ok_or("a key without an actor")?;
            part.push_idempotency(actor, &body, leaf.time_us);
        }
        Ok(())
    }

    fn follow_stream(&mut self, leaf: &Leaf<'_>, stream: u32) {
        let state = &mut self.names.stream_list[stream as usize];
        match leaf.kind {
            RecordKind::Event => {
                if state.head.deleted {
                    state.head.deleted = false;
                    state.head.visible_from = leaf.version;
                    self.generation += 1;
                }
                if state.head.version == u64::MAX || leaf.version == state.head.visible_from {
                    state.first_time = leaf.time_us;
                }
                state.head.version = leaf.version;
                state.last_time = leaf.time_us;
            }
            RecordKind::StreamDeleted => {
                state.head.deleted = true;
                state.head.visible_from = state.head.version + 1;
                self.generation += 1;
            }
            RecordKind::TenantCreated => {}
        }
    }

    /// The part and the entry of a committed record.
    pub(crate) fn entry(&self, position: u64) -> Option<(&Part, &RecordEntry)> {
        let part = &self.parts[self.part_of(position)?];
        Some((part, part.entry(position)))
    }

    /// Index of the part that holds `position`.
    pub(crate) fn part_of(&self, position: u64) -> Option<usize> {
        if position >= self.count {
            return None;
        }
        Some(self.parts.partition_point(|p| p.first <= position) - 1)
    }

    /// Where an event or record with this id is.
    pub(crate) fn find_id(&self, id: &[u8; 16]) -> Option<u64> {
        self.parts.iter().rev().find_map(|p| p.find_id(id))
    }

    /// The newest use of an idempotency key.
    pub(crate) fn find_idempotency(&self, digest: &[u8; 16]) -> Option<(u64, IdempotencyEntry)> {
        self.parts.iter().rev().find_map(|p| p.find_idempotency(digest))
    }
}

impl Names {
    pub(crate) fn stream(&self, name: &str) -> Option<&StreamState> {
        self.stream_id(name).map(|id| &self.stream_list[id as usize])
    }

    pub(crate) fn stream_id(&self, name: &str) -> Option<u32> {
        self.streams.get(name).copied()
    }

    pub(crate) fn stream_at(&self, id: u32) -> &StreamState {
        &self.stream_list[id as usize]
    }

    pub(crate) fn type_id(&self, name: &EventType) -> Option<u32> {
        self.types.get(name).copied()
    }

    pub(crate) fn type_at(&self, id: u32) -> &EventType {
        &self.type_list[id as usize].0
    }

    pub(crate) fn type_reference(&self, name: &EventType) -> Option<Reference> {
        self.types.get(name).map(|id| self.type_list[*id as usize].1)
    }

    pub(crate) fn actor(&self, actor: &Actor) -> Option<Reference> {
        self.actors.get(actor).copied()
    }

    /// Streams whose names start with `prefix`, in byte order.
    pub(crate) fn streams_from<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a StreamState> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.streams
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
            .map(|(_, id)| &self.stream_list[*id as usize])
    }

    fn introduce_stream(&mut self, leaf: &Leaf<'_>, json: &[u8]) -> Result<(), &'static str> {
        let reference = leaf.reference(Role::Stream).ok_or("a stream name without a stream")?;
        let name = StreamName::new(&parse::<String>(json)?).map_err(|_| "a stream name")?;
        let id = self.stream_list.len() as u32;
        if self.streams.insert(name.clone(), id).is_some()
            || self.stream_by_reference.insert(reference, id).is_some()
        {
            return Err("a stream is named twice");
        }
        let head = StreamHead { reference, version: u64::MAX, visible_from: 0, deleted: false };
        self.stream_list.push(StreamState { name, head, first_time: 0, last_time: 0 });
        Ok(())
    }

    fn introduce_type(&mut self, leaf: &Leaf<'_>, json: &[u8]) -> Result<(), &'static str> {
        let reference = leaf.reference(Role::Type).ok_or("a type name without a type")?;
        let name = EventType::new(&parse::<String>(json)?).map_err(|_| "a type name")?;
        let id = self.type_list.len() as u32;
        if self.types.insert(name.clone(), id).is_some()
            || self.type_by_reference.insert(reference, id).is_some()
        {
            return Err("a type is named twice");
        }
        self.type_list.push((name, reference));
        Ok(())
    }

    fn introduce_actor(&mut self, leaf: &Leaf<'_>, json: &[u8]) -> Result<(), &'static str> {
        let reference = leaf.reference(Role::Actor).ok_or("an actor's name without an actor")?;
        let name = Actor::new(&parse::<String>(json)?).map_err(|_| "an actor's name")?;
        if self.actors.insert(name, reference).is_some() {
            return Err("an actor is named twice");
        }
        Ok(())
    }
}

impl StreamState {
    pub(crate) fn info(&self) -> StreamInfo {
        let version = |n| Version::new(n).expect("versions are below positions");
        let time = |us| Timestamp::from_micros(us).expect("op times are valid");
        StreamInfo {
            stream: self.name.clone(),
            version: version(self.head.version),
            first_version: version(self.head.visible_from),
            first_time: time(self.first_time),
            last_time: time(self.last_time),
            deleted: self.head.deleted,
        }
    }
}

/// A record whose bytes hold.
struct Checked<'a> {
    leaf: Leaf<'a>,
    leaf_at: usize,
    leaf_bytes: u16,
    payloads: &'a [u8],
    payloads_at: usize,
    hash: Hash,
}

/// Checks every leaf, the chain, and the payloads' form.
fn check_section<'a>(
    section: &Section,
    runs: &'a SectionRuns,
    mut previous: Hash,
    commitments: bool,
) -> Result<Vec<Checked<'a>>, &'static str> {
    let mut records = Vec::with_capacity((section.records as usize).min(runs.leaves.len() / 36));
    let mut at = 0;
    let mut run = &runs.payloads[..];
    while at < runs.leaves.len() {
        let length = runs.leaves.get(at..at + 2).ok_or("a leaf's length is cut off")?;
        let length = u16::from_le_bytes(length.try_into().expect("2"));
        let leaf_at = at + 2;
        at = leaf_at + usize::from(length);
        let bytes = runs.leaves.get(leaf_at..at).ok_or("a leaf is cut off")?;
        let leaf = Leaf::decode(bytes)?;
        let before = run;
        let payloads_at = runs.payloads.len() - run.len();
        for (_, commitment) in leaf.payloads() {
            let entry = Entry::take(&mut run)?;
            if commitments && !entry.matches(commitment) {
                return Err("a payload does not match its commitment");
            }
        }
        let payloads = &before[..before.len() - run.len()];
        previous = leaf_hash(bytes, previous);
        records.push(Checked {
            leaf,
            leaf_at,
            leaf_bytes: length,
            payloads,
            payloads_at,
            hash: previous,
        });
    }
    if records.len() != section.records as usize || !run.is_empty() {
        return Err("a section does not hold what its header says");
    }
    if previous != section.chain_head {
        return Err("the chain of leaves does not lead to its head");
    }
    Ok(records)
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, &'static str> {
    serde_json::from_slice(json).map_err(|_| "a payload is not the JSON that it must be")
}
