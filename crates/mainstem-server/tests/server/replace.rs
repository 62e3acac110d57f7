//! CREATE OR REPLACE and ADD COLUMN across kills: whenever the process dies, what is found is the old or the new.
//!
//! `MAINSTEM_SEED` fixes when the kills come.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::process::{Server, rows};

const ROUNDS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_the_old_or_the_new() {
    let seed = std::env::var("MAINSTEM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    println!("MAINSTEM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut server = Server::start(dir.path());
    let client = server.connect().await;
    for sql in [
        "CREATE TABLE t (id int PRIMARY KEY, n int)",
        "INSERT INTO t SELECT value, value % 10 FROM generate_series(1, 20000)",
        "CREATE MATERIALIZED VIEW v AS SELECT id, n, 0 AS round FROM t",
        "CREATE VIEW p AS SELECT n, round FROM v WHERE n < 5",
        "CREATE MATERIALIZED VIEW above AS SELECT round, count(*) AS c, sum(n) AS s FROM p GROUP BY round",
    ] {
        client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    drop(client);
    let (mut round, mut columns) = (0, 0);
    for next in 1..=ROUNDS {
        let client = server.connect().await;
        let (replaces, in_background) = (random.random_bool(0.7), random.random_bool(0.5));
        if in_background {
            client.simple_query("SET background_ddl = on").await.expect("sets");
        }
        let sql = match replaces {
            true => format!("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT id, n, {next} AS round FROM t"),
            false => format!("ALTER TABLE t ADD COLUMN c{next} int DEFAULT {next}"),
        };
        let wait = Duration::from_millis(random.random_range(0..250));
        let answer = tokio::time::timeout(wait, client.simple_query(&sql)).await;
        server.kill();
        server = Server::start(dir.path());
        let client = server.connect().await;
        let check = "SELECT (SELECT min(round) FROM v), (SELECT max(round) FROM v), (SELECT count(*) FROM v), \
                     (SELECT min(round) FROM above), (SELECT sum(c) FROM above), (SELECT sum(s) FROM above), \
                     (SELECT count(*) FROM above), (SELECT count(n) FROM t)";
        let of = |round: usize| {
            vec![vec![
                round.to_string(),
                round.to_string(),
                "20000".into(),
                round.to_string(),
                "10000".into(),
                "20000".into(),
                "1".into(),
                "20000".into(),
            ]]
        };
        let found = rows(&client, check).await;
        let may_be_new = replaces.then(|| of(next));
        assert!(found == of(round) || Some(&found) == may_be_new.as_ref(), "round {next}: {found:?}");
        if replaces && !in_background && matches!(answer, Ok(Ok(_))) {
            assert_eq!(found, of(next), "it was acknowledged");
        }
        // What was begun comes to its end.
        while rows(&client, "SELECT count(*) FROM mainstem.jobs").await != [["0"]] {}
        let shown = rows(&client, "SHOW CREATE MATERIALIZED VIEW v").await[0][1].clone();
        let settled = rows(&client, check).await;
        assert!(settled == of(round) || Some(&settled) == may_be_new.as_ref(), "round {next}: {settled:?}");
        if shown.contains(&format!(" {next} AS round")) {
            round = next;
        } else if !replaces {
            let names = "SELECT count(*) FROM information_schema.columns WHERE table_name = 't'";
            let now: usize = rows(&client, names).await[0][0].parse().expect("a number");
            assert!(now == columns + 2 || now == columns + 3, "round {next}: {now} columns");
            columns = now - 2;
        }
        client.simple_query("UPDATE t SET n = n WHERE id < 100").await.expect("writes go on");
    }
}
