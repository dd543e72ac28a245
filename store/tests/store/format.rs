//! Folders that released versions wrote are opened, and say what they said then.

use std::path::Path;

use kimberlite_store::append::{Append, AppendError, Expected, Idempotency, Rejection};

use crate::support::*;

#[tokio::test]
async fn folders_of_released_versions_are_read_as_they_were_written() {
    let versions = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format");
    let mut read = 0;
    for version in std::fs::read_dir(versions).unwrap() {
        let version = version.unwrap().path();
        let folder = tempfile::tempdir().unwrap();
        copy(&version.join("data"), folder.path());
        let (store, tenant) = open(folder.path()).await;
        let expected = std::fs::read_to_string(version.join("events.ndjson")).unwrap();
        assert_eq!(dump(&store, &tenant).await.unwrap(), expected, "{}", version.display());
        // Keys and ids are found as well.
        let id = Some(uuid::Uuid::from_u128(1));
        let mut taken = event("opened", "0");
        taken.id = id;
        let conflict = store.append(&tenant, append("case/0", Expected::Any, vec![taken])).await;
        assert!(
            matches!(conflict, Err(AppendError::Rejected(Rejection::EventIdConflict { .. }))),
            "{conflict:?}"
        );
        let repeated = Append {
            actor: kimberlite_store::words::Actor::new("operator").unwrap(),
            idempotency: Some(Idempotency {
                key: "key-8".into(),
                route: "append",
                request_digest: [9; 32],
            }),
            ..append("case/0", Expected::Any, vec![event("opened", "0")])
        };
        let other = store.append(&tenant, repeated).await;
        assert!(
            matches!(other, Err(AppendError::Rejected(Rejection::IdempotencyMismatch))),
            "{other:?}"
        );
        store.close().await;
        read += 1;
    }
    assert!(read > 0, "no folder was read");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
