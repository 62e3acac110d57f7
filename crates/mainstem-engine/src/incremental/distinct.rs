//! Each row once, as long as it is there at all.
//!
//! State: the count of each row. Entry: row bytes, i64 count; in the space row bytes -> i64 count.

use arrow::datatypes::SchemaRef;

use super::encoding::{StateReader, StateWriter};
use super::stateless::keyed_delta;
use super::units::Residence;
use super::{ByteMap, Context, Operate, byte_map};
use crate::delta::{Delta, EncodedRows, RowKeys};
use crate::error::EngineError;
use crate::state::{Space, count_of};

const KIND: u8 = 2;

#[derive(Debug)]
pub(super) struct Distinct {
    schema: SchemaRef,
    keys: RowKeys,
    counts: ByteMap<Counted>,
    /// Rows touched since the last version, and whether they were there then.
    before: ByteMap<bool>,
    key_bytes: u64,
    residence: Residence,
}

/// Of a row in memory. While a version touches it, it stays even with a count of zero.
#[derive(Debug, Default)]
struct Counted {
    count: i64,
    used: u32,
}

impl Distinct {
    pub(super) fn new(schema: &SchemaRef) -> Result<Distinct, EngineError> {
        let keys = RowKeys::new(schema).map_err(|error| EngineError::Graph(error.to_string()))?;
        Ok(Distinct {
            schema: schema.clone(),
            keys,
            counts: byte_map(),
            before: byte_map(),
            key_bytes: 0,
            residence: Residence::default(),
        })
    }

    fn put(&mut self, key: &[u8], count: i64) {
        self.key_bytes += key.len() as u64;
        self.counts.insert(key.into(), Counted { count, used: self.residence.now });
    }

    fn load(&mut self, keys: &EncodedRows, context: &mut Context<'_>) {
        let Some(space) = context.space.filter(|_| self.residence.is_partial) else { return };
        let missing: Vec<&[u8]> = keys.iter().filter(|key| !self.counts.contains_key(*key)).collect();
        let found = context.loaded(space.get_many(missing.iter().copied()));
        space.root().count_loaded(found.len() as u64);
        for (key, value) in missing.into_iter().zip(found) {
            let count = context.loaded(value.map_or(Ok(0), |value| count_of(&value)));
            if count != 0 && !self.counts.contains_key(key) {
                self.put(key, count);
            }
        }
    }
}

impl Operate for Distinct {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let keys = self.keys.encode(delta.rows.columns(), delta.len());
        self.load(&keys, context);
        for (key, weight) in keys.iter().zip(delta.weights.iter()) {
            if !self.counts.contains_key(key) {
                self.put(key, 0);
            }
            let counted = self.counts.get_mut(key).expect("it was put there");
            if !self.before.contains_key(key) {
                self.before.insert(key.into(), counted.count > 0);
            }
            counted.count += weight;
            counted.used = self.residence.now;
        }
        *context.touched += delta.len() as u64;
        Vec::new()
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        let before = std::mem::replace(&mut self.before, byte_map());
        *context.touched += before.len() as u64;
        let mut changes: Vec<(&[u8], i64)> = Vec::new();
        for (key, was_there) in &before {
            let count = self.counts.get(key).map_or(0, |counted| counted.count);
            if let Some(space) = context.space {
                space.put_count(key, count);
            }
            if count == 0 {
                self.key_bytes -= self.counts.remove(key).map_or(0, |_| key.len() as u64);
            }
            if (count > 0) != *was_there {
                changes.push((key, if count > 0 { 1 } else { -1 }));
            }
        }
        self.residence.tick();
        vec![keyed_delta(&self.keys, &changes, &self.schema)]
    }

    fn uses_space(&self) -> bool {
        true
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.residence.attach(space);
        Ok(())
    }

    fn shrink(&mut self, bytes: u64) -> u64 {
        let (now, held) = (self.residence.now, self.state_size().1);
        let ages = self.counts.values().map(|counted| now.wrapping_sub(counted.used));
        let mut eviction = self.residence.choose(held, bytes, ages);
        let (rows, key_bytes) = (self.counts.len(), &mut self.key_bytes);
        self.counts.retain(|key, counted| {
            let goes = eviction.takes(now.wrapping_sub(counted.used));
            *key_bytes -= if goes { key.len() as u64 } else { 0 };
            !goes
        });
        (rows - self.counts.len()) as u64
    }

    fn state_size(&self) -> (u64, u64) {
        let rows = self.counts.len() as u64;
        (rows, self.key_bytes + rows * 40)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        for (key, counted) in &self.counts {
            writer.bytes(key);
            writer.i64(counted.count);
            writer.end_entry();
        }
        writer.finish();
    }

    fn restore_keys(&mut self, section: &[u8], is_kept: &dyn Fn(&[u8]) -> bool) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        while !reader.is_done() {
            let key = reader.bytes()?;
            let count = reader.i64()?;
            if is_kept(key) {
                self.put(key, count);
            }
        }
        Ok(())
    }
}
