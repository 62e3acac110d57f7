//! Every flipped bit is found, or changes nothing that anyone could read.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_disk::{Disk, OverlayDisk};
use mainstem_log::{Csn, Log, OpenError, ScrubReport, TopicPartition, scrub};
use mainstem_testkit::SimDisk;

use crate::rig::{Rig, append, batch, entry, partition, read_from, segments};

/// Two partitions with sealed segments, an order with two files, and entries behind the checkpoint.
fn filled() -> (Rig, [TopicPartition; 2]) {
    filled_with(60, 40)
}

/// The same, with so many values of so many bytes before the checkpoint.
fn filled_with(values: usize, bytes: usize) -> (Rig, [TopicPartition; 2]) {
    let of = [partition(1, 0), partition(2, 3)];
    let mut rig = Rig::new(1);
    rig.config.commit_file_bytes = (8 << 10).max(4 * bytes as u64);
    rig.config.entry_bytes_max = (1 << 10).max(2 * bytes);
    rig.config.placed_bytes_min = rig.config.entry_bytes_max * 45 / 100;
    let (log, _) = rig.open(&of);
    for i in 0..values {
        append(&log, of[i % 2], &format!("value-{i}-{}", "z".repeat(bytes)));
    }
    log.checkpoint().unwrap();
    for i in 0..6 {
        let batches = of.map(|id| (id, batch(&[format!("tail-{i}").into_bytes()], 2_000 + i, Some((7, 0, i as i32)))));
        log.append_and_wait(entry(batches.to_vec()), mainstem_log::Urgency::Ordinary).unwrap();
        if i == 2 {
            // One that is placed.
            let part = (of[0], batch(&[vec![b'p'; rig.config.entry_bytes_max / 2]], 2_000, None));
            log.append_and_wait(entry(vec![part]), mainstem_log::Urgency::Ordinary).unwrap();
        }
        if i == 3 {
            // One that is spooled, in four blocks, and placed in one partition.
            let large = batch(&[vec![b's'; rig.config.entry_bytes_max * 2 / 5]], 2_000, None);
            let small: Vec<u8> =
                (0..8).flat_map(|_| batch(&[vec![b't'; 8 + rig.config.entry_bytes_max / 10]], 2_000, None)).collect();
            let twice = bytes::Bytes::from([&large[..], &large[..]].concat());
            let parts = vec![(of[0], twice), (of[1], small.into())];
            log.append_and_wait(entry(parts), mainstem_log::Urgency::Ordinary).unwrap();
        }
    }
    drop(log);
    (rig, of)
}

fn scrubbed(rig: &Rig, disk: Arc<dyn Disk>) -> Result<ScrubReport, OpenError> {
    scrub(disk, rig.clock.clone(), rig.config, &mut |_| ())
}

/// All that anyone can read: records, ends, the order. The start works on an overlay, so that nothing changes.
fn content(rig: &Rig, disk: Arc<dyn Disk>, of: &[TopicPartition]) -> String {
    let disk = Arc::new(OverlayDisk::new(disk));
    let (log, report) = Log::open(disk, rig.clock.clone(), rig.config).expect("it opens");
    for id in of {
        log.create_partition(*id, segments(2_000));
    }
    let records: BTreeMap<_, _> = of.iter().map(|id| (*id, read_from(&log, *id, 0).expect("it reads"))).collect();
    let order = log.order(Csn::ZERO, log.visible(), usize::MAX).expect("the order reads");
    format!("{:?} {records:?} {order:?}", report.last)
}

fn flip(disk: &SimDisk, path: &str, bit: u64) {
    disk.corrupt(path, bit / 8, 1 << (bit % 8)).expect("flips");
}

#[test]
fn nothing_is_found_where_nothing_is_wrong_and_nothing_is_changed() {
    let (rig, of) = filled();
    let before = rig.disk.snapshot();
    let report = scrubbed(&rig, rig.disk.clone()).expect("scrubs");
    assert_eq!((&report.damage[..], report.partitions, report.batches, report.torn_bytes), (&[][..], 2, 83, 0));
    assert_eq!(rig.disk.snapshot(), before);
    let (log, _) = rig.open(&of);
    assert_eq!(log.partition(of[0]).map(|state| state.high_watermark), Some(39));
}

/// Flips one bit after the other at places that a seed gives; how many were found, and how many were without effect.
fn flip_some(seed: u64, flips: u64) -> (u64, u64) {
    use rand::{Rng, SeedableRng};
    let (rig, of) = filled_with(1_100, 4_000);
    let expected = content(&rig, rig.disk.clone(), &of);
    let files: Vec<(String, u64)> =
        rig.disk.snapshot().into_iter().map(|(path, bytes)| (path, bytes.len() as u64 * 8)).collect();
    let total: u64 = files.iter().map(|(_, bits)| bits).sum();
    assert!(total > 8 * 4_000_000, "{total} bits");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (mut found, mut harmless) = (0, 0);
    for _ in 0..flips {
        let mut bit = random.random_range(0..total);
        let (path, _) = files
            .iter()
            .find(|(_, bits)| {
                let is_here = bit < *bits;
                bit -= if is_here { 0 } else { *bits };
                is_here
            })
            .expect("a place in some file");
        flip(&rig.disk, path, bit);
        match scrubbed(&rig, rig.disk.clone()) {
            Ok(report) if report.damage.is_empty() => {
                let now = content(&rig, rig.disk.clone(), &of);
                assert_eq!(now, expected, "seed {seed}: bit {bit} of {path} was not found and shows");
                harmless += 1;
            }
            _ => found += 1,
        }
        flip(&rig.disk, path, bit);
    }
    (found, harmless)
}

/// `MAINSTEM_FLIPS=200000` for the long run.
#[test]
#[expect(clippy::print_stdout, reason = "the figures of a long run")]
fn flips_at_seeded_places_of_a_larger_directory_are_found_or_change_nothing() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, flips): (u64, u64) = (number("MAINSTEM_SEED", 1), number("MAINSTEM_FLIPS", 200));
    println!("MAINSTEM_SEED={seed}");
    let halves = [0, 1].map(|half| std::thread::spawn(move || flip_some(seed * 2 + half, flips / 2)));
    let counts = halves.map(|half| half.join().expect("no flip went unnoticed"));
    let (found, harmless) = (counts[0].0 + counts[1].0, counts[0].1 + counts[1].1);
    println!("{found} flips found, {harmless} without effect");
    assert!(found > flips / 2, "most of a log is records");
}

/// Flips the bits of one half, each alone; how many were found, and how many were without effect by file.
fn flip_half(half: u64) -> (u64, BTreeMap<String, u64>) {
    let (rig, of) = filled();
    let expected = content(&rig, rig.disk.clone(), &of);
    let files = rig.disk.snapshot();
    let (mut found, mut harmless) = (0, BTreeMap::new());
    for (path, bytes) in &files {
        // The zeros at the end of a commit log file are all alike.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1) * 8;
        for bit in (0..used).chain((used..bytes.len() as u64 * 8).step_by(997)).filter(|bit| bit % 2 == half) {
            flip(&rig.disk, path, bit);
            match scrubbed(&rig, rig.disk.clone()) {
                Ok(report) if report.damage.is_empty() => {
                    let now = content(&rig, rig.disk.clone(), &of);
                    assert_eq!(now, expected, "bit {bit} of {path} was not found and shows");
                    *harmless.entry(path.clone()).or_default() += 1;
                }
                _ => found += 1,
            }
            flip(&rig.disk, path, bit);
        }
    }
    assert_eq!(rig.disk.snapshot(), files, "neither scrub nor a start on an overlay writes");
    (found, harmless)
}

#[test]
#[expect(clippy::print_stdout, reason = "what was without effect is worth a look when it changes")]
fn every_flipped_bit_is_found_or_changes_nothing() {
    let halves = [0, 1].map(|half| std::thread::spawn(move || flip_half(half)));
    let mut found = 0;
    for half in halves {
        let (count, harmless) = half.join().expect("no flip went unnoticed");
        println!("{count} flips found, without effect: {harmless:?}");
        // What the commit log or another copy makes good is without effect; a sealed segment has no other copy.
        let is_sealed = |path: &&String| path.starts_with("topics/") && path.ends_with("00000000000000000000.log");
        assert_eq!(harmless.keys().find(is_sealed), None, "every bit of a sealed segment matters");
        found += count;
    }
    assert!(found > 100_000, "{found}");
}
