#!/usr/bin/env python3
"""What many partitions cost: bench/partitions.py [--partitions N] [--dir PATH] [--mainstem PATH]

Writes records to all partitions of a topic of N (10,000) with `mainstem bench throughput`, and prints memory (RssAnon) and open
files of the server before, with the data, and after kill -9 and a start; and how long that start took. Nothing is left behind.
"""

import os
import subprocess
import sys
from pathlib import Path

from start import Server, directory, parser_of


def show(what: str, server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    print(f"{what}: RssAnon {kib / 1024:.1f} MiB, {files} open files, ready after {server.ready_ms:.0f} ms", flush=True)
    return kib


def main() -> int:
    parser = parser_of("Memory and open files with many partitions.")
    parser.add_argument("--partitions", type=int, default=10_000, help="of one topic (default: %(default)s)")
    options = parser.parse_args()
    with directory(options.dir) as place:
        server = Server(options.mainstem, place / "data")
        before = show("empty", server)
        subprocess.run([options.mainstem, "bench", "throughput", "--partitions", str(options.partitions), "--produce-only",
                        "--records", str(100 * options.partitions), "-b", f"127.0.0.1:{server.kafka}"], check=True)
        show("written", server)
        for _ in range(3):
            server.kill()
            server = Server(options.mainstem, place / "data")
            now = show("after kill -9", server)
        print(f"{(now - before) / options.partitions:.2f} KiB for each of {options.partitions:,} partitions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
