#!/usr/bin/env python3
"""How long a start takes after kill -9 with much data: bench/start.py [--gb N] [--dir PATH] [--mainstem PATH]

Writes N GB of 1 KiB records through the Kafka door with `mainstem bench throughput` (real segments, nothing sparse; it needs
that much space on the disk), kills the server with SIGKILL while more is being written, and starts it again five times,
killing it each time. Prints from exec to the first answer of GET /ready, and what recovery read. Nothing is left behind.
"""

import argparse
import contextlib
import http.client
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD_BYTES = 1024
STARTS = 5


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Server:
    all: list["Server"] = []

    def __init__(self, mainstem: Path, data: Path, *arguments: str):
        self.http, self.kafka, self.pg = free_port(), free_port(), free_port()
        self.log = data.with_suffix(".log").open("w+")
        begin = time.monotonic()
        self.process = subprocess.Popen(
            [mainstem, "serve", "--data-dir", data, "--kafka-listen", f"127.0.0.1:{self.kafka}",
             "--pg-listen", f"127.0.0.1:{self.pg}", "--http-listen", f"127.0.0.1:{self.http}", *arguments],
            stdout=subprocess.DEVNULL, stderr=self.log)
        Server.all.append(self)
        while self.get("/ready") is None:
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"the server ended: {self.log.read()[-2000:]}")
            time.sleep(0.002)
        self.ready_ms = (time.monotonic() - begin) * 1000

    def get(self, path: str):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=5)
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            return body if answer.status == 200 else None
        except OSError:
            return None

    def kill(self):
        self.process.kill()
        self.process.wait()


def parser_of(description: str) -> argparse.ArgumentParser:
    """With what every such script asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dir", type=Path, help="where the data directory is made (default: the temporary directory)")
    parser.add_argument("--mainstem", type=Path, default=ROOT / "target/release/mainstem", help="a release binary")
    return parser


@contextlib.contextmanager
def directory(parent: Path | None):
    """For the servers of one run. Afterwards none runs, and it is gone."""
    place = Path(tempfile.mkdtemp(prefix="mainstem-bench-", dir=parent))
    try:
        yield place
    finally:
        for server in Server.all:
            server.kill()
        shutil.rmtree(place, ignore_errors=True)


def main() -> int:
    parser = parser_of("Times starts after kill -9 with much data.")
    parser.add_argument("--gb", type=float, default=50, help="GB of records (default: %(default)s)")
    options = parser.parse_args()
    with directory(options.dir) as place:
        if shutil.disk_usage(place).free < options.gb * 1.1e9:
            parser.error(f"{place} has no room for {options.gb:g} GB")
        server = Server(options.mainstem, place / "data")
        records = int(options.gb * 1e9 / RECORD_BYTES)
        write = [options.mainstem, "bench", "throughput", "--bytes", str(RECORD_BYTES), "-b", f"127.0.0.1:{server.kafka}"]
        begin = time.monotonic()
        subprocess.run([*write, "--records", str(records), "--produce-only"], check=True)
        print(f"wrote {options.gb:g} GB in {time.monotonic() - begin:.0f} s", flush=True)
        more = subprocess.Popen([*write, "--records", str(records), "--produce-only"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)
        server.kill()
        more.kill()
        more.wait()
        for _ in range(STARTS):
            server = Server(options.mainstem, place / "data")
            replayed = re.findall(r"^(mainstem_log_recovery\w+) (\d+)", server.get("/metrics") or "", re.M)
            print(f"ready after {server.ready_ms:.0f} ms; {', '.join(f'{name} {value}' for name, value in replayed)}", flush=True)
            server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
