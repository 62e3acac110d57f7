//! ALTER: columns that are added, names that change.

use bytes::Bytes;

use crate::database::{Client, Database};

async fn client() -> Client {
    let mut client = Database::new().connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    client.run("INSERT INTO t VALUES (1, 10), (2, 20)").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_get_the_default_or_null() {
    let mut client = client().await;
    assert_eq!(client.run("ALTER TABLE t ADD COLUMN s VARCHAR DEFAULT 'none, ' || 'yet'").await, "ALTER TABLE");
    assert_eq!(client.run("ALTER TABLE t ADD at TIMESTAMP").await, "ALTER TABLE");
    client.run("ALTER TABLE t ADD COLUMN IF NOT EXISTS m NUMERIC(6,2) NOT NULL DEFAULT 1.5").await;
    client.run("ALTER TABLE t ADD COLUMN IF NOT EXISTS m INT").await;
    client.run("ALTER TABLE IF EXISTS nowhere ADD COLUMN m INT").await;
    assert_eq!(client.run("SELECT * FROM t ORDER BY id").await, "1|10|none, yet|null|1.50\n2|20|none, yet|null|1.50");
    client.run("INSERT INTO t (id) VALUES (3)").await;
    client.run("INSERT INTO t VALUES (4, 40, NULL, '2024-01-02 03:04:05', 2)").await;
    client.run("UPDATE t SET n = n + 1 WHERE id <= 2").await;
    client.run("DELETE FROM t WHERE id = 2").await;
    let rows = "1|11|none, yet|null|1.50\n3|null|none, yet|null|1.50\n4|40|null|2024-01-02 03:04:05|2.00";
    assert_eq!(client.run("SELECT * FROM t ORDER BY id").await, rows);
    let columns = "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 't' \
                   ORDER BY ordinal_position";
    let expected =
        "id|integer|NO\nn|integer|YES\ns|character varying|YES\nat|timestamp without time zone|YES\nm|numeric|NO";
    assert_eq!(client.run(columns).await, expected);
    let text = "CREATE TABLE t (id INT PRIMARY KEY, n INT, s VARCHAR DEFAULT 'none, ' || 'yet', at TIMESTAMP, \
                m NUMERIC(6,2) NOT NULL DEFAULT 1.5)";
    assert_eq!(client.run("SHOW CREATE TABLE t").await, format!("public.t|{text}"));
    assert_eq!(client.fails("INSERT INTO t (id, m) VALUES (9, NULL)").await.0, "23502");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_key_keeps_its_rows_apart() {
    let mut client = client().await;
    client.run("CREATE TABLE log (line VARCHAR); INSERT INTO log VALUES ('a'), ('a'), ('b')").await;
    client.run("ALTER TABLE log ADD COLUMN level INT DEFAULT 3").await;
    client.run("INSERT INTO log VALUES ('a', 4)").await;
    assert_eq!(
        client.run("SELECT line, level, count(*) FROM log GROUP BY 1, 2 ORDER BY 1, 2").await,
        "a|3|2\na|4|1\nb|3|1"
    );
    assert_eq!(client.run("SELECT * FROM log WHERE line = 'b'").await, "b|3");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_keep_their_columns() {
    let mut client = client().await;
    client.run("CREATE MATERIALIZED VIEW m AS SELECT * FROM t").await;
    client.run("CREATE VIEW w AS SELECT a.*, b.* FROM t a, (SELECT 1 AS one) b").await;
    client.run("CREATE VIEW both (a, b, c, d) AS SELECT * FROM t x JOIN t y ON x.id = y.id").await;
    client.run("CREATE MATERIALIZED VIEW above AS SELECT sum(one) AS s, sum(n) AS n FROM w").await;
    client.run("ALTER TABLE t ADD COLUMN more INT DEFAULT 7").await;
    client.run("INSERT INTO t VALUES (3, 30, 8)").await;
    assert_eq!(client.run("SELECT * FROM m ORDER BY id").await, "1|10\n2|20\n3|30");
    assert_eq!(client.run("SELECT * FROM w ORDER BY id").await, "1|10|1\n2|20|1\n3|30|1");
    assert_eq!(client.run("SELECT * FROM both ORDER BY a LIMIT 1").await, "1|10|1|10");
    assert_eq!(client.run("SELECT * FROM above").await, "3|60");
    assert_eq!(client.run("SELECT more FROM t ORDER BY id").await, "7\n7\n8");
    // A new one has the new column, and what SHOW CREATE gives makes the old one.
    client.run("CREATE VIEW fresh AS SELECT * FROM t").await;
    assert_eq!(client.run("SELECT * FROM fresh WHERE id = 3").await, "3|30|8");
    let shown = client.run("SHOW CREATE MATERIALIZED VIEW m").await;
    client.run("DROP MATERIALIZED VIEW m").await;
    client.run(shown.split_once('|').expect("a name and a text").1).await;
    assert_eq!(client.run("SELECT * FROM m WHERE id = 3").await, "3|30");
    // Also in a transaction that has written, where a view is its query.
    client.run("BEGIN; INSERT INTO t VALUES (4, 40, 9)").await;
    assert_eq!(client.run("SELECT * FROM m WHERE id = 4").await, "4|40");
    assert_eq!(client.run("SELECT * FROM above").await, "4|100");
    client.run("COMMIT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_reads_a_member_that_came_later() {
    let database = Database::new();
    let mut client = database.connect();
    let topic = database.create_topic("events").await;
    let write = |values: &[&'static str]| {
        database.log.produce(topic, 0, values.iter().map(|value| Bytes::from_static(value.as_bytes())).collect())
    };
    write(&[r#"{"a":1}"#, r#"{"a":2,"b":"x"}"#]);
    client.run("CREATE SOURCE s (a INT) INCLUDE offset AS o WITH (topic = 'events') FORMAT PLAIN ENCODE JSON").await;
    client.run("CREATE MATERIALIZED VIEW m AS SELECT a, o FROM s").await;
    client.run("ALTER SOURCE s ADD COLUMN b VARCHAR").await;
    client.run("CREATE MATERIALIZED VIEW n AS SELECT a, b FROM s").await;
    write(&[r#"{"a":3,"b":"y"}"#]);
    client.run("FLUSH").await;
    assert_eq!(client.run("SELECT * FROM m ORDER BY a").await, "1|0\n2|1\n3|2");
    assert_eq!(client.run("SELECT * FROM n ORDER BY a").await, "1|null\n2|x\n3|y");
    assert_eq!(client.run("SELECT * FROM s ORDER BY a LIMIT 1").await, "1|null|0", "before what INCLUDE adds");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_added_is_refused() {
    let mut client = client().await;
    client.run("CREATE MATERIALIZED VIEW v AS SELECT n FROM t").await;
    for (sql, state) in [
        ("ALTER TABLE t ADD COLUMN n INT", "42701"),
        ("ALTER TABLE t ADD COLUMN x INT NOT NULL", "23502"),
        ("ALTER TABLE t ADD COLUMN x TIMESTAMPTZ DEFAULT now()", "42P17"),
        ("ALTER TABLE t ADD COLUMN x INT DEFAULT 'many'", "22P02"),
        ("ALTER TABLE t ADD COLUMN x INT PRIMARY KEY", "0A000"),
        ("ALTER TABLE t ADD COLUMN x INT UNIQUE", "0A000"),
        ("ALTER TABLE t ADD COLUMN x nosuchtype", "0A000"),
        ("ALTER TABLE t ADD COLUMN x INT, ADD COLUMN y INT", "0A000"),
        ("ALTER TABLE t ADD CONSTRAINT c UNIQUE (n)", "0A000"),
        ("ALTER TABLE t DROP COLUMN n", "0A000"),
        ("ALTER TABLE t ALTER COLUMN n TYPE BIGINT", "0A000"),
        ("ALTER TABLE t RENAME COLUMN n TO m", "0A000"),
        ("ALTER TABLE t OWNER TO someone", "0A000"),
        ("ALTER TABLE v ADD COLUMN x INT", "42809"),
        ("ALTER TABLE nowhere ADD COLUMN x INT", "42P01"),
        ("ALTER MATERIALIZED VIEW v ADD COLUMN x INT", "0A000"),
        ("ALTER USER root RENAME TO toor", "0A000"),
        ("BEGIN; ALTER TABLE t ADD COLUMN x INT", "25001"),
    ] {
        assert_eq!(client.fails(sql).await.0, state, "{sql}");
        if sql.starts_with("BEGIN") {
            client.run("ROLLBACK").await;
        }
    }
    assert_eq!(client.run("SELECT * FROM t ORDER BY id").await, "1|10\n2|20");
}

/// Writers go on while columns are added: what they were told is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_written_meanwhile_is_lost() {
    let database = std::sync::Arc::new(Database::new());
    let mut client = database.connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    client.run("CREATE MATERIALIZED VIEW total AS SELECT count(*) AS c, sum(n) AS s FROM t").await;
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let database = database.clone();
            tokio::spawn(async move {
                let mut client = database.connect();
                for n in 0..40 {
                    let id = writer * 1000 + n;
                    client.run(&format!("INSERT INTO t (id, n) VALUES ({id}, 1)")).await;
                    // The row that was just written is seen by the next statement, whichever table has it.
                    let twice = client.fails(&format!("INSERT INTO t (id, n) VALUES ({id}, 5)")).await;
                    assert_eq!(twice.0, "23505", "{twice:?}");
                    client.run(&format!("UPDATE t SET n = n + 1 WHERE id = {id}")).await;
                }
            })
        })
        .collect();
    for column in 0..6 {
        client.run(&format!("ALTER TABLE t ADD COLUMN c{column} INT DEFAULT {column}")).await;
    }
    for writer in writers {
        writer.await.expect("no writer fails");
    }
    assert_eq!(client.run("SELECT * FROM total").await, "120|240");
    assert_eq!(client.run("SELECT count(*), sum(n), sum(c5), min(c3) FROM t").await, "120|240|600|3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relation_has_another_name() {
    let mut client = client().await;
    client.run("CREATE VIEW w AS SELECT t.id, n FROM t WHERE n > 5").await;
    client.run("CREATE MATERIALIZED VIEW m AS WITH w2 AS (SELECT * FROM w) SELECT count(*) AS c FROM w2").await;
    assert_eq!(client.run("ALTER TABLE t RENAME TO \"Order\"").await, "ALTER TABLE");
    assert_eq!(client.run("ALTER VIEW w RENAME TO u").await, "ALTER VIEW");
    assert_eq!(client.run("ALTER MATERIALIZED VIEW m RENAME TO counted").await, "ALTER MATERIALIZED VIEW");
    client.run("INSERT INTO \"Order\" VALUES (3, 30)").await;
    assert_eq!(client.run("SELECT * FROM u ORDER BY id").await, "1|10\n2|20\n3|30");
    assert_eq!(client.run("SELECT c FROM counted").await, "3");
    assert_eq!(client.fails("SELECT * FROM t").await.0, "42P01");
    assert_eq!(
        client.run("SHOW CREATE TABLE \"Order\"").await,
        "public.Order|CREATE TABLE \"Order\" (id INT PRIMARY KEY, n INT)"
    );
    client.run("BEGIN; INSERT INTO \"Order\" VALUES (4, 40)").await;
    assert_eq!(client.run("SELECT c FROM counted").await, "4");
    client.run("ROLLBACK").await;
    for (sql, state) in [
        ("ALTER TABLE \"Order\" RENAME TO counted", "42P07"),
        ("ALTER TABLE nowhere RENAME TO x", "42P01"),
        ("ALTER VIEW counted RENAME TO x", "42809"),
    ] {
        assert_eq!(client.fails(sql).await.0, state, "{sql}");
    }
    // What SHOW CREATE gives makes them again.
    let mut texts = Vec::new();
    for (kind, name) in [("VIEW", "u"), ("MATERIALIZED VIEW", "counted")] {
        let shown = client.run(&format!("SHOW CREATE {kind} {name}")).await;
        texts.push(shown.split_once('|').expect("a name and a text").1.to_owned());
    }
    client.run("DROP VIEW u CASCADE").await;
    for text in texts {
        client.run(&text).await;
    }
    assert_eq!(client.run("SELECT c FROM counted").await, "3");
    // The old name is free.
    client.run("CREATE TABLE w (a INT); CREATE MATERIALIZED VIEW m AS SELECT a FROM w").await;
}
