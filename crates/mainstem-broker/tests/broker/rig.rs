//! A broker on a simulated disk and clock, and requests to it as a client encodes them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstem_broker::{Broker, BrokerConfig, ClientInfo, CloseConnection};
use mainstem_disk::Disk;
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::fetch::{FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic};
use mainstem_kafka_wire::messages::create_topics_request::CreatableTopic;
use mainstem_kafka_wire::messages::{
    CreateTopicsRequest, Request, StrBytes, TopicName, decode_response, encode_request, split_response,
};
use mainstem_kafka_wire::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
};
use mainstem_kafka_wire::records::RecordBatchBuilder;
use mainstem_log::{CommitThread, Log, LogConfig};
use mainstem_testkit::{SimClock, SimDisk, SimRandom};

/// The log's limit here.
pub(crate) const LOG_ENTRY_BYTES_MAX: usize = 2 << 20;

pub(crate) struct Rig {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) clock: Arc<SimClock>,
    config: BrokerConfig,
    lives: u64,
    running: Option<(Broker, Log, CommitThread)>,
}

pub(crate) fn s(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName(s(name))
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(BrokerConfig { offsets_topic_partitions: 3, ..Default::default() })
    }

    pub(crate) fn with(config: BrokerConfig) -> Self {
        Self::on(SimDisk::new(7), config)
    }

    pub(crate) fn on(disk: Arc<SimDisk>, config: BrokerConfig) -> Self {
        let clock = SimClock::new(1_000_000);
        let mut rig = Self { disk, clock, config, lives: 0, running: None };
        rig.start();
        rig
    }

    fn start(&mut self) {
        self.lives += 1;
        let small = LogConfig {
            commit_file_bytes: 4 << 20,
            backlog_bytes_max: 4 << 20,
            entry_bytes_max: LOG_ENTRY_BYTES_MAX,
            reserve_bytes: 1 << 20,
            ..Default::default()
        };
        let disk: Arc<dyn Disk> = self.disk.mount();
        let (log, _) = Log::open(disk, self.clock.clone(), small).expect("the log opens");
        let threads = log.start();
        let config = BrokerConfig { entry_bytes_max: 1 << 20, ..self.config.clone() };
        let broker = Broker::open(log.clone(), config, self.clock.clone(), SimRandom::new(self.lives));
        self.running = Some((broker.expect("the broker opens"), log, threads));
    }

    /// Ends in good order, and starts again.
    pub(crate) fn restart(&mut self) {
        self.running = None;
        self.start();
    }

    /// Loses power, and starts again.
    pub(crate) fn crash(&mut self) {
        self.disk.crash();
        self.running = None;
        self.start();
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.running.as_ref().expect("it runs").0
    }

    pub(crate) fn pass_ms(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
        self.broker().tick();
    }

    /// Sends a whole frame (with its length), gives the response frame without its length.
    pub(crate) async fn send(&self, frame: Bytes) -> Result<Option<Bytes>, CloseConnection> {
        let client = ClientInfo { host: "127.0.0.1".to_owned() };
        let chunks = self.broker().handle(frame.slice(4..), &client).await?;
        Ok(chunks.map(|chunks| {
            let frame = Bytes::from(chunks.concat());
            let length = i32::from_be_bytes(frame[..4].try_into().expect("four bytes"));
            assert_eq!(usize::try_from(length).ok(), Some(frame.len() - 4), "the frame's length is right");
            frame.slice(4..)
        }))
    }

    pub(crate) async fn call<R: Request>(&self, version: i16, request: R) -> R::Response {
        let frame = encode_request(version, 7, Some("test"), &request).expect("the request encodes");
        let answer = self.send(frame).await.expect("the connection stays").expect("an answer");
        let (correlation_id, response) = decode_response::<R>(version, answer).expect("the answer decodes");
        assert_eq!(correlation_id, 7);
        response
    }

    pub(crate) async fn create(&self, name: &str, partitions: i32) {
        let asked =
            CreatableTopic::default().with_name(topic(name)).with_num_partitions(partitions).with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(1000);
        let response = self.call(7, request).await;
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    pub(crate) async fn produce_as(
        &self,
        version: i16,
        acks: i16,
        request: ProduceRequest,
    ) -> Result<Option<ProduceResponse>, CloseConnection> {
        let frame = ProduceRequest { acks, timeout_ms: 1000, ..request }.encode(version, 7, Some("test"));
        let answer = self.send(frame.expect("the request encodes")).await?;
        Ok(answer.map(|answer| {
            let (_, message) = split_response(i16::from(version >= 9), answer).expect("a header");
            ProduceResponse::decode(version, message).expect("the answer decodes")
        }))
    }

    pub(crate) async fn produce(&self, name: &str, partition: i32, records: Bytes) -> ProducePartitionResponse {
        let request = one_partition(name, partition, records);
        let response = self.produce_as(9, -1, request).await.expect("the connection stays").expect("an answer");
        response.topics[0].partitions[0].clone()
    }

    pub(crate) async fn fetch(&self, request: FetchRequest) -> FetchResponse {
        let version = if request.topics.iter().all(|topic| topic.topic_id.is_nil()) { 12 } else { 13 };
        let frame = request.encode(version, 7, Some("test")).expect("the request encodes");
        let answer = self.send(frame).await.expect("the connection stays").expect("an answer");
        let (_, message) = split_response(1, answer).expect("a header");
        FetchResponse::decode(version, message).expect("the answer decodes")
    }

    pub(crate) async fn fetch_one(&self, name: &str, partition: i32, offset: i64) -> FetchPartitionResponse {
        let response = self.fetch(fetch_of(&[(name, partition, offset)])).await;
        response.topics[0].partitions[0].clone()
    }

    /// All values of a partition.
    pub(crate) async fn values(&self, name: &str, partition: i32) -> Vec<String> {
        let answer = self.fetch_one(name, partition, 0).await;
        values_of(&answer.records.concat().into())
    }
}

pub(crate) fn values_of(batches: &Bytes) -> Vec<String> {
    let mut values = Vec::new();
    for batch in mainstem_kafka_wire::batch::split(batches) {
        let (_, batch) = batch.expect("a whole batch");
        for record in mainstem_kafka_wire::records::records(&batch).expect("records") {
            let value = record.expect("a record").value.unwrap_or_default();
            values.push(String::from_utf8(value.to_vec()).expect("text"));
        }
    }
    values
}

/// A request for these topics, partitions and offsets that does not wait.
pub(crate) fn fetch_of(wanted: &[(&str, i32, i64)]) -> FetchRequest {
    let topics = wanted.iter().map(|(name, partition, offset)| {
        let partition = FetchPartition {
            partition: *partition,
            fetch_offset: *offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        FetchTopic { name: s(name), partitions: vec![partition], ..Default::default() }
    });
    FetchRequest { max_wait_ms: 0, min_bytes: 1, topics: topics.collect(), ..Default::default() }
}

pub(crate) fn one_partition(name: &str, index: i32, records: Bytes) -> ProduceRequest {
    let partitions = vec![ProducePartition { index, records: Some(records) }];
    let topics = vec![ProduceTopic { name: s(name), partitions, ..Default::default() }];
    ProduceRequest { topics, ..Default::default() }
}

pub(crate) fn batch(values: &[&str]) -> Bytes {
    batch_at(1000, values)
}

pub(crate) fn batch_at(timestamp: i64, values: &[&str]) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for value in values {
        builder.append(timestamp, None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

pub(crate) fn batch_of(producer: (i64, i16, i32), values: &[&str]) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None).producer(producer.0, producer.1, producer.2);
    for value in values {
        builder.append(1000, None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}
