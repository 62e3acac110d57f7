//! Binary format, out and in: as PostgreSQL's `send` functions write and `recv` functions read.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use mainstem_catalog::SqlType;
use mainstem_sql::text::PLAIN_NUMERIC;

use super::types::oid_of;

/// Days and microseconds between 1970-01-01 and 2000-01-01.
pub(super) const EPOCH_DAYS: i32 = 10_957;
pub(super) const EPOCH_US: i64 = 10_957 * 86_400_000_000;

/// Appends a cell that is not null; the array has the layout of the type.
pub(super) fn write_cell(array: &ArrayRef, row: usize, sql_type: &SqlType, oid: u32, out: &mut Vec<u8>) {
    match sql_type {
        SqlType::Boolean => out.push(u8::from(array.as_boolean().value(row))),
        SqlType::SmallInt => out.extend_from_slice(&array.as_primitive::<Int16Type>().value(row).to_be_bytes()),
        SqlType::Integer => out.extend_from_slice(&array.as_primitive::<Int32Type>().value(row).to_be_bytes()),
        SqlType::BigInt => {
            let value = array.as_primitive::<Int64Type>().value(row);
            if oid == 26 {
                // An oid is four bytes, unsigned.
                out.extend_from_slice(&u32::try_from(value).unwrap_or(0).to_be_bytes());
            } else {
                out.extend_from_slice(&value.to_be_bytes());
            }
        }
        SqlType::Real => out.extend_from_slice(&array.as_primitive::<Float32Type>().value(row).to_be_bytes()),
        SqlType::Double => out.extend_from_slice(&array.as_primitive::<Float64Type>().value(row).to_be_bytes()),
        SqlType::Numeric { precision, scale } => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            write_numeric(value, *scale, (*precision, *scale) == PLAIN_NUMERIC, out);
        }
        SqlType::Text => out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes()),
        SqlType::Jsonb => {
            out.push(1);
            out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes());
        }
        SqlType::Uuid => write_uuid(array.as_string::<i32>().value(row), out),
        SqlType::Bytea => out.extend_from_slice(array.as_binary::<i32>().value(row)),
        SqlType::Date => {
            let days = array.as_primitive::<Date32Type>().value(row);
            out.extend_from_slice(&days.saturating_sub(EPOCH_DAYS).to_be_bytes());
        }
        SqlType::Time => {
            out.extend_from_slice(&array.as_primitive::<Time64MicrosecondType>().value(row).to_be_bytes());
        }
        SqlType::Timestamp | SqlType::Timestamptz => {
            let us = array.as_primitive::<TimestampMicrosecondType>().value(row);
            out.extend_from_slice(&us.saturating_sub(EPOCH_US).to_be_bytes());
        }
        SqlType::Interval => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            out.extend_from_slice(&(value.nanoseconds / 1000).to_be_bytes());
            out.extend_from_slice(&value.days.to_be_bytes());
            out.extend_from_slice(&value.months.to_be_bytes());
        }
        SqlType::List(item) => write_list(&array.as_list::<i32>().value(row), item, out),
        SqlType::Struct(fields) => write_record(array, row, fields, out),
    }
}

fn write_uuid(text: &str, out: &mut Vec<u8>) {
    let digits: Vec<u8> = text.bytes().filter_map(|b| (b as char).to_digit(16)).map(|d| d as u8).collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    out.extend_from_slice(&bytes);
}

/// Lists of lists are one array with several dimensions if they are regular; ragged ones have no binary form in
/// PostgreSQL, and shorter ones are filled with nulls.
fn write_list(items: &ArrayRef, item: &SqlType, out: &mut Vec<u8>) {
    let (mut dimensions, mut element) = (vec![items.len()], item);
    let mut level = vec![Some(items.clone())];
    while let SqlType::List(inner) = element {
        let mut next = Vec::new();
        for list in &level {
            for i in 0..dimensions[dimensions.len() - 1] {
                let child = list.as_ref().filter(|list| i < list.len() && list.is_valid(i));
                next.push(child.map(|list| list.as_list::<i32>().value(i)));
            }
        }
        dimensions.push(next.iter().flatten().map(|list| list.len()).max().unwrap_or(0));
        (level, element) = (next, inner);
    }
    let is_empty = dimensions.contains(&0);
    let count = if is_empty { 0 } else { dimensions.len() };
    let has_null = level.iter().any(|list| list.as_ref().is_none_or(|list| list.null_count() > 0));
    write_i32(count, out);
    write_i32(usize::from(has_null && !is_empty), out);
    out.extend_from_slice(&oid_of(element).to_be_bytes());
    if is_empty {
        return;
    }
    for length in &dimensions {
        write_i32(*length, out);
        write_i32(1, out);
    }
    let width = dimensions[dimensions.len() - 1];
    for list in &level {
        for i in 0..width {
            match list.as_ref().filter(|list| i < list.len() && list.is_valid(i)) {
                Some(list) => write_sized(list, i, element, out),
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
    }
}

fn write_record(array: &ArrayRef, row: usize, fields: &[(String, SqlType)], out: &mut Vec<u8>) {
    write_i32(fields.len(), out);
    for (column, (_, of)) in array.as_struct().columns().iter().zip(fields) {
        out.extend_from_slice(&oid_of(of).to_be_bytes());
        if column.is_null(row) {
            out.extend_from_slice(&(-1i32).to_be_bytes());
        } else {
            write_sized(column, row, of, out);
        }
    }
}

fn write_sized(array: &ArrayRef, row: usize, sql_type: &SqlType, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write_cell(array, row, sql_type, oid_of(sql_type), out);
    let length = i32::try_from(out.len() - start - 4).expect("values are smaller than 2 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn write_i32(value: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&i32::try_from(value).expect("lists have less than 2^31 items").to_be_bytes());
}

/// `numeric_send`: digits to the base 10,000, the weight of the first, sign, digits shown after the point.
fn write_numeric(value: i128, scale: i8, trim: bool, out: &mut Vec<u8>) {
    let mut shown = i32::from(scale.max(0));
    let mut magnitude = value.unsigned_abs();
    let mut digits: Vec<i16> = Vec::new();
    // The unit of the last group is 10^-(4 * groups after the point).
    let groups_after = (i32::from(scale.max(0)) + 3) / 4;
    let shift = groups_after * 4 - i32::from(scale);
    // Shifting left by up to 3 digits may pass 128 bits: the last group is split off first.
    let split = 10u128.pow(u32::try_from((4 - shift.rem_euclid(4)) % 4).expect("below 4"));
    if scale >= 0 {
        let group = (magnitude % split) * 10u128.pow(u32::try_from(shift).expect("0 to 3"));
        if split > 1 {
            digits.push(i16::try_from(group).expect("below 10,000"));
            magnitude /= split;
        }
        while magnitude > 0 {
            digits.push(i16::try_from(magnitude % 10_000).expect("below 10,000"));
            magnitude /= 10_000;
        }
    } else {
        let text = format!("{magnitude}{}", "0".repeat(usize::from(scale.unsigned_abs())));
        let mut end = text.len();
        while end > 0 && magnitude > 0 {
            let start = end.saturating_sub(4);
            digits.push(text[start..end].parse().expect("digits"));
            end = start;
        }
    }
    if trim {
        let mut rest = value.unsigned_abs();
        while shown > 0 && rest.is_multiple_of(10) {
            rest /= 10;
            shown -= 1;
        }
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
    digits.reverse();
    let weight = i32::try_from(digits.len()).expect("few") - groups_after - 1;
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let weight = if digits.is_empty() { 0 } else { i16::try_from(weight).expect("few") };
    out.extend_from_slice(&i16::try_from(digits.len()).expect("few").to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&(if value < 0 { 0x4000u16 } else { 0 }).to_be_bytes());
    out.extend_from_slice(&i16::try_from(shown).expect("below 128").to_be_bytes());
    for digit in digits {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}
