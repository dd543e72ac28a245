//! One replica: what it has prepared, written and committed.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::header::{Header, Identity, Op, View};

/// What happens to a replica.
#[derive(Debug)]
pub enum Input {
    /// Order a batch. `time_us` comes from [`Replica::stamp`], `sections` describe the body.
    Request {
        /// Microseconds since 1970-01-01 UTC.
        time_us: i64,
        /// The header's sections.
        sections: Bytes,
    },
    /// An op is durable here.
    Written {
        /// The op.
        op: Op,
        /// Its identity.
        identity: Identity,
    },
    /// Ops behind `after` are abandoned before they were committed, as a view change decides.
    Abandoned {
        /// The last op that stays; at or above the commit floor.
        after: Op,
    },
    /// Nothing has been written for a while, or the driver wants the superblock true now.
    Idle,
}

/// What a replica wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Write an op and make it durable; then say [`Input::Written`].
    Write {
        /// The op's header.
        header: Header,
        /// The header before it, to be repeated beside it.
        previous: Option<Header>,
    },
    /// All ops up to this one are committed: apply them in order.
    Commit {
        /// The last one.
        op: Op,
    },
    /// Make this superblock durable.
    WriteSuperblock(Superblock),
}

/// What [`Replica::step`] wants done, in order.
pub type Outbox = Vec<Output>;

/// What a replica must not forget, apart from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// Which replica of the cluster this is.
    pub replica: u32,
    /// Grows when a replica starts anew without its disk.
    pub incarnation: u64,
    /// The view.
    pub view: View,
    /// The last view in which the log was known to be right.
    pub log_view: View,
    /// Everything up to this op is committed and durable.
    pub commit: Op,
    /// Identity of that op.
    pub identity: Identity,
}

impl Superblock {
    /// Of a cluster of one that holds nothing yet.
    pub fn fresh(cluster: [u8; 16]) -> Self {
        Self {
            cluster,
            replica: 0,
            incarnation: 1,
            view: View(0),
            log_view: View(0),
            commit: Op(0),
            identity: Identity::root(cluster),
        }
    }
}

/// What recovery found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The superblock.
    pub superblock: Superblock,
    /// Header of the last durable op; `None` where there is none.
    pub tip: Option<Header>,
}

/// One replica of a cluster of one.
#[derive(Debug)]
pub struct Replica {
    superblock: Superblock,
    /// Header and identity of the last committed op.
    committed: Option<Header>,
    committed_identity: Identity,
    /// Prepared and not yet committed, in order, each with its identity and whether it is durable.
    in_flight: VecDeque<(Header, Identity, bool)>,
}

impl Replica {
    /// Goes on where a log ended. In a cluster of one, what is durable is committed.
    ///
    /// # Panics
    /// When the superblock's commit floor lies beyond the log: recovery reports that as damage.
    pub fn new(recovered: Recovered) -> Self {
        let Recovered { superblock, tip } = recovered;
        let identity =
            tip.as_ref().map_or_else(|| Identity::root(superblock.cluster), Header::identity);
        let op = tip.as_ref().map_or(Op(0), |h| h.op);
        assert!(superblock.commit <= op, "the log ends below its commit floor");
        Self {
            superblock,
            committed: tip,
            committed_identity: identity,
            in_flight: VecDeque::new(),
        }
    }

    /// The time that the next op may carry: `now`, or just behind the last op's.
    pub fn stamp(&self, now_us: i64) -> i64 {
        let last = self.in_flight.back().map(|(h, ..)| h.time_us);
        let last = last.or(self.committed.as_ref().map(|h| h.time_us));
        last.map_or(now_us, |last| now_us.max(last + 1))
    }

    /// The last committed op.
    pub fn commit(&self) -> Op {
        self.committed.as_ref().map_or(Op(0), |h| h.op)
    }

    /// Header of the last committed op; `None` before the first.
    pub fn tip(&self) -> Option<&Header> {
        self.committed.as_ref()
    }

    /// The last prepared op.
    pub fn op(&self) -> Op {
        self.in_flight.back().map_or(self.commit(), |(h, ..)| h.op)
    }

    /// Takes one input and pushes what follows from it.
    ///
    /// # Panics
    /// When the driver breaks the contract: times that do not rise, a write that was not asked for.
    pub fn step(&mut self, input: Input, out: &mut Outbox) {
        match input {
            Input::Request { time_us, sections } => self.prepare(time_us, sections, out),
            Input::Written { op, identity } => self.written(op, identity, out),
            Input::Abandoned { after } => self.abandon(after),
            Input::Idle => self.refresh(out),
        }
    }

    fn prepare(&mut self, time_us: i64, sections: Bytes, out: &mut Outbox) {
        assert!(time_us == self.stamp(time_us), "op times rise strictly");
        let (previous, parent) = match self.in_flight.back() {
            Some((header, identity, _)) => (Some(header.clone()), *identity),
            None => (self.committed.clone(), self.committed_identity),
        };
        let header = Header {
            cluster: self.superblock.cluster,
            op: self.op().next(),
            view: self.superblock.view,
            parent,
            time_us,
            sections,
        };
        self.in_flight.push_back((header.clone(), header.identity(), false));
        out.push(Output::Write { header, previous });
    }

    /// A write completed. Ops commit in order, whatever the order of the writes.
    fn written(&mut self, op: Op, identity: Identity, out: &mut Outbox) {
        // An op that was abandoned meanwhile has no entry, or one with another identity.
        let entry = self.in_flight.iter_mut().find(|(h, i, _)| h.op == op && *i == identity);
        let Some(entry) = entry else { return };
        entry.2 = true;
        let before = self.commit();
        while self.in_flight.front().is_some_and(|(.., durable)| *durable) {
            let (header, identity, _) = self.in_flight.pop_front().expect("seen just now");
            assert!(header.parent == self.committed_identity, "an op commits behind its parent");
            self.committed = Some(header);
            self.committed_identity = identity;
        }
        if self.commit() > before {
            out.push(Output::Commit { op: self.commit() });
        }
    }

    fn abandon(&mut self, after: Op) {
        assert!(after >= self.commit(), "committed ops stay");
        self.in_flight.retain(|(h, ..)| h.op <= after);
    }

    fn refresh(&mut self, out: &mut Outbox) {
        if self.superblock.commit < self.commit() {
            self.superblock.commit = self.commit();
            self.superblock.identity = self.committed_identity;
            out.push(Output::WriteSuperblock(self.superblock));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::SECTION_BYTES;

    fn replica() -> Replica {
        Replica::new(Recovered { superblock: Superblock::fresh([1; 16]), tip: None })
    }

    fn step(r: &mut Replica, input: Input) -> Outbox {
        let mut out = Outbox::new();
        r.step(input, &mut out);
        out
    }

    fn request(r: &mut Replica, now_us: i64) -> Header {
        let time_us = r.stamp(now_us);
        let sections = Bytes::from(vec![0; SECTION_BYTES]);
        let out = step(r, Input::Request { time_us, sections });
        let [Output::Write { header, .. }] = &out[..] else { panic!("{out:?}") };
        header.clone()
    }

    fn written(r: &mut Replica, h: &Header) -> Outbox {
        step(r, Input::Written { op: h.op, identity: h.identity() })
    }

    #[test]
    fn an_op_commits_when_it_is_written_and_not_before() {
        let mut r = replica();
        let h = request(&mut r, 10);
        assert_eq!((h.op, h.parent), (Op(1), Identity::root([1; 16])));
        assert_eq!(r.commit(), Op(0));
        assert_eq!(written(&mut r, &h), vec![Output::Commit { op: Op(1) }]);
    }

    #[test]
    fn times_rise_though_the_clock_stands_or_goes_back() {
        let mut r = replica();
        let times: Vec<i64> = [10, 10, 3, 50].map(|now| request(&mut r, now).time_us).to_vec();
        assert_eq!(times, [10, 11, 12, 50]);
    }

    #[test]
    fn ops_commit_in_order_whatever_the_order_of_the_writes() {
        let mut r = replica();
        let (a, b) = (request(&mut r, 1), request(&mut r, 2));
        assert_eq!(b.parent, a.identity());
        assert_eq!(written(&mut r, &b), vec![]);
        assert_eq!(written(&mut r, &a), vec![Output::Commit { op: Op(2) }]);
    }

    #[test]
    fn a_write_of_an_abandoned_op_commits_nothing() {
        let mut r = replica();
        let a = request(&mut r, 1);
        let b = request(&mut r, 2);
        step(&mut r, Input::Abandoned { after: a.op });
        let c = request(&mut r, 9);
        assert_eq!((c.op, c.parent), (b.op, a.identity()));
        written(&mut r, &a);
        assert_eq!(written(&mut r, &b), vec![], "the other op with this number");
        assert_eq!(written(&mut r, &c), vec![Output::Commit { op: c.op }]);
    }

    #[test]
    fn an_idle_replica_writes_its_superblock_once() {
        let mut r = replica();
        let h = request(&mut r, 1);
        assert_eq!(step(&mut r, Input::Idle), vec![], "nothing is committed yet");
        written(&mut r, &h);
        let out = step(&mut r, Input::Idle);
        let [Output::WriteSuperblock(s)] = &out[..] else { panic!("{out:?}") };
        assert_eq!((s.commit, s.identity), (h.op, h.identity()));
        assert_eq!(step(&mut r, Input::Idle), vec![]);
    }
}
