//! Room for the log, prepared ahead of its writer by a thread of its own.
//!
//! Overwriting zeros that were written once needs no journal entry of the file system, so a sync is one write of
//! the disk. The thread writes zeros ahead in the open segment, and makes the next one before it is needed. On a disk
//! without threads beside the log's owner the owner does so, before each of its own writes.

use std::{io, sync::Arc, thread::JoinHandle};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile, PAGE_BYTES, Pace, ZerosError};

/// The next segment while it has no name.
pub(crate) const SPARE: &str = "log/spare";

#[derive(Debug)]
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
    pace: Pace,
}

#[derive(Debug)]
struct State {
    file: Arc<dyn DiskFile>,
    /// The writer has claimed everything below.
    claimed: u64,
    /// Zeros are ready, or being written, up to here.
    zeroed: u64,
    /// Where the room of the open segment ends.
    room: u64,
    /// Where the thread writes zeros just now.
    busy: Option<u64>,
    spare: Option<Arc<dyn DiskFile>>,
    /// Making a spare, or zeros, failed: no further try for this segment.
    failed: bool,
    stop: bool,
}

impl Ahead {
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        file: Arc<dyn DiskFile>,
        at: u64,
        room: u64,
        segment_bytes: u64,
        pace: Pace,
    ) -> io::Result<Self> {
        let state = State {
            file,
            claimed: at,
            zeroed: at,
            room,
            busy: None,
            spare: None,
            failed: false,
            stop: false,
        };
        let beside = disk.works_beside();
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { disk, segment_bytes, state, changed, pace });
        let thread = if beside {
            let shared = Arc::clone(&shared);
            let run = move || shared.run();
            Some(std::thread::Builder::new().name("log-ahead".into()).spawn(run)?)
        } else {
            shared.run_dry(shared.state.lock());
            None
        };
        Ok(Self { shared, thread })
    }

    /// Has done what there is to do now, or will be.
    fn go_on(&self, state: MutexGuard<'_, State>) {
        if self.thread.is_some() {
            self.shared.changed.notify_all();
        } else {
            self.shared.run_dry(state);
        }
    }

    /// The writer is about to write below `end`: waits for zeros that are on their way there.
    pub(crate) fn claim(&self, end: u64) {
        let mut state = self.shared.state.lock();
        state.claimed = state.claimed.max(end);
        while state.busy.is_some_and(|from| from < end) {
            self.shared.changed.wait(&mut state);
        }
        if state.wants_work(self.shared.pace.ahead / 2) {
            self.go_on(state);
        }
    }

    /// The next segment's file under its name [`SPARE`], where it is ready.
    pub(crate) fn take_spare(&self) -> Option<Arc<dyn DiskFile>> {
        self.shared.state.lock().spare.take()
    }

    /// The writer goes on in another file, at `at`.
    pub(crate) fn turn_to(&self, file: Arc<dyn DiskFile>, at: u64, room: u64) {
        let mut state = self.shared.state.lock();
        while state.busy.is_some() {
            self.shared.changed.wait(&mut state);
        }
        state.file = file;
        (state.claimed, state.zeroed, state.room) = (at, at, room);
        state.failed = false;
        self.go_on(state);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let panicked = thread.join().is_err();
            debug_assert!(!panicked, "the preparing thread does not panic");
        }
    }
}

impl State {
    /// What comes next: zeros from here to there.
    fn zeros(&self, ahead: u64, step: u64) -> Option<(u64, u64)> {
        let from = self.zeroed.max(self.claimed).next_multiple_of(PAGE_BYTES);
        let end = self.room / PAGE_BYTES * PAGE_BYTES;
        (!self.failed && from < end && from < self.claimed + ahead)
            .then(|| (from, (from + step).min(end)))
    }

    /// The open segment is more than half full and there is no next one.
    fn wants_spare(&self) -> bool {
        !self.failed && self.spare.is_none() && self.claimed > self.room / 2
    }

    fn wants_work(&self, ahead: u64) -> bool {
        self.wants_spare() || self.zeros(ahead, PAGE_BYTES).is_some()
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.stop {
            let worked;
            (state, worked) = self.step(state);
            if !worked {
                self.changed.wait(&mut state);
            }
        }
    }

    /// Works until there is nothing to do.
    fn run_dry<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let mut worked = true;
        while worked && !state.stop {
            (state, worked) = self.step(state);
        }
    }

    /// Does one thing without holding anybody up; says whether there was any.
    fn step<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        let pace = self.pace;
        if let Some((from, to)) = state.zeros(pace.ahead, pace.step) {
            (state.busy, state.zeroed) = (Some(from), to);
            let file = Arc::clone(&state.file);
            drop(state);
            let done = file.write_zeros(from, to);
            state = self.state.lock();
            state.busy = None;
            self.changed.notify_all();
            self.note(&mut state, done, "zeros are not written ahead");
        } else if state.wants_spare() {
            drop(state);
            let made = make_spare(&*self.disk, self.segment_bytes, pace);
            state = self.state.lock();
            let made = made.map(|file| state.spare = Some(file));
            self.note(&mut state, made, "the next segment is not made ahead");
        } else {
            return (state, false);
        }
        (state, true)
    }

    /// The log goes on without what was to be prepared, only slower, until there is no room at all; but not behind a
    /// failed sync, of which its owner need not hear.
    fn note(&self, state: &mut State, done: Result<(), ZerosError>, what: &'static str) {
        let Err(error) = done else { return };
        let reason = crate::error::chain(&error);
        state.failed = true;
        match error {
            ZerosError::Unwritten(_) => tracing::debug!(error = reason, what),
            ZerosError::Unsynced(_) => {
                tracing::error!(error = reason, what, "the process stops");
                state.stop = true;
                self.disk.fatal();
            }
        }
    }
}

fn make_spare(disk: &dyn Disk, bytes: u64, pace: Pace) -> Result<Arc<dyn DiskFile>, ZerosError> {
    let file = disk.create(SPARE)?;
    match fill_spare(&*file, bytes, pace) {
        Ok(()) => Ok(file),
        // Nothing rests on this file yet, and room may come back.
        Err(ZerosError::Unsynced(error)) if error.kind() != io::ErrorKind::StorageFull => {
            Err(ZerosError::Unsynced(error))
        }
        Err(ZerosError::Unwritten(error) | ZerosError::Unsynced(error)) => {
            // Half of a spare would keep room that others need.
            disk.remove(SPARE)?;
            Err(error.into())
        }
    }
}

fn fill_spare(file: &dyn DiskFile, bytes: u64, pace: Pace) -> Result<(), ZerosError> {
    file.reserve(bytes)?;
    file.write_zeros(0, pace.ahead.min(bytes / PAGE_BYTES * PAGE_BYTES))?;
    file.sync().map_err(ZerosError::Unsynced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{
        RealDisk,
        simulated::{Fault, SimulatedDisk},
    };

    #[test]
    fn zeros_never_land_on_what_was_written() {
        const PAGES: u64 = 600;
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(folder.path()));
        disk.make_folder("log").unwrap();
        let file = disk.create("log/open").unwrap();
        file.reserve(PAGES * PAGE_BYTES).unwrap();
        let (room, pace) = (PAGES * PAGE_BYTES, Pace { ahead: 16 << 10, step: PAGE_BYTES });
        let (of, on) = (Arc::clone(&disk) as Arc<dyn Disk>, Arc::clone(&file));
        let ahead = Ahead::start(of, on, 0, room, 1 << 20, pace).unwrap();
        for page in 0..PAGES {
            ahead.claim((page + 1) * PAGE_BYTES);
            let bytes = [page as u8 | 1; PAGE_BYTES as usize];
            file.write_all_at(&bytes, page * PAGE_BYTES).unwrap();
        }
        for _ in 0..500 {
            if ahead.shared.state.lock().spare.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(ahead.take_spare().unwrap().length().unwrap(), 1 << 20);
        drop(ahead);
        let mut read = [0; PAGE_BYTES as usize];
        for page in 0..PAGES {
            file.read_exact_at(&mut read, page * PAGE_BYTES).unwrap();
            assert!(read.iter().all(|b| *b == page as u8 | 1), "page {page}");
        }
    }

    /// A disk with an open segment of `PAGES` pages, on which the n-th operation from now on fails.
    fn failing(n: u64, fault: Fault) -> (Arc<SimulatedDisk>, Arc<dyn DiskFile>) {
        let disk = SimulatedDisk::new();
        let file = disk.create("log/open").unwrap();
        file.reserve(64 * PAGE_BYTES).unwrap();
        disk.fail(n, fault);
        (disk, file)
    }

    fn prepared(disk: &Arc<SimulatedDisk>, file: &Arc<dyn DiskFile>, at: u64) -> Ahead {
        let pace = Pace { ahead: 4 * PAGE_BYTES, step: 4 * PAGE_BYTES };
        let (on, file) = (Arc::clone(disk) as Arc<dyn Disk>, Arc::clone(file));
        Ahead::start(on, file, at, 64 * PAGE_BYTES, 64 * PAGE_BYTES, pace).unwrap()
    }

    /// Zeros are written, then synced; a spare is made, reserved, filled with zeros that are synced, and synced.
    #[test]
    fn a_failed_sync_stops_the_process_and_a_lack_of_room_does_not() {
        const ZEROS: u64 = 0;
        const SPARE_TOO: u64 = 40 * PAGE_BYTES;
        for (at, n, fault, stops) in [
            (ZEROS, 1, Fault::Error, false),
            (ZEROS, 1, Fault::Full, false),
            (ZEROS, 2, Fault::Error, true),
            (ZEROS, 2, Fault::Full, true),
            (SPARE_TOO, 3, Fault::Error, false),
            (SPARE_TOO, 4, Fault::Full, false),
            (SPARE_TOO, 5, Fault::Full, false),
            (SPARE_TOO, 6, Fault::Error, true),
            (SPARE_TOO, 7, Fault::Error, true),
            (SPARE_TOO, 7, Fault::Full, false),
        ] {
            let (disk, file) = failing(n, fault);
            let ahead = prepared(&disk, &file, at);
            let what = format!("{fault:?} at operation {n}");
            assert!(disk.operations() >= 2 + n, "{what} was not met");
            assert!(ahead.take_spare().is_none(), "{what}");
            assert_eq!(disk.create("log/other").is_err(), stops, "{what}");
            if !stops {
                assert!(!disk.exists(SPARE).unwrap(), "{what}: half a spare is left");
            }
        }
    }
}
