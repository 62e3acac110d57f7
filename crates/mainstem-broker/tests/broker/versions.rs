//! Every request type is answered in every version that is advertised, and nothing else is.

use bytes::{BufMut, Bytes, BytesMut};
use mainstem_kafka_wire::frame::served_versions;
use mainstem_kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use mainstem_kafka_wire::messages::*;

use crate::rig::{Rig, batch, fetch_of, one_partition, s, topic};

/// A request of each type that says enough to fill every part of its answer.
async fn ask(rig: &Rig, key: ApiKey, v: i16) {
    let group = || GroupId(s("g"));
    match key {
        ApiKey::Produce | ApiKey::Fetch => {}
        ApiKey::ApiVersions => {
            let mut request = ApiVersionsRequest::default();
            if v >= 3 {
                request = request.with_client_software_name(s("test")).with_client_software_version(s("1.0"));
            }
            assert_eq!(rig.call(v, request).await.error_code, 0);
        }
        ApiKey::Metadata => {
            let named = |name| metadata_request::MetadataRequestTopic::default().with_name(Some(topic(name)));
            let topics = Some(vec![named("t"), named("no/such")]);
            let response = rig.call(v, MetadataRequest::default().with_topics(topics)).await;
            assert_eq!(response.topics[0].partitions.len(), 2);
            assert_eq!(response.topics[1].error_code, 17);
        }
        ApiKey::ListOffsets => {
            let partition = ListOffsetsPartition::default().with_timestamp(-1);
            let asked = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
            let response = rig.call(v, ListOffsetsRequest::default().with_topics(vec![asked])).await;
            let answer = &response.topics[0].partitions[0];
            assert_eq!((answer.error_code, answer.offset), (0, 2));
        }
        ApiKey::OffsetForLeaderEpoch => {
            let partition =
                offset_for_leader_epoch_request::OffsetForLeaderPartition::default().with_current_leader_epoch(-1);
            let asked = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                .with_topic(topic("t"))
                .with_partitions(vec![partition]);
            let response = rig.call(v, OffsetForLeaderEpochRequest::default().with_topics(vec![asked])).await;
            let answer = &response.topics[0].partitions[0];
            assert_eq!((answer.error_code, answer.leader_epoch, answer.end_offset), (0, 0, 2));
        }
        ApiKey::FindCoordinator => {
            let request = FindCoordinatorRequest::default();
            let request = if v < 4 { request.with_key(s("g")) } else { request.with_coordinator_keys(vec![s("g")]) };
            let response = rig.call(v, request).await;
            let node = if v < 4 { response.node_id } else { response.coordinators[0].node_id };
            assert_eq!(node.0, 1);
        }
        ApiKey::OffsetCommit => {
            let partition = offset_commit_request::OffsetCommitRequestPartition::default().with_committed_offset(1);
            let asked = offset_commit_request::OffsetCommitRequestTopic::default()
                .with_name(topic("t"))
                .with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![asked]);
            assert_eq!(rig.call(v, request).await.topics[0].partitions[0].error_code, 0);
        }
        ApiKey::OffsetFetch => {
            let request = OffsetFetchRequest::default();
            let request = if v < 8 {
                let asked = offset_fetch_request::OffsetFetchRequestTopic::default()
                    .with_name(topic("t"))
                    .with_partition_indexes(vec![0, 1]);
                request.with_group_id(group()).with_topics(Some(vec![asked]))
            } else {
                let asked =
                    offset_fetch_request::OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(None);
                request.with_groups(vec![asked])
            };
            rig.call(v, request).await;
        }
        ApiKey::JoinGroup => {
            let protocol = join_group_request::JoinGroupRequestProtocol::default().with_name(s("range"));
            let request = JoinGroupRequest::default()
                .with_group_id(GroupId(s(&format!("join-{v}"))))
                .with_session_timeout_ms(10_000)
                .with_rebalance_timeout_ms(if v == 0 { -1 } else { 10_000 })
                .with_protocol_type(s("consumer"))
                .with_protocols(vec![protocol]);
            assert_eq!(rig.call(v, request).await.error_code, if v < 4 { 0 } else { 79 });
        }
        ApiKey::SyncGroup => {
            assert_eq!(rig.call(v, SyncGroupRequest::default().with_group_id(group())).await.error_code, 25);
        }
        ApiKey::Heartbeat => {
            assert_eq!(rig.call(v, HeartbeatRequest::default().with_group_id(group())).await.error_code, 25);
        }
        ApiKey::LeaveGroup => {
            let request = LeaveGroupRequest::default().with_group_id(group());
            let request = if v < 3 {
                request.with_member_id(s("m"))
            } else {
                request.with_members(vec![leave_group_request::MemberIdentity::default().with_member_id(s("m"))])
            };
            let response = rig.call(v, request).await;
            assert_eq!(if v < 3 { response.error_code } else { response.members[0].error_code }, 25);
        }
        _ => ask_admin(rig, key, v).await,
    }
}

async fn ask_admin(rig: &Rig, key: ApiKey, v: i16) {
    match key {
        ApiKey::DescribeGroups => {
            let groups = vec![GroupId(s("g")), GroupId(s("nobody"))];
            let response = rig.call(v, DescribeGroupsRequest::default().with_groups(groups)).await;
            assert_eq!(&*response.groups[1].group_state, "Dead");
        }
        ApiKey::ListGroups => drop(rig.call(v, ListGroupsRequest::default()).await),
        ApiKey::DeleteGroups => {
            let response = rig.call(v, DeleteGroupsRequest::default().with_groups_names(vec![GroupId(s("no"))])).await;
            assert_eq!(response.results[0].error_code, 69);
        }
        ApiKey::CreateTopics => {
            let named = |name: &str| {
                create_topics_request::CreatableTopic::default()
                    .with_name(topic(name))
                    .with_num_partitions(1)
                    .with_replication_factor(3)
            };
            let topics = vec![named(&format!("created-{v}")), named("t")];
            let response = rig.call(v, CreateTopicsRequest::default().with_topics(topics)).await;
            let codes: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
            assert_eq!(codes, [0, 36]);
        }
        ApiKey::DeleteTopics => {
            let name = format!("doomed-{v}");
            rig.create(&name, 1).await;
            let names = [name.as_str(), "no-such-topic"].map(topic);
            let request = DeleteTopicsRequest::default();
            let request = if v < 6 {
                request.with_topic_names(names.to_vec())
            } else {
                let state = |name| delete_topics_request::DeleteTopicState::default().with_name(Some(name));
                request.with_topics(names.map(state).to_vec())
            };
            let response = rig.call(v, request).await;
            let codes: Vec<_> = response.responses.iter().map(|topic| topic.error_code).collect();
            assert_eq!(codes, [0, 3]);
        }
        ApiKey::CreatePartitions => {
            let asked = create_partitions_request::CreatePartitionsTopic::default().with_name(topic("t")).with_count(1);
            let response = rig.call(v, CreatePartitionsRequest::default().with_topics(vec![asked])).await;
            assert_eq!((&**response.results[0].name, response.results[0].error_code), ("t", 37));
        }
        ApiKey::DeleteRecords => {
            let asked = |index, offset| {
                delete_records_request::DeleteRecordsPartition::default()
                    .with_partition_index(index)
                    .with_offset(offset)
            };
            let of_topic = delete_records_request::DeleteRecordsTopic::default()
                .with_name(topic("t"))
                .with_partitions(vec![asked(0, 0), asked(9, 0)]);
            let response = rig.call(v, DeleteRecordsRequest::default().with_topics(vec![of_topic])).await;
            let results = response.topics[0].partitions.iter().map(|result| (result.low_watermark, result.error_code));
            assert_eq!(results.collect::<Vec<_>>(), [(0, 0), (-1, 3)]);
        }
        ApiKey::InitProducerId => {
            let response = rig.call(v, InitProducerIdRequest::default().with_transactional_id(None)).await;
            assert_eq!(response.error_code, 0);
        }
        ApiKey::DescribeConfigs => {
            let asked = |kind, name| {
                describe_configs_request::DescribeConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(s(name))
                    .with_configuration_keys(None)
            };
            let resources = vec![asked(2, "t"), asked(4, "1"), asked(2, "none")];
            let response = rig.call(v, DescribeConfigsRequest::default().with_resources(resources)).await;
            assert!(response.results[0].configs.iter().any(|config| &*config.name == "retention.ms"));
            assert!(response.results[1].configs.iter().any(|config| &*config.name == "node.id"));
            assert_eq!(response.results[2].error_code, 3);
        }
        ApiKey::IncrementalAlterConfigs => {
            let config = incremental_alter_configs_request::AlterableConfig::default()
                .with_name(s("retention.ms"))
                .with_value(Some(s("1000")));
            let resource = incremental_alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(s("t"))
                .with_configs(vec![config]);
            let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
            assert_eq!(rig.call(v, request).await.responses[0].error_code, 0);
        }
        ApiKey::DescribeCluster => {
            let response = rig.call(v, DescribeClusterRequest::default()).await;
            assert_eq!((&*response.cluster_id, response.brokers.len()), (rig.broker().cluster_id(), 1));
        }
        other => panic!("{other:?} is advertised and not asked for here"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_advertised_version_of_every_request_is_answered() {
    let rig = Rig::new();
    rig.create("t", 2).await;
    rig.produce("t", 0, batch(&["a", "b"])).await;
    for &(key, min, max) in served_versions() {
        for version in min..=max {
            ask(&rig, key, version).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn produce_and_fetch_are_answered_in_all_their_versions() {
    let rig = Rig::new();
    rig.create("t", 1).await;
    let id = rig.broker().catalog().topic_named("t").expect("made").id;
    for version in 3..=13 {
        let mut request = one_partition("t", 0, batch(&["x"]));
        if version >= 13 {
            request.topics[0].topic_id = id;
        }
        let response = rig.produce_as(version, -1, request).await.expect("stays").expect("an answer");
        let answer = &response.topics[0].partitions[0];
        assert_eq!((answer.error_code, answer.base_offset), (0, i64::from(version) - 3));
    }
    for version in 4..=18 {
        let mut request = fetch_of(&[("t", 0, 3)]);
        if version >= 13 {
            request.topics[0].topic_id = id;
        }
        let frame = request.encode(version, 7, None).expect("encodes");
        let answer = rig.send(frame).await.expect("stays").expect("an answer");
        let (_, message) = split_response(i16::from(version >= 12), answer).expect("a header");
        let response = mainstem_kafka_wire::fetch::FetchResponse::decode(version, message).expect("decodes");
        let answer = &response.topics[0].partitions[0];
        assert_eq!((answer.error_code, answer.high_watermark, response.session_id), (0, 11, 0));
        assert_eq!(crate::rig::values_of(&answer.records.concat().into()).len(), 8, "from offset 3 on");
    }
}

fn raw(key: i16, version: i16, rest: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(9);
    frame.put_i16(-1);
    frame.put_slice(rest);
    frame.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_of_api_versions_is_answered_in_its_first_form() {
    let rig = Rig::new();
    let answer = rig.send(raw(18, 99, &[0, 1, 2])).await.expect("stays").expect("an answer");
    let (id, response) = decode_response::<ApiVersionsRequest>(0, answer).expect("version 0");
    assert_eq!((id, response.error_code, response.api_keys.len()), (9, 35, served_versions().len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_closes_the_connection() {
    let rig = Rig::new();
    for (what, frame) in [
        ("an unknown request type", raw(999, 0, &[])),
        ("a type that is not served", raw(4, 0, &[])),
        ("an old version of produce", raw(0, 2, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("a new version of metadata", raw(3, 99, &[0])),
        ("a message that ends early", raw(3, 1, &[0, 0])),
        ("an array longer than its message", raw(3, 1, &[127, 255, 255, 255])),
        ("no header", Bytes::from_static(&[0, 0, 0, 2, 0, 3])),
    ] {
        rig.send(frame).await.expect_err(what);
    }
    assert_eq!(rig.broker().counters().closed_for_cause, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_have_proper_names() {
    let rig = Rig::new();
    for (name, version, expected) in
        [("kcat", "1.7.1", 0), ("a", "b", 0), ("-kcat", "1", 42), ("kcat", "1.", 42), ("", "1", 42), ("k cat", "1", 42)]
    {
        let request =
            ApiVersionsRequest::default().with_client_software_name(s(name)).with_client_software_version(s(version));
        assert_eq!(rig.call(3, request).await.error_code, expected, "{name} {version}");
    }
}
