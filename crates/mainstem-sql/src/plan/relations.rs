//! The catalog as DataFusion's planner sees it: visible columns of sources, tables and materialized views; plain views by
//! their definition.

use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{Query, Statement as AstStatement};
use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};

use super::rewrite::rewrite_query;
use super::session::planning_state;
use super::versions::rewrite_versions;
use crate::arrow_types::arrow_field;
use crate::error::{SqlError, sqlstate};
use crate::parse::parse_query;

/// Views over views over views, at most.
const VIEWS_DEPTH_MAX: usize = 64;

/// A relation without its hidden columns.
pub(super) struct RelationSource {
    pub(super) relation: Arc<Relation>,
    /// Indexes of the visible columns in the relation.
    pub(super) columns: Vec<usize>,
    schema: SchemaRef,
}

impl RelationSource {
    fn new(relation: &Arc<Relation>) -> RelationSource {
        let visible = relation.columns.iter().enumerate().filter(|(_, column)| !column.hidden);
        let (columns, fields): (Vec<_>, Vec<_>) = visible.map(|(index, column)| (index, arrow_field(column))).unzip();
        RelationSource { relation: relation.clone(), columns, schema: Arc::new(Schema::new(fields)) }
    }
}

impl TableSource for RelationSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// A plain view: its plan stands for it.
struct InlineView {
    schema: SchemaRef,
    plan: LogicalPlan,
}

impl TableSource for InlineView {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

/// The relation behind a scan that was planned here.
pub(super) fn scanned(source: &Arc<dyn TableSource>) -> Option<&RelationSource> {
    (source.as_ref() as &dyn Any).downcast_ref::<RelationSource>()
}

/// Plans queries over a catalog.
pub(super) struct Relations<'a> {
    catalog: &'a Catalog,
    state: &'a SessionState,
    /// Plain views that were looked up.
    pub(super) views: RefCell<BTreeSet<RelationId>>,
    depth: Cell<usize>,
}

impl<'a> Relations<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Relations<'a> {
        Relations { catalog, state: planning_state(), views: RefCell::default(), depth: Cell::new(0) }
    }

    /// The plan of a query as written, before any rule.
    pub(super) fn plan(&self, query: &Query) -> Result<LogicalPlan, SqlError> {
        let mut query = Box::new(query.clone());
        rewrite_versions(self.catalog, &mut query)?;
        rewrite_query(&mut query)?;
        let parser = &self.state.config_options().sql_parser;
        let options =
            ParserOptions { map_string_types_to_utf8view: parser.map_string_types_to_utf8view, ..ParserOptions::new() };
        Ok(SqlToRel::new_with_options(self, options).sql_statement_to_plan(AstStatement::Query(query))?)
    }

    fn find(&self, name: &TableReference) -> Result<&'a Arc<Relation>, SqlError> {
        let schema = name.schema().unwrap_or("public");
        if matches!(schema, "pg_catalog" | "information_schema" | "mainstem") {
            return Err(SqlError::not_supported(format!(
                "a view cannot read the system table {schema}.{}",
                name.table()
            )));
        }
        self.catalog.relation_named(schema, name.table()).ok_or_else(|| {
            let name =
                if name.schema().is_some() { format!("{schema}.{}", name.table()) } else { name.table().to_owned() };
            SqlError::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))
        })
    }

    fn inline(&self, relation: &Relation, text: &str) -> Result<InlineView, SqlError> {
        if self.depth.get() >= VIEWS_DEPTH_MAX {
            return Err(SqlError::too_complex());
        }
        self.views.borrow_mut().insert(relation.id);
        self.depth.set(self.depth.get() + 1);
        let plan = parse_query(text).and_then(|query| self.plan(&query));
        self.depth.set(self.depth.get() - 1);
        let plan = rename(plan?, relation.columns.iter().map(|column| column.name.as_str()))?;
        Ok(InlineView { schema: Arc::new(plan.schema().as_arrow().clone()), plan })
    }
}

/// A projection that gives a plan's columns these names, without qualifiers.
pub(super) fn rename<'n>(plan: LogicalPlan, names: impl Iterator<Item = &'n str>) -> Result<LogicalPlan, SqlError> {
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .zip(names)
        .map(|((qualifier, field), name)| Expr::Column((qualifier, field).into()).alias(name))
        .collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

impl ContextProvider for Relations<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>, DataFusionError> {
        let relation = self.find(&name)?;
        match &relation.kind {
            RelationKind::View(view) => Ok(Arc::new(self.inline(relation, &view.query)?)),
            _ => Ok(Arc::new(RelationSource::new(relation))),
        }
    }

    fn get_table_function_source(&self, name: &str, _args: Vec<Expr>) -> Result<Arc<dyn TableSource>, DataFusionError> {
        Err(SqlError::not_supported(format!("table function {name}() is not incremental yet")).into())
    }

    fn create_cte_work_table(&self, _: &str, _: SchemaRef) -> Result<Arc<dyn TableSource>, DataFusionError> {
        Err(SqlError::not_supported("WITH RECURSIVE is not incremental yet").into())
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(super::session::type_planner())
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
