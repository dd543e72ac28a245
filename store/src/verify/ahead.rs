//! Reads the log in a thread of its own, and checks in others what needs no state: leaves, commitments, and the chain
//! from one section of a tenant to its next. Who goes on with it is told in the log's order.

use std::{
    collections::HashMap,
    panic,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use kimberlite_consensus::{Header, Superblock};
use parking_lot::Mutex;

use crate::{
    disk::Disk,
    error::{Damage, OpenError},
    index::check_section,
    log::{
        Segment,
        frame::{Section, SectionRuns},
        recovery::{self, RecoveredOp, Scanned, Start, Visitor},
    },
    words::Hash,
};

/// Bytes of the log that are handed on together, so that small ops cost few hand-offs.
const BATCH_BYTES: u64 = 1 << 20;
/// Batches that are read and wait to be taken in; each is at most [`BATCH_BYTES`] and one op.
const BATCHES_AHEAD: usize = 6;
/// Threads that check, at most.
const CHECKERS_MAX: usize = 8;

/// What the log holds, in its order.
pub(super) enum Found {
    Op(ReadOp),
    /// The records of an op are lost for these tenants.
    Lost(Vec<Section>, Damage),
    /// What a crash left.
    Mends(Damage),
}

/// An op whose frame holds.
pub(super) struct ReadOp {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) header: Header,
    pub(super) sections: Vec<ReadSection>,
}

/// One section of it.
pub(super) struct ReadSection {
    pub(super) section: Section,
    pub(super) runs: Result<SectionRuns, Damage>,
    /// Hash of the tenant's record before it, as the header says that ended there.
    previous: Option<Hash>,
    pub(super) held: Option<Held>,
}

/// A section's records hold, if the tenant's last one before them has this hash.
pub(super) struct Held {
    pub(super) previous: Hash,
    pub(super) hashes: Vec<Hash>,
}

/// What is checked by one thread, and who waits for it.
struct Batch {
    found: Vec<Found>,
    checked: SyncSender<Vec<Found>>,
}

/// Tells `take` what the log holds, as [`recovery::scan`] does, while the next ops are being read and checked.
pub(super) fn scan(
    disk: &dyn Disk,
    superblock: Superblock,
    start: Option<&Start>,
    mut take: impl FnMut(Found),
) -> Result<Scanned, OpenError> {
    let checkers = thread::available_parallelism().map_or(1, |n| n.get().min(CHECKERS_MAX));
    thread::scope(|scope| {
        let (work, queue) = sync_channel(BATCHES_AHEAD);
        let (order, ordered) = sync_channel(BATCHES_AHEAD);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..checkers {
            let queue = Arc::clone(&queue);
            scope.spawn(move || check_all(&queue));
        }
        drop(queue);
        let reading = scope.spawn(move || {
            let (chains, found) = (HashMap::new(), Vec::new());
            let mut ahead = Ahead { work, order, chains, found, bytes: 0 };
            let scanned = recovery::scan(disk, superblock, &mut ahead, start);
            ahead.hand_on();
            scanned
        });
        for checked in ordered {
            let Ok(found) = Receiver::recv(&checked) else { break };
            found.into_iter().for_each(&mut take);
        }
        reading.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

/// Checks what is read, a batch at a time.
fn check_all(queue: &Mutex<Receiver<Batch>>) {
    loop {
        // The others wait for the lock instead of the queue meanwhile.
        let Ok(Batch { mut found, checked }) = queue.lock().recv() else { return };
        for found in &mut found {
            if let Found::Op(op) = found {
                op.sections.iter_mut().for_each(ReadSection::check);
            }
        }
        // Who would hear it has panicked, if nobody does.
        let _heard = checked.send(found);
    }
}

impl ReadSection {
    fn check(&mut self) {
        // What does not hold is looked at again by who says so.
        self.held = self.previous.zip(self.runs.as_ref().ok()).and_then(|(previous, runs)| {
            let hashes = check_section(&self.section, runs, previous).ok()?;
            Some(Held { previous, hashes })
        });
    }
}

struct Ahead {
    work: SyncSender<Batch>,
    /// Where each batch comes out, in the log's order.
    order: SyncSender<Receiver<Vec<Found>>>,
    /// Where each tenant's chain stands, as the headers say.
    chains: HashMap<[u8; 16], Hash>,
    found: Vec<Found>,
    /// Of the log, in `found`.
    bytes: u64,
}

impl Ahead {
    fn tell(&mut self, found: Found, bytes: u64) {
        self.found.push(found);
        self.bytes += bytes;
        if self.bytes >= BATCH_BYTES {
            self.hand_on();
        }
    }

    fn hand_on(&mut self) {
        let found = std::mem::take(&mut self.found);
        self.bytes = 0;
        let (checked, comes) = sync_channel(1);
        // Who would take it has panicked, if nobody does.
        let _taken = self.work.send(Batch { found, checked });
        let _heard = self.order.send(comes);
    }

    fn section(&mut self, section: Section, runs: Result<SectionRuns, Damage>) -> ReadSection {
        let previous = self.chains.insert(section.tenant, section.chain_head);
        ReadSection { section, runs, previous, held: None }
    }
}

impl Visitor for Ahead {
    fn op(&mut self, op: RecoveredOp<'_>) {
        let RecoveredOp { segment, offset, length, header, sections } = op;
        let (segment, header) = (Arc::clone(segment), header.clone());
        let sections = sections.into_iter().map(|(s, runs)| self.section(s, runs)).collect();
        self.tell(Found::Op(ReadOp { segment, offset, length, header, sections }), length);
    }

    fn lost(&mut self, sections: Vec<Section>, damage: Damage) {
        for section in &sections {
            self.chains.insert(section.tenant, section.chain_head);
        }
        self.tell(Found::Lost(sections, damage), 0);
    }

    fn mends(&mut self, left: Damage) {
        self.tell(Found::Mends(left), 0);
    }
}
