//! A log that went back, or that was restored, goes on under another name and key: two histories never have one name.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kimberlite_store::{
    SignedLog, Store, Tenant,
    proof::verify_consistency,
    read::{PayloadState, RecordView},
    restore::{Restore, Until},
    words::{Position, TenantName},
};

use crate::{
    backup::{back_up, restored, to, try_restore},
    signing::{Place, covered, current, fill, opened, proofs, tenant_of},
    support::try_open,
};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn closed(store: Store, tenant: Tenant) {
    store.close().await;
    drop((store, tenant));
}

/// Puts another state in the place of the data folder.
fn set_back(place: &Place, to: &Path) {
    std::fs::remove_dir_all(place.data()).unwrap();
    copy(to, &place.data());
}

/// What a fork says.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    new_log_id: String,
    origin: String,
    size: u64,
    root: String,
}

fn body(record: &RecordView) -> Body {
    assert_eq!(record.kind, "log_forked");
    let body = record.payloads.iter().find(|p| p.kind == "body").unwrap();
    let PayloadState::Clear { json, .. } = &body.state else { panic!("{body:?}") };
    serde_json::from_slice(json).unwrap()
}

async fn record(store: &Store, tenant: &Tenant, position: u64) -> RecordView {
    store.record(tenant, Position::new(position).unwrap()).await.unwrap()
}

/// The log says at `size` that it forked for the `n`th time, from which log, and from which records on; its new name is bound
/// to what it says.
async fn forked(store: &Store, tenant: &Tenant, size: u64, n: u32, old: &SignedLog) -> SignedNow {
    let body = body(&record(store, tenant, size).await);
    let signed = covered(store, tenant).await;
    assert_eq!((body.size, &body.origin), (size, &old.checkpoint.origin));
    let (base, _) = old.checkpoint.origin.split_once("/dev").unwrap();
    let name = format!("{base}/dev/fork-{n}-{}", &body.new_log_id[..8]);
    assert_eq!(signed.checkpoint.origin, name);
    // The size and the root are those of a proof that ends in what is signed now.
    let hash = |i| u8::from_str_radix(&body.root[2 * i..2 * i + 2], 16).unwrap();
    let root = kimberlite_store::words::Hash(std::array::from_fn(hash));
    let proof = store.consistency(tenant, size, None).await.unwrap();
    let now = (signed.checkpoint.size, signed.checkpoint.root);
    verify_consistency((size, root), now, &proof.hashes).unwrap();
    signed
}

type SignedNow = Arc<SignedLog>;

/// No two have one name or one key.
fn all_differ(seen: &[SignedNow]) {
    for (n, one) in seen.iter().enumerate() {
        for other in &seen[..n] {
            let origin = &one.checkpoint.origin;
            assert_ne!(origin, &other.checkpoint.origin, "two histories under {origin}");
            assert_ne!(current(one), current(other));
        }
    }
}

/// The data folder goes back to an older state, again and again; the keys stay.
#[tokio::test]
async fn a_log_that_went_back_goes_on_under_another_name_and_key() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    fill(&store, &tenant, 0..600).await;
    let early = covered(&store, &tenant).await;
    closed(store, tenant).await;
    let older = place.root.path().join("older");
    copy(&place.data(), &older);
    // Less, as much, and more than what was signed, in the second life.
    let mut seen = vec![early];
    for (lost, regrown) in [(300, 10), (5, 4), (5, 40)] {
        let (store, tenant) = place.open().await;
        fill(&store, &tenant, 0..lost).await;
        let last = covered(&store, &tenant).await;
        closed(store, tenant).await;
        set_back(&place, &older);
        let (store, tenant) = place.open().await;
        fill(&store, &tenant, 0..regrown).await;
        let signed = forked(&store, &tenant, 600, 1, &last).await;
        // What was restored is the same in both.
        let proof = store.consistency(&tenant, 600, None).await.unwrap();
        let (size, root) = (signed.checkpoint.size, signed.checkpoint.root);
        verify_consistency((600, seen[0].checkpoint.root), (size, root), &proof.hashes).unwrap();
        proofs(&store, &tenant, &[0, 599, 600, size - 1]).await;
        seen.push(signed);
        all_differ(&seen);
        closed(store, tenant).await;
        let (store, tenant) = place.open().await;
        assert_eq!(*store.tip(&tenant).borrow(), size, "once");
        assert_eq!(covered(&store, &tenant).await.checkpoint, seen.last().unwrap().checkpoint);
    }
}

/// Opens a folder without signing, as somebody does who has other keys, and writes there.
async fn grown_unsigned(folder: &Path, records: u64) {
    let store = try_open(folder).unwrap();
    let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
    fill(&store, &tenant, 1000..1000 + records).await;
    closed(store, tenant).await;
}

/// Not shorter than what was signed, but another log; then it goes back behind its own fork.
#[tokio::test]
async fn a_log_of_another_past_and_one_that_forked_before_fork_too() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    fill(&store, &tenant, 0..300).await;
    closed(store, tenant).await;
    let older = place.root.path().join("older");
    copy(&place.data(), &older);
    let mut seen = Vec::new();
    let mut old = {
        let (store, tenant) = place.open().await;
        fill(&store, &tenant, 300..310).await;
        let old = covered(&store, &tenant).await;
        closed(store, tenant).await;
        old
    };
    seen.push(Arc::clone(&old));
    // As long as what was signed, then longer: each time the key signed something else there.
    for (n, more) in [(1, 10), (1, 25)] {
        set_back(&place, &older);
        grown_unsigned(&place.data(), more).await;
        let (store, tenant) = place.open().await;
        let signed = forked(&store, &tenant, 300 + more, n, &old).await;
        fill(&store, &tenant, 0..5).await;
        old = covered(&store, &tenant).await;
        assert_eq!(old.checkpoint.origin, signed.checkpoint.origin);
        closed(store, tenant).await;
        seen.push(Arc::clone(&old));
    }
    all_differ(&seen);
    // Back to a state that has a fork in it, twice.
    let forked_once = place.root.path().join("forked");
    copy(&place.data(), &forked_once);
    let size = old.checkpoint.size;
    for _ in 0..2 {
        let (store, tenant) = place.open().await;
        fill(&store, &tenant, 0..7).await;
        let last = covered(&store, &tenant).await;
        closed(store, tenant).await;
        set_back(&place, &forked_once);
        let (store, tenant) = place.open().await;
        seen.push(forked(&store, &tenant, size, 2, &last).await);
        all_differ(&seen);
        let keys = covered(&store, &tenant).await.keys.clone();
        let froms: Vec<u64> = keys.iter().map(|key| key.from).collect();
        assert_eq!(froms.last(), Some(&size), "{froms:?}");
        closed(store, tenant).await;
    }
}

async fn backed_up(place: &Place) -> (SignedNow, tempfile::TempDir) {
    let (store, tenant) = place.open().await;
    fill(&store, &tenant, 0..300).await;
    let first = covered(&store, &tenant).await;
    let backup = tempfile::tempdir().unwrap();
    back_up(&store, backup.path()).await;
    closed(store, tenant).await;
    (first, backup)
}

/// Restores with the word of the operator that nothing was signed beyond the backup.
fn restored_as_it_was(backup: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let args = to(backup, folder.path().to_owned());
    try_restore(Restore { keeps_origin: true, ..args }).unwrap();
    folder
}

async fn open(data: &Path, keys: &Path) -> (Store, Tenant) {
    tenant_of(opened(data, keys, "").unwrap()).await
}

/// Nobody can know what else the key signed, or a copy of it.
#[tokio::test]
async fn a_restored_log_is_another_one_with_its_key_and_without() {
    let place = Place::new();
    let (first, backup) = backed_up(&place).await;
    let copied = place.root.path().join("copied");
    copy(&place.keys(), &copied);
    let (lost, none) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut seen = vec![Arc::clone(&first)];
    // The keys that signed it; a copy of them from when the backup was made; none, twice.
    let folders: [PathBuf; 4] = [place.keys(), copied, lost.path().into(), none.path().into()];
    for keys in folders {
        let whole = restored(backup.path());
        let (store, tenant) = open(whole.path(), &keys).await;
        seen.push(forked(&store, &tenant, 300, 1, &first).await);
        all_differ(&seen);
        fill(&store, &tenant, 0..1).await;
        let signed = covered(&store, &tenant).await;
        assert_eq!(signed.checkpoint.size, 302);
        closed(store, tenant).await;
        let (store, tenant) = open(whole.path(), &keys).await;
        assert_eq!(covered(&store, &tenant).await.checkpoint, signed.checkpoint, "forked once");
    }
}

#[tokio::test]
async fn a_restored_log_keeps_its_name_where_the_operator_says_so_and_its_key_agrees() {
    let place = Place::new();
    let (first, backup) = backed_up(&place).await;
    let whole = restored_as_it_was(backup.path());
    let (store, tenant) = open(whole.path(), &place.keys()).await;
    assert_eq!(store.signed(&tenant).unwrap().note, first.note);
    fill(&store, &tenant, 0..1).await;
    let beyond = covered(&store, &tenant).await;
    assert_eq!(beyond.checkpoint.origin, first.checkpoint.origin);
    closed(store, tenant).await;
    // The key has signed more by now, and nobody but the key can say that it has not.
    let keys = tempfile::tempdir().unwrap();
    let mut seen = vec![Arc::clone(&beyond)];
    for keys in [place.keys(), keys.path().to_owned()] {
        let older = restored_as_it_was(backup.path());
        let (store, tenant) = open(older.path(), &keys).await;
        seen.push(forked(&store, &tenant, 300, 1, &beyond).await);
        all_differ(&seen);
    }
}

/// What a restored log was called stands in the backup, whichever way it is brought back; a fork of a fork is the second.
#[tokio::test]
async fn a_log_restored_to_a_position_names_the_one_it_was_cut_from() {
    let place = Place::new();
    let (first, backup) = backed_up(&place).await;
    let until = |position, backup: &Path| {
        let folder = tempfile::tempdir().unwrap();
        let tenant = TenantName::new("dev").unwrap();
        let until = Some(Until { tenant, position: Position::new(position).unwrap() });
        let args = to(backup, folder.path().to_owned());
        let done = try_restore(Restore { until, ..args }).unwrap();
        let id = done.tenants.iter().find(|t| t.tenant == "dev").unwrap().new_log_id.clone();
        (folder, id)
    };
    // Without keys the fork that the restore wrote is the only one.
    let (cut, id) = until(200, backup.path());
    let keys = tempfile::tempdir().unwrap();
    let (store, tenant) = open(cut.path(), keys.path()).await;
    forked(&store, &tenant, 201, 1, &first).await;
    assert_eq!(Some(body(&record(&store, &tenant, 201).await).new_log_id), id);
    assert_eq!(*store.tip(&tenant).borrow(), 202);
    let second = tempfile::tempdir().unwrap();
    fill(&store, &tenant, 0..10).await;
    let alone = covered(&store, &tenant).await;
    back_up(&store, second.path()).await;
    closed(store, tenant).await;
    // The key knows that it signed more: that is another fork, behind the one that the restore wrote.
    let (cut, _) = until(200, backup.path());
    let (store, tenant) = open(cut.path(), &place.keys()).await;
    assert_eq!(body(&record(&store, &tenant, 201).await).origin, first.checkpoint.origin);
    let known = forked(&store, &tenant, 202, 2, &first).await;
    all_differ(&[Arc::clone(&first), Arc::clone(&alone), known]);
    // A log that forked is called so in its backup, and whoever restores that forks from there.
    for position in [205, 150] {
        let (cut, _) = until(position, second.path());
        let keys = tempfile::tempdir().unwrap();
        let (store, tenant) = open(cut.path(), keys.path()).await;
        let n = if position > 201 { 2 } else { 1 };
        let again = forked(&store, &tenant, position + 1, n, &alone).await;
        all_differ(&[Arc::clone(&first), Arc::clone(&alone), again]);
    }
}

/// The key knows of no more than was kept, and takes the restore's own fork for what it is.
#[tokio::test]
async fn a_key_that_signed_no_more_than_was_kept_leaves_at_the_fork() {
    let place = Place::new();
    let (store, tenant) = place.open().await;
    fill(&store, &tenant, 0..100).await;
    let early = covered(&store, &tenant).await;
    closed(store, tenant).await;
    let keys = place.root.path().join("early");
    copy(&place.keys(), &keys);
    let (first, backup) = backed_up(&place).await;
    let folder = tempfile::tempdir().unwrap();
    let tenant = TenantName::new("dev").unwrap();
    let until = Some(Until { tenant, position: Position::new(200).unwrap() });
    let args = to(backup.path(), folder.path().to_owned());
    try_restore(Restore { until, ..args }).unwrap();
    let (store, tenant) = open(folder.path(), &keys).await;
    let signed = forked(&store, &tenant, 201, 1, &first).await;
    assert_eq!(*store.tip(&tenant).borrow(), 202, "the restore's own");
    assert_eq!((signed.keys.len(), signed.keys[1].from), (2, 201));
    all_differ(&[early, signed]);
}

/// A folder that signs with keys of two logs keeps both apart.
#[tokio::test]
async fn each_tenant_has_a_name_keys_and_forks_of_its_own() {
    let place = Place::new();
    let other = TenantName::new("other").unwrap();
    let both = async |store: &Store| {
        let dev = TenantName::new("dev").unwrap();
        let dev = store.create_tenant(crate::support::actor(), dev).await.unwrap();
        (dev, store.create_tenant(crate::support::actor(), other.clone()).await.unwrap())
    };
    let store = place.try_open().unwrap();
    let (dev, two) = both(&store).await;
    fill(&store, &dev, 0..300).await;
    fill(&store, &two, 0..280).await;
    let (of_dev, of_two) = (covered(&store, &dev).await, covered(&store, &two).await);
    let name = |signed: &SignedLog, tenant: &str| {
        signed.checkpoint.origin.strip_suffix(tenant).unwrap().to_owned()
    };
    assert_eq!(name(&of_dev, "/dev"), name(&of_two, "/other"));
    all_differ(&[Arc::clone(&of_dev), Arc::clone(&of_two)]);
    assert_ne!(of_dev.checkpoint.root, of_two.checkpoint.root);
    // A proof of one is none of the other, though both have a record there.
    for position in [0, 255, 279] {
        for (tenant, mine, theirs) in [(&dev, &of_dev, &of_two), (&two, &of_two, &of_dev)] {
            let receipt = store.receipt(tenant, Position::new(position).unwrap()).await.unwrap();
            let hash = crate::signing::leaf(&store, tenant, position).await;
            receipt.verify(hash, &current(mine), &[]).unwrap();
            assert!(receipt.verify(hash, &current(theirs), &[]).is_err());
            let other = if tenant.name() == dev.name() { &two } else { &dev };
            let other = crate::signing::leaf(&store, other, position).await;
            assert!(receipt.verify(other, &current(mine), &[]).is_err());
        }
    }
    // One changes its key.
    let rotated = store.rotate_log_key(&two).await.unwrap();
    assert_eq!((rotated.keys.len(), covered(&store, &dev).await.keys.len()), (2, 1));
    store.close().await;
    drop((store, dev, two));
    // One goes back alone: it was written to since, the other was not.
    let older = place.root.path().join("older");
    copy(&place.data(), &older);
    let store = place.try_open().unwrap();
    let (dev, two) = both(&store).await;
    fill(&store, &dev, 300..310).await;
    let beyond = covered(&store, &dev).await;
    store.close().await;
    drop((store, dev, two));
    set_back(&place, &older);
    let store = place.try_open().unwrap();
    let (dev, two) = both(&store).await;
    let forked = forked(&store, &dev, 300, 1, &beyond).await;
    let same = covered(&store, &two).await;
    assert_eq!((&same.note, &same.keys), (&rotated.note, &rotated.keys));
    assert_eq!((forked.keys.len(), *store.tip(&two).borrow()), (2, 280));
    // Tiles of both, made anew from nothing, lead to the same proofs.
    let were = (proofs(&store, &dev, &[0, 300]).await, proofs(&store, &two, &[0, 279]).await);
    store.close().await;
    drop((store, dev, two));
    std::fs::remove_dir_all(place.data().join("tiles")).unwrap();
    let store = place.try_open().unwrap();
    let (dev, two) = both(&store).await;
    assert_eq!(were.0, proofs(&store, &dev, &[0, 300]).await);
    assert_eq!(were.1, proofs(&store, &two, &[0, 279]).await);
}
