//! Time stamps of checkpoints, as records.

use super::{Store, Tenant, note_append_damage};
use crate::{
    append::AppendError,
    error::ReadError,
    index::StampBody,
    kernel::{PreparedCommand, PreparedStamp},
    limits::RESOLVE_TRIES_MAX,
    node::machine::Answer,
    proof::{Checkpoint, Note},
    read::PayloadState,
    record::{PayloadKind, Payloads},
    resolve,
    words::{Actor, Position, Timestamp},
};

/// Who records time stamps.
const ACTOR: &str = "timestamps";

/// What a time authority says of a checkpoint (RFC 3161). Whoever hands it in has checked that the token is of this checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The signed note that was stamped, whose SHA-256 the token is of.
    pub checkpoint: String,
    /// The authority's URL.
    pub authority: String,
    /// When that was, as the token says.
    pub time: Timestamp,
    /// The token in base64, a CMS `ContentInfo` in DER.
    pub token: String,
}

/// A stamp that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// Position of its record.
    pub position: Position,
    /// Position of the record of the stamp before.
    pub previous: Option<Position>,
    /// What it says.
    pub stamp: Stamp,
}

impl Stamped {
    /// Records that were not stamped yet, among the first `size`; those that say that others were are not counted for themselves.
    pub fn news(&self, size: u64) -> u64 {
        let own = u64::from(self.position.get() < size);
        size.saturating_sub(self.size()).saturating_sub(own)
    }

    /// Records that its checkpoint covers.
    pub fn size(&self) -> u64 {
        let note = Note::parse(self.stamp.checkpoint.as_bytes()).ok();
        note.and_then(|note| Checkpoint::parse(note.text()).ok()).map_or(0, |c| c.size)
    }
}

impl Store {
    /// Appends a time stamp; answers with its position once it is durable.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn stamp(&self, tenant: &Tenant, stamp: &Stamp) -> Result<Position, AppendError> {
        let tenant = &tenant.shared;
        let _one_at_a_time = tenant.stamping.lock().await;
        for _ in 0..RESOLVE_TRIES_MAX {
            let (prepared, seen_at) = {
                let index = tenant.index.read();
                let actor = resolve::actor_use(&index, &Actor::new(ACTOR).expect("a plain word"));
                let payloads = body(stamp, index.last_stamp);
                (PreparedStamp { actor, id: resolve::new_id(), payloads }, index.count)
            };
            let bytes = prepared.payloads.stored.len();
            let command = PreparedCommand::Stamp(prepared);
            let decided = self.decide(tenant, seen_at, command, bytes).await;
            match decided.inspect_err(|error| note_append_damage(tenant, error))? {
                Answer::Written(position) => {
                    return Ok(Position::new(position).expect("below 2^53"));
                }
                Answer::Refused(refusal) => self.refused(tenant, refusal).await?,
                other => unreachable!("not an answer to a time stamp: {other:?}"),
            }
        }
        Err(AppendError::Contended)
    }

    /// The newest time stamp; `None` while there is none.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn newest_stamp(&self, tenant: &Tenant) -> Result<Option<Stamped>, ReadError> {
        let last = tenant.shared.index.read().last_stamp;
        let Some(position) = last.and_then(Position::new) else { return Ok(None) };
        let record = self.record(tenant, position).await?;
        let body = record.payloads.iter().find_map(|payload| match &payload.state {
            PayloadState::Clear { json, .. } if payload.kind == "body" => {
                serde_json::from_slice::<StampBody>(json).ok()
            }
            _ => None,
        });
        let body = body.ok_or(ReadError::NoRecord)?;
        let time = Timestamp::parse(&body.time).ok_or(ReadError::NoRecord)?;
        let StampBody { checkpoint, authority, token, previous, .. } = body;
        let stamp = Stamp { checkpoint, authority, time, token };
        Ok(Some(Stamped { position, previous: previous.and_then(Position::new), stamp }))
    }
}

fn body(stamp: &Stamp, previous: Option<u64>) -> Payloads {
    let body = StampBody {
        checkpoint: stamp.checkpoint.clone(),
        authority: stamp.authority.clone(),
        time: stamp.time.to_string(),
        token: stamp.token.clone(),
        previous,
    };
    let mut payloads = Payloads::default();
    let json = serde_json::to_vec(&body).expect("plain fields serialise");
    payloads.push_clear(PayloadKind::Body, &json);
    payloads
}
