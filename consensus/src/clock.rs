//! What time it is, as a quorum's clocks have it.
//!
//! A primary asks the others what their clocks show. An answer was read between question and answer, so it bounds how far
//! that clock lies from this replica's milliseconds, which never go back: how long messages take is the only doubt.
//! Of the members' bounds the latest time counts that a quorum's clocks have come to, and nothing earlier than what a quorum's
//! have not passed. Where clocks agree, that is an interval, and the primary's own clock is taken within it; where they do
//! not, the earlier end is taken: what is too late can never be taken back. A minority of clocks, with the primary's
//! own or without, can so show anything.
//!
//! Times are microseconds since 1970-01-01 UTC, offsets those less this replica's own milliseconds.

use std::collections::VecDeque;

use crate::{limits::READING_MS, message::ReplicaId, quorum, quorum::Voters};

/// Questions that are answered in time, at most.
const ASKED_MAX: usize = 32;
/// Microseconds by which a time may lie beyond the agreed one as it was when the clock was looked at last.
const STEP_US: i64 = 20_000;

/// Between what a clock lies.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at_ms: u64,
    low: i64,
    high: i64,
}

/// The clocks of a cluster, as one replica knows them.
#[derive(Debug)]
pub(crate) struct Clock {
    me: ReplicaId,
    /// When this replica's clock was looked at, and its offset then.
    own: Option<(u64, i64)>,
    readings: Vec<Option<Reading>>,
    /// Questions, and when they were asked.
    asked: VecDeque<(u64, u64)>,
    round: u64,
}

/// What a quorum's clocks allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    at_ms: u64,
    own: i64,
    low: i64,
    high: i64,
}

const fn micros(ms: u64) -> i64 {
    ms.cast_signed().saturating_mul(1000)
}

impl Clock {
    pub(crate) fn new(me: ReplicaId, slots: usize) -> Self {
        Self { me, own: None, readings: vec![None; slots], asked: VecDeque::new(), round: 0 }
    }

    /// This replica's clock shows this.
    pub(crate) const fn look(&mut self, now_ms: u64, wall_us: i64) {
        self.own = Some((now_ms, wall_us.saturating_sub(micros(now_ms))));
    }

    /// What this replica's clock shows, if it was ever looked at.
    pub(crate) fn shows(&self, now_ms: u64) -> Option<i64> {
        self.own.map(|(_, offset)| micros(now_ms).saturating_add(offset))
    }

    /// The others are asked: the question's number.
    pub(crate) fn ask(&mut self, now_ms: u64) -> u64 {
        self.round += 1;
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((self.round, now_ms));
        self.round
    }

    /// The last question.
    pub(crate) const fn round(&self) -> u64 {
        self.round
    }

    /// An answer. One that comes too late for its question says nothing.
    pub(crate) fn hear(&mut self, from: ReplicaId, round: u64, clock_us: i64, now_ms: u64) {
        let Some((_, asked_ms)) = self.asked.iter().find(|(r, _)| *r == round) else { return };
        let low = clock_us.saturating_sub(micros(now_ms + 1));
        let high = clock_us.saturating_sub(micros(*asked_ms));
        self.readings[usize::from(from.0)] = Some(Reading { at_ms: now_ms, low, high });
    }

    /// What a quorum of these members allows; `None` while too few of their clocks are known.
    pub(crate) fn agreed(&self, voters: Voters) -> Option<Agreed> {
        let (at_ms, own) = self.own?;
        let fresh = |r: &Reading| at_ms < r.at_ms + READING_MS;
        let mut known = Vec::with_capacity(self.readings.len());
        for (replica, reading) in (0..).map(ReplicaId).zip(&self.readings) {
            if replica == self.me && voters.has(replica) {
                known.push((own, own));
            } else if voters.has(replica)
                && let Some(reading) = reading.filter(fresh)
            {
                known.push((reading.low, reading.high));
            }
        }
        let quorum = usize::from(quorum::replication(voters.count()));
        if known.len() < quorum {
            return None;
        }
        let mut lows: Vec<i64> = known.iter().map(|k| k.0).collect();
        let mut highs: Vec<i64> = known.iter().map(|k| k.1).collect();
        lows.sort_unstable();
        highs.sort_unstable_by(|a, b| b.cmp(a));
        let (low, high) = (lows[quorum - 1], highs[quorum - 1]);
        Some(Agreed { at_ms, own, low: low.min(high), high })
    }
}

impl Agreed {
    /// What a clock shows, taken into what is agreed; it may have gone on since it was looked at, by a little.
    pub(crate) fn bound(self, now_us: i64) -> i64 {
        let (low, high) = (self.at(self.low), self.at(self.high));
        let corrected = now_us.saturating_add(self.own.clamp(self.low, self.high) - self.own);
        corrected.clamp(low, high.saturating_add(STEP_US))
    }

    /// What time it is.
    pub(crate) fn now(self) -> i64 {
        self.at(self.own.clamp(self.low, self.high))
    }

    /// Whether the clock of this replica lies where no quorum's does.
    pub(crate) const fn corrects(self) -> bool {
        self.own < self.low || self.own > self.high
    }

    const fn at(self, offset: i64) -> i64 {
        micros(self.at_ms).saturating_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The agreed time of a primary 0 whose clock shows the first, where others answer what follows, at once.
    fn agreed(replicas: u8, clocks: &[i64]) -> Option<i64> {
        let mut voters = Voters::default();
        (0..replicas).map(ReplicaId).for_each(|r| voters.add(r));
        let mut clock = Clock::new(ReplicaId(0), usize::from(replicas));
        let round = clock.ask(10);
        clock.look(10, clocks[0]);
        for (replica, shows) in (1..).map(ReplicaId).zip(&clocks[1..]) {
            clock.hear(replica, round, *shows, 10);
        }
        clock.agreed(voters).map(Agreed::now)
    }

    #[test]
    fn a_minority_of_clocks_moves_nothing() {
        const FAR: i64 = 1 << 50;
        let near = |got: Option<i64>, want: i64| {
            assert!(got.is_some_and(|got| (got - want).abs() <= 1000), "{got:?}, not {want}");
        };
        let t = 1_700_000_000_000_000;
        near(agreed(3, &[t, t, t]), t);
        for wrong in [-FAR, FAR] {
            near(agreed(3, &[t + wrong, t, t]), t);
            near(agreed(3, &[t, t + wrong, t]), t);
            near(agreed(5, &[t + wrong, t, t - wrong, t, t]), t);
            near(agreed(5, &[t, t + wrong, t + wrong, t, t]), t);
            near(agreed(4, &[t + wrong, t, t, t]), t);
        }
    }

    #[test]
    fn two_that_do_not_agree_take_the_earlier() {
        assert_eq!(agreed(3, &[9_000_000, 5_000_000]), Some(5_000_000));
        assert_eq!(agreed(3, &[5_000_000, 9_000_000]), Some(5_000_000));
    }

    #[test]
    fn too_few_clocks_say_nothing() {
        assert_eq!(agreed(3, &[5]), None);
        assert_eq!(agreed(5, &[5, 5]), None);
        assert_eq!(agreed(1, &[5]), Some(5));
    }

    #[test]
    fn what_is_old_or_was_never_asked_says_nothing() {
        let mut voters = Voters::default();
        (0..3).map(ReplicaId).for_each(|r| voters.add(r));
        let mut clock = Clock::new(ReplicaId(0), 3);
        clock.look(10, 10_000);
        clock.hear(ReplicaId(1), 1, 10_000, 10);
        assert_eq!(clock.agreed(voters), None, "never asked");
        let round = clock.ask(10);
        clock.hear(ReplicaId(1), round, 10_000, 10);
        assert!(clock.agreed(voters).is_some());
        clock.look(10 + READING_MS, 0);
        assert_eq!(clock.agreed(voters), None, "old");
    }

    #[test]
    fn a_slow_answer_leaves_room_for_the_own_clock() {
        let mut voters = Voters::default();
        (0..2).map(ReplicaId).for_each(|r| voters.add(r));
        let mut clock = Clock::new(ReplicaId(0), 2);
        let round = clock.ask(100);
        clock.look(300, 250_000);
        clock.hear(ReplicaId(1), round, 200_000, 300);
        let agreed = clock.agreed(voters).map(|a| (a.now(), a.corrects()));
        assert_eq!(agreed, Some((250_000, false)));
        // What comes later than it can have been read is taken back.
        clock.look(300, 900_000);
        let agreed = clock.agreed(voters).map(|a| (a.now(), a.corrects(), a.bound(900_000)));
        assert_eq!(agreed, Some((400_000, true, 400_000)));
    }
}
