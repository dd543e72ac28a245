//! The network: delays, loses, repeats, reorders, garbles and misdirects.

use bytes::Bytes;

use super::Config;
use crate::{Envelope, Message, encode, prng::Prng};

/// A message that will come in.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at_us: u64,
    pub(super) to: u8,
    pub(super) bytes: Bytes,
    /// Its bytes are not what was sent.
    pub(super) garbled: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Network {
    config: Config,
    random: Prng,
    /// Until when nothing gets from one replica to another.
    blocked: Vec<Vec<u64>>,
    /// Until when messages of a kind are lost.
    muted: [u64; 16],
    /// What goes wrong here is over.
    pub(super) calm: bool,
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) garbled: u64,
    pub(super) lies: u64,
}

/// Where a message's kind stands in its bytes.
const KIND_AT: usize = 34;

/// The same bytes with a checksum that holds.
pub(super) fn sealed_again(bytes: &[u8]) -> Bytes {
    let mut sealed = bytes.to_vec();
    if let Some((seal, rest)) = sealed.split_at_mut_checked(blake3::OUT_LEN) {
        seal.copy_from_slice(blake3::hash(rest).as_bytes());
    }
    sealed.into()
}

impl Network {
    pub(super) fn new(config: Config, random: Prng) -> Self {
        let count = usize::from(config.replicas);
        let blocked = vec![vec![0; count]; count];
        let (lost, repeated, garbled, lies) = (0, 0, 0, 0);
        Self { config, random, blocked, muted: [0; 16], calm: false, lost, repeated, garbled, lies }
    }

    /// Nothing gets from `from` to `to` before then.
    pub(super) fn block(&mut self, from: u8, to: u8, until_us: u64) {
        let link = &mut self.blocked[usize::from(from)][usize::from(to)];
        *link = until_us.max(*link);
    }

    pub(super) fn unblock(&mut self, from: u8, to: u8) {
        self.blocked[usize::from(from)][usize::from(to)] = 0;
    }

    pub(super) fn mute(&mut self, kind: u8, until_us: u64) {
        self.muted[usize::from(kind % 16)] = until_us;
    }

    fn delay(&mut self) -> u64 {
        let Config { delay_us, spread_us, .. } = self.config;
        let usual = delay_us + self.random.below(spread_us);
        // A few take much longer.
        if self.random.per_mille(30) { usual + self.random.below(spread_us * 16) } else { usual }
    }

    /// The same message with another body, as if its sender's memory had failed: its checksum holds.
    fn lie(&mut self, envelope: &Envelope) -> Option<Envelope> {
        let mut lie = envelope.clone();
        let (Message::Prepare { entry, .. } | Message::Supply { entry, .. }) = &mut lie.message
        else {
            return None;
        };
        let mut body = entry.body.to_vec();
        let at = self.random.below(body.len().max(1) as u64) as usize;
        *body.get_mut(at)? ^= 1 << self.random.below(8);
        entry.body = body.into();
        Some(lie)
    }

    /// A message whose bytes its sender changed under their checksum.
    pub(super) fn spoil(&mut self, now_us: u64, envelope: &Envelope) -> Arrival {
        let mut bytes = encode(envelope).to_vec();
        let at = self.random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << self.random.below(8);
        let (at_us, to) = (now_us + self.delay(), envelope.to.0);
        Arrival { at_us, to, bytes: bytes.into(), garbled: true }
    }

    /// What becomes of a message that `from` sends, in whoever's name.
    pub(super) fn send(&mut self, now_us: u64, from: u8, envelope: &Envelope) -> Vec<Arrival> {
        let bytes = encode(envelope);
        let to = envelope.to.0;
        let muted = now_us < self.muted[usize::from(bytes[KIND_AT] % 16)];
        let lossy = !self.calm && self.random.per_mille(self.config.loss);
        if muted || lossy || now_us < self.blocked[usize::from(from)][usize::from(to)] {
            self.lost += 1;
            return Vec::new();
        }
        let mut arrivals = Vec::new();
        let at_us = now_us + self.delay();
        arrivals.push(Arrival { at_us, to, bytes: bytes.clone(), garbled: false });
        if self.calm {
            return arrivals;
        }
        if self.random.per_mille(self.config.twice) {
            let at_us = now_us + self.delay();
            arrivals.push(Arrival { at_us, to, bytes: bytes.clone(), garbled: false });
            self.repeated += 1;
        }
        if self.random.per_mille(self.config.replayed) {
            let at_us = now_us + self.random.between(100_000, 4_000_000);
            arrivals.push(Arrival { at_us, to, bytes: bytes.clone(), garbled: false });
            self.repeated += 1;
        }
        if self.random.per_mille(self.config.corrupted) {
            let mut changed = bytes.to_vec();
            let at = self.random.below(changed.len() as u64) as usize;
            changed[at] ^= 1 << self.random.below(8);
            arrivals[0] = Arrival { at_us, to, bytes: changed.into(), garbled: true };
            self.garbled += 1;
        }
        if self.random.per_mille(self.config.corrupted)
            && let Some(lie) = self.lie(envelope)
        {
            arrivals[0] = Arrival { at_us, to, bytes: encode(&lie), garbled: false };
            self.lies += 1;
        }
        if self.random.per_mille(self.config.misdirected) {
            let to = self.random.below(u64::from(self.config.replicas)) as u8;
            arrivals.push(Arrival { at_us, to, bytes, garbled: false });
        }
        arrivals
    }
}
