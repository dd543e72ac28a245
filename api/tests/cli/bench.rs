use super::{
    command,
    fake::{Server, answer, json, problem},
    kimberlite, stderr, stdout,
};

fn report(server: &Server, arguments: &str) -> serde_json::Value {
    serde_json::from_str(stdout(&kimberlite(server, arguments))).unwrap()
}

#[test]
fn append_counts_what_is_acknowledged_under_the_right_expectation() {
    let server = Server::start(|_, request| {
        let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        let version = match &body["expected"] {
            serde_json::Value::String(word) if word == "none" => 1,
            expected => expected["version"].as_u64().unwrap() + 2,
        };
        answer("201 Created", "application/json", &format!("{{\"last_version\":{version}}}"))
    });
    let arguments = "bench append --connections 2 --batch 2 --size 64 --seconds 1 --warmup 0 --expected-version";
    let report = report(&server, arguments);
    assert_eq!(report["work"], "append");
    let requests = report["requests"].as_u64().unwrap();
    assert!(requests > 0 && requests <= server.requests().len() as u64);
    assert_eq!(report["events"].as_u64().unwrap(), 2 * requests);
    assert!(report["p50_ms"].as_f64().unwrap() <= report["p999_ms"].as_f64().unwrap());
    let mut paths: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 2, "{paths:?}");
}

#[test]
fn read_goes_through_all_pages_again_and_again() {
    let server = Server::start(|number, _| {
        let next = if number.is_multiple_of(2) { "\"/v1/events?after=1\"" } else { "null" };
        let event = "{\"position\":1,\"cursor\":\"1.00ab12cd\"}";
        json(&format!("{{\"events\":[{event}],\"next\":{next},\"head\":1}}"))
    });
    let report = report(&server, "bench read --connections 1 --page 1 --seconds 1 --warmup 0");
    assert_eq!(report["events"], report["requests"]);
    let requests = server.requests();
    for (number, request) in requests.iter().enumerate() {
        let path = ["GET /v1/events?limit=1", "GET /v1/events?after=1"][number % 2];
        assert_eq!(request.line, path);
    }
}

#[test]
fn catching_up_ends_at_the_head() {
    let server = Server::start(|_, _| {
        let event = |n| format!("event: event\nid: {n}.00ab12cd\ndata: {{\"position\":{n}}}\n\n");
        let frames: String = (0..50).map(event).collect();
        super::fake::events(&(frames + "event: caught-up\ndata: {}\n\n"))
    });
    assert_eq!(report(&server, "bench follow --catch-up --followers 2")["events"], 100);
}

#[test]
fn refused_work_ends_the_run() {
    let server = Server::start(|_, _| problem("403 Forbidden", "\"title\":\"Not allowed\""));
    for work in ["append", "read", "follow", "follow --catch-up"] {
        let output = kimberlite(&server, &format!("bench {work}"));
        assert_eq!(stderr(&output, 1), "error: Not allowed\n");
    }
}

#[test]
fn only_this_machine_is_driven_without_being_asked_twice() {
    let arguments = ["bench", "append", "--url", "http://192.0.2.1"];
    let output = command().args(arguments).output().unwrap();
    assert!(stderr(&output, 2).contains("--yes"));
    let shared = ["bench", "append", "--one-stream", "--expected-version"];
    stderr(&command().args(shared).output().unwrap(), 2);
}
