//! Normal operation: a primary prepares, backups write and say so, a quorum commits.

use bytes::Bytes;

use super::{Form, Notice, Outbox, Output, Pending, Replica, Status};
#[cfg(feature = "sim")]
use crate::sim::Mutant;
use crate::{
    header::{Header, Identity, Op, View},
    limits::{
        ABDICATE_MS, ELECTION_MS, ELECTION_STEP_MS, HEARTBEAT_MS, HELD_OPS_MAX, PIPELINE_MAX,
        RESEND_MS, SUFFIX_MAX, VIEW_CHANGE_MS,
    },
    members::Members,
    message::{Entry, Message, ReplicaId},
    quorum::Voters,
    timer::Timer,
};

impl Replica {
    pub(super) fn prepare(&mut self, now: u64, time_us: i64, sections: Bytes, out: &mut Outbox) {
        assert!(self.takes_requests(), "the driver asks before");
        let rises = time_us >= self.least();
        #[cfg(feature = "sim")]
        let rises = rises || self.breaks_time();
        assert!(rises, "op times rise strictly, and keep what was promised");
        let members = self.head().and_then(|h| h.members.clone());
        let header = self.successor(time_us, members, sections);
        let previous = self.head().cloned();
        if self.suffix.is_empty() {
            self.resend = Timer::after(now, RESEND_MS);
        }
        self.suffix.push_back(Pending::new(header.clone(), false));
        let (op, view, commit) = (header.op, self.view(), self.commit());
        out.push(Output::Write { header, previous, body: None });
        for to in self.others() {
            out.push(Output::SendOp { to, op, form: Form::Prepare { view, commit } });
        }
    }

    /// The header of the op that comes next.
    pub(super) fn successor(
        &self,
        time_us: i64,
        members: Option<Members>,
        sections: Bytes,
    ) -> Header {
        let view = self.view();
        #[cfg(feature = "sim")]
        let view = if self.has(Mutant::AnyView) && time_us % 7 == 0 { View(0) } else { view };
        let (cluster, op) = (self.superblock.cluster, self.op().next());
        Header { cluster, op, view, parent: self.head_identity(), time_us, members, sections }
    }

    /// A write completed. Ops commit in order, whatever the order of the writes.
    pub(super) fn written(&mut self, now: u64, op: Op, identity: Identity, out: &mut Outbox) {
        // An op that was cut or abandoned meanwhile has no entry, or one with another identity.
        let found = self.suffix.iter_mut().find(|p| p.header.op == op && p.identity == identity);
        let Some(pending) = found else { return };
        pending.durable = true;
        if self.is_primary() {
            self.count(out);
        } else {
            self.advance(out);
            self.say_ok(out);
        }
        if self.primary() == self.me {
            self.expect_progress(now);
        }
        self.pursue(now, out);
    }

    pub(super) fn refused(&mut self, op: Op, identity: Identity, out: &mut Outbox) {
        let at = self.suffix.iter().position(|p| p.header.op == op && p.identity == identity);
        let Some(at) = at else { return };
        out.push(Output::Notice(Notice::Body));
        // Whatever followed it was not written either. Nobody was told that any of it is here.
        self.suffix.truncate(at);
        self.sure = self.sure.min(self.op());
        self.fetched = None;
    }

    /// As primary: commits what a quorum has.
    pub(super) fn count(&mut self, out: &mut Outbox) {
        let have = |p: &Pending| {
            let mut who = p.acks;
            who.add(self.me);
            #[cfg(feature = "sim")]
            if self.has(Mutant::SmallQuorum) {
                self.others().filter(|r| !p.acks.has(*r)).take(1).for_each(|r| who.add(r));
            }
            let known = p.header.op <= self.sure;
            known || (p.durable && self.have_quorum(Some(&p.header), who))
        };
        let count = self.suffix.iter().take_while(|p| have(p)).count() as u64;
        self.sure = self.sure.max(Op(self.commit().0 + count));
        self.advance(out);
    }

    /// Whether a message that only the primary of `view` sends is to be followed; goes to a later view first.
    pub(super) fn hears_primary(
        &mut self,
        now: u64,
        from: ReplicaId,
        view: View,
        out: &mut Outbox,
    ) -> bool {
        let leads = self.primary_of(view) == from;
        #[cfg(feature = "sim")]
        let leads = leads || self.has(Mutant::HearsAnybody);
        if !leads {
            out.push(Output::Notice(Notice::NotThePrimary));
            return false;
        }
        #[cfg(feature = "sim")]
        if self.has(Mutant::Accuses) && view < self.view() {
            out.push(Output::Notice(Notice::NotThePrimary));
        }
        if view > self.view() {
            self.enter_view(now, view, out);
            self.ask_for_view(out);
        } else if view < self.view() {
            let (view, joined) = (self.view(), self.durable.view);
            let message = Message::StartViewChange { view, joined };
            out.push(Output::Send { to: from, message });
        } else if self.status == Status::Normal {
            self.expect_primary(now);
            self.heard_ms[usize::from(from.0)] = now;
            return true;
        } else {
            // It is there, and what its log is takes time to copy.
            self.expect_progress(now);
        }
        false
    }

    pub(super) fn on_prepare(&mut self, now: u64, commit: Op, entry: Entry, out: &mut Outbox) {
        let (op, identity) = (entry.header.op, entry.header.identity());
        if op <= commit || op.0 > commit.0 + PIPELINE_MAX {
            return out.push(Output::Notice(Notice::NotInFlight));
        }
        self.hear_commit(commit, out);
        if entry.header.view > self.view() {
            return out.push(Output::Notice(Notice::NoSuccessor));
        }
        if op == self.commit() && identity != self.committed_identity {
            out.push(Output::Notice(Notice::OtherOp));
        } else if op <= self.commit() {
            // A new primary may not know yet that it is committed. Whether it is this op that is here nobody knows any more.
            self.say_ok(out);
        } else if let Some(pending) = self.pending(op) {
            if pending.identity == identity {
                self.say_ok(out);
            } else {
                out.push(Output::Notice(Notice::OtherOp));
            }
        } else if op == self.op().next() {
            if self.follows(&entry.header) {
                self.append(entry, out);
                self.hear_commit(commit, out);
            } else if op.0 <= self.commit().0 + SUFFIX_MAX {
                out.push(Output::Notice(Notice::NoSuccessor));
            }
        } else if self.may_hold(op) {
            self.held.insert(op, entry);
        }
        self.fill_gap(now, out);
    }

    /// Whether another op that came in too early is kept.
    fn may_hold(&self, op: Op) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::HoldsAll) {
            return true;
        }
        op.0 <= self.op().0 + HELD_OPS_MAX as u64 && self.held.len() < HELD_OPS_MAX
    }

    /// What came in too early and follows now.
    fn take_held(&mut self, out: &mut Outbox) {
        let next = self.op().next();
        self.held = self.held.split_off(&next);
        while let Some(entry) = self.held.remove(&self.op().next()) {
            if !self.follows(&entry.header) {
                break;
            }
            self.append(entry, out);
        }
    }

    /// Others have committed so much of this view's log.
    fn hear_commit(&mut self, commit: Op, out: &mut Outbox) {
        self.commit_max = self.commit_max.max(commit);
        // Not `commit_max`: a later view may have committed another op under a number that this log has too.
        self.sure = self.sure.max(commit.min(self.op()));
        self.advance(out);
    }

    pub(super) fn on_commit(&mut self, now: u64, op: Op, identity: Identity, out: &mut Outbox) {
        let known = match self.pending(op) {
            Some(pending) => Some(pending.identity),
            None if op == self.commit() => Some(self.committed_identity),
            None => None,
        };
        if known.is_some_and(|known| known != identity) {
            return out.push(Output::Notice(Notice::Diverged));
        }
        self.hear_commit(op, out);
        self.say_ok(out);
        self.fill_gap(now, out);
    }

    /// As backup: asks for what the primary has committed or sent and this log lacks.
    pub(super) fn fill_gap(&mut self, now: u64, out: &mut Outbox) {
        self.take_held(out);
        let last = self.held.keys().next_back().copied().unwrap_or_default().max(self.commit_max);
        if last > self.op() {
            self.fetch(now, self.op().next(), last, &[], out);
        }
    }

    /// Tells the primary up to where the log of the view is durable here.
    pub(super) fn say_ok(&mut self, out: &mut Outbox) {
        let op = self.durable_op();
        #[cfg(feature = "sim")]
        let op = if self.has(Mutant::AckEarly) { self.op() } else { op };
        let identity = self.pending(op).map_or(self.committed_identity, |p| p.identity);
        if self.may_vouch() && self.primary() != self.me {
            let message = Message::PrepareOk { view: self.view(), op, identity };
            out.push(Output::Send { to: self.primary(), message });
        }
    }

    pub(super) fn on_prepare_ok(
        &mut self,
        now: u64,
        from: ReplicaId,
        (view, op, identity): (View, Op, Identity),
        out: &mut Outbox,
    ) {
        if self.primary_of(view) != self.me {
            return out.push(Output::Notice(Notice::NeverSaid));
        }
        if view != self.view() || !self.is_primary() {
            return;
        }
        self.heard_ms[usize::from(from.0)] = now;
        self.took.add(from);
        if op <= self.commit() {
            return;
        }
        // An op's identity stands for all ops before it.
        match self.pending(op) {
            Some(pending) if pending.identity == identity => {}
            Some(_) => return out.push(Output::Notice(Notice::OtherOp)),
            None => return out.push(Output::Notice(Notice::Diverged)),
        }
        let upto = (op.0 - self.commit().0) as usize;
        self.suffix.iter_mut().take(upto).for_each(|p| p.acks.add(from));
        self.count(out);
    }

    pub(super) fn tick(&mut self, now: u64, out: &mut Outbox) {
        if self.slots == 1 {
            return;
        }
        if self.is_primary() {
            self.lead(now, out);
        } else if self.resigned || self.election.is_due(now) {
            #[cfg(feature = "sim")]
            if self.has(Mutant::NoElection) {
                return;
            }
            self.wish(now, out);
        }
        if self.status == Status::ViewChange && self.resend.fires(now, RESEND_MS) {
            self.press(now, out);
        } else if self.status == Status::Normal && !self.is_primary() {
            self.fill_gap(now, out);
            if !self.is_let_in() && self.resend.fires(now, RESEND_MS) {
                // That it asks shows its incarnation to whoever may let it in.
                self.ask_for_view(out);
            }
        }
    }

    fn lead(&mut self, now: u64, out: &mut Outbox) {
        if !self.have_quorum(self.head(), self.heard(now)) {
            // Whoever still hears this replica should look for one that is heard too.
            return self.resign(out);
        }
        if self.heartbeat.fires(now, HEARTBEAT_MS) {
            self.beat(out);
            self.ask_time(now, out);
        }
        if !self.suffix.is_empty() && self.resend.fires(now, RESEND_MS) {
            let form = Form::Prepare { view: self.view(), commit: self.commit() };
            for pending in &self.suffix {
                for to in self.others().filter(|to| !pending.acks.has(*to)) {
                    out.push(Output::SendOp { to, op: pending.header.op, form });
                }
            }
        }
    }

    /// As primary: whom it heard lately, itself among them.
    pub(super) fn heard(&self, now: u64) -> Voters {
        let heard = (0..).map(ReplicaId).zip(&self.heard_ms);
        let lately = heard.filter(|(r, at)| *r == self.me || now < **at + ABDICATE_MS);
        lately.map(|(replica, _)| replica).collect()
    }

    /// As primary: stops speaking, so that others look for another one.
    pub(super) fn resign(&mut self, out: &mut Outbox) {
        if self.slots > 1 && self.is_primary() {
            (self.resigned, self.wanted) = (true, None);
            out.push(Output::Deposed);
        }
    }

    /// As primary: says that it is there, and how much is committed.
    pub(super) fn beat(&mut self, out: &mut Outbox) {
        if self.is_primary() {
            self.round += 1;
            let (view, op, round) = (self.view(), self.commit(), self.round);
            let identity = self.committed_identity;
            #[cfg(feature = "sim")]
            let (op, identity) = match self.tip().filter(|_| self.has(Mutant::LateCommit)) {
                Some(tip) => (Op(op.0 - 1), tip.parent),
                None => (op, identity),
            };
            self.send_all(&Message::Commit { view, op, identity, round }, out);
        }
    }

    /// The primary was heard, or gets its time to speak.
    pub(super) fn expect_primary(&mut self, now: u64) {
        let wait = ELECTION_MS + ELECTION_STEP_MS * u64::from(self.me.0);
        self.election = Timer::after(now, wait);
        self.wishes[usize::from(self.me.0)] = None;
    }

    /// A change of the view goes on.
    pub(super) fn expect_progress(&mut self, now: u64) {
        if self.status == Status::ViewChange && !self.resigned {
            let wait = VIEW_CHANGE_MS + ELECTION_STEP_MS * u64::from(self.me.0);
            self.election = Timer::after(now, wait);
        }
    }
}
