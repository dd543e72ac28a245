//! Those who are normal in one view have one log; and what is put back is what was there.

use super::{Checked, Checker, hold};
use crate::{Header, Identity, Op, Replica, Status, message::ReplicaId};

impl Checker {
    /// A replica started.
    pub(super) fn begins_to_look(&mut self, replica: &Replica) {
        let normal = replica.status() == Status::Normal;
        let looked = &mut self.looked[usize::from(replica.id().0)];
        *looked = (normal.then(|| replica.view()), Op(0));
    }

    /// Of two logs of those who are normal in one view, one is a prefix of the other. Only what the view began with and
    /// what was ordered in it is looked at: what a later view has committed may come in before that view is heard of.
    pub(super) fn one_log(&mut self, replica: &Replica) -> Checked {
        if self.alone || self.may_differ {
            return Ok(());
        }
        let (id, view) = (replica.id(), replica.view());
        let looked = &mut self.looked[usize::from(id.0)];
        if replica.status() != Status::Normal {
            *looked = (None, Op(0));
            return Ok(());
        }
        let begins = looked.0 != Some(view);
        let before = if begins { Op(0) } else { looked.1 };
        *looked = (Some(view), replica.op());
        let own = |h: &&Header| h.op > before && (begins || h.view == view);
        for header in replica.suffix().filter(own) {
            let identity = header.identity();
            let known = *self.logs.entry((view, header.op)).or_insert(identity);
            hold(known == identity, "S8", || {
                format!("{id} has another op {} in view {}", header.op, view.0)
            })?;
        }
        Ok(())
    }

    /// An op is put back where it was damaged.
    pub(in crate::sim) fn put_back(&self, replica: u8, (op, identity): (Op, Identity)) -> Checked {
        let known = self.durable[usize::from(replica)].get(op.0 as usize - 1);
        let same = known.is_none_or(|k| *k == identity || *k == Identity::default());
        hold(same, "S16", || format!("{} has another op {op} put back", ReplicaId(replica)))
    }

    /// Whether an op lies on a disk, as it was committed.
    pub(in crate::sim) fn has_committed(&self, replica: u8, op: Op) -> bool {
        let at = op.0 as usize - 1;
        let committed = self.canonical.get(at).map(|(identity, ..)| identity);
        let known = self.durable[usize::from(replica)].get(at);
        committed.is_some_and(|c| known == Some(c))
    }
}
