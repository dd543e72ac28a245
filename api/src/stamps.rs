//! Has a time authority stamp the log's checkpoints (RFC 3161), so that who checks a proof need not take the log's word for
//! when its records came. The token becomes a record.
//!
//! One task asks, on a schedule, and holds nobody up. An answer that is none to the question leaves no record.
//!
//! Absent on purpose: TLS, and checking the token's signature, see [`token`].

mod token;

use std::{str::FromStr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::StatusCode;
use kimberlite_store::{
    SignedLog, Stamp, Stamped, Store, Tenant,
    append::AppendError,
    proof::Note,
    words::{Position, Timestamp},
};
use sha2::{Digest, Sha256};
use tokio::{task::JoinSet, time::sleep};

use self::token::{AnswerError, Question};
use crate::{
    app::App,
    limits::{STAMP_ANSWER_BYTES_MAX, STAMP_PATIENCE_MS, STAMP_RETRY_MS, STAMP_RETRY_MS_MAX},
    metrics::StampFigures,
    outbound::{Bounds, Place, PostError, post},
};

/// What a request is sent as (RFC 3161, section 3.4).
const MEDIA_TYPE: &str = "application/timestamp-query";

/// A time authority: where it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityPlace {
    url: String,
    place: Place,
}

/// `http://host:port/path`.
impl FromStr for AuthorityPlace {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, &'static str> {
        Ok(Self { url: url.to_owned(), place: Place::parse(url)? })
    }
}

/// Why a checkpoint was not stamped.
#[derive(Debug, thiserror::Error)]
enum StampError {
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("it answered with status {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("its token cannot become a record")]
    Append(#[from] AppendError),
}

/// What the task has.
struct Stamper {
    store: Store,
    tenant: Tenant,
    figures: StampFigures,
    every: Duration,
    failing: bool,
}

/// Has checkpoints stamped, where an authority is configured, until the set is dropped.
pub(crate) fn start(app: &App) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let stamper = Stamper {
        store: app.store.clone(),
        tenant: app.tenant.clone(),
        figures: app.metrics.stamps.clone(),
        every: app.config.stamped_every,
        failing: false,
    };
    tasks.spawn(stamper.run(app.config.authority.clone()));
    tasks
}

impl Stamper {
    async fn run(mut self, authority: Option<AuthorityPlace>) {
        let mut last = match self.store.newest_stamp(&self.tenant).await {
            Ok(last) => last,
            Err(error) => {
                tracing::error!(%error, "the newest time stamp cannot be read; none is made");
                return;
            }
        };
        self.shows(last.as_ref());
        let Some(authority) = authority else { return };
        if let Some(last) = &last {
            sleep(self.left(last)).await;
        }
        let mut signed = self.store.watch_signed(&self.tenant);
        let mut pause = STAMP_RETRY_MS;
        loop {
            let newest = signed.borrow_and_update().clone();
            let news = |size| last.as_ref().map_or(size, |last| last.news(size)) > 0;
            let Some(newest) = newest.filter(|newest| news(newest.checkpoint.size)) else {
                if signed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self.stamp(&authority, &newest).await {
                Ok((position, stamp)) => {
                    let previous = last.map(|last| last.position);
                    last = Some(Stamped { position, previous, stamp });
                    self.figures.stamps.inc();
                    self.shows(last.as_ref());
                    self.fails(&authority, None);
                    pause = STAMP_RETRY_MS;
                    sleep(self.every).await;
                }
                Err(error) => {
                    self.figures.failures.inc();
                    self.fails(&authority, Some(&error));
                    sleep(Duration::from_millis(pause)).await;
                    pause = STAMP_RETRY_MS_MAX.min(2 * pause);
                }
            }
        }
    }

    /// How long after a start the next stamp is due.
    fn left(&self, last: &Stamped) -> Duration {
        let since = Timestamp::now().micros().saturating_sub(last.stamp.time.micros());
        // A time that lies ahead counts as now.
        self.every.saturating_sub(Duration::from_micros(u64::try_from(since).unwrap_or(0)))
    }

    /// Asks for a checkpoint's stamp, and makes a record of it.
    async fn stamp(
        &self,
        authority: &AuthorityPlace,
        signed: &SignedLog,
    ) -> Result<(Position, Stamp), StampError> {
        // The log's own signature alone: who cosigned it yet is chance.
        let note = &signed.note;
        let checkpoint =
            Note::new(note.text().to_owned(), note.signatures()[0].clone()).to_string();
        let question = Question::new(Sha256::digest(&checkpoint).into(), rand::random());
        let bounds = Bounds {
            patience: Duration::from_millis(STAMP_PATIENCE_MS),
            answer_bytes_max: STAMP_ANSWER_BYTES_MAX,
        };
        let body = question.encode().into();
        let (status, answer) = post(&authority.place, Some(MEDIA_TYPE), body, bounds).await?;
        if status != StatusCode::OK {
            return Err(StampError::Status(status));
        }
        let token = question.accept(&answer)?;
        let time = Timestamp::from_micros(token.time.as_microsecond());
        let stamp = Stamp {
            checkpoint,
            authority: authority.url.clone(),
            time: time.ok_or(AnswerError::Malformed)?,
            token: BASE64_STANDARD.encode(token.der),
        };
        Ok((self.store.stamp(&self.tenant, &stamp).await?, stamp))
    }

    fn shows(&self, last: Option<&Stamped>) {
        self.figures.time.set(last.map_or(0, |last| last.stamp.time.micros() / 1_000_000));
    }

    /// Says it once when there are no stamps any more, and once when there are again.
    fn fails(&mut self, authority: &AuthorityPlace, error: Option<&StampError>) {
        let authority = authority.url.as_str();
        if let Some(error) = error {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            if self.failing {
                tracing::debug!(authority, %error, cause, "it gave no time stamp");
            } else {
                tracing::warn!(authority, %error, cause, "the time authority gave no stamp");
            }
        } else if self.failing {
            tracing::info!(authority, "the time authority stamps again");
        }
        self.failing = error.is_some();
        self.figures.failing.set(i64::from(self.failing));
    }
}
