"""What the checks ask of a running server, and servers of their own. Standard library only."""

import json
import os
import subprocess
import urllib.parse
import urllib.request

URL = os.environ.get("KIMBERLITE_URL", "http://127.0.0.1:7070")


class Server:
    """One of its own, which can be stopped and started with other settings."""

    def __init__(self, folder, **settings):
        command = [os.environ["KIMBERLITE"], "dev", "--listen", "127.0.0.1:0", "--data", f"{folder}/data"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **settings})
        self.url = next(line for line in self.process.stdout if "http://127.0.0.1:" in line).split("listens on ")[1].split()[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.stdout.read()
        assert self.process.wait(30) == 0, "the server did not stop cleanly"


def get(path):
    with urllib.request.urlopen(URL + path, timeout=30) as answer:
        return json.load(answer)


def append(stream, events, url=URL):
    path = f"/v1/streams/{urllib.parse.quote(stream, safe='')}/events"
    body = json.dumps({"events": events}).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, body, {"content-type": "application/json"}), timeout=30) as answer:
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
