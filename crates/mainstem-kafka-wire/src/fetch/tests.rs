use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    BrokerId, FetchRequest as TheirRequest, FetchResponse as TheirResponse, ProducerId, RequestHeader, TopicName,
    fetch_request as their_request, fetch_response as their_response,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::testing::{damaged, random_bytes, random_option, random_text, random_uuid, random_vec, seed};
use crate::wire::{LeaderIdAndEpoch, NodeEndpoint};

fn random_topic(rng: &mut SmallRng, version: i16) -> (StrBytes, Uuid) {
    if version < 13 { (random_text(rng), Uuid::nil()) } else { (StrBytes::default(), random_uuid(rng)) }
}

/// A request that uses every field `version` has.
fn random_request(rng: &mut SmallRng, version: i16) -> FetchRequest {
    let mut request = FetchRequest {
        replica_id: rng.random(),
        max_wait_ms: rng.random(),
        min_bytes: rng.random(),
        max_bytes: rng.random(),
        isolation_level: rng.random(),
        topics: random_vec(rng, 4, |rng| {
            let (name, topic_id) = random_topic(rng, version);
            FetchTopic { name, topic_id, partitions: random_vec(rng, 4, |rng| random_partition(rng, version)) }
        }),
        ..FetchRequest::default()
    };
    if version >= 7 {
        request.session_id = rng.random();
        request.session_epoch = rng.random();
        request.forgotten_topics = random_vec(rng, 3, |rng| {
            let (name, topic_id) = random_topic(rng, version);
            ForgottenTopic { name, topic_id, partitions: random_vec(rng, 4, |rng| rng.random()) }
        });
    }
    if version >= 11 {
        request.rack_id = random_text(rng);
    }
    if version >= 12 {
        request.cluster_id = random_option(rng, random_text);
    }
    if version >= 15 {
        let state = if rng.random_bool(0.3) { (-1, -1) } else { (rng.random(), rng.random()) };
        (request.replica_id, request.replica_epoch) = state;
    }
    request
}

fn random_partition(rng: &mut SmallRng, version: i16) -> FetchPartition {
    FetchPartition {
        partition: rng.random(),
        current_leader_epoch: if version < 9 { -1 } else { rng.random() },
        fetch_offset: rng.random(),
        last_fetched_epoch: if version < 12 { -1 } else { rng.random() },
        log_start_offset: if version < 5 { -1 } else { rng.random() },
        partition_max_bytes: rng.random(),
        replica_directory_id: random_option(rng, random_uuid).filter(|_| version >= 17).unwrap_or_default(),
        high_watermark: random_option(rng, |rng| rng.random()).filter(|_| version >= 18).unwrap_or(i64::MAX),
    }
}

fn to_theirs(request: &FetchRequest, version: i16) -> TheirRequest {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            their_request::FetchPartition::default()
                .with_partition(partition.partition)
                .with_current_leader_epoch(partition.current_leader_epoch)
                .with_fetch_offset(partition.fetch_offset)
                .with_last_fetched_epoch(partition.last_fetched_epoch)
                .with_log_start_offset(partition.log_start_offset)
                .with_partition_max_bytes(partition.partition_max_bytes)
                .with_replica_directory_id(partition.replica_directory_id)
                .with_high_watermark(partition.high_watermark)
        });
        their_request::FetchTopic::default()
            .with_topic(TopicName(topic.name.clone()))
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    let forgotten = request.forgotten_topics.iter().map(|topic| {
        their_request::ForgottenTopic::default()
            .with_topic(TopicName(topic.name.clone()))
            .with_topic_id(topic.topic_id)
            .with_partitions(topic.partitions.clone())
    });
    let theirs = TheirRequest::default()
        .with_cluster_id(request.cluster_id.clone())
        .with_max_wait_ms(request.max_wait_ms)
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes)
        .with_isolation_level(request.isolation_level)
        .with_session_id(request.session_id)
        .with_session_epoch(request.session_epoch)
        .with_topics(topics.collect())
        .with_forgotten_topics_data(forgotten.collect())
        .with_rack_id(request.rack_id.clone());
    if version < 15 {
        return theirs.with_replica_id(BrokerId(request.replica_id));
    }
    theirs.with_replica_state(
        their_request::ReplicaState::default()
            .with_replica_id(BrokerId(request.replica_id))
            .with_replica_epoch(request.replica_epoch),
    )
}

fn random_response(rng: &mut SmallRng, version: i16) -> FetchResponse {
    let endpoint = |rng: &mut SmallRng| NodeEndpoint {
        node_id: rng.random(),
        host: random_text(rng),
        port: rng.random(),
        rack: random_option(rng, random_text),
    };
    FetchResponse {
        throttle_time_ms: rng.random(),
        error_code: if version < 7 { 0 } else { rng.random() },
        session_id: if version < 7 { 0 } else { rng.random() },
        topics: random_vec(rng, 4, |rng| {
            let (name, topic_id) = random_topic(rng, version);
            let partitions = random_vec(rng, 4, |rng| random_partition_response(rng, version));
            FetchTopicResponse { name, topic_id, partitions }
        }),
        node_endpoints: if version < 16 { vec![] } else { random_vec(rng, 2, endpoint) },
    }
}

fn random_partition_response(rng: &mut SmallRng, version: i16) -> FetchPartitionResponse {
    let is_flexible = version >= 12;
    FetchPartitionResponse {
        partition: rng.random(),
        error_code: rng.random(),
        high_watermark: rng.random(),
        last_stable_offset: rng.random(),
        log_start_offset: if version < 5 { -1 } else { rng.random() },
        diverging_epoch: random_option(rng, |rng| EpochEndOffset { epoch: rng.random(), end_offset: rng.random() })
            .filter(|_| is_flexible),
        current_leader: random_option(rng, |rng| LeaderIdAndEpoch {
            leader_id: rng.random(),
            leader_epoch: rng.random(),
        })
        .filter(|_| is_flexible),
        snapshot_id: random_option(rng, |rng| SnapshotId { end_offset: rng.random(), epoch: rng.random() })
            .filter(|_| is_flexible),
        aborted_transactions: random_option(rng, |rng| {
            random_vec(rng, 3, |rng| AbortedTransaction { producer_id: rng.random(), first_offset: rng.random() })
        }),
        preferred_read_replica: if version < 11 { -1 } else { rng.random() },
        records: random_vec(rng, 3, |rng| Bytes::from(random_bytes(rng, 300))),
    }
}

/// All record sets in one piece, as they are after decoding.
fn joined(mut response: FetchResponse) -> FetchResponse {
    for partition in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        let records = partition.records.concat();
        partition.records = if records.is_empty() { vec![] } else { vec![records.into()] };
    }
    response
}

fn response_to_theirs(response: &FetchResponse) -> TheirResponse {
    let topics = response.topics.iter().map(|topic| {
        their_response::FetchableTopicResponse::default()
            .with_topic(TopicName(topic.name.clone()))
            .with_topic_id(topic.topic_id)
            .with_partitions(topic.partitions.iter().map(partition_to_theirs).collect())
    });
    let endpoints = response.node_endpoints.iter().map(|endpoint| {
        their_response::NodeEndpoint::default()
            .with_node_id(BrokerId(endpoint.node_id))
            .with_host(endpoint.host.clone())
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.clone())
    });
    TheirResponse::default()
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_error_code(response.error_code)
        .with_session_id(response.session_id)
        .with_responses(topics.collect())
        .with_node_endpoints(endpoints.collect())
}

fn partition_to_theirs(partition: &FetchPartitionResponse) -> their_response::PartitionData {
    let aborted = |aborted: &AbortedTransaction| {
        their_response::AbortedTransaction::default()
            .with_producer_id(ProducerId(aborted.producer_id))
            .with_first_offset(aborted.first_offset)
    };
    let mut theirs = their_response::PartitionData::default()
        .with_partition_index(partition.partition)
        .with_error_code(partition.error_code)
        .with_high_watermark(partition.high_watermark)
        .with_last_stable_offset(partition.last_stable_offset)
        .with_log_start_offset(partition.log_start_offset)
        .with_aborted_transactions(partition.aborted_transactions.as_ref().map(|all| all.iter().map(aborted).collect()))
        .with_preferred_read_replica(BrokerId(partition.preferred_read_replica))
        .with_records(Some(partition.records.concat().into()));
    if let Some(diverging) = partition.diverging_epoch {
        let epoch = their_response::EpochEndOffset::default();
        theirs = theirs.with_diverging_epoch(epoch.with_epoch(diverging.epoch).with_end_offset(diverging.end_offset));
    }
    if let Some(leader) = partition.current_leader {
        let theirs_leader = their_response::LeaderIdAndEpoch::default();
        theirs = theirs.with_current_leader(
            theirs_leader.with_leader_id(BrokerId(leader.leader_id)).with_leader_epoch(leader.leader_epoch),
        );
    }
    if let Some(snapshot) = partition.snapshot_id {
        let id = their_response::SnapshotId::default();
        theirs = theirs.with_snapshot_id(id.with_end_offset(snapshot.end_offset).with_epoch(snapshot.epoch));
    }
    theirs
}

#[test]
fn requests_of_all_versions_agree_with_another_implementation() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for version in VERSIONS {
        for _ in 0..50 {
            let request = random_request(&mut rng, version);
            let mut theirs = BytesMut::new();
            let header = RequestHeader::default()
                .with_request_api_key(1)
                .with_request_api_version(version)
                .with_correlation_id(3)
                .with_client_id(None);
            header.encode(&mut theirs, ApiKey::Fetch.request_header_version(version)).unwrap();
            let header_bytes = theirs.len();
            to_theirs(&request, version).encode(&mut theirs, version).unwrap();
            let ours = request.encode(version, 3, None).unwrap();
            assert_eq!(ours[..4], (theirs.len() as i32).to_be_bytes());
            assert_eq!(ours[4..], theirs[..], "version {version}");
            let message = theirs.freeze().slice(header_bytes..);
            assert_eq!(FetchRequest::decode(version, message).unwrap(), request, "version {version}");
        }
    }
}

#[test]
fn responses_of_all_versions_agree_with_another_implementation() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for version in VERSIONS {
        for _ in 0..50 {
            let response = random_response(&mut rng, version);
            let mut theirs = BytesMut::new();
            response_to_theirs(&response).encode(&mut theirs, version).unwrap();
            let ours = Bytes::from(response.encode(version, 3).unwrap().concat());
            let header_bytes = 8 + usize::from(version >= 12);
            assert_eq!(ours[..4], (ours.len() as i32 - 4).to_be_bytes());
            assert_eq!(ours[header_bytes..], theirs[..], "version {version}");
            let message = ours.slice(header_bytes..);
            assert_eq!(TheirResponse::decode(&mut message.clone(), version).unwrap(), response_to_theirs(&response));
            assert_eq!(FetchResponse::decode(version, message).unwrap(), joined(response), "version {version}");
        }
    }
}

#[test]
fn record_sets_are_sent_without_a_copy() {
    let pieces = [b"first".as_slice(), b"second", b"third"].map(Bytes::from_static);
    let partition = |records: &[Bytes]| FetchPartitionResponse { records: records.to_vec(), ..Default::default() };
    let topic = FetchTopicResponse {
        partitions: vec![partition(&pieces[..2]), partition(&[]), partition(&pieces[2..])],
        ..Default::default()
    };
    for version in VERSIONS {
        let chunks = FetchResponse { topics: vec![topic.clone()], ..Default::default() }.encode(version, 0).unwrap();
        for piece in &pieces {
            assert!(chunks.iter().any(|chunk| chunk.as_ptr() == piece.as_ptr() && chunk.len() == piece.len()));
        }
        assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
        assert_eq!(chunks.concat()[..4], (chunks.concat().len() as i32 - 4).to_be_bytes());
    }
}

#[test]
fn damaged_messages_are_errors_or_messages_but_never_panics() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for version in VERSIONS {
        assert!(FetchRequest::decode(version, Bytes::new()).is_err());
        for _ in 0..300 {
            let request = random_request(&mut rng, version).encode(version, 0, None).unwrap().slice(14..);
            let _ = FetchRequest::decode(version, damaged(&mut rng, &request));
            let response = random_response(&mut rng, version).encode(version, 0).unwrap().concat();
            let _ = FetchResponse::decode(version, damaged(&mut rng, &response[8..]));
        }
    }
    for version in [-1, 3, 19] {
        let unsupported = WireError::UnsupportedVersion { api_key: 1, version };
        assert_eq!(FetchRequest::decode(version, Bytes::new()), Err(unsupported.clone()));
        assert_eq!(FetchResponse::<Bytes>::default().encode(version, 0), Err(unsupported));
    }
}
