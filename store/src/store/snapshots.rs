//! The log as of a moment.

use std::sync::atomic::Ordering;

use super::{Store, Tenant};
use crate::{
    scan::{Moment, Snapshot, SnapshotError},
    words::Timestamp,
};

impl Store {
    /// The closed time: no record that is not committed yet will have a time up to this one.
    pub fn closed_time(&self) -> Timestamp {
        let closed = self.shared.node.counters.closed_us.load(Ordering::Acquire);
        Timestamp::from_micros(closed).unwrap_or_default()
    }

    /// The tenant's log as of a moment. Blocks on files.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn snapshot(&self, tenant: &Tenant, moment: Moment) -> Result<Snapshot, SnapshotError> {
        // Before the log is looked at: what is closed by now is in it.
        let closed = self.closed_time();
        let taken = Snapshot::new(&tenant.shared, moment, closed);
        if let Err(SnapshotError::Read(crate::error::ReadError::Damaged(damage))) = &taken {
            tenant.shared.damaged(damage);
        }
        taken
    }
}
