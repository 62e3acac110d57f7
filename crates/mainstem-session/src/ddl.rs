//! CREATE and DROP: decisions over the newest definitions, carried out as one entry each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstem_catalog::{
    Catalog, Column, Dependency, Encoding, Event, Include, IncludeKind, Refused, Relation, RelationId, RelationKind,
    SourceDefinition, SqlType, TableDefinition, Topic, TopicOwner, ViewDefinition, Watermark, check_topic_name,
};
use mainstem_engine::EngineError;
use mainstem_engine::backfill_pace::RATE_SETTING;
use mainstem_engine::incremental::Circuit;
use mainstem_sql::statement::{
    ColumnDefinition, CreateMaterializedView, CreateSource, CreateTable, CreateView, DropRelations, WatermarkClause,
};
use mainstem_sql::{ClockUse, QualifiedName, SqlError, plan_query, plan_view};
use uuid::Uuid;

use crate::catalogs::CatalogDecision;
use crate::late_table::late_table;
use crate::replace::UnderWay;
use crate::session::{Response, Session};
use crate::shared::engine_error;

/// The one schema of users' relations.
pub(crate) const PUBLIC: &str = "public";
/// The key of a table that has no primary key.
const ROW_ID: &str = "_row_id";

/// What is created, without its id.
#[derive(Debug)]
struct New {
    name: String,
    if_not_exists: bool,
    columns: Vec<Column>,
    kind: RelationKind,
    depends_on: Vec<Dependency>,
    sql: String,
}

impl Session {
    pub(crate) async fn create_source(&mut self, create: &CreateSource) -> Result<Response, SqlError> {
        self.leave_transaction("CREATE SOURCE").await?;
        let name = new_name(&create.name)?;
        let (columns, mut source) = source_relation(create, Uuid::nil())?;
        let late_into = create.watermark.as_ref().and_then(|clause| clause.late_into.as_ref());
        let late_into = late_into.map(new_name).transpose()?;
        let late_topic = self.shared.catalogs.new_uuid();
        let (topic_name, sql, if_not_exists) = (create.topic.clone(), create.sql.clone(), create.if_not_exists);
        self.create(
            "CREATE SOURCE",
            Box::new(move |catalog| {
                let topic = catalog.topic_named(&topic_name).ok_or_else(|| no_topic(&topic_name))?;
                let (mut depends_on, mut events, mut after) =
                    (vec![Dependency::Topic(topic.id)], Vec::new(), catalog.clone());
                if let (Some(late), Some(watermark)) = (&late_into, &mut source.watermark)
                    && catalog.relation_named(PUBLIC, &name).is_none()
                {
                    let of_source = (columns.as_slice(), &*watermark);
                    let (id, made) = late_table(catalog, late, of_source, (topic.id, late_topic))?;
                    after.apply_all(&made).map_err(|refused| refusal(&refused))?;
                    depends_on.push(Dependency::Relation(id));
                    watermark.late_into = Some(id);
                    events = made;
                }
                let kind = RelationKind::Source(SourceDefinition { topic: topic.id, ..source });
                events.extend(new_relation(&after, New { name, if_not_exists, columns, kind, depends_on, sql })?);
                Ok(events)
            }),
        )
        .await
    }

    pub(crate) async fn create_table(&mut self, create: &CreateTable) -> Result<Response, SqlError> {
        self.leave_transaction("CREATE TABLE").await?;
        let name = new_name(&create.name)?;
        check_topic_name(&name)
            .map_err(|error| SqlError::new("42602", format!("a table has a topic of its name: {error}")))?;
        let topic = self.shared.catalogs.new_uuid();
        let (columns, table) = table_relation(create, topic)?;
        let (sql, if_not_exists) = (create.sql.clone(), create.if_not_exists);
        self.create(
            "CREATE TABLE",
            Box::new(move |catalog| {
                let new = New {
                    name: name.clone(),
                    if_not_exists,
                    columns,
                    kind: RelationKind::Table(table),
                    depends_on: vec![Dependency::Topic(topic)],
                    sql,
                };
                let mut events = new_relation(catalog, new)?;
                if !events.is_empty() {
                    events.insert(0, topic_of_table(catalog, &name, topic)?);
                }
                Ok(events)
            }),
        )
        .await
    }

    pub(crate) async fn create_view(&mut self, create: &CreateView) -> Result<Response, SqlError> {
        self.leave_transaction("CREATE VIEW").await?;
        let name = new_name(&create.name)?;
        if create.or_replace && self.shared.catalogs.current().relation_named(PUBLIC, &name).is_some() {
            return Box::pin(self.replace(create.into())).await;
        }
        let plan = plan_query(&self.shared.catalogs.current(), &create.query, &create.columns)?;
        let view = ViewDefinition {
            query: plan.canonical_query,
            emit_on_window_close: false,
            graph: None,
            settings: vec![("timezone".into(), "UTC".into())],
            origin: Vec::new(),
        };
        let new = New {
            name,
            if_not_exists: create.if_not_exists,
            columns: plan.columns,
            kind: RelationKind::View(view),
            depends_on: plan.depends_on,
            sql: create.sql.clone(),
        };
        self.create("CREATE VIEW", Box::new(move |catalog| new_relation(catalog, new))).await
    }

    pub(crate) async fn create_materialized_view(
        &mut self,
        create: &CreateMaterializedView,
    ) -> Result<Response, SqlError> {
        self.leave_transaction("CREATE MATERIALIZED VIEW").await?;
        let name = new_name(&create.name)?;
        let catalog = self.shared.catalogs.current();
        if let Some(existing) = catalog.relation_named(PUBLIC, &name) {
            if create.or_replace {
                return Box::pin(self.replace(create.into())).await;
            }
            return exists(existing, create.if_not_exists, "CREATE MATERIALIZED VIEW");
        }
        // Relations are never changed and their ids never used again: what was planned holds if they are still there.
        let plan = plan_view(&catalog, &create.query, &create.columns, create.emit())?;
        // What the engine cannot run must not get into the catalog.
        Circuit::new(&plan.graph).map_err(|error| {
            SqlError::not_supported(format!("this query cannot be kept as a materialized view: {error}"))
        })?;
        if plan.graph.clock_use() != ClockUse::None {
            self.tick().await?;
        }
        let (origin, _held_until_ready) = self.shared.engine.origin_of(&plan.graph.relations());
        let view = ViewDefinition {
            query: plan.canonical_query,
            emit_on_window_close: create.emit_on_window_close,
            graph: Some(plan.graph.to_json()),
            settings: self.view_settings(),
            origin,
        };
        let new = New {
            name,
            if_not_exists: create.if_not_exists,
            columns: plan.columns,
            kind: RelationKind::MaterializedView(view),
            depends_on: plan.depends_on,
            sql: create.sql.clone(),
        };
        self.create("CREATE MATERIALIZED VIEW", Box::new(move |catalog| new_relation(catalog, new))).await
    }

    /// What the meaning of a new materialized view depends on, and how fast it reads history.
    pub(crate) fn view_settings(&self) -> Vec<(String, String)> {
        let mut settings = vec![("timezone".to_owned(), "UTC".to_owned())];
        match self.settings.get("backfill_rate_limit").unwrap_or("default") {
            "default" => {}
            rows => settings.push((RATE_SETTING.to_owned(), rows.to_owned())),
        }
        settings
    }

    /// The time that a new view with now() begins with.
    async fn tick(&mut self) -> Result<(), SqlError> {
        let engine = self.shared.engine.clone();
        let ticked = tokio::task::spawn_blocking(move || engine.tick()).await;
        let cut = ticked.map_err(|error| SqlError::new("XX000", error.to_string()))?;
        self.acknowledge(cut.map_err(|error| engine_error(&error))?);
        Ok(())
    }

    /// Carries out a decision that creates at most one relation, and waits until that can be read.
    async fn create(&mut self, tag: &str, decide: CatalogDecision) -> Result<Response, SqlError> {
        let (told, created) = std::sync::mpsc::channel();
        let decide: CatalogDecision = Box::new(move |catalog| {
            let events = decide(catalog)?;
            let created = events.iter().find_map(|event| match event {
                Event::RelationCreated { relation } => Some(relation.id),
                _ => None,
            });
            // Nobody waits when the statement was cancelled.
            let _ = told.send(created);
            Ok(events)
        });
        self.change(decide).await?;
        let Some(id) = created.try_recv().ok().flatten() else {
            let notice = SqlError::new("42P07", "relation already exists, skipping");
            return Ok(Response::done_with(tag, notice));
        };
        let catalog = self.shared.catalogs.current();
        let is_view = catalog.relation(id).is_some_and(|relation| relation.materialized().is_some());
        if is_view && self.settings.is_on("background_ddl") {
            return Ok(Response::done(tag));
        }
        // Cancelled while it reads history, it is not to be there; see `Session::fail`.
        self.under_way = is_view.then_some(UnderWay::View(id));
        let ready = self.shared.engine.wait_ready(id).await;
        if matches!(ready, Ok(()) | Err(EngineError::Stopped)) {
            self.under_way = None;
        }
        ready.map_err(|error| engine_error(&error))?;
        Ok(Response::done(tag))
    }

    /// Carries out a decision and tells the engine.
    pub(crate) async fn change(&mut self, decide: CatalogDecision) -> Result<(), SqlError> {
        // Cancelled in between, the engine must hear of what became durable all the same.
        let shared = self.shared.clone();
        let changing = tokio::spawn(async move {
            let (catalog, cut) = shared.catalogs.change(decide).await?;
            shared.engine.catalog_changed(catalog);
            Ok::<_, SqlError>(cut)
        });
        let cut = changing.await.map_err(|error| SqlError::new("XX000", error.to_string()))??;
        self.acknowledge(Some(cut));
        Ok(())
    }

    pub(crate) async fn drop_relations(&mut self, drop: &DropRelations) -> Result<Response, SqlError> {
        let tag = format!("DROP {}", drop.kind.text().to_uppercase());
        self.leave_transaction(&tag).await?;
        let (told, notices) = std::sync::mpsc::channel();
        let drop = drop.clone();
        self.change(Box::new(move |catalog| {
            let (events, notices) = dropped(catalog, &drop)?;
            let _ = told.send(notices);
            Ok(events)
        }))
        .await?;
        Ok(Response::Done { tag, notices: notices.try_recv().unwrap_or_default() })
    }
}

/// What CREATE TABLE defines.
pub(crate) fn table_relation(create: &CreateTable, topic: Uuid) -> Result<(Vec<Column>, TableDefinition), SqlError> {
    let mut columns = columns_of(&create.columns);
    let mut primary_key = create.primary_key.clone();
    if primary_key.is_empty() {
        primary_key.push(columns.len());
        let (sql_type, hidden) = (SqlType::BigInt, true);
        columns.push(Column { name: ROW_ID.into(), sql_type, nullable: false, hidden, default: None });
    }
    check_columns(&columns)?;
    let watermark = watermark_of(create.watermark.as_ref(), &columns)?;
    let topic_name = create.name.name.clone();
    Ok((columns, TableDefinition { topic, topic_name, primary_key, watermark }))
}

/// What CREATE SOURCE defines.
pub(crate) fn source_relation(create: &CreateSource, topic: Uuid) -> Result<(Vec<Column>, SourceDefinition), SqlError> {
    let mut columns = columns_of(&create.columns);
    let mut includes = Vec::new();
    for include in &create.includes {
        includes.push(Include { kind: include.kind, column: columns.len() });
        columns.push(included(&include.name, include.kind));
    }
    check_columns(&columns)?;
    let watermark = watermark_of(create.watermark.as_ref(), &columns)?;
    let (topic_name, encoding) = (create.topic.clone(), Encoding::PlainJson);
    Ok((columns, SourceDefinition { topic, topic_name, encoding, includes, watermark }))
}

fn columns_of(definitions: &[ColumnDefinition]) -> Vec<Column> {
    let column = |definition: &ColumnDefinition| Column {
        name: definition.name.clone(),
        sql_type: definition.sql_type.clone(),
        nullable: !definition.not_null,
        hidden: false,
        default: definition.default.clone(),
    };
    definitions.iter().map(column).collect()
}

fn included(name: &str, kind: IncludeKind) -> Column {
    let (sql_type, nullable) = match kind {
        IncludeKind::Key => (SqlType::Bytea, true),
        IncludeKind::Partition => (SqlType::Integer, false),
        IncludeKind::Offset => (SqlType::BigInt, false),
        IncludeKind::Timestamp => (SqlType::Timestamptz, true),
    };
    Column { name: name.to_owned(), sql_type, nullable, hidden: false, default: None }
}

pub(crate) fn check_columns(columns: &[Column]) -> Result<(), SqlError> {
    let mut names = BTreeSet::new();
    match columns.iter().find(|column| !names.insert(column.name.as_str())) {
        Some(twice) => Err(SqlError::new("42701", format!("column \"{}\" specified more than once", twice.name))),
        None => Ok(()),
    }
}

fn watermark_of(clause: Option<&WatermarkClause>, columns: &[Column]) -> Result<Option<Watermark>, SqlError> {
    let Some(clause) = clause else { return Ok(None) };
    let column = columns.iter().position(|column| column.name == clause.column);
    let column =
        column.ok_or_else(|| SqlError::new("42703", format!("column \"{}\" does not exist", clause.column)))?;
    let WatermarkClause { delay_us, lateness_us, idle_timeout_us, .. } = *clause;
    Ok(Some(Watermark { column, delay_us, lateness_us, idle_timeout_us, late_into: None }))
}

pub(crate) fn new_name(name: &QualifiedName) -> Result<String, SqlError> {
    match name.schema.as_deref() {
        None | Some(PUBLIC) => Ok(name.name.clone()),
        Some("pg_catalog" | "information_schema" | "mainstem") => {
            Err(SqlError::new("42501", format!("permission denied to create \"{name}\": it is a system schema")))
        }
        Some(schema) => Err(SqlError::new("3F000", format!("schema \"{schema}\" does not exist"))
            .with_hint("There is one schema, public.")),
    }
}

fn no_topic(name: &str) -> SqlError {
    SqlError::new("42704", format!("topic \"{name}\" does not exist"))
        .with_hint(format!("Create it with: mainstem topic create {name}"))
}

/// A relation that is already there: an error, or a notice.
fn exists(existing: &Relation, if_not_exists: bool, tag: &str) -> Result<Response, SqlError> {
    let error = SqlError::new("42P07", format!("relation \"{}\" already exists", existing.name))
        .with_detail(format!("It is a {}.", existing.kind.noun()));
    if !if_not_exists {
        return Err(error);
    }
    Ok(Response::done_with(tag, SqlError::new("42P07", format!("{}, skipping", error.message))))
}

/// The event of a new relation; none if it is there and may be.
fn new_relation(catalog: &Catalog, new: New) -> Result<Vec<Event>, SqlError> {
    if let Some(existing) = catalog.relation_named(PUBLIC, &new.name) {
        return exists(existing, new.if_not_exists, "").map(|_| Vec::new());
    }
    for dependency in &new.depends_on {
        if let Dependency::Relation(id) = dependency
            && catalog.relation(*id).is_none()
        {
            return Err(SqlError::new("42P01", "a relation that the query reads was dropped meanwhile"));
        }
    }
    let relation = Relation {
        id: catalog.next_relation_id(),
        schema: PUBLIC.to_owned(),
        name: new.name,
        columns: new.columns,
        kind: new.kind,
        depends_on: new.depends_on,
        sql: new.sql,
    };
    Ok(vec![Event::RelationCreated { relation: Box::new(relation) }])
}

pub(crate) fn topic_of_table(catalog: &Catalog, name: &str, id: Uuid) -> Result<Event, SqlError> {
    if catalog.topic_named(name).is_some() {
        let message = format!("topic \"{name}\" already exists, and a table has a topic of its name");
        return Err(SqlError::new("42P07", message)
            .with_hint("Give the table another name, or use CREATE SOURCE to read the topic."));
    }
    let owner = TopicOwner::Table(catalog.next_relation_id());
    let topic = Topic { id, name: name.to_owned(), partitions: 1, owner, configs: BTreeMap::new() };
    Ok(Event::TopicCreated { topic })
}

fn dropped(catalog: &Catalog, drop: &DropRelations) -> Result<(Vec<Event>, Vec<SqlError>), SqlError> {
    let (mut found, mut notices) = (Vec::new(), Vec::new());
    for name in &drop.names {
        let schema = name.schema.as_deref().unwrap_or(PUBLIC);
        match catalog.relation_named(schema, &name.name) {
            Some(relation) if relation.kind.noun() == drop.kind.text() => found.push(relation.clone()),
            Some(relation) => return Err(wrong_kind(relation, drop.kind.text())),
            None if drop.if_exists => {
                let message = format!("{} \"{name}\" does not exist, skipping", drop.kind.text());
                notices.push(SqlError::new("00000", message));
            }
            None => return Err(SqlError::new("42P01", format!("{} \"{name}\" does not exist", drop.kind.text()))),
        }
    }
    let mut going: BTreeSet<RelationId> = found.iter().map(|relation| relation.id).collect();
    let mut dependents = all_dependents(catalog, &going);
    // What is built to take the place of one of these goes with it.
    let replaced = |root: &RelationId| catalog.replacement_of(*root).map(|replacement| replacement.new.clone());
    let aside: BTreeSet<RelationId> = going.iter().filter_map(replaced).flatten().collect();
    dependents.retain(|relation| !aside.contains(&relation.id));
    if drop.cascade {
        let is_told = |relation: &RelationId| !going.contains(relation) && !catalog.is_aside(*relation);
        let others: Vec<_> = dependents.iter().filter(|relation| is_told(&relation.id)).collect();
        notices.extend(others.iter().map(|relation| {
            SqlError::new("00000", format!("drop cascades to {} {}", relation.kind.noun(), relation.name))
        }));
        going.extend(dependents.iter().map(|relation| relation.id));
    } else if let Some(in_use) = in_use(catalog, &found, &going, &dependents) {
        return Err(in_use);
    }
    // A dependent is always younger than what it depends on.
    let relations: Vec<RelationId> = going.iter().rev().copied().collect();
    let topics: Vec<Event> = relations
        .iter()
        .filter_map(|id| match &catalog.relation(*id)?.kind {
            RelationKind::Table(table) => Some(Event::TopicDeleted { topic: table.topic }),
            _ => None,
        })
        .collect();
    if relations.is_empty() {
        return Ok((Vec::new(), notices));
    }
    let mut events = crate::sinks::dropped_with(catalog, &relations, drop.cascade, &mut notices)?;
    events.push(Event::RelationsDropped { relations });
    events.extend(topics);
    let mut after = catalog.clone();
    after.apply_all(&events).map_err(|refused| refusal(&refused))?;
    Ok((events, notices))
}

/// What depends on these, directly or not, themselves left out; a source over a table's topic depends on the table.
fn all_dependents(catalog: &Catalog, of: &BTreeSet<RelationId>) -> Vec<Arc<Relation>> {
    let (mut seen, mut queue) = (of.clone(), of.iter().copied().collect::<Vec<_>>());
    let mut all = Vec::new();
    while let Some(id) = queue.pop() {
        let mut direct = catalog.dependents(Dependency::Relation(id));
        if let Some(RelationKind::Table(table)) = catalog.relation(id).map(|relation| &relation.kind) {
            direct.extend(catalog.dependents(Dependency::Topic(table.topic)));
        }
        for dependent in direct {
            if seen.insert(dependent.id) {
                queue.push(dependent.id);
                all.push(dependent);
            }
        }
    }
    all.sort_by_key(|relation| relation.id);
    all
}

fn in_use(
    catalog: &Catalog,
    found: &[Arc<Relation>],
    going: &BTreeSet<RelationId>,
    dependents: &[Arc<Relation>],
) -> Option<SqlError> {
    let first = dependents.first()?;
    let blamed = found.iter().find(|relation| {
        all_dependents(catalog, &BTreeSet::from([relation.id])).iter().any(|dependent| dependent.id == first.id)
    })?;
    let only_aside = dependents.iter().all(|dependent| catalog.is_aside(dependent.id));
    let lines: Vec<String> = dependents
        .iter()
        .filter(|dependent| !going.contains(&dependent.id))
        .filter(|dependent| !catalog.is_aside(dependent.id) || only_aside)
        .map(|dependent| {
            let (noun, name) = (dependent.kind.noun(), &dependent.name);
            format!("{noun} {name} depends on {} {}", blamed.kind.noun(), blamed.name)
        })
        .collect();
    let message = format!("cannot drop {} {} because other objects depend on it", blamed.kind.noun(), blamed.name);
    Some(
        SqlError::new("2BP01", message)
            .with_detail(lines.join("\n"))
            .with_hint("Use DROP ... CASCADE to drop the dependent objects too."),
    )
}

fn wrong_kind(relation: &Relation, wanted: &str) -> SqlError {
    let noun = relation.kind.noun();
    SqlError::new("42809", format!("\"{}\" is not a {wanted}", relation.name))
        .with_hint(format!("Use DROP {} to remove a {noun}.", noun.to_uppercase()))
}

/// A refusal of the catalog, as a client hears it.
pub(crate) fn refusal(refused: &Refused) -> SqlError {
    let state = match refused {
        Refused::InvalidName(_) => "42602",
        Refused::Exists { .. } => "42P07",
        Refused::Missing { .. } => "42P01",
        Refused::InUse { .. } => "2BP01",
        Refused::Partitions { .. } => "22023",
        Refused::BeingReplaced { .. } => "55006",
        Refused::Replacement(_) => "XX000",
    };
    SqlError::new(state, refused.to_string())
}
