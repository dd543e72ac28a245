//! `verify URL --vkey`: what a server shows, against what the log's keys signed, now and before.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use kimberlite_store::{
    proof::{Checkpoint, CosignerKey, LogKey, Note, Tree},
    words::Hash,
};
use serde_json::Value;

use super::{
    command,
    fake::{Request, Server, answer, json, problem},
    stderr, stdout, text,
    verify::{Dev, event, hex, openings, report, unhex},
};

const ORIGIN: &str = "log.example/t1";

fn key(seed: u8) -> LogKey {
    LogKey::new(ORIGIN, &[seed; 32]).unwrap()
}

fn hash(opening: &Value) -> Hash {
    Hash(unhex(opening["hash"].as_str().unwrap()).try_into().unwrap())
}

/// What the log's key signs of its first records.
fn signed(openings: &[Value], key: &LogKey) -> Note {
    let mut tree = Tree::default();
    for opening in openings {
        tree.push(hash(opening));
    }
    let origin = ORIGIN.to_owned();
    Checkpoint { origin, size: tree.size(), root: tree.root() }.sign(key)
}

/// A server that shows these records and this checkpoint.
fn serve(openings: Vec<Value>, note: &str) -> Server {
    let note = note.to_owned();
    let head = serde_json::json!({"events": [], "next": null, "head": openings.len() - 1});
    let events: Vec<_> = openings.iter().map(|o| (!o.is_null()).then(|| event(o))).collect();
    Server::start(move |_, request: &Request| {
        if let Some(position) = request.line.strip_prefix("GET /v1/events/") {
            let event = &events[position.parse::<usize>().unwrap()];
            return json(&event.as_ref().unwrap().to_string());
        }
        let position = request.line.strip_prefix("GET /v1/records/");
        match position.and_then(|p| p.strip_suffix("/opening")?.parse::<usize>().ok()) {
            Some(position) if openings[position].is_null() => {
                problem("500 Internal Server Error", "\"title\":\"Damaged\",\"retryable\":false")
            }
            Some(position) => json(&openings[position].to_string()),
            None if request.line.contains("checkpoint") => answer("200 OK", "text/plain", &note),
            None => json(&head.to_string()),
        }
    })
}

/// Verifies against the key, and a checkpoint of before where there is one.
fn check(server: &str, vkeys: &[String], held: Option<&str>, code: i32) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let mut run = command();
    run.args(["verify", server]);
    for vkey in vkeys {
        run.args(["--vkey", vkey]);
    }
    if let Some(note) = held {
        fs::write(folder.path().join("held"), note).unwrap();
        run.current_dir(folder.path()).args(["--checkpoint", "held"]);
    }
    report(&run.output().unwrap(), code)
}

pub(super) fn findings(report: &Value) -> Vec<(&str, &str)> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|f| (f["place"].as_str().unwrap(), f["what"].as_str().unwrap())).collect()
}

pub(super) fn get(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

pub(super) fn vkeys(url: &str) -> Vec<String> {
    let keys: Value = serde_json::from_str(&get(url, "/v1/log/keys")).unwrap();
    let keys = keys["keys"].as_array().unwrap().iter();
    keys.map(|key| key["vkey"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_running_server_is_what_its_keys_signed_now_and_before() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let append = |count| {
        (0..count).for_each(|_| dev.append("s"));
        let head: Value = serde_json::from_str(&get(&dev.url, "/v1/events?limit=1")).unwrap();
        get(&dev.url, &format!("/v1/records/{}/proof", head["head"]));
        get(&dev.url, "/v1/log/checkpoint")
    };
    let early = append(3);
    let old = vkeys(&dev.url);
    stdout(&command().args(["--url", &dev.url, "keys", "--rotate"]).output().unwrap());
    let late = append(2);
    let keys = vkeys(&dev.url);
    assert_eq!((old.len(), keys.len()), (1, 2));
    for (held, checkpoints) in [(None, 1), (Some(&early), 2), (Some(&late), 2)] {
        let shown = check(&dev.url, &keys, held.map(String::as_str), 0);
        assert_eq!((&shown["checkpoints"], &shown["records"]), (&checkpoints.into(), &5.into()));
    }
    let replaced = check(&dev.url, &old, Some(&early), 1);
    let [(place, _)] = findings(&replaced)[..] else { panic!("{replaced}") };
    assert_eq!(place, "/v1/log/checkpoint", "its newest is of a key that was not given");
    let table = ["--output", "table", "verify", &dev.url, "--vkey", &keys[1]];
    let table = command().args(table).output().unwrap();
    assert!(stdout(&table).contains("5 records, 1 signed checkpoints of them"), "{table:?}");
}

/// The origin of a checkpoint.
fn origin(note: &str) -> &str {
    note.lines().next().unwrap()
}

#[test]
fn a_log_restored_below_its_checkpoint_is_told_from_the_first() {
    let place = tempfile::tempdir().unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (first, backup, again) =
        (place.path().join("first"), place.path().join("backup"), place.path().join("again"));
    let dev = Dev::start(&first);
    let signed = |dev: &Dev, head: u64| {
        dev.append("s");
        get(&dev.url, &format!("/v1/records/{head}/proof"));
        get(&dev.url, "/v1/log/checkpoint")
    };
    let kept = signed(&dev, 0);
    stdout(&command().args(["--url", &dev.url, "backup", &path(&backup)]).output().unwrap());
    signed(&dev, 1);
    let lost = signed(&dev, 2);
    let old = vkeys(&dev.url);
    drop(dev);
    let restored = ["restore", &path(&backup), "--data", &path(&again)];
    stdout(&command().args(restored).output().unwrap());
    copy(&first.join("keys"), &again.join("keys"));
    let dev = Dev::start(&again);
    // The fork is recorded at position 1, where another record stood.
    let grown = signed(&dev, 2);
    let keys = vkeys(&dev.url);
    assert_eq!((origin(&kept), keys.len(), &keys[0]), (origin(&lost), 2, &old[0]));
    assert!(origin(&grown).starts_with(&format!("{}/fork-1-", origin(&kept))), "{grown}");
    // What was kept is in both; what was lost is not taken for this log's.
    check(&dev.url, &keys, Some(&kept), 0);
    let told = check(&dev.url, &keys, Some(&lost), 1);
    assert_eq!(findings(&told), [("held", "the first 3 records are not those of it")]);
    let told = check(&dev.url, &old, Some(&kept), 1);
    assert_eq!(findings(&told)[0].0, "/v1/log/checkpoint", "the old key signs no more");
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.unwrap(), to.to_owned());
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_log_that_is_cut_forked_or_set_back_is_named() {
    let vkey = [key(1).verifier().to_string()];
    let all = openings();
    let (held, shown) = (signed(&all, &key(1)).to_string(), signed(&all, &key(1)).to_string());
    let before = signed(&all[..2], &key(1)).to_string();
    let whole = serve(all.clone(), &shown);
    for held in [&held, &before] {
        let report = check(whole.url(), &vkey, Some(held), 0);
        assert_eq!(report["checkpoints"], 2, "{report}");
    }
    // The same length, another last record; it proves itself, and so does its checkpoint.
    let mut forked = all.clone();
    forked[2] = other(&all[2]);
    let fork = signed(&forked, &key(1)).to_string();
    let newer = "it is of 2 records, an older one than held of 3";
    let cut = "it is of 3 records, of which 2 are there";
    let root = "the first 3 records are not those of it";
    let key_of = "no signature is of a known key";
    // One that proves itself too, signed as well, but made behind another record: it is from another log.
    let mut moved = all.clone();
    moved[2] = behind(&all[2], &[5; 32]);
    let foreign = signed(&moved, &key(1)).to_string();
    let chain = "the leaf does not follow the record before";
    let checkpoint = "/v1/log/checkpoint";
    let stranger = signed(&all, &key(2)).to_string();
    for (what, shows, note, expected) in [
        ("cut", &all[..2], &before, vec![(checkpoint, newer), ("held", cut)]),
        ("cut behind its back", &all[..2], &shown, vec![(checkpoint, cut), ("held", cut)]),
        ("an old checkpoint", &all[..], &before, vec![(checkpoint, newer)]),
        ("forked", &forked[..], &fork, vec![("held", root)]),
        ("changed", &forked[..], &shown, vec![(checkpoint, root), ("held", root)]),
        ("moved", &moved[..], &foreign, vec![("/v1/records/2/opening", chain), ("held", root)]),
        ("a replaced key", &all[..], &stranger, vec![(checkpoint, key_of)]),
    ] {
        let report = check(serve(shows.to_vec(), note).url(), &vkey, Some(&held), 1);
        assert_eq!(findings(&report), expected, "{what}");
    }
    // Behind a record that cannot be read nothing is compared, and that is said.
    let mut lost = all.clone();
    lost[0] = Value::Null;
    let report = check(serve(lost, &shown).url(), &vkey, None, 1);
    assert_eq!((&report["checkpoints"], &report["notes"]), (&0.into(), &1.into()), "{report}");
}

/// A record that proves itself as well as this one, and follows the same record.
fn other(opening: &Value) -> Value {
    let leaf = opening["leaf"].as_str().unwrap();
    // The first byte of the record's id, behind version, kind and two counts.
    with_leaf(opening, format!("{}ff{}", &leaf[..8], &leaf[10..]))
}

/// The same record behind another one.
fn behind(opening: &Value, previous: &[u8; 32]) -> Value {
    let leaf = opening["leaf"].as_str().unwrap();
    with_leaf(opening, format!("{}{}", &leaf[..leaf.len() - 64], hex(previous)))
}

fn with_leaf(opening: &Value, changed: String) -> Value {
    let mut other = opening.clone();
    other["hash"] = hex(&kimberlite_store::proof::leaf_hash(&unhex(&changed)).0).into();
    other["leaf"] = changed.into();
    other
}

#[test]
fn every_byte_of_a_held_checkpoint_counts() {
    let vkey = [key(1).verifier().to_string()];
    let note = signed(&openings(), &key(1)).to_string();
    let server = serve(openings(), &note);
    for at in 0..note.len() {
        let mut bytes = note.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        let report = check(server.url(), &vkey, Some(&changed), 1);
        assert_eq!(findings(&report)[0].0, "held", "byte {at}");
    }
}

#[test]
fn keys_need_a_checkpoint_and_checkpoints_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let vkey = key(1).verifier().to_string();
    let run = |arguments: &[&str]| command().args(arguments).output().unwrap();
    assert!(stderr(&run(&["verify", path, "--vkey", &vkey]), 2).contains("--checkpoint"));
    assert!(
        stderr(&run(&["verify", "http://127.0.0.1:1", "--checkpoint", "f"]), 2).contains("--vkey")
    );
    let missing = ["verify", "http://127.0.0.1:1", "--vkey", &vkey, "--checkpoint", "/none"];
    let missing = run(&missing);
    assert!(stderr(&missing, 2).contains("/none cannot be read"), "{}", text(&missing.stderr));
}

#[test]
fn witnesses_who_must_have_cosigned_are_looked_for_on_each_checkpoint() {
    let vkey = key(1).verifier().to_string();
    let witnesses = [1, 2].map(|seed| CosignerKey::new("w", &[seed; 32]).unwrap());
    let all = openings();
    let cosigned = |count: usize| {
        let mut note = signed(&all, &key(1));
        for witness in &witnesses[..count] {
            note.add(witness.cosign(note.text(), 1_700_000_000));
        }
        note.to_string()
    };
    let run = |shown: &str, held: &str, more: &[&str], code: i32| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("held"), held).unwrap();
        let server = serve(all.clone(), shown);
        let mut run = command();
        run.args(["verify", server.url(), "--vkey", &vkey, "--checkpoint", "held"]);
        for witness in &witnesses {
            run.args(["--witness", &witness.verifier().to_string()]);
        }
        let report = report(&run.args(more).current_dir(folder.path()).output().unwrap(), code);
        let asked = server.requests().into_iter().find(|r| r.line.contains("checkpoint")).unwrap();
        (report, asked.line)
    };
    let (report, asked) = run(&cosigned(2), &cosigned(2), &[], 0);
    assert_eq!(report["checkpoints"], 2, "{report}");
    assert_eq!(asked, "GET /v1/log/checkpoint?cosigned=2");
    run(&cosigned(1), &cosigned(2), &["--quorum", "1"], 0);
    let few = "1 of 2 witnesses cosigned, not 2";
    let (report, _) = run(&cosigned(2), &cosigned(1), &[], 1);
    assert_eq!(findings(&report), [("held", few)]);
    let (report, _) = run(&cosigned(1), &cosigned(2), &[], 1);
    assert_eq!(findings(&report), [("/v1/log/checkpoint", few)]);
    // Each byte of the cosignatures, also of one that is not needed.
    let whole = cosigned(2);
    for at in whole.find("\u{2014} w ").unwrap()..whole.len() {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        let (report, _) = run(&whole, &changed, &[], 1);
        assert_eq!(findings(&report)[0].0, "held", "byte {at}: {report}");
    }
}
