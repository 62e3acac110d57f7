//! Functions of PostgreSQL that DataFusion does not have, or has with another meaning.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::casts::convert;
use super::to_char;
use crate::arrow_types::{sql_type, sql_type_of};
use crate::error::{SqlError, sqlstate};
use crate::text::datetime::{read_zone, to_local, to_utc};

/// `timezone(zone, timestamp)`: what `timestamp AT TIME ZONE zone` means.
pub(crate) const TIMEZONE: &str = "timezone";
/// `similar_to_escape(pattern [, escape])`: the regular expression of a SIMILAR TO pattern.
pub(crate) const SIMILAR_TO_ESCAPE: &str = "similar_to_escape";
/// The bytes of a bytea: `length()` and `octet_length()` would count the characters of its text.
pub(crate) const BYTEA_LENGTH: &str = "bytea_length";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Timezone,
    SimilarToEscape,
    ToChar,
    Format,
    PgTypeof,
    ByteaLength,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PostgresFunction {
    kind: Kind,
    signature: Signature,
}

pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let two = Signature::any(2, Volatility::Immutable);
    let some = Signature::variadic_any(Volatility::Immutable);
    [
        (Kind::Timezone, two.clone()),
        (Kind::SimilarToEscape, some.clone()),
        (Kind::ToChar, two),
        (Kind::Format, some),
        (Kind::PgTypeof, Signature::any(1, Volatility::Immutable)),
        (Kind::ByteaLength, Signature::any(1, Volatility::Immutable)),
    ]
    .into_iter()
    .map(|(kind, signature)| Arc::new(ScalarUDF::new_from_impl(PostgresFunction { kind, signature })))
    .collect()
}

impl ScalarUDFImpl for PostgresFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Timezone => TIMEZONE,
            Kind::SimilarToEscape => SIMILAR_TO_ESCAPE,
            Kind::ToChar => "to_char",
            Kind::Format => "format",
            Kind::PgTypeof => "pg_typeof",
            Kind::ByteaLength => BYTEA_LENGTH,
        }
    }

    /// DataFusion's to_char has this alias: a registry that is made from another one must not find it there.
    fn aliases(&self) -> &[String] {
        static DATE_FORMAT: LazyLock<[String; 1]> = LazyLock::new(|| ["date_format".to_owned()]);
        if self.kind == Kind::ToChar { DATE_FORMAT.as_slice() } else { &[] }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (self.kind, types) {
            (Kind::Timezone, [_, DataType::Timestamp(_, Some(_))]) => {
                Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
            }
            // A date or a text is taken as a timestamp with time zone, as PostgreSQL does.
            (Kind::Timezone, [_, DataType::Date32 | DataType::Utf8]) => {
                Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
            }
            (Kind::Timezone, [_, DataType::Timestamp(_, None)]) => {
                Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
            }
            (Kind::Timezone, _) => plan_err!("AT TIME ZONE takes a timestamp"),
            (Kind::ToChar, [of, _]) if !to_char::takes(of) => {
                let message = format!("to_char() of {} is not supported", sql_type_of(of));
                Err(SqlError::not_supported(message).with_hint("Cast the value to a timestamp or a number.").into())
            }
            (Kind::ByteaLength, _) => Ok(DataType::Int32),
            _ => Ok(DataType::Utf8),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let result: ArrayRef = match (self.kind, arrays.as_slice()) {
            (Kind::Timezone, [zone, time]) => timezone(zone, time, args.return_type())?,
            (Kind::ToChar, [of, pattern]) => Arc::new(to_char::to_char(of, &texts(pattern)?)?),
            (Kind::SimilarToEscape, [pattern]) => {
                Arc::new(map_texts(&texts(pattern)?, |_, text| regex_of(text, Some('\\')))?)
            }
            (Kind::SimilarToEscape, [pattern, escape]) => {
                let escapes = texts(escape)?;
                let escape_of = |row: usize| escapes.is_valid(row).then(|| escapes.value(row).chars().next()).flatten();
                Arc::new(map_texts(&texts(pattern)?, |row, text| regex_of(text, escape_of(row)))?)
            }
            (Kind::Format, [pattern, values @ ..]) => {
                let values = values.iter().map(texts).collect::<Result<Vec<_>>>()?;
                Arc::new(map_texts(&texts(pattern)?, |row, text| format_row(text, &values, row))?)
            }
            (Kind::PgTypeof, [of]) => {
                let name = args
                    .arg_fields
                    .first()
                    .map_or_else(|| sql_type_of(of.data_type()), |field| sql_type(field))
                    .to_string();
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(name, of.len())))
            }
            (Kind::ByteaLength, [of]) => cast(&length(&cast(of, &DataType::Binary)?)?, &DataType::Int32)?,
            _ => return plan_err!("wrong number of arguments of {}()", self.name()),
        };
        if args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) && !result.is_empty() {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// The text of any values.
fn texts(array: &ArrayRef) -> Result<StringArray> {
    let is_own = array.data_type() == &DataType::Utf8;
    let texts = if is_own || array.data_type().is_null() {
        cast(array, &DataType::Utf8)?
    } else {
        convert(array, &DataType::Utf8)?
    };
    Ok(texts.as_string::<i32>().clone())
}

fn map_texts(
    texts: &StringArray,
    of: impl Fn(usize, &str) -> std::result::Result<String, SqlError>,
) -> std::result::Result<StringArray, SqlError> {
    texts.iter().enumerate().map(|(row, text)| text.map(|text| of(row, text)).transpose()).collect()
}

fn timezone(zone: &ArrayRef, time: &ArrayRef, result: &DataType) -> Result<ArrayRef> {
    let is_local = matches!(time.data_type(), DataType::Timestamp(_, None));
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let time = match time.data_type() {
        DataType::Utf8 => convert(time, &zoned)?,
        DataType::Date32 => cast(&cast(time, &DataType::Timestamp(TimeUnit::Microsecond, None))?, &zoned)?,
        DataType::Timestamp(TimeUnit::Microsecond, _) => time.clone(),
        DataType::Timestamp(_, zone) => cast(time, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?,
        _ => return plan_err!("AT TIME ZONE takes a timestamp"),
    };
    let times = time.as_primitive::<TimestampMicrosecondType>();
    let zones = texts(zone)?;
    let mut known: Option<(String, arrow::array::timezone::Tz)> = None;
    let mut out = Vec::with_capacity(times.len());
    for (row, time) in times.iter().enumerate() {
        let (Some(time), true) = (time, zones.is_valid(row)) else {
            out.push(None);
            continue;
        };
        let name = zones.value(row);
        if known.as_ref().is_none_or(|(known, _)| known != name) {
            let zone = read_zone(name).ok_or_else(|| {
                SqlError::new(sqlstate::INVALID_PARAMETER, format!("time zone \"{name}\" not recognized"))
            })?;
            known = Some((name.to_owned(), zone));
        }
        let Some((_, zone)) = known else { continue };
        let moved = if is_local { to_utc(time, zone) } else { to_local(time, zone) };
        out.push(Some(moved.ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?));
    }
    Ok(Arc::new(TimestampMicrosecondArray::from(out).with_data_type(result.clone())))
}

/// SQL's `%` and `_`, alternation, groups and repetition stay what they are; all else that a regular expression knows is
/// itself.
fn regex_of(pattern: &str, escape: Option<char>) -> std::result::Result<String, SqlError> {
    let mut out = String::from("^(?:");
    let mut in_brackets = false;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            let next = chars
                .next()
                .ok_or_else(|| SqlError::new("22025", "LIKE pattern must not end with escape character"))?;
            if !next.is_alphanumeric() {
                out.push('\\');
            }
            out.push(next);
        } else if in_brackets {
            in_brackets = c != ']';
            out.push_str(if c == '\\' { "\\\\" } else { "" });
            if c != '\\' {
                out.push(c);
            }
        } else {
            match c {
                '%' => out.push_str("(?s:.*)"),
                '_' => out.push_str("(?s:.)"),
                '[' => {
                    in_brackets = true;
                    out.push(c);
                }
                '(' => out.push_str("(?:"),
                '.' | '^' | '$' | '\\' => {
                    out.push('\\');
                    out.push(c);
                }
                _ => out.push(c),
            }
        }
    }
    out.push_str(")$");
    Ok(out)
}

/// `format('%s %I %L %%', ...)`, with `%1$s` and widths.
fn format_row(pattern: &str, values: &[StringArray], row: usize) -> std::result::Result<String, SqlError> {
    let wrong = |what: String| SqlError::new(sqlstate::INVALID_PARAMETER, what);
    let (mut out, mut next, mut rest) = (String::new(), 0, pattern);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('%') {
            out.push('%');
            rest = behind;
            continue;
        }
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits > 0 && rest[digits..].starts_with('$') {
            let place = rest[..digits].parse::<usize>().ok().and_then(|place| place.checked_sub(1));
            next =
                place.ok_or_else(|| wrong("format specifies argument 0, but arguments are numbered from 1".into()))?;
            rest = &rest[digits + 1..];
        }
        let left = rest.strip_prefix('-');
        rest = left.unwrap_or(rest);
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let width = rest[..digits].parse::<usize>().unwrap_or(0).min(10_000);
        rest = &rest[digits..];
        let mut chars = rest.chars();
        let kind = chars.next().ok_or_else(|| wrong("unterminated format() type specifier".into()))?;
        rest = chars.as_str();
        let values = values.get(next).ok_or_else(|| wrong("too few arguments for format()".into()))?;
        next += 1;
        let value = values.is_valid(row).then(|| values.value(row));
        let text = match (kind, value) {
            ('s', value) => value.unwrap_or_default().to_owned(),
            ('I', Some(value)) => quoted_identifier(value),
            ('I', None) => return Err(SqlError::new("22004", "null values cannot be formatted as an SQL identifier")),
            ('L', Some(value)) => format!("'{}'", value.replace('\'', "''")),
            ('L', None) => "NULL".to_owned(),
            (other, _) => return Err(wrong(format!("unrecognized format() type specifier \"{other}\""))),
        };
        let padding = " ".repeat(width.saturating_sub(text.chars().count()));
        out.push_str(&if left.is_some() { text + &padding } else { padding + &text });
    }
    out.push_str(rest);
    Ok(out)
}

fn quoted_identifier(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_to_patterns_become_anchored_regular_expressions() {
        let regex = |pattern: &str| regex_of(pattern, Some('\\')).expect("a pattern");
        assert_eq!(regex("a%"), "^(?:a(?s:.*))$");
        assert_eq!(regex("(b|c)_[x-z]+"), "^(?:(?:b|c)(?s:.)[x-z]+)$");
        assert_eq!(regex("1.5\\%$"), "^(?:1\\.5\\%\\$)$");
        assert!(regex_of("a\\", Some('\\')).is_err());
    }

    #[test]
    fn format_writes_texts_identifiers_and_literals() {
        let one = |text: Option<&str>| StringArray::from(vec![text]);
        let values = [one(Some("it's")), one(Some("My Table")), one(None)];
        let formatted = |pattern: &str| format_row(pattern, &values, 0);
        assert_eq!(formatted("%s|%I|%L|%%").as_deref(), Ok("it's|\"My Table\"|NULL|%"));
        assert_eq!(formatted("%2$s %1$L").as_deref(), Ok("My Table 'it''s'"));
        assert_eq!(formatted("[%6s][%-6s]").as_deref(), Ok("[  it's][My Table]"));
        assert!(formatted("%s %s %s %s").is_err());
        assert!(formatted("%d").is_err());
    }
}
