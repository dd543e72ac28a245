//! The Merkle tree over a log's records (RFC 6962): its root, from leaf hashes.

use sha2::{Digest, Sha256, block_api::compress256};

use crate::{proof::Node, words::Hash};

/// A tree that grows at its end. Remembers the roots of its full subtrees alone.
#[derive(Debug, Default)]
pub struct Tree {
    size: u64,
    /// From the largest to the smallest: one for each bit that is set in `size`.
    full: Vec<Hash>,
}

impl Tree {
    /// A tree of `size` leaves, from the roots of its full subtrees, the largest first.
    pub(crate) fn resume(size: u64, full: Vec<Hash>) -> Self {
        assert!(full.len() == size.count_ones() as usize, "a root for each bit");
        Self { size, full }
    }

    /// Leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Hashes in memory.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.full.len()
    }

    /// Adds a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.grow(leaf, |_, _| {});
    }

    /// Adds a leaf by its hash, and tells of each subtree above it that is full now.
    pub(crate) fn grow(&mut self, leaf: Hash, mut filled: impl FnMut(Node, Hash)) {
        let mut hash = leaf;
        for level in 1..=self.size.trailing_ones() as u8 {
            hash = node(self.full.pop().expect("a root for each bit"), hash);
            filled(Node { level, index: self.size >> level }, hash);
        }
        self.full.push(hash);
        self.size += 1;
    }

    /// The root over all leaves.
    pub fn root(&self) -> Hash {
        let mut full = self.full.iter().rev().copied();
        let Some(last) = full.next() else { return Hash(Sha256::digest([]).into()) };
        full.fold(last, |right, left| node(left, right))
    }
}

/// What SHA-256 begins with (FIPS 180-4, section 5.3.3).
const SHA_256_BEGIN: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The hash over two halves: SHA-256 of a 1 and both. Padded here, since a hasher that does not know how much comes takes a quarter
/// longer, and there is one of these for each record.
pub(crate) fn node(left: Hash, right: Hash) -> Hash {
    let mut blocks = [[0; 64]; 2];
    let [first, second] = &mut blocks;
    first[0] = 1;
    first[1..33].copy_from_slice(&left.0);
    first[33..].copy_from_slice(&right.0[..31]);
    second[0] = right.0[31];
    second[1] = 0x80;
    second[56..].copy_from_slice(&(8 * 65_u64).to_be_bytes());
    let mut state = SHA_256_BEGIN;
    compress256(&mut state, &blocks);
    let mut hash = [0; 32];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    Hash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, section 2.1, as it stands there.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash(Sha256::digest([]).into()),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(defined(left), defined(right))
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_definition() {
        let (mut tree, mut leaves) = (Tree::default(), Vec::new());
        for n in 0..300_u16 {
            assert_eq!(tree.root(), defined(&leaves), "{n} leaves");
            let leaf = Hash(Sha256::digest(n.to_le_bytes()).into());
            tree.push(leaf);
            leaves.push(leaf);
        }
    }

    #[test]
    fn two_halves_are_hashed_as_one_text() {
        for n in 0..=255 {
            let half = |i: u8| Hash(Sha256::digest([n, i]).into());
            let text = [&[1], &half(0).0[..], &half(1).0].concat();
            assert_eq!(node(half(0), half(1)), Hash(Sha256::digest(text).into()));
        }
    }

    /// From the test vectors of RFC 6962's reference implementation.
    #[test]
    fn known_roots_come_out() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"@ABC",
            b"PQRSTUVW",
            b"`abcdefghijklmno",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::default();
        for (input, root) in inputs.iter().zip(roots) {
            tree.push(Hash(Sha256::digest([&[0], *input].concat()).into()));
            assert_eq!(tree.root().to_string(), root);
        }
    }
}
