//! Rows for which a comparison with the time holds: `ts > now() - INTERVAL '1 day'`.
//!
//! Words: a row's *value* is what of it is compared; the *bound* is what the time makes of the other side. A row is *shown* while
//! the comparison holds. Rows that may be shown or hidden later are held in the order of their values, so that a tick costs
//! the rows that it shows or hides. With a steady bound (it never goes back) a row below a lower bound, and one above that
//! is already below an upper bound, stay as they are for good, and are not held.
//!
//! State: the newest time as the entry of tag 0: i64 microseconds; held rows as entries of tag 1: i64 value, row bytes, i64
//! count. In the space: 0 -> i64 time; 1, i64 value, row bytes -> i64 count; held rows come into memory with the first change
//! after a start, and stay. A row without value is never shown; while the time is not known, none is.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use mainstem_sql::TimeComparison;

use super::encoding::{StateReader, StateWriter};
use super::stateless::keyed_delta;
use super::{Context, Operate};
use crate::delta::{Delta, RowKeys};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, describe, evaluate_all};
use crate::state::{Space, count_of, from_ordered_i64, ordered_i64};

const KIND: u8 = 30;
/// What entries of the space begin with.
const TIME: u8 = 0;
const HELD: u8 = 1;

/// Values first, so that a range of values is a range of the map.
type Held = BTreeMap<(i64, Box<[u8]>), i64>;

/// What the comparison is made of.
#[derive(Debug)]
pub(super) struct TemporalParts {
    pub(super) value: CompiledScalar,
    pub(super) comparison: TimeComparison,
    /// Over [`time_schema`].
    pub(super) bound: CompiledScalar,
    pub(super) is_steady: bool,
}

#[derive(Debug)]
pub(super) struct Temporal {
    schema: SchemaRef,
    keys: RowKeys,
    parts: TemporalParts,
    now_us: Option<i64>,
    bound: Option<i64>,
    held: Held,
    key_bytes: u64,
    /// The space has held rows that are not in memory: all of them.
    is_stored: bool,
}

/// The input of bounds: the time.
pub(super) fn time_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![Field::new("now", time, true)]))
}

impl Temporal {
    pub(super) fn new(schema: &SchemaRef, parts: TemporalParts) -> Result<Temporal, EngineError> {
        let keys = RowKeys::new(schema).map_err(|error| EngineError::Graph(error.to_string()))?;
        let is_time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..) | DataType::Date32);
        if !is_time(parts.value.data_type()) || parts.value.data_type() != parts.bound.data_type() {
            return Err(EngineError::Graph("a condition on the time compares something else".to_owned()));
        }
        let bound = bound_at(&parts.bound, None)?;
        let schema = schema.clone();
        Ok(Temporal { schema, keys, parts, now_us: None, bound, held: Held::new(), key_bytes: 0, is_stored: false })
    }

    fn is_shown(&self, value: i64, bound: Option<i64>) -> bool {
        bound.is_some_and(|bound| self.parts.comparison.holds(value, bound))
    }

    /// Whether a row with this value may still change.
    fn is_held(&self, value: i64, bound: Option<i64>) -> bool {
        if !self.parts.is_steady || bound.is_none() {
            return true;
        }
        self.is_shown(value, bound) == self.parts.comparison.is_lower_bound()
    }

    /// Brings the held rows into memory.
    fn load(&mut self, context: &mut Context<'_>) {
        let Some(space) = context.space.filter(|_| std::mem::take(&mut self.is_stored)) else { return };
        let mut failed = Ok(());
        let scanned = space.scan(&[HELD], &mut |row, count| match (from_ordered_i64(row), count_of(count)) {
            (Some(value), Ok(count)) => {
                self.hold(value, &row[8..], count);
            }
            _ => failed = Err(EngineError::State("a held row cannot be read".to_owned())),
        });
        context.loaded(scanned.and(failed));
        space.root().count_loaded(self.held.len() as u64);
    }

    /// Adds to the count of a row. Gives its count then.
    fn hold(&mut self, value: i64, key: &[u8], weight: i64) -> i64 {
        let count = self.held.entry((value, key.into())).or_insert(0);
        if *count == 0 {
            self.key_bytes += key.len() as u64;
        }
        *count += weight;
        let count = *count;
        if count == 0 {
            self.key_bytes -= key.len() as u64;
            self.held.remove(&(value, Box::from(key)));
        }
        count
    }

    /// The bound moves: what that shows and hides.
    fn move_to(&mut self, bound: Option<i64>, context: &mut Context<'_>) -> Option<Delta> {
        let before = self.bound;
        let first = before.zip(bound).map_or(i64::MIN, |(a, b)| a.min(b));
        let last = before.zip(bound).map_or(i64::MAX, |(a, b)| a.max(b));
        let (mut rows, mut weights, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for ((value, key), count) in self.held.range((first, Box::default())..) {
            if *value > last {
                break;
            }
            *context.touched += 1;
            match (self.is_shown(*value, before), self.is_shown(*value, bound)) {
                (false, true) => weights.push(*count),
                (true, false) => weights.push(-*count),
                _ => {
                    if !self.is_held(*value, bound) {
                        gone.push((*value, key.clone()));
                    }
                    continue;
                }
            }
            rows.push(&**key);
            if !self.is_held(*value, bound) {
                gone.push((*value, key.clone()));
            }
        }
        let rows: Vec<(&[u8], i64)> = rows.into_iter().zip(weights).collect();
        let delta = (!rows.is_empty()).then(|| keyed_delta(&self.keys, &rows, &self.schema));
        for place in gone {
            self.key_bytes -= place.1.len() as u64;
            self.held.remove(&place);
            if let Some(space) = context.space {
                space.delete(&entry(place.0, &place.1));
            }
        }
        self.bound = bound;
        delta
    }
}

fn entry(value: i64, key: &[u8]) -> Vec<u8> {
    [&[HELD][..], &ordered_i64(value), key].concat()
}

/// What the bound is at a time; none if it is null.
fn bound_at(bound: &CompiledScalar, now_us: Option<i64>) -> Result<Option<i64>, EngineError> {
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![now_us]).with_timezone("UTC"));
    let schema = CompiledScalar::input_schema(&time_schema());
    let row = RecordBatch::try_new(schema, vec![time]).expect("one column");
    let failed = |error| EngineError::Graph(format!("the bound of a condition on the time: {}", describe(&error)));
    Ok(numbers(&bound.evaluate(&row).map_err(failed)?).iter().next().flatten())
}

fn numbers(values: &ArrayRef) -> arrow::array::Int64Array {
    let numbers = cast(values, &DataType::Int64).expect("timestamps and dates are numbers");
    numbers.as_primitive::<Int64Type>().clone()
}

impl Operate for Temporal {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let (left, values) = evaluate_all(std::slice::from_ref(&self.parts.value), delta, context.errors);
        let values = numbers(&values[0]);
        self.load(context);
        let keys = self.keys.encode(left.rows.columns(), left.len());
        let mut shown = Vec::new();
        for row in (0..left.len()).filter(|row| values.is_valid(*row)) {
            let value = values.value(row);
            if self.is_shown(value, self.bound) {
                shown.push(row as u32);
            }
            if self.is_held(value, self.bound) {
                let count = self.hold(value, keys.get(row), left.weights[row]);
                if let Some(space) = context.space {
                    space.put_count(&entry(value, keys.get(row)), count);
                }
                *context.touched += 1;
            }
        }
        vec![left.take(&shown).with_schema(&self.schema)]
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        let Some(now_us) = context.times.now_us.filter(|now_us| self.now_us.is_none_or(|before| *now_us > before))
        else {
            return Vec::new();
        };
        match bound_at(&self.parts.bound, Some(now_us)) {
            Ok(bound) => {
                self.now_us = Some(now_us);
                if let Some(space) = context.space {
                    space.put(&[TIME], &now_us.to_le_bytes());
                }
                self.load(context);
                self.move_to(bound, context).into_iter().collect()
            }
            Err(error) => {
                tracing::error!(%error, "the time stands still in a view");
                Vec::new()
            }
        }
    }

    fn uses_space(&self) -> bool {
        true
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.is_stored = !space.is_new();
        if let Some(now_us) = space.get(&[TIME])? {
            self.now_us = Some(count_of(&now_us)?);
            self.bound = bound_at(&self.parts.bound, self.now_us)?;
        }
        Ok(())
    }

    fn state_size(&self) -> (u64, u64) {
        (self.held.len() as u64, self.key_bytes + self.held.len() as u64 * 48)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        if let Some(now_us) = self.now_us {
            writer.u8(0);
            writer.i64(now_us);
            writer.end_entry();
        }
        for ((value, key), count) in &self.held {
            writer.u8(1);
            writer.i64(*value);
            writer.bytes(key);
            writer.i64(*count);
            writer.end_entry();
        }
        writer.finish();
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        while !reader.is_done() {
            match reader.u8()? {
                0 => {
                    self.now_us = Some(reader.i64()?);
                    self.bound = bound_at(&self.parts.bound, self.now_us)?;
                }
                1 => {
                    let value = reader.i64()?;
                    let key = reader.bytes()?;
                    let count = reader.i64()?;
                    let _ = self.hold(value, key, count);
                }
                tag => return Err(EngineError::State(format!("held rows have no entry of tag {tag}"))),
            }
        }
        Ok(())
    }
}
