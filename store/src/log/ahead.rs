//! Room for the log, prepared ahead of its writer by a thread of its own.
//!
//! Overwriting zeros that were written once needs no journal entry of the file system, so a sync is one write of
//! the disk. The thread writes zeros ahead in the open segment, and makes the next one before it is needed.

use std::{io, sync::Arc, thread::JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::SEGMENT_HEAD_BYTES;
use crate::disk::{Disk, DiskFile, PAGE_BYTES};

/// The next segment while it has no name.
pub(crate) const SPARE: &str = "log/spare";

/// How far ahead, in which steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Zeros are written where fewer bytes than this are ready.
    pub(crate) ahead: u64,
    /// Bytes written at once, a multiple of [`PAGE_BYTES`].
    pub(crate) step: u64,
}

impl Pace {
    pub(crate) const USUAL: Self = Self { ahead: 16 << 20, step: 4 << 20 };
}

#[derive(Debug)]
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
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
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), pace });
        let run = {
            let shared = Arc::clone(&shared);
            move || shared.run(&*disk, segment_bytes)
        };
        let thread = std::thread::Builder::new().name("log-ahead".into()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The writer is about to write below `end`: waits for zeros that are on their way there.
    pub(crate) fn claim(&self, end: u64) {
        let mut state = self.shared.state.lock();
        state.claimed = state.claimed.max(end);
        while state.busy.is_some_and(|from| from < end) {
            self.shared.changed.wait(&mut state);
        }
        if state.wants_work(self.shared.pace.ahead / 2) {
            self.shared.changed.notify_all();
        }
    }

    /// The next segment's file under its name [`SPARE`], where it is ready.
    pub(crate) fn take_spare(&self) -> Option<Arc<dyn DiskFile>> {
        self.shared.state.lock().spare.take()
    }

    /// The writer goes on in another file.
    pub(crate) fn turn_to(&self, file: Arc<dyn DiskFile>, room: u64) {
        let mut state = self.shared.state.lock();
        while state.busy.is_some() {
            self.shared.changed.wait(&mut state);
        }
        state.file = file;
        (state.claimed, state.zeroed, state.room) = (SEGMENT_HEAD_BYTES, SEGMENT_HEAD_BYTES, room);
        state.failed = false;
        self.shared.changed.notify_all();
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
    fn run(&self, disk: &dyn Disk, segment_bytes: u64) {
        let pace = self.pace;
        let mut state = self.state.lock();
        while !state.stop {
            if let Some((from, to)) = state.zeros(pace.ahead, pace.step) {
                (state.busy, state.zeroed) = (Some(from), to);
                let file = Arc::clone(&state.file);
                drop(state);
                let done = file.write_zeros(from, to);
                state = self.state.lock();
                state.busy = None;
                self.changed.notify_all();
                note(&mut state, done, "zeros are not written ahead");
            } else if state.wants_spare() {
                drop(state);
                let made = make_spare(disk, segment_bytes, pace);
                state = self.state.lock();
                let made = made.map(|file| state.spare = Some(file));
                note(&mut state, made, "the next segment is not made ahead");
            } else {
                self.changed.wait(&mut state);
            }
        }
    }
}

/// The log goes on without what was to be prepared, only slower, until there is no room at all.
fn note(state: &mut State, done: io::Result<()>, what: &'static str) {
    if let Err(error) = done {
        state.failed = true;
        tracing::debug!(error = crate::error::chain(&error), what);
    }
}

fn make_spare(disk: &dyn Disk, bytes: u64, pace: Pace) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(SPARE)?;
    let made = file
        .reserve(bytes)
        .and_then(|()| file.write_zeros(0, pace.ahead.min(bytes / PAGE_BYTES * PAGE_BYTES)))
        .and_then(|()| file.sync());
    match made {
        Ok(()) => Ok(file),
        Err(error) => {
            // Half of a spare would keep room that others need.
            disk.remove(SPARE)?;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

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
}
