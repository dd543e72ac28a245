use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Output, Stdio},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    command,
    fake::{Request, Server, json, problem},
    kimberlite_with, stderr, stdout, text,
};

/// A server of the real kind; killed, not stopped.
pub(super) struct Dev {
    child: Child,
    pub(super) url: String,
    /// It may go on writing.
    _out: BufReader<ChildStdout>,
}

impl Dev {
    pub(super) fn start(folder: &Path) -> Self {
        let mut child = command()
            .args(["dev", "--listen", "127.0.0.1:0", "--data", folder.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("http://127.0.0.1:") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "it ended early");
        }
        let address = line.split("http://").nth(1).unwrap().split_whitespace().next().unwrap();
        let url = format!("http://{}", address.trim_end_matches('/'));
        Self { child, url, _out: out }
    }

    pub(super) fn append(&self, stream: &str) {
        let arguments =
            ["--url", &self.url, "append", stream, "--type", "t", "--data", "{\"a\":1}"];
        stdout(&command().args(arguments).output().unwrap());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(super) fn verify(what: &str) -> Output {
    command().args(["verify", what]).output().unwrap()
}

pub(super) fn report(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_folder_is_whole_or_named_byte_by_byte_and_in_use_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let dev = Dev::start(folder.path());
    for stream in ["a", "b", "a"] {
        dev.append(stream);
    }
    assert!(stderr(&verify(data), 2).contains("in use by another process"));
    let shown = report(&verify(&dev.url), 0);
    assert_eq!((&shown["whole"], &shown["records"]), (&true.into(), &3.into()), "{shown}");
    // kill -9
    drop(dev);
    let whole = report(&verify(data), 0);
    assert_eq!((&whole["whole"], &whole["records"]), (&true.into(), &4.into()), "{whole}");
    let segment = folder.path().join("log/0000000000000001.segment");
    let mut bytes = fs::read(&segment).unwrap();
    let at = 4096 + 60;
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let damaged = report(&verify(data), 1);
    let finding = &damaged["findings"][0];
    assert_eq!(finding["place"], "log/0000000000000001.segment", "{damaged}");
    assert_eq!((&finding["kind"], &finding["offset"]), (&"damage".into(), &4096.into()));
    assert!(fs::read(&segment).unwrap() == bytes);
    let table = command().args(["--output", "table", "verify", data]).output().unwrap();
    assert!(stderr(&table, 1).contains("log/0000000000000001.segment at byte 4096"));
    assert!(text(&table.stdout).starts_with("DAMAGED: "), "{}", text(&table.stdout));
}

#[test]
fn what_cannot_be_checked_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    assert!(stderr(&verify(empty), 2).contains("no data folder"));
    assert!(stderr(&verify("http://127.0.0.1:1"), 2).contains("no answer"));
    assert!(stderr(&verify("https://127.0.0.1:1"), 2).contains("TLS"));
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    kimberlite_store::words::Hex(bytes).to_string()
}

/// Openings of three records that prove themselves.
pub(super) fn openings() -> Vec<Value> {
    let mut previous = vec![9; 32];
    let opening = |position: usize| {
        let (salt, data) = ([position as u8; 16], format!("\"data {position}\""));
        let commitment = sha256(&[&salt, data.as_bytes()].concat());
        let mut leaf = vec![1, 1, 0, 1];
        leaf.extend([position as u8; 32]);
        leaf.extend([4, 1, 0]);
        leaf.extend(&commitment);
        leaf.extend(&previous);
        previous = sha256(&[&[0], &leaf[..]].concat());
        serde_json::json!({
            "position": position, "leaf": hex(&leaf), "hash": hex(&previous),
            "payloads": [{"kind": "data", "commitment": hex(&commitment), "state": "clear",
                          "salt": hex(&salt), "json": data}],
        })
    };
    (0..3).map(opening).collect()
}

fn serve(openings: Vec<Value>) -> Server {
    let answer = move |_, request: &Request| {
        let position = request.line.strip_prefix("GET /v1/records/");
        match position.and_then(|p| p.strip_suffix("/opening")?.parse::<usize>().ok()) {
            Some(position) if openings[position].is_null() => {
                problem("500 Internal Server Error", "\"title\":\"Damaged\",\"retryable\":false")
            }
            Some(position) => json(&openings[position].to_string()),
            None => json("{\"events\":[],\"next\":null,\"head\":2}"),
        }
    };
    Server::start(answer)
}

fn damage(openings: Vec<Value>) -> Vec<(String, String)> {
    let server = serve(openings);
    let report = report(&verify(server.url()), 1);
    let findings = report["findings"].as_array().unwrap();
    let words = |f: &Value| (f["place"].to_string(), f["what"].to_string());
    findings.iter().map(words).collect()
}

#[test]
fn what_a_server_shows_is_checked_from_leaf_to_payload() {
    let server = serve(openings());
    let output = kimberlite_with(&server, &["verify", server.url()]);
    assert!(stdout(&output).contains("\"whole\":true"), "{}", text(&output.stdout));
    let change = |pointer: &str, value: Value| {
        let mut changed = openings();
        *changed[1].pointer_mut(pointer).unwrap() = value;
        damage(changed)
    };
    let other = hex(&[7; 32]);
    let leaf = openings()[2]["leaf"].clone();
    let cases = [
        ("/position", 5.into(), "it is the opening of position 5"),
        ("/leaf", "00".into(), "the leaf cannot be read"),
        ("/leaf", leaf, "the leaf does not have the hash"),
        ("/hash", other.as_str().into(), "the leaf does not have the hash"),
        ("/payloads/0/json", "\"data 2\"".into(), "does not match its commitment"),
        ("/payloads/0/salt", "00".into(), "does not match its commitment"),
        ("/payloads/0/commitment", other.as_str().into(), "not those that the leaf commits to"),
        ("/payloads/0/kind", "tags".into(), "not those that the leaf commits to"),
        ("/payloads/0/state", "erased".into(), "is not opened as its state says"),
        ("/payloads", Value::Array(Vec::new()), "not those that the leaf commits to"),
    ];
    for (pointer, value, what) in cases {
        let found = change(pointer, value);
        let named = |(place, says): &(String, String)| {
            place.contains("/v1/records/1/opening") && says.contains(what)
        };
        assert!(found.iter().any(named), "{pointer}: {found:?}");
    }
    // A record that proves itself, but is none of this chain.
    let mut swapped = openings();
    swapped[1] = swapped[0].clone();
    swapped[1]["position"] = 1.into();
    assert!(damage(swapped).iter().any(|(_, what)| what.contains("does not follow")));
    // What the server itself names does not end the walk.
    let mut refused = openings();
    refused[0] = Value::Null;
    refused[2]["payloads"][0]["json"] = "1".into();
    let found = damage(refused);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].0.contains("records/0") && found[1].0.contains("records/2"));
}
