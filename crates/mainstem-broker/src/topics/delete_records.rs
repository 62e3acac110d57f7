//! DeleteRecords: all before an offset, of topics whose records belong to their producers.

use mainstem_catalog::{Catalog, TopicOwner};
use mainstem_kafka_wire::messages::delete_records_request::DeleteRecordsPartition;
use mainstem_kafka_wire::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use mainstem_kafka_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse, ResponseError};
use mainstem_log::{DeleteRecordsError, TopicId, TopicPartition};

use crate::broker::Broker;
use crate::codec::code;

/// Stands for the end of a partition.
const END: i64 = -1;

impl Broker {
    pub(crate) async fn delete_records(&self, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
        let broker = self.clone();
        // Each waits for a checkpoint of the log.
        let done = tokio::task::spawn_blocking(move || {
            let catalog = broker.catalog();
            let topic = |topic: mainstem_kafka_wire::messages::delete_records_request::DeleteRecordsTopic| {
                let name = topic.name.clone();
                let partition = |asked: &DeleteRecordsPartition| {
                    let result = DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
                    match broker.delete_before(&catalog, &name, asked) {
                        Ok(start) => result.with_low_watermark(start),
                        Err(error) => result.with_low_watermark(-1).with_error_code(code(Some(error))),
                    }
                };
                let partitions = topic.partitions.iter().map(partition).collect();
                DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions)
            };
            request.topics.into_iter().map(topic).collect()
        });
        DeleteRecordsResponse::default().with_topics(done.await.unwrap_or_default())
    }

    fn delete_before(
        &self,
        catalog: &Catalog,
        name: &str,
        asked: &DeleteRecordsPartition,
    ) -> Result<i64, ResponseError> {
        let topic = catalog.topic_named(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        if topic.owner != TopicOwner::Anyone {
            return Err(ResponseError::PolicyViolation);
        }
        let partition = TopicPartition::new(TopicId(topic.id), asked.partition_index);
        let offset = (asked.offset != END).then_some(asked.offset);
        self.log().delete_records(partition, offset).map_err(|error| {
            tracing::warn!(topic = name, partition = asked.partition_index, %error, "no records deleted");
            match error {
                DeleteRecordsError::UnknownPartition(_) => ResponseError::UnknownTopicOrPartition,
                DeleteRecordsError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
                DeleteRecordsError::Held { .. } => ResponseError::PolicyViolation,
                // Not retriable, unlike KAFKA_STORAGE_ERROR: trying again does not help.
                DeleteRecordsError::Damaged(_) => ResponseError::UnknownServerError,
                DeleteRecordsError::Stopped(_) => ResponseError::KafkaStorageError,
            }
        })
    }
}
