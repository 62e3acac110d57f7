//! OffsetCommit and OffsetFetch.

use std::collections::BTreeMap;

use mainstem_catalog::Catalog;
use mainstem_kafka_wire::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use mainstem_kafka_wire::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use mainstem_kafka_wire::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, ResponseError, TopicName,
};

use crate::broker::Broker;
use crate::codec::{code, text};
use crate::coordinator::{Commit, Committed, Membership, Request};

/// What was asked of one topic: its name, and partitions.
type Asked = Vec<(TopicName, Vec<i32>)>;

impl Broker {
    pub(crate) async fn offset_commit(&self, request: OffsetCommitRequest) -> OffsetCommitResponse {
        let catalog = self.catalog();
        let at_ms = self.inner.clock.wall_ms();
        let mut offsets = Vec::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let metadata = partition.committed_metadata.as_ref().map(|m| m.to_string()).unwrap_or_default();
                let error = if !has_partition(&catalog, &topic.name, partition.partition_index) {
                    Some(ResponseError::UnknownTopicOrPartition)
                } else if metadata.len() > self.inner.config.offset_metadata_bytes_max {
                    Some(ResponseError::OffsetMetadataTooLarge)
                } else {
                    let (offset, leader_epoch) = (partition.committed_offset, partition.committed_leader_epoch);
                    let topic_id = catalog.topic_named(&topic.name).map(|topic| topic.id);
                    let value = Committed { offset, leader_epoch, metadata, at_ms, topic_id };
                    offsets.push((topic.name.to_string(), partition.partition_index, value));
                    None
                };
                partitions.push((partition.partition_index, error));
            }
            topics.push((topic.name.clone(), partitions));
        }
        let member = Membership {
            group: request.group_id.to_string(),
            generation: request.generation_id_or_member_epoch,
            member_id: request.member_id.to_string(),
            instance: request.group_instance_id.as_ref().map(|id| id.to_string()),
        };
        let refused = self.ask_done(Request::Commit(Commit { member, offsets })).await;
        let partition = |(index, error): (i32, Option<ResponseError>)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(code(error.or(refused)))
        };
        let topic = |(name, partitions): (TopicName, Vec<_>)| {
            let partitions = partitions.into_iter().map(partition).collect();
            OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions)
        };
        OffsetCommitResponse::default().with_topics(topics.into_iter().map(topic).collect())
    }

    pub(crate) fn offset_fetch(&self, request: OffsetFetchRequest, version: i16) -> OffsetFetchResponse {
        if version < 8 {
            let asked = request
                .topics
                .map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect());
            let topics = self.committed(&request.group_id, asked).into_iter().map(|(name, partitions)| {
                let partition = |(index, value): (i32, Committed)| {
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(index)
                        .with_committed_offset(value.offset)
                        .with_committed_leader_epoch(value.leader_epoch)
                        .with_metadata(Some(text(value.metadata)))
                };
                let partitions = partitions.into_iter().map(partition).collect();
                OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions)
            });
            return OffsetFetchResponse::default().with_topics(topics.collect());
        }
        let groups = request.groups.into_iter().map(|group| {
            let asked = group
                .topics
                .map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect());
            let topics = self.committed(&group.group_id, asked).into_iter().map(|(name, partitions)| {
                let partition = |(index, value): (i32, Committed)| {
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(index)
                        .with_committed_offset(value.offset)
                        .with_committed_leader_epoch(value.leader_epoch)
                        .with_metadata(Some(text(value.metadata)))
                };
                let partitions = partitions.into_iter().map(partition).collect();
                OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions)
            });
            OffsetFetchResponseGroup::default().with_topics(topics.collect()).with_group_id(group.group_id)
        });
        OffsetFetchResponse::default().with_groups(groups.collect())
    }

    /// What a group has committed for these partitions, or for all; offset -1 where it has not.
    fn committed(&self, group: &str, asked: Option<Asked>) -> Vec<(TopicName, Vec<(i32, Committed)>)> {
        let catalog = self.catalog();
        self.inner.groups.read(|all| {
            let offsets = all.offsets(group);
            let Some(asked) = asked else {
                let mut topics = BTreeMap::<&str, Vec<(i32, Committed)>>::new();
                let offsets = offsets.into_iter().flatten();
                for ((topic, partition), value) in offsets.filter(|((topic, _), value)| value.is_of(&catalog, topic)) {
                    topics.entry(topic).or_default().push((*partition, value.clone()));
                }
                return topics.into_iter().map(|(topic, values)| (TopicName(text(topic)), values)).collect();
            };
            let none = Committed { offset: -1, leader_epoch: -1, metadata: String::new(), at_ms: 0, topic_id: None };
            let value = |topic: &TopicName, partition: i32| {
                let value = offsets.and_then(|all| all.get(&(topic.to_string(), partition)));
                value.filter(|value| value.is_of(&catalog, topic)).unwrap_or(&none).clone()
            };
            let topic = |(name, partitions): (TopicName, Vec<i32>)| {
                let values = partitions.into_iter().map(|partition| (partition, value(&name, partition))).collect();
                (name, values)
            };
            asked.into_iter().map(topic).collect()
        })
    }
}

impl Committed {
    /// Whether the topic that has this name now is the one that the offset was committed for.
    pub(crate) fn is_of(&self, catalog: &Catalog, topic: &str) -> bool {
        catalog.topic_named(topic).is_some_and(|topic| self.topic_id.is_none_or(|id| id == topic.id))
    }
}

fn has_partition(catalog: &Catalog, topic: &str, partition: i32) -> bool {
    catalog.topic_named(topic).is_some_and(|topic| (0..topic.partitions).contains(&partition))
}
