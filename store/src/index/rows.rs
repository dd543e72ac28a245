//! A tenant's tables and the versions of their rows.
//!
//! Tables, of which there are few, lie in memory, those that were dropped too. So do the rows that changed since the last
//! checkpoint; all others lie in the derived database. No version is ever taken away, so whoever asks as of an earlier
//! record finds what was true then.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::section::parse;
use crate::{
    record::{Leaf, RecordKind},
    tables::{RowBody, RowKey, SchemaBody, Table, TableBody},
    words::Reference,
};

/// A table, and in which records it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownTable {
    #[serde(with = "shared")]
    pub(crate) table: Arc<Table>,
    /// Position of the record that made it.
    pub(crate) made: u64,
    /// Position of the record that dropped it.
    pub(crate) dropped: Option<u64>,
}

mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Table;

    pub(super) fn serialize<S: Serializer>(table: &Arc<Table>, to: S) -> Result<S::Ok, S::Error> {
        (**table).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Table>, D::Error> {
        Table::deserialize(from).map(Arc::new)
    }
}

impl KnownTable {
    /// Whether it is there behind the first `count` records.
    pub(crate) fn is_there(&self, count: u64) -> bool {
        self.made < count && self.dropped.is_none_or(|dropped| dropped >= count)
    }
}

/// A row as one record left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowVersion {
    pub(crate) position: u64,
    /// 0 where the record made it.
    pub(crate) version: u64,
    /// `None` where the record deleted it.
    pub(crate) row: Option<Bytes>,
}

/// A key's bytes.
pub(crate) type KeyBytes = Box<[u8]>;

/// Number of the table, and the key's bytes.
pub(crate) type RowAt = (u32, KeyBytes);

/// Rows of a table, and the key up to which that is all; `None` where there are no more.
pub(crate) type SomeRows = (BTreeMap<KeyBytes, RowVersion>, Option<KeyBytes>);

/// Rows that changed, each with its changes in order.
pub(crate) type ChangedRows = BTreeMap<RowAt, Vec<RowVersion>>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    tables: Vec<KnownTable>,
    numbers: FxHashMap<Reference, u32>,
    recent: ChangedRows,
    /// On its way into the database.
    frozen: Option<Arc<ChangedRows>>,
    /// Tables that were made or dropped since the last checkpoint.
    changed: Vec<u32>,
    /// Rows are not kept, only what they come to.
    tallied: Option<RowTally>,
}

impl Rows {
    /// Keeps no rows, but what `RowTally` says of them.
    pub(crate) fn tallied() -> Self {
        Self { tallied: Some(RowTally::default()), ..Self::default() }
    }

    /// As the database has them.
    pub(crate) fn load(tables: Vec<KnownTable>) -> Self {
        let numbers = (0..).zip(&tables).map(|(n, known)| (known.table.reference, n)).collect();
        Self { tables, numbers, ..Self::default() }
    }

    /// Every table that there ever was, by its number.
    pub(crate) fn tables(&self) -> &[KnownTable] {
        &self.tables
    }

    pub(crate) fn tally(&self) -> Option<&RowTally> {
        self.tallied.as_ref()
    }

    pub(crate) fn number(&self, table: Reference) -> Option<u32> {
        self.numbers.get(&table).copied()
    }

    /// Takes in a change of the schema.
    pub(crate) fn change_schema(&mut self, json: &[u8], at: u64) -> Result<(), &'static str> {
        match parse(json)? {
            SchemaBody::CreateTable(table) => {
                let number = self.tables.len() as u32;
                if table.wrong().is_some() {
                    return Err("a table that cannot be");
                }
                if self.numbers.insert(table.reference, number).is_some() {
                    return Err("a table is made twice");
                }
                let table = Arc::new(table);
                self.tables.push(KnownTable { table, made: at, dropped: None });
                self.changed.push(number);
            }
            SchemaBody::DropTable(TableBody { table }) => {
                let number = self.number(table).ok_or("an unknown table is dropped")?;
                let known = &mut self.tables[number as usize];
                if known.dropped.replace(at).is_some() {
                    return Err("a table is dropped twice");
                }
                self.changed.push(number);
            }
        }
        Ok(())
    }

    /// Takes in a change of a row.
    pub(crate) fn change_row(
        &mut self,
        leaf: &Leaf<'_>,
        body: &[u8],
        row: Option<&[u8]>,
        at: u64,
    ) -> Result<(), &'static str> {
        debug_assert_eq!(leaf.kind, RecordKind::RowChanged);
        let RowBody { table, key } = parse(body)?;
        let number = self.number(table).ok_or("a row of an unknown table")?;
        if !self.tables[number as usize].is_there(at) {
            return Err("a row of a table that was dropped");
        }
        let key = RowKey::new(key).map_err(|_| "a key that cannot be")?;
        let version = leaf.version;
        if let Some(tally) = &mut self.tallied {
            tally.change(number, &key.bytes, at, version, row);
            return Ok(());
        }
        let row = row.map(Bytes::copy_from_slice);
        let changed = RowVersion { position: at, version, row };
        self.recent.entry((number, key.bytes)).or_default().push(changed);
        Ok(())
    }

    /// Hands out what changed since the last time, to be written to the database.
    pub(crate) fn freeze(&mut self) -> (Arc<ChangedRows>, Vec<(u32, KnownTable)>) {
        debug_assert!(self.frozen.is_none(), "one checkpoint at a time");
        let frozen = Arc::new(std::mem::take(&mut self.recent));
        self.frozen = Some(Arc::clone(&frozen));
        let mut changed = std::mem::take(&mut self.changed);
        changed.dedup();
        let tables = changed.into_iter().map(|n| (n, self.tables[n as usize].clone()));
        (frozen, tables.collect())
    }

    /// What was frozen is in the database now.
    pub(crate) fn thaw(&mut self) {
        self.frozen = None;
    }

    fn changed(&self) -> impl Iterator<Item = &ChangedRows> {
        [Some(&self.recent), self.frozen.as_deref()].into_iter().flatten()
    }

    /// What the last of the first `count` records that changed a row lately left of it.
    pub(crate) fn recent_row(&self, at: &RowAt, count: u64) -> Option<&RowVersion> {
        self.changed().find_map(|rows| last_before(rows.get(at)?, count))
    }

    /// Likewise of rows of a table with keys behind `after`, at most `limit` of those that changed: with them the key up to
    /// which that is all, `None` where there are no more.
    pub(crate) fn recent_rows(
        &self,
        table: u32,
        after: Option<&[u8]>,
        count: u64,
        limit: usize,
    ) -> SomeRows {
        let from = match after {
            Some(key) => Bound::Excluded((table, key.into())),
            None => Bound::Included((table, Box::default())),
        };
        let mut found: BTreeMap<KeyBytes, RowVersion> = BTreeMap::new();
        let mut reached: Option<KeyBytes> = None;
        for rows in self.changed() {
            let range = rows.range((from.clone(), Bound::Unbounded));
            let mut seen = 0;
            for ((_, key), versions) in range.take_while(|((t, _), _)| *t == table) {
                if seen == limit {
                    break;
                }
                seen += 1;
                if let Some(version) = last_before(versions, count) {
                    // The newer layer comes first.
                    found.entry(key.clone()).or_insert_with(|| version.clone());
                }
                if seen == limit && reached.as_ref().is_none_or(|r| key < r) {
                    reached = Some(key.clone());
                }
            }
        }
        (found, reached)
    }
}

fn last_before(versions: &[RowVersion], count: u64) -> Option<&RowVersion> {
    let before = versions.partition_point(|v| v.position < count);
    before.checked_sub(1).map(|last| &versions[last])
}

/// What all versions of all rows come to, whatever order they are seen in: how many there are, and the sum of the digests of
/// their beginnings and ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowTally {
    begun: (u64, u128),
    ended: (u64, u128),
}

impl RowTally {
    /// A record changed a row.
    fn change(&mut self, table: u32, key: &[u8], at: u64, version: u64, row: Option<&[u8]>) {
        if version > 0 {
            self.end(table, key, at, row.is_none());
        }
        if let Some(row) = row {
            self.begin(table, key, at, version, row);
        }
    }

    /// A version that begins with a record.
    pub(crate) fn begin(&mut self, table: u32, key: &[u8], at: u64, version: u64, row: &[u8]) {
        add(&mut self.begun, table, key, &[at, version], row);
    }

    /// A version that ends with a record.
    pub(crate) fn end(&mut self, table: u32, key: &[u8], at: u64, deleted: bool) {
        add(&mut self.ended, table, key, &[at, u64::from(deleted)], b"");
    }
}

fn add(sum: &mut (u64, u128), table: u32, key: &[u8], numbers: &[u64; 2], row: &[u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&table.to_le_bytes());
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(&numbers[0].to_le_bytes());
    hasher.update(&numbers[1].to_le_bytes());
    hasher.update(row);
    let digest = hasher.finalize();
    let digest: [u8; 16] = digest.as_bytes()[..16].try_into().expect("16");
    *sum = (sum.0 + 1, sum.1.wrapping_add(u128::from_le_bytes(digest)));
}
