//! What tasks share of one tenant.

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::{error::Damage, index::TenantIndex, record::genesis, words::TenantName};

/// One tenant's committed state, its tip, and how it is known.
#[derive(Debug)]
pub(crate) struct TenantShared {
    /// `None` for the system tenant.
    pub(crate) name: Option<TenantName>,
    pub(crate) reference: [u8; 16],
    pub(crate) log_id: [u8; 16],
    pub(crate) index: RwLock<TenantIndex>,
    /// Records committed; published after the index has them.
    pub(crate) tip: watch::Sender<u64>,
    /// Held by who renders, so that followers who wake together render once.
    pub(crate) rendering: Mutex<()>,
}

impl TenantShared {
    pub(crate) fn new(name: Option<TenantName>, reference: [u8; 16], log_id: [u8; 16]) -> Self {
        let index = TenantIndex::new(genesis(log_id));
        Self {
            name,
            reference,
            log_id,
            index: RwLock::new(index),
            tip: watch::Sender::new(0),
            rendering: Mutex::new(()),
        }
    }

    /// Notes damage; the first stays.
    pub(crate) fn damaged(&self, damage: &Damage) {
        let mut index = self.index.write();
        if index.damage.is_none() {
            tracing::error!(
                tenant = self.name.as_ref().map_or("$cluster", TenantName::as_str),
                file = damage.file,
                offset = damage.offset,
                what = damage.what,
                "the log is damaged; the tenant takes no writes"
            );
            index.damage = Some(damage.clone());
        }
    }
}
