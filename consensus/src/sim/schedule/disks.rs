//! What disks do that is rarer than that they stop.

use super::{Config, Fault, Planned};
use crate::{
    prng::Prng,
    sim::{Failure, Harm},
};

impl Config {
    /// In every other run disks do what is rarer than that they stop.
    pub(super) fn hurt_disks(&self, planned: &mut Vec<Planned>) {
        let mut random = Prng::new(self.seed ^ 0xd15c);
        for _ in 0..if random.per_mille(500) { 0 } else { random.between(1, 8) } {
            let at_us = random.between(200_000, self.safety_us);
            let replica = random.below(u64::from(self.replicas)) as u8;
            let down_ms = random.between(10, 1500);
            let fault = match random.below(4) {
                0 => {
                    let (after, how) = (random.between(1, 400), 4 + random.below(2) as u8);
                    Fault::DiskFails { replica, after, how, down_ms }
                }
                1 => {
                    let how = random.below(1 + Failure::OTHERS.len() as u64) as u8;
                    let most = [8, 200][random.below(2) as usize];
                    Fault::BadStart { replica, after: random.between(1, most), how, down_ms }
                }
                _ => {
                    let what = random.below(6) as u8;
                    let back = [1 + random.below(12), random.below(400)][random.below(2) as usize];
                    Fault::Harm { replica, what, back, at: random.below(1 << 20), down_ms }
                }
            };
            planned.push(Planned { at_us, fault });
        }
    }

    /// In every fourth run writes go elsewhere, or what is derived is gone.
    pub(super) fn hurt_more(&self, planned: &mut Vec<Planned>) {
        let mut random = Prng::new(self.seed ^ 0xe15e);
        for _ in 0..if random.per_mille(750) { 0 } else { random.between(1, 5) } {
            let at_us = random.between(200_000, self.safety_us);
            let replica = random.below(u64::from(self.replicas)) as u8;
            let which = [Harm::Gone, Harm::Misdirected, Harm::Misdirected];
            let what = which[random.below(3) as usize] as u8;
            let back = [1 + random.below(12), random.below(400)][random.below(2) as usize];
            let (at, down_ms) = (random.below(1 << 20), random.between(10, 1500));
            planned
                .push(Planned { at_us, fault: Fault::Harm { replica, what, back, at, down_ms } });
        }
    }
}
