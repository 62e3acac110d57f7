//! Each row once, as long as it is there at all.
//!
//! State: the count of each row. Entry: row bytes, i64 count.

use arrow::datatypes::SchemaRef;

use super::encoding::{StateReader, StateWriter};
use super::stateless::keyed_delta;
use super::{ByteMap, Context, Operate, adjust, byte_map};
use crate::delta::{Delta, RowKeys};
use crate::error::EngineError;

const KIND: u8 = 2;

#[derive(Debug)]
pub(super) struct Distinct {
    schema: SchemaRef,
    keys: RowKeys,
    counts: ByteMap<i64>,
    /// Rows touched since the last version, and whether they were there then.
    before: ByteMap<bool>,
    key_bytes: u64,
}

impl Distinct {
    pub(super) fn new(schema: &SchemaRef) -> Result<Distinct, EngineError> {
        let keys = RowKeys::new(schema).map_err(|error| EngineError::Graph(error.to_string()))?;
        Ok(Distinct { schema: schema.clone(), keys, counts: byte_map(), before: byte_map(), key_bytes: 0 })
    }
}

impl Operate for Distinct {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let keys = self.keys.encode(delta.rows.columns(), delta.len());
        for (key, weight) in keys.iter().zip(delta.weights.iter()) {
            let count = adjust(&mut self.counts, key, *weight);
            if !self.before.contains_key(key) {
                self.before.insert(key.into(), count > 0);
            }
            self.key_bytes += if count == 0 { key.len() as u64 } else { 0 };
            self.key_bytes -= if count + weight == 0 { key.len() as u64 } else { 0 };
        }
        *context.touched += delta.len() as u64;
        Vec::new()
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        let before = std::mem::replace(&mut self.before, byte_map());
        *context.touched += before.len() as u64;
        let changes: Vec<(&[u8], i64)> = before
            .iter()
            .filter_map(|(key, was_there)| {
                let is_there = self.counts.get(key).is_some_and(|count| *count > 0);
                (is_there != *was_there).then_some((&**key, if is_there { 1 } else { -1 }))
            })
            .collect();
        vec![keyed_delta(&self.keys, &changes, &self.schema)]
    }

    fn state_size(&self) -> (u64, u64) {
        let rows = self.counts.len() as u64;
        (rows, self.key_bytes + rows * 32)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        for (key, count) in &self.counts {
            writer.bytes(key);
            writer.i64(*count);
            writer.end_entry();
        }
        writer.finish();
    }

    fn restore_keys(&mut self, section: &[u8], is_kept: &dyn Fn(&[u8]) -> bool) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        while !reader.is_done() {
            let key = reader.bytes()?;
            let count = reader.i64()?;
            if !is_kept(key) {
                continue;
            }
            self.key_bytes += key.len() as u64;
            self.counts.insert(key.into(), count);
        }
        Ok(())
    }
}
