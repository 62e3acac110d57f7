//! Reading the rows of a lookup: what EXPLAIN shows of it, and how many rows it read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};

use super::lookup::Lookup;
use crate::tables::Image;

/// Rows per batch that a query gets.
const BATCH_ROWS: usize = 8192;

/// See the module's text.
#[derive(Debug)]
pub(super) struct LookupExec {
    image: Image,
    lookup: Arc<Lookup>,
    columns: Vec<usize>,
    schema: SchemaRef,
    /// For people: what is read by what.
    title: String,
    rows_read: Arc<AtomicU64>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl LookupExec {
    pub(super) fn new(
        image: Image,
        lookup: Lookup,
        (columns, schema): (Vec<usize>, SchemaRef),
        name: &str,
        rows_read: Arc<AtomicU64>,
    ) -> LookupExec {
        let names: Vec<&str> =
            lookup.columns.iter().map(|column| image.schema().field(*column).name().as_str()).collect();
        let ranges = match lookup.ranges.len() {
            1 => "1 range".to_owned(),
            count => format!("{count} ranges"),
        };
        let title = format!("LookupExec: by {name} ({}), {ranges}", names.join(", "));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let (lookup, properties, metrics) = (Arc::new(lookup), Arc::new(properties), ExecutionPlanMetricsSet::new());
        LookupExec { image, lookup, columns, schema, title, rows_read, properties, metrics }
    }
}

impl DisplayAs for LookupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

impl ExecutionPlan for LookupExec {
    fn name(&self) -> &'static str {
        "LookupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a lookup has no children") }
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let output = MetricBuilder::new(&self.metrics).output_rows(partition);
        let (schema, rows_read) = (self.schema.clone(), self.rows_read.clone());
        let batches = self.image.look_up(&self.lookup, &self.columns, BATCH_ROWS);
        // The same columns under the schema that was announced.
        let batches = batches.map(move |batch: RecordBatch| {
            let rows = batch.num_rows();
            output.add(rows);
            rows_read.fetch_add(rows as u64, Ordering::Relaxed);
            Ok(crate::delta::batch_of(&schema, batch.columns().to_vec(), rows)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
