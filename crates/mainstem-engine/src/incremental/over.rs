//! Functions OVER the rows of a partition, in an order.
//!
//! DataFusion's own window functions are evaluated over pieces of a partition: over the rows that a change can touch, and those
//! that these look at (`over_spans`), once as they were and once as they are; the difference is given. What running functions (a
//! number, a sum from the beginning on) have before a piece is kept every [`MARK_EVERY`] rows, in *marks*. Functions that need
//! the whole partition are evaluated over all of it. With a limit only the first rows of a partition are looked at: what asks
//! for the first n by row_number() costs n, however many there are.
//!
//! Rows are ordered by the sort keys, then by the whole row, so that equal keys leave nothing open; which rows are peers
//! the sort keys alone decide. A partition whose functions fail (a sum that overflows) gives no rows but an error, which
//! goes away when the partition changes; it is evaluated as a whole until then, as is one that was just restored.
//!
//! State: all rows. Entry: partition key, ordered bytes as in `top_n`, i64 count; in the space partition key, ordered bytes
//! -> i64 count. A partition is a unit: in memory with all its rows or not at all. Where partitions are forgotten when they are
//! settled, entries in the space begin with 0, and those of 1, i64 what it is settled by, partition key say when.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{SortOptions, concat};
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::WindowFunctionDefinition;
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_plan::windows::create_window_expr;
use mainstem_sql::{Forget, WindowFunction};

use super::encoding::{StateReader, StateWriter};
use super::multiset::OrderedMultiset;
use super::over_spans::{Reach, merged, sort_key};
use super::stateless::{keyed_delta, of_type, ordinals};
use super::top_n::{ordered_bytes, row_of};
use super::units::{Residence, StoredDue};
use super::{ByteMap, Context, Operate, adjust, byte_map};
use crate::batch::exact_aggregates;
use crate::delta::{Delta, RowKeys, batch_of};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, describe, evaluate_all};
use crate::state::{Space, count_of};

const KIND: u8 = 7;
/// Partitions are computed together until they have this many rows.
const ROWS_AT_ONCE: usize = 16 * 1024;
/// What entries of the space begin with where partitions are forgotten.
const ROW: u8 = 0;
const DUE: u8 = 1;
/// Rows between two marks.
const MARK_EVERY: i64 = 64;

/// What an operator is made of.
#[derive(Debug)]
pub(super) struct OverParts {
    pub(super) partition: Vec<CompiledScalar>,
    pub(super) order: Vec<(CompiledScalar, SortOptions)>,
    pub(super) functions: Vec<(WindowFunction, Vec<CompiledScalar>, Option<CompiledScalar>)>,
    pub(super) limit: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Over {
    /// Of the output.
    schema: SchemaRef,
    /// Of the input, under the names that compiled expressions use.
    input: SchemaRef,
    functions: Vec<Arc<dyn WindowExpr>>,
    /// The partition's columns, then the order's, then all that may fail.
    expressions: Vec<CompiledScalar>,
    partition_columns: usize,
    partition_keys: RowKeys,
    sort_keys: RowKeys,
    row_keys: RowKeys,
    output_keys: RowKeys,
    limit: i64,
    /// What a change can touch, unless partitions are evaluated as a whole.
    reach: Option<Reach>,
    partitions: ByteMap<Partition>,
    /// Of all partitions together.
    rows: u64,
    bytes: u64,
    /// This version's changes, by partition.
    pending: ByteMap<ByteMap<i64>>,
    /// The column of the partition's key by which partitions are settled, with how long after that, and they by its value.
    forget: Option<(usize, i64)>,
    due: BTreeMap<i64, Vec<Box<[u8]>>>,
    stored_due: StoredDue,
    residence: Residence,
}

/// The rows of a partition.
#[derive(Debug, Default)]
struct Partition {
    rows: OrderedMultiset,
    /// What running functions have at some rows, by the rows' ordered bytes; at the last of equal ones.
    marks: BTreeMap<Box<[u8]>, Vec<ScalarValue>>,
    /// It has been evaluated, and nothing failed.
    is_known: bool,
    used: u32,
}

/// Rows whose functions cannot be had piece by piece.
struct NeedsWhole;

impl Over {
    pub(super) fn new(input: &SchemaRef, schema: &SchemaRef, parts: OverParts) -> Result<Over, EngineError> {
        let failed = |error: arrow::error::ArrowError| EngineError::Graph(error.to_string());
        let types_of = |list: &[CompiledScalar]| list.iter().map(|key| key.data_type().clone()).collect::<Vec<_>>();
        let sort: Vec<_> = parts.order.iter().map(|(key, options)| (key.data_type().clone(), *options)).collect();
        let named = CompiledScalar::input_schema(input);
        let functions = parts.functions.iter().map(|(function, arguments, filter)| {
            window_expr(function, arguments, filter.as_ref(), &parts.order, &named)
        });
        let functions = functions.collect::<Result<Vec<_>, _>>()?;
        let planned: Vec<WindowFunction> = parts.functions.iter().map(|(function, ..)| function.clone()).collect();
        let options: Vec<SortOptions> = parts.order.iter().map(|(_, options)| *options).collect();
        let reach = if parts.limit.is_none() { Reach::of(&planned, &options) } else { None };
        let partition_columns = parts.partition.len();
        let mut expressions = parts.partition.clone();
        expressions.extend(parts.order.into_iter().map(|(key, _)| key));
        for (_, arguments, filter) in parts.functions {
            expressions.extend(arguments.into_iter().chain(filter));
        }
        Ok(Over {
            schema: schema.clone(),
            input: named,
            functions,
            partition_keys: RowKeys::of_types(&types_of(&parts.partition)).map_err(failed)?,
            partition_columns,
            expressions,
            sort_keys: RowKeys::ordered(&sort).map_err(failed)?,
            row_keys: RowKeys::new(input).map_err(failed)?,
            output_keys: RowKeys::new(schema).map_err(failed)?,
            limit: parts.limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX)),
            reach,
            partitions: byte_map(),
            rows: 0,
            bytes: 0,
            pending: byte_map(),
            forget: None,
            due: BTreeMap::new(),
            stored_due: StoredDue::new(DUE),
            residence: Residence::default(),
        })
    }

    /// Brings partitions into memory.
    fn load(&mut self, partitions: &[&[u8]], context: &mut Context<'_>) {
        let Some(space) = context.space.filter(|_| self.residence.is_partial) else { return };
        for partition in partitions {
            if self.partitions.contains_key(*partition) {
                continue;
            }
            let (mut rows, mut failed) = (Vec::new(), Ok(()));
            let scanned = space.scan(&self.prefix(partition), &mut |key, count| match count_of(count) {
                Ok(count) => rows.push((Box::<[u8]>::from(key), count)),
                Err(error) => failed = Err(error),
            });
            context.loaded(scanned.and(failed));
            self.change(partition, rows.iter().map(|(key, count)| (&**key, *count)));
            if let Some(loaded) = self.partitions.get_mut(*partition) {
                loaded.is_known = false;
            }
            space.root().count_loaded(1);
        }
    }

    /// What the entries of a partition begin with in the space.
    fn prefix(&self, partition: &[u8]) -> Vec<u8> {
        let tag: &[u8] = if self.forget.is_some() { &[ROW] } else { &[] };
        [tag, partition].concat()
    }

    /// By what a partition is settled, if it is.
    fn due_of(&self, partition: &[u8]) -> Option<i64> {
        let values = ordinals(&self.partition_keys.decode_columns([partition])[self.forget?.0]);
        values.is_valid(0).then(|| values.value(0))
    }

    fn sort_columns(&self) -> usize {
        self.sort_keys.schema().fields().len()
    }

    /// Adds to the rows of a partition.
    fn change<'r>(&mut self, partition: &[u8], rows: impl IntoIterator<Item = (&'r [u8], i64)>) {
        if self.forget.is_some()
            && !self.partitions.contains_key(partition)
            && let Some(due) = self.due_of(partition)
        {
            self.due.entry(due).or_default().push(partition.into());
        }
        let known = || Partition { is_known: true, ..Partition::default() };
        let place = self.partitions.entry_ref(partition).or_insert_with(known);
        place.used = self.residence.now;
        let set = &mut place.rows;
        let before = size_of(partition, set);
        rows.into_iter().for_each(|(key, weight)| set.adjust(key, weight));
        let after = size_of(partition, set);
        self.rows = self.rows + after.0 - before.0;
        self.bytes = self.bytes + after.1 - before.1;
        if after.0 == 0 {
            self.partitions.remove(partition);
        }
    }

    /// Gives the difference that the changes of one partition make, and makes them.
    fn advance(
        &mut self,
        partition: &[u8],
        changes: &ByteMap<i64>,
        out: &mut ByteMap<i64>,
        context: &mut Context<'_>,
    ) -> Result<(), NeedsWhole> {
        let reach = self.reach.as_ref().ok_or(NeedsWhole)?;
        let none = Partition { is_known: true, ..Partition::default() };
        let was = self.partitions.get(partition).unwrap_or(&none);
        if !was.is_known {
            return Err(NeedsWhole);
        }
        let touched = |of: &Partition| {
            let spans = changes.keys().map(|row| reach.touched(row, &of.rows, &self.sort_keys));
            spans.collect::<Vec<_>>()
        };
        let mut spans = touched(was);
        // What they touch afterwards is known when they are made; what was there before them when they are not yet.
        self.change(partition, changes.iter().map(|(row, weight)| (row.as_ref(), *weight)));
        let is = self.partitions.get(partition).unwrap_or(&none);
        let reach = self.reach.as_ref().ok_or(NeedsWhole)?;
        spans.extend(changes.keys().map(|row| reach.touched(row, &is.rows, &self.sort_keys)));
        let spans = merged(spans);
        self.change(partition, changes.iter().map(|(row, weight)| (row.as_ref(), -*weight)));
        let mut difference = byte_map();
        for span in &spans {
            let was = self.partitions.get(partition).unwrap_or(&none);
            self.give_span(was, span, -1, &mut difference, context)?;
        }
        self.change(partition, changes.iter().map(|(row, weight)| (row.as_ref(), *weight)));
        if let (Some(is), Some((first, _))) = (self.partitions.get_mut(partition), spans.first()) {
            is.marks.split_off::<[u8]>(first);
        }
        for span in &spans {
            let Some(is) = self.partitions.get(partition) else { break };
            match self.give_span(is, span, 1, &mut difference, context) {
                Ok(marks) => {
                    if let Some(is) = self.partitions.get_mut(partition) {
                        is.marks.extend(marks);
                    }
                }
                Err(needs_whole) => {
                    self.change(partition, changes.iter().map(|(row, weight)| (row.as_ref(), -*weight)));
                    return Err(needs_whole);
                }
            }
        }
        difference.iter().for_each(|(row, weight)| {
            adjust(out, row, *weight);
        });
        *context.touched += changes.len() as u64;
        Ok(())
    }

    /// Adds the rows of a span, with the sign, to `out`. Gives what marks can be made on the way.
    fn give_span(
        &self,
        partition: &Partition,
        span: &(Vec<u8>, Option<Vec<u8>>),
        sign: i64,
        out: &mut ByteMap<i64>,
        context: &mut Context<'_>,
    ) -> Result<Vec<(Box<[u8]>, Vec<ScalarValue>)>, NeedsWhole> {
        let (reach, rows) = (self.reach.as_ref().ok_or(NeedsWhole)?, &partition.rows);
        let places = (rows.rank(&span.0), span.1.as_ref().map_or(rows.total(), |until| rows.rank(until)));
        if places.0 >= places.1 {
            return Ok(Vec::new());
        }
        let (mut from, until) = reach.context(places, rows, &self.sort_keys);
        let mut before: Option<&Vec<ScalarValue>> = None;
        if reach.is_running() && from > 0 {
            let first = rows.select(from).ok_or(NeedsWhole)?;
            let mark = partition.marks.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(first))).next_back();
            from = mark.map_or(0, |(row, _)| rows.rank(row) + rows.count(row));
            before = mark.map(|(_, values)| values);
        }
        let mut keys: Vec<&[u8]> = Vec::new();
        rows.visit_ranks(from, until, &mut |key, count| {
            keys.extend(std::iter::repeat_n(key, usize::try_from(count).unwrap_or(0)));
        });
        *context.touched += keys.len() as u64;
        let columns = self.row_keys.decode_columns(keys.iter().map(|key| row_of(key)));
        let batch = batch_of(&self.input, columns, keys.len()).expect("rows of the input");
        let values = self.evaluate(&batch).map_err(|_| NeedsWhole)?;
        let value = |function: usize, row: usize| -> Result<ScalarValue, NeedsWhole> {
            let local = ScalarValue::try_from_array(&values[function], row).map_err(|_| NeedsWhole)?;
            match (reach.running[function], before) {
                (Some(running), Some(before)) => running.follow(local, &before[function], from).ok_or(NeedsWhole),
                _ => Ok(local),
            }
        };
        let (start, length) = ((places.0 - from) as usize, (places.1 - places.0) as usize);
        let mut columns = batch.slice(start, length).columns().to_vec();
        for (function, local) in values.iter().enumerate() {
            columns.push(match before.is_some() && reach.running[function].is_some() {
                true => {
                    let column = (start..start + length).map(|row| value(function, row));
                    let column = column.collect::<Result<Vec<_>, _>>()?;
                    ScalarValue::iter_to_array(column).map_err(|_| NeedsWhole)?
                }
                false => local.slice(start, length),
            });
        }
        let columns = columns.iter().zip(self.schema.fields());
        let columns: Vec<ArrayRef> = columns.map(|(column, field)| of_type(column, field.data_type())).collect();
        for key in self.output_keys.encode(&columns, length).iter() {
            adjust(out, key, sign);
        }
        let mut marks = Vec::new();
        if sign > 0 && reach.is_running() {
            let mut last = from;
            for (row, key) in keys.iter().enumerate() {
                let place = from + row as i64 + 1;
                let is_end = match keys.get(row + 1) {
                    Some(next) => next != key && !(reach.has_peers && sort_key(next) == sort_key(key)),
                    None => place == rows.total(),
                };
                if is_end && place - last >= MARK_EVERY {
                    let values = (0..values.len()).map(|function| value(function, row));
                    marks.push(((*key).into(), values.collect::<Result<Vec<_>, _>>()?));
                    last = place;
                }
            }
        }
        Ok(marks)
    }

    /// Adds the rows that these partitions give, with the sign, to `out`; and whether each could be evaluated.
    fn give(&self, partitions: &[&[u8]], sign: i64, out: &mut ByteMap<i64>, context: &mut Context<'_>) -> Vec<bool> {
        let (mut rows, mut ends, mut good) = (Vec::new(), Vec::new(), Vec::new());
        for (place, partition) in partitions.iter().enumerate() {
            if let Some(partition) = self.partitions.get(*partition) {
                partition.rows.visit_ranks(0, self.limit, &mut |key, count| {
                    rows.extend(std::iter::repeat_n(row_of(key), usize::try_from(count).unwrap_or(0)));
                });
            }
            ends.push(rows.len());
            if rows.len() >= ROWS_AT_ONCE || place + 1 == partitions.len() {
                *context.touched += rows.len() as u64;
                good.extend(self.compute(&rows, &ends, sign, out, context));
                rows.clear();
                ends.clear();
            }
        }
        good
    }

    fn compute(
        &self,
        rows: &[&[u8]],
        ends: &[usize],
        sign: i64,
        out: &mut ByteMap<i64>,
        context: &mut Context<'_>,
    ) -> Vec<bool> {
        let mut is_good = vec![true; ends.len()];
        if rows.is_empty() {
            return is_good;
        }
        let columns = self.row_keys.decode_columns(rows.iter().copied());
        let batch = batch_of(&self.input, columns, rows.len()).expect("rows of the input");
        let (mut start, mut good, mut results) = (0, Vec::new(), vec![Vec::new(); self.functions.len()]);
        for (place, end) in ends.iter().enumerate().filter(|(_, end)| **end > 0) {
            if *end == start {
                continue;
            }
            match self.evaluate(&batch.slice(start, end - start)) {
                Ok(values) => {
                    good.push((start, *end));
                    results.iter_mut().zip(values).for_each(|(list, value)| list.push(value));
                }
                Err(message) => {
                    is_good[place] = false;
                    context.errors.add(message, sign);
                }
            }
            start = *end;
        }
        if good.is_empty() {
            return is_good;
        }
        let whole = |parts: &[ArrayRef]| {
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            concat(&parts).expect("values of one function have one type")
        };
        let rows: Vec<RecordBatch> = good.iter().map(|(start, end)| batch.slice(*start, end - start)).collect();
        let rows = arrow::compute::concat_batches(&self.input, &rows).expect("slices of one batch");
        let mut columns = rows.columns().to_vec();
        columns.extend(results.iter().map(|parts| whole(parts)));
        let columns = columns.iter().zip(self.schema.fields());
        let columns: Vec<ArrayRef> = columns.map(|(column, field)| of_type(column, field.data_type())).collect();
        let keys = self.output_keys.encode(&columns, rows.num_rows());
        for key in keys.iter() {
            adjust(out, key, sign);
        }
        is_good
    }

    /// Each function over the rows of one partition.
    fn evaluate(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, String> {
        self.functions.iter().map(|function| function.evaluate(rows).map_err(|error| describe(&error))).collect()
    }
}

/// Rows, and about how many bytes they take.
fn size_of(partition: &[u8], rows: &OrderedMultiset) -> (u64, u64) {
    match rows.distinct() {
        0 => (0, 0),
        count => (count as u64, (partition.len() + rows.heap_bytes() + std::mem::size_of::<Partition>()) as u64),
    }
}

fn window_expr(
    function: &WindowFunction,
    arguments: &[CompiledScalar],
    filter: Option<&CompiledScalar>,
    order: &[(CompiledScalar, SortOptions)],
    input: &SchemaRef,
) -> Result<Arc<dyn WindowExpr>, EngineError> {
    let exact = exact_aggregates().into_iter().find(|aggregate| aggregate.name() == function.name);
    let definition = exact.map(WindowFunctionDefinition::AggregateUDF);
    let definition = definition.or_else(|| mainstem_sql::window_function(&function.name));
    let definition = definition.ok_or_else(|| EngineError::Graph(format!("{}() OVER is not known", function.name)))?;
    let arguments: Vec<_> = arguments.iter().map(CompiledScalar::physical).collect();
    let order = order.iter().map(|(key, options)| PhysicalSortExpr::new(key.physical(), *options));
    let order: Vec<PhysicalSortExpr> = order.collect();
    create_window_expr(
        &definition,
        function.name.clone(),
        &arguments,
        // Each partition is evaluated alone.
        &[],
        &order,
        function.frame.to_planned().map_err(|error| EngineError::Graph(error.message))?,
        input.clone(),
        function.ignore_nulls,
        function.distinct,
        filter.map(CompiledScalar::physical),
    )
    .map_err(|error| EngineError::Graph(describe(&error)))
}

impl Operate for Over {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let (left, values) = evaluate_all(&self.expressions, delta, context.errors);
        let (partition, rest) = values.split_at(self.partition_columns);
        let partitions = self.partition_keys.encode(partition, left.len());
        let sort = self.sort_keys.encode(&rest[..self.sort_columns()], left.len());
        let rows = self.row_keys.encode(left.rows.columns(), left.len());
        let mut ordered = Vec::new();
        for row in 0..left.len() {
            ordered_bytes(sort.get(row), rows.get(row), &mut ordered);
            let changes = self.pending.entry_ref(partitions.get(row)).or_insert_with(byte_map);
            adjust(changes, &ordered, left.weights[row]);
        }
        Vec::new()
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        let mut pending = std::mem::replace(&mut self.pending, byte_map());
        pending.retain(|_, changes| !changes.is_empty());
        let mut changes = byte_map();
        let mut whole: Vec<&[u8]> = Vec::new();
        let touched: Vec<&[u8]> = pending.keys().map(AsRef::as_ref).collect();
        self.load(&touched, context);
        for (partition, rows) in &pending {
            if self.advance(partition, rows, &mut changes, context).is_err() {
                whole.push(partition);
            }
        }
        self.give(&whole, -1, &mut changes, context);
        for partition in &whole {
            let rows = &pending[*partition];
            self.change(partition, rows.iter().map(|(key, weight)| (key.as_ref(), *weight)));
            *context.touched += rows.len() as u64;
        }
        let good = self.give(&whole, 1, &mut changes, context);
        for (partition, good) in whole.iter().zip(good) {
            if let Some(partition) = self.partitions.get_mut(*partition) {
                partition.is_known = good;
                partition.marks.clear();
            }
        }
        if let Some(space) = context.space {
            for (partition, rows) in &pending {
                let (place, prefix) = (self.partitions.get(partition), self.prefix(partition));
                for key in rows.keys() {
                    space.put_count(&[&*prefix, key].concat(), place.map_or(0, |place| place.rows.count(key)));
                }
                if let Some(due) = self.due_of(partition) {
                    self.stored_due.put(due, partition, space);
                }
            }
        }
        self.residence.tick();
        let rows: Vec<(&[u8], i64)> = changes.iter().map(|(key, weight)| (key.as_ref(), *weight)).collect();
        if rows.is_empty() {
            return Vec::new();
        }
        vec![keyed_delta(&self.output_keys, &rows, &self.schema)]
    }

    fn uses_space(&self) -> bool {
        true
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.residence.attach(space);
        self.stored_due.attach(space);
        Ok(())
    }

    fn shrink(&mut self, bytes: u64) -> u64 {
        let now = self.residence.now;
        let ages = self.partitions.values().map(|place| now.wrapping_sub(place.used));
        let mut eviction = self.residence.choose(self.bytes, bytes, ages);
        let held = self.partitions.len();
        let (all_rows, all_bytes) = (&mut self.rows, &mut self.bytes);
        self.partitions.retain(|key, place| {
            let goes = eviction.takes(now.wrapping_sub(place.used));
            if goes {
                let (rows, bytes) = size_of(key, &place.rows);
                *all_rows -= rows;
                *all_bytes -= bytes;
            }
            !goes
        });
        (held - self.partitions.len()) as u64
    }

    fn state_size(&self) -> (u64, u64) {
        (self.rows, self.bytes)
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StateWriter::new(KIND, out);
        for (partition, set) in &self.partitions {
            set.rows.for_each(&mut |key, count| {
                writer.bytes(partition);
                writer.bytes(key);
                writer.i64(count);
                writer.end_entry();
            });
        }
        writer.finish();
    }

    fn restore_keys(&mut self, section: &[u8], is_kept: &dyn Fn(&[u8]) -> bool) -> Result<(), EngineError> {
        let mut reader = StateReader::new(KIND, section)?;
        while !reader.is_done() {
            let partition = reader.bytes()?;
            let key = reader.bytes()?;
            let weight = reader.i64()?;
            if !is_kept(partition) {
                continue;
            }
            self.change(partition, [(key, weight)]);
            if let Some(partition) = self.partitions.get_mut(partition) {
                partition.is_known = false;
            }
        }
        Ok(())
    }

    fn forgets(&mut self, forgets: &[Forget]) {
        self.forget = forgets.first().map(|forget| (forget.column, forget.after_us));
    }

    fn retire(&mut self, horizon_us: i64) {
        let Some((_, after_us)) = self.forget else { return };
        let later = self.due.split_off(&horizon_us.saturating_sub(after_us));
        for partition in std::mem::replace(&mut self.due, later).into_values().flatten() {
            if let Some(gone) = self.partitions.remove(&partition) {
                let size = size_of(&partition, &gone.rows);
                self.rows -= size.0;
                self.bytes -= size.1;
            }
        }
    }

    fn retire_stored(&mut self, horizon_us: i64, space: &Space) -> Result<(), EngineError> {
        let Some((_, after_us)) = self.forget else { return Ok(()) };
        for partition in self.stored_due.take(horizon_us.saturating_sub(after_us), space)? {
            let prefix = self.prefix(&partition);
            let mut rows = Vec::new();
            space.scan(&prefix, &mut |row, _| rows.push([&*prefix, row].concat()))?;
            rows.iter().for_each(|row| space.delete(row));
        }
        Ok(())
    }
}
