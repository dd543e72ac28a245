#!/usr/bin/env python3
"""Makes vectors.json. Everything is derived from fixed labels: run again, it gives the same file.

Usage: make_vectors.py [FILE]; needs `cryptography` (PyPI). Shares no code with verify.py, so that one checks the other.
"""
import hashlib, json, pathlib, sys, uuid  # noqa: E401

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

STREAM, TYPE, ACTOR, SUBJECT = 1, 2, 3, 4
DATA, METADATA, OCCURRED_AT, TAGS, IDEMPOTENCY, BODY = 4, 5, 6, 7, 8, 9
KINDS = {"event": 1, "stream_deleted": 2, "log_forked": 3, "checkpoint_stamped": 65}


def made(label, length):
    """Bytes that look random and are always the same."""
    return hashlib.sha256(b"kimberlite vectors " + label.encode()).digest()[:length]


def number(n, length):
    return n.to_bytes(length, "little", signed=n < 0)


def hkdf(ikm, salt, info):
    return HKDF(SHA256(), 32, salt, info).derive(ikm)


LOG_ID = made("log id", 16)
SUBJECT_KEYS = {7: made("subject key 7", 32), 9: made("subject key 9", 32)}
METER, FLAT = (made("subject meter", 16), 7), (made("subject flat", 16), 9)
NAMES = [(STREAM, made("stream", 16)), (TYPE, made("type", 16)), (ACTOR, made("actor", 16))]


def clear(kind, text, label):
    salt = made(f"salt {label} {kind}", 16)
    stored = salt + text.encode()
    return {"head": [kind, 1, hashlib.sha256(stored).digest(), b""], "stored": stored, "opening": salt, "json": text}


def sealed(kind, text, id, subjects, codec=0):
    pairs = b"".join(reference + number(key, 8) for reference, key in subjects)
    about, salt = id + bytes([kind]), made(f"salt sealed {id.hex()} {kind}", 16)
    key = hkdf(b"".join(SUBJECT_KEYS[key] for _, key in subjects), LOG_ID, b"kimberlite payload v1" + about + salt)
    ciphertext = AESGCM(key).encrypt(bytes(12), bytes([codec]) + text.encode(), LOG_ID + about + pairs)
    stored = salt + hkdf(key, b"", b"kimberlite commitment v1") + ciphertext
    return {"head": [kind, 2, hashlib.sha256(stored).digest(), pairs], "stored": stored, "opening": key, "json": text}


def gone(state, payload):
    return {"head": payload["head"], "state": state}


def encode(kind, id, version, micros, references, payloads, previous):
    leaf = bytes([1, KINDS[kind], len(references), len(payloads)]) + id + number(version, 8) + number(micros, 8)
    leaf += b"".join(bytes([role]) + reference for role, reference in references)
    for payload in payloads:
        payload_kind, form, commitment, pairs = payload["head"]
        leaf += bytes([payload_kind, form, len(pairs) // 24]) + commitment + pairs
    return leaf + previous


def show(payload):
    shown = {"kind": payload["head"][0], "state": payload.get("state", "present")}
    if "stored" in payload:
        shown |= {"opening": payload["opening"].hex(), "stored": payload["stored"].hex(), "json": payload["json"]}
    return shown


def record(about, kind, id, version, time, references, payloads, previous):
    micros, text = time
    leaf = encode(kind, id, version, micros, references, payloads, previous)
    return {
        "about": about, "kind": kind, "id": str(uuid.UUID(bytes=id)), "version": version, "time": text,
        "previous": previous.hex(), "leaf": leaf.hex(), "leaf_hash": hashlib.sha256(b"\x00" + leaf).hexdigest(),
        "payloads": [show(payload) for payload in payloads],
    }


def event_id(label):
    return uuid.UUID(bytes=made(f"id {label}", 16), version=4).bytes


def body(label, **members):
    return clear(BODY, json.dumps(members, separators=(",", ":")), label)


def log():
    subjects = [(SUBJECT, FLAT[0]), (SUBJECT, METER[0])]  # the caller's order, not the references' own
    request = hashlib.sha256(b"a request").hexdigest()
    first = [
        clear(1, '"meter-1"', "first"), clear(2, '"reading-taken"', "first"), clear(3, '"gateway"', "first"),
        clear(DATA, '{"kwh": 12.50, "big":1e400, "note":"Z\\u00e4hler ä"}', "first"),  # kept as it came
        clear(METADATA, '{"source":"gateway"}', "first"), clear(OCCURRED_AT, '"2026-03-20T09:46:40.000000Z"', "first"),
        clear(TAGS, '["site:4"]', "first"),
        clear(IDEMPOTENCY, f'{{"route":"append","key":"k-1","request":"{request}","records":1}}', "first"),
    ]
    second = event_id("second")
    third = sealed(DATA, '{"kwh":15}', event_id("third"), [FLAT])
    plan = [
        ("an event, all clear, with the names it uses first; its time is before 1970 to show the sign",
         "event", event_id("first"), 0, (-1, "1969-12-31T23:59:59.999999Z"), NAMES, first),
        ("an event: data sealed under two subjects, tags under one, metadata clear",
         "event", second, 1, (1774000000000001, "2026-03-20T09:46:40.000001Z"), NAMES + subjects,
         [sealed(DATA, '{"kwh":14,"shared":true}', second, [FLAT, METER]), clear(METADATA, '{"source":"gateway"}', "second"),
          sealed(TAGS, '["flat:2"]', second, [FLAT])]),
        ("an event whose data is erased and whose metadata is expired: only their commitments are left",
         "event", event_id("third"), 2, (1774000000000002, "2026-03-20T09:46:40.000002Z"), NAMES + subjects[:1],
         [gone("erased", third), gone("expired", clear(METADATA, "{}", "third"))]),
        ("the stream is deleted; the version is its last event's",
         "stream_deleted", event_id("fourth"), 2, (1774000000000003, "2026-03-20T09:46:40.000003Z"), [NAMES[0], NAMES[2]], []),
        ("the log was restored and goes on under another id",
         "log_forked", event_id("fifth"), 0, (1774000000000004, "2026-03-20T09:46:40.000004Z"), [NAMES[2]],
         [body("fifth", new_log_id=made("another log id", 16).hex(), origin="log.example/t1", size=4, root=made("root", 32).hex())]),
        ("a checkpoint was stamped; note and token are made up, so nothing but their place is shown",
         "checkpoint_stamped", event_id("sixth"), 0, (1774000000000005, "2026-03-20T09:46:40.000005Z"), [NAMES[2]],
         [body("sixth", checkpoint="log.example/t1\n5\n…", authority="http://tsa.example/tsa", time="2026-03-20T09:46:40.000000Z",
               token="MAA=", previous=None)]),
    ]
    previous, records = hashlib.sha256(b"kimberlite log" + LOG_ID).digest(), []
    for line in plan:
        records.append(record(*line, previous))
        previous = bytes.fromhex(records[-1]["leaf_hash"])
    return records


def flip(text, at, mask=1):
    """Changes one byte of hex text."""
    data = bytearray.fromhex(text)
    data[at] ^= mask
    return data.hex()


def spoil(records, reason, about, number, field, at, mask=1, payload=None, recommit=False):
    """One byte changed. With `recommit` whoever changed it also made commitment and leaf hash anew."""
    here = ["records", number]
    holder = records[number] if payload is None else records[number]["payloads"][payload]
    spoiled, leaf = flip(holder[field], at, mask), records[number]["leaf"]
    change = [[*here, *([] if payload is None else ["payloads", payload]), field, spoiled]]
    if recommit and field == "stored":
        old, new = (hashlib.sha256(bytes.fromhex(stored)).hexdigest() for stored in (holder[field], spoiled))
        assert leaf.count(old) == 1
        leaf = leaf.replace(old, new)
        change.append([*here, "leaf", leaf])
    if recommit:
        leaf = spoiled if field == "leaf" else leaf
        change.append([*here, "leaf_hash", hashlib.sha256(b"\x00" + bytes.fromhex(leaf)).hexdigest()])
    return {"about": about, "reason": reason, "change": change}


def refused(records):
    clear_at = 36 + 17 * 3  # the first payload's head in the leaf of record 0
    sealed_at = 36 + 17 * 5  # the same in record 1
    other_hash, stored = "the leaf has another hash", "the stored bytes are not what the leaf commits to"
    key, cipher = "the opening is not this payload's key", "the ciphertext does not open under its key"
    data_0, data_1 = {"number": 0, "payload": 3}, {"number": 1, "payload": 0}
    fields, order = "the leaf has other fields", "the payloads do not ascend by kind"
    again = {"recommit": True}
    cases = [
        spoil(records, other_hash, "leaf: a byte of the id", 0, "leaf", 4),
        spoil(records, other_hash, "leaf: a byte of a commitment", 0, "leaf", clear_at + 3),
        spoil(records, other_hash, "leaf: a byte of an erased payload's commitment", 2, "leaf", 36 + 17 * 4 + 3),
        spoil(records, other_hash, "leaf hash", 0, "leaf_hash", 0),
        spoil(records, stored, "clear: a byte of the salt", field="stored", at=0, **data_0),
        spoil(records, stored, "clear: a byte of the JSON", field="stored", at=16, **data_0),
        spoil(records, "the opening is not this payload's salt", "clear: a byte of the opening", field="opening", at=0, **data_0),
        spoil(records, stored, "sealed: a byte of the key commitment", field="stored", at=16, **data_1),
        spoil(records, stored, "sealed: a byte of the ciphertext", field="stored", at=48, **data_1),
        spoil(records, stored, "sealed: a byte of the tag", field="stored", at=-1, **data_1),
        spoil(records, key, "sealed: a byte of the payload key", field="opening", at=0, **data_1),
        # From here on the changed leaf has its right hash: what refuses is behind commitment and leaf hash.
        spoil(records, "the subjects' keys give another payload key", "leaf over another salt of a sealed payload", field="stored", at=0,
              **data_1, **again),
        spoil(records, key, "leaf over another key commitment", field="stored", at=16, **data_1, **again),
        spoil(records, cipher, "leaf over another ciphertext", field="stored", at=48, **data_1, **again),
        spoil(records, cipher, "leaf over another tag", field="stored", at=-1, **data_1, **again),
        spoil(records, cipher, "leaf with another subject in a pair", 1, "leaf", sealed_at + 35, **again),
        spoil(records, cipher, "leaf with another key id in a pair", 1, "leaf", sealed_at + 35 + 16, **again),
        spoil(records, stored, "leaf with another commitment", 0, "leaf", clear_at + 3, **again),
        spoil(records, fields, "leaf with another id", 0, "leaf", 4, **again),
        spoil(records, fields, "leaf with another version", 0, "leaf", 20, **again),
        spoil(records, fields, "leaf with another time", 0, "leaf", 28, **again),
        spoil(records, "the leaf does not follow the one before", "leaf behind another one", 1, "leaf", -1, **again),
        spoil(records, "the leaf's version is unknown", "leaf of version 0", 0, "leaf", 0, **again),
        spoil(records, "the record's kind is unknown", "leaf of kind 129", 0, "leaf", 1, 0x80, **again),
        spoil(records, "the references do not ascend by role", "leaf with a type before its stream", 0, "leaf", 36, 2, **again),
        spoil(records, order, "leaf with kind 2 twice", 0, "leaf", clear_at, 3, **again),
        spoil(records, "a payload's form is unknown", "leaf with form 3", 0, "leaf", clear_at + 1, 2, **again),
        spoil(records, "a payload's form is unknown", "leaf with a clear payload of one pair", 0, "leaf", clear_at + 2, **again),
        spoil(records, "the leaf is longer than its fields", "leaf with a payload too few", 0, "leaf", 3, 15, **again),
    ]
    wrong_key = ["subject_keys", "7", flip(SUBJECT_KEYS[7].hex(), 0)]
    wrong = {"about": "a byte of a subject's key", "reason": "the subjects' keys give another payload key", "change": [wrong_key]}
    return [*cases, wrong]


if __name__ == "__main__":
    file = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("vectors.json")
    records = log()
    vectors = {
        "about": "Test vectors of store/FORMAT.md, made by make_vectors.py. Bytes are in hex; keys, salts and ids are made up.",
        "log_id": LOG_ID.hex(),
        "subject_keys": {str(id): key.hex() for id, key in SUBJECT_KEYS.items()},
        "records": records,
        "refused": refused(records),  # each: the paths into this file that are changed, and to what
    }
    file.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
