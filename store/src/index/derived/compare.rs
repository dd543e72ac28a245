//! The database against what the log says.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::RwLock;
use redb::{ReadableTable, TableError};
use rustc_hash::FxHashMap;

use super::{
    DATABASE, Derived, Numbers, STREAM_NAMES, STREAM_REFERENCES, STREAM_RUNS, STREAMS,
    encode_state, open_database, other, reading,
};
use crate::{
    disk::Disk,
    error::{Damage, ReadError},
    index::names::StreamState,
};

/// What the log says of one tenant's streams.
#[derive(Debug)]
pub(crate) struct SaidStreams<'a> {
    pub(crate) states: &'a FxHashMap<u32, StreamState>,
    /// First position of the newest run with events of a stream.
    pub(crate) runs: &'a HashMap<u32, u64>,
}

/// What the log says, by tenant.
pub(crate) type Said<'a> = HashMap<[u8; 16], SaidStreams<'a>>;

fn damage(what: &'static str) -> ReadError {
    Damage { file: DATABASE.to_owned(), offset: 0, what }.into()
}

/// A key's tenant and what comes behind it.
fn split(key: &[u8]) -> Option<([u8; 16], &[u8])> {
    let (tenant, rest) = key.split_first_chunk()?;
    Some((*tenant, rest))
}

fn number(rest: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(rest.try_into().ok()?))
}

impl Derived {
    /// Opens the database that is there, and has it check its own pages.
    ///
    /// # Errors
    /// Damage, or why it cannot be read.
    pub(crate) fn open_existing(disk: Arc<dyn Disk>) -> Result<Self, ReadError> {
        let broken = Arc::new(AtomicBool::new(false));
        // The database takes it for a bug when its file is not what it wrote.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut open = open_database(&*disk, &broken)?;
            let whole = open.database.check_integrity().map_err(other)?;
            Ok::<_, std::io::Error>((open, whole))
        }));
        match opened {
            Ok(Ok((open, true))) => {
                Ok(Self { disk, database: RwLock::new(Some(open)), broken, _lock: None })
            }
            Ok(Err(error)) if error.raw_os_error().is_some() => Err(reading(error)),
            Ok(Ok(_) | Err(_)) | Err(_) => Err(damage("the database's own checksums do not hold")),
        }
    }

    /// What the database has of streams otherwise than the log, or not at all, or too much.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn compare_streams(&self, said: &Said<'_>) -> Result<Vec<Damage>, ReadError> {
        let mut found = Vec::new();
        let wrong = |what| Damage { file: DATABASE.to_owned(), offset: 0, what };
        let states = |s: &SaidStreams<'_>| s.states.len();
        let named = |s: &SaidStreams<'_>, rest: &[u8], id: u64| {
            stream(s, id).is_some_and(|state| state.name.as_str().as_bytes() == rest)
        };
        if !self.numbers_hold(STREAM_NAMES, said, &named, &states)? {
            found.push(wrong("a stream's name is not the log's"));
        }
        let referred = |s: &SaidStreams<'_>, rest: &[u8], id: u64| {
            stream(s, id).is_some_and(|state| state.head.reference.0 == rest)
        };
        if !self.numbers_hold(STREAM_REFERENCES, said, &referred, &states)? {
            found.push(wrong("a stream's reference is not the log's"));
        }
        let newest = |s: &SaidStreams<'_>, rest: &[u8], first: u64| {
            number(rest).is_some_and(|id| s.runs.get(&id) == Some(&first))
        };
        if !self.numbers_hold(STREAM_RUNS, said, &newest, &|s| s.runs.len())? {
            found.push(wrong("a stream's newest run is not what the log makes"));
        }
        if !self.states_hold(said)? {
            found.push(wrong("a stream's state is not what the log makes"));
        }
        Ok(found)
    }

    fn numbers_hold(
        &self,
        table: Numbers,
        said: &Said<'_>,
        holds: &dyn Fn(&SaidStreams<'_>, &[u8], u64) -> bool,
        expected: &dyn Fn(&SaidStreams<'_>) -> usize,
    ) -> Result<bool, ReadError> {
        let mut tally = Tally::new(said, expected);
        self.read(|t| {
            let table = match t.open_table(table) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            for entry in table.iter()? {
                let (key, value) = entry?;
                tally.row(said, key.value(), |s, rest| holds(s, rest, value.value()));
            }
            Ok(())
        })?;
        Ok(tally.holds())
    }

    fn states_hold(&self, said: &Said<'_>) -> Result<bool, ReadError> {
        let mut tally = Tally::new(said, &|s| s.states.len());
        self.read(|t| {
            let table = match t.open_table(STREAMS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            for entry in table.iter()? {
                let (key, value) = entry?;
                tally.row(said, key.value(), |s, rest| {
                    let state = number(rest).and_then(|id| s.states.get(&id));
                    state.is_some_and(|state| encode_state(state) == value.value())
                });
            }
            Ok(())
        })?;
        Ok(tally.holds())
    }
}

fn stream<'a>(said: &SaidStreams<'a>, id: u64) -> Option<&'a StreamState> {
    said.states.get(&u32::try_from(id).ok()?)
}

/// Counts rows, so that one that is missing shows.
struct Tally {
    missing: HashMap<[u8; 16], usize>,
    wrong: bool,
}

impl Tally {
    fn new(said: &Said<'_>, expected: &dyn Fn(&SaidStreams<'_>) -> usize) -> Self {
        let missing = said.iter().map(|(tenant, s)| (*tenant, expected(s))).collect();
        Self { missing, wrong: false }
    }

    /// Rows of tenants of which nothing is said are not judged: their log is damaged.
    fn row(
        &mut self,
        said: &Said<'_>,
        key: &[u8],
        holds: impl FnOnce(&SaidStreams<'_>, &[u8]) -> bool,
    ) {
        let Some((tenant, rest)) = split(key) else {
            self.wrong = true;
            return;
        };
        if let (Some(s), Some(missing)) = (said.get(&tenant), self.missing.get_mut(&tenant)) {
            match missing.checked_sub(1) {
                Some(left) if holds(s, rest) => *missing = left,
                _ => self.wrong = true,
            }
        }
    }

    fn holds(&self) -> bool {
        !self.wrong && self.missing.values().all(|missing| *missing == 0)
    }
}
