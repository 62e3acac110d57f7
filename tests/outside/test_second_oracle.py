"""A second oracle for the meaning of SQL: PostgreSQL itself.

The tests of the engine compare views with batch queries of the same engine, so a wrong meaning that both share passes
there. Here the same random INSERT, UPDATE and DELETE go to Mainstem and to a PostgreSQL of the machine, and after each
round every view of second_oracle_views.py, and the same text as a SELECT, has to give the rows that PostgreSQL gives.
Mainstem is killed and started again in between. Every second view is also made a second time over data that is there.

Words: an *answer* is a multiset of rows, compared by value (a numeric and a double are the same number), or a refusal.
`KNOWN` are the differences that we know of, each with the place (view or query) where it shows. A difference that is gone
fails the test too, so that the list stays true.

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
import signal
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
# Each view's text is a SELECT of its own in one of so many rounds; in the first and the last with rows all are.
SELECT_EVERY = 3
STATEMENTS_PER_ROUND = 18

BOTH = "view query"
USING = "refused: the common column of an outer join from the right side or both"
STAR = "wrong: SELECT * puts the columns of USING last, where PostgreSQL puts them first"
INTERVALS = "wrong: intervals are compared by months, days and time apart, not by 30 days and 24 hours"
SPAN = "wrong: the difference of two timestamps is a duration, not an interval of days and time"
SCALE = "a quotient of numerics has 4 more digits than its dividend and is cut, not rounded"
LITERALS = "a literal with a point is a double, not a numeric"
NOT_YET = "refused"

# Name: where, and what. `wrong` is a wrong answer; what has no such mark is refused, or meant otherwise.
KNOWN = {
    "join_full_using_sides": (BOTH, USING),
    "join_full_using": (BOTH, USING),
    "join_full_using_star": (BOTH, USING),
    "join_right_using": (BOTH, USING),
    "join_using_star": (BOTH, STAR),
    "join_left_on_true": ("view", "refused: taken for a scalar subquery"),
    "join_left_on_exists": ("query", NOT_YET),
    "join_lateral_expression": (BOTH, NOT_YET),
    "join_lateral_top": (BOTH, NOT_YET),
    "in_pair": (BOTH, NOT_YET),
    "not_in_pair": (BOTH, NOT_YET),
    "in_outer_inside": (BOTH, NOT_YET),
    "in_limit_correlated": (BOTH, NOT_YET),
    "in_union_correlated": (BOTH, NOT_YET),
    "exists_offset": (BOTH, "wrong: OFFSET in a correlated EXISTS is left out"),
    "exists_union": (BOTH, NOT_YET),
    "exists_two_levels": (BOTH, "refused: the column is two levels out"),
    "exists_in_filter": (BOTH, NOT_YET),
    "scalar_less": (BOTH, NOT_YET),
    "scalar_or": (BOTH, NOT_YET),
    "scalar_outer_inside": (BOTH, NOT_YET),
    "scalar_nested_aggregate": (BOTH, NOT_YET),
    "scalar_in_aggregate": (BOTH, NOT_YET),
    "array_of": (BOTH, NOT_YET),
    "above_all": (BOTH, NOT_YET),
    "fetch_first": (BOTH, NOT_YET),
    "agg_bigint_avg": (BOTH, "wrong: the average of bigint adds doubles, so that digits beyond 2^53 are lost"),
    "agg_average_half": (BOTH, "wrong: the average of integers is a double, and its halves are rounded to even"),
    "agg_numeric_avg": (BOTH, SCALE),
    "agg_filter_null": ("query", "refused: the null is no boolean"),
    "agg_string_orders": ("query", "refused: two aggregates of different orders, one of them DISTINCT"),
    "agg_string_by_row": (BOTH, NOT_YET),
    "agg_percentile_fine": (BOTH, "wrong: the place between two values is cut to six digits"),
    "agg_percentile_disc": (BOTH, NOT_YET),
    "agg_mode": (BOTH, NOT_YET),
    "agg_by_key": (BOTH, "refused: columns that depend on a grouped primary key"),
    "group_empty_set": (BOTH, NOT_YET),
    "group_rollup_pair": (BOTH, NOT_YET),
    "over_rows_bool": (BOTH, NOT_YET),
    "over_rows_string": (BOTH, NOT_YET),
    "over_lead_by_row": (BOTH, NOT_YET),
    "over_nth_by_row": (BOTH, NOT_YET),
    "over_exclude": (BOTH, NOT_YET),
    "arithmetic_numeric_thirds": (BOTH, SCALE),
    "arithmetic_double_round": (BOTH, "halves are rounded away from zero, in PostgreSQL as the platform does, mostly to even"),
    "literals_exact": (BOTH, LITERALS),
    "literals_round": (BOTH, LITERALS),
    "literals_text": (BOTH, LITERALS),
    "literals_varchar": (BOTH, "a cast to varchar(n) cuts nothing off"),
    "like_escape": (BOTH, NOT_YET),
    "between_symmetric": (BOTH, NOT_YET),
    "date_century": (BOTH, "refused, and the view only when it has rows"),
    "date_interval_times": (BOTH, NOT_YET),
    "date_interval_avg": (BOTH, "refused in a view; in a query wrong by a microsecond, cut and not rounded"),
    "date_interval_sum": (BOTH, NOT_YET),
    "date_interval_order": (BOTH, INTERVALS),
    "date_interval_distinct": (BOTH, INTERVALS),
    "date_interval_equals": (BOTH, INTERVALS),
    "date_interval_days": (BOTH, INTERVALS),
    "date_interval_hour": (BOTH, SPAN),
    "date_interval_text": (BOTH, SPAN),
    "date_age": (BOTH, NOT_YET),
    "series_time": (BOTH, NOT_YET),
    "series_by_row": (BOTH, NOT_YET),
    "series_in_list": (BOTH, "wrong: an array, where PostgreSQL has a row for each"),
    "row_is_null": (BOTH, NOT_YET),
    "with_recursive": (BOTH, NOT_YET),
}


class PostgreSQL:
    """A PostgreSQL of its own on a socket in a directory of its own; nothing of it outlives the test."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="oracle-"))
        self.user = {}
        if os.geteuid() == 0:
            # It refuses to run as root; its package brings a user for it.
            self.user = {"user": "postgres", "group": "postgres"}
            shutil.chown(self.directory, **self.user)
        self.name = self.user["user"] if self.user else getpass.getuser()
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
        # It waits for no session then.
        self.process.send_signal(signal.SIGINT)
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


# The same in every run: few rows, and every difference of KNOWN shows.
FIRST_ROWS = [
    """INSERT INTO t VALUES
       (1, 1, 5, 7, 14.18, 6.5, 'a', TIMESTAMP '2024-03-11 01:00:02', DATE '2024-01-31', true),
       (2, 2, NULL, 9, -0.05, 8.5, NULL, NULL, NULL, NULL),
       (3, 1, 2, -3, 0.01, -2.5, '', TIMESTAMP '2024-01-01 00:00:00', DATE '2024-02-29', false),
       (4, 3, 5, NULL, 1.01, 3.25, 'ab', TIMESTAMP '2024-01-01 10:00:00', DATE '2024-01-01', true),
       (5, 1, NULL, 8, 20.00, NULL, 'a', NULL, NULL, false)""",
    "INSERT INTO u VALUES (1, 1, 5, 'a'), (2, 7, NULL, 'b'), (3, NULL, 3, 'c'), (4, 3, 5, '')",
    "INSERT INTO e VALUES (1, 'a'), (1, 'a'), (NULL, ''), (5, NULL)",
]


class Changes:
    """Random statements, at least a third of them UPDATE and DELETE, the same text for both."""

    def __init__(self, dice):
        self.dice = dice
        # After those of the first rows.
        self.next_id = {"t": 6, "u": 5}
        self.counts = collections.Counter()

    def number(self, low=-4, high=9, null=0.15):
        return "NULL" if self.dice.random() < null else str(self.dice.randrange(low, high))

    def text(self):
        return self.dice.choice(["NULL", "''", "''", "'a'", "'a'", "'ab'", "'b'", "'B'", "'abc'", "' a b'", "'☃%_'", "'bab'"])

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
        if self.dice.random() < 0.2:
            statement = self.of_a_query()
            self.counts[statement.split()[0]] += 1
            return statement
        table = self.dice.choices(["t", "u", "e"], [5, 3, 2])[0]
        kind = self.dice.choices(["INSERT", "UPDATE", "DELETE"], [5, 4, 2])[0]
        self.counts[kind] += 1
        if kind == "INSERT":
            return self.insert(table)
        if kind == "UPDATE":
            return f"UPDATE {table} SET {self.assignments(table)} WHERE {self.where(table)}"
        return f"DELETE FROM {table} WHERE {self.where(table)}"

    def of_a_query(self):
        """Statements whose rows come from other tables."""
        n = self.dice.randrange(7)
        id = self.dice.randrange(1, self.next_id["t"])
        return self.dice.choice([
            f"INSERT INTO e SELECT x, s FROM t WHERE id % 7 = {n}",
            f"UPDATE t SET x = (SELECT max(v) FROM u) WHERE id = {id}",
            f"UPDATE u SET v = (SELECT count(*) FROM t WHERE t.g = u.g) WHERE id % 7 = {n}",
            f"UPDATE e SET s = coalesce(s, '') || 'b' WHERE length(s) < 6 AND EXISTS (SELECT 1 FROM u WHERE u.v = e.a AND u.id % 7 = {n})",
            f"DELETE FROM e WHERE a IN (SELECT v FROM u WHERE v IS NOT NULL AND id % 7 = {n})",
            f"DELETE FROM e WHERE NOT EXISTS (SELECT 1 FROM t WHERE t.g = e.a) AND s = {self.text()}",
            f"INSERT INTO t (id, g, x) VALUES ({id}, {self.number(1, 6, 0.1)}, {n}) ON CONFLICT (id) DO UPDATE SET x = excluded.x + t.x, g = excluded.g",
            f"INSERT INTO u (id, v) VALUES ({min(id, self.next_id['u'] - 1)}, {n}) ON CONFLICT (id) DO NOTHING",
        ])

    def round(self, number):
        if number == 1:
            return FIRST_ROWS
        statements = [self.statement() for _ in range(STATEMENTS_PER_ROUND)]
        # Some at once, some of them for nothing.
        if self.dice.random() < 0.5:
            end = self.dice.choice(["COMMIT", "COMMIT", "ROLLBACK"])
            statements = ["BEGIN", *statements, end, self.statement()]
        if number == ROUNDS - 1:
            # Everything goes, and what was kept about it has to go with it.
            statements = [f"DELETE FROM {table}" for table in ("t", "u", "e")] + statements
        return statements


# The comparison


class Comparison:
    """Collects differences by the name of the view, so that one run shows them all."""

    def __init__(self):
        # By name and place: that a query is known to differ says nothing about the view.
        self.found = {}
        self.compared = 0
        self.rows = 0

    def note(self, name, place, what):
        self.found.setdefault((name, place), what)

    def compare(self, session, name, place, where, query, expected):
        try:
            found = answer(session, query)
        except Refused as error:
            self.note(name, place, f"{where} it is refused: {error}")
            return
        self.compared += 1
        self.rows += expected.total()
        extra, missing = difference(found, expected)
        if extra or missing:
            self.note(name, place, f"{where} it has {shown(extra)}, PostgreSQL {shown(missing)}")


def create(session, views, suffix, comparison):
    made = {}
    for name, text in views:
        try:
            session.execute(f"CREATE MATERIALIZED VIEW {name}{suffix} AS {text}")
            made[name] = f"{name}{suffix}"
        except psycopg.Error as error:
            comparison.note(name, "view", f"it is refused: {error.sqlstate}: {error}")
    return made


@pytest.mark.client("psycopg")
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
                found = session.execute(statement, prepare=False).rowcount
                assert found == expected, f"{statement}: {found} rows changed, in PostgreSQL {expected}"
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
            for views, made in ((early, "made first"), (late, "made later")):
                if name in views:
                    comparison.compare(session, name, "view", f"{made}, in round {round}", f"SELECT * FROM {views[name]}", expected)
            if at % SELECT_EVERY == round % SELECT_EVERY or round in (1, ROUNDS - 1):
                comparison.compare(session, name, "query", f"in round {round}", text, expected)
    session.close()
    oracle.close()
    took = time.monotonic() - start
    total = changes.counts.total()
    print(f"{len(VIEWS)} views, {ROUNDS} rounds, {total} statements {dict(changes.counts)}, {comparison.compared} answers of"
          f" {comparison.rows} rows compared in {took:.0f} s")
    assert changes.counts["INSERT"] < 0.7 * total
    known = {(name, place) for name, (places, _) in KNOWN.items() for place in places.split()}
    new = {key: what for key, what in comparison.found.items() if key not in known or "panicked" in what}
    texts = dict(VIEWS)
    assert not new, f"{len(new)} differ\n" + "\n".join(f"{name}: {texts[name]}\n  {place}: {what}" for (name, place), what in new.items())
    gone = sorted(known - comparison.found.keys())
    assert not gone, f"no difference any more, so they can be taken from KNOWN: {gone}"
