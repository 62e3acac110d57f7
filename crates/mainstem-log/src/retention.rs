//! Retention: whole sealed segments leave when they are too old or the partition is too large, or when somebody has asked
//! for the deletion of all records before an offset.
//!
//! Always true here: the new start offset is durable (the checkpoint names it) before a file goes; the active segment
//! stays; nothing at or above a hold goes; a damaged partition keeps everything.

use std::sync::Arc;

use crate::partition::Partition;
use crate::shared::Shared;
use crate::{DeleteRecordsError, OrderStep, RetentionReport, TopicPartition};

impl Shared {
    pub(crate) fn apply_retention(&self) -> RetentionReport {
        let mut report = RetentionReport::default();
        let now = self.clock.wall_ms();
        let mut partitions: Vec<Arc<Partition>> = self.partitions.read().values().cloned().collect();
        partitions.sort_by_key(|partition| partition.id);
        let mut removals = Vec::new();
        for partition in partitions.iter().filter(|partition| partition.is_open() && !partition.is_damaged()) {
            self.holds.below_limit(partition.id, |limit| {
                if let Some(start) = doomed_before(partition, now, limit, &mut report) {
                    partition.set_start(start);
                }
            });
            self.forget_segments(partition, &mut removals, &mut report);
        }
        match self.storage.order.trim(|step| self.is_obsolete(step)) {
            Ok(paths) => removals.extend(paths),
            Err(failure) => tracing::warn!(place = %failure.place, error = %failure.source, "order not trimmed"),
        }
        if !removals.is_empty() {
            self.checkpointing.lock().removals.extend(removals);
            // When it fails the log has stopped, and the files stay.
            let _ = self.checkpoint();
        }
        report
    }

    /// The start of a partition moves to `offset`, its end when none is given; answers where it is then. Durable when this
    /// returns; segments that lie below it are gone.
    pub(crate) fn delete_records(&self, id: TopicPartition, offset: Option<i64>) -> Result<i64, DeleteRecordsError> {
        let partition = self.find(id).ok_or(DeleteRecordsError::UnknownPartition(id))?;
        if partition.is_damaged() {
            return Err(DeleteRecordsError::Damaged(id));
        }
        self.holds.below_limit(id, |held_from| {
            let end = partition.high_watermark();
            let start = offset.unwrap_or(end);
            if !(0..=end).contains(&start) {
                return Err(DeleteRecordsError::OutOfRange { offset: start, end });
            }
            if start > held_from {
                return Err(DeleteRecordsError::Held { offset: start, held_from });
            }
            partition.set_start(start);
            Ok(())
        })?;
        let mut removals = Vec::new();
        self.forget_segments(&partition, &mut removals, &mut RetentionReport::default());
        self.checkpointing.lock().removals.extend(removals);
        self.checkpoint()?;
        Ok(partition.start())
    }

    /// Lets go of the sealed segments that lie below the partition's start.
    fn forget_segments(&self, partition: &Partition, removals: &mut Vec<String>, report: &mut RetentionReport) {
        let segments = partition.segments();
        let ends = segments.iter().skip(1).map(|next| next.base_offset);
        let doomed: Vec<_> = segments.iter().zip(ends).take_while(|(_, end)| *end <= partition.start()).collect();
        let Some(first_kept) = doomed.last().map(|(_, end)| *end) else { return };
        partition.keep_segments(|segment| segment.base_offset >= first_kept);
        for (segment, _) in doomed {
            report.segments += 1;
            report.bytes += segment.len();
            self.storage.segments.forget(segment);
            removals.extend(segment.paths());
        }
    }

    /// Whether the records that a step of the order stands for are gone.
    fn is_obsolete(&self, step: &OrderStep) -> bool {
        let id: TopicPartition = step.partition;
        self.partitions.read().get(&id).is_none_or(|partition| step.end_offset <= partition.start())
    }
}

/// Where the partition would start without the oldest segments, those that are too old or too much and below the limit.
fn doomed_before(partition: &Partition, now: i64, limit: i64, report: &mut RetentionReport) -> Option<i64> {
    let config = partition.config();
    let limit = limit.min(partition.high_watermark());
    let segments = partition.segments();
    let mut bytes: u64 = segments.iter().map(|segment| segment.len()).sum();
    let mut start = None;
    for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
        // A segment whose records have no timestamps is of no known age.
        let newest = segment.max_timestamp();
        let is_old = config.retention_ms.is_some_and(|ms| newest >= 0 && newest < now.saturating_sub(ms));
        let is_surplus = config.retention_bytes.is_some_and(|max| bytes.saturating_sub(segment.len()) >= max);
        if !is_old && !is_surplus {
            break;
        }
        if next.base_offset > limit {
            report.held_partitions += 1;
            break;
        }
        bytes -= segment.len();
        start = Some(next.base_offset);
    }
    start
}
