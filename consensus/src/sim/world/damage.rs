//! Damage on disks, never to more replicas at once than a quorum can spare, and its repair.

use super::{Host, Violation, World};
use crate::quorum;

/// What became of the damage that was done to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    None,
    /// Its replica has not started since.
    Done,
    /// Its replica has seen it, and it is not repaired yet.
    Seen,
}

impl Damage {
    /// A replica started, and says whether there is damage.
    pub(super) fn found(self, found: bool) -> Result<Self, Violation> {
        match (self, found) {
            (Self::None, true) => Err(Violation::new("S16", "a crash is taken for damage".into())),
            (Self::Done, false) => Err(Violation::new("S16", "damage is not seen".into())),
            (Self::Done | Self::Seen, true) => Ok(Self::Seen),
            // It was repaired just before the replica stopped.
            (Self::None | Self::Seen, false) => Ok(Self::None),
        }
    }
}

impl<H: Host> World<H> {
    /// A replica crashes, and something on its disk is damaged.
    pub(super) fn damage(&mut self, replica: u8, back: u64, bit: u64, down_ms: u64) {
        let all = self.config.replicas;
        let spare = usize::from(all - quorum::replication(all));
        let r = usize::from(replica);
        let others = self.nodes.iter();
        let others = others.filter(|n| n.damage != Damage::None || n.is_fresh()).count();
        if self.nodes[r].damage != Damage::None || others >= spare {
            return;
        }
        self.power_off(replica, down_ms);
        if let Some(op) = H::damage(&self.nodes[r].disk, back, bit) {
            self.nodes[r].damage = Damage::Done;
            self.tell(&format!("r{replica} has op {op} damaged"));
            self.count("damaged ops");
        }
    }

    /// Whether a replica knows again what its log is.
    pub(super) fn look_for_repair(&mut self, replica: u8) {
        let node = &mut self.nodes[usize::from(replica)];
        let Some(host) = &node.host else { return };
        if node.damage != Damage::None && !host.replica().durable().uncertain {
            node.damage = Damage::None;
            let op = host.replica().op();
            self.tell(&format!("r{replica} knows its log again, up to op {op}"));
            self.count("uncertain ends made certain");
        }
    }
}
