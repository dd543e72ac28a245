use std::{
    io::Write as _,
    process::{Output, Stdio},
};

use super::{
    command,
    fake::{Server, json, problem},
    kimberlite_with, stderr, stdout, text,
};

/// Rows of two pages, with JSON that has a line break and a column of texts.
fn server() -> Server {
    Server::start(|number, request| {
        if request.body.contains("wrong") {
            let members = r#""title":"no","status":400,"code":"invalid_sql","detail":"there is no \"wrong\"""#;
            return problem("400 Bad Request", members);
        }
        if request.body.contains("DELETE") {
            return json(r#"{"columns":[],"rows":[],"row_count":3,"next":null,"position":9}"#);
        }
        let columns = r#"[{"name":"n","type":"BIGINT"},{"name":"what","type":"JSON"}]"#;
        if request.body.contains("twice") {
            let columns = columns.replace("what", "n");
            return json(&format!(
                r#"{{"columns":{columns},"rows":[],"row_count":0,"next":null,"position":7}}"#
            ));
        }
        let (rows, next) = match number {
            0 => ("[1,{\"a\":\n1}],[2,null]", r#""/v1/query?next=abc""#),
            _ => (r#"[3,"text"]"#, "null"),
        };
        json(&format!(
            r#"{{"columns":{columns},"rows":[{rows}],"row_count":2,"next":{next},"position":7}}"#
        ))
    })
}

#[test]
fn every_row_is_an_object_on_a_line() {
    let server = server();
    let arguments = ["query", "SELECT $1", "5", "five", "--as-of", "3", "--timeout-ms", "20"];
    let output = kimberlite_with(&server, &arguments);
    let lines =
        ["{\"n\":1,\"what\":{\"a\": 1}}", "{\"n\":2,\"what\":null}", "{\"n\":3,\"what\":\"text\"}"];
    assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), lines);
    let requests = server.requests();
    assert_eq!(requests[0].line, "POST /v1/query");
    let asked: serde_json::Value = serde_json::from_str(&requests[0].body).unwrap();
    let expected =
        r#"{"sql":"SELECT $1","params":[5,"five"],"as_of":{"position":3},"timeout_ms":20}"#;
    assert_eq!(asked, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    assert_eq!(requests[1].line, "GET /v1/query?next=abc");
}

#[test]
fn a_table_says_how_many_rows_and_what_they_are_of() {
    let output = kimberlite_with(&server(), &["query", "--output", "table", "SELECT 1"]);
    let text = stdout(&output);
    assert!(text.contains("what") && text.ends_with("(3 rows, as of position 7)\n"), "{text}");
}

#[test]
fn what_has_no_rows_says_how_many_it_changed() {
    let output = kimberlite_with(&server(), &["query", "--output", "table", "DELETE FROM t"]);
    assert_eq!(stdout(&output), "(3 rows changed, as of position 9)\n");
    let output = kimberlite_with(&server(), &["query", "DELETE FROM t"]);
    assert_eq!(stdout(&output), "");
}

#[test]
fn a_refusal_and_a_row_that_no_object_can_hold_fail() {
    let output = kimberlite_with(&server(), &["query", "SELECT wrong"]);
    assert!(stderr(&output, 1).contains("there is no \"wrong\""));
    let output = kimberlite_with(&server(), &["query", "SELECT twice"]);
    assert!(stderr(&output, 1).contains("two columns are called \"n\""));
}

fn shell(server: &Server, typed: &str) -> Output {
    let mut child = command()
        .args(["repl", "--url", server.url(), "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What the server was asked.
fn posted(server: &Server) -> Vec<String> {
    let posts = server.requests().into_iter().filter(|r| r.line.starts_with("POST"));
    posts.map(|r| r.body).collect()
}

#[test]
fn a_pipe_is_taken_statement_by_statement_up_to_the_first_error() {
    let server = server();
    let output = shell(&server, "SELECT\n  1;\n.asof\nSELECT wrong;\nSELECT 2;\n");
    assert!(stderr(&output, 1).contains("there is no \"wrong\""));
    assert!(text(&output.stdout).ends_with("as of now\n"), "{}", text(&output.stdout));
    let bodies = posted(&server);
    assert_eq!(bodies.len(), 2, "{bodies:?}");
    assert!(bodies[0].contains(r#""sql":"SELECT\n  1;""#), "{}", bodies[0]);
}

#[test]
fn statements_of_a_shell_are_as_of_its_moment() {
    let server = server();
    let typed = ".asof 3\n.schema events\n.asof now\nSELECT 1;\n.quit\nSELECT wrong;\n";
    let output = shell(&server, typed);
    stdout(&output);
    let bodies = posted(&server);
    assert!(
        bodies[1].contains("information_schema") && bodies[1].contains(r#""params":["events"]"#)
    );
    assert!(bodies[1].contains(r#""as_of":{"position":3}"#), "{}", bodies[1]);
    assert!(!bodies[2].contains("as_of"), "{}", bodies[2]);
    assert_eq!(bodies.len(), 3);
    let output = shell(&server, ".nothing\n");
    assert!(stderr(&output, 1).contains(".nothing is no command"));
}
