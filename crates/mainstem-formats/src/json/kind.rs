//! What a column holds, as far as JSON is concerned: the Arrow types that can be decoded and encoded.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, TimeUnit};

/// Field metadata that says which SQL type a `Utf8` column stands for: `jsonb` or `uuid`; anything else is text.
pub const TYPE_KEY: &str = "mainstem.type";

/// The column's type has no JSON form here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column \"{column}\" has type {data_type}, which JSON records cannot hold")]
pub struct UnsupportedType {
    /// Path of the column, with dots into structs.
    pub column: String,
    /// Its Arrow type.
    pub data_type: DataType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextKind {
    Plain,
    Jsonb,
    Uuid,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Bool,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Decimal { precision: u8, scale: i8 },
    Date,
    Time,
    Timestamp { timezone: Option<Arc<str>> },
    Interval,
    Text(TextKind),
    Bytes,
    List { field: FieldRef, item: Box<Kind> },
    Struct { fields: Fields, kinds: Vec<Kind> },
}

impl Kind {
    pub(crate) fn of(field: &Field) -> Result<Self, UnsupportedType> {
        let unsupported =
            || Err(UnsupportedType { column: field.name().clone(), data_type: field.data_type().clone() });
        Ok(match field.data_type() {
            DataType::Boolean => Self::Bool,
            DataType::Int16 => Self::Int16,
            DataType::Int32 => Self::Int32,
            DataType::Int64 => Self::Int64,
            DataType::Float32 => Self::Float32,
            DataType::Float64 => Self::Float64,
            DataType::Decimal128(precision @ 1..=38, scale) if i16::from(*scale) <= i16::from(*precision) => {
                Self::Decimal { precision: *precision, scale: *scale }
            }
            DataType::Date32 => Self::Date,
            DataType::Time64(TimeUnit::Microsecond) => Self::Time,
            DataType::Timestamp(TimeUnit::Microsecond, None) => Self::Timestamp { timezone: None },
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if matches!(&**zone, "UTC" | "+00:00") => {
                Self::Timestamp { timezone: Some(Arc::clone(zone)) }
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => Self::Interval,
            DataType::Utf8 => Self::Text(match field.metadata().get(TYPE_KEY).map(String::as_str) {
                Some("jsonb") => TextKind::Jsonb,
                Some("uuid") => TextKind::Uuid,
                _ => TextKind::Plain,
            }),
            DataType::Binary => Self::Bytes,
            DataType::List(item) => Self::List { field: Arc::clone(item), item: Box::new(inside(field, item)?) },
            DataType::Struct(fields) if !fields.is_empty() => {
                let kinds = fields.iter().map(|child| inside(field, child)).collect::<Result<_, _>>()?;
                Self::Struct { fields: fields.clone(), kinds }
            }
            _ => return unsupported(),
        })
    }
}

fn inside(parent: &Field, child: &Field) -> Result<Kind, UnsupportedType> {
    Kind::of(child).map_err(|error| UnsupportedType { column: format!("{}.{}", parent.name(), error.column), ..error })
}

/// The SQL type and its JSON forms, for messages.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "boolean (true or false)",
            Self::Int16 => "smallint (an integer from -32768 to 32767)",
            Self::Int32 => "integer (an integer from -2147483648 to 2147483647)",
            Self::Int64 => "bigint (an integer from -9223372036854775808 to 9223372036854775807)",
            Self::Float32 => "real (a number in its range, \"NaN\", \"Infinity\" or \"-Infinity\")",
            Self::Float64 => "double precision (a number in its range, \"NaN\", \"Infinity\" or \"-Infinity\")",
            Self::Decimal { precision, scale } => return write!(f, "numeric({precision},{scale})"),
            Self::Date => "date (\"YYYY-MM-DD\", or days since 1970-01-01)",
            Self::Time => "time (\"HH:MM:SS\", with or without a fraction)",
            Self::Timestamp { .. } => "timestamp (ISO 8601 text, or an epoch number)",
            Self::Interval => "interval (text such as \"1 day 02:03:04\" or \"P1DT2H3M4S\")",
            Self::Text(TextKind::Plain) => "text (a string without NUL characters, a number or a boolean)",
            Self::Text(TextKind::Jsonb) => "jsonb (any value without NUL characters)",
            Self::Text(TextKind::Uuid) => "uuid (a string of 32 hexadecimal digits)",
            Self::Bytes => "bytea (a string of \\x and an even number of hexadecimal digits)",
            Self::List { .. } => "an array",
            Self::Struct { .. } => "an object",
        })
    }
}
