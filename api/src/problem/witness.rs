//! What a witness answers: the standard's statuses and texts (C2SP tlog-witness), which are no problem documents.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use kimberlite_store::proof::Refused;

use crate::witness::SubmitError;

/// A cosignature's line, or why there is none.
pub(crate) fn of(submitted: Result<String, SubmitError>) -> Response {
    let (status, text, kind) = match submitted {
        Ok(line) => (StatusCode::OK, line, "text/plain; charset=utf-8"),
        Err(SubmitError::Refused(Refused::Stale(size) | Refused::Root(size))) => {
            (StatusCode::CONFLICT, format!("{size}\n"), "text/x.tlog.size")
        }
        Err(error) => (status(&error), format!("{error}\n"), "text/plain; charset=utf-8"),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn status(error: &SubmitError) -> StatusCode {
    match error {
        SubmitError::Form(_) | SubmitError::Refused(Refused::Size) => StatusCode::BAD_REQUEST,
        SubmitError::Body => StatusCode::PAYLOAD_TOO_LARGE,
        SubmitError::Late => StatusCode::REQUEST_TIMEOUT,
        SubmitError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        SubmitError::Refused(Refused::Origin) => StatusCode::NOT_FOUND,
        SubmitError::Refused(Refused::Signature) => StatusCode::FORBIDDEN,
        SubmitError::Refused(Refused::Stale(_) | Refused::Root(_)) => StatusCode::CONFLICT,
        SubmitError::Refused(Refused::Proof(_)) => StatusCode::UNPROCESSABLE_ENTITY,
        SubmitError::Kept(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
