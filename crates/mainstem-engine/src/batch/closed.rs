//! Plans of the oracle: windows that are closed, and ties that the whole row decides.
//!
//! How long after its end a window above a join stays open, and what settles the rows of a join, the view's graph says.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result, ScalarValue, internal_err, plan_datafusion_err, plan_err};
use datafusion::logical_expr::{
    Distinct, Expr, ExprSchemable, Join, JoinType, Limit, LogicalPlan, LogicalPlanBuilder, SortExpr, Window, lit,
};
use mainstem_sql::functions::{HOP_STARTS, TUMBLE_START, WINDOW_END};
use mainstem_sql::{Graph, Operator, scalar_function, stands_for_asof};

/// What a column is to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// A list of starts, of windows of this length.
    Starts(i64),
    /// Its start, and its length.
    Start(i64),
    /// Its end.
    End,
}

/// Which windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windows {
    /// Those that are closed.
    Closed,
    /// The others.
    Open,
}

/// Above each aggregate by a window of its input, or DISTINCT of such rows, only the windows that have ended at or before the
/// watermark, as long before as the graph says, or only the others; without any of them, of the join at the top only rows that
/// are settled.
pub(super) fn windows_only(
    plan: LogicalPlan,
    which: Windows,
    watermark_us: Option<i64>,
    graph: &Graph,
) -> Result<LogicalPlan> {
    let after = graph.nodes.iter().filter_map(|node| match node.operator {
        Operator::EmitOnClose { after_us, .. } => Some(after_us),
        _ => None,
    });
    let mut after = after.fuse();
    let mut before = move || {
        let later_us = after.next().unwrap_or(-1).saturating_add(1);
        watermark_us.map(|watermark| watermark.saturating_sub(later_us))
    };
    let mut is_windowed = false;
    let closed = plan.transform_up_with_subqueries(|node| {
        let bounds = match &node {
            LogicalPlan::Window(window) => {
                let Some(time) = event_time_of(window) else { return Ok(Transformed::no(node)) };
                is_windowed = true;
                return passed_only(&node, time, before()).map(Transformed::yes);
            }
            LogicalPlan::Aggregate(aggregate) => {
                aggregate.group_expr.iter().map(|group| bound_of(group, &aggregate.input)).collect::<Vec<_>>()
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                (0..input.schema().fields().len()).map(|column| bound_of_column(input, column)).collect()
            }
            _ => return Ok(Transformed::no(node)),
        };
        let end = bounds.iter().position(|bound| *bound == Some(Bound::End));
        let start = bounds.iter().position(|bound| matches!(bound, Some(Bound::Start(_))));
        let Some(place) = end.or(start) else { return Ok(Transformed::no(node)) };
        is_windowed = true;
        let column = Expr::Column(Column::from(node.schema().qualified_field(place)));
        let end = match bounds[place] {
            Some(Bound::Start(size)) => end_of(column, size)?,
            _ => column,
        };
        let data_type = node.schema().field(place).data_type().clone();
        let is_closed = reached(end.clone(), before(), &data_type)?;
        let is_wanted = match which {
            Windows::Closed => is_closed,
            Windows::Open => end.is_not_null().and(Expr::Not(Box::new(is_closed))),
        };
        Ok(Transformed::yes(LogicalPlanBuilder::from(node).filter(is_wanted)?.build()?))
    })?;
    match is_windowed {
        true => Ok(closed.data),
        false => settled_rows(closed.data, watermark_us, graph),
    }
}

/// Whether the watermark, less what is to be waited, has reached this.
fn reached(end: Expr, watermark_us: Option<i64>, data_type: &DataType) -> Result<Expr> {
    let Some(watermark) = watermark_us else { return Ok(lit(false)) };
    let watermark = ScalarValue::TimestampMicrosecond(Some(watermark), None).cast_to(data_type)?;
    Ok(end.lt_eq(lit(watermark)))
}

/// Of the join at the top, the rows that the watermark has settled.
fn settled_rows(plan: LogicalPlan, watermark_us: Option<i64>, graph: &Graph) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::Join(join) => {
            let (end, data_type) = settled_by(&join, graph)?;
            let is_settled = reached(end, watermark_us, &data_type)?;
            LogicalPlanBuilder::from(LogicalPlan::Join(join)).filter(is_settled)?.build()?
        }
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Sort(_) => {
            let below = settled_rows(plan.inputs()[0].clone(), watermark_us, graph)?;
            plan.with_new_exprs(plan.expressions(), vec![below])?
        }
        _ => return plan_err!("EMIT ON WINDOW CLOSE needs an aggregate by a window, or a join of streams"),
    })
}

/// What the graph holds the rows of the join by, over the join's columns.
fn settled_by(join: &Join, graph: &Graph) -> Result<(Expr, DataType)> {
    let found = graph.nodes.iter().find_map(|node| {
        let Operator::EmitOnClose { window_end, .. } = node.operator else { return None };
        let held = graph.node(node.inputs[0]);
        let Operator::Project { expressions } = &held.operator else { return None };
        Some((held, expressions.get(window_end)?, window_end))
    });
    let Some((held, end, place)) = found else { return plan_err!("no rows are held until they are settled") };
    let of_graph = graph.node(held.inputs[0]);
    let width = of_graph.inputs.first().map_or(0, |first| graph.node(*first).schema.len());
    let (first, second) = match join.join_type {
        JoinType::Right => (&join.right, &join.left),
        _ => (&join.left, &join.right),
    };
    let column = |index: usize| {
        let side = if index < width { first } else { second };
        let name = of_graph.schema[index].name.as_str();
        let named = side.schema().qualified_fields_with_unqualified_name(name);
        named.first().map_or_else(|| Column::from_name(name), |field| Column::from(*field))
    };
    let end = end.to_expr(&column).map_err(|error| plan_datafusion_err!("{}", error.message))?;
    let data_type = held.schema[place].to_arrow().map_err(|error| plan_datafusion_err!("{}", error.message))?;
    Ok((end, data_type.data_type().clone()))
}

/// What functions OVER a window are ordered by first, if no aggregate stands below and they are not each within a window's bound:
/// the planner takes event time alone.
fn event_time_of(window: &Window) -> Option<Expr> {
    if stands_for_asof(window) {
        return None;
    }
    let Expr::WindowFunction(function) = window.window_expr.first()?.clone().unalias() else { return None };
    let is_aggregated = window.input.exists(|node| Ok(matches!(node, LogicalPlan::Aggregate(_)))).unwrap_or(true);
    let is_by_window = window.window_expr.iter().all(|expr| {
        let Expr::WindowFunction(function) = expr.clone().unalias() else { return false };
        let bounds = function.params.partition_by.iter().map(|key| bound_of(key, &window.input));
        bounds.flatten().any(|bound| matches!(bound, Bound::Start(_) | Bound::End))
    });
    function.params.order_by.first().filter(|_| !is_aggregated && !is_by_window).map(|key| key.expr.clone())
}

/// The functions over the rows that the watermark is above.
fn passed_only(node: &LogicalPlan, time: Expr, watermark_us: Option<i64>) -> Result<LogicalPlan> {
    let LogicalPlan::Window(window) = node else { return internal_err!("not a window") };
    let data_type = time.get_type(window.input.schema())?;
    let is_passed = reached(time, watermark_us, &data_type)?;
    let input = LogicalPlanBuilder::from(window.input.as_ref().clone()).filter(is_passed)?.build()?;
    node.with_new_exprs(node.expressions(), vec![input])
}

fn end_of(start: Expr, size: i64) -> Result<Expr> {
    match scalar_function(WINDOW_END) {
        Some(function) => Ok(function.call(vec![start, lit(size)])),
        None => internal_err!("{WINDOW_END}() is missing"),
    }
}

/// What the value of an expression over a plan is to a window.
fn bound_of(expression: &Expr, input: &LogicalPlan) -> Option<Bound> {
    match expression {
        Expr::Alias(alias) => bound_of(&alias.expr, input),
        Expr::Column(column) => bound_of_column(input, input.schema().maybe_index_of_column(column)?),
        Expr::ScalarFunction(function) => {
            let length = |place: usize| match function.args.get(place) {
                Some(Expr::Literal(ScalarValue::Int64(size), _)) => *size,
                _ => None,
            };
            match function.name() {
                TUMBLE_START => length(1).map(Bound::Start),
                HOP_STARTS => length(2).map(Bound::Starts),
                WINDOW_END => Some(Bound::End),
                _ => None,
            }
        }
        Expr::Unnest(unnest) => item_of(bound_of(&unnest.expr, input)),
        _ => None,
    }
}

fn item_of(list: Option<Bound>) -> Option<Bound> {
    match list {
        Some(Bound::Starts(size)) => Some(Bound::Start(size)),
        _ => None,
    }
}

fn bound_of_column(plan: &LogicalPlan, index: usize) -> Option<Bound> {
    match plan {
        LogicalPlan::Projection(projection) => bound_of(&projection.expr[index], &projection.input),
        LogicalPlan::SubqueryAlias(alias) => bound_of_column(&alias.input, index),
        LogicalPlan::Filter(filter) => bound_of_column(&filter.input, index),
        LogicalPlan::Sort(sort) => bound_of_column(&sort.input, index),
        LogicalPlan::Window(window) if index < window.input.schema().fields().len() => {
            bound_of_column(&window.input, index)
        }
        LogicalPlan::Limit(limit) => bound_of_column(&limit.input, index),
        LogicalPlan::Unnest(unnest) => {
            let from = *unnest.dependency_indices.get(index)?;
            let below = bound_of_column(&unnest.input, from);
            let is_item = unnest.list_type_columns.iter().any(|(column, _)| *column == from);
            if is_item { item_of(below) } else { below }
        }
        LogicalPlan::Join(join) => {
            let left = join.left.schema().fields().len();
            if index < left { bound_of_column(&join.left, index) } else { bound_of_column(&join.right, index - left) }
        }
        LogicalPlan::TableScan(scan) => {
            // A plain view stands for its plan.
            let plan = scan.source.get_logical_plan()?;
            let index = scan.projection.as_ref().map_or(Some(index), |columns| columns.get(index).copied())?;
            bound_of_column(&plan, index)
        }
        _ => None,
    }
}

/// Before each LIMIT, rows are sorted by the whole row as well, ascending and nulls first: our key order.
pub(super) fn ties_decided(plan: LogicalPlan) -> Result<LogicalPlan> {
    let decided = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Limit(limit) => {
            let below = sorted_by_all(limit.input.as_ref().clone())?;
            Ok(Transformed::yes(LogicalPlan::Limit(Limit { input: below.into(), ..limit })))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(decided.data)
}

/// Sorts below projections, where the query sorts; above all else.
fn sorted_by_all(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Sort(mut sort) => {
            let all = sort.input.schema().columns();
            sort.expr.extend(all.into_iter().map(|column| SortExpr::new(Expr::Column(column), true, true)));
            Ok(LogicalPlan::Sort(sort))
        }
        LogicalPlan::Projection(projection) if finds_sort(&projection.input) => {
            let below = sorted_by_all(projection.input.as_ref().clone())?;
            LogicalPlanBuilder::from(below).project(projection.expr)?.build()
        }
        LogicalPlan::SubqueryAlias(alias) if finds_sort(&alias.input) => {
            let below = sorted_by_all(alias.input.as_ref().clone())?;
            LogicalPlanBuilder::from(below).alias(alias.alias)?.build()
        }
        other => {
            let all = other.schema().columns();
            let keys: Vec<_> = all.into_iter().map(|column| SortExpr::new(Expr::Column(column), true, true)).collect();
            LogicalPlanBuilder::from(other).sort(keys)?.build()
        }
    }
}

fn finds_sort(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => finds_sort(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => finds_sort(&alias.input),
        _ => false,
    }
}
