//! Random statements of two sessions against a model: a map of rows.

use std::collections::BTreeMap;

use mainstem_engine::InputLog;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::database::{Database, Session};

type Model = BTreeMap<i64, i64>;

fn seeds() -> Vec<u64> {
    match std::env::var("MAINSTEM_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=8).collect(),
    }
}

/// A statement and what it does to the model; `None` when it must fail with 23505.
fn statement(random: &mut SmallRng, model: &Model) -> (String, Option<Model>) {
    let (id, other, n) = (random.random_range(0..12), random.random_range(0..12), random.random_range(-5..6));
    let mut next = model.clone();
    let known = model.contains_key(&id);
    match random.random_range(0..8) {
        0 => {
            next.insert(id, n);
            (format!("INSERT INTO t VALUES ({id}, {n})"), (!known).then_some(next))
        }
        1 => {
            next.entry(id).or_insert(n);
            next.entry(other).or_insert(n);
            (format!("INSERT INTO t VALUES ({id}, {n}), ({other}, {n}) ON CONFLICT DO NOTHING"), Some(next))
        }
        2 => {
            next.entry(id).and_modify(|old| *old += n).or_insert(n);
            let sql = format!("INSERT INTO t VALUES ({id}, {n}) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n");
            (sql, Some(next))
        }
        3 => {
            next.values_mut().filter(|value| **value < n).for_each(|value| *value += 1);
            (format!("UPDATE t SET n = n + 1 WHERE n < {n}"), Some(next))
        }
        4 => {
            // Keys move; the statement is judged as a whole.
            let moved = model.iter().map(|(id, n)| (id + 1, *n)).collect();
            ("UPDATE t SET id = id + 1".to_owned(), Some(moved))
        }
        5 => {
            let value = next.remove(&id);
            let is_taken = value.is_some() && id != other && model.contains_key(&other);
            next.extend(value.map(|value| (other, value)));
            (format!("UPDATE t SET id = {other} WHERE id = {id}"), (!is_taken).then_some(next))
        }
        6 => {
            next.remove(&id);
            (format!("DELETE FROM t WHERE id = {id}"), Some(next))
        }
        _ => {
            next.retain(|_, value| *value <= n);
            (format!("DELETE FROM t WHERE n > {n}"), Some(next))
        }
    }
}

fn rows_of(model: &Model) -> Vec<String> {
    model.iter().map(|(id, n)| format!("{id}|{n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_statements_do_what_the_model_does() {
    for seed in seeds() {
        println!("MAINSTEM_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut database = Database::new(&[
            "CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT)",
            "CREATE MATERIALIZED VIEW total AS SELECT n, count(*) AS c FROM t GROUP BY n",
        ]);
        let (mut session, mut committed) = (Session::default(), Model::new());
        let query = "SELECT * FROM t ORDER BY id";
        for _ in 0..12 {
            let mut model = committed.clone();
            let is_transaction = random.random_bool(0.5);
            if is_transaction {
                database.begin(&mut session);
            }
            for _ in 0..random.random_range(1..6) {
                let (sql, next) = statement(&mut random, &model);
                match (database.dml(&mut session, &sql).await, next) {
                    (Ok(_), Some(next)) => model = next,
                    (Err(error), None) => assert_eq!(error.sqlstate, "23505", "{sql}: {error}"),
                    (found, wanted) => panic!("{sql}: {found:?}, the model has {wanted:?}"),
                }
                assert_eq!(database.select(&mut session, query).await.expect("selects"), rows_of(&model), "{sql}");
            }
            if is_transaction && random.random_bool(0.3) {
                session.transaction = None;
                continue;
            }
            if is_transaction {
                database.commit(&mut session).await.expect("nobody else writes");
            }
            committed = model;
            if random.random_bool(0.2) {
                database = database.crash();
                session = Session { transaction: None, at_least: database.log.newest() };
            }
            assert_eq!(database.select(&mut session, query).await.expect("selects"), rows_of(&committed));
        }
        for relation in ["t", "total"] {
            let comparison = database.compare(relation).await;
            assert!(comparison.is_equal(), "{relation}: {comparison:?}");
        }
    }
}
