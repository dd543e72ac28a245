//! `kimberlite bench`: drives a running server over HTTP and prints events a second and latencies.
//!
//! A closed loop: every connection has one request in flight. Client and server share the machine in most runs,
//! so only figures of one run compare well. MB/s are millions of bytes: of events' data when appending, of whole
//! events when following, of whole pages when reading. It writes into streams named `bench-…` and cleans nothing
//! up.

mod append;
mod follow;
mod payload;
mod read;
mod report;
mod wire;

use std::{future::Future, io, time::Duration};

use clap::{Args, Subcommand};
use tokio::{runtime, time::Instant};

use self::report::Report;
use super::{
    Global,
    connection::{Caller, ConnectionError},
    problem::Problem,
    sse::LineTooLong,
    target::Target,
};

/// Drive a running server with synthetic work and print how fast it answers.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    work: Work,
    /// Seconds to measure.
    #[arg(long, global = true, value_name = "S", default_value = "5", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds of work before that, not measured.
    #[arg(long, global = true, value_name = "S", default_value_t = 1)]
    warmup: u64,
    /// Threads of this client; one leaves the most of a small machine to the server.
    #[arg(long, global = true, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// Also against a server on another machine.
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Append events: `POST /v1/streams/{stream}/events`.
    Append(append::AppendBench),
    /// Page through the whole log, again and again: `GET /v1/events`.
    Read(read::ReadBench),
    /// Follow the log over SSE while events are appended, or from its start.
    Follow(follow::FollowBench),
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    /// Synthetic work does not belong on a server that others may use.
    #[error("{0} is not on this machine; --yes drives it nevertheless")]
    NotLoopback(Target),
    /// Options that contradict each other.
    #[error(
        "--expected-version needs a writer of its own for each stream: at least one stream a connection"
    )]
    SharedStream,
    /// No way to run at all.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// The server is not there, or refuses the work.
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    /// What came is no event stream.
    #[error(transparent)]
    Line(#[from] LineTooLong),
    /// The server ended an event stream.
    #[error("an event stream ended: {0}")]
    Ended(Box<Problem>),
    /// An answer is not what this bench can count.
    #[error("the server's answer makes no sense: {0}")]
    Answer(&'static str),
    /// The result could not be printed.
    #[error("the result could not be printed: {0}")]
    Output(#[source] io::Error),
}

impl BenchError {
    /// Whether the arguments themselves are wrong.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::NotLoopback(_) | Self::SharedStream)
    }
}

/// Runs the work and prints the result.
///
/// # Errors
/// See [`BenchError`].
pub(super) fn run(args: &BenchArgs, global: &Global) -> Result<(), BenchError> {
    if !args.yes && !global.url.is_loopback() {
        return Err(BenchError::NotLoopback(global.url.clone()));
    }
    let caller = Caller::new(global);
    let times = Times {
        warmup: Duration::from_secs(args.warmup),
        measured: Duration::from_secs(args.seconds),
    };
    let report = match &args.work {
        Work::Append(bench) => block_on(args.threads, append::run(bench, caller, times)),
        Work::Read(bench) => block_on(args.threads, read::run(*bench, caller, times)),
        Work::Follow(bench) if bench.catch_up => {
            block_on(args.threads, follow::catch_up(*bench, caller))
        }
        Work::Follow(bench) => block_on(args.threads, follow::run(*bench, caller, times)),
    }?;
    report.print(global.output).map_err(BenchError::Output)
}

fn block_on(
    threads: u64,
    work: impl Future<Output = Result<Report, BenchError>>,
) -> Result<Report, BenchError> {
    let runtime = match usize::try_from(threads) {
        Ok(2..) => runtime::Builder::new_multi_thread()
            .worker_threads(threads as usize)
            .enable_all()
            .build(),
        _ => runtime::Builder::new_current_thread().enable_all().build(),
    };
    runtime.map_err(BenchError::Start)?.block_on(work)
}

/// How long to work.
#[derive(Clone, Copy, Debug)]
struct Times {
    warmup: Duration,
    measured: Duration,
}

impl Times {
    /// The measured time, if work starts now.
    fn start(self) -> Window {
        let begin = Instant::now() + self.warmup;
        Window { begin, end: begin + self.measured }
    }
}

/// The time in which what is answered counts.
#[derive(Clone, Copy, Debug)]
struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    fn holds(self, moment: Instant) -> bool {
        self.begin <= moment && moment < self.end
    }
}
