//! `verify FOLDER --vkey`: a data folder or a backup, against what the log's key signed, without any server.

use std::{fs, path::Path};

use kimberlite_store::proof::{CosignerKey, Note};
use serde_json::Value;

use super::{
    audit::{copy, findings, get, vkeys},
    command, stderr, stdout,
    verify::{Dev, report},
};

fn check(folder: &Path, vkeys: &[String], held: Option<&Path>) -> std::process::Output {
    let mut run = command();
    run.arg("verify").arg(folder);
    for vkey in vkeys {
        run.args(["--vkey", vkey]);
    }
    run.args(held.iter().flat_map(|file| [Path::new("--checkpoint"), file])).output().unwrap()
}

/// Appends records and keeps the checkpoint that covers them in a file.
fn signed(dev: &Dev, records: u64, file: &Path) {
    let (mut head, mut left) = (0, records);
    while left > 0 {
        dev.append("s");
        left -= 1;
        let page: Value = serde_json::from_str(&get(&dev.url, "/v1/events?limit=1")).unwrap();
        head = page["head"].as_u64().unwrap();
    }
    get(&dev.url, &format!("/v1/records/{head}/proof"));
    fs::write(file, get(&dev.url, "/v1/log/checkpoint")).unwrap();
}

/// A file that says what a key signed last.
fn is_last(place: &str) -> bool {
    Path::new(place).extension().is_some_and(|ending| ending == "last")
}

#[test]
fn a_folder_and_a_backup_are_held_against_what_their_key_signed() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let (data, other, backup) = (at("data"), at("other"), at("backup"));
    let dev = Dev::start(&data);
    signed(&dev, 2, &at("early"));
    let keys = vkeys(&dev.url);
    drop(dev);
    copy(&data, &other);
    // One history, and another under the same key.
    let dev = Dev::start(&data);
    signed(&dev, 2, &at("late"));
    let arguments = ["--url", &dev.url, "backup", backup.to_str().unwrap()];
    stdout(&command().args(arguments).output().unwrap());
    signed(&dev, 1, &at("beyond"));
    drop(dev);
    let dev = Dev::start(&other);
    signed(&dev, 3, &at("forked"));
    drop(dev);
    for (folder, held, compared) in [
        (&data, None, 1),
        (&data, Some("early"), 2),
        (&data, Some("beyond"), 2),
        (&other, Some("early"), 2),
        (&backup, Some("early"), 1),
        (&backup, Some("late"), 1),
    ] {
        let held = held.map(&at);
        let whole = report(&check(folder, &keys, held.as_deref()), 0);
        assert_eq!(whole["checkpoints"], compared, "{} {held:?}", folder.display());
    }
    let fork = |size| format!("the first {size} records are not those of it");
    for (folder, held, says) in [
        (&data, "forked", fork(5)),
        (&other, "late", fork(4)),
        (&other, "beyond", fork(5)),
        (&backup, "beyond", "it is of 5 records, of which 4 are there".to_owned()),
        (&backup, "forked", "it is of 5 records, of which 4 are there".to_owned()),
    ] {
        let told = report(&check(folder, &keys, Some(&at(held))), 1);
        let place = at(held).display().to_string();
        assert_eq!(findings(&told), [(&place[..], &says[..])], "{}", folder.display());
    }
    // What the keys signed last lies beside them; a folder that went back without them is told from it.
    let older = at("older");
    stdout(
        &command().arg("restore").args([&backup, Path::new("--data"), &older]).output().unwrap(),
    );
    copy(&data.join("keys"), &older.join("keys"));
    let told = report(&check(&older, &keys, None), 1);
    // The index is still to be made, which is noted first.
    let (place, says) = findings(&told).pop().unwrap();
    assert!(is_last(place) && told["damage"] == 1, "{told}");
    assert_eq!(says, "it is of 5 records, of which 4 are there");
}

#[test]
fn what_cannot_be_held_against_a_key_is_said() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let dev = Dev::start(&at("data"));
    signed(&dev, 1, &at("held"));
    let keys = vkeys(&dev.url);
    let backup = at("backup");
    let arguments = ["--url", &dev.url, "backup", backup.to_str().unwrap()];
    stdout(&command().args(arguments).output().unwrap());
    drop(dev);
    let dev = Dev::start(&at("another"));
    let others = vkeys(&dev.url);
    drop(dev);
    assert!(stderr(&check(&at("backup"), &keys, None), 2).contains("--checkpoint"));
    assert!(stderr(&check(&at("data"), &others, None), 2).contains("--checkpoint"));
    let told = report(&check(&at("data"), &others, Some(&at("held"))), 1);
    assert_eq!(findings(&told)[0].1, "no signature is of a known key");
    let mut note = fs::read(at("held")).unwrap();
    let end = note.len() - 10;
    note[end] ^= 1;
    fs::write(at("held"), note).unwrap();
    report(&check(&at("backup"), &keys, Some(&at("held"))), 1);
    // A spoiled copy of what was signed last is one; without either there is nothing to go by.
    let folder = fs::read_dir(at("data").join("keys")).unwrap().next().unwrap().unwrap().path();
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let last = files.find(|path| is_last(path.to_str().unwrap())).unwrap();
    let mut bytes = fs::read(&last).unwrap();
    bytes[30] ^= 1;
    bytes[4096 + 30] ^= 1;
    fs::write(&last, bytes).unwrap();
    let told = report(&check(&at("data"), &keys, Some(&at("held"))), 1);
    assert!(findings(&told).iter().any(|(place, _)| is_last(place)), "{told}");
}

#[test]
fn the_file_that_a_folder_is_held_against_must_be_cosigned_where_that_is_asked() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let dev = Dev::start(&at("data"));
    signed(&dev, 2, &at("bare"));
    let keys = vkeys(&dev.url);
    drop(dev);
    let witness = CosignerKey::new("w", &[1; 32]).unwrap();
    let mut note = Note::parse(&fs::read(at("bare")).unwrap()).unwrap();
    note.add(witness.cosign(note.text(), 1_700_000_000));
    fs::write(at("cosigned"), note.to_string()).unwrap();
    let asked = |held: Option<&str>| {
        let mut run = command();
        run.arg("verify").arg(at("data")).args(["--witness", &witness.verifier().to_string()]);
        run.args(keys.iter().flat_map(|key| ["--vkey", key]));
        run.args(held.iter().flat_map(|file| [Path::new("--checkpoint").into(), at(file)]));
        run.output().unwrap()
    };
    assert_eq!(report(&asked(Some("cosigned")), 0)["checkpoints"], 2);
    let told = report(&asked(Some("bare")), 1);
    assert_eq!(findings(&told)[0].1, "0 of 1 witnesses cosigned, not 1");
    let whole = fs::read(at("cosigned")).unwrap();
    let mut spoiled = whole.clone();
    let last = whole.len() - 20;
    spoiled[last] = if whole[last] == b'A' { b'B' } else { b'A' };
    fs::write(at("spoiled"), spoiled).unwrap();
    let told = report(&asked(Some("spoiled")), 1);
    assert!(findings(&told)[0].1.starts_with("cosignature: "), "{told}");
    assert!(stderr(&asked(None), 2).contains("--checkpoint"));
}
