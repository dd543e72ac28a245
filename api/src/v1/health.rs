//! Whether the server lives, and whether it can do its work.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde::Serialize;

use super::receipt;
use crate::{
    app::App,
    problem::{Code, Problem, ProblemBody},
    query,
};

/// The server is well.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Health)]
struct HealthBody {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// The process lives
#[utoipa::path(
    get, path = "/health/live", tag = "operations", operation_id = "health_live",
    responses((status = 200, description = "It does", body = HealthBody))
)]
pub(crate) async fn health_live(request: Request) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    Ok(receipt::json(&HealthBody { status: "ok" }))
}

/// The server can do its work
///
/// 503 with the reason while it stops, or where the log is damaged.
#[utoipa::path(
    get, path = "/health/ready", tag = "operations", operation_id = "health_ready",
    responses(
        (status = 200, description = "It can", body = HealthBody),
        (status = 503, description = "It cannot, and why", content_type = "application/problem+json", body = ProblemBody),
    )
)]
pub(crate) async fn health_ready(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    if *app.draining.borrow() {
        return Err(Problem::new(Code::Draining, "Reconnect in a moment."));
    }
    if let Some(damage) = app.store.damage(&app.tenant) {
        return Err(damage.into());
    }
    Ok(receipt::json(&HealthBody { status: "ok" }))
}
