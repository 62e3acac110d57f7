//! Values that come in: parameters in either format, and columns of text as COPY brings them.
//!
//! A parameter becomes the text of its value, which goes into the statement as `CAST('text' AS type)`: a parameter means
//! what the same text means as a literal, for queries and writes alike.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryBuilder, ListArray, StringArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::Field;
use mainstem_catalog::SqlType;
use mainstem_sql::SqlError;
use mainstem_sql::arrow_types::arrow_type;

use super::Format;
use super::binary::{EPOCH_DAYS, EPOCH_US};
use super::text;

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
            text::write_cell(&array, 0, sql_type, &mut shown);
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

/// A column of texts as values of a type. `column` is named in errors.
pub fn column_from_text(texts: &[Option<&str>], sql_type: &SqlType, column: &str) -> Result<ArrayRef, SqlError> {
    match sql_type {
        SqlType::Text | SqlType::Jsonb => Ok(Arc::new(StringArray::from(texts.to_vec()))),
        SqlType::Uuid => {
            let lower = texts.iter().map(|text| text.map(|text| uuid_text(text, column)).transpose());
            Ok(Arc::new(lower.collect::<Result<StringArray, _>>()?))
        }
        SqlType::Bytea => {
            let mut builder = BinaryBuilder::new();
            for text in texts {
                match text {
                    Some(text) => builder.append_value(bytea(text, column)?),
                    None => builder.append_null(),
                }
            }
            Ok(Arc::new(builder.finish()))
        }
        SqlType::List(item) => lists(texts, item, column),
        SqlType::Struct(_) => Err(SqlError::not_supported("text of type struct")),
        _ => plain(texts, sql_type, column),
    }
}

fn plain(texts: &[Option<&str>], sql_type: &SqlType, column: &str) -> Result<ArrayRef, SqlError> {
    let trimmed: StringArray = texts.iter().map(|text| text.map(str::trim)).collect();
    let trimmed: ArrayRef = Arc::new(trimmed);
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let wanted = arrow_type(sql_type);
    cast_with_options(&trimmed, &wanted, &strict).map_err(|_| {
        // Which one? Cast again, this time with null for what does not cast.
        let lenient = cast_with_options(&trimmed, &wanted, &CastOptions::default()).ok();
        let is_bad = |i: &usize| texts[*i].is_some() && lenient.as_ref().is_none_or(|array| array.is_null(*i));
        let bad = (0..texts.len()).find(is_bad).and_then(|i| texts[i]).unwrap_or_default();
        bad_input(bad, sql_type, column)
    })
}

fn bad_input(text: &str, sql_type: &SqlType, column: &str) -> SqlError {
    let state = match sql_type {
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => "22007",
        _ => "22P02",
    };
    let shown: String = text.chars().take(100).collect();
    SqlError::new(state, format!("invalid input syntax for type {sql_type}: \"{shown}\""))
        .with_detail(format!("Column {column}."))
}

fn uuid_text(text: &str, column: &str) -> Result<String, SqlError> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
    let other = text.chars().filter(|c| !c.is_ascii_hexdigit()).all(|c| matches!(c, '-' | '{' | '}'));
    if digits.len() != 32 || !other {
        return Err(bad_input(text, &SqlType::Uuid, column));
    }
    Ok(format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]))
}

fn bytea(text: &str, column: &str) -> Result<Vec<u8>, SqlError> {
    let bad = || bad_input(text, &SqlType::Bytea, column);
    let Some(hex) = text.strip_prefix("\\x") else {
        if text.contains('\\') {
            return Err(bad());
        }
        return Ok(text.as_bytes().to_vec());
    };
    let digits: Vec<u8> =
        hex.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>().ok_or_else(bad)?;
    if digits.len() % 2 != 0 {
        return Err(bad());
    }
    Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn lists(texts: &[Option<&str>], item: &SqlType, column: &str) -> Result<ArrayRef, SqlError> {
    let mut items: Vec<Option<String>> = Vec::new();
    let mut lengths = Vec::with_capacity(texts.len());
    let whole = SqlType::List(Box::new(item.clone()));
    for text in texts {
        let before = items.len();
        if let Some(text) = text {
            list_items(text, &mut items).ok_or_else(|| bad_input(text, &whole, column))?;
        }
        lengths.push(items.len() - before);
    }
    let texts_of_items: Vec<Option<&str>> = items.iter().map(Option::as_deref).collect();
    let values = column_from_text(&texts_of_items, item, column)?;
    let nulls: NullBuffer = texts.iter().map(Option::is_some).collect::<Vec<_>>().into();
    let field = Arc::new(Field::new_list_field(arrow_type(item), true));
    Ok(Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), values, Some(nulls))))
}

/// Items of `{a,"b c",NULL,{nested}}`; a nested list is an item's text.
fn list_items(text: &str, items: &mut Vec<Option<String>>) -> Option<()> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.trim().is_empty() {
        return Some(());
    }
    let (mut item, mut is_quoted, mut in_quotes, mut depth) = (String::new(), false, false, 0u32);
    let mut chars = inner.chars();
    let mut finish = |item: &mut String, is_quoted: &mut bool| {
        let text = std::mem::take(item);
        let text = if *is_quoted { text } else { text.trim().to_owned() };
        let is_null = !*is_quoted && text.eq_ignore_ascii_case("null");
        *is_quoted = false;
        items.push((!is_null).then_some(text));
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' if depth == 0 => item.push(chars.next()?),
            '\\' => {
                item.push(c);
                item.push(chars.next()?);
            }
            '"' => {
                in_quotes = !in_quotes;
                if depth == 0 {
                    is_quoted = true;
                } else {
                    item.push(c);
                }
            }
            ',' if !in_quotes && depth == 0 => finish(&mut item, &mut is_quoted),
            '{' | '}' if !in_quotes => {
                depth = if c == '{' { depth + 1 } else { depth.checked_sub(1)? };
                item.push(c);
            }
            _ => item.push(c),
        }
    }
    if in_quotes || depth > 0 {
        return None;
    }
    finish(&mut item, &mut is_quoted);
    Some(())
}
