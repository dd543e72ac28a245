//! Sections of ops, taken apart into records and checked.

use super::{TenantBody, parse};
use crate::{
    log::frame::{Section, SectionRuns},
    record::{Entry, Leaf, PayloadKind, RecordKind, leaf_hash},
    words::Hash,
};

/// A record whose bytes hold.
pub(super) struct Checked<'a> {
    pub(super) leaf: Leaf<'a>,
    pub(super) leaf_at: usize,
    pub(super) leaf_bytes: u16,
    pub(super) payloads: &'a [u8],
    pub(super) payloads_at: usize,
    pub(super) hash: Hash,
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

const BROKEN_CHAIN: &str = "the chain of leaves does not lead to its head";

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
