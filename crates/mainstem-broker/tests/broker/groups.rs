//! Consumer groups through the broker: what they commit is durable, and is what Kafka writes.

use mainstem_broker::coordinator::records::OffsetsRecord;
use mainstem_kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use mainstem_kafka_wire::messages::offset_fetch_request::OffsetFetchRequestGroup;
use mainstem_kafka_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use mainstem_kafka_wire::messages::*;
use mainstem_log::{Atomicity, Entry, Part, TopicId, TopicPartition, Urgency};

use crate::rig::{Rig, batch, s, topic};

fn group() -> GroupId {
    GroupId(s("g"))
}

async fn join(rig: &Rig, member: &str) -> JoinGroupResponse {
    let protocol = join_group_request::JoinGroupRequestProtocol::default().with_name(s("range"));
    let request = JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(6_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(s(member))
        .with_protocol_type(s("consumer"))
        .with_protocols(vec![protocol.with_metadata("meta".into())]);
    rig.call(9, request).await
}

async fn sync(rig: &Rig, member: &str, generation: i32, assignments: &[(&str, &str)]) -> SyncGroupResponse {
    let assignment = |(id, share): &(&str, &str)| {
        SyncGroupRequestAssignment::default().with_member_id(s(id)).with_assignment((*share).to_owned().into())
    };
    let request = SyncGroupRequest::default()
        .with_group_id(group())
        .with_member_id(s(member))
        .with_generation_id(generation)
        .with_assignments(assignments.iter().map(assignment).collect());
    rig.call(5, request.with_protocol_type(Some(s("consumer"))).with_protocol_name(Some(s("range")))).await
}

async fn heartbeat(rig: &Rig, member: &str, generation: i32) -> i16 {
    let request = HeartbeatRequest::default().with_group_id(group()).with_member_id(s(member));
    rig.call(4, request.with_generation_id(generation)).await.error_code
}

async fn commit(rig: &Rig, member: &str, generation: i32, offsets: &[(&str, i32, i64, &str)]) -> Vec<i16> {
    let asked = |(name, partition, offset, metadata): &(&str, i32, i64, &str)| {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(s(metadata)));
        OffsetCommitRequestTopic::default().with_name(topic(name)).with_partitions(vec![partition])
    };
    let request = OffsetCommitRequest::default()
        .with_group_id(group())
        .with_member_id(s(member))
        .with_generation_id_or_member_epoch(generation)
        .with_topics(offsets.iter().map(asked).collect());
    rig.call(8, request).await.topics.iter().map(|topic| topic.partitions[0].error_code).collect()
}

/// All that the group has committed: topic, partition, offset, metadata.
async fn committed(rig: &Rig) -> Vec<(String, i32, i64, String)> {
    let asked = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(None);
    let response = rig.call(8, OffsetFetchRequest::default().with_groups(vec![asked])).await;
    let mut all = Vec::new();
    for topic in &response.groups[0].topics {
        for p in &topic.partitions {
            let metadata = p.metadata.as_deref().unwrap_or_default().to_owned();
            all.push((topic.name.to_string(), p.partition_index, p.committed_offset, metadata));
        }
    }
    all
}

/// A group of one member, stable.
async fn alone(rig: &Rig) -> (String, i32) {
    let id = join(rig, "").await;
    assert_eq!(id.error_code, 79, "it learns its id first");
    let joined = join(rig, &id.member_id).await;
    assert_eq!((joined.error_code, &joined.leader), (0, &joined.member_id));
    let synced = sync(rig, &joined.member_id, joined.generation_id, &[(&joined.member_id, "all")]).await;
    assert_eq!((synced.error_code, &*synced.assignment), (0, &b"all"[..]));
    (joined.member_id.to_string(), joined.generation_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_and_members_survive_a_power_loss() {
    let mut rig = Rig::new();
    rig.create("t", 2).await;
    for value in ["a", "b", "c"] {
        rig.produce("t", 1, batch(&[value])).await;
    }
    let (member, generation) = alone(&rig).await;
    let long = "x".repeat(5000);
    let offsets = [("t", 0, 0, ""), ("t", 1, 2, "mine"), ("none", 0, 1, ""), ("t", 0, 0, long.as_str())];
    assert_eq!(commit(&rig, &member, generation, &offsets).await, [0, 0, 3, 12]);
    let expected = [("t".to_owned(), 0, 0, String::new()), ("t".to_owned(), 1, 2, "mine".to_owned())];
    assert_eq!(committed(&rig).await, expected);
    rig.crash();
    assert_eq!(committed(&rig).await, expected);
    assert_eq!(heartbeat(&rig, &member, generation).await, 0, "the member goes on");
    assert_eq!(&*sync(&rig, &member, generation, &[]).await.assignment, b"all");
    let status = rig.broker().groups().remove(0);
    assert_eq!((status.members, status.partitions[1].lag()), (1, Some(1)));
    rig.pass_ms(6_001);
    assert_eq!(heartbeat(&rig, &member, generation).await, 25, "it was silent too long");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_and_the_death_of_one_is_noticed() {
    let rig = Rig::new();
    rig.create("t", 2).await;
    let (first, generation) = alone(&rig).await;
    let second = join(&rig, "").await.member_id.to_string();
    // Both join at the same time: neither is answered before the other has come.
    let (a, b) = tokio::join!(join(&rig, &first), join(&rig, &second));
    assert_eq!((a.generation_id, b.generation_id), (generation + 1, generation + 1));
    assert_eq!((a.members.len(), b.members.len()), (2, 0));
    let shares = [(first.as_str(), "0"), (second.as_str(), "1")];
    let (a, b) = tokio::join!(sync(&rig, &first, generation + 1, &shares), sync(&rig, &second, generation + 1, &[]));
    assert_eq!((&*a.assignment, &*b.assignment), (&b"0"[..], &b"1"[..]));
    rig.pass_ms(4_000);
    assert_eq!(heartbeat(&rig, &first, generation + 1).await, 0);
    rig.pass_ms(4_000);
    assert_eq!(heartbeat(&rig, &first, generation + 1).await, 27, "the second is dead: rebalance");
    assert_eq!(join(&rig, &first).await.members.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offsets_topic_holds_kafkas_records() {
    let rig = Rig::new();
    rig.create("t", 1).await;
    assert_eq!(commit(&rig, "", -1, &[("t", 0, 7, "m")]).await, [0]);
    let catalog = rig.broker().catalog();
    let offsets = catalog.topic_named("__consumer_offsets").expect("made on demand");
    assert_eq!(offsets.partitions, 3);
    // Java's hash of "g" is its code.
    let partition = i32::from(b'g') % 3;
    let answer = rig.fetch_one("__consumer_offsets", partition, 0).await;
    let stored = answer.records.concat().into();
    let record = mainstem_kafka_wire::records::records(&stored).expect("a batch").next().expect("one").expect("good");
    match OffsetsRecord::decode(&record.key.expect("a key"), record.value.as_deref()) {
        Ok(OffsetsRecord::Offset { group, topic, partition: 0, value: Some(value) }) => {
            assert_eq!((&*group, &*topic, value.offset, &*value.metadata), ("g", "t", 7, "m"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.produce("__consumer_offsets", 0, batch(&["forged"])).await.error_code, 29);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_stays_deleted() {
    let mut rig = Rig::new();
    rig.create("t", 1).await;
    rig.create("u", 1).await;
    assert_eq!(commit(&rig, "", -1, &[("t", 0, 7, ""), ("u", 0, 8, "")]).await, [0, 0]);
    let topics = DeleteTopicsRequest::default().with_topic_names(vec![topic("u")]);
    assert_eq!(rig.call(5, topics).await.responses[0].error_code, 0);
    // The tombstones are in the log before any later write of the group.
    assert_eq!(commit(&rig, "", -1, &[("t", 0, 9, "")]).await, [0]);
    assert_eq!(committed(&rig).await, [("t".to_owned(), 0, 9, String::new())]);
    rig.crash();
    assert_eq!(committed(&rig).await, [("t".to_owned(), 0, 9, String::new())]);
    let delete = || DeleteGroupsRequest::default().with_groups_names(vec![group()]);
    assert_eq!(rig.call(2, delete()).await.results[0].error_code, 0);
    rig.crash();
    assert_eq!(committed(&rig).await, []);
    assert_eq!(rig.call(2, delete()).await.results[0].error_code, 69);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_a_deleted_topic_are_not_those_of_the_next_with_its_name() {
    let mut rig = Rig::new();
    rig.create("u", 1).await;
    assert_eq!(commit(&rig, "", -1, &[("u", 0, 8, "")]).await, [0]);
    let partition = i32::from(b'g') % 3;
    let stored = rig.fetch_one("__consumer_offsets", partition, 0).await.records.concat();
    let topics = DeleteTopicsRequest::default().with_topic_names(vec![topic("u")]);
    assert_eq!(rig.call(5, topics).await.responses[0].error_code, 0);
    // What a kill between the deletion and the tombstone leaves behind.
    let to = rig.broker().catalog().topic_named("__consumer_offsets").expect("it is there").id;
    let part = Part { to: TopicPartition::new(TopicId(to), partition), batches: stored.into() };
    let entry = Entry { parts: vec![part], conditions: Vec::new(), atomicity: Atomicity::Whole };
    rig.broker().log().append_and_wait(entry, Urgency::Ordinary).expect("appended");
    rig.crash();
    assert_eq!(committed(&rig).await, []);
    rig.create("u", 1).await;
    rig.crash();
    assert_eq!(committed(&rig).await, []);
    assert_eq!(commit(&rig, "", -1, &[("u", 0, 3, "")]).await, [0]);
    rig.crash();
    assert_eq!(committed(&rig).await, [("u".to_owned(), 0, 3, String::new())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_listed_and_described() {
    let rig = Rig::new();
    let (member, generation) = alone(&rig).await;
    let listed = rig.call(5, ListGroupsRequest::default().with_states_filter(vec![s("stable")])).await;
    assert_eq!((&*listed.groups[0].group_id.0, &*listed.groups[0].group_type), ("g", "classic"));
    assert!(rig.call(5, ListGroupsRequest::default().with_states_filter(vec![s("Empty")])).await.groups.is_empty());
    let described = rig.call(6, DescribeGroupsRequest::default().with_groups(vec![group()])).await.groups.remove(0);
    assert_eq!((&*described.group_state, &*described.protocol_data), ("Stable", "range"));
    let shown = &described.members[0];
    assert_eq!((&*shown.member_id, &*shown.client_id, &*shown.client_host), (&*member, "test", "/127.0.0.1"));
    assert_eq!((&*shown.member_metadata, &*shown.member_assignment), (&b"meta"[..], &b"all"[..]));
    let identity = leave_group_request::MemberIdentity::default().with_member_id(s(&member));
    let leave = LeaveGroupRequest::default().with_group_id(group()).with_members(vec![identity]);
    assert_eq!(rig.call(4, leave).await.members[0].error_code, 0);
    assert_eq!(heartbeat(&rig, &member, generation).await, 25);
    let transactions = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![s("tx")]);
    assert_eq!(rig.call(4, transactions).await.coordinators[0].error_code, 53);
}
