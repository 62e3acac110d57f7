//! Event time and the clock, by random programs: late rows, idle partitions, lateness, early results, conditions on now().
//! Every view beside its definition at every step, with kills in between; and the same rows in other orders.

use mainstem_engine::{Cut, InputLog};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::incremental::seeds;
use crate::tables::database::{Database, Session};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// 2013-03-30 23:58:00 UTC: a month earlier is no time that goes evenly.
const BEGIN: i64 = 1_364_687_880 * SECOND;

const DEFINITIONS: &[&str] = &[
    "CREATE TABLE late_a (k INT, v INT, ts TIMESTAMP, late_partition INT, late_offset BIGINT, late_watermark TIMESTAMP, \
     PRIMARY KEY (late_partition, late_offset))",
    "CREATE SOURCE a (k INT, v INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds' LATE INTO late_a \
     IDLE TIMEOUT '1 s' ALLOWED LATENESS '20 s') WITH (topic = 'a') FORMAT PLAIN ENCODE JSON",
    "CREATE SOURCE b (k INT, v INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10 seconds' IDLE TIMEOUT '1 s') \
     WITH (topic = 'b') FORMAT PLAIN ENCODE JSON",
    "CREATE TABLE t (id INT PRIMARY KEY, k INT, v INT, ts TIMESTAMP)",
    "CREATE VIEW recent AS SELECT * FROM t WHERE ts > now() - INTERVAL '1 minute'",
];

/// Name and text.
const VIEWS: &[(&str, &str)] = &[
    (
        "closed",
        "SELECT window_end, k, count(*) AS n, sum(v) AS v FROM tumble(a, ts, INTERVAL '20 seconds') \
         GROUP BY window_end, k EMIT ON WINDOW CLOSE",
    ),
    (
        "hops",
        "SELECT window_start, count(*) AS n, max(v) AS v FROM hop(b, ts, INTERVAL '10 seconds', INTERVAL '30 seconds') \
         GROUP BY window_start EMIT ON WINDOW CLOSE",
    ),
    (
        "early",
        "SELECT window_end, k, count(*) AS n, min(v) AS v FROM tumble(a, ts, INTERVAL '20 seconds') \
         GROUP BY window_end, k EMIT ON WINDOW CLOSE WITH EARLY EVERY '15 seconds'",
    ),
    (
        "early_hops",
        "SELECT window_end, sum(v) AS v FROM hop(b, ts, INTERVAL '10 seconds', INTERVAL '30 seconds') WHERE v > 2 \
         GROUP BY window_end HAVING count(*) > 1 EMIT ON WINDOW CLOSE WITH EARLY EVERY INTERVAL '4' SECOND",
    ),
    (
        "both",
        "SELECT window_end, count(*) AS n FROM tumble(a, ts, INTERVAL '20 seconds') GROUP BY window_end UNION ALL \
         SELECT window_end, -count(*) AS n FROM tumble(b, ts, INTERVAL '15 seconds') GROUP BY window_end \
         EMIT ON WINDOW CLOSE",
    ),
    (
        "sliding",
        "SELECT k, v, ts, sum(v) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND \
         CURRENT ROW) AS s FROM b EMIT ON WINDOW CLOSE",
    ),
    (
        "sliding_late",
        "SELECT k, ts, count(*) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '30 seconds' PRECEDING AND \
         INTERVAL '5 seconds' PRECEDING) AS n, max(v) OVER (ORDER BY ts) AS m FROM a WHERE v > 0 EMIT ON WINDOW CLOSE",
    ),
    (
        "numbered",
        "SELECT x, max(r) AS n FROM (SELECT window_end AS x, row_number() OVER (PARTITION BY window_end, k ORDER BY v, ts) AS r FROM \
         tumble(a, ts, INTERVAL '20 seconds')) AS w GROUP BY x EMIT ON WINDOW CLOSE",
    ),
    (
        "before",
        "SELECT x, count(r) AS n FROM (SELECT window_end AS x, lag(v) OVER (PARTITION BY k ORDER BY ts) AS r FROM \
         tumble(b, ts, INTERVAL '20 seconds')) AS w GROUP BY x EMIT ON WINDOW CLOSE",
    ),
    ("above", "SELECT count(*) AS windows, sum(n) AS n FROM closed"),
    (
        "newer",
        "SELECT k, count(*) AS n, sum(v) AS v FROM t WHERE ts > now() - INTERVAL '1 minute' AND v > 0 GROUP BY k",
    ),
    ("above_newer", "SELECT sum(n) AS n, sum(v) AS v FROM newer"),
    ("of_view", "SELECT count(*) AS n FROM recent"),
    ("around", "SELECT id, v FROM t WHERE ts BETWEEN now() - INTERVAL '40 seconds' AND now() + INTERVAL '10 seconds'"),
    (
        "pairs",
        "SELECT a.k, a.v, t.id FROM a JOIN t ON a.k = t.k WHERE a.ts >= now() - INTERVAL '90 seconds' AND t.ts < now()",
    ),
    (
        "mixed",
        "SELECT a.v, t.id FROM a JOIN t ON a.k = t.k WHERE CASE WHEN t.v > 10 THEN a.ts ELSE t.ts END > now() - INTERVAL '20 seconds'",
    ),
    ("newest", "SELECT k, max(ts) AS newest FROM t GROUP BY k HAVING max(ts) > now() - INTERVAL '30 seconds'"),
    ("month", "SELECT id FROM t WHERE ts >= now() - INTERVAL '1 month'"),
    ("today", "SELECT id, v FROM t WHERE date_trunc('day', ts) = date_trunc('day', now())"),
    ("not_today", "SELECT count(*) AS n FROM t WHERE current_date > ts::date"),
    (
        "lonely",
        "SELECT id FROM t WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = t.k AND b.ts > now() - INTERVAL '40 seconds')",
    ),
    ("late_by_key", "SELECT k, count(*) AS n FROM late_a GROUP BY k"),
];

fn record(random: &mut SmallRng, ts: i64) -> String {
    let (k, v) = (random.random_range(0..5), random.random_range(-3..9));
    match random.random_range(0..30) {
        0 => format!("{{\"k\":{k},\"v\":{v},\"ts\":null}}"),
        1 => "{\"k\":".to_owned(),
        _ => format!("{{\"k\":{k},\"v\":{v},\"ts\":{ts}}}"),
    }
}

fn timestamp(ts: i64) -> String {
    format!("timestamp '2013-03-30 23:58:00' + INTERVAL '{} seconds'", (ts - BEGIN) / SECOND)
}

/// A program on its way.
struct Program {
    random: SmallRng,
    database: Database,
    session: Session,
    /// Of the events, and of the ticks.
    now: i64,
    ticked: i64,
    defined: Vec<&'static str>,
}

impl Program {
    fn new(seed: u64) -> Program {
        let database = Database::new(DEFINITIONS);
        let (now, ticked) = (BEGIN, BEGIN);
        let random = SmallRng::seed_from_u64(seed);
        Program { random, database, session: Session::default(), now, ticked, defined: Vec::new() }
    }

    fn define(&mut self) {
        let left: Vec<_> = VIEWS.iter().filter(|(name, _)| !self.defined.contains(name)).collect();
        let needs = |text: &str| {
            [("FROM closed", "closed"), ("FROM newer", "newer")]
                .iter()
                .find(|(from, _)| text.contains(from))
                .map(|(_, name)| *name)
        };
        let Some((name, text)) = left.get(self.random.random_range(0..left.len().max(1))) else { return };
        if needs(text).is_some_and(|below| !self.defined.contains(&below)) {
            return;
        }
        self.database.define(&format!("CREATE MATERIALIZED VIEW {name} AS {text}"));
        self.defined.push(name);
    }

    fn produce(&mut self) {
        for topic in ["a", "b"] {
            // Often one partition alone.
            let only = self.random.random_bool(0.5).then(|| self.random.random_range(0..2));
            let records: Vec<(i32, String)> = (0..self.random.random_range(0..12))
                .map(|_| {
                    self.now += self.random.random_range(0..2 * SECOND);
                    let ts = self.now - self.random.random_range(0..60 * SECOND);
                    (only.unwrap_or_else(|| self.random.random_range(0..2)), record(&mut self.random, ts))
                })
                .collect();
            let records: Vec<_> = records.iter().map(|(partition, value)| (*partition, value.as_str())).collect();
            self.database.produce(topic, &records);
        }
    }

    async fn change(&mut self) {
        let id = self.random.random_range(0..25);
        let ts = timestamp(self.ticked + self.random.random_range(-90 * SECOND..30 * SECOND));
        let (k, v) = (self.random.random_range(0..5), self.random.random_range(-3..60));
        let sql = match self.random.random_range(0..6) {
            0 => format!("DELETE FROM t WHERE id = {id}"),
            1 => format!("UPDATE t SET v = v + 1 WHERE k = {k}"),
            2 => format!("UPDATE t SET ts = NULL WHERE id = {id}"),
            _ => format!(
                "INSERT INTO t VALUES ({id}, {k}, {v}, {ts}) ON CONFLICT (id) DO UPDATE SET k = excluded.k, v = excluded.v, \
                 ts = excluded.ts"
            ),
        };
        self.database.dml(&mut self.session, &sql).await.expect(&sql);
    }

    fn idle(&mut self) {
        let name = ["a", "b"][self.random.random_range(0..2)];
        let partition = self.random.random_range(0..2);
        // Some come too late to mean anything.
        let offset = self.database.end_of(name, partition) - i64::from(self.random.random_bool(0.2));
        if offset > 0 {
            self.database.idle(name, partition, offset);
        }
    }

    fn tick(&mut self) {
        self.ticked += match self.random.random_range(0..20) {
            0 => self.random.random_range(0..DAY),
            _ => self.random.random_range(1..25 * SECOND),
        };
        self.database.tick(self.ticked);
    }

    async fn step(mut self, of: &str) -> Program {
        match self.random.random_range(0..100) {
            0..30 => self.produce(),
            30..50 => self.change().await,
            50..64 => self.tick(),
            64..76 => self.idle(),
            76..90 => self.define(),
            90..94 => {
                self.database.engine.checkpoint_now().expect("a checkpoint");
            }
            _ => {
                self.database = self.database.crash();
                self.session = Session::default();
            }
        }
        if self.random.random_bool(0.4) {
            self.check(of).await;
        }
        self
    }

    async fn check(&self, of: &str) {
        for view in &self.defined {
            let comparison = self.database.compare(view).await;
            assert!(comparison.is_equal(), "{of}: {view}: {comparison:#?}");
        }
    }

    /// Each late row is in the table, and was written once.
    async fn check_late(&self, of: &str) -> u64 {
        let newest = self.database.log.newest();
        assert!(self.database.engine.wait_published_blocking(newest, crate::tables::database::PATIENCE));
        let late = self.database.engine.stats().relations.get(&self.database.id("a")).map_or(0, |a| a.late);
        let newest = self.database.log.newest();
        assert!(self.database.engine.wait_published_blocking(newest, crate::tables::database::PATIENCE));
        assert_eq!(self.database.log.records(self.database.topic("late_a")).len() as u64, late, "{of}: written once");
        assert_eq!(self.database.rows("SELECT count(*) FROM late_a").await, [late.to_string()], "{of}: all there");
        let wrong = "SELECT count(*) FROM late_a WHERE ts >= late_watermark - INTERVAL '20 seconds'";
        assert_eq!(self.database.rows(wrong).await, ["0"], "{of}: late ones only");
        late
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_by_event_time_and_by_the_clock_equal_their_definitions() {
    let (mut late, mut rows) = (0, std::collections::BTreeMap::<&str, u64>::new());
    let seeds = seeds(12);
    for seed in &seeds {
        let of = format!("MAINSTEM_SEED={seed}");
        println!("{of}");
        let mut program = Program::new(*seed);
        for _ in 0..60 {
            program = program.step(&of).await;
        }
        while program.defined.len() < VIEWS.len() {
            program.define();
        }
        program.check(&of).await;
        late += program.check_late(&of).await;
        program.produce();
        program.tick();
        program.check(&of).await;
        for view in &program.defined {
            *rows.entry(view).or_default() += program.database.compare(view).await.rows;
        }
    }
    println!("{late} late rows; rows in views: {rows:?}");
    if seeds.len() > 5 {
        assert!(late > 50, "{late} late rows");
        assert!(rows.values().all(|rows| *rows > 3), "every view holds something: {rows:?}");
    }
}

/// What the views by event time hold once all their windows are closed, and how many rows were late.
async fn content(rows: &[(i64, i32, String)], in_steps: usize) -> (Vec<Vec<String>>, u64) {
    let mut database = Database::new(DEFINITIONS);
    for (name, text) in VIEWS.iter().filter(|(name, _)| ["closed", "early", "above"].contains(name)) {
        database.define(&format!("CREATE MATERIALIZED VIEW {name} AS {text}"));
    }
    // Both partitions begin: after that only the order within each counts.
    let first = format!("{{\"k\":0,\"v\":0,\"ts\":{}}}", BEGIN - 3600 * SECOND);
    database.produce("a", &[(0, &first), (1, &first)]);
    for (step, rows) in rows.chunks(in_steps).enumerate() {
        let records: Vec<_> = rows.iter().map(|(_, partition, value)| (*partition, value.as_str())).collect();
        database.produce("a", &records);
        database.tick(BEGIN + step as i64 * 7 * SECOND);
    }
    let end = format!("{{\"k\":0,\"v\":0,\"ts\":{}}}", BEGIN + 3600 * SECOND);
    let cut: Cut = database.produce("a", &[(0, &end), (1, &end)]);
    assert!(database.engine.wait_published_blocking(cut, crate::tables::database::PATIENCE));
    let late = database.engine.stats().relations[&database.id("a")].late;
    let mut all = Vec::new();
    for sql in ["SELECT * FROM closed", "SELECT * FROM early", "SELECT * FROM above"] {
        all.push(database.rows(sql).await);
    }
    (all, late)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_lateness_allowed_the_order_of_arrival_does_not_matter() {
    // Delay and lateness of the source together.
    const APART: i64 = 30 * SECOND;
    let mut differing = 0;
    for seed in seeds(4) {
        println!("MAINSTEM_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut rows: Vec<(i64, i32, String)> = (0..200)
            .map(|_| {
                let ts = BEGIN + random.random_range(0..400 * SECOND);
                let (k, v) = (random.random_range(0..5), random.random_range(-9..9));
                (ts, random.random_range(0..2), format!("{{\"k\":{k},\"v\":{v},\"ts\":{ts}}}"))
            })
            .collect();
        rows.sort();
        let in_order = content(&rows, 10).await;
        assert!(in_order.0.iter().all(|rows| !rows.is_empty()));
        for _ in 0..4 {
            let mut shuffled = rows.clone();
            shuffled.shuffle(&mut random);
            shuffled.sort_by_cached_key(|(ts, ..)| ts + random.random_range(0..APART));
            assert_ne!(shuffled, rows);
            let steps = random.random_range(1..30);
            assert_eq!(content(&shuffled, steps).await, in_order, "MAINSTEM_SEED={seed}");
        }
        assert_eq!(in_order.1, 0);
        // Beyond the lateness it does: the comparison can fail.
        let mut far = rows.clone();
        far.sort_by_cached_key(|(ts, ..)| ts + random.random_range(0..4 * APART));
        let (far, late) = content(&far, 10).await;
        assert!(late > 0, "MAINSTEM_SEED={seed}");
        differing += u32::from(far != in_order.0);
    }
    assert!(differing > 0, "rows that are late change results");
}
