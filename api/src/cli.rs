//! The command line: one binary that runs the server and speaks to a running one over its public HTTP API.
//!
//! A command parses its arguments, calls the API and prints; only `verify` and `restore` work on folders or files, and
//! `witness` is a server of its own. Exit codes: 0,
//! 1 when the server or the world refuses, 2 for a command that makes no sense as it was typed. `verify` exits with 1
//! for damage alone, with 2 when it could not be run.
//!
//! Absent on purpose: TLS (`https` URLs are refused, not downgraded) and proxies from the environment.

mod append;
mod backup;
mod bench;
mod client;
mod connection;
mod dev;
mod events;
mod import;
mod keys;
mod problem;
mod progress;
mod query;
mod read;
mod repl;
mod restore;
mod sse;
mod tail;
mod target;
mod verify;
mod vkeys;
mod witness;

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use hyper::header::HeaderValue;

use self::target::Target;
use crate::config::{self, Config, ConfigError};

/// An HTTP/JSON event store in one binary: append events, follow them, load and measure.
#[derive(Debug, Parser)]
#[command(name = "kimberlite", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A command that speaks to a server.
#[derive(Debug, Args)]
struct Calling<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    global: Global,
}

/// What every command that speaks to a server knows, and those below it.
#[derive(Debug, Args)]
struct Global {
    /// Where the server is, as `http://host:port`.
    #[arg(long, global = true, env = "KIMBERLITE_URL", default_value = "http://127.0.0.1:7070")]
    url: Target,
    /// API key, sent as `Authorization: Bearer`.
    #[arg(long, global = true, env = "KIMBERLITE_KEY", hide_env_values = true, value_parser = bearer)]
    key: Option<HeaderValue>,
    /// How to print: JSON (events as NDJSON), or lines and tables for people.
    #[arg(long, global = true, value_enum, default_value_t = Output::Json)]
    output: Output,
}

/// The form of what a command prints to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One JSON value, or one event a line.
    Json,
    /// Columns for people.
    Table,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a server for this machine alone: everything on, a ready tenant, no credentials needed.
    Dev(dev::DevArgs),
    /// Append an event to a stream and print the receipt.
    Append(Calling<append::AppendArgs>),
    /// Print the events of a stream, or of the whole log.
    Read(Calling<read::ReadArgs>),
    /// Print events and go on as they come, across lost connections, until Ctrl-C.
    Tail(Calling<tail::TailArgs>),
    /// Ask in SQL and print the rows.
    Query(Calling<query::QueryArgs>),
    /// Ask in SQL by hand, with completion and history.
    Repl(repl::ReplArgs),
    /// Load a CSV or NDJSON file; a second run of the same file adds nothing.
    Import(Calling<import::ImportArgs>),
    /// Drive a running server with synthetic work and print how fast it answers.
    Bench(Calling<bench::BenchArgs>),
    /// Have the server copy its log to a folder while it goes on; what the folder has already is kept.
    Backup(Calling<backup::BackupArgs>),
    /// Make a data folder from a backup, up to its end or to a position, and verify it before any server opens it.
    Restore(restore::RestoreArgs),
    /// Print the public keys of the log, or have a new one sign it.
    Keys(Calling<keys::KeysArgs>),
    /// Check a data folder, a backup, or what a server shows, and name exactly what is damaged.
    Verify(Box<Calling<verify::VerifyArgs>>),
    /// Cosign the checkpoints of other logs, for those who trust no log alone.
    Witness(witness::WitnessCommand),
    /// Show what can be configured.
    Config(ConfigArgs),
}

/// Show what can be configured.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Each key with its default, unit and environment variable.
    #[arg(long, required = true)]
    explain: bool,
}

/// What went wrong in a command.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Environment(#[from] ConfigError),
    #[error(transparent)]
    Dev(#[from] dev::DevError),
    #[error(transparent)]
    Append(#[from] append::AppendError),
    #[error(transparent)]
    Read(#[from] read::ReadError),
    #[error(transparent)]
    Tail(#[from] tail::TailError),
    #[error(transparent)]
    Query(#[from] query::QueryError),
    #[error(transparent)]
    Repl(#[from] repl::ReplError),
    #[error(transparent)]
    Import(#[from] import::ImportError),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Backup(#[from] backup::BackupError),
    #[error(transparent)]
    Restore(#[from] restore::RestoreError),
    #[error(transparent)]
    Keys(#[from] keys::KeysError),
    #[error(transparent)]
    Verify(#[from] verify::VerifyError),
    #[error(transparent)]
    Witness(#[from] witness::WitnessError),
    #[error("the table could not be printed: {0}")]
    Explain(#[source] io::Error),
}

/// Parses the process's arguments, runs the command and turns its end into an exit code.
pub fn main() -> ExitCode {
    match run(Cli::parse_from(behind_command(std::env::args_os())).command) {
        Ok(code) => code,
        // `kimberlite read | head` is a reader that has seen enough, not a failure.
        Err(error) if output_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

/// Puts options of [`Global`] that stand before the command behind it, so that they can stand on either side and
/// a command that has no use for them still refuses them.
fn behind_command(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter().peekable();
    let mut ordered: Vec<OsString> = args.next().into_iter().collect();
    let mut moved = Vec::new();
    while let Some(option) = args.next_if(|arg| {
        let name = arg.to_str().unwrap_or_default().split('=').next();
        matches!(name, Some("--url" | "--key" | "--output"))
    }) {
        let has_value = option.to_str().is_some_and(|text| text.contains('='));
        moved.push(option);
        if !has_value {
            moved.extend(args.next());
        }
    }
    ordered.extend(args.next());
    ordered.extend(moved);
    ordered.extend(args);
    ordered
}

fn run(command: Command) -> Result<ExitCode, CliError> {
    // Only this one does not mind a misspelt variable: it shows how they are spelt.
    if let Command::Config(_) = command {
        io::stdout().write_all(config::explain().as_bytes()).map_err(CliError::Explain)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::from_environment()?;
    match command {
        Command::Dev(args) => dev::run(args, config)?,
        Command::Witness(args) => witness::run(args, config)?,
        Command::Append(Calling { args, global }) => append::run(&args, &global)?,
        Command::Read(Calling { args, global }) => read::run(&args, &global)?,
        Command::Tail(Calling { args, global }) => tail::run(&args, &global)?,
        Command::Query(Calling { args, global }) => query::run(&args, &global)?,
        Command::Repl(args) => repl::run(args)?,
        Command::Import(Calling { args, global }) => import::run(&args, &global)?,
        Command::Bench(Calling { args, global }) => bench::run(&args, &global)?,
        Command::Backup(Calling { args, global }) => backup::run(&args, &global)?,
        Command::Keys(Calling { args, global }) => keys::run(&args, &global)?,
        Command::Restore(args) => restore::run(args)?,
        Command::Verify(calling) => {
            let Calling { args, global } = *calling;
            if !verify::run(&args, &global)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Config(_) => unreachable!("explained above"),
    }
    Ok(ExitCode::SUCCESS)
}

impl CliError {
    /// Whether the command as typed makes no sense, whatever the server says.
    fn is_usage(&self) -> bool {
        match self {
            Self::Append(error) => error.is_usage(),
            Self::Import(error) => error.is_usage(),
            Self::Bench(error) => error.is_usage(),
            Self::Backup(error) => error.is_usage(),
            Self::Environment(_) | Self::Verify(_) => true,
            Self::Dev(_)
            | Self::Witness(_)
            | Self::Read(_)
            | Self::Tail(_)
            | Self::Query(_)
            | Self::Repl(_)
            | Self::Restore(_)
            | Self::Keys(_)
            | Self::Explain(_) => false,
        }
    }
}

/// Whether the pipe that we print into was closed by its reader.
fn output_closed(error: &CliError) -> bool {
    let (CliError::Explain(cause)
    | CliError::Append(append::AppendError::Output(cause))
    | CliError::Read(read::ReadError::Output(cause))
    | CliError::Query(query::QueryError::Output(cause))
    | CliError::Repl(repl::ReplError::Query(query::QueryError::Output(cause)))
    | CliError::Keys(keys::KeysError::Output(cause))
    | CliError::Tail(tail::TailError::Output(cause))) = error
    else {
        return false;
    };
    cause.kind() == io::ErrorKind::BrokenPipe
}

/// Shows an error with its causes on one line, for errors whose own text does not name them.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

fn bearer(key: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| "a key has only visible characters".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_for_all_commands_stand_on_either_side() {
        let ordered = |line: &str| {
            let args = behind_command(line.split(' ').map(OsString::from));
            args.into_iter().map(|a| a.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        let url = "--url http://h:1 --output=table";
        assert_eq!(ordered(&format!("k {url} read s")), format!("k read {url} s"));
        assert_eq!(ordered("k read --url http://h:1"), "k read --url http://h:1");
        assert_eq!(ordered("k --version"), "k --version");
        assert_eq!(ordered("k --url"), "k --url");
        let parse = |line: &str| Cli::try_parse_from(ordered(line).split(' '));
        assert!(parse(&format!("k {url} read s")).is_ok());
        assert!(parse(&format!("k {url} dev")).is_err(), "no use for them");
    }

    #[test]
    fn key_is_sent_as_bearer_and_kept_out_of_debug_output() {
        let key = bearer("k1").unwrap();
        assert_eq!(key.to_str().unwrap(), "Bearer k1");
        assert!(!format!("{key:?}").contains("k1"));
        assert!(bearer("two\nlines").is_err());
    }
}
