//! Weighted rows (Z-sets) and the byte keys that rows are compared by.
//!
//! Words: a [`Delta`] is a batch of rows with one weight each, +n for n inserts, -n for n deletes; a *row key* is the bytes
//! that a row's values encode to, so that comparing bytes compares rows (nulls first, then ascending by column); to
//! *consolidate* is to merge equal rows by adding their weights.
//!
//! Always true here: a delta has as many weights as rows, and no weight is zero; two rows are equal exactly when their keys
//! are; floats are canonical in keys (-0.0 is 0.0, and there is one NaN, above all numbers), so what is decoded from a key
//! or comes out of [`Delta::consolidate`] is canonical too. Keys are valid only among [`RowKeys`] of the same column types
//! and sort options, and only for the version of Arrow's row format that wrote them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Float32Array, Float64Array, ListArray, PrimitiveArray,
    RecordBatch, RecordBatchOptions, StructArray, UInt32Array, downcast_primitive_array,
};
use arrow::compute::{SortOptions, concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, Rows, SortField};

/// Rows with weights. Cloning is cheap: the columns and weights are shared.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The rows.
    pub rows: RecordBatch,
    /// One weight per row, none of them zero.
    pub weights: Arc<[i64]>,
}

impl Delta {
    /// Rows with their weights; rows of weight zero are left out.
    ///
    /// Panics when there are not as many weights as rows.
    pub fn new(rows: RecordBatch, weights: impl Into<Arc<[i64]>>) -> Delta {
        let weights = weights.into();
        assert_eq!(rows.num_rows(), weights.len(), "a delta has one weight per row");
        if weights.contains(&0) {
            let kept: BooleanArray = weights.iter().map(|weight| Some(*weight != 0)).collect();
            return Delta { rows, weights }.filter(&kept);
        }
        Delta { rows, weights }
    }

    /// No rows.
    pub fn empty(schema: &SchemaRef) -> Delta {
        Delta { rows: RecordBatch::new_empty(schema.clone()), weights: Arc::from([]) }
    }

    /// Each row inserted once.
    pub fn from_inserts(rows: RecordBatch) -> Delta {
        let weights = vec![1; rows.num_rows()];
        Delta { rows, weights: weights.into() }
    }

    /// How many rows with a weight, not the sum of the weights.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// No rows at all.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The rows' schema.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// Inserts become deletes and the other way round.
    pub fn negate(&self) -> Delta {
        Delta { rows: self.rows.clone(), weights: self.weights.iter().map(|weight| -weight).collect() }
    }

    /// All rows after one another, not merged. `schema` is the result's when there are no deltas.
    pub fn concat(schema: &SchemaRef, deltas: &[Delta]) -> Delta {
        match deltas {
            [] => Delta::empty(schema),
            [one] => one.clone(),
            many => {
                let rows = concat_batches(&many[0].schema(), many.iter().map(|delta| &delta.rows))
                    .expect("deltas of one relation have one schema");
                Delta { rows, weights: many.iter().flat_map(|delta| delta.weights.iter().copied()).collect() }
            }
        }
    }

    /// `length` rows from `offset` on.
    pub fn slice(&self, offset: usize, length: usize) -> Delta {
        Delta { rows: self.rows.slice(offset, length), weights: self.weights[offset..offset + length].into() }
    }

    /// The rows where the mask is true (null is false).
    pub fn filter(&self, mask: &BooleanArray) -> Delta {
        let weights = self.weights.iter().enumerate();
        let kept = weights.filter(|(row, _)| mask.is_valid(*row) && mask.value(*row)).map(|(_, weight)| *weight);
        let weights: Arc<[i64]> = kept.collect();
        Delta { rows: filter_record_batch(&self.rows, mask).expect("a mask as long as the batch"), weights }
    }

    /// The rows at the indices, in their order.
    pub fn take(&self, indices: &[u32]) -> Delta {
        let weights = indices.iter().map(|index| self.weights[*index as usize]).collect();
        Delta { rows: take_rows(&self.rows, indices), weights }
    }

    /// Some of the columns.
    pub fn project(&self, columns: &[usize]) -> Delta {
        let rows = self.rows.project(columns).expect("columns of the batch");
        Delta { rows, weights: self.weights.clone() }
    }

    /// The same rows under another schema of the same types (names, nullability, metadata).
    pub fn with_schema(&self, schema: &SchemaRef) -> Delta {
        let rows = batch_of(schema, self.rows.columns().to_vec(), self.len()).expect("columns of the schema's types");
        Delta { rows, weights: self.weights.clone() }
    }

    /// Equal rows merged, rows of weight zero gone, in the order of the row keys, floats canonical. The result depends only
    /// on the sum of the deltas, not on how it was cut into deltas or rows.
    pub fn consolidate(schema: &SchemaRef, deltas: &[Delta]) -> Delta {
        let all = Delta::concat(schema, deltas).canonical();
        let keys = RowKeys::new(schema).expect("column types that have an order").encode(all.rows.columns(), all.len());
        let mut order: Vec<u32> = (0..all.len() as u32).collect();
        order.sort_unstable_by(|left, right| keys.get(*left as usize).cmp(keys.get(*right as usize)));
        let mut kept: Vec<u32> = Vec::with_capacity(order.len());
        let mut weights: Vec<i64> = Vec::with_capacity(order.len());
        for run in order.chunk_by(|left, right| keys.get(*left as usize) == keys.get(*right as usize)) {
            let weight: i64 = run.iter().map(|row| all.weights[*row as usize]).sum();
            if weight != 0 {
                kept.push(run[0]);
                weights.push(weight);
            }
        }
        Delta { rows: take_rows(&all.rows, &kept), weights: weights.into() }
    }

    /// The same rows with canonical floats.
    pub fn canonical(&self) -> Delta {
        Delta { rows: canonical_floats(&self.rows), weights: self.weights.clone() }
    }
}

/// A batch of columns; `rows` is needed when there are no columns.
pub(crate) fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

/// The rows at the indices, in their order.
pub(crate) fn take_rows(rows: &RecordBatch, indices: &[u32]) -> RecordBatch {
    if rows.num_columns() == 0 {
        return batch_of(&rows.schema(), Vec::new(), indices.len()).expect("a batch without columns");
    }
    take_record_batch(rows, &UInt32Array::from(indices.to_vec())).expect("indices within the batch")
}

/// The batch with -0.0 as 0.0 and every NaN as the one NaN, also inside lists and structs. Cheap when nothing changes.
pub fn canonical_floats(rows: &RecordBatch) -> RecordBatch {
    if !rows.schema().fields().iter().any(|field| holds_floats(field.data_type())) {
        return rows.clone();
    }
    let columns = rows.columns().iter().map(canonical_column).collect();
    batch_of(&rows.schema(), columns, rows.num_rows()).expect("types stay the same")
}

fn holds_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float32 | DataType::Float64 => true,
        DataType::List(item) => holds_floats(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_floats(field.data_type())),
        _ => false,
    }
}

fn canonical_column(column: &ArrayRef) -> ArrayRef {
    if !holds_floats(column.data_type()) {
        return column.clone();
    }
    match column.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            if values.values().iter().all(|value| canonical_f64(*value).to_bits() == value.to_bits()) {
                return column.clone();
            }
            let canonical: Float64Array = values.unary(canonical_f64);
            Arc::new(canonical)
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            let canonical: Float32Array = values.unary(|value| if value.is_nan() { f32::NAN } else { value + 0.0 });
            Arc::new(canonical)
        }
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            let values = canonical_column(list.values());
            Arc::new(ListArray::new(item.clone(), list.offsets().clone(), values, list.nulls().cloned()))
        }
        DataType::Struct(fields) => {
            let parts = column.as_struct();
            let columns = parts.columns().iter().map(canonical_column).collect();
            Arc::new(StructArray::new(fields.clone(), columns, parts.nulls().cloned()))
        }
        _ => column.clone(),
    }
}

/// The column with zeros where it is null. Arrow's row format leaves the smallest integer there, and some functions compute
/// on it although it is null, and overflow (`date_trunc` of DataFusion 54).
fn zero_below_nulls(column: ArrayRef) -> ArrayRef {
    fn zeroed<T: ArrowPrimitiveType>(column: &PrimitiveArray<T>) -> ArrayRef {
        let values = (0..column.len()).map(|row| match column.is_valid(row) {
            true => column.value(row),
            false => T::default_value(),
        });
        let values = PrimitiveArray::<T>::new(values.collect(), column.nulls().cloned());
        Arc::new(values.with_data_type(column.data_type().clone()))
    }
    if column.null_count() == 0 {
        return column;
    }
    let values = column.as_ref();
    downcast_primitive_array!(
        values => zeroed(values),
        _ => column
    )
}

/// The float that stands for all floats equal to it: 0.0 for -0.0, one NaN for all.
pub fn canonical_f64(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

/// Turns rows into keys and back. See the module's text for what keys are.
#[derive(Debug)]
pub struct RowKeys {
    /// None without columns: the row format counts rows by its first column.
    converter: Option<RowConverter>,
    schema: SchemaRef,
}

/// The keys of some rows, see [`RowKeys::encode`].
#[derive(Debug)]
pub struct EncodedRows {
    rows: Option<Rows>,
    len: usize,
}

impl EncodedRows {
    /// The key of one row.
    pub fn get(&self, row: usize) -> &[u8] {
        match &self.rows {
            Some(rows) => rows.row(row).data(),
            None => &[],
        }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys in the order of the rows.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len).map(|row| self.get(row))
    }
}

impl RowKeys {
    /// Keys of rows of this schema: ascending, nulls first. An error names a type that has no order (maps).
    pub fn new(schema: &SchemaRef) -> Result<RowKeys, ArrowError> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        RowKeys::with_fields(schema.clone(), fields.collect())
    }

    /// Keys of values of these types, each ordered by its options.
    pub fn ordered(columns: &[(DataType, SortOptions)]) -> Result<RowKeys, ArrowError> {
        let fields: Vec<Field> =
            columns.iter().map(|(data_type, _)| Field::new("key", data_type.clone(), true)).collect();
        let sort = columns.iter().map(|(data_type, options)| SortField::new_with_options(data_type.clone(), *options));
        RowKeys::with_fields(Arc::new(Schema::new(fields)), sort.collect())
    }

    /// Keys of values of these types, ascending, nulls first.
    pub fn of_types(types: &[DataType]) -> Result<RowKeys, ArrowError> {
        let columns: Vec<_> = types.iter().map(|data_type| (data_type.clone(), SortOptions::default())).collect();
        RowKeys::ordered(&columns)
    }

    fn with_fields(schema: SchemaRef, fields: Vec<SortField>) -> Result<RowKeys, ArrowError> {
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(RowKeys { converter, schema })
    }

    /// The schema that [`RowKeys::decode`] gives.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The keys of `len` rows.
    pub fn encode(&self, columns: &[ArrayRef], len: usize) -> EncodedRows {
        let rows = self.converter.as_ref().map(|converter| {
            let canonical: Vec<ArrayRef> = columns.iter().map(canonical_column).collect();
            converter.convert_columns(&canonical).expect("columns of the converter's types")
        });
        EncodedRows { rows, len }
    }

    /// The columns that the keys stand for.
    pub fn decode_columns<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Vec<ArrayRef> {
        let Some(converter) = &self.converter else { return Vec::new() };
        let parser: RowParser = converter.parser();
        let rows: Vec<_> = keys.into_iter().map(|key| parser.parse(key)).collect();
        let columns = converter.convert_rows(rows).expect("keys that this configuration wrote");
        columns.into_iter().map(zero_below_nulls).collect()
    }

    /// The rows that the keys stand for, under this object's schema.
    pub fn decode<'a>(&self, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> RecordBatch {
        let len = keys.len();
        batch_of(&self.schema, self.decode_columns(keys), len).expect("keys of rows of the schema")
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn rows(ids: &[i64], names: &[Option<&str>], floats: &[f64]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
            Field::new("value", DataType::Float64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids.to_vec())),
            Arc::new(StringArray::from(names.to_vec())),
            Arc::new(Float64Array::from(floats.to_vec())),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    #[test]
    fn consolidation_merges_equal_rows_and_orders_by_key() {
        let first = Delta::from_inserts(rows(&[2, 1, 2], &[Some("b"), None, Some("b")], &[-0.0, f64::NAN, 0.0]));
        let second = Delta::new(rows(&[1, 3], &[None, Some("c")], &[-f64::NAN, 1.5]), vec![-1, 4]);
        let merged = Delta::consolidate(&first.schema(), &[first.clone(), second.clone()]);
        assert_eq!(merged.rows, rows(&[2, 3], &[Some("b"), Some("c")], &[0.0, 1.5]));
        assert_eq!(merged.weights.as_ref(), &[2, 4]);
        let reversed = Delta::consolidate(&first.schema(), &[second, first]);
        assert_eq!((reversed.rows, reversed.weights), (merged.rows, merged.weights));
    }

    #[test]
    fn a_delta_plus_its_negation_is_nothing() {
        let delta = Delta::new(rows(&[5, 6], &[Some("x"), None], &[1.0, 2.0]), vec![3, -2]);
        assert!(Delta::consolidate(&delta.schema(), &[delta.clone(), delta.negate()]).is_empty());
    }

    #[test]
    fn keys_round_trip_and_rows_without_columns_are_all_equal() {
        let batch = rows(&[1, -1], &[None, Some("")], &[f64::NEG_INFINITY, -0.0]);
        let keys = RowKeys::new(&batch.schema()).unwrap();
        let encoded = keys.encode(batch.columns(), 2);
        assert!(encoded.get(1) < encoded.get(0), "-1 sorts before 1");
        assert_eq!(keys.decode([encoded.get(0), encoded.get(1)].into_iter()), canonical_floats(&batch));

        let nothing: SchemaRef = Arc::new(Schema::empty());
        let delta = Delta::new(batch_of(&nothing, Vec::new(), 3).unwrap(), vec![1, 1, -1]);
        let merged = Delta::consolidate(&nothing, &[delta]);
        assert_eq!((merged.len(), merged.weights[0]), (1, 1));
    }

    #[test]
    fn rows_of_weight_zero_are_left_out() {
        let delta = Delta::new(rows(&[1, 2, 3], &[None, None, None], &[0.0, 0.0, 0.0]), vec![1, 0, -1]);
        assert_eq!(delta.weights.as_ref(), &[1, -1]);
        assert_eq!(delta.slice(1, 1).rows, delta.take(&[1]).rows);
    }
}
