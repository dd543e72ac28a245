//! Tables and rows: versions, snapshots, races, and that all of it follows from the log.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use kimberlite_store::{
    Store, Tenant,
    append::Expected,
    read::PayloadState,
    scan::{Moment, Snapshot},
    tables::{Change, Changed, Changing, Column, ColumnType, Overlay, Reads, RowKey, Table},
    words::{Position, Reference, TenantName},
};
use serde_json::{Value, json};

use crate::{
    support::*,
    verify::{check, files},
};

fn table(n: u8) -> Table {
    let column = |name: &str, column_type, not_null| Column {
        name: name.to_owned(),
        column_type,
        not_null,
        default: None,
    };
    Table {
        reference: Reference([n; 16]),
        name: format!("t{n}"),
        columns: vec![
            column("id", ColumnType::BigInt, true),
            column("what", ColumnType::Text, false),
        ],
        key: vec![0],
    }
}

fn key(id: i64) -> RowKey {
    RowKey::new(vec![json!(id)]).unwrap()
}

fn row(table: u8, id: i64, what: Option<&str>) -> Changing {
    let row = what.map(|what| Bytes::from(json!([id, what]).to_string()));
    Changing::Row { table: Reference([table; 16]), key: key(id), row }
}

async fn change(
    store: &Store,
    tenant: &Tenant,
    seen: u64,
    reads: Reads,
    changes: Vec<Changing>,
) -> Changed {
    let change = Change { actor: actor(), seen, reads, changes };
    store.change(tenant, change).await.unwrap()
}

fn records(store: &Store, tenant: &Tenant) -> u64 {
    *store.tip(tenant).borrow()
}

async fn write(store: &Store, tenant: &Tenant, changes: Vec<Changing>) -> u64 {
    let seen = records(store, tenant);
    match change(store, tenant, seen, Reads::default(), changes).await {
        Changed::Written(records) => records,
        Changed::Stale => panic!("nobody else writes"),
    }
}

/// Rows by their keys, read a few at a time.
fn rows(snapshot: &Snapshot, table: u8, at_once: usize) -> BTreeMap<i64, String> {
    let mut scan = snapshot.rows(Reference([table; 16]), Arc::default());
    let mut all = BTreeMap::new();
    let mut last = i64::MIN;
    while let Some(batch) = scan.next(at_once, 1 << 20).unwrap() {
        for row in batch {
            let row: Value = serde_json::from_slice(&row).unwrap();
            let id = row[0].as_i64().unwrap();
            assert!(id > last, "in order, none twice");
            last = id;
            all.insert(id, row[1].as_str().unwrap().to_owned());
        }
    }
    all
}

fn at(store: &Store, tenant: &Tenant, records: u64) -> Snapshot {
    store.snapshot(tenant, Moment::Records(records)).unwrap()
}

/// Numbers that depend on nothing but the seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// The rows of both tables behind each record count that an op ended at.
type Truth = BTreeMap<u64, [BTreeMap<i64, String>; 2]>;

async fn random_changes(store: &Store, tenant: &Tenant, dice: &mut Dice, truth: &mut Truth) {
    let mut now = truth.values().next_back().cloned().unwrap_or_default();
    for n in 0..60 {
        if dice.below(4) == 0 {
            let event = event("t", "{}");
            store.append(tenant, append("s", Expected::Any, vec![event])).await.unwrap();
        }
        let mut changes = Vec::new();
        for _ in 0..=dice.below(6) {
            let which = dice.below(2) as usize;
            let id = dice.below(30).cast_signed() - 15;
            let what = (dice.below(3) > 0).then(|| format!("{n}/{}", dice.below(1000)));
            // Absent rows are not deleted.
            let there = now[which].contains_key(&id);
            match &what {
                Some(what) => now[which].insert(id, what.clone()),
                None if there => now[which].remove(&id),
                None => continue,
            };
            changes.push(row(which as u8 + 1, id, what.as_deref()));
        }
        if !changes.is_empty() {
            let behind = write(store, tenant, changes).await;
            truth.insert(behind, now.clone());
        }
    }
}

fn hold_against(store: &Store, tenant: &Tenant, truth: &Truth) {
    for (records, [one, two]) in truth {
        let snapshot = at(store, tenant, *records);
        for at_once in [1, 7, 1000] {
            assert_eq!(rows(&snapshot, 1, at_once), *one, "as of {records}");
            assert_eq!(rows(&snapshot, 2, at_once), *two, "as of {records}");
        }
        for id in -16..16 {
            let found = snapshot.row(Reference([1; 16]), &key(id)).unwrap();
            let found: Option<Value> = found.map(|row| serde_json::from_slice(&row).unwrap());
            assert_eq!(found.map(|r| r[1].clone()), one.get(&id).map(|w| json!(w)));
        }
    }
}

fn reopened(folder: &Path) -> (Store, Tenant) {
    let store = try_open(folder).unwrap();
    let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
    (store, tenant)
}

#[tokio::test]
async fn rows_are_as_they_were_behind_any_record_also_without_what_is_derived() {
    for seed in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let (store, tenant) = open(folder.path()).await;
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        let made = write(
            &store,
            &tenant,
            vec![Changing::CreateTable(table(1)), Changing::CreateTable(table(2))],
        );
        let mut truth = Truth::from([(made.await, Default::default())]);
        random_changes(&store, &tenant, &mut dice, &mut truth).await;
        hold_against(&store, &tenant, &truth);
        store.close().await;
        drop((store, tenant));
        let (summary, told) = check(folder.path());
        assert!(told.damage().is_empty(), "seed {seed}: {:?} {summary:?}", told.damage());

        // A start takes what the last checkpoint says, and reads the log behind it.
        let (store, tenant) = reopened(folder.path());
        hold_against(&store, &tenant, &truth);
        random_changes(&store, &tenant, &mut dice, &mut truth).await;
        hold_against(&store, &tenant, &truth);
        store.close().await;
        drop((store, tenant));

        std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        let (store, tenant) = reopened(folder.path());
        hold_against(&store, &tenant, &truth);
        store.close().await;
        drop((store, tenant));
        assert!(check(folder.path()).1.damage().is_empty(), "seed {seed}");
    }
}

#[tokio::test]
async fn a_snapshot_stays_as_it_is_while_rows_change_and_checkpoints_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    write(&store, &tenant, vec![Changing::CreateTable(table(1))]).await;
    let all = (0..100).map(|id| row(1, id, Some("old"))).collect();
    let behind = write(&store, &tenant, all).await;
    let old = at(&store, &tenant, behind);
    let mut scan = old.rows(Reference([1; 16]), Arc::default());
    let mut seen = 0;
    let mut changed = 0;
    while let Some(batch) = scan.next(3, 1 << 20).unwrap() {
        for row in batch {
            assert!(row.ends_with(b"\"old\"]"), "{row:?}");
            seen += 1;
        }
        // Rows before, at and behind where the scan is.
        for id in [99 - changed, changed, changed / 2] {
            let what = (changed % 2 == 0).then_some("new");
            let there = at(&store, &tenant, records(&store, &tenant));
            if what.is_some() || there.row(Reference([1; 16]), &key(id)).unwrap().is_some() {
                write(&store, &tenant, vec![row(1, id, what)]).await;
            }
        }
        changed += 1;
    }
    assert_eq!(seen, 100);
}

#[tokio::test]
async fn tables_are_there_from_when_they_were_made_until_they_were_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let made = write(&store, &tenant, vec![Changing::CreateTable(table(1))]).await;
    let filled = write(&store, &tenant, vec![row(1, 1, Some("a"))]).await;
    let dropped = write(&store, &tenant, vec![Changing::DropTable(Reference([1; 16]))]).await;
    let mut again = table(2);
    again.name = "t1".to_owned();
    let anew = write(&store, &tenant, vec![Changing::CreateTable(again.clone())]).await;
    let folder_path = folder.path().to_owned();
    let expect = |store: &Store, tenant: &Tenant| {
        let there = |records| at(store, tenant, records).tables();
        assert!(there(made - 1).is_empty());
        assert_eq!(*there(made)["t1"], table(1));
        assert_eq!(rows(&at(store, tenant, filled), 1, 10), BTreeMap::from([(1, "a".into())]));
        assert!(there(dropped).is_empty());
        assert_eq!(*there(anew)["t1"], again);
        assert!(rows(&at(store, tenant, anew), 2, 10).is_empty());
    };
    expect(&store, &tenant);
    store.close().await;
    drop((store, tenant));
    let (store, tenant) = reopened(&folder_path);
    expect(&store, &tenant);
    // A row of the one that is gone could only come from somebody who has not seen that.
    let stale = change(&store, &tenant, filled, Reads::default(), vec![row(1, 2, Some("b"))]);
    assert_eq!(stale.await, Changed::Stale);
}

#[tokio::test]
async fn the_first_of_two_who_write_a_row_wins() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let made = write(&store, &tenant, vec![Changing::CreateTable(table(1))]).await;
    let both = ["a", "b"].map(|what| {
        let (store, tenant) = (store.clone(), tenant.clone());
        tokio::spawn(async move {
            let changes = vec![row(1, 1, Some(what)), row(1, i64::from(what == "a"), Some(what))];
            change(&store, &tenant, made, Reads::default(), changes).await
        })
    });
    let mut written = 0;
    for one in both {
        written += u32::from(matches!(one.await.unwrap(), Changed::Written(_)));
    }
    assert_eq!(written, 1, "one of them is told to look again");
    let now = rows(&at(&store, &tenant, records(&store, &tenant)), 1, 10);
    assert!(now.values().all(|what| what == &now[&1]), "all of it or nothing: {now:?}");
}

#[tokio::test]
async fn an_overlay_counts_before_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    write(&store, &tenant, vec![Changing::CreateTable(table(1))]).await;
    let all = (0..10).map(|id| row(1, id, Some("old"))).collect();
    let behind = write(&store, &tenant, all).await;
    let mut overlay = Overlay::default();
    overlay.set(Reference([1; 16]), &key(3), None);
    overlay.set(Reference([1; 16]), &key(-1), Some(Bytes::from_static(b"[-1,\"new\"]")));
    overlay.set(Reference([1; 16]), &key(99), Some(Bytes::from_static(b"[99,\"new\"]")));
    overlay.set(Reference([2; 16]), &key(5), None);
    for at_once in [1, 3, 100] {
        let snapshot = at(&store, &tenant, behind);
        let mut scan = snapshot.rows(Reference([1; 16]), Arc::new(overlay.clone()));
        let mut ids = Vec::new();
        while let Some(batch) = scan.next(at_once, 1 << 20).unwrap() {
            ids.extend(
                batch
                    .iter()
                    .map(|row| serde_json::from_slice::<Value>(row).unwrap()[0].as_i64().unwrap()),
            );
        }
        assert_eq!(ids, [-1, 0, 1, 2, 4, 5, 6, 7, 8, 9, 99]);
    }
}

#[tokio::test]
async fn records_say_what_changed_and_nothing_of_it_stands_in_a_leaf() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let made = write(&store, &tenant, vec![Changing::CreateTable(table(0xab))]).await;
    write(&store, &tenant, vec![row(0xab, 7, Some("secret"))]).await;
    write(&store, &tenant, vec![row(0xab, 7, Some("changed"))]).await;
    write(&store, &tenant, vec![row(0xab, 7, None)]).await;
    write(&store, &tenant, vec![row(0xab, 7, Some("again"))]).await;
    let mut told = Vec::new();
    for position in made - 1..records(&store, &tenant) {
        let record = store.record(&tenant, Position::new(position).unwrap()).await.unwrap();
        let leaf = String::from_utf8_lossy(&record.leaf).into_owned();
        assert!(!leaf.contains("secret") && !leaf.contains("what") && !leaf.contains("t171"));
        let version = u64::from_le_bytes(record.leaf[20..28].try_into().unwrap());
        let payloads = record.payloads.iter().filter(|p| p.kind != "actor").map(|p| {
            let PayloadState::Clear { json, .. } = &p.state else { panic!("clear") };
            format!("{} {}", p.kind, std::str::from_utf8(json).unwrap())
        });
        told.push(format!("{} {version} {}", record.kind, payloads.collect::<Vec<_>>().join(" ")));
    }
    let body = r#"body {"table":"abababababababababababababababab","key":[7]}"#;
    assert_eq!(
        told,
        [
            r#"schema_changed 0 body {"create_table":{"table":"abababababababababababababababab","name":"t171","columns":[{"name":"id","type":"BIGINT","not_null":true,"default":null},{"name":"what","type":"TEXT","not_null":false,"default":null}],"key":[0]}}"#.to_owned(),
            format!(r#"row_changed 0 {body} row [7,"secret"]"#),
            format!(r#"row_changed 1 {body} row [7,"changed"]"#),
            format!("row_changed 2 {body}"),
            format!(r#"row_changed 0 {body} row [7,"again"]"#),
        ]
    );
}

#[tokio::test]
async fn verify_finds_rows_that_are_not_the_logs() {
    use redb::{Database, ReadableTable, TableDefinition};
    const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
    const OLD_ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("old rows");
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    write(&store, &tenant, vec![Changing::CreateTable(table(1))]).await;
    for what in ["one", "two"] {
        write(&store, &tenant, (0..40).map(|id| row(1, id, Some(what))).collect()).await;
    }
    store.close().await;
    drop((store, tenant));
    assert!(check(folder.path()).1.damage().is_empty());
    let names = folder.path().join("index/names");
    let whole = files(folder.path())["index/names"].clone();
    for (table, what) in [(ROWS, "rows"), (OLD_ROWS, "old rows")] {
        for gone in [false, true] {
            std::fs::write(&names, &whole).unwrap();
            let database = Database::open(&names).unwrap();
            let transaction = database.begin_write().unwrap();
            {
                let mut table = transaction.open_table(table).unwrap();
                let (place, mut kept) = {
                    let first = table.first().unwrap().expect("a checkpoint was written");
                    (first.0.value().to_vec(), first.1.value().to_vec())
                };
                if gone {
                    table.remove(&place[..]).unwrap();
                } else {
                    *kept.last_mut().unwrap() = b'}';
                    table.insert(&place[..], &kept[..]).unwrap();
                }
            }
            transaction.commit().unwrap();
            drop(database);
            let (_, told) = check(folder.path());
            let found: Vec<_> = told.damage().iter().map(|f| f.what).collect();
            assert_eq!(found, ["the rows of a tenant's tables are not the log's"], "{what}");
        }
    }
}
