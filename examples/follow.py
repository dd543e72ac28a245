#!/usr/bin/env python3
"""Follows every event and, cut or stopped, goes on where it was: no gap, no repeat.

Usage: follow.py [CURSOR_FILE]; KIMBERLITE_URL names the server. Standard library only.
"""
import http.client, json, os, pathlib, sys, time, urllib.error, urllib.request  # noqa: E401

url = os.environ.get("KIMBERLITE_URL", "http://127.0.0.1:7070") + "/v1/events"
cursor_file = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "follow.cursor")


def frames(lines):
    """SSE: fields, then an empty line. A frame that was cut has no empty line and is dropped."""
    frame = {}
    for line in lines:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            frame[name] = value
        elif frame:
            yield frame
            frame = {}


def check(problem):
    """A problem says itself whether coming back makes sense."""
    if not json.loads(problem)["retryable"]:
        sys.exit(problem)


while True:
    headers = {"Accept": "text/event-stream"}
    if cursor_file.exists():
        headers["Last-Event-ID"] = cursor_file.read_text()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as lines:
            for frame in frames(lines):
                if frame["event"] == "error":
                    check(frame["data"])
                if frame["event"] == "event":
                    event = json.loads(frame["data"])
                    print(event["position"], event["stream"], event["type"], flush=True)  # your work goes here
                if "id" in frame:  # stored after the work: a crash in between repeats one event, and loses none
                    cursor_file.with_suffix(".new").write_text(frame["id"])
                    cursor_file.with_suffix(".new").replace(cursor_file)
    except urllib.error.HTTPError as refused:
        check(refused.read().decode())
    except (OSError, http.client.HTTPException):
        pass  # cut, or nobody there: the heartbeat every 10 s tells the two from silence
    time.sleep(0.5)
