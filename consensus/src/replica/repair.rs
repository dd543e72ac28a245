//! Asking others for ops, and giving them.

use super::{Form, Outbox, Output, Replica, Status};
use crate::{
    header::{Header, Identity, Op},
    limits::{FETCH_OPS_MAX, RESEND_MS, SUFFIX_MAX, SUPPLIED_OPS_MAX},
    message::{Entry, Message, ReplicaId},
    timer::Timer,
};

impl Replica {
    /// Asks for ops from `first` to `last`, a few at a time; `headers` are theirs, as far as they are known.
    pub(super) fn fetch(
        &mut self,
        now: u64,
        first: Op,
        last: Op,
        headers: &[Header],
        out: &mut Outbox,
    ) {
        #[cfg(feature = "sim")]
        if self.has(crate::sim::Mutant::NoRepair) {
            return;
        }
        if let Some((asked, again, _)) = &self.fetched
            && first <= *asked
            && !again.is_due(now)
        {
            return;
        }
        let late = self.fetched.as_ref().filter(|(asked, ..)| first <= *asked);
        let silent = late.map(|(.., who)| *who);
        let to = self.source(silent);
        let room = self.commit().0 + SUFFIX_MAX;
        let until = last.0.min(first.0 + FETCH_OPS_MAX - 1).min(room);
        if until < first.0 {
            return;
        }
        for op in (first.0..=until).map(Op) {
            let identity = headers.iter().find(|h| h.op == op).map(Header::identity);
            out.push(Output::Send { to, message: Message::Fetch { op, identity } });
        }
        self.fetched = Some((Op(until), Timer::after(now, RESEND_MS), to));
    }

    /// Whom to ask: who answers; else the primary, and every other time another one. Most of those may be down, or
    /// be behind themselves, and each costs the time that it takes to see that it does not answer.
    fn source(&mut self, silent: Option<ReplicaId>) -> ReplicaId {
        if silent.is_some() {
            self.supplier = None;
        }
        if let Some(supplier) = self.supplier {
            return supplier;
        }
        let primary = self.primary();
        if primary != self.me && silent != Some(primary) {
            return primary;
        }
        let round = (1..=self.slots).map(|n| ReplicaId((self.fetch_round + n) % self.slots));
        let other = |r: &ReplicaId| *r != self.me && *r != primary;
        // In a cluster of two there is nobody else.
        let next = round.into_iter().find(other).unwrap_or(primary);
        self.fetch_round = next.0;
        next
    }

    /// Asks for committed ops behind the last one known to be committed here.
    pub(super) fn fetch_committed(&mut self, now: u64, last: Op, out: &mut Outbox) {
        self.fetch(now, self.sure.next(), last, &[], out);
    }

    pub(super) fn on_fetch(
        &mut self,
        to: ReplicaId,
        op: Op,
        identity: Option<Identity>,
        out: &mut Outbox,
    ) {
        if op == Op(0) {
            return;
        }
        if op <= self.commit() {
            return out.push(Output::SendOp { to, op, form: Form::Supply { committed: true } });
        }
        let Some(pending) = self.pending(op) else { return };
        if identity == Some(pending.identity) {
            out.push(Output::SendOp { to, op, form: Form::Supply { committed: false } });
        } else if identity.is_none() && self.is_primary() {
            let form = Form::Prepare { view: self.view(), commit: self.commit() };
            out.push(Output::SendOp { to, op, form });
        }
    }

    pub(super) fn on_supply(
        &mut self,
        now: u64,
        from: ReplicaId,
        committed: bool,
        entry: Entry,
        out: &mut Outbox,
    ) {
        let op = entry.header.op;
        let room = self.supplied.len() < SUPPLIED_OPS_MAX || self.supplied.contains_key(&op);
        if op <= self.commit() || op.0 > self.op().0 + SUPPLIED_OPS_MAX as u64 || !room {
            return;
        }
        self.supplier = Some(from);
        self.supplied.insert(op, (committed, entry));
        while let Some(op) = self.supplied.keys().next().copied()
            && op <= self.op().next()
        {
            let Some((committed, entry)) = self.supplied.remove(&op) else { break };
            self.take_supplied(committed, entry, out);
        }
        match self.status {
            Status::ViewChange => self.pursue(now, out),
            Status::Normal => self.fill_gap(now, out),
        }
    }

    fn take_supplied(&mut self, committed: bool, entry: Entry, out: &mut Outbox) {
        if committed {
            self.take_committed(entry, out);
        } else if self.is_goal(&entry.header) && self.follows(&entry.header) {
            self.append(entry, out);
        }
    }

    /// An op that is committed, whatever this log has in its place.
    fn take_committed(&mut self, entry: Entry, out: &mut Outbox) {
        let header = &entry.header;
        let op = header.op;
        if op <= self.sure {
            return;
        }
        self.commit_max = self.commit_max.max(op);
        if let Some(pending) = self.pending(op) {
            let same = pending.identity == header.identity();
            #[cfg(feature = "sim")]
            let same = same || self.has(crate::sim::Mutant::AnyCommitted);
            if same {
                self.sure = op;
                return self.advance(out);
            }
            if op > self.sure.next() || self.status == Status::Normal {
                // What lies before it may differ too, and has to be known first. In this view's log nothing differs.
                return;
            }
            self.truncate(self.sure, out);
        }
        if self.follows(header) {
            self.append(entry, out);
            self.sure = self.sure.max(op);
        }
    }
}
