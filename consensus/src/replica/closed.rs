//! The time of ops, and what is promised of the times of those to come.
//!
//! A promise is kept like a vote: a backup makes it durable before it says that it has it, and says in its votes what it has.
//! Only what a quorum has is told to readers. So whoever leads later hears of it from one of its voters, and
//! stamps all that it orders with later times. What was ordered and is not committed when a promise is made has a later
//! time than it, and a view tells of no promise before all that it inherited is committed.

use super::{Outbox, Output, Replica, Status};
#[cfg(feature = "sim")]
use crate::sim::Mutant;
use crate::{
    header::{Op, View},
    limits::{CLOSE_MS, TIME_MAX_US},
    message::{Message, ReplicaId},
    quorum,
};

impl Replica {
    /// The time that the next op may carry: `now_us` as far as a quorum's clocks allow it, later than the last op's and than
    /// what was promised.
    pub fn stamp(&self, now_us: i64) -> i64 {
        #[cfg(feature = "sim")]
        if self.has(Mutant::AnyTime) {
            return now_us;
        }
        let now_us = if self.slots == 1 { now_us } else { self.agreed(|a| a.bound(now_us)) };
        // A change of the members comes before what is being built, and takes the next microsecond.
        now_us.max(self.least() + i64::from(self.wanted.is_some()))
    }

    /// The earliest time that the next op may carry.
    pub(super) fn least(&self) -> i64 {
        let last = self.head().map_or(i64::MIN, |h| h.time_us.saturating_add(1));
        if self.floor_us > 0 { last.max(self.floor_us + 1) } else { last }
    }

    fn agreed(&self, then: impl Fn(crate::clock::Agreed) -> i64) -> i64 {
        self.clock.agreed(self.members().voters()).map_or(0, then)
    }

    /// Whether enough clocks are known to say what time it is. Alone, a replica's own is enough.
    pub fn knows_time(&self) -> bool {
        self.slots == 1 || self.clock.agreed(self.members().voters()).is_some()
    }

    /// Whether this replica's clock shows what no quorum's does.
    pub fn is_corrected(&self) -> bool {
        let agreed = self.clock.agreed(self.members().voters());
        self.slots > 1 && agreed.is_some_and(crate::clock::Agreed::corrects)
    }

    /// No op behind the last one committed here has a time up to this one, nor will have: what was true as of it stays so.
    /// Microseconds since 1970-01-01 UTC; it does not go back while the process runs.
    pub fn closed_us(&self) -> i64 {
        #[cfg(feature = "sim")]
        if self.has(Mutant::RawPromise) && self.leads() {
            return self.raw_us;
        }
        self.closed_us.max(self.tip().map_or(0, |h| h.time_us))
    }

    /// What is kept as a promise, told to readers or not; 0 where nothing is.
    pub fn promised_us(&self) -> i64 {
        self.superblock.closed_us
    }

    /// The clock was looked at. As primary: promises what may be promised now.
    pub(super) fn look(
        &mut self,
        now: u64,
        wall_us: i64,
        building_us: Option<i64>,
        out: &mut Outbox,
    ) {
        self.clock.look(now, wall_us);
        #[cfg(feature = "sim")]
        if self.has(Mutant::RawPromise) {
            self.raw_us = wall_us;
        }
        // A change that is wanted goes before what is being built, between the last op and that.
        if !self.leads() || self.wanted.is_some() {
            return;
        }
        let now_us = if self.slots == 1 { wall_us } else { self.agreed(crate::clock::Agreed::now) };
        // What is under way is not committed.
        let ordered = self.suffix.front().map(|p| p.header.time_us);
        // A change of the members may still be ordered before what is being built.
        let built = building_us.map(|us| us.saturating_sub(1));
        let before = [ordered, built].into_iter().flatten().min().unwrap_or(i64::MAX);
        let close = now_us.min(before.saturating_sub(1)).min(TIME_MAX_US);
        let known = self.promised_us().max(self.tip().map_or(0, |h| h.time_us));
        if close >= known.saturating_add(CLOSE_MS.cast_signed() * 1000) {
            self.promise(close, out);
        }
    }

    /// Keeps a promise, durably soon.
    fn promise(&mut self, close_us: i64, out: &mut Outbox) {
        if close_us > self.superblock.closed_us {
            self.superblock.closed_us = close_us;
            self.floor_us = self.floor_us.max(close_us);
            self.write_superblock(out);
        }
    }

    /// What voters were promised holds for the view that they vote for.
    pub(super) fn keep_promises(&mut self, closed_us: i64) {
        #[cfg(feature = "sim")]
        if self.has(Mutant::ForgetsPromise) {
            self.floor_us = 0;
            return;
        }
        self.superblock.closed_us = self.superblock.closed_us.max(closed_us);
        self.floor_us = self.floor_us.max(closed_us);
    }

    /// As primary: tells readers what a quorum keeps, once all that it inherited is committed.
    pub(super) fn close(&mut self) {
        if !self.leads() {
            return;
        }
        let voters = self.members().voters();
        let kept = (0..).map(ReplicaId).zip(self.kept_us.iter().copied());
        let own = self.durable.closed_us;
        let kept = kept.filter(|(r, _)| voters.has(*r));
        let mut kept: Vec<i64> =
            kept.map(|(r, closed)| if r == self.me { own } else { closed }).collect();
        kept.sort_unstable_by(|a, b| b.cmp(a));
        let last = usize::from(quorum::replication(voters.count())) - 1;
        let kept = kept.get(last).copied().unwrap_or_default();
        self.closed_us = self.closed_us.max(kept.min(self.superblock.closed_us));
    }

    /// As primary: asks what the others' clocks show, and tells of promises.
    pub(super) fn ask_time(&mut self, now: u64, out: &mut Outbox) {
        let round = self.clock.ask(now);
        let (view, op) = (self.view(), self.commit());
        let (close_us, closed_us) = (self.superblock.closed_us, self.closed_us);
        self.send_all(&Message::Close { view, round, close_us, closed_us, op }, out);
    }

    pub(super) fn on_close(
        &mut self,
        now: u64,
        (view, round): (View, u64),
        (close_us, closed_us): (i64, i64),
        op: Op,
        out: &mut Outbox,
    ) {
        self.promise(close_us, out);
        if self.commit() >= op {
            self.closed_us = self.closed_us.max(closed_us);
        }
        let Some(clock_us) = self.clock.shows(now).filter(|_| self.counts_itself()) else { return };
        let clock_us = clock_us.clamp(0, TIME_MAX_US);
        let message = Message::Reading { view, round, clock_us, closed_us: self.durable.closed_us };
        out.push(Output::Send { to: self.primary_of(view), message });
    }

    pub(super) fn on_reading(
        &mut self,
        now: u64,
        from: ReplicaId,
        (view, round): (View, u64),
        (clock_us, closed_us): (i64, i64),
        out: &mut Outbox,
    ) {
        if view != self.view() || self.status != Status::Normal || !self.is_primary() {
            return;
        }
        if round > self.clock.round() {
            return out.push(Output::Notice(super::Notice::NeverSaid));
        }
        self.clock.hear(from, round, clock_us, now);
        let kept = &mut self.kept_us[usize::from(from.0)];
        *kept = closed_us.max(*kept);
        self.close();
    }
}
