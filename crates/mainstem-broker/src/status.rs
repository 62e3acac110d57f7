//! What the broker tells about itself: counters and groups, for `/metrics` and the status page.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstem_kafka_wire::messages::ApiKey;
use mainstem_log::{TopicId, TopicPartition};

use crate::Broker;
use crate::coordinator::GroupState;

/// Keys of request types are below this.
const API_KEYS: usize = 100;

#[derive(Debug)]
pub(crate) struct Counters {
    requests: [AtomicU64; API_KEYS],
    produced_records: AtomicU64,
    produced_bytes: AtomicU64,
    fetched_records: AtomicU64,
    fetched_bytes: AtomicU64,
    refused_batches: AtomicU64,
    connections_opened: AtomicU64,
    connections: Arc<AtomicU64>,
    closed_for_cause: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; API_KEYS],
            produced_records: AtomicU64::default(),
            produced_bytes: AtomicU64::default(),
            fetched_records: AtomicU64::default(),
            fetched_bytes: AtomicU64::default(),
            refused_batches: AtomicU64::default(),
            connections_opened: AtomicU64::default(),
            connections: Arc::default(),
            closed_for_cause: AtomicU64::default(),
        }
    }
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerCounters {
    /// Requests per type, those that came at all.
    pub requests: Vec<(&'static str, u64)>,
    /// Records accepted from producers, duplicates not counted.
    pub produced_records: u64,
    /// Their bytes, as batches.
    pub produced_bytes: u64,
    /// Records sent to consumers.
    pub fetched_records: u64,
    /// Their bytes, as batches.
    pub fetched_bytes: u64,
    /// Batches of producers that were refused.
    pub refused_batches: u64,
    /// Bytes of fetched records in memory, not yet taken by their clients.
    pub fetched_bytes_in_memory: u64,
    /// Connections open now.
    pub connections: u64,
    /// Connections opened since the start.
    pub connections_opened: u64,
    /// Connections closed because of what came over them.
    pub closed_for_cause: u64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn request(&self, key: ApiKey) {
        if let Some(counter) = usize::try_from(key as i16).ok().and_then(|key| self.requests.get(key)) {
            add(counter, 1);
        }
    }

    pub(crate) fn produced(&self, records: u64, bytes: u64) {
        add(&self.produced_records, records);
        add(&self.produced_bytes, bytes);
    }

    pub(crate) fn fetched(&self, records: u64, bytes: u64) {
        add(&self.fetched_records, records);
        add(&self.fetched_bytes, bytes);
    }

    pub(crate) fn refused_batch(&self) {
        add(&self.refused_batches, 1);
    }

    pub(crate) fn closed_for_cause(&self) {
        add(&self.closed_for_cause, 1);
    }

    pub(crate) fn read(&self) -> BrokerCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let name = |key: usize| ApiKey::try_from(i16::try_from(key).ok()?).ok().map(api_name);
        let requests = self.requests.iter().enumerate().filter_map(|(key, count)| Some((name(key)?, get(count))));
        BrokerCounters {
            requests: requests.filter(|(_, count)| *count > 0).collect(),
            produced_records: get(&self.produced_records),
            produced_bytes: get(&self.produced_bytes),
            fetched_records: get(&self.fetched_records),
            fetched_bytes: get(&self.fetched_bytes),
            refused_batches: get(&self.refused_batches),
            connections: get(&self.connections),
            connections_opened: get(&self.connections_opened),
            closed_for_cause: get(&self.closed_for_cause),
            fetched_bytes_in_memory: 0,
        }
    }
}

/// Kafka's name of a request type that is served.
fn api_name(key: ApiKey) -> &'static str {
    match key {
        ApiKey::Produce => "Produce",
        ApiKey::Fetch => "Fetch",
        ApiKey::ListOffsets => "ListOffsets",
        ApiKey::Metadata => "Metadata",
        ApiKey::OffsetCommit => "OffsetCommit",
        ApiKey::OffsetFetch => "OffsetFetch",
        ApiKey::FindCoordinator => "FindCoordinator",
        ApiKey::JoinGroup => "JoinGroup",
        ApiKey::Heartbeat => "Heartbeat",
        ApiKey::LeaveGroup => "LeaveGroup",
        ApiKey::SyncGroup => "SyncGroup",
        ApiKey::DescribeGroups => "DescribeGroups",
        ApiKey::ListGroups => "ListGroups",
        ApiKey::ApiVersions => "ApiVersions",
        ApiKey::CreateTopics => "CreateTopics",
        ApiKey::DeleteTopics => "DeleteTopics",
        ApiKey::DeleteRecords => "DeleteRecords",
        ApiKey::InitProducerId => "InitProducerId",
        ApiKey::OffsetForLeaderEpoch => "OffsetForLeaderEpoch",
        ApiKey::DescribeConfigs => "DescribeConfigs",
        ApiKey::CreatePartitions => "CreatePartitions",
        ApiKey::DeleteGroups => "DeleteGroups",
        ApiKey::IncrementalAlterConfigs => "IncrementalAlterConfigs",
        ApiKey::DescribeCluster => "DescribeCluster",
        _ => "other",
    }
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    connections: Arc<AtomicU64>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A consumer group as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its id.
    pub group: String,
    /// Where it stands.
    pub state: GroupState,
    /// `consumer`, ...; empty for a group that only commits.
    pub protocol_type: String,
    /// How many members it has.
    pub members: usize,
    /// What it has committed.
    pub partitions: Vec<GroupPartition>,
}

/// One partition of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPartition {
    /// Name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next offset that the group reads.
    pub committed: i64,
    /// The high watermark; `None` when the partition is gone.
    pub end: Option<i64>,
}

impl GroupPartition {
    /// Records that the group has not read.
    #[must_use]
    pub fn lag(&self) -> Option<i64> {
        self.end.map(|end| (end - self.committed).max(0))
    }
}

impl Broker {
    /// All groups, in order of id.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupStatus> {
        let catalog = self.catalog();
        let end = |topic: &str, partition: i32| {
            let topic = catalog.topic_named(topic)?;
            Some(self.log().partition(TopicPartition::new(TopicId(topic.id), partition))?.high_watermark)
        };
        self.inner.groups.read(|coordinator| {
            let status = |view: crate::coordinator::GroupView| {
                let committed = coordinator.offsets(&view.id).into_iter().flatten();
                let committed = committed.filter(|((topic, _), value)| value.is_of(&catalog, topic));
                let partition = |((topic, partition), value): (&(String, i32), &crate::coordinator::Committed)| {
                    let end = end(topic, *partition);
                    GroupPartition { topic: topic.clone(), partition: *partition, committed: value.offset, end }
                };
                GroupStatus {
                    partitions: committed.map(partition).collect(),
                    group: view.id,
                    state: view.state,
                    protocol_type: view.protocol_type,
                    members: view.members.len(),
                }
            };
            coordinator.groups().map(status).collect()
        })
    }

    /// The listener says that a connection is open; `None` when there are too many.
    #[must_use]
    pub fn connection_opened(&self) -> Option<ConnectionGuard> {
        let counters = &self.inner.counters;
        let guard = ConnectionGuard { connections: Arc::clone(&counters.connections) };
        let before = counters.connections.fetch_add(1, Ordering::Relaxed);
        add(&counters.connections_opened, 1);
        (before < u64::try_from(self.inner.config.connections_max).unwrap_or(u64::MAX)).then_some(guard)
    }
}
