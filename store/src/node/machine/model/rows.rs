//! Rows of one table: each command rests on what it read, and the model does it all at once.

use std::{collections::BTreeMap, sync::Arc};

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use super::{Model, Record, TENANT, World};
use crate::{
    fragment::RecordReader,
    index::RecordEntry,
    kernel::{Prepared, PreparedChange, PreparedChanging, PreparedCommand, Rests, RowDigest},
    log::Segment,
    record::{Entry, PayloadKind, Payloads, RecordKind},
    resolve,
    scan::{Moment, Snapshot},
    tables::{Column, ColumnType, RowBody, RowKey, SchemaBody, Table},
    words::{Actor, Reference, Timestamp},
};

const TABLE: Reference = Reference([0x7a; 16]);

/// What is done to a row, or before there is a table, to that.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowCommand {
    key: i64,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// One more than it is; 0 where there is none.
    Add,
    /// Gone where it is there, there where it is not.
    Flip,
    /// How many rows there are.
    CountRows,
    /// How many records are about streams.
    CountEvents,
    /// One more than another row.
    Copy(i64),
}

pub(super) fn command(rng: &mut StdRng) -> RowCommand {
    let what = match rng.random_range(0..8) {
        0..2 => What::Add,
        2..4 => What::Flip,
        4 => What::CountRows,
        5 => What::CountEvents,
        _ => What::Copy(rng.random_range(0..4)),
    };
    RowCommand { key: rng.random_range(0..4), what }
}

impl RowCommand {
    /// What it makes of a row.
    fn value(self, rows: &BTreeMap<i64, i64>, events: i64) -> Option<i64> {
        let next = |key| rows.get(&key).map_or(0, |n| n + 1);
        match self.what {
            What::Add => Some(next(self.key)),
            What::Flip => (!rows.contains_key(&self.key)).then_some(100),
            What::CountRows => Some(i64::try_from(rows.len()).unwrap()),
            What::CountEvents => Some(events),
            What::Copy(other) => Some(next(other)),
        }
    }

    fn rests(self) -> Rests {
        match self.what {
            What::Add | What::Flip => Rests::default(),
            What::CountRows => Rests { tables: vec![TABLE], ..Rests::default() },
            What::CountEvents => Rests { events: true, ..Rests::default() },
            What::Copy(other) => Rests { rows: vec![digest(other)], ..Rests::default() },
        }
    }
}

fn key(key: i64) -> RowKey {
    RowKey::new(vec![json!(key)]).unwrap()
}

fn digest(key: i64) -> RowDigest {
    [u8::try_from(key).unwrap(); 16]
}

fn table() -> Table {
    let column = |name: &str| Column {
        name: name.to_owned(),
        column_type: ColumnType::BigInt,
        not_null: true,
        default: None,
    };
    Table {
        reference: TABLE,
        name: "t".to_owned(),
        columns: vec![column("key"), column("n")],
        key: vec![0],
    }
}

impl Model {
    pub(super) fn change(&mut self, command: RowCommand) -> u64 {
        let record = if self.records.contains(&Record::Table) {
            let (mut rows, mut events) = (BTreeMap::new(), 0);
            for record in &self.records {
                match record {
                    Record::Row(key, Some(n)) => {
                        rows.insert(*key, *n);
                    }
                    Record::Row(key, None) => {
                        rows.remove(key);
                    }
                    Record::Event(_) | Record::Deleted(_) => events += 1,
                    Record::Table => {}
                }
            }
            Record::Row(command.key, command.value(&rows, events))
        } else {
            Record::Table
        };
        self.records.push(record);
        self.records.len() as u64 - 1
    }
}

impl World {
    /// Works a command out from what is committed.
    pub(super) fn work_out(&self, command: RowCommand) -> Prepared {
        let closed = Timestamp::from_micros(0).unwrap();
        let snapshot = Snapshot::new(&self.tenant, Moment::Now, closed).unwrap();
        let mut payloads = Payloads::default();
        let (mut row, mut version) = (None, 0);
        if snapshot.tables().is_empty() {
            let body = serde_json::to_vec(&SchemaBody::CreateTable(table())).unwrap();
            payloads.push_clear(PayloadKind::Body, &body);
        } else {
            let mut rows = BTreeMap::new();
            let mut scan = snapshot.rows(TABLE, Arc::default());
            while let Some(batch) = scan.next(2, 1 << 10).unwrap() {
                rows.extend(batch.iter().map(|row| pair(row)));
            }
            let events = (0..snapshot.records()).filter(|p| {
                let entry = self.tenant.view().entry(*p).unwrap().unwrap().1;
                matches!(entry.kind, RecordKind::Event | RecordKind::StreamDeleted)
            });
            let events = i64::try_from(events.count()).unwrap();
            let body = RowBody { table: TABLE, key: vec![json!(command.key)] };
            payloads.push_clear(PayloadKind::Body, &serde_json::to_vec(&body).unwrap());
            if let Some(n) = command.value(&rows, events) {
                payloads
                    .push_clear(PayloadKind::Row, json!([command.key, n]).to_string().as_bytes());
            }
            let before = self.tenant.row(TABLE, &key(command.key), snapshot.records()).unwrap();
            version = before.filter(|b| b.row.is_some()).map_or(0, |b| b.version + 1);
            row = Some((TABLE, digest(command.key)));
        }
        let actor = resolve::actor_use(&self.tenant.index.read(), &Actor::new("one").unwrap());
        let record = PreparedChanging { id: resolve::new_id(), version, payloads, row };
        let change = PreparedChange { actor, rests: command.rests(), records: vec![record] };
        let (seen_at, command) = (snapshot.records(), PreparedCommand::Change(change));
        Prepared { tenant: TENANT, seen_at, command, bytes: 0 }
    }
}

fn pair(row: &[u8]) -> (i64, i64) {
    let row: Value = serde_json::from_slice(row).unwrap();
    (row[0].as_i64().unwrap(), row[1].as_i64().unwrap())
}

/// A record that changed the table or a row, as the model would have it.
pub(super) fn record(
    reader: &mut RecordReader,
    segment: &Arc<Segment>,
    entry: &RecordEntry,
) -> Option<Record> {
    if entry.kind == RecordKind::SchemaChanged {
        return Some(Record::Table);
    }
    if entry.kind != RecordKind::RowChanged {
        return None;
    }
    reader.load_payloads(segment, entry).unwrap();
    let mut run = &reader.payloads[..];
    let (mut key, mut row) = (None, None);
    for kind in entry.kinds.iter() {
        let json = Entry::take(&mut run).unwrap().json().unwrap().unwrap();
        if kind == PayloadKind::Body {
            let body: Value = serde_json::from_slice(json).unwrap();
            key = body["key"][0].as_i64();
        } else if kind == PayloadKind::Row {
            row = Some(pair(json).1);
        }
    }
    Some(Record::Row(key.unwrap(), row))
}
