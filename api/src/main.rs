//! The binary `kimberlite`: see [`kimberlite_api::cli`].

use std::process::ExitCode;

/// Requests are allocated on the server's threads and freed on the log's: the system's allocator has them wait
/// for each other.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    kimberlite_api::cli::main()
}
