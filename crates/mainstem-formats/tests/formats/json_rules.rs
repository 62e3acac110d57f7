//! Which records decode at all, and how members find their columns.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use expect_test::{Expect, expect};
use mainstem_formats::JsonDecoder;

pub(crate) fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

pub(crate) fn show(array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) {
        return "NULL".to_owned();
    }
    if *array.data_type() == DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())) {
        // Arrow shows zones by name only with a time zone database.
        let numeric = array.as_primitive::<TimestampMicrosecondType>().clone();
        return show(&(Arc::new(numeric.with_timezone("+00:00")) as ArrayRef), row);
    }
    let options = FormatOptions::new().with_null("NULL");
    let formatter = ArrayFormatter::try_new(array, &options).unwrap();
    let text = formatter.value(row).to_string();
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

fn show_row(batch: &RecordBatch, row: usize) -> String {
    batch.columns().iter().map(|column| show(column, row)).collect::<Vec<_>>().join(" | ")
}

/// Decodes all records as one batch; one line per record with its row or its reason.
fn check_bytes(schema: SchemaRef, records: &[Option<&[u8]>], expected: Expect) {
    let decoded = JsonDecoder::new(schema).unwrap().decode(records.iter().copied());
    let mut lines = vec![String::new(); records.len()];
    for (row, index) in decoded.accepted.iter().enumerate() {
        lines[*index as usize] = format!("row {}", show_row(&decoded.batch, row));
    }
    for (index, reason) in &decoded.rejected {
        assert_eq!(lines[*index as usize], "", "record {index} is accepted and rejected");
        lines[*index as usize] = format!("rejected: {reason}");
    }
    assert_eq!(decoded.batch.num_rows(), decoded.accepted.len());
    assert_eq!(decoded.accepted.len() + decoded.rejected.len(), records.len());
    expected.assert_eq(&(lines.join("\n") + "\n"));
}

fn check(schema: SchemaRef, records: &[&str], expected: Expect) {
    let records: Vec<_> = records.iter().map(|record| Some(record.as_bytes())).collect();
    check_bytes(schema, &records, expected);
}

fn two_columns() -> SchemaRef {
    schema(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)])
}

#[test]
fn missing_and_null_members_are_null_and_extra_members_are_ignored() {
    check(
        two_columns(),
        &[
            r#"{"a":1,"b":"x"}"#,
            r#"{"b":"x"}"#,
            r#"{}"#,
            r#"{"a":null,"b":null}"#,
            r#"{"c":{"a":[1,{"b":"\u00e9"}]},"b":"y","a":2,"d":1e999}"#,
        ],
        expect![[r#"
            row 1 | x
            row NULL | x
            row NULL | NULL
            row NULL | NULL
            row 2 | y
        "#]],
    );
}

#[test]
fn of_duplicate_members_the_last_one_counts() {
    check(
        two_columns(),
        &[r#"{"a":1,"a":2}"#, r#"{"a":"no number","a":3}"#, r#"{"a":3,"a":"no number"}"#, r#"{"a":3,"a":null}"#],
        expect![[r#"
            row 2 | NULL
            row 3 | NULL
            rejected: column "a": found "no number", expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
            row NULL | NULL
        "#]],
    );
}

#[test]
fn names_match_in_their_own_case_first_then_in_any_case() {
    check(
        two_columns(),
        &[
            r#"{"A":1,"B":"x"}"#,
            r#"{"A":1,"a":2}"#,
            r#"{"a":2,"A":1}"#,
            r#"{"A":1,"A":3}"#,
            r#"{"\u0061":4,"\u0042":"escaped"}"#,
        ],
        expect![[r#"
            row 1 | x
            row 2 | NULL
            row 2 | NULL
            row 3 | NULL
            row 4 | escaped
        "#]],
    );
    let both = schema(vec![Field::new("id", DataType::Int64, true), Field::new("ID", DataType::Int64, true)]);
    check(
        both,
        &[r#"{"id":1}"#, r#"{"ID":1}"#, r#"{"Id":1}"#],
        expect![[r#"
        row 1 | NULL
        row NULL | 1
        row 1 | NULL
    "#]],
    );
}

#[test]
fn the_order_of_members_may_change_from_record_to_record() {
    check(
        two_columns(),
        &[r#"{"a":1,"b":"x"}"#, r#"{"b":"y","a":2}"#, r#"{"":0,"b":"z","a":3}"#, r#"{"a":4,"b":"w"}"#],
        expect![[r#"
            row 1 | x
            row 2 | y
            row 3 | z
            row 4 | w
        "#]],
    );
}

#[test]
fn a_rejected_record_leaves_no_trace() {
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let fields = vec![Field::new("x", DataType::Binary, true), Field::new("l", DataType::List(item.clone()), true)];
    let schema = schema(vec![
        Field::new("t", DataType::Utf8, true),
        Field::new("l", DataType::List(item), true),
        Field::new("s", DataType::Struct(fields.into()), true),
        Field::new("n", DataType::Int16, false),
    ]);
    check(
        schema,
        &[
            r#"{"t":"one","l":["a"],"s":{"x":"\\x01","l":["b"]},"n":1}"#,
            r#"{"t":"two","l":["c","d"],"s":{"x":"\\x02","l":["e","f"]},"n":100000}"#,
            r#"{"t":"three","l":["c",[]],"s":null,"n":1}"#,
            r#"{"t":"four","l":["c","d"],"s":{"x":"\\x02","l":["e",{}]},"n":1}"#,
            r#"{"t":"five","l":["c","d"],"s":{"x":"\\x0","l":["e"]},"n":1}"#,
            r#"{"t":"six","l":[],"s":{"l":[null]}}"#,
            r#"{"t":"seven","l":[],"s":{"l":[null]},"n":null}"#,
            r#"{"t":"eight","l":[],"s":{"l":[null]},"n":2}"#,
            r#"{"n":3}"#,
        ],
        expect![[r#"
            row one | [a] | {x: 01, l: [b]} | 1
            rejected: column "n": found 100000, expected smallint (an integer from -32768 to 32767)
            rejected: column "l.item": found [], expected text (a string without NUL characters, a number or a boolean)
            rejected: column "s.l.item": found {}, expected text (a string without NUL characters, a number or a boolean)
            rejected: column "s.x": found "\\x0", expected bytea (a string of \x and an even number of hexadecimal digits)
            rejected: column "n": found no such member, expected a value (the column is NOT NULL)
            rejected: column "n": found null, expected a value (the column is NOT NULL)
            row eight | [] | {x: NULL, l: [NULL]} | 2
            row NULL | NULL | NULL | 3
        "#]],
    );
}

#[test]
fn what_is_not_one_json_object_is_rejected() {
    let deep = |levels: usize| format!("{{\"c\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let long = format!("{{\"a\":\"{}\"}}", "long ".repeat(20));
    check_bytes(
        two_columns(),
        &[
            None,
            Some(b""),
            Some(b"  "),
            Some(b" \n\t\r{ \"a\" : 1 , \"b\" : \"x\" } \r\n"),
            Some(b"[1]"),
            Some(b"1"),
            Some(b"null"),
            Some(b"\"text\""),
            Some(b"[1"),
            Some(b"{\"a\":1"),
            Some(b"{\"a\":1}}"),
            Some(b"{\"a\":1}{\"a\":2}"),
            Some(b"{\"a\":1,}"),
            Some(b"{'a':1}"),
            Some(b"{a:1}"),
            Some(b"{\"a\" 1}"),
            Some(b"{\"a\":01}"),
            Some(b"{\"a\":+1}"),
            Some(b"{\"a\":.5}"),
            Some(b"{\"a\":5.}"),
            Some(b"{\"a\":1e}"),
            Some(b"{\"a\":-}"),
            Some(b"{\"a\":NaN}"),
            Some(b"{\"a\":True}"),
            Some(b"{\"c\":nul}"),
            Some(b"{\"c\":[1,]}"),
            Some(b"{\"b\":\"x}"),
            Some(b"{\"b\":\"a\nb\"}"),
            Some(b"{\"b\":\"\\x41\"}"),
            Some(b"{\"b\":\"\\u12\"}"),
            Some(b"{\"c\":\"\\ud83d\"}"),
            Some(b"{\"c\":\"\\ud83dx\\ude00\"}"),
            Some(b"{\"c\":\"\\ude00\"}"),
            Some(b"{\"b\":\"\xff\"}"),
            Some(b"{\"c\":\"\xed\xa0\x80\"}"),
            Some("\u{feff}{}".as_bytes()),
            Some(deep(128).as_bytes()),
            Some(deep(129).as_bytes()),
            Some("[".repeat(100_000).as_bytes()),
            Some("{\"a\":".repeat(100_000).as_bytes()),
            Some(long.as_bytes()),
        ],
        expect![[r#"
            rejected: the record has no value (a tombstone), expected a JSON object
            rejected: not JSON at byte 0: found the end, expected a value
            rejected: not JSON at byte 2: found the end, expected a value
            row 1 | x
            rejected: found [1], expected a JSON object
            rejected: found 1, expected a JSON object
            rejected: found null, expected a JSON object
            rejected: found "text", expected a JSON object
            rejected: not JSON at byte 2: found the end, expected a comma or ]
            rejected: not JSON at byte 6: found the end, expected a comma or }
            rejected: not JSON at byte 7: found }, expected the end of the record
            rejected: not JSON at byte 7: found {"a":2}, expected the end of the record
            rejected: not JSON at byte 7: found }, expected a member name
            rejected: not JSON at byte 1: found 'a':1}, expected a member name
            rejected: not JSON at byte 1: found a:1}, expected a member name
            rejected: not JSON at byte 5: found 1}, expected a colon
            rejected: not JSON at byte 6: found 1}, expected a comma or }
            rejected: not JSON at byte 5: found +1}, expected a value
            rejected: not JSON at byte 5: found .5}, expected a value
            rejected: not JSON at byte 7: found }, expected a digit
            rejected: not JSON at byte 7: found }, expected a digit
            rejected: not JSON at byte 6: found }, expected a digit
            rejected: not JSON at byte 5: found NaN}, expected a value
            rejected: not JSON at byte 5: found True}, expected a value
            rejected: not JSON at byte 5: found nul}, expected true, false or null
            rejected: not JSON at byte 8: found ]}, expected a value
            rejected: not JSON at byte 8: found the end, expected the end of a string
            rejected: not JSON at byte 7: found �b"}, expected an escape instead of a control character
            rejected: not JSON at byte 7: found x41"}, expected an escape that JSON has
            rejected: not JSON at byte 8: found 12"}, expected four hexadecimal digits
            rejected: not JSON at byte 12: found "}, expected the second half of a surrogate pair
            rejected: not JSON at byte 12: found x\ude00"}, expected the second half of a surrogate pair
            rejected: not JSON at byte 12: found "}, expected no lone surrogate
            rejected: not UTF-8 at byte 6
            rejected: not UTF-8 at byte 6
            rejected: not JSON at byte 0: found ﻿{}, expected a value
            row NULL | NULL
            rejected: not JSON at byte 132: found []]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]…, expected no more than 128 levels of nesting
            rejected: not JSON at byte 128: found [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…, expected no more than 128 levels of nesting
            rejected: not JSON at byte 640: found {"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":…, expected no more than 128 levels of nesting
            rejected: column "a": found "long long long long long long long long…, expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
        "#]],
    );
}

#[test]
fn a_schema_without_columns_counts_records() {
    check(
        schema(vec![]),
        &["{}", r#"{"a":1}"#, "[]"],
        expect![[r#"
        row 
        row 
        rejected: found [], expected a JSON object
    "#]],
    );
}

#[test]
fn one_decoder_takes_many_batches() {
    let mut decoder = JsonDecoder::new(two_columns()).unwrap();
    for round in 0..3i64 {
        let text = format!("{{\"a\":{round},\"b\":\"{round}\"}}");
        let decoded = decoder.decode([Some(text.as_bytes()), Some(b"{"), None].into_iter());
        assert_eq!(show_row(&decoded.batch, 0), format!("{round} | {round}"));
        assert_eq!(decoded.accepted, [0]);
        assert_eq!(decoded.rejected.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2]);
    }
    let decoded = decoder.decode(std::iter::empty());
    assert_eq!(decoded.batch.num_rows(), 0);
}

#[test]
fn types_without_a_json_form_are_refused_by_name() {
    let nested = DataType::Struct(vec![Field::new("t", DataType::Time32(TimeUnit::Second), true)].into());
    let item = Arc::new(Field::new("item", nested, true));
    let mut lines = String::new();
    for data_type in [
        DataType::UInt8,
        DataType::Decimal128(5, 6),
        DataType::Decimal128(39, 0),
        DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Rome".into())),
        DataType::Struct(Vec::<Field>::new().into()),
        DataType::List(item),
    ] {
        let error = JsonDecoder::new(schema(vec![Field::new("a", data_type, true)])).unwrap_err();
        lines += &format!("{error}\n");
    }
    expect![[r#"
        column "a" has type UInt8, which JSON records cannot hold
        column "a" has type Decimal128(5, 6), which JSON records cannot hold
        column "a" has type Decimal128(39, 0), which JSON records cannot hold
        column "a" has type Timestamp(µs, "Europe/Rome"), which JSON records cannot hold
        column "a" has type Struct(), which JSON records cannot hold
        column "a.item.t" has type Time32(s), which JSON records cannot hold
    "#]]
    .assert_eq(&lines);
}
