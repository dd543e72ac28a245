//! A flipped bit anywhere in the database of names: `verify` names the file, or nobody can tell the difference.

use std::path::Path;

use kimberlite_store::{Store, Tenant, error::ReadError, words::TenantName};

use crate::{
    support::*,
    verify::{changed, files, written},
};

const NAMES: &str = "index/names";
/// Flips that are tried, all over the file.
const FLIPS: usize = 199;

async fn of_tenant(store: &Store, tenant: &Tenant) -> Result<String, ReadError> {
    let streams = store.streams(tenant, String::new(), None, 100).await?;
    Ok(format!("{}{streams:?}", dump(store, tenant).await?))
}

/// Everything that a store answers about a folder; the first error, where there is one.
async fn answers(folder: &Path) -> Result<Vec<String>, String> {
    let store = try_open(folder).map_err(|error| error.to_string())?;
    let mut answers = Vec::new();
    for name in ["dev", "other"] {
        let tenant = store.tenant(&TenantName::new(name).unwrap()).expect("no tenant is lost");
        answers.push(of_tenant(&store, &tenant).await.map_err(|error| error.to_string())?);
    }
    store.close().await;
    Ok(answers)
}

#[tokio::test]
async fn a_flip_in_the_database_of_names_is_found_or_makes_no_difference() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path()).await;
    let whole = files(folder.path());
    let right = answers(folder.path()).await.unwrap();
    // Opening it may have written to it.
    for (name, bytes) in &whole {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let length = whole[NAMES].len();
    let (mut found, mut harmless) = (0, 0);
    for n in 0..FLIPS {
        let at = n * length / FLIPS;
        let (_, told) = changed(folder.path(), NAMES, |bytes| bytes[at] ^= 0x10);
        let damage = told.damage();
        assert!(damage.iter().all(|f| f.file == NAMES), "byte {at}: {damage:?}");
        found += usize::from(!damage.is_empty());
        if damage.is_empty() {
            harmless += 1;
            let copy = tempfile::tempdir().unwrap();
            for (name, bytes) in &whole {
                let path = copy.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            let mut bytes = whole[NAMES].clone();
            bytes[at] ^= 0x10;
            std::fs::write(copy.path().join(NAMES), bytes).unwrap();
            assert_eq!(answers(copy.path()).await.as_ref(), Ok(&right), "byte {at}");
        }
    }
    assert!(found > 5 && harmless > 5, "{found} found, {harmless} harmless");
}
