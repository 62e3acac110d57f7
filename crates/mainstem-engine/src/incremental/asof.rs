//! Each left row with the nearest right row in time that has equal keys.
//!
//! Words: the rows of a key stand on a *timeline* in the order of their time, then of the whole row. The rows of one time are its
//! *moment*; the first of them stands for the moment, the others only wait. A moment *reaches* the left rows whose nearest moment
//! it is.
//!
//! A version is applied in an order in which few rows change twice: left rows that go, moments that go, moments that come
//! (those first that reach furthest), left rows that come. A changed moment touches only the left rows that it reaches or
//! reached; a left row costs one search. What cancels within a version is not given.
//!
//! State entry: key bytes, u8 side (0 left, 1 right), ordered bytes as in `top_n`, i64 count; in the space side, key, ordered
//! bytes -> i64 count. The timelines of a key are a unit: in memory with all their rows or not at all. Of rows that are
//! forgotten the space also has 2, time, key -> nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use arrow::array::{Array, ArrayRef, Int64Array, new_null_array};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::SchemaRef;
use mainstem_sql::{Forget, Nearest};

use super::encoding::{StateReader, StateWriter};
use super::stateless::of_type;
use super::top_n::{ordered_bytes, row_of};
use super::units::Residence;
use super::{ByteMap, Context, Operate, adjust, byte_map};
use crate::delta::{Delta, RowKeys, batch_of};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, evaluate_all};
use crate::state::{Space, count_of};

const KIND: u8 = 8;
/// Entries of the space that say what is due begin with this.
const DUE: u8 = 2;
/// Left rows with their partners that are built at once.
const PAIRS_MAX: usize = 64 * 1024;

/// What the operator is made of.
#[derive(Debug)]
pub(super) struct AsOfParts {
    pub(super) is_outer: bool,
    pub(super) nearest: Nearest,
    /// Input schema, key expressions and time of each side.
    pub(super) sides: [(SchemaRef, Vec<CompiledScalar>, CompiledScalar); 2],
}

#[derive(Debug)]
pub(super) struct AsOf {
    schema: SchemaRef,
    is_outer: bool,
    nearest: Nearest,
    sides: [Side; 2],
    units: ByteMap<Unit>,
    /// This version's changes by key, each side's by ordered bytes.
    pending: ByteMap<[ByteMap<i64>; 2]>,
    rows: u64,
    bytes: u64,
    /// How long after their time left rows are settled, and earlier moments of no more use, if they are forgotten then.
    forget_after_us: Option<i64>,
    /// The times of rows in memory, with their keys.
    due: BTreeSet<(Box<[u8]>, Box<[u8]>)>,
    /// The space may have rows that are due.
    is_due_stored: bool,
    residence: Residence,
}

/// What is under a key. With a space both timelines may be empty: then it is known that there is nothing.
#[derive(Debug, Default)]
struct Unit {
    timelines: [Timeline; 2],
    used: u32,
}

/// Memory that a key takes beside its bytes, about.
const UNIT_BYTES: u64 = 80;
/// Memory that a row takes beside its bytes, about.
const ROW_BYTES: u64 = 24;

#[derive(Debug)]
struct Side {
    schema: SchemaRef,
    /// The keys, then the time.
    expressions: Vec<CompiledScalar>,
    key_keys: RowKeys,
    time_keys: RowKeys,
    row_keys: RowKeys,
}

/// Rows of one side and key by their ordered bytes.
type Timeline = BTreeMap<Box<[u8]>, i64>;

/// Ordered bytes of a row with the change of its count.
type Change<'a> = (&'a [u8], i64);

/// Changes of the output: a left row and the right row beside it, none for nulls.
type Changes = hashbrown::HashMap<(Box<[u8]>, Option<Box<[u8]>>), i64, ahash::RandomState>;

impl AsOf {
    pub(super) fn new(schema: &SchemaRef, parts: AsOfParts) -> Result<AsOf, EngineError> {
        let [left, right] = parts.sides;
        let types = |side: &(SchemaRef, Vec<CompiledScalar>, CompiledScalar)| {
            side.1.iter().chain([&side.2]).map(|key| key.data_type().clone()).collect::<Vec<_>>()
        };
        if types(&left) != types(&right) {
            let message = format!("a join in time compares {:?} with {:?}", types(&left), types(&right));
            return Err(EngineError::Graph(message));
        }
        Ok(AsOf {
            schema: schema.clone(),
            is_outer: parts.is_outer,
            nearest: parts.nearest,
            sides: [Side::new(left)?, Side::new(right)?],
            units: byte_map(),
            pending: byte_map(),
            rows: 0,
            bytes: 0,
            forget_after_us: None,
            due: BTreeSet::new(),
            is_due_stored: false,
            residence: Residence::default(),
        })
    }

    /// The rows of a key.
    fn timelines(&self, key: &[u8]) -> Option<&[Timeline; 2]> {
        self.units.get(key).map(|unit| &unit.timelines)
    }

    /// Brings the rows of a key into memory.
    fn load(&mut self, key: &[u8], context: &mut Context<'_>) {
        if let Some(unit) = self.units.get_mut(key) {
            unit.used = self.residence.now;
            return;
        }
        let Some(space) = context.space.filter(|_| self.residence.is_partial) else { return };
        self.open(key);
        for side in 0..2 {
            let mut failed = Ok(());
            let scanned = space.scan(&prefix(side, key), &mut |row, count| match count_of(count) {
                Ok(count) => {
                    self.store(key, side, row, count);
                }
                Err(error) => failed = Err(error),
            });
            context.loaded(scanned.and(failed));
        }
        space.root().count_loaded(1);
    }

    fn open(&mut self, key: &[u8]) -> &mut Unit {
        let (bytes, used) = (&mut self.bytes, self.residence.now);
        self.units.entry_ref(key).or_insert_with(|| {
            *bytes += key.len() as u64 + UNIT_BYTES;
            Unit { used, ..Unit::default() }
        })
    }

    /// Drops a key that has no rows, unless it must be known that it has none.
    fn close(&mut self, key: &[u8]) {
        let is_empty = |unit: &Unit| unit.timelines.iter().all(BTreeMap::is_empty);
        if !self.residence.is_partial && self.units.get(key).is_some_and(is_empty) {
            self.units.remove(key);
            self.bytes -= key.len() as u64 + UNIT_BYTES;
        }
    }

    /// Adds to the count of a row. Gives its count then.
    fn store(&mut self, key: &[u8], side: usize, ordered: &[u8], weight: i64) -> i64 {
        let timeline = &mut self.open(key).timelines[side];
        let before = timeline.get(ordered).copied().unwrap_or(0);
        let size = ordered.len() as u64 + ROW_BYTES;
        match (before, before + weight) {
            (0, 0) => {}
            (0, count) => {
                timeline.insert(ordered.into(), count);
                self.rows += 1;
                self.bytes += size;
                if self.forget_after_us.is_some() {
                    self.due.insert((time_of(ordered).into(), key.into()));
                }
            }
            (_, 0) => {
                timeline.remove(ordered);
                self.rows -= 1;
                self.bytes -= size;
            }
            (_, count) => {
                timeline.insert(ordered.into(), count);
            }
        }
        before + weight
    }

    /// Changes the count of a row, in memory and in the space.
    fn change(&mut self, key: &[u8], side: usize, ordered: &[u8], weight: i64, space: Option<&Space>) {
        let count = self.store(key, side, ordered, weight);
        let Some(space) = space else { return };
        space.put_count(&[&prefix(side, key), ordered].concat(), count);
        if self.forget_after_us.is_some() && count == weight {
            space.put(&[&[DUE][..], time_of(ordered), key].concat(), &(time_of(ordered).len() as u32).to_le_bytes());
            self.is_due_stored = true;
        }
    }

    /// The changes of one key.
    fn advance(&mut self, key: &[u8], [left, right]: [ByteMap<i64>; 2], out: &mut Changes, context: &mut Context<'_>) {
        *context.touched += (left.len() + right.len()) as u64;
        for (row, weight) in left.iter().filter(|(_, weight)| **weight < 0) {
            self.give(key, row, *weight, out);
            self.change(key, 0, row, *weight, context.space);
        }
        let mut rows: Vec<Change<'_>> = right.iter().map(|(row, weight)| (&**row, *weight)).collect();
        rows.sort_unstable();
        let mut moments: Vec<&[Change<'_>]> = rows.chunk_by(|one, next| time_of(one.0) == time_of(next.0)).collect();
        if !self.is_backward() {
            moments.reverse();
        }
        let only_goes = |moment: &&&[Change<'_>]| moment.iter().all(|(_, weight)| *weight < 0);
        for moment in moments.iter().filter(only_goes) {
            self.change_moment(key, moment, out, context);
        }
        for moment in moments.iter().rev().filter(|moment| !only_goes(moment)) {
            self.change_moment(key, moment, out, context);
        }
        for (row, weight) in left.iter().filter(|(_, weight)| **weight > 0) {
            self.give(key, row, *weight, out);
            self.change(key, 0, row, *weight, context.space);
        }
    }

    fn is_backward(&self) -> bool {
        matches!(self.nearest, Nearest::AtOrBefore | Nearest::Before)
    }

    /// A left row with its partner as it is now.
    fn give(&self, key: &[u8], left: &[u8], weight: i64, out: &mut Changes) {
        let partner = self.timelines(key).and_then(|timelines| self.partner(&timelines[1], time_of(left)));
        self.add(out, left, partner, weight);
    }

    fn add(&self, out: &mut Changes, left: &[u8], partner: Option<&[u8]>, weight: i64) {
        if partner.is_some() || self.is_outer {
            let entry = out.entry((row_of(left).into(), partner.map(|right| row_of(right).into()))).or_default();
            *entry += weight;
        }
    }

    /// Changes the counts of right rows of one moment, and gives anew the left rows that it reaches.
    fn change_moment(&mut self, key: &[u8], rows: &[Change<'_>], out: &mut Changes, context: &mut Context<'_>) {
        let Some(time) = rows.first().map(|(row, _)| time_of(row)) else { return };
        let before = self.moment(key, time).map(<[u8]>::to_vec);
        for (row, weight) in rows {
            self.change(key, 1, row, *weight, context.space);
        }
        let after = self.moment(key, time).map(<[u8]>::to_vec);
        if before == after {
            return;
        }
        let Some([left, right]) = self.timelines(key) else { return };
        // Which moment reaches the same rows while this one is not there.
        let without = match self.is_backward() {
            true => last_below(right, time),
            false => first_above(right, time),
        };
        let without = without.map(time_of).and_then(|time| first_of(right, time));
        let (before, after) = (before.as_deref().or(without), after.as_deref().or(without));
        for (row, count) in left.range::<Box<[u8]>, _>(self.reach(right, time)) {
            *context.touched += 1;
            self.add(out, row, before, -count);
            self.add(out, row, after, *count);
        }
    }

    fn moment(&self, key: &[u8], time: &[u8]) -> Option<&[u8]> {
        first_of(&self.timelines(key)?[1], time)
    }

    /// The left rows that a moment reaches, as long as it is there. `right` may have it or not.
    fn reach(&self, right: &Timeline, time: &[u8]) -> (Bound<Box<[u8]>>, Bound<Box<[u8]>>) {
        let neighbour = match self.is_backward() {
            true => first_above(right, time).map(time_of),
            false => last_below(right, time).map(time_of),
        };
        // Rows of a time begin with its bytes: below them are all earlier ones, at `successor` begin all later ones.
        let below = |time: &[u8]| time.into();
        let above = |time: &[u8]| successor(time).map(Vec::into_boxed_slice);
        let from = |edge: Option<Box<[u8]>>| edge.map_or(Bound::Unbounded, Bound::Included);
        let until = |edge: Option<Box<[u8]>>| edge.map_or(Bound::Unbounded, Bound::Excluded);
        match self.nearest {
            Nearest::AtOrBefore => (from(Some(below(time))), until(neighbour.map(below))),
            Nearest::Before => (from(above(time)), until(neighbour.and_then(above))),
            Nearest::AtOrAfter => (from(neighbour.and_then(above)), until(above(time))),
            Nearest::After => (from(neighbour.map(below)), until(Some(below(time)))),
        }
    }

    /// The right row for a left row of this time.
    fn partner<'t>(&self, right: &'t Timeline, time: &[u8]) -> Option<&'t [u8]> {
        let found = match self.nearest {
            Nearest::AtOrBefore => last_in(right, successor(time).as_deref()),
            Nearest::Before => last_below(right, time),
            Nearest::AtOrAfter => first_in(right, Some(time)),
            Nearest::After => first_above(right, time),
        };
        first_of(right, time_of(found?))
    }

    /// The changes as deltas.
    fn deltas(&self, changes: &Changes) -> Vec<Delta> {
        let rows: Vec<(&(Box<[u8]>, Option<Box<[u8]>>), i64)> =
            changes.iter().filter(|(_, weight)| **weight != 0).map(|(rows, weight)| (rows, *weight)).collect();
        let (matched, alone): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(rows, _)| rows.1.is_some());
        let pieces = matched.chunks(PAIRS_MAX).chain(alone.chunks(PAIRS_MAX));
        pieces.map(|piece| self.delta(piece)).collect()
    }

    /// Of rows that all have a partner, or none.
    fn delta(&self, piece: &[(&(Box<[u8]>, Option<Box<[u8]>>), i64)]) -> Delta {
        let [left, right] = &self.sides;
        let mut columns = left.row_keys.decode_columns(piece.iter().map(|(rows, _)| &*rows.0));
        let partners: Vec<&[u8]> = piece.iter().filter_map(|(rows, _)| rows.1.as_deref()).collect();
        columns.extend(match partners.is_empty() {
            true => {
                let fields = right.schema.fields().iter();
                fields.map(|field| new_null_array(field.data_type(), piece.len())).collect::<Vec<ArrayRef>>()
            }
            false => right.row_keys.decode_columns(partners),
        });
        self.typed(&columns, piece.iter().map(|(_, weight)| *weight).collect())
    }

    fn typed(&self, columns: &[ArrayRef], weights: Vec<i64>) -> Delta {
        let columns = columns.iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| of_type(column, field.data_type())).collect();
        let rows = batch_of(&self.schema, columns, weights.len()).expect("columns of both inputs");
        Delta::new(rows, weights)
    }
}

impl AsOf {
    /// Forgets the left rows of a key before a time, and the moments that no left row at or after it reaches.
    fn forget_before(&mut self, key: &[u8], time: &[u8]) {
        let Some(Unit { timelines, .. }) = self.units.get_mut(key) else { return };
        let last = last_below(&timelines[1], time).map(|row| time_of(row).to_vec());
        for (timeline, until) in timelines.iter_mut().zip([Some(time.to_vec()), last]) {
            let Some(until) = until else { continue };
            let kept = timeline.split_off::<[u8]>(&*until);
            for row in std::mem::replace(timeline, kept).into_keys() {
                self.rows -= 1;
                self.bytes -= row.len() as u64 + ROW_BYTES;
            }
        }
        self.close(key);
    }

    /// Before this time left rows are settled, in the bytes of times.
    fn edge(&self, horizon_us: i64) -> Option<Box<[u8]>> {
        let edge = Int64Array::from(vec![horizon_us.saturating_sub(self.forget_after_us?)]);
        let times = &self.sides[0].time_keys;
        let edge = cast(&edge, times.schema().field(0).data_type()).expect("an event time of microseconds");
        Some(times.encode(&[edge], 1).get(0).into())
    }
}

/// What the entries of a key begin with in the space.
fn prefix(side: usize, key: &[u8]) -> Vec<u8> {
    [&[side as u8][..], key].concat()
}

/// Takes out of the space what [`AsOf::forget_before`] takes out of memory.
fn forget_stored(key: &[u8], time: &[u8], space: &Space) -> Result<(), EngineError> {
    for side in 0..2 {
        let prefix = prefix(side, key);
        let mut rows: Vec<Vec<u8>> = Vec::new();
        space.scan_from(&prefix, &mut |entry, _| {
            let row = entry.strip_prefix(&*prefix).filter(|row| time_of(row) < time);
            rows.extend(row.map(<[u8]>::to_vec));
            row.is_some()
        })?;
        // The last moment before the time still reaches rows behind it.
        let last = rows.last().filter(|_| side == 1).map(|row| time_of(row).to_vec());
        for row in rows.iter().filter(|row| last.as_deref() != Some(time_of(row))) {
            space.delete(&[&*prefix, row].concat());
        }
    }
    Ok(())
}

/// The bytes of the time in ordered bytes.
fn time_of(ordered: &[u8]) -> &[u8] {
    let (rest, length) = ordered.split_last_chunk::<4>().expect("ordered bytes end with a length");
    &rest[..u32::from_le_bytes(*length) as usize]
}

/// The first bytes behind all that begin with these; none if there are none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

fn first_in<'t>(timeline: &'t Timeline, from: Option<&[u8]>) -> Option<&'t [u8]> {
    let from = from.map_or(Bound::Unbounded, Bound::Included);
    timeline.range::<[u8], _>((from, Bound::Unbounded)).next().map(|(row, _)| &**row)
}

fn last_in<'t>(timeline: &'t Timeline, until: Option<&[u8]>) -> Option<&'t [u8]> {
    let until = until.map_or(Bound::Unbounded, Bound::Excluded);
    timeline.range::<[u8], _>((Bound::Unbounded, until)).next_back().map(|(row, _)| &**row)
}

/// The last row of an earlier time.
fn last_below<'t>(timeline: &'t Timeline, time: &[u8]) -> Option<&'t [u8]> {
    last_in(timeline, Some(time))
}

/// The first row of a later time.
fn first_above<'t>(timeline: &'t Timeline, time: &[u8]) -> Option<&'t [u8]> {
    first_in(timeline, Some(&successor(time)?))
}

/// The row that stands for a time.
fn first_of<'t>(timeline: &'t Timeline, time: &[u8]) -> Option<&'t [u8]> {
    first_in(timeline, Some(time)).filter(|row| time_of(row) == time)
}

impl Side {
    fn new((schema, keys, time): (SchemaRef, Vec<CompiledScalar>, CompiledScalar)) -> Result<Side, EngineError> {
        let failed = |error: arrow::error::ArrowError| EngineError::Graph(error.to_string());
        let types: Vec<_> = keys.iter().map(|key| key.data_type().clone()).collect();
        let order = [(time.data_type().clone(), SortOptions { descending: false, nulls_first: true })];
        Ok(Side {
            key_keys: RowKeys::of_types(&types).map_err(failed)?,
            time_keys: RowKeys::ordered(&order).map_err(failed)?,
            row_keys: RowKeys::new(&schema).map_err(failed)?,
            schema,
            expressions: keys.into_iter().chain([time]).collect(),
        })
    }
}

impl Operate for AsOf {
    fn apply(&mut self, port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let side = &self.sides[port];
        let (left, values) = evaluate_all(&side.expressions, delta, context.errors);
        let (time, keys) = values.split_last().expect("a time behind the keys");
        let nulls: Vec<_> = values.iter().filter_map(|values| values.logical_nulls()).collect();
        let can_match: Vec<bool> = (0..left.len()).map(|row| nulls.iter().all(|nulls| nulls.is_valid(row))).collect();
        let keys = side.key_keys.encode(keys, left.len());
        let times = side.time_keys.encode(std::slice::from_ref(time), left.len());
        let rows = side.row_keys.encode(left.rows.columns(), left.len());
        let (mut ordered, mut alone) = (Vec::new(), Vec::new());
        for (row, can_match) in can_match.into_iter().enumerate() {
            if !can_match {
                alone.push(row as u32);
                continue;
            }
            ordered_bytes(times.get(row), rows.get(row), &mut ordered);
            let changes = self.pending.entry_ref(keys.get(row)).or_insert_with(|| [byte_map(), byte_map()]);
            adjust(&mut changes[port], &ordered, left.weights[row]);
        }
        if port == 1 || !self.is_outer || alone.is_empty() {
            return Vec::new();
        }
        let rows = left.take(&alone);
        let nulls = self.sides[1].schema.fields().iter();
        let nulls = nulls.map(|field| new_null_array(field.data_type(), rows.len()));
        let columns: Vec<ArrayRef> = rows.rows.columns().iter().cloned().chain(nulls).collect();
        vec![self.typed(&columns, rows.weights.to_vec())]
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        let pending = std::mem::replace(&mut self.pending, byte_map());
        let mut changes = Changes::with_hasher(super::STATE_HASHER);
        for (key, sides) in pending {
            self.load(&key, context);
            self.advance(&key, sides, &mut changes, context);
            self.close(&key);
        }
        self.residence.tick();
        *context.touched += changes.len() as u64;
        self.deltas(&changes)
    }

    fn forgets(&mut self, forgets: &[Forget]) {
        let of_left = forgets.iter().find(|forget| forget.input == 0);
        self.forget_after_us = of_left.map(|forget| forget.after_us);
    }

    fn retire(&mut self, horizon_us: i64) {
        let Some(edge) = self.edge(horizon_us) else { return };
        let later = self.due.split_off(&(edge.clone(), Box::default()));
        let keys: BTreeSet<Box<[u8]>> = std::mem::replace(&mut self.due, later).into_iter().map(|due| due.1).collect();
        for key in keys {
            self.forget_before(&key, &edge);
        }
    }

    fn retire_stored(&mut self, horizon_us: i64, space: &Space) -> Result<(), EngineError> {
        let Some(edge) = self.edge(horizon_us).filter(|_| self.is_due_stored) else { return Ok(()) };
        let (mut due, mut is_more): (Vec<(Vec<u8>, usize)>, bool) = (Vec::new(), false);
        space.scan_from(&[DUE], &mut |entry, length| {
            let length = length.try_into().map_or(0, |bytes| u32::from_le_bytes(bytes) as usize);
            is_more = entry.get(1..=length).is_none_or(|time| time >= &*edge);
            if !is_more {
                due.push((entry.to_vec(), 1 + length));
            }
            !is_more
        })?;
        self.is_due_stored = is_more;
        let keys: BTreeSet<&[u8]> = due.iter().map(|(entry, start)| &entry[*start..]).collect();
        keys.into_iter().try_for_each(|key| forget_stored(key, &edge, space))?;
        due.iter().for_each(|(entry, _)| space.delete(entry));
        Ok(())
    }

    fn uses_space(&self) -> bool {
        true
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.residence.attach(space);
        self.is_due_stored = self.residence.is_partial;
        Ok(())
    }

    fn shrink(&mut self, bytes: u64) -> u64 {
        let now = self.residence.now;
        let ages = self.units.values().map(|unit| now.wrapping_sub(unit.used));
        let mut eviction = self.residence.choose(self.bytes, bytes, ages);
        let held = self.units.len();
        let (all_rows, all_bytes) = (&mut self.rows, &mut self.bytes);
        self.units.retain(|key, unit| {
            let goes = eviction.takes(now.wrapping_sub(unit.used));
            if goes {
                *all_bytes -= key.len() as u64 + UNIT_BYTES;
                for row in unit.timelines.iter().flat_map(BTreeMap::keys) {
                    *all_rows -= 1;
                    *all_bytes -= row.len() as u64 + ROW_BYTES;
                }
            }
            !goes
        });
        let units = &self.units;
        self.due.retain(|(_, key)| units.contains_key(key));
        (held - self.units.len()) as u64
    }

    fn state_size(&self) -> (u64, u64) {
        (self.rows, self.bytes)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        for (key, unit) in &self.units {
            for (side, timeline) in unit.timelines.iter().enumerate() {
                for (row, count) in timeline {
                    writer.bytes(key);
                    writer.u8(side as u8);
                    writer.bytes(row);
                    writer.i64(*count);
                    writer.end_entry();
                }
            }
        }
        writer.finish();
    }

    fn restore_keys(&mut self, section: &[u8], is_kept: &dyn Fn(&[u8]) -> bool) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        while !reader.is_done() {
            let key = reader.bytes()?;
            let side = usize::from(reader.u8()?);
            let row = reader.bytes()?;
            if side > 1 {
                return Err(EngineError::State(format!("a join has no side {side}")));
            }
            let weight = reader.i64()?;
            if is_kept(key) {
                self.store(key, side, row, weight);
            }
        }
        Ok(())
    }
}
