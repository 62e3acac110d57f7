//! Which partitions are due, and up to where.

use std::collections::VecDeque;
use std::sync::Arc;

use mainstem_kafka_wire::batch::{BatchHeader, HEADER_BYTES};

use super::Sealed;
use crate::partition::Partition;
use crate::segment::Segment;
use crate::shared::Shared;
use crate::{CompactionConfig, CompactionReport};

/// A partition that may be compacted up to the end of its last sealed segment here.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) partition: Arc<Partition>,
    pub(super) config: CompactionConfig,
    pub(super) sealed: Vec<Sealed>,
    dirty_millionths: u64,
    is_held: bool,
}

impl Shared {
    /// Begins a pass: seals what is due, and finds the partitions that are, the dirtiest first.
    pub(super) fn due_partitions(&self, report: &mut CompactionReport) -> VecDeque<Candidate> {
        let mut partitions: Vec<Arc<Partition>> = self.partitions.read().values().cloned().collect();
        partitions.retain(|partition| {
            partition.is_open() && !partition.is_damaged() && partition.config().compaction.is_some()
        });
        partitions.sort_by_key(|partition| partition.id);
        for partition in &partitions {
            self.seal_if_old(partition);
        }
        // What was sealed since the last checkpoint may be compacted after the next one.
        let is_behind = |partition: &Arc<Partition>| {
            partition.segments().last().is_some_and(|active| active.base_offset > partition.sealed_to())
        };
        if partitions.iter().any(is_behind) && self.checkpoint().is_err() {
            return VecDeque::new();
        }
        let mut due: Vec<Candidate> = Vec::new();
        for partition in &partitions {
            let Some(candidate) = self.candidate(partition, i64::MAX) else { continue };
            report.held_partitions += u64::from(candidate.is_held);
            if self.is_due(&candidate) {
                due.push(candidate);
            }
        }
        due.sort_by_key(|candidate| (std::cmp::Reverse(candidate.dirty_millionths), candidate.partition.id));
        due.into()
    }

    /// What may be touched of a partition: segments that end at or before `limit`, are sealed and checkpointed, below all
    /// holds, and of which no record is too young.
    pub(super) fn candidate(&self, partition: &Arc<Partition>, limit: i64) -> Option<Candidate> {
        let config = partition.config().compaction?;
        let held_from = self.holds.below_limit(partition.id, |held_from| held_from);
        let compacted_to = partition.compacted_to().max(partition.start());
        let old_before = self.clock.wall_ms().saturating_sub(config.min_lag_ms);
        let segments = partition.segments();
        let limit = limit.min(partition.sealed_to()).min(partition.high_watermark());
        let mut sealed = Vec::new();
        let mut is_held = false;
        let (mut clean, mut dirty) = (0_u64, 0_u64);
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            let end = next.base_offset;
            if end > limit {
                break;
            }
            if end > held_from {
                is_held = true;
                break;
            }
            // Records without timestamps are of no known age.
            let newest = segment.max_timestamp();
            let is_young = config.min_lag_ms > 0 && (newest < 0 || newest > old_before);
            if end > compacted_to && is_young {
                break;
            }
            *(if end > compacted_to { &mut dirty } else { &mut clean }) += segment.len();
            sealed.push(Sealed { segment: Arc::clone(segment), end });
        }
        let dirty_millionths = dirty.saturating_mul(1_000_000) / (clean + dirty).max(1);
        let partition = Arc::clone(partition);
        Some(Candidate { partition, config, sealed, dirty_millionths, is_held })
    }

    fn is_due(&self, candidate: &Candidate) -> bool {
        let Candidate { partition, config, sealed, dirty_millionths, .. } = candidate;
        let now = self.clock.wall_ms();
        if sealed.iter().any(|sealed| sealed.segment.delete_horizon <= now) {
            return true;
        }
        let compacted_to = partition.compacted_to().max(partition.start());
        let Some(oldest) = sealed.iter().find(|sealed| sealed.end > compacted_to) else { return false };
        if *dirty_millionths >= u64::from(config.min_dirty_millionths) {
            return true;
        }
        config.max_lag_ms.is_some_and(|lag| self.is_older(&oldest.segment, now.saturating_sub(lag)))
    }

    /// Begins a new active segment when the first record of the one there is too old.
    fn seal_if_old(&self, partition: &Partition) {
        let Some(config) = partition.config().compaction else { return };
        let Some(active) = partition.segments().last().cloned().filter(|active| active.len() > 0) else { return };
        let Some(age) = [config.segment_ms, config.max_lag_ms].into_iter().flatten().min() else { return };
        if !self.is_older(&active, self.clock.wall_ms().saturating_sub(age)) {
            return;
        }
        // ORDER: a commit holds this lock from planning to applying.
        let _committing = self.committing.lock();
        let sealed = self.writer.lock().seal(&self.storage, partition.id);
        if let Err(failure) = sealed {
            let (place, error) = (failure.place, failure.source);
            tracing::warn!(partition = %partition.id, %place, %error, "cannot begin a new segment");
        }
    }

    /// Whether the first batch of a segment has a time, and that lies before `before`.
    fn is_older(&self, segment: &Segment, before: i64) -> bool {
        let read = || {
            let mut bytes = [0; HEADER_BYTES];
            self.storage.segments.open(segment).ok()?.file.read_exact_at(&mut bytes, 0).ok()?;
            Some(BatchHeader::parse(&bytes).ok()?.max_timestamp)
        };
        segment.first_timestamp(read).is_some_and(|first| first >= 0 && first < before)
    }
}
