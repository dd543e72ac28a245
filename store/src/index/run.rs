//! The index of a part of a tenant's log as a derived file: written once from a [`MemoryPart`], read in place.

mod check;
mod compare;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use check::RunCheck;

use super::{
    pages::{PageReader, Pages},
    part::{IdempotencyEntry, MemoryPart, RecordEntry, Rows},
};
use crate::{
    error::ReadError,
    log::{Segment, run::Place},
    record::{PayloadKinds, RecordKind},
    words::{Hash, Tag},
};

const ENTRY_BYTES: u64 = 101;
const STREAM_BYTES: u64 = 20;
const TYPE_BYTES: u64 = 12;
const TAG_BYTES: u64 = 24;
const ID_BYTES: u64 = 8;
const KEY_BYTES: u64 = 64;
/// An id's entry is 40 bits of its hash before 24 bits of the record's number.
const NUMBER_BITS: u32 = 24;
/// No run before this one has the stream.
pub(crate) const NO_RUN: u64 = u64::MAX;

/// A table of equal rows in a run's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Table {
    at: u64,
    rows: u64,
}

/// Where a part's tables lie in its file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The segment that holds the records.
    pub(crate) segment: u64,
    pub(crate) first: u64,
    entries: Table,
    streams: Table,
    types: Table,
    tags: Table,
    postings: Table,
    ids: Table,
    keys: Table,
    /// Time of the last record, in microseconds.
    pub(crate) last_time: i64,
}

impl Layout {
    /// Whether all that it speaks of can be counted: no file is as large, and no run has as many records.
    pub(crate) fn can_be(&self) -> bool {
        let tables =
            [self.entries, self.streams, self.types, self.tags, self.postings, self.ids, self.keys];
        tables.iter().all(|table| table.at < 1 << 48 && table.rows <= 1 << 32)
            && self.entries.rows <= 1 << NUMBER_BITS
            && self.first < 1 << 53
    }
}

/// A part on disk.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) segment: Arc<Segment>,
    pages: Arc<Pages>,
    layout: Layout,
}

/// A list of record numbers, ascending, in a run.
#[derive(Debug)]
pub(crate) struct RunPostings<'a> {
    reader: PageReader<'a>,
    at: u64,
    pub(crate) count: usize,
}

impl RunPostings<'_> {
    pub(crate) fn get(&mut self, i: usize) -> Result<u32, ReadError> {
        self.reader.array(self.at + 4 * i as u64).map(u32::from_le_bytes)
    }
}

/// Adds a part's tables to `content`. `previous` tells the run before this one that has a stream.
pub(crate) fn write_part(
    content: &mut Vec<u8>,
    part: &MemoryPart,
    previous: &mut dyn FnMut(u32) -> Result<u64, ReadError>,
) -> Result<Layout, ReadError> {
    let rows = part.rows.read();
    let mut postings: Vec<u32> = Vec::new();
    let entries = begin(content, rows.entries.len());
    content.reserve(rows.entries.len() * ENTRY_BYTES as usize);
    rows.entries.iter().for_each(|entry| push_entry(content, entry));
    let streams = write_streams(content, &rows, &mut postings, previous)?;
    let types = write_types(content, &rows, &mut postings);
    let tags = write_tags(content, &rows, &mut postings);
    let postings_at = begin(content, postings.len());
    for number in postings {
        content.extend_from_slice(&number.to_le_bytes());
    }
    let ids = write_ids(content, &rows);
    let keys = write_keys(content, &rows);
    Ok(Layout {
        segment: part.segment.first_op,
        first: part.first,
        entries,
        streams,
        types,
        tags,
        postings: postings_at,
        ids,
        keys,
        last_time: rows.entries.last().map_or(i64::MIN, |e| e.time),
    })
}

fn begin(content: &[u8], rows: usize) -> Table {
    Table { at: content.len() as u64, rows: rows as u64 }
}

fn push_entry(content: &mut Vec<u8>, e: &RecordEntry) {
    // On the stack first: the vector asks for room once an entry.
    let mut row = [0; ENTRY_BYTES as usize];
    let mut left = &mut row[..];
    let mut put = |bytes: &[u8]| {
        let (now, later) = std::mem::take(&mut left).split_at_mut(bytes.len());
        now.copy_from_slice(bytes);
        left = later;
    };
    for place in [e.leaf, e.payloads] {
        put(&place.block.to_le_bytes());
        put(&place.inside.to_le_bytes());
    }
    put(&e.leaf_bytes.to_le_bytes());
    put(&e.payload_bytes.to_le_bytes());
    put(&[e.kind as u8]);
    put(&e.stream.to_le_bytes());
    put(&e.event_type.to_le_bytes());
    put(&e.version.to_le_bytes());
    put(&e.time.to_le_bytes());
    put(&e.occurred.to_le_bytes());
    put(&e.hash.0);
    put(&e.id);
    put(&e.kinds.0.to_le_bytes());
    content.extend_from_slice(&row);
}

/// Reads little-endian numbers off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.0.split_at(N);
        self.0 = later;
        now.try_into().expect("N bytes")
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.take())
    }

    fn place(&mut self) -> Place {
        Place { block: self.u32(), inside: u16::from_le_bytes(self.take()) }
    }
}

fn read_entry(bytes: &[u8]) -> Option<RecordEntry> {
    let mut fields = Fields(bytes);
    Some(RecordEntry {
        leaf: fields.place(),
        payloads: fields.place(),
        leaf_bytes: u16::from_le_bytes(fields.take()),
        payload_bytes: fields.u32(),
        kind: RecordKind::from_byte(fields.take::<1>()[0])?,
        stream: fields.u32(),
        event_type: fields.u32(),
        version: fields.u64(),
        time: fields.i64(),
        occurred: fields.i64(),
        hash: Hash(fields.take()),
        id: fields.take(),
        kinds: PayloadKinds(u16::from_le_bytes(fields.take())),
    })
}

/// Adds a list to the postings; says where and how long.
fn add_postings(postings: &mut Vec<u32>, list: &[u32]) -> (u32, u32) {
    let at = postings.len() as u32;
    postings.extend_from_slice(list);
    (at, list.len() as u32)
}

fn write_streams(
    content: &mut Vec<u8>,
    rows: &Rows,
    postings: &mut Vec<u32>,
    previous: &mut dyn FnMut(u32) -> Result<u64, ReadError>,
) -> Result<Table, ReadError> {
    let mut streams: Vec<_> = rows.streams.iter().collect();
    streams.sort_unstable_by_key(|(id, _)| **id);
    let table = begin(content, streams.len());
    for (id, list) in streams {
        let (at, count) = add_postings(postings, list);
        for n in [*id, at, count] {
            content.extend_from_slice(&n.to_le_bytes());
        }
        content.extend_from_slice(&previous(*id)?.to_le_bytes());
    }
    Ok(table)
}

fn write_types(content: &mut Vec<u8>, rows: &Rows, postings: &mut Vec<u32>) -> Table {
    let mut types: Vec<_> = rows.types.iter().collect();
    types.sort_unstable_by_key(|(id, _)| **id);
    let table = begin(content, types.len());
    for (id, list) in types {
        let (at, count) = add_postings(postings, list);
        for n in [*id, at, count] {
            content.extend_from_slice(&n.to_le_bytes());
        }
    }
    table
}

fn write_tags(content: &mut Vec<u8>, rows: &Rows, postings: &mut Vec<u32>) -> Table {
    let mut tags: Vec<_> = rows.tags.iter().map(|(tag, list)| (tag_digest(tag), list)).collect();
    tags.sort_unstable_by_key(|(digest, _)| *digest);
    let table = begin(content, tags.len());
    for (digest, list) in tags {
        let (at, count) = add_postings(postings, list);
        content.extend_from_slice(&digest);
        content.extend_from_slice(&at.to_le_bytes());
        content.extend_from_slice(&count.to_le_bytes());
    }
    table
}

fn tag_digest(tag: &Tag) -> [u8; 16] {
    blake3::hash(tag.as_str().as_bytes()).as_bytes()[..16].try_into().expect("16")
}

fn id_prefix(id: &[u8; 16]) -> u64 {
    u64::from_be_bytes(blake3::hash(id).as_bytes()[..8].try_into().expect("8")) >> NUMBER_BITS
}

fn write_ids(content: &mut Vec<u8>, rows: &Rows) -> Table {
    let id = |number: u64| &rows.entries[number as usize].id;
    let row = |number| id_prefix(id(number)) << NUMBER_BITS | number;
    let mut ids: Vec<u64> = (0..rows.entries.len() as u64).map(row).collect();
    ids.sort_unstable();
    let mut table = begin(content, 0);
    for alike in ids.chunk_by(|a, b| a >> NUMBER_BITS == b >> NUMBER_BITS) {
        for (i, row) in alike.iter().enumerate() {
            let of = |row: u64| id(row & ((1 << NUMBER_BITS) - 1));
            // An id leads to the last record that has it.
            if alike[i + 1..].iter().all(|later| of(*later) != of(*row)) {
                content.extend_from_slice(&row.to_le_bytes());
                table.rows += 1;
            }
        }
    }
    table
}

fn write_keys(content: &mut Vec<u8>, rows: &Rows) -> Table {
    let mut keys: Vec<_> = rows.idempotency.iter().collect();
    keys.sort_unstable_by_key(|(digest, _)| **digest);
    let table = begin(content, keys.len());
    for (digest, (number, entry)) in keys {
        content.extend_from_slice(digest);
        content.extend_from_slice(&number.to_le_bytes());
        content.extend_from_slice(&entry.records.to_le_bytes());
        content.extend_from_slice(&entry.request);
        content.extend_from_slice(&entry.time.to_le_bytes());
    }
    table
}

impl Run {
    pub(crate) fn new(segment: Arc<Segment>, pages: Arc<Pages>, layout: Layout) -> Self {
        Self { segment, pages, layout }
    }

    pub(crate) fn first(&self) -> u64 {
        self.layout.first
    }

    /// The position behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.layout.first + self.layout.entries.rows
    }

    /// Reads entries one after the other, or a single one.
    pub(crate) fn entries(&self, sequential: bool) -> RunEntries<'_> {
        let reader = if sequential { self.pages.sequential() } else { self.pages.point() };
        RunEntries { run: self, reader }
    }

    /// The events of a stream, and the run before this one that has it.
    pub(crate) fn stream(&self, id: u32) -> Result<Option<(RunPostings<'_>, u64)>, ReadError> {
        let table = self.layout.streams;
        let row =
            self.find(table, STREAM_BYTES, |key: [u8; 4]| u32::from_le_bytes(key).cmp(&id))?;
        let Some(mut row) = row else { return Ok(None) };
        let bytes: [u8; STREAM_BYTES as usize] = row.0.array(row.1)?;
        let mut fields = Fields(&bytes[4..]);
        let (at, count, previous) = (fields.u32(), fields.u32(), fields.u64());
        Ok(Some((self.postings(at, count), previous)))
    }

    pub(crate) fn event_type(&self, id: u32) -> Result<Option<RunPostings<'_>>, ReadError> {
        let table = self.layout.types;
        let row = self.find(table, TYPE_BYTES, |key: [u8; 4]| u32::from_le_bytes(key).cmp(&id))?;
        let Some(mut row) = row else { return Ok(None) };
        let bytes: [u8; TYPE_BYTES as usize] = row.0.array(row.1)?;
        let mut fields = Fields(&bytes[4..]);
        Ok(Some(self.postings(fields.u32(), fields.u32())))
    }

    pub(crate) fn tag(&self, tag: &Tag) -> Result<Option<RunPostings<'_>>, ReadError> {
        let digest = tag_digest(tag);
        let row = self.find(self.layout.tags, TAG_BYTES, |key: [u8; 16]| key.cmp(&digest))?;
        let Some(mut row) = row else { return Ok(None) };
        let bytes: [u8; TAG_BYTES as usize] = row.0.array(row.1)?;
        let mut fields = Fields(&bytes[16..]);
        Ok(Some(self.postings(fields.u32(), fields.u32())))
    }

    fn postings(&self, at: u32, count: u32) -> RunPostings<'_> {
        RunPostings {
            reader: self.pages.sequential(),
            at: self.layout.postings.at + 4 * u64::from(at),
            count: count as usize,
        }
    }

    /// Positions of records whose id has the same hash as this one, as far as it is kept: few, mostly none.
    pub(crate) fn find_id(&self, id: &[u8; 16]) -> Result<Vec<u64>, ReadError> {
        let prefix = id_prefix(id);
        let table = self.layout.ids;
        let mut reader = self.pages.point();
        let mut row = |i: u64| reader.array(table.at + i * ID_BYTES).map(u64::from_le_bytes);
        // Hashes are spread evenly, so the row's place is known to within a page or two.
        let guess = ((u128::from(prefix) * u128::from(table.rows)) >> (64 - NUMBER_BITS)) as u64;
        let (mut low, mut high) = (0, table.rows);
        let mut step = 256;
        let mut at = guess.min(table.rows);
        while at > 0 && row(at - 1)? >> NUMBER_BITS >= prefix {
            high = at;
            at = at.saturating_sub(step);
            step *= 2;
        }
        low = low.max(at);
        step = 256;
        let mut until = (low + step).min(high);
        while until < high && row(until)? >> NUMBER_BITS < prefix {
            low = until;
            step *= 2;
            until = (until + step).min(high);
        }
        high = until;
        while low < high {
            let middle = low.midpoint(high);
            if row(middle)? >> NUMBER_BITS < prefix {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut found = Vec::new();
        while low < table.rows {
            let candidate = row(low)?;
            if candidate >> NUMBER_BITS != prefix {
                break;
            }
            found.push(self.layout.first + (candidate & ((1 << NUMBER_BITS) - 1)));
            low += 1;
        }
        Ok(found)
    }

    pub(crate) fn find_idempotency(
        &self,
        digest: &[u8; 16],
    ) -> Result<Option<(u64, IdempotencyEntry)>, ReadError> {
        let row = self.find(self.layout.keys, KEY_BYTES, |key: [u8; 16]| key.cmp(digest))?;
        let Some(mut row) = row else { return Ok(None) };
        let bytes: [u8; KEY_BYTES as usize] = row.0.array(row.1)?;
        let mut fields = Fields(&bytes[16..]);
        let number = fields.u32();
        let (records, request, time) = (fields.u32(), fields.take(), fields.i64());
        let entry = IdempotencyEntry { records, request, time };
        Ok(Some((self.layout.first + u64::from(number), entry)))
    }

    /// Time of the last record.
    pub(crate) fn last_time(&self) -> i64 {
        self.layout.last_time
    }

    /// The row of a sorted table for which `compare` says equal: a reader, and where it begins.
    fn find<const N: usize>(
        &self,
        table: Table,
        bytes: u64,
        compare: impl Fn([u8; N]) -> std::cmp::Ordering,
    ) -> Result<Option<(PageReader<'_>, u64)>, ReadError> {
        let mut reader = self.pages.point();
        let (mut low, mut high) = (0, table.rows);
        while low < high {
            let middle = low.midpoint(high);
            let at = table.at + middle * bytes;
            match compare(reader.array(at)?) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some((reader, at))),
            }
        }
        Ok(None)
    }
}

/// Entries of a run.
#[derive(Debug)]
pub(crate) struct RunEntries<'a> {
    run: &'a Run,
    reader: PageReader<'a>,
}

impl RunEntries<'_> {
    /// The entry of a record of this run.
    pub(crate) fn get(&mut self, position: u64) -> Result<RecordEntry, ReadError> {
        let layout = &self.run.layout;
        let at = layout.entries.at + (position - layout.first) * ENTRY_BYTES;
        let bytes: [u8; ENTRY_BYTES as usize] = self.reader.array(at)?;
        let wrong = || self.run.pages.damage(0, "an entry of a kind that is unknown");
        read_entry(&bytes).ok_or_else(wrong)
    }
}
