//! Stored bytes that are not what was written.

use mainstem_disk::{Disk, Open};
use mainstem_kafka_wire::batch::split;
use mainstem_kafka_wire::records::records;
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

/// Two batches for each of two partitions, each in a block of its own, and an entry for each behind it.
fn spooled(rig: &Rig) {
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    let (log, _) = rig.open(&[a, b]);
    append(&log, a, "before-a");
    let large = |word: &str| words(&format!("{word}-{}", "x".repeat(400)));
    let two = |of: &str| [large(&format!("{of}-first")), large(&format!("{of}-second"))].concat();
    let parts = vec![(a, two("a").into()), (b, two("b").into())];
    log.append_and_wait(entry(parts), Urgency::Ordinary).unwrap();
    append(&log, b, "later-b");
    append(&log, a, "later-a");
}

/// The values before an offset.
fn text_up_to(log: &Log, id: mainstem_log::TopicPartition, end: i64) -> String {
    let mut words = Vec::new();
    let mut next = 0;
    while next < end {
        let read = log.read_until(id, next, end, 1 << 20).unwrap();
        for found in split(&read.batches) {
            for record in records(&found.unwrap().1).unwrap() {
                words.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
        }
        next = read.next_offset;
    }
    words.join(" ")
}

#[test]
fn a_damaged_block_of_a_spooled_entry_stops_only_those_whose_batches_it_held() {
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    for needle in ["a-first", "a-second", "b-first", "b-second"] {
        for is_cut in [false, true] {
            let mut rig = Rig::new(7);
            rig.config.entry_bytes_max = 1 << 10;
            spooled(&rig);
            let path = commit_file(&rig, needle);
            rig.disk.corrupt(&path, rig.find(&path, needle), 1).unwrap();
            if is_cut {
                cut_segment(&rig, if needle.starts_with('a') { A.0 } else { B.0 }, needle);
            }
            for life in 0..2 {
                let (log, report) = rig.open(&[a, b]);
                // What was healed is whole again.
                assert_eq!(report.damage.is_empty(), life == 1 && !is_cut, "{report:?}");
                let text = |id| {
                    let (state, damage) = (log.partition(id).unwrap(), log.damage(id));
                    let all = text_up_to(&log, id, damage.map_or(state.high_watermark, |(offset, _)| offset));
                    all.replace(&"x".repeat(400), "")
                };
                let mut expected =
                    [vec!["before-a", "a-first-", "a-second-", "later-a"], vec!["b-first-", "b-second-", "later-b"]];
                for words in &mut expected {
                    let lost = words.iter().position(|word| is_cut && word.starts_with(needle));
                    words.truncate(lost.unwrap_or(words.len()));
                }
                assert_eq!([text(a), text(b)], expected.map(|words| words.join(" ")), "{needle} {is_cut} {report:?}");
            }
        }
    }
}

#[test]
fn placed_batches_are_written_once_and_their_damage_is_found() {
    let (a, b) = (partition(A.0, A.1), partition(B.0, B.1));
    for is_damaged in [false, true] {
        let mut rig = Rig::new(8);
        rig.config.placed_bytes_min = 200;
        let (log, _) = rig.open(&[a, b]);
        append(&log, a, "before-a");
        let large = words(&format!("large-{}", "x".repeat(400)));
        log.append_and_wait(entry(vec![(a, large), (b, words("small"))]), Urgency::Ordinary).unwrap();
        append(&log, b, "later-b");
        append(&log, a, "later-a");
        assert!(log.counters().commit_bytes < 4 * 1_024, "it is not in the commit log");
        drop(log);
        // Acknowledged is acknowledged: neither the batches nor the name of their segment go.
        rig.disk.crash();
        if is_damaged {
            let dir = crate::rig::topic(A.0).to_string();
            let path = rig.file(|path| path.contains(&dir) && path.ends_with(".log"));
            rig.disk.corrupt(&path, rig.find(&path, "large-"), 1).unwrap();
        }
        for _ in 0..2 {
            let (log, report) = rig.open(&[a, b]);
            assert_eq!(text_of(&log, b), "small later-b");
            if is_damaged {
                assert_eq!(report.damage.iter().map(|damage| damage.partition).collect::<Vec<_>>(), [Some(a)]);
                assert!(
                    report.damage[0].file.ends_with(".log") || report.damage[0].file.contains("topics"),
                    "{report:?}"
                );
                assert_eq!(text_up_to(&log, a, 1), "before-a");
                assert!(matches!(log.read(a, 1, 100, true), Err(ReadError::Damaged { offset: 1, .. })));
            } else {
                assert_eq!(report.damage, []);
                assert_eq!(text_of(&log, a).replace('x', ""), "before-a large- later-a");
            }
        }
    }
}
