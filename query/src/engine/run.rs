//! One request from its text to its rows.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use datafusion::{
    arrow::{
        array::RecordBatch,
        datatypes::{DataType, Schema, SchemaRef, TimeUnit},
        ipc::writer::StreamWriter,
    },
    common::{
        DFSchema,
        config::ConfigNonZeroUsize,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    execution::{SessionState, context::SQLOptions},
    logical_expr::{LogicalPlan, simplify::SimplifyContext},
    optimizer::simplify_expressions::ExprSimplifier,
    physical_plan::{
        ExecutionPlan, SendableRecordBatchStream, coop::CooperativeExec, execute_stream,
    },
    prelude::Expr,
    scalar::ScalarValue,
    sql::{parser::Statement as Planned, sqlparser::ast},
};
use futures_util::StreamExt;
use kimberlite_store::{
    Tenant,
    scan::{Moment, Snapshot, SnapshotError},
    words::{Position, Timestamp},
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Answer, Form, Inner, Page, Request,
    changes::{self, Commit},
};
use crate::{
    catalog::Tables,
    error::QueryError,
    limits::{
        BATCH_ROWS, CALL_BYTES_MAX, CLOSED_LOOK_MS, CLOSED_WAIT_MS, PARAMETERS_MAX, PART_BYTES,
    },
    rows::{self, Rows, columns},
    session, statement,
    time_travel::{Versioned, When, take_versions},
    values::{bind, cast_text, given},
    writes::write_of,
};

/// A request with its tables.
struct Ready {
    state: SessionState,
    statements: Vec<(String, ast::Statement)>,
    records: u64,
    now_us: i64,
}

/// A statement about to run.
pub(super) struct Plan {
    stream: SendableRecordBatchStream,
    pub(super) records: u64,
}

/// Answers every statement with some of its rows.
pub(super) async fn answer(
    inner: &Inner,
    tenant: &Tenant,
    request: &Request,
    (skip, rows, bytes): (u64, usize, usize),
    deadline: Instant,
    commit: &Commit,
) -> Result<Answer, QueryError> {
    let statements = parsed(request)?;
    if writes(&statements)? {
        let page = (skip, rows, bytes);
        let change = changes::change(inner, tenant, request, &statements, page, deadline, commit);
        return Box::pin(change).await;
    }
    let Ready { state, statements, records, now_us } =
        ready(inner, tenant, request, statements, deadline).await?;
    let mut pages = Vec::with_capacity(statements.len());
    for (sql, statement) in statements {
        let stream = plan(&state, statement, request).await?;
        pages.push(page(sql, stream, skip, rows, bytes).await?);
    }
    Ok(Answer { pages, records, now_us })
}

/// Plans a request that must be one statement.
pub(super) async fn plan_one(
    inner: &Inner,
    tenant: &Tenant,
    request: &Request,
    deadline: Instant,
) -> Result<Plan, QueryError> {
    let statements = parsed(request)?;
    if writes(&statements)? {
        let what = "what changes something is answered as application/json only".to_owned();
        return Err(QueryError::Unsupported { what, place: None });
    }
    let mut ready = ready(inner, tenant, request, statements, deadline).await?;
    if ready.statements.len() > 1 {
        let what = "several statements are answered as application/json only".to_owned();
        return Err(QueryError::Unsupported { what, place: None });
    }
    let (_, statement) = ready.statements.remove(0);
    let stream = plan(&ready.state, statement, request).await?;
    Ok(Plan { stream, records: ready.records })
}

fn parsed(request: &Request) -> Result<Vec<(String, ast::Statement)>, QueryError> {
    if request.parameters.len() > PARAMETERS_MAX {
        let what = format!("there are more than {PARAMETERS_MAX} parameters");
        return Err(QueryError::Limit { limit: "sql_parameters", what });
    }
    statement::parse(&request.sql)
}

/// Whether any of the statements changes something.
fn writes(statements: &[(String, ast::Statement)]) -> Result<bool, QueryError> {
    let mut writes = false;
    for (_, statement) in statements {
        writes |= write_of(statement)?.is_some();
    }
    Ok(writes)
}

/// What `now()` is.
pub(super) fn now(request: &Request) -> (i64, DateTime<Utc>) {
    let now_us = request.now_us.unwrap_or_else(|| Timestamp::now().micros());
    (now_us, DateTime::from_timestamp_micros(now_us).unwrap_or_default())
}

/// Pins every table to its moment.
async fn ready(
    inner: &Inner,
    tenant: &Tenant,
    request: &Request,
    mut statements: Vec<(String, ast::Statement)>,
    deadline: Instant,
) -> Result<Ready, QueryError> {
    let mut versions: Vec<Versioned> = Vec::new();
    for (_, statement) in &mut statements {
        versions.extend(take_versions(statement, versions.len())?);
    }
    let (now_us, now) = now(request);
    let snapshot = snapshot(inner, tenant, request.moment, deadline).await?;
    let records = snapshot.records();
    let tables = Tables::new(&snapshot);
    let state = session(inner, tenant, request, tables, &versions, now, deadline).await?;
    Ok(Ready { state, statements, records, now_us })
}

/// A session over tables, some of which are as of moments of their own.
pub(super) async fn session(
    inner: &Inner,
    tenant: &Tenant,
    request: &Request,
    mut tables: Tables,
    versions: &[Versioned],
    now: DateTime<Utc>,
    deadline: Instant,
) -> Result<SessionState, QueryError> {
    if !versions.is_empty() {
        let plain = session::of_request(&inner.base, tables.clone(), 1 << 20, now)
            .map_err(QueryError::Engine)?;
        for version in versions {
            let moment = moment(&plain, request, &version.when)?;
            let then = self::snapshot(inner, tenant, moment, deadline).await?;
            tables.add(version.name.clone(), &version.table, &then)?;
        }
    }
    let state = session::of_request(&inner.base, tables, inner.settings.memory_bytes, now);
    state.map_err(QueryError::Engine)
}

/// The log as of a moment. A time that is not closed yet is waited for: it will be soon, unless it lies ahead.
pub(super) async fn snapshot(
    inner: &Inner,
    tenant: &Tenant,
    moment: Moment,
    deadline: Instant,
) -> Result<Snapshot, QueryError> {
    let patience = Instant::now() + Duration::from_millis(CLOSED_WAIT_MS);
    loop {
        let (store, tenant) = (inner.store.clone(), tenant.clone());
        let taken = tokio::task::spawn_blocking(move || store.snapshot(&tenant, moment)).await;
        let error =
            match taken.map_err(|e| QueryError::Engine(DataFusionError::External(e.into())))? {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => error,
            };
        match (error, moment) {
            (SnapshotError::NotClosed { closed }, Moment::Time(asked)) => {
                if asked > Timestamp::now() || Instant::now() >= patience.min(deadline) {
                    return Err(QueryError::NotClosed { asked, closed });
                }
            }
            (SnapshotError::NoRecord { records }, Moment::Position(position)) => {
                return Err(QueryError::NoRecord { position, records });
            }
            (SnapshotError::NoRecord { records }, Moment::Records(count)) => {
                let position = Position::new(count.saturating_sub(1)).unwrap_or_default();
                return Err(QueryError::NoRecord { position, records });
            }
            (SnapshotError::BeforeFirst { .. }, Moment::Time(asked)) => {
                return Err(QueryError::BeforeFirst { asked });
            }
            (SnapshotError::Read(error), _) => return Err(error.into()),
            (error, _) => {
                return Err(QueryError::Engine(DataFusionError::External(error.into())));
            }
        }
        tokio::time::sleep(Duration::from_millis(CLOSED_LOOK_MS)).await;
    }
}

fn moment(state: &SessionState, request: &Request, when: &When) -> Result<Moment, QueryError> {
    let position = |number: Option<u64>| {
        let position = number.and_then(Position::new).ok_or_else(|| {
            let what = "AS OF POSITION takes a number from 0 to 2^53 - 1".to_owned();
            QueryError::Meaning(what)
        });
        position.map(Moment::Position)
    };
    match when {
        When::Position(number) => position(Some(*number)),
        When::PositionParameter(number) => position(given(&request.parameters, *number)?.as_u64()),
        When::Time(expr) => time(state, request, expr).map(Moment::Time),
    }
}

/// The time that an expression without columns says.
fn time(
    state: &SessionState,
    request: &Request,
    expr: &ast::Expr,
) -> Result<Timestamp, QueryError> {
    let wrong = || {
        let what = "FOR SYSTEM_TIME AS OF takes a time, such as TIMESTAMP '2026-01-31T12:00:00Z'";
        QueryError::Meaning(what.to_owned())
    };
    if let Some(text) = time_text(expr, request)? {
        // By the log's own rules where it is one of its own texts.
        if let Some(time) = Timestamp::parse(&text) {
            return Ok(time);
        }
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        return scalar_time(&cast_text(text, &micros).map_err(|_| wrong())?).ok_or_else(wrong);
    }
    let none = DFSchema::empty();
    let aliased = ast::ExprWithAlias { expr: expr.clone(), alias: None };
    let planned = state.create_logical_expr_from_sql_expr(aliased, &none);
    let planned: Expr = planned.map_err(QueryError::planning)?;
    // `now()` is put in by simplifying.
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(none.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let planned = ExprSimplifier::new(context).simplify(planned).map_err(QueryError::planning)?;
    let physical = state.create_physical_expr(planned, &none).map_err(QueryError::planning)?;
    let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
    let empty: SchemaRef = Arc::new(Schema::empty());
    let one = RecordBatch::try_new_with_options(empty, Vec::new(), &options);
    let one = one.map_err(|e| QueryError::Engine(e.into()))?;
    let value = physical.evaluate(&one).and_then(|v| v.into_array(1));
    let value = value.and_then(|array| ScalarValue::try_from_array(&array, 0));
    scalar_time(&value.map_err(QueryError::running)?).ok_or_else(wrong)
}

/// The text of a literal or parameter.
fn time_text(expr: &ast::Expr, request: &Request) -> Result<Option<String>, QueryError> {
    let value = match expr {
        ast::Expr::TypedString(typed) => &typed.value.value,
        ast::Expr::Value(value) => &value.value,
        _ => return Ok(None),
    };
    Ok(match value {
        ast::Value::SingleQuotedString(text) => Some(text.clone()),
        ast::Value::Placeholder(name) => {
            let number = name.strip_prefix('$').and_then(|n| n.parse().ok()).filter(|n| *n > 0);
            let number = number.ok_or_else(|| {
                QueryError::Meaning(format!("parameters are $1, $2 …, not {name}"))
            })?;
            let given = given(&request.parameters, number)?;
            Some(given.as_str().map_or_else(|| given.to_string(), str::to_owned))
        }
        _ => None,
    })
}

fn scalar_time(value: &ScalarValue) -> Option<Timestamp> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    match value.cast_to(&micros).ok()? {
        ScalarValue::TimestampMicrosecond(Some(us), _) => Timestamp::from_micros(us),
        _ => None,
    }
}

pub(super) async fn plan(
    state: &SessionState,
    statement: ast::Statement,
    request: &Request,
) -> Result<SendableRecordBatchStream, QueryError> {
    let statement = Planned::Statement(Box::new(statement));
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|error| missing_then(QueryError::planning(error), request))?;
    // Statements that do more were refused before; this is the last door.
    let reads =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(&plan).map_err(QueryError::planning)?;
    let plan = bind(plan, &request.parameters)?;
    let plan = state.optimize(&plan).map_err(QueryError::planning)?;
    let mut state = state.clone();
    let rows = batch_rows(&plan).map_err(QueryError::planning)?;
    state.config_mut().options_mut().execution.batch_size =
        ConfigNonZeroUsize::try_new(rows).map_err(QueryError::planning)?;
    let planned = state.query_planner().create_physical_plan(&plan, &state).await;
    let plan = planned.and_then(yielding).map_err(QueryError::planning)?;
    execute_stream(plan, state.task_ctx()).map_err(QueryError::running)
}

/// A table that is not there says of when that is true.
fn missing_then(error: QueryError, request: &Request) -> QueryError {
    match (error, request.moment) {
        (QueryError::Meaning(what), Moment::Position(then)) if what.ends_with("not found") => {
            QueryError::Meaning(format!("{what} as of position {then}"))
        }
        (error, _) => error,
    }
}

/// How many rows there may be in a batch when each has all constants of the statement in it.
fn batch_rows(plan: &LogicalPlan) -> Result<usize, DataFusionError> {
    let mut bytes = 1;
    plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Literal(value, _) = expr {
                    bytes += value.size();
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok((CALL_BYTES_MAX / bytes).clamp(1, BATCH_ROWS))
}

/// Has those operators pause now and then that make many rows out of few: else nobody could end them.
fn yielding(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let makes_many = |plan: &dyn ExecutionPlan| {
        plan.children().len() > 1 || matches!(plan.name(), "UnnestExec" | "RecursiveQueryExec")
    };
    let yields = plan.transform_up(|plan| {
        Ok(if makes_many(&*plan) {
            Transformed::yes(Arc::new(CooperativeExec::new(plan)) as Arc<dyn ExecutionPlan>)
        } else {
            Transformed::no(plan)
        })
    })?;
    Ok(yields.data)
}

pub(super) async fn page(
    sql: String,
    mut stream: SendableRecordBatchStream,
    mut skip: u64,
    rows_max: usize,
    bytes_max: usize,
) -> Result<Page, QueryError> {
    let columns = columns(&stream.schema());
    let (mut text, mut count, mut more) = (Vec::new(), 0, false);
    'read: while let Some(batch) = stream.next().await {
        let batch = batch.map_err(QueryError::running)?;
        let passed = skip.min(batch.num_rows() as u64);
        skip -= passed;
        let rows = Rows::new(&batch).map_err(QueryError::running)?;
        for row in passed as usize..rows.count() {
            if count == rows_max || (count > 0 && text.len() >= bytes_max) {
                more = true;
                break 'read;
            }
            if count > 0 {
                text.push(b',');
            }
            rows.array(row, &mut text);
            count += 1;
        }
    }
    Ok(Page { sql, columns, rows: text.into(), count, more })
}

/// Writes all rows of a statement.
pub(super) async fn send_all(
    plan: Plan,
    form: Form,
    parts: &mpsc::Sender<Result<Bytes, QueryError>>,
) -> Result<(), QueryError> {
    let mut stream = plan.stream;
    let schema = stream.schema();
    let mut writer = Writer::new(form, &schema)?;
    loop {
        let batch = stream.next().await.transpose().map_err(QueryError::running)?;
        let Some(batch) = batch else { break };
        let rows = Rows::new(&batch).map_err(QueryError::running)?;
        let mut row = 0;
        while row < batch.num_rows() {
            let text = writer.some(&batch, &rows, &mut row)?;
            if !text.is_empty() && parts.send(Ok(text)).await.is_err() {
                return Ok(());
            }
        }
    }
    let text = writer.end()?;
    if !text.is_empty() {
        let _caller_left = parts.send(Ok(text)).await.is_err();
    }
    Ok(())
}

enum Writer {
    /// Text that waits to be sent, and how a row is added to it.
    Text(Vec<u8>, fn(&Rows, usize, &mut Vec<u8>)),
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Writer {
    fn new(form: Form, schema: &SchemaRef) -> Result<Self, QueryError> {
        let columns = columns(schema);
        Ok(match form {
            Form::Ndjson => {
                let mut names = std::collections::HashSet::new();
                if let Some(twice) = columns.iter().find(|c| !names.insert(&c.name)) {
                    let what = format!(
                        "two columns are called \"{}\", which an object cannot hold: name them with AS",
                        twice.name
                    );
                    return Err(QueryError::Meaning(what));
                }
                Self::Text(Vec::new(), Rows::line)
            }
            Form::Csv => {
                let mut head = Vec::new();
                rows::csv_head(&columns, &mut head);
                Self::Text(head, Rows::csv)
            }
            Form::Arrow => {
                let writer = StreamWriter::try_new(Vec::new(), schema);
                Self::Arrow(Box::new(writer.map_err(|e| QueryError::Engine(e.into()))?))
            }
        })
    }

    /// Writes some more rows of a batch, from `row` on.
    fn some(
        &mut self,
        batch: &RecordBatch,
        rows: &Rows,
        row: &mut usize,
    ) -> Result<Bytes, QueryError> {
        match self {
            Self::Text(text, write) => {
                while *row < rows.count() && text.len() < PART_BYTES {
                    write(rows, *row, text);
                    *row += 1;
                }
                Ok(std::mem::take(text).into())
            }
            Self::Arrow(writer) => {
                *row = batch.num_rows();
                writer.write(batch).map_err(|e| QueryError::Engine(e.into()))?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
        }
    }

    fn end(&mut self) -> Result<Bytes, QueryError> {
        match self {
            Self::Text(text, _) => Ok(std::mem::take(text).into()),
            Self::Arrow(writer) => {
                writer.finish().map_err(|e| QueryError::Engine(e.into()))?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
        }
    }
}
