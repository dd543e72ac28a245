//! Appending: expectations, transactions, boundaries, idempotency, ids, deletion.

use serde_json::{Value, json};

use crate::{server, support::Client};

const JSON: (&str, &str) = ("content-type", "application/json");

fn one(expected: &Value) -> String {
    json!({"events": [{"type": "t", "data": 1}], "expected": expected}).to_string()
}

#[tokio::test]
async fn every_form_of_expected_holds_or_says_what_is() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let path = "/v1/streams/s/events";
    client.post(path, one(&json!("exists"))).await.problem(412, "conditions_failed");
    client.post(path, one(&json!({"version": 0}))).await.problem(412, "conditions_failed");
    let receipt = client.post(path, one(&json!("none"))).await;
    assert!(receipt.header("location").is_some());
    let body = receipt.ok(201);
    for (field, value) in [("first_version", 0), ("last_version", 0), ("first_position", 0)] {
        assert_eq!(body[field], value, "{body:#}");
    }
    assert_eq!(body["hash"].as_str().unwrap().len(), 64);
    let taken = client.post(path, one(&json!("none"))).await.problem(412, "conditions_failed");
    let failed = &taken["failed_conditions"][0];
    assert_eq!(failed["stream"], "s", "{taken:#}");
    assert_eq!(failed["pointer"], "/expected", "{taken:#}");
    assert_eq!(failed["expected"], "none", "{taken:#}");
    assert_eq!(failed["actual"], json!({"version": 0}), "{taken:#}");
    client.post(path, one(&json!("exists"))).await.ok(201);
    client.post(path, one(&json!({"version": 1}))).await.ok(201);
    client.post(path, one(&json!("any"))).await.ok(201);
    for (name, value, status) in
        [("if-match", "\"3\"", 201), ("if-match", "\"3\"", 412), ("if-none-match", "*", 412)]
    {
        let body = r#"{"events":[{"type":"t"}]}"#;
        let answer = client.send("POST", path, &[JSON, (name, value)], body).await;
        assert_eq!(answer.status, status, "{name}: {value}: {}", answer.text());
    }
    let both = client.send("POST", path, &[JSON, ("if-match", "\"4\"")], one(&json!("none"))).await;
    both.problem(400, "conditions_disagree");
    client
        .send("POST", path, &[JSON, ("if-match", "\"4\"")], one(&json!({"version": 4})))
        .await
        .ok(201);
}

#[tokio::test]
async fn of_two_writers_with_one_expected_version_one_wins() {
    let (server, _folder) = server();
    for round in 0..50_u64 {
        let (mut a, mut b) = (server.client().await, server.client().await);
        let expected = if round == 0 { json!("none") } else { json!({"version": round - 1}) };
        let body = one(&expected);
        let answers = tokio::join!(
            a.post("/v1/streams/race/events", body.clone()),
            b.post("/v1/streams/race/events", body)
        );
        let (won, lost) = if answers.0.status == 201 { answers } else { (answers.1, answers.0) };
        assert_eq!(won.ok(201)["last_version"], round);
        let refused = lost.problem(412, "conditions_failed");
        assert_eq!(refused["failed_conditions"][0]["actual"], json!({"version": round}));
    }
}

#[tokio::test]
async fn a_transaction_names_every_failed_condition_or_writes_all() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    client
        .post(
            "/v1/streams/taken/events",
            r#"{"events":[{"type":"seat-taken","tags":["seat:12A"]}]}"#,
        )
        .await
        .ok(201);
    let event = json!([{"type": "t", "data": {"n": 1}}]);
    let boundary = |after: Option<u64>| {
        let mut b = json!({"fail_if_events_match": {"items": [{"types": ["seat-taken"], "tags": ["seat:12A"]}]}});
        if let Some(after) = after {
            b["after"] = json!(after);
        }
        b
    };
    let refused = json!({
        "appends": [{"stream": "a", "events": event, "expected": "exists"},
                    {"stream": "b", "events": event},
                    {"stream": "taken", "events": event, "expected": "none"}],
        "conditions": [{"stream": "c", "expected": "exists"}, {"stream": "taken", "expected": "exists"}, boundary(None)],
    });
    let answer = client.post("/v1/transactions", refused.to_string()).await;
    let problem = answer.problem(412, "conditions_failed");
    let failed = problem["failed_conditions"].as_array().unwrap();
    let pointers: Vec<_> = failed.iter().map(|f| f["pointer"].as_str().unwrap()).collect();
    assert_eq!(
        pointers,
        [
            "/appends/0/expected",
            "/appends/2/expected",
            "/conditions/0/expected",
            "/conditions/2/fail_if_events_match"
        ]
    );
    client.get("/v1/streams/b").await.problem(404, "stream_unknown");
    let good = json!({
        "appends": [{"stream": "a", "events": event, "expected": "none"},
                    {"stream": "b", "events": event},
                    {"stream": "c", "events": event}],
        "conditions": [boundary(Some(0))],
    });
    let done = client.post("/v1/transactions", good.to_string()).await.ok(201);
    assert_eq!(done["appends"].as_array().unwrap().len(), 3);
    assert_eq!((&done["first_position"], &done["last_position"]), (&json!(1), &json!(3)));
    let asked = json!({"conditions": [{"stream": "a", "expected": "exists"}]}).to_string();
    assert_eq!(client.post("/v1/transactions", asked).await.ok(200)["position"], 3);
    for after in [4, 99_999] {
        let beyond = json!({ "conditions": [boundary(Some(after))] }).to_string();
        client.post("/v1/transactions", beyond).await.problem(409, "diverged");
    }
    let head = json!({ "conditions": [boundary(Some(3))] }).to_string();
    assert_eq!(client.post("/v1/transactions", head).await.ok(200)["position"], 3);
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_request() {
    let (server, folder) = server();
    let mut client = server.client().await;
    let path = "/v1/streams/s/events";
    let key = [JSON, ("idempotency-key", "k-1")];
    let body = r#"{"events":[{"type":"t"},{"type":"u"}],"expected":"none"}"#;
    let first = client.send("POST", path, &key, body).await;
    assert_eq!(first.header("idempotent-replay"), None);
    let again = client.send("POST", path, &key, body).await;
    assert_eq!(again.header("idempotent-replay"), Some("true"));
    assert_eq!(again.ok(200), first.ok(201));
    let other = client.send("POST", path, &key, r#"{"events":[{"type":"t"}]}"#).await;
    other.problem(422, "idempotency_mismatch");
    // A refused command keeps no key.
    let refused = [JSON, ("idempotency-key", "k-2")];
    client
        .send("POST", path, &refused, r#"{"events":[{"type":"t"}],"expected":"none"}"#)
        .await
        .problem(412, "conditions_failed");
    client.send("POST", path, &refused, r#"{"events":[{"type":"t"}]}"#).await.ok(201);
    server.kill();
    let server = crate::support::Server::start(folder.path());
    let again = server.client().await.send("POST", path, &key, body).await;
    assert_eq!(again.ok(200), first.json());
}

#[tokio::test]
async fn concurrent_requests_with_one_key_write_once() {
    let (server, _folder) = server();
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let address = server.address.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(&address).await.unwrap();
                let key = [JSON, ("idempotency-key", "same")];
                let body = r#"{"events":[{"type":"t"}]}"#;
                client.send("POST", "/v1/streams/s/events", &key, body).await
            })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        let answer = task.await.unwrap();
        created += u16::from(answer.status == 201);
        assert!(answer.status.is_success(), "{}", answer.text());
        assert_eq!(answer.json()["first_position"], 0);
    }
    assert_eq!(created, 1);
}

#[tokio::test]
async fn events_with_known_ids_are_recognised_or_conflict() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let body = |data: &str| {
        format!(
            r#"{{"events":[{{"type":"t","id":"01a9f5c0-0000-7000-8000-000000000001","data":{data}}}]}}"#
        )
    };
    let first = client.post("/v1/streams/s/events", body("{\"a\":1}")).await.ok(201);
    let again = client.post("/v1/streams/s/events", body("{\"a\":1}")).await;
    assert_eq!(again.header("idempotent-replay"), Some("true"));
    assert_eq!(again.ok(200), first);
    client.post("/v1/streams/s/events", body("{\"a\": 1}")).await.problem(409, "event_id_conflict");
    client.post("/v1/streams/z/events", body("{\"a\":1}")).await.problem(409, "event_id_conflict");
}

#[tokio::test]
async fn a_deleted_stream_is_gone_and_can_be_recreated() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let (stream, events) = ("/v1/streams/a%2Fb", "/v1/streams/a%2Fb/events");
    client.send("DELETE", stream, &[], "").await.problem(404, "stream_unknown");
    for _ in 0..3 {
        client.post(events, one(&json!("any"))).await.ok(201);
    }
    let head = client.send("HEAD", stream, &[], "").await;
    assert_eq!((head.status.as_u16(), head.header("etag")), (200, Some("\"2\"")));
    let refused = client.send("DELETE", stream, &[("if-match", "\"1\"")], "").await;
    let failed = &refused.problem(412, "conditions_failed")["failed_conditions"][0];
    assert_eq!(failed["actual"], json!({"version": 2}), "{failed:#}");
    assert_eq!(failed["pointer"], Value::Null, "a deletion has no body: {failed:#}");
    let gone = client.send("DELETE", stream, &[("if-match", "\"2\"")], "").await;
    assert_eq!(gone.status, 204);
    client.get(events).await.problem(410, "stream_deleted");
    for (gone, recreate) in [
        (client.post(events, one(&json!("any"))).await, true),
        (client.send("DELETE", stream, &[], "").await, false),
    ] {
        let problem = gone.problem(410, "stream_deleted");
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(detail.contains("recreate=true"), recreate, "{problem:#}");
        assert_eq!(problem["errors"], Value::Null, "there is no place to name: {problem:#}");
    }
    let all = client.pages("/v1/events").await;
    assert!(all.iter().all(|e| e["stream_deleted"] == true) && all.len() == 3, "{all:#?}");
    let listed = client.get("/v1/streams?prefix=a/").await.ok(200);
    assert_eq!(listed["streams"][0]["deleted"], true, "{listed:#}");
    let again = client.post(&format!("{events}?recreate=true"), one(&json!("none"))).await.ok(201);
    assert_eq!(again["first_version"], 3);
    let seen = client.pages(events).await;
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0]["version"], &seen[0]["stream_deleted"]), (&json!(3), &Value::Null));
}

#[tokio::test]
async fn cloud_events_come_in_and_go_out() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let event = json!({"specversion": "1.0", "id": "A-1", "source": "/shop", "type": "order-placed",
        "time": "2026-11-22T09:59:58Z", "traceparent": "00-x", "data": {"sku": "A7"}});
    let one = [("content-type", "application/cloudevents+json")];
    client.send("POST", "/v1/streams/s/events", &one, event.to_string()).await.ok(201);
    let again = client.send("POST", "/v1/streams/s/events", &one, event.to_string()).await;
    assert_eq!(again.status, 200, "the same source and id");
    let mut other = event.clone();
    other["id"] = json!("A-2");
    let batch = [("content-type", "application/cloudevents-batch+json; charset=utf-8")];
    client.send("POST", "/v1/streams/s/events", &batch, json!([other]).to_string()).await.ok(201);
    for (data, status) in [
        ("", 201),
        ("AA==", 201),
        ("+/8=", 201),
        ("AAAA", 201),
        ("A", 400),
        ("AAA", 400),
        ("A===", 400),
        ("====", 400),
        ("AA=A", 400),
        ("-_8=", 400),
        ("AA ==", 400),
        ("no base64", 400),
    ] {
        let event = json!({"specversion": "1.0", "id": data, "source": "/s", "type": "t", "data_base64": data});
        let event = event.to_string().replace("\"id\":\"\"", "\"id\":\"none\"");
        let answer = client.send("POST", "/v1/streams/b/events", &one, event).await;
        assert_eq!(answer.status, status, "{data}: {}", answer.text());
        if status == 400 {
            let problem = answer.problem(400, "invalid_body");
            assert_eq!(problem["errors"][0]["pointer"], "/data_base64", "{problem:#}");
        }
    }
    let none = client.send("POST", "/v1/streams/s/events", &batch, "[]").await;
    assert_eq!(none.problem(400, "invalid_body")["errors"][0]["pointer"], "");
    let accept = [("accept", "application/cloudevents-batch+json")];
    let out = client.send("GET", "/v1/streams/s/events", &accept, "").await;
    let out = out.ok(200);
    let first = &out[0];
    for (field, value) in
        [("type", "order-placed"), ("specversion", "1.0"), ("traceparent", "00-x")]
    {
        assert_eq!(first[field], value, "{out:#}");
    }
    assert_eq!(first["data"], json!({"sku": "A7"}));
}
