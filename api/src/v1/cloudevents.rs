//! CloudEvents 1.0 in the JSON format, in and out.
//!
//! In: `type` and `data` become the event's, `time` its `occurred_at`; an `id` that is no UUID
//! becomes one (version 5, from `source` and `id`, which together identify a CloudEvent). All
//! attributes but `type` and `data` are kept, extensions too, in `metadata.cloudevents`.
//! `data_base64` becomes a JSON string, with `"data_base64": true` kept beside it.
//!
//! Out: the kept attributes, or `source: /v1/streams/{stream}`; and the extensions
//! `kimberlitestream`, `kimberliteversion` and `kimberlitecursor`. Tags and other metadata have no
//! place in a CloudEvent and are not shown.

use std::fmt;

use axum::response::Response;
use bytes::Bytes;
use kimberlite_store::{
    append::NewEvent,
    read::{Cursor, StoredEvent},
};
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use uuid::Uuid;

use super::{
    new_event::{self, EventBody, Place, Text},
    read::{held, link, next_page, with_type},
    selection::{Asked, cursor_text, encode},
};
use crate::{
    app::App,
    json::{self, Raw},
    limits::REQUEST_BYTES_MAX,
    problem::{Code, FieldError, Problem},
};

/// Where CloudEvents' attributes are kept in an event's metadata.
const KEPT: &str = "cloudevents";
/// The namespace of ids made from `source` and `id`.
const NAMESPACE: Uuid = Uuid::from_u128(0x6b69_6d62_6572_4c69_b465_636c_6f75_6465);

/// A CloudEvent 1.0 in the JSON format.
#[derive(utoipa::ToSchema)]
#[schema(as = CloudEvent)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct CloudEventBody {
    /// `1.0`.
    #[schema(pattern = "^1\\.0$", example = "1.0")]
    specversion: String,
    /// Its id; together with `source` it identifies the event.
    #[schema(min_length = 1)]
    id: String,
    /// Where it comes from: a URI reference.
    #[schema(min_length = 1, example = "/shop")]
    source: String,
    /// Its type.
    #[serde(rename = "type")]
    #[schema(rename = "type", min_length = 1, max_length = 256)]
    event_type: String,
    /// When it occurred.
    #[schema(format = DateTime)]
    time: Option<String>,
    /// What it is about.
    subject: Option<String>,
    /// Media type of the data.
    datacontenttype: Option<String>,
    /// Schema of the data.
    dataschema: Option<String>,
    /// The data, as JSON.
    #[schema(required = false)]
    data: serde_json::Value,
    /// The data, in base64 with padding (RFC 4648, section 4).
    #[schema(
        content_encoding = "base64",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
    )]
    data_base64: Option<String>,
}

/// One CloudEvent.
pub(crate) fn one(body: &Bytes) -> Result<NewEvent, Problem> {
    event(&json::parse(body)?, Place::Whole, body)
}

/// A batch of CloudEvents.
pub(crate) fn batch(body: &Bytes) -> Result<Vec<NewEvent>, Problem> {
    let parsed: Vec<Attributes<'_>> = json::parse(body)?;
    parsed
        .iter()
        .enumerate()
        .map(|(n, attributes)| event(attributes, Place::Item(n), body))
        .collect()
}

/// A CloudEvent's members in their order.
struct Attributes<'a>(Vec<(String, Raw<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Attributes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Attributes<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CloudEvent")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes<'de>, A::Error> {
                let mut members: Vec<(String, Raw<'de>)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Raw<'de>>()? {
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(serde::de::Error::custom(format!("duplicate field `{name}`")));
                    }
                    members.push((name, value));
                }
                Ok(Attributes(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl Attributes<'_> {
    fn raw(&self, name: &str) -> Option<Raw<'_>> {
        self.0.iter().find(|(n, v)| n == name && v.get() != "null").map(|(_, value)| *value)
    }

    /// An attribute that is a string.
    fn text(&self, name: &str, place: Place) -> Result<Option<String>, Problem> {
        let parse = |raw: Raw<'_>| {
            serde_json::from_str::<String>(raw.get()).map_err(|_| {
                Problem::at(Code::InvalidBody, format!("{place}/{name}"), "is no string")
            })
        };
        self.raw(name).map(parse).transpose()
    }

    fn required(&self, name: &str, place: Place) -> Result<String, Problem> {
        self.text(name, place)?.filter(|text| !text.is_empty()).ok_or_else(|| {
            Problem::at(
                Code::InvalidBody,
                format!("{place}/{name}"),
                "must be there and not be empty",
            )
        })
    }
}

fn event(attributes: &Attributes<'_>, place: Place, body: &Bytes) -> Result<NewEvent, Problem> {
    check_members(attributes, place)?;
    if attributes.required("specversion", place)? != "1.0" {
        return Err(Problem::at(Code::InvalidBody, format!("{place}/specversion"), "is not 1.0"));
    }
    let (id, source) = (attributes.required("id", place)?, attributes.required("source", place)?);
    let event_type = attributes.required("type", place)?;
    let base64 = attributes.raw("data_base64");
    if base64.is_some() && attributes.raw("data").is_some() {
        return Err(Problem::at(
            Code::InvalidBody,
            format!("{place}/data_base64"),
            "stands beside data",
        ));
    }
    if attributes.text("data_base64", place)?.is_some_and(|text| !is_base64(&text)) {
        return Err(Problem::at(
            Code::InvalidBody,
            format!("{place}/data_base64"),
            "is not base64 with padding",
        ));
    }
    let uuid = new_event::uuid(&id).unwrap_or_else(|| {
        // A length before the first part keeps `ab` + `c` and `a` + `bc` apart.
        Uuid::new_v5(&NAMESPACE, format!("{} {source} {id}", source.len()).as_bytes())
    });
    let kept = kept(attributes);
    let metadata = std::str::from_utf8(&kept).expect("made of JSON");
    // Checked as the others are; its bytes are not in the body, so it is put in afterwards.
    json::check(metadata).map_err(|fault| {
        let (code, error) = fault.at(place.to_string());
        Problem::fields(code, vec![error])
    })?;
    let dto = EventBody {
        event_type: Text(event_type.into()),
        data: attributes.raw("data").or(base64),
        metadata: None,
        id: Some(Text(uuid.to_string().into())),
        occurred_at: attributes.text("time", place)?.map(|t| Text(t.into())),
        subjects: Vec::new(),
        tags: Vec::new(),
    };
    let mut event = new_event::event(dto, place, body)
        .map_err(|problem| problem.renamed("/occurred_at", "/time"))?;
    let bytes = kept.len() + event.data.as_ref().map_or(0, Bytes::len);
    if bytes > kimberlite_store::limits::EVENT_BYTES_MAX {
        return Err(Problem::at(
            Code::EventTooLarge,
            place.to_string(),
            format!("has {bytes} bytes"),
        ));
    }
    event.metadata = Some(kept.into());
    Ok(event)
}

/// RFC 4648, section 4: its alphabet, padded to groups of four.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let digit = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.len().is_multiple_of(4) && text.len() - digits.len() <= 2 && digits.bytes().all(digit)
}

/// Attribute names are lower-case letters and digits; values are no arrays or objects.
fn check_members(attributes: &Attributes<'_>, place: Place) -> Result<(), Problem> {
    let wrong = attributes.0.iter().filter_map(|(name, value)| {
        let pointer = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
        if name == "data" || name == "data_base64" {
            return None;
        }
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Some(FieldError::at(
                pointer,
                "is no attribute name: lower-case letters and digits only",
            ));
        }
        let compound = value.get().starts_with(['{', '[']);
        compound.then(|| FieldError::at(pointer, "is neither a string, a number nor a boolean"))
    });
    let wrong: Vec<_> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(Problem::fields(Code::InvalidBody, wrong)) }
}

/// The metadata that keeps all that has no other place.
fn kept(attributes: &Attributes<'_>) -> Vec<u8> {
    let mut text = format!("{{\"{KEPT}\":{{").into_bytes();
    let mut separator = "";
    for (name, value) in &attributes.0 {
        let value = match name.as_str() {
            "type" | "data" => continue,
            "data_base64" if value.get() == "null" => continue,
            "data_base64" => "true",
            _ => value.get(),
        };
        text.extend_from_slice(format!("{separator}\"{name}\":{value}").as_bytes());
        separator = ",";
    }
    text.extend_from_slice(b"}}");
    assert!(text.len() <= REQUEST_BYTES_MAX + 64, "no longer than the body and its frame");
    text
}

/// A page of events as a CloudEvents batch.
pub(crate) async fn page(app: &App, asked: &Asked) -> Result<Response, Problem> {
    let (events, batch) = app.store.read_events(&app.tenant, &asked.selection).await?;
    let mut text = b"[".to_vec();
    for (n, event) in events.iter().enumerate() {
        text.extend_from_slice(if n == 0 { b"" } else { b"," });
        push(&mut text, event);
    }
    text.push(b']');
    let body = held(app, [text.into()].into())?;
    let mut response = with_type(body, "application/cloudevents-batch+json");
    link(&mut response, next_page(asked, &batch));
    Ok(response)
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    cloudevents: Option<Attributes<'a>>,
}

fn push(text: &mut Vec<u8>, event: &StoredEvent) {
    // Metadata that only looks like ours is not: then the event is shown as one that was no
    // CloudEvent.
    let metadata =
        event.metadata.as_deref().and_then(|m| serde_json::from_slice::<Metadata<'_>>(m).ok());
    let kept = metadata.and_then(|m| m.cloudevents).filter(|kept| {
        let scalars = check_members(kept, Place::Whole).is_ok();
        scalars && ["specversion", "id", "source"].iter().all(|name| kept.raw(name).is_some())
    });
    let base64 =
        kept.as_ref().and_then(|k| k.raw("data_base64")).is_some_and(|v| v.get() == "true");
    let mut members: Vec<(&str, String)> = Vec::new();
    if let Some(kept) = &kept {
        let ours = |name: &str| name == "data_base64" || name.starts_with("kimberlite");
        let shown = kept.0.iter().filter(|(name, _)| !ours(name));
        members.extend(shown.map(|(name, value)| (name.as_str(), value.get().to_owned())));
    } else {
        members.push(("specversion", "\"1.0\"".to_owned()));
        members.push(("id", format!("\"{}\"", event.id)));
        members.push(("source", string(&format!("/v1/streams/{}", encode(event.stream.as_str())))));
    }
    members.push(("type", string(event.event_type.as_str())));
    if !members.iter().any(|(name, _)| *name == "time") {
        members.push(("time", string(&event.occurred_at.unwrap_or(event.time).to_string())));
    }
    if event.data.is_some() && kept.is_none() {
        members.push(("datacontenttype", "\"application/json\"".to_owned()));
    }
    let [a, b, c, d, ..] = event.hash.0;
    let cursor = Cursor { position: event.position, check: [a, b, c, d] };
    members.push(("kimberlitestream", string(event.stream.as_str())));
    members.push(("kimberliteversion", string(&event.version.to_string())));
    members.push(("kimberlitecursor", string(&cursor_text(cursor))));
    for (n, (name, value)) in members.iter().enumerate() {
        let separator = if n == 0 { '{' } else { ',' };
        text.extend_from_slice(format!("{separator}\"{name}\":{value}").as_bytes());
    }
    if let Some(data) = &event.data {
        text.extend_from_slice(if base64 { b",\"data_base64\":" } else { b",\"data\":" });
        text.extend_from_slice(data);
    }
    text.push(b'}');
}

fn string(text: &str) -> String {
    serde_json::to_string(text).expect("strings serialise")
}
