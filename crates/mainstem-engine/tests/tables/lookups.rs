//! Lookups: whatever a condition says about keys and indexed columns, the rows are those of a scan, and few are read.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::database::{Database, Session};

fn seeds() -> Vec<u64> {
    match std::env::var("MAINSTEM_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=6).collect(),
    }
}

const DEFINITIONS: [&str; 5] = [
    "CREATE TABLE t (a int, b varchar, c bigint, d double precision, PRIMARY KEY (a, b))",
    "CREATE MATERIALIZED VIEW v AS SELECT b, c, count(*) AS n, max(d) AS d FROM t GROUP BY b, c",
    "CREATE INDEX t_c ON t (c, a)",
    "CREATE INDEX t_d ON t (d)",
    "CREATE INDEX v_n ON v (n, b)",
];

/// A constant for a column, sometimes none of its values.
fn constant(random: &mut SmallRng, column: &str) -> String {
    match column {
        "b" => format!("'b{}'", random.random_range(0..6)),
        "d" => format!("{}.5::double precision", random.random_range(-2..8)),
        _ => random.random_range(-1..9).to_string(),
    }
}

fn condition(random: &mut SmallRng, columns: &[&str], depth: usize) -> String {
    let column = columns[random.random_range(0..columns.len())];
    let mut one = || constant(random, column);
    let (first, second, third) = (one(), one(), one());
    match random.random_range(0..12) {
        0..3 => format!("{column} = {first}"),
        3 => format!("{column} IN ({first}, {second}, {third}, {first})"),
        4 => format!("({column} = {first} OR {column} = {second})"),
        5 => format!("{column} BETWEEN {first} AND {second}"),
        6 => {
            let operator = [">", ">=", "<", "<=", "<>"][random.random_range(0..5)];
            if random.random_bool(0.5) {
                format!("{column} {operator} {first}")
            } else {
                format!("{first} {operator} {column}")
            }
        }
        7 => format!("{column} IS NULL"),
        8 => format!("{column} NOT IN ({first}, {second})"),
        _ if depth == 0 => format!("{first} = {column}"),
        9 => format!("({} OR {})", condition(random, columns, depth - 1), condition(random, columns, depth - 1)),
        _ => format!("{} AND {}", condition(random, columns, depth - 1), condition(random, columns, depth - 1)),
    }
}

async fn change(random: &mut SmallRng, database: &Database, session: &mut Session) {
    let (a, b, c) = (constant(random, "a"), constant(random, "b"), random.random_range(0..8));
    let sql = match random.random_range(0..4) {
        0 => format!("DELETE FROM t WHERE a = {a} AND b = {b}"),
        1 => format!("UPDATE t SET c = {c} WHERE a = {a}"),
        2 => format!("INSERT INTO t VALUES ({a}, {b}, NULL, NULL) ON CONFLICT (a, b) DO UPDATE SET c = NULL, d = NULL"),
        _ => format!(
            "INSERT INTO t VALUES ({a}, {b}, {c}, {c}.5) ON CONFLICT (a, b) DO UPDATE SET c = excluded.c, d = -0.0"
        ),
    };
    database.dml(session, &sql).await.expect(&sql);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_gives_the_rows_of_a_scan() {
    for seed in seeds() {
        println!("MAINSTEM_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let database = Database::new(&DEFINITIONS);
        let mut session = Session::default();
        for step in 0..150 {
            change(&mut random, &database, &mut session).await;
            if step % 30 == 20 {
                database.begin(&mut session);
            }
            let (relation, columns): (_, &[&str]) =
                if random.random_bool(0.6) { ("t", &["a", "b", "c", "d"]) } else { ("v", &["b", "c", "n", "d"]) };
            // A view of a transaction's own writes is its query, without indexes.
            let conditions = condition(&mut random, columns, 2);
            let found = format!("SELECT * FROM {relation} WHERE {conditions}");
            // The same, of a form that no lookup understands.
            let scanned = format!("SELECT * FROM {relation} WHERE coalesce({conditions}, false)");
            let mut found = database.select(&mut session, &found).await.expect(&found);
            let mut scanned = database.select(&mut session, &scanned).await.expect(&scanned);
            found.sort();
            scanned.sort();
            assert_eq!(found, scanned, "{relation}: {conditions}");
            if step % 30 == 28 {
                database.commit(&mut session).await.expect("nobody else writes");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_reads_what_it_wants_however_many_rows_there_are() {
    let database = Database::new(&[
        "CREATE TABLE t (id int PRIMARY KEY, kind int, size bigint)",
        "CREATE MATERIALIZED VIEW v AS SELECT kind, size, count(*) AS n FROM t GROUP BY kind, size",
        "CREATE INDEX t_kind ON t (kind, size)",
        "CREATE INDEX v_size ON v (size)",
    ]);
    let mut session = Session::default();
    let insert = "INSERT INTO t SELECT n::int, (n % 1000)::int, n / 7 FROM generate_series(1, 20000) AS s(n)";
    database.dml(&mut session, insert).await.expect("inserts");
    for (sql, rows) in [
        ("SELECT * FROM t WHERE id = 77", 1),
        ("SELECT * FROM t WHERE id IN (1, 2, 3, 4, 5)", 5),
        ("SELECT * FROM t WHERE id > 19990", 10),
        ("SELECT * FROM t WHERE kind = 7", 20),
        ("SELECT * FROM t WHERE kind = 7 AND size = 1", 1),
        ("SELECT * FROM t WHERE kind = 7 AND size < 1000", 7),
        ("SELECT * FROM v WHERE kind = 7", 20),
        ("SELECT * FROM v WHERE size = 5", 7),
        ("SELECT * FROM v WHERE size = 5 AND kind = 36", 1),
        ("SELECT * FROM t WHERE id = 1000000", 0),
    ] {
        let before = database.engine.stats().rows_read;
        assert_eq!(database.select(&mut session, sql).await.expect(sql).len(), rows, "{sql}");
        let read = database.engine.stats().rows_read - before;
        // A bound that is open reads the row that it leaves out; a view's own order is not that of its index.
        assert!(read <= rows as u64 + 7, "{sql} read {read} rows");
    }
}
