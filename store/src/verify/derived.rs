//! The derived index: its own checksums first, then against what the log says.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZero,
    panic,
    sync::Arc,
    thread,
};

use kimberlite_consensus::Header;

use super::{VerifyError, io_error, walk::Walk};
use crate::{
    disk::Disk,
    error::{Damage, ReadError},
    index::{
        Pages, Run,
        derived::{
            Checkpoint, DATABASE, Derived, FOLDER, Kept, LoadedTenant, REBUILD, RunRow, TenantRow,
            compare::{Said, SaidStreams},
            run_name,
        },
    },
    log::walk::open_by_name,
    node::SYSTEM,
    words::TenantName,
};

/// What is derived, and how far it was compared.
pub(super) struct DerivedCheck {
    derived: Derived,
    checkpoint: Checkpoint,
    /// The op behind which it is true.
    header: Option<Header>,
    tenants: Vec<LoadedTenant>,
    /// Of tenants that the log has not made yet.
    pub(super) runs: HashMap<[u8; 16], VecDeque<Run>>,
    /// Files with damaged pages.
    pub(super) unreadable: HashSet<String>,
    reached: bool,
    /// Runs whose segments are missing.
    astray: Vec<Damage>,
}

fn here(file: &str, what: &'static str) -> Damage {
    Damage { file: file.to_owned(), offset: 0, what }
}

/// Opens what is derived, if it is there, and checks it as far as that goes without the log.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    cluster: [u8; 16],
    walk: &mut Walk<'_>,
) -> Result<(), VerifyError> {
    let there = |path| disk.exists(path).map_err(|e| io_error(path, e));
    if !there(FOLDER)? || !there(DATABASE)? {
        walk.note(&here(FOLDER, "there is no index; the next start makes it"), Vec::new());
        return Ok(());
    }
    if there(REBUILD)? {
        walk.note(&here(REBUILD, "the next start makes the index anew"), Vec::new());
        return Ok(());
    }
    let opened = Derived::open_existing(Arc::clone(disk));
    let (derived, loaded) = match opened.and_then(|d| d.load().map(|loaded| (d, loaded))) {
        Ok(opened) => opened,
        Err(ReadError::Damaged(damage)) => {
            walk.damage(&damage, Vec::new());
            return Ok(());
        }
        Err(_) => {
            walk.damage(&here(DATABASE, "a row cannot be read"), Vec::new());
            return Ok(());
        }
    };
    let (checkpoint, tenants, runs) = match loaded {
        Kept::At((checkpoint, tenants, runs)) => (Some(checkpoint), tenants, runs),
        Kept::Nothing => (None, Vec::new(), Vec::new()),
        Kept::OtherVersion => {
            let what = "another version made the index; the next start makes it anew";
            walk.note(&here(DATABASE, what), Vec::new());
            return Ok(());
        }
    };
    for name in disk.list(FOLDER).map_err(|e| io_error(FOLDER, e))? {
        let path = format!("{FOLDER}/{name}");
        if name.strip_suffix(".run").is_some()
            && !runs.iter().any(|(number, _)| run_name(*number) == path)
        {
            walk.note(&here(&path, "a run that no checkpoint speaks of"), Vec::new());
        }
    }
    let Some(checkpoint) = checkpoint else { return Ok(()) };
    let header = bytes::Bytes::from(checkpoint.header.clone());
    let header = Header::decode(&header).ok().filter(|_| checkpoint.cluster == cluster);
    let (by_tenant, unreadable) = (HashMap::new(), HashSet::new());
    let mut check = DerivedCheck {
        derived,
        checkpoint,
        header,
        tenants,
        runs: by_tenant,
        unreadable,
        reached: false,
        astray: Vec::new(),
    };
    for ((number, row), file) in runs.iter().zip(check_files(&**disk, &runs)) {
        check.open_run(disk, *number, row, file?, walk)?;
    }
    if let (Some(runs), Some(system)) = (check.runs.remove(&SYSTEM), walk.tenants.get_mut(&SYSTEM))
    {
        system.runs = runs;
    }
    walk.derived = Some(check);
    Ok(())
}

/// A run file whose every page was read.
struct CheckedFile {
    pages: Arc<Pages>,
    /// How many pages it has.
    count: u64,
    damaged: Vec<Damage>,
}

/// Reads every page of the run files, several of them at once; `None` for one that is not there.
fn check_files(
    disk: &dyn Disk,
    runs: &[(u64, RunRow)],
) -> Vec<Result<Option<CheckedFile>, ReadError>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = runs.len().div_ceil(threads).max(1);
    let check = |share: &[(u64, RunRow)]| -> Vec<_> {
        share.iter().map(|(number, _)| check_file(disk, run_name(*number))).collect()
    };
    thread::scope(|scope| {
        let shares: Vec<_> =
            runs.chunks(share).map(|share| scope.spawn(move || check(share))).collect();
        let joined = shares
            .into_iter()
            .map(|share| share.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)));
        joined.flatten().collect()
    })
}

fn check_file(disk: &dyn Disk, file: String) -> Result<Option<CheckedFile>, ReadError> {
    let Ok(pages) = Pages::open(disk, file) else { return Ok(None) };
    let pages = Arc::new(pages);
    let (count, mut damaged) = (pages.count()?, Vec::new());
    let mut reader = pages.sequential();
    for page in 0..count {
        match reader.check(page) {
            Ok(()) => {}
            Err(ReadError::Damaged(damage)) => damaged.push(damage),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(CheckedFile { pages, count, damaged }))
}

impl DerivedCheck {
    /// Takes in a run file whose pages were checked.
    fn open_run(
        &mut self,
        disk: &Arc<dyn Disk>,
        number: u64,
        row: &RunRow,
        checked: Option<CheckedFile>,
        walk: &mut Walk<'_>,
    ) -> Result<(), VerifyError> {
        let file = run_name(number);
        let Some(CheckedFile { pages, count, damaged }) = checked else {
            walk.damage(&here(&file, "a run is missing"), Vec::new());
            return Ok(());
        };
        let content = row.parts.iter().map(|(_, layout)| layout.end()).max().unwrap_or(0);
        if count != Pages::pages_of(content) {
            walk.damage(&here(&file, "a run is not as long as its content"), Vec::new());
        }
        for damage in damaged {
            let mut tenants: Vec<_> = row.parts.iter().map(|(t, _)| walk.name(t)).collect();
            tenants.dedup();
            walk.damage(&damage, tenants);
            self.unreadable.insert(file.clone());
        }
        for (tenant, layout) in &row.parts {
            let segment = open_by_name(&**disk, layout.segment);
            let Some(segment) = segment.map_err(|e| io_error(&file, e))? else {
                self.astray.push(here(&file, "a run of a segment that is not there"));
                continue;
            };
            let run = Run::new(Arc::new(segment), Arc::clone(&pages), layout.clone());
            self.runs.entry(*tenant).or_default().push_back(run);
        }
        Ok(())
    }

    /// Compares the database with the log's tenants, at the op that the checkpoint is about.
    fn compare(&self, walk: &Walk<'_>) -> Result<Vec<Damage>, ReadError> {
        let mut found = Vec::new();
        let mut wrong = |what| found.push(here(DATABASE, what));
        let mut said: Said<'_> = HashMap::new();
        for (reference, tenant) in &walk.tenants {
            let Some(index) = &tenant.index else { continue };
            let Some(loaded) = self.tenants.iter().find(|t| t.tenant == *reference) else {
                wrong("a tenant is missing");
                continue;
            };
            let row = TenantRow {
                name: tenant.name.as_ref().map(TenantName::to_string),
                log_id: tenant.log_id,
                count: index.count,
                chain_head: index.chain_head.0,
                generation: index.generation,
                next_stream: index.names.next_stream(),
                last_stamp: index.last_stamp,
            };
            if row != loaded.row {
                wrong("what the index says of a tenant is not the log's");
            }
            if loaded.types != index.names.types.list {
                wrong("the types of a tenant are not the log's");
            }
            if loaded.actors != index.names.actors {
                wrong("the actors of a tenant are not the log's");
            }
            if loaded.tables != index.rows.tables() {
                wrong("the tables of a tenant are not the log's");
            }
            let kept = self.derived.row_tally(*reference)?;
            if index.rows.tally().is_some_and(|said| *said != kept) {
                wrong("the rows of a tenant's tables are not the log's");
            }
            if !tenant.runs.is_empty() {
                wrong("a run of records that the log does not have");
            }
            let (states, runs) = (index.names.recent_states(), &tenant.newest);
            said.insert(*reference, SaidStreams { states, runs });
        }
        if self.tenants.iter().any(|t| !walk.tenants.contains_key(&t.tenant)) {
            wrong("a tenant that the log does not know");
        }
        found.extend(self.derived.compare_streams(&said)?);
        Ok(found)
    }
}

impl Walk<'_> {
    /// An op was read: if the database is true behind it, now is the time to compare.
    pub(super) fn reach(&mut self, header: &Header, segment: u64, frame: (u64, u64)) {
        let is_it = |d: &&mut DerivedCheck| d.header.as_ref().is_some_and(|h| h.op == header.op);
        let Some(check) = self.derived.as_mut().filter(is_it) else { return };
        check.reached = true;
        let fits = check.header.as_ref() == Some(header)
            && (check.checkpoint.segment, check.checkpoint.frame) == (segment, frame);
        if !fits {
            self.damage(&here(DATABASE, "the index is not one of this log"), Vec::new());
            return;
        }
        self.settle();
        let Some(check) = self.derived.take() else { return };
        match check.compare(self) {
            Ok(found) => found.iter().for_each(|damage| self.damage(damage, Vec::new())),
            Err(ReadError::Damaged(damage)) => self.damage(&damage, Vec::new()),
            Err(_) => self.damage(&here(DATABASE, "a row cannot be read"), Vec::new()),
        }
        self.derived = Some(check);
    }

    pub(super) fn end_derived(&mut self) {
        let Some(check) = self.derived.take() else { return };
        let mut wrong = check.astray;
        if !check.reached {
            wrong.push(here(DATABASE, "the index speaks of an op that the log does not have"));
        }
        for wrong in wrong {
            // Where the log is damaged, that may be why.
            if self.log_damaged || !self.headless.is_empty() {
                self.note(&wrong, Vec::new());
            } else {
                self.damage(&wrong, Vec::new());
            }
        }
        let damaged = self.tenants.iter().filter(|(_, tenant)| tenant.index.is_none());
        let mut names: Vec<_> = damaged.map(|(reference, _)| self.name(reference)).collect();
        if !names.is_empty() {
            names.sort_unstable();
            let what = "not compared with the log, which is damaged";
            self.note(&here(FOLDER, what), names);
        }
    }
}
