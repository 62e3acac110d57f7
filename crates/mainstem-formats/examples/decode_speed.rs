//! Prints how many flight-like JSON records per second one thread decodes and encodes:
//! `cargo run --release -p mainstem-formats --example decode_speed`.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use mainstem_formats::{JsonDecoder, JsonEncoder};

const RECORDS: usize = 20_000;
const ROUNDS: usize = 25;

fn main() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("carrier", DataType::Utf8, true),
        Field::new("flight", DataType::Int32, true),
        Field::new("origin", DataType::Utf8, true),
        Field::new("dest", DataType::Utf8, true),
        Field::new("sched_dep", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("dep_delay", DataType::Float64, true),
        Field::new("distance", DataType::Int64, true),
    ]));
    let records: Vec<String> = (0..RECORDS).map(flight).collect();
    let bytes: usize = records.iter().map(String::len).sum();
    println!("{RECORDS} records of {} bytes, 7 columns", bytes / RECORDS);

    let mut decoder = JsonDecoder::new(schema.clone()).expect("all columns have a JSON form");
    let mut best = f64::MAX;
    let mut batch = None;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let decoded = decoder.decode(records.iter().map(|record| Some(record.as_bytes())));
        best = best.min(start.elapsed().as_secs_f64());
        assert_eq!(decoded.accepted.len(), RECORDS);
        batch = Some(decoded.batch);
    }
    report("decode", best, bytes);

    let (encoder, batch) = (JsonEncoder::new(schema).expect("as above"), batch.expect("at least one round"));
    let mut best = f64::MAX;
    let mut out = Vec::new();
    for _ in 0..ROUNDS {
        out.clear();
        let start = Instant::now();
        (0..RECORDS).for_each(|row| encoder.encode_row(&batch, row, &mut out));
        best = best.min(start.elapsed().as_secs_f64());
    }
    report("encode", best, out.len());
}

fn flight(index: usize) -> String {
    let carrier = ["UA", "B6", "EV", "DL", "AA", "MQ"][index % 6];
    let (origin, dest) = (["EWR", "JFK", "LGA"][index % 3], ["ORD", "LAX", "BOS", "MIA"][index / 3 % 4]);
    let (day, hour, minute) = (index % 31 + 1, index / 7 % 24, index / 11 % 60);
    let delay = (index * 37 % 400) as f64 / 2.0 - 20.0;
    format!(
        "{{\"carrier\":\"{carrier}\",\"flight\":{},\"origin\":\"{origin}\",\"dest\":\"{dest}\",\
         \"sched_dep\":\"2013-07-{day:02}T{hour:02}:{minute:02}:00\",\"dep_delay\":{delay:.1},\"distance\":{}}}",
        index * 13 % 6000,
        index * 7 % 2500 + 90
    )
}

fn report(what: &str, seconds: f64, bytes: usize) {
    let millions = RECORDS as f64 / seconds / 1e6;
    println!("{what}: {millions:.2} M records/s, {:.0} MB/s, best of {ROUNDS} rounds", bytes as f64 / seconds / 1e6);
}
