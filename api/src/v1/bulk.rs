//! `POST /v1/events`: the bulk door. Lines in, an answer per durable batch out, at the same time.

use std::{convert::Infallible, mem, pin::Pin, sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, stream};
use kimberlite_store::append::{BulkOutcome, Line};
use memchr::memchr;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    conditions::{self, Refused},
    new_event::{self, LineBody, Place},
    read::with_type,
};
use crate::{
    app::{App, TraceId},
    body::{self, Content, Held, Inflate},
    json,
    limits::{BULK_BATCH_BYTES, BULK_BATCH_LINES_MAX, BULK_LINE_BYTES_MAX, INFLATE_STEP_BYTES},
    problem::{Code, Problem, ProblemBody},
    query::Query,
};

/// One line of the answer: a durable batch, or the problem of the first refused line.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = BulkAnswer)]
struct AnswerLine<'a> {
    /// First and last line (from 1) that this is about.
    #[schema(min_items = 2, max_items = 2)]
    lines: [u64; 2],
    /// Position of the first line's event.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_position: Option<u64>,
    /// Position of the last line's event.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_position: Option<u64>,
    /// Why the line was refused. Nothing behind it was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProblemBody>)]
    problem: Option<&'a RawValue>,
}

/// Load many events
///
/// Each line is an event with its stream, and stands or falls by itself. The answer streams while
/// lines arrive: a line per durable batch, and, where a line is refused, its problem as the last
/// one; nothing behind a refused line is applied. Sending the same lines again is safe where they
/// carry ids. Empty lines are skipped.
#[utoipa::path(
    post, path = "/v1/events", tag = "append", operation_id = "append_lines",
    params(("recreate" = Option<bool>, Query, description = "Bring streams back that were deleted")),
    request_body(
        content = LineBody, content_type = "application/x-ndjson",
        example = json!("{\"stream\":\"order-1\",\"type\":\"order-placed\"}\n{\"stream\":\"order-2\",\"type\":\"order-placed\"}\n")
    ),
    responses(
        (status = 200, description = "A line per durable batch", content_type = "application/x-ndjson", body = AnswerLine),
    )
)]
pub(crate) async fn append_lines(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let trace = *request.extensions().get::<TraceId>().expect("observe sets it");
    let (parts, body) = request.into_parts();
    let mut query = Query::parse(parts.uri.query())?;
    let recreate = query.flag("recreate")?;
    query.finish()?;
    conditions::refuse(&parts.headers, Refused::KeyAndConditions)?;
    Content::of(&parts.headers, &[Content::Ndjson])?;
    // Where there is no room for a beginning, that is an answer of its own.
    let mut held = app.bodies.hold();
    held.set(INFLATE_STEP_BYTES)?;
    let lines = Lines {
        app: Arc::clone(&app),
        body,
        inflate: Some(Inflate::of(&parts.headers)?),
        input: Bytes::new(),
        buffer: BytesMut::new(),
        searched: 0,
        number: 0,
        handed_out: 0,
        held,
        recreate,
        refused: None,
        ended: false,
    };
    let bulk = Bulk { app, trace, lines, next: Lot::default(), writing: None, ended: false };
    let answer = stream::unfold(bulk, |mut bulk| async move {
        let line = bulk.step().await?;
        Some((Ok::<_, Infallible>(line), bulk))
    });
    Ok(with_type(Body::from_stream(answer), "application/x-ndjson"))
}

/// Lines that are written together.
#[derive(Default)]
struct Lot {
    lines: Vec<Line>,
    numbers: Vec<u64>,
    bytes: usize,
}

impl Lot {
    fn full(&self) -> bool {
        self.lines.len() >= BULK_BATCH_LINES_MAX || self.bytes >= BULK_BATCH_BYTES
    }
}

/// A lot on its way to the disk.
struct Writing {
    numbers: Vec<u64>,
    bytes: usize,
    started: Instant,
    outcome: Pin<Box<dyn Future<Output = BulkOutcome> + Send>>,
}

struct Bulk {
    app: Arc<App>,
    trace: TraceId,
    lines: Lines,
    /// Collected while the lot before it is written.
    next: Lot,
    writing: Option<Writing>,
    ended: bool,
}

impl Bulk {
    /// The next line of the answer.
    async fn step(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                self.lines.drain().await;
                return None;
            }
            if let Some(mut writing) = self.writing.take() {
                let outcome = self.collect_during(&mut writing).await;
                return Some(self.written(&writing, outcome));
            }
            if self.next.lines.is_empty() {
                self.lines.fill(&mut self.next, 1).await;
            }
            // What has arrived by now goes along.
            self.lines.fill(&mut self.next, usize::MAX).now_or_never();
            if !self.next.lines.is_empty() {
                self.write();
                continue;
            }
            self.ended = true;
            if let Some((number, problem)) = self.lines.refused.take() {
                return Some(self.refusal(number, &problem));
            }
        }
    }

    fn write(&mut self) {
        let lot = mem::take(&mut self.next);
        let app = Arc::clone(&self.app);
        let outcome =
            async move { app.store.append_lines(&app.tenant, app.actor.clone(), lot.lines).await };
        self.writing = Some(Writing {
            numbers: lot.numbers,
            bytes: lot.bytes,
            started: Instant::now(),
            outcome: Box::pin(outcome),
        });
    }

    /// Waits for the disk, and reads further lines meanwhile.
    async fn collect_during(&mut self, writing: &mut Writing) -> BulkOutcome {
        loop {
            tokio::select! {
                outcome = &mut writing.outcome => return outcome,
                () = self.lines.fill(&mut self.next, usize::MAX), if !self.lines.done() && !self.next.full() => {}
            }
        }
    }

    fn written(&mut self, writing: &Writing, outcome: BulkOutcome) -> Bytes {
        let done = outcome.receipts.len();
        self.lines.handed_out -= writing.bytes;
        self.app.metrics.appended(done, writing.started.elapsed());
        let mut answer = Vec::new();
        if let (Some(first), Some(last)) = (outcome.receipts.first(), outcome.receipts.last()) {
            let lines = [writing.numbers[0], writing.numbers[done - 1]];
            let (first, last) = (first.first_position.get(), last.last_position.get());
            push_line(&mut answer, lines, Some((first, last)), None);
        }
        if let Some(error) = outcome.refused {
            self.ended = true;
            let number =
                writing.numbers.get(done).or(writing.numbers.last()).copied().unwrap_or_default();
            let problem = conditions::of_one_stream(error, Some("/expected"));
            answer.extend_from_slice(&self.refusal(number, &problem));
        }
        answer.into()
    }

    fn refusal(&self, number: u64, problem: &Problem) -> Bytes {
        if let Some(cause) = problem.cause() {
            tracing::error!(trace = %self.trace, cause, "a bulk load failed");
        }
        let json = String::from_utf8(problem.json(self.trace)).expect("JSON is UTF-8");
        let raw = RawValue::from_string(json).expect("a problem is JSON");
        let mut answer = Vec::new();
        push_line(&mut answer, [number, number], None, Some(&raw));
        answer.into()
    }
}

fn push_line(
    to: &mut Vec<u8>,
    lines: [u64; 2],
    positions: Option<(u64, u64)>,
    problem: Option<&RawValue>,
) {
    let (first_position, last_position) = positions.unzip();
    let line = AnswerLine { lines, first_position, last_position, problem };
    serde_json::to_writer(&mut *to, &line).expect("plain fields serialise");
    to.push(b'\n');
}

/// The body, taken apart into lines. All of its state survives a dropped `fill`.
struct Lines {
    app: Arc<App>,
    body: Body,
    /// `None` once the end of the body was reached.
    inflate: Option<Inflate>,
    input: Bytes,
    buffer: BytesMut,
    /// So much of the buffer holds no line break.
    searched: usize,
    number: u64,
    /// Bytes of lines that are being collected or written.
    handed_out: usize,
    /// Counts those, and the buffer.
    held: Held,
    recreate: bool,
    /// The line that ended the load, before it reached the store.
    refused: Option<(u64, Problem)>,
    ended: bool,
}

impl Lines {
    fn done(&self) -> bool {
        self.ended || self.refused.is_some()
    }

    /// Adds up to `count` lines, until the lot is full or the lines end.
    async fn fill(&mut self, lot: &mut Lot, count: usize) {
        let mut left = count;
        while left > 0 && !lot.full() && !self.done() {
            let line = match self.line().await {
                Ok(Some(line)) => line,
                Ok(None) => {
                    self.ended = true;
                    return;
                }
                Err(problem) => {
                    self.refused = Some((self.number + 1, problem));
                    return;
                }
            };
            self.number += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match parse(&line, self.recreate) {
                Ok(append) => {
                    lot.bytes += line.len();
                    self.handed_out += line.len();
                    lot.lines.push(append);
                    lot.numbers.push(self.number);
                    left -= 1;
                }
                Err(problem) => self.refused = Some((self.number, problem)),
            }
        }
    }

    /// The next line without its break; `None` at the end.
    async fn line(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            if let Some(at) = memchr(b'\n', &self.buffer[self.searched..]) {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > BULK_LINE_BYTES_MAX {
                let detail = format!("A line has at most {BULK_LINE_BYTES_MAX} bytes.");
                return Err(Problem::new(Code::RequestTooLarge, detail));
            }
            if !self.more().await? {
                self.searched = 0;
                let rest = mem::take(&mut self.buffer).freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
        }
    }

    /// Adds some of the body to the buffer; false at its end.
    async fn more(&mut self) -> Result<bool, Problem> {
        self.held.set(self.buffer.len() + self.handed_out)?;
        let Some(inflate) = &mut self.inflate else { return Ok(false) };
        let before = self.buffer.len();
        if !self.input.is_empty() {
            inflate.step(&mut self.input, &mut self.buffer)?;
            return Ok(true);
        }
        // Without input left, a step yields what decompression still holds.
        if inflate.step(&mut self.input, &mut self.buffer)? || self.buffer.len() > before {
            return Ok(true);
        }
        let timeout = self.app.config.body_timeout;
        let next = tokio::time::timeout(timeout, body::next_data(&mut self.body)).await;
        if let Some(input) = next.unwrap_or_else(|_| Err(body::late()))? {
            self.input = input;
            return Ok(true);
        }
        let inflate = self.inflate.take().expect("checked above");
        let rest = inflate.finish(BytesMut::new())?;
        self.buffer.extend_from_slice(&rest);
        // What was left over may hold lines, or be the last one.
        Ok(!rest.is_empty())
    }

    /// Takes what the caller still sends, so that it gets to read the answer; within bounds.
    async fn drain(&mut self) {
        if self.inflate.take().is_some() {
            body::drain(&self.app, &mut self.body).await;
        }
    }
}

fn parse(line: &Bytes, recreate: bool) -> Result<Line, Problem> {
    let parsed: LineBody<'_> = json::parse(line)?;
    let (stream, expected, event) = parsed.split();
    Ok(Line {
        stream: new_event::stream(&stream.0, "/stream")?,
        expected: expected.map(Into::into).unwrap_or_default(),
        recreate,
        events: vec![new_event::event(event, Place::Whole, line)?],
    })
}
