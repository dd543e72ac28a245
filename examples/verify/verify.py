#!/usr/bin/env python3
"""Checks records against their leaves, after store/FORMAT.md and with none of the server's code.

Usage: verify.py [VECTORS.json]            test vectors; by default those beside this file
       verify.py [--url] URL [POSITION]    a running server (http://127.0.0.1:7070): one record, or all of them
       verify.py [--url] URL --log-id HEX  all of them, and that the first is the first of the log with this id

Standard library only, but for opening a sealed payload: that needs `cryptography` (PyPI).
"""
import copy, datetime, functools, hashlib, hmac, json, pathlib, sys, urllib.request, uuid  # noqa: E401

RECORDS = {1: "event", 2: "stream_deleted", 3: "log_forked", 4: "tenant_created", 16: "schema_changed", 17: "row_changed", 65: "checkpoint_stamped"}
PAYLOADS = ["", "stream", "type", "actor", "data", "metadata", "occurred_at", "tags", "idempotency", "body", "row"]
CLEAR, SEALED = 1, 2


class Mismatch(Exception):
    """What was given is not what the leaf says."""


def must(holds, otherwise):
    if not holds:
        raise Mismatch(otherwise)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def hkdf(ikm, salt, info):
    """HKDF-SHA-256 (RFC 5869), 32 bytes: extract, then one block of expand."""
    return hmac.digest(hmac.digest(salt, ikm, "sha256"), info + b"\x01", "sha256")


class Leaf:
    """A leaf, taken apart; the previous leaf's hash stands at its end."""

    def __init__(self, data):
        self.hash, self.left = sha256(b"\x00", data), data
        must(len(data) <= 2048, "the leaf is too long")
        version, kind, references, payloads = self.take(4)
        must(version == 1, "the leaf's version is unknown")
        must(kind in RECORDS, "the record's kind is unknown")
        self.kind, self.id = RECORDS[kind], self.take(16)
        self.version = int.from_bytes(self.take(8), "little")
        micros = datetime.timedelta(microseconds=int.from_bytes(self.take(8), "little", signed=True))
        self.time = (datetime.datetime(1970, 1, 1) + micros).isoformat(timespec="microseconds") + "Z"
        taken = [self.take(17) for _ in range(references)]
        self.references = [(reference[0], reference[1:]) for reference in taken]
        roles = [role for role, _ in self.references]
        must(roles == sorted(roles) and all(1 <= role <= 4 for role in roles), "the references do not ascend by role")
        self.payloads, last = [], 0
        for _ in range(payloads):
            kind, form, k = self.take(3)
            must(last < kind < len(PAYLOADS), "the payloads do not ascend by kind")
            must((form, k) == (CLEAR, 0) or form == SEALED and 1 <= k <= 8, "a payload's form is unknown")
            self.payloads.append((kind, form, self.take(32), self.take(24 * k)))  # ..., commitment, pairs
            last = kind
        self.previous = self.take(32)
        must(not self.left, "the leaf is longer than its fields")

    def take(self, length):
        must(len(self.left) >= length, "the leaf ends too early")
        taken, self.left = self.left[:length], self.left[length:]
        return taken


def open_payload(log_id, leaf, payload, stored, opening):
    """The JSON text in `stored`, once it is shown to be what the leaf commits to."""
    kind, form, commitment, pairs = payload
    must(sha256(stored) == commitment, "the stored bytes are not what the leaf commits to")
    if form == CLEAR:
        must(stored[:16] == opening, "the opening is not this payload's salt")
        return stored[16:].decode()
    must(len(opening) == 32 and hkdf(opening, b"", b"kimberlite commitment v1") == stored[16:48],
         "the opening is not this payload's key")
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        sys.exit("commitment and key hold; to open what is sealed: pip install cryptography")
    try:
        plain = AESGCM(opening).decrypt(bytes(12), stored[48:], log_id + leaf.id + bytes([kind]) + pairs)
    except (InvalidTag, ValueError):
        raise Mismatch("the ciphertext does not open under its key") from None
    must(plain[:1] == b"\x00", "the codec is not read here")  # 1 is zstd
    return plain[1:].decode()


def payload_key(log_id, leaf, payload, stored, subject_keys):
    """A sealed payload's key, for a holder of all its subjects' keys ({key id: key})."""
    kind, _, _, pairs = payload
    ids = [int.from_bytes(pairs[at + 16 : at + 24], "little") for at in range(0, len(pairs), 24)]
    must(all(id in subject_keys for id in ids), "a subject's key is missing")
    return hkdf(b"".join(subject_keys[id] for id in ids), log_id, b"kimberlite payload v1" + leaf.id + bytes([kind]) + stored[:16])


def check(log):
    """Checks a log of vectors from its first record on. Returns how many payloads were opened and how many are gone."""
    log_id, opened, gone = bytes.fromhex(log["log_id"]), 0, 0
    keys = {int(id): bytes.fromhex(key) for id, key in log["subject_keys"].items()}
    previous = sha256(b"kimberlite log", log_id)
    for record in log["records"]:
        data = bytes.fromhex(record["leaf"])
        must(sha256(b"\x00", data).hex() == record["leaf_hash"], "the leaf has another hash")
        leaf = Leaf(data)
        must(leaf.previous == previous and previous.hex() == record["previous"], "the leaf does not follow the one before")
        fields = [leaf.kind, str(uuid.UUID(bytes=leaf.id)), leaf.version, leaf.time]
        must(fields == [record[name] for name in ("kind", "id", "version", "time")], "the leaf has other fields")
        kinds = [payload[0] for payload in leaf.payloads]
        must(kinds == [given["kind"] for given in record["payloads"]], "the leaf commits to other payloads")
        for payload, given in zip(leaf.payloads, record["payloads"]):
            if given["state"] in ("erased", "expired"):  # the commitment stays; nothing more can be said
                gone += 1
                continue
            stored, opening = bytes.fromhex(given["stored"]), bytes.fromhex(given["opening"])
            must(open_payload(log_id, leaf, payload, stored, opening) == given["json"], "the payload holds another JSON text")
            if payload[1] == SEALED and keys:
                must(payload_key(log_id, leaf, payload, stored, keys) == opening, "the subjects' keys give another payload key")
            opened += 1
        previous = leaf.hash
    return opened, gone


def check_refused(log):
    """Makes each change in `refused`, one at a time: `check` must refuse it, and for the reason that stands there."""
    for spoiled in log["refused"]:
        other, refusal = copy.deepcopy(log), "not refused"
        for *path, last, value in spoiled["change"]:
            functools.reduce(lambda holder, step: holder[step], path, other)[last] = value
        try:
            check(other)
        except Mismatch as mismatch:
            refusal = str(mismatch)
        must(refusal == spoiled["reason"], f"{spoiled['about']}: {refusal}")
    return len(log["refused"])


def check_server(url, position=None, log_id=None):
    """Checks one record of a running server, or all of them and their chain, which begins with the log's id."""
    opened, gone, previous = 0, 0, log_id and sha256(b"kimberlite log", bytes.fromhex(log_id))
    head = json.loads(get(url, "/v1/events?limit=1"))["head"] if position is None else None
    for at in range(head + 1) if position is None else [position]:
        try:
            leaf, states = check_record(url, at)
            must(previous in (None, leaf.previous), "the leaf does not follow the one before")
        except (Mismatch, LookupError, TypeError, ValueError, ArithmeticError) as wrong:
            raise Mismatch(f"record {at}: {wrong if isinstance(wrong, Mismatch) else repr(wrong)}") from None
        opened, gone, previous = opened + states.count("clear"), gone + len(states) - states.count("clear"), leaf.hash
    return opened, gone


def check_record(url, at):
    """A record's leaf, and the states of its payloads: what is clear is what the leaf commits to."""
    shown, opening = (json.loads(get(url, f"/v1/records/{at}{path}")) for path in ("", "/opening"))
    data = get(url, f"/v1/records/{at}/leaf")
    must(data.hex() == opening["leaf"], "two leaves")
    must(sha256(b"\x00", data).hex() == shown["hash"] == opening["hash"], "the leaf has another hash")
    leaf = Leaf(data)
    must([leaf.kind, str(uuid.UUID(bytes=leaf.id)), leaf.time] == [shown["kind"], shown["id"], shown["time"]], "the leaf has other fields")
    committed = [(PAYLOADS[kind], commitment.hex()) for kind, _, commitment, _ in leaf.payloads]
    for answer in (shown, opening):
        must(committed == [(given["kind"], given["commitment"]) for given in answer["payloads"]], "the leaf commits to other payloads")
    for payload, given in zip(leaf.payloads, opening["payloads"]):
        if given["state"] not in ("erased", "expired"):
            must((given["state"], payload[1]) == ("clear", CLEAR), "the state is not the leaf's form")
            salt = bytes.fromhex(given["salt"])
            open_payload(None, leaf, payload, salt + given["json"].encode(), salt)
    return leaf, [given["state"] for given in opening["payloads"]]


def get(url, path):
    with urllib.request.urlopen(url.rstrip("/") + path, timeout=30) as answer:
        return answer.read()


if __name__ == "__main__":
    given = sys.argv[2:] if sys.argv[1:2] == ["--url"] else sys.argv[1:]
    refused = 0
    try:
        if given and given[0].startswith("http"):
            log_id = given[2] if given[1:2] == ["--log-id"] else None
            opened, gone = check_server(given[0], int(given[1]) if len(given) > 1 and not log_id else None, log_id)
        else:
            file = pathlib.Path(given[0]) if given else pathlib.Path(__file__).with_name("vectors.json")
            log = json.loads(file.read_text(encoding="utf-8"))
            (opened, gone), refused = check(log), check_refused(log)
    except (Mismatch, OSError, ValueError, ArithmeticError) as wrong:
        sys.exit(f"{wrong}")
    print(f"{opened} payloads are what their leaves commit to, {gone} gone, {refused} spoiled ones refused")
