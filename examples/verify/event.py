#!/usr/bin/env python3
"""Checks an event in a file against its leaf, and the leaf against the log, after the public standards and with none of the server's code.

Usage: event.py FILE VKEY [WITNESS …]

FILE is what /v1/records/{position}/opening answered, with members added: `proof`, the text that …/proof answered, and, if wanted,
`event`, what /v1/events/{position} answered, and `named_by`, a list of the openings of the records under `names`, each with its own
`proof`; keep.py makes such a file. VKEY is the log's public key, WITNESS one of a witness who must have cosigned.
Needs `cryptography` (PyPI) for Ed25519.
"""
import base64, binascii, contextlib, json, pathlib, re, sys, uuid  # noqa: E401

from verify import CLEAR, PAYLOADS, Leaf, Mismatch, must, open_payload, sha256

ED25519, COSIGNER = 1, 4
NAMES, SUBJECT = {"stream": 1, "type": 2, "actor": 3}, 4  # roles of references
OPENING = ("position", "leaf", "hash", "payloads", "names")
DECODER, BETWEEN, PARTS = json.JSONDecoder(), re.compile(r"[ \t\r\n]*"), re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


@contextlib.contextmanager
def part(name):
    """Says in which part of the file something is wrong."""
    try:
        yield
    except Mismatch as wrong:
        raise Mismatch(f"{name}: {wrong}") from None
    except (ValueError, KeyError, TypeError, IndexError, ArithmeticError) as wrong:
        raise Mismatch(f"{name}: {type(wrong).__name__}: {wrong}") from None


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
    with part("checkpoint"):
        size, root, times = checkpoint(note, log, witnesses)
    must(climb(leaf_hash, position, size, hashes) == root, "the proof leads to another root")
    return size, times


def skip(text, at):
    """Behind what may stand between the parts of JSON."""
    return BETWEEN.match(text, at).end()


def members(text):
    """An object's members, each as it is written."""
    found, at = {}, skip(text, 0)
    must(text[at] == "{", "it is no JSON object")
    while text[at] != "}":
        name, at = DECODER.raw_decode(text, skip(text, at + 1))
        at = skip(text, at)
        must(type(name) is str and name not in found and text[at] == ":", "it is no JSON object with each member once")
        start = skip(text, at + 1)
        _, at = DECODER.raw_decode(text, start)
        found[name], at = text[start:at], skip(text, at)
        must(text[at] in ",}", "it is no JSON object")
    must(skip(text, at + 1) == len(text), "something follows the JSON object")
    return found


def bare(text):
    """JSON without what may stand between its parts: numbers and strings stay as they are written."""
    return PARTS.sub(lambda part: part[1] or "", text)


def once(pairs):
    must(len(dict(pairs)) == len(pairs), "a member stands there twice")
    return dict(pairs)


def unhex(text):
    data = bytes.fromhex(text)
    must(data.hex() == text, "it is no hexadecimal number")
    return data


def open_leaf(held, every=True):
    """Checks an opening. Returns its leaf, and the JSON of its payloads; unless `every` one must be opened, of those that are."""
    must({"position", "leaf", "hash", "payloads"} <= held.keys() <= {*OPENING}, "the opening's members are others")
    leaf, texts = Leaf(unhex(held["leaf"])), {}
    must(leaf.hash.hex() == held["hash"] and type(held["position"]) is int, "the leaf has another hash")
    shown = [(given["kind"], given["commitment"]) for given in held["payloads"]]
    must(shown == [(PAYLOADS[kind], commitment.hex()) for kind, _, commitment, _ in leaf.payloads],
         "the leaf commits to other payloads")
    for payload, given in zip(leaf.payloads, held["payloads"]):
        gone = given["state"] in ("erased", "expired")
        must(gone or (given["state"], payload[1]) == ("clear", CLEAR), "the state is not the leaf's form")
        closed = "json" not in given and "salt" not in given
        must(given.keys() <= {"kind", "commitment", "state", "salt", "json"} and (closed if gone else not (every and closed)),
             "the state is not what is shown")
        if not closed:
            salt = unhex(given["salt"])
            texts[given["kind"]] = open_payload(None, leaf, payload, salt + given["json"].encode(), salt)
    return leaf, texts


def named_elsewhere(held, leaf, log, witnesses):
    """The names that stand in the earlier records of `named_by`, under the same checkpoint."""
    references = {kind: dict(leaf.references).get(role) for kind, role in NAMES.items()}
    own, names = {given["kind"] for given in held["payloads"]}, held.get("names")
    wanted = [kind for kind, reference in references.items() if reference and kind not in own]
    where = {name["kind"]: name["position"] for name in names or ()}
    must(names is None or [[*name.items()] for name in names] == [[("kind", kind), ("position", where.get(kind))] for kind in wanted],
         "the names are not those that stand in earlier records")
    must(all(type(at) is int and 0 <= at < held["position"] for at in where.values()), "a record with a name is not earlier")
    found = {}
    for other in held.get("named_by", ()):
        proof, at = other.pop("proof"), other["position"]
        its, texts = open_leaf(other, every=False)
        must(proof.partition("\n\n")[2] == held["proof"].partition("\n\n")[2], "it ends in another checkpoint")
        check_proof(proof, its.hash, at, log, witnesses)
        must(at in where.values(), f"record {at} names nothing of the event")
        for kind in (kind for kind in wanted if where[kind] == at):
            must((NAMES[kind], references[kind]) in its.references, f"record {at} has another {kind}")
            must(kind in {given["kind"] for given in other["payloads"]}, f"record {at} names no {kind}")
            found |= {kind: texts[kind]} if kind in texts else {}
    return found


def compare(event, held, leaf, texts):
    """Checks an event. Returns what of it nobody can say."""
    shown, unknown, states = members(event), [], {given["state"] for given in held["payloads"]}
    expected = {"position": f"{held['position']}", "cursor": f'"{held["position"]}.{held["hash"][:8]}"', "id": f'"{uuid.UUID(bytes=leaf.id)}"',
                "version": f"{leaf.version}", "time": f'"{leaf.time}"', "hash": f'"{held["hash"]}"'}
    must(leaf.kind == "event", "the leaf is of no event")
    for name in ("stream", "type", "subjects"):
        if name in texts:
            expected[name] = bare(texts[name])
        elif name == "subjects" and SUBJECT not in dict(leaf.references):
            expected[name] = "[]"
        else:
            must(name in shown, f"the event has no {name}")
            unknown.append(name)
    for name in ("data", "metadata", "occurred_at", "tags"):
        expected[name] = bare(texts[name]) if name in texts else "[]" if name == "tags" and shown.get(name) != "null" else "null"
    if shown.get("tags") == "null":
        must(any(given["kind"] == "tags" and given["state"] != "clear" for given in held["payloads"]), "the event's tags are not gone")
    for name, value in expected.items():
        must(name in shown and bare(shown[name]) == value, f"the event's {name} is not what the leaf commits to")
    for name in shown.keys() - expected.keys() - {*unknown}:
        must(shown[name] == "true" and (name == "stream_deleted" or name in states - {"clear"}), f"an event has no member {name}")
        unknown += [name] if name == "stream_deleted" else []
    return unknown + [f"{given['kind']}, which is gone" for given in held["payloads"] if given["state"] != "clear"]


def check_event(text, log, witnesses=()):
    """Checks an opening with its proof and, if they are there, its event and the records that name its stream and type.
    Returns the size of the log, when the witnesses saw it, and what was not checked."""
    with part("file"):
        parts = members(text)
        held = {name: json.loads(value, object_pairs_hook=once) for name, value in parts.items() if name != "event"}
    with part("opening"):
        leaf, texts = open_leaf({name: value for name, value in held.items() if name not in ("proof", "named_by")})
    with part("proof"):
        size, times = check_proof(held["proof"], leaf.hash, held["position"], log, witnesses)
    with part("names"):
        texts |= named_elsewhere(held, leaf, log, witnesses)
    with part("event"):
        return size, times, compare(parts["event"], held, leaf, texts) if "event" in parts else ["event"]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
        log, *witnesses = map(Key, sys.argv[2:])
        size, times, unknown = check_event(text, log, witnesses)
    except (Mismatch, OSError, ValueError) as wrong:
        sys.exit(f"{wrong}")
    print(f"record {json.loads(text)['position']} of {log.name}, at size {size}; seen by {times}")
    print(f"not checked: {', '.join(unknown) or 'nothing'}")
