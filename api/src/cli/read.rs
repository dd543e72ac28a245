//! `kimberlite read`: pages through a stream or the whole log, up to its head.

use std::io::{self, BufWriter};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Global,
    client::{Client, ClientError},
    events::{Filter, Printer},
    target::Path,
};

/// Events of one page, the most that a server gives.
const PAGE_EVENTS: u64 = 1000;

/// Print events, oldest first; without `--limit`, all of them.
#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// The stream; without it, the whole log.
    stream: Option<String>,
    /// The stream's version to begin with.
    #[arg(long, value_name = "VERSION", requires = "stream")]
    from: Option<u64>,
    /// Begin behind this position or cursor of the log.
    #[arg(long, value_name = "POSITION|CURSOR|head", conflicts_with = "from")]
    after: Option<String>,
    /// Oldest or newest first.
    #[arg(long, value_enum, default_value_t = Direction::Forward)]
    direction: Direction,
    /// Most events to print.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// Why not everything was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The server did not answer with events.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The events could not be printed.
    #[error("events could not be printed: {0}")]
    Output(#[source] io::Error),
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    next: Option<String>,
}

/// Prints the events.
///
/// # Errors
/// See [`ReadError`].
pub(super) fn run(args: &ReadArgs, global: &Global) -> Result<(), ReadError> {
    let client = Client::new(global);
    let mut printer = Printer::new(BufWriter::new(io::stdout().lock()), global.output);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut next = Some(first_page(args));
    while let Some(path) = next.take_if(|_| left > 0) {
        let answer = client.get(&path)?;
        let page: Page<'_> = client.parse(&answer.body)?;
        for event in page.events {
            if left == 0 {
                break;
            }
            left -= 1;
            printer.print(event.get()).map_err(ReadError::Output)?;
        }
        next = page.next;
    }
    printer.flush().map_err(ReadError::Output)
}

fn first_page(args: &ReadArgs) -> String {
    let mut path = Path::events(args.stream.as_deref());
    if let Some(from) = args.from {
        path.push("from", &from.to_string());
    }
    path.push_some("after", args.after.as_deref());
    if args.direction == Direction::Backward {
        path.push("direction", "backward");
    }
    path.push("limit", &args.limit.unwrap_or(PAGE_EVENTS).min(PAGE_EVENTS).to_string());
    args.filter.apply(&mut path);
    path.as_str().to_owned()
}
