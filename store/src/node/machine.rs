//! The state that one task owns: replica, windows, the op being built, answers that wait. Sans I/O: the node and
//! tests drive it.

#![warn(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic,
    clippy::iter_over_hash_type,
    clippy::wildcard_enum_match_arm
)]

#[cfg(test)]
mod model;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kimberlite_consensus::{Header, Input, Op, Outbox, Output, Replica};

use crate::{
    append::Receipt,
    kernel::{
        Decision, Effect, Prepared, PreparedAppend, PreparedCommand, Recent, Refusal, TenantWindow,
        decide_append, decide_change, decide_delete, decide_fork, decide_stamp, decide_tenant,
    },
    limits::{OP_BYTES_TARGET, OP_RECORDS_MAX},
    log::{
        frame::{Runs, Section, SectionRuns, encode_frame},
        framed::{Framed, Spot},
    },
    record::{LeafFields, RecordKind, Role, encode_leaf, leaf_hash},
    words::{Hash, Position, Reference, Timestamp, Version},
};

/// What a command came to. Given out only once everything that it rests on is committed.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Receipts, whether they are old ones, and how many records the log had for the decision.
    Appended {
        receipts: Vec<Receipt>,
        replayed: bool,
        count: u64,
    },
    /// Receipts of the lines before the stop.
    Lines {
        receipts: Vec<Receipt>,
        stop: Option<Refusal>,
    },
    /// The position of the record written, or of the last one.
    Written(u64),
    Refused(Refusal),
}

/// One op on its way to the disk.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) header: Header,
    pub(crate) frame: Framed,
}

/// An op that is committed, with the answers that waited for it.
#[derive(Debug)]
pub(crate) struct Committed<R> {
    pub(crate) header: Header,
    pub(crate) frame: Framed,
    /// Section by section: its runs, and its records' hashes; none where the op was not made here.
    pub(crate) sections: Vec<(SectionRuns, Vec<Hash>)>,
    pub(crate) answers: Vec<(R, Answer)>,
}

/// Records of one tenant in the op being built.
#[derive(Debug)]
struct Building {
    first: u64,
    runs: Runs,
    records: u32,
    hashes: Vec<Hash>,
}

#[derive(Debug)]
struct InFlight<R> {
    header: Header,
    frame: Framed,
    sections: Vec<(SectionRuns, Vec<Hash>)>,
    answers: Vec<(R, Answer)>,
}

/// See the module. `R` is whatever the driver wants back with an answer.
#[derive(Debug)]
pub(crate) struct Machine<R> {
    replica: Replica,
    /// By tenant reference, in a fixed order.
    windows: BTreeMap<[u8; 16], TenantWindow>,
    building: BTreeMap<[u8; 16], Building>,
    building_time: i64,
    building_records: usize,
    building_bytes: usize,
    /// Answers that wait for the op being built, or for the last one in flight.
    waiting: Vec<(R, Answer)>,
    in_flight: VecDeque<InFlight<R>>,
    /// What windows made from here on remember.
    #[cfg(feature = "sim")]
    pub(crate) window_records: u64,
}

impl<R> Machine<R> {
    pub(crate) fn new(replica: Replica) -> Self {
        Self {
            replica,
            windows: BTreeMap::new(),
            building: BTreeMap::new(),
            building_time: 0,
            building_records: 0,
            building_bytes: 0,
            waiting: Vec::new(),
            in_flight: VecDeque::new(),
            #[cfg(feature = "sim")]
            window_records: crate::limits::WINDOW_RECORDS as u64,
        }
    }

    /// Tells of a tenant whose log has `next` committed records.
    pub(crate) fn add_tenant(&mut self, tenant: [u8; 16], next: u64, chain_head: Hash) {
        let window = || {
            #[cfg_attr(
                not(feature = "sim"),
                expect(unused_mut, reason = "only simulated ones are small")
            )]
            let mut window = TenantWindow::new(next, chain_head);
            #[cfg(feature = "sim")]
            window.remember(self.window_records);
            window
        };
        self.windows.entry(tenant).or_insert_with(window);
    }

    /// What is kept that has a limit: its name, how much of it there is, and the limit.
    #[cfg(feature = "sim")]
    pub(crate) fn held(&self, records: u64, look: &mut dyn FnMut(&'static str, u64, u64)) {
        let building = self.building_records.saturating_sub(crate::limits::CHANGES_MAX);
        look("records in one op", building as u64, OP_RECORDS_MAX as u64);
        for window in self.windows.values() {
            look("records in a window", window.surplus(), records);
        }
    }

    /// No further command should join the op being built.
    pub(crate) fn full(&self) -> bool {
        self.building_records >= OP_RECORDS_MAX || self.building_bytes >= OP_BYTES_TARGET
    }

    /// Whether the op being built holds anything to be written.
    pub(crate) fn has_records(&self) -> bool {
        !self.building.is_empty()
    }

    /// Decides a command and adds its records to the op being built. Its answer comes with [`Machine::written`],
    /// or with [`Machine::idle_answers`] where nothing is in flight.
    pub(crate) fn submit(&mut self, now_us: i64, prepared: Prepared, reply: R) {
        if self.building.is_empty() {
            self.building_time = self.replica.stamp(now_us);
        }
        let Prepared { tenant, seen_at, command, .. } = prepared;
        let answer = match command {
            PreparedCommand::Append(append) => match self.append(tenant, seen_at, &append) {
                Ok((receipts, replayed)) => {
                    let count = self.windows[&tenant].next();
                    Answer::Appended { receipts, replayed, count }
                }
                Err(refusal) => Answer::Refused(refusal),
            },
            PreparedCommand::Lines(lines) => self.lines(tenant, seen_at, &lines),
            PreparedCommand::Delete(delete) => {
                let decided = decide_delete(&self.windows[&tenant], seen_at, &delete);
                self.single(tenant, decided)
            }
            PreparedCommand::CreateTenant(create) => {
                let decided = decide_tenant(&self.windows[&tenant], seen_at, &create);
                self.single(tenant, decided)
            }
            PreparedCommand::Fork(fork) => {
                let decided = decide_fork(&self.windows[&tenant], seen_at, &fork);
                self.single(tenant, decided)
            }
            PreparedCommand::Stamp(stamp) => {
                let decided = decide_stamp(&self.windows[&tenant], seen_at, &stamp);
                self.single(tenant, decided)
            }
            PreparedCommand::Change(change) => {
                match decide_change(&self.windows[&tenant], seen_at, &change) {
                    Ok(effects) => {
                        let written = effects.iter().map(|effect| self.write(tenant, effect).0);
                        Answer::Written(written.last().expect("a change has records"))
                    }
                    Err(refusal) => Answer::Refused(refusal),
                }
            }
        };
        self.waiting.push((reply, answer));
    }

    fn append(
        &mut self,
        tenant: [u8; 16],
        seen_at: u64,
        append: &PreparedAppend,
    ) -> Result<(Vec<Receipt>, bool), Refusal> {
        let window = &self.windows[&tenant];
        match decide_append(window, seen_at, self.building_time, append)? {
            Decision::Replay(receipts) => Ok((receipts, true)),
            Decision::Write(effects) => Ok((self.write_all(tenant, append, &effects), false)),
        }
    }

    fn write_all(
        &mut self,
        tenant: [u8; 16],
        append: &PreparedAppend,
        effects: &[Effect<'_>],
    ) -> Vec<Receipt> {
        let time = Timestamp::from_micros(self.building_time).expect("clocks are in range");
        let version = |n| Version::new(n).expect("below positions");
        let position = |n| Position::new(n).expect("below 2^53");
        let mut effects = effects.iter();
        let mut receipts = Vec::with_capacity(append.appends.len());
        for stream in &append.appends {
            let mut receipt: Option<Receipt> = None;
            for effect in effects.by_ref().take(stream.events.len()) {
                let (at, hash) = self.write(tenant, effect);
                let last_version = version(effect.version);
                let last_position = position(at);
                match &mut receipt {
                    Some(r) => {
                        (r.last_version, r.last_position, r.hash) =
                            (last_version, last_position, hash);
                    }
                    None => {
                        receipt = Some(Receipt {
                            stream: stream.stream.clone(),
                            first_version: last_version,
                            last_version,
                            first_position: last_position,
                            last_position,
                            time,
                            hash,
                        });
                    }
                }
            }
            receipts.extend(receipt);
        }
        receipts
    }

    fn lines(&mut self, tenant: [u8; 16], seen_at: u64, lines: &[PreparedAppend]) -> Answer {
        let mut receipts = Vec::with_capacity(lines.len());
        for line in lines {
            match self.append(tenant, seen_at, line) {
                Ok((mut one, _)) => receipts.append(&mut one),
                Err(stop) => return Answer::Lines { receipts, stop: Some(stop) },
            }
        }
        Answer::Lines { receipts, stop: None }
    }

    fn single(&mut self, tenant: [u8; 16], decided: Result<Effect<'_>, Refusal>) -> Answer {
        match decided {
            Ok(effect) => Answer::Written(self.write(tenant, &effect).0),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// Adds one record to the op being built. Returns its position and hash.
    fn write(&mut self, tenant: [u8; 16], effect: &Effect<'_>) -> (u64, Hash) {
        let op = self.replica.op().next().0;
        let writes = self.windows.get_mut(&tenant).expect("known tenant").open(op);
        let building = self.building.entry(tenant).or_insert_with(|| Building {
            first: writes.next,
            runs: Runs::default(),
            records: 0,
            hashes: Vec::new(),
        });
        let stream = effect.stream.as_ref().map(|n| (Role::Stream, n.reference, n.introduced));
        let kind = effect.event_type.as_ref().map(|n| (Role::Type, n.reference, n.introduced));
        let actor = Some((Role::Actor, effect.actor.reference, effect.actor.introduced));
        let names = [stream, kind, actor].into_iter().flatten();
        let mut references = [(Role::Stream, Reference([0; 16])); 3];
        let mut count = 0;
        let mut introduced = [None; 3];
        for (role, reference, payloads) in names {
            references[count] = (role, reference);
            introduced[count] = payloads;
            count += 1;
        }
        let key = effect.idempotency.map(|k| &k.payloads);
        let payloads = || introduced.iter().flatten().copied().chain([effect.payloads]).chain(key);
        let mut leaf = Vec::with_capacity(320);
        let fields = LeafFields {
            kind: effect.kind,
            id: effect.id,
            version: effect.version,
            time_us: self.building_time,
            references: &references[..count],
        };
        encode_leaf(&mut leaf, fields, payloads().flat_map(|p| &p.heads));
        building.runs.leaves.extend_from_slice(&(leaf.len() as u16).to_le_bytes());
        building.runs.leaves.extend_from_slice(&leaf);
        for p in payloads() {
            building.runs.payloads.extend_from_slice(&p.stored);
            self.building_bytes += p.stored.len();
        }
        building.records += 1;
        self.building_records += 1;
        self.building_bytes += leaf.len();

        let position = writes.next;
        writes.next += 1;
        match effect.row {
            Some((table, row)) => writes.row(table, row, position),
            None if effect.kind == RecordKind::SchemaChanged => writes.schema = Some(position),
            None => {}
        }
        if effect.stream.is_some() {
            writes.event = Some(position);
        }
        writes.chain_head = leaf_hash(&leaf, writes.chain_head);
        building.hashes.push(writes.chain_head);
        if let (Some(stream), Some(head)) = (&effect.stream, effect.head) {
            writes.streams.insert(stream.name.clone(), head);
        }
        if let Some(event_type) = &effect.event_type {
            if event_type.introduced.is_some() {
                writes.types.insert(event_type.name.clone(), event_type.reference);
            }
            writes.recent.push(Recent {
                position,
                event_type: event_type.name.clone(),
                tags: effect.tags.to_vec(),
            });
        }
        if effect.actor.introduced.is_some() {
            writes.actors.insert(effect.actor.name.clone());
        }
        if effect.client_id {
            writes.ids.insert(effect.id, position);
        }
        if let Some(key) = effect.idempotency {
            writes.idempotency.insert(key.digest, position);
        }
        (position, writes.chain_head)
    }

    /// Closes the op being built and says what to write, at `spot` if that can be; `None` where it holds no records. What
    /// else is to be done is pushed to `out`.
    pub(crate) fn seal_to(
        &mut self,
        now_ms: u64,
        spot: Option<Spot>,
        out: &mut Outbox,
    ) -> Option<Sealed> {
        if self.building.is_empty() || !self.replica.takes_requests() {
            return None;
        }
        let mut table = Vec::new();
        let mut body = Vec::new();
        let mut hashes = Vec::new();
        for (tenant, building) in std::mem::take(&mut self.building) {
            let window = &self.windows[&tenant];
            Section {
                tenant,
                first_position: building.first,
                records: building.records,
                leaves_bytes: building.runs.leaves.len() as u32,
                chain_head: window.chain_head(),
            }
            .encode(&mut table);
            body.push(building.runs);
            hashes.push(building.hashes);
        }
        (self.building_records, self.building_bytes) = (0, 0);
        let sections = Bytes::from(table);
        let time_us = self.building_time;
        let mut prepared = Outbox::new();
        self.replica.step(now_ms, Input::Request { time_us, sections }, &mut prepared);
        let mut prepared = prepared.into_iter();
        let Some(Output::Write { header, previous, .. }) = prepared.next() else {
            unreachable!("a primary answers a request with a write first")
        };
        out.extend(prepared);
        let (frame, runs) = encode_frame(&header, previous.as_ref(), body, spot);
        let sections = runs.into_iter().zip(hashes).collect();
        let sealed = Sealed { header: header.clone(), frame: frame.clone() };
        let answers = std::mem::take(&mut self.waiting);
        self.in_flight.push_back(InFlight { header, frame, sections, answers });
        Some(sealed)
    }

    #[cfg(any(test, feature = "bench"))]
    /// [`Machine::seal_to`], where there is nobody to send anything to.
    pub(crate) fn seal(&mut self) -> Option<Sealed> {
        self.seal_to(0, None, &mut Outbox::new())
    }

    #[cfg(any(test, feature = "bench"))]
    /// An op is durable: what is committed by that, in order, in a cluster of one.
    pub(crate) fn written(&mut self, header: &Header) -> Vec<Committed<R>> {
        let (op, identity) = (header.op, header.identity());
        let mut out = Outbox::new();
        self.replica.step(0, Input::Written { op, identity }, &mut out);
        let Some(Output::Commit { op }) = out.pop() else { return Vec::new() };
        let mut committed = Vec::new();
        while let Some(next) = self.in_flight.front().map(|f| f.header.op).filter(|o| *o <= op) {
            committed.extend(self.committed(next));
        }
        committed
    }

    /// An op that was made here is committed; `None` where another made it.
    pub(crate) fn committed(&mut self, op: Op) -> Option<Committed<R>> {
        if self.in_flight.front().is_none_or(|f| f.header.op != op) {
            return None;
        }
        let InFlight { header, frame, sections, answers } = self.in_flight.pop_front()?;
        for window in self.windows.values_mut() {
            window.commit(header.op.0);
        }
        Some(Committed { header, frame, sections, answers })
    }

    /// Answers that wait for the op being built.
    #[cfg(feature = "sim")]
    pub(crate) fn take_waiting(&mut self) -> Vec<(R, Answer)> {
        std::mem::take(&mut self.waiting)
    }

    /// Something happened to the replica.
    pub(crate) fn step(&mut self, now_ms: u64, input: Input, out: &mut Outbox) {
        self.replica.step(now_ms, input, out);
    }

    /// What the wall clock shows. What is being built has a time already, which no promise may reach.
    pub(crate) fn clock(&self, wall_us: i64) -> Input {
        let building_us = self.has_records().then_some(self.building_time);
        Input::Clock { wall_us, building_us }
    }

    /// The replica that orders the ops.
    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Nothing that is in flight or being built is decided here any more: returns whose answers are void. What was
    /// written lately is forgotten, until [`Machine::add_tenant`] tells of it anew.
    pub(crate) fn depose(&mut self) -> Vec<R> {
        self.windows.clear();
        self.building.clear();
        (self.building_records, self.building_bytes) = (0, 0);
        let gone = std::mem::take(&mut self.in_flight).into_iter().flat_map(|f| f.answers);
        gone.chain(std::mem::take(&mut self.waiting)).map(|(reply, _)| reply).collect()
    }

    /// Answers that rest on committed state alone: they need not wait. Others join the op they rest on.
    pub(crate) fn idle_answers(&mut self) -> Vec<(R, Answer)> {
        if !self.building.is_empty() {
            return Vec::new();
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        match self.in_flight.back_mut() {
            Some(last) => {
                last.answers.append(&mut waiting);
                Vec::new()
            }
            None => waiting,
        }
    }

    /// The last committed op.
    pub(crate) fn commit(&self) -> Op {
        self.replica.commit()
    }

    /// Header of the last committed op.
    pub(crate) fn tip(&self) -> Option<&Header> {
        self.replica.tip()
    }

    /// Everything behind `after` never happened, the op being built included; returns whose answers are void.
    /// What waits for no op is void too: it may rest on one that is gone.
    pub(crate) fn abandon(&mut self, after: Op) -> Vec<R> {
        self.replica.step(0, Input::Abandoned { after }, &mut Outbox::new());
        for window in self.windows.values_mut() {
            window.abandon(after.0);
        }
        self.building.clear();
        (self.building_records, self.building_bytes) = (0, 0);
        let stays = self.in_flight.partition_point(|f| f.header.op <= after);
        let gone = self.in_flight.split_off(stays).into_iter().flat_map(|f| f.answers);
        gone.chain(std::mem::take(&mut self.waiting)).map(|(reply, _)| reply).collect()
    }
}
