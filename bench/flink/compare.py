#!/usr/bin/env python3
"""Mainstem's views beside Apache Flink on this machine, in one run: bench/flink/compare.py [--events N] [--runs N] [--only q4,q7] [--backend rocksdb] [--profile] [--mainstem PATH] [--dir PATH]

One Mainstem server holds Nexmark's events as JSON in three topics of two partitions (`mainstem bench nexmark`). For each query
of bench/flink/queries both read the same topics from its Kafka door, one after the other:

- Mainstem keeps the query as a materialized view: from CREATE MATERIALIZED VIEW until it is ready. All of its rows are kept and
  can be read. CPU is that of the engine's threads alone, sampled from /proc (their names begin with "engine").
- Flink writes the query's changes to nowhere (connector blackhole): from the statement to the end of the job, the second run in
  one JVM and later ones, so that it is compiled. CPU is the JVM's. Exactly-once, a checkpoint every second, parallelism 2,
  mini-batches as in Nexmark's guide, object reuse, state on the heap or in RocksDB.

Events are the records of the topics that a query reads. q6 is missing since Flink refuses it, q13 since it wants an outside file.
In q12 the processing time is Flink's own there, here the time that the broker stamped the record with.
Prints a table for bench/RESULTS.md; it is also in target/bench-flink/results.md. --profile adds the three functions that took
most CPU of the engine (needs Debian's linux-perf).
"""

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from start import Server, directory, parser_of  # noqa: E402

HERE = Path(__file__).resolve().parent
TARGET = ROOT / "target/bench-flink"
OURS = ROOT / "crates/mainstem-engine/tests/suites/nexmark"
TICKS = os.sysconf("SC_CLK_TCK")
KINDS = ("person", "auction", "bid")
SOURCES = {
    "person": "id BIGINT, name VARCHAR, email_address VARCHAR, credit_card VARCHAR, city VARCHAR, state VARCHAR, "
              "date_time TIMESTAMP, extra VARCHAR",
    "auction": "id BIGINT, item_name VARCHAR, description VARCHAR, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP, "
               "expires TIMESTAMP, seller BIGINT, category BIGINT, extra VARCHAR",
    "bid": "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR",
}


class EngineCpu:
    """CPU of the engine's threads, of those that have ended too as far as they were seen."""

    def __init__(self, process: int):
        self.process, self.seen, self.running = process, {}, True
        self.look()
        self.before = dict(self.seen)
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def look(self) -> None:
        for task in Path(f"/proc/{self.process}/task").iterdir():
            try:
                name, fields = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            if name.startswith("engine"):
                fields = fields.split()
                # With its start, since a number may be given again.
                self.seen[(task.name, fields[19])] = (int(fields[11]) + int(fields[12])) / TICKS

    def watch(self) -> None:
        while self.running:
            self.look()
            time.sleep(0.01)

    def stop(self) -> float:
        self.running = False
        self.thread.join()
        self.look()
        return sum(seconds - self.before.get(thread, 0) for thread, seconds in self.seen.items())


def memory(server: Server, name: str) -> float:
    """MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M).group(1)) * 1.024e-3


def sql(options, server: Server, text: str) -> str:
    command = [options.mainstem, "sql", "--pg", f"127.0.0.1:{server.pg}", "--csv", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{text}\n{done.stderr}")
    return done.stdout


def query_of_ours(name: str) -> str:
    lines = (OURS / f"{name}.sql").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))


def profile(server: Server, seconds: float) -> subprocess.Popen:
    data = TARGET / "perf.data"
    return subprocess.Popen(["perf", "record", "-q", "-F", "499", "-g", "-o", data, "-p", str(server.process.pid),
                             "--", "sleep", str(seconds)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def hottest() -> str:
    report = subprocess.run(["perf", "report", "-q", "-i", TARGET / "perf.data", "--no-children", "-g", "none", "--sort",
                             "comm,symbol", "--stdio"], capture_output=True, text=True).stdout
    rows = [row.split(None, 2) for row in report.splitlines() if "engine" in row]
    name = lambda symbol: re.sub(r"::h[0-9a-f]{16}$", "", re.sub(r"^\[[.k]\]\s*", "", symbol.strip()))
    return "; ".join(f"`{name(symbol)}` {share}" for share, _, symbol in rows[:3])


def ours(options, server: Server, name: str) -> dict:
    query = query_of_ours(name)
    runs = []
    for run in range(options.runs):
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
        before = memory(server, "RssAnon")
        cpu = EngineCpu(server.process.pid)
        recorder = profile(server, 600) if options.profile and run == 0 else None
        begin = time.monotonic()
        sql(options, server, f"CREATE MATERIALIZED VIEW {name} AS {query}")
        seconds = time.monotonic() - begin
        if recorder:
            recorder.terminate()
            recorder.wait()
        runs.append({"wall_s": seconds, "cpu_s": cpu.stop(), "memory": memory(server, "VmHWM"), "before": before,
                     "rows": int(sql(options, server, f"SELECT count(*) FROM {name}").split()[-1])})
        sql(options, server, f"DROP MATERIALIZED VIEW {name}")
    result = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    if options.profile:
        result["hottest"] = hottest()
    return result


def flinks(options, server: Server, name: str, place: Path) -> dict:
    libraries = ":".join([str(TARGET / "bench-flink-0.1.0.jar"), *map(str, (TARGET / "lib").glob("*.jar"))])
    opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in
              ("java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util",
               "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch")]
    log = TARGET / f"flink-{name}.log"
    command = ["java", "-Xmx6g", "-Dlog4j2.level=WARN", *opened, "-cp", libraries, "mainstem.NexmarkJob",
               f"127.0.0.1:{server.kafka}", "nexmark", HERE / f"queries/{name}.sql", options.backend,
               str(place / "flink-checkpoints"), str(options.runs + 1)]
    with log.open("w") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=3600)
    runs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or len(runs) != options.runs + 1:
        print(f"{name}: Flink failed, see {log}", file=sys.stderr)
        return {}
    result = {key: statistics.median(run[key] for run in runs[1:]) for key in ("wall_s", "cpu_s")}
    result["memory"] = runs[-1]["rss_max_kb"] * 1.024e-3
    return result


def reads(name: str) -> list[str]:
    text = (HERE / f"queries/{name}.sql").read_text()
    return [kind for kind in KINDS if re.search(rf"(FROM|JOIN|TABLE|,)\s+{kind}\b", text)]


def row(name: str, events: int, mine: dict, theirs: dict) -> str:
    rate = lambda side: f"{events / side['wall_s']:,.0f}" if side else "-"
    cpu = lambda side: f"{side['cpu_s'] * 1e6 / events:.2f}" if side else "-"
    size = lambda side: f"{side['memory']:,.0f}" if side else "-"
    ratio = f"{mine['cpu_s'] / theirs['cpu_s']:.2f}" if theirs else "-"
    return (f"| {name} | {rate(mine)} | {rate(theirs)} | {cpu(mine)} | {cpu(theirs)} | {ratio} | {size(mine)} | {size(theirs)} "
            f"| {mine['rows']:,.0f} |" + (f" {mine['hottest']} |" if "hottest" in mine else ""))


def main() -> int:
    parser = parser_of("Mainstem's views beside Apache Flink, by Nexmark's queries.")
    parser.add_argument("--events", type=int, default=5_000_000, help="of Nexmark, all three kinds (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each (default: %(default)s)")
    parser.add_argument("--only", help="queries, divided by commas")
    parser.add_argument("--backend", choices=("hashmap", "rocksdb"), default="hashmap", help="Flink's state")
    parser.add_argument("--profile", action="store_true", help="the three hottest functions of each of Mainstem's queries")
    parser.add_argument("--ours-only", action="store_true", help="without Flink")
    options = parser.parse_args()
    names = sorted((path.stem for path in (HERE / "queries").glob("q*.sql")), key=lambda name: int(name[1:]))
    if options.only:
        names = options.only.split(",")
    if not options.ours_only:
        subprocess.run(["mvn", "-q", "-f", HERE / "pom.xml", "package"], check=True)
    TARGET.mkdir(parents=True, exist_ok=True)
    head = ["query", "Mainstem, events/s", "Flink, events/s", "Mainstem, CPU-s per million", "Flink, CPU-s per million",
            "CPU ratio", "Mainstem, MB at most", "Flink, MB at most", "rows"] + (["hottest"] if options.profile else [])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    print("\n".join(lines), flush=True)
    with directory(options.dir) as place:
        server = Server(options.mainstem, place / "data", "--checkpoint-interval-seconds", "1")
        subprocess.run([options.mainstem, "bench", "nexmark", "--events", str(options.events), "--partitions", "2",
                        "-b", f"127.0.0.1:{server.kafka}"], check=True, stdout=sys.stderr)
        count = {}
        for kind, columns in SOURCES.items():
            include = " INCLUDE timestamp AS p_time" if kind == "bid" else ""
            sql(options, server, f"CREATE SOURCE {kind} ({columns}, WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')"
                                 f"{include} WITH (topic = 'nexmark-{kind}') FORMAT PLAIN ENCODE JSON")
            count[kind] = int(sql(options, server, f"SELECT count(*) FROM {kind}").split()[-1])
        for name in names:
            mine = ours(options, server, name)
            theirs = {} if options.ours_only else flinks(options, server, name, place)
            lines.append(row(name, sum(count[kind] for kind in reads(name)), mine, theirs))
            print(lines[-1], flush=True)
    (TARGET / "results.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
