//! `kimberlite dev`: the server for one's own machine.

use std::{io, net::SocketAddr, path::PathBuf};

use clap::Args;
use tokio::runtime;

use crate::{
    config::Config,
    server::{self, ServeError, ServerArgs},
};

/// Threads that wait for the disk on behalf of readers. Each keeps memory of its own, and more of them read no
/// faster.
const READING_THREADS: usize = 16;

/// Start a server for this machine alone: everything on, a ready tenant `dev`, no credentials needed.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Where to listen; a loopback address.
    #[arg(
        long,
        env = "KIMBERLITE_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:7070"
    )]
    listen: SocketAddr,
    /// The folder that keeps the log, made if it is not there; where it is not given that of
    /// `KIMBERLITE_DATA`, or else ./kimberlite-data.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Keep everything in a temporary folder that goes with the process, whatever `KIMBERLITE_DATA`
    /// says.
    #[arg(long, conflicts_with = "data")]
    ephemeral: bool,
}

/// Why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevError {
    /// No threads to run on.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// The server's own reason.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Serves until the process is told to stop.
///
/// # Errors
/// See [`DevError`].
pub(super) fn run(args: DevArgs, config: Config) -> Result<(), DevError> {
    let DevArgs { listen, data, ephemeral } = args;
    let data = data.unwrap_or_else(|| config.data.clone());
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(READING_THREADS)
        .build()
        .map_err(DevError::Start)?;
    Ok(runtime.block_on(server::run(ServerArgs { listen, data, ephemeral }, config))?)
}
