use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Output, Stdio},
};

use kimberlite_store::words::Timestamp;
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
fn the_log_alone_is_whole_where_only_the_index_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let dev = Dev::start(folder.path());
    dev.append("a");
    drop(dev);
    fs::write(folder.path().join("index/names"), [7; 512]).unwrap();
    let damaged = report(&verify(data), 1);
    assert_eq!(damaged["findings"][0]["place"], "index/names", "{damaged}");
    let alone = || command().args(["verify", data, "--log-only"]).output().unwrap();
    let whole = report(&alone(), 0);
    assert_eq!((&whole["records"], &whole["index_parts"]), (&2.into(), &0.into()), "{whole}");
    let segment = folder.path().join("log/0000000000000001.segment");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096 + 60] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    assert_eq!(report(&alone(), 1)["findings"][0]["offset"], 4096);
    let server = command().args(["verify", "--log-only", "http://127.0.0.1:1"]).output().unwrap();
    assert!(stderr(&server, 2).contains("a data folder"));
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

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|d| std::str::from_utf8(d).unwrap());
    digits.map(|d| u8::from_str_radix(d, 16).unwrap()).collect()
}

/// The log's id.
pub(super) const LOG_ID: [u8; 16] = [9; 16];

/// The opening of an event of the stream and type with these references, behind a record with hash `previous`.
pub(super) fn opening(
    position: u8,
    references: [u8; 2],
    payloads: &[(u8, &str, &str)],
    previous: &str,
) -> Value {
    let mut leaf = vec![1, 1, 2, u8::try_from(payloads.len()).unwrap()];
    leaf.extend([position; 16]);
    // Its version and its time, of which each tells it from others.
    leaf.extend([32, 40].map(|bits| (u64::from(position) << bits).to_le_bytes()).concat());
    for (role, reference) in [1, 2].into_iter().zip(references) {
        leaf.push(role);
        leaf.extend([reference; 16]);
    }
    let mut shown = Vec::new();
    for (number, kind, json) in payloads {
        let salt = [16 * position + number; 16];
        let commitment = sha256(&[&salt, json.as_bytes()].concat());
        leaf.extend([*number, 1, 0]);
        leaf.extend(&commitment);
        shown.push(serde_json::json!({
            "kind": kind, "commitment": hex(&commitment), "state": "clear", "salt": hex(&salt),
            "json": json,
        }));
    }
    leaf.extend(unhex(previous));
    let named = |kind: &&str| !payloads.iter().any(|(_, own, _)| own == kind);
    let names = ["stream", "type"].into_iter().filter(named);
    let names = names.map(|kind| serde_json::json!({"kind": kind, "position": 0}));
    serde_json::json!({
        "position": position, "leaf": hex(&leaf), "hash": hex(&sha256(&[&[0], &leaf[..]].concat())),
        "payloads": shown, "names": names.collect::<Vec<_>>(),
    })
}

/// Openings of a log of three records that prove themselves. The first one names stream and type.
pub(super) fn openings() -> Vec<Value> {
    let mut previous = hex(&sha256(&[&b"kimberlite log"[..], &LOG_ID].concat()));
    let opening = |position: u8| {
        let data = format!("\"data {position}\"");
        let names = [(1, "stream", "\"s\""), (2, "type", "\"t\"")];
        let names = if position == 0 { &names[..] } else { &[] };
        let payloads = [names, &[(4, "data", data.as_str())]].concat();
        let opening = opening(position, [7, 8], &payloads, &previous);
        opening["hash"].as_str().unwrap().clone_into(&mut previous);
        opening
    };
    (0..3).map(opening).collect()
}

/// The event that a server shows of one of them.
pub(super) fn event(opening: &Value) -> Value {
    let leaf = unhex(opening["leaf"].as_str().unwrap());
    let number = |at: usize| u64::from_le_bytes(leaf[at..at + 8].try_into().unwrap());
    let time = Timestamp::from_micros(i64::try_from(number(28)).unwrap()).unwrap();
    let data = opening["payloads"].as_array().unwrap().iter().find(|p| p["kind"] == "data");
    let data = data.and_then(|data| data["json"].as_str()).unwrap_or("null");
    let hash = opening["hash"].as_str().unwrap();
    let id = uuid::Uuid::from_slice(&leaf[4..20]).unwrap();
    serde_json::json!({
        "position": opening["position"], "cursor": format!("{}.{}", opening["position"], &hash[..8]),
        "stream": "s", "version": number(20), "id": id.to_string(),
        "type": "t", "time": time.to_string(), "occurred_at": null,
        "data": serde_json::from_str::<Value>(data).unwrap(), "metadata": null, "subjects": [],
        "tags": [], "hash": hash,
    })
}

/// A server that shows these openings, none where it knows that a record is damaged, and these events.
fn serve(openings: Vec<Value>, events: Vec<Value>) -> Server {
    let answer = move |_, request: &Request| {
        let path = request.line.strip_prefix("GET /v1/").unwrap();
        if let Some(position) = path.strip_prefix("events/") {
            return json(&events[position.parse::<usize>().unwrap()].to_string());
        }
        let position = path.strip_prefix("records/");
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

fn events() -> Vec<Value> {
    openings().iter().map(event).collect()
}

fn damage(openings: Vec<Value>) -> Vec<(String, String)> {
    damage_of(openings, events())
}

fn damage_of(openings: Vec<Value>, events: Vec<Value>) -> Vec<(String, String)> {
    let server = serve(openings, events);
    let report = report(&verify(server.url()), 1);
    let findings = report["findings"].as_array().unwrap();
    let words = |f: &Value| (f["place"].to_string(), f["what"].to_string());
    findings.iter().map(words).collect()
}

#[test]
fn what_a_server_shows_is_checked_from_leaf_to_payload() {
    let server = serve(openings(), events());
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
    let places = found.iter().map(|(place, _)| place.trim_matches('"'));
    let expected = ["/v1/records/0/opening", "/v1/records/2/opening", "/v1/events/2"];
    assert_eq!(places.collect::<Vec<_>>(), expected, "{found:?}");
}

#[test]
fn every_event_that_a_server_shows_is_held_against_its_record_and_the_records_that_name_it() {
    for (member, value, what) in [
        ("stream", "other".into(), "its stream is not the one that the leaf refers to"),
        ("type", "other".into(), "its type is not the one that the leaf refers to"),
        ("data", 1.into(), "its data is not what the leaf commits to"),
        ("cursor", "2.00000000".into(), "its cursor is not the leaf's"),
        ("subjects", serde_json::json!(["anyone"]), "its subjects are not the leaf's"),
        ("more", Value::Null, "its member more is once too often, or none of an event's"),
        ("erased", true.into(), "its member erased is once too often, or none of an event's"),
    ] {
        let mut changed = events();
        changed[2][member] = value;
        let found = damage_of(openings(), changed);
        let [(place, says)] = &found[..] else { panic!("{member}: {found:?}") };
        assert_eq!(place, "\"/v1/events/2\"");
        assert!(says.contains(what), "{member}: {says}");
    }
    // Where names stand: one that is said to stand elsewhere, one that stands nowhere, one that stands there twice.
    let change = |at: usize, pointer: &str, value: Value, what: &str| {
        let mut changed = openings();
        *changed[at].pointer_mut(pointer).unwrap() = value;
        let found = damage(changed);
        assert!(found.iter().any(|(_, says)| says.contains(what)), "{pointer}: {found:?}");
    };
    let elsewhere = "its stream is said to stand in record 1, not 0";
    change(2, "/names/0/position", 1.into(), elsewhere);
    change(
        1,
        "/names/0/position",
        1.into(),
        "record 1, which is to have its stream, is not earlier",
    );
    change(1, "/names", Value::Array(Vec::new()), "the names are not those that stand in earlier");
    let log = openings();
    let hash = |opening: &Value| opening["hash"].as_str().unwrap().to_owned();
    let (data, stream) = ((4, "data", "1"), (1, "stream", "\"s\""));
    let unnamed = opening(2, [7, 5], &[data], &hash(&log[1]));
    let anew = opening(2, [7, 8], &[stream, data], &hash(&log[1]));
    for (third, what) in [
        (unnamed, "no record before it names its type"),
        (anew, "it names its stream anew, which record 0 named"),
    ] {
        let shown = event(&third);
        let found = damage_of([&log[..2], &[third]].concat(), [&events()[..2], &[shown]].concat());
        let named = |(place, says): &(String, String)| {
            place == "\"/v1/records/2/opening\"" && says.contains(what)
        };
        assert!(found.iter().any(named), "{found:?}");
    }
}

#[test]
fn the_first_record_is_the_first_of_the_log_whose_id_is_given() {
    let server = serve(openings(), events());
    let run = |id: &str| command().args(["verify", server.url(), "--log-id", id]).output().unwrap();
    assert_eq!(report(&run(&hex(&LOG_ID)), 0)["whole"], true);
    for at in 0..LOG_ID.len() {
        let mut other = LOG_ID;
        other[at] ^= 1;
        let report = report(&run(&hex(&other)), 1);
        let finding = &report["findings"][0];
        assert_eq!(finding["place"], "/v1/records/0/opening", "{report}");
        assert_eq!(finding["what"], "it is not the first record of the log with this id");
    }
    assert!(stderr(&run("00"), 2).contains("32 hexadecimal digits"));
    let folder = command().args(["verify", ".", "--log-id", &hex(&LOG_ID)]).output().unwrap();
    assert!(stderr(&folder, 2).contains("name the server's URL"));
}
