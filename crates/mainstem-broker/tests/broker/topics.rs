//! Topics and their settings.

use mainstem_broker::BrokerConfig;
use mainstem_catalog::{Dependency, Event, Relation, RelationId, RelationKind, ViewDefinition};
use mainstem_kafka_wire::messages::create_partitions_request::CreatePartitionsTopic;
use mainstem_kafka_wire::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use mainstem_kafka_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use mainstem_kafka_wire::messages::delete_topics_request::DeleteTopicState;
use mainstem_kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use mainstem_kafka_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use mainstem_kafka_wire::messages::metadata_request::MetadataRequestTopic;
use mainstem_kafka_wire::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, IncrementalAlterConfigsRequest, MetadataRequest,
};

use mainstem_log::{TopicId, TopicPartition};

use crate::rig::{LOG_ENTRY_BYTES_MAX, Rig, batch, fetch_of, s, topic};

fn asked(name: &str) -> CreatableTopic {
    CreatableTopic::default().with_name(topic(name)).with_num_partitions(1).with_replication_factor(1)
}

fn config(name: &str, value: &str) -> CreatableTopicConfig {
    CreatableTopicConfig::default().with_name(s(name)).with_value(Some(s(value)))
}

async fn create(rig: &Rig, topics: Vec<CreatableTopic>) -> Vec<i16> {
    let response = rig.call(7, CreateTopicsRequest::default().with_topics(topics)).await;
    response.topics.iter().map(|topic| topic.error_code).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_cannot_be_are_refused_one_by_one() {
    let rig = Rig::with(BrokerConfig { clamp_replication_factor: false, ..Default::default() });
    let assigned = |broker| {
        let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(broker)]);
        CreatableTopic::default().with_num_partitions(-1).with_replication_factor(-1).with_assignments(vec![assignment])
    };
    let cases = vec![
        (asked("good"), 0),
        (asked("bad/name"), 17),
        (asked("__mainstem_mine"), 17),
        (asked("p0").with_num_partitions(0), 37),
        (asked("p-1").with_num_partitions(-1), 0),
        (asked("many").with_num_partitions(1_000_000), 37),
        (asked("rf0").with_replication_factor(0), 38),
        (asked("rf3").with_replication_factor(3), 38),
        (asked("rf-1").with_replication_factor(-1), 0),
        (asked("unknown").with_configs(vec![config("no.such", "1")]), 40),
        (asked("value").with_configs(vec![config("retention.ms", "soon")]), 40),
        (asked("large").with_configs(vec![config("max.message.bytes", &LOG_ENTRY_BYTES_MAX.to_string())]), 0),
        (asked("larger").with_configs(vec![config("max.message.bytes", &(LOG_ENTRY_BYTES_MAX + 1).to_string())]), 40),
        (asked("compact").with_configs(vec![config("cleanup.policy", "compact")]), 0),
        (asked("both").with_configs(vec![config("cleanup.policy", "delete,compact")]), 0),
        (asked("shred").with_configs(vec![config("cleanup.policy", "shred")]), 40),
        (asked("ratio").with_configs(vec![config("min.cleanable.dirty.ratio", "1.5")]), 40),
        (asked("set").with_configs(vec![config("retention.ms", "1000")]), 0),
        (assigned(1).with_name(topic("assigned")), 0),
        (assigned(9).with_name(topic("elsewhere")), 39),
        (assigned(1).with_name(topic("assigned-2")).with_num_partitions(2), 42),
    ];
    let expected: Vec<_> = cases.iter().map(|(_, code)| *code).collect();
    let topics: Vec<_> = cases.into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(create(&rig, topics).await, expected);
    assert_eq!(create(&rig, vec![asked("good"), asked("twice"), asked("twice")]).await, [36, 42]);
}

#[tokio::test(flavor = "multi_thread")]
async fn validation_alone_makes_nothing() {
    let rig = Rig::new();
    let request = CreateTopicsRequest::default().with_topics(vec![asked("t")]).with_validate_only(true);
    assert_eq!(rig.call(7, request).await.topics[0].error_code, 0);
    assert!(rig.broker().catalog().topic_named("t").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_come_into_being_when_they_are_asked_for() {
    let mut rig = Rig::new();
    let metadata = |names: &[&str], may_create| {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic(name)));
        let topics = Some(names.iter().map(named).collect());
        MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(may_create)
    };
    let codes = |response: mainstem_kafka_wire::messages::MetadataResponse| {
        response.topics.iter().map(|topic| topic.error_code).collect::<Vec<_>>()
    };
    assert_eq!(codes(rig.call(9, metadata(&["a"], false)).await), [3]);
    assert_eq!(codes(rig.call(9, metadata(&["a", "b/", "__mainstem_x"], true)).await), [0, 17, 3]);
    assert_eq!(codes(rig.call(9, metadata(&["a"], false)).await), [0]);
    let (id, cluster) =
        (rig.broker().catalog().topic_named("a").expect("made").id, rig.broker().cluster_id().to_owned());
    rig.crash();
    let all = rig.call(12, MetadataRequest::default().with_topics(None)).await;
    assert_eq!((all.topics[0].topic_id, all.cluster_id.as_deref()), (id, Some(cluster.as_str())));
    let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(id);
    let response = rig.call(12, MetadataRequest::default().with_topics(Some(vec![by_id]))).await;
    assert_eq!(response.topics[0].name.as_deref().map(|name| &**name), Some("a"));
}

/// Low watermark and error code.
async fn delete_before(rig: &Rig, name: &str, offset: i64) -> (i64, i16) {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let asked = DeleteRecordsTopic::default().with_name(topic(name)).with_partitions(vec![partition]);
    let response = rig.call(2, DeleteRecordsRequest::default().with_topics(vec![asked])).await;
    let result = &response.topics[0].partitions[0];
    (result.low_watermark, result.error_code)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_before_an_offset_are_deleted_for_good_unless_somebody_needs_them() {
    let mut rig = Rig::new();
    rig.create("t", 1).await;
    for value in ["0", "1", "2", "3"] {
        rig.produce("t", 0, batch(&[value])).await;
    }
    let id = TopicPartition::new(TopicId(rig.broker().catalog().topic_named("t").expect("made").id), 0);
    assert_eq!(delete_before(&rig, "t", 5).await, (-1, 1), "offset out of range");
    assert_eq!(delete_before(&rig, "none", 0).await, (-1, 3));
    let held = rig.broker().log().hold(id, 2);
    assert_eq!(delete_before(&rig, "t", 3).await, (-1, 44), "a reader needs offset 2");
    assert_eq!(delete_before(&rig, "t", 2).await, (2, 0));
    drop(held);
    assert_eq!(delete_before(&rig, "t", 1).await, (2, 0), "the start never goes back");
    rig.crash();
    assert_eq!(rig.broker().log().partition(id).map(|state| state.start_offset), Some(2));
    assert_eq!(rig.fetch_one("t", 0, 1).await.error_code, 1);
    assert_eq!(delete_before(&rig, "t", -1).await, (4, 0), "-1 is the end");
    rig.produce("t", 0, batch(&["4"])).await;
    rig.crash();
    let state = rig.broker().log().partition(id).expect("it is there");
    assert_eq!((state.start_offset, state.high_watermark), (4, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_in_use_is_not_deleted_and_a_deleted_one_is_gone() {
    let mut rig = Rig::new();
    rig.create("t", 1).await;
    rig.produce("t", 0, batch(&["old"])).await;
    let id = rig.broker().catalog().topic_named("t").expect("made").id;
    let definition = ViewDefinition {
        query: String::new(),
        emit_on_window_close: false,
        graph: None,
        settings: Vec::new(),
        origin: Vec::new(),
    };
    let relation = Relation {
        id: RelationId::FIRST,
        schema: "public".into(),
        name: "reader".into(),
        columns: Vec::new(),
        kind: RelationKind::MaterializedView(definition),
        depends_on: vec![Dependency::Topic(id)],
        sql: String::new(),
    };
    let created = vec![Event::RelationCreated { relation: Box::new(relation) }];
    rig.broker().change_catalog(move |_| Ok::<_, ()>(created)).await.expect("changed");
    let delete = || {
        let state = DeleteTopicState::default().with_name(None).with_topic_id(id);
        DeleteTopicsRequest::default().with_topics(vec![state])
    };
    let refused = rig.call(6, delete()).await.responses.remove(0);
    assert_eq!(refused.error_code, 44);
    assert!(refused.error_message.expect("words").contains("materialized view \"reader\""));
    let dropped = vec![Event::RelationsDropped { relations: vec![RelationId::FIRST] }];
    rig.broker().change_catalog(move |_| Ok::<_, ()>(dropped)).await.expect("changed");
    let deleted = rig.call(6, delete()).await.responses.remove(0);
    assert_eq!((deleted.error_code, deleted.name.as_deref().map(|name| &**name)), (0, Some("t")));
    assert_eq!(rig.call(6, delete()).await.responses[0].error_code, 100);
    rig.create("t", 1).await;
    assert_eq!(rig.values("t", 0).await.len(), 0, "a topic of the same name is another");
    rig.crash();
    assert_eq!(rig.values("t", 0).await.len(), 0);
    let mut old = fetch_of(&[("", 0, 0)]);
    old.topics[0].topic_id = id;
    assert_eq!(rig.fetch(old).await.topics[0].partitions[0].error_code, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_added_and_never_taken_away() {
    let mut rig = Rig::new();
    rig.create("t", 2).await;
    for (name, count, expected) in [("t", 2, 37), ("t", 1, 37), ("none", 3, 3), ("t", 5, 0)] {
        let asked = CreatePartitionsTopic::default().with_name(topic(name)).with_count(count).with_assignments(None);
        let response = rig.call(3, CreatePartitionsRequest::default().with_topics(vec![asked])).await;
        assert_eq!(response.results[0].error_code, expected, "{name} {count}");
    }
    assert_eq!(rig.produce("t", 4, batch(&["x"])).await.error_code, 0);
    rig.restart();
    assert_eq!(rig.values("t", 4).await, ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_shown_and_kept() {
    let mut rig = Rig::new();
    rig.create("t", 1).await;
    let alter = |name: &str, operation, value: Option<&str>| {
        let config = AlterableConfig::default().with_name(s(name)).with_config_operation(operation);
        let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(s("t"));
        let resource = resource.with_configs(vec![config.with_value(value.map(s))]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    for (name, operation, value, expected) in [
        ("retention.ms", 0, Some("5000"), 0),
        ("message.timestamp.type", 0, Some("LogAppendTime"), 0),
        ("min.insync.replicas", 0, Some("2"), 0),
        ("min.insync.replicas", 1, None, 0),
        ("cleanup.policy", 2, Some("delete"), 0),
        ("cleanup.policy", 2, Some("compact"), 0),
        ("cleanup.policy", 3, Some("compact"), 0),
        ("min.compaction.lag.ms", 0, Some("2000"), 0),
        ("max.compaction.lag.ms", 0, Some("1000"), 40),
        ("max.compaction.lag.ms", 0, Some("2000"), 0),
        ("delete.retention.ms", 0, Some("-1"), 40),
        ("retention.ms", 2, Some("1"), 40),
        ("retention.ms", 0, None, 40),
        ("no.such", 0, Some("1"), 40),
        ("max.message.bytes", 0, Some("1073741824"), 40),
        ("retention.ms", 9, Some("1"), 42),
    ] {
        let response = rig.call(1, alter(name, operation, value)).await;
        assert_eq!(response.responses[0].error_code, expected, "{name} {operation} {value:?}");
    }
    rig.restart();
    let resource = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(s("t"));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource.with_configuration_keys(None)]);
    let response = rig.call(4, request.with_include_synonyms(true)).await;
    let shown = |name: &str| {
        let config = response.results[0].configs.iter().find(|config| &*config.name == name).expect(name);
        (config.value.as_deref().unwrap_or_default().to_owned(), config.config_source)
    };
    assert_eq!(shown("retention.ms"), ("5000".to_owned(), 1));
    assert_eq!(shown("min.insync.replicas"), ("1".to_owned(), 5));
    assert_eq!(shown("cleanup.policy"), ("delete".to_owned(), 1));
    assert_eq!(shown("delete.retention.ms"), ("86400000".to_owned(), 5));
    assert_eq!(shown("min.cleanable.dirty.ratio"), ("0.5".to_owned(), 5));
    assert_eq!(shown("max.message.bytes"), ("1048588".to_owned(), 5));
    let answer = rig.produce("t", 0, batch(&["x"])).await;
    assert_eq!(answer.log_append_time_ms, 1_000_000, "the simulated clock's time");
    let stored = rig.fetch_one("t", 0, 0).await.records.concat();
    let header = mainstem_kafka_wire::batch::validate(&stored).expect("its CRC is right");
    assert_eq!((header.max_timestamp, header.is_log_append_time()), (1_000_000, true));
}
