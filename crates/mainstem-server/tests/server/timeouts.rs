//! What ends a statement or a connection: statement_timeout, idle timeouts, cancel requests; and what a cancelled CREATE
//! leaves behind.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::process::{Server, rows};

/// Takes minutes when nothing ends it.
const LONG: &str = "SELECT count(*) FROM generate_series(1, 200000) a, generate_series(1, 200000) b \
                    WHERE a.value * b.value % 7 = 3";

async fn connect_with(server: &Server, options: &str) -> Client {
    let (host, port) = server.pg.rsplit_once(':').expect("host:port");
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port.parse().expect("a port")).user("root").dbname("dev").options(options);
    let (client, connection) = config.connect(NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// The SQLSTATE of the error.
async fn state_of(client: &Client, sql: &str) -> String {
    let begun = Instant::now();
    let error = client.simple_query(sql).await.expect_err(sql);
    assert!(begun.elapsed() < Duration::from_secs(30), "{sql} went on for {:?}", begun.elapsed());
    error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_cancelled() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(dir.path());
    let client = server.connect().await;
    client.simple_query("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await.expect("a table");
    client.simple_query("SET statement_timeout = '300ms'").await.expect("sets");
    assert_eq!(state_of(&client, LONG).await, "57014");
    assert_eq!(
        state_of(&client, &LONG.replace("SELECT count(*)", "INSERT INTO t SELECT count(*)::int + 100")).await,
        "57014"
    );
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await, [["2"]], "nothing of it was written");
    // By the extended protocol, where planning and rows have one limit together.
    let begun = Instant::now();
    let error = client.query(LONG, &[]).await.expect_err("too long");
    assert_eq!(error.code().expect("a code").code(), "57014");
    assert!(begun.elapsed() < Duration::from_secs(30));
    // Each statement has its own time, and a transaction fails as by any error.
    client.simple_query("BEGIN").await.expect("begins");
    assert_eq!(state_of(&client, LONG).await, "57014");
    assert_eq!(state_of(&client, "SELECT 1").await, "25P02");
    client.simple_query("ROLLBACK; SET statement_timeout = DEFAULT").await.expect("ends");
    // In the startup packet's options, with a unit.
    let impatient = connect_with(&server, "-c statement_timeout=1s").await;
    assert_eq!(rows(&impatient, "SHOW statement_timeout").await, [["1s"]]);
    assert_eq!(state_of(&impatient, LONG).await, "57014");
    // What was cancelled may still be on the threads of queries for a while: a second is not always enough now.
    impatient.simple_query("SET statement_timeout = 0").await.expect("sets");
    assert_eq!(rows(&impatient, "SELECT 1").await, [["1"]], "the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_waits_for_history_is_taken_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(dir.path());
    let client = server.connect().await;
    client.simple_query("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await.expect("a table");
    client.simple_query("CREATE MATERIALIZED VIEW kept AS SELECT count(*) AS n FROM t").await.expect("a view");
    // A backfill that is paused takes as long as it likes.
    client.simple_query("SET statement_timeout = 300; SET backfill_rate_limit = 0").await.expect("sets");
    assert_eq!(state_of(&client, "CREATE MATERIALIZED VIEW v AS SELECT id FROM t").await, "57014");
    assert_eq!(state_of(&client, "SELECT * FROM v").await, "42P01");
    assert_eq!(
        state_of(&client, "CREATE OR REPLACE MATERIALIZED VIEW kept AS SELECT -count(*) AS n FROM t").await,
        "57014"
    );
    assert_eq!(rows(&client, "SELECT n FROM kept").await, [["2"]]);
    assert_eq!(rows(&client, "SELECT count(*) FROM mainstem.jobs").await, [["0"]]);
    // By a cancel request, too.
    client.simple_query("SET statement_timeout = 0").await.expect("sets");
    let token = client.cancel_token();
    let creating = client.simple_query("CREATE MATERIALIZED VIEW v AS SELECT id FROM t");
    let cancelling = async {
        let other = server.connect().await;
        while rows(&other, "SELECT count(*) FROM mainstem.jobs").await != [["1"]] {}
        token.cancel_query(NoTls).await.expect("a cancel request");
    };
    let (created, ()) = tokio::join!(creating, cancelling);
    assert_eq!(created.expect_err("cancelled").code().expect("a code").code(), "57014");
    client.simple_query("SET backfill_rate_limit = default").await.expect("sets");
    client.simple_query("CREATE MATERIALIZED VIEW v AS SELECT id FROM t").await.expect("the name is free");
    assert_eq!(rows(&client, "SELECT count(*) FROM v").await, [["2"]]);
    // A kill is no cancellation: the view is there, still paused, and goes on when it is told to.
    client.simple_query("SET background_ddl = on; SET backfill_rate_limit = 0").await.expect("sets");
    client.simple_query("CREATE MATERIALIZED VIEW w AS SELECT id FROM t").await.expect("begins");
    server.kill();
    let server = Server::start(dir.path());
    let client = server.connect().await;
    let jobs = "SELECT name, state FROM mainstem.jobs";
    while rows(&client, jobs).await != [["w", "paused"]] {}
    client.simple_query("ALTER MATERIALIZED VIEW w SET BACKFILL_RATE_LIMIT = DEFAULT; WAIT").await.expect("goes on");
    assert_eq!(rows(&client, "SELECT count(*) FROM w").await, [["2"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_has_no_limit_of_time() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(dir.path());
    let client = server.connect().await;
    client.simple_query("CREATE TABLE t (id int PRIMARY KEY); SET statement_timeout = 200").await.expect("a table");
    let following = client.simple_query("SUBSCRIBE t");
    let outlasts = tokio::time::timeout(Duration::from_secs(1), following).await;
    assert!(outlasts.is_err(), "it ended: {outlasts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_inside_a_transaction_is_disconnected() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(dir.path());
    for (begin, wanted) in [
        ("SET idle_in_transaction_session_timeout = 200; BEGIN; CREATE TABLE IF NOT EXISTS no_such (a int)", None),
        ("SET idle_in_transaction_session_timeout = 200; BEGIN", Some("25P03")),
        ("SET idle_session_timeout = 200", Some("57P05")),
    ] {
        let (host, port) = server.pg.rsplit_once(':').expect("host:port");
        let config = format!("host={host} port={port} user=root dbname=dev");
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connects");
        let connection = tokio::spawn(connection);
        // DDL inside a transaction fails it: an aborted one is as idle.
        assert_eq!(client.simple_query(begin).await.is_err(), wanted.is_none(), "{begin}");
        let ended = tokio::time::timeout(Duration::from_secs(30), connection).await;
        let error = ended.expect("it is disconnected").expect("no panic").expect_err("by the server");
        assert_eq!(error.code().expect("a code").code(), wanted.unwrap_or("25P03"), "{begin}");
    }
    let client = server.connect().await;
    client.simple_query("SET idle_in_transaction_session_timeout = '10ms'").await.expect("sets");
    assert_eq!(rows(&client, "SELECT 1").await, [["1"]], "outside of transactions it means nothing");
}
