//! What replicas did, as the models have it: one step of one replica a line, with what it is behind it.
//! `specs/README.md` has the format. Lost disks and damage are not told of.

use super::{Host, World};
use crate::{Header, Identity, Op, Replica, Superblock, View, sim::Work};

/// What was told of a replica last.
#[derive(Clone, Debug, Default)]
struct Shown {
    view: View,
    log_view: View,
    /// Its log: what its disk has, and as primary also what it ordered.
    log: Vec<Identity>,
    /// How much of it is durable.
    synced: usize,
    commit: Op,
    /// A step towards the log of its view, told once another follows: the last one is the taking of the log itself.
    held: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trace {
    shown: Vec<Shown>,
    /// The view that each op was prepared in.
    ops: Vec<(Identity, View)>,
    pub(super) lines: Vec<String>,
}

impl Trace {
    pub(super) fn new(replicas: u8) -> Self {
        let shown = vec![Shown::default(); usize::from(replicas)];
        Self { shown, ops: Vec::new(), lines: Vec::new() }
    }

    fn learn(&mut self, replica: &Replica) {
        for header in replica.suffix().chain(replica.tip()) {
            let identity = header.identity();
            if !self.ops.iter().any(|(known, _)| *known == identity) {
                self.ops.push((identity, header.view));
            }
        }
    }

    fn line(&self, r: usize, event: &str) -> String {
        let Shown { view, log_view, log, commit, .. } = &self.shown[r];
        let (op, view, log_view) = (log.len(), view.0, log_view.0);
        let last = log.last().and_then(|id| self.ops.iter().find(|(known, _)| known == id));
        let last = last.map_or_else(String::new, |(Identity(id), prepared)| {
            let [a, b, c, ..] = id;
            format!(",\"prepared\":{},\"value\":\"{a:02x}{b:02x}{c:02x}\"", prepared.0)
        });
        format!(
            "\"replica\":{r},\"event\":\"{event}\",\"view\":{view},\"log_view\":{log_view},\"op\":{op},\"commit\":{commit}{last}}}"
        )
    }

    fn tell(&mut self, r: usize, event: &str) {
        if let Some(held) = self.shown[r].held.take() {
            self.push(&held);
        }
        let line = self.line(r, event);
        self.push(&line);
    }

    fn push(&mut self, line: &str) {
        let first = self.lines.is_empty();
        let count = self.shown.len();
        let head = if first { format!("\"replicas\":{count},") } else { String::new() };
        self.lines.push(format!("{{{head}{line}"));
    }

    /// It is not on the way to the log of a later view, as far as its disk knows.
    fn is_normal(&self, r: usize) -> bool {
        self.shown[r].view == self.shown[r].log_view
    }

    /// What a replica ordered, and what is committed now.
    pub(super) fn look(&mut self, replica: &Replica) {
        let r = usize::from(replica.id().0);
        self.learn(replica);
        if replica.is_primary() && self.is_normal(r) {
            let behind = self.shown[r].log.len() as u64;
            let new: Vec<Identity> =
                replica.suffix().filter(|h| h.op.0 > behind).map(Header::identity).collect();
            for identity in new {
                self.shown[r].log.push(identity);
                self.tell(r, "request");
            }
        }
        if self.is_normal(r) && replica.commit() > self.shown[r].commit {
            self.shown[r].commit = replica.commit();
            self.tell(r, "commit");
        }
    }

    /// What its disk did.
    pub(super) fn worked(&mut self, replica: &Replica, work: &Work) {
        let r = usize::from(replica.id().0);
        self.learn(replica);
        match work {
            Work::Written(op, identity) => self.written(r, replica, *op, *identity),
            Work::Superblock(superblock) => self.superblock(r, replica, superblock),
            Work::Truncated(after) => {
                if (after.0 as usize) < self.shown[r].log.len() {
                    self.shown[r].log.truncate(after.0 as usize);
                    self.shown[r].synced = self.shown[r].synced.min(after.0 as usize);
                    self.hold(r);
                }
            }
            Work::Nothing | Work::Refused => {}
        }
    }

    fn hold(&mut self, r: usize) {
        let line = self.line(r, "take");
        if let Some(before) = self.shown[r].held.replace(line) {
            self.push(&before);
        }
    }

    fn written(&mut self, r: usize, replica: &Replica, op: Op, identity: Identity) {
        let own = op.0 as usize <= self.shown[r].log.len();
        self.shown[r].synced = op.0 as usize;
        if !own {
            self.shown[r].log.push(identity);
        }
        if !own && !self.is_normal(r) {
            return self.hold(r);
        }
        // A primary commits in a step of its own.
        if !own {
            self.shown[r].commit = replica.commit();
        }
        self.tell(r, "written");
    }

    fn superblock(&mut self, r: usize, replica: &Replica, now: &Superblock) {
        let shown = &mut self.shown[r];
        if now.log_view > shown.log_view {
            shown.held = None;
            (shown.view, shown.log_view) = (now.view, now.log_view);
            shown.commit = replica.commit();
            let leads = replica.primary() == replica.id();
            self.tell(r, if leads { "start" } else { "install" });
        } else if now.view > shown.view {
            shown.view = now.view;
            self.tell(r, "join");
        }
    }

    /// It came back from its disk, which may have done more than it got to say.
    pub(super) fn started(&mut self, replica: &Replica, durable: &[Identity]) {
        let r = usize::from(replica.id().0);
        self.learn(replica);
        if self.lines.is_empty() && durable.is_empty() {
            return;
        }
        let superblock = replica.durable();
        for (at, identity) in durable.iter().enumerate().skip(self.shown[r].synced) {
            if at >= self.shown[r].log.len() {
                self.shown[r].log.push(*identity);
            }
            self.tell(r, "written");
        }
        self.superblock(r, replica, &superblock);
        self.shown[r].log = durable.to_vec();
        self.shown[r].synced = durable.len();
        self.shown[r].commit = replica.commit();
        self.tell(r, "crash");
    }
}

impl<H: Host> World<H> {
    pub(super) fn trace_work(&mut self, replica: u8, work: &Work) {
        let host = self.nodes[usize::from(replica)].host.as_ref();
        if let (Some(told), Some(it)) = (&mut self.told, host.and_then(Host::replica)) {
            told.worked(it, work);
        }
    }
}
