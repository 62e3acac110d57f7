//! CreateTopics and CreatePartitions.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_catalog::{Catalog, Event, OFFSETS_TOPIC, Topic, TopicOwner, check_topic_name};
use mainstem_kafka_wire::messages::create_partitions_request::CreatePartitionsTopic;
use mainstem_kafka_wire::messages::create_partitions_response::CreatePartitionsTopicResult;
use mainstem_kafka_wire::messages::create_topics_request::CreatableTopic;
use mainstem_kafka_wire::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use mainstem_kafka_wire::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, ResponseError,
    TopicName,
};
use uuid::Uuid;

use super::{RESERVED_PREFIX, refusal_of_change};
use crate::broker::{Broker, new_uuid};
use crate::codec::{Refusal, text};
use crate::topic_config::{check_topic_configs, describe};
use crate::{BrokerConfig, topic_config};

/// Where a setting comes from, as Kafka numbers it.
pub(super) const SET_ON_TOPIC: i8 = 1;
pub(super) const DEFAULT: i8 = 5;

impl Broker {
    pub(crate) async fn create_topics(&self, request: CreateTopicsRequest) -> CreateTopicsResponse {
        let mut seen = BTreeMap::<String, usize>::new();
        for topic in &request.topics {
            *seen.entry(topic.name.to_string()).or_default() += 1;
        }
        let names: Vec<TopicName> = request.topics.iter().map(|topic| topic.name.clone()).collect();
        let validate_only = request.validate_only;
        let broker = self.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        let changed = self.change_catalog(move |catalog| {
            let (events, outcomes) = broker.plan_topics(catalog, request.topics, &seen);
            drop(tell.send(outcomes));
            Ok::<_, std::convert::Infallible>(if validate_only { Vec::new() } else { events })
        });
        let changed = changed.await;
        let outcomes = told.await.unwrap_or_default();
        let mut results = Vec::with_capacity(names.len());
        for (i, name) in names.into_iter().enumerate() {
            let result = CreatableTopicResult::default().with_name(name);
            results.push(match (outcomes.get(i), &changed) {
                (Some(Err(refusal)), _) => refused(result, refusal),
                (_, Err(error)) => refused(result, &refusal_of_change(error)),
                (Some(Ok(topic)), Ok(_)) => self.created(result, topic, validate_only),
                (None, Ok(_)) => refused(result, &Refusal::new(ResponseError::UnknownServerError, "not attempted")),
            });
        }
        // The same name twice is answered once, as in Kafka.
        let mut answered = BTreeSet::new();
        results.retain(|result| answered.insert(result.name.clone()));
        CreateTopicsResponse::default().with_topics(results)
    }

    fn plan_topics(
        &self,
        catalog: &Catalog,
        asked: Vec<CreatableTopic>,
        seen: &BTreeMap<String, usize>,
    ) -> (Vec<Event>, Vec<Result<Topic, Refusal>>) {
        let mut events = Vec::new();
        let outcomes = asked.into_iter().map(|topic| {
            if seen.get(topic.name.as_str()).is_some_and(|times| *times > 1) {
                return Err(Refusal::new(ResponseError::InvalidRequest, "the topic is named twice in one request"));
            }
            let id = new_uuid(&*self.inner.random);
            let topic = self.plan_topic(catalog, &topic, id)?;
            events.push(Event::TopicCreated { topic: topic.clone() });
            Ok(topic)
        });
        let outcomes = outcomes.collect();
        (events, outcomes)
    }

    fn plan_topic(&self, catalog: &Catalog, asked: &CreatableTopic, id: Uuid) -> Result<Topic, Refusal> {
        let name = asked.name.as_str();
        let invalid_name = |message: String| Refusal::new(ResponseError::InvalidTopicException, message);
        check_topic_name(name).map_err(|error| invalid_name(error.to_string()))?;
        if name.starts_with(RESERVED_PREFIX) {
            return Err(invalid_name(format!("names that begin with {RESERVED_PREFIX} belong to Mainstem")));
        }
        if name == OFFSETS_TOPIC {
            return Err(invalid_name(format!("{OFFSETS_TOPIC} is made by the broker when the first group needs it")));
        }
        if catalog.topic_named(name).is_some() {
            let message = format!("Topic '{name}' already exists.");
            return Err(Refusal::new(ResponseError::TopicAlreadyExists, message));
        }
        let partitions = partitions_of(asked, &self.inner.config)?;
        let mut configs = BTreeMap::new();
        for setting in &asked.configs {
            // A null value is the default.
            if let Some(value) = &setting.value {
                configs.insert(setting.name.to_string(), value.to_string());
            }
        }
        check_topic_configs(&configs, self.log().entry_bytes_max())
            .map_err(|message| Refusal::new(ResponseError::InvalidConfig, message))?;
        Ok(Topic { id, name: name.to_owned(), partitions, owner: TopicOwner::Anyone, configs })
    }

    fn created(&self, result: CreatableTopicResult, topic: &Topic, validate_only: bool) -> CreatableTopicResult {
        let config = |config: topic_config::Described| {
            CreatableTopicConfigs::default()
                .with_name(text(config.name))
                .with_value(Some(text(config.value)))
                .with_config_source(if config.is_set { SET_ON_TOPIC } else { DEFAULT })
        };
        result
            .with_topic_id(if validate_only { Uuid::nil() } else { topic.id })
            .with_num_partitions(topic.partitions)
            .with_replication_factor(1)
            .with_configs(Some(describe(topic, &self.inner.config).into_iter().map(config).collect()))
    }

    pub(crate) async fn create_partitions(&self, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
        let names: Vec<_> = request.topics.iter().map(|topic| topic.name.clone()).collect();
        let (tell, told) = tokio::sync::oneshot::channel();
        let config = self.inner.config.clone();
        let changed = self.change_catalog(move |catalog| {
            let mut seen = BTreeSet::new();
            let mut events = Vec::new();
            let mut outcomes = Vec::new();
            for topic in &request.topics {
                let planned = if seen.insert(topic.name.clone()) {
                    plan_partitions(catalog, topic, &config)
                } else {
                    Err(Refusal::new(ResponseError::InvalidRequest, "the topic is named twice in one request"))
                };
                outcomes.push(planned.map(|event| events.push(event)));
            }
            drop(tell.send(outcomes));
            Ok::<_, std::convert::Infallible>(if request.validate_only { Vec::new() } else { events })
        });
        let changed = changed.await;
        let outcomes = told.await.unwrap_or_default();
        let mut results = Vec::with_capacity(names.len());
        for (i, name) in names.into_iter().enumerate() {
            let result = CreatePartitionsTopicResult::default().with_name(name);
            let refusal = match (outcomes.get(i), &changed) {
                (Some(Err(refusal)), _) => Some(refusal.clone()),
                (_, Err(error)) => Some(refusal_of_change(error)),
                _ => None,
            };
            results.push(match refusal {
                Some(refusal) => {
                    result.with_error_code(refusal.error.code()).with_error_message(Some(text(refusal.message)))
                }
                None => result,
            });
        }
        CreatePartitionsResponse::default().with_results(results)
    }
}

fn refused(result: CreatableTopicResult, refusal: &Refusal) -> CreatableTopicResult {
    result
        .with_error_code(refusal.error.code())
        .with_error_message(Some(text(refusal.message.clone())))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
}

fn partitions_of(asked: &CreatableTopic, config: &BrokerConfig) -> Result<i32, Refusal> {
    let factor = asked.replication_factor;
    if !asked.assignments.is_empty() {
        return assigned_partitions(asked, config);
    }
    if factor == 0 || factor < -1 || (factor > 1 && !config.clamp_replication_factor) {
        let message = format!("Replication factor: {factor} larger than available brokers: 1.");
        let message = if factor < 1 { "Replication factor must be larger than 0.".to_owned() } else { message };
        return Err(Refusal::new(ResponseError::InvalidReplicationFactor, message));
    }
    match asked.num_partitions {
        -1 => Ok(config.default_partitions),
        count if count < 1 => {
            Err(Refusal::new(ResponseError::InvalidPartitions, "Number of partitions must be larger than 0."))
        }
        count if count > config.partitions_max => {
            let message = format!("{count} partitions are too many: {} at most", config.partitions_max);
            Err(Refusal::new(ResponseError::InvalidPartitions, message))
        }
        count => Ok(count),
    }
}

/// With assignments, their number is that of the partitions.
fn assigned_partitions(asked: &CreatableTopic, config: &BrokerConfig) -> Result<i32, Refusal> {
    if asked.num_partitions != -1 || asked.replication_factor != -1 {
        let message = "with assignments, the numbers of partitions and replicas must be -1";
        return Err(Refusal::new(ResponseError::InvalidRequest, message));
    }
    let bad = |message: String| Refusal::new(ResponseError::InvalidReplicaAssignment, message);
    let indexes: BTreeSet<_> = asked.assignments.iter().map(|assignment| assignment.partition_index).collect();
    let count = i32::try_from(indexes.len()).unwrap_or(i32::MAX);
    if indexes.len() != asked.assignments.len() || !indexes.iter().copied().eq(0..count) {
        return Err(bad("partitions must be assigned from 0 on, each once".to_owned()));
    }
    if count > config.partitions_max {
        return Err(bad(format!("{count} partitions are too many: {} at most", config.partitions_max)));
    }
    let is_here = |brokers: &[mainstem_kafka_wire::messages::BrokerId]| {
        brokers.iter().all(|broker| broker.0 == config.node_id) && brokers.len() == 1
    };
    if !config.clamp_replication_factor && !asked.assignments.iter().all(|a| is_here(&a.broker_ids)) {
        return Err(bad(format!("only broker {} is there to hold replicas", config.node_id)));
    }
    Ok(count)
}

fn plan_partitions(catalog: &Catalog, asked: &CreatePartitionsTopic, config: &BrokerConfig) -> Result<Event, Refusal> {
    let name = asked.name.as_str();
    let Some(topic) = catalog.topic_named(name) else {
        let message = format!("topic {name} does not exist");
        return Err(Refusal::new(ResponseError::UnknownTopicOrPartition, message));
    };
    if topic.owner != TopicOwner::Anyone {
        let message = format!("the partitions of {name} are not for clients to change");
        return Err(Refusal::new(ResponseError::InvalidRequest, message));
    }
    let have = topic.partitions;
    if asked.count <= have || asked.count > config.partitions_max {
        let message = match asked.count {
            count if count == have => format!("Topic already has {have} partition(s)."),
            count if count < have => {
                format!("The topic {name} currently has {have} partition(s); {count} would not be an increase.")
            }
            count => format!("{count} partitions are too many: {} at most", config.partitions_max),
        };
        return Err(Refusal::new(ResponseError::InvalidPartitions, message));
    }
    if let Some(assignments) = &asked.assignments
        && i32::try_from(assignments.len()).ok() != Some(asked.count - have)
    {
        let message = format!("{} assignments for {} new partitions", assignments.len(), asked.count - have);
        return Err(Refusal::new(ResponseError::InvalidReplicaAssignment, message));
    }
    Ok(Event::PartitionsAdded { topic: topic.id, partitions: asked.count })
}
