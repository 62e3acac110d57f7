//! A small database that is spoken to in SQL: definitions, DML and SELECT over a log in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use futures::TryStreamExt;
use mainstem_catalog::{
    Catalog, Column, Dependency, Encoding, Event, IDLE_TOPIC_ID, Include, Index, Relation, RelationId, RelationKind,
    SourceDefinition, SqlType, TICKS_TOPIC_ID, TableDefinition, Topic, TopicOwner, ViewDefinition, Watermark,
};
use mainstem_engine::batch::{
    Comparison, ContextOptions, compare_view, plan_query, query_error, relations_of, run, session_context,
};
use mainstem_engine::tables::{Dml, DmlPlan, DmlResult, Tables, Transaction};
use mainstem_engine::ticks::{IdleEvent, Tick};
use mainstem_engine::{Cut, Engine, EngineConfig, EngineParts, InputLog};
use mainstem_sql::statement::{ColumnDefinition, CreateIndex, WatermarkClause};
use mainstem_sql::{SqlError, Statement, parse, plan_query as check_query, plan_view};
use mainstem_testkit::{SimClock, SimDisk};
use uuid::Uuid;

use super::log::HeldLog;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One process: dropped and opened again it has what was durable.
pub(crate) struct Database {
    pub(crate) log: Arc<HeldLog>,
    pub(crate) engine: Engine,
    pub(crate) tables: Tables,
    pub(crate) catalog: Arc<Catalog>,
    disk: Arc<SimDisk>,
    clock: Arc<SimClock>,
}

/// A connection: its transaction, and what it has written.
#[derive(Default)]
pub(crate) struct Session {
    pub(crate) transaction: Option<Transaction>,
    pub(crate) at_least: Cut,
}

fn open(log: Arc<HeldLog>, disk: Arc<SimDisk>, clock: Arc<SimClock>, catalog: Arc<Catalog>) -> Database {
    let parts = EngineParts {
        input: log.clone(),
        output: log.clone(),
        disk: disk.clone(),
        clock: clock.clone(),
        config: EngineConfig::default(),
    };
    let (engine, _) = Engine::open(parts, catalog.clone()).expect("opens");
    let tables = Tables::new(engine.clone(), clock.clone(), ContextOptions::default());
    Database { log, engine, tables, catalog, disk, clock }
}

impl Database {
    pub(crate) fn new(definitions: &[&str]) -> Database {
        let (disk, clock) = (SimDisk::new(1), SimClock::new(1_000_000));
        let log: Arc<HeldLog> = Arc::default();
        log.create_topic(TICKS_TOPIC_ID, 1);
        log.create_topic(IDLE_TOPIC_ID, 1);
        let mut database = open(log, disk, clock, Arc::default());
        definitions.iter().for_each(|sql| database.define(sql));
        database
    }

    /// The process dies and starts again.
    pub(crate) fn crash(self) -> Database {
        let log = self.log.after_crash();
        let (disk, clock, catalog) = (self.disk.clone(), self.clock.clone(), self.catalog.clone());
        drop(self);
        open(log, disk, clock, catalog)
    }

    pub(crate) fn id(&self, name: &str) -> RelationId {
        self.catalog.relation_named("public", name).expect("a relation").id
    }

    pub(crate) fn topic(&self, name: &str) -> Uuid {
        self.catalog.topic_named(name).expect("a topic").id
    }

    /// Any CREATE.
    pub(crate) fn define(&mut self, sql: &str) {
        if let Statement::CreateIndex(create) = parse(sql).expect(sql).remove(0) {
            return self.define_index(&create);
        }
        let id = self.catalog.next_relation_id();
        let mut events = Vec::new();
        let relation = match parse(sql).expect(sql).remove(0) {
            Statement::CreateSource(source) => {
                let topic = self.new_topic(&source.topic, 2, TopicOwner::Anyone, &mut events);
                let mut columns = columns_of(&source.columns);
                let mut includes = Vec::new();
                for include in &source.includes {
                    includes.push(Include { kind: include.kind, column: columns.len() });
                    columns.push(column(&include.name, SqlType::BigInt, true));
                }
                let kind = RelationKind::Source(SourceDefinition {
                    topic,
                    topic_name: source.topic.clone(),
                    encoding: Encoding::PlainJson,
                    includes,
                    watermark: watermark_of(&self.catalog, source.watermark.as_ref(), &columns),
                });
                relation(id, &source.name.name, columns, kind, vec![Dependency::Topic(topic)], sql)
            }
            Statement::CreateTable(table) => {
                let topic = self.new_topic(&table.name.name, 1, TopicOwner::Table(id), &mut events);
                let mut columns = columns_of(&table.columns);
                let mut primary_key = table.primary_key.clone();
                if primary_key.is_empty() {
                    primary_key.push(columns.len());
                    columns.push(Column { hidden: true, ..column("_row_id", SqlType::BigInt, false) });
                }
                let topic_name = table.name.name.clone();
                let kind = RelationKind::Table(TableDefinition { topic, topic_name, primary_key, watermark: None });
                relation(id, &table.name.name, columns, kind, vec![Dependency::Topic(topic)], sql)
            }
            Statement::CreateMaterializedView(view) => {
                let plan = plan_view(&self.catalog, &view.query, &view.columns, view.emit()).expect(sql);
                let kind = RelationKind::MaterializedView(ViewDefinition {
                    query: plan.canonical_query,
                    emit_on_window_close: view.emit_on_window_close,
                    graph: Some(plan.graph.to_json()),
                    settings: Vec::new(),
                    origin: Vec::new(),
                });
                relation(id, &view.name.name, plan.columns, kind, plan.depends_on, sql)
            }
            Statement::CreateView(view) => {
                let plan = check_query(&self.catalog, &view.query, &view.columns).expect(sql);
                let kind = RelationKind::View(ViewDefinition {
                    query: plan.canonical_query,
                    emit_on_window_close: false,
                    graph: None,
                    settings: Vec::new(),
                    origin: Vec::new(),
                });
                relation(id, &view.name.name, plan.columns, kind, plan.depends_on, sql)
            }
            other => panic!("no definition: {other:?}"),
        };
        let is_stored = !matches!(relation.kind, RelationKind::View(_) | RelationKind::Source(_));
        events.push(Event::RelationCreated { relation: Box::new(relation) });
        let mut catalog = self.catalog.as_ref().clone();
        catalog.apply_all(&events).expect("new definitions");
        self.catalog = Arc::new(catalog);
        self.engine.catalog_changed(self.catalog.clone());
        if is_stored {
            self.engine.wait_ready_blocking(id, PATIENCE).expect("gets ready");
        }
    }

    fn define_index(&mut self, create: &CreateIndex) {
        let of = self.catalog.relation_named("public", &create.of.name).expect("a relation");
        let columns = create.columns.iter().map(|name| of.column(name).expect("a column")).collect();
        let columns: Vec<usize> = columns;
        let (id, of, name) = (self.catalog.next_relation_id(), of.id, create.name.name.clone());
        let index =
            Index { id, schema: "public".to_owned(), name, of, columns: columns.clone(), sql: create.sql.clone() };
        let mut catalog = self.catalog.as_ref().clone();
        catalog.apply(&Event::IndexCreated { index: Box::new(index) }).expect("a new index");
        self.catalog = Arc::new(catalog);
        self.engine.catalog_changed(self.catalog.clone());
        assert!(self.engine.wait_index_blocking(of, &columns, PATIENCE), "an index");
    }

    fn new_topic(&self, name: &str, partitions: i32, owner: TopicOwner, events: &mut Vec<Event>) -> Uuid {
        if let Some(topic) = self.catalog.topic_named(name) {
            return topic.id;
        }
        let id = Uuid::from_u128(1000 + self.catalog.topics().count() as u128);
        self.log.create_topic(id, partitions);
        let topic = Topic { id, name: name.to_owned(), partitions, owner, configs: BTreeMap::new() };
        events.push(Event::TopicCreated { topic });
        id
    }

    /// Values of records of a topic, by partition.
    pub(crate) fn produce(&self, topic: &str, records: &[(i32, &str)]) -> Cut {
        let topic = self.topic(topic);
        let mut cut = Cut::ZERO;
        for partition in 0..2 {
            let of = records.iter().filter(|(of, _)| *of == partition);
            let values: Vec<Bytes> = of.map(|(_, value)| Bytes::from((*value).to_owned())).collect();
            if !values.is_empty() {
                cut = self.log.produce(topic, partition, values);
            }
        }
        cut
    }

    /// What the clock showed.
    pub(crate) fn tick(&self, now_us: i64) -> Cut {
        self.log.produce(TICKS_TOPIC_ID, 0, vec![Tick { now_us }.record().value.expect("a tick")])
    }

    /// A partition of a source is said to be idle since it ended at the offset.
    pub(crate) fn idle(&self, source: &str, partition: i32, offset: i64) -> Cut {
        let event = IdleEvent { source: self.id(source), partition, offset };
        self.log.produce(IDLE_TOPIC_ID, 0, vec![event.record(0).value.expect("an event")])
    }

    pub(crate) fn end_of(&self, topic: &str, partition: i32) -> i64 {
        self.log.position(self.topic(topic), partition, self.log.newest()).expect("a partition")
    }

    pub(crate) async fn dml(&self, session: &mut Session, sql: &str) -> Result<DmlResult, SqlError> {
        let statement = match parse(sql)?.remove(0) {
            Statement::Insert(insert) => Dml::Insert(insert),
            Statement::Update(update) => Dml::Update(update),
            Statement::Delete(delete) => Dml::Delete(delete),
            other => panic!("no DML: {other:?}"),
        };
        let plan = DmlPlan { at_least: session.at_least, ..DmlPlan::new(self.catalog.clone(), statement) };
        let result = self.tables.execute(session.transaction.as_mut(), plan).await?;
        session.at_least = session.at_least.max(result.cut.unwrap_or_default());
        Ok(result)
    }

    pub(crate) async fn commit(&self, session: &mut Session) -> Result<Option<Cut>, SqlError> {
        let transaction = session.transaction.take().expect("inside BEGIN");
        let cut = self.tables.commit(transaction).await?;
        session.at_least = session.at_least.max(cut.unwrap_or_default());
        Ok(cut)
    }

    pub(crate) fn begin(&self, session: &mut Session) {
        session.transaction = Some(self.tables.begin());
    }

    /// Rows as text, `a|b`, in the order in which they came.
    pub(crate) async fn select(&self, session: &mut Session, sql: &str) -> Result<Vec<String>, SqlError> {
        let Statement::Query(query) = parse(sql)?.remove(0) else { panic!("no query: {sql}") };
        let at_least = session.at_least;
        let at = self.tables.read_point(session.transaction.as_mut(), at_least).await?;
        let relations = relations_of(&self.catalog, query.as_ref());
        let options = ContextOptions::default();
        let context = session_context(&self.engine, &self.catalog, &relations, &at, &options).await?;
        let plan = plan_query(&context, *query).await?;
        let batches: Vec<RecordBatch> = run(&context, plan, None).await?.try_collect().await.map_err(query_error)?;
        Ok(lines(&batches))
    }

    /// Rows of a query, sorted, everything durable seen.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<String> {
        let mut session = Session { transaction: None, at_least: self.log.newest() };
        let mut rows = self.select(&mut session, sql).await.expect(sql);
        rows.sort();
        rows
    }

    pub(crate) async fn compare(&self, name: &str) -> Comparison {
        let newest = self.log.newest();
        assert!(self.engine.wait_published_blocking(newest, PATIENCE), "published");
        compare_view(&self.engine, &self.catalog, self.id(name)).await.expect(name)
    }
}

pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let line = |batch: &RecordBatch, row: usize| {
        let value = |column: &Arc<dyn Array>| match column.is_null(row) {
            true => "null".to_owned(),
            false => array_value_to_string(column, row).expect("prints"),
        };
        batch.columns().iter().map(value).collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| line(batch, row))).collect()
}

fn column(name: &str, sql_type: SqlType, nullable: bool) -> Column {
    Column { name: name.to_owned(), sql_type, nullable, hidden: false, default: None }
}

fn columns_of(definitions: &[ColumnDefinition]) -> Vec<Column> {
    let one = |it: &ColumnDefinition| Column {
        default: it.default.clone(),
        ..column(&it.name, it.sql_type.clone(), !it.not_null)
    };
    definitions.iter().map(one).collect()
}

fn watermark_of(catalog: &Catalog, clause: Option<&WatermarkClause>, columns: &[Column]) -> Option<Watermark> {
    let WatermarkClause { column, delay_us, lateness_us, idle_timeout_us, late_into } = clause?.clone();
    let column = columns.iter().position(|one| one.name == column)?;
    let late_into = late_into.map(|name| catalog.relation_named("public", &name.name).expect("a table").id);
    Some(Watermark { column, delay_us, lateness_us, idle_timeout_us, late_into })
}

fn relation(
    id: RelationId,
    name: &str,
    columns: Vec<Column>,
    kind: RelationKind,
    depends_on: Vec<Dependency>,
    sql: &str,
) -> Relation {
    let (schema, name) = ("public".to_owned(), name.to_owned());
    Relation { id, schema, name, columns, kind, depends_on, sql: sql.to_owned() }
}
