//! `now()` in views: conditions on the time, and the time put in its place.
//!
//! A condition compares a value of the row with a value that depends on the time alone: `ts > now() - INTERVAL '1 day'`. It
//! becomes an operator of its own, above the other conditions of the same WHERE or HAVING. Elsewhere in a view the time is
//! refused: a column that changes with each tick would make every row change with each tick.
//!
//! A bound is *steady* if it never goes back as the time goes on: the time itself, a constant number of days, hours or seconds
//! from it, the beginning of its hour or day. A month before is not (a month before the 30th and the 31st of March is the 28th of
//! February).

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result as PlanResult, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator as Op, cast, lit};
use mainstem_catalog::SqlType;

use super::convert::Convert;
use crate::arrow_types::arrow_type;
use crate::error::{SqlError, sqlstate};
use crate::graph::{Operator, OperatorId, Scalar, TimeComparison};

/// The one column of a bound's input.
const NOW: &str = "now";

/// A comparison with the time.
struct Condition {
    value: Scalar,
    comparison: TimeComparison,
    bound: Scalar,
    is_steady: bool,
}

/// `now()`, `current_timestamp`, `current_date`
pub(super) fn is_clock(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(function) if matches!(function.func.name(), "now" | "current_date"))
}

fn mentions_clock(expr: &Expr) -> bool {
    expr.exists(|part| Ok(is_clock(part))).unwrap_or(false)
}

impl Convert {
    /// The rows for which a predicate over them, and perhaps over the time, is true.
    pub(super) fn filter_by(
        &mut self,
        predicate: &Expr,
        schema: &DFSchema,
        input: OperatorId,
    ) -> Result<OperatorId, SqlError> {
        let (timed, plain) = split_conjunction(predicate).into_iter().partition::<Vec<_>, _>(|it| mentions_clock(it));
        if timed.is_empty() {
            let predicate = Scalar::from_expr(predicate, schema)?;
            return Ok(self.filter(predicate, input));
        }
        let mut below = input;
        if let Some(plain) = plain.into_iter().cloned().reduce(Expr::and) {
            let predicate = Scalar::from_expr(&plain, schema)?;
            below = self.filter(predicate, below);
        }
        for condition in timed {
            for condition in conditions(condition, schema)? {
                let Condition { value, comparison, bound, is_steady } = condition;
                below = self.same(Operator::Temporal { value, comparison, bound, is_steady }, below);
                self.nodes[below.0 as usize].append_only = false;
            }
        }
        Ok(below)
    }

    /// The conditions on the time of an inner join, apart from the others.
    pub(super) fn split_clock(filter: Option<&Expr>) -> (Option<Expr>, Option<Expr>) {
        let parts = filter.map(split_conjunction).unwrap_or_default();
        let (timed, plain) = parts.into_iter().cloned().partition::<Vec<_>, _>(mentions_clock);
        (timed.into_iter().reduce(Expr::and), plain.into_iter().reduce(Expr::and))
    }

    /// A window that is closed must not change because time goes on.
    pub(super) fn check_clock(&self) -> Result<(), SqlError> {
        let is_timed = self.nodes.iter().any(|node| matches!(node.operator, Operator::Temporal { .. }));
        if is_timed && self.emit.on_window_close {
            return Err(SqlError::not_supported("now() in a view with EMIT ON WINDOW CLOSE is not supported")
                .with_hint("A closed window stays as it is. Put the condition on now() in a view over this one."));
        }
        Ok(())
    }
}

/// A conjunct that mentions the time.
fn conditions(expr: &Expr, schema: &DFSchema) -> Result<Vec<Condition>, SqlError> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (value, op, bound) = if !mentions_clock(left) && right.column_refs().is_empty() {
                (left, *op, right)
            } else {
                (right, op.swap().ok_or_else(|| refused(expr))?, left)
            };
            let comparisons: &[TimeComparison] = match op {
                Op::Gt => &[TimeComparison::After],
                Op::GtEq => &[TimeComparison::NotBefore],
                Op::Lt => &[TimeComparison::Before],
                Op::LtEq => &[TimeComparison::NotAfter],
                Op::Eq => &[TimeComparison::NotBefore, TimeComparison::NotAfter],
                _ => return Err(refused(expr)),
            };
            comparisons.iter().map(|comparison| condition(expr, (value, *comparison, bound), schema)).collect()
        }
        Expr::Between(between) if !between.negated => {
            let (value, low, high) = (between.expr.as_ref(), between.low.as_ref(), between.high.as_ref());
            let mut found = conditions(&value.clone().gt_eq(low.clone()), schema)?;
            found.extend(conditions(&value.clone().lt_eq(high.clone()), schema)?);
            Ok(found)
        }
        _ => Err(refused(expr)),
    }
}

fn condition(
    whole: &Expr,
    (value, comparison, bound): (&Expr, TimeComparison, &Expr),
    schema: &DFSchema,
) -> Result<Condition, SqlError> {
    if mentions_clock(value) || !bound.column_refs().is_empty() {
        return Err(refused(whole));
    }
    let (of_value, of_bound) = (value.get_type(schema)?, bound.get_type(schema)?);
    if of_value != of_bound || !matches!(of_value, DataType::Timestamp(..) | DataType::Date32) {
        return Err(refused(whole));
    }
    let time = arrow_type(&SqlType::Timestamptz);
    let over = DFSchema::from_unqualified_fields(
        vec![arrow::datatypes::Field::new(NOW, time, true)].into(),
        std::collections::HashMap::new(),
    )?;
    let bound = bound.clone().transform(|part| {
        if !is_clock(&part) {
            return Ok(Transformed::no(part));
        }
        let data_type = part.get_type(schema)?;
        Ok(Transformed::yes(cast(Expr::Column(Column::new_unqualified(NOW)), data_type)))
    })?;
    let is_steady = is_steady(&bound.data);
    let bound = Scalar::from_expr(&bound.data, &over)?;
    Ok(Condition { value: Scalar::from_expr(value, schema)?, comparison, bound, is_steady })
}

/// See the module's text. Not knowing costs memory only.
fn is_steady(bound: &Expr) -> bool {
    match bound {
        Expr::Column(_) | Expr::Literal(..) => true,
        Expr::Alias(alias) => is_steady(&alias.expr),
        Expr::Cast(cast) => {
            matches!(cast.field.data_type(), DataType::Timestamp(..) | DataType::Date32) && is_steady(&cast.expr)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Op::Plus | Op::Minus, right }) => {
            is_steady(left) && is_fixed_length(right)
        }
        Expr::ScalarFunction(function) => match (function.func.name(), function.args.as_slice()) {
            ("date_trunc", [Expr::Literal(..), of]) => is_steady(of),
            _ => false,
        },
        _ => false,
    }
}

fn is_fixed_length(interval: &Expr) -> bool {
    match interval {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => interval.months == 0,
        Expr::Literal(ScalarValue::IntervalDayTime(Some(_)), _) => true,
        Expr::Literal(value, _) => matches!(value.data_type(), DataType::Duration(_)),
        _ => false,
    }
}

fn refused(expr: &Expr) -> SqlError {
    SqlError::new(sqlstate::INVALID_DEFINITION, format!("this condition on the time cannot be kept in a view: {expr}"))
        .with_hint("Compare a timestamp or date of the row with the time: ts > now() - INTERVAL '1 day'.")
}

/// The plan with the clock standing at this time, or unknown: what a view's query means as of a cut.
pub fn at_time(plan: LogicalPlan, now_us: Option<i64>) -> PlanResult<LogicalPlan> {
    let stopped = |expr: Expr| {
        expr.transform(|part| {
            if !is_clock(&part) {
                return Ok(Transformed::no(part));
            }
            let time = ScalarValue::TimestampMicrosecond(now_us, Some("UTC".into()));
            Ok(Transformed::yes(lit(time.cast_to(&part.get_type(&DFSchema::empty())?)?)))
        })
    };
    Ok(plan.transform_up_with_subqueries(|node| node.map_expressions(stopped))?.data)
}
