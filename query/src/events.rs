//! The table `events`.

mod pushed;

use std::{
    fmt::{self, Display},
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{
            ArrayRef, Int64Array, ListBuilder, StringViewArray, StringViewBuilder,
            TimestampMicrosecondArray,
        },
        compute::SortOptions,
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
        record_batch::{RecordBatch, RecordBatchOptions},
    },
    catalog::{Session, TableProvider},
    error::DataFusionError,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_plan::ExecutionPlan,
};
use kimberlite_store::{
    scan::{Columns, EventRows, EventScan, Snapshot, Texts},
    words::{Actor, EventType, StreamName},
};
use uuid::{Uuid, fmt::Hyphenated};

use crate::{
    error::QueryError,
    limits::BATCH_BYTES,
    rows::{json, uuid},
    scan::{Batches, Scan, Source},
};
pub(crate) use pushed::Pushed;

/// The events of a tenant as of a moment.
#[derive(Debug)]
pub(crate) struct Events {
    snapshot: Snapshot,
}

/// Times of the log: microseconds, UTC.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn texts_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8View, true)))
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("position", DataType::Int64, false),
        Field::new("stream", DataType::Utf8View, false),
        Field::new("version", DataType::Int64, false),
        uuid(Field::new("id", DataType::Utf8View, false)),
        Field::new("type", DataType::Utf8View, false),
        Field::new("time", time_type(), false),
        Field::new("occurred_at", time_type(), true),
        Field::new("tags", texts_type(), false),
        Field::new("subjects", texts_type(), false),
        json(Field::new("data", DataType::Utf8View, true)),
        json(Field::new("metadata", DataType::Utf8View, true)),
        Field::new("actor", DataType::Utf8View, true),
    ]))
});

impl Events {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot }
    }
}

#[async_trait]
impl TableProvider for Events {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let answered = |filter: &&Expr| {
            if Pushed::default().take(filter) {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(answered).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let mut pushed = Pushed::default();
        for filter in filters {
            if !pushed.take(filter) {
                let what = format!("a filter came back that was not taken: {filter}");
                return Err(DataFusionError::Internal(what));
            }
        }
        let schema = match projection {
            Some(columns) => Arc::new(SCHEMA.project(columns)?),
            None => Arc::clone(&SCHEMA),
        };
        let order = schema.index_of("position").ok().and_then(|at| {
            let options = SortOptions { descending: false, nulls_first: false };
            LexOrdering::new([PhysicalSortExpr::new(
                Arc::new(Column::new("position", at)),
                options,
            )])
        });
        let source = EventSource {
            snapshot: self.snapshot.clone(),
            pushed,
            schema: Arc::clone(&schema),
            limit,
        };
        Ok(Arc::new(Scan::new(Arc::new(source), schema, order)))
    }
}

/// What a scan reads.
#[derive(Debug)]
struct EventSource {
    snapshot: Snapshot,
    pushed: Pushed,
    schema: SchemaRef,
    limit: Option<usize>,
}

impl Display for EventSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        write!(
            f,
            "table=events, records={}, columns={columns:?}, {}",
            self.snapshot.records(),
            self.pushed
        )?;
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }
}

impl Source for EventSource {
    fn open(&self, rows_max: usize) -> Result<Box<dyn Batches>, DataFusionError> {
        let scan = match self.pushed.query() {
            Some(mut query) => {
                let has = |name| self.schema.index_of(name).is_ok();
                query.columns = Columns {
                    data: has("data"),
                    metadata: has("metadata"),
                    tags: has("tags"),
                    actor: has("actor"),
                };
                Some(self.snapshot.events(query).map_err(failed)?)
            }
            None => None,
        };
        let left = self.limit.unwrap_or(usize::MAX);
        Ok(Box::new(EventBatches { scan, schema: Arc::clone(&self.schema), left, rows_max }))
    }
}

/// An error of the store on its way through the engine.
pub(crate) fn failed(error: kimberlite_store::error::ReadError) -> DataFusionError {
    DataFusionError::External(Box::new(QueryError::Read(error)))
}

struct EventBatches {
    scan: Option<EventScan>,
    schema: SchemaRef,
    left: usize,
    rows_max: usize,
}

impl Batches for EventBatches {
    fn next(&mut self) -> Result<Option<RecordBatch>, DataFusionError> {
        let Some(scan) = &mut self.scan else { return Ok(None) };
        if self.left == 0 {
            return Ok(None);
        }
        let rows = scan.next(self.rows_max.min(self.left), BATCH_BYTES).map_err(failed)?;
        let Some(rows) = rows else { return Ok(None) };
        let count = rows.positions.len();
        self.left -= count;
        let columns: Result<Vec<ArrayRef>, DataFusionError> =
            self.schema.fields().iter().map(|field| column(field.name(), &rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = Arc::clone(&self.schema);
        Ok(Some(RecordBatch::try_new_with_options(schema, columns?, &options)?))
    }
}

/// Positions and versions are below 2^53.
pub(crate) fn numbers(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(values.map(u64::cast_signed).collect::<Int64Array>())
}

pub(crate) fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn column(name: &str, rows: &EventRows) -> Result<ArrayRef, DataFusionError> {
    Ok(match name {
        "position" => numbers(rows.positions.iter().copied()),
        "version" => numbers(rows.versions.iter().copied()),
        "stream" => {
            Arc::new(StringViewArray::from_iter_values(rows.streams.iter().map(StreamName::as_str)))
        }
        "type" => {
            Arc::new(StringViewArray::from_iter_values(rows.types.iter().map(EventType::as_str)))
        }
        "time" => times(rows.times.iter().map(|t| Some(*t))),
        "occurred_at" => times(rows.occurred.iter().copied()),
        "id" => {
            let mut ids = StringViewBuilder::with_capacity(rows.ids.len());
            let mut text = [0; Hyphenated::LENGTH];
            for id in &rows.ids {
                ids.append_value(Uuid::from_bytes(*id).hyphenated().encode_lower(&mut text));
            }
            Arc::new(ids.finish())
        }
        "data" => texts(&rows.data)?,
        "metadata" => texts(&rows.metadata)?,
        "actor" => Arc::new(
            rows.actors.iter().map(|a| a.as_ref().map(Actor::as_str)).collect::<StringViewArray>(),
        ),
        "tags" => {
            let mut lists = ListBuilder::new(StringViewBuilder::new());
            for text in rows.tags.iter() {
                let tags: Vec<String> = match text {
                    Some(json) => serde_json::from_slice(json)
                        .map_err(|e| DataFusionError::External(Box::new(e)))?,
                    None => Vec::new(),
                };
                for tag in &tags {
                    lists.values().append_value(tag);
                }
                lists.append(true);
            }
            Arc::new(lists.finish())
        }
        "subjects" => {
            let mut lists = ListBuilder::new(StringViewBuilder::new());
            rows.positions.iter().for_each(|_| lists.append(true));
            Arc::new(lists.finish())
        }
        other => return Err(DataFusionError::Internal(format!("no column {other}"))),
    })
}

fn texts(texts: &Texts) -> Result<ArrayRef, DataFusionError> {
    let mut out = StringViewBuilder::with_capacity(texts.ends.len());
    for text in texts.iter() {
        match text.map(std::str::from_utf8) {
            Some(Ok(text)) => out.append_value(text),
            Some(Err(error)) => return Err(DataFusionError::External(Box::new(error))),
            None => out.append_null(),
        }
    }
    Ok(Arc::new(out.finish()))
}
