//! Sends the events through the Kafka protocol, paced or at full speed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tokio::task::JoinHandle;

use super::events::Event;

/// How far the replay is.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    sent: Arc<AtomicUsize>,
    total: usize,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Self {
        Self { sent: Arc::default(), total }
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

fn client(address: SocketAddr) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address.to_string()).set("log_level", "0");
    config
}

/// Creates the topics, three partitions each: one per airport of departure.
pub(crate) async fn create_topics(address: SocketAddr, names: &[&str]) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(address).create()?;
    let topics: Vec<_> = names.iter().map(|name| NewTopic::new(name, 3, TopicReplication::Fixed(1))).collect();
    for result in admin.create_topics(&topics, &AdminOptions::new()).await? {
        result.map_err(|(name, error)| anyhow!("creating topic {name}: {error}"))?;
    }
    Ok(())
}

/// Sends all events on a thread of its own; ends when every one is acknowledged as durable.
pub(crate) fn start(
    address: SocketAddr,
    events: Vec<Event>,
    pace: Option<Duration>,
    progress: Progress,
) -> JoinHandle<anyhow::Result<()>> {
    tokio::task::spawn_blocking(move || {
        let mut config = client(address);
        config.set("enable.idempotence", "true").set("linger.ms", if pace.is_some() { "5" } else { "20" });
        let producer: ThreadedProducer<_> = config.create()?;
        let begin = Instant::now();
        for (index, event) in events.iter().enumerate() {
            if let Some(pace) = pace {
                let due = pace.mul_f64(index as f64 / events.len() as f64);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
            send(&producer, event)?;
            progress.sent.store(index + 1, Ordering::Relaxed);
        }
        producer.flush(Duration::from_secs(60)).context("waiting for the last acknowledgements")?;
        if producer.in_flight_count() > 0 {
            bail!("{} events were not acknowledged", producer.in_flight_count());
        }
        Ok(())
    })
}

fn send(producer: &ThreadedProducer<rdkafka::producer::DefaultProducerContext>, event: &Event) -> anyhow::Result<()> {
    let mut record = BaseRecord::to(event.topic).key(&event.key).payload(&event.value);
    record = record.timestamp(event.at.timestamp_millis());
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                record = unsent;
                std::thread::park_timeout(Duration::from_millis(2));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}
