//! Getting back ops that lie inside a log and cannot be read, before their replica takes part again.
//!
//! Whoever has the op behind a gap knows the identity of the op before it, and so of each op of the gap, the last one
//! first. What is put back is what was there: nothing that was said of this log becomes untrue by it, and whether the op is
//! committed does not matter. Meanwhile the replica is as one that is down, except that it gives others what it has.
//!
//! Absent: a gap that nothing follows. Nobody knows what was there; [`crate::Superblock::uncertain`] is for that.

use crate::{
    header::{Header, Identity, Op},
    limits::RESEND_MS,
    message::{Entry, Envelope, Message, ReplicaId, Tail},
    step::{Form, Superblock},
    timer::Timer,
};

/// Ops of a log that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first one.
    pub first: Op,
    /// The last one.
    pub last: Op,
    /// Identity of the last one.
    pub identity: Identity,
}

/// What a message came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// Somebody wants an op: send it, if it can be read.
    Asked {
        /// To whom.
        to: ReplicaId,
        /// Which one.
        op: Op,
        /// As what.
        form: Form,
    },
    /// The op that is wanted next. Its body is to be checked; [`Mender::took`] once it is kept.
    Given(Entry),
    /// What is wanted was never committed and never will be: another op has its number, or the log of a view does not
    /// have it.
    NeverWas,
}

/// See the module.
#[derive(Debug)]
pub struct Mender {
    superblock: Superblock,
    me: ReplicaId,
    replicas: u8,
    first: Op,
    wanted: Op,
    identity: Identity,
    nonce: u64,
    source: u8,
    again: Timer,
    #[cfg(feature = "sim")]
    mutant: Option<crate::sim::Mutant>,
}

impl Mender {
    /// Closes a gap, from its end to its beginning. `nonce` tells this run's questions from others.
    ///
    /// # Panics
    /// When the gap is none, or nobody else is there to ask.
    pub fn new(now_ms: u64, superblock: Superblock, replicas: u8, gap: Gap, nonce: u64) -> Self {
        let Gap { first, last, identity } = gap;
        assert!(replicas > 1 && Op(0) < first && first <= last, "there is something to ask for");
        let me = ReplicaId(superblock.replica as u8);
        let again = Timer::after(now_ms, 0);
        let source = me.0;
        Self {
            superblock,
            me,
            replicas,
            first,
            wanted: last,
            identity,
            nonce,
            source,
            again,
            #[cfg(feature = "sim")]
            mutant: None,
        }
    }

    /// Plants a bug.
    #[cfg(feature = "sim")]
    pub fn plant(&mut self, mutant: Option<crate::sim::Mutant>) {
        self.mutant = mutant;
    }

    /// Whether an op is the one that is wanted.
    fn is_wanted(&self, header: &Header) -> bool {
        let same = header.identity() == self.identity;
        #[cfg(feature = "sim")]
        let same = same || self.mutant == Some(crate::sim::Mutant::RepairByNumber);
        header.op == self.wanted && same
    }

    /// Time went on: what to ask, and whom.
    pub fn tick(&mut self, now_ms: u64) -> Vec<(ReplicaId, Message)> {
        if !self.again.fires(now_ms, RESEND_MS) {
            return Vec::new();
        }
        #[cfg(feature = "sim")]
        if self.mutant == Some(crate::sim::Mutant::NeverMends) {
            return Vec::new();
        }
        self.source = (self.source + 1) % self.replicas;
        if self.source == self.me.0 {
            self.source = (self.source + 1) % self.replicas;
        }
        let mut asked = vec![self.fetch()];
        if self.wanted > self.superblock.commit {
            let view = self.superblock.view;
            let message = Message::RequestStartView { view, nonce: self.nonce };
            asked.push((ReplicaId(self.source), message));
        }
        asked
    }

    fn fetch(&self) -> (ReplicaId, Message) {
        let identity = Some(self.identity);
        (ReplicaId(self.source), Message::Fetch { op: self.wanted, identity })
    }

    /// A message came in.
    pub fn message(&self, envelope: Envelope) -> Told {
        let Envelope { cluster, from, to, message, .. } = envelope;
        let stranger = from.0 >= self.replicas || from == self.me || to != self.me;
        if stranger || cluster != self.superblock.cluster {
            return Told::Nothing;
        }
        match message {
            Message::Fetch { op, identity } => {
                let committed = op <= self.superblock.commit;
                let known = op > Op(0) && (committed || identity.is_some());
                let form = Form::Supply { committed };
                if known { Told::Asked { to: from, op, form } } else { Told::Nothing }
            }
            Message::Supply { committed, entry } => self.supplied(committed, entry),
            Message::StartView { view, nonce, tail } => {
                let new = view >= self.superblock.view && nonce == self.nonce;
                if new && self.is_missing(&tail) { Told::NeverWas } else { Told::Nothing }
            }
            Message::Prepare { .. }
            | Message::PrepareOk { .. }
            | Message::Commit { .. }
            | Message::Alive { .. }
            | Message::Follows { .. }
            | Message::Close { .. }
            | Message::Reading { .. }
            | Message::StartViewChange { .. }
            | Message::DoViewChange { .. }
            | Message::RequestStartView { .. } => Told::Nothing,
        }
    }

    fn supplied(&self, committed: bool, entry: Entry) -> Told {
        if entry.header.op != self.wanted {
            Told::Nothing
        } else if self.is_wanted(&entry.header) {
            Told::Given(entry)
        } else if committed && self.wanted > self.superblock.commit {
            Told::NeverWas
        } else {
            Told::Nothing
        }
    }

    /// Whether the log of a view, as its primary told of it since this run began, lacks what is wanted.
    fn is_missing(&self, tail: &Tail) -> bool {
        let same = |h: &Header| h.op == self.wanted && h.identity() == self.identity;
        self.wanted > self.superblock.commit.max(tail.commit) && !tail.headers.iter().any(same)
    }

    /// The op that was wanted is kept: what to ask for next; `None` where the gap is closed.
    pub fn took(&mut self, header: &Header) -> Option<(ReplicaId, Message)> {
        assert!(self.is_wanted(header), "it is what was wanted");
        if header.op == self.first {
            return None;
        }
        (self.wanted, self.identity) = (Op(self.wanted.0 - 1), header.parent);
        Some(self.fetch())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::header::{SECTION_BYTES, View};

    const CLUSTER: [u8; 16] = [3; 16];

    /// Three ops, the floor at the first.
    fn log() -> ([Header; 3], Superblock) {
        let sections = Bytes::from(vec![0; SECTION_BYTES]);
        let root = Identity::root(CLUSTER);
        let first = Header {
            cluster: CLUSTER,
            op: Op(1),
            view: View(0),
            parent: root,
            time_us: 1,
            members: None,
            sections,
        };
        let after = |h: &Header| Header {
            op: h.op.next(),
            parent: h.identity(),
            time_us: h.time_us + 1,
            ..h.clone()
        };
        let second = after(&first);
        let third = after(&second);
        let identity = first.identity();
        let superblock = Superblock { commit: Op(1), identity, ..Superblock::fresh(CLUSTER) };
        ([first, second, third], superblock)
    }

    fn mender(headers: &[Header], superblock: Superblock) -> Mender {
        let (first, last) = (&headers[0], &headers[headers.len() - 1]);
        let gap = Gap { first: first.op, last: last.op, identity: last.identity() };
        Mender::new(0, superblock, 3, gap, 7)
    }

    fn from_one(message: Message) -> Envelope {
        let (from, to) = (ReplicaId(1), ReplicaId(0));
        Envelope { cluster: CLUSTER, from, to, incarnation: 1, message }
    }

    fn supply(committed: bool, header: &Header) -> Envelope {
        let entry = Entry { header: header.clone(), body: Bytes::new() };
        from_one(Message::Supply { committed, entry })
    }

    /// Trap 32: each op is known before it is asked for, the last one first, though all between are damaged.
    #[test]
    fn a_gap_is_closed_from_its_end_by_identity() {
        let (log, superblock) = log();
        let mut mender = mender(&log, superblock);
        let mut asked = mender.tick(100).into_iter().map(|(_, m)| m).collect::<Vec<_>>();
        for header in log.iter().rev() {
            let identity = Some(header.identity());
            assert!(asked.contains(&Message::Fetch { op: header.op, identity }));
            let given = mender.message(supply(true, header));
            assert!(matches!(given, Told::Given(entry) if entry.header == *header));
            asked = mender.took(header).into_iter().map(|(_, m)| m).collect();
        }
        assert_eq!(asked, []);
    }

    /// Trap 32: another op of that number is not taken; a committed one shows that what was there never was.
    #[test]
    fn another_op_of_that_number_is_not_put_there() {
        let (log, superblock) = log();
        let other = Header { time_us: 99, ..log[2].clone() };
        let mender = mender(&log[1..], superblock);
        assert_eq!(mender.message(supply(false, &other)), Told::Nothing);
        assert_eq!(mender.message(supply(true, &other)), Told::NeverWas);
        assert_eq!(mender.message(supply(true, &log[1])), Told::Nothing, "not the one asked for");
    }

    /// At or below the floor an op was committed, whatever anybody says.
    #[test]
    fn what_was_committed_is_never_given_up() {
        let (log, superblock) = log();
        let mender = mender(&log[..1], superblock);
        let other = Header { time_us: 99, ..log[0].clone() };
        assert_eq!(mender.message(supply(true, &other)), Told::Nothing);
        let (commit, identity) = (Op(0), Identity::root(CLUSTER));
        let tail = Tail { commit, identity, members: None, headers: Vec::new() };
        let message = Message::StartView { view: View(9), nonce: 7, tail };
        assert_eq!(mender.message(from_one(message)), Told::Nothing);
    }

    /// Trap 12: what a primary said of its view before this run began shows nothing.
    #[test]
    fn only_an_answer_shows_that_an_op_never_was() {
        let (log, superblock) = log();
        let mender = mender(&log[1..], superblock);
        let tail = |headers: &[Header]| Tail {
            commit: Op(1),
            identity: log[0].identity(),
            members: None,
            headers: headers.to_vec(),
        };
        let told = |nonce, headers: &[Header]| {
            let tail = tail(headers);
            mender.message(from_one(Message::StartView { view: View(0), nonce, tail }))
        };
        assert_eq!(told(0, &[]), Told::Nothing);
        assert_eq!(told(7, &log[1..]), Told::Nothing, "the view's log has it");
        assert_eq!(told(7, &log[1..2]), Told::NeverWas);
    }
}
