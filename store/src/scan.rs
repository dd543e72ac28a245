//! A tenant's log as it stood behind one of its records: its events in columns, and its streams.
//!
//! Who asks gets rows without text made of them, and only the columns that were asked for: where none of them lies in a
//! payload, no payload is read. Filters go through the index; what a filter does not say is left to the caller.

mod rows;
mod times;

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    error::ReadError,
    fragment::{RecordReader, refuse_damage},
    index::{Search, StreamRange, StreamState, View},
    read::{Direction, Filter, StreamInfo},
    record::{Leaf, RecordKind, Role},
    tenant::TenantShared,
    words::{Actor, EventType, Position, Reference, StreamName, Timestamp},
};
pub use rows::RowScan;
use times::{first_after, first_at};

/// As of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// With all that is committed.
    Now,
    /// Behind the record at this position.
    Position(Position),
    /// With so many records from the first one on.
    Records(u64),
    /// With all records up to this time.
    Time(Timestamp),
}

/// Why there is no state as of a moment.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Nothing is committed there yet.
    #[error("the log has {records} records")]
    NoRecord {
        /// How many it has.
        records: u64,
    },
    /// Records up to this time may still come.
    #[error("only times up to {closed} are closed")]
    NotClosed {
        /// Up to here nothing more comes.
        closed: Timestamp,
    },
    /// The log began later, or has not begun.
    #[error("the log had no records then")]
    BeforeFirst {
        /// When its first record was written.
        first: Option<Timestamp>,
    },
    /// See [`ReadError`].
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A tenant's log up to a record; what comes later is not seen. Clones share it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    tenant: Arc<TenantShared>,
    view: View,
}

/// Which events are meant, and what of them is wanted.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// All that must hold.
    pub filter: Filter,
    /// Events of any of these streams; `None`: of all.
    pub streams: Option<Vec<StreamName>>,
    /// Only records in this range.
    pub positions: Option<Range<u64>>,
    /// Only events with one of these ids.
    pub ids: Option<Vec<[u8; 16]>>,
    /// Commit times before this.
    pub before: Option<Timestamp>,
    /// What is read.
    pub columns: Columns,
}

/// Columns that cost a look at the log; the others come from the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column, wanted or not")]
pub struct Columns {
    /// The data.
    pub data: bool,
    /// The metadata.
    pub metadata: bool,
    /// The tags.
    pub tags: bool,
    /// Who appended it.
    pub actor: bool,
}

/// One text a row, or none.
#[derive(Debug, Default)]
pub struct Texts {
    /// All of them, one behind the other.
    pub bytes: Vec<u8>,
    /// Where each one ends.
    pub ends: Vec<u32>,
    /// Which rows have one.
    pub present: Vec<bool>,
}

/// Events in columns, all of one length but for those that were not asked for, which are empty.
#[derive(Debug, Default)]
pub struct EventRows {
    /// Positions.
    pub positions: Vec<u64>,
    /// Streams.
    pub streams: Vec<StreamName>,
    /// Versions.
    pub versions: Vec<u64>,
    /// Ids.
    pub ids: Vec<[u8; 16]>,
    /// Types.
    pub types: Vec<EventType>,
    /// Commit times in microseconds since 1970.
    pub times: Vec<i64>,
    /// The events' own times, likewise.
    pub occurred: Vec<Option<i64>>,
    /// JSON texts.
    pub data: Texts,
    /// JSON texts.
    pub metadata: Texts,
    /// JSON texts: arrays of strings.
    pub tags: Texts,
    /// Who appended them.
    pub actors: Vec<Option<Actor>>,
}

/// Events being read, in the order of their positions.
pub struct EventScan {
    snapshot: Snapshot,
    query: EventQuery,
    /// The asked streams' numbers, where there is more than the filter to go by.
    streams: Option<FxHashSet<u32>>,
    /// What is left to be looked at, ascending.
    ranges: VecDeque<Range<u64>>,
    reader: RecordReader,
    names: FxHashMap<u32, StreamName>,
    types: Vec<EventType>,
    actors: HashMap<Reference, Actor>,
}

/// Names that a scan keeps.
const NAMES_KEPT: usize = 1 << 16;
/// Streams that are looked up one by one; beyond, the log is read and what does not belong is left out.
const STREAMS_LOOKED_UP: usize = 1;

impl Snapshot {
    pub(crate) fn new(
        tenant: &Arc<TenantShared>,
        moment: Moment,
        closed: Timestamp,
    ) -> Result<Self, SnapshotError> {
        let (mut view, damage) = {
            let index = tenant.index.read();
            (index.view(), index.damage.clone())
        };
        let records = view.count;
        view.count = match moment {
            Moment::Now => {
                refuse_damage(damage.as_ref())?;
                records
            }
            Moment::Position(p) if p.get() < records => p.get() + 1,
            Moment::Records(count) if count <= records => count,
            Moment::Position(_) | Moment::Records(_) => {
                refuse_damage(damage.as_ref())?;
                return Err(SnapshotError::NoRecord { records });
            }
            Moment::Time(time) if time > closed => return Err(SnapshotError::NotClosed { closed }),
            Moment::Time(time) => {
                let count = first_after(&view, 0..records, time)?;
                if count == records {
                    refuse_damage(damage.as_ref())?;
                }
                if count == 0 {
                    let first = view.entry(0)?.and_then(|(_, e)| Timestamp::from_micros(e.time));
                    return Err(SnapshotError::BeforeFirst { first });
                }
                count
            }
        };
        Ok(Self { tenant: Arc::clone(tenant), view })
    }

    /// How many records it has: the position of the last one and one.
    pub fn records(&self) -> u64 {
        self.view.count
    }

    /// Events in the order of their positions.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn events(&self, query: EventQuery) -> Result<EventScan, ReadError> {
        let mut range = query.positions.clone().unwrap_or(0..self.view.count);
        range.end = range.end.min(self.view.count);
        range.start = range.start.min(range.end);
        if let Some(before) = query.before {
            range.end = first_at(&self.view, range.clone(), before)?;
        }
        let mut streams = None;
        if let Some(names) = &query.streams {
            let found: Result<FxHashSet<u32>, ReadError> = names
                .iter()
                .filter_map(|name| self.tenant.stream(name.as_str()).transpose())
                .map(|found| found.map(|(id, _)| id))
                .collect();
            streams = Some(found?);
        }
        let index = self.tenant.index.read();
        let types = index.names.types.list.iter().map(|(name, _)| name.clone()).collect();
        let mut actors = HashMap::new();
        if query.columns.actor {
            actors = index
                .names
                .actors
                .iter()
                .map(|(name, known)| (known.reference, name.clone()))
                .collect();
        }
        drop(index);
        let ranges = self.ranges(range, query.ids.as_deref())?;
        Ok(EventScan {
            snapshot: self.clone(),
            query,
            streams,
            ranges,
            reader: RecordReader::sequential(),
            names: FxHashMap::default(),
            types,
            actors,
        })
    }

    /// The records in a range, or of these only those with one of some ids.
    fn ranges(
        &self,
        range: Range<u64>,
        ids: Option<&[[u8; 16]]>,
    ) -> Result<VecDeque<Range<u64>>, ReadError> {
        let Some(ids) = ids else { return Ok(VecDeque::from([range])) };
        let mut positions = Vec::with_capacity(ids.len());
        for id in ids {
            positions.extend(self.view.find_id(id)?.filter(|p| range.contains(p)));
        }
        positions.sort_unstable();
        positions.dedup();
        Ok(positions.into_iter().map(|p| p..p + 1).collect())
    }

    /// Streams in the order of their names (bytes) whose names start with `prefix`, behind `after`, out of at most `limit`
    /// that are there now: with them where to go on, `None` at the end.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn streams(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<StreamInfo>, Option<StreamName>), ReadError> {
        noted(&self.tenant, self.streams_then(prefix, after, limit))
    }

    fn streams_then(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<StreamInfo>, Option<StreamName>), ReadError> {
        let states = self.tenant.streams(prefix, after, limit)?;
        let next = states.last().filter(|_| states.len() == limit).map(|(_, s)| s.name.clone());
        let later = self.touched_later()?;
        let mut infos = Vec::with_capacity(states.len());
        let mut deletions = None;
        for (id, state) in states {
            let state = match &later {
                Some(touched) if touched.contains(&id) => {
                    self.stream_then(id, state, &mut deletions)?
                }
                _ => Some(state),
            };
            infos.extend(state.map(|s| s.info()));
        }
        Ok((infos, next))
    }

    /// Streams that records behind this snapshot are about; `None` where there are no such records.
    fn touched_later(&self) -> Result<Option<FxHashSet<u32>>, ReadError> {
        let now = self.tenant.view();
        if now.count == self.view.count {
            return Ok(None);
        }
        let mut touched = FxHashSet::default();
        walk(&now, self.view.count..now.count, |_, entry| {
            touched.insert(entry.stream);
        })?;
        Ok(Some(touched))
    }

    /// What a stream was that has another state now; `None` where it had no events.
    fn stream_then(
        &self,
        id: u32,
        now: StreamState,
        deletions: &mut Option<FxHashMap<u32, Vec<u64>>>,
    ) -> Result<Option<StreamState>, ReadError> {
        let Some(last) = self.event_of(id, Direction::Backward, None)? else { return Ok(None) };
        let mut then = now;
        then.head.version = last.0;
        then.last_time = last.1;
        if then.head.visible_from <= last.0 {
            // It was deleted and made again before, if ever: what is visible is what was.
            then.head.deleted = false;
            return Ok(Some(then));
        }
        let known = match deletions {
            Some(known) => known,
            None => deletions.insert(self.deletions()?),
        };
        // Behind which version each deletion came.
        let mut behind = known.get(&id).cloned().unwrap_or_default();
        then.head.deleted = behind.last() == Some(&last.0);
        then.head.visible_from = behind.last().map_or(0, |v| v + 1);
        if then.head.deleted {
            behind.pop();
        }
        let shown_from = behind.last().map_or(0, |v| v + 1);
        if let Some((_, time)) = self.event_of(id, Direction::Forward, Some(shown_from))? {
            then.first_time = time;
        }
        Ok(Some(then))
    }

    /// Version and time of a stream's first event from a version on, or of its last one.
    fn event_of(
        &self,
        id: u32,
        direction: Direction,
        from: Option<u64>,
    ) -> Result<Option<(u64, i64)>, ReadError> {
        let filter = Filter::default();
        let mut search = Search {
            tenant: &self.tenant,
            stream: Some(StreamRange { id, visible_from: 0, from }),
            filter: &filter,
            range: 0..self.view.count,
            direction,
            limit: 1,
        };
        loop {
            let found = search.run(&self.view)?;
            if let Some(position) = found.positions.first() {
                let entry = self.view.entry(*position)?.ok_or(ReadError::NoRecord)?.1;
                return Ok(Some((entry.version, entry.time)));
            }
            match direction {
                Direction::Forward => search.range.start = found.reached,
                Direction::Backward => search.range.end = found.reached,
            }
            if search.range.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Behind which versions streams were deleted.
    fn deletions(&self) -> Result<FxHashMap<u32, Vec<u64>>, ReadError> {
        let mut heads: FxHashMap<u32, u64> = FxHashMap::default();
        let mut deletions: FxHashMap<u32, Vec<u64>> = FxHashMap::default();
        walk(&self.view, 0..self.view.count, |_, entry| match entry.kind {
            RecordKind::Event => {
                heads.insert(entry.stream, entry.version);
            }
            RecordKind::StreamDeleted => {
                let behind = heads.get(&entry.stream).copied().unwrap_or_default();
                deletions.entry(entry.stream).or_default().push(behind);
            }
            RecordKind::LogForked
            | RecordKind::TenantCreated
            | RecordKind::SchemaChanged
            | RecordKind::RowChanged
            | RecordKind::CheckpointStamped => {}
        })?;
        Ok(deletions)
    }
}

/// Damage that a scan finds stops writes, too.
fn noted<T>(tenant: &TenantShared, result: Result<T, ReadError>) -> Result<T, ReadError> {
    if let Err(ReadError::Damaged(damage)) = &result {
        tenant.damaged(damage);
    }
    result
}

/// Shows every entry in a range.
fn walk(
    view: &View,
    range: Range<u64>,
    mut see: impl FnMut(u64, &crate::index::RecordEntry),
) -> Result<(), ReadError> {
    let mut at = range.start;
    while at < range.end {
        let slice = view.slice_of(at).ok_or(ReadError::NoRecord)?;
        let end = range.end.min(slice.end());
        let mut entries = slice.entries(true);
        for position in at..end {
            see(position, &entries.get(position)?);
        }
        at = end;
    }
    Ok(())
}

impl EventScan {
    /// Further events, at most `rows`, and no further one once there are `bytes` of texts. `None` at the end.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn next(&mut self, rows: usize, bytes: usize) -> Result<Option<EventRows>, ReadError> {
        let found = self.read_on(rows, bytes);
        noted(&self.snapshot.tenant, found)
    }

    fn read_on(&mut self, rows: usize, bytes: usize) -> Result<Option<EventRows>, ReadError> {
        while let Some(range) = self.ranges.front().cloned() {
            if range.is_empty() {
                self.ranges.pop_front();
                continue;
            }
            let (positions, reached) = self.find(&range, rows)?;
            let mut out = EventRows::default();
            let behind = self.fill(&mut out, &positions, bytes)?;
            self.ranges[0].start = behind.unwrap_or(reached);
            if !out.positions.is_empty() {
                return Ok(Some(out));
            }
        }
        Ok(None)
    }

    /// Records that may be meant, and up to where that is all.
    fn find(&self, range: &Range<u64>, rows: usize) -> Result<(Vec<u64>, u64), ReadError> {
        let one = match &self.streams {
            Some(ids) if ids.is_empty() => return Ok((Vec::new(), range.end)),
            Some(ids) if ids.len() <= STREAMS_LOOKED_UP => ids.iter().next().copied(),
            _ => None,
        };
        if one.is_none() && self.query.filter == Filter::default() {
            let end = (range.start + rows as u64).min(range.end);
            return Ok(((range.start..end).collect(), end));
        }
        let search = Search {
            tenant: &self.snapshot.tenant,
            stream: one.map(|id| StreamRange { id, visible_from: 0, from: None }),
            filter: &self.query.filter,
            range: range.clone(),
            direction: Direction::Forward,
            limit: rows,
        };
        let found = search.run(&self.snapshot.view)?;
        Ok((found.positions, found.reached))
    }

    /// Adds the events at `positions`; where to go on, if there was enough before their end.
    fn fill(
        &mut self,
        out: &mut EventRows,
        positions: &[u64],
        bytes: usize,
    ) -> Result<Option<u64>, ReadError> {
        let view = self.snapshot.view.clone();
        let mut left = positions;
        while let Some(first) = left.first() {
            let slice = view.slice_of(*first).ok_or(ReadError::NoRecord)?;
            let here = left.partition_point(|p| *p < slice.end());
            let mut entries = slice.entries(left.len() > 1);
            for position in &left[..here] {
                let entry = entries.get(*position)?;
                let asked = self.streams.as_ref().is_none_or(|ids| ids.contains(&entry.stream));
                if entry.kind != RecordKind::Event || !asked {
                    continue;
                }
                self.push(out, *position, slice.segment(), &entry)?;
                if out.text_bytes() >= bytes {
                    return Ok(Some(position + 1));
                }
            }
            left = &left[here..];
        }
        Ok(None)
    }

    fn push(
        &mut self,
        out: &mut EventRows,
        position: u64,
        segment: &Arc<crate::log::Segment>,
        entry: &crate::index::RecordEntry,
    ) -> Result<(), ReadError> {
        out.positions.push(position);
        out.streams.push(self.stream(entry.stream)?);
        out.versions.push(entry.version);
        out.ids.push(entry.id);
        out.types.push(self.event_type(entry.event_type));
        out.times.push(entry.time);
        out.occurred.push((entry.occurred != i64::MIN).then_some(entry.occurred));
        let columns = self.query.columns;
        if columns.data || columns.metadata || columns.tags {
            self.reader.load_payloads(segment, entry)?;
            let parts = self.reader.parts(entry)?;
            for (wanted, texts, part) in [
                (columns.data, &mut out.data, parts.data),
                (columns.metadata, &mut out.metadata, parts.metadata),
                (columns.tags, &mut out.tags, parts.tags),
            ] {
                if wanted {
                    texts.push(part);
                }
            }
        }
        if columns.actor {
            self.reader.load_leaf(segment, entry)?;
            let leaf = Leaf::decode(&self.reader.leaf);
            let leaf = leaf.map_err(|what| self.reader.damage(entry, what))?;
            let actor = leaf.reference(Role::Actor).and_then(|r| self.actors.get(&r));
            out.actors.push(actor.cloned());
        }
        Ok(())
    }

    fn stream(&mut self, id: u32) -> Result<StreamName, ReadError> {
        if let Some(name) = self.names.get(&id) {
            return Ok(name.clone());
        }
        let state = self.snapshot.tenant.stream_state(id)?.ok_or(ReadError::StreamUnknown)?;
        if self.names.len() >= NAMES_KEPT {
            self.names.clear();
        }
        self.names.insert(id, state.name.clone());
        Ok(state.name)
    }

    /// Types only grow, and all that this scan sees were there when it began.
    fn event_type(&self, id: u32) -> EventType {
        self.types[id as usize].clone()
    }
}

impl EventRows {
    fn text_bytes(&self) -> usize {
        self.data.bytes.len() + self.metadata.bytes.len() + self.tags.bytes.len()
    }
}

impl Texts {
    fn push(&mut self, text: Option<&[u8]>) {
        self.bytes.extend_from_slice(text.unwrap_or_default());
        self.ends.push(u32::try_from(self.bytes.len()).expect("a scan ends before"));
        self.present.push(text.is_some());
    }

    /// Each text in turn.
    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).zip(&self.present).map(|((start, end), present)| {
            present.then(|| &self.bytes[start as usize..*end as usize])
        })
    }
}
