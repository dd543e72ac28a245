//! Who the members are as of each op, and when they may change.

use super::{Checked, Checker, hold};
use crate::{Header, Identity, Members, Op, Replica, View, message::ReplicaId, quorum};

impl Checker {
    /// The members as of an op that somebody ordered.
    pub(super) fn members_of(&self, identity: Identity) -> &Members {
        self.tables.get(&identity.0).unwrap_or(&self.first)
    }

    /// The members as of the last op that was ever committed.
    pub(in crate::sim) fn members(&self) -> &Members {
        self.canonical.last().map_or(&self.first, |(identity, ..)| self.members_of(*identity))
    }

    /// The members as of ops that were ordered and that nobody has committed yet.
    pub(in crate::sim) fn members_ahead(&self) -> impl Iterator<Item = &Members> {
        let committed = Op(self.canonical.len() as u64);
        let ahead = self.prepared.iter().filter(move |((_, op), _)| *op > committed);
        ahead.map(|(_, identity)| self.members_of(*identity))
    }

    /// Who leads a view is whose turn it is, by its number alone, and a member by its own log.
    pub(in crate::sim) fn leads_in_turn(replica: &Replica, replicas: u8) -> Checked {
        let (id, view) = (replica.id(), replica.view().0);
        let turn = view % u64::from(replicas) == u64::from(id.0);
        let member = replica.members().voters().has(id);
        hold(!replica.is_primary() || (turn && member), "S8", || {
            format!("{id} leads view {view} out of turn, or is no member")
        })
    }

    pub(super) fn quorum_of(members: &Members) -> u8 {
        quorum::replication(members.voters().count())
    }

    /// An op is ordered: where its members are not those before it, all before it is committed, and a quorum of those
    /// has the log of the view, durably.
    pub(super) fn ordered(&mut self, view: View, header: &Header) -> Checked {
        let Some(next) = &header.members else { return Ok(()) };
        let before = self.members_of(header.parent);
        let (was, is) = (before.voters(), next.voters());
        if was != is {
            let (op, count) = (header.op, self.canonical.len() as u64);
            hold(next.is_step_from(before), "MEMBERS", || format!("op {op} is no step"))?;
            hold(count + 1 >= op.0, "MEMBERS", || format!("op {op} is ordered behind op {count}"))?;
            let took = |r: &ReplicaId| {
                let superblock = self.superblocks[usize::from(r.0)];
                was.has(*r) && superblock.is_some_and(|s| s.log_view >= view)
            };
            let took = (0..self.superblocks.len() as u8).map(ReplicaId).filter(took).count();
            hold(took >= usize::from(Self::quorum_of(before)), "MEMBERS", || {
                format!("op {op} is ordered when {took} have the log of view {}", view.0)
            })?;
        }
        self.tables.insert(header.identity().0, next.clone());
        Ok(())
    }
}
