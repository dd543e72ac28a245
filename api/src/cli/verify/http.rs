//! What a server shows of its log: every record's leaf, the chain from one to the next, and every payload's opening.
//!
//! The log's id is not shown, so the first record's place in the chain is taken as it is.

use kimberlite_store::words::Hex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    super::{
        Global,
        client::{Client, ClientError},
        target::Target,
    },
    Found, Told,
};

/// Bytes at a leaf's end that hold the hash of the leaf before.
const PREVIOUS_BYTES: usize = 32;

#[derive(Deserialize)]
struct Head {
    head: Option<u64>,
}

#[derive(Deserialize)]
struct Opening {
    position: u64,
    leaf: String,
    hash: String,
    payloads: Vec<Payload>,
}

#[derive(Deserialize)]
struct Payload {
    kind: String,
    commitment: String,
    state: String,
    salt: Option<String>,
    json: Option<String>,
}

/// Checks every record up to the head; says how many there are.
///
/// # Errors
/// The server does not answer. What it shows that does not hold is told.
pub(super) fn verify(target: Target, global: &Global, told: &mut Told) -> Result<u64, ClientError> {
    let client = Client::of(target, global);
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
                previous = None;
                continue;
            }
            Err(error) => return Err(error),
        };
        for what in check(&opening, position, previous.as_deref()) {
            told.add(found(&path, what));
        }
        previous = Some(opening.hash);
    }
    told.bar.went_on(count, count, "");
    Ok(count)
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
    let Some(leaf) = bytes(&opening.leaf).filter(|leaf| leaf.len() > PREVIOUS_BYTES) else {
        wrong.push("the leaf cannot be read".to_owned());
        return wrong;
    };
    if sha256(&[&[0], &leaf]) != opening.hash {
        wrong.push("the leaf does not have the hash that is shown".to_owned());
    }
    let (_, before) = leaf.split_at(leaf.len() - PREVIOUS_BYTES);
    if previous.is_some_and(|previous| Hex(before).to_string() != previous) {
        wrong.push("the leaf does not follow the record before".to_owned());
    }
    let committed = kimberlite_store::verify::commitments(&leaf[..leaf.len() - PREVIOUS_BYTES]);
    let shown: Vec<_> =
        opening.payloads.iter().map(|p| (p.kind.as_str(), p.commitment.clone())).collect();
    if committed.is_none_or(|committed| !committed.iter().eq(&shown)) {
        wrong.push("the payloads are not those that the leaf commits to".to_owned());
    }
    wrong.extend(opening.payloads.iter().filter_map(check_payload));
    wrong
}

fn check_payload(payload: &Payload) -> Option<String> {
    let kind = &payload.kind;
    match (payload.state.as_str(), &payload.salt, &payload.json) {
        ("clear", Some(salt), Some(json)) => {
            let salt = bytes(salt).filter(|salt| salt.len() == 16);
            let holds =
                salt.is_some_and(|salt| sha256(&[&salt, json.as_bytes()]) == payload.commitment);
            (!holds).then(|| format!("the payload {kind} does not match its commitment"))
        }
        ("erased" | "expired", None, None) => None,
        _ => Some(format!("the payload {kind} is not opened as its state says")),
    }
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Hex(&<[u8; 32]>::from(hasher.finalize())).to_string()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}
