//! `bench follow`: many followers of the log over SSE, and writers that feed them.

use std::{sync::Arc, time::Duration};

use clap::Args;
use hyper::{Method, body::Incoming, header::ACCEPT};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};

use super::{
    super::{
        connection::{Caller, Connection, read_some},
        sse::{Decoder, Frame},
        target::Path,
    },
    BenchError, Times, Window,
    payload::{DATA_BYTES_MAX, DATA_BYTES_MIN, Payload, made_at_ns, now_ns},
    report::{Report, Tally, per_s},
    wire::{Appended, Wire},
};

/// Follow the log while events are appended at a given rate.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct FollowBench {
    /// Followers, each on a connection of its own; 100 by default, 1 with `--catch-up`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    followers: Option<u64>,
    /// Follow from the start of the log until its head, without appending.
    #[arg(long, conflicts_with_all = ["rate", "connections", "batch", "size"])]
    pub(super) catch_up: bool,
    /// Events to append each second.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,
    /// Connections that append.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Events of one append.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// Bytes of an event's JSON data.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = clap::value_parser!(u64).range(DATA_BYTES_MIN..=DATA_BYTES_MAX))]
    size: u64,
}

/// Live delivery: how many events reach the followers, and how long after they were sent to the server.
///
/// # Errors
/// See [`BenchError`].
pub(super) async fn run(
    args: FollowBench,
    caller: Caller,
    times: Times,
) -> Result<Report, BenchError> {
    let followers = args.followers.unwrap_or(100);
    let mut opening: JoinSet<_> =
        (0..followers).map(|_| Follower::open(caller.clone(), "/v1/events?after=head")).collect();
    let mut followed = Vec::new();
    while let Some(follower) = opening.join_next().await {
        let mut follower = follower.expect("a follower does not panic")?;
        // Behind the head for certain before the first event is appended.
        follower.read_until_caught_up().await?;
        followed.push(follower);
    }
    let payload = Arc::new(Payload::new(args.size));
    let run = format!("bench-{:x}", now_ns());
    let mut writers = JoinSet::new();
    let window = times.start();
    for number in 0..args.connections {
        let path = Path::events(Some(&format!("{run}-{number}"))).as_str().to_owned();
        let connection = Wire::connect(caller.clone()).await?;
        writers.spawn(write(connection, path, Arc::clone(&payload), args, window));
    }
    let mut following: JoinSet<_> =
        followed.into_iter().map(|follower| follower.follow(window)).collect();
    let mut delivered = Tally::new();
    while let Some(tally) = following.join_next().await {
        delivered.add(&tally.expect("a follower does not panic")?);
    }
    let (mut appended, mut refused) = (0, 0);
    while let Some(counts) = writers.join_next().await {
        let (events, busy) = counts.expect("a writer does not panic")?;
        appended += events;
        refused += busy;
    }
    Ok(Report {
        followers: Some(followers),
        connections: Some(args.connections),
        batch: Some(args.batch),
        size_bytes: Some(args.size),
        appended_per_s: Some(per_s(appended, times.measured)),
        refused: Some(refused),
        ..Report::new("follow", &delivered, times.measured)
    })
}

/// Catching up: how fast the whole log reaches followers that begin at its start.
///
/// # Errors
/// See [`BenchError`].
pub(super) async fn catch_up(args: FollowBench, caller: Caller) -> Result<Report, BenchError> {
    let followers = args.followers.unwrap_or(1);
    let begun = Instant::now();
    let mut tasks: JoinSet<_> = (0..followers)
        .map(|_| {
            let caller = caller.clone();
            async move {
                let mut follower = Follower::open(caller, "/v1/events").await?;
                follower.read_until_caught_up().await
            }
        })
        .collect();
    let mut all = Tally::new();
    while let Some(tally) = tasks.join_next().await {
        all.add(&tally.expect("a follower does not panic")?);
    }
    Ok(Report { followers: Some(followers), ..Report::new("catch-up", &all, begun.elapsed()) })
}

/// Appends at its share of the rate until the end; events that were stored, and refusals, inside the window.
async fn write(
    mut connection: Wire,
    path: String,
    payload: Arc<Payload>,
    args: FollowBench,
    window: Window,
) -> Result<(u64, u64), BenchError> {
    let mut ticks = interval(Duration::from_secs(args.batch * args.connections) / args.rate as u32);
    // A writer that was held up makes up for it, so the rate holds over the run.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut events, mut refused) = (0, 0);
    while ticks.tick().await < window.end && Instant::now() < window.end {
        let body = payload.append_body(args.batch, "\"any\"");
        let answer = connection.append(&path, &body).await?;
        let is_measured = window.holds(Instant::now());
        match answer {
            Appended::Stored { .. } if is_measured => events += args.batch,
            Appended::Stored { .. } => {}
            Appended::TooBusy { wait } => {
                refused += u64::from(is_measured);
                sleep(wait).await;
            }
        }
    }
    Ok((events, refused))
}

/// One event stream.
#[derive(Debug)]
struct Follower {
    body: Incoming,
    /// Kept for the body: the connection ends with its sender.
    _connection: Connection,
    decoder: Decoder,
    last_position: Option<u64>,
}

impl Follower {
    async fn open(caller: Caller, path: &'static str) -> Result<Self, BenchError> {
        let mut connection = caller.connect().await?;
        let request = connection.request(Method::GET, path).header(ACCEPT, "text/event-stream");
        let body = connection.send(request, "").await?.into_body();
        let decoder = Decoder::default();
        Ok(Self { body, _connection: connection, decoder, last_position: None })
    }

    /// Reads history; what it held.
    async fn read_until_caught_up(&mut self) -> Result<Tally, BenchError> {
        let mut tally = Tally::new();
        let mut frame = Frame::default();
        loop {
            self.read().await?;
            while self.decoder.next(&mut frame) {
                if frame.event == "caught-up" {
                    return Ok(tally);
                }
                if self.is_event(&frame)? {
                    tally.events += 1;
                    tally.bytes += frame.data.len() as u64;
                }
            }
        }
    }

    /// Reads until the end of the window; what came inside it.
    async fn follow(mut self, window: Window) -> Result<Tally, BenchError> {
        let mut tally = Tally::new();
        let mut frame = Frame::default();
        while let Ok(read) = timeout_at(window.end, self.read()).await {
            read?;
            let is_measured = window.holds(Instant::now());
            let now = now_ns();
            while self.decoder.next(&mut frame) {
                if !self.is_event(&frame)? || !is_measured {
                    continue;
                }
                tally.events += 1;
                tally.bytes += frame.data.len() as u64;
                if let Some(made_at) = made_at_ns(&frame.data) {
                    tally.latencies.record_ns(now.saturating_sub(made_at));
                }
            }
        }
        Ok(tally)
    }

    async fn read(&mut self) -> Result<(), BenchError> {
        match read_some(&mut self.body).await? {
            Some(bytes) => Ok(self.decoder.push(&bytes)?),
            None => Err(BenchError::Answer("an event stream ended")),
        }
    }

    /// Whether a frame is an event; an error if it is one out of order.
    fn is_event(&mut self, frame: &Frame) -> Result<bool, BenchError> {
        match frame.event.as_str() {
            "event" => {
                let position = frame.id.split_once('.').and_then(|(digits, _)| digits.parse().ok());
                if position.is_none() || position <= self.last_position {
                    return Err(BenchError::Answer(
                        "events came out of order, or without a cursor",
                    ));
                }
                self.last_position = position;
                Ok(true)
            }
            "error" => Err(match serde_json::from_slice(&frame.data) {
                Ok(problem) => BenchError::Ended(Box::new(problem)),
                Err(_) => BenchError::Answer("an event stream ended with an error"),
            }),
            _ => Ok(false),
        }
    }
}
