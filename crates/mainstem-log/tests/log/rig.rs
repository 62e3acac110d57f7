//! What the tests build entries and logs with.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_kafka_wire::batch::{Compression, split};
use mainstem_kafka_wire::records::{Record, RecordBatchBuilder, records};
use mainstem_log::{
    Atomicity, CompactionConfig, CompactionReport, Entry, Log, LogConfig, Part, PartitionConfig, RecoveryReport,
    TopicId, TopicPartition, Urgency,
};
use mainstem_testkit::{SimClock, SimDisk};

pub(crate) fn topic(n: u128) -> TopicId {
    TopicId(uuid::Uuid::from_u128(n))
}

pub(crate) fn partition(topic_number: u128, partition: i32) -> TopicPartition {
    TopicPartition::new(topic(topic_number), partition)
}

/// Small files, so that a test passes their ends.
pub(crate) fn config() -> LogConfig {
    LogConfig {
        commit_file_bytes: 16 << 10,
        entry_bytes_max: 8 << 10,
        atom_bytes_max: 64 << 10,
        placed_bytes_min: 1 << 20,
        backlog_bytes_max: 64 << 10,
        checkpoint_bytes: 24 << 10,
        reserve_bytes: 16 << 10,
        index_interval_bytes: 256,
        compaction_map_bytes: 64 << 10,
    }
}

pub(crate) fn segments(segment_bytes: u64) -> PartitionConfig {
    PartitionConfig { segment_bytes, ..PartitionConfig::default() }
}

/// Compacted as soon as there is anything to compact.
pub(crate) fn compacted(segment_bytes: u64) -> PartitionConfig {
    let compaction = CompactionConfig { min_dirty_millionths: 0, segment_ms: None, ..CompactionConfig::default() };
    PartitionConfig { compaction: Some(compaction), ..segments(segment_bytes) }
}

/// Compacts until nothing is left to do.
pub(crate) fn compact(log: &Log) -> CompactionReport {
    let mut all = CompactionReport::default();
    for _ in 0..10_000 {
        let report = log.compact(700);
        all.runs += report.runs;
        all.segments += report.segments;
        all.bytes_before += report.bytes_before;
        all.bytes_after += report.bytes_after;
        all.records_removed += report.records_removed;
        all.tombstones_removed += report.tombstones_removed;
        all.runs_abandoned += report.runs_abandoned;
        all.held_partitions += report.held_partitions;
        if report.is_done {
            all.is_done = true;
            return all;
        }
    }
    panic!("a compaction without an end: {all:?}");
}

/// A batch of one record per key and value (`None` is a tombstone), of a codec.
pub(crate) fn keyed(
    codec: Compression,
    pairs: &[(&str, Option<&str>)],
    timestamp: i64,
    producer: Option<(i64, i16, i32)>,
) -> Bytes {
    let mut builder = RecordBatchBuilder::new(codec);
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.producer(id, epoch, sequence);
    }
    for (key, value) in pairs {
        builder.append(timestamp, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    builder.build()
}

/// A batch with one record per value, its timestamp the same for all.
pub(crate) fn batch(values: &[Vec<u8>], timestamp: i64, producer: Option<(i64, i16, i32)>) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.producer(id, epoch, sequence);
    }
    for value in values {
        builder.append(timestamp, None, Some(value), &[]);
    }
    builder.build()
}

pub(crate) fn words(text: &str) -> Bytes {
    let values: Vec<Vec<u8>> = text.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    batch(&values, 1_000, None)
}

pub(crate) fn entry(parts: Vec<(TopicPartition, Bytes)>) -> Entry {
    let parts = parts.into_iter().map(|(to, batches)| Part { to, batches }).collect();
    Entry { parts, conditions: Vec::new(), atomicity: Atomicity::Whole }
}

pub(crate) fn append(log: &Log, to: TopicPartition, text: &str) -> i64 {
    let accepted = log.append_and_wait(entry(vec![(to, words(text))]), Urgency::Ordinary).unwrap();
    accepted.parts[0].unwrap().base_offset
}

/// All visible values of a partition with their offsets, from `offset` on.
pub(crate) fn read_from(
    log: &Log,
    from: TopicPartition,
    offset: i64,
) -> Result<Vec<(i64, Vec<u8>)>, mainstem_log::ReadError> {
    let value = |record: Record| (record.offset, record.value.unwrap().to_vec());
    Ok(records_from(log, from, offset)?.into_iter().map(value).collect())
}

/// All visible records of a partition from `offset` on.
pub(crate) fn records_from(
    log: &Log,
    from: TopicPartition,
    offset: i64,
) -> Result<Vec<Record>, mainstem_log::ReadError> {
    let mut found = Vec::new();
    let mut next = offset;
    loop {
        let read = log.read(from, next, 700, true)?;
        if read.batches.is_empty() {
            return Ok(found);
        }
        for batch in split(&read.batches) {
            let (header, bytes) = batch.unwrap();
            assert!(mainstem_kafka_wire::batch::verify_crc(&bytes), "CRC of {header:?}");
            for record in records(&bytes).unwrap() {
                let record = record.unwrap();
                if record.offset >= offset {
                    found.push(record);
                }
            }
        }
        assert!(read.next_offset > next);
        next = read.next_offset;
    }
}

pub(crate) fn text_of(log: &Log, from: TopicPartition) -> String {
    let start = log.partition(from).unwrap().start_offset;
    let values = read_from(log, from, start).unwrap();
    let words: Vec<String> = values.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect();
    words.join(" ")
}

/// A disk, a clock, and the log on them.
pub(crate) struct Rig {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) config: LogConfig,
}

impl Rig {
    pub(crate) fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), clock: SimClock::new(1_700_000_000_000), config: config() }
    }

    pub(crate) fn open(&self, declared: &[TopicPartition]) -> (Log, RecoveryReport) {
        let (log, report) = Log::open(self.disk.mount(), self.clock.clone(), self.config).unwrap();
        for id in declared {
            log.create_partition(*id, segments(2_000));
        }
        (log, report)
    }

    /// The one file whose path passes.
    pub(crate) fn file(&self, passes: impl Fn(&str) -> bool) -> String {
        let files: Vec<String> = self.disk.files().into_iter().filter(|path| passes(path)).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    /// Position of `needle` in a file; it must be there once.
    pub(crate) fn find(&self, path: &str, needle: &str) -> u64 {
        let bytes = &self.disk.snapshot()[path];
        let found: Vec<usize> =
            bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle.as_bytes()).map(|(i, _)| i).collect();
        assert_eq!(found.len(), 1, "{needle} in {path}: {found:?}");
        found[0] as u64
    }
}
