//! CREATE OR REPLACE: what readers, dependents and subscriptions see of it, and what leaves the old view.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::database::{Client, Database};

async fn database() -> (Database, Client) {
    let database = Database::new();
    let mut client = database.connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    client.run("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)").await;
    client.run("CREATE MATERIALIZED VIEW v AS SELECT id, n FROM t").await;
    client.run("CREATE VIEW p AS SELECT n FROM v WHERE id > 1").await;
    client.run("CREATE MATERIALIZED VIEW above AS SELECT sum(n) AS s, count(*) AS c FROM p").await;
    (database, client)
}

/// Until the jobs are these states.
async fn until_jobs(client: &mut Client, states: &str) {
    let asked = async {
        loop {
            let found = client.run("SELECT state FROM mainstem.jobs ORDER BY id").await;
            if found.replace('\n', ",") == states {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let timeout = tokio::time::timeout(Duration::from_secs(60), asked).await;
    timeout.unwrap_or_else(|_| panic!("no job comes to {states:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_replaced_and_what_depends_on_it_follows() {
    let (_database, mut client) = database().await;
    assert_eq!(client.run("SELECT s, c FROM above").await, "50|2");
    let oid = client.run("SELECT 'above'::regclass::oid").await;
    let tag =
        client.run("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, (n * 2)::int AS n, 'new' AS more FROM t").await;
    assert_eq!(tag, "CREATE MATERIALIZED VIEW");
    assert_eq!(client.run("SELECT s, c FROM above").await, "100|2");
    assert_eq!(client.run("SELECT * FROM v ORDER BY id").await, "1|20|new\n2|40|new\n3|60|new");
    assert_ne!(client.run("SELECT 'above'::regclass::oid").await, oid, "it is another one");
    client.run("INSERT INTO t VALUES (4, 1)").await;
    client.run("DELETE FROM t WHERE id = 2").await;
    assert_eq!(client.run("SELECT s, c FROM above").await, "62|2");
    // What it was made from, without the words that only made sense once.
    let shown = client.run("SHOW CREATE MATERIALIZED VIEW v").await;
    assert_eq!(shown, "public.v|CREATE MATERIALIZED VIEW v AS SELECT id, (n * 2)::int AS n, 'new' AS more FROM t");
    // A plain view in between, and one that is not there yet.
    client.run("CREATE OR REPLACE VIEW p AS SELECT n FROM v WHERE id > 3").await;
    assert_eq!(client.run("SELECT s, c FROM above").await, "2|1");
    client.run("CREATE OR REPLACE MATERIALIZED VIEW fresh AS SELECT max(n) AS m FROM t").await;
    assert_eq!(client.run("SELECT m FROM fresh").await, "30");
    client.run("DROP TABLE t CASCADE").await;
    assert_eq!(client.fails("SELECT * FROM above").await.0, "42P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_follow_is_listed_and_nothing_changes() {
    let (_database, mut client) = database().await;
    client.run("CREATE MATERIALIZED VIEW all_of_it AS SELECT * FROM v").await;
    let mut refused = async |sql: &str, state: &str, detail: &str| {
        let error = client.try_run(sql).await.expect_err(sql);
        assert_eq!(error.sqlstate, state, "{sql}: {error:?}");
        assert!(error.detail.clone().unwrap_or_default().contains(detail), "{sql}: {error:?}");
        assert_eq!(client.run("SELECT s, c FROM above").await, "50|2", "{sql}");
        assert_eq!(client.run("SELECT * FROM v WHERE id = 1").await, "1|10", "{sql}");
        assert_eq!(client.run("SELECT name FROM mainstem.jobs").await, "", "{sql}");
    };
    let replace = "CREATE OR REPLACE MATERIALIZED VIEW";
    refused(&format!("{replace} v AS SELECT id FROM t"), "2BP01", "view p cannot follow").await;
    refused(&format!("{replace} v AS SELECT id FROM t"), "2BP01", "view above cannot follow: it reads one that").await;
    refused(&format!("{replace} v AS SELECT id, n::varchar AS n FROM t"), "2BP01", "view all_of_it cannot follow")
        .await;
    refused(&format!("{replace} v AS SELECT nothing FROM t"), "42703", "").await;
    refused(&format!("{replace} v AS SELECT random() AS n, id FROM t"), "42P17", "").await;
    refused(&format!("{replace} t AS SELECT 1 AS one"), "42809", "It is a table").await;
    refused("CREATE OR REPLACE VIEW v AS SELECT 1 AS one", "42809", "It is a materialized view").await;
    refused("CREATE OR REPLACE TABLE t (a int)", "0A000", "").await;
    refused(&format!("{replace} IF NOT EXISTS v AS SELECT 1 AS one"), "42601", "").await;
    // One row of the new view divides by zero: the old one stays.
    refused(&format!("{replace} v AS SELECT id, (n / (id - 2))::int AS n FROM t"), "55000", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_new_one_is_built_the_old_one_serves() {
    let (_database, mut client) = database().await;
    client.run("SET background_ddl = on; SET backfill_rate_limit = 0").await;
    client.run("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, -n AS n FROM t").await;
    until_jobs(&mut client, "paused,waiting").await;
    assert_eq!(client.run("SELECT s FROM above").await, "50");
    client.run("INSERT INTO t VALUES (4, 5)").await;
    assert_eq!(client.run("SELECT s FROM above").await, "55");
    assert_eq!(client.run("SHOW MATERIALIZED VIEWS").await, "above\nv", "what is aside has no name");
    assert_eq!(client.run("SELECT relname FROM pg_class WHERE relname = 'v'").await, "v");
    let again = client.fails("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, n FROM t").await;
    assert_eq!(again.0, "55006");
    client.run("ALTER MATERIALIZED VIEW v RESUME BACKFILL").await;
    until_jobs(&mut client, "").await;
    assert_eq!(client.run("SELECT s FROM above").await, "-55", "it is a job until it has switched");
    assert_eq!(client.run("SELECT n FROM v ORDER BY id").await, "-10\n-20\n-30\n-5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_is_cancelled_or_overtaken_leaves_the_old_view() {
    let (database, mut client) = database().await;
    client.run("SET backfill_rate_limit = 0").await;
    // As a statement timeout does it.
    let replace = client.run("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, -n AS n FROM t");
    tokio::time::timeout(Duration::from_millis(200), replace).await.expect_err("it is paused");
    client.session.fail();
    assert_eq!(client.run("SELECT s FROM above").await, "50");
    until_jobs(&mut client, "").await;
    // By CANCEL JOBS, while another session waits for it.
    let mut other = database.connect();
    let waiting = tokio::spawn(async move {
        other.run("SET backfill_rate_limit = 0").await;
        other.fails("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, -n AS n FROM t").await
    });
    until_jobs(&mut client, "paused,waiting").await;
    let id = client.run("SELECT min(id) FROM mainstem.jobs").await;
    assert_eq!(client.run(&format!("CANCEL JOBS {id}")).await, id);
    assert_eq!(waiting.await.expect("no panic").0, "42P01");
    assert_eq!(client.fails(&format!("CANCEL JOBS {id}")).await.0, "42704");
    // A view that came meanwhile stands on the old one.
    client.run("SET background_ddl = on").await;
    client.run("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, -n AS n FROM t").await;
    until_jobs(&mut client, "paused,waiting").await;
    client.run("SET backfill_rate_limit = default").await;
    client.run("CREATE MATERIALIZED VIEW late AS SELECT count(*) AS c FROM v").await;
    client.run("ALTER MATERIALIZED VIEW v RESUME BACKFILL; WAIT").await;
    until_jobs(&mut client, "").await;
    let abandoned =
        async { while client.try_run("CREATE OR REPLACE VIEW p AS SELECT n FROM v WHERE id > 1").await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(60), abandoned).await.expect("it is given up");
    until_jobs(&mut client, "").await;
    assert_eq!(client.run("SELECT s FROM above").await, "50");
    assert_eq!(client.run("SELECT c FROM late").await, "3");
    // Dropping what is to be replaced ends it, too.
    client.run("SET backfill_rate_limit = 0").await;
    client.run("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, -n AS n FROM t").await;
    client.run("DROP MATERIALIZED VIEW v CASCADE").await;
    until_jobs(&mut client, "").await;
    assert_eq!(client.fails("SELECT * FROM above").await.0, "42P01");
    client.run("CREATE MATERIALIZED VIEW v AS SELECT 1 AS one; DROP TABLE t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_whose_creation_is_cancelled_is_not_there() {
    let (_database, mut client) = database().await;
    client.run("SET backfill_rate_limit = 0").await;
    let create = client.run("CREATE MATERIALIZED VIEW w AS SELECT id FROM t");
    tokio::time::timeout(Duration::from_millis(200), create).await.expect_err("it is paused");
    client.session.fail();
    assert_eq!(client.fails("SELECT * FROM w").await.0, "42P01");
    client.run("SET backfill_rate_limit = default; CREATE MATERIALIZED VIEW w AS SELECT id FROM t").await;
    assert_eq!(client.run("SELECT count(*) FROM w").await, "3");
}

/// Two definitions that never give the same row: each SELECT sees one of them, in the view and above it, and in the view
/// over that which also reads a view of another lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_sees_neither_or_half() {
    let seed = mainstem_testkit::seed_from_env("MAINSTEM_SEED", 1);
    println!("MAINSTEM_SEED={seed}");
    let mut state = seed;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let database = Arc::new(Database::new());
    let mut client = database.connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    client.run("INSERT INTO t SELECT value, 0 FROM generate_series(1, 200)").await;
    client.run("CREATE TABLE copies (round INT, tag VARCHAR, c BIGINT)").await;
    client.run("CREATE MATERIALIZED VIEW v AS SELECT id, 'old' AS tag FROM t").await;
    client.run("CREATE MATERIALIZED VIEW by_tag AS SELECT tag, count(*) AS c FROM v GROUP BY tag").await;
    client.run("CREATE TABLE other (id INT PRIMARY KEY); INSERT INTO other VALUES (1), (2)").await;
    client.run("CREATE MATERIALIZED VIEW beside AS SELECT count(*) AS c, 0 AS round FROM other").await;
    client.run("CREATE MATERIALIZED VIEW pairs AS SELECT id FROM other").await;
    client.run("CREATE MATERIALIZED VIEW both AS SELECT b.tag, b.c, p.id FROM by_tag b CROSS JOIN pairs p").await;
    let ends = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|reader| {
            let (database, ends) = (database.clone(), ends.clone());
            tokio::spawn(async move {
                let (mut client, mut reads) = (database.connect(), 0);
                while !ends.load(Ordering::Relaxed) {
                    let query = "SELECT (SELECT count(DISTINCT tag) FROM v), (SELECT count(*) FROM v), \
                                 (SELECT count(*) FROM by_tag), (SELECT sum(c) FROM by_tag), \
                                 (SELECT count(*) FROM by_tag b WHERE b.tag NOT IN (SELECT tag FROM v)), \
                                 (SELECT count(*) FROM both o JOIN by_tag b ON o.tag = b.tag AND o.c = b.c), \
                                 (SELECT count(*) FROM both), (SELECT sum(c) FROM beside)";
                    assert_eq!(client.run(query).await, "1|200|1|200|0|2|2|2");
                    if reader == 0 {
                        client.run("INSERT INTO copies SELECT 1, tag, c FROM by_tag").await;
                    }
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for round in 0..25 {
        let (tag, changes) = (below(1 << 31), below(3));
        for _ in 0..changes {
            client.run("UPDATE t SET n = n + 1 WHERE id % 7 = 0").await;
        }
        client.run(&format!("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, 'tag {tag}' AS tag FROM t")).await;
        assert_eq!(client.run("SELECT * FROM by_tag").await, format!("tag {tag}|200"), "round {round}");
        if below(3) == 0 {
            let beside = "SELECT count(*) AS c, {round} AS round FROM other".replace("{round}", &round.to_string());
            client.run(&format!("CREATE OR REPLACE MATERIALIZED VIEW beside AS {beside}")).await;
            assert_eq!(client.run("SELECT round FROM beside").await, round.to_string());
        }
    }
    ends.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.expect("no reader fails") > 0);
    }
    assert_eq!(client.run("SELECT count(*) FROM copies WHERE c <> 200").await, "0");
}

/// What a subscription gave before and after adds up to the new content.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_gets_the_difference() {
    let (_database, mut client) = database().await;
    client.run("BEGIN; DECLARE c CURSOR FOR SUBSCRIBE v WITH (SNAPSHOT)").await;
    let first = client.run("FETCH 3 c WITH (timeout = '10s')").await;
    assert_eq!(first.lines().count(), 3, "{first}");
    let mut other = _database.connect();
    other
        .run(
            "CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, (CASE WHEN id = 2 THEN 0 ELSE n END)::int AS n FROM t",
        )
        .await;
    other.run("INSERT INTO t VALUES (9, 90)").await;
    let mut rest = Vec::new();
    for _ in 0..20 {
        if rest.len() >= 3 {
            break;
        }
        let more = client.run("FETCH 3 c WITH (timeout = '10s')").await;
        rest.extend(more.lines().map(|line| line.split_once('|').expect("a timestamp").1.to_owned()));
    }
    rest.sort();
    assert_eq!(rest, ["-1|2|20", "1|2|0", "1|9|90"]);
    other.run("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, n, 1 AS one FROM t").await;
    other.run("INSERT INTO t VALUES (10, 100)").await;
    let (state, message) = client.fails("FETCH ALL c WITH (timeout = '10s')").await;
    assert_eq!((state.as_str(), message.contains("other columns")), ("55000", true), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_holds_the_old_view_is_told() {
    let (database, mut client) = database().await;
    let mut other = database.connect();
    client.run("BEGIN").await;
    assert_eq!(client.run("SELECT s FROM above").await, "50");
    other.run("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, -n AS n FROM t").await;
    assert_eq!(client.fails("SELECT s FROM above").await.0, "40001");
    client.run("ROLLBACK; BEGIN").await;
    assert_eq!(client.run("SELECT s FROM above").await, "-50");
}
