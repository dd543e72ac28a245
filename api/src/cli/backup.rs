//! `kimberlite backup`: has a running server copy its log to a folder.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use comfy_table::{Table, presets};
use hyper::header::LOCATION;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    Global, Output,
    client::{Answer, Client, ClientError},
    problem::Problem,
    progress::Bar,
};

/// How often the server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Have the server copy everything that is committed now to a folder, while it goes on. A folder that has a backup of
/// this log gets only what is new. Ctrl-C leaves the backup running.
#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// A folder on the server's machine: new, empty, or with backups of this log.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    /// The server refused, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A path that begins here means nothing on another machine.
    #[error("the server is on another machine: give an absolute path on it")]
    Relative,
    /// The path cannot be sent, or not be found.
    #[error("the folder's path cannot be used: {0}")]
    Path(#[source] io::Error),
    /// It began, and failed.
    #[error("{0}")]
    Failed(Box<Problem>),
    /// Somebody cancelled it.
    #[error("the backup was cancelled")]
    Cancelled,
    /// The server says nothing that makes sense.
    #[error("the server does not say where its backup can be watched")]
    NoLocation,
    /// It is done, but that could not be printed.
    #[error("the backup is done, but that could not be printed: {0}")]
    Output(#[source] io::Error),
}

impl BackupError {
    /// Whether the arguments themselves are wrong.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::Relative | Self::Path(_))
    }
}

#[derive(Deserialize)]
struct Backup<'a> {
    status: String,
    progress: Progress,
    created_at: String,
    folder: String,
    #[serde(borrow)]
    problem: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Progress {
    files: u64,
    bytes: u64,
    bytes_total: u64,
    bytes_copied: u64,
}

/// Begins a backup and waits until it is over.
///
/// # Errors
/// See [`BackupError`].
pub(super) fn run(args: &BackupArgs, global: &Global) -> Result<(), BackupError> {
    if !args.folder.is_absolute() && !global.url.is_loopback() {
        return Err(BackupError::Relative);
    }
    let folder = std::path::absolute(&args.folder).map_err(BackupError::Path)?;
    let not_text = || BackupError::Path(io::Error::other("it is not UTF-8"));
    let folder = folder.to_str().ok_or_else(not_text)?;
    let client = Client::new(global);
    let body = json!({ "folder": folder }).to_string();
    let begun = client.post("/v1/backups", &[], body.as_bytes())?;
    let location = begun.headers.get(LOCATION).and_then(|l| l.to_str().ok());
    let location = location.filter(|l| l.starts_with('/')).ok_or(BackupError::NoLocation)?;
    let mut bar = Bar::new();
    let mut answer = Answer { headers: begun.headers.clone(), body: begun.body };
    loop {
        let backup: Backup<'_> = client.parse(&answer.body)?;
        let Progress { bytes, bytes_total, .. } = backup.progress;
        bar.went_on(bytes, bytes_total, "copying");
        match backup.status.as_str() {
            "running" => {}
            "done" => break,
            "cancelled" => return Err(BackupError::Cancelled),
            _ => {
                let problem = backup.problem.map_or("{}", RawValue::get);
                return Err(BackupError::Failed(Box::new(client.parse(problem.as_bytes())?)));
            }
        }
        std::thread::sleep(ASK_EVERY);
        answer = client.get(location)?;
    }
    bar.clear();
    print(&client, &answer, global.output)
}

fn print(client: &Client, answer: &Answer, output: Output) -> Result<(), BackupError> {
    let mut out = io::stdout().lock();
    let printed = match output {
        Output::Json => out.write_all(&answer.body).and_then(|()| out.write_all(b"\n")),
        Output::Table => {
            let backup: Backup<'_> = client.parse(&answer.body)?;
            let Progress { files, bytes, bytes_copied, .. } = backup.progress;
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.add_row(vec!["folder", &backup.folder]);
            table.add_row(vec!["state of", &backup.created_at]);
            table.add_row(vec!["files", &files.to_string()]);
            table.add_row(vec!["bytes", &bytes.to_string()]);
            table.add_row(vec!["copied", &bytes_copied.to_string()]);
            writeln!(out, "{}", table.trim_fmt())
        }
    };
    printed.and_then(|()| out.flush()).map_err(BackupError::Output)
}
