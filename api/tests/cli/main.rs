//! The command line as a process, against a server that follows a script.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod append;
mod bench;
mod fake;
mod import;
mod read;
mod tail;
mod verify;

use std::process::{Command, Output};

use fake::Server;

/// Runs `kimberlite` against a server; arguments are split at spaces.
fn kimberlite(server: &Server, arguments: &str) -> Output {
    kimberlite_with(server, &arguments.split(' ').collect::<Vec<_>>())
}

fn kimberlite_with(server: &Server, arguments: &[&str]) -> Output {
    command().args(["--url", server.url()]).args(arguments).output().unwrap()
}

/// The binary, deaf to the environment of whoever runs the tests.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kimberlite"));
    command.env_remove("KIMBERLITE_URL").env_remove("KIMBERLITE_KEY");
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What came out of a command that has to succeed.
fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What a command complained about that has to fail with this exit code.
fn stderr(output: &Output, code: i32) -> &str {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn every_setting_is_explained() {
    let output = command().args(["config", "--explain"]).output().unwrap();
    assert!(stdout(&output).contains("KIMBERLITE_LISTEN"));
    stderr(&command().arg("config").output().unwrap(), 2);
}

#[test]
fn development_server_is_for_this_machine_alone() {
    let arguments = ["dev", "--ephemeral", "--listen", "0.0.0.0:0"];
    let output = command().args(arguments).output().unwrap();
    assert!(stderr(&output, 1).contains("loopback"));
}
