//! `FROM t, unnest(t.tags) AS x(tag)`: the items of a row's own list beside the row.
//!
//! DataFusion 54 plans it as a join whose right side reads columns of the left one, and cannot run that. Here the left side
//! takes the place of the one empty row that the right side starts from, and its columns are handed up.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result, TableReference};
use datafusion::logical_expr::{Expr, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Unnest};

/// The join as a chain of plans; none if its right side is something else.
pub(super) fn unnested(join: &Join) -> Result<Option<LogicalPlan>> {
    if join.join_type != JoinType::Inner || !is_lateral(&join.right) {
        return Ok(None);
    }
    let handed: Vec<Column> = join.left.schema().columns();
    let Some(plan) = rooted(&join.right, &join.left, &handed)? else { return Ok(None) };
    let equal = |(left, right): &(Expr, Expr)| left.clone().eq(right.clone());
    let conditions = join.on.iter().map(equal).chain(join.filter.clone());
    Ok(Some(match conditions.reduce(Expr::and) {
        Some(condition) => LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan))?),
        None => plan,
    }))
}

/// Whether an unnest stands over columns of outside.
fn is_lateral(plan: &LogicalPlan) -> bool {
    let has_unnest = plan.exists(|node| Ok(matches!(node, LogicalPlan::Unnest(_)))).unwrap_or(false);
    has_unnest && !plan.all_out_ref_exprs().is_empty()
}

/// The plan over `left` instead of one empty row, with the columns of `left` before its own.
fn rooted(plan: &LogicalPlan, left: &Arc<LogicalPlan>, handed: &[Column]) -> Result<Option<LogicalPlan>> {
    let below = |plan: &LogicalPlan| rooted(plan, left, handed);
    let own = |plan: &LogicalPlan| plan.schema().columns();
    let before = || handed.iter().cloned().map(Expr::Column);
    Ok(match plan {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => Some(left.as_ref().clone()),
        LogicalPlan::Subquery(subquery) => below(&subquery.subquery)?,
        LogicalPlan::Projection(projection) => {
            let Some(input) = below(&projection.input)? else { return Ok(None) };
            let own = projection.expr.iter().map(|expr| inner(expr.clone())).collect::<Result<Vec<_>>>()?;
            Some(LogicalPlanBuilder::from(input).project(before().chain(own))?.build()?)
        }
        LogicalPlan::Filter(filter) => {
            let Some(input) = below(&filter.input)? else { return Ok(None) };
            Some(LogicalPlan::Filter(Filter::try_new(inner(filter.predicate.clone())?, Arc::new(input))?))
        }
        LogicalPlan::Unnest(unnest) => {
            let Some(input) = below(&unnest.input)? else { return Ok(None) };
            let unnest = Unnest::try_new(Arc::new(input), unnest.exec_columns.clone(), unnest.options.clone())?;
            Some(LogicalPlan::Unnest(unnest))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(input) = below(&alias.input)? else { return Ok(None) };
            let named = own(&alias.input).into_iter().map(|column| {
                let name = column.name.clone();
                Expr::Column(column).alias_qualified(Some::<TableReference>(alias.alias.clone()), name)
            });
            Some(LogicalPlanBuilder::from(input).project(before().chain(named))?.build()?)
        }
        _ => None,
    })
}

/// Columns of outside are columns of the input now.
fn inner(expr: Expr) -> Result<Expr> {
    let rewritten = expr.transform_up(|expr| {
        Ok(match expr {
            Expr::OuterReferenceColumn(_, column) => Transformed::yes(Expr::Column(column)),
            other => Transformed::no(other),
        })
    })?;
    Ok(rewritten.data)
}
