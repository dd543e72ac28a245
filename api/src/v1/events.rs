//! Events as callers see them. The text itself is made by the store; these types describe it.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use kimberlite_store::{
    error::ReadError,
    limits::PAGE_BYTES_MAX,
    read::{After, Direction, Filter, Selection, Shape, Source},
    words::Position,
};

use super::{
    conditions::{self, Refused},
    path::PositionPath,
};
use crate::{app::App, problem::Problem, query};

/// An event.
#[derive(utoipa::ToSchema)]
#[schema(as = Event)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct EventView {
    /// Index in the tenant's log.
    position: u64,
    /// Where to resume behind this event: `<position>.<first 8 hex digits of its hash>`.
    #[schema(example = "1042.5f1d3a07", pattern = "^[0-9]+\\.[0-9a-f]{8}$")]
    cursor: String,
    /// The stream.
    #[schema(example = "order-1")]
    stream: String,
    /// Index in the stream.
    version: u64,
    /// Its id.
    #[schema(format = Uuid)]
    id: String,
    /// Its type.
    #[serde(rename = "type")]
    #[schema(rename = "type", example = "order-placed")]
    event_type: String,
    /// Commit time (RFC 3339, UTC, microseconds).
    #[schema(format = DateTime)]
    time: String,
    /// Its own time.
    #[schema(format = DateTime, required = true)]
    occurred_at: Option<String>,
    /// The JSON that was appended, byte for byte; NDJSON and SSE show raw line breaks in it as
    /// spaces.
    #[schema(required = true)]
    data: serde_json::Value,
    /// The JSON object that was appended.
    #[schema(required = true, value_type = Option<Object>)]
    metadata: Option<serde_json::Value>,
    /// Whom it is about; always empty in this version.
    subjects: Vec<String>,
    /// Its tags.
    tags: Vec<String>,
    /// Leaf hash, in hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
    /// The stream was deleted after this event.
    #[schema(required = false)]
    stream_deleted: bool,
    /// Payloads of it were erased, and are shown as `null`.
    #[schema(required = false)]
    erased: bool,
    /// Payloads of it were dropped by retention, and are shown as `null`.
    #[schema(required = false)]
    expired: bool,
}

/// A page of events.
#[derive(utoipa::ToSchema)]
#[schema(as = EventPage)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct PageView {
    /// In the order asked for.
    events: Vec<EventView>,
    /// Path and query of the next page, to be requested as it stands; `null` at the head.
    #[schema(required = true)]
    next: Option<String>,
    /// The log's last position, or the stream's last version; `null` for an empty log.
    #[schema(required = true)]
    head: Option<u64>,
}

/// One SSE frame. `event` is `event`, `caught-up`, `progress`, `heartbeat`, `draining` or `error`.
#[derive(utoipa::ToSchema)]
#[schema(as = EventFrame)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct FrameView {
    /// A cursor to resume from, with `Last-Event-ID` or `after`.
    id: Option<String>,
    event: FrameKind,
    /// JSON: an `Event`; for `error` a `Problem`; else a `FollowState`.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// What kind of frame it is.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
enum FrameKind {
    Event,
    CaughtUp,
    Progress,
    Heartbeat,
    Draining,
    Error,
}

/// One event
///
/// The event at a position. 404 where the record there is no event.
#[utoipa::path(
    get, path = "/v1/events/{position}", tag = "read", operation_id = "read_event",
    params(("position" = u64, Path, description = "Its position", example = 0)),
    responses(
        (status = 200, description = "The event", body = EventView),
    )
)]
pub(crate) async fn read_event(
    State(app): State<Arc<App>>,
    PositionPath(position): PositionPath,
    request: Request,
) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    conditions::refuse(request.headers(), Refused::KeyAndConditions)?;
    let before = position.get().checked_sub(1).and_then(Position::new);
    let selection = Selection {
        source: Source::Log,
        after: before.map_or(After::Nothing, After::Position),
        filter: Filter::default(),
        direction: Direction::Forward,
        limit: 1,
        bytes: PAGE_BYTES_MAX,
    };
    // One event behind the position before this one is this one, or there is none here.
    let batch = match app.store.read(&app.tenant, &selection, Shape::Json).await {
        Err(ReadError::Diverged { .. }) => return Err(ReadError::NoRecord.into()),
        read => read?,
    };
    if batch.count == 0 || batch.cursor.is_none_or(|c| c.position != position) {
        return Err(ReadError::NoRecord.into());
    }
    Ok(json(joined(&batch.pieces)))
}

/// Pieces in one run of bytes.
pub(crate) fn joined(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        _ => pieces.concat().into(),
    }
}

fn json(text: Bytes) -> Response {
    let mut response = Response::new(Body::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
