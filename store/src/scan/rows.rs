//! Tables that users made and their rows, as of a snapshot.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Snapshot, noted};
use crate::{
    error::ReadError,
    index::rows::{RowAt, RowVersion},
    tables::{Overlay, RowKey, Table},
    tenant::TenantShared,
    words::Reference,
};

/// Rows of a table being read, in the order of their keys' bytes.
#[derive(Debug)]
pub struct RowScan {
    snapshot: Snapshot,
    table: Reference,
    /// What counts before the snapshot.
    overlay: Arc<Overlay>,
    after: Option<Box<[u8]>>,
    done: bool,
}

impl Snapshot {
    /// The tables that there were, by their names.
    pub fn tables(&self) -> BTreeMap<String, Arc<Table>> {
        let index = self.tenant.index.read();
        let there = index.rows.tables().iter().filter(|known| known.is_there(self.view.count));
        there.map(|known| (known.table.name.clone(), Arc::clone(&known.table))).collect()
    }

    /// A row: a JSON array with a value for each column.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn row(&self, table: Reference, key: &RowKey) -> Result<Option<Bytes>, ReadError> {
        let found = self.tenant.row(table, key, self.view.count);
        Ok(noted(&self.tenant, found)?.and_then(|version| version.row))
    }

    /// The rows of a table, with what `overlay` says of them instead of what is in the log.
    pub fn rows(&self, table: Reference, overlay: Arc<Overlay>) -> RowScan {
        RowScan { snapshot: self.clone(), table, overlay, after: None, done: false }
    }
}

impl RowScan {
    /// Further rows, of at most `rows` keys, and no further one once there are `bytes` of them. `None` at the end.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn next(&mut self, rows: usize, bytes: usize) -> Result<Option<Vec<Bytes>>, ReadError> {
        while !self.done {
            let found = self.read_on(rows, bytes);
            let found = noted(&self.snapshot.tenant, found)?;
            if !found.is_empty() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn read_on(&mut self, limit: usize, bytes: usize) -> Result<Vec<Bytes>, ReadError> {
        let (tenant, count) = (&self.snapshot.tenant, self.snapshot.view.count);
        let after = self.after.as_deref();
        let mut found = BTreeMap::new();
        let mut reached = None;
        // Memory first: what a checkpoint moves to the database meanwhile is found twice, not lost.
        let number = {
            let index = tenant.index.read();
            let number = index.rows.number(self.table);
            if let Some(number) = number {
                (found, reached) = index.rows.recent_rows(number, after, count, limit);
            }
            number
        };
        if let (Some(number), Some(derived)) = (number, &tenant.derived) {
            let batch = (limit, bytes);
            let (kept, kept_to) =
                derived.derived.rows(derived.tenant, number, after, count, batch)?;
            for (key, version) in kept {
                let newer = |known: &RowVersion| known.position >= version.position;
                if !found.get(&key).is_some_and(newer) {
                    found.insert(key, version);
                }
            }
            reached = match (reached, kept_to) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let mut rows: BTreeMap<Box<[u8]>, Option<Bytes>> =
            found.into_iter().map(|(key, version)| (key, version.row)).collect();
        // The overlay is no longer than what one request may change.
        for (key, row) in self.overlay.between(self.table, after, reached.as_deref()) {
            rows.insert(key.into(), row.clone());
        }
        if let Some(reached) = &reached {
            rows.retain(|key, _| key <= reached);
        }
        self.done = reached.is_none();
        self.after = reached.or(self.after.take());
        Ok(rows.into_values().flatten().collect())
    }
}

impl TenantShared {
    /// A row as the first `count` records left it.
    pub(crate) fn row(
        &self,
        table: Reference,
        key: &RowKey,
        count: u64,
    ) -> Result<Option<RowVersion>, ReadError> {
        let at: RowAt = {
            let index = self.index.read();
            let Some(number) = index.rows.number(table) else { return Ok(None) };
            let at = (number, key.bytes.clone());
            if let Some(version) = index.rows.recent_row(&at, count) {
                return Ok(Some(version.clone()));
            }
            at
        };
        match &self.derived {
            Some(derived) => derived.derived.row(derived.tenant, at.0, &at.1, count),
            None => Ok(None),
        }
    }
}
