//! Random tables and random changes to them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use mainstem_catalog::RelationId;
use mainstem_engine::Delta;
use rand::Rng;
use rand::rngs::SmallRng;

pub(crate) const LEFT: RelationId = RelationId(16384);
pub(crate) const RIGHT: RelationId = RelationId(16385);

/// Columns of every test table, by place.
pub(crate) mod column {
    pub(crate) const ID: usize = 0;
    pub(crate) const KEY: usize = 1;
    pub(crate) const VALUE: usize = 2;
    pub(crate) const TEXT: usize = 3;
    /// Multiples of a quarter, so that sums are exact in any order; -0.0 is among them.
    pub(crate) const FLOAT: usize = 4;
    /// With NaN and infinities.
    pub(crate) const ANY_FLOAT: usize = 5;
    pub(crate) const DECIMAL: usize = 6;
    pub(crate) const FLAG: usize = 7;
    pub(crate) const TIME: usize = 8;
}

pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("k", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("f", DataType::Float64, true),
        Field::new("g", DataType::Float64, true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        Field::new("b", DataType::Boolean, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ]))
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) key: Option<i64>,
    pub(crate) value: Option<i64>,
    pub(crate) text: Option<&'static str>,
    float: Option<f64>,
    any_float: Option<f64>,
    decimal: Option<i128>,
    flag: Option<bool>,
    pub(crate) time: Option<i64>,
}

fn maybe<T>(random: &mut SmallRng, value: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    if random.random_bool(0.15) { None } else { Some(value(random)) }
}

/// A random row with few different values, so that there are duplicates and ties.
pub(crate) fn row(random: &mut SmallRng, ids: i64) -> Row {
    const TEXTS: [&str; 6] = ["", "a", "ab", "b", "ba", "\u{e9}"];
    const FLOATS: [f64; 6] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 2.5];
    Row {
        id: random.random_range(0..ids),
        key: maybe(random, |random| random.random_range(0..8)),
        value: maybe(random, |random| random.random_range(-5..20)),
        text: maybe(random, |random| TEXTS[random.random_range(0..TEXTS.len())]),
        float: maybe(random, |random| match random.random_range(0..8) {
            0 => -0.0,
            _ => f64::from(random.random_range(-40..40)) / 4.0,
        }),
        any_float: maybe(random, |random| FLOATS[random.random_range(0..FLOATS.len())]),
        decimal: maybe(random, |random| i128::from(random.random_range(-50_000..50_000_i64))),
        flag: maybe(random, |random| random.random_bool(0.5)),
        time: maybe(random, |random| random.random_range(0..100) * 1_000_000),
    }
}

pub(crate) fn batch(rows: &[Row]) -> RecordBatch {
    fn of<'a, T, A: FromIterator<Option<T>> + 'static>(rows: &'a [Row], get: impl Fn(&'a Row) -> Option<T>) -> Arc<A> {
        Arc::new(rows.iter().map(get).collect())
    }
    let decimals = rows.iter().map(|row| row.decimal).collect::<Decimal128Array>();
    let columns: Vec<ArrayRef> = vec![
        of::<_, Int64Array>(rows, |row| Some(row.id)),
        of::<_, Int64Array>(rows, |row| row.key),
        of::<_, Int64Array>(rows, |row| row.value),
        of::<_, StringArray>(rows, |row| row.text),
        of::<_, Float64Array>(rows, |row| row.float),
        of::<_, Float64Array>(rows, |row| row.any_float),
        Arc::new(decimals.with_precision_and_scale(12, 2).unwrap()),
        of::<_, BooleanArray>(rows, |row| row.flag),
        of::<_, TimestampMicrosecondArray>(rows, |row| row.time),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// A table as a multiset of rows.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// Random inserts, updates and deletes; about `retractions` of the changes take a row away.
    pub(crate) fn change(&mut self, random: &mut SmallRng, count: usize, retractions: f64) -> Delta {
        let (mut rows, mut weights) = (Vec::new(), Vec::new());
        for _ in 0..count {
            if !self.rows.is_empty() && random.random_bool(retractions) {
                let place = random.random_range(0..self.rows.len());
                rows.push(self.rows.swap_remove(place));
                weights.push(-1);
                // Half of them are updates: the row comes back with another value.
                if random.random_bool(0.5) {
                    let mut updated = rows[rows.len() - 1].clone();
                    updated.value = Some(random.random_range(-5..20));
                    self.rows.push(updated.clone());
                    rows.push(updated);
                    weights.push(1);
                }
            } else {
                let new = row(random, 30);
                let copies = if random.random_bool(0.1) { 2 } else { 1 };
                self.rows.extend(std::iter::repeat_n(new.clone(), copies));
                rows.push(new);
                weights.push(copies as i64);
            }
        }
        Delta::new(batch(&rows), weights)
    }

    pub(crate) fn content(&self) -> RecordBatch {
        batch(&self.rows)
    }
}

/// The delta cut into slices of random sizes, in a random order of rows.
pub(crate) fn sliced(random: &mut SmallRng, delta: &Delta) -> Vec<Delta> {
    let mut slices = Vec::new();
    let mut start = 0;
    while start < delta.len() {
        let length = random.random_range(1..=delta.len() - start);
        slices.push(delta.slice(start, length));
        start += length;
    }
    if random.random_bool(0.5) {
        slices.reverse();
    }
    slices
}
