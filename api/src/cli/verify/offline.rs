//! `verify receipt` and `verify event`: what someone holds in a file, against the keys that they trust. No server is asked.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use kimberlite_store::{
    proof::{Covered, Receipt, ReceiptError, VerifierKey, leaf_hash},
    words::{Hash, Timestamp},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    event::{self, Compared, Named},
    names::{self, NamedBy, Under},
    opening::{Name, Open, OpenedLeaf, Opening, Payload, unhex},
};
use crate::cli::{
    Output,
    vkeys::{log_key, witness_key},
};

/// Longest file that is read, in bytes: an opening holds an event's JSON twice.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A check that needs no server.
#[derive(Debug, Subcommand)]
pub(super) enum Offline {
    /// Check that a record stands in a log: its proof, the log's signature, witnesses' cosignatures.
    Receipt(ReceiptArgs),
    /// Check an event against its leaf, and its leaf against the log: payloads, proof, signatures.
    Event(EventArgs),
}

/// The file is an append's receipt that was asked for with `Prefer: return=receipt`, or what `/v1/records/{position}/proof`
/// answered (a `.tlog-proof`), with the leaf or its hash beside it.
#[derive(Debug, Args)]
pub(super) struct ReceiptArgs {
    file: PathBuf,
    /// The log's public key, from somebody you trust.
    #[arg(long, value_name = "VKEY", value_parser = log_key)]
    vkey: VerifierKey,
    #[command(flatten)]
    witnesses: Witnesses,
    /// The record's leaf, as `/v1/records/{position}/leaf` answered it.
    #[arg(long, value_name = "FILE", conflicts_with = "hash")]
    leaf: Option<PathBuf>,
    /// The record's leaf hash, in hex.
    #[arg(long, value_parser = hash)]
    hash: Option<Hash>,
}

/// The file is what `/v1/records/{position}/opening` answered, with members that may be added: `proof` (what `…/proof` answered, as
/// a string), `event` (the event itself, to be compared), and `named_by`: for each position under `names` the opening of that
/// record with its own `proof`, ending in the same checkpoint; of its payloads only the names need be opened.
#[derive(Debug, Args)]
pub(super) struct EventArgs {
    file: PathBuf,
    /// The log's public key, from somebody you trust; without it nobody vouches for the leaf.
    #[arg(long, value_name = "VKEY", value_parser = log_key)]
    vkey: Option<VerifierKey>,
    #[command(flatten)]
    witnesses: Witnesses,
    /// The proof, where it stands in a file of its own.
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Witnesses {
    /// The public key of a witness who must have cosigned; as often as there are witnesses.
    #[arg(long = "witness", value_name = "VKEY", value_parser = witness_key, requires = "vkey")]
    keys: Vec<VerifierKey>,
    /// How many of the witnesses must have cosigned; left out, each of them.
    #[arg(long, value_name = "COUNT", requires = "keys")]
    quorum: Option<usize>,
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum OfflineError {
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}")]
    Read {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The file is too long.
    #[error("{0} is longer than any receipt or opening")]
    TooLong(String),
    /// A `.tlog-proof` names no leaf.
    #[error("the receipt does not say what it is of: name the record by --leaf or --hash")]
    NoLeaf,
    /// There is no proof for the key to check.
    #[error("--vkey needs a proof: in the file's member `proof`, or by --proof")]
    NoProof,
}

/// What was checked and what came out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    /// The record's leaf hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Shown>,
    cosigned: Vec<Cosigned>,
    checked: Vec<String>,
    not_checked: Vec<String>,
    findings: Vec<Wrong>,
}

/// The checkpoint that covers the record.
#[derive(Debug, Serialize)]
struct Shown {
    origin: String,
    size: u64,
    root: String,
}

#[derive(Debug, Serialize)]
struct Cosigned {
    witness: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

#[derive(Debug, Serialize)]
struct Wrong {
    kind: &'static str,
    /// Where in the file.
    place: &'static str,
    what: String,
}

/// An append's receipt, as far as it matters here.
#[derive(Deserialize)]
struct Appended {
    last_position: u64,
    hash: String,
    proof: String,
}

/// An opening, and what was put beside it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Held<'a> {
    position: u64,
    leaf: String,
    hash: String,
    payloads: Vec<Payload>,
    names: Option<Vec<Name>>,
    proof: Option<String>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(default)]
    named_by: Vec<NamedBy>,
}

impl Offline {
    /// Checks.
    ///
    /// # Errors
    /// See [`OfflineError`]; what does not hold is in the report.
    pub(super) fn check(&self) -> Result<Report, OfflineError> {
        let mut report = Report::default();
        match self {
            Self::Receipt(args) => report.receipt(args)?,
            Self::Event(args) => report.event(args)?,
        }
        report.whole = report.findings.is_empty();
        Ok(report)
    }
}

impl Report {
    pub(super) fn whole(&self) -> bool {
        self.whole
    }

    fn wrong(&mut self, place: &'static str, what: impl Into<String>) {
        self.findings.push(Wrong { kind: "damage", place, what: what.into() });
    }

    fn all_wrong(&mut self, place: &'static str, what: Vec<String>) {
        for what in what {
            self.wrong(place, what);
        }
    }

    fn receipt(&mut self, args: &ReceiptArgs) -> Result<(), OfflineError> {
        let text = read(&args.file)?;
        let leaf = args.leaf.as_deref().map(read).transpose()?.map(|leaf| leaf_hash(&leaf));
        let mut named = leaf.or(args.hash);
        let mut proof = text.clone();
        let mut position = None;
        if text.trim_ascii_start().starts_with(b"{") {
            let Ok(appended) = serde_json::from_slice::<Appended>(&text) else {
                self.wrong("receipt", "it is no receipt of an append with its proof");
                return Ok(());
            };
            let Some(hash) = unhex(&appended.hash).and_then(|h| h.try_into().ok()).map(Hash) else {
                self.wrong("hash", "it is no hash");
                return Ok(());
            };
            if named.is_some_and(|named| named != hash) {
                self.wrong("hash", "the receipt is of another record than the one that is named");
            }
            named = Some(hash);
            position = Some(appended.last_position);
            proof = appended.proof.into_bytes();
        }
        let Some(leaf) = named else { return Err(OfflineError::NoLeaf) };
        self.proof(&proof, leaf, position, &args.vkey, &args.witnesses);
        Ok(())
    }

    fn event(&mut self, args: &EventArgs) -> Result<(), OfflineError> {
        let text = read(&args.file)?;
        let held = match serde_json::from_slice(&text) {
            Ok(held) => held,
            Err(error) => {
                self.wrong("opening", format!("it is no opening: {error}"));
                return Ok(());
            }
        };
        let Held { position, leaf, hash, payloads, names, proof, event, named_by } = held;
        let opening = Opening { position, leaf, hash, payloads, names };
        let mut wrong = Vec::new();
        let leaf = opening.check(Open::All, &mut wrong);
        self.all_wrong("opening", wrong);
        self.position = Some(opening.position);
        let Some(leaf) = leaf else { return Ok(()) };
        self.checked.push("leaf: its hash".to_owned());
        for payload in &opening.payloads {
            let kind = &payload.kind;
            match payload.json {
                Some(_) => self.checked.push(format!("payload {kind}: the leaf commits to it")),
                None => self.not_checked.push(format!("payload {kind}: it is gone")),
            }
        }
        let of_its_own = args.proof.as_deref().map(read).transpose()?;
        let receipt = match (&args.vkey, of_its_own.or(proof.map(String::into_bytes))) {
            (Some(vkey), Some(proof)) => {
                self.proof(&proof, leaf.hash, Some(opening.position), vkey, &args.witnesses)
            }
            (Some(_), None) => return Err(OfflineError::NoProof),
            (None, _) => {
                self.hash = Some(leaf.hash.to_string());
                let what = "log: without --vkey and a proof nobody vouches for position and leaf";
                self.not_checked.push(what.to_owned());
                None
            }
        };
        let under = receipt.as_ref().zip(args.vkey.as_ref());
        let under = under.map(|(receipt, vkey)| Under { receipt, vkey });
        let mut wrong = Vec::new();
        let mut namers: Vec<_> =
            named_by.into_iter().map(|namer| namer.check(under.as_ref(), &mut wrong)).collect();
        let names = names::of(&opening, &leaf, &mut namers, under.is_some(), &mut wrong);
        self.all_wrong("named_by", wrong);
        match event {
            Some(event) => self.compare(event, &opening, &leaf, &names),
            None => self.not_checked.push("event: the file has none to compare".to_owned()),
        }
        Ok(())
    }

    fn compare(
        &mut self,
        event: &RawValue,
        opening: &Opening,
        leaf: &OpenedLeaf,
        names: &[(&str, Named)],
    ) {
        let Compared { wrong, not_checked } = event::compare(event, opening, leaf, names);
        if wrong.is_empty() {
            self.checked.push("event: its fields are those of leaf and payloads".to_owned());
        }
        self.all_wrong("event", wrong);
        self.not_checked.extend(not_checked.into_iter().map(|what| format!("event: {what}")));
    }

    /// Checks the proof of a record with this leaf hash; returns it where it holds.
    fn proof(
        &mut self,
        text: &[u8],
        leaf: Hash,
        position: Option<u64>,
        vkey: &VerifierKey,
        witnesses: &Witnesses,
    ) -> Option<Receipt> {
        self.hash = Some(leaf.to_string());
        let receipt = match Receipt::parse(text) {
            Ok(receipt) => receipt,
            Err(error) => {
                self.wrong(place(&error), error.to_string());
                return None;
            }
        };
        if position.is_some_and(|position| position != receipt.index) {
            self.wrong("proof", format!("it is of position {}", receipt.index));
        }
        self.position = Some(receipt.index);
        let covered = match receipt.verify(leaf, vkey, &witnesses.keys) {
            Ok(covered) => covered,
            Err(error) => {
                self.wrong(place(&error), error.to_string());
                return None;
            }
        };
        self.covered(covered, witnesses);
        Some(receipt)
    }

    fn covered(&mut self, covered: Covered, witnesses: &Witnesses) {
        let Covered { checkpoint, cosigned } = covered;
        self.checked.push(format!("checkpoint: signed by {}", checkpoint.origin));
        self.checked.push("proof: it leads from the leaf to the checkpoint's root".to_owned());
        let quorum = witnesses.quorum.unwrap_or(witnesses.keys.len());
        let (found, of) = (cosigned.len(), witnesses.keys.len());
        if found < quorum {
            let what = format!("{found} of {of} witnesses cosigned, not {quorum}");
            self.wrong("cosignature", what);
        } else if of == 0 {
            let what = "cosignatures: without --witness the log alone vouches for its root";
            self.not_checked.push(what.to_owned());
        } else {
            self.checked.push(format!("cosignatures: of {found} of {of} witnesses"));
        }
        let time = |s: u64| Timestamp::from_micros(i64::try_from(s).ok()?.checked_mul(1_000_000)?);
        self.cosigned = cosigned
            .into_iter()
            .map(|(witness, s)| Cosigned { witness, time: time(s).map(|t| t.to_string()) })
            .collect();
        let (origin, size, root) = (checkpoint.origin, checkpoint.size, checkpoint.root);
        self.checkpoint = Some(Shown { origin, size, root: root.to_string() });
    }

    /// Prints it.
    ///
    /// # Errors
    /// Standard output is gone.
    pub(super) fn print(&self, output: Output) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if output == Output::Json {
            serde_json::to_writer(&mut out, self)?;
            return writeln!(out);
        }
        for Wrong { place, what, .. } in &self.findings {
            writeln!(out, "damage: {place}: {what}")?;
        }
        self.checked.iter().try_for_each(|what| writeln!(out, "checked: {what}"))?;
        self.not_checked.iter().try_for_each(|what| writeln!(out, "not checked: {what}"))?;
        if let (Some(Shown { origin, size, .. }), Some(at)) = (&self.checkpoint, self.position) {
            writeln!(out, "record {at} of {origin}, at size {size}")?;
        }
        for Cosigned { witness, time } in &self.cosigned {
            writeln!(out, "seen by {witness} at {}", time.as_deref().unwrap_or("an unknown time"))?;
        }
        writeln!(out, "{}", if self.whole { "whole" } else { "DAMAGED" })
    }
}

/// Where in a receipt something is wrong.
fn place(error: &ReceiptError) -> &'static str {
    match error {
        ReceiptError::Checkpoint(_) => "checkpoint",
        ReceiptError::Cosignature(_) => "cosignature",
        ReceiptError::Proof(_) | ReceiptError::Line { .. } | ReceiptError::TooLong => "proof",
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, OfflineError> {
    let name = || path.display().to_string();
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|source| OfflineError::Read { file: name(), source })?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(OfflineError::TooLong(name())) } else { Ok(text) }
}

fn hash(text: &str) -> Result<Hash, String> {
    let bytes = unhex(text).and_then(|bytes| bytes.try_into().ok());
    bytes.map(Hash).ok_or_else(|| "a hash has 64 hexadecimal digits".to_owned())
}
