use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use mainstem_catalog::SqlType;
use mainstem_sql::arrow_types::typed_field;

use super::{Format, RowEncoder, column_from_text, parameter_text};

fn list(item: SqlType) -> SqlType {
    SqlType::List(Box::new(item))
}

fn encoded(array: &ArrayRef, sql_type: &SqlType, format: Format) -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![typed_field("c", sql_type)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![array.clone()]).expect("one column");
    let encoder = RowEncoder::new(&schema, &[format]).expect("one format");
    let cells = encoder.cells(&batch).expect("has the layout");
    let mut out = Vec::new();
    encoder.write_row(&cells, 0, &mut out);
    out.split_off(4)
}

/// Text in, text out; binary out, and in again.
fn check(sql_type: &SqlType, text: &str, shown: &str) {
    let array = column_from_text(&[Some(text)], sql_type, "c").expect("reads");
    let out = encoded(&array, sql_type, Format::Text);
    assert_eq!(String::from_utf8_lossy(&out), shown, "{sql_type}");
    let binary = encoded(&array, sql_type, Format::Binary);
    let back = parameter_text(&binary, Format::Binary, Some(sql_type)).expect("own binary");
    let back = column_from_text(&[Some(&back)], sql_type, "c").unwrap_or_else(|error| panic!("{back}: {error:?}"));
    assert_eq!(&*back, &*array, "{sql_type} through binary");
}

#[test]
fn values_survive_text_and_binary() {
    let numeric = |precision, scale| SqlType::Numeric { precision, scale };
    check(&SqlType::Boolean, "true", "t");
    check(&SqlType::SmallInt, "-32768", "-32768");
    check(&SqlType::Integer, " 42 ", "42");
    check(&SqlType::BigInt, "9223372036854775807", "9223372036854775807");
    check(&SqlType::Real, "0.1", "0.1");
    check(&SqlType::Double, "1e15", "1e+15");
    check(&SqlType::Double, "123456789012345", "123456789012345");
    check(&SqlType::Double, "0.0001", "0.0001");
    check(&SqlType::Double, "0.00001", "1e-05");
    check(&SqlType::Double, "-1234.5", "-1234.5");
    check(&numeric(12, 3), "-0.050", "-0.050");
    check(&numeric(38, 10), "1234567.5", "1234567.5");
    check(&numeric(38, 0), "99999999999999999999999999999999999999", "99999999999999999999999999999999999999");
    check(&numeric(10, 2), "0", "0.00");
    check(&numeric(12, 5), "10000.00001", "10000.00001");
    check(&SqlType::Text, "a 'b' \u{e4}", "a 'b' \u{e4}");
    check(&SqlType::Bytea, "\\x00ff7f", "\\x00ff7f");
    check(&SqlType::Date, "2013-07-01", "2013-07-01");
    check(&SqlType::Time, "23:59:59.5", "23:59:59.5");
    check(&SqlType::Timestamp, "2013-07-01 12:34:56.789", "2013-07-01 12:34:56.789");
    check(&SqlType::Timestamp, "1969-12-31 23:59:59.000001", "1969-12-31 23:59:59.000001");
    check(&SqlType::Timestamptz, "2013-07-01 02:00:00+02", "2013-07-01 00:00:00+00");
    check(&SqlType::Uuid, "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    check(&SqlType::Jsonb, "{\"a\": 1}", "{\"a\": 1}");
    check(&list(SqlType::Integer), "{1,NULL,3}", "{1,NULL,3}");
    check(&list(SqlType::Text), "{a,\"b c\",\"q\\\"\",\"NULL\",\"\"}", "{a,\"b c\",\"q\\\"\",\"NULL\",\"\"}");
    check(&list(SqlType::Integer), "{}", "{}");
}

#[test]
fn intervals_are_written_as_postgres_writes_them() {
    for (text, shown) in [
        ("1 year 2 months 3 days 4 hours 5 minutes 6.5 seconds", "1 year 2 mons 3 days 04:05:06.5"),
        ("-1 day", "-1 days"),
        ("90 minutes", "01:30:00"),
        ("0 seconds", "00:00:00"),
    ] {
        let array = column_from_text(&[Some(text)], &SqlType::Interval, "c").expect("reads");
        assert_eq!(String::from_utf8_lossy(&encoded(&array, &SqlType::Interval, Format::Text)), shown);
    }
}

#[test]
fn what_does_not_read_is_named_with_its_column() {
    let error = column_from_text(&[Some("1"), None, Some("x")], &SqlType::Integer, "n").expect_err("x");
    assert_eq!((error.sqlstate, error.message.as_str()), ("22P02", "invalid input syntax for type integer: \"x\""));
    let error = column_from_text(&[Some("2013-13-01")], &SqlType::Date, "d").expect_err("month 13");
    assert_eq!(error.sqlstate, "22007");
}
