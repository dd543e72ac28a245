//! Disks that are lost, and those that take their place.

use super::{Damage, Event, Fault, Host, World};
use crate::Replica;

impl<H: Host> World<H> {
    /// Puts off what would leave no quorum with all that is committed.
    pub(super) fn waits(&mut self, fault: Fault) -> bool {
        let Fault::LoseDisk { replica, .. } = fault else { return false };
        let one_lost = self.nodes.iter().any(|n| n.is_fresh() || n.damage != Damage::None);
        let waits =
            one_lost || !self.checker.may_lose(usize::from(replica), usize::from(self.config.liar));
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
}
