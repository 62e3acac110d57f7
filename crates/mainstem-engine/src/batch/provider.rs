//! Tables and materialized views as DataFusion reads them: one version, with a transaction's own writes over it.

use std::sync::Arc;

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
}

impl RowsTable {
    /// `columns` of the image's schema are shown.
    pub(crate) fn new(image: Image, columns: Vec<usize>) -> RowsTable {
        let schema = Arc::new(image.schema().project(&columns).expect("columns of the image"));
        RowsTable { image, columns, schema }
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
        let key = self.key_in(filters);
        let part = ImageScan { image: self.image.clone(), columns, schema: schema.clone(), key };
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
            let schema = schema.clone();
            move |batch| {
                let rows = batch.num_rows();
                Ok(crate::delta::batch_of(&schema, batch.columns().to_vec(), rows)?)
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches)))
    }
}
