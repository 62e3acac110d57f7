//! A data directory with damage of any kind: `scrub`, recovery, reading all of it, writing on, compacting, and starting again.
//!
//! What the directory holds before is a log of two partitions with sealed segments, some of them compacted, indexes, two
//! checkpoints, an order of several files, and entries behind the checkpoint. The first byte of an input says what becomes of it; bit 0: the
//! checksums are put right.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use mainstem_disk::{Disk, Open};
use mainstem_kafka_wire::batch::{Compression, split, verify_crc};
use mainstem_kafka_wire::records::{RecordBatchBuilder, records_with_limit};
use mainstem_log::{
    Atomicity, CompactionConfig, Csn, Entry, Log, LogConfig, OpenError, Part, PartitionConfig, ReadError, TopicId,
    TopicPartition, Urgency, scrub,
};
use mainstem_testkit::{SimClock, SimDisk};
use uuid::Uuid;

use super::{joined, pieces};
use crate::seal;

type Files = BTreeMap<String, Vec<u8>>;

/// Positions that no segment reaches are refused by a disk that is full.
const DISK_BYTES: u64 = 8 << 20;
const EVIDENCE: &str = "log/evidence.order";
const OTHER_SLOT: &str = "log/commit-0007.log";

fn config() -> LogConfig {
    LogConfig {
        commit_file_bytes: 8 << 10,
        entry_bytes_max: 64 << 10,
        atom_bytes_max: 64 << 10,
        placed_bytes_min: 2 << 10,
        backlog_bytes_max: 64 << 10,
        checkpoint_bytes: 24 << 10,
        reserve_bytes: 16 << 10,
        index_interval_bytes: 256,
        compaction_map_bytes: 1 << 10,
    }
}

fn partitions() -> [TopicPartition; 2] {
    [(1, 0), (2, 3)].map(|(topic, partition)| TopicPartition::new(TopicId(Uuid::from_u128(topic)), partition))
}

/// One of them is compacted whenever there is something to gain.
fn settings(id: TopicPartition, segment_bytes: u64) -> PartitionConfig {
    let eager = CompactionConfig { min_dirty_millionths: 1, ..CompactionConfig::default() };
    let compaction = (id == partitions()[0]).then_some(eager);
    PartitionConfig { segment_bytes, compaction, ..PartitionConfig::default() }
}

fn clock() -> Arc<SimClock> {
    SimClock::new(1_000_000)
}

/// An empty log without threads.
pub(super) fn small_log() -> (Arc<SimDisk>, Log) {
    let disk = SimDisk::new(1);
    let (log, _) = Log::open(disk.clone(), clock(), config()).expect("an empty directory opens");
    (disk, log)
}

pub(super) fn entry(to: TopicPartition, batches: Bytes) -> Entry {
    Entry { parts: vec![Part { to, batches }], conditions: Vec::new(), atomicity: Atomicity::Whole }
}

/// Without a sequence it is of no idempotent producer.
fn batch(timestamp: i64, sequence: i32) -> Bytes {
    let producer = if sequence < 0 { (-1, -1) } else { (7, 0) };
    let mut builder = RecordBatchBuilder::new(Compression::None).producer(producer.0, producer.1, sequence);
    let (key, value) = (format!("key-{}", sequence % 4), format!("value-{sequence}-{}", "z".repeat(30)));
    builder.append(timestamp, Some(key.as_bytes()), (sequence % 5 != 4).then_some(value.as_bytes()), &[]);
    builder.build()
}

/// The directory before.
fn filled() -> &'static Files {
    static FILLED: OnceLock<Files> = OnceLock::new();
    FILLED.get_or_init(|| {
        let disk = SimDisk::new(1);
        let small = LogConfig { entry_bytes_max: 1 << 10, placed_bytes_min: 460, ..config() };
        let (log, _) = Log::open(disk.clone(), clock(), small).expect("an empty directory opens");
        for id in partitions() {
            log.create_partition(id, settings(id, 1_000));
        }
        let append = |i: i32| {
            let (to, sequence) = if i % 3 == 0 { (1, i / 3) } else { (0, i - i / 3 - 1) };
            let entry = entry(partitions()[to], batch(1_000 + i64::from(i), sequence));
            let accepted = log.append_and_wait(entry, Urgency::Ordinary).expect("it appends");
            assert!(accepted.parts[0].is_ok());
        };
        (0..24).for_each(append);
        log.checkpoint().expect("a checkpoint");
        assert!(log.compact(u64::MAX).segments > 0, "sealed segments are compacted");
        log.checkpoint().expect("a checkpoint");
        (24..30).for_each(append);
        // An entry in several blocks, in one partition placed.
        let of_bytes = |bytes: usize| {
            let mut builder = RecordBatchBuilder::new(Compression::None);
            builder.append(2_000, Some(b"large"), Some(&vec![b'l'; bytes]), &[]);
            builder.build()
        };
        let batches =
            [of_bytes(400), Bytes::from([of_bytes(110), of_bytes(110), of_bytes(110), of_bytes(110)].concat())];
        let parts = partitions().into_iter().zip(batches).map(|(to, batches)| Part { to, batches }).collect();
        let spooled = Entry { parts, conditions: Vec::new(), atomicity: Atomicity::Whole };
        log.append_and_wait(spooled, Urgency::Ordinary).expect("it appends");
        drop(log);
        let mut files = disk.snapshot();
        // The rest of a file of the commit log is zeros, which say nothing.
        for (_, bytes) in files.iter_mut().filter(|(path, _)| path.starts_with("log/commit-")) {
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(used.next_multiple_of(512));
        }
        let (_, report) = Log::open(disk_of(&files), clock(), config()).expect("it opens");
        assert_eq!((report.entries_applied, report.damage.len()), (7, 0), "entries stand behind the checkpoint");
        files
    })
}

/// The names that a directory may hold, in an order that inputs rely on.
fn names() -> Vec<&'static str> {
    filled().keys().map(String::as_str).chain([EVIDENCE, OTHER_SLOT]).collect()
}

fn disk_of(files: &Files) -> Arc<SimDisk> {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(DISK_BYTES));
    for (path, bytes) in files {
        let (dir, _) = path.rsplit_once('/').expect("no file lies at the top");
        disk.create_dir_all(dir).expect("a directory");
        let file = disk.open(path, Open::Create).expect("a file");
        file.write_at(bytes, 0).expect("it takes the bytes");
    }
    disk
}

fn check(files: &Files) {
    let disk = disk_of(files);
    let scrubbed = scrub(disk.clone(), clock(), config(), &mut |_| ());
    assert_eq!(&disk.snapshot(), files, "scrub changes nothing");
    let Ok((log, report)) = Log::open(disk.clone(), clock(), config()) else { return };
    assert!(scrubbed.is_ok() || !report.damage.is_empty(), "what opens without a word can be scrubbed");
    for id in partitions() {
        log.create_partition(id, settings(id, 1 << 20));
    }
    let read = partitions().map(|id| read_all(&log, id));
    let _ = log.order(Csn::ZERO, log.visible(), 100);
    let _ = log.ends_at(Csn(20), &partitions());
    for (id, end) in partitions().into_iter().zip(read) {
        let appended = log.append_and_wait(entry(id, batch(5_000, -1)), Urgency::Ordinary);
        if let (Ok(accepted), Some(end)) = (appended, end)
            && let Some(Ok(placed)) = accepted.parts.first()
            && !placed.is_duplicate
        {
            assert_eq!(placed.base_offset, end, "offsets are dense");
        }
    }
    let _ = log.compact(u64::MAX);
    let _ = log.checkpoint();
    for id in partitions() {
        read_all(&log, id);
    }
    drop(log);
    // What recovery has accepted, it accepts again.
    match Log::open(disk, clock(), config()) {
        // A block of a later version may lie where only the second start comes by.
        Ok(_) | Err(OpenError::Io { .. } | OpenError::LaterVersion { .. }) => {}
        // Nor does a log go on for ever that begins near the end of all numbers.
        Err(OpenError::Damaged { meaning, .. }) if meaning.starts_with("it counts further") => {}
        Err(error) => panic!("a directory that was open does not open again: {error}"),
    }
}

/// Reads a partition; its end, unless damage stops the reading.
fn read_all(log: &Log, id: TopicPartition) -> Option<i64> {
    let state = log.partition(id)?;
    let _ = log.offset_for_timestamp(id, 1_010);
    let _ = log.bytes_between(id, 0, state.end_offset);
    let mut offset = state.start_offset;
    while offset < state.high_watermark {
        let read = match log.read(id, offset, 700, true) {
            Ok(read) => read,
            Err(ReadError::Damaged { .. } | ReadError::OutOfRange { .. } | ReadError::Io { .. }) => return None,
            Err(error) => panic!("reading {id} at {offset}: {error}"),
        };
        for found in split(&read.batches) {
            let (_, bytes) = found.expect("the log answers whole batches");
            if verify_crc(&bytes) {
                let _ = records_with_limit(&bytes, 1 << 20).map(Iterator::count);
            }
        }
        if read.next_offset <= offset {
            return None;
        }
        offset = read.next_offset;
    }
    Some(state.end_offset)
}

fn sealed(path: &str, bytes: &[u8], flags: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if flags & 1 != 0 {
        seal::file(path, &mut bytes);
    }
    bytes
}

fn newest(names: &str) -> &'static str {
    filled().keys().rfind(|path| path.starts_with(names)).expect("there is one")
}

/// The file of the commit log that recovery has to read.
fn newest_commit_file() -> &'static str {
    let generation =
        |bytes: &[u8]| bytes.get(16..).and_then(|rest| rest.first_chunk()).copied().map(u64::from_le_bytes);
    let files = filled().iter().filter(|(path, _)| path.starts_with("log/commit-"));
    files.max_by_key(|(_, bytes)| generation(bytes)).expect("there is one").0
}

/// Bit 1: the bytes are the newest order file, not a checkpoint; bit 2: the other checkpoint is gone.
pub(super) fn run_checkpoint(data: &[u8]) {
    let Some((flags, bytes)) = data.split_first() else { return };
    let mut files = filled().clone();
    let path = if flags & 2 != 0 { newest("log/order-") } else { newest("log/checkpoint-") };
    if flags & 4 != 0 {
        files.retain(|path, _| !path.starts_with("log/checkpoint-"));
    }
    files.insert(path.to_owned(), sealed(path, bytes, *flags));
    check(&files);
}

/// The bytes are the commit log's newest file. Bit 1: no order stands behind the checkpoint; bit 2: the file before is gone.
pub(super) fn run_commit(data: &[u8]) {
    let Some((flags, bytes)) = data.split_first() else { return };
    let mut files = filled().clone();
    let path = newest_commit_file();
    if flags & 2 != 0 {
        files.retain(|path, _| !path.starts_with("log/order-"));
    }
    if flags & 4 != 0 {
        files.retain(|path, _| !path.starts_with("log/commit-"));
    }
    files.insert(path.to_owned(), sealed(path, bytes, *flags));
    check(&files);
}

/// Bit 1: the directory is empty before. Then pieces, each a file: its number among [`names`], flags (bit 0 sealed, bit 1
/// removed), bytes.
pub(super) fn run_directory(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let mut files = if flags & 2 != 0 { Files::new() } else { filled().clone() };
    let names = names();
    for piece in pieces(rest) {
        let [number, flags, bytes @ ..] = piece else { continue };
        let path = names[usize::from(*number) % names.len()];
        if flags & 2 != 0 {
            files.remove(path);
        } else {
            files.insert(path.to_owned(), sealed(path, bytes, *flags));
        }
    }
    check(&files);
}

fn flagged(flags: u8, bytes: &[u8]) -> Vec<u8> {
    [&[flags], bytes].concat()
}

pub(super) fn checkpoint_seeds() -> Vec<(String, Vec<u8>)> {
    let (checkpoint, order) = (&filled()[newest("log/checkpoint-")], &filled()[newest("log/order-")]);
    let mut seeds = Vec::new();
    for (name, flags, bytes) in [("checkpoint", 0, checkpoint), ("order", 2, order)] {
        for more in [0, 1, 5] {
            seeds.push((format!("{name}-{more}"), flagged(flags | more, bytes)));
        }
    }
    seeds
}

pub(super) fn commit_seeds() -> Vec<(String, Vec<u8>)> {
    let bytes = &filled()[newest_commit_file()];
    [0, 1, 3, 5, 7].map(|flags| (format!("commit-{flags}"), flagged(flags, bytes))).to_vec()
}

pub(super) fn directory_seeds() -> Vec<(String, Vec<u8>)> {
    let file = |(number, name): (usize, &&str)| {
        let bytes = filled().get(*name).map(Vec::as_slice).unwrap_or_default();
        [&[u8::try_from(number).expect("few files"), 1], bytes].concat()
    };
    let names = names();
    let files: Vec<Vec<u8>> = names.iter().enumerate().map(file).collect();
    let mut seeds: Vec<(String, Vec<u8>)> = files
        .iter()
        .enumerate()
        .map(|(number, piece)| (format!("file-{number:02}"), flagged(0, &joined([&piece[..]]))))
        .collect();
    let removed = (0..files.len()).map(|number| [number as u8, 2]).collect::<Vec<_>>();
    seeds.extend(removed.iter().map(|piece| (format!("without-{:02}", piece[0]), flagged(0, &joined([&piece[..]])))));
    seeds.push(("all".to_owned(), flagged(2, &joined(files.iter().map(Vec::as_slice)))));
    seeds
}
