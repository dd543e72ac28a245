//! A tree of ten million records as its tiles keep it.

use std::{cell::Cell, convert::Infallible};

use kimberlite_store::{
    proof::{Node, Place},
    words::Hash,
};

use crate::support::{Chance, joined};

/// Records.
pub(crate) const SIZE: u64 = 10_000_000;
/// Hashes of a tile.
pub(crate) const TILE: u64 = 256;

/// Records after which leaf hashes come again, so that the tree is made in no time.
const CYCLE: u64 = TILE * TILE;

/// Every eighth level. Leaf hashes are made when they are read, which takes longer than reading them.
pub(crate) struct Kept {
    levels: Vec<Vec<Hash>>,
    made: Cell<u64>,
}

impl Kept {
    pub(crate) fn new() -> Self {
        let mut kept = Self { levels: vec![Vec::new()], made: Cell::new(0) };
        let mut below = SIZE;
        while below >= TILE {
            let level = kept.levels.len() - 1;
            let root = |tile| kept.root(kept.hashes(level, tile * TILE, TILE));
            let again = if level == 0 { CYCLE / TILE } else { SIZE };
            let distinct: Vec<_> = (0..again.min(below / TILE)).map(root).collect();
            below /= TILE;
            let roots: Vec<_> = distinct.into_iter().cycle().take(below as usize).collect();
            kept.levels.push(roots);
        }
        kept
    }

    /// A leaf's hash.
    pub(crate) fn leaf(index: u64) -> Hash {
        let mut chance = Chance(index % CYCLE);
        Hash(std::array::from_fn(|_| chance.next() as u8))
    }

    /// Hashes over two others that were made since this was asked last.
    pub(crate) fn made(&self) -> u64 {
        self.made.take()
    }

    fn hashes(&self, level: usize, first: u64, count: u64) -> Vec<Hash> {
        if level == 0 {
            return (first..first + count).map(Self::leaf).collect();
        }
        self.levels[level][first as usize..(first + count) as usize].to_vec()
    }

    /// Reads full subtrees' roots, as proofs ask for them.
    pub(crate) fn read(&self) -> impl Fn(Node) -> Result<Hash, Infallible> + Copy {
        |node| {
            let place = Place::of(node).expect("there are no higher levels");
            let first = place.index * TILE + u64::from(place.first);
            Ok(self.root(self.hashes(usize::from(place.level), first, u64::from(place.count))))
        }
    }

    fn root(&self, mut hashes: Vec<Hash>) -> Hash {
        self.made.set(self.made.get() + hashes.len() as u64 - 1);
        while hashes.len() > 1 {
            hashes = hashes.as_chunks::<2>().0.iter().map(|[l, r]| joined(*l, *r)).collect();
        }
        hashes[0]
    }
}
