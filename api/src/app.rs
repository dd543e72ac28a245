//! What every request needs, and the routes.

use std::{convert::Infallible, fmt, io, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::Incoming;
use kimberlite_query::{Engine, Settings};
use kimberlite_store::{
    Store, Tenant,
    words::{Actor, TenantName},
};
use tokio::sync::watch;
use tower::Service as _;

use crate::{
    backups::Backups,
    body::BodyBudget,
    config::Config,
    docs,
    limits::{ANSWERS_BYTES_MAX, BODIES_BYTES_MAX, QUERIES_WAITING_MAX},
    links::LinkKey,
    metrics::{Metrics, Route, StoreFigures},
    observe, openapi,
    problem::{Code, Problem},
    room::Room,
    v1::append,
};

/// Shared by all requests.
pub struct App {
    pub(crate) store: Store,
    pub(crate) tenant: Tenant,
    pub(crate) engine: Engine,
    pub(crate) tenant_name: TenantName,
    /// Who a loopback caller without credentials is.
    pub(crate) actor: Actor,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) links: LinkKey,
    pub(crate) bodies: BodyBudget,
    /// Of pages that wait for their callers to take them.
    pub(crate) answers: BodyBudget,
    /// Of NDJSON and SSE answers.
    pub(crate) streams: Arc<Room>,
    pub(crate) backups: Arc<Backups>,
    /// Turns true once, when the server stops.
    pub(crate) draining: watch::Sender<bool>,
    /// The OpenAPI document.
    pub(crate) document: serde_json::Value,
    pub(crate) document_json: Bytes,
}

impl App {
    /// For one store, whose folder is `config.data`, and one tenant of it, which requests without
    /// credentials act in.
    ///
    /// # Errors
    /// Where the system has no threads for queries.
    pub fn new(
        store: Store,
        tenant: Tenant,
        tenant_name: TenantName,
        actor: Actor,
        config: Config,
    ) -> io::Result<Arc<Self>> {
        let settings = Settings {
            memory_bytes: config.query_memory_bytes,
            running_max: config.queries_max,
            waiting_max: QUERIES_WAITING_MAX,
            timeout_max: config.query_timeout,
        };
        let engine = Engine::start(store.clone(), settings)?;
        let document = openapi::document();
        let json = serde_json::to_string_pretty(&document).expect("documents serialise");
        let bodies = BodyBudget::new(BODIES_BYTES_MAX);
        let answers = BodyBudget::new(ANSWERS_BYTES_MAX);
        let streams = Arc::new(Room::new());
        let figures = StoreFigures {
            store: store.clone(),
            tenant: tenant.clone(),
            folder: config.data.clone(),
            bodies: bodies.clone(),
            answers: answers.clone(),
            streams: Arc::clone(&streams),
            engine: engine.clone(),
        };
        let backups = Arc::new(Backups::default());
        Ok(Arc::new(Self {
            metrics: Metrics::new(figures, Arc::clone(&backups)),
            backups,
            store,
            tenant,
            engine,
            tenant_name,
            actor,
            config,
            links: LinkKey::random(),
            bodies,
            answers,
            streams,
            draining: watch::Sender::new(false),
            document,
            document_json: json.into(),
        }))
    }

    /// Tells followers and readiness that the server stops; backups break off.
    pub fn drain(&self) {
        self.draining.send_replace(true);
        self.backups.cancel_all();
    }
}

/// Every route, behind the one pass that all requests take.
pub fn router(app: &Arc<App>) -> Router {
    let (router, _) = openapi::routes().split_for_parts();
    router
        .merge(docs::pages())
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(app), observe::observe))
        .with_state(Arc::clone(app))
}

/// The routes of a server; the one that is called the most is found without the router.
#[derive(Clone)]
pub(crate) struct Routes {
    router: Router,
    app: Option<Arc<App>>,
}

impl Routes {
    /// All that the router has.
    pub(crate) fn of(router: Router) -> Self {
        Self { router, app: None }
    }

    /// Those of [`router`].
    pub(crate) fn all(app: &Arc<App>) -> Self {
        Self { router: router(app), app: Some(Arc::clone(app)) }
    }

    /// Answers a request.
    pub(crate) async fn call(self, request: Request<Incoming>) -> Result<Response, Infallible> {
        self.answer(request.map(Body::new)).await
    }

    async fn answer(mut self, request: Request) -> Result<Response, Infallible> {
        match self.app {
            Some(app) if append::target(&request).is_some() => {
                let route = Route::Known(append::APPEND_ROUTE);
                let run = |request| append::append_to(Arc::clone(&app), request);
                Ok(Box::pin(observe::around(&app, request, route, run)).await)
            }
            _ => self.router.call(request).await,
        }
    }
}

async fn unknown_path(request: Request) -> Response {
    let path = request.uri().path();
    let api = path == "/v1" || path.starts_with("/v1/") || path.starts_with("/health/");
    if api || !accepts_html(request.headers()) {
        return Problem::new(Code::NotFound, "The paths of this server are listed under /docs.")
            .into_response();
    }
    docs::not_found()
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or("*/*");
    ["text/html", "application/xhtml+xml", "text/*", "*/*"].iter().any(|html| accept.contains(html))
}

async fn unknown_method() -> Response {
    // The router adds the Allow header to this answer.
    Problem::new(Code::MethodNotAllowed, "The Allow header lists the methods that the path takes.")
        .into_response()
}

/// Identifies one request in answers and in the server's log (W3C trace context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(u128);

impl TraceId {
    /// Of a request that has not been read.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// The caller's, where it sent a valid `traceparent`; a random one otherwise.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get("traceparent").and_then(|value| {
            let (version, rest) = value.to_str().ok()?.split_once('-')?;
            let id = rest.get(..32)?;
            let id = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(id)?;
            (version == "00" && rest.as_bytes().get(32) == Some(&b'-')).then_some(())?;
            u128::from_str_radix(id, 16).ok().filter(|id| *id != 0)
        });
        Self(sent.unwrap_or_else(rand::random))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Over an empty log in a folder that goes with it.
#[cfg(test)]
pub(crate) async fn of_tests() -> (Arc<App>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = kimberlite_store::Options {
        folder: folder.path().to_owned(),
        segment_bytes: 1 << 20,
        checkpoint_records: kimberlite_store::limits::CHECKPOINT_RECORDS,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: Some(kimberlite_store::Signing {
            folder: folder.path().join("keys"),
            origin: String::new(),
        }),
    };
    let store = Store::open(options).unwrap();
    let (actor, name) = (Actor::new("a").unwrap(), TenantName::new("t").unwrap());
    let tenant = store.create_tenant(actor.clone(), name.clone()).await.unwrap();
    let config =
        Config { send_timeout: std::time::Duration::from_millis(100), ..Config::default() };
    (App::new(store, tenant, name, actor, config).unwrap(), folder)
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    status.into_response()
}

#[cfg(test)]
mod tests {
    use axum::body;

    use super::*;

    /// Status, names of the headers, and the body without what no two answers have in common.
    async fn shown(answer: Response) -> (StatusCode, Vec<String>, serde_json::Value) {
        let (parts, body) = answer.into_parts();
        let body = body::to_bytes(body, 1 << 20).await.unwrap();
        let mut body = serde_json::from_slice(&body).unwrap_or(serde_json::Value::Null);
        if let Some(body) = body.as_object_mut() {
            for member in ["trace_id", "hash", "time"] {
                body.remove(member);
            }
            for member in ["first_version", "last_version", "first_position", "last_position"] {
                body.entry(member).and_modify(|number| *number = 0.into());
            }
        }
        // Hyper says the length where the router has not.
        let names = parts.headers.keys().filter(|name| *name != header::CONTENT_LENGTH);
        (parts.status, names.map(ToString::to_string).collect(), body)
    }

    #[tokio::test]
    async fn the_route_that_is_found_without_the_router_answers_as_the_router_does() {
        let (app, _folder) = of_tests().await;
        let past = Routes { router: Router::new(), app: Some(Arc::clone(&app)) };
        let mut appended = 0;
        for (path, found) in [
            ("/v1/streams/a/events", true),
            ("/v1/streams/a%20b%2Fc/events", true),
            ("/v1/streams/a/events?recreate=true", true),
            ("/v1/streams/a/events?unknown=1", true),
            ("/v1/streams/%ff/events", true),
            ("/v1/streams/%00/events", true),
            ("/v1/streams//events", false),
            ("/v1/streams/a/b/events", false),
            ("/v1/streams/a/events/", false),
            ("/v1/streams/events", false),
        ] {
            for (host, method) in
                [("localhost", "POST"), ("elsewhere", "POST"), ("localhost", "PUT")]
            {
                let request = || {
                    Request::builder()
                        .method(method)
                        .uri(path)
                        .header("host", host)
                        .header("content-type", "application/json")
                        .body(Body::from(r#"{"events":[{"type":"t"}]}"#))
                        .unwrap()
                };
                if !found || method != "POST" {
                    assert!(append::target(&request()).is_none(), "{method} {path}");
                    continue;
                }
                let one = shown(router(&app).call(request()).await.unwrap()).await;
                let other = shown(past.clone().answer(request()).await.unwrap()).await;
                assert_eq!(one, other, "{method} {path} at {host}");
                appended += 2 * usize::from(one.0 == StatusCode::CREATED);
            }
        }
        assert!(appended >= 4, "{appended}");
        let counted = app.metrics.text();
        let route = "route=\"/v1/streams/{stream}/events\",method=\"POST\",status=\"201\"";
        assert!(counted.contains(&format!("{{{route}}} {appended}\n")), "{counted}");
    }
}
