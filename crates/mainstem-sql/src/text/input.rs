//! What PostgreSQL's input functions read, with `DateStyle = ISO`, `IntervalStyle = postgres`, `TimeZone = UTC`.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, Date32Array, Decimal128Array, IntervalMonthDayNanoArray, ListArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Decimal128Type, DecimalType, Field};
use mainstem_catalog::SqlType;
use mainstem_formats::{parse_decimal, parse_interval};

use super::datetime::{DAY_US, Moment};
use crate::arrow_types::arrow_type;
use crate::error::SqlError;

/// A column of texts as values of a type. `column` is named in errors, unless it is empty.
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

/// One value per text; the first that does not read is the error.
fn each<T>(
    texts: &[Option<&str>],
    sql_type: &SqlType,
    column: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Vec<Option<T>>, SqlError> {
    let one = |text: &str| read(text.trim()).ok_or_else(|| bad_input(text, sql_type, column));
    texts.iter().map(|text| text.map(one).transpose()).collect()
}

/// Types of one fixed size.
fn plain(texts: &[Option<&str>], sql_type: &SqlType, column: &str) -> Result<ArrayRef, SqlError> {
    Ok(match sql_type {
        SqlType::Interval => Arc::new(IntervalMonthDayNanoArray::from(each(texts, sql_type, column, parse_interval)?)),
        SqlType::Date => {
            let days = |text: &str| i32::try_from(Moment::read(text)?.local_us.div_euclid(DAY_US)).ok();
            Arc::new(Date32Array::from(each(texts, sql_type, column, days)?))
        }
        // A zone in the text is checked and means nothing, as PostgreSQL has it.
        SqlType::Timestamp => {
            let us = |text: &str| Moment::read(text).map(|moment| moment.local_us);
            Arc::new(TimestampMicrosecondArray::from(each(texts, sql_type, column, us)?))
        }
        SqlType::Timestamptz => {
            let us = |text: &str| Moment::read(text)?.utc_us();
            let array = TimestampMicrosecondArray::from(each(texts, sql_type, column, us)?);
            Arc::new(array.with_data_type(arrow_type(sql_type)))
        }
        SqlType::Numeric { precision, scale } => {
            let scaled = |text: &str| {
                let value = parse_decimal(text, i32::from(*scale))?;
                <Decimal128Type as DecimalType>::is_valid_decimal_precision(value, *precision).then_some(value)
            };
            let array = Decimal128Array::from(each(texts, sql_type, column, scaled)?);
            Arc::new(array.with_data_type(arrow_type(sql_type)))
        }
        _ => return other(texts, sql_type, column),
    })
}

fn other(texts: &[Option<&str>], sql_type: &SqlType, column: &str) -> Result<ArrayRef, SqlError> {
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
    let error = unreadable(sql_type, text);
    if column.is_empty() || error.detail.is_some() { error } else { error.with_detail(format!("Column {column}.")) }
}

/// Why a text is no value of the type.
#[must_use]
pub fn unreadable(sql_type: &SqlType, text: &str) -> SqlError {
    let shown: String = text.chars().take(100).collect();
    let digits = text.trim().trim_start_matches(['-', '+']);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match sql_type {
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt if is_whole => {
            SqlError::new("22003", format!("value \"{shown}\" is out of range for type {sql_type}"))
        }
        SqlType::Numeric { precision, scale } if is_whole || text.trim().parse::<f64>().is_ok_and(f64::is_finite) => {
            numeric_overflow(*precision, *scale)
        }
        SqlType::Numeric { .. } => {
            SqlError::new("22P02", format!("invalid input syntax for type numeric: \"{shown}\""))
        }
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => {
            SqlError::new("22007", format!("invalid input syntax for type {sql_type}: \"{shown}\""))
        }
        _ => SqlError::new("22P02", format!("invalid input syntax for type {sql_type}: \"{shown}\"")),
    }
}

/// A number that has more digits than the type.
#[must_use]
pub fn numeric_overflow(precision: u8, scale: i8) -> SqlError {
    SqlError::new("22003", "numeric field overflow").with_detail(format!(
        "A field with precision {precision}, scale {scale} must round to an absolute value less than 10^{}.",
        i16::from(precision) - i16::from(scale)
    ))
}

fn uuid_text(text: &str, column: &str) -> Result<String, SqlError> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
    let other = text.chars().filter(|c| !c.is_ascii_hexdigit()).all(|c| matches!(c, '-' | '{' | '}'));
    if digits.len() != 32 || !other {
        return Err(bad_input(text, &SqlType::Uuid, column));
    }
    Ok(format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]))
}

/// `\x0aff`, or the characters themselves with `\\` and `\ooo`.
fn bytea(text: &str, column: &str) -> Result<Vec<u8>, SqlError> {
    let bytes = match text.strip_prefix("\\x") {
        Some(digits) => hex(digits),
        None => escaped(text),
    };
    bytes.ok_or_else(|| bad_input(text, &SqlType::Bytea, column))
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.chars().filter(|c| !c.is_ascii_whitespace());
    let digits: Vec<u8> = digits.map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    (digits.len() % 2 == 0).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn escaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next()? {
            b'\\' => bytes.push(b'\\'),
            first => {
                let octal = [first, rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&octal).ok()?, 8).ok()?);
            }
        }
    }
    Some(bytes)
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
