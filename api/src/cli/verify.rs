//! `kimberlite verify`: checks a data folder or a running server, and changes neither.

mod http;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kimberlite_store::verify::{
    Finding, FindingKind, Progress, VerifyError as FolderError, Watcher,
};
use serde::Serialize;

use super::{Global, Output, client::ClientError, target::Target};

/// How often a line of progress is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Findings that are kept for the report; all are counted.
const FINDINGS_MAX: usize = 10_000;

/// Check a data folder that no process has open, or over HTTP what a server shows; changes nothing. Exits with 0
/// when all is whole, 1 when something is damaged, 2 when it could not be checked.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A data folder, or the `http://` URL of a server; left out, the server at `--url`.
    #[arg(value_name = "FOLDER|URL")]
    what: Option<String>,
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    /// The folder cannot be read, or is in use.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The server does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The URL is none.
    #[error("{0}")]
    Target(#[from] super::target::TargetError),
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
    let started = Instant::now();
    let mut told = Told::new(global.output);
    let server = match &args.what {
        None => Some(global.url.clone()),
        Some(what) if what.contains("://") => Some(what.parse::<Target>()?),
        Some(_) => None,
    };
    let (records, folder) = if let Some(target) = server {
        (http::verify(target, global, &mut told)?, None)
    } else {
        let folder = PathBuf::from(args.what.as_deref().unwrap_or_default());
        let summary = kimberlite_store::verify::verify(&folder, &mut told)?;
        let figures = FolderFigures {
            segments: summary.segments,
            ops: summary.ops,
            tenants: summary.tenants,
            index_parts: summary.parts,
        };
        (summary.records, Some(figures))
    };
    let whole = told.damage == 0;
    told.bar.finish_and_clear();
    let report = Report {
        whole,
        records,
        folder,
        damage: told.damage,
        notes: told.notes,
        findings: told.findings,
        seconds: started.elapsed().as_secs_f64(),
    };
    print(&report, global.output).map_err(VerifyError::Output)?;
    Ok(whole)
}

/// Shows progress, and findings as they come.
struct Told {
    output: Output,
    bar: ProgressBar,
    last_line: Instant,
    damage: u64,
    notes: u64,
    findings: Vec<Found>,
}

impl Told {
    fn new(output: Output) -> Self {
        let bar = if io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:40} {percent}% {msg} {eta}");
            ProgressBar::new(0).with_style(style.expect("the template is well-formed"))
        } else {
            ProgressBar::hidden()
        };
        let (last_line, findings) = (Instant::now(), Vec::new());
        Self { output, bar, last_line, damage: 0, notes: 0, findings }
    }

    fn went_on(&mut self, done: u64, all: u64, what: &str) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        if self.bar.message() != what {
            self.bar.set_message(what.to_owned());
        }
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{}% {what}", (done * 100).checked_div(all).unwrap_or(100));
        }
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
        self.went_on(progress.bytes, progress.bytes_total, &progress.file);
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
            if let Some(f) = &report.folder {
                let FolderFigures { segments, ops, tenants, index_parts } = f;
                write!(out, " of {tenants} tenants in {ops} ops, {segments} segments")?;
                write!(out, ", {index_parts} parts of the index")?;
            }
            write!(out, "; {damage} damaged, {notes} notes, {seconds:.2} s")?;
            if report.findings.iter().any(|f| f.derived && f.kind == "damage") {
                let says = "the index can be deleted: the next start makes it from the log";
                write!(out, "\n{says}")?;
            }
        }
    }
    writeln!(out)
}
