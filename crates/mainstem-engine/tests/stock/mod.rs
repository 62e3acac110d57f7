//! A view's text, kept by a circuit on one side and answered by DataFusion's stock operators on the other.
//!
//! Words: a *version* is what the circuit makes of all changes pushed since the one before; the *stock answer* is what
//! DataFusion gives to the same text over the whole content of the tables.

mod spilled;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use mainstem_catalog::{
    Catalog, Column, Dependency, Encoding, Event, Ident, Relation, RelationId, RelationKind, SourceDefinition,
    TableDefinition, Topic, TopicOwner, Watermark,
};
use mainstem_engine::Delta;
use mainstem_engine::delta::canonical_floats;
use mainstem_engine::incremental::Circuit;
use mainstem_engine::watermark::Times;
use mainstem_sql::{Graph, OperatorId, parse_query, plan_view, rewrite_query};
use uuid::Uuid;

use crate::incremental::{reopened, shards};

pub(crate) use spilled::Spilled;

/// Adds a table to the catalog. Its hidden columns, if any, stand last.
pub(crate) fn add_table(
    catalog: &mut Catalog,
    id: RelationId,
    name: &str,
    columns: Vec<Column>,
    primary_key: Vec<usize>,
) {
    add_versioned_table(catalog, id, name, columns, primary_key, None);
}

/// The same with an event time.
pub(crate) fn add_versioned_table(
    catalog: &mut Catalog,
    id: RelationId,
    name: &str,
    columns: Vec<Column>,
    primary_key: Vec<usize>,
    watermark: Option<Watermark>,
) {
    let topic = Uuid::from_u128(u128::from(id.0));
    let created = Topic {
        id: topic,
        name: name.parse().unwrap(),
        partitions: 1,
        owner: TopicOwner::Table(id),
        configs: BTreeMap::new(),
    };
    let relation = Relation {
        id,
        schema: "public".to_owned(),
        name: name.to_owned(),
        columns,
        kind: RelationKind::Table(TableDefinition { topic, topic_name: name.to_owned(), primary_key, watermark }),
        depends_on: vec![Dependency::Topic(topic)],
        sql: String::new(),
    };
    let events = [Event::TopicCreated { topic: created }, Event::RelationCreated { relation: Box::new(relation) }];
    catalog.apply_all(&events).unwrap();
}

/// Adds a source with an event time.
pub(crate) fn add_source(
    catalog: &mut Catalog,
    id: RelationId,
    name: &str,
    columns: Vec<Column>,
    watermark: Watermark,
) {
    let topic = Uuid::from_u128(u128::from(id.0));
    let created = Topic {
        id: topic,
        name: name.parse().unwrap(),
        partitions: 2,
        owner: TopicOwner::Anyone,
        configs: BTreeMap::new(),
    };
    let definition = SourceDefinition {
        topic,
        topic_name: name.to_owned(),
        encoding: Encoding::PlainJson,
        includes: vec![],
        watermark: Some(watermark),
    };
    let relation = Relation {
        id,
        schema: "public".to_owned(),
        name: name.to_owned(),
        columns,
        kind: RelationKind::Source(definition),
        depends_on: vec![Dependency::Topic(topic)],
        sql: String::new(),
    };
    let events = [Event::TopicCreated { topic: created }, Event::RelationCreated { relation: Box::new(relation) }];
    catalog.apply_all(&events).unwrap();
}

/// Makes rows a table of the context.
pub(crate) fn register(context: &SessionContext, name: &str, rows: &RecordBatch) -> Result<(), String> {
    let rows = canonical_floats(rows);
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).map_err(|error| error.to_string())?;
    context.register_table(name, Arc::new(table)).map_err(|error| error.to_string())?;
    Ok(())
}

/// DataFusion's answer to the text over the context's tables, in the view's types.
pub(crate) async fn answer(context: &SessionContext, text: &str, schema: &SchemaRef) -> Result<Delta, String> {
    let mut query = parse_query(text).map_err(|error| error.message)?;
    rewrite_query(&mut query).map_err(|error| error.message)?;
    // Not by its text, which another dialect may read otherwise.
    let statement = Statement::Statement(Box::new(SqlStatement::Query(query)));
    let plan = context.state().statement_to_plan(statement).await.map_err(|error| error.to_string())?;
    let frame = context.execute_logical_plan(plan).await.map_err(|error| error.to_string())?;
    let frames = frame.collect().await.map_err(|error| error.to_string())?;
    // A view's text is Utf8, whatever form of strings a function gives.
    let typed = |rows: RecordBatch| {
        let columns = rows.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap()).collect();
        Delta::from_inserts(RecordBatch::try_new(schema.clone(), columns).unwrap())
    };
    let rows: Vec<Delta> = frames.into_iter().map(typed).collect();
    Ok(Delta::consolidate(schema, &rows))
}

/// A view that a circuit keeps, and all that it has given.
#[derive(Debug)]
pub(crate) struct View {
    graph: Graph,
    schema: SchemaRef,
    circuit: Circuit,
    spilled: Option<Spilled>,
    content: Delta,
    /// Messages of errors in the data, with how often each is there.
    errors: BTreeMap<String, i64>,
}

impl View {
    /// Plans the text; `names` are for its first columns. An error says why the view is refused.
    pub(crate) fn plan(catalog: &Catalog, text: &str, names: &[Ident]) -> Result<View, String> {
        let query = parse_query(text).map_err(|error| error.message)?;
        View::of(plan_view(catalog, &query, names, false).map_err(|error| error.message)?.graph, text)
    }

    /// The same with EMIT ON WINDOW CLOSE.
    pub(crate) fn plan_on_close(catalog: &Catalog, text: &str) -> Result<View, String> {
        let query = parse_query(text).map_err(|error| error.message)?;
        View::of(plan_view(catalog, &query, &[], true).map_err(|error| error.message)?.graph, text)
    }

    fn of(graph: Graph, text: &str) -> Result<View, String> {
        let schema = graph.output_schema().map_err(|error| error.message)?;
        let circuit = Circuit::with_shards(&graph, shards(text.len() as u64)).map_err(|error| error.to_string())?;
        let content = Delta::empty(&schema);
        Ok(View { graph, schema, circuit, spilled: None, content, errors: BTreeMap::new() })
    }

    /// From now on, before anything was pushed, its state is in a store and hardly in memory.
    pub(crate) fn spill(&mut self) -> &mut Spilled {
        let spilled = Spilled::attach(&mut self.circuit, 0);
        self.spilled.insert(spilled)
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn content(&self) -> &Delta {
        &self.content
    }

    pub(crate) fn operators(&self) -> usize {
        self.graph.nodes.len()
    }

    /// Rows that its operators hold.
    pub(crate) fn state_rows(&self) -> u64 {
        self.circuit.state_rows()
    }

    /// Rows that its operators have processed, read or written.
    pub(crate) fn rows_touched(&self) -> u64 {
        self.circuit.rows_touched()
    }

    pub(crate) fn break_operator(&mut self, id: OperatorId) {
        self.circuit.break_operator(id);
    }

    pub(crate) fn push(&mut self, relation: RelationId, slice: &Delta) {
        self.circuit.push(relation, slice);
    }

    /// Ends a version. What the view holds is an error as long as there is one in the data.
    pub(crate) fn finish_version(&mut self) -> Result<(), String> {
        self.finish_version_at(Times::default())
    }

    /// The same with the watermark and the horizon of its sources.
    pub(crate) fn finish_version_at(&mut self, times: Times) -> Result<(), String> {
        let changes = self.circuit.finish_version_at(times);
        if let Some(spilled) = &mut self.spilled {
            spilled.after_version(&mut self.circuit);
        }
        self.content = Delta::consolidate(&self.schema, &[self.content.clone(), changes.output]);
        for (message, weight) in changes.errors {
            *self.errors.entry(message).or_default() += weight;
        }
        self.errors.retain(|_, weight| *weight != 0);
        if self.errors.is_empty() { Ok(()) } else { Err(format!("{:?}", self.errors)) }
    }

    /// What the view has more (positive weights) or less than the answer.
    pub(crate) fn minus(&self, answer: &Delta) -> Delta {
        Delta::consolidate(&self.schema, &[self.content.clone(), answer.negate()])
    }

    /// A restart: the circuit goes on from its saved state.
    pub(crate) fn reopen(&mut self) {
        self.circuit = match &mut self.spilled {
            Some(spilled) => spilled.reopened(&self.graph, &mut self.circuit),
            None => reopened(&self.graph, &self.circuit),
        };
    }
}

/// A difference as text, for the message of a failed test.
pub(crate) fn difference_text(extra: &Delta) -> String {
    let rows = arrow::util::pretty::pretty_format_batches(std::slice::from_ref(&extra.rows)).unwrap();
    format!("circuit minus stock, weights {:?}\n{rows}", extra.weights)
}
