//! What an append answers.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use kimberlite_store::append::Receipt;
use serde::Serialize;

/// What happened to one stream's events. They are durable.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Receipt)]
pub(crate) struct ReceiptBody {
    /// The stream.
    #[schema(example = "order-1")]
    stream: String,
    /// Version of the first event.
    first_version: u64,
    /// Version of the last event.
    last_version: u64,
    /// Position of the first event.
    pub(crate) first_position: u64,
    /// Position of the last event.
    pub(crate) last_position: u64,
    /// Commit time (RFC 3339, UTC, microseconds).
    #[schema(format = DateTime)]
    pub(crate) time: String,
    /// Leaf hash of the last event, in hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
    /// A C2SP tlog-proof that the last event is in the log, where `Prefer: return=receipt` asked for it and a
    /// checkpoint covered the event in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proof: Option<String>,
}

impl From<&Receipt> for ReceiptBody {
    fn from(receipt: &Receipt) -> Self {
        Self {
            stream: receipt.stream.to_string(),
            first_version: receipt.first_version.get(),
            last_version: receipt.last_version.get(),
            first_position: receipt.first_position.get(),
            last_position: receipt.last_position.get(),
            time: receipt.time.to_string(),
            hash: receipt.hash.to_string(),
            proof: None,
        }
    }
}

/// 201, or 200 for what had been done before.
pub(crate) fn answer<T: Serialize>(body: &T, location: Option<String>, replayed: bool) -> Response {
    let mut response = json(body);
    let headers = response.headers_mut();
    if replayed {
        headers
            .insert(HeaderName::from_static("idempotent-replay"), HeaderValue::from_static("true"));
    }
    if let Some(location) = location.and_then(|l| HeaderValue::try_from(l).ok()) {
        headers.insert(header::LOCATION, location);
    }
    *response.status_mut() = if replayed { StatusCode::OK } else { StatusCode::CREATED };
    response
}

/// 200 with a JSON body.
pub(crate) fn json<T: Serialize>(body: &T) -> Response {
    let text = serde_json::to_vec(body).expect("plain fields serialise");
    let mut response = Response::new(Body::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
