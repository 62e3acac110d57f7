//! Produce, Fetch and ListOffsets.

use std::time::Duration;

use bytes::Bytes;
use mainstem_broker::BrokerConfig;
use mainstem_catalog::{Event, Topic, TopicOwner};
use mainstem_kafka_wire::fetch::FetchRequest;
use mainstem_kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use mainstem_kafka_wire::messages::{InitProducerIdRequest, ListOffsetsRequest, ProducerId, TransactionalId};
use mainstem_kafka_wire::produce::{ProducePartition, ProduceRequest, ProduceTopic};
use mainstem_log::{TopicId, TopicPartition};
use mainstem_testkit::SimDisk;

use crate::rig::{LOG_ENTRY_BYTES_MAX, Rig, batch, batch_at, batch_of, fetch_of, one_partition, s, topic, values_of};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_there_after_a_power_loss() {
    let mut rig = Rig::new();
    rig.create("t", 1).await;
    for i in 0..20 {
        let answer = rig.produce("t", 0, batch(&[&format!("a{i}"), &format!("b{i}")])).await;
        assert_eq!((answer.error_code, answer.base_offset), (0, 2 * i));
    }
    rig.crash();
    let values = rig.values("t", 0).await;
    assert_eq!(values.len(), 40);
    assert_eq!((&*values[0], &*values[39]), ("a0", "b19"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_partition_of_a_request_is_answered_for_itself() {
    let rig = Rig::new();
    rig.create("t", 2).await;
    let partition = |index, records| ProducePartition { index, records };
    let partitions = vec![
        partition(0, Some(batch(&["good"]))),
        partition(2, Some(batch(&["no such partition"]))),
        partition(1, Some(Bytes::from_static(b"garbage that is long enough to hold a whole batch header, 61 bytes"))),
        partition(0, Some(batch(&["twice"]))),
    ];
    let unknown = vec![partition(0, Some(batch(&["no such topic"]))), partition(1, None)];
    let topics = vec![
        ProduceTopic { name: s("t"), partitions, ..Default::default() },
        ProduceTopic { name: s("none"), partitions: unknown, ..Default::default() },
    ];
    let request = ProduceRequest { topics, ..Default::default() };
    let response = rig.produce_as(9, 1, request).await.expect("stays").expect("an answer");
    let codes = |i: usize| response.topics[i].partitions.iter().map(|p| p.error_code).collect::<Vec<_>>();
    assert_eq!(codes(0), [0, 3, 43, 42]);
    assert_eq!(codes(1), [3, 3]);
    assert_eq!(rig.values("t", 0).await, ["good"]);
    assert_eq!(rig.broker().counters().refused_batches, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_decide_who_hears_what() {
    let rig = Rig::new();
    rig.create("t", 1).await;
    let good = || one_partition("t", 0, batch(&["x"]));
    assert_eq!(rig.produce_as(9, 0, good()).await.expect("stays"), None, "acks=0 is not answered");
    rig.produce_as(9, 0, one_partition("none", 0, batch(&["x"]))).await.expect_err("acks=0 fails by closing");
    let response = rig.produce_as(9, 2, good()).await.expect("stays").expect("an answer");
    assert_eq!(response.topics[0].partitions[0].error_code, 21);
    let transactional = ProduceRequest { transactional_id: Some(s("tx")), ..good() };
    let response = rig.produce_as(9, -1, transactional).await.expect("stays").expect("an answer");
    assert_eq!(response.topics[0].partitions[0].error_code, 53);
    let last = rig.produce("t", 0, batch(&["y"])).await;
    assert_eq!(last.base_offset, 1, "acks=0 has written, the others have not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_as_large_as_a_topic_may_allow_is_kept() {
    let mut rig = Rig::with(BrokerConfig { message_bytes_max: LOG_ENTRY_BYTES_MAX, ..Default::default() });
    rig.create("t", 1).await;
    let mut value = "x".repeat(LOG_ENTRY_BYTES_MAX);
    value.truncate(2 * LOG_ENTRY_BYTES_MAX - batch(&[&value]).len());
    let largest = batch(&[&value]);
    assert_eq!(largest.len(), LOG_ENTRY_BYTES_MAX);
    assert_eq!(rig.produce("t", 0, largest).await.error_code, 0);
    rig.crash();
    assert!(rig.values("t", 0).await == [value], "it is there after a power loss");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partition_is_told_to_those_who_write_and_read_and_is_not_tried_again() {
    let rig = Rig::new();
    rig.create("t", 2).await;
    for text in ["a", "b"] {
        assert_eq!(rig.produce("t", 1, batch(&[text])).await.error_code, 0);
    }
    let id = rig.broker().catalog().topic_named("t").expect("it is there").id;
    let at = TopicPartition::new(TopicId(id), 1);
    rig.broker().log().report_damage(at, 1, "a file at byte 7".to_owned());
    let answer = rig.produce("t", 1, batch(&["c"])).await;
    assert_eq!(answer.error_code, -1, "not an error that clients try again");
    let message = answer.error_message.expect("words");
    for part in ["partition 1 of topic t", "offset 1", "mainstem scrub"] {
        assert!(message.contains(part), "{message}");
    }
    // CORRUPT_MESSAGE: consumers give it to the application.
    assert_eq!(rig.fetch_one("t", 1, 1).await.error_code, 2);
    assert_eq!(rig.values("t", 1).await, ["a"]);
    assert_eq!(rig.produce("t", 0, batch(&["c"])).await.error_code, 0, "the other partition goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_tables_and_internal_ones_are_not_for_clients() {
    let rig = Rig::new();
    let owned = |name: &str, id, owner| Event::TopicCreated {
        topic: Topic {
            id: uuid::Uuid::from_u128(id),
            name: name.to_owned(),
            partitions: 1,
            owner,
            configs: Default::default(),
        },
    };
    let table = owned("of_table", 1, TopicOwner::Table(mainstem_catalog::RelationId(16384)));
    let internal = owned("__mainstem_inner", 2, TopicOwner::Internal);
    let events = vec![table, internal];
    rig.broker().change_catalog(move |_| Ok::<_, ()>(events)).await.expect("changed");
    for (name, says) in [("of_table", "SQL"), ("__mainstem_inner", "internal")] {
        let answer = rig.produce(name, 0, batch(&["x"])).await;
        assert_eq!(answer.error_code, 29);
        assert!(answer.error_message.expect("words").contains(says));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotent_producers_are_answered_with_the_first_offset() {
    let mut rig = Rig::new();
    rig.create("t", 1).await;
    let first = rig.call(4, InitProducerIdRequest::default().with_transactional_id(None)).await;
    let id = first.producer_id.0;
    for sequence in 0..3 {
        assert_eq!(rig.produce("t", 0, batch_of((id, 0, sequence), &["x"])).await.base_offset, i64::from(sequence));
    }
    let again = rig.produce("t", 0, batch_of((id, 0, 1), &["x"])).await;
    assert_eq!((again.error_code, again.base_offset), (0, 1), "a duplicate");
    assert_eq!(rig.produce("t", 0, batch_of((id, 0, 9), &["x"])).await.error_code, 45, "a gap");
    rig.crash();
    let again = rig.produce("t", 0, batch_of((id, 0, 2), &["x"])).await;
    assert_eq!((again.error_code, again.base_offset), (0, 2), "a duplicate after the crash");
    let next = rig.call(4, InitProducerIdRequest::default().with_transactional_id(None)).await;
    assert!(next.producer_id.0 > id, "ids are never given twice");
    let bump = InitProducerIdRequest::default().with_transactional_id(None);
    let bump = bump.with_producer_id(ProducerId(id)).with_producer_epoch(0);
    let bumped = rig.call(4, bump).await;
    assert_eq!((bumped.producer_id.0, bumped.producer_epoch), (id, 1));
    assert_eq!(rig.produce("t", 0, batch_of((id, 1, 0), &["x"])).await.base_offset, 3);
    assert_eq!(rig.produce("t", 0, batch_of((id, 0, 3), &["x"])).await.error_code, 47, "the old epoch is fenced");
    let transactional = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(s("tx"))));
    assert_eq!(rig.call(4, transactional).await.error_code, 53, "a refusal that clients do not retry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_may_be_as_large_as_its_topic_allows() {
    let rig = Rig::with(BrokerConfig { message_bytes_max: 1000, ..Default::default() });
    rig.create("t", 1).await;
    assert_eq!(rig.produce("t", 0, batch(&["x".repeat(900).as_str()])).await.error_code, 0);
    assert_eq!(rig.produce("t", 0, batch(&["x".repeat(1000).as_str()])).await.error_code, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_larger_than_an_entry_is_written_in_parts() {
    let rig = Rig::new();
    rig.create("t", 4).await;
    let large = "x".repeat(900_000);
    let partition = |index| ProducePartition { index, records: Some(batch(&[large.as_str()])) };
    let topics = vec![ProduceTopic { name: s("t"), partitions: (0..4).map(partition).collect(), ..Default::default() }];
    let request = ProduceRequest { topics, ..Default::default() };
    let response = rig.produce_as(9, -1, request).await.expect("stays").expect("an answer");
    assert!(response.topics[0].partitions.iter().all(|p| p.error_code == 0), "{response:?}");
    for partition in 0..4 {
        assert_eq!(rig.values("t", partition).await, [large.as_str()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_nothing_else() {
    let disk = SimDisk::new(7);
    disk.set_capacity(Some(24 << 20));
    let rig = Rig::on(disk, BrokerConfig::default());
    rig.create("t", 1).await;
    rig.produce("t", 0, batch(&["before"])).await;
    let value = "x".repeat(500_000);
    let mut refused = None;
    for _ in 0..100 {
        let answer = rig.produce("t", 0, batch(&[value.as_str()])).await;
        if answer.error_code != 0 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the disk is full at some time");
    assert_eq!(refused.error_code, 56);
    let words = refused.error_message.expect("words").to_string();
    assert!(words.contains("space"), "{words}");
    assert_eq!(rig.values("t", 0).await[0], "before", "reads go on");
    rig.disk.set_capacity(None);
    // The log looks at the disk's space again after a while; what it says until then is the same error.
    let mut code = 56;
    for _ in 0..200 {
        code = rig.produce("t", 0, batch(&["after"])).await.error_code;
        if code == 0 {
            break;
        }
        rig.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(code, 0, "writes resume by themselves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_gives_the_whole_batch_that_holds_its_offset() {
    let rig = Rig::new();
    rig.create("t", 1).await;
    rig.produce("t", 0, batch(&["a", "b", "c"])).await;
    rig.produce("t", 0, batch(&["d"])).await;
    let answer = rig.fetch_one("t", 0, 1).await;
    assert_eq!(values_of(&answer.records.concat().into()), ["a", "b", "c", "d"]);
    let answer = rig.fetch_one("t", 0, 4).await;
    assert_eq!((answer.error_code, answer.high_watermark, answer.records.len()), (0, 4, 0), "the end");
    for offset in [5, -1] {
        let answer = rig.fetch_one("t", 0, offset).await;
        assert_eq!((answer.error_code, answer.high_watermark, answer.log_start_offset), (1, 4, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_batch_comes_even_if_it_is_too_large_and_every_partition_is_first_some_time() {
    let rig = Rig::new();
    rig.create("t", 3).await;
    let large = "x".repeat(2000);
    for partition in 0..3 {
        rig.produce("t", partition, batch(&[large.as_str()])).await;
    }
    let mut seen = [0; 3];
    for _ in 0..6 {
        let wanted = fetch_of(&[("t", 0, 0), ("t", 1, 0), ("t", 2, 0)]);
        let response = rig.fetch(FetchRequest { max_bytes: 100, ..wanted }).await;
        let full: Vec<_> = (0..3).filter(|i| !response.topics[*i].partitions[0].records.is_empty()).collect();
        assert_eq!(full.len(), 1, "one batch, and no more");
        seen[full[0]] += 1;
    }
    assert_eq!(seen, [2, 2, 2], "none starves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_at_the_end_waits_for_records() {
    let rig = Rig::new();
    rig.create("t", 1).await;
    let waiting = rig.fetch(FetchRequest { max_wait_ms: 60_000, ..fetch_of(&[("t", 0, 0)]) });
    let writing = async {
        // Begins after the fetch: the other future of a join is polled first.
        rig.produce("t", 0, batch(&["x"])).await
    };
    let (response, _) = tokio::join!(waiting, writing);
    assert_eq!(values_of(&response.topics[0].partitions[0].records.concat().into()), ["x"]);
    let response = rig.fetch(FetchRequest { max_wait_ms: 20, ..fetch_of(&[("t", 0, 1)]) }).await;
    assert_eq!(response.topics[0].partitions[0].records.len(), 0, "time is up");
    let enough = FetchRequest { max_wait_ms: 60_000, min_bytes: 150, ..fetch_of(&[("t", 0, 1)]) };
    let (response, ..) = tokio::join!(rig.fetch(enough), async {
        rig.produce("t", 0, batch(&["y"])).await;
        rig.produce("t", 0, batch(&["z".repeat(100).as_str()])).await;
    });
    let bytes: usize = response.topics[0].partitions[0].records.iter().map(Bytes::len).sum();
    assert!(bytes >= 150, "it waited for {bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_that_cannot_be_served_say_why() {
    let rig = Rig::new();
    rig.create("t", 1).await;
    assert_eq!(rig.fetch_one("none", 0, 0).await.error_code, 3);
    assert_eq!(rig.fetch_one("t", 1, 0).await.error_code, 3);
    let mut newer = fetch_of(&[("t", 0, 0)]);
    newer.topics[0].partitions[0].current_leader_epoch = 1;
    assert_eq!(rig.fetch(newer).await.topics[0].partitions[0].error_code, 75);
    let mut by_id = fetch_of(&[("", 0, 0)]);
    by_id.topics[0].topic_id = uuid::Uuid::from_u128(5);
    assert_eq!(rig.fetch(by_id).await.topics[0].partitions[0].error_code, 100);
    let session = FetchRequest { session_id: 3, session_epoch: 1, ..fetch_of(&[("t", 0, 0)]) };
    assert_eq!(rig.fetch(session).await.error_code, 70);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_found_by_time() {
    let rig = Rig::new();
    rig.create("t", 1).await;
    for (timestamp, value) in [(100, "a"), (300, "b"), (200, "c")] {
        rig.produce("t", 0, batch_at(timestamp, &[value])).await;
    }
    for (timestamp, offset, found) in
        [(-1, 3, -1), (-2, 0, -1), (-3, 1, 300), (-4, 0, -1), (0, 0, 100), (150, 1, 300), (301, -1, -1), (-5, -1, -1)]
    {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
        let asked = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
        let response = rig.call(7, ListOffsetsRequest::default().with_topics(vec![asked])).await;
        let answer = &response.topics[0].partitions[0];
        assert_eq!((answer.error_code, answer.offset, answer.timestamp), (0, offset, found), "at {timestamp}");
    }
}
