//! The end of the log: adding to it, committing it, cutting it.

use super::{Notice, Outbox, Output, Pending, Replica};
#[cfg(feature = "sim")]
use crate::sim::Mutant;
use crate::{
    header::{Header, Op},
    limits::{PIPELINE_MAX, SUFFIX_MAX},
    members::Members,
    message::Entry,
};

/// Whether an op changes who votes.
pub(super) fn steps(header: &Header, before: &Members) -> bool {
    header.members.as_ref().is_some_and(|next| next.differ_in_voters(before))
}

impl Replica {
    /// Adds an op at the end of the log and has it written.
    pub(super) fn append(&mut self, entry: Entry, out: &mut Outbox) {
        let Entry { header, body } = entry;
        let previous = self.head().cloned();
        // Its primary had committed all before it, if it changes who votes.
        if steps(&header, self.members()) {
            self.sure = self.sure.max(self.op());
        }
        self.forget_lost_disks(&header);
        self.suffix.push_back(Pending::new(header.clone(), false));
        // Its primary had committed all ops so far before it.
        let floor = Op(header.op.0.saturating_sub(PIPELINE_MAX));
        self.sure = self.sure.max(floor);
        out.push(Output::Write { header, previous, body: Some(body) });
    }

    /// The last op of this log that lies before one that changes who votes; 0 where there is none.
    pub(super) fn behind_steps(&self) -> Op {
        let (mut last, mut members) = (Op(0), self.members_of(self.tip()));
        for header in self.suffix() {
            if steps(header, members) {
                last = Op(header.op.0 - 1);
            }
            members = self.members_of(Some(header));
        }
        last
    }

    /// Whether an op can come next in this log.
    pub(super) fn follows(&self, header: &Header) -> bool {
        if header.op.0 > self.commit().0 + SUFFIX_MAX {
            return false;
        }
        #[cfg(feature = "sim")]
        if self.has(Mutant::AnyTime) || self.has(Mutant::AnyView) {
            return header.op == self.op().next() && header.parent == self.head_identity();
        }
        header.cluster == self.superblock.cluster
            && header.op == self.op().next()
            && header.parent == self.head_identity()
            && self.head().is_none_or(|h| h.time_us < header.time_us && h.view <= header.view)
            && self.members_follow(header)
    }

    /// Commits what is known to be committed and is durable here.
    pub(super) fn advance(&mut self, out: &mut Outbox) {
        let to = self.sure.min(self.durable_op());
        let before = self.commit();
        while self.commit() < to {
            let Pending { header, identity, .. } =
                self.suffix.pop_front().expect("durable ops are in the suffix");
            assert!(header.parent == self.committed_identity, "an op commits behind its parent");
            self.committed = Some(header);
            self.committed_identity = identity;
        }
        self.commit_max = self.commit_max.max(self.commit());
        if self.commit() > before {
            out.push(Output::Commit { op: self.commit() });
            self.expect_to_be_let_in(out);
        }
        #[cfg(feature = "sim")]
        if self.has(Mutant::CommitAhead) && self.suffix.len() > 1 && !self.suffix[0].durable {
            let ahead = self.suffix.pop_front().expect("seen just now");
            (self.committed, self.committed_identity) = (Some(ahead.header), ahead.identity);
        }
    }

    /// Removes ops that cannot have been committed, behind `after`.
    pub(super) fn truncate(&mut self, after: Op, out: &mut Outbox) {
        if after < self.sure {
            // Somebody said what is not so, or what was so before.
            self.goal = None;
            return out.push(Output::Notice(Notice::Diverged));
        }
        self.suffix.truncate((after.0 - self.commit().0) as usize);
        // The disk does one after the other: the log is cut behind a superblock that says so, and nothing is written
        // to it before one says that it was.
        self.superblock.cut = Some(after);
        self.write_superblock(out);
        out.push(Output::Truncate { after });
        self.superblock.cut = None;
        self.write_superblock(out);
    }

    pub(super) fn abandon(&mut self, after: Op) {
        assert!(after >= self.commit(), "committed ops stay");
        assert!(self.slots == 1, "others may have heard of it");
        self.suffix.retain(|p| p.header.op <= after);
    }
}
