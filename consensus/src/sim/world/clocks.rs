//! Wall clocks: each has an offset that may jump, and goes too fast or too slow.

use super::{Checked, EPOCH_US, Host, World};
use crate::prng::Prng;

/// How wrong a replica's clock is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wall {
    offset_us: i64,
    /// Microseconds that it gains in a second.
    drift: i64,
    /// What its replica had promised of times when that was looked at last.
    promised_us: i64,
}

impl Wall {
    /// In every other run clocks go as they should.
    pub(super) fn draw(seed: u64, replica: u8) -> Self {
        let mut random = Prng::new(seed ^ 0xc10c);
        let drifts = random.per_mille(500);
        let mut own = Prng::new(random.next() ^ u64::from(replica));
        let drift = if drifts { own.below(40_000).cast_signed() - 20_000 } else { 0 };
        Self { drift, ..Self::default() }
    }
}

impl<H: Host> World<H> {
    pub(super) fn wall_us(&self, replica: u8) -> i64 {
        let Wall { offset_us, drift, .. } = self.nodes[usize::from(replica)].wall;
        let now_us = self.now_us.cast_signed();
        EPOCH_US + now_us + now_us * drift / 1_000_000 + offset_us
    }

    /// One clock jumps, or all do where nobody has that number.
    pub(super) fn set_clock(&mut self, replica: u8, by_us: i64) {
        for (r, node) in (0..).zip(&mut self.nodes) {
            if r == replica || replica >= self.config.replicas {
                node.wall.offset_us = by_us;
            }
        }
        self.count(if by_us < 0 { "clocks jump back" } else { "clocks jump ahead" });
        if replica >= self.config.replicas {
            self.count("all clocks jump");
        }
    }

    pub(super) fn look_at_clock(&mut self, replica: u8) -> Checked {
        let (now_ms, wall_us) = (self.now_ms(), self.wall_us(replica));
        let Some(host) = &mut self.nodes[usize::from(replica)].host else { return Ok(()) };
        let done = host.clock(now_ms, wall_us);
        self.after(replica, done)?;
        let wall = &mut self.nodes[usize::from(replica)].wall;
        let before = wall.promised_us;
        let host = self.nodes[usize::from(replica)].host.as_ref();
        let Some(it) = host.and_then(Host::replica) else { return Ok(()) };
        let (promised_us, corrected) = (it.promised_us(), it.is_primary() && it.is_corrected());
        self.nodes[usize::from(replica)].wall.promised_us = promised_us;
        if promised_us > before {
            self.count("promises kept");
        }
        if corrected {
            self.count("clocks corrected");
        }
        Ok(())
    }
}
