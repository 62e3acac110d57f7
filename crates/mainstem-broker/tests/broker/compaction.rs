//! Compacted topics as Kafka's clients see them, and the broker's own.

use bytes::Bytes;
use mainstem_broker::BrokerConfig;
use mainstem_kafka_wire::batch::{BatchHeader, Compression};
use mainstem_kafka_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use mainstem_kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use mainstem_kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use mainstem_kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use mainstem_kafka_wire::messages::offset_fetch_request::OffsetFetchRequestGroup;
use mainstem_kafka_wire::messages::*;
use mainstem_kafka_wire::records::{RecordBatchBuilder, records};
use mainstem_log::{CompactionReport, TopicId, TopicPartition};

use crate::rig::{Rig, s, topic};

const INVALID_RECORD: i16 = 87;

async fn create_with(rig: &Rig, name: &str, configs: &[(&str, &str)]) {
    let config =
        |(name, value): &(&str, &str)| CreatableTopicConfig::default().with_name(s(name)).with_value(Some(s(value)));
    let asked = CreatableTopic::default()
        .with_name(topic(name))
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(configs.iter().map(config).collect());
    let response = rig.call(7, CreateTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(1000)).await;
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
}

/// One batch of `key=value` (`key` is a tombstone, `=value` has no key), of a codec.
fn keyed(codec: Compression, timestamp: i64, text: &str, producer: Option<(i64, i16, i32)>) -> Bytes {
    let mut builder = RecordBatchBuilder::new(codec);
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.producer(id, epoch, sequence);
    }
    for word in text.split(' ') {
        let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value.as_bytes())));
        builder.append(timestamp, (!key.is_empty()).then_some(key.as_bytes()), value, &[]);
    }
    builder.build()
}

async fn produce(rig: &Rig, name: &str, batch: Bytes) -> i64 {
    let answer = rig.produce(name, 0, batch).await;
    assert_eq!(answer.error_code, 0, "{answer:?}");
    answer.base_offset
}

/// Fills up the active segment, so that what was there before is sealed.
async fn fill(rig: &Rig, name: &str, timestamp: i64) {
    produce(rig, name, keyed(Compression::None, timestamp, &format!("filler={}", "x".repeat(5_000)), None)).await;
}

fn compact(rig: &Rig) -> CompactionReport {
    let report = rig.broker().log().compact(u64::MAX);
    assert!(report.is_done && report.runs_abandoned == 0, "{report:?}");
    report
}

/// `offset:key=value` of all that a consumer gets that reads from `offset` on, without the fillers.
async fn consumed(rig: &Rig, name: &str, mut offset: i64) -> String {
    let mut shown = Vec::new();
    loop {
        let answer = rig.fetch_one(name, 0, offset).await;
        assert_eq!(answer.error_code, 0);
        let bytes = Bytes::from(answer.records.concat());
        if bytes.is_empty() {
            assert_eq!(offset, answer.high_watermark);
            return shown.join(" ");
        }
        for batch in mainstem_kafka_wire::batch::split(&bytes) {
            let (header, batch) = batch.expect("a whole batch");
            assert!(mainstem_kafka_wire::batch::verify_crc(&batch));
            for record in records(&batch).expect("records").map(|record| record.expect("a record")) {
                let text = |bytes: Option<Bytes>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"));
                let (key, value) = (text(record.key).unwrap_or_default(), text(record.value));
                if record.offset >= offset && key != "filler" {
                    let value = value.map(|value| format!("={value}")).unwrap_or_default();
                    shown.push(format!("{}:{key}{value}", record.offset));
                }
            }
            offset = header.next_offset();
        }
    }
}

async fn offset_at(rig: &Rig, name: &str, timestamp: i64) -> (i64, i64) {
    let asked = ListOffsetsPartition::default().with_partition_index(0).with_timestamp(timestamp);
    let asked = ListOffsetsTopic::default().with_name(topic(name)).with_partitions(vec![asked]);
    let response =
        rig.call(7, ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![asked])).await;
    let found = &response.topics[0].partitions[0];
    assert_eq!(found.error_code, 0);
    (found.offset, found.timestamp)
}

const EAGER: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("segment.bytes", "4096"), ("min.cleanable.dirty.ratio", "0")];

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_a_compacted_topic_gets_the_last_record_of_each_key() {
    let mut rig = Rig::new();
    create_with(&rig, "t", &EAGER).await;
    for (i, codec) in Compression::ALL.into_iter().enumerate() {
        let time = 1_000 + 10 * i as i64;
        produce(&rig, "t", keyed(codec, time, &format!("a={i} b{i}=v c={i}"), None)).await;
    }
    produce(&rig, "t", keyed(Compression::None, 2_000, "b0 d=1", None)).await;
    fill(&rig, "t", 2_000).await;
    fill(&rig, "t", 2_000).await;
    let report = compact(&rig);
    assert_eq!(report.records_removed, 9, "{report:?}");
    let expected = "4:b1=v 7:b2=v 10:b3=v 12:a=4 13:b4=v 14:c=4 15:b0 16:d=1";
    assert_eq!(consumed(&rig, "t", 0).await, expected);
    assert_eq!(consumed(&rig, "t", 8).await, "10:b3=v 12:a=4 13:b4=v 14:c=4 15:b0 16:d=1");
    // From inside the hole in front: the next batch there is.
    let first = Bytes::from(rig.fetch_one("t", 0, 1).await.records.concat());
    let header = BatchHeader::parse(&first).expect("a batch");
    assert_eq!((header.base_offset, header.next_offset(), header.record_count), (3, 6, 1));
    assert_eq!(offset_at(&rig, "t", 0).await, (4, 1_010));
    assert_eq!(offset_at(&rig, "t", 1_031).await, (12, 1_040));
    assert_eq!(offset_at(&rig, "t", -2).await.0, 0, "the start stays");
    assert_eq!(offset_at(&rig, "t", -1).await.0, 19, "and so does the end");
    assert_eq!(offset_at(&rig, "t", -3).await, (15, 2_000));
    rig.crash();
    assert_eq!(consumed(&rig, "t", 0).await, expected);

    // A day later the tombstone may go.
    rig.pass_ms(24 * 3600 * 1000);
    assert_eq!(compact(&rig).tombstones_removed, 1);
    assert!(consumed(&rig, "t", 13).await.starts_with("13:b4=v 14:c=4 16:d=1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_takes_no_record_without_a_key() {
    let rig = Rig::new();
    create_with(&rig, "compacted", &EAGER).await;
    create_with(&rig, "both", &[("cleanup.policy", "compact,delete")]).await;
    rig.create("ordinary", 1).await;
    for codec in Compression::ALL {
        for (name, expected) in [("compacted", INVALID_RECORD), ("both", INVALID_RECORD), ("ordinary", 0)] {
            let answer = rig.produce(name, 0, keyed(codec, 5, "a=1 =2", None)).await;
            assert_eq!(answer.error_code, expected, "{name} {codec:?}");
            assert_eq!(answer.error_message.is_some(), expected != 0);
        }
        produce(&rig, "compacted", keyed(codec, 5, "a=1 b", None)).await;
    }
    // Only what clients write is opened: a good checksum around rubbish passes where nobody looks inside.
    let mut rubbish = keyed(Compression::None, 5, "a=1", None).to_vec();
    rubbish[61] = 0xff;
    // It computes the checksum anew.
    mainstem_kafka_wire::batch::patch_log_append_time(&mut rubbish, 5);
    assert_eq!(rig.produce("compacted", 0, rubbish.clone().into()).await.error_code, INVALID_RECORD);
    assert_eq!(rig.produce("ordinary", 0, rubbish.into()).await.error_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_answered_with_its_offset_after_compaction_and_a_crash() {
    let mut rig = Rig::new();
    create_with(&rig, "t", &EAGER).await;
    let sent = |sequence: i32| keyed(Compression::None, 5, "a=1", Some((77, 0, sequence)));
    for i in 0..5 {
        assert_eq!(produce(&rig, "t", sent(i)).await, i64::from(i));
    }
    produce(&rig, "t", keyed(Compression::None, 5, "a=2", None)).await;
    fill(&rig, "t", 5).await;
    fill(&rig, "t", 5).await;
    assert_eq!(compact(&rig).records_removed, 5);
    assert_eq!(consumed(&rig, "t", 0).await, "5:a=2");
    rig.crash();
    for i in 0..5 {
        assert_eq!(produce(&rig, "t", sent(i)).await, i64::from(i), "as the first time");
    }
    assert_eq!(produce(&rig, "t", sent(5)).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_becomes_compacted_and_ordinary_again_and_retention_goes_by_its_policy() {
    let rig = Rig::new();
    create_with(&rig, "t", &[("segment.bytes", "4096"), ("retention.ms", "1000"), ("cleanup.policy", "compact")]).await;
    for i in 0..4 {
        produce(&rig, "t", keyed(Compression::None, 5, &format!("a={i}"), None)).await;
        fill(&rig, "t", 5).await;
    }
    rig.broker().log().apply_retention();
    assert_eq!(offset_at(&rig, "t", -2).await.0, 0, "compact alone does not look at retention");
    let alter = |operation: i8| {
        let config = incremental_alter_configs_request::AlterableConfig::default()
            .with_name(s("cleanup.policy"))
            .with_config_operation(operation)
            .with_value(Some(s(if operation == 2 { "delete" } else { "compact" })));
        let resource = incremental_alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(s("t"))
            .with_configs(vec![config]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    compact(&rig);
    assert_eq!(consumed(&rig, "t", 0).await, "6:a=3");
    let response = rig.call(1, alter(2)).await;
    assert_eq!(response.responses[0].error_code, 0);
    rig.broker().log().apply_retention();
    assert_eq!(offset_at(&rig, "t", -2).await.0, 7, "compact,delete does");
    let response = rig.call(1, alter(3)).await;
    assert_eq!(response.responses[0].error_code, 0);
    assert_eq!(rig.produce("t", 0, keyed(Compression::None, 5, "=free", None)).await.error_code, 0);
    assert_eq!(compact(&rig).runs, 0);
}

async fn commit(rig: &Rig, group: &str, name: &str, offset: i64) {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(s(&format!("m{offset}"))));
    let asked = OffsetCommitRequestTopic::default().with_name(topic(name)).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default().with_group_id(GroupId(s(group))).with_topics(vec![asked]);
    let response = rig.call(8, request.with_generation_id_or_member_epoch(-1)).await;
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
}

/// Topic, offset and metadata of all that a group has committed.
async fn committed(rig: &Rig, group: &str) -> Vec<(String, i64, String)> {
    let asked = OffsetFetchRequestGroup::default().with_group_id(GroupId(s(group))).with_topics(None);
    let response = rig.call(8, OffsetFetchRequest::default().with_groups(vec![asked])).await;
    let mut all = Vec::new();
    for topic in &response.groups[0].topics {
        let found = topic.partitions.iter();
        let found =
            found.map(|p| (topic.name.to_string(), p.committed_offset, p.metadata.as_deref().unwrap_or("").into()));
        all.extend(found);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_of_group_offsets_is_compacted_and_groups_are_what_they_were() {
    let config = BrokerConfig { offsets_topic_partitions: 1, offsets_topic_segment_bytes: 4_096, ..Default::default() };
    let mut rig = Rig::with(config);
    rig.create("t", 1).await;
    rig.create("gone", 1).await;
    let find = FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(vec![s("g")]);
    assert_eq!(rig.call(4, find).await.coordinators[0].error_code, 0);
    for i in 0..120 {
        commit(&rig, "steady", "t", i).await;
        commit(&rig, &format!("of-many-{}", i % 7), "t", i).await;
        if i < 60 {
            commit(&rig, "ended", "t", i).await;
            commit(&rig, "reborn", "t", i).await;
            commit(&rig, "steady", "gone", i).await;
        }
        if i == 60 {
            let groups = vec![GroupId(s("ended")), GroupId(s("reborn"))];
            let response = rig.call(2, DeleteGroupsRequest::default().with_groups_names(groups)).await;
            assert!(response.results.iter().all(|result| result.error_code == 0), "{response:?}");
            let names = vec![topic("gone")];
            let delete = DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(1_000);
            assert_eq!(rig.call(5, delete).await.responses[0].error_code, 0);
            rig.create("gone", 1).await;
        }
        if i == 100 {
            commit(&rig, "reborn", "t", 7).await;
        }
    }
    let groups = ["steady", "ended", "reborn", "of-many-0", "of-many-1", "of-many-6", "never"];
    let mut before = Vec::new();
    for group in groups {
        before.push(committed(&rig, group).await);
    }
    assert_eq!(before[0], [("t".to_owned(), 119, "m119".to_owned())]);
    assert!(before[1].is_empty());
    assert_eq!(before[2], [("t".to_owned(), 7, "m7".to_owned())]);
    let catalog = rig.broker().catalog();
    let id = TopicPartition::new(TopicId(catalog.topic_named("__consumer_offsets").expect("it is there").id), 0);
    let bytes = |rig: &Rig| rig.broker().log().partition(id).expect("it is there").bytes;
    let large = bytes(&rig);
    for day in 0..3 {
        compact(&rig);
        rig.crash();
        for (group, before) in groups.iter().zip(&before) {
            assert_eq!(&committed(&rig, group).await, before, "{group}, day {day}");
        }
        // Tombstones come and go.
        rig.pass_ms(25 * 3600 * 1000);
    }
    assert!(bytes(&rig) * 3 < large, "{large} bytes became {}", bytes(&rig));
    let resource = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(s("__consumer_offsets"));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource.with_configuration_keys(None)]);
    let response = rig.call(4, request).await;
    let shown = |name: &str| {
        let config = response.results[0].configs.iter().find(|config| &*config.name == name).expect(name);
        config.value.as_deref().unwrap_or_default().to_owned()
    };
    assert_eq!((shown("cleanup.policy"), shown("segment.bytes")), ("compact".to_owned(), "4096".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_broker_compacts_by_itself() {
    let config = BrokerConfig { compaction_check_ms: 1, ..Default::default() };
    let rig = Rig::with(config);
    create_with(&rig, "t", &EAGER).await;
    for i in 0..4 {
        produce(&rig, "t", keyed(Compression::None, 5, &format!("a={i}"), None)).await;
        fill(&rig, "t", 5).await;
    }
    let broker = rig.broker().clone();
    let running = tokio::spawn(async move { broker.run().await });
    let mut consumed_last = String::new();
    for _ in 0..2_000 {
        consumed_last = consumed(&rig, "t", 0).await;
        if consumed_last == "6:a=3" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    running.abort();
    assert_eq!(consumed_last, "6:a=3");
}
