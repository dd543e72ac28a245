//! Following over SSE. A follower holds a cursor and wakes when the tip moves; it never holds a
//! queue of events.

use std::{collections::VecDeque, convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use kimberlite_store::{
    error::ReadError,
    read::{After, Cursor, Selection, Shape},
    subscribe::Subscription,
    words::Position,
};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    read::{refuse_unfollowable, with_type},
    selection::{Asked, cursor_text},
};
use crate::{
    app::{App, TraceId},
    limits::{STREAM_BATCH_BYTES, STREAM_BATCH_EVENTS, STREAMS_PATIENCE_S},
    metrics,
    problem::{Code, Problem},
};

/// What `caught-up`, `progress`, `heartbeat` and `draining` frames say.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FollowState)]
pub(crate) struct StateBody {
    /// Where to resume; `null` where nothing has been passed yet.
    #[schema(required = true)]
    cursor: Option<String>,
    /// The log's last position; `null` for an empty log.
    #[schema(required = true)]
    head: Option<u64>,
    /// Records of the log that this follower has not been shown or led past yet.
    lag: u64,
}

struct Follower {
    app: Arc<App>,
    selection: Selection,
    trace: TraceId,
    tip: watch::Receiver<u64>,
    subscription: Subscription,
    /// There is more to read, whether or not anything else happens.
    unfinished: bool,
    draining: watch::Receiver<bool>,
    timer: Pin<Box<Sleep>>,
    /// Frames of the last batch that were not yet sent.
    queue: VecDeque<Bytes>,
    cursor: Option<Cursor>,
    /// The cursor moved on without a frame that says so.
    untold: bool,
    /// Records of the log that have been looked at.
    seen: u64,
    stage: Stage,
    /// How long it waits for room to read on.
    patience: Duration,
    _counted: metrics::Follower,
}

/// How far a follower has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has not been told yet that it has caught up.
    Behind,
    CaughtUp,
    /// What is left in its queue is the last.
    Ended,
}

/// Answers with frames until the caller leaves, or the server stops.
pub(crate) async fn follow(
    app: Arc<App>,
    asked: Asked,
    trace: TraceId,
) -> Result<Response, Problem> {
    refuse_unfollowable(&asked)?;
    let mut selection = asked.selection;
    selection.limit = STREAM_BATCH_EVENTS;
    selection.bytes = STREAM_BATCH_BYTES;
    let tip = app.store.tip(&app.tenant);
    if selection.after == After::Head {
        // Fixed now, so that what comes next is not skipped later.
        let last = last_below(*tip.borrow());
        selection.after = last.map_or(After::Nothing, After::Position);
    }
    refuse_foreign(&app, selection.after)?;
    let mut follower = Follower {
        cursor: None,
        // Before the first reading: what comes behind that wakes.
        subscription: app.store.subscribe(&app.tenant, &selection),
        unfinished: true,
        selection,
        trace,
        tip,
        draining: app.draining.subscribe(),
        timer: Box::pin(sleep_until(Instant::now() + app.config.heartbeat)),
        queue: VecDeque::new(),
        untold: false,
        seen: 0,
        stage: Stage::Behind,
        patience: Duration::from_secs(STREAMS_PATIENCE_S),
        _counted: app.metrics.follower(),
        app,
    };
    // The first batch is read before the head is sent: refusals are answers of their own.
    Box::pin(follower.advance()).await?;
    // Those who take nothing are gone by then.
    follower.patience = follower.app.config.send_timeout;
    let body = stream::unfold(follower, |mut follower| async move {
        let frame = follower.next().await?;
        Some((Ok::<_, Infallible>(frame), follower))
    });
    let mut response = with_type(Body::from_stream(body), "text/event-stream");
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The last of so many records.
fn last_below(count: u64) -> Option<Position> {
    count.checked_sub(1).and_then(Position::new)
}

/// Refuses a place that this log does not have. Reading does so too, but not while there is no
/// stream to read.
fn refuse_foreign(app: &App, after: After) -> Result<(), Problem> {
    let (position, check) = match after {
        After::Nothing | After::Head => return Ok(()),
        After::Position(position) => (position, None),
        After::Cursor(cursor) => (cursor.position, Some(cursor.check)),
    };
    let ours = app.store.cursor(&app.tenant, position)?;
    if ours.is_some_and(|ours| check.is_none_or(|check| check == ours.check)) {
        return Ok(());
    }
    Err(ReadError::Diverged { position }.into())
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.queue.pop_front() {
                return Some(frame);
            }
            if self.stage == Stage::Ended {
                return None;
            }
            if *self.draining.borrow() {
                self.stage = Stage::Ended;
                return Some(self.state_frame("draining"));
            }
            let is_due = self.timer.deadline() <= Instant::now();
            if self.unfinished || self.subscription.below() > self.seen || is_due {
                // In a box of its own: a follower that waits needs no room for it.
                if let Err(problem) = Box::pin(self.advance()).await {
                    self.fail(&problem);
                } else if is_due {
                    self.tick();
                }
                continue;
            }
            if self.stage == Stage::Behind {
                self.stage = Stage::CaughtUp;
                return Some(self.state_frame("caught-up"));
            }
            self.wait().await;
        }
    }

    /// Until something may have happened.
    async fn wait(&mut self) {
        let closed = tokio::select! {
            may_go_on = self.subscription.wait() => !may_go_on,
            changed = self.draining.changed() => changed.is_err(),
            () = &mut self.timer => false,
        };
        if closed {
            self.fail(&Problem::new(Code::Draining, "Reconnect in a moment."));
        }
    }

    /// Reads on behind the cursor.
    async fn advance(&mut self) -> Result<(), Problem> {
        let tip = *self.tip.borrow();
        let room = tokio::select! {
            room = self.app.streams.reserve(self.patience) => room?,
            _ = self.draining.wait_for(|draining| *draining) => return Ok(()),
        };
        let batch = match self.app.store.read(&self.app.tenant, &self.selection, Shape::Sse).await {
            // It may come into being with any record; those up to here are none of it.
            Err(ReadError::StreamUnknown) => {
                if let Some(last) = last_below(tip) {
                    self.pass(self.app.store.cursor(&self.app.tenant, last)?);
                }
                (self.seen, self.unfinished) = (tip, false);
                return Ok(());
            }
            read => read?,
        };
        self.pass(batch.cursor);
        self.unfinished = !batch.finished;
        self.seen = if batch.finished {
            batch.head
        } else {
            self.cursor.map_or(0, |c| c.position.get() + 1)
        };
        self.queue.extend(room.keep(batch.pieces));
        Ok(())
    }

    /// Goes on behind `cursor` from now on.
    fn pass(&mut self, cursor: Option<Cursor>) {
        let Some(cursor) = cursor else { return };
        self.selection.after = After::Cursor(cursor);
        // It may lie behind the last event of a batch: the frames do not say so.
        self.untold = self.cursor != Some(cursor);
        self.cursor = Some(cursor);
    }

    /// Frames of the timer.
    fn tick(&mut self) {
        if self.untold {
            let frame = self.state_frame("progress");
            self.queue.push_back(frame);
        }
        let beat = self.frame("heartbeat", None);
        self.queue.push_back(beat);
        self.timer.as_mut().reset(Instant::now() + self.app.config.heartbeat);
    }

    fn fail(&mut self, problem: &Problem) {
        self.stage = Stage::Ended;
        if let Some(cause) = problem.cause() {
            tracing::error!(trace = %self.trace, cause, "a follower failed");
        }
        let mut frame = b"event: error\ndata: ".to_vec();
        frame.extend_from_slice(&problem.json(self.trace));
        frame.extend_from_slice(b"\n\n");
        self.queue.push_back(frame.into());
    }

    /// A frame that moves the caller's id on.
    fn state_frame(&mut self, kind: &str) -> Bytes {
        self.untold = false;
        self.frame(kind, self.cursor)
    }

    fn frame(&self, kind: &str, id: Option<Cursor>) -> Bytes {
        let tip = *self.tip.borrow();
        let state = StateBody {
            cursor: self.cursor.map(cursor_text),
            head: tip.checked_sub(1),
            lag: tip.saturating_sub(self.seen),
        };
        let id = id.map(|c| format!("id: {}\n", cursor_text(c))).unwrap_or_default();
        let data = serde_json::to_string(&state).expect("plain fields serialise");
        format!("event: {kind}\n{id}data: {data}\n\n").into()
    }
}
