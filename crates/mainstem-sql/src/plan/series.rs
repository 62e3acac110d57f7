//! `generate_series(from, to [, step])` in the FROM of a view: a list of constants, unnested.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, Query, TableAlias, TableFactor, UnaryOperator, Value, VisitMut,
    VisitorMut,
};

use crate::error::{SqlError, sqlstate};
use crate::parse::{fold, parse_query};

/// A view's definition holds them all.
const ITEMS_MAX: u64 = 10_000;
const NAME: &str = "generate_series";

/// Replaces each such function; one with other arguments than whole numbers is refused.
pub(super) fn rewrite_series(query: &mut Query) -> Result<(), SqlError> {
    match query.visit(&mut Series) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Series;

impl VisitorMut for Series {
    type Break = SqlError;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match replacement(factor) {
            Ok(Some(other)) => *factor = other,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

fn replacement(factor: &TableFactor) -> Result<Option<TableFactor>, SqlError> {
    let TableFactor::Table { name, args: Some(args), alias, .. } = factor else { return Ok(None) };
    let is_series = matches!(name.0.as_slice(), [part] if part.as_ident().is_some_and(|name| fold(name) == NAME));
    if !is_series {
        return Ok(None);
    }
    let numbers = args.args.iter().map(number).collect::<Option<Vec<i64>>>();
    let (from, to, step) = match numbers.as_deref() {
        Some([from, to]) => (*from, *to, 1),
        Some([from, to, step]) => (*from, *to, *step),
        _ => {
            return Err(SqlError::not_supported("generate_series() in a view takes whole numbers that are constants")
                .with_hint("Write generate_series(from, to) or generate_series(from, to, step)."));
        }
    };
    if step == 0 {
        return Err(SqlError::new(sqlstate::INVALID_PARAMETER, "step size cannot equal zero"));
    }
    let is_empty = (step > 0 && from > to) || (step < 0 && from < to);
    let items = if is_empty { 0 } else { (from.abs_diff(to) / step.unsigned_abs()).saturating_add(1) };
    if items > ITEMS_MAX {
        let message = format!("generate_series() in a view gives {items} rows, at most {ITEMS_MAX} are possible");
        return Err(SqlError::new(sqlstate::INVALID_PARAMETER, message));
    }
    let alias = alias.clone().unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new(NAME),
        columns: vec![],
        at: None,
    });
    // As in PostgreSQL the alias of the function is also that of its column.
    let column = alias.columns.first().map_or(&alias.name, |column| &column.name);
    let rows = if items == 0 {
        format!("SELECT CAST(NULL AS bigint) AS {column} WHERE false")
    } else {
        let list: Vec<String> = (0..items as i64).map(|place| (from + place * step).to_string()).collect();
        format!("SELECT unnest(make_array({})) AS {column}", list.join(", "))
    };
    let subquery = parse_query(&rows)?;
    let alias = Some(TableAlias { columns: vec![], ..alias });
    Ok(Some(TableFactor::Derived { lateral: false, subquery, alias, sample: None }))
}

fn number(argument: &FunctionArg) -> Option<i64> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument else { return None };
    let (sign, expr) = match expr {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => ("-", expr.as_ref()),
        other => ("", other),
    };
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => format!("{sign}{digits}").parse().ok(),
            _ => None,
        },
        _ => None,
    }
}
