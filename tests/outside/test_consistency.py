"""Internal consistency: money that only moves between accounts adds up to nothing in every single read.

All views come from one topic of transfers, along paths of different length: credits and debits, balances as their outer
join, the total of the balances, and an outer join of the topic with itself. A read that sees the paths at different points
of the log shows a total that is not zero, or a transfer that is not there beside itself. Readers go on without pause while
a producer writes at full speed, and while the server is killed and started again.

`MAINSTEM_READS` is the number of reads in all (100,000), `MAINSTEM_SEED` repeats a run.
"""

import collections
import json
import os
import random
import threading
import time
import uuid

import psycopg
import pytest
from confluent_kafka import Consumer
from psycopg.pq import ExecStatus

from clients import patient_producer
from conftest import create_topic
from server import until

READS = int(os.environ.get("MAINSTEM_READS", "100000"))
READERS = 4
KILLS = 3
ACCOUNTS = 300
# The views hold every transfer in memory, so there is an end to them: the producer is at most this share ahead of the reads.
TRANSFERS_MAX = 1_000_000
TOPIC = "transfers"
PARTITIONS = 3

STATEMENTS = [
    """CREATE SOURCE transfers (id bigint, "from" int, "to" int, amount bigint)
       WITH (topic = 'transfers') FORMAT PLAIN ENCODE JSON""",
    'CREATE MATERIALIZED VIEW credits AS SELECT "to" AS account, sum(amount) AS amount FROM transfers GROUP BY "to"',
    'CREATE MATERIALIZED VIEW debits AS SELECT "from" AS account, sum(amount) AS amount FROM transfers GROUP BY "from"',
    """CREATE MATERIALIZED VIEW balances AS
       SELECT coalesce(c.account, d.account) AS account, coalesce(c.amount, 0) - coalesce(d.amount, 0) AS balance
       FROM credits c FULL JOIN debits d ON c.account = d.account""",
    "CREATE MATERIALIZED VIEW total AS SELECT sum(balance) AS total FROM balances",
    """CREATE MATERIALIZED VIEW unmatched AS
       SELECT count(*) AS n FROM transfers t1 LEFT JOIN transfers t2 ON t1.id = t2.id WHERE t2.id IS NULL""",
    "CREATE MATERIALIZED VIEW moved AS SELECT count(*) AS n FROM transfers",
    # One row of all of them: the cheapest read, and one more step that may not tear.
    """CREATE MATERIALIZED VIEW books AS
       SELECT total, unmatched.n AS unmatched, moved.n AS moved FROM total CROSS JOIN unmatched CROSS JOIN moved""",
]

# Total, unmatched, moved: by the view that holds all, and by one statement over several views.
READ_ONE_VIEW = "SELECT total, unmatched, moved FROM books"
READ_MANY_VIEWS = "SELECT total, u.n, m.n FROM total, unmatched u, moved m"
READ_MANY_EVERY = 8


class Transfers:
    """Writes transfers without pause, through all kills, and keeps how many were acknowledged."""

    def __init__(self, server, seed, readers):
        self.dice = random.Random(seed)
        self.readers = readers
        self.written = self.acknowledged = 0
        self.failures = []
        self.is_stopped = threading.Event()
        self.producer = patient_producer(server, queue_buffering_max_messages=2000)
        self.thread = threading.Thread(target=self.write, daemon=True)
        self.thread.start()

    def account(self):
        # Null is nobody's account: it joins with nothing, and its money has to be counted all the same.
        return None if self.dice.random() < 0.01 else self.dice.randrange(ACCOUNTS)

    def may_write(self):
        return self.written < 20_000 + TRANSFERS_MAX * self.readers.done() // READS

    def write(self):
        while not self.is_stopped.is_set():
            if not self.may_write():
                self.producer.poll(0.002)
                continue
            transfer = {"id": self.written, "from": self.account(), "to": self.account(), "amount": self.dice.randrange(-20, 1000)}
            value = json.dumps(transfer).encode()
            while True:
                try:
                    self.producer.produce(TOPIC, value, partition=self.dice.randrange(PARTITIONS), on_delivery=self.delivered)
                    break
                except BufferError:
                    # It is full: as much is under way as may be.
                    self.producer.poll(0.01)
            self.written += 1
            self.producer.poll(0)

    def delivered(self, error, message):
        if error is None:
            self.acknowledged += 1
        else:
            self.failures.append(str(error))

    def finish(self):
        """Returns when everything written is acknowledged."""
        self.is_stopped.set()
        self.thread.join(30)
        assert self.producer.flush(60) == 0 and not self.failures, self.failures[:5]
        assert self.acknowledged == self.written


class Readers:
    """Read without pause and check each answer; a lost connection is made again only if the server was killed."""

    def __init__(self, server):
        self.server = server
        # One count per reader, so that none is lost.
        self.reads = [0] * READERS
        self.is_server_down = False
        self.server_starts = 1
        self.moved = [set() for _ in range(READERS)]
        self.failures = []
        self.is_stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(reader,), daemon=True) for reader in range(READERS)]
        for thread in self.threads:
            thread.start()

    def done(self):
        return sum(self.reads)

    def run(self, reader):
        last = 0
        while not self.is_stopped.is_set():
            starts = self.server_starts
            try:
                with connect(self.server) as session:
                    while not self.is_stopped.is_set():
                        last = self.read(reader, session, last)
            except psycopg.OperationalError as error:
                if not self.is_server_down and self.server_starts == starts:
                    self.fail(f"reader {reader}: {error}")
                time.sleep(0.02)
            except Exception as error:  # A thread that dies in silence would look like a slow one.
                self.fail(f"reader {reader}: {type(error).__name__}: {error}")

    def read(self, reader, session, last):
        query = READ_MANY_VIEWS if self.reads[reader] % READ_MANY_EVERY == 0 else READ_ONE_VIEW
        # Straight to libpq: it waits without Python's lock, and a row is not made into objects.
        result = session.pgconn.exec_(query.encode())
        if result.status != ExecStatus.TUPLES_OK:
            raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
        if result.ntuples != 1:
            self.fail(f"{query}: {result.ntuples} rows")
            return last
        total, unmatched, moved = (None if value is None else int(value) for value in map(result.get_value, [0] * 3, range(3)))
        if total != (0 if moved else None) or unmatched != 0:
            self.fail(f"{query}: total {total}, unmatched {unmatched}, after {moved} transfers")
        if moved < last:
            self.fail(f"{query}: {moved} transfers after {last}")
        self.moved[reader].add(moved)
        self.reads[reader] += 1
        return moved

    def fail(self, what):
        self.failures.append(what)
        self.is_stopped.set()

    def wait_for(self, reads, seconds):
        until(lambda: self.failures or self.done() >= reads, lambda: f"{self.done()} of {reads} reads", seconds)
        assert not self.failures, self.failures[:5]

    def kill_server(self):
        self.is_server_down = True
        self.server.kill()
        self.server.start()
        self.server_starts += 1
        self.is_server_down = False

    def finish(self):
        self.is_stopped.set()
        for thread in self.threads:
            thread.join(30)
        assert not self.failures, self.failures[:5]


def connect(server):
    host, port = server.postgresql.split(":")
    return psycopg.connect(host=host, port=port, user="root", dbname="dev", autocommit=True, connect_timeout=10)


def read_back(server, count):
    """Every transfer of the topic, by a Kafka consumer."""
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest",
                         "enable.partition.eof": True})
    consumer.subscribe([TOPIC])
    found, ended = [], set()
    try:
        while len(ended) < PARTITIONS:
            messages = consumer.consume(10_000, timeout=20)
            assert messages, f"nothing came for 20 s, after {len(found)} of {count}"
            for message in messages:
                if message.error():
                    ended.add(message.partition())
                else:
                    found.append(json.loads(message.value()))
    finally:
        consumer.close()
    return found


def balances_of(transfers):
    """What the view has to hold: null is equal to no account, so its credits and its debits are rows apart."""
    credits, debits = collections.Counter(), collections.Counter()
    for transfer in transfers:
        credits[transfer["to"]] += transfer["amount"]
        debits[transfer["from"]] += transfer["amount"]
    rows = [(account, credits[account] - debits[account]) for account in (credits.keys() | debits.keys()) - {None}]
    rows += [(None, credits[None])] if None in credits else []
    rows += [(None, -debits[None])] if None in debits else []
    return collections.Counter(rows)


@pytest.mark.client("psycopg", "confluent-kafka")
def test_money_adds_up_in_every_read_under_load_and_across_kills(servers):
    seed = int(os.environ.get("MAINSTEM_SEED", random.randrange(2**32)))
    print(f"MAINSTEM_SEED={seed}")
    dice = random.Random(seed)
    # Often enough that the kills meet views that are partly in a checkpoint and partly behind it.
    server = servers.new("--checkpoint-interval-seconds", "2").start()
    create_topic(server, TOPIC, PARTITIONS)
    with connect(server) as session:
        for statement in STATEMENTS:
            session.execute(statement)
    start = time.monotonic()
    readers = Readers(server)
    transfers = Transfers(server, dice.randrange(2**32), readers)
    seconds = 60 + READS / 100
    try:
        for kill in range(1, KILLS + 1):
            readers.wait_for(READS * kill // (KILLS + 1), seconds)
            time.sleep(dice.random() * 0.05)
            readers.kill_server()
        readers.wait_for(READS, seconds)
    finally:
        readers.is_stopped.set()
        transfers.is_stopped.set()
    took = time.monotonic() - start
    readers.finish()
    transfers.finish()
    reads, versions = readers.done(), len(set().union(*readers.moved))
    print(f"{reads} reads in {took:.0f} s, {reads / took:.0f} per second, of {versions} states; {transfers.acknowledged} transfers, {KILLS} kills")
    assert reads >= READS
    assert versions >= min(100, READS / 100), f"the reads saw only {versions} states: nothing moved under them"
    check_end(server, transfers.acknowledged)


def check_end(server, acknowledged):
    """Every acknowledged transfer is in the topic once, and the views hold exactly these."""
    found = read_back(server, acknowledged)
    assert sorted(transfer["id"] for transfer in found) == list(range(acknowledged))
    expected = balances_of(found)
    with connect(server) as session:
        until(lambda: session.execute("SELECT n FROM moved").fetchone() == (acknowledged,), "the views to have everything", 120)
        assert session.execute(READ_ONE_VIEW).fetchall() == [(0, 0, acknowledged)]
        rows = session.execute("SELECT account, balance FROM balances").fetchall()
    assert collections.Counter((account, int(balance)) for account, balance in rows) == expected
