//! ListOffsets and OffsetForLeaderEpoch: where a partition begins, ends, and stands at a time.

use mainstem_kafka_wire::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use mainstem_kafka_wire::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use mainstem_kafka_wire::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, ResponseError,
};
use mainstem_log::{ReadError, TopicId, TopicPartition};

use crate::broker::Broker;
use crate::fetch::{LEADER_EPOCH, check_leader_epoch};

/// Times with a meaning of their own in ListOffsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;

/// Offset and timestamp of nothing.
const NONE: (i64, i64) = (-1, -1);

impl Broker {
    pub(crate) async fn list_offsets(&self, request: ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
        // Up to version 3 the answer has no place for it.
        let leader_epoch = if version < 4 { -1 } else { LEADER_EPOCH };
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in topic.partitions {
                let answer = ListOffsetsPartitionResponse::default()
                    .with_partition_index(asked.partition_index)
                    .with_offset(-1)
                    .with_timestamp(-1);
                let found = match self.find_partition(&topic.name, asked.partition_index, asked.current_leader_epoch) {
                    Ok(at) => self.offset_at(at, asked.timestamp).await,
                    Err(error) => Err(error),
                };
                partitions.push(match found {
                    Ok(NONE) => answer,
                    Ok((offset, timestamp)) => {
                        answer.with_offset(offset).with_timestamp(timestamp).with_leader_epoch(leader_epoch)
                    }
                    Err(error) => answer.with_error_code(error.code()),
                });
            }
            topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
        }
        ListOffsetsResponse::default().with_topics(topics)
    }

    fn find_partition(&self, topic: &str, partition: i32, epoch: i32) -> Result<TopicPartition, ResponseError> {
        let catalog = self.catalog();
        let topic = catalog.topic_named(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
        if !(0..topic.partitions).contains(&partition) {
            return Err(ResponseError::UnknownTopicOrPartition);
        }
        check_leader_epoch(epoch)?;
        Ok(TopicPartition::new(TopicId(topic.id), partition))
    }

    /// Offset and timestamp; [`NONE`] when there is no such record.
    async fn offset_at(&self, at: TopicPartition, timestamp: i64) -> Result<(i64, i64), ResponseError> {
        let state = self.log().partition(at).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let timestamp = match timestamp {
            LATEST => return Ok((state.high_watermark, -1)),
            EARLIEST | EARLIEST_LOCAL => return Ok((state.start_offset, -1)),
            MAX_TIMESTAMP if state.max_timestamp < 0 => return Ok(NONE),
            MAX_TIMESTAMP => state.max_timestamp,
            // Tiered storage, which there is none of.
            ..0 => return Ok(NONE),
            timestamp => timestamp,
        };
        let log = self.log().clone();
        // It may have to look into batches.
        let found = tokio::task::spawn_blocking(move || log.offset_for_timestamp(at, timestamp)).await;
        match found {
            Ok(Ok(found)) => Ok(found.unwrap_or(NONE)),
            Ok(Err(ReadError::UnknownPartition(_))) => Err(ResponseError::UnknownTopicOrPartition),
            Ok(Err(error)) => {
                let (topic, partition) = (self.topic_name(at), at.partition);
                tracing::warn!(%topic, partition, timestamp, %error, "looking up a timestamp failed");
                Err(ResponseError::KafkaStorageError)
            }
            Err(_) => Err(ResponseError::UnknownServerError),
        }
    }

    pub(crate) fn offset_for_leader_epoch(&self, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let answer = EpochEndOffset::default().with_partition(asked.partition);
                let undefined = answer.clone().with_leader_epoch(-1).with_end_offset(-1);
                let found = self.find_partition(&topic.topic, asked.partition, asked.current_leader_epoch);
                match found.map(|at| self.log().partition(at)) {
                    Err(error) => undefined.with_error_code(error.code()),
                    Ok(None) => undefined.with_error_code(ResponseError::UnknownTopicOrPartition.code()),
                    Ok(Some(state)) if asked.leader_epoch == LEADER_EPOCH => {
                        answer.with_leader_epoch(LEADER_EPOCH).with_end_offset(state.high_watermark)
                    }
                    Ok(Some(_)) => undefined,
                }
            });
            let partitions = partitions.collect();
            OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
        });
        OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
    }
}
