//! The one mapping between SQL types and Arrow's.
//!
//! What Arrow has no type for (`jsonb`, `uuid`) is a string with [`TYPE_KEY`] in the field's metadata. Nested fields carry
//! no metadata: a list or struct that holds such a type has its whole SQL type, as JSON, under the key of the outer field.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};
use mainstem_catalog::{Column, SqlType};

/// Metadata key of a field whose SQL type is not told by its Arrow type.
pub const TYPE_KEY: &str = "mainstem.type";

/// The Arrow type of values of an SQL type.
#[must_use]
pub fn arrow_type(sql_type: &SqlType) -> DataType {
    match sql_type {
        SqlType::Boolean => DataType::Boolean,
        SqlType::SmallInt => DataType::Int16,
        SqlType::Integer => DataType::Int32,
        SqlType::BigInt => DataType::Int64,
        SqlType::Real => DataType::Float32,
        SqlType::Double => DataType::Float64,
        SqlType::Numeric { precision, scale } => DataType::Decimal128(*precision, *scale),
        SqlType::Text | SqlType::Jsonb | SqlType::Uuid => DataType::Utf8,
        SqlType::Bytea => DataType::Binary,
        SqlType::Date => DataType::Date32,
        SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
        SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        SqlType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
        SqlType::List(item) => DataType::List(Arc::new(Field::new_list_field(arrow_type(item), true))),
        SqlType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|(name, of)| Field::new(name, arrow_type(of), true)).collect::<Fields>())
        }
    }
}

/// The metadata that a field of this type carries; empty when the Arrow type says it all.
#[must_use]
pub fn type_metadata(sql_type: &SqlType) -> HashMap<String, String> {
    let text = match sql_type {
        SqlType::Jsonb => "jsonb".to_owned(),
        SqlType::Uuid => "uuid".to_owned(),
        other if needs_metadata(other) => serde_json::to_string(other).expect("an SQL type is plain data"),
        _ => return HashMap::new(),
    };
    HashMap::from([(TYPE_KEY.to_owned(), text)])
}

fn needs_metadata(sql_type: &SqlType) -> bool {
    match sql_type {
        SqlType::Jsonb | SqlType::Uuid => true,
        SqlType::List(item) => needs_metadata(item),
        SqlType::Struct(fields) => fields.iter().any(|(_, of)| needs_metadata(of)),
        _ => false,
    }
}

/// A nullable field of an SQL type.
#[must_use]
pub fn typed_field(name: &str, sql_type: &SqlType) -> Field {
    Field::new(name, arrow_type(sql_type), true).with_metadata(type_metadata(sql_type))
}

/// The field of a column.
#[must_use]
pub fn arrow_field(column: &Column) -> Field {
    typed_field(&column.name, &column.sql_type).with_nullable(column.nullable)
}

/// The schema of columns, hidden ones included, in their order.
#[must_use]
pub fn arrow_schema(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(arrow_field).collect::<Vec<_>>()))
}

/// The SQL type of a field: exactly the one that [`arrow_field`] was given, or the smallest that holds the values of an
/// Arrow type that no SQL type maps to.
#[must_use]
pub fn sql_type(field: &Field) -> SqlType {
    match field.metadata().get(TYPE_KEY).map(String::as_str) {
        Some("jsonb") if is_string(field.data_type()) => SqlType::Jsonb,
        Some("uuid") if is_string(field.data_type()) => SqlType::Uuid,
        Some(json) => match serde_json::from_str::<SqlType>(json) {
            Ok(sql_type) if arrow_type(&sql_type) == *field.data_type() => sql_type,
            _ => sql_type_of(field.data_type()),
        },
        None => sql_type_of(field.data_type()),
    }
}

fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The SQL type for an Arrow type without metadata.
#[must_use]
pub fn sql_type_of(data_type: &DataType) -> SqlType {
    match data_type {
        DataType::Boolean => SqlType::Boolean,
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => SqlType::SmallInt,
        DataType::UInt16 | DataType::Int32 => SqlType::Integer,
        DataType::UInt32 | DataType::Int64 => SqlType::BigInt,
        DataType::UInt64 => SqlType::Numeric { precision: 20, scale: 0 },
        DataType::Float16 | DataType::Float32 => SqlType::Real,
        DataType::Float64 => SqlType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            SqlType::Numeric { precision: (*precision).min(38), scale: (*scale).min(38) }
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            SqlType::Bytea
        }
        DataType::Date32 => SqlType::Date,
        DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
        DataType::Date64 | DataType::Timestamp(_, None) => SqlType::Timestamp,
        DataType::Timestamp(_, Some(_)) => SqlType::Timestamptz,
        DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => SqlType::List(Box::new(sql_type(item))),
        DataType::Struct(fields) => {
            SqlType::Struct(fields.iter().map(|field| (field.name().clone(), sql_type(field))).collect())
        }
        DataType::Dictionary(_, value) => sql_type_of(value),
        DataType::RunEndEncoded(_, values) => sql_type(values),
        DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => SqlType::Text,
        DataType::Map(..) | DataType::Union(..) => SqlType::Jsonb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sql_type_survives_its_way_through_arrow() {
        let nested = SqlType::Struct(vec![
            ("a".into(), SqlType::Integer),
            ("B c".into(), SqlType::List(Box::new(SqlType::Jsonb))),
        ]);
        for sql_type in [
            SqlType::Boolean,
            SqlType::SmallInt,
            SqlType::Integer,
            SqlType::BigInt,
            SqlType::Real,
            SqlType::Double,
            SqlType::Numeric { precision: 12, scale: 3 },
            SqlType::Text,
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Time,
            SqlType::Timestamp,
            SqlType::Timestamptz,
            SqlType::Interval,
            SqlType::Jsonb,
            SqlType::Uuid,
            SqlType::List(Box::new(SqlType::Timestamptz)),
            SqlType::List(Box::new(SqlType::Uuid)),
            nested,
        ] {
            let field = typed_field("c", &sql_type);
            assert_eq!(super::sql_type(&field), sql_type);
            // The graph keeps types as text.
            let text = field.data_type().to_string();
            assert_eq!(text.parse::<DataType>().expect("parses"), *field.data_type(), "{text}");
        }
    }
}
