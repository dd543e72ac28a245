//! The command line as a process, against a server that follows a script.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod append;
mod audit;
mod backup;
mod bench;
mod fake;
mod folder;
mod import;
mod offline;
mod query;
mod read;
mod tail;
mod verify;
mod witness;

use std::process::{Command, Output};

use fake::Server;

/// Runs `kimberlite` against a server; arguments are split at spaces.
fn kimberlite(server: &Server, arguments: &str) -> Output {
    kimberlite_with(server, &arguments.split(' ').collect::<Vec<_>>())
}

fn kimberlite_with(server: &Server, arguments: &[&str]) -> Output {
    let (name, rest) = arguments.split_first().unwrap();
    command().args([name, "--url", server.url()]).args(rest).output().unwrap()
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
fn options_stand_only_where_they_have_an_effect() {
    for name in ["append", "read", "tail", "import", "bench", "backup", "dev", "config"] {
        let help = command().args([name, "--help"]).output().unwrap();
        let calls = !["dev", "config"].contains(&name);
        for option in ["--url", "--key", "--output"] {
            assert_eq!(stdout(&help).contains(option), calls, "{name} {option}");
        }
    }
    for arguments in ["dev --ephemeral --url http://127.0.0.1:1", "config --explain --output json"]
    {
        stderr(&command().args(arguments.split(' ')).output().unwrap(), 2);
    }
}

#[test]
fn misspelt_variable_is_an_error_of_every_command_but_the_one_that_spells_them() {
    let server = Server::start(|_, _| fake::json("{}"));
    for arguments in
        ["append s --type t", "read", "tail", "import x --format ndjson", "bench read", "dev"]
    {
        let mut run = command();
        run.args(arguments.split(' ')).env("KIMBERLITE_URL", server.url());
        let output = run.env("KIMBERLITE_LISTN", "x").output().unwrap();
        assert!(stderr(&output, 2).contains("KIMBERLITE_LISTN"), "{arguments}");
    }
    assert!(server.requests().is_empty());
    let explained = command().args(["config", "--explain"]).env("KIMBERLITE_LISTN", "x").output();
    assert!(stdout(&explained.unwrap()).contains("KIMBERLITE_LISTEN"));
}

#[test]
fn development_server_is_for_this_machine_alone() {
    let arguments = ["dev", "--ephemeral", "--listen", "0.0.0.0:0"];
    let output = command().args(arguments).output().unwrap();
    assert!(stderr(&output, 1).contains("loopback"));
}
