//! What an operator can set about the broker.

use crate::coordinator::Limits;

/// Settings of the Kafka door. All defaults are sane; where Kafka has the same setting, its default is ours.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `node.id`: how the one broker calls itself.
    pub node_id: i32,
    /// Name or address that clients are told to connect to, see [`crate::Broker::set_advertised`].
    pub advertised_host: String,
    /// The port that goes with it.
    pub advertised_port: u16,
    /// `auto.create.topics.enable`: a topic asked for by name in a Metadata request comes into being.
    pub auto_create_topics: bool,
    /// `num.partitions`: of topics created without a number.
    pub default_partitions: i32,
    /// How many partitions a topic may have.
    pub partitions_max: i32,
    /// `message.max.bytes`: the largest batch, unless the topic says otherwise.
    pub message_bytes_max: usize,
    /// `socket.request.max.bytes`: the largest request.
    pub request_bytes_max: usize,
    /// Requests under way, all connections together, may hold this many bytes; then reading waits.
    pub request_memory_bytes_max: usize,
    /// Connections at one time; more are closed at once.
    pub connections_max: usize,
    /// A replication factor above 1 is taken as 1 instead of being refused.
    pub clamp_replication_factor: bool,
    /// `log.retention.ms` of topics that do not say: `None` keeps records for ever, unlike Kafka's seven days, since views
    /// are computed from them.
    pub retention_ms: Option<i64>,
    /// `log.segment.bytes`
    pub segment_bytes: u64,
    /// A produce request is written in entries of at most this size.
    pub entry_bytes_max: usize,
    /// `group.min.session.timeout.ms`
    pub group_session_timeout_ms_min: i32,
    /// `group.max.session.timeout.ms`
    pub group_session_timeout_ms_max: i32,
    /// `group.initial.rebalance.delay.ms`; 0 here, 3000 in Kafka.
    pub group_initial_rebalance_delay_ms: i64,
    /// `group.max.size`
    pub group_members_max: usize,
    /// `offsets.topic.num.partitions`, when that topic is made.
    pub offsets_topic_partitions: i32,
    /// `offsets.topic.segment.bytes`; 100 MiB in Kafka. Less here: only sealed segments are compacted, and a start reads all
    /// of the topic.
    pub offsets_topic_segment_bytes: u64,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_bytes_max: usize,
    /// `fetch.max.bytes`: the largest answer to a Fetch, but for a first batch that is larger.
    pub fetch_bytes_max: usize,
    /// Fetched records that no client has taken yet may hold about this many bytes, all connections together; the fuller it
    /// is, the less an answer holds.
    pub fetch_memory_bytes_max: usize,
    /// A Fetch waits for records at most this long, whatever it asks for.
    pub fetch_wait_ms_max: i32,
    /// How often retention looks for what can go.
    pub retention_check_ms: u64,
    /// `log.cleaner.backoff.ms`: how long compaction rests when nothing is left to do.
    pub compaction_check_ms: u64,
    /// `log.cleaner.io.max.bytes.per.second`: what compaction reads at most; no limit in Kafka. A limit here, so that
    /// producers and readers keep their share of the disk.
    pub compaction_bytes_per_second: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            node_id: 1,
            advertised_host: "127.0.0.1".to_owned(),
            advertised_port: 9092,
            auto_create_topics: true,
            default_partitions: 1,
            partitions_max: 10_000,
            message_bytes_max: 1_048_588,
            request_bytes_max: 100 << 20,
            request_memory_bytes_max: 256 << 20,
            connections_max: 10_000,
            clamp_replication_factor: true,
            retention_ms: None,
            segment_bytes: 1 << 30,
            entry_bytes_max: 12 << 20,
            group_session_timeout_ms_min: 6_000,
            group_session_timeout_ms_max: 1_800_000,
            group_initial_rebalance_delay_ms: 0,
            group_members_max: 10_000,
            offsets_topic_partitions: 50,
            offsets_topic_segment_bytes: 16 << 20,
            offsets_retention_ms: 7 * 24 * 3600 * 1000,
            offset_metadata_bytes_max: 4096,
            fetch_bytes_max: 55 << 20,
            fetch_memory_bytes_max: 256 << 20,
            fetch_wait_ms_max: 300_000,
            retention_check_ms: 300_000,
            compaction_check_ms: 15_000,
            compaction_bytes_per_second: 64 << 20,
        }
    }
}

impl BrokerConfig {
    pub(crate) fn group_limits(&self) -> Limits {
        Limits {
            session_timeout_ms_min: self.group_session_timeout_ms_min,
            session_timeout_ms_max: self.group_session_timeout_ms_max,
            initial_rebalance_delay_ms: self.group_initial_rebalance_delay_ms,
            members_max: self.group_members_max,
            offsets_retention_ms: self.offsets_retention_ms,
        }
    }
}
