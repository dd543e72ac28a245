//! The one pass around every request: who may call at all, trace id, panics, metrics, log, common
//! headers.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;

use crate::{
    app::{App, TraceId},
    gate::{self, Cors},
    metrics::Route,
    problem::{PendingProblem, Problem},
};

/// Lets a request through to its route, and finishes what comes back.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.map_or(Route::Unmatched, Route::Matched);
    around(&app, request, route, |request| next.run(request)).await
}

/// Likewise, for a request whose route is known.
pub(crate) async fn around<F: Future<Output = Response>>(
    app: &App,
    mut request: Request,
    route: Route,
    run: impl FnOnce(Request) -> F,
) -> Response {
    let started = Instant::now();
    let trace = TraceId::of(request.headers());
    let method = request.method().clone();
    let (cors, mut response) = match gate::check(app, &mut request) {
        Err(problem) => (Cors::None, problem.into_response()),
        Ok(gate::Passed::Preflight(cors)) => (cors, gate::preflight()),
        Ok(gate::Passed::Through(cors)) => {
            request.extensions_mut().insert(trace);
            let answer = AssertUnwindSafe(run(request)).catch_unwind().await;
            (cors, answer.unwrap_or_else(|panic| panicked(&*panic)))
        }
    };
    if let Some(PendingProblem(problem)) = response.extensions_mut().remove::<PendingProblem>() {
        let allow = response.headers_mut().remove(header::ALLOW);
        if let Some(cause) = problem.cause() {
            tracing::error!(%trace, route = route.as_str(), cause, "a request failed");
        }
        response = problem.response(trace);
        response.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    }
    finish(&mut response, &method, cors);
    let elapsed = started.elapsed();
    app.metrics.request(&route, &method, response.status(), elapsed);
    tracing::debug!(
        %trace,
        %method,
        route = route.as_str(),
        status = response.status().as_u16(),
        elapsed_us = elapsed.as_micros() as u64,
        "request"
    );
    response
}

fn finish(response: &mut Response, method: &Method, cors: Cors) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if (method == Method::GET || method == Method::HEAD)
        && !headers.contains_key(header::CACHE_CONTROL)
    {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
    cors.finish(headers);
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or(panic.downcast_ref::<String>().map(String::as_str));
    Problem::internal(format!("panic: {}", text.unwrap_or("without a message"))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, http::Request, routing::get};
    use tower::ServiceExt as _;

    use super::*;
    use crate::app;

    async fn broken() -> Response {
        panic!("a secret detail");
    }

    #[tokio::test]
    async fn a_panic_ends_as_a_500_that_shows_only_its_id() {
        let (app, _folder) = app::of_tests().await;
        let layer = axum::middleware::from_fn_with_state(app, observe);
        let router = Router::new().route("/broken", get(broken)).layer(layer);
        let request =
            Request::get("/broken").header("host", "localhost").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 500);
        let body = axum::body::to_bytes(answer.into_body(), 4096).await.unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&problem["code"], &problem["side_effects"]),
            (&"internal".into(), &"unknown".into())
        );
        assert_eq!(problem["trace_id"].as_str().map(str::len), Some(32));
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
}
