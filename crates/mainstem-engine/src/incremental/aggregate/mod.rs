//! Groups with aggregates over them.
//!
//! The state of an aggregate is columnar: one place per group, updated by whole slices. When a group is touched for the
//! first time in a version its result is computed from the state as it was; at the end of the version it is computed
//! again, and the difference is given. Nothing that was given needs to be kept.
//!
//! Without group columns there is always exactly one row. A group whose aggregate fails (overflow) is no row but an error,
//! which goes away when the group changes.
//!
//! State entries: tag 0, the group without columns has been given; tag 1: key bytes, i64 rows, then the state of each
//! aggregate in order. In the space, see `stored`.

mod accumulators;
mod distinct;
mod in_order;
mod moments;
mod ordered;
mod stored;
mod sums;

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashTable;
use mainstem_sql::{AggregateFunction, Forget};

use super::encoding::{StateReader, StateWriter};
use super::stateless::{microseconds, of_type};
use super::units::Residence;
use super::{Context, Operate, STATE_HASHER};
use crate::delta::{Delta, RowKeys, batch_of};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, boolean, evaluate_all};
use crate::state::Space;

use accumulators::{Accumulate, Selected};

const KIND: u8 = 6;

/// One aggregate, compiled.
#[derive(Debug)]
pub(super) struct AggregateParts {
    pub(super) function: AggregateFunction,
    pub(super) arguments: Vec<CompiledScalar>,
    pub(super) is_distinct: bool,
    pub(super) filter: Option<CompiledScalar>,
    pub(super) order: Vec<(CompiledScalar, SortOptions)>,
    pub(super) ignore_nulls: bool,
    pub(super) result: DataType,
}

#[derive(Debug)]
pub(super) struct Aggregate {
    schema: SchemaRef,
    /// Group columns, then the arguments and the filter of each aggregate.
    expressions: Vec<CompiledScalar>,
    aggregates: Vec<Placed>,
    group_keys: RowKeys,
    group_columns: usize,
    groups: Vec<Group>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    /// Groups touched in this version, in the order they were.
    touched: Vec<u32>,
    /// What those of them that were there before had given.
    before: Vec<Delta>,
    is_given: bool,
    key_bytes: u64,
    ends: Option<WindowEnds>,
    residence: Residence,
    /// No window in the space ends before this.
    stored_from: i64,
}

/// An aggregate and where its inputs stand among the expressions.
#[derive(Debug)]
struct Placed {
    accumulator: Box<dyn Accumulate>,
    /// The arguments, then the columns of the order.
    inputs: std::ops::Range<usize>,
    /// Of the inputs, those that must not be null.
    not_null: usize,
    filter: Option<usize>,
}

#[derive(Debug, Default)]
struct Group {
    key: Box<[u8]>,
    rows: i64,
    is_touched: bool,
    used: u32,
}

/// Groups by the end of their window, so that closed ones can be forgotten.
#[derive(Debug)]
struct WindowEnds {
    column: usize,
    /// A group is of no more use when the watermark is greater than its end and this.
    after_us: i64,
    groups: BTreeMap<i64, Vec<u32>>,
}

impl Aggregate {
    /// `is_append_only`: the input never takes a row back. `window_end`: the group column that ends a window, when groups
    /// of closed windows are to be forgotten.
    pub(super) fn new(
        schema: &SchemaRef,
        group: Vec<CompiledScalar>,
        parts: Vec<AggregateParts>,
        is_append_only: bool,
        window_end: Option<usize>,
    ) -> Result<Aggregate, EngineError> {
        let group_columns = group.len();
        let types: Vec<DataType> = group.iter().map(|column| column.data_type().clone()).collect();
        let mut expressions = group;
        let mut aggregates = Vec::new();
        for part in parts {
            let accumulator = accumulators::build(&part, is_append_only)?;
            let start = expressions.len();
            let takes_nulls = part.function.takes_nulls() && !part.ignore_nulls;
            let not_null = if takes_nulls { 0 } else { part.arguments.len() };
            expressions.extend(part.arguments);
            expressions.extend(part.order.into_iter().map(|(key, _)| key));
            let inputs = start..expressions.len();
            let filter = part.filter.map(|filter| {
                expressions.push(filter);
                expressions.len() - 1
            });
            aggregates.push(Placed { accumulator, inputs, not_null, filter });
        }
        let mut aggregate = Aggregate {
            schema: schema.clone(),
            expressions,
            aggregates,
            group_keys: RowKeys::of_types(&types).map_err(|error| EngineError::Graph(error.to_string()))?,
            group_columns,
            groups: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            touched: Vec::new(),
            before: Vec::new(),
            is_given: false,
            key_bytes: 0,
            ends: window_end.map(|column| WindowEnds { column, after_us: -1, groups: BTreeMap::new() }),
            residence: Residence::default(),
            stored_from: i64::MAX,
        };
        if group_columns == 0 {
            aggregate.group_of(&[]);
        }
        Ok(aggregate)
    }

    fn is_global(&self) -> bool {
        self.group_columns == 0
    }

    /// The group of a key; a new one when there is none.
    fn group_of(&mut self, key: &[u8]) -> u32 {
        let hash = STATE_HASHER.hash_one(key);
        if let Some(group) = self.by_key.find(hash, |group| &*self.groups[*group as usize].key == key) {
            return *group;
        }
        let group = Group { key: key.into(), used: self.residence.now, ..Group::default() };
        self.key_bytes += key.len() as u64;
        let id = match self.free.pop() {
            Some(id) => {
                self.groups[id as usize] = group;
                id
            }
            None => {
                self.groups.push(group);
                (self.groups.len() - 1) as u32
            }
        };
        let groups = &self.groups;
        self.by_key.insert_unique(hash, id, |other| STATE_HASHER.hash_one(&*groups[*other as usize].key));
        for placed in &mut self.aggregates {
            placed.accumulator.resize(self.groups.len());
        }
        id
    }

    /// Whether the group is a row of the output now.
    fn is_there(&self, group: u32) -> bool {
        if self.is_global() { self.is_given } else { self.groups[group as usize].rows > 0 }
    }

    /// Marks the slice's groups as touched, and keeps the results of those that were there and are touched first now.
    fn touch(&mut self, groups: &[u32], context: &mut Context<'_>) {
        let mut were_there = Vec::new();
        for group in groups {
            if !self.groups[*group as usize].is_touched {
                self.groups[*group as usize].is_touched = true;
                self.groups[*group as usize].used = self.residence.now;
                self.touched.push(*group);
                if self.is_there(*group) {
                    were_there.push(*group);
                }
            }
        }
        let before = self.results(&were_there, -1, context);
        self.before.push(before);
    }

    /// The output rows of groups, each with the weight; failing groups go to the errors with it.
    fn results(&self, groups: &[u32], weight: i64, context: &mut Context<'_>) -> Delta {
        if groups.is_empty() {
            return Delta::empty(&self.schema);
        }
        *context.touched += groups.len() as u64;
        let keys = groups.iter().map(|group| &*self.groups[*group as usize].key);
        let mut columns = self.group_keys.decode_columns(keys);
        let mut good = vec![true; groups.len()];
        for placed in &self.aggregates {
            let (values, failed) = placed.accumulator.results(groups);
            columns.push(values);
            for (place, message) in failed {
                if std::mem::replace(&mut good[place], false) {
                    context.errors.add(message, weight);
                }
            }
        }
        let columns = columns.iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| of_type(column, field.data_type())).collect();
        let rows = batch_of(&self.schema, columns, groups.len()).expect("results of the node's types");
        let all = Delta::new(rows, vec![weight; groups.len()]);
        if good.contains(&false) { all.filter(&BooleanArray::from(good)) } else { all }
    }

    /// Notes the window ends of groups that are new.
    fn note_ends(&mut self, groups: &[u32], columns: &[ArrayRef]) {
        let Some(ends) = &mut self.ends else { return };
        let stamps = microseconds(&columns[ends.column]);
        for (row, group) in groups.iter().enumerate() {
            if self.groups[*group as usize].rows == 0 && stamps.is_valid(row) {
                let list = ends.groups.entry(stamps.value(row)).or_default();
                if list.last() != Some(group) {
                    list.push(*group);
                }
            }
        }
    }

    fn forget(&mut self, group: u32) {
        let key = std::mem::take(&mut self.groups[group as usize].key);
        let hash = STATE_HASHER.hash_one(&*key);
        if let Ok(entry) = self.by_key.find_entry(hash, |other| *other == group) {
            entry.remove();
        }
        self.key_bytes -= key.len() as u64;
        self.groups[group as usize] = Group::default();
        for placed in &mut self.aggregates {
            placed.accumulator.clear(group);
        }
        self.free.push(group);
    }

    fn update(&mut self, groups: &[u32], values: &[ArrayRef], weights: &[i64], context: &mut Context<'_>) {
        for placed in &mut self.aggregates {
            let inputs = &values[placed.inputs.clone()];
            let filter = placed.filter.map(|place| boolean(&values[place]));
            let nulls: Vec<_> = inputs[..placed.not_null].iter().filter_map(|column| column.logical_nulls()).collect();
            let counts = |row: usize| {
                filter.as_ref().is_none_or(|mask| mask.is_valid(row) && mask.value(row))
                    && nulls.iter().all(|nulls| nulls.is_valid(row))
            };
            let rows: Vec<u32> = (0..groups.len()).filter(|row| counts(*row)).map(|row| row as u32).collect();
            let selected = Selected {
                groups: rows.iter().map(|row| groups[*row as usize]).collect(),
                weights: rows.iter().map(|row| weights[*row as usize]).collect(),
                rows,
            };
            *context.touched += placed.accumulator.update(inputs, &selected);
        }
    }
}

impl Operate for Aggregate {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let (left, values) = evaluate_all(&self.expressions, delta, context.errors);
        let columns = &values[..self.group_columns];
        let keys = self.group_keys.encode(columns, left.len());
        self.load(&keys, context);
        let groups: Vec<u32> = match self.is_global() {
            true => vec![0; left.len()],
            false => (0..left.len()).map(|row| self.group_of(keys.get(row))).collect(),
        };
        self.touch(&groups, context);
        self.note_ends(&groups, columns);
        for (group, weight) in groups.iter().zip(left.weights.iter()) {
            self.groups[*group as usize].rows += weight;
        }
        self.update(&groups, &values, &left.weights, context);
        *context.touched += left.len() as u64;
        Vec::new()
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        let mut touched = std::mem::take(&mut self.touched);
        self.load_global(context);
        if self.is_global() && !std::mem::replace(&mut self.is_given, true) && touched.is_empty() {
            touched.push(0);
        }
        let there: Vec<u32> = touched.iter().copied().filter(|group| self.is_there(*group)).collect();
        let mut changes = std::mem::take(&mut self.before);
        changes.push(self.results(&there, 1, context));
        if let Some(space) = context.space {
            self.write(&touched, space);
        }
        self.residence.tick();
        for group in touched {
            self.groups[group as usize].is_touched = false;
            if self.groups[group as usize].rows == 0 && !self.is_global() {
                self.forget(group);
            }
        }
        changes.retain(|change| !change.is_empty());
        match changes.is_empty() {
            true => Vec::new(),
            false => vec![Delta::consolidate(&self.schema, &changes)],
        }
    }

    fn forgets(&mut self, forgets: &[Forget]) {
        if let Some(Forget { column, after_us, .. }) = forgets.first().copied() {
            self.ends = Some(WindowEnds { column, after_us, groups: BTreeMap::new() });
        }
    }

    fn retire(&mut self, horizon_us: i64) {
        let Some(ends) = &mut self.ends else { return };
        let column = ends.column;
        let horizon_us = horizon_us.saturating_sub(ends.after_us.saturating_add(1));
        let mut closed = Vec::new();
        while let Some(entry) = ends.groups.first_entry().filter(|entry| *entry.key() <= horizon_us) {
            let (end, groups) = entry.remove_entry();
            closed.extend(groups.into_iter().map(|group| (end, group)));
        }
        for (end, group) in closed {
            // The group may have gone, and its place be another's now.
            let key = &self.groups[group as usize].key;
            if key.is_empty() {
                continue;
            }
            let columns = self.group_keys.decode_columns([&**key]);
            let stamp = microseconds(&columns[column]);
            if stamp.is_valid(0) && stamp.value(0) == end {
                self.forget(group);
            }
        }
    }

    fn retire_stored(&mut self, horizon_us: i64, space: &Space) -> Result<(), EngineError> {
        let after_us = self.ends.as_ref().map_or(-1, |ends| ends.after_us);
        self.remove_stored(horizon_us.saturating_sub(after_us.saturating_add(1)), space)
    }

    fn uses_space(&self) -> bool {
        true
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.residence.attach(space);
        if self.residence.is_partial {
            self.stored_from = i64::MIN;
        }
        self.aggregates.iter_mut().for_each(|placed| placed.accumulator.track());
        Ok(())
    }

    fn shrink(&mut self, bytes: u64) -> u64 {
        self.evict(bytes)
    }

    fn state_size(&self) -> (u64, u64) {
        let groups = (self.groups.len() - self.free.len()) as u64;
        let held = self.aggregates.iter().map(|placed| placed.accumulator.state_size());
        let (rows, bytes) = held.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        let slot_bytes: u64 = self.aggregates.iter().map(|placed| placed.accumulator.slot_bytes()).sum();
        (groups + rows, self.key_bytes + groups * (48 + slot_bytes) + bytes)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        if self.is_given {
            writer.u8(0);
            writer.end_entry();
        }
        for id in &self.by_key {
            let group = &self.groups[*id as usize];
            writer.u8(1);
            writer.bytes(&group.key);
            writer.i64(group.rows);
            for placed in &self.aggregates {
                placed.accumulator.save(*id, &mut writer);
            }
            writer.end_entry();
        }
        writer.finish();
    }

    fn restore_keys(&mut self, section: &[u8], is_kept: &dyn Fn(&[u8]) -> bool) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        while !reader.is_done() {
            match reader.u8()? {
                0 => self.is_given = true,
                1 => {
                    let key = reader.bytes()?;
                    let id = self.group_of(key);
                    if self.ends.is_some() {
                        let columns = self.group_keys.decode_columns([key]);
                        self.note_ends(&[id], &columns);
                    }
                    self.groups[id as usize].rows = reader.i64()?;
                    for placed in &mut self.aggregates {
                        placed.accumulator.restore(id, &mut reader)?;
                    }
                    if !is_kept(key) {
                        // Where the entry ends only the aggregates know.
                        self.forget(id);
                    }
                }
                tag => return Err(EngineError::State(format!("groups have no entry of tag {tag}"))),
            }
        }
        Ok(())
    }
}
