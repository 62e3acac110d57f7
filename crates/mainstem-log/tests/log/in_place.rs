//! Batches that are left in their file for who sends them on.

use mainstem_disk::{Disk, Open};
use mainstem_kafka_wire::batch::{split, verify_crc};
use mainstem_log::{Log, LogConfig, ReadError, Stored, TopicPartition, Urgency};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::rig::{Rig, batch, entry, partition, segments};

/// The bytes of an answer, and whether they were left in the file.
fn bytes_of(stored: &Stored) -> (Vec<u8>, bool) {
    match stored {
        Stored::Memory(batches) => (batches.to_vec(), false),
        Stored::File(range) => (range.read(usize::MAX).expect("the range is there"), true),
    }
}

/// A rig with the limits of a server.
fn large(seed: u64) -> Rig {
    Rig { config: LogConfig::default(), ..Rig::new(seed) }
}

fn append(log: &Log, to: TopicPartition, bytes: usize) {
    let batch = batch(&[vec![7; bytes]], 1_000, None);
    log.append(entry(vec![(to, batch)]), Urgency::Ordinary, Box::new(|_| {})).expect("it is accepted");
}

#[test]
#[expect(clippy::print_stdout, reason = "the seed")]
fn what_is_left_in_its_file_is_what_reading_gives() {
    let seed: u64 = std::env::var("MAINSTEM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    println!("seed {seed}");
    let mut dice = SmallRng::seed_from_u64(seed);
    let rig = large(seed);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    log.configure_partition(a, segments(400_000));
    let mut sizes = Vec::new();
    for _ in 0..150 {
        // Runs of large batches, and small ones among them.
        sizes.push(if dice.random_bool(0.8) { dice.random_range(4_000..30_000) } else { dice.random_range(1..3_000) });
        append(&log, a, *sizes.last().unwrap());
        log.commit_once();
    }
    append(&log, a, 20_000);
    let mut in_file = 0;
    for _ in 0..2_000 {
        let offset = dice.random_range(0..150);
        let bytes_max = [0, 1_000, 40_000, 100_000, 1 << 20][dice.random_range(0..5)];
        let at_least_one = dice.random_bool(0.5);
        let read = log.read_in_place(a, offset, bytes_max, at_least_one).unwrap();
        let (bytes, is_in_file) = bytes_of(&read.batches);
        in_file += u32::from(is_in_file);
        let mut next = offset;
        for (nth, found) in split(&bytes.into()).enumerate() {
            let (header, bytes) = found.expect("whole batches");
            assert!(verify_crc(&bytes));
            assert_eq!(header.base_offset, next);
            next = header.next_offset();
            assert!(read.batches.len() <= bytes_max || nth == 0 && at_least_one && bytes.len() == read.batches.len());
        }
        assert_eq!((read.next_offset, read.high_watermark), (next, 150), "nothing above the high watermark");
        if at_least_one {
            assert!(next > offset, "a reader gets on");
        }
    }
    assert!((400..1_600).contains(&in_file), "both ways were gone: {in_file}");
}

#[test]
fn damage_is_found_though_only_headers_are_read() {
    let rig = large(12);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    log.configure_partition(a, segments(1 << 20));
    for _ in 0..20 {
        append(&log, a, 20_000);
    }
    while log.commit_once() {}
    // With index files, and entries behind the checkpoint.
    log.checkpoint().unwrap();
    drop(log);
    let path = rig.file(|path| path.starts_with("topics") && path.ends_with(".log"));
    let file = rig.disk.open(&path, Open::Write).unwrap();
    let size = file.len().unwrap() / 20;
    // The base offset of batch 12, which no CRC covers.
    let mut byte = [0];
    file.read_at(&mut byte, 12 * size + 7).unwrap();
    file.write_at(&[byte[0] ^ 1], 12 * size + 7).unwrap();
    let (log, _) = rig.open(&[a]);
    log.configure_partition(a, segments(1 << 20));
    let read = log.read_in_place(a, 3, 1 << 20, true).unwrap();
    assert!(bytes_of(&read.batches).1);
    assert_eq!(read.next_offset, 12);
    assert!(matches!(log.read_in_place(a, 12, 1 << 20, true), Err(ReadError::Damaged { offset: 12, .. })));
    // A file that became shorter.
    file.set_len(8 * size + 100).unwrap();
    let read = log.read_in_place(a, 0, 1 << 20, true).unwrap();
    assert_eq!((read.next_offset, bytes_of(&read.batches).1), (8, false));
    assert!(matches!(log.read_in_place(a, 8, 1 << 20, true), Err(ReadError::Damaged { offset: 8, .. })));
}
