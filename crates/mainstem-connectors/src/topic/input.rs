//! Reading: cuts, positions, records.

use mainstem_engine::Cut;
use mainstem_engine::input_log::{Batches, Hold, InputLog, LogError, LogRecord, UnreadableBatch};
use mainstem_kafka_wire::batch::{BatchHeader, split, verify_crc};
use mainstem_kafka_wire::records::records;
use mainstem_log::{Csn, Log, TopicId, TopicPartition};
use uuid::Uuid;

use super::{EmbeddedLog, log_error};

impl InputLog for EmbeddedLog {
    fn newest(&self) -> Cut {
        Cut(self.log.visible().0)
    }

    fn next_cut(&self, after: Cut, entries_max: usize) -> Result<Option<Cut>, LogError> {
        // CSNs are dense: an entry further is a CSN further.
        let newest = self.newest();
        let limit = after.0.saturating_add(entries_max.max(1) as u64);
        Ok((after < newest).then(|| Cut(newest.0.min(limit))))
    }

    fn partitions(&self, topic: Uuid) -> Vec<i32> {
        (0..(self.partitions)(topic)).collect()
    }

    fn position(&self, topic: Uuid, partition: i32, at: Cut) -> Result<i64, LogError> {
        Ok(self.positions(&[(topic, partition)], at)?.first().copied().unwrap_or(0))
    }

    fn positions(&self, of: &[(Uuid, i32)], at: Cut) -> Result<Vec<i64>, LogError> {
        let of: Vec<_> = of.iter().map(|(topic, partition)| TopicPartition::new(TopicId(*topic), *partition)).collect();
        self.log.ends_at(Csn(at.0), &of).map_err(|error| LogError::Failed(error.to_string()))
    }

    fn start(&self, topic: Uuid, partition: i32) -> i64 {
        self.log.partition(TopicPartition::new(TopicId(topic), partition)).map_or(0, |state| state.start_offset)
    }

    fn compacted_below(&self, topic: Uuid, partition: i32) -> i64 {
        self.log.partition(TopicPartition::new(TopicId(topic), partition)).map_or(0, |state| state.compacted_below)
    }

    fn read(&self, topic: Uuid, partition: i32, from: i64, until: i64, bytes_max: usize) -> Result<Batches, LogError> {
        read_records(&self.log, TopicPartition::new(TopicId(topic), partition), from, until, bytes_max)
    }

    fn bytes(&self, topic: Uuid, partition: i32, from: i64, until: i64) -> u64 {
        self.log.bytes_between(TopicPartition::new(TopicId(topic), partition), from, until)
    }

    fn on_advance(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.log.on_advance(Box::new(move |_, _| wake()));
    }

    fn hold(&self, topic: Uuid, partition: i32, from: i64) -> Box<dyn Hold> {
        Box::new(LogHold(self.log.hold(TopicPartition::new(TopicId(topic), partition), from)))
    }
}

#[derive(Debug)]
struct LogHold(mainstem_log::Hold);

impl Hold for LogHold {
    fn advance(&self, from: i64) {
        self.0.advance(from);
    }
}

/// Records in `from..until`. A batch with a wrong checksum is damage; one whose checksum is right and whose inside cannot be
/// read came so from its producer, and is handed on as unreadable.
pub(super) fn read_records(
    log: &Log,
    partition: TopicPartition,
    from: i64,
    until: i64,
    bytes_max: usize,
) -> Result<Batches, LogError> {
    let read = log.read_until(partition, from, until, bytes_max).map_err(|error| log_error(error, partition))?;
    let mut batches = Batches { next_offset: read.next_offset, ..Batches::default() };
    for batch in split(&read.batches) {
        let damaged = |offset: i64, place: String| LogError::Damaged {
            topic: partition.topic.0,
            partition: partition.partition,
            offset,
            place,
        };
        let at = batches.records.last().map_or(from, |record| record.offset + 1);
        let (header, batch) = batch.map_err(|error| damaged(at, error.to_string()))?;
        if !verify_crc(&batch) {
            let place = format!(
                "the checksum of the batch of offsets {}..={} is wrong",
                header.base_offset,
                header.last_offset()
            );
            log.report_damage(partition, header.base_offset, place.clone());
            return before_damage(batches, header.base_offset.max(from), damaged(header.base_offset.max(from), place));
        }
        if !header.is_control() {
            take_batch(&mut batches, &header, &batch, from, until);
        }
    }
    Ok(batches)
}

/// Good records before damage come first; the damage shows when reading on.
fn before_damage(mut batches: Batches, offset: i64, error: LogError) -> Result<Batches, LogError> {
    if batches.records.is_empty() && batches.unreadable.is_empty() {
        return Err(error);
    }
    batches.next_offset = offset;
    Ok(batches)
}

fn take_batch(batches: &mut Batches, header: &BatchHeader, batch: &bytes::Bytes, from: i64, until: i64) {
    let kept = batches.records.len();
    let unreadable = |batches: &mut Batches, reason: String| {
        batches.records.truncate(kept);
        let (first, last) = (header.base_offset.max(from), header.last_offset());
        batches.unreadable.push(UnreadableBatch { first, last, reason });
    };
    let reader = match records(batch) {
        Ok(reader) => reader,
        Err(error) => return unreadable(batches, error.to_string()),
    };
    let mut expected = header.base_offset;
    for record in reader {
        match record {
            // Producers write the offsets within a batch; the CRC only proves that they arrived as sent.
            Ok(record) if record.offset < expected || record.offset > header.last_offset() => {
                let reason = format!("a record claims offset {}, outside its batch or out of order", record.offset);
                return unreadable(batches, reason);
            }
            Ok(record) => {
                expected = record.offset + 1;
                if (from..until).contains(&record.offset) {
                    batches.records.push(LogRecord {
                        offset: record.offset,
                        timestamp_ms: record.timestamp,
                        key: record.key,
                        value: record.value,
                    });
                }
            }
            Err(error) => return unreadable(batches, error.to_string()),
        }
    }
}
