//! Assignment of values to columns, by PostgreSQL's rules.
//!
//! Text that has no type of its own (a quoted literal, a text parameter, a field of COPY) is read as a value of the column's
//! type. Text of type text is not: that takes a cast. Numbers fit or are an error; fractions are rounded. Anything becomes
//! text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Schema};
use mainstem_catalog::{Column, SqlType};
use mainstem_formats::JsonDecoder;
use mainstem_sql::arrow_types::{arrow_type, sql_type_of};
use mainstem_sql::text::{column_from_text, numeric_overflow, unreadable, write_text};
use mainstem_sql::{SqlError, arrow_field};

use super::DmlError;

/// The values as the column has them.
pub(super) fn assign(column: &Column, values: &ArrayRef, untyped: bool) -> Result<ArrayRef, DmlError> {
    let (from, to) = (values.data_type().clone(), arrow_type(&column.sql_type));
    let is_special = matches!(column.sql_type, SqlType::Jsonb | SqlType::Uuid);
    if from == to && !is_special {
        return Ok(values.clone());
    }
    if from == DataType::Null || values.null_count() == values.len() {
        return Ok(new_null_array(&to, values.len()));
    }
    if from.is_string() {
        let text = cast(values, &DataType::Utf8).map_err(|error| internal(&error))?;
        return match column.sql_type {
            SqlType::Text => Ok(text),
            // Functions that give jsonb and uuid give strings.
            _ if untyped || is_special => parse(column, text.as_string::<i32>()),
            _ => Err(mismatch(column, &from)),
        };
    }
    if matches!(column.sql_type, SqlType::Text) {
        return as_text(values);
    }
    if from.is_numeric() && to.is_numeric() {
        return number(column, values);
    }
    let is_time = |data_type: &DataType| data_type.is_temporal() || matches!(data_type, DataType::Interval(_));
    let is_like = (is_time(&from) && is_time(&to)) || from.is_nested() == to.is_nested() && !from.is_primitive();
    if !is_like || !can_cast_types(&from, &to) || is_special {
        return Err(mismatch(column, &from));
    }
    cast_with_options(values, &to, &strict())
        .map_err(|error| SqlError::new("22008", format!("{} out of range: {error}", column.sql_type)))
}

fn strict() -> CastOptions<'static> {
    CastOptions { safe: false, ..CastOptions::default() }
}

fn internal(error: &arrow::error::ArrowError) -> DmlError {
    SqlError::new("XX000", error.to_string())
}

fn mismatch(column: &Column, from: &DataType) -> DmlError {
    let text = format!(
        "column \"{}\" is of type {} but expression is of type {}",
        column.name,
        column.sql_type,
        sql_type_of(from)
    );
    SqlError::new("42804", text).with_hint("You will need to rewrite or cast the expression.")
}

fn out_of_range(sql_type: &SqlType) -> DmlError {
    match sql_type {
        SqlType::Numeric { precision, scale } => numeric_overflow(*precision, *scale),
        other => SqlError::new("22003", format!("{other} out of range")),
    }
}

fn number(column: &Column, values: &ArrayRef) -> Result<ArrayRef, DmlError> {
    let to = arrow_type(&column.sql_type);
    let values: ArrayRef = if to.is_integer() && values.data_type().is_floating() {
        let floats = cast(values, &DataType::Float64).map_err(|error| internal(&error))?;
        let rounded: Float64Array = floats.as_primitive::<Float64Type>().unary(f64::round_ties_even);
        Arc::new(rounded)
    } else {
        values.clone()
    };
    let cast = cast_with_options(&values, &to, &strict()).map_err(|_| out_of_range(&column.sql_type))?;
    // A cast to decimals may leave a value of too many digits.
    if let (DataType::Decimal128(precision, _), Some(decimals)) =
        (&to, cast.as_primitive_opt::<arrow::datatypes::Decimal128Type>())
    {
        decimals.validate_decimal_precision(*precision).map_err(|_| out_of_range(&column.sql_type))?;
    }
    Ok(cast)
}

/// A number in an SQL text as text that is read as the column's type: no digit is lost on the way. None when the column is
/// not of a kind that a number is assigned to as it is.
pub(super) fn number_text(sql_type: &SqlType, text: String) -> Option<String> {
    match sql_type {
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt => {
            let is_whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            is_whole.then_some(text)
        }
        SqlType::Numeric { .. } | SqlType::Real | SqlType::Double | SqlType::Text => Some(text),
        _ => None,
    }
}

/// As PostgreSQL prints them.
fn as_text(values: &ArrayRef) -> Result<ArrayRef, DmlError> {
    let sql_type = sql_type_of(values.data_type());
    // A cast to text spells a boolean out, printing one does not.
    if sql_type == SqlType::Boolean {
        return cast(values, &DataType::Utf8).map_err(|error| internal(&error));
    }
    let texts = (0..values.len()).map(|row| write_text(values, row, &sql_type));
    Ok(Arc::new(texts.collect::<Result<StringArray, _>>()?))
}

/// Reads text as values of the column's type. A list may be written as JSON, too.
fn parse(column: &Column, text: &StringArray) -> Result<ArrayRef, DmlError> {
    let is_json = |text: &str| text.trim_start().starts_with('[');
    match &column.sql_type {
        SqlType::Jsonb | SqlType::Struct(_) => parse_json(column, text),
        SqlType::List(_) if text.iter().flatten().any(is_json) => parse_json(column, text),
        sql_type => column_from_text(&text.iter().collect::<Vec<_>>(), sql_type, ""),
    }
}

/// Reads text by the rules that records are read by.
fn parse_json(column: &Column, text: &StringArray) -> Result<ArrayRef, DmlError> {
    let column = Column { name: "v".to_owned(), nullable: true, ..column.clone() };
    let schema = Arc::new(Schema::new(vec![arrow_field(&column)]));
    let mut decoder = JsonDecoder::new(schema).map_err(|error| SqlError::not_supported(error.to_string()))?;
    let document = |text: Option<&str>| format!("{{\"v\":{}}}", text.unwrap_or("null")).into_bytes();
    let documents: Vec<Vec<u8>> = text.iter().map(document).collect();
    let decoded = decoder.decode(documents.iter().map(|document| Some(document.as_slice())));
    if let Some((row, reason)) = decoded.rejected.first() {
        let error = unreadable(&column.sql_type, text.value(*row as usize));
        return Err(error.with_detail(reason.to_string()));
    }
    Ok(decoded.batch.column(0).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(sql_type: SqlType) -> Column {
        Column { name: "c".into(), sql_type, nullable: true, hidden: false, default: None }
    }

    fn read(sql_type: SqlType, text: &str) -> Result<String, (&'static str, String)> {
        let values: ArrayRef = Arc::new(StringArray::from(vec![text]));
        let column = column(sql_type);
        let value = assign(&column, &values, true).map_err(|error| (error.sqlstate, error.message))?;
        assert_eq!(value.data_type(), &arrow_type(&column.sql_type));
        Ok(arrow::util::display::array_value_to_string(&value, 0).expect("a value that prints"))
    }

    #[test]
    fn text_without_a_type_is_read_as_the_columns_type() {
        let numeric = SqlType::Numeric { precision: 6, scale: 2 };
        assert_eq!(read(SqlType::Integer, " 42 "), Ok("42".into()));
        assert_eq!(read(numeric.clone(), "1234.565"), Ok("1234.57".into()));
        assert_eq!(read(SqlType::Boolean, "t"), Ok("true".into()));
        assert_eq!(read(SqlType::Timestamp, "2013-07-01 05:17"), Ok("2013-07-01T05:17:00".into()));
        assert_eq!(read(SqlType::Timestamptz, "2013-07-01T05:17:00+02"), Ok("2013-07-01T03:17:00Z".into()));
        assert_eq!(read(SqlType::Bytea, "\\x0aFF"), Ok("0aff".into()));
        assert_eq!(read(SqlType::Jsonb, "{\"a\": 1}"), Ok("{\"a\":1}".into()));
        assert_eq!(read(SqlType::List(Box::new(SqlType::Integer)), "{1,NULL,3}"), Ok("[1, , 3]".into()));
        assert_eq!(read(SqlType::List(Box::new(SqlType::Text)), "{\"a, b\",c}"), Ok("[a, b, c]".into()));
        let failed = |sql_type, text| read(sql_type, text).expect_err("no such value");
        assert_eq!(failed(SqlType::Integer, "x"), ("22P02", "invalid input syntax for type integer: \"x\"".into()));
        assert_eq!(failed(SqlType::SmallInt, "70000").0, "22003");
        assert_eq!(failed(numeric, "12345"), ("22003", "numeric field overflow".into()));
        assert_eq!(failed(SqlType::Timestamp, "soon").0, "22007");
        assert_eq!(read(SqlType::List(Box::new(SqlType::Text)), "[\"a\"]"), Ok("[a]".into()));
        assert_eq!(failed(SqlType::Uuid, "no").0, "22P02");
    }

    #[test]
    fn numbers_fit_or_are_an_error_and_text_takes_anything() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![2.5, 3.5, -0.4]));
        let whole = assign(&column(SqlType::Integer), &floats, false).expect("in range");
        assert_eq!(whole.as_primitive::<arrow::datatypes::Int32Type>().values().as_ref(), &[2, 4, 0]);
        let large: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1_i64 << 40]));
        assert_eq!(
            assign(&column(SqlType::Integer), &large, false).expect_err("too large").message,
            "integer out of range"
        );
        let text = assign(&column(SqlType::Text), &large, false).expect("anything becomes text");
        assert_eq!(text.as_string::<i32>().value(0), "1099511627776");
        let words: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
        assert_eq!(assign(&column(SqlType::Integer), &words, false).expect_err("needs a cast").sqlstate, "42804");
        assert_eq!(assign(&column(SqlType::Boolean), &large, false).expect_err("needs a cast").sqlstate, "42804");
    }
}
