//! Single rows of the database, by tables that stay open from one checkpoint to the next: opening them for each row
//! costs more than finding it.

use std::{
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use redb::{Database, ReadOnlyTable, ReadableDatabase, TableError};

use super::{
    DATABASE, Derived, NO_RUN, STREAM_NAMES, STREAM_REFERENCES, STREAM_RUNS, STREAMS, as_slice,
    broken, decode_state, key, other, reading, text, unreadable,
};
use crate::{
    error::{Damage, ReadError},
    index::names::StreamState,
    words::{Reference, StreamName},
};

type Numbers = Option<ReadOnlyTable<&'static [u8], u64>>;

/// What single rows are asked of; `None` before the first checkpoint.
#[derive(Debug)]
pub(super) struct Tables {
    names: Numbers,
    references: Numbers,
    streams: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    runs: Numbers,
}

impl Tables {
    fn open(database: &Database) -> Result<Self, redb::Error> {
        let transaction = database.begin_read()?;
        Ok(Self {
            names: there(transaction.open_table(STREAM_NAMES))?,
            references: there(transaction.open_table(STREAM_REFERENCES))?,
            streams: there(transaction.open_table(STREAMS))?,
            runs: there(transaction.open_table(STREAM_RUNS))?,
        })
    }
}

fn there<T>(opened: Result<T, TableError>) -> Result<Option<T>, TableError> {
    match opened {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => table.map(Some),
    }
}

fn number(table: &Numbers, key: &[u8]) -> Result<Option<u64>, redb::Error> {
    let Some(table) = table else { return Ok(None) };
    Ok(table.get(key)?.map(|row| row.value()))
}

impl Derived {
    /// Reads from the tables as the last checkpoint left them.
    fn lookup<T>(
        &self,
        read: impl FnOnce(&Tables) -> Result<T, redb::Error>,
    ) -> Result<T, ReadError> {
        let database = self.database.read();
        let Some(open) = &*database else {
            return Err(reading(broken("the index waits for its disk")));
        };
        let run = || {
            let known = open.tables.read().clone();
            let tables = if let Some(tables) = known {
                tables
            } else {
                // A checkpoint that is done takes the lock behind this one: older tables never stay.
                let mut kept = open.tables.write();
                let opened = Arc::new(Tables::open(&open.database)?);
                Arc::clone(kept.insert(opened))
            };
            read(&tables)
        };
        // The database takes it for a bug when its file is not what it wrote.
        if let Ok(done) = catch_unwind(AssertUnwindSafe(run)) {
            return done.map_err(|e| reading(other(e)));
        }
        let what = "the database cannot be read";
        Err(Damage { file: DATABASE.to_owned(), offset: 0, what }.into())
    }

    pub(crate) fn stream_id(&self, tenant: [u8; 16], name: &str) -> Result<Option<u32>, ReadError> {
        let at = key(tenant, name.as_bytes());
        Ok(self.lookup(|t| number(&t.names, &at))?.map(|id| id as u32))
    }

    pub(crate) fn stream_by_reference(
        &self,
        tenant: [u8; 16],
        reference: Reference,
    ) -> Result<Option<u32>, ReadError> {
        let at = key(tenant, &reference.0);
        Ok(self.lookup(|t| number(&t.references, &at))?.map(|id| id as u32))
    }

    pub(crate) fn stream_state(
        &self,
        tenant: [u8; 16],
        id: u32,
    ) -> Result<Option<StreamState>, ReadError> {
        let at = key(tenant, &id.to_be_bytes());
        let state = self.lookup(|t| {
            let Some(table) = &t.streams else { return Ok(None) };
            Ok(table.get(&at[..])?.map(|row| decode_state(row.value())))
        })?;
        state.transpose()
    }

    /// Streams by name.
    pub(crate) fn names(
        &self,
        tenant: [u8; 16],
        (from, to): (Bound<&str>, Bound<&str>),
        limit: usize,
    ) -> Result<Vec<(StreamName, u32)>, ReadError> {
        let keyed = |bound: Bound<&str>| bound.map(|name| key(tenant, name.as_bytes()));
        let end = match keyed(to) {
            // Names begin behind the tenant's 16 bytes and hold no byte 255.
            Bound::Unbounded => Bound::Excluded(key(tenant, &[0xff])),
            bound => bound,
        };
        let start = match keyed(from) {
            Bound::Unbounded => Bound::Included(tenant.to_vec()),
            bound => bound,
        };
        let range = (as_slice(&start), as_slice(&end));
        let rows = self.read(|t| {
            let table = match t.open_table(STREAM_NAMES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut rows = Vec::new();
            for entry in table.range::<&[u8]>(range)?.take(limit) {
                let (name, id) = entry?;
                rows.push((name.value()[16..].to_vec(), id.value() as u32));
            }
            Ok(rows)
        })?;
        let named = |(name, id): (Vec<u8>, u32)| {
            Ok((StreamName::stored(text(&name)?).map_err(|_| unreadable())?, id))
        };
        rows.into_iter().map(named).collect()
    }

    pub(crate) fn last_run(&self, tenant: [u8; 16], id: u32) -> Result<u64, ReadError> {
        let at = key(tenant, &id.to_be_bytes());
        Ok(self.lookup(|t| number(&t.runs, &at))?.unwrap_or(NO_RUN))
    }
}
