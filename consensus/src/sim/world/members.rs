//! An operator who has the cluster grow and shrink: one change after the other, asked of whoever leads until it is seen
//! in what is committed.

use super::{Checked, Damage, Event, Host, World};
use crate::{Change, ChangeRefused, Input, ReplicaId};

/// Microseconds after which the operator looks again.
const AGAIN_US: u64 = 20_000;

impl<H: Host> World<H> {
    pub(super) fn wants(&mut self, change: Change) -> bool {
        self.at(0, Event::Operate(change));
        true
    }

    fn is_done(&self, change: Change) -> bool {
        let voters = self.checker.members().voters();
        match change {
            Change::Add(replica) => voters.has(replica),
            Change::Remove(replica) => !voters.has(replica),
        }
    }

    /// Asks for a change, unless it is done; does not begin one while another waits, or a disk is damaged or new.
    pub(super) fn operate(&mut self, change: Change) -> Checked {
        let others = self.change.is_some_and(|other| other != change);
        if self.healed_us.is_some() && (others || self.change.is_none()) {
            return Ok(());
        }
        let unfit = |n: &super::Node<H>| n.is_fresh() || n.damage != Damage::None;
        if others || (self.change.is_none() && self.nodes.iter().any(unfit)) {
            self.at(AGAIN_US, Event::Operate(change));
            return Ok(());
        }
        if self.is_done(change) {
            self.change = None;
            return Ok(());
        }
        self.change = Some(change);
        for replica in 0..self.config.replicas {
            match self.ask_for(replica, change) {
                Ok(()) | Err(ChangeRefused::NotLeading) => {}
                Err(ChangeRefused::Primary) => {
                    self.count("primaries that went first");
                    self.step(replica, Input::Resign)?;
                }
                Err(ChangeRefused::Last | ChangeRefused::NewDisk) => {
                    self.count("changes refused");
                    self.change = None;
                    return Ok(());
                }
                Err(
                    ChangeRefused::Underway
                    | ChangeRefused::Unknown
                    | ChangeRefused::Already
                    | ChangeRefused::Behind
                    | ChangeRefused::TooFew,
                ) => self.count("changes put off"),
            }
        }
        self.at(AGAIN_US, Event::Operate(change));
        Ok(())
    }

    fn ask_for(&mut self, replica: u8, change: Change) -> Result<(), ChangeRefused> {
        let now_ms = self.now_ms();
        let node = &mut self.nodes[usize::from(replica)];
        if node.paused_until > self.now_us {
            return Err(ChangeRefused::NotLeading);
        }
        node.host.as_mut().map_or(Err(ChangeRefused::NotLeading), |h| h.change(now_ms, change))
    }

    /// What is committed has so many members, and had so many before.
    pub(super) fn look_for_members(&mut self, before: u8, after: u8) {
        match after.cmp(&before) {
            std::cmp::Ordering::Greater => self.count("members added"),
            std::cmp::Ordering::Less => self.count("members removed"),
            std::cmp::Ordering::Equal => return,
        }
        self.tell(&format!("the cluster has {after} members"));
    }

    /// What the healed core has to be able to do: to grow by who follows in it, else to shrink by one whom it can spare.
    pub(super) fn last_change(&self) -> Option<Change> {
        if self.config.may_disagree() || self.config.replicas == self.config.members {
            return None;
        }
        let members = self.checker.members();
        let core = |r: &ReplicaId| self.in_core(r.0);
        let all = || (0..self.config.replicas).map(ReplicaId);
        let alone = members.voters().count() == 1;
        let new = |r: &ReplicaId| {
            let disk = self.nodes[usize::from(r.0)].incarnation;
            core(r) && !members.voters().has(*r) && !(alone && disk > crate::FIRST_INCARNATION)
        };
        if let Some(new) = all().find(new) {
            return Some(Change::Add(new));
        }
        // Who has a new disk needs the others before anybody can do without one of them.
        let whole = |r: &ReplicaId| !self.nodes[usize::from(r.0)].is_fresh();
        let spare = |r: &ReplicaId| {
            let rest = all().filter(core).filter(whole).filter(|o| o != r);
            members.without(*r).is_some_and(|m| m.have_quorum(rest.collect()))
        };
        all().filter(core).find(spare).map(Change::Remove)
    }
}
