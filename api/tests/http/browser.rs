//! The browser is not our friend: hosts, origins, content types, links.

use std::time::Instant;

use serde_json::json;

use crate::{
    server,
    support::{Frames, PATIENCE, Server},
};

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let (server, folder) = server();
    let mut client = server.client().await;
    for (host, fine) in [
        ("localhost", true),
        ("LOCALHOST:9", true),
        ("127.0.0.1", true),
        ("127.9.9.9:80", true),
        ("[::1]:7070", true),
        ("evil.example", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("10.0.0.1", false),
        ("kimberlite.internal", false),
    ] {
        let answer = client.send("GET", "/v1/events", &[("host", host)], "").await;
        if fine {
            assert_eq!(answer.status, 200, "{host}");
        } else {
            answer.problem(421, "host_foreign");
        }
    }
    let own = format!("http://{}", server.address);
    for (origin, fine) in [(own.as_str(), true), ("https://evil.example", false), ("null", false)] {
        let answer = client.send("GET", "/v1/events", &[("origin", origin)], "").await;
        if fine {
            assert_eq!(answer.status, 200, "{origin}");
        } else {
            answer.problem(403, "origin_foreign");
        }
        assert_ne!(answer.header("access-control-allow-origin"), Some("*"));
    }
    server.kill();
    let server = Server::with(
        folder.path(),
        &[
            ("KIMBERLITE_HTTP_HOSTS", "kimberlite.internal"),
            ("KIMBERLITE_CORS_ORIGINS", "https://app.example.com"),
        ],
    );
    let mut client = server.client().await;
    client.send("GET", "/v1/events", &[("host", "kimberlite.internal:8443")], "").await.ok(200);
    let app = [("origin", "https://app.example.com")];
    let answer = client.send("GET", "/v1/events", &app, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    client
        .send("GET", "/v1/events", &[("origin", "https://other.example")], "")
        .await
        .problem(403, "origin_foreign");
}

#[tokio::test]
async fn bodies_need_one_of_our_content_types() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let body = r#"{"events":[{"type":"t"}]}"#;
    let path = "/v1/streams/s/events";
    for content in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonx",
    ] {
        client
            .send("POST", path, &[("content-type", content)], body)
            .await
            .problem(415, "content_type_unsupported");
    }
    client.send("POST", path, &[], body).await.problem(415, "content_type_unsupported");
    client
        .send("POST", path, &[("content-type", "application/json; charset=utf-8")], body)
        .await
        .ok(201);
}

#[tokio::test]
async fn headers_that_would_have_no_effect_are_refused() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    client.post("/v1/streams/s/events", r#"{"events":[{"type":"t"}]}"#).await.ok(201);
    for (method, path, name, value) in [
        ("GET", "/v1/events", "idempotency-key", "k"),
        ("DELETE", "/v1/streams/s", "idempotency-key", "k"),
        ("GET", "/v1/events", "if-match", "\"1\""),
        ("GET", "/v1/events", "if-modified-since", "Mon, 23 Nov 2026 10:00:00 GMT"),
        ("GET", "/v1/events", "kimberlite-min-position", "99"),
        ("GET", "/v1/streams/s", "kimberlite-min-position", "0"),
        ("GET", "/v1/records/0", "kimberlite-min-position", "0"),
        ("POST", "/v1/streams/s/events", "if-unmodified-since", "Mon, 23 Nov 2026 10:00:00 GMT"),
        ("POST", "/v1/streams/s/events", "if-modified-since", "Mon, 23 Nov 2026 10:00:00 GMT"),
        ("POST", "/v1/transactions", "if-unmodified-since", "Mon, 23 Nov 2026 10:00:00 GMT"),
        ("POST", "/v1/events", "if-range", "\"0\""),
    ] {
        let refused = client.send(method, path, &[(name, value)], "").await;
        let problem = refused.problem(400, "unsupported_header");
        assert!(problem["detail"].as_str().unwrap().contains(name), "{problem:#}");
    }
    assert_eq!(client.get("/v1/events").await.ok(200)["head"], 0);
    let known = client.send("GET", "/v1/events", &[("authorization", "Bearer x")], "").await;
    known.problem(401, "credentials_unknown");
    assert!(known.header("www-authenticate").is_some());
    client.send("GET", "/v1/events", &[("kimberlite-tenant", "dev")], "").await.ok(200);
    client
        .send("GET", "/v1/events", &[("kimberlite-tenant", "acme")], "")
        .await
        .problem(404, "tenant_unknown");
}

#[tokio::test]
async fn a_link_opens_one_path_for_a_while() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    client.post("/v1/streams/s/events", r#"{"events":[{"type":"t"}]}"#).await.ok(201);
    let asked = json!({"path": "/v1/events?limit=1", "ttl_s": 60}).to_string();
    let link = client.post("/v1/links", asked).await.ok(201);
    let url = link["url"].as_str().unwrap_or_else(|| panic!("{link:#}"));
    let path = url.find("/v1/").map(|at| &url[at..]).unwrap();
    assert_eq!(client.get(path).await.ok(200)["events"].as_array().unwrap().len(), 1);
    let changed = path.replace("limit=1", "limit=2");
    client.get(&changed).await.problem(401, "link_invalid");
}

#[tokio::test]
async fn a_link_is_made_for_what_get_reads_and_for_an_hour_at_most() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let long = format!("/v1/streams/{}", "s".repeat(4096));
    for (path, ttl_s, status, pointer) in [
        ("/v1/events", json!(1), 201, ""),
        ("/v1/events?type=t", json!(3600), 201, ""),
        ("/v1/streams/a%2Fb/events", json!(null), 201, ""),
        ("/v1/records/0/leaf", json!(null), 201, ""),
        ("/v1/events", json!(0), 422, "/ttl_s"),
        ("/v1/events", json!(3601), 422, "/ttl_s"),
        ("/v1/events", json!(-1), 400, "/ttl_s"),
        ("/v1/events", json!("60"), 400, "/ttl_s"),
        ("/v1/nowhere", json!(60), 400, "/path"),
        ("/v1/events/0/nowhere", json!(60), 400, "/path"),
        ("/v1/streams//events", json!(60), 400, "/path"),
        ("/v1/transactions", json!(60), 400, "/path"),
        ("/v1", json!(60), 400, "/path"),
        ("/metrics", json!(60), 400, "/path"),
        ("/health/ready", json!(60), 400, "/path"),
        ("https://evil.example/v1/events", json!(60), 400, "/path"),
        ("//evil.example/v1/events", json!(60), 400, "/path"),
        ("/v1/events#part", json!(60), 400, "/path"),
        ("", json!(60), 400, "/path"),
        (&long, json!(60), 400, "/path"),
    ] {
        let asked = json!({"path": path, "ttl_s": ttl_s}).to_string();
        let answer = client.post("/v1/links", asked.clone()).await;
        assert_eq!(answer.status, status, "{asked}: {}", answer.text());
        if status != 201 {
            assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{asked}");
        }
    }
}

#[tokio::test]
async fn a_link_is_for_get_alone_and_ends() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    client.post("/v1/streams/s/events", r#"{"events":[{"type":"t"}]}"#).await.ok(201);
    let mut link = async |ttl_s: u64| {
        let asked = json!({"path": "/v1/streams/s/events", "ttl_s": ttl_s}).to_string();
        let made = client.post("/v1/links", asked).await.ok(201);
        made["url"].as_str().unwrap().to_owned()
    };
    let (hour, second) = (link(3600).await, link(1).await);
    client.post(&hour, r#"{"events":[{"type":"t"}]}"#).await.problem(401, "link_invalid");
    client.send("DELETE", &hour, &[], "").await.problem(401, "link_invalid");
    assert_eq!(client.send("HEAD", &hour, &[], "").await.status, 200);
    let mut frames = Frames::open(&server.address, &hour, None).await;
    assert_eq!(frames.until("event").await.json()["version"], 0);
    client.get(&second).await.ok(200);
    let asked = Instant::now();
    let ended = loop {
        let answer = client.get(&second).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(asked.elapsed() < PATIENCE, "a link of one second still holds");
    };
    ended.problem(401, "link_invalid");
    client.get(&hour).await.ok(200);
}
