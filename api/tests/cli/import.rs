use std::{fs, path::Path};

use super::{
    fake::{Request, Server, answer, json, problem},
    kimberlite_with, stderr, stdout,
};

const CSV: &str = "Case ID;Activity;When\n\
    A;Start;2014/10/22 11:15:41.000\n\
    B;Start;2014/10/22 11:16:00.000\n\
    A;End;2014/10/22 11:17:00\n";

const OPTIONS: [&str; 10] = [
    "--format",
    "csv",
    "--delimiter",
    ";",
    "--stream",
    "case-{Case ID}",
    "--type",
    "{Activity}",
    "--occurred-at",
    "When",
];

/// Takes every line; the log grows with the first request for it, like that of a first run.
fn bulk_door() -> Server {
    Server::start(|number, request| match request.line.as_str() {
        "GET /v1/events?after=head&limit=1" => {
            let head = if number < 2 { "null" } else { "2" };
            json(&format!("{{\"events\":[],\"next\":null,\"head\":{head}}}"))
        }
        "POST /v1/events" => acknowledged(request),
        other => panic!("{other}"),
    })
}

fn acknowledged(request: &Request) -> String {
    let last = request.body.lines().count();
    let line = |first, last| {
        format!(
            "{{\"lines\":[{first},{last}],\"first_position\":{},\"last_position\":{}}}\n",
            first - 1,
            last - 1
        )
    };
    let body = if last > 1 { line(1, 1) + &line(2, last) } else { line(1, 1) };
    answer("200 OK", "application/x-ndjson", &body)
}

fn import(server: &Server, file: &str, more: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cases.csv");
    fs::write(&path, file).unwrap();
    let mut arguments = vec!["import", Path::to_str(&path).unwrap()];
    arguments.extend_from_slice(more);
    kimberlite_with(server, &arguments)
}

fn csv(server: &Server, file: &str) -> std::process::Output {
    let format = ["--time-format", "%Y/%m/%d %H:%M:%S%.f", "--time-zone", "Europe/Amsterdam"];
    import(server, file, &[&OPTIONS[..], &format].concat())
}

#[test]
fn rows_are_loaded_and_a_second_run_sends_the_same() {
    let server = bulk_door();
    let summary: serde_json::Value = serde_json::from_str(stdout(&csv(&server, CSV))).unwrap();
    assert_eq!(summary["events"], 3);
    assert_eq!(summary["streams"], 2);
    assert_eq!(summary["log_growth"], 3);
    let second: serde_json::Value = serde_json::from_str(stdout(&csv(&server, CSV))).unwrap();
    assert_eq!(second["log_growth"], 0);

    let loads: Vec<_> =
        server.requests().into_iter().filter(|request| request.line == "POST /v1/events").collect();
    assert_eq!(loads.len(), 2);
    assert!(loads[0].has("content-type: application/x-ndjson"));
    assert_eq!(loads[0].body, loads[1].body);
    let first: serde_json::Value =
        serde_json::from_str(loads[0].body.lines().next().unwrap()).unwrap();
    assert_eq!(first["stream"], "case-A");
    assert_eq!(first["type"], "Start");
    assert_eq!(first["occurred_at"], "2014-10-22T09:15:41.000000Z");
    assert_eq!(first["data"]["When"], "2014/10/22 11:15:41.000");
}

#[test]
fn row_that_is_no_event_stops_the_import_behind_the_rows_before_it() {
    let server = bulk_door();
    let output = csv(&server, &CSV.replace("B;Start", "B C;Start"));
    let error = stderr(&output, 1);
    assert!(
        error.contains(
            "cases.csv: row 2 (line 3), column \"Case ID\": \"case-B C\" is no stream name"
        ),
        "{error}"
    );
    let loads: Vec<_> =
        server.requests().into_iter().filter(|request| request.line == "POST /v1/events").collect();
    assert_eq!(loads.len(), 1);
    assert_eq!(loads[0].body.lines().count(), 1);
}

#[test]
fn refused_line_is_named_by_its_row() {
    let server = Server::start(|_, request| {
        if request.line.starts_with("GET") {
            return json("{\"events\":[],\"next\":null,\"head\":null}");
        }
        let body = "{\"lines\":[1,1],\"first_position\":0,\"last_position\":0}\n\
            {\"lines\":[2,2],\"problem\":{\"title\":\"Id conflict\",\"status\":409,\"retryable\":false}}\n";
        answer("200 OK", "application/x-ndjson", body)
    });
    let output = csv(&server, CSV);
    let error = stderr(&output, 1);
    assert!(error.contains("cases.csv: row 2 (line 3): Id conflict (409)"), "{error}");
}

#[test]
fn busy_server_gets_the_same_lines_again() {
    let server = Server::start(|number, request| match number {
        0 | 3 => json("{\"events\":[],\"next\":null,\"head\":7}"),
        1 => problem("503 Service Unavailable", "\"title\":\"Busy\",\"retryable\":true"),
        _ => acknowledged(request),
    });
    stdout(&csv(&server, CSV));
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[1].body, requests[2].body);
}

#[test]
fn ndjson_is_sent_as_it_is() {
    let server = bulk_door();
    let file = "{\"id\":\"x\", \"stream\":\"a\",\"data\":1e400}\n{\"stream\":\"b\"}\n";
    stdout(&import(&server, file, &["--format", "ndjson"]));
    let sent = &server.requests()[1].body;
    let lines: Vec<_> = sent.lines().collect();
    assert_eq!(lines[0], "{\"id\":\"x\", \"stream\":\"a\",\"data\":1e400}");
    assert!(lines[1].starts_with("{\"id\":\"") && lines[1].ends_with("\",\"stream\":\"b\"}"));
}

#[test]
fn large_file_goes_in_several_requests_that_the_server_takes() {
    let server = bulk_door();
    let text = "x".repeat(1 << 20);
    let lines: Vec<_> = (0..9)
        .map(|n| format!("{{\"id\":\"{n}\",\"stream\":\"s\",\"data\":\"{text}\"}}"))
        .collect();
    stdout(&import(&server, &lines.join("\n"), &["--format", "ndjson"]));
    let bodies: Vec<_> = server.requests().into_iter().map(|request| request.body).collect();
    assert!(bodies.len() > 3 && bodies.iter().all(|body| body.len() < 16 << 20));
    assert_eq!(bodies.concat().lines().collect::<Vec<_>>(), lines);
}

#[test]
fn options_must_fit_the_file_and_each_other() {
    let server = bulk_door();
    for options in [
        &["--format", "csv"][..],
        &["--format", "csv", "--stream", "x", "--type", "{"],
        &["--format", "csv", "--stream", "{No}", "--type", "x", "--delimiter", ";"],
        &["--format", "csv", "--stream", "x", "--type", "x", "--delimiter", ";;"],
        &["--format", "csv", "--stream", "x", "--type", "x", "--time-zone", "Mars/Olympus"],
        &["--format", "csv", "--stream", "x", "--type", "x", "--time-format", "%Y"],
        &["--format", "ndjson", "--stream", "x"],
        &[],
    ] {
        stderr(&import(&server, CSV, options), 2);
    }
    assert!(server.requests().is_empty());
}
