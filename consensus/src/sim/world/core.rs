//! Who is healed, and why a core that was healed does not do what it must.

use super::{Damage, Event, Host, Node, Violation, Wear, World};
use crate::{Change, FIRST_INCARNATION, Members, Op, Replica, ReplicaId, quorum::Voters};

/// Microseconds for which a core must keep its view once it has converged.
const STAY_US: u64 = 2_000_000;
/// Changes of the view in a healed core that are too many to come from what was under way.
const UNREST_MAX: u64 = 60;

impl<H: Host> World<H> {
    pub(super) fn in_core(&self, replica: u8) -> bool {
        self.core >> replica & 1 == 1
    }

    /// A random quorum, whatever becomes of the others. Of those who are damaged only such count as need nobody outside
    /// to have their log again.
    pub(super) fn choose_core(&mut self) {
        let all = self.config.replicas;
        let tables = self.members_to_come();
        for replica in 0..all {
            let node = &self.nodes[usize::from(replica)];
            // No quorum of the others may be left that could let another such disk in.
            let new = node.is_fresh() || matches!(node.wear, Wear::Ruined | Wear::Replaced);
            let added = self.change == Some(Change::Add(ReplicaId(replica)));
            self.core |= u16::from(new || added) << replica;
        }
        while !tables.iter().all(|m| m.have_quorum(self.whole_ones(&tables))) {
            let left = (0..all).filter(|r| !self.in_core(*r) && self.may_count(*r, &tables));
            let left: Vec<u8> = left.collect();
            if left.is_empty() {
                // Who does not know what it had is no nack: those who know may have to be all the others.
                self.core = (1 << all) - 1;
                self.count("cores of all, for the sake of damage");
                break;
            }
            self.core |= 1 << left[self.random.below(left.len() as u64) as usize];
        }
        for replica in 0..all {
            let follows = !self.checker.members().voters().has(ReplicaId(replica));
            let follows = follows && self.random.per_mille(500);
            self.core |= u16::from(follows) << replica;
        }
        if self.core.count_ones() < u32::from(all) {
            self.count("cores that leave somebody out");
            if self.nodes.iter().any(|n| n.damage != Damage::None) {
                self.count("cores that leave somebody out, with damage");
            }
        }
    }

    /// Who the members are, and who they may be when what was ordered and what was asked for is done.
    fn members_to_come(&self) -> Vec<Members> {
        let members = self.checker.members();
        // A step that was ordered may or may not stay: the core is a quorum either way.
        let mut tables: Vec<Members> = self.checker.members_ahead().cloned().collect();
        tables.push(members.clone());
        let then = match self.change {
            Some(Change::Add(r)) => members.with(r, FIRST_INCARNATION),
            Some(Change::Remove(r)) => members.without(r),
            None => None,
        };
        tables.extend(then);
        tables
    }

    /// Who lies or is not let in counts for nothing.
    fn may_count(&self, replica: u8, tables: &[Members]) -> bool {
        let node = &self.nodes[usize::from(replica)];
        let id = ReplicaId(replica);
        let known =
            node.incarnation == FIRST_INCARNATION || self.checker.members().voters().has(id);
        let member = tables.iter().any(|m| m.voters().has(id));
        replica != self.config.liar && !node.is_fresh() && known && member
    }

    /// Those of the core who have their log, or will have it from others of the core.
    fn whole_ones(&self, tables: &[Members]) -> Voters {
        let all = (0..self.config.replicas).filter(|r| self.in_core(*r));
        let whole = all.filter(|r| self.may_count(*r, tables) && self.is_whole(*r));
        whole.map(ReplicaId).collect()
    }

    fn is_whole(&self, replica: u8) -> bool {
        let node = &self.nodes[usize::from(replica)];
        match node.damage {
            Damage::None => return true,
            // It does not know what it had, or may not.
            Damage::Uncertain | Damage::Suspected => return false,
            Damage::Done | Damage::Mends => {}
        }
        if matches!(node.wear, Wear::Ruined | Wear::Replaced) {
            return false;
        }
        let end = Op(self.checker.on_disk(replica).len() as u64);
        let bad = |r: u8, op: &Op| {
            let damaged = self.nodes[usize::from(r)].damage != Damage::None;
            damaged && self.atlas.get(op).is_some_and(|who| who >> r & 1 == 1)
        };
        let has = |r: u8, op: &Op| self.checker.has_committed(r, *op) && !bad(r, op);
        let others = || {
            let lies = self.config.liar;
            (0..self.config.replicas).filter(move |o| *o != replica && *o != lies)
        };
        // What follows an op says which one it was.
        let mut damaged = self.atlas.keys().filter(|op| bad(replica, op));
        damaged.all(|op| *op < end && others().any(|o| self.in_core(o) && has(o, op)))
    }

    /// What is asked for is done in the healed core, or something else is where nothing is asked for.
    pub(super) fn go_on_changing(&mut self) {
        if self.config.may_disagree() {
            self.change = None;
        } else if self.change.is_none() {
            // No disk is replaced while the members change.
            let sound = |n: &Node<H>| matches!(n.wear, Wear::Sound | Wear::Spoiled);
            self.change = self.last_change().filter(|_| self.nodes.iter().all(sound));
            if let Some(change) = self.change {
                self.at(1_000_000, Event::Operate(change));
            }
        }
    }

    /// Whether the core has converged, and its view has come to stay.
    pub(super) fn stays(&mut self) -> bool {
        let view = self.cores().next().and_then(Host::replica).map(Replica::view);
        let Some(view) = view.filter(|_| self.converged()) else {
            self.settled = None;
            return false;
        };
        let (known, since) = *self.settled.get_or_insert((view, self.now_us));
        if known != view {
            self.settled = Some((view, self.now_us));
        }
        known == view && self.now_us >= since + STAY_US
    }

    /// What the core does not do in all the time that it has.
    pub(super) fn stuck(&self) -> Violation {
        let mut what = String::new();
        for host in self.cores() {
            let Some(r) = host.replica() else {
                what.push_str("one is not whole; ");
                continue;
            };
            let (id, status, view, log) = (r.id(), r.status(), r.view().0, r.log_view().0);
            let (op, commit, members) = (r.op(), r.commit(), r.members());
            let line = format!(
                "{id}: {status:?} view {view} log view {log} op {op} commit {commit} of {members}; "
            );
            what.push_str(&line);
        }
        let leads = self.cores().any(|h| h.replica().is_some_and(Replica::leads));
        let all = (1 << self.config.replicas) - 1;
        let damaged = |(r, n): (usize, &Node<H>)| self.in_core(r as u8) && n.damage != Damage::None;
        let last = Op(self.checker.canonical.len() as u64);
        let lacks = |h: &H| h.replica().is_some_and(|r| r.op() < last);
        // Whatever keeps a part of the core from having its log keeps the core from all else.
        let invariant = if self.nodes.iter().enumerate().any(damaged) {
            "L4"
        } else if self.cores().any(lacks) {
            "L5"
        } else if self.unrest > UNREST_MAX && self.core != all {
            "L6"
        } else if !leads {
            "L1"
        } else if self.answered < self.config.commands {
            "L2"
        } else if self.nodes.iter().any(Node::is_fresh) {
            "L7"
        } else if self.change.is_some() {
            "L8"
        } else {
            "L3"
        };
        let (answered, unrest) = (self.answered, self.unrest);
        let what = format!("{what}{answered} commands answered, {unrest} changes of views");
        Violation::new(invariant, what)
    }
}
