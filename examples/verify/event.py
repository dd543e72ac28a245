#!/usr/bin/env python3
"""Checks an event in a file against its leaf, and the leaf against the log, after the public standards and with none of the server's code.

Usage: event.py FILE VKEY [WITNESS …]

FILE is what /v1/records/{position}/opening answered, with two members added: `proof`, the text that …/proof answered, and, if wanted,
`event`, what /v1/events/{position} answered. VKEY is the log's public key, WITNESS one of a witness who must have cosigned.
Needs `cryptography` (PyPI) for Ed25519.
"""
import base64, binascii, json, pathlib, sys, uuid  # noqa: E401

from verify import CLEAR, PAYLOADS, Leaf, Mismatch, must, open_payload, sha256

ED25519, COSIGNER = 1, 4


def unbase64(text, what):
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Mismatch(f"{what} is no base64") from None
    must(base64.b64encode(data).decode() == text, f"{what} is no base64")  # there may be stray bits at its end
    return data


def number(text, what):
    must(text.isascii() and text.isdigit() and (text == "0" or text[0] != "0"), f"{what} is no number")
    return int(text)


class Key:
    """A C2SP vkey: name+id+base64(type, public key)."""

    def __init__(self, text):
        self.name, id, typed = text.split("+", 2)
        typed = unbase64(typed, "the key")
        self.id, self.type, self.public = bytes.fromhex(id), typed[0], typed[1:]
        must(self.id == sha256(self.name.encode(), b"\n", typed)[:4], "the key's id is another key's")

    def verify(self, text, signature):
        """What it signed: a log the text, a cosigner the time and the text. Returns the cosigner's time."""
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError:
            sys.exit("to check signatures: pip install cryptography")
        time, message = None, text.encode()
        if self.type == COSIGNER:
            time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
            message = f"cosignature/v1\ntime {time}\n{text}".encode()
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            raise Mismatch(f"the signature of {self.name} does not hold") from None
        return time


def checkpoint(note, log, witnesses):
    """Origin, size and root of a signed note, once the log and each witness signed it; and when they did."""
    must(log.type == ED25519 and all(key.type == COSIGNER for key in witnesses), "a key is of another kind")
    text, empty, lines = note.rpartition("\n\n")
    must(empty and lines.endswith("\n"), "the checkpoint is no signed note")
    text, times = text + "\n", {}
    for line in lines[:-1].split("\n"):
        dash, name, signature = (line.split(" ") + ["", ""])[:3]
        must(dash == "\N{EM DASH}" and line.count(" ") == 2, "a signature's line is none")
        signature = unbase64(signature, "a signature")
        for key in (log, *witnesses):
            if (key.name, key.id) == (name, signature[:4]):
                times[key.name, key.id] = key.verify(text, signature[4:])
    for key in (log, *witnesses):
        must((key.name, key.id) in times, f"{key.name} did not sign")
    origin, size, root = text.split("\n")[:3]
    must(origin == log.name, "the checkpoint is another log's")
    root = unbase64(root, "the root")
    must(len(root) == 32, "the root is no hash")
    return number(size, "the size"), root, {key.name: times[key.name, key.id] for key in witnesses}


def climb(leaf_hash, index, size, hashes):
    """The root that a proof leads to (RFC 9162, section 2.1.3.2)."""
    must(index < size, "the record is beyond the checkpoint")
    last, hash = size - 1, leaf_hash
    for sibling in hashes:
        must(last > 0, "the proof is too long")
        if index & 1 or index == last:
            hash = sha256(b"\x01", sibling, hash)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            hash = sha256(b"\x01", hash, sibling)
        index, last = index >> 1, last >> 1
    must(last == 0, "the proof is too short")
    return hash


def check_proof(text, leaf_hash, position, log, witnesses=()):
    """Checks a tlog-proof. Returns the size of the log that it speaks of, and when the witnesses saw it."""
    front, empty, note = text.partition("\n\n")
    first, *lines = front.split("\n")
    must(first == "c2sp.org/tlog-proof@v1" and empty, "the proof is none")
    if lines and lines[0].startswith("extra "):
        del lines[0]  # nobody signed it
    must(lines and lines[0].startswith("index "), "the proof has no index")
    must(number(lines[0][6:], "the index") == position, "the proof is of another position")
    hashes = [unbase64(line, "a hash") for line in lines[1:]]
    must(all(len(hash) == 32 for hash in hashes), "a hash of the proof is none")
    size, root, times = checkpoint(note, log, witnesses)
    must(climb(leaf_hash, position, size, hashes) == root, "the proof leads to another root")
    return size, times


def check_event(held, log, witnesses=()):
    """Checks an opening with its proof and, if it is there, its event."""
    data = bytes.fromhex(held["leaf"])
    leaf = Leaf(data)
    must(leaf.hash.hex() == held["hash"], "the leaf has another hash")
    shown = [(given["kind"], given["commitment"]) for given in held["payloads"]]
    must(shown == [(PAYLOADS[kind], commitment.hex()) for kind, _, commitment, _ in leaf.payloads],
         "the leaf commits to other payloads")
    texts = {}
    for payload, given in zip(leaf.payloads, held["payloads"]):
        gone = given["state"] in ("erased", "expired")
        must(gone or (given["state"], payload[1]) == ("clear", CLEAR), "the state is not the leaf's form")
        must(gone == ("json" not in given) == ("salt" not in given), "the state is not what is shown")
        if not gone:
            salt = bytes.fromhex(given["salt"])
            texts[given["kind"]] = open_payload(None, leaf, payload, salt + given["json"].encode(), salt)
    size, times = check_proof(held["proof"], leaf.hash, held["position"], log, witnesses)
    if "event" in held:
        event = held["event"]
        fields = {"position": held["position"], "id": str(uuid.UUID(bytes=leaf.id)), "version": leaf.version,
                  "time": leaf.time, "hash": held["hash"]}
        named = {kind for kind in ("stream", "type") if kind in texts}  # else an earlier record has the name
        for kind in {"data", "metadata", "occurred_at", "tags"} | named:
            fields[kind] = json.loads(texts[kind]) if kind in texts else [] if kind == "tags" else None
        for name, value in fields.items():
            must(event[name] == value, f"the event's {name} is not what the leaf commits to")
    return size, times


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        held = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
        log, *witnesses = map(Key, sys.argv[2:])
        size, times = check_event(held, log, witnesses)
    except (Mismatch, OSError, ValueError, KeyError, TypeError, IndexError, ArithmeticError) as wrong:
        sys.exit(f"{type(wrong).__name__}: {wrong}")
    print(f"record {held['position']} of {log.name}, at size {size}; seen by {times}")
