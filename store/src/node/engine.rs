//! What runs a replica: it takes what the machine and its replica want done to the log, the superblock, the indexes
//! and whoever waits. It decides nothing. The node's thread drives it with a real disk and clock, the simulator with
//! simulated ones.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, ErrorKind},
    sync::Arc,
};

use bytes::Bytes;
#[cfg(feature = "sim")]
use kimberlite_consensus::{Change, ChangeRefused, sim::Mutant};
use kimberlite_consensus::{
    Entry, Envelope, Form, Header, Identity, Input, Message, Notice, Op, Outbox, Output, ReplicaId,
    Superblock, View,
};

use super::{
    Files, Tenants,
    machine::{Answer, Committed, Machine},
};
use crate::{
    checkpoint::{Behind, Checkpoints},
    error::ReadError,
    index::{self, TenantBody},
    kernel::Prepared,
    log::{OpReader, WriteError, Written, frame::Section, framed::Framed},
    record::genesis,
    words::Hash,
};

/// What the disk is to do, one after the other.
#[derive(Debug)]
enum Job {
    /// `checked` where the op was made here.
    Write {
        header: Header,
        frame: Framed,
        checked: bool,
    },
    Superblock(Superblock),
    Truncate {
        after: Op,
    },
}

/// What the disk did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// There was nothing to do.
    Nothing,
    Written {
        op: Op,
        identity: Identity,
        bytes: usize,
    },
    Superblock(Superblock),
    Truncated(Op),
    /// An op that cannot be written; the replica knows.
    Refused,
}

/// Why the engine cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the superblock or the log's end could not be written")]
    Disk(#[source] io::Error),
    #[error("a committed op could not be applied")]
    Apply(#[source] ReadError),
}

/// An op of the log that is not committed, or waits to be written.
#[derive(Debug)]
struct Placed {
    header: Header,
    frame: Framed,
    /// Its body is known to be what the header says.
    holds: bool,
}

/// See the module. `R` is whatever the driver wants back with an answer.
#[derive(Debug)]
pub(crate) struct Engine<R> {
    pub(crate) machine: Machine<R>,
    pub(crate) files: Files,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) tenants: Arc<Tenants>,
    jobs: VecDeque<Job>,
    /// Ops that are not committed, by number.
    pending: BTreeMap<u64, Placed>,
    /// Where those lie that are on disk.
    places: BTreeMap<u64, Written>,
    /// Identity of the last op on disk.
    end: Identity,
    reader: OpReader,
    /// The view that this replica leads, once its windows show all that was before.
    leads: Option<View>,
    /// Answers that rest on committed state alone, and the round of heartbeats behind which they are true.
    unconfirmed: VecDeque<(u64, R, Answer)>,
    /// Messages to be sent.
    pub(crate) sent: Vec<Envelope>,
    /// Answers to be given; `None` where nobody knows what will become of the command.
    pub(crate) answers: Vec<(R, Option<Answer>)>,
    /// What was noticed of others.
    pub(crate) notices: Vec<Notice>,
    /// Records applied.
    pub(crate) records: u64,
    /// Headers of the ops that were applied.
    #[cfg(feature = "sim")]
    pub(crate) committed: Vec<Header>,
    /// A change of the members, until nothing is being built.
    #[cfg(feature = "sim")]
    change: Option<Change>,
    /// A bug that is planted.
    #[cfg(feature = "sim")]
    pub(crate) mutant: Option<Mutant>,
}

/// An op that recovery found and that is not known to be committed.
#[derive(Debug)]
pub(crate) struct Uncommitted {
    pub(crate) header: Header,
    pub(crate) written: Written,
    pub(crate) frame: Framed,
}

impl<R> Engine<R> {
    pub(crate) fn new(
        machine: Machine<R>,
        files: Files,
        checkpoints: Checkpoints,
        tenants: Arc<Tenants>,
        suffix: Vec<Uncommitted>,
    ) -> Self {
        let mut end = machine.replica().committed_identity();
        let (mut pending, mut places) = (BTreeMap::new(), BTreeMap::new());
        for Uncommitted { header, written, frame } in suffix {
            end = header.identity();
            places.insert(header.op.0, written);
            pending.insert(header.op.0, Placed { header, frame, holds: true });
        }
        Self {
            machine,
            files,
            checkpoints,
            tenants,
            jobs: VecDeque::new(),
            pending,
            places,
            end,
            reader: OpReader::default(),
            leads: None,
            unconfirmed: VecDeque::new(),
            sent: Vec::new(),
            answers: Vec::new(),
            notices: Vec::new(),
            records: 0,
            #[cfg(feature = "sim")]
            committed: Vec::new(),
            #[cfg(feature = "sim")]
            change: None,
            #[cfg(feature = "sim")]
            mutant: None,
        }
    }

    /// Whether commands are decided here.
    pub(crate) fn leads(&mut self) -> bool {
        let replica = self.machine.replica();
        if !replica.leads() {
            return false;
        }
        let view = replica.view();
        if self.leads != Some(view) {
            self.leads = Some(view);
            // Windows that another view's ops went past are out of date.
            let void = self.machine.depose();
            assert!(void.is_empty(), "nobody waits for what is not led");
            for tenant in self.tenants.all() {
                let index = tenant.index.read();
                self.machine.add_tenant(tenant.reference, index.count, index.chain_head);
            }
        }
        true
    }

    /// Decides a command. Only while this replica leads.
    pub(crate) fn submit(&mut self, now_us: i64, prepared: Prepared, reply: R) {
        self.machine.submit(now_us, prepared, reply);
    }

    /// Closes the op being built, if there is one and it may be prepared now.
    pub(crate) fn seal(&mut self, now_ms: u64) -> Result<(), Stop> {
        let mut out = Outbox::new();
        #[cfg(feature = "sim")]
        if self.mutant == Some(Mutant::AnswersEarly) {
            let early = self.machine.take_waiting().into_iter();
            self.answers.extend(early.map(|(reply, answer)| (reply, Some(answer))));
        }
        // What others are to be given says nothing of where it lies here.
        let spot = self.machine.replica().is_alone().then(|| self.files.log.spot());
        if let Some(sealed) = self.machine.seal_to(now_ms, spot, &mut out) {
            self.place(sealed.header, sealed.frame, true);
        }
        self.carry_out(out)?;
        let building = self.machine.has_records();
        let replica = self.machine.replica();
        if replica.wants_change() || (!building && replica.wants_order()) {
            self.step(now_ms, Input::Order)?;
        }
        #[cfg(feature = "sim")]
        if let Some(change) = self.change.take_if(|_| !building)
            && self.machine.replica().may_change(now_ms, change).is_ok()
        {
            self.step(now_ms, Input::Change(change))?;
        }
        let idle = self.machine.idle_answers();
        if !idle.is_empty() {
            let round = self.machine.replica().round();
            self.unconfirmed.extend(idle.into_iter().map(|(reply, answer)| (round, reply, answer)));
            self.step(now_ms, Input::Confirm)?;
        }
        Ok(())
    }

    /// An operator wants the members changed. Whether they are is seen in the log: a primary that is replaced forgets it.
    #[cfg(feature = "sim")]
    pub(crate) fn change(&mut self, now_ms: u64, change: Change) -> Result<(), ChangeRefused> {
        self.machine.replica().may_change(now_ms, change)?;
        self.change = Some(change);
        Ok(())
    }

    /// What is kept that has a limit: its name, how much of it there is, and the limit.
    #[cfg(feature = "sim")]
    pub(crate) fn held(&self, window_records: u64, look: &mut dyn FnMut(&'static str, u64, u64)) {
        let replica = self.machine.replica();
        replica.held(look);
        if !replica.is_alone() {
            let most = kimberlite_consensus::limits::SUFFIX_MAX;
            look("ops that are not committed", self.pending.len() as u64, most);
            look("places of them", self.places.len() as u64, most);
        }
        self.machine.held(window_records, look);
    }

    /// Gives answers that rest on committed state alone, once it is known that no other primary had committed more.
    fn release(&mut self) {
        let confirmed = self.machine.replica().confirmed();
        #[cfg(feature = "sim")]
        let confirmed = if self.mutant == Some(Mutant::Unconfirmed) { u64::MAX } else { confirmed };
        while let Some((_, reply, answer)) = self.unconfirmed.pop_front_if(|u| u.0 < confirmed) {
            self.answers.push((reply, Some(answer)));
        }
    }

    fn place(&mut self, header: Header, frame: Framed, checked: bool) {
        let placed = Placed { header: header.clone(), frame: frame.clone(), holds: checked };
        self.pending.insert(header.op.0, placed);
        self.jobs.push_back(Job::Write { header, frame, checked });
    }

    /// Something happened to the replica.
    pub(crate) fn step(&mut self, now_ms: u64, input: Input) -> Result<(), Stop> {
        let mut out = Outbox::new();
        self.machine.step(now_ms, input, &mut out);
        self.carry_out(out)
    }

    /// The wall clock was looked at.
    pub(crate) fn clock(&mut self, now_ms: u64, wall_us: i64) -> Result<(), Stop> {
        let input = self.machine.clock(wall_us);
        self.step(now_ms, input)
    }

    fn carry_out(&mut self, out: Outbox) -> Result<(), Stop> {
        for output in out {
            match output {
                Output::Write { header, previous, body } => {
                    let body = body.unwrap_or_default();
                    let frame = Framed::around(&header, previous.as_ref(), &body);
                    self.place(header, frame, false);
                }
                Output::Commit { op } => self.commit(op)?,
                Output::WriteSuperblock(superblock) => {
                    self.jobs.push_back(Job::Superblock(superblock));
                }
                Output::Truncate { after } => {
                    self.pending.split_off(&(after.0 + 1));
                    self.jobs.push_back(Job::Truncate { after });
                }
                Output::Send { to, message } => self.send(to, message),
                Output::SendOp { to, op, form } => self.send_op(to, op, form),
                Output::Deposed => {
                    self.leads = None;
                    let void = self.machine.depose();
                    let unconfirmed = self.unconfirmed.drain(..);
                    self.answers.extend(unconfirmed.map(|(_, reply, _)| (reply, None)));
                    self.answers.extend(void.into_iter().map(|reply| (reply, None)));
                }
                Output::Notice(notice) => self.notices.push(notice),
            }
        }
        self.release();
        Ok(())
    }

    fn send(&mut self, to: ReplicaId, message: Message) {
        let replica = self.machine.replica();
        let Superblock { cluster, incarnation, .. } = replica.durable();
        let from = replica.id();
        self.sent.push(Envelope { cluster, from, to, incarnation, message });
    }

    fn send_op(&mut self, to: ReplicaId, op: Op, form: Form) {
        let found = match self.pending.get(&op.0) {
            // It came from another and waits to be written; that it is checked then is too late for this.
            Some(placed) if !self.serves(placed) => None,
            Some(Placed { header, frame, .. }) => frame.body().map(|body| (header.clone(), body)),
            None => self.read(op),
        };
        let Some((header, body)) = found else { return };
        let entry = Entry { header, body };
        let message = match form {
            Form::Prepare { view, commit } => Message::Prepare { view, commit, entry },
            Form::Supply { committed } => Message::Supply { committed, entry },
        };
        self.send(to, message);
    }

    /// Whether an op that is not committed may be given to others.
    fn serves(&self, placed: &Placed) -> bool {
        #[cfg(feature = "sim")]
        if self.mutant == Some(Mutant::ServesUnchecked) {
            return true;
        }
        placed.holds || self.holds(&placed.header, &placed.frame)
    }

    /// An op of the log with its body, if it holds.
    fn read(&mut self, op: Op) -> Option<(Header, Bytes)> {
        let read = self.reader.read(&self.files.log, op).unwrap_or_default();
        #[cfg(feature = "sim")]
        if self.mutant == Some(Mutant::ServesUnchecked) && read.is_none() {
            return OpReader::read_unchecked(&self.files.log, op);
        }
        read
    }

    /// Whether the disk has something to do.
    pub(crate) fn has_work(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Does what the disk is to do next, and tells the replica.
    pub(crate) fn work(&mut self, now_ms: u64) -> Result<Done, Stop> {
        let Some(job) = self.jobs.pop_front() else { return Ok(Done::Nothing) };
        match job {
            Job::Write { header, frame, checked } => self.write(now_ms, &header, &frame, checked),
            Job::Superblock(superblock) => {
                self.files.write_superblock(superblock).map_err(Stop::Disk)?;
                self.step(now_ms, Input::SuperblockWritten(superblock))?;
                Ok(Done::Superblock(superblock))
            }
            Job::Truncate { after } => {
                let behind = self.places.split_off(&(after.0 + 1));
                if let Some((_, from)) = behind.into_iter().next() {
                    let before = self.pending.get(&after.0).map(|p| p.header.identity());
                    let before =
                        before.unwrap_or_else(|| self.machine.replica().committed_identity());
                    self.files.log.truncate(&from, before).map_err(Stop::Disk)?;
                    self.reader = OpReader::default();
                    self.end = before;
                }
                Ok(Done::Truncated(after))
            }
        }
    }

    fn write(
        &mut self,
        now_ms: u64,
        header: &Header,
        frame: &Framed,
        checked: bool,
    ) -> Result<Done, Stop> {
        let (op, identity) = (header.op, header.identity());
        if header.parent != self.end {
            // It follows an op that was refused.
            return Ok(Done::Refused);
        }
        if !checked && !self.holds(header, frame) {
            self.step(now_ms, Input::Refused { op, identity })?;
            return Ok(Done::Refused);
        }
        // Another op may have taken its place meanwhile.
        if let Some(placed) = self.pending.get_mut(&op.0).filter(|p| p.header == *header) {
            (placed.frame, placed.holds) = (frame.clone(), true);
        }
        let written = self.files.log.append(frame, op.0, header.parent)?;
        self.end = identity;
        self.places.insert(op.0, written);
        self.step(now_ms, Input::Written { op, identity })?;
        Ok(Done::Written { op, identity, bytes: frame.bytes().len() })
    }

    /// Whether a frame's leaves, payloads and chains are what its header says.
    fn holds(&self, header: &Header, frame: &Framed) -> bool {
        #[cfg(feature = "sim")]
        if self.mutant == Some(Mutant::AnyBody) {
            return true;
        }
        let Some(sections) = frame.sections(header) else { return false };
        let mut made: Vec<TenantBody> = Vec::new();
        let mut last = None;
        for (section, runs) in &sections {
            let before = self.chain_before(header.op, &section.tenant, &made);
            let Some((next, chain)) = before.filter(|_| last < Some(section.tenant)) else {
                return false;
            };
            last = Some(section.tenant);
            match index::of_another(section, runs, chain, header.time_us) {
                Ok(more) if next == section.first_position => made.extend(more),
                _ => return false,
            }
        }
        let in_flight = if made.is_empty() { Vec::new() } else { self.making(header.op) };
        let is_new = |n: usize, body: &TenantBody| {
            let Some((name, reference, _)) = body.read() else { return false };
            let mut others = in_flight.iter().chain(&made[..n]);
            self.tenants.by_reference(&reference).is_none()
                && self.tenants.by_name(&name).is_none()
                && !others.any(|o| o.tenant == body.tenant || o.reference == body.reference)
        };
        made.iter().enumerate().all(|(n, body)| is_new(n, body))
    }

    /// Tenants that ops before this one make, which are not committed yet.
    fn making(&self, op: Op) -> Vec<TenantBody> {
        let before = self.pending.range(..op.0).map(|(_, placed)| placed);
        let sections = before.filter_map(|placed| placed.frame.sections(&placed.header));
        sections.flatten().flat_map(|(_, runs)| index::makes(&runs)).collect()
    }

    /// Records and chain head of a tenant's log before `op`; `None` where nobody made the tenant. What the op itself makes is
    /// in `made`.
    fn chain_before(&self, op: Op, tenant: &[u8; 16], made: &[TenantBody]) -> Option<(u64, Hash)> {
        let before = self.pending.range(..op.0).rev();
        let mut sections = before.flat_map(|(_, placed)| Section::all(&placed.header));
        if let Some(section) = sections.find(|s| s.tenant == *tenant) {
            return Some((section.first_position + u64::from(section.records), section.chain_head));
        }
        if let Some(tenant) = self.tenants.by_reference(tenant) {
            let index = tenant.index.read();
            return Some((index.count, index.chain_head));
        }
        let is_it = |body: &TenantBody| {
            let (_, reference, log_id) = body.read()?;
            (reference == *tenant).then(|| (0, genesis(log_id)))
        };
        made.iter().find_map(is_it).or_else(|| self.making(op).iter().find_map(is_it))
    }

    /// All ops up to this one are committed: takes them into the indexes, and their answers are true now.
    fn commit(&mut self, last: Op) -> Result<(), Stop> {
        while let Some(entry) = self.pending.first_entry() {
            let op = Op(*entry.key());
            if op > last {
                break;
            }
            let Placed { header, frame, .. } = entry.remove();
            let written = self.places.remove(&op.0).expect("what is committed is on disk");
            let committed = self.machine.committed(op).unwrap_or_else(|| Committed {
                header,
                frame,
                sections: Vec::new(),
                answers: Vec::new(),
            });
            let machine = &mut self.machine;
            let records = super::apply(&self.tenants, machine, &written, &committed);
            let records = records.map_err(Stop::Apply)?;
            self.records += records;
            let answers = committed.answers.into_iter();
            #[cfg(feature = "sim")]
            if self.mutant == Some(Mutant::OtherState)
                && answers.len() == 0
                && op.0.is_multiple_of(40)
            {
                self.tenants.all().iter().for_each(|t| t.index.write().generation += 1);
            }
            self.answers.extend(answers.map(|(reply, answer)| (reply, Some(answer))));
            #[cfg(feature = "sim")]
            self.committed.push(committed.header.clone());
            let bytes = committed.frame.bytes().len() as u64;
            let behind = Behind { header: committed.header, written, bytes };
            self.checkpoints.note(&self.tenants, records, &behind);
        }
        Ok(())
    }

    /// The commands of the op being built, and of what is in flight, are not carried out: there is no room.
    pub(crate) fn abandon(&mut self) -> Vec<R> {
        let after = self.machine.commit();
        self.jobs.retain(|job| !matches!(job, Job::Write { .. }));
        self.pending.split_off(&(after.0 + 1));
        self.machine.abandon(after)
    }

    /// Whether a lack of room keeps an op from being written.
    pub(crate) fn is_full(stop: &Stop) -> bool {
        matches!(stop, Stop::Write(WriteError::NoRoom(e)) if e.kind() == ErrorKind::StorageFull)
    }
}
