"""The Kafka clients that the tests drive, all by one contract.

Each is a program of its own:

    produce --bootstrap B --topic T --partitions N --count C --codec K --run-id R [--first F]
    consume --bootstrap B --topic T --count C [--log FILE]
    consume --bootstrap B --topic T --group G [--session-timeout-ms 6000] [--commit-every K] --log FILE

`produce` writes records F, F+1, ... F+C-1, idempotently and with acks=all: record n goes to partition n mod N, with the key "kn"
and the value {"client": name, "run": R, "n": n, "partition": p}. Its last line is "acknowledged C".

`consume` writes a line per record to the log, its standard output if none is named: R, partition, offset, key, value between
tabs. In a group it reads until SIGTERM, adds "A partitions" when it is assigned some, and, where the client lets it see
that, "C partition offset" after a commit. A record is in the log before its offset is committed.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from confluent_kafka import Producer

from server import ROOT

HERE = ROOT / "tests/outside"
INSTALLED = ROOT / "target/outside"
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
PARTITIONS = 3


def patient_producer(server, **settings):
    """A producer in this process, idempotent, that outlives kills of the server."""
    return Producer({
        "bootstrap.servers": server.kafka,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 2,
        "reconnect.backoff.ms": 10,
        "reconnect.backoff.max.ms": 100,
        "retry.backoff.ms": 10,
        "retry.backoff.max.ms": 100,
        **{name.replace("_", "."): value for name, value in settings.items()},
    }, logger=None)


@dataclass(frozen=True)
class Client:
    name: str
    command: tuple

    def missing(self):
        """Files that have to be there for it to run, and are not."""
        return [word for word in self.command if os.path.isabs(word) and ":" not in word and not os.path.exists(word)]

    def run(self, arguments, seconds):
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, f"{self.name} {' '.join(arguments)}: status {done.returncode}\n{done.stderr[-4000:]}"
        return done.stdout

    def produce(self, server, topic, count, codec="none", run="run", partitions=PARTITIONS, first=0, seconds=120):
        """Returns when all are acknowledged."""
        printed = self.run(
            ["produce", "--bootstrap", server.kafka, "--topic", topic, "--partitions", str(partitions), "--count", str(count),
             "--codec", codec, "--run-id", run, "--first", str(first)],
            seconds,
        )
        assert printed.splitlines()[-1:] == [f"acknowledged {count}"], f"{self.name} printed {printed[-500:]!r}"

    def consume(self, server, topic, count, seconds=120):
        """What it read, in its order."""
        printed = self.run(["consume", "--bootstrap", server.kafka, "--topic", topic, "--count", str(count)], seconds)
        return [Read.parse(line) for line in printed.splitlines() if line.startswith("R\t")]

    def join(self, server, topic, group, log, commit_every=300):
        """Starts a member of a group."""
        arguments = ["consume", "--bootstrap", server.kafka, "--topic", topic, "--group", group, "--log", str(log),
                     "--session-timeout-ms", "6000", "--commit-every", str(commit_every)]
        with open(f"{log}.stderr", "wb") as errors:
            return subprocess.Popen([*self.command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)


@dataclass(frozen=True)
class Read:
    """A record as a client logged it."""

    partition: int
    offset: int
    key: str
    value: str

    @staticmethod
    def parse(line):
        _, partition, offset, key, value = line.split("\t", 4)
        return Read(int(partition), int(offset), key, value)


def check_values(records, writer, run):
    """Each record holds what `writer` gave it; returns (partition, offset, n) of each."""
    found = []
    for record in records:
        value = json.loads(record.value)
        n = value["n"]
        assert value == {"client": writer, "run": run, "n": n, "partition": record.partition}, f"{writer} did not write {record}"
        assert record.key == f"k{n}", f"{writer} did not write {record}"
        found.append((record.partition, record.offset, n))
    return found


def check_once_in_order(records, writer, run, count, partitions=PARTITIONS):
    """All of records 0 to `count` once, in order within each partition, offsets without holes."""
    by_partition = {partition: [] for partition in range(partitions)}
    for partition, offset, n in check_values(records, writer, run):
        by_partition[partition].append((offset, n))
    for partition, found in by_partition.items():
        expected = list(enumerate(range(partition, count, partitions)))
        if found != expected:
            at = next((i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), min(len(found), len(expected)))
            raise AssertionError(
                f"partition {partition}: {len(found)} records for {len(expected)}; (offset, n) differ from the {at}th on: "
                f"{found[at:at + 3]} for {expected[at:at + 3]}"
            )


CLIENTS = [
    Client("kcat", ("bash", str(HERE / "kcat/client.sh"))),
    Client("confluent-kafka", (sys.executable, str(HERE / "python/confluent_kafka_client.py"))),
    Client("kafka-python", (sys.executable, str(HERE / "python/kafka_python_client.py"))),
    Client("java", ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
                    f"{INSTALLED}/java/classes:{INSTALLED}/java/lib/*", "mainstem.KafkaClient")),
    Client("kafkajs", ("node", str(INSTALLED / "node/client.js"))),
    Client("franz-go", (str(INSTALLED / "go/outside"),)),
]
JDBC = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
        f"{INSTALLED}/java/classes:{INSTALLED}/java/lib/*", "mainstem.JdbcChecks"]
BY_NAME = {client.name: client for client in CLIENTS}
