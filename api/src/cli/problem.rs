//! RFC 9457 problems as the client sees and prints them.

use std::{fmt, time::Duration};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Members that say nothing to a person who reads the message.
const UNPRINTED: [&str; 3] = ["type", "instance", "side_effects"];

/// The body of a refusal.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Problem {
    title: String,
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    errors: Vec<Value>,
    #[serde(default)]
    failed_conditions: Vec<Value>,
    #[serde(default)]
    retryable: Option<bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Problem {
    /// Whether the same request may succeed later.
    pub(super) fn is_retryable(&self) -> bool {
        self.retryable == Some(true)
    }
}

impl Problem {
    fn says(&self, text: &str) -> bool {
        self.detail.as_ref().is_some_and(|detail| detail.contains(text))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        match (self.status, &self.code) {
            (Some(status), Some(code)) => write!(f, " ({status} {code})")?,
            (Some(status), None) => write!(f, " ({status})")?,
            (None, Some(code)) => write!(f, " ({code})")?,
            (None, None) => {}
        }
        if let Some(detail) = &self.detail {
            write!(f, "\n  {detail}")?;
        }
        for error in &self.errors {
            let place = error["pointer"].as_str().or(error["parameter"].as_str()).unwrap_or("");
            match error["detail"].as_str() {
                // The detail of the whole may already say it.
                Some(detail) if self.says(place) && self.says(detail) => {}
                Some(detail) if place.is_empty() => write!(f, "\n  {detail}")?,
                Some(detail) => write!(f, "\n  {place}: {detail}")?,
                None => write!(f, "\n  {error}")?,
            }
        }
        for failed in &self.failed_conditions {
            match (failed["pointer"].as_str(), failed.get("expected"), failed.get("actual")) {
                (Some(place), Some(expected), Some(actual)) => {
                    write!(f, "\n  {place}: expected {expected}, is {actual}")?;
                }
                _ => write!(f, "\n  {failed}")?,
            }
        }
        // What was asked wrongly is said above; only the server's own failures are looked up in its log.
        let is_asked_wrongly = self.status.is_some_and(|status| status < 500);
        for (name, value) in &self.rest {
            let is_noise = UNPRINTED.contains(&name.as_str())
                || (is_asked_wrongly && name == "trace_id")
                || value.is_null();
            if !is_noise {
                write!(f, "\n  {name}: {value}")?;
            }
        }
        Ok(())
    }
}

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    retry_after: Option<Duration>,
    problem: Option<Problem>,
}

impl Refusal {
    /// Takes what an answer with a failing status holds.
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            status,
            retry_after: seconds.map(Duration::from_secs),
            problem: serde_json::from_slice(body).ok(),
        }
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_retryable(&self) -> bool {
        let said = self.problem.as_ref().and_then(|problem| problem.retryable);
        said.unwrap_or(matches!(self.status.as_u16(), 429 | 502 | 503 | 504))
    }

    /// Whether the caller is known and may not do this.
    pub(super) fn is_forbidden(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
    }

    /// Whether the server says that it failed, and not only for now.
    pub(super) fn is_final_failure(&self) -> bool {
        self.status.is_server_error() && !self.is_retryable()
    }

    /// How long the server asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Some(problem) => problem.fmt(f),
            None => write!(f, "the server answered {} without a problem document", self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: StatusCode, body: &str) -> Refusal {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, hyper::header::HeaderValue::from_static("2"));
        Refusal::new(status, &headers, body.as_bytes())
    }

    #[test]
    fn problem_shows_title_detail_and_every_error_once() {
        let body = r#"{"type":"/docs/problems/invalid_body","title":"Bad body","status":400,
            "detail":"/events/0/type must not be empty","code":"invalid_body","retryable":false,
            "side_effects":"none","trace_id":"00ab","errors":[
            {"pointer":"/events/0/type","detail":"must not be empty"},
            {"parameter":"limit","detail":"is no number"},{"odd":1}]}"#;
        assert_eq!(
            refusal(StatusCode::BAD_REQUEST, body).to_string(),
            "Bad body (400 invalid_body)\n  /events/0/type must not be empty\n  \
             limit: is no number\n  {\"odd\":1}"
        );
        let body = r#"{"title":"Failed","status":500,"detail":"Ask.","trace_id":"00ab","new":1}"#;
        assert_eq!(
            refusal(StatusCode::INTERNAL_SERVER_ERROR, body).to_string(),
            "Failed (500)\n  Ask.\n  new: 1\n  trace_id: \"00ab\""
        );
    }

    #[test]
    fn every_failed_condition_is_shown_with_what_is() {
        let body = r#"{"title":"A condition failed","failed_conditions":[
            {"pointer":"/expected","stream":"s","expected":{"version":3},"actual":{"version":4}},
            {"pointer":"/conditions/1","position":7}]}"#;
        assert_eq!(
            refusal(StatusCode::PRECONDITION_FAILED, body).to_string(),
            "A condition failed\n  /expected: expected {\"version\":3}, is {\"version\":4}\n  \
             {\"pointer\":\"/conditions/1\",\"position\":7}"
        );
    }

    #[test]
    fn problem_says_whether_to_come_again_and_else_the_status() {
        let check = |status: u16, body: &str, expected: bool| {
            let refusal = refusal(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(refusal.is_retryable(), expected, "{status} {body}");
            assert_eq!(refusal.retry_after(), Some(Duration::from_secs(2)));
        };
        check(503, r#"{"title":"Damaged","retryable":false}"#, false);
        check(503, r#"{"title":"Busy","retryable":true}"#, true);
        check(409, r#"{"title":"Contended","retryable":true}"#, true);
        check(503, "<html>", true);
        check(404, "<html>", false);
        let text = refusal(StatusCode::BAD_GATEWAY, "<html>").to_string();
        assert!(text.contains("502 Bad Gateway"), "{text}");
    }
}
