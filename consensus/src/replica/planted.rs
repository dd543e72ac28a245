//! Bugs that are planted when a replica is made; others stand where they bite.

use super::{Replica, Status};
use crate::{
    View,
    limits::{HELD_OPS_MAX, SUPPLIED_OPS_MAX},
    sim::Mutant,
};

impl Replica {
    /// What it keeps that has a limit: its name, how much of it there is, and the limit.
    pub fn held(&self, look: &mut dyn FnMut(&'static str, u64, u64)) {
        look("ops that came too early", self.held.len() as u64, HELD_OPS_MAX as u64);
        look("ops that were asked for", self.supplied.len() as u64, SUPPLIED_OPS_MAX as u64);
    }

    /// Plants a bug.
    pub fn plant(&mut self, mutant: Mutant) {
        self.mutant = Some(mutant);
        match mutant {
            Mutant::ForgetsView => {
                self.superblock.view = self.superblock.log_view;
                self.durable = self.superblock;
            }
            Mutant::DamageIsTorn => {
                self.superblock.uncertain = false;
                self.durable = self.superblock;
                if self.view() == self.log_view() && self.primary() != self.me {
                    self.status = Status::Normal;
                }
            }
            Mutant::ForgetsFloor => {
                (self.floor_us, self.closed_us) = (0, 0);
                self.superblock.closed_us = 0;
                self.durable = self.superblock;
            }
            Mutant::SameViewAgain => {
                self.resigned = false;
                if self.superblock.log_view == self.superblock.view {
                    self.status = Status::Normal;
                }
            }
            Mutant::SmallQuorum
            | Mutant::AckEarly
            | Mutant::VoteEarly
            | Mutant::VotesBeforeReset
            | Mutant::StandbysCount
            | Mutant::NeverLetIn
            | Mutant::StepTooEarly
            | Mutant::NeverChanges
            | Mutant::InForceAtCommit
            | Mutant::OwnLog
            | Mutant::KeepsLog
            | Mutant::CertainEarly
            | Mutant::RepairByNumber
            | Mutant::NeverMends
            | Mutant::ServesUnchecked
            | Mutant::JoinsAlone
            | Mutant::CutOnLeaving
            | Mutant::VoteUncertain
            | Mutant::CountsUncertain
            | Mutant::NoScrub
            | Mutant::LogViewAhead
            | Mutant::CommitAhead
            | Mutant::NoBound
            | Mutant::ResumesLate
            | Mutant::HoldsAll
            | Mutant::NeverForgets
            | Mutant::AnyTime
            | Mutant::RawPromise
            | Mutant::ForgetsPromise
            | Mutant::AnyView
            | Mutant::AnyCommitted
            | Mutant::NoSync
            | Mutant::GoesOn
            | Mutant::OtherState
            | Mutant::ForgetsIds
            | Mutant::AnswersEarly
            | Mutant::Unconfirmed
            | Mutant::LateCommit
            | Mutant::ForgetsCommands
            | Mutant::Chance
            | Mutant::AnyBody
            | Mutant::AnyMessage
            | Mutant::Panics
            | Mutant::HearsAnybody
            | Mutant::Accuses
            | Mutant::NoElection
            | Mutant::NoRepair => {}
        }
    }

    /// A bug of the kind that nothing but its panic shows.
    pub(super) fn panic_wrongly(&self) {
        assert!(!self.has(Mutant::Panics) || self.view() < View(3), "a panic that was planted");
    }

    /// Whether a bug is planted for which times need not rise.
    pub(super) fn breaks_time(&self) -> bool {
        self.has(Mutant::AnyTime)
    }
}
