//! Every operation's example is sent to the running router, and every answer is held against its
//! schema.

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request},
};
use http_body_util::BodyExt as _;
use kimberlite_api::{app, app::App, config::Config, openapi};
use kimberlite_store::{
    Options, Signing, Stamp, Store, Tenant,
    words::{Actor, TenantName, Timestamp},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{operations, parameters, schema};

/// A router over an empty log, and that log; the folder goes with it.
async fn router() -> (Router, (Store, Tenant), tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        folder: folder.path().to_owned(),
        segment_bytes: 1 << 20,
        checkpoint_records: 1000,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: Some(Signing { folder: folder.path().join("keys"), origin: String::new() }),
    };
    let store = Store::open(options).unwrap();
    let (actor, name) = (Actor::new("operator").unwrap(), TenantName::new("dev").unwrap());
    let tenant = store.create_tenant(actor.clone(), name.clone()).await.unwrap();
    let log = (store.clone(), tenant.clone());
    let app = App::new(store, tenant, name, actor, Config::default()).unwrap();
    (app::router(&app), log, folder)
}

/// What a time authority would have done.
async fn stamp((store, tenant): &(Store, Tenant)) {
    let stamp = Stamp {
        checkpoint: store.signed_at(tenant, 0).await.unwrap().note.to_string(),
        authority: "http://tsa.example/".to_owned(),
        time: Timestamp::now(),
        token: "MAA=".to_owned(),
    };
    store.stamp(tenant, &stamp).await.unwrap();
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn kind(&self) -> &str {
        let kind = self.headers.get("content-type").map_or("", |v| v.to_str().unwrap());
        kind.split(';').next().unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or("(bytes)")
    }
}

async fn send(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Answer {
    let mut request = Request::builder()
        .method(method.to_uppercase().as_str())
        .uri(path)
        .header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let mut body = answer.into_body();
    let endless = headers.get("content-type").is_some_and(|v| v == "text/event-stream");
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        bytes.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        if endless && String::from_utf8_lossy(&bytes).contains("event: caught-up") {
            break;
        }
    }
    Answer { status, headers, body: bytes }
}

/// The operation's path with the examples of its path parameters, and those of its query where it
/// has any.
fn path_of(path: &str, operation: &Value, with_query: bool) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned);
    let (mut path, mut query) = (path.to_owned(), Vec::new());
    for parameter in parameters(operation).filter(|p| !p["example"].is_null()) {
        let (name, example) = (parameter["name"].as_str().unwrap(), text(&parameter["example"]));
        match parameter["in"].as_str().unwrap() {
            "path" => path = path.replace(&format!("{{{name}}}"), &example),
            "query" => query.push(format!("{name}={example}")),
            place => assert_eq!(place, "header"),
        }
    }
    if with_query && !query.is_empty() { format!("{path}?{}", query.join("&")) } else { path }
}

/// Operations in an order in which each finds what it needs: writes, reads, the deletion.
fn in_order(document: &Value) -> Vec<(&str, &str, &Value)> {
    let mut all: Vec<_> = operations(document).collect();
    all.sort_by_key(|(_, method, operation)| {
        let id = operation["operationId"].as_str().unwrap();
        let first = ["append_to_stream", "append_lines"].iter().position(|f| *f == id).unwrap_or(2);
        (
            ["post", "get", "head", "delete"].iter().position(|m| m == method).unwrap(),
            first,
            id.to_owned(),
        )
    });
    all
}

fn check_answer(document: &Value, operation: &Value, answer: &Answer, at: &str) {
    let status = answer.status.to_string();
    let described = &operation["responses"][&status];
    assert!(!described.is_null(), "{at}: {status} is not described: {}", answer.text());
    let Some(content) = described["content"].as_object() else {
        assert!(answer.body.is_empty(), "{at}: a body that is not described: {}", answer.text());
        return;
    };
    let media = content
        .get(answer.kind())
        .unwrap_or_else(|| panic!("{at}: {} is not described", answer.kind()));
    let check = |value: &Value| schema::check(document, &media["schema"], value, at).unwrap();
    match answer.kind() {
        "application/x-ndjson" => {
            assert!(!answer.body.is_empty(), "{at}: no lines");
            answer.text().lines().for_each(|line| check(&serde_json::from_str(line).unwrap()));
        }
        "text/event-stream" => {
            for frame in answer.text().split("\n\n").filter(|f| !f.is_empty()) {
                let members = frame.lines().map(|line| line.split_once(": ").unwrap());
                let frame: Value =
                    members.map(|(name, value)| (name.to_owned(), json!(value))).collect();
                check(&frame);
                let data = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
                let name = if frame["event"] == "event" { "Event" } else { "FollowState" };
                let described = &document["components"]["schemas"][name];
                schema::check(document, described, &data, at).unwrap();
            }
        }
        kind if kind.ends_with("json") => check(&serde_json::from_slice(&answer.body).unwrap()),
        kind => assert_eq!(
            media["schema"]["type"].as_str().unwrap_or("string"),
            expected_type(kind),
            "{at}"
        ),
    }
}

fn expected_type(kind: &str) -> &str {
    if kind == "application/octet-stream" { "array" } else { "string" }
}

#[tokio::test]
async fn every_example_works_and_answers_as_described() {
    let document = openapi::document();
    let (router, log, _folder) = router().await;
    let backups = tempfile::tempdir().unwrap();
    let folder = backups.path().to_str().unwrap();
    let (mut sent, mut backup) = (0, String::new());
    for (path, method, operation) in in_order(&document) {
        let mut path = path_of(path, operation, true);
        // The server chooses the ids of what it begins.
        if path.starts_with("/v1/backups/") {
            path.clone_from(&backup);
        }
        let at = format!("{method} {path}");
        if let Some(bodies) = operation["requestBody"]["content"].as_object() {
            for (kind, body) in bodies {
                let example = match &body["example"] {
                    Value::String(text) => text.clone(),
                    // A backup is a folder of this machine.
                    value if operation["operationId"] == "create_backup" => {
                        schema::check(&document, &body["schema"], value, &at).unwrap();
                        json!({ "folder": folder }).to_string()
                    }
                    value => {
                        schema::check(&document, &body["schema"], value, &at).unwrap();
                        value.to_string()
                    }
                };
                let answer = send(&router, method, &path, &[("content-type", kind)], example).await;
                assert!(answer.status < 300, "{at}: {}", answer.text());
                assert!(!answer.text().contains("\"problem\":{"), "{at}: {}", answer.text());
                check_answer(&document, operation, &answer, &at);
                if operation["operationId"] == "create_backup" {
                    answer.headers["location"].to_str().unwrap().clone_into(&mut backup);
                }
                sent += 1;
            }
            continue;
        }
        if operation["operationId"] == "read_stamp" {
            stamp(&log).await;
        }
        let kinds = operation["responses"]["200"]["content"].as_object();
        let kinds: Vec<&str> =
            kinds.map_or(vec!["*/*"], |k| k.keys().map(String::as_str).collect());
        for kind in kinds {
            let answer = send(&router, method, &path, &[("accept", kind)], String::new()).await;
            assert!(answer.status < 300, "{at}: {}", answer.text());
            assert!(
                kind == "*/*" || answer.kind() == kind,
                "{at}: {} instead of {kind}",
                answer.kind()
            );
            check_answer(&document, operation, &answer, &at);
            sent += 1;
        }
    }
    assert!(sent > 25, "{sent} requests");
}

#[tokio::test]
async fn what_is_not_described_is_refused_and_what_is_described_is_known() {
    let document = openapi::document();
    let (router, _log, _folder) = router().await;
    for (path, method, operation) in in_order(&document) {
        let path = path_of(path, operation, false);
        let kind = operation["requestBody"]["content"].as_object().and_then(|c| c.keys().next());
        let headers: Vec<_> = kind.map(|k| ("content-type", k.as_str())).into_iter().collect();
        let answer =
            send(&router, method, &format!("{path}?colour=red"), &headers, String::new()).await;
        // An answer to HEAD has no body to say why.
        assert_eq!(answer.status, 400, "{method} {path}: {}", answer.text());
        assert!(
            method == "head" || answer.text().contains("\"unknown_parameter\""),
            "{method} {path}: {}",
            answer.text()
        );
        for parameter in parameters(operation).filter(|p| p["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            let address = format!("{path}?{name}=1");
            let answer = send(&router, method, &address, &headers, String::new()).await;
            assert!(
                !answer.text().contains("\"unknown_parameter\""),
                "{address}: {}",
                answer.text()
            );
        }
        let other = send(&router, "PATCH", &path, &[], String::new()).await;
        let allow = other
            .headers
            .get("allow")
            .unwrap_or_else(|| panic!("{path}: no Allow"))
            .to_str()
            .unwrap();
        assert!(other.status == 405 && allow.contains(&method.to_uppercase()), "{path}: {allow}");
    }
}
