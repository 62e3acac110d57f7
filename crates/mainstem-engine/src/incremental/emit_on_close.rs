//! Holds rows until the watermark has reached the end of their window, or as long after it as is said, then gives them, for good.
//!
//! State: i64 newest end that is closed (i64::MIN: none yet) as the entry of tag 0, and held rows as entries of tag 1:
//! i64 window end, row bytes, i64 count. A change to a window that is closed cannot come, because late rows were taken out
//! before; should one come nevertheless it is left out and counted as late. A row without window end never closes, and is
//! left out as well.

use std::collections::BTreeMap;

use arrow::array::Array;
use arrow::datatypes::{DataType, SchemaRef};

use super::encoding::{StateReader, StateWriter};
use super::stateless::{keyed_delta, microseconds};
use super::{ByteMap, Context, Operate, adjust, byte_map};
use crate::delta::{Delta, RowKeys};
use crate::error::EngineError;

const KIND: u8 = 4;

#[derive(Debug)]
pub(super) struct EmitOnClose {
    schema: SchemaRef,
    keys: RowKeys,
    window_end: usize,
    /// How far the watermark has to be behind the end, less a microsecond.
    after_us: i64,
    held: BTreeMap<i64, ByteMap<i64>>,
    closed: i64,
    rows: u64,
    key_bytes: u64,
}

impl EmitOnClose {
    pub(super) fn new(schema: &SchemaRef, window_end: usize, after_us: i64) -> Result<EmitOnClose, EngineError> {
        let keys = RowKeys::new(schema).map_err(|error| EngineError::Graph(error.to_string()))?;
        if !matches!(schema.field(window_end).data_type(), DataType::Timestamp(..)) {
            return Err(EngineError::Graph("the end of a window is not a timestamp".to_owned()));
        }
        let schema = schema.clone();
        let (held, closed) = (BTreeMap::new(), i64::MIN);
        Ok(EmitOnClose { schema, keys, window_end, after_us, held, closed, rows: 0, key_bytes: 0 })
    }

    fn hold(&mut self, end: i64, key: &[u8], weight: i64) {
        let window = self.held.entry(end).or_insert_with(byte_map);
        let before = adjust(window, key, weight);
        if before == 0 {
            self.rows += 1;
            self.key_bytes += key.len() as u64;
        }
        if before + weight == 0 {
            self.rows -= 1;
            self.key_bytes -= key.len() as u64;
            if window.is_empty() {
                self.held.remove(&end);
            }
        }
    }
}

impl Operate for EmitOnClose {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let ends = microseconds(delta.rows.column(self.window_end));
        let keys = self.keys.encode(delta.rows.columns(), delta.len());
        for row in 0..delta.len() {
            if ends.is_null(row) || ends.value(row) <= self.closed {
                *context.late += delta.weights[row].unsigned_abs();
            } else {
                self.hold(ends.value(row), keys.get(row), delta.weights[row]);
            }
        }
        *context.touched += delta.len() as u64;
        Vec::new()
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        // An end is closed when the watermark is greater than the end and `after_us`.
        let closes = context.watermark.map(|watermark| watermark.saturating_sub(self.after_us.saturating_add(1)));
        let Some(watermark) = closes.filter(|watermark| *watermark > self.closed) else { return Vec::new() };
        self.closed = watermark;
        let closing = match watermark.checked_add(1) {
            Some(next) => {
                let later = self.held.split_off(&next);
                std::mem::replace(&mut self.held, later)
            }
            None => std::mem::take(&mut self.held),
        };
        let rows: Vec<(&[u8], i64)> = closing.values().flatten().map(|(key, weight)| (&**key, *weight)).collect();
        *context.touched += rows.len() as u64;
        self.rows -= rows.len() as u64;
        self.key_bytes -= rows.iter().map(|(key, _)| key.len() as u64).sum::<u64>();
        vec![keyed_delta(&self.keys, &rows, &self.schema)]
    }

    fn state_size(&self) -> (u64, u64) {
        (self.rows, self.key_bytes + self.rows * 32)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        writer.u8(0);
        writer.i64(self.closed);
        writer.end_entry();
        for (end, window) in &self.held {
            for (key, weight) in window {
                writer.u8(1);
                writer.i64(*end);
                writer.bytes(key);
                writer.i64(*weight);
                writer.end_entry();
            }
        }
        writer.finish();
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        while !reader.is_done() {
            match reader.u8()? {
                0 => self.closed = reader.i64()?,
                1 => {
                    let end = reader.i64()?;
                    let key = reader.bytes()?;
                    let weight = reader.i64()?;
                    self.hold(end, key, weight);
                }
                tag => return Err(EngineError::State(format!("held rows have no entry of tag {tag}"))),
            }
        }
        Ok(())
    }
}
