//! CREATE and DROP of sinks and indexes: what hangs on a relation.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_catalog::{
    Catalog, Event, Index, Relation, RelationId, RelationKind, Sink, SinkFormat, Topic, TopicOwner, ViewDefinition,
    check_topic_name,
};
use mainstem_engine::incremental::Circuit;
use mainstem_sql::parse::quoted;
use mainstem_sql::statement::{CreateIndex, CreateSink, DropAttached, RelationNoun, SinkInput};
use mainstem_sql::{Graph, QualifiedName, SqlError, plan_view, unique_key};
use uuid::Uuid;

use crate::ddl::{PUBLIC, new_name, refusal};
use crate::session::{Response, Session};
use crate::shared::engine_error;

/// The materialized view that keeps the query of `CREATE SINK k AS`.
fn view_of(sink: &str) -> String {
    format!("{sink}_query")
}

impl Session {
    pub(crate) async fn create_sink(&mut self, create: &CreateSink) -> Result<Response, SqlError> {
        const TAG: &str = "CREATE SINK";
        self.leave_transaction(TAG).await?;
        let name = new_name(&create.name)?;
        let catalog = self.shared.catalogs.current();
        if let Some(skipped) = exists(&catalog, &name, create.if_not_exists)? {
            return Ok(Response::done_with(TAG, skipped));
        }
        let mut held = Vec::new();
        let view = match &create.input {
            SinkInput::Relation(_) => None,
            SinkInput::Query(query) => {
                let plan = plan_view(&catalog, query, &[], false)?;
                Circuit::new(&plan.graph).map_err(|error| {
                    SqlError::not_supported(format!("this query cannot be kept for a sink: {error}"))
                })?;
                let (origin, holds) = self.shared.engine.origin_of(&plan.graph.relations());
                held = holds;
                let view = ViewDefinition {
                    query: plan.canonical_query,
                    emit_on_window_close: false,
                    graph: Some(plan.graph.to_json()),
                    settings: self.view_settings(),
                    origin,
                };
                Some(Relation {
                    id: RelationId::FIRST,
                    schema: PUBLIC.to_owned(),
                    name: view_of(&name),
                    columns: plan.columns,
                    kind: RelationKind::MaterializedView(view),
                    depends_on: plan.depends_on,
                    sql: create.sql.clone(),
                })
            }
        };
        let (told, created) = std::sync::mpsc::channel();
        let (create, topic) = (create.clone(), self.shared.catalogs.new_uuid());
        let decide = move |catalog: &Catalog| -> Result<Vec<Event>, SqlError> {
            let events = sink_events(catalog, &name, &create, view, topic)?;
            let id = events.iter().find_map(|event| match event {
                Event::SinkCreated { sink } => Some(sink.id),
                _ => None,
            });
            // Nobody waits when the statement was cancelled.
            let _ = told.send(id);
            Ok(events)
        };
        self.change(Box::new(decide)).await?;
        let Some(id) = created.try_recv().ok().flatten() else {
            return Ok(Response::done_with(TAG, SqlError::new("42P07", "sink already exists, skipping")));
        };
        if self.settings.is_on("background_ddl") {
            return Ok(Response::done(TAG));
        }
        if let Err(error) = self.shared.engine.wait_sink(id).await {
            // What cannot begin is not left behind; the topic is.
            self.change(Box::new(move |catalog| Ok(without(catalog, &[id])))).await?;
            return Err(match error {
                mainstem_engine::EngineError::SinkFailed(reason) => SqlError::new("22023", reason),
                error => engine_error(&error),
            });
        }
        drop(held);
        Ok(Response::done(TAG))
    }

    pub(crate) async fn drop_sinks(&mut self, drop: &DropAttached) -> Result<Response, SqlError> {
        const TAG: &str = "DROP SINK";
        self.leave_transaction(TAG).await?;
        let (told, notices) = std::sync::mpsc::channel();
        let drop = drop.clone();
        let decide = move |catalog: &Catalog| -> Result<Vec<Event>, SqlError> {
            let found = |schema: &str, name: &str| catalog.sink_named(schema, name).map(|sink| sink.id);
            let (ids, notices) = named(catalog, &drop, "sink", &found)?;
            let events = without(catalog, &ids);
            let mut after = catalog.clone();
            after.apply_all(&events).map_err(|refused| refusal(&refused))?;
            let _ = told.send(notices);
            Ok(events)
        };
        self.change(Box::new(decide)).await?;
        Ok(Response::Done { tag: TAG.into(), notices: notices.try_recv().unwrap_or_default() })
    }

    pub(crate) async fn create_index(&mut self, create: &CreateIndex) -> Result<Response, SqlError> {
        const TAG: &str = "CREATE INDEX";
        self.leave_transaction(TAG).await?;
        let name = new_name(&create.name)?;
        if let Some(skipped) = exists(&self.shared.catalogs.current(), &name, create.if_not_exists)? {
            return Ok(Response::done_with(TAG, skipped));
        }
        let create = create.clone();
        let index = name.clone();
        self.change(Box::new(move |catalog| index_events(catalog, &name, &create))).await?;
        let catalog = self.shared.catalogs.current();
        if let Some(index) = catalog.index_named(PUBLIC, &index).filter(|_| !self.settings.is_on("background_ddl")) {
            let ready = self.shared.engine.wait_index(index.of, &index.columns).await;
            ready.map_err(|error| engine_error(&error))?;
        }
        Ok(Response::done(TAG))
    }

    pub(crate) async fn drop_indexes(&mut self, drop: &DropAttached) -> Result<Response, SqlError> {
        const TAG: &str = "DROP INDEX";
        self.leave_transaction(TAG).await?;
        let (told, notices) = std::sync::mpsc::channel();
        let drop = drop.clone();
        let decide = move |catalog: &Catalog| -> Result<Vec<Event>, SqlError> {
            let found = |schema: &str, name: &str| catalog.index_named(schema, name).map(|index| index.id);
            let (indexes, notices) = named(catalog, &drop, "index", &found)?;
            let _ = told.send(notices);
            Ok(if indexes.is_empty() { Vec::new() } else { vec![Event::IndexesDropped { indexes }] })
        };
        self.change(Box::new(decide)).await?;
        Ok(Response::Done { tag: TAG.into(), notices: notices.try_recv().unwrap_or_default() })
    }

    /// The row of SHOW CREATE, if the name is a sink's or an index's.
    pub(crate) fn show_create_attached(
        &self,
        kind: Option<RelationNoun>,
        name: &QualifiedName,
    ) -> Result<Option<Vec<String>>, SqlError> {
        let catalog = self.shared.catalogs.current();
        let schema = name.schema.as_deref().unwrap_or(PUBLIC);
        let sink = catalog.sink_named(schema, &name.name).map(|sink| ("sink", text_of_sink(&catalog, sink)));
        let index = || catalog.index_named(schema, &name.name).map(|index| ("index", text_of_index(&catalog, index)));
        let Some((noun, sql)) = sink.or_else(index) else { return Ok(None) };
        if let Some(kind) = kind.filter(|kind| kind.text() != noun) {
            let message = format!("\"{name}\" is not a {}", kind.text());
            return Err(SqlError::new("42809", message).with_detail(format!("It is a {noun}.")));
        }
        Ok(Some(vec![format!("{schema}.{}", name.name), sql]))
    }
}

fn columns_of(catalog: &Catalog, relation: RelationId, columns: &[usize]) -> Vec<String> {
    let relation = catalog.relation(relation).expect("what hangs on a relation goes with it");
    columns.iter().map(|column| relation.columns[*column].name.clone()).collect()
}

/// What makes the sink again, by the names of now.
fn text_of_sink(catalog: &Catalog, sink: &Sink) -> String {
    let relation = catalog.relation(sink.from).expect("a sink's relation is live while it is");
    let input = match relation.materialized().filter(|_| sink.owns_view) {
        Some(view) => format!("AS {}", view.query),
        None => format!("FROM {}", quoted(&relation.name)),
    };
    let mut options = vec![("topic", sink.topic_name.clone())];
    let partitions = catalog.topic(sink.topic).map_or(1, |topic| topic.partitions);
    options.extend((partitions > 1).then(|| ("partitions", partitions.to_string())));
    options.extend(
        sink.key
            .as_ref()
            .filter(|key| !key.is_empty())
            .map(|key| ("primary_key", columns_of(catalog, sink.from, key).join(", "))),
    );
    options.extend((!sink.snapshot).then(|| ("snapshot", "false".to_owned())));
    options.extend(sink.force_append_only.then(|| ("force_append_only", "true".to_owned())));
    let options: Vec<String> =
        options.iter().map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''"))).collect();
    let schema = if sink.with_schema { " (schemas.enable = 'true')" } else { "" };
    let (name, format) = (quoted(&sink.name), sink.format.text().to_uppercase());
    format!("CREATE SINK {name} {input} WITH ({}) FORMAT {format} ENCODE JSON{schema}", options.join(", "))
}

fn text_of_index(catalog: &Catalog, index: &Index) -> String {
    let columns: Vec<String> = columns_of(catalog, index.of, &index.columns).iter().map(|name| quoted(name)).collect();
    let of = catalog.relation(index.of).map_or("", |relation| relation.name.as_str());
    format!("CREATE INDEX {} ON {} ({})", quoted(&index.name), quoted(of), columns.join(", "))
}

/// An error if the name is taken, or what to tell if it may be.
fn exists(catalog: &Catalog, name: &str, may_exist: bool) -> Result<Option<SqlError>, SqlError> {
    let Some(noun) = catalog.noun_of(PUBLIC, name) else { return Ok(None) };
    let message = format!("relation \"{name}\" already exists");
    if may_exist {
        return Ok(Some(SqlError::new("42P07", format!("{message}, skipping"))));
    }
    Err(SqlError::new("42P07", message).with_detail(format!("It is a {noun}.")))
}

fn sink_events(
    catalog: &Catalog,
    name: &str,
    create: &CreateSink,
    view: Option<Relation>,
    new_topic: Uuid,
) -> Result<Vec<Event>, SqlError> {
    if exists(catalog, name, create.if_not_exists)?.is_some() {
        return Ok(Vec::new());
    }
    let mut events = Vec::new();
    let (topic, made) = topic_of(catalog, create, new_topic)?;
    events.extend(made);
    let owns_view = view.is_some();
    let from = match (view, &create.input) {
        (Some(view), _) => {
            let view = Relation { id: catalog.next_relation_id(), ..view };
            exists(catalog, &view.name, false).map_err(|error| {
                error.with_hint(
                    "The query of a sink is kept as a materialized view of this name; name the sink otherwise.",
                )
            })?;
            events.push(Event::RelationCreated { relation: Box::new(view.clone()) });
            view
        }
        (None, SinkInput::Relation(name)) => {
            let found = catalog.relation_named(name.schema.as_deref().unwrap_or(PUBLIC), &name.name);
            let missing = || SqlError::new("42P01", format!("relation \"{name}\" does not exist"));
            found.ok_or_else(missing)?.as_ref().clone()
        }
        (None, SinkInput::Query(_)) => unreachable!("a query has a view"),
    };
    let mut after = catalog.clone();
    after.apply_all(&events).map_err(|refused| refusal(&refused))?;
    let (key, is_key_unique) = key_of(&after, create, &from)?;
    if after.topics_feeding(from.id).contains(&topic) {
        let message = format!(
            "sink \"{name}\" would feed its own input: \"{}\" is made of topic \"{}\"",
            from.name, create.topic
        );
        return Err(SqlError::new("42P17", message).with_hint("Write to a topic that nothing below it reads."));
    }
    let sink = Sink {
        id: after.next_relation_id(),
        schema: PUBLIC.to_owned(),
        name: name.to_owned(),
        from: from.id,
        topic,
        topic_name: create.topic.clone(),
        format: create.format,
        key,
        is_key_unique,
        snapshot: create.snapshot,
        force_append_only: create.force_append_only,
        with_schema: create.with_schema,
        owns_view,
        sql: create.sql.clone(),
    };
    events.push(Event::SinkCreated { sink: Box::new(sink) });
    Ok(events)
}

/// The topic, and the event that makes it if it is not there.
fn topic_of(catalog: &Catalog, create: &CreateSink, id: Uuid) -> Result<(Uuid, Option<Event>), SqlError> {
    let name = &create.topic;
    let Some(topic) = catalog.topic_named(name) else {
        check_topic_name(name).map_err(|error| SqlError::new("42602", error.to_string()))?;
        let compacted = [("cleanup.policy".to_owned(), "compact".to_owned())];
        let configs = if create.format == SinkFormat::Upsert { BTreeMap::from(compacted) } else { BTreeMap::new() };
        let (partitions, owner) = (create.partitions.unwrap_or(1), TopicOwner::Anyone);
        let topic = Topic { id, name: name.clone(), partitions, owner, configs };
        return Ok((id, Some(Event::TopicCreated { topic })));
    };
    match topic.owner {
        TopicOwner::Anyone => {}
        TopicOwner::Table(_) => {
            return Err(SqlError::new("42501", format!("topic \"{name}\" belongs to a table: only SQL writes to it")));
        }
        TopicOwner::Internal => return Err(SqlError::new("42501", format!("topic \"{name}\" is internal"))),
    }
    match create.partitions.filter(|wanted| *wanted != topic.partitions) {
        None => Ok((topic.id, None)),
        Some(wanted) => {
            let message = format!("topic \"{name}\" exists and has {} partitions, not {wanted}", topic.partitions);
            Err(SqlError::new("22023", message).with_hint("Leave partitions out, or name another topic."))
        }
    }
}

/// Columns of the records' key, and whether they are known to be unique.
fn key_of(catalog: &Catalog, create: &CreateSink, from: &Relation) -> Result<(Option<Vec<usize>>, bool), SqlError> {
    let (noun, name) = (from.kind.noun(), &from.name);
    if !matches!(from.kind, RelationKind::Table(_) | RelationKind::MaterializedView(_)) {
        let message = format!("\"{name}\" is a {noun}; a sink follows a table or a materialized view");
        return Err(SqlError::new("42809", message).with_hint(format!("Use CREATE SINK ... AS SELECT * FROM {name}.")));
    }
    let invalid = |what: &str| Err(SqlError::new("22023", what.to_owned()));
    if create.with_schema && create.format != SinkFormat::Debezium {
        return invalid("schemas.enable is an option of FORMAT DEBEZIUM");
    }
    if create.force_append_only && create.format != SinkFormat::Plain {
        return invalid("force_append_only is an option of FORMAT PLAIN");
    }
    let given = match &create.primary_key {
        None => None,
        Some(columns) => Some(columns_named(from, columns)?),
    };
    if create.format == SinkFormat::Plain {
        if !create.force_append_only && !is_append_only(from)? {
            let message =
                format!("FORMAT PLAIN cannot say that a row is taken back, and {noun} \"{name}\" takes rows back");
            return Err(SqlError::not_supported(message).with_hint(
                "Use FORMAT UPSERT or FORMAT DEBEZIUM, or force_append_only = 'true' to leave out what is taken back.",
            ));
        }
        return Ok((given, false));
    }
    let known = unique_key(catalog, from).filter(|key| key.iter().all(|column| !from.columns[*column].hidden));
    match (given, known) {
        (Some(given), known) => {
            let is_unique = known.is_some_and(|known| known.iter().all(|column| given.contains(column)));
            Ok((Some(given), is_unique))
        }
        (None, Some(known)) => Ok((Some(known), true)),
        (None, None) => {
            let message = format!(
                "the key of {noun} \"{name}\" is not known, and FORMAT {} needs one",
                create.format.text().to_uppercase()
            );
            Err(SqlError::new("42P10", message)
                .with_hint("Add WITH (primary_key = 'column, ...'): columns that tell its rows apart."))
        }
    }
}

fn is_append_only(relation: &Relation) -> Result<bool, SqlError> {
    let Some(view) = relation.materialized() else { return Ok(false) };
    let Some(graph) = &view.graph else { return Ok(false) };
    let graph = Graph::from_json(graph)?;
    Ok(graph.node(graph.output).append_only)
}

fn columns_named(relation: &Relation, names: &[String]) -> Result<Vec<usize>, SqlError> {
    let mut columns = Vec::with_capacity(names.len());
    for name in names {
        let column = relation.column(name).filter(|column| !relation.columns[*column].hidden);
        let missing = || SqlError::new("42703", format!("column \"{name}\" of \"{}\" does not exist", relation.name));
        let column = column.ok_or_else(missing)?;
        if columns.contains(&column) {
            return Err(SqlError::new("42701", format!("column \"{name}\" appears twice")));
        }
        columns.push(column);
    }
    if columns.is_empty() {
        return Err(SqlError::new("22023", "a key needs at least one column"));
    }
    Ok(columns)
}

fn index_events(catalog: &Catalog, name: &str, create: &CreateIndex) -> Result<Vec<Event>, SqlError> {
    if exists(catalog, name, create.if_not_exists)?.is_some() {
        return Ok(Vec::new());
    }
    let found = catalog.relation_named(create.of.schema.as_deref().unwrap_or(PUBLIC), &create.of.name);
    let relation = found.ok_or_else(|| SqlError::new("42P01", format!("relation \"{}\" does not exist", create.of)))?;
    if !matches!(relation.kind, RelationKind::Table(_) | RelationKind::MaterializedView(_)) {
        let message = format!("cannot create an index on {} \"{}\"", relation.kind.noun(), relation.name);
        return Err(
            SqlError::new("42809", message).with_hint("Create a materialized view of it, and the index on that.")
        );
    }
    let columns = columns_named(relation, &create.columns)?;
    if !create.include.is_empty() {
        columns_named(relation, &create.include)?;
    }
    let index = Index {
        id: catalog.next_relation_id(),
        schema: PUBLIC.to_owned(),
        name: name.to_owned(),
        of: relation.id,
        columns,
        sql: create.sql.clone(),
    };
    Ok(vec![Event::IndexCreated { index: Box::new(index) }])
}

/// The ids of what is to be dropped, and notices about what is not there.
fn named(
    catalog: &Catalog,
    drop: &DropAttached,
    noun: &str,
    find: &dyn Fn(&str, &str) -> Option<RelationId>,
) -> Result<(Vec<RelationId>, Vec<SqlError>), SqlError> {
    let (mut ids, mut notices) = (BTreeSet::new(), Vec::new());
    for name in &drop.names {
        let schema = name.schema.as_deref().unwrap_or(PUBLIC);
        match (find(schema, &name.name), catalog.noun_of(schema, &name.name)) {
            (Some(id), _) => {
                ids.insert(id);
            }
            (None, Some(other)) => {
                return Err(SqlError::new("42809", format!("\"{name}\" is not a {noun}"))
                    .with_hint(format!("Use DROP {} to remove a {other}.", other.to_uppercase())));
            }
            (None, None) if drop.if_exists => {
                notices.push(SqlError::new("00000", format!("{noun} \"{name}\" does not exist, skipping")));
            }
            (None, None) => return Err(SqlError::new("42704", format!("{noun} \"{name}\" does not exist"))),
        }
    }
    Ok((ids.into_iter().collect(), notices))
}

/// Drops sinks, with the views of their queries.
fn without(catalog: &Catalog, sinks: &[RelationId]) -> Vec<Event> {
    let live: Vec<_> = sinks.iter().filter_map(|id| catalog.sink(*id)).collect();
    if live.is_empty() {
        return Vec::new();
    }
    let views: Vec<RelationId> = live.iter().filter(|sink| sink.owns_view).map(|sink| sink.from).collect();
    let mut events = vec![Event::SinksDropped { sinks: live.iter().map(|sink| sink.id).collect() }];
    if !views.is_empty() {
        events.push(Event::RelationsDropped { relations: views });
    }
    events
}

/// What goes before these relations can: their sinks, with CASCADE.
pub(crate) fn dropped_with(
    catalog: &Catalog,
    relations: &[RelationId],
    cascade: bool,
    notices: &mut Vec<SqlError>,
) -> Result<Vec<Event>, SqlError> {
    let sinks: Vec<_> = relations.iter().flat_map(|id| catalog.sinks_from(*id)).collect();
    let Some(first) = sinks.first() else { return Ok(Vec::new()) };
    if !cascade {
        let relation = catalog.relation(first.from).expect("a sink's relation is live while it is");
        let (noun, name) = (relation.kind.noun(), &relation.name);
        let lines: Vec<String> =
            sinks.iter().map(|sink| format!("sink {} depends on {noun} {name}", sink.name)).collect();
        let message = format!("cannot drop {noun} {name} because other objects depend on it");
        return Err(SqlError::new("2BP01", message)
            .with_detail(lines.join("\n"))
            .with_hint("Use DROP ... CASCADE to drop the dependent objects too."));
    }
    notices.extend(sinks.iter().map(|sink| SqlError::new("00000", format!("drop cascades to sink {}", sink.name))));
    Ok(vec![Event::SinksDropped { sinks: sinks.iter().map(|sink| sink.id).collect() }])
}
