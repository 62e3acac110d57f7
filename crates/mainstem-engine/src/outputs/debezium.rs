//! Debezium's envelope: `{before, after, source, op, ts_ms}`, with or without the schema that Kafka Connect's JSON
//! converter writes around it.
//!
//! Types are those of Debezium's PostgreSQL connector with `decimal.handling.mode = string` and
//! `interval.handling.mode = string`: timestamps are microseconds (`io.debezium.time.MicroTimestamp`), dates days, times
//! microseconds; timestamptz is ISO text (`ZonedTimestamp`); jsonb, uuid, numeric and interval are text. Inside arrays and
//! structs values stay as `docs/json.md` has them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use bytes::Bytes;
use mainstem_catalog::{Column, Relation, Sink, SqlType};
use mainstem_formats::JsonEncoder;
use mainstem_sql::arrow_schema;
use serde_json::{Value, json};

use super::records::{At, Change, Place};
use crate::delta::batch_of;
use crate::error::EngineError;

/// Name and version that consumers see in `source`.
const CONNECTOR: &str = "mainstem";

/// See the module's text.
#[derive(Debug)]
pub(super) struct Debezium {
    key: Rows,
    row: Rows,
    /// What stands before the payload; empty without schema.
    key_schema: Vec<u8>,
    value_schema: Vec<u8>,
    /// `"version":..,"connector":..,"name":..,"db":..,"schema":..,"table":..`
    source: Vec<u8>,
}

/// Some columns of the relation as Debezium writes them.
#[derive(Debug)]
struct Rows {
    columns: Vec<usize>,
    schema: SchemaRef,
    encoder: JsonEncoder,
}

impl Rows {
    fn new(relation: &Relation, columns: &[usize]) -> Result<Rows, EngineError> {
        let picked: Vec<Column> = columns.iter().map(|column| relation.columns[*column].clone()).collect();
        let fields = arrow_schema(&picked);
        let written = fields.fields().iter().map(|field| {
            let data_type = written_type(field.data_type());
            // Without the mark of jsonb, which is text here.
            let metadata = if data_type == DataType::Utf8 { HashMap::new() } else { field.metadata().clone() };
            Arc::new(field.as_ref().clone().with_data_type(data_type).with_metadata(metadata))
        });
        let schema: SchemaRef = Arc::new(Schema::new(written.collect::<Vec<_>>()));
        let encoder = JsonEncoder::new(schema.clone()).map_err(|error| EngineError::Graph(error.to_string()))?;
        Ok(Rows { columns: columns.to_vec(), schema, encoder })
    }

    fn write(&self, (batch, row): At<'_>, out: &mut Vec<u8>) {
        let one = batch.slice(row, 1);
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| written(one.column(*column), field.data_type()))
            .collect();
        let rows = batch_of(&self.schema, columns, 1).expect("columns of the schema");
        self.encoder.encode_row(&rows, 0, out);
    }
}

/// The Arrow type whose JSON is what Debezium writes.
fn written_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(_, None) | DataType::Time64(_) => DataType::Int64,
        DataType::Date32 => DataType::Int32,
        DataType::Decimal128(..) | DataType::Binary => DataType::Utf8,
        other => other.clone(),
    }
}

fn written(column: &ArrayRef, data_type: &DataType) -> ArrayRef {
    match column.data_type() {
        found if found == data_type => column.clone(),
        DataType::Binary => {
            let bytes = column.as_binary::<i32>();
            let text = bytes.iter().map(|value| value.map(crate::dead_letters::base64));
            Arc::new(text.collect::<arrow::array::StringArray>())
        }
        _ => cast(column, data_type).expect("a cast that Arrow has"),
    }
}

impl Debezium {
    pub(super) fn new(sink: &Sink, relation: &Relation, columns: &[usize]) -> Result<Debezium, EngineError> {
        let key = sink.key.clone().unwrap_or_default();
        let name = format!("{CONNECTOR}.{}.{}", relation.schema, relation.name);
        let (key_schema, value_schema) = if sink.with_schema {
            (before_payload(&key_schema(relation, &key, &name)), before_payload(&envelope(relation, columns, &name)))
        } else {
            (Vec::new(), Vec::new())
        };
        let source = json!({
            "version": env!("CARGO_PKG_VERSION"), "connector": CONNECTOR, "name": sink.name, "db": "dev",
            "schema": relation.schema, "table": relation.name,
        });
        let source = source.to_string();
        let source = source.trim_start_matches('{').trim_end_matches('}').as_bytes().to_vec();
        let (key, row) = (Rows::new(relation, &key)?, Rows::new(relation, columns)?);
        Ok(Debezium { key, row, key_schema, value_schema, source })
    }

    pub(super) fn key(&self, row: At<'_>) -> Bytes {
        let mut out = self.key_schema.clone();
        self.key.write(row, &mut out);
        close(&self.key_schema, &mut out);
        out.into()
    }

    pub(super) fn value(&self, change: Change<'_>, place: Place) -> Bytes {
        let mut out = self.value_schema.clone();
        for (name, row) in [("{\"before\":", change.before), (",\"after\":", change.after)] {
            out.extend_from_slice(name.as_bytes());
            match row {
                Some(row) => self.row.write(row, &mut out),
                None => out.extend_from_slice(b"null"),
            }
        }
        let op = match (change.before, change.after) {
            (_, None) => "d",
            (Some(_), Some(_)) => "u",
            (None, Some(_)) if place.is_snapshot => "r",
            (None, Some(_)) => "c",
        };
        let Place { cut, ordinal, timestamp_ms, is_snapshot } = place;
        out.extend_from_slice(b",\"source\":{");
        out.extend_from_slice(&self.source);
        let tail = format!(
            ",\"ts_ms\":{timestamp_ms},\"snapshot\":\"{is_snapshot}\",\"csn\":{cut},\"ordinal\":{ordinal}}},\"op\":\"{op}\",\
             \"ts_ms\":{timestamp_ms}}}"
        );
        out.extend_from_slice(tail.as_bytes());
        close(&self.value_schema, &mut out);
        out.into()
    }
}

fn close(schema: &[u8], out: &mut Vec<u8>) {
    if !schema.is_empty() {
        out.push(b'}');
    }
}

fn before_payload(schema: &Value) -> Vec<u8> {
    format!("{{\"schema\":{schema},\"payload\":").into_bytes()
}

fn key_schema(relation: &Relation, key: &[usize], name: &str) -> Value {
    row_schema(relation, key, &format!("{name}.Key"), None)
}

fn envelope(relation: &Relation, columns: &[usize], name: &str) -> Value {
    let text = |field: &str| json!({"type": "string", "optional": true, "field": field});
    let number = |field: &str| json!({"type": "int64", "optional": true, "field": field});
    let mut source: Vec<Value> = ["version", "connector", "name", "db", "schema", "table"].map(text).to_vec();
    source.extend([number("ts_ms"), text("snapshot"), number("csn"), number("ordinal")]);
    let value = format!("{name}.Value");
    json!({
        "type": "struct", "optional": false, "name": format!("{name}.Envelope"), "version": 1,
        "fields": [
            row_schema(relation, columns, &value, Some("before")),
            row_schema(relation, columns, &value, Some("after")),
            {"type": "struct", "optional": false, "name": "mainstem.Source", "field": "source", "fields": source},
            {"type": "string", "optional": false, "field": "op"},
            number("ts_ms"),
        ],
    })
}

fn row_schema(relation: &Relation, columns: &[usize], name: &str, field: Option<&str>) -> Value {
    let fields: Vec<Value> = columns
        .iter()
        .map(|column| {
            let column = &relation.columns[*column];
            let mut schema = type_schema(&column.sql_type, false);
            schema["optional"] = json!(column.nullable);
            schema["field"] = json!(column.name);
            schema
        })
        .collect();
    let mut schema = json!({"type": "struct", "fields": fields, "optional": field.is_some(), "name": name});
    if let Some(field) = field {
        schema["field"] = json!(field);
    }
    schema
}

fn type_schema(sql_type: &SqlType, is_nested: bool) -> Value {
    let plain = |name: &str| json!({"type": name});
    let named = |name: &str, meaning: &str| json!({"type": name, "name": meaning, "version": 1});
    match sql_type {
        SqlType::Boolean => plain("boolean"),
        SqlType::SmallInt => plain("int16"),
        SqlType::Integer => plain("int32"),
        SqlType::BigInt => plain("int64"),
        SqlType::Real => plain("float"),
        SqlType::Double => plain("double"),
        SqlType::Numeric { .. } if is_nested => plain("double"),
        SqlType::Text | SqlType::Numeric { .. } => plain("string"),
        SqlType::Interval => named("string", "io.debezium.time.Interval"),
        SqlType::Jsonb => named("string", "io.debezium.data.Json"),
        SqlType::Uuid => named("string", "io.debezium.data.Uuid"),
        SqlType::Timestamptz => named("string", "io.debezium.time.ZonedTimestamp"),
        SqlType::Bytea | SqlType::Date | SqlType::Time | SqlType::Timestamp if is_nested => plain("string"),
        SqlType::Bytea => plain("bytes"),
        SqlType::Date => named("int32", "io.debezium.time.Date"),
        SqlType::Time => named("int64", "io.debezium.time.MicroTime"),
        SqlType::Timestamp => named("int64", "io.debezium.time.MicroTimestamp"),
        SqlType::List(item) => {
            let mut items = type_schema(item, true);
            items["optional"] = json!(true);
            json!({"type": "array", "items": items})
        }
        SqlType::Struct(fields) => {
            let fields: Vec<Value> = fields
                .iter()
                .map(|(name, of)| {
                    let mut schema = type_schema(of, true);
                    schema["optional"] = json!(true);
                    schema["field"] = json!(name);
                    schema
                })
                .collect();
            json!({"type": "struct", "fields": fields})
        }
    }
}
