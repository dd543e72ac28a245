//! `kimberlite restore`: makes a data folder from a backup, without a server.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Args;
use kimberlite_store::{
    restore::{Restore, RestoreError as FolderError, Restored, Step, Until, restore},
    words::{Actor, NameError, Position, TenantName},
};
use serde::Serialize;

use super::{Output, progress::Bar};

/// Whom the records name that a restore writes.
const ACTOR: &str = "restore";

/// Make a data folder from a backup: all of it, or up to a position. Every file is compared with the backup's manifest
/// and the new log verified before any server opens the folder; where anything does not hold, the folder is as it was.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The backup's folder.
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// The data folder to be made: a new one, or an empty one.
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// The tenant that `--position` is of.
    #[arg(long, value_name = "NAME", requires = "position", value_parser = tenant)]
    tenant: Option<TenantName>,
    /// Restore the state after this record; the logs of tenants that lose records say so in their next one. A position
    /// inside a transaction cuts the transaction.
    #[arg(long, value_name = "N", requires = "tenant", value_parser = position)]
    position: Option<Position>,
    /// Let logs keep their names where their keys are there. Say so only if nothing was signed since the backup was made;
    /// a restored log otherwise goes on under another name and key, since nobody can know that.
    #[arg(long, conflicts_with = "position")]
    keep_origin: bool,
    /// How to print: JSON, or lines for people.
    #[arg(long, value_enum, default_value_t = Output::Json)]
    output: Output,
}

fn tenant(text: &str) -> Result<TenantName, NameError> {
    TenantName::new(text)
}

fn position(text: &str) -> Result<Position, &'static str> {
    text.parse().ok().and_then(Position::new).ok_or("a whole number below 2^53")
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    /// The backup, or the new folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// It is restored, but that could not be printed.
    #[error("the folder is restored, but that could not be printed: {0}")]
    Output(#[source] io::Error),
}

/// What `--output json` prints.
#[derive(Serialize)]
struct Report<'a> {
    data: String,
    backup_created_at: &'a str,
    tenants: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    tenant: &'a str,
    records: u64,
    lost: u64,
    new_log_id: Option<&'a str>,
}

/// Restores.
///
/// # Errors
/// See [`RestoreError`].
pub(super) fn run(args: RestoreArgs) -> Result<(), RestoreError> {
    let RestoreArgs { backup, data, tenant, position, keep_origin, output } = args;
    let until = tenant.zip(position).map(|(tenant, position)| Until { tenant, position });
    let actor = Actor::new(ACTOR).expect("a plain word");
    let args = Restore { backup, folder: data, until, actor, keeps_origin: keep_origin };
    let mut bar = Bar::new();
    let restored = restore(&args, &mut |step| match step {
        Step::Files(done, all) => bar.went_on(done, all, "copying"),
        Step::Cutting => bar.went_on(0, 1, "cutting"),
        Step::Verifying(progress) => {
            bar.went_on(progress.bytes, progress.bytes_total, "verifying");
        }
    })?;
    bar.clear();
    print(&args, &restored, output).map_err(RestoreError::Output)
}

fn print(args: &Restore, restored: &Restored, output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let data = args.folder.display().to_string();
    let tenants = restored.tenants.iter().map(|t| Line {
        tenant: &t.tenant,
        records: t.records,
        lost: t.lost,
        new_log_id: t.new_log_id.as_deref(),
    });
    let report =
        Report { data, backup_created_at: &restored.created_at, tenants: tenants.collect() };
    match output {
        Output::Json => {
            serde_json::to_writer(&mut out, &report)?;
            writeln!(out)?;
        }
        Output::Table => {
            writeln!(out, "{} is the state of {}", report.data, report.backup_created_at)?;
            for Line { tenant, records, lost, new_log_id } in &report.tenants {
                write!(out, "{tenant}: {records} records")?;
                if let Some(id) = new_log_id {
                    write!(out, ", {lost} are gone; the log goes on as {id}")?;
                }
                writeln!(out)?;
            }
        }
    }
    out.flush()
}
