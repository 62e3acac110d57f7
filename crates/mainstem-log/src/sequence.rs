//! Sequencing: where an entry gets its CSN and its offsets.
//!
//! Words: *accepted* is what has its place, durable or not; the *queue* holds what is accepted and not yet taken by the
//! committing thread; the *backlog* is what is accepted and not yet applied, in bytes.
//!
//! Always true here: everything is judged and placed under one lock, against all entries accepted before; the lock is
//! never held while the disk writes or syncs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use mainstem_kafka_wire::batch::{BatchHeader, split};

use crate::partition::Partition;
use crate::producer::{ProducerTable, Verdict, is_idempotent};
use crate::{
    Accepted, AppendError, Atomicity, Condition, Csn, Done, Entry, Part, PartError, Placed, Stopped, TopicPartition,
    Urgency,
};

/// Bytes that a part costs besides its batches: order step, index entries, block framing.
const PART_OVERHEAD_BYTES: u64 = 256;
/// The free space of the disk is asked for again after this many accepted bytes.
const SPACE_REFRESH_BYTES: u64 = 16 << 20;

/// A part with its offsets.
#[derive(Debug)]
pub(crate) struct QueuedPart {
    pub(crate) partition: Arc<Partition>,
    pub(crate) base_offset: i64,
    pub(crate) end_offset: i64,
    pub(crate) batches: Bytes,
}

/// What waits for the committing thread.
pub(crate) struct Queued {
    pub(crate) csn: Csn,
    /// Empty when the entry only waits for an earlier one.
    pub(crate) parts: Vec<QueuedPart>,
    pub(crate) bytes: usize,
    pub(crate) done: Done,
}

impl Queued {
    /// Whether the entry has a CSN of its own.
    pub(crate) fn is_new(&self) -> bool {
        !self.parts.is_empty()
    }
}

/// A partition as accepted.
#[derive(Debug)]
pub(crate) struct AcceptedPartition {
    pub(crate) partition: Arc<Partition>,
    pub(crate) end_offset: i64,
    pub(crate) producers: ProducerTable,
}

/// Free space, asked for sparingly.
#[derive(Debug, Default)]
struct Space {
    left: u64,
    until_refresh: u64,
}

/// What the sequencing lock protects.
#[derive(Default)]
pub(crate) struct Sequencer {
    pub(crate) last: Csn,
    pub(crate) partitions: HashMap<TopicPartition, AcceptedPartition>,
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) backlog_bytes: usize,
    pub(crate) stopped: Option<Stopped>,
    /// Set by an orderly stop: nothing more is accepted, the queue is finished.
    pub(crate) is_closing: bool,
    /// Appends refused for want of space.
    pub(crate) refused_for_space: u64,
    /// What the newest of them needed, with its reserve.
    refused_bytes: u64,
    space: Space,
}

impl std::fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sequencer(last {}, {} queued)", self.last, self.queue.len())
    }
}

/// A part that may be appended, or was before.
struct PartPlan {
    placed: Placed,
    /// For a duplicate, the CSN it was given the first time.
    original: Csn,
    producers: ProducerTable,
}

/// The batch headers of a part, or why it cannot be appended.
pub(crate) type Headers = Result<Vec<BatchHeader>, PartError>;

/// Reads the headers of a part's batches.
pub(crate) fn headers_of(part: &Part) -> Headers {
    let mut headers = Vec::new();
    for batch in split(&part.batches) {
        let (header, _) = batch.map_err(|_| PartError::CorruptBatch)?;
        if header.last_offset_delta < 0 || header.record_count < 1 {
            return Err(PartError::CorruptBatch);
        }
        headers.push(header);
    }
    if headers.is_empty() { Err(PartError::CorruptBatch) } else { Ok(headers) }
}

/// What the sequencer needs to know besides its own state.
pub(crate) struct Limits<'a> {
    pub(crate) reserve_bytes: u64,
    /// What a spooled entry needs besides, in the commit log.
    pub(crate) spool_bytes: u64,
    pub(crate) available_bytes: &'a dyn Fn() -> u64,
}

impl Sequencer {
    /// Gives the entry its place and queues it, or refuses it and changes nothing.
    pub(crate) fn accept(
        &mut self,
        entry: Entry,
        headers: &[Headers],
        urgency: Urgency,
        limits: &Limits<'_>,
        done: Done,
    ) -> Result<Accepted, AppendError> {
        self.check_running()?;
        self.check_offsets(&entry.conditions)?;
        let csn = self.last.next();
        let plans = self.plan(&entry, headers, csn)?;
        let is_new = |plan: &Result<PartPlan, PartError>| plan.as_ref().is_ok_and(|plan| !plan.placed.is_duplicate);
        let new_bytes: usize =
            entry.parts.iter().zip(&plans).filter(|(_, plan)| is_new(plan)).map(|(part, _)| part.batches.len()).sum();
        let has_new = plans.iter().any(is_new);
        if has_new {
            let parts = entry.parts.len() as u64;
            self.check_space(new_bytes as u64 + limits.spool_bytes + parts * PART_OVERHEAD_BYTES, urgency, limits)?;
        }
        for condition in &entry.conditions {
            if let Condition::Guard(guard) = condition {
                guard(csn).map_err(AppendError::Conflict)?;
            }
        }
        Ok(self.enqueue(entry, plans, new_bytes, has_new, done))
    }

    fn enqueue(
        &mut self,
        entry: Entry,
        plans: Vec<Result<PartPlan, PartError>>,
        bytes: usize,
        has_new: bool,
        done: Done,
    ) -> Accepted {
        let originals = plans.iter().flatten().map(|plan| plan.original).max();
        let csn = if has_new {
            self.last = self.last.next();
            self.last
        } else {
            // Nothing refers to an original when all parts failed: such an answer rests on all that is accepted.
            originals.unwrap_or(self.last)
        };
        let mut answers = Vec::with_capacity(plans.len());
        let mut parts = Vec::new();
        for (part, plan) in entry.parts.into_iter().zip(plans) {
            answers.push(plan.map(|plan| {
                let placed = plan.placed;
                if let (false, Some(accepted)) = (placed.is_duplicate, self.partitions.get_mut(&part.to)) {
                    accepted.end_offset = placed.end_offset;
                    accepted.producers.take(plan.producers);
                    parts.push(QueuedPart {
                        partition: Arc::clone(&accepted.partition),
                        base_offset: placed.base_offset,
                        end_offset: placed.end_offset,
                        batches: part.batches,
                    });
                }
                placed
            }));
        }
        self.backlog_bytes += bytes;
        self.queue.push_back(Queued { csn, parts, bytes, done });
        Accepted { csn, parts: answers }
    }

    pub(crate) fn check_running(&self) -> Result<(), Stopped> {
        match &self.stopped {
            Some(stopped) => Err(stopped.clone()),
            None if self.is_closing => Err(Stopped { reason: "closed".into() }),
            None => Ok(()),
        }
    }

    fn check_offsets(&self, conditions: &[Condition]) -> Result<(), AppendError> {
        for condition in conditions {
            let Condition::EndOffset { of, is } = condition else { continue };
            match self.partitions.get(of).filter(|accepted| accepted.partition.is_open()) {
                None => return Err(AppendError::Conflict(format!("partition {of} does not exist"))),
                Some(accepted) if accepted.end_offset != *is => {
                    let end = accepted.end_offset;
                    return Err(AppendError::Conflict(format!("next offset of {of} is {end}, not {is}")));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn plan(
        &self,
        entry: &Entry,
        headers: &[Headers],
        csn: Csn,
    ) -> Result<Vec<Result<PartPlan, PartError>>, AppendError> {
        let mut seen = HashSet::new();
        let mut plans = Vec::with_capacity(entry.parts.len());
        for (index, (part, headers)) in entry.parts.iter().zip(headers).enumerate() {
            let plan = match headers {
                _ if !seen.insert(part.to) => Err(PartError::CorruptBatch),
                Ok(headers) => self.plan_part(part, headers, csn),
                Err(error) => Err(*error),
            };
            if let (Atomicity::Whole, Err(error)) = (entry.atomicity, &plan) {
                return Err(AppendError::Part { index, error: *error });
            }
            plans.push(plan);
        }
        Ok(plans)
    }

    fn plan_part(&self, part: &Part, headers: &[BatchHeader], csn: Csn) -> Result<PartPlan, PartError> {
        let accepted = self.partitions.get(&part.to).filter(|accepted| accepted.partition.is_open());
        let accepted = accepted.ok_or(PartError::UnknownPartition)?;
        if accepted.partition.is_damaged() {
            return Err(PartError::Damaged);
        }
        let mut staged = ProducerTable::default();
        let mut duplicates = Vec::new();
        let mut end_offset = accepted.end_offset;
        for header in headers {
            if is_idempotent(header) {
                if let Verdict::Duplicate(seen) = accepted.producers.judge(&staged, header)? {
                    duplicates.push(seen);
                    continue;
                }
                accepted.producers.stage(&mut staged, header, end_offset, csn);
            }
            end_offset =
                end_offset.checked_add(i64::from(header.last_offset_delta) + 1).ok_or(PartError::CorruptBatch)?;
        }
        match (duplicates.first(), duplicates.last()) {
            (Some(first), Some(last)) if duplicates.len() == headers.len() => {
                let placed = Placed { base_offset: first.base_offset, end_offset: last.end_offset, is_duplicate: true };
                let original = duplicates.iter().map(|seen| seen.csn).max().unwrap_or_default();
                Ok(PartPlan { placed, original, producers: ProducerTable::default() })
            }
            // Partly there already: no one base offset would answer it.
            (Some(_), _) => Err(PartError::DuplicateSequence),
            _ => {
                let placed = Placed { base_offset: accepted.end_offset, end_offset, is_duplicate: false };
                Ok(PartPlan { placed, original: Csn::ZERO, producers: staged })
            }
        }
    }

    fn check_space(&mut self, bytes: u64, urgency: Urgency, limits: &Limits<'_>) -> Result<(), AppendError> {
        let reserve = match urgency {
            Urgency::Ordinary => limits.reserve_bytes,
            Urgency::Reserve => 0,
        };
        let fits = |space: &Space| space.left >= reserve.saturating_add(bytes);
        if self.space.until_refresh < bytes || !fits(&self.space) {
            // What is accepted and not yet written will still take its space.
            self.space.left = (limits.available_bytes)().saturating_sub(self.backlog_bytes as u64);
            self.space.until_refresh = SPACE_REFRESH_BYTES.max(bytes);
        }
        if !fits(&self.space) {
            self.refused_for_space += 1;
            self.refused_bytes = reserve.saturating_add(bytes);
            return Err(AppendError::DiskFull);
        }
        self.space.left -= bytes;
        self.space.until_refresh = self.space.until_refresh.saturating_sub(bytes);
        Ok(())
    }

    /// Whether `available` bytes are enough for the newest append that was refused for want of space.
    pub(crate) fn has_space(&self, available: u64) -> bool {
        available.saturating_sub(self.backlog_bytes as u64) >= self.refused_bytes
    }

    /// Something else took space: the next append asks the disk again.
    pub(crate) fn forget_space(&mut self) {
        self.space = Space::default();
    }

    /// Takes entries for one block: all of the queue, up to `bytes_max`, at least one.
    pub(crate) fn take(&mut self, bytes_max: usize) -> Vec<Queued> {
        let mut bytes = 0;
        let mut count = 0;
        for queued in &self.queue {
            bytes += queued.bytes;
            if count > 0 && bytes > bytes_max {
                break;
            }
            count += 1;
        }
        self.queue.drain(..count).collect()
    }
}
