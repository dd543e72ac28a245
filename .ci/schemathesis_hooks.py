"""For schemathesis: lines (a generated request has one, of a streamed answer the last is checked), and folders of this machine."""

import json
import os

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def write_line(_context, value):
    if isinstance(value, str):
        return value.encode()  # the document's example: lines as they stand
    return (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def read_last_line(_context, response):
    return json.loads(response.content.splitlines()[-1])


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """A backup makes a folder of this machine: it goes where the run's notes go."""
    body = case.body
    if case.path == "/v1/backups" and isinstance(body, dict) and str(body.get("folder", "")).startswith("/"):
        case.body = {**body, "folder": os.getcwd() + body["folder"]}
