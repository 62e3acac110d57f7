//! How fast the log appends on this disk: records of 100 B in batches of 16 KiB.
//!
//! `cargo run --release -p mainstem-log --example append_speed -- [directory] [seconds]`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mainstem_disk::{RealDisk, SystemClock};
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::records::RecordBatchBuilder;
use mainstem_log::{Atomicity, Entry, Log, LogConfig, Part, PartitionConfig, TopicId, TopicPartition, Urgency};

const RECORD_BYTES: usize = 100;
const BATCH_BYTES: usize = 16 << 10;
const PARTITIONS: i32 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| "append-speed-data".to_owned());
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let disk = Arc::new(RealDisk::new(directory)?);
    let (log, report) = Log::open(disk, Arc::new(SystemClock::default()), LogConfig::default())?;
    println!("recovered up to entry {}, {} bytes scanned", report.last, report.bytes_scanned);
    let topic = TopicId(uuid::Uuid::from_u128(1));
    for partition in 0..PARTITIONS {
        log.create_partition(TopicPartition::new(topic, partition), PartitionConfig::default());
    }
    let threads = log.start();

    let mut builder = RecordBatchBuilder::new(Compression::None);
    while builder.estimated_bytes() < BATCH_BYTES {
        builder.append(0, None, Some(&[b'r'; RECORD_BYTES]), &[]);
    }
    let records = builder.len() as u64;
    let batches = builder.build();

    let durable = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < Duration::from_secs(seconds) {
        let to = TopicPartition::new(topic, sent % PARTITIONS);
        let parts = vec![Part { to, batches: batches.clone() }];
        let entry = Entry { parts, conditions: Vec::new(), atomicity: Atomicity::Whole };
        let durable = Arc::clone(&durable);
        let done = Box::new(move |result: Result<_, _>| {
            if result.is_ok() {
                durable.fetch_add(1, Ordering::Relaxed);
            }
        });
        log.append(entry, Urgency::Ordinary, done)?;
        sent += 1;
    }
    // The queue is finished before the threads end.
    drop(threads);
    let took = started.elapsed().as_secs_f64();
    let acknowledged = durable.load(Ordering::Relaxed);
    let counters = log.counters();
    println!(
        "{:.0} records/s, {:.0} MB/s, {} entries in {} commits, mean sync {} us, {} checkpoints",
        (acknowledged * records) as f64 / took,
        (acknowledged as usize * batches.len()) as f64 / took / 1e6,
        counters.entries,
        counters.commits,
        counters.sync_us / counters.commits.max(1),
        counters.checkpoints,
    );
    Ok(())
}
