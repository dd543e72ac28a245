//! What a proof costs in a log of ten million records: a bound on its work here, the time in `benches/kernel.rs`.

use kimberlite_store::proof::{
    consistency, inclusion, subtree_root, verify_consistency, verify_inclusion,
};

use crate::{
    kept::{Kept, SIZE, TILE},
    support::Chance,
};

/// Those of the tiles above a record, one a level, and of the tiles at the tree's end.
const HASHES_MAX: u64 = 6 * (TILE - 1);

#[test]
fn a_proof_among_ten_million_makes_no_more_hashes_than_six_tiles_have() {
    let kept = Kept::new();
    let read = kept.read();
    let root = subtree_root(0, SIZE, &mut { read }).unwrap();
    let mut chance = Chance(5);
    for n in 0..500 {
        // Both ends, where partial tiles are, and anything between.
        let index = [chance.below(SIZE), n, SIZE - 1 - n][n as usize % 3];
        kept.made();
        let path = inclusion(index, SIZE, read).unwrap();
        let made = kept.made();
        assert!(made <= HASHES_MAX, "{made} hashes for record {index}");
        verify_inclusion(Kept::leaf(index), index, SIZE, root, &path).unwrap();
        let proof = consistency(index + 1, SIZE, read).unwrap();
        let made = kept.made();
        assert!(made <= HASHES_MAX, "{made} hashes for the growth from {index}");
        let before = subtree_root(0, index + 1, &mut { read }).unwrap();
        verify_consistency((index + 1, before), (SIZE, root), &proof).unwrap();
    }
}
