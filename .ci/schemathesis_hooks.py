"""Lines, for schemathesis: a generated request has one, of a streamed answer the last is checked."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def write_line(_context, value):
    if isinstance(value, str):
        return value.encode()  # the document's example: lines as they stand
    return (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def read_last_line(_context, response):
    return json.loads(response.content.splitlines()[-1])
