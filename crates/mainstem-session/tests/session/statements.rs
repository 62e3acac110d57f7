//! Definitions, writes, queries, transactions, settings, parameters, COPY.

use bytes::Bytes;
use mainstem_session::{Response, TransactionStatus};

use crate::database::Database;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_its_own_writes_in_tables_and_views() {
    let mut client = Database::new().connect();
    assert_eq!(client.run("CREATE TABLE t (id INT PRIMARY KEY, n BIGINT, s VARCHAR)").await, "CREATE TABLE");
    client.run("CREATE MATERIALIZED VIEW v AS SELECT s, sum(n) AS total, count(*) AS c FROM t GROUP BY s").await;
    for round in 1..=20 {
        let insert = format!("INSERT INTO t VALUES ({round}, 10, 'a')");
        assert_eq!(client.run(&insert).await, "INSERT 0 1");
        assert_eq!(client.run("SELECT total, c FROM v WHERE s = 'a'").await, format!("{}|{round}", round * 10));
    }
    assert_eq!(client.run("UPDATE t SET s = 'b' WHERE id <= 5").await, "UPDATE 5");
    assert_eq!(client.run("SELECT * FROM v ORDER BY s").await, "a|150|15\nb|50|5");
    assert_eq!(client.run("DELETE FROM t WHERE s = 'a'").await, "DELETE 15");
    assert_eq!(client.run("SELECT * FROM v").await, "b|50|5");
    assert_eq!(client.run("INSERT INTO t VALUES (99, 1, 'c') RETURNING id, s").await, "99|c\nINSERT 0 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_session_sees_what_one_was_told_is_written() {
    // As a pool of connections does it: each write by another connection than the read after it.
    let database = Database::new();
    let mut pool = [database.connect(), database.connect(), database.connect()];
    pool[0].run("CREATE TABLE t (id INT PRIMARY KEY, n BIGINT)").await;
    pool[1].run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS c, sum(n) AS n FROM t").await;
    pool[2].run("INSERT INTO t SELECT i, 0 FROM generate_series(1, 500) AS s(i)").await;
    for round in 1..=100 {
        pool[round % 3].run("UPDATE t SET n = n + 1").await;
        assert_eq!(pool[(round + 1) % 3].run("SELECT c, n FROM v").await, format!("500|{}", round * 500));
        assert_eq!(pool[(round + 2) % 3].run("SELECT sum(n) FROM t").await, format!("{}", round * 500));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_checked_and_dropped_in_order() {
    let database = Database::new();
    let mut client = database.connect();
    let (state, message) =
        client.fails("CREATE SOURCE s (a INT) WITH (connector='kafka', topic='none') FORMAT PLAIN ENCODE JSON").await;
    assert_eq!((state.as_str(), message.as_str()), ("42704", "topic \"none\" does not exist"));
    let topic = database.create_topic("events").await;
    client.run("CREATE SOURCE s (a INT, b VARCHAR) WITH (topic='events') FORMAT PLAIN ENCODE JSON").await;
    database.log.produce(
        topic,
        0,
        vec![Bytes::from_static(b"{\"a\":1,\"b\":\"x\"}"), Bytes::from_static(b"{\"a\":2}")],
    );
    client.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS c FROM s").await;
    client.run("CREATE VIEW w AS SELECT c + 1 AS d FROM m").await;
    client.run("FLUSH").await;
    assert_eq!(client.run("SELECT d FROM w").await, "3");
    assert_eq!(client.run("SELECT a, b FROM s ORDER BY a").await, "1|x\n2|null");
    assert_eq!(client.fails("CREATE TABLE m (a INT)").await.0, "42P07");
    assert_eq!(client.fails("CREATE TABLE events (a INT)").await.0, "42P07");
    assert_eq!(
        client.run("CREATE MATERIALIZED VIEW IF NOT EXISTS m AS SELECT 1 AS x").await,
        "CREATE MATERIALIZED VIEW"
    );
    assert_eq!(client.fails("DROP SOURCE s").await.0, "2BP01");
    assert_eq!(client.fails("DROP TABLE s").await.0, "42809");
    assert_eq!(client.fails("DROP TABLE nothing").await.0, "42P01");
    assert_eq!(client.run("DROP TABLE IF EXISTS nothing").await, "DROP TABLE");
    assert_eq!(client.run("DROP SOURCE s CASCADE").await, "DROP SOURCE");
    assert_eq!(client.run("SHOW MATERIALIZED VIEWS").await, "");
    client.run("CREATE TABLE t (a INT)").await;
    assert_eq!(client.run("DROP TABLE t").await, "DROP TABLE");
    client.run("CREATE TABLE t (a INT)").await;
    assert_eq!(client.fails("SELECT * FROM w").await.0, "42P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_one_write_or_none() {
    let database = Database::new();
    let (mut one, mut two) = (database.connect(), database.connect());
    one.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    one.run("BEGIN; INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2)").await;
    assert_eq!(one.run("SELECT count(*) FROM t").await, "2");
    assert_eq!(two.run("SELECT count(*) FROM t").await, "0");
    assert_eq!(one.run("COMMIT").await, "COMMIT");
    assert_eq!(one.run("SELECT count(*) FROM t").await, "2");
    one.run("BEGIN; DELETE FROM t").await;
    one.run("ROLLBACK").await;
    assert_eq!(one.run("SELECT count(*) FROM t").await, "2");

    one.run("BEGIN").await;
    assert_eq!(one.fails("SELECT nothing FROM t").await.0, "42703");
    assert_eq!(one.session.transaction_status(), TransactionStatus::Failed);
    assert_eq!(one.fails("SELECT 1").await.0, "25P02");
    assert_eq!(one.run("COMMIT").await, "ROLLBACK");
    assert_eq!(one.session.transaction_status(), TransactionStatus::Idle);

    one.run("BEGIN; UPDATE t SET n = n + 1 WHERE id = 1").await;
    two.run("UPDATE t SET n = n + 10 WHERE id = 1").await;
    assert_eq!(one.fails("COMMIT").await.0, "40001");
    assert_eq!(one.session.transaction_status(), TransactionStatus::Idle);
    assert_eq!(two.run("SELECT n FROM t WHERE id = 1").await, "11");
    assert_eq!(one.fails("BEGIN; CREATE TABLE u (a INT)").await.0, "25001");
    one.run("ROLLBACK").await;

    one.run("BEGIN; INSERT INTO t VALUES (3, 3); SAVEPOINT s; INSERT INTO t VALUES (4, 4)").await;
    assert_eq!(one.fails("INSERT INTO t VALUES (3, 3)").await.0, "23505");
    one.run("ROLLBACK TO SAVEPOINT s; COMMIT").await;
    assert_eq!(one.run("SELECT id FROM t ORDER BY id").await, "1\n2\n3");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_come_together_are_one_transaction() {
    let mut client = Database::new().connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY)").await;
    client.session.begin_implicit();
    client.run("INSERT INTO t VALUES (1)").await;
    assert_eq!(client.fails("INSERT INTO t VALUES (1)").await.0, "23505");
    client.session.abort_implicit();
    assert_eq!(client.run("SELECT count(*) FROM t").await, "0");
    client.session.begin_implicit();
    client.run("INSERT INTO t VALUES (1); CREATE TABLE u (a INT); INSERT INTO t VALUES (2)").await;
    client.session.end_implicit().await.expect("commits");
    assert_eq!(client.run("SELECT count(*) FROM t").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_mean_what_literals_mean() {
    let mut client = Database::new().connect();
    client
        .run("CREATE TABLE t (id INT PRIMARY KEY, n NUMERIC(10,2), at TIMESTAMP, ok BOOLEAN, d BYTEA, l INT[])")
        .await;
    let values = ["1", "12.50", "2013-07-01 12:00:00", "t", "\\x00ff", "{1,2}"];
    assert_eq!(
        client.with("INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6)", &values).await.expect("inserts"),
        "INSERT 0 1"
    );
    let all = client.with("SELECT * FROM t WHERE id = $1 AND at < $2 AND n > $3", &["1", "2014-01-01", "3"]).await;
    assert_eq!(all.expect("selects"), "1|12.50|2013-07-01 12:00:00|t|\\x00ff|{1,2}");
    assert_eq!(client.with("SELECT $1::int + 1, $2", &["41", "it's"]).await.expect("selects"), "42|it's");
    assert_eq!(client.with("SELECT id FROM t ORDER BY id LIMIT $1", &["1"]).await.expect("selects"), "1");
    assert_eq!(client.with("UPDATE t SET n = $1 WHERE id = $2", &["null", "1"]).await.expect("updates"), "UPDATE 1");
    let error = client.with("SELECT * FROM t WHERE id = $1", &["x"]).await.expect_err("not a number");
    assert_eq!(error.sqlstate, "22P02");
    client.run("PREPARE p (INT) AS SELECT id FROM t WHERE id = $1").await;
    assert_eq!(client.run("EXECUTE p (1)").await, "1");
    assert_eq!(client.run("DEALLOCATE p").await, "DEALLOCATE");
    assert_eq!(client.fails("EXECUTE p (1)").await.0, "26000");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_reads_what_it_writes() {
    let mut client = Database::new().connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR)").await;
    let statement = client.session.parse("COPY t FROM STDIN").expect("parses").remove(0);
    let Response::CopyIn(mut copy) = client.session.execute(&statement, &[]).await.expect("a table") else {
        panic!("COPY FROM STDIN takes rows");
    };
    for chunk in ["1\ta\\tb", "\n2\t\\N\n3", "\tc\n"] {
        copy.push(chunk.as_bytes()).expect("lines");
    }
    assert_eq!(client.session.finish_copy(copy).await.expect("writes"), "COPY 3");
    assert_eq!(client.run("COPY (SELECT * FROM t ORDER BY id) TO STDOUT").await, "1\ta\\tb\n2\t\\N\n3\tc\n");
    let csv = client.run("COPY (SELECT * FROM t ORDER BY id) TO STDOUT (FORMAT csv, HEADER)").await;
    assert_eq!(csv, "id,s\n1,a\tb\n2,\n3,c\n");
    let Response::CopyIn(mut copy) = client.session.execute(&statement, &[]).await.expect("a table") else {
        panic!("COPY FROM STDIN takes rows");
    };
    copy.push(b"4\tx\nfive\ty\n").expect("lines");
    let error = client.session.finish_copy(copy).await.expect_err("five");
    assert_eq!(error.sqlstate, "22P02");
    assert_eq!(client.run("SELECT count(*) FROM t").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_follow_the_transaction() {
    let mut client = Database::new().connect();
    client.run("BEGIN; SET LOCAL statement_timeout = '1s'").await;
    assert_eq!(client.run("SHOW statement_timeout").await, "1s");
    client.run("COMMIT").await;
    assert_eq!(client.run("SHOW statement_timeout").await, "0");
    client.run("BEGIN; SET application_name = 'x'; ROLLBACK").await;
    assert_eq!(client.run("SHOW application_name").await, "");
    client.run("SET application_name TO 'y'").await;
    assert_eq!(client.session.take_parameter_changes(), [("application_name", "y".to_owned())]);
    assert_eq!(client.run("SHOW server_version").await, "15.0 (Mainstem test)");
    assert_eq!(client.fails("SET nonsense = 1").await.0, "42704");
    client.run("SET rw_implicit_flush = true; SET streaming_parallelism = 4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_and_definitions_are_shown() {
    let mut client = Database::new().connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    let graph = client.run("EXPLAIN CREATE MATERIALIZED VIEW v AS SELECT n, count(*) AS c FROM t GROUP BY n").await;
    assert!(graph.to_lowercase().contains("aggregate") && graph.contains('t'), "{graph}");
    let plan = client.run("EXPLAIN SELECT n FROM t WHERE id = 1").await;
    assert!(plan.contains("LookupExec: by primary key (id), 1 range"), "{plan}");
    assert!(client.run("EXPLAIN ANALYZE SELECT n FROM t").await.contains("rows: 0"));
    assert_eq!(client.run("SHOW TABLES").await, "t");
    assert_eq!(client.run("SHOW CREATE TABLE t").await, "public.t|CREATE TABLE t (id INT PRIMARY KEY, n INT)");
    assert_eq!(client.run("DESCRIBE t").await, "id|integer|false|false\nn|integer|true|false\nprimary key|id||");
    assert_eq!(client.run("SHOW JOBS").await, "");
}
