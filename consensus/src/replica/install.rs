//! Making this replica's log the log of its view, before it speaks in it.
//!
//! The log changes step by step, under the old log view: what is cut is known not to be committed, and what is added
//! follows from what the view's primary or a quorum said. So at every moment the log holds every committed op that it
//! held before. The log view rises once all of it is durable.

use super::{Notice, Outbox, Output, Replica, Status};
use crate::{
    header::{Header, Identity, Op, View},
    limits::HEARTBEAT_MS,
    message::{Message, ReplicaId, Tail},
    quorum::Voters,
    timer::Timer,
};

/// The log of a view.
#[derive(Debug)]
pub(super) struct Goal {
    view: View,
    /// Ops up to this one are committed.
    commit: Op,
    identity: Identity,
    /// The ops behind it.
    headers: Vec<Header>,
}

impl Goal {
    /// The log that `best` ends, of which all up to `committed.commit` is committed; `None` where they contradict
    /// each other.
    pub(super) fn new(view: View, committed: &Tail, best: &Tail) -> Option<Self> {
        let (commit, identity) = (committed.commit, committed.identity);
        let same = match best.headers.iter().find(|h| h.op == commit) {
            Some(header) => header.identity() == identity,
            None => best.commit >= commit,
        };
        let same = same && (best.commit != commit || best.identity == identity);
        let behind = best.headers.iter().filter(|h| h.op > commit);
        let headers = behind.cloned().collect();
        same.then_some(Self { view, commit, identity, headers })
    }

    fn op(&self) -> Op {
        self.headers.last().map_or(self.commit, |h| h.op)
    }
}

impl Replica {
    /// Asks the primary of this view what the view's log is.
    pub(super) fn ask_for_view(&mut self, out: &mut Outbox) {
        if self.primary() != self.me {
            let message = Message::RequestStartView { view: self.view(), nonce: self.nonce };
            out.push(Output::Send { to: self.primary(), message });
        }
    }

    pub(super) fn on_request_start_view(
        &mut self,
        from: ReplicaId,
        view: View,
        nonce: u64,
        out: &mut Outbox,
    ) {
        if view > self.view() || !self.is_primary() {
            return;
        }
        // All that was prepared: the asker may have said that it has it.
        let tail = self.tail(self.op());
        let message = Message::StartView { view: self.view(), nonce, tail };
        out.push(Output::Send { to: from, message });
    }

    pub(super) fn on_start_view(
        &mut self,
        now: u64,
        from: ReplicaId,
        (view, nonce): (View, u64),
        tail: &Tail,
        out: &mut Outbox,
    ) {
        if self.primary_of(view) != from {
            return out.push(Output::Notice(Notice::NotThePrimary));
        }
        if !tail.is_of(view) {
            return out.push(Output::Notice(Notice::Diverged));
        }
        if view > self.view() {
            self.enter_view(now, view, out);
        }
        if view < self.view() {
            return;
        }
        if self.status == Status::Normal {
            // Logs of those who are normal in one view are one log.
            let other = |h: &Header| self.pending(h.op).is_some_and(|p| p.header != *h);
            if tail.headers.iter().any(other) {
                out.push(Output::Notice(Notice::Diverged));
            }
            return;
        }
        // What this replica acknowledged in this view before its log was damaged may be missing in what the primary
        // said before that; not in what it says now.
        let old = self.superblock.uncertain && view == self.log_view() && nonce != self.nonce;
        if old {
            return;
        }
        let known = self.goal.as_ref().map_or(Op(0), Goal::op);
        if self.goal.is_none() || tail.op() > known {
            self.goal = Goal::new(view, tail, tail);
            self.expect_progress(now);
        }
        self.pursue(now, out);
    }

    /// Goes on towards the log of the view.
    pub(super) fn pursue(&mut self, now: u64, out: &mut Outbox) {
        let Some(goal) = &self.goal else { return };
        if self.commit() > goal.op() {
            // What the goal was is past.
            self.goal = None;
            return self.ask_for_view(out);
        }
        if self.commit() < goal.commit {
            let has = self.pending(goal.commit).is_some_and(|p| p.identity == goal.identity);
            if !has {
                let last = goal.commit;
                return self.fetch_committed(now, last, out);
            }
            // The identity stands for all ops before it.
            self.sure = self.sure.max(goal.commit);
            self.advance(out);
            if self.commit() < self.goal.as_ref().map_or(Op(0), |g| g.commit) {
                return;
            }
        }
        self.match_headers(now, out);
    }

    /// The committed part is here: what lies behind it becomes what the goal says.
    fn match_headers(&mut self, now: u64, out: &mut Outbox) {
        let Some(goal) = &self.goal else { return };
        let commit = self.commit();
        let headers: Vec<Header> = goal.headers.iter().filter(|h| h.op > commit).cloned().collect();
        let view = goal.view;
        let committed = goal.headers.iter().find(|h| h.op == commit).map(Header::identity);
        let committed = committed.or((goal.commit == commit).then_some(goal.identity));
        if committed.is_some_and(|identity| identity != self.committed_identity) {
            self.goal = None;
            return out.push(Output::Notice(Notice::Diverged));
        }
        if headers.first().is_some_and(|h| h.parent != self.committed_identity) {
            self.goal = None;
            return out.push(Output::Notice(Notice::Diverged));
        }
        let same = |(p, h): &(&super::Pending, &Header)| p.header == **h;
        let common = self.suffix.iter().zip(&headers).take_while(same).count();
        #[cfg(feature = "sim")]
        let (headers, common) = self.keep_wrongly(headers, common);
        if common < self.suffix.len() {
            self.truncate(Op(commit.0 + common as u64), out);
            if self.goal.is_none() {
                return;
            }
        }
        if common < headers.len() {
            let missing = &headers[common..];
            let first = missing[0].op;
            let last = missing[missing.len() - 1].op;
            let missing = missing.to_vec();
            return self.fetch(now, first, last, &missing, out);
        }
        let written = self.suffix.iter().all(|p| p.durable);
        if written && (self.superblock.log_view < view || self.superblock.uncertain) {
            (self.superblock.log_view, self.superblock.uncertain) = (view, false);
            self.write_superblock(out);
        }
    }

    #[cfg(feature = "sim")]
    fn keep_wrongly(&self, headers: Vec<Header>, common: usize) -> (Vec<Header>, usize) {
        if self.primary() != self.me && self.has(crate::sim::Mutant::KeepsLog) {
            return (self.suffix().cloned().collect(), self.suffix.len());
        }
        (headers, common)
    }

    /// Whether the goal has this op next.
    pub(super) fn is_goal(&self, header: &Header) -> bool {
        let goal = self.goal.as_ref();
        goal.is_some_and(|g| g.headers.iter().any(|h| h == header))
    }

    /// The log of the view is durable here.
    pub(super) fn enter_normal(&mut self, now: u64, out: &mut Outbox) {
        self.status = Status::Normal;
        self.goal = None;
        self.fetched = None;
        self.expect_primary(now);
        self.heard_ms.iter_mut().for_each(|at| *at = now);
        self.echoed.iter_mut().for_each(|round| *round = 0);
        self.follows.iter_mut().for_each(|f| *f = None);
        self.took = Voters::default();
        self.took.add(self.me);
        if self.primary() != self.me {
            return self.say_ok(out);
        }
        self.inherited = self.op();
        self.heartbeat = Timer::after(now, HEARTBEAT_MS);
        self.resend = Timer::after(now, HEARTBEAT_MS);
        let message =
            Message::StartView { view: self.view(), nonce: 0, tail: self.tail(self.op()) };
        self.send_all(&message, out);
        // Where this replica is the only member, nobody else's word is waited for.
        self.count(out);
    }
}
