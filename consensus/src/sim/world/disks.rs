//! Disks that are lost, and those that take their place.

use super::{Checked, Damage, Event, Failure, Fault, Host, Violation, World};
use crate::{Replica, ReplicaId};

impl<H: Host> World<H> {
    /// Puts off what would leave no quorum with all that is committed.
    pub(super) fn waits(&mut self, fault: Fault) -> bool {
        let Fault::LoseDisk { replica, .. } = fault else { return false };
        let members = self.checker.members().voters();
        if !members.has(ReplicaId(replica)) {
            // Whoever is no member may be lost at any time: there is nothing to see in it.
            return true;
        }
        let one_lost = self.nodes.iter().any(|n| n.is_fresh() || n.damage != Damage::None);
        let waits = one_lost
            || self.change.is_some()
            || !self.checker.may_lose(usize::from(replica), usize::from(self.config.liar));
        if waits {
            self.at(5_000, Event::Fault(fault));
        }
        waits
    }

    pub(super) fn lose_disk(&mut self, replica: u8, down_ms: u64) {
        self.power_off(replica, down_ms);
        let node = &mut self.nodes[usize::from(replica)];
        node.incarnation += 1;
        node.disk = H::format(replica, node.incarnation, self.mutant);
        self.checker.loses(usize::from(replica));
    }

    /// Whether the others have let a replaced disk in.
    pub(super) fn look_for_entry(&mut self, replica: u8) {
        let node = &mut self.nodes[usize::from(replica)];
        let it = node.host.as_ref().and_then(Host::replica);
        if node.is_fresh() && it.is_some_and(Replica::is_let_in) {
            node.let_in = node.incarnation;
            self.count("replaced disks let in");
            self.tell(&format!("r{replica} is let in"));
        }
    }

    /// A replica's disk fails, and the power goes some time later if the replica has not stopped by then.
    pub(super) fn doom(&mut self, replica: u8, after: u64, how: Failure, down_ms: u64) {
        let node = &mut self.nodes[usize::from(replica)];
        if node.host.is_none() {
            return;
        }
        let run = node.run;
        node.doomed = Some(down_ms);
        if after > 0 {
            H::fail(&node.disk, after, how);
        }
        let wait = if after > 0 { 300_000 } else { 0 };
        self.at(wait, Event::PowerOff { replica, run, down_ms });
    }

    /// A host cannot go on.
    pub(super) fn stops(&mut self, replica: u8, why: &str) -> Checked {
        let node = &self.nodes[usize::from(replica)];
        match node.doomed {
            Some(down_ms) => {
                self.count("hosts that stopped with their disk");
                self.power_off(replica, down_ms);
                Ok(())
            }
            None if node.damage == Damage::Done => self.scrub(replica),
            None => Err(Violation::new("HOST", format!("r{replica}: {why}"))),
        }
    }
}
