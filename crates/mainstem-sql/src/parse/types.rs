//! Type names and constant intervals.

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType, DateTimeField, ExactNumberInfo, Expr, Interval, ObjectName, StructField, TimezoneInfo,
    UnaryOperator, Value,
};
use mainstem_catalog::SqlType;

use crate::error::{SqlError, sqlstate};

/// Digits of `numeric` without precision, and after its point.
const NUMERIC_DEFAULT: SqlType = SqlType::Numeric { precision: 38, scale: 10 };

/// The SQL type that a type name means. Lengths of strings and precisions of times are accepted and have no effect.
pub fn sql_type_of_ast(data_type: &DataType) -> Result<SqlType, SqlError> {
    Ok(match data_type {
        DataType::Bool | DataType::Boolean => SqlType::Boolean,
        DataType::SmallInt(_) | DataType::Int2(_) | DataType::Int16 => SqlType::SmallInt,
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) | DataType::Int32 => SqlType::Integer,
        DataType::BigInt(_) | DataType::Int8(_) | DataType::Int64 => SqlType::BigInt,
        DataType::Real | DataType::Float4 | DataType::Float32 => SqlType::Real,
        DataType::Float(ExactNumberInfo::Precision(bits)) if *bits <= 24 => SqlType::Real,
        DataType::Float(_) | DataType::Float8 | DataType::Float64 => SqlType::Double,
        DataType::DoublePrecision | DataType::Double(_) => SqlType::Double,
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => numeric(info)?,
        DataType::Varchar(_) | DataType::Text | DataType::Char(_) | DataType::Character(_) => SqlType::Text,
        DataType::CharacterVarying(_) | DataType::CharVarying(_) | DataType::String(_) => SqlType::Text,
        DataType::Bytea | DataType::Bytes(_) => SqlType::Bytea,
        DataType::Date => SqlType::Date,
        DataType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Time,
        DataType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Timestamp,
        DataType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => SqlType::Timestamptz,
        DataType::Interval { .. } => SqlType::Interval,
        DataType::JSON | DataType::JSONB => SqlType::Jsonb,
        DataType::Uuid => SqlType::Uuid,
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => SqlType::List(Box::new(sql_type_of_ast(item)?)),
        DataType::Struct(fields, _) => SqlType::Struct(fields.iter().map(struct_field).collect::<Result<_, _>>()?),
        DataType::Custom(name, _) => custom(name, data_type)?,
        other => return Err(unknown(other)),
    })
}

fn numeric(info: &ExactNumberInfo) -> Result<SqlType, SqlError> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => return Ok(NUMERIC_DEFAULT),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale >= 0 && scale <= precision as i8 => {
            Ok(SqlType::Numeric { precision, scale })
        }
        _ => {
            let message = format!(
                "numeric({precision},{scale}): the precision must be between 1 and 38, the scale between 0 and it"
            );
            Err(SqlError::new(sqlstate::INVALID_PARAMETER, message))
        }
    }
}

fn struct_field(field: &StructField) -> Result<(String, SqlType), SqlError> {
    let name = field.field_name.as_ref().map(super::fold);
    let name = name.ok_or_else(|| SqlError::syntax("a field of a struct type needs a name"))?;
    Ok((name, sql_type_of_ast(&field.field_type)?))
}

fn custom(name: &ObjectName, data_type: &DataType) -> Result<SqlType, SqlError> {
    Ok(match name.to_string().to_lowercase().as_str() {
        "timestamptz" => SqlType::Timestamptz,
        "string" | "bpchar" | "name" => SqlType::Text,
        "jsonb" | "json" => SqlType::Jsonb,
        "int64" => SqlType::BigInt,
        "bytes" => SqlType::Bytea,
        _ => return Err(unknown(data_type)),
    })
}

fn unknown(data_type: &DataType) -> SqlError {
    SqlError::not_supported(format!("type {} is not supported", data_type.to_string().to_lowercase())).with_hint(
        "Types are boolean, smallint, integer, bigint, real, double precision, numeric(p,s), varchar, bytea, date, time, \
         timestamp, timestamptz, interval, jsonb, uuid, type[] and struct<name type, ...>.",
    )
}

/// A constant interval as microseconds. Months have no fixed length and are refused.
pub fn interval_us(expr: &Expr) -> Result<i64, SqlError> {
    let not_constant = || {
        SqlError::new(sqlstate::INVALID_PARAMETER, format!("{expr} is not a constant interval"))
            .with_hint("Write INTERVAL '10 seconds'.")
    };
    interval_text_us(&interval_text(expr).ok_or_else(not_constant)?)
}

/// [`interval_us`] of the text between the quotes.
pub(super) fn interval_text_us(text: &str) -> Result<i64, SqlError> {
    let parsed = parse_interval_month_day_nano(text)
        .map_err(|_| SqlError::new(sqlstate::INVALID_PARAMETER, format!("invalid interval: '{text}'")))?;
    if parsed.months != 0 {
        let message = format!("interval '{text}' has months or years, which have no fixed length");
        return Err(SqlError::new(sqlstate::INVALID_PARAMETER, message).with_hint("Use days or shorter units."));
    }
    let day_us = i64::from(parsed.days).checked_mul(86_400_000_000);
    if parsed.nanoseconds % 1000 != 0 {
        return Err(SqlError::new(
            sqlstate::INVALID_PARAMETER,
            format!("interval '{text}' is finer than a microsecond"),
        ));
    }
    day_us
        .and_then(|us| us.checked_add(parsed.nanoseconds / 1000))
        .ok_or_else(|| SqlError::new(sqlstate::INVALID_PARAMETER, format!("interval '{text}' is too long")))
}

fn interval_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Interval(Interval { value, leading_field, last_field: None, .. }) => {
            let text = literal_text(value)?;
            Some(match leading_field {
                Some(unit) => format!("{text} {}", unit_text(unit)),
                None => text,
            })
        }
        Expr::Cast { expr, data_type: DataType::Interval { .. }, .. } => literal_text(expr),
        Expr::TypedString(typed) if matches!(typed.data_type, DataType::Interval { .. }) => {
            typed.value.value.clone().into_string()
        }
        Expr::Nested(inner) => interval_text(inner),
        _ => None,
    }
}

fn unit_text(unit: &DateTimeField) -> String {
    unit.to_string()
}

fn literal_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => literal_text(expr).map(|text| format!("-{text}")),
        Expr::Nested(inner) => literal_text(inner),
        _ => None,
    }
}
