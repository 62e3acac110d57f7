"""kill -9 under load: what was acknowledged is there once, offsets are dense, and views equal the batch query.

One idempotent producer with acks=all lives through all kills of a test. To each partition it writes 0, 1, 2, ..., so the
record at offset o has to be o: a lost, repeated or reordered record shows at once. `MAINSTEM_KILL_ROUNDS` is the number of
kills in all (50), `MAINSTEM_KILL_SEED` repeats a run.
"""

import json
import os
import random
import threading
import time

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from clients import patient_producer
from conftest import create_topic
from server import until

ROUNDS = int(os.environ.get("MAINSTEM_KILL_ROUNDS", "50"))
ACKNOWLEDGED_MIN = 1000
TOPIC = "load"


class Load:
    """Writes without pause from a thread of its own, and keeps what was acknowledged."""

    def __init__(self, server, partitions, pad):
        self.partitions = partitions
        self.pad = "x" * pad
        self.written = [0] * partitions
        # Records are acknowledged in order within a partition, so a count says which.
        self.acknowledged = [0] * partitions
        self.failures = []
        self.is_paused = threading.Event()
        self.is_stopped = threading.Event()
        self.producer = patient_producer(server, batch_num_messages=200, queue_buffering_max_messages=3000, socket_timeout_ms=10000)
        self.thread = threading.Thread(target=self.write, daemon=True)
        self.thread.start()

    def write(self):
        while not self.is_stopped.is_set():
            if self.is_paused.is_set():
                self.producer.poll(0.02)
                continue
            for partition in range(self.partitions):
                self.write_one(partition)
            self.producer.poll(0)

    def write_one(self, partition):
        n = self.written[partition]
        value = json.dumps({"p": partition, "n": n, "pad": self.pad}).encode()
        while not self.is_stopped.is_set():
            try:
                self.producer.produce(TOPIC, value, partition=partition, on_delivery=self.delivered)
                self.written[partition] = n + 1
                return
            except BufferError:
                self.producer.poll(0.02)

    def delivered(self, error, message):
        partition, offset = message.partition(), message.offset()
        if error is not None:
            self.failures.append(f"partition {partition}: {error}")
        elif offset != self.acknowledged[partition]:
            self.failures.append(f"partition {partition}: record {self.acknowledged[partition]} was given offset {offset}")
        else:
            self.acknowledged[partition] += 1

    def total(self):
        return sum(self.acknowledged)

    def settle(self):
        """Pauses, and returns when everything written is acknowledged."""
        self.is_paused.set()
        until(lambda: self.failures or self.acknowledged == self.written, lambda: f"acknowledged {self.acknowledged} of {self.written}", 60)
        assert not self.failures, self.failures[:5]

    def resume(self):
        self.is_paused.clear()

    def stop(self):
        self.is_stopped.set()
        self.thread.join(30)


class Check:
    """Reads on from where the last check stopped, through one consumer that lives through the kills too."""

    def __init__(self, server, load):
        self.load = load
        self.consumer = Consumer({
            "bootstrap.servers": server.kafka,
            "group.id": "check",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "reconnect.backoff.ms": 10,
            "reconnect.backoff.max.ms": 100,
        })
        self.next = [0] * load.partitions
        self.consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(load.partitions)])

    def read_to(self, ends):
        deadline = time.monotonic() + 60
        while any(at < end for at, end in zip(self.next, ends)):
            assert time.monotonic() < deadline, f"read to {self.next}, acknowledged were {ends}"
            for message in self.consumer.consume(5000, timeout=0.2):
                # While the server is away the consumer only waits.
                if message.error() is not None:
                    assert message.error().retriable() or not message.error().fatal(), message.error()
                    continue
                self.check(message)

    def check(self, message):
        partition, offset = message.partition(), message.offset()
        assert offset == self.next[partition], f"partition {partition}: offset {offset} follows {self.next[partition] - 1}"
        found = json.loads(message.value())
        assert (found["p"], found["n"]) == (partition, offset), f"partition {partition}, offset {offset} holds record {found['n']}"
        self.next[partition] += 1

    def read_all_again(self, ends):
        self.next = [0] * self.load.partitions
        self.consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(self.load.partitions)])
        self.read_to(ends)

    def check_ends(self, ends):
        """Nothing more stands there than was acknowledged."""
        for partition, end in enumerate(ends):
            found = self.consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=30)
            assert found == (0, end), f"partition {partition}: offsets {found}, acknowledged {end}"


def seeded():
    seed = int(os.environ.get("MAINSTEM_KILL_SEED", random.randrange(2**32)))
    print(f"MAINSTEM_KILL_SEED={seed}")
    return random.Random(seed)


class Met:
    """What the kills of a test have met, as far as it can be told from outside."""

    def __init__(self):
        self.recoveries = self.checkpoints = 0

    def check(self, rounds, wants_checkpoints):
        print(f"kills within a recovery: {self.recoveries}, within a checkpoint of the views: {self.checkpoints}")
        if rounds >= 20:
            assert self.recoveries > 0, "no kill met a recovery"
            assert self.checkpoints > 0 or not wants_checkpoints, "no kill met a checkpoint"


def unfinished_checkpoints(server):
    """Tables of the state store that are newer than the list that could name them."""
    store = server.directory / "state" / "store"
    try:
        current = (store / "current").stat().st_mtime_ns
        return [path for path in (store / "tables").iterdir() if path.stat().st_mtime_ns > current]
    except FileNotFoundError:
        return []


def aim_at_checkpoint(server):
    """Returns when a checkpoint of the views is being written, or after a while."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and not unfinished_checkpoints(server):
        time.sleep(0.0002)


def kill_under_load(server, load, dice, met, aims_at_checkpoints):
    """A kill with at least 1,000 acknowledgements behind it and requests in flight; what was acknowledged before it."""
    before = load.total()
    load.resume()
    wanted = ACKNOWLEDGED_MIN + dice.randrange(2000)
    until(lambda: load.failures or load.total() - before >= wanted, lambda: f"{load.total() - before} acknowledgements", 60, every=0.002)
    # The kill comes at any moment of a commit, a segment roll or a checkpoint.
    if aims_at_checkpoints and dice.random() < 0.5:
        aim_at_checkpoint(server)
    else:
        time.sleep(dice.random() * 0.03)
    in_flight = sum(load.written) - load.total()
    acknowledged = list(load.acknowledged)
    server.kill()
    met.checkpoints += bool(unfinished_checkpoints(server))
    assert not load.failures, load.failures[:5]
    assert in_flight > 0, "nothing was in flight at the kill"
    return acknowledged


def restart(server, dice, met):
    """Starts again; in two of five rounds the first start is killed too, within its recovery."""
    if dice.random() < 0.4:
        server.spawn()
        time.sleep(dice.random() * 0.06)
        met.recoveries += not server.has_said_ready()
        server.kill()
    server.start()


def run_rounds(server, load, rounds, dice, after_restart, aims_at_checkpoints=False):
    check, met = Check(server, load), Met()
    start = time.monotonic()
    try:
        for _ in range(rounds):
            acknowledged = kill_under_load(server, load, dice, met, aims_at_checkpoints)
            restart(server, dice, met)
            check.read_to(acknowledged)
            load.settle()
            check.read_to(load.acknowledged)
            check.check_ends(load.acknowledged)
            after_restart(load)
        check.read_all_again(load.acknowledged)
    finally:
        load.stop()
        check.consumer.close()
    met.check(rounds, aims_at_checkpoints)
    print(f"{rounds} kills, {load.total()} records acknowledged, {time.monotonic() - start:.0f} s")


@pytest.mark.client("confluent-kafka")
def test_acknowledged_records_survive_kills_within_segment_rolls(servers):
    server = servers.new().start()
    create_topic(server, TOPIC, 4, segment_bytes=65536)
    load = Load(server, partitions=4, pad=100)
    run_rounds(server, load, ROUNDS - ROUNDS // 2, seeded(), after_restart=lambda _: None)
    segments = len(list(server.directory.glob("topics/*/*/*.log")))
    assert segments > 2 * ROUNDS, f"only {segments} segments: the kills cannot have met rolls"


@pytest.mark.client("confluent-kafka", "psycopg")
def test_views_equal_their_batch_query_after_kills(servers):
    server = servers.new("--checkpoint-interval-seconds", "1").start()
    create_topic(server, TOPIC, 2)
    with connect(server) as session:
        session.execute(f"CREATE SOURCE load (p int, n bigint) WITH (topic = '{TOPIC}') FORMAT PLAIN ENCODE JSON")
        session.execute("CREATE MATERIALIZED VIEW totals AS SELECT p, count(*) AS records, sum(n) AS total, max(n) AS newest"
                        " FROM load GROUP BY p")
        session.execute("CREATE MATERIALIZED VIEW grand AS SELECT sum(records) AS records FROM totals")
        session.execute("CREATE TABLE kept (id int PRIMARY KEY, note varchar)")
    rounds = ROUNDS // 2
    done = 0

    def after_restart(load):
        nonlocal done
        done += 1
        with connect(server) as session:
            check_views(session, load)
            if done % 5 == 0 or done == rounds:
                check_batch(session)
            session.execute("INSERT INTO kept VALUES (%s, 'written after a restart')", (done,))
            kept = session.execute("SELECT id FROM kept ORDER BY id").fetchall()
            assert kept == [(n,) for n in range(1, done + 1)], "a row that was acknowledged before a kill is missing"

    run_rounds(server, Load(server, partitions=2, pad=20), rounds, seeded(), after_restart, aims_at_checkpoints=True)


def connect(server):
    host, port = server.postgresql.split(":")
    return psycopg.connect(host=host, port=port, user="root", dbname="dev", autocommit=True)


def check_views(session, load):
    """The views arrive at what was acknowledged, and stay on one cut with one another meanwhile."""
    expected = [(p, end, end * (end - 1) // 2, end - 1) for p, end in enumerate(load.acknowledged)]
    found = []

    def is_there():
        found[:] = session.execute("SELECT p, records, total::bigint, newest FROM totals ORDER BY p").fetchall()
        both = session.execute("SELECT (SELECT sum(records) FROM totals), (SELECT records FROM grand)").fetchone()
        assert both[0] == both[1], f"two views of one lane at two cuts: {both}"
        return found == expected

    until(is_there, lambda: f"the view holds {found}, expected {expected}", 30)


def check_batch(session):
    batch = session.execute("SELECT p, count(*), sum(n)::bigint, max(n) FROM load GROUP BY p ORDER BY p").fetchall()
    view = session.execute("SELECT p, records, total::bigint, newest FROM totals ORDER BY p").fetchall()
    assert view == batch
