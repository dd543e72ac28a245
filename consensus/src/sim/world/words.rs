//! What replicas are and say, and what is claimed where one of them lies.

use super::{Checked, Damage, Event, Host, Stopped, Violation, Wear, World};
use crate::{
    Envelope, Status,
    sim::{
        coverage,
        liar::{Lie, Word},
    },
};

/// What a majority with a liar in it need not hold. All else holds at the honest ones whatever is said to them.
const NOT_CLAIMED: [&str; 9] = ["S1", "S2", "S3", "S9", "S10", "S11", "S12", "S13", "S14"];

impl<H: Host> World<H> {
    pub(super) fn send(&mut self, envelope: Envelope) -> Checked {
        self.checker.said(envelope.from, &envelope.message)?;
        self.count(coverage::message(&envelope.message));
        let from = envelope.from.0;
        let Some(liar) = self.liar.as_mut().filter(|liar| liar.is(from)) else {
            self.carry(from, &envelope);
            return Ok(());
        };
        for word in liar.tell(envelope) {
            match word {
                Word::Said(envelope) => self.carry(from, &envelope),
                Word::Spoiled(envelope) => {
                    let arrival = self.network.spoil(self.now_us, &envelope);
                    self.at(arrival.at_us - self.now_us, Event::Arrive(arrival));
                }
            }
        }
        Ok(())
    }

    /// Tells of a change of what a replica does.
    pub(super) fn watch(&mut self, replica: u8) {
        let node = &mut self.nodes[usize::from(replica)];
        let Some(host) = &node.host else { return };
        let Some(it) = host.replica() else { return };
        let promised = it.promised_us() > it.tip().map_or(0, |h| h.time_us);
        let (leads, op, commit) = (it.is_primary(), it.op(), it.commit());
        let (status, view, state) = (it.status(), it.view(), coverage::state(it));
        let before = std::mem::replace(&mut node.last, (status, view));
        if std::mem::replace(&mut node.state, state) != state {
            self.count(state);
        }
        if before == (status, view) {
            return;
        }
        let view = view.0;
        self.unrest += u64::from(self.healed_us.is_some() && self.in_core(replica));
        self.note(6, &[u64::from(replica), view, status as u64]);
        match status {
            Status::ViewChange => {
                self.tell(&format!(
                    "r{replica} leaves for view {view} with op {op}, {commit} committed"
                ));
            }
            Status::Normal if leads => {
                self.tell(&format!(
                    "r{replica} leads view {view} from op {op}, {commit} committed"
                ));
                self.count("view changes");
                if promised {
                    self.count("view changes with a promise outstanding");
                }
                if op > commit {
                    self.count("view changes with an uncommitted suffix");
                }
            }
            Status::Normal => self.tell(&format!("r{replica} follows in view {view} with op {op}")),
        }
    }

    /// Nothing that a replica keeps is more than its limit.
    pub(super) fn look_at_limits(&mut self, replica: u8) -> Checked {
        let Some(host) = &self.nodes[usize::from(replica)].host else { return Ok(()) };
        let mut over = None;
        host.held(&mut |what, count, most| {
            if count > most {
                over = Some(format!("r{replica} keeps {count} {what}, {most} at most"));
            }
        });
        over.map_or(Ok(()), |what| Err(Violation::new("S19", what)))
    }

    /// Has a replica's disk and its queue go on.
    pub(super) fn keep_going(&mut self, replica: u8) {
        let node = &mut self.nodes[usize::from(replica)];
        let Some(host) = &node.host else { return };
        let run = node.run;
        if host.has_work() && !node.works {
            node.works = true;
            let slow = if node.slow_until > self.now_us { 40 } else { 1 };
            let wait = slow * self.config.disk_us / 2 + self.random.below(self.config.disk_us);
            self.at(wait, Event::Work { replica, run });
        }
        let node = &mut self.nodes[usize::from(replica)];
        if !node.seals {
            node.seals = true;
            self.at(500, Event::Seal { replica, run });
        }
    }

    fn carry(&mut self, from: u8, envelope: &Envelope) {
        for arrival in self.network.send(self.now_us, from, envelope) {
            let after = arrival.at_us - self.now_us;
            self.at(after, Event::Arrive(arrival));
        }
    }

    /// Whether this was claimed not to happen.
    pub(super) fn claims(&mut self, violation: &Violation) -> bool {
        let claimed = !self.config.may_disagree() || !NOT_CLAIMED.contains(&violation.invariant);
        if !claimed {
            self.tell(&format!("a lie was believed: {}: {}", violation.invariant, violation.what));
            self.count("lies believed");
        }
        claimed
    }

    pub(super) fn count_lies(&mut self) {
        let Some(liar) = &self.liar else { return };
        let told = liar.told;
        for lie in Lie::ALL {
            *self.coverage.entry(lie.name()).or_default() += told[*lie as usize];
        }
    }

    /// What honest replicas have is readable: each event is what its leaf says. Not where damage was done that is not
    /// repaired yet, and not from a disk that is about to fail.
    pub(super) fn whole(&mut self) -> Checked {
        for (r, node) in self.nodes.iter().enumerate() {
            let fit =
                (node.damage, node.wear) == (Damage::None, Wear::Sound) && node.doomed.is_none();
            let Some(host) = node.host.as_ref().filter(|_| fit) else { continue };
            if let Err(Stopped(why)) = host.content() {
                return Err(Violation::new("S16", format!("r{r}: {why}")));
            }
        }
        self.count("runs of a liar to their end");
        Ok(())
    }
}
