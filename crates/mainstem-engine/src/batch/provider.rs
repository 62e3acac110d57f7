//! Tables and materialized views as DataFusion reads them: one version, with a transaction's own writes over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use super::lookup::Lookup;
use super::lookup_exec::LookupExec;
use crate::collection::KeyKind;
use crate::tables::Image;

/// Rows per batch that a query gets.
const BATCH_ROWS: usize = 8192;

/// Some columns of an image.
#[derive(Debug)]
pub(crate) struct RowsTable {
    image: Image,
    /// Columns of the image, in the order of `schema`.
    columns: Vec<usize>,
    schema: SchemaRef,
    /// Columns and name of each index, for people.
    indexes: Vec<(Vec<usize>, String)>,
    rows_read: Arc<AtomicU64>,
}

impl RowsTable {
    /// `columns` of the image's schema are shown.
    pub(crate) fn new(image: Image, columns: Vec<usize>) -> RowsTable {
        let schema = Arc::new(image.schema().project(&columns).expect("columns of the image"));
        RowsTable { image, columns, schema, indexes: Vec::new(), rows_read: Arc::default() }
    }

    /// What is read is counted there; lookups by these indexes are shown with their names.
    pub(crate) fn counted(self, rows_read: Arc<AtomicU64>, indexes: Vec<(Vec<usize>, String)>) -> RowsTable {
        RowsTable { rows_read, indexes, ..self }
    }

    /// What a lookup reads by.
    fn name_of(&self, lookup: &Lookup) -> String {
        let version = &self.image.version;
        let order = version.orders().nth(lookup.order).map(|order| order.layout().order()).unwrap_or_default();
        let is_it = |(columns, _): &&(Vec<usize>, String)| lookup.order > 0 && order.starts_with(columns);
        match (self.indexes.iter().find(is_it), version.key()) {
            (Some((_, name)), _) => format!("index {name}"),
            (None, KeyKind::Columns(_)) if lookup.order == 0 => "primary key".to_owned(),
            (None, _) => "the order of the rows".to_owned(),
        }
    }

    /// The one key that conjuncts `column = constant` leave, if they name all key columns.
    fn key_in(&self, filters: &[Expr]) -> Option<Box<[u8]>> {
        let KeyKind::Columns(key) = self.image.version.key() else { return None };
        let values = key.iter().map(|column| {
            let field = self.image.schema().field(*column);
            let value = filters.iter().find_map(|filter| constant_of(filter, field.name()))?;
            (!value.is_null() && &value.data_type() == field.data_type()).then(|| value.to_array().ok())?
        });
        let values: Vec<_> = values.collect::<Option<_>>()?;
        (!values.is_empty()).then(|| self.image.version.layout().keys_of_columns(&values, 1).get(0).into())
    }
}

/// The constant that the column equals, if the filter says so.
fn constant_of(filter: &Expr, column: &str) -> Option<ScalarValue> {
    let Expr::BinaryExpr(binary) = filter else { return None };
    match (binary.left.as_ref(), binary.op, binary.right.as_ref()) {
        (Expr::Column(found), Operator::Eq, Expr::Literal(value, _))
        | (Expr::Literal(value, _), Operator::Eq, Expr::Column(found))
            if found.name == column =>
        {
            Some(value.clone())
        }
        _ => None,
    }
}

#[async_trait]
impl TableProvider for RowsTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns: Vec<usize> = match projection {
            Some(projection) => projection.iter().map(|column| self.columns[*column]).collect(),
            None => self.columns.clone(),
        };
        let schema = Arc::new(self.image.schema().project(&columns)?);
        let has_writes = !self.image.overlay.is_empty();
        let key = if has_writes { self.key_in(filters) } else { None };
        if key.is_none()
            && let Some(lookup) = Lookup::of(&self.image.version, filters)
        {
            let (name, image, rows_read) = (self.name_of(&lookup), self.image.clone(), self.rows_read.clone());
            return Ok(Arc::new(LookupExec::new(image, lookup, (columns, schema), &name, rows_read)));
        }
        let (image, rows_read) = (self.image.clone(), self.rows_read.clone());
        let part = ImageScan { image, columns, schema: schema.clone(), key, rows_read };
        // Filters are inexact, so a limit must not be taken before them.
        let limit = limit.filter(|_| filters.is_empty());
        let scan = StreamingTableExec::try_new(schema, vec![Arc::new(part)], None, [], false, limit)?;
        Ok(Arc::new(scan))
    }
}

#[derive(Debug)]
struct ImageScan {
    image: Image,
    columns: Vec<usize>,
    schema: SchemaRef,
    key: Option<Box<[u8]>>,
    rows_read: Arc<AtomicU64>,
}

impl PartitionStream for ImageScan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let batches: Box<dyn Iterator<Item = RecordBatch> + Send> = match &self.key {
            Some(key) => {
                let row = self.image.get(key);
                Box::new(row.map(|row| row.to_batch(Some(&self.columns))).into_iter())
            }
            None => Box::new(self.image.scan(&self.columns, BATCH_ROWS)),
        };
        // The same columns under the schema that was announced.
        let batches = batches.map({
            let (schema, rows_read) = (schema.clone(), self.rows_read.clone());
            move |batch| {
                let rows = batch.num_rows();
                rows_read.fetch_add(rows as u64, Ordering::Relaxed);
                Ok(crate::delta::batch_of(&schema, batch.columns().to_vec(), rows)?)
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches)))
    }
}
