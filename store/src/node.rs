//! The node: one thread owns the log, the replica and the windows; others send it commands and wait.

pub(crate) mod engine;
pub(crate) mod machine;
#[cfg(feature = "sim")]
pub(crate) mod mend;

use std::{
    collections::HashMap,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use kimberlite_consensus::{Header, Input, Replica, Superblock};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use tokio::sync::oneshot;

use crate::{
    checkpoint::Checkpoints,
    disk::{Disk, DiskFile},
    error::{Damage, ReadError},
    index::{TenantBody, derived::Derived},
    kernel::Prepared,
    limits::{IDLE_SUPERBLOCK_MS, QUEUE_BYTES_MAX, QUEUE_COMMANDS_MAX},
    log::{
        Log, Written,
        frame::{FrameHead, Section},
        superblock::SuperblockFile,
    },
    tenant::TenantShared,
    words::{TenantName, Timestamp},
};

use engine::{Done, Engine, Uncommitted};
use machine::{Answer, Committed, Machine};

/// The system tenant's reference.
pub(crate) const SYSTEM: [u8; 16] = [0; 16];

/// Tenants by reference and by name.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    derived: Option<Arc<Derived>>,
    by_reference: RwLock<HashMap<[u8; 16], Arc<TenantShared>>>,
    by_name: RwLock<HashMap<TenantName, Arc<TenantShared>>>,
}

impl Tenants {
    pub(crate) fn new(derived: Arc<Derived>) -> Self {
        Self { derived: Some(derived), ..Self::default() }
    }

    /// A tenant that is not there yet.
    pub(crate) fn make(
        &self,
        name: Option<TenantName>,
        reference: [u8; 16],
        log_id: [u8; 16],
    ) -> TenantShared {
        TenantShared::new(name, reference, log_id, self.derived.clone())
    }

    pub(crate) fn by_reference(&self, reference: &[u8; 16]) -> Option<Arc<TenantShared>> {
        self.by_reference.read().get(reference).cloned()
    }

    pub(crate) fn by_name(&self, name: &TenantName) -> Option<Arc<TenantShared>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn add(&self, tenant: Arc<TenantShared>) {
        if let Some(name) = &tenant.name {
            self.by_name.write().insert(name.clone(), Arc::clone(&tenant));
        }
        self.by_reference.write().insert(tenant.reference, tenant);
    }

    pub(crate) fn clear(&self) {
        self.by_name.write().clear();
        self.by_reference.write().clear();
    }

    pub(crate) fn all(&self) -> Vec<Arc<TenantShared>> {
        self.by_reference.read().values().cloned().collect()
    }

    /// Takes in a tenant that the system tenant's log tells of.
    pub(crate) fn add_created(&self, body: &TenantBody) -> Option<Arc<TenantShared>> {
        let (name, reference, log_id) = body.read()?;
        let tenant = Arc::new(self.make(Some(name), reference, log_id));
        self.add(Arc::clone(&tenant));
        Some(tenant)
    }
}

/// 16 bytes from 32 hexadecimal digits.
pub(crate) fn sixteen(hex: &str) -> Option<[u8; 16]> {
    let mut out = [0; 16];
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

/// Counters that the node keeps, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) queue_commands: AtomicUsize,
    pub(crate) queue_bytes: AtomicUsize,
    pub(crate) ops: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) sync_nanos: AtomicU64,
    pub(crate) segments: AtomicUsize,
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) closed_us: AtomicI64,
}

/// What a command came to, or that it was not written and why.
#[derive(Debug)]
pub(crate) enum Reply {
    Answer(Answer),
    /// No room on the disk; nothing was written.
    NoRoom,
}

enum Message {
    Command(Box<Prepared>, oneshot::Sender<Reply>),
    End(oneshot::Sender<CommittedLog>),
    Close(oneshot::Sender<()>),
}

/// The committed log at one moment.
#[derive(Debug)]
pub(crate) struct CommittedLog {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) cluster: [u8; 16],
    /// Header of its last op.
    pub(crate) tip: Option<Header>,
    /// First op of the segment that it ends in, that file as it was written, and where the log ends in it.
    pub(crate) open: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) at: u64,
    /// Every tenant, and how many records its log has.
    pub(crate) tenants: Vec<TenantTip>,
}

/// How far a tenant's log goes.
#[derive(Clone, Debug)]
pub(crate) struct TenantTip {
    /// `None` for the system tenant.
    pub(crate) name: Option<TenantName>,
    pub(crate) reference: [u8; 16],
    pub(crate) log_id: [u8; 16],
    pub(crate) records: u64,
    /// `None` where it is not signed.
    pub(crate) origin: Option<String>,
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct NodeHandle {
    sender: SyncSender<Message>,
    pub(crate) counters: Arc<Counters>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Why a command did not get in.
pub(crate) enum Refused {
    Full,
    Closed,
}

impl NodeHandle {
    /// Queues a command; the answer comes when all that it rests on is durable.
    pub(crate) fn submit(&self, prepared: Prepared) -> Result<oneshot::Receiver<Reply>, Refused> {
        let bytes = prepared.bytes;
        let queued = self.counters.queue_bytes.fetch_add(bytes, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let sent = if queued > 0 && queued + bytes > QUEUE_BYTES_MAX {
            Err(Refused::Full)
        } else {
            self.counters.queue_commands.fetch_add(1, Ordering::Relaxed);
            self.sender.try_send(Message::Command(Box::new(prepared), sender)).map_err(|e| {
                self.counters.queue_commands.fetch_sub(1, Ordering::Relaxed);
                match e {
                    TrySendError::Full(_) => Refused::Full,
                    TrySendError::Disconnected(_) => Refused::Closed,
                }
            })
        };
        if sent.is_err() {
            self.counters.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent.map(|()| receiver)
    }

    /// What is committed now; `None` once the node has stopped.
    pub(crate) async fn committed(&self) -> Option<CommittedLog> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::End(sender)).await {
            return None;
        }
        receiver.await.ok()
    }

    /// Sends a message once there is room for it; says whether there is anybody to get it.
    async fn send(&self, mut message: Message) -> bool {
        loop {
            match self.sender.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) => {
                    message = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
    }

    /// Finishes what is queued and stops.
    pub(crate) async fn close(&self) {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Close(sender)).await {
            return;
        }
        // The thread may have gone before it saw this.
        let _gone = receiver.await.is_err();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            tracing::debug!(clean = matches!(joined, Ok(Ok(()))), "the node has stopped");
        }
    }
}

/// What the node writes.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Log,
    pub(crate) superblock: SuperblockFile,
}

/// Keeps room on a file system that copies what is overwritten.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 1 << 20;

impl Files {
    /// Sets room aside for the superblock, if there is any.
    pub(crate) fn reserve(&self) -> std::io::Result<()> {
        if self.disk.exists(RESERVE)? {
            return Ok(());
        }
        let made = self.disk.create(RESERVE).and_then(|file| file.reserve(RESERVE_BYTES));
        match made {
            Err(error) if error.kind() == ErrorKind::StorageFull => self.give_up_reserve(),
            other => other,
        }
    }

    fn give_up_reserve(&self) -> std::io::Result<()> {
        if self.disk.exists(RESERVE)? { self.disk.remove(RESERVE) } else { Ok(()) }
    }

    fn write_superblock(&mut self, superblock: Superblock) -> std::io::Result<()> {
        match self.superblock.write(superblock) {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                self.give_up_reserve()?;
                self.superblock.write(superblock)
            }
            other => other,
        }
    }
}

/// The disk failed in a way that leaves its content unknown; nothing further may be done.
struct Broken;

impl Drop for NodeHandle {
    /// The folder is free for another once this is done.
    fn drop(&mut self) {
        let (nobody, _) = sync_channel(0);
        drop(std::mem::replace(&mut self.sender, nobody));
        if let Some(thread) = self.thread.lock().take() {
            let joined = thread.join();
            tracing::debug!(clean = joined.is_ok(), "the node has stopped");
        }
    }
}

/// What came of waiting.
enum Next {
    /// Something is to be written or answered.
    Work,
    /// Nothing came.
    Quiet,
    /// The last there is to do.
    Close(oneshot::Sender<()>),
}

/// The receiving end: the thread's own state.
pub(crate) struct Node {
    receiver: Receiver<Message>,
    engine: Engine<oneshot::Sender<Reply>>,
    counters: Arc<Counters>,
    /// When something was committed that the superblock does not say.
    dirty_since: Option<Instant>,
    /// The superblock stays as it is.
    frozen: bool,
}

impl Node {
    /// Starts the thread.
    pub(crate) fn start(
        replica: Replica,
        suffix: Vec<Uncommitted>,
        files: Files,
        checkpoints: Checkpoints,
        tenants: Arc<Tenants>,
        damaged: bool,
    ) -> std::io::Result<NodeHandle> {
        let (sender, receiver) = sync_channel(QUEUE_COMMANDS_MAX);
        let counters = Arc::new(Counters::default());
        counters.segments.store(files.log.segments, Ordering::Relaxed);
        counters.closed_us.store(replica.closed_us(), Ordering::Release);
        let engine = Engine::new(Machine::new(replica), files, checkpoints, tenants, suffix);
        let node = Self {
            receiver,
            engine,
            counters: Arc::clone(&counters),
            // What recovery found beyond the floor is durable, so the floor may rise. In a damaged log it
            // must stay where it is: it says what is missing.
            dirty_since: (!damaged).then(Instant::now),
            frozen: damaged,
        };
        let run = move || {
            // The owner of the log must not limp on: what it holds in memory may be wrong.
            let disk = Arc::clone(&node.engine.files.disk);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.run())) {
                Ok(Ok(())) => {}
                Ok(Err(Broken)) => disk.fatal(),
                Err(_) => {
                    tracing::error!("the thread that owns the log panicked; the process stops");
                    disk.fatal();
                }
            }
        };
        let thread = std::thread::Builder::new().name("node".into()).spawn(run)?;
        Ok(NodeHandle { sender, counters, thread: Mutex::new(Some(thread)) })
    }

    fn run(mut self) -> Result<(), Broken> {
        loop {
            let next = self.gather();
            self.write()?;
            let overdue = Duration::from_millis(IDLE_SUPERBLOCK_MS);
            let idle = self.dirty_since.is_some_and(|since| since.elapsed() >= overdue);
            if matches!(next, Next::Quiet) {
                self.close_time()?;
            }
            if matches!(next, Next::Close(_)) || idle {
                self.refresh_superblock()?;
            }
            self.counters
                .closed_us
                .store(self.engine.machine.replica().closed_us(), Ordering::Release);
            if let Next::Close(closed) = next {
                let _caller_left = closed.send(()).is_err();
                return Ok(());
            }
        }
    }

    /// Waits for commands and decides all that are there, as many as fit one op.
    fn gather(&mut self) -> Next {
        let timeout = Duration::from_millis(IDLE_SUPERBLOCK_MS);
        let mut message = match self.receiver.recv_timeout(timeout) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => return Next::Quiet,
            Err(RecvTimeoutError::Disconnected) => return Next::Close(oneshot::channel().0),
        };
        let now = Timestamp::now().micros();
        loop {
            match message {
                Message::Command(prepared, reply) => self.take(now, *prepared, reply),
                Message::End(reply) => {
                    let _caller_left = reply.send(self.committed()).is_err();
                }
                Message::Close(closed) => return Next::Close(closed),
            }
            if self.engine.machine.full() {
                return Next::Work;
            }
            message = match self.receiver.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Next::Work,
            };
        }
    }

    /// Between two ops everything that was written is committed.
    fn committed(&self) -> CommittedLog {
        let (segment, at) = self.engine.files.log.end();
        let tenants = self.engine.tenants.all().into_iter().map(|tenant| TenantTip {
            name: tenant.name.clone(),
            reference: tenant.reference,
            log_id: tenant.log_id,
            records: tenant.index.read().count,
            origin: tenant.signed.borrow().as_ref().map(|signed| signed.checkpoint.origin.clone()),
        });
        CommittedLog {
            disk: Arc::clone(&self.engine.files.disk),
            cluster: self.engine.files.log.cluster(),
            tip: self.engine.machine.tip().cloned(),
            open: segment.first_op,
            file: segment.file(),
            at,
            tenants: tenants.collect(),
        }
    }

    fn take(&mut self, now: i64, prepared: Prepared, reply: oneshot::Sender<Reply>) {
        self.counters.queue_commands.fetch_sub(1, Ordering::Relaxed);
        self.counters.queue_bytes.fetch_sub(prepared.bytes, Ordering::Relaxed);
        assert!(self.engine.leads(), "a cluster of one leads itself");
        self.engine.submit(now, prepared, reply);
    }

    /// Writes the op that was built, applies it, publishes the tip, answers.
    fn write(&mut self) -> Result<(), Broken> {
        if self.engine.machine.has_records() && self.engine.checkpoints.overdue() {
            tracing::error!("nothing is written while no checkpoint can be");
            self.refuse_for_room();
            return Ok(());
        }
        let records = self.engine.records;
        self.engine.seal(0).map_err(|stop| broken(&stop))?;
        while self.engine.has_work() {
            let started = Instant::now();
            match self.engine.work(0) {
                Ok(Done::Written { bytes, .. }) => self.count(started, bytes),
                Ok(Done::Nothing | Done::Superblock(_) | Done::Truncated(_) | Done::Refused) => {}
                Err(stop) if Engine::<oneshot::Sender<Reply>>::is_full(&stop) => {
                    tracing::error!(error = crate::error::chain(&stop), "nothing is written");
                    self.refuse_for_room();
                }
                Err(stop) => return Err(broken(&stop)),
            }
        }
        let records = self.engine.records - records;
        self.counters.records.fetch_add(records, Ordering::Relaxed);
        for (reply, answer) in self.engine.answers.drain(..) {
            // A cluster of one is never deposed.
            send(reply, answer.map_or(Reply::NoRoom, Reply::Answer));
        }
        Ok(())
    }

    fn count(&mut self, started: Instant, bytes: usize) {
        self.counters.sync_nanos.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.counters.ops.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.counters.segments.store(self.engine.files.log.segments, Ordering::Relaxed);
        self.dirty_since.get_or_insert_with(Instant::now);
    }

    /// The commands of the op being built are not carried out.
    fn refuse_for_room(&mut self) {
        for reply in self.engine.abandon() {
            send(reply, Reply::NoRoom);
        }
    }

    /// Nothing has happened for a while: the time of later ops is promised to be later than now, and that is durable
    /// before anybody is told.
    fn close_time(&mut self) -> Result<(), Broken> {
        if self.frozen {
            return Ok(());
        }
        let wall_us = Timestamp::now().micros();
        self.engine.clock(0, wall_us).map_err(|stop| broken(&stop))?;
        if self.engine.has_work() {
            // What it writes says also what is committed.
            self.dirty_since = None;
        }
        self.finish()
    }

    fn refresh_superblock(&mut self) -> Result<(), Broken> {
        self.dirty_since = None;
        if self.frozen {
            return Ok(());
        }
        self.engine.step(0, Input::Idle).map_err(|stop| broken(&stop))?;
        self.finish()
    }

    /// Does what the disk was told to.
    fn finish(&mut self) -> Result<(), Broken> {
        while self.engine.has_work() {
            self.engine.work(0).map_err(|stop| broken(&stop))?;
        }
        Ok(())
    }
}

/// The disk or the indexes failed.
fn broken(stop: &engine::Stop) -> Broken {
    tracing::error!(error = crate::error::chain(stop), "the process stops");
    Broken
}

/// Takes a committed op into the tenants' indexes and publishes their tips. Returns how many records it held.
///
/// # Errors
/// The database of names could not be read.
fn apply<R>(
    tenants: &Tenants,
    machine: &mut Machine<R>,
    written: &Written,
    committed: &Committed<R>,
) -> Result<u64, ReadError> {
    let mut records = 0;
    let mut at = 0;
    if committed.sections.is_empty() {
        at = FrameHead::decode(committed.frame.bytes()).expect("a whole frame").body_at;
    }
    for (i, section) in Section::all(&committed.header).enumerate() {
        let read;
        let (runs, hashes) = if let Some((runs, hashes)) = committed.sections.get(i) {
            (runs, Some(&hashes[..]))
        } else {
            let found = committed.frame.section(&mut at, &section);
            read = found.map_err(|(inside, what)| {
                let offset = written.offset + inside as u64;
                ReadError::from(Damage { file: written.segment.name.clone(), offset, what })
            })?;
            (&read, None)
        };
        let damage =
            |what| Damage { file: written.segment.name.clone(), offset: written.offset, what };
        let tenant = tenants.by_reference(&section.tenant);
        let tenant = tenant.ok_or_else(|| damage("records of a tenant that nobody made"))?;
        let mut index = tenant.index.write();
        index.apply(&written.segment, written.offset, section, runs, hashes)?;
        let created = std::mem::take(&mut index.tenants);
        // Held on to, so that the records stay where who waits for them is looked up.
        let index = RwLockWriteGuard::downgrade(index);
        for body in &created {
            let tenant = tenants.add_created(body);
            let tenant = tenant.ok_or_else(|| damage("a tenant that cannot be"))?;
            let head = tenant.index.read().chain_head;
            machine.add_tenant(tenant.reference, 0, head);
        }
        records += u64::from(section.records);
        tenant.tip.send_replace(section.first_position + u64::from(section.records));
        tenant.subscriptions.wake(&index, section.first_position);
    }
    Ok(records)
}

/// Sends an answer; a caller that left does not matter.
fn send(reply: oneshot::Sender<Reply>, answer: Reply) {
    let _caller_left = reply.send(answer).is_err();
}
