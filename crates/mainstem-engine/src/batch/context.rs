//! One DataFusion context per statement, with the relations that the statement names, all at one cut.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList};
use datafusion::catalog::{CatalogProviderList, MemorySchemaProvider, SchemaProvider, TableProvider};
use datafusion::common::ParamValues;
use datafusion::datasource::ViewTable;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{FunctionRegistry, SendableRecordBatchStream};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Query, Statement as SqlStatement, TableFactor,
    Visit, Visitor,
};
use mainstem_catalog::{Catalog, Dependency, Relation, RelationId, RelationKind};
use mainstem_sql::{Purpose, SqlError, arrow_schema, parse_query, rewrite_query, rewrite_versions};

use super::errors::{engine_error, query_error, view_error};
use super::own_writes::{self, OwnWrites};
use super::provider::RowsTable;
use super::source::SourceTable;
use crate::engine::{Engine, Pinned, PinnedRelation};
use crate::input_log::Cut;
use crate::tables::{Image, Overlay, Snapshot};

/// Where relations that were named without a schema are.
pub(crate) const PUBLIC: &str = "public";
/// Where DML puts the rows that it works on; no name that SQL can reach without quotes.
pub(crate) const TARGET_SCHEMA: &str = "__Target";

/// What one statement reads.
#[derive(Clone, Debug, Default)]
pub struct ReadPoint {
    /// The published version must hold this: the session's own earlier writes, and what it has seen.
    pub at_least: Cut,
    /// Inside BEGIN: the transaction's snapshot and its own writes, see `Tables::read_point`.
    pub transaction: Option<Arc<Snapshot>>,
}

/// How statements of a session run.
#[derive(Clone, Debug)]
pub struct ContextOptions {
    /// Bounds the memory of all queries together, see [`memory_limited`].
    pub runtime: Arc<RuntimeEnv>,
    /// Name of the database that the relations are in.
    pub database: String,
    /// The session's time zone.
    pub time_zone: String,
    /// Threads that one query may use at once.
    pub partitions: usize,
    /// Further schemas: `pg_catalog`, `information_schema`.
    pub schemas: Vec<(String, Arc<dyn SchemaProvider>)>,
}

impl Default for ContextOptions {
    fn default() -> Self {
        ContextOptions {
            runtime: memory_limited(256 << 20),
            database: "dev".to_owned(),
            time_zone: "+00:00".to_owned(),
            partitions: 1,
            schemas: Vec::new(),
        }
    }
}

/// What queries share: together they use at most this much memory; one that needs more fails with 53200. Nothing spills.
#[must_use]
pub fn memory_limited(query_memory_bytes: usize) -> Arc<RuntimeEnv> {
    let no_files = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(query_memory_bytes)))
        .with_disk_manager_builder(no_files)
        .build_arc()
        .expect("a runtime without files")
}

/// All functions, ours in place of DataFusion's where there are both.
static TEMPLATE: LazyLock<SessionState> = LazyLock::new(|| {
    let mut state = mainstem_sql::session_state_builder(Purpose::Query).build();
    for function in super::exact_aggregates() {
        state.register_udaf(function).expect("a registry that takes functions");
    }
    state
});

fn configuration(database: &str, time_zone: &str, partitions: usize) -> SessionConfig {
    let mut config = mainstem_sql::session_config(Purpose::Query)
        .with_target_partitions(partitions)
        .with_default_catalog_and_schema(database, PUBLIC);
    config.options_mut().execution.time_zone = Some(time_zone.to_owned());
    config
}

/// The relations that a statement or query reads, plain views and what they read included. Names that the catalog does not
/// have (CTEs, system tables, mistakes) are left out.
#[must_use]
pub fn relations_of(catalog: &Catalog, statement: &impl Visit) -> Vec<RelationId> {
    let mut names = NamedRelations { catalog, found: BTreeSet::new() };
    let _ = statement.visit(&mut names);
    names.found.into_iter().collect()
}

struct NamedRelations<'c> {
    catalog: &'c Catalog,
    found: BTreeSet<RelationId>,
}

impl NamedRelations<'_> {
    fn add(&mut self, parts: &[String]) {
        let (schema, name) = match parts {
            [name] => (PUBLIC, name),
            [.., schema, name] => (schema.as_str(), name),
            [] => return,
        };
        if let Some(relation) = self.catalog.relation_named(schema, name) {
            with_views_expanded(self.catalog, relation, &mut self.found);
        }
    }

    fn add_argument(&mut self, argument: &FunctionArg) {
        let (FunctionArg::Unnamed(FunctionArgExpr::Expr(value))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(value), .. }) = argument
        else {
            return;
        };
        match value {
            SqlExpr::Identifier(name) => self.add(&[folded(name)]),
            SqlExpr::CompoundIdentifier(parts) => self.add(&parts.iter().map(folded).collect::<Vec<_>>()),
            _ => {}
        }
    }
}

/// An identifier as the catalog has it.
fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

fn with_views_expanded(catalog: &Catalog, relation: &Relation, found: &mut BTreeSet<RelationId>) {
    if !found.insert(relation.id) || !matches!(relation.kind, RelationKind::View(_)) {
        return;
    }
    for dependency in &relation.depends_on {
        if let Dependency::Relation(id) = dependency
            && let Some(below) = catalog.relation(*id)
        {
            with_views_expanded(catalog, below, found);
        }
    }
}

impl Visitor for NamedRelations<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident().map(folded)).collect();
        self.add(&parts);
        ControlFlow::Continue(())
    }

    /// `tumble(relation, ...)`: the relation stands among the arguments.
    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { args: Some(arguments), .. } => {
                arguments.args.iter().for_each(|argument| self.add_argument(argument));
            }
            TableFactor::Function { args, .. } => args.iter().for_each(|argument| self.add_argument(argument)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// A context with these relations (see [`relations_of`]), all at one cut. Waits until the read point is published. A view
/// with an error is that error.
pub async fn session_context(
    engine: &Engine,
    catalog: &Arc<Catalog>,
    relations: &[RelationId],
    at: &ReadPoint,
    options: &ContextOptions,
) -> Result<SessionContext, SqlError> {
    context_with(engine, catalog, relations, at, options, HashMap::new()).await
}

/// [`session_context`], with some relations replaced.
pub(crate) async fn context_with(
    engine: &Engine,
    catalog: &Arc<Catalog>,
    relations: &[RelationId],
    at: &ReadPoint,
    options: &ContextOptions,
    mut replaced: HashMap<RelationId, Arc<dyn TableProvider>>,
) -> Result<SessionContext, SqlError> {
    let ids: BTreeSet<RelationId> = relations.iter().copied().collect();
    let stored: Vec<RelationId> = ids
        .iter()
        .filter(|id| !replaced.contains_key(id))
        .filter(|id| catalog.relation(**id).is_some_and(|it| !matches!(it.kind, RelationKind::View(_))))
        .copied()
        .collect();
    let no_writes = HashMap::new();
    let overlays = at.transaction.as_ref().map_or(&no_writes, |snapshot| &snapshot.overlays);
    let affected = own_writes::affected(catalog, &ids, overlays);
    let mut needed: BTreeSet<RelationId> = stored.iter().copied().collect();
    needed.extend(affected.values().flatten().copied());
    needed.retain(|id| catalog.relation(*id).is_some_and(|it| !matches!(it.kind, RelationKind::View(_))));
    let stored: Vec<RelationId> = needed.into_iter().collect();
    if let Some(snapshot) = &at.transaction {
        let below = ids.iter().flat_map(|id| own_writes::all_below(catalog, *id)).chain(ids.iter().copied());
        snapshot.note_read(below.filter_map(|id| catalog.relation(id)?.topic()));
    }
    let pinned = match &at.transaction {
        Some(snapshot) => snapshot.pinned(engine, &stored).await?,
        None => {
            // After a restart a view may have to read its history again. Waits for no lanes but theirs.
            engine.pin_when(&stored, at.at_least).await.map_err(|error| engine_error(&error))?
        }
    };
    let own_writes = OwnWrites { engine, catalog, pinned: &pinned, overlays, options };
    let context = empty_context(options);
    // For what a query asks of definitions: which column has a relation's event time.
    context.state_ref().write().config_mut().set_extension(catalog.clone());
    // A view is younger than what it reads.
    for id in ids {
        let relation = catalog.relation(id).ok_or_else(|| engine_error(&crate::EngineError::UnknownRelation(id.0)))?;
        let provider = match (replaced.remove(&id), &relation.kind) {
            (Some(provider), _) => provider,
            (None, RelationKind::View(view)) => view_over(&context, relation, &view.query).await?,
            (None, _) if affected.contains_key(&id) => own_writes.provider(relation).await?,
            (None, _) => stored_relation(engine, relation, &pinned, overlays)?,
        };
        register(&context, &relation.schema, &relation.name, provider);
    }
    Ok(context)
}

pub(super) fn stored_relation(
    engine: &Engine,
    relation: &Arc<Relation>,
    pinned: &Pinned,
    overlays: &HashMap<RelationId, Arc<Overlay>>,
) -> Result<Arc<dyn TableProvider>, SqlError> {
    let missing = || engine_error(&crate::EngineError::UnknownRelation(relation.id.0));
    match pinned.relations.get(&relation.id).ok_or_else(missing)? {
        PinnedRelation::Collection(_, Some(error)) => Err(view_error(&relation.name, error)),
        PinnedRelation::Collection(version, None) => {
            let overlay = overlays.get(&relation.id).cloned().unwrap_or_default();
            let image = Image { version: version.clone(), overlay };
            let catalog = engine.shared.catalog();
            let indexes = catalog.indexes().filter(|index| index.of == relation.id);
            let indexes = indexes.map(|index| (index.columns.clone(), index.name.clone())).collect();
            let table = RowsTable::new(image, visible_columns(relation));
            Ok(Arc::new(table.counted(engine.shared.rows_queried.clone(), indexes)))
        }
        PinnedRelation::Source { positions } => {
            Ok(Arc::new(SourceTable::new(relation.clone(), engine.input().clone(), positions.clone())))
        }
    }
}

/// A context without relations.
pub(super) fn empty_context(options: &ContextOptions) -> SessionContext {
    let catalogs = MemoryCatalogProviderList::new();
    let database = Arc::new(MemoryCatalogProvider::new());
    catalogs.register_catalog(options.database.clone(), database.clone());
    let state = SessionStateBuilder::new_from_existing(TEMPLATE.clone())
        .with_config(configuration(&options.database, &options.time_zone, options.partitions))
        .with_runtime_env(options.runtime.clone())
        .with_catalog_list(Arc::new(catalogs))
        .build();
    let own = [PUBLIC, TARGET_SCHEMA].map(|name| (name.to_owned(), Arc::new(MemorySchemaProvider::new()) as Arc<_>));
    for (name, schema) in own.into_iter().chain(options.schemas.iter().cloned()) {
        database.register_schema(&name, schema).expect("a catalog in memory takes schemas");
    }
    SessionContext::new_with_state(state)
}

/// Makes a table of the context's database.
pub(crate) fn register(context: &SessionContext, schema: &str, name: &str, provider: Arc<dyn TableProvider>) {
    let state = context.state();
    let database = &state.config_options().catalog.default_catalog;
    let database = state.catalog_list().catalog(database).expect("the context's database");
    let known = database.schema(schema).unwrap_or_else(|| {
        let new: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
        database.register_schema(schema, new.clone()).expect("a catalog in memory takes schemas");
        new
    });
    known.register_table(name.to_owned(), provider).expect("a name that is new in its schema");
}

/// A view's query over what the context has, with the view's own column names.
pub(super) async fn view_over(
    context: &SessionContext,
    relation: &Relation,
    query: &str,
) -> Result<Arc<dyn TableProvider>, SqlError> {
    let plan = plan_text(context, query).await?;
    let plan = as_declared(plan, relation).map_err(query_error)?;
    Ok(Arc::new(ViewTable::new(plan, Some(query.to_owned()))))
}

/// The plan's columns under the relation's names and types.
pub(super) fn as_declared(plan: LogicalPlan, relation: &Relation) -> datafusion::common::Result<LogicalPlan> {
    let declared = arrow_schema(&relation.columns);
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .zip(declared.fields())
        .map(|((qualifier, found), wanted)| {
            let column = Expr::Column((qualifier, found).into());
            let typed =
                if found.data_type() == wanted.data_type() { column } else { cast(column, wanted.data_type().clone()) };
            typed.alias(wanted.name())
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// Plans a query given as text.
pub(crate) async fn plan_text(context: &SessionContext, query: &str) -> Result<LogicalPlan, SqlError> {
    plan_query(context, *parse_query(query)?).await
}

/// Plans a query over the context's relations.
pub async fn plan_query(context: &SessionContext, mut query: Query) -> Result<LogicalPlan, SqlError> {
    if let Some(catalog) = context.state().config().get_extension::<Catalog>() {
        rewrite_versions(&catalog, &mut query)?;
    }
    rewrite_query(&mut query)?;
    let statement = DfStatement::Statement(Box::new(SqlStatement::Query(Box::new(query))));
    let state = context.state();
    let plan = state.statement_to_plan(statement).await.map_err(query_error)?;
    // Before it the types are those of the first branch of a UNION or a CASE. Parameters have no type before their values.
    if plan.get_parameter_names().map_err(query_error)?.is_empty() {
        return state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).map_err(query_error);
    }
    Ok(plan)
}

/// Runs a plan of the context; parameters take their values. Errors of the stream are for [`query_error`].
pub async fn run(
    context: &SessionContext,
    plan: LogicalPlan,
    parameters: Option<ParamValues>,
) -> Result<SendableRecordBatchStream, SqlError> {
    let plan = match parameters {
        Some(parameters) => plan.replace_params_with_values(&parameters).map_err(query_error)?,
        None => plan,
    };
    let frame = context.execute_logical_plan(plan).await.map_err(query_error)?;
    frame.execute_stream().await.map_err(query_error)
}

/// Columns that `SELECT *` shows.
pub(crate) fn visible_columns(relation: &Relation) -> Vec<usize> {
    (0..relation.columns.len()).filter(|column| !relation.columns[*column].hidden).collect()
}
