//! `kimberlite keys`: the keys that a server signs its log with.

use std::io::{self, Write as _};

use clap::Args;
use comfy_table::{Table, presets};
use serde::Deserialize;

use super::{
    Global, Output,
    client::{Answer, Client, ClientError},
};

/// Print the public keys (vkeys) that check the log's checkpoints and proofs.
#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    /// Have a new key sign from here on; what older keys signed goes on to verify with them.
    #[arg(long)]
    rotate: bool,
}

/// Why nothing was printed.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    /// The server refused, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// They could not be printed.
    #[error("the keys could not be printed: {0}")]
    Output(#[source] io::Error),
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    vkey: String,
    from: u64,
}

/// Asks, or has the key changed, and prints.
///
/// # Errors
/// See [`KeysError`].
pub(super) fn run(args: &KeysArgs, global: &Global) -> Result<(), KeysError> {
    let client = Client::new(global);
    let answer = if args.rotate {
        client.post("/v1/log/keys", &[], b"")?
    } else {
        client.get("/v1/log/keys")?
    };
    print(&client, &answer, global.output)
}

fn print(client: &Client, answer: &Answer, output: Output) -> Result<(), KeysError> {
    let mut out = io::stdout().lock();
    let printed = match output {
        Output::Json => out.write_all(&answer.body).and_then(|()| out.write_all(b"\n")),
        Output::Table => {
            let Keys { keys } = client.parse(&answer.body)?;
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header(vec!["from", "vkey"]);
            for Key { vkey, from } in keys {
                table.add_row(vec![from.to_string(), vkey]);
            }
            writeln!(out, "{}", table.trim_fmt())
        }
    };
    printed.and_then(|()| out.flush()).map_err(KeysError::Output)
}
