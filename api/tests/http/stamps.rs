//! Time stamps: what an authority answers rightly becomes a record, what it answers wrongly does not.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Client, PATIENCE, Server};

const URL: &str = "KIMBERLITE_TIMESTAMPS_URL";
const EVERY: &str = "KIMBERLITE_TIMESTAMPS_EVERY_S";

/// A value in DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let head = if length < 128 { vec![tag, length as u8] } else { vec![tag, 0x81, length as u8] };
    [head, content].concat()
}

/// What an authority answers, but for certificates and signature, which the server does not look at.
fn answer(query: &[u8]) -> Vec<u8> {
    let (imprint, nonce) = (&query[5..][..query[6] as usize + 2], &query[query.len() - 13..][..10]);
    let signed_data = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
    let tst_info = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x04";
    let time = der(0x18, &[b"20260102030405.678Z"]);
    let (version, policy, serial) = (b"\x02\x01\x01", b"\x06\x02\x2a\x03", b"\x02\x01\x07");
    let info = der(0x30, &[version, policy, imprint, serial, &time, nonce]);
    let content = der(0x30, &[tst_info, &der(0xa0, &[&der(0x04, &[&info])])]);
    let signed = der(0x30, &[b"\x02\x01\x03", b"\x31\x00", &content, b"\x31\x00"]);
    let token = der(0x30, &[signed_data, &der(0xa0, &[&signed])]);
    der(0x30, &[b"\x30\x03\x02\x01\x00", &token])
}

/// From a query to status and body.
type Answers = fn(&[u8]) -> (u16, Vec<u8>);

/// An authority that answers with whatever `change` makes of the right answer. Its URL.
async fn authority(change: Answers) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/tsa", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            let query = loop {
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).await.unwrap();
                assert!(n > 0, "it hung up: {}", String::from_utf8_lossy(&asked));
                asked.extend_from_slice(&buffer[..n]);
                let end = asked.windows(4).position(|w| w == b"\r\n\r\n");
                // A length of one byte, as each of these queries has.
                match end.map(|end| &asked[end + 4..]) {
                    Some(body) if body.len() > 2 && body.len() == body[1] as usize + 2 => {
                        break body.to_vec();
                    }
                    _ => {}
                }
            };
            let head = String::from_utf8_lossy(&asked);
            assert!(head.starts_with("POST /tsa HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("content-type: application/timestamp-query\r\n"), "{head}");
            let (status, body) = change(&query);
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
            let _gone = stream.write_all(&[head.as_bytes(), &body].concat()).await.is_err();
        }
    });
    url
}

fn right(query: &[u8]) -> (u16, Vec<u8>) {
    (200, answer(query))
}

async fn append(client: &mut Client) -> u64 {
    let body = json!({"events": [{"type": "t"}]}).to_string();
    let receipt = client.post("/v1/streams/s/events", body).await.ok(201);
    receipt["last_position"].as_u64().unwrap()
}

/// The first stamp of more than so many records.
async fn stamp_above(client: &mut Client, size: u64) -> Value {
    let started = Instant::now();
    loop {
        let answer = client.get("/v1/log/stamp").await;
        if answer.status == 200 {
            let stamp = answer.ok(200);
            if covers(&stamp) > size {
                return stamp;
            }
        } else {
            answer.problem(404, "stamp_unknown");
        }
        assert!(started.elapsed() < PATIENCE, "no stamp above {size}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Records that a stamp's checkpoint covers.
fn covers(stamp: &Value) -> u64 {
    stamp["checkpoint"].as_str().unwrap().lines().nth(1).unwrap().parse().unwrap()
}

async fn metric(client: &mut Client, name: &str) -> String {
    let metrics = client.get("/metrics").await;
    let prefix = format!("kimberlite_{name} ");
    metrics.text().lines().find_map(|l| l.strip_prefix(&prefix)).unwrap().to_owned()
}

#[tokio::test]
async fn a_stamp_is_a_record_that_a_restart_finds() {
    let folder = tempfile::tempdir().unwrap();
    let url = authority(right).await;
    let server = Server::with(folder.path(), &[(URL, &url), (EVERY, "1")]);
    let mut client = server.client().await;
    client.get("/v1/log/stamp").await.problem(404, "stamp_unknown");
    append(&mut client).await;
    let first = stamp_above(&mut client, 0).await;
    assert_eq!(first["position"], 1, "{first:#}");
    assert_eq!(first["time"], "2026-01-02T03:04:05.678000Z");
    assert_eq!((&first["authority"], &first["previous"]), (&json!(url), &Value::Null));
    let record = client.get("/v1/records/1").await.ok(200);
    assert_eq!(record["kind"], "checkpoint_stamped", "{record:#}");
    let opening = client.get("/v1/records/1/opening").await;
    assert_eq!(opening.status, 200);
    let last = append(&mut client).await;
    let second = stamp_above(&mut client, last).await;
    assert_eq!(second["previous"], first["position"]);
    assert_eq!(metric(&mut client, "stamps_total").await, "2");
    server.stop();
    let server = Server::start(folder.path());
    let mut client = server.client().await;
    assert_eq!(client.get("/v1/log/stamp").await.ok(200), second);
    client.get("/v1/log/stamp?a=1").await.problem(400, "unknown_parameter");
}

#[tokio::test]
async fn an_authority_that_answers_wrongly_leaves_no_record() {
    let wrong: [Answers; 6] = [
        |query| (500, answer(query)),
        |query| (200, answer(&[&query[..30], &[!query[30]], &query[31..]].concat())),
        |query| {
            let nonce = query.len() - 4;
            let other = [&query[..nonce], &[!query[nonce]], &query[nonce + 1..]].concat();
            (200, answer(&other))
        },
        |query| (200, [answer(query), vec![0; 1 << 17]].concat()),
        |_| (200, b"\x30\x05\x30\x03\x02\x01\x02".to_vec()),
        |_| (200, b"<html>".to_vec()),
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let url = authority(change).await;
        let server = Server::with(folder.path(), &[(URL, &url)]);
        let mut client = server.client().await;
        assert_eq!(append(&mut client).await, 0);
        let started = Instant::now();
        while metric(&mut client, "stamps_failing").await != "1" {
            assert!(started.elapsed() < PATIENCE, "answer {number} is no failure");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(append(&mut client).await, 1, "answer {number} left a record");
        client.get("/v1/log/stamp").await.problem(404, "stamp_unknown");
        assert_eq!(metric(&mut client, "stamps_total").await, "0");
    }
}

/// The setting names who is asked.
pub(crate) async fn url(env: &str, folder: &Path) {
    let url = authority(right).await;
    let server = Server::with(folder, &[(env, &url)]);
    let mut client = server.client().await;
    append(&mut client).await;
    assert_eq!(stamp_above(&mut client, 0).await["authority"], url);
}

/// The setting says how soon the next stamp comes.
pub(crate) async fn every(env: &str, folder: &Path) {
    let url = authority(right).await;
    for (value, again) in [("1", true), ("3600", false)] {
        let server = Server::with(&folder.join(value), &[(URL, &url), (env, value)]);
        let mut client = server.client().await;
        append(&mut client).await;
        stamp_above(&mut client, 0).await;
        let last = append(&mut client).await;
        if again {
            stamp_above(&mut client, last).await;
        } else {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let stamp = client.get("/v1/log/stamp").await.ok(200);
            assert!(covers(&stamp) <= last, "{stamp:#}");
        }
    }
}
