//! One HTTP/1.1 connection of `import` and `bench`, one request in flight.
//!
//! It reads an answer while its request is still being sent, so a refusal of the first of many lines is seen
//! even if the server does not want the rest.

use std::{io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, HOST, HeaderValue},
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{Global, problem::Refusal, target::Target};

/// Longest wait for a connection, an answer's head or any further part of it.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Where to connect and as whom.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    target: Target,
    host: HeaderValue,
    key: Option<HeaderValue>,
}

impl Caller {
    /// The caller and server that the command line names.
    pub(super) fn new(global: &Global) -> Self {
        let host = HeaderValue::from_str(global.url.authority())
            .expect("an authority has only visible characters");
        Self { target: global.url.clone(), host, key: global.key.clone() }
    }

    /// Connects.
    ///
    /// # Errors
    /// `Connect`.
    pub(super) async fn connect(&self) -> Result<Connection, ConnectionError> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.stream().await?)).await?;
        // Its error also reaches whoever waits for an answer.
        tokio::spawn(connection);
        Ok(Connection { sender, caller: self.clone() })
    }

    /// A bare connection, for who speaks HTTP by himself.
    ///
    /// # Errors
    /// `Connect`.
    pub(super) async fn stream(&self) -> Result<TcpStream, ConnectionError> {
        let failed = |source| ConnectionError::Connect { target: self.target.clone(), source };
        let stream = timeout(SILENCE_MAX, TcpStream::connect(self.target.address()))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }

    /// The authority that requests name.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The `Authorization` of requests.
    pub(super) fn key(&self) -> Option<&HeaderValue> {
        self.key.as_ref()
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    caller: Caller,
}

/// Why a request brought no success.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// No connection.
    #[error(
        "cannot connect to {target}: {source}\n  Is the server running? `kimberlite dev` starts one."
    )]
    Connect {
        target: Target,
        #[source]
        source: io::Error,
    },
    /// The server named a next page that cannot be requested.
    #[error("the server named a path that is none: {0}")]
    Path(#[from] hyper::http::Error),
    /// The connection was lost.
    #[error("the connection was lost: {}", super::with_causes(.0))]
    Lost(#[from] hyper::Error),
    /// Likewise.
    #[error("the connection was lost: {0}")]
    Broken(#[source] io::Error),
    /// The server was silent for too long.
    #[error("the server did not answer within {} seconds", SILENCE_MAX.as_secs())]
    Silent,
    /// An answer that says no.
    #[error("{0}")]
    Refused(Box<Refusal>),
}

impl Connection {
    /// Whether another request can be sent, as far as one can know.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// A request to fill in, with what every request has.
    pub(super) fn request(&self, method: Method, path: &str) -> Builder {
        let builder = Request::builder().method(method).uri(path).header(HOST, &self.caller.host);
        match &self.caller.key {
            Some(key) => builder.header(AUTHORIZATION, key),
            None => builder,
        }
    }

    /// Sends a request; the answer is a success, its body not read yet.
    ///
    /// # Errors
    /// `Path`, `Lost`, `Silent` or `Refused`.
    pub(super) async fn send(
        &mut self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, ConnectionError> {
        let request = request.body(Full::new(body.into()))?;
        self.sender.ready().await?;
        let response = timeout(SILENCE_MAX, self.sender.send_request(request))
            .await
            .map_err(|_| ConnectionError::Silent)??;
        if response.status().is_success() {
            return Ok(response);
        }
        let (parts, mut body) = response.into_parts();
        let body = read_all(&mut body).await?;
        Err(ConnectionError::Refused(Box::new(Refusal::new(parts.status, &parts.headers, &body))))
    }
}

/// The next part of a body; `None` at its end.
///
/// # Errors
/// `Lost` or `Silent`.
pub(super) async fn read_some(body: &mut Incoming) -> Result<Option<Bytes>, ConnectionError> {
    loop {
        match timeout(SILENCE_MAX, body.frame()).await.map_err(|_| ConnectionError::Silent)? {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(bytes) = frame?.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// A whole body, in one piece.
///
/// # Errors
/// `Lost` or `Silent`.
pub(super) async fn read_all(body: &mut Incoming) -> Result<Bytes, ConnectionError> {
    let Some(first) = read_some(body).await? else { return Ok(Bytes::new()) };
    let Some(second) = read_some(body).await? else { return Ok(first) };
    let mut whole = Vec::with_capacity(2 * (first.len() + second.len()));
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    while let Some(bytes) = read_some(body).await? {
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.into())
}
