//! Asking others over HTTP: one request on a connection of its own.
//!
//! Absent on purpose: TLS. What is sent from here is signed or a digest, and so is what comes back; an `https://` place is
//! reached through a proxy on this machine.

use std::{io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
    http::uri::{Authority, Scheme, Uri},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// Who is asked, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    authority: Authority,
    pub(crate) path: String,
}

impl Place {
    /// Of an `http://` URL without user and query.
    pub(crate) fn parse(url: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "holds no URL")?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err("holds another URL than of http: there is no TLS, use a proxy");
        }
        let authority = uri.authority().filter(|a| !a.as_str().contains('@'));
        let authority = authority.filter(|_| uri.query().is_none()).ok_or("holds no plain URL")?;
        Ok(Self { authority: authority.clone(), path: uri.path().to_owned() })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error("it cannot be reached")]
    Connect(#[source] io::Error),
    #[error("it did not answer in time")]
    Silent,
    #[error("the connection was lost")]
    Lost(#[from] hyper::Error),
    #[error("it cannot be asked")]
    Request(#[from] hyper::http::Error),
    #[error("its answer cannot be read")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How far an answer may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// From connecting to the last byte.
    pub(crate) patience: Duration,
    pub(crate) answer_bytes_max: usize,
}

/// Sends a body and takes the answer.
pub(crate) async fn post(
    place: &Place,
    media_type: Option<&'static str>,
    body: Bytes,
    bounds: Bounds,
) -> Result<(StatusCode, Bytes), PostError> {
    let asked = timeout(bounds.patience, ask(place, media_type, body, bounds.answer_bytes_max));
    asked.await.map_err(|_| PostError::Silent)?
}

async fn ask(
    place: &Place,
    media_type: Option<&'static str>,
    body: Bytes,
    answer_bytes_max: usize,
) -> Result<(StatusCode, Bytes), PostError> {
    let authority = &place.authority;
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await.map_err(PostError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Goes with the set, also when the answer does not come in time.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let mut request = Request::post(&place.path).header(HOST, authority.as_str());
    if let Some(media_type) = media_type {
        request = request.header(CONTENT_TYPE, media_type);
    }
    let (parts, body) = sender.send_request(request.body(Full::new(body))?).await?.into_parts();
    let body = Limited::new(body, answer_bytes_max).collect().await;
    Ok((parts.status, body.map_err(PostError::Answer)?.to_bytes()))
}
