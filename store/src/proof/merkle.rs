//! Proofs of an RFC 6962 tree, made from hashes that a closure reads, and checked (RFC 9162, sections 2.1.3 and 2.1.4).

use sha2::{Digest, Sha256};

use crate::{tree::node, words::Hash};

/// Largest size of a tree: proofs have at most [`HASHES_MAX`] hashes then.
pub const SIZE_MAX: u64 = i64::MAX as u64;
/// Most hashes of a proof.
pub const HASHES_MAX: usize = 63;

/// Why a proof does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The index is not below the size, or a tree would shrink.
    #[error("the tree is too small for what is to be proved")]
    Size,
    /// Too few or too many hashes.
    #[error("the proof has {found} hashes, not {expected}")]
    Length {
        /// For this index and size.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// The hashes lead to another root of the tree.
    #[error("the proof leads to another root")]
    Root,
    /// The hashes lead to another root of the smaller tree.
    #[error("the proof starts from another root than the earlier one")]
    EarlierRoot,
}

/// A subtree that is full: 2^`level` leaves from `index` times 2^`level` on. At level 0 it is a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// 0 for a leaf, below 64.
    pub level: u8,
    /// From the left, among those of its level.
    pub index: u64,
}

/// SHA-256(0x00 ‖ data).
pub fn leaf_hash(data: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(data);
    Hash(hasher.finalize().into())
}

/// The root of a tree without leaves.
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// Where a tree of `size` leaves, two or more, is split: the largest power of two below it.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The root over the leaves from `from` up to and without `to`. `from` is a multiple of the smallest power of two that is not
/// below their number, as the subtrees of proofs have it; 0 gives the root of a whole tree.
///
/// # Errors
/// What `read` answers.
pub fn subtree_root<E>(
    from: u64,
    to: u64,
    read: &mut impl FnMut(Node) -> Result<Hash, E>,
) -> Result<Hash, E> {
    // Full subtrees from the largest to the smallest; their roots are joined from the right.
    let (mut at, mut roots) = (from, Vec::new());
    while at < to {
        let level = (to - at).ilog2();
        roots.push(read(Node { level: level as u8, index: at >> level })?);
        at += 1 << level;
    }
    let mut roots = roots.into_iter().rev();
    let Some(last) = roots.next() else { return Ok(empty_root()) };
    Ok(roots.fold(last, |right, left| node(left, right)))
}

/// The hashes that lead from leaf `index` to the root of the tree of `size` leaves, the leaf's sibling first.
///
/// # Errors
/// What `read` answers.
///
/// # Panics
/// When `index` is not below `size`, or `size` above [`SIZE_MAX`].
pub fn inclusion<E>(
    index: u64,
    size: u64,
    mut read: impl FnMut(Node) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    assert!(index < size && size <= SIZE_MAX, "leaf {index} of {size}");
    let (mut from, mut to, mut path) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(subtree_root(middle, to, &mut read)?);
            to = middle;
        } else {
            path.push(subtree_root(from, middle, &mut read)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The hashes that show the tree of `size` leaves to begin with that of `earlier` ones. None when either is empty or they are
/// the same.
///
/// # Errors
/// What `read` answers.
///
/// # Panics
/// When `earlier` is above `size`, or `size` above [`SIZE_MAX`].
pub fn consistency<E>(
    earlier: u64,
    size: u64,
    mut read: impl FnMut(Node) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    assert!(earlier <= size && size <= SIZE_MAX, "{earlier} of {size}");
    let mut proof = Vec::new();
    if earlier == 0 {
        return Ok(proof);
    }
    let (mut from, mut to) = (0, size);
    while earlier < to {
        let middle = from + split(to - from);
        if earlier <= middle {
            proof.push(subtree_root(middle, to, &mut read)?);
            to = middle;
        } else {
            proof.push(subtree_root(from, middle, &mut read)?);
            from = middle;
        }
    }
    // The earlier tree's own root is known to whoever asks.
    if from > 0 {
        proof.push(subtree_root(from, to, &mut read)?);
    }
    proof.reverse();
    Ok(proof)
}

/// How many hashes lead from a leaf to the root.
fn inclusion_length(index: u64, size: u64) -> usize {
    // Below where the ways of this leaf and the last one part each level has a sibling; above, each that is to the left.
    let inner = u64::BITS - (index ^ (size - 1)).leading_zeros();
    (inner + (index.checked_shr(inner).unwrap_or(0)).count_ones()) as usize
}

/// Climbs from a node on the right-most way or left of it. `last` is the index of the last node on its level.
struct Climb {
    index: u64,
    last: u64,
}

impl Climb {
    /// Goes up one step, or up to the next one that has a sibling; says whether that one is on the left.
    fn sibling_is_left(&mut self) -> bool {
        let left = self.index & 1 == 1 || self.index == self.last;
        if left && self.index & 1 == 0 {
            let levels = self.index.trailing_zeros().min(63);
            self.index >>= levels;
            self.last >>= levels;
        }
        self.index >>= 1;
        self.last >>= 1;
        left
    }
}

/// The root that the hashes lead to from a leaf.
///
/// # Errors
/// [`ProofError::Size`], [`ProofError::Length`].
pub fn root_of_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
) -> Result<Hash, ProofError> {
    if index >= size || size > SIZE_MAX {
        return Err(ProofError::Size);
    }
    let (expected, found) = (inclusion_length(index, size), proof.len());
    if found != expected {
        return Err(ProofError::Length { expected, found });
    }
    let mut climb = Climb { index, last: size - 1 };
    Ok(proof.iter().fold(leaf, |hash, sibling| {
        if climb.sibling_is_left() { node(*sibling, hash) } else { node(hash, *sibling) }
    }))
}

/// Checks that a leaf stands at `index` of the tree of `size` leaves with this root.
///
/// # Errors
/// [`ProofError::Size`], [`ProofError::Length`], [`ProofError::Root`].
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    root: Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    let found = root_of_inclusion(leaf, index, size, proof)?;
    if found == root { Ok(()) } else { Err(ProofError::Root) }
}

/// How many hashes show that one tree begins with another.
fn consistency_length(earlier: u64, size: u64) -> usize {
    if earlier == 0 || earlier == size {
        return 0;
    }
    // From the largest full subtree at the earlier tree's end, whose root is left out where it is the whole tree.
    let level = earlier.trailing_zeros();
    let whole = earlier.is_power_of_two();
    inclusion_length((earlier - 1) >> level, ((size - 1) >> level) + 1) + usize::from(!whole)
}

/// Checks that the tree `(size, root)` begins with all of the tree `earlier`.
///
/// # Errors
/// See [`ProofError`].
pub fn verify_consistency(
    earlier: (u64, Hash),
    (size, root): (u64, Hash),
    proof: &[Hash],
) -> Result<(), ProofError> {
    let (earlier, earlier_root) = earlier;
    if earlier > size || size > SIZE_MAX {
        return Err(ProofError::Size);
    }
    let (expected, found) = (consistency_length(earlier, size), proof.len());
    if found != expected {
        return Err(ProofError::Length { expected, found });
    }
    if earlier == 0 {
        let same = earlier_root == empty_root();
        return if same { Ok(()) } else { Err(ProofError::EarlierRoot) };
    }
    if earlier == size {
        return if earlier_root == root { Ok(()) } else { Err(ProofError::Root) };
    }
    let (start, rest) = match proof.split_first() {
        Some((first, rest)) if !earlier.is_power_of_two() => (*first, rest),
        _ => (earlier_root, proof),
    };
    let level = earlier.trailing_zeros();
    let mut climb = Climb { index: (earlier - 1) >> level, last: (size - 1) >> level };
    let (mut old, mut new) = (start, start);
    for sibling in rest {
        if climb.sibling_is_left() {
            old = node(*sibling, old);
            new = node(*sibling, new);
        } else {
            new = node(new, *sibling);
        }
    }
    if old != earlier_root {
        Err(ProofError::EarlierRoot)
    } else if new == root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}
