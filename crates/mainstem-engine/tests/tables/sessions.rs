//! Several sessions, transactions, and crashes.

use std::sync::Arc;

use mainstem_engine::InputLog;

use super::database::{Database, Session};

const COUNTERS: &str = "CREATE TABLE counters (id INT PRIMARY KEY, n INT)";

async fn counters() -> Database {
    let database = Database::new(&[COUNTERS, "CREATE TABLE log (line VARCHAR)"]);
    let mut session = Session::default();
    database.dml(&mut session, "INSERT INTO counters VALUES (1, 0), (2, 0)").await.expect("inserts");
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn increments_of_several_sessions_are_never_lost() {
    let database = Arc::new(counters().await);
    let sessions = (0..4).map(|_| {
        let database = database.clone();
        tokio::spawn(async move {
            let mut session = Session::default();
            for _ in 0..25 {
                database.dml(&mut session, "UPDATE counters SET n = n + 1 WHERE id = 1").await.expect("updates");
                database.dml(&mut session, "INSERT INTO log VALUES ('x')").await.expect("inserts");
            }
        })
    });
    for session in sessions.collect::<Vec<_>>() {
        session.await.expect("no panic");
    }
    assert_eq!(database.rows("SELECT * FROM counters").await, ["1|100", "2|0"]);
    assert_eq!(database.rows("SELECT count(*) FROM log").await, ["100"], "row ids are unique");
    assert!(database.compare("log").await.is_equal());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_transactions_that_change_one_row_the_second_fails() {
    let database = counters().await;
    let (mut first, mut second) = (Session::default(), Session::default());
    let update = "UPDATE counters SET n = n + 1 WHERE id = 1";
    for session in [&mut first, &mut second] {
        session.at_least = database.log.newest();
        database.begin(session);
        database.dml(session, update).await.expect("buffers");
    }
    database.commit(&mut first).await.expect("commits");
    let error = database.commit(&mut second).await.expect_err("a conflict");
    assert_eq!(
        (error.sqlstate, error.message.as_str()),
        ("40001", "could not serialize access due to concurrent update")
    );
    assert_eq!(database.rows("SELECT n FROM counters WHERE id = 1").await, ["1"]);
    // Different rows do not conflict, and neither do inserts into a table without key.
    for (session, id) in [(&mut first, 1), (&mut second, 2)] {
        session.at_least = database.log.newest();
        database.begin(session);
        let update = format!("UPDATE counters SET n = n + 10 WHERE id = {id}");
        database.dml(session, &update).await.expect("buffers");
        database.dml(session, &format!("INSERT INTO log VALUES ('{id}')")).await.expect("buffers");
    }
    database.commit(&mut first).await.expect("commits");
    database.commit(&mut second).await.expect("commits");
    assert_eq!(database.rows("SELECT * FROM counters").await, ["1|11", "2|10"]);
    assert_eq!(database.rows("SELECT * FROM log").await, ["1", "2"]);
    for (session, value) in [(&mut first, 'a'), (&mut second, 'b')] {
        database.begin(session);
        database.dml(session, &format!("INSERT INTO counters VALUES (7, ascii('{value}'))")).await.expect("buffers");
    }
    database.commit(&mut first).await.expect("commits");
    let error = database.commit(&mut second).await.expect_err("the key is taken");
    assert_eq!((error.sqlstate, error.detail.as_deref()), ("23505", Some("Key (id)=(7) already exists.")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_sees_its_snapshot_and_its_own_writes_and_is_one_entry() {
    let database = counters().await;
    let (mut inside, mut outside) = (Session::default(), Session::default());
    inside.at_least = database.log.newest();
    database.begin(&mut inside);
    database.dml(&mut inside, "INSERT INTO counters VALUES (3, 3)").await.expect("buffers");
    database.dml(&mut outside, "UPDATE counters SET n = 50 WHERE id = 2").await.expect("updates");
    database.dml(&mut inside, "UPDATE counters SET n = n + 1 WHERE id <> 2").await.expect("buffers");
    database.dml(&mut inside, "INSERT INTO log SELECT 'n=' || n::varchar FROM counters").await.expect("buffers");
    database.dml(&mut inside, "INSERT INTO log VALUES ('gone')").await.expect("buffers");
    database.dml(&mut inside, "DELETE FROM log WHERE line = 'gone'").await.expect("buffers");
    let query = "SELECT * FROM counters ORDER BY id";
    assert_eq!(database.select(&mut inside, query).await.expect("selects"), ["1|1", "2|0", "3|4"]);
    let sum = "SELECT sum(n), (SELECT count(*) FROM log) FROM counters";
    assert_eq!(database.select(&mut inside, sum).await.expect("selects"), ["5|3"]);
    assert_eq!(database.rows(query).await, ["1|0", "2|50"], "others see nothing of it");
    let commits = database.log.commits();
    database.commit(&mut inside).await.expect("commits").expect("a cut");
    assert_eq!(database.log.commits(), commits + 1);
    assert_eq!(database.select(&mut inside, query).await.expect("selects"), ["1|1", "2|50", "3|4"]);
    assert_eq!(database.rows("SELECT * FROM log").await, ["n=0", "n=1", "n=4"]);
    assert_eq!(
        database.log.records(database.topic("log")).len(),
        3,
        "what was deleted before it was written is no record"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_back_and_failing_statements_leave_no_trace() {
    let database = counters().await;
    let mut session = Session { transaction: None, at_least: database.log.newest() };
    let commits = database.log.commits();
    database.begin(&mut session);
    database.dml(&mut session, "UPDATE counters SET n = 9").await.expect("buffers");
    let failing = "INSERT INTO counters VALUES (5, 5), (1, 1)";
    assert_eq!(database.dml(&mut session, failing).await.expect_err("taken").sqlstate, "23505");
    let query = "SELECT * FROM counters ORDER BY id";
    assert_eq!(database.select(&mut session, query).await.expect("selects"), ["1|9", "2|9"]);
    let transaction = session.transaction.as_mut().expect("open");
    transaction.savepoint("s");
    database.dml(&mut session, "DELETE FROM counters").await.expect("buffers");
    assert!(database.select(&mut session, query).await.expect("selects").is_empty());
    let transaction = session.transaction.as_mut().expect("open");
    transaction.rollback_to("s").expect("known");
    assert_eq!(transaction.rollback_to("t").expect_err("unknown").sqlstate, "3B001");
    assert_eq!(database.select(&mut session, query).await.expect("selects"), ["1|9", "2|9"]);
    session.transaction = None;
    assert_eq!(database.log.commits(), commits);
    assert_eq!(database.rows(query).await, ["1|0", "2|0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_accepted_and_not_durable_is_gone_after_a_crash_and_was_never_seen() {
    let database = Arc::new(counters().await);
    database.log.hold_commits();
    let update = |times: i32| {
        let database = database.clone();
        tokio::spawn(async move {
            let sql = format!("UPDATE counters SET n = n + {times} WHERE id = 1");
            database.dml(&mut Session::default(), &sql).await
        })
    };
    // The second reads what the first had accepted: neither waits for the disk under the lock.
    let (first, second) = (update(1), update(10));
    while database.log.waiting() < 2 {
        tokio::task::yield_now().await;
    }
    let mut reader = Session { transaction: None, at_least: database.log.newest() };
    let seen = database.select(&mut reader, "SELECT n FROM counters WHERE id = 1").await.expect("selects");
    assert_eq!(seen, ["0"], "not durable, not seen");
    assert!(!first.is_finished() && !second.is_finished(), "not acknowledged either");
    database.log.release();
    first.await.expect("no panic").expect("updates");
    second.await.expect("no panic").expect("updates");
    assert_eq!(database.rows("SELECT n FROM counters WHERE id = 1").await, ["11"]);

    database.log.hold_commits();
    let lost = update(100);
    while database.log.waiting() < 1 {
        tokio::task::yield_now().await;
    }
    lost.abort();
    let _ = lost.await;
    let database = Arc::into_inner(database).expect("nobody else has it").crash();
    assert_eq!(database.rows("SELECT * FROM counters").await, ["1|11", "2|0"]);
    let mut session = Session::default();
    database.dml(&mut session, "UPDATE counters SET n = n + 1").await.expect("updates");
    assert_eq!(database.rows("SELECT * FROM counters").await, ["1|12", "2|1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancelled_statement_happens_as_a_whole_or_not_at_all() {
    let database = Arc::new(counters().await);
    for turn in 0..40_u32 {
        let shared = database.clone();
        let running =
            tokio::spawn(async move { shared.dml(&mut Session::default(), "UPDATE counters SET n = n + 1").await });
        for _ in 0..turn * 4 {
            tokio::task::yield_now().await;
        }
        running.abort();
        let _ = running.await;
    }
    let mut session = Session::default();
    database.dml(&mut session, "UPDATE counters SET n = n + 1000").await.expect("the table is not stuck");
    let rows = database.rows("SELECT n FROM counters").await;
    assert_eq!(rows[0], rows[1]);
    assert!(database.compare("counters").await.is_equal());
}
