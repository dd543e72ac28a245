//! What other implementations of the standards say.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use kimberlite_store::{
    proof::{
        Checkpoint, CosignerKey, LogKey, Node, Note, Place, ProofError, TILE_HASHES, Tile,
        TilePath, consistency, inclusion, leaf_hash, subtree_root, verify_consistency,
        verify_inclusion,
    },
    words::Hash,
};
use sha2::Sha256;
use signed_note::Verifier as _;
use tlog_tiles::{
    Hash as Theirs, HashReader, check_record, check_tree, prove_record, prove_tree,
    split_stored_hash_index, stored_hash_index, tree_hash,
};

use crate::support::{Chance, Hashes};

impl HashReader for Hashes {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Theirs>, tlog_tiles::Error> {
        let read = |index: &u64| {
            let (level, index) = split_stored_hash_index(*index);
            Theirs(self.at(Node { level, index }).0)
        };
        Ok(indexes.iter().map(read).collect())
    }
}

fn theirs(hashes: &[Hash]) -> Vec<Theirs> {
    hashes.iter().map(|h| Theirs(h.0)).collect()
}

/// Proofs of a tree of `size` leaves and of an earlier one, both ways.
fn agree(tree: &Hashes, size: u64, earlier: u64, index: u64) {
    let root = subtree_root(0, size, &mut tree.read()).unwrap();
    assert_eq!(root.0, tree_hash(size, tree).unwrap().0, "{size} leaves");
    let leaf = tree.at(Node { level: 0, index });
    let path = inclusion(index, size, tree.read()).unwrap();
    assert_eq!(theirs(&path), prove_record(size, index, tree).unwrap(), "{index} in {size}");
    check_record(&theirs(&path), size, Theirs(root.0), index, Theirs(leaf.0)).unwrap();
    verify_inclusion(leaf, index, size, root, &path).unwrap();
    if earlier > 0 {
        let before = subtree_root(0, earlier, &mut tree.read()).unwrap();
        let proof = consistency(earlier, size, tree.read()).unwrap();
        assert_eq!(theirs(&proof), prove_tree(size, earlier, tree).unwrap(), "{earlier} to {size}");
        check_tree(&theirs(&proof), size, Theirs(root.0), earlier, Theirs(before.0)).unwrap();
        verify_consistency((earlier, before), (size, root), &proof).unwrap();
    }
}

#[test]
fn small_trees_agree_with_another_implementation_everywhere() {
    let tree = Hashes::digits(70);
    for size in 1..=70 {
        for earlier in 0..=size {
            agree(&tree, size, earlier, earlier.min(size - 1));
        }
    }
}

#[test]
fn trees_of_up_to_a_million_leaves_agree_with_another_implementation() {
    let mut chance = Chance(1);
    let tree = Hashes::random(1_000_000, &mut chance);
    for _ in 0..300 {
        // Every size of tree alike, not only large ones.
        let bits = chance.below(20);
        let size = 1 + chance.below(2 << bits).min(999_999);
        let (earlier, index) = (chance.below(size + 1), chance.below(size));
        agree(&tree, size, earlier, index);
        let end = size.next_power_of_two().min(1_000_000);
        agree(&tree, end, size.min(end), index);
    }
    agree(&tree, 1_000_000, 999_999, 999_999);
}

/// What holds for one tree holds for no other: one bit, leaf or hash changed, and both say no.
#[test]
fn spoiled_proofs_are_refused_here_and_there() {
    let mut chance = Chance(2);
    let tree = Hashes::digits(1000);
    for _ in 0..2000 {
        let size = 2 + chance.below(998);
        let (earlier, index) = (1 + chance.below(size - 1), chance.below(size));
        let root = subtree_root(0, size, &mut tree.read()).unwrap();
        let before = subtree_root(0, earlier, &mut tree.read()).unwrap();
        let leaf = tree.at(Node { level: 0, index });
        let mut path = inclusion(index, size, tree.read()).unwrap();
        let mut proof = consistency(earlier, size, tree.read()).unwrap();
        for hashes in [&mut path, &mut proof] {
            let at = chance.below(hashes.len() as u64) as usize;
            match chance.below(3) {
                0 => hashes[at].0[chance.below(32) as usize] ^= 1 << chance.below(8),
                1 => hashes.truncate(at),
                _ => hashes.push(leaf),
            }
        }
        let (ours, other) = (
            verify_inclusion(leaf, index, size, root, &path),
            check_record(&theirs(&path), size, Theirs(root.0), index, Theirs(leaf.0)),
        );
        assert!(ours.is_err() && other.is_err(), "{index} in {size}");
        let (ours, other) = (
            verify_consistency((earlier, before), (size, root), &proof),
            check_tree(&theirs(&proof), size, Theirs(root.0), earlier, Theirs(before.0)),
        );
        assert!(ours.is_err() && other.is_err(), "{earlier} to {size}");
    }
}

#[test]
fn a_tree_built_by_another_implementation_has_our_roots_and_proofs() {
    const LEAVES: u64 = 1_000_000;
    let mut chance = Chance(3);
    let mut leaf = || (0..chance.below(24)).map(|_| chance.next() as u8).collect::<Vec<_>>();
    let leaves: Vec<Vec<u8>> = (0..LEAVES).map(|_| leaf()).collect();
    // Its full subtrees are those of every smaller tree.
    let ours = Hashes::of(leaves.iter().map(|l| leaf_hash(l)).collect());
    // Small ones all, then of every magnitude, and the ends of it.
    let mut sizes: Vec<u64> = (1..=40).collect();
    for bits in 6..20_u32 {
        sizes.extend([(1 << bits) - 1, 1 << bits, (1 << bits) + 1 + chance.below(1 << bits)]);
    }
    sizes.extend([LEAVES - 1, LEAVES]);
    sizes.retain(|size| *size <= LEAVES);
    sizes.sort_unstable();
    let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut rest = leaves.into_iter();
    for size in sizes {
        let missing = size - tree.len();
        rest.by_ref().take(missing as usize).for_each(|leaf| tree.push(leaf));
        let root = subtree_root(0, size, &mut ours.read()).unwrap();
        assert_eq!(root.0.as_slice(), tree.root().as_bytes().as_slice(), "{size} leaves");
        for _ in 0..5 {
            let (index, added) = (chance.below(size), chance.below(size));
            let path = inclusion(index, size, ours.read()).unwrap();
            let path = path.iter().flat_map(|h| h.0).collect::<Vec<_>>();
            assert_eq!(path, tree.prove_inclusion(index as usize).as_bytes(), "{index} in {size}");
            if added > 0 {
                let proof = consistency(size - added, size, ours.read()).unwrap();
                let proof = proof.iter().flat_map(|h| h.0).collect::<Vec<_>>();
                let other = tree.prove_consistency(added as usize);
                assert_eq!(proof, other.as_bytes(), "{added} before {size}");
            }
        }
    }
    assert_eq!(tree.len(), LEAVES);
}

#[test]
fn nodes_and_tiles_lie_where_another_implementation_has_them() {
    let mut chance = Chance(4);
    for _ in 0..5000 {
        let node = Node { level: chance.below(24) as u8, index: chance.next() >> 40 };
        let place = Place::of(node).unwrap();
        let theirs = tlog_tiles::Tile::from_index(8, stored_hash_index(node.level, node.index));
        let end = u32::from(place.first + place.count);
        let found = (theirs.level(), theirs.level_index(), theirs.width());
        assert_eq!(found, (place.level, place.index, end), "{node:?}");
        let tile = Tile { level: place.level, index: place.index, width: end as u16 };
        let path = TilePath::Hashes(tile).to_string();
        assert_eq!(theirs.path(), path.replace("tile/", "tile/8/"));
    }
    for _ in 0..300 {
        let before = chance.next() >> (40 + chance.below(24));
        let size = before + 1 + chance.below(70_000);
        for tile in tlog_tiles::Tile::new_tiles(8, before, size) {
            let ours = Tile::at(tile.level(), tile.level_index(), size).unwrap();
            assert_eq!(u32::from(ours.width), tile.width(), "{tile:?} of {size}");
            assert!(ours.width <= TILE_HASHES);
        }
    }
}

#[test]
fn notes_and_checkpoints_are_read_alike() {
    let key = LogKey::new("log.example/other", &[7; 32]).unwrap();
    let cosigner = CosignerKey::new("w.example/other", &[8; 32]).unwrap();
    let root = leaf_hash(b"only");
    let checkpoint = Checkpoint { origin: "log.example/other".to_owned(), size: 1, root };
    let mut note = checkpoint.sign(&key);
    note.add(cosigner.cosign(note.text(), 1_800_000_000));
    let text = note.to_string();

    let theirs = signed_note::Note::from_bytes(text.as_bytes()).unwrap();
    assert_eq!(theirs.to_bytes(), text.as_bytes());
    let verifier = signed_note::StandardVerifier::new(&key.verifier().to_string()).unwrap();
    assert_eq!((verifier.name(), verifier.key_id()), (key.verifier().name(), key.verifier().id()));
    let known = signed_note::VerifierList::new(vec![Box::new(verifier)]);
    let (held, unknown) = theirs.verify(&known).unwrap();
    assert_eq!((held.len(), unknown.len()), (1, 1));
    let read = tlog_tiles::Checkpoint::from_bytes(theirs.text()).unwrap();
    assert_eq!((read.origin(), read.size(), read.hash().0), ("log.example/other", 1, root.0));

    // Whatever one of us refuses the other does, byte by byte, but that of a cosigner we know and they do not.
    for at in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] ^= 1;
        let ours = Note::parse(&bytes).ok().is_some_and(|n| n.verify([key.verifier()]).is_ok());
        let other = signed_note::Note::from_bytes(&bytes).ok();
        assert_eq!(ours, other.is_some_and(|n| n.verify(&known).is_ok()), "byte {at}");
        let all = [key.verifier(), cosigner.verifier()];
        let whole = Note::parse(&bytes).ok().and_then(|n| n.verify(all).ok().map(|s| s.len()));
        assert_ne!(whole, Some(2), "byte {at} is covered");
    }
    let holds = verify_inclusion(root, 0, 1, Hash([0; 32]), &[]);
    assert_eq!(holds, Err(ProofError::Root));
}
