"""Compacted topics and tables, by real clients: the last value of each key stays, in a smaller log."""

import json
import random
import shutil
import uuid

import psycopg
from confluent_kafka import Consumer, Producer

from conftest import create_topic
from server import until

OPTIONS = ["--segment-bytes", "20000", "--compaction-check-ms", "100", "--checkpoint-interval-seconds", "1"]


def connect(server):
    host, port = server.postgresql.split(":")
    return psycopg.connect(host=host, port=port, user="root", dbname="dev", autocommit=True)


def read_all(server, topic):
    """Key and value of every record, from the start to the end as it is now."""
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest",
                         "enable.partition.eof": True})
    consumer.subscribe([topic])
    found = []
    try:
        while True:
            message = consumer.poll(20)
            assert message is not None, "nothing came for 20 s"
            if message.error():
                return found
            found.append((message.offset(), message.key(), message.value()))
    finally:
        consumer.close()


def test_a_compacted_topic_keeps_the_last_value_of_each_key(servers):
    server = servers.new(*OPTIONS).start()
    create_topic(server, "prices", 1, cleanup_policy="compact", min_cleanable_dirty_ratio="0.1")
    producer = Producer({"bootstrap.servers": server.kafka, "compression.type": "zstd", "batch.num.messages": 50})
    last = {}
    for n in range(20_000):
        key, value = f"k{n * 7919 % 300}", f"{n}"
        producer.produce("prices", value, key)
        last[key] = value
        producer.poll(0)
    assert producer.flush(60) == 0
    until(lambda: server.metric("mainstem_log_compaction_removed_bytes_total") > 20_000, "something to be compacted")
    for round in range(2):
        found = read_all(server, "prices")
        assert {key.decode(): value.decode() for _, key, value in found} == last
        offsets = [offset for offset, _, _ in found]
        assert offsets == sorted(set(offsets)) and len(found) < 20_000
        if round == 0:
            server.kill()
            server.start()


def test_a_table_is_what_it_was_when_its_topic_is_compacted_also_after_a_kill(servers):
    server = servers.new(*OPTIONS).start()
    dice = random.Random(5)
    rows = {}
    with connect(server) as session:
        session.execute("CREATE TABLE stock (id int PRIMARY KEY, n bigint, note varchar)")
        session.execute("CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS rows, sum(n) AS n FROM stock")
        for turn in range(60):
            ids = [dice.randrange(200) for _ in range(40)]
            for start in range(0, len(ids), 20):
                chunk = {i: (dice.randrange(1000), f"note {turn} " + "x" * 40) for i in ids[start:start + 20]}
                values = ", ".join(f"({i}, {n}, '{note}')" for i, (n, note) in chunk.items())
                session.execute(f"INSERT INTO stock VALUES {values} ON CONFLICT (id) DO UPDATE SET n = excluded.n, note = excluded.note")
                rows.update(chunk)
            if turn % 5 == 4:
                gone = dice.randrange(200)
                session.execute("DELETE FROM stock WHERE id = %s", (gone,))
                rows.pop(gone, None)

    def is_compacted():
        # What the two newest checkpoints of the views need is held; only when there is something new is there a new one.
        session.execute("INSERT INTO beat VALUES (1)")
        return server.metric("mainstem_log_compaction_removed_bytes_total") > 20_000

    with connect(server) as session:
        session.execute("CREATE TABLE beat (n int)")
        until(is_compacted, "the table to be compacted", every=0.2)

    def check():
        with connect(server) as session:
            assert {row[0]: row[1:] for row in session.execute("SELECT id, n, note FROM stock").fetchall()} == rows
            assert session.execute("SELECT rows, n FROM sums").fetchone() == (len(rows), sum(n for n, _ in rows.values()))

    check()
    with connect(server) as session:
        session.execute("CREATE MATERIALIZED VIEW later AS SELECT count(*) AS rows, sum(n) AS n FROM stock")
        assert session.execute("SELECT * FROM later").fetchone() == session.execute("SELECT * FROM sums").fetchone()
    server.kill()
    server.start()
    check()
    with connect(server) as session:
        session.execute("UPDATE stock SET n = n + 1")
        rows = {i: (n + 1, note) for i, (n, note) in rows.items()}
    check()
    # The topic alone gives the table.
    last = {}
    for _, key, value in read_all(server, "stock"):
        last[key] = value
    found = [json.loads(value) for value in last.values() if value is not None]
    assert {row["id"]: (row["n"], row["note"]) for row in found} == rows
    # Without a checkpoint of the engine all is made again from what is left.
    server.kill()
    assert (server.directory / "state" / "store" / "current").exists()
    shutil.rmtree(server.directory / "state")
    server.start()
    check()
