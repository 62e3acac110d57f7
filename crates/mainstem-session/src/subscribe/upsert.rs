//! ENVELOPE UPSERT: what a version made of each key that it touched.
//!
//! A key with one row is an `upsert` with that row, a key whose row is gone a `delete`, a key with several rows a
//! `key_violation`. Unless the key is a table's primary key, how many rows each key has is counted, so that a violation is
//! told when the second row comes in a later version than the first. A key stays in violation until a version that leaves
//! it with one row, or none, has that row.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use mainstem_engine::Delta;
use mainstem_engine::delta::RowKeys;
use mainstem_sql::SqlError;

#[derive(Debug)]
pub(super) struct Upserts {
    /// The first columns are the key.
    keys: usize,
    /// Rows per key; none when a key can have but one.
    counts: Option<HashMap<Box<[u8]>, i64>>,
    parts: Vec<Delta>,
}

/// What a version did to one key.
#[derive(Clone, Copy, Debug, Default)]
struct Touched {
    added: i64,
    removed: i64,
    /// Any of its rows; the last one that was added, if one was.
    row: u32,
}

impl Upserts {
    pub(super) fn new(keys: usize, is_unique: bool) -> Upserts {
        Upserts { keys, counts: (!is_unique).then(HashMap::new), parts: Vec::new() }
    }

    /// Whether it has to see the content at the beginning.
    pub(super) fn counts(&self) -> bool {
        self.counts.is_some()
    }

    /// A part of the version, key columns first.
    pub(super) fn push(&mut self, delta: Delta) {
        self.parts.push(delta);
    }

    /// The end of the version: states and columns, a row per key; none if it changed nothing.
    pub(super) fn finish(&mut self) -> Result<Option<(ArrayRef, Vec<ArrayRef>)>, SqlError> {
        let parts = std::mem::take(&mut self.parts);
        let Some(first) = parts.first() else { return Ok(None) };
        let delta = Delta::concat(&first.schema(), &parts);
        drop(parts);
        let columns = delta.rows.columns();
        let internal = |error: arrow::error::ArrowError| SqlError::new("XX000", error.to_string());
        let types: Vec<DataType> = columns[..self.keys].iter().map(|column| column.data_type().clone()).collect();
        let keys = RowKeys::of_types(&types).map_err(internal)?.encode(&columns[..self.keys], delta.len());
        let mut touched: BTreeMap<&[u8], Touched> = BTreeMap::new();
        for (row, weight) in (0u32..).zip(delta.weights.iter()) {
            let one = touched.entry(keys.get(row as usize)).or_default();
            if *weight > 0 {
                one.added += weight;
                one.row = row;
            } else {
                one.removed -= weight;
                one.row = if one.added > 0 { one.row } else { row };
            }
        }
        let (mut states, mut key_rows, mut value_rows) = (Vec::new(), Vec::new(), Vec::new());
        for (key, one) in touched {
            let state = self.state_of(key, one);
            states.push(state);
            key_rows.push(one.row);
            value_rows.push((state == "upsert").then_some(one.row));
        }
        let (key_rows, value_rows) = (UInt32Array::from(key_rows), UInt32Array::from(value_rows));
        let column = |(place, column): (usize, &ArrayRef)| {
            take(column, if place < self.keys { &key_rows } else { &value_rows }, None).map_err(internal)
        };
        let columns = columns.iter().enumerate().map(column).collect::<Result<Vec<_>, _>>()?;
        Ok(Some((Arc::new(StringArray::from(states)), columns)))
    }

    fn state_of(&mut self, key: &[u8], one: Touched) -> &'static str {
        let rows = match &mut self.counts {
            None => one.added,
            Some(counts) => {
                let rows = counts.get(key).copied().unwrap_or(0) + one.added - one.removed;
                if rows == 0 {
                    counts.remove(key);
                } else {
                    counts.insert(key.into(), rows);
                }
                rows
            }
        };
        match (rows, one.added) {
            (0, _) => "delete",
            (1, 1) => "upsert",
            _ => "key_violation",
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::{Field, Int64Type, Schema};

    use super::*;

    /// Of each key: its state and value.
    fn version(upserts: &mut Upserts, rows: &[(i64, i64, i64)]) -> Vec<String> {
        let column = |of: fn(&(i64, i64, i64)) -> i64| -> ArrayRef {
            Arc::new(rows.iter().map(|row| Some(of(row))).collect::<Int64Array>())
        };
        let fields = ["k", "v"].map(|name| Field::new(name, DataType::Int64, true)).to_vec();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![column(|row| row.0), column(|row| row.1)]);
        let weights: Vec<i64> = rows.iter().map(|row| row.2).collect();
        upserts.push(Delta::new(batch.expect("two columns"), weights));
        let Some((states, columns)) = upserts.finish().expect("keys") else { return Vec::new() };
        let keys = columns[0].as_primitive::<Int64Type>();
        let values = columns[1].as_primitive::<Int64Type>();
        let value = |row| if values.is_null(row) { "-".to_owned() } else { values.value(row).to_string() };
        let states = states.as_string::<i32>();
        (0..states.len()).map(|row| format!("{} {} {}", keys.value(row), states.value(row), value(row))).collect()
    }

    #[test]
    fn a_version_upserts_deletes_or_violates_each_key() {
        let mut upserts = Upserts::new(1, false);
        assert_eq!(version(&mut upserts, &[(1, 10, 1), (2, 20, 1)]), ["1 upsert 10", "2 upsert 20"]);
        assert_eq!(version(&mut upserts, &[(1, 10, -1), (1, 11, 1), (2, 20, -1)]), ["1 upsert 11", "2 delete -"]);
        // A second row of the key comes, and goes again: which one is left is not in what changed.
        assert_eq!(version(&mut upserts, &[(1, 12, 1)]), ["1 key_violation -"]);
        assert_eq!(version(&mut upserts, &[(1, 12, -1)]), ["1 key_violation -"]);
        assert_eq!(version(&mut upserts, &[(1, 11, -1), (1, 13, 1)]), ["1 upsert 13"]);
        assert_eq!(version(&mut upserts, &[(3, 30, 2)]), ["3 key_violation -"]);
        assert_eq!(version(&mut upserts, &[(3, 30, -2), (1, 13, -1)]), ["1 delete -", "3 delete -"]);
        assert!(upserts.counts.as_ref().is_some_and(HashMap::is_empty));
    }

    #[test]
    fn a_unique_key_needs_no_counts() {
        let mut upserts = Upserts::new(1, true);
        assert_eq!(version(&mut upserts, &[(1, 11, 1), (1, 10, -1)]), ["1 upsert 11"]);
        assert_eq!(version(&mut upserts, &[(1, 11, -1)]), ["1 delete -"]);
    }
}
