//! Reading the log as a step of a plan.

use std::{
    fmt::{self, Debug, Display},
    sync::Arc,
};

use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    common::tree_node::TreeNodeRecursion,
    error::DataFusionError,
    execution::TaskContext,
    physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        ReplaceChildrenOptions, SendableRecordBatchStream,
        coop::make_cooperative,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use futures_util::stream;

/// What is read. Its text is what `EXPLAIN` shows.
pub(crate) trait Source: Debug + Display + Send + Sync {
    /// Begins to read, so many rows at once at most.
    fn open(&self, rows_max: usize) -> Result<Box<dyn Batches>, DataFusionError>;
}

/// Batches being read.
pub(crate) trait Batches: Send {
    /// The next one; `None` at the end. Blocks on files.
    fn next(&mut self) -> Result<Option<RecordBatch>, DataFusionError>;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scan {
    source: Arc<dyn Source>,
    properties: Arc<PlanProperties>,
}

impl Scan {
    /// A scan whose batches have this schema and come in this order.
    pub(crate) fn new(
        source: Arc<dyn Source>,
        schema: SchemaRef,
        order: Option<LexOrdering>,
    ) -> Self {
        let equivalence = EquivalenceProperties::new_with_orderings(schema, order);
        let properties = PlanProperties::new(
            equivalence,
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { source, properties: Arc::new(properties) }
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogScan: {}", self.source)
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &'static str {
        "LogScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion, DataFusionError>,
    ) -> Result<TreeNodeRecursion, DataFusionError> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        Ok(self)
    }

    fn execute(
        &self,
        _partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        let source = Arc::clone(&self.source);
        let rows_max = context.session_config().batch_size();
        let batches = stream::try_unfold(None, move |state: Option<Box<dyn Batches>>| {
            let source = Arc::clone(&source);
            async move {
                // Files may keep it waiting, and others' queries must not wait with it.
                let read = tokio::task::spawn_blocking(move || {
                    let mut batches = match state {
                        Some(batches) => batches,
                        None => source.open(rows_max)?,
                    };
                    let batch = batches.next()?;
                    Ok::<_, DataFusionError>(batch.map(|batch| (batch, Some(batches))))
                });
                match read.await {
                    Ok(result) => result,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // The runtime stops, and nobody waits for an answer any more.
                    Err(error) => Err(DataFusionError::External(Box::new(error))),
                }
            }
        });
        let schema = Arc::clone(self.properties.eq_properties.schema());
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(schema, batches))))
    }
}
