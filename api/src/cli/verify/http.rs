//! What a server shows of its log: every record's leaf, the chain from one to the next, and every payload's opening.
//!
//! The log's id is not shown, so the first record's place in the chain is taken as it is. Where the log's keys are given, all
//! of it is held against what they signed.

use kimberlite_store::{proof::VerifierKey, words::Hash};
use serde::Deserialize;

use super::{
    super::{
        Global,
        client::{Client, ClientError},
        target::Target,
    },
    Found, Told,
    checkpoints::Checkpoints,
    opening::{Opening, unhex},
};

/// The checkpoint that the server shows.
const CHECKPOINT: &str = "/v1/log/checkpoint";

/// What the log is held against.
pub(super) struct Against<'a> {
    /// Its public keys.
    pub(super) keys: &'a [VerifierKey],
    /// A checkpoint of before, and its file.
    pub(super) held: Option<(String, Vec<u8>)>,
}

/// What was checked.
pub(super) struct Shown {
    pub(super) records: u64,
    pub(super) checkpoints: u64,
}

#[derive(Deserialize)]
struct Head {
    head: Option<u64>,
}

/// Checks every record up to the head; says how many there are.
///
/// # Errors
/// The server does not answer. What it shows that does not hold is told.
pub(super) fn verify(
    target: Target,
    global: &Global,
    against: Against<'_>,
    told: &mut Told,
) -> Result<Shown, ClientError> {
    let client = Client::of(target, global);
    let mut checkpoints = signed(&client, against, told)?;
    let answer = client.get("/v1/events?after=head&limit=1")?;
    let Head { head } = client.parse(&answer.body)?;
    let count = head.map_or(0, |head| head + 1);
    let mut previous = None;
    for position in 0..count {
        let path = format!("/v1/records/{position}/opening");
        told.bar.went_on(position, count, &path);
        let opening: Opening = match client.get(&path) {
            Ok(answer) => client.parse(&answer.body)?,
            // The server knows that the record is damaged: what is behind it can be checked.
            Err(ClientError::Refused(refusal)) if refusal.is_final_failure() => {
                told.add(found(&path, refusal.to_string()));
                checkpoints.push(None, told);
                previous = None;
                continue;
            }
            Err(error) => return Err(error),
        };
        for what in check(&opening, position, previous.as_deref()) {
            told.add(found(&path, what));
        }
        let hash = unhex(&opening.hash).and_then(|hash| hash.try_into().ok()).map(Hash);
        checkpoints.push(hash, told);
        previous = Some(opening.hash);
    }
    told.bar.went_on(count, count, "");
    Ok(Shown { records: count, checkpoints: checkpoints.end(count, told) })
}

/// What the log's keys signed; the server's checkpoint is asked for before its head, so that all of it is there.
fn signed(
    client: &Client,
    against: Against<'_>,
    told: &mut Told,
) -> Result<Checkpoints, ClientError> {
    let mut checkpoints = Checkpoints::new();
    let Against { keys, held } = against;
    if keys.is_empty() {
        return Ok(checkpoints);
    }
    let note = client.get(CHECKPOINT)?.body;
    let shown = checkpoints.add(CHECKPOINT, &note, keys, told);
    if let Some((file, note)) = held {
        let held = checkpoints.add(&file, &note, keys, told);
        if let (Some(shown), Some(held)) = (shown, held)
            && shown < held
        {
            let what = format!("it is of {shown} records, an older one than {file} of {held}");
            told.add(found(CHECKPOINT, what));
        }
    }
    Ok(checkpoints)
}

fn found(path: &str, what: String) -> Found {
    let (place, tenants) = (path.to_owned(), Vec::new());
    Found { kind: "damage", place, offset: None, what, tenants, derived: false }
}

/// What does not hold.
fn check(opening: &Opening, position: u64, previous: Option<&str>) -> Vec<String> {
    let mut wrong = Vec::new();
    if opening.position != position {
        wrong.push(format!("it is the opening of position {}", opening.position));
    }
    let leaf = opening.check(&mut wrong);
    if leaf.is_some_and(|leaf| previous.is_some_and(|previous| leaf.previous != previous)) {
        wrong.push("the leaf does not follow the record before".to_owned());
    }
    wrong
}
