//! The upper levels of a tenant's tree on disk: derived files, from which proofs are made without hashing the log.
//!
//! Leaf hashes stand in the index already. Above them every eighth level is kept, as the roots of full subtrees, 256 of
//! which make a tile (C2SP tlog-tiles). A hash that is missing or does not hold its checksum is made again from the
//! level below, at last from the index, and put back: so the files may be deleted, and need no sync.

use std::{collections::HashMap, io, sync::Arc};

use parking_lot::Mutex;

use crate::{
    disk::{Disk, DiskFile},
    error::{Damage, ReadError},
    index::View,
    proof::{Node, Place, TILE_HASHES},
    tree::{Tree, node},
    words::{Hash, Hex},
};

/// Holds a file for each tenant and level.
pub(crate) const FOLDER: &str = "tiles";
/// A hash and its CRC-32.
const ENTRY_BYTES: usize = 36;
const SECTOR: usize = 512;
const TILE: u64 = TILE_HASHES as u64;
/// Levels of the tree between two that are kept.
const STEP: u8 = 8;

/// A tenant's files.
#[derive(Debug)]
pub(crate) struct Tiles {
    disk: Arc<dyn Disk>,
    tenant: [u8; 16],
    files: Mutex<HashMap<u8, Arc<dyn DiskFile>>>,
}

impl Tiles {
    /// Makes the folder where it is absent.
    pub(crate) fn open(disk: Arc<dyn Disk>, tenant: [u8; 16]) -> io::Result<Self> {
        disk.make_folder(FOLDER)?;
        Ok(Self { disk, tenant, files: Mutex::default() })
    }

    /// Those that are there, of which nothing is to be written.
    pub(crate) fn existing(disk: Arc<dyn Disk>, tenant: [u8; 16]) -> Self {
        Self { disk, tenant, files: Mutex::default() }
    }

    #[cfg(test)]
    pub(crate) fn tenant(&self) -> [u8; 16] {
        self.tenant
    }

    /// Levels that have files.
    pub(crate) fn levels() -> std::ops::RangeInclusive<u8> {
        1..=(u64::BITS as u8 - 1) / STEP
    }

    /// The level of tiles that has this subtree's hash, if one has.
    pub(crate) fn level_of(node: Node) -> Option<u8> {
        node.level.is_multiple_of(STEP).then_some(node.level / STEP)
    }

    fn path(&self, level: u8) -> String {
        format!("{FOLDER}/{}.{level}", Hex(&self.tenant))
    }

    fn file(&self, level: u8) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(&level) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(level);
        let file =
            if self.disk.exists(&path)? { self.disk.open(&path) } else { self.disk.create(&path) }?;
        files.insert(level, Arc::clone(&file));
        Ok(file)
    }

    /// Forgets everything: it is of another history.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let mut files = self.files.lock();
        files.clear();
        for level in Self::levels() {
            let path = self.path(level);
            if self.disk.exists(&path)? {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Writes neighbouring hashes of one level.
    fn write(&self, level: u8, first: u64, hashes: &[Hash]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(hashes.len() * ENTRY_BYTES);
        for (index, hash) in (first..).zip(hashes) {
            bytes.extend(hash.0);
            bytes.extend(check(level, index, &hash.0).to_le_bytes());
        }
        self.file(level)?.write_all_at(&bytes, first * ENTRY_BYTES as u64)
    }

    /// Neighbouring hashes of one level; `None` for one that is missing or damaged.
    fn read(&self, level: u8, first: u64, count: u64) -> io::Result<Vec<Option<Hash>>> {
        let mut bytes = vec![0; count as usize * ENTRY_BYTES];
        let read = self.file(level)?.read_at(&mut bytes, first * ENTRY_BYTES as u64)?;
        bytes[read..].fill(0);
        let hashes = (first..).zip(bytes.chunks_exact(ENTRY_BYTES)).map(|(index, entry)| {
            let (hash, sum) = entry.split_first_chunk::<32>()?;
            (sum == check(level, index, hash).to_le_bytes()).then_some(Hash(*hash))
        });
        Ok(hashes.collect())
    }
}

/// What checking a folder needs to know of the files, none of which it makes.
impl Tiles {
    /// The hash that is stored.
    pub(crate) fn stored(&self, level: u8, index: u64) -> io::Result<StoredHash> {
        let at = index * ENTRY_BYTES as u64;
        let mut entry = [0; ENTRY_BYTES];
        let read =
            if self.is_there(level)? { self.file(level)?.read_at(&mut entry, at)? } else { 0 };
        // A file is not synced: of an entry on two sectors a crash can leave either.
        let (one, other) = entry.split_at(ENTRY_BYTES.min(SECTOR - at as usize % SECTOR));
        let is_zero = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
        if read < ENTRY_BYTES || is_zero(one) || is_zero(other) {
            return Ok(StoredHash::Missing);
        }
        let (hash, sum) = entry.split_first_chunk::<32>().expect("it is longer");
        let holds = sum == check(level, index, hash).to_le_bytes();
        Ok(if holds { StoredHash::Whole(Hash(*hash)) } else { StoredHash::Damaged })
    }

    /// The first entry from this one on that is not missing.
    pub(crate) fn holds_from(&self, level: u8, first: u64) -> io::Result<Option<u64>> {
        if !self.is_there(level)? {
            return Ok(None);
        }
        for index in first..self.file(level)?.length()? / ENTRY_BYTES as u64 {
            if self.stored(level, index)? != StoredHash::Missing {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Whether there is a file of the tenant.
    pub(crate) fn is_any(&self) -> io::Result<bool> {
        self.is_there(1)
    }

    fn is_there(&self, level: u8) -> io::Result<bool> {
        Ok(self.files.lock().contains_key(&level) || self.disk.exists(&self.path(level))?)
    }

    /// Damage of one entry.
    pub(crate) fn damage(&self, level: u8, index: u64, what: &'static str) -> Damage {
        Damage { file: self.path(level), offset: index * ENTRY_BYTES as u64, what }
    }
}

/// A hash as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredHash {
    /// As it was written.
    Whole(Hash),
    /// It is made when it is needed.
    Missing,
    /// It is not what was written.
    Damaged,
}

fn check(level: u8, index: u64, hash: &[u8; 32]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[level]);
    hasher.update(&index.to_le_bytes());
    hasher.update(hash);
    hasher.finalize()
}

/// Hashes of a tenant's tree, from its tiles and its index.
pub(crate) struct Hashes<'a> {
    pub(crate) tiles: &'a Tiles,
    pub(crate) view: &'a View,
}

impl Hashes<'_> {
    /// The root of a full subtree.
    pub(crate) fn node(&self, wanted: Node) -> Result<Hash, ReadError> {
        let place = Place::of(wanted).ok_or(ReadError::NoRecord)?;
        let first = place.index * TILE + u64::from(place.first);
        Ok(full_root(self.range(place.level, first, u64::from(place.count))?))
    }

    /// Neighbouring hashes of a tile's level. All of them must be full subtrees of committed records.
    pub(crate) fn range(&self, level: u8, first: u64, count: u64) -> Result<Vec<Hash>, ReadError> {
        if level == 0 {
            return self.leaves(first, count);
        }
        let io = |source| ReadError::Io { file: self.tiles.path(level), source };
        let mut hashes = Vec::with_capacity(count as usize);
        for (index, found) in (first..).zip(self.tiles.read(level, first, count).map_err(io)?) {
            if let Some(hash) = found {
                hashes.push(hash);
                continue;
            }
            let hash = full_root(self.range(level - 1, index * TILE, TILE)?);
            self.tiles.write(level, index, &[hash]).map_err(io)?;
            hashes.push(hash);
        }
        Ok(hashes)
    }

    fn leaves(&self, first: u64, count: u64) -> Result<Vec<Hash>, ReadError> {
        let mut hashes = Vec::with_capacity(count as usize);
        let mut at = first;
        while at < first + count {
            let slice = self.view.slice_of(at).ok_or(ReadError::NoRecord)?;
            let mut entries = slice.entries(false);
            let end = slice.end().min(first + count);
            while at < end {
                let leaves = entries.leaves(at, end)?;
                at += leaves.len() as u64;
                hashes.extend(leaves.into_iter().map(|(_, hash)| hash));
            }
        }
        Ok(hashes)
    }

    /// The tree over the first `size` records.
    pub(crate) fn tree(&self, size: u64) -> Result<Tree, ReadError> {
        let (mut at, mut full) = (0, Vec::new());
        while at < size {
            let level = (size - at).ilog2();
            full.push(self.node(Node { level: level as u8, index: at >> level })?);
            at += 1 << level;
        }
        Ok(Tree::resume(size, full))
    }
}

/// The root over a power of two of hashes.
fn full_root(mut hashes: Vec<Hash>) -> Hash {
    while hashes.len() > 1 {
        hashes = hashes.chunks_exact(2).map(|pair| node(pair[0], pair[1])).collect();
    }
    hashes[0]
}

/// Hashes of kept levels on their way to the files: a tile's worth of them at most.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    levels: HashMap<u8, (u64, Vec<Hash>)>,
    held: usize,
}

impl Filled {
    /// Adds a leaf to the tree and keeps what it fills.
    pub(crate) fn push(&mut self, tree: &mut Tree, leaf: Hash, tiles: &Tiles) -> io::Result<()> {
        tree.grow(leaf, |at, hash| {
            if let Some(level) = Tiles::level_of(at) {
                let of_level = self.levels.entry(level);
                let (_, hashes) = of_level.or_insert_with(|| (at.index, Vec::new()));
                hashes.push(hash);
                self.held += 1;
            }
        });
        if self.held < TILE_HASHES.into() { Ok(()) } else { self.write(tiles) }
    }

    /// Writes what was kept.
    pub(crate) fn write(&mut self, tiles: &Tiles) -> io::Result<()> {
        for (level, (first, hashes)) in self.levels.drain() {
            tiles.write(level, first, &hashes)?;
        }
        self.held = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::SimulatedDisk;

    /// However far a log has come since it was looked at, memory holds one hash for each bit of its size and a tile's worth
    /// of what goes to the files; those hold all of it.
    #[test]
    fn memory_for_a_tree_does_not_grow_with_it() {
        const SIZE: u64 = 300_000;
        let tiles = Tiles::open(SimulatedDisk::new(), [7; 16]).unwrap();
        let (mut tree, mut filled) = (Tree::default(), Filled::default());
        let leaf = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            Hash(bytes)
        };
        for n in 0..SIZE {
            filled.push(&mut tree, leaf(n), &tiles).unwrap();
            assert_eq!(tree.held(), (n + 1).count_ones() as usize);
            let held: usize = filled.levels.values().map(|(_, hashes)| hashes.len()).sum();
            assert!(held < TILE_HASHES.into(), "{held} hashes wait behind {n} records");
        }
        filled.write(&tiles).unwrap();
        let read = |level, first, count| {
            let found = tiles.read(level, first, count).unwrap();
            found.into_iter().map(|hash| hash.expect("it was written")).collect::<Vec<_>>()
        };
        let below = (0..TILE).map(|n| leaf(1000 * TILE + n)).collect();
        assert_eq!(read(1, 0, SIZE / TILE)[1000], full_root(below));
        for (index, hash) in read(2, 0, SIZE / TILE / TILE).into_iter().enumerate() {
            assert_eq!(hash, full_root(read(1, index as u64 * TILE, TILE)), "{index}");
        }
    }
}
