//! The oracle: what a view must hold as of a cut, from the log alone.
//!
//! The view's query is planned by DataFusion with every view below it replaced by its own query, down to sources and tables.
//! A source is its records; a table is the last value per key of its topic. Nothing is read from collections.
//!
//! A view with EMIT ON WINDOW CLOSE reads its sources without late rows, and holds the windows that end at or before the
//! watermark of the cut; with early results also the others, as they were at the newest tick that was the first of its
//! interval. In all of them now() is the newest tick.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use mainstem_catalog::{
    Catalog, Dependency, Relation, RelationId, RelationKind, TICKS_TOPIC_ID, ViewDefinition, Watermark,
};
use mainstem_formats::JsonDecoder;
use mainstem_sql::{Graph, SqlError, arrow_schema, at_time};

use super::closed::{Windows, ties_decided, windows_only};
use super::context::{ContextOptions, as_declared, empty_context, plan_text, register, visible_columns};
use super::errors::{engine_error, log_error, query_error};
use super::event_time::{EventTime, entries_until};
use super::source::{Positions, SourceTable};
use crate::delta::canonical_floats;
use crate::engine::Engine;
use crate::input_log::{Cut, InputLog, LogRecord};
use crate::ticks::Tick;

/// Bytes of records that are read at once.
const SLICE_BYTES: usize = 4 << 20;
/// A comparison is worth more memory than a query.
const MEMORY_BYTES: usize = 4 << 30;

/// The rows that the view holds as of the cut, in no order. The cut must not be newer than the log's newest.
pub async fn recompute(
    engine: &Engine,
    catalog: &Arc<Catalog>,
    relation: RelationId,
    at: Cut,
) -> Result<Vec<RecordBatch>, SqlError> {
    recompute_from(engine.input(), catalog, relation, at).await
}

/// [`recompute`] for those who have the log alone.
pub(super) async fn recompute_from(
    input: &Arc<dyn InputLog>,
    catalog: &Arc<Catalog>,
    relation: RelationId,
    at: Cut,
) -> Result<Vec<RecordBatch>, SqlError> {
    let unknown = || engine_error(&crate::EngineError::UnknownRelation(relation.0));
    let relation = catalog.relation(relation).ok_or_else(unknown)?;
    let options = ContextOptions { runtime: super::memory_limited(MEMORY_BYTES), ..ContextOptions::default() };
    let oracle = Oracle { input: input.clone(), catalog: catalog.clone(), at, options };
    let provider = oracle.definition_of(relation.clone(), DropLate::No).await?;
    let context = oracle.context_of(&[(relation.clone(), provider)]);
    let text = format!("SELECT * FROM {}", quoted(&relation.schema, &relation.name));
    let plan = plan_text(&context, &text).await?;
    let stream = super::run(&context, plan, None).await?;
    stream.try_collect().await.map_err(query_error)
}

pub(crate) fn quoted(schema: &str, name: &str) -> String {
    format!("\"{}\".\"{}\"", schema.replace('"', "\"\""), name.replace('"', "\"\""))
}

/// Whether sources are read without late rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DropLate {
    Yes,
    No,
}

struct Oracle {
    input: Arc<dyn InputLog>,
    catalog: Arc<Catalog>,
    at: Cut,
    options: ContextOptions,
}

impl Oracle {
    fn context_of(&self, relations: &[(Arc<Relation>, Arc<dyn TableProvider>)]) -> SessionContext {
        let context = empty_context(&self.options);
        for (relation, provider) in relations {
            register(&context, &relation.schema, &relation.name, provider.clone());
        }
        context
    }

    fn definition_of(
        &self,
        relation: Arc<Relation>,
        late: DropLate,
    ) -> BoxFuture<'_, Result<Arc<dyn TableProvider>, SqlError>> {
        Box::pin(async move {
            match &relation.kind {
                RelationKind::Source(source) => {
                    let event_time = match &source.watermark {
                        Some(watermark) if late == DropLate::Yes => Some(self.event_time(&relation, watermark)?),
                        _ => None,
                    };
                    let positions = self.positions(&relation)?;
                    let table = SourceTable::new(relation.clone(), self.input.clone(), positions);
                    Ok(Arc::new(table.without_late_rows(event_time)) as Arc<dyn TableProvider>)
                }
                RelationKind::Table(_) => self.table_of(&relation),
                RelationKind::View(view) => {
                    let context = self.context_of(&self.below(&relation, late).await?);
                    let plan = at_time(plan_text(&context, &view.query).await?, self.now_us()?);
                    let plan = plan.and_then(|plan| as_declared(plan, &relation)).map_err(query_error)?;
                    Ok(Arc::new(ViewTable::new(plan, Some(view.query.clone()))) as Arc<dyn TableProvider>)
                }
                RelationKind::MaterializedView(view) => self.view_of(&relation, view).await,
            }
        })
    }

    async fn below(
        &self,
        relation: &Relation,
        late: DropLate,
    ) -> Result<Vec<(Arc<Relation>, Arc<dyn TableProvider>)>, SqlError> {
        let mut below = Vec::new();
        for dependency in &relation.depends_on {
            if let Dependency::Relation(id) = dependency
                && let Some(read) = self.catalog.relation(*id)
            {
                below.push((read.clone(), self.definition_of(read.clone(), late).await?));
            }
        }
        Ok(below)
    }

    async fn view_of(&self, relation: &Relation, view: &ViewDefinition) -> Result<Arc<dyn TableProvider>, SqlError> {
        let late = if view.emit_on_window_close { DropLate::Yes } else { DropLate::No };
        let context = self.context_of(&self.below(relation, late).await?);
        let mut plan = at_time(plan_text(&context, &view.query).await?, self.now_us()?).map_err(query_error)?;
        if view.emit_on_window_close {
            let graph = view.graph.as_ref().map(Graph::from_json).transpose()?;
            let graph =
                graph.ok_or_else(|| SqlError::new(mainstem_sql::error::sqlstate::INTERNAL, "a view without graph"))?;
            let watermark_us = self.watermark_of(relation)?;
            plan = windows_only(plan, Windows::Closed, watermark_us, &graph).map_err(query_error)?;
            if let Some(earlier) = self.early(&graph)? {
                let context = earlier.context_of(&earlier.below(relation, late).await?);
                let open = plan_text(&context, &view.query).await?;
                let open = windows_only(open, Windows::Open, watermark_us, &graph).map_err(query_error)?;
                let both = LogicalPlanBuilder::from(plan).union(open).and_then(LogicalPlanBuilder::build);
                plan = both.map_err(query_error)?;
            }
        }
        let plan = ties_decided(plan).and_then(|plan| as_declared(plan, relation)).map_err(query_error)?;
        Ok(Arc::new(ViewTable::new(plan, Some(view.query.clone()))))
    }

    /// The newest tick as of the cut.
    fn now_us(&self) -> Result<Option<i64>, SqlError> {
        Ok(self.ticks()?.last().map(|(_, now_us)| *now_us))
    }

    /// All ticks as of the cut, with their offsets.
    fn ticks(&self) -> Result<Vec<(i64, i64)>, SqlError> {
        let mut ticks = Vec::new();
        if self.input.partitions(TICKS_TOPIC_ID).is_empty() {
            return Ok(ticks);
        }
        let until = self.input.position(TICKS_TOPIC_ID, 0, self.at).map_err(|error| log_error(&error))?;
        let mut from = self.input.start(TICKS_TOPIC_ID, 0);
        while from < until {
            let read = self.input.read(TICKS_TOPIC_ID, 0, from, until, SLICE_BYTES);
            let read = read.map_err(|error| log_error(&error))?;
            from = read.next_offset;
            let tick = |record: &LogRecord| Some((record.offset, Tick::of(record)?.now_us));
            ticks.extend(read.records.iter().filter_map(tick));
        }
        Ok(ticks)
    }

    /// For a view with early results: what there was when they were taken last.
    fn early(&self, graph: &Graph) -> Result<Option<Oracle>, SqlError> {
        let Some(early_us) = graph.early_us() else { return Ok(None) };
        let ticks = self.ticks()?;
        let Some((_, newest)) = ticks.last() else { return Ok(None) };
        let interval = |now_us: i64| now_us.div_euclid(early_us);
        let first = ticks.iter().find(|(_, now_us)| interval(*now_us) == interval(*newest)).map(|(offset, _)| *offset);
        let entries = entries_until(&*self.input, TICKS_TOPIC_ID, 0, first.unwrap_or_default());
        let entries = entries.map_err(|error| engine_error(&error))?;
        let at = self.input.next_cut(Cut::ZERO, entries).map_err(|error| log_error(&error))?;
        let (input, catalog, options) = (self.input.clone(), self.catalog.clone(), self.options.clone());
        Ok(at.map(|at| Oracle { input, catalog, at, options }))
    }

    fn positions(&self, relation: &Relation) -> Result<Positions, SqlError> {
        let topic = relation.topic().expect("a source or table has a topic");
        let one = |partition: i32| {
            let end = self.input.position(topic, partition, self.at).map_err(|error| log_error(&error))?;
            Ok((partition, self.input.start(topic, partition).min(end), end))
        };
        self.input.partitions(topic).into_iter().map(one).collect()
    }

    fn event_time(&self, source: &Relation, watermark: &Watermark) -> Result<EventTime, SqlError> {
        let positions = self.positions(source)?;
        EventTime::of(source, watermark.clone(), &self.input, (self.at, &positions))
            .map_err(|error| engine_error(&error))
    }

    /// The smallest watermark of the sources with event time that the view reads itself or through plain views.
    fn watermark_of(&self, relation: &Relation) -> Result<Option<i64>, SqlError> {
        let mut lowest: Option<i64> = None;
        for dependency in &relation.depends_on {
            let Dependency::Relation(id) = dependency else { continue };
            let Some(read) = self.catalog.relation(*id) else { continue };
            let found = match &read.kind {
                RelationKind::Source(source) => {
                    let Some(watermark) = &source.watermark else { continue };
                    self.event_time(read, watermark)?.watermark_us
                }
                RelationKind::View(_) if self.reads_event_time(read) => self.watermark_of(read)?,
                _ => continue,
            };
            // A source without any event time yet holds every window open.
            let Some(found) = found else { return Ok(None) };
            lowest = Some(lowest.map_or(found, |lowest| lowest.min(found)));
        }
        Ok(lowest)
    }

    fn reads_event_time(&self, relation: &Relation) -> bool {
        match &relation.kind {
            RelationKind::Source(source) => source.watermark.is_some(),
            RelationKind::View(_) => relation.depends_on.iter().any(|dependency| match dependency {
                Dependency::Relation(id) => {
                    self.catalog.relation(*id).is_some_and(|below| self.reads_event_time(below))
                }
                Dependency::Topic(_) => false,
            }),
            _ => false,
        }
    }

    /// The last value per key of the table's topic. The key is taken as the bytes it is.
    fn table_of(&self, relation: &Relation) -> Result<Arc<dyn TableProvider>, SqlError> {
        let topic = relation.topic().expect("a table has a topic");
        let mut last: HashMap<Bytes, (i64, Bytes)> = HashMap::new();
        for (partition, start, until) in self.positions(relation)? {
            let mut from = start;
            while from < until {
                let read =
                    self.input.read(topic, partition, from, until, SLICE_BYTES).map_err(|error| log_error(&error))?;
                from = read.next_offset;
                for record in read.records {
                    let Some(key) = record.key else { continue };
                    match record.value {
                        Some(value) => drop(last.insert(key, (record.offset, value))),
                        None => drop(last.remove(&key)),
                    }
                }
            }
        }
        let in_order: BTreeMap<i64, Bytes> = last.into_values().collect();
        let schema = arrow_schema(&relation.columns);
        let mut decoder = JsonDecoder::new(schema).map_err(|error| SqlError::not_supported(error.to_string()))?;
        let decoded = decoder.decode(in_order.values().map(|value| Some(value.as_ref())));
        let rows = canonical_floats(&decoded.batch).project(&visible_columns(relation));
        let rows = rows.map_err(|error| query_error(error.into()))?;
        let parts = (0..rows.num_rows()).step_by(8192).map(|from| rows.slice(from, 8192.min(rows.num_rows() - from)));
        let parts: Vec<RecordBatch> = parts.collect();
        let table = MemTable::try_new(rows.schema(), vec![parts]).map_err(query_error)?;
        Ok(Arc::new(table))
    }
}
