//! Request bodies: content types, decompression, size, time.

use std::{
    io::Write as _,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::{Buf as _, Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation as _};

use crate::{
    app::App,
    limits::{DRAIN_BYTES_MAX, INFLATE_STEP_BYTES, REQUEST_BYTES_MAX, ZSTD_WINDOW_LOG_MAX},
    problem::{Code, Problem},
};

/// Room that a body of announced size gets before any of it has come.
const FIRST_ROOM_BYTES: usize = 64 << 10;

/// A content type that some path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// `application/json`
    Json,
    /// `application/x-ndjson`
    Ndjson,
    /// `application/cloudevents+json`
    CloudEvent,
    /// `application/cloudevents-batch+json`
    CloudEvents,
}

impl Content {
    const fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::CloudEvent => "application/cloudevents+json",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }

    /// Which of `taken` the body is.
    pub(crate) fn of(headers: &HeaderMap, taken: &[Self]) -> Result<Self, Problem> {
        let sent =
            headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (kind, parameters) = sent.split_once(';').unwrap_or((sent, ""));
        let utf8 = parameters.split(';').map(str::trim).all(|p| {
            !p.get(..8).is_some_and(|name| name.eq_ignore_ascii_case("charset="))
                || p[8..].trim_matches('"').eq_ignore_ascii_case("utf-8")
        });
        let found = taken.iter().find(|c| kind.trim().eq_ignore_ascii_case(c.name()));
        found.copied().filter(|_| utf8).ok_or_else(|| {
            let names: Vec<_> = taken.iter().map(|c| c.name()).collect();
            Problem::new(
                Code::ContentTypeUnsupported,
                format!("This path takes {} in UTF-8.", names.join(", ")),
            )
        })
    }
}

/// How many bytes of bodies are held at this moment, of requests or of answers.
#[derive(Clone)]
pub(crate) struct BodyBudget {
    bytes: Arc<AtomicUsize>,
    most: usize,
}

impl BodyBudget {
    /// For at most so many bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { bytes: Arc::default(), most }
    }

    /// How many they are.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Begins to count a body.
    pub(crate) fn hold(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }
}

/// Bytes counted for one body, until it is dropped.
pub(crate) struct Held {
    budget: BodyBudget,
    bytes: usize,
}

impl Held {
    /// The body takes so many bytes now.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), Problem> {
        let before = self.bytes;
        self.bytes = bytes;
        if bytes <= before {
            self.budget.bytes.fetch_sub(before - bytes, Ordering::Relaxed);
            return Ok(());
        }
        let more = bytes - before;
        if self.budget.bytes.fetch_add(more, Ordering::Relaxed) + more > self.budget.most {
            return Err(Problem::new(Code::Overloaded, "Too many bytes of bodies at one time."));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body that has arrived. It counts until it is dropped, so a handler keeps it until the store
/// has answered: the events are slices of it.
pub(crate) struct Whole {
    bytes: Bytes,
    _held: Held,
}

impl Deref for Whole {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

/// Reads a whole body: decompressed, bounded in size and time.
pub(crate) async fn whole(app: &App, headers: &HeaderMap, body: Body) -> Result<Whole, Problem> {
    let inflate = Inflate::of(headers)?;
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let mut body = body;
    let over = announced.is_some_and(|bytes| bytes > REQUEST_BYTES_MAX);
    let gathered = if over {
        Err(too_large())
    } else {
        let gather = gather(app, inflate, &mut body, announced.unwrap_or_default());
        tokio::time::timeout(app.config.body_timeout, gather).await.unwrap_or_else(|_| Err(late()))
    };
    // Whoever waits for a 100 before sending gets the answer instead.
    let waits = headers.contains_key(header::EXPECT) && over;
    let refused = [Code::RequestTooLarge, Code::Overloaded];
    if !waits && gathered.as_ref().is_err_and(|p| refused.contains(&p.code())) {
        drain(app, &mut body).await;
    }
    gathered
}

async fn gather(
    app: &App,
    mut inflate: Inflate,
    body: &mut Body,
    announced: usize,
) -> Result<Whole, Problem> {
    let mut held = app.bodies.hold();
    let mut piece = next_data(body).await?;
    // Most bodies come in one piece, which needs no copy.
    if let Some(only) = piece.take_if(|p| matches!(inflate, Inflate::Plain) && p.len() == announced)
    {
        held.set(only.len())?;
        return Ok(Whole { bytes: only, _held: held });
    }
    let mut whole = BytesMut::with_capacity(announced.min(FIRST_ROOM_BYTES));
    while let Some(mut input) = piece {
        loop {
            let more = inflate.step(&mut input, &mut whole)?;
            if whole.len() > REQUEST_BYTES_MAX {
                return Err(too_large());
            }
            held.set(whole.capacity())?;
            if !more {
                break;
            }
        }
        piece = next_data(body).await?;
    }
    let bytes = inflate.finish(whole)?;
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(too_large());
    }
    Ok(Whole { bytes, _held: held })
}

/// The next piece of a body; `None` at its end.
pub(crate) async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Problem::new(Code::MalformedRequest, "The body broke off before its end.")
        })?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Takes what a caller still sends before it reads its answer, within bounds.
pub(crate) async fn drain(app: &App, body: &mut Body) {
    let take = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Ok(Some(data)) = next_data(body).await {
            left = left.saturating_sub(data.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whoever is slower loses the answer with the connection.
    let _ = tokio::time::timeout(app.config.body_timeout, take).await;
}

/// A body that took too long.
pub(crate) fn late() -> Problem {
    Problem::new(Code::BodyTimeout, "Send the body faster, or raise http.body_timeout_ms.")
}

fn too_large() -> Problem {
    Problem::new(
        Code::RequestTooLarge,
        format!("A body has at most {REQUEST_BYTES_MAX} bytes, decompressed."),
    )
}

/// Undoes a Content-Encoding, a bounded step at a time.
pub(crate) enum Inflate {
    /// There is none.
    Plain,
    /// gzip (RFC 1952), one or several members.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// zstd (RFC 8878), one or several frames.
    Zstd {
        /// Holds the window.
        decoder: ZstdDecoder<'static>,
        /// The last frame has ended.
        ended: bool,
    },
}

impl Inflate {
    /// For a request's Content-Encoding.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(coding) = headers.get(header::CONTENT_ENCODING) else { return Ok(Self::Plain) };
        let one = headers.get_all(header::CONTENT_ENCODING).iter().count() == 1;
        match coding.to_str().map(|c| c.trim().to_ascii_lowercase()).as_deref() {
            Ok("identity") if one => Ok(Self::Plain),
            Ok("gzip" | "x-gzip") if one => {
                Ok(Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))))
            }
            Ok("zstd") if one => {
                let make = || {
                    let mut decoder = ZstdDecoder::new()?;
                    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
                    Ok(Self::Zstd { decoder, ended: false })
                };
                make().map_err(|e: std::io::Error| Problem::internal(format!("zstd: {e}")))
            }
            _ => Err(Problem::new(
                Code::ContentEncodingUnsupported,
                "Send the body as it is, or as gzip or zstd.",
            )),
        }
    }

    /// Takes some of `input` and adds what it yields to `out`, about [`INFLATE_STEP_BYTES`] at most
    /// unless plain. True while there is more to come without further input.
    pub(crate) fn step(&mut self, input: &mut Bytes, out: &mut BytesMut) -> Result<bool, Problem> {
        match self {
            Self::Plain => {
                out.extend_from_slice(input);
                input.clear();
                Ok(false)
            }
            Self::Gzip(decoder) => {
                let taken = decoder.write(input).map_err(|e| broken(&e))?;
                input.advance(taken);
                if input.is_empty() {
                    // What is left inside after the last input is at most two windows.
                    decoder.flush().map_err(|e| broken(&e))?;
                }
                out.extend_from_slice(decoder.get_ref());
                decoder.get_mut().clear();
                Ok(!input.is_empty())
            }
            Self::Zstd { decoder, ended } => {
                if *ended && input.is_empty() {
                    return Ok(false);
                }
                if *ended {
                    decoder.reinit().map_err(|e| broken(&e))?;
                    *ended = false;
                }
                let before = out.len();
                out.resize(before + INFLATE_STEP_BYTES, 0);
                let status =
                    decoder.run_on_buffers(input, &mut out[before..]).map_err(|e| broken(&e))?;
                out.truncate(before + status.bytes_written);
                input.advance(status.bytes_read);
                *ended = status.remaining == 0;
                Ok(!input.is_empty() || status.bytes_written == INFLATE_STEP_BYTES)
            }
        }
    }

    /// All of the body has come: adds what is left, and checks that nothing is missing.
    pub(crate) fn finish(self, mut out: BytesMut) -> Result<Bytes, Problem> {
        match self {
            Self::Plain | Self::Zstd { ended: true, .. } => {}
            Self::Gzip(mut decoder) => {
                decoder.try_finish().map_err(|e| broken(&e))?;
                out.extend_from_slice(decoder.get_ref());
            }
            Self::Zstd { ended: false, .. } => {
                return Err(Problem::new(Code::InvalidEncoding, "The zstd body is cut off."));
            }
        }
        Ok(out.freeze())
    }
}

fn broken(error: &std::io::Error) -> Problem {
    Problem::new(Code::InvalidEncoding, format!("The body cannot be decompressed: {error}."))
}

#[cfg(test)]
mod tests {
    use axum::{http::Request, response::Response};
    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use tower::ServiceExt as _;

    use super::*;
    use crate::app;
    use crate::limits::{ANSWERS_BYTES_MAX, BODIES_BYTES_MAX};

    const EVENT: &str = r#"{"events":[{"type":"t"}]}"#;
    const LINE: &str = "{\"stream\":\"s\",\"type\":\"t\"}\n";

    async fn post(app: &Arc<App>, path: &str, kind: &str, body: impl Into<Body>) -> Response {
        let request = Request::post(path).header("host", "localhost").header("content-type", kind);
        app::router(app).oneshot(request.body(body.into()).unwrap()).await.unwrap()
    }

    async fn text(answer: Response) -> String {
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn held(app: &App) -> usize {
        app.bodies.bytes()
    }

    #[tokio::test]
    async fn a_body_counts_until_its_append_is_answered() {
        let (app, _folder) = app::of_tests().await;
        let mut seen = false;
        // A disk could be quicker than this looks, but not always.
        for _ in 0..100 {
            let answer = post(&app, "/v1/streams/s/events", "application/json", EVENT);
            let mut answer = std::pin::pin!(answer);
            let early = answer.as_mut().now_or_never();
            if early.is_none() {
                assert_eq!(held(&app), EVENT.len());
                seen = true;
            }
            let answer = match early {
                Some(answer) => answer,
                None => answer.await,
            };
            assert_eq!(answer.status(), 201);
            assert_eq!(held(&app), 0);
        }
        assert!(seen, "every append was answered at once");
    }

    #[tokio::test]
    async fn lines_count_while_they_arrive_and_until_they_are_written() {
        let (app, _folder) = app::of_tests().await;
        let part = Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 300_000]));
        let unfinished = Body::from_stream(stream::iter([part]).chain(stream::pending()));
        let answer = post(&app, "/v1/events", "application/x-ndjson", unfinished).await;
        let mut body = answer.into_body();
        assert!(body.frame().now_or_never().is_none(), "the line has no end");
        assert!(held(&app) >= 300_000, "{}", held(&app));
        drop(body);
        assert_eq!(held(&app), 0);
        let lines = LINE.repeat(3000);
        let answer = post(&app, "/v1/events", "application/x-ndjson", lines).await;
        assert!(text(answer).await.contains("3000]"));
        assert_eq!(held(&app), 0);
    }

    #[tokio::test]
    async fn a_page_counts_until_it_is_sent() {
        let (app, _folder) = app::of_tests().await;
        post(&app, "/v1/streams/s/events", "application/json", EVENT).await;
        for accept in ["application/json", "application/cloudevents-batch+json"] {
            let page = get(&app, accept).await;
            let bytes = app.answers.bytes();
            assert!(bytes > 10, "{accept}");
            let mut body = page.into_body();
            let mut sent = Vec::new();
            while let Some(frame) = body.frame().await {
                sent.push(frame.unwrap().into_data().unwrap());
            }
            drop(body);
            assert_eq!(sent.concat().len(), bytes, "{accept}");
            sent.truncate(1);
            assert_eq!(app.answers.bytes(), bytes, "{accept}");
            drop(sent);
            assert_eq!(app.answers.bytes(), 0, "{accept}");
            let mut full = app.answers.hold();
            full.set(ANSWERS_BYTES_MAX).unwrap();
            let refused = get(&app, accept).await;
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["retry-after"]),
                (503, &"1".parse().unwrap())
            );
            assert!(text(refused).await.contains("\"overloaded\""));
        }
    }

    async fn get(app: &Arc<App>, accept: &str) -> Response {
        let request =
            Request::get("/v1/events").header("host", "localhost").header("accept", accept);
        app::router(app).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_over_the_budget_is_told_to_come_back() {
        let (app, _folder) = app::of_tests().await;
        let doors = [
            ("/v1/streams/s/events", "application/json", EVENT),
            ("/v1/events", "application/x-ndjson", LINE),
        ];
        let mut full = app.bodies.hold();
        full.set(BODIES_BYTES_MAX).unwrap();
        for (path, kind, body) in doors {
            let refused = post(&app, path, kind, body).await;
            assert_eq!(refused.status(), 503, "{path}");
            assert_eq!(refused.headers()["retry-after"], "1", "{path}");
            assert!(text(refused).await.contains("\"overloaded\""), "{path}");
        }
        // A load that is under way ends with the problem as its last line.
        full.set(BODIES_BYTES_MAX - (200 << 10)).unwrap();
        let large = format!("{LINE}{{\"stream\":\"s\",\"data\":\"{}\"}}", "x".repeat(400 << 10));
        let answer = text(post(&app, "/v1/events", "application/x-ndjson", large).await).await;
        assert!(answer.contains("\"overloaded\"") && answer.contains("503"), "{answer}");
        drop(full);
        for (path, kind, body) in doors {
            assert!(post(&app, path, kind, body).await.status().is_success(), "{path}");
        }
    }
}
