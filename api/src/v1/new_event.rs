//! Events as callers write them: from JSON to the store's words.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use kimberlite_store::{
    append::NewEvent,
    limits::{EVENT_BYTES_MAX, SUBJECTS_MAX, TAGS_MAX},
    words::{EventType, StreamName, Tag, Timestamp},
};
use serde::Deserialize;
use uuid::Uuid;

use super::ExpectedBody;
use crate::{
    json::{self, Raw},
    problem::{Code, FieldError, Problem},
};

/// A string of a body, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// An event to be appended.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = NewEvent)]
pub(crate) struct EventBody<'a> {
    /// Its type: 1 to 256 bytes without control characters.
    #[serde(rename = "type", borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 256, example = "order-placed")]
    pub(crate) event_type: Text<'a>,
    /// Any JSON value, kept byte for byte. At most 1 MiB together with metadata and tags, nested at
    /// most 128 deep.
    #[serde(borrow, default)]
    #[schema(value_type = serde_json::Value, required = false, example = json!({"sku": "A7"}))]
    pub(crate) data: Option<Raw<'a>>,
    /// A JSON object, kept byte for byte.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>, example = json!({"source": "web"}))]
    pub(crate) metadata: Option<Raw<'a>>,
    /// A UUID; a version 7 one is made where it is left out. Sending the same event again with its
    /// id adds nothing.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub(crate) id: Option<Text<'a>>,
    /// The event's own time (RFC 3339); kept to the microsecond.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-11-22T09:59:58Z")]
    pub(crate) occurred_at: Option<Text<'a>>,
    /// Must be empty in this version: data of subjects cannot be sealed yet.
    #[serde(borrow, default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<String>>, max_items = 0)]
    pub(crate) subjects: Vec<Text<'a>>,
    /// At most 32 tags of 1 to 256 bytes without control characters.
    #[serde(borrow, default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<String>>, max_items = 32, example = json!(["sku:A7"]))]
    pub(crate) tags: Vec<Text<'a>>,
}

/// One line of a bulk load: an event with its stream.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = BulkLine)]
pub(crate) struct LineBody<'a> {
    /// The stream.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 256, example = "order-1")]
    pub(crate) stream: Text<'a>,
    /// What must hold of the stream; nothing where it is left out.
    #[serde(default)]
    pub(crate) expected: Option<ExpectedBody>,
    /// See `NewEvent`.
    #[serde(rename = "type", borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 256, example = "order-placed")]
    event_type: Text<'a>,
    /// See `NewEvent`.
    #[serde(borrow, default)]
    #[schema(value_type = serde_json::Value, required = false)]
    data: Option<Raw<'a>>,
    /// See `NewEvent`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Raw<'a>>,
    /// See `NewEvent`. Sending the same lines again is safe where they carry ids.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    id: Option<Text<'a>>,
    /// See `NewEvent`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: Option<Text<'a>>,
    /// See `NewEvent`.
    #[serde(borrow, default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<String>>, max_items = 0)]
    subjects: Vec<Text<'a>>,
    /// See `NewEvent`.
    #[serde(borrow, default, deserialize_with = "json::null_is_default")]
    #[schema(value_type = Option<Vec<String>>, max_items = 32)]
    tags: Vec<Text<'a>>,
}

json::only_from_objects!(EventBody<'a>, LineBody<'a>);

impl<'a> LineBody<'a> {
    /// The stream, what is expected of it, and the event.
    pub(crate) fn split(self) -> (Text<'a>, Option<ExpectedBody>, EventBody<'a>) {
        let event = EventBody {
            event_type: self.event_type,
            data: self.data,
            metadata: self.metadata,
            id: self.id,
            occurred_at: self.occurred_at,
            subjects: self.subjects,
            tags: self.tags,
        };
        (self.stream, self.expected, event)
    }
}

/// Where an event stands in a body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// It is the body.
    Whole,
    /// In the list `events`.
    Event(usize),
    /// In the list `events` of one of `appends`.
    Append(usize, usize),
    /// In a list that is the body.
    Item(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Event(n) => write!(f, "/events/{n}"),
            Self::Append(m, n) => write!(f, "/appends/{m}/events/{n}"),
            Self::Item(n) => write!(f, "/{n}"),
        }
    }
}

/// Turns one event into the store's words. `body` holds it, so that its JSON is kept without a
/// copy.
pub(crate) fn event(event: EventBody<'_>, place: Place, body: &Bytes) -> Result<NewEvent, Problem> {
    let mut wrong = Wrong { place, found: None };
    let event_type = wrong.name("/type", EventType::new(&event.event_type.0));
    let id = event.id.and_then(|text| wrong.option("/id", uuid(&text.0), "is no UUID"));
    let occurred_at = event.occurred_at.and_then(|text| {
        wrong.option(
            "/occurred_at",
            Timestamp::parse(&text.0),
            "is no RFC 3339 time with an offset",
        )
    });
    if !event.subjects.is_empty() {
        let over = event.subjects.len() > SUBJECTS_MAX;
        let code = if over { Code::LimitExceeded } else { Code::SubjectsUnavailable };
        wrong.at(code, "/subjects", "cannot be sealed by this version: leave them out");
    }
    if event.tags.len() > TAGS_MAX {
        wrong.at(Code::LimitExceeded, "/tags", format!("has more than {TAGS_MAX} items"));
    }
    let mut tags: Vec<Tag> = Vec::with_capacity(event.tags.len());
    for (n, text) in event.tags.iter().enumerate() {
        match Tag::new(&text.0) {
            // A tag is there or is not: twice says nothing more.
            Ok(tag) if tags.contains(&tag) => {}
            Ok(tag) => tags.push(tag),
            Err(e) => wrong.at(Code::InvalidName, &format!("/tags/{n}"), e.to_string()),
        }
    }
    let data = event.data.map(|raw| wrong.json("/data", raw, body));
    let metadata = event.metadata.map(|raw| {
        if !raw.get().starts_with('{') {
            wrong.at(Code::InvalidBody, "/metadata", "is no object");
        }
        wrong.json("/metadata", raw, body)
    });
    let json = data.as_ref().map_or(0, Bytes::len) + metadata.as_ref().map_or(0, Bytes::len);
    let bytes = json + tags.iter().map(|t| t.as_str().len()).sum::<usize>();
    if bytes > EVENT_BYTES_MAX {
        wrong.at(
            Code::EventTooLarge,
            "",
            format!("has {bytes} bytes; the limit is {EVENT_BYTES_MAX}"),
        );
    }
    match (wrong.found, event_type) {
        (None, Some(event_type)) => {
            Ok(NewEvent { id, event_type, data, metadata, occurred_at, tags })
        }
        (Some((code, errors)), _) => Err(Problem::fields(code, errors)),
        (None, None) => unreachable!("a type that cannot be is among what was found"),
    }
}

/// A stream's name in a body.
pub(crate) fn stream(text: &str, pointer: impl Into<String>) -> Result<StreamName, Problem> {
    StreamName::new(text).map_err(|e| Problem::at(Code::InvalidName, pointer, e.to_string()))
}

/// A UUID in its usual form of 36 characters.
pub(crate) fn uuid(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

/// All that is wrong with one event; the first find names the problem.
struct Wrong {
    place: Place,
    found: Option<(Code, Vec<FieldError>)>,
}

impl Wrong {
    fn at(&mut self, code: Code, field: &str, detail: impl Into<String>) {
        let error = FieldError::at(format!("{}{field}", self.place), detail);
        self.found.get_or_insert((code, Vec::new())).1.push(error);
    }

    fn name<T>(
        &mut self,
        field: &str,
        name: Result<T, kimberlite_store::words::NameError>,
    ) -> Option<T> {
        name.map_err(|e| self.at(Code::InvalidName, field, e.to_string())).ok()
    }

    fn option<T>(&mut self, field: &str, value: Option<T>, detail: &str) -> Option<T> {
        if value.is_none() {
            self.at(Code::InvalidBody, field, detail);
        }
        value
    }

    fn json(&mut self, field: &str, raw: Raw<'_>, body: &Bytes) -> Bytes {
        if let Err(fault) = raw.check() {
            let (code, error) = fault.at(format!("{}{field}", self.place));
            self.found.get_or_insert((code, Vec::new())).1.push(error);
        }
        body.slice_ref(raw.get().as_bytes())
    }
}
