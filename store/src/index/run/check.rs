//! A run against the records of the log, one after the other, in little memory.
//!
//! Entries are compared as records come. Postings, of which the log makes one list for each stream, type and tag, are
//! compared as sums of hashes: in which order they come makes no difference to a sum, and a table that ascends and has the
//! same sum has the same rows.
//!
//! Which earlier run has a stream's events is only seen to be one that can be: `verify`, which walks all runs, compares it.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use super::{
    ENTRY_BYTES, Fields, ID_BYTES, KEY_BYTES, NO_RUN, NUMBER_BITS, Run, STREAM_BYTES, TAG_BYTES,
    TYPE_BYTES, Table, id_prefix, tag_digest,
};
use crate::{
    error::ReadError,
    index::{
        Details,
        pages::PageReader,
        part::{IdempotencyEntry, RecordEntry, idempotency_digest},
    },
    record::RecordKind,
    words::Reference,
};

/// A run of which records came from its first one on.
pub(crate) struct RunCheck {
    run: Arc<Run>,
    /// Records that came.
    came: u32,
    hasher: RandomState,
    /// Of the postings of streams, types and tags.
    sums: [u64; 3],
    /// Rows of the table of ids; more than that has where records share one.
    ids: Vec<u64>,
    /// Keys with the record that has them, and a hash of the rest of their rows.
    keys: Vec<([u8; 16], u32, u64)>,
}

const STREAMS: usize = 0;
const TYPES: usize = 1;
const TAGS: usize = 2;

impl RunCheck {
    pub(crate) fn begin(run: Arc<Run>) -> Self {
        let (ids, keys) = (Vec::new(), Vec::new());
        Self { run, came: 0, hasher: RandomState::new(), sums: [0; 3], ids, keys }
    }

    /// The position of the record that is to come.
    pub(crate) fn next(&self) -> u64 {
        self.run.first() + u64::from(self.came)
    }

    /// Whether all its records came.
    pub(crate) fn is_whole(&self) -> bool {
        self.next() == self.run.end()
    }

    /// Compares the entries of neighbouring records, the next ones.
    ///
    /// # Errors
    /// The first that differs, or why that cannot be said.
    pub(crate) fn records(
        &mut self,
        records: impl IntoIterator<Item = (RecordEntry, Option<Reference>, Details)>,
    ) -> Result<(), ReadError> {
        let run = Arc::clone(&self.run);
        let mut entries = run.entries(true);
        for (entry, actor, details) in records {
            let position = self.next();
            if entries.get(position)? != entry {
                let at = run.layout.entries.at + u64::from(self.came) * ENTRY_BYTES;
                return Err(run.wrong(at));
            }
            self.came += 1;
            self.take(&entry, actor, &details);
        }
        Ok(())
    }

    fn take(&mut self, entry: &RecordEntry, actor: Option<Reference>, details: &Details) {
        let number = self.came - 1;
        if entry.kind == RecordKind::Event {
            self.add(STREAMS, (entry.stream, number));
            self.add(TYPES, (entry.event_type, number));
            for (i, tag) in details.tags.iter().enumerate() {
                if !details.tags[..i].contains(tag) {
                    self.add(TAGS, (tag_digest(tag), number));
                }
            }
        }
        self.ids.push(id_prefix(&entry.id) << NUMBER_BITS | u64::from(number));
        if let (Some(actor), Some(body)) = (actor, &details.idempotency) {
            let digest = idempotency_digest(actor, &body.route, &body.key);
            let rest = self.hasher.hash_one(key_row(&IdempotencyEntry::of(body, entry.time)));
            self.keys.push((digest, number, rest));
        }
    }

    fn add(&mut self, table: usize, posting: impl Hash) {
        self.sums[table] = self.sums[table].wrapping_add(self.hasher.hash_one(posting));
    }

    /// Bytes of all that is compared.
    pub(crate) fn bytes(&self) -> u64 {
        self.run.layout.end() - self.run.layout.entries.at
    }

    pub(crate) fn file(&self) -> &str {
        self.run.pages.name()
    }

    /// The position behind the last record.
    pub(crate) fn run_end(&self) -> u64 {
        self.run.end()
    }

    /// Compares the tables, once every record came.
    ///
    /// # Errors
    /// The first that differs, or why that cannot be said.
    pub(crate) fn end(mut self) -> Result<(), ReadError> {
        assert!(self.is_whole(), "it is asked for the whole run");
        let run = Arc::clone(&self.run);
        let layout = &run.layout;
        let mut postings = Postings { run: &run, reader: run.pages.sequential(), rows: 0 };
        let mut sum = 0_u64;
        rows::<{ STREAM_BYTES as usize }, _>(&run, layout.streams, |row| {
            let mut fields = Fields(row);
            let (id, at, count, previous) =
                (fields.u32(), fields.u32(), fields.u32(), fields.u64());
            let hash = |number: u32| self.hasher.hash_one((id, number));
            sum = sum.wrapping_add(postings.sum(at, count, hash)?);
            let can_be = previous == NO_RUN || previous < run.first();
            Ok(Some(id).filter(|_| can_be))
        })?;
        run.holds(layout.streams, sum == self.sums[STREAMS])?;
        sum = 0;
        rows::<{ TYPE_BYTES as usize }, _>(&run, layout.types, |row| {
            let mut fields = Fields(row);
            let (id, at, count) = (fields.u32(), fields.u32(), fields.u32());
            let hash = |number: u32| self.hasher.hash_one((id, number));
            sum = sum.wrapping_add(postings.sum(at, count, hash)?);
            Ok(Some(id))
        })?;
        run.holds(layout.types, sum == self.sums[TYPES])?;
        sum = 0;
        rows::<{ TAG_BYTES as usize }, _>(&run, layout.tags, |row| {
            let mut fields = Fields(row);
            let (digest, at, count) = (fields.take::<16>(), fields.u32(), fields.u32());
            let hash = |number: u32| self.hasher.hash_one((digest, number));
            sum = sum.wrapping_add(postings.sum(at, count, hash)?);
            Ok(Some(digest))
        })?;
        run.holds(layout.tags, sum == self.sums[TAGS])?;
        run.holds(layout.postings, postings.rows == layout.postings.rows)?;
        self.ids_hold()?;
        self.keys_hold()
    }

    /// Of records with the same id, the table has the last one alone.
    fn ids_hold(&mut self) -> Result<(), ReadError> {
        let (run, table) = (&*self.run, self.run.layout.ids);
        self.ids.sort_unstable();
        let mut entries = run.entries(false);
        let mut id = |row: u64| -> Result<[u8; 16], ReadError> {
            Ok(entries.get(run.first() + (row & ((1 << NUMBER_BITS) - 1)))?.id)
        };
        let mut made = Vec::new();
        for alike in self.ids.chunk_by(|a, b| a >> NUMBER_BITS == b >> NUMBER_BITS) {
            if let [alone] = alike {
                made.push(*alone);
                continue;
            }
            let ids = alike.iter().map(|row| id(*row)).collect::<Result<Vec<_>, _>>()?;
            let last = |i: &usize| !ids[i + 1..].contains(&ids[*i]);
            made.extend((0..alike.len()).filter(last).map(|i| alike[i]));
        }
        let mut left = made.into_iter();
        rows::<{ ID_BYTES as usize }, _>(run, table, |row| {
            Ok(left.next().filter(|made| *made == u64::from_le_bytes(*row)))
        })?;
        run.holds(table, left.next().is_none())
    }

    /// Of uses of the same key, the table has the last one alone.
    fn keys_hold(&mut self) -> Result<(), ReadError> {
        let (run, table) = (&*self.run, self.run.layout.keys);
        self.keys.sort_unstable();
        let keys = &self.keys;
        let is_last = |i: &usize| keys.get(i + 1).is_none_or(|next| next.0 != keys[*i].0);
        let mut left = (0..keys.len()).filter(is_last).map(|i| keys[i]);
        rows::<{ KEY_BYTES as usize }, _>(run, table, |row| {
            let mut fields = Fields(row);
            let (digest, number) = (fields.take::<16>(), fields.u32());
            let found = (digest, number, self.hasher.hash_one(fields.0));
            Ok(left.next().filter(|made| *made == found).map(|made| made.0))
        })?;
        run.holds(table, left.next().is_none())
    }
}

/// A key's row behind the record's number.
fn key_row(entry: &IdempotencyEntry) -> Vec<u8> {
    let (records, time) = (entry.records.to_le_bytes(), entry.time.to_le_bytes());
    [&records[..], &entry.request, &time].concat()
}

/// Lists of the postings' table, which lie there in the order of the rows that speak of them.
struct Postings<'a> {
    run: &'a Run,
    reader: PageReader<'a>,
    /// Those that were read.
    rows: u64,
}

impl Postings<'_> {
    fn sum(&mut self, at: u32, count: u32, hash: impl Fn(u32) -> u64) -> Result<u64, ReadError> {
        let (run, table) = (self.run, self.run.layout.postings);
        let fits = u64::from(at) == self.rows && self.rows + u64::from(count) <= table.rows;
        run.holds(table, fits)?;
        let (mut sum, mut last) = (0_u64, None);
        for _ in 0..count {
            let place = table.at + 4 * self.rows;
            let number = u32::from_le_bytes(self.reader.array(place)?);
            if last.is_some_and(|last| number <= last) {
                return Err(run.wrong(place));
            }
            (last, self.rows) = (Some(number), self.rows + 1);
            sum = sum.wrapping_add(hash(number));
        }
        Ok(sum)
    }
}

/// Reads all rows of a table; `key` says what they ascend by, or that one is wrong.
fn rows<const N: usize, K: Ord>(
    run: &Run,
    table: Table,
    mut key: impl FnMut(&[u8; N]) -> Result<Option<K>, ReadError>,
) -> Result<(), ReadError> {
    let (mut reader, mut last) = (run.pages.sequential(), None);
    for at in (0..table.rows).map(|row| table.at + row * N as u64) {
        let found = key(&reader.array(at)?)?;
        if last >= found {
            return Err(run.wrong(at));
        }
        last = found;
    }
    Ok(())
}

impl Run {
    fn holds(&self, table: Table, holds: bool) -> Result<(), ReadError> {
        if holds { Ok(()) } else { Err(self.wrong(table.at)) }
    }
}

#[cfg(test)]
use crate::index::pages::Pages;

#[cfg(test)]
impl Run {
    /// Where the last row of each table that has some begins in the file.
    pub(crate) fn last_rows(&self) -> Vec<u64> {
        let l = &self.layout;
        let tables = [
            (l.entries, ENTRY_BYTES),
            (l.streams, STREAM_BYTES),
            (l.types, TYPE_BYTES),
            (l.tags, TAG_BYTES),
            (l.postings, 4),
            (l.ids, ID_BYTES),
            (l.keys, KEY_BYTES),
        ];
        let some = tables.iter().filter(|(table, _)| table.rows > 0);
        some.map(|(table, bytes)| Pages::offset_of(table.at + (table.rows - 1) * bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::{Disk, simulated::SimulatedDisk},
        index::{IdempotencyBody, part::MemoryPart, part::Rows, write_pages, write_part},
        log::{Segment, run::Place},
        words::{Hash, Tag},
    };

    fn record(n: u8) -> (RecordEntry, Option<Reference>, Details) {
        let place = Place { block: u32::from(n), inside: 7 };
        let entry = RecordEntry {
            leaf: place,
            payloads: place,
            leaf_bytes: 1,
            payload_bytes: 2,
            kind: RecordKind::Event,
            stream: u32::from(n % 3),
            event_type: u32::from(n % 2),
            version: u64::from(n),
            time: i64::from(n),
            occurred: i64::MIN,
            hash: Hash([n; 32]),
            id: [n % 7; 16],
            kinds: crate::record::PayloadKinds::default(),
        };
        let body = IdempotencyBody {
            route: "append".to_owned(),
            key: (n % 5).to_string(),
            request: "5a".repeat(32),
            records: 1,
        };
        let mut details = Details::default();
        details.idempotency = Some(body);
        details.tags = [n % 4, 9, n % 4].map(|t| Tag::new(&t.to_string()).unwrap()).to_vec();
        (entry, Some(Reference([1; 16])), details)
    }

    /// Ids and keys that came more than once, and a tag that a record has twice.
    #[test]
    fn what_records_share_is_whole() {
        let disk = SimulatedDisk::new();
        let segment = disk.create("log/segment").unwrap();
        let segment = Arc::new(Segment::new(segment, "log/segment".to_owned(), 1));
        let mut rows = Rows::new(false);
        for (entry, actor, details) in (0..60).map(record) {
            rows.push(entry, &details.tags);
            let body = details.idempotency.as_ref().unwrap();
            rows.push_idempotency(actor.unwrap(), body, entry.time);
        }
        let part = MemoryPart::new(Arc::clone(&segment), 30, rows);
        let mut content = Vec::new();
        let layout = write_part(&mut content, &part, &mut |_| Ok(NO_RUN)).unwrap();
        assert_eq!((layout.ids.rows, layout.keys.rows), (7, 5));
        write_pages(&*disk, "index/run", &content).unwrap();
        let pages = Arc::new(Pages::open(&*disk, "index/run".to_owned()).unwrap());
        let run = Arc::new(Run::new(segment, pages, layout));
        for wrong in [None, Some(59)] {
            let mut check = RunCheck::begin(Arc::clone(&run));
            check.records((0..30).map(record)).unwrap();
            assert!(!check.is_whole());
            let rest = (30..60).map(|n| {
                let (entry, actor, mut details) = record(n);
                details.tags.truncate(if wrong == Some(n) { 1 } else { 3 });
                (entry, actor, details)
            });
            check.records(rest).unwrap();
            assert_eq!(check.end().is_err(), wrong.is_some());
        }
    }
}
