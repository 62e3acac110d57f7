//! Frames as a connection brings them to a broker with a topic, a producer's batch and a group.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstem_broker::{Broker, BrokerConfig, ClientInfo, CloseConnection};
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::fetch::{FetchPartition, FetchRequest, FetchTopic};
use mainstem_kafka_wire::frame::{next_frame, served_versions};
use mainstem_kafka_wire::messages as m;
use mainstem_kafka_wire::messages::{ApiKey, Request, StrBytes, TopicName, encode_request};
use mainstem_kafka_wire::produce::{ProducePartition, ProduceRequest, ProduceTopic};
use mainstem_log::{Log, PartitionConfig, TopicId, TopicPartition, Urgency};
use mainstem_testkit::{SimClock, SimRandom};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::internal_topics::{append_definitions, topic_created};
use super::log_files::{entry, small_log};
use super::record_batches::batch_of;

/// A request of an input is at most this large.
const REQUEST_BYTES_MAX: usize = 1 << 20;
const TOPIC: &str = "t";
const TOPIC_ID: Uuid = Uuid::from_u128(9);
/// A request that has no answer by then gets none.
const ROUNDS: u32 = 40;

struct Rig {
    broker: Broker,
    log: Log,
    clock: Arc<SimClock>,
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"))
}

impl Rig {
    fn new() -> Rig {
        let (_, log) = small_log();
        append_definitions(&log, [topic_created(TOPIC_ID, TOPIC)]);
        let partition = TopicPartition::new(TopicId(TOPIC_ID), 0);
        log.create_partition(partition, PartitionConfig::default());
        let batches = batch_of(Compression::None, 3);
        log.append_and_wait(entry(partition, batches), Urgency::Ordinary).expect("the log takes it");
        Rig::on(log).expect("it opens")
    }

    /// `None` when the broker refuses what the log holds.
    fn on(log: Log) -> Option<Rig> {
        let config = BrokerConfig {
            offsets_topic_partitions: 2,
            partitions_max: 100,
            entry_bytes_max: 32 << 10,
            fetch_wait_ms_max: 0,
            ..BrokerConfig::default()
        };
        let clock = SimClock::new(1_000_000);
        let broker = Broker::open(log.clone(), config, clock.clone(), SimRandom::new(3)).ok()?;
        Some(Rig { broker, log, clock })
    }

    /// The answer, or `None` when none comes however much time passes.
    async fn send(&self, frame: Bytes) -> Option<Result<Option<Vec<Bytes>>, CloseConnection>> {
        let client = ClientInfo { host: "127.0.0.1".to_owned() };
        let answer = self.broker.handle(frame, &client);
        tokio::pin!(answer);
        for round in 0..ROUNDS {
            // Threads that change the catalog need real time, all else only its turn.
            let pause = Duration::from_millis(u64::from(round > 1));
            tokio::select! {
                biased;
                answer = &mut answer => return Some(answer),
                () = tokio::time::sleep(pause) => {}
            }
            while self.log.commit_once() {}
            self.clock.advance(Duration::from_secs(3_600) * round);
            self.broker.tick();
        }
        None
    }
}

pub(super) fn run(data: &[u8]) {
    let rig = Rig::new();
    runtime().block_on(async {
        let mut received = BytesMut::from(data);
        while let Ok(Some(frame)) = next_frame(&mut received, REQUEST_BYTES_MAX) {
            match rig.send(frame).await {
                Some(Ok(Some(chunks))) => {
                    let length = chunks.iter().map(Bytes::len).sum::<usize>() - 4;
                    let prefix = chunks.concat()[..4].try_into().expect("four bytes");
                    assert_eq!(i32::from_be_bytes(prefix), length as i32, "an answer is as long as it says");
                }
                Some(Ok(None)) | None => {}
                Some(Err(_)) => return,
            }
        }
    });
    assert_eq!(rig.log.failure(), None, "no request stops the log");
}

/// Starts a broker on what the log holds and asks for what it made of that.
pub(super) fn start(log: Log) {
    let Some(rig) = Rig::on(log) else { return };
    let asked =
        [ApiKey::Metadata, ApiKey::OffsetFetch, ApiKey::DescribeGroups, ApiKey::InitProducerId, ApiKey::Produce];
    runtime().block_on(async {
        for key in asked {
            let frame = frame_of(key, 5).expect("it encodes");
            if let Some(answer) = rig.send(frame.slice(4..)).await {
                answer.expect("no definition ends a connection");
            }
        }
    });
}

fn s(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic() -> TopicName {
    TopicName(s(TOPIC))
}

fn framed<R: Request>(version: i16, request: &R) -> Option<Bytes> {
    encode_request(version, 7, Some("fuzz"), request).ok()
}

fn produce(version: i16) -> Bytes {
    let partition = ProducePartition { index: 0, records: Some(batch_of(Compression::None, 3)) };
    let topic = ProduceTopic { name: s(TOPIC), partitions: vec![partition], ..ProduceTopic::default() };
    let request = ProduceRequest { acks: -1, timeout_ms: 1_000, topics: vec![topic], ..ProduceRequest::default() };
    request.encode(version, 7, Some("fuzz")).expect("it encodes")
}

fn fetch(version: i16) -> Bytes {
    let partition = FetchPartition { partition_max_bytes: 1 << 20, ..FetchPartition::default() };
    let topic = FetchTopic { name: s(TOPIC), partitions: vec![partition], ..FetchTopic::default() };
    let request = FetchRequest { min_bytes: 1, topics: vec![topic], ..FetchRequest::default() };
    request.encode(version, 7, Some("fuzz")).expect("it encodes")
}

/// A request of this type with something in every array, as far as the version has it; else an empty one.
fn frame_of(key: ApiKey, version: i16) -> Option<Bytes> {
    macro_rules! framed_or_empty {
        ($request:ty, $full:expr) => {
            framed(version, &$full).or_else(|| framed(version, &<$request>::default()))
        };
    }
    let group = || m::GroupId(s("g"));
    match key {
        ApiKey::Produce if version < 3 => None,
        ApiKey::Produce => Some(produce(version)),
        ApiKey::Fetch => Some(fetch(version)),
        ApiKey::ApiVersions => framed_or_empty!(
            m::ApiVersionsRequest,
            m::ApiVersionsRequest::default().with_client_software_name(s("f")).with_client_software_version(s("1"))
        ),
        ApiKey::Metadata => framed_or_empty!(
            m::MetadataRequest,
            m::MetadataRequest::default()
                .with_topics(Some(vec![m::metadata_request::MetadataRequestTopic::default().with_name(Some(topic()))]))
        ),
        ApiKey::ListOffsets => framed_or_empty!(m::ListOffsetsRequest, {
            let partition = m::list_offsets_request::ListOffsetsPartition::default().with_timestamp(1_001);
            let asked = m::list_offsets_request::ListOffsetsTopic::default();
            m::ListOffsetsRequest::default()
                .with_topics(vec![asked.with_name(topic()).with_partitions(vec![partition])])
        }),
        ApiKey::OffsetForLeaderEpoch => framed_or_empty!(m::OffsetForLeaderEpochRequest, {
            let partition = m::offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
            let asked = m::offset_for_leader_epoch_request::OffsetForLeaderTopic::default();
            m::OffsetForLeaderEpochRequest::default()
                .with_topics(vec![asked.with_topic(topic()).with_partitions(vec![partition])])
        }),
        ApiKey::CreateTopics => framed_or_empty!(m::CreateTopicsRequest, {
            let config = m::create_topics_request::CreatableTopicConfig::default();
            let asked = m::create_topics_request::CreatableTopic::default()
                .with_name(TopicName(s("new")))
                .with_num_partitions(1)
                .with_replication_factor(1)
                .with_configs(vec![config.with_name(s("retention.ms")).with_value(Some(s("9")))]);
            m::CreateTopicsRequest::default().with_topics(vec![asked])
        }),
        ApiKey::DeleteTopics if version < 6 => {
            framed(version, &m::DeleteTopicsRequest::default().with_topic_names(vec![topic()]))
        }
        ApiKey::DeleteTopics => framed_or_empty!(m::DeleteTopicsRequest, {
            let state = m::delete_topics_request::DeleteTopicState::default().with_name(Some(topic()));
            m::DeleteTopicsRequest::default().with_topics(vec![state])
        }),
        ApiKey::DeleteRecords => framed_or_empty!(m::DeleteRecordsRequest, {
            let partition = m::delete_records_request::DeleteRecordsPartition::default().with_offset(1);
            let asked = m::delete_records_request::DeleteRecordsTopic::default();
            m::DeleteRecordsRequest::default()
                .with_topics(vec![asked.with_name(topic()).with_partitions(vec![partition])])
        }),
        ApiKey::CreatePartitions => framed_or_empty!(m::CreatePartitionsRequest, {
            let asked = m::create_partitions_request::CreatePartitionsTopic::default();
            m::CreatePartitionsRequest::default().with_topics(vec![asked.with_name(topic()).with_count(3)])
        }),
        ApiKey::DescribeConfigs => framed_or_empty!(m::DescribeConfigsRequest, {
            let asked = m::describe_configs_request::DescribeConfigsResource::default();
            m::DescribeConfigsRequest::default()
                .with_resources(vec![asked.with_resource_type(2).with_resource_name(s(TOPIC))])
        }),
        ApiKey::IncrementalAlterConfigs => framed_or_empty!(m::IncrementalAlterConfigsRequest, {
            let config = m::incremental_alter_configs_request::AlterableConfig::default()
                .with_name(s("retention.ms"))
                .with_value(Some(s("7")));
            let asked = m::incremental_alter_configs_request::AlterConfigsResource::default();
            m::IncrementalAlterConfigsRequest::default().with_resources(vec![
                asked.with_resource_type(2).with_resource_name(s(TOPIC)).with_configs(vec![config]),
            ])
        }),
        ApiKey::DescribeCluster => framed(version, &m::DescribeClusterRequest::default()),
        ApiKey::InitProducerId => framed(version, &m::InitProducerIdRequest::default()),
        ApiKey::FindCoordinator if version < 4 => {
            framed(version, &m::FindCoordinatorRequest::default().with_key(s("g")))
        }
        ApiKey::FindCoordinator => {
            framed(version, &m::FindCoordinatorRequest::default().with_coordinator_keys(vec![s("g")]))
        }
        ApiKey::JoinGroup => framed_or_empty!(m::JoinGroupRequest, {
            let protocol = m::join_group_request::JoinGroupRequestProtocol::default().with_name(s("range"));
            m::JoinGroupRequest::default()
                .with_group_id(group())
                .with_session_timeout_ms(10_000)
                .with_protocol_type(s("consumer"))
                .with_protocols(vec![protocol.with_metadata(Bytes::from_static(b"m"))])
        }),
        ApiKey::SyncGroup => framed_or_empty!(m::SyncGroupRequest, {
            let assignment = m::sync_group_request::SyncGroupRequestAssignment::default().with_member_id(s("m"));
            m::SyncGroupRequest::default().with_group_id(group()).with_assignments(vec![assignment])
        }),
        ApiKey::Heartbeat => framed(version, &m::HeartbeatRequest::default().with_group_id(group())),
        ApiKey::LeaveGroup if version < 3 => {
            framed(version, &m::LeaveGroupRequest::default().with_group_id(group()).with_member_id(s("m")))
        }
        ApiKey::LeaveGroup => framed_or_empty!(m::LeaveGroupRequest, {
            let member = m::leave_group_request::MemberIdentity::default().with_member_id(s("m"));
            m::LeaveGroupRequest::default().with_group_id(group()).with_members(vec![member])
        }),
        ApiKey::OffsetCommit => framed_or_empty!(m::OffsetCommitRequest, {
            let partition = m::offset_commit_request::OffsetCommitRequestPartition::default()
                .with_committed_offset(2)
                .with_committed_metadata(Some(s("m")));
            let asked = m::offset_commit_request::OffsetCommitRequestTopic::default();
            m::OffsetCommitRequest::default()
                .with_group_id(group())
                .with_generation_id_or_member_epoch(-1)
                .with_topics(vec![asked.with_name(topic()).with_partitions(vec![partition])])
        }),
        ApiKey::OffsetFetch if version < 8 => framed_or_empty!(m::OffsetFetchRequest, {
            let asked = m::offset_fetch_request::OffsetFetchRequestTopic::default();
            m::OffsetFetchRequest::default()
                .with_group_id(group())
                .with_topics(Some(vec![asked.with_name(topic()).with_partition_indexes(vec![0])]))
        }),
        ApiKey::OffsetFetch => framed_or_empty!(m::OffsetFetchRequest, {
            let asked = m::offset_fetch_request::OffsetFetchRequestTopics::default();
            let asked = asked.with_name(topic()).with_partition_indexes(vec![0]);
            let of = m::offset_fetch_request::OffsetFetchRequestGroup::default();
            m::OffsetFetchRequest::default().with_groups(vec![of.with_group_id(group()).with_topics(Some(vec![asked]))])
        }),
        ApiKey::ListGroups => framed_or_empty!(
            m::ListGroupsRequest,
            m::ListGroupsRequest::default().with_states_filter(vec![s("Stable")])
        ),
        ApiKey::DescribeGroups => framed(version, &m::DescribeGroupsRequest::default().with_groups(vec![group()])),
        ApiKey::DeleteGroups => framed(version, &m::DeleteGroupsRequest::default().with_groups_names(vec![group()])),
        other => panic!("{other:?} is served and has no seed"),
    }
}

/// One request of each type and version that is served, framed.
pub(super) fn requests() -> Vec<(String, Bytes)> {
    let versions = served_versions().iter().flat_map(|&(key, min, max)| (min..=max).map(move |version| (key, version)));
    versions
        .filter_map(|(key, version)| {
            let name = format!("{key:?}-{version:02}").to_lowercase();
            Some((name, frame_of(key, version)?))
        })
        .collect()
}

/// The newest version of each request alone, and a life of a client.
pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let newest = |key: ApiKey| {
        let (.., max) = served_versions().iter().find(|(served, ..)| *served == key).expect("it is served");
        frame_of(key, *max).expect("it encodes").to_vec()
    };
    let mut seeds: Vec<(String, Vec<u8>)> =
        served_versions().iter().map(|&(key, ..)| (format!("{key:?}").to_lowercase(), newest(key))).collect();
    let life = [
        ApiKey::ApiVersions,
        ApiKey::Metadata,
        ApiKey::InitProducerId,
        ApiKey::FindCoordinator,
        ApiKey::JoinGroup,
        ApiKey::SyncGroup,
        ApiKey::OffsetCommit,
        ApiKey::OffsetFetch,
        ApiKey::LeaveGroup,
        ApiKey::ListGroups,
        ApiKey::DeleteGroups,
    ];
    let mut old = [produce(3), fetch(4)].concat();
    old.extend(frame_of(ApiKey::OffsetCommit, 2).expect("it encodes"));
    old.extend(frame_of(ApiKey::DeleteTopics, 1).expect("it encodes"));
    seeds.push(("life".to_owned(), life.into_iter().flat_map(newest).collect()));
    seeds.push(("old".to_owned(), old));
    seeds
}
