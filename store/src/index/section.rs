//! A section's records, taken apart and checked.

use serde::Deserialize;

use super::{IdempotencyBody, RecordEntry, TenantBody};
use crate::{
    error::ReadError,
    log::{
        frame::{RunPlace, Section, SectionRuns},
        run::Place,
    },
    record::{Entry, Leaf, PayloadKind, RecordKind, Role, leaf_hash},
    words::{Hash, Reference, Tag, Timestamp},
};

/// Why a record was not taken in.
pub(crate) enum Wrong {
    Record(&'static str),
    Read(ReadError),
}

impl From<&'static str> for Wrong {
    fn from(what: &'static str) -> Self {
        Self::Record(what)
    }
}

/// A record whose bytes hold.
pub(super) struct Checked<'a> {
    pub(super) leaf: Leaf<'a>,
    leaf_at: usize,
    leaf_bytes: u16,
    pub(super) payloads: &'a [u8],
    payloads_at: usize,
    hash: Hash,
}

impl Checked<'_> {
    /// What the index has of it, whose frame begins at `offset`; the numbers are of its stream and its type.
    pub(super) fn entry(
        &self,
        offset: u64,
        runs: &SectionRuns,
        (stream, event_type): Numbers,
        details: &Details,
    ) -> RecordEntry {
        let leaf = &self.leaf;
        let place = |p: RunPlace| Place { block: offset as u32 + p.block, inside: p.inside };
        RecordEntry {
            leaf: place(runs.leaf_place(self.leaf_at)),
            payloads: place(runs.payload_place(self.payloads_at)),
            leaf_bytes: self.leaf_bytes,
            payload_bytes: self.payloads.len() as u32,
            kind: leaf.kind,
            stream: stream.unwrap_or(u32::MAX),
            event_type: event_type.unwrap_or(u32::MAX),
            version: leaf.version,
            time: leaf.time_us,
            occurred: details.occurred.unwrap_or(i64::MIN),
            hash: self.hash,
            id: leaf.id,
            kinds: leaf.payloads().map(|(kind, _)| kind).collect(),
        }
    }
}

/// What filters and repetitions ask of a record's payloads.
#[derive(Debug, Default)]
pub(crate) struct Details {
    pub(super) tags: Vec<Tag>,
    occurred: Option<i64>,
    pub(super) idempotency: Option<IdempotencyBody>,
}

impl Details {
    /// Takes in a payload.
    pub(super) fn take(&mut self, kind: PayloadKind, json: &[u8]) -> Result<(), &'static str> {
        match kind {
            PayloadKind::OccurredAt => {
                let text: String = parse(json)?;
                self.occurred = Timestamp::parse(&text).map(Timestamp::micros);
            }
            PayloadKind::Tags => {
                let texts: Vec<String> = parse(json)?;
                let made: Result<_, _> = texts.iter().map(|t| Tag::new(t)).collect();
                self.tags = made.map_err(|_| "a tag cannot be")?;
            }
            PayloadKind::Idempotency => self.idempotency = Some(parse(json)?),
            PayloadKind::StreamName
            | PayloadKind::TypeName
            | PayloadKind::ActorName
            | PayloadKind::Data
            | PayloadKind::Metadata
            | PayloadKind::Body
            | PayloadKind::Row => {}
        }
        Ok(())
    }
}

/// Under which numbers an index knows a stream and a type, where a leaf has them.
pub(crate) type Numbers = (Option<u32>, Option<u32>);

/// What an index must have of each record of a section that holds, with its actor; `numbers` says under which ones it knows a
/// leaf's stream and type.
pub(crate) fn entries_of(
    offset: u64,
    runs: &SectionRuns,
    hashes: &[Hash],
    numbers: &mut dyn FnMut(&Leaf<'_>) -> Result<Numbers, ReadError>,
) -> Result<Vec<(RecordEntry, Option<Reference>, Details)>, Wrong> {
    let mut entries = Vec::with_capacity(hashes.len());
    let mut records = Records::known(runs, hashes);
    while let Some(record) = records.next()? {
        let (mut details, mut run) = (Details::default(), record.payloads);
        for (kind, _) in record.leaf.payloads() {
            if let Some(json) = Entry::take(&mut run)?.json()? {
                details.take(kind, json)?;
            }
        }
        let numbers = numbers(&record.leaf).map_err(Wrong::Read)?;
        let entry = record.entry(offset, runs, numbers, &details);
        entries.push((entry, record.leaf.reference(Role::Actor), details));
    }
    Ok(entries)
}

/// Checks a section without taking it in; without the hash of the record before it, not its chain.
pub(crate) fn holds(
    section: &Section,
    runs: &SectionRuns,
    previous: Option<Hash>,
) -> Result<(), &'static str> {
    match check_section(section, runs, previous.unwrap_or(Hash([0; 32]))) {
        Err(what) if previous.is_some() || what != BROKEN_CHAIN => Err(what),
        _ => Ok(()),
    }
}

const BROKEN_CHAIN: &str = "the chain of leaves does not lead to its head";

/// Checks a section that another made, of an op at this time, behind the record with the hash `previous`: all that does not
/// depend on what names stand for. Returns the tenants that its records make.
pub(crate) fn of_another(
    section: &Section,
    runs: &SectionRuns,
    previous: Hash,
    time_us: i64,
) -> Result<Vec<TenantBody>, &'static str> {
    let mut made = Vec::new();
    let hashes = check_records(section, runs, previous, |record| {
        if record.leaf.time_us != time_us {
            return Err("a record's time is not that of its op");
        }
        made.extend(made_by(record)?);
        Ok(())
    })?;
    if hashes.is_empty() { Err("a section without records") } else { Ok(made) }
}

/// The tenants that a section's records make, as far as they can be read.
pub(crate) fn makes(runs: &SectionRuns) -> Vec<TenantBody> {
    let mut records =
        Records { runs, known: None, previous: Hash([0; 32]), at: 0, payloads: &runs.payloads };
    let mut made = Vec::new();
    while let Ok(Some(record)) = records.next() {
        made.extend(made_by(&record).ok().flatten());
    }
    made
}

/// The tenant that a record makes.
fn made_by(record: &Checked<'_>) -> Result<Option<TenantBody>, &'static str> {
    if record.leaf.kind != RecordKind::TenantCreated {
        return Ok(None);
    }
    let mut run = record.payloads;
    for (kind, _) in record.leaf.payloads() {
        let entry = Entry::take(&mut run)?;
        if kind == PayloadKind::Body {
            return entry.json()?.map(parse).transpose();
        }
    }
    Err("a record of a tenant that says nothing of it")
}

/// Checks every leaf, the payloads' form and commitments, and last the chain; the hashes of the section's records, which
/// hold if the record before them has the hash `previous`.
pub(crate) fn check_section(
    section: &Section,
    runs: &SectionRuns,
    previous: Hash,
) -> Result<Vec<Hash>, &'static str> {
    check_records(section, runs, previous, |_| Ok(()))
}

/// The same, and what `look` looks for.
fn check_records(
    section: &Section,
    runs: &SectionRuns,
    previous: Hash,
    mut look: impl FnMut(&Checked<'_>) -> Result<(), &'static str>,
) -> Result<Vec<Hash>, &'static str> {
    let mut hashes = Vec::with_capacity((section.records as usize).min(runs.leaves.len() / 36));
    let mut records = Records { runs, known: None, previous, at: 0, payloads: &runs.payloads };
    while let Some(record) = records.next()? {
        look(&record)?;
        hashes.push(record.hash);
    }
    if hashes.len() != section.records as usize || !records.payloads.is_empty() {
        return Err("a section does not hold what its header says");
    }
    if records.previous != section.chain_head {
        return Err(BROKEN_CHAIN);
    }
    Ok(hashes)
}

/// The records of a section, taken apart one after the other.
pub(super) struct Records<'a> {
    runs: &'a SectionRuns,
    /// The hashes of those to come, where they hold for sure.
    known: Option<std::slice::Iter<'a, Hash>>,
    /// Of the record before.
    previous: Hash,
    /// Where in the leaves the next one begins.
    at: usize,
    /// Payloads of those to come.
    payloads: &'a [u8],
}

impl<'a> Records<'a> {
    /// Of a section whose records hold, with these hashes.
    pub(super) fn known(runs: &'a SectionRuns, hashes: &'a [Hash]) -> Self {
        let (known, previous) = (Some(hashes.iter()), Hash::default());
        Self { runs, known, previous, at: 0, payloads: &runs.payloads }
    }

    pub(super) fn next(&mut self) -> Result<Option<Checked<'a>>, &'static str> {
        let leaves = &self.runs.leaves[..];
        if self.at >= leaves.len() {
            return Ok(None);
        }
        let length = leaves.get(self.at..self.at + 2).ok_or("a leaf's length is cut off")?;
        let length = u16::from_le_bytes(length.try_into().expect("2"));
        let leaf_at = self.at + 2;
        self.at = leaf_at + usize::from(length);
        let bytes = leaves.get(leaf_at..self.at).ok_or("a leaf is cut off")?;
        let leaf = Leaf::decode(bytes)?;
        let before = self.payloads;
        for (_, commitment) in leaf.payloads() {
            let entry = Entry::take(&mut self.payloads)?;
            if self.known.is_none() && !entry.matches(commitment) {
                return Err("a payload does not match its commitment");
            }
        }
        self.previous = match &mut self.known {
            Some(known) => *known.next().ok_or("a section has more records than hashes")?,
            None => leaf_hash(bytes, self.previous),
        };
        Ok(Some(Checked {
            leaf,
            leaf_at,
            leaf_bytes: length,
            payloads: &before[..before.len() - self.payloads.len()],
            payloads_at: self.runs.payloads.len() - before.len(),
            hash: self.previous,
        }))
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, &'static str> {
    serde_json::from_slice(json).map_err(|_| "a payload is not the JSON that it must be")
}
