//! `bench read`: connections that page through the whole log, each from its start, again and again.
//!
//! Pages are counted, not parsed, after the first of each connection has shown that counting is right: a parser
//! would take more of a shared machine than the server that it measures.

use clap::Args;
use hyper::{Method, header::ACCEPT};
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{task::JoinSet, time::Instant};

use super::{
    super::connection::{Caller, Connection, read_all},
    BenchError, Times, Window,
    report::{Report, Tally},
};

/// Page through the whole log as fast as pages come.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct ReadBench {
    /// Connections, each with one request in flight.
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Events of one page.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=1000))]
    page: u64,
}

/// Runs it.
///
/// # Errors
/// See [`BenchError`].
pub(super) async fn run(
    args: ReadBench,
    caller: Caller,
    times: Times,
) -> Result<Report, BenchError> {
    let mut readers = Vec::new();
    for _ in 0..args.connections {
        readers.push(caller.connect().await?);
    }
    let window = times.start();
    let mut tasks: JoinSet<_> =
        readers.into_iter().map(|reader| work(reader, args.page, window)).collect();
    let mut all = Tally::new();
    while let Some(tally) = tasks.join_next().await {
        all.add(&tally.expect("a reader does not panic")?);
    }
    Ok(Report {
        connections: Some(args.connections),
        page: Some(args.page),
        requests: Some(all.requests),
        ..Report::new("read", &all, times.measured)
    })
}

async fn work(mut connection: Connection, page: u64, window: Window) -> Result<Tally, BenchError> {
    let first = format!("/v1/events?limit={page}");
    let mut path = first.clone();
    let mut tally = Tally::new();
    let mut is_checked = false;
    let mut begun = Instant::now();
    while begun < window.end {
        let request = connection.request(Method::GET, &path).header(ACCEPT, "application/json");
        let body = read_all(connection.send(request, "").await?.body_mut()).await?;
        let ended = Instant::now();
        let counted = Page::count(&body)?;
        if !is_checked {
            counted.check(&body)?;
            is_checked = true;
        }
        if window.holds(ended) {
            tally.latencies.record(ended - begun);
            tally.requests += 1;
            tally.events += counted.events;
            tally.bytes += body.len() as u64;
        }
        path = counted.next.unwrap_or_else(|| first.clone());
        begun = ended;
    }
    Ok(tally)
}

/// What counting tells about a page.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    events: u64,
    next: Option<String>,
}

impl Page {
    fn count(body: &[u8]) -> Result<Self, BenchError> {
        let unknown = BenchError::Answer("a page has no member `next` behind its events");
        let name = b"\"next\":";
        let Some(at) = memmem::rfind(body, name) else { return Err(unknown) };
        let value = body[at + name.len()..].trim_ascii_start();
        let next = serde_json::Deserializer::from_slice(value).into_iter().next();
        let Some(Ok(next)) = next else { return Err(unknown) };
        let cursors = memmem::find_iter(body, b"\"cursor\":\"")
            .filter(|at| is_cursor(&body[at + b"\"cursor\":\"".len()..]));
        Ok(Self { events: cursors.count() as u64, next })
    }

    /// Parses the page to see whether counting was right.
    fn check(&self, body: &[u8]) -> Result<(), BenchError> {
        #[derive(Deserialize)]
        struct Parsed<'a> {
            #[serde(borrow)]
            events: Vec<&'a RawValue>,
            next: Option<String>,
        }
        let parsed: Parsed<'_> = serde_json::from_slice(body)
            .map_err(|_| BenchError::Answer("a read was not answered with a page"))?;
        if parsed.events.len() as u64 == self.events && parsed.next == self.next {
            return Ok(());
        }
        Err(BenchError::Answer("the events of a page cannot be counted by their cursors"))
    }
}

/// Whether a text starts with a cursor, `<position>.<8 hex digits>`, and its closing quote.
fn is_cursor(text: &[u8]) -> bool {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0
        && text.get(digits) == Some(&b'.')
        && text.get(digits + 9) == Some(&b'"')
        && text[digits + 1..digits + 9].iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_their_cursors() {
        let page = br#"{"events":[{"position":1,"cursor":"1.00ab12cd","data":{"cursor":"x"}},
            {"position":12,"cursor":"12.00ab12cd","data":{"next":"\"next\":1"}}],
            "next": "/v1/events?after=12&limit=2","head":12}"#;
        let counted = Page::count(page).unwrap();
        let next = Some("/v1/events?after=12&limit=2".to_owned());
        assert_eq!(counted, Page { events: 2, next });
        counted.check(page).unwrap();

        let empty = br#"{"events":[],"next":null,"head":null}"#;
        assert_eq!(Page::count(empty).unwrap(), Page { events: 0, next: None });
        assert!(Page::count(b"{}").is_err());
    }

    #[test]
    fn page_that_cannot_be_counted_is_not_counted() {
        let nested =
            br#"{"events":[{"cursor":"1.00ab12cd","data":{"cursor":"1.00ab12cd"}}],"next":null}"#;
        assert!(Page::count(nested).unwrap().check(nested).is_err());
    }
}
