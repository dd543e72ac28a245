//! Growth and shrinking, one member at a time: specs/reconfiguration is the model, with its rules at the head.
//!
//! A step is ordered when nothing before it waits for its commit and a quorum has taken the log of the view. So of the
//! logs that a view may begin with none is two steps from another, and each quorum of the one meets each of the other.

use bytes::Bytes;

use super::{Change, ChangeRefused, Form, Outbox, Output, Replica};
#[cfg(feature = "sim")]
use crate::sim::Mutant;
use crate::{
    limits::{FETCH_OPS_MAX, RESEND_MS},
    members::{FIRST_INCARNATION, Members},
    message::{Entry, ReplicaId},
    quorum::Voters,
    timer::Timer,
};

impl Replica {
    /// Whether this replica, as primary, would order a change of the members now.
    ///
    /// # Errors
    /// Why not.
    pub fn may_change(&self, now_ms: u64, change: Change) -> Result<(), ChangeRefused> {
        if !self.leads() || !self.is_taken() {
            return Err(ChangeRefused::NotLeading);
        }
        if self.wanted.is_some() || self.is_changing() {
            return Err(ChangeRefused::Underway);
        }
        self.changed(now_ms, change).map(drop)
    }

    /// The members behind a change.
    fn changed(&self, now: u64, change: Change) -> Result<Members, ChangeRefused> {
        let members = self.members();
        let (Change::Add(replica) | Change::Remove(replica)) = change;
        if replica.0 >= self.slots {
            return Err(ChangeRefused::Unknown);
        }
        if members.voters().has(replica) == matches!(change, Change::Add(_)) {
            return Err(ChangeRefused::Already);
        }
        let next = match change {
            Change::Add(_) => self.with_member(now, replica)?,
            Change::Remove(_) if members.voters().count() == 1 => return Err(ChangeRefused::Last),
            Change::Remove(_) if replica == self.me => return Err(ChangeRefused::Primary),
            Change::Remove(_) => members.without(replica).ok_or(ChangeRefused::Last)?,
        };
        // Else nothing would be committed any more, this change neither.
        let goes_on = next.have_quorum(self.answering(now));
        if goes_on { Ok(next) } else { Err(ChangeRefused::TooFew) }
    }

    /// Who answered in this view, lately: a member whose disk is known, or one that follows.
    fn answering(&self, now: u64) -> Voters {
        let answered = |r: &ReplicaId| {
            let at = usize::from(r.0);
            *r == self.me || self.echoed[at] > 0 || self.follows[at].is_some()
        };
        let heard = self.heard(now);
        (0..self.slots).map(ReplicaId).filter(|r| heard.has(*r) && answered(r)).collect()
    }

    fn with_member(&self, now: u64, replica: ReplicaId) -> Result<Members, ChangeRefused> {
        let r = usize::from(replica.0);
        let near = self.follows[r].is_some_and(|op| op.0 + FETCH_OPS_MAX >= self.commit().0);
        if !near || !self.answering(now).has(replica) {
            return Err(ChangeRefused::Behind);
        }
        let (incarnation, members) = (self.incarnations[r], self.members());
        if members.voters().count() == 1 && incarnation != FIRST_INCARNATION {
            return Err(ChangeRefused::NewDisk);
        }
        members.with(replica, incarnation).ok_or(ChangeRefused::Unknown)
    }

    /// Whether members come or go with an op that is not committed.
    pub(super) fn is_changing(&self) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::StepTooEarly) {
            return false;
        }
        self.members_of(self.tip()).differ_in_voters(self.members())
    }

    /// Whether a quorum has taken the log that this view began with. That all of it is committed does not say so.
    fn is_taken(&self) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::StepTooEarly) {
            return true;
        }
        self.have_quorum(self.head(), self.took)
    }

    pub(super) fn want(&mut self, now: u64, change: Change) {
        assert!(self.may_change(now, change).is_ok(), "the driver asks before");
        self.wanted = Some(change);
        #[cfg(feature = "sim")]
        if self.has(Mutant::NeverChanges) {
            self.wanted = None;
        }
    }

    /// Whether the change that is wanted may be ordered.
    pub fn wants_change(&self) -> bool {
        let settled = self.suffix.is_empty();
        #[cfg(feature = "sim")]
        let settled = settled || self.has(Mutant::StepTooEarly);
        self.wanted.is_some() && self.leads() && self.is_taken() && settled
    }

    /// The members behind what this replica wants ordered on its own.
    pub(super) fn next_members(&mut self, now: u64) -> Option<Members> {
        if self.wants_change() {
            // It may have become false since it was asked for.
            let change = self.wanted.take()?;
            return self.changed(now, change).ok();
        }
        if !self.takes_requests() || self.is_changing() {
            return None;
        }
        let (replica, newest) = self.stranger()?;
        self.members().with_reset(replica, newest)
    }

    /// As primary: orders an op of its own, that changes the members.
    pub(super) fn order(&mut self, now: u64, out: &mut Outbox) {
        let Some(next) = self.next_members(now) else { return };
        // It says nothing of when: its time is just behind the last op's, whatever a clock shows.
        let time_us = self.least().max(1);
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
}
