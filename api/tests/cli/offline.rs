//! `verify receipt` and `verify event`: files that hold, and every way to spoil them.

use std::{fs, path::PathBuf, process::Output};

use kimberlite_store::{
    proof::{Checkpoint, CosignerKey, LogKey, Node, Receipt, inclusion, leaf_hash, subtree_root},
    words::Hash,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    command, stderr, text,
    verify::{event, hex, opening, openings, report, unhex},
};

const ORIGIN: &str = "log.example/t1";
const SEEN_S: u64 = 1_700_000_000;

/// A log of three records with a checkpoint, two witnesses who saw it, and files of what a server would answer.
struct Held {
    folder: TempDir,
    vkey: String,
    witnesses: [String; 2],
    leaf: Vec<u8>,
    receipt: Receipt,
    opening: Value,
    /// The record that names the opening's stream and type: only these payloads are opened.
    named_by: Value,
}

impl Held {
    fn new() -> Self {
        let mut openings = openings();
        let leaves: Vec<_> = openings.iter().map(|o| unhex(o["leaf"].as_str().unwrap())).collect();
        let hashes: Vec<_> = leaves.iter().map(|l| leaf_hash(l)).collect();
        let read = |node: Node| {
            let first = (node.index as usize) << node.level;
            Ok::<_, ()>(if node.level == 0 { hashes[first] } else { pair(&hashes[first..]) })
        };
        let root = subtree_root(0, 3, &mut { read }).unwrap();
        let log = LogKey::new(ORIGIN, &[1; 32]).unwrap();
        let witnesses = ["w1", "w2"].map(|w| CosignerKey::new(w, &[w.as_bytes()[1]; 32]).unwrap());
        let mut note = Checkpoint { origin: ORIGIN.to_owned(), size: 3, root }.sign(&log);
        for witness in &witnesses {
            note.add(witness.cosign(note.text(), SEEN_S));
        }
        let hashes = inclusion(1, 3, read).unwrap();
        let mut named_by = openings[0].clone();
        let first = inclusion(0, 3, read).unwrap();
        let first = Receipt { index: 0, hashes: first, checkpoint: note.clone(), extra: None };
        named_by["proof"] = first.to_string().into();
        for member in ["salt", "json"] {
            named_by["payloads"][2].as_object_mut().unwrap().remove(member);
        }
        Self {
            folder: tempfile::tempdir().unwrap(),
            vkey: log.verifier().to_string(),
            witnesses: witnesses.map(|w| w.verifier().to_string()),
            leaf: leaves[1].clone(),
            receipt: Receipt { index: 1, hashes, checkpoint: note, extra: None },
            opening: openings.swap_remove(1),
            named_by,
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path: PathBuf = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn hash(&self) -> String {
        leaf_hash(&self.leaf).to_string()
    }

    /// `verify receipt` of this text, with the leaf's hash and what else is given.
    fn receipt(&self, proof: &str, more: &[&str]) -> Output {
        let file = self.file("proof", proof.as_bytes());
        let hash = self.hash();
        let arguments = ["verify", "receipt", &file, "--vkey", &self.vkey, "--hash", &hash];
        command().args(arguments).args(more).output().unwrap()
    }

    fn both(&self) -> [&str; 4] {
        ["--witness", &self.witnesses[0], "--witness", &self.witnesses[1]]
    }

    fn event(&self, file: &Value, more: &[&str]) -> Output {
        let file = self.file("event.json", file.to_string().as_bytes());
        command().args(["verify", "event", &file]).args(more).output().unwrap()
    }

    /// The opening with its proof, its event, and the record that has its names beside it.
    fn whole(&self) -> Value {
        let mut whole = self.opening.clone();
        whole["proof"] = self.receipt.to_string().into();
        whole["event"] = event(&self.opening);
        whole["named_by"] = serde_json::json!([self.named_by]);
        whole
    }
}

fn pair(hashes: &[Hash]) -> Hash {
    subtree_root(0, 2, &mut |node: Node| match node.level {
        0 => Ok(hashes[node.index as usize]),
        _ => Ok::<_, ()>(Hash(
            <sha2::Sha256 as sha2::Digest>::digest(
                [&[1], hashes[0].0.as_slice(), &hashes[1].0].concat(),
            )
            .into(),
        )),
    })
    .unwrap()
}

/// Where and why a check failed.
fn found(output: &Output) -> Vec<(String, String)> {
    let report = report(output, 1);
    assert_eq!(report["whole"], false);
    let word = |f: &Value, name: &str| f[name].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|f| (word(f, "place"), word(f, "what"))).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

#[test]
fn a_receipt_holds_by_hash_by_leaf_and_as_an_append_answered_it() {
    let held = Held::new();
    let proof = held.receipt.to_string();
    let shown = report(&held.receipt(&proof, &held.both()), 0);
    assert_eq!((&shown["whole"], &shown["position"]), (&true.into(), &1.into()), "{shown}");
    assert_eq!(shown["checkpoint"]["origin"], ORIGIN);
    assert_eq!(shown["checkpoint"]["size"], 3);
    assert_eq!(shown["cosigned"][1]["witness"], "w2");
    assert_eq!(shown["cosigned"][1]["time"], "2023-11-14T22:13:20.000000Z");
    assert_eq!(shown["not_checked"], serde_json::json!([]));

    let (leaf, file) = (held.file("leaf", &held.leaf), held.file("proof", proof.as_bytes()));
    let arguments = ["verify", "receipt", &file, "--vkey", &held.vkey, "--leaf", &leaf];
    let shown = report(&command().args(arguments).output().unwrap(), 0);
    assert!(strings(&shown["not_checked"])[0].starts_with("cosignatures: "), "{shown}");

    let appended = serde_json::json!({
        "stream": "s", "first_version": 0, "last_version": 0, "first_position": 1,
        "last_position": 1, "time": "t", "hash": held.hash(), "proof": proof,
    });
    let run = |appended: &Value, more: &[&str]| {
        let file = held.file("receipt.json", appended.to_string().as_bytes());
        let arguments = ["verify", "receipt", &file, "--vkey", &held.vkey];
        command().args(arguments).args(more).output().unwrap()
    };
    report(&run(&appended, &[]), 0);
    let other = hex(&[7; 32]);
    let named = found(&run(&appended, &["--hash", &other]));
    assert_eq!(named[0].0, "hash", "{named:?}");
    let mut spoiled = appended.clone();
    spoiled["hash"] = other.into();
    assert_eq!(found(&run(&spoiled, &[]))[0].0, "proof");
    spoiled = appended.clone();
    spoiled["last_position"] = 2.into();
    assert_eq!(found(&run(&spoiled, &[])), [("proof".into(), "it is of position 1".into())]);
    spoiled.as_object_mut().unwrap().remove("proof");
    assert_eq!(found(&run(&spoiled, &[]))[0].0, "receipt");
}

#[test]
fn a_spoiled_receipt_says_where() {
    let held = Held::new();
    let good = held.receipt.to_string();
    let line = |n: usize| good.lines().nth(n).unwrap();
    let places = |proof: &str| {
        let found = found(&held.receipt(proof, &held.both()));
        found.into_iter().map(|(place, what)| format!("{place}: {what}")).collect::<Vec<_>>()
    };
    // One letter of base64 that stands for other bits.
    let flip = |line: &str, at: usize| {
        let other = if &line[at..=at] == "A" { "B" } else { "A" };
        good.replacen(line, &format!("{}{other}{}", &line[..at], &line[at + 1..]), 1)
    };
    assert_eq!(places(&flip(line(2), 5)), ["proof: the proof leads to another root"]);
    let index = good.replacen("index 1", "index 0", 1);
    assert_eq!(places(&index), ["proof: the proof leads to another root"]);
    let cut = good.replacen(&format!("{}\n", line(2)), "", 1);
    assert_eq!(places(&cut), ["proof: the proof has 1 hashes, not 2"]);
    assert_eq!(line(5), ORIGIN);
    let wrong = format!("checkpoint: the signature of {ORIGIN} does not hold");
    for spoiled in [flip(line(7), 0), flip(line(9), line(9).len() - 9)] {
        assert_eq!(places(&spoiled), [wrong.as_str()]);
    }
    assert_eq!(places(&good.replacen("\n3\n", "\n4\n", 1)), [wrong.as_str()]);
    let cosigned = flip(line(11), line(11).len() - 9);
    assert_eq!(places(&cosigned), ["cosignature: the signature of w2 does not hold"]);
    let missing = good.replacen(&format!("{}\n", line(11)), "", 1);
    assert_eq!(places(&missing), ["cosignature: 1 of 2 witnesses cosigned, not 2"]);
    let quorum = [held.both().as_slice(), &["--quorum", "1"]].concat();
    report(&held.receipt(&missing, &quorum), 0);
    assert!(places(&good[..100])[0].starts_with("proof: line 4 of the receipt is not "));

    // A replaced key of the same origin, and another log's.
    let run = |name: &str, seed: u8| {
        let other = LogKey::new(name, &[seed; 32]).unwrap().verifier().to_string();
        let file = held.file("proof", good.as_bytes());
        let hash = held.hash();
        let arguments = ["verify", "receipt", &file, "--vkey", &other, "--hash", &hash];
        found(&command().args(arguments).output().unwrap())
    };
    for (name, seed) in [(ORIGIN, 2), ("log.example/t2", 1)] {
        let unknown = "no signature is of a known key".to_owned();
        assert_eq!(run(name, seed), [("checkpoint".to_owned(), unknown)], "{name}");
    }
}

#[test]
fn an_event_is_held_against_leaf_payloads_and_log() {
    let held = Held::new();
    let whole = held.whole();
    let witnesses = held.both();
    let keys = [&["--vkey", held.vkey.as_str()], witnesses.as_slice()].concat();
    let shown = report(&held.event(&whole, &keys), 0);
    assert_eq!((&shown["whole"], &shown["position"]), (&true.into(), &1.into()), "{shown}");
    assert_eq!(strings(&shown["not_checked"]), [""; 0]);
    // Who does not keep the record that has the names is told so, and who keeps less of it.
    let unchecked = |pointer: &str, why: &str| {
        let mut less = whole.clone();
        let (holder, member) = pointer.rsplit_once('/').unwrap();
        let holder = less.pointer_mut(holder).unwrap();
        holder.as_object_mut().unwrap().remove(member).unwrap();
        let names = ["stream", "type"].map(|n| format!("event: its {n} stands in {why}"));
        let shown = report(&held.event(&less, &keys), 0);
        assert_eq!(strings(&shown["not_checked"]), names, "{pointer}");
    };
    unchecked("/named_by", "record 0, which is not in `named_by`");
    unchecked("/named_by/0/proof", "record 0, without a proof");

    let mut apart = whole.clone();
    let proof = apart["proof"].take();
    apart.as_object_mut().unwrap().remove("proof");
    let proof = held.file("apart", proof.as_str().unwrap().as_bytes());
    report(&held.event(&apart, &["--vkey", &held.vkey, "--proof", &proof]), 0);
    assert!(stderr(&held.event(&apart, &keys), 2).contains("--vkey needs a proof"));
    let alone = report(&held.event(&held.opening, &[]), 0);
    let unchecked = strings(&alone["not_checked"]);
    assert!(unchecked.iter().any(|what| what.starts_with("log: without --vkey")), "{alone}");
    assert!(unchecked.iter().any(|what| what.starts_with("event: ")), "{alone}");
}

#[test]
fn a_spoiled_event_says_where() {
    let held = Held::new();
    let key = ["--vkey", held.vkey.as_str()];
    let other: Value = hex(&[7; 32]).into();
    let moved = openings()[2]["leaf"].clone();
    let moved_proof = whole_proof(&held);
    let cases: [(&str, Value, &str, &str); 30] = [
        ("/leaf", "00".into(), "opening", "the leaf cannot be read"),
        ("/leaf", "é".into(), "opening", "the leaf cannot be read"),
        ("/leaf", moved.clone(), "opening", "does not have the hash that is shown"),
        ("/leaf", moved, "proof", "another root"),
        ("/hash", other.clone(), "opening", "does not have the hash that is shown"),
        ("/position", 2.into(), "proof", "it is of position 1"),
        ("/payloads/0/json", "\"data 2\"".into(), "opening", "does not match its commitment"),
        ("/payloads/0/salt", "00".into(), "opening", "does not match its commitment"),
        ("/payloads/0/commitment", other.clone(), "opening", "not those that the leaf commits"),
        ("/payloads", Value::Array(Vec::new()), "opening", "not those that the leaf commits"),
        ("/payloads/0/state", "erased".into(), "opening", "not opened as its state says"),
        ("/event/data", "data 2".into(), "event", "its data is not what the leaf commits to"),
        ("/event/tags", serde_json::json!(["a"]), "event", "its tags is not what"),
        ("/event/metadata", 1.into(), "event", "its metadata is not what"),
        ("/event/id", "other".into(), "event", "its id is not the leaf's"),
        ("/event/time", "2026-01-01T00:00:00.000000Z".into(), "event", "its time is not"),
        ("/event/hash", other.clone(), "event", "its hash is not the leaf's"),
        ("/event/cursor", "1.00000000".into(), "event", "its cursor is not the leaf's"),
        ("/event/subjects", serde_json::json!(["anyone"]), "event", "its subjects are not"),
        ("/event/stream", "other".into(), "event", "its stream is not the one that the leaf"),
        ("/event/type", "other".into(), "event", "its type is not the one that the leaf"),
        ("/event/version", 1.5.into(), "event", "its version is not the leaf's"),
        ("/names/0/position", 1.into(), "opening", "record 1, which is to have its stream, is not"),
        ("/names", serde_json::json!([]), "opening", "the names are not those that stand in"),
        ("/named_by/0/position", 2.into(), "named_by", "record 2: its proof is of position 0"),
        ("/named_by/0/payloads/0/json", "\"x\"".into(), "named_by", "stream does not match its"),
        ("/named_by/0/payloads/2/commitment", other.clone(), "named_by", "not those that the leaf"),
        ("/named_by/0/hash", other, "named_by", "record 0: the leaf does not have the hash"),
        ("/named_by/0/proof", moved_proof, "named_by", "record 0: its proof is of position 1"),
        ("/named_by/0/state", "clear".into(), "opening", "unknown field `state`"),
    ];
    for (pointer, value, place, what) in cases {
        let mut spoiled = held.whole();
        let (holder, member) = pointer.rsplit_once('/').unwrap();
        let holder = spoiled.pointer_mut(holder).unwrap();
        match holder {
            Value::Array(items) => items[member.parse::<usize>().unwrap()] = value,
            object => object[member] = value,
        }
        let found = found(&held.event(&spoiled, &key));
        let named = |(at, why): &(String, String)| at == place && why.contains(what);
        assert!(found.iter().any(named), "{pointer}: {found:?}");
    }
    let mut none = held.whole();
    none.as_object_mut().unwrap().remove("leaf");
    assert_eq!(found(&held.event(&none, &key))[0].0, "opening");
    // Whitespace is no difference, a digit that a careless reader drops is one.
    let file = held.whole().to_string();
    let spaced =
        held.file("spaced.json", file.replacen(":\"data 1\"", " : \"data 1\" ", 1).as_bytes());
    report(&command().args(["verify", "event", &spaced]).output().unwrap(), 0);
    let escaped = file.replacen("\"data\":\"data 1\"", "\"data\":\"data\\u00201\"", 1);
    let escaped = held.file("escaped.json", escaped.as_bytes());
    let output = command().args(["verify", "event", &escaped]).output().unwrap();
    assert_eq!(found(&output)[0].0, "event");
}

fn whole_proof(held: &Held) -> Value {
    held.receipt.to_string().into()
}

#[test]
fn an_event_has_the_members_of_an_event_each_once_and_written_as_they_were() {
    let held = Held::new();
    let whole = held.whole().to_string();
    let run = |text: &str| {
        let file = held.file("members.json", text.as_bytes());
        command().args(["verify", "event", &file, "--vkey", &held.vkey]).output().unwrap()
    };
    report(&run(&whole), 0);
    let twice = "once too often, or none of an event's";
    for (from, to, place, what) in [
        ("\"tags\":[]", "\"tags\":[],\"more\":1", "event", twice),
        ("\"tags\":[]", "\"tags\":[],\"tags\":[\"a\"]", "event", twice),
        ("\"tags\":[]", "\"tags\":[],\"erased\":true", "event", twice),
        ("\"tags\":[]", "\"tags\":[],\"stream_deleted\":false", "event", twice),
        (",\"tags\":[]", "", "event", "its tags is not what the leaf commits to"),
        ("\"metadata\":null,", "", "event", "its metadata is not what the leaf commits to"),
        ("\"subjects\":[]", "\"subjects\":null", "event", "its subjects are not the leaf's"),
        ("\"event\":", "\"event\":{},\"event\":", "opening", "duplicate field `event`"),
        ("\"event\":", "\"events\":", "opening", "unknown field `events`"),
        ("\"salt\":", "\"more\":1,\"salt\":", "opening", "unknown field `more`"),
    ] {
        let changed = whole.replacen(from, to, 1);
        assert_ne!(changed, whole, "{from}");
        let found = found(&run(&changed));
        let named = |(at, why): &(String, String)| at == place && why.contains(what);
        assert!(found.iter().any(named), "{to}: {found:?}");
    }
    let deleted = whole.replacen("\"tags\":[]", "\"tags\":[],\"stream_deleted\":true", 1);
    let shown = report(&run(&deleted), 0);
    let later = "event: that its stream was deleted stands in a later record";
    assert_eq!(strings(&shown["not_checked"])[1..], [later], "{shown}");
}

#[test]
fn names_come_from_a_record_with_the_same_reference_under_the_same_checkpoint() {
    let held = Held::new();
    let place = |named_by: Value, keys: &[&str]| {
        let mut whole = held.whole();
        whole["named_by"] = named_by;
        found(&held.event(&whole, keys))
    };
    let wrong = |what: &str| vec![("named_by".to_owned(), what.to_owned())];
    let key = ["--vkey", held.vkey.as_str()];
    // Another stream's name, from a record that proves itself.
    let names = [(1, "stream", "\"other\""), (2, "type", "\"t\"")];
    let other = opening(0, [6, 8], &names, &hex(&[0; 32]));
    let another = "record 0: its stream is another one than the event's";
    assert_eq!(place(serde_json::json!([other]), &[]), wrong(another));
    let mut foreign = other.clone();
    foreign["proof"] = held.named_by["proof"].clone();
    let found = place(serde_json::json!([foreign]), &key);
    assert_eq!(found, wrong("record 0: the proof leads to another root"));
    // A record that has no name, and one that nobody asked for.
    let nameless = opening(0, [7, 8], &[(4, "data", "1")], &hex(&[0; 32]));
    let mut nameless = nameless.clone();
    nameless["names"] = Value::Null;
    let found = place(serde_json::json!([nameless]), &[]);
    assert_eq!(found[0], wrong("record 0: it does not name a stream")[0]);
    let mut unasked = held.named_by.clone();
    unasked["position"] = 5.into();
    let found = place(serde_json::json!([held.named_by, unasked]), &[]);
    assert_eq!(found, wrong("record 5: it names nothing of the event"));
    // Another checkpoint of the same log, though the names stand under it too.
    let mut later = held.named_by.clone();
    let (front, _) = later["proof"].as_str().unwrap().split_once("\n\n").unwrap();
    let mut note = held.receipt.checkpoint.clone();
    let witness = CosignerKey::new("w3", &[3; 32]).unwrap();
    note.add(witness.cosign(note.text(), SEEN_S));
    later["proof"] = format!("{front}\n\n{note}").into();
    let found = place(serde_json::json!([later]), &key);
    assert_eq!(found, wrong("record 0: its proof ends in another checkpoint than the event's"));
}

#[test]
fn what_is_gone_is_said_and_nothing_else_is_taken_for_gone() {
    let held = Held::new();
    let key = ["--vkey", held.vkey.as_str()];
    for state in ["erased", "expired"] {
        let mut whole = held.whole();
        let payload = whole["payloads"][0].as_object_mut().unwrap();
        payload.insert("state".into(), state.into());
        payload.retain(|member, _| !["salt", "json"].contains(&member.as_str()));
        whole["event"]["data"] = Value::Null;
        let shown = report(&held.event(&whole, &key), 0);
        assert_eq!(strings(&shown["not_checked"])[0], "payload data: it is gone", "{shown}");
        whole["event"][state] = true.into();
        report(&held.event(&whole, &key), 0);
        let other = if state == "erased" { "expired" } else { "erased" };
        for (member, value, what) in [
            (other, true.into(), "once too often, or none of an event's"),
            (state, 1.into(), "once too often, or none of an event's"),
            ("data", "data 1".into(), "its data is not what the leaf commits to"),
            ("metadata", 1.into(), "its metadata is not what the leaf commits to"),
        ] {
            let mut changed = whole.clone();
            changed["event"][member] = value;
            let found = found(&held.event(&changed, &key));
            assert!(found[0].1.contains(what), "{state}, {member}: {found:?}");
        }
    }
}

#[test]
fn what_cannot_be_asked_exits_with_2() {
    let held = Held::new();
    let file = held.file("proof", held.receipt.to_string().as_bytes());
    let run = |arguments: &[&str]| command().arg("verify").args(arguments).output().unwrap();
    let (vkey, witness) = (held.vkey.as_str(), held.witnesses[0].as_str());
    let cases: [(&[&str], &str); 8] = [
        (&["receipt", &file], "--vkey"),
        (&["receipt", &file, "--vkey", vkey], "name the record by --leaf or --hash"),
        (&["receipt", "/nowhere", "--vkey", vkey], "/nowhere cannot be read"),
        (&["receipt", &file, "--vkey", "x"], "a verifier key is"),
        (&["receipt", &file, "--vkey", witness], "a witness's key, not a log's"),
        (&["receipt", &file, "--vkey", vkey, "--witness", vkey], "a log's key, not a witness's"),
        (&["receipt", &file, "--vkey", vkey, "--hash", "00"], "64 hexadecimal digits"),
        (&["folder", "receipt", &file, "--vkey", vkey], "either a folder or a URL"),
    ];
    for (arguments, says) in cases {
        let output = run(arguments);
        assert!(stderr(&output, 2).contains(says), "{arguments:?}: {}", text(&output.stderr));
    }
    let hash = held.hash();
    let arguments = ["--output", "table", "receipt", &file, "--vkey", vkey, "--hash", &hash];
    let table = run(&arguments);
    assert!(text(&table.stdout).ends_with("record 1 of log.example/t1, at size 3\nwhole\n"));
}
