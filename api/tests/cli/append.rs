use super::{
    command,
    fake::{self, Server, answer, problem},
    kimberlite, kimberlite_with, stderr, stdout,
};

const RECEIPT: &str = r#"{"stream":"a/b","first_version":4,"last_version":4,"first_position":1042,"last_position":1042,"time":"2026-11-22T10:00:00.000000Z","hash":"ab12"}"#;

fn receipts() -> Server {
    Server::start(|_, _| answer("201 Created", "application/json", RECEIPT))
}

#[test]
fn receipt_is_printed_and_the_event_sent_byte_for_byte() {
    let server = receipts();
    let output = kimberlite_with(
        &server,
        &[
            "append",
            "a/b",
            "--key",
            "k1",
            "--type",
            "t",
            "--data",
            "{\"n\": 1e400}",
            "--metadata",
            "{}",
            "--id",
            "0199",
            "--occurred-at",
            "2026-11-22T09:00:00Z",
            "--tag",
            "x:1",
            "--tag",
            "y",
            "--expected",
            "3",
            "--idempotency-key",
            "once",
        ],
    );
    assert_eq!(stdout(&output), format!("{RECEIPT}\n"));
    let request = &server.requests()[0];
    assert_eq!(request.line, "POST /v1/streams/a%2Fb/events");
    for header in
        ["authorization: bearer k1", "content-type: application/json", "idempotency-key: once"]
    {
        assert!(request.has(header), "{header} in {:?}", request.headers);
    }
    assert_eq!(
        request.body,
        r#"{"events":[{"type":"t","data":{"n": 1e400},"metadata":{},"id":"0199","occurred_at":"2026-11-22T09:00:00Z","tags":["x:1","y"]}],"expected":{"version":3}}"#
    );
}

#[test]
fn what_is_not_given_is_not_sent() {
    let server = receipts();
    stdout(&kimberlite(&server, "append s --type t"));
    let request = &server.requests()[0];
    assert_eq!(request.body, r#"{"events":[{"type":"t"}],"expected":"any"}"#);
    assert!(!request.headers.iter().any(|line| line.starts_with("authorization")));
}

#[test]
fn table_names_what_the_receipt_says() {
    let table = kimberlite(&receipts(), "append s --type t --output table");
    let table = stdout(&table);
    assert!(table.contains("position") && table.contains("1042") && table.contains("ab12"));
}

#[test]
fn refusal_shows_the_problem_and_fails() {
    let server = Server::start(|_, _| {
        problem(
            "412 Precondition Failed",
            r#""title":"A condition failed","status":412,"detail":"Read again.","errors":[{"pointer":"/expected","detail":"is 4"}]"#,
        )
    });
    let output = kimberlite(&server, "append s --type t --expected none");
    let expected = "error: A condition failed (412)\n  Read again.\n  /expected: is 4\n";
    assert_eq!(stderr(&output, 1), expected);
    assert!(output.stdout.is_empty());
}

#[test]
fn replay_is_said() {
    let server = Server::start(|_, _| {
        fake::json(RECEIPT).replacen("\r\n", "\r\nidempotent-replay: true\r\n", 1)
    });
    let output = kimberlite(&server, "append s --type t --idempotency-key once");
    assert_eq!(stdout(&output), format!("{RECEIPT}\n"));
    assert!(stderr(&output, 0).contains("already appended"));
}

#[test]
fn command_that_makes_no_sense_is_a_usage_error() {
    let server = receipts();
    for arguments in [
        "append s",
        "append s --type t --data text",
        "append s --type t --data @/no/such/file",
        "append s --type t --data - --metadata -",
        "append s --type t --expected soon",
    ] {
        stderr(&kimberlite(&server, arguments), 2);
    }
    let tls = ["append", "s", "--type", "t", "--url", "https://127.0.0.1"];
    stderr(&command().args(tls).output().unwrap(), 2);
    assert!(server.requests().is_empty());
}

#[test]
fn server_that_is_not_there_is_named() {
    let output =
        command().args(["append", "s", "--type", "t", "--url", "http://127.0.0.1:1"]).output();
    let output = output.unwrap();
    assert!(stderr(&output, 1).contains("no answer from http://127.0.0.1:1"));
}
