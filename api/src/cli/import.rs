//! `kimberlite import`: loads a file through the bulk door of the API, `POST /v1/events`.
//!
//! Every event gets an id that follows from the file and the row, so a row is the same event in every run:
//! running again after any interruption adds what is missing, and nothing else. Rows are sent in order; the
//! first that cannot be an event stops the import, and those before it stay.

mod csv;
mod ids;
mod load;
mod ndjson;
mod template;
mod times;

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use serde::Serialize;

use self::{
    ids::Ids,
    load::{LoadError, Loader},
    template::Template,
    times::Times,
};
use super::{Global, Output, connection::Caller};

/// Load a file of events. Ids follow from the file's SHA-256 and the row, so a second run adds nothing.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file.
    file: PathBuf,
    /// What the file is: `csv` with a header line, or `ndjson` in the form of `POST /v1/events`.
    #[arg(long, value_enum)]
    format: Format,
    /// csv: the character between cells; `\t` for a tab.
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    delimiter: u8,
    /// csv: the stream of a row, with columns in braces: `case-{Case ID}`.
    #[arg(long, value_name = "TEMPLATE", required_if_eq("format", "csv"))]
    stream: Option<Template>,
    /// csv: the event type of a row, with columns in braces: `{Activity}`.
    #[arg(long = "type", value_name = "TEMPLATE", required_if_eq("format", "csv"))]
    event_type: Option<Template>,
    /// csv: the column that says when it happened.
    #[arg(long, value_name = "COLUMN")]
    occurred_at: Option<String>,
    /// csv: how that column is written, as strftime (`%Y/%m/%d %H:%M:%S%.f`); without it, RFC 3339 or ISO 8601.
    #[arg(long, value_name = "FORMAT", requires = "occurred_at")]
    time_format: Option<String>,
    /// csv: the time zone of times that do not carry one, by IANA name. Where clocks are set back, the earlier
    /// of two equal times is meant; where they are set forward, skipped times count on.
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = time_zone)]
    time_zone: TimeZone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Cells and a header line (RFC 4180); an event's data is the row as an object of strings.
    Csv,
    /// One event a line, sent on byte for byte, save that one without an `id` gets one.
    Ndjson,
}

/// Why an import stopped. Rows that were acknowledged before are stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// An option that only means something for CSV.
    #[error("{0} has no meaning for --format ndjson")]
    OnlyCsv(&'static str),
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    File {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    /// An option names a column that the header does not have, or the header is unusable.
    #[error("{}: {source}", file.display())]
    Header {
        file: PathBuf,
        #[source]
        source: csv::HeaderError,
    },
    /// A row that cannot be an event.
    #[error("{}: {source}", file.display())]
    Row {
        file: PathBuf,
        #[source]
        source: RowError,
    },
    /// The server did not take a row, or is not there.
    #[error("{}: {source}", file.display())]
    Load {
        file: PathBuf,
        #[source]
        source: LoadError,
    },
    /// The file is loaded, but that could not be printed.
    #[error("imported, but the summary could not be printed: {0}")]
    Output(#[source] io::Error),
}

impl ImportError {
    /// Whether the arguments themselves are wrong.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::OnlyCsv(_) | Self::Header { .. })
    }
}

/// Where a row stands: rows count from 1 below the header, lines from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    row: u64,
    line: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "row {} (line {})", self.row, self.line)
    }
}

/// A row that cannot be an event, and why.
#[derive(Debug, thiserror::Error)]
#[error("{place}{}: {reason}", column.as_ref().map(|c| format!(", column {c:?}")).unwrap_or_default())]
pub(super) struct RowError {
    place: Place,
    column: Option<String>,
    reason: RowReason,
}

/// What is wrong with a row.
#[derive(Debug, thiserror::Error)]
enum RowReason {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{found} cells under {expected} columns")]
    Cells { expected: u64, found: u64 },
    #[error("not UTF-8")]
    Utf8,
    #[error("{text:?} is no stream name: {source}")]
    Stream { text: String, source: kimberlite_store::words::NameError },
    #[error("{text:?} is no event type: {source}")]
    Type { text: String, source: kimberlite_store::words::NameError },
    #[error("{text:?} is no time: {}", super::with_causes(source))]
    Time { text: String, source: jiff::Error },
    #[error("not an event: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a JSON object")]
    NoObject,
    #[error("the id is null: leave it out or give a UUID")]
    NullId,
}

/// A row as a line of the bulk format.
#[derive(Debug)]
struct Line {
    place: Place,
    stream: String,
    json: Vec<u8>,
}

type Lines<'a> = Box<dyn Iterator<Item = Result<Line, RowError>> + 'a>;

#[derive(Debug, Serialize)]
struct Summary<'a> {
    file: &'a Path,
    events: u64,
    streams: usize,
    seconds: f64,
    /// How many records the log grew by meanwhile, by whomever; absent if the caller may not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_growth: Option<u64>,
}

/// Loads the file and prints what was done.
///
/// # Errors
/// See [`ImportError`].
pub(super) fn run(args: &ImportArgs, global: &Global) -> Result<(), ImportError> {
    if args.format == Format::Ndjson {
        refuse_csv_options(args)?;
    }
    let begun = Instant::now();
    let in_file = |source| ImportError::File { file: args.file.clone(), source };
    let mut file = File::open(&args.file).map_err(in_file)?;
    let bar = progress_bar(file.metadata().map_err(in_file)?.len());
    bar.set_message("reading");
    let ids = Ids::of(bar.wrap_read(&mut file)).map_err(in_file)?;
    file.rewind().map_err(in_file)?;
    bar.reset();
    bar.set_message("loading");
    let loaded = load(args, global, &ids, bar.wrap_read(file));
    bar.finish_and_clear();
    let (events, streams, log_growth) = loaded?;
    let seconds = begun.elapsed().as_secs_f64();
    let summary = Summary { file: &args.file, events, streams, seconds, log_growth };
    print(&summary, global.output).map_err(ImportError::Output)
}

/// Sends all rows; their number, that of their streams, and the growth of the log.
fn load(
    args: &ImportArgs,
    global: &Global,
    ids: &Ids,
    input: impl Read,
) -> Result<(u64, usize, Option<u64>), ImportError> {
    let file = || args.file.clone();
    let loading = |source| ImportError::Load { file: file(), source };
    let lines: Lines<'_> = match (args.format, &args.stream, &args.event_type) {
        (Format::Csv, Some(stream), Some(event_type)) => {
            let times = Times::new(args.time_format.clone(), args.time_zone.clone());
            let at = args.occurred_at.as_deref().map(|column| (column, times));
            let table = csv::Table { delimiter: args.delimiter, stream, event_type, at };
            let lines = table
                .lines(input, ids)
                .map_err(|source| ImportError::Header { file: file(), source })?;
            Box::new(lines)
        }
        _ => Box::new(ndjson::lines(input, ids)),
    };
    let mut loader = Loader::new(Caller::new(global)).map_err(loading)?;
    let before = loader.log_length().map_err(loading)?;
    let (mut events, mut streams) = (0, HashSet::new());
    for line in lines {
        match line {
            Ok(line) => {
                loader.push(&line).map_err(loading)?;
                events += 1;
                streams.insert(line.stream);
            }
            Err(source) => {
                // What came before it is good: it is loaded whatever the size of our requests is.
                loader.flush().map_err(loading)?;
                return Err(ImportError::Row { file: file(), source });
            }
        }
    }
    loader.flush().map_err(loading)?;
    let after = loader.log_length().map_err(loading)?;
    Ok((events, streams.len(), before.zip(after).map(|(before, after)| after - before)))
}

fn refuse_csv_options(args: &ImportArgs) -> Result<(), ImportError> {
    let given = [
        ("--stream", args.stream.is_some()),
        ("--type", args.event_type.is_some()),
        ("--occurred-at", args.occurred_at.is_some()),
        ("--time-format", args.time_format.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => Err(ImportError::OnlyCsv(option)),
        None => Ok(()),
    }
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
            .expect("the template is well-formed");
    ProgressBar::new(bytes).with_style(style)
}

fn print(summary: &Summary<'_>, output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Output::Json => serde_json::to_writer(&mut out, summary)?,
        Output::Table => {
            let Summary { events, streams, seconds, .. } = summary;
            write!(out, "{events} events in {streams} streams, {seconds:.2} s")?;
            match summary.log_growth {
                Some(0) if *events > 0 => write!(out, "; every one was already there")?,
                Some(growth) => write!(out, "; the log grew by {growth} records")?,
                None => {}
            }
        }
    }
    writeln!(out)
}

fn delimiter(text: &str) -> Result<u8, &'static str> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(*byte),
        b"\\t" => Ok(b'\t'),
        _ => Err("one ASCII character that is neither a quote nor a line break"),
    }
}

fn time_zone(name: &str) -> Result<TimeZone, jiff::Error> {
    TimeZone::get(name)
}
