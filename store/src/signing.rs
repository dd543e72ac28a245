//! Signs what is committed: a checkpoint of each tenant's log within a second of any record, off the way of writers.
//!
//! A thread of its own looks at the tips, takes new leaf hashes into the tree, signs its size and root, and makes that
//! durable beside the key before anybody sees it. So a log that went back below what its key has signed is known at the
//! next start: it forks, and another key signs under another origin. `specs/decisions/0017-signed-checkpoints.md`.
//!
//! A lack of room is tried again, with everything written anew. Any other failure of a write or a sync stops the process.
//!
//! Absent on purpose: the system tenant's log, which nobody is shown, is not signed.

mod keys;
mod last;
mod log;
mod restored;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

pub use self::last::last_signed;
use self::log::{MARKS, fork_body};
pub(crate) use self::{
    keys::KeyFolder,
    log::{Found, Places, SigningLog},
    restored::{RestoredLog, RestoredMark},
};
use crate::{
    append::AppendError,
    disk::Disk,
    error::ReadError,
    fragment::FragmentCache,
    index::ForkBody,
    kernel::{Prepared, PreparedCommand, PreparedFork},
    limits::SIGN_PAUSE_MS,
    node::{NodeHandle, Reply, Tenants, machine::Answer},
    proof::{Checkpoint, Note, VerifierKey},
    record::{PayloadKind, Payloads},
    resolve,
    tenant::TenantShared,
    tiles::Tiles,
    words::Actor,
};

/// Who records that a log forked when nobody asked for it.
const ACTOR: &str = "recovery";

/// How logs are signed.
#[derive(Clone, Debug)]
pub struct Signing {
    /// Where keys are kept, each in a file of its own. No backup holds them.
    pub folder: PathBuf,
    /// What origins begin with; empty for `kimberlite-` and 16 digits of the cluster's id. Fixed at the first start.
    pub origin: String,
}

/// Why logs cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The log was signed, and the key, or what it signed last, is gone.
    #[error(
        "{} is missing, but this log was signed: bring the folder of keys back, or restore the data from a backup into a new folder",
        path.display()
    )]
    KeyMissing {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what was written there.
    #[error("{} is damaged: bring it back from where the keys are kept too", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The setting is not that of the first start.
    #[error("log.origin is {set}, but this log's origin was fixed as {kept} at its first start")]
    OriginChanged {
        /// What it was.
        kept: String,
        /// What it is now.
        set: String,
    },
    /// The setting cannot be an origin.
    #[error(
        "{set} cannot be an origin: at most 128 bytes, without spaces, + and control characters"
    )]
    Origin {
        /// The setting.
        set: String,
    },
    /// The log is shorter than what its key has signed, and serves already.
    #[error("the log of {origin} is not what was signed; it forks at the next start")]
    Behind {
        /// Its origin.
        origin: String,
    },
    /// The log cannot be read.
    #[error("the log cannot be read to be signed")]
    Read(#[from] ReadError),
    /// That the log forked cannot be written.
    #[error("the fork could not be written")]
    Fork(#[source] AppendError),
    /// What was to be made durable may not be: only another process can tell, unless there was no room.
    #[error("{action} {} failed", path.display())]
    NotDurable {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system failed otherwise.
    #[error("{action} {} failed", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A public key of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKeyLine {
    /// The key, with the origin as its name.
    pub vkey: VerifierKey,
    /// Records of the log when it began to sign.
    pub from: u64,
}

/// A log's newest checkpoint. It is durable.
#[derive(Debug)]
pub struct SignedLog {
    /// Size and root.
    pub checkpoint: Checkpoint,
    /// Signed.
    pub note: Note,
    /// Every key that signed this log, the oldest first; the last one signs now.
    pub keys: Vec<LogKeyLine>,
    pub(crate) tiles: Arc<Tiles>,
}

impl SigningError {
    /// Whether this process cannot know any more what the disk holds.
    fn is_fatal(&self) -> bool {
        matches!(self, Self::NotDurable { source, .. } if source.kind() != io::ErrorKind::StorageFull)
    }
}

/// Who signs; it ends with this, once all that is committed is signed.
#[derive(Debug)]
pub(crate) struct Signer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// On a disk without threads beside the log's owner, what a thread would own.
    by_hand: Mutex<Option<Signatures>>,
}

type Rotated = oneshot::Sender<Result<(), SigningError>>;

#[derive(Default)]
struct Asked {
    stop: bool,
    rotate: Vec<([u8; 16], Rotated)>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Asked>,
    woken: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl std::fmt::Debug for Signatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signatures")
    }
}

/// What the thread owns.
struct Signatures {
    disk: Arc<dyn Disk>,
    keys: KeyFolder,
    tenants: Arc<Tenants>,
    logs: HashMap<[u8; 16], Box<SigningLog>>,
    fragments: Mutex<FragmentCache>,
    /// Logs that cannot be signed, each said once.
    failing: HashMap<[u8; 16], String>,
    /// Logs whose keys may have come to their place without a sync.
    unsynced: HashSet<[u8; 16]>,
}

/// What a key signed may not be on the disk.
struct Broken;

impl Signer {
    /// Opens what was signed before, lets logs fork that went back, and starts the thread. Blocks. The disk of `keys` is
    /// the folder that `args` names.
    pub(crate) fn start(
        args: &Signing,
        keys: Arc<dyn Disk>,
        disk: Arc<dyn Disk>,
        cluster: [u8; 16],
        tenants: Arc<Tenants>,
        node: &NodeHandle,
    ) -> Result<Self, SigningError> {
        let listed = |source| SigningError::Io { action: "listing", path: MARKS.into(), source };
        let known = disk.exists(MARKS).and_then(|there| Ok(there && !disk.list(MARKS)?.is_empty()));
        let known = known.map_err(listed)?;
        let keys = KeyFolder::open(keys, &args.folder, cluster, &args.origin, known)?;
        let mut signatures = Signatures {
            disk,
            keys,
            tenants,
            logs: HashMap::new(),
            fragments: Mutex::default(),
            failing: HashMap::new(),
            unsynced: HashSet::new(),
        };
        signatures.open_all(node)?;
        let shared = Arc::new(Shared::default());
        if !signatures.disk.works_beside() {
            return Ok(Self { shared, thread: None, by_hand: Mutex::new(Some(signatures)) });
        }
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("sign".into())
            .spawn(move || signatures.run(&theirs))
            .map_err(|source| SigningError::Io {
                action: "starting a thread for",
                path: MARKS.into(),
                source,
            })?;
        Ok(Self { shared, thread: Some(thread), by_hand: Mutex::new(None) })
    }

    /// Has another key sign a log from here on.
    pub(crate) async fn rotate(&self, tenant: [u8; 16]) -> Option<Result<(), SigningError>> {
        let (sender, receiver) = oneshot::channel();
        self.shared.asked.lock().rotate.push((tenant, sender));
        self.shared.woken.notify_all();
        receiver.await.ok()
    }

    /// Does what there is to do, here and now, where no thread does.
    #[cfg(test)]
    pub(crate) fn sign_now(&self) {
        self.turn_by_hand();
    }

    /// Has another key sign a log from here on, where no thread does.
    #[cfg(test)]
    pub(crate) fn rotate_now(&self, tenant: [u8; 16]) -> Option<Result<(), SigningError>> {
        let (sender, mut receiver) = oneshot::channel();
        self.shared.asked.lock().rotate.push((tenant, sender));
        self.turn_by_hand();
        receiver.try_recv().ok()
    }

    fn turn_by_hand(&self) {
        if let Some(signatures) = &mut *self.by_hand.lock() {
            signatures.turn(std::mem::take(&mut self.shared.asked.lock().rotate));
        }
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.shared.asked.lock().stop = true;
        self.shared.woken.notify_all();
        if let Some(thread) = self.thread.take() {
            let panicked = thread.join().is_err();
            debug_assert!(!panicked, "the thread that signs does not panic");
        }
        self.turn_by_hand();
    }
}

impl Signatures {
    /// Opens every log at a start.
    fn open_all(&mut self, node: &NodeHandle) -> Result<(), SigningError> {
        let io =
            |action| move |source| SigningError::Io { action, path: restored::FILE.into(), source };
        let restored = RestoredMark::read(&*self.disk).map_err(io("reading"))?;
        for tenant in self.tenants.all() {
            // What is damaged is neither shorter nor another log: it waits for repair.
            if tenant.name.is_none() || tenant.index.read().damage.is_some() {
                continue;
            }
            let places = Places { disk: &self.disk, keys: &self.keys };
            // A restore that cut the log has written that it forked.
            let restored = restored.as_ref().map(|mark| (mark, mark.log(tenant.reference)));
            let restored = restored.filter(|(_, log)| !log.forked);
            let old_origin = match SigningLog::open(&places, &tenant)? {
                Found::Log(log) => match restored {
                    Some((mark, _)) if !mark.keeps_origin => Some(log.origin().to_owned()),
                    _ => {
                        self.logs.insert(tenant.reference, log);
                        continue;
                    }
                },
                Found::Unsigned => restored.map(|(_, log)| log.origin),
                Found::Behind(origin) => Some(origin),
            };
            if let Some(origin) = old_origin {
                tracing::warn!(origin, "more may have been signed than this log has; it forks");
                append_fork(node, &tenant, &fork_body(&places, &tenant, origin)?)?;
            }
            let log = SigningLog::begin(&places, &tenant)?;
            self.logs.insert(tenant.reference, Box::new(log));
        }
        if restored.is_some() {
            RestoredMark::remove(&*self.disk).map_err(io("removing"))?;
        }
        Ok(())
    }

    fn run(mut self, shared: &Shared) {
        let mut next = Instant::now();
        loop {
            let (stop, rotate) = {
                let mut asked = shared.asked.lock();
                if !asked.stop && asked.rotate.is_empty() {
                    shared.woken.wait_until(&mut asked, next);
                }
                (asked.stop, std::mem::take(&mut asked.rotate))
            };
            // From begin to begin: what is committed while a long round is under way does not wait for a pause, too.
            next = Instant::now() + Duration::from_millis(SIGN_PAUSE_MS);
            if !self.turn(rotate) || stop {
                return;
            }
        }
    }

    /// Does what there is to do; says whether to go on.
    fn turn(&mut self, rotate: Vec<([u8; 16], Rotated)>) -> bool {
        let done = self.round().and_then(|()| self.rotate(rotate));
        if done.is_err() {
            self.disk.fatal();
        }
        done.is_ok()
    }

    fn rotate(&mut self, rotate: Vec<([u8; 16], Rotated)>) -> Result<(), Broken> {
        for (tenant, reply) in rotate {
            let places = Places { disk: &self.disk, keys: &self.keys };
            let Some(log) = self.logs.get_mut(&tenant) else { continue };
            let rotated = log.rotate(&places);
            if let Err(error) = &rotated {
                // It may hold a key that is not kept.
                self.logs.remove(&tenant);
                if matches!(error, SigningError::NotDurable { .. }) {
                    self.unsynced.insert(tenant);
                }
                goes_on(error)?;
            }
            let _caller_left = reply.send(rotated).is_err();
        }
        Ok(())
    }

    /// Signs whatever has grown.
    fn round(&mut self) -> Result<(), Broken> {
        for tenant in self.tenants.all() {
            let reference = tenant.reference;
            if tenant.name.is_none() || tenant.index.read().damage.is_some() {
                continue;
            }
            match self.sign(&tenant) {
                Ok(()) => drop(self.failing.remove(&reference)),
                Err(error) => {
                    goes_on(&error)?;
                    if matches!(error, SigningError::NotDurable { .. }) {
                        self.unsynced.insert(reference);
                    }
                    let text = crate::error::chain(&error);
                    if self.failing.get(&reference) != Some(&text) {
                        tracing::error!(error = text, "a log is not signed");
                        self.failing.insert(reference, text);
                    }
                    // What the tree holds may be half of what was to be taken in.
                    self.logs.remove(&reference);
                }
            }
        }
        Ok(())
    }

    fn sign(&mut self, tenant: &Arc<TenantShared>) -> Result<(), SigningError> {
        let places = Places { disk: &self.disk, keys: &self.keys };
        let log = match self.logs.entry(tenant.reference) {
            std::collections::hash_map::Entry::Occupied(log) => log.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                if self.unsynced.contains(&tenant.reference) {
                    self.keys.rewrite(tenant.reference)?;
                    self.unsynced.remove(&tenant.reference);
                }
                place.insert(match SigningLog::open(&places, tenant)? {
                    Found::Log(log) => log,
                    Found::Unsigned => Box::new(SigningLog::begin(&places, tenant)?),
                    Found::Behind(origin) => return Err(SigningError::Behind { origin }),
                })
            }
        };
        if log.is_behind() { log.advance(&places, &self.fragments) } else { Ok(()) }
    }
}

/// Behind a failure that only another process can see through, says why this one does not.
fn goes_on(error: &SigningError) -> Result<(), Broken> {
    if error.is_fatal() {
        tracing::error!(
            error = crate::error::chain(error),
            "a log is not signed; the process stops"
        );
        return Err(Broken);
    }
    Ok(())
}

/// Appends the record that says that a log forked.
fn append_fork(
    node: &NodeHandle,
    tenant: &TenantShared,
    body: &ForkBody,
) -> Result<(), SigningError> {
    let actor = Actor::new(ACTOR).expect("a plain word");
    fork(node, tenant, &actor, body).map_err(SigningError::Fork)
}

/// Appends a fork durably. Blocks; nobody else may use the store yet.
pub(crate) fn fork(
    node: &NodeHandle,
    tenant: &TenantShared,
    actor: &Actor,
    body: &ForkBody,
) -> Result<(), AppendError> {
    let mut payloads = Payloads::default();
    let json = serde_json::to_vec(body).expect("plain fields serialise");
    payloads.push_clear(PayloadKind::Body, &json);
    let actor = resolve::actor_use(&tenant.index.read(), actor);
    let id = resolve::new_id();
    let command = PreparedCommand::Fork(PreparedFork { actor, id, payloads });
    let prepared = Prepared { tenant: tenant.reference, seen_at: body.size, command, bytes: 0 };
    // Nobody else knows this store, so nothing is full, and nothing has changed since.
    let mut reply = node.submit(prepared).map_err(|_| AppendError::Closed)?;
    loop {
        // Who opens a store may stand in an async task, where a channel refuses to block.
        match reply.try_recv() {
            Ok(Reply::Answer(Answer::Written(_))) => return Ok(()),
            Ok(Reply::NoRoom) => return Err(AppendError::NoRoom),
            Ok(Reply::Answer(other)) => unreachable!("not an answer to a fork: {other:?}"),
            Err(oneshot::error::TryRecvError::Empty) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(oneshot::error::TryRecvError::Closed) => return Err(AppendError::Closed),
        }
    }
}
