//! Settings of `serve`: one spelling for flags, `MAINSTEM_*` variables and TOML keys.
//!
//! A flag wins over a variable, a variable over the file, the file over the default. Nothing has to be set.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

/// Where the views' state is, in the data directory.
pub(crate) const STATE_DIRECTORY: &str = "state";

/// What `message-max-bytes` may be: room for a small batch, and no more than the log can take.
const MESSAGE_MAX_BYTES: RangeInclusive<usize> = 1024..=16 << 20;

/// What `segment-bytes` may be: positions in a segment are 32-bit numbers in Kafka's indexes.
const SEGMENT_BYTES: RangeInclusive<u64> = 4096..=2_147_483_647;

/// What can be set, each as flag, variable and TOML key of the same name. `None` is the default.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ServeOptions {
    /// Directory of all data, created when it does not exist [default: ./mainstem-data]
    #[arg(long, env = "MAINSTEM_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address of the Kafka protocol; port 0 takes a free one [default: 127.0.0.1:9092]
    #[arg(long, env = "MAINSTEM_KAFKA_LISTEN", value_name = "ADDR:PORT")]
    pub(crate) kafka_listen: Option<String>,
    /// Address of the PostgreSQL protocol [default: 127.0.0.1:4566]
    #[arg(long, env = "MAINSTEM_PG_LISTEN", value_name = "ADDR:PORT")]
    pub(crate) pg_listen: Option<String>,
    /// Address of HTTP: status page, metrics, JSON endpoints [default: 127.0.0.1:8080]
    #[arg(long, env = "MAINSTEM_HTTP_LISTEN", value_name = "ADDR:PORT")]
    pub(crate) http_listen: Option<String>,
    /// Address that Kafka clients are told to connect to, where it differs from the one listened on: behind Docker,
    /// WSL or NAT [default: the address listened on]
    #[arg(long, env = "MAINSTEM_KAFKA_ADVERTISE", value_name = "HOST:PORT")]
    pub(crate) kafka_advertise: Option<String>,
    /// Listen beyond loopback although clients are not authenticated. Everyone who reaches the port can read and
    /// write everything [default: false]
    #[arg(long, env = "MAINSTEM_ALLOW_UNAUTHENTICATED", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) allow_unauthenticated: Option<bool>,
    /// Create a topic when a client asks for one that does not exist [default: true]
    #[arg(long, env = "MAINSTEM_AUTO_CREATE_TOPICS", value_name = "BOOL")]
    pub(crate) auto_create_topics: Option<bool>,
    /// Partitions of a topic that is created without saying how many [default: 1]
    #[arg(long, env = "MAINSTEM_DEFAULT_PARTITIONS", value_name = "N")]
    pub(crate) default_partitions: Option<i32>,
    /// Take a replication factor above 1 for 1 instead of refusing it [default: true]
    #[arg(long, env = "MAINSTEM_CLAMP_REPLICATION_FACTOR", value_name = "BOOL")]
    pub(crate) clamp_replication_factor: Option<bool>,
    /// Largest record batch that is accepted, in bytes, from 1024 to 16777216 [default: 1048588]
    #[arg(long, env = "MAINSTEM_MESSAGE_MAX_BYTES", value_name = "BYTES")]
    pub(crate) message_max_bytes: Option<usize>,
    /// Size at which a segment of a partition is sealed, in bytes: retention and compaction work on sealed segments
    /// [default: 1073741824]
    #[arg(long, env = "MAINSTEM_SEGMENT_BYTES", value_name = "BYTES")]
    pub(crate) segment_bytes: Option<u64>,
    /// How long compaction rests when nothing is left to do, in milliseconds [default: 15000]
    #[arg(long, env = "MAINSTEM_COMPACTION_CHECK_MS", value_name = "MS")]
    pub(crate) compaction_check_ms: Option<u64>,
    /// Seconds between two checkpoints of the views [default: 10]
    #[arg(long, env = "MAINSTEM_CHECKPOINT_INTERVAL_SECONDS", value_name = "SECONDS")]
    pub(crate) checkpoint_interval_seconds: Option<u64>,
    /// Memory for the state and the content of tables and views, in bytes, at least 1048576; what is more is on disk and is
    /// read when it is needed [default: 536870912]
    #[arg(long, env = "MAINSTEM_STATE_MEMORY_BYTES", value_name = "BYTES")]
    pub(crate) state_memory_bytes: Option<u64>,
    /// How often the time moves on in views with now(), in milliseconds [default: 1000]
    #[arg(long, env = "MAINSTEM_TICK_MS", value_name = "MS")]
    pub(crate) tick_ms: Option<u64>,
    /// Memory that one query may use, in bytes [default: 1073741824]
    #[arg(long, env = "MAINSTEM_QUERY_MEMORY_BYTES", value_name = "BYTES")]
    pub(crate) query_memory_bytes: Option<usize>,
    /// What is logged to standard error: error, warn, info, debug, trace, or filters as `mainstem_log=debug`
    /// [default: warn]
    #[arg(long, env = "MAINSTEM_LOG_LEVEL", value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

/// Settings as they apply.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) kafka_listen: SocketAddr,
    pub(crate) pg_listen: SocketAddr,
    pub(crate) http_listen: SocketAddr,
    pub(crate) kafka_advertise: Option<(String, u16)>,
    pub(crate) auto_create_topics: bool,
    pub(crate) default_partitions: i32,
    pub(crate) clamp_replication_factor: bool,
    pub(crate) message_max_bytes: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) compaction_check_ms: u64,
    pub(crate) checkpoint_interval_seconds: u64,
    pub(crate) state_memory_bytes: u64,
    pub(crate) tick: Duration,
    pub(crate) query_memory_bytes: usize,
}

impl ServeOptions {
    /// These options, and those of the file where these say nothing.
    pub(crate) fn with_file(self, file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else { return Ok(self) };
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let file: ServeOptions = toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        Ok(Self {
            data_dir: self.data_dir.or(file.data_dir),
            kafka_listen: self.kafka_listen.or(file.kafka_listen),
            pg_listen: self.pg_listen.or(file.pg_listen),
            http_listen: self.http_listen.or(file.http_listen),
            kafka_advertise: self.kafka_advertise.or(file.kafka_advertise),
            allow_unauthenticated: self.allow_unauthenticated.or(file.allow_unauthenticated),
            auto_create_topics: self.auto_create_topics.or(file.auto_create_topics),
            default_partitions: self.default_partitions.or(file.default_partitions),
            clamp_replication_factor: self.clamp_replication_factor.or(file.clamp_replication_factor),
            message_max_bytes: self.message_max_bytes.or(file.message_max_bytes),
            segment_bytes: self.segment_bytes.or(file.segment_bytes),
            compaction_check_ms: self.compaction_check_ms.or(file.compaction_check_ms),
            checkpoint_interval_seconds: self.checkpoint_interval_seconds.or(file.checkpoint_interval_seconds),
            state_memory_bytes: self.state_memory_bytes.or(file.state_memory_bytes),
            tick_ms: self.tick_ms.or(file.tick_ms),
            query_memory_bytes: self.query_memory_bytes.or(file.query_memory_bytes),
            log_level: self.log_level.or(file.log_level),
        })
    }

    /// Fills in the defaults and checks what can be checked without touching anything.
    pub(crate) fn resolve(self) -> anyhow::Result<Config> {
        let config = Config {
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("mainstem-data")),
            kafka_listen: address("kafka-listen", self.kafka_listen.as_deref(), "127.0.0.1:9092")?,
            pg_listen: address("pg-listen", self.pg_listen.as_deref(), "127.0.0.1:4566")?,
            http_listen: address("http-listen", self.http_listen.as_deref(), "127.0.0.1:8080")?,
            kafka_advertise: self.kafka_advertise.as_deref().map(host_and_port).transpose()?,
            auto_create_topics: self.auto_create_topics.unwrap_or(true),
            default_partitions: self.default_partitions.unwrap_or(1),
            clamp_replication_factor: self.clamp_replication_factor.unwrap_or(true),
            message_max_bytes: self.message_max_bytes.unwrap_or(1_048_588),
            segment_bytes: self.segment_bytes.unwrap_or(1 << 30),
            compaction_check_ms: self.compaction_check_ms.unwrap_or(15_000),
            checkpoint_interval_seconds: self.checkpoint_interval_seconds.unwrap_or(10),
            state_memory_bytes: self.state_memory_bytes.unwrap_or(512 << 20),
            tick: Duration::from_millis(self.tick_ms.unwrap_or(1000)),
            query_memory_bytes: self.query_memory_bytes.unwrap_or(1 << 30),
        };
        if config.state_memory_bytes < 1 << 20 {
            bail!("state-memory-bytes is {}; it has to be at least 1048576", config.state_memory_bytes);
        }
        if !MESSAGE_MAX_BYTES.contains(&config.message_max_bytes) {
            bail!(
                "message-max-bytes is {}; it has to be from {} to {}, the size of the largest entry of the log",
                config.message_max_bytes,
                MESSAGE_MAX_BYTES.start(),
                MESSAGE_MAX_BYTES.end()
            );
        }
        if !SEGMENT_BYTES.contains(&config.segment_bytes) {
            bail!(
                "segment-bytes is {}; it has to be from {} to {}",
                config.segment_bytes,
                SEGMENT_BYTES.start(),
                SEGMENT_BYTES.end()
            );
        }
        if config.compaction_check_ms == 0 {
            bail!("compaction-check-ms is 0; it has to be at least 1");
        }
        if config.tick.is_zero() {
            bail!("tick-ms is 0; it has to be at least 1");
        }
        if config.default_partitions < 1 {
            bail!("default-partitions is {}; it has to be at least 1", config.default_partitions);
        }
        let listens = [("kafka", config.kafka_listen), ("pg", config.pg_listen), ("http", config.http_listen)];
        for (door, listen) in listens {
            if !listen.ip().is_loopback() && !self.allow_unauthenticated.unwrap_or(false) {
                bail!(
                    "{door}-listen {listen} is reachable from other machines, and clients are not authenticated; listen \
                     on 127.0.0.1, or accept that with --allow-unauthenticated"
                );
            }
        }
        Ok(config)
    }
}

fn address(name: &str, given: Option<&str>, default: &str) -> anyhow::Result<SocketAddr> {
    let text = given.unwrap_or(default);
    let text =
        text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}")).unwrap_or_else(|| text.to_owned());
    text.parse().with_context(|| format!("{name} is {text:?}; expected an IP address and a port, such as {default}"))
}

fn host_and_port(text: &str) -> anyhow::Result<(String, u16)> {
    let (host, port) =
        text.rsplit_once(':').with_context(|| format!("kafka-advertise is {text:?}; expected HOST:PORT"))?;
    let port = port.parse().with_context(|| format!("kafka-advertise is {text:?}; the port is not a number"))?;
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("m.toml");
        std::fs::write(&file, "data-dir = \"/from/file\"\npg-listen = \"127.0.0.1:1\"\n").expect("write");
        let flags = ServeOptions { pg_listen: Some("127.0.0.1:2".into()), ..ServeOptions::default() };
        let config = flags.with_file(Some(&file)).and_then(ServeOptions::resolve).expect("valid");
        assert_eq!(config.data_dir, Path::new("/from/file"));
        assert_eq!(config.pg_listen.port(), 2);
        assert_eq!(config.http_listen.port(), 8080);
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("m.toml");
        std::fs::write(&file, "data_dir = \"x\"\n").expect("write");
        let error = ServeOptions::default().with_file(Some(&file)).expect_err("misspelt");
        assert!(format!("{error:#}").contains("unknown field `data_dir`"), "{error:#}");
    }

    #[test]
    fn a_message_limit_that_cannot_be_is_refused_with_what_can_be() {
        assert_eq!(*MESSAGE_MAX_BYTES.end(), mainstem_log::LogConfig::default().entry_bytes_max);
        for (bytes, is_good) in [(0, false), (1023, false), (1024, true), (16 << 20, true), ((16 << 20) + 1, false)] {
            let options = ServeOptions { message_max_bytes: Some(bytes), ..ServeOptions::default() };
            match options.resolve() {
                Ok(_) => assert!(is_good, "{bytes}"),
                Err(error) => assert!(!is_good && error.to_string().contains("from 1024 to 16777216"), "{error}"),
            }
        }
    }

    #[test]
    fn other_machines_are_let_in_only_on_purpose() {
        let open = ServeOptions { http_listen: Some("0.0.0.0:8080".into()), ..ServeOptions::default() };
        assert!(open.clone().resolve().expect_err("not loopback").to_string().contains("--allow-unauthenticated"));
        ServeOptions { allow_unauthenticated: Some(true), ..open }.resolve().expect("on purpose");
    }
}
