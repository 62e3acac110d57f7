//! Names of result columns, as PostgreSQL gives them to items without alias.

use datafusion::sql::sqlparser::ast::{Expr, Query, SelectItem, SetExpr};

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
