//! Records of any kind, and what proves them: leaf and openings.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::request::Parts,
    response::Response,
};
use kimberlite_store::{
    error::ReadError,
    read::{PayloadState, PayloadView, RecordView},
    words::{Hex, Position},
};
use serde::Serialize;

use super::{
    conditions::{self, Refused},
    path::PositionPath,
    read::with_type,
    receipt,
};
use crate::{
    app::App,
    problem::Problem,
    query::{self, Query},
};

/// A record.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Record)]
struct RecordBody {
    /// Its position.
    position: u64,
    /// What it records.
    #[schema(example = "event")]
    kind: &'static str,
    /// Its id.
    #[schema(format = Uuid)]
    id: String,
    /// Commit time (RFC 3339, UTC, microseconds).
    #[schema(format = DateTime)]
    time: String,
    /// Leaf hash, in hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
    /// The payloads that its leaf commits to.
    payloads: Vec<PayloadBody>,
}

/// One payload of a record.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Payload)]
struct PayloadBody {
    /// What it holds: `stream`, `type`, `actor`, `data`, `metadata`, `occurred_at`, `tags`,
    /// `idempotency`, `body` or `row`.
    #[schema(example = "data")]
    kind: &'static str,
    /// SHA-256 over the stored bytes, in hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    commitment: String,
    /// `clear`, `erased` or `expired`.
    #[schema(pattern = "^(clear|erased|expired)$")]
    state: &'static str,
}

/// What lets someone check a record's payloads against its leaf: each `SHA-256(salt ‖ json)` is its
/// commitment. Where the leaf has only a reference to a stream, a type or an actor, `names` says which
/// earlier record has the name beside the same reference: its opening and its proof, under the same
/// checkpoint, tie the name to this record.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Opening)]
struct OpeningBody {
    /// The record's position.
    position: u64,
    /// The leaf's bytes, in hex.
    leaf: String,
    /// SHA-256(0x00 ‖ leaf), in hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
    /// In the leaf's order.
    payloads: Vec<OpenedBody>,
    /// The names that stand in earlier records.
    names: Vec<NameBody>,
}

/// Where a name stands.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = NameElsewhere)]
struct NameBody {
    /// Whose it is: `stream`, `type` or `actor`.
    #[schema(pattern = "^(stream|type|actor)$", example = "stream")]
    kind: &'static str,
    /// Position of the earlier record that has the name as a payload of this kind.
    position: u64,
}

/// One payload, opened.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = OpenedPayload)]
struct OpenedBody {
    #[serde(flatten)]
    payload: PayloadBody,
    /// The 16 random bytes before the JSON, in hex; absent once the payload is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-f]{32}$")]
    salt: Option<String>,
    /// The JSON text, as a string, so that no reader changes a byte of it; absent once the payload
    /// is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<String>,
}

/// One record
///
/// Whatever happened at a position: an event, a deletion, a table, a row.
#[utoipa::path(
    get, path = "/v1/records/{position}", tag = "records", operation_id = "read_record",
    params(("position" = u64, Path, description = "Its position", example = 0)),
    responses(
        (status = 200, description = "The record", body = RecordBody),
    )
)]
pub(crate) async fn read_record(
    State(app): State<Arc<App>>,
    PositionPath(position): PositionPath,
    request: Request,
) -> Result<Response, Problem> {
    let record = record(&app, position, &request.into_parts().0, Kind::Any).await?;
    Ok(receipt::json(&RecordBody {
        position: record.position.get(),
        kind: record.kind,
        id: record.id.to_string(),
        time: record.time.to_string(),
        hash: record.hash.to_string(),
        payloads: record.payloads.iter().map(payload).collect(),
    }))
}

/// A record's leaf
///
/// The bytes that its hash covers: SHA-256(0x00 ‖ leaf).
#[utoipa::path(
    get, path = "/v1/records/{position}/leaf", tag = "records", operation_id = "read_record_leaf",
    params(("position" = u64, Path, description = "The record's position", example = 0)),
    responses(
        (status = 200, description = "The leaf", content_type = "application/octet-stream", body = Vec<u8>),
    )
)]
pub(crate) async fn read_record_leaf(
    State(app): State<Arc<App>>,
    PositionPath(position): PositionPath,
    request: Request,
) -> Result<Response, Problem> {
    Ok(leaf(&record(&app, position, &request.into_parts().0, Kind::Any).await?))
}

/// A record's opening
///
/// The leaf, the salt and JSON of each payload that is still there, and the position of each record
/// that has a name which this one only refers to.
#[utoipa::path(
    get, path = "/v1/records/{position}/opening", tag = "records", operation_id = "read_record_opening",
    params(("position" = u64, Path, description = "The record's position", example = 0)),
    responses(
        (status = 200, description = "The opening", body = OpeningBody),
    )
)]
pub(crate) async fn read_record_opening(
    State(app): State<Arc<App>>,
    PositionPath(position): PositionPath,
    request: Request,
) -> Result<Response, Problem> {
    opening(&app, position, &request.into_parts().0, Kind::Any).await
}

/// An event's leaf
///
/// The same as under `/v1/records`, for events only.
#[utoipa::path(
    get, path = "/v1/events/{position}/leaf", tag = "records", operation_id = "read_event_leaf",
    params(("position" = u64, Path, description = "The event's position", example = 0)),
    responses(
        (status = 200, description = "The leaf", content_type = "application/octet-stream", body = Vec<u8>),
    )
)]
pub(crate) async fn read_event_leaf(
    State(app): State<Arc<App>>,
    PositionPath(position): PositionPath,
    request: Request,
) -> Result<Response, Problem> {
    Ok(leaf(&record(&app, position, &request.into_parts().0, Kind::Event).await?))
}

/// An event's opening
///
/// The same as under `/v1/records`, for events only.
#[utoipa::path(
    get, path = "/v1/events/{position}/opening", tag = "records", operation_id = "read_event_opening",
    params(("position" = u64, Path, description = "The event's position", example = 0)),
    responses(
        (status = 200, description = "The opening", body = OpeningBody),
    )
)]
pub(crate) async fn read_event_opening(
    State(app): State<Arc<App>>,
    PositionPath(position): PositionPath,
    request: Request,
) -> Result<Response, Problem> {
    opening(&app, position, &request.into_parts().0, Kind::Event).await
}

/// A record's proof
///
/// That the record is in the log: a C2SP tlog-proof, with the newest checkpoint, or the newest that
/// enough witnesses cosigned. It waits for one that covers the record, 2 seconds at most.
#[utoipa::path(
    get, path = "/v1/records/{position}/proof", tag = "records", operation_id = "read_record_proof",
    params(
        ("position" = u64, Path, description = "The record's position", example = 0),
        ("cosigned" = Option<u64>, Query, description = "Witnesses that must have cosigned the checkpoint, at least; 0 if left out"),
    ),
    responses(
        (status = 200, description = "The proof", content_type = "text/plain", body = String),
    )
)]
pub(crate) async fn read_record_proof(
    State(app): State<Arc<App>>,
    PositionPath(position): PositionPath,
    request: Request,
) -> Result<Response, Problem> {
    proof(&app, position, &request.into_parts().0, Kind::Any).await
}

/// An event's proof
///
/// The same as under `/v1/records`, for events only.
#[utoipa::path(
    get, path = "/v1/events/{position}/proof", tag = "records", operation_id = "read_event_proof",
    params(
        ("position" = u64, Path, description = "The event's position", example = 0),
        ("cosigned" = Option<u64>, Query, description = "Witnesses that must have cosigned the checkpoint, at least; 0 if left out"),
    ),
    responses(
        (status = 200, description = "The proof", content_type = "text/plain", body = String),
    )
)]
pub(crate) async fn read_event_proof(
    State(app): State<Arc<App>>,
    PositionPath(position): PositionPath,
    request: Request,
) -> Result<Response, Problem> {
    proof(&app, position, &request.into_parts().0, Kind::Event).await
}

async fn proof(
    app: &App,
    position: Position,
    request: &Parts,
    kind: Kind,
) -> Result<Response, Problem> {
    let mut query = Query::parse(request.uri.query())?;
    let cosigned = super::log::cosigned(app, &mut query)?;
    query.finish()?;
    find(app, position, request, kind).await?;
    let receipt = app.store.cosigned_receipt(&app.tenant, position, cosigned).await?;
    Ok(super::log::text(receipt.to_string()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Event,
}

async fn record(
    app: &App,
    position: Position,
    request: &Parts,
    kind: Kind,
) -> Result<RecordView, Problem> {
    query::none(request.uri.query())?;
    find(app, position, request, kind).await
}

async fn find(
    app: &App,
    position: Position,
    request: &Parts,
    kind: Kind,
) -> Result<RecordView, Problem> {
    conditions::refuse(&request.headers, Refused::KeyAndConditions)?;
    wanted(app.store.record(&app.tenant, position).await?, kind)
}

fn wanted(record: RecordView, kind: Kind) -> Result<RecordView, Problem> {
    if kind == Kind::Event && record.kind != "event" {
        return Err(ReadError::NoRecord.into());
    }
    Ok(record)
}

fn leaf(record: &RecordView) -> Response {
    with_type(record.leaf.clone().into(), "application/octet-stream")
}

async fn opening(
    app: &App,
    position: Position,
    request: &Parts,
    kind: Kind,
) -> Result<Response, Problem> {
    query::none(request.uri.query())?;
    conditions::refuse(&request.headers, Refused::KeyAndConditions)?;
    let (record, names) = app.store.opening(&app.tenant, position).await?;
    let record = wanted(record, kind)?;
    Ok(receipt::json(&OpeningBody {
        position: record.position.get(),
        leaf: Hex(&record.leaf).to_string(),
        hash: record.hash.to_string(),
        payloads: record.payloads.iter().map(opened).collect::<Result<_, Problem>>()?,
        names: names
            .iter()
            .map(|name| NameBody { kind: name.kind, position: name.position.get() })
            .collect(),
    }))
}

fn opened(view: &PayloadView) -> Result<OpenedBody, Problem> {
    let (salt, json) = match &view.state {
        PayloadState::Clear { salt, json } => {
            let text = std::str::from_utf8(json)
                .map_err(|_| Problem::internal("a payload is not UTF-8"))?;
            (Some(Hex(salt).to_string()), Some(text.to_owned()))
        }
        PayloadState::Erased | PayloadState::Expired => (None, None),
    };
    Ok(OpenedBody { payload: payload(view), salt, json })
}

fn payload(view: &PayloadView) -> PayloadBody {
    let state = match view.state {
        PayloadState::Clear { .. } => "clear",
        PayloadState::Erased => "erased",
        PayloadState::Expired => "expired",
    };
    PayloadBody { kind: view.kind, commitment: view.commitment.to_string(), state }
}

#[cfg(test)]
mod tests {
    use kimberlite_store::words::Hash;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_opening_says_of_a_payload_that_it_is_gone_and_why() {
        let opening = |state| {
            let view = PayloadView { kind: "data", commitment: Hash([7; 32]), state };
            serde_json::to_value(opened(&view).unwrap()).unwrap()
        };
        let (kind, commitment) = ("data", "07".repeat(32));
        let clear = PayloadState::Clear { salt: [1; 16], json: b"{}"[..].into() };
        assert_eq!(
            opening(clear),
            json!({
                "kind": kind, "commitment": commitment, "state": "clear",
                "salt": "01".repeat(16), "json": "{}",
            })
        );
        for (state, says) in [(PayloadState::Erased, "erased"), (PayloadState::Expired, "expired")]
        {
            let gone = json!({"kind": kind, "commitment": commitment, "state": says});
            assert_eq!(opening(state), gone);
        }
    }
}
