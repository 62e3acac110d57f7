//! Conditions on the time: what is shown at every tick equals the condition over all rows; what can never change again is
//! not held; a tick costs what it shows and hides; one that forgets to hide is noticed.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::logical_expr::Operator as Op;
use mainstem_engine::Delta;
use mainstem_engine::incremental::Circuit;
use mainstem_engine::watermark::Times;
use mainstem_sql::{Graph, Operator, OperatorId, TimeComparison};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::graphs::{GraphBuilder, binary, cast, column, number};
use super::oracle::reopened;
use super::tables::column as of;
use super::tables::{LEFT, Table, sliced};
use super::{seeds, shards};

const SECOND: i64 = 1_000_000;
const TEMPORAL: OperatorId = OperatorId(1);
const COMPARISONS: [TimeComparison; 4] =
    [TimeComparison::After, TimeComparison::NotBefore, TimeComparison::Before, TimeComparison::NotAfter];

/// Ids and times of rows, with how many there are.
type Content = BTreeMap<(i64, i64), i64>;

/// `SELECT id, ts FROM left WHERE ts <comparison> now()`; without steadiness the bound is the second of the minute.
fn graph(comparison: TimeComparison, is_steady: bool) -> Graph {
    let stamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let now = cast(column(0), &stamp);
    let bound = if is_steady {
        now
    } else {
        cast(binary(cast(now, &DataType::Int64), Op::Modulo, number(60 * SECOND)), &stamp)
    };
    let mut graph = GraphBuilder::new();
    let input = graph.input(LEFT);
    let value = column(of::TIME);
    graph.same_shape(Operator::Temporal { value, comparison, bound, is_steady }, vec![input]);
    graph.columns(TEMPORAL, &[of::ID, of::TIME]);
    graph.build()
}

fn add(content: &mut Content, delta: &Delta, (id, time): (usize, usize)) {
    let ids = delta.rows.column(id).as_primitive::<Int64Type>();
    let times = delta.rows.column(time).as_primitive::<TimestampMicrosecondType>();
    for row in (0..delta.len()).filter(|row| times.is_valid(*row)) {
        *content.entry((ids.value(row), times.value(row))).or_default() += delta.weights[row];
    }
    content.retain(|_, count| *count != 0);
}

/// One program: the first difference, if there is one.
fn run(seed: u64, comparison: TimeComparison, is_steady: bool, is_broken: bool) -> Result<(), String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let graph = graph(comparison, is_steady);
    let mut circuit = Circuit::with_shards(&graph, shards(seed)).expect("a circuit");
    if is_broken {
        circuit.break_operator(TEMPORAL);
    }
    let (mut table, mut all, mut shown) = (Table::default(), Content::new(), Content::new());
    let mut now_us = None;
    for version in 0..40 {
        let before_us: Option<i64> = now_us;
        if random.random_bool(0.6) {
            now_us = Some(now_us.unwrap_or(0) + random.random_range(0..6) * SECOND / 2);
        }
        let count = if random.random_bool(0.5) { random.random_range(1..20) } else { 0 };
        let delta = table.change(&mut random, count, 0.4);
        for slice in sliced(&mut random, &delta) {
            circuit.push(LEFT, &slice);
        }
        add(&mut all, &delta, (of::ID, of::TIME));
        let touched = circuit.rows_touched();
        let output = circuit.finish_version_at(Times { now_us, ..Times::default() });
        let moved: i64 = output.output.weights.iter().map(|weight| weight.abs()).sum();
        add(&mut shown, &output.output, (0, 1));
        let bound = now_us.map(|now_us| if is_steady { now_us } else { now_us % (60 * SECOND) });
        let holds = |time: i64| bound.is_some_and(|bound| comparison.holds(time, bound));
        let expected: Content = all.iter().filter(|((_, time), _)| holds(*time)).map(|(k, n)| (*k, *n)).collect();
        if shown != expected {
            return Err(format!("version {version}, now {now_us:?}: {shown:?} instead of {expected:?}"));
        }
        if is_broken {
            continue;
        }
        if count == 0 && before_us.is_some() {
            let at_bound = all.iter().filter(|((_, time), _)| [before_us, bound].contains(&Some(*time)));
            let at_bound: i64 = at_bound.map(|(_, count)| *count).sum();
            let cost = circuit.rows_touched() - touched;
            assert!(cost as i64 <= 3 * moved + at_bound, "{cost} rows touched to move {moved}");
        }
        if is_steady && bound.is_some() {
            let may_change = |time: i64| holds(time) == comparison.is_lower_bound();
            let most: i64 = all.iter().filter(|((_, time), _)| may_change(*time)).map(|(_, count)| *count).sum();
            assert!(circuit.state_rows() as i64 <= most, "{} rows held of {most}", circuit.state_rows());
        }
        if random.random_bool(0.3) {
            circuit = reopened(&graph, &circuit);
        }
    }
    Ok(())
}

#[test]
fn what_is_shown_at_every_tick_equals_the_condition_and_what_is_past_is_not_held() {
    for seed in seeds(60) {
        for comparison in COMPARISONS {
            for is_steady in [true, false] {
                if let Err(difference) = run(seed, comparison, is_steady, false) {
                    panic!("MAINSTEM_SEED={seed} {comparison:?} steady: {is_steady}: {difference}");
                }
            }
        }
    }
}

#[test]
fn a_condition_that_forgets_to_hide_is_noticed() {
    let (mut noticed, mut tried) = (0, 0);
    for seed in 1..=20 {
        for comparison in COMPARISONS {
            tried += 1;
            noticed += u32::from(run(seed, comparison, true, true).is_err());
        }
    }
    println!("{noticed} of {tried} broken conditions noticed");
    assert_eq!(noticed, tried);
}
