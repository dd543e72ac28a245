//! What a restore leaves for the start that signs next: which logs it made, and what they were called.
//!
//! Whoever has the key of such a log may have signed more than the backup holds, and so may a copy of the key: the file
//! beside it tells only what was signed before it was copied. So a restored log goes on under another name, unless the
//! operator knows better.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{disk::Disk, words::Hex};

/// The mark's file in the data folder.
pub(super) const FILE: &str = "restored";

/// The mark.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RestoredMark {
    /// The operator says that nothing was signed beyond the backup.
    pub(crate) keeps_origin: bool,
    pub(crate) logs: Vec<RestoredLog>,
}

/// A log that was brought back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RestoredLog {
    /// The tenant's, in hex.
    pub(crate) reference: String,
    /// What the log was called when it was backed up; empty where it was not signed.
    pub(crate) origin: String,
    /// Its last record, which the restore wrote, says that it forked.
    pub(crate) forked: bool,
}

impl RestoredMark {
    /// Leaves the mark, durably.
    pub(crate) fn leave(&self, disk: &dyn Disk) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("plain fields serialise");
        let file = disk.create(FILE)?;
        file.write_all_at(&text, 0)?;
        file.sync()?;
        disk.sync_folder("")
    }

    /// The mark, if there is one. One that cannot be read knows no log: then every one forks.
    pub(crate) fn read(disk: &dyn Disk) -> io::Result<Option<Self>> {
        if !disk.exists(FILE)? {
            return Ok(None);
        }
        let file = disk.open(FILE)?;
        let mut text = vec![0; file.length()? as usize];
        file.read_exact_at(&mut text, 0)?;
        Ok(Some(serde_json::from_slice(&text).unwrap_or_default()))
    }

    /// Every log has been decided upon.
    pub(crate) fn remove(disk: &dyn Disk) -> io::Result<()> {
        disk.remove(FILE)?;
        disk.sync_folder("")
    }

    /// What is known of a tenant's log.
    pub(crate) fn log(&self, tenant: [u8; 16]) -> RestoredLog {
        let reference = Hex(&tenant).to_string();
        let known = self.logs.iter().find(|log| log.reference == reference).cloned();
        known.unwrap_or_default()
    }
}
