//! Replicas that lost their disk. Another disk is another incarnation: it copies the log like any backup, but acknowledges
//! nothing and takes no part in a change of the view before an op that lets it in is committed. Once that op stands in a
//! log, what earlier incarnations said counts for nothing there.

use bytes::Bytes;

use super::{Form, Notice, Outbox, Output, Replica, Vote};
#[cfg(feature = "sim")]
use crate::sim::Mutant;
use crate::{
    header::Header,
    limits::RESEND_MS,
    members::{FIRST_INCARNATION, Members},
    message::{Entry, ReplicaId},
    timer::Timer,
};

/// The incarnation that a replica counts with behind this op.
fn incarnation(members: Option<&Members>, replica: ReplicaId) -> u64 {
    members.map_or(FIRST_INCARNATION, |m| m.incarnation(replica))
}

fn members(header: Option<&Header>) -> Option<&Members> {
    header.and_then(|h| h.members.as_ref())
}

impl Replica {
    /// Whether this replica may vote and acknowledge: the others have let its disk in, as far as it knows.
    pub fn is_let_in(&self) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::VotesBeforeReset) {
            return true;
        }
        self.let_in
    }

    /// Whether what is committed here lets this replica's disk in.
    pub(super) fn knows_its_disk(&self) -> bool {
        let known = incarnation(members(self.tip()), self.me);
        self.replicas == 1 || known >= self.superblock.incarnation
    }

    /// Ops were committed. It has to be durable that they let this disk in: else a restart might forget what others count on.
    pub(super) fn expect_to_be_let_in(&mut self, out: &mut Outbox) {
        if !self.let_in && self.known_from.is_none() && self.knows_its_disk() {
            self.known_from = Some(self.commit());
            self.write_superblock(out);
        }
    }

    pub(super) fn be_let_in(&mut self, out: &mut Outbox) {
        let known = self.known_from.is_some_and(|op| op <= self.durable.commit);
        if !self.let_in && known {
            self.let_in = true;
            self.say_ok(out);
        }
    }

    /// Whether an op of this replica's own waits for [`crate::Input::Order`].
    pub fn wants_order(&self) -> bool {
        self.replicas > 1 && self.takes_requests() && self.stranger().is_some()
    }

    /// Somebody who speaks with a later disk than the log knows of.
    fn stranger(&self) -> Option<(ReplicaId, u64)> {
        let known = members(self.head());
        let heard = (0..).map(ReplicaId).zip(self.incarnations.iter().copied());
        heard.into_iter().find(|(r, newest)| *r != self.me && *newest > incarnation(known, *r))
    }

    /// As primary: lets a replaced disk in.
    pub(super) fn order(&mut self, now: u64, out: &mut Outbox) {
        let Some((replica, newest)) = self.stranger() else { return };
        if !self.takes_requests() {
            return;
        }
        let before = members(self.head()).cloned();
        let before = before.unwrap_or_else(|| Members::first(self.replicas));
        let Some(next) = before.with_reset(replica, newest) else { return };
        // It says nothing of when: its time is just behind the last op's, whatever a clock shows.
        let time_us = self.head().map_or(0, |h| h.time_us + 1);
        let header = self.successor(time_us, Some(next), Bytes::new());
        let op = header.op;
        if self.suffix.is_empty() {
            self.resend = Timer::after(now, RESEND_MS);
        }
        self.append(Entry { header, body: Bytes::new() }, out);
        let form = Form::Prepare { view: self.view(), commit: self.commit() };
        for to in self.others() {
            out.push(Output::SendOp { to, op, form });
        }
    }

    /// Whether an op's members follow from those of the log's end.
    pub(super) fn members_follow(&self, header: &Header) -> bool {
        match (members(self.head()), &header.members) {
            (None, None) => true,
            (Some(_), None) => false,
            (Some(before), Some(next)) => before == next || next.is_step_from(before),
            (None, Some(next)) => next.is_step_from(&Members::first(self.replicas)),
        }
    }

    /// Whether what a replica says counts in this log.
    pub(super) fn counts(&self, from: ReplicaId, said_by: u64) -> bool {
        said_by == incarnation(members(self.head()), from)
    }

    /// An op stands at the log's end: what older disks said of any op counts for nothing now.
    pub(super) fn forget_lost_disks(&mut self, header: &Header) {
        let before = members(self.head());
        if header.members.as_ref() == before {
            return;
        }
        let lost: Vec<ReplicaId> = (0..self.replicas)
            .map(ReplicaId)
            .filter(|r| incarnation(before, *r) < incarnation(header.members.as_ref(), *r))
            .collect();
        for replica in lost {
            let r = usize::from(replica.0);
            self.suffix.iter_mut().for_each(|p| p.acks.remove(replica));
            (self.echoed[r], self.votes[r], self.wishes[r]) = (0, None, None);
            let newest = &mut self.incarnations[r];
            *newest = (*newest).max(incarnation(header.members.as_ref(), replica));
        }
    }

    /// Those of whose votes none was said by a disk that another has replaced, as any of the voters' logs has it.
    pub(super) fn standing<'a>(votes: &[&'a Vote]) -> Vec<&'a Vote> {
        let known = |r| votes.iter().map(|v| incarnation(v.tail.members(), r)).max();
        let stands = |v: &&Vote| known(v.from) == Some(v.incarnation);
        votes.iter().copied().filter(stands).collect()
    }

    /// Says that what it heard is of a disk that was replaced.
    pub(super) fn is_of_a_lost_disk(
        &self,
        from: ReplicaId,
        said_by: u64,
        out: &mut Outbox,
    ) -> bool {
        let newest = self.incarnations[usize::from(from.0)];
        let lost = said_by < newest.max(incarnation(members(self.head()), from));
        if lost {
            out.push(Output::Notice(Notice::OldIncarnation));
        }
        lost
    }
}
