//! `kimberlite verify`: checks a data folder, a running server, or a proof in a file, and changes none of them.

mod checkpoints;
mod event;
mod folder;
mod http;
mod names;
mod offline;
mod opening;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use kimberlite_store::{
    proof::VerifierKey,
    restore::{RestoreError, Step, check_backup, is_backup, read_backup},
    verify::{Extent, Finding, FindingKind, Progress, VerifyError as FolderError, Watcher},
};
use serde::Serialize;

use self::checkpoints::Signers;
use super::{
    Global, Output,
    client::ClientError,
    progress::Bar,
    target::Target,
    vkeys::{log_key, witness_key},
};

/// Findings that are kept for the report; all are counted.
const FINDINGS_MAX: usize = 10_000;

/// Check a data folder that no process has open, a backup, over HTTP what a server shows, or without any server a receipt or
/// an event in a file; changes nothing. Exits with 0 when all is whole, 1 when something is damaged, 2 when it could not be
/// checked.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A data folder, a backup's folder, or the `http://` URL of a server; left out, the server at `--url`. Over HTTP each record is asked for by
    /// its position. A URL shows no index: whether streams, filters and ids lead to all of their records is checked in a folder only.
    #[arg(value_name = "FOLDER|URL")]
    what: Option<String>,
    /// A public key of the log, from somebody you trust: what a server shows, or what a folder holds, must be what this key signed.
    /// More than one where the log changed its key.
    #[arg(long = "vkey", value_name = "VKEY", value_parser = log_key)]
    vkeys: Vec<VerifierKey>,
    /// A checkpoint that the server showed before, in a file: its log must begin with that. A folder is held against what its keys signed last
    /// too, where they lie in it.
    #[arg(long, value_name = "FILE", requires = "vkeys")]
    checkpoint: Option<PathBuf>,
    /// The public key of a witness who must have cosigned each checkpoint, of a folder that in the file; as often as there are
    /// witnesses. Without it cosignatures are not looked at.
    #[arg(long = "witness", value_name = "VKEY", value_parser = witness_key, requires = "vkeys")]
    witnesses: Vec<VerifierKey>,
    /// How many of the witnesses must have cosigned; left out, each of them.
    #[arg(long, value_name = "COUNT", requires = "witnesses")]
    quorum: Option<usize>,
    /// The log's id in hex, as `/v1/log/keys` once showed it: the first record must be the first one of that log. Without it the
    /// first record is taken as it is.
    #[arg(long, value_name = "HEX", value_parser = log_id)]
    log_id: Option<[u8; 16]>,
    /// Of a data folder, check the log alone, not index and tiles, which the next start makes from it where they are deleted.
    #[arg(long)]
    log_only: bool,
    #[command(subcommand)]
    offline: Option<offline::Offline>,
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    /// The folder cannot be read, or is in use.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The backup cannot be read.
    #[error(transparent)]
    Backup(#[from] RestoreError),
    /// The server does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The URL is none.
    #[error("{0}")]
    Target(#[from] super::target::TargetError),
    /// The file cannot be read.
    #[error(transparent)]
    Offline(#[from] offline::OfflineError),
    /// A folder or a URL, and a file.
    #[error("either a folder or a URL, or `receipt` or `event` and a file")]
    Both,
    /// A folder shows no id of its own.
    #[error("--log-id checks what a server shows, not a folder; name the server's URL")]
    NoServer,
    /// A folder has no cosignatures.
    #[error("a folder holds no cosignatures: name a file with --checkpoint that has them")]
    NotCosigned,
    /// Nothing in the folder says what the key signed.
    #[error("{0} holds no checkpoint of this key: name a file with --checkpoint")]
    NoCheckpoint(PathBuf),
    /// Only a data folder has an index beside its log.
    #[error("--log-only is for a data folder")]
    LogOnly,
    /// The report could not be printed.
    #[error("the report could not be printed: {0}")]
    Output(#[source] io::Error),
}

/// One finding as it is printed.
#[derive(Clone, Debug, Serialize)]
struct Found {
    kind: &'static str,
    /// A file of the folder, or a path of the server.
    place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    what: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tenants: Vec<String>,
    /// The file can be deleted: the next start makes it from the log.
    derived: bool,
}

/// What `--output json` prints.
#[derive(Debug, Serialize)]
struct Report {
    whole: bool,
    records: u64,
    /// Signed checkpoints that the records were held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoints: Option<u64>,
    #[serde(flatten)]
    folder: Option<FolderFigures>,
    damage: u64,
    notes: u64,
    findings: Vec<Found>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct FolderFigures {
    segments: u64,
    ops: u64,
    tenants: u64,
    index_parts: u64,
}

/// Checks, and says whether all is whole.
///
/// # Errors
/// See [`VerifyError`].
pub(super) fn run(args: &VerifyArgs, global: &Global) -> Result<bool, VerifyError> {
    if let Some(offline) = &args.offline {
        let given = args.what.is_some() || args.log_only || args.log_id.is_some();
        if given || !args.vkeys.is_empty() {
            return Err(VerifyError::Both);
        }
        let report = offline.check()?;
        report.print(global.output).map_err(VerifyError::Output)?;
        return Ok(report.whole());
    }
    let started = Instant::now();
    let mut told = Told::new(global.output);
    let server = match &args.what {
        None => Some(global.url.clone()),
        Some(what) if what.contains("://") => Some(what.parse::<Target>()?),
        Some(_) => None,
    };
    let folder = args.what.as_deref().map(Path::new).filter(|_| server.is_none());
    if args.log_only && folder.is_none_or(is_backup) {
        return Err(VerifyError::LogOnly);
    }
    let extent = if args.log_only { Extent::Log } else { Extent::All };
    let (records, folder, compared) = if let Some(target) = server {
        let shown = http::verify(target, global, against(args)?, &mut told)?;
        (shown.records, None, shown.checkpoints)
    } else if args.log_id.is_some() {
        return Err(VerifyError::NoServer);
    } else {
        let folder = folder.unwrap_or(Path::new(""));
        let file = args.checkpoint.as_deref();
        let mut held = folder::Held::new(folder, &signers(args), file, &mut told)?;
        let (records, figures) = if is_backup(folder) {
            backup(folder, &mut held)?
        } else {
            data(folder, extent, &mut held)?
        };
        (records, Some(figures), held.end())
    };
    let checkpoints = (!args.vkeys.is_empty()).then_some(compared);
    let whole = told.damage == 0;
    told.bar.clear();
    let report = Report {
        whole,
        records,
        checkpoints,
        folder,
        damage: told.damage,
        notes: told.notes,
        findings: told.findings,
        seconds: started.elapsed().as_secs_f64(),
    };
    print(&report, global.output).map_err(VerifyError::Output)?;
    Ok(whole)
}

/// What a server's log is held against.
fn against(args: &VerifyArgs) -> Result<http::Against<'_>, VerifyError> {
    let held = args.checkpoint.as_deref().map(|file| {
        let note = offline::read(file)?;
        Ok::<_, VerifyError>((file.display().to_string(), note))
    });
    Ok(http::Against { signers: signers(args), held: held.transpose()?, log_id: args.log_id })
}

/// Whose signatures count.
fn signers(args: &VerifyArgs) -> Signers<'_> {
    let quorum = args.quorum.unwrap_or(args.witnesses.len());
    Signers { keys: &args.vkeys, witnesses: &args.witnesses, quorum }
}

fn log_id(text: &str) -> Result<[u8; 16], String> {
    let id = opening::unhex(text).and_then(|id| id.try_into().ok());
    id.ok_or_else(|| "a log's id has 32 hexadecimal digits".to_owned())
}

/// Checks a data folder.
fn data(
    folder: &Path,
    extent: Extent,
    held: &mut folder::Held<'_>,
) -> Result<(u64, FolderFigures), VerifyError> {
    let summary = kimberlite_store::verify::verify_extent(folder, extent, held)?;
    let figures = FolderFigures {
        segments: summary.segments,
        ops: summary.ops,
        tenants: summary.tenants,
        index_parts: summary.parts,
    };
    Ok((summary.records, figures))
}

/// Compares a backup with its manifest, up to the first file that is not what was written, and its records with what was signed.
fn backup(folder: &Path, held: &mut folder::Held<'_>) -> Result<(u64, FolderFigures), VerifyError> {
    let mut step = |step: Step<'_>| {
        if let Step::Files(done, all) = step {
            held.told().bar.went_on(done, all, "files");
        }
    };
    let checked = check_backup(folder, &mut step).and_then(|checked| {
        if held.wants_records() {
            read_backup(folder, &mut |records| held.take(records))?;
        }
        Ok(checked)
    });
    match checked {
        Ok(found) => {
            let (segments, ops, tenants) = (found.files, found.op, found.tenants);
            Ok((found.records, FolderFigures { segments, ops, tenants, index_parts: 0 }))
        }
        Err(RestoreError::Damaged { file, offset, what }) => {
            held.told().add(Found {
                kind: "damage",
                place: file.display().to_string(),
                offset,
                what: what.to_owned(),
                tenants: Vec::new(),
                derived: false,
            });
            Ok((0, FolderFigures { segments: 0, ops: 0, tenants: 0, index_parts: 0 }))
        }
        Err(error) => Err(error.into()),
    }
}

/// Shows progress, and findings as they come.
struct Told {
    output: Output,
    bar: Bar,
    damage: u64,
    notes: u64,
    findings: Vec<Found>,
}

impl Told {
    fn new(output: Output) -> Self {
        Self { output, bar: Bar::new(), damage: 0, notes: 0, findings: Vec::new() }
    }

    fn add(&mut self, found: Found) {
        if found.kind == "damage" {
            self.damage += 1;
        } else {
            self.notes += 1;
        }
        if self.output == Output::Table {
            self.bar.suspend(|| eprintln!("{}", line(&found)));
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(found);
        }
    }
}

impl Watcher for Told {
    fn progress(&mut self, progress: &Progress) {
        self.bar.went_on(progress.bytes, progress.bytes_total, &progress.file);
    }

    fn found(&mut self, finding: &Finding) {
        self.add(Found {
            kind: match finding.kind {
                FindingKind::Damage => "damage",
                FindingKind::Note => "note",
            },
            place: finding.file.clone(),
            offset: Some(finding.offset),
            what: finding.what.to_owned(),
            tenants: finding.tenants.clone(),
            derived: finding.is_derived(),
        });
    }
}

fn line(found: &Found) -> String {
    let offset = found.offset.map_or(String::new(), |at| format!(" at byte {at}"));
    let mut line = format!("{}: {}{offset}: {}", found.kind, found.place, found.what);
    if !found.tenants.is_empty() {
        line = format!("{line} ({})", found.tenants.join(", "));
    }
    line
}

fn print(report: &Report, output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Output::Json => serde_json::to_writer(&mut out, report)?,
        Output::Table => {
            let Report { records, damage, notes, seconds, .. } = report;
            let verdict = if report.whole { "whole" } else { "DAMAGED" };
            write!(out, "{verdict}: {records} records")?;
            if let Some(checkpoints) = &report.checkpoints {
                write!(out, ", {checkpoints} signed checkpoints of them")?;
            }
            if let Some(f) = &report.folder {
                let FolderFigures { segments, ops, tenants, index_parts } = f;
                write!(out, " of {tenants} tenants in {ops} ops, {segments} segments")?;
                write!(out, ", {index_parts} parts of the index")?;
            }
            write!(out, "; {damage} damaged, {notes} notes, {seconds:.2} s")?;
            if report.findings.iter().any(|f| f.derived && f.kind == "damage") {
                let says = "index and tiles can be deleted: the next start makes them from the log";
                write!(out, "\n{says}")?;
            }
        }
    }
    writeln!(out)
}
