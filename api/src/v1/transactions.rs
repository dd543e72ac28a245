//! `POST /v1/transactions`: several streams, or none, all or nothing.

use std::{collections::HashSet, sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use kimberlite_store::{
    append::{Append, Condition, Expected, MatchItem, StreamAppend},
    limits::{APPENDS_MAX, CONDITIONS_MAX, EVENTS_MAX, MATCH_ITEMS_MAX, TAGS_MAX},
    words::{EventType, NameError, Position, Tag},
};
use serde::{Deserialize, Serialize};

use super::{
    ExpectedBody,
    append::event_count,
    conditions::{self, Refused},
    new_event::{self, EventBody, Place, Text},
    receipt::{self, ReceiptBody},
};
use crate::{
    app::App,
    body::{self, Content},
    json,
    problem::{Code, Problem},
    query::Query,
};

/// Appends and conditions that stand or fall together.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = TransactionRequest)]
pub(crate) struct TransactionBody<'a> {
    /// Each stream at most once; at most 1000 events in all.
    #[serde(borrow, default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<TransactionAppendBody>>, max_items = 1000)]
    appends: Vec<TransactionAppendBody<'a>>,
    /// What must hold besides.
    #[serde(borrow, default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<ConditionBody>>, max_items = 100)]
    conditions: Vec<ConditionBody<'a>>,
}

/// Events for one stream.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = TransactionAppend)]
struct TransactionAppendBody<'a> {
    /// The stream.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 256, example = "a")]
    stream: Text<'a>,
    /// At least one event.
    #[serde(borrow)]
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<EventBody<'a>>,
    /// What must hold of the stream; `"any"` where it is left out.
    #[serde(default)]
    expected: Option<ExpectedBody>,
}

/// Either `stream` and `expected`, or `fail_if_events_match` with or without `after`.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = Condition)]
struct ConditionBody<'a> {
    /// A stream of which something must hold.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    stream: Option<Text<'a>>,
    /// What must hold of it.
    #[serde(default)]
    expected: Option<ExpectedBody>,
    /// No event may match this (a dynamic consistency boundary).
    #[serde(borrow, default)]
    fail_if_events_match: Option<MatchBody<'a>>,
    /// Only events behind this position count. One that the log has not reached is refused with
    /// 409 `diverged`.
    #[serde(default)]
    after: Option<u64>,
}

/// Events that match one of the items.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = EventMatch)]
struct MatchBody<'a> {
    /// OR.
    #[serde(borrow)]
    #[schema(min_items = 1, max_items = 32)]
    items: Vec<MatchItemBody<'a>>,
}

/// Events of one of the types (of any, where there are none) that have all of the tags.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = EventMatchItem)]
struct MatchItemBody<'a> {
    /// OR.
    #[serde(borrow, default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<String>>, max_items = 32)]
    types: Vec<Text<'a>>,
    /// AND.
    #[serde(borrow, default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<String>>, max_items = 32)]
    tags: Vec<Text<'a>>,
}

json::only_from_objects!(
    TransactionBody<'a>,
    TransactionAppendBody<'a>,
    ConditionBody<'a>,
    MatchBody<'a>,
    MatchItemBody<'a>,
);

/// What a transaction did.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = TransactionReceipt)]
struct TransactionReceiptBody {
    /// A receipt for each of `appends`, in their order.
    appends: Vec<ReceiptBody>,
    /// Position of the first event.
    first_position: u64,
    /// Position of the last event.
    last_position: u64,
    /// Commit time (RFC 3339, UTC, microseconds).
    #[schema(format = DateTime)]
    time: String,
}

/// All conditions held.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ConditionsHeld)]
struct HeldBody {
    /// The position that this is true at; `null` for an empty log.
    #[schema(required = true)]
    position: Option<u64>,
}

/// 200 has a transaction's receipt (had been carried out before) or, for conditions alone, the
/// position.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[schema(as = TransactionAnswer)]
enum AnswerBody {
    Receipt(TransactionReceiptBody),
    Held(HeldBody),
}

/// Append to several streams, or to none, all or nothing
///
/// The events are appended if every condition holds: those of the appended streams and those of the
/// list. A 412 lists every one that does not.
#[utoipa::path(
    post, path = "/v1/transactions", tag = "append", operation_id = "append_transaction",
    params(
        ("recreate" = Option<bool>, Query, description = "Bring streams back that were deleted"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 256 bytes. The same request sent again with it is answered as the first time, with 200"),
    ),
    request_body(
        content = TransactionBody,
        example = json!({
            "appends": [
                {"stream": "order-1", "events": [{"type": "seat-taken", "tags": ["seat:12A"]}]},
                {"stream": "bill-1", "events": [{"type": "bill-sent"}], "expected": "none"}],
            "conditions": [
                {"stream": "order-1", "expected": "exists"},
                {"fail_if_events_match": {"items": [{"types": ["seat-taken"], "tags": ["seat:12A"]}]}, "after": 0}]})
    ),
    responses(
        (status = 201, description = "Appended", body = TransactionReceiptBody,
            headers(("Location" = String, description = "The first event"))),
        (status = 200, description = "Had been carried out before (`Idempotent-Replay: true`), or conditions alone, all of \
            which hold", body = AnswerBody),
    )
)]
pub(crate) async fn append_transaction(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let mut query = Query::parse(parts.uri.query())?;
    let recreate = query.flag("recreate")?;
    query.finish()?;
    conditions::refuse(&parts.headers, Refused::Conditions)?;
    Content::of(&parts.headers, &[Content::Json])?;
    let body = body::whole(&app, &parts.headers, body).await?;
    let (appends, conditions) = commands(&body, recreate)?;
    let idempotency = conditions::idempotency(&parts, "append_transaction", &body)?;
    if appends.is_empty() && idempotency.is_some() {
        let detail = "Conditions alone write nothing, so no Idempotency-Key can be kept for them.";
        return Err(Problem::new(Code::UnsupportedHeader, detail));
    }
    let count = appends.iter().map(|a| a.events.len()).sum();
    let command = Append { actor: app.actor.clone(), appends, conditions, idempotency };
    let started = Instant::now();
    let appended = app.store.append(&app.tenant, command).await?;
    app.metrics.appended(if appended.replayed { 0 } else { count }, started.elapsed());
    let appends: Vec<ReceiptBody> = appended.receipts.iter().map(ReceiptBody::from).collect();
    let first = appends.iter().map(|r| r.first_position).min();
    let last =
        appends.iter().max_by_key(|r| r.last_position).map(|r| (r.last_position, r.time.clone()));
    let (Some(first_position), Some((last_position, time))) = (first, last) else {
        return Ok(receipt::json(&AnswerBody::Held(HeldBody {
            position: appended.position.map(Position::get),
        })));
    };
    let body = AnswerBody::Receipt(TransactionReceiptBody {
        appends,
        first_position,
        last_position,
        time,
    });
    Ok(receipt::answer(&body, Some(format!("/v1/events/{first_position}")), appended.replayed))
}

fn commands(body: &Bytes, recreate: bool) -> Result<(Vec<StreamAppend>, Vec<Condition>), Problem> {
    let parsed: TransactionBody<'_> = json::parse(body)?;
    if parsed.appends.is_empty() && parsed.conditions.is_empty() {
        return Err(Problem::at(Code::InvalidBody, "", "has neither appends nor conditions"));
    }
    bounded(parsed.appends.len(), APPENDS_MAX, || "/appends".to_owned())?;
    bounded(parsed.conditions.len(), CONDITIONS_MAX, || "/conditions".to_owned())?;
    let events: usize = parsed.appends.iter().map(|a| a.events.len()).sum();
    if events > EVENTS_MAX {
        return Err(event_count(events, "/appends"));
    }
    let mut seen = HashSet::new();
    let mut appends = Vec::with_capacity(parsed.appends.len());
    for (m, append) in parsed.appends.into_iter().enumerate() {
        let stream = new_event::stream(&append.stream.0, format!("/appends/{m}/stream"))?;
        if !seen.insert(stream.clone()) {
            return Err(Problem::at(
                Code::InvalidBody,
                format!("/appends/{m}/stream"),
                "stands twice",
            ));
        }
        if append.events.is_empty() {
            return Err(event_count(0, format!("/appends/{m}/events")));
        }
        let events = append.events.into_iter().enumerate();
        let events = events.map(|(n, event)| new_event::event(event, Place::Append(m, n), body));
        let events = events.collect::<Result<_, _>>()?;
        let expected = append.expected.map(Expected::from).unwrap_or_default();
        appends.push(StreamAppend { stream, expected, recreate, events });
    }
    let conditions = parsed.conditions.iter().enumerate().map(|(n, c)| condition(c, n));
    Ok((appends, conditions.collect::<Result<_, _>>()?))
}

fn condition(body: &ConditionBody<'_>, n: usize) -> Result<Condition, Problem> {
    let at = |field: &str, detail: &str| {
        Problem::at(Code::InvalidBody, format!("/conditions/{n}{field}"), detail)
    };
    match (&body.stream, body.expected, &body.fail_if_events_match) {
        (Some(stream), Some(expected), None) if body.after.is_none() => Ok(Condition::Stream {
            stream: new_event::stream(&stream.0, format!("/conditions/{n}/stream"))?,
            expected: expected.into(),
        }),
        (None, None, Some(matching)) => {
            let after = body
                .after
                .map(|p| Position::new(p).ok_or_else(|| at("/after", "must be below 2^53")));
            Ok(Condition::NoMatch { items: match_items(matching, n)?, after: after.transpose()? })
        }
        _ => Err(at(
            "",
            "takes either stream and expected, or fail_if_events_match and perhaps after",
        )),
    }
}

fn match_items(body: &MatchBody<'_>, n: usize) -> Result<Vec<MatchItem>, Problem> {
    let at = |rest: String| format!("/conditions/{n}/fail_if_events_match/items{rest}");
    if body.items.is_empty() {
        return Err(Problem::at(Code::InvalidBody, at(String::new()), "must not be empty"));
    }
    bounded(body.items.len(), MATCH_ITEMS_MAX, || at(String::new()))?;
    let items = body.items.iter().enumerate().map(|(i, item)| {
        if item.types.is_empty() && item.tags.is_empty() {
            return Err(Problem::at(
                Code::InvalidBody,
                at(format!("/{i}")),
                "has neither types nor tags",
            ));
        }
        bounded(item.types.len(), MATCH_ITEMS_MAX, || at(format!("/{i}/types")))?;
        bounded(item.tags.len(), TAGS_MAX, || at(format!("/{i}/tags")))?;
        let wrong = |field: &str, k: usize, e: NameError| {
            Problem::at(Code::InvalidName, at(format!("/{i}/{field}/{k}")), e.to_string())
        };
        let types = item.types.iter().enumerate();
        let types = types.map(|(k, t)| EventType::new(&t.0).map_err(|e| wrong("types", k, e)));
        let tags = item.tags.iter().enumerate();
        let tags = tags.map(|(k, t)| Tag::new(&t.0).map_err(|e| wrong("tags", k, e)));
        Ok(MatchItem {
            types: types.collect::<Result<_, _>>()?,
            tags: tags.collect::<Result<_, _>>()?,
        })
    });
    items.collect()
}

fn bounded(count: usize, max: usize, pointer: impl FnOnce() -> String) -> Result<(), Problem> {
    if count <= max {
        return Ok(());
    }
    Err(Problem::at(
        Code::LimitExceeded,
        pointer(),
        format!("has {count} items; the limit is {max}"),
    ))
}
