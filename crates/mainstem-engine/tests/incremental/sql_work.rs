//! What a small change costs in views of one large partition, or one hot key: no more when it is a hundred times as large.

use mainstem_engine::Delta;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::sql_programs::{catalog, full};
use super::tables::{self, LEFT, RIGHT};
use crate::stock::View;

/// Rows that come at the end of the order touch what their functions look at.
const APPENDED: [&str; 12] = [
    "row_number() OVER (ORDER BY a.ts)",
    "rank() OVER (ORDER BY a.ts)",
    "lag(a.v) OVER (ORDER BY a.ts)",
    "lead(a.v, 2) OVER (ORDER BY a.ts)",
    "sum(a.v) OVER (ORDER BY a.ts ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)",
    "avg(a.f) OVER (ORDER BY a.ts RANGE BETWEEN INTERVAL '5 seconds' PRECEDING AND CURRENT ROW)",
    "sum(a.v) OVER (ORDER BY a.ts)",
    "count(*) OVER (ORDER BY a.ts)",
    "min(a.v) OVER (ORDER BY a.ts ROWS UNBOUNDED PRECEDING)",
    "max(a.v) OVER (ORDER BY a.ts)",
    "first_value(a.v) OVER (ORDER BY a.ts)",
    "last_value(a.s) OVER (ORDER BY a.ts)",
];

/// Joins of rows that all have one key, by ranges.
const JOINED: [&str; 3] = [
    "JOIN u AS b ON a.s = b.s AND b.ts BETWEEN a.ts - INTERVAL '2 seconds' AND a.ts",
    "FULL JOIN u AS b ON a.s = b.s AND a.ts > b.ts AND a.ts < b.ts + INTERVAL '3 seconds'",
    "LEFT ASOF JOIN u AS b ON a.s = b.s AND a.ts >= b.ts",
];

/// A row a second.
fn rows(seconds: std::ops::Range<i64>) -> Delta {
    let mut random = SmallRng::seed_from_u64(3);
    let row = |second: i64| {
        let mut row = tables::row(&mut random, 10);
        (row.time, row.text) = (Some(second * 1_000_000), Some("a"));
        row
    };
    let rows: Vec<_> = seconds.map(row).collect();
    Delta::from_inserts(full(&tables::batch(&rows)))
}

/// What ten rows at the end cost on top of `state` others. They come after some that a restart may have made expensive.
fn touched(text: &str, state: i64) -> u64 {
    let mut view = View::plan(&catalog(), text, &[]).unwrap_or_else(|reason| panic!("{text}: {reason}"));
    for from in (0..state).step_by(1_000) {
        for relation in [LEFT, RIGHT] {
            view.push(relation, &rows(from..(from + 1_000).min(state)));
        }
        view.finish_version().unwrap();
    }
    let before = view.rows_touched();
    for relation in [LEFT, RIGHT] {
        view.push(relation, &rows(state..state + 10));
    }
    view.finish_version().unwrap();
    assert!(view.content().len() as i64 > state / 2, "{text}");
    view.rows_touched() - before
}

#[test]
fn rows_at_the_end_of_a_partition_a_hundred_times_as_large_cost_no_more() {
    for function in APPENDED {
        let text = format!("SELECT a.id, a.ts, {function} AS x FROM t AS a");
        let (small, large) = (touched(&text, 200), touched(&text, 20_000));
        println!("{function}: {small} rows, with a hundred times the state {large}");
        assert!(large <= small + 150, "{function}: {small} rows, then {large}");
    }
}

#[test]
fn a_range_under_a_hot_key_a_hundred_times_as_hot_costs_no_more() {
    for join in JOINED {
        let text = format!("SELECT a.ts, b.ts AS other FROM t AS a {join}");
        let (small, large) = (touched(&text, 200), touched(&text, 20_000));
        println!("{join}: {small} rows, with a hundred times the state {large}");
        assert!(large <= small + 20, "{join}: {small} rows, then {large}");
    }
}
