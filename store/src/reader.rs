//! Answers selections: which events, from where, in which shape.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    error::ReadError,
    fragment::{FragmentCache, Located, PIECE_RECORDS, Piece, RecordReader, refuse_damage},
    index::TenantIndex,
    limits::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX},
    read::{
        After, Batch, Cursor, Direction, Filter, PayloadState, PayloadView, RecordView, Selection,
        Shape, Source, StoredEvent,
    },
    record::{Entry, Leaf, genesis, leaf_hash, salt},
    tenant::TenantShared,
    words::{Position, Timestamp, Version},
};

/// Reads for one tenant. Blocks on files.
pub(crate) struct Reader<'a> {
    pub(crate) tenant: &'a TenantShared,
    pub(crate) fragments: &'a Mutex<FragmentCache>,
}

/// A selection, looked up.
struct Plan {
    range: Range<u64>,
    /// Stream number and bound of versions.
    stream: Option<(u32, Option<u64>)>,
    generation: u64,
    /// The tenant's record count.
    head: u64,
}

impl Reader<'_> {
    /// Events in a ready shape.
    pub(crate) fn read(&self, selection: &Selection, shape: Shape) -> Result<Batch, ReadError> {
        let plan = self.plan(selection)?;
        let limit = selection.limit.clamp(1, PAGE_EVENTS_MAX);
        let everything = plan.stream.is_none() && selection.filter == Filter::default();
        if everything && selection.direction == Direction::Forward {
            return self.read_all(&plan, limit, shape);
        }
        let (positions, reached) = self.find(selection, &plan, limit);
        let mut text = Text::new(shape);
        let mut reader = RecordReader::sequential();
        let mut taken = 0;
        for position in &positions {
            self.push(&plan, *position, &mut text, &mut reader)?;
            taken += 1;
            if text.bytes >= PAGE_BYTES_MAX {
                break;
            }
        }
        let cut = taken < positions.len();
        let versions = self.versions(&positions[..taken]);
        let reached = match (cut, selection.direction) {
            (false, _) => reached,
            (true, Direction::Forward) => positions[taken - 1] + 1,
            (true, Direction::Backward) => positions[taken - 1],
        };
        self.batch(&plan, selection.direction, text, versions, reached)
    }

    /// Events taken apart, and the batch around them (without text).
    pub(crate) fn read_events(
        &self,
        selection: &Selection,
    ) -> Result<(Vec<StoredEvent>, Batch), ReadError> {
        let plan = self.plan(selection)?;
        let limit = selection.limit.clamp(1, PAGE_EVENTS_MAX);
        let (positions, reached) = self.find(selection, &plan, limit);
        let mut reader = RecordReader::sequential();
        let mut events = Vec::with_capacity(positions.len());
        let (mut bytes, mut reached) = (0, reached);
        for position in &positions {
            let event = reader.event(self.tenant, *position)?;
            events.push(event.expect("select finds events only"));
            bytes += reader.payloads.len();
            if bytes >= PAGE_BYTES_MAX && events.len() < positions.len() {
                let forward = selection.direction == Direction::Forward;
                reached = if forward { position + 1 } else { *position };
                break;
            }
        }
        let versions = self.versions(&positions[..events.len()]);
        let mut batch =
            self.batch(&plan, selection.direction, Text::new(Shape::Json), versions, reached)?;
        batch.count = events.len();
        Ok((events, batch))
    }

    /// Whether the first event of a selection is in memory, or in the open segment and so lately written.
    pub(crate) fn hot(&self, selection: &Selection) -> bool {
        let Ok(plan) = self.plan(selection) else { return true };
        let start = match selection.direction {
            Direction::Forward => plan.range.start,
            Direction::Backward => plan.range.end.saturating_sub(1),
        };
        let open = {
            let index = self.tenant.index.read();
            index.part_of(start).is_none_or(|part| part + 1 == index.parts.len())
        };
        let find = || self.fragments.lock().find(self.tenant.reference, start, plan.generation);
        open || (plan.stream.is_none() && find().is_ok())
    }

    fn plan(&self, selection: &Selection) -> Result<Plan, ReadError> {
        let index = self.tenant.index.read();
        let stream = match &selection.source {
            Source::Log => None,
            Source::Stream { name, from } => {
                let id = index.names.stream_id(name.as_str()).ok_or(ReadError::StreamUnknown)?;
                if index.names.stream_at(id).head.deleted {
                    return Err(ReadError::StreamDeleted);
                }
                Some((id, from.map(Version::get)))
            }
        };
        let head = index.count;
        let after = match selection.after {
            After::Nothing => None,
            After::Head => Some(head),
            After::Position(p) if p.get() < head => Some(p.get()),
            After::Position(position) => return Err(ReadError::Diverged { position }),
            After::Cursor(cursor) => Some(check_cursor(&index, cursor)?),
        };
        let range = match (selection.direction, after) {
            (_, None) => 0..head,
            (Direction::Forward, Some(p)) => (p + 1).min(head)..head,
            (Direction::Backward, Some(p)) => 0..p,
        };
        if range.end == head && selection.direction == Direction::Backward {
            refuse_damage(index.damage.as_ref())?;
        }
        Ok(Plan { range, stream, generation: index.generation, head })
    }

    /// Searches until `limit` events are found or nothing is left.
    fn find(&self, selection: &Selection, plan: &Plan, limit: usize) -> (Vec<u64>, u64) {
        let index = self.tenant.index.read();
        let found = index.select(
            plan.stream,
            &selection.filter,
            plan.range.clone(),
            selection.direction,
            limit,
        );
        (found.positions, found.reached)
    }

    fn read_all(&self, plan: &Plan, limit: usize, shape: Shape) -> Result<Batch, ReadError> {
        let mut text = Text::new(shape);
        let mut reader = RecordReader::sequential();
        let (mut first, mut last) = (None, None);
        let mut at = plan.range.start;
        while at < plan.range.end && text.count < limit && text.bytes < PAGE_BYTES_MAX {
            let piece = self.piece(plan, at)?;
            let end = piece.end().min(plan.range.end);
            if shape != Shape::Sse {
                text.copied.reserve(piece.bytes());
            }
            let from = at;
            let before = text.count;
            while at < end && text.count < limit {
                if piece.is_event(at) {
                    first.get_or_insert(at);
                    last = Some(at);
                    if shape == Shape::Sse {
                        text.count += 1;
                    } else {
                        self.push_from(&piece, at, &mut text, &mut reader)?;
                    }
                }
                at += 1;
            }
            if shape == Shape::Sse && text.count > before {
                text.whole(piece.frames(from, at));
            }
        }
        let positions: Vec<u64> = first.into_iter().chain(last).collect();
        let versions = self.versions(&positions);
        self.batch(plan, Direction::Forward, text, versions, at)
    }

    /// The piece that holds `position`, rendered if need be, by one task at a time.
    fn piece(&self, plan: &Plan, position: u64) -> Result<Arc<Piece>, ReadError> {
        let reference = self.tenant.reference;
        let find = || self.fragments.lock().find(reference, position, plan.generation);
        if let Ok(piece) = find() {
            return Ok(piece);
        }
        let _one_at_a_time = self.tenant.rendering.lock();
        let next = match find() {
            Ok(piece) => return Ok(piece),
            Err(next) => next,
        };
        let located: Vec<Located> = {
            let index = self.tenant.index.read();
            let aligned = (position / PIECE_RECORDS + 1) * PIECE_RECORDS;
            let end = aligned.min(next.unwrap_or(u64::MAX)).min(index.count);
            (position..end).filter_map(|p| Located::new(&index, p)).collect()
        };
        let mut reader = RecordReader::sequential();
        let piece = Arc::new(Piece::render(&located, plan.generation, &mut reader)?);
        self.fragments.lock().insert(reference, Arc::clone(&piece));
        Ok(piece)
    }

    fn push(
        &self,
        plan: &Plan,
        position: u64,
        text: &mut Text,
        reader: &mut RecordReader,
    ) -> Result<(), ReadError> {
        let cached = self.fragments.lock().find(self.tenant.reference, position, plan.generation);
        match cached {
            Ok(piece) => self.push_from(&piece, position, text, reader),
            Err(_) => self.push_rendered(position, text, reader),
        }
    }

    fn push_from(
        &self,
        piece: &Piece,
        position: u64,
        text: &mut Text,
        reader: &mut RecordReader,
    ) -> Result<(), ReadError> {
        match piece.text(position, text.shape) {
            Some(part) => {
                text.push(|out| out.extend_from_slice(part));
                Ok(())
            }
            None => self.push_rendered(position, text, reader),
        }
    }

    fn push_rendered(
        &self,
        position: u64,
        text: &mut Text,
        reader: &mut RecordReader,
    ) -> Result<(), ReadError> {
        let located = Located::new(&self.tenant.index.read(), position);
        let located = located.ok_or(ReadError::NoRecord)?;
        let mut rendered = Vec::with_capacity(512);
        if text.shape == Shape::Sse {
            let piece = Piece::render(&[located], 0, reader)?;
            rendered.extend_from_slice(&piece.frames(position, position + 1));
        } else {
            reader.render(&located, text.shape != Shape::Json, &mut rendered)?;
        }
        text.push(|out| out.extend_from_slice(&rendered));
        Ok(())
    }

    fn versions(&self, positions: &[u64]) -> Option<(Version, Version)> {
        let (first, last) = (positions.first()?, positions.last()?);
        let index = self.tenant.index.read();
        let version = |p: &u64| Version::new(index.entry(*p)?.1.version);
        Some((version(first)?, version(last)?))
    }

    /// Closes a batch that looked at everything up to `reached`.
    fn batch(
        &self,
        plan: &Plan,
        direction: Direction,
        text: Text,
        versions: Option<(Version, Version)>,
        reached: u64,
    ) -> Result<Batch, ReadError> {
        let index = self.tenant.index.read();
        let (finished, resume) = match direction {
            Direction::Forward => (reached >= plan.range.end, reached.checked_sub(1)),
            Direction::Backward => (reached <= plan.range.start, Some(reached)),
        };
        if finished && direction == Direction::Forward {
            // Whoever reads to the end of a damaged log must not take it for the end.
            refuse_damage(index.damage.as_ref())?;
        }
        let cursor = resume.and_then(|p| cursor_at(&index, p));
        Ok(Batch {
            count: text.count,
            pieces: text.finish(),
            versions,
            cursor,
            finished,
            head: plan.head,
        })
    }

    /// One record, every hash checked.
    pub(crate) fn record(&self, position: Position) -> Result<RecordView, ReadError> {
        let (located, previous) = {
            let index = self.tenant.index.read();
            let Some(located) = Located::new(&index, position.get()) else {
                refuse_damage(index.damage.as_ref())?;
                return Err(ReadError::NoRecord);
            };
            let previous = match position.get().checked_sub(1) {
                Some(p) => index.entry(p).expect("before a committed one").1.hash,
                None => genesis(self.tenant.log_id),
            };
            (located, previous)
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
}

/// The position behind which a cursor resumes, if this log issued it.
fn check_cursor(index: &TenantIndex, cursor: Cursor) -> Result<u64, ReadError> {
    match cursor_at(index, cursor.position.get()) {
        Some(ours) if ours == cursor => Ok(cursor.position.get()),
        _ => Err(ReadError::Diverged { position: cursor.position }),
    }
}

/// The cursor of a committed record.
pub(crate) fn cursor_at(index: &TenantIndex, position: u64) -> Option<Cursor> {
    let hash = index.entry(position)?.1.hash;
    let check = hash.0[..4].try_into().expect("4");
    Some(Cursor { position: Position::new(position)?, check })
}

/// Text being put together.
struct Text {
    shape: Shape,
    copied: Vec<u8>,
    pieces: Vec<Bytes>,
    count: usize,
    bytes: usize,
}

impl Text {
    fn new(shape: Shape) -> Self {
        Self { shape, copied: Vec::new(), pieces: Vec::new(), count: 0, bytes: 0 }
    }

    /// Adds one event's text.
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.copied.len();
        if self.shape == Shape::Json && self.count > 0 {
            self.copied.push(b',');
        }
        write(&mut self.copied);
        if self.shape == Shape::Ndjson {
            self.copied.push(b'\n');
        }
        self.count += 1;
        self.bytes += self.copied.len() - before;
    }

    /// Adds frames that are already counted, without copying.
    fn whole(&mut self, frames: Bytes) {
        self.bytes += frames.len();
        self.pieces.push(frames);
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.copied.is_empty() {
            self.pieces.push(self.copied.into());
        }
        self.pieces
    }
}
