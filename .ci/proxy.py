"""A proxy that breaks connections on purpose, in front of the server under test."""

import socket
import threading
import urllib.parse


class Proxy:
    """Listens on a free loopback port.

    `stall_after`: the server gets this many bytes in all; then everything stands still, `stalled` is set.
    `cut_after`: each connection is cut once this many bytes have come back; `cuts` counts them.
    """

    def __init__(self, url, stall_after=None, cut_after=None):
        upstream = urllib.parse.urlsplit(url)
        self.upstream = (upstream.hostname, upstream.port)
        self.budget = stall_after
        self.cut_after = cut_after
        self.cuts = 0
        self.stalled = threading.Event()
        self.lock = threading.Lock()
        self.sockets = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(self.upstream)
            self.sockets += [client, server]
            threading.Thread(target=self.up, args=(client, server), daemon=True).start()
            threading.Thread(target=self.down, args=(server, client), daemon=True).start()

    def up(self, client, server):
        try:
            while data := client.recv(4096):
                if self.budget is not None:
                    with self.lock:
                        data = data[: self.budget]
                        self.budget -= len(data)
                server.sendall(data)
                if self.budget == 0:
                    self.stalled.set()
                    return
        except OSError:
            pass  # the other side is gone: end this one too
        hang_up(client, server)

    def down(self, server, client):
        left = self.cut_after
        try:
            while data := server.recv(4096):
                client.sendall(data if left is None else data[:left])
                if left is not None and len(data) >= left:
                    self.cuts += 1
                    break
                left = left and left - len(data)
        except OSError:
            pass  # as above
        hang_up(client, server)

    def close(self):
        self.listener.close()
        hang_up(*self.sockets)


def hang_up(*sockets):
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already
        one.close()
