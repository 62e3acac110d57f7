//! Names of result columns, as PostgreSQL gives them to items without alias.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr};

use crate::parse::fold;

/// A name per item of the select list; none for items that stand for several columns. For a set operation, those of its
/// first query; for VALUES nothing.
#[must_use]
pub fn output_names(query: &Query) -> Vec<Option<String>> {
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::Select(select) => return select.projection.iter().map(item_name).collect(),
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(query) => body = query.body.as_ref(),
            _ => return vec![],
        }
    }
}

/// Names for the columns of a planned query: PostgreSQL's where the select list tells, else DataFusion's.
#[must_use]
pub fn column_names(query: &Query, planned: &[String]) -> Vec<String> {
    let names = output_names(query);
    let wildcards = names.iter().filter(|name| name.is_none()).count();
    if names.is_empty() || wildcards > 1 || (wildcards == 0 && names.len() != planned.len()) {
        return planned.to_vec();
    }
    let Some(spread) = (planned.len() + wildcards).checked_sub(names.len()) else { return planned.to_vec() };
    let mut columns = Vec::with_capacity(planned.len());
    for name in names {
        match name {
            Some(name) => columns.push(name),
            None => columns.extend_from_slice(&planned[columns.len()..columns.len() + spread]),
        }
    }
    columns
}

/// PostgreSQL lets columns of a result have the same name, DataFusion's plans do not: gives such items aliases that tell them
/// apart. What the client is to see are the [`column_names`] of the query as it was before.
pub fn distinct_names(query: &mut Query) {
    distinct_names_of(&mut query.body);
}

fn distinct_names_of(body: &mut SetExpr) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            distinct_names_of(left);
            distinct_names_of(right);
        }
        SetExpr::Query(query) => distinct_names(query),
        SetExpr::Select(select) => {
            let is_wildcard =
                |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
            let has_wildcard = select.projection.iter().any(is_wildcard);
            let mut seen = HashSet::new();
            for (place, item) in select.projection.iter_mut().enumerate() {
                let (expr, is_new) = match &*item {
                    // A column may be one of those that the wildcard stands for.
                    SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) => {
                        (expr, !has_wildcard && seen.insert(expr.to_string()))
                    }
                    // Two different subqueries can have the same name.
                    SelectItem::UnnamedExpr(expr @ Expr::Subquery(_)) => (expr, seen.insert("subquery".to_owned())),
                    SelectItem::UnnamedExpr(expr) => (expr, seen.insert(planned_name(expr))),
                    SelectItem::ExprWithAlias { expr, alias } => (expr, seen.insert(fold(alias))),
                    _ => continue,
                };
                if !is_new {
                    let alias = Ident::with_quote('"', format!("column {place}"));
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            }
        }
        _ => {}
    }
}

/// What stands for the name that DataFusion gives to an item: equal for items to which it gives equal ones, that is without
/// casts and parentheses.
fn planned_name(expr: &Expr) -> String {
    let mut expr = expr.clone();
    // What cannot be rewritten is refused when it is planned.
    let _ = super::rewrite_windows(&mut expr);
    let _ = datafusion::sql::sqlparser::ast::visit_expressions_mut(&mut expr, |part| {
        if let Expr::Nested(inner) | Expr::Cast { expr: inner, .. } = part {
            let inner = std::mem::replace(inner.as_mut(), Expr::Wildcard(AttachedToken::empty()));
            *part = inner;
        }
        ControlFlow::<()>::Continue(())
    });
    expr.to_string()
}

fn item_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(expr_name(expr).unwrap_or_else(|| "?column?".to_owned())),
        SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
        _ => None,
    }
}

fn expr_name(expr: &Expr) -> Option<String> {
    Some(match expr {
        Expr::Identifier(name) => fold(name),
        Expr::CompoundIdentifier(parts) => fold(parts.last()?),
        Expr::Function(function) => fold(function.name.0.last()?.as_ident()?),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => return expr_name(inner),
        Expr::Cast { expr, data_type, .. } => {
            return expr_name(expr).or_else(|| Some(data_type.to_string().to_lowercase()));
        }
        Expr::Case { .. } => "case".to_owned(),
        Expr::Exists { .. } => "exists".to_owned(),
        Expr::Extract { .. } => "extract".to_owned(),
        Expr::Substring { .. } => "substring".to_owned(),
        Expr::Trim { .. } => "btrim".to_owned(),
        Expr::Position { .. } => "position".to_owned(),
        Expr::Ceil { .. } => "ceil".to_owned(),
        Expr::Floor { .. } => "floor".to_owned(),
        Expr::Overlay { .. } => "overlay".to_owned(),
        Expr::Array(_) => "array".to_owned(),
        Expr::Interval(_) => "interval".to_owned(),
        Expr::Subquery(query) => return output_names(query).into_iter().next().flatten(),
        _ => return None,
    })
}
