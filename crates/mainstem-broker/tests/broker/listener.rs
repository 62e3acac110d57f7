//! The listener of the server over a real socket.

#[path = "../../../mainstem-server/src/kafka_listener.rs"]
mod kafka_listener;

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use mainstem_broker::{Broker, BrokerConfig};
use mainstem_disk::{RealDisk, SystemClock, SystemRandom};
use mainstem_kafka_wire::fetch::FetchResponse;
use mainstem_kafka_wire::messages::create_topics_request::CreatableTopic;
use mainstem_kafka_wire::messages::{
    ApiVersionsRequest, CreateTopicsRequest, decode_response, encode_request, split_response,
};
use mainstem_kafka_wire::produce::{ProduceRequest, ProduceResponse};
use mainstem_log::{Log, LogConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::rig::{Rig, batch, batch_of, fetch_of, one_partition, topic, values_of};

struct Door {
    rig: Rig,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Door {
    async fn open(config: BrokerConfig) -> Self {
        let rig = Rig::with(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(kafka_listener::serve(listener, rig.broker().clone(), shutdown.clone()));
        Self { rig, address, shutdown, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }
}

async fn frame(stream: &mut TcpStream) -> Bytes {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.expect("an answer");
    let mut frame = BytesMut::zeroed(usize::try_from(i32::from_be_bytes(length)).expect("positive"));
    stream.read_exact(&mut frame).await.expect("the whole answer");
    frame.freeze()
}

fn produce_frame(request: &ProduceRequest, correlation_id: i32) -> Bytes {
    request.encode(9, correlation_id, None).expect("encodes")
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let door = Door::open(BrokerConfig::default()).await;
    door.rig.create("t", 1).await;
    let mut stream = door.connect().await;
    let mut sent = Vec::new();
    for i in 0..200 {
        let acks = if i % 7 == 0 { 0 } else { -1 };
        // Sequences of an idempotent producer: any change of order is an error.
        let request = ProduceRequest { acks, ..one_partition("t", 0, batch_of((1, 0, i), &["x"])) };
        sent.extend_from_slice(&produce_frame(&request, i));
    }
    let versions = encode_request(0, 1000, None, &ApiVersionsRequest::default()).expect("encodes");
    sent.extend_from_slice(&versions);
    // In odd pieces, as networks do.
    let mut rest = &sent[..];
    while rest.has_remaining() {
        let piece = rest.len().min(777);
        stream.write_all(&rest[..piece]).await.expect("sent");
        rest.advance(piece);
    }
    for i in (0..200).filter(|i| i % 7 != 0) {
        let (id, message) = split_response(1, frame(&mut stream).await).expect("a header");
        let response = ProduceResponse::decode(9, message).expect("decodes");
        let answer = &response.topics[0].partitions[0];
        assert_eq!((id, answer.error_code, answer.base_offset), (i, 0, i64::from(i)));
    }
    let (id, _) = decode_response::<ApiVersionsRequest>(0, frame(&mut stream).await).expect("decodes");
    assert_eq!(id, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_its_connection_and_no_other() {
    let door = Door::open(BrokerConfig { request_bytes_max: 10_000, ..Default::default() }).await;
    door.rig.create("t", 1).await;
    let mut good = door.connect().await;
    let large = ProduceRequest { acks: -1, ..one_partition("t", 0, batch(&["x".repeat(20_000).as_str()])) };
    let unacknowledged = ProduceRequest { acks: 0, ..one_partition("none", 0, batch(&["x"])) };
    for (what, bytes) in [
        ("HTTP", Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("TLS", Bytes::from_static(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])),
        ("a negative length", Bytes::from_static(&[255, 255, 255, 255, 0, 0, 0, 0])),
        ("a length of nothing", Bytes::from_static(&[0, 0, 0, 0])),
        ("an unknown request", Bytes::from_static(&[0, 0, 0, 10, 99, 99, 0, 0, 0, 0, 0, 1, 255, 255])),
        ("too large", produce_frame(&large, 1)),
        ("acks=0 for no topic", produce_frame(&unacknowledged, 1)),
    ] {
        let mut bad = door.connect().await;
        // It may be closed before all is sent.
        let _ = bad.write_all(&bytes).await;
        let mut rest = Vec::new();
        let ended = bad.read_to_end(&mut rest).await;
        assert!(rest.is_empty() && (ended.is_ok() || ended.is_err()), "{what} is not answered");
    }
    good.write_all(&produce_frame(&ProduceRequest { acks: -1, ..one_partition("t", 0, batch(&["x"])) }, 5))
        .await
        .expect("sent");
    let (id, _) = split_response(1, frame(&mut good).await).expect("a header");
    assert_eq!(id, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_and_end_with_the_server() {
    let door = Door::open(BrokerConfig { connections_max: 1, ..Default::default() }).await;
    let mut first = door.connect().await;
    let versions = encode_request(0, 1, None, &ApiVersionsRequest::default()).expect("encodes");
    first.write_all(&versions).await.expect("sent");
    frame(&mut first).await;
    let mut second = door.connect().await;
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "one too many");
    door.shutdown.cancel();
    assert_eq!(first.read(&mut [0; 1]).await.unwrap_or(0), 0, "the server ends");
    door.serving.await.expect("no panic");
    assert_eq!(door.rig.broker().counters().connections, 0);
}

/// Large batches leave from their file, small ones from memory, several partitions in one answer.
async fn fetches_large_batches(broker: &Broker) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(kafka_listener::serve(listener, broker.clone(), shutdown.clone()));
    // Little room at the reader, and more answers than the system holds: the sender has to wait again and again.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(32 << 10).expect("a small buffer");
    let mut stream = socket.connect(address).await.expect("it listens");
    let asked = CreatableTopic::default().with_name(topic("t")).with_num_partitions(3).with_replication_factor(1);
    let create = CreateTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(1000);
    stream.write_all(&encode_request(5, 1, None, &create).expect("encodes")).await.expect("sent");
    frame(&mut stream).await;
    let sizes = |partition: i32| move |n: i32| if partition == 1 || n % 50 == 49 { 100 } else { 15_000 + n };
    for partition in 0..3 {
        for n in 0..200 {
            let value = "x".repeat(usize::try_from(sizes(partition)(n)).expect("positive"));
            let request = ProduceRequest { acks: -1, ..one_partition("t", partition, batch(&[&value])) };
            stream.write_all(&produce_frame(&request, 2)).await.expect("sent");
            frame(&mut stream).await;
        }
    }
    const ANSWERS: usize = 8;
    let mut most = 0;
    let mut next = [0i64; 3];
    while next.iter().any(|next| *next < 200) {
        let request = fetch_of(&[("t", 0, next[0]), ("t", 1, next[1]), ("t", 2, next[2])]);
        let request = request.encode(12, 3, None).expect("encodes");
        stream.write_all(&request.repeat(ANSWERS)).await.expect("sent");
        let answer = frame(&mut stream).await;
        for _ in 1..ANSWERS {
            assert_eq!(frame(&mut stream).await, answer, "the same question has the same answer");
        }
        most = most.max(ANSWERS * answer.len());
        let (_, message) = split_response(1, answer).expect("a header");
        let response = FetchResponse::decode(12, message).expect("decodes");
        let before = next;
        for answer in response.topics.iter().flat_map(|topic| &topic.partitions) {
            let partition = usize::try_from(answer.partition).expect("positive");
            for value in values_of(&answer.records.concat().into()) {
                let n = i32::try_from(next[partition]).expect("few");
                assert_eq!(value.len(), usize::try_from(sizes(answer.partition)(n)).expect("positive"));
                next[partition] += 1;
            }
        }
        assert!(next > before, "it gets on: {next:?}");
    }
    assert_eq!(next, [200; 3]);
    assert!(most > 8 << 20, "no socket holds {most} bytes");
    shutdown.cancel();
    serving.await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_are_sent_from_their_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(SystemClock::default());
    let disk = Arc::new(RealDisk::new(directory.path()).expect("a directory"));
    let (log, _) = Log::open(disk, clock.clone(), LogConfig::default()).expect("it opens");
    let threads = log.start();
    let broker = Broker::open(log, BrokerConfig::default(), clock, Arc::new(SystemRandom)).expect("it opens");
    fetches_large_batches(&broker).await;
    drop(threads);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_are_read_where_the_kernel_cannot_send_them() {
    let rig = Rig::new();
    fetches_large_batches(rig.broker()).await;
}
