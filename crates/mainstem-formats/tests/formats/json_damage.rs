//! Damaged records: never a panic, and JSON is what serde_json says it is.

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use mainstem_formats::JsonDecoder;
use rand::Rng;

use crate::json_rules::schema;
use crate::json_values::tagged;
use crate::random::generator;

const SEEDS: [&str; 6] = [
    r#"{"a":1,"b":"text","c":[1,2.5,-3e-7],"d":{"a":null,"b":true},"e":"\u00e9\ud83d\ude00"}"#,
    r#" { "a" : -0.0 , "t" : "2013-07-01T05:15:00.123Z" , "i" : "1 day 02:03:04" } "#,
    r#"{"t":1372655700123,"i":"P1Y2M","n":"12.345","u":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}"#,
    r#"{"j":{"x":[{},[],"\\\"",{"y":"\n"}]},"n":99999999.99,"a":"9223372036854775807"}"#,
    r#"{"žluťoučký":"kůň","":"","d":"2000-02-29","h":"05:06:07.5","y":"\\x00ff"}"#,
    r#"{"a":1,"a":2,"A":3,"l":[["deep",[[]]],false],"b":"12345678\t9012345"}"#,
];

const BYTES: &[u8] = b"{}[]\",:\\/ \n\t0123456789-+.eEutrfalsn\x00\x1f\x7f\x80\xc3\xa9\xed\xff";

fn damage(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = SEEDS[random.random_range(0..SEEDS.len())].as_bytes().to_vec();
    for _ in 0..random.random_range(0..5) {
        let at = random.random_range(0..=bytes.len());
        let byte = BYTES[random.random_range(0..BYTES.len())];
        match random.random_range(0..6) {
            0 => bytes.insert(at, byte),
            1 => bytes.truncate(at),
            2 => bytes.rotate_left(at),
            3 => {
                let other = SEEDS[random.random_range(0..SEEDS.len())].as_bytes();
                let from = random.random_range(0..other.len());
                let to = random.random_range(from..other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ if at < bytes.len() && random.random() => drop(bytes.remove(at)),
            _ if at < bytes.len() => bytes[at] = byte,
            _ => {}
        }
    }
    bytes
}

/// Whether serde_json takes it as an object. None where it stops at a number beyond f64, which is JSON all the same: what
/// comes behind the number is then not known. (`json_values` has such numbers.)
fn is_object(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(value) => Some(value.is_object()),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}

#[test]
fn damaged_records_are_json_objects_exactly_when_serde_json_says_so() {
    let mut random = generator();
    let mut decoder = JsonDecoder::new(schema(vec![])).unwrap();
    let (mut counts, mut unknown) = ([0u32; 2], 0u32);
    for _ in 0..100_000 {
        let bytes = damage(&mut random);
        let decoded = decoder.decode([Some(bytes.as_slice())].into_iter());
        let is_accepted = decoded.rejected.is_empty();
        let Some(expected) = is_object(&bytes) else {
            unknown += 1;
            continue;
        };
        assert_eq!(is_accepted, expected, "{:?}: {:?}", String::from_utf8_lossy(&bytes), decoded.rejected);
        counts[usize::from(is_accepted)] += 1;
    }
    println!("rejected {}, accepted {}, not known {unknown}", counts[0], counts[1]);
    assert!(counts.iter().all(|count| *count > 5_000), "both outcomes are tested: {counts:?}");
    assert!(unknown < 2_000, "the oracle knows nearly all: {unknown}");
}

#[test]
fn damaged_records_never_panic_and_leave_the_others_alone() {
    let mut random = generator();
    let columns = schema(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("i", DataType::Interval(IntervalUnit::MonthDayNano), true),
        Field::new("n", DataType::Decimal128(10, 2), true),
        tagged("u", "uuid"),
        tagged("j", "jsonb"),
        tagged("c", "jsonb"),
        Field::new("d", DataType::Date32, true),
        Field::new("h", DataType::Time64(TimeUnit::Microsecond), true),
        Field::new("y", DataType::Binary, true),
    ]);
    let mut together = JsonDecoder::new(columns.clone()).unwrap();
    for _ in 0..300 {
        let records: Vec<_> = (0..100).map(|_| damage(&mut random)).collect();
        let decoded = together.decode(records.iter().map(|record| Some(record.as_slice())));
        let good = decoded.accepted.iter().map(|index| Some(records[*index as usize].as_slice()));
        let alone = JsonDecoder::new(columns.clone()).unwrap().decode(good);
        assert!(alone.rejected.is_empty(), "{:?}", alone.rejected);
        assert_eq!(alone.batch, decoded.batch);
        for (index, reason) in &decoded.rejected {
            let again =
                JsonDecoder::new(columns.clone()).unwrap().decode([Some(&*records[*index as usize])].into_iter());
            assert_eq!(again.rejected.first().map(|(_, reason)| reason), Some(reason));
            assert!(reason.to_string().len() < 400, "{reason}");
        }
    }
}
