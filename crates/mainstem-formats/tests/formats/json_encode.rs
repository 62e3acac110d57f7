//! Rows to JSON: the canonical text, and that it decodes to the same row.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Int32Type, IntervalMonthDayNano, IntervalUnit, SchemaRef, TimeUnit,
};
use expect_test::expect;
use mainstem_formats::{JsonDecoder, JsonEncoder};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::json_rules::schema;
use crate::json_values::tagged;
use crate::random::generator;

fn encode(batch: &RecordBatch) -> Vec<Vec<u8>> {
    let encoder = JsonEncoder::new(batch.schema()).unwrap();
    let encode_row = |row| {
        let mut out = Vec::new();
        encoder.encode_row(batch, row, &mut out);
        out
    };
    (0..batch.num_rows()).map(encode_row).collect()
}

fn all_types() -> SchemaRef {
    let list = |item: DataType| DataType::List(Arc::new(Field::new("item", item, true)));
    let inner = DataType::Struct(vec![Field::new("z", list(DataType::Float32), true)].into());
    let fields = vec![Field::new("x \"1\"", DataType::Int16, true), Field::new("y", inner, true)];
    schema(vec![
        Field::new("bool", DataType::Boolean, true),
        Field::new("i2", DataType::Int16, true),
        Field::new("i4", DataType::Int32, true),
        Field::new("i8", DataType::Int64, false),
        Field::new("f4", DataType::Float32, true),
        Field::new("f8", DataType::Float64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("bytea", DataType::Binary, true),
        Field::new("n10_2", DataType::Decimal128(10, 2), true),
        Field::new("n38_38", DataType::Decimal128(38, 38), true),
        Field::new("n38_m5", DataType::Decimal128(38, -5), true),
        Field::new("date", DataType::Date32, true),
        Field::new("time", DataType::Time64(TimeUnit::Microsecond), true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("tstz", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("iv", DataType::Interval(IntervalUnit::MonthDayNano), true),
        tagged("json", "jsonb"),
        tagged("uuid", "uuid"),
        Field::new("list", list(DataType::Int32), true),
        Field::new("row", DataType::Struct(fields.into()), true),
    ])
}

/// Often an edge, else any bits.
fn bits(random: &mut SmallRng) -> i64 {
    match random.random_range(0..8) {
        0 => 0,
        1 => [1, -1, i64::MAX, i64::MIN][random.random_range(0..4)],
        2 => random.random_range(-1000..1000),
        shift => random.random::<i64>() >> (shift * 8),
    }
}

fn text(random: &mut SmallRng) -> String {
    const CHARS: [char; 14] =
        ['a', 'Z', '0', ' ', '"', '\\', '/', '\n', '\u{1}', '\u{7f}', 'é', '水', '😀', '\u{feff}'];
    (0..random.random_range(0..20)).map(|_| CHARS[random.random_range(0..CHARS.len())]).collect()
}

fn json(random: &mut SmallRng, depth: u32) -> serde_json::Value {
    match random.random_range(0..if depth > 3 { 4 } else { 6 }) {
        0 if depth > 0 => serde_json::Value::Null,
        0 | 1 => random.random::<bool>().into(),
        2 => bits(random).into(),
        3 => text(random).into(),
        4 => (0..random.random_range(0..4)).map(|_| json(random, depth + 1)).collect(),
        _ => (0..random.random_range(0..4)).map(|_| (text(random), json(random, depth + 1))).collect(),
    }
}

fn column(field: &Field, rows: usize, random: &mut SmallRng) -> ArrayRef {
    let mut some = |make: &mut dyn FnMut(&mut SmallRng) -> i64| -> Vec<Option<i64>> {
        (0..rows).map(|_| (!field.is_nullable() || random.random_range(0..5) > 0).then(|| make(random))).collect()
    };
    let cast = |values: Vec<Option<i64>>, data_type: &DataType| {
        arrow::compute::cast(&Int64Array::from(values), data_type).unwrap()
    };
    match field.data_type() {
        DataType::Boolean => Arc::new(
            some(&mut bits).into_iter().map(|value| value.map(|value| value & 1 == 1)).collect::<BooleanArray>(),
        ),
        data_type @ DataType::Int16 => cast(some(&mut |random| i64::from(bits(random) as i16)), data_type),
        data_type @ DataType::Int32 => cast(some(&mut |random| i64::from(bits(random) as i32)), data_type),
        DataType::Int64 => Arc::new(Int64Array::from(some(&mut bits))),
        DataType::Float32 => Arc::new(
            some(&mut |random| random.random())
                .into_iter()
                .map(|bits| bits.map(|bits| canonical_nan32(f32::from_bits(bits as u32))))
                .collect::<PrimitiveArray<Float32Type>>(),
        ),
        DataType::Float64 => Arc::new(
            some(&mut |random| if random.random() { random.random() } else { (bits(random) as f64).to_bits() as i64 })
                .into_iter()
                .map(|bits| bits.map(|bits| canonical_nan64(f64::from_bits(bits as u64))))
                .collect::<PrimitiveArray<Float64Type>>(),
        ),
        DataType::Decimal128(precision, scale) => {
            let limit = 10i128.pow(u32::from(*precision));
            let widen =
                |low: i64| (i128::from(low) * i128::from(low)).wrapping_mul(i128::from(low) * 7_919 + 1) % limit;
            let values: Decimal128Array = some(&mut bits).into_iter().map(|value| value.map(widen)).collect();
            Arc::new(values.with_precision_and_scale(*precision, *scale).unwrap())
        }
        DataType::Date32 => Arc::new(
            some(&mut |random| i64::from(bits(random) as i32))
                .into_iter()
                .map(|days| days.map(|days| days as i32))
                .collect::<Date32Array>(),
        ),
        DataType::Time64(_) => {
            Arc::new(Time64MicrosecondArray::from(some(&mut |random| bits(random).rem_euclid(86_400_000_000))))
        }
        DataType::Timestamp(_, zone) => {
            Arc::new(TimestampMicrosecondArray::from(some(&mut bits)).with_timezone_opt(zone.clone()))
        }
        DataType::Interval(_) => {
            let (months, days, nanos) = (some(&mut bits), some(&mut bits), some(&mut bits));
            let parts = months.into_iter().zip(days).zip(nanos);
            let interval = |((months, days), nanos): ((Option<i64>, Option<i64>), Option<i64>)| {
                Some(IntervalMonthDayNano::new(months? as i32, days? as i32, nanos.unwrap_or_default()))
            };
            Arc::new(parts.map(interval).collect::<IntervalMonthDayNanoArray>())
        }
        DataType::Utf8 => {
            let kind = field.metadata().get(mainstem_formats::TYPE_KEY).map(String::as_str);
            let value = |random: &mut SmallRng| match kind {
                Some("jsonb") => json(random, 0).to_string(),
                Some("uuid") => {
                    let hex = format!("{:032x}", random.random::<u128>());
                    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
                }
                _ => text(random),
            };
            Arc::new((0..rows).map(|_| (random.random_range(0..5) > 0).then(|| value(random))).collect::<StringArray>())
        }
        DataType::Binary => {
            let value = |random: &mut SmallRng| text(random).into_bytes().iter().map(|b| b ^ 0x81).collect::<Vec<_>>();
            Arc::new((0..rows).map(|_| (random.random_range(0..5) > 0).then(|| value(random))).collect::<BinaryArray>())
        }
        DataType::List(item) => {
            let lengths: Vec<_> = (0..rows).map(|_| random.random_range(0..4usize)).collect();
            let nulls = (0..rows).map(|row| lengths[row] > 0 || random.random()).collect::<Vec<bool>>();
            let items = column(item, lengths.iter().sum(), random);
            let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(item.clone(), offsets, items, Some(nulls.into())))
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|field| column(field, rows, random)).collect();
            let nulls = (0..rows).map(|_| random.random_range(0..5) > 0).collect::<Vec<bool>>();
            Arc::new(StructArray::new(fields.clone(), columns, Some(nulls.into())))
        }
        other => panic!("no generator for {other}"),
    }
}

fn canonical_nan32(value: f32) -> f32 {
    if value.is_nan() { f32::NAN } else { value }
}

fn canonical_nan64(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}

#[test]
fn random_rows_of_all_types_come_back_the_same() {
    let mut random = generator();
    let schema = all_types();
    let mut decoder = JsonDecoder::new(schema.clone()).unwrap();
    for _ in 0..50 {
        let columns = schema.fields().iter().map(|field| column(field, 100, &mut random)).collect();
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let records = encode(&batch);
        let decoded = decoder.decode(records.iter().map(|record| Some(record.as_slice())));
        assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        for (row, record) in records.iter().enumerate() {
            // Floats are compared as their bits through the text, which also tells -0 from 0 and knows NaN.
            assert_eq!(encode(&decoded.batch.slice(row, 1))[0], *record);
            let value = serde_json::from_slice::<serde_json::Value>(record);
            assert!(value.is_ok(), "{}", String::from_utf8_lossy(record));
        }
        for (index, field) in schema.fields().iter().enumerate() {
            assert_columns_equal(field, batch.column(index), decoded.batch.column(index));
        }
    }
}

/// Row by row and bit by bit, so that -0 is not 0; what stands under a null does not matter.
fn assert_columns_equal(field: &Field, sent: &ArrayRef, got: &ArrayRef) {
    assert_eq!(sent.len(), got.len());
    for row in 0..sent.len() {
        assert_eq!(&sent.slice(row, 1), &got.slice(row, 1), "{field} row {row}");
    }
}

#[test]
fn the_text_is_canonical() {
    let records = [
        r#"{"bool":"t","i2":"1","i4":-1,"i8":9007199254740993,"f4":0.1,"f8":1e300,"text":"\u00e9\u0001/\"","bytea":"\\xAB",
            "n10_2":1,"n38_38":0.5,"n38_m5":100000,"date":"2013-07-01","time":"01:02:03.40","ts":1372655700.25,"tstz":0,
            "iv":"P1Y-2M3DT-4H","json":{ "a" : [ 1.0 , "x y" ] },"uuid":"{A0EEBC999C0B4EF8BB6D6BB9BD380A11}",
            "list":["1",null],"row":{"y":{"z":[1e20,"NaN"]}}}"#,
        r#"{"i8":0,"f4":1e16,"f8":"-Infinity","n10_2":-0.005,"n38_38":-1e-38,"n38_m5":-0,"date":"-0001-12-31",
            "ts":"+10000-01-01","iv":"-1 days +00:00:00.000001","list":[],"row":{}}"#,
        r#"{"i8":0,"f4":-0.0,"f8":0.00001,"iv":"-1 mon 1 day","row":{"y":{}}}"#,
        r#"{"i8":0,"f8":0.000001,"iv":"0 days"}"#,
    ];
    let mut decoder = JsonDecoder::new(all_types()).unwrap();
    let decoded = decoder.decode(records.iter().map(|record| Some(record.as_bytes())));
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let texts: Vec<_> =
        encode(&decoded.batch).into_iter().map(|text| String::from_utf8(text).unwrap() + "\n").collect();
    expect![[r#"
        {"bool":true,"i2":1,"i4":-1,"i8":9007199254740993,"f4":0.1,"f8":1e300,"text":"é\u0001/\"","bytea":"\\xab","n10_2":1.00,"n38_38":0.50000000000000000000000000000000000000,"n38_m5":100000,"date":"2013-07-01","time":"01:02:03.4","ts":"2013-07-01T05:15:00.25","tstz":"1970-01-01T00:00:00Z","iv":"10 mons 3 days -04:00:00","json":{"a":[1.0,"x y"]},"uuid":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","list":[1,null],"row":{"x \"1\"":null,"y":{"z":[1e20,"NaN"]}}}
        {"bool":null,"i2":null,"i4":null,"i8":0,"f4":1e16,"f8":"-Infinity","text":null,"bytea":null,"n10_2":-0.01,"n38_38":-0.00000000000000000000000000000000000001,"n38_m5":0,"date":"-0001-12-31","time":null,"ts":"+10000-01-01T00:00:00","tstz":null,"iv":"-1 days +00:00:00.000001","json":null,"uuid":null,"list":[],"row":{"x \"1\"":null,"y":null}}
        {"bool":null,"i2":null,"i4":null,"i8":0,"f4":-0,"f8":0.00001,"text":null,"bytea":null,"n10_2":null,"n38_38":null,"n38_m5":null,"date":null,"time":null,"ts":null,"tstz":null,"iv":"-1 mons +1 day","json":null,"uuid":null,"list":null,"row":{"x \"1\"":null,"y":{"z":null}}}
        {"bool":null,"i2":null,"i4":null,"i8":0,"f4":null,"f8":1e-6,"text":null,"bytea":null,"n10_2":null,"n38_38":null,"n38_m5":null,"date":null,"time":null,"ts":null,"tstz":null,"iv":"00:00:00","json":null,"uuid":null,"list":null,"row":null}
    "#]].assert_eq(&texts.concat());
}

#[test]
fn jsonb_that_is_no_json_and_jsonb_null_still_give_a_readable_record() {
    let fields = schema(vec![tagged("j", "jsonb")]);
    let values: ArrayRef = Arc::new(StringArray::from(vec![Some("{ broken"), Some("null"), Some(" [1, 2] "), None]));
    let texts = encode(&RecordBatch::try_new(fields, vec![values]).unwrap());
    let lines: Vec<_> = texts.iter().map(|text| String::from_utf8_lossy(text).into_owned() + "\n").collect();
    expect![[r#"
        {"j":"{ broken"}
        {"j":null}
        {"j":[1,2]}
        {"j":null}
    "#]]
    .assert_eq(&lines.concat());
}

#[test]
fn a_row_without_columns_is_an_empty_object() {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(schema(vec![]), vec![], &options).unwrap();
    assert_eq!(encode(&batch), [b"{}"]);
}

#[test]
fn slices_of_lists_encode_their_own_rows() {
    let list: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), Some(vec![Some(2), None])]));
    let fields = schema(vec![Field::new("l", list.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(fields, vec![list]).unwrap().slice(1, 1);
    assert_eq!(encode(&batch), [br#"{"l":[2,null]}"#]);
}
