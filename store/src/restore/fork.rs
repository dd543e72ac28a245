//! Says in each log that lost records that it goes on as another one: who has them must not take it for theirs.

use std::sync::Arc;

use super::{RestoreError, RestoredTenant};
use crate::{
    backup::manifest::Manifest,
    checkpoint::Due,
    disk::{Disk, RealDisk},
    error::ReadError,
    index::ForkBody,
    limits::{CHECKPOINT_BYTES, CHECKPOINT_RECORDS},
    node::sixteen,
    signing,
    store::Store,
    tenant::TenantShared,
    tree::Tree,
    words::{Actor, Hex},
};

/// The server makes segments of its own size; one of these is soon closed.
const SEGMENT_BYTES: u64 = 1 << 20;

/// Appends a fork, durably, to the log of every tenant that the backup has more records of.
pub(super) fn fork(
    disk: &Arc<RealDisk>,
    actor: &Actor,
    manifest: &Manifest,
) -> Result<Vec<RestoredTenant>, RestoreError> {
    let due = Due { records: CHECKPOINT_RECORDS, bytes: CHECKPOINT_BYTES };
    let store = Store::open_on(Arc::clone(disk) as Arc<dyn Disk>, SEGMENT_BYTES, due, None)?;
    if let Some(damage) = store.shared.damage.clone() {
        return Err(RestoreError::Log(damage));
    }
    let mut restored = Vec::new();
    for line in &manifest.tenants {
        let reference = sixteen(&line.reference);
        // One that was made behind the point is not there.
        let tenant = reference.and_then(|r| store.shared.tenants.by_reference(&r));
        let Some(tenant) = tenant else { continue };
        let records = tenant.view().count;
        let lost = line.records.saturating_sub(records);
        let new_log_id = (lost > 0).then(|| Hex(&rand::random::<[u8; 16]>()).to_string());
        if let Some(new_log_id) = &new_log_id {
            let origin = line.origin.clone().unwrap_or_default();
            let body = body(&tenant, new_log_id, origin)?;
            signing::fork(&store.shared.node, &tenant, actor, &body).map_err(RestoreError::Fork)?;
        }
        let tenant = line.tenant.clone();
        restored.push(RestoredTenant { tenant, records, lost, new_log_id });
    }
    // The node stops, and what it wrote last with it.
    drop(store);
    Ok(restored)
}

fn body(tenant: &TenantShared, new_log_id: &str, origin: String) -> Result<ForkBody, ReadError> {
    let view = tenant.view();
    let mut tree = Tree::default();
    for slice in view.slices.iter() {
        let mut entries = slice.entries(true);
        for position in slice.first()..slice.end() {
            tree.push(entries.get(position)?.hash);
        }
    }
    Ok(ForkBody {
        new_log_id: new_log_id.to_owned(),
        origin,
        size: view.count,
        root: tree.root().to_string(),
    })
}
