//! Threads beside the owner of the log: one signs, others look after closed files.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Store;
use crate::{
    compress::Packer,
    disk::{Disk, RealDisk},
    error::OpenError,
    log::recovery,
    opening::io_error,
    scrub::{Pace, Scrubber},
    signing::{Signer, Signing},
};

impl Store {
    /// With the thread that signs.
    pub(super) fn signed_by(
        self,
        signing: Option<&Signing>,
        disk: &Arc<dyn Disk>,
    ) -> Result<Self, OpenError> {
        let Some(signing) = signing else { return Ok(self) };
        let keys = Arc::new(RealDisk::private(&signing.folder));
        self.signed_on(keys, signing, disk)
    }

    /// Likewise, with keys on a disk.
    pub(crate) fn signed_on(
        mut self,
        keys: Arc<dyn Disk>,
        signing: &Signing,
        disk: &Arc<dyn Disk>,
    ) -> Result<Self, OpenError> {
        let shared = Arc::get_mut(&mut self.shared).expect("just opened");
        // What is damaged is neither shorter than what was signed nor another log.
        if shared.damage.is_none() {
            let cluster = recovery::cluster(&**disk)?;
            let (disk, tenants) = (Arc::clone(disk), Arc::clone(&shared.tenants));
            let signer = Signer::start(signing, keys, disk, cluster, tenants, &shared.node)?;
            shared.signer = Mutex::new(Some(Arc::new(signer)));
        }
        Ok(self)
    }

    #[cfg(test)]
    pub(crate) fn signer(&self) -> Option<Arc<Signer>> {
        self.shared.signer.lock().clone()
    }

    /// With the threads that look after closed files.
    pub(super) fn beside(
        mut self,
        disk: Arc<dyn Disk>,
        scrub_bytes_per_s: u64,
        compresses: bool,
    ) -> Result<Self, OpenError> {
        let shared = Arc::get_mut(&mut self.shared).expect("just opened");
        let cluster = recovery::cluster(&*disk)?;
        if scrub_bytes_per_s > 0 {
            let (disk, tenants) = (Arc::clone(&disk), Arc::clone(&shared.tenants));
            let scrubber = Scrubber::start(disk, cluster, tenants, Pace::usual(scrub_bytes_per_s));
            shared.scrubber = Some(scrubber.map_err(io_error("starting the scrubber in"))?);
        }
        // What is damaged stays as it was found.
        if compresses && shared.damage.is_none() {
            let counters = Arc::clone(&shared.node.counters);
            let packer = Packer::start(disk, cluster, Arc::clone(&shared.tenants), counters);
            shared.packer = Some(packer.map_err(io_error("starting compression in"))?);
        }
        Ok(self)
    }
}
