//! Aggregates by order: min, max, percentile_cont, median, over ordered multisets of the values' bytes.
//!
//! Floats are ordered as keys are: one NaN, above all numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::accumulators::{Accumulate, Results, Selected};
use crate::delta::{RowKeys, canonical_f64};
use crate::error::EngineError;
use crate::incremental::encoding::{StateReader, StateWriter};
use crate::incremental::multiset::OrderedMultiset;

fn keys_of(argument: &DataType) -> Result<RowKeys, EngineError> {
    RowKeys::of_types(std::slice::from_ref(argument)).map_err(|error| EngineError::Graph(error.to_string()))
}

/// Values by key, null where there is none.
pub(super) fn decode_some<'a>(keys: &RowKeys, data_type: &DataType, chosen: &[Option<&'a [u8]>]) -> ArrayRef {
    let values = keys.decode_columns(chosen.iter().copied().flatten());
    let null = new_null_array(data_type, 1);
    let mut next = 0;
    let places: Vec<(usize, usize)> = chosen
        .iter()
        .map(|key| match key {
            Some(_) => {
                next += 1;
                (0, next - 1)
            }
            None => (1, 0),
        })
        .collect();
    interleave(&[values[0].as_ref(), null.as_ref()], &places).expect("values of one type")
}

/// The multisets of all groups, with their sizes.
#[derive(Debug, Default)]
pub(super) struct Multisets {
    pub(super) groups: Vec<OrderedMultiset>,
    rows: u64,
    bytes: u64,
    /// Group and key of what was changed, when that is noted.
    changed: Option<Vec<(u32, Box<[u8]>)>>,
}

impl Multisets {
    pub(super) fn adjust(&mut self, group: usize, key: &[u8], weight: i64) {
        let set = &mut self.groups[group];
        let before = (set.distinct() as u64, set.heap_bytes() as u64);
        set.adjust(key, weight);
        self.rows = self.rows + set.distinct() as u64 - before.0;
        self.bytes = self.bytes + set.heap_bytes() as u64 - before.1;
    }

    /// See [`Accumulate::track`].
    pub(super) fn track(&mut self) {
        self.changed.get_or_insert_default();
    }

    fn note(&mut self, group: u32, key: &[u8]) {
        if let Some(changed) = &mut self.changed {
            changed.push((group, key.into()));
        }
    }

    /// See [`Accumulate::take_changes`].
    pub(super) fn take_changes(&mut self, out: &mut dyn FnMut(u32, &[u8], i64)) {
        let Some(changed) = &mut self.changed else { return };
        for (group, key) in std::mem::take(changed) {
            out(group, &key, self.groups[group as usize].count(&key));
        }
    }

    fn update(&mut self, keys: &RowKeys, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        let keys = keys.encode(&arguments[..1], arguments[0].len());
        for (group, row, weight) in selected.iter() {
            self.change(group, keys.get(row), weight);
        }
        selected.rows.len() as u64
    }

    /// As an update: what changes is noted.
    pub(super) fn change(&mut self, group: usize, key: &[u8], weight: i64) {
        self.adjust(group, key, weight);
        self.note(group as u32, key);
    }

    pub(super) fn clear(&mut self, group: u32) {
        let set = std::mem::take(&mut self.groups[group as usize]);
        self.rows -= set.distinct() as u64;
        self.bytes -= set.heap_bytes() as u64;
    }

    pub(super) fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        let set = &self.groups[group as usize];
        writer.u64(set.distinct() as u64);
        set.for_each(&mut |key, count| {
            writer.bytes(key);
            writer.i64(count);
        });
    }

    pub(super) fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        for _ in 0..reader.u64()? {
            let key = reader.bytes()?;
            self.adjust(group as usize, key, reader.i64()?);
        }
        Ok(())
    }

    pub(super) fn state_size(&self) -> (u64, u64) {
        (self.rows, self.bytes)
    }
}

/// The methods of [`Accumulate`] that are the same for all that keep nothing but multisets.
macro_rules! entries_of_sets {
    () => {
        fn slot_bytes(&self) -> u64 {
            size_of::<OrderedMultiset>() as u64
        }

        fn has_entries(&self) -> bool {
            true
        }

        fn track(&mut self) {
            self.sets.track();
        }

        fn take_changes(&mut self, out: &mut dyn FnMut(u32, &[u8], i64)) {
            self.sets.take_changes(out);
        }

        fn save_head(&self, _group: u32, _writer: &mut StateWriter<'_>) {}

        fn restore_head(&mut self, _group: u32, _reader: &mut StateReader<'_>) -> Result<(), EngineError> {
            Ok(())
        }

        fn restore_entry(&mut self, group: u32, key: &[u8], count: i64) {
            self.sets.adjust(group as usize, key, count);
        }
    };
}
pub(super) use entries_of_sets;

/// The smallest or the largest, with all others kept, so that it can be taken back.
#[derive(Debug)]
pub(super) struct Extreme {
    keys: RowKeys,
    data_type: DataType,
    is_largest: bool,
    sets: Multisets,
}

impl Extreme {
    pub(super) fn new(argument: &DataType, is_largest: bool) -> Result<Extreme, EngineError> {
        let (keys, data_type) = (keys_of(argument)?, argument.clone());
        Ok(Extreme { keys, data_type, is_largest, sets: Multisets::default() })
    }
}

impl Accumulate for Extreme {
    fn resize(&mut self, groups: usize) {
        self.sets.groups.resize_with(groups, OrderedMultiset::default);
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        self.sets.update(&self.keys, arguments, selected)
    }

    fn results(&self, groups: &[u32]) -> Results {
        let extreme = |group: &u32| {
            let set = &self.sets.groups[*group as usize];
            set.select(if self.is_largest { set.total() - 1 } else { 0 })
        };
        let chosen: Vec<Option<&[u8]>> = groups.iter().map(extreme).collect();
        (decode_some(&self.keys, &self.data_type, &chosen), Vec::new())
    }

    fn clear(&mut self, group: u32) {
        self.sets.clear(group);
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        self.sets.save(group, writer);
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.sets.restore(group, reader)
    }

    fn state_size(&self) -> (u64, u64) {
        self.sets.state_size()
    }

    entries_of_sets!();
}

/// The smallest or the largest over rows that are never taken back: nothing else is kept.
#[derive(Debug)]
pub(super) struct Kept {
    keys: RowKeys,
    data_type: DataType,
    is_largest: bool,
    best: Vec<Option<Box<[u8]>>>,
    bytes: u64,
}

impl Kept {
    pub(super) fn new(argument: &DataType, is_largest: bool) -> Result<Kept, EngineError> {
        let (keys, data_type) = (keys_of(argument)?, argument.clone());
        Ok(Kept { keys, data_type, is_largest, best: Vec::new(), bytes: 0 })
    }

    fn put(&mut self, group: usize, key: Option<Box<[u8]>>) {
        let length = |key: &Option<Box<[u8]>>| key.as_ref().map_or(0, |key| key.len() as u64);
        self.bytes = self.bytes + length(&key) - length(&self.best[group]);
        self.best[group] = key;
    }
}

impl Accumulate for Kept {
    fn resize(&mut self, groups: usize) {
        self.best.resize(groups, None);
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        let keys = self.keys.encode(&arguments[..1], arguments[0].len());
        for (group, row, weight) in selected.iter() {
            assert!(weight > 0, "an input that promised to be append-only took a row back");
            let key = keys.get(row);
            let is_better = match &self.best[group] {
                None => true,
                Some(best) if self.is_largest => key > &**best,
                Some(best) => key < &**best,
            };
            if is_better {
                self.put(group, Some(key.into()));
            }
        }
        0
    }

    fn results(&self, groups: &[u32]) -> Results {
        let chosen: Vec<Option<&[u8]>> = groups.iter().map(|group| self.best[*group as usize].as_deref()).collect();
        (decode_some(&self.keys, &self.data_type, &chosen), Vec::new())
    }

    fn clear(&mut self, group: u32) {
        self.put(group as usize, None);
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        match &self.best[group as usize] {
            None => writer.u8(0),
            Some(key) => {
                writer.u8(1);
                writer.bytes(key);
            }
        }
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        if reader.u8()? == 1 {
            let key = reader.bytes()?;
            self.put(group as usize, Some(key.into()));
        }
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (0, self.bytes)
    }

    fn slot_bytes(&self) -> u64 {
        16
    }
}

/// Where in the order a value is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Point {
    /// DataFusion's percentile_cont of this fraction.
    Fraction(f64),
    /// DataFusion's median.
    Median,
}

/// A value in the middle of the order.
#[derive(Debug)]
pub(super) struct Percentile {
    keys: RowKeys,
    data_type: DataType,
    point: Point,
    sets: Multisets,
}

/// DataFusion's: the weight of the upper value has six decimal places.
const WEIGHT_STEPS: f64 = 1_000_000.0;

impl Percentile {
    pub(super) fn new(argument: &DataType, point: Point) -> Result<Percentile, EngineError> {
        let (keys, data_type) = (keys_of(argument)?, argument.clone());
        Ok(Percentile { keys, data_type, point, sets: Multisets::default() })
    }

    /// The ranks of the two values between which the result lies, and how far (none: they are one), of `count` values.
    fn place(&self, count: i64) -> (i64, i64, Option<f64>) {
        let (lower, upper, weight) = match self.point {
            Point::Median => ((count - 1) / 2, count / 2, 0.5),
            Point::Fraction(fraction) => {
                let index = fraction * (count - 1) as f64;
                let steps = ((index - index.floor()) * WEIGHT_STEPS) as usize;
                (index.floor() as i64, index.ceil() as i64, steps as f64 / WEIGHT_STEPS)
            }
        };
        (lower, upper, (lower != upper).then_some(weight))
    }

    fn between(&self, low: &ArrayRef, high: &ArrayRef, weights: &[Option<f64>]) -> ArrayRef {
        let interpolate = |row: usize, low: f64, high: f64| match (self.point, weights[row]) {
            (_, None) => low,
            (Point::Median, _) => canonical_f64((low + high) / 2.0),
            (Point::Fraction(_), Some(weight)) => canonical_f64(low + (high - low) * weight),
        };
        macro_rules! middle_of {
            ($type:ty) => {
                combine::<$type>(low, high, |_, low, high| middle::<$type>(low, high))
            };
        }
        match &self.data_type {
            DataType::Float64 => combine::<Float64Type>(low, high, interpolate),
            // The median adds in the narrow type, the percentile in the wide one.
            DataType::Float32 => combine::<Float32Type>(low, high, |row, low, high| match (self.point, weights[row]) {
                (_, None) => low,
                (Point::Median, _) => (low + high) / 2.0 + 0.0,
                (Point::Fraction(_), _) => interpolate(row, low.into(), high.into()) as f32,
            }),
            DataType::Int8 => middle_of!(Int8Type),
            DataType::Int16 => middle_of!(Int16Type),
            DataType::Int32 => middle_of!(Int32Type),
            DataType::Int64 => middle_of!(Int64Type),
            DataType::UInt8 => middle_of!(UInt8Type),
            DataType::UInt16 => middle_of!(UInt16Type),
            DataType::UInt32 => middle_of!(UInt32Type),
            DataType::UInt64 => middle_of!(UInt64Type),
            DataType::Decimal128(..) => middle_of!(Decimal128Type),
            other => unreachable!("median of {other} is refused"),
        }
    }
}

fn combine<T: ArrowPrimitiveType>(
    low: &ArrayRef,
    high: &ArrayRef,
    value: impl Fn(usize, T::Native, T::Native) -> T::Native,
) -> ArrayRef {
    let (low, high) = (low.as_primitive::<T>(), high.as_primitive::<T>());
    let values = (0..low.len()).map(|row| low.is_valid(row).then(|| value(row, low.value(row), high.value(row))));
    let values: PrimitiveArray<T> = values.collect();
    Arc::new(values.with_data_type(low.data_type().clone()))
}

/// The mean of two values in their own type, truncated, without overflow: as DataFusion's median.
fn middle<T: ArrowPrimitiveType>(low: T::Native, high: T::Native) -> T::Native
where
    T::Native: ArrowNativeTypeOp,
{
    let two = T::Native::ONE.add_wrapping(T::Native::ONE);
    match low.add_checked(high) {
        Ok(sum) => sum.div_wrapping(two),
        Err(_) => {
            let rest = low.mod_wrapping(two).add_wrapping(high.mod_wrapping(two)).div_wrapping(two);
            low.div_wrapping(two).add_wrapping(high.div_wrapping(two)).add_wrapping(rest)
        }
    }
}

impl Accumulate for Percentile {
    fn resize(&mut self, groups: usize) {
        self.sets.groups.resize_with(groups, OrderedMultiset::default);
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        self.sets.update(&self.keys, arguments, selected)
    }

    fn results(&self, groups: &[u32]) -> Results {
        let (mut low, mut high, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            let set = &self.sets.groups[*group as usize];
            let (lower, upper, weight) = self.place(set.total());
            low.push(set.select(lower));
            high.push(set.select(upper));
            weights.push(weight);
        }
        let low = decode_some(&self.keys, &self.data_type, &low);
        let high = decode_some(&self.keys, &self.data_type, &high);
        let values = self.between(&low, &high, &weights);
        (values, Vec::new())
    }

    fn clear(&mut self, group: u32) {
        self.sets.clear(group);
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        self.sets.save(group, writer);
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.sets.restore(group, reader)
    }

    fn state_size(&self) -> (u64, u64) {
        self.sets.state_size()
    }

    entries_of_sets!();
}
