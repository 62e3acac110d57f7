//! The records of the catalog's topic and of `__consumer_offsets`: as values, and as a start of the broker reads them.
//!
//! The input is pieces, each with a first byte: 0 an event of the catalog, 1 a record of the offsets topic (the key as a
//! piece of its own, then the value; no value is a tombstone), 2 the cluster's id.

use bytes::Bytes;
use mainstem_broker::coordinator::Committed;
use mainstem_broker::coordinator::records::OffsetsRecord;
use mainstem_broker::coordinator::records::{GroupValue, MemberValue};
use mainstem_catalog::{
    CATALOG_TOPIC_ID, Catalog, Column, Dependency, Encoding, Event, Include, IncludeKind, OFFSETS_TOPIC, Origin,
    Relation, RelationId, RelationKind, SourceDefinition, SqlType, Topic, TopicOwner, ViewDefinition, Watermark,
    decode, encode,
};
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::records::RecordBatchBuilder;
use mainstem_log::{Log, PartitionConfig, TopicId, TopicPartition, Urgency};
use uuid::Uuid;

use super::log_files::{entry, small_log};
use super::{joined, kafka_broker, pieces};

const OFFSETS_ID: Uuid = Uuid::from_u128(5);
const CATALOG: TopicPartition = TopicPartition { topic: TopicId(CATALOG_TOPIC_ID), partition: 0 };
const OFFSETS: TopicPartition = TopicPartition { topic: TopicId(OFFSETS_ID), partition: 0 };
/// A start declares each, which takes memory that a real one has.
const PARTITIONS_MAX: i32 = 1_000;

pub(super) fn run(data: &[u8]) {
    let mut catalog = Catalog::default();
    let mut partitions = 0;
    let mut definitions = RecordBatchBuilder::new(Compression::None);
    let mut offsets = RecordBatchBuilder::new(Compression::None);
    let topic = topic(OFFSETS_ID, OFFSETS_TOPIC, TopicOwner::Internal);
    definitions.append(1, Some(b"event"), Some(&encode(&Event::TopicCreated { topic })), &[]);
    for piece in pieces(data) {
        match piece.split_first() {
            Some((0, value)) => {
                partitions = event(&mut catalog, value, partitions);
                definitions.append(1, Some(b"event"), Some(value), &[]);
            }
            Some((1, record)) => {
                let mut parts = pieces(record);
                let (key, value) = (parts.next(), parts.next());
                offsets_record(key.unwrap_or_default(), value);
                let headers = parts.next().map(|id| ("mainstem.topic-id", Some(id)));
                offsets.append(1, key, value, headers.as_slice());
            }
            Some((2, id)) => definitions.append(1, Some(b"cluster_id"), Some(id), &[]),
            _ => {}
        }
    }
    if partitions <= PARTITIONS_MAX {
        start(definitions, offsets);
    }
}

/// What the catalog has after it, in partitions.
fn event(catalog: &mut Catalog, value: &[u8], before: i32) -> i32 {
    let Ok(event) = decode(value) else { return before };
    assert_eq!(decode(&encode(&event)).ok().as_ref(), Some(&event), "an event is written as it was read");
    if catalog.apply(&event).is_err() {
        return before;
    }
    catalog.topics().map(|topic| topic.partitions).fold(0, i32::saturating_add)
}

fn offsets_record(key: &[u8], value: Option<&[u8]>) {
    let Ok(record) = OffsetsRecord::decode(key, value) else { return };
    let (key, value) = record.encode();
    assert_eq!(OffsetsRecord::decode(&key, value.as_deref()), Ok(record), "a record is written as it was read");
}

/// Two partitions, open to anyone.
pub(super) fn topic_created(id: Uuid, name: &str) -> Event {
    Event::TopicCreated { topic: Topic { partitions: 2, ..topic(id, name, TopicOwner::Anyone) } }
}

/// What a broker finds at its start.
pub(super) fn append_definitions(log: &Log, events: impl IntoIterator<Item = Event>) {
    let mut records = RecordBatchBuilder::new(Compression::None);
    for event in events {
        records.append(1, Some(b"event"), Some(&encode(&event)), &[]);
    }
    log.create_partition(CATALOG, PartitionConfig::default());
    log.append_and_wait(entry(CATALOG, records.build()), Urgency::Ordinary).expect("the log takes it");
}

fn start(definitions: RecordBatchBuilder, offsets: RecordBatchBuilder) {
    let (_, log) = small_log();
    let mut parts = vec![(CATALOG, definitions.build())];
    if !offsets.is_empty() {
        parts.push((OFFSETS, offsets.build()));
    }
    for (to, batches) in parts {
        log.create_partition(to, PartitionConfig::default());
        log.append_and_wait(entry(to, batches), Urgency::Ordinary).expect("the log takes it");
    }
    kafka_broker::start(log);
}

fn topic(id: Uuid, name: &str, owner: TopicOwner) -> Topic {
    Topic { id, name: name.to_owned(), partitions: 1, owner, configs: [("retention.ms".into(), "1000".into())].into() }
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let id = Uuid::from_u128(9);
    let created = topic_created(id, "t");
    let events = [
        created.clone(),
        Event::PartitionsAdded { topic: id, partitions: 3 },
        Event::TopicConfigured { topic: id, configs: [("segment.bytes".into(), "1000".into())].into() },
        Event::ProducerIdsReserved { until: 1_000 },
        Event::RelationsDropped { relations: Vec::new() },
        Event::TopicDeleted { topic: id },
    ];
    let catalog: Vec<Vec<u8>> = events.iter().map(|event| [&[0], &encode(event)[..]].concat()).collect();
    let relations: Vec<Vec<u8>> = [created, relation(source(id), id), relation(view(), id)]
        .iter()
        .map(|event| [&[0], &encode(event)[..]].concat())
        .collect();
    let records: Vec<Vec<u8>> = offsets_records()
        .iter()
        .map(|record| {
            let (key, value) = record.encode();
            let parts = [Some(&*key), value.as_deref(), value.as_ref().map(|_| id.as_bytes().as_slice())];
            [&[1], &joined(parts.into_iter().flatten())[..]].concat()
        })
        .collect();
    let one = |pieces: &[Vec<u8>]| joined(pieces.iter().map(Vec::as_slice));
    vec![
        ("catalog".to_owned(), one(&catalog)),
        ("relations".to_owned(), one(&relations)),
        ("offsets".to_owned(), one(&records)),
        ("cluster-id".to_owned(), one(&[b"\x02abcdefghijklmnopqrstuv".to_vec()])),
        ("all".to_owned(), one(&[&catalog[..1], &records[..]].concat())),
    ]
}

fn relation(kind: RelationKind, topic: Uuid) -> Event {
    let is_source = matches!(kind, RelationKind::Source(_));
    let (id, name) = if is_source { (RelationId::FIRST, "s") } else { (RelationId(RelationId::FIRST.0 + 1), "v") };
    let on = if is_source { Dependency::Topic(topic) } else { Dependency::Relation(RelationId::FIRST) };
    let column = Column {
        name: "at".to_owned(),
        sql_type: SqlType::Timestamptz,
        nullable: true,
        hidden: false,
        default: Some("now()".to_owned()),
    };
    let relation = Relation {
        id,
        schema: "public".to_owned(),
        name: name.to_owned(),
        columns: vec![column],
        kind,
        depends_on: vec![on],
        sql: "CREATE".to_owned(),
    };
    Event::RelationCreated { relation: Box::new(relation) }
}

fn source(topic: Uuid) -> RelationKind {
    RelationKind::Source(SourceDefinition {
        topic,
        topic_name: "t".to_owned(),
        encoding: Encoding::PlainJson,
        includes: vec![Include { kind: IncludeKind::Timestamp, column: 0 }],
        watermark: Some(Watermark::new(0, 1)),
    })
}

fn view() -> RelationKind {
    RelationKind::MaterializedView(ViewDefinition {
        query: "SELECT at FROM s".to_owned(),
        emit_on_window_close: true,
        graph: Some([("v", 1)].into_iter().collect()),
        settings: vec![("TimeZone".to_owned(), "UTC".to_owned())],
        origin: vec![Origin { source: RelationId::FIRST, partition: 0, offset: 3, compacted_below: 2 }],
    })
}

fn offsets_records() -> [OffsetsRecord; 4] {
    let member = MemberValue {
        id: "m-1".into(),
        instance: Some("i".into()),
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: 1,
        session_timeout_ms: 2,
        metadata: Bytes::from_static(b"meta"),
        assignment: Bytes::from_static(b"a"),
    };
    let group = GroupValue {
        protocol_type: "consumer".into(),
        generation: 7,
        protocol: Some("range".into()),
        leader: Some("m-1".into()),
        at_ms: 9,
        members: vec![member],
    };
    let offset = Committed { offset: 5, leader_epoch: -1, metadata: "m".into(), at_ms: 3, topic_id: None };
    [
        OffsetsRecord::Group { group: "g".into(), value: Some(group) },
        OffsetsRecord::Offset { group: "g".into(), topic: "t".into(), partition: 3, value: Some(offset) },
        OffsetsRecord::Offset { group: "g".into(), topic: "t".into(), partition: 3, value: None },
        OffsetsRecord::Group { group: "g".into(), value: None },
    ]
}
