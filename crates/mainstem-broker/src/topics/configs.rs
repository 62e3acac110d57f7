//! DescribeConfigs and IncrementalAlterConfigs.

use std::collections::BTreeMap;

use mainstem_catalog::{Event, Topic, TopicOwner};
use mainstem_kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use mainstem_kafka_wire::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use mainstem_kafka_wire::messages::incremental_alter_configs_request::AlterConfigsResource;
use mainstem_kafka_wire::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use mainstem_kafka_wire::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    ResponseError,
};

use super::create::{DEFAULT, SET_ON_TOPIC};
use super::refusal_of_change;
use crate::BrokerConfig;
use crate::broker::Broker;
use crate::codec::{Refusal, text};
use crate::topic_config::{Described, check_topic_configs, describe, is_list};

/// Kinds of resources, as Kafka numbers them.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;

/// Source of a broker's setting that came with its start.
const SET_AT_START: i8 = 4;

/// Operations of IncrementalAlterConfigs.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

impl Broker {
    pub(crate) fn describe_configs(&self, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
        let (synonyms, documentation) = (request.include_synonyms, request.include_documentation);
        let results = request.resources.into_iter().map(|resource| {
            let result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match self.configs_of(&resource) {
                Ok((configs, is_broker)) => {
                    let wanted = |config: &Described| {
                        let named = resource.configuration_keys.as_ref();
                        named.is_none_or(|keys| keys.iter().any(|key| key.as_str() == config.name))
                    };
                    let configs = configs.into_iter().filter(wanted);
                    let configs = configs.map(|config| described(config, is_broker, synonyms, documentation));
                    result.with_configs(configs.collect())
                }
                Err(refusal) => {
                    result.with_error_code(refusal.error.code()).with_error_message(Some(text(refusal.message)))
                }
            }
        });
        DescribeConfigsResponse::default().with_results(results.collect())
    }

    /// All settings of a resource, and whether it is the broker.
    fn configs_of(&self, resource: &DescribeConfigsResource) -> Result<(Vec<Described>, bool), Refusal> {
        let name = resource.resource_name.as_str();
        match resource.resource_type {
            TOPIC => {
                let catalog = self.catalog();
                let unknown =
                    || Refusal::new(ResponseError::UnknownTopicOrPartition, format!("topic {name} does not exist"));
                let topic = catalog.topic_named(name).ok_or_else(unknown)?;
                Ok((describe(topic, &self.inner.config), false))
            }
            BROKER if name.is_empty() || name == self.inner.config.node_id.to_string() => {
                Ok((self.broker_configs(), true))
            }
            BROKER => Err(Refusal::new(ResponseError::InvalidRequest, format!("there is no broker {name}"))),
            BROKER_LOGGER => Ok((Vec::new(), true)),
            other => {
                let message = format!("resources of type {other} have no settings here: only topics and brokers");
                Err(Refusal::new(ResponseError::InvalidRequest, message))
            }
        }
    }

    /// The broker's settings by Kafka's names; they are set at start and read only.
    fn broker_configs(&self) -> Vec<Described> {
        let BrokerConfig { node_id, auto_create_topics, default_partitions, message_bytes_max, .. } =
            &self.inner.config;
        let config = &self.inner.config;
        let (host, port) = self.advertised();
        let described = |name, value: String, kind| Described { name, value, is_set: true, kind, what: "" };
        const BOOLEAN: i8 = 1;
        const STRING: i8 = 2;
        const INT: i8 = 3;
        const LONG: i8 = 5;
        const DOUBLE: i8 = 6;
        vec![
            described("advertised.listeners", format!("PLAINTEXT://{host}:{port}"), STRING),
            described("auto.create.topics.enable", auto_create_topics.to_string(), BOOLEAN),
            described("default.replication.factor", "1".to_owned(), INT),
            described("fetch.max.bytes", config.fetch_bytes_max.to_string(), INT),
            described("group.initial.rebalance.delay.ms", config.group_initial_rebalance_delay_ms.to_string(), INT),
            described("group.max.session.timeout.ms", config.group_session_timeout_ms_max.to_string(), INT),
            described("group.max.size", config.group_members_max.to_string(), INT),
            described("group.min.session.timeout.ms", config.group_session_timeout_ms_min.to_string(), INT),
            described("log.cleaner.backoff.ms", config.compaction_check_ms.to_string(), LONG),
            described("log.cleaner.enable", "true".to_owned(), BOOLEAN),
            described("log.cleaner.io.max.bytes.per.second", config.compaction_bytes_per_second.to_string(), DOUBLE),
            described("log.cleanup.policy", "delete".to_owned(), STRING),
            described("log.retention.ms", config.retention_ms.unwrap_or(-1).to_string(), LONG),
            described("log.segment.bytes", config.segment_bytes.to_string(), INT),
            described("message.max.bytes", message_bytes_max.to_string(), INT),
            described("min.insync.replicas", "1".to_owned(), INT),
            described("node.id", node_id.to_string(), INT),
            described("num.partitions", default_partitions.to_string(), INT),
            described("offset.metadata.max.bytes", config.offset_metadata_bytes_max.to_string(), INT),
            described("offsets.retention.minutes", (config.offsets_retention_ms / 60_000).to_string(), INT),
            described("offsets.topic.num.partitions", config.offsets_topic_partitions.to_string(), INT),
            described("offsets.topic.segment.bytes", config.offsets_topic_segment_bytes.to_string(), INT),
            described("socket.request.max.bytes", config.request_bytes_max.to_string(), INT),
        ]
    }

    pub(crate) async fn alter_configs(
        &self,
        request: IncrementalAlterConfigsRequest,
    ) -> IncrementalAlterConfigsResponse {
        let asked: Vec<_> = request.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())).collect();
        let (tell, told) = tokio::sync::oneshot::channel();
        let entry_bytes_max = self.log().entry_bytes_max();
        let changed = self.change_catalog(move |catalog| {
            let mut events = Vec::new();
            let mut outcomes = Vec::new();
            let mut after = catalog.clone();
            for resource in &request.resources {
                let topic = |name: &str| after.topic_named(name).map(|topic| Topic::clone(topic));
                let planned = plan_alter(resource, topic, entry_bytes_max);
                outcomes.push(planned.map(|event| {
                    after.apply(&event).expect("the topic is there");
                    events.push(event);
                }));
            }
            drop(tell.send(outcomes));
            Ok::<_, std::convert::Infallible>(if request.validate_only { Vec::new() } else { events })
        });
        let changed = changed.await;
        let outcomes = told.await.unwrap_or_default();
        let mut responses = Vec::with_capacity(asked.len());
        for (i, (kind, name)) in asked.into_iter().enumerate() {
            let response = AlterConfigsResourceResponse::default().with_resource_type(kind).with_resource_name(name);
            let refusal = match (outcomes.get(i), &changed) {
                (Some(Err(refusal)), _) => Some(refusal.clone()),
                (_, Err(error)) => Some(refusal_of_change(error)),
                _ => None,
            };
            responses.push(match refusal {
                Some(refusal) => {
                    response.with_error_code(refusal.error.code()).with_error_message(Some(text(refusal.message)))
                }
                None => response,
            });
        }
        IncrementalAlterConfigsResponse::default().with_responses(responses)
    }
}

fn described(config: Described, is_broker: bool, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let source = match (is_broker, config.is_set) {
        (true, _) => SET_AT_START,
        (false, true) => SET_ON_TOPIC,
        (false, false) => DEFAULT,
    };
    let synonym = DescribeConfigsSynonym::default()
        .with_name(text(config.name))
        .with_value(Some(text(config.value.clone())))
        .with_source(source);
    DescribeConfigsResourceResult::default()
        .with_name(text(config.name))
        .with_value(Some(text(config.value)))
        .with_read_only(is_broker)
        .with_config_source(source)
        .with_config_type(config.kind)
        .with_synonyms(if synonyms { vec![synonym] } else { Vec::new() })
        .with_documentation(documentation.then(|| text(config.what)))
}

fn plan_alter(
    resource: &AlterConfigsResource,
    topic: impl Fn(&str) -> Option<Topic>,
    entry_bytes_max: usize,
) -> Result<Event, Refusal> {
    if resource.resource_type != TOPIC {
        let message = "only settings of topics can be changed here; the broker's are set when it starts";
        return Err(Refusal::new(ResponseError::InvalidRequest, message));
    }
    let name = resource.resource_name.as_str();
    let unknown = || Refusal::new(ResponseError::UnknownTopicOrPartition, format!("topic {name} does not exist"));
    let topic = topic(name).ok_or_else(unknown)?;
    if topic.owner == TopicOwner::Internal {
        let message = format!("topic {name} is internal: its settings cannot be changed");
        return Err(Refusal::new(ResponseError::PolicyViolation, message));
    }
    let mut configs = topic.configs.clone();
    for config in &resource.configs {
        let value = config.value.as_ref().map(|value| value.as_str());
        alter(&mut configs, config.name.as_str(), config.config_operation, value)?;
    }
    if let TopicOwner::Table(_) = topic.owner {
        let is_removing = |setting: &&&str| match **setting {
            "cleanup.policy" => configs.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
            setting => configs.contains_key(setting),
        };
        if let Some(setting) = ["retention.ms", "retention.bytes", "cleanup.policy"].iter().find(is_removing) {
            let message = format!("topic {name} holds the changes of a table: {setting} would remove some");
            return Err(Refusal::new(ResponseError::PolicyViolation, message));
        }
    }
    check_topic_configs(&configs, entry_bytes_max)
        .map_err(|message| Refusal::new(ResponseError::InvalidConfig, message))?;
    Ok(Event::TopicConfigured { topic: topic.id, configs })
}

fn alter(configs: &mut BTreeMap<String, String>, name: &str, how: i8, value: Option<&str>) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::new(ResponseError::InvalidConfig, message));
    match (how, value) {
        (DELETE, _) => drop(configs.remove(name)),
        (SET, Some(value)) => drop(configs.insert(name.to_owned(), value.to_owned())),
        (SET | APPEND | SUBTRACT, None) => return invalid(format!("{name} needs a value")),
        (APPEND | SUBTRACT, _) if !is_list(name) => return invalid(format!("{name} is not a list")),
        (APPEND | SUBTRACT, Some(value)) => {
            // The only list there is begins with its default.
            let before = configs.get(name).map_or("delete", String::as_str);
            let mut items: Vec<_> = before.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
            for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
                items.retain(|have| *have != item);
                if how == APPEND {
                    items.push(item);
                }
            }
            let after = items.join(",");
            configs.insert(name.to_owned(), after);
        }
        (other, _) => {
            let message = format!("operation {other} on {name} is unknown");
            return Err(Refusal::new(ResponseError::InvalidRequest, message));
        }
    }
    Ok(())
}
