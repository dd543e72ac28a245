#!/usr/bin/env python3
"""Keeps an event as a file that event.py and `kimberlite verify event` check, years later and without any server.

Usage: keep.py URL POSITION [WITNESSES] > FILE

URL is the server's (http://127.0.0.1:7070), WITNESSES how many must have cosigned the checkpoint. Of the records that name the event's stream and
type only the names are kept. Standard library only.
"""
import json, sys  # noqa: E401

from verify import get


def keep(url, position, witnesses=0):
    """The file's text."""
    def ask(path):
        return get(url, path).decode()

    def proof(position):
        return ask(f"/v1/records/{position}/proof" + (f"?cosigned={witnesses}" if witnesses else ""))

    # The event as the server writes it: whoever reads and writes numbers anew may change them.
    opening, event, namers = json.loads(ask(f"/v1/records/{position}/opening")), ask(f"/v1/events/{position}"), []
    for at in sorted({name["position"] for name in opening["names"] if name["kind"] != "actor"}):
        namer = json.loads(ask(f"/v1/records/{at}/opening"))
        for payload in namer["payloads"]:
            if payload["kind"] not in ("stream", "type"):
                payload.pop("salt", None), payload.pop("json", None)
        namers.append(namer)
    while True:  # a log that is written to signs a few checkpoints a second: all proofs must end in the same one
        opening["proof"] = proof(position)
        for namer in namers:
            namer["proof"] = proof(namer["position"])
        if len({held["proof"].partition("\n\n")[2] for held in (opening, *namers)}) == 1:
            break
    held = json.dumps({**opening, "named_by": namers}, indent=1)
    return f'{held[:-2]},\n "event": {event}\n}}\n'


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    sys.stdout.write(keep(sys.argv[1], *map(int, sys.argv[2:])))
