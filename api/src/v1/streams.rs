//! Streams: listing, describing, deleting.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use kimberlite_store::{
    append::{AppendError, DeleteStream, Rejection},
    read::StreamInfo,
    words::StreamName,
};
use serde::Serialize;

use super::{
    conditions::{self, Refused},
    path::StreamPath,
    read::link,
    receipt,
    selection::{encode, limit},
};
use crate::{
    app::{App, empty},
    limits::PAGE_EVENTS,
    problem::{Code, Problem},
    query::{self, Query, invalid},
};

/// A stream.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Stream)]
pub(crate) struct StreamBody {
    /// Its name.
    #[schema(example = "order-1")]
    stream: String,
    /// Version of its last event.
    version: u64,
    /// Commit time of its first visible event: of a stream that was deleted and recreated, of the
    /// first one since.
    #[schema(format = DateTime)]
    first_time: String,
    /// Commit time of its last event.
    #[schema(format = DateTime)]
    last_time: String,
    /// It is deleted.
    deleted: bool,
}

impl From<&StreamInfo> for StreamBody {
    fn from(info: &StreamInfo) -> Self {
        Self {
            stream: info.stream.to_string(),
            version: info.version.get(),
            first_time: info.first_time.to_string(),
            last_time: info.last_time.to_string(),
            deleted: info.deleted,
        }
    }
}

/// A page of streams.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = StreamPage)]
struct StreamPageBody {
    /// In the order of their names' bytes.
    streams: Vec<StreamBody>,
    /// Path and query of the next page, to be requested as it stands; `null` on the last.
    #[schema(required = true)]
    next: Option<String>,
}

/// List streams
///
/// In the order of their names, deleted ones included.
#[utoipa::path(
    get, path = "/v1/streams", tag = "streams", operation_id = "list_streams",
    params(
        ("prefix" = Option<String>, Query, description = "Streams whose names start so", example = "order-"),
        ("after" = Option<String>, Query, description = "Start behind this name"),
        ("limit" = Option<u32>, Query, description = "Streams in a page, 100 where it is left out", minimum = 1, maximum = 1000),
    ),
    responses(
        (status = 200, description = "Streams", body = StreamPageBody),
    )
)]
pub(crate) async fn list_streams(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let mut query = Query::parse(request.uri().query())?;
    let name = |name, text: Option<std::borrow::Cow<'_, str>>| {
        let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
        StreamName::check_prefix(&text).map_err(|e| invalid(name, e.to_string()))?;
        Ok::<_, Problem>(Some(text.into_owned()))
    };
    let prefix = name("prefix", query.one("prefix")?)?;
    let after = name("after", query.one("after")?)?;
    let limit = limit(&mut query)?.unwrap_or(PAGE_EVENTS);
    query.finish()?;
    conditions::refuse(request.headers(), Refused::KeyAndConditions)?;
    let prefix = prefix.as_deref().unwrap_or_default();
    // One more than asked for says whether there is a next page.
    let mut found =
        app.store.streams(&app.tenant, prefix.to_owned(), after.clone(), limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| {
        let after = encode(last.stream.as_str());
        format!("/v1/streams?prefix={}&after={after}&limit={limit}", encode(prefix))
    });
    let streams = found.iter().map(StreamBody::from).collect();
    let mut response = receipt::json(&StreamPageBody { streams, next: next.clone() });
    link(&mut response, next);
    Ok(response)
}

/// Describe a stream
///
/// Its version is the `ETag`.
#[utoipa::path(
    get, path = "/v1/streams/{stream}", tag = "streams", operation_id = "describe_stream",
    params(
        ("stream" = String, Path, description = "The stream's name; `/` in it is percent-encoded", example = "order-1"),
        ("If-None-Match" = Option<String>, Header, description = "An ETag: 304 while it is still the stream's"),
    ),
    responses(
        (status = 200, description = "The stream", body = StreamBody, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "Still the same"),
    )
)]
pub(crate) async fn describe_stream(
    State(app): State<Arc<App>>,
    StreamPath(stream): StreamPath,
    request: Request,
) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    conditions::refuse(request.headers(), Refused::Key)?;
    if request.headers().contains_key(header::IF_MATCH) {
        return Err(Problem::new(
            Code::UnsupportedHeader,
            "If-Match has no effect on reading: leave it out.",
        ));
    }
    let info = app
        .store
        .stream(&app.tenant, &stream)?
        .ok_or(kimberlite_store::error::ReadError::StreamUnknown)?;
    if info.deleted {
        return Err(kimberlite_store::error::ReadError::StreamDeleted.into());
    }
    let etag = format!("\"{}\"", info.version);
    let known =
        request.headers().get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let same = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag;
    let unchanged = known.flat_map(|v| v.split(',')).map(str::trim).any(same);
    let mut response = if unchanged {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        receipt::json(&StreamBody::from(&info))
    };
    let etag = HeaderValue::try_from(etag).expect("digits in quotes");
    response.headers_mut().insert(header::ETAG, etag);
    Ok(response)
}

/// Ask for a stream's version
///
/// As GET, without the body.
#[utoipa::path(
    head, path = "/v1/streams/{stream}", tag = "streams", operation_id = "head_stream",
    params(
        ("stream" = String, Path, description = "The stream's name; `/` in it is percent-encoded", example = "order-1"),
        ("If-None-Match" = Option<String>, Header, description = "An ETag: 304 while it is still the stream's"),
    ),
    responses(
        (status = 200, description = "It exists", headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "Still the same"),
    )
)]
pub(crate) async fn head_stream(
    app: State<Arc<App>>,
    stream: StreamPath,
    request: Request,
) -> Result<Response, Problem> {
    describe_stream(app, stream, request).await
}

/// Delete a stream
///
/// The stream reads 410 from then on, and appends to it are 410 unless `?recreate=true` (versions
/// go on). Its events stay in `/v1/events`, marked `"stream_deleted": true`.
#[utoipa::path(
    delete, path = "/v1/streams/{stream}", tag = "streams", operation_id = "delete_stream",
    params(
        ("stream" = String, Path, description = "The stream's name; `/` in it is percent-encoded", example = "order-2"),
        ("If-Match" = Option<String>, Header, description = "The version that the stream must have, in double quotes; or `*`"),
    ),
    responses(
        (status = 204, description = "Deleted"),
    )
)]
pub(crate) async fn delete_stream(
    State(app): State<Arc<App>>,
    StreamPath(stream): StreamPath,
    request: Request,
) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    conditions::refuse(request.headers(), Refused::Key)?;
    if request.headers().contains_key(header::IF_NONE_MATCH) {
        return Err(Problem::new(
            Code::UnsupportedHeader,
            "If-None-Match has no effect on a deletion: leave it out.",
        ));
    }
    let expected = conditions::of_headers(request.headers())?.unwrap_or_default();
    let command = DeleteStream { actor: app.actor.clone(), stream, expected };
    app.store.delete_stream(&app.tenant, command).await.map_err(|error| match error {
        AppendError::Rejected(Rejection::StreamDeleted(_)) => {
            Problem::new(Code::StreamDeleted, "It has been deleted before.")
        }
        error => conditions::of_one_stream(error, None),
    })?;
    Ok(empty(StatusCode::NO_CONTENT))
}
