//! ASOF JOIN: each row of the left side with the one row of the right side that has equal keys and is nearest in time.
//!
//! `a ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts` matches the latest row of b that is not later than a's; `>` the latest that is
//! earlier, `<=` and `<` the first that is not earlier, or later. Of several rows of b with that time the first in key order of the
//! whole row counts (ascending, nulls first). Conditions on b alone leave only some of its rows to be matched, conditions on a
//! alone take rows out. A row with a null among what is compared matches nothing. LEFT ASOF JOIN gives rows that match
//! nothing too, with nulls.
//!
//! A view has an operator for it, planned as a node of our own so that no rule moves a condition through it. A SELECT runs
//! what DataFusion has: rows of b that can count, by row_number(), each valid until the next one's time, by lead() or lag(),
//! and a join by ranges.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchemaRef, DataFusionError, NullEquality, Result, internal_err};
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::utils::{
    conjunction, expr_to_columns, find_valid_equijoin_key_pair, split_conjunction_owned,
};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprFunctionExt, Extension, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Operator,
    UserDefinedLogicalNodeCore, Window, lit,
};
use datafusion::optimizer::AnalyzerRule;

use super::convert::{Convert, not_yet};
use super::joins::some_keys;
use super::window_close::Lineage;
use crate::error::{SqlError, sqlstate};
use crate::functions::{ASOF_MATCH, SYSTEM_TIME_AS_OF, window_function};
use crate::graph::{Distance, GraphField, Nearest, Operator as GraphOperator, OperatorId, Scalar};

/// An ASOF JOIN whose condition is taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AsOf {
    left: Arc<LogicalPlan>,
    right: Arc<LogicalPlan>,
    is_outer: bool,
    /// `left = right` each.
    equal: Vec<Expr>,
    /// `left >= right` or another inequality.
    nearest: Expr,
    schema: DFSchemaRef,
}

/// Every ASOF JOIN of a view's plan as a node of our own.
pub(super) fn nodes_of(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|plan| match AsOf::read(&plan)? {
        Some(node) => Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(node) }))),
        None => Ok(Transformed::no(plan)),
    })?;
    Ok(rewritten.data)
}

/// Every ASOF JOIN of a query's plan as what DataFusion runs.
#[derive(Debug)]
pub(super) struct AsOfJoins;

impl AnalyzerRule for AsOfJoins {
    fn name(&self) -> &str {
        "asof_joins"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| match AsOf::read(&plan)? {
            Some(node) => Ok(Transformed::yes(node.stock()?)),
            None => Ok(Transformed::no(plan)),
        })?;
        Ok(rewritten.data)
    }
}

/// The names of what is computed for an ASOF JOIN.
const NUMBER: &str = "__asof_number";
const NEXT: &str = "__asof_next";

/// Whether the query did not ask for these functions: they stand for an ASOF JOIN.
#[must_use]
pub fn stands_for_asof(window: &Window) -> bool {
    let is_own = |expr: &Expr| matches!(expr, Expr::Alias(alias) if [NUMBER, NEXT].contains(&alias.name.as_str()));
    window.window_expr.iter().all(is_own)
}

fn is_mark(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if [ASOF_MATCH, SYSTEM_TIME_AS_OF].contains(&call.name()))
}

fn refused(message: impl Into<String>) -> DataFusionError {
    SqlError::new(sqlstate::INVALID_DEFINITION, message)
        .with_hint("Write a [LEFT] ASOF JOIN b ON a.key = b.key AND a.time >= b.time.")
        .into()
}

impl AsOf {
    /// The plan, if it is an ASOF JOIN.
    fn read(plan: &LogicalPlan) -> Result<Option<AsOf>> {
        let LogicalPlan::Join(join) = plan else { return Ok(None) };
        let Some(filter) = &join.filter else { return Ok(None) };
        if !filter.exists(|expr| Ok(is_mark(expr)))? {
            return Ok(None);
        }
        let is_outer = match join.join_type {
            JoinType::Inner => false,
            JoinType::Left => true,
            other => return Err(refused(format!("{other} ASOF JOIN is not supported"))),
        };
        let mut marks = 0;
        let mut parts: Vec<Expr> = join.on.iter().map(|(left, right)| left.clone().eq(right.clone())).collect();
        for part in split_conjunction_owned(filter.clone()) {
            match part {
                Expr::ScalarFunction(call) if is_mark(&Expr::ScalarFunction(call.clone())) => {
                    marks += 1;
                    parts.extend(call.args.into_iter().flat_map(split_conjunction_owned));
                }
                other => parts.push(other),
            }
        }
        if marks != 1 || parts.iter().any(|part| part.exists(|expr| Ok(is_mark(expr))).unwrap_or(true)) {
            return Err(refused("the conditions of an ASOF JOIN must be joined by AND"));
        }
        AsOf::sorted(join, is_outer, parts).map(Some)
    }

    fn sorted(join: &Join, is_outer: bool, parts: Vec<Expr>) -> Result<AsOf> {
        let (left, right) = (join.left.schema(), join.right.schema());
        let (mut equal, mut nearest, mut of_left, mut of_right) = (vec![], None, vec![], vec![]);
        for part in parts {
            let mut columns = std::collections::HashSet::new();
            expr_to_columns(&part, &mut columns)?;
            let sides = |schema: &DFSchemaRef| columns.iter().any(|column| schema.has_column(column));
            match (sides(left), sides(right)) {
                (true, false) => {
                    of_left.push(part);
                    continue;
                }
                (false, true) => {
                    of_right.push(part);
                    continue;
                }
                _ => {}
            }
            let (comparison, op) = compared(&part, left, right)?;
            match op {
                Operator::Eq => equal.push(comparison),
                _ if nearest.is_none() => nearest = Some(comparison),
                _ => return Err(refused("an ASOF JOIN takes one inequality between the two sides")),
            }
        }
        let nearest = nearest.ok_or_else(|| refused("an ASOF JOIN needs an inequality between the two sides"))?;
        if is_outer && !of_left.is_empty() {
            return Err(refused("LEFT ASOF JOIN takes no condition on the left side alone"));
        }
        AsOf::new(filtered(&join.left, of_left)?, filtered(&join.right, of_right)?, is_outer, equal, nearest)
    }

    fn new(
        left: Arc<LogicalPlan>,
        right: Arc<LogicalPlan>,
        is_outer: bool,
        equal: Vec<Expr>,
        nearest: Expr,
    ) -> Result<AsOf> {
        let kind = if is_outer { JoinType::Left } else { JoinType::Inner };
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &kind)?);
        Ok(AsOf { left, right, is_outer, equal, nearest, schema })
    }

    /// What DataFusion runs, see the module's text.
    fn stock(&self) -> Result<LogicalPlan> {
        let (keys, of_right): (Vec<Expr>, Vec<Expr>) = self.equal.iter().map(sides).collect::<Result<_>>()?;
        let (of_left, time) = sides(&self.nearest)?;
        let Expr::BinaryExpr(BinaryExpr { op, .. }) = &self.nearest else { return internal_err!("no comparison") };
        let whole = self.right.schema().columns().into_iter().map(|column| Expr::Column(column).sort(true, true));
        let tied = [of_right.clone(), vec![time.clone()]].concat();
        let number = call("row_number", vec![])?.partition_by(tied).order_by(whole.collect()).build()?;
        let candidates = LogicalPlanBuilder::from(self.right.as_ref().clone()).filter(time.clone().is_not_null())?;
        let numbered = candidates.window([number.alias(NUMBER)])?.build()?;
        let number = last_column(&numbered);
        let (is_backward, excludes) = match op {
            Operator::GtEq => (true, Operator::Lt),
            Operator::Gt => (true, Operator::LtEq),
            Operator::LtEq => (false, Operator::Gt),
            Operator::Lt => (false, Operator::GtEq),
            other => return internal_err!("{other} is no inequality"),
        };
        let next = call(if is_backward { "lead" } else { "lag" }, vec![time.clone()])?;
        let next = if of_right.is_empty() {
            next.order_by(vec![time.sort(true, true)]).build()?
        } else {
            next.partition_by(of_right.clone()).order_by(vec![time.sort(true, true)]).build()?
        };
        let first = LogicalPlanBuilder::from(numbered).filter(Expr::Column(number).eq(lit(1_i64)))?;
        let ranges = first.window([next.alias(NEXT)])?.build()?;
        let next = Expr::Column(last_column(&ranges));
        let compare = |left: Expr, op: Operator, right: Expr| {
            Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) })
        };
        let is_nearest = next.clone().is_null().or(compare(of_left, excludes, next));
        let filter = self.nearest.clone().and(is_nearest);
        let kind = if self.is_outer { JoinType::Left } else { JoinType::Inner };
        let joined = LogicalPlan::Join(Join::try_new(
            self.left.clone(),
            Arc::new(ranges),
            keys.into_iter().zip(of_right).collect(),
            Some(filter),
            kind,
            datafusion::common::JoinConstraint::On,
            NullEquality::NullEqualsNothing,
            false,
        )?);
        let columns: Vec<Expr> = self.schema.columns().into_iter().map(Expr::Column).collect();
        LogicalPlanBuilder::from(joined).project(columns)?.build()
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Result<Expr> {
    let Some(function) = window_function(name) else { return internal_err!("no function {name}") };
    Ok(Expr::from(WindowFunction::new(function, arguments)))
}

fn last_column(plan: &LogicalPlan) -> Column {
    Column::from(plan.schema().qualified_field(plan.schema().fields().len() - 1))
}

fn filtered(plan: &Arc<LogicalPlan>, conditions: Vec<Expr>) -> Result<Arc<LogicalPlan>> {
    Ok(match conjunction(conditions) {
        Some(condition) => Arc::new(LogicalPlan::Filter(Filter::try_new(condition, plan.clone())?)),
        None => plan.clone(),
    })
}

/// A comparison of both sides with the left one first, and its operator.
fn compared(part: &Expr, left: &DFSchemaRef, right: &DFSchemaRef) -> Result<(Expr, Operator)> {
    let wrong =
        || refused(format!("an ASOF JOIN takes equalities and an inequality between the two sides, not {part}"));
    let Expr::BinaryExpr(BinaryExpr { left: first, op, right: second }) = part else { return Err(wrong()) };
    if !matches!(op, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq) {
        return Err(wrong());
    }
    let (of_left, of_right) = find_valid_equijoin_key_pair(first, second, left, right)?.ok_or_else(wrong)?;
    let is_turned = of_left != **first;
    let op = if is_turned { op.swap().ok_or_else(wrong)? } else { *op };
    Ok((Expr::BinaryExpr(BinaryExpr { left: Box::new(of_left), op, right: Box::new(of_right) }), op))
}

/// The two sides of a comparison.
fn sides(comparison: &Expr) -> Result<(Expr, Expr)> {
    match comparison {
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) => Ok((left.as_ref().clone(), right.as_ref().clone())),
        other => internal_err!("{other} is no comparison"),
    }
}

impl PartialOrd for AsOf {
    fn partial_cmp(&self, other: &AsOf) -> Option<Ordering> {
        let parts = |of: &AsOf| (of.equal.clone(), of.nearest.clone(), of.is_outer);
        parts(self).partial_cmp(&parts(other)).filter(|order| *order != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for AsOf {
    fn name(&self) -> &str {
        "AsOfJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.equal.iter().chain([&self.nearest]).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsOfJoin: outer={} nearest={}", self.is_outer, self.nearest)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<AsOf> {
        let (Some(nearest), Ok([left, right])) = (exprs.pop(), <[LogicalPlan; 2]>::try_from(inputs)) else {
            return internal_err!("an ASOF JOIN has two inputs and an inequality");
        };
        // Rules turn comparisons round, under the name that they had.
        let comparison = |expr: Expr| Ok(compared(&expr.unalias_nested().data, left.schema(), right.schema())?.0);
        let equal = exprs.into_iter().map(comparison).collect::<Result<Vec<_>>>()?;
        let nearest = comparison(nearest)?;
        AsOf::new(Arc::new(left), Arc::new(right), self.is_outer, equal, nearest)
    }
}

impl Convert {
    pub(super) fn extension(&mut self, extension: &Extension) -> std::result::Result<OperatorId, SqlError> {
        let node: &dyn std::any::Any = extension.node.as_any();
        let Some(node) = node.downcast_ref::<AsOf>() else { return Err(not_yet(extension.node.name())) };
        let over = (node.left.schema(), node.right.schema());
        let pair = |comparison: &Expr| {
            let (left, right) = sides(comparison)?;
            Ok::<_, SqlError>((Scalar::from_expr(&left, over.0)?, Scalar::from_expr(&right, over.1)?))
        };
        let on = some_keys(node.equal.iter().map(pair).collect::<std::result::Result<_, _>>()?)?;
        let times = pair(&node.nearest)?;
        let nearest = match &node.nearest {
            Expr::BinaryExpr(BinaryExpr { op: Operator::GtEq, .. }) => Nearest::AtOrBefore,
            Expr::BinaryExpr(BinaryExpr { op: Operator::Gt, .. }) => Nearest::Before,
            Expr::BinaryExpr(BinaryExpr { op: Operator::LtEq, .. }) => Nearest::AtOrAfter,
            Expr::BinaryExpr(BinaryExpr { op: Operator::Lt, .. }) => Nearest::After,
            other => return Err(not_yet(&other.to_string())),
        };
        let (left, right) = (self.plan(&node.left)?, self.plan(&node.right)?);
        let sides = [left.0 as usize, right.0 as usize];
        let schema = sides.iter().flat_map(|side| self.nodes[*side].schema.clone());
        let schema = schema.map(|field| GraphField { nullable: true, ..field }).collect();
        // What comes on the right changes partners backwards in time up to the next moment: a row is settled when its time is.
        let distance = match (&times.0, &times.1, nearest) {
            (Scalar::Column(left), Scalar::Column(right), Nearest::AtOrBefore | Nearest::Before) => {
                vec![Distance { left: *left, right: *right, least: None, most: Some(0) }]
            }
            _ => vec![],
        };
        let (was_unbounded, is_known) = (self.has_unbounded_join, !distance.is_empty());
        let mut settled = self.settled(left, right, &distance);
        // The right side has no bound, and needs none.
        self.has_unbounded_join = was_unbounded || (self.has_unbounded_join && !is_known);
        let of_left = self.nodes[sides[0]].schema.len();
        settled.lineage[of_left..].fill(Lineage::Other);
        let operator = GraphOperator::AsOf { is_outer: node.is_outer, on, times, nearest };
        let id = self.push(operator, vec![left, right], schema, false, settled.lineage);
        settled.forgets.into_iter().for_each(|forget| self.forget(id, forget));
        Ok(id)
    }
}
