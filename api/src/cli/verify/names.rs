//! Names that stand in earlier records: as who holds a file keeps those records beside it, and as a whole log has them.

use std::collections::HashMap;

use kimberlite_store::proof::{Receipt, VerifierKey};
use serde::Deserialize;

use super::{
    event::Named,
    opening::{NAMES, Name, Open, OpenedLeaf, Opening, Payload, Reference},
};

/// A record that names what a later one refers to: its opening, in which only the names need be opened, and its proof.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedBy {
    position: u64,
    leaf: String,
    hash: String,
    payloads: Vec<Payload>,
    names: Option<Vec<Name>>,
    proof: Option<String>,
}

/// What the later record was shown under.
pub(super) struct Under<'a> {
    pub(super) receipt: &'a Receipt,
    pub(super) vkey: &'a VerifierKey,
}

/// What came out for one of these records.
pub(super) struct Namer {
    position: u64,
    opening: Opening,
    /// `None` where something was wrong.
    leaf: Option<OpenedLeaf>,
    proven: bool,
    used: bool,
}

impl NamedBy {
    /// Checks it for itself, and that it stands under the same checkpoint.
    pub(super) fn check(self, under: Option<&Under<'_>>, wrong: &mut Vec<String>) -> Namer {
        let Self { position, leaf, hash, payloads, names, proof } = self;
        let opening = Opening { position, leaf, hash, payloads, names };
        let mut found = Vec::new();
        let mut leaf = opening.check(Open::Some, &mut found);
        let mut proven = false;
        if let (Some(leaf), Some(under), Some(proof)) = (&leaf, under, &proof) {
            proven = true;
            found.extend(under.check(leaf, position, proof).err());
        }
        if !found.is_empty() {
            leaf = None;
        }
        wrong.extend(found.into_iter().map(|what| format!("record {position}: {what}")));
        Namer { position, opening, leaf, proven, used: false }
    }
}

impl Under<'_> {
    fn check(&self, leaf: &OpenedLeaf, position: u64, proof: &str) -> Result<(), String> {
        let receipt = Receipt::parse(proof.as_bytes()).map_err(|error| error.to_string())?;
        if receipt.index != position {
            return Err(format!("its proof is of position {}", receipt.index));
        }
        if receipt.checkpoint.to_string() != self.receipt.checkpoint.to_string() {
            return Err("its proof ends in another checkpoint than the event's".to_owned());
        }
        let covered = receipt.verify(leaf.hash, self.vkey, &[]);
        covered.map(drop).map_err(|error| error.to_string())
    }
}

/// The names of a record: its own, and those that `namers` have.
pub(super) fn of(
    opening: &Opening,
    leaf: &OpenedLeaf,
    namers: &mut [Namer],
    under: bool,
    wrong: &mut Vec<String>,
) -> Vec<(&'static str, Named)> {
    let mut names = own(opening);
    for (kind, reference) in opening.named_elsewhere(leaf) {
        let said = opening.names.iter().flatten().find(|name| name.kind == kind);
        let Some(Name { position, .. }) = said else {
            let why =
                format!("its {kind} stands in an earlier record, and the opening has no `names`");
            names.push((kind, Named::Unknown(why)));
            continue;
        };
        let namer = namers.iter_mut().find(|namer| namer.position == *position);
        let named = match namer {
            Some(namer) => namer.name(kind, &reference, under, wrong),
            None => Named::Unknown(format!(
                "its {kind} stands in record {position}, which is not in `named_by`"
            )),
        };
        names.push((kind, named));
    }
    for Namer { position, .. } in namers.iter().filter(|namer| !namer.used) {
        wrong.push(format!("record {position}: it names nothing of the event"));
    }
    names
}

/// The names that a record itself has.
fn own(opening: &Opening) -> Vec<(&'static str, Named)> {
    let named = NAMES.iter().filter_map(|(kind, _)| {
        let payload = opening.payload(kind)?;
        let named = match &payload.json {
            Some(json) => Named::Is(json.clone()),
            None => Named::Unknown(format!("its {kind}: the payload is gone")),
        };
        Some((*kind, named))
    });
    named.collect()
}

impl Namer {
    fn name(
        &mut self,
        kind: &str,
        reference: &Reference,
        under: bool,
        wrong: &mut Vec<String>,
    ) -> Named {
        self.used = true;
        let Some(leaf) = &self.leaf else { return Named::Wrong };
        let position = self.position;
        if !leaf.references.contains(reference) {
            wrong.push(format!("record {position}: its {kind} is another one than the event's"));
            return Named::Wrong;
        }
        match self.opening.payload(kind).map(|payload| &payload.json) {
            Some(Some(_)) if under && !self.proven => {
                Named::Unknown(format!("its {kind} stands in record {position}, without a proof"))
            }
            Some(Some(json)) => Named::Is(json.clone()),
            Some(None) => {
                Named::Unknown(format!("its {kind} stands in record {position}, not opened"))
            }
            None => {
                wrong.push(format!("record {position}: it does not name a {kind}"));
                Named::Wrong
            }
        }
    }
}

/// The names of a log that is read from its beginning.
#[derive(Default)]
pub(super) struct Book {
    /// Where each name stands; the name, unless its payload is gone.
    first: HashMap<Reference, (u64, Option<String>)>,
    /// A record could not be read: names may stand there.
    gap: bool,
}

impl Book {
    /// A record could not be read.
    pub(super) fn skip(&mut self) {
        self.gap = true;
    }

    /// Takes the next record; says what its names are, and tells what does not hold of where they stand.
    pub(super) fn record(
        &mut self,
        opening: &Opening,
        leaf: &OpenedLeaf,
        wrong: &mut Vec<String>,
    ) -> Vec<(&'static str, Named)> {
        let names = own(opening);
        for (kind, role) in NAMES {
            let (Some(payload), Some(reference)) = (opening.payload(kind), leaf.reference(role))
            else {
                continue;
            };
            let here = (opening.position, payload.json.clone());
            if let Some((first, _)) = self.first.get(reference) {
                wrong.push(format!("it names its {kind} anew, which record {first} named"));
            } else {
                self.first.insert(*reference, here);
            }
        }
        let elsewhere = opening.named_elsewhere(leaf);
        let elsewhere: Vec<_> = elsewhere
            .map(|(kind, reference)| (kind, self.elsewhere(kind, &reference, opening, wrong)))
            .collect();
        names.into_iter().chain(elsewhere).collect()
    }

    fn elsewhere(
        &self,
        kind: &str,
        reference: &Reference,
        opening: &Opening,
        wrong: &mut Vec<String>,
    ) -> Named {
        let Some((first, name)) = self.first.get(reference) else {
            if !self.gap {
                wrong.push(format!("no record before it names its {kind}"));
                return Named::Wrong;
            }
            return Named::Unknown(format!("its {kind} may stand in a record that cannot be read"));
        };
        let said = opening.names.iter().flatten().find(|name| name.kind == kind);
        if let Some(Name { position, .. }) = said.filter(|said| said.position != *first) {
            wrong.push(format!("its {kind} is said to stand in record {position}, not {first}"));
        }
        match name {
            Some(name) => Named::Is(name.clone()),
            None => Named::Unknown(format!("its {kind} is gone from record {first}")),
        }
    }
}
