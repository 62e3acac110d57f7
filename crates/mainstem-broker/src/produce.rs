//! Produce: batches are checked and appended, and answered when durable.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mainstem_catalog::{Catalog, Topic, TopicOwner};
use mainstem_kafka_wire::batch::{self, BatchError, BatchHeader, Compression};
use mainstem_kafka_wire::frame::RequestHeader;
use mainstem_kafka_wire::messages::ResponseError;
use mainstem_kafka_wire::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic, ProduceTopicResponse,
};
use mainstem_kafka_wire::records::{DECOMPRESSED_BYTES_MAX, for_each_record};
use mainstem_log::{
    Accepted, AppendError, Atomicity, Csn, Entry, Part, PartError, Placed, Stopped, TopicId, TopicPartition, Urgency,
};
use tokio::sync::oneshot;

use crate::broker::{Broker, CloseConnection, Reply};
use crate::codec::{Refusal, text};
use crate::topic_config::TopicSettings;

/// To how much a batch for a compacted topic may decompress in any case: compaction has it in memory.
const OPENED_BYTES_MIN: usize = 64 << 20;

/// A partition's place in the response: topic and partition by position.
type Place = (usize, usize);

/// A batch that passed all checks.
#[derive(Debug)]
struct Checked {
    place: Place,
    part: Part,
    records: u64,
    log_append_time_ms: i64,
}

/// Batches that have their offsets, and will be durable when `done` says so.
#[derive(Debug)]
struct Appended {
    placed: Vec<(Place, Placed, i64)>,
    done: oneshot::Receiver<Result<Csn, Stopped>>,
}

impl Broker {
    pub(crate) async fn produce(&self, header: &RequestHeader, message: Bytes) -> Result<Reply, CloseConnection> {
        let decoded = ProduceRequest::decode(header.version, message);
        let request = decoded.map_err(|error| CloseConnection::malformed(header, &error))?;
        let acks = request.acks;
        let mut response = ProduceResponse { topics: Vec::new(), throttle_time_ms: 0, node_endpoints: Vec::new() };
        let checked = self.check(request, header.version, &mut response);
        let appended = self.append_all(checked, &mut response).await;
        if acks == 0 {
            // Nobody hears of an error but by the end of the connection.
            let all = response.topics.iter().flat_map(|topic| &topic.partitions);
            let Some(failed) = all.into_iter().find(|partition| partition.error_code != 0) else {
                return Ok(Reply::Ready(None));
            };
            let why = failed.error_message.as_deref().unwrap_or("refused").to_owned();
            return Err(CloseConnection::new(format!("a produce request with acks=0 failed: {why}")));
        }
        let (version, correlation_id) = (header.version, header.correlation_id);
        let broker = self.clone();
        Ok(Reply::Later(Box::pin(async move {
            for part in appended {
                broker.await_durable(part, &mut response).await;
            }
            let frame = response.encode(version, correlation_id);
            Ok(Some(vec![frame.map_err(|error| CloseConnection::new(error.to_string()))?.into()]))
        })))
    }

    /// Fills in the response with what is refused; gives the rest.
    fn check(&self, request: ProduceRequest, version: i16, response: &mut ProduceResponse) -> Vec<Checked> {
        let catalog = self.catalog();
        let refused_whole = if !matches!(request.acks, -1..=1) {
            let message = format!("acks must be 0, 1 or -1, not {}", request.acks);
            Some(Refusal::new(ResponseError::InvalidRequiredAcks, message))
        } else if request.transactional_id.is_some() {
            Some(Refusal::new(ResponseError::TransactionalIdAuthorizationFailed, "transactions are not served yet"))
        } else {
            None
        };
        let mut checked = Vec::new();
        let mut seen = HashSet::new();
        for (t, topic) in request.topics.into_iter().enumerate() {
            let found = find_topic(&catalog, &topic, version);
            let settings = found.as_ref().ok().map(|found| TopicSettings::of(found, &self.inner.config));
            let mut answers = Vec::with_capacity(topic.partitions.len());
            for (p, partition) in topic.partitions.into_iter().enumerate() {
                let index = partition.index;
                let result = match (&refused_whole, &found, &settings) {
                    (Some(refusal), _, _) | (None, Err(refusal), _) => Err(refusal.clone()),
                    (None, Ok(found), Some(settings)) if seen.insert((found.id, index)) => {
                        self.check_partition(found, settings, partition, version, (t, p))
                    }
                    (None, Ok(_), _) => {
                        Err(Refusal::new(ResponseError::InvalidRequest, "the partition is named twice in one request"))
                    }
                };
                let mut answer = ProducePartitionResponse { index, ..Default::default() };
                match result {
                    Ok(batch) => checked.push(batch),
                    Err(refusal) => self.refuse(&mut answer, &refusal),
                }
                answers.push(answer);
            }
            response.topics.push(ProduceTopicResponse {
                name: topic.name,
                topic_id: topic.topic_id,
                partitions: answers,
            });
        }
        checked
    }

    fn refuse(&self, answer: &mut ProducePartitionResponse, refusal: &Refusal) {
        self.inner.counters.refused_batch();
        answer.error_code = refusal.error.code();
        answer.error_message = Some(text(refusal.message.clone()));
    }

    fn check_partition(
        &self,
        topic: &Topic,
        settings: &TopicSettings,
        partition: ProducePartition,
        version: i16,
        place: Place,
    ) -> Result<Checked, Refusal> {
        if !(0..topic.partitions).contains(&partition.index) {
            let message = format!("topic {} has no partition {}", topic.name, partition.index);
            return Err(Refusal::new(ResponseError::UnknownTopicOrPartition, message));
        }
        let mut batches = partition.records.unwrap_or_default();
        let header = check_batch(&batches, settings.message_bytes_max, version)?;
        if settings.partition.compaction.is_some() {
            check_keys(&batches, &header, settings.message_bytes_max)?;
        }
        let mut log_append_time_ms = -1;
        if settings.is_log_append_time {
            log_append_time_ms = self.inner.clock.wall_ms();
            let mut patched = BytesMut::from(batches);
            batch::patch_log_append_time(&mut patched, log_append_time_ms);
            batches = patched.freeze();
        }
        let to = TopicPartition::new(TopicId(topic.id), partition.index);
        let records = u64::try_from(header.record_count).unwrap_or(0);
        Ok(Checked { place, part: Part { to, batches }, records, log_append_time_ms })
    }

    /// Gives every batch its offset, in as few entries as their size allows.
    async fn append_all(&self, checked: Vec<Checked>, response: &mut ProduceResponse) -> Vec<Appended> {
        let mut appended = Vec::new();
        let mut group = Vec::new();
        let mut group_bytes = 0;
        for batch in checked {
            let bytes = batch.part.batches.len();
            if group_bytes + bytes > self.inner.config.entry_bytes_max && !group.is_empty() {
                appended.extend(self.append_one(std::mem::take(&mut group), response).await);
                group_bytes = 0;
            }
            group_bytes += bytes;
            group.push(batch);
        }
        if !group.is_empty() {
            appended.extend(self.append_one(group, response).await);
        }
        appended
    }

    async fn append_one(&self, group: Vec<Checked>, response: &mut ProduceResponse) -> Option<Appended> {
        let parts = group.iter().map(|batch| batch.part.clone()).collect();
        let entry = Entry { parts, conditions: Vec::new(), atomicity: Atomicity::EachPart };
        let (tell, done) = oneshot::channel();
        let accepted = self.append_when_there_is_room(entry, tell).await;
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let refusal = refusal_of_entry(&error);
                for batch in &group {
                    self.refuse(answer_at(response, batch.place), &refusal);
                }
                return None;
            }
        };
        let mut placed = Vec::with_capacity(group.len());
        for (batch, result) in group.into_iter().zip(accepted.parts) {
            match result {
                Ok(at) => {
                    if !at.is_duplicate {
                        let bytes = u64::try_from(batch.part.batches.len()).unwrap_or(0);
                        self.inner.counters.produced(batch.records, bytes);
                    }
                    placed.push((batch.place, at, batch.log_append_time_ms));
                }
                Err(error) => {
                    let message = match error {
                        PartError::Damaged => self.tell_damage(batch.part.to),
                        other => other.to_string(),
                    };
                    let refusal = Refusal::new(code_of_part(error), message);
                    self.refuse(answer_at(response, batch.place), &refusal);
                }
            }
        }
        (!placed.is_empty()).then_some(Appended { placed, done })
    }

    /// Appends at once, or on a thread that may block when the disk is behind: that is how producers wait.
    async fn append_when_there_is_room(
        &self,
        entry: Entry,
        tell: oneshot::Sender<Result<Csn, Stopped>>,
    ) -> Result<Accepted, AppendError> {
        let done = Box::new(move |result| drop(tell.send(result)));
        if self.log().has_room() {
            return self.log().append(entry, Urgency::Ordinary, done);
        }
        let log = self.log().clone();
        let appended = tokio::task::spawn_blocking(move || log.append(entry, Urgency::Ordinary, done)).await;
        appended.unwrap_or_else(|_| Err(AppendError::Stopped(Stopped { reason: Arc::from("the process is ending") })))
    }

    async fn await_durable(&self, appended: Appended, response: &mut ProduceResponse) {
        let is_durable = matches!(appended.done.await, Ok(Ok(_)));
        for (place, placed, log_append_time_ms) in appended.placed {
            let answer = answer_at(response, place);
            if is_durable {
                answer.base_offset = placed.base_offset;
                answer.log_append_time_ms = log_append_time_ms;
                answer.log_start_offset = 0;
            } else {
                let refusal = Refusal::new(ResponseError::KafkaStorageError, "the log has stopped");
                self.refuse(answer, &refusal);
            }
        }
    }
}

fn answer_at(response: &mut ProduceResponse, (topic, partition): Place) -> &mut ProducePartitionResponse {
    let topic = response.topics.get_mut(topic).expect("places are positions");
    topic.partitions.get_mut(partition).expect("places are positions")
}

fn find_topic(catalog: &Catalog, asked: &ProduceTopic, version: i16) -> Result<Arc<Topic>, Refusal> {
    let topic = if version >= 13 {
        let unknown = || Refusal::new(ResponseError::UnknownTopicId, format!("no topic has the id {}", asked.topic_id));
        catalog.topic(asked.topic_id).ok_or_else(unknown)?
    } else {
        let unknown =
            || Refusal::new(ResponseError::UnknownTopicOrPartition, format!("topic {} does not exist", &*asked.name));
        catalog.topic_named(&asked.name).ok_or_else(unknown)?
    };
    match topic.owner {
        TopicOwner::Anyone => Ok(Arc::clone(topic)),
        TopicOwner::Table(_) => {
            let message = format!("topic {} belongs to a table: write to it with SQL", topic.name);
            Err(Refusal::new(ResponseError::TopicAuthorizationFailed, message))
        }
        TopicOwner::Internal => {
            let message = format!("topic {} is internal: only Mainstem writes to it", topic.name);
            Err(Refusal::new(ResponseError::TopicAuthorizationFailed, message))
        }
    }
}

/// One batch, good, not too large, and such as a client may write.
fn check_batch(records: &Bytes, bytes_max: usize, version: i16) -> Result<BatchHeader, Refusal> {
    let mut batches = batch::split(records);
    let Some(first) = batches.next() else {
        return Err(Refusal::new(ResponseError::InvalidRecord, "the partition has no records"));
    };
    let (_, bytes) = first.map_err(|error| refusal_of_batch(&error))?;
    if batches.next().is_some() {
        return Err(Refusal::new(ResponseError::InvalidRecord, "a partition takes exactly one batch per request"));
    }
    if bytes.len() > bytes_max {
        let message = format!("the batch has {} bytes, max.message.bytes is {bytes_max}", bytes.len());
        return Err(Refusal::new(ResponseError::MessageTooLarge, message));
    }
    let header = batch::validate(&bytes).map_err(|error| refusal_of_batch(&error))?;
    if header.is_control() {
        return Err(Refusal::new(ResponseError::InvalidRecord, "clients may not write control batches"));
    }
    if header.is_transactional() {
        return Err(Refusal::new(ResponseError::InvalidTxnState, "transactions are not served yet"));
    }
    if header.producer_id >= 0 && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return Err(Refusal::new(ResponseError::InvalidRecord, "a producer id comes with an epoch and a sequence"));
    }
    if header.compression() == Ok(Compression::Zstd) && version < 7 {
        let message = "zstd needs version 7 of Produce or later";
        return Err(Refusal::new(ResponseError::UnsupportedCompressionType, message));
    }
    Ok(header)
}

/// In a compacted topic every record has a key. Only for such topics: it takes decompressing the batch.
fn check_keys(batch: &Bytes, header: &BatchHeader, bytes_max: usize) -> Result<(), Refusal> {
    let limit = bytes_max.saturating_mul(4).clamp(OPENED_BYTES_MIN, DECOMPRESSED_BYTES_MAX);
    let mut expected = header.base_offset;
    let mut wrong = None;
    let read = for_each_record(batch, limit, |record| {
        if record.key.is_none() {
            wrong.get_or_insert("a compacted topic takes no record without a key");
        } else if record.offset != expected {
            wrong.get_or_insert("the records of the batch do not follow one another");
        }
        expected = expected.wrapping_add(1);
    });
    read.map_err(|error| refusal_of_batch(&error))?;
    wrong.map_or(Ok(()), |message| Err(Refusal::new(ResponseError::InvalidRecord, message)))
}

fn refusal_of_batch(error: &BatchError) -> Refusal {
    let kind = match error {
        BatchError::UnknownMagic(_) => ResponseError::UnsupportedForMessageFormat,
        BatchError::UnknownCodec(_) => ResponseError::UnsupportedCompressionType,
        BatchError::RecordCount { .. } | BatchError::BadRecord { .. } => ResponseError::InvalidRecord,
        BatchError::TooLarge { .. } => ResponseError::MessageTooLarge,
        BatchError::Truncated { .. }
        | BatchError::TrailingBytes { .. }
        | BatchError::BadLength(_)
        | BatchError::CrcMismatch { .. }
        | BatchError::Decompress { .. } => ResponseError::CorruptMessage,
    };
    Refusal::new(kind, error.to_string())
}

fn refusal_of_entry(error: &AppendError) -> Refusal {
    let kind = match error {
        AppendError::TooLarge { .. } => ResponseError::MessageTooLarge,
        AppendError::Part { error, .. } => code_of_part(*error),
        AppendError::Conflict(_) => ResponseError::UnknownServerError,
        AppendError::DiskFull | AppendError::Stopped(_) => ResponseError::KafkaStorageError,
    };
    Refusal::new(kind, error.to_string())
}

fn code_of_part(error: PartError) -> ResponseError {
    match error {
        PartError::UnknownPartition => ResponseError::UnknownTopicOrPartition,
        // KAFKA_STORAGE_ERROR and CORRUPT_MESSAGE would be sent again until the producer's timeout; this one is told at once.
        PartError::Damaged => ResponseError::UnknownServerError,
        PartError::CorruptBatch => ResponseError::CorruptMessage,
        PartError::OutOfOrderSequence { .. } => ResponseError::OutOfOrderSequenceNumber,
        PartError::InvalidProducerEpoch { .. } => ResponseError::InvalidProducerEpoch,
        PartError::DuplicateSequence => ResponseError::DuplicateSequenceNumber,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstem_kafka_wire::records::RecordBatchBuilder;

    fn one_record() -> Vec<u8> {
        let mut builder = RecordBatchBuilder::new(Compression::None);
        builder.append(1, None, Some(b"value"), &[]);
        builder.build().to_vec()
    }

    #[test]
    fn batches_are_refused_for_what_is_wrong_with_them() {
        let good = one_record();
        let changed = |at: usize, to: u8| {
            let mut batch = good.clone();
            batch[at] = to;
            batch
        };
        let twice = [good.clone(), good.clone()].concat();
        let last = good.len() - 1;
        for (what, batch, expected) in [
            ("nothing", Vec::new(), ResponseError::InvalidRecord),
            ("magic 1", changed(16, 1), ResponseError::UnsupportedForMessageFormat),
            ("a flipped bit", changed(last, good[last] ^ 1), ResponseError::CorruptMessage),
            ("a cut batch", good[..last].to_vec(), ResponseError::CorruptMessage),
            ("two batches", twice, ResponseError::InvalidRecord),
        ] {
            let refusal = check_batch(&Bytes::from(batch), 1 << 20, 9).expect_err(what);
            assert_eq!(refusal.error, expected, "{what}");
        }
        let refusal = check_batch(&Bytes::from(good.clone()), good.len() - 1, 9).expect_err("too large");
        assert_eq!(refusal.error, ResponseError::MessageTooLarge);
        check_batch(&Bytes::from(good.clone()), good.len(), 9).expect("as large as it may be");
    }
}
