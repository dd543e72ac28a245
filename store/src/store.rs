//! The store's public face.

mod beside;
mod changes;
mod cosigned;
mod evidence;
mod snapshots;
mod stamped;
mod stats;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kimberlite_consensus::{Op, Recovered, Replica, Superblock};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;

use crate::{
    append::{Append, AppendError, Appended, BulkOutcome, DeleteStream, Line, Rejection},
    checkpoint::{CheckpointCounters, Due},
    compress::Packer,
    disk::{Disk, RealDisk, without_waiting},
    error::{Damage, OpenError, ReadError},
    fragment::{FragmentCache, RecordReader},
    index::TenantBody,
    kernel::{Prepared, PreparedAppend, PreparedCommand, PreparedTenant, Refusal},
    limits::{CHECKPOINT_BYTES, CHECKPOINT_RECORDS_MAX, RESOLVE_TRIES_MAX, SEGMENT_BYTES_MAX},
    log::{Log, recovery},
    node::{Files, Node, NodeHandle, Refused, Reply, SYSTEM, Tenants, machine::Answer},
    opening::{self, Opened, io_error},
    read::{Batch, Cursor, RecordView, Selection, Shape, StoredEvent, StreamInfo},
    reader::{Reader, cursor_at},
    record::{PayloadKind, Payloads},
    resolve,
    restore::RESTORING,
    scrub::Scrubber,
    signing::{Signer, Signing},
    subscribe::Subscription,
    tenant::TenantShared,
    words::{Actor, Hex, Position, StreamName, TenantName},
};

pub use evidence::{Consistency, EvidenceError};
pub use stamped::{Stamp, Stamped};
pub use stats::StoreStats;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; made where it is absent.
    pub folder: PathBuf,
    /// Bytes of a segment file, at most [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// Records behind which the index goes to disk, at most [`CHECKPOINT_RECORDS_MAX`]. Memory grows with it, and
    /// the part of the log that a start reads again.
    pub checkpoint_records: u64,
    /// How fast closed files are read again to find damage; 0 turns that off.
    pub scrub_bytes_per_s: u64,
    /// Whether segments are compressed once they are closed.
    pub compresses: bool,
    /// How logs are signed; `None`: they are not.
    pub signing: Option<Signing>,
}

/// An open store. Clones share it; the folder is free again when they and all [`Tenant`]s are dropped.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    scrubber: Option<Scrubber>,
    packer: Option<Packer>,
    pub(crate) tenants: Arc<Tenants>,
    fragments: Mutex<FragmentCache>,
    pub(crate) node: NodeHandle,
    /// Goes after the node, so that what that wrote last is signed too.
    signer: Mutex<Option<Arc<Signer>>>,
    checkpoints: Arc<CheckpointCounters>,
    /// The end of the whole log is damaged: nothing may be written.
    pub(crate) damage: Option<Damage>,
}

/// A tenant of a store. Clones share it.
#[derive(Clone, Debug)]
pub struct Tenant {
    shared: Arc<TenantShared>,
}

impl Store {
    /// Opens or makes a data folder, recovers, and starts the node. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let Options { folder, segment_bytes, checkpoint_records, .. } = options;
        std::fs::create_dir_all(&folder).map_err(|source| {
            let path = folder.clone();
            OpenError::Io { action: "making", path, source }
        })?;
        if folder.join(RESTORING).exists() {
            return Err(OpenError::Restoring { folder });
        }
        let lock = lock(&folder)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&folder));
        let due = Due {
            records: checkpoint_records.clamp(1, CHECKPOINT_RECORDS_MAX),
            bytes: CHECKPOINT_BYTES,
        };
        let opened = Self::open_on(Arc::clone(&disk), segment_bytes, due, Some(lock));
        let opened = opened
            .and_then(|store| store.signed_by(options.signing.as_ref(), &disk))
            .and_then(|store| store.beside(disk, options.scrub_bytes_per_s, options.compresses));
        opened.map_err(|error| match error {
            OpenError::Io { action, path, source } => {
                OpenError::Io { action, path: folder.join(path), source }
            }
            other => other,
        })
    }

    #[cfg(test)]
    pub(crate) fn tenants(&self) -> &Arc<Tenants> {
        &self.shared.tenants
    }

    /// Opens a store on a disk that nobody else uses.
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        due: Due,
        lock: Option<File>,
    ) -> Result<Self, OpenError> {
        let segment_bytes = segment_bytes.min(SEGMENT_BYTES_MAX);
        if !recovery::exists(&*disk)? {
            recovery::create(&*disk, Superblock::fresh(rand::random()), segment_bytes)?;
        }
        let cluster = recovery::cluster(&*disk)?;
        let known = |tenants: &Tenants| {
            if tenants.by_reference(&SYSTEM).is_none() {
                tenants.add(Arc::new(tenants.make(None, SYSTEM, cluster)));
            }
        };
        let Opened { tenants, checkpoints, recovery: recovered, committed, suffix, .. } =
            opening::open(&disk, due, lock, &known, 0)?;
        for tenant in tenants.all() {
            let count = tenant.index.read().count;
            tenant.tip.send_replace(count);
            if let Some(damage) = &recovered.damage {
                tenant.damaged(damage);
            }
        }
        let (mut superblock, end) = (recovered.superblock, recovered.end());
        let tip = if recovered.damage.is_some() { recovered.tip } else { committed };
        if recovered.damage.is_some() {
            // Nothing will be written, and the floor on disk stays as it is.
            let op = tip.as_ref().map_or(Op(0), |h| h.op);
            superblock.commit = superblock.commit.min(op);
        }
        let replica = Replica::new(0, Recovered::alone(superblock, tip));
        let log =
            Log::new(Arc::clone(&disk), superblock.cluster, segment_bytes, end, recovered.segments)
                .map_err(io_error("opening the log in"))?;
        let files = Files { disk, log, superblock: recovered.superblock_file };
        files.reserve().map_err(io_error("setting room aside in"))?;
        let damaged = recovered.damage.is_some();
        let counters = checkpoints.counters();
        let node = Node::start(replica, suffix, files, checkpoints, Arc::clone(&tenants), damaged)
            .map_err(io_error("starting the owner of the log in"))?;
        let fragments = Mutex::new(FragmentCache::default());
        let shared = Shared {
            scrubber: None,
            packer: None,
            signer: Mutex::new(None),
            tenants,
            fragments,
            node,
            checkpoints: counters,
            damage: recovered.damage,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The tenant, where it exists.
    pub fn tenant(&self, name: &TenantName) -> Option<Tenant> {
        self.shared.tenants.by_name(name).map(|shared| Tenant { shared })
    }

    /// Makes a tenant, or returns the one that exists.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn create_tenant(
        &self,
        actor: Actor,
        name: TenantName,
    ) -> Result<Tenant, AppendError> {
        let system = self.shared.tenants.by_reference(&SYSTEM).expect("there from the start");
        for _ in 0..RESOLVE_TRIES_MAX {
            if let Some(tenant) = self.tenant(&name) {
                return Ok(tenant);
            }
            let (command, seen_at) = prepare_tenant(&system, &actor, &name);
            let command = PreparedCommand::CreateTenant(command);
            match self.decide(&system, seen_at, command, 0).await? {
                Answer::Written(_) => {}
                Answer::Refused(refusal) => self.refused(&system, refusal).await?,
                other => unreachable!("not an answer to a creation: {other:?}"),
            }
        }
        Err(AppendError::Contended)
    }

    /// Appends; answers once it is durable.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(&self, tenant: &Tenant, append: Append) -> Result<Appended, AppendError> {
        refuse_repetitions(&append)?;
        let tenant = &tenant.shared;
        for _ in 0..RESOLVE_TRIES_MAX {
            let (prepared, seen_at) = resolve::append(tenant, &append).inspect_err(|e| {
                note_append_damage(tenant, e);
            })?;
            let bytes = prepared.held_bytes();
            let command = PreparedCommand::Append(prepared);
            match self.decide(tenant, seen_at, command, bytes).await? {
                Answer::Appended { receipts, replayed, count } => {
                    let position = count.checked_sub(1).and_then(Position::new);
                    return Ok(Appended { receipts, replayed, position });
                }
                Answer::Refused(refusal) => self.refused(tenant, refusal).await?,
                other => unreachable!("not an answer to an append: {other:?}"),
            }
        }
        Err(AppendError::Contended)
    }

    /// Appends lines in order up to the first that is refused; all that went through is durable then.
    pub async fn append_lines(
        &self,
        tenant: &Tenant,
        actor: Actor,
        lines: Vec<Line>,
    ) -> BulkOutcome {
        let mut receipts = Vec::with_capacity(lines.len());
        let refused = self.try_lines(&tenant.shared, &actor, &lines, &mut receipts).await.err();
        BulkOutcome { receipts, refused }
    }

    async fn try_lines(
        &self,
        tenant: &Arc<TenantShared>,
        actor: &Actor,
        lines: &[Line],
        receipts: &mut Vec<crate::append::Receipt>,
    ) -> Result<(), AppendError> {
        let mut tries = 0;
        while receipts.len() < lines.len() {
            if tries == RESOLVE_TRIES_MAX {
                return Err(AppendError::Contended);
            }
            let before = receipts.len();
            let (prepared, seen_at) = resolve::lines(tenant, actor, &lines[before..])
                .inspect_err(|e| note_append_damage(tenant, e))?;
            let bytes = prepared.iter().map(PreparedAppend::held_bytes).sum();
            let command = PreparedCommand::Lines(prepared);
            match self.decide(tenant, seen_at, command, bytes).await? {
                Answer::Lines { receipts: mut done, stop } => {
                    receipts.append(&mut done);
                    if let Some(stop) = stop {
                        self.refused(tenant, stop).await?;
                    }
                }
                other => unreachable!("not an answer to lines: {other:?}"),
            }
            tries = if receipts.len() > before { 0 } else { tries + 1 };
        }
        Ok(())
    }

    /// Deletes a stream. Returns the position of the record that says so.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn delete_stream(
        &self,
        tenant: &Tenant,
        args: DeleteStream,
    ) -> Result<Position, AppendError> {
        let tenant = &tenant.shared;
        for _ in 0..RESOLVE_TRIES_MAX {
            let (prepared, seen_at) = resolve::delete(tenant, &args)?;
            let command = PreparedCommand::Delete(prepared);
            match self.decide(tenant, seen_at, command, 0).await? {
                Answer::Written(position) => {
                    return Ok(Position::new(position).expect("below 2^53"));
                }
                Answer::Refused(refusal) => self.refused(tenant, refusal).await?,
                other => unreachable!("not an answer to a deletion: {other:?}"),
            }
        }
        Err(AppendError::Contended)
    }

    /// Hands a command to the node and waits until its answer is true.
    async fn decide(
        &self,
        tenant: &TenantShared,
        seen_at: u64,
        command: PreparedCommand,
        bytes: usize,
    ) -> Result<Answer, AppendError> {
        if let Some(damage) = self.damage_of(tenant) {
            return Err(damage.into());
        }
        let prepared = Prepared { tenant: tenant.reference, seen_at, command, bytes };
        let reply = self.shared.node.submit(prepared).map_err(|refused| match refused {
            Refused::Full => AppendError::Overloaded,
            Refused::Closed => AppendError::Closed,
        })?;
        match reply.await {
            Ok(Reply::Answer(answer)) => Ok(answer),
            Ok(Reply::NoRoom) => Err(AppendError::NoRoom),
            Err(_) => Err(AppendError::Closed),
        }
    }

    /// Turns a rejection into an error; after a stale footprint waits until resolving again can help.
    async fn refused(&self, tenant: &TenantShared, refusal: Refusal) -> Result<(), AppendError> {
        match refusal {
            Refusal::Rejected(rejection) => Err(AppendError::Rejected(rejection)),
            Refusal::Stale { until } => {
                let mut tip = tenant.tip.subscribe();
                // Bounded, because what was in flight may never commit.
                let seen = tip.wait_for(|count| *count >= until);
                let _in_time = tokio::time::timeout(Duration::from_secs(5), seen).await.is_ok();
                Ok(())
            }
        }
    }

    pub(crate) fn damage_of(&self, tenant: &TenantShared) -> Option<Damage> {
        self.shared.damage.clone().or_else(|| tenant.index.read().damage.clone())
    }

    /// Runs a reading where it may wait for the disk, or right here when it will not.
    async fn reading<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        hot: bool,
        read: impl Fn(Reader<'_>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (store, owned) = (self.clone(), tenant.clone());
        let run =
            move || read(Reader { tenant: &owned.shared, fragments: &store.shared.fragments });
        // Mostly the operating system has in memory what is asked for.
        let mut result = if hot { run() } else { without_waiting(&run) };
        if result.as_ref().is_err_and(ReadError::waits) {
            // A panic in there goes on here, as if it had not been another thread.
            result = match tokio::task::spawn_blocking(run).await {
                Ok(result) => result,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
        }
        // Damage that a read finds stops writes too.
        if let Err(ReadError::Damaged(damage)) = &result {
            tenant.shared.damaged(damage);
        }
        result
    }

    fn hot(&self, tenant: &Tenant, selection: &Selection) -> bool {
        Reader { tenant: &tenant.shared, fragments: &self.shared.fragments }.hot(selection)
    }

    /// Reads events in a ready shape.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(
        &self,
        tenant: &Tenant,
        selection: &Selection,
        shape: Shape,
    ) -> Result<Batch, ReadError> {
        let (hot, selection) = (self.hot(tenant, selection), selection.clone());
        self.reading(tenant, hot, move |reader| reader.read(&selection, shape)).await
    }

    /// Reads events taken apart (for other formats), and where to resume. Same rules as [`Store::read`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_events(
        &self,
        tenant: &Tenant,
        selection: &Selection,
    ) -> Result<(Vec<StoredEvent>, Batch), ReadError> {
        let (hot, selection) = (self.hot(tenant, selection), selection.clone());
        self.reading(tenant, hot, move |reader| reader.read_events(&selection)).await
    }

    /// One record, with every hash checked.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn record(
        &self,
        tenant: &Tenant,
        position: Position,
    ) -> Result<RecordView, ReadError> {
        self.reading(tenant, false, move |reader| reader.record(position)).await
    }

    /// One event; [`ReadError::NoRecord`] where the record is no event.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn event(
        &self,
        tenant: &Tenant,
        position: Position,
    ) -> Result<StoredEvent, ReadError> {
        let read =
            move |reader: Reader<'_>| RecordReader::point().event(reader.tenant, position.get());
        self.reading(tenant, false, read).await?.ok_or(ReadError::NoRecord)
    }

    /// A stream.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn stream(
        &self,
        tenant: &Tenant,
        name: &StreamName,
    ) -> Result<Option<StreamInfo>, ReadError> {
        Ok(tenant.shared.stream(name.as_str())?.map(|(_, state)| state.info()))
    }

    /// Streams in the order of their names (bytes), behind `after`, at most `limit`.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn streams(
        &self,
        tenant: &Tenant,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<StreamInfo>, ReadError> {
        let read = move |reader: Reader<'_>| {
            let found = reader.tenant.streams(&prefix, after.as_deref(), limit)?;
            Ok(found.iter().map(|(_, state)| state.info()).collect())
        };
        self.reading(tenant, false, read).await
    }

    /// The tip: how many records the tenant's log has committed. Wakes whenever it grows.
    pub fn tip(&self, tenant: &Tenant) -> watch::Receiver<u64> {
        tenant.shared.tip.subscribe()
    }

    /// To be woken whenever there may be something new for `selection`.
    pub fn subscribe(&self, tenant: &Tenant, selection: &Selection) -> Subscription {
        Subscription::new(&tenant.shared, selection)
    }

    /// The cursor of a committed record.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn cursor(&self, tenant: &Tenant, position: Position) -> Result<Option<Cursor>, ReadError> {
        cursor_at(&tenant.shared.view(), position.get())
    }

    /// Damage known by now, of this tenant.
    pub fn damage(&self, tenant: &Tenant) -> Option<Damage> {
        self.damage_of(&tenant.shared)
    }

    /// Finishes what was accepted, writes the superblock, stops the node.
    pub async fn close(&self) {
        self.shared.node.close().await;
        // What was written last is signed before this comes back.
        let signer = self.shared.signer.lock().take();
        let ended = tokio::task::spawn_blocking(move || drop(signer)).await;
        tracing::debug!(clean = ended.is_ok(), "the last checkpoint is signed");
    }
}

impl Tenant {
    /// Its name.
    ///
    /// # Panics
    /// Never: only named tenants are handed out.
    pub fn name(&self) -> &TenantName {
        self.shared.name.as_ref().expect("only named tenants are handed out")
    }
}

fn note_append_damage(tenant: &TenantShared, error: &AppendError) {
    if let AppendError::Read(ReadError::Damaged(damage)) = error {
        tenant.damaged(damage);
    }
}

/// One process a folder.
fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let io = |source| OpenError::Io { action: "opening", path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| OpenError::Locked { folder: folder.to_owned() })?;
    Ok(file)
}

fn prepare_tenant(
    system: &TenantShared,
    actor: &Actor,
    name: &TenantName,
) -> (PreparedTenant, u64) {
    let body = TenantBody {
        tenant: name.to_string(),
        reference: Hex(&crate::chance::random::<[u8; 16]>()).to_string(),
        log_id: Hex(&crate::chance::random::<[u8; 16]>()).to_string(),
    };
    let mut payloads = Payloads::default();
    let json = serde_json::to_vec(&body).expect("plain fields serialise");
    payloads.push_clear(PayloadKind::Body, &json);
    let index = system.index.read();
    let actor = resolve::actor_use(&index, actor);
    (PreparedTenant { actor, id: resolve::new_id(), payloads }, index.count)
}

/// A stream or an id may stand only once in a command.
fn refuse_repetitions(append: &Append) -> Result<(), AppendError> {
    let mut streams = std::collections::HashSet::new();
    if let Some(twice) = append.appends.iter().find(|a| !streams.insert(&a.stream)) {
        return Err(AppendError::StreamTwice(twice.stream.clone()));
    }
    let mut ids = std::collections::HashSet::new();
    let mut given = append.appends.iter().flat_map(|a| &a.events).filter_map(|e| e.id);
    match given.find(|id| !ids.insert(*id)) {
        Some(id) => Err(AppendError::Rejected(Rejection::EventIdConflict { id, position: None })),
        None => Ok(()),
    }
}
