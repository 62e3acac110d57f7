//! The history of a source as DataFusion reads it: slices of its topic up to a cut. Records that do not decode are skipped.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use mainstem_catalog::{Relation, Watermark};
use mainstem_sql::arrow_schema;
use uuid::Uuid;

use super::event_time::EventTime;
use crate::delta::canonical_floats;
use crate::error::EngineError;
use crate::input_log::InputLog;
use crate::source_reader::SourceReader;

/// Bytes of records that are read and decoded at once.
const SLICE_BYTES: usize = 1 << 20;

/// Partition, first offset, next offset as of the cut.
pub(super) type Positions = Vec<(i32, i64, i64)>;

/// The visible columns of a source's records.
#[derive(Debug)]
pub(super) struct SourceTable {
    relation: Arc<Relation>,
    topic: Uuid,
    input: Arc<dyn InputLog>,
    positions: Positions,
    columns: Vec<usize>,
    schema: SchemaRef,
    /// Rows below the watermark of their own partition are left out.
    drop_late: Option<EventTime>,
}

impl SourceTable {
    pub(super) fn new(relation: Arc<Relation>, input: Arc<dyn InputLog>, positions: Positions) -> SourceTable {
        let columns = super::context::visible_columns(&relation);
        let schema = Arc::new(arrow_schema(&relation.columns).project(&columns).expect("columns of the relation"));
        let topic = relation.topic().expect("a source has a topic");
        SourceTable { relation, topic, input, positions, columns, schema, drop_late: None }
    }

    pub(super) fn without_late_rows(mut self, event_time: Option<EventTime>) -> SourceTable {
        self.drop_late = event_time;
        self
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns: Vec<usize> = match projection {
            Some(projection) => projection.iter().map(|column| self.columns[*column]).collect(),
            None => self.columns.clone(),
        };
        let schema = Arc::new(arrow_schema(&self.relation.columns).project(&columns)?);
        let part = History {
            relation: self.relation.clone(),
            topic: self.topic,
            input: self.input.clone(),
            positions: self.positions.clone(),
            columns,
            schema: schema.clone(),
            drop_late: self.drop_late.clone(),
        };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(part)], None, [], false, limit)?))
    }
}

#[derive(Debug)]
struct History {
    relation: Arc<Relation>,
    topic: Uuid,
    input: Arc<dyn InputLog>,
    positions: Positions,
    columns: Vec<usize>,
    schema: SchemaRef,
    drop_late: Option<EventTime>,
}

impl PartitionStream for History {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let slices = Slices::new(self);
        let stream = futures::stream::try_unfold(slices, |slices| async move {
            let mut slices = slices?;
            // Reading blocks for the disk.
            let read = tokio::task::spawn_blocking(move || slices.next().map(|batch| (batch, slices)));
            let read = read.await.map_err(|error| DataFusionError::External(Box::new(error)))?;
            read.map(|(batch, slices)| Ok((batch?, Ok(slices)))).transpose()
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream))
    }
}

struct Slices {
    reader: SourceReader,
    input: Arc<dyn InputLog>,
    topic: Uuid,
    /// What is left, the partition that is read now at the end.
    positions: Positions,
    columns: Vec<usize>,
    drop_late: Option<EventTime>,
    /// The watermark of the partition that is read now, above its floor.
    watermark_us: Option<i64>,
}

impl Slices {
    fn new(history: &History) -> Result<Slices> {
        let external = |error: EngineError| DataFusionError::External(Box::new(error));
        let mut positions = history.positions.clone();
        positions.reverse();
        Ok(Slices {
            reader: SourceReader::new(&history.relation).map_err(external)?,
            input: history.input.clone(),
            topic: history.topic,
            positions,
            columns: history.columns.clone(),
            drop_late: history.drop_late.clone(),
            watermark_us: None,
        })
    }

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            let (partition, from, until) = self.positions.last_mut()?;
            if *from >= *until {
                self.positions.pop();
                self.watermark_us = None;
                continue;
            }
            let read = match self.input.read(self.topic, *partition, *from, *until, SLICE_BYTES) {
                Ok(read) => read,
                Err(error) => {
                    self.positions.clear();
                    return Some(Err(DataFusionError::External(Box::new(error))));
                }
            };
            assert!(read.next_offset > *from, "a read goes on");
            *from = read.next_offset;
            let partition = *partition;
            let decoded = self.reader.decode(partition, &read.records);
            let mut rows = decoded.rows;
            if let Some(event_time) = &self.drop_late {
                let offsets = decoded.accepted.iter().map(|place| read.records[*place as usize].offset);
                rows = in_time(&rows, offsets, (event_time, partition), &mut self.watermark_us);
            }
            if rows.num_rows() > 0 {
                return Some(rows.project(&self.columns).map(|rows| canonical_floats(&rows)).map_err(Into::into));
            }
        }
    }
}

/// The rows that are not below the watermark that their partition had before them, by more than the lateness allowed.
fn in_time(
    rows: &RecordBatch,
    offsets: impl Iterator<Item = i64>,
    (event_time, partition): (&EventTime, i32),
    watermark_us: &mut Option<i64>,
) -> RecordBatch {
    let Watermark { column, delay_us, lateness_us, .. } = event_time.watermark;
    let times = rows.column(column).as_primitive::<TimestampMicrosecondType>();
    let is_in_time = |(time, offset): (Option<i64>, i64)| {
        let before_us = event_time.floor_us(partition, offset).max(*watermark_us);
        *watermark_us = (*watermark_us).max(time.map(|time| time.saturating_sub(delay_us)));
        time.zip(before_us).is_none_or(|(time, before_us)| time >= before_us.saturating_sub(lateness_us))
    };
    let kept: Vec<bool> = times.iter().zip(offsets).map(is_in_time).collect();
    filter_record_batch(rows, &BooleanArray::from(kept)).expect("a mask as long as the batch")
}
