//! Which JSON values each column type takes, and what they become.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use expect_test::{Expect, expect};
use mainstem_formats::{JsonDecoder, TYPE_KEY};

use crate::json_rules::{schema, show};

/// Decodes each value as the member `a` of a record of its own; one line per value.
fn check_field(field: Field, values: &[&str], expected: Expect) {
    let mut decoder = JsonDecoder::new(schema(vec![field.with_name("a")])).unwrap();
    let mut lines = String::new();
    for value in values {
        let record = format!("{{\"a\":{value}}}");
        let decoded = decoder.decode([Some(record.as_bytes())].into_iter());
        let outcome = match decoded.rejected.first() {
            Some((_, reason)) => reason.to_string(),
            None => show(decoded.batch.column(0), 0),
        };
        lines += &format!("{value} -> {outcome}\n");
    }
    expected.assert_eq(&lines);
}

fn check(data_type: DataType, values: &[&str], expected: Expect) {
    check_field(Field::new("a", data_type, true), values, expected);
}

pub(crate) fn tagged(name: &str, tag: &str) -> Field {
    Field::new(name, DataType::Utf8, true).with_metadata(HashMap::from([(TYPE_KEY.to_owned(), tag.to_owned())]))
}

#[test]
fn boolean() {
    let values = ["true", "false", "null", r#""true""#, r#""FALSE""#, r#""t""#, r#""f""#, "1", r#""yes""#, "[]"];
    check(
        DataType::Boolean,
        &values,
        expect![[r#"
        true -> true
        false -> false
        null -> NULL
        "true" -> true
        "FALSE" -> false
        "t" -> true
        "f" -> false
        1 -> column "a": found 1, expected boolean (true or false)
        "yes" -> column "a": found "yes", expected boolean (true or false)
        [] -> column "a": found [], expected boolean (true or false)
    "#]],
    );
}

#[test]
fn integers() {
    let values = ["32767", "-32768", "32768", "-32769", r#"" -7 ""#, "1.0", "1e3", "1.5", "true", r#""""#, r#""x""#];
    check(
        DataType::Int16,
        &values,
        expect![[r#"
        32767 -> 32767
        -32768 -> -32768
        32768 -> column "a": found 32768, expected smallint (an integer from -32768 to 32767)
        -32769 -> column "a": found -32769, expected smallint (an integer from -32768 to 32767)
        " -7 " -> -7
        1.0 -> 1
        1e3 -> 1000
        1.5 -> column "a": found 1.5, expected smallint (an integer from -32768 to 32767)
        true -> column "a": found true, expected smallint (an integer from -32768 to 32767)
        "" -> column "a": found "", expected smallint (an integer from -32768 to 32767)
        "x" -> column "a": found "x", expected smallint (an integer from -32768 to 32767)
    "#]],
    );
    check(
        DataType::Int32,
        &["2147483647", "-2147483648", "2147483648", "20e8", "22e8"],
        expect![[r#"
        2147483647 -> 2147483647
        -2147483648 -> -2147483648
        2147483648 -> column "a": found 2147483648, expected integer (an integer from -2147483648 to 2147483647)
        20e8 -> 2000000000
        22e8 -> column "a": found 22e8, expected integer (an integer from -2147483648 to 2147483647)
    "#]],
    );
    let values = [
        "9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "-9223372036854775809",
        "9223372036854775807.000",
        "922337203685477580.7e1",
        "-0",
        "1e-1",
        "1e999999999999",
        "0e999999999999",
        r#""9007199254740993""#,
        r#""+5""#,
        r#""\u0031""#,
        r#""0x10""#,
        r#""1_000""#,
        "{}",
    ];
    check(
        DataType::Int64,
        &values,
        expect![[r#"
        9007199254740993 -> 9007199254740993
        9223372036854775807 -> 9223372036854775807
        -9223372036854775808 -> -9223372036854775808
        9223372036854775808 -> column "a": found 9223372036854775808, expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
        -9223372036854775809 -> column "a": found -9223372036854775809, expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
        9223372036854775807.000 -> 9223372036854775807
        922337203685477580.7e1 -> 9223372036854775807
        -0 -> 0
        1e-1 -> column "a": found 1e-1, expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
        1e999999999999 -> column "a": found 1e999999999999, expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
        0e999999999999 -> 0
        "9007199254740993" -> 9007199254740993
        "+5" -> 5
        "\u0031" -> 1
        "0x10" -> column "a": found "0x10", expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
        "1_000" -> column "a": found "1_000", expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
        {} -> column "a": found {}, expected bigint (an integer from -9223372036854775808 to 9223372036854775807)
    "#]],
    );
}

#[test]
fn floats() {
    let values = [
        "1",
        "0.1",
        "-0.0",
        "1e308",
        "1e309",
        "1e-400",
        r#""1.5""#,
        r#""NaN""#,
        r#""Infinity""#,
        r#""-Infinity""#,
        r#""inf""#,
        r#""1e309""#,
        r#""""#,
        "true",
    ];
    check(
        DataType::Float64,
        &values,
        expect![[r#"
        1 -> 1.0
        0.1 -> 0.1
        -0.0 -> -0.0
        1e308 -> 1e308
        1e309 -> column "a": found 1e309, expected double precision (a number in its range, "NaN", "Infinity" or "-Infinity")
        1e-400 -> 0.0
        "1.5" -> 1.5
        "NaN" -> NaN
        "Infinity" -> inf
        "-Infinity" -> -inf
        "inf" -> inf
        "1e309" -> column "a": found "1e309", expected double precision (a number in its range, "NaN", "Infinity" or "-Infinity")
        "" -> column "a": found "", expected double precision (a number in its range, "NaN", "Infinity" or "-Infinity")
        true -> column "a": found true, expected double precision (a number in its range, "NaN", "Infinity" or "-Infinity")
    "#]],
    );
    check(
        DataType::Float32,
        &["0.1", "16777217", "3.4e38", "3.5e38"],
        expect![[r#"
        0.1 -> 0.1
        16777217 -> 16777216.0
        3.4e38 -> 3.4e38
        3.5e38 -> column "a": found 3.5e38, expected real (a number in its range, "NaN", "Infinity" or "-Infinity")
    "#]],
    );
}

#[test]
fn decimals() {
    let values = [
        "1",
        "1.5",
        "-1.005",
        "1.005",
        "1.004999999999999999999999999999999999999999999999999",
        "99999999.99",
        "99999999.994",
        "99999999.995",
        "-99999999.995",
        "1e7",
        "1e8",
        "1e-3",
        r#""12.30""#,
        r#""NaN""#,
        "true",
    ];
    check(
        DataType::Decimal128(10, 2),
        &values,
        expect![[r#"
        1 -> 1.00
        1.5 -> 1.50
        -1.005 -> -1.01
        1.005 -> 1.01
        1.004999999999999999999999999999999999999999999999999 -> 1.00
        99999999.99 -> 99999999.99
        99999999.994 -> 99999999.99
        99999999.995 -> column "a": found 99999999.995, expected numeric(10,2)
        -99999999.995 -> column "a": found -99999999.995, expected numeric(10,2)
        1e7 -> 10000000.00
        1e8 -> column "a": found 1e8, expected numeric(10,2)
        1e-3 -> 0.00
        "12.30" -> 12.30
        "NaN" -> column "a": found "NaN", expected numeric(10,2)
        true -> column "a": found true, expected numeric(10,2)
    "#]],
    );
    let values = [
        "99999999999999999999999999999999999999",
        "100000000000000000000000000000000000000",
        "0.1e38",
        "12345678901234567890123456789012345678.4",
    ];
    check(
        DataType::Decimal128(38, 0),
        &values,
        expect![[r#"
        99999999999999999999999999999999999999 -> 99999999999999999999999999999999999999
        100000000000000000000000000000000000000 -> column "a": found 100000000000000000000000000000000000000, expected numeric(38,0)
        0.1e38 -> 10000000000000000000000000000000000000
        12345678901234567890123456789012345678.4 -> 12345678901234567890123456789012345678
    "#]],
    );
    check(
        DataType::Decimal128(3, -2),
        &["12345", "12350", "99949", "99950"],
        expect![[r#"
        12345 -> 12300
        12350 -> 12400
        99949 -> 99900
        99950 -> column "a": found 99950, expected numeric(3,-2)
    "#]],
    );
}

#[test]
fn text() {
    let values = [
        r#""""#,
        r#""caf\u00e9 \ud83d\ude00 \"\\\/\b\f\n\r\t""#,
        r#""žluťoučký kůň""#,
        r#""12345678\"""#,
        "1.50",
        "-0e+07",
        "12345678901234567890123",
        "true",
        "null",
        r#""a\u0000b""#,
        r#""\\u0000""#,
        "{}",
        "[1]",
    ];
    check(
        DataType::Utf8,
        &values,
        expect![[r#"
        "" -> 
        "caf\u00e9 \ud83d\ude00 \"\\\/\b\f\n\r\t" -> café 😀 "\/\u{8}\u{c}\n\r\t
        "žluťoučký kůň" -> žluťoučký kůň
        "12345678\"" -> 12345678"
        1.50 -> 1.50
        -0e+07 -> -0e+07
        12345678901234567890123 -> 12345678901234567890123
        true -> true
        null -> NULL
        "a\u0000b" -> column "a": found "a\u0000b", expected text (a string without NUL characters, a number or a boolean)
        "\\u0000" -> \u0000
        {} -> column "a": found {}, expected text (a string without NUL characters, a number or a boolean)
        [1] -> column "a": found [1], expected text (a string without NUL characters, a number or a boolean)
    "#]],
    );
}

#[test]
fn bytea() {
    let values = [r#""\\x""#, r#""\\x00fFAb""#, r#""\\xabc""#, r#""\\xzz""#, r#""abc""#, r#""\\x+1""#, "12", "[1]"];
    check(
        DataType::Binary,
        &values,
        expect![[r#"
        "\\x" -> 
        "\\x00fFAb" -> 00ffab
        "\\xabc" -> column "a": found "\\xabc", expected bytea (a string of \x and an even number of hexadecimal digits)
        "\\xzz" -> column "a": found "\\xzz", expected bytea (a string of \x and an even number of hexadecimal digits)
        "abc" -> column "a": found "abc", expected bytea (a string of \x and an even number of hexadecimal digits)
        "\\x+1" -> column "a": found "\\x+1", expected bytea (a string of \x and an even number of hexadecimal digits)
        12 -> column "a": found 12, expected bytea (a string of \x and an even number of hexadecimal digits)
        [1] -> column "a": found [1], expected bytea (a string of \x and an even number of hexadecimal digits)
    "#]],
    );
}

#[test]
fn uuid() {
    let values = [
        r#""A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11""#,
        r#""{a0eebc999c0b4ef8bb6d6bb9bd380a11}""#,
        r#""a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11""#,
        r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1""#,
        r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111""#,
        r#""a0eebc99--9c0b4ef8bb6d6bb9bd380a11""#,
        r#""g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#,
        "12",
    ];
    check_field(
        tagged("a", "uuid"),
        &values,
        expect![[r#"
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11" -> a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
        "{a0eebc999c0b4ef8bb6d6bb9bd380a11}" -> a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
        "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11" -> a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1" -> column "a": found "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", expected uuid (a string of 32 hexadecimal digits)
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111" -> column "a": found "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111", expected uuid (a string of 32 hexadecimal digits)
        "a0eebc99--9c0b4ef8bb6d6bb9bd380a11" -> column "a": found "a0eebc99--9c0b4ef8bb6d6bb9bd380a11", expected uuid (a string of 32 hexadecimal digits)
        "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11" -> column "a": found "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", expected uuid (a string of 32 hexadecimal digits)
        12 -> column "a": found 12, expected uuid (a string of 32 hexadecimal digits)
    "#]],
    );
}

#[test]
fn jsonb() {
    let values = [
        r#"{ "b" : [ 1.50 , true ,null ] , "a b" : "x  \" y" }"#,
        "[ ]",
        r#"  "text"  "#,
        "1e400",
        "false",
        "null",
        r#"{"a":"\u0000"}"#,
        r#"{"a":"\\u0000"}"#,
        r#""\ud83d\ude00""#,
    ];
    check_field(
        tagged("a", "jsonb"),
        &values,
        expect![[r#"
        { "b" : [ 1.50 , true ,null ] , "a b" : "x  \" y" } -> {"b":[1.50,true,null],"a b":"x  \" y"}
        [ ] -> []
          "text"   -> "text"
        1e400 -> 1e400
        false -> false
        null -> NULL
        {"a":"\u0000"} -> column "a": found {"a":"\u0000"}, expected jsonb (any value without NUL characters)
        {"a":"\\u0000"} -> {"a":"\\u0000"}
        "\ud83d\ude00" -> "\ud83d\ude00"
    "#]],
    );
}

#[test]
fn date() {
    let values = [
        r#""2013-07-01""#,
        r#""2000-02-29""#,
        r#""1900-02-29""#,
        r#""2013-13-01""#,
        r#""2013-00-01""#,
        r#""2013-04-31""#,
        r#""2013-7-1""#,
        r#""2013-07-01T23:59:59Z""#,
        r#""2013-07-01x""#,
        r#""0001-01-01""#,
        "15887",
        "-1",
        "1e10",
        r#""15887""#,
    ];
    check(
        DataType::Date32,
        &values,
        expect![[r#"
        "2013-07-01" -> 2013-07-01
        "2000-02-29" -> 2000-02-29
        "1900-02-29" -> column "a": found "1900-02-29", expected date ("YYYY-MM-DD", or days since 1970-01-01)
        "2013-13-01" -> column "a": found "2013-13-01", expected date ("YYYY-MM-DD", or days since 1970-01-01)
        "2013-00-01" -> column "a": found "2013-00-01", expected date ("YYYY-MM-DD", or days since 1970-01-01)
        "2013-04-31" -> column "a": found "2013-04-31", expected date ("YYYY-MM-DD", or days since 1970-01-01)
        "2013-7-1" -> column "a": found "2013-7-1", expected date ("YYYY-MM-DD", or days since 1970-01-01)
        "2013-07-01T23:59:59Z" -> 2013-07-01
        "2013-07-01x" -> column "a": found "2013-07-01x", expected date ("YYYY-MM-DD", or days since 1970-01-01)
        "0001-01-01" -> 0001-01-01
        15887 -> 2013-07-01
        -1 -> 1969-12-31
        1e10 -> column "a": found 1e10, expected date ("YYYY-MM-DD", or days since 1970-01-01)
        "15887" -> column "a": found "15887", expected date ("YYYY-MM-DD", or days since 1970-01-01)
    "#]],
    );
}

#[test]
fn time() {
    let values = [
        r#""05:06:07""#,
        r#""05:06""#,
        r#""05:06:07.1234567""#,
        r#""24:00:00""#,
        r#""23:59:59.999999999""#,
        r#""23:59:60""#,
        r#""5:06:07""#,
        r#""05:60:00""#,
        r#""05:06:07Z""#,
        "5",
    ];
    check(
        DataType::Time64(TimeUnit::Microsecond),
        &values,
        expect![[r#"
        "05:06:07" -> 05:06:07
        "05:06" -> 05:06:00
        "05:06:07.1234567" -> 05:06:07.123456
        "24:00:00" -> column "a": found "24:00:00", expected time ("HH:MM:SS", with or without a fraction)
        "23:59:59.999999999" -> 23:59:59.999999
        "23:59:60" -> column "a": found "23:59:60", expected time ("HH:MM:SS", with or without a fraction)
        "5:06:07" -> column "a": found "5:06:07", expected time ("HH:MM:SS", with or without a fraction)
        "05:60:00" -> column "a": found "05:60:00", expected time ("HH:MM:SS", with or without a fraction)
        "05:06:07Z" -> column "a": found "05:06:07Z", expected time ("HH:MM:SS", with or without a fraction)
        5 -> column "a": found 5, expected time ("HH:MM:SS", with or without a fraction)
    "#]],
    );
}

#[test]
fn timestamps_from_iso_text() {
    let values = [
        r#""2013-07-01T05:15:00""#,
        r#""2013-07-01 05:15:00.5""#,
        r#""2013-07-01 05:15""#,
        r#""2013-07-01""#,
        r#"" 2013-07-01T05:15:00Z ""#,
        r#""2013-07-01t05:15:00.123456789z""#,
        r#""2013-07-01T05:15:00.1234567890""#,
        r#""2013-07-01T05:15:00+02:00""#,
        r#""2013-07-01T05:15:00-0530""#,
        r#""2013-07-01 05:15:00+02""#,
        r#""1969-12-31T23:59:59.9999999""#,
        r#""+12345-01-01T00:00:00""#,
        r#""-0044-03-15""#,
        r#""2013-07-01T24:00:00""#,
        r#""2013-07-01T25:00:00""#,
        r#""2013-07-01T05""#,
        r#""2013-07-01T05:15:00 CET""#,
        r#""infinity""#,
        r#""""#,
        "true",
    ];
    check(
        DataType::Timestamp(TimeUnit::Microsecond, None),
        &values,
        expect![[r#"
        "2013-07-01T05:15:00" -> 2013-07-01T05:15:00
        "2013-07-01 05:15:00.5" -> 2013-07-01T05:15:00.500
        "2013-07-01 05:15" -> 2013-07-01T05:15:00
        "2013-07-01" -> 2013-07-01T00:00:00
        " 2013-07-01T05:15:00Z " -> 2013-07-01T05:15:00
        "2013-07-01t05:15:00.123456789z" -> 2013-07-01T05:15:00.123456
        "2013-07-01T05:15:00.1234567890" -> column "a": found "2013-07-01T05:15:00.1234567890", expected timestamp (ISO 8601 text, or an epoch number)
        "2013-07-01T05:15:00+02:00" -> 2013-07-01T03:15:00
        "2013-07-01T05:15:00-0530" -> 2013-07-01T10:45:00
        "2013-07-01 05:15:00+02" -> 2013-07-01T03:15:00
        "1969-12-31T23:59:59.9999999" -> 1969-12-31T23:59:59.999999
        "+12345-01-01T00:00:00" -> +12345-01-01T00:00:00
        "-0044-03-15" -> -0044-03-15T00:00:00
        "2013-07-01T24:00:00" -> 2013-07-02T00:00:00
        "2013-07-01T25:00:00" -> column "a": found "2013-07-01T25:00:00", expected timestamp (ISO 8601 text, or an epoch number)
        "2013-07-01T05" -> column "a": found "2013-07-01T05", expected timestamp (ISO 8601 text, or an epoch number)
        "2013-07-01T05:15:00 CET" -> column "a": found "2013-07-01T05:15:00 CET", expected timestamp (ISO 8601 text, or an epoch number)
        "infinity" -> column "a": found "infinity", expected timestamp (ISO 8601 text, or an epoch number)
        "" -> column "a": found "", expected timestamp (ISO 8601 text, or an epoch number)
        true -> column "a": found true, expected timestamp (ISO 8601 text, or an epoch number)
    "#]],
    );
    let values = [r#""2013-07-01T05:15:00""#, r#""2013-07-01T05:15:00+02:00""#, "0"];
    check(
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        &values,
        expect![[r#"
        "2013-07-01T05:15:00" -> 2013-07-01T05:15:00Z
        "2013-07-01T05:15:00+02:00" -> 2013-07-01T03:15:00Z
        0 -> 1970-01-01T00:00:00Z
    "#]],
    );
    check(
        DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        &values,
        expect![[r#"
        "2013-07-01T05:15:00" -> 2013-07-01T05:15:00Z
        "2013-07-01T05:15:00+02:00" -> 2013-07-01T03:15:00Z
        0 -> 1970-01-01T00:00:00Z
    "#]],
    );
}

#[test]
fn timestamps_from_epoch_numbers() {
    let values = [
        "0",
        "1372655700",
        "1372655700123",
        "1372655700123456",
        "1372655700123456789",
        r#""1372655700""#,
        "1372655700.25",
        r#""1372655700123.5""#,
        "1.3726557e9",
        "-1",
        "-0.0000001",
        "99999999999",
        "100000000000",
        "-99999999999",
        "-100000000000",
        "99999999999999",
        "100000000000000",
        "99999999999999999",
        "100000000000000000",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "1e30",
    ];
    check(
        DataType::Timestamp(TimeUnit::Microsecond, None),
        &values,
        expect![[r#"
        0 -> 1970-01-01T00:00:00
        1372655700 -> 2013-07-01T05:15:00
        1372655700123 -> 2013-07-01T05:15:00.123
        1372655700123456 -> 2013-07-01T05:15:00.123456
        1372655700123456789 -> 2013-07-01T05:15:00.123456
        "1372655700" -> 2013-07-01T05:15:00
        1372655700.25 -> 2013-07-01T05:15:00.250
        "1372655700123.5" -> 2013-07-01T05:15:00.123500
        1.3726557e9 -> 2013-07-01T05:15:00
        -1 -> 1969-12-31T23:59:59
        -0.0000001 -> 1969-12-31T23:59:59.999999
        99999999999 -> 5138-11-16T09:46:39
        100000000000 -> 1973-03-03T09:46:40
        -99999999999 -> -1199-02-15T14:13:21
        -100000000000 -> 1966-10-31T14:13:20
        99999999999999 -> 5138-11-16T09:46:39.999
        100000000000000 -> 1973-03-03T09:46:40
        99999999999999999 -> 5138-11-16T09:46:39.999999
        100000000000000000 -> 1973-03-03T09:46:40
        9223372036854775807 -> 2262-04-11T23:47:16.854775
        -9223372036854775808 -> 1677-09-21T00:12:43.145224
        9223372036854775808 -> 2262-04-11T23:47:16.854775
        1e30 -> column "a": found 1e30, expected timestamp (ISO 8601 text, or an epoch number)
    "#]],
    );
}

#[test]
fn interval() {
    let values = [
        r#""1 year 2 mons 3 days 04:05:06.789""#,
        r#""-1 years +2 mons -3 days -04:05:06""#,
        r#""@ 1 hour 2 minutes 3.5 seconds ago""#,
        r#""2 weeks 90 min""#,
        r#""1.5 hours""#,
        r#""100:00:00""#,
        r#""00:00:00.000000001""#,
        r#""P1Y2M3DT4H5M6.5S""#,
        r#""P-2W""#,
        r#""PT0.5H""#,
        r#""1.5 days""#,
        r#""P1.5M""#,
        r#""P""#,
        r#""PT""#,
        r#""5""#,
        r#""5 parsecs""#,
        r#""""#,
        r#""1:60:00""#,
        r#""3000000000 months""#,
        "5",
    ];
    check(
        DataType::Interval(IntervalUnit::MonthDayNano),
        &values,
        expect![[r#"
        "1 year 2 mons 3 days 04:05:06.789" -> 14 mons 3 days 4 hours 5 mins 6.789000000 secs
        "-1 years +2 mons -3 days -04:05:06" -> -10 mons -3 days -4 hours -5 mins -6.000000000 secs
        "@ 1 hour 2 minutes 3.5 seconds ago" -> -1 hours -2 mins -3.500000000 secs
        "2 weeks 90 min" -> 14 days 1 hours 30 mins
        "1.5 hours" -> 1 hours 30 mins
        "100:00:00" -> 100 hours
        "00:00:00.000000001" -> 0.000000001 secs
        "P1Y2M3DT4H5M6.5S" -> 14 mons 3 days 4 hours 5 mins 6.500000000 secs
        "P-2W" -> -14 days
        "PT0.5H" -> 30 mins
        "1.5 days" -> column "a": found "1.5 days", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        "P1.5M" -> column "a": found "P1.5M", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        "P" -> column "a": found "P", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        "PT" -> column "a": found "PT", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        "5" -> column "a": found "5", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        "5 parsecs" -> column "a": found "5 parsecs", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        "" -> column "a": found "", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        "1:60:00" -> column "a": found "1:60:00", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        "3000000000 months" -> column "a": found "3000000000 months", expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
        5 -> column "a": found 5, expected interval (text such as "1 day 02:03:04" or "P1DT2H3M4S")
    "#]],
    );
}

#[test]
fn lists() {
    let list = |item: DataType, nullable| DataType::List(Arc::new(Field::new("item", item, nullable)));
    let values = ["[]", "[1,null,\"3\"]", "null", "[1,\"x\"]", "1", "{}", "\"{1,2}\""];
    check(
        list(DataType::Int32, true),
        &values,
        expect![[r#"
        [] -> []
        [1,null,"3"] -> [1, NULL, 3]
        null -> NULL
        [1,"x"] -> column "a.item": found "x", expected integer (an integer from -2147483648 to 2147483647)
        1 -> column "a": found 1, expected an array
        {} -> column "a": found {}, expected an array
        "{1,2}" -> column "a": found "{1,2}", expected an array
    "#]],
    );
    check(
        list(DataType::Utf8, false),
        &[r#"["a","\u00e9"]"#, "[null]", "null"],
        expect![[r#"
        ["a","\u00e9"] -> [a, é]
        [null] -> column "a.item": found null, expected a value (the column is NOT NULL)
        null -> NULL
    "#]],
    );
}

#[test]
fn structs() {
    let inner = DataType::Struct(vec![Field::new("y", DataType::Date32, false)].into());
    let fields = vec![Field::new("x", DataType::Int32, true), Field::new("in", inner, true)];
    let values = [
        r#"{"x":1,"in":{"y":"2013-07-01"}}"#,
        r#"{"IN":{"Y":0,"z":{}},"x":[1],"x":2}"#,
        "{}",
        "null",
        r#"{"in":null}"#,
        r#"{"in":{}}"#,
        r#"{"in":{"y":"soon"}}"#,
        r#"{"in":[]}"#,
        "[]",
    ];
    check(
        DataType::Struct(fields.into()),
        &values,
        expect![[r#"
        {"x":1,"in":{"y":"2013-07-01"}} -> {x: 1, in: {y: 2013-07-01}}
        {"IN":{"Y":0,"z":{}},"x":[1],"x":2} -> {x: 2, in: {y: 1970-01-01}}
        {} -> {x: NULL, in: NULL}
        null -> NULL
        {"in":null} -> {x: NULL, in: NULL}
        {"in":{}} -> column "a.in.y": found no such member, expected a value (the column is NOT NULL)
        {"in":{"y":"soon"}} -> column "a.in.y": found "soon", expected date ("YYYY-MM-DD", or days since 1970-01-01)
        {"in":[]} -> column "a.in": found [], expected an object
        [] -> column "a": found [], expected an object
    "#]],
    );
}
