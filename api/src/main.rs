//! The binary `kimberlite`: see [`kimberlite_api::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kimberlite_api::cli::main()
}
