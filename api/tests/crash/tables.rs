//! Rows and what follows from them, written together while the process is killed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Client, Server};

const ROUNDS: u64 = 6;
const WRITERS: u64 = 8;

async fn rows(client: &mut Client, sql: &str) -> Value {
    let body = json!({"sql": sql}).to_string();
    client.post("/v1/query", body).await.ok(200)["rows"].clone()
}

/// Writes a row and counts it, in one request, until the server goes away. Returns which rows were acknowledged.
async fn write(address: String, writer: u64, first: u64) -> (u64, Vec<u64>) {
    let mut acknowledged = Vec::new();
    let Some(mut client) = Client::connect(&address).await else { return (writer, acknowledged) };
    for n in first.. {
        let sql = "INSERT INTO rows VALUES ($1, $2); UPDATE counts SET n = n + 1 WHERE writer = $1; \
                   DELETE FROM rows WHERE writer = $1 AND n = $2 - 10";
        let body = json!({"sql": sql, "params": [writer, n]}).to_string();
        let json = [("content-type", "application/json")];
        match client.try_send("POST", "/v1/query", &json, body).await {
            Some(answer) if answer.status == 200 => acknowledged.push(n),
            Some(answer) if answer.json()["code"] == "contended" => {}
            Some(answer) => panic!("{answer:?}"),
            None => break,
        }
    }
    (writer, acknowledged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_were_acknowledged_survive_sigkill_whole() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut client = server.client().await;
    let made = "CREATE TABLE rows (writer INT, n BIGINT, PRIMARY KEY (writer, n)); \
                CREATE TABLE counts (writer INT PRIMARY KEY, n BIGINT); \
                INSERT INTO counts SELECT i, 0 FROM generate_series(0, 7) s(i)";
    rows(&mut client, made).await;
    drop(client);
    server.kill();
    let mut total = 0;
    for round in 0..ROUNDS {
        let server = Server::start(folder.path());
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            tasks.spawn(write(server.address.clone(), writer, round * 1_000_000));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..1500))).await;
        server.kill();
        let written = tasks.join_all().await;
        if round % 2 == 1 {
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        let server = Server::start(folder.path());
        let mut client = server.client().await;
        for (writer, acknowledged) in written {
            total += acknowledged.len();
            // Each row was counted once, and nothing was counted that was not written.
            let sql = format!(
                "SELECT n FROM rows WHERE writer = {writer} AND n >= {} ORDER BY n",
                round * 1_000_000
            );
            let there = rows(&mut client, &sql).await;
            let there: Vec<u64> =
                there.as_array().unwrap().iter().map(|r| r[0].as_u64().unwrap()).collect();
            let last = acknowledged.last().copied();
            let kept = acknowledged.iter().filter(|n| **n + 10 > last.unwrap_or(0) + 1);
            for n in kept {
                assert!(
                    there.contains(n),
                    "{n} of writer {writer}, round {round}, seed {seed}: {there:?}"
                );
            }
            let sql = format!(
                "SELECT n, (SELECT count(*) FROM rows WHERE writer = {writer}) AS kept FROM counts WHERE writer = {writer}"
            );
            let counted = rows(&mut client, &sql).await;
            assert!(counted[0][0].as_u64() >= counted[0][1].as_u64(), "{counted}, seed {seed}");
        }
        server.kill();
    }
    // The history of each row agrees with the count: as many were made as were counted.
    let server = Server::start(folder.path());
    let mut client = server.client().await;
    let counts = rows(&mut client, "SELECT sum(n) FROM counts").await[0][0].as_u64().unwrap();
    let last = rows(&mut client, "SELECT 1 AS a").await;
    assert_eq!(last, json!([[1]]));
    let mut made = 0;
    let mut position = 0;
    while client.get(&format!("/v1/records/{position}")).await.status == 200 {
        let opening = client.get(&format!("/v1/records/{position}/opening")).await.ok(200);
        let payloads = opening["payloads"].as_array().unwrap();
        let is_new = payloads.iter().any(|p| p["kind"] == "row")
            && payloads.iter().any(|p| {
                p["json"].as_str().is_some_and(|json| {
                    json.contains("\"key\":[") && json.matches(',').count() == 2
                })
            });
        made += u64::from(is_new);
        position += 1;
    }
    println!("{total} requests acknowledged, {counts} counted, {position} records");
    assert_eq!(made, counts, "seed {seed}");
    assert!(total as u64 <= counts, "what was acknowledged is counted");
    assert!(total > 50, "the writers wrote");
}
