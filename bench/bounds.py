#!/usr/bin/env python3
"""Bounds of the views, each by a run of the real binary: bench/bounds.py [--only month,restart,tpch,hot] [--dir PATH] [--mainstem PATH]

- month: event time of 30 days in ten steps into hourly windows (EMIT ON WINDOW CLOSE); rows of state and RssAnon after each step.
- restart: a view with at least 1 GB of state, kill -9 after a checkpoint; from exec to the first SELECT that answers.
- tpch: TPC-H at scale 0.1 (PyPI's tpchgen-cli), all 22 queries as views, half of the rows before and half after them, then deletes;
  --state-memory-bytes 256 MiB; every view equals its query, RSS at most 500 MB (VmHWM, less what SELECTs of the comparison need).
- hot: a join whose one key meets a million rows, beside a small view: the longest that the small view stood still meanwhile.

Prints a line for each figure; nothing is left behind. The status is 1 if a bound does not hold.
"""

import json
import re
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

from start import ROOT, Server, directory, parser_of

TPCH = ROOT / "crates/mainstem-engine/tests/suites/tpch"
HOURS = 24 * 30
failures: list[str] = []


def check(what: str, figure: str, holds: bool) -> None:
    print(f"{what}: {figure}{'' if holds else ' - the bound does not hold'}", flush=True)
    if not holds:
        failures.append(what)


def memory(server: Server, name: str) -> float:
    """MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M).group(1)) * 1.024e-3


def sql(options, server: Server, text: str, rows=None) -> list[list[str]]:
    command = [options.mainstem, "sql", "--pg", f"127.0.0.1:{server.pg}", "--csv", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, stdin=rows or subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{text[:300]}\n{done.stderr}")
    return [line.split(",") for line in done.stdout.splitlines()[1:]]


def produce(options, server: Server, topic: str, lines) -> None:
    command = [options.mainstem, "produce", topic, "-q", "-b", f"127.0.0.1:{server.kafka}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    process.stdin.writelines(lines)
    process.stdin.close()
    if process.wait():
        sys.exit(f"writing to {topic} failed")


def view(options, server: Server, name: str, column: str) -> int:
    return int(sql(options, server, f"SELECT {column} FROM mainstem.views WHERE name = '{name}'")[0][0])


def month(options, place: Path) -> None:
    server = Server(options.mainstem, place / "month")
    sql(options, server, "CREATE SOURCE readings (sensor int, value double precision, at timestamp, WATERMARK FOR at AS at - "
        "INTERVAL '5 minutes') WITH (topic = 'readings', partitions = 2) FORMAT PLAIN ENCODE JSON")
    sql(options, server, "CREATE MATERIALIZED VIEW hourly AS SELECT window_start, sensor, count(*) AS n, avg(value) AS mean FROM "
        "tumble(readings, at, INTERVAL '1 hour') GROUP BY window_start, sensor, window_end EMIT ON WINDOW CLOSE")
    sql(options, server, "CREATE MATERIALIZED VIEW busiest AS SELECT window_start, max(n) AS n FROM (SELECT window_start, window_end, "
        "sensor, count(*) AS n FROM tumble(readings, at, INTERVAL '1 hour') GROUP BY window_start, window_end, sensor) AS c "
        "GROUP BY window_start, window_end EMIT ON WINDOW CLOSE")
    states = []
    for step in range(10):
        first = step * HOURS // 10
        lines = (json.dumps({"sensor": n % 500, "value": n % 97, "at": f"2026-01-{1 + hour // 24:02}T{hour % 24:02}:{n // 60 % 60:02}:{n % 60:02}"})
                 + "\n" for hour in range(first, (step + 1) * HOURS // 10) for n in range(3000))
        produce(options, server, "readings", lines)
        sql(options, server, "FLUSH")
        states.append(view(options, server, "hourly", "state_rows") + view(options, server, "busiest", "state_rows"))
        print(f"month: after day {3 * (step + 1)}: {states[-1]} rows of state, RssAnon {memory(server, 'RssAnon'):.0f} MB", flush=True)
    check("month", f"rows of state {min(states)} to {max(states)}", max(states) <= 2 * max(1, min(states)))
    server.kill()


def restart(options, place: Path) -> None:
    server = Server(options.mainstem, place / "restart", "--checkpoint-interval-seconds", "5")
    sql(options, server, "CREATE SOURCE visits (visitor bigint, page varchar, n bigint) WITH (topic = 'visits', partitions = 2) FORMAT "
        "PLAIN ENCODE JSON")
    sql(options, server, "CREATE MATERIALIZED VIEW pages AS SELECT visitor, page, count(*) AS visits, max(n) AS newest, min(n) AS oldest "
        "FROM visits GROUP BY visitor, page")
    page, written, bytes_now = "x" * 180, 0, 0
    while bytes_now < 1_000_000_000 and written < 20_000_000:
        lines = (f'{{"visitor": {n}, "page": "{page}{n % 7}", "n": {n}}}\n' for n in range(written, written + 500_000))
        produce(options, server, "visits", lines)
        written += 500_000
        sql(options, server, "FLUSH")
        bytes_now = view(options, server, "pages", "state_bytes")
        print(f"restart: {written} groups, {bytes_now / 1e6:.0f} MB of state, RssAnon {memory(server, 'RssAnon'):.0f} MB", flush=True)
    cut = server.get("/metrics")
    checkpoints = lambda: int(float(re.search(r"^mainstem_engine_checkpoints\S* (\S+)", server.get("/metrics"), re.M).group(1)))
    before = checkpoints()
    while checkpoints() < before + 1:
        produce(options, server, "visits", ['{"visitor": -1, "page": "p", "n": 1}\n'])
        time.sleep(0.5)
    for _ in range(3):
        server.kill()
        begin = time.monotonic()
        server = Server(options.mainstem, place / "restart", "--checkpoint-interval-seconds", "5")
        visits = sql(options, server, f"SELECT visits FROM pages WHERE visitor = 17 AND page = '{page}3'")
        seconds = time.monotonic() - begin
        check("restart", f"{bytes_now / 1e6:.0f} MB of state, {seconds:.2f} s to the first answer, RssAnon {memory(server, 'RssAnon'):.0f} MB",
              seconds < 2 and visits == [["1"]])
    server.kill()


def tpchgen(place: Path) -> Path:
    tools, rows = ROOT / "target/bench-tpch", place / "rows"
    if not (tools / "bin/tpchgen-cli").exists():
        venv.create(tools, with_pip=True)
        subprocess.run([tools / "bin/pip", "install", "-q", "tpchgen-cli"], check=True)
    subprocess.run([tools / "bin/tpchgen-cli", "-s", "0.1", "--format", "csv", "--output-dir", rows], check=True)
    return rows


def tpch(options, place: Path) -> None:
    rows = tpchgen(place)
    server = Server(options.mainstem, place / "tpch", "--state-memory-bytes", str(256 << 20))
    sql(options, server, (TPCH / "tables.sql").read_text())

    def copy(table: str, part: int) -> None:
        lines = (rows / f"{table}.csv").read_text().splitlines(keepends=True)
        half = len(lines) // 2
        chosen = lines[1:half] if part == 0 else lines[half:]
        for start in range(0, len(chosen), 100_000):
            piece = place / "piece.csv"
            piece.write_text("".join(chosen[start:start + 100_000]))
            with piece.open() as file:
                sql(options, server, f"COPY {table} FROM STDIN WITH (FORMAT csv)", file)

    names = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"]
    for table in names:
        copy(table, 0)
    queries = sorted(TPCH.glob("q*.sql"), key=lambda path: int(path.stem[1:]))
    text = {path.stem: "\n".join(line for line in path.read_text().splitlines() if not line.startswith("--")) for path in queries}
    for name, query in text.items():
        sql(options, server, f"CREATE MATERIALIZED VIEW {name} AS {query}")
        print(f"tpch: {name} is kept, RSS {memory(server, 'VmRSS'):.0f} MB", flush=True)
    for table in names:
        copy(table, 1)
        print(f"tpch: {table} is written, RSS {memory(server, 'VmRSS'):.0f} MB", flush=True)
    sql(options, server, "DELETE FROM lineitem WHERE l_orderkey % 10 = 3; DELETE FROM orders WHERE o_orderkey % 10 = 3; FLUSH")
    check("tpch", f"RSS at most {memory(server, 'VmHWM'):.0f} MB", memory(server, "VmHWM") <= 500)
    different = []
    for name, query in text.items():
        kept = sorted(sql(options, server, f"SELECT * FROM {name}"))
        asked = sorted(sql(options, server, query))
        if kept != asked:
            different.append(name)
    check("tpch", f"{len(text) - len(different)} of {len(text)} views equal their query {different}", not different)
    server.kill()


def hot(options, place: Path) -> None:
    server = Server(options.mainstem, place / "hot")
    sql(options, server, "CREATE TABLE left_side (k int, n int); CREATE TABLE right_side (k int, n int); CREATE TABLE ticks (n int PRIMARY KEY)")
    sql(options, server, "CREATE MATERIALIZED VIEW matched AS SELECT l.k, sum(l.n + r.n) AS s, count(*) AS pairs FROM left_side AS l JOIN right_side AS r "
        "ON l.k = r.k GROUP BY l.k; CREATE MATERIALIZED VIEW small AS SELECT count(*) AS n, max(n) AS newest FROM ticks")
    for start in range(0, 1_000_000, 100_000):
        sql(options, server, f"INSERT INTO left_side SELECT 1, n FROM generate_series({start}, {start + 99_999}) AS s(n)")
    sql(options, server, "FLUSH")
    running, longest = True, 0.0

    def poll() -> None:
        nonlocal longest
        n = 0
        while running:
            begin = time.monotonic()
            sql(options, server, f"INSERT INTO ticks VALUES ({n}); SELECT newest FROM small")
            longest = max(longest, time.monotonic() - begin)
            n += 1

    poller = threading.Thread(target=poll)
    poller.start()
    time.sleep(2)
    quiet, longest = longest, 0.0
    begin = time.monotonic()
    sql(options, server, "INSERT INTO right_side SELECT 1, n FROM generate_series(1, 20) AS s(n); SELECT pairs FROM matched")
    took = time.monotonic() - begin
    running = False
    poller.join()
    pairs = sql(options, server, "SELECT pairs FROM matched")
    check("hot", f"20 million pairs took {took:.2f} s; a write and a read of the small view took at most {longest * 1000:.0f} ms "
          f"meanwhile, {quiet * 1000:.0f} ms before", longest < max(0.5, took / 4) and pairs == [["20000000"]])
    server.kill()


def main() -> int:
    parser = parser_of("Bounds of the views.")
    parser.add_argument("--only", help="some of month,restart,tpch,hot")
    options = parser.parse_args()
    bounds = {"month": month, "restart": restart, "tpch": tpch, "hot": hot}
    for name in options.only.split(",") if options.only else bounds:
        with directory(options.dir) as place:
            bounds[name](options, place)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
