//! The stage: replicas with disks that hold headers, and messages that wait to be delivered.

use bytes::Bytes;
use kimberlite_consensus::{
    Entry, Envelope, Form, Header, Input, Message, Notice, Op, Outbox, Output, Recovered, Replica,
    ReplicaId, SECTION_BYTES, Superblock, View,
};

pub(crate) const CLUSTER: [u8; 16] = [6; 16];

/// What a disk is to do.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    Write(Header),
    Superblock(Superblock),
    Truncate(Op),
}

pub(crate) struct Actor {
    pub(crate) replica: Replica,
    /// Asked for and not done.
    pub(crate) jobs: Vec<Job>,
    pub(crate) log: Vec<Header>,
    pub(crate) superblock: Superblock,
    pub(crate) committed: Op,
    pub(crate) notices: Vec<Notice>,
    /// By how much its clock is wrong.
    pub(crate) clock_us: i64,
}

pub(crate) struct Scene {
    pub(crate) now: u64,
    pub(crate) actors: Vec<Actor>,
    pub(crate) wire: Vec<Envelope>,
    replicas: u8,
}

impl Scene {
    pub(crate) fn new(replicas: u8) -> Self {
        Self::with_standbys(replicas, replicas)
    }

    /// So many members, and others that follow.
    pub(crate) fn with_standbys(replicas: u8, slots: u8) -> Self {
        let actor = |r: u8| {
            let superblock = Superblock { replica: u32::from(r), ..Superblock::fresh(CLUSTER) };
            let recovered =
                Recovered { superblock, replicas, slots, tip: None, suffix: Vec::new(), nonce: 1 };
            Actor {
                replica: Replica::new(0, recovered),
                jobs: Vec::new(),
                log: Vec::new(),
                superblock,
                committed: Op(0),
                notices: Vec::new(),
                clock_us: 0,
            }
        };
        let actors = (0..slots).map(actor).collect();
        Self { now: 0, actors, wire: Vec::new(), replicas }
    }

    /// A cluster whose first elected primary leads: returns it.
    pub(crate) fn started(replicas: u8) -> (Self, usize) {
        let mut scene = Self::new(replicas);
        scene.pass(2_000);
        let leader = scene.leader().unwrap();
        (scene, leader)
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        self.actors.iter().rposition(|a| a.replica.leads())
    }

    pub(crate) fn step(&mut self, r: usize, input: Input) {
        let mut out = Outbox::new();
        self.actors[r].replica.step(self.now, input, &mut out);
        for output in out {
            self.take(r, output);
        }
    }

    fn take(&mut self, r: usize, output: Output) {
        let from = ReplicaId(r as u8);
        let actor = &mut self.actors[r];
        match output {
            Output::Write { header, .. } => actor.jobs.push(Job::Write(header)),
            Output::WriteSuperblock(s) => actor.jobs.push(Job::Superblock(s)),
            Output::Truncate { after } => actor.jobs.push(Job::Truncate(after)),
            Output::Commit { op } => actor.committed = op,
            Output::Send { to, message } => self.send(from, to, message),
            Output::SendOp { to, op, form } => {
                let queued = actor.jobs.iter().filter_map(|j| match j {
                    Job::Write(header) => Some(header),
                    Job::Superblock(_) | Job::Truncate(_) => None,
                });
                let header = actor.log.iter().chain(queued).rfind(|h| h.op == op).unwrap().clone();
                let entry = Entry { header, body: Bytes::new() };
                let message = match form {
                    Form::Prepare { view, commit } => Message::Prepare { view, commit, entry },
                    Form::Supply { committed } => Message::Supply { committed, entry },
                };
                self.send(from, to, message);
            }
            Output::Deposed => {}
            Output::Notice(notice) => actor.notices.push(notice),
        }
    }

    pub(crate) fn send(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        let actor = self.actors.get(usize::from(from.0));
        let incarnation = actor.map_or(1, |a| a.superblock.incarnation);
        self.wire.push(Envelope { cluster: CLUSTER, from, to, incarnation, message });
    }

    /// A disk does all that it was told to.
    pub(crate) fn disk(&mut self, r: usize) {
        while !self.actors[r].jobs.is_empty() {
            let actor = &mut self.actors[r];
            let input = match actor.jobs.remove(0) {
                Job::Write(header) => {
                    assert_eq!(actor.log.len() as u64 + 1, header.op.0, "what lies there was cut");
                    actor.log.push(header.clone());
                    Input::Written { op: header.op, identity: header.identity() }
                }
                Job::Superblock(superblock) => {
                    actor.superblock = superblock;
                    Input::SuperblockWritten(superblock)
                }
                Job::Truncate(after) => {
                    actor.log.truncate(after.0 as usize);
                    continue;
                }
            };
            self.step(r, input);
        }
    }

    /// Delivers what is on the wire to those of whom `hears` says so; the rest is lost.
    pub(crate) fn deliver(&mut self, hears: impl Fn(&Envelope) -> bool) {
        for envelope in std::mem::take(&mut self.wire) {
            if hears(&envelope) {
                self.step(usize::from(envelope.to.0), Input::Message(envelope));
            }
        }
    }

    /// Time passes, with working disks and this network.
    pub(crate) fn pass_with(&mut self, ms: u64, hears: impl Fn(&Envelope) -> bool) {
        let until = self.now + ms;
        while self.now < until {
            self.now += 10;
            for r in 0..self.actors.len() {
                self.look(r);
                self.step(r, Input::Tick);
                if self.actors[r].replica.wants_order() {
                    self.step(r, Input::Order);
                }
                self.disk(r);
            }
            self.deliver(&hears);
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.pass_with(ms, |_| true);
    }

    /// A replica looks at its clock.
    pub(crate) fn look(&mut self, r: usize) {
        let wall_us = self.wall_us(r);
        self.step(r, Input::Clock { wall_us, building_us: None });
    }

    /// What a replica's clock shows.
    pub(crate) fn wall_us(&self, r: usize) -> i64 {
        self.now.cast_signed() * 1000 + self.actors[r].clock_us
    }

    /// The leader orders something; returns its header.
    pub(crate) fn request(&mut self, r: usize) -> Header {
        let time_us = self.actors[r].replica.stamp(self.wall_us(r));
        let sections = Bytes::from(vec![r as u8; SECTION_BYTES]);
        self.step(r, Input::Request { time_us, sections });
        let jobs = &self.actors[r].jobs;
        let Some(Job::Write(header)) = jobs.last() else { panic!("{jobs:?}") };
        header.clone()
    }

    /// A replica stops at once, and starts again from what its disk holds.
    pub(crate) fn restart(&mut self, r: usize) {
        let (replicas, slots) = (self.replicas, self.actors.len() as u8);
        let now = self.now;
        let actor = &mut self.actors[r];
        actor.jobs.clear();
        // Recovery ends a cut that a crash interrupted.
        if let Some(Op(cut)) = actor.superblock.cut.take() {
            actor.log.truncate(cut as usize);
        }
        let floor = actor.log.len().min(actor.superblock.commit.0 as usize);
        let (committed, suffix) = actor.log.split_at(floor);
        let recovered = Recovered {
            superblock: actor.superblock,
            replicas,
            slots,
            tip: committed.last().cloned(),
            suffix: suffix.to_vec(),
            nonce: now + 2,
        };
        actor.replica = Replica::new(now, recovered);
    }

    /// The same, and the last op that its disk had is damaged.
    pub(crate) fn restart_damaged(&mut self, r: usize) {
        let actor = &mut self.actors[r];
        actor.log.pop().unwrap();
        actor.superblock.uncertain = true;
        self.restart(r);
    }

    /// A replica's disk is lost with all that it knew, and another one takes its place.
    pub(crate) fn replace_disk(&mut self, r: usize) {
        let before = self.actors[r].superblock;
        let fresh = Superblock::fresh(CLUSTER);
        self.actors[r].log.clear();
        self.actors[r].committed = Op(0);
        self.actors[r].superblock =
            Superblock { replica: before.replica, incarnation: before.incarnation + 1, ..fresh };
        self.restart(r);
    }

    pub(crate) fn view(&self, r: usize) -> View {
        self.actors[r].replica.view()
    }

    /// What a replica has said since the wire was looked at last.
    pub(crate) fn said(&self, r: usize, is: impl Fn(&Message) -> bool) -> bool {
        self.wire.iter().any(|e| usize::from(e.from.0) == r && is(&e.message))
    }
}
