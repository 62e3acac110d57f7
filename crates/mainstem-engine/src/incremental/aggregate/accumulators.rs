//! What aggregates have in common, and the ones that are counts: count, bool_and, bool_or, bit_and, bit_or, bit_xor.
//!
//! Always true here: an accumulator's state is a function of the sum of the updates of its group, so a retraction leaves no
//! trace; rows with a null argument (if the function does not take them), or not passing the FILTER clause, do not get here.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use mainstem_sql::AggregateFunction as Function;

use super::AggregateParts;
use super::distinct::Distinct;
use super::in_order::InOrder;
use super::moments::Moments;
use super::ordered::{Extreme, Kept, Percentile, Point};
use super::sums::{DecimalSum, FloatSum, IntegerSum};
use crate::error::EngineError;
use crate::incremental::encoding::{StateReader, StateWriter};

/// Results of some groups in their order, and the places of those that failed, with why.
pub(super) type Results = (ArrayRef, Vec<(usize, String)>);

/// Rows of a slice that count: their groups, places in the slice, and weights. All as long as each other.
#[derive(Debug, Default)]
pub(super) struct Selected {
    pub(super) groups: Vec<u32>,
    pub(super) rows: Vec<u32>,
    pub(super) weights: Vec<i64>,
}

impl Selected {
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, usize, i64)> + '_ {
        let rows = self.groups.iter().zip(&self.rows).zip(&self.weights);
        rows.map(|((group, row), weight)| (*group as usize, *row as usize, *weight))
    }
}

/// The state of one aggregate for all groups.
pub(super) trait Accumulate: Debug + Send {
    /// There are this many places for groups now; new ones are empty.
    fn resize(&mut self, groups: usize);
    /// Adds rows. `arguments` are whole columns of the slice, those of the aggregate's order behind them. Gives how many rows of state were touched beyond the group's
    /// own place.
    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64;
    fn results(&self, groups: &[u32]) -> Results;
    /// The group is gone, its place will be another's.
    fn clear(&mut self, group: u32);
    fn save(&self, group: u32, writer: &mut StateWriter<'_>);
    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError>;
    /// Rows beyond one per group, and bytes beyond [`Accumulate::slot_bytes`] per group.
    fn state_size(&self) -> (u64, u64);
    /// What a group takes at least.
    fn slot_bytes(&self) -> u64;

    /// Whether a group has *entries*, each a key with a count, which go to the space one by one; the rest of its state is
    /// its *head*.
    fn has_entries(&self) -> bool {
        false
    }
    /// From now on it is noted which entries change.
    fn track(&mut self) {}
    /// Entries that have changed since they were asked for last: group, key, count (0: it is gone).
    fn take_changes(&mut self, _out: &mut dyn FnMut(u32, &[u8], i64)) {}
    fn save_head(&self, group: u32, writer: &mut StateWriter<'_>) {
        self.save(group, writer);
    }
    fn restore_head(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.restore(group, reader)
    }
    fn restore_entry(&mut self, _group: u32, _key: &[u8], _count: i64) {}
}

/// The accumulator of an aggregate.
pub(super) fn build(parts: &AggregateParts, is_append_only: bool) -> Result<Box<dyn Accumulate>, EngineError> {
    let types: Vec<DataType> = parts.arguments.iter().map(|argument| argument.data_type().clone()).collect();
    let inner = build_plain(parts, &types, is_append_only)?;
    let order_free = matches!(parts.function, Function::Min | Function::Max | Function::BoolAnd | Function::BoolOr);
    match parts.is_distinct && !order_free && !types.is_empty() {
        true => Ok(Box::new(Distinct::new(&types, inner)?)),
        false => Ok(inner),
    }
}

fn build_plain(
    parts: &AggregateParts,
    types: &[DataType],
    is_append_only: bool,
) -> Result<Box<dyn Accumulate>, EngineError> {
    let refuse = || EngineError::Graph(format!("{}({types:?}) with result {}", parts.function.name(), parts.result));
    if parts.function == Function::Count {
        return Ok(Box::new(Count::default()));
    }
    if let Function::Moment(moment) = parts.function {
        let is_fit = types.len() == moment.arguments() && types.iter().all(|argument| *argument == DataType::Float64);
        return if is_fit { Ok(Box::new(Moments::new(moment, &parts.result))) } else { Err(refuse()) };
    }
    let [argument] = types else { return Err(refuse()) };
    if parts.function.is_ordered() {
        let order: Vec<_> = parts.order.iter().map(|(key, options)| (key.data_type().clone(), *options)).collect();
        let in_order = InOrder::new(&parts.function, argument, &order, &parts.result)?;
        return Ok(Box::new(in_order.ok_or_else(refuse)?));
    }
    Ok(match (&parts.function, argument) {
        (Function::Sum, DataType::Int64 | DataType::UInt64 | DataType::Duration(_)) => {
            Box::new(IntegerSum::new(argument.clone()))
        }
        (Function::Sum, DataType::Float64) => Box::new(FloatSum::new(false)),
        (Function::Avg, DataType::Float64) => Box::new(FloatSum::new(true)),
        (Function::Sum | Function::Avg, DataType::Decimal128(_, scale)) => {
            let is_average = parts.function == Function::Avg;
            Box::new(DecimalSum::new(*scale, &parts.result, is_average).ok_or_else(refuse)?)
        }
        (Function::Min | Function::Max, _) => {
            let is_largest = parts.function == Function::Max;
            match is_append_only {
                true => Box::new(Kept::new(argument, is_largest)?),
                false => Box::new(Extreme::new(argument, is_largest)?),
            }
        }
        (Function::PercentileCont { fraction_bits }, DataType::Float32 | DataType::Float64) => {
            Box::new(Percentile::new(argument, Point::Fraction(f64::from_bits(*fraction_bits)))?)
        }
        (Function::Median, _)
            if argument.is_integer()
                || matches!(argument, DataType::Float32 | DataType::Float64 | DataType::Decimal128(..)) =>
        {
            Box::new(Percentile::new(argument, Point::Median)?)
        }
        (Function::BoolAnd | Function::BoolOr, DataType::Boolean) => {
            Box::new(Bools { counts: Vec::new(), is_all: parts.function == Function::BoolAnd })
        }
        (Function::BitAnd | Function::BitOr | Function::BitXor, _) if argument.is_integer() => {
            Box::new(Bits { groups: Vec::new(), function: parts.function.clone(), result: argument.clone() })
        }
        _ => return Err(refuse()),
    })
}

/// Rows.
#[derive(Debug, Default)]
struct Count {
    counts: Vec<i64>,
}

impl Accumulate for Count {
    fn resize(&mut self, groups: usize) {
        self.counts.resize(groups, 0);
    }

    fn update(&mut self, _arguments: &[ArrayRef], selected: &Selected) -> u64 {
        for (group, weight) in selected.groups.iter().zip(&selected.weights) {
            self.counts[*group as usize] += weight;
        }
        0
    }

    fn results(&self, groups: &[u32]) -> Results {
        let values: Int64Array = groups.iter().map(|group| Some(self.counts[*group as usize])).collect();
        (Arc::new(values), Vec::new())
    }

    fn clear(&mut self, group: u32) {
        self.counts[group as usize] = 0;
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        writer.i64(self.counts[group as usize]);
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.counts[group as usize] = reader.i64()?;
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (0, 0)
    }

    fn slot_bytes(&self) -> u64 {
        8
    }
}

/// How many are false and how many true.
#[derive(Debug)]
struct Bools {
    counts: Vec<[i64; 2]>,
    is_all: bool,
}

impl Accumulate for Bools {
    fn resize(&mut self, groups: usize) {
        self.counts.resize(groups, [0; 2]);
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        let values = arguments[0].as_boolean();
        for (group, row, weight) in selected.iter() {
            self.counts[group][usize::from(values.value(row))] += weight;
        }
        0
    }

    fn results(&self, groups: &[u32]) -> Results {
        let result = |group: &u32| {
            let [no, yes] = self.counts[*group as usize];
            let value = if self.is_all { no == 0 } else { yes != 0 };
            (no != 0 || yes != 0).then_some(value)
        };
        (Arc::new(groups.iter().map(result).collect::<BooleanArray>()), Vec::new())
    }

    fn clear(&mut self, group: u32) {
        self.counts[group as usize] = [0; 2];
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        self.counts[group as usize].iter().for_each(|count| writer.i64(*count));
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.counts[group as usize] = [reader.i64()?, reader.i64()?];
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (0, 0)
    }

    fn slot_bytes(&self) -> u64 {
        16
    }
}

/// How many values, and how many of them have each bit.
#[derive(Debug)]
struct Bits {
    groups: Vec<Option<Box<BitCounts>>>,
    function: Function,
    result: DataType,
}

#[derive(Clone, Debug)]
struct BitCounts {
    values: i64,
    ones: [i64; 64],
}

impl Accumulate for Bits {
    fn resize(&mut self, groups: usize) {
        self.groups.resize(groups, None);
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        // Sign-extended to 64 bits, so that narrowing the result gives the narrow type's own.
        let bits: Vec<u64> = match arguments[0].data_type() {
            DataType::UInt64 => arguments[0].as_primitive::<UInt64Type>().values().to_vec(),
            _ => {
                let wide = cast(&arguments[0], &DataType::Int64).expect("an integer");
                wide.as_primitive::<Int64Type>().values().iter().map(|value| *value as u64).collect()
            }
        };
        for (group, row, weight) in selected.iter() {
            let slot = &mut self.groups[group];
            let counts = slot.get_or_insert_with(|| Box::new(BitCounts { values: 0, ones: [0; 64] }));
            counts.values += weight;
            for (bit, ones) in counts.ones.iter_mut().enumerate() {
                *ones += weight * ((bits[row] >> bit) & 1) as i64;
            }
            if counts.values == 0 && counts.ones.iter().all(|ones| *ones == 0) {
                *slot = None;
            }
        }
        0
    }

    fn results(&self, groups: &[u32]) -> Results {
        let value = |group: &u32| -> Option<u64> {
            let counts = self.groups[*group as usize].as_ref()?;
            let is_set = |ones: i64| match self.function {
                Function::BitAnd => ones == counts.values,
                Function::BitOr => ones != 0,
                _ => ones % 2 != 0,
            };
            Some((0..64).filter(|bit| is_set(counts.ones[*bit])).fold(0, |bits, bit| bits | 1 << bit))
        };
        let values = groups.iter().map(value);
        let wide: ArrayRef = match self.result {
            DataType::UInt64 => Arc::new(values.collect::<arrow::array::UInt64Array>()),
            _ => Arc::new(values.map(|value| value.map(|bits| bits as i64)).collect::<Int64Array>()),
        };
        (cast(&wide, &self.result).expect("bits of the narrow type"), Vec::new())
    }

    fn clear(&mut self, group: u32) {
        self.groups[group as usize] = None;
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        match &self.groups[group as usize] {
            None => writer.u8(0),
            Some(counts) => {
                writer.u8(1);
                writer.i64(counts.values);
                counts.ones.iter().for_each(|ones| writer.i64(*ones));
            }
        }
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        if reader.u8()? == 1 {
            let mut counts = BitCounts { values: reader.i64()?, ones: [0; 64] };
            for ones in &mut counts.ones {
                *ones = reader.i64()?;
            }
            self.groups[group as usize] = Some(Box::new(counts));
        }
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (0, 0)
    }

    fn slot_bytes(&self) -> u64 {
        528
    }
}
