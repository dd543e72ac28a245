//! Room for what was read and is not sent yet: callers who take nothing would hold any amount of memory together.
//!
//! NDJSON and SSE answers read on when there is room for another batch; pages are counted by a [`crate::body::BodyBudget`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kimberlite_store::limits::EVENT_BYTES_MAX;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::timeout,
};

use crate::{
    limits::{STREAM_BATCH_BYTES, STREAMS_BYTES_MAX},
    problem::{Code, Problem},
};

/// Bytes that one permit stands for.
const UNIT_BYTES: usize = 1 << 10;
/// What a batch may take: enough bytes but one, then rendered neighbours that end with the largest event.
const BATCH_BYTES_MAX: usize = STREAM_BATCH_BYTES + (1 << 20) + 2 * EVENT_BYTES_MAX;

/// The room that all such answers share.
pub(crate) struct Room {
    units: Arc<Semaphore>,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self { units: Arc::new(Semaphore::new(STREAMS_BYTES_MAX / UNIT_BYTES)) }
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> usize {
        STREAMS_BYTES_MAX - self.units.available_permits() * UNIT_BYTES
    }

    /// Room for the next batch, once there is some.
    pub(crate) async fn reserve(&self, patience: Duration) -> Result<Reserved, Problem> {
        let units = (BATCH_BYTES_MAX / UNIT_BYTES) as u32;
        let permit = match Arc::clone(&self.units).try_acquire_many_owned(units) {
            Err(TryAcquireError::NoPermits) => {
                let free = Arc::clone(&self.units).acquire_many_owned(units);
                timeout(patience, free).await.ok().and_then(Result::ok)
            }
            taken => taken.ok(),
        };
        permit.map(Reserved).ok_or_else(|| {
            Problem::new(Code::Overloaded, "Too many callers take their answers too slowly.")
        })
    }
}

/// Room for a batch that is about to be read.
pub(crate) struct Reserved(OwnedSemaphorePermit);

impl Reserved {
    /// The pieces of the batch, worth a write each; they count until the last of them is sent.
    pub(crate) fn keep(mut self, pieces: Vec<Bytes>) -> impl Iterator<Item = Bytes> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let units = bytes.div_ceil(UNIT_BYTES).min(self.0.num_permits());
        let held = self.0.split(units).expect("not more than there are");
        until_sent(joined(pieces, bytes), held)
    }
}

/// Many small pieces are not worth a write each.
fn joined(pieces: Vec<Bytes>, bytes: usize) -> Vec<Bytes> {
    const SMALL_BYTES: usize = 4 << 10;
    if pieces.len() > 1 && bytes / pieces.len() < SMALL_BYTES {
        vec![pieces.concat().into()]
    } else {
        pieces
    }
}

/// Pieces that keep `held` until the last of them is sent: HTTP takes them off a body before that.
pub(crate) fn until_sent<T: Send + Sync + 'static>(
    pieces: Vec<Bytes>,
    held: T,
) -> impl Iterator<Item = Bytes> {
    let held = Arc::new(held);
    pieces.into_iter().map(move |bytes| Bytes::from_owner(Kept { bytes, _held: Arc::clone(&held) }))
}

struct Kept<T> {
    bytes: Bytes,
    _held: Arc<T>,
}

impl<T> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request, response::Response};
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::app::{self, App};

    const SOON: Duration = Duration::from_millis(20);

    async fn batch(room: &Room, pieces: Vec<Bytes>) -> Vec<Bytes> {
        room.reserve(SOON).await.unwrap().keep(pieces).collect()
    }

    #[tokio::test]
    async fn a_batch_counts_until_its_last_piece_is_gone() {
        let room = Room::new();
        let text = |n| Bytes::from(vec![b'x'; n]);
        let mut pieces = batch(&room, vec![text(300 << 10), text(200 << 10)]).await;
        assert_eq!((pieces.len(), room.bytes()), (2, 500 << 10));
        let last = pieces.pop().unwrap().slice(5..);
        drop(pieces);
        assert_eq!(room.bytes(), 500 << 10);
        drop(last);
        assert_eq!(room.bytes(), 0);
        assert!(batch(&room, vec![]).await.is_empty());
        assert_eq!(room.bytes(), 0);
    }

    #[tokio::test]
    async fn small_pieces_become_one() {
        let room = Room::new();
        let text = Bytes::from(vec![b'x'; 300 << 10]);
        assert_eq!(batch(&room, vec![text.slice(..1000); 400]).await.len(), 1);
        assert_eq!(batch(&room, vec![text.clone(); 2]).await.len(), 2);
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_for_some_time() {
        let room = Arc::new(Room::new());
        let mut taken = Vec::new();
        while let Ok(reserved) = room.reserve(SOON).await {
            taken.push(reserved);
        }
        assert!(room.bytes() <= STREAMS_BYTES_MAX);
        assert_eq!(taken.len(), STREAMS_BYTES_MAX / BATCH_BYTES_MAX);
        let waiting = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.reserve(Duration::from_mins(1)).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        taken.pop();
        assert!(waiting.await.unwrap());
        drop(taken);
        assert_eq!(room.bytes(), 0);
    }

    /// An app with some events, and an answer from it.
    async fn read(app: &Arc<App>, accept: &str) -> Response {
        let request =
            Request::get("/v1/events").header("host", "localhost").header("accept", accept);
        app::router(app).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn filled() -> (Arc<App>, tempfile::TempDir) {
        let (app, folder) = app::of_tests().await;
        let line = format!(r#"{{"stream":"s","type":"t","data":"{}"}}"#, "x".repeat(3000)) + "\n";
        let request = Request::post("/v1/events")
            .header("host", "localhost")
            .header("content-type", "application/x-ndjson");
        let request = request.body(Body::from(line.repeat(1000))).unwrap();
        let answer = app::router(&app).oneshot(request).await.unwrap();
        assert!(answer.into_body().collect().await.is_ok());
        (app, folder)
    }

    /// Takes all the room there is.
    async fn fill(app: &App) -> Vec<Reserved> {
        let mut taken = Vec::new();
        while let Ok(reserved) = app.streams.reserve(Duration::ZERO).await {
            taken.push(reserved);
        }
        taken
    }

    #[tokio::test]
    async fn lines_and_frames_count_and_wait_for_room() {
        let (app, _folder) = filled().await;
        for accept in ["application/x-ndjson", "text/event-stream"] {
            let mut body = read(&app, accept).await.into_body();
            let held = app.streams.bytes();
            assert!((STREAM_BATCH_BYTES..BATCH_BYTES_MAX).contains(&held), "{accept}: {held}");
            let mut pieces = vec![body.frame().await.unwrap().unwrap()];
            let taken = fill(&app).await;
            while let Some(piece) = body.frame().now_or_never() {
                pieces.push(piece.unwrap().unwrap());
            }
            assert!(
                app.streams.bytes() > STREAMS_BYTES_MAX - UNIT_BYTES,
                "it waits for what is free"
            );
            drop(taken);
            let more = body.frame().await.unwrap().unwrap();
            assert!(more.data_ref().unwrap().len() >= STREAM_BATCH_BYTES, "{accept}");
            drop((pieces, more, body));
            assert_eq!(app.streams.bytes(), 0, "{accept}");
        }
    }

    #[tokio::test]
    async fn who_comes_while_there_is_no_room_is_told_to_come_back() {
        let (app, _folder) = filled().await;
        let taken = fill(&app).await;
        let both = ["application/x-ndjson", "text/event-stream"].map(|a| read(&app, a));
        for refused in futures_util::future::join_all(both).await {
            assert_eq!(refused.status(), 503);
            assert_eq!(refused.headers()["retry-after"], "1");
        }
        drop(taken);
        assert_eq!(read(&app, "application/x-ndjson").await.status(), 200);
    }

    #[tokio::test]
    async fn who_waits_for_too_long_is_told_so_at_the_end() {
        let (app, _folder) = filled().await;
        for accept in ["application/x-ndjson", "text/event-stream"] {
            let body = read(&app, accept).await.into_body();
            let _taken = fill(&app).await;
            let text = body.collect().await.unwrap().to_bytes();
            let text = std::str::from_utf8(&text).unwrap();
            let last = text.trim_end().lines().last().unwrap();
            assert!(last.contains("\"overloaded\""), "{accept}: {last}");
            assert!(text.contains("xxx"));
        }
    }

    #[tokio::test]
    async fn a_follower_that_waits_for_room_hears_that_the_server_stops() {
        let (app, _folder) = filled().await;
        let mut body = read(&app, "text/event-stream").await.into_body();
        let _taken = fill(&app).await;
        while body.frame().now_or_never().is_some() {}
        app.drain();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(frame.starts_with(b"event: draining"), "{frame:?}");
    }
}
