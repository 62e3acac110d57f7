//! DISTINCT inside an aggregate: the values of each group with their counts; the aggregate below sees a value come when
//! its count becomes positive, and go when it no longer is.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::accumulators::{Accumulate, Results, Selected};
use crate::delta::RowKeys;
use crate::error::EngineError;
use crate::incremental::encoding::{StateReader, StateWriter};
use crate::incremental::{ByteMap, adjust, byte_map};

#[derive(Debug)]
pub(super) struct Distinct {
    keys: RowKeys,
    values: Vec<ByteMap<i64>>,
    inner: Box<dyn Accumulate>,
    rows: u64,
    bytes: u64,
    /// Group and key of what was changed, when that is noted.
    changed: Option<Vec<(u32, Box<[u8]>)>>,
}

/// Entries are the values, and those of the aggregate below; their keys begin with one of these.
const VALUE: u8 = 0;
const INNER: u8 = 1;

impl Distinct {
    pub(super) fn new(types: &[DataType], inner: Box<dyn Accumulate>) -> Result<Distinct, EngineError> {
        let keys = RowKeys::of_types(types).map_err(|error| EngineError::Graph(error.to_string()))?;
        Ok(Distinct { keys, values: Vec::new(), inner, rows: 0, bytes: 0, changed: None })
    }
}

impl Accumulate for Distinct {
    fn resize(&mut self, groups: usize) {
        self.values.resize_with(groups, byte_map);
        self.inner.resize(groups);
    }

    fn update(&mut self, arguments: &[ArrayRef], selected: &Selected) -> u64 {
        // What is behind the arguments follows from them.
        let width = self.keys.schema().fields().len();
        let keys = self.keys.encode(&arguments[..width], arguments[0].len());
        let mut crossed = Selected::default();
        for (group, row, weight) in selected.iter() {
            let key = keys.get(row);
            let before = adjust(&mut self.values[group], key, weight);
            let after = before + weight;
            if let Some(changed) = &mut self.changed {
                changed.push((group as u32, key.into()));
            }
            if before == 0 {
                self.rows += 1;
                self.bytes += key.len() as u64 + 32;
            }
            if after == 0 {
                self.rows -= 1;
                self.bytes -= key.len() as u64 + 32;
            }
            if (before > 0) != (after > 0) {
                crossed.groups.push(group as u32);
                crossed.rows.push(row as u32);
                crossed.weights.push(if after > 0 { 1 } else { -1 });
            }
        }
        selected.rows.len() as u64 + self.inner.update(arguments, &crossed)
    }

    fn results(&self, groups: &[u32]) -> Results {
        self.inner.results(groups)
    }

    fn clear(&mut self, group: u32) {
        let values = std::mem::replace(&mut self.values[group as usize], byte_map());
        self.rows -= values.len() as u64;
        self.bytes -= values.keys().map(|key| key.len() as u64 + 32).sum::<u64>();
        self.inner.clear(group);
    }

    fn save(&self, group: u32, writer: &mut StateWriter<'_>) {
        let values = &self.values[group as usize];
        writer.u64(values.len() as u64);
        for (key, count) in values {
            writer.bytes(key);
            writer.i64(*count);
        }
        self.inner.save(group, writer);
    }

    fn restore(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        for _ in 0..reader.u64()? {
            let key = reader.bytes()?;
            let count = reader.i64()?;
            self.rows += 1;
            self.bytes += key.len() as u64 + 32;
            self.values[group as usize].insert(key.into(), count);
        }
        self.inner.restore(group, reader)
    }

    fn state_size(&self) -> (u64, u64) {
        let (rows, bytes) = self.inner.state_size();
        (rows + self.rows, bytes + self.bytes)
    }

    fn slot_bytes(&self) -> u64 {
        self.inner.slot_bytes() + 32
    }

    fn has_entries(&self) -> bool {
        true
    }

    fn track(&mut self) {
        self.changed.get_or_insert_default();
        self.inner.track();
    }

    fn take_changes(&mut self, out: &mut dyn FnMut(u32, &[u8], i64)) {
        for (group, key) in self.changed.as_mut().map(std::mem::take).unwrap_or_default() {
            let count = self.values[group as usize].get(&key).copied().unwrap_or(0);
            out(group, &[&[VALUE][..], &*key].concat(), count);
        }
        self.inner.take_changes(&mut |group, key, count| out(group, &[&[INNER][..], key].concat(), count));
    }

    fn save_head(&self, group: u32, writer: &mut StateWriter<'_>) {
        self.inner.save_head(group, writer);
    }

    fn restore_head(&mut self, group: u32, reader: &mut StateReader<'_>) -> Result<(), EngineError> {
        self.inner.restore_head(group, reader)
    }

    fn restore_entry(&mut self, group: u32, key: &[u8], count: i64) {
        match key.split_first() {
            Some((&VALUE, key)) => {
                if adjust(&mut self.values[group as usize], key, count) == 0 {
                    self.rows += 1;
                    self.bytes += key.len() as u64 + 32;
                }
            }
            Some((_, key)) => self.inner.restore_entry(group, key, count),
            None => {}
        }
    }
}
