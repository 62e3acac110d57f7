//! Metadata, DescribeCluster and FindCoordinator: who is there, and what.

use mainstem_catalog::{Topic, TopicOwner, check_topic_name};
use mainstem_kafka_wire::messages::describe_cluster_response::DescribeClusterBroker;
use mainstem_kafka_wire::messages::find_coordinator_response::Coordinator;
use mainstem_kafka_wire::messages::metadata_request::MetadataRequestTopic;
use mainstem_kafka_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use mainstem_kafka_wire::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    MetadataRequest, MetadataResponse, ResponseError, StrBytes, TopicName,
};

use crate::broker::Broker;
use crate::codec::{code, text};
use crate::fetch::LEADER_EPOCH;

/// What everybody may do, as bits of Kafka's operations; there are no ACLs.
const TOPIC_OPERATIONS: i32 = 0xdf8;
const CLUSTER_OPERATIONS: i32 = 0x1fa0;
/// Not asked for.
const NO_OPERATIONS: i32 = i32::MIN;

/// Key types of FindCoordinator.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

impl Broker {
    pub(crate) async fn metadata(&self, request: MetadataRequest, version: i16) -> MetadataResponse {
        let all = match &request.topics {
            None => true,
            Some(topics) => version == 0 && topics.is_empty(),
        };
        let with_operations = request.include_topic_authorized_operations;
        let topics = if all {
            self.catalog().topics().map(|topic| self.describe_topic(topic, with_operations)).collect()
        } else {
            let asked = request.topics.unwrap_or_default();
            let may_create = request.allow_auto_topic_creation && self.inner.config.auto_create_topics;
            self.asked_topics(asked, may_create, with_operations, version).await
        };
        let (host, port) = self.advertised();
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(self.inner.config.node_id))
            .with_host(text(host))
            .with_port(i32::from(port));
        let operations = request.include_cluster_authorized_operations;
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(text(self.cluster_id())))
            .with_controller_id(BrokerId(self.inner.config.node_id))
            .with_topics(topics)
            .with_cluster_authorized_operations(if operations { CLUSTER_OPERATIONS } else { NO_OPERATIONS })
    }

    async fn asked_topics(
        &self,
        asked: Vec<MetadataRequestTopic>,
        may_create: bool,
        with_operations: bool,
        version: i16,
    ) -> Vec<MetadataResponseTopic> {
        let catalog = self.catalog();
        let missing = asked.iter().filter_map(|topic| topic.name.as_ref()).map(|name| name.to_string());
        let missing: Vec<_> = missing.filter(|name| catalog.topic_named(name).is_none()).collect();
        let catalog = if may_create && !missing.is_empty() { self.auto_create(missing).await } else { catalog };
        let describe = |asked: MetadataRequestTopic| match (&asked.name, version) {
            (Some(name), _) => match catalog.topic_named(name) {
                Some(topic) => self.describe_topic(topic, with_operations),
                None => {
                    let error = match check_topic_name(name) {
                        Ok(()) => ResponseError::UnknownTopicOrPartition,
                        Err(_) => ResponseError::InvalidTopicException,
                    };
                    MetadataResponseTopic::default().with_error_code(error.code()).with_name(asked.name.clone())
                }
            },
            (None, _) => match catalog.topic(asked.topic_id) {
                Some(topic) => self.describe_topic(topic, with_operations),
                None => {
                    // Up to version 11 a name may not be null.
                    let name = (version < 12).then(TopicName::default);
                    MetadataResponseTopic::default()
                        .with_error_code(ResponseError::UnknownTopicId.code())
                        .with_name(name)
                        .with_topic_id(asked.topic_id)
                }
            },
        };
        asked.into_iter().map(describe).collect()
    }

    fn describe_topic(&self, topic: &Topic, with_operations: bool) -> MetadataResponseTopic {
        let node = BrokerId(self.inner.config.node_id);
        let partition = |index| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(node)
                .with_leader_epoch(LEADER_EPOCH)
                .with_replica_nodes(vec![node])
                .with_isr_nodes(vec![node])
        };
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(text(topic.name.clone()))))
            .with_topic_id(topic.id)
            .with_is_internal(topic.owner == TopicOwner::Internal)
            .with_partitions((0..topic.partitions).map(partition).collect())
            .with_topic_authorized_operations(if with_operations { TOPIC_OPERATIONS } else { NO_OPERATIONS })
    }

    pub(crate) fn describe_cluster(&self, request: &DescribeClusterRequest) -> DescribeClusterResponse {
        // 1 is brokers, 2 controllers.
        if request.endpoint_type != 1 {
            return DescribeClusterResponse::default()
                .with_error_code(ResponseError::UnsupportedEndpointType.code())
                .with_error_message(Some(text("this endpoint speaks for brokers only")))
                .with_endpoint_type(request.endpoint_type);
        }
        let (host, port) = self.advertised();
        let node = BrokerId(self.inner.config.node_id);
        let broker =
            DescribeClusterBroker::default().with_broker_id(node).with_host(text(host)).with_port(i32::from(port));
        let operations = request.include_cluster_authorized_operations;
        DescribeClusterResponse::default()
            .with_cluster_id(text(self.cluster_id()))
            .with_controller_id(node)
            .with_brokers(vec![broker])
            .with_cluster_authorized_operations(if operations { CLUSTER_OPERATIONS } else { NO_OPERATIONS })
    }

    pub(crate) async fn find_coordinator(
        &self,
        request: FindCoordinatorRequest,
        version: i16,
    ) -> FindCoordinatorResponse {
        let (error, message) = match request.key_type {
            GROUP => match self.ensure_offsets_topic().await {
                Ok(()) => (None, None),
                Err(reason) => (Some(ResponseError::CoordinatorNotAvailable), Some(text(reason))),
            },
            TRANSACTION => {
                let message = StrBytes::from_static_str("transactions are not served yet");
                (Some(ResponseError::TransactionalIdAuthorizationFailed), Some(message))
            }
            other => {
                let message = text(format!("key type {other} is not served: only groups have a coordinator"));
                (Some(ResponseError::InvalidRequest), Some(message))
            }
        };
        let (host, port) = if error.is_none() { self.advertised() } else { (String::new(), 0) };
        let node = BrokerId(if error.is_none() { self.inner.config.node_id } else { -1 });
        let port = if error.is_none() { i32::from(port) } else { -1 };
        if version < 4 {
            return FindCoordinatorResponse::default()
                .with_error_code(code(error))
                .with_error_message(message)
                .with_node_id(node)
                .with_host(text(host))
                .with_port(port);
        }
        let coordinator = |key: StrBytes| {
            Coordinator::default()
                .with_key(key)
                .with_error_code(code(error))
                .with_error_message(message.clone())
                .with_node_id(node)
                .with_host(text(host.clone()))
                .with_port(port)
        };
        let coordinators = request.coordinator_keys.into_iter().map(coordinator).collect();
        FindCoordinatorResponse::default().with_coordinators(coordinators)
    }
}
