//! Retention: whole sealed segments leave when they are too old or the partition is too large.
//!
//! Always true here: the new start offset is durable (the checkpoint names it) before a file goes; the active segment
//! stays; nothing at or above a hold goes; a damaged partition keeps everything.

use std::sync::Arc;

use crate::partition::Partition;
use crate::segment::{Segment, segment_path};
use crate::shared::Shared;
use crate::{OrderStep, RetentionReport, TopicPartition};

impl Shared {
    pub(crate) fn apply_retention(&self) -> RetentionReport {
        let mut report = RetentionReport::default();
        let now = self.clock.wall_ms();
        let mut partitions: Vec<Arc<Partition>> = self.partitions.read().values().cloned().collect();
        partitions.sort_by_key(|partition| partition.id);
        let mut removals = Vec::new();
        for partition in partitions.iter().filter(|partition| partition.is_open() && !partition.is_damaged()) {
            let doomed = self.doomed(partition, now, &mut report);
            let Some(start) = doomed.last().map(|(_, next)| *next) else { continue };
            partition.set_start(start);
            partition.keep_segments(|segment| segment.base_offset >= start);
            for (segment, _) in doomed {
                report.segments += 1;
                report.bytes += segment.len();
                self.storage.segments.forget(partition.id, segment.base_offset);
                for extension in ["log", "index", "timeindex"] {
                    removals.push(segment_path(partition.id, segment.base_offset, extension));
                }
            }
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

    /// The oldest segments that may go, each with the offset that follows it.
    fn doomed(&self, partition: &Partition, now: i64, report: &mut RetentionReport) -> Vec<(Arc<Segment>, i64)> {
        let config = partition.config();
        let limit = self.holds.limit(partition.id).min(partition.high_watermark());
        let segments = partition.segments();
        let mut bytes: u64 = segments.iter().map(|segment| segment.len()).sum();
        let mut doomed = Vec::new();
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            // A segment whose records have no timestamps is of no known age.
            let newest = segment.max_timestamp();
            let is_old = config.retention_ms.is_some_and(|ms| newest >= 0 && newest < now.saturating_sub(ms));
            let is_surplus = config.retention_bytes.is_some_and(|max| bytes > max);
            if !is_old && !is_surplus {
                break;
            }
            if next.base_offset > limit {
                report.held_partitions += 1;
                break;
            }
            bytes -= segment.len();
            doomed.push((Arc::clone(segment), next.base_offset));
        }
        doomed
    }

    /// Whether the records that a step of the order stands for are gone.
    fn is_obsolete(&self, step: &OrderStep) -> bool {
        let id: TopicPartition = step.partition;
        self.partitions.read().get(&id).is_none_or(|partition| step.end_offset <= partition.start())
    }
}
