//! One small database: a source of two partitions, a table, views over both, and what each view must hold, computed from
//! what was written without anything of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator as Op;
use mainstem_catalog::{
    Catalog, Column, DEAD_LETTERS_TOPIC, Dependency, Encoding, Event, IDLE_TOPIC, IDLE_TOPIC_ID, Include, IncludeKind,
    Origin, Relation, RelationId, RelationKind, SourceDefinition, SqlType, TICKS_TOPIC, TICKS_TOPIC_ID,
    TableDefinition, Topic, TopicOwner, ViewDefinition, Watermark,
};
use mainstem_engine::incremental::Shards;
use mainstem_engine::ticks::{IdleEvent, Tick};
use mainstem_engine::{Cut, Engine, EngineConfig, EngineParts, InputLog, PinnedRelation, RestoreReport, Version};
use mainstem_sql::graph::GRAPH_VERSION;
use mainstem_sql::{
    Aggregate, AggregateFunction, Graph, GraphField, JoinKind, Literal, Node, Operator, OperatorId, Scalar,
    TimeComparison,
};
use mainstem_testkit::{SimClock, SimDisk};
use uuid::Uuid;

use super::log::{Appends, MemoryLog};

pub(crate) const SOURCE: RelationId = RelationId(16384);
pub(crate) const TABLE: RelationId = RelationId(16385);
/// What of the source was late.
pub(crate) const LATE_TABLE: RelationId = RelationId(16386);
pub(crate) const SOURCE_TOPIC: Uuid = Uuid::from_u128(1);
pub(crate) const TABLE_TOPIC: Uuid = Uuid::from_u128(2);
pub(crate) const LETTERS_TOPIC: Uuid = Uuid::from_u128(3);
pub(crate) const LATE_TOPIC: Uuid = Uuid::from_u128(4);
pub(crate) const DELAY_US: i64 = 30;
pub(crate) const LATENESS_US: i64 = 20;
/// How often windows that are open are shown.
const EARLY_US: i64 = 40;
pub(crate) const WINDOW_US: i64 = 100;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A row of the source as it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event1 {
    pub(crate) k: i64,
    pub(crate) v: i64,
    /// Event time, microseconds; the window is its window's end.
    pub(crate) ts: Option<i64>,
}

/// What views there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// `SELECT k, count(*), sum(v) FROM source GROUP BY k`
    ByKey,
    /// `SELECT sum(count), sum(sum) FROM <the ByKey view>`
    Total(RelationId),
    /// `SELECT sum(n) FROM table`
    TableTotal,
    /// `SELECT id, 100 / n FROM table`
    Divided,
    /// `SELECT p, "offset", k FROM source WHERE v > 5`, with the included columns
    Filtered,
    /// `SELECT window_end, count(*), sum(v) FROM source GROUP BY window_end EMIT ON WINDOW CLOSE`
    Closed,
    /// `SELECT sum FROM <the ByKey view> UNION ALL SELECT sum FROM <the TableTotal view>`: brings two lanes together
    Both(RelationId, RelationId),
    /// `SELECT count(*) FROM source a JOIN source b ON a.k = b.k`: pairs in the square of the records
    Pairs,
    /// The same WITH EARLY EVERY [`EARLY_US`].
    Early,
    /// `SELECT k FROM source WHERE ts > now()`
    Upcoming,
    /// `SELECT count(*), sum(n) FROM source JOIN table ON k = id`
    Joined,
    /// `SELECT count(*), sum(count) FROM source JOIN <the ByKey view> ON k = k`
    JoinedView(RelationId),
}

pub(crate) type Row = Vec<Option<i64>>;

/// Everything that lives on while engines come and go.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) catalog: Catalog,
    pub(crate) views: BTreeMap<RelationId, Kind>,
    /// By partition, in offset order; none is poison.
    pub(crate) written: [Vec<Option<Event1>>; 2],
    /// By partition, for each of what was written.
    is_late: [Vec<bool>; 2],
    /// By partition: its watermark, once it has begun.
    watermarks_us: [Option<Option<i64>>; 2],
    is_idle: [bool; 2],
    pub(crate) now_us: Option<i64>,
    /// How much was written of each partition when windows were shown early.
    shown_early: [usize; 2],
    pub(crate) table: BTreeMap<i64, i64>,
    pub(crate) config: EngineConfig,
    /// Of the views that are defined from now on.
    pub(crate) settings: Vec<(String, String)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let log = Arc::new(MemoryLog::default());
        let mut catalog = Catalog::default();
        let topics = [
            (SOURCE_TOPIC, "events", 2, TopicOwner::Anyone),
            (TABLE_TOPIC, "accounts", 1, TopicOwner::Table(TABLE)),
            (LETTERS_TOPIC, DEAD_LETTERS_TOPIC, 1, TopicOwner::Internal),
            (LATE_TOPIC, "late_events", 1, TopicOwner::Table(LATE_TABLE)),
            (TICKS_TOPIC_ID, TICKS_TOPIC, 1, TopicOwner::Internal),
            (IDLE_TOPIC_ID, IDLE_TOPIC, 1, TopicOwner::Internal),
        ];
        for (id, name, partitions, owner) in topics {
            log.create_topic(id, partitions);
            let topic = Topic { id, name: name.to_owned(), partitions, owner, configs: BTreeMap::new() };
            catalog.apply(&Event::TopicCreated { topic }).expect("a new topic");
        }
        for relation in [source(), table(), late_table()] {
            catalog.apply(&Event::RelationCreated { relation: Box::new(relation) }).expect("a new relation");
        }
        let config = EngineConfig { slice_rows: 64, read_bytes_max: 2000, ..EngineConfig::default() };
        World {
            log,
            disk: SimDisk::new(seed),
            clock: SimClock::new(1_000_000),
            catalog,
            views: BTreeMap::new(),
            written: [Vec::new(), Vec::new()],
            is_late: [Vec::new(), Vec::new()],
            watermarks_us: [None, None],
            is_idle: [false, false],
            now_us: None,
            shown_early: [0, 0],
            table: BTreeMap::new(),
            config,
            settings: Vec::new(),
        }
    }

    pub(crate) fn open(&self) -> (Engine, RestoreReport) {
        self.log.forget_listeners();
        let parts = EngineParts {
            input: self.log.clone(),
            output: self.log.clone(),
            disk: self.disk.mount(),
            clock: self.clock.clone(),
            config: EngineConfig { shards: self.shards(), ..self.config.clone() },
        };
        Engine::open(parts, Arc::new(self.catalog.clone())).expect("opens")
    }

    /// Another number of shards at each start.
    fn shards(&self) -> Shards {
        Shards { count: 1 + (self.log.newest().0 % 3) as usize, parallel_rows: 1 }
    }

    /// The process and the machine it ran on are gone: what was not durable is lost or torn.
    pub(crate) fn kill(&self, engine: Engine) {
        drop(engine);
        self.disk.crash();
    }

    /// Defines a view; the engine is to be told.
    pub(crate) fn define(&mut self, kind: Kind) -> RelationId {
        let id = self.catalog.next_relation_id();
        let (graph, columns) = graph_of(kind);
        self.define_graph(id, Some(graph.to_json()), columns, &graph.relations());
        self.views.insert(id, kind);
        id
    }

    pub(crate) fn define_graph(
        &mut self,
        id: RelationId,
        graph: Option<serde_json::Value>,
        columns: Vec<Column>,
        reads: &[RelationId],
    ) {
        self.define_graph_from(id, graph, columns, reads, Vec::new());
    }

    pub(crate) fn define_graph_from(
        &mut self,
        id: RelationId,
        graph: Option<serde_json::Value>,
        columns: Vec<Column>,
        reads: &[RelationId],
        origin: Vec<Origin>,
    ) {
        let settings = self.settings.clone();
        let view = ViewDefinition { query: String::new(), emit_on_window_close: false, graph, settings, origin };
        let relation = Relation {
            id,
            schema: "public".to_owned(),
            name: format!("view_{}", id.0),
            columns,
            kind: RelationKind::MaterializedView(view),
            depends_on: reads.iter().map(|id| Dependency::Relation(*id)).collect(),
            sql: String::new(),
        };
        self.catalog.apply(&Event::RelationCreated { relation: Box::new(relation) }).expect("a new view");
    }

    pub(crate) fn drop_view(&mut self, id: RelationId) {
        for id in self.catalog.with_dependents(id) {
            self.views.remove(&id);
        }
        let relations = self.catalog.with_dependents(id);
        self.catalog.apply(&Event::RelationsDropped { relations }).expect("drops");
    }

    pub(crate) fn tell(&self, engine: &Engine) {
        engine.catalog_changed(Arc::new(self.catalog.clone()));
    }

    /// One entry with records for both partitions; none is poison.
    pub(crate) fn write_events(&mut self, events: [Vec<Option<Event1>>; 2]) -> Cut {
        let mut appends: Appends = Vec::new();
        self.observe(&events);
        for (partition, events) in (0..).zip(events) {
            if events.is_empty() {
                continue;
            }
            let record =
                |event: &Option<Event1>| (None, Some(event.map_or(Bytes::from_static(b"{\"k\":1,"), event_json)));
            appends.push(((SOURCE_TOPIC, partition), events.iter().map(record).collect()));
            self.written[partition as usize].extend(events);
        }
        self.log.append(appends)
    }

    /// One entry that writes and deletes rows of the table.
    pub(crate) fn write_table(&mut self, changes: &[(i64, Option<i64>)]) -> Cut {
        let mut records = Vec::new();
        for (id, n) in changes {
            let key = Some(Bytes::from(format!("{{\"id\":{id}}}")));
            records.push((key, n.map(|n| Bytes::from(format!("{{\"id\":{id},\"n\":{n}}}")))));
            match n {
                Some(n) => self.table.insert(*id, *n),
                None => self.table.remove(id),
            };
        }
        self.log.append(vec![((TABLE_TOPIC, 0), records)])
    }

    /// A partition is said to have been idle; a stale event was overtaken by a record.
    pub(crate) fn write_idle(&mut self, partition: usize, is_stale: bool) {
        let offset = self.written[partition].len() as i64 - i64::from(is_stale);
        if offset < 0 {
            return;
        }
        let event = IdleEvent { source: SOURCE, partition: partition as i32, offset };
        self.log.append(vec![((IDLE_TOPIC_ID, 0), vec![(None, event.record(0).value)])]);
        self.is_idle[partition] |= !is_stale && self.watermarks_us[partition].is_some();
    }

    pub(crate) fn write_tick(&mut self, now_us: i64) {
        self.log.append(vec![((TICKS_TOPIC_ID, 0), vec![(None, Tick { now_us }.record().value)])]);
        let interval = |now_us: i64| now_us.div_euclid(EARLY_US);
        if self.now_us.is_none_or(|before_us| interval(now_us) > interval(before_us)) {
            self.shown_early = [0, 1].map(|partition| self.written[partition].len());
        }
        self.now_us = Some(now_us);
    }

    /// What a view must hold, and whether an error must stand in it.
    pub(crate) fn expected(&self, kind: Kind) -> (BTreeMap<Row, usize>, bool) {
        let events = || self.written.iter().flatten().flatten();
        let by_key = |events: &mut dyn Iterator<Item = &Event1>, key: &dyn Fn(&Event1) -> Option<i64>| {
            let mut groups: BTreeMap<Option<i64>, (i64, i64)> = BTreeMap::new();
            for event in events {
                let group = groups.entry(key(event)).or_default();
                (group.0, group.1) = (group.0 + 1, group.1 + event.v);
            }
            groups
        };
        let mut rows: Vec<Row> = Vec::new();
        let mut has_error = false;
        match kind {
            Kind::ByKey => {
                let groups = by_key(&mut events(), &|event| Some(event.k));
                rows.extend(groups.into_iter().map(|(k, (count, sum))| vec![k, Some(count), Some(sum)]));
            }
            Kind::Total(_) => {
                let some = events().next().is_some();
                let sum = events().map(|event| event.v).sum::<i64>();
                rows.push(vec![some.then(|| events().count() as i64), some.then_some(sum)]);
            }
            Kind::Both(by_key, total) => {
                let (by_key, total) = (self.expected(self.views[&by_key]).0, self.expected(self.views[&total]).0);
                let sums = by_key.into_iter().map(|(row, times)| (vec![row[2]], times)).chain(total);
                sums.for_each(|(row, times)| rows.extend(std::iter::repeat_n(row, times)));
            }
            Kind::Pairs => {
                let groups = by_key(&mut events(), &|event| Some(event.k));
                rows.push(vec![Some(groups.values().map(|(count, _)| count * count).sum())]);
            }
            Kind::Joined => {
                let found: Vec<i64> = events().filter_map(|event| self.table.get(&event.k).copied()).collect();
                rows.push(vec![Some(found.len() as i64), (!found.is_empty()).then(|| found.iter().sum())]);
            }
            Kind::JoinedView(_) => {
                let groups = by_key(&mut events(), &|event| Some(event.k));
                let squares = groups.values().map(|(count, _)| count * count).sum();
                rows.push(vec![Some(events().count() as i64), (!groups.is_empty()).then_some(squares)]);
            }
            Kind::TableTotal => {
                let sum = self.table.values().sum::<i64>();
                rows.push(vec![(!self.table.is_empty()).then_some(sum)]);
            }
            Kind::Divided => {
                has_error = self.table.values().any(|n| *n == 0);
                let good = self.table.iter().filter(|(_, n)| **n != 0);
                rows.extend(good.map(|(id, n)| vec![Some(*id), Some(100 / n)]));
            }
            Kind::Filtered => {
                for (p, events) in (0..).zip(&self.written) {
                    let good = (0..).zip(events).filter_map(|(offset, event)| Some((offset, (*event)?)));
                    let good = good.filter(|(_, event)| event.v > 5);
                    rows.extend(good.map(|(offset, event)| vec![Some(p), Some(offset), Some(event.k)]));
                }
            }
            Kind::Closed | Kind::Early => {
                let in_time = |counts: [usize; 2]| {
                    let parts = self.written.iter().zip(&self.is_late).zip(counts);
                    let part = |((events, late), count): ((&'_ Vec<Option<Event1>>, &'_ Vec<bool>), usize)| {
                        let in_time = events.iter().zip(late).take(count).filter(|(_, is_late)| !**is_late);
                        in_time.filter_map(|(event, _)| *event).collect::<Vec<Event1>>()
                    };
                    let events: Vec<Event1> = parts.flat_map(part).collect();
                    by_key(&mut events.iter(), &|event| event.ts.map(window_end))
                };
                let watermark = self.watermark_us();
                let is_closed = |end: &Option<i64>| end.is_some_and(|end| watermark.is_some_and(|at| end <= at));
                let row = |(end, (count, sum)): (Option<i64>, (i64, i64))| vec![end, Some(count), Some(sum)];
                rows.extend(in_time([usize::MAX; 2]).into_iter().filter(|(end, _)| is_closed(end)).map(row));
                if kind == Kind::Early {
                    let open = |end: &Option<i64>| end.is_some() && !is_closed(end);
                    rows.extend(in_time(self.shown_early).into_iter().filter(|(end, _)| open(end)).map(row));
                }
            }
            Kind::Upcoming => {
                let is_upcoming = |event: &&Event1| event.ts.zip(self.now_us).is_some_and(|(ts, now_us)| ts > now_us);
                rows.extend(events().filter(is_upcoming).map(|event| vec![Some(event.k)]));
            }
        }
        let mut counted = BTreeMap::new();
        rows.into_iter().for_each(|row| *counted.entry(row).or_default() += 1);
        (counted, has_error)
    }

    /// The smallest watermark of the partitions that have begun and are not idle; the largest if all are.
    fn watermark_us(&self) -> Option<i64> {
        let of = |idle: bool| {
            let parts = self.watermarks_us.iter().zip(self.is_idle).filter(move |(_, is_idle)| *is_idle == idle);
            parts.filter_map(|(watermark_us, _)| *watermark_us)
        };
        of(false).min().unwrap_or_else(|| of(true).max().flatten())
    }

    /// One entry arrives: a partition begins, or is idle no more, at the watermark of the source before it.
    fn observe(&mut self, events: &[Vec<Option<Event1>>; 2]) {
        let floor_us = self.watermark_us();
        for (partition, events) in events.iter().enumerate().filter(|(_, events)| !events.is_empty()) {
            let watermark_us = self.watermarks_us[partition].get_or_insert(floor_us);
            if std::mem::take(&mut self.is_idle[partition]) {
                *watermark_us = (*watermark_us).max(floor_us);
            }
            for event in events {
                let ts = event.and_then(|event| event.ts);
                let is_late = ts.zip(*watermark_us).is_some_and(|(ts, watermark_us)| ts < watermark_us - LATENESS_US);
                self.is_late[partition].push(is_late);
                *watermark_us = (*watermark_us).max(ts.map(|ts| ts - DELAY_US));
            }
        }
    }

    /// Places of the late rows that the table got, each with how often it was written.
    pub(crate) fn late_rows(&self) -> BTreeMap<(i64, i64), usize> {
        let mut places = BTreeMap::new();
        for record in self.log.records(LATE_TOPIC, 0) {
            let row: serde_json::Value = serde_json::from_slice(&record.value.expect("a row")).expect("JSON");
            let place = |name: &str| row[name].as_i64().expect("a number");
            *places.entry((place("late_partition"), place("late_offset"))).or_default() += 1;
        }
        places
    }

    /// Places of the rows that were late.
    pub(crate) fn late_places(&self) -> BTreeSet<(i64, i64)> {
        let of = |(partition, late): (i64, &Vec<bool>)| {
            let late = (0..).zip(late).filter(|(_, is_late)| **is_late);
            late.map(move |(offset, _)| (partition, offset)).collect::<Vec<_>>()
        };
        (0..).zip(&self.is_late).flat_map(of).collect()
    }

    pub(crate) fn late(&self) -> u64 {
        self.is_late.iter().flatten().filter(|is_late| **is_late).count() as u64
    }

    pub(crate) fn poison(&self) -> BTreeSet<(i64, i64)> {
        let of = |(partition, events): (i64, &Vec<Option<Event1>>)| {
            let poison = (0..).zip(events).filter(|(_, event)| event.is_none());
            poison.map(move |(offset, _)| (partition, offset)).collect::<Vec<_>>()
        };
        (0..).zip(&self.written).flat_map(of).collect()
    }

    /// All views are ready and hold what they must, at one cut, the newest.
    pub(crate) fn check(&self, engine: &Engine) {
        let newest = self.log.newest();
        for id in self.views.keys() {
            engine.wait_ready_blocking(*id, PATIENCE).expect("every view gets ready");
        }
        assert!(engine.wait_published_blocking(newest, PATIENCE), "published {:?} of {newest:?}", engine.published());
        let ids: Vec<_> = self.views.keys().copied().chain([TABLE]).collect();
        let pinned = engine.pin(&ids).expect("ready");
        for (id, kind) in &self.views {
            let PinnedRelation::Collection(version, error) = &pinned.relations[id] else { panic!("a view") };
            let (rows, has_error) = self.expected(*kind);
            assert_eq!(rows_of(version), rows, "{kind:?} ({id:?}) at {}", pinned.cut);
            assert_eq!(error.is_some(), has_error, "{kind:?}: {error:?}");
            assert_eq!(version.len(), rows.values().sum::<usize>() as u64);
        }
        let PinnedRelation::Collection(version, _) = &pinned.relations[&TABLE] else { panic!("a table") };
        let expected = self.table.iter().map(|(id, n)| (vec![Some(*id), Some(*n)], 1)).collect();
        assert_eq!(rows_of(version), expected, "the table at {}", pinned.cut);
    }

    /// Dead letters, each with how often it was written.
    pub(crate) fn letters(&self) -> BTreeMap<(i64, i64), usize> {
        let mut letters = BTreeMap::new();
        for record in self.log.records(LETTERS_TOPIC, 0) {
            let value: serde_json::Value = serde_json::from_slice(&record.value.expect("a letter")).expect("JSON");
            assert_eq!((value["source"].as_str(), value["value"].as_str()), (Some("events"), Some("{\"k\":1,")));
            assert!(value["reason"].as_str().is_some_and(|reason| reason.contains("not JSON")), "{value}");
            let place = (value["partition"].as_i64().expect("a number"), value["offset"].as_i64().expect("a number"));
            *letters.entry(place).or_default() += 1;
        }
        letters
    }
}

pub(crate) fn window_end(ts: i64) -> i64 {
    (ts.div_euclid(WINDOW_US) + 1) * WINDOW_US
}

fn event_json(event: Event1) -> Bytes {
    let micros = |ts: i64| format!("\"1970-01-01T00:00:{:02}.{:06}\"", ts / 1_000_000, ts % 1_000_000);
    let ts = event.ts.map_or("null".to_owned(), micros);
    let end = event.ts.map_or("null".to_owned(), |ts| micros(window_end(ts)));
    format!("{{\"k\":{},\"v\":{},\"ts\":{ts},\"window_end\":{end}}}", event.k, event.v).into()
}

/// Rows of numbers and timestamps, each with how often it is there.
pub(crate) fn rows_of(version: &Version) -> BTreeMap<Row, usize> {
    let mut rows = BTreeMap::new();
    for batch in version.scan(None, 10) {
        for row in 0..batch.num_rows() {
            let values = (0..batch.num_columns()).map(|column| value(&batch, column, row));
            *rows.entry(values.collect::<Row>()).or_default() += 1;
        }
    }
    rows
}

fn value(batch: &RecordBatch, column: usize, row: usize) -> Option<i64> {
    let column = batch.column(column);
    let is_time = matches!(column.data_type(), DataType::Timestamp(..));
    let value = || match is_time {
        true => column.as_primitive::<TimestampMicrosecondType>().value(row),
        false => column.as_primitive::<Int64Type>().value(row),
    };
    column.is_valid(row).then(value)
}

fn column(name: &str, sql_type: SqlType, nullable: bool) -> Column {
    Column { name: name.to_owned(), sql_type, nullable, hidden: false, default: None }
}

fn source() -> Relation {
    let columns = vec![
        column("k", SqlType::BigInt, true),
        column("v", SqlType::BigInt, true),
        column("ts", SqlType::Timestamp, true),
        column("window_end", SqlType::Timestamp, true),
        column("p", SqlType::BigInt, true),
        column("offset", SqlType::BigInt, true),
    ];
    let include = |kind, column| Include { kind, column };
    let definition = SourceDefinition {
        topic: SOURCE_TOPIC,
        topic_name: "events".to_owned(),
        encoding: Encoding::PlainJson,
        includes: vec![include(IncludeKind::Partition, 4), include(IncludeKind::Offset, 5)],
        watermark: Some(Watermark {
            lateness_us: LATENESS_US,
            idle_timeout_us: Some(1),
            late_into: Some(LATE_TABLE),
            ..Watermark::new(2, DELAY_US)
        }),
    };
    let depends_on = vec![Dependency::Topic(SOURCE_TOPIC)];
    relation(SOURCE, "events", columns, RelationKind::Source(definition), depends_on)
}

fn table() -> Relation {
    let columns = vec![column("id", SqlType::BigInt, false), column("n", SqlType::BigInt, false)];
    let definition = TableDefinition {
        topic: TABLE_TOPIC,
        topic_name: "accounts".to_owned(),
        primary_key: vec![0],
        watermark: None,
    };
    let depends_on = vec![Dependency::Topic(TABLE_TOPIC)];
    relation(TABLE, "accounts", columns, RelationKind::Table(definition), depends_on)
}

fn late_table() -> Relation {
    let columns = vec![
        column("k", SqlType::BigInt, true),
        column("v", SqlType::BigInt, true),
        column("ts", SqlType::Timestamp, true),
        column("late_partition", SqlType::Integer, false),
        column("late_offset", SqlType::BigInt, false),
        column("late_watermark", SqlType::Timestamp, true),
    ];
    let definition = TableDefinition {
        topic: LATE_TOPIC,
        topic_name: "late_events".to_owned(),
        primary_key: vec![3, 4],
        watermark: None,
    };
    let depends_on = vec![Dependency::Topic(LATE_TOPIC)];
    relation(LATE_TABLE, "late_events", columns, RelationKind::Table(definition), depends_on)
}

fn relation(
    id: RelationId,
    name: &str,
    columns: Vec<Column>,
    kind: RelationKind,
    depends_on: Vec<Dependency>,
) -> Relation {
    Relation { id, schema: "public".to_owned(), name: name.to_owned(), columns, kind, depends_on, sql: String::new() }
}

struct Nodes(Vec<Node>);

impl Nodes {
    fn add(&mut self, operator: Operator, input: Option<OperatorId>, types: &[DataType]) -> OperatorId {
        let id = OperatorId(self.0.len() as u32);
        let field = |(place, data_type): (usize, &DataType)| {
            GraphField::from_arrow(&Field::new(format!("c{place}"), data_type.clone(), true)).expect("a plain type")
        };
        let schema = types.iter().enumerate().map(field).collect();
        self.0.push(Node {
            id,
            operator,
            inputs: input.into_iter().collect(),
            schema,
            append_only: false,
            forgets: vec![],
        });
        id
    }

    fn add_two(&mut self, operator: Operator, inputs: [OperatorId; 2], types: &[DataType]) -> OperatorId {
        let id = self.add(operator, None, types);
        self.0[id.0 as usize].inputs = inputs.to_vec();
        id
    }
}

fn count() -> Aggregate {
    Aggregate::new(AggregateFunction::Count, Vec::new(), DataType::Int64.to_string())
}

fn sum(of: usize) -> Aggregate {
    Aggregate { function: AggregateFunction::Sum, arguments: vec![Scalar::Column(of)], ..count() }
}

fn number(value: i64) -> Scalar {
    Scalar::Literal(Literal::from_value(&ScalarValue::Int64(Some(value))).expect("a number"))
}

fn binary(op: Op, left: Scalar, right: Scalar) -> Scalar {
    Scalar::Binary { op, left: Box::new(left), right: Box::new(right) }
}

pub(crate) fn graph_of(kind: Kind) -> (Graph, Vec<Column>) {
    let (int, time) = (DataType::Int64, DataType::Timestamp(TimeUnit::Microsecond, None));
    let mut nodes = Nodes(Vec::new());
    let input = |nodes: &mut Nodes, relation, columns: &[usize], types: &[DataType]| {
        nodes.add(Operator::Input { relation, columns: columns.to_vec() }, None, types)
    };
    let ints = |count| vec![int.clone(); count];
    match kind {
        Kind::ByKey => {
            let rows = input(&mut nodes, SOURCE, &[0, 1], &ints(2));
            let by_key = Operator::Aggregate { group: vec![Scalar::Column(0)], aggregates: vec![count(), sum(1)] };
            nodes.add(by_key, Some(rows), &ints(3));
        }
        Kind::Total(of) => {
            let rows = input(&mut nodes, of, &[1, 2], &ints(2));
            let total = Operator::Aggregate { group: Vec::new(), aggregates: vec![sum(0), sum(1)] };
            nodes.add(total, Some(rows), &ints(2));
        }
        Kind::Both(by_key, total) => {
            let sums = input(&mut nodes, by_key, &[2], &ints(1));
            let total = input(&mut nodes, total, &[0], &ints(1));
            nodes.add_two(Operator::Union, [sums, total], &ints(1));
        }
        Kind::Pairs => {
            let left = input(&mut nodes, SOURCE, &[0, 1], &ints(2));
            let right = input(&mut nodes, SOURCE, &[0, 1], &ints(2));
            let on = vec![(Scalar::Column(0), Scalar::Column(0))];
            let join = Operator::Join { kind: JoinKind::Inner, on, null_equals_null: false, filter: None, range: None };
            let pairs = nodes.add_two(join, [left, right], &ints(4));
            nodes.add(Operator::Aggregate { group: Vec::new(), aggregates: vec![count()] }, Some(pairs), &ints(1));
        }
        Kind::Joined | Kind::JoinedView(_) => {
            let of = if let Kind::JoinedView(of) = kind { of } else { TABLE };
            let left = input(&mut nodes, SOURCE, &[0], &ints(1));
            let right = input(&mut nodes, of, &[0, 1], &ints(2));
            let on = vec![(Scalar::Column(0), Scalar::Column(0))];
            let join = Operator::Join { kind: JoinKind::Inner, on, null_equals_null: false, filter: None, range: None };
            let pairs = nodes.add_two(join, [left, right], &ints(3));
            let total = Operator::Aggregate { group: Vec::new(), aggregates: vec![count(), sum(2)] };
            nodes.add(total, Some(pairs), &ints(2));
        }
        Kind::TableTotal => {
            let rows = input(&mut nodes, TABLE, &[1], &ints(1));
            let total = Operator::Aggregate { group: Vec::new(), aggregates: vec![sum(0)] };
            nodes.add(total, Some(rows), &ints(1));
        }
        Kind::Divided => {
            let rows = input(&mut nodes, TABLE, &[0, 1], &ints(2));
            let divided = binary(Op::Divide, number(100), Scalar::Column(1));
            nodes.add(Operator::Project { expressions: vec![Scalar::Column(0), divided] }, Some(rows), &ints(2));
        }
        Kind::Filtered => {
            let rows = input(&mut nodes, SOURCE, &[4, 5, 0, 1], &ints(4));
            let predicate = binary(Op::Gt, Scalar::Column(3), number(5));
            let some = nodes.add(Operator::Filter { predicate }, Some(rows), &ints(4));
            let expressions = (0..3).map(Scalar::Column).collect();
            nodes.add(Operator::Project { expressions }, Some(some), &ints(3));
        }
        Kind::Upcoming => {
            let two = [int.clone(), time.clone()];
            let rows = input(&mut nodes, SOURCE, &[0, 2], &two);
            let to = time.to_string();
            let now = Scalar::Cast { to, is_try: false, argument: Box::new(Scalar::Column(0)) };
            let upcoming = Operator::Temporal {
                value: Scalar::Column(1),
                comparison: TimeComparison::After,
                bound: now,
                is_steady: true,
            };
            let some = nodes.add(upcoming, Some(rows), &two);
            nodes.add(Operator::Project { expressions: vec![Scalar::Column(0)] }, Some(some), &[int]);
        }
        Kind::Closed | Kind::Early => {
            let two = [time.clone(), int.clone()];
            let three = [time, int.clone(), int];
            let rows = input(&mut nodes, SOURCE, &[3, 1], &two);
            let in_time = nodes.add(Operator::DropLate {}, Some(rows), &two);
            let by_window = Operator::Aggregate { group: vec![Scalar::Column(0)], aggregates: vec![count(), sum(1)] };
            let windows = nodes.add(by_window, Some(in_time), &three);
            let early_us = (kind == Kind::Early).then_some(EARLY_US);
            nodes.add(Operator::EmitOnClose { window_end: 0, after_us: -1, early_us }, Some(windows), &three);
        }
    }
    let output = OperatorId(nodes.0.len() as u32 - 1);
    let of_output = nodes.0[output.0 as usize].schema.iter().map(|field| {
        let sql_type = mainstem_sql::sql_type(&field.to_arrow().expect("a plain type"));
        column(&field.name, sql_type, true)
    });
    let columns = of_output.collect();
    let graph = Graph { version: GRAPH_VERSION, nodes: nodes.0, output, settings: BTreeMap::new() };
    graph.check().expect("a good graph");
    (graph, columns)
}
