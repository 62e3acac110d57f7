#!/usr/bin/env python3
"""What stays within bounds: bench/bounds.py [--only division,hot-key,...] [--mainstem PATH] [--dir PATH]

Each check starts a server of its own, says what it saw in a line of a table for bench/RESULTS.md, and fails if an answer is wrong.

- division: a view that divides by zero shows an error; all others go on, and it comes back when the row has gone.
- hot-key: one row that meets a million others in a join comes and goes; how long a view of another table takes meanwhile.
- month: a month of event time with hourly windows; memory at its beginning and at its end.
- restart: a gigabyte of state; from exec to the answer to a lookup, after kill -9 and after SIGTERM.
- tpch: TPC-H at scale 0.1, its 22 queries as views, with 500 MB for state; equal to the same text as a SELECT.

tpch needs the package tpchgen-cli, which it installs into target/bench-bounds.
"""

import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

from start import Server, directory, parser_of  # noqa: E402

TARGET = ROOT / "target/bench-bounds"
TPCH = ROOT / "crates/mainstem-engine/tests/suites/tpch"
PATIENCE_S = 500


class Check:
    """A server, and what is asked of it."""

    def __init__(self, mainstem: Path, data: Path, *arguments: str):
        self.mainstem, self.data, self.arguments = mainstem, data, arguments
        self.server = Server(mainstem, data, *arguments)

    def sql(self, text: str, stdin: str | None = None, check: bool = True) -> str:
        command = [self.mainstem, "sql", "--csv", "--pg", f"127.0.0.1:{self.server.pg}", "-c", text]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S)
        if check and done.returncode != 0:
            sys.exit(f"{text[:200]}\n{done.stderr[-2000:]}")
        return done.stdout if done.returncode == 0 else done.stderr

    def rows(self, text: str) -> list[str]:
        return self.sql(text).splitlines()[1:]

    def value(self, text: str) -> str:
        return self.rows(text)[0]

    def wait(self, text: str, value: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while (seen := self.value(text)) != value:
            if time.monotonic() > end:
                sys.exit(f"{text}: {seen}, not {value} after {PATIENCE_S} s")
            time.sleep(0.05)

    def topic(self, name: str) -> None:
        command = [self.mainstem, "topic", "create", name, "-b", f"127.0.0.1:{self.server.kafka}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE_S)

    def produce(self, topic: str, lines: list[str]) -> None:
        command = [self.mainstem, "produce", topic, "-q", "-b", f"127.0.0.1:{self.server.kafka}"]
        subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True, timeout=PATIENCE_S)

    def memory_mb(self, field: str = "RssAnon") -> float:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", status, re.M).group(1)) / 1024

    def metric(self, name: str) -> float:
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)", self.server.get("/metrics") or "", re.M)
        return sum(float(value) for value in found)

    def stop(self, how: int) -> None:
        self.server.process.send_signal(how)
        self.server.process.wait()

    def start(self) -> None:
        self.server = Server(self.mainstem, self.data, *self.arguments)


def holds(condition: bool, what: str) -> None:
    if not condition:
        sys.exit(f"does not hold: {what}")


def division(check: Check) -> str:
    check.sql("CREATE TABLE t (id INT PRIMARY KEY, a INT)")
    check.sql("CREATE MATERIALIZED VIEW bad AS SELECT id, 100 / a AS part FROM t")
    check.sql("CREATE MATERIALIZED VIEW above_bad AS SELECT count(*) AS n FROM bad")
    check.sql("CREATE MATERIALIZED VIEW good AS SELECT count(*) AS n, sum(a) AS s FROM t")
    check.sql("INSERT INTO t VALUES (1, 5), (2, 0)")
    error = check.sql("SELECT * FROM bad", check=False)
    holds("division by zero" in error, f"the view tells its error: {error}")
    holds("division by zero" in check.sql("SELECT * FROM above_bad", check=False), "so does the view above it")
    holds(check.rows("SELECT * FROM good") == ["2,5"], "the other view has both rows")
    for row in range(3, 1003):
        if row % 100 == 0:
            check.sql(f"INSERT INTO t SELECT i, 1 FROM generate_series({row}, {row + 99}) AS s(i)")
    n = int(check.value("SELECT n FROM good"))
    check.sql("DELETE FROM t WHERE a = 0")
    holds(check.value("SELECT count(*) FROM bad") == str(n - 1), "the view is back without the row")
    holds(check.value("SELECT n FROM above_bad") == str(n - 1), "and the view above it")
    return f"the other view had all {n} rows meanwhile; the view and the one above it came back when the row had gone"


def hot_key(check: Check) -> str:
    check.sql("CREATE TABLE many (id INT PRIMARY KEY, k INT)")
    check.sql("CREATE TABLE one (id INT PRIMARY KEY, k INT)")
    check.sql("CREATE TABLE calm (id INT PRIMARY KEY)")
    check.sql("CREATE MATERIALIZED VIEW hot AS SELECT one.id AS o, many.id AS m FROM one JOIN many ON one.k = many.k")
    check.sql("CREATE MATERIALIZED VIEW other AS SELECT count(*) AS n FROM calm")
    for begin in range(0, 1_000_000, 100_000):
        check.sql(f"INSERT INTO many SELECT i, 1 FROM generate_series({begin}, {begin + 99_999}) AS s(i)")
    check.value("SELECT count(*) FROM hot")
    latencies: dict[bool, list[float]] = {False: [], True: []}
    busy, done, at = threading.Event(), threading.Event(), [0]

    def write() -> None:
        while not done.is_set():
            is_busy, begin = busy.is_set(), time.monotonic()
            at[0] += 1
            check.sql(f"INSERT INTO calm VALUES ({at[0]})")
            holds(check.value("SELECT n FROM other") == str(at[0]), "the other view has the row")
            latencies[is_busy].append((time.monotonic() - begin) * 1000)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(3)
    busy.set()
    took = []
    for _ in range(3):
        begin = time.monotonic()
        check.sql("INSERT INTO one VALUES (1, 1)")
        check.wait("SELECT count(*) FROM hot", "1000000")
        check.sql("DELETE FROM one WHERE id = 1")
        check.wait("SELECT count(*) FROM hot", "0")
        took.append(time.monotonic() - begin)
    busy.clear()
    done.set()
    writer.join()
    quiet, during = latencies[False], latencies[True]
    return (f"a million rows came and went in {statistics.median(took):.1f} s; two processes that write a row and read the other view: "
            f"median {statistics.median(quiet):.0f} ms before, {statistics.median(during):.0f} ms meanwhile, {max(during):.0f} ms at most ({len(during)} times)")


def month(check: Check) -> str:
    check.topic("s")
    check.sql("CREATE SOURCE s (ts TIMESTAMP, k INT, v INT, WATERMARK FOR ts AS ts - INTERVAL '5 minutes') "
              "WITH (connector = 'kafka', topic = 's') FORMAT PLAIN ENCODE JSON")
    check.sql("CREATE MATERIALIZED VIEW hours AS SELECT window_end, k, count(*) AS n, sum(v) AS s, count(DISTINCT v) AS d "
              "FROM tumble(s, ts, INTERVAL '1 hour') GROUP BY window_end, k EMIT ON WINDOW CLOSE")
    check.sql("CREATE MATERIALIZED VIEW pairs AS SELECT a.window_end, count(*) AS n FROM tumble(s, ts, INTERVAL '1 hour') a JOIN s b "
              "ON a.k = b.k AND a.v = b.v AND b.ts BETWEEN a.ts - INTERVAL '1 minute' AND a.ts GROUP BY a.window_end EMIT ON WINDOW CLOSE")
    randomly, per_hour, days, seen = random.Random(1), 2_000, 30, []
    for day in range(days):
        lines = []
        for hour in range(24):
            for second in sorted(randomly.randrange(3_600_000) for _ in range(per_hour)):
                ts = f"2026-01-{day + 1:02}T{hour:02}:{second // 60_000:02}:{second / 1000 % 60:06.3f}"
                lines.append(f'{{"ts": "{ts}", "k": {randomly.randrange(10)}, "v": {randomly.randrange(1000)}}}')
        check.produce("s", lines)
        check.wait("SELECT count(DISTINCT window_end) FROM hours", str((day + 1) * 24 - 1))
        seen.append((check.memory_mb(), check.metric("mainstem_relation_state_rows")))
    n = check.value("SELECT sum(n) FROM hours")
    holds(n == str((days * 24 - 1) * per_hour), f"every event of a closed window is counted: {n}")
    told = ", ".join(f"{seen[day - 1][0]:.0f} MB and {seen[day - 1][1]:.0f} rows after day {day}" for day in (2, 10, 20, 30))
    return f"{days * 24 * per_hour:,} events in 720 windows of 10 keys, and a join of the stream with itself within a minute: {told}"


def restart(check: Check) -> str:
    check.topic("s")
    check.sql("CREATE SOURCE s (id BIGINT, pad VARCHAR) WITH (connector = 'kafka', topic = 's') FORMAT PLAIN ENCODE JSON")
    check.sql("CREATE MATERIALIZED VIEW v AS SELECT id, max(pad) AS pad, count(*) AS n FROM s GROUP BY id")
    randomly, at, begin = random.Random(1), 0, time.monotonic()
    while check.metric("mainstem_state_disk_bytes") < 1e9:
        holds(time.monotonic() - begin < PATIENCE_S, f"a gigabyte of state within {PATIENCE_S} s")
        lines = [f'{{"id": {at + i}, "pad": "{randomly.randbytes(250).hex()}"}}' for i in range(50_000)]
        check.produce("s", lines)
        at += len(lines)
        check.wait("SELECT count(*) FROM v", str(at))
    took = time.monotonic() - begin
    time.sleep(5)
    told = []
    for how, name in ((signal.SIGKILL, "kill -9"), (signal.SIGTERM, "SIGTERM")):
        on_disk = check.metric("mainstem_state_disk_bytes")
        check.stop(how)
        begin = time.monotonic()
        check.start()
        ready = time.monotonic()
        key = randomly.randrange(at)
        holds(check.value(f"SELECT n FROM v WHERE id = {key}") == "1", "the row is there")
        answered = time.monotonic()
        told.append(f"after {name} with {on_disk / 1e6:.0f} MB of state ready in {ready - begin:.2f} s, answered after {answered - begin:.2f} s")
    holds(check.value("SELECT count(*) FROM v") == str(at), "all rows are there")
    return f"{at:,} keys, written in {took:.0f} s; {'; '.join(told)}"


def tpch(check: Check) -> str:
    rows = TARGET / "tpch"
    if not (rows / "lineitem.csv").exists():
        subprocess.run([sys.executable, "-m", "venv", TARGET / "venv"], check=True)
        subprocess.run([TARGET / "venv/bin/pip", "install", "-q", "tpchgen-cli==4.0.0"], check=True)
        subprocess.run([TARGET / "venv/bin/tpchgen-cli", "csv", "-s", "0.1", "--output-dir", rows], check=True)
    tables = (TPCH / "tables.sql").read_text()
    check.sql(tables)
    queries = sorted(TPCH.glob("q*.sql"), key=lambda path: int(path.stem[1:]))
    texts = {path.stem: re.sub(r"^--.*$", "", path.read_text(), flags=re.M).strip().rstrip(";") for path in queries}
    for name, text in texts.items():
        check.sql(f"CREATE MATERIALIZED VIEW {name} AS {text}")
    begin = time.monotonic()
    for table in re.findall(r"CREATE TABLE (\w+)", tables):
        lines = (rows / f"{table}.csv").read_text().splitlines(keepends=True)[1:]
        for begin_line in range(0, len(lines), 100_000):
            check.sql(f"COPY {table} FROM STDIN WITH (FORMAT csv)", "".join(lines[begin_line:begin_line + 100_000]))
    for name in texts:
        check.value(f"SELECT count(*) FROM {name}")
    took, filled, peak = time.monotonic() - begin, 0, check.memory_mb("VmHWM")
    held, limit = check.metric("mainstem_state_memory_bytes"), check.metric("mainstem_state_memory_limit_bytes")
    changes = ("UPDATE lineitem SET l_quantity = l_quantity + 1 WHERE l_orderkey % 7 = 0",
               "DELETE FROM orders WHERE o_orderkey % 11 = 0", "UPDATE supplier SET s_nationkey = 3 WHERE s_suppkey % 5 = 0")
    for change in ("", *changes):
        if change:
            check.sql(change)
        for name, text in texts.items():
            kept, asked = check.rows(f"SELECT * FROM {name}"), check.rows(text)
            holds(sorted(kept) == sorted(asked), f"{name} after '{change}': {len(kept)} rows kept, {len(asked)} asked for")
            filled += len(kept) > 0
    holds(filled > 60, f"views hold something: {filled} of 88")
    return (f"866,602 rows in {took:.0f} s with all 22 views above them; all equal then, and after each of {len(changes)} changes of many rows; "
            f"{held / 1e6:.0f} of {limit / 1e6:.0f} MB for state used, the process had {peak:.0f} MB at most while loading, log, tables and all")


CHECKS = {"division": (division, ()), "hot-key": (hot_key, ()), "month": (month, ()), "restart": (restart, ()),
          "tpch": (tpch, ("--state-memory-bytes", str(500_000_000)))}


def main() -> int:
    parser = parser_of("Checks what stays within bounds.")
    parser.add_argument("--only", default=",".join(CHECKS), help="which, divided by commas (default: all)")
    options = parser.parse_args()
    for name in options.only.split(","):
        if name not in CHECKS:
            parser.error(f"no check {name}: there are {', '.join(CHECKS)}")
        run, arguments = CHECKS[name]
        with directory(options.dir) as place:
            begin = time.monotonic()
            seen = run(Check(options.mainstem, place / "data", *arguments))
            print(f"| {name} | `bench/bounds.py --only {name}` | {time.monotonic() - begin:.0f} s | {seen} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
