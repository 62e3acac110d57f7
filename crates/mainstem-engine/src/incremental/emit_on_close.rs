//! Holds rows until the watermark has reached the end of their window, or as long after it as is said, then gives them.
//! Where lateness is allowed, rows of a window that is closed still change what was given, until the horizon is as far.
//!
//! With early results, what is held is also given when the clock enters another interval of their length, and held no more:
//! what is held is always what was not given yet.
//!
//! State: i64 newest end that is closed (i64::MIN: none yet) as the entry of tag 0, the newest end behind the horizon as that of
//! tag 2 where it is another, the interval of the last early results as that of tag 3, and held rows as entries of tag 1: i64
//! window end, row bytes, i64 count. In the space: 0 -> i64 end; 2 -> i64 end; 3 -> i64 interval; 1, window end, row bytes ->
//! i64 count. A change to a window behind the horizon cannot come, because late rows were taken out before; should one come
//! nevertheless (of a table that the stream is joined with) it is left out and counted as late. A row without window end never
//! closes, and is left out as well.

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
const HORIZON: u8 = 2;
const INTERVAL: u8 = 3;

#[derive(Debug)]
pub(super) struct EmitOnClose {
    schema: SchemaRef,
    keys: RowKeys,
    window_end: usize,
    /// How far the watermark has to be behind the end, less a microsecond.
    after_us: i64,
    held: BTreeMap<i64, Window>,
    closed: i64,
    horizon: i64,
    early_us: Option<i64>,
    /// Which interval of that length the clock was in.
    interval: Option<i64>,
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
    pub(super) fn new(
        schema: &SchemaRef,
        window_end: usize,
        after_us: i64,
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
            after_us,
            held: BTreeMap::new(),
            closed,
            horizon: closed,
            early_us,
            interval: None,
            rows: 0,
            key_bytes: 0,
            residence: Residence::default(),
            stored_from: i64::MAX,
        })
    }

    /// Whether it is time for early results.
    fn enters_interval(&mut self, context: &Context<'_>) -> bool {
        let interval = self.early_us.zip(context.times.now_us).map(|(early_us, now_us)| now_us.div_euclid(early_us));
        let Some(interval) = interval.filter(|_| interval > self.interval) else { return false };
        self.interval = Some(interval);
        note(INTERVAL, interval, context);
        true
    }

    /// What is closed, and what is behind the horizon. That is noted where it is, or was, another.
    fn move_to(&mut self, closed: Option<i64>, horizon: Option<i64>, context: &Context<'_>) {
        let was_apart = self.horizon != self.closed;
        if let Some(closed) = closed {
            self.closed = closed;
            note(CLOSED, closed, context);
        }
        let Some(horizon) = horizon.filter(|horizon| *horizon > self.horizon) else { return };
        self.horizon = horizon;
        if was_apart || horizon != self.closed {
            note(HORIZON, horizon, context);
        }
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

    /// Takes the rows of windows that end at or before this out of memory and out of the space.
    fn take(&mut self, until: i64, context: &mut Context<'_>) -> Vec<(Box<[u8]>, i64)> {
        let later = until.checked_add(1).map(|next| self.held.split_off(&next)).unwrap_or_default();
        let closing = std::mem::replace(&mut self.held, later);
        closing.values().for_each(|window| self.forget(window));
        let Some(space) = context.space else {
            return closing.into_values().flat_map(|window| window.rows).collect();
        };
        if until < self.stored_from {
            return Vec::new();
        }
        let (mut rows, mut failed) = (Vec::new(), Ok(()));
        self.stored_from = i64::MAX;
        let scanned = space.scan_from(&[HELD], &mut |entry, value| {
            if entry.first() != Some(&HELD) {
                return false;
            }
            let (end, count) = (entry.get(1..).and_then(from_ordered_i64), count_of(value));
            match (end, count) {
                (Some(end), _) if end > until => {
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

fn note(tag: u8, value: i64, context: &Context<'_>) {
    if let Some(space) = context.space {
        space.put(&[tag], &value.to_le_bytes());
    }
}

impl Operate for EmitOnClose {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let ends = microseconds(delta.rows.column(self.window_end));
        let keys = self.keys.encode(delta.rows.columns(), delta.len());
        let (mut revised, mut rows) = (Vec::new(), Vec::new());
        for row in 0..delta.len() {
            if ends.is_null(row) || ends.value(row) <= self.horizon {
                *context.late += delta.weights[row].unsigned_abs();
            } else if ends.value(row) <= self.closed {
                revised.push(row as u32);
            } else {
                rows.push(row);
            }
        }
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
        if revised.is_empty() { Vec::new() } else { vec![delta.take(&revised).with_schema(&self.schema)] }
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        self.residence.tick();
        let is_early = self.enters_interval(context);
        // An end is closed when the watermark is greater than the end and `after_us`.
        let closes = |watermark_us: Option<i64>| Some(watermark_us?.saturating_sub(self.after_us.saturating_add(1)));
        let horizon = closes(context.times.horizon_us);
        let watermark = closes(context.times.watermark_us).filter(|watermark| *watermark > self.closed);
        self.move_to(watermark, horizon, context);
        let until = match (is_early, watermark) {
            (false, None) => return Vec::new(),
            (false, Some(watermark)) => watermark,
            (true, _) => i64::MAX,
        };
        let given = self.take(until, context);
        let rows: Vec<(&[u8], i64)> = given.iter().map(|(key, weight)| (&**key, *weight)).collect();
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
            self.horizon = self.closed;
        }
        if let Some(horizon) = space.get(&[HORIZON])? {
            self.horizon = count_of(&horizon)?;
        }
        if let Some(interval) = space.get(&[INTERVAL])? {
            self.interval = Some(count_of(&interval)?);
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
