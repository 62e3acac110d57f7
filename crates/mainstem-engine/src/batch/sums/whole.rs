//! Sums of integers, durations and decimals, and averages of decimals: exact, so neither their result nor whether it fits
//! depends on the order of rows.
//!
//! Always true here: a total is wider than any sum of 2^63 values, so it never wraps; only a result that does not fit its
//! type is an error, with the words of the incremental aggregates.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array};
use arrow::array::{PrimitiveArray, new_empty_array};
use arrow::compute::{cast, concat};
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, DecimalType, Field, FieldRef, Int64Type, UInt64Type, i256,
};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_datafusion_err};
use datafusion::logical_expr::function::StateFieldsArgs;
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::is_selected;

/// Whether values of this type are added up here.
pub(super) fn is_whole(data_type: &DataType, is_average: bool) -> bool {
    match data_type {
        DataType::Decimal128(..) => true,
        DataType::Int64 | DataType::UInt64 | DataType::Duration(_) => !is_average,
        _ => false,
    }
}

/// An accumulator for one group.
pub(super) fn accumulator(
    input: &DataType,
    result: &DataType,
    is_average: bool,
    is_distinct: bool,
) -> Result<Box<dyn Accumulator>> {
    let rule = Rule::new(input, result, is_average)?;
    Ok(match input {
        DataType::Decimal128(..) => Box::new(Single::<Decimal128Type>::new(rule, is_distinct)),
        DataType::UInt64 => Box::new(Single::<UInt64Type>::new(rule, is_distinct)),
        _ => Box::new(Single::<Int64Type>::new(rule, is_distinct)),
    })
}

/// An accumulator for many groups.
pub(super) fn groups(input: &DataType, result: &DataType, is_average: bool) -> Result<Box<dyn GroupsAccumulator>> {
    let rule = Rule::new(input, result, is_average)?;
    Ok(match input {
        DataType::Decimal128(..) => Box::new(Groups::<Decimal128Type>::new(rule)),
        DataType::UInt64 => Box::new(Groups::<UInt64Type>::new(rule)),
        _ => Box::new(Groups::<Int64Type>::new(rule)),
    })
}

/// What the accumulators pass on: count and total, or for DISTINCT the values.
pub(super) fn state_fields(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    let input = args.input_fields[0].data_type();
    if args.is_distinct {
        let values = Field::new_list_field(input.clone(), true);
        return vec![Field::new_list(format_state_name(args.name, "distinct"), values, false).into()];
    }
    let total = match input {
        DataType::Decimal128(..) => total_type::<Decimal128Type>(),
        DataType::UInt64 => total_type::<UInt64Type>(),
        _ => total_type::<Int64Type>(),
    };
    vec![
        Field::new(format_state_name(args.name, "count"), DataType::Int64, true).into(),
        Field::new(format_state_name(args.name, "sum"), total, true).into(),
    ]
}

/// How a total becomes a result.
#[derive(Clone, Debug)]
struct Rule {
    input: DataType,
    result: DataType,
    /// For an average: what the sum is multiplied by, to get to the result's scale.
    average_factor: Option<i256>,
}

impl Rule {
    fn new(input: &DataType, result: &DataType, is_average: bool) -> Result<Rule> {
        let average_factor = match (input, result) {
            (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) if is_average => {
                let steps = u32::try_from(to - from);
                let steps = steps.map_err(|_| internal_datafusion_err!("avg({input}) as {result}"))?;
                Some(i256::from_i128(10_i128.pow(steps)))
            }
            _ => None,
        };
        Ok(Rule { input: input.clone(), result: result.clone(), average_factor })
    }

    /// A decimal result of a total that is not of no values; None if it does not fit.
    fn decimal(&self, total: i256, count: i64) -> Option<i128> {
        let DataType::Decimal128(precision, _) = self.result else { return None };
        let value = match self.average_factor {
            None => total,
            Some(factor) => total.checked_mul(factor)?.checked_div(i256::from_i128(count.into()))?,
        };
        let value = value.to_i128()?;
        (value.unsigned_abs() < 10_u128.pow(u32::from(precision))).then_some(value)
    }

    fn out_of_range(&self) -> String {
        let name = if self.average_factor.is_some() { "avg" } else { "sum" };
        match self.result {
            DataType::Decimal128(precision, scale) => {
                format!("{name} is out of the range of numeric({precision}, {scale})")
            }
            _ => "sum is out of the range of bigint".to_owned(),
        }
    }

    /// Durations are added up as the integers that they are.
    fn values<T: Summed>(&self, array: &ArrayRef) -> Result<PrimitiveArray<T>> {
        match array.data_type() {
            DataType::Duration(_) => Ok(cast(array, &DataType::Int64)?.as_primitive::<T>().clone()),
            _ => Ok(array.as_primitive::<T>().clone()),
        }
    }

    fn results<T: Summed>(&self, totals: impl Iterator<Item = (WideOf<T>, i64)>) -> Result<ArrayRef> {
        let results = totals.map(|(total, count)| match count {
            0 => Ok(None),
            _ => T::result(self, total, count).map(Some).ok_or_else(|| exec_datafusion_err!("{}", self.out_of_range())),
        });
        let results: PrimitiveArray<T> = results.collect::<Result<_>>()?;
        let results: ArrayRef = match self.result {
            DataType::Decimal128(..) => Arc::new(results.with_data_type(self.result.clone())),
            _ => Arc::new(results),
        };
        Ok(if results.data_type() == &self.result { results } else { cast(&results, &self.result)? })
    }
}

/// A type of values and the one that their totals have.
trait Summed: ArrowPrimitiveType + std::fmt::Debug {
    type Wide: DecimalType + std::fmt::Debug;

    fn widen(value: Self::Native) -> WideOf<Self>;
    fn narrow(value: WideOf<Self>) -> Self::Native;
    fn result(rule: &Rule, total: WideOf<Self>, count: i64) -> Option<Self::Native>;
}

type WideOf<T> = <<T as Summed>::Wide as ArrowPrimitiveType>::Native;

fn total_type<T: Summed>() -> DataType {
    T::Wide::TYPE_CONSTRUCTOR(T::Wide::MAX_PRECISION, 0)
}

impl Summed for Int64Type {
    type Wide = Decimal128Type;

    fn widen(value: i64) -> i128 {
        value.into()
    }

    fn narrow(value: i128) -> i64 {
        i64::try_from(value).expect("a value that was widened")
    }

    fn result(_rule: &Rule, total: i128, _count: i64) -> Option<i64> {
        i64::try_from(total).ok()
    }
}

impl Summed for UInt64Type {
    type Wide = Decimal128Type;

    fn widen(value: u64) -> i128 {
        value.into()
    }

    fn narrow(value: i128) -> u64 {
        u64::try_from(value).expect("a value that was widened")
    }

    fn result(_rule: &Rule, total: i128, _count: i64) -> Option<u64> {
        u64::try_from(total).ok()
    }
}

impl Summed for Decimal128Type {
    type Wide = Decimal256Type;

    fn widen(value: i128) -> i256 {
        i256::from_i128(value)
    }

    fn narrow(value: i256) -> i128 {
        value.to_i128().expect("a value that was widened")
    }

    fn result(rule: &Rule, total: i256, count: i64) -> Option<i128> {
        rule.decimal(total, count)
    }
}

fn totals_array<T: Summed>(totals: impl Iterator<Item = WideOf<T>>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T::Wide>::from_iter_values(totals).with_data_type(total_type::<T>()))
}

#[derive(Debug)]
struct Single<T: Summed> {
    rule: Rule,
    total: WideOf<T>,
    count: i64,
    /// For DISTINCT: how often each value in the total came.
    seen: Option<BTreeMap<WideOf<T>, u64>>,
}

impl<T: Summed> Single<T>
where
    WideOf<T>: Ord,
{
    fn new(rule: Rule, is_distinct: bool) -> Single<T> {
        Single { rule, total: WideOf::<T>::default(), count: 0, seen: is_distinct.then(BTreeMap::new) }
    }

    fn add(&mut self, value: WideOf<T>) {
        if let Some(seen) = &mut self.seen {
            let times = seen.entry(value).or_default();
            *times += 1;
            if *times > 1 {
                return;
            }
        }
        self.total = self.total.add_wrapping(value);
        self.count += 1;
    }

    fn remove(&mut self, value: WideOf<T>) {
        if let Some(seen) = &mut self.seen {
            let times = seen.get_mut(&value).expect("only what was added is taken back");
            *times -= 1;
            if *times > 0 {
                return;
            }
            seen.remove(&value);
        }
        self.total = self.total.sub_wrapping(value);
        self.count -= 1;
    }
}

impl<T: Summed> Accumulator for Single<T>
where
    WideOf<T>: Ord,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.rule.values::<T>(&values[0])?.iter().flatten().for_each(|value| self.add(T::widen(value)));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.rule.results::<T>(std::iter::once((self.total, self.count)))?, 0)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.seen.as_ref().map_or(0, |seen| seen.len() * (size_of::<WideOf<T>>() + 16))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let Some(seen) = &self.seen else {
            let total = totals_array::<T>(std::iter::once(self.total));
            return Ok(vec![ScalarValue::Int64(Some(self.count)), ScalarValue::try_from_array(&total, 0)?]);
        };
        let values = PrimitiveArray::<T>::from_iter_values(seen.keys().map(|value| T::narrow(*value)));
        let values: ArrayRef = match &self.rule.input {
            DataType::Duration(_) => cast(&values, &self.rule.input)?,
            input => Arc::new(values.with_data_type(input.clone())),
        };
        Ok(vec![SingleRowListArrayBuilder::new(values).with_nullable(true).build_list_scalar()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if self.seen.is_some() {
            let lists: Vec<ArrayRef> = states[0].as_list::<i32>().iter().flatten().collect();
            let lists: Vec<&dyn Array> = lists.iter().map(AsRef::as_ref).collect();
            let values = if lists.is_empty() { new_empty_array(&self.rule.input) } else { concat(&lists)? };
            return self.update_batch(&[values]);
        }
        let (counts, totals) = (states[0].as_primitive::<Int64Type>(), states[1].as_primitive::<T::Wide>());
        for row in (0..counts.len()).filter(|row| totals.is_valid(*row)) {
            self.total = self.total.add_wrapping(totals.value(row));
            self.count += counts.value(row);
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.rule.values::<T>(&values[0])?.iter().flatten().for_each(|value| self.remove(T::widen(value)));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Groups<T: Summed> {
    rule: Rule,
    totals: Vec<WideOf<T>>,
    counts: Vec<i64>,
}

impl<T: Summed> Groups<T> {
    fn new(rule: Rule) -> Groups<T> {
        Groups { rule, totals: Vec::new(), counts: Vec::new() }
    }

    fn resize(&mut self, total_groups: usize) {
        self.totals.resize(total_groups, WideOf::<T>::default());
        self.counts.resize(total_groups, 0);
    }

    fn add(&mut self, group: usize, total: WideOf<T>, count: i64) {
        self.totals[group] = self.totals[group].add_wrapping(total);
        self.counts[group] += count;
    }

    fn emit(&mut self, emit_to: EmitTo) -> (Vec<WideOf<T>>, Vec<i64>) {
        (emit_to.take_needed(&mut self.totals), emit_to.take_needed(&mut self.counts))
    }
}

impl<T: Summed> GroupsAccumulator for Groups<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.resize(total_groups);
        let values = self.rule.values::<T>(&values[0])?;
        if values.null_count() == 0 && filter.is_none() {
            for (group, value) in groups.iter().zip(values.values()) {
                self.add(*group, T::widen(*value), 1);
            }
            return Ok(());
        }
        for (row, group) in groups.iter().enumerate() {
            if values.is_valid(row) && is_selected(filter, row) {
                self.add(*group, T::widen(values.value(row)), 1);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (totals, counts) = self.emit(emit_to);
        self.rule.results::<T>(totals.into_iter().zip(counts))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (totals, counts) = self.emit(emit_to);
        Ok(vec![Arc::new(Int64Array::from(counts)), totals_array::<T>(totals.into_iter())])
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.resize(total_groups);
        let (counts, totals) = (states[0].as_primitive::<Int64Type>(), states[1].as_primitive::<T::Wide>());
        for (row, group) in groups.iter().enumerate() {
            if totals.is_valid(row) && is_selected(filter, row) {
                self.add(*group, totals.value(row), counts.value(row));
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = self.rule.values::<T>(&values[0])?;
        let counted = |row: &usize| values.is_valid(*row) && is_selected(filter, *row);
        let counts: Int64Array = (0..values.len()).map(|row| Some(i64::from(counted(&row)))).collect();
        let totals = (0..values.len()).map(|row| match counted(&row) {
            true => T::widen(values.value(row)),
            false => WideOf::<T>::default(),
        });
        Ok(vec![Arc::new(counts), totals_array::<T>(totals)])
    }

    fn supports_convert_to_state(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<WideOf<T>>() + self.counts.capacity() * size_of::<i64>()
    }
}
