//! Names for what was seen.

use super::Harm;
use crate::{Message, Notice, Replica, Status};

/// Status and role of a replica.
pub(super) fn state(replica: &Replica) -> &'static str {
    let primary = replica.primary() == replica.id();
    match replica.status() {
        Status::Normal if replica.leads() => "states: leads",
        Status::Normal if replica.is_primary() => "states: commits what it inherited",
        Status::Normal if primary => "states: has resigned",
        Status::Normal => "states: follows",
        Status::ViewChange if primary => "states: to lead",
        Status::ViewChange => "states: to follow",
    }
}

pub(super) fn message(message: &Message) -> &'static str {
    match message {
        Message::Prepare { .. } => "messages: Prepare",
        Message::PrepareOk { .. } => "messages: PrepareOk",
        Message::Commit { .. } => "messages: Commit",
        Message::Alive { .. } => "messages: Alive",
        Message::Follows { .. } => "messages: Follows",
        Message::StartViewChange { .. } => "messages: StartViewChange",
        Message::DoViewChange { .. } => "messages: DoViewChange",
        Message::StartView { .. } => "messages: StartView",
        Message::RequestStartView { .. } => "messages: RequestStartView",
        Message::Fetch { .. } => "messages: Fetch",
        Message::Supply { .. } => "messages: Supply",
        Message::Close { .. } => "messages: Close",
        Message::Reading { .. } => "messages: Reading",
    }
}

/// Whether only who lies gives cause for this. A network may misdirect and change bodies, a disk may be lost, and what
/// was so in an earlier view may contradict what is known by now.
pub(super) const fn accuses(notice: Notice) -> bool {
    match notice {
        Notice::Misdirected
        | Notice::OldIncarnation
        | Notice::Body
        | Notice::Diverged
        | Notice::NoView => false,
        Notice::NotThePrimary
        | Notice::OtherOp
        | Notice::NoSuccessor
        | Notice::NeverSaid
        | Notice::NoVote
        | Notice::NotInFlight => true,
    }
}

pub(super) fn notice(notice: Notice) -> &'static str {
    match notice {
        Notice::Misdirected => "notices: misdirected",
        Notice::OldIncarnation => "notices: old incarnation",
        Notice::NotThePrimary => "notices: not the primary",
        Notice::OtherOp => "notices: other op",
        Notice::NoSuccessor => "notices: no successor",
        Notice::Body => "notices: body",
        Notice::Diverged => "notices: diverged",
        Notice::NeverSaid => "notices: never said",
        Notice::NoVote => "notices: no vote",
        Notice::NotInFlight => "notices: not in flight",
        Notice::NoView => "notices: no view",
    }
}

pub(super) fn harm(harm: Harm) -> &'static str {
    match harm {
        Harm::Superblock => "harm: a copy of the superblock",
        Harm::Derived => "harm: what is derived",
        Harm::Unwritten => "harm: a sector never written",
        Harm::Astray => "harm: a sector of another place",
        Harm::Short => "harm: a short file",
        Harm::Missing => "harm: a missing file",
        Harm::Gone => "harm: a missing file that is derived",
        Harm::Misdirected => "harm: a misdirected write",
    }
}
