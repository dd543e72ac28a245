//! Which records a selection means: filters on postings and columns, no payload is read.

use std::{collections::HashMap, ops::Range};

use super::{
    NO_RUN, RecordEntry, Slice, View,
    slice::{About, Postings},
};
use crate::{
    error::ReadError,
    read::{Direction, Filter},
    record::RecordKind,
    tenant::TenantShared,
};

/// How many columns are looked at before a search rests (and resumes from where it is).
const LOOKED_AT_MAX: usize = 1 << 20;

/// What a search found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Ascending, or descending where searched backward.
    pub(crate) positions: Vec<u64>,
    /// The search looked at everything up to here (exclusive in its direction) and no further.
    pub(crate) reached: u64,
}

/// A stream to be searched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamRange {
    pub(crate) id: u32,
    /// Versions below are behind a deletion.
    pub(crate) visible_from: u64,
    /// The first version, or the last where read backward.
    pub(crate) from: Option<u64>,
}

/// What is looked for.
pub(crate) struct Search<'a> {
    pub(crate) tenant: &'a TenantShared,
    pub(crate) stream: Option<StreamRange>,
    pub(crate) filter: &'a Filter,
    pub(crate) range: Range<u64>,
    pub(crate) direction: Direction,
    pub(crate) limit: usize,
}

/// A search on its way.
struct Searching<'a> {
    search: &'a Search<'a>,
    types: Vec<u32>,
    budget: usize,
    found: Found,
    /// Whether a stream's name starts as asked, by its number.
    prefixes: HashMap<u32, bool>,
}

impl Search<'_> {
    /// Events that match, at most `limit`.
    pub(crate) fn run(&self, view: &View) -> Result<Found, ReadError> {
        let end = self.range.end.min(view.count);
        let range = self.range.start.min(end)..end;
        let reached = match self.direction {
            Direction::Forward => range.end,
            Direction::Backward => range.start,
        };
        let found = Found { positions: Vec::new(), reached };
        let types: Vec<u32> = {
            let index = self.tenant.index.read();
            self.filter.types.iter().filter_map(|t| index.names.types.id(t)).collect()
        };
        if types.is_empty() && !self.filter.types.is_empty() || range.is_empty() {
            return Ok(found);
        }
        let mut searching = Searching {
            search: self,
            types,
            budget: LOOKED_AT_MAX,
            found,
            prefixes: HashMap::new(),
        };
        let mut slices = self.slices(view, &range)?;
        if self.direction == Direction::Backward {
            slices.reverse();
        }
        for slice in slices {
            if let Some(reached) = searching.slice(slice, &range)? {
                searching.found.reached = reached;
                break;
            }
        }
        Ok(searching.found)
    }

    /// The slices that may hold matches, in order.
    fn slices<'v>(&self, view: &'v View, range: &Range<u64>) -> Result<Vec<&'v Slice>, ReadError> {
        let first = view.slice_index(range.start).unwrap_or(0);
        let last = view.slice_index(range.end - 1).unwrap_or(0);
        let all = &view.slices[first..=last];
        let Some(stream) = self.stream else { return Ok(all.iter().collect()) };
        // Each run says which one before it has the stream, so only those are looked at that have it.
        let mut next = self.tenant.last_run(stream.id)?;
        let mut with_stream = Vec::new();
        for slice in all.iter().rev() {
            let run = match slice {
                Slice::Memory(_) => {
                    with_stream.push(slice);
                    continue;
                }
                Slice::Disk(run) => run,
            };
            // The newest ones may lie behind the range.
            while next != NO_RUN && next > run.first() {
                next = previous_run(view, stream.id, next)?;
            }
            if next == run.first() {
                with_stream.push(slice);
                next = previous_run(view, stream.id, next)?;
            }
            if next == NO_RUN {
                break;
            }
        }
        with_stream.reverse();
        Ok(with_stream)
    }
}

/// The run before the one at `first` that has a stream.
fn previous_run(view: &View, stream: u32, first: u64) -> Result<u64, ReadError> {
    // It may lie behind what this view shows of the log.
    let at = view.slices.partition_point(|slice| slice.first() <= first).checked_sub(1);
    Ok(match at.map(|at| &view.slices[at]) {
        Some(Slice::Disk(run)) => run.stream(stream)?.map_or(NO_RUN, |(_, previous)| previous),
        // The database speaks of a run that this view has in memory still.
        Some(Slice::Memory(part)) => {
            part.previous.get().and_then(|runs| runs.get(&stream)).copied().unwrap_or(NO_RUN)
        }
        None => NO_RUN,
    })
}

impl Searching<'_> {
    /// Adds a slice's matches; `Some(reached)` when the search rests inside.
    fn slice(&mut self, slice: &Slice, range: &Range<u64>) -> Result<Option<u64>, ReadError> {
        let first = slice.first();
        let low = (range.start.max(first) - first) as u32;
        let high = (range.end.min(slice.end()) - first) as u32;
        let low = self.later_than_from_time(slice, low, high)?;
        let Some(mut candidates) = self.candidates(slice)? else { return Ok(None) };
        let mut tags = Vec::new();
        for tag in &self.search.filter.tags {
            match slice.postings(About::Tag(tag))? {
                Some(postings) => tags.push(postings),
                None => return Ok(None),
            }
        }
        let mut entries = slice.entries(true);
        let (mut from, mut to) = match &mut candidates {
            Candidates::All => (low as usize, high as usize),
            Candidates::Postings(list) => {
                (list.partition(|n| Ok(n < low))?, list.partition(|n| Ok(n < high))?)
            }
        };
        if let (Candidates::Postings(list), Some(stream)) = (&mut candidates, self.search.stream) {
            // Versions rise with positions, so the asked ones are found by halving.
            let mut at = |n: u32| entries.get(first + u64::from(n)).map(|e| e.version);
            let bound = match (self.search.direction, stream.from) {
                (Direction::Forward, Some(v)) => v.max(stream.visible_from),
                _ => stream.visible_from,
            };
            from = from.max(list.partition(|n| Ok(at(n)? < bound))?);
            if let (Direction::Backward, Some(v)) = (self.search.direction, stream.from) {
                to = to.min(list.partition(|n| Ok(at(n)? <= v))?);
            }
        }
        for step in 0..to.saturating_sub(from) {
            let i = match self.search.direction {
                Direction::Forward => from + step,
                Direction::Backward => to - 1 - step,
            };
            let number = match &mut candidates {
                Candidates::All => i as u32,
                Candidates::Postings(list) => list.get(i)?,
            };
            let position = first + u64::from(number);
            let (here, behind) = match self.search.direction {
                Direction::Forward => (position, position + 1),
                Direction::Backward => (position + 1, position),
            };
            if self.budget == 0 {
                return Ok(Some(here));
            }
            self.budget -= 1;
            if self.matches(&entries.get(position)?)? && has_all(&mut tags, number)? {
                self.found.positions.push(position);
                if self.found.positions.len() == self.search.limit {
                    return Ok(Some(behind));
                }
            }
        }
        Ok(None)
    }

    /// Times rise with positions: the number of the first record that is not before `from_time`.
    fn later_than_from_time(&self, slice: &Slice, low: u32, high: u32) -> Result<u32, ReadError> {
        let Some(from) = self.search.filter.from_time else { return Ok(low) };
        let mut entries = slice.entries(false);
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low.midpoint(high);
            if entries.get(slice.first() + u64::from(middle))?.time < from.micros() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// A list of records that holds every match; `None` where there are none.
    fn candidates<'s>(&self, slice: &'s Slice) -> Result<Option<Candidates<'s>>, ReadError> {
        if let Some(stream) = self.search.stream {
            let list = slice.postings(About::Stream(stream.id))?;
            return Ok(list.map(Candidates::Postings));
        }
        let mut lists = Vec::new();
        if let [one] = self.types[..] {
            lists.push(slice.postings(About::Type(one))?);
        }
        for tag in &self.search.filter.tags {
            lists.push(slice.postings(About::Tag(tag))?);
        }
        // Only the shortest is walked; what else is asked is looked up.
        if lists.is_empty() {
            return Ok(Some(Candidates::All));
        }
        if lists.iter().any(Option::is_none) {
            return Ok(None);
        }
        let shortest = lists.into_iter().flatten().min_by_key(Postings::len);
        Ok(shortest.map(Candidates::Postings))
    }

    fn matches(&mut self, entry: &RecordEntry) -> Result<bool, ReadError> {
        let filter = self.search.filter;
        let holds = entry.kind == RecordKind::Event
            && (self.types.is_empty() || self.types.contains(&entry.event_type))
            && filter.from_time.is_none_or(|t| entry.time >= t.micros())
            && filter
                .occurred_from
                .is_none_or(|t| entry.occurred != i64::MIN && entry.occurred >= t.micros())
            && filter
                .occurred_to
                .is_none_or(|t| entry.occurred != i64::MIN && entry.occurred < t.micros());
        match &filter.stream_prefix {
            Some(prefix) if holds => self.has_prefix(entry.stream, prefix),
            _ => Ok(holds),
        }
    }

    fn has_prefix(&mut self, stream: u32, prefix: &str) -> Result<bool, ReadError> {
        if let Some(known) = self.prefixes.get(&stream) {
            return Ok(*known);
        }
        let state = self.search.tenant.stream_state(stream)?;
        let has = state.is_some_and(|s| s.name.as_str().starts_with(prefix));
        self.prefixes.insert(stream, has);
        Ok(has)
    }
}

fn has_all(tags: &mut [Postings<'_>], number: u32) -> Result<bool, ReadError> {
    for tag in tags {
        if !tag.contains(number)? {
            return Ok(false);
        }
    }
    Ok(true)
}

enum Candidates<'a> {
    All,
    Postings(Postings<'a>),
}
