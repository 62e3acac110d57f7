use std::sync::Arc;

use mainstem_engine::input_log::{CommitError, OutRecord, OutputCommit, OutputLog, OutputStep, TopicAppend};
use mainstem_engine::{Cut, InputLog};
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::records::RecordBatchBuilder;
use mainstem_log::{Atomicity, CommitThread, Entry, LogConfig, Part, Urgency};
use mainstem_testkit::{SimClock, SimDisk};

use super::*;

const TOPIC: Uuid = Uuid::from_u128(77);

fn open(disk: &Arc<SimDisk>) -> (Arc<EmbeddedLog>, CommitThread) {
    let config = LogConfig { commit_file_bytes: 1 << 20, reserve_bytes: 0, ..LogConfig::default() };
    let (log, _) = Log::open(disk.clone(), SimClock::new(1), config).expect("opens");
    let partitions = |topic| if topic == TOPIC { 2 } else { 0 };
    for partition in 0..partitions(TOPIC) {
        log.create_partition(TopicPartition::new(TopicId(TOPIC), partition), PartitionConfig::default());
    }
    let thread = log.start();
    (Arc::new(EmbeddedLog::open(log, Arc::new(partitions)).expect("reads its outputs")), thread)
}

fn records(of: std::ops::Range<i64>) -> Vec<OutRecord> {
    let record = |n: i64| OutRecord {
        key: Some(format!("k{n}").into()),
        value: (n % 3 != 0).then(|| vec![b'v'; 2000].into()),
        headers: vec![("h".to_owned(), "x".into())],
        timestamp_ms: n,
    };
    of.map(record).collect()
}

fn append(partition: i32, of: std::ops::Range<i64>, expected_end: Option<i64>) -> TopicAppend {
    TopicAppend { topic: TOPIC, partition, records: records(of), expected_end }
}

fn step(expected: Cut, new: Cut) -> Option<OutputStep> {
    Some(OutputStep { output: "o".to_owned(), expected, new, ahead: None })
}

#[test]
fn what_is_committed_is_read_between_cuts_and_outputs_are_fenced_also_after_a_restart() {
    let disk = SimDisk::new(1);
    let (embedded, thread) = open(&disk);
    let output: Arc<dyn OutputLog> = embedded.clone();
    let first = OutputCommit {
        output: None,
        appends: vec![append(0, 0..500, Some(0)), append(1, 500..501, None)],
        unchanged: vec![],
    };
    let first = output.commit_and_wait(first).expect("commits");
    assert_eq!(first.base_offsets, [0, 0]);
    let second =
        OutputCommit { output: step(Cut::ZERO, Cut(5)), appends: vec![append(1, 501..503, None)], unchanged: vec![] };
    let second = output.commit_and_wait(second).expect("commits");
    assert_eq!((second.cut, second.base_offsets.as_slice()), (Cut(first.cut.0 + 1), [1].as_slice()));

    let conflict = OutputCommit { output: None, appends: vec![append(0, 0..1, Some(499))], unchanged: vec![] };
    assert!(matches!(output.commit_and_wait(conflict), Err(CommitError::Conflict(_))));
    let fenced =
        OutputCommit { output: step(Cut::ZERO, Cut(6)), appends: vec![append(1, 0..1, None)], unchanged: vec![] };
    assert_eq!(output.commit_and_wait(fenced), Err(CommitError::Fenced { committed: Cut(5) }));

    let check = |log: &EmbeddedLog| {
        assert_eq!(log.newest(), second.cut);
        assert_eq!(log.partitions(TOPIC), [0, 1]);
        assert_eq!(log.positions(&[(TOPIC, 0), (TOPIC, 1)], first.cut).expect("known"), [500, 1]);
        assert_eq!(log.position(TOPIC, 1, second.cut).expect("known"), 3);
        assert_eq!(log.next_cut(Cut::ZERO, 1).expect("reads"), Some(Cut(1)));
        assert_eq!(log.next_cut(Cut::ZERO, 1000).expect("reads"), Some(second.cut));
        assert_eq!(log.next_cut(second.cut, 1000).expect("reads"), None);
        let (mut from, mut found) = (7, Vec::new());
        while from < 500 {
            let batches = log.read(TOPIC, 0, from, 500, 10_000).expect("reads");
            assert!(batches.next_offset > from && batches.unreadable.is_empty());
            found.extend(batches.records);
            from = batches.next_offset;
        }
        let expected = (7..).zip(records(7..500));
        for (record, (offset, expected)) in found.iter().zip(expected) {
            assert_eq!((record.offset, record.timestamp_ms), (offset, expected.timestamp_ms));
            assert_eq!((&record.key, &record.value), (&expected.key, &expected.value));
        }
        assert_eq!(found.len(), 493);
        assert_eq!(log.committed("o").expect("known"), Cut(5));
        assert_eq!(log.committed("other").expect("known"), Cut::ZERO);
    };
    check(&embedded);
    drop(thread);
    disk.crash();
    let (embedded, _thread) = open(&disk);
    check(&embedded);
}

#[test]
fn a_batch_that_came_broken_is_told_and_stepped_over() {
    let disk = SimDisk::new(2);
    let (embedded, _thread) = open(&disk);
    let mut builder = RecordBatchBuilder::new(Compression::None);
    builder.append(1, None, Some(b"value"), &[]);
    let good = builder.build();
    let mut broken = good.to_vec();
    // The record's length says more than there is; the checksum is right.
    broken[61] = 0x7e;
    mainstem_kafka_wire::batch::patch_log_append_time(&mut broken, 5);
    let to = TopicPartition::new(TopicId(TOPIC), 0);
    for batches in [good.clone(), broken.into(), good] {
        let parts = vec![Part { to, batches }];
        let entry = Entry { parts, conditions: Vec::new(), atomicity: Atomicity::Whole };
        embedded.log.append_and_wait(entry, Urgency::Ordinary).expect("appends");
    }
    let (mut from, mut offsets, mut unreadable) = (0, Vec::new(), Vec::new());
    while from < 3 {
        let batches = embedded.read(TOPIC, 0, from, 3, 1 << 20).expect("reads");
        offsets.extend(batches.records.iter().map(|record| record.offset));
        unreadable.extend(batches.unreadable.iter().map(|batch| (batch.first, batch.last)));
        from = batches.next_offset;
    }
    assert_eq!((offsets, unreadable), (vec![0, 2], vec![(1, 1)]));
}
