//! Damage on disks, never to more replicas at once than a quorum can spare, and its repair.

use super::{Checked, Event, Host, Status, Stopped, View, Violation, World};
use crate::quorum;

/// What became of the damage that was done to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    None,
    /// Its replica has not met it.
    Done,
    /// Its replica has it repaired.
    Mends,
    /// Its replica stopped while it had it repaired.
    Suspected,
    /// Its replica does not know what it had.
    Uncertain,
}

fn violated(what: String) -> Checked {
    Err(Violation::new("S16", what))
}

impl<H: Host> World<H> {
    /// Some ops on a replica's disk are damaged, `back` ops before the last one and around there: while it runs, or
    /// over a crash.
    pub(super) fn damage(&mut self, replica: u8, back: u64, bit: u64, down_ms: u64) {
        let all = self.checker.members().voters().count();
        let spare = usize::from(all - quorum::replication(all));
        let r = usize::from(replica);
        let others = self.nodes.iter();
        let others = others.filter(|n| n.damage != Damage::None || n.is_fresh()).count();
        if self.nodes[r].damage != Damage::None || others >= spare || self.change.is_some() {
            return;
        }
        // What was written last is written again with what comes next.
        if back < 40 || bit.is_multiple_of(2) {
            self.power_off(replica, down_ms);
        }
        let around = [back, back + 1 + bit % 3, back + 17];
        for back in &around[..=(bit % 3) as usize] {
            if let Some(op) = H::damage(&self.nodes[r].disk, *back, bit) {
                self.nodes[r].damage = Damage::Done;
                self.tell(&format!("r{replica} has op {op} damaged"));
                self.count("damaged ops");
            }
        }
        self.scrub_later(replica);
    }

    fn scrub_later(&mut self, replica: u8) {
        let run = self.nodes[usize::from(replica)].run;
        let wait = self.random.between(20_000, 800_000);
        self.at(wait, Event::Scrub { replica, run });
    }

    /// A replica looks through its log, and finds what is damaged there.
    pub(super) fn scrub(&mut self, replica: u8) -> Checked {
        let now_ms = self.now_ms();
        let node = &mut self.nodes[usize::from(replica)];
        let Some(host) = node.host.as_mut().filter(|_| node.damage == Damage::Done) else {
            return Ok(());
        };
        host.replica().into_iter().for_each(|r| self.checker.stopped(r));
        match host.scrub(now_ms) {
            Ok(true) => self.count("damage found while running"),
            Ok(false) => return violated(format!("r{replica} does not find its damage")),
            Err(Stopped(why)) => {
                let Some(down_ms) = node.doomed else {
                    return violated(format!("r{replica}: {why}"));
                };
                self.power_off(replica, down_ms);
                return Ok(());
            }
        }
        self.starts(replica)?;
        self.after(replica, Ok(()))
    }

    /// A replica begins with what its disk holds, or with having that repaired.
    pub(super) fn starts(&mut self, replica: u8) -> Checked {
        let r = usize::from(replica);
        let node = &mut self.nodes[r];
        let Some(host) = &node.host else { return Ok(()) };
        let Some(it) = host.replica() else {
            if node.damage == Damage::None {
                return violated(format!("r{replica} has what is whole repaired"));
            }
            node.damage = Damage::Mends;
            self.tell(&format!("r{replica} has its log repaired"));
            return Ok(());
        };
        let before = node.damage;
        node.damage = match (before, it.durable().uncertain) {
            (Damage::None, true) => {
                return violated(format!("r{replica} takes a crash for damage"));
            }
            // No start has met it.
            (Damage::Done, false) => Damage::Done,
            (Damage::None | Damage::Mends, false) => Damage::None,
            // One that was uncertain may have become certain just before it stopped.
            (_, true) | (Damage::Uncertain, false) => Damage::Uncertain,
            (Damage::Suspected, false) => Damage::Suspected,
        };
        let after = node.damage;
        node.last = (Status::ViewChange, View(0));
        self.checker.started(it)?;
        if let Some(told) = &mut self.told {
            told.started(it, self.checker.on_disk(replica));
        }
        let (op, commit) = (it.op(), it.commit());
        self.tell(&format!("r{replica} starts with op {op}, {commit} committed, {after:?}"));
        if after == Damage::Done {
            self.scrub_later(replica);
        }
        match (before, after) {
            (Damage::Mends, Damage::Uncertain) => self.count("damage that is cut off"),
            (Damage::Mends, _) => self.count("logs repaired"),
            _ => {}
        }
        Ok(())
    }

    fn look_for_more(&mut self, replica: u8) -> Checked {
        let now_ms = self.now_ms();
        let node = &mut self.nodes[usize::from(replica)];
        let Some(host) = &mut node.host else { return Ok(()) };
        host.replica().into_iter().for_each(|r| self.checker.stopped(r));
        match host.scrub(now_ms) {
            Ok(false) => Ok(()),
            Ok(true) => {
                node.damage = Damage::Done;
                self.starts(replica)
            }
            Err(Stopped(why)) => {
                let Some(down_ms) = node.doomed else {
                    return violated(format!("r{replica}: {why}"));
                };
                self.power_off(replica, down_ms);
                Ok(())
            }
        }
    }

    /// Whether a replica has its log again, or knows what it is.
    pub(super) fn look_for_repair(&mut self, replica: u8) -> Checked {
        let r = usize::from(replica);
        let node = &mut self.nodes[r];
        let Some(host) = &mut node.host else { return Ok(()) };
        *self.coverage.entry("ops put back").or_default() += host.repaired().len() as u64;
        let Some(it) = host.replica() else { return Ok(()) };
        if node.damage == Damage::Mends {
            return self.starts(replica);
        }
        if node.damage == Damage::Suspected {
            node.damage = Damage::None;
            return self.look_for_more(replica);
        }
        if node.damage == Damage::Uncertain && !it.durable().uncertain {
            let op = it.op();
            self.tell(&format!("r{replica} knows its log again, up to op {op}"));
            self.count("uncertain ends made certain");
            // Damage seldom comes alone.
            self.nodes[r].damage = Damage::None;
            return self.look_for_more(replica);
        }
        Ok(())
    }
}
