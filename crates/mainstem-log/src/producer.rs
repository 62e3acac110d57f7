//! What idempotent producers have appended to one partition.
//!
//! Words: the *sequence* numbers a producer's records in one partition and wraps from `i32::MAX` to 0; the *epoch*
//! tells incarnations of a producer apart. The last [`REMEMBERED`] batches are remembered so that a retry is answered
//! with the offset it was given the first time. Rules: Apache Kafka's `ProducerStateEntry` and `ProducerAppendInfo`.
//!
//! Always true here: the table is a function of the entries applied so far, so that replay rebuilds it exactly.

use std::collections::{BTreeMap, VecDeque};

use mainstem_kafka_wire::batch::BatchHeader;

use crate::codec::{Put, Take};
use crate::{Csn, PartError};

/// Batches remembered per producer and partition (Kafka's number; clients keep at most five in flight).
pub(crate) const REMEMBERED: usize = 5;
/// Producers remembered per partition; the ones silent for longest are forgotten first.
const PRODUCERS_MAX: usize = 5_000;

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenBatch {
    first_sequence: i32,
    last_sequence: i32,
    pub(crate) base_offset: i64,
    pub(crate) end_offset: i64,
    pub(crate) csn: Csn,
}

/// One producer in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    epoch: i16,
    batches: VecDeque<SeenBatch>,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it.
    Append,
    /// It was appended before.
    Duplicate(SeenBatch),
}

/// All producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducerTable {
    producers: BTreeMap<i64, Producer>,
}

/// Whether the header is of an idempotent producer.
pub(crate) fn is_idempotent(header: &BatchHeader) -> bool {
    header.producer_id >= 0 && header.base_sequence >= 0
}

impl Producer {
    fn judge(&self, header: &BatchHeader) -> Result<Verdict, PartError> {
        if header.producer_epoch < self.epoch {
            return Err(PartError::InvalidProducerEpoch { current: self.epoch, got: header.producer_epoch });
        }
        let got = header.base_sequence;
        if header.producer_epoch > self.epoch {
            return if got == 0 {
                Ok(Verdict::Append)
            } else {
                Err(PartError::OutOfOrderSequence { expected: 0, got })
            };
        }
        let last = header.last_sequence();
        let seen = self.batches.iter().find(|seen| seen.first_sequence == got && seen.last_sequence == last);
        if let Some(seen) = seen {
            return Ok(Verdict::Duplicate(*seen));
        }
        let Some(newest) = self.batches.back() else { return Ok(Verdict::Append) };
        let expected = next_sequence(newest.last_sequence);
        if got == expected {
            return Ok(Verdict::Append);
        }
        let oldest = self.batches.front().map_or(0, |seen| seen.first_sequence);
        // Behind the window, by less than half of the circle: it was appended once, nobody knows where.
        if self.batches.len() == REMEMBERED && distance(last, oldest) > 0 {
            return Err(PartError::DuplicateSequence);
        }
        Err(PartError::OutOfOrderSequence { expected, got })
    }

    fn remember(&mut self, header: &BatchHeader, base_offset: i64, csn: Csn) {
        if header.producer_epoch != self.epoch {
            self.epoch = header.producer_epoch;
            self.batches.clear();
        }
        if self.batches.len() == REMEMBERED {
            self.batches.pop_front();
        }
        self.batches.push_back(SeenBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset,
            end_offset: base_offset.saturating_add(i64::from(header.last_offset_delta) + 1),
            csn,
        });
    }

    fn last_csn(&self) -> Csn {
        self.batches.back().map_or(Csn::ZERO, |seen| seen.csn)
    }
}

impl ProducerTable {
    /// Judges one batch. `staged` is this producer after earlier batches of the same part, if there were any.
    pub(crate) fn judge(&self, staged: &ProducerTable, header: &BatchHeader) -> Result<Verdict, PartError> {
        let known = staged.producers.get(&header.producer_id).or_else(|| self.producers.get(&header.producer_id));
        match known {
            Some(producer) => producer.judge(header),
            None => Ok(Verdict::Append),
        }
    }

    /// Like [`ProducerTable::remember`], on a copy of the producer kept in `staged`.
    pub(crate) fn stage(&self, staged: &mut ProducerTable, header: &BatchHeader, base_offset: i64, csn: Csn) {
        if let Some(known) = self.producers.get(&header.producer_id) {
            staged.producers.entry(header.producer_id).or_insert_with(|| known.clone());
        }
        staged.remember(header, base_offset, csn);
    }

    /// Takes over what was staged.
    pub(crate) fn take(&mut self, staged: ProducerTable) {
        self.producers.extend(staged.producers);
        self.forget();
    }

    /// Remembers an appended batch; nothing when it is not of an idempotent producer.
    pub(crate) fn remember(&mut self, header: &BatchHeader, base_offset: i64, csn: Csn) {
        if !is_idempotent(header) {
            return;
        }
        let producer = self
            .producers
            .entry(header.producer_id)
            .or_insert_with(|| Producer { epoch: header.producer_epoch, batches: VecDeque::new() });
        producer.remember(header, base_offset, csn);
        self.forget();
    }

    fn forget(&mut self) {
        while self.producers.len() > PRODUCERS_MAX {
            // Drop an eighth at once: finding the oldest costs a pass over all.
            let mut ages: Vec<(Csn, i64)> = self.producers.iter().map(|(id, state)| (state.last_csn(), *id)).collect();
            ages.sort_unstable();
            for (_, id) in ages.iter().take(PRODUCERS_MAX / 8) {
                self.producers.remove(id);
            }
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(u32::try_from(self.producers.len()).unwrap_or(u32::MAX));
        for (id, producer) in &self.producers {
            out.put_i64(*id);
            out.put(&producer.epoch.to_le_bytes());
            out.put_u32(u32::try_from(producer.batches.len()).unwrap_or(u32::MAX));
            for seen in &producer.batches {
                out.put(&seen.first_sequence.to_le_bytes());
                out.put(&seen.last_sequence.to_le_bytes());
                out.put_i64(seen.base_offset);
                out.put_i64(seen.end_offset);
                out.put_u64(seen.csn.0);
            }
        }
    }

    pub(crate) fn decode(take: &mut Take<'_>) -> Option<Self> {
        let mut table = Self::default();
        for _ in 0..take.u32()? {
            let id = take.i64()?;
            let mut producer = Producer { epoch: take.i16()?, batches: VecDeque::new() };
            for _ in 0..take.u32()? {
                producer.batches.push_back(SeenBatch {
                    first_sequence: take.i32()?,
                    last_sequence: take.i32()?,
                    base_offset: take.offset()?,
                    end_offset: take.offset()?,
                    csn: Csn(take.number()?),
                });
            }
            table.producers.insert(id, producer);
        }
        Some(table)
    }
}

fn next_sequence(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

/// Steps from `from` to `to` on the circle of sequences; negative when `to` is behind.
fn distance(from: i32, to: i32) -> i64 {
    let circle = i64::from(i32::MAX) + 1;
    let ahead = (i64::from(to) - i64::from(from)).rem_euclid(circle);
    if ahead > circle / 2 { ahead - circle } else { ahead }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(epoch: i16, sequence: i32, records: i32) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            batch_length: 0,
            leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: records - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 9,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: records,
        }
    }

    fn append(table: &mut ProducerTable, epoch: i16, sequence: i32, records: i32, offset: i64) {
        let header = header(epoch, sequence, records);
        assert_eq!(table.judge(&ProducerTable::default(), &header), Ok(Verdict::Append));
        table.remember(&header, offset, Csn(u64::try_from(offset).unwrap()));
    }

    fn judge(table: &ProducerTable, epoch: i16, sequence: i32, records: i32) -> Result<Option<i64>, PartError> {
        Ok(match table.judge(&ProducerTable::default(), &header(epoch, sequence, records))? {
            Verdict::Append => None,
            Verdict::Duplicate(seen) => Some(seen.base_offset),
        })
    }

    #[test]
    fn the_last_five_batches_are_answered_with_their_first_offset() {
        let mut table = ProducerTable::default();
        for i in 0..7 {
            append(&mut table, 0, i * 2, 2, i64::from(i) * 2);
        }
        assert_eq!(judge(&table, 0, 4, 2), Ok(Some(4)));
        assert_eq!(judge(&table, 0, 12, 2), Ok(Some(12)));
        assert_eq!(judge(&table, 0, 14, 1), Ok(None));
        assert_eq!(judge(&table, 0, 2, 2), Err(PartError::DuplicateSequence));
        assert_eq!(judge(&table, 0, 15, 1), Err(PartError::OutOfOrderSequence { expected: 14, got: 15 }));
        assert_eq!(judge(&table, 0, 12, 1), Err(PartError::OutOfOrderSequence { expected: 14, got: 12 }));
    }

    #[test]
    fn the_sequence_wraps_to_zero() {
        let mut table = ProducerTable::default();
        append(&mut table, 0, i32::MAX - 1, 2, 0);
        assert_eq!(judge(&table, 0, 0, 5), Ok(None));
        append(&mut table, 0, 0, 5, 2);
        append(&mut table, 0, 5, 1, 7);
        let mut across = ProducerTable::default();
        append(&mut across, 0, i32::MAX, 3, 0);
        assert_eq!(judge(&across, 0, 2, 1), Ok(None));
        assert_eq!(judge(&across, 0, i32::MAX, 3), Ok(Some(0)));
    }

    #[test]
    fn epochs_only_go_up_and_begin_at_zero() {
        let mut table = ProducerTable::default();
        append(&mut table, 3, 17, 1, 0);
        assert_eq!(judge(&table, 2, 18, 1), Err(PartError::InvalidProducerEpoch { current: 3, got: 2 }));
        assert_eq!(judge(&table, 4, 18, 1), Err(PartError::OutOfOrderSequence { expected: 0, got: 18 }));
        append(&mut table, 4, 0, 1, 1);
        assert_eq!(judge(&table, 4, 17, 1), Err(PartError::OutOfOrderSequence { expected: 1, got: 17 }));
    }

    #[test]
    fn a_table_survives_its_encoding() {
        let mut table = ProducerTable::default();
        append(&mut table, 0, 5, 2, 10);
        append(&mut table, 0, 7, 2, 12);
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        assert_eq!(ProducerTable::decode(&mut Take::new(&bytes)), Some(table));
    }
}
