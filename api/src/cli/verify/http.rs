//! What a server shows of its log: every record's leaf, the chain from one to the next, and every payload's opening.
//!
//! The log's id is not shown, so the first record's place in the chain is taken as it is.

use serde::Deserialize;

use super::{
    super::{
        Global,
        client::{Client, ClientError},
        target::Target,
    },
    Found, Told,
    opening::Opening,
};

#[derive(Deserialize)]
struct Head {
    head: Option<u64>,
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
    let leaf = opening.check(&mut wrong);
    if leaf.is_some_and(|leaf| previous.is_some_and(|previous| leaf.previous != previous)) {
        wrong.push("the leaf does not follow the record before".to_owned());
    }
    wrong
}
