//! Answers selections: which events, from where, in which shape.

#[cfg(test)]
mod gone;

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    disk::may_wait,
    error::{Damage, ReadError},
    fragment::{FragmentCache, Locator, PIECE_RECORDS, Piece, RecordReader, refuse_damage},
    index::{About, Search, Slice, StreamRange, View, derived},
    limits::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX},
    read::{
        After, Batch, Cursor, Direction, Filter, NamedBefore, PayloadState, PayloadView,
        RecordView, Selection, Shape, Source, StoredEvent,
    },
    record::{Entry, Leaf, PayloadKind, Role, genesis, leaf_hash, salt},
    tenant::TenantShared,
    words::{Position, Timestamp, Version},
};

/// Reads for one tenant. Blocks on files.
pub(crate) struct Reader<'a> {
    pub(crate) tenant: &'a TenantShared,
    pub(crate) fragments: &'a Mutex<FragmentCache>,
}

/// Neighbouring records from which on a selection is worth a piece in the cache.
const WORTH_KEEPING: u64 = 16;

/// A selection, looked up.
struct Plan {
    view: View,
    range: Range<u64>,
    stream: Option<StreamRange>,
    generation: u64,
    damage: Option<Damage>,
}

impl Plan {
    /// Whether the record was written so lately that all who follow ask for it now.
    fn is_followed(&self, position: u64) -> bool {
        self.view.count - position <= PIECE_RECORDS
    }
}

impl Reader<'_> {
    /// Events in a ready shape.
    pub(crate) fn read(&self, selection: &Selection, shape: Shape) -> Result<Batch, ReadError> {
        let plan = self.plan(selection)?;
        let (limit, enough) = bounds(selection);
        let everything = plan.stream.is_none() && selection.filter == Filter::default();
        if everything && selection.direction == Direction::Forward {
            return self.read_all(&plan, limit, enough, shape);
        }
        let (positions, reached) = self.find(selection, &plan, limit)?;
        let mut text = Text::new(shape);
        let taken = self.push_all(&plan, &positions, enough, &mut text)?;
        let cut = taken < positions.len();
        let versions = versions(&plan, &positions[..taken])?;
        let reached = match (cut, selection.direction) {
            (false, _) => reached,
            (true, Direction::Forward) => positions[taken - 1] + 1,
            (true, Direction::Backward) => positions[taken - 1],
        };
        batch(&plan, selection.direction, text, versions, reached)
    }

    /// Adds the events at `positions` until there is enough; says how many.
    fn push_all(
        &self,
        plan: &Plan,
        positions: &[u64],
        enough: usize,
        text: &mut Text,
    ) -> Result<usize, ReadError> {
        let mut reader = RecordReader::sequential();
        let mut locator = Locator::new(self.tenant, &plan.view);
        let mut taken = 0;
        while taken < positions.len() && text.bytes < enough {
            let from = positions[taken];
            let neighbours = positions[taken..].iter().zip(from..).take_while(|(p, n)| *p == n);
            let run = neighbours.count() as u64;
            let cached = self.cached(plan, from, text.shape);
            let piece = match cached {
                Ok(piece) => Some(piece),
                Err(_) if run >= WORTH_KEEPING || plan.is_followed(from) => {
                    Some(self.piece(plan, from, from + run, text.shape)?)
                }
                Err(_) => None,
            };
            if let Some(piece) = piece {
                let to = piece.end().min(from + run);
                text.push(&piece, from..to, (to - from) as usize);
                taken += (to - from) as usize;
            } else {
                let located = locator.one(from)?.ok_or(ReadError::NoRecord)?;
                let piece = Piece::render(&[located], 0, text.shape, &mut reader)?;
                text.push(&piece, from..from + 1, 1);
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Events taken apart, and the batch around them (without text).
    pub(crate) fn read_events(
        &self,
        selection: &Selection,
    ) -> Result<(Vec<StoredEvent>, Batch), ReadError> {
        let plan = self.plan(selection)?;
        let (limit, enough) = bounds(selection);
        let (positions, reached) = self.find(selection, &plan, limit)?;
        let mut reader = RecordReader::sequential();
        let mut locator = Locator::new(self.tenant, &plan.view);
        let mut events = Vec::with_capacity(positions.len());
        let (mut bytes, mut reached) = (0, reached);
        for position in &positions {
            let located = locator.one(*position)?.ok_or(ReadError::NoRecord)?;
            let event = reader.located_event(&located)?;
            events.push(event.expect("select finds events only"));
            bytes += reader.payloads.len();
            if bytes >= enough && events.len() < positions.len() {
                let forward = selection.direction == Direction::Forward;
                reached = if forward { position + 1 } else { *position };
                break;
            }
        }
        let versions = versions(&plan, &positions[..events.len()])?;
        let mut batch =
            batch(&plan, selection.direction, Text::new(Shape::Json), versions, reached)?;
        batch.count = events.len();
        Ok((events, batch))
    }

    /// Whether the first event of a selection is in memory, or lately written and so in the page cache.
    pub(crate) fn hot(&self, selection: &Selection) -> bool {
        let (view, generation) = {
            let index = self.tenant.index.read();
            (index.view(), index.generation)
        };
        let start = match (selection.after, selection.direction) {
            (After::Position(p) | After::Cursor(Cursor { position: p, .. }), _) => p.get() + 1,
            (After::Head, Direction::Forward) => return true,
            (After::Nothing, Direction::Forward) => 0,
            (After::Nothing | After::Head, Direction::Backward) => view.count.saturating_sub(1),
        };
        match (view.slice_of(start), &selection.source) {
            (None | Some(Slice::Memory(_)), Source::Log) => true,
            (Some(Slice::Disk(_)), Source::Log) => {
                let fragments = self.fragments.lock();
                let find = |shape| fragments.find(self.tenant.reference, shape, start, generation);
                [Shape::Json, Shape::Ndjson, Shape::Sse].into_iter().any(|s| find(s).is_ok())
            }
            // A stream of a small log; in others it may be anywhere.
            (_, Source::Stream { .. }) => matches!(view.slices.first(), Some(Slice::Memory(_))),
        }
    }

    fn plan(&self, selection: &Selection) -> Result<Plan, ReadError> {
        let (view, generation, damage) = {
            let index = self.tenant.index.read();
            (index.view(), index.generation, index.damage.clone())
        };
        let stream = match &selection.source {
            Source::Log => None,
            Source::Stream { name, from } => {
                let (id, state) =
                    self.tenant.stream(name.as_str())?.ok_or(ReadError::StreamUnknown)?;
                if state.head.deleted {
                    return Err(ReadError::StreamDeleted);
                }
                let visible_from = state.head.visible_from;
                Some(StreamRange { id, visible_from, from: from.map(Version::get) })
            }
        };
        let head = view.count;
        let after = match selection.after {
            After::Nothing => None,
            After::Head => Some(head),
            After::Position(p) if p.get() < head => Some(p.get()),
            After::Position(position) => return Err(ReadError::Diverged { position }),
            After::Cursor(cursor) => Some(check_cursor(&view, cursor)?),
        };
        let range = match (selection.direction, after) {
            (_, None) => 0..head,
            (Direction::Forward, Some(p)) => (p + 1).min(head)..head,
            (Direction::Backward, Some(p)) => 0..p,
        };
        if range.end == head && selection.direction == Direction::Backward {
            refuse_damage(damage.as_ref())?;
        }
        Ok(Plan { view, range, stream, generation, damage })
    }

    /// Searches until `limit` events are found or nothing is left.
    fn find(
        &self,
        selection: &Selection,
        plan: &Plan,
        limit: usize,
    ) -> Result<(Vec<u64>, u64), ReadError> {
        let search = Search {
            tenant: self.tenant,
            stream: plan.stream,
            filter: &selection.filter,
            range: plan.range.clone(),
            direction: selection.direction,
            limit,
        };
        let found = search.run(&plan.view)?;
        Ok((found.positions, found.reached))
    }

    fn read_all(
        &self,
        plan: &Plan,
        limit: usize,
        enough: usize,
        shape: Shape,
    ) -> Result<Batch, ReadError> {
        let mut text = Text::new(shape);
        let (mut first, mut last) = (None, None);
        let mut at = plan.range.start;
        while at < plan.range.end && text.count < limit && text.bytes < enough {
            let piece = self.piece(plan, at, u64::MAX, shape)?;
            let end = piece.end().min(plan.range.end);
            let (from, mut count) = (at, 0);
            while at < end && text.count + count < limit {
                if piece.is_event(at) {
                    first.get_or_insert(at);
                    last = Some(at);
                    count += 1;
                }
                at += 1;
            }
            if count > 0 {
                text.push(&piece, from..at, count);
            }
        }
        let positions: Vec<u64> = first.into_iter().chain(last).collect();
        let versions = versions(plan, &positions)?;
        batch(plan, Direction::Forward, text, versions, at)
    }

    fn cached(&self, plan: &Plan, position: u64, shape: Shape) -> Result<Arc<Piece>, Option<u64>> {
        let reference = self.tenant.reference;
        self.fragments.lock().find(reference, shape, position, plan.generation)
    }

    /// The piece that holds `position`, rendered if need be, then not beyond `until` and by one task at a time.
    fn piece(
        &self,
        plan: &Plan,
        position: u64,
        until: u64,
        shape: Shape,
    ) -> Result<Arc<Piece>, ReadError> {
        if let Ok(piece) = self.cached(plan, position, shape) {
            return Ok(piece);
        }
        let rendering = self.tenant.rendering(position / PIECE_RECORDS);
        let _one_at_a_time = if may_wait() {
            rendering.lock()
        } else {
            rendering.try_lock().ok_or_else(ReadError::would_wait)?
        };
        let next = match self.cached(plan, position, shape) {
            Ok(piece) => return Ok(piece),
            Err(next) => next,
        };
        let aligned = (position / PIECE_RECORDS + 1) * PIECE_RECORDS;
        let end = aligned.min(until).min(next.unwrap_or(u64::MAX));
        let located = Locator::new(self.tenant, &plan.view).range(position..end)?;
        if located.is_empty() {
            return Err(ReadError::NoRecord);
        }
        let mut reader = RecordReader::sequential();
        let piece = Arc::new(Piece::render(&located, plan.generation, shape, &mut reader)?);
        self.fragments.lock().insert(self.tenant.reference, shape, Arc::clone(&piece));
        Ok(piece)
    }

    /// One record, every hash checked.
    pub(crate) fn record(&self, position: Position) -> Result<RecordView, ReadError> {
        let (view, damage) = {
            let index = self.tenant.index.read();
            (index.view(), index.damage.clone())
        };
        let Some(located) = Locator::new(self.tenant, &view).one(position.get())? else {
            refuse_damage(damage.as_ref())?;
            return Err(ReadError::NoRecord);
        };
        let previous = match position.get().checked_sub(1) {
            Some(p) => view.entry(p)?.ok_or(ReadError::NoRecord)?.1.hash,
            None => genesis(self.tenant.log_id),
        };
        let entry = &located.entry;
        let mut reader = RecordReader::point();
        reader.load(&located.segment, entry)?;
        if leaf_hash(&reader.leaf, previous) != entry.hash {
            return Err(reader.damage(entry, "a leaf does not match its hash"));
        }
        let leaf = Leaf::decode(&reader.leaf).map_err(|what| reader.damage(entry, what))?;
        let mut payloads = Vec::new();
        let mut run = &reader.payloads[..];
        for (kind, commitment) in leaf.payloads() {
            let stored = Entry::take(&mut run).map_err(|what| reader.damage(entry, what))?;
            if !stored.matches(commitment) {
                return Err(reader.damage(entry, "a payload does not match its commitment"));
            }
            let state = match stored {
                Entry::Present(bytes) => {
                    let json = stored.json().map_err(|what| reader.damage(entry, what))?;
                    PayloadState::Clear {
                        salt: salt(bytes).unwrap_or_default(),
                        json: Bytes::copy_from_slice(json.unwrap_or_default()),
                    }
                }
                Entry::Erased => PayloadState::Erased,
                Entry::Expired => PayloadState::Expired,
            };
            payloads.push(PayloadView { kind: kind.name(), commitment, state });
        }
        Ok(RecordView {
            position,
            kind: leaf.kind.name(),
            id: uuid::Uuid::from_bytes(leaf.id),
            time: Timestamp::from_micros(leaf.time_us).expect("op times are valid"),
            hash: entry.hash,
            leaf: [&reader.leaf[..], &previous.0].concat().into(),
            payloads,
        })
    }
    /// One record, and where the names stand that its leaf has only references of.
    pub(crate) fn opening(
        &self,
        position: Position,
    ) -> Result<(RecordView, Vec<NamedBefore>), ReadError> {
        let record = self.record(position)?;
        let view = self.tenant.view();
        let (_, entry) = view.entry(position.get())?.ok_or(ReadError::NoRecord)?;
        let (stored, _) = record.leaf.split_at(record.leaf.len() - size_of_val(&entry.hash.0));
        let leaf = Leaf::decode(stored).expect("it was read above");
        let mut names = Vec::new();
        for (role, kind) in [
            (Role::Stream, PayloadKind::StreamName),
            (Role::Type, PayloadKind::TypeName),
            (Role::Actor, PayloadKind::ActorName),
        ] {
            let Some(reference) = leaf.reference(role) else { continue };
            if entry.kinds.iter().any(|own| own == kind) {
                continue;
            }
            let first = match role {
                Role::Stream => view.first(About::Stream(entry.stream))?,
                Role::Type => view.first(About::Type(entry.event_type))?,
                Role::Actor | Role::Subject => {
                    let index = self.tenant.index.read();
                    let mut known = index.names.actors.values();
                    known.find(|known| known.reference == reference).map(|known| known.first)
                }
            };
            // A derived file that leads astray is damaged, whatever its checksums say.
            let named = first.filter(|first| *first < position.get()).and_then(Position::new);
            let named = named.ok_or_else(|| astray("a name is of no earlier record"))?;
            let (_, there) = view.entry(named.get())?.ok_or(ReadError::NoRecord)?;
            if !there.kinds.iter().any(|its| its == kind) {
                return Err(astray("a name stands in another record"));
            }
            names.push(NamedBefore { kind: kind.name(), position: named });
        }
        Ok((record, names))
    }
}

fn astray(what: &'static str) -> ReadError {
    Damage { file: derived::DATABASE.into(), offset: 0, what }.into()
}

/// How many events, and after how many bytes there are enough.
fn bounds(selection: &Selection) -> (usize, usize) {
    let Selection { limit, bytes, .. } = selection;
    ((*limit).clamp(1, PAGE_EVENTS_MAX), (*bytes).clamp(1, PAGE_BYTES_MAX))
}

/// The first and last version of some events.
fn versions(plan: &Plan, positions: &[u64]) -> Result<Option<(Version, Version)>, ReadError> {
    let (Some(first), Some(last)) = (positions.first(), positions.last()) else {
        return Ok(None);
    };
    let version = |p: &u64| {
        let entry = plan.view.entry(*p)?.ok_or(ReadError::NoRecord)?.1;
        Ok::<_, ReadError>(Version::new(entry.version).expect("below positions"))
    };
    Ok(Some((version(first)?, version(last)?)))
}

/// Closes a batch that looked at everything up to `reached`.
fn batch(
    plan: &Plan,
    direction: Direction,
    text: Text,
    versions: Option<(Version, Version)>,
    reached: u64,
) -> Result<Batch, ReadError> {
    let (finished, resume) = match direction {
        Direction::Forward => (reached >= plan.range.end, reached.checked_sub(1)),
        Direction::Backward => (reached <= plan.range.start, Some(reached)),
    };
    if finished && direction == Direction::Forward {
        // Whoever reads to the end of a damaged log must not take it for the end.
        refuse_damage(plan.damage.as_ref())?;
    }
    let cursor = match resume {
        Some(position) => cursor_at(&plan.view, position)?,
        None => None,
    };
    let count = text.count;
    let head = plan.view.count;
    Ok(Batch { count, pieces: text.finish(), versions, cursor, finished, head })
}

/// The position behind which a cursor resumes, if this log issued it.
fn check_cursor(view: &View, cursor: Cursor) -> Result<u64, ReadError> {
    match cursor_at(view, cursor.position.get())? {
        Some(ours) if ours == cursor => Ok(cursor.position.get()),
        _ => Err(ReadError::Diverged { position: cursor.position }),
    }
}

/// The cursor of a committed record.
pub(crate) fn cursor_at(view: &View, position: u64) -> Result<Option<Cursor>, ReadError> {
    let Some((_, entry)) = view.entry(position)? else { return Ok(None) };
    let check = entry.hash.0[..4].try_into().expect("4");
    Ok(Position::new(position).map(|position| Cursor { position, check }))
}

/// A text of fewer bytes is copied to its neighbours: a piece of its own costs more.
const COPIED_BYTES: usize = 8 << 10;

/// Text being put together.
struct Text {
    shape: Shape,
    pieces: Vec<Bytes>,
    /// Small texts, joined.
    small: Vec<u8>,
    count: usize,
    bytes: usize,
}

impl Text {
    fn new(shape: Shape) -> Self {
        Self { shape, pieces: Vec::new(), small: Vec::new(), count: 0, bytes: 0 }
    }

    /// Adds the text of `count` events, of neighbouring records.
    fn push(&mut self, piece: &Piece, records: Range<u64>, count: usize) {
        let text = piece.text(records.start, records.end);
        self.count += count;
        self.bytes += text.len();
        // A short text would keep much more in memory than it says.
        if text.len() < COPIED_BYTES || text.len() * 2 < piece.bytes() {
            self.small.extend_from_slice(&text);
        } else {
            self.close_small();
            self.pieces.push(text);
        }
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(std::mem::take(&mut self.small).into());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close_small();
        if self.shape == Shape::Json
            && let Some(last) = self.pieces.last_mut()
        {
            // Nothing follows, so nothing separates it from the next.
            last.truncate(last.len() - 1);
        }
        self.pieces
    }
}
