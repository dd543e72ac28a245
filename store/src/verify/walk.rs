//! What is told of the log while it is read, and what it says by then.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use kimberlite_consensus::{Header, Identity, Op, Superblock};

use super::{
    CheckedRecords, Extent, Finding, FindingKind, Progress, Summary, Watcher,
    ahead::{Found, Held, ReadOp, ReadSection},
    comparing::{Compared, Comparing, Pair},
    derived::DerivedCheck,
    tiles::TileCheck,
};
use crate::{
    error::{Damage, ReadError},
    index::{MemoryPart, Rows, Run, TenantBody, TenantIndex, check_section, holds},
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
    /// What the log makes; `None` behind damage, and where it is not to be compared.
    pub(super) index: Option<TenantIndex>,
    /// Nothing of its log is missing so far.
    whole: bool,
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
    pub(super) tiles: Option<TileCheck>,
    extent: Extent,
    comparing: Comparing,
    /// Of a part that was compared.
    spare: Option<Rows>,
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
        let (index, chain) = (Some(TenantIndex::unsearched(first)), Some(first));
        let (runs, newest) = (VecDeque::new(), HashMap::new());
        Self { name, log_id, index, whole: true, count: 0, chain, runs, newest }
    }

    /// One of which only sections are known.
    fn unknown() -> Self {
        Self { index: None, whole: false, chain: None, ..Self::new(None, [0; 16]) }
    }

    /// What the log makes of it is not known any more.
    fn lose(&mut self) {
        (self.index, self.whole) = (None, false);
    }

    /// Goes on behind a section that was not taken in.
    fn skip(&mut self, section: &Section) {
        if section.first_position + u64::from(section.records) > self.count {
            self.lose();
            self.pass(section);
        }
    }

    /// Goes on behind a section.
    fn pass(&mut self, section: &Section) {
        let end = section.first_position + u64::from(section.records);
        (self.count, self.chain) = (end, Some(section.chain_head));
    }

    /// Takes in a section, or only checks it where that is all that can be done. Its hashes are known where it was seen to
    /// hold.
    fn take(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        section: Section,
        runs: &SectionRuns,
        hashes: Option<&[Hash]>,
    ) -> Result<Vec<TenantBody>, Damage> {
        let damage = |what| Damage { file: segment.name.clone(), offset, what };
        if let Some(index) = &mut self.index {
            match index.apply(segment, offset, section, runs, hashes) {
                Ok(()) => {}
                Err(ReadError::Damaged(damage)) => return Err(damage),
                Err(_) => return Err(damage("a section cannot be taken in")),
            }
            (self.count, self.chain) = (index.count, Some(index.chain_head));
            return Ok(std::mem::take(&mut index.tenants));
        }
        let follows = section.first_position == self.count;
        if self.whole && !follows {
            return Err(damage("a section does not begin where the tenant's log ends"));
        }
        let holds = match hashes {
            Some(_) => Ok(()),
            None => holds(&section, runs, self.chain.filter(|_| follows)).map_err(damage),
        };
        if self.whole {
            self.pass(&section);
        } else {
            self.skip(&section);
        }
        holds.map(|()| Vec::new())
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(watcher: &'a mut dyn Watcher, extent: Extent) -> Self {
        Self {
            watcher,
            extent,
            comparing: Comparing::new(),
            spare: None,
            summary: Summary::default(),
            progress: Progress::default(),
            tenants: HashMap::new(),
            derived: None,
            tiles: None,
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
        self.settle();
        self.end_derived();
        self.end_tiles();
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
        if gap && damaged_before && tenant.whole {
            tenant.lose();
            self.note(&here("records of the tenant before this one are lost"), names.clone());
        }
        let reference = section.tenant;
        let tenant = self.tenants.entry(reference).or_insert_with(Tenant::unknown);
        let previous = tenant.chain.filter(|_| tenant.count == section.first_position);
        let (runs, held) = read;
        let held = held.filter(|held| Some(held.previous) == previous).map(|held| held.hashes);
        // The first section of a tenant has nothing before it that was known when it was read.
        let hashes = held.or_else(|| check_section(&section, runs, previous?).ok());
        if let Some(index) = tenant.index.as_mut().filter(|index| index.begins_part())
            && let Some(rows) = self.spare.take()
        {
            index.give(rows);
        }
        match tenant.take(segment, offset, section, runs, hashes.as_deref()) {
            Ok(created) => {
                self.summary.records += u64::from(section.records);
                if let Some(hashes) = &hashes {
                    let (tenant, first) = (&names[0][..], section.first_position);
                    self.watcher.records(&CheckedRecords { tenant, first, hashes });
                    if let Some(tiles) = &mut self.tiles {
                        tiles.records(reference, first, hashes);
                    }
                }
                for body in &created {
                    self.create(body, &here("a tenant's record cannot be read"));
                }
            }
            Err(damage) => {
                tenant.lose();
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
        let runs = runs.unwrap_or_default();
        let mut tenant = Tenant { runs, ..Tenant::new(Some(name), log_id) };
        if self.extent == Extent::Log {
            tenant.index = None;
        }
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
        self.summary.parts += 1;
        let part = <[_; 1]>::try_from(parts).ok();
        let whole =
            |[part]: &[Arc<MemoryPart>; 1]| part.first == run.first() && part.end() == run.end();
        if let Some([part]) = part.filter(whole) {
            self.comparing.begin(Pair::new(*reference, run, part, newest));
        } else {
            let what = "a run does not end where a checkpoint can";
            let damage = Damage { file: run.pages().name().to_owned(), offset: 0, what };
            let (tenant, result) = (*reference, Err(damage.into()));
            self.compared(Compared { tenant, run, result, rows: None });
        }
        while let Some(compared) = self.comparing.next(false) {
            self.compared(compared);
        }
    }

    /// Waits for what is being compared.
    pub(super) fn settle(&mut self) {
        while let Some(compared) = self.comparing.next(true) {
            self.compared(compared);
        }
    }

    fn compared(&mut self, compared: Compared) {
        let Compared { tenant, run, result, rows } = compared;
        self.spare = rows.or(self.spare.take());
        let file = run.pages().name();
        let bad = self.derived.as_ref().is_some_and(|d| d.unreadable.contains(file));
        match result {
            Ok(()) => {}
            // Its pages were reported.
            Err(_) if bad => {}
            Err(ReadError::Damaged(damage)) => {
                let names = vec![self.name(&tenant)];
                self.damage(&damage, names);
            }
            Err(_) => {
                let what = "the file cannot be read";
                self.damage(&Damage { file: file.to_owned(), offset: 0, what }, Vec::new());
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
        for ReadSection { section, runs, held, .. } in op.sections {
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
