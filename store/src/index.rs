//! What is derived from a tenant's log to find records again: streams, types, tags, ids, keys.
//!
//! Built by [`TenantIndex::apply`] alone, from committed ops alone, live and at recovery alike. Records since the last
//! checkpoint are indexed in memory, a part for each segment; a checkpoint turns parts into runs on disk.

pub(crate) mod derived;
mod names;
mod pages;
mod part;
pub(crate) mod rows;
mod run;
mod section;
mod select;
mod slice;

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLockReadGuard;
use serde::{Deserialize, Serialize};

pub(crate) use names::{Changed, KnownActor, Names, StreamHead, StreamState, TenantDerived};
pub(crate) use pages::{Pages, write_pages};
pub(crate) use part::{MemoryPart, RecordEntry, Rows, idempotency_digest};
pub(crate) use run::{Layout, NO_RUN, Run, RunCheck, write_part};
pub(crate) use section::{
    Details, Numbers, Wrong, check_section, entries_of, holds, makes, of_another,
};
pub(crate) use select::{Search, StreamRange};
pub(crate) use slice::{About, Slice, View};

use derived::TenantRow;
use section::{Checked, Records, parse};

use crate::{
    error::{Damage, ReadError},
    log::{
        Segment,
        frame::{Section, SectionRuns},
    },
    node::sixteen,
    record::{Entry, Leaf, PayloadKind, RecordKind, Role},
    words::{Actor, EventType, Hash, StreamName, Tag, TenantName},
};

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

impl TenantBody {
    /// Name, reference and log id; `None` where they cannot be.
    pub(crate) fn read(&self) -> Option<(TenantName, [u8; 16], [u8; 16])> {
        let name = TenantName::new(&self.tenant).ok()?;
        Some((name, sixteen(&self.reference)?, sixteen(&self.log_id)?))
    }
}

/// The JSON of a fork: from its record on, the log is another one than that whose records it goes on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ForkBody {
    /// In hex.
    pub(crate) new_log_id: String,
    /// Of the log before; empty where it had none.
    pub(crate) origin: String,
    /// How many records lie before it.
    pub(crate) size: u64,
    /// The root (RFC 6962) over them, in hex.
    pub(crate) root: String,
}

/// The JSON of a time stamp: what a time authority says of a checkpoint (RFC 3161).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StampBody {
    /// The signed note that was stamped: the token is of its SHA-256.
    pub(crate) checkpoint: String,
    /// The authority's URL.
    pub(crate) authority: String,
    /// When that was, as the token says.
    pub(crate) time: String,
    /// The token in base64, a CMS `ContentInfo` in DER.
    pub(crate) token: String,
    /// Position of the record of the stamp before.
    pub(crate) previous: Option<u64>,
}

/// A tenant's log as far as it is committed.
#[derive(Debug)]
pub(crate) struct TenantIndex {
    pub(crate) names: Names,
    /// Tables that users made, with their rows.
    pub(crate) rows: rows::Rows,
    /// In the order of their positions, without gaps.
    slices: Arc<Vec<Slice>>,
    /// The part that takes further records; the last of `slices`.
    open: Option<Arc<MemoryPart>>,
    /// What lies on disk of this index.
    pub(crate) derived: Option<TenantDerived>,
    /// Records committed.
    pub(crate) count: u64,
    /// Hash of the last record, or what stands before position 0.
    pub(crate) chain_head: Hash,
    /// Grows with each deletion or recreation: rendered events before it may be out of date.
    pub(crate) generation: u64,
    /// Position of the last time stamp.
    pub(crate) last_stamp: Option<u64>,
    /// The log ends here though it should not.
    pub(crate) damage: Option<Damage>,
    /// Tenants created by this log (the system tenant's) since it was opened.
    pub(crate) tenants: Vec<TenantBody>,
    /// Records of which the database knows, or will by the checkpoint that is being written.
    pub(crate) saved_count: Option<u64>,
    /// Likewise types.
    pub(crate) saved_types: usize,
    /// Actors that the database does not know.
    pub(crate) new_actors: Vec<Actor>,
    /// Whether records are looked for by their ids.
    searched: bool,
    /// Room for the rows of the next part.
    spare: Option<Rows>,
}

impl TenantIndex {
    pub(crate) fn new(genesis: Hash) -> Self {
        Self {
            names: Names::default(),
            rows: rows::Rows::default(),
            slices: Arc::default(),
            open: None,
            derived: None,
            count: 0,
            chain_head: genesis,
            generation: 0,
            last_stamp: None,
            damage: None,
            tenants: Vec::new(),
            saved_count: None,
            saved_types: 0,
            new_actors: Vec::new(),
            searched: true,
            spare: None,
        }
    }

    /// One that no record is looked for in by its id, and no row at all.
    pub(crate) fn unsearched(genesis: Hash) -> Self {
        Self { searched: false, rows: rows::Rows::tallied(), ..Self::new(genesis) }
    }

    /// Goes on from what a checkpoint says.
    pub(crate) fn restore(
        &mut self,
        names: Names,
        rows: rows::Rows,
        runs: Vec<Slice>,
        row: &TenantRow,
    ) {
        self.saved_count = Some(row.count);
        self.saved_types = names.types.list.len();
        (self.names, self.rows) = (names, rows);
        self.slices = Arc::new(runs);
        (self.count, self.chain_head) = (row.count, Hash(row.chain_head));
        self.generation = row.generation;
        self.last_stamp = row.last_stamp;
    }

    /// What is committed now, to be searched without holding anybody up.
    pub(crate) fn view(&self) -> View {
        View { slices: Arc::clone(&self.slices), count: self.count }
    }

    /// Takes in one op's section. Leaves, chain, names and payloads are checked, but where the records' `hashes` are
    /// given: then the section was made from them just now.
    ///
    /// # Errors
    /// Where in the frame, and what does not hold: nothing of the section is taken then. Or the database failed.
    pub(crate) fn apply(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        section: Section,
        runs: &SectionRuns,
        hashes: Option<&[Hash]>,
    ) -> Result<(), ReadError> {
        let damage = |what| Damage { file: segment.name.clone(), offset, what };
        if section.first_position != self.count {
            let what = "a section does not begin where the tenant's log ends";
            return Err(damage(what).into());
        }
        let made;
        let hashes = if let Some(hashes) = hashes {
            hashes
        } else {
            made = check_section(&section, runs, self.chain_head).map_err(damage)?;
            &made
        };
        let part = self.part_for(segment);
        let mut rows = part.rows.write();
        let mut records = Records::known(runs, hashes);
        while let Some(record) = records.next().map_err(damage)? {
            self.record(offset, runs, &record, &mut rows).map_err(|wrong| match wrong {
                Wrong::Record(what) => damage(what).into(),
                Wrong::Read(error) => error,
            })?;
        }
        drop(rows);
        self.count += u64::from(section.records);
        self.chain_head = section.chain_head;
        Ok(())
    }

    /// The part that records of this segment go to.
    fn part_for(&mut self, segment: &Arc<Segment>) -> Arc<MemoryPart> {
        if let Some(open) = &self.open
            && open.segment.first_op == segment.first_op
        {
            return Arc::clone(open);
        }
        let rows = self.spare.take().unwrap_or_else(|| Rows::new(self.searched));
        let part = Arc::new(MemoryPart::new(Arc::clone(segment), self.count, rows));
        Arc::make_mut(&mut self.slices).push(Slice::Memory(Arc::clone(&part)));
        self.open = Some(Arc::clone(&part));
        part
    }

    fn record(
        &mut self,
        offset: u64,
        runs: &SectionRuns,
        record: &Checked<'_>,
        rows: &mut Rows,
    ) -> Result<(), Wrong> {
        let leaf = &record.leaf;
        let mut details = Details::default();
        let (mut body_json, mut row_json) = (None, None);
        let mut run = record.payloads;
        for (kind, _) in leaf.payloads() {
            let Some(json) = Entry::take(&mut run)?.json()? else { continue };
            details.take(kind, json)?;
            match kind {
                PayloadKind::StreamName => self.introduce_stream(leaf, json)?,
                PayloadKind::TypeName => self.introduce_type(leaf, json)?,
                PayloadKind::ActorName => {
                    self.introduce_actor(leaf, json, self.position(rows))?;
                }
                PayloadKind::Body if leaf.kind == RecordKind::TenantCreated => {
                    self.tenants.push(parse(json)?);
                }
                PayloadKind::Body if leaf.kind == RecordKind::LogForked => {
                    if parse::<ForkBody>(json)?.size != self.position(rows) {
                        return Err("a fork of another size than the log".into());
                    }
                }
                PayloadKind::Body if leaf.kind == RecordKind::CheckpointStamped => {
                    parse::<StampBody>(json)?;
                    self.last_stamp = Some(self.position(rows));
                }
                PayloadKind::Body if leaf.kind == RecordKind::SchemaChanged => {
                    self.rows.change_schema(json, self.position(rows))?;
                }
                PayloadKind::Body => body_json = Some(json),
                PayloadKind::Row => row_json = Some(json),
                PayloadKind::OccurredAt
                | PayloadKind::Tags
                | PayloadKind::Idempotency
                | PayloadKind::Data
                | PayloadKind::Metadata => {}
            }
        }
        if leaf.kind == RecordKind::RowChanged {
            let body = body_json.ok_or("a row without a key")?;
            self.rows.change_row(leaf, body, row_json, self.position(rows))?;
        }
        let event_type = leaf
            .reference(Role::Type)
            .map(|r| self.names.types.by_reference(r).ok_or("an unknown type"))
            .transpose()?;
        let stream = self.follow_stream(leaf)?;
        rows.push(record.entry(offset, runs, (stream, event_type), &details), &details.tags);
        if let Some(body) = details.idempotency {
            let actor = leaf.reference(Role::Actor).ok_or("a key without an actor")?;
            rows.push_idempotency(actor, &body, leaf.time_us);
        }
        Ok(())
    }

    /// Of the record that comes behind these rows of the open part.
    fn position(&self, rows: &Rows) -> u64 {
        self.open.as_ref().map_or(0, |part| part.first) + rows.entries.len() as u64
    }

    /// Brings the state of the leaf's stream forward; its number, where the leaf has one.
    fn follow_stream(&mut self, leaf: &Leaf<'_>) -> Result<Option<u32>, Wrong> {
        let Some(reference) = leaf.reference(Role::Stream) else { return Ok(None) };
        let touched = self.names.touch(reference, self.derived.as_ref()).map_err(Wrong::Read)?;
        let Some((id, state)) = touched else { return Err("an unknown stream".into()) };
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
                if state.head.version == u64::MAX {
                    return Err("a stream without events is deleted".into());
                }
                state.head.deleted = true;
                state.head.visible_from = state.head.version + 1;
                self.generation += 1;
            }
            RecordKind::LogForked
            | RecordKind::TenantCreated
            | RecordKind::SchemaChanged
            | RecordKind::RowChanged
            | RecordKind::CheckpointStamped => {}
        }
        Ok(Some(id))
    }

    fn introduce_stream(&mut self, leaf: &Leaf<'_>, json: &[u8]) -> Result<(), &'static str> {
        let reference = leaf.reference(Role::Stream).ok_or("a stream name without a stream")?;
        let name = StreamName::stored(&parse::<String>(json)?).map_err(|_| "a stream name")?;
        // That older streams have another name is what the kernel decides by; looking here again would cost reads.
        if self.names.recent_stream(name.as_str()).is_some() {
            return Err("a stream is named twice");
        }
        self.names.add_stream(name, reference);
        Ok(())
    }

    fn introduce_type(&mut self, leaf: &Leaf<'_>, json: &[u8]) -> Result<(), &'static str> {
        let reference = leaf.reference(Role::Type).ok_or("a type name without a type")?;
        let name = EventType::new(&parse::<String>(json)?).map_err(|_| "a type name")?;
        if self.names.types.push(name, reference) { Ok(()) } else { Err("a type is named twice") }
    }

    fn introduce_actor(
        &mut self,
        leaf: &Leaf<'_>,
        json: &[u8],
        first: u64,
    ) -> Result<(), &'static str> {
        let reference = leaf.reference(Role::Actor).ok_or("an actor's name without an actor")?;
        let name = Actor::new(&parse::<String>(json)?).map_err(|_| "an actor's name")?;
        self.new_actors.push(name.clone());
        if self.names.actors.insert(name, KnownActor { reference, first }).is_some() {
            return Err("an actor is named twice");
        }
        Ok(())
    }

    /// What the records from position `from` on are about, as far as they were taken in by the same op as the last.
    pub(crate) fn touched(&self, from: u64) -> Option<Touched<'_>> {
        let part = self.open.as_ref()?;
        let from = from.max(part.first) - part.first;
        Some(Touched { names: &self.names, rows: part.rows.read(), from: from as u32 })
    }

    /// Takes no more records into the parts in memory, and hands them out to be written.
    pub(crate) fn freeze(&mut self) -> Vec<Arc<MemoryPart>> {
        self.open = None;
        let memory = self.slices.iter().filter_map(|slice| match slice {
            Slice::Memory(part) => Some(Arc::clone(part)),
            Slice::Disk(_) => None,
        });
        memory.collect()
    }

    /// Whether a part would begin with the next record, which could use somebody else's room then.
    pub(crate) fn begins_part(&self) -> bool {
        self.open.is_none() && self.spare.is_none()
    }

    /// Has the next part use this room.
    pub(crate) fn give(&mut self, emptied: Rows) {
        self.spare = Some(emptied);
    }

    /// Lets go of the parts in memory, for who needs them only once.
    pub(crate) fn take_parts(&mut self) -> Vec<Arc<MemoryPart>> {
        let parts = self.freeze();
        self.slices = Arc::default();
        self.new_actors.clear();
        parts
    }

    /// What was frozen is on disk now, as `runs`.
    pub(crate) fn thaw(&mut self, runs: &HashMap<u64, Arc<Run>>) {
        self.names.thaw();
        self.rows.thaw();
        if let Some(derived) = &self.derived {
            derived.checkpointed();
        }
        for slice in Arc::make_mut(&mut self.slices) {
            if let Slice::Memory(part) = slice
                && let Some(run) = runs.get(&part.first)
            {
                *slice = Slice::Disk(Arc::clone(run));
            }
        }
    }
}

/// The last records of a log, and what they are about.
pub(crate) struct Touched<'a> {
    names: &'a Names,
    rows: RwLockReadGuard<'a, Rows>,
    from: u32,
}

impl Touched<'_> {
    fn entries(&self) -> &[RecordEntry] {
        self.rows.entries.get(self.from as usize..).unwrap_or_default()
    }

    /// Tells the stream of each, but not the same twice in a row.
    pub(crate) fn streams(&self, mut tell: impl FnMut(&StreamName)) {
        let mut last = u32::MAX;
        for stream in self.entries().iter().map(|entry| entry.stream) {
            if stream != last
                && let Some(state) = self.names.recent_state(stream)
            {
                tell(&state.name);
            }
            last = stream;
        }
    }

    /// Likewise its type.
    pub(crate) fn types(&self, mut tell: impl FnMut(&EventType)) {
        let mut last = u32::MAX;
        for event_type in self.entries().iter().map(|entry| entry.event_type) {
            if event_type != last && event_type != u32::MAX {
                tell(self.names.types.at(event_type));
            }
            last = event_type;
        }
    }

    /// Whether any of them has the tag.
    pub(crate) fn has_tag(&self, tag: &Tag) -> bool {
        self.rows.tags.get(tag).and_then(|numbers| numbers.last()).is_some_and(|n| *n >= self.from)
    }
}
