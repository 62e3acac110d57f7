//! Rows to the records of a sink.
//!
//! A *change* is what happens to one key from one version to the next: a row before, a row after, or both; without a key,
//! each row is a change of its own.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use mainstem_catalog::{Relation, Sink, SinkFormat};
use mainstem_formats::JsonEncoder;
use mainstem_sql::arrow_schema;

use super::debezium::Debezium;
use crate::error::EngineError;
use crate::input_log::{Cut, OutRecord};

/// A row in a batch.
pub(super) type At<'a> = (&'a RecordBatch, usize);

/// What happened to one key, or to one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) before: Option<At<'a>>,
    pub(super) after: Option<At<'a>>,
}

/// Which change of which version it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) cut: Cut,
    /// Of the first record of the change, counted within the version.
    pub(super) ordinal: u64,
    pub(super) timestamp_ms: i64,
    pub(super) is_snapshot: bool,
}

/// Writes the records of one sink.
#[derive(Debug)]
pub(super) struct Encoder {
    format: SinkFormat,
    key: Option<KeyEncoder>,
    columns: Vec<usize>,
    rows: JsonEncoder,
    debezium: Option<Debezium>,
}

#[derive(Debug)]
struct KeyEncoder {
    columns: Vec<usize>,
    rows: JsonEncoder,
}

impl Encoder {
    /// For the rows of a relation, hidden columns included; those are left out of values.
    pub(super) fn new(sink: &Sink, relation: &Relation) -> Result<Encoder, EngineError> {
        let schema = arrow_schema(&relation.columns);
        let columns: Vec<usize> = crate::batch::visible_columns(relation);
        let encoder =
            |schema: SchemaRef| JsonEncoder::new(schema).map_err(|error| EngineError::Graph(error.to_string()));
        let project = |columns: &[usize]| -> SchemaRef {
            std::sync::Arc::new(schema.project(columns).expect("columns of the relation"))
        };
        let rows = encoder(project(&columns))?;
        let key = match &sink.key {
            Some(key) => Some(KeyEncoder { columns: key.clone(), rows: encoder(project(key))? }),
            None => None,
        };
        let debezium = match sink.format {
            SinkFormat::Debezium => Some(Debezium::new(sink, relation, &columns)?),
            SinkFormat::Plain | SinkFormat::Upsert => None,
        };
        Ok(Encoder { format: sink.format, key, columns, rows, debezium })
    }

    /// The records of a change, in their order.
    pub(super) fn records(&self, change: Change<'_>, place: Place) -> Vec<OutRecord> {
        let record = |key, value| OutRecord { key, value, headers: Vec::new(), timestamp_ms: place.timestamp_ms };
        let Some(of_key) = change.after.or(change.before) else { return Vec::new() };
        if let Some(debezium) = &self.debezium {
            let key = Some(debezium.key(of_key));
            let mut records = vec![record(key.clone(), Some(debezium.value(change, place)))];
            // As Debezium has it: the delete itself, then what lets compaction forget the key.
            if change.after.is_none() {
                records.push(record(key, None));
            }
            return records;
        }
        let key = self.key.as_ref().map(|key| key.encode(of_key));
        match (self.format, change.after) {
            (SinkFormat::Plain, None) => Vec::new(),
            (_, after) => vec![record(key, after.map(|row| self.value(row)))],
        }
    }

    fn value(&self, (batch, row): At<'_>) -> Bytes {
        encode(&self.rows, &self.columns, batch, row)
    }
}

impl KeyEncoder {
    fn encode(&self, (batch, row): At<'_>) -> Bytes {
        encode(&self.rows, &self.columns, batch, row)
    }
}

fn encode(encoder: &JsonEncoder, columns: &[usize], batch: &RecordBatch, row: usize) -> Bytes {
    let picked = batch.slice(row, 1).project(columns).expect("columns of the relation");
    let mut bytes = Vec::new();
    encoder.encode_row(&picked, 0, &mut bytes);
    bytes.into()
}
