"""What the checks ask of a running server. Standard library only."""

import json
import os
import urllib.parse
import urllib.request

URL = os.environ.get("KIMBERLITE_URL", "http://127.0.0.1:7070")


def get(path):
    with urllib.request.urlopen(URL + path, timeout=30) as answer:
        return json.load(answer)


def append(stream, events):
    path = f"/v1/streams/{urllib.parse.quote(stream, safe='')}/events"
    body = json.dumps({"events": events}).encode()
    with urllib.request.urlopen(urllib.request.Request(URL + path, body, {"content-type": "application/json"}), timeout=30) as answer:
        assert answer.status == 201, answer.status


def pages(path, key):
    """Every item of a collection, page by page along `next`."""
    while path:
        page = get(path)
        yield from page[key]
        path = page["next"]


def events(prefix=""):
    """All events of streams with this prefix; checks positions, versions and ids on the way."""
    found, last, versions, ids = [], -1, {}, set()
    query = urllib.parse.urlencode({"limit": 1000, **({"stream_prefix": prefix} if prefix else {})})
    for event in pages(f"/v1/events?{query}", "events"):
        stream = event["stream"]
        assert event["position"] > last, f"position {event['position']} after {last}"
        assert event["version"] == versions.get(stream, -1) + 1, f"{stream} skips to {event['version']}"
        assert event["id"] not in ids, f"id {event['id']} twice"
        last = event["position"]
        versions[stream] = event["version"]
        ids.add(event["id"])
        found.append(event)
    return found


def streams(prefix):
    query = urllib.parse.urlencode({"limit": 1000, "prefix": prefix})
    return {row["stream"]: row["version"] for row in pages(f"/v1/streams?{query}", "streams")}


def head():
    return get("/v1/events?limit=1")["head"]
