//! Damage on disks, of no op on more replicas at once than a quorum can spare, and its repair.

use super::{
    Checked, Event, Harm, Harmed, Host, Op, ReplicaId, Status, Stopped, View, Violation, Wear,
    World,
};
use crate::quorum;

/// So many ops were committed since, that everybody has it who is not far behind.
const LONG_COMMITTED: u64 = 200;

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
    /// over a crash; says whether any are.
    pub(super) fn damage(&mut self, replica: u8, back: u64, bit: u64, down_ms: u64) -> bool {
        let r = usize::from(replica);
        if self.nodes[r].damage != Damage::None {
            return false;
        }
        // What was written last is written again with what comes next.
        if back < 40 || bit.is_multiple_of(2) {
            self.power_off(replica, down_ms);
        }
        let around = [back, back + 1 + bit % 3, back + 17];
        for back in &around[..=(bit % 3) as usize] {
            if H::op(&self.nodes[r].disk, *back).is_some_and(|op| self.may_damage(replica, op))
                && let Some(op) = H::damage(&self.nodes[r].disk, *back, bit)
            {
                self.damaged(replica, op);
            }
        }
        self.nodes[r].damage != Damage::None
    }

    /// Whether others can make up for it: the disks of so few are damaged that a quorum can spare them, or the op has been
    /// committed for long, and so few have that one damaged.
    fn may_damage(&self, replica: u8, op: Op) -> bool {
        let all = self.checker.members().voters().count();
        let spare = usize::from(all - quorum::replication(all));
        let bad = |n: &super::Node<H>| n.damage != Damage::None || n.is_fresh();
        let others = || self.nodes.iter().enumerate().filter(|(r, _)| *r != usize::from(replica));
        if self.change.is_some() {
            return false;
        }
        if others().filter(|(_, n)| bad(n)).count() < spare {
            return true;
        }
        let who = self.atlas.get(&op).copied().unwrap_or_default();
        let same = others().filter(|(r, n)| n.damage != Damage::None && who >> r & 1 == 1).count();
        // What its log ends with is never old: whoever lost that does not know what it had, however far others are.
        let old = op.0 + LONG_COMMITTED <= self.checker.canonical.len() as u64
            && op.0 < self.checker.on_disk(replica).len() as u64;
        let gone = |n: &super::Node<H>| matches!(n.wear, Wear::Ruined | Wear::Replaced);
        old && same < spare && !others().any(|(_, n)| n.is_fresh() || gone(n))
    }

    fn damaged(&mut self, replica: u8, op: Op) {
        let r = usize::from(replica);
        if self.nodes[r].damage == Damage::None {
            self.atlas.values_mut().for_each(|who| *who &= !(1 << r));
            let bad = self.nodes.iter().filter(|n| n.damage != Damage::None).count();
            let all = self.checker.members().voters().count();
            if bad >= usize::from(all - quorum::replication(all)) {
                self.count("damage to more than a quorum can spare");
            }
            self.scrub_later(replica);
        }
        *self.atlas.entry(op).or_default() |= 1 << r;
        self.nodes[r].damage = Damage::Done;
        self.tell(&format!("r{replica} has op {op} damaged"));
        self.count("damaged ops");
    }

    /// Something on a disk is not what was written, over a crash; says whether anything is.
    pub(super) fn harm(
        &mut self,
        replica: u8,
        how: Harm,
        (back, at): (u64, u64),
        down_ms: u64,
    ) -> bool {
        let r = usize::from(replica);
        let ruins = matches!(how, Harm::Short | Harm::Missing);
        let spared = how.is_spared();
        let voters = self.checker.members().voters();
        let few = self.nodes.iter().all(|n| n.damage == Damage::None && !n.is_fresh());
        // A new disk takes a quorum of others that have everything, and liars are none of them.
        let liar = self.config.liar;
        let others = (0..self.config.replicas).filter(|o| *o != replica && *o != liar);
        let others = others.filter(|o| voters.has(ReplicaId(*o))).count();
        let quorum = usize::from(quorum::replication(voters.count()));
        let replaced = few && replica != liar && others >= quorum;
        if ruins && !(replaced && voters.has(ReplicaId(replica)))
            || !spared && (self.nodes[r].damage != Damage::None || self.change.is_some())
        {
            return false;
        }
        self.power_off(replica, down_ms);
        let disk = &self.nodes[r].disk;
        if !spared && !ruins && H::op(disk, back).is_none_or(|op| !self.may_damage(replica, op)) {
            return false;
        }
        let hit = (how == Harm::Misdirected).then(|| H::hit(disk, back, at)).flatten();
        if hit.is_some_and(|op| !self.may_damage(replica, op)) {
            return false;
        }
        let harmed = H::harm(disk, how, back, at);
        if harmed.is_some() {
            self.count(super::coverage::harm(how));
        }
        match harmed {
            None => return false,
            Some(Harmed::Spare) => {
                if how != Harm::Superblock && self.nodes[r].wear == Wear::Sound {
                    self.nodes[r].wear = Wear::Spoiled;
                }
                self.tell(&format!("r{replica} is harmed where it does not matter: {how:?}"));
                self.count("harm to what can be spared");
            }
            Some(Harmed::Op(op)) => self.damaged(replica, op),
            Some(Harmed::Ops(op, other)) => {
                self.damaged(replica, op);
                self.damaged(replica, other);
            }
            Some(Harmed::File(op)) => {
                self.nodes[r].wear = Wear::Ruined;
                self.damaged(replica, op);
            }
        }
        true
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
            Err(Stopped(why)) => return self.scrub_fails(replica, &why),
        }
        self.starts(replica)?;
        self.after(replica, Ok(()))
    }

    fn scrub_fails(&mut self, replica: u8, why: &str) -> Checked {
        let node = &self.nodes[usize::from(replica)];
        match node.doomed {
            _ if node.wear == Wear::Ruined => self.refuses(replica, why),
            Some(down_ms) => self.power_off(replica, down_ms),
            None => return violated(format!("r{replica}: {why}")),
        }
        Ok(())
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
        if after == Damage::None && node.wear == Wear::Ruined {
            node.wear = Wear::Sound;
        }
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
            Err(Stopped(why)) => self.scrub_fails(replica, &why),
        }
    }

    /// What is put back is what was there.
    pub(super) fn look_at_repaired(&mut self, replica: u8) -> Checked {
        let Some(host) = &mut self.nodes[usize::from(replica)].host else { return Ok(()) };
        for repaired in host.repaired() {
            self.checker.put_back(replica, repaired)?;
            self.count("ops put back");
        }
        Ok(())
    }

    /// Whether a replica has its log again, or knows what it is.
    pub(super) fn look_for_repair(&mut self, replica: u8) -> Checked {
        let r = usize::from(replica);
        let node = &mut self.nodes[r];
        let Some(host) = &node.host else { return Ok(()) };
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
