//! Requests that change something: worked out against one state of the log, then written together or not at all.
//!
//! Statements see what those before them changed. What the request rests on (the schema, the rows that it writes, what it read) must be
//! as it was when it is written; else all of it is worked out again.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array},
        compute::{concat_batches, take_record_batch},
    },
    error::DataFusionError,
    execution::SessionState,
    scalar::ScalarValue,
    sql::sqlparser::ast::{SelectItem, Statement},
};
use futures_util::StreamExt;
use kimberlite_store::{
    Tenant,
    limits::{CHANGES_MAX, COMMAND_BYTES_MAX, ROW_BYTES_MAX},
    scan::{Moment, Snapshot},
    tables::{Change, Changed, Changing, Column, Overlay, RowKey, Table},
    words::Reference,
};
use tokio::time::Instant;

use super::{Answer, Inner, Page, Request, late, run};
use crate::{
    catalog::Tables,
    error::QueryError,
    limits::CHANGE_TRIES_MAX,
    tables::{HeldTable, SharedReads, assign, key_of_row, schema_of, stored_rows, values_of},
    time_travel::take_versions,
    writes::{Conflict, Inserting, Setting, Target, Write, literal_query, write_of},
};

/// Whether a request that changes something may still be given up.
#[derive(Debug, Default)]
pub(super) struct Commit(AtomicU8);

const WORKING: u8 = 0;
const WRITING: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Commit {
    fn go(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Says whether nothing is written, and nothing will be.
    pub(super) fn give_up(&self) -> bool {
        self.go(WORKING, GIVEN_UP)
    }
}

/// Carries out all statements.
pub(super) async fn change(
    inner: &Inner,
    tenant: &Tenant,
    request: &Request,
    statements: &[(String, Statement)],
    (skip, rows, bytes): (u64, usize, usize),
    deadline: Instant,
    commit: &Commit,
) -> Result<Answer, QueryError> {
    if request.moment != Moment::Now || skip > 0 {
        let what = "what was cannot be changed: as_of is for requests that only read".to_owned();
        return Err(QueryError::Unsupported { what, place: None });
    }
    let (now_us, now) = run::now(request);
    for _ in 0..CHANGE_TRIES_MAX {
        let snapshot = run::snapshot(inner, tenant, Moment::Now, deadline).await?;
        let made = snapshot.tables();
        let mut attempt = Attempt {
            inner,
            tenant,
            request,
            deadline,
            now,
            snapshot,
            made,
            overlay: Arc::default(),
            reads: SharedReads::default(),
            changes: Vec::new(),
            bytes: 0,
            page: (rows, bytes),
        };
        let mut pages = Vec::with_capacity(statements.len());
        for (sql, statement) in statements {
            pages.push(Box::pin(attempt.statement(sql, statement)).await?);
        }
        let seen = attempt.snapshot.records();
        if attempt.changes.is_empty() {
            return Ok(Answer { pages, records: seen, now_us });
        }
        let actor = request.actor.clone();
        let reads = std::mem::take(&mut *attempt.reads.lock());
        let change = Change { actor, seen, reads, changes: attempt.changes };
        // From here on it is not known that nothing happens, whatever the time.
        if !commit.go(WORKING, WRITING) {
            return Err(late(request.timeout));
        }
        match inner.store.change(tenant, change).await.map_err(QueryError::Write)? {
            Changed::Written(records) => return Ok(Answer { pages, records, now_us }),
            Changed::Stale if Instant::now() >= deadline => return Err(late(request.timeout)),
            Changed::Stale => commit.0.store(WORKING, Ordering::Release),
        }
    }
    Err(QueryError::Contended)
}

/// One try.
struct Attempt<'a> {
    inner: &'a Inner,
    tenant: &'a Tenant,
    request: &'a Request,
    deadline: Instant,
    now: chrono::DateTime<chrono::Utc>,
    snapshot: Snapshot,
    /// The tables that are there by now.
    made: BTreeMap<String, Arc<Table>>,
    overlay: Arc<Overlay>,
    reads: SharedReads,
    changes: Vec<Changing>,
    /// Of rows that were written.
    bytes: usize,
    /// Rows and bytes of one statement's answer.
    page: (usize, usize),
}

impl Attempt<'_> {
    async fn statement(&mut self, sql: &str, statement: &Statement) -> Result<Page, QueryError> {
        let Some(write) = write_of(statement)? else {
            return self.page(sql, statement.clone(), self.tables()).await;
        };
        let (count, returned) = match write {
            Write::CreateTable { table, if_not_exists } => {
                self.create_table(table, if_not_exists).await?;
                (0, None)
            }
            Write::DropTables { names, if_exists } => {
                self.drop_tables(&names, if_exists)?;
                (0, None)
            }
            Write::Insert(insert) => {
                let table = self.table(&insert.target.name)?;
                let rows = self.insert(&table, &insert).await?;
                let Inserting { target, returning, .. } = *insert;
                (rows.num_rows(), returning.map(|items| (target, items, rows)))
            }
            Write::Update(update) => {
                let table = self.table(&update.target.name)?;
                settable(&table, &update.setting)?;
                let found = self.collect(update.query(&table), self.tables()).await?;
                let rows = set(&table, &update.setting, &found)?;
                self.put_rows(&table, &rows)?;
                (rows.num_rows(), update.returning.map(|items| (update.target, items, rows)))
            }
            Write::Delete(delete) => {
                let table = self.table(&delete.target.name)?;
                let rows = self.collect(delete.query(), self.tables()).await?;
                for row in stored_rows(&rows).map_err(QueryError::running)? {
                    let key = key(&table, &row)?;
                    self.change_row(table.reference, key, None)?;
                }
                (rows.num_rows(), delete.returning.map(|items| (delete.target, items, rows)))
            }
        };
        let Some((target, items, rows)) = returned else {
            let (columns, rows, sql) = (Vec::new(), Bytes::new(), sql.to_owned());
            return Ok(Page { sql, columns, rows, count, more: false });
        };
        Box::pin(self.returning(sql, &target, &items, rows)).await
    }

    async fn returning(
        &self,
        sql: &str,
        target: &Target,
        items: &[SelectItem],
        rows: RecordBatch,
    ) -> Result<Page, QueryError> {
        let mut tables = self.tables();
        tables.put(&target.name, Arc::new(HeldTable::new(rows)));
        self.page(sql, target.returning(items)?, tables).await
    }

    /// All rows of a query; there is no asking for more of them later.
    async fn page(
        &self,
        sql: &str,
        statement: Statement,
        tables: Tables,
    ) -> Result<Page, QueryError> {
        let (state, statement) = self.session(statement, tables).await?;
        let stream = run::plan(&state, statement, self.request).await?;
        let page = run::page(sql.to_owned(), stream, 0, self.page.0, self.page.1).await?;
        if page.more {
            let what = format!(
                "a request that changes something answers with all rows at once, and there are more than {}",
                page.count
            );
            return Err(QueryError::Limit { limit: "query_rows", what });
        }
        Ok(page)
    }

    fn tables(&self) -> Tables {
        let (overlay, reads) = (Arc::clone(&self.overlay), Some(Arc::clone(&self.reads)));
        Tables::changed(&self.snapshot, self.made.clone(), overlay, reads)
    }

    async fn session(
        &self,
        mut statement: Statement,
        tables: Tables,
    ) -> Result<(SessionState, Statement), QueryError> {
        let versions = take_versions(&mut statement, 0)?;
        let Attempt { inner, tenant, request, deadline, now, .. } = self;
        let state =
            run::session(inner, tenant, request, tables, &versions, *now, *deadline).await?;
        Ok((state, statement))
    }

    /// The rows of a query, if they are no more than may be changed.
    async fn collect(
        &self,
        statement: Statement,
        tables: Tables,
    ) -> Result<RecordBatch, QueryError> {
        let (state, statement) = self.session(statement, tables).await?;
        let mut stream = run::plan(&state, statement, self.request).await?;
        let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(QueryError::running)?;
            rows += batch.num_rows();
            bytes += batch.get_array_memory_size();
            if rows > CHANGES_MAX {
                return Err(too_many());
            }
            if bytes > self.inner.settings.memory_bytes {
                return Err(QueryError::memory());
            }
            batches.push(batch);
        }
        concat_batches(&stream.schema(), &batches)
            .map_err(|e| QueryError::running(DataFusionError::from(e)))
    }

    fn table(&self, name: &str) -> Result<Arc<Table>, QueryError> {
        if crate::catalog::is_ours(name) {
            let what = format!("\"{name}\" is the log's: append to it, or delete a stream");
            return Err(QueryError::Unsupported { what, place: None });
        }
        let table = self.made.get(name).cloned();
        table.ok_or_else(|| QueryError::Meaning(format!("there is no table \"{name}\"")))
    }

    async fn create_table(
        &mut self,
        mut table: Table,
        if_not_exists: bool,
    ) -> Result<(), QueryError> {
        if self.made.contains_key(&table.name) {
            if if_not_exists {
                return Ok(());
            }
            return Err(QueryError::TableExists { table: table.name });
        }
        for column in &table.columns {
            let value = self.default(column).await?;
            if column.default.is_some() && column.not_null && value.is_null(0) {
                let what =
                    format!("the DEFAULT of \"{}\" is NULL, and it is NOT NULL", column.name);
                return Err(QueryError::Meaning(what));
            }
        }
        table.reference = Reference::random();
        self.changed(Changing::CreateTable(table.clone()))?;
        self.made.insert(table.name.clone(), Arc::new(table));
        Ok(())
    }

    fn drop_tables(&mut self, names: &[String], if_exists: bool) -> Result<(), QueryError> {
        for name in names {
            if if_exists && !self.made.contains_key(name) {
                continue;
            }
            let table = self.table(name)?;
            self.changed(Changing::DropTable(table.reference))?;
            self.made.remove(name);
        }
        Ok(())
    }

    /// What a column is where nothing is said.
    async fn default(&self, column: &Column) -> Result<ArrayRef, QueryError> {
        let one = self.collect(literal_query(column.default.as_deref()), self.tables()).await?;
        assign(column, one.schema().field(0), one.column(0))
    }

    async fn insert(
        &mut self,
        table: &Table,
        insert: &Inserting,
    ) -> Result<RecordBatch, QueryError> {
        let given = self.proposed(table, insert).await?;
        let rows = stored_rows(&given).map_err(QueryError::running)?;
        let keys: Result<Vec<RowKey>, QueryError> = rows.iter().map(|r| key(table, r)).collect();
        let keys = keys?;
        let there = self.rows_there(table, &keys).await?;
        let conflict =
            insert.conflict.as_ref().map(|c| heeded(table, c).map(|()| c)).transpose()?;
        let (mut new, mut known): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut seen: HashSet<&[u8]> = HashSet::new();
        for ((i, key), there) in (0..).zip(&keys).zip(&there) {
            let twice = !seen.insert(key.bytes());
            if !twice && there.is_none() {
                new.push(i);
                continue;
            }
            match conflict {
                None => return Err(QueryError::Duplicate { table: table.name.clone() }),
                Some(Conflict { update: None, .. }) => {}
                Some(_) if twice => {
                    let what = "ON CONFLICT DO UPDATE would change a row twice".to_owned();
                    return Err(QueryError::Constraint(what));
                }
                Some(_) => known.push(i),
            }
            // That it is there is what this rests on.
            self.reads.lock().rows.push((table.reference, key.clone()));
        }
        let some = |numbers: Vec<u32>| {
            take_record_batch(&given, &UInt32Array::from(numbers))
                .map_err(|e| QueryError::running(e.into()))
        };
        let updates = match conflict.and_then(|c| c.update.as_ref()) {
            Some(setting) if !known.is_empty() => {
                settable(table, setting)?;
                let rows = known.iter().filter_map(|i| there[*i as usize].clone());
                let before = batch_of(table, &rows.collect::<Vec<_>>())?;
                let mut tables = self.tables();
                tables.put(&insert.target.name, Arc::new(HeldTable::new(before)));
                tables.put("excluded", Arc::new(HeldTable::new(some(known)?)));
                let query = setting.beside_excluded(&insert.target, table);
                let found = self.collect(query, tables).await?;
                Some(set(table, setting, &found)?)
            }
            _ => None,
        };
        let new = some(new)?;
        self.put_rows(table, &new)?;
        let Some(updates) = updates else { return Ok(new) };
        self.put_rows(table, &updates)?;
        concat_batches(&new.schema(), [&new, &updates]).map_err(|e| QueryError::running(e.into()))
    }

    /// The rows that an INSERT gives, whole.
    async fn proposed(&self, table: &Table, insert: &Inserting) -> Result<RecordBatch, QueryError> {
        let mut columns = insert.columns.clone();
        if columns.is_empty() {
            columns = table.columns.iter().map(|c| c.name.clone()).collect();
        }
        for (i, name) in columns.iter().enumerate() {
            column_of(table, name)?;
            if columns[..i].contains(name) {
                return Err(QueryError::Meaning(format!("the column \"{name}\" stands twice")));
            }
        }
        let given = self.collect(insert.query(table, &columns), self.tables()).await?;
        if given.num_columns() != columns.len() {
            let (values, columns) = (given.num_columns(), columns.len());
            let what = format!("INSERT has {values} values for {columns} columns");
            return Err(QueryError::Meaning(what));
        }
        let mut arrays = Vec::with_capacity(table.columns.len());
        for column in &table.columns {
            let at = columns.iter().position(|name| *name == column.name);
            arrays.push(if let Some(i) = at {
                assign(column, given.schema().field(i), given.column(i))?
            } else {
                let value = ScalarValue::try_from_array(&self.default(column).await?, 0);
                let values = value.and_then(|value| value.to_array_of_size(given.num_rows()));
                values.map_err(QueryError::running)?
            });
        }
        whole(table, arrays, given.num_rows())
    }

    /// The rows with these keys as they are by now.
    async fn rows_there(
        &self,
        table: &Table,
        keys: &[RowKey],
    ) -> Result<Vec<Option<Bytes>>, QueryError> {
        let (snapshot, overlay) = (self.snapshot.clone(), Arc::clone(&self.overlay));
        let (table, keys) = (table.reference, keys.to_vec());
        // Files may keep it waiting, and others' queries must not wait with it.
        let found = tokio::task::spawn_blocking(move || {
            let row = |key: &RowKey| match overlay.get(table, key) {
                Some(row) => Ok(row.clone()),
                None => snapshot.row(table, key),
            };
            keys.iter().map(row).collect::<Result<Vec<_>, _>>()
        });
        match found.await {
            Ok(found) => Ok(found?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(QueryError::Engine(DataFusionError::External(Box::new(error)))),
        }
    }

    fn put_rows(&mut self, table: &Table, rows: &RecordBatch) -> Result<(), QueryError> {
        for row in stored_rows(rows).map_err(QueryError::running)? {
            if row.len() > ROW_BYTES_MAX {
                let what = format!("a row has more than {ROW_BYTES_MAX} bytes");
                return Err(QueryError::Limit { limit: "row_bytes", what });
            }
            let key = key(table, &row)?;
            self.change_row(table.reference, key, Some(row))?;
        }
        Ok(())
    }

    fn change_row(
        &mut self,
        table: Reference,
        key: RowKey,
        row: Option<Bytes>,
    ) -> Result<(), QueryError> {
        self.bytes += key.bytes().len() + row.as_ref().map_or(0, Bytes::len);
        if self.bytes > COMMAND_BYTES_MAX {
            let what = format!("the rows have more than {COMMAND_BYTES_MAX} bytes");
            return Err(QueryError::Limit { limit: "request_bytes", what });
        }
        Arc::make_mut(&mut self.overlay).set(table, &key, row.clone());
        self.changed(Changing::Row { table, key, row })
    }

    fn changed(&mut self, changing: Changing) -> Result<(), QueryError> {
        if self.changes.len() == CHANGES_MAX {
            return Err(too_many());
        }
        self.changes.push(changing);
        Ok(())
    }
}

fn too_many() -> QueryError {
    let what = format!("a request changes at most {CHANGES_MAX} rows: say which ones, in several");
    QueryError::Limit { limit: "request_changes", what }
}

fn key(table: &Table, row: &[u8]) -> Result<RowKey, QueryError> {
    key_of_row(table, row).map_err(|what| QueryError::Limit { limit: "row_key_bytes", what })
}

fn column_of<'a>(table: &'a Table, name: &str) -> Result<&'a Column, QueryError> {
    let column = table.columns.iter().find(|c| c.name == name);
    column.ok_or_else(|| {
        let table = &table.name;
        QueryError::Meaning(format!("the table \"{table}\" has no column \"{name}\""))
    })
}

/// The one thing that rows can be in conflict about is their key.
fn heeded(table: &Table, conflict: &Conflict) -> Result<(), QueryError> {
    let key: HashSet<&str> = table.key.iter().map(|n| table.columns[*n].name.as_str()).collect();
    let named: HashSet<&str> = conflict.columns.iter().map(String::as_str).collect();
    if named.is_empty() || named == key {
        return Ok(());
    }
    let what = "ON CONFLICT names all columns of the PRIMARY KEY and no others".to_owned();
    Err(QueryError::Meaning(what))
}

fn settable(table: &Table, setting: &Setting) -> Result<(), QueryError> {
    for name in &setting.columns {
        column_of(table, name)?;
        if table.key.iter().any(|n| table.columns[*n].name == *name) {
            let what = format!(
                "\"{name}\" is part of the key, which a row keeps: delete the row and insert another"
            );
            return Err(QueryError::Unsupported { what, place: None });
        }
    }
    Ok(())
}

/// Rows with columns set to what stands behind them.
fn set(table: &Table, setting: &Setting, found: &RecordBatch) -> Result<RecordBatch, QueryError> {
    let width = table.columns.len();
    let mut arrays = found.columns()[..width].to_vec();
    for (i, name) in setting.columns.iter().enumerate() {
        let number = table.columns.iter().position(|c| c.name == *name).expect("looked up before");
        let (at, column) = (width + i, &table.columns[number]);
        arrays[number] = assign(column, found.schema().field(at), found.column(at))?;
    }
    whole(table, arrays, found.num_rows())
}

/// A batch of a table's rows, each with what every row must have.
fn whole(table: &Table, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, QueryError> {
    for (column, array) in table.columns.iter().zip(&arrays) {
        if column.not_null && array.null_count() > 0 {
            let what = format!("the column \"{}\" of \"{}\" is NOT NULL", column.name, table.name);
            return Err(QueryError::Constraint(what));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema_of(table), arrays, &options)
        .map_err(|e| QueryError::running(e.into()))
}

fn batch_of(table: &Table, rows: &[Bytes]) -> Result<RecordBatch, QueryError> {
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let arrays = values_of(table, &all, rows).map_err(QueryError::running)?;
    whole(table, arrays, rows.len())
}
