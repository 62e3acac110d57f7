//! `sum` and `avg` whose results do not depend on the order of rows, and which never wrap.
//!
//! They are DataFusion's functions in signature, coercion and result types. Floats are added up by [`ExactSum`], integers
//! and decimals by [`whole`], both as the incremental aggregates do; what else there is (averages of durations) is left to
//! DataFusion.

mod whole;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::{Result, ScalarValue, internal_datafusion_err};
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, GroupsAccumulator, Operator, ReversedUDAF,
    SetMonotonicity, Signature,
};

use crate::delta::canonical_f64;
use crate::exact_sum::ExactSum;

/// The functions to register in place of DataFusion's.
#[must_use]
pub fn exact_aggregates() -> Vec<Arc<AggregateUDF>> {
    [(sum_udaf(), false), (avg_udaf(), true)]
        .into_iter()
        .map(|(stock, is_average)| Arc::new(AggregateUDF::new_from_impl(Exact { stock, is_average })))
        .chain(super::moments::all())
        .chain(super::extremes::all())
        .collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Exact {
    stock: Arc<AggregateUDF>,
    is_average: bool,
}

/// Who adds up.
enum Method {
    Float,
    Whole,
    Stock,
}

impl Exact {
    fn method(&self, data_type: &DataType) -> Method {
        match data_type {
            DataType::Float64 => Method::Float,
            other if whole::is_whole(other, self.is_average) => Method::Whole,
            _ => Method::Stock,
        }
    }
}

impl AggregateUDFImpl for Exact {
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
        match self.method(args.expr_fields[0].data_type()) {
            Method::Float => {
                let seen = args.is_distinct.then(BTreeSet::new);
                Ok(Box::new(FloatAccumulator { is_average: self.is_average, total: Total::default(), seen }))
            }
            Method::Whole => {
                let input = args.expr_fields[0].data_type();
                whole::accumulator(input, args.return_type(), self.is_average, args.is_distinct)
            }
            Method::Stock => self.stock.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        match self.method(args.input_fields[0].data_type()) {
            Method::Float if args.is_distinct => {
                let values = Field::new_list_field(DataType::Float64, true);
                Ok(vec![Field::new_list(format_state_name(args.name, "distinct"), values, false).into()])
            }
            Method::Float => Ok(vec![
                Field::new(format_state_name(args.name, "count"), DataType::Int64, true).into(),
                Field::new(format_state_name(args.name, "sum"), DataType::Binary, true).into(),
            ]),
            Method::Whole => Ok(whole::state_fields(&args)),
            Method::Stock => self.stock.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        match self.method(args.expr_fields[0].data_type()) {
            Method::Float | Method::Whole => !args.is_distinct,
            Method::Stock => self.stock.groups_accumulator_supported(args),
        }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let input = args.expr_fields[0].data_type();
        match self.method(input) {
            Method::Float => Ok(Box::new(FloatGroups { is_average: self.is_average, totals: Vec::new() })),
            Method::Whole => whole::groups(input, args.return_type(), self.is_average),
            Method::Stock => self.stock.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.method(args.expr_fields[0].data_type()) {
            Method::Float | Method::Whole => self.accumulator(args),
            Method::Stock => self.stock.create_sliding_accumulator(args),
        }
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

    /// `sum(x + 1)` is `sum(x) + count(x)` for integers; for floats that is another rounding.
    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        argument: &Expr,
        operator: Operator,
        literal: &Expr,
        is_left: bool,
    ) -> Result<Option<Expr>> {
        match literal {
            Expr::Literal(value, _) if !value.data_type().is_floating() => {
                self.stock.inner().simplify_expr_op_literal(function, argument, operator, literal, is_left)
            }
            _ => Ok(None),
        }
    }
}

/// Sum and count of the values that are not null.
#[derive(Clone, Debug, Default)]
struct Total {
    sum: ExactSum,
    count: i64,
}

impl Total {
    fn add(&mut self, value: f64) {
        self.sum.add(value, 1);
        self.count += 1;
    }

    fn result(&self, is_average: bool) -> Option<f64> {
        let value = if is_average { self.sum.average(self.count) } else { self.sum.value() };
        (self.count != 0).then_some(value)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.sum.encode(&mut bytes);
        bytes
    }

    fn merge(&mut self, count: i64, mut sum: &[u8]) -> Result<()> {
        let other = ExactSum::decode(&mut sum).ok_or_else(|| internal_datafusion_err!("state of an exact sum"))?;
        self.sum.merge(&other);
        self.count += count;
        Ok(())
    }
}

#[derive(Debug)]
struct FloatAccumulator {
    is_average: bool,
    total: Total,
    /// For DISTINCT: the bits of the values in the total, canonical.
    seen: Option<BTreeSet<u64>>,
}

impl FloatAccumulator {
    fn add_all(&mut self, values: &Float64Array) {
        for value in values.iter().flatten() {
            let is_new = self.seen.as_mut().is_none_or(|seen| seen.insert(canonical_f64(value).to_bits()));
            if is_new {
                self.total.add(value);
            }
        }
    }
}

impl Accumulator for FloatAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add_all(values[0].as_primitive::<Float64Type>());
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.total.result(self.is_average)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.total.sum.heap_bytes() + self.seen.as_ref().map_or(0, |seen| seen.len() * 16)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        if let Some(seen) = &self.seen {
            let values: Vec<_> = seen.iter().map(|bits| ScalarValue::Float64(Some(f64::from_bits(*bits)))).collect();
            return Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Float64))]);
        }
        Ok(vec![ScalarValue::Int64(Some(self.total.count)), ScalarValue::Binary(Some(self.total.encode()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if self.seen.is_some() {
            for list in states[0].as_list::<i32>().iter().flatten() {
                self.add_all(list.as_primitive::<Float64Type>());
            }
            return Ok(());
        }
        let (counts, sums) = (states[0].as_primitive::<Int64Type>(), states[1].as_binary::<i32>());
        for row in (0..counts.len()).filter(|row| sums.is_valid(*row)) {
            self.total.merge(counts.value(row), sums.value(row))?;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.total.sum.subtract(value, 1);
            self.total.count -= 1;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        self.seen.is_none()
    }
}

#[derive(Debug)]
struct FloatGroups {
    is_average: bool,
    totals: Vec<Total>,
}

impl FloatGroups {
    fn emit(&mut self, emit_to: EmitTo) -> Vec<Total> {
        emit_to.take_needed(&mut self.totals)
    }
}

fn is_selected(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

fn states_of(totals: &[Total]) -> Vec<ArrayRef> {
    let counts: Int64Array = totals.iter().map(|total| Some(total.count)).collect();
    let sums: BinaryArray = totals.iter().map(|total| Some(total.encode())).collect();
    vec![Arc::new(counts), Arc::new(sums)]
}

impl GroupsAccumulator for FloatGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.totals.resize(total_groups, Total::default());
        let values = values[0].as_primitive::<Float64Type>();
        for (row, group) in groups.iter().enumerate() {
            if values.is_valid(row) && is_selected(filter, row) {
                self.totals[*group].add(values.value(row));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let is_average = self.is_average;
        let totals = self.emit(emit_to);
        Ok(Arc::new(totals.iter().map(|total| total.result(is_average)).collect::<Float64Array>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(states_of(&self.emit(emit_to)))
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.totals.resize(total_groups, Total::default());
        let (counts, sums) = (states[0].as_primitive::<Int64Type>(), states[1].as_binary::<i32>());
        for (row, group) in groups.iter().enumerate() {
            if sums.is_valid(row) && is_selected(filter, row) {
                self.totals[*group].merge(counts.value(row), sums.value(row))?;
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<Float64Type>();
        let one = |row: usize| {
            let mut total = Total::default();
            if values.is_valid(row) && is_selected(filter, row) {
                total.add(values.value(row));
            }
            total
        };
        Ok(states_of(&(0..values.len()).map(one).collect::<Vec<_>>()))
    }

    fn supports_convert_to_state(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        // Four to six limbs of eight bytes each are the rule; counting them all per call would cost more than it tells.
        self.totals.capacity() * (size_of::<Total>() + 48)
    }
}
