//! The log as a stranger checks it: checkpoint, tiles, consistency, keys.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::request::Parts,
    response::Response,
};
use kimberlite_store::{
    SignedLog,
    proof::TilePath,
    words::{Hex, Position},
};
use serde::Serialize;

use super::{
    conditions::{self, Refused},
    read::with_type,
    receipt,
};
use crate::{
    app::App,
    problem::{Code, Problem},
    query::{self, Query, whole_number},
};

/// That the log of one size begins with the log of another.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Consistency)]
struct ConsistencyBody {
    /// The earlier size.
    from: u64,
    /// The later size.
    to: u64,
    /// The proof (RFC 6962, section 2.1.2), each hash in hex.
    hashes: Vec<String>,
}

/// A log's public keys.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = LogKeys)]
struct LogKeysBody {
    /// What the log is called; its key's name.
    #[schema(example = "kimberlite-0123456789abcdef/dev")]
    origin: String,
    /// The log's id, in hex: SHA-256(`kimberlite log` ‖ its 16 bytes) stands in the leaf of record 0
    /// for the hash of the record before. It stays the first one also behind a fork. Keep it with the key.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    log_id: String,
    /// The key that signs now, as a C2SP vkey.
    vkey: String,
    /// Every key that has signed, the oldest first.
    keys: Vec<LogKeyBody>,
}

/// One of them.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = LogKey)]
struct LogKeyBody {
    /// `name+key id+base64`.
    vkey: String,
    /// Records of the log when it began to sign.
    from: u64,
}

/// What a time authority says of a checkpoint.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Stamp)]
struct StampBody {
    /// Position of the record that holds it.
    position: u64,
    /// When the checkpoint was there, as the token says.
    #[schema(format = DateTime)]
    time: String,
    /// The authority's URL.
    authority: String,
    /// What was stamped: a signed note, to the byte, without cosignatures.
    checkpoint: String,
    /// The token in base64: DER of a CMS `ContentInfo` (RFC 3161).
    token: String,
    /// Position of the record of the stamp before; null for the first.
    previous: Option<u64>,
}

/// The newest checkpoint
///
/// A C2SP signed note: origin, size and root of the log, signed with its key, and cosigned by those of
/// its witnesses who saw it yet. It covers every record within a second.
#[utoipa::path(
    get, path = "/v1/log/checkpoint", tag = "records", operation_id = "read_checkpoint",
    params(("cosigned" = Option<u64>, Query, description = "The newest that so many witnesses cosigned, at least; waited for 2 seconds at most")),
    responses(
        (status = 200, description = "The checkpoint", content_type = "text/plain", body = String),
    )
)]
pub(crate) async fn read_checkpoint(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let mut query = Query::parse(parts.uri.query())?;
    let cosigned = cosigned(&app, &mut query)?;
    query.finish()?;
    conditions::refuse(&parts.headers, Refused::KeyAndConditions)?;
    Ok(text(app.store.cosigned_at(&app.tenant, 0, cosigned).await?.note.to_string()))
}

/// The newest time stamp
///
/// What the time authority of the configuration said of a checkpoint (RFC 3161): all that it covers was
/// there by then. Each stamp is a record. The server has checked that the token is of the SHA-256 of
/// `checkpoint` and answers its own request; its signature is for the reader to check, with the
/// authority's certificates (`openssl ts -verify -token_in`).
#[utoipa::path(
    get, path = "/v1/log/stamp", tag = "records", operation_id = "read_stamp",
    responses(
        (status = 200, description = "The stamp", body = StampBody),
    )
)]
pub(crate) async fn read_stamp(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    plain(&request.into_parts().0)?;
    let stamped = app.store.newest_stamp(&app.tenant).await?.ok_or_else(|| {
        Problem::new(Code::StampUnknown, "Set `timestamps.url`, or wait for the first stamp.")
    })?;
    Ok(receipt::json(&StampBody {
        position: stamped.position.get(),
        time: stamped.stamp.time.to_string(),
        authority: stamped.stamp.authority,
        checkpoint: stamped.stamp.checkpoint,
        token: stamped.stamp.token,
        previous: stamped.previous.map(Position::get),
    }))
}

/// A tile
///
/// C2SP tlog-tiles: `<level>/<index>` are 256 hashes, `entries/<index>` the leaves below them, each
/// behind its length in two bytes. A partial tile ends in `.p/<width>`; every width that the newest
/// checkpoint covers is there.
#[utoipa::path(
    get, path = "/v1/log/tile/{*path}", tag = "records", operation_id = "read_tile",
    params(("path" = String, Path, description = "Level and index, such as `0/x001/234`", example = "0/000.p/1")),
    responses(
        (status = 200, description = "The tile", content_type = "application/octet-stream", body = Vec<u8>),
    )
)]
pub(crate) async fn read_tile(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    plain(&request.into_parts().0)?;
    let unknown = || {
        let detail = "Ask for what the newest checkpoint covers, by its one path.";
        Problem::new(Code::TileUnknown, detail)
    };
    let path: TilePath = format!("tile/{path}").parse().map_err(|_| unknown())?;
    let tile = app.store.tile(&app.tenant, path).await?.ok_or_else(unknown)?;
    Ok(with_type(tile.into(), "application/octet-stream"))
}

/// A proof that the log only grew
///
/// That the log of `to` records begins with the log of `from` records (RFC 6962, section 2.1.2).
#[utoipa::path(
    get, path = "/v1/log/consistency", tag = "records", operation_id = "read_consistency",
    params(
        ("from" = u64, Query, description = "The earlier size, 1 or more", example = 1),
        ("to" = Option<u64>, Query, description = "The later size; left out, that of the newest checkpoint"),
    ),
    responses(
        (status = 200, description = "The proof", body = ConsistencyBody),
    )
)]
pub(crate) async fn read_consistency(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let mut query = Query::parse(parts.uri.query())?;
    let size = |text: &str| whole_number(text).filter(|_| !text.is_empty());
    let from = query.parsed("from", "is no size of a log", size)?;
    let to = query.parsed("to", "is no size of a log", size)?;
    query.finish()?;
    conditions::refuse(&parts.headers, Refused::KeyAndConditions)?;
    let from = from.ok_or_else(|| query::invalid("from", "is missing"))?;
    let proof = app.store.consistency(&app.tenant, from, to).await?;
    Ok(receipt::json(&ConsistencyBody {
        from: proof.from,
        to: proof.to,
        hashes: proof.hashes.iter().map(ToString::to_string).collect(),
    }))
}

/// The log's public keys
///
/// What checks its checkpoints. Keep the newest one where this server cannot change it.
#[utoipa::path(
    get, path = "/v1/log/keys", tag = "records", operation_id = "list_log_keys",
    responses(
        (status = 200, description = "The keys", body = LogKeysBody),
    )
)]
pub(crate) async fn list_log_keys(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    plain(&request.into_parts().0)?;
    Ok(keys(&app, &*signed(&app).await?))
}

/// A new key for the log
///
/// From the newest record on another key signs, under the same origin. Checkpoints of older keys
/// verify with those, which stay in the list.
#[utoipa::path(
    post, path = "/v1/log/keys", tag = "records", operation_id = "rotate_log_key",
    responses(
        (status = 200, description = "The keys, the new one last", body = LogKeysBody),
    )
)]
pub(crate) async fn rotate_log_key(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    plain(&request.into_parts().0)?;
    Ok(keys(&app, &*app.store.rotate_log_key(&app.tenant).await?))
}

/// How many witnesses a caller wants to have cosigned.
pub(super) fn cosigned(app: &App, query: &mut Query<'_>) -> Result<usize, Problem> {
    let count = |text: &str| whole_number(text).filter(|_| !text.is_empty());
    let wanted = query.parsed("cosigned", "is no number of witnesses", count)?.unwrap_or(0);
    let there = app.config.witnesses.len();
    let wanted = usize::try_from(wanted).ok().filter(|wanted| *wanted <= there);
    wanted
        .ok_or_else(|| query::invalid("cosigned", format!("is above the {there} of log.witnesses")))
}

/// Refuses what none of these takes.
fn plain(request: &Parts) -> Result<(), Problem> {
    query::none(request.uri.query())?;
    conditions::refuse(&request.headers, Refused::KeyAndConditions)
}

/// There is a checkpoint soon after the first start.
async fn signed(app: &App) -> Result<Arc<SignedLog>, Problem> {
    Ok(app.store.signed_at(&app.tenant, 0).await?)
}

fn keys(app: &App, signed: &SignedLog) -> Response {
    let log_id = Hex(&app.store.log_id(&app.tenant)).to_string();
    let keys = signed.keys.iter();
    let keys: Vec<_> =
        keys.map(|key| LogKeyBody { vkey: key.vkey.to_string(), from: key.from }).collect();
    let vkey = keys.last().map(|key| key.vkey.clone()).unwrap_or_default();
    let origin = signed.checkpoint.origin.clone();
    receipt::json(&LogKeysBody { origin, log_id, vkey, keys })
}

/// 200 with plain text.
pub(crate) fn text(text: String) -> Response {
    with_type(text.into(), "text/plain; charset=utf-8")
}
