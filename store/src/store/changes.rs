//! Changes of tables and their rows.

use std::collections::HashMap;

use serde::Serialize;

use super::{Store, Tenant, note_append_damage};
use crate::{
    append::{AppendError, Rejection},
    error::ReadError,
    kernel::{
        NameUse, PreparedChange, PreparedChanging, PreparedCommand, Refusal, Rests, RowDigest,
    },
    limits::{CHANGES_MAX, COMMAND_BYTES_MAX, TABLES_MAX},
    node::machine::Answer,
    record::{PayloadKind, Payloads},
    resolve,
    tables::{Change, Changed, Changing, RowBody, RowKey, SchemaBody, TableBody},
    tenant::TenantShared,
    words::{Actor, Reference},
};

impl Store {
    /// Makes changes, all of them or none; answers once they are durable, or once it makes sense to work them out again.
    ///
    /// # Errors
    /// See [`AppendError`].
    ///
    /// # Panics
    /// Where there are none, or more than [`CHANGES_MAX`].
    pub async fn change(&self, tenant: &Tenant, change: Change) -> Result<Changed, AppendError> {
        assert!((1..=CHANGES_MAX).contains(&change.changes.len()), "callers count");
        let (tenant, seen) = (&tenant.shared, change.seen);
        let looked_up = std::sync::Arc::clone(tenant);
        // The database may keep it waiting.
        let prepared = tokio::task::spawn_blocking(move || prepare(&looked_up, change));
        let prepared = match prepared.await {
            Ok(prepared) => prepared.inspect_err(|error| note_append_damage(tenant, error))?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let bytes = prepared.held_bytes();
        let command = PreparedCommand::Change(prepared);
        match self.decide(tenant, seen, command, bytes).await? {
            Answer::Written(last) => Ok(Changed::Written(last + 1)),
            Answer::Refused(refusal @ Refusal::Stale { .. }) => {
                self.refused(tenant, refusal).await?;
                Ok(Changed::Stale)
            }
            Answer::Refused(Refusal::Rejected(rejection)) => Err(AppendError::Rejected(rejection)),
            other => unreachable!("not an answer to a change: {other:?}"),
        }
    }
}

/// Looks up what the versions of the rows are, and salts and hashes what is written.
fn prepare(tenant: &TenantShared, change: Change) -> Result<PreparedChange, AppendError> {
    let Change { actor, seen, reads, changes } = change;
    let made = changes.iter().filter(|c| matches!(c, Changing::CreateTable(_))).count();
    let actor: NameUse<Actor> = {
        let index = tenant.index.read();
        if made > 0 && index.rows.tables().len() + made > TABLES_MAX {
            return Err(AppendError::Rejected(Rejection::TablesExhausted));
        }
        resolve::actor_use(&index, &actor)
    };
    let rests = Rests {
        events: reads.events,
        tables: reads.tables,
        rows: reads.rows.iter().map(|(table, key)| digest(*table, key)).collect(),
    };
    let mut versions = HashMap::new();
    let mut records = Vec::with_capacity(changes.len());
    let mut bytes = 0;
    for changing in changes {
        let record = record(tenant, seen, changing, &mut versions)?;
        bytes += record.payloads.stored.len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        records.push(record);
    }
    Ok(PreparedChange { actor, rests, records })
}

fn record(
    tenant: &TenantShared,
    seen: u64,
    changing: Changing,
    versions: &mut HashMap<RowDigest, Option<u64>>,
) -> Result<PreparedChanging, ReadError> {
    let id = resolve::new_id();
    let schema = |payloads| PreparedChanging { id, version: 0, payloads, row: None };
    Ok(match changing {
        Changing::CreateTable(table) => schema(payloads(&SchemaBody::CreateTable(table))),
        Changing::DropTable(table) => schema(payloads(&SchemaBody::DropTable(TableBody { table }))),
        Changing::Row { table, key, row } => {
            let digest = digest(table, &key);
            let before = match versions.get(&digest) {
                Some(known) => *known,
                None => tenant.row(table, &key, seen)?.and_then(|v| v.row.map(|_| v.version)),
            };
            let version = before.map_or(0, |before| before + 1);
            versions.insert(digest, row.is_some().then_some(version));
            let mut payloads = payloads(&RowBody { table, key: key.values });
            if let Some(row) = &row {
                payloads.push_clear(PayloadKind::Row, row);
            }
            PreparedChanging { id, version, payloads, row: Some((table, digest)) }
        }
    })
}

fn payloads(body: &impl Serialize) -> Payloads {
    let mut payloads = Payloads::default();
    let json = serde_json::to_vec(body).expect("plain fields serialise");
    payloads.push_clear(PayloadKind::Body, &json);
    payloads
}

/// Two rows of which this is the same would only be in each other's way.
fn digest(table: Reference, key: &RowKey) -> RowDigest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&table.0);
    hasher.update(key.bytes());
    hasher.finalize().as_bytes()[..16].try_into().expect("16")
}
