//! Tables that users made, as of a moment.

mod cells;
mod keys;

use std::{
    fmt::{self, Display},
    sync::Arc,
};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        datatypes::{Field, Schema, SchemaRef},
        record_batch::{RecordBatch, RecordBatchOptions},
    },
    catalog::{Session, TableProvider},
    error::DataFusionError,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
};
use kimberlite_store::{
    scan::{RowScan, Snapshot},
    tables::{Column, Overlay, Reads, RowKey, Table},
    words::Reference,
};
use parking_lot::Mutex;

pub(crate) use cells::{assign, stored_rows, values_of};
pub(crate) use keys::{Keys, key_of_row};

use crate::{
    events::failed,
    limits::BATCH_BYTES,
    rows::{json, uuid},
    scan::{Batches, Scan, Source},
};

/// What a request that writes has read, which must not change before it is written.
pub(crate) type SharedReads = Arc<Mutex<Reads>>;

/// A table as of a moment, with what the request has changed of it so far.
#[derive(Debug)]
pub(crate) struct UserTable {
    snapshot: Snapshot,
    table: Arc<Table>,
    overlay: Arc<Overlay>,
    schema: SchemaRef,
    /// Where reads are noted; not where the moment is one that stays as it is.
    reads: Option<SharedReads>,
}

/// The columns of a table as the engine knows them.
pub(crate) fn schema_of(table: &Table) -> SchemaRef {
    Arc::new(Schema::new(table.columns.iter().map(field_of).collect::<Vec<_>>()))
}

fn field_of(column: &Column) -> Field {
    use kimberlite_store::tables::ColumnType;
    let field = Field::new(&column.name, cells::data_type(column.column_type), !column.not_null);
    match column.column_type {
        ColumnType::Json => json(field),
        ColumnType::Uuid => uuid(field),
        _ => field,
    }
}

impl UserTable {
    pub(crate) fn new(
        snapshot: Snapshot,
        table: Arc<Table>,
        overlay: Arc<Overlay>,
        reads: Option<SharedReads>,
    ) -> Self {
        let schema = schema_of(&table);
        Self { snapshot, table, overlay, schema, reads }
    }
}

#[async_trait]
impl TableProvider for UserTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        // They say which rows to look at; whether those are meant is left to the engine.
        let narrows = |filter: &&Expr| {
            if keys::names_key(&self.table, filter) {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(narrows).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let columns = projection
            .cloned()
            .unwrap_or_else(|| (0..self.schema.fields().len()).collect::<Vec<_>>());
        let schema = Arc::new(self.schema.project(&columns)?);
        let source = RowSource {
            snapshot: self.snapshot.clone(),
            table: Arc::clone(&self.table),
            overlay: Arc::clone(&self.overlay),
            keys: keys::keys(&self.table, &self.schema, filters)?,
            columns,
            schema: Arc::clone(&schema),
            limit,
            reads: self.reads.clone(),
        };
        Ok(Arc::new(Scan::new(Arc::new(source), schema, None)))
    }
}

/// What a scan reads.
#[derive(Debug)]
struct RowSource {
    snapshot: Snapshot,
    table: Arc<Table>,
    overlay: Arc<Overlay>,
    /// Only the rows with these keys.
    keys: Option<Keys>,
    columns: Vec<usize>,
    schema: SchemaRef,
    limit: Option<usize>,
    reads: Option<SharedReads>,
}

impl Display for RowSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let (name, records) = (&self.table.name, self.snapshot.records());
        write!(f, "table={name}, records={records}, columns={columns:?}, ")?;
        match &self.keys {
            Some(keys) => write!(f, "rows by key: {}", keys.len())?,
            None => f.write_str("all rows")?,
        }
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }
}

impl Source for RowSource {
    fn open(&self, rows_max: usize) -> Result<Box<dyn Batches>, DataFusionError> {
        if let Some(reads) = &self.reads {
            note_read(&mut reads.lock(), self.table.reference, self.keys.as_deref());
        }
        let (mut scan, mut keys) = (None, Vec::new());
        match &self.keys {
            Some(wanted) => keys = wanted.iter().rev().cloned().collect(),
            None => {
                scan = Some(self.snapshot.rows(self.table.reference, Arc::clone(&self.overlay)));
            }
        }
        Ok(Box::new(RowBatches {
            snapshot: self.snapshot.clone(),
            table: Arc::clone(&self.table),
            overlay: Arc::clone(&self.overlay),
            columns: self.columns.clone(),
            schema: Arc::clone(&self.schema),
            scan,
            keys,
            left: self.limit.unwrap_or(usize::MAX),
            rows_max,
        }))
    }
}

/// A table of which all was read is not noted row by row.
fn note_read(reads: &mut Reads, table: Reference, keys: Option<&[RowKey]>) {
    if reads.tables.contains(&table) {
        return;
    }
    match keys {
        Some(keys) => reads.rows.extend(keys.iter().map(|key| (table, key.clone()))),
        None => reads.tables.push(table),
    }
}

struct RowBatches {
    snapshot: Snapshot,
    table: Arc<Table>,
    overlay: Arc<Overlay>,
    columns: Vec<usize>,
    schema: SchemaRef,
    /// All rows.
    scan: Option<RowScan>,
    /// Rows by key, the next one last.
    keys: Vec<RowKey>,
    left: usize,
    rows_max: usize,
}

impl Batches for RowBatches {
    fn next(&mut self) -> Result<Option<RecordBatch>, DataFusionError> {
        if self.left == 0 {
            return Ok(None);
        }
        let found = match &mut self.scan {
            Some(scan) => scan.next(self.rows_max, BATCH_BYTES).map_err(failed)?,
            None => self.by_key()?,
        };
        let Some(mut rows) = found else { return Ok(None) };
        rows.truncate(self.left);
        self.left -= rows.len();
        let arrays = values_of(&self.table, &self.columns, &rows)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let schema = Arc::clone(&self.schema);
        Ok(Some(RecordBatch::try_new_with_options(schema, arrays, &options)?))
    }
}

impl RowBatches {
    fn by_key(&mut self) -> Result<Option<Vec<bytes::Bytes>>, DataFusionError> {
        let (mut rows, mut size) = (Vec::new(), 0);
        while rows.len() < self.rows_max && size < BATCH_BYTES {
            let Some(key) = self.keys.pop() else { break };
            let table = self.table.reference;
            let row = match self.overlay.get(table, &key) {
                Some(row) => row.clone(),
                None => self.snapshot.row(table, &key).map_err(failed)?,
            };
            size += row.as_ref().map_or(0, bytes::Bytes::len);
            rows.extend(row);
        }
        Ok((!rows.is_empty()).then_some(rows))
    }
}

/// Rows of a table that are at hand: what a statement changes.
#[derive(Debug)]
pub(crate) struct HeldTable {
    batch: RecordBatch,
}

impl HeldTable {
    pub(crate) fn new(batch: RecordBatch) -> Self {
        Self { batch }
    }
}

#[async_trait]
impl TableProvider for HeldTable {
    fn schema(&self) -> SchemaRef {
        self.batch.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let mut batch = self.batch.clone();
        if let Some(columns) = projection {
            batch = batch.project(columns)?;
        }
        if let Some(limit) = limit {
            batch = batch.slice(0, limit.min(batch.num_rows()));
        }
        let schema = batch.schema();
        Ok(Arc::new(Scan::new(Arc::new(HeldSource(batch)), schema, None)))
    }
}

#[derive(Debug)]
struct HeldSource(RecordBatch);

impl Display for HeldSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows={}", self.0.num_rows())
    }
}

impl Source for HeldSource {
    fn open(&self, rows_max: usize) -> Result<Box<dyn Batches>, DataFusionError> {
        Ok(Box::new(HeldBatches { left: self.0.clone(), rows_max }))
    }
}

struct HeldBatches {
    left: RecordBatch,
    rows_max: usize,
}

impl Batches for HeldBatches {
    fn next(&mut self) -> Result<Option<RecordBatch>, DataFusionError> {
        let rows = self.rows_max.min(self.left.num_rows());
        if rows == 0 {
            return Ok(None);
        }
        let batch = self.left.slice(0, rows);
        self.left = self.left.slice(rows, self.left.num_rows() - rows);
        Ok(Some(batch))
    }
}
