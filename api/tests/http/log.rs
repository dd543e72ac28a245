//! `/v1/log/…` and proofs, as a stranger with the public key checks them.

use std::{
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use kimberlite_store::{
    proof::{Checkpoint, Note, Receipt, VerifierKey, leaf_hash, verify_consistency},
    words::Hash,
};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::{
    server,
    support::{Client, Server},
};

async fn append(client: &mut Client, events: usize) -> Value {
    let events = vec![json!({"type": "t", "data": {"n": 1}}); events];
    let body = json!({ "events": events }).to_string();
    client.post("/v1/streams/s/events", body).await.ok(201)
}

async fn vkey(client: &mut Client) -> VerifierKey {
    let keys = client.get("/v1/log/keys").await.ok(200);
    let vkey: VerifierKey = keys["vkey"].as_str().unwrap().parse().unwrap();
    assert_eq!(keys["origin"], vkey.name());
    assert_eq!(keys["keys"].as_array().unwrap().last().unwrap()["vkey"], keys["vkey"]);
    vkey
}

async fn checkpoint(client: &mut Client, key: &VerifierKey) -> Checkpoint {
    let answer = client.get("/v1/log/checkpoint").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), TEXT);
    Checkpoint::verified(&Note::parse(&answer.body).unwrap(), key).unwrap()
}

/// How long a checkpoint is waited for that does not come: two seconds, and what a busy machine adds.
pub(crate) const WAITED: Range<Duration> = Duration::from_millis(1900)..Duration::from_secs(5);

const TEXT: (u16, Option<&str>) = (200, Some("text/plain; charset=utf-8"));

fn hash(hex: &str) -> Hash {
    let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    Hash(std::array::from_fn(byte))
}

#[tokio::test]
async fn a_stranger_checks_leaf_proof_and_growth() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let key = vkey(&mut client).await;
    append(&mut client, 300).await;
    for path in ["/v1/events/299", "/v1/records/299"] {
        let answer = client.get(&format!("{path}/proof")).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), TEXT);
        let receipt = Receipt::parse(&answer.body).unwrap();
        let leaf = client.get(&format!("{path}/leaf")).await.body;
        let covered = receipt.verify(leaf_hash(&leaf), &key, &[]).unwrap();
        assert!((receipt.index, covered.checkpoint.size) == (299, 300), "{covered:?}");
    }
    // What stands before the first record is made from the log's id.
    let keys = client.get("/v1/log/keys").await.ok(200);
    let id = keys["log_id"].as_str().unwrap().as_bytes().chunks(2);
    let id = id.map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap());
    let genesis = sha2::Sha256::digest([b"kimberlite log", &id.collect::<Vec<_>>()[..]].concat());
    let first = client.get("/v1/records/0/leaf").await.body;
    assert_eq!(first[first.len() - 32..], genesis[..]);
    let early = checkpoint(&mut client, &key).await;
    append(&mut client, 10).await;
    client.get("/v1/events/309/proof").await;
    let late = checkpoint(&mut client, &key).await;
    assert_eq!((early.size, late.size), (300, 310));
    let proof = client.get("/v1/log/consistency?from=300&to=310").await.ok(200);
    assert_eq!(client.get("/v1/log/consistency?from=300").await.ok(200), proof);
    let hashes = proof["hashes"].as_array().unwrap().iter();
    let hashes: Vec<Hash> = hashes.map(|h| hash(h.as_str().unwrap())).collect();
    verify_consistency((300, early.root), (310, late.root), &hashes).unwrap();
    for (path, width) in [("0/000", 256), ("0/001.p/54", 54), ("0/001.p/3", 3), ("1/000.p/1", 1)] {
        let tile = client.get(&format!("/v1/log/tile/{path}")).await;
        assert_eq!(tile.header("content-type"), Some("application/octet-stream"), "{path}");
        assert_eq!(tile.body.len(), 32 * width, "{path}");
    }
    let first = client.get("/v1/log/tile/entries/000").await.body;
    let leaf = client.get("/v1/records/0/leaf").await.body;
    assert_eq!(first[..2], (leaf.len() as u16).to_be_bytes());
    assert_eq!(first[2..2 + leaf.len()], leaf);
}

#[tokio::test]
async fn a_receipt_comes_with_the_append_that_asks_for_it() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let key = vkey(&mut client).await;
    let body = r#"{"events":[{"type":"t"},{"type":"t"}]}"#;
    let kind = ("content-type", "application/json");
    for replay in [false, true] {
        let headers = [kind, ("prefer", "respond-async, return=receipt"), ("idempotency-key", "k")];
        let answer = client.send("POST", "/v1/streams/s/events", &headers, body).await;
        let receipt = answer.ok(if replay { 200 } else { 201 });
        assert_eq!(answer.header("preference-applied"), Some("return=receipt"));
        let proof = Receipt::parse(receipt["proof"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(proof.index, receipt["last_position"].as_u64().unwrap());
        proof.verify(hash(receipt["hash"].as_str().unwrap()), &key, &[]).unwrap();
    }
    let answer = client.send("POST", "/v1/streams/s/events", &[kind], body).await;
    assert!(answer.ok(201).get("proof").is_none());
    assert_eq!(answer.header("preference-applied"), None);
    let headers = [kind, ("prefer", "return=receipt")];
    let answer = client.send("POST", "/v1/transactions", &headers, r#"{"appends":[]}"#).await;
    answer.problem(400, "unsupported_header");
}

/// Puts a folder where the tree's first tile goes. The record that fills that tile is not signed as long as it is there.
fn no_tile(folder: &Path) -> std::path::PathBuf {
    let mark = std::fs::read_dir(folder.join("signed")).unwrap().next().unwrap().unwrap();
    let tenant = mark.file_name().into_string().unwrap();
    let tile = folder.join("tiles").join(format!("{tenant}.1"));
    std::fs::create_dir(&tile).unwrap();
    tile
}

#[tokio::test]
async fn what_no_checkpoint_covers_in_time_is_durable_and_proved_later() {
    let (server, folder) = server();
    let mut client = server.client().await;
    let key = vkey(&mut client).await;
    append(&mut client, 255).await;
    assert_eq!(client.get("/v1/events/254/proof").await.status, 200);
    let tile = no_tile(folder.path());
    let headers = [
        ("content-type", "application/json"),
        ("prefer", "return=receipt"),
        ("idempotency-key", "k"),
    ];
    // An answer that says anything else than what was done would have the events sent again.
    for status in [201, 200] {
        let asked = Instant::now();
        let body = r#"{"events":[{"type":"t"}]}"#;
        let answer = client.send("POST", "/v1/streams/s/events", &headers, body).await;
        assert!(WAITED.contains(&asked.elapsed()), "{:?}", asked.elapsed());
        let receipt = answer.ok(status);
        assert_eq!((&receipt["last_position"], receipt.get("proof")), (&json!(255), None));
        assert_eq!(answer.header("preference-applied"), None);
        assert_eq!(answer.header("location"), Some("/v1/events/255"));
    }
    let asked = Instant::now();
    let answer = client.get("/v1/events/255/proof").await;
    assert!(WAITED.contains(&asked.elapsed()), "{:?}", asked.elapsed());
    assert_eq!(answer.problem(503, "checkpoint_pending")["retryable"], true);
    assert_eq!(checkpoint(&mut client, &key).await.size, 255, "what was shown stays");
    assert_eq!(client.get("/v1/events/254/proof").await.status, 200);
    assert_eq!(client.pages("/v1/events?limit=1000").await.len(), 256, "once");
    std::fs::remove_dir(tile).unwrap();
    let proof = client.get("/v1/events/255/proof").await;
    let leaf = leaf_hash(&client.get("/v1/events/255/leaf").await.body);
    let covered = Receipt::parse(&proof.body).unwrap().verify(leaf, &key, &[]).unwrap();
    assert_eq!(covered.checkpoint.size, 256);
}

#[tokio::test]
async fn what_no_checkpoint_covers_is_refused_by_name() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    append(&mut client, 3).await;
    client.get("/v1/events/2/proof").await;
    for path in ["0/000", "0/000.p/4", "0/0.p/1", "1/000.p/1", "entries/001", "x", "64/000"] {
        client.get(&format!("/v1/log/tile/{path}")).await.problem(404, "tile_unknown");
    }
    for query in ["", "?from=", "?from=0", "?from=3&to=2", "?from=1&to=4", "?from=-1", "?from=1.0"]
    {
        let answer = client.get(&format!("/v1/log/consistency{query}")).await;
        answer.problem(400, "invalid_parameter");
    }
    client.get("/v1/log/checkpoint?a=1").await.problem(400, "unknown_parameter");
    client.get("/v1/records/3/proof").await.problem(404, "record_unknown");
    client.send("DELETE", "/v1/streams/s", &[], "").await;
    client.get("/v1/events/3/proof").await.problem(404, "record_unknown");
    assert_eq!(client.get("/v1/records/3/proof").await.status, 200);
}

#[tokio::test]
async fn keys_rotate_and_a_stop_and_a_kill_keep_what_was_shown() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut client = server.client().await;
    append(&mut client, 5).await;
    let old = vkey(&mut client).await;
    let proof = client.get("/v1/events/4/proof").await.body;
    let keys = client.send("POST", "/v1/log/keys", &[], "").await.ok(200);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert_eq!(keys["keys"][0]["vkey"], old.to_string());
    let new = vkey(&mut client).await;
    assert_ne!(old, new);
    let leaf = leaf_hash(&client.get("/v1/events/4/leaf").await.body);
    Receipt::parse(&proof).unwrap().verify(leaf, &old, &[]).unwrap();
    checkpoint(&mut client, &new).await;
    append(&mut client, 5).await;
    drop(client);
    server.stop();
    let server = Server::start(folder.path());
    let mut client = server.client().await;
    assert_eq!(checkpoint(&mut client, &new).await.size, 10, "signed before it stopped");
    append(&mut client, 1).await;
    client.get("/v1/events/10/proof").await;
    let shown = checkpoint(&mut client, &new).await;
    drop(client);
    server.kill();
    let server = Server::start(folder.path());
    let mut client = server.client().await;
    assert_eq!(checkpoint(&mut client, &new).await, shown);
    drop(client);
    server.stop();
    std::fs::remove_dir_all(folder.path().join("keys")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kimberlite"));
    let command = command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("this log was signed"), "{text}");
}
