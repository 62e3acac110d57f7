//! Holds rows until the watermark has reached the end of their window, then gives them.
//! Where lateness is allowed, rows of a window that is closed still change what was given, until the horizon has reached its
//! end.
//!
//! With early results, what is held is also given when the clock enters another interval of their length, and held no more:
//! what is held is always what was not given yet.
//!
//! State: i64 watermark of the last version (i64::MIN: none yet) as the entry of tag 0, the horizon as that of tag 2 where it
//! is another, the interval of the last early results as that of tag 3, and held rows as entries of tag 1: i64 window end, row bytes, i64 count. A change to a window behind the horizon
//! cannot come, because late rows were taken out before; should one come nevertheless it is left out and counted as late. A row
//! without window end never closes, and is left out as well.

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
    held: BTreeMap<i64, ByteMap<i64>>,
    closed: i64,
    horizon: i64,
    early_us: Option<i64>,
    /// Which interval of that length the clock was in.
    interval: Option<i64>,
    rows: u64,
    key_bytes: u64,
}

impl EmitOnClose {
    pub(super) fn new(
        schema: &SchemaRef,
        window_end: usize,
        early_us: Option<i64>,
    ) -> Result<EmitOnClose, EngineError> {
        let keys = RowKeys::new(schema).map_err(|error| EngineError::Graph(error.to_string()))?;
        if !matches!(schema.field(window_end).data_type(), DataType::Timestamp(..)) {
            return Err(EngineError::Graph("the end of a window is not a timestamp".to_owned()));
        }
        let (schema, closed) = (schema.clone(), i64::MIN);
        Ok(EmitOnClose {
            schema,
            keys,
            window_end,
            held: BTreeMap::new(),
            closed,
            horizon: closed,
            early_us,
            interval: None,
            rows: 0,
            key_bytes: 0,
        })
    }

    /// Whether it is time for early results.
    fn enters_interval(&mut self, now_us: Option<i64>) -> bool {
        let interval = self.early_us.zip(now_us).map(|(early_us, now_us)| now_us.div_euclid(early_us));
        let is_new = interval > self.interval;
        self.interval = self.interval.max(interval);
        is_new
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
        let mut revised = Vec::new();
        for row in 0..delta.len() {
            if ends.is_null(row) || ends.value(row) <= self.horizon {
                *context.late += delta.weights[row].unsigned_abs();
            } else if ends.value(row) <= self.closed {
                revised.push(row as u32);
            } else {
                self.hold(ends.value(row), keys.get(row), delta.weights[row]);
            }
        }
        *context.touched += delta.len() as u64;
        if revised.is_empty() { Vec::new() } else { vec![delta.take(&revised).with_schema(&self.schema)] }
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        self.horizon = self.horizon.max(context.times.horizon_us.unwrap_or(i64::MIN));
        let is_early = self.enters_interval(context.times.now_us);
        let watermark = context.times.watermark_us.filter(|watermark| *watermark > self.closed);
        self.closed = watermark.unwrap_or(self.closed);
        let closing = match (is_early, watermark.map(|watermark| watermark.checked_add(1))) {
            (false, None) => return Vec::new(),
            (false, Some(Some(next))) => {
                let later = self.held.split_off(&next);
                std::mem::replace(&mut self.held, later)
            }
            (true, _) | (_, Some(None)) => std::mem::take(&mut self.held),
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
        if self.horizon != self.closed {
            writer.u8(2);
            writer.i64(self.horizon);
            writer.end_entry();
        }
        if let Some(interval) = self.interval {
            writer.u8(3);
            writer.i64(interval);
            writer.end_entry();
        }
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
                0 => {
                    self.closed = reader.i64()?;
                    self.horizon = self.closed;
                }
                2 => self.horizon = reader.i64()?,
                3 => self.interval = Some(reader.i64()?),
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
