//! Reads the log in a thread of its own, ahead of who compares it with what is derived, and checks there what needs no
//! state: frames, blocks, leaves, commitments, and the chain from one section of a tenant to its next.

use std::{
    collections::HashMap,
    panic,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use kimberlite_consensus::{Header, Superblock};

use crate::{
    disk::Disk,
    error::{Damage, OpenError},
    index::hashes,
    log::{
        Segment,
        frame::{Section, SectionRuns},
        recovery::{self, RecoveredOp, Scanned, Start, Visitor},
    },
    words::Hash,
};

/// Ops that are read and wait to be compared; each is at most a few MiB.
const OPS_AHEAD: usize = 4;

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
    pub(super) held: Option<Held>,
}

/// A section's records hold, if the tenant's last one before them has this hash.
pub(super) struct Held {
    pub(super) previous: Hash,
    pub(super) hashes: Vec<Hash>,
}

/// Tells `take` what the log holds, as [`recovery::scan`] does, while the next ops are being read.
pub(super) fn scan(
    disk: &dyn Disk,
    superblock: Superblock,
    start: Option<&Start>,
    mut take: impl FnMut(Found),
) -> Result<Scanned, OpenError> {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(OPS_AHEAD);
        let reading = scope.spawn(move || {
            let mut ahead = Ahead { sender, chains: HashMap::new() };
            recovery::scan(disk, superblock, &mut ahead, start)
        });
        receiver.iter().for_each(&mut take);
        reading.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

struct Ahead {
    sender: SyncSender<Found>,
    /// Where each tenant's chain stands, as the headers say.
    chains: HashMap<[u8; 16], Hash>,
}

impl Ahead {
    fn tell(&self, found: Found) {
        // Who would hear it has panicked, if nobody does.
        let _heard = self.sender.send(found);
    }

    fn check(&mut self, section: Section, runs: Result<SectionRuns, Damage>) -> ReadSection {
        let previous = self.chains.insert(section.tenant, section.chain_head);
        // What does not hold is looked at again by who says so.
        let held = previous.zip(runs.as_ref().ok()).and_then(|(previous, runs)| {
            let hashes = hashes(&section, runs, previous).ok()?;
            Some(Held { previous, hashes })
        });
        ReadSection { section, runs, held }
    }
}

impl Visitor for Ahead {
    fn op(&mut self, op: RecoveredOp<'_>) {
        let RecoveredOp { segment, offset, length, header, sections } = op;
        let (segment, header) = (Arc::clone(segment), header.clone());
        let sections = sections.into_iter().map(|(s, runs)| self.check(s, runs)).collect();
        self.tell(Found::Op(ReadOp { segment, offset, length, header, sections }));
    }

    fn lost(&mut self, sections: Vec<Section>, damage: Damage) {
        for section in &sections {
            self.chains.insert(section.tenant, section.chain_head);
        }
        self.tell(Found::Lost(sections, damage));
    }

    fn mends(&mut self, left: Damage) {
        self.tell(Found::Mends(left));
    }
}
