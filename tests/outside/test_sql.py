"""SQL by programs that know nothing of Mainstem: psql, psycopg 3 and the PostgreSQL JDBC driver."""

import datetime
import decimal
import json
import subprocess
import threading
import time

import psycopg
import pytest
import sqlalchemy
from confluent_kafka import Producer

from clients import BY_NAME, CODECS, JDBC
from conftest import create_topic
from server import BINARY, until


def psql(server, *commands, status=0):
    """What psql prints for commands of its own and statements, as a person types them."""
    host, port = server.postgresql.split(":")
    arguments = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["psql", "-X", "-h", host, "-p", port, "-U", "root", "-d", "dev", "-v", "ON_ERROR_STOP=1", "-P", "pager=off", *arguments],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == status, f"psql ended with {done.returncode}: {done.stderr}"
    return done.stdout if status == 0 else done.stderr


def connect(server, **settings):
    host, port = server.postgresql.split(":")
    return psycopg.connect(host=host, port=port, user="root", dbname="dev", **settings)


def mainstem_sql(server, *arguments, stdin=""):
    done = subprocess.run(
        [str(BINARY), "sql", "--pg", server.postgresql, *arguments], input=stdin, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"mainstem sql ended with {done.returncode}: {done.stderr}"
    return done.stdout


def test_the_command_line_copies_rows_in_and_out(server):
    script = "CREATE TABLE copied (id int PRIMARY KEY, name text);\nCOPY copied FROM STDIN;\n1\tone\n2\ttwo\n\\.\nSELECT count(*) FROM copied;\n"
    assert "2\n(1 row)" in mainstem_sql(server, stdin=script)
    assert mainstem_sql(server, "-c", "copy copied from stdin (format csv)", stdin='3,"three; 3"\n') == "OK, 1 row\n"
    assert mainstem_sql(server, "-c", "COPY (SELECT * FROM copied ORDER BY id) TO STDOUT") == "1\tone\n2\ttwo\n3\tthree; 3\n"


def until_others_see(session, query, rows):
    """A session is promised its own writes at once; those of others arrive with the next version."""
    found = []

    def is_there():
        found[:] = session.execute(query).fetchall()
        return found == rows

    until(is_there, lambda: f"{query} gives {found}, expected {rows}", 10)


# psql


@pytest.fixture(scope="module")
def relations(shared_server):
    create_topic(shared_server, "relations_topic", 1)
    psql(
        shared_server,
        "CREATE TABLE psql_items (id int PRIMARY KEY, name varchar NOT NULL, price numeric)",
        "CREATE SOURCE psql_source (a int, b timestamp) WITH (topic = 'relations_topic') FORMAT PLAIN ENCODE JSON",
        "CREATE MATERIALIZED VIEW psql_totals AS SELECT name, sum(price) AS total FROM psql_items GROUP BY name",
        "CREATE VIEW psql_plain AS SELECT id FROM psql_items",
    )
    return shared_server


@pytest.mark.client("psql")
def test_psql_d_lists_all_relations(relations):
    printed = psql(relations, r"\d")
    rows = {cells[1].strip(): cells[2].strip() for cells in (line.split("|") for line in printed.splitlines()) if len(cells) == 4}
    assert rows["psql_items"] == "table"
    assert rows["psql_totals"] == "materialized view"
    assert rows["psql_plain"] == "view"
    assert rows["psql_source"] == "foreign table"


@pytest.mark.client("psql")
def test_psql_dt_lists_tables_only(relations):
    printed = psql(relations, r"\dt")
    assert "psql_items" in printed
    assert not [name for name in ("psql_totals", "psql_plain", "psql_source") if name in printed], printed


@pytest.mark.client("psql")
@pytest.mark.parametrize("command, has, has_not", [
    (r"\dm", "psql_totals", "psql_items"),
    (r"\dv", "psql_plain", "psql_totals"),
    (r"\dt psql_i*", "psql_items", "psql_totals"),
    (r"\dn", "public", "psql_items"),
    (r"\l", "dev", "psql_items"),
])
def test_psql_lists(relations, command, has, has_not):
    printed = psql(relations, command)
    assert has in printed and has_not not in printed, printed


@pytest.mark.client("psql")
def test_psql_d_name_describes_columns_and_key(relations):
    printed = psql(relations, r"\d psql_items")
    cells = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines() if line.count("|") == 4]
    described = {row[0]: (row[1], row[3]) for row in cells[1:]}
    assert described["id"] == ("integer", "not null")
    assert described["name"] == ("character varying", "not null")
    assert described["price"] == ("numeric", "")
    assert "PRIMARY KEY" in printed and "(id)" in printed, printed


@pytest.mark.client("psql")
@pytest.mark.parametrize("name", ["psql_totals", "psql_plain", "psql_source"])
def test_psql_d_name_describes_views_and_sources(relations, name):
    assert f'"public.{name}"' in psql(relations, rf"\d {name}")


@pytest.mark.client("psql")
def test_psql_d_name_describes_a_source_with_its_columns(relations):
    printed = psql(relations, r"\d psql_source")
    assert "Foreign table" in printed and "timestamp without time zone" in printed and "Server: mainstem" in printed, printed


@pytest.mark.client("psql")
def test_psql_d_of_a_name_that_is_not_there_says_so(relations):
    # psql goes by the answer of the catalog tables, and says it itself.
    assert "Did not find any relation" in psql(relations, r"\d no_such_name", status=1)


@pytest.mark.client("psql")
def test_psql_shows_errors_with_their_sqlstate(shared_server):
    message = psql(shared_server, r"\set VERBOSITY verbose", "SELECT * FROM no_such_table", status=1)
    assert "42P01" in message, message


@pytest.mark.client("psql")
def test_psql_copies_in_and_out(shared_server, tmp_path):
    lines = "".join(f"{n}\tname {n}\t{n}.50\n" for n in range(500))
    (tmp_path / "in.tsv").write_text(lines + "500\t\\N\t\\N\n")
    psql(
        shared_server,
        "CREATE TABLE psql_copied (id int PRIMARY KEY, name varchar, price numeric(10, 2))",
        rf"\copy psql_copied FROM '{tmp_path}/in.tsv'",
        rf"\copy (SELECT id, name, price FROM psql_copied ORDER BY id) TO '{tmp_path}/out.tsv'",
    )
    assert (tmp_path / "out.tsv").read_text() == (tmp_path / "in.tsv").read_text()


# psycopg


@pytest.mark.client("psycopg")
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_psycopg_sends_and_receives_values_of_every_type(shared_server, binary):
    table = f"psycopg_types_{'binary' if binary else 'text'}"
    row = (2**53 + 1, 7, "ü 'quoted' \\ \n", decimal.Decimal("12345678901234.5678"), 0.1, True, datetime.date(2013, 7, 1),
           datetime.datetime(2013, 7, 1, 12, 30, 15, 123456), None, datetime.timedelta(days=3, hours=-2, microseconds=1),
           b"\x00\xff\\", datetime.datetime(2013, 7, 1, 12, tzinfo=datetime.timezone.utc), ["a", 'b "c"', None], [1, 2])
    with connect(shared_server, autocommit=True) as session:
        session.execute(f"CREATE TABLE {table} (a bigint PRIMARY KEY, b int, c varchar, d numeric(30, 4), e double precision,"
                        " f boolean, g date, h timestamp, i varchar, j interval, k bytea, l timestamptz, m varchar[], n int[])")
        marks = ", ".join(["%b" if binary else "%t"] * len(row))
        with session.cursor(binary=binary) as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            assert cursor.rowcount == 1
            found = cursor.execute(f"SELECT * FROM {table} WHERE a = {'%b' if binary else '%t'}", (row[0],)).fetchone()
    assert found == row


@pytest.mark.client("psycopg")
def test_psycopg_repeats_a_statement_as_a_prepared_one(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_prepared (id int PRIMARY KEY, n int)")
        for n in range(12):
            session.execute("INSERT INTO psycopg_prepared VALUES (%s, %s)", (n, n * n), prepare=True)
        found = [session.execute("SELECT n FROM psycopg_prepared WHERE id = %s", (n,)).fetchone() for n in range(12)]
    assert found == [(n * n,) for n in range(12)]


@pytest.mark.client("psycopg")
def test_psycopg_runs_several_statements_in_one_simple_query(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_simple (id int PRIMARY KEY); INSERT INTO psycopg_simple VALUES (1), (2)")
        assert session.execute("SELECT count(*) FROM psycopg_simple").fetchone() == (2,)


@pytest.mark.client("psycopg")
def test_psycopg_returning_and_on_conflict(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_upsert (id int PRIMARY KEY, n int)")
        insert = "INSERT INTO psycopg_upsert VALUES (%s, %s)"
        assert session.execute(insert + " RETURNING id, n + 1", (1, 10)).fetchone() == (1, 11)
        assert session.execute(insert + " ON CONFLICT (id) DO NOTHING", (1, 20)).rowcount == 0
        assert session.execute(insert + " ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n", (1, 30)).rowcount == 1
        assert session.execute("SELECT n FROM psycopg_upsert").fetchall() == [(30,)]
        with pytest.raises(psycopg.errors.UniqueViolation):
            session.execute(insert, (1, 40))


@pytest.mark.client("psycopg")
def test_psycopg_copies_in_and_out(shared_server):
    with connect(shared_server, autocommit=True) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE psycopg_copied (id int PRIMARY KEY, name varchar)")
        with cursor.copy("COPY psycopg_copied (id, name) FROM STDIN") as copy:
            for n in range(1000):
                copy.write_row((n, None if n % 10 == 0 else f"tab\there {n}"))
        assert cursor.execute("SELECT count(*), count(name) FROM psycopg_copied").fetchone() == (1000, 900)
        with cursor.copy("COPY (SELECT id, name FROM psycopg_copied ORDER BY id) TO STDOUT") as copy:
            copy.set_types(["int4", "varchar"])
            rows = list(copy.rows())
    assert rows == [(n, None if n % 10 == 0 else f"tab\there {n}") for n in range(1000)]


@pytest.mark.client("psycopg")
def test_psycopg_copy_that_breaks_off_writes_nothing(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_broken (id int PRIMARY KEY)")
        with pytest.raises(psycopg.Error), session.cursor().copy("COPY psycopg_broken FROM STDIN") as copy:
            copy.write("1\n2\nnot a number\n")
        assert session.execute("SELECT count(*) FROM psycopg_broken").fetchone() == (0,)


@pytest.mark.client("psycopg")
def test_psycopg_rollback_leaves_nothing_and_commit_everything(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_rolled (id int PRIMARY KEY, n int)")
        session.execute("INSERT INTO psycopg_rolled VALUES (0, 0)")
        session.execute("CREATE MATERIALIZED VIEW psycopg_rolled_sum AS SELECT count(*) AS c, sum(n) AS s FROM psycopg_rolled")
    # BEGIN is sent by psycopg itself.
    with connect(shared_server) as session, connect(shared_server, autocommit=True) as other:
        session.execute("INSERT INTO psycopg_rolled VALUES (1, 10)")
        session.execute("UPDATE psycopg_rolled SET n = 5 WHERE id = 0")
        session.execute("DELETE FROM psycopg_rolled WHERE id = 1")
        session.execute("INSERT INTO psycopg_rolled VALUES (2, 20)")
        inside = session.execute("SELECT id, n FROM psycopg_rolled ORDER BY id").fetchall()
        assert inside == [(0, 5), (2, 20)], "reads inside a transaction see its own writes"
        assert other.execute("SELECT id, n FROM psycopg_rolled").fetchall() == [(0, 0)], "no other session does"
        session.rollback()
        assert session.execute("SELECT id, n FROM psycopg_rolled").fetchall() == [(0, 0)]
        assert session.execute("SELECT c, s::bigint FROM psycopg_rolled_sum").fetchone() == (1, 0)
        session.rollback()
        session.execute("INSERT INTO psycopg_rolled VALUES (3, 30)")
        session.commit()
        assert session.execute("SELECT id FROM psycopg_rolled ORDER BY id").fetchall() == [(0,), (3,)]
        session.rollback()
        until_others_see(other, "SELECT id FROM psycopg_rolled ORDER BY id", [(0,), (3,)])


@pytest.mark.client("psycopg")
def test_psycopg_a_failed_transaction_takes_only_rollback(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_failed (id int PRIMARY KEY)")
    with connect(shared_server) as session:
        session.execute("INSERT INTO psycopg_failed VALUES (1)")
        with pytest.raises(psycopg.errors.UndefinedTable):
            session.execute("SELECT * FROM no_such_table")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            session.execute("SELECT 1")
        session.rollback()
        assert session.execute("SELECT count(*) FROM psycopg_failed").fetchone() == (0,)


@pytest.mark.client("psycopg")
def test_psycopg_a_conflict_is_40001(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_conflict (id int PRIMARY KEY, n int)")
        session.execute("INSERT INTO psycopg_conflict VALUES (1, 0)")
    with connect(shared_server) as first, connect(shared_server) as second:
        for session in (first, second):
            assert session.execute("SELECT n FROM psycopg_conflict WHERE id = 1").fetchone() == (0,)
            session.execute("UPDATE psycopg_conflict SET n = n + 1 WHERE id = 1")
        first.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            second.commit()
        second.autocommit = True
        until_others_see(second, "SELECT n FROM psycopg_conflict", [(1,)])


@pytest.mark.client("psycopg")
def test_psycopg_sessions_that_count_together_lose_nothing(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_counter (id int PRIMARY KEY, n int)")
        session.execute("INSERT INTO psycopg_counter VALUES (1, 0)")
    problems = []

    def count():
        with connect(shared_server, autocommit=True) as session:
            for _ in range(25):
                try:
                    session.execute("UPDATE psycopg_counter SET n = n + 1 WHERE id = 1")
                except psycopg.Error as error:
                    problems.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems, problems[:3]
    with connect(shared_server, autocommit=True) as session:
        until_others_see(session, "SELECT n FROM psycopg_counter", [(100,)])


@pytest.mark.client("psycopg")
def test_psycopg_reads_its_own_writes_through_views(shared_server):
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE psycopg_own (id int PRIMARY KEY)")
        session.execute("CREATE MATERIALIZED VIEW psycopg_own_count AS SELECT count(*) AS n FROM psycopg_own")
        for n in range(50):
            session.execute("INSERT INTO psycopg_own VALUES (%s)", (n,))
            assert session.execute("SELECT n FROM psycopg_own_count").fetchone() == (n + 1,)
        session.execute("DELETE FROM psycopg_own WHERE id < 25")
        assert session.execute("SELECT n FROM psycopg_own_count").fetchone() == (25,)


@pytest.mark.client("psycopg")
@pytest.mark.parametrize("statement, state", [
    ("SELEC 1", "42601"),
    ("SELECT * FROM no_such_table", "42P01"),
    ("SELECT no_such_column FROM psycopg_errors", "42703"),
    ("SELECT 'a' + 1", None),
    ("INSERT INTO psycopg_errors VALUES ('not a number')", None),
    ("CREATE TABLE psycopg_errors (id int)", "42P07"),
    ("DROP TABLE psycopg_errors", "2BP01"),
    ("CREATE MATERIALIZED VIEW v AS SELECT random() FROM psycopg_errors", None),
    ("SELECT " + "(" * 1000 + "1" + ")" * 1000, None),
    ("SELECT 1 WHERE " + " OR ".join(f"1 = {n}" for n in range(2, 10_002)), ""),
])
def test_psycopg_bad_sql_is_an_error_of_the_session_only(shared_server, statement, state):
    """State None: some error with a state. State "": it may as well succeed."""
    with connect(shared_server, autocommit=True) as session:
        session.execute("CREATE TABLE IF NOT EXISTS psycopg_errors (id int PRIMARY KEY)")
        session.execute("CREATE MATERIALIZED VIEW IF NOT EXISTS psycopg_errors_count AS SELECT count(*) AS n FROM psycopg_errors")
        try:
            session.execute(statement)
            is_refused = False
        except psycopg.Error as error:
            is_refused = True
            assert error.sqlstate and not error.sqlstate.startswith("XX"), f"{error.sqlstate}: {error}"
            assert not state or error.sqlstate == state, f"{error.sqlstate}: {error}"
        assert is_refused or state == "" or "((((" in statement
        assert session.execute("SELECT count(*) FROM psycopg_errors").fetchone() == (0,)


@pytest.mark.client("psycopg")
def test_psycopg_cancels_a_query(shared_server):
    with connect(shared_server, autocommit=True) as session:
        timer = threading.Timer(0.5, session.cancel)
        timer.start()
        start = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            session.execute("SELECT count(*) FROM generate_series(1, 300000) a, generate_series(1, 300000) b WHERE a.value * b.value % 7 = 3")
        timer.join()
        assert time.monotonic() - start < 5, "the query went on for long after it was cancelled"
        assert session.execute("SELECT 1").fetchone() == (1,)


# JDBC


@pytest.mark.client("jdbc")
@pytest.mark.parametrize("check", ["tables", "columns", "primary_keys", "metadata", "prepared", "batch", "transaction"])
def test_jdbc(shared_server, check):
    done = subprocess.run([*JDBC, shared_server.postgresql, check], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == "ok", done.stdout + done.stderr


# psql's commands


@pytest.mark.client("psql")
def test_psqls_commands_that_describe_answer(server):
    psql(server, "CREATE TABLE d_t (id int PRIMARY KEY, n numeric(12,3) DEFAULT 1.5)",
         "CREATE VIEW d_v AS SELECT n FROM d_t", "CREATE MATERIALIZED VIEW d_m AS SELECT count(*) AS c FROM d_t")
    plain = ["\\d", "\\d+", "\\dt", "\\dt+", "\\dv", "\\dv+", "\\dm", "\\dm+", "\\di", "\\di+", "\\ds", "\\dE", "\\df", "\\dn",
             "\\dn+", "\\du", "\\dg", "\\l", "\\dT", "\\dp", "\\z", "\\db", "\\dx", "\\dy", "\\dL", "\\dc", "\\dD", "\\des", "\\det",
             "\\dew", "\\deu", "\\dRp", "\\dRs", "\\dP", "\\dd", "\\dX", "\\da", "\\do nosuch", "\\dC nosuch", "\\dO", "\\dF", "\\dA"]
    for command in [*plain, *(f"\\d{plus} {name}" for plus in ("", "+") for name in ("d_t", "d_v", "d_m", "d_t_pkey"))]:
        psql(server, command)
    assert "d_m" in psql(server, "\\dm") and "d_t_pkey" in psql(server, "\\di")
    described = psql(server, "\\d d_t")
    assert "1.5" in described and "PRIMARY KEY" in described


# SQLAlchemy


@pytest.fixture
def inspector(server):
    url = f"postgresql+psycopg://root@{server.postgresql}/dev"
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as session:
        for text in (
            "CREATE TABLE things (a int, b varchar NOT NULL, n numeric(12,3) DEFAULT 1.5, at timestamp, tz timestamptz,"
            " ok boolean, d double precision, l int[], j jsonb, u uuid, PRIMARY KEY (b, a))",
            "CREATE VIEW seen AS SELECT a, b FROM things",
            "CREATE MATERIALIZED VIEW kept AS SELECT b, count(*) AS c FROM things GROUP BY b",
        ):
            session.execute(sqlalchemy.text(text))
    yield sqlalchemy.inspect(engine)
    engine.dispose()


@pytest.mark.client("sqlalchemy")
def test_sqlalchemys_inspector_finds_what_is_defined(inspector):
    assert "public" in inspector.get_schema_names()
    assert inspector.get_table_names() == ["things"]
    assert inspector.get_view_names() == ["seen"]
    assert inspector.get_materialized_view_names() == ["kept"]
    assert inspector.has_table("things") and not inspector.has_table("nothing")
    columns = {column["name"]: (str(column["type"]), column["nullable"], column["default"])
               for column in inspector.get_columns("things")}
    assert columns == {
        "a": ("INTEGER", False, None), "b": ("VARCHAR", False, None), "n": ("NUMERIC(12, 3)", True, "1.5"),
        "at": ("TIMESTAMP", True, None), "tz": ("TIMESTAMP", True, None), "ok": ("BOOLEAN", True, None),
        "d": ("DOUBLE PRECISION", True, None), "l": ("ARRAY", True, None), "j": ("JSONB", True, None),
        "u": ("UUID", True, None),
    }
    assert [column["name"] for column in inspector.get_columns("kept")] == ["b", "c"]
    key = inspector.get_pk_constraint("things")
    assert (key["name"], key["constrained_columns"]) == ("things_pkey", ["b", "a"])
    for nothing in ("get_foreign_keys", "get_unique_constraints", "get_check_constraints", "get_indexes"):
        assert getattr(inspector, nothing)("things") == [], nothing
    assert inspector.get_table_comment("things") == {"text": None}
    assert "things" in inspector.get_view_definition("seen") and "count" in inspector.get_view_definition("kept")
    assert inspector.get_sequence_names() == [] and inspector.get_enums() == []


@pytest.mark.client("sqlalchemy")
def test_sqlalchemy_reflects_and_writes(inspector):
    metadata = sqlalchemy.MetaData()
    metadata.reflect(inspector.engine, views=True)
    assert sorted(metadata.tables) == ["kept", "seen", "things"]
    things, kept = metadata.tables["things"], metadata.tables["kept"]
    assert [column.name for column in things.primary_key] == ["b", "a"]
    with inspector.engine.connect() as session:
        session.execute(things.insert(), [{"a": n, "b": f"b{n % 2}"} for n in range(5)])
        found = session.execute(sqlalchemy.select(kept).order_by(kept.c.b)).fetchall()
        assert [tuple(row) for row in found] == [("b0", 3), ("b1", 2)]


# Views over topics


@pytest.mark.parametrize("codec, client", [
    pytest.param(codec, client, id=f"{codec}-by-{client}", marks=pytest.mark.client(client, "psycopg"))
    for codec, client in zip(CODECS, ["kcat", "java", "kafka-python", "franz-go", "kafkajs"])
])
def test_views_over_topics_of_every_codec_equal_what_was_written(shared_server, codec, client):
    topic = f"codec_{codec}"
    create_topic(shared_server, topic, 3)
    writer, half = BY_NAME[client], 10_000
    with connect(shared_server, autocommit=True) as session:
        session.execute(f'CREATE SOURCE {topic} (client varchar, run varchar, n bigint, "partition" int)'
                        f" WITH (topic = '{topic}') FORMAT PLAIN ENCODE JSON")
        query = (f'SELECT "partition" AS p, count(*) AS c, count(DISTINCT n) AS d, sum(n)::bigint AS s, min(n) AS low, max(n) AS high'
                 f' FROM {topic} WHERE client = \'{client}\' GROUP BY "partition"')
        session.execute(f"CREATE MATERIALIZED VIEW {topic}_before AS {query}")
        writer.produce(shared_server, topic, half, codec)
        session.execute(f"CREATE MATERIALIZED VIEW {topic}_between AS {query}")
        writer.produce(shared_server, topic, half, codec, first=half)
        session.execute(f"CREATE MATERIALIZED VIEW {topic}_after AS {query}")
        expected = []
        for partition in range(3):
            ns = range(partition, 2 * half, 3)
            expected.append((partition, len(ns), len(ns), sum(ns), ns[0], ns[-1]))
        found = {}

        def are_there():
            for when in ("before", "between", "after"):
                found[when] = session.execute(f"SELECT * FROM {topic}_{when} ORDER BY p").fetchall()
            return all(rows == expected for rows in found.values())

        until(are_there, lambda: f"{found}, expected {expected}", 30)
        assert session.execute(query + " ORDER BY p").fetchall() == expected


POISON = [b"not json", b'{"n": "seven"}', b"[1, 2]", b'{"n": 1', b"\xff\xfe\x00", b'{"n": 99999999999999999999}', b""]


@pytest.mark.client("psycopg", "confluent-kafka")
def test_poison_among_good_records_goes_to_the_dead_letters(server):
    create_topic(server, "poisoned", 2)
    with connect(server, autocommit=True) as session:
        session.execute("CREATE SOURCE poisoned (n bigint) WITH (topic = 'poisoned') FORMAT PLAIN ENCODE JSON")
        session.execute("CREATE MATERIALIZED VIEW healthy AS SELECT count(*) AS c, sum(n)::bigint AS s FROM poisoned")
        expected_letters, ends, good = [], [0, 0], 0
        producer = Producer({"bootstrap.servers": server.kafka})
        for n in range(700):
            partition = n % 2
            is_poison = n % 100 == 50
            value = POISON[n // 100] if is_poison else json.dumps({"n": n}).encode()
            if is_poison:
                expected_letters.append(("poisoned", partition, ends[partition]))
            else:
                good += n
            ends[partition] += 1
            producer.produce("poisoned", value, partition=partition)
        assert producer.flush(30) == 0
        until(lambda: session.execute("SELECT c, s FROM healthy").fetchone() == (693, good), "the good records in the view", 30)
        check_letters(server, expected_letters)
        assert session.execute("SELECT count(*), sum(n)::bigint FROM poisoned").fetchone() == (693, good)
    server.kill()
    server.start()
    with connect(server, autocommit=True) as session:
        until_others_see(session, "SELECT c, s FROM healthy", [(693, good)])
        # A replay after the kill offers them again: they are there once all the same.
        producer = Producer({"bootstrap.servers": server.kafka})
        producer.produce("poisoned", b"not json either", partition=0)
        assert producer.flush(30) == 0
        check_letters(server, [*expected_letters, ("poisoned", 0, ends[0])])


def check_letters(server, expected):
    found = []

    def are_there():
        answer = json.loads(server.get("topics/__mainstem_dead_letters/records?partition=0&offset=0&max=1000"))
        letters = [json.loads(record["value"]) for record in answer["records"]]
        assert all(letter["reason"] for letter in letters)
        found[:] = sorted((letter["topic"], letter["partition"], letter["offset"]) for letter in letters)
        return len(found) >= len(expected)

    until(are_there, lambda: f"dead letters {found}, expected {expected}", 30)
    assert found == sorted(expected)
