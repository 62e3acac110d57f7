//! Fetch requests.

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{check_version, decode_topic, encode_topic};
use crate::frame::{begin_request, finish_frame};
use crate::wire::{Reader, WireError, Writer, tagged_value};

/// What to read. Fields that a version lacks have the values of [`FetchRequest::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// From version 12; only replicas send it.
    pub cluster_id: Option<StrBytes>,
    /// -1 for a consumer.
    pub replica_id: i32,
    /// From version 15; -1 for a consumer.
    pub replica_epoch: i64,
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    /// 0 read uncommitted, 1 read committed.
    pub isolation_level: i8,
    /// From version 7; 0 for no session.
    pub session_id: i32,
    /// From version 7: 0 starts a session, -1 ends it.
    pub session_epoch: i32,
    pub topics: Vec<FetchTopic>,
    /// From version 7: partitions to drop from the session.
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// From version 11.
    pub rack_id: StrBytes,
}

impl Default for FetchRequest {
    fn default() -> Self {
        FetchRequest {
            cluster_id: None,
            replica_id: -1,
            replica_epoch: -1,
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: i32::MAX,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            topics: Vec::new(),
            forgotten_topics: Vec::new(),
            rack_id: StrBytes::default(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchTopic {
    /// Up to version 12.
    pub name: StrBytes,
    /// From version 13.
    pub topic_id: Uuid,
    pub partitions: Vec<FetchPartition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    pub partition: i32,
    /// From version 9; -1 if the reader does not know it.
    pub current_leader_epoch: i32,
    pub fetch_offset: i64,
    /// From version 12.
    pub last_fetched_epoch: i32,
    /// From version 5; -1 for a consumer.
    pub log_start_offset: i64,
    pub partition_max_bytes: i32,
    /// From version 17; only replicas send it.
    pub replica_directory_id: Uuid,
    /// From version 18; `i64::MAX` for a consumer.
    pub high_watermark: i64,
}

impl Default for FetchPartition {
    fn default() -> Self {
        FetchPartition {
            partition: 0,
            current_leader_epoch: -1,
            fetch_offset: 0,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            partition_max_bytes: 0,
            replica_directory_id: Uuid::nil(),
            high_watermark: i64::MAX,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgottenTopic {
    /// Up to version 12.
    pub name: StrBytes,
    /// From version 13.
    pub topic_id: Uuid,
    pub partitions: Vec<i32>,
}

impl FetchRequest {
    /// Reads the message that follows the request header.
    pub fn decode(version: i16, message: Bytes) -> Result<FetchRequest, WireError> {
        let mut reader = Reader::new(message, check_version(version)?);
        let reader = &mut reader;
        let mut request = FetchRequest::default();
        if version <= 14 {
            request.replica_id = reader.i32("replica id")?;
        }
        request.max_wait_ms = reader.i32("max wait")?;
        request.min_bytes = reader.i32("min bytes")?;
        request.max_bytes = reader.i32("max bytes")?;
        request.isolation_level = reader.i8("isolation level")?;
        if version >= 7 {
            request.session_id = reader.i32("session id")?;
            request.session_epoch = reader.i32("session epoch")?;
        }
        request.topics = reader.array("topics", 2, |reader| FetchTopic::decode(version, reader))?;
        if version >= 7 {
            request.forgotten_topics = reader.array("forgotten topics", 2, |reader| {
                let (name, topic_id) = decode_topic(version, reader)?;
                let partitions = reader.array("forgotten partitions", 4, |reader| reader.i32("partition"))?;
                reader.skip_tagged()?;
                Ok(ForgottenTopic { name, topic_id, partitions })
            })?;
        }
        if version >= 11 {
            request.rack_id = reader.string("rack id")?;
        }
        reader.tagged(|tag, reader| {
            match tag {
                0 => request.cluster_id = reader.nullable_string("cluster id")?,
                1 if version >= 15 => {
                    request.replica_id = reader.i32("replica id")?;
                    request.replica_epoch = reader.i64("replica epoch")?;
                    reader.skip_tagged()?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(request)
    }

    /// The whole frame, as a client sends it.
    pub fn encode(&self, version: i16, correlation_id: i32, client_id: Option<&str>) -> Result<Bytes, WireError> {
        check_version(version)?;
        let mut writer = begin_request(ApiKey::Fetch, version, correlation_id, client_id);
        if version <= 14 {
            writer.i32(self.replica_id);
        }
        writer.i32(self.max_wait_ms);
        writer.i32(self.min_bytes);
        writer.i32(self.max_bytes);
        writer.i8(self.isolation_level);
        if version >= 7 {
            writer.i32(self.session_id);
            writer.i32(self.session_epoch);
        }
        writer.array(&self.topics, |writer, topic| topic.encode(version, writer));
        if version >= 7 {
            writer.array(&self.forgotten_topics, |writer, topic| {
                encode_topic(version, writer, &topic.name, topic.topic_id);
                writer.array(&topic.partitions, |writer, &partition| writer.i32(partition));
                writer.no_tagged();
            });
        }
        if version >= 11 {
            writer.string(&self.rack_id);
        }
        writer.tagged(&self.tagged_fields(version));
        finish_frame(&mut writer.out, 0);
        Ok(writer.out.into())
    }

    fn tagged_fields(&self, version: i16) -> Vec<(usize, Vec<u8>)> {
        let mut fields = Vec::new();
        if let Some(cluster_id) = &self.cluster_id {
            fields.push((0, tagged_value(|writer| writer.string(cluster_id))));
        }
        if version >= 15 && (self.replica_id, self.replica_epoch) != (-1, -1) {
            let state = tagged_value(|writer| {
                writer.i32(self.replica_id);
                writer.i64(self.replica_epoch);
                writer.no_tagged();
            });
            fields.push((1, state));
        }
        fields
    }
}

impl FetchTopic {
    fn decode(version: i16, reader: &mut Reader) -> Result<FetchTopic, WireError> {
        let (name, topic_id) = decode_topic(version, reader)?;
        let partitions = reader.array("partitions", 16, |reader| FetchPartition::decode(version, reader))?;
        reader.skip_tagged()?;
        Ok(FetchTopic { name, topic_id, partitions })
    }

    fn encode(&self, version: i16, writer: &mut Writer) {
        encode_topic(version, writer, &self.name, self.topic_id);
        writer.array(&self.partitions, |writer, partition| partition.encode(version, writer));
        writer.no_tagged();
    }
}

impl FetchPartition {
    fn decode(version: i16, reader: &mut Reader) -> Result<FetchPartition, WireError> {
        let mut partition = FetchPartition { partition: reader.i32("partition")?, ..FetchPartition::default() };
        if version >= 9 {
            partition.current_leader_epoch = reader.i32("leader epoch")?;
        }
        partition.fetch_offset = reader.i64("fetch offset")?;
        if version >= 12 {
            partition.last_fetched_epoch = reader.i32("last fetched epoch")?;
        }
        if version >= 5 {
            partition.log_start_offset = reader.i64("log start offset")?;
        }
        partition.partition_max_bytes = reader.i32("partition max bytes")?;
        reader.tagged(|tag, reader| {
            match tag {
                0 if version >= 17 => partition.replica_directory_id = reader.uuid("replica directory id")?,
                1 if version >= 18 => partition.high_watermark = reader.i64("high watermark")?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(partition)
    }

    fn encode(&self, version: i16, writer: &mut Writer) {
        writer.i32(self.partition);
        if version >= 9 {
            writer.i32(self.current_leader_epoch);
        }
        writer.i64(self.fetch_offset);
        if version >= 12 {
            writer.i32(self.last_fetched_epoch);
        }
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        writer.i32(self.partition_max_bytes);
        let mut fields = Vec::new();
        if version >= 17 && !self.replica_directory_id.is_nil() {
            fields.push((0, self.replica_directory_id.as_bytes().to_vec()));
        }
        if version >= 18 && self.high_watermark != i64::MAX {
            fields.push((1, self.high_watermark.to_be_bytes().to_vec()));
        }
        writer.tagged(&fields);
    }
}
