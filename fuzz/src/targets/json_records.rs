//! JSON records, one per line, to columns of every type and back; intervals and decimals.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};
use mainstem_formats::{JsonDecoder, JsonEncoder, TYPE_KEY, parse_decimal, parse_interval};

pub(super) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_interval(text);
        let scale = i32::from(data.first().copied().unwrap_or(0) % 40);
        let _ = parse_decimal(text, scale);
    }
    let schema = schema();
    let lines = || data.split(|byte| *byte == b'\n');
    let batch = decode(&schema, lines());
    let encoder = JsonEncoder::new(schema.clone()).expect("all columns have a JSON form");
    let mut texts = Vec::new();
    for row in 0..batch.num_rows() {
        let mut text = Vec::new();
        encoder.encode_row(&batch, row, &mut text);
        texts.push(text);
    }
    let again = decode(&schema, texts.iter().map(Vec::as_slice));
    assert_eq!(again.num_rows(), batch.num_rows(), "what the encoder writes decodes");
    for (row, text) in texts.iter().enumerate() {
        let mut second = Vec::new();
        encoder.encode_row(&again, row, &mut second);
        assert_eq!(String::from_utf8_lossy(&second), String::from_utf8_lossy(text), "and is the same row");
    }
}

fn decode<'a>(schema: &SchemaRef, lines: impl Iterator<Item = &'a [u8]>) -> RecordBatch {
    let mut decoder = JsonDecoder::new(schema.clone()).expect("all columns have a JSON form");
    let mut inputs = 0;
    let decoded = decoder.decode(lines.inspect(|_| inputs += 1).map(Some));
    assert_eq!(decoded.accepted.len() + decoded.rejected.len(), inputs, "every record is accepted or rejected");
    assert_eq!(decoded.accepted.len(), decoded.batch.num_rows());
    decoded.batch
}

fn schema() -> SchemaRef {
    let of = |name: &str, data_type| Field::new(name, data_type, true);
    let text = |name: &str, kind: &str| {
        of(name, DataType::Utf8).with_metadata(HashMap::from([(TYPE_KEY.to_owned(), kind.to_owned())]))
    };
    let inner = Fields::from(vec![of("x", DataType::Int32), of("y", DataType::Utf8)]);
    let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
    Arc::new(Schema::new(vec![
        of("b", DataType::Boolean),
        of("i2", DataType::Int16),
        of("i4", DataType::Int32),
        of("i8", DataType::Int64),
        of("f4", DataType::Float32),
        of("f8", DataType::Float64),
        of("n", DataType::Decimal128(38, 10)),
        of("d", DataType::Date32),
        of("t", DataType::Time64(TimeUnit::Microsecond)),
        of("ts", DataType::Timestamp(TimeUnit::Microsecond, None)),
        of("tz", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        of("iv", DataType::Interval(IntervalUnit::MonthDayNano)),
        of("s", DataType::Utf8),
        text("j", "jsonb"),
        text("u", "uuid"),
        of("y", DataType::Binary),
        of("l", list(DataType::Int64)),
        of("st", DataType::Struct(inner.clone())),
        of("ls", list(DataType::Struct(inner))),
    ]))
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let seeds = [
        ("numbers", r#"{"b":true,"i2":-1,"i4":2,"i8":"9007199254740993","f4":1.5e3,"f8":-0.1,"n":"12.5"}"#),
        (
            "times",
            r#"{"d":"2024-02-29","t":"23:59:59.5","ts":"2024-01-01T00:00:00","tz":1700000000000,"iv":"1 day 02:03:04"}"#,
        ),
        (
            "text",
            r#"{"s":"a\u00e9\ud83d\ude00\n","j":{"a":[1,null]},"u":"123e4567-e89b-12d3-a456-426614174000","y":"aGk="}"#,
        ),
        ("nested", r#"{"l":[1,null,3],"st":{"x":1,"y":"z"},"ls":[{"x":1},null,{"y":""}]}"#),
        ("several", "{\"s\":\"a\"}\n[1]\n{\"S\":\"any case\"}\n{\"s\":1,\"extra\":{}}\n{}"),
        ("interval", "1 year 2 mons -3 days 04:05:06.7"),
        ("interval-iso", "P1Y2M-3DT4H5M6.7S"),
        ("decimal", "-12345.678e-3"),
    ];
    seeds.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).to_vec()
}
