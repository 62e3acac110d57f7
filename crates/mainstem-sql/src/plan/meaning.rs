//! Typed expressions in PostgreSQL's meaning: integers do not wrap, casts go by PostgreSQL's text and rounding, a literal with a
//! decimal point beside a numeric is a numeric, a text literal beside a time is a time of that type.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::subqueries::Subqueries;
use crate::functions::{
    BYTEA_LENGTH, PG_CAST, integer_function, integer_negate, is_integer, is_postgres_cast, postgres_cast,
    scalar_function,
};

/// DataFusion's analysis of a plan, with ours before it, and behind it, when all types are known.
pub(super) fn analyzer() -> Analyzer {
    Analyzer::with_rules(analyzer_rules(&[]))
}

/// The same with rules of a session that come first of those behind DataFusion's.
pub(super) fn analyzer_rules(more: &[AnyRule]) -> Vec<AnyRule> {
    let mut rules: Vec<AnyRule> = vec![Arc::new(TimeLiterals)];
    rules.extend(Analyzer::new().rules);
    rules.extend(more.iter().cloned());
    rules.push(Arc::new(Subqueries));
    rules.push(Arc::new(PostgresMeaning));
    rules
}

type AnyRule = Arc<dyn AnalyzerRule + Send + Sync>;

/// `ts > '2026-01-01 12:00'`: text that is compared with a time is read as PostgreSQL reads that type. DataFusion would compare
/// both as nanoseconds, which end in the year 2262, and read fewer forms.
#[derive(Debug)]
struct TimeLiterals;

impl AnalyzerRule for TimeLiterals {
    fn name(&self) -> &str {
        "time_literals"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(|plan| map_expressions(plan, read_literals))?.data)
    }
}

fn read_literals(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    let is_text = |expr: &Expr| matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), _));
    let time = |expr: &Expr| {
        let of = expr.get_type(schema).ok()?;
        match of {
            DataType::Timestamp(_, zone) => Some(DataType::Timestamp(TimeUnit::Microsecond, zone)),
            DataType::Date32 | DataType::Time64(_) => Some(of),
            _ => None,
        }
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
            let (left, right) = match (is_text(left), is_text(right)) {
                (true, false) => (cast(left.as_ref().clone(), time(right)?), right.as_ref().clone()),
                (false, true) => (left.as_ref().clone(), cast(right.as_ref().clone(), time(left)?)),
                _ => return None,
            };
            Some(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op: *op, right: Box::new(right) }))
        }
        Expr::Between(between) if is_text(&between.low) || is_text(&between.high) => {
            let of = time(&between.expr)?;
            let mut between = between.clone();
            for end in [&mut between.low, &mut between.high] {
                if is_text(end) {
                    *end = Box::new(cast(end.as_ref().clone(), of.clone()));
                }
            }
            Some(Expr::Between(between))
        }
        Expr::InList(list) if list.list.iter().any(is_text) => {
            let of = time(&list.expr)?;
            let mut list = list.clone();
            for item in list.list.iter_mut().filter(|item| is_text(item)) {
                *item = cast(item.clone(), of.clone());
            }
            Some(Expr::InList(list))
        }
        _ => None,
    }
}

fn compares(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq | O::IsDistinctFrom | O::IsNotDistinctFrom)
}

/// Replaces operators and casts.
#[derive(Debug)]
pub(super) struct PostgresMeaning;

impl AnalyzerRule for PostgresMeaning {
    fn name(&self) -> &str {
        "postgres_meaning"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(|plan| map_expressions(plan, other_expression))?.data)
    }
}

/// What an expression over these columns is to be replaced by.
type Replace = fn(&Expr, &DFSchema) -> Option<Expr>;

/// Replaces expressions of a node under the names that they had.
fn map_expressions(plan: LogicalPlan, replace: Replace) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    let rewritten = plan.map_expressions(|expr| {
        // A name of the whole would hide from DataFusion that it is one.
        if let Expr::GroupingSet(_) = &expr {
            return expr.map_children(|inner| rewrite_named(inner, &schema, replace));
        }
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|expr| Ok(rewrite_expression(expr, &schema, replace)))?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })?;
    rewritten.map_data(|plan| plan.recompute_schema())
}

/// An expression of a grouping set, under the name that it had.
fn rewrite_named(expr: Expr, schema: &DFSchema, replace: Replace) -> Result<Transformed<Expr>> {
    let name = expr.schema_name().to_string();
    let rewritten = expr.transform_up(|expr| Ok(rewrite_expression(expr, schema, replace)))?;
    Ok(rewritten.update_data(|expr| if expr.schema_name().to_string() == name { expr } else { expr.alias(name) }))
}

fn rewrite_expression(expr: Expr, schema: &DFSchema, replace: Replace) -> Transformed<Expr> {
    match replace(&expr, schema) {
        Some(other) => Transformed::yes(other),
        None => Transformed::no(expr),
    }
}

fn other_expression(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let function = integer_function(*op)?;
            let (left_type, right_type) = (left.get_type(schema).ok()?, right.get_type(schema).ok()?);
            let is_fit = left_type == right_type && is_integer(&left_type);
            let function = is_fit.then(|| scalar_function(function)).flatten()?;
            Some(function.call(vec![left.as_ref().clone(), right.as_ref().clone()]))
        }
        // The sign of a literal is part of it.
        Expr::Negative(of) if !matches!(of.as_ref(), Expr::Literal(..)) => {
            let function =
                is_integer(&of.get_type(schema).ok()?).then(|| scalar_function(integer_negate())).flatten()?;
            Some(function.call(vec![of.as_ref().clone()]))
        }
        // What was coerced is a constant all the same: the scale of round(x, 2) is told by its 2.
        Expr::Cast(Cast { expr: of, field }) if is_integer(field.data_type()) && is_whole_literal(of) => {
            let Expr::Literal(value, metadata) = of.as_ref() else { return None };
            let value = value.cast_to(field.data_type()).ok()?;
            Some(Expr::Literal(value, metadata.clone()))
        }
        Expr::Cast(Cast { expr: of, field }) => {
            let from = of.get_type(schema).ok()?;
            let is_ours = is_postgres_cast(&from, field.data_type());
            is_ours.then(|| postgres_cast(of.as_ref().clone(), field.data_type())).flatten()
        }
        Expr::ScalarFunction(call) if matches!(call.func.name(), "character_length" | "octet_length") => {
            let [Expr::ScalarFunction(cast)] = call.args.as_slice() else { return None };
            let bytea = cast.args.first().filter(|_| cast.func.name() == PG_CAST)?;
            let is_bytea = matches!(bytea.get_type(schema), Ok(DataType::Binary));
            is_bytea.then(|| scalar_function(BYTEA_LENGTH)).flatten().map(|function| function.call(vec![bytea.clone()]))
        }
        _ => None,
    }
}

fn is_whole_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if is_integer(&value.data_type()) && !value.is_null())
}

/// `amount + 0.01` with a numeric amount: the literal is what it says. A date and an interval make a timestamp.
#[derive(Debug)]
pub(super) struct DecimalLiterals;

impl ExprPlanner for DecimalLiterals {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator as B;
        let RawBinaryExpr { op, left, right } = expr;
        let is_exact = matches!(
            op,
            B::Plus | B::Minus | B::Multiply | B::Modulo | B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq
        );
        let is_decimal = |expr: &Expr| is_exact && expr.get_type(schema).is_ok_and(|of| of.is_decimal());
        if matches!(op, B::Plus | B::Minus) {
            let of = |expr: &Expr| expr.get_type(schema).ok();
            let stamp = |expr: Expr| cast(expr, DataType::Timestamp(TimeUnit::Microsecond, None));
            match (of(&left), of(&right)) {
                (Some(DataType::Date32), Some(DataType::Interval(_))) => {
                    return Ok(PlannerResult::Original(RawBinaryExpr { op, left: stamp(left), right }));
                }
                (Some(DataType::Interval(_)), Some(DataType::Date32)) => {
                    return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right: stamp(right) }));
                }
                _ => {}
            }
        }
        let (left, right) = match (as_decimal(&left), as_decimal(&right)) {
            (Some(literal), _) if is_decimal(&right) => (literal, right),
            (_, Some(literal)) if is_decimal(&left) => (left, literal),
            _ => (left, right),
        };
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

/// A double's shortest text as a decimal. Literals whose digits a double does not keep are decimals already (`syntax`).
fn as_decimal(expr: &Expr) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Float64(Some(value)), metadata) = expr else { return None };
    let text = value.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let digits = whole.trim_start_matches('-').trim_start_matches('0').len() + fraction.len();
    let precision = u8::try_from(digits.max(1)).ok().filter(|precision| *precision <= 38)?;
    let scale = i8::try_from(fraction.len()).ok()?;
    let unscaled = mainstem_formats::parse_decimal(&text, i32::from(scale))?;
    Some(Expr::Literal(
        ScalarValue::Decimal128(Some(unscaled), precision.max(scale.unsigned_abs()), scale),
        metadata.clone(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_is_the_decimal_that_was_written() {
        let decimal_of = |value: f64| match as_decimal(&Expr::Literal(ScalarValue::from(value), None)) {
            Some(Expr::Literal(literal, _)) => Some(literal.data_type()),
            _ => None,
        };
        for (value, precision, scale) in [(0.01, 2, 2), (-12.5, 3, 1), (1e15, 16, 0), (123_456.789, 9, 3)] {
            assert_eq!(decimal_of(value), Some(DataType::Decimal128(precision, scale)), "{value}");
        }
        assert!(decimal_of(1e300).is_none());
        assert!(decimal_of(f64::NAN).is_none());
    }
}
