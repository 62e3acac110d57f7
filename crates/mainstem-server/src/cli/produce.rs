//! `mainstem produce`: lines in, records out, each acknowledged before the command ends.

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};

use super::kafka_client::Bootstrap;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  echo '{\"n\": 1}' | mainstem produce numbers
  mainstem produce orders -k : < orders.txt      lines such as `42:{\"amount\": 7}`, 42 is the key
  tail -f app.log | mainstem produce logs

A line is one record. The command ends at the end of its input, after every record was acknowledged as durable; it then
says how many there were. Ctrl-C ends it in the same way.")]
pub(crate) struct ProduceArgs {
    /// Topic to write to
    topic: String,
    /// What divides key and value of a line; without it records have no key
    #[arg(short, long, value_name = "STRING", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// An empty value is a tombstone (null)
    #[arg(long)]
    empty_is_null: bool,
    /// Partition to write to; by key otherwise
    #[arg(short, long)]
    partition: Option<i32>,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none")]
    compression: String,
    /// Say nothing at the end
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    broker: Bootstrap,
}

#[derive(Clone, Default)]
struct Deliveries {
    acknowledged: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<KafkaError>>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
            }
        }
    }
}

impl Deliveries {
    fn check(&self) -> anyhow::Result<()> {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => bail!(
                "a record was not accepted: {error}; {} were acknowledged before the error",
                self.acknowledged.load(Ordering::Relaxed)
            ),
            None => Ok(()),
        }
    }
}

pub(crate) fn run(args: ProduceArgs) -> anyhow::Result<ExitCode> {
    let deliveries = Deliveries::default();
    let mut config = args.broker.config()?;
    config.set("enable.idempotence", "true").set("compression.type", &args.compression);
    config.set("linger.ms", "5").set("message.timeout.ms", "30000");
    let producer: ThreadedProducer<Deliveries> = config.create_with_context(deliveries.clone())?;
    args.broker.check(producer.client())?;
    let interrupted = interrupt_flag()?;
    if io::stdin().is_terminal() && !args.quiet {
        eprintln!("one record a line; Ctrl-D ends");
    }
    let sent = send_all(&args, &producer, &deliveries, &interrupted);
    // What was sent before a line that cannot be is still on its way.
    producer.flush(Duration::from_secs(60)).context("waiting for acknowledgements")?;
    if let Err(error) = sent {
        bail!("{error:#}; {} records were acknowledged", deliveries.acknowledged.load(Ordering::Relaxed));
    }
    deliveries.check()?;
    if !args.quiet {
        eprintln!("{} records written to {}", deliveries.acknowledged.load(Ordering::Relaxed), args.topic);
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends the lines of standard input until it ends, a line cannot be sent, or Ctrl-C.
fn send_all(
    args: &ProduceArgs,
    producer: &ThreadedProducer<Deliveries>,
    deliveries: &Deliveries,
    interrupted: &AtomicBool,
) -> anyhow::Result<()> {
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    let mut number = 0u64;
    while !interrupted.load(Ordering::Relaxed) {
        line.clear();
        if input.read_until(b'\n', &mut line).context("reading standard input")? == 0 {
            break;
        }
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        send(args, producer, text.strip_suffix(b"\r").unwrap_or(text), number)?;
        deliveries.check()?;
    }
    Ok(())
}

fn send(args: &ProduceArgs, producer: &ThreadedProducer<Deliveries>, line: &[u8], number: u64) -> anyhow::Result<()> {
    let (key, value) = match &args.key_separator {
        None => (None, line),
        Some(separator) => {
            let at = line.windows(separator.len()).position(|window| window == separator.as_bytes());
            let at = at.with_context(|| format!("line {number} has no {separator:?} between key and value"))?;
            (line.get(..at), line.get(at + separator.len()..).unwrap_or_default())
        }
    };
    let mut record = BaseRecord::<[u8], [u8]>::to(&args.topic);
    record.key = key;
    record.partition = args.partition;
    record.payload = (!(args.empty_is_null && value.is_empty())).then_some(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            // The local queue is full: the broker is the slower side, so the input waits.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                record = unsent;
                std::thread::park_timeout(Duration::from_millis(5));
            }
            Err((error, _)) => bail!("line {number}: {error}"),
        }
    }
}

/// Set by the first Ctrl-C; a blocking read of standard input ends with the second one.
pub(crate) fn interrupt_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if seen.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    })?;
    Ok(flag)
}
