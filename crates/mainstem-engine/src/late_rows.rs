//! Late rows as rows of the table that their source names in LATE INTO.
//!
//! The table has the source's columns, by name, and three more that say why a row is there. Its key is the place of the
//! record, so that a row that came twice would still be there once.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use mainstem_catalog::{LATE_OFFSET_COLUMN, LATE_PARTITION_COLUMN, LATE_WATERMARK_COLUMN, Relation};

use crate::delta::batch_of;
use crate::error::EngineError;
use crate::input_log::OutRecord;
use crate::lane::LateRows;
use crate::source_reader::TableCodec;

/// A record for an output, by the place of the record that it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) record: OutRecord,
}

/// The table's records of these rows.
pub(crate) fn records_of(source: &Relation, table: &Relation, late: &[LateRows]) -> Result<Vec<Placed>, EngineError> {
    let codec = TableCodec::new(table)?;
    let mut placed = Vec::new();
    for rows in late {
        let batch = row_batch(source, table, &codec, rows)?;
        for (row, (offset, timestamp_ms)) in rows.records.iter().enumerate() {
            let record = OutRecord {
                key: Some(codec.encode_key(&batch, row)),
                value: Some(codec.encode_value(&batch, row)),
                headers: Vec::new(),
                timestamp_ms: *timestamp_ms,
            };
            placed.push(Placed { partition: rows.partition, offset: *offset, record });
        }
    }
    Ok(placed)
}

fn row_batch(
    source: &Relation,
    table: &Relation,
    codec: &TableCodec,
    late: &LateRows,
) -> Result<RecordBatch, EngineError> {
    let count = late.rows.num_rows();
    let misfit = |name: &str| EngineError::Graph(format!("table \"{}\" does not fit: column \"{name}\"", table.name));
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(table.columns.len());
    for (column, field) in table.columns.iter().zip(codec.schema().fields()) {
        let values: ArrayRef = match column.name.as_str() {
            LATE_PARTITION_COLUMN => Arc::new(Int32Array::from(vec![late.partition; count])),
            LATE_OFFSET_COLUMN => Arc::new(late.records.iter().map(|(offset, _)| *offset).collect::<Int64Array>()),
            LATE_WATERMARK_COLUMN => Arc::new(TimestampMicrosecondArray::from(late.watermarks_us.clone())),
            name => late.rows.column(source.column(name).ok_or_else(|| misfit(name))?).clone(),
        };
        let is_same = values.data_type() == field.data_type();
        columns.push(if is_same {
            values
        } else {
            cast(&values, field.data_type()).map_err(|_| misfit(&column.name))?
        });
    }
    batch_of(codec.schema(), columns, count).map_err(|error| EngineError::Graph(error.to_string()))
}
