//! `cargo sim`: see [`kimberlite_store::sim::command`].

fn main() -> std::process::ExitCode {
    kimberlite_store::sim::command::run(std::env::args().skip(1))
}
