//! Followers: each reads on behind its place at one replica, pauses now and then, and goes on elsewhere from where it is.
//! All who follow the same are told the same, each event once and in order.

use super::{Checked, Event, Host, Violation, World};
use crate::{prng::Prng, sim::Told};

/// How many there are; every other one follows a part of the events only.
const FOLLOWERS: u8 = 4;
/// What there is to follow.
pub(super) const PARTS: usize = 2;

/// One of them.
pub(super) struct Follower<C> {
    place: Option<C>,
    /// Events that it was told.
    count: usize,
    at: u8,
    anew: bool,
}

/// See the module.
pub(super) struct Followers<C> {
    all: Vec<Follower<C>>,
    /// What they were told, of each part.
    pub(super) told: Vec<Vec<String>>,
    random: Prng,
}

impl<C> Followers<C> {
    pub(super) fn new(seed: u64, replicas: u8) -> Self {
        let one = |f| Follower { place: None, count: 0, at: f % replicas, anew: true };
        let told = vec![Vec::new(); PARTS];
        Self { all: (0..FOLLOWERS).map(one).collect(), told, random: Prng::new(seed ^ 0xf0110) }
    }
}

impl<H: Host> World<H> {
    /// Where replicas may be made to disagree, followers have nothing to agree on.
    pub(super) fn begin_to_follow(&mut self) {
        if !self.config.may_disagree() && self.told.is_none() {
            for follower in 0..FOLLOWERS {
                self.at(10_000 * u64::from(follower), Event::Follow { follower });
            }
        }
    }

    pub(super) fn follow(&mut self, follower: u8) -> Checked {
        let replicas = self.config.replicas;
        let r = &mut self.followers.random;
        let pauses = r.per_mille(60);
        let wait = if pauses { r.between(500_000, 3_000_000) } else { r.between(20_000, 120_000) };
        let moves = r.per_mille(100).then(|| r.below(u64::from(replicas)) as u8);
        let events = [1, 5, 40, 200][r.below(4) as usize];
        self.at(wait, Event::Follow { follower });
        if pauses {
            self.count("followers that paused");
        }
        if let Some(to) = moves {
            self.move_to(follower, to);
        }
        let at = self.followers.all[usize::from(follower)].at;
        let node = &self.nodes[usize::from(at)];
        if node.host.is_none() {
            self.move_to(follower, (at + 1) % replicas);
            Ok(())
        } else if node.paused_until > self.now_us {
            Ok(())
        } else {
            self.read_on(follower, events).map(|_| ())
        }
    }

    fn move_to(&mut self, follower: u8, to: u8) {
        let f = &mut self.followers.all[usize::from(follower)];
        (f.at, f.anew) = (to, true);
        if f.count > 0 {
            self.count("followers that went elsewhere");
        }
    }

    /// Says how many events there were; nothing where the replica cannot tell.
    fn read_on(&mut self, follower: u8, events: usize) -> Result<Option<usize>, Violation> {
        let f = &mut self.followers.all[usize::from(follower)];
        let at = f.at;
        let Some(host) = &mut self.nodes[usize::from(at)].host else { return Ok(None) };
        let anew = std::mem::take(&mut f.anew);
        let (told, place) = match host.follow(follower, f.place.as_ref(), anew, events) {
            Ok(Told::Events(told, place)) => (told, place),
            Ok(Told::Behind) => {
                f.anew = true;
                self.count("followers ahead of a replica");
                return Ok(None);
            }
            Ok(Told::Foreign) => {
                let what = format!("r{at} does not know the place of follower {follower}");
                return Err(Violation::new("S13", what));
            }
            Err(stopped) => {
                f.anew = true;
                self.after(at, Err(stopped))?;
                return Ok(None);
            }
        };
        f.place = place.or(f.place.take());
        let known = &mut self.followers.told[usize::from(follower) % PARTS];
        let count = told.len();
        for event in told {
            match known.get(f.count) {
                Some(before) if *before != event => {
                    let what = format!("r{at} tells follower {follower} {event}, not {before}");
                    return Err(Violation::new("S13", what));
                }
                Some(_) => {}
                None => known.push(event),
            }
            f.count += 1;
        }
        self.note(10, &[u64::from(follower), u64::from(at), count as u64]);
        *self.coverage.entry("events followed").or_default() += count as u64;
        Ok(Some(count))
    }

    /// Whether all followers were told all that there is, by replicas of the core: those who are with one of it stay there.
    pub(super) fn all_followed(&mut self) -> Result<bool, Violation> {
        if self.config.may_disagree() || self.told.is_some() {
            return Ok(true);
        }
        for follower in 0..FOLLOWERS {
            let at = self.followers.all[usize::from(follower)].at;
            if !self.in_core(at) {
                let first = (0..self.config.replicas).find(|r| self.in_core(*r));
                self.move_to(follower, first.expect("a core is somebody"));
            }
            loop {
                match self.read_on(follower, 200)? {
                    Some(0) => break,
                    Some(_) => {}
                    None => return Ok(false),
                }
            }
            let count = self.followers.all[usize::from(follower)].count;
            let all = self.followers.told[usize::from(follower) % PARTS].len();
            if count != all {
                let what = format!("follower {follower} was told {count} events of {all}");
                return Err(Violation::new("S13", what));
            }
        }
        Ok(true)
    }
}
