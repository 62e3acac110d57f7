//! Fetch responses.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{check_version, decode_topic, encode_topic};
use crate::frame::{begin_response, finish_frame};
use crate::wire::{
    LeaderIdAndEpoch, NodeEndpoint, Reader, WireError, Writer, leader_value, node_endpoints_value, tagged_value,
};

/// A piece of a frame: in memory, or somewhere else until it is sent.
pub trait Piece: Clone + From<Bytes> {
    /// Bytes that it has on the wire.
    fn wire_bytes(&self) -> usize;
}

impl Piece for Bytes {
    fn wire_bytes(&self) -> usize {
        self.len()
    }
}

/// What was read. Fields that a version lacks have the values of `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchResponse<P = Bytes> {
    pub throttle_time_ms: i32,
    /// From version 7.
    pub error_code: i16,
    /// From version 7; 0 for no session.
    pub session_id: i32,
    pub topics: Vec<FetchTopicResponse<P>>,
    /// From version 16: where the leaders named by partitions listen.
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchTopicResponse<P = Bytes> {
    /// Up to version 12.
    pub name: StrBytes,
    /// From version 13.
    pub topic_id: Uuid,
    pub partitions: Vec<FetchPartitionResponse<P>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPartitionResponse<P = Bytes> {
    pub partition: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    /// From version 5.
    pub log_start_offset: i64,
    /// From version 12.
    pub diverging_epoch: Option<EpochEndOffset>,
    /// From version 12, only with NOT_LEADER_OR_FOLLOWER or FENCED_LEADER_EPOCH.
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// From version 12; only replicas get it.
    pub snapshot_id: Option<SnapshotId>,
    /// `None` for readers of uncommitted records.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// From version 11; -1 for this broker.
    pub preferred_read_replica: i32,
    /// Whole batches, in pieces that are sent one after the other. Null on the wire reads as no piece.
    pub records: Vec<P>,
}

impl<P> Default for FetchResponse<P> {
    fn default() -> Self {
        let (topics, node_endpoints) = (Vec::new(), Vec::new());
        FetchResponse { throttle_time_ms: 0, error_code: 0, session_id: 0, topics, node_endpoints }
    }
}

impl<P> Default for FetchTopicResponse<P> {
    fn default() -> Self {
        FetchTopicResponse { name: StrBytes::default(), topic_id: Uuid::nil(), partitions: Vec::new() }
    }
}

impl<P> Default for FetchPartitionResponse<P> {
    fn default() -> Self {
        FetchPartitionResponse {
            partition: 0,
            error_code: 0,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            snapshot_id: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    pub epoch: i32,
    pub end_offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    pub end_offset: i64,
    pub epoch: i32,
}

/// The frame in the making, and the places where record sets go into it.
struct Chunks<P> {
    writer: Writer,
    records: Vec<(usize, P)>,
}

impl<P: Piece> FetchResponse<P> {
    /// The whole frame with its length, as pieces to be sent one after the other. Those that hold records are the pieces of
    /// [`FetchPartitionResponse::records`]; all others are slices of one small buffer.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Result<Vec<P>, WireError> {
        let is_flexible = check_version(version)?;
        let mut chunks = Chunks { writer: begin_response(i16::from(is_flexible), correlation_id), records: Vec::new() };
        let writer = &mut chunks.writer;
        writer.i32(self.throttle_time_ms);
        if version >= 7 {
            writer.i16(self.error_code);
            writer.i32(self.session_id);
        }
        let records = &mut chunks.records;
        writer.array(&self.topics, |writer, topic| {
            encode_topic(version, writer, &topic.name, topic.topic_id);
            writer.array(&topic.partitions, |writer, partition| partition.encode(version, writer, records));
            writer.no_tagged();
        });
        if version >= 16 && !self.node_endpoints.is_empty() {
            writer.tagged(&[(0, node_endpoints_value(&self.node_endpoints))]);
        } else {
            writer.no_tagged();
        }
        chunks.finish()
    }
}

impl FetchResponse {
    /// Reads the message that follows the response header.
    pub fn decode(version: i16, message: Bytes) -> Result<FetchResponse, WireError> {
        let mut reader = Reader::new(message, check_version(version)?);
        let reader = &mut reader;
        let mut response = FetchResponse { throttle_time_ms: reader.i32("throttle time")?, ..FetchResponse::default() };
        if version >= 7 {
            response.error_code = reader.i16("error code")?;
            response.session_id = reader.i32("session id")?;
        }
        response.topics = reader.array("topics", 2, |reader| {
            let (name, topic_id) = decode_topic(version, reader)?;
            let partitions =
                reader.array("partitions", 22, |reader| FetchPartitionResponse::decode(version, reader))?;
            reader.skip_tagged()?;
            Ok(FetchTopicResponse { name, topic_id, partitions })
        })?;
        reader.tagged(|tag, reader| {
            if version < 16 || tag != 0 {
                return Ok(false);
            }
            response.node_endpoints = reader.node_endpoints()?;
            Ok(true)
        })?;
        Ok(response)
    }
}

impl<P: Piece> Chunks<P> {
    fn finish(mut self) -> Result<Vec<P>, WireError> {
        let records_bytes: usize = self.records.iter().map(|(_, records)| records.wire_bytes()).sum();
        if i32::try_from(self.writer.out.len() + records_bytes).is_err() {
            return Err(WireError::Encode("a fetch response is below 2 GiB".into()));
        }
        finish_frame(&mut self.writer.out, records_bytes);
        let mut rest = Bytes::from(self.writer.out);
        let mut chunks = Vec::with_capacity(2 * self.records.len() + 1);
        let mut written = 0;
        for (at, records) in self.records {
            if at > written {
                chunks.push(rest.split_to(at - written).into());
                written = at;
            }
            chunks.push(records);
        }
        if !rest.is_empty() {
            chunks.push(rest.into());
        }
        Ok(chunks)
    }
}

impl<P: Piece> FetchPartitionResponse<P> {
    fn encode(&self, version: i16, writer: &mut Writer, records: &mut Vec<(usize, P)>) {
        writer.i32(self.partition);
        writer.i16(self.error_code);
        writer.i64(self.high_watermark);
        writer.i64(self.last_stable_offset);
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        writer.nullable_array(self.aborted_transactions.as_deref(), |writer, aborted| {
            writer.i64(aborted.producer_id);
            writer.i64(aborted.first_offset);
            writer.no_tagged();
        });
        if version >= 11 {
            writer.i32(self.preferred_read_replica);
        }
        writer.bytes_length(Some(self.records.iter().map(P::wire_bytes).sum()));
        let filled = self.records.iter().filter(|piece| piece.wire_bytes() > 0);
        records.extend(filled.map(|piece| (writer.out.len(), piece.clone())));
        if version >= 12 {
            writer.tagged(&self.tagged_fields());
        }
    }

    fn tagged_fields(&self) -> Vec<(usize, Vec<u8>)> {
        let mut fields = Vec::new();
        if let Some(diverging) = self.diverging_epoch {
            let value = tagged_value(|writer| {
                writer.i32(diverging.epoch);
                writer.i64(diverging.end_offset);
                writer.no_tagged();
            });
            fields.push((0, value));
        }
        if let Some(leader) = self.current_leader {
            fields.push((1, leader_value(leader)));
        }
        if let Some(snapshot) = self.snapshot_id {
            let value = tagged_value(|writer| {
                writer.i64(snapshot.end_offset);
                writer.i32(snapshot.epoch);
                writer.no_tagged();
            });
            fields.push((2, value));
        }
        fields
    }
}

impl FetchPartitionResponse {
    fn decode(version: i16, reader: &mut Reader) -> Result<FetchPartitionResponse, WireError> {
        let mut partition = FetchPartitionResponse {
            partition: reader.i32("partition")?,
            error_code: reader.i16("error code")?,
            high_watermark: reader.i64("high watermark")?,
            last_stable_offset: reader.i64("last stable offset")?,
            ..FetchPartitionResponse::default()
        };
        if version >= 5 {
            partition.log_start_offset = reader.i64("log start offset")?;
        }
        partition.aborted_transactions = reader.nullable_array("aborted transactions", 16, |reader| {
            let aborted = AbortedTransaction {
                producer_id: reader.i64("producer id")?,
                first_offset: reader.i64("first offset")?,
            };
            reader.skip_tagged()?;
            Ok(aborted)
        })?;
        if version >= 11 {
            partition.preferred_read_replica = reader.i32("preferred read replica")?;
        }
        partition.records =
            reader.nullable_bytes("records")?.filter(|records| !records.is_empty()).into_iter().collect();
        reader.tagged(|tag, reader| {
            match tag {
                0 => {
                    let (epoch, end_offset) = (reader.i32("diverging epoch")?, reader.i64("end offset")?);
                    partition.diverging_epoch = Some(EpochEndOffset { epoch, end_offset });
                    reader.skip_tagged()?;
                }
                1 => partition.current_leader = Some(reader.leader()?),
                2 => {
                    let (end_offset, epoch) = (reader.i64("snapshot offset")?, reader.i32("snapshot epoch")?);
                    partition.snapshot_id = Some(SnapshotId { end_offset, epoch });
                    reader.skip_tagged()?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(partition)
    }
}
