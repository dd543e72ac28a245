//! Reading: pages, filters, formats, records, pages for people.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{server, support::Client};

async fn fill(client: &mut Client, events: usize) {
    for n in 0..events {
        let body = json!({"events": [{
            "type": (["a", "b", "c"][n % 3]), "data": {"n": n}, "tags": [format!("m:{}", n % 4), "all"],
            "occurred_at": format!("2026-01-{:02}T00:00:00Z", n % 28 + 1),
        }]});
        let path = format!("/v1/streams/{}%2F{}/events", ["x", "xy"][n % 2], n % 5);
        client.post(&path, body.to_string()).await.ok(201);
    }
}

fn numbers(events: &[Value]) -> Vec<usize> {
    events.iter().map(|e| e["data"]["n"].as_u64().unwrap() as usize).collect()
}

type Check = Box<dyn Fn(usize) -> bool>;

#[tokio::test]
async fn pages_lead_through_everything_and_filters_choose() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    fill(&mut client, 60).await;
    let time = client.get("/v1/events/30").await.ok(200)["time"].as_str().unwrap().to_owned();
    let from_time = format!("from_time={time}");
    let cases: Vec<(&str, Check)> = vec![
        ("", Box::new(|_| true)),
        ("type=a", Box::new(|n| n % 3 == 0)),
        ("type=a&type=b", Box::new(|n| n % 3 < 2)),
        ("tag=m:1", Box::new(|n| n % 4 == 1)),
        ("tag=m:1&tag=all", Box::new(|n| n % 4 == 1)),
        ("tag=m:1&tag=m:2", Box::new(|_| false)),
        ("stream_prefix=x/", Box::new(|n| n % 2 == 0)),
        ("stream_prefix=xy%2F3", Box::new(|n| n % 10 == 3)),
        (&from_time, Box::new(|n| n >= 30)),
        (
            "occurred_from=2026-01-05T00:00:00Z&occurred_to=2026-01-08T01:00:00%2B01:00",
            Box::new(|n| (4..7).contains(&(n % 28))),
        ),
    ];
    for (filter, matches) in cases {
        let mut expected: Vec<usize> = (0..60).filter(|n| matches(*n)).collect();
        let found = client.pages(&format!("/v1/events?limit=7&{filter}")).await;
        assert_eq!(numbers(&found), expected, "{filter}");
        expected.reverse();
        let found = client.pages(&format!("/v1/events?limit=7&direction=backward&{filter}")).await;
        assert_eq!(numbers(&found), expected, "{filter} backward");
    }
}

#[tokio::test]
async fn a_stream_reads_forward_backward_and_from_a_version() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    client.get("/v1/streams/s/events").await.problem(404, "stream_unknown");
    for n in 0..30 {
        let body =
            json!({"events": [{"type": if n % 2 == 0 { "e" } else { "o" }, "data": {"n": n}}]});
        client.post("/v1/streams/s/events", body.to_string()).await.ok(201);
        client.post("/v1/streams/other/events", body.to_string()).await.ok(201);
    }
    for (query, expected) in [
        ("limit=4", (0..30).collect::<Vec<_>>()),
        ("from=20&limit=4", (20..30).collect()),
        ("direction=backward&limit=7", (0..30).rev().collect()),
        ("direction=backward&from=5&limit=4", (0..6).rev().collect()),
        ("type=o&limit=4", (1..30).step_by(2).collect()),
        ("from=29", vec![29]),
        ("from=30", vec![]),
    ] {
        let found = client.pages(&format!("/v1/streams/s/events?{query}")).await;
        assert_eq!(numbers(&found), expected, "{query}");
    }
    let page = client.get("/v1/streams/s/events?limit=3").await;
    assert!(page.header("link").unwrap().contains("rel=\"next\""));
    let body = page.ok(200);
    assert_eq!(body["head"], 29, "{body:#}");
    let info = client.get("/v1/streams/s").await;
    assert_eq!(info.header("etag"), Some("\"29\""));
    assert_eq!(info.ok(200)["version"], 29);
}

#[tokio::test]
async fn streams_are_listed_by_prefix_and_page() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    fill(&mut client, 20).await;
    let mut names = Vec::new();
    let mut next = Some("/v1/streams?prefix=x&limit=3".to_owned());
    while let Some(path) = next {
        let page = client.get(&path).await.ok(200);
        names.extend(page["streams"].as_array().unwrap().iter().map(|s| s["stream"].clone()));
        next = page["next"].as_str().map(ToOwned::to_owned);
    }
    let mut expected: Vec<String> =
        ["x", "xy"].iter().flat_map(|p| (0..5).map(move |n| format!("{p}/{n}"))).collect();
    expected.sort();
    assert_eq!(names, expected);
    let none = client.get("/v1/streams?prefix=zz").await.ok(200);
    assert_eq!(none["streams"], json!([]));
}

#[tokio::test]
async fn json_comes_back_byte_for_byte() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let odd = "{ \"big\": 1e400,\t\"exact\" : 0.1000000000000000055 ,\r\n \"e\":\"\\u00e9\\n\", \"deep\":[[ ]] }";
    let body = format!("{{\"events\":[{{\"type\":\"t\",\"data\":{odd},\"metadata\":{odd}}}]}}");
    client.post("/v1/streams/s/events", body).await.ok(201);
    let bulk =
        format!("{{\"stream\":\"b\",\"type\":\"t\",\"data\":{}}}\n", odd.replace("\r\n", " "));
    client.send("POST", "/v1/events", &[("content-type", "application/x-ndjson")], bulk).await;
    for path in ["/v1/events", "/v1/streams/s/events", "/v1/events/0"] {
        let page = client.get(path).await;
        assert!(page.text().contains(&format!("\"data\":{odd}")), "{path}: {}", page.text());
        assert!(page.text().contains(&format!("\"metadata\":{odd}")), "{path}");
    }
    let spaced = odd.replace(['\r', '\n'], " ");
    let lines = client.send("GET", "/v1/events", &[("accept", "application/x-ndjson")], "").await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(lines.text().lines().count(), 2);
    assert!(lines.text().lines().next().unwrap().contains(&format!("\"data\":{spaced},")));
    let mut frames = crate::support::Frames::open(&server.address, "/v1/events", None).await;
    assert!(frames.until("event").await.data.contains(&format!("\"data\":{spaced},")));
}

#[tokio::test]
async fn a_whole_range_streams_as_ndjson() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let events: Vec<Value> = (0..1000).map(|n| json!({"type": "t", "data": {"n": n}})).collect();
    let body = json!({ "events": events }).to_string();
    for _ in 0..5 {
        client.post("/v1/streams/s/events", body.clone()).await.ok(201);
    }
    let lines = client.send("GET", "/v1/events", &[("accept", "application/x-ndjson")], "").await;
    let positions: Vec<u64> = lines
        .text()
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["position"].as_u64().unwrap())
        .collect();
    assert_eq!(positions, (0..5000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cursor_of_another_log_is_refused() {
    let (one, _one) = server();
    let (two, _two) = server();
    let body = r#"{"events":[{"type":"t"}]}"#;
    let (mut a, mut b) = (one.client().await, two.client().await);
    a.post("/v1/streams/s/events", body).await.ok(201);
    b.post("/v1/streams/s/events", body).await.ok(201);
    let cursor =
        a.get("/v1/events").await.ok(200)["events"][0]["cursor"].as_str().unwrap().to_owned();
    a.get(&format!("/v1/events?after={cursor}")).await.ok(200);
    b.get(&format!("/v1/events?after={cursor}")).await.problem(409, "diverged");
    a.get("/v1/events?after=1").await.problem(409, "diverged");
    a.get("/v1/events?after=0").await.ok(200);
    assert_eq!(a.get("/v1/events?after=head").await.ok(200)["events"], json!([]));
    let resume = [("accept", "text/event-stream"), ("last-event-id", cursor.as_str())];
    b.send("GET", "/v1/events", &resume, "").await.problem(409, "diverged");
}

#[tokio::test]
async fn records_show_what_their_leaves_commit_to() {
    use sha2::{Digest, Sha256};
    let (server, _folder) = server();
    let mut client = server.client().await;
    client
        .post("/v1/streams/s/events", r#"{"events":[{"type":"t","data":{"a":1},"tags":["x"]}]}"#)
        .await
        .ok(201);
    let event = client.get("/v1/events/0").await.ok(200);
    let leaf = client.get("/v1/events/0/leaf").await;
    assert_eq!(leaf.header("content-type"), Some("application/octet-stream"));
    let digest = Sha256::new().chain_update([0]).chain_update(&leaf.body).finalize();
    let hex = kimberlite_store::words::Hex(&digest).to_string();
    assert_eq!(event["hash"], hex);
    let opening = client.get("/v1/records/0/opening").await.ok(200);
    assert_eq!(opening["hash"], event["hash"], "{opening:#}");
    let text = opening.to_string();
    for kind in ["stream", "type", "actor", "data", "tags"] {
        assert!(text.contains(&format!("\"kind\":\"{kind}\"")), "{kind}: {opening:#}");
    }
    let salts = opening["payloads"].as_array().unwrap().iter();
    let salts: HashSet<_> = salts.map(|payload| payload["salt"].as_str().unwrap()).collect();
    assert_eq!(salts.len(), 5, "who opens one payload opens no other: {opening:#}");
    let record = client.get("/v1/records/0").await.ok(200);
    assert_eq!(record["kind"], "event", "{record:#}");
    client.send("DELETE", "/v1/streams/s", &[], "").await;
    assert_eq!(client.get("/v1/records/1").await.ok(200)["kind"], "stream_deleted");
    client.get("/v1/events/1").await.problem(404, "record_unknown");
    client.get("/v1/records/2").await.problem(404, "record_unknown");
}

#[tokio::test]
async fn an_opening_says_which_earlier_records_have_the_names() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let event = |event_type: &str| json!({"events": [{"type": event_type}]}).to_string();
    for (stream, event_type) in [("a", "t"), ("b", "t"), ("b", "u"), ("a", "u"), ("a", "t")] {
        let path = format!("/v1/streams/{stream}/events");
        client.post(&path, event(event_type)).await.ok(201);
    }
    assert_eq!(client.send("DELETE", "/v1/streams/b", &[], "").await.status, 204);
    client.post("/v1/streams/b/events?recreate=true", event("t")).await.ok(201);
    // Stream, type and actor; none where the record itself has the name, nor for what it does not refer to.
    let expected = [
        [None, None, None],
        [None, Some(0), Some(0)],
        [Some(1), None, Some(0)],
        [Some(0), Some(2), Some(0)],
        [Some(0), Some(0), Some(0)],
        [Some(1), None, Some(0)],
        [Some(1), Some(0), Some(0)],
    ];
    for (position, wanted) in expected.iter().enumerate() {
        let opening = client.get(&format!("/v1/records/{position}/opening")).await.ok(200);
        let kinds = ["stream", "type", "actor"].into_iter().zip(wanted);
        let names = kinds.filter_map(|(kind, at)| Some(json!({"kind": kind, "position": (*at)?})));
        assert_eq!(opening["names"], Value::Array(names.collect()), "record {position}");
    }
    let (of_event, of_record) =
        (client.get("/v1/events/3/opening").await, client.get("/v1/records/3/opening").await);
    assert_eq!(of_event.body, of_record.body);
    client.get("/v1/events/5/opening").await.problem(404, "record_unknown");
}

#[tokio::test]
async fn people_and_machines_find_their_pages() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let pages =
        ["/", "/docs", "/docs/config", "/docs/operations", "/docs/problems/conditions_failed"];
    for path in pages {
        let page = client.send("GET", path, &[("accept", "text/html")], "").await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.header("content-type").unwrap().starts_with("text/html"), "{path}");
        let policy = page.header("content-security-policy").unwrap_or_else(|| panic!("{path}"));
        assert!(policy.contains("script-src"), "{policy}");
        let outside = page
            .text()
            .match_indices("src=\"")
            .any(|(i, _)| page.text()[i + 5..].starts_with("http"));
        assert!(!outside, "{path} loads something from elsewhere");
    }
    let problem = client.get("/docs/problems/conditions_failed").await;
    assert!(problem.text().contains("<code>failed_conditions</code>"), "{}", problem.text());
    for accept in ["text/html", "application/xhtml+xml"] {
        let unknown = client.send("GET", "/nothing/here", &[("accept", accept)], "").await;
        assert_eq!(unknown.status, 404, "{accept}");
        assert!(unknown.text().contains("<html"), "{accept}");
    }
    client.get("/v1/nothing").await.problem(404, "not_found");
    client.send("PUT", "/v1/events", &[], "").await.problem(405, "method_not_allowed");
    assert_eq!(client.get("/openapi.json").await.ok(200)["openapi"], "3.1.0");
    client.get("/health/live").await.ok(200);
    client.get("/health/ready").await.ok(200);
    let metrics = client.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    for name in ["_bucket{", "idempotency", "# EOF"] {
        assert!(metrics.text().contains(name), "{name}: {}", metrics.text());
    }
    // The window that the kernel goes by: 7 days.
    assert!(metrics.text().contains("kimberlite_idempotency_window_seconds 604800\n"));
    assert!(!metrics.text().contains("/nothing"), "paths are not labels");
}
