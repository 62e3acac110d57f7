//! Subqueries in SQL's full meaning, by what DataFusion plans without loss.
//!
//! - `x NOT IN (q)` is false for a null x or with a null in q, unless q is empty. As a condition it becomes three NOT EXISTS;
//!   anywhere else IN and NOT IN become a CASE that gives true, false or null.
//! - EXISTS outside a condition becomes a comparison of a count.
//! - A scalar subquery that may give several rows gives a list, of which `only_item` takes the one item, or fails.
//! - INTERSECT ALL and EXCEPT ALL, which DataFusion 54 plans as if each row of the right side matched all equal ones of the
//!   left, number equal rows and match the numbers too.
//! - `FROM t, unnest(t.tags)` is what `lateral` says.
//! - Aggregates by order take rows that their order leaves equal in the order of the values, so that the result is one.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, NullEquality, Result};
use datafusion::functions_aggregate::expr_fn::{array_agg, count};
use datafusion::functions_aggregate::first_last::first_value;
use datafusion::logical_expr::expr::{InSubquery, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, ExprFunctionExt, FetchType, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder,
    Operator, SkipType, exists, lit, not_exists, scalar_subquery, when,
};
use datafusion::optimizer::AnalyzerRule;

use super::lateral::unnested;
use crate::functions::{ONLY_ITEM, scalar_function, window_function};

/// Rewrites what the module's text says.
#[derive(Debug)]
pub(super) struct Subqueries;

impl AnalyzerRule for Subqueries {
    fn name(&self) -> &str {
        "subqueries"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite_node)?.data)
    }
}

fn rewrite_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Join(join) if is_set_operation(&join) => numbered(&join).map(Transformed::yes),
        LogicalPlan::Filter(filter) if has_subquery(&filter.predicate) => {
            let schema = filter.input.schema().clone();
            let predicate = condition(filter.predicate, false, &schema)?;
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
        }
        LogicalPlan::Join(join) => Ok(match unnested(&join)? {
            Some(plan) => Transformed::yes(plan),
            None => Transformed::no(LogicalPlan::Join(join)),
        }),
        LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.iter().any(is_open) => totally_ordered(aggregate),
        other => rewrite_values(other),
    }
}

fn rewrite_values(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if !plan.expressions().iter().any(has_subquery) {
        return Ok(Transformed::no(plan));
    }
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    let rewritten = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(Transformed::yes(name.restore(value(expr, Exists::Counted, &schema)?)))
    })?;
    rewritten.map_data(LogicalPlan::recompute_schema)
}

fn has_subquery(expr: &Expr) -> bool {
    let is_one = |expr: &Expr| matches!(expr, Expr::InSubquery(_) | Expr::Exists(_) | Expr::ScalarSubquery(_));
    expr.exists(|expr| Ok(is_one(expr))).unwrap_or(true)
}

/// How EXISTS can be asked in some place.
#[derive(Clone, Copy)]
enum Exists {
    /// Below a filter it is planned as a join.
    Planned,
    Counted,
}

impl Exists {
    fn ask(self, plan: LogicalPlan) -> Result<Expr> {
        match self {
            Exists::Planned => Ok(exists(Arc::new(plan))),
            Exists::Counted => {
                let none: [Expr; 0] = [];
                let counted = LogicalPlanBuilder::from(plan).aggregate(none, [count(lit(1_i64))])?.build()?;
                Ok(scalar_subquery(Arc::new(counted)).gt(lit(0_i64)))
            }
        }
    }
}

/// Whether it is an aggregate of everything, which gives one row also where nothing is.
fn gives_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => gives_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => gives_one_row(&alias.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}

/// IN and EXISTS of a subquery that gives exactly one row: a comparison, and true.
fn of_one_row(expr: Expr) -> Expr {
    match expr {
        Expr::InSubquery(of) if gives_one_row(&of.subquery.subquery) => {
            let value = Expr::ScalarSubquery(of.subquery);
            if of.negated { (*of.expr).not_eq(value) } else { (*of.expr).eq(value) }
        }
        Expr::Exists(of) if gives_one_row(&of.subquery.subquery) => lit(!of.negated),
        other => other,
    }
}

/// A condition, where null is as good as false, or its negation.
fn condition(expr: Expr, is_negated: bool, outer: &DFSchema) -> Result<Expr> {
    match of_one_row(expr) {
        Expr::Not(of) => condition(*of, !is_negated, outer),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let op = if (op == Operator::And) == is_negated { Operator::Or } else { Operator::And };
            let (left, right) = (condition(*left, is_negated, outer)?, condition(*right, is_negated, outer)?);
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::InSubquery(of) if of.negated != is_negated => match correlated(&of, outer)? {
            Some(equality) => {
                let (found, with_null, any) = parts_of(&of, equality)?;
                let [found, with_null, any] = [found, with_null, any].map(|plan| not_exists(Arc::new(plan)));
                Ok(found.and(with_null).and(of.expr.is_not_null().or(any)))
            }
            None => Ok(Expr::InSubquery(InSubquery { negated: true, ..of })),
        },
        Expr::InSubquery(of) => Ok(Expr::InSubquery(InSubquery { negated: false, ..of })),
        Expr::Exists(mut of) => {
            of.negated ^= is_negated;
            Ok(Expr::Exists(of))
        }
        other => {
            let value = value(other, Exists::Planned, outer)?;
            Ok(if is_negated { Expr::Not(Box::new(value)) } else { value })
        }
    }
}

/// Subqueries inside an expression whose value counts.
fn value(expr: Expr, ask: Exists, outer: &DFSchema) -> Result<Expr> {
    let rewritten = expr.transform_up(|expr| {
        Ok(match of_one_row(expr) {
            Expr::InSubquery(of) => match correlated(&of, outer)? {
                Some(equality) => Transformed::yes(three_valued(&of, equality, ask)?),
                None => Transformed::no(Expr::InSubquery(of)),
            },
            Expr::Exists(of) => match ask {
                Exists::Planned => Transformed::no(Expr::Exists(of)),
                Exists::Counted => {
                    let asked = ask.ask(of.subquery.subquery.as_ref().clone())?;
                    Transformed::yes(if of.negated { Expr::Not(Box::new(asked)) } else { asked })
                }
            },
            Expr::ScalarSubquery(of) if of.subquery.max_rows().is_none_or(|rows| rows > 1) => {
                Transformed::yes(only_item(of.subquery.as_ref().clone())?)
            }
            Expr::ScalarSubquery(of) if !of.outer_ref_columns.is_empty() => match first_row(&of.subquery)? {
                Some(first) => Transformed::yes(scalar_subquery(Arc::new(first))),
                None => Transformed::no(Expr::ScalarSubquery(of)),
            },
            other => Transformed::no(other),
        })
    })?;
    Ok(rewritten.data)
}

/// `x = s` inside the subquery, whose column is s. None if x reaches further out than one query.
fn correlated(of: &InSubquery, outer: &DFSchema) -> Result<Option<Expr>> {
    if of.expr.contains_outer() || has_subquery(&of.expr) {
        return Ok(None);
    }
    let item = Expr::Column(first_column(&of.subquery.subquery));
    let sought = of.expr.as_ref().clone().transform_up(|expr| {
        Ok(match expr {
            Expr::Column(column) => {
                let field = outer.field_from_column(&column)?.clone();
                Transformed::yes(Expr::OuterReferenceColumn(field, column))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(Some(item.eq(sought.data)))
}

fn first_column(plan: &LogicalPlan) -> Column {
    Column::from(plan.schema().qualified_field(0))
}

/// The subquery's rows that are x, those that are null, and all.
fn parts_of(of: &InSubquery, equality: Expr) -> Result<(LogicalPlan, LogicalPlan, LogicalPlan)> {
    let all = of.subquery.subquery.as_ref().clone();
    let found = LogicalPlanBuilder::from(all.clone()).filter(equality)?.build()?;
    let is_null = Expr::Column(first_column(&all)).is_null();
    let with_null = LogicalPlanBuilder::from(all.clone()).filter(is_null)?.build()?;
    Ok((found, with_null, all))
}

fn three_valued(of: &InSubquery, equality: Expr, ask: Exists) -> Result<Expr> {
    let (found, with_null, all) = parts_of(of, equality)?;
    let is_unknown = ask.ask(with_null)?.or(of.expr.as_ref().clone().is_null().and(ask.ask(all)?));
    let null = lit(datafusion::common::ScalarValue::Boolean(None));
    when(ask.ask(found)?, lit(!of.negated)).when(is_unknown, null).otherwise(lit(of.negated))
}

fn only_item(plan: LogicalPlan) -> Result<Expr> {
    let item = Expr::Column(first_column(&plan));
    let none: [Expr; 0] = [];
    let list = array_agg(item.clone()).order_by(vec![item.sort(true, false)]).build()?;
    let listed = LogicalPlanBuilder::from(plan).aggregate(none, [list])?.build()?;
    let function = scalar_function(ONLY_ITEM).expect("one of ours");
    Ok(function.call(vec![scalar_subquery(Arc::new(listed))]))
}

/// `SELECT x ... ORDER BY ... LIMIT 1` as an aggregate, which can be correlated.
fn first_row(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Limit(limit) = plan else { return Ok(None) };
    let is_first = matches!(limit.get_skip_type()?, SkipType::Literal(0))
        && matches!(limit.get_fetch_type()?, FetchType::Literal(Some(1)));
    if !is_first {
        return Ok(None);
    }
    let (item, sorted) = match limit.input.as_ref() {
        LogicalPlan::Projection(projection) if matches!(projection.input.as_ref(), LogicalPlan::Sort(_)) => {
            (projection.expr[0].clone().unalias_nested().data, projection.input.as_ref())
        }
        other => (Expr::Column(first_column(other)), other),
    };
    let (keys, below) = match sorted {
        LogicalPlan::Sort(sort) => (sort.expr.clone(), sort.input.as_ref()),
        other => (vec![], other),
    };
    let none: [Expr; 0] = [];
    let keys = keys.into_iter().chain([item.clone().sort(true, false)]).collect();
    let first = first_value(item, keys);
    Ok(Some(LogicalPlanBuilder::from(below.clone()).aggregate(none, [first])?.build()?))
}

/// What DataFusion makes of INTERSECT ALL and EXCEPT ALL: without ALL the left side is distinct.
fn is_set_operation(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && join.filter.is_none()
        && join.on.len() == join.left.schema().fields().len()
        // Or it was numbered before.
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_) | LogicalPlan::Window(_))
}

fn numbered(join: &Join) -> Result<LogicalPlan> {
    let number = |plan: &LogicalPlan, keys: Vec<Expr>| -> Result<(LogicalPlan, Column)> {
        let function = window_function("row_number").expect("one of ours");
        let number = Expr::from(WindowFunction::new(function, vec![])).partition_by(keys).build()?;
        let plan = LogicalPlanBuilder::from(plan.clone()).window([number])?.build()?;
        let column = Column::from(plan.schema().qualified_field(plan.schema().fields().len() - 1));
        Ok((plan, column))
    };
    let (left_keys, right_keys): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
    let (left, of_left) = number(&join.left, left_keys)?;
    let (right, of_right) = number(&join.right, right_keys)?;
    let mut on = join.on.clone();
    on.push((Expr::Column(of_left), Expr::Column(of_right)));
    let matched = LogicalPlan::Join(Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        None,
        join.join_type,
        join.join_constraint,
        NullEquality::NullEqualsNull,
        false,
    )?);
    let columns: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    LogicalPlanBuilder::from(matched).project(columns)?.build()
}

/// An aggregate by order whose order does not end with its own argument.
fn is_open(expr: &Expr) -> bool {
    let Expr::AggregateFunction(function) = unaliased(expr) else { return false };
    let by_order = ["array_agg", "string_agg", "first_value", "last_value", "nth_value"];
    let argument = function.params.args.first();
    by_order.contains(&function.func.name())
        && argument.is_some_and(|argument| function.params.order_by.iter().all(|key| key.expr != *argument))
}

fn unaliased(mut expr: &Expr) -> &Expr {
    while let Expr::Alias(alias) = expr {
        expr = &alias.expr;
    }
    expr
}

fn totally_ordered(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let plan = LogicalPlan::Aggregate(aggregate);
    let names = NamePreserver::new(&plan);
    let rewritten = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let mut changed = false;
        let rewritten = expr.transform_down(|expr| {
            if !is_open(&expr) {
                return Ok(Transformed::no(expr));
            }
            let Expr::AggregateFunction(mut function) = expr else { return Ok(Transformed::no(expr)) };
            let key = function.params.args[0].clone().sort(true, false);
            function.params.order_by.push(key);
            changed = true;
            Ok(Transformed::new(Expr::AggregateFunction(function), true, TreeNodeRecursion::Jump))
        })?;
        Ok(if changed { rewritten.update_data(|expr| name.restore(expr)) } else { rewritten })
    })?;
    rewritten.map_data(LogicalPlan::recompute_schema)
}
