//! `kimberlite tail`: follows events over SSE for as long as it runs.
//!
//! It resumes behind the last id that it was given, so a lost connection costs neither a gap nor a repeat. The
//! first connection has to succeed; later ones are tried again until a server answers.

use std::{
    io::{self, BufWriter, Read, Write},
    thread,
    time::Duration,
};

use clap::Args;
use serde::Deserialize;

use super::{
    Global,
    client::{Client, ClientError},
    events::{Filter, Printer},
    problem::Problem,
    sse::{Decoder, Frame, LineTooLong},
    target::Path,
};

/// Wait before the first attempt to connect again; doubled by each that fails.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 * 1024;

/// Print events and go on as they come: all of them, or those behind `--after`.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// The stream, which need not exist yet; without it, the whole log.
    stream: Option<String>,
    /// Begin behind this position or cursor of the log; `head` waits for what is yet to come.
    #[arg(long, value_name = "POSITION|CURSOR|head")]
    after: Option<String>,
    #[command(flatten)]
    filter: Filter,
}

/// Why following ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum TailError {
    /// The server refused, or was never there.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server ended the stream for good.
    #[error("{0}")]
    Ended(Box<Problem>),
    /// What came is no event stream.
    #[error(transparent)]
    Line(#[from] LineTooLong),
    /// Events could not be printed.
    #[error("events could not be printed: {0}")]
    Output(#[source] io::Error),
}

/// Follows until something final happens.
///
/// # Errors
/// See [`TailError`]; following has no other end.
pub(super) fn run(args: &TailArgs, global: &Global) -> Result<(), TailError> {
    let client = Client::new(global);
    let mut path = Path::events(args.stream.as_deref());
    match args.after.as_deref() {
        // Asked for again after a lost connection, `head` would be another place: it is settled once.
        Some("head") => path.push_some("after", head(&client)?.as_deref()),
        after => path.push_some("after", after),
    }
    args.filter.apply(&mut path);
    let out = BufWriter::new(io::stdout().lock());
    let mut follower =
        Follower { printer: Printer::new(out, global.output), last_id: String::new() };
    let mut body = client.follow(path.as_str(), None)?;
    let mut backoff = BACKOFF_MIN;
    loop {
        if follower.print_all(&mut body.body_mut().as_reader())? {
            backoff = BACKOFF_MIN;
        }
        body = loop {
            thread::sleep(backoff);
            let last_id = Some(follower.last_id.as_str()).filter(|id| !id.is_empty());
            match client.follow(path.as_str(), last_id) {
                Ok(body) => break body,
                Err(error) => {
                    let Some(wait) = again_after(&error) else { return Err(error.into()) };
                    eprintln!("{}; trying again", first_line(&error));
                    backoff = (backoff * 2).max(wait).min(BACKOFF_MAX);
                }
            }
        };
    }
}

/// The position of the last event; `None` in an empty log.
fn head(client: &Client) -> Result<Option<String>, ClientError> {
    #[derive(Deserialize)]
    struct Page {
        head: Option<u64>,
    }
    let mut path = Path::events(None);
    path.push("after", "head");
    path.push("limit", "1");
    let answer = client.get(path.as_str())?;
    Ok(client.parse::<Page>(&answer.body)?.head.map(|head| head.to_string()))
}

/// How long to wait at least before asking again, if that makes sense at all.
fn again_after(error: &ClientError) -> Option<Duration> {
    match error {
        ClientError::Unreachable { .. } => Some(Duration::ZERO),
        ClientError::Refused(refusal) if refusal.is_retryable() => {
            Some(refusal.retry_after().unwrap_or_default())
        }
        ClientError::Refused(_) | ClientError::Body { .. } => None,
    }
}

fn first_line(error: &ClientError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[derive(Debug)]
struct Follower<W> {
    printer: Printer<W>,
    /// The last id that the server gave; empty before the first.
    last_id: String,
}

impl<W: Write> Follower<W> {
    /// Prints until the connection ends, in whatever way; true if anything came.
    fn print_all(&mut self, body: &mut impl Read) -> Result<bool, TailError> {
        let mut decoder = Decoder::default();
        let mut frame = Frame::default();
        let mut bytes = vec![0; READ_BYTES];
        let mut came = false;
        while let Ok(n @ 1..) = body.read(&mut bytes) {
            decoder.push(&bytes[..n])?;
            while decoder.next(&mut frame) {
                came = true;
                if frame.event == "draining" {
                    self.printer.flush().map_err(TailError::Output)?;
                    return Ok(true);
                }
                self.take(&frame)?;
            }
            self.printer.flush().map_err(TailError::Output)?;
        }
        Ok(came)
    }

    fn take(&mut self, frame: &Frame) -> Result<(), TailError> {
        match frame.event.as_str() {
            "event" => {
                let json = String::from_utf8_lossy(&frame.data);
                self.printer.print(&json).map_err(TailError::Output)?;
            }
            "error" => match serde_json::from_slice::<Problem>(&frame.data) {
                Ok(problem) if problem.is_retryable() => {}
                Ok(problem) => return Err(TailError::Ended(Box::new(problem))),
                Err(_) => {}
            },
            _ => {}
        }
        // Only behind the printing: an id stands for everything up to it.
        if !frame.id.is_empty() {
            self.last_id.clone_from(&frame.id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Output, *};

    fn follow(stream: &str) -> (Result<bool, TailError>, String, String) {
        let mut out = Vec::new();
        let mut follower =
            Follower { printer: Printer::new(&mut out, Output::Json), last_id: String::new() };
        let ended = follower.print_all(&mut stream.as_bytes());
        let last_id = follower.last_id;
        (ended, String::from_utf8(out).unwrap(), last_id)
    }

    #[test]
    fn only_whole_events_are_printed_and_every_id_counts() {
        let (ended, out, last_id) = follow(
            "event: event\nid: 0.aa\ndata: {\"position\":0}\n\nevent: caught-up\nid: 0.aa\ndata: {}\n\n\
             event: progress\nid: 9.bb\ndata: {}\n\nevent: event\nid: 10.cc\ndata: {\"posi",
        );
        assert!(ended.unwrap());
        assert_eq!(out, "{\"position\":0}\n");
        assert_eq!(last_id, "9.bb");
    }

    #[test]
    fn final_problem_ends_following_and_a_passing_one_does_not() {
        let (ended, ..) =
            follow("event: error\ndata: {\"title\":\"Gone\",\"retryable\":false}\n\n");
        assert!(matches!(ended, Err(TailError::Ended(_))));
        let (ended, ..) = follow("event: error\ndata: {\"title\":\"Busy\",\"retryable\":true}\n\n");
        assert!(ended.unwrap());
    }
}
