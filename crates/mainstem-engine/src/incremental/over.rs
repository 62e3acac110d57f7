//! Functions OVER the rows of a partition, in an order.
//!
//! DataFusion's own window functions are evaluated over the rows of each partition that a version touches, once as it was
//! and once as it is; the difference is given. With a limit only the first rows of a partition are looked at: what asks
//! for the first n by row_number() costs n, however many there are.
//!
//! Rows are ordered by the sort keys, then by the whole row, so that equal keys leave nothing open; which rows are peers
//! the sort keys alone decide. A partition whose functions fail (a sum that overflows) gives no rows but an error, which
//! goes away when the partition changes.
//!
//! State: all rows. Entry: partition key, ordered bytes as in `top_n`, i64 count; in the space partition key, ordered bytes
//! -> i64 count. A partition is a unit: in memory with all its rows or not at all.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{SortOptions, concat};
use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::WindowFunctionDefinition;
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_plan::windows::create_window_expr;
use mainstem_sql::WindowFunction;

use super::encoding::{StateReader, StateWriter};
use super::multiset::OrderedMultiset;
use super::stateless::{keyed_delta, of_type};
use super::top_n::{ordered_bytes, row_of};
use super::units::Residence;
use super::{ByteMap, Context, Operate, adjust, byte_map};
use crate::batch::exact_aggregates;
use crate::delta::{Delta, RowKeys, batch_of};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, describe, evaluate_all};
use crate::state::{Space, count_of};

const KIND: u8 = 7;
/// Partitions are computed together until they have this many rows.
const ROWS_AT_ONCE: usize = 16 * 1024;

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
    partitions: ByteMap<Partition>,
    /// Of all partitions together.
    rows: u64,
    bytes: u64,
    /// This version's changes, by partition.
    pending: ByteMap<ByteMap<i64>>,
    residence: Residence,
}

#[derive(Debug, Default)]
struct Partition {
    set: OrderedMultiset,
    used: u32,
}

impl Partition {
    /// Rows and bytes.
    fn size(&self, key: &[u8]) -> (u64, u64) {
        match self.set.distinct() {
            0 => (0, 0),
            rows => (rows as u64, (key.len() + self.set.heap_bytes() + size_of::<Partition>()) as u64),
        }
    }
}

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
            partitions: byte_map(),
            rows: 0,
            bytes: 0,
            pending: byte_map(),
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
            let scanned = space.scan(partition, &mut |key, count| match count_of(count) {
                Ok(count) => rows.push((Box::<[u8]>::from(key), count)),
                Err(error) => failed = Err(error),
            });
            context.loaded(scanned.and(failed));
            self.change(partition, rows.iter().map(|(key, count)| (&**key, *count)));
            space.root().count_loaded(1);
        }
    }

    fn sort_columns(&self) -> usize {
        self.sort_keys.schema().fields().len()
    }

    /// Adds to the rows of a partition.
    fn change<'r>(&mut self, partition: &[u8], rows: impl IntoIterator<Item = (&'r [u8], i64)>) {
        let place = self.partitions.entry_ref(partition).or_insert_with(Partition::default);
        place.used = self.residence.now;
        let before = place.size(partition);
        rows.into_iter().for_each(|(key, weight)| place.set.adjust(key, weight));
        let after = place.size(partition);
        self.rows = self.rows + after.0 - before.0;
        self.bytes = self.bytes + after.1 - before.1;
        if after.0 == 0 {
            self.partitions.remove(partition);
        }
    }

    /// Adds the rows that these partitions give, with the sign, to `out`.
    fn give(&self, partitions: &[&[u8]], sign: i64, out: &mut ByteMap<i64>, context: &mut Context<'_>) {
        let (mut rows, mut ends) = (Vec::new(), Vec::new());
        for (place, partition) in partitions.iter().enumerate() {
            if let Some(place) = self.partitions.get(*partition) {
                place.set.visit_ranks(0, self.limit, &mut |key, count| {
                    rows.extend(std::iter::repeat_n(row_of(key), usize::try_from(count).unwrap_or(0)));
                });
                ends.push(rows.len());
            }
            if rows.len() >= ROWS_AT_ONCE || place + 1 == partitions.len() {
                *context.touched += rows.len() as u64;
                self.compute(&rows, &ends, sign, out, context);
                rows.clear();
                ends.clear();
            }
        }
    }

    fn compute(&self, rows: &[&[u8]], ends: &[usize], sign: i64, out: &mut ByteMap<i64>, context: &mut Context<'_>) {
        if rows.is_empty() {
            return;
        }
        let columns = self.row_keys.decode_columns(rows.iter().copied());
        let batch = batch_of(&self.input, columns, rows.len()).expect("rows of the input");
        let (mut start, mut good, mut results) = (0, Vec::new(), vec![Vec::new(); self.functions.len()]);
        for end in ends {
            match self.evaluate(&batch.slice(start, end - start)) {
                Ok(values) => {
                    good.push((start, *end));
                    results.iter_mut().zip(values).for_each(|(list, value)| list.push(value));
                }
                Err(message) => context.errors.add(message, sign),
            }
            start = *end;
        }
        if good.is_empty() {
            return;
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
    }

    /// Each function over the rows of one partition.
    fn evaluate(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, String> {
        self.functions.iter().map(|function| function.evaluate(rows).map_err(|error| describe(&error))).collect()
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
        let touched: Vec<&[u8]> = pending.keys().map(AsRef::as_ref).collect();
        let mut changes = byte_map();
        self.load(&touched, context);
        self.give(&touched, -1, &mut changes, context);
        for (partition, rows) in &pending {
            self.change(partition, rows.iter().map(|(key, weight)| (key.as_ref(), *weight)));
            *context.touched += rows.len() as u64;
            let Some(space) = context.space else { continue };
            let place = self.partitions.get(partition);
            for key in rows.keys() {
                space.put_count(&[&**partition, &**key].concat(), place.map_or(0, |place| place.set.count(key)));
            }
        }
        self.residence.tick();
        self.give(&touched, 1, &mut changes, context);
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
                let (rows, bytes) = place.size(key);
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
        for (partition, place) in &self.partitions {
            place.set.for_each(&mut |key, count| {
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
            if is_kept(partition) {
                self.change(partition, [(key, weight)]);
            }
        }
        Ok(())
    }
}
