//! All messages but Produce and Fetch, by the generated structs of `kafka_protocol`, and the codes of errors.
//!
//! The generated decoders make room for as many elements as an array claims to have. So [`decode_request`] first walks over
//! the bytes by the request's shape (which arrays and strings it has in which versions) and refuses what is not really there.

use bytes::Bytes;
pub use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
pub use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, ConsumerProtocolAssignment,
    ConsumerProtocolSubscription, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteGroupsRequest, DeleteGroupsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterRequest, DescribeClusterResponse, DescribeConfigsRequest,
    DescribeConfigsResponse, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, GroupId, HeartbeatRequest, HeartbeatResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, InitProducerIdRequest, InitProducerIdResponse, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, ProducerId, SyncGroupRequest, SyncGroupResponse, TopicName, TransactionalId,
    api_versions_request, api_versions_response, consumer_protocol_assignment, consumer_protocol_subscription,
    create_partitions_request, create_partitions_response, create_topics_request, create_topics_response,
    delete_groups_request, delete_groups_response, delete_records_request, delete_records_response,
    delete_topics_request, delete_topics_response, describe_cluster_request, describe_cluster_response,
    describe_configs_request, describe_configs_response, describe_groups_request, describe_groups_response,
    find_coordinator_request, find_coordinator_response, heartbeat_request, heartbeat_response,
    incremental_alter_configs_request, incremental_alter_configs_response, init_producer_id_request,
    init_producer_id_response, join_group_request, join_group_response, leave_group_request, leave_group_response,
    list_groups_request, list_groups_response, list_offsets_request, list_offsets_response, metadata_request,
    metadata_response, offset_commit_request, offset_commit_response, offset_fetch_request, offset_fetch_response,
    offset_for_leader_epoch_request, offset_for_leader_epoch_response, sync_group_request, sync_group_response,
};
pub use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes, VersionRange};

use crate::frame::{begin_request, begin_response, finish_frame};
use crate::wire::{Reader, WireError};

mod shape;

/// Reads the message that follows a request's header. Bytes after it are ignored, as Kafka does.
pub fn decode_request<T: Request>(version: i16, mut message: Bytes) -> Result<T, WireError> {
    let unsupported = WireError::UnsupportedVersion { api_key: T::KEY, version };
    if version < T::VERSIONS.min || version > T::VERSIONS.max {
        return Err(unsupported);
    }
    let api_key = ApiKey::try_from(T::KEY).map_err(|()| WireError::UnknownApi(T::KEY))?;
    shape::check(api_key, version, message.clone()).ok_or(unsupported)??;
    T::decode(&mut message, version).map_err(|error| WireError::Malformed(error.to_string()))
}

/// The whole frame of a response. Fails if `response` has a field set that `version` lacks and that may not be dropped.
pub fn encode_response<T>(version: i16, correlation_id: i32, response: &T) -> Result<Bytes, WireError>
where
    T: Encodable + HeaderVersion,
{
    let mut frame = begin_response(T::header_version(version), correlation_id).out;
    response.encode(&mut frame, version).map_err(|error| WireError::Encode(error.to_string()))?;
    finish_frame(&mut frame, 0);
    Ok(frame.into())
}

/// The whole frame of a request, as a client sends it.
pub fn encode_request<T: Request>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &T,
) -> Result<Bytes, WireError> {
    let api_key = ApiKey::try_from(T::KEY).map_err(|()| WireError::UnknownApi(T::KEY))?;
    let mut frame = begin_request(api_key, version, correlation_id, client_id).out;
    request.encode(&mut frame, version).map_err(|error| WireError::Encode(error.to_string()))?;
    finish_frame(&mut frame, 0);
    Ok(frame.into())
}

/// Reads the correlation id and the message of a response, from a frame without its length. For clients of servers they
/// trust: the lengths of arrays are believed.
pub fn decode_response<T: Request>(version: i16, frame: Bytes) -> Result<(i32, T::Response), WireError> {
    let (correlation_id, mut message) = split_response(T::Response::header_version(version), frame)?;
    let response =
        T::Response::decode(&mut message, version).map_err(|error| WireError::Malformed(error.to_string()))?;
    Ok((correlation_id, response))
}

/// The correlation id and the message of a response frame (without its length), given the version of its header.
pub fn split_response(header_version: i16, frame: Bytes) -> Result<(i32, Bytes), WireError> {
    let mut reader = Reader::new(frame, header_version >= 1);
    let correlation_id = reader.i32("correlation id")?;
    reader.skip_tagged()?;
    Ok((correlation_id, reader.into_rest()))
}

#[cfg(test)]
mod tests;
