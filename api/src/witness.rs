//! `kimberlite witness`: cosigns other logs' checkpoints (C2SP tlog-witness), and remembers for each the last one.
//!
//! A witness that has seen a log at some size never cosigns a history that does not begin with it: what it saw is durable
//! before it answers. It asks nobody who they are: a log's own signature is all that counts.
//!
//! Absent on purpose: TLS (a proxy's work), reading the logs themselves, `sign-subtree`.

mod memory;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{Router, body, extract::State, response::Response, routing::post};
use kimberlite_store::{
    proof::{Refused, SUBMISSION_BYTES_MAX, Submission, VerifierKey},
    words::Timestamp,
};
use tokio::sync::Semaphore;

use memory::Memory;
pub use memory::MemoryError;

use crate::{config::Config, problem::witness as answer};

/// Submissions that are judged or wait for it at one time; each may hold a body.
const SUBMISSIONS_MAX: usize = 32;

/// How a witness is started.
#[derive(Clone, Debug)]
pub struct WitnessArgs {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its key lies and what it saw.
    pub folder: PathBuf,
    /// Its name; left out, the one under which its key was made.
    pub name: Option<String>,
    /// Keys of the logs that it cosigns; several of one origin while a log changes its key.
    pub logs: Vec<VerifierKey>,
}

/// Why a submission got no cosignature.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error(transparent)]
    Form(#[from] kimberlite_store::proof::NoSubmission),
    #[error("the body is longer than any submission, or broke off")]
    Body,
    #[error("the body did not come in time")]
    Late,
    #[error("too many submissions at once")]
    Busy,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("what was seen could not be kept")]
    Kept(#[source] std::io::Error),
}

/// A witness, ready to be asked.
pub struct Witness {
    memory: Memory,
    room: Semaphore,
    config: Config,
}

impl Witness {
    /// Opens its folder, which is made with a new key where it is not there.
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub fn open(args: &WitnessArgs, config: Config) -> Result<Arc<Self>, MemoryError> {
        let memory = Memory::open(&args.folder, args.name.as_deref(), args.logs.clone())?;
        Ok(Arc::new(Self { memory, room: Semaphore::new(SUBMISSIONS_MAX), config }))
    }

    /// What checks its cosignatures.
    pub fn verifier(&self) -> &VerifierKey {
        self.memory.verifier()
    }

    /// Its one route.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().route("/add-checkpoint", post(add_checkpoint)).with_state(Arc::clone(self))
    }

    async fn submit(self: &Arc<Self>, body: body::Body) -> Result<String, SubmitError> {
        let _room = self.room.try_acquire().map_err(|_| SubmitError::Busy)?;
        let body = body::to_bytes(body, SUBMISSION_BYTES_MAX);
        let body = tokio::time::timeout(self.config.body_timeout, body);
        let body = body.await.map_err(|_| SubmitError::Late)?.map_err(|_| SubmitError::Body)?;
        let submission = Submission::parse(&body)?;
        let witness = Arc::clone(self);
        let now_s = Timestamp::now().micros().max(0).cast_unsigned() / 1_000_000;
        let cosigned =
            tokio::task::spawn_blocking(move || witness.memory.cosign(&submission, now_s)).await;
        cosigned.unwrap_or_else(|panic| Err(SubmitError::Kept(std::io::Error::other(panic))))
    }
}

async fn add_checkpoint(State(witness): State<Arc<Witness>>, body: body::Body) -> Response {
    let submitted = witness.submit(body).await;
    if let Err(SubmitError::Kept(error)) = &submitted {
        tracing::error!(%error, "what was seen could not be kept");
    }
    answer::of(submitted)
}
