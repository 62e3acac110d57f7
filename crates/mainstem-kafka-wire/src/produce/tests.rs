use bytes::BytesMut;
use kafka_protocol::messages::{
    BrokerId, ProduceRequest as TheirRequest, ProduceResponse as TheirResponse, RequestHeader, TopicName,
    TransactionalId, produce_request as their_request, produce_response as their_response,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::testing::{damaged, random_bytes, random_option, random_text, random_uuid, random_vec, seed};

/// A request that uses every field `version` has.
fn random_request(rng: &mut SmallRng, version: i16) -> ProduceRequest {
    ProduceRequest {
        transactional_id: random_option(rng, random_text),
        acks: rng.random(),
        timeout_ms: rng.random(),
        topics: random_vec(rng, 4, |rng| ProduceTopic {
            name: if version < 13 { random_text(rng) } else { StrBytes::default() },
            topic_id: if version < 13 { Uuid::nil() } else { random_uuid(rng) },
            partitions: random_vec(rng, 4, |rng| ProducePartition {
                index: rng.random(),
                records: random_option(rng, |rng| random_bytes(rng, 300).into()),
            }),
        }),
    }
}

fn to_theirs(request: &ProduceRequest) -> TheirRequest {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            their_request::PartitionProduceData::default()
                .with_index(partition.index)
                .with_records(partition.records.clone())
        });
        their_request::TopicProduceData::default()
            .with_name(TopicName(topic.name.clone()))
            .with_topic_id(topic.topic_id)
            .with_partition_data(partitions.collect())
    });
    TheirRequest::default()
        .with_transactional_id(request.transactional_id.clone().map(TransactionalId))
        .with_acks(request.acks)
        .with_timeout_ms(request.timeout_ms)
        .with_topic_data(topics.collect())
}

fn random_response(rng: &mut SmallRng, version: i16) -> ProduceResponse {
    let endpoint = |rng: &mut SmallRng| NodeEndpoint {
        node_id: rng.random(),
        host: random_text(rng),
        port: rng.random(),
        rack: random_option(rng, random_text),
    };
    ProduceResponse {
        topics: random_vec(rng, 4, |rng| ProduceTopicResponse {
            name: if version < 13 { random_text(rng) } else { StrBytes::default() },
            topic_id: if version < 13 { Uuid::nil() } else { random_uuid(rng) },
            partitions: random_vec(rng, 4, |rng| random_partition(rng, version)),
        }),
        throttle_time_ms: rng.random(),
        node_endpoints: if version < 10 { vec![] } else { random_vec(rng, 2, endpoint) },
    }
}

fn random_partition(rng: &mut SmallRng, version: i16) -> ProducePartitionResponse {
    ProducePartitionResponse {
        index: rng.random(),
        error_code: rng.random(),
        base_offset: rng.random(),
        log_append_time_ms: rng.random(),
        log_start_offset: if version < 5 { -1 } else { rng.random() },
        record_errors: random_vec(rng, if version < 8 { 0 } else { 3 }, |rng| RecordError {
            batch_index: rng.random(),
            message: random_option(rng, random_text),
        }),
        error_message: if version < 8 { None } else { random_option(rng, random_text) },
        current_leader: (version >= 10 && rng.random_bool(0.5))
            .then(|| LeaderIdAndEpoch { leader_id: rng.random(), leader_epoch: rng.random() }),
    }
}

fn response_to_theirs(response: &ProduceResponse) -> TheirResponse {
    let topics = response.topics.iter().map(|topic| {
        their_response::TopicProduceResponse::default()
            .with_name(TopicName(topic.name.clone()))
            .with_topic_id(topic.topic_id)
            .with_partition_responses(topic.partitions.iter().map(partition_to_theirs).collect())
    });
    let endpoints = response.node_endpoints.iter().map(|endpoint| {
        their_response::NodeEndpoint::default()
            .with_node_id(BrokerId(endpoint.node_id))
            .with_host(endpoint.host.clone())
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.clone())
    });
    TheirResponse::default()
        .with_responses(topics.collect())
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_node_endpoints(endpoints.collect())
}

fn partition_to_theirs(partition: &ProducePartitionResponse) -> their_response::PartitionProduceResponse {
    let errors = partition.record_errors.iter().map(|error| {
        their_response::BatchIndexAndErrorMessage::default()
            .with_batch_index(error.batch_index)
            .with_batch_index_error_message(error.message.clone())
    });
    let mut theirs = their_response::PartitionProduceResponse::default()
        .with_index(partition.index)
        .with_error_code(partition.error_code)
        .with_base_offset(partition.base_offset)
        .with_log_append_time_ms(partition.log_append_time_ms)
        .with_log_start_offset(partition.log_start_offset)
        .with_record_errors(errors.collect())
        .with_error_message(partition.error_message.clone());
    if let Some(leader) = partition.current_leader {
        theirs = theirs.with_current_leader(
            their_response::LeaderIdAndEpoch::default()
                .with_leader_id(BrokerId(leader.leader_id))
                .with_leader_epoch(leader.leader_epoch),
        );
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
                .with_request_api_key(0)
                .with_request_api_version(version)
                .with_correlation_id(3)
                .with_client_id(Some(StrBytes::from_static_str("c")));
            header.encode(&mut theirs, ApiKey::Produce.request_header_version(version)).unwrap();
            let header_bytes = theirs.len();
            to_theirs(&request).encode(&mut theirs, version).unwrap();
            let ours = request.encode(version, 3, Some("c")).unwrap();
            assert_eq!(ours[..4], (theirs.len() as i32).to_be_bytes());
            assert_eq!(ours[4..], theirs[..], "version {version}");
            let message = theirs.freeze().slice(header_bytes..);
            assert_eq!(ProduceRequest::decode(version, message).unwrap(), request, "version {version}");
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
            let ours = response.encode(version, 3).unwrap();
            let header_bytes = 8 + usize::from(version >= 9);
            assert_eq!(ours[..4], (ours.len() as i32 - 4).to_be_bytes());
            assert_eq!(ours[header_bytes..], theirs[..], "version {version}");
            let message = ours.slice(header_bytes..);
            assert_eq!(TheirResponse::decode(&mut message.clone(), version).unwrap(), response_to_theirs(&response));
            assert_eq!(ProduceResponse::decode(version, message).unwrap(), response, "version {version}");
        }
    }
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    let request = to_theirs(&random_request(&mut SmallRng::seed_from_u64(seed()), 12));
    let tagged = request.clone().with_unknown_tagged_field(7, Bytes::from_static(b"?"));
    let decoded = [request, tagged].map(|request| {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, 12).unwrap();
        ProduceRequest::decode(12, bytes.freeze()).unwrap()
    });
    assert_eq!(decoded[0], decoded[1]);
}

#[test]
fn records_are_slices_of_the_request() {
    let partition = ProducePartition { index: 0, records: Some(Bytes::from_static(b"some records")) };
    let topic =
        ProduceTopic { name: StrBytes::from_static_str("t"), partitions: vec![partition], ..Default::default() };
    let request = ProduceRequest { topics: vec![topic], ..Default::default() };
    let frame = request.encode(9, 1, None).unwrap().slice(4..);
    let range = frame.as_ptr_range();
    let (_, message) = crate::frame::parse_request(frame).unwrap();
    let decoded = ProduceRequest::decode(9, message).unwrap();
    assert_eq!(decoded, request);
    assert!(range.contains(&decoded.topics[0].partitions[0].records.as_ref().unwrap().as_ptr()));
}

#[test]
fn damaged_messages_are_errors_or_messages_but_never_panics() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for version in VERSIONS {
        assert!(ProduceRequest::decode(version, Bytes::new()).is_err());
        for _ in 0..300 {
            let request = random_request(&mut rng, version).encode(version, 0, None).unwrap().slice(14..);
            let _ = ProduceRequest::decode(version, damaged(&mut rng, &request));
            let response = random_response(&mut rng, version).encode(version, 0).unwrap().slice(8..);
            let _ = ProduceResponse::decode(version, damaged(&mut rng, &response));
        }
    }
    for version in [-1, 2, 14] {
        let unsupported = WireError::UnsupportedVersion { api_key: 0, version };
        assert_eq!(ProduceRequest::decode(version, Bytes::new()), Err(unsupported.clone()));
        assert_eq!(ProduceResponse::default().encode(version, 0), Err(unsupported));
    }
}
