//! One replica: what it has prepared, written and committed, and in which view it is.

mod closed;
mod install;
mod log;
mod members;
mod normal;
#[cfg(feature = "sim")]
mod planted;
mod reconfigure;
mod repair;
mod view_change;

use std::collections::{BTreeMap, VecDeque};

#[cfg(feature = "sim")]
use crate::sim::Mutant;
use crate::{
    clock::Clock,
    header::{Header, Identity, Op, View},
    limits::{PIPELINE_MAX, REPLICAS_MAX, TIME_MAX_US, VIEWS_AHEAD_MAX},
    members::Members,
    message::{Entry, Envelope, Message, ReplicaId, Tail},
    quorum::{self, Voters},
    step::{Change, ChangeRefused, Form, Input, Notice, Outbox, Output, Recovered, Superblock},
    timer::Timer,
};
use install::Goal;
use view_change::{Vote, Wish};

/// An op that is not committed yet, as far as this replica knows.
#[derive(Debug)]
struct Pending {
    header: Header,
    identity: Identity,
    durable: bool,
    /// Who else said that it is durable there, in this view.
    acks: Voters,
}

impl Pending {
    fn new(header: Header, durable: bool) -> Self {
        let identity = header.identity();
        Self { header, identity, durable, acks: Voters::default() }
    }
}

/// What a replica does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It follows or is the primary of its view.
    Normal,
    /// It has left all earlier views and does not have the log of its view.
    ViewChange,
}

/// One replica of a cluster.
#[derive(Debug)]
pub struct Replica {
    me: ReplicaId,
    /// Replicas that there may be; those that are no members follow as standbys.
    slots: u8,
    /// Who the members are before any op changes them.
    first: Members,
    status: Status,
    /// What was last asked to be made durable. Its view and log view are this replica's.
    superblock: Superblock,
    /// What is durable.
    durable: Superblock,
    /// Header and identity of the last committed op.
    committed: Option<Header>,
    committed_identity: Identity,
    /// The ops behind it, in order.
    suffix: VecDeque<Pending>,
    /// Ops of this log up to this one are known to be committed, written or not.
    sure: Op,
    /// So far others have committed.
    commit_max: Op,
    /// Came in before the ops that they follow.
    held: BTreeMap<Op, Entry>,
    /// The log of the view, while this replica does not have it.
    goal: Option<Goal>,
    /// As primary: what was there when the view began; requests wait for its commit.
    inherited: Op,
    /// As primary: stopped speaking, because no quorum answers or what it had prepared may be forgotten.
    resigned: bool,
    votes: Vec<Option<Vote>>,
    wishes: Vec<Option<Wish>>,
    /// When each replica was last heard in this view.
    heard_ms: Vec<u64>,
    /// The last round of heartbeats, and the last one that each replica heard.
    round: u64,
    echoed: Vec<u64>,
    incarnations: Vec<u64>,
    /// How far those are that are no members.
    follows: Vec<Option<Op>>,
    /// As primary: who has taken the log of this view.
    took: Voters,
    /// As primary: the change of the members that is to be ordered.
    wanted: Option<Change>,
    nonce: u64,
    /// The others know this disk, and that they do is durable here.
    let_in: bool,
    /// The first committed op here behind which they do.
    known_from: Option<Op>,
    /// Up to where ops were asked for, when that is asked again, and who was asked.
    fetched: Option<(Op, Timer, ReplicaId)>,
    /// Who answered last.
    supplier: Option<ReplicaId>,
    /// Came in before the ops that they follow, with whether they are committed.
    supplied: BTreeMap<Op, (bool, Entry)>,
    fetch_round: u8,
    heartbeat: Timer,
    resend: Timer,
    election: Timer,
    clock: Clock,
    /// What was promised of times, here or by whoever led before: ops of this replica's own are later.
    floor_us: i64,
    /// What readers may be told of it.
    closed_us: i64,
    /// As primary: the promise that is durable on each other one.
    kept_us: Vec<i64>,
    #[cfg(feature = "sim")]
    raw_us: i64,
    #[cfg(feature = "sim")]
    mutant: Option<Mutant>,
}

impl Replica {
    #[cfg(feature = "sim")]
    fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Goes on where a log ended.
    ///
    /// # Panics
    /// When the superblock's commit floor lies beyond a log that is whole: recovery reports that as damage.
    pub fn new(now_ms: u64, recovered: Recovered) -> Self {
        let Recovered { superblock, replicas, slots, tip, suffix, nonce } = recovered;
        assert!(
            (replicas..=REPLICAS_MAX).contains(&slots) && superblock.replica < u32::from(slots)
        );
        let identity =
            tip.as_ref().map_or_else(|| Identity::root(superblock.cluster), Header::identity);
        let commit = tip.as_ref().map_or(Op(0), |h| h.op);
        let whole = superblock.uncertain || superblock.commit <= commit;
        assert!(whole, "the log ends below its commit floor");
        let count = usize::from(slots);
        let mut this = Self {
            me: ReplicaId(superblock.replica as u8),
            slots,
            first: Members::first(replicas),
            status: Status::ViewChange,
            superblock,
            durable: superblock,
            committed: tip,
            committed_identity: identity,
            suffix: suffix.into_iter().map(|h| Pending::new(h, true)).collect(),
            sure: commit,
            commit_max: commit.max(superblock.commit),
            held: BTreeMap::new(),
            goal: None,
            inherited: Op(0),
            resigned: false,
            votes: (0..count).map(|_| None).collect(),
            wishes: (0..count).map(|_| None).collect(),
            heard_ms: vec![now_ms; count],
            round: 0,
            echoed: vec![0; count],
            incarnations: vec![0; count],
            follows: vec![None; count],
            took: Voters::default(),
            wanted: None,
            nonce,
            let_in: false,
            known_from: None,
            fetched: None,
            supplier: None,
            supplied: BTreeMap::new(),
            fetch_round: 0,
            heartbeat: Timer::after(now_ms, 0),
            resend: Timer::after(now_ms, 0),
            election: Timer::after(now_ms, 0),
            clock: Clock::new(ReplicaId(superblock.replica as u8), count),
            floor_us: superblock.closed_us,
            closed_us: if slots == 1 { superblock.closed_us } else { 0 },
            kept_us: vec![0; count],
            #[cfg(feature = "sim")]
            raw_us: 0,
            #[cfg(feature = "sim")]
            mutant: None,
        };
        this.sure = this.sure.max(this.behind_steps());
        this.let_in = this.knows_its_disk();
        this.start(now_ms);
        this
    }

    /// Where to begin after a restart.
    fn start(&mut self, now_ms: u64) {
        let has_log =
            self.superblock.log_view == self.superblock.view && !self.superblock.uncertain;
        let primary = self.primary_of(self.view()) == self.me;
        if self.slots == 1 || (has_log && !primary) {
            self.status = Status::Normal;
        }
        // What a primary prepared and did not write before a crash, others may have: it must not prepare other ops
        // under the same numbers in the same view.
        self.resigned = self.slots > 1 && primary && self.log_view() == self.view();
        self.expect_primary(now_ms);
    }

    /// The last committed op.
    pub fn commit(&self) -> Op {
        self.committed.as_ref().map_or(Op(0), |h| h.op)
    }

    /// Header of the last committed op; `None` before the first.
    pub fn tip(&self) -> Option<&Header> {
        self.committed.as_ref()
    }

    /// Identity of the last committed op.
    pub fn committed_identity(&self) -> Identity {
        self.committed_identity
    }

    /// The last op of the log.
    pub fn op(&self) -> Op {
        self.suffix.back().map_or(self.commit(), |p| p.header.op)
    }

    /// Headers of the ops that are not committed, as far as this replica knows, in order.
    pub fn suffix(&self) -> impl Iterator<Item = &Header> {
        self.suffix.iter().map(|p| &p.header)
    }

    /// The view.
    pub fn view(&self) -> View {
        self.superblock.view
    }

    /// The last view whose log this replica has.
    pub fn log_view(&self) -> View {
        self.superblock.log_view
    }

    /// What is durable, as far as this replica was told.
    pub fn durable(&self) -> Superblock {
        self.durable
    }

    /// What it does at the moment.
    pub fn status(&self) -> Status {
        self.status
    }

    /// This replica's number.
    pub fn id(&self) -> ReplicaId {
        self.me
    }

    /// The primary of this replica's view.
    pub fn primary(&self) -> ReplicaId {
        self.primary_of(self.view())
    }

    /// Whether this replica leads its view.
    pub fn is_primary(&self) -> bool {
        self.status == Status::Normal && self.primary() == self.me && !self.resigned
    }

    /// Whether this replica leads its view, has committed all that there was before, and knows what time it is.
    pub fn leads(&self) -> bool {
        self.is_primary() && self.commit() >= self.inherited && self.knows_time()
    }

    /// Whether a request may be ordered here, now.
    pub fn takes_requests(&self) -> bool {
        let room = self.slots == 1 || self.op().0 < self.commit().0 + PIPELINE_MAX;
        #[cfg(feature = "sim")]
        let room = room || self.has(Mutant::NoBound);
        // A liar that led can have taken the last time there is.
        let time = self.least() <= TIME_MAX_US;
        self.leads() && room && time && self.wanted.is_none()
    }

    /// The last round of heartbeats.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// A quorum was in this view when it heard this round of heartbeats: until that one began, no other view
    /// committed anything. In a cluster of one there is no other view.
    pub fn confirmed(&self) -> u64 {
        let voters = self.members().voters();
        let heard = (0..).map(ReplicaId).zip(self.echoed.iter().copied());
        let heard = heard.filter(|(r, _)| voters.has(*r));
        let mut echoed: Vec<u64> =
            heard.map(|(r, round)| if r == self.me { u64::MAX } else { round }).collect();
        echoed.sort_unstable_by(|a, b| b.cmp(a));
        let last = usize::from(quorum::replication(voters.count())) - 1;
        echoed.get(last).copied().unwrap_or_default()
    }

    /// Whether there are no others.
    pub fn is_alone(&self) -> bool {
        self.slots == 1
    }

    /// Takes one input and pushes what follows from it. `now_ms` never goes back while the process runs.
    ///
    /// # Panics
    /// When the driver breaks the contract: times that do not rise, a request that cannot be taken.
    pub fn step(&mut self, now_ms: u64, input: Input, out: &mut Outbox) {
        match input {
            Input::Request { time_us, sections } => self.prepare(now_ms, time_us, sections, out),
            Input::Order => self.order(now_ms, out),
            Input::Change(change) => self.want(now_ms, change),
            Input::Resign => self.resign(out),
            Input::Message(envelope) => self.message(now_ms, envelope, out),
            Input::Written { op, identity } => self.written(now_ms, op, identity, out),
            Input::Refused { op, identity } => self.refused(op, identity, out),
            Input::SuperblockWritten(superblock) => {
                self.superblock_written(now_ms, superblock, out);
            }
            Input::Abandoned { after } => self.abandon(after),
            Input::Confirm => self.beat(out),
            Input::Clock { wall_us, building_us } => self.look(now_ms, wall_us, building_us, out),
            Input::Tick => self.tick(now_ms, out),
            Input::Idle => self.refresh(out),
        }
    }

    fn message(&mut self, now: u64, envelope: Envelope, out: &mut Outbox) {
        #[cfg(feature = "sim")]
        self.panic_wrongly();
        let Envelope { cluster, from, to, incarnation, message } = envelope;
        let stranger = from.0 >= self.slots || from == self.me || to != self.me;
        if stranger || cluster != self.superblock.cluster {
            return out.push(Output::Notice(Notice::Misdirected));
        }
        if self.is_of_a_lost_disk(from, incarnation, out) {
            return;
        }
        if message.latest_view().0 > self.view().0 + VIEWS_AHEAD_MAX {
            out.push(Output::Notice(Notice::NoView));
        }
        self.incarnations[usize::from(from.0)] = incarnation;
        match message {
            Message::Prepare { view, commit, entry } => {
                if self.hears_primary(now, from, view, out) {
                    self.on_prepare(now, commit, entry, out);
                }
            }
            Message::PrepareOk { view, op, identity } if self.counts(from, incarnation) => {
                self.on_prepare_ok(now, from, (view, op, identity), out);
            }
            Message::Commit { view, op, identity, round } => {
                if self.hears_primary(now, from, view, out) {
                    self.on_commit(now, op, identity, out);
                    if self.counts_itself() {
                        let message = Message::Alive { view, round };
                        out.push(Output::Send { to: from, message });
                    } else if self.follows_only() {
                        let message = Message::Follows { view, op: self.durable_op() };
                        out.push(Output::Send { to: from, message });
                    }
                }
            }
            Message::Follows { view, op } => {
                if view == self.view() && self.is_primary() {
                    self.heard_ms[usize::from(from.0)] = now;
                    self.follows[usize::from(from.0)] = Some(op);
                }
            }
            Message::Alive { view, round } if self.counts(from, incarnation) => {
                if view == self.view() && self.is_primary() {
                    if round > self.round {
                        return out.push(Output::Notice(Notice::NeverSaid));
                    }
                    let from = usize::from(from.0);
                    self.heard_ms[from] = now;
                    self.echoed[from] = self.echoed[from].max(round);
                }
            }
            Message::StartViewChange { view, joined } => {
                self.on_start_view_change(now, from, view, joined, out);
            }
            Message::Close { view, round, close_us, closed_us, op } => {
                if self.hears_primary(now, from, view, out) {
                    self.on_close(now, (view, round), (close_us, closed_us), op, out);
                }
            }
            Message::Reading { view, round, clock_us, closed_us }
                if self.counts(from, incarnation) =>
            {
                self.on_reading(now, from, (view, round), (clock_us, closed_us), out);
            }
            Message::DoViewChange { view, log_view, certain, closed_us, tail } => {
                let vote = Vote { from, incarnation, log_view, certain, closed_us, tail };
                self.on_do_view_change(now, view, vote, out);
            }
            // Of a disk that this log does not know yet.
            Message::PrepareOk { .. } | Message::Alive { .. } | Message::Reading { .. } => {}
            Message::StartView { view, nonce, tail } => {
                self.on_start_view(now, from, (view, nonce), &tail, out);
            }
            Message::RequestStartView { view, nonce } => {
                self.on_request_start_view(from, view, nonce, out);
            }
            Message::Fetch { op, identity } => self.on_fetch(from, op, identity, out),
            Message::Supply { committed, entry } => {
                self.on_supply(now, from, committed, entry, out);
            }
        }
    }

    fn primary_of(&self, view: View) -> ReplicaId {
        ReplicaId((view.0 % u64::from(self.slots)) as u8)
    }

    fn others(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.me;
        (0..self.slots).map(ReplicaId).filter(move |r| *r != me)
    }

    fn send_all(&self, message: &Message, out: &mut Outbox) {
        for to in self.others() {
            out.push(Output::Send { to, message: message.clone() });
        }
    }

    /// An op that is not committed.
    fn pending(&self, op: Op) -> Option<&Pending> {
        let at = op.0.checked_sub(self.commit().0 + 1)?;
        self.suffix.get(at as usize)
    }

    /// Identity of the last op of the log.
    fn head_identity(&self) -> Identity {
        self.suffix.back().map_or(self.committed_identity, |p| p.identity)
    }

    fn head(&self) -> Option<&Header> {
        self.suffix.back().map(|p| &p.header).or(self.committed.as_ref())
    }

    /// The last op up to which everything is durable here.
    pub(crate) fn durable_op(&self) -> Op {
        Op(self.commit().0 + self.suffix.iter().take_while(|p| p.durable).count() as u64)
    }

    /// The log as others need to know it, up to `last`.
    fn tail(&self, last: Op) -> Tail {
        let headers = self.suffix.iter().map(|p| p.header.clone());
        let headers = headers.take_while(|h| h.op <= last).collect();
        let members = self.committed.as_ref().and_then(|h| h.members.clone());
        Tail { commit: self.commit(), identity: self.committed_identity, members, headers }
    }

    /// Whether what this replica says of the log of its view is durable.
    fn may_vouch(&self) -> bool {
        let normal = self.status == Status::Normal && self.durable.log_view == self.view();
        normal && self.counts_itself()
    }

    fn write_superblock(&mut self, out: &mut Outbox) {
        // Of a log that lost its end the floor says more than the log does.
        if self.commit() >= self.superblock.commit {
            self.superblock.commit = self.commit();
            self.superblock.identity = self.committed_identity;
        }
        out.push(Output::WriteSuperblock(self.superblock));
    }

    fn refresh(&mut self, out: &mut Outbox) {
        if self.superblock.commit < self.commit() {
            self.write_superblock(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::header::SECTION_BYTES;

    fn replica() -> Replica {
        let superblock = Superblock::fresh([1; 16]);
        Replica::new(0, Recovered::alone(superblock, None))
    }

    fn step(r: &mut Replica, input: Input) -> Outbox {
        let mut out = Outbox::new();
        r.step(0, input, &mut out);
        out
    }

    fn request(r: &mut Replica, now_us: i64) -> Header {
        let time_us = r.stamp(now_us);
        let sections = Bytes::from(vec![0; SECTION_BYTES]);
        let out = step(r, Input::Request { time_us, sections });
        let [Output::Write { header, .. }] = &out[..] else { panic!("{out:?}") };
        header.clone()
    }

    fn written(r: &mut Replica, h: &Header) -> Outbox {
        step(r, Input::Written { op: h.op, identity: h.identity() })
    }

    #[test]
    fn an_op_commits_when_it_is_written_and_not_before() {
        let mut r = replica();
        let h = request(&mut r, 10);
        assert_eq!((h.op, h.parent), (Op(1), Identity::root([1; 16])));
        assert_eq!(r.commit(), Op(0));
        assert_eq!(written(&mut r, &h), vec![Output::Commit { op: Op(1) }]);
    }

    #[test]
    fn times_rise_though_the_clock_stands_or_goes_back() {
        let mut r = replica();
        let times: Vec<i64> = [10, 10, 3, 50].map(|now| request(&mut r, now).time_us).to_vec();
        assert_eq!(times, [10, 11, 12, 50]);
    }

    #[test]
    fn ops_commit_in_order_whatever_the_order_of_the_writes() {
        let mut r = replica();
        let (a, b) = (request(&mut r, 1), request(&mut r, 2));
        assert_eq!(b.parent, a.identity());
        assert_eq!(written(&mut r, &b), vec![]);
        assert_eq!(written(&mut r, &a), vec![Output::Commit { op: Op(2) }]);
    }

    #[test]
    fn a_write_of_an_abandoned_op_commits_nothing() {
        let mut r = replica();
        let a = request(&mut r, 1);
        let b = request(&mut r, 2);
        step(&mut r, Input::Abandoned { after: a.op });
        let c = request(&mut r, 9);
        assert_eq!((c.op, c.parent), (b.op, a.identity()));
        written(&mut r, &a);
        assert_eq!(written(&mut r, &b), vec![], "the other op with this number");
        assert_eq!(written(&mut r, &c), vec![Output::Commit { op: c.op }]);
    }

    #[test]
    fn an_idle_replica_writes_its_superblock_once() {
        let mut r = replica();
        let h = request(&mut r, 1);
        assert_eq!(step(&mut r, Input::Idle), vec![], "nothing is committed yet");
        written(&mut r, &h);
        let out = step(&mut r, Input::Idle);
        let [Output::WriteSuperblock(s)] = &out[..] else { panic!("{out:?}") };
        assert_eq!((s.commit, s.identity), (h.op, h.identity()));
        assert_eq!(step(&mut r, Input::Idle), vec![]);
    }
}
