"""Sinks under kill -9: a read_committed consumer sees each change of a view once.

A producer writes without pause through all kills (`test_kills.Load`); three sinks write what changes in two views; one consumer per
sink, librdkafka's with isolation.level=read_committed, lives through the kills and reads its topic from the start. At the end
of each round the topics, replayed, are the views: UPSERT and DEBEZIUM key by key, PLAIN row by row. A change that was written
twice, or not at all, shows in the round of its kill. `MAINSTEM_SINK_ROUNDS` is the number of kills (8), `MAINSTEM_KILL_SEED` repeats a
run.
"""

import json
import os
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from conftest import create_topic
from server import until
from test_kills import TOPIC, Load, Met, connect, kill_under_load, restart, seeded

ROUNDS = int(os.environ.get("MAINSTEM_SINK_ROUNDS", "8"))

STATEMENTS = [
    f"CREATE SOURCE load (p int, n bigint) WITH (topic = '{TOPIC}') FORMAT PLAIN ENCODE JSON",
    """CREATE MATERIALIZED VIEW buckets AS
       SELECT p, n % 50 AS bucket, count(*) AS records, max(n) AS newest FROM load GROUP BY p, n % 50""",
    "CREATE MATERIALIZED VIEW tens AS SELECT p, n FROM load WHERE n % 10 = 0",
    "CREATE SINK latest FROM buckets WITH (topic = 'latest', partitions = 3) FORMAT UPSERT ENCODE JSON",
    "CREATE SINK changes FROM buckets WITH (topic = 'changes', partitions = 3) FORMAT DEBEZIUM ENCODE JSON",
    "CREATE SINK rows FROM tens WITH (topic = 'rows', partitions = 3) FORMAT PLAIN ENCODE JSON",
]


class Follower:
    """Reads a sink's topic on and on, through the kills."""

    def __init__(self, server, topic):
        self.topic = topic
        self.ends = [0] * 3
        self.consumer = Consumer({
            "bootstrap.servers": server.kafka,
            "group.id": f"follow-{topic}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "reconnect.backoff.ms": 10,
            "reconnect.backoff.max.ms": 100,
        })
        self.consumer.assign([TopicPartition(topic, partition, 0) for partition in range(3)])

    def poll(self):
        for message in self.consumer.consume(5000, timeout=0.2):
            if message.error() is not None:
                assert message.error().retriable() or not message.error().fatal(), message.error()
                continue
            partition, offset = message.partition(), message.offset()
            assert offset >= self.ends[partition], f"{self.topic}: offset {offset} again"
            self.ends[partition] = offset + 1
            key = None if message.key() is None else message.key().decode()
            self.take(key, None if message.value() is None else json.loads(message.value()), partition)


class Latest(Follower):
    def __init__(self, server):
        super().__init__(server, "latest")
        self.rows, self.partitions = {}, {}

    def take(self, key, row, partition):
        assert self.partitions.setdefault(key, partition) == partition, f"{key} in two partitions"
        assert self.rows.get(key) != row, f"{key}: {row} twice"
        self.rows[key] = row

    def found(self):
        return sorted((row["p"], row["bucket"], row["records"], row["newest"]) for row in self.rows.values())


class Changes(Follower):
    def __init__(self, server):
        super().__init__(server, "changes")
        self.rows, self.seen = {}, set()

    def take(self, key, envelope, _):
        source = envelope["source"]
        place = (source["csn"], source["ordinal"])
        assert place not in self.seen, f"{place} twice"
        self.seen.add(place)
        assert self.rows.get(key) == envelope["before"], f"{key}: {self.rows.get(key)} is not {envelope['before']}"
        assert envelope["op"] == ("u" if envelope["before"] else "c") or envelope["op"] == "r"
        self.rows[key] = envelope["after"]

    found = Latest.found


class Rows(Follower):
    def __init__(self, server):
        super().__init__(server, "rows")
        self.rows = set()

    def take(self, _, row, __):
        row = (row["p"], row["n"])
        assert row not in self.rows, f"{row} twice"
        self.rows.add(row)

    def found(self):
        return sorted(self.rows)


def check(session, load, followers):
    """All topics arrive at what was acknowledged, and hold nothing else."""
    latest, changes, rows = followers
    wanted_rows = [(p, n) for p, end in enumerate(load.acknowledged) for n in range(0, end, 10)]

    def is_there():
        for follower in followers:
            follower.poll()
        return len(rows.rows) >= len(wanted_rows) and sum(row[2] for row in latest.found()) >= load.total() <= sum(
            row[2] for row in changes.found())

    state = lambda: f"{len(rows.rows)} of {len(wanted_rows)} rows, {session.execute('SELECT name, state, reason FROM mainstem.sinks').fetchall()}"
    until(is_there, state, 60)
    view = session.execute("SELECT p, bucket, records, newest FROM buckets ORDER BY p, bucket").fetchall()
    assert latest.found() == view
    assert changes.found() == view
    assert rows.found() == sorted(wanted_rows)


@pytest.mark.client("confluent-kafka", "psycopg")
def test_a_key_goes_where_other_producers_put_it(servers):
    """librdkafka's murmur2 partitioner is Kafka's default one."""
    server, partitions = servers.new().start(), 7
    create_topic(server, "others", partitions)
    with connect(server) as session:
        session.execute("CREATE TABLE t (id varchar, n int, PRIMARY KEY (id, n))")
        session.execute("INSERT INTO t SELECT repeat('k', (n % 13)::int) || n, n::int FROM generate_series(1, 300) AS s(n)")
        session.execute(
            f"CREATE SINK k FROM t WITH (topic = 'ours', partitions = {partitions}) FORMAT UPSERT ENCODE JSON")
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": "keys", "isolation.level": "read_committed"})
    consumer.assign([TopicPartition("ours", partition, 0) for partition in range(partitions)])
    ours, theirs = {}, {}

    def all_are_read():
        for message in consumer.consume(1000, timeout=0.2):
            ours[message.key()] = message.partition()
        return len(ours) == 300

    until(all_are_read, lambda: f"{len(ours)} of 300 records", 60)
    consumer.close()
    producer = Producer({"bootstrap.servers": server.kafka, "partitioner": "murmur2_random"})
    for key in ours:
        producer.produce("others", key=key, value=b"", on_delivery=lambda error, m: theirs.update({m.key(): m.partition()}))
    producer.flush(30)
    assert ours == theirs
    assert set(ours.values()) == set(range(partitions))


@pytest.mark.client("confluent-kafka", "psycopg")
def test_a_read_committed_consumer_sees_each_change_once_across_kills(servers):
    server = servers.new("--checkpoint-interval-seconds", "1").start()
    create_topic(server, TOPIC, 2)
    with connect(server) as session:
        for statement in STATEMENTS:
            session.execute(statement)
    load, dice, met = Load(server, partitions=2, pad=20), seeded(), Met()
    followers = [Latest(server), Changes(server), Rows(server)]
    begun = time.monotonic()
    try:
        for _ in range(ROUNDS):
            kill_under_load(server, load, dice, met, aims_at_checkpoints=True)
            restart(server, dice, met)
            load.settle()
            with connect(server) as session:
                check(session, load, followers)
    finally:
        load.stop()
        for follower in followers:
            follower.consumer.close()
    print(f"{ROUNDS} kills, {load.total()} records in, {sum(sum(f.ends) for f in followers)} records of sinks, "
          f"{time.monotonic() - begun:.0f} s")
