//! Which events `read` and `tail` ask for, and how they print them.

use std::io::{self, Write};

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Output, target::Path};

/// Filters that `read` and `tail` share. Several `--type` mean any of them, several `--tag` all of them.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only events of this type; may be given several times.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events with this tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only streams whose names start with this.
    #[arg(long, value_name = "PREFIX", conflicts_with = "stream")]
    stream_prefix: Option<String>,
    /// Only events that were committed at this time (RFC 3339) or later.
    #[arg(long, value_name = "TIME")]
    from_time: Option<String>,
    /// Only events that happened (`occurred_at`) at this time or later.
    #[arg(long, value_name = "TIME")]
    occurred_from: Option<String>,
    /// Only events that happened (`occurred_at`) before this time.
    #[arg(long, value_name = "TIME")]
    occurred_to: Option<String>,
}

impl Filter {
    /// Adds the filters to a request.
    pub(super) fn apply(&self, path: &mut Path) {
        for value in &self.types {
            path.push("type", value);
        }
        for value in &self.tags {
            path.push("tag", value);
        }
        path.push_some("stream_prefix", self.stream_prefix.as_deref());
        path.push_some("from_time", self.from_time.as_deref());
        path.push_some("occurred_from", self.occurred_from.as_deref());
        path.push_some("occurred_to", self.occurred_to.as_deref());
    }
}

/// Prints events one a line: as they are, or in columns.
#[derive(Debug)]
pub(super) struct Printer<W> {
    out: W,
    output: Output,
    has_header: bool,
}

#[derive(Deserialize)]
struct Columns<'a> {
    position: u64,
    time: &'a str,
    stream: &'a str,
    version: u64,
    r#type: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<W: Write> Printer<W> {
    /// Prints to `out`.
    pub(super) fn new(out: W, output: Output) -> Self {
        Self { out, output, has_header: false }
    }

    /// Prints one event, given as its JSON.
    ///
    /// # Errors
    /// Those of the writer; `InvalidData` for JSON that is not an event (columns only).
    pub(super) fn print(&mut self, json: &str) -> io::Result<()> {
        match self.output {
            Output::Json => self.print_line(json),
            Output::Table => self.print_columns(json),
        }
    }

    /// Hands everything printed so far to the reader.
    ///
    /// # Errors
    /// Those of the writer.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Raw line breaks are legal in JSON as white space alone, so a space says the same on one line.
    fn print_line(&mut self, json: &str) -> io::Result<()> {
        let mut parts = json.split(['\r', '\n']);
        self.out.write_all(parts.next().unwrap_or_default().as_bytes())?;
        for part in parts {
            self.out.write_all(b" ")?;
            self.out.write_all(part.as_bytes())?;
        }
        self.out.write_all(b"\n")
    }

    /// Columns have fixed widths and are never cut: rows are printed as they come, not collected first.
    fn print_columns(&mut self, json: &str) -> io::Result<()> {
        let event: Columns<'_> = serde_json::from_str(json)?;
        if !self.has_header {
            self.has_header = true;
            writeln!(
                self.out,
                "{:>9}  {:27}  {:24} {:>7}  {:24}  DATA",
                "POSITION", "TIME", "STREAM", "VERSION", "TYPE"
            )?;
        }
        let Columns { position, time, stream, version, r#type, data } = event;
        write!(self.out, "{position:>9}  {time:27}  {stream:24} {version:>7}  {type:24}  ")?;
        self.print_line(data.map_or("-", RawValue::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "{\"position\":7,\"cursor\":\"7.00ab12cd\",\"stream\":\"a/b\",\"version\":2,\
        \"type\":\"two\\\"quotes\",\"time\":\"2026-11-22T10:00:00.000000Z\",\"data\":{\"n\":\r\n 1e400}}";

    fn printed(output: Output) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, output);
        printer.print(EVENT).unwrap();
        printer.print(EVENT).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_one_event_a_line_with_its_bytes() {
        let line = format!("{}\n", EVENT.replace(['\r', '\n'], " "));
        assert_eq!(printed(Output::Json), line.repeat(2));
    }

    #[test]
    fn columns_have_one_header_and_whole_data() {
        let text = printed(Output::Table);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("POSITION") && lines[1].contains("two\"quotes"));
        assert!(lines[1].ends_with("{\"n\":   1e400}"));
    }
}
