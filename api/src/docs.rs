//! Pages for people: the API, its problems, its configuration, its operation. Made from the same tables as the
//! server itself.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use serde_json::Value;

use crate::{
    app::App,
    config::{KEYS, Key},
    operations::{self, ALERTS, Alert, METRICS, Metric},
    problem::{Code, Problem, Row},
    query,
};

/// Nothing is loaded from elsewhere and no script runs.
const CSP: &str = "default-src 'none'; script-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; \
                   form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = include_str!("../../web/static/docs.css");

/// Routes of the pages. They are not part of the API and not in its document.
pub(crate) fn pages() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(home))
        .route("/docs", get(api))
        .route("/docs/problems", get(problems))
        .route("/docs/problems/{code}", get(problem))
        .route("/docs/config", get(config))
        .route("/docs/operations", get(running))
        .route("/docs/operations/alerts.yml", get(alerts))
        .route("/docs/style.css", get(style))
        .route("/openapi.json", get(document))
}

#[derive(Template)]
#[template(path = "pages/home.html")]
struct Home;

#[derive(Template)]
#[template(path = "pages/not_found.html")]
struct NotFound;

#[derive(Template)]
#[template(path = "pages/operations.html")]
struct Operations<'a> {
    about: &'a str,
    groups: Vec<Group<'a>>,
}

#[derive(Template)]
#[template(path = "pages/problems.html")]
struct Problems<'a> {
    rows: &'a [&'static Row],
}

#[derive(Template)]
#[template(path = "pages/problem.html")]
struct OneProblem {
    row: &'static Row,
    unknown_effects: bool,
}

#[derive(Template)]
#[template(path = "pages/config.html")]
struct Configuration {
    keys: &'static [Key],
}

#[derive(Template)]
#[template(path = "pages/running.html")]
struct Running {
    metrics: &'static [Metric],
    alerts: &'static [Alert],
}

/// Operations with one tag.
struct Group<'a> {
    name: &'a str,
    about: &'a str,
    operations: Vec<Operation<'a>>,
}

struct Operation<'a> {
    id: &'a str,
    method: String,
    path: &'a str,
    summary: &'a str,
    description: &'a str,
    parameters: Vec<Parameter<'a>>,
    bodies: Vec<RequestBody<'a>>,
    answers: Vec<Answer<'a>>,
}

struct Parameter<'a> {
    name: &'a str,
    place: &'a str,
    about: &'a str,
}

struct RequestBody<'a> {
    kind: &'a str,
    example: String,
}

struct Answer<'a> {
    status: &'a str,
    about: &'a str,
    kinds: String,
}

async fn home(request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    page(StatusCode::OK, &Home)
}

async fn api(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    page(
        StatusCode::OK,
        &Operations {
            about: text(&app.document["info"], "description"),
            groups: groups(&app.document),
        },
    )
}

async fn problems(request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    let rows: Vec<_> = Code::ALL.iter().map(|code| code.row()).collect();
    page(StatusCode::OK, &Problems { rows: &rows })
}

async fn problem(Path(code): Path<String>, request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    let row = Code::ALL.iter().map(|c| c.row()).find(|row| row.code == code);
    match row {
        Some(row) => page(StatusCode::OK, &OneProblem { row, unknown_effects: row.leaves_doubt() }),
        None => Ok(not_found()),
    }
}

async fn config(request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    page(StatusCode::OK, &Configuration { keys: KEYS })
}

async fn running(request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    page(StatusCode::OK, &Running { metrics: METRICS, alerts: ALERTS })
}

async fn alerts(request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    Ok(with_kind(Body::from(operations::rules()), "application/yaml"))
}

async fn style(request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    Ok(with_kind(Body::from(STYLE), "text/css; charset=utf-8"))
}

async fn document(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    Ok(with_kind(Body::from(app.document_json.clone()), "application/json"))
}

/// The page for paths that lead nowhere.
pub(crate) fn not_found() -> Response {
    page(StatusCode::NOT_FOUND, &NotFound)
        .unwrap_or_else(axum::response::IntoResponse::into_response)
}

fn page(status: StatusCode, template: &impl Template) -> Result<Response, Problem> {
    let html = template.render().map_err(|e| Problem::internal(format!("a page: {e}")))?;
    let mut response = with_kind(Body::from(html), "text/html; charset=utf-8");
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

fn with_kind(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn groups(document: &Value) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = items(&document["tags"])
        .map(|tag| Group {
            name: text(tag, "name"),
            about: text(tag, "description"),
            operations: Vec::new(),
        })
        .collect();
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods) {
            let tag = operation["tags"][0].as_str();
            if let Some(group) = groups.iter_mut().find(|g| Some(g.name) == tag) {
                group.operations.push(self::operation(path, method, operation));
            }
        }
    }
    groups
}

fn operation<'a>(path: &'a str, method: &str, operation: &'a Value) -> Operation<'a> {
    let parameter = |p: &'a Value| Parameter {
        name: text(p, "name"),
        place: text(p, "in"),
        about: text(p, "description"),
    };
    let body = |(kind, body): (&'a str, &'a Value)| RequestBody {
        kind,
        example: example(&body["example"]),
    };
    let answer = |(status, answer): (&'a str, &'a Value)| Answer {
        status,
        about: text(answer, "description"),
        kinds: members(&answer["content"]).map(|(kind, _)| kind).collect::<Vec<_>>().join(", "),
    };
    Operation {
        id: text(operation, "operationId"),
        method: method.to_ascii_uppercase(),
        path,
        summary: text(operation, "summary"),
        description: text(operation, "description"),
        parameters: items(&operation["parameters"]).map(parameter).collect(),
        bodies: members(&operation["requestBody"]["content"]).map(body).collect(),
        answers: members(&operation["responses"]).map(answer).collect(),
    }
}

fn example(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => serde_json::to_string_pretty(value).expect("values serialise"),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}
