//! `mainstem consume`: records in, lines out.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::kafka_client::{Bootstrap, PATIENCE};
use super::produce::interrupt_flag;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mainstem consume orders                        all records, then new ones as they come
  mainstem consume orders --exit                 all records that are there, then ends
  mainstem consume orders --from end -n 10       the next ten
  mainstem consume orders --group billing        shared with the group's other members, offsets are kept
  mainstem consume orders --json --exit | jq .offset")]
pub(crate) struct ConsumeArgs {
    /// Topic to read
    topic: String,
    /// Where to begin: start, end, or an offset
    #[arg(long, default_value = "start")]
    from: String,
    /// Read one partition only
    #[arg(short, long)]
    partition: Option<i32>,
    /// Read as a member of this consumer group and commit what was written out
    #[arg(short, long)]
    group: Option<String>,
    /// End after this many records
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// End when all that was there at the beginning has been read
    #[arg(short, long, conflicts_with = "group")]
    exit: bool,
    /// Write the key and this separator before each value
    #[arg(short, long, value_name = "SEPARATOR")]
    key_separator: Option<String>,
    /// Write each record as a JSON object with topic, partition, offset, timestamp, key, value and headers
    #[arg(short, long)]
    json: bool,
    #[command(flatten)]
    broker: Bootstrap,
}

pub(crate) fn run(args: ConsumeArgs) -> anyhow::Result<ExitCode> {
    let mut config = args.broker.config()?;
    config.set("group.id", args.group.as_deref().unwrap_or("mainstem-consume")).set("enable.auto.commit", "false");
    config.set("auto.offset.reset", if args.from == "end" { "latest" } else { "earliest" });
    config.set("allow.auto.create.topics", "false").set("fetch.wait.max.ms", "100");
    // A damaged record is an error, not output.
    config.set("check.crcs", "true");
    let consumer: BaseConsumer = config.create()?;
    let mut ends = begin(&args, &consumer)?;
    let interrupted = interrupt_flag()?;
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut written = 0u64;
    while !interrupted.load(Ordering::Relaxed) {
        if args.count == Some(written) {
            break;
        }
        if args.exit && ends.iter().all(|(_, position, end)| position >= end) {
            break;
        }
        match consumer.poll(Duration::from_millis(if out.buffer().is_empty() { 100 } else { 0 })) {
            Some(message) => {
                let message = message.context("reading")?;
                write_record(&args, &message, &mut out)?;
                written += 1;
                if let Some(entry) = ends.iter_mut().find(|(partition, ..)| *partition == message.partition()) {
                    entry.1 = message.offset() + 1;
                }
            }
            // Nothing more right now: what was read is shown before waiting.
            None => settle(&args, &consumer, &mut out)?,
        }
    }
    settle(&args, &consumer, &mut out)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes out what is buffered, and only then commits it.
fn settle(args: &ConsumeArgs, consumer: &BaseConsumer, out: &mut impl Write) -> anyhow::Result<()> {
    out.flush()?;
    if args.group.is_some() {
        match consumer.commit_consumer_state(CommitMode::Sync) {
            Ok(()) | Err(rdkafka::error::KafkaError::ConsumerCommit(rdkafka::error::RDKafkaErrorCode::NoOffset)) => {}
            Err(error) => return Err(error).context("committing offsets"),
        }
    }
    Ok(())
}

/// Assigns or subscribes. Answers (partition, position, end) of what is there now.
fn begin(args: &ConsumeArgs, consumer: &BaseConsumer) -> anyhow::Result<Vec<(i32, i64, i64)>> {
    let metadata = consumer.fetch_metadata(None, PATIENCE).map_err(|error| args.broker.unreachable(&error))?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == args.topic) else {
        bail!("topic {} does not exist; create it with `mainstem topic create {0}`", args.topic);
    };
    if args.group.is_some() {
        consumer.subscribe(&[&args.topic])?;
        return Ok(Vec::new());
    }
    let mut list = TopicPartitionList::new();
    let mut ends = Vec::new();
    for partition in topic.partitions().iter().map(|p| p.id()).filter(|p| args.partition.is_none_or(|only| only == *p))
    {
        let (start, end) = consumer.fetch_watermarks(&args.topic, partition, PATIENCE)?;
        let from = match args.from.as_str() {
            "start" => start,
            "end" => end,
            offset => {
                offset.parse::<i64>().with_context(|| format!("--from {offset}: expected start, end or an offset"))?
            }
        };
        if !(start..=end).contains(&from) {
            bail!("partition {partition} has offsets {start} to {end}; {from} is not among them");
        }
        list.add_partition_offset(&args.topic, partition, Offset::Offset(from))?;
        ends.push((partition, from, end));
    }
    if ends.is_empty() {
        bail!("topic {} has no partition {}", args.topic, args.partition.unwrap_or_default());
    }
    consumer.assign(&list)?;
    Ok(ends)
}

fn write_record(args: &ConsumeArgs, message: &BorrowedMessage<'_>, out: &mut impl Write) -> io::Result<()> {
    if args.json {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let headers: Vec<_> = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| serde_json::json!([header.key, text(header.value)])).collect()
        });
        let record = serde_json::json!({
            "topic": message.topic(), "partition": message.partition(), "offset": message.offset(),
            "timestamp": message.timestamp().to_millis(), "key": text(message.key()), "value": text(message.payload()),
            "headers": headers,
        });
        return writeln!(out, "{record}");
    }
    if let Some(separator) = &args.key_separator {
        out.write_all(message.key().unwrap_or_default())?;
        out.write_all(separator.as_bytes())?;
    }
    out.write_all(message.payload().unwrap_or_default())?;
    out.write_all(b"\n")
}
