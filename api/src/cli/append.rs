//! `kimberlite append`: one event from the arguments, sent with its JSON byte for byte.

use std::{
    fs,
    io::{self, Read, Write},
    str::FromStr,
};

use clap::Args;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::{
    Global, Output,
    client::{Answer, Client, ClientError},
    target::Path,
};

/// Append one event.
#[derive(Debug, Args)]
pub(super) struct AppendArgs {
    /// The stream; it begins with its first event.
    stream: String,
    /// The event's type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: String,
    /// The event's data: JSON, `@FILE`, or `-` for standard input.
    #[arg(long, value_name = "JSON|@FILE|-")]
    data: Option<String>,
    /// The event's metadata, a JSON object: JSON, `@FILE`, or `-` for standard input.
    #[arg(long, value_name = "JSON|@FILE|-")]
    metadata: Option<String>,
    /// The event's id, a UUID; appending the same event under the same id again changes nothing.
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// When it happened, as RFC 3339.
    #[arg(long, value_name = "TIME")]
    occurred_at: Option<String>,
    /// A tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// What the stream must be: `any`, `none` (it has no events), `exists`, or its last version.
    #[arg(long, value_name = "any|none|exists|VERSION", default_value = "any")]
    expected: Expected,
    /// Makes a repetition of this very command safe, also without an id.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    /// The text behind an option is not JSON.
    #[error("{option} is not JSON: {source}\n  A text needs its quotes: {option} '\"text\"'.")]
    Json {
        option: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// The text behind an option could not be read.
    #[error("{option} cannot be read from {place}: {source}")]
    Input {
        option: &'static str,
        place: String,
        #[source]
        source: io::Error,
    },
    /// Standard input can only be read once.
    #[error("only one of --data and --metadata can be read from standard input")]
    OneInput,
    /// The server did not take it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The receipt could not be printed; the event is appended.
    #[error("appended, but the receipt could not be printed: {0}")]
    Output(#[source] io::Error),
}

impl AppendError {
    /// Whether the arguments themselves are wrong.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::Json { .. } | Self::Input { .. } | Self::OneInput)
    }
}

/// What a stream must be for an append to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Any,
    None,
    Exists,
    Version(u64),
}

impl FromStr for Expected {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "any" => Ok(Self::Any),
            "none" => Ok(Self::None),
            "exists" => Ok(Self::Exists),
            _ => text.parse().map(Self::Version).map_err(|_| "any, none, exists or a version"),
        }
    }
}

impl Serialize for Expected {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::None => serializer.serialize_str("none"),
            Self::Exists => serializer.serialize_str("exists"),
            Self::Version(version) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("version", version)?;
                map.end()
            }
        }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    events: [Event<'a>; 1],
    expected: Expected,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [String],
}

#[derive(Deserialize)]
struct Receipt {
    stream: String,
    last_version: u64,
    last_position: u64,
    time: String,
    hash: String,
}

/// Appends the event and prints the receipt.
///
/// # Errors
/// See [`AppendError`].
pub(super) fn run(args: &AppendArgs, global: &Global) -> Result<(), AppendError> {
    if args.data.as_deref() == Some("-") && args.metadata.as_deref() == Some("-") {
        return Err(AppendError::OneInput);
    }
    let event = Event {
        r#type: &args.event_type,
        data: json("--data", args.data.as_deref())?,
        metadata: json("--metadata", args.metadata.as_deref())?,
        id: args.id.as_deref(),
        occurred_at: args.occurred_at.as_deref(),
        tags: &args.tags,
    };
    let body = serde_json::to_vec(&Request { events: [event], expected: args.expected })
        .expect("strings and checked JSON always serialise");
    let headers: Vec<_> =
        args.idempotency_key.iter().map(|key| ("idempotency-key", key.as_str())).collect();
    let client = Client::new(global);
    let answer = client.post(Path::events(Some(&args.stream)).as_str(), &headers, &body)?;
    if answer.headers.get("idempotent-replay").is_some_and(|value| value == "true") {
        eprintln!("already appended: this is the first receipt");
    }
    print(&client, &answer, global.output)
}

fn print(client: &Client, answer: &Answer, output: Output) -> Result<(), AppendError> {
    let mut out = io::stdout().lock();
    let printed = match output {
        Output::Json => out.write_all(&answer.body).and_then(|()| out.write_all(b"\n")),
        Output::Table => {
            let receipt: Receipt = client.parse(&answer.body)?;
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.add_row(vec!["stream", &receipt.stream]);
            table.add_row(vec!["version", &receipt.last_version.to_string()]);
            table.add_row(vec!["position", &receipt.last_position.to_string()]);
            table.add_row(vec!["time", &receipt.time]);
            table.add_row(vec!["hash", &receipt.hash]);
            writeln!(out, "{}", table.trim_fmt())
        }
    };
    printed.and_then(|()| out.flush()).map_err(AppendError::Output)
}

/// The JSON behind an option, kept as it is written.
fn json(option: &'static str, text: Option<&str>) -> Result<Option<Box<RawValue>>, AppendError> {
    let Some(text) = text else { return Ok(None) };
    let input = |place: &str, source| AppendError::Input { option, place: place.into(), source };
    let read = match text.strip_prefix('@') {
        _ if text == "-" => {
            let mut read = String::new();
            io::stdin().read_to_string(&mut read).map_err(|e| input("standard input", e))?;
            Some(read)
        }
        Some(file) => Some(fs::read_to_string(file).map_err(|e| input(file, e))?),
        None => None,
    };
    serde_json::from_str(read.as_deref().unwrap_or(text))
        .map(Some)
        .map_err(|source| AppendError::Json { option, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectation_is_a_word_or_a_version() {
        let check = |text: &str, expected: Option<&str>| {
            let json = text.parse::<Expected>().map(|e| serde_json::to_string(&e).unwrap());
            assert_eq!(json.ok().as_deref(), expected, "{text}");
        };
        check("any", Some("\"any\""));
        check("none", Some("\"none\""));
        check("exists", Some("\"exists\""));
        check("0", Some("{\"version\":0}"));
        check("-1", None);
        check("Any", None);
    }

    #[test]
    fn data_keeps_its_bytes() {
        let data = json("--data", Some(" {\"n\": 1e400,  \"d\":0.1000000000000000055} ")).unwrap();
        assert_eq!(data.unwrap().get(), "{\"n\": 1e400,  \"d\":0.1000000000000000055}");
        assert!(matches!(json("--data", Some("text")), Err(AppendError::Json { .. })));
        assert!(matches!(json("--data", Some("@/no/such/file")), Err(AppendError::Input { .. })));
    }
}
