//! What the log promises its callers while nothing goes wrong.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_disk::{RealDisk, SystemClock};
use mainstem_log::{
    AppendError, Atomicity, Condition, Csn, Entry, Log, LogConfig, Part, PartError, PartitionConfig, ReadError, Urgency,
};
use parking_lot::Mutex;

use crate::rig::{Rig, append, batch, entry, partition, read_from, segments, text_of, words};

#[test]
fn records_are_read_at_the_offsets_they_were_given() {
    let rig = Rig::new(1);
    let (a, b) = (partition(1, 0), partition(1, 1));
    let (log, report) = rig.open(&[a, b]);
    assert_eq!(report.last, Csn::ZERO);
    assert_eq!(append(&log, a, "one two three"), 0);
    assert_eq!(append(&log, b, "eins"), 0);
    assert_eq!(append(&log, a, "four"), 3);
    assert_eq!(text_of(&log, a), "one two three four");
    let state = log.partition(a).unwrap();
    assert_eq!((state.start_offset, state.high_watermark, state.end_offset, state.max_timestamp), (0, 4, 4, 1_000));
    // An offset inside a batch brings the whole batch.
    let read = log.read(a, 1, 1, true).unwrap();
    assert_eq!((read.next_offset, read.high_watermark), (3, 4));
    assert!(log.read(a, 1, 1, false).unwrap().batches.is_empty());
    assert_eq!(log.read_until(a, 0, 3, 1 << 20).unwrap().next_offset, 3);
    assert!(matches!(log.read(a, 5, 1, true), Err(ReadError::OutOfRange { start: 0, end: 4, .. })));
    assert!(matches!(log.read(partition(9, 0), 0, 1, true), Err(ReadError::UnknownPartition(_))));
}

#[test]
fn nothing_is_visible_or_answered_before_it_is_committed() {
    let rig = Rig::new(2);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    let told = Arc::new(Mutex::new(Vec::new()));
    for word in ["x", "y"] {
        let told = Arc::clone(&told);
        let done = Box::new(move |result: Result<Csn, _>| told.lock().push(result.unwrap()));
        log.append(entry(vec![(a, words(word))]), Urgency::Ordinary, done).unwrap();
    }
    let state = log.partition(a).unwrap();
    assert_eq!((state.high_watermark, state.end_offset), (0, 2));
    assert!(log.read(a, 0, 100, true).unwrap().batches.is_empty());
    assert!(log.order(Csn::ZERO, Csn(9), 10).unwrap().is_empty());
    let advanced = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&advanced);
    log.on_advance(Box::new(move |csn, partitions| heard.lock().push((csn, partitions.to_vec()))));
    assert!(log.commit_once());
    assert!(!log.commit_once());
    assert_eq!(*told.lock(), [Csn(1), Csn(2)]);
    assert_eq!(*advanced.lock(), [(Csn(2), vec![(a, 2)])]);
    assert_eq!(log.visible(), Csn(2));
}

#[test]
fn a_whole_entry_stands_or_falls_and_each_part_goes_alone() {
    let rig = Rig::new(3);
    let (a, gone) = (partition(1, 0), partition(1, 7));
    let (log, _) = rig.open(&[a]);
    let mut both = entry(vec![(a, words("x")), (gone, words("y"))]);
    let error = log.append_and_wait(both.clone(), Urgency::Ordinary).unwrap_err();
    assert!(matches!(error, AppendError::Part { index: 1, error: PartError::UnknownPartition }));
    assert_eq!(log.partition(a).unwrap().end_offset, 0);
    both.atomicity = Atomicity::EachPart;
    let accepted = log.append_and_wait(both, Urgency::Ordinary).unwrap();
    assert_eq!(accepted.csn, Csn(1));
    assert_eq!(accepted.parts[0].unwrap().base_offset, 0);
    assert_eq!(accepted.parts[1], Err(PartError::UnknownPartition));
    let mut none = entry(vec![(gone, words("y"))]);
    none.atomicity = Atomicity::EachPart;
    assert_eq!(log.append_and_wait(none, Urgency::Ordinary).unwrap().csn, Csn(1));
    let torn = Part { to: a, batches: words("x").slice(..40) };
    let torn = Entry { parts: vec![torn], conditions: Vec::new(), atomicity: Atomicity::Whole };
    let error = log.append_and_wait(torn, Urgency::Ordinary).unwrap_err();
    assert!(matches!(error, AppendError::Part { error: PartError::CorruptBatch, .. }));
    let large = entry(vec![(a, batch(&[vec![0; 9 << 10]], 0, None))]);
    assert!(matches!(log.append_and_wait(large, Urgency::Ordinary), Err(AppendError::TooLarge { .. })));
}

#[test]
fn a_condition_is_judged_against_what_is_accepted() {
    let rig = Rig::new(4);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    let mut first = entry(vec![(a, words("x"))]);
    first.conditions = vec![Condition::EndOffset { of: a, is: 0 }];
    log.append(first.clone(), Urgency::Ordinary, Box::new(|_| {})).unwrap();
    // Not yet durable, but it counts.
    let again = log.append(first.clone(), Urgency::Ordinary, Box::new(|_| {}));
    assert!(matches!(again, Err(AppendError::Conflict(_))));
    first.conditions = vec![Condition::Guard(Arc::new(|csn| if csn == Csn(2) { Err("late".into()) } else { Ok(()) }))];
    let guarded = log.append(first, Urgency::Ordinary, Box::new(|_| {}));
    assert!(matches!(guarded, Err(AppendError::Conflict(why)) if why == "late"));
    assert_eq!(log.partition(a).unwrap().end_offset, 1);
}

#[test]
fn the_order_names_every_step_and_the_ends_at_any_csn() {
    let mut rig = Rig::new(5);
    rig.config.commit_file_bytes = 4 << 10;
    let (a, b) = (partition(1, 0), partition(2, 0));
    let (log, _) = rig.open(&[a, b]);
    let check = |log: &Log| {
        let mut after = Csn::ZERO;
        let mut steps = Vec::new();
        loop {
            let some = log.order(after, Csn(u64::MAX), 3).unwrap();
            let Some(last) = some.last() else { break };
            assert!(some.len() <= 3);
            after = last.csn;
            steps.extend(some.iter().map(|step| (step.csn.0, step.partition == a, step.end_offset)));
        }
        let expected: Vec<_> = (1..=40).flat_map(|i| [(i, true, i as i64), (i, false, 2 * i as i64)]).collect();
        assert_eq!(steps, expected);
        for csn in 0..=40 {
            assert_eq!(log.ends_at(Csn(csn), &[b, a]).unwrap(), [2 * csn as i64, csn as i64], "at {csn}");
        }
        assert_eq!(log.order(Csn(3), Csn(5), 1).unwrap().len(), 2, "an entry is never split");
        assert_eq!(log.order(Csn(3), Csn(5), 100).unwrap().len(), 4);
    };
    for _ in 0..40 {
        let both = entry(vec![(a, words("x")), (b, words("y z"))]);
        log.append_and_wait(both, Urgency::Ordinary).unwrap();
    }
    check(&log);
    drop(log);
    rig.disk.crash();
    let (log, report) = rig.open(&[a, b]);
    assert_eq!(report.last, Csn(40));
    check(&log);
}

#[test]
fn offsets_are_found_by_time_across_segments() {
    let rig = Rig::new(6);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    for i in 0..60 {
        let values = vec![vec![b'v'; 100], vec![b'w'; 100]];
        let sent = entry(vec![(a, batch(&values, 1_000 + i * 10, None))]);
        log.append_and_wait(sent, Urgency::Ordinary).unwrap();
    }
    for (asked, found) in [(0, Some((0, 1_000))), (1_005, Some((2, 1_010))), (1_590, Some((118, 1_590))), (1_591, None)]
    {
        assert_eq!(log.offset_for_timestamp(a, asked).unwrap(), found, "{asked}");
    }
}

#[test]
fn retention_removes_whole_segments_and_stops_at_holds() {
    let rig = Rig::new(7);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[]);
    let config = PartitionConfig { retention_bytes: Some(1_500), ..segments(1_000) };
    log.create_partition(a, config);
    for i in 0..30 {
        append(&log, a, &format!("value-{i}-{}", "x".repeat(100)));
    }
    let hold = log.hold(a, 6);
    log.apply_retention();
    let start = log.partition(a).unwrap().start_offset;
    assert!(start > 0 && start <= 6, "starts at {start}");
    assert!(matches!(log.read(a, 0, 100, true), Err(ReadError::OutOfRange { .. })));
    drop(hold);
    let report = log.apply_retention();
    assert!(report.segments > 0 && report.bytes > 0);
    let state = log.partition(a).unwrap();
    // As Kafka: at least so much stays, and less than a segment more.
    assert!((1_500..2_500).contains(&state.bytes) && state.start_offset > 6, "{state:?}");
    let left = read_from(&log, a, state.start_offset).unwrap();
    drop(log);
    rig.disk.crash();
    let (log, report) = rig.open(&[a]);
    assert_eq!(report.damage, []);
    assert_eq!(log.partition(a).unwrap().start_offset, state.start_offset);
    assert_eq!(read_from(&log, a, state.start_offset).unwrap(), left);
}

#[test]
fn a_stop_with_many_segments_to_sync_leaves_that_to_the_next_start_and_loses_nothing() {
    for (partitions, is_left) in [(256, false), (257, true)] {
        let mut rig = Rig::new(18);
        rig.config.commit_file_bytes = 1 << 20;
        rig.config.checkpoint_bytes = 1 << 20;
        rig.config.entry_bytes_max = 1 << 20;
        let all: Vec<_> = (0..partitions).map(|n| partition(1, n)).collect();
        let (log, _) = rig.open(&all);
        let parts = all.iter().map(|at| (*at, words("first second"))).collect();
        log.append_and_wait(entry(parts), Urgency::Ordinary).unwrap();
        append(&log, all[0], "third");
        log.stop();
        assert_eq!(log.counters().checkpoints, u64::from(!is_left), "{partitions} partitions");
        drop(log);
        rig.disk.crash();
        let (log, report) = rig.open(&all);
        assert_eq!((report.entries_applied, report.torn_bytes_cut), (if is_left { 2 } else { 0 }, 0));
        assert_eq!(report.damage, []);
        assert_eq!(text_of(&log, all[0]), "first second third");
        for at in &all[1..] {
            assert_eq!(text_of(&log, *at), "first second");
        }
    }
}

#[test]
fn opening_reads_what_follows_the_checkpoint_only() {
    let rig = Rig::new(8);
    let a = partition(1, 0);
    let (log, _) = rig.open(&[a]);
    for _ in 0..400 {
        append(&log, a, &"y".repeat(900));
    }
    log.stop();
    assert!(matches!(
        log.append_and_wait(entry(vec![(a, words("x"))]), Urgency::Ordinary),
        Err(AppendError::Stopped(_))
    ));
    drop(log);
    let (log, report) = rig.open(&[a]);
    assert_eq!(report.entries_applied, 0);
    assert!(report.bytes_scanned <= rig.config.commit_file_bytes, "{report:?}");
    assert_eq!(log.partition(a).unwrap().high_watermark, 400);
}

#[test]
fn many_threads_append_to_a_real_disk_and_nothing_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let disk = Arc::new(RealDisk::new(dir.path()).unwrap());
        let config = LogConfig { commit_file_bytes: 1 << 20, checkpoint_bytes: 1 << 20, ..LogConfig::default() };
        let (log, report) = Log::open(disk, Arc::new(SystemClock::default()), config).unwrap();
        for number in 0..4 {
            log.create_partition(partition(1, number), segments(300_000));
        }
        (log, report)
    };
    let (log, _) = open();
    let threads = log.start();
    std::thread::scope(|scope| {
        for writer in 0..4u32 {
            let log = &log;
            scope.spawn(move || {
                for i in 0..200u32 {
                    let value = [writer.to_le_bytes(), i.to_le_bytes()].concat();
                    let values = vec![value.clone(), vec![0; 1_500]];
                    let to = partition(1, i32::try_from(i % 4).unwrap());
                    log.append_and_wait(entry(vec![(to, batch(&values, 5, None))]), Urgency::Ordinary).unwrap();
                }
            });
        }
    });
    drop(threads);
    let collect = |log: &Log| {
        let mut all = Vec::new();
        for number in 0..4 {
            let values = read_from(log, partition(1, number), 0).unwrap();
            assert_eq!(values.len(), 400);
            all.extend(values.into_iter().map(|(_, value)| value).filter(|value| value.len() == 8));
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 800);
    };
    collect(&log);
    assert!(log.counters().checkpoints > 0);
    drop(log);
    let (log, report) = open();
    assert_eq!(report.last, Csn(800));
    assert_eq!(report.damage, []);
    collect(&log);
}

#[test]
fn an_entry_that_is_too_large_for_a_block_is_visible_as_a_whole() {
    let rig = Rig::new(21);
    let of = [partition(1, 0), partition(1, 1), partition(2, 0)];
    let (log, _) = rig.open(&of);
    append(&log, of[0], "before");
    let batches = |number: usize| {
        let all: Vec<u8> = (0..6).flat_map(|i| batch(&[vec![i + 10 * number as u8; 1_500]], 5, None)).collect();
        Bytes::from(all)
    };
    let large = || entry(of.iter().enumerate().map(|(number, id)| (*id, batches(number))).collect());
    let refused = log.append(Entry { atomicity: Atomicity::EachPart, ..large() }, Urgency::Ordinary, Box::new(|_| {}));
    assert!(matches!(refused, Err(AppendError::TooLarge { limit: 8_192, .. })), "{refused:?}");
    let one = entry(vec![(of[0], batch(&[vec![0; 9_000]], 5, None))]);
    let refused = log.append(one, Urgency::Ordinary, Box::new(|_| {}));
    assert!(matches!(refused, Err(AppendError::TooLarge { limit: 8_192, .. })), "{refused:?}");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let advanced = Arc::clone(&heard);
    log.on_advance(Box::new(move |csn, partitions| advanced.lock().push((csn, partitions.len()))));
    let accepted = log.append_and_wait(large(), Urgency::Ordinary).unwrap();
    assert_eq!((accepted.csn, &heard.lock()[..]), (Csn(2), &[(Csn(2), 3)][..]), "at once");
    assert_eq!(append(&log, of[0], "after"), 7);
    let steps = log.order(Csn(1), Csn(2), 100).unwrap();
    let ends: Vec<_> = steps.iter().map(|step| (step.partition, step.end_offset)).collect();
    assert_eq!(ends, [(of[0], 7), (of[1], 6), (of[2], 6)]);
    for is_crash in [false, true] {
        if is_crash {
            rig.disk.crash();
        }
        let (log, report) = rig.open(&of);
        assert_eq!((report.last, report.damage.len()), (Csn(3), 0));
        for (number, id) in of.iter().enumerate() {
            let values = read_from(&log, *id, i64::from(number == 0)).unwrap();
            let firsts: Vec<u8> = values.iter().take(6).map(|(_, value)| value[0]).collect();
            let expected: Vec<u8> = (0..6).map(|i| i + 10 * number as u8).collect();
            assert_eq!(firsts, expected);
        }
    }
}
