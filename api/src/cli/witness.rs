//! `kimberlite witness`: a witness for other logs.

use std::{io, net::SocketAddr, path::PathBuf};

use clap::Args;
use kimberlite_store::proof::VerifierKey;
use tokio::runtime;

use super::vkeys::log_key;
use crate::{
    config::Config,
    server::{self, ServeError},
    witness::WitnessArgs,
};

/// Cosign the checkpoints of other logs (C2SP tlog-witness): a log that shows two histories cannot have both cosigned. Prints its
/// public key, for those who check.
#[derive(Debug, Args)]
pub(super) struct WitnessCommand {
    /// Where its key lies and what it saw; made with a new key where it is not there. Nothing else holds them: losing the
    /// folder, or bringing an older copy of it back, is losing the witness.
    #[arg(long, value_name = "FOLDER", default_value = "./kimberlite-witness")]
    data: PathBuf,
    /// Its name, such as `witness.example/w1`; needed the first time.
    #[arg(long)]
    name: Option<String>,
    /// The public key of a log to cosign, as often as there are logs; of one log also two, while it changes its key.
    #[arg(long = "log", value_name = "VKEY", value_parser = log_key, required = true)]
    logs: Vec<VerifierKey>,
    /// Where to listen. There is no TLS: strangers come through a proxy that has it.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7071")]
    listen: SocketAddr,
}

/// Why the witness did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum WitnessError {
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
/// See [`WitnessError`].
pub(super) fn run(args: WitnessCommand, config: Config) -> Result<(), WitnessError> {
    let WitnessCommand { data, name, logs, listen } = args;
    let runtime = runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(WitnessError::Start)?;
    let args = WitnessArgs { listen, folder: data, name, logs };
    Ok(runtime.block_on(server::witness(args, config))?)
}
