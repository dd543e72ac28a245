//! What is told of the log while it is read, and what it says by then.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use kimberlite_consensus::{Header, Identity, Op, Superblock};

use super::{
    CheckedRecords, Finding, FindingKind, Progress, Summary, Watcher,
    ahead::{Found, Held, ReadOp, ReadSection},
    derived::DerivedCheck,
};
use crate::{
    error::{Damage, ReadError},
    index::{Run, TenantBody, TenantIndex, hashes, holds},
    limits::CHECKPOINT_RECORDS,
    log::{
        Segment,
        frame::{Section, SectionRuns},
    },
    node::{SYSTEM, sixteen},
    record::genesis,
    words::{Hash, Hex, TenantName},
};

/// One tenant as far as its log was read.
pub(super) struct Tenant {
    pub(super) name: Option<TenantName>,
    pub(super) log_id: [u8; 16],
    /// What the log makes; `None` behind damage.
    pub(super) index: Option<TenantIndex>,
    count: u64,
    /// Hash of the last record, where it is known.
    chain: Option<Hash>,
    /// Runs that are still to be compared, in order.
    pub(super) runs: VecDeque<Run>,
    /// First position of the newest compared run with events of a stream.
    pub(super) newest: HashMap<u32, u64>,
}

/// See the module.
pub(super) struct Walk<'a> {
    watcher: &'a mut dyn Watcher,
    pub(super) summary: Summary,
    pub(super) progress: Progress,
    pub(super) tenants: HashMap<[u8; 16], Tenant>,
    pub(super) derived: Option<DerivedCheck>,
    floor: (Op, Identity),
    /// Where the last frame of each segment ends.
    pub(super) ends: HashMap<String, u64>,
    pub(super) damaged_files: HashSet<String>,
    /// Segments whose heads were reported.
    pub(super) headless: HashSet<String>,
    pub(super) torn: Option<Damage>,
    pub(super) log_damaged: bool,
}

impl Tenant {
    fn new(name: Option<TenantName>, log_id: [u8; 16]) -> Self {
        let first = genesis(log_id);
        let index = Some(TenantIndex::new(first));
        let (runs, newest) = (VecDeque::new(), HashMap::new());
        Self { name, log_id, index, count: 0, chain: Some(first), runs, newest }
    }

    /// One of which only sections are known.
    fn unknown() -> Self {
        Self { index: None, chain: None, ..Self::new(None, [0; 16]) }
    }

    /// Goes on behind a section that was not taken in.
    fn skip(&mut self, section: &Section) {
        let end = section.first_position + u64::from(section.records);
        if end > self.count {
            self.index = None;
            (self.count, self.chain) = (end, Some(section.chain_head));
        }
    }

    /// Takes in a section, or only checks it where that is all that can be done.
    fn take(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        section: Section,
        (runs, held): (&SectionRuns, Option<Held>),
    ) -> Result<Vec<TenantBody>, Damage> {
        let damage = |what| Damage { file: segment.name.clone(), offset, what };
        let held = held.filter(|held| Some(held.previous) == self.chain);
        let hashes = held.as_ref().map(|held| &held.hashes[..]);
        if let Some(index) = &mut self.index {
            match index.apply(segment, offset, section, runs, hashes) {
                Ok(()) => {}
                Err(ReadError::Damaged(damage)) => return Err(damage),
                Err(_) => return Err(damage("a section cannot be taken in")),
            }
            (self.count, self.chain) = (index.count, Some(index.chain_head));
            return Ok(std::mem::take(&mut index.tenants));
        }
        let chain = self.chain.filter(|_| section.first_position == self.count);
        let holds = match (hashes, chain) {
            (Some(_), Some(_)) => Ok(()),
            _ => holds(&section, runs, chain).map_err(damage),
        };
        self.skip(&section);
        holds.map(|()| Vec::new())
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(watcher: &'a mut dyn Watcher) -> Self {
        Self {
            watcher,
            summary: Summary::default(),
            progress: Progress::default(),
            tenants: HashMap::new(),
            derived: None,
            floor: (Op(0), Identity([0; 32])),
            ends: HashMap::new(),
            damaged_files: HashSet::new(),
            headless: HashSet::new(),
            torn: None,
            log_damaged: false,
        }
    }

    pub(super) fn begin(&mut self, superblock: Superblock) {
        self.floor = (superblock.commit, superblock.identity);
        self.tenants.insert(SYSTEM, Tenant::new(None, superblock.cluster));
    }

    pub(super) fn end(mut self) -> Summary {
        self.end_derived();
        self.summary.tenants = self.tenants.len() as u64;
        self.progress.bytes = self.progress.bytes_total;
        self.watcher.progress(&self.progress);
        self.summary
    }

    pub(super) fn damage(&mut self, damage: &Damage, tenants: Vec<String>) {
        self.damaged_files.insert(damage.file.clone());
        self.summary.damage += 1;
        self.found(FindingKind::Damage, damage, tenants);
    }

    pub(super) fn note(&mut self, note: &Damage, tenants: Vec<String>) {
        self.summary.notes += 1;
        self.found(FindingKind::Note, note, tenants);
    }

    fn found(&mut self, kind: FindingKind, of: &Damage, tenants: Vec<String>) {
        let Damage { file, offset, what } = of.clone();
        self.watcher.found(&Finding { kind, file, offset, what, tenants });
    }

    /// So many bytes of a file were dealt with.
    pub(super) fn went_on(&mut self, file: &str, bytes: u64) {
        if self.progress.file != file {
            file.clone_into(&mut self.progress.file);
        }
        self.progress.bytes = (self.progress.bytes + bytes).min(self.progress.bytes_total);
        self.watcher.progress(&self.progress);
    }

    /// Goes on behind this op, some before which were not read.
    pub(super) fn skip_to(&mut self, header: &Header) {
        for section in Section::all(header) {
            self.tenant(&section.tenant).skip(&section);
        }
    }

    fn tenant(&mut self, reference: &[u8; 16]) -> &mut Tenant {
        self.tenants.entry(*reference).or_insert_with(Tenant::unknown)
    }

    pub(super) fn name(&self, reference: &[u8; 16]) -> String {
        let known = self.tenants.get(reference).and_then(|t| t.name.as_ref());
        match known {
            Some(name) => name.to_string(),
            None if *reference == SYSTEM => "$cluster".to_owned(),
            None => Hex(reference).to_string(),
        }
    }

    fn section(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        section: Section,
        read: (&SectionRuns, Option<Held>),
    ) {
        let damaged_before = self.log_damaged;
        let known = self.tenants.contains_key(&section.tenant);
        let names = vec![self.name(&section.tenant)];
        let here = |what| Damage { file: segment.name.clone(), offset, what };
        if !known && !damaged_before {
            let what = "a tenant that no record made";
            self.damage(&here(what), names.clone());
        }
        let tenant = self.tenant(&section.tenant);
        let gap = tenant.count < section.first_position;
        if gap && damaged_before && tenant.index.is_some() {
            tenant.index = None;
            self.note(&here("records of the tenant before this one are lost"), names.clone());
        }
        let tenant = self.tenant(&section.tenant);
        let previous = tenant.chain.filter(|_| tenant.count == section.first_position);
        let (runs, held) = &read;
        let known = held.as_ref().filter(|held| Some(held.previous) == previous);
        let known = known.map(|held| held.hashes.clone());
        // The first section of a tenant has nothing before it that was known when it was read.
        let of_section = known.or_else(|| hashes(&section, runs, previous?).ok());
        let tenant = self.tenant(&section.tenant);
        match tenant.take(segment, offset, section, read) {
            Ok(created) => {
                self.summary.records += u64::from(section.records);
                if let Some(hashes) = &of_section {
                    let (tenant, first) = (&names[0][..], section.first_position);
                    self.watcher.records(&CheckedRecords { tenant, first, hashes });
                }
                for body in &created {
                    self.create(body, &here("a tenant's record cannot be read"));
                }
            }
            Err(damage) => {
                tenant.index = None;
                tenant.skip(&section);
                self.log_damaged = true;
                self.damage(&damage, names);
            }
        }
    }

    fn create(&mut self, body: &TenantBody, damage: &Damage) {
        let made = (TenantName::new(&body.tenant), sixteen(&body.reference), sixteen(&body.log_id));
        let (Ok(name), Some(reference), Some(log_id)) = made else {
            self.damage(damage, vec![self.name(&SYSTEM)]);
            return;
        };
        let runs = self.derived.as_mut().and_then(|d| d.runs.remove(&reference));
        let tenant = Tenant { runs: runs.unwrap_or_default(), ..Tenant::new(Some(name), log_id) };
        self.tenants.insert(reference, tenant);
    }

    /// Compares the run that ends where a tenant's log ends now, and lets go of what was compared.
    fn compare_runs(&mut self, reference: &[u8; 16]) {
        let Some(tenant) = self.tenants.get_mut(reference) else { return };
        let Tenant { index: Some(index), runs, newest, .. } = tenant else { return };
        let Some(run) = runs.pop_front_if(|run| run.end() <= index.count) else {
            // Behind the last checkpoint nothing is to be compared.
            if runs.is_empty()
                && index.view().slices.iter().map(len).sum::<u64>() > CHECKPOINT_RECORDS
            {
                index.take_parts();
            }
            return;
        };
        let parts = index.take_parts();
        let mut previous =
            |stream| Ok(newest.insert(stream, run.first()).unwrap_or(crate::index::NO_RUN));
        let file = run.pages().name().to_owned();
        let bad = self.derived.as_ref().is_some_and(|d| d.unreadable.contains(&file));
        let compared = match &parts[..] {
            [part] if part.first == run.first() && part.end() == run.end() => {
                run.compare(part, &mut previous)
            }
            _ => {
                let what = "a run does not end where a checkpoint can";
                Err(Damage { file, offset: 0, what }.into())
            }
        };
        self.summary.parts += 1;
        match compared {
            Ok(()) => {}
            // Its pages were reported.
            Err(_) if bad => {}
            Err(ReadError::Damaged(damage)) => {
                let names = vec![self.name(reference)];
                self.damage(&damage, names);
            }
            Err(_) => {
                let file = run.pages().name().to_owned();
                let what = "the file cannot be read";
                self.damage(&Damage { file, offset: 0, what }, Vec::new());
            }
        }
    }
}

fn len(slice: &crate::index::Slice) -> u64 {
    slice.end() - slice.first()
}

impl Walk<'_> {
    pub(super) fn take(&mut self, found: Found) {
        match found {
            Found::Op(op) => self.op(op),
            Found::Lost(sections, damage) => self.lost(sections, &damage),
            Found::Mends(left) => self.mends(left),
        }
    }

    fn op(&mut self, op: ReadOp) {
        let (segment, header) = (&op.segment, &op.header);
        if header.op == self.floor.0 && header.identity() != self.floor.1 {
            let what = "the commit floor is not the op that the log has there";
            let file = crate::log::superblock::NAME.to_owned();
            self.damage(&Damage { file, offset: 0, what }, Vec::new());
        }
        let mut lost: Option<(Damage, Vec<String>)> = None;
        let mut touched = Vec::new();
        for ReadSection { section, runs, held } in op.sections {
            touched.push(section.tenant);
            match runs {
                Ok(runs) => self.section(segment, op.offset, section, (&runs, held)),
                Err(damage) => {
                    let name = self.name(&section.tenant);
                    self.tenant(&section.tenant).skip(&section);
                    lost.get_or_insert((damage, Vec::new())).1.push(name);
                }
            }
        }
        if let Some((damage, tenants)) = lost {
            self.log_damaged = true;
            self.damage(&damage, tenants);
        } else {
            self.summary.ops += 1;
        }
        for tenant in &touched {
            self.compare_runs(tenant);
        }
        self.reach(header, segment.first_op, (op.offset, op.offset + op.length));
        self.ends.insert(segment.name.clone(), op.offset + op.length);
        self.went_on(&segment.name, op.length);
    }

    fn lost(&mut self, sections: Vec<Section>, damage: &Damage) {
        self.log_damaged = true;
        let mut tenants = Vec::new();
        for section in sections {
            tenants.push(self.name(&section.tenant));
            self.tenant(&section.tenant).skip(&section);
        }
        self.damage(damage, tenants);
    }

    fn mends(&mut self, left: Damage) {
        if left.what == crate::log::recovery::TORN {
            self.torn = Some(left);
        } else {
            self.note(&left, Vec::new());
        }
    }
}
