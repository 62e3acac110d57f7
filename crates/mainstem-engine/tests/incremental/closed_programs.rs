//! EMIT ON WINDOW CLOSE over joins of streams, windows of windows and joins in time: what has been given equals the stock answer to
//! the same text over the rows that were not late, restricted to what is settled; and what is settled is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::SessionContext;
use mainstem_catalog::{Catalog, Column, RelationId, SqlType, Watermark};
use mainstem_engine::Delta;
use mainstem_engine::incremental::LATE_COLUMN;
use mainstem_engine::watermark::{Times, WatermarkTracker};
use mainstem_sql::arrow_schema;
use mainstem_sql::functions::own_functions;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::seeds;
use crate::stock::{View, add_source, add_table, answer, difference_text, register};

const SOURCES: [(RelationId, &str); 2] = [(RelationId(16390), "e"), (RelationId(16391), "f")];
const TABLE: RelationId = RelationId(16392);
const SECOND: i64 = 1_000_000;

/// A view: its query, and the condition that its rows, or groups, are settled at `@`.
struct Program {
    name: &'static str,
    query: &'static str,
    /// In place of `$`, which is nothing for the view.
    settled: &'static str,
}

const PROGRAMS: [Program; 17] = [
    Program {
        name: "aggregate above an interval join",
        query: "SELECT a.window_end AS x, count(*) AS n, sum(b.v) AS s FROM tumble(e, ts, INTERVAL '10 seconds') AS a \
                JOIN f AS b ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '3 seconds' \
                GROUP BY a.window_end $",
        settled: "HAVING a.window_end + INTERVAL '3 seconds' <= @",
    },
    Program {
        name: "aggregate above a left interval join",
        query: "SELECT a.window_start AS x, count(*) AS n, count(b.id) AS s FROM tumble(e, ts, INTERVAL '10 seconds') AS a \
                LEFT JOIN f AS b ON a.k = b.k AND a.ts >= b.ts - INTERVAL '4 seconds' AND a.ts < b.ts GROUP BY a.window_start $",
        settled: "HAVING a.window_start + INTERVAL '14 seconds' <= @",
    },
    Program {
        name: "aggregate above a full window join",
        query: "SELECT b.window_end AS x, count(*) AS n, count(a.id) AS s FROM tumble(e, ts, INTERVAL '10 seconds') AS a \
                FULL JOIN tumble(f, ts, INTERVAL '10 seconds') AS b ON a.k = b.k AND a.window_end = b.window_end \
                GROUP BY b.window_end $",
        settled: "HAVING b.window_end <= @",
    },
    Program {
        name: "window join of hops with both bounds",
        query: "SELECT a.window_start AS x, a.window_end AS y, count(*) AS n FROM hop(e, ts, INTERVAL '5 seconds', INTERVAL '10 seconds') AS a \
                JOIN hop(f, ts, INTERVAL '5 seconds', INTERVAL '10 seconds') AS b ON a.k = b.k AND a.window_start = b.window_start \
                AND a.window_end = b.window_end GROUP BY a.window_start, a.window_end $",
        settled: "HAVING a.window_end <= @",
    },
    Program {
        name: "count of counts",
        query: "SELECT window_end AS x, count(*) AS groups, sum(n) AS n FROM (SELECT k, window_end, count(*) AS n FROM \
                hop(e, ts, INTERVAL '5 seconds', INTERVAL '10 seconds') GROUP BY k, window_end $) AS q GROUP BY window_end",
        settled: "HAVING window_end <= @",
    },
    Program {
        name: "join of closed windows",
        query: "SELECT a.k AS k, a.window_end AS x, a.n AS n, b.n AS m FROM (SELECT k, window_end, count(*) AS n FROM \
                tumble(e, ts, INTERVAL '10 seconds') GROUP BY k, window_end $) AS a LEFT JOIN (SELECT k, window_end, count(*) AS n \
                FROM tumble(f, ts, INTERVAL '10 seconds') GROUP BY k, window_end $) AS b ON a.k = b.k AND a.window_end = b.window_end",
        settled: "HAVING window_end <= @",
    },
    Program {
        name: "rows of a full interval join",
        query: "SELECT a.id AS a, b.id AS b, a.ts AS x FROM e AS a FULL JOIN f AS b ON a.k = b.k \
                AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '3 seconds' $",
        settled: "WHERE coalesce(a.ts, b.ts) IS NOT NULL AND coalesce(a.ts + INTERVAL '3 seconds' < @, true) \
                  AND coalesce(b.ts + INTERVAL '5 seconds' < @, true)",
    },
    Program {
        name: "rows of a right window join",
        query: "SELECT a.id AS a, b.id AS b, b.window_end AS x FROM tumble(e, ts, INTERVAL '10 seconds') AS a \
                RIGHT JOIN tumble(f, ts, INTERVAL '10 seconds') AS b ON a.k = b.k AND a.window_end = b.window_end $",
        settled: "WHERE b.window_end <= @",
    },
    Program {
        name: "rows of an interval join without equality",
        query: "SELECT a.id AS a, b.id AS b FROM e AS a JOIN f AS b ON a.ts <= b.ts + INTERVAL '1 second' AND b.ts <= a.ts $",
        settled: "WHERE a.ts < @ AND b.ts + INTERVAL '1 second' < @",
    },
    Program {
        name: "rows of an ASOF join",
        query: "SELECT a.id AS a, a.ts AS x, b.v AS v FROM e AS a LEFT ASOF JOIN f AS b ON a.k = b.k AND a.ts >= b.ts $",
        settled: "WHERE a.ts < @",
    },
    Program {
        name: "aggregate above an ASOF join",
        query: "SELECT a.window_end AS x, sum(b.v) AS n FROM tumble(e, ts, INTERVAL '10 seconds') AS a \
                ASOF JOIN f AS b ON a.k = b.k AND a.ts > b.ts GROUP BY a.window_end $",
        settled: "HAVING a.window_end <= @",
    },
    Program {
        name: "aggregate above a join with a table",
        query: "SELECT a.window_end AS x, d.name AS name, count(*) AS n FROM hop(e, ts, INTERVAL '5 seconds', INTERVAL '10 seconds') AS a \
                JOIN d ON a.k = d.k GROUP BY a.window_end, d.name $",
        settled: "HAVING a.window_end <= @",
    },
    Program {
        name: "distinct keys of windows",
        query: "SELECT DISTINCT k, window_end AS x FROM tumble(e, ts, INTERVAL '10 seconds') AS a $",
        settled: "WHERE window_end <= @",
    },
    Program {
        name: "largest groups of windows",
        query: "SELECT x, k, n FROM (SELECT *, row_number() OVER (PARTITION BY x ORDER BY n DESC, k NULLS FIRST) AS r FROM \
                (SELECT window_end AS x, k, count(*) AS n FROM tumble(e, ts, INTERVAL '10 seconds') GROUP BY window_end, k $) AS q) AS w \
                WHERE r <= 2",
        settled: "HAVING window_end <= @",
    },
    Program {
        name: "numbered within windows",
        query: "SELECT x, max(r) AS n FROM (SELECT window_end AS x, row_number() OVER (PARTITION BY window_end, k ORDER BY v, id) AS r \
                FROM tumble(e, ts, INTERVAL '10 seconds')) AS w GROUP BY x $",
        settled: "HAVING x <= @",
    },
    Program {
        name: "sliding over a stream",
        query: "SELECT a.id AS a, sum(a.v) OVER (PARTITION BY a.k ORDER BY a.ts RANGE BETWEEN INTERVAL '9 seconds' PRECEDING AND \
                CURRENT ROW) AS s FROM e AS a $",
        settled: "WHERE a.ts < @",
    },
    Program {
        name: "windows of values before",
        query: "SELECT x, count(r) AS n, sum(r) AS s FROM (SELECT window_end AS x, lag(v) OVER (PARTITION BY k ORDER BY ts, id) AS r FROM \
                tumble(e, ts, INTERVAL '10 seconds')) AS w GROUP BY x $",
        settled: "HAVING x <= @",
    },
];
/// These keep the rows that they look back at.
const LOOKS_BACK: [&str; 2] = ["sliding over a stream", "windows of values before"];

impl Program {
    fn view(&self) -> String {
        self.query.replace('$', "")
    }

    /// Over the rows that were not late.
    fn stock(&self, watermark_us: i64) -> String {
        let watermark = format!("(TIMESTAMP '1970-01-01 00:00:00' + INTERVAL '{} seconds')", watermark_us / SECOND);
        let asof = |text: &str, condition: &str| {
            text.replace(
                "ASOF JOIN f AS b",
                "JOIN (SELECT *, lead(ts) OVER (PARTITION BY k ORDER BY ts) AS nx FROM (SELECT *, row_number() OVER (PARTITION BY k, ts \
                 ORDER BY id NULLS FIRST, k NULLS FIRST, v NULLS FIRST) AS rn FROM f WHERE ts IS NOT NULL) AS w WHERE rn = 1) AS b",
            )
            .replace(condition, &format!("{condition} AND (b.nx IS NULL OR a.ts {} b.nx)", if condition.contains(">=") { "<" } else { "<=" }))
        };
        let text = self.query.replace('$', self.settled).replace('@', &watermark);
        match (text.contains("ASOF"), text.contains("a.ts >= b.ts")) {
            (false, _) => text,
            (true, true) => asof(&text, "a.ts >= b.ts"),
            (true, false) => asof(&text, "a.ts > b.ts"),
        }
    }
}

fn columns() -> Vec<Column> {
    let types = [("id", SqlType::BigInt), ("k", SqlType::BigInt), ("v", SqlType::BigInt), ("ts", SqlType::Timestamp)];
    let column = |(name, sql_type): (&str, SqlType)| Column {
        name: name.to_owned(),
        sql_type,
        nullable: true,
        hidden: false,
        default: None,
    };
    types.into_iter().map(column).collect()
}

fn table_columns() -> Vec<Column> {
    let column =
        |name: &str, sql_type| Column { name: name.to_owned(), sql_type, nullable: true, hidden: false, default: None };
    vec![column("k", SqlType::BigInt), column("name", SqlType::BigInt)]
}

fn watermark(lateness_us: i64) -> Watermark {
    Watermark { lateness_us, ..Watermark::new(3, 8 * SECOND) }
}

fn catalog(lateness_us: i64) -> Catalog {
    let mut catalog = Catalog::default();
    for (id, name) in SOURCES {
        add_source(&mut catalog, id, name, columns(), watermark(lateness_us));
    }
    add_table(&mut catalog, TABLE, "d", table_columns(), vec![0]);
    catalog
}

fn names() -> RecordBatch {
    let keys: ArrayRef = Arc::new(Int64Array::from((0..4).collect::<Vec<i64>>()));
    let names: ArrayRef = Arc::new(Int64Array::from(vec![7, 8, 8, 9]));
    RecordBatch::try_new(arrow_schema(&table_columns()), vec![keys, names]).unwrap()
}

/// Two sources of two partitions, and the rows of theirs that were not late.
struct Streams {
    trackers: [WatermarkTracker; 2],
    in_time: [Vec<Delta>; 2],
    /// Of a second.
    now: i64,
    next_id: i64,
    late: usize,
}

impl Streams {
    fn new(lateness_us: i64) -> Streams {
        let tracker = || WatermarkTracker::new(&watermark(lateness_us));
        Streams { trackers: [tracker(), tracker()], in_time: [vec![], vec![]], now: 100, next_id: 0, late: 0 }
    }

    /// Some rows of a source around the time that it is, marked.
    fn rows(&mut self, random: &mut SmallRng, source: usize, count: usize, unit: i64) -> Delta {
        let partition = random.random_range(0..2);
        if !self.trackers[source].has_begun(partition) {
            self.trackers[source].begin(&[partition]);
        }
        let ids: Vec<i64> = (0..count as i64).map(|place| self.next_id + place).collect();
        self.next_id += count as i64;
        let maybe = |random: &mut SmallRng, value: i64| (!random.random_bool(0.05)).then_some(value);
        let keys: Vec<_> = ids.iter().map(|_| random.random_range(0..4)).collect();
        let keys: Vec<_> = keys.into_iter().map(|key| maybe(random, key)).collect();
        let values: Vec<_> = ids.iter().map(|_| Some(random.random_range(-5..9))).collect();
        let now = self.now;
        let times: Vec<_> = ids.iter().map(|_| (now + random.random_range(-14..6)).max(0) * unit * SECOND).collect();
        let times: Vec<_> = times.into_iter().map(|time| maybe(random, time)).collect();
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids)),
            Arc::new(Int64Array::from(keys)),
            Arc::new(Int64Array::from(values)),
            Arc::new(TimestampMicrosecondArray::from(times)),
        ];
        let schema = arrow_schema(&columns());
        let rows = RecordBatch::try_new(schema.clone(), arrays).unwrap();
        let late = self.trackers[source].observe(partition, rows.column(3), &mut |_, _| ());
        self.late += late.true_count();
        let delta = Delta::from_inserts(rows.clone());
        let not_late: BooleanArray = late.iter().map(|late| late.map(|late| !late)).collect();
        self.in_time[source].push(delta.filter(&not_late));
        let mut fields = schema.fields().to_vec();
        fields.push(Arc::new(Field::new(LATE_COLUMN, DataType::Boolean, false)));
        let marked: Vec<ArrayRef> = rows.columns().iter().cloned().chain([Arc::new(late) as ArrayRef]).collect();
        Delta::from_inserts(RecordBatch::try_new(Arc::new(Schema::new(fields)), marked).unwrap())
    }

    fn times(&self, program: &Program) -> Times {
        let of = |source: usize| (self.trackers[source].watermark_us(), self.trackers[source].horizon_us());
        let ((e, e_horizon), (f, f_horizon)) = (of(0), of(1));
        let (watermark_us, horizon_us) = match program.query.contains(" f ") || program.query.contains("(f,") {
            true => (e.min(f), e_horizon.min(f_horizon)),
            false => (e, e_horizon),
        };
        Times { watermark_us, horizon_us, now_us: None }
    }

    async fn answer(&self, text: &str, view: &View) -> Result<Delta, String> {
        let context = SessionContext::new();
        own_functions().into_iter().for_each(|function| context.register_udf(function.as_ref().clone()));
        for (source, (_, name)) in SOURCES.iter().enumerate() {
            register(&context, name, &Delta::concat(&arrow_schema(&columns()), &self.in_time[source]).rows)?;
        }
        register(&context, "d", &names())?;
        answer(&context, text, view.schema()).await
    }
}

async fn run(lateness_us: i64, program: &Program, random: &mut SmallRng) -> Result<usize, String> {
    let mut view = View::plan_on_close(&catalog(lateness_us), &program.view())?;
    if random.random_bool(0.5) {
        view.spill();
    }
    let mut streams = Streams::new(lateness_us);
    view.push(TABLE, &Delta::from_inserts(names()));
    for version in 0..8 {
        for _ in 0..random.random_range(1..5) {
            let (source, count) = (random.random_range(0..2), random.random_range(1..25));
            let rows = streams.rows(random, source, count, 1);
            view.push(SOURCES[source].0, &rows);
            streams.now += random.random_range(0..6);
        }
        let times = streams.times(program);
        let watermark_us = times.watermark_us;
        view.finish_version_at(times).map_err(|reason| format!("version {version}: {reason}"))?;
        let expected = match watermark_us {
            Some(watermark_us) => streams.answer(&program.stock(watermark_us), &view).await?,
            None => Delta::empty(view.schema()),
        };
        let extra = view.minus(&expected);
        if !extra.is_empty() {
            let text = difference_text(&extra);
            return Err(format!("version {version}, watermark {watermark_us:?}: {text}"));
        }
        if random.random_bool(0.4) {
            view.reopen();
        }
    }
    assert!(streams.late > 0 || streams.next_id < 60 || lateness_us > 0, "rows are late");
    Ok(view.content().len())
}

#[tokio::test]
async fn what_is_given_on_window_close_equals_the_stock_answer_over_settled_rows() {
    let mut given: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds(12) {
        for program in &PROGRAMS {
            let mut random = SmallRng::seed_from_u64(seed);
            // Every other time rows that come behind the watermark revise what was given.
            let lateness_us = if seed % 2 == 0 { 4 * SECOND } else { 0 };
            match run(lateness_us, program, &mut random).await {
                Ok(rows) => *given.entry(program.name).or_default() += rows,
                Err(difference) => panic!("MAINSTEM_SEED={seed} {}\n{}\n{difference}", program.name, program.query),
            }
        }
    }
    println!("rows given: {given:?}");
    assert!(given.values().all(|rows| *rows > 0), "every program gives something");
}

#[test]
fn a_month_of_hourly_windows_holds_no_more_than_a_day() {
    let catalog = catalog(0);
    for program in PROGRAMS.iter().filter(|program| !LOOKS_BACK.contains(&program.name)) {
        // Hours for seconds: a window of ten hours, a hop of five.
        let mut text = program.view().replace(" seconds'", " hours'").replace(" second'", " hour'");
        text = text
            .replace("'10 hours'", "'1 hour'")
            .replace("'5 hours', INTERVAL '1 hour'", "'30 minutes', INTERVAL '1 hour'");
        let mut view = View::plan_on_close(&catalog, &text).unwrap();
        let mut random = SmallRng::seed_from_u64(7);
        let mut streams = Streams::new(0);
        view.push(TABLE, &Delta::from_inserts(names()));
        let mut held = Vec::new();
        for _ in 0..30 * 24 {
            streams.now += 6;
            for source in 0..2 {
                // A unit of ten minutes.
                let rows = streams.rows(&mut random, source, 6, 600);
                view.push(SOURCES[source].0, &rows);
            }
            streams.in_time.iter_mut().for_each(Vec::clear);
            view.finish_version_at(streams.times(program)).unwrap();
            held.push(view.state_rows());
        }
        let (first, last) = (held[..240].iter().max().unwrap(), held[480..].iter().max().unwrap());
        println!(
            "{}: at most {first} rows in the first ten days, {last} in the last; {} given",
            program.name,
            view.content().len()
        );
        assert!(*last <= first + first / 4 + 20, "{}: {first}, then {last}", program.name);
        assert!(view.content().len() > 0, "{}", program.name);
    }
}
