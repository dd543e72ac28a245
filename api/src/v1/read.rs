//! Reading: `GET /v1/events` and `GET /v1/streams/{stream}/events`, in every format.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use hyper::body::{Frame, SizeHint};
use kimberlite_store::read::{After, Batch, Direction, Selection, Shape, Source};

use super::{
    cloudevents::{self, CloudEventBody},
    conditions::{self, Refused},
    events::{EventView, FrameView, PageView},
    follow,
    path::StreamPath,
    selection::{Asked, FilterParams, parse_cursor},
};
use crate::{
    accept::Format,
    app::{App, TraceId},
    limits::{STREAM_BATCH_BYTES, STREAM_BATCH_EVENTS, STREAMS_PATIENCE_S},
    problem::{Code, Problem},
    query::{Query, invalid},
    room,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Read or follow the tenant's events
///
/// `Accept: application/json` gives a page, `application/x-ndjson` the whole range, an event a line
/// (a problem is the last line where reading breaks off), `text/event-stream` the whole range and
/// then live, `application/cloudevents-batch+json` a page of CloudEvents (the next page is in the
/// `Link` header).
///
/// Positions number records, of which events are some: they rise and may skip.
#[utoipa::path(
    get, path = "/v1/events", tag = "read", operation_id = "read_events",
    params(
        FilterParams,
        ("stream_prefix" = Option<String>, Query, description = "Streams whose names start so", example = "order-"),
        ("Last-Event-ID" = Option<String>, Header, description = "Following only: resume behind this cursor"),
    ),
    responses(
        (status = 200, description = "Events", content(
            (PageView = "application/json"),
            (EventView = "application/x-ndjson"),
            (FrameView = "text/event-stream"),
            (Vec<CloudEventBody> = "application/cloudevents-batch+json"),
        )),
    )
)]
pub(crate) async fn read_events(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let mut query = Query::parse(request.uri().query())?;
    let asked = Asked::of_log(&mut query)?;
    query.finish()?;
    answer(app, asked, request.into_parts().0).await
}

/// Read or follow a stream
///
/// The same formats as `/v1/events`. An unknown stream is 404, a deleted one 410; following an
/// unknown stream waits for it.
#[utoipa::path(
    get, path = "/v1/streams/{stream}/events", tag = "read", operation_id = "read_stream",
    params(
        ("stream" = String, Path, description = "The stream's name; `/` in it is percent-encoded", example = "order-1"),
        ("from" = Option<u64>, Query, description = "Start at this version"),
        FilterParams,
        ("Last-Event-ID" = Option<String>, Header, description = "Following only: resume behind this cursor"),
    ),
    responses(
        (status = 200, description = "Events", content(
            (PageView = "application/json"),
            (EventView = "application/x-ndjson"),
            (FrameView = "text/event-stream"),
            (Vec<CloudEventBody> = "application/cloudevents-batch+json"),
        )),
    )
)]
pub(crate) async fn read_stream(
    State(app): State<Arc<App>>,
    StreamPath(stream): StreamPath,
    request: Request,
) -> Result<Response, Problem> {
    let mut query = Query::parse(request.uri().query())?;
    let asked = Asked::of_stream(&mut query, stream)?;
    query.finish()?;
    answer(app, asked, request.into_parts().0).await
}

async fn answer(app: Arc<App>, mut asked: Asked, parts: Parts) -> Result<Response, Problem> {
    let headers = &parts.headers;
    let trace = *parts.extensions.get::<TraceId>().expect("observe sets it");
    conditions::refuse(headers, Refused::KeyAndConditions)?;
    let format = Format::of(headers)?;
    resume(&mut asked.selection, headers, format)?;
    let mut response = match format {
        Format::Json => page(&app, &asked).await,
        Format::CloudEvents => cloudevents::page(&app, &asked).await,
        Format::Ndjson => lines(app, asked, trace).await,
        Format::Sse => follow::follow(app, asked, trace).await,
    }?;
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// `Last-Event-ID` stands above what the address says: browsers repeat the address when they
/// reconnect.
fn resume(selection: &mut Selection, headers: &HeaderMap, format: Format) -> Result<(), Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID) else { return Ok(()) };
    if format != Format::Sse {
        let detail = "Last-Event-ID has an effect on text/event-stream only: use `after`.";
        return Err(Problem::new(Code::UnsupportedHeader, detail));
    }
    let text = id.to_str().unwrap_or("?").trim();
    if text.is_empty() {
        return Ok(());
    }
    let cursor = parse_cursor(text).ok_or_else(|| {
        Problem::new(Code::InvalidHeader, "Last-Event-ID is no cursor of this server.")
    })?;
    selection.after = After::Cursor(cursor);
    Ok(())
}

async fn page(app: &App, asked: &Asked) -> Result<Response, Problem> {
    let batch = app.store.read(&app.tenant, &asked.selection, Shape::Json).await?;
    let next = next_page(asked, &batch);
    let head = head(app, &asked.selection.source, &batch)?;
    let text = next.as_ref().map_or_else(|| "null".to_owned(), |n| format!("\"{n}\""));
    let head = head.map_or_else(|| "null".to_owned(), |h| h.to_string());
    let tail = format!("],\"next\":{text},\"head\":{head}}}");
    let open = Bytes::from_static(b"{\"events\":[");
    let parts = [open].into_iter().chain(batch.pieces).chain([tail.into()]).collect();
    let mut response = with_type(held(app, parts)?, "application/json");
    link(&mut response, next);
    Ok(response)
}

/// The body of a page. It counts until it is sent, and is refused where too many wait for callers who take nothing.
pub(crate) fn held(app: &App, parts: Vec<Bytes>) -> Result<Body, Problem> {
    let left: usize = parts.iter().map(Bytes::len).sum();
    let mut held = app.answers.hold();
    held.set(left)?;
    let parts = room::until_sent(parts, held).collect();
    Ok(Body::new(Spliced { parts, left: left as u64 }))
}

/// A body of known length that is sent from where its parts lie, without joining them.
struct Spliced {
    parts: VecDeque<Bytes>,
    left: u64,
}

impl hyper::body::Body for Spliced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.pop_front();
        self.left -= part.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The next page's path; nothing at the head.
pub(crate) fn next_page(asked: &Asked, batch: &Batch) -> Option<String> {
    batch.cursor.filter(|_| !batch.finished).map(|cursor| asked.next(cursor))
}

/// Adds `Link: rel="next"`.
pub(crate) fn link(response: &mut Response, next: Option<String>) {
    // Our own paths are plain ASCII.
    if let Some(link) =
        next.and_then(|n| HeaderValue::try_from(format!("<{n}>; rel=\"next\"")).ok())
    {
        response.headers_mut().insert(header::LINK, link);
    }
}

/// The log's last position, or the stream's last version.
fn head(app: &App, source: &Source, batch: &Batch) -> Result<Option<u64>, Problem> {
    Ok(match source {
        Source::Log => batch.head.checked_sub(1),
        Source::Stream { name, .. } => {
            app.store.stream(&app.tenant, name)?.map(|s| s.version.get())
        }
    })
}

/// A body with its content type.
pub(crate) fn with_type(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An NDJSON answer under way: a cursor, and the little that was read but not yet sent.
struct Lines {
    app: Arc<App>,
    selection: Selection,
    trace: TraceId,
    queue: VecDeque<Bytes>,
    /// Events still wanted, where the caller set a limit.
    wanted: Option<usize>,
    /// The range ends where the log ended when it was asked for.
    head: u64,
    ended: bool,
    /// How long it waits for room to read on.
    patience: Duration,
}

async fn lines(app: Arc<App>, asked: Asked, trace: TraceId) -> Result<Response, Problem> {
    let wanted = asked.limited.then_some(asked.selection.limit);
    let mut selection = asked.selection;
    selection.bytes = STREAM_BATCH_BYTES;
    let mut lines = Lines {
        app,
        selection,
        trace,
        queue: VecDeque::new(),
        wanted,
        head: u64::MAX,
        ended: false,
        patience: Duration::from_secs(STREAMS_PATIENCE_S),
    };
    // The first batch is read before the head is sent: refusals are answers of their own.
    lines.advance().await?;
    // Those who take nothing are gone by then.
    lines.patience = lines.app.config.send_timeout;
    let body = stream::unfold(lines, |mut lines| async move {
        let piece = lines.next().await?;
        Some((Ok::<_, Infallible>(piece), lines))
    });
    Ok(with_type(Body::from_stream(body), "application/x-ndjson"))
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.queue.pop_front() {
                return Some(piece);
            }
            if self.ended {
                return None;
            }
            if let Err(problem) = self.advance().await {
                self.ended = true;
                let mut line = problem.json(self.trace);
                line.push(b'\n');
                return Some(line.into());
            }
        }
    }

    async fn advance(&mut self) -> Result<(), Problem> {
        self.selection.limit = self.wanted.unwrap_or(STREAM_BATCH_EVENTS).min(STREAM_BATCH_EVENTS);
        let room = self.app.streams.reserve(self.patience).await?;
        let batch = self.app.store.read(&self.app.tenant, &self.selection, Shape::Ndjson).await?;
        self.head = self.head.min(batch.head);
        self.wanted = self.wanted.map(|wanted| wanted - batch.count);
        let reached = |position: u64| match self.selection.direction {
            Direction::Forward => position + 1 >= self.head,
            Direction::Backward => false,
        };
        self.ended = batch.finished
            || self.wanted == Some(0)
            || batch.cursor.is_none_or(|c| reached(c.position.get()));
        if let Some(cursor) = batch.cursor {
            self.selection.after = After::Cursor(cursor);
        }
        self.queue.extend(room.keep(batch.pieces));
        Ok(())
    }
}

/// Refuses what makes no sense while following.
pub(crate) fn refuse_unfollowable(asked: &Asked) -> Result<(), Problem> {
    if asked.selection.direction == Direction::Backward {
        return Err(invalid("direction", "cannot be backward for text/event-stream"));
    }
    if asked.limited {
        return Err(invalid("limit", "has no meaning for text/event-stream"));
    }
    Ok(())
}
