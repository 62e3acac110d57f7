//! DataFusion's session as all of Mainstem's planning uses it: PostgreSQL's dialect and types, strings as Utf8, UTC.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::FieldRef;
use datafusion::common::DataFusionError;
use datafusion::common::config::Dialect;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast::DataType as AstType;

use super::asof::AsOfJoins;
use super::meaning::{DecimalLiterals, analyzer_rules};
use crate::arrow_types::arrow_type;
use crate::functions::{JsonOperators, own_functions, own_window_functions};
use crate::parse::{DEPTH_MAX, sql_type_of_ast};

/// What a session plans for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A materialized view's graph: one partition.
    View,
    /// A query that runs now: as many partitions as cores.
    Query,
}

/// The configuration of a session.
#[must_use]
pub fn session_config(purpose: Purpose) -> SessionConfig {
    let mut config =
        SessionConfig::new().with_default_catalog_and_schema("dev", "public").with_information_schema(false);
    if purpose == Purpose::View {
        config = config.with_target_partitions(1);
    }
    let options = config.options_mut();
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.recursion_limit = DEPTH_MAX * 8;
    // now() and to_timestamp() give timestamptz, as PostgreSQL's.
    options.execution.time_zone = Some("UTC".to_owned());
    config
}

/// DataFusion's defaults with our configuration, functions and types. Add catalogs, memory and planners to it.
#[must_use]
pub fn session_state_builder(purpose: Purpose) -> SessionStateBuilder {
    let mut builder = SessionStateBuilder::new()
        .with_config(session_config(purpose))
        .with_type_planner(type_planner())
        .with_physical_optimizer_rules(physical_rules())
        .with_analyzer_rules(analyzer_rules(&[Arc::new(AsOfJoins)]))
        .with_default_features();
    builder.scalar_functions().get_or_insert_default().extend(own_functions());
    builder.window_functions().get_or_insert_default().extend(own_window_functions());
    let planners = builder.expr_planners().get_or_insert_default();
    planners.insert(0, Arc::new(DecimalLiterals));
    planners.insert(0, Arc::new(JsonOperators));
    builder
}

/// DataFusion 54's physical rules without those that give wrong answers: `FilterPushdown` moves `a.id IS NOT NULL` from
/// above `a RIGHT JOIN b ON a.id = b.id` to `b`, so that excluded rows come back; or that fail: `aggregate_statistics` on two
/// equal aggregates without GROUP BY, `ProjectionPushdown` on EXISTS without an equality above an outer join.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let fails = ["aggregate_statistics", "ProjectionPushdown"];
    let is_sound = |name: &str| !name.starts_with("FilterPushdown") && !fails.contains(&name);
    PhysicalOptimizer::new().rules.into_iter().filter(|rule| is_sound(rule.name())).collect()
}

/// The session that views are planned in. It has no tables of its own.
pub fn planning_state() -> &'static SessionState {
    static STATE: LazyLock<SessionState> = LazyLock::new(|| session_state_builder(Purpose::View).build());
    &STATE
}

/// Type names as in column definitions.
pub(super) fn type_planner() -> Arc<dyn TypePlanner> {
    Arc::new(PostgresTypes)
}

/// Type names in casts mean the same types as in column definitions.
#[derive(Debug)]
struct PostgresTypes;

impl TypePlanner for PostgresTypes {
    fn plan_type_field(&self, sql_type: &AstType) -> Result<Option<FieldRef>, DataFusionError> {
        // Left to DataFusion: what it has and SQL has not (unsigned integers and the like).
        let Ok(sql_type) = sql_type_of_ast(sql_type) else { return Ok(None) };
        Ok(Some(Arc::new(arrow::datatypes::Field::new("", arrow_type(&sql_type), true))))
    }
}
