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
    drop_late: Option<Watermark>,
}

impl SourceTable {
    pub(super) fn new(relation: Arc<Relation>, input: Arc<dyn InputLog>, positions: Positions) -> SourceTable {
        let columns = super::context::visible_columns(&relation);
        let schema = Arc::new(arrow_schema(&relation.columns).project(&columns).expect("columns of the relation"));
        let topic = relation.topic().expect("a source has a topic");
        SourceTable { relation, topic, input, positions, columns, schema, drop_late: None }
    }

    pub(super) fn without_late_rows(mut self, watermark: Option<Watermark>) -> SourceTable {
        self.drop_late = watermark;
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
    drop_late: Option<Watermark>,
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
    drop_late: Option<Watermark>,
    /// Largest event time of the partition that is read now.
    newest_us: Option<i64>,
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
            newest_us: None,
        })
    }

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            let (partition, from, until) = self.positions.last_mut()?;
            if *from >= *until {
                self.positions.pop();
                self.newest_us = None;
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
            let mut rows = self.reader.decode(partition, &read.records).rows;
            if let Some(watermark) = self.drop_late.clone() {
                rows = self.in_time(&rows, watermark);
            }
            if rows.num_rows() > 0 {
                return Some(rows.project(&self.columns).map(|rows| canonical_floats(&rows)).map_err(Into::into));
            }
        }
    }

    /// The rows that are not below the watermark that earlier offsets of their partition gave.
    fn in_time(&mut self, rows: &RecordBatch, watermark: Watermark) -> RecordBatch {
        let times = rows.column(watermark.column).as_primitive::<TimestampMicrosecondType>();
        let mut kept = Vec::with_capacity(rows.num_rows());
        for time in times {
            let is_late = match (time, self.newest_us) {
                (Some(time), Some(newest)) => time < newest.saturating_sub(watermark.delay_us),
                _ => false,
            };
            kept.push(!is_late);
            self.newest_us = self.newest_us.max(time);
        }
        filter_record_batch(rows, &BooleanArray::from(kept)).expect("a mask as long as the batch")
    }
}

/// The smallest watermark over the partitions that hold an event time, as of the end of the positions.
pub(super) fn watermark_at(
    relation: &Relation,
    watermark: Watermark,
    input: &Arc<dyn InputLog>,
    positions: &Positions,
) -> Result<Option<i64>, EngineError> {
    let topic = relation.topic().expect("a source has a topic");
    let mut reader = SourceReader::new(relation)?;
    let mut lowest: Option<i64> = None;
    for (partition, start, until) in positions {
        let (mut from, mut newest) = (*start, None);
        while from < *until {
            let read = input.read(topic, *partition, from, *until, SLICE_BYTES)?;
            from = read.next_offset;
            let rows = reader.decode(*partition, &read.records).rows;
            let times = rows.column(watermark.column).as_primitive::<TimestampMicrosecondType>();
            newest = newest.max(times.iter().flatten().max());
        }
        if let Some(newest) = newest {
            let of_partition = newest.saturating_sub(watermark.delay_us);
            lowest = Some(lowest.map_or(of_partition, |lowest| lowest.min(of_partition)));
        }
    }
    Ok(lowest)
}
