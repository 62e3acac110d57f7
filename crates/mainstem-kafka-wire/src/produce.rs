//! Produce, versions 3 to 13.
//!
//! Flexible from 9; topics go by name up to 12 and by id from 13, and the other of the two fields is then empty. Record
//! sets are slices of the request.

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::frame::{begin_request, begin_response, finish_frame};
use crate::wire::{LeaderIdAndEpoch, NodeEndpoint, Reader, WireError, Writer, leader_value, node_endpoints_value};

/// Versions this module encodes and decodes.
pub const VERSIONS: std::ops::RangeInclusive<i16> = 3..=13;

const FLEXIBLE_FROM: i16 = 9;
const TOPIC_ID_FROM: i16 = 13;

/// Record sets to append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceRequest {
    pub transactional_id: Option<StrBytes>,
    /// 0: do not answer; 1 and -1: answer when durable.
    pub acks: i16,
    pub timeout_ms: i32,
    pub topics: Vec<ProduceTopic>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceTopic {
    /// Up to version 12.
    pub name: StrBytes,
    /// From version 13.
    pub topic_id: Uuid,
    pub partitions: Vec<ProducePartition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducePartition {
    pub index: i32,
    /// Concatenated batches, unchecked.
    pub records: Option<Bytes>,
}

/// What became of each partition of a [`ProduceRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceResponse {
    pub topics: Vec<ProduceTopicResponse>,
    pub throttle_time_ms: i32,
    /// From version 10: where the leaders named by partitions listen.
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceTopicResponse {
    /// Up to version 12.
    pub name: StrBytes,
    /// From version 13.
    pub topic_id: Uuid,
    pub partitions: Vec<ProducePartitionResponse>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducePartitionResponse {
    pub index: i32,
    pub error_code: i16,
    /// -1 on error.
    pub base_offset: i64,
    /// -1 unless the topic's timestamps are those of the log.
    pub log_append_time_ms: i64,
    /// From version 5.
    pub log_start_offset: i64,
    /// From version 8: the records because of which the batch was refused.
    pub record_errors: Vec<RecordError>,
    /// From version 8.
    pub error_message: Option<StrBytes>,
    /// From version 10, only with NOT_LEADER_OR_FOLLOWER.
    pub current_leader: Option<LeaderIdAndEpoch>,
}

impl Default for ProducePartitionResponse {
    fn default() -> Self {
        ProducePartitionResponse {
            index: 0,
            error_code: 0,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

/// A record that was refused, by its position in the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordError {
    pub batch_index: i32,
    pub message: Option<StrBytes>,
}

fn check_version(version: i16) -> Result<bool, WireError> {
    if !VERSIONS.contains(&version) {
        return Err(WireError::UnsupportedVersion { api_key: ApiKey::Produce as i16, version });
    }
    Ok(version >= FLEXIBLE_FROM)
}

impl ProduceRequest {
    /// Reads the message that follows the request header.
    pub fn decode(version: i16, message: Bytes) -> Result<ProduceRequest, WireError> {
        let mut reader = Reader::new(message, check_version(version)?);
        let request = ProduceRequest {
            transactional_id: reader.nullable_string("transactional id")?,
            acks: reader.i16("acks")?,
            timeout_ms: reader.i32("timeout")?,
            topics: reader.array("topics", 2, |reader| ProduceTopic::decode(version, reader))?,
        };
        reader.skip_tagged()?;
        Ok(request)
    }

    /// The whole frame, as a client sends it.
    pub fn encode(&self, version: i16, correlation_id: i32, client_id: Option<&str>) -> Result<Bytes, WireError> {
        check_version(version)?;
        let mut writer = begin_request(ApiKey::Produce, version, correlation_id, client_id);
        writer.nullable_string(self.transactional_id.as_deref());
        writer.i16(self.acks);
        writer.i32(self.timeout_ms);
        writer.array(&self.topics, |writer, topic| topic.encode(version, writer));
        writer.no_tagged();
        finish_frame(&mut writer.out, 0);
        Ok(writer.out.into())
    }
}

/// A topic's name or id, whichever the version has.
fn decode_topic(version: i16, reader: &mut Reader) -> Result<(StrBytes, Uuid), WireError> {
    if version >= TOPIC_ID_FROM {
        Ok((StrBytes::default(), reader.uuid("topic id")?))
    } else {
        Ok((reader.string("topic name")?, Uuid::nil()))
    }
}

fn encode_topic(version: i16, writer: &mut Writer, name: &str, topic_id: Uuid) {
    if version >= TOPIC_ID_FROM {
        writer.uuid(topic_id);
    } else {
        writer.string(name);
    }
}

impl ProduceTopic {
    fn decode(version: i16, reader: &mut Reader) -> Result<ProduceTopic, WireError> {
        let (name, topic_id) = decode_topic(version, reader)?;
        let partitions = reader.array("partitions", 5, |reader| {
            let partition =
                ProducePartition { index: reader.i32("partition")?, records: reader.nullable_bytes("records")? };
            reader.skip_tagged()?;
            Ok(partition)
        })?;
        reader.skip_tagged()?;
        Ok(ProduceTopic { name, topic_id, partitions })
    }

    fn encode(&self, version: i16, writer: &mut Writer) {
        encode_topic(version, writer, &self.name, self.topic_id);
        writer.array(&self.partitions, |writer, partition| {
            writer.i32(partition.index);
            writer.bytes_length(partition.records.as_ref().map(Bytes::len));
            writer.out.extend_from_slice(partition.records.as_deref().unwrap_or_default());
            writer.no_tagged();
        });
        writer.no_tagged();
    }
}

impl ProduceResponse {
    /// The whole frame, as the broker sends it.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Result<Bytes, WireError> {
        let is_flexible = check_version(version)?;
        let mut writer = begin_response(i16::from(is_flexible), correlation_id);
        writer.array(&self.topics, |writer, topic| {
            encode_topic(version, writer, &topic.name, topic.topic_id);
            writer.array(&topic.partitions, |writer, partition| partition.encode(version, writer));
            writer.no_tagged();
        });
        writer.i32(self.throttle_time_ms);
        if version >= 10 && !self.node_endpoints.is_empty() {
            writer.tagged(&[(0, node_endpoints_value(&self.node_endpoints))]);
        } else {
            writer.no_tagged();
        }
        finish_frame(&mut writer.out, 0);
        Ok(writer.out.into())
    }

    /// Reads the message that follows the response header.
    pub fn decode(version: i16, message: Bytes) -> Result<ProduceResponse, WireError> {
        let mut reader = Reader::new(message, check_version(version)?);
        let topics = reader.array("topics", 2, |reader| {
            let (name, topic_id) = decode_topic(version, reader)?;
            let partitions =
                reader.array("partitions", 22, |reader| ProducePartitionResponse::decode(version, reader))?;
            reader.skip_tagged()?;
            Ok(ProduceTopicResponse { name, topic_id, partitions })
        })?;
        let throttle_time_ms = reader.i32("throttle time")?;
        let mut node_endpoints = Vec::new();
        reader.tagged(|tag, reader| {
            if version < 10 || tag != 0 {
                return Ok(false);
            }
            node_endpoints = reader.node_endpoints()?;
            Ok(true)
        })?;
        Ok(ProduceResponse { topics, throttle_time_ms, node_endpoints })
    }
}

impl ProducePartitionResponse {
    fn encode(&self, version: i16, writer: &mut Writer) {
        writer.i32(self.index);
        writer.i16(self.error_code);
        writer.i64(self.base_offset);
        writer.i64(self.log_append_time_ms);
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        if version >= 8 {
            writer.array(&self.record_errors, |writer, error| {
                writer.i32(error.batch_index);
                writer.nullable_string(error.message.as_deref());
                writer.no_tagged();
            });
            writer.nullable_string(self.error_message.as_deref());
        }
        match self.current_leader {
            Some(leader) if version >= 10 => writer.tagged(&[(0, leader_value(leader))]),
            _ => writer.no_tagged(),
        }
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<ProducePartitionResponse, WireError> {
        let mut partition = ProducePartitionResponse {
            index: reader.i32("partition")?,
            error_code: reader.i16("error code")?,
            base_offset: reader.i64("base offset")?,
            log_append_time_ms: reader.i64("log append time")?,
            ..ProducePartitionResponse::default()
        };
        if version >= 5 {
            partition.log_start_offset = reader.i64("log start offset")?;
        }
        if version >= 8 {
            partition.record_errors = reader.array("record errors", 5, |reader| {
                let error = RecordError {
                    batch_index: reader.i32("batch index")?,
                    message: reader.nullable_string("record error")?,
                };
                reader.skip_tagged()?;
                Ok(error)
            })?;
            partition.error_message = reader.nullable_string("error message")?;
        }
        reader.tagged(|tag, reader| {
            if version < 10 || tag != 0 {
                return Ok(false);
            }
            partition.current_leader = Some(reader.leader()?);
            Ok(true)
        })?;
        Ok(partition)
    }
}

#[cfg(test)]
mod tests;
