//! What goes wrong and when, drawn from the seed: each seed has some kinds of faults and not others.

mod disks;

use std::fmt;

use super::Lie;
use crate::prng::Prng;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power of a replica goes, after so many more changes of its disk, and comes back.
    Crash {
        /// Which replica.
        replica: u8,
        /// Changes of the disk that still go through.
        after: u64,
        /// How long it is down.
        down_ms: u64,
    },
    /// All replicas crash at once.
    CrashAll {
        /// How long they are down.
        down_ms: u64,
    },
    /// Nothing gets from one of these replicas to the others, nor back.
    Partition {
        /// A bit for each replica on the one side.
        side: u16,
        /// How long.
        ms: u64,
    },
    /// A replica hears nobody, or nobody hears it.
    OneWay {
        /// Which replica.
        replica: u8,
        /// Whether it still hears the others.
        hears: bool,
        /// How long.
        ms: u64,
    },
    /// A replica does nothing, and then goes on.
    Pause {
        /// Which replica.
        replica: u8,
        /// How long.
        ms: u64,
    },
    /// A replica's disk takes long for everything.
    SlowDisk {
        /// Which replica.
        replica: u8,
        /// How long.
        ms: u64,
    },
    /// A replica's disk refuses something, and the replica stops.
    DiskFails {
        /// Which replica.
        replica: u8,
        /// Which change or read it is, from then on.
        after: u64,
        /// Which of [`super::Failure::OTHERS`].
        how: u8,
        /// How long it is down.
        down_ms: u64,
    },
    /// A replica crashes, and a bit of an op on its disk turns.
    Damage {
        /// Which replica.
        replica: u8,
        /// How many ops before the last one.
        back: u64,
        /// Which bit, counted around the op.
        bit: u64,
        /// How long it is down.
        down_ms: u64,
    },
    /// A replica crashes, and its disk fails while it starts again.
    BadStart {
        /// Which replica.
        replica: u8,
        /// Which change or read it is.
        after: u64,
        /// Which of [`super::Failure::OTHERS`]; the power's behind them.
        how: u8,
        /// How long it is down.
        down_ms: u64,
    },
    /// A replica crashes, and something on its disk is not what was written there.
    Harm {
        /// Which replica.
        replica: u8,
        /// Which of [`super::Harm::ALL`].
        what: u8,
        /// How many ops before the last one.
        back: u64,
        /// Where, counted around.
        at: u64,
        /// How long it is down.
        down_ms: u64,
    },
    /// A replica's clock is wrong by so much from now on; all are, where nobody has that number.
    Clock {
        /// Which replica.
        replica: u8,
        /// By how many microseconds.
        by_us: i64,
    },
    /// A replica's disk is lost, as soon as a quorum of the others has all that is committed; it comes back with
    /// another one.
    LoseDisk {
        /// Which replica.
        replica: u8,
        /// How long it is down.
        down_ms: u64,
    },
    /// A replica's timers stand still, while it does everything else.
    Stall {
        /// Which replica.
        replica: u8,
        /// How long.
        ms: u64,
    },
    /// Nothing gets from clients to a replica, or nothing from it to them.
    Cut {
        /// Which replica.
        replica: u8,
        /// Whether it still hears clients.
        hears: bool,
        /// How long.
        ms: u64,
    },
    /// A client is away: it misses what it is answered, and asks again once it is back.
    Away {
        /// Which client, counted around.
        client: u8,
        /// How long.
        ms: u64,
    },
    /// An operator, and no fault: a replica is to become a member.
    Join {
        /// Which replica.
        replica: u8,
    },
    /// An operator, and no fault: a replica is to be no member any more.
    Leave {
        /// Which replica.
        replica: u8,
    },
    /// All messages of a kind are lost.
    Mute {
        /// The kind, as messages count them.
        kind: u8,
        /// How long.
        ms: u64,
    },
}

impl Fault {
    /// A number for each kind of fault.
    pub const fn kind(&self) -> usize {
        match self {
            Self::Crash { .. } => 0,
            Self::CrashAll { .. } => 1,
            Self::Partition { .. } => 2,
            Self::OneWay { .. } => 3,
            Self::Pause { .. } => 4,
            Self::SlowDisk { .. } => 5,
            Self::Clock { .. } => 6,
            Self::Mute { .. } => 7,
            Self::Damage { .. } => 8,
            Self::LoseDisk { .. } => 9,
            Self::Stall { .. } => 10,
            Self::Cut { .. } => 11,
            Self::Away { .. } => 12,
            Self::DiskFails { .. } => 13,
            Self::Join { .. } => 14,
            Self::Leave { .. } => 15,
            Self::BadStart { .. } => 16,
            Self::Harm { .. } => 17,
        }
    }

    /// How many kinds there are.
    pub const KINDS: usize = 18;
    /// How many of them are drawn from alike.
    const FAULTS: u64 = 14;
}

/// A fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Microseconds since the start.
    pub at_us: u64,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_us, fault } = self;
        match fault {
            Fault::Crash { replica, after, down_ms } => {
                write!(f, "{at_us} crash {replica} {after} {down_ms}")
            }
            Fault::CrashAll { down_ms } => write!(f, "{at_us} crash-all {down_ms}"),
            Fault::Partition { side, ms } => write!(f, "{at_us} partition {side} {ms}"),
            Fault::OneWay { replica, hears, ms } => {
                write!(f, "{at_us} one-way {replica} {} {ms}", u8::from(*hears))
            }
            Fault::Pause { replica, ms } => write!(f, "{at_us} pause {replica} {ms}"),
            Fault::SlowDisk { replica, ms } => write!(f, "{at_us} slow-disk {replica} {ms}"),
            Fault::Clock { replica, by_us } => write!(f, "{at_us} clock {replica} {by_us}"),
            Fault::DiskFails { replica, after, how, down_ms } => {
                write!(f, "{at_us} disk-fails {replica} {after} {how} {down_ms}")
            }
            Fault::BadStart { replica, after, how, down_ms } => {
                write!(f, "{at_us} bad-start {replica} {after} {how} {down_ms}")
            }
            Fault::Harm { replica, what, back, at, down_ms } => {
                write!(f, "{at_us} harm {replica} {what} {back} {at} {down_ms}")
            }
            Fault::Damage { replica, back, bit, down_ms } => {
                write!(f, "{at_us} damage {replica} {back} {bit} {down_ms}")
            }
            Fault::LoseDisk { replica, down_ms } => {
                write!(f, "{at_us} lose-disk {replica} {down_ms}")
            }
            Fault::Stall { replica, ms } => write!(f, "{at_us} stall {replica} {ms}"),
            Fault::Cut { replica, hears, ms } => {
                write!(f, "{at_us} cut {replica} {} {ms}", u8::from(*hears))
            }
            Fault::Away { client, ms } => write!(f, "{at_us} away {client} {ms}"),
            Fault::Mute { kind, ms } => write!(f, "{at_us} mute {kind} {ms}"),
            Fault::Join { replica } => write!(f, "{at_us} join {replica}"),
            Fault::Leave { replica } => write!(f, "{at_us} leave {replica}"),
        }
    }
}

impl Planned {
    /// Reads what was written with [`fmt::Display`].
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let at_us = words.next()?.parse().ok()?;
        let name = words.next()?;
        let numbers: Vec<i64> = words.map(|w| w.parse().ok()).collect::<Option<_>>()?;
        let n = |i: usize| numbers.get(i).and_then(|n| u64::try_from(*n).ok());
        let replica = || n(0).and_then(|n| u8::try_from(n).ok());
        let fault = match name {
            "crash" => Fault::Crash { replica: replica()?, after: n(1)?, down_ms: n(2)? },
            "crash-all" => Fault::CrashAll { down_ms: n(0)? },
            "partition" => Fault::Partition { side: u16::try_from(n(0)?).ok()?, ms: n(1)? },
            "one-way" => Fault::OneWay { replica: replica()?, hears: n(1)? == 1, ms: n(2)? },
            "pause" => Fault::Pause { replica: replica()?, ms: n(1)? },
            "slow-disk" => Fault::SlowDisk { replica: replica()?, ms: n(1)? },
            "clock" => Fault::Clock { replica: replica()?, by_us: *numbers.get(1)? },
            "disk-fails" => {
                let how = u8::try_from(n(2)?).ok()?;
                Fault::DiskFails { replica: replica()?, after: n(1)?, how, down_ms: n(3)? }
            }
            "damage" => {
                Fault::Damage { replica: replica()?, back: n(1)?, bit: n(2)?, down_ms: n(3)? }
            }
            "bad-start" => {
                let how = u8::try_from(n(2)?).ok()?;
                Fault::BadStart { replica: replica()?, after: n(1)?, how, down_ms: n(3)? }
            }
            "harm" => {
                let what = u8::try_from(n(1)?).ok()?;
                let (replica, back, at, down_ms) = (replica()?, n(2)?, n(3)?, n(4)?);
                Fault::Harm { replica, what, back, at, down_ms }
            }
            "lose-disk" => Fault::LoseDisk { replica: replica()?, down_ms: n(1)? },
            "stall" => Fault::Stall { replica: replica()?, ms: n(1)? },
            "cut" => Fault::Cut { replica: replica()?, hears: n(1)? == 1, ms: n(2)? },
            "away" => Fault::Away { client: replica()?, ms: n(1)? },
            "join" => Fault::Join { replica: replica()? },
            "leave" => Fault::Leave { replica: replica()? },
            "mute" => Fault::Mute { kind: replica()?, ms: n(1)? },
            _ => return None,
        };
        Some(Self { at_us, fault })
    }
}

macro_rules! config {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// What a run is made of, besides its schedule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Config {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl fmt::Display for Config {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let numbers = [$(format!(concat!(stringify!($name), "={}"), self.$name),)*];
                f.write_str(&numbers.join(" "))
            }
        }

        impl Config {
            /// Reads what was written with [`fmt::Display`].
            pub fn parse(text: &str) -> Option<Self> {
                let mut words = text.split(' ');
                let config = Self {
                    $($name: {
                        let (name, number) = words.next()?.split_once('=')?;
                        (name == stringify!($name)).then(|| number.parse().ok()).flatten()?
                    },)*
                };
                words.next().is_none().then_some(config)
            }
        }
    };
}

config! {
    /// From which all else is drawn.
    seed: u64,
    /// Replicas, with those that are no members.
    replicas: u8,
    /// The first so many are members of the cluster; the rest follow.
    members: u8,
    /// Clients.
    clients: u64,
    /// Commands that are answered before the run ends.
    commands: u64,
    /// Microseconds of the safety phase.
    safety_us: u64,
    /// Microseconds that a message takes at least.
    delay_us: u64,
    /// And at most, but for few.
    spread_us: u64,
    /// Messages lost, of a thousand.
    loss: u64,
    /// Messages that come twice.
    twice: u64,
    /// Messages that come much later again, also over restarts.
    replayed: u64,
    /// Messages whose bytes change on the way.
    corrupted: u64,
    /// Messages that come to another replica.
    misdirected: u64,
    /// Microseconds that a disk takes for one thing.
    disk_us: u64,
    /// Requests and replies lost.
    unheard: u64,
    /// Requests that come twice, the second time much later.
    asked_twice: u64,
    /// Microseconds of every three seconds in which clients ask nothing new.
    quiet_us: u64,
    /// The replica that lies; one that is not there where none does.
    liar: u8,
    /// What it lies about: a bit for each [`Lie`].
    lies: u64,
}

impl Config {
    /// Draws a configuration.
    pub fn draw(seed: u64) -> Self {
        let mut random = Prng::new(seed);
        let r = &mut random;
        // Often off: faults hide behind each other.
        let mut rate = |most: u64| if r.per_mille(500) { 0 } else { r.between(1, most) };
        let (loss, twice) = (rate(120), rate(150));
        let (replayed, corrupted, misdirected) = (rate(20), rate(20), rate(10));
        let members = [1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 6][random.below(12) as usize];
        let standbys = [0, 0, 0, 1, 1, 2, 2, 4][Prng::new(seed ^ 0x57a).below(8) as usize];
        let standbys = if members > 2 { standbys.min(2) } else { standbys };
        Self {
            seed,
            replicas: members + standbys,
            members,
            clients: random.between(8, 16),
            commands: 2000,
            safety_us: random.between(6_000_000, 12_000_000),
            delay_us: random.between(100, 2000),
            spread_us: random.between(200, 8000),
            loss,
            twice,
            replayed,
            corrupted,
            misdirected,
            disk_us: random.between(100, 3000),
            unheard: if random.per_mille(500) { 0 } else { random.between(1, 60) },
            asked_twice: if random.per_mille(500) { 0 } else { random.between(1, 100) },
            quiet_us: [0, 0, 1_500_000, 2_500_000][Prng::new(seed ^ 0x9e7).below(4) as usize],
            liar: u8::MAX,
            lies: 0,
        }
    }

    /// The same with a replica that lies, where the cluster is large enough to have an honest majority.
    #[must_use]
    pub fn with_liar(self) -> Self {
        let mut random = Prng::new(self.seed ^ 0x11a4_u64.rotate_left(32));
        let replicas = self.members.max(3);
        let liar = random.below(u64::from(replicas)) as u8;
        // In every other run, only what must not break agreement.
        let harmless = random.per_mille(500);
        let of = |lie: &&Lie| !harmless || !lie.breaks_agreement();
        let all: Vec<Lie> = Lie::ALL.iter().filter(of).copied().collect();
        let mut lies = all[random.below(all.len() as u64) as usize].bit();
        for lie in all {
            lies |= if random.per_mille(250) { lie.bit() } else { 0 };
        }
        Self { replicas, members: replicas, liar, lies, ..self }
    }

    /// One that models can follow, and its faults: few ops, no disk that loses what it was told to keep.
    pub fn traced(seed: u64) -> (Self, Vec<Planned>) {
        let drawn = Self::draw(seed);
        let config = Self {
            replicas: 3,
            members: 3,
            clients: 1,
            commands: 4,
            safety_us: 2_500_000,
            loss: 0,
            twice: 0,
            replayed: 0,
            corrupted: 0,
            misdirected: 0,
            unheard: 0,
            asked_twice: 0,
            quiet_us: 0,
            ..drawn
        };
        let mut schedule = config.schedule();
        let untold = |fault| {
            use Fault::{BadStart, Damage, Harm, Join, Leave, LoseDisk};
            matches!(fault, Damage { .. } | LoseDisk { .. } | Harm { .. } | BadStart { .. })
                || matches!(fault, Join { .. } | Leave { .. })
        };
        schedule.retain(|p| !untold(p.fault));
        schedule.truncate(3);
        (config, schedule)
    }

    /// What would be simpler, the simplest last. Replicas stay: faults name them.
    pub fn smaller(&self) -> Vec<Self> {
        let mut less = vec![
            Self { spread_us: self.spread_us / 2 + 1, ..*self },
            Self { safety_us: self.safety_us * 3 / 4, ..*self },
            Self { commands: self.commands / 2, ..*self },
            Self { clients: self.clients / 2, ..*self },
            Self { quiet_us: 0, ..*self },
            Self { asked_twice: 0, ..*self },
            Self { unheard: 0, ..*self },
            Self { misdirected: 0, ..*self },
            Self { corrupted: 0, ..*self },
            Self { replayed: 0, ..*self },
            Self { twice: 0, ..*self },
            Self { loss: 0, ..*self },
        ];
        less.extend(self.lies().map(|lie| Self { lies: self.lies & !lie.bit(), ..*self }));
        let enough = |c: &Self| c.clients > 0 && c.commands >= c.clients && c.safety_us > 1_000_000;
        less.retain(|c| c != self && enough(c) && c.spread_us > 1);
        less
    }

    /// The lies that are told.
    pub fn lies(&self) -> impl Iterator<Item = Lie> + use<> {
        let lies = self.lies;
        Lie::ALL.iter().copied().filter(move |lie| lies & lie.bit() != 0)
    }

    /// Whether a lie is told that a majority does not withstand: agreement is not claimed then.
    pub fn may_disagree(&self) -> bool {
        self.lies().any(Lie::breaks_agreement)
    }

    /// Draws the faults of a run: nine to twenty, of at least nine kinds, and what is rarer. Not each finds somebody to hit.
    pub fn schedule(&self) -> Vec<Planned> {
        let mut random = Prng::new(self.seed ^ 0xfau64.rotate_left(40));
        let mut kinds: Vec<u64> = (0..Fault::FAULTS).collect();
        if self.members < 3 {
            // There is no quorum of others.
            kinds.remove(9);
        }
        for _ in 0..random.below(5) {
            let at = random.below(kinds.len() as u64) as usize;
            kinds.remove(at);
        }
        // Some may never come: disks are damaged and lost only while others can make up for it.
        let count = random.between(9, 20);
        let mut planned = Vec::new();
        for i in 0..count {
            let kind = kinds[(i % kinds.len() as u64) as usize];
            let at_us = random.between(200_000, self.safety_us);
            planned.push(Planned { at_us, fault: self.fault(kind, &mut random) });
        }
        self.change_members(&mut planned);
        self.hurt_disks(&mut planned);
        self.hurt_more(&mut planned);
        self.hurt_one(&mut planned);
        planned.sort_by_key(|p| p.at_us);
        planned
    }

    /// Much of what goes wrong in a cluster happens between replicas: one alone has one more of each kind that it can feel.
    fn hurt_one(&self, planned: &mut Vec<Planned>) {
        let mut random = Prng::new(self.seed ^ 0x04e1);
        // Crash, pause, slow disk, clock, timers, the ways to and from clients, a client.
        for kind in [0, 4, 5, 6, 10, 11, 12].into_iter().filter(|_| self.replicas == 1) {
            let at_us = random.between(200_000, self.safety_us);
            planned.push(Planned { at_us, fault: self.fault(kind, &mut random) });
        }
    }

    /// Half of the clusters that have standbys grow by them, and some shrink again, or change one member for another.
    fn change_members(&self, planned: &mut Vec<Planned>) {
        let mut random = Prng::new(self.seed ^ 0x90f3);
        let standbys = self.members..self.replicas;
        if standbys.is_empty() || random.per_mille(500) {
            return;
        }
        let mut faults: Vec<Fault> = standbys.map(|replica| Fault::Join { replica }).collect();
        for _ in 0..random.below(u64::from(self.replicas) + 2) {
            let replica = random.below(u64::from(self.replicas)) as u8;
            let back = random.per_mille(300);
            faults.push(if back { Fault::Join { replica } } else { Fault::Leave { replica } });
        }
        let mut at_us = random.between(200_000, 1_000_000);
        for fault in faults {
            planned.push(Planned { at_us, fault });
            at_us += random.between(50_000, self.safety_us / 6);
        }
        planned.retain(|p| p.at_us < self.safety_us);
    }

    fn fault(&self, kind: u64, random: &mut Prng) -> Fault {
        let replica = random.below(u64::from(self.replicas)) as u8;
        let ms = random.between(50, 2500);
        match kind {
            0 => {
                let after = random.below(12);
                Fault::Crash { replica, after, down_ms: random.between(10, 1500) }
            }
            1 => Fault::CrashAll { down_ms: random.between(10, 500) },
            2 => {
                let sides = (1_u64 << self.replicas) - 1;
                Fault::Partition { side: random.between(1, sides) as u16, ms }
            }
            3 => Fault::OneWay { replica, hears: random.per_mille(500), ms },
            4 => Fault::Pause { replica, ms },
            5 => Fault::SlowDisk { replica, ms },
            6 => {
                let by_us = random.below(20_000_000).cast_signed() - 10_000_000;
                let replica = if random.per_mille(300) { u8::MAX } else { replica };
                Fault::Clock { replica, by_us }
            }
            8 => {
                let back = [0, random.below(12), random.below(400)][random.below(3) as usize];
                let bit = random.below(1 << 20);
                Fault::Damage { replica, back, bit, down_ms: random.between(10, 1500) }
            }
            9 => Fault::LoseDisk {
                replica: replica % self.members,
                down_ms: random.between(10, 1500),
            },
            13 => {
                let (after, how) = (random.between(1, 30), random.below(4) as u8);
                Fault::DiskFails { replica, after, how, down_ms: random.between(10, 1500) }
            }
            10 => Fault::Stall { replica, ms },
            11 => Fault::Cut { replica, hears: random.per_mille(500), ms },
            12 => Fault::Away { client: random.below(self.clients) as u8, ms },
            _ => Fault::Mute { kind: random.between(1, 13) as u8, ms: random.between(50, 800) },
        }
    }
}
