//! Single rows of the database, by tables that stay open from one checkpoint to the next: opening them for each row
//! costs more than finding it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use redb::{Database, ReadOnlyTable, ReadableDatabase, TableError};

use super::{
    DATABASE, Derived, NO_RUN, STREAM_NAMES, STREAM_REFERENCES, STREAM_RUNS, STREAMS, broken,
    decode_state, key, other, reading,
};
use crate::{
    error::{Damage, ReadError},
    index::names::StreamState,
    words::Reference,
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

    pub(crate) fn last_run(&self, tenant: [u8; 16], id: u32) -> Result<u64, ReadError> {
        let at = key(tenant, &id.to_be_bytes());
        Ok(self.lookup(|t| number(&t.runs, &at))?.unwrap_or(NO_RUN))
    }
}
