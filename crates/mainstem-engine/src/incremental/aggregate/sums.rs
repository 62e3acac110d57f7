//! Sums and averages: integers, decimals, floats. All exact, so that every addition can be undone.
//!
//! A sum that does not fit its type is an error of its group (DataFusion wraps integers, without a word). An average of
//! decimals is cut off, not rounded, at the result's scale, as DataFusion's.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type, i256};

use super::accumulators::{Accumulate, Results, Selected};
use crate::delta::canonical_f64;
use crate::error::EngineError;
use crate::exact_sum::ExactSum;
use crate::incremental::encoding::{StateReader, StateWriter};

/// Sums of 64-bit integers and durations.
#[derive(Debug)]
pub(super) struct IntegerSum {
    data_type: DataType,
    /// Sum and count of values.
    sums: Vec<(i128, i64)>,
}

impl IntegerSum {
    pub(super) fn new(data_type: DataType) -> IntegerSum {
        IntegerSum { data_type, sums: Vec::new() }
    }
}

impl Accumulate for IntegerSum {
    fn resize(&mut self, groups: usize) {
        self.sums.resize(groups, (0, 0));
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        let mut add = |group: usize, value: i128, weight: i64| {
            let (sum, count) = &mut self.sums[group];
            *sum += value * i128::from(weight);
            *count += weight;
        };
        if self.data_type == DataType::UInt64 {
            let values = arguments[0].as_primitive::<UInt64Type>().values();
            selected.iter().for_each(|(group, row, weight)| add(group, i128::from(values[row]), weight));
        } else {
            let values = cast(&arguments[0], &DataType::Int64).expect("an integer or a duration");
            let values = values.as_primitive::<Int64Type>().values();
            selected.iter().for_each(|(group, row, weight)| add(group, i128::from(values[row]), weight));
        }
        0
    }

    fn results(&self, groups: &[u32]) -> Results {
        let mut failed = Vec::new();
        let mut narrow = |place: usize, fits: bool| {
            if !fits {
                failed.push((place, "sum is out of the range of bigint".to_owned()));
            }
        };
        let sums = groups.iter().map(|group| self.sums[*group as usize]);
        let sums = sums.map(|(sum, count)| (count != 0).then_some(sum)).enumerate();
        let values: ArrayRef = if self.data_type == DataType::UInt64 {
            let values = sums.map(|(place, sum)| {
                let value = sum.map(u64::try_from);
                narrow(place, !matches!(value, Some(Err(_))));
                value.and_then(Result::ok)
            });
            Arc::new(values.collect::<UInt64Array>())
        } else {
            let values = sums.map(|(place, sum)| {
                let value = sum.map(i64::try_from);
                narrow(place, !matches!(value, Some(Err(_))));
                value.and_then(Result::ok)
            });
            Arc::new(values.collect::<Int64Array>())
        };
        (cast(&values, &self.data_type).expect("the same width"), failed)
    }

    fn clear(&mut self, group: u32) {
        self.sums[group as usize] = (0, 0);
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        let (sum, count) = self.sums[group as usize];
        writer.raw(&sum.to_le_bytes());
        writer.i64(count);
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.sums[group as usize] = (i128::from_le_bytes(reader.array()?), reader.i64()?);
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (0, 0)
    }

    fn slot_bytes(&self) -> u64 {
        32
    }
}

/// Sums and averages of decimals.
#[derive(Debug)]
pub(super) struct DecimalSum {
    precision: u8,
    scale: i8,
    /// For an average: what the sum is multiplied by, to get to the result's scale.
    average_factor: Option<i256>,
    sums: Vec<(i256, i64)>,
}

impl DecimalSum {
    /// None when the result is not a decimal of at least the argument's scale.
    pub(super) fn new(argument_scale: i8, result: &DataType, is_average: bool) -> Option<DecimalSum> {
        let DataType::Decimal128(precision, scale) = *result else { return None };
        let steps = u32::try_from(scale - argument_scale).ok()?;
        if !is_average && steps != 0 {
            return None;
        }
        let factor = is_average.then(|| i256::from_i128(10_i128.pow(steps)));
        Some(DecimalSum { precision, scale, average_factor: factor, sums: Vec::new() })
    }

    fn result(&self, sum: i256, count: i64) -> Result<i128, String> {
        let name = if self.average_factor.is_some() { "avg" } else { "sum" };
        let overflow = || format!("{name} is out of the range of numeric({}, {})", self.precision, self.scale);
        let value = match self.average_factor {
            None => Some(sum),
            Some(factor) => sum.checked_mul(factor).and_then(|sum| sum.checked_div(i256::from_i128(count.into()))),
        };
        let value = value.and_then(i256::to_i128).ok_or_else(overflow)?;
        let limit = 10_u128.pow(u32::from(self.precision));
        if value.unsigned_abs() < limit { Ok(value) } else { Err(overflow()) }
    }
}

impl Accumulate for DecimalSum {
    fn resize(&mut self, groups: usize) {
        self.sums.resize(groups, (i256::ZERO, 0));
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        let values = arguments[0].as_primitive::<Decimal128Type>().values();
        for (group, row, weight) in selected.iter() {
            let (sum, count) = &mut self.sums[group];
            let value = i256::from_i128(values[row]).wrapping_mul(i256::from_i128(weight.into()));
            *sum = sum.wrapping_add(value);
            *count += weight;
        }
        0
    }

    fn results(&self, groups: &[u32]) -> Results {
        let mut failed = Vec::new();
        let values: Decimal128Array = groups
            .iter()
            .enumerate()
            .map(|(place, group)| {
                let (sum, count) = self.sums[*group as usize];
                if count == 0 {
                    return None;
                }
                match self.result(sum, count) {
                    Ok(value) => Some(value),
                    Err(message) => {
                        failed.push((place, message));
                        None
                    }
                }
            })
            .collect();
        let values = values.with_precision_and_scale(self.precision, self.scale).expect("the graph's decimal type");
        (Arc::new(values), failed)
    }

    fn clear(&mut self, group: u32) {
        self.sums[group as usize] = (i256::ZERO, 0);
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        let (sum, count) = self.sums[group as usize];
        writer.raw(&sum.to_le_bytes());
        writer.i64(count);
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.sums[group as usize] = (i256::from_le_bytes(reader.array()?), reader.i64()?);
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (0, 0)
    }

    fn slot_bytes(&self) -> u64 {
        48
    }
}

/// Sums and averages of floats.
#[derive(Debug)]
pub(super) struct FloatSum {
    is_average: bool,
    sums: Vec<(ExactSum, i64)>,
    heap_bytes: u64,
}

impl FloatSum {
    pub(super) fn new(is_average: bool) -> FloatSum {
        FloatSum { is_average, sums: Vec::new(), heap_bytes: 0 }
    }
}

impl Accumulate for FloatSum {
    fn resize(&mut self, groups: usize) {
        self.sums.resize_with(groups, Default::default);
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        let values = arguments[0].as_primitive::<Float64Type>().values();
        for (group, row, weight) in selected.iter() {
            let (sum, count) = &mut self.sums[group];
            let before = sum.heap_bytes() as u64;
            sum.add(values[row], weight);
            *count += weight;
            self.heap_bytes = self.heap_bytes + sum.heap_bytes() as u64 - before;
        }
        0
    }

    fn results(&self, groups: &[u32]) -> Results {
        let result = |group: &u32| {
            let (sum, count) = &self.sums[*group as usize];
            let value = if self.is_average { sum.average(*count) } else { sum.value() };
            (*count != 0).then(|| canonical_f64(value))
        };
        (Arc::new(groups.iter().map(result).collect::<Float64Array>()), Vec::new())
    }

    fn clear(&mut self, group: u32) {
        let (sum, _) = std::mem::take(&mut self.sums[group as usize]);
        self.heap_bytes -= sum.heap_bytes() as u64;
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        let (sum, count) = &self.sums[group as usize];
        sum.encode(writer.buffer());
        writer.i64(*count);
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        let sum = ExactSum::decode(reader.rest());
        let sum = sum.ok_or_else(|| EngineError::State("a float sum cannot be read".to_owned()))?;
        self.heap_bytes += sum.heap_bytes() as u64;
        self.sums[group as usize] = (sum, reader.i64()?);
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (0, self.heap_bytes)
    }

    fn slot_bytes(&self) -> u64 {
        56
    }
}
