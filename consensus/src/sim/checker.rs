//! What must hold, looked at after every event.

mod logs;
mod members;

use std::collections::BTreeMap;

use crate::{
    Entry, FIRST_INCARNATION, Header, Identity, Members, Message, Op, Replica, Superblock, View,
    limits::{PIPELINE_MAX, SUFFIX_MAX},
    message::ReplicaId,
    quorum::Voters,
};

/// The invariants, by their names.
pub const VIOLATIONS: &[(&str, &str)] = &[
    ("S1", "two replicas committed different ops under one number"),
    ("S2", "the committed log is no chain, or its views go back"),
    ("S3", "what is committed, or was durable, is not durable"),
    ("S4", "a replica said what is not durable"),
    ("S5", "a durable view, log view or commit went back"),
    ("S6", "a log view lies beyond the view"),
    ("S7", "a replica calls committed what it does not have"),
    ("S8", "a view has two primaries, or two ops under one number"),
    ("S9", "a view began without a committed op"),
    ("S10", "an op was cut that may be committed"),
    ("S11", "states differ behind the same op"),
    ("S12", "a command was carried out twice"),
    (
        "S13",
        "an answer, or what followers are told, contradicts the log, or the order of answers does",
    ),
    ("S14", "times of ops do not rise"),
    ("CLOSED", "an op has a time for which it was promised that none will"),
    ("S16", "an op is not what its header says"),
    ("S17", "bytes were believed that nobody sent"),
    ("S18", "the same seed did not do the same again"),
    ("S19", "a limit was passed"),
    ("L1", "no view came to stay"),
    ("L2", "a client was not answered"),
    ("L3", "the core did not converge"),
    ("L4", "damage in the core is not repaired"),
    ("L5", "who lacks ops does not get them"),
    ("L6", "who is cut off disturbs the core"),
    ("L7", "a replaced disk was not let in"),
    ("L8", "a change of the members did not end"),
    ("MEMBERS", "a change of the members was ordered too early"),
    ("NOTICE", "a replica was called a liar that is none"),
    ("HOST", "a host stopped for no reason from outside"),
];

/// What did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// How.
    pub what: String,
}

impl Violation {
    pub(super) fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}

/// A violation, where there is one.
pub(super) type Checked = Result<(), Violation>;

fn hold(
    holds: bool,
    invariant: &'static str,
    what: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(invariant, what())) }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Checker {
    /// The members before any op changed them.
    first: Members,
    /// The members as of ops, where they were changed before.
    tables: BTreeMap<[u8; 32], Members>,
    alone: bool,
    /// Every op that was ever committed by anybody, with the time and view of its header.
    pub(super) canonical: Vec<(Identity, View, i64)>,
    /// The view in which each was committed first.
    committed_in: Vec<View>,
    states: BTreeMap<Op, [u8; 32]>,
    /// What lies on each replica's disk, by what its disk said.
    durable: Vec<Vec<Identity>>,
    /// What lay on the disk that each replica lost last, or before its end was damaged.
    lost: Vec<Vec<Identity>>,
    /// The incarnation of each replica that a committed op let in.
    let_in: Vec<u64>,
    superblocks: Vec<Option<Superblock>>,
    committed: Vec<Op>,
    /// Where each replica's log ended in its memory when it crashed.
    cutting: Vec<Option<Op>>,
    prepared: BTreeMap<(View, Op), Identity>,
    /// The op under each number, in the logs of those who are normal in a view.
    logs: BTreeMap<(View, Op), Identity>,
    /// Up to where each replica's log was looked at, and in which view it was normal then.
    looked: Vec<(Option<View>, Op)>,
    /// Whether a liar may have one view show several logs.
    may_differ: bool,
    primaries: BTreeMap<View, ReplicaId>,
    /// The latest time that was ever promised to readers.
    closed_us: i64,
    /// On whose disk an op is known to be in one view: who said so, of it or of one behind it, and the view's primary.
    acks: BTreeMap<(Op, View), (Identity, Voters)>,
    /// Up to where that was noted of each replica, and in which view.
    noted: Vec<(View, Op)>,
    /// The body of each op that was ever sent.
    bodies: BTreeMap<[u8; 32], blake3::Hash>,
}

impl Checker {
    pub(super) fn new(members: u8, replicas: u8, may_differ: bool) -> Self {
        let count = usize::from(replicas);
        Self {
            first: Members::first(members),
            tables: BTreeMap::new(),
            alone: replicas == 1,
            canonical: Vec::new(),
            committed_in: Vec::new(),
            states: BTreeMap::new(),
            durable: vec![Vec::new(); count],
            lost: vec![Vec::new(); count],
            let_in: vec![FIRST_INCARNATION; count],
            superblocks: vec![None; count],
            committed: vec![Op(0); count],
            cutting: vec![None; count],
            prepared: BTreeMap::new(),
            logs: BTreeMap::new(),
            looked: vec![(None, Op(0)); count],
            may_differ,
            primaries: BTreeMap::new(),
            closed_us: 0,
            acks: BTreeMap::new(),
            noted: vec![(View(0), Op(0)); count],
            bodies: BTreeMap::new(),
        }
    }

    /// A replica started from its disk.
    pub(super) fn started(&mut self, replica: &Replica) -> Checked {
        let r = usize::from(replica.id().0);
        // Of what it was cutting when it crashed, nothing may be left.
        let cut = self.cutting[r].take().unwrap_or(Op(u64::MAX));
        let uncertain = replica.durable().uncertain;
        if uncertain && replica.op().0 < self.durable[r].len() as u64 {
            // It had them, and may have said so. That it does not vote now is why that still counts.
            self.lost[r] = self.durable[r].clone();
            self.durable[r].truncate(replica.op().0 as usize);
        }
        if replica.op() >= cut && replica.op().0 < self.durable[r].len() as u64 {
            self.truncated(r, replica.op())?;
        }
        let durable = &mut self.durable[r];
        let known = Op(durable.len() as u64);
        hold(replica.op() >= known, "S3", || {
            format!("r{r} comes back with op {} of {known}", replica.op())
        })?;
        for header in replica.suffix() {
            let (at, identity) = (header.op.0 as usize - 1, header.identity());
            match durable.get(at) {
                Some(before) => hold(*before == identity, "S3", || {
                    format!("r{r} comes back with another op {}", header.op)
                })?,
                None => durable.push(identity),
            }
        }
        let at = replica.commit().0 as usize;
        self.came_to_light(r, replica)?;
        let durable = &mut self.durable[r];
        let same = at == 0
            || self.canonical.get(at - 1).is_none_or(|c| c.0 == replica.committed_identity());
        hold(same, "S1", || format!("r{r} comes back with another committed op {at}"))?;
        // An op that was written and not acknowledged before a crash may be known to be committed only from what follows.
        durable.resize_with(durable.len().max(at), Identity::default);
        self.committed[r] = replica.commit();
        self.begins_to_look(replica);
        self.superblock(r, replica.durable())
    }

    /// What was written before a crash and is known to be committed only now.
    fn came_to_light(&mut self, r: usize, replica: &Replica) -> Checked {
        let commit = replica.commit().0 as usize;
        if self.durable[r].len() + 1 == commit {
            // Its disk had done it, and did not get to say so.
            self.durable[r].push(replica.committed_identity());
        }
        while self.canonical.len() < commit {
            let at = self.canonical.len();
            let known = self.durable[r].get(at).filter(|i| **i != Identity::default());
            // A frame that nobody saw being written.
            let Some(identity) = known.copied() else { return Ok(()) };
            let copies = self.copies(at, identity);
            let quorum = Self::quorum_of(self.members_of(identity));
            hold(copies >= usize::from(quorum), "S3", || {
                format!("r{r} calls op {} committed, with {copies} copies", at + 1)
            })?;
            let (_, view, time) = self.canonical.last().copied().unwrap_or_default();
            self.canonical.push((identity, view, time));
            self.committed_in.push(replica.log_view());
        }
        Ok(())
    }

    /// How many members' disks have an op, or had it when they were lost.
    fn copies(&self, at: usize, identity: Identity) -> usize {
        let voters = self.members_of(identity).voters();
        let disks = self.durable.iter().zip(&self.lost).zip((0..).map(ReplicaId));
        let disks = disks.filter(|(_, r)| voters.has(*r)).map(|(disks, _)| disks);
        disks.filter(|(d, l)| [d, l].iter().any(|i| i.get(at) == Some(&identity))).count()
    }

    /// Whether a disk may be lost: a quorum of the others has all that was ever committed.
    pub(super) fn may_lose(&self, r: usize, liar: usize) -> bool {
        let whole = |disk: &Vec<Identity>| {
            let ops = self.canonical.iter().zip(disk);
            disk.len() >= self.canonical.len()
                && ops.into_iter().all(|(c, d)| c.0 == *d || *d == Identity::default())
        };
        let voters = self.members().voters();
        let honest = |o: usize| o != r && o != liar && voters.has(ReplicaId(o as u8));
        let others = self.durable.iter().enumerate();
        let others = others.filter(|(o, disk)| honest(*o) && whole(disk));
        r != liar && others.count() >= usize::from(Self::quorum_of(self.members()))
    }

    /// A replica's disk is lost; another one takes its place.
    pub(super) fn loses(&mut self, r: usize) {
        self.lost[r] = std::mem::take(&mut self.durable[r]);
        (self.superblocks[r], self.cutting[r]) = (None, None);
        self.committed[r] = Op(0);
    }

    pub(super) fn superblock(&mut self, r: usize, now: Superblock) -> Checked {
        if let Some(before) = self.superblocks[r] {
            let rises = now.view >= before.view
                && now.log_view >= before.log_view
                && now.commit >= before.commit;
            hold(rises, "S5", || format!("r{r}: {before:?}, then {now:?}"))?;
            if before.uncertain && !now.uncertain {
                self.certain(r, now.log_view)?;
            }
        }
        hold(now.log_view <= now.view, "S6", || format!("r{r}: {now:?}"))?;
        self.superblocks[r] = Some(now);
        Ok(())
    }

    /// A replica knows its log again: it has all that it had acknowledged and that is committed since.
    fn certain(&self, r: usize, log_view: View) -> Checked {
        let from = self.durable[r].len();
        let rest = self.canonical.iter().zip(&self.committed_in).enumerate().skip(from);
        for (at, ((identity, ..), view)) in rest.take_while(|(_, (_, v))| **v <= log_view) {
            let acked = self.acks.get(&(Op(at as u64 + 1), *view));
            let own = acked.is_some_and(|(of, who)| of == identity && who.has(ReplicaId(r as u8)));
            hold(!own, "S3", || format!("r{r} forgets op {}", at + 1))?;
        }
        Ok(())
    }

    /// A replica's disk has the log of a view up to `op`, and that counts.
    fn note(&mut self, r: usize, view: View, op: Op) {
        let (known, to) = self.noted[r];
        let from = if known == view { to } else { self.committed[r] };
        let disk = self.durable[r].iter().enumerate().take(op.0 as usize).skip(from.0 as usize);
        for (at, identity) in disk.filter(|(_, identity)| **identity != Identity::default()) {
            let acks = self.acks.entry((Op(at as u64 + 1), view));
            let (of, voters) = acks.or_insert((*identity, Voters::default()));
            if of == identity {
                voters.add(ReplicaId(r as u8));
            }
        }
        self.noted[r] = (view, op.max(from));
    }

    /// What lies on a replica's disk.
    pub(super) fn on_disk(&self, replica: u8) -> &[Identity] {
        &self.durable[usize::from(replica)]
    }

    /// A replica's power goes.
    pub(super) fn stopped(&mut self, replica: &Replica) {
        let r = usize::from(replica.id().0);
        let mut end = replica.commit();
        for header in replica.suffix() {
            let durable = self.durable[r].get(header.op.0 as usize - 1);
            if durable != Some(&header.identity()) {
                break;
            }
            end = header.op;
        }
        self.cutting[r] = (end.0 < self.durable[r].len() as u64).then_some(end);
    }

    pub(super) fn written(&mut self, r: usize, op: Op, identity: Identity) -> Checked {
        let durable = &mut self.durable[r];
        hold(durable.len() as u64 + 1 == op.0, "S16", || {
            format!("r{r} wrote op {op} behind {}", durable.len())
        })?;
        durable.push(identity);
        Ok(())
    }

    /// A replica's log was cut. What only later views than its own have, that view's log need not have (seed 679).
    pub(super) fn truncated(&mut self, r: usize, after: Op) -> Checked {
        let view = self.superblocks[r].map_or(View(u64::MAX), |s| s.view);
        for at in after.0 as usize..self.durable[r].len() {
            let (op, identity) = (Op(at as u64 + 1), self.durable[r][at]);
            let committed = self.canonical.get(at).is_some_and(|c| c.0 == identity)
                && self.committed_in[at] <= view;
            let members = self.members_of(identity);
            let quorum = Self::quorum_of(members);
            let acked = self.acks.range((op, View(0))..=(op, view));
            let acked = acked
                .filter(|(_, (of, voters))| {
                    *of == identity && voters.and(members.voters()).count() >= quorum
                })
                .count();
            hold(!committed && acked == 0, "S10", || format!("r{r} cut op {op}"))?;
        }
        self.durable[r].truncate(after.0 as usize);
        Ok(())
    }

    /// A replica committed an op.
    pub(super) fn commit(&mut self, r: usize, view: View, header: &Header) -> Checked {
        let (op, identity) = (header.op, header.identity());
        hold(op == self.committed[r].next(), "S2", || {
            format!("r{r} commits op {op} out of order")
        })?;
        self.committed[r] = op;
        for (replica, known) in (0..).map(ReplicaId).zip(&mut self.let_in) {
            let incarnation = header.members.as_ref().map_or(0, |m| m.incarnation(replica));
            *known = incarnation.max(*known);
        }
        let at = op.0 as usize - 1;
        if let Some((known, ..)) = self.canonical.get(at) {
            return hold(*known == identity, "S1", || format!("op {op} of r{r}"));
        }
        hold(at == self.canonical.len(), "S2", || format!("op {op} is committed before others"))?;
        if let Some((parent, before, time)) = self.canonical.last() {
            let chain = *parent == header.parent && *before <= header.view;
            hold(chain, "S2", || format!("op {op} of r{r}"))?;
            hold(*time < header.time_us, "S14", || format!("op {op} of r{r}"))?;
        }
        hold(self.closed_us < header.time_us, "CLOSED", || {
            format!("op {op} has time {}, and {} was promised", header.time_us, self.closed_us)
        })?;
        self.canonical.push((identity, header.view, header.time_us));
        self.committed_in.push(view);
        let copies = self.copies(at, identity);
        let quorum = Self::quorum_of(self.members_of(identity));
        hold(copies >= usize::from(quorum), "S3", || {
            format!("op {op} is committed with {copies} copies")
        })
    }

    /// The state behind what a replica has committed.
    pub(super) fn state(&mut self, r: usize, op: Op, state: [u8; 32]) -> Checked {
        let known = *self.states.entry(op).or_insert(state);
        hold(known == state, "S11", || format!("r{r} behind op {op}"))
    }

    /// What readers of a replica may be told of times: every op behind those that it has committed is later.
    fn closed(&mut self, replica: &Replica) -> Checked {
        let (r, closed_us) = (replica.id(), replica.closed_us());
        let next = self.canonical.get(replica.commit().0 as usize);
        hold(next.is_none_or(|(_, _, time)| closed_us < *time), "CLOSED", || {
            format!("{r} promises {closed_us} behind op {}", replica.commit())
        })?;
        self.closed_us = self.closed_us.max(closed_us);
        Ok(())
    }

    /// What a replica is, after an event.
    pub(super) fn look(&mut self, replica: &Replica) -> Checked {
        let (r, view) = (replica.id(), replica.view());
        self.closed(replica)?;
        self.one_log(replica)?;
        hold(replica.log_view() <= view, "S6", || format!("{r} in view {}", view.0))?;
        hold(replica.commit() <= Op(self.durable[usize::from(r.0)].len() as u64), "S7", || {
            format!("{r} committed {}", replica.commit())
        })?;
        let pending = replica.op().0 - replica.commit().0;
        let most = if self.alone { u64::MAX } else { SUFFIX_MAX };
        let own = if replica.leads() && !self.alone { PIPELINE_MAX } else { most };
        hold(pending <= own, "S19", || format!("{r} has {pending} ops in flight"))?;
        if !replica.is_primary() {
            return Ok(());
        }
        if replica.leads() {
            self.note(usize::from(r.0), view, replica.durable_op());
        }
        let new = !self.primaries.contains_key(&view);
        let known = *self.primaries.entry(view).or_insert(r);
        hold(known == r, "S8", || format!("{known} and {r} lead view {}", view.0))?;
        if new { self.begins(replica) } else { Ok(()) }
    }

    /// A view begins: its log has all that was ever committed.
    fn begins(&self, replica: &Replica) -> Checked {
        let (r, view, first) = (replica.id(), replica.view().0, replica.commit().0 as usize);
        // What later views committed meanwhile is not this one's.
        let earlier = self.committed_in.iter().take_while(|v| v.0 < view).count();
        hold(replica.op().0 as usize >= earlier, "S9", || {
            format!("view {view} of {r} begins with op {} of {earlier}", replica.op())
        })?;
        let committed = self.canonical[..earlier].iter().skip(first);
        for (header, (identity, ..)) in replica.suffix().zip(committed) {
            hold(header.identity() == *identity, "S9", || {
                format!("view {view} of {r} begins with another op {}", header.op)
            })?;
        }
        Ok(())
    }

    /// A replica says something.
    pub(super) fn said(&mut self, from: ReplicaId, message: &Message) -> Checked {
        let r = usize::from(from.0);
        let Some(durable) = self.superblocks[r] else { return Ok(()) };
        let disk = &self.durable[r];
        let has = |op: Op, identity: Identity| {
            op.0 == 0
                || disk
                    .get(op.0 as usize - 1)
                    .is_some_and(|d| *d == identity || *d == Identity::default())
        };
        let let_in = durable.incarnation <= self.let_in[r];
        let honest =
            |holds: bool| hold(holds && let_in, "S4", || format!("{from} says {message:?}"));
        match message {
            Message::PrepareOk { view, op, identity } => {
                honest(durable.view == *view && durable.log_view == *view && has(*op, *identity))?;
                self.note(r, *view, *op);
                Ok(())
            }
            Message::DoViewChange { view, log_view, certain, closed_us, tail } => {
                hold(*certain != durable.uncertain, "S10", || {
                    format!("{from} votes as if it knew what it had, or as if it did not")
                })?;
                let head = tail.headers.last().map_or(tail.identity, Header::identity);
                honest(
                    durable.view == *view
                        && durable.log_view == *log_view
                        && durable.closed_us == *closed_us
                        && tail.op().0 == disk.len() as u64
                        && has(tail.op(), head),
                )
            }
            Message::StartView { view, .. } => honest(durable.log_view == *view),
            Message::Prepare { view, entry, .. } => {
                let (op, identity) = (entry.header.op, entry.header.identity());
                let new = entry.header.view == *view;
                if new && !self.prepared.contains_key(&(*view, op)) {
                    self.ordered(*view, &entry.header)?;
                }
                let known = *self.prepared.entry((*view, op)).or_insert(identity);
                hold(known == identity, "S8", || format!("two ops {op} in view {}", view.0))?;
                self.body(from, entry)
            }
            Message::Supply { entry, .. } => self.body(from, entry),
            Message::Alive { .. } => honest(true),
            Message::Follows { op, .. } => {
                hold(op.0 <= disk.len() as u64, "S4", || format!("{from} says {message:?}"))
            }
            Message::Reading { view, closed_us, .. } => {
                honest(durable.log_view == *view && durable.closed_us == *closed_us)
            }
            Message::Close { .. }
            | Message::Commit { .. }
            | Message::StartViewChange { .. }
            | Message::RequestStartView { .. }
            | Message::Fetch { .. } => Ok(()),
        }
    }

    /// One op has one body, whoever sends it.
    fn body(&mut self, from: ReplicaId, entry: &Entry) -> Checked {
        let hash = blake3::hash(&entry.body);
        let known = *self.bodies.entry(entry.header.identity().0).or_insert(hash);
        hold(known == hash, "S16", || format!("{from} sends another op {}", entry.header.op))
    }
}
