//! What a server shows of its log: every record's leaf, the chain from one to the next, every payload's opening, where names
//! stand, and every event.
//!
//! Whether the first record is a log's first one is only known to who kept the log's id. Where the log's keys are given, all of it
//! is held against what they signed.

use kimberlite_store::words::Hash;
use serde::Deserialize;

use super::{
    super::{
        Global,
        client::{Client, ClientError},
        target::Target,
    },
    Found, Told,
    checkpoints::{Checkpoints, Signers},
    event,
    names::Book,
    opening::{Open, Opening, sha256, unhex},
};

/// The checkpoint that the server shows.
const CHECKPOINT: &str = "/v1/log/checkpoint";

/// What the log is held against.
pub(super) struct Against<'a> {
    /// Whose signatures count on each checkpoint.
    pub(super) signers: Signers<'a>,
    /// A checkpoint of before, and its file.
    pub(super) held: Option<(String, Vec<u8>)>,
    /// The log's id.
    pub(super) log_id: Option<[u8; 16]>,
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
    let against_id = against.log_id.map(|id| sha256(&[b"kimberlite log", &id]));
    let mut checkpoints = signed(&client, against, told)?;
    let answer = client.get("/v1/events?after=head&limit=1")?;
    let Head { head } = client.parse(&answer.body)?;
    let count = head.map_or(0, |head| head + 1);
    let mut walk = Walk { client, previous: against_id, book: Book::default() };
    for position in 0..count {
        let path = format!("/v1/records/{position}/opening");
        told.bar.went_on(position, count, &path);
        let hash = walk.record(position, &path, told)?;
        checkpoints.push(hash, told);
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
    let Against { signers, held, .. } = against;
    if signers.keys.is_empty() {
        return Ok(checkpoints);
    }
    // The newest one may be too young to be cosigned.
    let path = match signers.quorum {
        0 => CHECKPOINT.to_owned(),
        quorum => format!("{CHECKPOINT}?cosigned={quorum}"),
    };
    let note = client.get(&path)?.body;
    let shown = checkpoints.add(CHECKPOINT, &note, &signers, told);
    if let Some((file, note)) = held {
        let held = checkpoints.add(&file, &note, &signers, told);
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

/// On the way from record to record.
struct Walk {
    client: Client,
    /// What the next record's leaf follows; `None` where that is not known.
    previous: Option<String>,
    book: Book,
}

impl Walk {
    /// Checks the next record and its event; returns its leaf hash.
    fn record(
        &mut self,
        position: u64,
        path: &str,
        told: &mut Told,
    ) -> Result<Option<Hash>, ClientError> {
        let Some(body) = get(&self.client, path, told)? else {
            self.previous = None;
            self.book.skip();
            return Ok(None);
        };
        let opening: Opening = self.client.parse(&body)?;
        let mut wrong = Vec::new();
        if opening.position != position {
            wrong.push(format!("it is the opening of position {}", opening.position));
        }
        let leaf = opening.check(Open::All, &mut wrong);
        let mut names = Vec::new();
        if let Some(leaf) = &leaf {
            let follows = self.previous.as_ref().is_none_or(|previous| leaf.previous == *previous);
            if !follows && position == 0 {
                wrong.push("it is not the first record of the log with this id".to_owned());
            } else if !follows {
                wrong.push("the leaf does not follow the record before".to_owned());
            }
            names = self.book.record(&opening, leaf, &mut wrong);
        }
        for what in wrong {
            told.add(found(path, what));
        }
        if let Some(leaf) = leaf.filter(|leaf| leaf.fields.kind == "event") {
            let path = format!("/v1/events/{position}");
            if let Some(body) = get(&self.client, &path, told)? {
                let compared = event::compare(self.client.parse(&body)?, &opening, &leaf, &names);
                for what in compared.wrong {
                    told.add(found(&path, what));
                }
            }
        }
        let hash = unhex(&opening.hash).and_then(|hash| hash.try_into().ok()).map(Hash);
        self.previous = Some(opening.hash);
        Ok(hash)
    }
}

/// What the server answers. Where it knows that what is asked for is damaged, it is told: what is behind it can be checked.
fn get(client: &Client, path: &str, told: &mut Told) -> Result<Option<Vec<u8>>, ClientError> {
    match client.get(path) {
        Ok(answer) => Ok(Some(answer.body)),
        Err(ClientError::Refused(refusal)) if refusal.is_final_failure() => {
            told.add(found(path, refusal.to_string()));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
