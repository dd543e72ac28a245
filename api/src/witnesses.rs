//! Has witnesses cosign the log's checkpoints (C2SP tlog-witness, as client), so that who checks a proof need not take the
//! log's word for having one history.
//!
//! Each witness is asked by a task of its own and holds nobody up. They ask for the same checkpoint, so that one carries
//! several cosignatures also while records keep coming. What a witness saw last is asked of it, never kept here.
//!
//! Absent on purpose: TLS. What is sent is public and signed, and so is the answer.

use std::{str::FromStr, sync::Arc, time::Duration};

use hyper::StatusCode;
use kimberlite_store::{
    EvidenceError, SignedLog, Store, Tenant,
    proof::{KeyKind, Note, NoteError, NoteSignature, Submission, VerifierKey},
};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::{
    app::App,
    limits::{
        WITNESS_ANSWER_BYTES_MAX, WITNESS_PATIENCE_MS, WITNESS_RETRY_MS, WITNESS_RETRY_MS_MAX,
    },
    metrics::WitnessFigures,
    outbound::{Bounds, Place, PostError, post},
};

/// A witness: where it is asked, and the key that its cosignatures are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessPlace {
    /// Of `add-checkpoint`.
    place: Place,
    key: VerifierKey,
}

impl WitnessPlace {
    /// Its public key.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }
}

/// `http://host:port/prefix`, a space, its public key.
impl FromStr for WitnessPlace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (url, key) =
            text.split_once(' ').ok_or("needs a URL, a space and a key for each witness")?;
        let mut place = Place::parse(url)?;
        let key: VerifierKey = key.trim().parse().map_err(|_| "holds no public key")?;
        if key.kind() != KeyKind::Cosigner {
            return Err("holds a key that is no witness's");
        }
        place.path = format!("{}/add-checkpoint", place.path.trim_end_matches('/'));
        Ok(Self { place, key })
    }
}

/// Why a witness did not cosign.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("it refused: status {0}")]
    Refused(StatusCode),
    #[error("its answer is not what the protocol has")]
    Form,
    #[error("it answered with no cosignature of its own that holds")]
    Cosignature(#[source] NoteError),
    #[error("it saw {seen} records of this log, which has {size}")]
    Behind { seen: u64, size: u64 },
    #[error("there is no proof for it")]
    Evidence(#[from] EvidenceError),
}

/// What the tasks share.
struct Asking {
    store: Store,
    tenant: Tenant,
    figures: WitnessFigures,
    /// The checkpoint that is being cosigned. Whoever has done that one goes on to the newest; the others follow.
    target: Mutex<Option<Arc<SignedLog>>>,
}

/// One witness, as its task knows it.
struct Witness {
    place: WitnessPlace,
    asking: Arc<Asking>,
    /// The origin and size that it cosigned last.
    done: (String, u64),
    /// Records that it saw last, as far as is known.
    seen: u64,
    failing: bool,
}

/// Asks all witnesses of the configuration, until the set is dropped.
pub(crate) fn ask_all(app: &App) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let asking = Arc::new(Asking {
        store: app.store.clone(),
        tenant: app.tenant.clone(),
        figures: app.metrics.witnesses.clone(),
        target: Mutex::new(None),
    });
    for place in &app.config.witnesses {
        let (place, asking) = (place.clone(), Arc::clone(&asking));
        let witness = Witness { place, asking, done: Default::default(), seen: 0, failing: false };
        tasks.spawn(witness.run());
    }
    tasks
}

impl Witness {
    async fn run(mut self) {
        let mut signed = self.asking.store.watch_signed(&self.asking.tenant);
        let mut pause = WITNESS_RETRY_MS;
        loop {
            let newest = signed.borrow_and_update().clone();
            let Some(next) = newest.and_then(|newest| self.next(newest)) else {
                if signed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self.cosign(&next).await {
                Ok(()) => {
                    self.done = (next.checkpoint.origin.clone(), next.checkpoint.size);
                    self.asking.figures.cosigned.inc();
                    self.fails(None);
                    pause = WITNESS_RETRY_MS;
                }
                Err(error) => {
                    self.asking.figures.failures.inc();
                    self.fails(Some(&error));
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    pause = WITNESS_RETRY_MS_MAX.min(2 * pause);
                }
            }
        }
    }

    /// What is to be cosigned now.
    fn next(&self, newest: Arc<SignedLog>) -> Option<Arc<SignedLog>> {
        let mut target = self.asking.target.lock();
        let open = target.as_ref().filter(|target| {
            let theirs = &target.checkpoint;
            theirs.origin == newest.checkpoint.origin
                && (theirs.origin != self.done.0 || theirs.size > self.done.1)
        });
        if let Some(target) = open {
            return Some(Arc::clone(target));
        }
        if newest.is_cosigned_by(&self.place.key) {
            return None;
        }
        *target = Some(Arc::clone(&newest));
        Some(newest)
    }

    /// Asks for a checkpoint's cosignature; again, where the witness last saw another size than was thought.
    async fn cosign(&mut self, signed: &SignedLog) -> Result<(), AskError> {
        let Asking { store, tenant, .. } = &*self.asking;
        let size = signed.checkpoint.size;
        let note = &signed.note;
        let note = Note::new(note.text().to_owned(), note.signatures()[0].clone());
        let mut told = false;
        loop {
            let seen = self.seen;
            let proof = match seen {
                0 => Vec::new(),
                _ if seen > size => {
                    // It may have forgotten, or this log was another one: it is asked anew.
                    self.seen = 0;
                    return Err(AskError::Behind { seen, size });
                }
                _ => store.consistency(tenant, seen, Some(size)).await?.hashes,
            };
            let submission =
                Submission::new(seen, proof, note.clone()).map_err(|_| AskError::Form)?;
            let bounds = Bounds {
                patience: Duration::from_millis(WITNESS_PATIENCE_MS),
                answer_bytes_max: WITNESS_ANSWER_BYTES_MAX,
            };
            let body = submission.to_string().into();
            let (status, body) = post(&self.place.place, None, body, bounds).await?;
            let text = std::str::from_utf8(&body).map_err(|_| AskError::Form)?;
            match status {
                StatusCode::OK => {
                    let key = &self.place.key;
                    let lines = text.lines().map(NoteSignature::parse);
                    let lines: Option<Vec<_>> = lines.collect();
                    let mine = |s: &NoteSignature| s.name() == key.name() && s.id() == key.id();
                    let found = lines.ok_or(AskError::Form)?.into_iter().find(mine);
                    let found = found.ok_or(AskError::Cosignature(NoteError::Unknown))?;
                    let added = store.add_cosignature(tenant, signed, key, &found);
                    added.map_err(AskError::Cosignature)?;
                    self.seen = size;
                    return Ok(());
                }
                StatusCode::CONFLICT if !told => {
                    told = true;
                    self.seen = text.trim_end().parse().map_err(|_| AskError::Form)?;
                }
                other => return Err(AskError::Refused(other)),
            }
        }
    }

    /// Says it once when a witness stops cosigning, and once when it does again.
    fn fails(&mut self, error: Option<&AskError>) {
        let witness = self.place.key.name();
        if let Some(error) = error {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            match error {
                AskError::Behind { .. } => tracing::error!(witness, %error, "a witness saw more"),
                _ if self.failing => tracing::debug!(witness, %error, cause, "it does not cosign"),
                _ => tracing::warn!(witness, %error, cause, "a witness does not cosign"),
            }
        } else if self.failing {
            tracing::info!(witness, "a witness cosigns again");
        }
        let failing = error.is_some();
        if failing != self.failing {
            self.asking.figures.failing.inc_by(if failing { 1 } else { -1 });
        }
        self.failing = failing;
    }
}
