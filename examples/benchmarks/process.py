"""Processes that are started for a run, each in a folder of its own, and end with it, also on Ctrl-C."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request


def stop_on_signals():
    """SIGTERM ends a run like Ctrl-C: through the `finally` of whoever started something."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def temporary_folder(parent):
    """A folder that other users (PostgreSQL refuses to run as root) may enter."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kimberlite-bench-", dir=parent))
    folder.chmod(0o755)
    return folder


class Process:
    """A server in the background. Ctrl-C reaches it through us only: it has a session of its own."""

    def __init__(self, command, folder, user=None, **environment):
        self.log = pathlib.Path(folder) / "output"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                env={**os.environ, **environment},
            )

    def wait_until(self, ready, seconds=60):
        end = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.process.args[0]} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self, how=signal.SIGTERM, seconds=60):
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Kimberlite:
    """A server on a folder; the folder outlives it."""

    def __init__(self, binary, folder, **environment):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [binary, "dev", "--data", pathlib.Path(folder) / "data", "--listen", f"127.0.0.1:{self.port}"]
        self.started = time.monotonic()
        self.server = Process(self.command, folder, **environment)
        self.pid = self.server.process.pid
        try:
            self.server.wait_until(self.is_ready)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        self.start_s = time.monotonic() - self.started

    def is_ready(self):
        try:
            with urllib.request.urlopen(self.url + "/health/ready", timeout=5):
                return True
        except OSError:
            return False

    def stop(self, how=signal.SIGTERM):
        self.server.stop(how)

    def metrics(self):
        """Values of those metrics that have no labels."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        split = (line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "{" not in line)
        return {name: float(value) for name, value in split}

    def rss_bytes(self):
        """Memory that it has; 0 once it has ended."""
        return self.status_bytes("VmRSS:")

    def anon_bytes(self):
        """Likewise, without the pages of its program, which the system can drop at any time."""
        return self.status_bytes("RssAnon:")

    def status_bytes(self, field):
        try:
            status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        return int(status.split(field)[1].split()[0]) * 1024 if field in status else 0


def version(command):
    """The first line that a program says of itself, or nothing where it is not there."""
    if not shutil.which(str(command[0])):
        return None
    said = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    return (said.stdout or said.stderr).strip().split("\n")[0]
