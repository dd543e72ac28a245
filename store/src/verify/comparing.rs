//! Compares runs with the parts that the log makes, in a thread of its own.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use rustc_hash::FxHashMap;

use crate::{
    error::ReadError,
    index::{MemoryPart, NO_RUN, Rows, Run},
};

/// A run and the part that it must be a function of.
pub(super) struct Pair {
    /// Whose records they are.
    pub(super) tenant: [u8; 16],
    pub(super) run: Run,
    pub(super) part: Arc<MemoryPart>,
    /// First position of the run before this one, of each of its streams that has one.
    previous: FxHashMap<u32, u64>,
}

/// A run that was compared.
pub(super) struct Compared {
    pub(super) tenant: [u8; 16],
    pub(super) run: Run,
    pub(super) result: Result<(), ReadError>,
    /// Room that the part needed.
    pub(super) rows: Option<Rows>,
}

/// See the module. One pair is compared while at most one waits: parts are large.
pub(super) struct Comparing {
    pairs: SyncSender<Pair>,
    compared: Receiver<Compared>,
    under_way: usize,
}

impl Pair {
    /// `newest` says where the newest run with events of a stream begins, and is brought forward.
    pub(super) fn new(
        tenant: [u8; 16],
        run: Run,
        part: Arc<MemoryPart>,
        newest: &mut HashMap<u32, u64>,
    ) -> Self {
        let mut previous = FxHashMap::default();
        for stream in part.rows.read().streams.keys() {
            if let Some(before) = newest.insert(*stream, run.first()) {
                previous.insert(*stream, before);
            }
        }
        Self { tenant, run, part, previous }
    }
}

impl Comparing {
    pub(super) fn new() -> Self {
        let ((pairs, queue), (done, compared)) = (sync_channel(1), channel());
        thread::spawn(move || compare_all(&queue, &done));
        Self { pairs, compared, under_way: 0 }
    }

    pub(super) fn begin(&mut self, pair: Pair) {
        self.under_way += 1;
        // A thread that has panicked shows when its results are asked for.
        let _sent = self.pairs.send(pair);
    }

    /// The next result that is there; with `wait`, all that will be.
    pub(super) fn next(&mut self, wait: bool) -> Option<Compared> {
        if self.under_way == 0 {
            return None;
        }
        let compared = if wait {
            Some(self.compared.recv().expect("comparing does not panic"))
        } else {
            self.compared.try_recv().ok()
        };
        self.under_way -= usize::from(compared.is_some());
        compared
    }
}

fn compare_all(queue: &Receiver<Pair>, done: &Sender<Compared>) {
    let mut content = Vec::new();
    for Pair { tenant, run, part, previous } in queue {
        let mut before = |stream| Ok(previous.get(&stream).copied().unwrap_or(NO_RUN));
        let result = run.compare(&part, &mut before, &mut content);
        let rows = Arc::into_inner(part).map(|part| part.rows.into_inner().emptied());
        // Whoever began it has gone, if nobody takes it.
        let _taken = done.send(Compared { tenant, run, result, rows });
    }
}
