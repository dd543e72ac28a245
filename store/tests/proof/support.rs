//! Trees in memory, and a chance that is the same each time.

use std::convert::Infallible;

use kimberlite_store::{
    proof::{Node, leaf_hash},
    words::Hash,
};
use sha2::{Digest, Sha256};

/// Every full subtree's root, by level.
pub(crate) struct Hashes(Vec<Vec<Hash>>);

impl Hashes {
    pub(crate) fn of(leaves: Vec<Hash>) -> Self {
        let mut levels = vec![leaves];
        while levels[levels.len() - 1].len() > 1 {
            let pairs = levels[levels.len() - 1].as_chunks::<2>().0;
            levels.push(pairs.iter().map(|[left, right]| joined(*left, *right)).collect());
        }
        Self(levels)
    }

    pub(crate) fn digits(size: u64) -> Self {
        Self::of((0..size).map(|n| leaf_hash(n.to_string().as_bytes())).collect())
    }

    /// Leaves that nobody thought of.
    pub(crate) fn random(size: u64, chance: &mut Chance) -> Self {
        let mut leaf = || {
            let words: [u64; 4] = std::array::from_fn(|_| chance.next());
            let bytes = words.map(u64::to_le_bytes);
            Hash(bytes.as_flattened().try_into().expect("four times eight"))
        };
        Self::of((0..size).map(|_| leaf()).collect())
    }

    pub(crate) fn at(&self, node: Node) -> Hash {
        self.0[usize::from(node.level)][node.index as usize]
    }

    pub(crate) fn read(&self) -> impl FnMut(Node) -> Result<Hash, Infallible> {
        |node| Ok(self.at(node))
    }
}

pub(crate) fn joined(left: Hash, right: Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(left.0);
    hasher.update(right.0);
    Hash(hasher.finalize().into())
}

/// Numbers from a seed (`SplitMix64`).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
