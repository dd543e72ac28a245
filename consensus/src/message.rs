//! What replicas say to each other.

use std::fmt;

use bytes::Bytes;

use crate::{
    header::{Header, Identity, Op, View},
    members::Members,
};

/// A replica's number in its cluster, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u8);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// Who says it.
    pub from: ReplicaId,
    /// To whom.
    pub to: ReplicaId,
    /// The sender's incarnation.
    pub incarnation: u64,
    /// What is said.
    pub message: Message,
}

/// An op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The op's header.
    pub header: Header,
    /// What the header's sections speak of.
    pub body: Bytes,
}

/// What a replica's log is, as far as others cannot know it: what is not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The last op that the replica knows to be committed, and has.
    pub commit: Op,
    /// Its identity.
    pub identity: Identity,
    /// The members as of it, where they are not those that the cluster began with.
    pub members: Option<Members>,
    /// Headers of the ops behind it, in order: at most [`crate::limits::PIPELINE_MAX`].
    pub headers: Vec<Header>,
}

impl Tail {
    /// The last op.
    pub fn op(&self) -> Op {
        self.headers.last().map_or(self.commit, |h| h.op)
    }

    /// Whether views and times never go back and no op is of a later view than `view`.
    pub(crate) fn is_of(&self, view: View) -> bool {
        let rises =
            |pair: &[Header]| pair[0].view <= pair[1].view && pair[0].time_us < pair[1].time_us;
        self.headers.windows(2).all(rises) && self.headers.last().is_none_or(|h| h.view <= view)
    }

    /// The members as of the last op.
    pub fn members(&self) -> Option<&Members> {
        self.headers.last().map_or(self.members.as_ref(), |h| h.members.as_ref())
    }

    /// Whether each header follows the one before.
    pub fn is_chain(&self) -> bool {
        let mut at = (self.commit, self.identity);
        self.headers.iter().all(|h| {
            let follows = h.op == at.0.next() && h.parent == at.1;
            at = (h.op, h.identity());
            follows
        })
    }
}

/// A message. Each but the last three is heard only in the view that it speaks of, or brings the hearer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The primary orders an op.
    Prepare {
        /// The primary's view.
        view: View,
        /// The last op that it has committed.
        commit: Op,
        /// The op.
        entry: Entry,
    },
    /// All ops up to this one are durable here, as the log of this view has them.
    PrepareOk {
        /// The view.
        view: View,
        /// The op.
        op: Op,
        /// Its identity.
        identity: Identity,
    },
    /// The primary is there, and so much is committed.
    Commit {
        /// Its view.
        view: View,
        /// The last committed op.
        op: Op,
        /// Its identity.
        identity: Identity,
        /// Grows with each time it says so.
        round: u64,
    },
    /// A backup heard the primary.
    Alive {
        /// The view.
        view: View,
        /// The round that it heard.
        round: u64,
    },
    /// Who is no member says how far it is. It is counted for nothing: it shows whom the cluster may grow by.
    Follows {
        /// The view.
        view: View,
        /// All ops up to this one are durable there.
        op: Op,
    },
    /// The primary asks what the hearer's clock shows, and says what it promises of times.
    Close {
        /// Its view.
        view: View,
        /// Grows with each time it asks.
        round: u64,
        /// To be kept durably: no op will be prepared with a time up to this one.
        close_us: i64,
        /// A quorum has kept this; all ops with times up to it are committed, and are no later than `op`.
        closed_us: i64,
        /// The last committed op.
        op: Op,
    },
    /// What a backup's clock shows.
    Reading {
        /// The view.
        view: View,
        /// The question that is answered.
        round: u64,
        /// Microseconds since 1970-01-01 UTC.
        clock_us: i64,
        /// The promise that is durable here.
        closed_us: i64,
    },
    /// The sender wants this view.
    StartViewChange {
        /// The view that it wants.
        view: View,
        /// The view that it is in, durably; a quorum has wanted that one.
        joined: View,
    },
    /// To the primary of a view to be: what the sender has, durably.
    DoViewChange {
        /// The view to be.
        view: View,
        /// The last view whose log the sender has.
        log_view: View,
        /// Whether it knows what it had of that log.
        certain: bool,
        /// No op may be prepared with a time up to this one; 0 where the sender knows of no such promise.
        closed_us: i64,
        /// Its log.
        tail: Tail,
    },
    /// The primary of a view says what the view's log is.
    StartView {
        /// The view.
        view: View,
        /// What the asker said; 0 where nobody asked.
        nonce: u64,
        /// The log.
        tail: Tail,
    },
    /// Asks the primary of a view what the view's log is.
    RequestStartView {
        /// The view.
        view: View,
        /// Said back in the answer.
        nonce: u64,
    },
    /// Asks for an op.
    Fetch {
        /// The op.
        op: Op,
        /// Its identity, where the asker knows it; else any committed one will do.
        identity: Option<Identity>,
    },
    /// An op that was asked for.
    Supply {
        /// Whether the sender knows it to be committed.
        committed: bool,
        /// The op.
        entry: Entry,
    },
}

impl Message {
    /// The latest view that it speaks of; 0 where it speaks of none.
    pub(crate) fn latest_view(&self) -> View {
        let last = |tail: &Tail| tail.headers.iter().map(|h| h.view).max().unwrap_or_default();
        match self {
            Self::Prepare { view, entry, .. } => entry.header.view.max(*view),
            Self::Supply { entry, .. } => entry.header.view,
            Self::StartViewChange { view, joined } => *view.max(joined),
            Self::DoViewChange { view, log_view, tail, .. } => last(tail).max(*view).max(*log_view),
            Self::StartView { view, tail, .. } => last(tail).max(*view),
            Self::PrepareOk { view, .. }
            | Self::Commit { view, .. }
            | Self::Alive { view, .. }
            | Self::Follows { view, .. }
            | Self::Close { view, .. }
            | Self::Reading { view, .. }
            | Self::RequestStartView { view, .. } => *view,
            Self::Fetch { .. } => View::default(),
        }
    }
}
