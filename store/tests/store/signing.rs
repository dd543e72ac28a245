//! Checkpoints, proofs and keys: they hold for a stranger, and survive restarts and lost tiles.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use kimberlite_store::{
    EvidenceError, Options, SignedLog, Signing, SigningError, Store, Tenant,
    append::Expected,
    error::{OpenError, ReadError},
    proof::{Checkpoint, TilePath, VerifierKey, leaf_hash, verify_consistency},
    words::{Hash, Position, TenantName},
};

use crate::{
    backup::sound,
    support::{actor, append, event},
};

/// A data folder and one for its keys.
pub(crate) struct Place {
    pub(crate) root: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.root.path().join("keys")
    }

    pub(crate) fn try_open(&self) -> Result<Store, OpenError> {
        opened(&self.data(), &self.keys(), "")
    }

    pub(crate) async fn open(&self) -> (Store, Tenant) {
        tenant_of(self.try_open().unwrap()).await
    }
}

pub(crate) fn opened(data: &Path, keys: &Path, origin: &str) -> Result<Store, OpenError> {
    Store::open(Options {
        folder: data.to_owned(),
        segment_bytes: 64 << 10,
        checkpoint_records: 100,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: Some(Signing { folder: keys.to_owned(), origin: origin.to_owned() }),
    })
}

pub(crate) async fn tenant_of(store: Store) -> (Store, Tenant) {
    let name = TenantName::new("dev").unwrap();
    let tenant = store.create_tenant(actor(), name).await.unwrap();
    (store, tenant)
}

pub(crate) async fn fill(store: &Store, tenant: &Tenant, records: std::ops::Range<u64>) {
    let events = records.map(|n| event("t", &n.to_string())).collect();
    store.append(tenant, append("s", Expected::Any, events)).await.unwrap();
}

/// The newest checkpoint, once it covers everything.
pub(crate) async fn covered(store: &Store, tenant: &Tenant) -> std::sync::Arc<SignedLog> {
    let tip = *store.tip(tenant).borrow();
    store.signed_at(tenant, tip).await.unwrap()
}

pub(crate) fn current(signed: &SignedLog) -> VerifierKey {
    signed.keys.last().unwrap().vkey.clone()
}

pub(crate) async fn leaf(store: &Store, tenant: &Tenant, position: u64) -> Hash {
    let record = store.record(tenant, Position::new(position).unwrap()).await.unwrap();
    assert_eq!(leaf_hash(&record.leaf), record.hash);
    record.hash
}

/// The proofs of some records, each checked.
pub(crate) async fn proofs(store: &Store, tenant: &Tenant, positions: &[u64]) -> Vec<String> {
    let signed = covered(store, tenant).await;
    let mut texts = Vec::new();
    for position in positions {
        let receipt = store.receipt(tenant, Position::new(*position).unwrap()).await.unwrap();
        let hash = leaf(store, tenant, *position).await;
        let shown = receipt.verify(hash, &current(&signed), &[]).unwrap();
        assert_eq!(shown.checkpoint, signed.checkpoint);
        assert!(receipt.verify(leaf_hash(b"other"), &current(&signed), &[]).is_err());
        texts.push(receipt.to_string());
    }
    texts
}

/// Every full and partial tile that a size has.
async fn tiles(store: &Store, tenant: &Tenant) -> BTreeMap<String, Vec<u8>> {
    let size = covered(store, tenant).await.checkpoint.size;
    let mut found = BTreeMap::new();
    for (level, hashes) in [(0, size), (1, size / 256)] {
        for index in 0..hashes.div_ceil(256) {
            let width = (hashes - index * 256).min(256);
            let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
            let path = format!("tile/{level}/{index:03}{partial}");
            let tile = store.tile(tenant, path.parse().unwrap()).await.unwrap().unwrap();
            assert_eq!(tile.len() as u64, width * 32, "{path}");
            found.insert(path, tile);
        }
    }
    found
}

const SOME: [u64; 8] = [0, 1, 255, 256, 300, 511, 512, 699];

#[tokio::test]
async fn proofs_hold_and_deleted_tiles_give_the_same_answers() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    assert_eq!(covered(&store, &tenant).await.checkpoint.size, 0, "an empty log is signed too");
    for n in 0..7 {
        fill(&store, &tenant, n * 100..n * 100 + 100).await;
    }
    let (were, tiles_were) = (proofs(&store, &tenant, &SOME).await, tiles(&store, &tenant).await);
    store.close().await;
    drop((store, tenant));
    std::fs::remove_dir_all(place.data().join("tiles")).unwrap();
    std::fs::remove_dir_all(place.data().join("index")).unwrap();
    let (store, tenant) = place.open().await;
    assert_eq!(proofs(&store, &tenant, &SOME).await, were);
    assert_eq!(tiles(&store, &tenant).await, tiles_were);
    let beyond = store.receipt(&tenant, Position::new(700).unwrap()).await;
    assert!(matches!(beyond, Err(EvidenceError::Read(ReadError::NoRecord))));
    sound_of(&place, store, tenant).await;
}

async fn sound_of(place: &Place, store: Store, tenant: Tenant) {
    store.close().await;
    drop((store, tenant));
    sound(&place.data());
}

/// A flipped byte and a lost end, wherever they are in the file; the second, with the checksum made to fit, leads
/// elsewhere than what was signed.
#[tokio::test]
async fn damaged_tiles_are_made_anew() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    for n in 0..7 {
        fill(&store, &tenant, n * 100..n * 100 + 100).await;
    }
    let were = proofs(&store, &tenant, &SOME).await;
    store.close().await;
    drop((store, tenant));
    let folder = place.data().join("tiles");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(whole.len(), 72, "two hashes of 256 records each");
    for at in 0..whole.len() {
        let mut other = whole.clone();
        other[at] ^= 1;
        std::fs::write(&file, if at % 2 == 0 { &other[..] } else { &whole[..at] }).unwrap();
        let (store, tenant) = place.open().await;
        assert_eq!(proofs(&store, &tenant, &[0, 699]).await, [&were[0][..], &were[7][..]], "{at}");
        store.close().await;
        drop((store, tenant));
        assert_eq!(std::fs::read(&file).unwrap(), whole, "{at}");
    }
    let mut other = whole.clone();
    other[0] ^= 1;
    let mut summed = crc32fast::Hasher::new();
    summed.update(&[&[1_u8][..], &0_u64.to_le_bytes(), &other[..32]].concat());
    other[32..36].copy_from_slice(&summed.finalize().to_le_bytes());
    std::fs::write(&file, &other).unwrap();
    let (store, tenant) = place.open().await;
    assert_eq!(proofs(&store, &tenant, &SOME).await, were);
    // Also while the store is open.
    std::fs::write(&file, &other).unwrap();
    assert_eq!(proofs(&store, &tenant, &SOME).await, were);
}

#[tokio::test]
async fn any_two_sizes_are_consistent_and_leaves_are_in_bundles() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    let mut roots = Vec::new();
    for n in 0..40 {
        fill(&store, &tenant, n * 7..n * 7 + 7).await;
        let Checkpoint { size, root, .. } = covered(&store, &tenant).await.checkpoint.clone();
        roots.push((size, root));
    }
    assert_eq!(roots.last().unwrap().0, 280);
    for (i, from) in roots.iter().enumerate() {
        for to in &roots[i..] {
            let proof = store.consistency(&tenant, from.0, Some(to.0)).await.unwrap();
            verify_consistency(*from, *to, &proof.hashes).unwrap();
        }
    }
    for (from, to) in [(0, Some(7)), (8, Some(7)), (7, Some(281)), (281, None)] {
        let refused = store.consistency(&tenant, from, to).await;
        assert!(matches!(refused, Err(EvidenceError::Sizes { size: 280 })), "{from} {to:?}");
    }
    let path: TilePath = "tile/entries/001.p/24".parse().unwrap();
    let bundle = store.tile(&tenant, path).await.unwrap().unwrap();
    let mut rest = &bundle[..];
    for position in 256..280 {
        let (length, behind) = rest.split_at(2);
        let length = usize::from(u16::from_be_bytes(length.try_into().unwrap()));
        assert_eq!(leaf_hash(&behind[..length]), leaf(&store, &tenant, position).await);
        rest = &behind[length..];
    }
    assert!(rest.is_empty());
    for path in ["tile/entries/001.p/25", "tile/entries/001", "tile/0/002.p/1", "tile/2/000.p/1"] {
        assert_eq!(store.tile(&tenant, path.parse().unwrap()).await.unwrap(), None, "{path}");
    }
}

#[tokio::test]
async fn the_last_checkpoint_of_a_stopped_server_covers_everything() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    fill(&store, &tenant, 0..5).await;
    store.close().await;
    let at_stop = store.signed(&tenant).unwrap();
    assert_eq!(at_stop.checkpoint.size, 5, "without a wait");
    drop((store, tenant));
    let (store, tenant) = place.open().await;
    let signed = store.signed(&tenant).unwrap();
    assert_eq!(signed.note, at_stop.note, "shown from the first moment");
}

#[tokio::test]
async fn what_an_older_key_signed_verifies_after_a_rotation() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    fill(&store, &tenant, 0..10).await;
    let old = covered(&store, &tenant).await;
    let receipt = store.receipt(&tenant, Position::new(3).unwrap()).await.unwrap();
    let rotated = store.rotate_log_key(&tenant).await.unwrap();
    assert_eq!(rotated.checkpoint, old.checkpoint);
    assert_ne!(current(&rotated), current(&old));
    assert_eq!(rotated.keys[0], old.keys[0]);
    assert_eq!((rotated.keys.len(), rotated.keys[1].from), (2, 10));
    Checkpoint::verified(&rotated.note, &current(&rotated)).unwrap();
    assert!(Checkpoint::verified(&rotated.note, &current(&old)).is_err());
    let hash = leaf(&store, &tenant, 3).await;
    receipt.verify(hash, &rotated.keys[0].vkey, &[]).unwrap();
    assert!(receipt.verify(hash, &current(&rotated), &[]).is_err());
    drop((store, tenant));
    let (store, tenant) = place.open().await;
    assert_eq!(covered(&store, &tenant).await.keys, rotated.keys);
    proofs(&store, &tenant, &[0, 9]).await;
}

/// The one file of a tenant's keys with this ending.
fn file(place: &Place, ending: &str) -> PathBuf {
    let cluster = std::fs::read_dir(place.keys()).unwrap().next().unwrap().unwrap().path();
    let mut paths = std::fs::read_dir(cluster).unwrap().map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|e| e == ending)).unwrap()
}

#[tokio::test]
async fn a_lost_or_changed_key_is_refused_not_replaced() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let (store, tenant) = place.open().await;
    fill(&store, &tenant, 0..3).await;
    covered(&store, &tenant).await;
    drop((store, tenant));
    let refused = |place: &Place| match place.try_open() {
        Err(OpenError::Signing(error)) => error,
        other => panic!("{other:?}"),
    };
    for ending in ["keys", "last"] {
        let path = file(&place, ending);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{ending}");
        let whole = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = refused(&place);
        assert!(matches!(&error, SigningError::KeyMissing { path: p } if *p == path), "{error}");
        for at in (0..whole.len()).step_by(if ending == "last" { 511 } else { 1 }) {
            let mut other = whole.clone();
            other[at] ^= 1;
            if ending == "last" {
                // There are two copies, either of which a crash may tear.
                other[4] ^= 1;
                other[4096 + 4] ^= 1;
            }
            std::fs::write(&path, &other).unwrap();
            let error = refused(&place);
            assert!(matches!(&error, SigningError::Damaged { path: p } if *p == path), "{at}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    std::fs::rename(place.keys(), place.root.path().join("away")).unwrap();
    assert!(matches!(refused(&place), SigningError::KeyMissing { .. }));
    assert!(!place.keys().exists(), "nothing is made in its place");
    std::fs::rename(place.root.path().join("away"), place.keys()).unwrap();
    place.open().await;
}

#[tokio::test]
async fn an_origin_is_fixed_at_the_first_start() {
    let place = Place::new();
    for bad in ["two words", "a+b", &"x".repeat(129)] {
        let refused = opened(&place.data(), &place.keys(), bad);
        assert!(matches!(refused, Err(OpenError::Signing(SigningError::Origin { .. }))), "{bad}");
    }
    let (store, tenant) =
        tenant_of(opened(&place.data(), &place.keys(), "log.example").unwrap()).await;
    assert_eq!(covered(&store, &tenant).await.checkpoint.origin, "log.example/dev");
    drop((store, tenant));
    let refused = opened(&place.data(), &place.keys(), "other.example");
    assert!(matches!(
        refused,
        Err(OpenError::Signing(SigningError::OriginChanged { kept, .. })) if kept == "log.example"
    ));
    let (store, tenant) = place.open().await;
    assert_eq!(covered(&store, &tenant).await.checkpoint.origin, "log.example/dev");
    // Where none is given it is made from the cluster's id, after which the folder of its keys is named.
    let place = Place::new();
    let (store, tenant) = place.open().await;
    let mut folders = fs::read_dir(place.keys()).unwrap();
    let cluster = folders.next().unwrap().unwrap().file_name().into_string().unwrap();
    let origin = format!("kimberlite-{}/dev", &cluster[..16]);
    assert_eq!(covered(&store, &tenant).await.checkpoint.origin, origin);
    assert_eq!(cluster.len(), 32);
}

/// A key that is not on the disk would sign what nobody could verify behind a restart.
#[tokio::test]
async fn a_key_that_cannot_be_kept_signs_nothing() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    fill(&store, &tenant, 0..3).await;
    let old = covered(&store, &tenant).await;
    let taken = file(&place, "keys").with_extension("keys.new");
    std::fs::create_dir(&taken).unwrap();
    let refused = store.rotate_log_key(&tenant).await;
    assert!(matches!(refused, Err(EvidenceError::Signing(SigningError::Io { .. }))));
    fill(&store, &tenant, 3..5).await;
    let signed = covered(&store, &tenant).await;
    assert_eq!(signed.keys, old.keys);
    Checkpoint::verified(&signed.note, &current(&old)).unwrap();
    std::fs::remove_dir(&taken).unwrap();
    let rotated = store.rotate_log_key(&tenant).await.unwrap();
    assert_eq!((rotated.keys.len(), rotated.keys[1].from), (2, 5));
    proofs(&store, &tenant, &[0, 4]).await;
}

/// Many small logs wait for one disk.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_hundred_tenants_are_covered_within_a_second() {
    let place = Place::new();
    let store = place.try_open().unwrap();
    let mut tenants = Vec::new();
    for n in 0..100 {
        let name = TenantName::new(&format!("tenant-{n}")).unwrap();
        tenants.push(store.create_tenant(actor(), name).await.unwrap());
    }
    let mut keys = std::collections::HashSet::new();
    for tenant in &tenants {
        let signed = covered(&store, tenant).await;
        keys.insert(current(&signed).to_string());
    }
    assert_eq!(keys.len(), tenants.len(), "each has its own");
    for round in 0..3 {
        let mut waiting = tokio::task::JoinSet::new();
        for tenant in &tenants {
            let (store, tenant) = (store.clone(), tenant.clone());
            waiting.spawn(async move {
                fill(&store, &tenant, 0..1).await;
                let wait = store.signed_at(&tenant, round + 1);
                let signed = tokio::time::timeout(Duration::from_secs(1), wait).await;
                assert_eq!(signed.unwrap().unwrap().checkpoint.size, round + 1);
            });
        }
        while let Some(done) = waiting.join_next().await {
            done.unwrap();
        }
    }
}

/// A committed record is covered within a second, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_covered_within_a_second() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    for n in 0..30 {
        fill(&store, &tenant, n * 50..n * 50 + 50).await;
        let size = (n + 1) * 50;
        let wait = store.signed_at(&tenant, size);
        let signed = tokio::time::timeout(Duration::from_secs(1), wait).await.unwrap().unwrap();
        assert!(signed.checkpoint.size >= size);
    }
}
