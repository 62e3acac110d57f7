//! The oracle: the graph as DataFusion's stock logical plan over the content of the tables; and the comparison of a circuit
//! with it at every version. Only sums and averages of floats are not the stock ones, see `exact`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use datafusion::common::{Column, NullEquality};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::SessionStateBuilder;
use datafusion::functions::math::expr_fn::isnan;
use datafusion::functions_aggregate as functions;
use datafusion::logical_expr::expr::{AggregateFunction as Call, Sort};
use datafusion::logical_expr::{AggregateUDF, Expr, JoinType, LogicalPlan, LogicalPlanBuilder, col, lit, when};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionContext;
use mainstem_catalog::RelationId;
use mainstem_engine::Delta;
use mainstem_engine::delta::canonical_floats;
use mainstem_engine::incremental::{Circuit, Shards, VersionOutput};
use mainstem_sql::{Aggregate, AggregateFunction, Graph, JoinKind, Node, Operator, OperatorId, Scalar};
use rand::Rng;
use rand::rngs::SmallRng;

use super::exact::float_sum;
use super::tables::{LEFT, RIGHT, Table, sliced};
use crate::stock::Spilled;

fn name(id: OperatorId, index: usize) -> String {
    format!("n{}_{index}", id.0)
}

fn expr(scalar: &Scalar, input: OperatorId) -> Expr {
    scalar.to_expr(&|index| Column::new_unqualified(name(input, index))).unwrap()
}

fn function(function: &AggregateFunction) -> Arc<AggregateUDF> {
    match function {
        AggregateFunction::Count => functions::count::count_udaf(),
        AggregateFunction::Sum => functions::sum::sum_udaf(),
        AggregateFunction::Avg => functions::average::avg_udaf(),
        AggregateFunction::Min => functions::min_max::min_udaf(),
        AggregateFunction::Max => functions::min_max::max_udaf(),
        AggregateFunction::PercentileCont { .. } => functions::percentile_cont::percentile_cont_udaf(),
        AggregateFunction::Median => functions::median::median_udaf(),
        AggregateFunction::BoolAnd => functions::bool_and_or::bool_and_udaf(),
        AggregateFunction::BoolOr => functions::bool_and_or::bool_or_udaf(),
        AggregateFunction::BitAnd => functions::bit_and_or_xor::bit_and_udaf(),
        AggregateFunction::BitOr => functions::bit_and_or_xor::bit_or_udaf(),
        AggregateFunction::BitXor => functions::bit_and_or_xor::bit_xor_udaf(),
        other => panic!("random graphs do without {}; random queries have it", other.name()),
    }
}

fn call(aggregate: &Aggregate, input: OperatorId) -> Expr {
    let mut arguments: Vec<Expr> = aggregate.arguments.iter().map(|argument| expr(argument, input)).collect();
    match &aggregate.function {
        AggregateFunction::Count if arguments.is_empty() => arguments.push(lit(1_i64)),
        AggregateFunction::PercentileCont { fraction_bits } => arguments.push(lit(f64::from_bits(*fraction_bits))),
        _ => {}
    }
    let filter = aggregate.filter.as_ref().map(|filter| Box::new(expr(filter, input)));
    let udaf = match (&aggregate.function, aggregate.result.as_str()) {
        (AggregateFunction::Sum, "Float64") => float_sum(false),
        (AggregateFunction::Avg, "Float64") => float_sum(true),
        (other, _) => function(other),
    };
    Expr::AggregateFunction(Call::new_udf(udaf, arguments, aggregate.distinct, filter, Vec::new(), None))
}

/// The plan with its columns renamed to the node's, and with canonical floats: the processor's sum of infinities of both
/// signs is a NaN that sorts below all numbers, ours is the one NaN above them.
fn renamed(plan: LogicalPlan, id: OperatorId) -> LogicalPlan {
    let canonical = |(index, column): (usize, Column)| {
        let is_float = plan.schema().field(index).data_type() == &DataType::Float64;
        let value = Expr::Column(column);
        let value = match is_float {
            true => when(isnan(value.clone()), lit(f64::NAN)).otherwise(value + lit(0.0)).unwrap(),
            false => value,
        };
        value.alias(name(id, index))
    };
    let columns: Vec<Expr> = plan.schema().columns().into_iter().enumerate().map(canonical).collect();
    LogicalPlanBuilder::from(plan).project(columns).unwrap().build().unwrap()
}

fn plan(node: &Node, plans: &[LogicalPlan], tables: &HashMap<RelationId, RecordBatch>) -> LogicalPlan {
    let input = |port: usize| plans[node.inputs[port].0 as usize].clone();
    let from = |port: usize| LogicalPlanBuilder::from(input(port));
    let of = node.inputs.first().copied();
    let built = match &node.operator {
        Operator::Input { relation, columns } => {
            let rows = canonical_floats(&tables[relation]);
            let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
            let table = provider_as_source(Arc::new(table));
            LogicalPlanBuilder::scan(format!("t{}", node.id.0), table, Some(columns.clone())).unwrap()
        }
        Operator::Filter { predicate } => from(0).filter(expr(predicate, of.unwrap())).unwrap(),
        Operator::Project { expressions } => {
            let expressions = expressions.iter().enumerate();
            let named = expressions.map(|(place, scalar)| expr(scalar, of.unwrap()).alias(format!("p{place}")));
            from(0).project(named).unwrap()
        }
        Operator::Aggregate { group, aggregates } => {
            let group = group.iter().map(|scalar| expr(scalar, of.unwrap()));
            let calls = aggregates.iter().enumerate();
            from(0)
                .aggregate(group, calls.map(|(place, one)| call(one, of.unwrap()).alias(format!("a{place}"))))
                .unwrap()
        }
        Operator::Join { kind, on, null_equals_null, filter, .. } => {
            let kind = match kind {
                JoinKind::Inner => JoinType::Inner,
                JoinKind::Left => JoinType::Left,
                JoinKind::Full => JoinType::Full,
                JoinKind::Semi => JoinType::LeftSemi,
                JoinKind::Anti => JoinType::LeftAnti,
            };
            let key = |scalar: &Scalar, port: usize| match scalar {
                Scalar::Column(index) => Column::new_unqualified(name(node.inputs[port], *index)),
                other => unreachable!("tests join on columns, not {other:?}"),
            };
            let left: Vec<Column> = on.iter().map(|pair| key(&pair.0, 0)).collect();
            let right: Vec<Column> = on.iter().map(|pair| key(&pair.1, 1)).collect();
            let width = plans[node.inputs[0].0 as usize].schema().fields().len();
            let side = |index: usize| match index < width {
                true => Column::new_unqualified(name(node.inputs[0], index)),
                false => Column::new_unqualified(name(node.inputs[1], index - width)),
            };
            let filter = filter.as_ref().map(|filter| filter.to_expr(&side).unwrap());
            let nulls = match null_equals_null {
                true => NullEquality::NullEqualsNull,
                false => NullEquality::NullEqualsNothing,
            };
            from(0).join_detailed(input(1), kind, (left, right), filter, nulls).unwrap()
        }
        Operator::Union => {
            let first = from(0);
            (1..node.inputs.len()).fold(first, |all, port| all.union(renamed(input(port), node.inputs[0])).unwrap())
        }
        Operator::Distinct => from(0).distinct().unwrap(),
        Operator::TopN { keys, limit, offset } => {
            let id = of.unwrap();
            let key =
                |key: &mainstem_sql::SortKey| Sort::new(expr(&key.expression, id), !key.descending, key.nulls_first);
            let mut sort: Vec<Sort> = keys.iter().map(key).collect();
            sort.extend((0..node.schema.len()).map(|index| col(name(id, index)).sort(true, true)));
            from(0).sort(sort).unwrap().limit(*offset as usize, limit.map(|limit| limit as usize)).unwrap()
        }
        other => unreachable!("the oracle has no {other:?}"),
    };
    renamed(built.build().unwrap(), node.id)
}

/// DataFusion without the rule `aggregate_statistics`: version 54 fails in it on a plan whose aggregates without groups are
/// equal ("references column 'a1' ... but input schema only has 1 columns").
fn context() -> SessionContext {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.retain(|rule| rule.name() != "aggregate_statistics");
    let state = SessionStateBuilder::new().with_default_features().with_physical_optimizer_rules(rules).build();
    SessionContext::new_with_state(state)
}

/// What DataFusion answers to the graph over the tables.
pub(crate) async fn batch(graph: &Graph, tables: &HashMap<RelationId, RecordBatch>) -> Delta {
    let mut plans = Vec::new();
    for node in &graph.nodes {
        plans.push(plan(node, &plans, tables));
    }
    let answer = plans.swap_remove(graph.output.0 as usize);
    let frames = context().execute_logical_plan(answer).await.unwrap().collect().await.unwrap();
    let schema = graph.output_schema().unwrap();
    let rows: Vec<Delta> = frames.into_iter().map(|rows| Delta::from_inserts(rows).with_schema(&schema)).collect();
    Delta::consolidate(&schema, &rows)
}

/// Runs random changes through a circuit and the oracle. Gives the first difference.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) versions: usize,
    pub(crate) changes: usize,
    pub(crate) retractions: f64,
    pub(crate) breaks: Option<OperatorId>,
}

/// What a comparison saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) rows: usize,
    pub(crate) retracted: usize,
    pub(crate) changed: usize,
}

impl Comparison {
    pub(crate) async fn run(&self, graph: &Graph, random: &mut SmallRng) -> Result<Seen, String> {
        let mut circuit = Circuit::with_shards(graph, shards(random.random_range(0..6))).unwrap();
        if let Some(id) = self.breaks {
            circuit.break_operator(id);
        }
        // Most run with all of their state out of memory between versions.
        let mut spilled = random.random_bool(0.6).then(|| Spilled::attach(&mut circuit, 0));
        let mut tables = [(LEFT, Table::default()), (RIGHT, Table::default())];
        let schema = graph.output_schema().unwrap();
        let mut content = Delta::empty(&schema);
        let mut seen = Seen::default();
        for version in 0..self.versions {
            let mut slices = Vec::new();
            for (relation, table) in &mut tables {
                let changes = random.random_range(0..=self.changes);
                let delta = table.change(random, changes, self.retractions);
                seen.changed += delta.len();
                seen.retracted += delta.weights.iter().filter(|weight| **weight < 0).count();
                slices.extend(sliced(random, &delta).into_iter().map(|slice| (*relation, slice)));
            }
            for (relation, slice) in slices {
                circuit.push(relation, &slice);
            }
            let VersionOutput { output, errors, .. } = circuit.finish_version(None);
            if let Some(spilled) = &mut spilled {
                spilled.after_version(&mut circuit);
            }
            if !errors.is_empty() {
                return Err(format!("version {version}: errors {errors:?}"));
            }
            content = Delta::consolidate(&schema, &[content, output]);
            let tables = tables.iter().map(|(relation, table)| (*relation, table.content())).collect();
            let expected = batch(graph, &tables).await;
            if content.weights != expected.weights || content.rows != expected.rows {
                return Err(difference(version, &content, &expected));
            }
            seen.rows += content.len();
            if random.random_bool(0.3) && self.breaks.is_none() {
                circuit = match &mut spilled {
                    Some(spilled) => spilled.reopened(graph, &mut circuit),
                    None => reopened(graph, &circuit),
                };
            }
        }
        Ok(seen)
    }
}

/// One, two or three shards, that run in parallel for each row or never.
pub(crate) fn shards(number: u64) -> Shards {
    Shards { count: 1 + (number % 3) as usize, parallel_rows: if number % 2 == 0 { 1 } else { usize::MAX } }
}

/// The circuit saved and restored, with another number of shards.
pub(crate) fn reopened(graph: &Graph, circuit: &Circuit) -> Circuit {
    let mut sections: Vec<(OperatorId, Vec<u8>)> = Vec::new();
    circuit.save(&mut |id, bytes| sections.push((id, bytes.to_vec())));
    let restored = Circuit::restore_with_shards(graph, shards(circuit.state_rows()), sections).unwrap();
    assert_eq!(restored.state_rows(), circuit.state_rows(), "restoring keeps every row of state");
    restored
}

fn difference(version: usize, content: &Delta, expected: &Delta) -> String {
    let extra = Delta::consolidate(&content.schema(), &[content.clone(), expected.negate()]);
    let rows = arrow::util::pretty::pretty_format_batches(std::slice::from_ref(&extra.rows)).unwrap();
    format!("version {version}: circuit minus oracle, weights {:?}\n{rows}", extra.weights)
}
