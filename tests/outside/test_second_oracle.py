"""A second oracle for the meaning of SQL: PostgreSQL itself.

The tests of the engine compare views with batch queries of the same engine, so a wrong meaning that both share passes
there. Here the same random INSERT, UPDATE and DELETE go to Mainstem and to a PostgreSQL of the machine, and after each
round every view of second_oracle_views.py, and the same text as a SELECT, has to give the rows that PostgreSQL gives.
Mainstem is killed and started again in between. Every second view is also made a second time over data that is there.

Words: an *answer* is a multiset of rows, compared by value (a numeric and a double are the same number), or a refusal.
`KNOWN` are the differences that we know of; a test fails when one of them is gone, so that the list stays true.

`MAINSTEM_SEED` repeats a run, `MAINSTEM_ORACLE_ROUNDS` is the number of rounds (12).
"""

import collections
import datetime
import decimal
import getpass
import math
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from second_oracle_views import TABLES, VIEWS
from server import until

ROUNDS = int(os.environ.get("MAINSTEM_ORACLE_ROUNDS", "12"))
# After these rounds: views are made over data, and the server is killed.
LATE_ROUND = ROUNDS // 2
KILL_EVERY = 3
# Each view's text is a SELECT of its own in one of so many rounds; in the last round all are.
SELECT_EVERY = 3
STATEMENTS_PER_ROUND = 14

# Name: what is different, and why that is left as it is. Both answers are compared in full all the same.
KNOWN = {}


class PostgreSQL:
    """A PostgreSQL of its own on a socket in a directory of its own; nothing of it outlives the test."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="oracle-"))
        self.user = {}
        if os.geteuid() == 0:
            # It refuses to run as root; its package brings a user for it.
            self.user = {"user": "postgres", "group": "postgres"}
            shutil.chown(self.directory, **self.user)
        self.name = self.user.get("user", getpass.getuser())
        self.run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D", str(self.directory / "data"))
        self.log = open(self.directory / "log", "wb")
        self.process = subprocess.Popen(
            [program("postgres"), "-D", str(self.directory / "data"), "-k", str(self.directory), "-c", "listen_addresses=",
             "-c", "fsync=off", "-c", "timezone=UTC", "-c", "jit=off"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=self.directory, **self.user,
        )

    def run(self, name, *arguments):
        done = subprocess.run([program(name), *arguments], capture_output=True, text=True, cwd=self.directory, **self.user)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    def connect(self):
        def connected():
            try:
                return psycopg.connect(host=str(self.directory), user=self.name, dbname="postgres", autocommit=True)
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.directory / "log").read_text()
                return None

        return until(connected, "PostgreSQL to start")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def program(name):
    """Debian keeps the server's programs out of the path, a directory for each version."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3].split(".")[0]))
    found = str(versions[-1]) if versions else shutil.which(name)
    assert found, f"PostgreSQL's {name} is missing: cargo xtask setup installs it"
    return found


@pytest.fixture
def postgresql():
    made = PostgreSQL()
    try:
        yield made
    finally:
        made.close()


def connect(server):
    host, port = server.postgresql.split(":")
    return psycopg.connect(host=host, port=port, user="root", dbname="dev", autocommit=True)


# Answers


def plain(value):
    """A value by its meaning: which of the number types it has does not count, whether it is a number does."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float, decimal.Decimal)):
        if isinstance(value, float) and not math.isfinite(value):
            return ("number", str(value))
        return ("number", decimal.Decimal(value).normalize() + 0)
    if isinstance(value, list):
        return ("list", tuple(plain(item) for item in value))
    # A date is no timestamp: the type's name tells them apart.
    return (type(value).__name__, value)


def alike(left, right):
    """Equal, or numbers that differ by the rounding of doubles."""
    if left == right:
        return True
    if not (isinstance(left, tuple) and isinstance(right, tuple) and left[0] == right[0]):
        return False
    if left[0] == "number" and not isinstance(left[1], str) and not isinstance(right[1], str):
        return math.isclose(left[1], right[1], rel_tol=1e-9, abs_tol=1e-9)
    if left[0] == "list" and len(left[1]) == len(right[1]):
        return all(alike(a, b) for a, b in zip(left[1], right[1]))
    return False


def difference(found, expected):
    """The rows of each that the other does not have."""
    found, expected = found - expected, expected - found
    missing = list(expected.elements())
    extra = []
    for row in found.elements():
        for at, other in enumerate(missing):
            if len(row) == len(other) and all(alike(a, b) for a, b in zip(row, other)):
                del missing[at]
                break
        else:
            extra.append(row)
    return extra, missing


class Refused(Exception):
    """A statement that was answered with an error."""


def answer(session, query):
    try:
        cursor = session.execute(query, prepare=False)
        return collections.Counter(tuple(plain(value) for value in row) for row in cursor.fetchall())
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise Refused(f"{error.sqlstate}: {error}") from None


def shown(rows):
    def value(item):
        return [value(part) for part in item[1]] if isinstance(item, tuple) and item[0] == "list" else str(item[1]) if isinstance(item, tuple) else item

    return [tuple(value(item) for item in row) for row in rows[:3]] + (["..."] if len(rows) > 3 else [])


# Changes


class Changes:
    """Random statements, at least a third of them UPDATE and DELETE, the same text for both."""

    def __init__(self, dice):
        self.dice = dice
        self.next_id = {"t": 1, "u": 1}
        self.counts = collections.Counter()

    def number(self, low=-4, high=9, null=0.15):
        return "NULL" if self.dice.random() < null else str(self.dice.randrange(low, high))

    def text(self):
        return self.dice.choice(["NULL", "''", "''", "'a'", "'a'", "'ab'", "'b'", "'B'", "'abc'", "' a b'", "'ß%_'", "'bab'"])

    def moment(self):
        if self.dice.random() < 0.12:
            return "NULL"
        at = datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=self.dice.randrange(0, 60 * 24 * 75, 20))
        return f"TIMESTAMP '{at}'"

    def date(self):
        return "NULL" if self.dice.random() < 0.12 else f"DATE '{datetime.date(2023, 12, 25) + datetime.timedelta(days=self.dice.randrange(80))}'"

    def quarter(self):
        return "NULL" if self.dice.random() < 0.12 else str(self.dice.randrange(-40, 60) / 4)

    def price(self):
        return "NULL" if self.dice.random() < 0.12 else str(decimal.Decimal(self.dice.randrange(-2000, 5000)) / 100)

    def truth(self):
        return self.dice.choice(["true", "true", "false", "NULL"])

    def big(self):
        # Now and then beyond what a double holds exactly.
        return self.number(9007199254740993, 9007199254741000) if self.dice.random() < 0.05 else self.number(-50, 50)

    def row(self, table):
        group = self.number(1, 6, 0.1)
        if table == "e":
            return f"({self.number(-1, 4)}, {self.text()})"
        id = self.next_id[table]
        self.next_id[table] += 1
        if table == "u":
            return f"({id}, {group}, {self.number()}, {self.text()})"
        return (f"({id}, {group}, {self.number()}, {self.big()}, {self.price()}, {self.quarter()}, {self.text()}, {self.moment()},"
                f" {self.date()}, {self.truth()})")

    def insert(self, table):
        rows = [self.row(table) for _ in range(self.dice.randrange(1, 6))]
        return f"INSERT INTO {table} VALUES {', '.join(rows)}"

    def where(self, table):
        if table == "e":
            return self.dice.choice([f"a = {self.number(-1, 4, 0)}", "a IS NULL", f"s = {self.text()} AND a < 2"])
        some = self.dice.sample(range(1, self.next_id[table] + 1), min(4, self.next_id[table]))
        in_ids = f"id IN ({', '.join(map(str, some))})"
        return self.dice.choice([in_ids, in_ids, in_ids, f"g = {self.number(1, 6, 0)} AND id % 3 = {self.dice.randrange(3)}", f"s = {self.text()}"])

    def assignments(self, table):
        choices = {
            "e": [f"a = {self.number(-1, 4)}", f"s = {self.text()}", "a = a + 1"],
            "u": [f"g = {self.number(1, 6, 0.1)}", f"v = {self.number()}", f"s = {self.text()}", "v = v + 1", "v = g, g = abs(v) % 5 + 1"],
            "t": [f"g = {self.number(1, 6, 0.1)}", f"x = {self.number()}", "x = x + 1, y = -y", f"s = {self.text()}, b = {self.truth()}",
                  f"f = {self.quarter()}, p = {self.price()}", f"at = {self.moment()}", f"d = {self.date()}, at = at + INTERVAL '3 hours'",
                  "b = NOT b, f = -f", f"x = g, g = {self.number(1, 6, 0.1)}", f"y = {self.big()}"],
        }
        return self.dice.choice(choices[table])

    def statement(self):
        table = self.dice.choices(["t", "u", "e"], [5, 3, 2])[0]
        kind = self.dice.choices(["INSERT", "UPDATE", "DELETE"], [5, 4, 2])[0]
        self.counts[kind] += 1
        if kind == "INSERT":
            return self.insert(table)
        if kind == "UPDATE":
            return f"UPDATE {table} SET {self.assignments(table)} WHERE {self.where(table)}"
        return f"DELETE FROM {table} WHERE {self.where(table)}"

    def round(self, number):
        if number == 1:
            # Views of one row and of none before views of many.
            return [f"INSERT INTO {table} VALUES {self.row(table)}" for table in ("t", "u", "e")]
        statements = [self.statement() for _ in range(STATEMENTS_PER_ROUND)]
        if number == ROUNDS - 1:
            # Everything goes, and what was kept about it has to go with it.
            statements = [f"DELETE FROM {table}" for table in ("t", "u", "e")] + statements
        return statements


# The comparison


class Comparison:
    """Collects differences by the name of the view, so that one run shows them all."""

    def __init__(self):
        self.found = {}
        self.compared = 0
        self.rows = 0

    def note(self, name, what):
        self.found.setdefault(name, what)

    def compare(self, session, name, where, query, expected):
        try:
            found = answer(session, query)
        except Refused as error:
            self.note(name, f"{where} is refused: {error}")
            return
        self.compared += 1
        self.rows += expected.total()
        extra, missing = difference(found, expected)
        if extra or missing:
            self.note(name, f"{where} has {shown(extra)}, PostgreSQL {shown(missing)}")


def create(session, views, suffix, comparison):
    made = {}
    for name, text in views:
        try:
            session.execute(f"CREATE MATERIALIZED VIEW {name}{suffix} AS {text}")
            made[name] = f"{name}{suffix}"
        except psycopg.Error as error:
            comparison.note(name, f"the view is refused: {error.sqlstate}: {error}")
    return made


def test_views_and_queries_mean_what_they_mean_in_postgresql(server, postgresql):
    seed = int(os.environ.get("MAINSTEM_SEED", random.randrange(2**32)))
    print(f"MAINSTEM_SEED={seed}")
    dice = random.Random(seed)
    changes, comparison = Changes(dice), Comparison()
    oracle = postgresql.connect()
    session = connect(server)
    assert len({name for name, _ in VIEWS}) == len(VIEWS)
    for table in TABLES:
        oracle.execute(table)
        session.execute(table)
    start = time.monotonic()
    early, late = create(session, VIEWS, "", comparison), {}
    print(f"{len(early)} views of {len(VIEWS)} made in {time.monotonic() - start:.0f} s")
    for round in range(ROUNDS):
        if round:
            for statement in changes.round(round):
                expected = oracle.execute(statement, prepare=False).rowcount
                assert session.execute(statement, prepare=False).rowcount == expected, f"{statement}: PostgreSQL changed {expected} rows"
        if round == LATE_ROUND:
            late = create(session, VIEWS[seed % 2::2], "_late", comparison)
        if round % KILL_EVERY == KILL_EVERY - 1:
            session.close()
            server.kill()
            server.start()
            session = connect(server)
        for at, (name, text) in enumerate(VIEWS):
            try:
                expected = answer(oracle, text)
            except Refused as error:
                pytest.fail(f"{name}: PostgreSQL refuses it: {error}")
            for views, what in ((early, "the view"), (late, "the view made later")):
                if name in views:
                    comparison.compare(session, name, f"round {round}: {what}", f"SELECT * FROM {views[name]}", expected)
            if at % SELECT_EVERY == round % SELECT_EVERY or round == ROUNDS - 1:
                comparison.compare(session, name, f"round {round}: the query", text, expected)
    session.close()
    oracle.close()
    took = time.monotonic() - start
    total = changes.counts.total()
    print(f"{len(VIEWS)} views, {ROUNDS} rounds, {total} statements {dict(changes.counts)}, {comparison.compared} answers of"
          f" {comparison.rows} rows compared in {took:.0f} s")
    assert changes.counts["INSERT"] < 0.7 * total
    new = {name: what for name, what in comparison.found.items() if name not in KNOWN}
    texts = dict(VIEWS)
    assert not new, f"MAINSTEM_SEED={seed}, {len(new)} differ\n" + "\n".join(f"{name}: {texts[name]}\n    {what}" for name, what in new.items())
    gone = KNOWN.keys() - comparison.found.keys()
    assert not gone, f"no difference any more, so they can be taken from KNOWN: {gone}"
