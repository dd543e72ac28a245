//! `/v1/backups`: copies of the log, made while the server goes on.

use std::{path::PathBuf, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use kimberlite_store::words::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    conditions::{self, Refused},
    path::IdPath,
    receipt,
};
use crate::{
    app::{App, TraceId, empty},
    backups::{Ended, Entry},
    body::{self, Content},
    json,
    limits::BACKUP_PATH_BYTES_MAX,
    problem::{Code, Problem, ProblemBody},
    query,
};

/// Where a backup goes.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = BackupRequest)]
struct BackupRequestBody {
    /// An absolute path on the server's machine, without `..`: a folder that is new, empty, or has
    /// backups of this cluster. It must not lie in a data folder.
    #[schema(example = "/var/backups/kimberlite", max_length = 4096, pattern = "^/")]
    folder: String,
}

json::only_from_objects!(BackupRequestBody);

/// How far a backup has come.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = BackupProgress)]
struct ProgressBody {
    /// Files that are done.
    files: u64,
    /// Files in all.
    files_total: u64,
    /// Bytes that are done: copied, or found in the folder.
    bytes: u64,
    /// Bytes in all.
    bytes_total: u64,
    /// Bytes that were copied.
    bytes_copied: u64,
}

/// A backup.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Backup)]
struct BackupBody {
    /// Its id.
    #[schema(format = Uuid)]
    id: String,
    /// `running`, `done`, `failed` or `cancelled`.
    #[schema(example = "running", pattern = "^(running|done|failed|cancelled)$")]
    status: &'static str,
    /// How far it has come.
    progress: ProgressBody,
    /// When it began (RFC 3339, UTC): what was committed by then is in it.
    #[schema(format = DateTime)]
    created_at: String,
    /// When this was so: now, or when it was over.
    #[schema(format = DateTime)]
    updated_at: String,
    /// Why it failed.
    #[schema(required = true, value_type = Option<ProblemBody<'static>>)]
    problem: Option<Box<RawValue>>,
    /// Where it goes.
    #[schema(example = "/var/backups/kimberlite")]
    folder: String,
}

/// Backups, the newest first.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Backups)]
struct BackupsBody {
    /// The last 100 that this process began.
    #[schema(max_items = 100)]
    backups: Vec<BackupBody>,
}

impl From<&Entry> for BackupBody {
    fn from(entry: &Entry) -> Self {
        // Before the figures: what is over has its last ones.
        let ended = entry.ended();
        let figures = entry.figures();
        let updated_at = ended.as_ref().map_or_else(Timestamp::now, |(at, _)| *at);
        let (status, problem) = match ended.map(|(_, ended)| ended) {
            None => ("running", None),
            Some(Ended::Done) => ("done", None),
            Some(Ended::Failed(problem)) => ("failed", Some((*problem).to_owned())),
            Some(Ended::Cancelled) => ("cancelled", None),
        };
        Self {
            id: entry.id.to_string(),
            status,
            progress: ProgressBody {
                files: figures.files,
                files_total: figures.files_total,
                bytes: figures.bytes,
                bytes_total: figures.bytes_total,
                bytes_copied: figures.bytes_copied,
            },
            created_at: entry.created_at.to_string(),
            updated_at: updated_at.to_string(),
            problem,
            folder: entry.folder.display().to_string(),
        }
    }
}

/// Make a backup
///
/// Copies everything that is committed now, and nothing later, to a folder of the server's machine,
/// while the server goes on. A folder that has a backup of this cluster gets only what is new; until
/// the new backup is whole, the one before it stays. `kimberlite restore` brings the log back from
/// it.
#[utoipa::path(
    post, path = "/v1/backups", tag = "operations", operation_id = "create_backup",
    request_body(content = BackupRequestBody, example = json!({"folder": "/var/backups/kimberlite"})),
    responses(
        (status = 202, description = "It runs", body = BackupBody,
            headers(("Location" = String, description = "The backup"))),
    )
)]
pub(crate) async fn create_backup(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    query::none(parts.uri.query())?;
    conditions::refuse(&parts.headers, Refused::KeyAndConditions)?;
    Content::of(&parts.headers, &[Content::Json])?;
    let body = body::whole(&app, &parts.headers, body).await?;
    let asked: BackupRequestBody = json::parse(&body)?;
    if asked.folder.len() > BACKUP_PATH_BYTES_MAX || asked.folder.contains('\0') {
        let detail = format!("is no path of at most {BACKUP_PATH_BYTES_MAX} bytes");
        return Err(Problem::at(Code::InvalidBody, "/folder", detail));
    }
    let folder = PathBuf::from(asked.folder);
    let trace = *parts.extensions.get::<TraceId>().expect("observe sets it");
    let begun = Timestamp::now();
    let backup = app.store.backup(folder.clone()).await?;
    let entry = app.backups.run(backup, &folder, begun, trace)?;
    let mut response = accepted(&BackupBody::from(&*entry));
    let location = HeaderValue::try_from(format!("/v1/backups/{}", entry.id));
    response.headers_mut().insert(header::LOCATION, location.expect("an id is plain"));
    Ok(response)
}

fn accepted(body: &BackupBody) -> Response<Body> {
    let mut response = receipt::json(body);
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn refuse(headers: &HeaderMap) -> Result<(), Problem> {
    conditions::refuse(headers, Refused::KeyAndConditions)
}

/// List backups
///
/// The last ones that this process began; a restart forgets them. What lasts is `manifest.json` in
/// the backup's folder.
#[utoipa::path(
    get, path = "/v1/backups", tag = "operations", operation_id = "list_backups",
    responses((status = 200, description = "Backups, the newest first", body = BackupsBody))
)]
pub(crate) async fn list_backups(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    refuse(request.headers())?;
    let backups = app.backups.all().iter().map(|entry| BackupBody::from(&**entry)).collect();
    Ok(receipt::json(&BackupsBody { backups }))
}

/// See how far a backup has come
#[utoipa::path(
    get, path = "/v1/backups/{id}", tag = "operations", operation_id = "describe_backup",
    params(("id" = String, Path, description = "The backup's id", example = "0199a5c0-7b1e-7000-8000-000000000000")),
    responses((status = 200, description = "The backup", body = BackupBody))
)]
pub(crate) async fn describe_backup(
    State(app): State<Arc<App>>,
    IdPath(id): IdPath,
    request: Request,
) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    refuse(request.headers())?;
    Ok(receipt::json(&BackupBody::from(&*find(&app, id)?)))
}

/// Cancel a backup
///
/// It breaks off soon, and its folder keeps the backup before it. Nothing happens to one that is
/// over.
#[utoipa::path(
    delete, path = "/v1/backups/{id}", tag = "operations", operation_id = "cancel_backup",
    params(("id" = String, Path, description = "The backup's id", example = "0199a5c0-7b1e-7000-8000-000000000000")),
    responses((status = 204, description = "It was asked to break off, or was over"))
)]
pub(crate) async fn cancel_backup(
    State(app): State<Arc<App>>,
    IdPath(id): IdPath,
    request: Request,
) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    refuse(request.headers())?;
    find(&app, id)?.cancel();
    Ok(empty(StatusCode::NO_CONTENT))
}

fn find(app: &App, id: Option<Uuid>) -> Result<Arc<Entry>, Problem> {
    id.and_then(|id| app.backups.find(id)).ok_or_else(|| {
        Problem::new(Code::BackupUnknown, "This process has begun no backup with this id.")
    })
}
