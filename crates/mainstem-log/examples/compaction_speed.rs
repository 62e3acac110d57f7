//! How fast the log compacts on this disk: records of 100 B in batches of 50, a million records over a hundred thousand keys.
//!
//! `cargo run --release -p mainstem-log --example compaction_speed -- [directory] [none|gzip|snappy|lz4|zstd]`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use mainstem_disk::{RealDisk, SystemClock};
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::records::RecordBatchBuilder;
use mainstem_log::{
    Atomicity, CompactionConfig, Entry, Log, LogConfig, Part, PartitionConfig, TopicId, TopicPartition, Urgency,
};

const RECORDS: u64 = 1_000_000;
const KEYS: u64 = 100_000;
const BATCH_RECORDS: u64 = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| "compaction-speed-data".to_owned());
    let codec = arguments.next().unwrap_or_else(|| "none".to_owned());
    let codec = Compression::ALL.into_iter().find(|of| format!("{of:?}").to_lowercase() == codec);
    let codec = codec.ok_or("codecs are none, gzip, snappy, lz4 and zstd")?;
    let disk = Arc::new(RealDisk::new(directory)?);
    let (log, _) = Log::open(disk, Arc::new(SystemClock::default()), LogConfig::default())?;
    let to = TopicPartition::new(TopicId(uuid::Uuid::from_u128(1)), 0);
    let compaction = Some(CompactionConfig { min_dirty_millionths: 0, ..CompactionConfig::default() });
    log.create_partition(to, PartitionConfig { segment_bytes: 16 << 20, compaction, ..PartitionConfig::default() });
    let threads = log.start();
    let mut state = 1_u64;
    for batch in 0..RECORDS / BATCH_RECORDS {
        let mut builder = RecordBatchBuilder::new(codec);
        for record in 0..BATCH_RECORDS {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("key-{:08}", (state >> 33) % KEYS);
            let value = format!("{:>088}", batch * BATCH_RECORDS + record);
            builder.append(0, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
        }
        let parts = vec![Part { to, batches: builder.build() }];
        let entry = Entry { parts, conditions: Vec::new(), atomicity: Atomicity::Whole };
        log.append(entry, Urgency::Ordinary, Box::new(|_| {}))?;
    }
    while log.partition(to).is_some_and(|state| state.high_watermark < state.end_offset) {
        std::thread::yield_now();
    }
    let before = log.partition(to).map_or(0, |state| state.bytes);
    for run in ["first", "second, nothing to do"] {
        let started = Instant::now();
        let mut removed = 0;
        loop {
            let report = log.compact(4 << 20);
            removed += report.records_removed;
            if report.is_done {
                break;
            }
        }
        let (took, after) = (started.elapsed().as_secs_f64(), log.partition(to).map_or(0, |state| state.bytes));
        let speed = before as f64 / took / 1e6;
        println!("{run}: {removed} records removed, {before} bytes became {after} in {took:.2} s ({speed:.0} MB/s)");
    }
    drop(threads);
    Ok(())
}
