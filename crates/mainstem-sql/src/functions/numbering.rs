//! row_number, rank, dense_rank and ntile with PostgreSQL's types: bigint and integer. DataFusion counts in unsigned ones, which
//! SQL does not have.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_window::{ntile, rank, row_number};
use datafusion::logical_expr::function::{ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{LimitEffect, PartitionEvaluator, Signature, WindowUDF, WindowUDFImpl};
use datafusion::physical_expr::PhysicalExpr;

/// To register in place of DataFusion's.
pub(super) fn all() -> Vec<Arc<WindowUDF>> {
    [
        (row_number::row_number_udwf(), DataType::Int64),
        (rank::rank_udwf(), DataType::Int64),
        (rank::dense_rank_udwf(), DataType::Int64),
        (ntile::ntile_udwf(), DataType::Int32),
    ]
    .into_iter()
    .map(|(stock, result)| Arc::new(WindowUDF::new_from_impl(Signed { stock, result })))
    .collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Signed {
    stock: Arc<WindowUDF>,
    result: DataType,
}

impl WindowUDFImpl for Signed {
    fn name(&self) -> &str {
        self.stock.name()
    }

    fn signature(&self) -> &Signature {
        self.stock.signature()
    }

    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.stock.expressions(args)
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let stock = self.stock.partition_evaluator_factory(args)?;
        Ok(Box::new(SignedEvaluator { stock, result: self.result.clone() }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(args.name(), self.result.clone(), true)))
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.stock.sort_options()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.stock.inner().limit_effect(args)
    }
}

#[derive(Debug)]
struct SignedEvaluator {
    stock: Box<dyn PartitionEvaluator>,
    result: DataType,
}

impl PartitionEvaluator for SignedEvaluator {
    fn get_range(&self, idx: usize, rows: usize) -> Result<Range<usize>> {
        self.stock.get_range(idx, rows)
    }

    fn is_causal(&self) -> bool {
        self.stock.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        Ok(cast(&self.stock.evaluate_all(values, rows)?, &self.result)?)
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        self.stock.evaluate(values, range)?.cast_to(&self.result)
    }

    fn evaluate_all_with_rank(&self, rows: usize, ranks: &[Range<usize>]) -> Result<ArrayRef> {
        Ok(cast(&self.stock.evaluate_all_with_rank(rows, ranks)?, &self.result)?)
    }

    fn supports_bounded_execution(&self) -> bool {
        self.stock.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.stock.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.stock.include_rank()
    }
}
