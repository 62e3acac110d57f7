//! The broker itself: opening it, and the way of a request to the module that answers it.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstem_catalog::{CATALOG_TOPIC_ID, Catalog, OFFSETS_TOPIC};
use mainstem_disk::{Clock, Random};
use mainstem_kafka_wire::frame::{RequestHeader, is_served, parse_request, served_versions};
use mainstem_kafka_wire::messages::api_versions_response::ApiVersion;
use mainstem_kafka_wire::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, ResponseError, encode_response};
use mainstem_kafka_wire::{WireError, batch, records};
use mainstem_log::{Log, TopicId, TopicPartition};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OnceCell, watch};
use uuid::Uuid;

use crate::chunk::Chunk;
use crate::codec::{decode, respond};
use crate::coordinator::records::OffsetsRecord;
use crate::fetched::Fetched;
use crate::groups::Groups;
use crate::producer_ids::ProducerIds;
use crate::sequencer::Sequencer;
use crate::status::Counters;
use crate::topic_config::TopicSettings;
use crate::waiting::Waiting;
use crate::{BrokerConfig, BrokerCounters};

/// Bytes read at once while loading internal topics.
const LOAD_BYTES: usize = 4 << 20;

/// The one broker. A clone is the same broker.
#[derive(Clone, Debug)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) log: Log,
    pub(crate) config: BrokerConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) sequencer: Sequencer,
    pub(crate) groups: Arc<Groups>,
    pub(crate) offsets_topic: OnceCell<()>,
    pub(crate) waiting: Arc<Waiting>,
    /// Fetched records in memory.
    pub(crate) fetched: Arc<Fetched>,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) counters: Counters,
    pub(crate) advertised: RwLock<(String, u16)>,
    /// Which partition of a Fetch is read first, so that none starves.
    pub(crate) rotation: AtomicUsize,
    /// Damaged partitions that the operator has been told of.
    pub(crate) told_damaged: Mutex<HashSet<TopicPartition>>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client's address, as text without port.
    pub host: String,
}

/// The connection has to be closed: what came over it cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CloseConnection {
    /// For the operator.
    pub reason: String,
}

impl CloseConnection {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    pub(crate) fn malformed(header: &RequestHeader, error: &WireError) -> Self {
        Self::new(format!("{:?} version {}: {error}", header.api_key, header.version))
    }
}

/// Why a broker cannot be opened. The message says what is wrong where.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A record of an internal topic cannot be read.
    #[error("topic {topic}, offset {offset}: {reason}")]
    Record {
        /// The internal topic.
        topic: &'static str,
        /// Of the record.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// The log refuses a read.
    #[error("reading the definitions: {0}")]
    Read(#[from] mainstem_log::ReadError),
    /// The log refuses the first record.
    #[error("writing the id of the cluster: {0}")]
    Append(#[from] mainstem_log::AppendError),
}

/// The chunks of one frame with its length, or nothing for Produce with acks=0; or the end of the connection.
pub type Answered<C = Chunk> = Result<Option<Vec<C>>, CloseConnection>;

/// What became of a request.
pub enum Reply {
    /// Answered: the chunks of one frame with its length, or nothing for Produce with acks=0.
    Ready(Option<Vec<Chunk>>),
    /// Appended and not yet durable; the answer comes later. Later requests may begin meanwhile, their answers follow
    /// this one.
    Later(Pin<Box<dyn Future<Output = Answered> + Send>>),
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reply::Ready(chunks) => f.debug_tuple("Ready").field(chunks).finish(),
            Reply::Later(_) => f.write_str("Later"),
        }
    }
}

impl Broker {
    /// Reads the definitions and the groups from the log, declares all partitions, and finishes deletions that a crash
    /// interrupted. Blocks. Needs [`Broker::run`] for everything that happens by time.
    pub fn open(
        log: Log,
        config: BrokerConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Broker, OpenError> {
        let loaded = crate::sequencer::load(&log)?;
        for topic in loaded.catalog.topics() {
            let settings = TopicSettings::of(topic, &config);
            for partition in 0..topic.partitions {
                let tp = TopicPartition::new(TopicId(topic.id), partition);
                log.create_partition(tp, settings.partition);
            }
        }
        // Only what was deleted by a durable event goes, never what is merely unknown.
        let left_over = log.topics();
        for id in loaded.catalog.deleted_topics().map(TopicId).filter(|id| left_over.contains(id)) {
            log.delete_topic(id, 0);
        }
        let sequencer = Sequencer::open(&log, loaded, &*clock, &*random)?;
        let groups = Groups::start(log.clone(), config.group_limits(), Arc::clone(&clock));
        load_groups(&log, &sequencer.catalog(), &groups)?;
        let waiting = Arc::new(Waiting::default());
        let woken = Arc::clone(&waiting);
        log.on_advance(Box::new(move |_, grown| woken.wake(grown)));
        let advertised = RwLock::new((config.advertised_host.clone(), config.advertised_port));
        let inner = Inner {
            log,
            config,
            clock,
            random,
            sequencer,
            groups,
            offsets_topic: OnceCell::new(),
            waiting,
            fetched: Arc::default(),
            producer_ids: ProducerIds::default(),
            counters: Counters::default(),
            advertised,
            rotation: AtomicUsize::new(0),
            told_damaged: Mutex::default(),
        };
        Ok(Broker { inner: Arc::new(inner) })
    }

    /// The log below.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// The settings it was opened with.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.inner.config
    }

    /// The newest durable definitions.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.inner.sequencer.catalog()
    }

    /// The newest durable definitions, and every later state (or a later one yet, when several come at once).
    #[must_use]
    pub fn catalog_changes(&self) -> watch::Receiver<Arc<Catalog>> {
        self.inner.sequencer.subscribe()
    }

    /// The id of this cluster of one: made at the first start, the same ever after.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        self.inner.sequencer.cluster_id()
    }

    /// What clients are told to connect to from now on; known only after the listener is bound.
    pub fn set_advertised(&self, host: impl Into<String>, port: u16) {
        *self.inner.advertised.write() = (host.into(), port);
    }

    /// What clients are told to connect to.
    #[must_use]
    pub fn advertised(&self) -> (String, u16) {
        self.inner.advertised.read().clone()
    }

    /// Counters, for `/metrics`.
    #[must_use]
    pub fn counters(&self) -> BrokerCounters {
        let bytes = u64::try_from(self.inner.fetched.bytes()).unwrap_or(0);
        BrokerCounters { fetched_bytes_in_memory: bytes, ..self.inner.counters.read() }
    }

    /// One request (a frame without its length) to the chunks of its response, all in memory, which make a frame with its
    /// length; `None` for Produce with acks=0. An error means that the connection has to be closed. Dropping the future is
    /// safe: what was appended stays, what was not is not.
    pub async fn handle(&self, frame: Bytes, client: &ClientInfo) -> Answered<Bytes> {
        let chunks = match self.begin(frame, client).await? {
            Reply::Ready(chunks) => chunks,
            Reply::Later(rest) => rest.await?,
        };
        let read = |chunk: Chunk| chunk.read().map_err(|error| CloseConnection::new(error.to_string()));
        chunks.map(|chunks| chunks.into_iter().map(read).collect()).transpose()
    }

    /// [`Broker::handle`] in two steps, for connections with several requests under way: when this returns, a Produce
    /// request has its place in the log, so that the next request may begin.
    pub async fn begin(&self, frame: Bytes, client: &ClientInfo) -> Result<Reply, CloseConnection> {
        let begun = match parse_request(frame) {
            Ok((header, message)) => {
                self.inner.counters.request(header.api_key);
                Box::pin(self.dispatch(header, message, client)).await
            }
            Err(error) => Err(CloseConnection::new(error.to_string())),
        };
        if begun.is_err() {
            self.inner.counters.closed_for_cause();
        }
        begun
    }

    async fn dispatch(
        &self,
        header: RequestHeader,
        message: Bytes,
        client: &ClientInfo,
    ) -> Result<Reply, CloseConnection> {
        if !is_served(header.api_key, header.version) {
            return unserved(&header);
        }
        let h = &header;
        let chunks = match header.api_key {
            ApiKey::Produce => return self.produce(h, message).await,
            ApiKey::Fetch => self.fetch(h, message).await?,
            ApiKey::ApiVersions => respond(h, &api_versions(&decode(h, message)?, header.version))?,
            ApiKey::Metadata => respond(h, &self.metadata(decode(h, message)?, header.version).await)?,
            ApiKey::ListOffsets => respond(h, &self.list_offsets(decode(h, message)?, header.version).await)?,
            ApiKey::OffsetForLeaderEpoch => respond(h, &self.offset_for_leader_epoch(decode(h, message)?))?,
            ApiKey::CreateTopics => respond(h, &self.create_topics(decode(h, message)?).await)?,
            ApiKey::DeleteTopics => respond(h, &self.delete_topics(decode(h, message)?, header.version).await)?,
            ApiKey::DeleteRecords => respond(h, &self.delete_records(decode(h, message)?).await)?,
            ApiKey::CreatePartitions => respond(h, &self.create_partitions(decode(h, message)?).await)?,
            ApiKey::DescribeConfigs => respond(h, &self.describe_configs(decode(h, message)?))?,
            ApiKey::IncrementalAlterConfigs => respond(h, &self.alter_configs(decode(h, message)?).await)?,
            ApiKey::DescribeCluster => respond(h, &self.describe_cluster(&decode(h, message)?))?,
            ApiKey::InitProducerId => respond(h, &self.init_producer_id(decode(h, message)?).await)?,
            ApiKey::FindCoordinator => respond(h, &self.find_coordinator(decode(h, message)?, header.version).await)?,
            ApiKey::JoinGroup => respond(h, &self.join_group(h, decode(h, message)?, client).await)?,
            ApiKey::SyncGroup => respond(h, &self.sync_group(decode(h, message)?).await)?,
            ApiKey::Heartbeat => respond(h, &self.heartbeat(decode(h, message)?).await)?,
            ApiKey::LeaveGroup => respond(h, &self.leave_group(decode(h, message)?, header.version).await)?,
            ApiKey::OffsetCommit => respond(h, &self.offset_commit(decode(h, message)?).await)?,
            ApiKey::OffsetFetch => respond(h, &self.offset_fetch(decode(h, message)?, header.version))?,
            ApiKey::ListGroups => respond(h, &self.list_groups(&decode(h, message)?))?,
            ApiKey::DescribeGroups => respond(h, &self.describe_groups(&decode(h, message)?, header.version))?,
            ApiKey::DeleteGroups => respond(h, &self.delete_groups(decode(h, message)?).await)?,
            other => return Err(CloseConnection::new(format!("request type {other:?} is not served"))),
        };
        Ok(Reply::Ready(Some(chunks)))
    }

    /// Does what is due by now: group sessions and rebalances. [`Broker::run`] calls it; simulations call it themselves.
    pub fn tick(&self) {
        self.inner.groups.tick();
    }

    /// Does everything that happens by time, for ever. The server spawns it and drops it at the end.
    pub async fn run(&self) {
        tokio::join!(self.run_groups_and_retention(), self.compact_for_ever());
    }

    async fn run_groups_and_retention(&self) {
        let retention = Duration::from_millis(self.inner.config.retention_check_ms);
        let mut retention = tokio::time::interval(retention);
        retention.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.groups.wait_for_deadline() => self.inner.groups.tick(),
                _ = retention.tick() => self.retention().await,
            }
        }
    }

    /// The order in which a request's partitions are read begins elsewhere each time.
    pub(crate) fn rotate(&self, among: usize) -> usize {
        self.inner.rotation.fetch_add(1, Ordering::Relaxed) % among.max(1)
    }

    /// The name of a partition's topic; its id when it has none, as after a deletion.
    pub(crate) fn topic_name(&self, partition: TopicPartition) -> String {
        let catalog = self.catalog();
        catalog.topic(partition.topic.0).map_or_else(|| partition.topic.to_string(), |topic| topic.name.clone())
    }

    /// What a client is told that meets damage. The operator is told too, once per partition: clients come again and again.
    pub(crate) fn tell_damage(&self, partition: TopicPartition) -> String {
        let (topic, number) = (self.topic_name(partition), partition.partition);
        let (offset, place) = self.log().damage(partition).unwrap_or_else(|| (-1, "a place unknown".to_owned()));
        if self.inner.told_damaged.lock().insert(partition) {
            tracing::error!(
                %topic,
                partition = number,
                offset,
                %place,
                "the partition is damaged: it accepts no records, and consumers get an error at this offset; stop the server \
                 and run `mainstem scrub`, which says what is lost"
            );
        }
        format!(
            "partition {number} of topic {topic} is damaged at offset {offset} and accepts no records; `mainstem scrub` says \
             what is lost"
        )
    }

    /// A random id.
    pub(crate) fn new_uuid(&self) -> Uuid {
        new_uuid(&*self.inner.random)
    }
}

pub(crate) fn new_uuid(random: &dyn Random) -> Uuid {
    let bits = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

/// A version that is not served: ApiVersions is answered in its first form, with what is; anything else ends the connection.
fn unserved(header: &RequestHeader) -> Result<Reply, CloseConnection> {
    if header.api_key != ApiKey::ApiVersions {
        let reason = format!("{:?} version {} is not served", header.api_key, header.version);
        return Err(CloseConnection::new(reason));
    }
    let response = api_versions_with(Some(ResponseError::UnsupportedVersion));
    let frame = encode_response(0, header.correlation_id, &response);
    let frame = frame.map_err(|error| CloseConnection::malformed(header, &error))?;
    Ok(Reply::Ready(Some(vec![frame.into()])))
}

fn api_versions(request: &ApiVersionsRequest, version: i16) -> ApiVersionsResponse {
    let is_named = |name: &str| {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let is_outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        name.chars().all(is_inner) && is_outer(name.chars().next()) && is_outer(name.chars().next_back())
    };
    // KIP-511: [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?
    if version >= 3 && !(is_named(&request.client_software_name) && is_named(&request.client_software_version)) {
        return api_versions_with(Some(ResponseError::InvalidRequest));
    }
    api_versions_with(None)
}

fn api_versions_with(error: Option<ResponseError>) -> ApiVersionsResponse {
    let served = served_versions().iter();
    let keys = served.map(|&(key, min, max)| {
        ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max)
    });
    ApiVersionsResponse::default().with_error_code(crate::codec::code(error)).with_api_keys(keys.collect())
}

/// Reads all records of an internal partition, in order.
pub(crate) fn for_each_record(
    log: &Log,
    topic: &'static str,
    partition: TopicPartition,
    mut visit: impl FnMut(records::Record) -> Result<(), String>,
) -> Result<(), OpenError> {
    let Some(state) = log.partition(partition) else { return Ok(()) };
    let mut offset = state.start_offset;
    while offset < state.high_watermark {
        let read = log.read(partition, offset, LOAD_BYTES, true)?;
        let bad = |offset, reason: String| OpenError::Record { topic, offset, reason };
        for item in batch::split(&read.batches) {
            let (header, batch) = item.map_err(|error| bad(offset, error.to_string()))?;
            if !batch::verify_crc(&batch) {
                let reason = "the checksum of its batch is wrong: the file is damaged; `mainstem scrub` tells where, restore \
                              the data directory from a copy";
                return Err(bad(header.base_offset, reason.to_owned()));
            }
            for record in records::records(&batch).map_err(|error| bad(offset, error.to_string()))? {
                let record = record.map_err(|error| bad(offset, error.to_string()))?;
                let at = record.offset;
                visit(record).map_err(|reason| bad(at, reason))?;
            }
        }
        if read.next_offset <= offset {
            return Err(bad(offset, "the log gives no records below its high watermark".to_owned()));
        }
        offset = read.next_offset;
    }
    Ok(())
}

fn load_groups(log: &Log, catalog: &Catalog, groups: &Groups) -> Result<(), OpenError> {
    let Some(topic) = catalog.topic_named(OFFSETS_TOPIC) else { return Ok(()) };
    for partition in 0..topic.partitions {
        let tp = TopicPartition::new(TopicId(topic.id), partition);
        let read = for_each_record(log, OFFSETS_TOPIC, tp, |record| {
            let Some(key) = &record.key else { return Ok(()) };
            match OffsetsRecord::of_record(key, &record) {
                // The topic was deleted, and the process killed before the offset's tombstone.
                Ok(OffsetsRecord::Offset { topic, value: Some(value), .. }) if !value.is_of(catalog, &topic) => {}
                Ok(record) => groups.load(record),
                // Not ours to understand: it must not keep the broker from starting.
                Err(error) => tracing::warn!(offset = record.offset, %error, "skipped a record of {OFFSETS_TOPIC}"),
            }
            Ok(())
        });
        if let Err(error) = read {
            tracing::error!(partition, "groups begin where they stood before the damage: {error}");
        }
    }
    groups.loaded(TopicId(topic.id), topic.partitions);
    Ok(())
}

/// The partition that holds the definitions.
pub(crate) const CATALOG_PARTITION: TopicPartition = TopicPartition { topic: TopicId(CATALOG_TOPIC_ID), partition: 0 };
