//! Which records a selection means: filters on postings and columns, no payload is read.

use super::{Part, RecordEntry, TenantIndex};
use crate::{
    read::{Direction, Filter},
    record::RecordKind,
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

/// A filter with its names resolved; `None` where nothing can match.
struct Resolved<'a> {
    types: Vec<u32>,
    filter: &'a Filter,
    stream: Option<u32>,
    visible_from: u64,
}

impl TenantIndex {
    /// Events that match within `range` of positions, at most `limit`; of one stream, where given, only from
    /// version `from` (to, where backward).
    pub(crate) fn select(
        &self,
        stream: Option<(u32, Option<u64>)>,
        filter: &Filter,
        range: std::ops::Range<u64>,
        direction: Direction,
        limit: usize,
    ) -> Found {
        let end = range.end.min(self.count);
        let range = range.start.min(end)..end;
        let done = match direction {
            Direction::Forward => range.end,
            Direction::Backward => range.start,
        };
        let mut found = Found { positions: Vec::new(), reached: done };
        let types: Vec<u32> = filter.types.iter().filter_map(|t| self.names.type_id(t)).collect();
        if types.is_empty() && !filter.types.is_empty() || range.is_empty() {
            return found;
        }
        let visible_from = stream.map_or(0, |(s, _)| self.names.stream_at(s).head.visible_from);
        let from_version = stream.and_then(|(_, v)| v);
        let resolved = Resolved { types, filter, stream: stream.map(|(s, _)| s), visible_from };
        let first = self.part_of(range.start).unwrap_or(0);
        let last = self.part_of(range.end - 1).unwrap_or(0);
        let mut parts: Vec<&Part> = self.parts[first..=last].iter().collect();
        if direction == Direction::Backward {
            parts.reverse();
        }
        let mut budget = LOOKED_AT_MAX;
        for part in parts {
            let keep = |entry: &RecordEntry| {
                self.matches(&resolved, entry)
                    && from_version.is_none_or(|v| match direction {
                        Direction::Forward => entry.version >= v,
                        Direction::Backward => entry.version <= v,
                    })
            };
            let rest =
                part.select(&resolved, &range, direction, limit, &mut budget, keep, &mut found);
            if let Some(reached) = rest {
                found.reached = reached;
                return found;
            }
        }
        found
    }

    fn matches(&self, resolved: &Resolved<'_>, entry: &RecordEntry) -> bool {
        let filter = resolved.filter;
        entry.kind == RecordKind::Event
            && resolved.stream.is_none_or(|s| s == entry.stream)
            && entry.version >= resolved.visible_from
            && (resolved.types.is_empty() || resolved.types.contains(&entry.event_type))
            && filter.from_time.is_none_or(|t| entry.time >= t.micros())
            && filter
                .occurred_from
                .is_none_or(|t| entry.occurred != i64::MIN && entry.occurred >= t.micros())
            && filter
                .occurred_to
                .is_none_or(|t| entry.occurred != i64::MIN && entry.occurred < t.micros())
            && filter.stream_prefix.as_ref().is_none_or(|prefix| {
                self.names.stream_at(entry.stream).name.as_str().starts_with(prefix.as_str())
            })
    }
}

impl Part {
    /// Adds this part's matches to `found`; `Some(reached)` when the search rests inside.
    #[expect(clippy::too_many_arguments, reason = "one call, one inner loop")]
    fn select(
        &self,
        resolved: &Resolved<'_>,
        range: &std::ops::Range<u64>,
        direction: Direction,
        limit: usize,
        budget: &mut usize,
        keep: impl Fn(&RecordEntry) -> bool,
        found: &mut Found,
    ) -> Option<u64> {
        let low = (range.start.max(self.first) - self.first) as u32;
        let high = (range.end.min(self.end()) - self.first) as u32;
        let mut visit = |number: u32| -> Option<u64> {
            let position = self.first + u64::from(number);
            let (here, behind) = match direction {
                Direction::Forward => (position, position + 1),
                Direction::Backward => (position + 1, position),
            };
            if *budget == 0 {
                return Some(here);
            }
            *budget -= 1;
            if keep(&self.entries[number as usize]) && self.has_tags(resolved.filter, number) {
                found.positions.push(position);
                if found.positions.len() == limit {
                    return Some(behind);
                }
            }
            None
        };
        let postings = self.shortest_postings(resolved);
        match postings {
            Some(Candidates::None) => None,
            Some(Candidates::List(list)) => {
                let from = list.partition_point(|n| *n < low);
                let to = list.partition_point(|n| *n < high);
                ordered(&list[from..to], direction, &mut visit)
            }
            None => match direction {
                Direction::Forward => (low..high).find_map(visit),
                Direction::Backward => (low..high).rev().find_map(visit),
            },
        }
    }

    /// The shortest posting list that holds every match; `None` where only a scan does.
    fn shortest_postings(&self, resolved: &Resolved<'_>) -> Option<Candidates<'_>> {
        let mut lists: Vec<Option<&Vec<u32>>> = Vec::new();
        if let Some(stream) = resolved.stream {
            lists.push(self.streams.get(&stream));
        }
        if let [one] = resolved.types[..] {
            lists.push(self.types.get(&one));
        }
        lists.extend(resolved.filter.tags.iter().map(|tag| self.tags.get(tag)));
        if lists.is_empty() {
            return None;
        }
        if lists.iter().any(Option::is_none) {
            return Some(Candidates::None);
        }
        lists.into_iter().flatten().min_by_key(|l| l.len()).map(|l| Candidates::List(l))
    }

    fn has_tags(&self, filter: &Filter, number: u32) -> bool {
        filter
            .tags
            .iter()
            .all(|tag| self.tags.get(tag).is_some_and(|l| l.binary_search(&number).is_ok()))
    }
}

enum Candidates<'a> {
    None,
    List(&'a [u32]),
}

fn ordered(
    list: &[u32],
    direction: Direction,
    visit: &mut impl FnMut(u32) -> Option<u64>,
) -> Option<u64> {
    match direction {
        Direction::Forward => list.iter().find_map(|n| visit(*n)),
        Direction::Backward => list.iter().rev().find_map(|n| visit(*n)),
    }
}
