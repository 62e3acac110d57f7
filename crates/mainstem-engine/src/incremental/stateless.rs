//! Operators without state: filter, project, unnest, union, constant rows, late rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, PrimitiveArray, RecordBatch};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use mainstem_sql::Literal;

use super::encoding::{StateReader, StateWriter};
use super::{Context, LATE_COLUMN, Operate};
use crate::delta::{Delta, batch_of, canonical_floats};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, boolean, evaluate_all, filter};

const KIND_CONSTANT: u8 = 1;

/// Rows for which the predicate is true.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) predicate: CompiledScalar,
    pub(super) schema: SchemaRef,
}

impl Operate for Filter {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        vec![filter(&self.predicate, delta, context.errors).with_schema(&self.schema)]
    }
}

/// The expressions of each row.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) expressions: Vec<CompiledScalar>,
    pub(super) schema: SchemaRef,
}

impl Operate for Project {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let (left, values) = evaluate_all(&self.expressions, delta, context.errors);
        let columns = values.iter().zip(self.schema.fields());
        let columns = columns.map(|(values, field)| of_type(values, field.data_type())).collect();
        let rows = batch_of(&self.schema, columns, left.len()).expect("values of the node's types");
        vec![Delta { rows: canonical_floats(&rows), weights: left.weights }]
    }
}

/// The values under the type that the graph gives them; a cast only where Arrow's types differ in form (field names of
/// nested types).
pub(super) fn of_type(values: &ArrayRef, data_type: &DataType) -> ArrayRef {
    if values.data_type() == data_type {
        return values.clone();
    }
    cast(values, data_type).expect("a value of the type that the graph names")
}

/// A row per item of a list column, which the item replaces.
#[derive(Debug)]
pub(super) struct Unnest {
    pub(super) column: usize,
    pub(super) schema: SchemaRef,
}

impl Operate for Unnest {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let list = delta.rows.column(self.column).as_list::<i32>();
        let (mut rows, mut items) = (Vec::new(), Vec::new());
        for row in 0..list.len() {
            if list.is_valid(row) {
                let (start, end) = (list.value_offsets()[row], list.value_offsets()[row + 1]);
                rows.extend((start..end).map(|_| row as u32));
                items.extend((start..end).map(|item| item as u32));
            }
        }
        *context.touched += rows.len() as u64;
        let repeated = delta.take(&rows);
        let mut columns = repeated.rows.columns().to_vec();
        let items = arrow::array::UInt32Array::from(items);
        columns[self.column] = take(list.values(), &items, None).expect("items of the list");
        let data_type = self.schema.field(self.column).data_type();
        columns[self.column] = of_type(&columns[self.column], data_type);
        let rows = batch_of(&self.schema, columns, repeated.len()).expect("the list's item type");
        vec![Delta { rows, weights: repeated.weights }]
    }
}

/// All rows of all inputs.
#[derive(Debug)]
pub(super) struct Union {
    pub(super) schema: SchemaRef,
}

impl Operate for Union {
    fn apply(&mut self, _port: usize, delta: &Delta, _context: &mut Context<'_>) -> Vec<Delta> {
        let columns = delta.rows.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| of_type(column, field.data_type())).collect();
        let rows = batch_of(&self.schema, columns, delta.len()).expect("columns of the node's types");
        vec![Delta { rows, weights: delta.weights.clone() }]
    }
}

/// Takes out the rows that are marked late, counts them, and takes off the mark.
#[derive(Debug)]
pub(super) struct DropLate {
    pub(super) schema: SchemaRef,
}

impl Operate for DropLate {
    fn apply(&mut self, _port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let width = self.schema.fields().len();
        let marked = delta.rows.num_columns() == width + 1 && delta.schema().field(width).name() == LATE_COLUMN;
        let columns: Vec<usize> = (0..width).collect();
        if !marked {
            return vec![delta.project(&columns).with_schema(&self.schema)];
        }
        let late = boolean(delta.rows.column(width));
        let is_late = |row: usize| late.is_valid(row) && late.value(row);
        let in_time: BooleanArray = (0..late.len()).map(|row| Some(!is_late(row))).collect();
        let late_rows = (0..late.len()).filter(|row| is_late(*row));
        *context.late += late_rows.map(|row| delta.weights[row].unsigned_abs()).sum::<u64>();
        vec![delta.filter(&in_time).project(&columns).with_schema(&self.schema)]
    }
}

/// Rows that are there from the first version on. State: one entry, empty, once they have been given.
#[derive(Debug)]
pub(super) struct Constant {
    rows: RecordBatch,
    is_given: bool,
}

impl Constant {
    pub(super) fn new(rows: &[Vec<Literal>], schema: &SchemaRef) -> Result<Constant, EngineError> {
        let wrong = |error: &dyn std::fmt::Display| EngineError::Graph(format!("constant rows: {error}"));
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (place, field) in schema.fields().iter().enumerate() {
            let values = rows.iter().map(|row| row[place].to_value());
            let values: Vec<ScalarValue> = values.collect::<Result<_, _>>().map_err(|error| wrong(&error.message))?;
            let typed = values.iter().map(|value| value.cast_to(field.data_type()));
            let typed: Vec<ScalarValue> = typed.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
            columns.push(match typed.is_empty() {
                true => arrow::array::new_empty_array(field.data_type()),
                false => ScalarValue::iter_to_array(typed).map_err(|error| wrong(&error))?,
            });
        }
        let rows = batch_of(schema, columns, rows.len()).map_err(|error| wrong(&error))?;
        Ok(Constant { rows: canonical_floats(&rows), is_given: false })
    }
}

impl Operate for Constant {
    fn apply(&mut self, _port: usize, _delta: &Delta, _context: &mut Context<'_>) -> Vec<Delta> {
        Vec::new()
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        if std::mem::replace(&mut self.is_given, true) {
            return Vec::new();
        }
        *context.touched += self.rows.num_rows() as u64;
        vec![Delta::from_inserts(self.rows.clone())]
    }

    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        if self.is_given {
            let mut writer = StateWriter::new(KIND_CONSTANT, out);
            writer.u8(1);
            writer.finish();
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), EngineError> {
        self.is_given = StateReader::new(KIND_CONSTANT, section)?.u8()? == 1;
        Ok(())
    }
}

/// The rows of keys with weights.
pub(super) fn keyed_delta(keys: &crate::delta::RowKeys, rows: &[(&[u8], i64)], schema: &SchemaRef) -> Delta {
    let columns = keys.decode_columns(rows.iter().map(|(key, _)| *key));
    let batch = batch_of(schema, columns, rows.len()).expect("keys of rows of the schema");
    let weights: Arc<[i64]> = rows.iter().map(|(_, weight)| *weight).collect();
    Delta::new(batch, weights)
}

/// Timestamps as microseconds, whatever their unit and zone.
pub(super) fn microseconds(column: &ArrayRef) -> PrimitiveArray<TimestampMicrosecondType> {
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let stamps = of_type(column, &DataType::Timestamp(TimeUnit::Microsecond, zone));
    stamps.as_primitive::<TimestampMicrosecondType>().clone()
}

/// Timestamps in microseconds, or integers, as 64-bit integers.
pub(super) fn ordinals(column: &ArrayRef) -> Int64Array {
    match column.data_type() {
        DataType::Timestamp(..) => {
            let stamps = microseconds(column);
            Int64Array::new(stamps.values().clone(), stamps.nulls().cloned())
        }
        _ => of_type(column, &DataType::Int64).as_primitive::<Int64Type>().clone(),
    }
}
