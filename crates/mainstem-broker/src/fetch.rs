//! Fetch: whole batches as they are stored, with a long poll.
//!
//! There are no fetch sessions (KIP-227): every answer has session 0, which tells the client to send full requests.

use std::time::Duration;

use bytes::Bytes;
use mainstem_catalog::Catalog;
use mainstem_kafka_wire::fetch::{
    FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic, FetchTopicResponse,
};
use mainstem_kafka_wire::frame::RequestHeader;
use mainstem_kafka_wire::messages::ResponseError;
use mainstem_log::{ReadError, Stored, TopicId, TopicPartition};

use crate::broker::{Broker, CloseConnection};
use crate::chunk::Chunk;

/// The leader epoch of every partition: it never changes on a single node.
pub(crate) const LEADER_EPOCH: i32 = 0;

/// One partition as asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    topic: usize,
    partition: FetchPartition,
    /// Where it is, or why it cannot be read.
    at: Result<TopicPartition, ResponseError>,
}

/// All partitions, read once.
#[derive(Debug)]
struct Round {
    answers: Vec<FetchPartitionResponse<Chunk>>,
    bytes: usize,
    records: u64,
    /// An error is told at once.
    has_error: bool,
}

/// How much one answer may hold.
#[derive(Clone, Copy, Debug)]
struct Room {
    bytes_max: usize,
    bytes_min: usize,
    /// Whether the first batch is read even when it is larger (KIP-74).
    is_one_batch_due: bool,
}

impl Broker {
    pub(crate) async fn fetch(&self, header: &RequestHeader, message: Bytes) -> Result<Vec<Chunk>, CloseConnection> {
        let decoded = FetchRequest::decode(header.version, message);
        let request = decoded.map_err(|error| CloseConnection::malformed(header, &error))?;
        let response = if request.session_id != 0 && request.session_epoch > 0 {
            FetchResponse { error_code: ResponseError::FetchSessionIdNotFound.code(), ..Default::default() }
        } else {
            self.fetch_records(request, header.version).await
        };
        let frame = response.encode(header.version, header.correlation_id);
        frame.map_err(|error| CloseConnection::malformed(header, &error))
    }

    async fn fetch_records(&self, request: FetchRequest, version: i16) -> FetchResponse<Chunk> {
        let wanted = resolve(&self.catalog(), &request.topics, version);
        let wait_ms = request.max_wait_ms.min(self.inner.config.fetch_wait_ms_max);
        let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0));
        let asked = usize::try_from(request.max_bytes).unwrap_or(0).min(self.inner.config.fetch_bytes_max);
        let memory = self.wait_for_memory(wait).await;
        let bytes_max = asked.min(memory.unwrap_or(0));
        let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
        let room = Room { bytes_max, bytes_min, is_one_batch_due: memory.is_some() };
        let first = self.rotate(wanted.len());
        let mut round = self.read_round(&wanted, first, room);
        if round.bytes < bytes_min && !round.has_error && wait_ms > 0 {
            round = self.wait_for_bytes(&wanted, first, room, wait).await;
        }
        let bytes = u64::try_from(round.bytes).unwrap_or(0);
        self.inner.counters.fetched(round.records, bytes);
        let mut topics: Vec<_> = request
            .topics
            .into_iter()
            .map(|topic| FetchTopicResponse { name: topic.name, topic_id: topic.topic_id, partitions: Vec::new() })
            .collect();
        for (wanted, answer) in wanted.iter().zip(round.answers) {
            topics.get_mut(wanted.topic).expect("positions of the request").partitions.push(answer);
        }
        FetchResponse { topics, ..Default::default() }
    }

    /// How many bytes an answer may hold now; none if those who do not take theirs leave no room for so long. Such an answer
    /// has no records, and the client asks again.
    async fn wait_for_memory(&self, wait: Duration) -> Option<usize> {
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let room = || self.inner.fetched.room(self.inner.config.fetch_memory_bytes_max);
        let mut waited = Duration::ZERO;
        loop {
            if let Some(room) = room() {
                return Some(room);
            }
            if waited >= wait {
                return None;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            waited += LOOK_AGAIN;
        }
    }

    /// Reads again whenever a partition has grown, until there is enough or time is up.
    async fn wait_for_bytes(&self, wanted: &[Wanted], first: usize, room: Room, wait: Duration) -> Round {
        let waiting = self.inner.waiting.register(wanted.iter().filter_map(|w| w.at.ok()).collect());
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        loop {
            // Registered first, read then: what came in between is not missed.
            let round = self.read_round(wanted, first, room);
            if round.bytes >= room.bytes_min || round.has_error {
                return round;
            }
            tokio::select! {
                () = waiting.grown() => {}
                () = &mut deadline => return self.read_round(wanted, first, room),
            }
        }
    }

    /// Reads every partition, beginning with `first`, as far as there is room. The first batch of all is read even when it
    /// is larger than that (KIP-74), so that a reader never stands still.
    fn read_round(&self, wanted: &[Wanted], first: usize, room: Room) -> Round {
        let mut answers: Vec<_> = wanted.iter().map(|_| FetchPartitionResponse::default()).collect();
        let mut round = Round { answers: Vec::new(), bytes: 0, records: 0, has_error: false };
        for i in (first..wanted.len()).chain(0..first) {
            let (Some(wanted), Some(answer)) = (wanted.get(i), answers.get_mut(i)) else { continue };
            *answer = self.read_partition(wanted, room, &mut round);
        }
        round.answers = answers;
        round
    }

    fn read_partition(&self, wanted: &Wanted, room: Room, round: &mut Round) -> FetchPartitionResponse<Chunk> {
        let mut answer = FetchPartitionResponse { partition: wanted.partition.partition, ..Default::default() };
        let is_first = round.bytes == 0 && room.is_one_batch_due;
        let left = room.bytes_max.saturating_sub(round.bytes);
        let bytes_max = usize::try_from(wanted.partition.partition_max_bytes).unwrap_or(0).min(left);
        let offset = wanted.partition.fetch_offset;
        let read = match wanted.at {
            Ok(at) => self.log().read_in_place(at, offset, bytes_max, is_first),
            Err(error) => {
                answer.error_code = error.code();
                round.has_error = true;
                return answer;
            }
        };
        match read {
            Ok(read) => {
                answer.high_watermark = read.high_watermark;
                answer.last_stable_offset = read.high_watermark;
                answer.log_start_offset = read.start_offset;
                if !read.batches.is_empty() {
                    round.bytes += read.batches.len();
                    round.records += u64::try_from(read.next_offset - offset).unwrap_or(0);
                    answer.records.push(match read.batches {
                        Stored::Memory(batches) => Chunk::Bytes(self.inner.fetched.count(batches)),
                        Stored::File(range) => Chunk::File(range),
                    });
                }
            }
            Err(error) => {
                round.has_error = true;
                answer.error_code = code_of_read(&error).code();
                match error {
                    ReadError::OutOfRange { start, end, .. } => {
                        answer.high_watermark = end;
                        answer.last_stable_offset = end;
                        answer.log_start_offset = start;
                    }
                    ReadError::Damaged { partition, .. } => drop(self.tell_damage(partition)),
                    // Deleted meanwhile.
                    ReadError::UnknownPartition(_) => {}
                    ReadError::Io { .. } => {
                        let topic = wanted.at.map(|at| self.topic_name(at)).unwrap_or_default();
                        let partition = wanted.partition.partition;
                        tracing::warn!(%topic, partition, offset, %error, "a fetch failed");
                    }
                }
            }
        }
        answer
    }
}

fn code_of_read(error: &ReadError) -> ResponseError {
    match error {
        ReadError::UnknownPartition(_) => ResponseError::UnknownTopicOrPartition,
        ReadError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
        // Consumers give this one to the application (Java as an exception, librdkafka as an error of the partition);
        // KAFKA_STORAGE_ERROR they would try again in silence.
        ReadError::Damaged { .. } => ResponseError::CorruptMessage,
        ReadError::Io { .. } => ResponseError::KafkaStorageError,
    }
}

fn resolve(catalog: &Catalog, topics: &[FetchTopic], version: i16) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (position, asked) in topics.iter().enumerate() {
        let (topic, unknown) = if version >= 13 {
            (catalog.topic(asked.topic_id), ResponseError::UnknownTopicId)
        } else {
            (catalog.topic_named(&asked.name), ResponseError::UnknownTopicOrPartition)
        };
        for partition in &asked.partitions {
            let at = match topic {
                None => Err(unknown),
                Some(topic) if !(0..topic.partitions).contains(&partition.partition) => {
                    Err(ResponseError::UnknownTopicOrPartition)
                }
                Some(topic) => check_leader_epoch(partition.current_leader_epoch)
                    .map(|()| TopicPartition::new(TopicId(topic.id), partition.partition)),
            };
            wanted.push(Wanted { topic: position, partition: *partition, at });
        }
    }
    wanted
}

/// Whether the epoch that a client believes in is the partition's; -1 is no belief.
pub(crate) fn check_leader_epoch(epoch: i32) -> Result<(), ResponseError> {
    if epoch > LEADER_EPOCH { Err(ResponseError::UnknownLeaderEpoch) } else { Ok(()) }
}
