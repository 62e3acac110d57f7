//! One column that is being filled.
//!
//! INVARIANT: after an append that succeeded, a column has one row more. After one that failed it may hold a part of the
//! row, also in its children; `truncate` to the rows before removes it. The caller does that for the whole record.

use std::borrow::Cow;
use std::mem::take;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array,
    Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, IntervalMonthDayNano};

use super::kind::{Kind, TextKind};
use super::members::Members;
use super::reject::RejectReason;
use super::scan::{Scanner, Token, TokenKind, compact, unescape};
use crate::text::number::{self, Rounding};
use crate::text::{datetime, interval};

#[derive(Debug)]
pub(crate) struct Column {
    name: String,
    kind: Kind,
    is_nullable: bool,
    values: Values,
    valid: Vec<bool>,
}

#[derive(Debug)]
enum Values {
    Bool(Vec<bool>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>),
    Interval(Vec<IntervalMonthDayNano>),
    Text { offsets: Vec<i32>, data: String },
    Bytes { offsets: Vec<i32>, data: Vec<u8> },
    List { offsets: Vec<i32>, item: Box<Column> },
    Struct { members: Members, columns: Vec<Column> },
}

impl Values {
    fn new(kind: &Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bool(Vec::new()),
            Kind::Int16 => Self::Int16(Vec::new()),
            Kind::Int32 | Kind::Date => Self::Int32(Vec::new()),
            Kind::Int64 | Kind::Time | Kind::Timestamp { .. } => Self::Int64(Vec::new()),
            Kind::Float32 => Self::Float32(Vec::new()),
            Kind::Float64 => Self::Float64(Vec::new()),
            Kind::Decimal { .. } => Self::Decimal(Vec::new()),
            Kind::Interval => Self::Interval(Vec::new()),
            Kind::Text(_) => Self::Text { offsets: vec![0], data: String::new() },
            Kind::Bytes => Self::Bytes { offsets: vec![0], data: Vec::new() },
            Kind::List { field, item } => {
                Self::List { offsets: vec![0], item: Box::new(Column::new(field, Kind::clone(item))) }
            }
            Kind::Struct { fields, kinds } => Self::Struct {
                members: Members::new(fields.iter().map(|field| field.name())),
                columns: fields.iter().zip(kinds).map(|(field, kind)| Column::new(field, kind.clone())).collect(),
            },
        }
    }
}

/// How a conversion ended that is no plain success.
enum Failure {
    /// The value is not one of the column's type.
    Mismatch,
    Rejected(RejectReason),
}

impl Column {
    pub(crate) fn new(field: &Field, kind: Kind) -> Self {
        let values = Values::new(&kind);
        Self { name: field.name().clone(), kind, is_nullable: field.is_nullable(), values, valid: Vec::new() }
    }

    pub(crate) fn append(&mut self, text: &str, token: Token, depth: usize) -> Result<(), RejectReason> {
        if token.is_null() {
            if !self.is_nullable {
                let found = if token.kind == TokenKind::Null { "null" } else { "no such member" };
                return Err(RejectReason::null(&self.name, found));
            }
            self.append_null();
            return Ok(());
        }
        match append_value(&mut self.values, &self.kind, text, token, depth) {
            Ok(()) => {
                self.valid.push(true);
                Ok(())
            }
            Err(Failure::Mismatch) => Err(RejectReason::value(&self.name, Some(with_quotes(text, token)), &self.kind)),
            Err(Failure::Rejected(reason)) => Err(reason.inside(&self.name)),
        }
        .and_then(|()| self.check_size())
    }

    /// Also of a column that is NOT NULL, inside a struct that is null.
    fn append_null(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.push(false),
            Values::Int16(values) => values.push(0),
            Values::Int32(values) => values.push(0),
            Values::Int64(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Interval(values) => values.push(IntervalMonthDayNano::default()),
            Values::Text { offsets, .. } | Values::Bytes { offsets, .. } | Values::List { offsets, .. } => {
                offsets.push(offsets.last().copied().unwrap_or_default());
            }
            Values::Struct { columns, .. } => columns.iter_mut().for_each(Column::append_null),
        }
        self.valid.push(false);
    }

    /// Arrow's offsets are 32 bits wide.
    fn check_size(&self) -> Result<(), RejectReason> {
        let size = match &self.values {
            Values::Text { data, .. } => data.len(),
            Values::Bytes { data, .. } => data.len(),
            Values::List { item, .. } => item.valid.len(),
            _ => 0,
        };
        if i32::try_from(size).is_ok() { Ok(()) } else { Err(RejectReason::too_big(&self.name)) }
    }

    pub(crate) fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Bool(values) => values.truncate(rows),
            Values::Int16(values) => values.truncate(rows),
            Values::Int32(values) => values.truncate(rows),
            Values::Int64(values) => values.truncate(rows),
            Values::Float32(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Decimal(values) => values.truncate(rows),
            Values::Interval(values) => values.truncate(rows),
            Values::Text { offsets, data } => data.truncate(cut_offsets(offsets, rows)),
            Values::Bytes { offsets, data } => data.truncate(cut_offsets(offsets, rows)),
            Values::List { offsets, item } => item.truncate(cut_offsets(offsets, rows)),
            Values::Struct { columns, .. } => columns.iter_mut().for_each(|column| column.truncate(rows)),
        }
        self.valid.truncate(rows);
    }

    /// The rows as an array of the column's type; the column is empty again.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        let valid = take(&mut self.valid);
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        match (&mut self.values, &self.kind) {
            (Values::Bool(values), _) => Arc::new(BooleanArray::new(take(values).into(), nulls)),
            (Values::Int16(values), _) => Arc::new(Int16Array::new(take(values).into(), nulls)),
            (Values::Int32(values), Kind::Date) => Arc::new(Date32Array::new(take(values).into(), nulls)),
            (Values::Int32(values), _) => Arc::new(Int32Array::new(take(values).into(), nulls)),
            (Values::Int64(values), Kind::Time) => Arc::new(Time64MicrosecondArray::new(take(values).into(), nulls)),
            (Values::Int64(values), Kind::Timestamp { timezone }) => {
                let array = TimestampMicrosecondArray::new(take(values).into(), nulls);
                Arc::new(array.with_timezone_opt(timezone.clone()))
            }
            (Values::Int64(values), _) => Arc::new(Int64Array::new(take(values).into(), nulls)),
            (Values::Float32(values), _) => Arc::new(Float32Array::new(take(values).into(), nulls)),
            (Values::Float64(values), _) => Arc::new(Float64Array::new(take(values).into(), nulls)),
            (Values::Decimal(values), kind) => Arc::new(decimals(take(values), nulls, kind)),
            (Values::Interval(values), _) => Arc::new(IntervalMonthDayNanoArray::new(take(values).into(), nulls)),
            (Values::Text { offsets, data }, _) => {
                Arc::new(StringArray::new(take_offsets(offsets), Buffer::from_vec(take(data).into_bytes()), nulls))
            }
            (Values::Bytes { offsets, data }, _) => {
                Arc::new(BinaryArray::new(take_offsets(offsets), Buffer::from_vec(take(data)), nulls))
            }
            (Values::List { offsets, item }, Kind::List { field, .. }) => {
                Arc::new(ListArray::new(Arc::clone(field), take_offsets(offsets), item.finish(), nulls))
            }
            (Values::Struct { columns, .. }, Kind::Struct { fields, .. }) => {
                Arc::new(StructArray::new(fields.clone(), columns.iter_mut().map(Column::finish).collect(), nulls))
            }
            (Values::List { .. } | Values::Struct { .. }, kind) => unreachable!("values of another kind than {kind}"),
        }
    }
}

fn decimals(values: Vec<i128>, nulls: Option<NullBuffer>, kind: &Kind) -> Decimal128Array {
    let Kind::Decimal { precision, scale } = kind else { unreachable!("decimals of another kind than {kind}") };
    Decimal128Array::new(values.into(), nulls)
        .with_precision_and_scale(*precision, *scale)
        .expect("Kind::of accepts only the precisions and scales that Arrow has")
}

/// Keeps the offsets of `rows` rows and returns where their data ends.
fn cut_offsets(offsets: &mut Vec<i32>, rows: usize) -> usize {
    offsets.truncate(rows + 1);
    offset_to_length(offsets)
}

fn offset_to_length(offsets: &[i32]) -> usize {
    usize::try_from(offsets.last().copied().unwrap_or_default()).expect("offsets are lengths")
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])))
}

/// An offset that does not fit is caught by `check_size` before anybody reads it.
fn push_offset(offsets: &mut Vec<i32>, length: usize) {
    offsets.push(i32::try_from(length).unwrap_or(i32::MAX));
}

fn push<T>(values: &mut Vec<T>, value: Option<T>) -> Result<(), Failure> {
    values.push(value.ok_or(Failure::Mismatch)?);
    Ok(())
}

fn append_value(values: &mut Values, kind: &Kind, text: &str, token: Token, depth: usize) -> Result<(), Failure> {
    match values {
        Values::Bool(values) => push(values, boolean(text, token)),
        Values::Int16(values) => push(values, integer(text, token).and_then(|value| i16::try_from(value).ok())),
        Values::Int32(values) if *kind == Kind::Date => push(values, date(text, token)),
        Values::Int32(values) => push(values, integer(text, token).and_then(|value| i32::try_from(value).ok())),
        Values::Int64(values) => push(
            values,
            match kind {
                Kind::Time => string(text, token).and_then(|text| datetime::time(text.trim())),
                Kind::Timestamp { .. } => timestamp(text, token),
                _ => integer(text, token),
            },
        ),
        Values::Float32(values) => push(values, numeric(text, token).and_then(|text| number::float32(&text))),
        Values::Float64(values) => push(values, numeric(text, token).and_then(|text| number::float64(&text))),
        Values::Decimal(values) => push(values, numeric(text, token).and_then(|text| decimal(&text, kind))),
        Values::Interval(values) => push(values, string(text, token).and_then(|text| interval::parse(text.trim()))),
        Values::Text { offsets, data } => {
            append_text(data, kind, text, token, depth).ok_or(Failure::Mismatch)?;
            push_offset(offsets, data.len());
            Ok(())
        }
        Values::Bytes { offsets, data } => {
            let text = string(text, token).ok_or(Failure::Mismatch)?;
            append_hex(data, &text).ok_or(Failure::Mismatch)?;
            push_offset(offsets, data.len());
            Ok(())
        }
        Values::List { offsets, item } => append_list(offsets, item, text, token, depth),
        Values::Struct { members, columns } => append_struct(members, columns, text, token, depth),
    }
}

fn append_list(
    offsets: &mut Vec<i32>,
    item: &mut Column,
    text: &str,
    token: Token,
    depth: usize,
) -> Result<(), Failure> {
    if token.kind != TokenKind::Array {
        return Err(Failure::Mismatch);
    }
    let mut result = Ok(());
    let scanned = Scanner::starting_at(text, token.start).array(depth + 1, |element| {
        if result.is_ok() {
            result = item.append(text, element, depth + 1);
        }
    });
    assert!(scanned.is_ok(), "the record was scanned before");
    result.map_err(Failure::Rejected)?;
    push_offset(offsets, item.valid.len());
    Ok(())
}

fn append_struct(
    members: &mut Members,
    columns: &mut [Column],
    text: &str,
    token: Token,
    depth: usize,
) -> Result<(), Failure> {
    if token.kind != TokenKind::Object {
        return Err(Failure::Mismatch);
    }
    let scanned = members.read(text, &mut Scanner::starting_at(text, token.start), depth + 1);
    assert!(scanned.is_ok(), "the record was scanned before");
    for (index, column) in columns.iter_mut().enumerate() {
        column.append(text, members.token(index), depth + 1).map_err(Failure::Rejected)?;
    }
    Ok(())
}

/// The value as it stands in the record.
fn with_quotes(text: &str, token: Token) -> &str {
    match token.kind {
        TokenKind::PlainString | TokenKind::EscapedString => &text[token.start - 1..token.end + 1],
        _ => token.of(text),
    }
}

fn string(text: &str, token: Token) -> Option<Cow<'_, str>> {
    match token.kind {
        TokenKind::PlainString => Some(Cow::Borrowed(token.of(text))),
        TokenKind::EscapedString => Some(Cow::Owned(unescape(token.of(text)))),
        _ => None,
    }
}

/// A number, or a string that may hold one.
fn numeric(text: &str, token: Token) -> Option<Cow<'_, str>> {
    match token.kind {
        TokenKind::Number => Some(Cow::Borrowed(token.of(text))),
        TokenKind::PlainString => Some(Cow::Borrowed(token.of(text).trim())),
        _ => string(text, token).map(|text| Cow::Owned(text.trim().to_owned())),
    }
}

fn boolean(text: &str, token: Token) -> Option<bool> {
    match token.kind {
        TokenKind::True => return Some(true),
        TokenKind::False => return Some(false),
        _ => {}
    }
    match string(text, token)?.trim().to_ascii_lowercase().as_str() {
        "true" | "t" => Some(true),
        "false" | "f" => Some(false),
        _ => None,
    }
}

fn integer(text: &str, token: Token) -> Option<i64> {
    number::integer(&numeric(text, token)?)
}

fn date(text: &str, token: Token) -> Option<i32> {
    match token.kind {
        TokenKind::Number => number::integer(token.of(text)).and_then(|days| i32::try_from(days).ok()),
        _ => datetime::date(string(text, token)?.trim()),
    }
}

fn timestamp(text: &str, token: Token) -> Option<i64> {
    match token.kind {
        TokenKind::Number => datetime::epoch(token.of(text)),
        _ => datetime::timestamp(string(text, token)?.trim()),
    }
}

fn decimal(text: &str, kind: &Kind) -> Option<i128> {
    let Kind::Decimal { precision, scale } = kind else { return None };
    let value = number::scaled(text, i32::from(*scale), Rounding::HalfAway)?;
    let limit = number::power_of_ten(i64::from(*precision))?;
    (-limit < value && value < limit).then_some(value)
}

fn append_text(data: &mut String, kind: &Kind, text: &str, token: Token, depth: usize) -> Option<()> {
    let start = data.len();
    match kind {
        Kind::Text(TextKind::Jsonb) => return compact(with_quotes(text, token), depth, data).then_some(()),
        Kind::Text(TextKind::Uuid) => return append_uuid(data, string(text, token)?.trim()),
        _ => {}
    }
    match token.kind {
        TokenKind::EscapedString => data.push_str(&unescape(token.of(text))),
        TokenKind::Array | TokenKind::Object => return None,
        _ => data.push_str(token.of(text)),
    }
    // Only an escape can be a NUL: bare control characters are no JSON.
    (token.kind != TokenKind::EscapedString || !data[start..].contains('\0')).then_some(())
}

/// The forms that PostgreSQL reads: with or without braces and hyphens, any case. Kept in its canonical form.
fn append_uuid(data: &mut String, text: &str) -> Option<()> {
    let inside = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let (mut digits, mut hyphen_before) = (0, false);
    for character in inside.chars() {
        if character == '-' {
            if digits == 0 || digits == 32 || digits % 4 != 0 || hyphen_before {
                return None;
            }
            hyphen_before = true;
            continue;
        }
        if !character.is_ascii_hexdigit() || digits == 32 {
            return None;
        }
        if matches!(digits, 8 | 12 | 16 | 20) {
            data.push('-');
        }
        data.push(character.to_ascii_lowercase());
        digits += 1;
        hyphen_before = false;
    }
    (digits == 32).then_some(())
}

fn append_hex(data: &mut Vec<u8>, text: &str) -> Option<()> {
    let (pairs, []) = text.strip_prefix("\\x")?.as_bytes().as_chunks::<2>() else { return None };
    for [high, low] in pairs {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        data.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
    }
    Some(())
}
