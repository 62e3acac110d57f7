//! From a query to the operator graph of a materialized view.
//!
//! DataFusion plans, checks types and rewrites subqueries to joins; only rules that are deterministic and leave nothing that
//! cannot be kept up to date are used, with no execution start time. What comes out is turned into a [`Graph`], node by node
//! (`convert`), with EMIT ON WINDOW CLOSE as two further operators (`window_close`).

mod aggregates;
mod asof;
mod constant;
mod convert;
mod joins;
mod lateral;
mod meaning;
mod names;
mod over;
mod qualify;
mod relations;
mod rewrite;
mod series;
mod session;
mod sliding;
mod subqueries;
mod syntax;
mod temporal;
#[cfg(test)]
mod tests;
mod time_bounds;
mod versions;
mod window_close;

use std::sync::Arc;

use datafusion::common::Column as PlanColumn;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::{Optimizer, OptimizerContext, OptimizerRule};
use datafusion::sql::sqlparser::ast::Query;
use mainstem_catalog::{Catalog, Column, Dependency, Ident};

use crate::arrow_types::{arrow_type, sql_type};
use crate::error::{SqlError, sqlstate};
use crate::functions::check_deterministic;
use crate::graph::Graph;
use convert::Convert;
use relations::Relations;

pub use asof::stands_for_asof;
pub use constant::constant;
pub use names::{column_names, distinct_names, output_names};
pub use rewrite::{rewrite_query, rewrite_windows};
pub use session::{Purpose, planning_state, session_config, session_state_builder};
pub use temporal::at_time;
pub use versions::rewrite_versions;
pub use window_close::Emit;

/// A materialized view, planned.
#[derive(Clone, Debug)]
pub struct ViewPlan {
    /// Its columns; the graph's output has exactly their Arrow types, in this order.
    pub columns: Vec<Column>,
    /// What keeps it.
    pub graph: Graph,
    /// Relations that it reads, plain views included, in order of id.
    pub depends_on: Vec<Dependency>,
    /// The query's text with names of relations resolved.
    pub canonical_query: String,
}

/// A plain view, checked.
#[derive(Clone, Debug)]
pub struct QueryPlan {
    /// Its columns.
    pub columns: Vec<Column>,
    /// Relations that it reads.
    pub depends_on: Vec<Dependency>,
    /// The query's text with names of relations resolved.
    pub canonical_query: String,
}

/// Plans a materialized view. `names` are given to its first columns.
///
/// What cannot be kept up to date is refused by name (`0A000`), a function that is not deterministic too (`42P17`).
pub fn plan_view(
    catalog: &Catalog,
    query: &Query,
    names: &[Ident],
    emit: impl Into<Emit>,
) -> Result<ViewPlan, SqlError> {
    let emit = emit.into();
    on_large_stack(|| {
        let relations = Relations::new(catalog);
        let mut planned = query.clone();
        series::rewrite_series(&mut planned)?;
        let plan = relations.plan(&planned)?;
        check_functions(&plan)?;
        let plan = optimize(over::numbered_distinct_on(asof::nodes_of(plan)?)?)?;
        let (plan, columns) = conform(plan, query, names)?;
        let (graph, mut depends_on) = Convert::new(emit).graph(&plan, &columns)?;
        depends_on.extend(relations.views.borrow().iter().map(|view| Dependency::Relation(*view)));
        depends_on.sort_unstable();
        depends_on.dedup();
        graph.check().map_err(|reason| SqlError::new(sqlstate::INTERNAL, format!("operator graph: {reason}")))?;
        Ok(ViewPlan { columns, graph, depends_on, canonical_query: canonical_text(catalog, query)? })
    })
}

/// Checks the query of a plain view: anything that can be selected.
pub fn plan_query(catalog: &Catalog, query: &Query, names: &[Ident]) -> Result<QueryPlan, SqlError> {
    on_large_stack(|| {
        let relations = Relations::new(catalog);
        let plan = asof::nodes_of(relations.plan(query)?)?;
        let plan = meaning::analyzer().execute_and_check(plan, planning_state().config_options(), |_, _| {})?;
        let mut depends_on: Vec<_> = relations.views.borrow().iter().map(|view| Dependency::Relation(*view)).collect();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                depends_on.extend(relations::scanned(&scan.source).map(|of| Dependency::Relation(of.relation.id)));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        depends_on.sort_unstable();
        depends_on.dedup();
        let (_, columns) = conform(plan, query, names)?;
        Ok(QueryPlan { columns, depends_on, canonical_query: canonical_text(catalog, query)? })
    })
}

/// A query's text with the names of its relations resolved, and of what FOR SYSTEM_TIME AS OF compares.
fn canonical_text(catalog: &Catalog, query: &Query) -> Result<String, SqlError> {
    let mut query = query.clone();
    rewrite_versions(catalog, &mut query)?;
    Ok(qualify::canonical_text(catalog, &query))
}

/// Statements are shallow, but views may be nested in views.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    crate::parse::with_deep_stack(usize::MAX, work)
}

fn check_functions(plan: &LogicalPlan) -> Result<(), SqlError> {
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                // The clock may stand in conditions; where it must not it is found when they are converted.
                if let Expr::ScalarFunction(function) = expr
                    && !temporal::is_clock(expr)
                {
                    check_deterministic(function.func.name(), function.func.signature().volatility)?;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

fn optimize(plan: LogicalPlan) -> Result<LogicalPlan, SqlError> {
    use datafusion::optimizer as rules;
    let list: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(rules::rewrite_set_comparison::RewriteSetComparison::new()),
        Arc::new(rules::optimize_unions::OptimizeUnions::new()),
        Arc::new(rules::simplify_expressions::SimplifyExpressions::new()),
        Arc::new(rules::decorrelate_predicate_subquery::DecorrelatePredicateSubquery::new()),
        Arc::new(rules::scalar_subquery_to_join::ScalarSubqueryToJoin::new()),
        Arc::new(rules::decorrelate_lateral_join::DecorrelateLateralJoin::new()),
        Arc::new(rules::extract_equijoin_predicate::ExtractEquijoinPredicate::new()),
        Arc::new(rules::eliminate_filter::EliminateFilter::new()),
        Arc::new(rules::eliminate_cross_join::EliminateCrossJoin::new()),
        Arc::new(rules::propagate_empty_relation::PropagateEmptyRelation::new()),
        Arc::new(rules::eliminate_outer_join::EliminateOuterJoin::new()),
        Arc::new(rules::push_down_filter::PushDownFilter::new()),
        Arc::new(rules::optimize_projections::OptimizeProjections::new()),
    ];
    let mut options = planning_state().config_options().as_ref().clone();
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    let plan = meaning::analyzer().execute_and_check(plan, &options, |_, _| {})?;
    let context = OptimizerContext::new_with_config_options(Arc::new(options)).without_query_execution_start_time();
    Ok(Optimizer::with_rules(list).optimize(plan, &context, |_, _| {})?)
}

/// Gives the plan the columns of the view: names as PostgreSQL gives them, types that SQL has.
fn conform(plan: LogicalPlan, query: &Query, given: &[Ident]) -> Result<(LogicalPlan, Vec<Column>), SqlError> {
    let planned: Vec<String> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut names = column_names(query, &planned);
    if given.len() > names.len() {
        let message = format!("{} column names were given, but the query has {} columns", given.len(), names.len());
        return Err(SqlError::syntax(message));
    }
    names[..given.len()].clone_from_slice(given);
    let mut columns = Vec::with_capacity(names.len());
    let mut expressions = Vec::with_capacity(names.len());
    let mut seen = std::collections::HashSet::new();
    for ((qualifier, field), name) in plan.schema().iter().zip(&names) {
        if !seen.insert(name) {
            let message = format!("column \"{name}\" specified more than once");
            return Err(SqlError::new(sqlstate::DUPLICATE_COLUMN, message)
                .with_hint("Give each column a name of its own with AS."));
        }
        let sql_type = sql_type(field);
        let expression = Expr::Column(PlanColumn::from((qualifier, field)));
        expressions.push(expression.cast_to(&arrow_type(&sql_type), plan.schema())?.alias(name));
        columns.push(Column { name: name.clone(), sql_type, nullable: true, hidden: false, default: None });
    }
    let is_same =
        plan.schema().iter().zip(&names).zip(&columns).all(|(((_, field), name), column)| {
            field.name() == name && *field.data_type() == arrow_type(&column.sql_type)
        });
    let plan = if is_same { plan } else { LogicalPlanBuilder::from(plan).project(expressions)?.build()? };
    Ok((plan, columns))
}
