//! The browser is not our friend: hosts, origins, content types, links.

use serde_json::json;

use crate::{server, support::Server};

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
    ] {
        client.send(method, path, &[(name, value)], "").await.problem(400, "unsupported_header");
    }
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
