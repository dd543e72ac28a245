//! Tiles of a log whose tree has three levels of them.

use std::collections::BTreeMap;

use kimberlite_store::{Store, Tenant, proof::leaf_hash, words::Hash};
use sha2::{Digest, Sha256};

use crate::{
    signing::{Place, covered, fill, proofs},
    verify::{Told, changed, check, files},
};

/// What level 2 begins with, and then some: the widths are those of the standard's own example.
const RECORDS: u64 = 70_000;

fn joined(left: Hash, right: Hash) -> Hash {
    Hash(Sha256::digest([&[1][..], &left.0, &right.0].concat()).into())
}

/// The root over 256 hashes.
fn root(hashes: &[Hash]) -> Hash {
    let mut hashes = hashes.to_vec();
    while hashes.len() > 1 {
        hashes = hashes.as_chunks::<2>().0.iter().map(|[l, r]| joined(*l, *r)).collect();
    }
    hashes[0]
}

async fn tile(store: &Store, tenant: &Tenant, path: &str) -> Option<Vec<u8>> {
    store.tile(tenant, path.parse().unwrap()).await.unwrap()
}

/// Hashes of all leaves, from the leaves.
async fn leaves(store: &Store, tenant: &Tenant) -> Vec<Hash> {
    let mut hashes = Vec::new();
    for index in 0..RECORDS.div_ceil(256) {
        let width = (RECORDS - index * 256).min(256);
        let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
        let path = format!("tile/entries/{index:03}{partial}");
        let bundle = tile(store, tenant, &path).await.unwrap();
        let mut rest = &bundle[..];
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (leaf, behind) = behind.split_at(usize::from(u16::from_be_bytes(*length)));
            hashes.push(leaf_hash(leaf));
            rest = behind;
        }
    }
    hashes
}

/// Every tile that the standard gives such a log, as it would be made from its leaves.
async fn expected(store: &Store, tenant: &Tenant) -> BTreeMap<String, Vec<u8>> {
    let (mut level, mut hashes) = (0, leaves(store, tenant).await);
    assert_eq!(hashes.len() as u64, RECORDS);
    let mut tiles = BTreeMap::new();
    while !hashes.is_empty() {
        for (index, tile) in hashes.chunks(256).enumerate() {
            let width = tile.len();
            let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
            let bytes = tile.iter().flat_map(|hash| hash.0).collect();
            tiles.insert(format!("tile/{level}/{index:03}{partial}"), bytes);
        }
        hashes = hashes.as_chunks::<256>().0.iter().map(|tile| root(tile)).collect();
        level += 1;
    }
    tiles
}

async fn three_levels() -> (Place, Store, Tenant) {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    for n in 0..RECORDS / 1000 {
        fill(&store, &tenant, n * 1000..n * 1000 + 1000).await;
    }
    assert_eq!(covered(&store, &tenant).await.checkpoint.size, RECORDS);
    (place, store, tenant)
}

#[tokio::test]
async fn a_log_with_three_levels_of_tiles_shows_each_and_makes_them_anew() {
    let (place, store, tenant) = three_levels().await;
    let tiles = expected(&store, &tenant).await;
    for path in
        ["tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]
    {
        assert!(tiles.contains_key(path), "{path}");
    }
    assert_eq!(tiles.len(), 273 + 1 + 1 + 1 + 1);
    let some = [0, 65_535, 65_536, 69_887, 69_999];
    let were = proofs(&store, &tenant, &some).await;
    let check = async |store: &Store, tenant: &Tenant, how| {
        for (path, bytes) in &tiles {
            let found = tile(store, tenant, path).await;
            assert!(found.as_ref() == Some(bytes), "{path} {how}");
        }
        for path in ["tile/2/000", "tile/2/000.p/2", "tile/2/001.p/1", "tile/3/000.p/1"] {
            assert_eq!(tile(store, tenant, path).await, None, "{path} {how}");
        }
        assert_eq!(proofs(store, tenant, &some).await, were, "{how}");
    };
    check(&store, &tenant, "as they were written").await;
    store.close().await;
    drop((store, tenant));
    let folder = place.data().join("tiles");
    let level = |level: u8| {
        let mut files = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path());
        files.find(|f| f.extension().is_some_and(|e| *e == *level.to_string())).unwrap()
    };
    assert_eq!(std::fs::metadata(level(1)).unwrap().len(), 273 * 36);
    assert_eq!(std::fs::metadata(level(2)).unwrap().len(), 36);
    std::fs::remove_file(level(1)).unwrap();
    let (store, tenant) = place.open().await;
    check(&store, &tenant, "made from the leaves").await;
    drop((store, tenant));
    std::fs::remove_dir_all(&folder).unwrap();
    let (store, tenant) = place.open().await;
    check(&store, &tenant, "made from nothing").await;
}

/// One finding, at this entry of a file.
fn one(told: &Told, file: &str, entry: usize, what: &str) {
    let damage = told.damage();
    let [found] = &damage[..] else { panic!("{file} {entry}: {damage:?}") };
    let at = (found.file.as_str(), found.offset, found.what, found.is_derived());
    assert_eq!(at, (file, entry as u64 * 36, what, true));
}

/// Makes an entry's checksum fit.
fn sum(file: &mut [u8], level: u8, index: usize) {
    let entry = &mut file[index * 36..index * 36 + 36];
    let mut summed = crc32fast::Hasher::new();
    summed.update(&[&[level][..], &(index as u64).to_le_bytes(), &entry[..32]].concat());
    entry[32..].copy_from_slice(&summed.finalize().to_le_bytes());
}

/// Of every kept level; what is missing is made again, so it is no damage.
#[tokio::test]
async fn tiles_that_are_not_the_logs_are_found_where_they_are() {
    let (place, store, tenant) = three_levels().await;
    store.close().await;
    drop((store, tenant));
    let (_, told) = check(&place.data());
    assert!(told.damage().is_empty(), "{:?}", told.damage());
    let name = |level: u8| {
        let files = files(&place.data());
        let name = files.into_keys().find(|name| name.ends_with(&format!(".{level}")));
        name.filter(|name| name.starts_with("tiles/")).expect("a file of the level")
    };
    let (first, second) = (name(1), name(2));
    for (level, file, entry, bytes) in [
        (1, &first, 0, &[0, 31, 32, 35][..]),
        (1, &first, 14, &[7, 8]),
        (1, &first, 272, &[1]),
        (2, &second, 0, &[31, 33]),
    ] {
        for byte in bytes {
            let at = entry * 36 + *byte;
            let (_, told) = changed(&place.data(), file, |bytes| bytes[at] ^= 0x10);
            one(&told, file, entry, "a hash that does not hold its checksum");
            if *byte < 32 {
                let (_, told) = changed(&place.data(), file, |bytes| {
                    bytes[at] ^= 0x10;
                    sum(bytes, level, entry);
                });
                one(&told, file, entry, "a hash that is not the log's");
            }
        }
    }
    let (_, told) = changed(&place.data(), &second, |bytes| {
        bytes.extend([7; 36]);
        sum(bytes, 2, 1);
    });
    one(&told, &second, 1, "a hash of records that the log does not have");
    // What a crash can leave of a file that was not synced.
    let (_, told) = changed(&place.data(), &first, |bytes| bytes.truncate(5000));
    assert!(told.damage().is_empty(), "{:?}", told.damage());
    let (_, told) = changed(&place.data(), &first, |bytes| bytes[512..1024].fill(0));
    assert!(told.damage().is_empty(), "{:?}", told.damage());
    std::fs::remove_dir_all(place.data().join("tiles")).unwrap();
    let (_, told) = check(&place.data());
    assert!(told.damage().is_empty(), "{:?}", told.damage());
}
