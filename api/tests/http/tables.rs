//! Tables of users over HTTP.

use serde_json::{Value, json};

use crate::{
    server,
    support::{Answer, Client},
};

async fn ask(client: &mut Client, sql: &str) -> Answer {
    client.post("/v1/query", json!({"sql": sql}).to_string()).await
}

#[tokio::test]
async fn what_changes_something_answers_with_the_count_and_the_position() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let made = ask(&mut client, "CREATE TABLE t (id BIGINT PRIMARY KEY, v TEXT)").await.ok(200);
    let expected = json!({"columns": [], "rows": [], "row_count": 0, "next": null, "position": 0});
    assert_eq!(made, expected);
    let several = "INSERT INTO t VALUES (1, 'a'), (2, 'b'); SELECT count(*) AS n FROM t; \
                   UPDATE t SET v = 'c' WHERE id = 2 RETURNING id, v";
    let answer = ask(&mut client, several).await.ok(200);
    let column = |name: &str, kind: &str| json!({"name": name, "type": kind});
    let results = json!([
        {"columns": [], "rows": [], "row_count": 2, "next": null},
        {"columns": [column("n", "BIGINT")], "rows": [[2]], "row_count": 1, "next": null},
        {"columns": [column("id", "BIGINT"), column("v", "TEXT")], "rows": [[2, "c"]], "row_count": 1, "next": null},
    ]);
    assert_eq!(answer["results"], results);
    assert_eq!(answer["position"], 3);
    // The records are there for who checks them.
    let record = client.get("/v1/records/3").await.ok(200);
    let kinds: Vec<&str> = record["payloads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["kind"].as_str().unwrap())
        .collect();
    assert_eq!((record["kind"].as_str(), kinds), (Some("row_changed"), vec!["body", "row"]));
    let opening = client.get("/v1/records/3/opening").await.ok(200);
    assert_eq!(opening["payloads"][1]["json"], r#"[2,"c"]"#);
    assert_eq!(opening["names"], json!([{"kind": "actor", "position": 0}]));
    assert_eq!(client.get("/v1/records/0").await.ok(200)["kind"], "schema_changed");
    assert_eq!(client.get("/v1/records/3/proof").await.status, 200);
    // Events are events alone.
    assert_eq!(client.get("/v1/events").await.ok(200)["events"], json!([]));
    client.get("/v1/events/3").await.problem(404, "record_unknown");
}

#[tokio::test]
async fn what_is_wrong_with_a_change_has_a_code_of_its_own() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    ask(&mut client, "CREATE TABLE t (id INT PRIMARY KEY, v TEXT NOT NULL)").await.ok(200);
    ask(&mut client, "INSERT INTO t VALUES (1, 'a')").await.ok(200);
    for (sql, status, code, says) in [
        ("INSERT INTO t VALUES (1, 'b')", 409, "duplicate_key", "\"t\""),
        ("CREATE TABLE t (id INT PRIMARY KEY)", 409, "table_exists", "\"t\""),
        ("INSERT INTO t VALUES (2, NULL)", 422, "constraint_failed", "\"v\""),
        ("INSERT INTO t VALUES ('x', 'y')", 422, "query_failed", "cast"),
        ("INSERT INTO u VALUES (1)", 400, "invalid_sql", "\"u\""),
        ("UPDATE t SET w = 1", 400, "invalid_sql", "\"w\""),
        ("ALTER TABLE t ADD COLUMN w INT", 400, "unsupported_sql", "CREATE TABLE"),
        ("CREATE INDEX i ON t (v)", 400, "unsupported_sql", "CREATE TABLE"),
        ("SELECT * FROM t AS OF POSITION 5", 422, "moment_unknown", "5"),
        ("DELETE FROM events", 400, "unsupported_sql", "the log's"),
        (
            "INSERT INTO t SELECT i, 'x' FROM generate_series(2, 20000) s(i)",
            422,
            "limit_exceeded",
            "",
        ),
    ] {
        let problem = ask(&mut client, sql).await.problem(status, code);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{sql}: {problem}");
        assert_eq!(problem["side_effects"], "none", "{sql}");
    }
    let limited =
        ask(&mut client, "INSERT INTO t SELECT i, 'x' FROM generate_series(2, 20000) s(i)");
    let limited = limited.await.problem(422, "limit_exceeded");
    assert!(limited["errors"][0]["detail"].as_str().unwrap().starts_with("request_changes: "));
    for body in [
        json!({"sql": "DELETE FROM t", "as_of": {"position": 1}}),
        json!({"sql": "SELECT 1 AS a; DELETE FROM t", "as_of": {"time": "2026-01-01T00:00:00Z"}}),
    ] {
        let refused = client.post("/v1/query", body.to_string()).await;
        refused.problem(400, "unsupported_sql");
    }
    for accept in ["application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"] {
        let headers = [("content-type", "application/json"), ("accept", accept)];
        let sql = json!({"sql": "DELETE FROM t RETURNING id"}).to_string();
        client.send("POST", "/v1/query", &headers, sql).await.problem(400, "unsupported_sql");
    }
    assert_eq!(ask(&mut client, "SELECT * FROM t").await.ok(200)["rows"], json!([[1, "a"]]));
}

#[tokio::test]
async fn the_way_to_the_next_rows_changes_nothing() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let (server, _folder) = server();
    let mut client = server.client().await;
    let made = "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t SELECT i FROM generate_series(1, 5) s(i)";
    ask(&mut client, made).await.ok(200);
    let body = json!({"sql": "SELECT id FROM t ORDER BY id", "limit": 2}).to_string();
    let first = client.post("/v1/query", body).await.ok(200);
    // What changes later is not in the pages behind.
    ask(&mut client, "DELETE FROM t WHERE id > 3").await.ok(200);
    let next = first["next"].as_str().unwrap().to_owned();
    let second = client.get(&next).await.ok(200);
    assert_eq!((&second["rows"], &second["position"]), (&json!([[3], [4]]), &json!(5)));
    // Nor does a forged one write.
    let text = next.split_once("next=").unwrap().1;
    let mut forged: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
    forged["sql"] = json!("DELETE FROM t");
    for records in [6, 8] {
        forged["records"] = json!(records);
        for skip in [0, 2] {
            forged["skip"] = json!(skip);
            let path = format!("/v1/query?next={}", URL_SAFE_NO_PAD.encode(forged.to_string()));
            client.get(&path).await.problem(400, "unsupported_sql");
        }
    }
    let rows = ask(&mut client, "SELECT id FROM t ORDER BY id").await.ok(200)["rows"].clone();
    assert_eq!(rows, json!([[1], [2], [3]]));
    // A statement that has more rows than it may show is not carried out.
    let body = json!({"sql": "DELETE FROM t RETURNING id", "limit": 2}).to_string();
    client.post("/v1/query", body).await.problem(422, "limit_exceeded");
    assert_eq!(ask(&mut client, "SELECT id FROM t").await.ok(200)["row_count"], 3);
}
