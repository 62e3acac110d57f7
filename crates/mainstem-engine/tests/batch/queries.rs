//! SELECT over sources, tables, views and plain views, at one cut.

use crate::tables::database::{Database, Session};

const FLIGHTS: &str = "CREATE SOURCE flights (carrier VARCHAR, delay DOUBLE PRECISION, ts TIMESTAMP, \
                       WATERMARK FOR ts AS ts - INTERVAL '5 minutes') \
                       INCLUDE partition AS p INCLUDE offset AS o \
                       WITH (topic = 'flights') FORMAT PLAIN ENCODE JSON";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_its_whole_history_without_what_does_not_decode() {
    let database = Database::new(&[FLIGHTS]);
    database.produce(
        "flights",
        &[
            (0, "{\"carrier\":\"UA\",\"delay\":1.5,\"ts\":\"2013-07-01 05:00:00\"}"),
            (0, "{\"carrier\":\"UA\",\"delay\":"),
            (1, "{\"carrier\":\"AA\",\"delay\":-2,\"ts\":\"2013-07-01 06:10:00\"}"),
            (0, "{\"carrier\":\"AA\",\"ts\":\"2013-07-01 06:30:00\"}"),
        ],
    );
    assert_eq!(
        database.rows("SELECT carrier, delay, p, o FROM flights").await,
        ["AA|-2.0|1|0", "AA|null|0|2", "UA|1.5|0|0"]
    );
    assert_eq!(database.rows("SELECT count(*), sum(delay) FROM flights").await, ["3|-0.5"]);
    assert_eq!(
        database
            .rows("SELECT window_start, count(*) FROM tumble(flights, ts, INTERVAL '1 hour') GROUP BY window_start")
            .await,
        ["2013-07-01T05:00:00|1", "2013-07-01T06:00:00|2"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_statement_reads_all_relations_at_one_cut_and_its_sessions_writes() {
    let database = Database::new(&[
        "CREATE TABLE t (id INT PRIMARY KEY, n INT)",
        "CREATE VIEW plain AS SELECT id, n * 2 AS twice FROM t",
        "CREATE MATERIALIZED VIEW total AS SELECT sum(n) AS n, count(*) AS c FROM t",
    ]);
    let mut session = Session::default();
    for id in 0..50 {
        database.dml(&mut session, &format!("INSERT INTO t VALUES ({id}, {id})")).await.expect("inserts");
        let query =
            "SELECT (SELECT sum(twice) FROM plain), n * 2, c, (SELECT count(*) FROM t WHERE id >= 0) FROM total";
        let sum = id * (id + 1);
        let expected = format!("{sum}|{sum}|{}|{}", id + 1, id + 1);
        assert_eq!(database.select(&mut session, query).await.expect("selects"), [expected]);
    }
    assert_eq!(database.rows("SELECT twice FROM plain WHERE id = 7").await, ["14"]);
    assert_eq!(database.rows("SELECT n FROM t WHERE id = 49 AND n > 49").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_with_an_error_is_that_error_until_the_row_is_mended() {
    let database = Database::new(&[
        "CREATE TABLE t (id INT PRIMARY KEY, n INT)",
        "CREATE MATERIALIZED VIEW divided AS SELECT id, 100 / n AS share FROM t",
    ]);
    let mut session = Session::default();
    database.dml(&mut session, "INSERT INTO t VALUES (1, 4), (2, 0)").await.expect("inserts");
    let error = database.select(&mut session, "SELECT * FROM divided").await.expect_err("a division by zero");
    assert_eq!((error.sqlstate, error.message.as_str()), ("22012", "division by zero"));
    assert_eq!(database.select(&mut session, "SELECT count(*) FROM t").await.expect("others go on"), ["2"]);
    database.dml(&mut session, "UPDATE t SET n = 5 WHERE id = 2").await.expect("mends");
    assert_eq!(database.rows("SELECT * FROM divided").await, ["1|25", "2|20"]);
    assert!(database.compare("divided").await.is_equal());
}
