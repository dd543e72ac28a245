//! `bench append`: connections that append batches as fast as they are answered.

use std::sync::Arc;

use clap::Args;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    super::{connection::Caller, target::Path},
    BenchError, Times, Window,
    payload::{DATA_BYTES_MAX, DATA_BYTES_MIN, Payload, now_ns},
    report::{Report, Tally},
    wire::{Appended, Wire},
};

/// Append events as fast as they are acknowledged.
#[derive(Debug, Args)]
pub(super) struct AppendBench {
    /// Connections, each with one request in flight.
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Events of one request.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// Bytes of an event's JSON data.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = clap::value_parser!(u64).range(DATA_BYTES_MIN..=DATA_BYTES_MAX))]
    size: u64,
    /// Streams to write to, in turn; as many as connections by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    streams: Option<u64>,
    /// All connections write to one stream.
    #[arg(long, conflicts_with = "streams")]
    one_stream: bool,
    /// Expect the exact version of the stream in every request, instead of any.
    #[arg(long)]
    expected_version: bool,
}

/// Runs it.
///
/// # Errors
/// See [`BenchError`].
pub(super) async fn run(
    args: &AppendBench,
    caller: Caller,
    times: Times,
) -> Result<Report, BenchError> {
    let streams = if args.one_stream { 1 } else { args.streams.unwrap_or(args.connections) };
    if args.expected_version && streams < args.connections {
        return Err(BenchError::SharedStream);
    }
    let payload = Arc::new(Payload::new(args.size));
    let run = format!("bench-{:x}", now_ns());
    let mut writers = Vec::new();
    for index in 0..args.connections {
        let own = (index..streams.max(index + 1)).step_by(args.connections as usize);
        writers.push(Writer {
            connection: Wire::connect(caller.clone()).await?,
            payload: Arc::clone(&payload),
            streams: own.map(|n| Stream::new(&run, n % streams)).collect(),
            batch: args.batch,
            expected_version: args.expected_version,
        });
    }
    let window = times.start();
    let mut tasks: JoinSet<_> = writers.into_iter().map(|writer| writer.work(window)).collect();
    let mut all = Tally::new();
    while let Some(tally) = tasks.join_next().await {
        let mut tally = tally.expect("a writer does not panic")?;
        tally.bytes = tally.events * args.size;
        all.add(&tally);
    }
    Ok(Report {
        connections: Some(args.connections),
        batch: Some(args.batch),
        size_bytes: Some(args.size),
        requests: Some(all.requests),
        refused: Some(all.refused),
        ..Report::new("append", &all, times.measured)
    })
}

#[derive(Debug)]
struct Stream {
    path: String,
    /// The JSON of `expected` that fits the stream as it is now.
    expected: String,
}

impl Stream {
    fn new(run: &str, number: u64) -> Self {
        let path = Path::events(Some(&format!("{run}-{number}"))).as_str().to_owned();
        Self { path, expected: "\"none\"".to_owned() }
    }
}

#[derive(Debug)]
struct Writer {
    connection: Wire,
    payload: Arc<Payload>,
    streams: Vec<Stream>,
    batch: u64,
    expected_version: bool,
}

impl Writer {
    async fn work(mut self, window: Window) -> Result<Tally, BenchError> {
        let mut tally = Tally::new();
        let mut turn = 0;
        let mut begun = Instant::now();
        while begun < window.end {
            let index = turn % self.streams.len();
            let stream = &mut self.streams[index];
            let expected = if self.expected_version { stream.expected.as_str() } else { "\"any\"" };
            let body = self.payload.append_body(self.batch, expected);
            begun = Instant::now();
            let answer = self.connection.append(&stream.path, &body).await?;
            let ended = Instant::now();
            match answer {
                Appended::Stored { last_version } => {
                    stream.expected = format!("{{\"version\":{last_version}}}");
                    turn += 1;
                    if window.holds(ended) {
                        tally.latencies.record(ended - begun);
                        tally.requests += 1;
                        tally.events += self.batch;
                    }
                }
                Appended::TooBusy { wait } => {
                    tally.refused += u64::from(window.holds(ended));
                    sleep(wait).await;
                }
            }
            begun = ended;
        }
        Ok(tally)
    }
}
