//! Holds rows until the watermark has reached the end of their window, then gives them, for good.
//!
//! State: i64 watermark of the last version (i64::MIN: none yet) as the entry of tag 0, and held rows as entries of tag 1:
//! i64 window end, row bytes, i64 count. In the space: 0 -> i64 watermark; 1, window end, row bytes -> i64 count. A change to a window that is closed cannot come, because late rows were taken out
//! before; should one come nevertheless it is left out and counted as late. A row without window end never closes, and is
//! left out as well.

use std::collections::{BTreeMap, HashMap};

use arrow::array::Array;
use arrow::datatypes::{DataType, SchemaRef};

use super::encoding::{StateReader, StateWriter};
use super::stateless::{keyed_delta, microseconds};
use super::units::Residence;
use super::{ByteMap, Context, Operate, adjust, byte_map};
use crate::delta::{Delta, RowKeys};
use crate::error::EngineError;
use crate::state::{Space, count_of, from_ordered_i64, ordered_i64};

const KIND: u8 = 4;
/// What entries of the space begin with.
const CLOSED: u8 = 0;
const HELD: u8 = 1;

#[derive(Debug)]
pub(super) struct EmitOnClose {
    schema: SchemaRef,
    keys: RowKeys,
    window_end: usize,
    held: BTreeMap<i64, Window>,
    closed: i64,
    rows: u64,
    key_bytes: u64,
    residence: Residence,
    /// No window in the space ends before this.
    stored_from: i64,
}

/// Rows that are held, or, with a space, those of them that are in memory.
#[derive(Debug)]
struct Window {
    rows: ByteMap<i64>,
    used: u32,
}

impl EmitOnClose {
    pub(super) fn new(schema: &SchemaRef, window_end: usize) -> Result<EmitOnClose, EngineError> {
        let keys = RowKeys::new(schema).map_err(|error| EngineError::Graph(error.to_string()))?;
        if !matches!(schema.field(window_end).data_type(), DataType::Timestamp(..)) {
            return Err(EngineError::Graph("the end of a window is not a timestamp".to_owned()));
        }
        Ok(EmitOnClose {
            schema: schema.clone(),
            keys,
            window_end,
            held: BTreeMap::new(),
            closed: i64::MIN,
            rows: 0,
            key_bytes: 0,
            residence: Residence::default(),
            stored_from: i64::MAX,
        })
    }

    /// Adds to the weight of a row. Gives its weight then.
    fn hold(&mut self, end: i64, key: &[u8], weight: i64) -> i64 {
        let window = self.held.entry(end).or_insert_with(|| Window { rows: byte_map(), used: 0 });
        window.used = self.residence.now;
        let before = adjust(&mut window.rows, key, weight);
        if before == 0 {
            self.rows += 1;
            self.key_bytes += key.len() as u64;
        }
        if before + weight == 0 {
            self.rows -= 1;
            self.key_bytes -= key.len() as u64;
            if window.rows.is_empty() {
                self.held.remove(&end);
            }
        }
        before + weight
    }

    fn forget(&mut self, window: &Window) {
        self.rows -= window.rows.len() as u64;
        self.key_bytes -= window.rows.keys().map(|key| key.len() as u64).sum::<u64>();
    }

    /// Brings rows that a delta touches into memory.
    fn load(&mut self, rows: &[(i64, &[u8])], context: &mut Context<'_>) {
        let Some(space) = context.space.filter(|_| self.residence.is_partial) else { return };
        let is_here = |end: &i64, key: &[u8]| self.held.get(end).is_some_and(|window| window.rows.contains_key(key));
        let missing = rows.iter().filter(|(end, key)| !is_here(end, key));
        let mut missing: Vec<(i64, &[u8])> = missing.copied().collect();
        missing.sort_unstable();
        missing.dedup();
        let entries: Vec<Vec<u8>> = missing.iter().map(|(end, key)| entry(*end, key)).collect();
        let found = context.loaded(space.get_many(entries.iter().map(Vec::as_slice)));
        space.root().count_loaded(found.len() as u64);
        for ((end, key), value) in missing.into_iter().zip(found) {
            let count = context.loaded(value.map_or(Ok(0), |value| count_of(&value)));
            if count != 0 {
                self.hold(end, key, count);
            }
        }
    }

    /// Takes the rows of windows that end at or before the watermark out of memory and out of the space.
    fn close(&mut self, watermark: i64, context: &mut Context<'_>) -> Vec<(Box<[u8]>, i64)> {
        let mut closing = self.held.split_off(&watermark.saturating_add(1));
        std::mem::swap(&mut closing, &mut self.held);
        closing.values().for_each(|window| self.forget(window));
        let Some(space) = context.space else {
            return closing.into_values().flat_map(|window| window.rows).collect();
        };
        space.put(&[CLOSED], &watermark.to_le_bytes());
        if watermark < self.stored_from {
            return Vec::new();
        }
        let (mut rows, mut failed) = (Vec::new(), Ok(()));
        self.stored_from = i64::MAX;
        let scanned = space.scan_from(&[HELD], &mut |entry, value| {
            let (end, count) = (entry.get(1..).and_then(from_ordered_i64), count_of(value));
            match (end, count) {
                (Some(end), _) if end > watermark => {
                    self.stored_from = end;
                    false
                }
                (Some(_), Ok(count)) => {
                    rows.push((Box::from(&entry[9..]), count, Vec::from(entry)));
                    true
                }
                _ => {
                    failed = Err(EngineError::State("a held row cannot be read".to_owned()));
                    false
                }
            }
        });
        context.loaded(scanned.and(failed));
        let taken = rows.into_iter().map(|(row, count, entry)| {
            space.delete(&entry);
            (row, count)
        });
        taken.collect()
    }
}

fn entry(end: i64, key: &[u8]) -> Vec<u8> {
    [&[HELD][..], ordered_i64(end).as_slice(), key].concat()
}

impl Operate for EmitOnClose {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let ends = microseconds(delta.rows.column(self.window_end));
        let keys = self.keys.encode(delta.rows.columns(), delta.len());
        let is_late = |row: usize| ends.is_null(row) || ends.value(row) <= self.closed;
        let rows: Vec<usize> = (0..delta.len()).filter(|row| !is_late(*row)).collect();
        let late = (0..delta.len()).filter(|row| is_late(*row));
        *context.late += late.map(|row| delta.weights[row].unsigned_abs()).sum::<u64>();
        let places: Vec<(i64, &[u8])> = rows.iter().map(|row| (ends.value(*row), keys.get(*row))).collect();
        self.load(&places, context);
        let mut changed: HashMap<(i64, &[u8]), i64> = HashMap::new();
        for (place, row) in places.into_iter().zip(rows) {
            let count = self.hold(place.0, place.1, delta.weights[row]);
            changed.insert(place, count);
        }
        if let Some(space) = context.space {
            for ((end, key), count) in changed {
                self.stored_from = self.stored_from.min(end);
                space.put_count(&entry(end, key), count);
            }
        }
        *context.touched += delta.len() as u64;
        Vec::new()
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        self.residence.tick();
        let Some(watermark) = context.watermark.filter(|watermark| *watermark > self.closed) else { return Vec::new() };
        self.closed = watermark;
        let closed = self.close(watermark, context);
        let rows: Vec<(&[u8], i64)> = closed.iter().map(|(key, weight)| (&**key, *weight)).collect();
        *context.touched += rows.len() as u64;
        vec![keyed_delta(&self.keys, &rows, &self.schema)]
    }

    fn uses_space(&self) -> bool {
        true
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.residence.attach(space);
        if self.residence.is_partial {
            self.stored_from = i64::MIN;
        }
        if let Some(closed) = space.get(&[CLOSED])? {
            self.closed = count_of(&closed)?;
        }
        Ok(())
    }

    fn shrink(&mut self, bytes: u64) -> u64 {
        let (now, rows, held) = (self.residence.now, self.rows, self.state_size().1);
        let ages = self.held.values().map(|window| now.wrapping_sub(window.used));
        let mut eviction = self.residence.choose(held, bytes, ages);
        let mut gone = Vec::new();
        // Of equally old windows those go first that close last.
        for (end, window) in self.held.iter().rev() {
            if eviction.takes(now.wrapping_sub(window.used)) {
                gone.push(*end);
            }
        }
        for end in gone {
            if let Some(window) = self.held.remove(&end) {
                self.forget(&window);
            }
        }
        rows - self.rows
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
            for (key, weight) in &window.rows {
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
