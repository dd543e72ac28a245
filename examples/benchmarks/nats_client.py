"""Publishers to a JetStream stream, each waiting for the server's acknowledgement of its message or atomic batch.

The `nats` tool is in no package registry that Debian, PyPI or npm keep, so this speaks the protocol itself. One thread serves
all connections; it manages several times what a server that syncs each message answers.
"""

import itertools
import json
import selectors
import socket
import time

BATCH_ID = b"@" * 12


class Connection:
    def __init__(self, port, number):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox = f"_INBOX.{number}"
        self.rest = b""
        options = json.dumps({"verbose": False, "pedantic": False, "headers": True, "lang": "python", "version": "0"})
        self.socket.sendall(f"CONNECT {options}\r\nSUB {self.inbox} 1\r\n".encode())

    def message(self, subject, payload):
        return f"PUB {subject} {self.inbox} {len(payload)}\r\n".encode() + payload + b"\r\n"

    def batch(self, subject, payload, size):
        """An atomic batch, which is stored and acknowledged as one; BATCH_ID stands for its name."""
        parts = []
        for number in range(1, size + 1):
            is_last = number == size
            head = f"NATS/1.0\r\nNats-Batch-Id: {BATCH_ID.decode()}\r\nNats-Batch-Sequence: {number}\r\n"
            head += "Nats-Batch-Commit: 1\r\n\r\n" if is_last else "\r\n"
            reply = f"{self.inbox} " if is_last else ""
            parts.append(f"HPUB {subject} {reply}{len(head)} {len(head) + len(payload)}\r\n{head}".encode() + payload + b"\r\n")
        return b"".join(parts)

    def answers(self):
        """JSON answers that have arrived."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise RuntimeError("the NATS server hung up")
        *lines, self.rest = (self.rest + data).split(b"\r\n")
        found = []
        for line in lines:
            if line.startswith(b"{"):
                found.append(line)
            elif line.startswith(b"PING"):
                self.socket.sendall(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise RuntimeError(line.decode())
        return found

    def ask(self, subject, payload):
        self.socket.sendall(self.message(subject, json.dumps(payload).encode()))
        while not (found := self.answers()):
            pass
        answer = json.loads(found[0])
        if "error" in answer:
            raise RuntimeError(answer["error"])


def publish(port, connections, batch, payload, seconds, warmup=1):
    """Events a second, and seconds that each message or batch took."""
    stream = {"name": "bench", "subjects": ["bench.>"], "storage": "file", "allow_atomic": True}
    Connection(port, "create").ask("$JS.API.STREAM.CREATE.bench", stream)
    select, begun, took, names = selectors.DefaultSelector(), {}, [], itertools.count(10**11)

    def send(connection, request):
        begun[connection] = time.perf_counter()
        connection.socket.sendall(request.replace(BATCH_ID, b"%012d" % next(names)) if batch > 1 else request)

    for number in range(connections):
        connection, subject = Connection(port, number), f"bench.{number}"
        request = connection.message(subject, payload) if batch == 1 else connection.batch(subject, payload, batch)
        select.register(connection.socket, selectors.EVENT_READ, (connection, request))
        send(connection, request)
    start = time.perf_counter() + warmup
    while time.perf_counter() < start + seconds:
        for key, _ in select.select(1):
            connection, request = key.data
            for answer in map(json.loads, connection.answers()):
                if "seq" not in answer or answer.get("count", 1) != batch:
                    raise RuntimeError(f"not stored as one: {answer}")
                now = time.perf_counter()
                if start <= now < start + seconds:
                    took.append(now - begun[connection])
                send(connection, request)
    for key in list(select.get_map().values()):
        key.fileobj.close()
    return len(took) * batch / seconds, took
