//! Tables and their rows in the database: each row as it is, and each as it was with the record that ended it.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::{Derived, TENANTS, TenantChange, TenantRow, json, key};
use crate::{
    error::ReadError,
    index::rows::{KeyBytes, RowTally, RowVersion, SomeRows},
};

/// Tenant and number: a [`crate::index::rows::KnownTable`].
const TABLES: super::Bytes = TableDefinition::new("tables");
/// Tenant, number of the table and key: position, version and row.
const ROWS: super::Bytes = TableDefinition::new("rows");
/// Tenant, number of the table, key and position of the record that ended it: position, version, whether that deleted it, row.
const OLD_ROWS: super::Bytes = TableDefinition::new("old rows");

/// Bytes before the key.
const FRONT: usize = 20;
/// Bytes of a position behind it.
const UNTIL: usize = 8;

/// Keys and rows as the database has them.
pub(super) type Stored = Vec<(Vec<u8>, Vec<u8>)>;

fn at(tenant: [u8; 16], table: u32, row: &[u8]) -> Vec<u8> {
    [&tenant[..], &table.to_be_bytes(), row].concat()
}

fn encode(version: &RowVersion, deleted: Option<bool>) -> Vec<u8> {
    let row = version.row.as_deref().unwrap_or_default();
    let mut out = Vec::with_capacity(17 + row.len());
    out.extend_from_slice(&version.position.to_le_bytes());
    out.extend_from_slice(&version.version.to_le_bytes());
    out.extend(deleted.map(u8::from));
    out.extend_from_slice(row);
    out
}

/// A row as it is kept, and whether the record behind it deleted it.
fn decode(stored: &[u8], old: bool) -> Option<(RowVersion, bool)> {
    let (position, rest) = stored.split_first_chunk()?;
    let (version, mut rest) = rest.split_first_chunk()?;
    let mut deleted = false;
    if old {
        let (flag, row) = rest.split_first()?;
        (deleted, rest) = (*flag != 0, row);
    }
    let (position, version) = (u64::from_le_bytes(*position), u64::from_le_bytes(*version));
    Some((RowVersion { position, version, row: Some(Bytes::copy_from_slice(rest)) }, deleted))
}

/// Reads bytes as rows and as their keys.
#[cfg(feature = "fuzz")]
pub(super) fn decode_rows(bytes: &[u8]) {
    let _rows = (decode(bytes, false).is_some(), decode(bytes, true).is_some());
    let _key = split_old(bytes).is_some();
}

fn unreadable() -> redb::Error {
    redb::Error::Io(super::broken("a row cannot be read"))
}

/// The key and the position in the key of an old row.
fn split_old(stored: &[u8]) -> Option<(&[u8], u64)> {
    let (row, until) = stored.get(FRONT..)?.split_last_chunk::<UNTIL>()?;
    Some((row, u64::from_be_bytes(*until)))
}

/// Keys and rows of all tables; another version's database has none.
pub(super) fn tables(t: &ReadTransaction) -> Result<Stored, redb::Error> {
    let table = match t.open_table(TABLES) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut tables = Vec::new();
    for entry in table.iter()? {
        let (at, row) = entry?;
        tables.push((at.value().to_vec(), row.value().to_vec()));
    }
    Ok(tables)
}

/// Writes what changed.
pub(super) fn write(
    transaction: &WriteTransaction,
    tenants: &[TenantChange],
) -> Result<(), redb::Error> {
    let mut tables = transaction.open_table(TABLES)?;
    let mut rows = transaction.open_table(ROWS)?;
    let mut old = transaction.open_table(OLD_ROWS)?;
    for change in tenants {
        for (number, known) in &change.tables {
            tables.insert(&key(change.tenant, &number.to_be_bytes())[..], &json(known)[..])?;
        }
        for ((table, row), versions) in &*change.rows {
            let place = at(change.tenant, *table, row);
            let before = rows.get(&place[..])?.map(|kept| decode(kept.value(), false));
            let mut open = before.map(|b| b.ok_or_else(unreadable)).transpose()?.map(|(v, _)| v);
            for version in versions {
                if let Some(ended) = open.take() {
                    let until = [&place[..], &version.position.to_be_bytes()].concat();
                    old.insert(&until[..], &encode(&ended, Some(version.row.is_none()))[..])?;
                }
                open = version.row.is_some().then(|| version.clone());
            }
            match open {
                Some(last) => rows.insert(&place[..], &encode(&last, None)[..])?,
                None => rows.remove(&place[..])?,
            };
        }
    }
    Ok(())
}

impl Derived {
    /// A row as the first `count` records left it.
    pub(crate) fn row(
        &self,
        tenant: [u8; 16],
        table: u32,
        row: &[u8],
        count: u64,
    ) -> Result<Option<RowVersion>, ReadError> {
        let place = at(tenant, table, row);
        self.read(|t| {
            let rows = match t.open_table(ROWS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                rows => rows?,
            };
            if let Some(kept) = rows.get(&place[..])? {
                let (version, _) = decode(kept.value(), false).ok_or_else(unreadable)?;
                if version.position < count {
                    return Ok(Some(version));
                }
            }
            old_row(&t.open_table(OLD_ROWS)?, &place, count)
        })
    }

    /// Rows of a table as the first `count` records left them, with keys behind `after`: of at most `limit` keys and not many more
    /// than `bytes` bytes. With them the key up to which that is all, `None` where there are no more.
    pub(crate) fn rows(
        &self,
        tenant: [u8; 16],
        table: u32,
        after: Option<&[u8]>,
        count: u64,
        (limit, bytes): (usize, usize),
    ) -> Result<SomeRows, ReadError> {
        self.read(|t| {
            let rows = match t.open_table(ROWS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok((BTreeMap::new(), None)),
                rows => rows?,
            };
            let mut batch = Batch { found: BTreeMap::new(), bytes, reached: None };
            let from = match after {
                Some(row) => Bound::Excluded(at(tenant, table, row)),
                None => Bound::Included(at(tenant, table, &[])),
            };
            // No key begins with a byte above 4.
            let end = at(tenant, table, &[0xff]);
            let range = (super::as_slice(&from), Bound::Excluded(&end[..]));
            for (seen, entry) in rows.range::<&[u8]>(range)?.enumerate() {
                let (place, kept) = entry?;
                let (version, _) = decode(kept.value(), false).ok_or_else(unreadable)?;
                let row = &place.value()[FRONT..];
                if version.position < count && !batch.add(row, version) || seen + 1 == limit {
                    batch.reached = Some(row.into());
                    break;
                }
            }
            let kept = t.open_table(TENANTS)?.get(&tenant[..])?.map(|row| row.value().to_vec());
            let kept: Option<TenantRow> = kept.and_then(|row| serde_json::from_slice(&row).ok());
            // Where the database goes no further, nothing that was there then is gone by now.
            if kept.is_some_and(|row| row.count > count) {
                let old = t.open_table(OLD_ROWS)?;
                batch.add_old(&old, (from, end), count, limit)?;
            }
            let Batch { mut found, reached, .. } = batch;
            if let Some(reached) = &reached {
                found.retain(|row, _| row <= reached);
            }
            Ok((found, reached))
        })
    }

    /// What the versions of all rows of a tenant come to.
    pub(crate) fn row_tally(&self, tenant: [u8; 16]) -> Result<RowTally, ReadError> {
        self.read(|t| {
            let mut tally = RowTally::default();
            let rows = match t.open_table(ROWS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(tally),
                rows => rows?,
            };
            let end = key(tenant, &[0xff; 5]);
            let range = || (Bound::Included(&tenant[..]), Bound::Excluded(&end[..]));
            let number = |place: &[u8]| {
                place.get(16..FRONT).map(|n| u32::from_be_bytes(n.try_into().expect("4")))
            };
            for entry in rows.range::<&[u8]>(range())? {
                let (place, kept) = entry?;
                let (version, _) = decode(kept.value(), false).ok_or_else(unreadable)?;
                let table = number(place.value()).ok_or_else(unreadable)?;
                let row = version.row.as_deref().unwrap_or_default();
                let key = &place.value()[FRONT..];
                tally.begin(table, key, version.position, version.version, row);
            }
            for entry in t.open_table(OLD_ROWS)?.range::<&[u8]>(range())? {
                let (place, kept) = entry?;
                let (version, deleted) = decode(kept.value(), true).ok_or_else(unreadable)?;
                let table = number(place.value()).ok_or_else(unreadable)?;
                let (key, until) = split_old(place.value()).ok_or_else(unreadable)?;
                let row = version.row.as_deref().unwrap_or_default();
                tally.begin(table, key, version.position, version.version, row);
                tally.end(table, key, until, deleted);
            }
            Ok(tally)
        })
    }
}

/// The version of the row at `place` that is true behind the first `count` records and was ended later.
fn old_row(
    old: &impl ReadableTable<&'static [u8], &'static [u8]>,
    place: &[u8],
    count: u64,
) -> Result<Option<RowVersion>, redb::Error> {
    let from = [place, &count.to_be_bytes()].concat();
    let to = [place, &u64::MAX.to_be_bytes()].concat();
    let mut later = old.range::<&[u8]>((Bound::Included(&from[..]), Bound::Included(&to[..])))?;
    let Some(entry) = later.next() else { return Ok(None) };
    let (version, _) = decode(entry?.1.value(), true).ok_or_else(unreadable)?;
    Ok(Some(version).filter(|v| v.position < count))
}

/// Rows being collected.
struct Batch {
    found: BTreeMap<KeyBytes, RowVersion>,
    /// So many more may come.
    bytes: usize,
    reached: Option<KeyBytes>,
}

impl Batch {
    /// Says whether more may come.
    fn add(&mut self, row: &[u8], version: RowVersion) -> bool {
        self.bytes = self.bytes.saturating_sub(version.row.as_ref().map_or(0, Bytes::len));
        self.found.insert(row.into(), version);
        self.bytes > 0
    }

    /// Adds rows that were ended later, key by key: how many versions one has does not matter.
    fn add_old(
        &mut self,
        old: &impl ReadableTable<&'static [u8], &'static [u8]>,
        (mut from, end): (Bound<Vec<u8>>, Vec<u8>),
        count: u64,
        limit: usize,
    ) -> Result<(), redb::Error> {
        // Behind all versions of the row that the last batch ended with.
        if let Bound::Excluded(place) = &mut from {
            place.extend_from_slice(&u64::MAX.to_be_bytes());
        }
        let mut bytes = self.bytes.max(1);
        for seen in 0.. {
            let range = (super::as_slice(&from), Bound::Excluded(&end[..]));
            let Some(entry) = old.range::<&[u8]>(range)?.next() else { break };
            let place = entry?.0.value().to_vec();
            let (row, _) = split_old(&place).ok_or_else(unreadable)?;
            if self.reached.as_deref().is_some_and(|reached| row > reached) {
                break;
            }
            let version = old_row(old, &place[..place.len() - UNTIL], count)?;
            let size = version.as_ref().and_then(|v| v.row.as_ref()).map_or(0, Bytes::len);
            bytes = bytes.saturating_sub(size);
            if let Some(version) = version {
                self.found.insert(row.into(), version);
            }
            if seen + 1 == limit || bytes == 0 {
                self.reached = Some(row.into());
                break;
            }
            let behind = [&place[..place.len() - UNTIL], &u64::MAX.to_be_bytes()[..]].concat();
            from = Bound::Excluded(behind);
        }
        Ok(())
    }
}
