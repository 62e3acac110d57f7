//! Stored bytes that are not what was written.

use mainstem_disk::{Disk, Open};
use mainstem_log::{AppendError, Csn, Log, PartError, ReadError, Urgency};

use crate::rig::{Rig, append, entry, partition, text_of, words};

const A: (u128, i32) = (1, 0);
const B: (u128, i32) = (2, 0);

/// Appends first-N to A and other-N to B, by turns, `count` times.
fn filled(rig: &Rig, count: usize) {
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    let (log, _) = rig.open(&[a, b]);
    for i in 0..count {
        append(&log, a, &format!("first-{i}"));
        append(&log, b, &format!("other-{i}"));
    }
    log.checkpoint().unwrap();
    append(&log, a, "after-checkpoint");
    append(&log, b, "in-between");
    append(&log, a, "the-last");
}

fn commit_file(rig: &Rig, needle: &str) -> String {
    let holds = |path: &String, bytes: &Vec<u8>| {
        path.starts_with("log/commit-") && bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
    };
    let files = rig.disk.snapshot();
    files.iter().find(|(path, bytes)| holds(path, bytes)).map(|(path, _)| path.clone()).unwrap()
}

fn cut_segment(rig: &Rig, topic: u128, needle: &str) {
    let dir = crate::rig::topic(topic).to_string();
    let path = rig.file(|path| path.contains(&dir) && path.ends_with(".log"));
    let position = rig.find(&path, needle);
    // The batch header and the record's own framing stand before the value.
    let file = rig.disk.open(&path, Open::Write).unwrap();
    file.set_len(position - 61 - 6).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn a_damaged_block_whose_batches_stand_in_the_segment_loses_nothing() {
    let rig = Rig::new(1);
    filled(&rig, 3);
    let path = commit_file(&rig, "after-checkpoint");
    rig.disk.corrupt(&path, rig.find(&path, "after-checkpoint"), 1).unwrap();
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    let (log, report) = rig.open(&[a, b]);
    assert_eq!(report.last, Csn(9));
    assert_eq!(report.torn_bytes_cut, 0);
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert_eq!((report.damage[0].file.as_str(), report.damage[0].partition), (path.as_str(), None));
    assert_eq!(text_of(&log, a), "first-0 first-1 first-2 after-checkpoint the-last");
    assert_eq!(text_of(&log, b), "other-0 other-1 other-2 in-between");
    append(&log, a, "on");
}

#[test]
fn a_damaged_block_without_another_copy_stops_its_partition_only() {
    let rig = Rig::new(2);
    filled(&rig, 3);
    let path = commit_file(&rig, "after-checkpoint");
    rig.disk.corrupt(&path, rig.find(&path, "after-checkpoint"), 1).unwrap();
    cut_segment(&rig, A.0, "after-checkpoint");
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    for _ in 0..2 {
        let (log, report) = rig.open(&[a, b]);
        let named: Vec<_> = report.damage.iter().filter_map(|damage| damage.partition).collect();
        assert_eq!(named, [a], "{report:?}");
        assert_eq!(text_of(&log, b), "other-0 other-1 other-2 in-between");
        assert_eq!(log.partition(a).unwrap().high_watermark, 3);
        assert_eq!(log.read(a, 0, 1 << 20, true).unwrap().next_offset, 3);
        assert!(matches!(log.read(a, 3, 100, true), Err(ReadError::Damaged { offset: 3, .. })));
        let refused = log.append_and_wait(entry(vec![(a, words("x"))]), Urgency::Ordinary).unwrap_err();
        assert!(matches!(refused, AppendError::Part { error: PartError::Damaged, .. }));
        assert_eq!(log.counters().damaged_partitions, 1);
        // The damage is not forgotten by the checkpoint that the next start begins from.
        log.stop();
    }
    let (log, _) = rig.open(&[a, b]);
    append(&log, b, "on");
}

#[test]
fn a_crash_during_recovery_does_not_turn_damage_into_a_torn_tail() {
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    // Power goes at each operation of the recovery in turn, until one comes to its end.
    for operation in 1.. {
        assert!(operation < 1_000, "recovery never comes to its end");
        let rig = Rig::new(100 + operation);
        filled(&rig, 3);
        for path in rig.disk.files() {
            rig.disk.open(&path, Open::Write).unwrap().sync_data().unwrap();
        }
        for dir in ["log", "topics"] {
            rig.disk.sync_dir(dir).unwrap();
        }
        let path = commit_file(&rig, "the-last");
        rig.disk.corrupt(&path, rig.find(&path, "the-last"), 1).unwrap();
        cut_segment(&rig, A.0, "the-last");
        rig.disk.crash_after(operation);
        let is_whole = Log::open(rig.disk.mount(), rig.clock.clone(), rig.config).is_ok() && !rig.disk.is_off();
        rig.disk.crash();
        {
            let (log, report) = rig.open(&[a, b]);
            assert_eq!(report.torn_bytes_cut, 0, "operation {operation}: {report:?}");
            assert!(matches!(log.read(a, 4, 100, true), Err(ReadError::Damaged { offset: 4, .. })), "{report:?}");
            assert_eq!(text_of(&log, b), "other-0 other-1 other-2 in-between");
            append(&log, b, "on");
            let on = log.partition(b).unwrap().high_watermark - 1;
            assert_eq!(log.ends_at(report.last, &[a, b]).unwrap(), [4, on], "operation {operation}");
            rig.disk.crash();
            let (log, _) = rig.open(&[a, b]);
            assert_eq!(log.partition(b).unwrap().high_watermark, on + 1);
        }
        if is_whole {
            break;
        }
    }
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    let a = partition(A.0, A.1);
    let mut seed = 0;
    // The power goes while the block is written, until a crash leaves its head and not its end.
    let report = loop {
        seed += 1;
        let rig = Rig::new(1_000 + seed);
        let (log, _) = rig.open(&[a]);
        append(&log, a, "kept");
        rig.disk.crash_after(1);
        let sent = entry(vec![(a, words(&"torn".repeat(500)))]);
        assert!(matches!(log.append_and_wait(sent, Urgency::Ordinary), Err(AppendError::Stopped(_))));
        rig.disk.crash();
        let (log, report) = rig.open(&[a]);
        assert_eq!(report.damage, [], "seed {seed}");
        if report.last == Csn(1) {
            assert_eq!(text_of(&log, a), "kept");
            if report.torn_bytes_cut > 0 {
                break report;
            }
        }
        assert!(seed < 200, "no crash tore the block");
    };
    assert!(report.torn_bytes_cut >= 2_000, "{report:?}");
}

#[test]
fn a_damaged_sealed_segment_stops_the_partition_at_the_place() {
    let rig = Rig::new(4);
    filled(&rig, 3);
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    let dir = crate::rig::topic(A.0).to_string();
    let path = rig.file(|path| path.contains(&dir) && path.ends_with(".log"));
    let batch = rig.find(&path, "first-1") - 61 - 6;
    // The base offset of the second batch.
    rig.disk.corrupt(&path, batch + 7, 0x40).unwrap();
    let (log, _) = rig.open(&[a, b]);
    assert_eq!(log.read(a, 0, 1 << 20, true).unwrap().next_offset, 1);
    let error = log.read(a, 1, 1 << 20, true).unwrap_err();
    let ReadError::Damaged { offset: 1, place, .. } = error else { panic!("{error}") };
    assert!(place.contains(&path) && place.contains(&batch.to_string()), "{place}");
    assert_eq!(text_of(&log, b), "other-0 other-1 other-2 in-between");
    append(&log, b, "on");
}

#[test]
fn a_segment_shorter_than_the_checkpoint_says_stops_its_partition() {
    let rig = Rig::new(5);
    filled(&rig, 3);
    cut_segment(&rig, A.0, "first-2");
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    let (log, report) = rig.open(&[a, b]);
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert_eq!(report.damage[0].partition, Some(a));
    assert_eq!(log.read(a, 0, 1 << 20, true).unwrap().next_offset, 2);
    assert!(matches!(log.read(a, 2, 100, true), Err(ReadError::Damaged { offset: 2, .. })));
    assert_eq!(text_of(&log, b), "other-0 other-1 other-2 in-between");
}

#[test]
fn flipped_bits_in_index_files_change_no_answer() {
    let a = partition(A.0, A.1);
    let rig = Rig::new(6);
    let (log, _) = rig.open(&[a]);
    for i in 0..80 {
        append(&log, a, &format!("value-{i}-{}", "z".repeat(50)));
    }
    log.stop();
    let expected = text_of(&log, a);
    drop(log);
    let indexes: Vec<(String, usize)> = rig
        .disk
        .snapshot()
        .into_iter()
        .filter(|(path, _)| path.ends_with("index"))
        .map(|(path, bytes)| (path, bytes.len()))
        .collect();
    assert!(indexes.len() > 4, "{indexes:?}");
    for step in 0..40 {
        for (path, len) in &indexes {
            let position = (step * 7 + 3) % len;
            rig.disk.corrupt(path, position as u64, 1 << (step % 8)).unwrap();
        }
        let (log, report) = rig.open(&[a]);
        assert_eq!(report.damage, []);
        assert_eq!(text_of(&log, a), expected);
        assert_eq!(log.offset_for_timestamp(a, 1_000).unwrap(), Some((0, 1_000)));
        for offset in [1, 33, 79] {
            assert_eq!(log.read(a, offset, 1, true).unwrap().next_offset, offset + 1);
        }
    }
}
