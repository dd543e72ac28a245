//! Bad input: the right problem, no panic, nothing half-written.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    server,
    support::{Client, Server},
};

fn event(field: &str) -> String {
    format!("{{\"events\":[{{\"type\":\"t\",{field}}}]}}")
}

#[tokio::test]
async fn bad_bodies_get_the_right_problem_and_write_nothing() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let deep = |n: usize| format!("\"data\":{}{}", "[".repeat(n), "]".repeat(n));
    let many_tags = json!((0..33).map(|n| n.to_string()).collect::<Vec<_>>());
    let events = |n: usize| format!("{{\"events\":[{}]}}", vec!["{\"type\":\"t\"}"; n].join(","));
    let long = "x".repeat(257);
    let cases: Vec<(String, u16, &str, Option<&str>)> = vec![
        (String::new(), 400, "malformed_json", None),
        ("{".into(), 400, "malformed_json", None),
        ("[]".into(), 400, "invalid_body", None),
        ("{\"events\":[]}".into(), 400, "invalid_body", Some("/events")),
        ("{\"events\":{}}".into(), 400, "invalid_body", Some("/events")),
        ("{\"event\":[]}".into(), 400, "invalid_body", None),
        ("{\"events\":[{}]}".into(), 400, "invalid_body", None),
        ("{\"events\":[{\"type\":1}]}".into(), 400, "invalid_body", Some("/events/0/type")),
        (event("\"extra\":1"), 400, "invalid_body", Some("/events/0/extra")),
        (event("\"id\":\"no\""), 400, "invalid_body", Some("/events/0/id")),
        (
            event("\"occurred_at\":\"yesterday\""),
            400,
            "invalid_body",
            Some("/events/0/occurred_at"),
        ),
        (
            event("\"occurred_at\":\"2026-06-30T23:59Z\""),
            400,
            "invalid_body",
            Some("/events/0/occurred_at"),
        ),
        (event("\"metadata\":[1]"), 400, "invalid_body", Some("/events/0/metadata")),
        (event("\"data\":{\"a\":1,\"a\":2}"), 400, "malformed_json", None),
        (event("\"data\":{\"a\":1,\"\\u0061\":2}"), 400, "malformed_json", None),
        (event("\"data\":{\"b\":[{\"a\":1,\"a\":2}]}"), 400, "malformed_json", None),
        (event("\"data\":\"\\ud800\""), 400, "malformed_json", None),
        (event("\"data\":\"\\udc00\\ud800\""), 400, "malformed_json", None),
        (event("\"data\":{\"\\ud800\":1}"), 400, "malformed_json", None),
        (event("\"data\":nul"), 400, "malformed_json", None),
        (event("\"data\":01"), 400, "malformed_json", None),
        (event("\"data\":\"a\tb\""), 400, "malformed_json", None),
        ("{\"events\":[{\"type\":\"t\"}]} x".into(), 400, "malformed_json", None),
        ("{\"events\":[{\"type\":\"t\"}],\"events\":[]}".into(), 400, "malformed_json", None),
        (event(&deep(129)), 422, "limit_exceeded", None),
        (event("\"type\":\"u\""), 400, "malformed_json", None),
        ("{\"events\":[{\"type\":\"\"}]}".into(), 400, "invalid_name", Some("/events/0/type")),
        (
            format!("{{\"events\":[{{\"type\":\"{long}\"}}]}}"),
            400,
            "invalid_name",
            Some("/events/0/type"),
        ),
        ("{\"events\":[{\"type\":\"a\\nb\"}]}".into(), 400, "invalid_name", Some("/events/0/type")),
        (event("\"tags\":[\"\"]"), 400, "invalid_name", Some("/events/0/tags/0")),
        (event(&format!("\"tags\":{many_tags}")), 422, "limit_exceeded", Some("/events/0/tags")),
        (event("\"subjects\":[\"customer-42\"]"), 422, "subjects_unavailable", None),
        (events(1001), 422, "limit_exceeded", Some("/events")),
        (
            event("\"data\":1").replace("}]}", "}],\"expected\":\"maybe\"}"),
            400,
            "invalid_body",
            Some("/expected"),
        ),
        (
            event("\"data\":1").replace("}]}", "}],\"expected\":{\"version\":-1}}"),
            400,
            "invalid_body",
            None,
        ),
        (
            event("\"data\":1").replace("}]}", "}],\"expected\":{\"version\":9007199254740992}}"),
            400,
            "invalid_body",
            None,
        ),
        (event(&format!("\"data\":\"{}\"", "x".repeat(1 << 20))), 413, "event_too_large", None),
    ];
    for (body, status, code, pointer) in cases {
        let answer = client.post("/v1/streams/s/events", body.clone()).await;
        let shown: String = body.chars().take(80).collect();
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        let problem = answer.problem(status, code);
        if let Some(pointer) = pointer {
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{shown}: {problem:#}");
        }
    }
    // A body that is too large ends its connection.
    let mut client = server.client().await;
    let invalid =
        [b"{\"events\":[{\"type\":\"t\",\"data\":\"", &b"\xff\xfe"[..], b"\"}]}"].concat();
    client.post("/v1/streams/s/events", invalid).await.problem(400, "malformed_json");
    client.get("/v1/streams/s").await.problem(404, "stream_unknown");
    client.post("/v1/streams/s/events", event(&deep(128))).await.ok(201);
    client.post("/v1/streams/s/events", events(1000)).await.ok(201);
    assert_eq!(client.get("/v1/streams/s").await.ok(200)["version"], 1000);
}

#[tokio::test]
async fn an_array_is_no_object_at_any_door() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let append = "/v1/streams/s/events";
    for (path, body, pointer) in [
        (append, r#"[[{"type":"x"}],"any"]"#, ""),
        (append, r#"{"events":[["x",1,{},null,null,[],[]]]}"#, "/events/0"),
        (append, r#"{"events":[{"type":"x"}],"expected":[3]}"#, "/expected"),
        ("/v1/transactions", r#"[[{"stream":"s","events":[{"type":"x"}]}],[]]"#, ""),
        ("/v1/transactions", r#"{"appends":[["s",[{"type":"x"}],"any"]]}"#, "/appends/0"),
        ("/v1/transactions", r#"{"conditions":[["s","none"]]}"#, "/conditions/0"),
        (
            "/v1/transactions",
            r#"{"conditions":[{"fail_if_events_match":[[{"types":["x"]}]]}]}"#,
            "/conditions/0/fail_if_events_match",
        ),
        (
            "/v1/transactions",
            r#"{"conditions":[{"fail_if_events_match":{"items":[[["x"],[]]]}}]}"#,
            "/conditions/0/fail_if_events_match/items/0",
        ),
        ("/v1/links", r#"["/v1/events",60]"#, ""),
    ] {
        let problem = client.post(path, body).await.problem(400, "invalid_body");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem:#}");
    }
    let lines = [("content-type", "application/x-ndjson")];
    let line = r#"["s","any","x",1,{},null,null,[],[]]"#;
    let answer = client.send("POST", "/v1/events", &lines, line).await.ok(200);
    assert_eq!(answer["problem"]["code"], "invalid_body", "{answer:#}");
    for (kind, body) in [
        ("application/cloudevents+json", r#"["1.0","1","/s","x"]"#),
        ("application/cloudevents-batch+json", r#"[["1.0","1","/s","x"]]"#),
    ] {
        let answer = client.send("POST", append, &[("content-type", kind)], body).await;
        answer.problem(400, "invalid_body");
    }
    assert_eq!(client.get("/v1/events").await.ok(200)["head"], json!(null));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_words_of_json() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    for (body, detail) in [
        ("[]", "is an array; it must be an object"),
        (r#"{"events":{}}"#, "is an object; it must be an array"),
        (r#"{"events":[{"type":["t"]}]}"#, "is an array; it must be a string"),
        (
            r#"{"events":[],"expected":{"version":"1"}}"#,
            "is a string; it must be a whole number that is not negative",
        ),
        (
            r#"{"events":[],"expected":{"version":-1}}"#,
            "is a number; it must be a whole number that is not negative",
        ),
        (
            r#"{"events":[],"expected":"maybe"}"#,
            r#"is a string; it must be "any", "none", "exists" or {"version": n}"#,
        ),
    ] {
        let problem = client.post("/v1/streams/s/events", body).await.problem(400, "invalid_body");
        assert_eq!(problem["errors"][0]["detail"], detail, "{body}: {problem:#}");
    }
}

#[tokio::test]
async fn null_counts_as_left_out_where_a_field_is_optional() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let event = r#"{"type":"t","data":null,"metadata":null,"id":null,"occurred_at":null,"subjects":null,"tags":null}"#;
    let body = format!("{{\"events\":[{event}],\"expected\":null}}");
    client.post("/v1/streams/s/events", body).await.ok(201);
    let body = format!(
        "{{\"appends\":[{{\"stream\":\"s\",\"events\":[{event}],\"expected\":null}}],\"conditions\":null}}"
    );
    client.post("/v1/transactions", body).await.ok(201);
    let body = r#"{"appends":null,"conditions":[{"stream":null,"expected":null,"after":null,
        "fail_if_events_match":{"items":[{"types":["x"],"tags":null},{"types":null,"tags":["y"]}]}}]}"#;
    client.post("/v1/transactions", body).await.ok(200);
    client.post("/v1/links", r#"{"path":"/v1/events","ttl_s":null}"#).await.ok(201);
    for body in [r#"{"events":null}"#, r#"{"events":[{"type":null}]}"#] {
        client.post("/v1/streams/s/events", body).await.problem(400, "invalid_body");
    }
}

#[tokio::test]
async fn bad_names_and_parameters_are_refused() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let long = "s".repeat(257);
    for name in ["$cluster", "a%20b", "%C3%A4", &long, "a%00b"] {
        let path = format!("/v1/streams/{name}/events");
        client.post(&path, event("\"data\":1")).await.problem(400, "invalid_name");
    }
    // No path can name these, a body can.
    for name in [".", ".."] {
        let appends = json!({"appends": [{"stream": name, "events": [{"type": "t"}]}]});
        let refused = client.post("/v1/transactions", appends.to_string()).await;
        let problem = refused.problem(400, "invalid_name");
        assert_eq!(problem["errors"][0]["pointer"], "/appends/0/stream");
        client.get(&format!("/v1/streams?prefix={name}")).await.ok(200);
        client.get(&format!("/v1/events?stream_prefix={name}")).await.ok(200);
    }
    let bad_utf8 = client.get("/v1/streams/%ff/events").await;
    assert_eq!(bad_utf8.status, 400, "{}", bad_utf8.text());
    for (query, code) in [
        ("limit=0", "invalid_parameter"),
        ("limit=1001", "invalid_parameter"),
        ("limit=x", "invalid_parameter"),
        ("after=-1", "invalid_parameter"),
        ("after=9007199254740992", "invalid_parameter"),
        ("after=1.zz", "invalid_parameter"),
        ("direction=up", "invalid_parameter"),
        ("from_time=now", "invalid_parameter"),
        ("occurred_from=1", "invalid_parameter"),
        ("tags=x", "unknown_parameter"),
        ("offset=3", "unknown_parameter"),
        ("limit=1&limit=2", "invalid_parameter"),
    ] {
        let answer = client.get(&format!("/v1/events?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        answer.problem(400, code);
    }
    for path in ["/v1/events", "/v1/streams/s/events"] {
        let asked = format!("{path}?subject=customer-42");
        client.get(&asked).await.problem(422, "subjects_unavailable");
    }
    client
        .send("GET", "/v1/events", &[("accept", "image/png")], "")
        .await
        .problem(406, "not_acceptable");
}

#[tokio::test]
async fn too_large_slow_and_broken_requests_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(folder.path(), &[("KIMBERLITE_HTTP_BODY_TIMEOUT_MS", "1000")]);
    let mut client = server.client().await;
    let large =
        format!("{{\"events\":[{{\"type\":\"t\",\"data\":\"{}\"}}]}}", "x".repeat(17 << 20));
    // Its sender gets to read the answer: what it still sends is taken, not cut off.
    client.post("/v1/streams/s/events", large).await.problem(413, "request_too_large");
    // A body that stops coming.
    let mut slow = TcpStream::connect(&server.address).await.unwrap();
    let head = "POST /v1/streams/s/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(10), slow.read(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer[..read.expect("an answer").unwrap()]).into_owned();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    // Clients that go away in the middle, and bytes that are no HTTP.
    for bytes in
        [&head.as_bytes()[..40], head.as_bytes(), b"\x16\x03\x01\x00\xff\xff", b"GET /\r\n\r\n"]
    {
        let mut gone = TcpStream::connect(&server.address).await.unwrap();
        gone.write_all(bytes).await.unwrap();
        drop(gone);
    }
    let mut client = server.client().await;
    client.get("/v1/streams/s").await.problem(404, "stream_unknown");
    client.post("/v1/streams/s/events", event("\"data\":1")).await.ok(201);
    server.stop();
}

#[tokio::test]
async fn an_append_whose_client_left_is_whole_or_absent() {
    let (server, _folder) = server();
    for n in 0..50_u32 {
        let body =
            json!({"events": [{"type": "a", "data": n}, {"type": "b", "data": n}]}).to_string();
        let mut gone = TcpStream::connect(&server.address).await.unwrap();
        let request = format!(
            "POST /v1/streams/s/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        gone.write_all(request.as_bytes()).await.unwrap();
        drop(gone);
    }
    let mut client = Client::connect(&server.address).await.unwrap();
    client.post("/v1/streams/last/events", event("\"data\":1")).await.ok(201);
    let events = client.pages("/v1/events?stream_prefix=s&limit=1000").await;
    for pair in events.chunks(2) {
        assert_eq!(pair[0]["data"], pair[1]["data"]);
        assert_eq!((pair[0]["type"].as_str(), pair[1]["type"].as_str()), (Some("a"), Some("b")));
    }
}
