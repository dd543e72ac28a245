//! The table `streams`.

use std::{
    fmt::{self, Display},
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, StringViewArray},
        datatypes::{DataType, Field, Schema, SchemaRef},
        record_batch::{RecordBatch, RecordBatchOptions},
    },
    catalog::{Session, TableProvider},
    error::DataFusionError,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
};
use kimberlite_store::{read::StreamInfo, scan::Snapshot, words::StreamName};

use crate::{
    events::{Pushed, failed, numbers, time_type, times},
    limits::STREAMS_AT_ONCE,
    scan::{Batches, Scan, Source},
};

/// The streams of a tenant as of a moment.
#[derive(Debug)]
pub(crate) struct Streams {
    snapshot: Snapshot,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("stream", DataType::Utf8View, false),
        Field::new("version", DataType::Int64, false),
        Field::new("first_version", DataType::Int64, false),
        Field::new("first_time", time_type(), false),
        Field::new("last_time", time_type(), false),
        Field::new("deleted", DataType::Boolean, false),
    ]))
});

impl Streams {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot }
    }
}

#[async_trait]
impl TableProvider for Streams {
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
        // Names are in order: what they begin with is found without looking at others. The rest is left to the engine.
        let narrows = |filter: &&Expr| {
            let mut pushed = Pushed::default();
            if pushed.take(filter) && pushed.stream_prefix().is_some() {
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
        let mut pushed = Pushed::default();
        for filter in filters {
            pushed.take(filter);
        }
        let columns = projection.cloned().unwrap_or_else(|| (0..SCHEMA.fields().len()).collect());
        let schema = Arc::new(SCHEMA.project(&columns)?);
        let source = StreamSource {
            snapshot: self.snapshot.clone(),
            prefix: pushed.stream_prefix().unwrap_or_default(),
            schema: Arc::clone(&schema),
            limit,
        };
        Ok(Arc::new(Scan::new(Arc::new(source), schema, None)))
    }
}

#[derive(Debug)]
struct StreamSource {
    snapshot: Snapshot,
    prefix: String,
    schema: SchemaRef,
    limit: Option<usize>,
}

impl Display for StreamSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (records, prefix) = (self.snapshot.records(), &self.prefix);
        write!(f, "table=streams, records={records}, prefix={prefix:?}")
    }
}

impl Source for StreamSource {
    fn open(&self, rows_max: usize) -> Result<Box<dyn Batches>, DataFusionError> {
        Ok(Box::new(StreamBatches {
            snapshot: self.snapshot.clone(),
            prefix: self.prefix.clone(),
            schema: Arc::clone(&self.schema),
            after: None,
            done: false,
            left: self.limit.unwrap_or(usize::MAX),
            rows_max,
        }))
    }
}

struct StreamBatches {
    snapshot: Snapshot,
    prefix: String,
    schema: SchemaRef,
    after: Option<StreamName>,
    done: bool,
    left: usize,
    rows_max: usize,
}

impl Batches for StreamBatches {
    fn next(&mut self) -> Result<Option<RecordBatch>, DataFusionError> {
        while !self.done && self.left > 0 {
            let after = self.after.as_ref().map(StreamName::as_str);
            let limit = STREAMS_AT_ONCE.min(self.rows_max).min(self.left);
            let found = self.snapshot.streams(&self.prefix, after, limit);
            let (infos, next) = found.map_err(failed)?;
            self.done = next.is_none();
            self.after = next;
            self.left -= infos.len();
            if !infos.is_empty() {
                return batch(&self.schema, &infos).map(Some);
            }
        }
        Ok(None)
    }
}

fn batch(schema: &SchemaRef, infos: &[StreamInfo]) -> Result<RecordBatch, DataFusionError> {
    let column = |name: &str| -> ArrayRef {
        match name {
            "stream" => {
                Arc::new(StringViewArray::from_iter_values(infos.iter().map(|i| i.stream.as_str())))
            }
            "version" => numbers(infos.iter().map(|i| i.version.get())),
            "first_version" => numbers(infos.iter().map(|i| i.first_version.get())),
            "first_time" => times(infos.iter().map(|i| Some(i.first_time.micros()))),
            "last_time" => times(infos.iter().map(|i| Some(i.last_time.micros()))),
            _ => Arc::new(infos.iter().map(|i| Some(i.deleted)).collect::<BooleanArray>()),
        }
    };
    let columns = schema.fields().iter().map(|field| column(field.name())).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(infos.len()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
