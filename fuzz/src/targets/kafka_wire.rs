//! Frames and every request in every served version.

use bytes::{Bytes, BytesMut};
use mainstem_kafka_wire::batch;
use mainstem_kafka_wire::fetch::{self, FetchRequest};
use mainstem_kafka_wire::frame::{FRAME_BYTES_MAX, RequestHeader, next_frame, parse_request};
use mainstem_kafka_wire::messages as m;
use mainstem_kafka_wire::messages::{ApiKey, decode_request};
use mainstem_kafka_wire::produce::{self, ProduceRequest};

use super::kafka_broker::requests;

/// Longer text is cut by the encoders of old versions, so that a message need not come back as it was.
const TEXT_BYTES_MAX: usize = i16::MAX as usize;

pub(super) fn run(data: &[u8]) {
    let mut received = BytesMut::from(data);
    while let Ok(Some(frame)) = next_frame(&mut received, FRAME_BYTES_MAX) {
        if let Ok((header, message)) = parse_request(frame) {
            decode(&header, message, data.len() < TEXT_BYTES_MAX);
        }
    }
}

fn decode(header: &RequestHeader, message: Bytes, comes_back: bool) {
    let version = header.version;
    macro_rules! generated {
        ($($key:ident $request:ident),* $(,)?) => {
            match header.api_key {
                ApiKey::Produce => produce(version, message, comes_back),
                ApiKey::Fetch => fetch(version, message, comes_back),
                $(ApiKey::$key => drop(decode_request::<m::$request>(version, message)),)*
                _ => {}
            }
        };
    }
    generated!(
        ApiVersions ApiVersionsRequest,
        CreatePartitions CreatePartitionsRequest,
        CreateTopics CreateTopicsRequest,
        DeleteGroups DeleteGroupsRequest,
        DeleteRecords DeleteRecordsRequest,
        DeleteTopics DeleteTopicsRequest,
        DescribeCluster DescribeClusterRequest,
        DescribeConfigs DescribeConfigsRequest,
        DescribeGroups DescribeGroupsRequest,
        FindCoordinator FindCoordinatorRequest,
        Heartbeat HeartbeatRequest,
        IncrementalAlterConfigs IncrementalAlterConfigsRequest,
        InitProducerId InitProducerIdRequest,
        JoinGroup JoinGroupRequest,
        LeaveGroup LeaveGroupRequest,
        ListGroups ListGroupsRequest,
        ListOffsets ListOffsetsRequest,
        Metadata MetadataRequest,
        OffsetCommit OffsetCommitRequest,
        OffsetFetch OffsetFetchRequest,
        OffsetForLeaderEpoch OffsetForLeaderEpochRequest,
        SyncGroup SyncGroupRequest,
    );
}

fn produce(version: i16, message: Bytes, comes_back: bool) {
    let Ok(request) = ProduceRequest::decode(version, message) else { return };
    for partition in request.topics.iter().flat_map(|topic| &topic.partitions) {
        if let Some(records) = &partition.records {
            let count = batch::split(records).filter(|found| found.is_ok()).count();
            assert!(count <= records.len() / batch::HEADER_BYTES, "a batch has a header");
        }
    }
    if comes_back && produce::VERSIONS.contains(&version) {
        let frame = request.encode(version, 1, None).expect("it encodes what it decoded");
        let (_, message) = parse_request(frame.slice(4..)).expect("a header");
        assert_eq!(ProduceRequest::decode(version, message), Ok(request));
    }
}

fn fetch(version: i16, message: Bytes, comes_back: bool) {
    let Ok(request) = FetchRequest::decode(version, message) else { return };
    if comes_back && fetch::VERSIONS.contains(&version) {
        let frame = request.encode(version, 1, None).expect("it encodes what it decoded");
        let (_, message) = parse_request(frame.slice(4..)).expect("a header");
        assert_eq!(FetchRequest::decode(version, message), Ok(request));
    }
}

/// One request of each type and version.
pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    requests().into_iter().map(|(name, frame)| (name, frame.to_vec())).collect()
}
