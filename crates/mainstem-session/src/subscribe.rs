//! SUBSCRIBE: a relation or a query as rows that never end.
//!
//! Words: the *timestamp* of a row is the CSN of the version that it leads to; *progress* is a row that says that everything
//! below its timestamp has been given; an *upsert* is what a version made of one key.
//!
//! Always true here: all rows of a version come before those of the next one, and an empty batch comes after them, which
//! asks for them to be sent; nothing of a version is held but what ENVELOPE UPSERT has to compare.

mod upsert;

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use mainstem_catalog::{Catalog, Column, Relation, RelationKind};
use mainstem_engine::{Cut, Delta, Event, Followed, Subscription};
use mainstem_sql::statement::{Subscribe, SubscribeTarget};
use mainstem_sql::{ClockUse, QualifiedName, SqlError, arrow_field, parse_query, plan_view};

use crate::parameters::{Parameter, bound};
use crate::session::{Response, RowStream, Session, Tag};
use crate::shared::engine_error;
use upsert::Upserts;

/// What a SUBSCRIBE follows, and how its rows look.
pub(crate) struct Planned {
    followed: Followed,
    wants_snapshot: bool,
    shape: Shape,
    upserts: Option<Upserts>,
}

/// The rows of a subscription.
#[derive(Debug)]
struct Shape {
    schema: SchemaRef,
    /// Columns of the deltas, in the order in which they are given.
    columns: Vec<usize>,
    has_progress: bool,
}

impl Session {
    /// Follows a relation or a query from the version that holds all that was acknowledged.
    pub(crate) async fn subscribe(
        &mut self,
        subscribe: &Subscribe,
        parameters: &[Parameter],
    ) -> Result<(SchemaRef, RowStream), SqlError> {
        if self.transaction.as_ref().is_some_and(|open| open.writes.has_writes()) {
            return Err(SqlError::not_supported("SUBSCRIBE in a transaction that has written is not supported")
                .with_hint("COMMIT first: a subscription shows what is committed."));
        }
        let acknowledged = self.shared.acknowledged();
        let planned = self.planned_subscription(subscribe, parameters)?;
        let read = planned.followed.relations();
        self.shared.engine.wait_published_of(&read, acknowledged).await.map_err(|error| engine_error(&error))?;
        let schema = planned.shape.schema.clone();
        let engine = self.shared.engine.clone();
        let start = async move {
            // Dropped before the rows begin: a subscription must not keep the engine open.
            let wants_snapshot = planned.wants_snapshot || planned.upserts.as_ref().is_some_and(Upserts::counts);
            let subscription = engine.subscribe(planned.followed, wants_snapshot)?;
            drop(engine);
            let Planned { shape, upserts, wants_snapshot, .. } = planned;
            let schema = shape.schema.clone();
            let changes = Changes { subscription, shape, upserts, wants_snapshot, ready: VecDeque::new() };
            let rows = futures::stream::try_unfold(changes, |mut changes| async move {
                let batch = changes.next().await?;
                Ok::<_, DataFusionError>(Some((batch, changes)))
            });
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)) as SendableRecordBatchStream)
        };
        let stream = RowStream::running(self.shared.queries.handle(), start).await?;
        Ok((schema, stream))
    }

    pub(crate) async fn subscribed(
        &mut self,
        subscribe: &Subscribe,
        parameters: &[Parameter],
    ) -> Result<Response, SqlError> {
        let (schema, stream) = self.subscribe(subscribe, parameters).await?;
        Ok(Response::Rows { schema, stream, tag: Tag::Counted("SUBSCRIBE") })
    }

    /// The columns of a SUBSCRIBE.
    pub(crate) fn subscription_schema(
        &self,
        subscribe: &Subscribe,
        parameters: &[Parameter],
    ) -> Result<SchemaRef, SqlError> {
        Ok(self.planned_subscription(subscribe, parameters)?.shape.schema)
    }

    fn planned_subscription(&self, subscribe: &Subscribe, parameters: &[Parameter]) -> Result<Planned, SqlError> {
        let catalog = self.shared.catalogs.current();
        let query = match &subscribe.target {
            SubscribeTarget::Query(query) => bound(query, parameters)?,
            SubscribeTarget::Relation(name) => {
                let relation = find(&catalog, name)?;
                if let RelationKind::Table(_) | RelationKind::MaterializedView(_) = relation.kind {
                    return Planned::of_relation(subscribe, relation);
                }
                *parse_query(&format!("SELECT * FROM {}", quoted(&relation.name)))?
            }
        };
        let plan = plan_view(&catalog, &query, &[], false)?;
        if plan.graph.clock_use() != ClockUse::None {
            return Err(SqlError::not_supported("SUBSCRIBE to a query with now() is not supported")
                .with_hint("Create a materialized view of the query and subscribe to the view."));
        }
        let columns: Vec<(usize, &Column)> = plan.columns.iter().enumerate().collect();
        Planned::new(subscribe, Followed::Query(Box::new(plan.graph)), &columns, &[])
    }
}

fn find<'c>(catalog: &'c Catalog, name: &QualifiedName) -> Result<&'c Arc<Relation>, SqlError> {
    let schema = name.schema.as_deref().unwrap_or("public");
    if ["pg_catalog", "information_schema", "mainstem"].contains(&schema) {
        return Err(SqlError::not_supported("SUBSCRIBE to system tables is not supported"));
    }
    let missing = || SqlError::new("42P01", format!("relation \"{name}\" does not exist"));
    catalog.relation_named(schema, &name.name).ok_or_else(missing)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Planned {
    fn of_relation(subscribe: &Subscribe, relation: &Relation) -> Result<Planned, SqlError> {
        let columns = relation.columns.iter().enumerate().filter(|(_, column)| !column.hidden);
        let columns: Vec<(usize, &Column)> = columns.collect();
        let unique: &[usize] = match &relation.kind {
            RelationKind::Table(table) => &table.primary_key,
            _ => &[],
        };
        Planned::new(subscribe, Followed::Relation(relation.id), &columns, unique)
    }

    /// `columns` of the deltas with their places; the places in `unique`, if any, identify a row.
    fn new(
        subscribe: &Subscribe,
        followed: Followed,
        columns: &[(usize, &Column)],
        unique: &[usize],
    ) -> Result<Planned, SqlError> {
        let mut ordered: Vec<(usize, &Column)> = Vec::with_capacity(columns.len());
        for name in &subscribe.key {
            let missing = || SqlError::new("42703", format!("column \"{name}\" in KEY does not exist"));
            let column = columns.iter().find(|(_, column)| column.name == *name).ok_or_else(missing)?;
            if ordered.contains(column) {
                return Err(SqlError::new("42701", format!("column \"{name}\" specified more than once")));
            }
            ordered.push(*column);
        }
        let keys = ordered.len();
        let others = columns.iter().filter(|column| !ordered.contains(column)).copied();
        let others: Vec<_> = others.collect();
        ordered.extend(others);
        let mut fields = vec![Field::new("mainstem_timestamp", DataType::Int64, true)];
        if subscribe.progress {
            fields.push(Field::new("mainstem_progressed", DataType::Boolean, true));
        }
        fields.push(if keys == 0 {
            Field::new("mainstem_diff", DataType::Int64, true)
        } else {
            Field::new("mainstem_state", DataType::Utf8, true)
        });
        fields.extend(ordered.iter().map(|(_, column)| arrow_field(column).with_nullable(true)));
        let places: Vec<usize> = ordered.iter().map(|(place, _)| *place).collect();
        let is_unique = !unique.is_empty() && unique.iter().all(|place| places[..keys].contains(place));
        let upserts = if keys == 0 { None } else { Some(Upserts::new(keys, is_unique)) };
        let shape = Shape { schema: Arc::new(Schema::new(fields)), columns: places, has_progress: subscribe.progress };
        Ok(Planned { followed, wants_snapshot: subscribe.snapshot, shape, upserts })
    }
}

/// A subscription on its way to rows.
#[derive(Debug)]
struct Changes {
    subscription: Subscription,
    shape: Shape,
    upserts: Option<Upserts>,
    wants_snapshot: bool,
    ready: VecDeque<RecordBatch>,
}

impl Changes {
    async fn next(&mut self) -> Result<RecordBatch, SqlError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            match self.subscription.next().await? {
                Event::Changes { cut, delta, .. } => {
                    let delta = delta.project(&self.shape.columns);
                    match &mut self.upserts {
                        Some(upserts) => upserts.push(delta),
                        None => self.ready.push_back(self.shape.changes(cut, &delta)?),
                    }
                }
                Event::Whole(cut) => self.end_version(cut)?,
            }
        }
    }

    fn end_version(&mut self, cut: Cut) -> Result<(), SqlError> {
        let batches = self.upserts.as_mut().map(|upserts| upserts.finish()).transpose()?.flatten();
        // Without the snapshot its keys are counted and not given.
        if let Some((states, columns)) = batches.filter(|_| self.wants_snapshot) {
            self.ready.push_back(self.shape.rows(cut, states, columns)?);
        }
        self.wants_snapshot = true;
        if self.shape.has_progress {
            self.ready.push_back(self.shape.progress(cut)?);
        }
        self.ready.push_back(RecordBatch::new_empty(self.shape.schema.clone()));
        Ok(())
    }
}

impl Shape {
    fn changes(&self, cut: Cut, delta: &Delta) -> Result<RecordBatch, SqlError> {
        let weights: ArrayRef = Arc::new(Int64Array::from(delta.weights.to_vec()));
        self.rows(cut, weights, delta.rows.columns().to_vec())
    }

    /// `states` are diffs or what became of keys.
    fn rows(&self, cut: Cut, states: ArrayRef, columns: Vec<ArrayRef>) -> Result<RecordBatch, SqlError> {
        let rows = states.len();
        let mut all: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![timestamp(cut); rows]))];
        if self.has_progress {
            all.push(Arc::new(BooleanArray::from(vec![false; rows])));
        }
        all.push(states);
        all.extend(columns);
        self.batch(all)
    }

    /// Everything below the row's timestamp has been given.
    fn progress(&self, cut: Cut) -> Result<RecordBatch, SqlError> {
        let mut all: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![timestamp(cut) + 1])), Arc::new(BooleanArray::from(vec![true]))];
        all.extend(self.schema.fields().iter().skip(2).map(|field| new_null_array(field.data_type(), 1)));
        self.batch(all)
    }

    fn batch(&self, columns: Vec<ArrayRef>) -> Result<RecordBatch, SqlError> {
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| SqlError::new("XX000", error.to_string()))
    }
}

fn timestamp(cut: Cut) -> i64 {
    i64::try_from(cut.0).unwrap_or(i64::MAX)
}
