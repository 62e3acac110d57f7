//! The one meaning of records as rows, for views and for batch queries alike.
//!
//! Words: a record is *rejected* when it does not decode; it becomes a dead letter and no row. The *value columns* of a
//! source are those that no INCLUDE fills. A table's record has the row as its value, and the key columns alone as its key,
//! both as canonical JSON; a null value deletes the key.
//!
//! Always true here: what a record becomes depends on the record and the relation's definition alone.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use bytes::Bytes;
use mainstem_catalog::{Column, IncludeKind, Relation, RelationKind, SourceDefinition, TableDefinition, Watermark};
use mainstem_formats::{JsonDecoder, JsonEncoder};
use mainstem_sql::{arrow_field, arrow_schema, constant};

use crate::collection::{KeyKind, Layout};
use crate::delta::batch_of;
use crate::error::EngineError;
use crate::input_log::{Batches, LogRecord};

/// Rows of some records.
#[derive(Clone, Debug)]
pub struct DecodedRecords {
    /// All columns of the relation, in its order.
    pub rows: RecordBatch,
    /// Row `i` came from the record at `accepted[i]`.
    pub accepted: Vec<u32>,
    /// Records that are no rows, by place, and why.
    pub rejected: Vec<(u32, String)>,
}

/// Reads the records of one source.
#[derive(Debug)]
pub struct SourceReader {
    schema: SchemaRef,
    definition: SourceDefinition,
    decoder: JsonDecoder,
    value_columns: Vec<usize>,
}

impl SourceReader {
    /// A reader; an error when the relation is no source or has a column that its encoding cannot hold.
    pub fn new(relation: &Relation) -> Result<SourceReader, EngineError> {
        let RelationKind::Source(definition) = &relation.kind else {
            return Err(EngineError::Graph(format!("\"{}\" is not a source", relation.name)));
        };
        let schema = arrow_schema(&relation.columns);
        let is_included = |column: &usize| definition.includes.iter().any(|include| include.column == *column);
        let value_columns: Vec<usize> = (0..schema.fields().len()).filter(|column| !is_included(column)).collect();
        let value_schema = project(&schema, &value_columns);
        let decoder = JsonDecoder::new(value_schema).map_err(|error| EngineError::Graph(error.to_string()))?;
        Ok(SourceReader { schema, definition: definition.clone(), decoder, value_columns })
    }

    /// All columns of the source.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Event time, if declared.
    #[must_use]
    pub fn watermark(&self) -> Option<&Watermark> {
        self.definition.watermark.as_ref()
    }

    /// The rows of records of one partition.
    pub fn decode(&mut self, partition: i32, records: &[LogRecord]) -> DecodedRecords {
        let decoded = self.decoder.decode(records.iter().map(|record| record.value.as_deref()));
        let mut rejected: Vec<(u32, String)> =
            decoded.rejected.into_iter().map(|(index, reason)| (index, reason.to_string())).collect();
        let (mut values, mut accepted) = (decoded.batch, decoded.accepted);
        if let Some(text) = self.text_key() {
            let (good, bad) = split_by_key(records, &accepted, text);
            if !bad.is_empty() {
                values = take_record_batch(&values, &UInt32Array::from(good.clone())).expect("rows of the batch");
                accepted = good.iter().map(|row| accepted[*row as usize]).collect();
                rejected.extend(bad);
                rejected.sort_by_key(|(index, _)| *index);
            }
        }
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        for (column, array) in self.value_columns.iter().zip(values.columns()) {
            columns[*column] = Some(array.clone());
        }
        for include in &self.definition.includes {
            let data_type = self.schema.field(include.column).data_type();
            columns[include.column] = Some(included(include.kind, data_type, partition, records, &accepted));
        }
        let columns = columns.into_iter().map(|column| column.expect("every column is of the value or included"));
        let rows = batch_of(&self.schema, columns.collect(), accepted.len()).expect("columns of the schema");
        DecodedRecords { rows, accepted, rejected }
    }

    /// The name of the key's column where it is text.
    fn text_key(&self) -> Option<&str> {
        let mut keys = self.definition.includes.iter().filter(|include| include.kind == IncludeKind::Key);
        let field = |column: usize| self.schema.field(column);
        let text = |include: &&mainstem_catalog::Include| field(include.column).data_type() == &DataType::Utf8;
        keys.find(text).map(|include| field(include.column).name().as_str())
    }
}

/// [`SourceReader::decode`] for those who read a few batches only.
pub fn decode_batches(relation: &Relation, partition: i32, batches: &Batches) -> Result<DecodedRecords, EngineError> {
    Ok(SourceReader::new(relation)?.decode(partition, &batches.records))
}

fn project(schema: &SchemaRef, columns: &[usize]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|column| schema.field(*column).clone()).collect::<Vec<_>>()))
}

/// Rows whose key is text or null, and the records whose key is not.
fn split_by_key(records: &[LogRecord], accepted: &[u32], column: &str) -> (Vec<u32>, Vec<(u32, String)>) {
    let (mut good, mut bad) = (Vec::with_capacity(accepted.len()), Vec::new());
    for (row, index) in (0..).zip(accepted) {
        let key = records[*index as usize].key.as_deref();
        match key.map(std::str::from_utf8) {
            Some(Err(error)) => {
                let at = error.valid_up_to();
                bad.push((*index, format!("column \"{column}\": the record's key is not UTF-8 at byte {at}")));
            }
            _ => good.push(row),
        }
    }
    (good, bad)
}

fn included(
    kind: IncludeKind,
    data_type: &DataType,
    partition: i32,
    records: &[LogRecord],
    accepted: &[u32],
) -> ArrayRef {
    let of = || accepted.iter().map(|index| &records[*index as usize]);
    match (kind, data_type) {
        (IncludeKind::Key, DataType::Utf8) => {
            let text = |key| std::str::from_utf8(key).expect("keys that are not text were rejected");
            Arc::new(of().map(|record| record.key.as_deref().map(text)).collect::<StringArray>())
        }
        (IncludeKind::Key, _) => {
            let mut keys = BinaryBuilder::new();
            of().for_each(|record| keys.append_option(record.key.as_deref()));
            Arc::new(keys.finish())
        }
        (IncludeKind::Partition, DataType::Utf8) => {
            Arc::new(of().map(|_| Some(partition.to_string())).collect::<StringArray>())
        }
        (IncludeKind::Partition, DataType::Int64) => {
            Arc::new(Int64Array::from(vec![i64::from(partition); accepted.len()]))
        }
        (IncludeKind::Partition, _) => Arc::new(Int32Array::from(vec![partition; accepted.len()])),
        (IncludeKind::Offset, DataType::Utf8) => {
            Arc::new(of().map(|record| Some(record.offset.to_string())).collect::<StringArray>())
        }
        (IncludeKind::Offset, _) => Arc::new(of().map(|record| record.offset).collect::<Int64Array>()),
        (IncludeKind::Timestamp, data_type) => {
            let times: TimestampMicrosecondArray =
                of().map(|record| Some(record.timestamp_ms.saturating_mul(1000))).collect();
            match data_type {
                DataType::Timestamp(_, Some(zone)) => Arc::new(times.with_timezone(zone.clone())),
                _ => Arc::new(times),
            }
        }
    }
}

/// Records that are older than a column (ALTER TABLE ADD COLUMN) have its default, which is a constant then. What is written
/// later has every member.
fn absent_value(column: &Column) -> Result<Option<String>, EngineError> {
    let Some(value) = column.default.as_ref().and_then(|text| constant(text, &column.sql_type).ok()) else {
        return Ok(None);
    };
    let field = arrow_field(column).with_nullable(true);
    let encoder = JsonEncoder::new(Arc::new(Schema::new(vec![field.clone()])));
    let encoder = encoder.map_err(|error| EngineError::Graph(error.to_string()))?;
    let array = value.to_array_of_size(1).map_err(|error| EngineError::Graph(error.to_string()))?;
    let row = batch_of(&Arc::new(Schema::new(vec![field])), vec![array], 1);
    let row = row.map_err(|error| EngineError::Graph(error.to_string()))?;
    let mut record = Vec::new();
    encoder.encode_row(&row, 0, &mut record);
    let record = String::from_utf8(record).map_err(|error| EngineError::Graph(error.to_string()))?;
    // The one member of the object, by the text of its name.
    let name = serde_json::to_string(&column.name).map_err(|error| EngineError::Graph(error.to_string()))?;
    let value = record.strip_prefix(&format!("{{{name}:")).and_then(|rest| rest.strip_suffix('}'));
    Ok(value.map(str::to_owned))
}

/// Records of one table, both ways.
#[derive(Debug)]
pub struct TableCodec {
    schema: SchemaRef,
    definition: TableDefinition,
    key_schema: SchemaRef,
    rows: JsonDecoder,
    keys: JsonDecoder,
    row_encoder: JsonEncoder,
    key_encoder: JsonEncoder,
}

/// What the records of a table say, record by record.
#[derive(Debug)]
pub struct TableChanges {
    /// The rows that were written.
    pub rows: RecordBatch,
    /// In record order: the row's key as the table's collection has it, and the row in `rows`, or none for a delete.
    pub changes: Vec<(Box<[u8]>, Option<u32>)>,
    /// Records that are no rows, by place, and why.
    pub rejected: Vec<(u32, String)>,
}

impl TableCodec {
    /// A codec; an error when the relation is no table or has a column that JSON cannot hold.
    pub fn new(relation: &Relation) -> Result<TableCodec, EngineError> {
        let RelationKind::Table(definition) = &relation.kind else {
            return Err(EngineError::Graph(format!("\"{}\" is not a table", relation.name)));
        };
        let schema = arrow_schema(&relation.columns);
        let key_schema = project(&schema, &definition.primary_key);
        let unsupported = |error: mainstem_formats::UnsupportedType| EngineError::Graph(error.to_string());
        let mut rows = JsonDecoder::new(schema.clone()).map_err(unsupported)?;
        for (place, column) in relation.columns.iter().enumerate() {
            if let Some(json) = absent_value(column)? {
                rows.set_absent(place, &json);
            }
        }
        Ok(TableCodec {
            rows,
            keys: JsonDecoder::new(key_schema.clone()).map_err(unsupported)?,
            row_encoder: JsonEncoder::new(schema.clone()).map_err(unsupported)?,
            key_encoder: JsonEncoder::new(key_schema.clone()).map_err(unsupported)?,
            schema,
            definition: definition.clone(),
            key_schema,
        })
    }

    /// All columns of the table, the hidden row id included.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The key columns, in key order.
    #[must_use]
    pub fn key_schema(&self) -> &SchemaRef {
        &self.key_schema
    }

    /// What identifies a row of the table's collection.
    #[must_use]
    pub fn key_kind(&self) -> KeyKind {
        KeyKind::Columns(self.definition.primary_key.clone())
    }

    /// The record's key for a row (of all columns).
    #[must_use]
    pub fn encode_key(&self, rows: &RecordBatch, row: usize) -> Bytes {
        let keys = rows.project(&self.definition.primary_key).expect("key columns of the table");
        let mut bytes = Vec::new();
        self.key_encoder.encode_row(&keys, row, &mut bytes);
        bytes.into()
    }

    /// The record's value for a row (of all columns).
    #[must_use]
    pub fn encode_value(&self, rows: &RecordBatch, row: usize) -> Bytes {
        let mut bytes = Vec::new();
        self.row_encoder.encode_row(rows, row, &mut bytes);
        bytes.into()
    }

    /// What records say, in their order; `layout` is that of the table's collection.
    pub fn decode(&mut self, layout: &Layout, records: &[LogRecord]) -> TableChanges {
        let (mut written, mut deleted): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for (index, record) in (0..).zip(records) {
            if record.value.is_some() { written.push(index) } else { deleted.push(index) }
        }
        let at = |index: &u32| &records[*index as usize];
        let rows = self.rows.decode(written.iter().map(|index| at(index).value.as_deref()));
        let keys = self.keys.decode(deleted.iter().map(|index| at(index).key.as_deref()));
        let row_keys = layout.keys_of(&rows.batch);
        let deleted_keys = layout.keys_of_columns(keys.batch.columns(), keys.batch.num_rows());
        let mut changes: Vec<(u32, Box<[u8]>, Option<u32>)> = Vec::with_capacity(records.len());
        for (row, place) in (0..).zip(&rows.accepted) {
            changes.push((written[*place as usize], row_keys.get(row as usize).into(), Some(row)));
        }
        for (row, place) in keys.accepted.iter().enumerate() {
            changes.push((deleted[*place as usize], deleted_keys.get(row).into(), None));
        }
        changes.sort_unstable_by_key(|(index, ..)| *index);
        let of_rows = rows.rejected.into_iter().map(|(place, reason)| (written[place as usize], reason.to_string()));
        let of_keys =
            keys.rejected.into_iter().map(|(place, reason)| (deleted[place as usize], format!("key: {reason}")));
        let mut rejected: Vec<_> = of_rows.chain(of_keys).collect();
        rejected.sort_unstable_by_key(|(index, _)| *index);
        let changes = changes.into_iter().map(|(_, key, row)| (key, row)).collect();
        TableChanges { rows: rows.batch, changes, rejected }
    }
}
