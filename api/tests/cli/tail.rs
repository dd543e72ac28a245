use super::{
    fake::{Request, Server, events, json, problem},
    kimberlite, stderr, text,
};

fn frame(n: u64) -> String {
    format!("event: event\nid: {n}.00ab12cd\ndata: {{\"position\":{n}}}\n\n")
}

/// The only end of following is a final refusal.
fn the_end() -> String {
    problem("409 Conflict", "\"title\":\"Another log\",\"code\":\"diverged\",\"retryable\":false")
}

#[test]
fn lost_connections_leave_neither_gaps_nor_repeats() {
    let server = Server::start(|number, request| match number {
        0 => events(&(frame(0) + &frame(1) + "event: event\nid: 2.00ab12cd\ndata: {\"posi")),
        1 => events(": nothing\n\n"),
        2 => problem("503 Service Unavailable", "\"title\":\"Starting\",\"retryable\":true"),
        3 => events(&(frame(2) + "event: progress\nid: 9.00ab12cd\ndata: {}\n\n")),
        4 => events(&(frame(10) + "event: draining\ndata: {}\n\n" + &frame(11))),
        5 => {
            assert!(request.has("last-event-id: 10.00ab12cd"));
            the_end()
        }
        _ => unreachable!(),
    });
    let output = kimberlite(&server, "tail s --type t");
    assert!(stderr(&output, 1).ends_with("error: Another log (diverged)\n"));
    let positions: Vec<_> = text(&output.stdout).lines().collect();
    assert_eq!(positions, [0, 1, 2, 10].map(|n| format!("{{\"position\":{n}}}")));

    let resumed = |request: &Request| {
        let id = request.headers.iter().find_map(|line| line.strip_prefix("last-event-id: "));
        id.map(str::to_owned)
    };
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.line == "GET /v1/streams/s/events?type=t"));
    assert!(requests.iter().all(|request| request.has("accept: text/event-stream")));
    assert_eq!(
        requests.iter().map(resumed).collect::<Vec<_>>(),
        [None, Some(1), Some(1), Some(1), Some(9), Some(10)]
            .map(|n| n.map(|n| format!("{n}.00ab12cd")))
    );
}

#[test]
fn head_is_settled_once() {
    let server = Server::start(|number, _| match number {
        0 => json("{\"events\":[],\"next\":null,\"head\":41}"),
        1 => events(": cut before the first id\n\n"),
        2 => events(&frame(42)),
        _ => the_end(),
    });
    let output = kimberlite(&server, "tail --after head");
    assert_eq!(text(&output.stdout), "{\"position\":42}\n");
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(paths[0], "GET /v1/events?after=head&limit=1");
    assert!(paths[1..].iter().all(|path| path == "GET /v1/events?after=41"), "{paths:?}");
}

#[test]
fn refusal_at_the_start_is_final() {
    let server = Server::start(|_, _| problem("403 Forbidden", "\"title\":\"Not allowed\""));
    assert_eq!(stderr(&kimberlite(&server, "tail"), 1), "error: Not allowed\n");
    assert_eq!(server.requests().len(), 1);
}
