//! Rows of a `RecordBatch` to their one JSON text.
//!
//! Canonical: one object without spaces, every column in the schema's order, null written as `null`. The text does not
//! depend on the machine, the locale or a library's choice of number format, because table keys are such text.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, SchemaRef, Time64MicrosecondType, TimestampMicrosecondType,
};

use super::kind::{Kind, TextKind, UnsupportedType};
use super::scan::compact;
use crate::text::{datetime, interval};

/// Writes rows so that [`JsonDecoder`](super::JsonDecoder) of the same schema gives them back. Two values do not come back
/// as they were, because no JSON text stands for them: a jsonb `null` (comes back as SQL NULL), and text with a NUL
/// character (the record is rejected; PostgreSQL has no such text).
#[derive(Debug)]
pub struct JsonEncoder {
    members: Vec<(Prefix, Kind)>,
}

/// What stands before a value: bracket or comma, name and colon.
#[derive(Debug)]
struct Prefix(Vec<u8>);

impl Prefix {
    fn new(index: usize, name: &str) -> Self {
        let mut bytes = vec![if index == 0 { b'{' } else { b',' }];
        write_string(name, &mut bytes);
        bytes.push(b':');
        Self(bytes)
    }
}

impl JsonEncoder {
    /// An encoder for batches of `schema`.
    pub fn new(schema: SchemaRef) -> Result<Self, UnsupportedType> {
        let member =
            |(index, field): (usize, &std::sync::Arc<Field>)| Ok((Prefix::new(index, field.name()), Kind::of(field)?));
        Ok(Self { members: schema.fields().iter().enumerate().map(member).collect::<Result<_, UnsupportedType>>()? })
    }

    /// Appends the JSON object of row `row` to `out`. Panics if `batch` is not of the encoder's schema or has no such row.
    pub fn encode_row(&self, batch: &RecordBatch, row: usize, out: &mut Vec<u8>) {
        assert_eq!(batch.num_columns(), self.members.len(), "a batch of another schema");
        assert!(row < batch.num_rows(), "row {row} of {}", batch.num_rows());
        if self.members.is_empty() {
            out.push(b'{');
        }
        for ((prefix, kind), array) in self.members.iter().zip(batch.columns()) {
            out.extend_from_slice(&prefix.0);
            write_value(kind, array, row, out);
        }
        out.push(b'}');
    }
}

fn write_value(kind: &Kind, array: &ArrayRef, row: usize, out: &mut Vec<u8>) {
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return;
    }
    match kind {
        Kind::Bool => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
        Kind::Int16 => write_integer(array.as_primitive::<Int16Type>().value(row), out),
        Kind::Int32 => write_integer(array.as_primitive::<Int32Type>().value(row), out),
        Kind::Int64 => write_integer(array.as_primitive::<Int64Type>().value(row), out),
        Kind::Float32 => write_float32(array.as_primitive::<Float32Type>().value(row), out),
        Kind::Float64 => write_float64(array.as_primitive::<Float64Type>().value(row), out),
        Kind::Decimal { scale, .. } => write_decimal(array.as_primitive::<Decimal128Type>().value(row), *scale, out),
        Kind::Date => {
            let days = array.as_primitive::<Date32Type>().value(row);
            quoted(out, |out| datetime::write_date(i64::from(days), out));
        }
        Kind::Time => {
            let micros = array.as_primitive::<Time64MicrosecondType>().value(row);
            quoted(out, |out| datetime::write_time(micros, out));
        }
        Kind::Timestamp { timezone } => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            quoted(out, |out| {
                datetime::write_timestamp(micros, out);
                out.extend_from_slice(if timezone.is_some() { b"Z" } else { b"" });
            });
        }
        Kind::Interval => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            quoted(out, |out| interval::write(value, out));
        }
        Kind::Text(TextKind::Jsonb) => write_jsonb(array.as_string::<i32>().value(row), out),
        Kind::Text(_) => write_string(array.as_string::<i32>().value(row), out),
        Kind::Bytes => quoted(out, |out| write_hex(array.as_binary::<i32>().value(row), out)),
        Kind::List { item, .. } => write_list(item, &array.as_list::<i32>().value(row), out),
        Kind::Struct { fields, kinds } => {
            let columns = array.as_struct().columns();
            for (index, ((field, kind), column)) in fields.iter().zip(kinds).zip(columns).enumerate() {
                out.extend_from_slice(&Prefix::new(index, field.name()).0);
                write_value(kind, column, row, out);
            }
            out.push(b'}');
        }
    }
}

fn write_list(item: &Kind, elements: &ArrayRef, out: &mut Vec<u8>) {
    out.push(b'[');
    for index in 0..elements.len() {
        if index > 0 {
            out.push(b',');
        }
        write_value(item, elements, index, out);
    }
    out.push(b']');
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The fewest digits that give the same float back; with an exponent outside 1e-5 to 1e16.
macro_rules! write_float {
    ($name:ident, $type:ty) => {
        fn $name(value: $type, out: &mut Vec<u8>) {
            let magnitude = value.abs();
            let result = if value.is_nan() {
                out.write_all(b"\"NaN\"")
            } else if value.is_infinite() {
                out.write_all(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" })
            } else if magnitude == 0.0 || (1e-5..1e16).contains(&magnitude) {
                write!(out, "{value}")
            } else {
                write!(out, "{value:e}")
            };
            result.expect("a Vec takes all that is written");
        }
    };
}

write_float!(write_float64, f64);
write_float!(write_float32, f32);

/// All digits of the scale, trailing zeros included.
fn write_decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value.unsigned_abs()).as_bytes();
    if value < 0 {
        out.push(b'-');
    }
    let fraction = usize::try_from(scale).unwrap_or_default();
    if digits.len() > fraction {
        let (whole, below) = digits.split_at(digits.len() - fraction);
        out.extend_from_slice(whole);
        if value != 0 {
            out.extend(std::iter::repeat_n(b'0', usize::from(scale.min(0).unsigned_abs())));
        }
        if fraction > 0 {
            out.push(b'.');
            out.extend_from_slice(below);
        }
    } else {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', fraction - digits.len()));
        out.extend_from_slice(digits);
    }
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\\\x");
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// The JSON text itself. What is no JSON is written as a string, so that the record stays one that can be read.
fn write_jsonb(text: &str, out: &mut Vec<u8>) {
    let mut compacted = String::with_capacity(text.len());
    if compact(text, 1, &mut compacted) {
        out.extend_from_slice(compacted.as_bytes());
    } else {
        write_string(text, out);
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a Vec takes all that is written");
}
