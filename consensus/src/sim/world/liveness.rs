//! The liveness phase: a core is healed, the rest stays broken, and the core must answer and converge.

use super::{Checked, Config, Damage, Host, Node, Stopped, Violation, Wear, Workload, World};
use crate::{Op, Replica, ReplicaId, Status};

impl<H: Host> World<H> {
    pub(super) fn heal(&mut self) -> Checked {
        let all = self.config.replicas;
        self.choose_core();
        self.tell(&format!("the core is healed: {:b}", self.core));
        self.healed_us = Some(self.now_us);
        self.network.calm = true;
        let never = u64::MAX / 2;
        for kind in 0..16 {
            self.network.mute(kind, 0);
        }
        for replica in 0..all {
            let r = usize::from(replica);
            if self.in_core(replica) {
                let node = &mut self.nodes[r];
                (node.paused_until, node.slow_until, node.stalled_until) = (0, 0, 0);
                (node.deaf_until, node.mute_until) = (0, 0);
                let core = self.core;
                for other in (0..all).filter(|o| core >> o & 1 == 1) {
                    self.network.unblock(replica, other);
                }
                self.power_on(replica)?;
                continue;
            }
            if self.config.liar == replica {
                // It lies on.
                continue;
            }
            match self.random.below(4) {
                0 => {
                    self.nodes[r].lost = true;
                    self.power_off(replica, 0);
                }
                way @ (1 | 2) => {
                    for other in (0..all).filter(|o| *o != replica) {
                        let (a, b) = if way == 1 { (replica, other) } else { (other, replica) };
                        self.network.block(a, b, never);
                    }
                }
                _ => self.nodes[r].paused_until = never,
            }
        }
        self.go_on_changing();
        Ok(())
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = &H> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(r, _)| self.in_core(*r as u8)).filter_map(|(_, n)| n.host.as_ref())
    }

    /// The core has one view and one log, all of it committed.
    pub(super) fn converged(&self) -> bool {
        let of = |h: &H| {
            let r = h.replica()?;
            Some((r.status(), r.view(), r.commit(), r.op()))
        };
        let Some(first) = self.cores().next().and_then(of) else { return false };
        let same = self.cores().all(|h| of(h) == Some(first));
        let whole =
            |(r, n): (usize, &super::Node<H>)| !self.in_core(r as u8) || n.damage == Damage::None;
        let same = same && self.nodes.iter().enumerate().all(whole);
        let count = self.cores().count() == self.core.count_ones() as usize;
        let all = Op(self.checker.canonical.len() as u64);
        let voters = self.checker.members().voters();
        let new = |(r, n): (usize, &Node<H>)| n.is_fresh() && voters.has(ReplicaId(r as u8));
        let fresh = self.nodes.iter().enumerate().any(new);
        let changed = self.change.is_none();
        // A disk that is about to fail would fail those who read the log to the end.
        let doomed = |(r, n): (usize, &Node<H>)| self.in_core(r as u8) && n.doomed.is_some();
        let same = same && !self.nodes.iter().enumerate().any(doomed);
        same && count
            && changed
            && !fresh
            && first.0 == Status::Normal
            && first.2 == first.3
            && first.2 == all
    }

    /// Who cannot read everything because of what is derived from its log has that made anew, once.
    pub(super) fn made_anew(&mut self) -> Checked {
        for replica in 0..self.config.replicas {
            let node = &self.nodes[usize::from(replica)];
            let host =
                node.host.as_ref().filter(|_| node.wear == Wear::Spoiled && self.in_core(replica));
            if let Some(Err(Stopped(why))) = host.map(Host::content) {
                self.stops(replica, &why)?;
            }
        }
        Ok(())
    }

    /// The answers fit what every replica of the core tells its readers, also after a restart.
    pub(super) fn finish(&mut self) -> Checked {
        let stopped = |Stopped(why)| Violation::new("HOST", why);
        let mut first: Option<Vec<String>> = None;
        for r in 0..self.nodes.len() {
            if !self.in_core(r as u8) {
                continue;
            }
            let host = self.nodes[r].host.as_ref().expect("the core runs");
            let content = host.content().map_err(stopped)?;
            let known = first.get_or_insert_with(|| content.clone());
            if *known != content {
                return Err(Violation::new("S11", format!("r{r} tells readers something else")));
            }
            let commit = host.replica().map_or(Op(0), Replica::commit);
            self.nodes[r].lost = true;
            self.power_off(r as u8, 0);
            let now_ms = self.now_ms();
            let Config { members, replicas, .. } = self.config;
            let again = H::open(&self.nodes[r].disk, now_ms, members, replicas, self.mutant);
            let again = again.map_err(stopped)?;
            let whole = || Violation::new("S16", format!("r{r} is damaged in the end"));
            let replica = again.replica().ok_or_else(whole)?;
            self.checker.started(replica)?;
            let kept = replica.op() >= commit;
            let content = again.content().map_err(stopped)?;
            let fewer = first.as_ref().is_none_or(|f| f.get(..content.len()) != Some(&content[..]));
            if !kept || fewer {
                return Err(Violation::new("S3", format!("r{r} lost something over a restart")));
            }
        }
        let content = first.unwrap_or_default();
        self.note(9, &[content.len() as u64]);
        self.load
            .check(&content, &self.followers.told)
            .map_err(|(name, what)| Violation::new(name, what))
    }
}
