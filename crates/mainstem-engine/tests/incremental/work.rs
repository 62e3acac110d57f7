//! No operator recomputes its input: with ten times the state the same delta touches hardly more rows.

use arrow::datatypes::DataType;
use datafusion::logical_expr::Operator as Op;
use mainstem_engine::Delta;
use mainstem_engine::incremental::Circuit;
use mainstem_sql::{AggregateFunction, Graph, JoinKind, Operator};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::graphs::{GraphBuilder, aggregate, ascending, binary, column, number};
use super::tables::column as of;
use super::tables::{self, LEFT, RIGHT};
use crate::stock::Spilled;

fn graphs() -> Vec<(&'static str, Graph)> {
    let mut all = Vec::new();
    let mut add = |name, build: &dyn Fn(&mut GraphBuilder)| {
        let mut graph = GraphBuilder::new();
        build(&mut graph);
        all.push((name, graph.build()));
    };
    add("filter and project", &|graph| {
        let input = graph.input(LEFT);
        let filtered = graph.filter(input, binary(column(of::ID), Op::GtEq, number(0)));
        graph.columns(filtered, &[of::ID]);
    });
    add("many groups", &|graph| {
        let input = graph.input(LEFT);
        let max = aggregate(AggregateFunction::Max, Some(column(of::VALUE)), DataType::Int64);
        graph.aggregate(input, &[of::ID], vec![max]);
    });
    add("one group with all ordered aggregates", &|graph| {
        let input = graph.input(LEFT);
        let mut distinct = aggregate(AggregateFunction::Count, Some(column(of::ID)), DataType::Int64);
        distinct.distinct = true;
        let aggregates = vec![
            aggregate(AggregateFunction::Min, Some(column(of::ID)), DataType::Int64),
            aggregate(AggregateFunction::Median, Some(column(of::ID)), DataType::Int64),
            aggregate(AggregateFunction::Sum, Some(column(of::ID)), DataType::Int64),
            distinct,
        ];
        graph.aggregate(input, &[], aggregates);
    });
    for kind in [JoinKind::Inner, JoinKind::Left, JoinKind::Full, JoinKind::Semi] {
        add("join", &move |graph| {
            let (left, right) = (graph.input(LEFT), graph.input(RIGHT));
            graph.join(kind, [left, right], &[(of::ID, of::ID)], false, None);
        });
    }
    add("join in time, all rows under one key", &|graph| {
        let (left, right) = (graph.input(LEFT), graph.input(RIGHT));
        graph.as_of([left, right], of::ID);
    });
    add("distinct", &|graph| {
        let input = graph.input(LEFT);
        graph.same_shape(Operator::Distinct, vec![input]);
    });
    for (limit, offset) in [(Some(10), 0), (Some(1_000_000), 0), (Some(50), 200)] {
        add("top n", &move |graph| {
            let input = graph.input(LEFT);
            graph.top(input, vec![ascending(of::ID)], limit, offset);
        });
    }
    add("first rows of a partition", &|graph| {
        let input = graph.input(LEFT);
        graph.numbered(input, vec![ascending(of::ID)], Some(10));
    });
    all
}

/// `state` rows, and a few that change.
fn content_and_change(state: i64) -> (Delta, Delta) {
    let mut random = SmallRng::seed_from_u64(11);
    let mut rows = |ids: std::ops::Range<i64>| {
        let rows: Vec<_> = ids
            .map(|id| {
                let mut row = tables::row(&mut random, 1);
                row.id = id;
                row
            })
            .collect();
        Delta::from_inserts(tables::batch(&rows))
    };
    let content = rows(0..state);
    (content, rows(-10..10))
}

/// Rows touched by the same small change on top of `state` rows in each relation.
fn touched(graph: &Graph, state: i64) -> Vec<u64> {
    let mut circuit = Circuit::new(graph).unwrap();
    let (content, change) = content_and_change(state);
    for relation in [LEFT, RIGHT] {
        circuit.push(relation, &content);
    }
    circuit.finish_version(None);
    let before = circuit.operator_stats();
    for relation in [LEFT, RIGHT] {
        circuit.push(relation, &change);
        circuit.push(relation, &content.slice(20, 10).negate());
    }
    assert!(!circuit.finish_version(None).output.is_empty());
    let after = circuit.operator_stats();
    after.iter().zip(&before).map(|(after, before)| after.rows_touched - before.rows_touched).collect()
}

#[test]
fn with_ten_times_the_state_the_same_change_touches_no_more_rows() {
    for (name, graph) in graphs() {
        let (small, large) = (touched(&graph, 500), touched(&graph, 5_000));
        println!("{name}: {small:?} rows by operator, with ten times the state {large:?}");
        for (small, large) in small.iter().zip(&large) {
            assert!(*large as f64 <= *small as f64 * 1.5 + 2.0, "{name}: {small} rows, then {large}");
        }
    }
}

/// Bytes that a checkpoint after the same small change writes, and units of state that are loaded for it after a restart.
fn written(graph: &Graph, state: i64) -> (u64, u64) {
    let mut circuit = Circuit::new(graph).unwrap();
    let mut spilled = Spilled::attach(&mut circuit, 1 << 30);
    let (content, change) = content_and_change(state);
    for relation in [LEFT, RIGHT] {
        circuit.push(relation, &content);
    }
    circuit.finish_version(None);
    let mut circuit = spilled.reopened(graph, &mut circuit);
    assert_eq!(spilled.memory().loaded_units, 0, "a restart reads no state");
    for relation in [LEFT, RIGHT] {
        circuit.push(relation, &change);
        circuit.push(relation, &content.slice(20, 10).negate());
    }
    assert!(!circuit.finish_version(None).output.is_empty());
    assert!(circuit.take_failure().is_none());
    (spilled.checkpoint(&mut circuit), spilled.memory().loaded_units)
}

#[test]
fn with_a_hundred_times_the_state_a_checkpoint_of_the_same_change_writes_the_same() {
    for (name, graph) in graphs() {
        let ((small, few), (large, many)) = (written(&graph, 200), written(&graph, 20_000));
        println!(
            "{name}: {small} bytes, {few} units loaded; with a hundred times the state {large} bytes, {many} units"
        );
        assert!(large as f64 <= small as f64 * 1.1 + 16.0, "{name}: {small} bytes, then {large}");
        // What is in an order without groups is loaded as a whole, once.
        let is_whole = name.starts_with("top n") || name.starts_with("one group") || name.starts_with("first rows");
        assert!(many <= few || is_whole, "{name}: {few} units, then {many}");
    }
}
