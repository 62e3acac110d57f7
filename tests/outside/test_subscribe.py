"""SUBSCRIBE and cursors by psql and psycopg 3: rows as they change, and what ends them."""

import collections
import json
import random
import subprocess
import threading
import time

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from conftest import create_topic
from server import until


def connect(server, **settings):
    host, port = server.postgresql.split(":")
    return psycopg.connect(host=host, port=port, user="root", dbname="dev", **settings)


def resident_mib(server):
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024


class Content:
    """What a subscription with progress adds up to."""

    def __init__(self):
        self.rows = collections.Counter()
        self.progress = 0
        self.last = 0
        self.version = collections.Counter()

    def take(self, timestamp, progressed, diff, *row):
        assert timestamp >= self.last, "timestamps go back"
        assert timestamp >= self.progress, "a change below what was said to be complete"
        self.last = timestamp
        if progressed:
            assert timestamp > self.progress
            self.progress = timestamp
            self.rows.update(self.version)
            self.version.clear()
            self.rows = collections.Counter({row: n for row, n in self.rows.items() if n})
            assert all(n > 0 for n in self.rows.values()), self.rows
        else:
            assert diff != 0
            self.version[row] += diff


class Follower(threading.Thread):
    """COPY (SUBSCRIBE ...) on a thread of its own, until it fails."""

    def __init__(self, server, statement, pause=0.0):
        super().__init__(daemon=True)
        self.session = connect(server, autocommit=True)
        self.statement, self.pause = statement, pause
        self.content, self.error, self.began = Content(), None, time.monotonic()
        self.start()

    def run(self):
        try:
            with self.session.cursor().copy(f"COPY ({self.statement}) TO STDOUT") as copy:
                for line in copy:
                    fields = [None if field == "\\N" else field for field in bytes(line).decode().rstrip("\n").split("\t")]
                    diff = None if fields[2] is None else int(fields[2])
                    self.content.take(int(fields[0]), fields[1] == "t", diff, *fields[3:])
                    time.sleep(self.pause)
        except Exception as error:
            self.error = error

    def until_equal(self, rows, seconds=20):
        expected = collections.Counter(tuple(str(value) for value in row) for row in rows)
        until(lambda: self.content.rows == expected or self.error, lambda: f"{self.content.rows} is not {expected}", seconds)
        assert self.error is None, self.error

    def until_ended(self, seconds=10):
        self.join(seconds)
        assert not self.is_alive(), "the subscription goes on"
        return self.error


@pytest.mark.client("psycopg")
def test_subscribers_add_up_to_the_content_at_every_version(server):
    with connect(server, autocommit=True) as session:
        session.execute("CREATE TABLE t (id int PRIMARY KEY, g int, n bigint)")
        session.execute("CREATE MATERIALIZED VIEW v AS SELECT g, sum(n) AS n, count(*) AS c FROM t GROUP BY g")
        session.execute("INSERT INTO t SELECT i, i % 7, i FROM generate_series(1, 500) AS s(i)")
        options = "WITH (PROGRESS)"
        followers = [
            Follower(server, f"SUBSCRIBE t {options}"),
            Follower(server, f"SUBSCRIBE v {options}"),
            Follower(server, f"SUBSCRIBE TO v {options}"),
            Follower(server, f"SUBSCRIBE v {options}", pause=0.004),
            Follower(server, f"SUBSCRIBE (SELECT g, n * 2 FROM v WHERE c > 60) {options}"),
            Follower(server, f"SUBSCRIBE (SELECT t.id, v.n FROM t JOIN v ON t.g = v.g WHERE t.id < 20) {options}"),
        ]
        generator = random.Random(7)
        for round in range(150):
            id = generator.randrange(1000)
            session.execute(generator.choice([
                f"INSERT INTO t VALUES ({id}, {id % 7}, {round}) ON CONFLICT (id) DO UPDATE SET n = excluded.n",
                f"DELETE FROM t WHERE id = {id}",
                f"UPDATE t SET g = (g + 1) % 7 WHERE id % 50 = {id % 50}",
            ]))
        queries = ["SELECT * FROM t", "SELECT * FROM v", "SELECT * FROM v", "SELECT * FROM v",
                   "SELECT g, n * 2 FROM v WHERE c > 60", "SELECT t.id, v.n FROM t JOIN v ON t.g = v.g WHERE t.id < 20"]
        for follower, query in zip(followers, queries):
            follower.until_equal(session.execute(query).fetchall(), 30)
        # What everyone was told is complete lies beyond the last write.
        assert len({follower.content.progress for follower in followers}) == 1
        session.execute("DROP MATERIALIZED VIEW v")
        for follower in followers[1:]:
            error = follower.until_ended()
            assert error.sqlstate == "42P01" and 'relation "v" was dropped' in str(error)
        assert followers[0].is_alive()
        server.kill()
        assert isinstance(followers[0].until_ended(), psycopg.OperationalError)


@pytest.mark.client("psycopg")
def test_copy_streams_each_version_at_once(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE streamed (id int PRIMARY KEY, n int)")
        follower = Follower(shared_server, "SUBSCRIBE streamed WITH (PROGRESS)")
        latencies = []
        for i in range(50):
            begun = time.monotonic()
            session.execute(f"INSERT INTO streamed VALUES ({i}, {i})")
            while not follower.content.rows[(str(i), str(i))]:
                assert time.monotonic() - begun < 5
                time.sleep(0.0005)
            latencies.append(time.monotonic() - begun)
        assert sorted(latencies)[25] < 0.5, latencies
        follower.session.cancel()
        assert follower.until_ended().sqlstate == "57014"
        until(lambda: shared_server.metric("mainstem_subscriptions") == 0, "it to be freed", 10)
        # The connection goes on.
        assert follower.session.execute("SELECT count(*) FROM streamed").fetchone() == (50,)


@pytest.mark.client("psycopg")
def test_rows_stream_in_the_extended_protocol(shared_server):
    with connect(shared_server, autocommit=True) as session, connect(shared_server, autocommit=True) as writer:
        writer.execute("CREATE TABLE extended (id int PRIMARY KEY, name varchar)")
        writer.execute("INSERT INTO extended VALUES (1, 'a')")
        cursor = session.cursor()
        stream = cursor.stream("SUBSCRIBE extended")
        first = next(stream)
        assert [column.name for column in cursor.description] == ["mainstem_timestamp", "mainstem_diff", "id", "name"]
        assert first[1:] == (1, 1, "a")
        writer.execute("UPDATE extended SET name = 'b'")
        rows = [next(stream), next(stream)]
        assert sorted(row[1:] for row in rows) == [(-1, 1, "a"), (1, 1, "b")]
        assert rows[0][0] == rows[1][0] > first[0]
        session.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            next(stream)
    # With a parameter, and without what is there already.
    with connect(shared_server, autocommit=True) as session, connect(shared_server, autocommit=True) as writer:
        stream = session.cursor().stream("SUBSCRIBE (SELECT name FROM extended WHERE id > %s) WITH (SNAPSHOT = false, PROGRESS)", (5,))
        assert next(stream)[1] is True
        writer.execute("INSERT INTO extended VALUES (5, 'five'), (6, 'six')")
        changes = (row for row in stream if not row[1])
        assert next(changes)[2:] == (1, "six")
        session.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            collections.deque(stream, 0)


@pytest.mark.client("psycopg")
def test_a_cursor_gives_changes_in_parts(shared_server):
    with connect(shared_server, autocommit=True) as writer, connect(shared_server) as session:
        writer.execute("CREATE TABLE parts (id int PRIMARY KEY, n int)")
        writer.execute("INSERT INTO parts SELECT i, 0 FROM generate_series(1, 10) AS s(i)")
        session.execute("DECLARE c CURSOR FOR SUBSCRIBE parts")
        assert len(session.execute("FETCH 4 c").fetchall()) == 4
        assert len(session.execute("FETCH FORWARD ALL FROM c").fetchall()) == 6
        begun = time.monotonic()
        assert session.execute("FETCH ALL c WITH (timeout = '300ms')").fetchall() == []
        assert 0.25 < time.monotonic() - begun < 2
        threading.Timer(0.3, lambda: writer.execute("UPDATE parts SET n = 1 WHERE id <= 2")).start()
        # Waits, then gives the version as a whole.
        rows = session.execute("FETCH ALL c").fetchall()
        assert sorted(row[1:] for row in rows) == [(-1, 1, 0), (-1, 2, 0), (1, 1, 1), (1, 2, 1)]
        session.execute("SET LOCAL statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            session.execute("FETCH ALL c")
        session.rollback()
        with pytest.raises(psycopg.errors.InvalidCursorName):
            session.execute("FETCH 1 c")
        session.rollback()


@pytest.mark.client("psycopg")
def test_ordinary_cursors_are_read_in_parts(shared_server):
    with connect(shared_server) as session:
        with session.cursor(name="big") as cursor:
            cursor.itersize = 1000
            cursor.execute("SELECT i, i * 2 AS d FROM generate_series(1, 25000) AS s(i) WHERE i > %s ORDER BY i", (0,))
            assert [column.name for column in cursor.description] == ["i", "d"]
            assert cursor.fetchone() == (1, 2)
            assert cursor.fetchmany(3) == [(2, 4), (3, 6), (4, 8)]
            assert sum(1 for _ in cursor) == 25_000 - 4
        session.execute("DECLARE d NO SCROLL CURSOR FOR SELECT i FROM generate_series(1, 20000) AS s(i) ORDER BY i")
        assert session.execute("MOVE 5 d").statusmessage == "MOVE 5"
        session.execute("SAVEPOINT s")
        session.execute("DECLARE e CURSOR FOR SELECT 1")
        assert session.execute("FETCH d").fetchall() == [(6,)]
        session.execute("ROLLBACK TO s")
        assert len(session.execute("FETCH ALL d").fetchall()) == 20_000 - 6
        assert session.execute("FETCH ALL d").fetchall() == []
        assert session.execute("CLOSE ALL").statusmessage == "CLOSE CURSOR ALL"
        with pytest.raises(psycopg.errors.InvalidCursorName):
            session.execute("FETCH e")
    with connect(shared_server, autocommit=True) as session:
        with pytest.raises(psycopg.errors.NoActiveSqlTransaction):
            session.execute("DECLARE c CURSOR FOR SELECT 1")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="WITH HOLD"):
            session.execute("DECLARE c CURSOR WITH HOLD FOR SELECT 1")


@pytest.mark.client("psycopg")
def test_a_source_is_followed(shared_server):
    create_topic(shared_server, "followed", 2)
    producer = Producer({"bootstrap.servers": shared_server.kafka})
    produce = lambda values: [producer.produce("followed", json.dumps({"a": a, "b": f"b{a}"})) for a in values] and producer.flush()
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE SOURCE followed_source (a int, b varchar) WITH (topic = 'followed') FORMAT PLAIN ENCODE JSON")
        produce(range(20_000))
        whole = Follower(shared_server, "SUBSCRIBE followed_source WITH (PROGRESS)")
        counted = Follower(shared_server, "SUBSCRIBE (SELECT a % 10, count(*) FROM followed_source GROUP BY 1) WITH (PROGRESS)")
        new = Follower(shared_server, "SUBSCRIBE followed_source WITH (SNAPSHOT = false, PROGRESS)")
        until(lambda: new.content.progress, lambda: "no progress", 10)
        produce(range(20_000, 21_000))
        counted.until_equal([(i, 2100) for i in range(10)])
        whole.until_equal([(i, f"b{i}") for i in range(21_000)])
        new.until_equal([(i, f"b{i}") for i in range(20_000, 21_000)])
        for follower in [whole, counted, new]:
            follower.session.cancel()
            assert follower.until_ended().sqlstate == "57014"


@pytest.mark.client("psycopg")
def test_an_error_of_the_view_ends_its_subscriptions(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE divided (id int PRIMARY KEY, n int)")
        session.execute("CREATE MATERIALIZED VIEW quotients AS SELECT id, 10 / n AS q FROM divided")
        session.execute("INSERT INTO divided VALUES (1, 5)")
        of_view = Follower(shared_server, "SUBSCRIBE quotients WITH (PROGRESS)")
        of_query = Follower(shared_server, "SUBSCRIBE (SELECT 10 / n FROM divided) WITH (PROGRESS)")
        of_view.until_equal([(1, 2)])
        of_query.until_equal([(2,)])
        session.execute("INSERT INTO divided VALUES (2, 0)")
        for follower in [of_view, of_query]:
            error = follower.until_ended()
            assert error.sqlstate == "22012", error


@pytest.mark.client("psql")
def test_psql_prints_and_is_refused_by_name(shared_server):
    host, port = shared_server.postgresql.split(":")

    def psql(script, status=0):
        done = subprocess.run(
            ["psql", "-X", "-At", "-h", host, "-p", port, "-U", "root", "-d", "dev", "-v", "ON_ERROR_STOP=1"],
            input=script, capture_output=True, text=True, timeout=60,
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    psql("CREATE TABLE keyed (name varchar, id int PRIMARY KEY); INSERT INTO keyed VALUES ('a', 1), ('b', 2);")
    printed = psql(
        "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE keyed ENVELOPE UPSERT (KEY (id)) WITH (PROGRESS = off);"
        " FETCH ALL c; COMMIT;"
    )
    rows = [line.split("|")[1:] for line in printed.splitlines() if "|" in line]
    assert rows == [["upsert", "1", "a"], ["upsert", "2", "b"]]
    assert 'column "x" in KEY does not exist' in psql("SUBSCRIBE keyed ENVELOPE UPSERT (KEY (x))", 3)
    assert 'relation "nothing" does not exist' in psql("SUBSCRIBE nothing", 3)
    assert "SUBSCRIBE ... AS OF is not supported" in psql("SUBSCRIBE keyed AS OF 5", 3)
    assert "SUBSCRIBE in a transaction that has written" in psql("BEGIN; DELETE FROM keyed; SUBSCRIBE keyed;", 3)


@pytest.mark.client("psycopg")
def test_who_leaves_or_reads_slowly_holds_up_nobody(server):
    with connect(server, autocommit=True) as session:
        session.execute("CREATE TABLE wide (id int PRIMARY KEY, n int, pad varchar)")
        session.execute("INSERT INTO wide SELECT i, 0, repeat('x', 200) FROM generate_series(1, 2000) AS s(i)")
        begun = time.monotonic()
        for _ in range(30):
            session.execute("UPDATE wide SET n = n + 1")
        alone = (time.monotonic() - begun) / 30
        # Takes nothing for a long time: what it would be sent does not fit the socket's buffers.
        stalled = connect(server)
        stalled.execute("DECLARE c CURSOR FOR SUBSCRIBE wide WITH (PROGRESS)")
        slow = connect(server, autocommit=True)
        copy = slow.cursor().copy("COPY (SUBSCRIBE wide WITH (PROGRESS)) TO STDOUT")
        lines = copy.__enter__()
        leaving = [connect(server, autocommit=True) for _ in range(10)]
        streams = [one.cursor().stream("SUBSCRIBE wide") for one in leaving]
        assert all(next(stream)[1] == 1 for stream in streams)
        for one in leaving:
            one.pgconn.finish()
        until(lambda: server.metric("mainstem_subscriptions") == 2, "those of clients that left to be freed", 10)
        begun = time.monotonic()
        for _ in range(200):
            session.execute("UPDATE wide SET n = n + 1")
        beside = (time.monotonic() - begun) / 200
        until(lambda: resident_mib(server) < 600, lambda: f"{resident_mib(server)} MiB are in use", 10)
        expected = collections.Counter(tuple(str(v) for v in row) for row in session.execute("SELECT * FROM wide").fetchall())
        content = Content()
        versions = 0
        while content.rows != expected:
            fields = bytes(lines.read()).decode().rstrip("\n").split("\t")
            content.take(int(fields[0]), fields[1] == "t", None if fields[2] == "\\N" else int(fields[2]), *fields[3:])
            versions += fields[1] == "t"
        # It was given the difference where it was too slow for each version.
        assert versions < 200, versions
        slow.pgconn.finish()
        print(f"an update of 2000 rows: {alone:.3f} s alone, {beside:.3f} s beside stalled subscribers; {versions} versions given")
        total = Content()
        while total.rows != expected:
            for row in stalled.execute("FETCH 50000 c WITH (timeout = '1s')").fetchall():
                total.take(*row[:3], *(str(value) for value in row[3:]))
        stalled.close()


@pytest.mark.client("psycopg")
def test_a_clean_stop_ends_subscriptions_at_once(server):
    with connect(server, autocommit=True) as session:
        session.execute("CREATE TABLE t (id int PRIMARY KEY)")
        followers = [Follower(server, "SUBSCRIBE t WITH (PROGRESS)") for _ in range(5)]
        idle = connect(server)
        idle.execute("DECLARE c CURSOR FOR SUBSCRIBE t")
        for follower in followers:
            until(lambda: follower.content.progress, lambda: "no progress", 10)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 5
        for follower in followers:
            assert isinstance(follower.until_ended(), psycopg.OperationalError)
    # The content is there again for those who come back.
    server.start()
    with connect(server, autocommit=True) as session:
        session.execute("INSERT INTO t VALUES (1)")
        Follower(server, "SUBSCRIBE t WITH (PROGRESS)").until_equal([(1,)])


@pytest.mark.client("psycopg")
def test_who_falls_behind_what_a_source_keeps_is_told(server):
    create_topic(server, "short", 1)
    producer = Producer({"bootstrap.servers": server.kafka, "queue.buffering.max.messages": 1_000_000})
    with connect(server, autocommit=True) as session, connect(server, autocommit=True) as stalled:
        session.execute("CREATE SOURCE short_source (a int, pad varchar) WITH (topic = 'short') FORMAT PLAIN ENCODE JSON")
        with pytest.raises(psycopg.Error) as raised, stalled.cursor().copy("COPY (SUBSCRIBE short_source) TO STDOUT") as copy:
            for version in range(12):
                for a in range(5_000):
                    producer.produce("short", json.dumps({"a": a, "pad": "x" * 1000}))
                producer.flush()
            session.execute("FLUSH")
            # More than the sockets' buffers take is unread, and nothing holds it.
            end = TopicPartition("short", 0, 60_000)
            admin = AdminClient({"bootstrap.servers": server.kafka})
            assert admin.delete_records([end])[end].result(30).low_watermark == 60_000
            rows = sum(1 for _ in copy)
            pytest.fail(f"it gave {rows} rows and ended well")
        assert raised.value.sqlstate == "55000", raised.value
        assert "is gone" in str(raised.value) and "Subscribe again" in str(raised.value)
