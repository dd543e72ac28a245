//! Replicas that lost their disk. Another disk is another incarnation: it copies the log like any backup, but acknowledges
//! nothing and takes no part in a change of the view before an op that lets it in is committed. Once that op stands in a
//! log, what earlier incarnations said counts for nothing there.

use super::{Notice, Outbox, Output, Replica, Vote};
#[cfg(feature = "sim")]
use crate::quorum;
#[cfg(feature = "sim")]
use crate::sim::Mutant;
use crate::{
    header::Header,
    members::{FIRST_INCARNATION, Members},
    message::ReplicaId,
    quorum::Voters,
};

impl Replica {
    /// The members as of an op.
    pub(super) fn members_of<'a>(&'a self, header: Option<&'a Header>) -> &'a Members {
        header.and_then(|h| h.members.as_ref()).unwrap_or(&self.first)
    }

    /// The members as of the log's end.
    pub fn members(&self) -> &Members {
        self.members_of(self.head())
    }

    /// Whether a quorum of the members as of an op is among these.
    pub(super) fn have_quorum(&self, header: Option<&Header>, who: Voters) -> bool {
        #[cfg(feature = "sim")]
        let header = if self.has(Mutant::InForceAtCommit) { self.tip() } else { header };
        self.is_quorum(self.members_of(header), who)
    }

    /// Whether a quorum of these members is among those.
    #[cfg_attr(
        not(feature = "sim"),
        expect(clippy::unused_self, reason = "a planted bug is a replica's")
    )]
    pub(super) fn is_quorum(&self, members: &Members, who: Voters) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::StandbysCount) {
            return who.count() >= quorum::replication(members.voters().count());
        }
        members.have_quorum(who)
    }

    /// Whether this replica may lead these members.
    pub(super) fn may_lead(&self, members: &Members) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::StandbysCount) {
            return true;
        }
        members.voters().has(self.me)
    }

    pub(super) const fn first_members(&self) -> &Members {
        &self.first
    }

    /// Whether what this replica says is for others to count: it is a member, and its disk is known. A standby
    /// acknowledges nothing.
    pub(super) fn counts_itself(&self) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::StandbysCount) {
            return self.is_let_in();
        }
        self.is_let_in() && self.members().voters().has(self.me)
    }

    /// Whether this replica is no member, and follows.
    pub(super) fn follows_only(&self) -> bool {
        !self.members().voters().has(self.me)
    }

    /// Whether this replica may vote and acknowledge: the others have let its disk in, as far as it knows.
    pub fn is_let_in(&self) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::VotesBeforeReset) {
            return true;
        }
        self.let_in || self.is_added()
    }

    /// Whether an op that is not committed makes this replica a member. What earlier disks of it said counts in no log that
    /// has this op.
    fn is_added(&self) -> bool {
        let known = self.members_of(self.tip()).incarnation(self.me);
        known == 0 && self.members().incarnation(self.me) == self.superblock.incarnation
    }

    /// Whether what is committed here lets this replica's disk in.
    pub(super) fn knows_its_disk(&self) -> bool {
        // The first disk has nothing to forget.
        let first = self.superblock.incarnation == FIRST_INCARNATION;
        let known = self.members_of(self.tip()).incarnation(self.me);
        self.slots == 1 || first || known >= self.superblock.incarnation
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

    /// Whether an op of this replica's own waits for [`crate::Input::Order`]: one that lets a disk in, or changes the members.
    pub fn wants_order(&self) -> bool {
        let stranger = || self.takes_requests() && !self.is_changing() && self.stranger().is_some();
        self.slots > 1 && (self.wants_change() || stranger())
    }

    /// Somebody who speaks with a later disk than the log knows of.
    pub(super) fn stranger(&self) -> Option<(ReplicaId, u64)> {
        #[cfg(feature = "sim")]
        if self.has(Mutant::NeverLetIn) {
            return None;
        }
        let known = self.members();
        let voters = known.voters();
        let heard = (0..).map(ReplicaId).zip(self.incarnations.iter().copied());
        let mut others = heard.filter(|(r, _)| *r != self.me && voters.has(*r));
        others.find(|(r, newest)| *newest > known.incarnation(*r))
    }

    /// Whether an op's members follow from those of the log's end.
    pub(super) fn members_follow(&self, header: &Header) -> bool {
        let before = self.head().and_then(|h| h.members.as_ref());
        match &header.members {
            None => before.is_none(),
            Some(next) => before == Some(next) || next.is_step_from(self.members()),
        }
    }

    /// Whether what a replica says counts in this log.
    pub(super) fn counts(&self, from: ReplicaId, said_by: u64) -> bool {
        #[cfg(feature = "sim")]
        if self.has(Mutant::StandbysCount) {
            return true;
        }
        said_by == self.members().incarnation(from)
    }

    /// An op stands at the log's end: what older disks said of any op counts for nothing now.
    pub(super) fn forget_lost_disks(&mut self, header: &Header) {
        let Some(next) = &header.members else { return };
        let before = self.members();
        let rises = |r: &ReplicaId| before.incarnation(*r) < next.incarnation(*r);
        let lost: Vec<ReplicaId> = (0..self.slots).map(ReplicaId).filter(rises).collect();
        for replica in lost {
            let r = usize::from(replica.0);
            self.suffix.iter_mut().for_each(|p| p.acks.remove(replica));
            (self.echoed[r], self.votes[r], self.wishes[r]) = (0, None, None);
            self.kept_us[r] = 0;
            self.incarnations[r] = self.incarnations[r].max(next.incarnation(replica));
        }
    }

    /// Those of whose votes none was said by a disk that another has replaced, as any of the voters' logs has it.
    pub(super) fn standing<'a>(&self, votes: &[&'a Vote]) -> Vec<&'a Vote> {
        #[cfg(feature = "sim")]
        if self.has(Mutant::StandbysCount) {
            return votes.to_vec();
        }
        let known = |r| {
            let members = |v: &&Vote| v.tail.members().unwrap_or(&self.first).incarnation(r);
            votes.iter().map(members).max()
        };
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
        let lost = said_by < newest.max(self.members().incarnation(from));
        if lost {
            out.push(Output::Notice(Notice::OldIncarnation));
        }
        lost
    }
}
