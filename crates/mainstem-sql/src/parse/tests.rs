//! Statements as they are read, and what is refused.

use expect_test::{Expect, expect};

use super::*;
use crate::statement::{Subscribe, SubscribeTarget};

fn check(sql: &str, expected: Expect) {
    match parse(sql) {
        Ok(statements) => {
            let texts: Vec<_> = statements.iter().map(short).collect();
            expected.assert_eq(&texts.join("\n"));
        }
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// Debug text with queries and expressions as SQL.
fn short(statement: &Statement) -> String {
    match statement {
        Statement::Query(query) => format!("Query {query}"),
        Statement::CreateMaterializedView(view) => format!(
            "CreateMaterializedView {} {:?} if_not_exists={} emit={} AS {}",
            view.name, view.columns, view.if_not_exists, view.emit_on_window_close, view.query
        ),
        Statement::CreateView(view) => format!("CreateView {} {:?} AS {}", view.name, view.columns, view.query),
        Statement::Explain(explain) => format!("Explain analyze={} {}", explain.analyze, short(&explain.statement)),
        Statement::Declare { name, statement } => format!("Declare {name} {}", short(statement)),
        Statement::Prepare { name, types, statement } => format!("Prepare {name} {types:?} {}", short(statement)),
        Statement::Insert(insert) => format!(
            "Insert {} {:?} {} conflict={} returning={}",
            insert.table,
            insert.columns,
            insert.source.as_ref().map_or("DEFAULT VALUES".to_owned(), ToString::to_string),
            insert.on_conflict.is_some(),
            insert.returning.is_some()
        ),
        Statement::Update(update) => format!(
            "Update {} {:?} SET {} WHERE {}",
            update.table,
            update.alias,
            update.assignments.iter().map(|a| format!("{} = {}", a.column, a.value)).collect::<Vec<_>>().join(", "),
            update.filter.as_ref().map_or(String::new(), ToString::to_string)
        ),
        Statement::Delete(delete) => format!(
            "Delete {} {:?} WHERE {}",
            delete.table,
            delete.alias,
            delete.filter.as_ref().map_or(String::new(), ToString::to_string)
        ),
        Statement::Copy(copy) => match &copy.target {
            crate::statement::CopyTarget::ToStdout { query } => {
                format!("Copy {query} {:?} {:?} {} {:?}", copy.format, copy.delimiter, copy.header, copy.null)
            }
            target => format!("Copy {target:?} {:?} {:?} {} {:?}", copy.format, copy.delimiter, copy.header, copy.null),
        },
        Statement::Execute { name, parameters } => {
            format!("Execute {name} {:?}", parameters.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
        Statement::Subscribe(Subscribe { target: SubscribeTarget::Query(query), snapshot, progress, key }) => {
            format!("Subscribe {query} snapshot={snapshot} progress={progress} key={key:?}")
        }
        other => format!("{other:?}"),
    }
}

fn check_error(sql: &str, expected: Expect) {
    match parse(sql) {
        Ok(statements) => panic!("{sql} was read: {statements:?}"),
        Err(error) => {
            let place = error.position.map_or(String::new(), |position| format!(" at {position}"));
            expected.assert_eq(&format!("{}: {}{place}", error.sqlstate, error.message));
        }
    }
}

#[test]
fn sources() {
    check(
        "CREATE SOURCE IF NOT EXISTS S (Id bigint, \"V\" jsonb, ts timestamptz, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
         INCLUDE key AS k INCLUDE partition INCLUDE offset INCLUDE timestamp
         WITH (connector='kafka', topic='t', scan.startup.mode='earliest') FORMAT PLAIN ENCODE JSON;",
        expect![[r#"CreateSource(CreateSource { name: QualifiedName { schema: None, name: "s" }, if_not_exists: true, columns: [ColumnDefinition { name: "id", sql_type: BigInt, not_null: false, default: None }, ColumnDefinition { name: "V", sql_type: Jsonb, not_null: false, default: None }, ColumnDefinition { name: "ts", sql_type: Timestamptz, not_null: false, default: None }], watermark: Some(WatermarkClause { column: "ts", delay_us: 5000000, lateness_us: 0, idle_timeout_us: None, late_into: None }), includes: [IncludeClause { kind: Key, name: "k" }, IncludeClause { kind: Partition, name: "_rw_kafka_partition" }, IncludeClause { kind: Offset, name: "_rw_kafka_offset" }, IncludeClause { kind: Timestamp, name: "_rw_kafka_timestamp" }], topic: "t", sql: "CREATE SOURCE IF NOT EXISTS S (Id bigint, \"V\" jsonb, ts timestamptz, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)\n         INCLUDE key AS k INCLUDE partition INCLUDE offset INCLUDE timestamp\n         WITH (connector='kafka', topic='t', scan.startup.mode='earliest') FORMAT PLAIN ENCODE JSON" })"#]],
    );
    check_error(
        "CREATE SOURCE s (a int) WITH (topic='t') FORMAT DEBEZIUM ENCODE JSON",
        expect!["0A000: FORMAT DEBEZIUM is not supported at 49"],
    );
    check_error(
        "CREATE SOURCE s (a int) WITH (topic='t') FORMAT PLAIN ENCODE AVRO",
        expect!["0A000: ENCODE AVRO is not supported at 62"],
    );
    check_error("CREATE SOURCE s (a int) WITH (topic='t')", expect!["42601: syntax error at end of input at 41"]);
    check_error("CREATE SOURCE s (a int) FORMAT PLAIN ENCODE JSON", expect!["22023: a source needs a topic"]);
    check_error(
        "CREATE SOURCE s (a int) WITH (connector='pulsar', topic='t') FORMAT PLAIN ENCODE JSON",
        expect!["0A000: connector 'pulsar' is not supported at 31"],
    );
    check_error(
        "CREATE SOURCE s (a int) WITH (topic='t', properties.bootstrap.server='h:1') FORMAT PLAIN ENCODE JSON",
        expect!["0A000: properties.bootstrap.server (a Kafka cluster outside this server) is not supported at 42"],
    );
    check_error(
        "CREATE SOURCE s (a int, a int) WITH (topic='t') FORMAT PLAIN ENCODE JSON",
        expect![[r#"42701: column "a" specified more than once"#]],
    );
    check_error(
        "CREATE SOURCE s (a timestamp, WATERMARK FOR a AS a - INTERVAL '1 month')",
        expect!["22023: interval '1 month' has months or years, which have no fixed length at 45"],
    );
    check_error(
        "CREATE SOURCE s (a int, WATERMARK FOR a AS a)",
        expect![[r#"42804: watermark column "a" is integer, not a timestamp at 39"#]],
    );
    check_error(
        "CREATE SOURCE s (a int) INCLUDE header WITH (topic='t')",
        expect!["0A000: INCLUDE header is not supported at 33"],
    );
}

#[test]
fn watermarks() {
    let clause = |tail: &str| {
        let sql = format!(
            "CREATE SOURCE s (a timestamp, WATERMARK FOR a AS a - INTERVAL '1 s' {tail}, b int) WITH (topic='t') \
             FORMAT PLAIN ENCODE JSON"
        );
        match parse(&sql).map(|mut statements| statements.remove(0)) {
            Ok(Statement::CreateSource(source)) => source.watermark.expect("a watermark"),
            other => panic!("{sql}: {other:?}"),
        }
    };
    let all = clause("LATE INTO public.Late IDLE TIMEOUT '10s' ALLOWED LATENESS '1 min'");
    assert_eq!((all.lateness_us, all.idle_timeout_us), (60_000_000, Some(10_000_000)));
    assert_eq!(all.late_into.map(|name| name.to_string()), Some("public.late".to_owned()));
    let other = clause("ALLOWED LATENESS INTERVAL '2' MINUTE LATE INTO late IDLE TIMEOUT INTERVAL '500 ms'");
    assert_eq!((other.lateness_us, other.idle_timeout_us), (120_000_000, Some(500_000)));
    let error = |kind: &str, tail: &str, expected: Expect| {
        check_error(&format!("CREATE {kind} s (a timestamp, WATERMARK FOR a AS a {tail})"), expected);
    };
    error("SOURCE", "IDLE TIMEOUT '0 s'", expect!["22023: IDLE TIMEOUT must be more than nothing at 65"]);
    error(
        "SOURCE",
        "ALLOWED LATENESS '1 month'",
        expect!["22023: interval '1 month' has months or years, which have no fixed length at 69"],
    );
    error("SOURCE", "LATE INTO a LATE INTO b", expect!["42P16: a clause of WATERMARK is given more than once at 64"]);
    error("SOURCE", "WITH TTL", expect!["0A000: WITH TTL is not supported at 52"]);
    error(
        "TABLE",
        "LATE INTO a",
        expect!["0A000: LATE INTO, IDLE TIMEOUT and ALLOWED LATENESS of a table are not supported at 51"],
    );
}

#[test]
fn tables() {
    check(
        "CREATE TABLE public.t (a int PRIMARY KEY, b numeric(10,2) NOT NULL DEFAULT 1.5, c varchar(20), d timestamptz,
         e timestamp without time zone, f int[], g struct<x int, y struct<z text>>[], h double precision, i bytea,
         j time, k date, l interval, m uuid, n json, o real, p smallint, q float8, r decimal, s bool, u text[])",
        expect![[
            r#"CreateTable(CreateTable { name: QualifiedName { schema: Some("public"), name: "t" }, if_not_exists: false, columns: [ColumnDefinition { name: "a", sql_type: Integer, not_null: true, default: None }, ColumnDefinition { name: "b", sql_type: Numeric { precision: 10, scale: 2 }, not_null: true, default: Some("1.5") }, ColumnDefinition { name: "c", sql_type: Text, not_null: false, default: None }, ColumnDefinition { name: "d", sql_type: Timestamptz, not_null: false, default: None }, ColumnDefinition { name: "e", sql_type: Timestamp, not_null: false, default: None }, ColumnDefinition { name: "f", sql_type: List(Integer), not_null: false, default: None }, ColumnDefinition { name: "g", sql_type: List(Struct([("x", Integer), ("y", Struct([("z", Text)]))])), not_null: false, default: None }, ColumnDefinition { name: "h", sql_type: Double, not_null: false, default: None }, ColumnDefinition { name: "i", sql_type: Bytea, not_null: false, default: None }, ColumnDefinition { name: "j", sql_type: Time, not_null: false, default: None }, ColumnDefinition { name: "k", sql_type: Date, not_null: false, default: None }, ColumnDefinition { name: "l", sql_type: Interval, not_null: false, default: None }, ColumnDefinition { name: "m", sql_type: Uuid, not_null: false, default: None }, ColumnDefinition { name: "n", sql_type: Jsonb, not_null: false, default: None }, ColumnDefinition { name: "o", sql_type: Real, not_null: false, default: None }, ColumnDefinition { name: "p", sql_type: SmallInt, not_null: false, default: None }, ColumnDefinition { name: "q", sql_type: Double, not_null: false, default: None }, ColumnDefinition { name: "r", sql_type: Numeric { precision: 38, scale: 10 }, not_null: false, default: None }, ColumnDefinition { name: "s", sql_type: Boolean, not_null: false, default: None }, ColumnDefinition { name: "u", sql_type: List(Text), not_null: false, default: None }], primary_key: [0], watermark: None, sql: "CREATE TABLE public.t (a int PRIMARY KEY, b numeric(10,2) NOT NULL DEFAULT 1.5, c varchar(20), d timestamptz,\n         e timestamp without time zone, f int[], g struct<x int, y struct<z text>>[], h double precision, i bytea,\n         j time, k date, l interval, m uuid, n json, o real, p smallint, q float8, r decimal, s bool, u text[])" })"#
        ]],
    );
    check(
        "CREATE TABLE t (a int, b int, PRIMARY KEY (b, a))",
        expect![[
            r#"CreateTable(CreateTable { name: QualifiedName { schema: None, name: "t" }, if_not_exists: false, columns: [ColumnDefinition { name: "a", sql_type: Integer, not_null: true, default: None }, ColumnDefinition { name: "b", sql_type: Integer, not_null: true, default: None }], primary_key: [1, 0], watermark: None, sql: "CREATE TABLE t (a int, b int, PRIMARY KEY (b, a))" })"#
        ]],
    );
    check_error("CREATE TABLE t (a int) APPEND ONLY", expect!["0A000: APPEND ONLY of a table is not supported at 24"]);
    check_error(
        "CREATE TABLE t (a int) ON CONFLICT OVERWRITE",
        expect!["0A000: ON CONFLICT of a table is not supported at 24"],
    );
    check_error("CREATE TABLE t AS SELECT 1", expect!["0A000: CREATE TABLE AS is not supported at 16"]);
    check_error("CREATE TABLE t (a int UNIQUE)", expect!["0A000: UNIQUE of a column is not supported at 23"]);
    check_error("CREATE TABLE t (a money)", expect!["0A000: type money is not supported at 19"]);
    check_error(
        "CREATE TABLE t (a numeric(50, 2))",
        expect!["22023: numeric(50,2): the precision must be between 1 and 38, the scale between 0 and it at 19"],
    );
    check_error(
        "CREATE TABLE t (a int, PRIMARY KEY (b))",
        expect![[r#"42703: column "b" named in key does not exist"#]],
    );
    check_error("CREATE TEMP TABLE t (a int)", expect!["0A000: CREATE TEMP is not supported at 8"]);
    check_error("CREATE TABLE t (a int", expect!["42601: syntax error at end of input at 22"]);
}

#[test]
fn views_and_drops() {
    check(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS v (a, B) AS SELECT 1, 2",
        expect![[r#"CreateMaterializedView v ["a", "b"] if_not_exists=true emit=false AS SELECT 1, 2"#]],
    );
    check(
        "CREATE MATERIALIZED VIEW v AS SELECT * FROM t EMIT ON WINDOW CLOSE; CREATE VIEW w AS TABLE t",
        expect![[r#"
        CreateMaterializedView v [] if_not_exists=false emit=true AS SELECT * FROM t
        CreateView w [] AS TABLE t"#]],
    );
    check(
        "DROP MATERIALIZED VIEW IF EXISTS a, public.b CASCADE; DROP TABLE t RESTRICT; DROP SOURCE s",
        expect![[r#"
        Drop(DropRelations { kind: MaterializedView, names: [QualifiedName { schema: None, name: "a" }, QualifiedName { schema: Some("public"), name: "b" }], if_exists: true, cascade: true })
        Drop(DropRelations { kind: Table, names: [QualifiedName { schema: None, name: "t" }], if_exists: false, cascade: false })
        Drop(DropRelations { kind: Source, names: [QualifiedName { schema: None, name: "s" }], if_exists: false, cascade: false })"#]],
    );
    check_error("CREATE OR REPLACE TABLE t (a int)", expect!["0A000: CREATE OR REPLACE TABLE is not supported at 19"]);
    check_error(
        "CREATE OR REPLACE VIEW IF NOT EXISTS v AS SELECT 1",
        expect!["42601: CREATE OR REPLACE and IF NOT EXISTS exclude each other at 24"],
    );
    check_error("CREATE SINK k FROM v", expect!["42601: syntax error at end of input at 21"]);
    check_error("CREATE UNIQUE INDEX i ON t(a)", expect!["0A000: CREATE INDEX is not supported at 8"]);
    check_error("CREATE SUBSCRIPTION u FROM v", expect!["0A000: CREATE SUBSCRIPTION is not supported at 8"]);
    check_error("CREATE USER u", expect!["0A000: CREATE USER is not supported at 8"]);
    check_error(
        "SELECT 1 EMIT ON WINDOW CLOSE",
        expect!["0A000: EMIT ON WINDOW CLOSE outside CREATE MATERIALIZED VIEW is not supported"],
    );
    check_error("ALTER TABLE t DROP COLUMN a", expect!["0A000: ALTER TABLE DROP COLUMN is not supported at 15"]);
    check_error("ALTER SINK k RENAME TO l", expect!["0A000: ALTER SINK is not supported at 7"]);
    check_error("ALTER TABLE t", expect!["42601: syntax error at end of input at 14"]);
}

#[test]
fn definitions_are_altered() {
    check(
        "ALTER TABLE IF EXISTS public.t ADD COLUMN IF NOT EXISTS \"A\" int NOT NULL DEFAULT 1 + 2; \
         ALTER SOURCE s RENAME TO \"S\"; CANCEL JOBS 16385, 16386",
        expect![[r#"
        Alter(AddColumn(AddColumn { kind: Table, name: QualifiedName { schema: Some("public"), name: "t" }, if_exists: true, if_not_exists: true, column: ColumnDefinition { name: "A", sql_type: Integer, not_null: true, default: Some("1 + 2") }, text: "\"A\" int NOT NULL DEFAULT 1 + 2", position: 57 }))
        Alter(Rename(Rename { kind: Source, name: QualifiedName { schema: None, name: "s" }, if_exists: false, to: "S" }))
        CancelJobs([16385, 16386])"#]],
    );
    check(
        "ALTER MATERIALIZED VIEW v PAUSE BACKFILL; ALTER MATERIALIZED VIEW v SET BACKFILL_RATE_LIMIT = 100; \
         ALTER MATERIALIZED VIEW v SET backfill_rate_limit TO DEFAULT",
        expect![[r#"
        Alter(Backfill { name: QualifiedName { schema: None, name: "v" }, if_exists: false, rate: Paused })
        Alter(Backfill { name: QualifiedName { schema: None, name: "v" }, if_exists: false, rate: RowsPerSecond(100) })
        Alter(Backfill { name: QualifiedName { schema: None, name: "v" }, if_exists: false, rate: Resumed })"#]],
    );
    let text = |sql: &str| match parse(sql).expect(sql).pop() {
        Some(Statement::CreateMaterializedView(view)) => view.sql,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        text(" ; CREATE OR  REPLACE MATERIALIZED VIEW v AS SELECT 1 EMIT ON WINDOW CLOSE ;"),
        "CREATE MATERIALIZED VIEW v AS SELECT 1 EMIT ON WINDOW CLOSE"
    );
}

#[test]
fn what_is_refused_by_name_says_what_to_do() {
    for sql in [
        "CREATE SUBSCRIPTION u FROM v",
        "CREATE FUNCTION f() RETURNS int LANGUAGE SQL AS 'SELECT 1'",
        "CREATE CONNECTION c WITH (a = 'b')",
        "CREATE SECRET s WITH (backend = 'meta') AS 'x'",
        "CREATE USER u",
        "CREATE SCHEMA s",
        "CREATE TEMP TABLE t (a int)",
        "CREATE OR REPLACE SOURCE s (a int)",
        "TRUNCATE t",
        "REFRESH MATERIALIZED VIEW v",
        "VACUUM",
        "GRANT SELECT ON t TO u",
        "LOCK TABLE t",
        "LISTEN x",
        "MERGE INTO t USING u ON true",
        "COMMENT ON TABLE t IS 'x'",
        "CALL f()",
        "DO 'x'",
        "SET ROLE r",
        "CREATE TABLE t (a int UNIQUE)",
        "CREATE TABLE t (a int GENERATED ALWAYS AS (1) STORED)",
        "CREATE TABLE t (a int) APPEND ONLY",
        "CREATE SOURCE s (a int) WITH (topic = 't') FORMAT DEBEZIUM ENCODE JSON",
        "CREATE MATERIALIZED VIEW v AS SELECT 1 WITH NO DATA",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER VIEW v ADD COLUMN a int",
        "ALTER MATERIALIZED VIEW v SET SCHEMA s",
        "SHOW SUBSCRIPTIONS",
    ] {
        let error = parse(sql).expect_err(sql);
        assert_eq!(error.sqlstate, "0A000", "{sql}: {error:?}");
        assert!(error.position.is_some(), "{sql}: {error:?}");
        assert!(error.hint.is_some_and(|hint| hint.ends_with('.')), "{sql}");
    }
}

#[test]
fn rows() {
    check(
        "INSERT INTO t VALUES (1, DEFAULT), (2, 'x'); INSERT INTO t DEFAULT VALUES",
        expect![[r#"
        Insert t [] VALUES (1, DEFAULT), (2, 'x') conflict=false returning=false
        Insert t [] DEFAULT VALUES conflict=false returning=false"#]],
    );
    check(
        "INSERT INTO T AS x (A, \"B\") SELECT 1, 2 ON CONFLICT (a) DO UPDATE SET b = excluded.b WHERE x.b < 3 RETURNING *",
        expect![[r#"Insert t ["a", "B"] SELECT 1, 2 conflict=true returning=true"#]],
    );
    check(
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        expect!["Insert t [] VALUES (1) conflict=true returning=false"],
    );
    check(
        "UPDATE t AS x SET a = a + 1, b = DEFAULT WHERE x.a = 1 RETURNING a; DELETE FROM t WHERE a = 1",
        expect![[r#"
        Update t Some("x") SET a = a + 1, b = DEFAULT WHERE x.a = 1
        Delete t None WHERE a = 1"#]],
    );
    check_error("UPDATE t SET (a, b) = (1, 2)", expect!["0A000: SET (a, b) = ... is not supported"]);
    check_error(
        "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1",
        expect!["42601: ON CONFLICT DO UPDATE requires the columns of the primary key"],
    );
}

#[test]
fn sessions() {
    check(
        "BEGIN; BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY; START TRANSACTION; COMMIT; END; ROLLBACK; ABORT;
         SAVEPOINT a; RELEASE SAVEPOINT a; ROLLBACK TO SAVEPOINT a; FLUSH; WAIT; DISCARD ALL",
        expect![[r#"
            Begin(TransactionModes { read_only: None, serializable: None })
            Begin(TransactionModes { read_only: Some(true), serializable: Some(true) })
            Begin(TransactionModes { read_only: None, serializable: None })
            Commit
            Commit
            Rollback
            Rollback
            Savepoint("a")
            ReleaseSavepoint("a")
            RollbackTo("a")
            Flush
            Wait
            Discard { is_all: true }"#]],
    );
    check(
        "SET a = 1; SET SESSION x.y TO 'B'; SET LOCAL search_path = public, \"Q\"; SET TIME ZONE 'UTC'; SET timezone TO DEFAULT;
         SET NAMES 'utf8'; SET TRANSACTION READ ONLY; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE;
         RESET a; RESET ALL; SET extra_float_digits = 3; SET x = on; SET n = -1",
        expect![[r#"
            Set { is_local: false, name: "a", value: Some("1") }
            Set { is_local: false, name: "x.y", value: Some("B") }
            Set { is_local: true, name: "search_path", value: Some("public, Q") }
            Set { is_local: false, name: "timezone", value: Some("UTC") }
            Set { is_local: false, name: "timezone", value: None }
            Set { is_local: false, name: "client_encoding", value: Some("utf8") }
            SetTransaction(TransactionModes { read_only: Some(true), serializable: None })
            SetTransaction(TransactionModes { read_only: Some(false), serializable: None })
            Reset(Some("a"))
            Reset(None)
            Set { is_local: false, name: "extra_float_digits", value: Some("3") }
            Set { is_local: false, name: "x", value: Some("on") }
            Set { is_local: false, name: "n", value: Some("-1") }"#]],
    );
    check(
        "SHOW a; SHOW ALL; SHOW TIME ZONE; SHOW TRANSACTION ISOLATION LEVEL; SHOW JOBS; SHOW TABLES FROM public LIKE 'a%';
         SHOW SOURCES; SHOW MATERIALIZED VIEWS; SHOW VIEWS; SHOW CREATE MATERIALIZED VIEW v; SHOW CREATE TABLE t;
         DESCRIBE t; SHOW COLUMNS FROM t",
        expect![[r#"
            ShowVariable("a")
            ShowVariable("all")
            ShowVariable("timezone")
            ShowVariable("transaction_isolation")
            ShowObjects { kind: Jobs, schema: None, like: None }
            ShowObjects { kind: Tables, schema: Some("public"), like: Some("a%") }
            ShowObjects { kind: Sources, schema: None, like: None }
            ShowObjects { kind: MaterializedViews, schema: None, like: None }
            ShowObjects { kind: Views, schema: None, like: None }
            ShowCreate { kind: Some(MaterializedView), name: QualifiedName { schema: None, name: "v" } }
            ShowCreate { kind: Some(Table), name: QualifiedName { schema: None, name: "t" } }
            Describe(QualifiedName { schema: None, name: "t" })
            Describe(QualifiedName { schema: None, name: "t" })"#]],
    );
    check(
        "EXPLAIN SELECT 1; EXPLAIN (ANALYZE, FORMAT text) SELECT 1; EXPLAIN ANALYZE SELECT 1; EXPLAIN (SELECT 1);
         EXPLAIN CREATE MATERIALIZED VIEW v AS SELECT 1 EMIT ON WINDOW CLOSE",
        expect![[r#"
            Explain analyze=false Query SELECT 1
            Explain analyze=true Query SELECT 1
            Explain analyze=true Query SELECT 1
            Explain analyze=false Query (SELECT 1)
            Explain analyze=false CreateMaterializedView v [] if_not_exists=false emit=true AS SELECT 1"#]],
    );
    check(
        "COPY t FROM STDIN; COPY t (a, b) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';', NULL 'x');
         COPY t TO STDOUT CSV HEADER; COPY (SELECT 1) TO STDOUT",
        expect![[r#"
            Copy FromStdin { table: QualifiedName { schema: None, name: "t" }, columns: [] } Text '\t' false "\\N"
            Copy FromStdin { table: QualifiedName { schema: None, name: "t" }, columns: ["a", "b"] } Csv ';' true "x"
            Copy SELECT * FROM t Csv ',' true ""
            Copy SELECT 1 Text '\t' false "\\N""#]],
    );
    check(
        "PREPARE p (int, text) AS SELECT $1, $2; EXECUTE p (1, 'a'); DEALLOCATE p; DEALLOCATE ALL;
         DECLARE c NO SCROLL CURSOR WITHOUT HOLD FOR SELECT 1; FETCH NEXT FROM c; FETCH 10 FROM c; FETCH ALL IN c; CLOSE c; CLOSE ALL",
        expect![[r#"
            Prepare p [Integer, Text] Query SELECT $1, $2
            Execute p ["1", "'a'"]
            Deallocate(Some("p"))
            Deallocate(None)
            Declare c Query SELECT 1
            Fetch { name: "c", count: Some(1), timeout: None, is_move: false }
            Fetch { name: "c", count: Some(10), timeout: None, is_move: false }
            Fetch { name: "c", count: None, timeout: None, is_move: false }
            Close(Some("c"))
            Close(None)"#]],
    );
    check_error("COPY t FROM '/etc/passwd'", expect!["0A000: COPY from or to a file is not supported at 13"]);
    check_error("SET ROLE x", expect!["0A000: SET ROLE is not supported at 5"]);
}

#[test]
fn mistakes_are_placed_in_characters() {
    check_error("SELECT 1 FROM", expect!["42601: syntax error at end of input at 14"]);
    check_error("SELEC 1", expect![[r#"42601: syntax error at or near "SELEC" at 1"#]]);
    check_error("SELECT 'ä€\u{1F600}', FROM t WHERE", expect![[r#"42601: syntax error at or near "FROM" at 20"#]]);
    check_error("SELECT 'ä',\n  'é' FROM t WHERE )", expect![[r#"42601: syntax error at or near ")" at 32"#]]);
    check_error("SELECT 'open", expect!["42601: Unterminated string literal at 8"]);
    check_error("SELECT 1 2", expect![[r#"42601: syntax error at or near "2" at 10"#]]);
    check_error("SELECT 1; SELECT 2; ) SELECT 3", expect![[r#"42601: syntax error at or near ")" at 21"#]]);
    check_error("CREATE", expect!["42601: syntax error at end of input at 7"]);
    check("", expect![""]);
    check(" ; -- nothing\n ;", expect![""]);
}

#[test]
fn a_statement_keeps_its_own_text() {
    let sql = "SELECT 1; \n CREATE VIEW \"ä\" AS SELECT 'x;y' -- why\n ; SELECT 2";
    let statements = parse(sql).expect("parses");
    let Statement::CreateView(view) = &statements[1] else { panic!("{statements:?}") };
    assert_eq!(view.sql, "CREATE VIEW \"ä\" AS SELECT 'x;y'");
}

#[test]
fn subscriptions_are_read() {
    check(
        "SUBSCRIBE v; SUBSCRIBE TO public.v WITH (SNAPSHOT = false, PROGRESS) ENVELOPE UPSERT (KEY (a, \"B\"));
         SUBSCRIBE (SELECT a FROM t) ENVELOPE UPSERT (KEY (a)) WITH (snapshot off); COPY (SUBSCRIBE v) TO STDOUT;
         DECLARE c CURSOR FOR SUBSCRIBE v; FETCH ALL c WITH (timeout = '1s'); FETCH FORWARD 5 FROM c WITH (timeout='250ms');
         MOVE 3 IN c",
        expect![[r#"
            Subscribe(Subscribe { target: Relation(QualifiedName { schema: None, name: "v" }), snapshot: true, progress: false, key: [] })
            Subscribe(Subscribe { target: Relation(QualifiedName { schema: Some("public"), name: "v" }), snapshot: false, progress: true, key: ["a", "B"] })
            Subscribe SELECT a FROM t snapshot=false progress=false key=["a"]
            Copy Changes { subscribe: Subscribe { target: Relation(QualifiedName { schema: None, name: "v" }), snapshot: true, progress: false, key: [] } } Text '\t' false "\\N"
            Declare c Subscribe(Subscribe { target: Relation(QualifiedName { schema: None, name: "v" }), snapshot: true, progress: false, key: [] })
            Fetch { name: "c", count: None, timeout: Some(1s), is_move: false }
            Fetch { name: "c", count: Some(5), timeout: Some(250ms), is_move: false }
            Fetch { name: "c", count: Some(3), timeout: None, is_move: true }"#]],
    );
    check_error("DECLARE c CURSOR WITH HOLD FOR SELECT 1", expect!["0A000: WITH HOLD is not supported at 18"]);
    check_error("SUBSCRIBE v AS OF 3", expect!["0A000: SUBSCRIBE ... AS OF is not supported at 13"]);
    check_error("SUBSCRIBE v ENVELOPE DEBEZIUM", expect!["0A000: ENVELOPE DEBEZIUM is not supported at 22"]);
    check_error("SUBSCRIBE v WITH (x)", expect!["0A000: SUBSCRIBE option x is not supported at 19"]);
    check_error("FETCH 1 c WITH (timeout = '1 month')", expect![[r#"22023: invalid timeout "1 month" at 27"#]]);
}

#[test]
fn joins_in_event_time_are_joins_with_a_mark() {
    check(
        "SELECT 1 FROM a LEFT ASOF JOIN b AS x ON a.k = x.k AND a.t >= x.t",
        expect!["Query SELECT 1 FROM a LEFT JOIN b AS x ON asof_match() AND a.k = x.k AND a.t >= x.t"],
    );
    check(
        "SELECT 1 FROM a ASOF JOIN (SELECT * FROM b JOIN c ON b.i = c.i) x MATCH_CONDITION (a.t < x.t) ON a.k = x.k",
        expect![
            "Query SELECT 1 FROM a JOIN (SELECT * FROM b JOIN c ON b.i = c.i) x ON asof_match(a.t < x.t) AND a.k = x.k"
        ],
    );
    check(
        "SELECT 1 FROM a ASOF JOIN b MATCH_CONDITION (a.t < b.t)",
        expect!["Query SELECT 1 FROM a JOIN b ON asof_match(a.t < b.t)"],
    );
    check(
        "SELECT 1 FROM a JOIN s.v FOR SYSTEM_TIME AS OF (a.t + INTERVAL '1 day') x ON a.k = x.k; SELECT 2",
        expect![[r#"
            Query SELECT 1 FROM a JOIN s.v x ON system_time_as_of((a.t + INTERVAL '1 day')) AND a.k = x.k
            Query SELECT 2"#]],
    );
}

#[test]
fn an_unknown_name_has_a_place_if_it_stands_there_once() {
    let place = |sql: &str, state: &'static str, message: &str| {
        super::located(sql, crate::SqlError::new(state, message)).position
    };
    let column = "column \"nosuch\" does not exist";
    assert_eq!(place("SELECT id,\n  NoSuch FROM t", "42703", column), Some(14));
    assert_eq!(place("SELECT 'nosuch', nosuch + nosuch FROM t", "42703", column), None);
    assert_eq!(place("SELECT \"NOSUCH\" FROM t", "42703", column), None);
    assert_eq!(place("SELECT a.x, b.x FROM a, b", "42703", "column \"b.x\" does not exist"), Some(13));
    assert_eq!(place("SELECT é, x FROM gone", "42P01", "relation \"public.gone\" does not exist"), Some(18));
    assert_eq!(place("SELECT nosuch", "22012", column), None);
}
