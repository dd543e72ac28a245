//! Compares the tiles with the tree that the log makes, in a thread of its own.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use super::walk::Walk;
use crate::{
    disk::Disk,
    error::Damage,
    tiles::{FOLDER, StoredHash, Tiles},
    tree::Tree,
    words::Hash,
};

/// Hashes of a tenant that are handed on together.
const BATCH: usize = 4096;
/// Batches that wait.
const BATCHES: usize = 16;
/// Findings of one tenant that are told; all are damage of files that are made again.
const TOLD_MAX: usize = 100;

/// Neighbouring hashes of a tenant's records.
struct Batch {
    tenant: [u8; 16],
    first: u64,
    hashes: Vec<Hash>,
}

/// See the module.
pub(super) struct TileCheck {
    /// What is not handed on yet.
    waiting: HashMap<[u8; 16], Batch>,
    batches: SyncSender<Batch>,
    comparing: JoinHandle<Vec<Compared>>,
}

/// What was found of a tenant's tiles.
struct Compared {
    tenant: [u8; 16],
    damage: Vec<Damage>,
    /// What lies behind the last record that was read.
    beyond: Option<Damage>,
    /// Records are missing, so none of the tiles behind them could be compared.
    broken: bool,
}

/// A tenant's tiles as far as its log was read.
struct Tenant {
    tiles: Tiles,
    tree: Tree,
    /// Entries of each level that the log makes.
    made: HashMap<u8, u64>,
    found: Compared,
}

impl TileCheck {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        let (batches, queue) = sync_channel(BATCHES);
        let comparing = thread::spawn(move || compare_all(&disk, &queue));
        Self { waiting: HashMap::new(), batches, comparing }
    }

    /// Takes the hashes of records that hold.
    pub(super) fn records(&mut self, tenant: [u8; 16], first: u64, hashes: &[Hash]) {
        let fresh = || Batch { tenant, first, hashes: Vec::new() };
        let batch = self.waiting.entry(tenant).or_insert_with(fresh);
        let follows = batch.first + batch.hashes.len() as u64 == first;
        if !follows || batch.hashes.len() >= BATCH {
            // A thread that has panicked shows when it is waited for.
            let _sent = self.batches.send(std::mem::replace(batch, fresh()));
        }
        batch.hashes.extend_from_slice(hashes);
    }

    fn end(self) -> Vec<Compared> {
        let Self { waiting, batches, comparing } = self;
        for (_, batch) in waiting {
            let _sent = batches.send(batch);
        }
        drop(batches);
        comparing.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
    }
}

fn compare_all(disk: &Arc<dyn Disk>, queue: &Receiver<Batch>) -> Vec<Compared> {
    let mut tenants = HashMap::new();
    for batch in queue {
        let tenant: &mut Tenant =
            tenants.entry(batch.tenant).or_insert_with(|| Tenant::new(disk, batch.tenant));
        tenant.take(&batch);
    }
    tenants.into_values().map(Tenant::end).collect()
}

impl Tenant {
    fn new(disk: &Arc<dyn Disk>, tenant: [u8; 16]) -> Self {
        let tiles = Tiles::existing(Arc::clone(disk), tenant);
        let found = Compared { tenant, damage: Vec::new(), beyond: None, broken: false };
        Self { tiles, tree: Tree::default(), made: HashMap::new(), found }
    }

    fn take(&mut self, batch: &Batch) {
        self.found.broken |= batch.first != self.tree.size();
        if self.found.broken {
            return;
        }
        let (tiles, made, found) = (&self.tiles, &mut self.made, &mut self.found);
        for hash in &batch.hashes {
            self.tree.grow(*hash, |at, hash| {
                if let Some(level) = Tiles::level_of(at) {
                    made.insert(level, at.index + 1);
                    found.compare(tiles, level, at.index, hash);
                }
            });
        }
    }

    fn end(mut self) -> Compared {
        self.found.broken &= self.tiles.is_any().unwrap_or(true);
        for level in Tiles::levels() {
            let made = self.made.get(&level).copied().unwrap_or(0);
            match self.tiles.holds_from(level, made) {
                Ok(None) => {}
                Ok(Some(at)) => {
                    let what = "a hash of records that the log does not have";
                    self.found.beyond.get_or_insert(self.tiles.damage(level, at, what));
                }
                Err(_) => self.found.unreadable(&self.tiles, level),
            }
        }
        self.found
    }
}

impl Compared {
    fn compare(&mut self, tiles: &Tiles, level: u8, index: u64, made: Hash) {
        let what = match tiles.stored(level, index) {
            Ok(StoredHash::Whole(hash)) if hash == made => return,
            Ok(StoredHash::Missing) => return,
            Ok(StoredHash::Whole(_)) => "a hash that is not the log's",
            Ok(StoredHash::Damaged) => "a hash that does not hold its checksum",
            Err(_) => return self.unreadable(tiles, level),
        };
        if self.damage.len() < TOLD_MAX {
            self.damage.push(tiles.damage(level, index, what));
        }
    }

    fn unreadable(&mut self, tiles: &Tiles, level: u8) {
        let damage = tiles.damage(level, 0, "the file cannot be read");
        if !self.damage.contains(&damage) {
            self.damage.push(damage);
        }
    }
}

impl Walk<'_> {
    pub(super) fn end_tiles(&mut self) {
        for found in self.tiles.take().into_iter().flat_map(TileCheck::end) {
            let names = vec![self.name(&found.tenant)];
            found.damage.iter().for_each(|damage| self.damage(damage, names.clone()));
            match found.beyond {
                // Where the log is damaged, that may be why.
                Some(beyond) if self.log_damaged || !self.headless.is_empty() => {
                    self.note(&beyond, names.clone());
                }
                Some(beyond) => self.damage(&beyond, names.clone()),
                None => {}
            }
            if found.broken {
                let what = "not compared behind the first record that is lost";
                self.note(&Damage { file: FOLDER.to_owned(), offset: 0, what }, names);
            }
        }
    }
}
