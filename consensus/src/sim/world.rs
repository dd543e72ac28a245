//! The world: what happens when, and to whom.

mod clients;
mod clocks;
mod core;
mod damage;
mod disks;
mod events;
mod faults;
mod followers;
mod liveness;
mod members;
mod trace;
mod words;

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Write as _,
    panic::{self, AssertUnwindSafe},
};

use damage::Damage;
use disks::Wear;
use followers::Followers;

use super::{
    Config, Failure, Fault, Harm, Harmed, Host, Mutant, Planned, Reply, Stopped, Violation, Work,
    Workload,
    checker::{Checked, Checker},
    coverage,
    liar::Liar,
    network::{self, Arrival, Network},
};
use crate::{
    Change, FIRST_INCARNATION, Input, Message, Op, ReplicaId, Status, View, decode, prng::Prng,
};
use trace::Trace;

/// Microseconds between two ticks of a replica.
const TICK_US: u64 = 10_000;
/// Microseconds after which a client asks again.
const PATIENCE_US: u64 = 400_000;
/// Microseconds within which a healed core must have answered everything.
const LIVENESS_US: u64 = 60_000_000;
/// The time at which a world begins: microseconds since 1970-01-01 UTC.
const EPOCH_US: i64 = 1_700_000_000_000_000;

/// How often what was seen.
pub type Coverage = BTreeMap<&'static str, u64>;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// A hash of everything that happened.
    pub trace: [u8; 32],
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    /// What was seen.
    pub coverage: Coverage,
    /// What happened, in words.
    pub timeline: Vec<String>,
    /// What happened, for the models; empty where that was not asked for.
    pub steps: Vec<String>,
}

enum Event {
    Tick { replica: u8, run: u64 },
    Scrub { replica: u8, run: u64 },
    Follow { follower: u8 },
    Arrive(Arrival),
    Work { replica: u8, run: u64 },
    Seal { replica: u8, run: u64 },
    Fault(Fault),
    Operate(Change),
    PowerOff { replica: u8, run: u64, down_ms: u64 },
    PowerOn { replica: u8 },
    Replace { replica: u8 },
    Ask { client: usize, number: u64 },
    Asked { replica: u8, client: usize, number: u64 },
    Answered { client: usize, number: u64, token: u64 },
    Refused { client: usize, number: u64 },
    Impatient { client: usize, number: u64, attempt: u64 },
    Heal,
}

struct Node<H: Host> {
    disk: H::Disk,
    host: Option<H>,
    /// Grows with each start, so that what was meant for an earlier one is not done.
    run: u64,
    works: bool,
    seals: bool,
    paused_until: u64,
    slow_until: u64,
    stalled_until: u64,
    /// Until when nothing comes from clients, and nothing gets to them.
    deaf_until: u64,
    mute_until: u64,
    /// The power goes as soon as the disk has done what it was promised, and for how long.
    doomed: Option<u64>,
    /// At which change or read its next start fails, how, and how long it is down then.
    starts_badly: Option<(u64, Failure, u64)>,
    wall: clocks::Wall,
    damage: Damage,
    wear: Wear,
    /// It stays down.
    lost: bool,
    incarnation: u64,
    /// The last one that the others let in.
    let_in: u64,
    last: (Status, View),
    /// What it was when that was counted last.
    state: &'static str,
}

impl<H: Host> Node<H> {
    /// Its disk is new, and the others have not let it in yet.
    const fn is_fresh(&self) -> bool {
        self.let_in < self.incarnation
    }
}

struct Client {
    /// Of the command that it waits for.
    number: u64,
    attempt: u64,
    target: u8,
    away_until: u64,
}

/// See the module.
pub struct World<H: Host> {
    config: Config,
    mutant: Option<Mutant>,
    now_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    nodes: Vec<Node<H>>,
    clients: Vec<Client>,
    /// Every command, and when it was asked first.
    commands: Vec<(<H::Load as Workload>::Command, u64)>,
    replies: BTreeMap<u64, Reply<<H::Load as Workload>::Answer>>,
    load: H::Load,
    network: Network,
    liar: Option<Liar>,
    checker: Checker,
    followers: Followers<H::Cursor>,
    random: Prng,
    answered: u64,
    core: u16,
    healed_us: Option<u64>,
    /// The view in which the core converged, and since when it has been so.
    settled: Option<(View, u64)>,
    /// How often views changed in the core since it was healed.
    unrest: u64,
    /// Who has which ops damaged: a bit for each replica.
    atlas: BTreeMap<Op, u16>,
    /// What an operator wants done to the members, and has not seen done.
    change: Option<Change>,
    trace: blake3::Hasher,
    coverage: Coverage,
    timeline: Vec<String>,
    told: Option<Trace>,
}

/// A panic is a bug, whoever's: of a replica, of its host, or of the world itself.
fn panicked(why: &(dyn Any + Send)) -> Violation {
    let what = why.downcast_ref::<String>().map(String::as_str);
    let what = what.or_else(|| why.downcast_ref::<&str>().copied()).unwrap_or("no words");
    Violation::new("PANIC", what.to_owned())
}

impl<H: Host> World<H> {
    /// Runs a configuration with these faults.
    pub fn run(
        config: Config,
        schedule: &[Planned],
        mutant: Option<Mutant>,
        traced: bool,
    ) -> Outcome {
        let mut random = Prng::new(config.seed ^ 0x77);
        let (network, load) = (Network::new(config, random.fork()), H::Load::new(random.fork()));
        let mut world = Self {
            config,
            mutant,
            now_us: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes: Vec::new(),
            clients: Vec::new(),
            commands: Vec::new(),
            replies: BTreeMap::new(),
            load,
            network,
            liar: Liar::new(&config, Prng::new(config.seed ^ 0x11a5)),
            checker: Checker::new(config.members, config.replicas, config.may_disagree()),
            followers: Followers::new(config.seed, config.replicas),
            random,
            answered: 0,
            core: 0,
            healed_us: None,
            settled: None,
            unrest: 0,
            atlas: BTreeMap::new(),
            change: None,
            trace: blake3::Hasher::new(),
            coverage: Coverage::new(),
            timeline: Vec::new(),
            told: traced.then(|| Trace::new(config.replicas)),
        };
        // Whoever panics leaves what led there: no part of the world is used any more than to be told of.
        let lived = panic::catch_unwind(AssertUnwindSafe(|| world.live(schedule)));
        let violation = lived.unwrap_or_else(|why| Err(panicked(why.as_ref()))).err();
        let violation = violation.filter(|v| world.claims(v));
        if let Some(Violation { invariant, what }) = &violation {
            world.tell(&format!("VIOLATION {invariant}: {what}"));
        }
        world.coverage.insert("messages lost", world.network.lost);
        world.coverage.insert("messages repeated", world.network.repeated);
        world.coverage.insert("messages garbled", world.network.garbled);
        world.coverage.insert("bodies changed under their checksum", world.network.lies);
        world.count_lies();
        let trace = *world.trace.finalize().as_bytes();
        let Self { coverage, timeline, told, .. } = world;
        let steps = told.map(|told| told.lines).unwrap_or_default();
        Outcome { trace, violation, coverage, timeline, steps }
    }

    fn live(&mut self, schedule: &[Planned]) -> Checked {
        for replica in 0..self.config.replicas {
            self.nodes.push(Node {
                disk: H::format(replica, FIRST_INCARNATION, self.mutant),
                host: None,
                run: 0,
                works: false,
                seals: false,
                paused_until: 0,
                slow_until: 0,
                stalled_until: 0,
                deaf_until: 0,
                mute_until: 0,
                doomed: None,
                starts_badly: None,
                wall: clocks::Wall::draw(self.config.seed, replica),
                damage: Damage::None,
                wear: Wear::Sound,
                lost: false,
                incarnation: FIRST_INCARNATION,
                let_in: FIRST_INCARNATION,
                last: (Status::ViewChange, View(0)),
                state: "",
            });
            self.power_on(replica)?;
        }
        for client in 0..self.config.clients as usize {
            let number = self.command();
            self.clients.push(Client { number, attempt: 0, target: 0, away_until: 0 });
            self.at(client as u64 * 100, Event::Ask { client, number });
        }
        for Planned { at_us, fault } in schedule {
            self.at(*at_us, Event::Fault(*fault));
        }
        self.begin_to_follow();
        self.at(self.config.safety_us, Event::Heal);
        loop {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return Err(Violation::new("L2", "nothing happens any more".into()));
            };
            self.now_us = at;
            self.happen(event)?;
            if let Some(healed) = self.healed_us {
                if self.config.may_disagree() {
                    return self.whole();
                }
                if self.answered >= self.config.commands && self.stays() {
                    self.made_anew()?;
                    if self.converged() && self.all_followed()? {
                        return self.finish();
                    }
                }
                if self.now_us > healed + LIVENESS_US {
                    return Err(self.stuck());
                }
            }
        }
    }

    /// `after` microseconds from now.
    fn at(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now_us + after, self.sequence), event);
    }

    fn count(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    fn tell(&mut self, what: &str) {
        let mut line = String::new();
        let (s, us) = (self.now_us / 1_000_000, self.now_us % 1_000_000);
        if write!(line, "{s:3}.{us:06}  {what}").is_ok() {
            self.timeline.push(line);
        }
    }

    fn note(&mut self, tag: u8, numbers: &[u64]) {
        self.trace.update(&[tag]);
        self.trace.update(&self.now_us.to_le_bytes());
        for n in numbers {
            self.trace.update(&n.to_le_bytes());
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    fn tick(&mut self, replica: u8, run: u64) -> Checked {
        if self.nodes[usize::from(replica)].run == run {
            self.at(TICK_US, Event::Tick { replica, run });
            if self.nodes[usize::from(replica)].stalled_until <= self.now_us {
                self.look_at_clock(replica)?;
                self.step(replica, Input::Tick)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, replica: u8, input: Input) -> Checked {
        let now_ms = self.now_ms();
        let Some(host) = &mut self.nodes[usize::from(replica)].host else { return Ok(()) };
        let done = host.step(now_ms, input);
        self.after(replica, done)
    }

    fn arrive(&mut self, arrival: &Arrival) -> Checked {
        let Arrival { to, bytes, garbled, .. } = arrival;
        // With this bug planted, as if the checksum were not looked at.
        let unchecked = self.mutant == Some(Mutant::AnyMessage);
        let decoded = if unchecked { decode(&network::sealed_again(bytes)) } else { decode(bytes) };
        let Ok(envelope) = decoded else {
            self.count(if *garbled {
                "garbled messages refused"
            } else {
                "messages that cannot be"
            });
            return Ok(());
        };
        if *garbled {
            return Err(Violation::new("S17", format!("r{to} takes {envelope:?}")));
        }
        self.note(1, &[u64::from(*to), u64::from(envelope.from.0), bytes.len() as u64]);
        self.trace.update(&bytes[..8]);
        if matches!(envelope.message, Message::Supply { .. }) {
            self.count("ops supplied");
        }
        self.step(*to, Input::Message(envelope))
    }

    fn work(&mut self, replica: u8, run: u64) -> Checked {
        let now_ms = self.now_ms();
        let node = &mut self.nodes[usize::from(replica)];
        if node.run != run {
            return Ok(());
        }
        node.works = false;
        let Some(host) = &mut node.host else { return Ok(()) };
        let done = host.work(now_ms);
        if let Ok(work) = &done {
            self.trace_work(replica, work);
        }
        let r = usize::from(replica);
        let result = match done {
            Ok(Work::Nothing) => Ok(()),
            Ok(Work::Written(op, identity)) => {
                self.note(2, &[u64::from(replica), op.0]);
                self.count("ops written");
                self.checker.written(r, op, identity)?;
                Ok(())
            }
            Ok(Work::Superblock(superblock)) => {
                self.note(3, &[u64::from(replica), superblock.view.0, superblock.log_view.0]);
                self.count("superblocks written");
                self.checker.superblock(r, superblock)?;
                Ok(())
            }
            Ok(Work::Truncated(after)) => {
                self.tell(&format!("r{replica} cuts its log behind op {after}"));
                self.count("truncations");
                self.checker.truncated(r, after)?;
                Ok(())
            }
            Ok(Work::Refused) => {
                self.count("ops refused");
                Ok(())
            }
            Err(stopped) => Err(stopped),
        };
        self.after(replica, result)
    }

    fn seal(&mut self, replica: u8, run: u64) -> Checked {
        let now_ms = self.now_ms();
        let node = &mut self.nodes[usize::from(replica)];
        if node.run != run {
            return Ok(());
        }
        node.seals = false;
        let Some(host) = &mut node.host else { return Ok(()) };
        let done = host.seal(now_ms);
        self.after(replica, done)
    }

    /// Looks at a replica after something happened to it, and takes on what it wants.
    fn after(&mut self, replica: u8, done: Result<(), Stopped>) -> Checked {
        let r = usize::from(replica);
        self.look_at_repaired(replica)?;
        if let Err(Stopped(why)) = done {
            return self.stops(replica, &why);
        }
        self.look_for_repair(replica)?;
        self.look_at_limits(replica)?;
        let Some(host) = &mut self.nodes[r].host else { return Ok(()) };
        let (sent, replies, notices) = (host.sent(), host.replies(), host.notices());
        let committed = host.committed();
        let host = self.nodes[r].host.as_ref().expect("it did not stop");
        let mut changed = Vec::new();
        if let Some(replica) = host.replica() {
            for header in &committed {
                let before = self.checker.members().voters().count();
                self.checker.commit(r, replica.view(), header)?;
                changed.push((before, self.checker.members().voters().count()));
            }
            self.checker.look(replica)?;
            Checker::leads_in_turn(replica, self.config.replicas)?;
        }
        if let Some(last) = committed.last() {
            self.checker.state(r, last.op, host.state())?;
            let op = last.op;
            self.note(4, &[u64::from(replica), op.0]);
            *self.coverage.entry("commits").or_default() += committed.len() as u64;
        }
        for (before, after) in changed {
            self.look_for_members(before, after);
        }
        for notice in notices {
            self.note(5, &[u64::from(replica), notice as u64]);
            self.count(coverage::notice(notice));
            if self.liar.is_none() && coverage::accuses(notice) {
                return Err(Violation::new("NOTICE", format!("r{replica}: {notice:?}")));
            }
        }
        let host = self.nodes[r].host.as_ref().expect("it did not stop");
        if let (Some(told), Some(it)) = (&mut self.told, host.replica()) {
            told.look(it);
        }
        for envelope in sent {
            self.send(envelope)?;
        }
        for (id, reply) in replies {
            self.reply(replica, id, reply);
        }
        self.look_for_entry(replica);
        self.watch(replica);
        self.keep_going(replica);
        Ok(())
    }

    fn power_off(&mut self, replica: u8, down_ms: u64) {
        let node = &mut self.nodes[usize::from(replica)];
        let Some(host) = node.host.take() else { return };
        host.replica().into_iter().for_each(|r| self.checker.stopped(r));
        drop(host);
        self.is_off(replica, down_ms);
    }

    fn power_on(&mut self, replica: u8) -> Checked {
        let (now_ms, mutant) = (self.now_ms(), self.mutant);
        let Config { members, replicas, .. } = self.config;
        let node = &mut self.nodes[usize::from(replica)];
        if node.host.is_some() || node.lost || node.wear == Wear::Replaced {
            return Ok(());
        }
        let bad = node.starts_badly.take().filter(|_| self.healed_us.is_none());
        if let Some((after, how, _)) = bad {
            H::fail(&node.disk, after, how);
        }
        let host = match H::open(&node.disk, now_ms, members, replicas, mutant) {
            Ok(host) => host,
            Err(Stopped(why)) => return self.no_start(replica, &why, bad.map(|(.., down)| down)),
        };
        (node.works, node.seals) = (false, false);
        node.run += 1;
        let run = node.run;
        node.host = Some(host);
        if let Some((.., down_ms)) = bad {
            node.doomed = Some(down_ms);
            self.at(300_000, Event::PowerOff { replica, run, down_ms });
        }
        let node = &mut self.nodes[usize::from(replica)];
        if node.damage == Damage::Mends {
            node.damage = Damage::Suspected;
        }
        self.starts(replica)?;
        self.at(TICK_US, Event::Tick { replica, run });
        self.after(replica, Ok(()))
    }
}
