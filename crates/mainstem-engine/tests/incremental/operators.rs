//! Each operator by itself, and what the oracle cannot say: errors, late rows, closed windows, lists, constants.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator as Op;
use mainstem_engine::Delta;
use mainstem_engine::incremental::{Circuit, LATE_COLUMN};
use mainstem_sql::{AggregateFunction, Graph, JoinKind, Literal, Operator, OperatorId};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::graphs::{GraphBuilder, aggregate, ascending, binary, cast, column, number};
use super::oracle::{Comparison, reopened};
use super::seeds;
use super::tables::column as of;
use super::tables::{self, LEFT, RIGHT, Table};

async fn check(graph: Graph) {
    for seed in seeds(15) {
        let mut random = SmallRng::seed_from_u64(seed);
        let comparison = Comparison { versions: 8, changes: 60, retractions: 0.45, breaks: None };
        let seen = comparison.run(&graph, &mut random).await;
        let seen = seen.unwrap_or_else(|difference| panic!("MAINSTEM_SEED={seed}\n{difference}"));
        assert!(seen.rows > 0, "the test compares something");
    }
}

#[tokio::test]
async fn every_aggregate_equals_the_stock_one() {
    use AggregateFunction as F;
    let float = |index| cast(column(index), &DataType::Float64);
    let stamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let half = F::PercentileCont { fraction_bits: 0.37_f64.to_bits() };
    let mut aggregates = vec![
        aggregate(F::Count, None, DataType::Int64),
        aggregate(F::Count, Some(column(of::TEXT)), DataType::Int64),
        aggregate(F::Sum, Some(column(of::VALUE)), DataType::Int64),
        aggregate(F::Sum, Some(column(of::FLOAT)), DataType::Float64),
        aggregate(F::Sum, Some(column(of::ANY_FLOAT)), DataType::Float64),
        aggregate(F::Sum, Some(column(of::DECIMAL)), DataType::Decimal128(22, 2)),
        aggregate(F::Avg, Some(float(of::VALUE)), DataType::Float64),
        aggregate(F::Avg, Some(column(of::FLOAT)), DataType::Float64),
        aggregate(F::Avg, Some(column(of::DECIMAL)), DataType::Decimal128(16, 6)),
        aggregate(F::Min, Some(column(of::FLOAT)), DataType::Float64),
        aggregate(F::Max, Some(column(of::FLOAT)), DataType::Float64),
        aggregate(F::Min, Some(column(of::TEXT)), DataType::Utf8),
        aggregate(F::Max, Some(column(of::TIME)), stamp),
        aggregate(F::Max, Some(column(of::DECIMAL)), DataType::Decimal128(12, 2)),
        aggregate(F::Min, Some(column(of::FLAG)), DataType::Boolean),
        aggregate(F::Median, Some(float(of::VALUE)), DataType::Float64),
        aggregate(F::Median, Some(column(of::FLOAT)), DataType::Float64),
        aggregate(F::Median, Some(column(of::DECIMAL)), DataType::Decimal128(12, 2)),
        aggregate(half, Some(column(of::FLOAT)), DataType::Float64),
        aggregate(F::BoolAnd, Some(column(of::FLAG)), DataType::Boolean),
        aggregate(F::BoolOr, Some(column(of::FLAG)), DataType::Boolean),
        aggregate(F::BitAnd, Some(column(of::VALUE)), DataType::Int64),
        aggregate(F::BitOr, Some(column(of::VALUE)), DataType::Int64),
        aggregate(F::BitXor, Some(column(of::VALUE)), DataType::Int64),
    ];
    let mut filtered = aggregate(F::Sum, Some(column(of::VALUE)), DataType::Int64);
    filtered.filter = Some(column(of::FLAG));
    aggregates.push(filtered);
    for group in [vec![], vec![of::KEY], vec![of::TEXT, of::FLAG], vec![of::ANY_FLOAT]] {
        let mut graph = GraphBuilder::new();
        let input = graph.input(LEFT);
        graph.aggregate(input, &group, aggregates.clone());
        check(graph.build()).await;
    }
}

#[tokio::test]
async fn distinct_aggregates_equal_the_stock_ones() {
    use AggregateFunction as F;
    for (function, index, result) in [
        (F::Count, of::TEXT, DataType::Int64),
        (F::Sum, of::VALUE, DataType::Int64),
        (F::Sum, of::DECIMAL, DataType::Decimal128(22, 2)),
        (F::Avg, of::DECIMAL, DataType::Decimal128(16, 6)),
        (F::Median, of::FLOAT, DataType::Float64),
        (F::Count, of::ANY_FLOAT, DataType::Int64),
    ] {
        for group in [vec![], vec![of::KEY]] {
            let mut graph = GraphBuilder::new();
            let input = graph.input(LEFT);
            let mut distinct = aggregate(function.clone(), Some(column(index)), result.clone());
            distinct.distinct = true;
            graph.aggregate(input, &group, vec![distinct]);
            check(graph.build()).await;
        }
    }
}

#[tokio::test]
async fn joins_of_all_kinds_equal_the_stock_ones() {
    for kind in [JoinKind::Inner, JoinKind::Left, JoinKind::Full, JoinKind::Semi, JoinKind::Anti] {
        for null_equals_null in [false, true] {
            for is_filtered in [false, true] {
                let mut graph = GraphBuilder::new();
                let left = graph.input(LEFT);
                let left = graph.columns(left, &[of::ID, of::KEY, of::TEXT]);
                let right = graph.input(RIGHT);
                let right = graph.columns(right, &[of::KEY, of::VALUE, of::TEXT]);
                let filter = is_filtered.then(|| binary(column(0), Op::Lt, column(4)));
                graph.join(kind, [left, right], &[(1, 0), (2, 2)], null_equals_null, filter);
                check(graph.build()).await;
            }
        }
    }
}

#[tokio::test]
async fn a_relation_joined_with_itself_meets_each_pair_once() {
    let mut graph = GraphBuilder::new();
    let input = graph.input(LEFT);
    let left = graph.columns(input, &[of::ID, of::KEY]);
    let right = graph.columns(input, &[of::KEY, of::VALUE]);
    graph.join(JoinKind::Left, [left, right], &[(1, 0)], false, Some(binary(column(0), Op::Gt, column(3))));
    check(graph.build()).await;
}

#[tokio::test]
async fn distinct_and_union_equal_the_stock_ones() {
    let mut graph = GraphBuilder::new();
    let (left, right) = (graph.input(LEFT), graph.input(RIGHT));
    let left = graph.columns(left, &[of::KEY, of::TEXT, of::FLOAT]);
    let right = graph.columns(right, &[of::KEY, of::TEXT, of::FLOAT]);
    let both = graph.same_shape(Operator::Union, vec![left, right, left]);
    graph.same_shape(Operator::Distinct, vec![both]);
    check(graph.build()).await;
}

#[tokio::test]
async fn top_n_equals_the_stock_sort_with_ties_broken_by_the_row() {
    for (limit, offset) in [(Some(1), 0), (Some(7), 0), (Some(5), 3), (None, 4), (Some(0), 2)] {
        let mut graph = GraphBuilder::new();
        let input = graph.input(LEFT);
        let mut keys = vec![ascending(of::VALUE), ascending(of::TEXT)];
        (keys[0].descending, keys[1].nulls_first) = (true, true);
        graph.top(input, keys, limit, offset);
        let graph = graph.build();
        let mut random = SmallRng::seed_from_u64(3);
        let comparison = Comparison { versions: 30, changes: 25, retractions: 0.5, breaks: None };
        comparison.run(&graph, &mut random).await.unwrap();
    }
}

#[test]
fn a_group_whose_sum_overflows_is_an_error_until_it_no_longer_does() {
    let mut graph = GraphBuilder::new();
    let input = graph.input(LEFT);
    let expressions = vec![
        (column(of::KEY), DataType::Int64),
        (binary(column(of::ID), Op::Multiply, number(i64::MAX / 29)), DataType::Int64),
    ];
    let large = graph.project(input, expressions);
    graph.aggregate(large, &[0], vec![aggregate(AggregateFunction::Sum, Some(column(1)), DataType::Int64)]);
    let mut circuit = Circuit::new(&graph.build()).unwrap();
    let mut row = tables::row(&mut SmallRng::seed_from_u64(1), 30);
    (row.id, row.key) = (29, Some(1));
    let one = Delta::from_inserts(tables::batch(&[row]));
    let mut finish = |deltas: &[&Delta]| {
        deltas.iter().for_each(|delta| circuit.push(LEFT, delta));
        let version = circuit.finish_version(None);
        (version.output.weights.to_vec(), version.errors)
    };
    let overflow = || "sum is out of the range of bigint".to_owned();
    assert_eq!(finish(&[&one]), (vec![1], vec![]));
    assert_eq!(finish(&[&one]), (vec![-1], vec![(overflow(), 1)]));
    assert_eq!(finish(&[&one]), (vec![], vec![]));
    assert_eq!(finish(&[&one.negate(), &one.negate()]), (vec![1], vec![(overflow(), -1)]));
}

#[test]
fn a_failing_row_is_an_error_until_it_is_taken_back() {
    let mut graph = GraphBuilder::new();
    let input = graph.input(LEFT);
    graph.project(input, vec![(binary(number(100), Op::Divide, column(of::ID)), DataType::Int64)]);
    let mut circuit = Circuit::new(&graph.build()).unwrap();
    let row = |id: i64| {
        let mut row = tables::row(&mut SmallRng::seed_from_u64(1), 30);
        row.id = id;
        row
    };
    let delta = Delta::new(tables::batch(&[row(5), row(0), row(20)]), vec![1, 2, 1]);
    circuit.push(LEFT, &delta);
    let version = circuit.finish_version(None);
    assert_eq!(version.output.rows.column(0).as_primitive::<Int64Type>().values(), &[5, 20]);
    assert_eq!(version.errors, vec![("Divide by zero error".to_owned(), 2)]);
    circuit.push(LEFT, &delta.negate());
    assert_eq!(circuit.finish_version(None).errors, vec![("Divide by zero error".to_owned(), -2)]);
}

#[test]
fn constants_and_empty_groups_are_given_once() {
    let mut graph = GraphBuilder::new();
    let literal = |value| vec![Literal::from_value(&ScalarValue::Int64(value)).unwrap()];
    let rows = vec![literal(Some(7)), literal(None), literal(Some(7))];
    let constant = graph.add(Operator::Constant { rows }, Vec::new(), &[DataType::Int64]);
    let input = graph.input(LEFT);
    let count = graph.aggregate(input, &[], vec![aggregate(AggregateFunction::Count, None, DataType::Int64)]);
    graph.same_shape(Operator::Union, vec![constant, count]);
    let graph = graph.build();
    let mut circuit = Circuit::new(&graph).unwrap();
    let first = circuit.finish_version(None).output;
    assert_eq!(first.rows.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [None, Some(0), Some(7)]);
    assert_eq!(first.weights.as_ref(), &[1, 1, 2]);
    assert!(circuit.finish_version(None).output.is_empty());
    assert!(reopened(&graph, &circuit).finish_version(None).output.is_empty());
}

#[test]
fn unnest_gives_a_row_per_item() {
    let mut graph = GraphBuilder::new();
    let list = DataType::new_list(DataType::Int64, true);
    let types = [DataType::Int64, list.clone()];
    let input = graph.add(Operator::Input { relation: LEFT, columns: vec![0, 1] }, Vec::new(), &types);
    graph.add(Operator::Unnest { column: 1 }, vec![input], &[DataType::Int64, DataType::Int64]);
    let mut circuit = Circuit::new(&graph.build()).unwrap();
    let lists = vec![Some(vec![Some(1), None, Some(1)]), None, Some(vec![]), Some(vec![Some(4)])];
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("list", list, true)]);
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let rows = RecordBatch::try_new(Arc::new(schema), vec![ids, lists]).unwrap();
    circuit.push(LEFT, &Delta::new(rows.slice(1, 3), vec![1, 1, -3]));
    circuit.push(LEFT, &Delta::new(rows.slice(0, 1), vec![2]));
    let output = circuit.finish_version(None).output;
    let items: Vec<_> = output.rows.column(1).as_primitive::<Int64Type>().iter().collect();
    assert_eq!((items, output.weights.as_ref()), (vec![None, Some(1), Some(4)], [2, 4, -3].as_slice()));
}

/// Counts per ten-second window, given when the window is closed.
fn windowed() -> Graph {
    let mut graph = GraphBuilder::new();
    let input = graph.input(LEFT);
    let in_time = graph.same_shape(Operator::DropLate {}, vec![input]);
    let stamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let micros = cast(column(of::TIME), &DataType::Int64);
    let window = binary(binary(micros, Op::Divide, number(10_000_000)), Op::Plus, number(1));
    let end = cast(binary(window, Op::Multiply, number(10_000_000)), &stamp);
    let ends = graph.project(in_time, vec![(end, stamp)]);
    let counts = graph.aggregate(ends, &[0], vec![aggregate(AggregateFunction::Count, None, DataType::Int64)]);
    graph.same_shape(Operator::EmitOnClose { window_end: 0, after_us: -1, early_us: None }, vec![counts]);
    graph.build()
}

fn marked(table: &Delta, late: &[bool]) -> Delta {
    let mut fields = table.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(LATE_COLUMN, DataType::Boolean, false)));
    let mut columns = table.rows.columns().to_vec();
    columns.push(Arc::new(BooleanArray::from(late.to_vec())));
    Delta::new(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap(), table.weights.clone())
}

#[test]
fn windows_are_given_once_when_closed_without_late_rows_and_then_forgotten() {
    for seed in seeds(20) {
        let mut random = SmallRng::seed_from_u64(seed);
        let graph = windowed();
        let mut circuit = Circuit::new(&graph).unwrap();
        let mut expected: std::collections::BTreeMap<i64, i64> = Default::default();
        let mut late_seen = 0;
        for version in 0..12_i64 {
            let before = version * 10_000_000 - 5_000_000;
            let delta = Table::default().change(&mut random, 40, 0.0);
            let times = delta.rows.column(of::TIME).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
            let late: Vec<bool> =
                (0..delta.len()).map(|row| times.is_valid(row) && times.value(row) < before).collect();
            for row in 0..delta.len() {
                // The group of rows without a time never closes.
                if !late[row] && times.is_valid(row) {
                    *expected.entry((times.value(row) / 10_000_000 + 1) * 10_000_000).or_default() +=
                        delta.weights[row];
                }
            }
            circuit.push(LEFT, &marked(&delta, &late));
            let watermark = before + 10_000_000;
            let output = circuit.finish_version(Some(watermark));
            late_seen += output.late;
            let later = expected.split_off(&(watermark + 1));
            let closed = std::mem::replace(&mut expected, later);
            let counts: Vec<i64> = output.output.rows.column(1).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(counts, closed.into_values().collect::<Vec<_>>(), "MAINSTEM_SEED={seed}");
            assert!(output.output.weights.iter().all(|weight| *weight == 1));
            circuit = reopened(&graph, &circuit);
            // Open windows in the aggregate and held ones, and the group without a time.
            assert!(circuit.state_rows() <= 2 * expected.len() as u64 + 2, "closed windows are forgotten");
        }
        assert!(late_seen > 0, "rows were late");
    }
}

#[test]
fn a_pair_that_fails_in_the_filter_is_an_error_and_no_partner() {
    let mut graph = GraphBuilder::new();
    let (left, right) = (graph.input(LEFT), graph.input(RIGHT));
    let left = graph.columns(left, &[of::KEY]);
    let right = graph.columns(right, &[of::KEY, of::ID]);
    let filter = binary(binary(number(10), Op::Divide, column(2)), Op::Gt, number(0));
    graph.join(JoinKind::Left, [left, right], &[(0, 0)], false, Some(filter));
    let graph = graph.build();
    let mut circuit = Circuit::new(&graph).unwrap();
    let row = |id: i64| {
        let mut row = tables::row(&mut SmallRng::seed_from_u64(1), 30);
        (row.id, row.key) = (id, Some(4));
        Delta::from_inserts(tables::batch(&[row]))
    };
    let error = "Divide by zero error".to_owned();
    circuit.push(LEFT, &row(1));
    circuit.push(RIGHT, &row(0));
    let version = circuit.finish_version(None);
    assert_eq!(version.errors, vec![(error.clone(), 1)]);
    assert_eq!(version.output.rows.column(2).null_count(), 1, "the left row stands alone");
    let mut circuit = reopened(&graph, &circuit);
    circuit.push(RIGHT, &row(5));
    let version = circuit.finish_version(None);
    assert_eq!((version.errors, version.output.weights.as_ref()), (vec![], [-1, 1].as_slice()));
    circuit.push(RIGHT, &row(0).negate());
    assert_eq!(circuit.finish_version(None).errors, vec![(error, -1)]);
}

#[test]
fn extremes_of_floats_order_nan_above_all_numbers() {
    let mut graph = GraphBuilder::new();
    let input = graph.input(LEFT);
    let extreme = |function| aggregate(function, Some(column(of::ANY_FLOAT)), DataType::Float64);
    graph.aggregate(input, &[], vec![extreme(AggregateFunction::Min), extreme(AggregateFunction::Max)]);
    let mut circuit = Circuit::new(&graph.build()).unwrap();
    let mut table = Table::default();
    let mut random = SmallRng::seed_from_u64(5);
    for _ in 0..40 {
        circuit.push(LEFT, &table.change(&mut random, 4, 0.5));
        let output = circuit.finish_version(None).output;
        let content = table.content();
        let values = content.column(of::ANY_FLOAT).as_primitive::<Float64Type>();
        let mut values: Vec<f64> = values.iter().flatten().map(|value| value + 0.0).collect();
        values.sort_by(f64::total_cmp);
        for row in (0..output.len()).filter(|row| output.weights[*row] > 0) {
            for (place, expected) in [values.first(), values.last()].into_iter().enumerate() {
                let column = output.rows.column(place).as_primitive::<Float64Type>();
                let found = column.is_valid(row).then(|| column.value(row).to_bits());
                assert_eq!(found, expected.map(|value| value.to_bits()));
            }
        }
    }
}

#[test]
fn state_that_is_damaged_or_of_another_graph_is_an_error() {
    let graph = windowed();
    let mut circuit = Circuit::new(&graph).unwrap();
    let delta = Table::default().change(&mut SmallRng::seed_from_u64(2), 30, 0.0);
    circuit.push(LEFT, &delta);
    circuit.finish_version(Some(0));
    let mut sections: Vec<(OperatorId, Vec<u8>)> = Vec::new();
    circuit.save(&mut |id, bytes| sections.push((id, bytes.to_vec())));
    assert!(Circuit::restore(&graph, sections.clone()).is_ok());
    for (place, (id, section)) in sections.iter().enumerate() {
        let mut broken = sections.clone();
        broken[place].1.truncate(section.len() - 1);
        assert!(Circuit::restore(&graph, broken.clone()).is_err(), "a section of operator {} that is cut", id.0);
        broken[place].1 = section.clone();
        broken[place].1[0] += 1;
        let error = Circuit::restore(&graph, broken.clone()).unwrap_err().to_string();
        assert!(error.contains("format"), "{error}");
        (broken[place].0, broken[place].1[0]) = (OperatorId(2), section[0]);
        assert!(Circuit::restore(&graph, broken).is_err(), "state of another operator");
    }
}
