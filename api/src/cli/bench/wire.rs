//! One HTTP/1.1 connection that appends with as little work as can be: on one machine, what the client needs
//! the server does not get. All other commands use [`Connection`](super::super::connection::Connection).

use std::{io, time::Duration};

use hyper::{
    HeaderMap, StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::timeout,
};

use super::{
    super::{
        connection::{Caller, ConnectionError, SILENCE_MAX},
        problem::Refusal,
    },
    BenchError,
};

const HEADERS_MAX: usize = 64;
/// A head, or a body, larger than this makes no sense.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What became of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Appended {
    /// It is stored.
    Stored {
        /// The stream's version now.
        last_version: u64,
    },
    /// The server asks to come again later.
    TooBusy {
        /// How much later.
        wait: Duration,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Wire {
    caller: Caller,
    stream: TcpStream,
    /// Headers that every request has.
    headers: Vec<u8>,
    request: Vec<u8>,
    /// What was read of an answer.
    answer: Vec<u8>,
}

/// An answer's head: its status, where its body begins and ends.
struct Head {
    status: StatusCode,
    body_at: usize,
    end: usize,
    /// Only of a refusal.
    headers: HeaderMap,
    closes: bool,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// `Connection`.
    pub(super) async fn connect(caller: Caller) -> Result<Self, BenchError> {
        let stream = caller.stream().await?;
        let mut headers = b" HTTP/1.1\r\nhost: ".to_vec();
        headers.extend_from_slice(caller.host().as_bytes());
        if let Some(key) = caller.key() {
            headers.extend_from_slice(b"\r\nauthorization: ");
            headers.extend_from_slice(key.as_bytes());
        }
        headers.extend_from_slice(b"\r\ncontent-type: application/json\r\ncontent-length: ");
        Ok(Self { caller, stream, headers, request: Vec::new(), answer: Vec::new() })
    }

    /// Sends one batch.
    ///
    /// # Errors
    /// `Connection` and `Answer`; not for a server that is too busy.
    pub(super) async fn append(&mut self, path: &str, body: &[u8]) -> Result<Appended, BenchError> {
        #[derive(Deserialize)]
        struct Receipt {
            last_version: u64,
        }
        let head = timeout(SILENCE_MAX, self.exchange(path, body))
            .await
            .map_err(|_| ConnectionError::Silent)??;
        let body = &self.answer[head.body_at..head.end];
        let appended = if head.status.is_success() {
            let receipt: Receipt = serde_json::from_slice(body)
                .map_err(|_| BenchError::Answer("an append was not answered with a receipt"))?;
            Appended::Stored { last_version: receipt.last_version }
        } else {
            let refusal = Refusal::new(head.status, &head.headers, body);
            if !refusal.is_retryable() {
                return Err(ConnectionError::Refused(Box::new(refusal)).into());
            }
            Appended::TooBusy { wait: refusal.retry_after().unwrap_or(Duration::from_millis(10)) }
        };
        if head.closes {
            self.stream = self.caller.stream().await?;
        }
        Ok(appended)
    }

    /// Writes the request and reads the answer, which may come before all is written.
    async fn exchange(&mut self, path: &str, body: &[u8]) -> Result<Head, BenchError> {
        self.request.clear();
        for part in [b"POST ", path.as_bytes(), &self.headers, body.len().to_string().as_bytes()] {
            self.request.extend_from_slice(part);
        }
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(body);
        self.answer.clear();
        let (mut from, mut to) = self.stream.split();
        let (written, head) =
            tokio::join!(write(&mut to, &self.request), read(&mut from, &mut self.answer));
        let mut head = head?;
        if let Err(error) = written {
            // A refusal may come early, and nothing is read behind it.
            if head.status.is_success() {
                return Err(lost(error));
            }
            head.closes = true;
        }
        Ok(head)
    }
}

async fn write(to: &mut WriteHalf<'_>, request: &[u8]) -> io::Result<()> {
    to.write_all(request).await
}

async fn read(from: &mut ReadHalf<'_>, answer: &mut Vec<u8>) -> Result<Head, BenchError> {
    let mut head: Option<Head> = None;
    loop {
        if head.is_none() {
            head = parse(answer)?;
        }
        if head.as_ref().is_some_and(|head| answer.len() >= head.end) {
            return Ok(head.expect("seen just now"));
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(BenchError::Answer("it is too long for an append's"));
        }
        if from.read_buf(answer).await.map_err(lost)? == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

fn lost(error: io::Error) -> BenchError {
    ConnectionError::Broken(error).into()
}

/// The head of an answer, once it is there whole.
fn parse(answer: &[u8]) -> Result<Option<Head>, BenchError> {
    const NO_HTTP: BenchError = BenchError::Answer("it is no HTTP/1.1 answer");
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body_at) = response.parse(answer).map_err(|_| NO_HTTP)? else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(response.code.unwrap_or(0)).map_err(|_| NO_HTTP)?;
    let find = |name: &str| response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
    let length = find("content-length")
        .and_then(|h| std::str::from_utf8(h.value).ok()?.parse::<usize>().ok())
        .filter(|length| *length <= ANSWER_BYTES_MAX)
        .ok_or(BenchError::Answer("an append was answered without a length that can be"))?;
    let closes = find("connection").is_some_and(|h| h.value.eq_ignore_ascii_case(b"close"));
    let mut kept = HeaderMap::new();
    if !status.is_success() {
        kept.extend(response.headers.iter().filter_map(|h| {
            let name = HeaderName::from_bytes(h.name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(h.value).ok()?))
        }));
    }
    Ok(Some(Head { status, body_at, end: body_at + length, headers: kept, closes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole_and_must_say_how_long_the_body_is() {
        let whole =
            b"HTTP/1.1 503 x\r\nContent-Length: 2\r\nRetry-After: 7\r\nConnection: close\r\n\r\n{}";
        for cut in 0..whole.len() - 2 {
            assert!(parse(&whole[..cut]).unwrap().is_none(), "{cut}");
        }
        let head = parse(whole).unwrap().unwrap();
        assert_eq!((head.status.as_u16(), head.end), (503, whole.len()));
        assert_eq!(&whole[head.body_at..head.end], b"{}");
        assert!(head.closes);
        let refusal = Refusal::new(head.status, &head.headers, b"{}");
        assert_eq!(refusal.retry_after(), Some(Duration::from_secs(7)));
        for bad in [
            &b"HTTP/1.1 201 x\r\n\r\n"[..],
            b"HTTP/1.1 201 x\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 201 x\r\ncontent-length: 99999999999\r\n\r\n",
            b"SSH-2.0-x\r\n\r\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
