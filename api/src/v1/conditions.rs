//! What a caller expects of streams, in bodies and in headers.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, header};
use kimberlite_store::{
    append::{Actual, AppendError, Expected, Idempotency, Rejection},
    limits::IDEMPOTENCY_KEY_BYTES_MAX,
    words::Version,
};
use serde::{
    Deserialize, Serialize,
    de::{Deserializer, Error, MapAccess, Visitor},
};
use sha2::{Digest as _, Sha256};

use crate::{
    problem::{Code, Problem},
    query::whole_number,
};

/// `"any"`, `"none"` (the stream does not exist), `"exists"`, or `{"version": 3}`: its last event
/// has this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Expected)]
pub(crate) enum ExpectedBody {
    Any,
    None,
    Exists,
    Version(u64),
}

impl From<Expected> for ExpectedBody {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Any => Self::Any,
            Expected::None => Self::None,
            Expected::Exists => Self::Exists,
            Expected::Version(version) => Self::Version(version.get()),
        }
    }
}

/// Bounded by [`ExpectedBody`]'s deserializer.
impl From<ExpectedBody> for Expected {
    fn from(expected: ExpectedBody) -> Self {
        match expected {
            ExpectedBody::Any => Self::Any,
            ExpectedBody::None => Self::None,
            ExpectedBody::Exists => Self::Exists,
            ExpectedBody::Version(n) => {
                Self::Version(Version::new(n).expect("checked when it was read"))
            }
        }
    }
}

impl<'de> Deserialize<'de> for ExpectedBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpectedVisitor)
    }
}

struct ExpectedVisitor;

impl<'de> Visitor<'de> for ExpectedVisitor {
    type Value = ExpectedBody;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#""any", "none", "exists" or {"version": n}"#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ExpectedBody, E> {
        match text {
            "any" => Ok(ExpectedBody::Any),
            "none" => Ok(ExpectedBody::None),
            "exists" => Ok(ExpectedBody::Exists),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ExpectedBody, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct AtVersion {
            version: u64,
        }
        let at = AtVersion::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        Version::new(at.version).ok_or_else(|| A::Error::custom("version must be below 2^53"))?;
        Ok(ExpectedBody::Version(at.version))
    }
}

/// `"none"`, `{"version": 3}`, or `{"deleted": 3}`: deleted after the event of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Actual)]
pub(crate) enum ActualBody {
    None,
    Deleted(u64),
    Version(u64),
}

impl From<Actual> for ActualBody {
    fn from(actual: Actual) -> Self {
        match actual {
            Actual::Absent => Self::None,
            Actual::Deleted(version) => Self::Deleted(version.get()),
            Actual::Version(version) => Self::Version(version.get()),
        }
    }
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = FailedCondition)]
pub(crate) struct FailedConditionBody {
    /// JSON pointer to the condition in the body; where it came as a header, the place where
    /// `expected` would stand. Absent where the request has no body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/conditions/0/expected")]
    pub(crate) pointer: Option<String>,
    /// The stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    /// What was expected of the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<ExpectedBody>,
    /// What the stream is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actual: Option<ActualBody>,
    /// Position of the first event that matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<u64>,
}

/// What the store says of a request for one stream, whose `expected` stands at `pointer`: the store
/// speaks of places in a transaction.
pub(crate) fn of_one_stream(error: AppendError, pointer: Option<&str>) -> Problem {
    let AppendError::Rejected(Rejection::ConditionsFailed(failed)) = error else {
        return error.into();
    };
    let placed = failed.into_iter().map(|failed| FailedConditionBody {
        pointer: pointer.map(ToOwned::to_owned),
        ..failed.into()
    });
    Problem::conditions(placed.collect())
}

/// Joins the body's `expected` with what the headers say.
pub(crate) fn join(
    body: Option<ExpectedBody>,
    head: Option<Expected>,
) -> Result<Expected, Problem> {
    match (body.map(Expected::from), head) {
        (Some(body), Some(head)) if body != head => {
            let detail = "Give `expected` in the body, or If-Match or If-None-Match, not two different ones.";
            Err(Problem::new(Code::ConditionsDisagree, detail))
        }
        (body, head) => Ok(body.or(head).unwrap_or_default()),
    }
}

/// What If-Match and If-None-Match of a write expect of its stream.
pub(crate) fn of_headers(headers: &HeaderMap) -> Result<Option<Expected>, Problem> {
    let matches = single(headers, &header::IF_MATCH)?.map(|text| match text {
        "*" => Ok(Expected::Exists),
        _ => etag_version(text).map(Expected::Version).ok_or_else(|| {
            Problem::new(Code::InvalidHeader, "If-Match takes one version in double quotes, or *.")
        }),
    });
    let differs = single(headers, &header::IF_NONE_MATCH)?.map(|text| match text {
        "*" => Ok(Expected::None),
        _ => Err(Problem::new(Code::InvalidHeader, "If-None-Match takes * here.")),
    });
    match (matches, differs) {
        (Some(_), Some(_)) => Err(Problem::new(
            Code::ConditionsDisagree,
            "If-Match and If-None-Match cannot both hold.",
        )),
        (expected, None) | (None, expected) => expected.transpose(),
    }
}

fn etag_version(text: &str) -> Option<Version> {
    let digits = text.strip_prefix('"')?.strip_suffix('"')?;
    if digits.is_empty() {
        return None;
    }
    Version::new(whole_number(digits)?)
}

/// The idempotency key of a request, with a digest of all that matters for its answer.
pub(crate) fn idempotency(
    parts: &axum::http::request::Parts,
    route: &'static str,
    body: &[u8],
) -> Result<Option<Idempotency>, Problem> {
    let Some(key) = single(&parts.headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let detail = format!("An Idempotency-Key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes.");
        return Err(Problem::new(Code::InvalidHeader, detail));
    }
    let header = |name| parts.headers.get(name).map_or(&b""[..], |v| v.as_bytes());
    let mut digest = Sha256::new();
    for part in [
        route.as_bytes(),
        parts.uri.path().as_bytes(),
        parts.uri.query().unwrap_or_default().as_bytes(),
        header(header::IF_MATCH),
        header(header::IF_NONE_MATCH),
        header(header::CONTENT_TYPE),
        body,
    ] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    Ok(Some(Idempotency { key: key.to_owned(), route, request_digest: digest.finalize().into() }))
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// What no request gives: nothing here is known by the time it changed, and the one node has every
/// position that was acknowledged.
const NEVER: [HeaderName; 4] = [
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    HeaderName::from_static("kimberlite-min-position"),
];

/// Refuses headers that ask for something that the request cannot give.
pub(crate) fn refuse(headers: &HeaderMap, refused: Refused) -> Result<(), Problem> {
    let unsupported = |name: &HeaderName| {
        Problem::new(
            Code::UnsupportedHeader,
            format!("{name} has no effect on this request: leave it out."),
        )
    };
    let names: &[HeaderName] = match refused {
        Refused::Key => &[IDEMPOTENCY_KEY],
        Refused::KeyAndConditions => &[IDEMPOTENCY_KEY, header::IF_MATCH, header::IF_NONE_MATCH],
        Refused::Conditions => &[header::IF_MATCH, header::IF_NONE_MATCH],
        Refused::Nothing => &[],
    };
    if let Some(name) = names.iter().chain(&NEVER).find(|name| headers.contains_key(*name)) {
        return Err(unsupported(name));
    }
    if !matches!(refused, Refused::Nothing) && wants_receipt(headers) {
        let detail =
            "Only an append to one stream gives a receipt: leave Prefer: return=receipt out.";
        return Err(Problem::new(Code::UnsupportedHeader, detail));
    }
    Ok(())
}

/// Whether an append is to be answered with its proof.
pub(crate) fn wants_receipt(headers: &HeaderMap) -> bool {
    headers.get_all(PREFER).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split([',', ';']).any(|part| part.trim().eq_ignore_ascii_case("return=receipt"))
        })
    })
}

/// Which headers a route does not support.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    /// It takes keys, conditions and a wish for a receipt.
    Nothing,
    /// It takes conditions.
    Key,
    /// It takes keys.
    Conditions,
    /// It takes neither.
    KeyAndConditions,
}

/// The text of a header that may stand once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(Code::InvalidHeader, format!("There are two {name} headers.")));
    }
    let text = value
        .to_str()
        .map_err(|_| Problem::new(Code::InvalidHeader, format!("{name} is not ASCII text.")))?;
    Ok(Some(text.trim()))
}
