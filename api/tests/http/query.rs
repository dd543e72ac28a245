//! SQL over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    server,
    support::{Answer, Client, Server},
};

async fn ask(client: &mut Client, body: &Value) -> Answer {
    client.post("/v1/query", body.to_string()).await
}

async fn rows(client: &mut Client, sql: &str) -> Value {
    ask(client, &json!({"sql": sql})).await.ok(200)["rows"].clone()
}

/// Five orders, at positions 0 to 4.
async fn orders(client: &mut Client) {
    for n in 0..5 {
        let event = json!({"type": "order-placed", "data": {"n": n}, "tags": [format!("n:{n}")]});
        let path = format!("/v1/streams/order-{n}/events");
        client.post(&path, json!({"events": [event]}).to_string()).await.ok(201);
    }
}

#[tokio::test]
async fn a_query_answers_with_columns_rows_and_position() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let empty = ask(&mut client, &json!({"sql": "SELECT count(*) AS n FROM events"})).await.ok(200);
    assert_eq!(empty["position"], Value::Null);
    orders(&mut client).await;
    let sql = "SELECT type AS what, count(*) AS n, min(data->>'n') FROM events GROUP BY type";
    let answer = ask(&mut client, &json!({"sql": sql})).await.ok(200);
    let expected = json!({
        "columns": [
            {"name": "what", "type": "TEXT"},
            {"name": "n", "type": "BIGINT"},
            answer["columns"][2].clone(),
        ],
        "rows": [["order-placed", 5, "0"]],
        "row_count": 1,
        "next": null,
        "position": 4,
    });
    assert_eq!(answer, expected);
    assert_eq!(answer["columns"][2]["type"], "TEXT");
    // What was acknowledged is seen, also by who asks on another connection.
    let event = json!({"events": [{"type": "paid"}]}).to_string();
    client.post("/v1/streams/order-1/events", event).await.ok(201);
    let mut other = server.client().await;
    assert_eq!(rows(&mut other, "SELECT count(*) FROM events").await, json!([[6]]));
}

#[tokio::test]
async fn parameters_are_typed_by_where_they_stand() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    orders(&mut client).await;
    let sql = "SELECT position FROM events WHERE stream = $1 AND position >= $2 AND time < $3";
    let mut body = json!({"sql": sql, "params": ["order-3", 2, "2999-01-01T00:00:00Z"]});
    assert_eq!(ask(&mut client, &body).await.ok(200)["rows"], json!([[3]]));
    body["params"] = json!(["order-3", 2]);
    let problem = ask(&mut client, &body).await.problem(400, "invalid_sql");
    assert_eq!(problem["errors"][0]["pointer"], "/params/2");
    body["params"] = json!(["order-3", "two", "2999-01-01T00:00:00Z"]);
    let problem = ask(&mut client, &body).await.problem(400, "invalid_sql");
    assert_eq!(problem["errors"][0]["pointer"], "/params/1");
}

#[tokio::test]
async fn a_request_is_as_of_a_moment_and_its_tables_of_others() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    orders(&mut client).await;
    let sql =
        "SELECT count(*), (SELECT count(*) FROM events AS OF POSITION $1 e) AS old FROM events";
    let body = json!({"sql": sql, "params": [0], "as_of": {"position": 2}});
    let answer = ask(&mut client, &body).await.ok(200);
    assert_eq!((&answer["rows"], &answer["position"]), (&json!([[3, 1]]), &json!(2)));
    let event = client.get("/v1/events/3").await.ok(200);
    let body = json!({"sql": "SELECT count(*) FROM events", "as_of": {"time": event["time"]}});
    assert_eq!(ask(&mut client, &body).await.ok(200)["rows"], json!([[4]]));
    for (as_of, status, code) in [
        (json!({"position": 5}), 422, "moment_unknown"),
        (json!({"time": "2000-01-01T00:00:00Z"}), 422, "moment_unknown"),
        (json!({"time": "2999-01-01T00:00:00Z"}), 409, "time_not_closed"),
        (json!({"time": "now"}), 400, "invalid_body"),
        (json!({}), 400, "invalid_body"),
        (json!({"position": 1, "time": "2000-01-01T00:00:00Z"}), 400, "invalid_body"),
    ] {
        let body = json!({"sql": "SELECT count(*) FROM events", "as_of": as_of});
        ask(&mut client, &body).await.problem(status, code);
    }
}

#[tokio::test]
async fn next_goes_on_as_of_the_same_position() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    orders(&mut client).await;
    let sql = "SELECT position, now() FROM events WHERE position <> $1 ORDER BY position DESC";
    let body = json!({"sql": sql, "params": [3], "limit": 3});
    let first = ask(&mut client, &body).await.ok(200);
    assert_eq!(first["row_count"], 3);
    client.post("/v1/streams/s/events", r#"{"events":[{"type":"t"}]}"#).await.ok(201);
    let second = client.get(first["next"].as_str().unwrap()).await.ok(200);
    assert_eq!((&second["position"], &second["next"]), (&json!(4), &Value::Null));
    let (one, two) = (first["rows"].as_array().unwrap(), second["rows"].as_array().unwrap());
    let positions: Vec<&Value> = one.iter().chain(two).map(|row| &row[0]).collect();
    assert_eq!(positions, [&json!(4), &json!(2), &json!(1), &json!(0)]);
    assert_eq!(one[0][1], two[0][1], "now() stands still");
    client.get("/v1/query?next=AAAA").await.problem(400, "invalid_parameter");
    client.get("/v1/query").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn several_statements_are_answered_each() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    orders(&mut client).await;
    let body = json!({"sql": "SELECT 1 AS a; SELECT position FROM events ORDER BY 1;", "limit": 2});
    let answer = ask(&mut client, &body).await.ok(200);
    assert_eq!(answer["rows"], json!([[0], [1]]));
    assert_eq!(answer["results"][0]["rows"], json!([[1]]));
    assert_eq!(answer["results"][1]["rows"], answer["rows"]);
    let next = client.get(answer["next"].as_str().unwrap()).await.ok(200);
    assert_eq!(next["rows"], json!([[2], [3]]));
}

#[tokio::test]
async fn formats_have_all_rows() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    orders(&mut client).await;
    let body = json!({"sql": "SELECT stream, data, CAST(NULL AS TEXT) AS nothing, '' AS empty FROM events ORDER BY position LIMIT 2"}).to_string();
    let mut get = async |accept| {
        let headers = [("content-type", "application/json"), ("accept", accept)];
        let answer = client.send("POST", "/v1/query", &headers, body.clone()).await;
        assert_eq!(answer.status.as_u16(), 200, "{accept}");
        assert_eq!(answer.header("kimberlite-position"), Some("4"));
        assert!(answer.header("content-type").unwrap().starts_with(accept));
        answer
    };
    let lines = get("application/x-ndjson").await;
    let first = r#"{"stream":"order-0","data":{"n":0},"nothing":null,"empty":""}"#;
    let second = r#"{"stream":"order-1","data":{"n":1},"nothing":null,"empty":""}"#;
    assert_eq!(lines.text(), format!("{first}\n{second}\n"));
    let csv = get("text/csv").await;
    let rows = "order-0,\"{\"\"n\"\":0}\",,\"\"\r\norder-1,\"{\"\"n\"\":1}\",,\"\"\r\n";
    assert_eq!(csv.text(), format!("stream,data,nothing,empty\r\n{rows}"));
    let arrow = get("application/vnd.apache.arrow.stream").await;
    assert_eq!(&arrow.body[..4], [255; 4], "a message of the Arrow IPC stream");
    assert!(arrow.body.ends_with(&[255, 255, 255, 255, 0, 0, 0, 0]), "and its end");
}

#[tokio::test]
async fn what_is_wrong_is_said_where_it_is() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    orders(&mut client).await;
    for (sql, status, code, says) in [
        ("SELECT 1\n  FROM )", 400, "unsupported_sql", "line 2, column"),
        ("SELECT * FROM events FOR UPDATE", 400, "unsupported_sql", "FOR UPDATE"),
        ("DROP TABLE events", 400, "unsupported_sql", "the log's"),
        ("VACUUM", 400, "unsupported_sql", "SELECT"),
        ("COPY events TO '/tmp/x'", 400, "unsupported_sql", ""),
        ("SELECT * FROM events VERSION AS OF 1", 400, "unsupported_sql", "AS OF POSITION"),
        ("SELECT nothing FROM events", 400, "invalid_sql", "nothing"),
        ("SELECT * FROM nowhere", 400, "invalid_sql", "nowhere"),
        ("SELECT 1 / (position - position) FROM events", 422, "query_failed", "division by zero"),
        ("SELECT (data->>'n')::date FROM events", 422, "query_failed", "cannot be"),
        ("SELECT count(*) FROM events AS OF POSITION 99", 422, "moment_unknown", "99"),
        ("", 400, "unsupported_sql", "no statement"),
    ] {
        let problem = ask(&mut client, &json!({"sql": sql})).await.problem(status, code);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{sql}: {detail}");
    }
    for (body, status, code) in [
        (json!({}), 400, "invalid_body"),
        (json!({"sql": "SELECT 1", "sq": 1}), 400, "invalid_body"),
        (json!({"sql": "SELECT 1", "limit": 0}), 422, "limit_exceeded"),
        (json!({"sql": "SELECT 1", "limit": 10_001}), 422, "limit_exceeded"),
        (json!({"sql": "SELECT 1", "timeout_ms": 0}), 422, "limit_exceeded"),
        (json!({"sql": "SELECT 1", "timeout_ms": 86_400_001_u64}), 422, "limit_exceeded"),
    ] {
        ask(&mut client, &body).await.problem(status, code);
    }
    let headers = [("content-type", "application/json"), ("accept", "text/html")];
    let answer = client.send("POST", "/v1/query", &headers, r#"{"sql":"SELECT 1"}"#).await;
    answer.problem(406, "not_acceptable");
}

#[tokio::test]
async fn a_position_to_wait_for_is_one_of_the_log() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    orders(&mut client).await;
    for (position, status) in [("4", 200), ("5", 409), ("-1", 400), ("x", 400)] {
        let headers = [("content-type", "application/json"), ("kimberlite-min-position", position)];
        let answer = client.send("POST", "/v1/query", &headers, r#"{"sql":"SELECT 1"}"#).await;
        assert_eq!(answer.status.as_u16(), status, "{position}");
    }
}

/// Takes longer than any test waits.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b \
                       WHERE a.value % 7 = b.value % 11";

#[tokio::test]
async fn a_query_that_takes_too_long_ends_and_leaves_the_others_alone() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    orders(&mut client).await;
    let problem = ask(&mut client, &json!({"sql": ENDLESS, "timeout_ms": 300})).await;
    let problem = problem.problem(422, "limit_exceeded");
    assert!(problem["detail"].as_str().unwrap().contains("query.timeout_ms"), "{problem}");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM events").await, json!([[5]]));
}

#[tokio::test]
async fn a_query_whose_caller_is_gone_ends() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(folder.path(), &[("KIMBERLITE_QUERY_RUNNING_MAX", "1")]);
    let mut gone = server.client().await;
    let body = json!({"sql": ENDLESS});
    let waited = tokio::time::timeout(Duration::from_millis(300), ask(&mut gone, &body)).await;
    assert!(waited.is_err(), "it runs still");
    drop(gone);
    let mut client = server.client().await;
    assert_eq!(rows(&mut client, "SELECT 1").await, json!([[1]]));
}

/// The setting bounds what a query holds.
pub(crate) async fn memory(server: &Server) {
    let mut client = server.client().await;
    let sql = "SELECT count(*) FROM (SELECT DISTINCT value * 7919 % 1000003 FROM generate_series(1, 500000)) d";
    let problem = ask(&mut client, &json!({"sql": sql})).await.problem(422, "limit_exceeded");
    assert!(problem["detail"].as_str().unwrap().contains("query.memory_bytes"), "{problem}");
}

/// The setting bounds how many run: the second waits for its turn, and its time passes.
pub(crate) async fn running(server: &Server) {
    let (mut first, mut second) = (server.client().await, server.client().await);
    let long = json!({"sql": ENDLESS, "timeout_ms": 2000});
    let (long, short) = tokio::join!(ask(&mut first, &long), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        ask(&mut second, &json!({"sql": "SELECT 1", "timeout_ms": 500})).await
    });
    long.problem(422, "limit_exceeded");
    short.problem(422, "limit_exceeded");
}

/// The setting bounds how long a query takes, and what a request may ask for.
pub(crate) async fn timeout(server: &Server) {
    let mut client = server.client().await;
    ask(&mut client, &json!({"sql": ENDLESS})).await.problem(422, "limit_exceeded");
    let body = json!({"sql": "SELECT 1", "timeout_ms": 201});
    ask(&mut client, &body).await.problem(422, "limit_exceeded");
}
