//! Parameters in either format.
//!
//! A parameter becomes the text of its value, which goes into the statement as `CAST('text' AS type)`: a parameter means
//! what the same text means as a literal, for queries and writes alike.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::ArrayRef;
use mainstem_catalog::SqlType;
use mainstem_sql::SqlError;
use mainstem_sql::text::write_cell;

use super::Format;
use super::binary::{EPOCH_DAYS, EPOCH_US};

/// The text of a parameter.
pub fn parameter_text(bytes: &[u8], format: Format, sql_type: Option<&SqlType>) -> Result<String, SqlError> {
    let Some(sql_type) = sql_type.filter(|_| format == Format::Binary) else {
        return utf8(bytes);
    };
    let mut out = String::new();
    read_binary(bytes, sql_type, &mut out)?;
    Ok(out)
}

fn utf8(bytes: &[u8]) -> Result<String, SqlError> {
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|_| SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
    if text.contains('\0') {
        return Err(SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\": 0x00"));
    }
    Ok(text.to_owned())
}

fn garbled(sql_type: &SqlType) -> SqlError {
    SqlError::new("22P03", format!("incorrect binary data format for type {sql_type}"))
}

fn fixed<const N: usize>(bytes: &[u8], sql_type: &SqlType) -> Result<[u8; N], SqlError> {
    bytes.try_into().map_err(|_| garbled(sql_type))
}

fn read_binary(bytes: &[u8], sql_type: &SqlType, out: &mut String) -> Result<(), SqlError> {
    let mut shown = Vec::new();
    let result = match sql_type {
        SqlType::Boolean => {
            let [byte] = fixed(bytes, sql_type)?;
            write!(out, "{}", byte != 0)
        }
        SqlType::SmallInt => write!(out, "{}", i16::from_be_bytes(fixed(bytes, sql_type)?)),
        SqlType::Integer => write!(out, "{}", i32::from_be_bytes(fixed(bytes, sql_type)?)),
        // An oid comes in four bytes.
        SqlType::BigInt if bytes.len() == 4 => write!(out, "{}", u32::from_be_bytes(fixed(bytes, sql_type)?)),
        SqlType::BigInt => write!(out, "{}", i64::from_be_bytes(fixed(bytes, sql_type)?)),
        SqlType::Real => write!(out, "{:e}", f32::from_be_bytes(fixed(bytes, sql_type)?)),
        SqlType::Double => write!(out, "{:e}", f64::from_be_bytes(fixed(bytes, sql_type)?)),
        SqlType::Numeric { .. } => return read_numeric(bytes, sql_type, out),
        SqlType::Text => write!(out, "{}", utf8(bytes)?),
        // json has no version byte, jsonb has 1.
        SqlType::Jsonb => write!(out, "{}", utf8(bytes.strip_prefix(&[1]).unwrap_or(bytes))?),
        SqlType::Bytea => {
            out.push_str("\\x");
            bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
        }
        SqlType::Uuid => {
            let n = u128::from_be_bytes(fixed(bytes, sql_type)?);
            let (a, b, c, d, e) = (n >> 96, n >> 80 & 0xffff, n >> 64 & 0xffff, n >> 48 & 0xffff, n & 0xffff_ffff_ffff);
            write!(out, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
        }
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => {
            let array = time_array(bytes, sql_type)?;
            write_cell(&array, 0, sql_type, &mut shown);
            write!(out, "{}", String::from_utf8_lossy(&shown))
        }
        SqlType::List(item) => return read_list(bytes, item, out),
        SqlType::Struct(_) => return Err(SqlError::not_supported("parameters of type record in binary format")),
    };
    result.map_err(|_| garbled(sql_type))
}

fn time_array(bytes: &[u8], sql_type: &SqlType) -> Result<ArrayRef, SqlError> {
    use arrow::array::{Date32Array, IntervalMonthDayNanoArray, Time64MicrosecondArray, TimestampMicrosecondArray};
    use arrow::datatypes::IntervalMonthDayNano;
    let array: ArrayRef = match sql_type {
        SqlType::Date => {
            let days = i32::from_be_bytes(fixed(bytes, sql_type)?).saturating_add(EPOCH_DAYS);
            Arc::new(Date32Array::from(vec![days]))
        }
        SqlType::Time => Arc::new(Time64MicrosecondArray::from(vec![i64::from_be_bytes(fixed(bytes, sql_type)?)])),
        SqlType::Interval => {
            let all: [u8; 16] = fixed(bytes, sql_type)?;
            let us = i64::from_be_bytes(fixed(&all[..8], sql_type)?);
            let days = i32::from_be_bytes(fixed(&all[8..12], sql_type)?);
            let months = i32::from_be_bytes(fixed(&all[12..], sql_type)?);
            let value = IntervalMonthDayNano::new(months, days, us.saturating_mul(1000));
            Arc::new(IntervalMonthDayNanoArray::from(vec![value]))
        }
        _ => {
            let us = i64::from_be_bytes(fixed(bytes, sql_type)?).saturating_add(EPOCH_US);
            Arc::new(TimestampMicrosecondArray::from(vec![us]))
        }
    };
    Ok(array)
}

fn read_numeric(bytes: &[u8], sql_type: &SqlType, out: &mut String) -> Result<(), SqlError> {
    let words: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let [count, weight, sign, scale, digits @ ..] = words.as_slice() else { return Err(garbled(sql_type)) };
    if bytes.len() % 2 != 0 || digits.len() != usize::from(*count) || digits.iter().any(|digit| *digit > 9999) {
        return Err(garbled(sql_type));
    }
    match sign {
        0 => {}
        0x4000 => out.push('-'),
        _ => return Err(SqlError::new("22003", "numeric values that are not numbers are not supported")),
    }
    let weight = i32::from(i16::from_be_bytes(weight.to_be_bytes()));
    let digit = |place: i32| usize::try_from(place).ok().and_then(|i| digits.get(i)).copied().unwrap_or(0);
    let mut whole = String::new();
    for place in 0..=weight.clamp(-1, 64) {
        let _ = write!(whole, "{:04}", digit(place));
    }
    let whole = whole.trim_start_matches('0');
    out.push_str(if whole.is_empty() { "0" } else { whole });
    let mut fraction = String::new();
    let scale = usize::from(*scale).min(64);
    let mut place = weight + 1;
    while fraction.len() < scale {
        let _ = write!(fraction, "{:04}", digit(place));
        place += 1;
    }
    fraction.truncate(scale);
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(&fraction);
    }
    Ok(())
}

/// One dimension, as clients send them.
fn read_list(bytes: &[u8], item: &SqlType, out: &mut String) -> Result<(), SqlError> {
    let whole = SqlType::List(Box::new(item.clone()));
    let word = |at: usize| -> Result<i32, SqlError> {
        let slice = bytes.get(at..at + 4).ok_or_else(|| garbled(&whole))?;
        Ok(i32::from_be_bytes(fixed(slice, &whole)?))
    };
    out.push('{');
    match word(0)? {
        0 => {}
        1 => {
            let count = word(12)?;
            let mut at = 20;
            for i in 0..count {
                if i > 0 {
                    out.push(',');
                }
                let length = word(at)?;
                at += 4;
                let Ok(length) = usize::try_from(length) else {
                    out.push_str("NULL");
                    continue;
                };
                let cell = bytes.get(at..at + length).ok_or_else(|| garbled(&whole))?;
                at += length;
                let mut text = String::new();
                read_binary(cell, item, &mut text)?;
                let _ = write!(out, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            }
        }
        _ => return Err(SqlError::not_supported("array parameters with several dimensions")),
    }
    out.push('}');
    Ok(())
}

/// The text as an SQL literal.
pub(crate) fn literal_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
