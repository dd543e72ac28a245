//! A tenant's index as a sequence of slices, in memory or on disk, that can be searched without a lock.

use std::sync::Arc;

use super::{
    part::{IdempotencyEntry, MemoryPart, RecordEntry},
    run::{Run, RunEntries, RunPostings},
};
use crate::{
    error::ReadError,
    limits::IDEMPOTENCY_WINDOW_US,
    log::Segment,
    record::RecordKind,
    words::{Hash, Tag},
};

/// As many leaf hashes are copied before others may write again.
const LEAVES_AT_ONCE: u64 = 512;

/// Neighbouring records of one segment.
#[derive(Clone, Debug)]
pub(crate) enum Slice {
    Memory(Arc<MemoryPart>),
    Disk(Arc<Run>),
}

/// The committed records at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) slices: Arc<Vec<Slice>>,
    pub(crate) count: u64,
}

/// A list of record numbers, ascending.
pub(crate) enum Postings<'a> {
    Memory(Vec<u32>),
    Disk(RunPostings<'a>),
}

/// Entries of one slice.
pub(crate) enum Entries<'a> {
    Memory(&'a MemoryPart),
    Disk(RunEntries<'a>),
}

/// What a list of postings is about.
#[derive(Clone, Copy)]
pub(crate) enum About<'a> {
    Stream(u32),
    Type(u32),
    Tag(&'a Tag),
}

impl Slice {
    pub(crate) fn first(&self) -> u64 {
        match self {
            Self::Memory(part) => part.first,
            Self::Disk(run) => run.first(),
        }
    }

    /// The position behind the last record.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Memory(part) => part.end(),
            Self::Disk(run) => run.end(),
        }
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        match self {
            Self::Memory(part) => &part.segment,
            Self::Disk(run) => &run.segment,
        }
    }

    /// Entries, to be read one after the other or one alone.
    pub(crate) fn entries(&self, sequential: bool) -> Entries<'_> {
        match self {
            Self::Memory(part) => Entries::Memory(part),
            Self::Disk(run) => Entries::Disk(run.entries(sequential)),
        }
    }

    /// The records with something, where there are any.
    pub(crate) fn postings(&self, about: About<'_>) -> Result<Option<Postings<'_>>, ReadError> {
        match self {
            Self::Memory(part) => {
                let rows = part.rows.read();
                let list = match about {
                    About::Stream(id) => rows.streams.get(&id),
                    About::Type(id) => rows.types.get(&id),
                    About::Tag(tag) => rows.tags.get(tag),
                };
                Ok(list.map(|list| Postings::Memory(list.clone())))
            }
            Self::Disk(run) => {
                let postings = match about {
                    About::Stream(id) => run.stream(id)?.map(|(postings, _)| postings),
                    About::Type(id) => run.event_type(id)?,
                    About::Tag(tag) => run.tag(tag)?,
                };
                Ok(postings.map(Postings::Disk))
            }
        }
    }

    fn find_id(&self, id: &[u8; 16]) -> Result<Option<u64>, ReadError> {
        let run = match self {
            Self::Memory(part) => return Ok(part.find_id(id)),
            Self::Disk(run) => run,
        };
        let mut entries = run.entries(false);
        for position in run.find_id(id)? {
            if entries.get(position)?.id == *id {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }
}

impl Postings<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(list) => list.len(),
            Self::Disk(postings) => postings.count,
        }
    }

    pub(crate) fn get(&mut self, i: usize) -> Result<u32, ReadError> {
        match self {
            Self::Memory(list) => Ok(list[i]),
            Self::Disk(postings) => postings.get(i),
        }
    }

    /// How many numbers come before the first for which `before` does not hold.
    pub(crate) fn partition(
        &mut self,
        mut before: impl FnMut(u32) -> Result<bool, ReadError>,
    ) -> Result<usize, ReadError> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if before(self.get(middle)?)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    pub(crate) fn contains(&mut self, number: u32) -> Result<bool, ReadError> {
        let at = self.partition(|n| Ok(n < number))?;
        Ok(at < self.len() && self.get(at)? == number)
    }
}

impl Entries<'_> {
    pub(crate) fn get(&mut self, position: u64) -> Result<RecordEntry, ReadError> {
        match self {
            Self::Memory(part) => Ok(part.entry(position)),
            Self::Disk(entries) => entries.get(position),
        }
    }

    /// Kinds and leaf hashes of neighbouring records, from `first` up to `end`: at least one, and not more than are read at
    /// once.
    pub(crate) fn leaves(
        &mut self,
        first: u64,
        end: u64,
    ) -> Result<Vec<(RecordKind, Hash)>, ReadError> {
        let positions = first..end.min(first + LEAVES_AT_ONCE);
        match self {
            Self::Memory(part) => Ok(part.leaves(positions)),
            Self::Disk(entries) => positions
                .map(|position| entries.get(position).map(|entry| (entry.kind, entry.hash)))
                .collect(),
        }
    }
}

impl View {
    /// The slice that holds a committed position.
    pub(crate) fn slice_of(&self, position: u64) -> Option<&Slice> {
        self.slice_index(position).map(|i| &self.slices[i])
    }

    pub(crate) fn slice_index(&self, position: u64) -> Option<usize> {
        if position >= self.count {
            return None;
        }
        Some(self.slices.partition_point(|s| s.first() <= position) - 1)
    }

    /// A committed record's segment and entry.
    pub(crate) fn entry(
        &self,
        position: u64,
    ) -> Result<Option<(&Arc<Segment>, RecordEntry)>, ReadError> {
        let Some(slice) = self.slice_of(position) else { return Ok(None) };
        Ok(Some((slice.segment(), slice.entries(false).get(position)?)))
    }

    /// The first event with something.
    pub(crate) fn first(&self, about: About<'_>) -> Result<Option<u64>, ReadError> {
        for slice in self.slices.iter() {
            if let Some(mut postings) = slice.postings(about)?
                && postings.len() > 0
            {
                return Ok(Some(slice.first() + u64::from(postings.get(0)?)));
            }
        }
        Ok(None)
    }

    /// Where an event or record with this id is. One that came later is not seen: the window knows it.
    pub(crate) fn find_id(&self, id: &[u8; 16]) -> Result<Option<u64>, ReadError> {
        for slice in self.slices.iter().rev() {
            if let Some(position) = slice.find_id(id)? {
                return Ok(Some(position).filter(|p| *p < self.count));
            }
        }
        Ok(None)
    }

    /// The newest use of an idempotency key that may count still.
    pub(crate) fn find_idempotency(
        &self,
        digest: &[u8; 16],
    ) -> Result<Option<(u64, IdempotencyEntry)>, ReadError> {
        let Some(last) = self.count.checked_sub(1) else { return Ok(None) };
        // The op to be comes later than the last one.
        let now = self.entry(last)?.map_or(i64::MIN, |(_, entry)| entry.time);
        let since = now.saturating_sub(IDEMPOTENCY_WINDOW_US);
        for slice in self.slices.iter().rev() {
            let found = match slice {
                Slice::Memory(part) => part.find_idempotency(digest),
                // Older ones are older still.
                Slice::Disk(run) if run.last_time() < since => return Ok(None),
                Slice::Disk(run) => run.find_idempotency(digest)?,
            };
            if found.is_some() {
                return Ok(found.filter(|(p, _)| *p < self.count));
            }
        }
        Ok(None)
    }
}
