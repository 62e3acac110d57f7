//! Views beside their definitions.

use mainstem_engine::batch::recompute;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::tables::database::{Database, Session, lines};

const DEFINITIONS: &[&str] = &[
    "CREATE SOURCE flights (carrier VARCHAR, origin VARCHAR, delay DOUBLE PRECISION, ts TIMESTAMP, \
     WATERMARK FOR ts AS ts - INTERVAL '10 minutes') WITH (topic = 'flights') FORMAT PLAIN ENCODE JSON",
    "CREATE TABLE airlines (carrier VARCHAR PRIMARY KEY, name VARCHAR)",
    "CREATE VIEW late AS SELECT * FROM flights WHERE delay > 0",
    "CREATE MATERIALIZED VIEW by_airline AS SELECT a.name, count(*) AS n, avg(f.delay) AS mean, sum(f.delay) AS total, \
     max(f.delay) AS worst FROM flights f JOIN airlines a ON f.carrier = a.carrier GROUP BY a.name",
    "CREATE MATERIALIZED VIEW by_hour AS SELECT origin, window_start, count(*) AS n, avg(delay) AS mean \
     FROM tumble(late, ts, INTERVAL '1 hour') GROUP BY origin, window_start",
    "CREATE MATERIALIZED VIEW worst AS SELECT name, total FROM by_airline ORDER BY total DESC LIMIT 2",
    "CREATE MATERIALIZED VIEW closed AS SELECT window_end, carrier, count(*) AS n, sum(delay) AS total \
     FROM tumble(flights, ts, INTERVAL '30 minutes') GROUP BY window_end, carrier EMIT ON WINDOW CLOSE",
    "CREATE MATERIALIZED VIEW closed_hops AS SELECT window_start, count(*) AS n \
     FROM hop(flights, ts, INTERVAL '15 minutes', INTERVAL '30 minutes') GROUP BY window_start EMIT ON WINDOW CLOSE",
    "CREATE MATERIALIZED VIEW closed_pairs AS SELECT a.window_end, count(*) AS n, sum(b.delay) AS total \
     FROM tumble(flights, ts, INTERVAL '30 minutes') a JOIN flights b ON a.carrier = b.carrier \
     AND b.ts BETWEEN a.ts - INTERVAL '5 minutes' AND a.ts + INTERVAL '2 minutes' GROUP BY a.window_end EMIT ON WINDOW CLOSE",
    "CREATE MATERIALIZED VIEW settled AS SELECT a.origin, b.delay, b.ts FROM flights a RIGHT JOIN flights b \
     ON a.carrier = b.carrier AND a.ts < b.ts AND a.ts >= b.ts - INTERVAL '3 minutes' EMIT ON WINDOW CLOSE",
    "CREATE MATERIALIZED VIEW before AS SELECT a.origin, a.ts, b.delay FROM flights a LEFT ASOF JOIN flights b \
     ON a.carrier = b.carrier AND a.ts > b.ts EMIT ON WINDOW CLOSE",
    "CREATE MATERIALIZED VIEW at_that_time AS SELECT a.origin, a.ts, b.delay FROM late a JOIN flights \
     FOR SYSTEM_TIME AS OF a.ts AS b ON a.carrier = b.carrier",
    "CREATE MATERIALIZED VIEW closed_count AS SELECT count(*) AS windows, sum(n) AS n FROM closed",
];

const VIEWS: [&str; 10] = [
    "by_airline",
    "by_hour",
    "worst",
    "closed",
    "closed_hops",
    "closed_count",
    "closed_pairs",
    "settled",
    "before",
    "at_that_time",
];

fn flight(random: &mut SmallRng, minute: i64) -> (i32, String) {
    let minute = (minute - random.random_range(0..25)).max(0);
    let carrier = ["AA", "UA", "DL", "B6"][random.random_range(0..4)];
    let origin = ["EWR", "JFK", "LGA"][random.random_range(0..3)];
    let delay = f64::from(random.random_range(-200..2000)) / 7.0;
    let ts = format!("2013-07-01 {:02}:{:02}:00", minute / 60, minute % 60);
    let value = format!("{{\"carrier\":\"{carrier}\",\"origin\":\"{origin}\",\"delay\":{delay},\"ts\":\"{ts}\"}}");
    (random.random_range(0..2), value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_equals_its_definition_at_every_step() {
    let seed = std::env::var("MAINSTEM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(2013);
    println!("MAINSTEM_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let database = Database::new(DEFINITIONS);
    let mut session = Session::default();
    let mut filled = [0; VIEWS.len()];
    for step in 0..12_i64 {
        let records: Vec<_> = (0..40).map(|_| flight(&mut random, 30 + step * 25)).collect();
        let records: Vec<_> = records.iter().map(|(partition, value)| (*partition, value.as_str())).collect();
        database.produce("flights", &records);
        let carrier = ["AA", "UA", "DL", "B6"][random.random_range(0..4)];
        let change = match random.random_range(0..3) {
            0 => format!("DELETE FROM airlines WHERE carrier = '{carrier}'"),
            _ => format!(
                "INSERT INTO airlines VALUES ('{carrier}', 'Air {step}') \
                 ON CONFLICT (carrier) DO UPDATE SET name = excluded.name"
            ),
        };
        database.dml(&mut session, &change).await.expect("changes");
        for (view, filled) in VIEWS.iter().zip(&mut filled) {
            let comparison = database.compare(view).await;
            assert!(comparison.is_equal(), "{view} after step {step}: {comparison:#?}");
            *filled += comparison.rows;
        }
    }
    assert!(filled.iter().all(|rows| *rows > 5), "views that hold something: {filled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_is_found_and_the_past_can_be_recomputed() {
    let database = Database::new(&[
        "CREATE TABLE t (id INT PRIMARY KEY, x DOUBLE PRECISION)",
        "CREATE MATERIALIZED VIEW total AS SELECT sum(x) AS s FROM t",
    ]);
    let mut session = Session::default();
    database.dml(&mut session, "INSERT INTO t VALUES (1, 0.1), (2, 0.2)").await.expect("inserts");
    let before = session.at_least;
    database.dml(&mut session, "UPDATE t SET x = 0.3 WHERE id = 1").await.expect("updates");
    let id = database.id("total");
    let now = recompute(&database.engine, &database.catalog, id, session.at_least).await.expect("recomputes");
    let then = recompute(&database.engine, &database.catalog, id, before).await.expect("recomputes");
    assert_eq!((lines(&now), lines(&then)), (vec!["0.5".to_owned()], vec!["0.30000000000000004".to_owned()]));
    // A view that says something else than its graph does.
    let mut catalog = mainstem_catalog::Catalog::default();
    for relation in database.catalog.topics() {
        let topic = relation.as_ref().clone();
        catalog.apply(&mainstem_catalog::Event::TopicCreated { topic }).expect("new");
    }
    for relation in database.catalog.relations() {
        let mut relation = relation.as_ref().clone();
        if let mainstem_catalog::RelationKind::MaterializedView(view) = &mut relation.kind {
            view.query = "SELECT sum(x) + 0.0000000000000001 AS s FROM t".to_owned();
        }
        catalog.apply(&mainstem_catalog::Event::RelationCreated { relation: Box::new(relation) }).expect("new");
    }
    let _ = database.compare("total").await;
    let catalog = std::sync::Arc::new(catalog);
    let comparison = mainstem_engine::batch::compare_view(&database.engine, &catalog, id).await.expect("compares");
    assert_eq!(comparison.missing, ["(0.5000000000000001)"]);
    assert_eq!(comparison.extra, ["(0.5)"]);
}
