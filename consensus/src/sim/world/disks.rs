//! Disks that are lost, and those that take their place.

use super::{Checked, Damage, Event, Failure, Fault, Host, Violation, World};
use crate::{Replica, ReplicaId};

/// What a disk is good for, apart from damage that others make good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wear {
    Sound,
    /// What is derived from its log may be damaged: its replica stops when it meets that, and makes it anew.
    Spoiled,
    /// So much of it is gone that its replica may refuse to start.
    Ruined,
    /// Another one is about to take its place.
    Replaced,
}

impl<H: Host> World<H> {
    /// What a disk has after its replica has lost its power.
    pub(super) fn is_off(&mut self, replica: u8, down_ms: u64) {
        let mut random = self.random.fork();
        let node = &mut self.nodes[usize::from(replica)];
        node.run += 1;
        (node.doomed, node.paused_until) = (None, 0);
        let (mut kept, mut gone) = (0_u64, 0_u64);
        let most = random.below(1001);
        let [turned, astray] = H::misreads(&node.disk);
        H::crash(&mut node.disk, &mut || {
            let survives = random.per_mille(most);
            *(if survives { &mut kept } else { &mut gone }) += 1;
            survives
        });
        let lost = node.lost;
        self.count("crashes");
        for (what, count) in [("reads that turned", turned), ("reads that went astray", astray)] {
            *self.coverage.entry(what).or_default() += count;
        }
        if kept > 0 && gone > 0 {
            self.count("torn writes");
        }
        self.tell(&format!(
            "r{replica} loses its power; {kept} of {} changes are kept",
            kept + gone
        ));
        self.note(7, &[u64::from(replica), kept, gone]);
        if !lost {
            self.at(down_ms * 1000, Event::PowerOn { replica });
        }
    }

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
        self.new_disk(replica);
    }

    fn new_disk(&mut self, replica: u8) {
        let node = &mut self.nodes[usize::from(replica)];
        node.incarnation += 1;
        node.wear = Wear::Sound;
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

    /// A running replica's disk fails, and the power goes some time later if the replica has not stopped by then.
    pub(super) fn doom(&mut self, replica: u8, after: u64, how: Failure, down_ms: u64) -> bool {
        let node = &mut self.nodes[usize::from(replica)];
        if node.host.is_none() {
            return false;
        }
        let run = node.run;
        node.doomed = Some(down_ms);
        if after > 0 {
            H::fail(&node.disk, after, how);
        }
        let wait = if after > 0 { 300_000 } else { 0 };
        self.at(wait, Event::PowerOff { replica, run, down_ms });
        true
    }

    /// A replica does not start.
    pub(super) fn no_start(&mut self, replica: u8, why: &str, bad: Option<u64>) -> Checked {
        let node = &self.nodes[usize::from(replica)];
        if let Some(down_ms) = bad {
            self.count("starts that failed with their disk");
            self.is_off(replica, down_ms);
            return Ok(());
        }
        if node.wear == Wear::Ruined {
            self.refuses(replica, why);
            return Ok(());
        }
        Err(Violation::new("HOST", format!("r{replica}: {why}")))
    }

    /// A replica says that it cannot go on with what its disk has.
    pub(super) fn refuses(&mut self, replica: u8, why: &str) {
        self.count("ruined disks refused");
        self.tell(&format!("r{replica} cannot use its disk: {why}"));
        let node = &mut self.nodes[usize::from(replica)];
        (node.doomed, node.wear) = (None, Wear::Replaced);
        if let Some(host) = node.host.take() {
            host.replica().into_iter().for_each(|r| self.checker.stopped(r));
            node.run += 1;
        }
        self.at(0, Event::Replace { replica });
    }

    /// An operator puts a new disk in place of one that cannot be read, as soon as a quorum of the others has all that
    /// is committed.
    pub(super) fn replace(&mut self, replica: u8) {
        let r = usize::from(replica);
        let fresh = self.nodes.iter().any(super::Node::is_fresh);
        let member = self.checker.members().voters().has(ReplicaId(replica));
        let may = !member || self.checker.may_lose(r, usize::from(self.config.liar));
        if fresh || self.change.is_some() || !may {
            self.at(5_000, Event::Replace { replica });
            return;
        }
        self.nodes[r].damage = Damage::None;
        self.new_disk(replica);
        self.at(0, Event::PowerOn { replica });
    }

    /// A host cannot go on.
    pub(super) fn stops(&mut self, replica: u8, why: &str) -> Checked {
        let node = &self.nodes[usize::from(replica)];
        match node.doomed {
            _ if node.wear == Wear::Ruined => {
                self.refuses(replica, why);
                Ok(())
            }
            Some(down_ms) => {
                self.count("hosts that stopped with their disk");
                self.power_off(replica, down_ms);
                Ok(())
            }
            None if node.wear == Wear::Spoiled => {
                self.count("indexes made anew");
                self.tell(&format!("r{replica} stops: {why}"));
                self.nodes[usize::from(replica)].wear = Wear::Sound;
                self.power_off(replica, 10);
                Ok(())
            }
            None if node.damage == Damage::Done => self.scrub(replica),
            None => Err(Violation::new("HOST", format!("r{replica}: {why}"))),
        }
    }
}
