//! What goes into a replica's step and what comes out of it.

use bytes::Bytes;

use crate::{
    header::{Header, Identity, Op, View},
    message::{Envelope, Message, ReplicaId},
};

/// What happens to a replica.
#[derive(Debug)]
pub enum Input {
    /// Order a batch. `time_us` comes from [`Replica::stamp`], `sections` describe the body. Only while
    /// [`Replica::takes_requests`].
    Request {
        /// Microseconds since 1970-01-01 UTC.
        time_us: i64,
        /// The header's sections.
        sections: Bytes,
    },
    /// Order an op of the replica's own, for which [`Replica::wants_order`] asks. Not while the driver builds one, but for
    /// a change of the members: nothing is taken in before that one is ordered.
    Order,
    /// Change the members. Only while [`Replica::may_change`], and not while the driver builds an op. It is ordered once
    /// nothing is in flight; until then no request is taken.
    Change(Change),
    /// As primary: let somebody else lead.
    Resign,
    /// A message came in.
    Message(Envelope),
    /// An op is durable here.
    Written {
        /// The op.
        op: Op,
        /// Its identity.
        identity: Identity,
    },
    /// An op was not written: its body is not what its header says.
    Refused {
        /// The op.
        op: Op,
        /// Its identity.
        identity: Identity,
    },
    /// A superblock is durable.
    SuperblockWritten(Superblock),
    /// Ops behind `after` are given up before anybody else heard of them: in a cluster of one, for want of room.
    Abandoned {
        /// The last op that stays; at or above the commit floor.
        after: Op,
    },
    /// Find out whether this replica still leads: [`Replica::confirmed`] passes [`Replica::round`] if so.
    Confirm,
    /// What the wall clock shows; before each [`Input::Tick`], and in a cluster of one when nothing has happened for a while.
    /// What may be promised of times is promised now.
    Clock {
        /// Microseconds since 1970-01-01 UTC.
        wall_us: i64,
        /// The time of the op that the driver builds, if it builds one.
        building_us: Option<i64>,
    },
    /// Time went on. At least every ten milliseconds in a cluster of several.
    Tick,
    /// Nothing has been written for a while, or the driver wants the superblock true now.
    Idle,
}

/// What a replica wants done. `Write`, `WriteSuperblock` and `Truncate` are for the disk, which does them in the order
/// in which they were asked for; everything else is done at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Write an op and make it durable; then say [`Input::Written`].
    Write {
        /// The op's header.
        header: Header,
        /// The header before it, to be repeated beside it.
        previous: Option<Header>,
        /// The body, to be checked against the header; `None` where the op was requested here.
        body: Option<Bytes>,
    },
    /// All ops up to this one are committed: apply them in order.
    Commit {
        /// The last one.
        op: Op,
    },
    /// Make this superblock durable, then say [`Input::SuperblockWritten`].
    WriteSuperblock(Superblock),
    /// Remove all ops behind `after` from the log.
    Truncate {
        /// The last op that stays.
        after: Op,
    },
    /// Send a message.
    Send {
        /// To whom.
        to: ReplicaId,
        /// What.
        message: Message,
    },
    /// Send an op of the log, with its body.
    SendOp {
        /// To whom.
        to: ReplicaId,
        /// Which one.
        op: Op,
        /// As what.
        form: Form,
    },
    /// This replica is no primary any more: who waits for an answer to what is not committed waits in vain.
    Deposed,
    /// Something that no honest replica does.
    Notice(Notice),
}

/// One step of growth or of shrinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A replica that follows becomes a member.
    Add(ReplicaId),
    /// A member is none any more: it follows.
    Remove(ReplicaId),
}

/// Why a change of the members is not ordered, for now or for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// This replica does not lead, or does not know yet that a quorum follows it.
    #[error("this replica does not lead")]
    NotLeading,
    /// Another change is not committed yet.
    #[error("another change of the members is under way")]
    Underway,
    /// There is no such replica.
    #[error("there is no such replica")]
    Unknown,
    /// Who is to be added is a member, or who is to be removed is none.
    #[error("the members are already so")]
    Already,
    /// Nobody would be left.
    #[error("the last member stays")]
    Last,
    /// A primary does not remove itself; somebody else has to lead first.
    #[error("the primary is not removed by itself")]
    Primary,
    /// Who is to be added was not heard lately, or lacks too much of the log.
    #[error("the replica has not caught up")]
    Behind,
    /// No quorum of the members behind the change was heard lately.
    #[error("too few of the members behind the change are there")]
    TooFew,
    /// A cluster of one grows by a replica with its first disk: nobody else could let a later one in.
    #[error("a cluster of one does not grow by a replaced disk")]
    NewDisk,
}

/// As what an op is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// [`Message::Prepare`].
    Prepare {
        /// The view.
        view: View,
        /// The last committed op.
        commit: Op,
    },
    /// [`Message::Supply`].
    Supply {
        /// Whether the op is committed.
        committed: bool,
    },
}

/// What was noticed in a message that was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// It is for another cluster, for another replica, or from nobody.
    Misdirected,
    /// It is older than the sender's disk.
    OldIncarnation,
    /// Its sender is not the primary of the view that it speaks for.
    NotThePrimary,
    /// Two ops have one number in one view.
    OtherOp,
    /// An op does not follow the one before: in time, view or number.
    NoSuccessor,
    /// The body of an op is not what its header says.
    Body,
    /// Logs differ where they must not.
    Diverged,
    /// It answers what was never said.
    NeverSaid,
    /// It votes for a view with a log of that view or a later one, or votes at who does not lead that view.
    NoVote,
    /// An op is prepared that is committed, or lies further behind what is committed than can be in flight.
    NotInFlight,
    /// It speaks of a view that nobody can have come to, unless somebody lied before.
    NoView,
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
    /// The log is being cut behind this op: what lies there is no part of it.
    pub cut: Option<Op>,
    /// No op will be prepared here with a time up to this one, in any view; 0 where nothing was promised. Microseconds
    /// since 1970-01-01 UTC.
    pub closed_us: i64,
    /// The log went on behind its end, and what was there is damaged: what this replica said of it, it does not know.
    pub uncertain: bool,
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
            cut: None,
            closed_us: 0,
            uncertain: false,
        }
    }
}

/// What recovery found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The superblock.
    pub superblock: Superblock,
    /// How many replicas the cluster began with.
    pub replicas: u8,
    /// How many it may have: views are led by turns of so many. Others than the members follow as standbys. It may
    /// change from one start to the next only while there is one member.
    pub slots: u8,
    /// Header of the last op that is known to be committed; `None` where there is none.
    pub tip: Option<Header>,
    /// Headers of the durable ops behind it: none in a cluster of one, where what is durable is committed.
    pub suffix: Vec<Header>,
    /// Tells answers to this run's questions from answers to an earlier one's: not the same twice.
    pub nonce: u64,
}

impl Recovered {
    /// Of a cluster of one, where what is durable is committed.
    pub fn alone(superblock: Superblock, tip: Option<Header>) -> Self {
        Self { superblock, replicas: 1, slots: 1, tip, suffix: Vec::new(), nonce: 0 }
    }
}
