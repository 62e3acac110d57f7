//! `min` and `max` whose frames may slide until nothing but nulls is in them: DataFusion's go on giving a value that has left.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
};

/// The functions to register in place of DataFusion's.
pub(super) fn all() -> impl Iterator<Item = Arc<AggregateUDF>> {
    [min_udaf(), max_udaf()].into_iter().map(|stock| Arc::new(AggregateUDF::new_from_impl(Extreme { stock })))
}

/// DataFusion's function in all but frames that slide.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    stock: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.stock.name()
    }

    fn aliases(&self) -> &[String] {
        self.stock.aliases()
    }

    fn signature(&self) -> &Signature {
        self.stock.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.stock.return_type(types)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.stock.coerce_types(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.stock.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.stock.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.stock.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.stock.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let none = ScalarValue::try_from(args.return_type())?;
        Ok(Box::new(Sliding { stock: self.stock.create_sliding_accumulator(args)?, values: 0, none }))
    }

    fn is_descending(&self) -> Option<bool> {
        self.stock.inner().is_descending()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.stock.inner().set_monotonicity(data_type)
    }
}

#[derive(Debug)]
struct Sliding {
    stock: Box<dyn Accumulator>,
    /// In the frame that are not null.
    values: usize,
    none: ScalarValue,
}

fn values(of: &[ArrayRef]) -> usize {
    of[0].len() - of[0].logical_null_count()
}

impl Accumulator for Sliding {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.values += values(arrays);
        self.stock.update_batch(arrays)
    }

    fn retract_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.values -= values(arrays);
        self.stock.retract_batch(arrays)
    }

    fn supports_retract_batch(&self) -> bool {
        self.stock.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.values == 0 { Ok(self.none.clone()) } else { self.stock.evaluate() }
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.stock.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values += values(states);
        self.stock.merge_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.stock.size()
    }
}
