//! Text format: as PostgreSQL's output functions write with `DateStyle = ISO`, `IntervalStyle = postgres`,
//! `bytea_output = hex`, `TimeZone = UTC`.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use mainstem_catalog::SqlType;

use super::{PLAIN_NUMERIC, canonical};
use crate::error::SqlError;

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// The text of a cell of any array that has an SQL type.
pub fn write_text(array: &ArrayRef, row: usize, sql_type: &SqlType) -> Result<Option<String>, SqlError> {
    if array.is_null(row) {
        return Ok(None);
    }
    let array = canonical(array, sql_type)?;
    let mut out = Vec::new();
    write_cell(&array, row, sql_type, &mut out);
    Ok(Some(String::from_utf8_lossy(&out).into_owned()))
}

/// Appends the text of a cell that is not null; the array has the layout of the type. Writing to a Vec cannot fail.
pub fn write_cell(array: &ArrayRef, row: usize, sql_type: &SqlType, out: &mut Vec<u8>) {
    match sql_type {
        SqlType::Boolean => out.extend_from_slice(if array.as_boolean().value(row) { b"t" } else { b"f" }),
        SqlType::SmallInt => display(array.as_primitive::<Int16Type>().value(row), out),
        SqlType::Integer => display(array.as_primitive::<Int32Type>().value(row), out),
        SqlType::BigInt => display(array.as_primitive::<Int64Type>().value(row), out),
        SqlType::Real => write_float4(array.as_primitive::<Float32Type>().value(row), out),
        SqlType::Double => write_float8(array.as_primitive::<Float64Type>().value(row), out),
        SqlType::Numeric { precision, scale } => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            write_numeric(value, *scale, (*precision, *scale) == PLAIN_NUMERIC, out);
        }
        SqlType::Text | SqlType::Jsonb | SqlType::Uuid => {
            out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes());
        }
        SqlType::Bytea => {
            out.extend_from_slice(b"\\x");
            for byte in array.as_binary::<i32>().value(row) {
                let _ = write!(out, "{byte:02x}");
            }
        }
        SqlType::Date => write_date(i64::from(array.as_primitive::<Date32Type>().value(row)), out),
        SqlType::Time => write_time(array.as_primitive::<Time64MicrosecondType>().value(row), out),
        SqlType::Timestamp => write_timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row), "", out),
        SqlType::Timestamptz => {
            write_timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row), "+00", out);
        }
        SqlType::Interval => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            write_interval(value.months, value.days, value.nanoseconds, out);
        }
        SqlType::List(item) => write_list(&array.as_list::<i32>().value(row), item, out),
        SqlType::Struct(fields) => write_record(array, row, fields, out),
    }
}

fn display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    let _ = write!(out, "{value}");
}

fn write_list(items: &ArrayRef, item: &SqlType, out: &mut Vec<u8>) {
    out.push(b'{');
    for i in 0..items.len() {
        if i > 0 {
            out.push(b',');
        }
        if items.is_null(i) {
            out.extend_from_slice(b"NULL");
            continue;
        }
        let mut cell = Vec::new();
        write_cell(items, i, item, &mut cell);
        let is_plain = !cell.is_empty()
            && !cell.eq_ignore_ascii_case(b"null")
            && !cell.iter().any(|b| b"{},\"\\".contains(b) || b.is_ascii_whitespace());
        if is_plain || matches!(item, SqlType::List(_)) {
            out.extend_from_slice(&cell);
        } else {
            quote(&cell, b"\\", out);
        }
    }
    out.push(b'}');
}

fn write_record(array: &ArrayRef, row: usize, fields: &[(String, SqlType)], out: &mut Vec<u8>) {
    let record = array.as_struct();
    out.push(b'(');
    for (i, (_, of)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let column = record.column(i);
        if column.is_null(row) {
            continue;
        }
        let mut cell = Vec::new();
        write_cell(column, row, of, &mut cell);
        if cell.is_empty() || cell.iter().any(|b| b"(),\"\\".contains(b) || b.is_ascii_whitespace()) {
            quote(&cell, b"\"", out);
        } else {
            out.extend_from_slice(&cell);
        }
    }
    out.push(b')');
}

/// Within double quotes; a quote gets `escape` before it, a backslash another one.
fn quote(cell: &[u8], escape: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in cell {
        match byte {
            b'"' => out.extend_from_slice(escape),
            b'\\' => out.push(b'\\'),
            _ => {}
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// Shortest text that reads back the same, in PostgreSQL's spelling.
fn write_float8(value: f64, out: &mut Vec<u8>) {
    write_float(value, &format!("{value:e}"), 15, out);
}

fn write_float4(value: f32, out: &mut Vec<u8>) {
    write_float(f64::from(value), &format!("{value:e}"), 6, out);
}

fn write_float(value: f64, scientific: &str, digits_max: i32, out: &mut Vec<u8>) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"Infinity".as_slice() } else { b"-Infinity" });
    }
    let (mantissa, exponent) = scientific.split_once('e').expect("Rust writes an exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes a number");
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    out.extend_from_slice(sign.as_bytes());
    if !(-4..digits_max).contains(&exponent) {
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{exponent_sign}{:02}", exponent.abs());
        return;
    }
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    write_digits(&digits, exponent, out);
}

/// Digits with the point after place `exponent`.
fn write_digits(digits: &str, exponent: i32, out: &mut Vec<u8>) {
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', usize::try_from(-exponent - 1).unwrap_or(0)));
        return out.extend_from_slice(digits.as_bytes());
    }
    let whole = usize::try_from(exponent).unwrap_or(0) + 1;
    if digits.len() <= whole {
        out.extend_from_slice(digits.as_bytes());
        out.extend(std::iter::repeat_n(b'0', whole - digits.len()));
    } else {
        out.extend_from_slice(&digits.as_bytes()[..whole]);
        out.push(b'.');
        out.extend_from_slice(&digits.as_bytes()[whole..]);
    }
}

fn write_numeric(value: i128, scale: i8, trim: bool, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let digits = value.unsigned_abs().to_string();
    let Ok(scale) = usize::try_from(scale) else {
        out.extend_from_slice(digits.as_bytes());
        if value != 0 {
            out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
        }
        return;
    };
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    out.extend_from_slice(whole.as_bytes());
    let fraction = if trim { fraction.trim_end_matches('0') } else { fraction };
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
}

fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    if year > 0 {
        let _ = write!(out, "{year:04}-{month:02}-{day:02}");
    } else {
        let _ = write!(out, "{:04}-{month:02}-{day:02} BC", 1 - year);
    }
}

/// Year, month, day of a day since 1970-01-01 in the Gregorian calendar (Hinnant, "chrono-compatible date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn write_time(us: i64, out: &mut Vec<u8>) {
    let seconds = us.div_euclid(SECOND_US);
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    write_fraction(us.rem_euclid(SECOND_US), out);
}

fn write_fraction(us: i64, out: &mut Vec<u8>) {
    if us != 0 {
        let digits = format!("{us:06}");
        out.push(b'.');
        out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    }
}

fn write_timestamp(us: i64, zone: &str, out: &mut Vec<u8>) {
    let (year, month, day) = civil(us.div_euclid(DAY_US));
    let shown = if year > 0 { year } else { 1 - year };
    let _ = write!(out, "{shown:04}-{month:02}-{day:02} ");
    write_time(us.rem_euclid(DAY_US), out);
    out.extend_from_slice(zone.as_bytes());
    if year <= 0 {
        out.extend_from_slice(b" BC");
    }
}

fn write_interval(months: i32, days: i32, nanoseconds: i64, out: &mut Vec<u8>) {
    let start = out.len();
    let mut negative_before = false;
    let mut part = |value: i64, one: &str, many: &str, out: &mut Vec<u8>| {
        if value == 0 {
            return;
        }
        let space = if out.len() > start { " " } else { "" };
        let plus = if negative_before && value > 0 { "+" } else { "" };
        let _ = write!(out, "{space}{plus}{value} {}", if value == 1 { one } else { many });
        negative_before = value < 0;
    };
    part(i64::from(months / 12), "year", "years", out);
    part(i64::from(months % 12), "mon", "mons", out);
    part(i64::from(days), "day", "days", out);
    let us = nanoseconds / 1000;
    if us == 0 && out.len() > start {
        return;
    }
    if out.len() > start {
        out.push(b' ');
    }
    if us < 0 {
        out.push(b'-');
    } else if negative_before {
        out.push(b'+');
    }
    let magnitude = us.unsigned_abs();
    let seconds = magnitude / 1_000_000;
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    write_fraction(i64::try_from(magnitude % 1_000_000).expect("below a million"), out);
}
