//! The blocking client of `append`, `read` and `tail`: plain HTTP/1.1 to one server.
//!
//! Not for `import` and `bench`: one must read an answer while its request is still being sent, the other
//! drives many connections at once (see [`super::connection`]).

use std::time::Duration;

use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use ureq::{
    Agent, Body, RequestBuilder,
    http::{HeaderMap, Response, StatusCode},
    typestate::WithoutBody,
};

use super::{Global, problem::Refusal, target::Target};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of the server; a follower hears a heartbeat every 10 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Requests to one server, with one identity.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    target: Target,
    key: Option<HeaderValue>,
}

/// Why a request brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No answer.
    #[error(
        "no answer from {target}: {source}\n  Is the server running? `kimberlite dev` starts one."
    )]
    Unreachable {
        target: Target,
        #[source]
        source: Box<ureq::Error>,
    },
    /// An answer that says no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// An answer that this command line does not understand.
    #[error("{target} answered something that is not what a Kimberlite server answers: {source}")]
    Body {
        target: Target,
        #[source]
        source: serde_json::Error,
    },
}

/// A successful answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Client {
    /// A client of the server that the command line names.
    pub(super) fn new(global: &Global) -> Self {
        Self::of(global.url.clone(), global)
    }

    /// A client of this server.
    pub(super) fn of(target: Target, global: &Global) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("kimberlite/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(SILENCE_MAX))
            .build();
        Self { agent: config.into(), target, key: global.key.clone() }
    }

    /// GETs a path with query as JSON.
    ///
    /// # Errors
    /// `Unreachable` or `Refused`.
    pub(super) fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.answer(self.get_as(path, "application/json").call())
    }

    /// Opens an event stream behind `last_event_id`; the answer's body is read by the caller.
    ///
    /// # Errors
    /// `Unreachable` or `Refused`.
    pub(super) fn follow(
        &self,
        path: &str,
        last_event_id: Option<&str>,
    ) -> Result<Response<Body>, ClientError> {
        let mut request = self.get_as(path, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        self.accepted(request.call())
    }

    /// POSTs JSON.
    ///
    /// # Errors
    /// `Unreachable` or `Refused`.
    pub(super) fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ClientError> {
        let mut request = self
            .agent
            .post(self.target.url(path))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(request.send(body))
    }

    /// Reads a body of JSON.
    ///
    /// # Errors
    /// `Body`.
    pub(super) fn parse<'a, T: serde::Deserialize<'a>>(
        &self,
        body: &'a [u8],
    ) -> Result<T, ClientError> {
        serde_json::from_slice(body)
            .map_err(|source| ClientError::Body { target: self.target.clone(), source })
    }

    fn get_as(&self, path: &str, accept: &'static str) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(self.target.url(path)).header(ACCEPT, accept);
        match &self.key {
            Some(key) => request.header(AUTHORIZATION, key),
            None => request,
        }
    }

    fn answer(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Answer, ClientError> {
        let (parts, mut body) = self.accepted(result)?.into_parts();
        let body = self.read(&mut body)?;
        Ok(Answer { headers: parts.headers, body })
    }

    fn accepted(
        &self,
        result: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, ClientError> {
        let mut response = result.map_err(|source| self.unreachable(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = self.read(response.body_mut())?;
        let status: StatusCode = response.status();
        Err(ClientError::Refused(Box::new(Refusal::new(status, response.headers(), &body))))
    }

    fn read(&self, body: &mut Body) -> Result<Vec<u8>, ClientError> {
        // A page has up to 1000 events of any size that the server allows: its limits hold, not ours.
        body.with_config().limit(u64::MAX).read_to_vec().map_err(|source| self.unreachable(source))
    }

    fn unreachable(&self, source: ureq::Error) -> ClientError {
        ClientError::Unreachable { target: self.target.clone(), source: Box::new(source) }
    }
}
