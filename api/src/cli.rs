//! The command line: one binary that runs the server and speaks to a running one over its public HTTP API.
//!
//! A command parses its arguments, calls the API and prints; only `verify` reads a data folder. Exit codes: 0,
//! 1 when the server or the world refuses, 2 for a command that makes no sense as it was typed. `verify` exits with 1
//! for damage alone, with 2 when it could not be run.
//!
//! Absent on purpose: TLS (`https` URLs are refused, not downgraded) and proxies from the environment.

mod append;
mod bench;
mod client;
mod connection;
mod dev;
mod events;
mod import;
mod problem;
mod read;
mod sse;
mod tail;
mod target;
mod verify;

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use hyper::header::HeaderValue;

use self::target::Target;
use crate::config;

/// An HTTP/JSON event store in one binary: append events, follow them, load and measure.
#[derive(Debug, Parser)]
#[command(name = "kimberlite", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command that speaks to a server knows.
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
    Append(append::AppendArgs),
    /// Print the events of a stream, or of the whole log.
    Read(read::ReadArgs),
    /// Print events and go on as they come, across lost connections, until Ctrl-C.
    Tail(tail::TailArgs),
    /// Load a CSV or NDJSON file; a second run of the same file adds nothing.
    Import(import::ImportArgs),
    /// Drive a running server with synthetic work and print how fast it answers.
    Bench(bench::BenchArgs),
    /// Check a data folder, or what a server shows, and name exactly what is damaged.
    Verify(verify::VerifyArgs),
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
    Dev(#[from] dev::DevError),
    #[error(transparent)]
    Append(#[from] append::AppendError),
    #[error(transparent)]
    Read(#[from] read::ReadError),
    #[error(transparent)]
    Tail(#[from] tail::TailError),
    #[error(transparent)]
    Import(#[from] import::ImportError),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Verify(#[from] verify::VerifyError),
    #[error("the table could not be printed: {0}")]
    Config(#[source] io::Error),
}

/// Parses the process's arguments, runs the command and turns its end into an exit code.
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let ended = match command {
        Command::Dev(args) => dev::run(args).map_err(CliError::from),
        Command::Append(args) => append::run(&args, &global).map_err(CliError::from),
        Command::Read(args) => read::run(&args, &global).map_err(CliError::from),
        Command::Tail(args) => tail::run(&args, &global).map_err(CliError::from),
        Command::Import(args) => import::run(&args, &global).map_err(CliError::from),
        Command::Bench(args) => bench::run(&args, &global).map_err(CliError::from),
        Command::Verify(args) => match verify::run(&args, &global) {
            Ok(false) => return ExitCode::FAILURE,
            verified => verified.map(|_| ()).map_err(CliError::from),
        },
        Command::Config(_) => {
            io::stdout().write_all(config::explain().as_bytes()).map_err(CliError::Config)
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // `kimberlite read | head` is a reader that has seen enough, not a failure.
        Err(error) if output_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

impl CliError {
    /// Whether the command as typed makes no sense, whatever the server says.
    fn is_usage(&self) -> bool {
        match self {
            Self::Append(error) => error.is_usage(),
            Self::Import(error) => error.is_usage(),
            Self::Bench(error) => error.is_usage(),
            Self::Verify(_) => true,
            Self::Dev(_) | Self::Read(_) | Self::Tail(_) | Self::Config(_) => false,
        }
    }
}

/// Whether the pipe that we print into was closed by its reader.
fn output_closed(error: &CliError) -> bool {
    let (CliError::Config(cause)
    | CliError::Append(append::AppendError::Output(cause))
    | CliError::Read(read::ReadError::Output(cause))
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
    fn key_is_sent_as_bearer_and_kept_out_of_debug_output() {
        let key = bearer("k1").unwrap();
        assert_eq!(key.to_str().unwrap(), "Bearer k1");
        assert!(!format!("{key:?}").contains("k1"));
        assert!(bearer("two\nlines").is_err());
    }
}
