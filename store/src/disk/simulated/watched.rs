//! What tests count on a simulated disk, and how they hold it up.

use parking_lot::MutexGuard;

use super::{Inode, Pace, SimulatedDisk, State};

/// Nothing is read or written while this is there.
pub(crate) struct Held<'a> {
    _state: MutexGuard<'a, State>,
}

impl State {
    pub(super) fn count(&mut self, inode: usize, which: impl Fn(&mut Inode) -> &mut u64) {
        *which(&mut self.files[inode]) += 1;
    }

    pub(super) fn count_read(&mut self, bytes: usize) {
        self.read_bytes += bytes as u64;
    }
}

impl SimulatedDisk {
    /// From now on so many bytes can be written.
    pub(crate) fn leave_room(&self, bytes: u64) {
        self.state.lock().room = Some(bytes);
    }

    /// There is as much room as anybody wants.
    pub(crate) fn make_room(&self) {
        self.state.lock().room = None;
    }

    /// From now on room is prepared ahead of the log, by its owner.
    pub(crate) fn prepare_room(&self, pace: Pace) {
        self.state.lock().ahead = Some(pace);
    }

    pub(crate) fn hold(&self) -> Held<'_> {
        Held { _state: self.state.lock() }
    }

    /// Changing operations so far.
    pub(crate) fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Reads so far.
    pub(crate) fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// Bytes that they have read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.state.lock().read_bytes
    }

    /// Writes to a file so far, and syncs of it.
    pub(crate) fn writes_and_syncs(&self, path: &str) -> (u64, u64) {
        let state = self.state.lock();
        let file = &state.files[state.names[path]];
        (file.writes, file.syncs)
    }

    /// How many units a crash now would decide about.
    pub(crate) fn units(&self) -> usize {
        let state = self.state.lock();
        state.files.iter().map(|f| f.changes.len()).sum::<usize>() + state.name_changes.len()
    }
}
