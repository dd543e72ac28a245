//! `kimberlite query`: asks in SQL and prints the rows.

use std::{
    collections::HashSet,
    io::{self, BufWriter, Read as _, Write},
};

use clap::Args;
use comfy_table::{Table, presets};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Global, Output,
    client::{Client, ClientError},
};

/// Ask in SQL and print all rows: a JSON object a line, or tables.
#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    /// Statements, with `;` between them; `-` reads them from standard input.
    sql: String,
    /// Values for `$1`, `$2` and so on, as JSON; what is no JSON is a text.
    #[arg(allow_negative_numbers = true)]
    params: Vec<String>,
    /// What tables without a version of their own are of: the state behind a record, or as of a time (RFC 3339).
    #[arg(long, value_name = "POSITION|TIME")]
    as_of: Option<String>,
    /// Milliseconds that the answer may take, at most what the server allows.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
}

/// Why not all rows were printed.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryError {
    /// The server refused, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The statements could not be read.
    #[error("standard input could not be read: {0}")]
    Input(#[source] io::Error),
    /// An object cannot hold the row.
    #[error("two columns are called \"{0}\": name them with AS, or use --output table")]
    Twice(String),
    /// The rows could not be printed.
    #[error("the rows could not be printed: {0}")]
    Output(#[source] io::Error),
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) sql: &'a str,
    pub(super) params: Vec<Value>,
    pub(super) as_of: Option<&'a str>,
    pub(super) timeout_ms: Option<u64>,
}

/// Rows of one statement; of a request, those of its last one.
#[derive(Deserialize)]
struct Page<'a> {
    columns: Vec<Column>,
    #[serde(borrow)]
    rows: Vec<Vec<&'a RawValue>>,
    row_count: usize,
    next: Option<String>,
    position: Option<u64>,
    /// Where the request has several statements.
    #[serde(borrow, default)]
    results: Vec<Page<'a>>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
}

/// Asks and prints.
///
/// # Errors
/// See [`QueryError`].
pub(super) fn run(args: &QueryArgs, global: &Global) -> Result<(), QueryError> {
    let mut sql = args.sql.clone();
    if sql == "-" {
        sql.clear();
        io::stdin().read_to_string(&mut sql).map_err(QueryError::Input)?;
    }
    let param =
        |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()));
    let question = Question {
        sql: &sql,
        params: args.params.iter().map(param).collect(),
        as_of: args.as_of.as_deref(),
        timeout_ms: args.timeout_ms,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    ask(&Client::new(global), &question, global.output, &mut out)?;
    out.flush().map_err(QueryError::Output)
}

/// Asks and prints all rows of each statement.
///
/// # Errors
/// All but `Input`.
pub(super) fn ask(
    client: &Client,
    question: &Question<'_>,
    output: Output,
    out: &mut impl Write,
) -> Result<(), QueryError> {
    let body = client.post("/v1/query", &[], question.body().to_string().as_bytes())?.body;
    let mut answer: Page<'_> = client.parse(&body)?;
    let position = answer.position;
    let several = std::mem::take(&mut answer.results);
    let pages = if several.is_empty() { vec![answer] } else { several };
    for page in pages {
        let mut next = page.next.clone();
        let mut count = print(&page, output, out)?;
        while let Some(path) = next {
            let body = client.get(&path)?.body;
            let page: Page<'_> = client.parse(&body)?;
            count += print(&page, output, out)?;
            next = page.next;
        }
        if output == Output::Table {
            // What has no columns says how many rows it changed.
            let (count, changed) = if page.columns.is_empty() && count == 0 {
                (page.row_count, " changed")
            } else {
                (count, "")
            };
            let rows = if count == 1 { "row" } else { "rows" };
            let position = position.map_or("an empty log".into(), |p| format!("position {p}"));
            writeln!(out, "({count} {rows}{changed}, as of {position})")
                .map_err(QueryError::Output)?;
        }
    }
    Ok(())
}

impl Question<'_> {
    fn body(&self) -> Value {
        let mut body = json!({"sql": self.sql, "params": self.params});
        if let Some(as_of) = self.as_of {
            body["as_of"] = match as_of.parse::<u64>() {
                Ok(position) => json!({"position": position}),
                Err(_) => json!({"time": as_of}),
            };
        }
        if let Some(timeout) = self.timeout_ms {
            body["timeout_ms"] = json!(timeout);
        }
        body
    }
}

/// Prints a page and says how many rows it had.
fn print(page: &Page<'_>, output: Output, out: &mut impl Write) -> Result<usize, QueryError> {
    let printed = match output {
        Output::Json => {
            let mut names = HashSet::new();
            if let Some(twice) = page.columns.iter().find(|c| !names.insert(&c.name)) {
                return Err(QueryError::Twice(twice.name.clone()));
            }
            page.rows.iter().try_for_each(|row| line(&page.columns, row, out))
        }
        Output::Table if page.columns.is_empty() => Ok(()),
        Output::Table => writeln!(out, "{}", table(page)),
    };
    printed.map_err(QueryError::Output)?;
    Ok(page.rows.len())
}

/// A row as an object. Values stand as the server sent them, but for line breaks between their tokens.
fn line(columns: &[Column], row: &[&RawValue], out: &mut impl Write) -> io::Result<()> {
    let mut text = String::from("{");
    for (n, (column, value)) in columns.iter().zip(row).enumerate() {
        if n > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(column.name.as_str()).to_string());
        text.push(':');
        text.push_str(&value.get().replace(['\n', '\r'], " "));
    }
    writeln!(out, "{text}}}")
}

fn table(page: &Page<'_>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(page.columns.iter().map(|column| column.name.clone()));
    for row in &page.rows {
        table.add_row(row.iter().map(|value| cell(value)));
    }
    table
}

/// A value for people: texts without quotes, nothing for NULL. A terminal is not told what to do by what somebody stored.
fn cell(value: &RawValue) -> String {
    let text = match serde_json::from_str(value.get()) {
        Ok(Value::String(text)) => text,
        Ok(Value::Null) => String::new(),
        _ => value.get().to_owned(),
    };
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_position_or_a_time() {
        let as_of = |text| {
            let question =
                Question { sql: "", params: Vec::new(), as_of: Some(text), timeout_ms: None };
            question.body()["as_of"].clone()
        };
        assert_eq!(as_of("7"), json!({"position": 7}));
        assert_eq!(as_of("2026-01-31T12:00:00Z"), json!({"time": "2026-01-31T12:00:00Z"}));
    }

    #[test]
    fn a_cell_steers_no_terminal() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        assert_eq!(cell(&raw(r#""a\u001b[2Jb""#)), "a\u{fffd}[2Jb");
        assert_eq!(cell(&raw("null")), "");
        assert_eq!(cell(&raw(r#"{"a":1}"#)), r#"{"a":1}"#);
    }
}
