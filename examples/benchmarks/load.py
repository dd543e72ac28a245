"""What feeds and reads a server: processes, each with one keep-alive connection and bodies that were made once."""

import base64
import multiprocessing
import os
import random
import signal
import socket
import time

STREAM_EVENTS = 100
BODY_STREAMS = 100
# Stands for a body's number in the names of its streams.
NUMBER = b"@@@@@@@"


class Caller:
    """HTTP/1.1 over one socket: enough for answers with a length or in chunks."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb", buffering=1 << 16)

    def call(self, head, body=b"", kind="application/x-ndjson"):
        """Status and body; the answer's headers are kept in `headers`."""
        self.socket.sendall(f"{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n".encode())
        self.socket.sendall(f"Content-Type: {kind}\r\n\r\n".encode() + body if body else b"\r\n")
        first = self.file.readline().split()
        if not first:
            raise ConnectionError("the server hung up")
        status, self.headers = int(first[1]), {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return status, self.file.read(int(self.headers.get("content-length", 0)))
        found = []
        while size := int(self.file.readline(), 16):
            found.append(self.file.read(size))
            self.file.readline()
        self.file.readline()
        return status, b"".join(found)


def template(data_bytes, streams, events):
    """Lines of `events` events for each of `streams` streams, in turn; the text is random, so it hardly compresses."""
    text_bytes = max(1, data_bytes - len('{"text":""}'))
    noise = base64.b64encode(os.urandom(1 << 20)).decode()
    lines = []
    for _ in range(events):
        for stream in range(streams):
            begin = random.randrange(len(noise) - text_bytes)
            name = f"s-{NUMBER.decode()}-{stream}"
            lines.append(f'{{"stream":"{name}","type":"bench","data":{{"text":"{noise[begin : begin + text_bytes]}"}}}}\n')
    return "".join(lines).encode()


def child():
    """A process of the load leaves Ctrl-C to its parent and ends at once when that says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def feed(port, body, numbers, refused):
    """Sends the body once for each number."""
    child()
    caller = Caller(port)
    for number in numbers:
        status, answer = caller.call("POST /v1/events", body.replace(NUMBER, b"%07d" % number))
        if status != 200 or b'"problem"' in answer:
            refused.put(answer[-500:].decode())
            return


def bulk(port, body, numbers, processes=3):
    """Loads bodies `numbers` from several processes; seconds that it took."""
    refused = multiprocessing.Queue()
    begun = time.monotonic()
    started = [
        multiprocessing.Process(target=feed, args=(port, body, numbers[n::processes], refused), daemon=True)
        for n in range(processes)
    ]
    run(started)
    if not refused.empty():
        raise RuntimeError(f"a line was refused: {refused.get()}")
    return time.monotonic() - begun


def run(started):
    try:
        for process in started:
            process.start()
        for process in started:
            process.join()
            if process.exitcode:
                raise RuntimeError("a process of the load broke off")
    finally:
        for process in started:
            process.terminate()


def ask(port, paths, seconds, took):
    """Reads random ones of `paths` until the time is over."""
    child()
    caller, mine, end = Caller(port), [], time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        status, answer = caller.call("GET " + random.choice(paths))
        if status != 200 or b'"position"' not in answer:
            raise RuntimeError(f"{status}: {answer[:300]}")
        mine.append(time.monotonic() - begun)
    took.put(mine)


def read(port, paths, seconds, processes=4):
    """Requests a second, and what each took."""
    took = multiprocessing.Queue()
    started = [multiprocessing.Process(target=ask, args=(port, paths, seconds, took), daemon=True) for _ in range(processes)]
    try:
        for process in started:
            process.start()
        found = [took.get(timeout=seconds + 60) for _ in started]
    finally:
        for process in started:
            process.terminate()
    found = [one for some in found for one in some]
    return len(found) / seconds, found
