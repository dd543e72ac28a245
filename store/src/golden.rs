//! The bytes that this version writes and reads, against bytes that its own code did not make: `tests/golden`
//! (written down after `FORMAT.md`) and the vectors of `examples/verify`.

use std::fs;

use kimberlite_consensus::{Identity, Op, Recovered, Replica, Superblock, View};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    append::Expected,
    disk::{Disk, RealDisk},
    index::StreamHead,
    kernel::{
        IdState, NameUse, Prepared, PreparedAppend, PreparedChange, PreparedChanging,
        PreparedCommand, PreparedDelete, PreparedEvent, PreparedIdempotency, Rests, Seen,
        StreamUse,
    },
    log::{self, framed::Spot, superblock::SuperblockFile},
    node::machine::Machine,
    record::{
        Entry, Leaf, LeafFields, PayloadKind, Payloads, RecordKind, Role, encode_leaf, genesis,
        leaf_hash, salt,
    },
    words::{Actor, EventType, Hash, Hex, Reference, StreamName, Timestamp},
};

const GOLDEN: &str = include_str!("../tests/golden/format-1.txt");
const VECTORS: &str = include_str!("../../examples/verify/vectors.json");
const CHECKER: &str = include_str!("../../examples/verify/verify.py");
const FORMAT: &str = include_str!("../FORMAT.md");

const CLUSTER: [u8; 16] = [0xc1; 16];
const TENANT: [u8; 16] = [0xa1; 16];
const LOG_ID: [u8; 16] = [0xb1; 16];
const OP_BEFORE: Identity = Identity([0xd8; 32]);
const TIME_US: i64 = 1_774_000_000_000_001;

fn superblock() -> Superblock {
    Superblock {
        cluster: CLUSTER,
        replica: 3,
        incarnation: 4,
        view: View(5),
        log_view: View(6),
        commit: Op(7),
        identity: OP_BEFORE,
        cut: None,
        closed_us: 0,
        uncertain: false,
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|d| std::str::from_utf8(d).unwrap());
    digits.map(|d| u8::from_str_radix(d, 16).unwrap()).collect()
}

/// Compares bytes with a part of the golden file, field by field.
fn check(title: &str, actual: &[u8]) {
    let mut parts = GOLDEN.split("\n= ").skip(1);
    let part = parts.find(|p| p.lines().next() == Some(title)).expect("a part of the file");
    let mut rest = actual;
    for line in part.lines().skip(1).filter(|l| !l.is_empty()) {
        let (hex, what) = line.split_once("  ").unwrap();
        let (field, behind) = rest.split_at(rest.len().min(hex.len() / 2));
        assert_eq!(Hex(field).to_string(), hex, "{title}: {what}");
        rest = behind;
    }
    assert!(rest.is_empty(), "{title}: more bytes than fields");
}

#[test]
fn superblocks_are_written_as_the_format_says() {
    let folder = tempfile::tempdir().unwrap();
    SuperblockFile::create(&RealDisk::new(folder.path()), superblock()).unwrap();
    let file = fs::read(folder.path().join("superblock")).unwrap();
    let copies: Vec<&[u8]> = file.chunks(4096).collect();
    assert_eq!(copies.len(), 4);
    for copy in copies {
        let (sealed, zeros) = copy.split_at(136);
        check("superblock: each of the four copies", sealed);
        assert!(zeros.iter().all(|b| *b == 0));
    }
}

#[test]
fn promises_are_written_as_the_format_says() {
    let folder = tempfile::tempdir().unwrap();
    let superblock = Superblock { closed_us: TIME_US, ..superblock() };
    SuperblockFile::create(&RealDisk::new(folder.path()), superblock).unwrap();
    let file = fs::read(folder.path().join("superblock")).unwrap();
    check("superblock: each copy, once a time was promised", &file[..160]);
    assert!(file[160..4096].iter().all(|b| *b == 0));
}

#[test]
fn segments_begin_and_end_as_the_format_says() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("log")).unwrap();
    let head = log::Head { cluster: CLUSTER, first_op: 0x0102, parent: OP_BEFORE };
    let disk = RealDisk::new(folder.path());
    let segment = log::create_segment(&disk as &dyn Disk, head, 16 << 10).unwrap();
    let read = || fs::read(folder.path().join("log/0000000000000102.segment")).unwrap();
    let (sealed, zeros) = (&read()[..104], &read()[104..]);
    check("segment: the head, up to its zeros", sealed);
    assert!(zeros.len() == (16 << 10) - 104 && zeros.iter().all(|b| *b == 0));
    log::end_segment(&*segment.file(), 4096, 0x0102).unwrap();
    check("segment: the end mark", &read()[4096..]);
}

/// A clear payload with a salt that is 16 times the same byte.
fn push(payloads: &mut Payloads, kind: PayloadKind, json: &str, salt: u8) {
    let stored = [&[salt; 16], json.as_bytes()].concat();
    payloads.heads.push((kind, Hash(Sha256::digest(&stored).into())));
    payloads.stored.push(0);
    payloads.stored.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    payloads.stored.extend_from_slice(&stored);
}

fn clear(given: &[(PayloadKind, &str, u8)]) -> Payloads {
    let mut payloads = Payloads::default();
    for (kind, json, salt) in given {
        push(&mut payloads, *kind, json, *salt);
    }
    payloads
}

fn fresh(reference: u8, kind: PayloadKind, json: &str, salt: u8) -> (Reference, Payloads) {
    (Reference([reference; 16]), clear(&[(kind, json, salt)]))
}

fn append(
    id: u8,
    actor: Seen,
    event_type: Seen,
    stream: Option<(Reference, Payloads)>,
    payloads: Payloads,
) -> PreparedAppend {
    let event = PreparedEvent {
        id: [id; 16],
        client_id: true,
        event_type: NameUse { name: EventType::new("reading").unwrap(), seen: event_type },
        payloads,
        tags: Vec::new(),
    };
    let stream = StreamUse {
        stream: StreamName::new("meter-1").unwrap(),
        head: None,
        fresh: stream,
        expected: Expected::Any,
        recreate: false,
        ids: IdState::New,
        events: vec![event],
    };
    let actor = NameUse { name: Actor::new("gateway").unwrap(), seen: actor };
    let (appends, conditions) = (vec![stream], Vec::new());
    PreparedAppend { actor, appends, conditions, idempotency: None, types_seen: 0 }
}

/// An event that is the first to use its names, with every payload that this version writes for events.
fn first_append() -> PreparedAppend {
    let (stream, stream_name) = fresh(0x51, PayloadKind::StreamName, "\"meter-1\"", 1);
    let (event_type, type_name) = fresh(0x52, PayloadKind::TypeName, "\"reading\"", 2);
    let (actor, actor_name) = fresh(0x53, PayloadKind::ActorName, "\"gateway\"", 3);
    let payloads = clear(&[
        (PayloadKind::Data, "{ \"kwh\":1e400}", 4),
        (PayloadKind::Metadata, "{\"n\":1}", 5),
        (PayloadKind::OccurredAt, "\"2026-03-20T09:46:40.000000Z\"", 6),
        (PayloadKind::Tags, "[\"a\",\"b\"]", 7),
    ]);
    let key = clear(&[(PayloadKind::Idempotency, "{\"records\":1}", 8)]);
    let key = PreparedIdempotency { digest: [9; 16], request: [9; 32], payloads: key, hit: None };
    let seen = (Seen::Fresh(actor, actor_name), Seen::Fresh(event_type, type_name));
    let append = append(0xe0, seen.0, seen.1, Some((stream, stream_name)), payloads);
    PreparedAppend { idempotency: Some(key), ..append }
}

fn deletion() -> PreparedDelete {
    let reference = Reference([0x51; 16]);
    PreparedDelete {
        actor: NameUse {
            name: Actor::new("gateway").unwrap(),
            seen: Seen::Known(Reference([0x53; 16])),
        },
        id: [0xe2; 16],
        stream: StreamName::new("meter-1").unwrap(),
        head: Some(StreamHead { reference, version: 0, visible_from: 0, deleted: false }),
        expected: Expected::Any,
        payloads: Payloads::default(),
    }
}

/// A table that is made, and a row that is made and deleted.
fn changes() -> PreparedChange {
    const ROW: &str = r#"{"table":"d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1","key":[7]}"#;
    const TABLE: &str = r#"{"create_table":{"table":"d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1","name":"meters","columns":[{"name":"id","type":"BIGINT","not_null":true,"default":null},{"name":"place","type":"TEXT","not_null":false,"default":"'none'"}],"key":[0]}}"#;
    let body = |json, salt| (PayloadKind::Body, json, salt);
    let row = Some((Reference([0xd1; 16]), [7; 16]));
    let record = |id, version, payloads: &[_], row| PreparedChanging {
        id: [id; 16],
        version,
        payloads: clear(payloads),
        row,
    };
    let image = (PayloadKind::Row, r#"[7,"cellar"]"#, 0x23);
    PreparedChange {
        actor: NameUse {
            name: Actor::new("gateway").unwrap(),
            seen: Seen::Known(Reference([0x53; 16])),
        },
        rests: Rests::default(),
        records: vec![
            record(0xe3, 0, &[body(TABLE, 0x21)], None),
            record(0xe4, 0, &[body(ROW, 0x22), image], row),
            record(0xe5, 1, &[body(ROW, 0x24)], row),
        ],
    }
}

#[test]
fn ops_are_written_as_the_format_says() {
    let superblock = Superblock { view: View(5), ..Superblock::fresh(CLUSTER) };
    let mut machine = Machine::new(Replica::new(0, Recovered::alone(superblock, None)));
    machine.add_tenant(TENANT, 0, genesis(LOG_ID));
    let mut submit = |command| {
        let prepared = Prepared { tenant: TENANT, seen_at: 0, command, bytes: 0 };
        machine.submit(TIME_US, prepared, ());
    };
    submit(PreparedCommand::Append(first_append()));
    let first = Spot { first_op: 1, offset: log::SEGMENT_HEAD_BYTES };
    let placed = machine.seal().unwrap().frame.placed(first);
    check("op 1: one event with all there is, where segment 1 begins", placed.bytes());
    let mut submit = |command| {
        let prepared = Prepared { tenant: TENANT, seen_at: 0, command, bytes: 0 };
        machine.submit(TIME_US, prepared, ());
    };
    let known = |reference| Seen::Known(Reference([reference; 16]));
    let data = clear(&[(PayloadKind::Data, "2", 0x14)]);
    submit(PreparedCommand::Append(append(0xe1, known(0x53), known(0x52), None, data)));
    submit(PreparedCommand::Delete(deletion()));
    let second = first.behind(placed.bytes().len());
    let placed = machine.seal().unwrap().frame.placed(second);
    let title = "op 2: an event and the deletion of its stream, one microsecond later, behind it";
    check(title, placed.bytes());
    let command = PreparedCommand::Change(changes());
    machine.submit(TIME_US, Prepared { tenant: TENANT, seen_at: 0, command, bytes: 0 }, ());
    let third = second.behind(placed.bytes().len());
    let placed = machine.seal().unwrap().frame.placed(third);
    let title = "op 3: a table is made, a row in it made and deleted, behind both";
    check(title, placed.bytes());
}

#[test]
fn clear_payloads_are_stored_as_the_format_says() {
    let mut payloads = Payloads::default();
    payloads.push_clear(PayloadKind::Data, b"{}");
    let (head, stored) = payloads.stored.split_at(5);
    assert_eq!(head, [0, 18, 0, 0, 0], "present, 18 bytes");
    assert_eq!(stored[16..], *b"{}", "behind the salt");
    let commitment = Hash(Sha256::digest(stored).into());
    assert_eq!(payloads.heads, [(PayloadKind::Data, commitment)]);
}

fn bytes(of: &Value, field: &str) -> Vec<u8> {
    unhex(of[field].as_str().unwrap())
}

/// Reads a log of vectors as recovery would, and says what does not hold.
fn read_log(log: &Value) -> Result<(), &'static str> {
    let mut previous = genesis(bytes(log, "log_id").try_into().unwrap());
    for record in log["records"].as_array().unwrap() {
        let leaf = bytes(record, "leaf");
        let (stored, before) = leaf.split_at(leaf.len() - 32);
        if before != previous.0 {
            return Err("another previous hash");
        }
        previous = leaf_hash(stored, previous);
        if previous.0[..] != bytes(record, "leaf_hash")[..] {
            return Err("another leaf hash");
        }
        read_record(record, stored)?;
    }
    Ok(())
}

fn read_record(record: &Value, stored: &[u8]) -> Result<(), &'static str> {
    let leaf = Leaf::decode(stored)?;
    let id = uuid::Uuid::from_bytes(leaf.id).to_string();
    let time = Timestamp::from_micros(leaf.time_us).map(|t| t.to_string());
    let fields = record["kind"] == leaf.kind.name()
        && record["id"] == id.as_str()
        && record["version"] == leaf.version
        && record["time"].as_str() == time.as_deref();
    if !fields {
        return Err("other fields");
    }
    let given = record["payloads"].as_array().unwrap();
    let run: Vec<u8> = given.iter().flat_map(entry).collect();
    let mut run = &run[..];
    for ((kind, commitment), given) in leaf.payloads().zip(given) {
        let entry = Entry::take(&mut run)?;
        if given["kind"] != kind as u8 || !entry.matches(commitment) {
            return Err("another payload");
        }
        if let Entry::Present(stored) = entry
            && given["opening"].as_str().unwrap().len() == 32
            && (salt(stored).map(Vec::from) != Some(bytes(given, "opening"))
                || entry.json()? != Some(given["json"].as_str().unwrap().as_bytes()))
        {
            return Err("another opening or JSON");
        }
    }
    if run.is_empty() { Ok(()) } else { Err("payloads that the leaf does not have") }
}

/// A payload's entry in a run, as the format says.
fn entry(given: &Value) -> Vec<u8> {
    let state = match given["state"].as_str().unwrap() {
        "present" => 0,
        "erased" => 1,
        "expired" => 2,
        other => panic!("{other}"),
    };
    let stored = if state == 0 { bytes(given, "stored") } else { Vec::new() };
    let length = (stored.len() as u32).to_le_bytes();
    [&[state], &length[..], &stored].concat()
}

/// What the checker of the vectors says, and what is said here; nothing for what only a key shows, as this version
/// does not open sealed payloads.
const REASONS: [(&str, Option<&str>); 14] = [
    ("the leaf has another hash", Some("another leaf hash")),
    ("the stored bytes are not what the leaf commits to", Some("another payload")),
    ("the opening is not this payload's salt", Some("another opening or JSON")),
    ("the leaf has other fields", Some("other fields")),
    ("the leaf does not follow the one before", Some("another previous hash")),
    ("the leaf's version is unknown", Some("unknown leaf version")),
    ("the record's kind is unknown", Some("a record kind that this version does not know")),
    ("the references do not ascend by role", Some("references do not ascend by role")),
    ("the payloads do not ascend by kind", Some("payload kinds do not ascend")),
    ("a payload's form is unknown", Some("unknown payload form")),
    ("the leaf is longer than its fields", Some("a leaf is longer than its fields")),
    ("the opening is not this payload's key", None),
    ("the ciphertext does not open under its key", None),
    ("the subjects' keys give another payload key", None),
];

#[test]
fn the_vectors_that_strangers_check_are_read() {
    let log: Value = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(read_log(&log), Ok(()));
    let mut refused = 0;
    for spoiled in log["refused"].as_array().unwrap() {
        let reason = spoiled["reason"].as_str().unwrap();
        let (_, ours) = REASONS.iter().find(|(r, _)| *r == reason).expect("a known reason");
        if let Some(ours) = *ours {
            assert_eq!(read_log(&changed(&log, spoiled)), Err(ours), "{}", spoiled["about"]);
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused} refused");
}

fn changed(log: &Value, spoiled: &Value) -> Value {
    let mut log = log.clone();
    for change in spoiled["change"].as_array().unwrap() {
        let (value, path) = change.as_array().unwrap().split_last().unwrap();
        let place = path.iter().fold(&mut log, |at, step| match step.as_u64() {
            Some(n) => &mut at[n as usize],
            None => &mut at[step.as_str().unwrap()],
        });
        *place = value.clone();
    }
    log
}

#[test]
fn the_vectors_leaves_are_what_would_be_written() {
    let log: Value = serde_json::from_str(VECTORS).unwrap();
    let mut written = 0;
    for record in log["records"].as_array().unwrap() {
        let leaf = bytes(record, "leaf");
        let stored = &leaf[..leaf.len() - 32];
        let read = Leaf::decode(stored).unwrap();
        let heads: Vec<_> = read.payloads().collect();
        let roles = [Role::Stream, Role::Type, Role::Actor];
        let references: Vec<_> =
            roles.iter().filter_map(|r| read.reference(*r).map(|x| (*r, x))).collect();
        if read.reference(Role::Subject).is_some() {
            continue; // This version writes neither subjects nor sealed payloads.
        }
        let (kind, id, version, time_us) = (read.kind, read.id, read.version, read.time_us);
        let fields = LeafFields { kind, id, version, time_us, references: &references };
        let mut again = Vec::new();
        encode_leaf(&mut again, fields, heads.iter());
        assert_eq!(Hex(&again).to_string(), Hex(stored).to_string());
        written += 1;
    }
    assert_eq!(written, 4, "an event, a deletion, a fork and a stamp");
}

/// The part of `text` between these two.
fn between<'a>(text: &'a str, before: &str, behind: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{before} is not there"));
    rest.split_once(behind).unwrap().0
}

/// `1 to 4 and 65`, one by one.
fn numbers(text: &str) -> Vec<u8> {
    let number = |n: &str| n.trim().parse::<u8>().unwrap();
    let ranges = text.split(" and ").flat_map(|range| match range.split_once(" to ") {
        Some((first, last)) => number(first)..=number(last),
        None => number(range)..=number(range),
    });
    ranges.collect()
}

#[test]
fn the_kinds_that_the_format_lists_are_those_that_are_known_here_and_to_strangers() {
    let table = between(FORMAT, "### Record kinds", "### Payload kinds");
    let rows = table.lines().filter_map(|line| {
        let (number, what) = line.strip_prefix("| ")?.split_once(" | ")?;
        Some((number.parse::<u8>().ok()?, what.replace(' ', "_")))
    });
    let rows: Vec<_> = rows.collect();
    let written = numbers(between(table, "This version writes kinds ", ";"));
    let ours = (0..=u8::MAX).filter_map(|n| Some((n, RecordKind::from_byte(n)?.name())));
    let ours: Vec<(u8, &str)> = ours.collect();
    assert_eq!(ours.iter().map(|(n, _)| *n).collect::<Vec<_>>(), written);
    for (number, name) in &ours {
        let (_, what) = rows.iter().find(|(n, _)| n == number).expect("a row of the table");
        assert!(what.starts_with(name), "{number} is {name} here, and there {what}");
    }
    let theirs: Vec<String> = ours.iter().map(|(n, name)| format!("{n}: \"{name}\"")).collect();
    assert_eq!(between(CHECKER, "RECORDS = {", "}"), theirs.join(", "), "verify.py");

    let listed = between(FORMAT, "### Payload kinds", "## Commitments");
    let mut theirs = vec!["\"\"".to_owned()];
    for (n, kind) in (1..=u8::MAX).map_while(|n| Some((n, PayloadKind::from_byte(n)?))) {
        let first = kind.name();
        assert!(listed.contains(&format!("{n} {first}")), "{n} {first} is not in the list");
        theirs.push(format!("\"{first}\""));
    }
    assert!(!listed.contains(&format!(", {} ", theirs.len())), "the list has a kind more");
    assert_eq!(between(CHECKER, "PAYLOADS = [", "]"), theirs.join(", "), "verify.py");
}
