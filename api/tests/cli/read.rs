use super::{
    fake::{Server, json, problem},
    kimberlite, kimberlite_with, stderr, stdout,
};

/// Ten events, two a page.
fn pages() -> Server {
    Server::start(|number, _| {
        let event = |n| format!("{{\"position\":{n},\"data\":[\n{n}]}}");
        let next =
            if number < 4 { format!("\"/v1/next?page={}\"", number + 1) } else { "null".into() };
        let (first, second) = (event(2 * number), event(2 * number + 1));
        json(&format!("{{\"events\":[{first},{second}],\"next\":{next},\"head\":9}}"))
    })
}

#[test]
fn everything_is_read_page_after_page_one_event_a_line() {
    let server = pages();
    let output = kimberlite(&server, "read");
    let expected: Vec<_> =
        (0..10).map(|n| format!("{{\"position\":{n},\"data\":[ {n}]}}")).collect();
    assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), expected);
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(paths[0], "GET /v1/events?limit=1000");
    assert_eq!(paths[1..], [1, 2, 3, 4].map(|n| format!("GET /v1/next?page={n}")));
}

#[test]
fn no_more_is_read_than_the_limit() {
    let server = pages();
    assert_eq!(stdout(&kimberlite(&server, "read --limit 3")).lines().count(), 3);
    assert_eq!(server.requests().len(), 2);
    assert_eq!(server.requests()[0].line, "GET /v1/events?limit=3");
    stderr(&kimberlite(&server, "read --limit 0"), 2);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn filters_are_handed_to_the_server() {
    let server = Server::start(|_, _| json("{\"events\":[],\"next\":null,\"head\":null}"));
    let stream = "read a/b --from 7 --direction backward --type x --type y --tag t:1";
    stdout(&kimberlite(&server, stream));
    stdout(&kimberlite_with(
        &server,
        &[
            "read",
            "--after",
            "3.00ab12cd",
            "--stream-prefix",
            "case-",
            "--from-time",
            "2026-01-01T00:00:00Z",
            "--occurred-from",
            "2025-01-01T00:00:00+01:00",
            "--occurred-to",
            "2026-01-01T00:00:00Z",
        ],
    ));
    let requests = server.requests();
    assert_eq!(
        requests[0].line,
        "GET /v1/streams/a%2Fb/events?from=7&direction=backward&limit=1000&type=x&type=y&tag=t%3A1"
    );
    assert_eq!(
        requests[1].line,
        "GET /v1/events?after=3.00ab12cd&limit=1000&stream_prefix=case-\
         &from_time=2026-01-01T00%3A00%3A00Z&occurred_from=2025-01-01T00%3A00%3A00%2B01%3A00\
         &occurred_to=2026-01-01T00%3A00%3A00Z"
    );
}

#[test]
fn options_of_the_log_and_of_a_stream_do_not_mix() {
    let server = pages();
    for arguments in ["read --from 3", "read s --from 1 --after 3", "read s --stream-prefix x"] {
        stderr(&kimberlite(&server, arguments), 2);
    }
}

#[test]
fn refusal_and_nonsense_fail() {
    let gone = Server::start(|_, _| problem("404 Not Found", "\"title\":\"No such stream\""));
    assert_eq!(stderr(&kimberlite(&gone, "read s"), 1), "error: No such stream\n");
    let other = Server::start(|_, _| json("{\"hello\":1}"));
    assert!(stderr(&kimberlite(&other, "read"), 1).contains("missing field `events`"));
}
