//! `POST /v1/streams/{stream}/events`.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use kimberlite_store::{
    EvidenceError,
    append::{Append, NewEvent, StreamAppend},
    limits::EVENTS_MAX,
    words::Position,
};
use serde::Deserialize;

use super::{
    ExpectedBody, cloudevents,
    conditions::{self, Refused},
    new_event::{self, EventBody, Place},
    path::StreamPath,
    receipt::{self, ReceiptBody},
};
use crate::{
    app::App,
    body::{self, Content},
    json,
    problem::{Code, Problem},
    query::Query,
};

/// Events to be appended to one stream, all or none.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = AppendRequest)]
pub(crate) struct AppendBody<'a> {
    /// 1 to 1000 events.
    #[serde(borrow)]
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<EventBody<'a>>,
    /// What must hold of the stream; `"any"` where it is left out.
    #[serde(default)]
    expected: Option<ExpectedBody>,
}

json::only_from_objects!(AppendBody<'a>);

/// Append events to a stream
///
/// All of the events are appended, or none. They are durable before the answer. `If-Match: "3"`
/// says the same as `"expected": {"version": 3}`, `If-Match: *` as `"exists"`, `If-None-Match: *`
/// as `"none"`.
///
/// Also takes one CloudEvent, or a batch: `type` and `data` become the event's, `time` its
/// `occurred_at`; an `id` that is no UUID is turned into one (version 5, from `source` and `id`).
/// All other attributes, extensions too, are kept in `metadata.cloudevents`.
#[utoipa::path(
    post, path = "/v1/streams/{stream}/events", tag = "append", operation_id = "append_to_stream",
    params(
        ("stream" = String, Path, description = "The stream's name; `/` in it is percent-encoded", example = "order-1"),
        ("recreate" = Option<bool>, Query, description = "Bring the stream back if it was deleted"),
        ("If-Match" = Option<String>, Header, description = "The version that the stream must have, in double quotes; or `*`"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: the stream must not exist"),
        ("Prefer" = Option<String>, Header,
            description = "`return=receipt`: wait for a checkpoint that covers the events, 2 seconds at most, and answer with the proof. \
                Where none comes in time the answer has neither `proof` nor `Preference-Applied`: \
                the events are durable all the same, and `/v1/events/{position}/proof` has the proof later"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 256 bytes. The same request sent again with it is answered as the first time, with 200"),
    ),
    request_body(
        content(
            (AppendBody = "application/json",
                example = json!({"events": [{"type": "order-placed", "data": {"sku": "A7"}, "tags": ["sku:A7"]}]})),
            (cloudevents::CloudEventBody = "application/cloudevents+json",
                example = json!({"specversion": "1.0", "id": "A234-1234-1234", "source": "/shop", "type": "order-placed",
                    "data": {"sku": "A7"}})),
            (Vec<cloudevents::CloudEventBody> = "application/cloudevents-batch+json",
                example = json!([{"specversion": "1.0", "id": "A234-1234-1235", "source": "/shop", "type": "order-paid"}])),
        )
    ),
    responses(
        (status = 201, description = "Appended", body = ReceiptBody,
            headers(
                ("Location" = String, description = "The first event"),
                ("Preference-Applied" = String, description = "`return=receipt`, where the answer has the proof"),
            )),
        (status = 200, description = "Had been appended before; `Idempotent-Replay: true`", body = ReceiptBody),
    )
)]
pub(crate) async fn append_to_stream(
    State(app): State<Arc<App>>,
    StreamPath(stream): StreamPath,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let mut query = Query::parse(parts.uri.query())?;
    let recreate = query.flag("recreate")?;
    query.finish()?;
    conditions::refuse(&parts.headers, Refused::Nothing)?;
    let content =
        Content::of(&parts.headers, &[Content::Json, Content::CloudEvent, Content::CloudEvents])?;
    let from_head = conditions::of_headers(&parts.headers)?;
    let body = body::whole(&app, &parts.headers, body).await?;
    let (events, from_body) = match content {
        Content::CloudEvent => (vec![cloudevents::one(&body)?], None),
        Content::CloudEvents => (cloudevents::batch(&body)?, None),
        Content::Json | Content::Ndjson => events(&body)?,
    };
    if events.is_empty() || events.len() > EVENTS_MAX {
        let pointer = if content == Content::Json { "/events" } else { "" };
        return Err(event_count(events.len(), pointer));
    }
    let expected = conditions::join(from_body, from_head)?;
    let idempotency = conditions::idempotency(&parts, "append_to_stream", &body)?;
    let count = events.len();
    let command = Append {
        actor: app.actor.clone(),
        appends: vec![StreamAppend { stream, expected, recreate, events }],
        conditions: Vec::new(),
        idempotency,
    };
    let started = Instant::now();
    let appended = app.store.append(&app.tenant, command).await;
    let appended = appended.map_err(|e| conditions::of_one_stream(e, Some("/expected")))?;
    app.metrics.appended(if appended.replayed { 0 } else { count }, started.elapsed());
    let receipt = appended
        .receipts
        .first()
        .ok_or_else(|| Problem::internal("an append without a receipt"))?;
    let mut body = ReceiptBody::from(receipt);
    let location = format!("/v1/events/{}", body.first_position);
    if conditions::wants_receipt(&parts.headers) {
        body.proof = proof(&app, receipt.last_position).await;
    }
    let mut response = receipt::answer(&body, Some(location), appended.replayed);
    if body.proof.is_some() {
        let applied = HeaderValue::from_static("return=receipt");
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// The proof, if there is one in time. The events are durable by now: an answer that tells of a failure would say that they
/// are not, and a client that believes it appends them twice (RFC 7240 lets a preference go unheeded).
async fn proof(app: &App, position: Position) -> Option<String> {
    match app.store.receipt(&app.tenant, position).await {
        Ok(proof) => Some(proof.to_string()),
        Err(EvidenceError::Pending) => None,
        Err(error) => {
            tracing::error!(%error, "an append is answered without the proof that it asked for");
            None
        }
    }
}

/// Where `append_to_stream` is, with the stream's name between what begins and what ends it.
pub(crate) const APPEND_ROUTE: &str = "/v1/streams/{stream}/events";

/// The segment with the stream's name, where a request is for `append_to_stream`.
pub(crate) fn target(request: &Request) -> Option<&str> {
    let (begin, end) = APPEND_ROUTE.split_once("{stream}")?;
    let segment = request.uri().path().strip_prefix(begin)?.strip_suffix(end)?;
    let is_it = request.method() == Method::POST && !segment.is_empty() && !segment.contains('/');
    is_it.then_some(segment)
}

/// What the router has `append_to_stream` do, for who has found it by [`target`].
pub(crate) async fn append_to(app: Arc<App>, request: Request) -> Response {
    let stream = target(&request).map(StreamPath::decode);
    let answer = match stream {
        Some(Ok(stream)) => append_to_stream(State(app), stream, request).await,
        Some(Err(problem)) => Err(problem),
        None => Err(Problem::internal("it is for another route")),
    };
    answer.into_response()
}

fn events(body: &Bytes) -> Result<(Vec<NewEvent>, Option<ExpectedBody>), Problem> {
    let parsed: AppendBody<'_> = json::parse(body)?;
    if parsed.events.len() > EVENTS_MAX {
        return Err(event_count(parsed.events.len(), "/events"));
    }
    let events = parsed.events.into_iter().enumerate();
    let events = events.map(|(n, event)| new_event::event(event, Place::Event(n), body));
    Ok((events.collect::<Result<_, _>>()?, parsed.expected))
}

/// A list of events that is empty or too long.
pub(crate) fn event_count(count: usize, pointer: impl Into<String>) -> Problem {
    if count == 0 {
        return Problem::at(Code::InvalidBody, pointer, "must not be empty");
    }
    Problem::at(
        Code::LimitExceeded,
        pointer,
        format!("has {count} events; the limit is {EVENTS_MAX}"),
    )
}
