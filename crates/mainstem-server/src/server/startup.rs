//! The steps of a start.

use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mainstem_broker::{Broker, BrokerConfig};
use mainstem_catalog::{
    Catalog, DEAD_LETTERS_TOPIC, Event, IDLE_TOPIC, IDLE_TOPIC_ID, TICKS_TOPIC, TICKS_TOPIC_ID, Topic, TopicOwner,
};
use mainstem_connectors::topic::EmbeddedLog;
use mainstem_disk::{LockedDir, RealDisk, SystemClock, SystemRandom};
use mainstem_engine::batch::ContextOptions;
use mainstem_engine::tables::Tables;
use mainstem_engine::{Engine, EngineConfig, EngineParts};
use mainstem_log::{CommitThread, Damage, Log, LogConfig};
use mainstem_session::{Shared, SharedParts};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use super::definitions::BrokerCatalogs;
use crate::config::{Config, STATE_DIRECTORY};

/// What a data directory opens to.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) commit_thread: CommitThread,
    pub(super) broker: Broker,
    pub(super) engine: Engine,
    pub(super) tables: Tables,
}

pub(super) fn log_to_stderr(level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).with_context(|| format!("log-level {level:?} is not understood"))?;
    // https://no-color.org
    let is_coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_coloured).with_writer(io::stderr).init();
    Ok(())
}

/// Deep queries are planned by recursion: the stacks are larger than the default.
pub(super) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().thread_stack_size(8 << 20).enable_all().build()
}

pub(super) fn lock(dir: &Path) -> anyhow::Result<LockedDir> {
    LockedDir::acquire(dir).with_context(|| format!("cannot use the data directory {}", dir.display()))
}

/// Recovers the log, reads the definitions, restores the views. Blocks.
pub(super) fn open(config: &Config) -> anyhow::Result<Opened> {
    let place = || format!("opening the data directory {}", config.data_dir.display());
    let disk = Arc::new(RealDisk::new(&config.data_dir).with_context(place)?);
    let clock = Arc::new(SystemClock::default());
    let (log, report) = Log::open(disk.clone(), clock.clone(), LogConfig::default()).with_context(place)?;
    if report.torn_bytes_cut > 0 {
        tracing::warn!(bytes = report.torn_bytes_cut, "cut a torn tail that was never acknowledged");
    }
    let commit_thread = log.start();
    let broker_config = BrokerConfig {
        auto_create_topics: config.auto_create_topics,
        default_partitions: config.default_partitions,
        clamp_replication_factor: config.clamp_replication_factor,
        message_bytes_max: config.message_max_bytes,
        segment_bytes: config.segment_bytes,
        compaction_check_ms: config.compaction_check_ms,
        ..BrokerConfig::default()
    };
    let broker = Broker::open(log.clone(), broker_config, clock.clone(), Arc::new(SystemRandom));
    // Told with names where the definitions can be read, and in any case.
    let catalog = broker.as_ref().ok().map(Broker::catalog);
    report.damage.iter().for_each(|damage| tell_damage(damage, catalog.as_deref()));
    let broker = broker.with_context(place)?;
    create_engine_topics(&broker).with_context(place)?;
    let embedded = Arc::new(EmbeddedLog::of_broker(&broker).with_context(place)?);
    let parts = EngineParts {
        input: embedded.clone(),
        output: embedded,
        disk,
        clock: clock.clone(),
        config: EngineConfig {
            checkpoint_interval: Duration::from_secs(config.checkpoint_interval_seconds),
            state_path: Some(config.data_dir.join(STATE_DIRECTORY)),
            state_memory_bytes: config.state_memory_bytes,
            ..EngineConfig::default()
        },
    };
    let (engine, report) = Engine::open(parts, broker.catalog()).with_context(place)?;
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    let tables = Tables::new(engine.clone(), clock, ContextOptions::default());
    Ok(Opened { log, commit_thread, broker, engine, tables })
}

fn tell_damage(damage: &Damage, catalog: Option<&Catalog>) {
    let topic = damage.partition.map(|at| {
        let topic = catalog.and_then(|catalog| catalog.topic(at.topic.0));
        topic.map_or_else(|| at.topic.to_string(), |topic| topic.name.clone())
    });
    let partition = damage.partition.map(|at| at.partition);
    let (file, position) = (damage.file.as_str(), damage.position);
    tracing::error!(topic, partition, file, position, "damaged: {}", damage.meaning);
}

/// The topics that the engine writes to exist from the first start, so that anyone can follow them.
fn create_engine_topics(broker: &Broker) -> anyhow::Result<()> {
    let topic = |id: uuid::Uuid, name: &str, configs: &[(&str, String)]| Topic {
        id,
        name: name.to_owned(),
        partitions: 1,
        owner: TopicOwner::Internal,
        configs: configs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
    };
    // Of ticks only the newest matters, and the engine holds it; idle events are history as much as records are.
    let for_a_day = [("retention.ms", 86_400_000.to_string()), ("segment.bytes", (1 << 20).to_string())];
    let topics = [
        topic(uuid::Uuid::new_v4(), DEAD_LETTERS_TOPIC, &[]),
        topic(TICKS_TOPIC_ID, TICKS_TOPIC, &for_a_day),
        topic(IDLE_TOPIC_ID, IDLE_TOPIC, &[("retention.ms", "-1".to_owned())]),
    ];
    let decide = move |catalog: &Catalog| {
        let new = topics.into_iter().filter(|topic| catalog.topic_named(&topic.name).is_none());
        Ok::<Vec<Event>, Infallible>(new.map(|topic| Event::TopicCreated { topic }).collect())
    };
    broker.change_catalog_blocking(decide)?;
    Ok(())
}

pub(super) fn shared(config: &Config, engine: &Engine, tables: Tables, catalogs: BrokerCatalogs) -> Arc<Shared> {
    Arc::new(Shared::new(SharedParts {
        engine: engine.clone(),
        tables,
        catalogs: Arc::new(catalogs),
        query_memory_bytes: config.query_memory_bytes,
        query_partitions: 2,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// Returns at SIGTERM or Ctrl-C.
pub(crate) async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
