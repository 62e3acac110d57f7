//! Constants as stored text, exact to the bit.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListArray, LargeListArray, ListArray, StructArray, new_empty_array};
use arrow::datatypes::{DataType, Fields, IntervalDayTime, IntervalMonthDayNano, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};

use super::{parse_type, type_text};
use crate::error::{SqlError, sqlstate};

/// A constant with its type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Literal {
    /// Arrow's text of the type.
    pub data_type: String,
    /// The value.
    pub value: LiteralValue,
}

/// A constant's value, written so that it reads back exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LiteralValue {
    /// JSON null.
    Null,
    /// Booleans `true`/`false`; integers, dates, times, durations and unscaled decimals as digits; floats as their bits in
    /// hexadecimal; strings as they are; bytes in hexadecimal; intervals as their parts between commas.
    Text(String),
    /// Items of a list, or values of a struct's fields.
    Items(Vec<LiteralValue>),
}

impl Literal {
    /// From a constant. Types without a stored form (maps, unions) are refused.
    pub fn from_value(value: &ScalarValue) -> Result<Literal, SqlError> {
        Ok(Literal { data_type: type_text(&value.data_type())?, value: encode(value)? })
    }

    /// The constant, exactly.
    pub fn to_value(&self) -> Result<ScalarValue, SqlError> {
        decode(&parse_type(&self.data_type)?, &self.value)
    }
}

fn encode(value: &ScalarValue) -> Result<LiteralValue, SqlError> {
    use ScalarValue as V;
    if value.is_null() {
        return Ok(LiteralValue::Null);
    }
    let text = match value {
        V::Boolean(Some(v)) => v.to_string(),
        V::Int8(Some(v)) => v.to_string(),
        V::Int16(Some(v)) => v.to_string(),
        V::Int32(Some(v)) | V::Date32(Some(v)) | V::Decimal32(Some(v), ..) => v.to_string(),
        V::Time32Second(Some(v)) | V::Time32Millisecond(Some(v)) | V::IntervalYearMonth(Some(v)) => v.to_string(),
        V::Int64(Some(v)) | V::Date64(Some(v)) | V::Decimal64(Some(v), ..) => v.to_string(),
        V::Time64Microsecond(Some(v)) | V::Time64Nanosecond(Some(v)) => v.to_string(),
        V::TimestampSecond(Some(v), _) | V::TimestampMillisecond(Some(v), _) => v.to_string(),
        V::TimestampMicrosecond(Some(v), _) | V::TimestampNanosecond(Some(v), _) => v.to_string(),
        V::DurationSecond(Some(v)) | V::DurationMillisecond(Some(v)) => v.to_string(),
        V::DurationMicrosecond(Some(v)) | V::DurationNanosecond(Some(v)) => v.to_string(),
        V::UInt8(Some(v)) => v.to_string(),
        V::UInt16(Some(v)) => v.to_string(),
        V::UInt32(Some(v)) => v.to_string(),
        V::UInt64(Some(v)) => v.to_string(),
        V::Decimal128(Some(v), ..) => v.to_string(),
        V::Decimal256(Some(v), ..) => v.to_string(),
        V::Float32(Some(v)) => format!("{:08x}", v.to_bits()),
        V::Float64(Some(v)) => format!("{:016x}", v.to_bits()),
        V::Utf8(Some(v)) | V::LargeUtf8(Some(v)) | V::Utf8View(Some(v)) => v.clone(),
        V::Binary(Some(v)) | V::LargeBinary(Some(v)) | V::BinaryView(Some(v)) | V::FixedSizeBinary(_, Some(v)) => {
            hex(v)
        }
        V::IntervalDayTime(Some(v)) => format!("{},{}", v.days, v.milliseconds),
        V::IntervalMonthDayNano(Some(v)) => format!("{},{},{}", v.months, v.days, v.nanoseconds),
        V::List(list) => return encode_items(&list.value(0)),
        V::LargeList(list) => return encode_items(&list.value(0)),
        V::FixedSizeList(list) => return encode_items(&list.value(0)),
        V::Struct(of) => {
            let values = of.columns().iter().map(|column| encode(&ScalarValue::try_from_array(column, 0)?));
            return Ok(LiteralValue::Items(values.collect::<Result<_, _>>()?));
        }
        other => {
            let name = other.data_type();
            return Err(SqlError::not_supported(format!("constants of type {name} cannot be kept in a view")));
        }
    };
    Ok(LiteralValue::Text(text))
}

fn encode_items(items: &dyn Array) -> Result<LiteralValue, SqlError> {
    let items = (0..items.len()).map(|i| encode(&ScalarValue::try_from_array(items, i)?));
    Ok(LiteralValue::Items(items.collect::<Result<_, _>>()?))
}

fn decode(data_type: &DataType, value: &LiteralValue) -> Result<ScalarValue, SqlError> {
    match value {
        LiteralValue::Null => Ok(ScalarValue::try_new_null(data_type)?),
        LiteralValue::Text(text) => decode_text(data_type, text).ok_or_else(|| broken(data_type, text)),
        LiteralValue::Items(items) => decode_items(data_type, items),
    }
}

fn broken(data_type: &DataType, text: &str) -> SqlError {
    SqlError::new(sqlstate::INTERNAL, format!("operator graph: {text:?} is no constant of type {data_type}"))
}

fn decode_text(data_type: &DataType, text: &str) -> Option<ScalarValue> {
    use ScalarValue as V;
    let short = || text.parse::<i32>().ok();
    let long = || text.parse::<i64>().ok();
    Some(match data_type {
        DataType::Boolean => V::Boolean(Some(text.parse().ok()?)),
        DataType::Int8 => V::Int8(Some(text.parse().ok()?)),
        DataType::Int16 => V::Int16(Some(text.parse().ok()?)),
        DataType::Int32 => V::Int32(Some(short()?)),
        DataType::Int64 => V::Int64(Some(long()?)),
        DataType::UInt8 => V::UInt8(Some(text.parse().ok()?)),
        DataType::UInt16 => V::UInt16(Some(text.parse().ok()?)),
        DataType::UInt32 => V::UInt32(Some(text.parse().ok()?)),
        DataType::UInt64 => V::UInt64(Some(text.parse().ok()?)),
        DataType::Decimal32(p, s) => V::Decimal32(Some(short()?), *p, *s),
        DataType::Decimal64(p, s) => V::Decimal64(Some(long()?), *p, *s),
        DataType::Decimal128(p, s) => V::Decimal128(Some(text.parse().ok()?), *p, *s),
        DataType::Decimal256(p, s) => V::Decimal256(Some(text.parse().ok()?), *p, *s),
        DataType::Float32 => V::Float32(Some(f32::from_bits(u32::from_str_radix(text, 16).ok()?))),
        DataType::Float64 => V::Float64(Some(f64::from_bits(u64::from_str_radix(text, 16).ok()?))),
        DataType::Utf8 => V::Utf8(Some(text.to_owned())),
        DataType::LargeUtf8 => V::LargeUtf8(Some(text.to_owned())),
        DataType::Utf8View => V::Utf8View(Some(text.to_owned())),
        DataType::Binary => V::Binary(Some(unhex(text)?)),
        DataType::LargeBinary => V::LargeBinary(Some(unhex(text)?)),
        DataType::BinaryView => V::BinaryView(Some(unhex(text)?)),
        DataType::FixedSizeBinary(size) => V::FixedSizeBinary(*size, Some(unhex(text)?)),
        DataType::Date32 => V::Date32(Some(short()?)),
        DataType::Date64 => V::Date64(Some(long()?)),
        DataType::Time32(TimeUnit::Second) => V::Time32Second(Some(short()?)),
        DataType::Time32(TimeUnit::Millisecond) => V::Time32Millisecond(Some(short()?)),
        DataType::Time64(TimeUnit::Microsecond) => V::Time64Microsecond(Some(long()?)),
        DataType::Time64(TimeUnit::Nanosecond) => V::Time64Nanosecond(Some(long()?)),
        DataType::Timestamp(TimeUnit::Second, zone) => V::TimestampSecond(Some(long()?), zone.clone()),
        DataType::Timestamp(TimeUnit::Millisecond, zone) => V::TimestampMillisecond(Some(long()?), zone.clone()),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => V::TimestampMicrosecond(Some(long()?), zone.clone()),
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => V::TimestampNanosecond(Some(long()?), zone.clone()),
        DataType::Duration(TimeUnit::Second) => V::DurationSecond(Some(long()?)),
        DataType::Duration(TimeUnit::Millisecond) => V::DurationMillisecond(Some(long()?)),
        DataType::Duration(TimeUnit::Microsecond) => V::DurationMicrosecond(Some(long()?)),
        DataType::Duration(TimeUnit::Nanosecond) => V::DurationNanosecond(Some(long()?)),
        DataType::Interval(unit) => decode_interval(*unit, text)?,
        _ => return None,
    })
}

fn decode_interval(unit: IntervalUnit, text: &str) -> Option<ScalarValue> {
    let parts: Vec<&str> = text.split(',').collect();
    match (unit, parts.as_slice()) {
        (IntervalUnit::YearMonth, [months]) => Some(ScalarValue::IntervalYearMonth(Some(months.parse().ok()?))),
        (IntervalUnit::DayTime, [days, ms]) => {
            let value = IntervalDayTime { days: days.parse().ok()?, milliseconds: ms.parse().ok()? };
            Some(ScalarValue::IntervalDayTime(Some(value)))
        }
        (IntervalUnit::MonthDayNano, [months, days, ns]) => {
            let (months, days, nanoseconds) = (months.parse().ok()?, days.parse().ok()?, ns.parse().ok()?);
            Some(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds })))
        }
        _ => None,
    }
}

fn decode_items(data_type: &DataType, items: &[LiteralValue]) -> Result<ScalarValue, SqlError> {
    let array = |item_type: &DataType| -> Result<ArrayRef, SqlError> {
        let values = items.iter().map(|item| decode(item_type, item)).collect::<Result<Vec<_>, SqlError>>()?;
        if values.is_empty() { Ok(new_empty_array(item_type)) } else { Ok(ScalarValue::iter_to_array(values)?) }
    };
    let ends = |length: usize| i32::try_from(length).map_err(|_| broken(data_type, "a long list"));
    match data_type {
        DataType::List(field) => {
            let values = array(field.data_type())?;
            let offsets = arrow::buffer::OffsetBuffer::new(vec![0, ends(values.len())?].into());
            let list = ListArray::try_new(field.clone(), offsets, values, None);
            Ok(ScalarValue::List(Arc::new(list.map_err(datafusion::common::DataFusionError::from)?)))
        }
        DataType::LargeList(field) => {
            let values = array(field.data_type())?;
            let offsets = arrow::buffer::OffsetBuffer::new(vec![0, i64::from(ends(values.len())?)].into());
            let list = LargeListArray::try_new(field.clone(), offsets, values, None);
            Ok(ScalarValue::LargeList(Arc::new(list.map_err(datafusion::common::DataFusionError::from)?)))
        }
        DataType::FixedSizeList(field, size) => {
            let values = array(field.data_type())?;
            let list = FixedSizeListArray::try_new(field.clone(), *size, values, None);
            Ok(ScalarValue::FixedSizeList(Arc::new(list.map_err(datafusion::common::DataFusionError::from)?)))
        }
        DataType::Struct(fields) if fields.len() == items.len() => decode_struct(fields, items),
        _ => Err(broken(data_type, "a list of values")),
    }
}

fn decode_struct(fields: &Fields, items: &[LiteralValue]) -> Result<ScalarValue, SqlError> {
    let columns = fields.iter().zip(items).map(|(field, item)| Ok(decode(field.data_type(), item)?.to_array()?));
    let columns = columns.collect::<Result<Vec<_>, SqlError>>()?;
    let of = if columns.is_empty() {
        StructArray::new_empty_fields(1, None)
    } else {
        StructArray::try_new(fields.clone(), columns, None).map_err(datafusion::common::DataFusionError::from)?
    };
    Ok(ScalarValue::Struct(Arc::new(of)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || text.len() % 2 != 0 {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}
