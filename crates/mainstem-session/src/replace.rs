//! CREATE OR REPLACE, and ADD COLUMN: a relation and what depends on it, built aside and switched by one entry.
//!
//! The relations that come have ids of their own and read history as every new view does; the old ones go on meanwhile. When all
//! of them are ready, one event gives them the names. Whoever reads at that moment reads by an id that is gone, and plans
//! again.
//!
//! Always true here: a dependent follows if its query still gives its columns, by names and types, else nothing is begun;
//! what was begun is finished or abandoned, by the statement, or after a kill by the next start; a replacement with an
//! error that the old view did not have is abandoned.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Query;
use mainstem_catalog::{
    Catalog, Column, Dependency, Event, Ident, Origin, Relation, RelationId, RelationKind, Replacement, ViewDefinition,
};
use mainstem_engine::PinnedRelation;
use mainstem_engine::backfill_pace::RATE_SETTING;
use mainstem_engine::incremental::Circuit;
use mainstem_engine::input_log::Hold;
use mainstem_sql::parse::{query_with_columns, quoted};
use mainstem_sql::statement::{CreateMaterializedView, CreateView};
use mainstem_sql::{Emit, Graph, SqlError, parse_query, plan_query, plan_view};
use tokio::sync::oneshot;

use crate::alter::redefined;
use crate::ddl::{PUBLIC, refusal};
use crate::session::{Response, Session};
use crate::shared::{Shared, engine_error};

/// Plans again when definitions have changed while it planned.
const ATTEMPTS_MAX: usize = 20;

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    is_materialized: bool,
    name: Ident,
    columns: Vec<Ident>,
    query: Box<Query>,
    emit: Emit,
    sql: String,
}

impl From<&CreateMaterializedView> for Wanted {
    fn from(create: &CreateMaterializedView) -> Wanted {
        Wanted {
            is_materialized: true,
            name: create.name.name.clone(),
            columns: create.columns.clone(),
            query: create.query.clone(),
            emit: create.emit(),
            sql: create.sql.clone(),
        }
    }
}

impl From<&CreateView> for Wanted {
    fn from(create: &CreateView) -> Wanted {
        Wanted {
            is_materialized: false,
            name: create.name.name.clone(),
            columns: create.columns.clone(),
            query: create.query.clone(),
            emit: Emit::default(),
            sql: create.sql.clone(),
        }
    }
}

/// What is to be there in place of what is.
#[derive(Clone, Debug)]
pub(crate) enum Root {
    /// `CREATE OR REPLACE`
    Wanted(Wanted),
    /// A table or source with another text.
    Altered {
        /// As it is.
        id: RelationId,
        /// Its CREATE as it is to be.
        sql: String,
    },
}

impl Wanted {
    fn noun(&self) -> &'static str {
        if self.is_materialized { "materialized view" } else { "view" }
    }
}

/// What is to be begun.
struct Plan {
    old: Vec<RelationId>,
    new: Vec<Relation>,
    /// What the new views begin with stays while these live.
    holds: Vec<Box<dyn Hold>>,
}

impl Session {
    /// Replaces what exists under the name.
    pub(crate) async fn replace(&mut self, wanted: Wanted) -> Result<Response, SqlError> {
        let tag = format!("CREATE {}", wanted.noun().to_uppercase());
        self.replace_with(Root::Wanted(wanted), &tag).await
    }

    /// Builds what is to come, with its dependents, and waits until it has taken its place.
    pub(crate) async fn replace_with(&mut self, wanted: Root, tag: &str) -> Result<Response, SqlError> {
        let shared = self.shared.clone();
        let settings = self.view_settings();
        for _ in 0..ATTEMPTS_MAX {
            let catalog = shared.catalogs.current();
            let Plan { old, new, holds } = planned(&shared, &catalog, &wanted, &settings)?;
            let (root, first) = (old[0], new[0].id);
            let (version, begun) = (catalog.version(), Event::ReplacementBegun { old, new });
            let (told, is_begun) = std::sync::mpsc::channel();
            self.change(Box::new(move |catalog| {
                let is_same = catalog.version() == version;
                let _ = told.send(is_same);
                if !is_same {
                    return Ok(Vec::new());
                }
                catalog.clone().apply(&begun).map_err(|refused| refusal(&refused))?;
                Ok(vec![begun])
            }))
            .await?;
            if !is_begun.try_recv().unwrap_or(false) {
                continue;
            }
            let (told, switched) = oneshot::channel();
            tokio::spawn(async move {
                let result = finish(&shared, root).await;
                drop(holds);
                // Nobody waits when the statement was cancelled, or runs in the background.
                let _ = told.send(result);
            });
            if self.settings.is_on("background_ddl") && matches!(wanted, Root::Wanted(_)) {
                return Ok(Response::done(tag));
            }
            self.under_way = Some(UnderWay::Replacement { root, first });
            let result = switched.await.map_err(|_| SqlError::new("57P01", "the replacement was interrupted"));
            self.under_way = None;
            result??;
            return Ok(Response::done(tag));
        }
        Err(SqlError::new("40001", "definitions change all the time")
            .with_hint("Try again when fewer sessions run CREATE and DROP."))
    }
}

/// A definition that a statement waits for; it is taken back when the statement is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnderWay {
    /// A view that reads history.
    View(RelationId),
    /// A replacement: what is replaced, and the first of what comes.
    Replacement { root: RelationId, first: RelationId },
}

impl UnderWay {
    /// As if it had never been asked for, unless something depends on it by now.
    pub(crate) async fn take_back(self, shared: &Shared) -> Result<(), SqlError> {
        let (catalog, _) = shared
            .catalogs
            .change(Box::new(move |catalog| {
                let event = match self {
                    UnderWay::View(id) => Event::RelationsDropped { relations: vec![id] },
                    UnderWay::Replacement { root, first } => {
                        let is_it = |replacement: &Replacement| replacement.new.first() == Some(&first);
                        if !catalog.replacement_of(root).is_some_and(is_it) {
                            return Ok(Vec::new());
                        }
                        Event::ReplacementAbandoned { of: root }
                    }
                };
                let is_refused = catalog.clone().apply(&event).is_err();
                Ok(if is_refused { Vec::new() } else { vec![event] })
            }))
            .await?;
        shared.engine.catalog_changed(catalog);
        Ok(())
    }
}

impl Shared {
    /// Goes on with what a kill has interrupted. Called once, by the runtime that serves sessions.
    pub fn resume_replacements(self: &Arc<Self>) {
        let catalog = self.catalogs.current();
        for (root, _) in catalog.replacements() {
            let shared = self.clone();
            tokio::spawn(async move {
                if let Err(error) = finish(&shared, root).await {
                    tracing::warn!(%error, "a view that was being replaced stays as it is");
                }
            });
        }
    }
}

/// Waits for what is aside and switches, or abandons it.
async fn finish(shared: &Shared, root: RelationId) -> Result<(), SqlError> {
    let catalog = shared.catalogs.current();
    let gone = || SqlError::new("42P01", "the view was dropped while its replacement was built");
    let Some(replacement) = catalog.replacement_of(root) else { return Err(gone()) };
    let Some(first) = replacement.new.first().copied() else { return Err(gone()) };
    let result = switch(shared, &catalog, root, replacement).await;
    match &result {
        // The next start goes on with it.
        Err(error) if error.sqlstate == "57P01" => {}
        Err(_) => {
            let is_gone = shared.catalogs.current().replacement_of(root).is_none();
            UnderWay::Replacement { root, first }.take_back(shared).await?;
            if is_gone {
                return Err(gone());
            }
        }
        Ok(()) => {}
    }
    result
}

async fn switch(
    shared: &Shared,
    catalog: &Arc<Catalog>,
    root: RelationId,
    replacement: &Replacement,
) -> Result<(), SqlError> {
    for id in &replacement.new {
        shared.engine.wait_ready(*id).await.map_err(|error| engine_error(&error))?;
    }
    // Nobody writes to a table while it changes hands, and the new one holds all that was written to the old one.
    let table = catalog.relation(root).filter(|relation| matches!(relation.kind, RelationKind::Table(_)));
    let _quiet = match table {
        Some(table) => Some(shared.tables.quiet(table).await?),
        None => None,
    };
    for (old, new) in replacement.old.iter().zip(&replacement.new) {
        if let (None, Some(error)) = (error_in(shared, catalog, *old), error_in(shared, catalog, *new)) {
            let name = catalog.relation(*new).map_or("", |relation| relation.name.as_str());
            return Err(SqlError::new("55000", format!("\"{name}\" was not replaced: {error}"))
                .with_hint("The view is as it was. Rows with an error stand in the way of a replacement."));
        }
    }
    let change = shared.catalogs.change(Box::new(move |catalog| {
        let event = Event::ReplacementFinished { of: root };
        catalog.clone().apply(&event).map_err(|refused| {
            let mut error = refusal(&refused);
            if error.sqlstate == "2BP01" {
                error.message = "the view was not replaced: others were created on it meanwhile".to_owned();
                error.detail = Some(refused.to_string());
            }
            error
        })?;
        Ok(vec![event])
    }));
    let (catalog, cut) = change.await?;
    shared.engine.catalog_changed(catalog);
    // The old ones cannot be read any more: nobody has seen them beyond this, and nobody sees the new ones before it.
    shared.acknowledge(cut.max(shared.engine.front()));
    Ok(())
}

/// The first error that stands in a table or a materialized view.
fn error_in(shared: &Shared, catalog: &Catalog, id: RelationId) -> Option<String> {
    let (RelationKind::Table(_) | RelationKind::MaterializedView(_)) = catalog.relation(id)?.kind else { return None };
    match shared.engine.pin(&[id]).ok()?.relations.remove(&id)? {
        PinnedRelation::Collection(_, error) => error,
        PinnedRelation::Source { .. } => None,
    }
}

fn planned(shared: &Shared, catalog: &Catalog, wanted: &Root, settings: &[(String, String)]) -> Result<Plan, SqlError> {
    let existing = existing(catalog, wanted)?;
    let noun = existing.kind.noun();
    // A source over a table's topic depends on the topic alone, which stays.
    let old: Vec<RelationId> = catalog.with_dependents(existing.id).into_iter().rev().collect();
    let going: Vec<&Arc<Relation>> = old.iter().filter_map(|id| catalog.relation(*id)).collect();
    if let Some(busy) = going.iter().find(|relation| catalog.is_being_replaced(relation.id)) {
        return Err(SqlError::new("55006", format!("{} \"{}\" is being replaced", busy.kind.noun(), busy.name))
            .with_hint("Wait until mainstem.jobs does not list it any more."));
    }
    if let Some(sink) = catalog.sinks().find(|sink| old.contains(&sink.from)) {
        let verb = if matches!(wanted, Root::Wanted(_)) { "replace" } else { "alter" };
        let message = format!("cannot {verb} {noun} {} because a sink follows it", existing.name);
        let of = catalog.relation(sink.from).map_or("", |relation| relation.name.as_str());
        return Err(SqlError::new("2BP01", message)
            .with_detail(format!("sink {} writes what changes in {of}", sink.name))
            .with_hint(
                "Drop the sink, and create it again afterwards: its topic stands for the rows of the old one.",
            ));
    }
    let mut trial = catalog.clone();
    let dropped = Event::RelationsDropped { relations: old.iter().rev().copied().collect() };
    trial.apply(&dropped).map_err(|refused| refusal(&refused))?;
    let mut plan = Plan { old, new: Vec::with_capacity(going.len()), holds: Vec::new() };
    let new = match wanted {
        Root::Wanted(wanted) => wanted_relation(shared, &trial, wanted, settings, &mut plan.holds)?,
        Root::Altered { sql, .. } => redefined(&trial, existing, sql)?,
    };
    add(&mut trial, &mut plan, new)?;
    let (mut lines, mut lost) = (Vec::new(), BTreeSet::new());
    for dependent in going.iter().skip(1) {
        let reads_lost = dependent.depends_on.iter().any(|on| lost.contains(on));
        let followed = if reads_lost {
            Err("it reads one that cannot follow".to_owned())
        } else {
            followed(shared, &trial, (&**existing, &***dependent), settings, &mut plan.holds)
        };
        match followed {
            Ok(relation) => add(&mut trial, &mut plan, relation)?,
            Err(reason) => {
                lost.insert(Dependency::Relation(dependent.id));
                lines.push(format!("{} {} cannot follow: {reason}", dependent.kind.noun(), dependent.name));
            }
        }
    }
    if lines.is_empty() {
        return Ok(plan);
    }
    let verb = if matches!(wanted, Root::Wanted(_)) { "replace" } else { "alter" };
    let message = format!("cannot {verb} {noun} {} because other objects depend on it", existing.name);
    Err(SqlError::new("2BP01", message)
        .with_detail(lines.join("\n"))
        .with_hint("Keep the names and types of the columns that they use, or drop them first."))
}

fn existing<'c>(catalog: &'c Catalog, wanted: &Root) -> Result<&'c Arc<Relation>, SqlError> {
    let gone = |name: &str| SqlError::new("42P01", format!("relation \"{name}\" does not exist"));
    match wanted {
        Root::Wanted(wanted) => {
            let existing = catalog.relation_named(PUBLIC, &wanted.name).ok_or_else(|| gone(&wanted.name))?;
            if existing.kind.noun() == wanted.noun() {
                return Ok(existing);
            }
            Err(SqlError::new("42809", format!("\"{}\" is not a {}", wanted.name, wanted.noun()))
                .with_detail(format!("It is a {}.", existing.kind.noun())))
        }
        Root::Altered { id, .. } => catalog.relation(*id).ok_or_else(|| gone(&id.0.to_string())),
    }
}

fn add(trial: &mut Catalog, plan: &mut Plan, relation: Relation) -> Result<(), SqlError> {
    let created = Event::RelationCreated { relation: Box::new(relation.clone()) };
    trial.apply(&created).map_err(|refused| refusal(&refused))?;
    plan.new.push(relation);
    Ok(())
}

fn wanted_relation(
    shared: &Shared,
    trial: &Catalog,
    wanted: &Wanted,
    settings: &[(String, String)],
    holds: &mut Vec<Box<dyn Hold>>,
) -> Result<Relation, SqlError> {
    let (name, sql) = (wanted.name.clone(), wanted.sql.clone());
    let mut shape = Shape { name, sql, query: String::new(), columns: Vec::new() };
    if wanted.is_materialized {
        let plan = plan_view(trial, &wanted.query, &wanted.columns, wanted.emit)?;
        Circuit::new(&plan.graph).map_err(|error| {
            SqlError::not_supported(format!("this query cannot be kept as a materialized view: {error}"))
        })?;
        let (origin, held) = shared.engine.origin_of(&plan.graph.relations());
        holds.extend(held);
        (shape.query, shape.columns) = (plan.canonical_query, plan.columns);
        let mut view = shape.view(wanted.emit.on_window_close, origin);
        view.graph = Some(plan.graph.to_json());
        view.settings = settings.to_vec();
        return Ok(shape.relation(trial, RelationKind::MaterializedView(view), plan.depends_on));
    }
    let plan = plan_query(trial, &wanted.query, &wanted.columns)?;
    (shape.query, shape.columns) = (plan.canonical_query, plan.columns);
    let view = shape.view(false, Vec::new());
    Ok(shape.relation(trial, RelationKind::View(view), plan.depends_on))
}

/// A dependent over what takes the old one's place, or why it cannot be. If it would have other columns, since it is over all
/// columns of what is replaced, its text says from now on which ones it has.
fn followed(
    shared: &Shared,
    trial: &Catalog,
    (root, old): (&Relation, &Relation),
    settings: &[(String, String)],
    holds: &mut Vec<Box<dyn Hold>>,
) -> Result<Relation, String> {
    let (RelationKind::View(view) | RelationKind::MaterializedView(view)) = &old.kind else {
        return Err(format!("a {} cannot", old.kind.noun()));
    };
    let (mut text, mut sql) = (view.query.clone(), old.sql.clone());
    let mut planned = planned_again(trial, old, &text);
    if planned.is_err() {
        let visible = root.columns.iter().filter(|column| !column.hidden).map(|column| column.name.clone());
        let narrowed = query_with_columns(&text, &[(root.name.clone(), visible.collect())]);
        if let Ok(narrowed) = narrowed
            && let Ok(again) = planned_again(trial, old, &narrowed)
        {
            sql = text_of_view(old, view, &narrowed);
            (text, planned) = (narrowed, Ok(again));
        }
    }
    let (graph, depends_on, columns) = planned?;
    if let Some(graph) = &graph {
        holds.extend(shared.engine.origin_of(&graph.relations()).1);
    }
    let shape = Shape { name: old.name.clone(), sql, query: text, columns };
    // Its history begins where it began: what has gone since is an error in it, which the old one does not have.
    let mut definition = shape.view(view.emit_on_window_close, view.origin.clone());
    definition.settings.clone_from(&view.settings);
    definition.settings.retain(|(name, _)| name != RATE_SETTING);
    definition.settings.extend(settings.iter().filter(|(name, _)| name == RATE_SETTING).cloned());
    definition.graph = graph.map(|graph| graph.to_json());
    let kind = match &old.kind {
        RelationKind::View(_) => RelationKind::View(definition),
        _ => RelationKind::MaterializedView(definition),
    };
    Ok(shape.relation(trial, kind, depends_on))
}

/// What makes a view with this query.
pub(crate) fn text_of_view(view: &Relation, definition: &ViewDefinition, query: &str) -> String {
    let names: Vec<String> = view.columns.iter().map(|column| quoted(&column.name)).collect();
    let emit = match emit_of(definition) {
        Emit { on_window_close: false, .. } => String::new(),
        Emit { early_us: None, .. } => " EMIT ON WINDOW CLOSE".to_owned(),
        Emit { early_us: Some(us), .. } => {
            format!(" EMIT ON WINDOW CLOSE WITH EARLY EVERY INTERVAL '{us} microseconds'")
        }
    };
    let (noun, name) = (view.kind.noun().to_uppercase(), quoted(&view.name));
    format!("CREATE {noun} {name} ({}) AS {query}{emit}", names.join(", "))
}

/// When the view shows its windows.
fn emit_of(view: &ViewDefinition) -> Emit {
    let graph = view.graph.as_ref().and_then(|graph| Graph::from_json(graph).ok());
    Emit { on_window_close: view.emit_on_window_close, early_us: graph.and_then(|graph| graph.early_us()) }
}

/// The text over what is there now, if it gives the columns that the view has.
fn planned_again(
    trial: &Catalog,
    old: &Relation,
    text: &str,
) -> Result<(Option<Graph>, Vec<Dependency>, Vec<Column>), String> {
    let told = |error: SqlError| error.message;
    let query = parse_query(text).map_err(told)?;
    let names: Vec<Ident> = old.columns.iter().map(|column| column.name.clone()).collect();
    let (graph, depends_on, columns) = match &old.kind {
        RelationKind::MaterializedView(view) => {
            let plan = plan_view(trial, &query, &names, emit_of(view)).map_err(told)?;
            (Some(plan.graph), plan.depends_on, plan.columns)
        }
        _ => {
            let plan = plan_query(trial, &query, &names).map_err(told)?;
            (None, plan.depends_on, plan.columns)
        }
    };
    match difference(&old.columns, &columns) {
        Some(difference) => Err(difference),
        None => Ok((graph, depends_on, columns)),
    }
}

fn difference(old: &[Column], new: &[Column]) -> Option<String> {
    if old.len() != new.len() {
        return Some(format!("it would have {} columns, not {}", new.len(), old.len()));
    }
    let other = old.iter().zip(new).find(|(old, new)| old.sql_type != new.sql_type)?;
    Some(format!("its column \"{}\" would be {}, not {}", other.0.name, other.1.sql_type, other.0.sql_type))
}

/// What all views have.
struct Shape {
    name: Ident,
    sql: String,
    query: String,
    columns: Vec<Column>,
}

impl Shape {
    fn view(&self, emit_on_window_close: bool, origin: Vec<Origin>) -> ViewDefinition {
        ViewDefinition {
            query: self.query.clone(),
            emit_on_window_close,
            graph: None,
            settings: vec![("timezone".into(), "UTC".into())],
            origin,
        }
    }

    fn relation(self, trial: &Catalog, kind: RelationKind, depends_on: Vec<Dependency>) -> Relation {
        Relation {
            id: trial.next_relation_id(),
            schema: PUBLIC.to_owned(),
            name: self.name,
            columns: self.columns,
            kind,
            depends_on,
            sql: self.sql,
        }
    }
}
