//! sum and avg over floats for the oracle: DataFusion's own depend on the order of the rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Accumulator, AggregateUDF, Volatility, create_udaf};
use mainstem_engine::exact_sum::ExactSum;

pub(crate) fn float_sum(is_average: bool) -> Arc<AggregateUDF> {
    let name = if is_average { "exact_avg" } else { "exact_sum" };
    let state = vec![DataType::Binary, DataType::Int64];
    Arc::new(create_udaf(
        name,
        vec![DataType::Float64],
        Arc::new(DataType::Float64),
        Volatility::Immutable,
        Arc::new(move |_| Ok(Box::new(Exact { sum: ExactSum::new(), count: 0, is_average }))),
        Arc::new(state),
    ))
}

#[derive(Debug)]
struct Exact {
    sum: ExactSum,
    count: i64,
    is_average: bool,
}

impl Accumulator for Exact {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.sum.add(value, 1);
            self.count += 1;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = if self.is_average { self.sum.average(self.count) } else { self.sum.value() };
        Ok(ScalarValue::Float64((self.count > 0).then_some(value)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sum.heap_bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut bytes = Vec::new();
        self.sum.encode(&mut bytes);
        Ok(vec![ScalarValue::Binary(Some(bytes)), ScalarValue::Int64(Some(self.count))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (sums, counts) = (states[0].as_binary::<i32>(), states[1].as_primitive::<Int64Type>());
        for row in 0..sums.len() {
            self.sum.merge(&ExactSum::decode(&mut sums.value(row)).unwrap());
            self.count += counts.value(row);
        }
        Ok(())
    }
}
