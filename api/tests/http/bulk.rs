//! The bulk door, and compressed bodies.

use std::io::Write;

use serde_json::{Value, json};

use crate::server;

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn line(n: u128, stream: &str) -> String {
    let id = uuid::Uuid::from_u128(n + 1);
    format!(
        "{}\n",
        json!({"stream": stream, "type": "t", "id": id.to_string(), "data": {"n": n.to_string()}})
    )
}

#[tokio::test]
async fn lines_are_loaded_in_batches_and_a_second_time_adds_nothing() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let body: String = (0..3500).map(|n| line(n, &format!("s-{}", n % 7))).collect();
    for _ in 0..2 {
        let answer = client.send("POST", "/v1/events", &[NDJSON], body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let batches = lines(answer.text());
        let mut next = 1;
        for batch in &batches {
            assert_eq!(batch["lines"][0], next, "{batch}");
            assert!(batch["first_position"].is_u64() && batch["last_position"].is_u64(), "{batch}");
            next = batch["lines"][1].as_u64().unwrap() + 1;
        }
        assert_eq!(next, 3501);
    }
    let all = client.pages("/v1/events?limit=1000").await;
    assert_eq!(all.len(), 3500);
    for (n, event) in all.iter().enumerate() {
        assert_eq!(event["data"]["n"], n.to_string());
    }
}

#[tokio::test]
async fn the_first_refused_line_ends_a_load() {
    let (server, _folder) = server();
    for (n, (bad, code)) in [
        ("{\"stream\":\"s\",\"type\":\"t\",\"expected\":\"none\"}\n", "conditions_failed"),
        ("{\"stream\":\"s\",\"type\":\"t\",\"nope\":1}\n", "invalid_body"),
        ("{\"stream\":\"s\",\"type\"\n", "malformed_json"),
        ("{\"stream\":\"$s\",\"type\":\"t\"}\n", "invalid_name"),
        ("{\"stream\":\"s\",\"type\":\"t\",\"subjects\":[\"p\"]}\n", "subjects_unavailable"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = server.client().await;
        let before = client.pages("/v1/events").await.len();
        let base = n as u128 * 100;
        let good: String = (base..base + 10).map(|n| line(n, "s")).collect();
        let body = format!("{good}{bad}{}", line(base + 50, "s"));
        let answer = client.send("POST", "/v1/events", &[NDJSON], body).await;
        let batches = lines(answer.text());
        let last = batches.last().unwrap();
        assert_eq!(last["lines"], json!([11, 11]), "{code}: {}", answer.text());
        assert_eq!(last["problem"]["code"], code, "{}", answer.text());
        if code == "conditions_failed" {
            assert_eq!(last["problem"]["failed_conditions"][0]["pointer"], "/expected", "{last}");
        }
        assert_eq!(client.pages("/v1/events").await.len(), before + 10, "{code}");
    }
}

#[tokio::test]
async fn bodies_may_be_compressed_within_the_limit() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let body = r#"{"events":[{"type":"t","data":"compressed"}]}"#;
    let gzip = |text: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text).unwrap();
        out.finish().unwrap()
    };
    let json = ("content-type", "application/json");
    for (encoding, bytes) in [
        ("gzip", gzip(body.as_bytes())),
        ("zstd", zstd::stream::encode_all(body.as_bytes(), 1).unwrap()),
    ] {
        let headers = [json, ("content-encoding", encoding)];
        client.send("POST", "/v1/streams/s/events", &headers, bytes.clone()).await.ok(201);
        let cut = bytes[..bytes.len() / 2].to_vec();
        client
            .send("POST", "/v1/streams/s/events", &headers, cut)
            .await
            .problem(400, "invalid_encoding");
    }
    let bomb = vec![b' '; 64 << 20];
    for (encoding, bytes) in
        [("gzip", gzip(&bomb)), ("zstd", zstd::stream::encode_all(&bomb[..], 1).unwrap())]
    {
        let mut client = server.client().await;
        let headers = [json, ("content-encoding", encoding)];
        client
            .send("POST", "/v1/streams/s/events", &headers, bytes)
            .await
            .problem(413, "request_too_large");
    }
    let mut client = server.client().await;
    let headers = [json, ("content-encoding", "br")];
    client
        .send("POST", "/v1/streams/s/events", &headers, body)
        .await
        .problem(415, "content_encoding_unsupported");
}
