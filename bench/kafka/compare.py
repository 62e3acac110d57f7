#!/usr/bin/env python3
"""Mainstem beside Apache Kafka on this machine, in one run: bench/kafka/compare.py [--quick] [--runs N] [--seconds N] [--only TEXT] [--mainstem PATH]

Three brokers, one after the other, each on an empty directory, on loopback and on free ports:

- Mainstem as it comes (it syncs before every acknowledgement);
- stock Kafka: one KRaft node, broker and controller in one, heap and collector as in kafka-server-start.sh, and nothing set
  but ports, directories, node id and replication factors of 1. It never syncs by itself;
- the same Kafka with flush.messages=1 (log.flush.interval.messages): it syncs each batch, as Mainstem does.

The load is Kafka's own: ProducerPerformance and ConsumerPerformance, one process each, acks=all (so idempotent), otherwise
with the clients' defaults. Records are lines of made-up JSON, so that lz4 has something to do. They share the cores with the
broker, so the CPU of the broker per record says more than the throughput.

- Start: from exec to the first answer of GET /ready (Mainstem), or to the first metadata answer that names a broker (Kafka).
- Memory: RssAnon and RSS of the broker 10 s after the start on an empty directory, and after all of the load.
- Warm-up: a discarded run on each broker, so that Kafka's JVM has compiled what it will run, and a short discarded run at
  the head of each setting, which also says how many records make the seconds of a run. Start and memory come before it.
- Settings: {100 B, 1 KiB} x {1, 12, 1000 partitions} x {none, lz4}; the Kafka that syncs: 100 B, none. A run
  produces without a throttle, then consumes as many records from the start of the topic on, in a group that goes on in the
  next run. Throughput is what the tools print (fetch: without the time that the group took to form). CPU is utime + stime of
  the broker from before the tool starts until the broker is quiet again, so work put off counts, less what the broker uses
  in as much time when idle (Kafka's threads never quite rest). Writeback by the kernel's own threads, which a broker that does
  not sync leaves behind, does not count.
- p99: produce at 20,000 records/s, 100 B, linger.ms=0 (the default of 5 ms would hide the broker), in the tool's steady state
  after a quarter of the records. The tool counts whole milliseconds.

Full: the median of three runs of about 12 s, or of --runs and --seconds. --quick: one run of about 2 s, to see that all of it works: no figures to quote.
--only: settings whose name has this text, for instance "12 partitions, lz4". Prints a table for bench/RESULTS.md; it is also in target/bench-kafka/results.md, and every single run in results.json there.
The status is 1 if something could not be measured; a missed goal is not a failure.
"""

import argparse
import base64
import http.client
import json
import os
import platform
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterator, Optional

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target/bench-kafka"
POM = Path(__file__).resolve().with_name("pom.xml")
LIBRARIES = TARGET / "lib"
TICKS = os.sysconf("SC_CLK_TCK")

START_SECONDS = 60
STOP_SECONDS = 60
IDLE_SECONDS = 10
QUIET_SECONDS = 10
CREATE_SECONDS = 180
PILOT_SECONDS = 180
RATE = 20_000
# Three runs of a setting have to fit into the page cache and onto the disk.
RUN_BYTES = 2_000_000_000
KIND = {"mainstem": "Mainstem", "kafka": "Kafka", "kafka-sync": "Kafka, flush.messages=1"}


class Failed(Exception):
    """Something could not be measured. The text says what and why."""


@dataclass(frozen=True)
class Plan:
    runs: int
    starts: int
    seconds: float
    latency_seconds: int
    warm_records: int
    # Of 100 B; a quarter as many of 1 KiB, and a tenth with 1,000 partitions.
    pilot_records: int


QUICK = Plan(runs=1, starts=1, seconds=2, latency_seconds=4, warm_records=300_000, pilot_records=200_000)
FULL = Plan(runs=3, starts=3, seconds=12, latency_seconds=10, warm_records=5_000_000, pilot_records=600_000)


@dataclass(frozen=True)
class Setting:
    size: int
    partitions: int
    codec: str

    def __str__(self) -> str:
        size = "1 KiB" if self.size == 1024 else f"{self.size} B"
        return f"{size}, {partitions(self.partitions)}, {self.codec}"

    def topic(self) -> str:
        return f"bench-{self.size}-{self.partitions}-{self.codec}"


# 1,000 partitions come last: what their deletion leaves to do disturbs no other setting.
SETTINGS = [Setting(size, count, codec) for count in (1, 12, 1000) for size in (100, 1024) for codec in ("none", "lz4")]
SYNCING = [Setting(100, count, "none") for count in (1, 12, 1000)]
LATENCY = [Setting(100, count, "none") for count in (1, 12, 1000)]


def partitions(count: int) -> str:
    return "1 partition" if count == 1 else f"{count:,} partitions"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. All are held until all are known, so they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()


# The Kafka protocol, for what would take a JVM's start each. Old versions, without tagged fields.


def string(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def call(port: int, key: int, version: int, body: bytes, timeout: float = 30) -> bytes:
    """One request on a connection of its own. Returns the answer's body."""
    request = struct.pack(">hhi", key, version, 7) + string("compare") + body
    with socket.create_connection(("127.0.0.1", port), timeout) as connection, connection.makefile("rb") as answers:
        connection.sendall(struct.pack(">i", len(request)) + request)
        head = answers.read(4)
        answer = answers.read(struct.unpack(">i", head)[0]) if len(head) == 4 else b""
    if len(answer) < 4:
        raise ConnectionError("the connection was closed without an answer")
    return answer[4:]


def count_brokers(port: int) -> int:
    """Metadata version 1, about no topic."""
    return struct.unpack(">i", call(port, 3, 1, struct.pack(">i", 0), timeout=5)[:4])[0]


def check_topics(answer: bytes, what: str) -> None:
    """CreateTopics and DeleteTopics answer alike: the throttle time, then for each topic its name and an error code."""
    name = struct.unpack(">h", answer[8:10])[0]
    error = struct.unpack(">h", answer[10 + name:12 + name])[0]
    if error:
        raise Failed(f"{what}: error {error}")


def create_topic(port: int, name: str, count: int) -> float:
    """Returns after how many seconds all partitions serve: Kafka acknowledges the creation long before that."""
    begin = time.monotonic()
    topic = string(name) + struct.pack(">ihii", count, 1, 0, 0)
    body = struct.pack(">i", 1) + topic + struct.pack(">i?", 60_000, False)
    check_topics(call(port, 19, 2, body, timeout=90), f"creating {name}")
    while leaderless := count_leaderless(port, name, count):
        if time.monotonic() - begin > CREATE_SECONDS:
            raise Failed(f"creating {name}: {leaderless} partitions do not serve after {CREATE_SECONDS} s")
        time.sleep(0.1)
    return time.monotonic() - begin


def count_leaderless(port: int, name: str, count: int) -> int:
    """How many partitions answer ListOffsets version 1 with an error."""
    asked = b"".join(struct.pack(">iq", index, -1) for index in range(count))
    answer = call(port, 2, 1, struct.pack(">ii", -1, 1) + string(name) + struct.pack(">i", count) + asked)
    # The number of topics, the name, the number of partitions; then 22 bytes for each.
    at = 4 + len(string(name)) + 4
    return sum(struct.unpack(">h", answer[at + 22 * index + 4:at + 22 * index + 6])[0] != 0 for index in range(count))


def delete_topic(port: int, name: str) -> None:
    check_topics(call(port, 20, 1, struct.pack(">i", 1) + string(name) + struct.pack(">i", 60_000), 90), f"deleting {name}")


class Broker:
    """A broker as a process of its own. `kind` is a key of KIND."""

    def __init__(self, kind: str):
        self.kind = kind
        self.data = TARGET / "data" / kind
        self.log = TARGET / f"{kind}.log"
        self.log.unlink(missing_ok=True)
        self.port, self.other_port = free_ports(2)
        self.process: Optional[subprocess.Popen] = None
        self.idle_rate = 0.0

    def prepare(self) -> None:
        """What has to be done on an empty directory before the first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> float:
        """Starts on an empty directory. Returns the milliseconds from exec to ready."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True)
        self.prepare()
        with open(self.log, "ab") as log:
            begin = time.monotonic()
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while True:
            try:
                if self.is_ready():
                    return (time.monotonic() - begin) * 1000
            except (OSError, http.client.HTTPException):
                pass
            if self.process.poll() is not None or time.monotonic() - begin > START_SECONDS:
                raise Failed(f"{self.kind} did not become ready, status {self.process.poll()}: see {self.log}")
            time.sleep(0.002)

    def stop(self) -> None:
        """Ends the process, by force if it does not go, and removes its data."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"{self.kind} did not stop within {STOP_SECONDS} s of SIGTERM")
                self.process.kill()
                self.process.wait()
            self.process = None
        shutil.rmtree(self.data, ignore_errors=True)

    def check_alive(self) -> None:
        if self.process is None or self.process.poll() is not None:
            status = self.process and self.process.poll()
            raise Failed(f"{self.kind} is not running, status {status}: see {self.log}")

    def cpu_seconds(self) -> float:
        self.check_alive()
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def learn_idle_rate(self) -> float:
        """Seconds of CPU in a second of rest: the least of several, as a JVM compiles on for a while."""
        readings = [self.cpu_seconds()]
        for _ in range(IDLE_SECONDS):
            time.sleep(1)
            readings.append(self.cpu_seconds())
        self.idle_rate = min(after - before for before, after in zip(readings, readings[1:]))
        return self.idle_rate

    def rest(self) -> tuple[float, float]:
        """Waits until the broker is quiet, at most QUIET_SECONDS. Returns its CPU time so far, and the same less what idling
        costs by the clock: only differences of the second mean something."""
        step = 0.25
        before = self.cpu_seconds()
        for _ in range(int(QUIET_SECONDS / step)):
            time.sleep(step)
            after = self.cpu_seconds()
            if after - before <= self.idle_rate * step + 0.02:
                break
            before = after
        return after, after - self.idle_rate * time.monotonic()

    def memory(self) -> dict[str, float]:
        """In MB (10^6 bytes)."""
        self.check_alive()
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kilobytes = {name: int(value) for name, value in re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB", status, re.M)}
        return {"anonymous": kilobytes["RssAnon"] * 1.024e-3, "resident": kilobytes["VmRSS"] * 1.024e-3}


class Mainstem(Broker):
    def __init__(self, kind: str, binary: Path):
        super().__init__(kind)
        self.binary = binary

    def command(self) -> list[str]:
        return [
            str(self.binary), "serve", "--data-dir", str(self.data), "--kafka-listen", f"127.0.0.1:{self.port}",
            "--pg-listen", "127.0.0.1:0", "--http-listen", f"127.0.0.1:{self.other_port}",
        ]

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.other_port, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        finally:
            connection.close()


class Kafka(Broker):
    """`extra` are lines for server.properties beyond the stock ones."""

    def __init__(self, kind: str, extra: tuple[str, ...] = ()):
        super().__init__(kind)
        self.extra = extra
        self.properties = TARGET / f"{kind}.properties"

    def prepare(self) -> None:
        self.properties.write_text("\n".join([
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.bootstrap.servers=127.0.0.1:{self.other_port}",
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.other_port}",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={self.data}",
            "offsets.topic.replication.factor=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            *self.extra,
        ]) + "\n")
        cluster = "c" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        arguments = ["format", "--config", str(self.properties), "--cluster-id", cluster, "--standalone"]
        run_tool("kafka.tools.StorageTool", arguments, 60)

    def command(self) -> list[str]:
        # The heap and the flags of kafka-server-start.sh, without its JMX agent and its log of collections.
        return java("INFO", "-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
                    "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent",
                    "-Djava.awt.headless=true") + ["kafka.Kafka", str(self.properties)]

    def is_ready(self) -> bool:
        return count_brokers(self.port) > 0


def java(level: str, *flags: str) -> list[str]:
    """The head of a Java command line. Kafka's distribution logs at INFO in the broker and at WARN in the tools."""
    config = TARGET / f"log4j2-{level}.properties"
    config.write_text("\n".join([
        "appender.out.type=Console",
        "appender.out.name=out",
        "appender.out.target=SYSTEM_ERR",
        "appender.out.layout.type=PatternLayout",
        "appender.out.layout.pattern=[%d] %p %m (%c)%n",
        f"rootLogger.level={level}",
        "rootLogger.appenderRef.out.ref=out",
    ]) + "\n")
    return ["java", *flags, f"-Dlog4j2.configurationFile={config}", "-cp", f"{LIBRARIES}/*"]


def run_tool(name: str, arguments: list[str], timeout: float) -> str:
    """Runs one of Kafka's tools to its end. Returns what it wrote to standard output."""
    command = java("WARN", "-Xms256m", "-Xmx512m", "-XX:+UseG1GC") + [name, *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} took more than {timeout:.0f} s") from None
    with open(TARGET / "tools.log", "a") as log:
        log.write(f"{' '.join([name, *arguments])}\n{done.stdout[-4000:]}{done.stderr[-4000:]}\n")
    if done.returncode:
        raise Failed(f"{name} ended with {done.returncode}: {end(done.stderr or done.stdout)}")
    return done.stdout


def end(out: str) -> str:
    return " ".join(out.split())[-300:]


SENT = re.compile(
    r"^(\d+)(?: steady state)? records sent, ([\d.]+) records/sec \(.*\), ([\d.]+) ms avg latency, ([\d.]+) ms max latency, "
    r"(\d+) ms 50th, (\d+) ms 95th, (\d+) ms 99th, (\d+) ms 99\.9th\.$", re.M)


def produce(port: int, setting: Setting, records: int, timeout: float, rate: int = -1, warm: int = 0,
            properties: tuple[str, ...] = ()) -> dict[str, float]:
    """ProducerPerformance. Returns the figures of its last summary: that of the steady state if `warm` records go before."""
    out = run_tool("org.apache.kafka.tools.ProducerPerformance", [
        "--bootstrap-server", f"127.0.0.1:{port}", "--topic", setting.topic(), "--num-records", str(records),
        "--payload-file", str(payload_file(setting.size)), "--throughput", str(rate), "--warmup-records", str(warm),
        "--command-property", "acks=all", f"compression.type={setting.codec}", *properties,
    ], timeout)
    summaries = SENT.findall(out)
    if not summaries or int(summaries[0][0]) != records:
        raise Failed(f"ProducerPerformance did not send all of {records} records: {end(out)}")
    names = ("records", "rate", "average_ms", "max_ms", "p50_ms", "p95_ms", "p99_ms", "p999_ms")
    return dict(zip(names, map(float, summaries[-1])))


def consume(port: int, setting: Setting, records: int, timeout: float) -> dict[str, float]:
    """ConsumerPerformance in the setting's group, which starts at the beginning and goes on where it was."""
    out = run_tool("org.apache.kafka.tools.ConsumerPerformance", [
        "--bootstrap-server", f"127.0.0.1:{port}", "--topic", setting.topic(), "--num-records", str(records),
        "--group", f"group-{setting.topic()}", "--timeout", "30000", "--hide-header",
    ], timeout)
    fields = out.strip().splitlines()[-1].split(", ") if out.strip() else []
    if len(fields) != 10 or int(fields[4]) < records:
        raise Failed(f"ConsumerPerformance did not read {records} records: {end(out)}")
    return {"records": float(fields[4]), "rate": float(fields[9]), "rebalance_ms": float(fields[6])}


def payload_file(size: int) -> Path:
    """2,000 lines of `size` bytes that look like JSON events, the same in every run."""
    path = TARGET / f"payload-{size}.txt"
    if not path.exists():
        dice = random.Random(size)
        words = ["".join(dice.choices("aeinorstlmdu", k=dice.randint(3, 9))) for _ in range(500)]
        lines = []
        for _ in range(2000):
            at = 1_790_000_000_000 + dice.randrange(10**9)
            line = f'{{"id":{dice.randrange(10**9)},"user":"u{dice.randrange(10**5)}","at":{at},"text":"'
            while len(line) < size - 2:
                line += dice.choice(words) + " "
            lines.append(line[:size - 2] + '"}')
        path.write_text("\n".join(lines))
    return path


@contextmanager
def topic(broker: Broker, setting: Setting) -> Iterator[float]:
    """The setting's topic. Gives the seconds that its creation took. What fails inside matters more than a failed deletion."""
    created = create_topic(broker.port, setting.topic(), setting.partitions)
    try:
        yield created
    finally:
        try:
            delete_topic(broker.port, setting.topic())
        except (Failed, OSError, struct.error) as error:
            say(f"{broker.kind}: {error}")


def measure_setting(broker: Broker, setting: Setting, plan: Plan) -> list[dict[str, float]]:
    """The runs of one setting, on a topic of its own."""
    with topic(broker, setting) as created:
        count = plan.pilot_records if setting.size == 100 else plan.pilot_records // 4
        count = count if setting.partitions < 1000 else count // 10
        # The second half: the first pays for the start of the tool's JVM.
        pilot = produce(broker.port, setting, count, PILOT_SECONDS, warm=count // 2)
        records = int(min(max(pilot["rate"] * plan.seconds, 10_000), RUN_BYTES / setting.size))
        timeout = 60 + 10 * plan.seconds
        return [{"create_s": created, **measure_run(broker, setting, records, timeout)} for _ in range(plan.runs)]


def measure_run(broker: Broker, setting: Setting, records: int, timeout: float) -> dict[str, float]:
    before = broker.rest()
    produced = produce(broker.port, setting, records, timeout)
    between = broker.rest()
    consumed = consume(broker.port, setting, records, timeout)
    after = broker.rest()
    run = {
        "records": records,
        "produce_rate": produced["rate"],
        "produce_cpu_us": max(between[1] - before[1], 0) / records * 1e6,
        "produce_cpu_with_idle_us": (between[0] - before[0]) / records * 1e6,
        "fetch_rate": consumed["rate"],
        "fetch_cpu_us": max(after[1] - between[1], 0) / consumed["records"] * 1e6,
        "fetch_cpu_with_idle_us": (after[0] - between[0]) / consumed["records"] * 1e6,
        "rebalance_ms": consumed["rebalance_ms"],
    }
    say(f"{broker.kind}: {setting}: {records:,} records, produce {run['produce_rate']:,.0f}/s {run['produce_cpu_us']:.2f} us, "
        f"fetch {run['fetch_rate']:,.0f}/s {run['fetch_cpu_us']:.2f} us")
    return run


def measure_latency(broker: Broker, setting: Setting, plan: Plan) -> list[dict[str, float]]:
    records, timeout = RATE * plan.latency_seconds, 60 + 10 * plan.latency_seconds
    runs = []
    with topic(broker, setting):
        for _ in range(plan.runs):
            runs.append(produce(broker.port, setting, records, timeout, RATE, records // 4, ("linger.ms=0",)))
            say(f"{broker.kind}: {setting} at {RATE:,}/s: p50 {runs[-1]['p50_ms']:.0f} ms, p99 {runs[-1]['p99_ms']:.0f} ms")
    return runs


def measure(broker: Broker, settings: list[Setting], plan: Plan, latency: list[Setting] = LATENCY) -> dict:
    """All about one broker. What fails is in `failures`; the rest goes on as long as the broker lives."""
    figures: dict = {"settings": {}, "latency": {}, "failures": []}

    def attempt(what: str, action: Callable):
        try:
            return action()
        except (Failed, OSError, struct.error) as error:
            say(f"{broker.kind}: {what}: {error}")
            figures["failures"].append(f"{what}: {error}")
            broker.check_alive()
            return None

    os.sync()  # What the broker before left to be written is not this one's load.
    try:
        starts = []
        for _ in range(plan.starts):
            broker.stop()
            starts.append(broker.start())
        figures["start_ms"] = starts
        say(f"{broker.kind}: ready after {', '.join(f'{start:.0f}' for start in starts)} ms")
        time.sleep(IDLE_SECONDS)
        figures["memory_idle"] = broker.memory()
        attempt("warm-up", lambda: warm_up(broker, plan))
        figures["idle_cpu_percent"] = broker.learn_idle_rate() * 100
        for setting in latency:
            figures["latency"][str(setting)] = attempt(f"latency {setting}", lambda: measure_latency(broker, setting, plan))
        for setting in settings:
            figures["settings"][str(setting)] = attempt(str(setting), lambda: measure_setting(broker, setting, plan))
        figures["memory_loaded"] = broker.memory()
    except (Failed, OSError) as error:
        say(f"{broker.kind}: {error}")
        figures["failures"].append(str(error))
    finally:
        broker.stop()
    return figures


def warm_up(broker: Broker, plan: Plan) -> None:
    """A discarded run: the JVM compiles its hot paths, the group coordinator makes its topic."""
    setting = Setting(100, 4, "none")
    with topic(broker, setting):
        produce(broker.port, setting, plan.warm_records, PILOT_SECONDS)
        consume(broker.port, setting, plan.warm_records, PILOT_SECONDS)


# The table.


@dataclass(frozen=True)
class Row:
    what: str
    mainstem: Optional[float]
    kafka: Optional[float]
    unit: str
    # "<=" or ">=" and the limit of Mainstem's figure divided by Kafka's; None is no goal.
    goal: Optional[tuple[str, float]]

    def cells(self) -> list[str]:
        both = self.mainstem is not None and self.kafka is not None
        ratio = self.mainstem / self.kafka if both and self.kafka else None
        goal = {"<=": "at most", ">=": "at least"}[self.goal[0]] + f" {self.goal[1]:g}" if self.goal else ""
        met = ""
        if self.goal:
            is_met = ratio is not None and (ratio <= self.goal[1] if self.goal[0] == "<=" else ratio >= self.goal[1])
            met = "met" if is_met else "missed" if ratio is not None else "not measured"
        return [self.what, self.show(self.mainstem), self.show(self.kafka), "" if ratio is None else f"{ratio:.3g}", goal, met]

    def show(self, value: Optional[float]) -> str:
        if value is None:
            return "failed"
        return f"{value:,.0f} {self.unit}" if value >= 100 or self.unit == "ms" else f"{value:.2f} {self.unit}"


def middle(runs: Optional[list], name: str) -> Optional[float]:
    return statistics.median(run[name] for run in runs) if runs else None


def rows(results: dict) -> Iterator[Row]:
    ours, stock, syncing = (results[kind] for kind in KIND)
    start = [statistics.median(figures["start_ms"]) if figures.get("start_ms") else None for figures in (ours, stock)]
    yield Row("start, exec to ready, empty directory", *start, "ms", ("<=", 0.05))
    for when, name in (("memory_idle", "10 s after the start"), ("memory_loaded", "after the load")):
        for kind, label in (("anonymous", "RssAnon"), ("resident", "RSS")):
            yield Row(f"{label} {name}", *(figures.get(when, {}).get(kind) for figures in (ours, stock)), "MB", ("<=", 0.1))
    yield Row("CPU when idle, of one core", ours.get("idle_cpu_percent"), stock.get("idle_cpu_percent"), "%", None)
    for setting in LATENCY:
        what = f"{setting}: p99 of produce at {RATE:,}/s"
        mine = middle(ours["latency"].get(str(setting)), "p99_ms")
        yield Row(what, mine, middle(stock["latency"].get(str(setting)), "p99_ms"), "ms", ("<=", 0.5))
        if str(setting) in syncing["latency"]:
            yield Row(f"{what}, {KIND['kafka-sync']}", mine, middle(syncing["latency"][str(setting)], "p99_ms"), "ms", None)
    for setting in SETTINGS:
        mine, theirs = (figures["settings"].get(str(setting)) for figures in (ours, stock))
        for verb in ("produce", "fetch"):
            name = f"{verb}_cpu_us"
            yield Row(f"{setting}: broker CPU per record, {verb}", middle(mine, name), middle(theirs, name), "us", ("<=", 0.6))
        for verb in ("produce", "fetch"):
            name = f"{verb}_rate"
            yield Row(f"{setting}: {verb}", middle(mine, name), middle(theirs, name), "records/s", (">=", 1))
    for setting in SYNCING:
        mine, theirs = (figures["settings"].get(str(setting)) for figures in (ours, syncing))
        what = f"{setting}: produce, {KIND['kafka-sync']}"
        yield Row(what, middle(mine, "produce_rate"), middle(theirs, "produce_rate"), "records/s", (">=", 10))


def table(results: dict) -> str:
    lines = [["setting", "Mainstem", "Kafka", "ratio", "goal", "met or not"], ["---"] * 6]
    lines += [row.cells() for row in rows(results)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def heading(mainstem: Path, is_quick: bool, only: str, plan: Plan, load: float, seconds: float) -> str:
    version = subprocess.run([mainstem, "--version"], capture_output=True, text=True, timeout=10).stdout.strip()
    kafka = next(LIBRARIES.glob("kafka_2.13-*.jar")).stem.partition("-")[2]
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    machine = f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), Linux {platform.release()}"
    kind = "--quick, one short run each: not for quoting" if is_quick else f"runs of each setting: {plan.runs}, of about {plan.seconds:g} s"
    options = " --quick" if is_quick else f" --runs {plan.runs} --seconds {plan.seconds:g}"
    options += f" --only '{only}'" if only else ""
    return (f"`bench/kafka/compare.py{options}`, {seconds / 60:.0f} minutes, {kind}. {version} beside "
            f"Apache Kafka {kafka}. {machine}; load average at the start {load:.1f}.")


def install() -> None:
    """Fetches Kafka with Maven, unless it is there."""
    if any(LIBRARIES.glob("kafka_2.13-*.jar")) and LIBRARIES.stat().st_mtime >= POM.stat().st_mtime:
        return
    shutil.rmtree(LIBRARIES, ignore_errors=True)
    directory = f"-Dbench.directory={TARGET}"
    subprocess.run(["mvn", "--quiet", "--batch-mode", "--file", str(POM), directory, "package"], check=True, timeout=600)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares Mainstem with Apache Kafka on this machine.")
    parser.add_argument("--quick", action="store_true", help="one short run of each setting")
    parser.add_argument("--runs", type=int, default=FULL.runs, help="of each setting (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=FULL.seconds, help="of each run (default: %(default)s)")
    parser.add_argument("--only", default="", help="settings whose name has this text")
    parser.add_argument("--mainstem", type=Path, default=ROOT / "target/release/mainstem", help="a release binary")
    options = parser.parse_args()
    if not options.mainstem.is_file():
        parser.error(f"{options.mainstem} is missing: cargo build --release -p mainstem-server")
    mainstem = options.mainstem.resolve()
    # Without this, SIGTERM would end this process and leave the broker behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for settings in (SETTINGS, SYNCING, LATENCY):
        settings[:] = [setting for setting in settings if options.only in str(setting)]
    plan = QUICK if options.quick else replace(FULL, runs=options.runs, seconds=options.seconds)
    load, begin = os.getloadavg()[0], time.monotonic()
    TARGET.mkdir(parents=True, exist_ok=True)
    install()
    (TARGET / "tools.log").unlink(missing_ok=True)
    try:
        results = {
            "mainstem": measure(Mainstem("mainstem", mainstem), SETTINGS, plan),
            "kafka": measure(Kafka("kafka"), SETTINGS, plan),
            "kafka-sync": measure(Kafka("kafka-sync", ("log.flush.interval.messages=1",)), SYNCING, plan, LATENCY[:2]),
        }
    finally:
        shutil.rmtree(TARGET / "data", ignore_errors=True)
    report = heading(mainstem, options.quick, options.only, plan, load, time.monotonic() - begin) + "\n\n" + table(results) + "\n"
    (TARGET / "results.md").write_text(report)
    raw = {"is_quick": options.quick, "load": load, "results": results}
    (TARGET / "results.json").write_text(json.dumps(raw, indent=1) + "\n")
    print(report)
    failures = [f"{KIND[kind]}: {failure}" for kind, figures in results.items() for failure in figures["failures"]]
    for failure in failures:
        print(f"not measured: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
