//! Sends lines to the bulk door, many in one request, and watches over what is acknowledged.

use std::{io, time::Duration};

use bytes::Bytes;
use hyper::{
    Method,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde::Deserialize;
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

use super::{
    super::{
        connection::{Caller, Connection, ConnectionError, read_all, read_some},
        problem::{Problem, Refusal},
    },
    Line, Place,
};

/// A request is sent before it grows beyond this, unless a single line does. The server takes 16 MiB.
const REQUEST_BYTES: usize = 4 << 20;
/// How often one request is sent before its failure is final.
const ATTEMPTS: u32 = 6;
/// Wait before the second attempt; doubled by each further one.
const BACKOFF: Duration = Duration::from_millis(200);

/// Why lines were not loaded.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum LoadError {
    /// No way to run at all.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// The server cannot be reached, or refuses the whole request.
    #[error("{0}")]
    Request(#[from] ConnectionError),
    /// The server refuses a line; those before it are stored.
    #[error("{place}: {problem}")]
    Line {
        /// The line's place in the file.
        place: Place,
        /// What the server says.
        problem: Box<Problem>,
    },
    /// The answer is not one of the bulk door.
    #[error("the server's answer makes no sense after {acknowledged} of {sent} lines: {text:?}")]
    Answer {
        /// Lines of the request that were acknowledged.
        acknowledged: usize,
        /// Lines of the request.
        sent: usize,
        /// The part that is not understood; empty if the answer ended early.
        text: String,
    },
}

impl LoadError {
    /// How long to wait at least before sending the same lines again, if that makes sense.
    fn again_after(&self) -> Option<Duration> {
        let refusal = |refusal: &Refusal| {
            refusal.is_retryable().then(|| refusal.retry_after().unwrap_or_default())
        };
        match self {
            Self::Request(ConnectionError::Refused(refused)) => refusal(refused),
            Self::Request(ConnectionError::Lost(_) | ConnectionError::Silent) => {
                Some(Duration::ZERO)
            }
            Self::Line { problem, .. } => problem.is_retryable().then_some(Duration::ZERO),
            // A connection that broke between two lines of the answer.
            Self::Answer { text, .. } => text.is_empty().then_some(Duration::ZERO),
            Self::Request(_) | Self::Start(_) => None,
        }
    }
}

/// Collects lines into requests and sends them, one after the other.
#[derive(Debug)]
pub(super) struct Loader {
    runtime: Runtime,
    caller: Caller,
    connection: Option<Connection>,
    body: Vec<u8>,
    places: Vec<Place>,
}

impl Loader {
    /// A loader that has sent nothing.
    ///
    /// # Errors
    /// `Start`.
    pub(super) fn new(caller: Caller) -> Result<Self, LoadError> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(LoadError::Start)?;
        Ok(Self { runtime, caller, connection: None, body: Vec::new(), places: Vec::new() })
    }

    /// Takes a line, and sends those before it if they fill a request.
    ///
    /// # Errors
    /// Those of [`Self::flush`].
    pub(super) fn push(&mut self, line: &Line) -> Result<(), LoadError> {
        if self.body.len() + line.json.len() >= REQUEST_BYTES {
            self.flush()?;
        }
        self.body.extend_from_slice(&line.json);
        self.body.push(b'\n');
        self.places.push(line.place);
        Ok(())
    }

    /// Sends what was taken; every line is acknowledged when it returns.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub(super) fn flush(&mut self) -> Result<(), LoadError> {
        if self.places.is_empty() {
            return Ok(());
        }
        let body = Bytes::from(std::mem::take(&mut self.body));
        let places = std::mem::take(&mut self.places);
        let Self { runtime, caller, connection, .. } = self;
        runtime.block_on(async {
            let mut attempt = 1;
            loop {
                let Err(error) = send(caller, connection, &body, &places).await else {
                    return Ok(());
                };
                // Lines that were stored are recognised by their ids, so all of them may be sent again.
                let Some(wait) = error.again_after().filter(|_| attempt < ATTEMPTS) else {
                    return Err(error);
                };
                sleep(wait.max(BACKOFF * 2_u32.pow(attempt - 1))).await;
                attempt += 1;
            }
        })
    }

    /// Records of the log that the caller may see; `None` if it may not read.
    ///
    /// # Errors
    /// `Request` or `Answer`.
    pub(super) fn log_length(&mut self) -> Result<Option<u64>, LoadError> {
        #[derive(Deserialize)]
        struct Page {
            head: Option<u64>,
        }
        let Self { runtime, caller, connection, .. } = self;
        runtime.block_on(async {
            // The old connection may have been closed while nobody looked.
            *connection = None;
            let connection = open(caller, connection).await?;
            let request = connection
                .request(Method::GET, "/v1/events?after=head&limit=1")
                .header(ACCEPT, "application/json");
            let mut body = match connection.send(request, Bytes::new()).await {
                Ok(response) => response.into_body(),
                Err(ConnectionError::Refused(refusal)) if refusal.is_forbidden() => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
            let body = read_all(&mut body).await?;
            let page: Page = serde_json::from_slice(&body).map_err(|_| LoadError::Answer {
                acknowledged: 0,
                sent: 0,
                text: String::from_utf8_lossy(&body).into_owned(),
            })?;
            Ok(Some(page.head.map_or(0, |head| head + 1)))
        })
    }
}

/// The connection, opened if there is none.
async fn open<'a>(
    caller: &Caller,
    connection: &'a mut Option<Connection>,
) -> Result<&'a mut Connection, ConnectionError> {
    match connection {
        Some(connection) if connection.is_open() => {}
        _ => *connection = Some(caller.connect().await?),
    }
    Ok(connection.as_mut().expect("opened above"))
}

/// One part of an answer: lines of the request, counted from 1, and what became of them.
#[derive(Deserialize)]
struct Answer {
    lines: [usize; 2],
    problem: Option<Box<Problem>>,
}

/// Sends one request and reads its answer to the end.
async fn send(
    caller: &Caller,
    slot: &mut Option<Connection>,
    body: &Bytes,
    places: &[Place],
) -> Result<(), LoadError> {
    let connection = open(caller, slot).await?;
    let request = connection
        .request(Method::POST, "/v1/events")
        .header(CONTENT_TYPE, "application/x-ndjson")
        .header(ACCEPT, "application/x-ndjson");
    let result = match connection.send(request, body.clone()).await {
        Ok(response) => {
            let mut acknowledgements = Acknowledgements { places, acknowledged: 0 };
            let mut body = response.into_body();
            let mut text = Vec::new();
            loop {
                match read_some(&mut body).await {
                    Ok(Some(bytes)) => text.extend_from_slice(&bytes),
                    Ok(None) => break acknowledgements.end(&text),
                    Err(error) => break Err(error.into()),
                }
                if let Err(error) = acknowledgements.take(&mut text) {
                    break Err(error);
                }
            }
        }
        Err(error) => Err(error.into()),
    };
    if result.is_err() {
        // What is left of a failed exchange must not be taken for the next one's answer.
        *slot = None;
    }
    result
}

/// How far a request's lines are acknowledged.
struct Acknowledgements<'a> {
    places: &'a [Place],
    acknowledged: usize,
}

impl Acknowledgements<'_> {
    /// Takes the whole lines of what came in and leaves the rest.
    fn take(&mut self, text: &mut Vec<u8>) -> Result<(), LoadError> {
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            self.take_line(&line)?;
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), LoadError> {
        match serde_json::from_slice(line) {
            Ok(Answer { lines: [first, _], problem: Some(problem) }) => {
                match first.checked_sub(1).and_then(|index| self.places.get(index)) {
                    Some(place) => Err(LoadError::Line { place: *place, problem }),
                    None => Err(self.senseless(line)),
                }
            }
            Ok(Answer { lines: [first, last], problem: None })
                if first == self.acknowledged + 1
                    && (first..=self.places.len()).contains(&last) =>
            {
                self.acknowledged = last;
                Ok(())
            }
            _ => Err(self.senseless(line)),
        }
    }

    /// All lines must be acknowledged at the end of the answer.
    fn end(mut self, rest: &[u8]) -> Result<(), LoadError> {
        if !rest.is_empty() {
            self.take_line(rest)?;
        }
        if self.acknowledged == self.places.len() { Ok(()) } else { Err(self.senseless(b"")) }
    }

    fn senseless(&self, text: &[u8]) -> LoadError {
        LoadError::Answer {
            acknowledged: self.acknowledged,
            sent: self.places.len(),
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledge(chunks: &[&str]) -> Result<(), LoadError> {
        let places: Vec<_> = (11..=14).map(|row| Place { row, line: row + 1 }).collect();
        let mut acknowledgements = Acknowledgements { places: &places, acknowledged: 0 };
        let mut text = Vec::new();
        for chunk in chunks {
            text.extend_from_slice(chunk.as_bytes());
            acknowledgements.take(&mut text)?;
        }
        acknowledgements.end(&text)
    }

    #[test]
    fn every_line_must_be_acknowledged_in_order() {
        let first = "{\"lines\":[1,3],\"first_position\":0,\"last_position\":2}\n";
        assert!(acknowledge(&[&first[..10], &first[10..], "{\"lines\":[4,4]}"]).is_ok());
        for answer in
            [&[first][..], &[], &["{\"lines\":[2,4]}\n"], &["{\"lines\":[1,5]}\n"], &["?\n"]]
        {
            assert!(matches!(acknowledge(answer), Err(LoadError::Answer { .. })), "{answer:?}");
        }
    }

    #[test]
    fn refused_line_is_named_by_its_place_in_the_file() {
        let problem =
            "{\"lines\":[2,2],\"problem\":{\"title\":\"No\",\"status\":422,\"retryable\":false}}\n";
        let error = acknowledge(&["{\"lines\":[1,1]}\n", problem]).unwrap_err();
        assert_eq!(error.to_string(), "row 12 (line 13): No (422)");
        assert_eq!(error.again_after(), None);
        let busy = acknowledge(&[&problem.replace("false", "true")]).unwrap_err();
        assert_eq!(busy.again_after(), Some(Duration::ZERO));
        let cut = acknowledge(&["{\"lines\":[1,1]}\n"]).unwrap_err();
        assert_eq!(cut.again_after(), Some(Duration::ZERO));
    }
}
