//! Compaction: the last record of each key stays, at its offset, whatever comes between.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstem_disk::{Clock, RealDisk, SystemClock};
use mainstem_kafka_wire::batch::{BatchHeader, Compression, split};
use mainstem_kafka_wire::records::{RecordBatchBuilder, empty_batch};
use mainstem_log::{
    CompactionConfig, Csn, Log, LogConfig, PartError, PartitionConfig, ReadError, TopicPartition, Urgency,
};
use mainstem_testkit::FaultKind;

use crate::rig::{Rig, append, compact, compacted, entry, keyed, partition, records_from, segments, text_of};

const A: (u128, i32) = (1, 0);

fn a() -> TopicPartition {
    partition(A.0, A.1)
}

fn put(log: &Log, batches: Bytes) -> i64 {
    let accepted = log.append_and_wait(entry(vec![(a(), batches)]), Urgency::Ordinary).expect("appends");
    accepted.parts[0].expect("its place").base_offset
}

/// `key=value` or `key` for a tombstone, one record each, now.
fn write(rig: &Rig, log: &Log, text: &str) {
    for word in text.split(' ') {
        let pair = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
        put(log, keyed(Compression::None, &[pair], rig.clock.wall_ms(), None));
    }
}

/// What can be read: `offset:key=value`.
fn shown(log: &Log) -> String {
    let start = log.partition(a()).expect("it is there").start_offset;
    let records = records_from(log, a(), start).expect("it reads");
    let text = |bytes: &Option<Bytes>| bytes.as_deref().map(|b| String::from_utf8_lossy(b).into_owned());
    let shown = records.iter().map(|record| {
        let (key, value) = (text(&record.key).unwrap_or_default(), text(&record.value));
        format!("{}:{key}{}", record.offset, value.map(|value| format!("={value}")).unwrap_or_default())
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// All batches with records that can be read.
fn headers(log: &Log) -> Vec<BatchHeader> {
    let mut headers = Vec::new();
    let mut next = log.partition(a()).expect("it is there").start_offset;
    loop {
        let read = log.read(a(), next, 1 << 20, true).expect("it reads");
        if read.batches.is_empty() {
            headers.retain(|header: &BatchHeader| header.record_count > 0);
            return headers;
        }
        headers.extend(split(&read.batches).map(|batch| batch.expect("whole").0));
        next = read.next_offset;
    }
}

/// A rig and a log with one partition; segments of a few records.
fn open(seed: u64, config: PartitionConfig) -> (Rig, Log) {
    let rig = Rig::new(seed);
    let log = reopen(&rig, config);
    (rig, log)
}

fn reopen(rig: &Rig, config: PartitionConfig) -> Log {
    let (log, report) = rig.open(&[]);
    assert_eq!(report.damage, []);
    log.create_partition(a(), config);
    log
}

fn restart(rig: &Rig, log: Log, config: PartitionConfig) -> Log {
    drop(log);
    rig.disk.crash();
    reopen(rig, config)
}

/// Room for three records of [`write`] in a segment.
const SEGMENT: u64 = 240;

fn with(change: impl FnOnce(&mut CompactionConfig)) -> PartitionConfig {
    let mut config = compacted(SEGMENT);
    change(config.compaction.as_mut().expect("compacted() says so"));
    config
}

#[test]
fn the_last_record_of_each_key_stays_at_its_offset() {
    let config = compacted(SEGMENT);
    let (rig, log) = open(1, config);
    write(&rig, &log, "a=1 b=1 c=1 a=2 b=2 a=3 d=1 a=4 e=1 f=1 a=5");
    let state = log.partition(a()).expect("it is there");
    let report = compact(&log);
    // The last segment is active: what stands there stays, and supersedes nothing yet.
    let expected = "2:c=1 4:b=2 6:d=1 7:a=4 8:e=1 9:f=1 10:a=5";
    assert_eq!(shown(&log), expected);
    assert_eq!((report.records_removed, report.runs_abandoned, report.held_partitions), (4, 0, 0));
    assert!(report.bytes_after < report.bytes_before, "{report:?}");
    let now = log.partition(a()).expect("it is there");
    assert_eq!((now.start_offset, now.high_watermark, now.end_offset), (0, state.high_watermark, state.end_offset));
    assert!(now.bytes < state.bytes);
    assert_eq!((state.compacted_below, now.compacted_below), (0, 6));

    // From inside a hole a reader gets the next batch that exists.
    let read = log.read(a(), 0, 1, true).expect("it reads");
    let (header, _) = split(&read.batches).next().expect("a batch").expect("whole");
    assert_eq!((header.base_offset, header.record_count, read.next_offset), (2, 1, 3));
    // The order's ends stay good ends, also inside a hole.
    for (from, until) in [(0, 1), (0, 2), (1, 2), (5, 6)] {
        let read = log.read_until(a(), from, until, 1 << 20).expect("it reads");
        let is_empty = split(&read.batches).all(|batch| batch.expect("whole").0.record_count == 0);
        assert!(is_empty && read.next_offset == until, "{from}..{until}");
    }
    assert_eq!(log.read_until(a(), 0, 3, 1 << 20).expect("it reads").next_offset, 3);
    let steps = log.order(Csn::ZERO, Csn(99), 100).expect("the order reads");
    assert_eq!(steps.len(), 11);

    // Again: nothing to do. And the same after a crash.
    assert_eq!(compact(&log).segments, 0);
    let log = restart(&rig, log, config);
    assert_eq!(shown(&log), expected);
    write(&rig, &log, "c=2 d=2 e=2");
    compact(&log);
    assert_eq!(shown(&log), "4:b=2 6:d=1 8:e=1 9:f=1 10:a=5 11:c=2 12:d=2 13:e=2");
}

#[test]
fn offsets_are_found_by_time_where_records_are_gone() {
    let (_, log) = open(2, compacted(SEGMENT));
    for (i, key) in ["a", "b", "a", "b", "a", "c", "x", "y", "z"].iter().enumerate() {
        put(&log, keyed(Compression::None, &[(key, Some("v"))], 1_000 + 10 * i as i64, None));
    }
    compact(&log);
    assert!(shown(&log).starts_with("3:b=v 4:a=v 5:c=v"), "{}", shown(&log));
    for (asked, found) in [(0, (3, 1_030)), (1_010, (3, 1_030)), (1_035, (4, 1_040)), (1_080, (8, 1_080))] {
        assert_eq!(log.offset_for_timestamp(a(), asked).expect("it looks"), Some(found), "{asked}");
    }
    assert_eq!(log.offset_for_timestamp(a(), 1_081).expect("it looks"), None);
}

#[test]
fn the_newest_time_is_that_of_a_record_that_is_there() {
    let (_, log) = open(3, compacted(SEGMENT));
    for (key, time) in [("a", 9_000), ("b", 5_000), ("c", 100), ("a", 200), ("d", 300), ("e", 400), ("f", 500)] {
        put(&log, keyed(Compression::None, &[(key, Some("v"))], time, None));
    }
    compact(&log);
    let newest = log.partition(a()).expect("it is there").max_timestamp;
    assert_eq!(newest, 5_000);
    assert_eq!(log.offset_for_timestamp(a(), newest).expect("it looks"), Some((1, 5_000)));
}

#[test]
fn a_tombstone_goes_only_after_its_delete_horizon() {
    let config = with(|config| config.delete_retention_ms = 60_000);
    let (rig, log) = open(4, config);
    write(&rig, &log, "a=1 b=1 a x=1 y=1 z=1 w=1");
    // Its time does not begin before it is compacted for the first time.
    rig.clock.advance(Duration::from_secs(1_000));
    compact(&log);
    assert_eq!(shown(&log), "1:b=1 2:a 3:x=1 4:y=1 5:z=1 6:w=1");
    rig.clock.advance(Duration::from_millis(59_999));
    assert_eq!(compact(&log).tombstones_removed, 0);
    // The horizon is on disk.
    let log = restart(&rig, log, config);
    assert_eq!(compact(&log).tombstones_removed, 0);
    assert!(shown(&log).contains("2:a "));
    rig.clock.advance(Duration::from_millis(1));
    let report = compact(&log);
    assert_eq!((report.tombstones_removed, report.records_removed), (1, 0));
    assert_eq!(shown(&log), "1:b=1 3:x=1 4:y=1 5:z=1 6:w=1");
    let log = restart(&rig, log, config);
    assert_eq!(shown(&log), "1:b=1 3:x=1 4:y=1 5:z=1 6:w=1");
}

#[test]
fn a_reader_gets_to_the_end_when_the_last_records_are_gone() {
    let config = with(|config| (config.delete_retention_ms, config.segment_ms) = (1_000, Some(5_000)));
    let (rig, log) = open(22, config);
    write(&rig, &log, "x=1 y=1 a=1 b=1 a b");
    for _ in 0..3 {
        rig.clock.advance(Duration::from_secs(10));
        compact(&log);
    }
    assert_eq!(shown(&log), "0:x=1 1:y=1");
    for offset in 2..6 {
        let read = log.read(a(), offset, 1, true).expect("it reads");
        let (header, _) = split(&read.batches).next().expect("a batch").expect("whole");
        assert_eq!((header.record_count, header.next_offset(), read.next_offset), (0, 6, 6), "from {offset}");
    }
    assert!(log.read(a(), 6, 1, true).expect("it reads").batches.is_empty());
    let log = restart(&rig, log, config);
    write(&rig, &log, "c=1");
    assert_eq!(shown(&log), "0:x=1 1:y=1 6:c=1");
}

#[test]
fn a_delete_horizon_that_a_producer_claims_counts_for_nothing() {
    let (rig, log) = open(5, with(|config| config.delete_retention_ms = 60_000));
    let mut batch = keyed(Compression::None, &[("a", None)], 5, None).to_vec();
    // Attribute bit 6: the base timestamp, 5, becomes a horizon that is long over.
    batch[22] |= 1 << 6;
    let crc = crc_fast::crc32_iscsi(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    put(&log, batch.into());
    write(&rig, &log, "b=1 c=1 d=1 e=1");
    compact(&log);
    assert_eq!(shown(&log), "0:a 1:b=1 2:c=1 3:d=1 4:e=1");
    assert_eq!(records_from(&log, a(), 0).expect("it reads")[0].timestamp, 5);
    rig.clock.advance(Duration::from_secs(60));
    compact(&log);
    assert_eq!(shown(&log), "1:b=1 2:c=1 3:d=1 4:e=1");
}

#[test]
fn young_records_stay_and_old_ones_do_not_wait_for_long() {
    let (rig, log) = open(6, with(|config| config.min_lag_ms = 10_000));
    write(&rig, &log, "a=1 a=2 a=3 a=4 a=5 a=6 a=7");
    assert_eq!(compact(&log).segments, 0);
    rig.clock.advance(Duration::from_secs(10));
    compact(&log);
    assert_eq!(shown(&log), "5:a=6 6:a=7");

    // Clean for the most part: only the largest lag makes it due, and seals the active segment for that.
    let (rig, log) = open(6, with(|config| (config.min_dirty_millionths, config.max_lag_ms) = (900_000, Some(30_000))));
    write(&rig, &log, "a=1 b=1 c=1 d=1 e=1 f=1 g=1 h=1 i=1 j=1 k=1 l=1");
    assert_eq!(compact(&log).runs, 1);
    write(&rig, &log, "a=2 b=2");
    assert_eq!(compact(&log).runs, 0);
    rig.clock.advance(Duration::from_millis(30_001));
    compact(&log);
    assert_eq!(shown(&log), "2:c=1 3:d=1 4:e=1 5:f=1 6:g=1 7:h=1 8:i=1 9:j=1 10:k=1 11:l=1 12:a=2 13:b=2");
    // The segment that was begun for it is used.
    write(&rig, &log, "z=1");
    assert!(shown(&log).ends_with("13:b=2 14:z=1"));
    let log = restart(&rig, log, compacted(SEGMENT));
    assert!(shown(&log).ends_with("13:b=2 14:z=1"));
}

#[test]
fn a_partition_is_due_when_enough_of_it_is_dirty() {
    let (rig, log) = open(7, with(|config| config.min_dirty_millionths = 500_000));
    write(&rig, &log, "a=1 b=1 c=1 d=1 e=1 f=1 g=1");
    assert_eq!(compact(&log).runs, 1);
    write(&rig, &log, "a=2 b=2 c=2");
    assert_eq!(compact(&log).runs, 0, "three records of nine");
    write(&rig, &log, "d=2 e=2 f=2");
    assert_eq!(compact(&log).runs, 1, "six of twelve");
    assert_eq!(shown(&log), "5:f=1 6:g=1 7:a=2 8:b=2 9:c=2 10:d=2 11:e=2 12:f=2");
}

#[test]
fn nothing_at_or_above_a_hold_goes_whenever_it_begins() {
    let (rig, log) = open(8, compacted(SEGMENT));
    write(&rig, &log, "a=1 a=2 a=3 a=4 a=5 a=6 a=7 a=8 a=9 a=10");
    let hold = log.hold(a(), 4);
    let report = compact(&log);
    assert_eq!(report.held_partitions, 1);
    assert_eq!(shown(&log), "2:a=3 3:a=4 4:a=5 5:a=6 6:a=7 7:a=8 8:a=9 9:a=10");
    hold.advance(6);
    compact(&log);
    assert_eq!(shown(&log), "5:a=6 6:a=7 7:a=8 8:a=9 9:a=10");
    drop(hold);
    // One that begins while a run is under way, at every step of it.
    for steps in 0..20 {
        let (rig, log) = open(8, compacted(SEGMENT));
        write(&rig, &log, "a=1 a=2 a=3 a=4 a=5 a=6 a=7 a=8 a=9 a=10");
        for _ in 0..steps {
            log.compact(1);
        }
        let _hold = log.hold(a(), 1);
        let before: Vec<_> = records_from(&log, a(), 1).expect("it reads");
        compact(&log);
        assert_eq!(records_from(&log, a(), 1).expect("it reads"), before, "after {steps} steps");
    }
}

/// One round of everything: superseded, tombstones, codecs, several segments.
fn filled(rig: &Rig, config: PartitionConfig) -> Log {
    let log = reopen(rig, config);
    write(rig, &log, "a=1 b=1 c=1 a=2 b c=2 d=1 e=1 a=3");
    put(&log, keyed(Compression::Zstd, &[("d", Some("2")), ("f", Some("1")), ("a", Some("4"))], 5, None));
    write(rig, &log, "g=1 a=5 h=1 i=1");
    log
}

#[test]
fn the_old_or_the_new_segments_rule_whenever_the_power_goes() {
    let config = compacted(SEGMENT);
    let (before, after) = {
        let rig = Rig::new(9);
        let log = filled(&rig, config);
        let before = shown(&log);
        compact(&log);
        (before, shown(&log))
    };
    assert_ne!(before, after);
    let (mut crashes, mut ruled) = (0, [0, 0]);
    for seed in 0..6 {
        for at in 1.. {
            let rig = Rig::new(seed);
            let log = filled(&rig, config);
            rig.disk.crash_after(at);
            while !log.compact(90).is_done {}
            if !rig.disk.is_off() {
                break;
            }
            crashes += 1;
            drop(log);
            rig.disk.crash();
            // Recovery is cut short, too.
            for again in 1..=at % 4 {
                rig.disk.crash_after(again * 3);
                drop(Log::open(rig.disk.mount(), rig.clock.clone(), rig.config));
                rig.disk.crash();
            }
            let log = reopen(&rig, config);
            let now = shown(&log);
            assert!(now == before || now == after, "seed {seed}, operation {at}: {now}");
            ruled[usize::from(now == after)] += 1;
            let named = scrubbed(&rig).segments;
            let files = rig.disk.files();
            let logs = files.iter().filter(|path| path.starts_with("topics/") && path.ends_with(".log")).count();
            assert_eq!(logs as u64, named, "seed {seed}, operation {at}: {files:?}");
            compact(&log);
            assert_eq!(shown(&log), after, "seed {seed}, operation {at}");
        }
    }
    assert!(crashes > 60 && ruled[0] > 0 && ruled[1] > 0, "{crashes} crashes, {ruled:?}");
}

fn scrubbed(rig: &Rig) -> mainstem_log::ScrubReport {
    let report = mainstem_log::scrub(rig.disk.clone(), rig.clock.clone(), rig.config, &mut |_| ()).expect("scrubs");
    assert_eq!(report.damage, []);
    report
}

#[test]
fn every_flipped_bit_of_a_compacted_segment_is_found() {
    let rig = Rig::new(10);
    let log = filled(&rig, compacted(SEGMENT));
    compact(&log);
    log.stop();
    drop(log);
    let files = rig.disk.snapshot();
    let is_compacted = |path: &&String| path.ends_with(".log") && path.contains('-') && path.contains("-0000000");
    let mut flips = 0;
    for path in files.keys().filter(is_compacted) {
        for bit in 0..files[path].len() as u64 * 8 {
            rig.disk.corrupt(path, bit / 8, 1 << (bit % 8)).expect("flips");
            let report = mainstem_log::scrub(rig.disk.clone(), rig.clock.clone(), rig.config, &mut |_| ());
            assert!(report.is_ok_and(|report| !report.damage.is_empty()), "bit {bit} of {path}");
            rig.disk.corrupt(path, bit / 8, 1 << (bit % 8)).expect("flips back");
            flips += 1;
        }
    }
    assert!(flips > 2_000, "{flips} bits in {:?}", files.keys());
}

#[test]
fn a_reader_that_is_behind_goes_on_across_the_swap() {
    let (rig, log) = open(11, compacted(SEGMENT));
    write(&rig, &log, "a=1 b=1 a=2 b=2 c=1 a=3 b=3 d=1 a=4 e=1");
    let read = log.read(a(), 0, 1, true).expect("it reads");
    assert_eq!(read.next_offset, 1);
    while !log.compact(1).is_done {
        // At each step a reader in the middle finds the old or the new, never less than the last of each key.
        let values: Vec<i64> =
            records_from(&log, a(), read.next_offset).expect("it reads").iter().map(|r| r.offset).collect();
        for last in [4, 6, 7, 8, 9] {
            assert!(values.contains(&last), "{values:?}");
        }
    }
    assert_eq!(shown(&log), "4:c=1 6:b=3 7:d=1 8:a=4 9:e=1");
}

#[test]
fn readers_writers_and_compaction_do_not_disturb_one_another_on_a_real_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Arc::new(RealDisk::new(dir.path()).expect("a disk"));
    let config = LogConfig { commit_file_bytes: 1 << 20, checkpoint_bytes: 256 << 10, ..LogConfig::default() };
    let (log, _) = Log::open(disk, Arc::new(SystemClock::default()), config).expect("it opens");
    log.create_partition(a(), compacted(16 << 10));
    let threads = log.start();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (log, is_over) = (&log, &is_over);
        let compactor = scope.spawn(move || {
            let mut removed = 0;
            while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                removed += log.compact(64 << 10).records_removed;
            }
            removed
        });
        for _ in 0..2 {
            scope.spawn(move || {
                while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                    let mut last = -1;
                    for record in records_from(log, a(), 0).expect("it reads") {
                        assert!(record.offset > last);
                        last = record.offset;
                        assert_eq!(record.value.expect("a value"), record.offset.to_string());
                    }
                }
            });
        }
        for i in 0..3_000_i64 {
            let key = (i % 50).to_string();
            put(log, keyed(Compression::None, &[(&key, Some(&i.to_string()))], 5, None));
        }
        is_over.store(true, std::sync::atomic::Ordering::Release);
        assert!(compactor.join().expect("it compacts") > 1_000);
    });
    drop(threads);
    while !log.compact(1 << 20).is_done {}
    let offsets: Vec<i64> = records_from(&log, a(), 0).expect("it reads").iter().map(|record| record.offset).collect();
    assert!(offsets.ends_with(&(2_950..3_000).collect::<Vec<_>>()));
}

#[test]
fn compressed_batches_stay_compressed_and_what_stays_in_them_stays() {
    for codec in Compression::ALL {
        let (rig, log) = open(12, compacted(SEGMENT));
        let value = "v".repeat(50);
        put(&log, keyed(codec, &[("a", Some("1")), ("b", Some(&value)), ("c", Some("1"))], 7, None));
        put(&log, keyed(codec, &[("a", Some("2")), ("c", None), ("d", Some(&value))], 8, None));
        write(&rig, &log, "x=1 y=1 z=1 w=1");
        compact(&log);
        let expected = format!("1:b={value} 3:a=2 4:c 5:d={value} 6:x=1 7:y=1 8:z=1 9:w=1");
        assert_eq!(shown(&log), expected, "{codec:?}");
        let headers = headers(&log);
        assert_eq!(headers[0].compression(), Ok(codec));
        assert_eq!((headers[0].base_offset, headers[0].next_offset(), headers[0].record_count), (0, 3, 1));
        assert!(headers[1].delete_horizon_ms().is_some(), "it has a tombstone");
        let times: Vec<i64> = records_from(&log, a(), 0).expect("it reads").iter().map(|r| r.timestamp).collect();
        assert_eq!(times[..4], [7, 8, 8, 8]);
    }
}

#[test]
fn retries_of_a_producers_last_batches_are_answered_after_compaction_and_restart() {
    let config = compacted(SEGMENT);
    let (rig, log) = open(13, config);
    let sent = |i: i32| keyed(Compression::None, &[("a", Some("v"))], 5, Some((7, 0, i)));
    for i in 0..6 {
        put(&log, sent(i));
    }
    write(&rig, &log, "b=1 a=2 c=1 d=1");
    compact(&log);
    assert_eq!(shown(&log), "6:b=1 7:a=2 8:c=1 9:d=1");
    let log = restart(&rig, log, config);
    for i in 1..6 {
        assert_eq!(put(&log, sent(i)), i64::from(i), "the offset of the first time");
    }
    let gap = log.append_and_wait(entry(vec![(a(), sent(9))]), Urgency::Ordinary).expect_err("a gap");
    let mainstem_log::AppendError::Part { error, .. } = gap else { panic!("{gap}") };
    assert_eq!(error, PartError::OutOfOrderSequence { expected: 6, got: 9 });
    assert_eq!(put(&log, sent(6)), 10);
}

#[test]
fn keys_that_do_not_fit_the_map_take_several_runs() {
    let mut rig = Rig::new(14);
    rig.config.compaction_map_bytes = 0;
    let config = compacted(2_000);
    let log = reopen(&rig, config);
    for round in 0..4 {
        for key in 0..100 {
            put(&log, keyed(Compression::None, &[(&key.to_string(), Some(&round.to_string()))], 5, None));
        }
    }
    put(&log, keyed(Compression::None, &[("end", Some(&"x".repeat(1_950)))], 5, None));
    let report = compact(&log);
    assert!(report.runs > 4, "{report:?}");
    let records = records_from(&log, a(), 0).expect("it reads");
    let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (300..401).collect::<Vec<_>>());
}

#[test]
fn batches_of_transactions_and_control_batches_are_not_broken() {
    let (rig, log) = open(15, compacted(SEGMENT));
    let transactional = |key: &str, value: Option<&str>, sequence| {
        let mut builder = RecordBatchBuilder::new(Compression::None).producer(9, 0, sequence).transactional();
        builder.append(5, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
        builder.build()
    };
    write(&rig, &log, "a=1 k=1");
    put(&log, transactional("a", Some("2"), 0));
    put(&log, transactional("b", None, 1));
    // A marker: key and value are numbers, and no marker supersedes another.
    let mut marker = keyed(Compression::None, &[("k", Some("commit"))], 5, None).to_vec();
    marker[22] |= 0b11_0000;
    let crc = crc_fast::crc32_iscsi(&marker[21..]);
    marker[17..21].copy_from_slice(&crc.to_be_bytes());
    put(&log, marker.clone().into());
    put(&log, marker.into());
    write(&rig, &log, "c=1 d=1 e=1 f=1 g=1");
    rig.clock.advance(Duration::from_secs(1_000_000));
    compact(&log);
    compact(&log);
    // Nobody knows here whether it was committed: it supersedes nothing, and its tombstone stays.
    let expected = "0:a=1 1:k=1 2:a=2 3:b 4:k=commit 5:k=commit 6:c=1 7:d=1 8:e=1 9:f=1 10:g=1";
    assert_eq!(shown(&log), expected);
    // What is superseded by a record that counts goes in either case; its place in the transaction stays.
    write(&rig, &log, "a=3 k=2 x=1 y=1 z=1");
    compact(&log);
    assert!(shown(&log).starts_with("3:b 4:k=commit 5:k=commit 6:c=1"), "{}", shown(&log));
    let headers = headers(&log);
    assert!(headers[1].is_control() && headers[2].is_control());
    scrubbed(&rig);
    let stored: Vec<u8> =
        rig.disk.snapshot().into_iter().filter(|(path, _)| path.contains("-00000")).flat_map(|f| f.1).collect();
    let of = BatchHeader { base_offset: 2, last_offset_delta: 0, ..headers[0] };
    let empty = empty_batch(2, 0, Some(&BatchHeader { base_sequence: 0, ..of }));
    assert!(stored.windows(empty.len()).any(|window| window == &empty[..]), "an empty batch of its producer is left");
}

#[test]
fn records_without_a_key_stay() {
    let (_, log) = open(16, compacted(SEGMENT));
    for i in 0..8 {
        append(&log, a(), &format!("value-{i}"));
    }
    compact(&log);
    assert_eq!(text_of(&log, a()).split(' ').count(), 8);
}

#[test]
fn damage_is_found_and_not_written_anew() {
    let (rig, log) = open(17, compacted(SEGMENT));
    write(&rig, &log, "a=1 b=1 c=precious a=2 d=1 e=1 f=1");
    log.checkpoint().expect("a checkpoint");
    let path = rig.file(|path| path.starts_with("topics/") && path.ends_with("/00000000000000000000.log"));
    rig.disk.corrupt(&path, rig.find(&path, "precious"), 1).expect("flips");
    let report = compact(&log);
    assert_eq!((report.segments, report.runs_abandoned), (0, 1));
    assert_eq!(log.counters().damaged_partitions, 1);
    assert!(matches!(log.read(a(), 2, 100, true), Err(ReadError::Damaged { offset: 2, .. })));
    assert_eq!(records_from(&log, a(), 0).map(|records| records.len()).ok(), None);
    assert_eq!(log.read(a(), 0, 1 << 20, true).expect("it reads").next_offset, 2);
}

#[test]
fn retention_and_deletion_of_records_go_on_in_compacted_segments() {
    let config = PartitionConfig { retention_ms: Some(100_000), ..compacted(SEGMENT) };
    let (rig, log) = open(18, config);
    write(&rig, &log, "a=1 b=1 a=2 c=1 d=1 a=3");
    rig.clock.advance(Duration::from_secs(200));
    write(&rig, &log, "e=1 f=1 g=1 h=1");
    compact(&log);
    assert_eq!(shown(&log), "1:b=1 3:c=1 4:d=1 5:a=3 6:e=1 7:f=1 8:g=1 9:h=1");
    // A start inside a compacted segment, inside a hole.
    assert_eq!(log.delete_records(a(), Some(2)).expect("it deletes"), 2);
    assert_eq!(shown(&log), "3:c=1 4:d=1 5:a=3 6:e=1 7:f=1 8:g=1 9:h=1");
    let report = log.apply_retention();
    assert!(report.segments > 0);
    assert_eq!(shown(&log), "6:e=1 7:f=1 8:g=1 9:h=1");
    let log = restart(&rig, log, config);
    assert_eq!(shown(&log), "6:e=1 7:f=1 8:g=1 9:h=1");
    assert_eq!(log.partition(a()).expect("it is there").start_offset, 6);
    // Retention in the midst of a run.
    for steps in 0..16 {
        let (rig, log) = open(18, config);
        write(&rig, &log, "a=1 b=1 a=2 c=1 d=1 a=3 e=1 f=1 g=1 h=1");
        for _ in 0..steps {
            log.compact(1);
        }
        rig.clock.advance(Duration::from_secs(200));
        log.apply_retention();
        compact(&log);
        assert_eq!(shown(&log), "9:h=1", "after {steps} steps");
        scrubbed(&rig);
    }
}

#[test]
fn a_topic_can_go_in_the_midst_of_a_run() {
    for steps in 0..24 {
        let (rig, log) = open(19, compacted(SEGMENT));
        write(&rig, &log, "a=1 b=1 a=2 c=1 d=1 a=3 e=1 f=1");
        for _ in 0..steps {
            log.compact(1);
        }
        log.delete_topic(a().topic, 1);
        if steps % 2 == 0 {
            log.checkpoint().expect("a checkpoint");
        }
        compact(&log);
        log.checkpoint().expect("a checkpoint");
        let left = rig.disk.files().into_iter().find(|path| path.starts_with("topics/"));
        assert_eq!(left, None, "after {steps} steps");
        assert_eq!(log.failure(), None);
    }
}

#[test]
fn a_disk_without_space_or_that_fails_costs_nothing() {
    let (rig, log) = open(20, compacted(SEGMENT));
    write(&rig, &log, "a=1 b=1 a=2 c=1 d=1 a=3 e=1 f=1");
    let before = shown(&log);
    log.checkpoint().expect("a checkpoint");
    let used: usize = rig.disk.snapshot().values().map(Vec::len).sum();
    rig.disk.set_capacity(Some(used as u64 + 100));
    let report = compact(&log);
    assert_eq!((report.segments, report.runs_abandoned), (0, 1));
    assert_eq!(shown(&log), before);
    rig.disk.set_capacity(None);
    rig.disk.fail_nth(FaultKind::Write, 3);
    assert_eq!(compact(&log).runs_abandoned, 1);
    assert_eq!((shown(&log), log.failure()), (before, None));
    compact(&log);
    assert_eq!(shown(&log), "1:b=1 3:c=1 4:d=1 5:a=3 6:e=1 7:f=1");
    // A sync that fails leaves nobody sure of anything: the log stops, as with any other.
    let (rig, log) = open(20, compacted(SEGMENT));
    write(&rig, &log, "a=1 b=1 a=2 c=1 d=1 a=3 e=1 f=1");
    log.checkpoint().expect("a checkpoint");
    rig.disk.fail_nth(FaultKind::Sync, 1);
    compact(&log);
    assert!(log.failure().is_some_and(|why| why.contains("topics/")));
    let log = restart(&rig, log, compacted(SEGMENT));
    compact(&log);
    assert_eq!(shown(&log), "1:b=1 3:c=1 4:d=1 5:a=3 6:e=1 7:f=1");
}

#[test]
fn an_ordinary_partition_is_left_alone() {
    let (rig, log) = open(21, segments(SEGMENT));
    write(&rig, &log, "a=1 a=2 a=3 a=4 a=5 a=6 a=7");
    assert_eq!(compact(&log).runs, 0);
    assert_eq!(shown(&log).split(' ').count(), 7);
}
