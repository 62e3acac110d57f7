//! No length that lies is believed: in every seed, every place is taken for a length of every width and made huge.

use bytes::Bytes;
use mainstem_fuzz::{TARGETS, allocation, find};
use mainstem_kafka_wire::frame::FRAME_BYTES_MAX;
use mainstem_kafka_wire::messages::{MetadataRequest, decode_request};

use crate::corpus::{alone, holds};

/// As a length of two, four or eight bytes, of either order, and as a varint.
const LIES: &[&[u8]] = &[
    &[0x7f, 0xff],
    &[0xff, 0x7f],
    &[0x05, 0xff, 0xff, 0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0x05],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
];

/// Every place of every seed for what is quick, some of them for what opens a log.
fn step(name: &str) -> usize {
    match name {
        "kafka_broker" => 29,
        "internal_topics" => 7,
        "log_commit" | "log_directory" => 61,
        "log_checkpoint" => 3,
        _ => 1,
    }
}

#[test]
fn a_length_that_lies_is_refused_before_it_is_allocated() {
    let _alone = alone();
    for target in TARGETS {
        for (name, data) in (target.seeds)() {
            for at in (0..data.len()).step_by(step(target.name)) {
                for lie in LIES {
                    let mut data = data.clone();
                    let end = data.len().min(at + lie.len());
                    data[at..end].copy_from_slice(&lie[..end - at]);
                    assert!(holds(target, &data), "{} of {name} with {lie:x?} at {at}", target.name);
                }
            }
        }
    }
}

/// Two bytes of a request become a struct of a hundred: the largest request would be gigabytes.
#[test]
fn a_request_of_millions_of_elements_takes_no_more_than_the_largest_request() {
    let _alone = alone();
    for count in [1 << 20, (1 << 20) + 1, FRAME_BYTES_MAX / 2 - 2] {
        let mut message = i32::try_from(count).expect("it fits").to_be_bytes().to_vec();
        message.resize(4 + 2 * count, 0xff);
        let message = Bytes::from(message);
        let peak = allocation::peak_of(|| drop(decode_request::<MetadataRequest>(1, message)));
        eprintln!("{count} elements: {peak} bytes");
        assert!(peak <= FRAME_BYTES_MAX, "{count} elements: {peak} bytes");
    }
}

#[test]
fn what_is_allocated_is_seen() {
    let _alone = alone();
    let peak = allocation::peak_of(|| drop(std::hint::black_box(vec![1u8; 1 << 20])));
    // The test runner's thread may free a little meanwhile.
    assert!((1_000_000..2_000_000).contains(&peak), "{peak}");
    assert!(find("pg_messages").is_some() && find("nothing").is_none());
}
