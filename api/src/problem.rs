//! Problems (RFC 9457): the one table of everything that can go wrong, and the only place that
//! knows statuses.

mod query;
mod store;
pub(crate) mod witness;

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::app::TraceId;

/// Whether something may have happened although the answer is a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideEffects {
    /// Nothing was changed.
    None,
    /// It is not known here whether something was changed.
    Unknown,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// Its code, as in `code` and in the page's address.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// The same request may succeed later.
    pub retryable: bool,
    /// See [`SideEffects`].
    pub side_effects: SideEffects,
    /// One line.
    pub title: &'static str,
    /// What it means and what to do, for its page.
    pub page: &'static str,
}

impl Row {
    /// Whether something may have happened.
    pub(crate) fn leaves_doubt(&self) -> bool {
        self.side_effects == SideEffects::Unknown
    }
}

macro_rules! problems {
    ($($name:ident = $code:literal, $status:literal, $retryable:ident, $effects:ident, $title:literal, $page:literal;)*) => {
        /// Everything that can go wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its row.
            pub const fn row(self) -> &'static Row {
                match self {
                    $(Self::$name => &Row {
                        code: $code,
                        status: $status,
                        retryable: problems!(@retry $retryable),
                        side_effects: SideEffects::$effects,
                        title: $title,
                        page: $page,
                    },)*
                }
            }
        }
    };
    (@retry again) => { true };
    (@retry never) => { false };
}

problems! {
    MalformedJson = "malformed_json", 400, never, None, "The body is not JSON that we accept",
        "The body is not UTF-8, breaks the JSON grammar, holds an object with the same key \
         twice, or a \\u escape of half a surrogate pair. The last two are legal to some \
         readers and mean different things to different ones, so they are refused before they \
         are stored. `errors` says where.";
    InvalidBody = "invalid_body", 400, never, None, "The body has not the form of this request",
        "A field is unknown, missing or of another type. `errors` has a JSON pointer (RFC 6901) \
         to each.";
    InvalidName = "invalid_name", 400, never, None, "A name breaks its rules",
        "A stream name has 1 to 256 bytes of [A-Za-z0-9._~@:/-], with `/` percent-encoded in a \
         path; `.` and `..` are refused because no URL can address them, and names that begin \
         with `$` are reserved. A type, a tag and a subject have 1 to \
         256 bytes of UTF-8 without control characters.";
    InvalidParameter = "invalid_parameter", 400, never, None,
        "A query parameter has a value that cannot be",
        "`errors` names the parameter. Times are RFC 3339, positions and versions are whole \
         numbers below 2^53.";
    UnknownParameter = "unknown_parameter", 400, never, None,
        "This request knows no such query parameter",
        "Parameters that mean nothing here are refused, so that a misspelt filter does not \
         return everything.";
    InvalidHeader = "invalid_header", 400, never, None, "A header has a value that cannot be",
        "The detail names the header. If-Match takes one version in double quotes or `*`, \
         If-None-Match on an append takes `*`.";
    UnsupportedHeader = "unsupported_header", 400, never, None,
        "This request does not support a header that it has",
        "A header that asks for something is refused where it would have no effect: an \
         Idempotency-Key on a request that keeps none, a condition where nothing is compared, a \
         position to wait for on the only node, a preference that this version does not carry \
         out.";
    ConditionsDisagree = "conditions_disagree", 400, never, None,
        "The body and the headers expect different things",
        "`expected` in the body and If-Match or If-None-Match in the head say different things. \
         Give one of them.";
    InvalidEncoding = "invalid_encoding", 400, never, None, "The body cannot be decompressed",
        "The body is not what its Content-Encoding says, or it is cut off.";
    MalformedRequest = "malformed_request", 400, never, None, "The request cannot be understood",
        "The path or the query is not valid percent-encoded UTF-8, or the Host header is \
         missing or given twice.";
    UnsupportedSql = "unsupported_sql", 400, never, None, "The SQL is not understood, or not supported",
        "What would not be heeded is refused: it is no SQL, or a statement or clause that this server \
         does not carry out. `errors` has the line and the column where they are known. Versions of tables are \
         `t AS OF POSITION n` and `t FOR SYSTEM_TIME AS OF TIMESTAMP '…'`.";
    InvalidSql = "invalid_sql", 400, never, None, "The SQL does not fit the tables",
        "A table, column or function is unknown, an operation does not take these types, or a \
         parameter is missing or of another type. information_schema.columns lists what there is.";
    CredentialsUnknown = "credentials_unknown", 401, never, None, "The credentials are not known",
        "This server has issued no such credentials. A development server takes none: leave the \
         Authorization header out.";
    LinkInvalid = "link_invalid", 401, never, None, "The signed link does not hold",
        "It was changed, it has expired, or the server that made it has been restarted. Make a \
         new one with POST /v1/links.";
    OriginForeign = "origin_foreign", 403, never, None,
        "Pages of this origin may not call the server",
        "The request carries the Origin of another site. An operator allows it with \
         `cors.origins`.";
    NotFound = "not_found", 404, never, None, "There is nothing at this path",
        "The paths of this server are listed under /docs.";
    TenantUnknown = "tenant_unknown", 404, never, None,
        "There is no such tenant, or it may not be seen",
        "Kimberlite-Tenant names another tenant than the one that these credentials belong to.";
    StreamUnknown = "stream_unknown", 404, never, None, "The stream does not exist",
        "A stream exists once an event was appended to it. Following one that does not exist \
         yet waits for it.";
    RecordUnknown = "record_unknown", 404, never, None, "There is no such record",
        "The position lies beyond the log, or, under /v1/events, holds a record that is not an \
         event.";
    TileUnknown = "tile_unknown", 404, never, None, "There is no such tile",
        "The newest checkpoint does not cover all of it, or the path is not written as C2SP \
         tlog-tiles says. A partial tile has its width in its path.";
    StampUnknown = "stamp_unknown", 404, never, None, "There is no time stamp yet",
        "None of the log's checkpoints was stamped so far. The setting `timestamps.url` names a time \
         authority; its first stamp comes soon after the first record.";
    BackupUnknown = "backup_unknown", 404, never, None, "There is no such backup",
        "The process that began it has ended, or a hundred others came after it. What a folder \
         holds stands in its `manifest.json`.";
    MethodNotAllowed = "method_not_allowed", 405, never, None, "The path does not take this method",
        "The Allow header lists the methods that it takes.";
    NotAcceptable = "not_acceptable", 406, never, None,
        "None of the accepted formats can be made here",
        "Accept names no format that this path has. Events come as application/json, \
         application/x-ndjson, text/event-stream or application/cloudevents-batch+json, answers to \
         queries as application/json, application/x-ndjson, text/csv or \
         application/vnd.apache.arrow.stream.";
    BodyTimeout = "body_timeout", 408, again, None, "The body did not arrive in time",
        "The rest of the body did not come within `http.body_timeout_ms`. Nothing of it was \
         applied; lines of a bulk load that were answered before are kept.";
    EventIdConflict = "event_id_conflict", 409, never, None, "An event id is taken",
        "An event with this id and other content exists, or only some of the ids of the request \
         exist. Sending events again is recognised where all of them are in the stream with the \
         same content and in the same order.";
    DuplicateKey = "duplicate_key", 409, never, None, "There is a row with this key already",
        "INSERT … ON CONFLICT DO NOTHING passes over such rows, and ON CONFLICT (…) DO UPDATE changes \
         those that are there. Nothing of the request was written.";
    TableExists = "table_exists", 409, never, None, "There is a table of this name already",
        "CREATE TABLE IF NOT EXISTS leaves it as it is, whatever its columns are. Nothing of the request was written.";
    Diverged = "diverged", 409, never, None, "The cursor is not of this log",
        "This log cannot have issued the cursor, or the position in a condition's `after`: it is \
         of another log, or of this one before it was restored from an older state. What was read \
         with it may not be here. Start again from a position that you trust. A cursor has 32 bits of \
         its record's hash: enough to tell an accident, not to hold off somebody who means it. \
         What shows that a log was not changed are checkpoints and their proofs: \
         /v1/log/checkpoint, /v1/log/consistency, and /v1/events/{position}/proof.";
    BackupRunning = "backup_running", 409, again, None, "A backup to this folder is under way",
        "One backup at a time goes to a folder. GET /v1/backups shows how far it has come, DELETE \
         on it cancels it.";
    BackupFolderTaken = "backup_folder_taken", 409, never, None,
        "The folder cannot take this backup",
        "It holds something else, lies in a data folder, has backups of another cluster or of a \
         state that this log does not go on from (as after a restore), or its manifest is damaged. \
         Nothing in it was changed. Choose a new folder.";
    TimeNotClosed = "time_not_closed", 409, again, None, "The time is not over yet",
        "Records up to this time may still be written, so there is no lasting answer as of it. Times become \
         closed about a second after they have passed; the metric kimberlite_closed_time_seconds says \
         how far.";
    StreamDeleted = "stream_deleted", 410, never, None, "The stream is deleted",
        "Its events stay in /v1/events. Appending with ?recreate=true brings it back; its \
         versions go on.";
    ConditionsFailed = "conditions_failed", 412, never, None, "The log is not as expected",
        "Nothing was appended. `failed_conditions` lists every condition that does not hold, \
         with what was expected and what is.";
    RequestTooLarge = "request_too_large", 413, never, None, "The request is too large",
        "A body has at most 16 MiB, also after decompression, and a line of a bulk load at most \
         2 MiB. POST /v1/events takes any number of lines.";
    EventTooLarge = "event_too_large", 413, never, None, "An event is too large",
        "Data, metadata and tags of one event have at most 1 MiB together.";
    ContentTypeUnsupported = "content_type_unsupported", 415, never, None,
        "The body has a content type that is not taken here",
        "The detail lists the content types that the path takes. A body without a Content-Type \
         is refused too.";
    ContentEncodingUnsupported = "content_encoding_unsupported", 415, never, None,
        "The body has an encoding that is not taken",
        "Bodies may be compressed with one of gzip and zstd.";
    HostForeign = "host_foreign", 421, never, None,
        "The server does not answer under this host name",
        "The Host header names neither a loopback name or address nor one of `http.hosts`. This \
         keeps web pages from reaching the server through a name that they control.";
    LimitExceeded = "limit_exceeded", 422, never, None, "A limit is exceeded",
        "`errors` says which. Nothing is cut to fit. A tenant has at most 65,536 event types, for \
         good: what varies from event to event belongs into tags, streams or data.";
    ConstraintFailed = "constraint_failed", 422, never, None, "A row is not as its table says",
        "A column that is NOT NULL would have no value, or ON CONFLICT DO UPDATE would change a row twice. \
         Nothing of the request was written.";
    SubjectsUnavailable = "subjects_unavailable", 422, never, None,
        "Subjects are not available yet",
        "This version cannot seal and erase the data of subjects, so it takes no events that \
         name any.";
    IdempotencyMismatch = "idempotency_mismatch", 422, never, None,
        "The idempotency key was used with another request",
        "A key stands for one request: its path, its query, its conditions and its body. Take a \
         new key for a new request.";
    MomentUnknown = "moment_unknown", 422, never, None, "The log has no state as of this moment",
        "The position lies beyond the log's last record, or the time before its first one.";
    QueryFailed = "query_failed", 422, never, None, "The query failed on a value",
        "A division by zero, a number out of range, or a text that is not of the type it is cast to. \
         The value itself is not shown. TRY_CAST gives NULL for what cannot be cast.";
    BackupFailed = "backup_failed", 422, never, None, "The backup could not be written",
        "Making, writing or reading a file in the folder failed; the detail says which and why. A \
         backup that was there before is still whole.";
    Internal = "internal", 500, again, Unknown, "The server failed",
        "The server's log has the cause under the `trace_id`. An append with an Idempotency-Key \
         or with event ids can be sent again without harm.";
    Overloaded = "overloaded", 503, again, None, "The server is at a limit",
        "A queue, or the room for connections or bodies, is full. Wait as long as Retry-After \
         says and send the request again.";
    Contended = "contended", 503, again, None, "Other writers were always faster",
        "What the request rests on changed at every attempt. Send it again.";
    DiskFull = "disk_full", 503, again, None, "There is no room on the disk",
        "The log cannot grow. Nothing was written. An operator has to make room; reading goes \
         on.";
    CheckpointPending = "checkpoint_pending", 503, again, None,
        "No checkpoint covers the record yet",
        "What is committed is signed within a second, and this took longer. The record is durable; \
         ask for its proof again. An append is never answered so: where it asked for its receipt and \
         none came in time, it is answered without the proof.";
    Draining = "draining", 503, again, Unknown, "The server is stopping",
        "Reconnect in a moment. Whether an append that got this answer was written is not known \
         to it: send it again with the same Idempotency-Key or event ids.";
    LogDamaged = "log_damaged", 503, never, None, "The log is damaged on disk",
        "Bytes on disk are not what was written. They are not served, and the tenant takes no \
         writes until they are repaired from a copy. The detail names the file and the byte.";
}

/// Where a request's body or parameters are wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/events/0/type")]
    pub pointer: Option<String>,
    /// Query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limit")]
    pub parameter: Option<String>,
    /// What is wrong.
    #[schema(example = "must not be empty")]
    pub detail: String,
}

impl FieldError {
    /// At a place in the body.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, detail: detail.into() }
    }

    /// In a query parameter.
    pub fn parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name.into()), detail: detail.into() }
    }
}

/// A problem on its way to the caller.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    failed: Vec<crate::v1::FailedConditionBody>,
    cause: Option<String>,
}

impl Problem {
    /// With what to do about it.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let (errors, failed) = (Vec::new(), Vec::new());
        Self(Box::new(Parts { code, detail: detail.into(), errors, failed, cause: None }))
    }

    /// With the places that are wrong; the first one is the detail.
    pub fn fields(code: Code, errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map(|first| {
            let place = first.pointer.as_ref().or(first.parameter.as_ref());
            place
                .filter(|p| !p.is_empty())
                .map_or_else(|| first.detail.clone(), |p| format!("{p} {}", first.detail))
        });
        let mut problem = Self::new(code, detail.unwrap_or_default());
        problem.0.errors = errors;
        problem
    }

    /// At one place of the body.
    pub fn at(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(code, vec![FieldError::at(pointer, detail)])
    }

    /// In one query parameter.
    pub fn parameter(code: Code, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(code, vec![FieldError::parameter(name, detail)])
    }

    /// Of which only the id is shown; the log has the cause.
    pub fn internal(cause: impl Into<String>) -> Self {
        let mut problem =
            Self::new(Code::Internal, "The server's log has the cause under the trace id.");
        problem.0.cause = Some(cause.into());
        problem
    }

    /// Every condition that failed.
    pub(crate) fn conditions(failed: Vec<crate::v1::FailedConditionBody>) -> Self {
        let mut problem = Self::new(
            Code::ConditionsFailed,
            "Read what changed, decide again, and send the request anew.",
        );
        problem.0.failed = failed;
        problem
    }

    /// Says `to` where a pointer ends in `from`: the body calls the field so.
    pub(crate) fn renamed(mut self, from: &str, to: &str) -> Self {
        for pointer in self.0.errors.iter_mut().filter_map(|e| e.pointer.as_mut()) {
            if let Some(place) = pointer.strip_suffix(from) {
                *pointer = format!("{place}{to}");
            }
        }
        self
    }

    /// What to do about it, as the answer says it.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the log says about it, where it says more than the answer.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// As JSON, for an answer or a frame.
    pub(crate) fn json(&self, trace: TraceId) -> Vec<u8> {
        let row = self.0.code.row();
        let body = ProblemBody {
            kind: format!("/docs/problems/{}", row.code),
            title: row.title,
            status: row.status,
            detail: &self.0.detail,
            code: row.code,
            retryable: row.retryable,
            side_effects: match row.side_effects {
                SideEffects::None => "none",
                SideEffects::Unknown => "unknown",
            },
            trace_id: trace.to_string(),
            errors: &self.0.errors,
            failed_conditions: &self.0.failed,
        };
        serde_json::to_vec(&body).expect("plain fields serialise")
    }

    /// As an answer.
    pub(crate) fn response(&self, trace: TraceId) -> Response {
        let row = self.0.code.row();
        let mut response = Response::new(Body::from(self.json(trace)));
        *response.status_mut() = StatusCode::from_u16(row.status).expect("a test walks the table");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match row.status {
            401 => {
                drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
            }
            // What is left of the body is not read, so the connection cannot be used again.
            408 | 413 => {
                drop(headers.insert(header::CONNECTION, HeaderValue::from_static("close")));
            }
            503 if row.retryable => {
                drop(headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")));
            }
            _ => {}
        }
        response
    }
}

/// The answer that `observe` writes out once it knows the trace id.
#[derive(Clone)]
pub(crate) struct PendingProblem(pub(crate) Problem);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response.extensions_mut().insert(PendingProblem(self));
        response
    }
}

/// RFC 9457 problem details.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// Path of the page about this problem.
    #[serde(rename = "type")]
    #[schema(example = "/docs/problems/invalid_body")]
    kind: String,
    /// What went wrong, in one line; the same for every problem of this code.
    title: &'a str,
    /// HTTP status.
    status: u16,
    /// What to do about it.
    detail: &'a str,
    /// Stable name of the problem.
    #[schema(example = "invalid_body")]
    code: &'a str,
    /// The same request may succeed later.
    retryable: bool,
    /// `none`: nothing was changed. `unknown`: it is not known here.
    #[schema(pattern = "^(none|unknown)$")]
    side_effects: &'a str,
    /// Under which the server's log tells more: 32 hex digits, the caller's where it sent a
    /// `traceparent`.
    trace_id: String,
    /// Where the request is wrong.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
    /// Every condition that failed (412 only).
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    failed_conditions: &'a [crate::v1::FailedConditionBody],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_whole_and_stands_once() {
        for (i, code) in Code::ALL.iter().enumerate() {
            let row = code.row();
            assert!(
                StatusCode::from_u16(row.status)
                    .is_ok_and(|s| s.is_client_error() || s.is_server_error())
            );
            assert!(!row.title.is_empty() && row.page.len() > row.title.len() / 2, "{}", row.code);
            assert!(row.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!(Code::ALL[..i].iter().all(|c| c.row().code != row.code), "{}", row.code);
        }
    }
}
