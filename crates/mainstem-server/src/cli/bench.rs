//! `mainstem bench`: figures of a running server, taken by ordinary clients.

mod nexmark;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use tokio_postgres::{Client, NoTls};

use super::kafka_client::Bootstrap;

/// Event time of generated events advances by this much per event.
const EVENT_STEP_MS: u64 = 20;
const AIRPORTS: [&str; 3] = ["EWR", "JFK", "LGA"];

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Records a second that one idempotent producer writes with acks=all, and that one consumer reads back
    #[command(after_help = "Example:
  mainstem bench throughput --records 2000000 --bytes 100 --partitions 3")]
    Throughput {
        /// How many records
        #[arg(long, default_value_t = 2_000_000)]
        records: u64,
        /// Bytes of a value
        #[arg(long, default_value_t = 100)]
        bytes: usize,
        /// Partitions of the topic
        #[arg(long, default_value_t = 1)]
        partitions: usize,
        /// Do not read them back
        #[arg(long)]
        produce_only: bool,
        #[command(flatten)]
        broker: Bootstrap,
    },
    /// Events a second from a topic into a windowed view: over history, and live
    View {
        /// How many events
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// Address of the PostgreSQL protocol
        #[arg(long, env = "MAINSTEM_PG", default_value = "127.0.0.1:4566")]
        pg: String,
        #[command(flatten)]
        broker: Bootstrap,
    },
    /// Writes Nexmark's events as JSON to the topics NAME-person, NAME-auction and NAME-bid
    #[command(after_help = "Example:
  mainstem bench nexmark --events 1000000 --partitions 2")]
    Nexmark {
        /// How many events: of fifty, one is a person, three are auctions, the others bids
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// Partitions of each topic
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
        partitions: u16,
        /// What the topics' names begin with
        #[arg(long, default_value = "nexmark")]
        name: String,
        #[command(flatten)]
        broker: Bootstrap,
    },
    /// Time from a record's acknowledgement to the first SELECT that shows it, under load
    Latency {
        /// Events a second of the load
        #[arg(long, default_value_t = 10_000)]
        rate: u64,
        /// How many records are followed
        #[arg(long, default_value_t = 500)]
        samples: usize,
        /// Address of the PostgreSQL protocol
        #[arg(long, env = "MAINSTEM_PG", default_value = "127.0.0.1:4566")]
        pg: String,
        #[command(flatten)]
        broker: Bootstrap,
    },
}

pub(crate) fn run(command: BenchCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match command {
        BenchCommand::Throughput { records, bytes, partitions, produce_only, broker } => {
            let topic = fresh("throughput");
            runtime.block_on(create_topic(&broker, &topic, partitions))?;
            let value = "x".repeat(bytes);
            let seconds = produce(&broker, &topic, records, |_| value.clone())?;
            show("produce", records, seconds)?;
            if !produce_only {
                show("fetch", records, fetch(&broker, &topic, records)?)?;
            }
        }
        BenchCommand::View { events, pg, broker } => runtime.block_on(view(events, &pg, &broker))?,
        BenchCommand::Nexmark { events, partitions, name, broker } => {
            show("nexmark", events, runtime.block_on(nexmark::run(&broker, &name, events, partitions.into()))?)?;
        }
        BenchCommand::Latency { rate, samples, pg, broker } => {
            runtime.block_on(latency(rate, samples, &pg, &broker))?
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(what: &str, count: u64, seconds: f64) -> std::io::Result<()> {
    let rate = count as f64 / seconds;
    writeln!(std::io::stdout(), "{what:<10} {count:>10} records {seconds:>8.2} s {rate:>10.0} records/s")
}

/// A name that no earlier run has used.
fn fresh(what: &str) -> String {
    format!("bench_{what}_{}", chrono::Utc::now().timestamp_millis())
}

async fn create_topic(broker: &Bootstrap, topic: &str, partitions: usize) -> anyhow::Result<()> {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let admin: AdminClient<rdkafka::client::DefaultClientContext> = broker.config()?.create()?;
    broker.check(admin.inner())?;
    let partitions = i32::try_from(partitions)?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for result in admin.create_topics(&[new], &AdminOptions::new()).await? {
        result.map_err(|(name, error)| anyhow::anyhow!("creating {name}: {error}"))?;
    }
    Ok(())
}

fn producer(broker: &Bootstrap) -> anyhow::Result<ThreadedProducer<DefaultProducerContext>> {
    let mut config = broker.config()?;
    config.set("enable.idempotence", "true").set("linger.ms", "5").set("batch.size", "131072");
    config.set("queue.buffering.max.messages", "500000").set("queue.buffering.max.kbytes", "262144");
    Ok(config.create()?)
}

/// Writes `count` records and waits for all acknowledgements; seconds.
fn produce(broker: &Bootstrap, topic: &str, count: u64, value: impl Fn(u64) -> String) -> anyhow::Result<f64> {
    let producer = producer(broker)?;
    let start = Instant::now();
    for n in 0..count {
        send(&producer, topic, &value(n), None)?;
    }
    producer.flush(Duration::from_secs(120))?;
    Ok(start.elapsed().as_secs_f64())
}

/// Hands one record to the producer, as soon as its queue has room.
fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    value: &str,
    partition: Option<i32>,
) -> Result<(), KafkaError> {
    let mut record = BaseRecord::<(), str>::to(topic).payload(value);
    record.partition = partition;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                record = unsent;
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

fn fetch(broker: &Bootstrap, topic: &str, count: u64) -> anyhow::Result<f64> {
    let mut config = broker.config()?;
    config
        .set("group.id", "mainstem-bench")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "262144");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    let start = Instant::now();
    consumer.assign(&list)?;
    let (mut read, mut bytes) = (0, 0);
    while read < count {
        let message = consumer.poll(Duration::from_secs(20)).context("no record for 20 s")??;
        bytes += message.payload_len();
        read += 1;
    }
    assert!(bytes > 0, "records have values");
    Ok(start.elapsed().as_secs_f64())
}

fn event(n: u64) -> String {
    let airport = AIRPORTS.get((n % 3) as usize).copied().unwrap_or("EWR");
    let scheduled =
        chrono::DateTime::from_timestamp_millis((1_372_636_800_000 + n * EVENT_STEP_MS) as i64).unwrap_or_default();
    let scheduled = scheduled.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let delay = (n * 7919) % 180;
    format!(
        "{{\"carrier\":\"UA\",\"flight\":{},\"origin\":\"{airport}\",\"dest\":\"SFO\",\"scheduled\":\"{scheduled}\",\
         \"departed\":\"{scheduled}\",\"dep_delay\":{delay},\"n\":{n}}}",
        n % 10_000
    )
}

async fn connect(pg: &str) -> anyhow::Result<Client> {
    let (host, port) = pg.rsplit_once(':').context("--pg: expected HOST:PORT")?;
    let config = format!("host={host} port={port} user=root dbname=dev");
    let (client, connection) =
        tokio_postgres::connect(&config, NoTls).await.with_context(|| format!("connecting to {pg}"))?;
    tokio::spawn(connection);
    Ok(client)
}

fn source(topic: &str) -> String {
    format!(
        "CREATE SOURCE {topic} (carrier varchar, flight int, origin varchar, dest varchar, scheduled timestamptz, departed \
         timestamptz, dep_delay int, n bigint, WATERMARK FOR scheduled AS scheduled - INTERVAL '1 hour') \
         WITH (topic = '{topic}') FORMAT PLAIN ENCODE JSON"
    )
}

/// The demo's windowed view.
fn windowed(topic: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW {topic}_by_hour AS SELECT origin, window_start AS hour, count(*) AS flights, \
         count(departed) AS departures, avg(dep_delay) AS mean_delay, \
         percentile_cont(0.95) WITHIN GROUP (ORDER BY dep_delay) AS p95_delay \
         FROM tumble({topic}, scheduled, INTERVAL '1 hour') GROUP BY origin, window_start"
    )
}

async fn view(events: u64, pg: &str, broker: &Bootstrap) -> anyhow::Result<()> {
    let client = connect(pg).await?;
    let history = fresh("history");
    create_topic(broker, &history, 1).await?;
    produce(broker, &history, events, event)?;
    client.batch_execute(&source(&history)).await?;
    let start = Instant::now();
    client.batch_execute(&windowed(&history)).await?;
    show("history", events, start.elapsed().as_secs_f64())?;
    check_count(&client, &history, events).await?;

    let live = fresh("live");
    create_topic(broker, &live, 1).await?;
    client.batch_execute(&source(&live)).await?;
    client.batch_execute(&windowed(&live)).await?;
    let start = Instant::now();
    let (to, topic) = (broker.clone(), live.clone());
    let produced = tokio::task::spawn_blocking(move || produce(&to, &topic, events, event)).await??;
    client.batch_execute("FLUSH").await?;
    show("live", events, start.elapsed().as_secs_f64())?;
    println!("           of which producing took {produced:.2} s");
    check_count(&client, &live, events).await
}

async fn check_count(client: &Client, topic: &str, events: u64) -> anyhow::Result<()> {
    let row = client.query_one(&format!("SELECT sum(flights)::bigint FROM {topic}_by_hour"), &[]).await?;
    let counted: i64 = row.get(0);
    if counted != i64::try_from(events)? {
        bail!("the view counts {counted} events, {events} were written");
    }
    Ok(())
}

async fn latency(rate: u64, samples: usize, pg: &str, broker: &Bootstrap) -> anyhow::Result<()> {
    let client = connect(pg).await?;
    let topic = fresh("latency");
    create_topic(broker, &topic, 1).await?;
    client.batch_execute(&source(&topic)).await?;
    client.batch_execute(&windowed(&topic)).await?;
    let newest =
        format!("CREATE MATERIALIZED VIEW {topic}_newest AS SELECT origin, max(n) AS n FROM {topic} GROUP BY origin");
    client.batch_execute(&newest).await?;
    let select = client.prepare(&format!("SELECT n FROM {topic}_newest WHERE origin = 'probe'")).await?;
    let running = Arc::new(AtomicBool::new(true));
    let sent = Arc::new(AtomicU64::new(0));
    let load = std::thread::spawn({
        let (running, sent, producer, topic) = (running.clone(), sent.clone(), producer(broker)?, topic.clone());
        move || offer(&producer, &topic, rate, &running, &sent)
    });
    let mut config = broker.config()?;
    config.set("enable.idempotence", "true").set("linger.ms", "0");
    let prober: FutureProducer = config.create()?;
    let mut times = Vec::with_capacity(samples);
    let start = Instant::now();
    for n in 0..samples as u64 {
        let value =
            event(n).replace("\"EWR\"", "\"probe\"").replace("\"JFK\"", "\"probe\"").replace("\"LGA\"", "\"probe\"");
        let record = FutureRecord::<(), str>::to(&topic).payload(&value);
        prober.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
        let acknowledged = Instant::now();
        loop {
            let rows = client.query(&select, &[]).await?;
            if rows.first().is_some_and(|row| row.get::<_, i64>(0) >= n as i64) {
                break;
            }
        }
        times.push(acknowledged.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    running.store(false, Ordering::Relaxed);
    let _ = load.join();
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times.get(((times.len() - 1) as f64 * q) as usize).copied().unwrap_or_default();
    println!(
        "load       {:>10.0} events/s, {} records followed",
        sent.load(Ordering::Relaxed) as f64 / seconds,
        times.len()
    );
    println!("latency    p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", at(0.5), at(0.99), at(1.0));
    Ok(())
}

/// Sends events at a rate until told to stop.
fn offer(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    rate: u64,
    running: &AtomicBool,
    sent: &AtomicU64,
) {
    let start = Instant::now();
    while running.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        for n in sent.load(Ordering::Relaxed)..due {
            let value = event(n);
            // A full queue means that the server is behind: the figure of the load shows it.
            let _ = producer.send(BaseRecord::<(), str>::to(topic).payload(&value));
        }
        sent.store(due, Ordering::Relaxed);
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
