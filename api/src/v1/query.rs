//! `/v1/query`: SQL over the log.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::stream;
use kimberlite_query::{Answer, Column, Form, Page, Request as Asked, RowStream};
use kimberlite_store::{
    error::ReadError,
    scan::Moment,
    words::{Position, Timestamp},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    conditions::{self, Refused},
    read::{held, link, with_type},
};
use crate::{
    accept::choose,
    app::{App, TraceId},
    body::{self, Content},
    json,
    limits::{QUERY_NEXT_BYTES_MAX, QUERY_PAGE_BYTES, QUERY_ROWS, QUERY_ROWS_MAX},
    problem::{Code, FieldError, Problem},
    query::{Query, whole_number},
};

/// What is asked.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = QueryRequest)]
struct QueryBody {
    /// One or several statements in PostgreSQL's SQL, with `;` between them. Tables: `events`, `streams`, those that
    /// `CREATE TABLE` made, and `information_schema`. `t AS OF POSITION n` and `t FOR SYSTEM_TIME AS OF TIMESTAMP '…'` are tables as they were.
    #[schema(
        example = "SELECT type, count(*) AS n FROM events GROUP BY type ORDER BY n DESC",
        max_length = 1_048_576
    )]
    sql: String,
    /// Values for `$1`, `$2` and so on, typed by where they stand.
    #[serde(default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<Value>>, max_items = 1000)]
    params: Vec<Value>,
    /// What tables without a version of their own are of; what is now where it is left out. Not where a statement changes
    /// something.
    #[serde(default)]
    as_of: Option<AsOfBody>,
    /// Milliseconds that the answer may take; the setting `query.timeout_ms` where it is left out, and at most.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    timeout_ms: Option<u64>,
    /// Rows of a JSON answer, 1 to 10000 (which it is where it is left out). Other formats have all rows.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
}

json::only_from_objects!(QueryBody);

/// A moment of the log: one of the two.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = AsOf)]
struct AsOfBody {
    /// The state behind the record at this position.
    #[serde(default)]
    position: Option<u64>,
    /// The state with all records up to this time (RFC 3339), which must be over.
    #[serde(default)]
    #[schema(format = DateTime)]
    time: Option<String>,
}

json::only_from_objects!(AsOfBody);

/// Rows of one statement.
#[derive(utoipa::ToSchema)]
#[schema(as = QueryResult)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct ResultView {
    /// The rows' columns.
    columns: Vec<ColumnView>,
    /// Arrays with a value for each column. Integers beyond 2^53 and DECIMAL are strings, BYTES base64, times RFC 3339, JSON as it
    /// was stored; NaN and infinities are strings.
    rows: Vec<Vec<Value>>,
    /// How many rows these are; of a statement without columns, how many it changed.
    row_count: u64,
    /// Path and query of the rows behind these, as of the same position, to be requested with GET as it stands; `null` where
    /// there are none.
    #[schema(required = true)]
    next: Option<String>,
}

/// Answers to the statements of a request.
#[derive(utoipa::ToSchema)]
#[schema(as = QueryAnswer)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct AnswerView {
    /// Of the last statement.
    columns: Vec<ColumnView>,
    /// Of the last statement; see `QueryResult`.
    rows: Vec<Vec<Value>>,
    /// Of the last statement.
    row_count: u64,
    /// Of the last statement.
    #[schema(required = true)]
    next: Option<String>,
    /// The answers are true of the log up to the record at this position; `null` where it has none. Tables with a version of
    /// their own are as of that. Where the request changed something, the last record that it wrote.
    #[schema(required = true)]
    position: Option<u64>,
    /// Each statement's answer in order, where there are several.
    #[schema(required = false)]
    results: Vec<ResultView>,
}

/// A column.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = QueryColumn)]
struct ColumnView {
    /// Its name.
    #[schema(example = "n")]
    name: String,
    /// Its SQL type.
    #[serde(rename = "type")]
    #[schema(rename = "type", example = "BIGINT")]
    sql_type: String,
}

/// What stands in `next`: the request again, pinned.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Next {
    sql: String,
    params: Vec<Value>,
    /// Records of the log that it is true of.
    records: u64,
    now_us: i64,
    /// Rows that were shown.
    skip: u64,
    limit: usize,
    timeout_ms: u64,
}

/// A request, checked.
struct Checked {
    asked: Asked,
    skip: u64,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Page,
    Rows(Form),
}

const FORMATS: [(Format, &str); 4] = [
    (Format::Page, "application/json"),
    (Format::Rows(Form::Ndjson), "application/x-ndjson"),
    (Format::Rows(Form::Csv), "text/csv"),
    (Format::Rows(Form::Arrow), "application/vnd.apache.arrow.stream"),
];

const MIN_POSITION: HeaderName = HeaderName::from_static("kimberlite-min-position");
const POSITION: HeaderName = HeaderName::from_static("kimberlite-position");

/// Ask, and change tables, in SQL
///
/// `CREATE TABLE`, `DROP TABLE`, `INSERT`, `UPDATE` and `DELETE` (with `RETURNING`) change tables of the tenant's own: each table that is made or dropped
/// and each row that changes is a record of the log. The statements of a request commit together or not at all, and see what those before them changed; what
/// they rest on is as it was when they commit. At most 10,000 rows and 16 MiB of them change in one request, which is answered as `application/json` with all rows at
/// once. It may be sent again after `contended`; after an answer that was lost, look first: no key keeps it from being done twice.
///
/// A query sees everything that was acknowledged before it arrived. `Accept: application/json` gives a page of rows,
/// `application/x-ndjson` all rows, an object a line (a problem is the last line where it breaks off), `text/csv` (RFC 4180, with a head) and
/// `application/vnd.apache.arrow.stream` all rows too; the header `Kimberlite-Position` says what these are true of, and an answer
/// that breaks off ends without its proper end.
#[utoipa::path(
    post, path = "/v1/query", tag = "query", operation_id = "query",
    params(
        ("Kimberlite-Min-Position" = Option<u64>, Header, description = "Answer no earlier than behind this position"),
    ),
    request_body(content = QueryBody, example = json!({"sql": "SELECT type, count(*) AS n FROM events GROUP BY type ORDER BY n DESC, type"})),
    responses(
        (status = 200, description = "Rows", content(
            (AnswerView = "application/json"),
            (Value = "application/x-ndjson"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
    )
)]
pub(crate) async fn query(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    crate::query::none(parts.uri.query())?;
    let mut headers = parts.headers.clone();
    min_position(&app, headers.remove(MIN_POSITION))?;
    conditions::refuse(&headers, Refused::KeyAndConditions)?;
    let format = choose(&headers, &FORMATS)?;
    Content::of(&headers, &[Content::Json])?;
    let trace = *parts.extensions.get::<TraceId>().expect("observe sets it");
    let checked = {
        let body = body::whole(&app, &headers, body).await?;
        check(&app, json::parse(&body)?)?
    };
    match format {
        Format::Page => page(&app, checked).await,
        Format::Rows(form) => rows(&app, checked.asked, form, trace).await,
    }
}

/// The next rows of a query
///
/// `next` of an answer leads here. The rows are as of the same position as those before.
#[utoipa::path(
    get, path = "/v1/query", tag = "query", operation_id = "continue_query",
    params(("next" = String, Query, description = "As the answer before says it", example = "eyJzcWwiOiJTRUxFQ1QgMSBBUyBhIiwicGFyYW1zIjpbXSwicmVjb3JkcyI6MCwibm93X3VzIjowLCJza2lwIjowLCJsaW1pdCI6MTAsInRpbWVvdXRfbXMiOjEwMDB9")),
    responses((status = 200, description = "Rows", body = AnswerView))
)]
pub(crate) async fn continue_query(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let mut query = Query::parse(request.uri().query())?;
    let next = query.one("next")?;
    query.finish()?;
    conditions::refuse(request.headers(), Refused::KeyAndConditions)?;
    choose(request.headers(), &FORMATS[..1])?;
    let wrong = || {
        let detail = "is not the `next` of an answer";
        Problem::parameter(Code::InvalidParameter, "next", detail)
    };
    let text = URL_SAFE_NO_PAD.decode(next.ok_or_else(wrong)?.as_bytes()).map_err(|_| wrong())?;
    let next: Next = serde_json::from_slice(&text).map_err(|_| wrong())?;
    let timeout = Duration::from_millis(next.timeout_ms).min(app.config.query_timeout);
    if !(1..=QUERY_ROWS_MAX).contains(&next.limit) {
        return Err(wrong());
    }
    let asked = Asked {
        sql: next.sql,
        parameters: next.params,
        actor: app.actor.clone(),
        moment: Moment::Records(next.records),
        now_us: Some(next.now_us),
        timeout,
    };
    page(&app, Checked { asked, skip: next.skip, limit: next.limit }).await
}

/// The one node has every position that was acknowledged; one that it has not is not of its log.
fn min_position(app: &App, header: Option<HeaderValue>) -> Result<(), Problem> {
    let Some(value) = header else { return Ok(()) };
    let position = value.to_str().ok().and_then(whole_number).and_then(Position::new);
    let position = position.ok_or_else(|| {
        let detail = "Kimberlite-Min-Position takes a position: a whole number below 2^53.";
        Problem::new(Code::InvalidHeader, detail)
    })?;
    if position.get() < *app.store.tip(&app.tenant).borrow() {
        return Ok(());
    }
    Err(ReadError::Diverged { position }.into())
}

fn check(app: &App, body: QueryBody) -> Result<Checked, Problem> {
    let moment = match body.as_of {
        None => Moment::Now,
        Some(AsOfBody { position: Some(position), time: None }) => {
            let position = Position::new(position).ok_or_else(|| {
                Problem::at(Code::InvalidBody, "/as_of/position", "is not below 2^53")
            })?;
            Moment::Position(position)
        }
        Some(AsOfBody { position: None, time: Some(time) }) => {
            let time = Timestamp::parse(&time).ok_or_else(|| {
                Problem::at(Code::InvalidBody, "/as_of/time", "is no time of RFC 3339")
            })?;
            Moment::Time(time)
        }
        Some(_) => {
            let detail = "has either a position or a time";
            return Err(Problem::at(Code::InvalidBody, "/as_of", detail));
        }
    };
    let most = app.config.query_timeout;
    let timeout = body.timeout_ms.map_or(most, Duration::from_millis);
    if timeout.is_zero() || timeout > most {
        let detail = format!("is not between 1 and {} (query.timeout_ms)", most.as_millis());
        return Err(Problem::at(Code::LimitExceeded, "/timeout_ms", detail));
    }
    let limit = body.limit.map_or(QUERY_ROWS, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if !(1..=QUERY_ROWS_MAX).contains(&limit) {
        let detail = format!("is not between 1 and {QUERY_ROWS_MAX}");
        return Err(Problem::at(Code::LimitExceeded, "/limit", detail));
    }
    let (sql, parameters) = (body.sql, body.params);
    let actor = app.actor.clone();
    let asked = Asked { sql, parameters, actor, moment, now_us: None, timeout };
    Ok(Checked { asked, skip: 0, limit })
}

async fn page(app: &App, checked: Checked) -> Result<Response, Problem> {
    let Checked { asked, skip, limit } = checked;
    let (parameters, timeout) = (asked.parameters.clone(), asked.timeout);
    let page = (skip, limit, QUERY_PAGE_BYTES);
    let answer = app.engine.answer(&app.tenant, asked, page).await?;
    let mut parts = Vec::new();
    let mut last = None;
    let several = answer.pages.len() > 1;
    let mut results = Vec::new();
    for page in &answer.pages {
        let shown = skip + page.count as u64;
        let next = page.more.then(|| next(page, &answer, &parameters, shown, limit, timeout));
        let next = next.transpose()?;
        if several {
            results.push(Bytes::from_static(if results.is_empty() { b"{" } else { b",{" }));
            push_result(&mut results, page, next.as_deref());
            results.push(Bytes::from_static(b"}"));
        }
        last = Some((page, next));
    }
    let (page, next) = last.expect("a request has a statement");
    parts.push(Bytes::from_static(b"{"));
    push_result(&mut parts, page, next.as_deref());
    let position = answer.records.checked_sub(1);
    let position = position.map_or_else(|| "null".to_owned(), |p| p.to_string());
    parts.push(format!(",\"position\":{position}").into());
    if several {
        parts.push(Bytes::from_static(b",\"results\":["));
        parts.append(&mut results);
        parts.push(Bytes::from_static(b"]"));
    }
    parts.push(Bytes::from_static(b"}"));
    let mut response = with_type(held(app, parts)?, "application/json");
    link(&mut response, next);
    vary(&mut response);
    Ok(response)
}

fn push_result(parts: &mut Vec<Bytes>, page: &Page, next: Option<&str>) {
    let column = |c: &Column| ColumnView { name: c.name.clone(), sql_type: c.sql_type.clone() };
    let columns: Vec<ColumnView> = page.columns.iter().map(column).collect();
    let columns = serde_json::to_string(&columns).expect("plain fields serialise");
    parts.push(format!("\"columns\":{columns},\"rows\":[").into());
    parts.push(page.rows.clone());
    // Our own paths are plain ASCII.
    let next = next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\""));
    parts.push(format!("],\"row_count\":{},\"next\":{next}", page.count).into());
}

fn next(
    page: &Page,
    answer: &Answer,
    parameters: &[Value],
    skip: u64,
    limit: usize,
    timeout: Duration,
) -> Result<String, Problem> {
    let next = Next {
        sql: page.sql.clone(),
        params: parameters.to_vec(),
        records: answer.records,
        now_us: answer.now_us,
        skip,
        limit,
        timeout_ms: u64::try_from(timeout.as_millis()).expect("at most a day"),
    };
    let json = serde_json::to_vec(&next).expect("plain fields serialise");
    let path = format!("/v1/query?next={}", URL_SAFE_NO_PAD.encode(json));
    if path.len() > QUERY_NEXT_BYTES_MAX {
        let detail = format!(
            "query_rows: there are more than {} rows, and the SQL is too long for the address of the next ones: \
             ask for all as application/x-ndjson",
            page.count
        );
        let field = FieldError { pointer: None, parameter: None, detail };
        return Err(Problem::fields(Code::LimitExceeded, vec![field]));
    }
    Ok(path)
}

async fn rows(app: &App, asked: Asked, form: Form, trace: TraceId) -> Result<Response, Problem> {
    let (kind, lines) = match form {
        Form::Ndjson => ("application/x-ndjson", true),
        Form::Csv => ("text/csv; charset=utf-8; header=present", false),
        Form::Arrow => ("application/vnd.apache.arrow.stream", false),
    };
    let answer = app.engine.rows(&app.tenant, asked, form).await?;
    let position = answer.records.checked_sub(1);
    let body = if lines {
        Body::from_stream(stream::unfold(Some(answer), move |state| with_problem(state, trace)))
    } else {
        Body::from_stream(stream::unfold(Some(answer), broken_off))
    };
    let mut response = with_type(body, kind);
    if let Some(position) = position {
        response.headers_mut().insert(POSITION, HeaderValue::from(position));
    }
    vary(&mut response);
    Ok(response)
}

/// A problem is the last line.
async fn with_problem(
    state: Option<RowStream>,
    trace: TraceId,
) -> Option<(Result<Bytes, Infallible>, Option<RowStream>)> {
    let mut answer = state?;
    match answer.next().await? {
        Ok(part) => Some((Ok(part), Some(answer))),
        Err(error) => {
            let mut line = Problem::from(error).json(trace);
            line.push(b'\n');
            Some((Ok(line.into()), None))
        }
    }
}

/// These formats have no place for a problem: the connection breaks off, so that nobody takes a part for the whole.
async fn broken_off(
    state: Option<RowStream>,
) -> Option<(Result<Bytes, io::Error>, Option<RowStream>)> {
    let mut answer = state?;
    match answer.next().await? {
        Ok(part) => Some((Ok(part), Some(answer))),
        Err(error) => {
            let problem = Problem::from(error);
            tracing::info!(code = problem.code().row().code, "an answer to a query broke off");
            Some((Err(io::Error::other(problem.code().row().code)), None))
        }
    }
}

fn vary(response: &mut Response) {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
}
