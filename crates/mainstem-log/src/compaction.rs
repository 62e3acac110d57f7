//! Compaction: of the records of a key, the last one stays.
//!
//! Words: a *pass* looks at all partitions once and runs through those that are due. A *run* takes one partition: it notes
//! the last offset of each key in the *dirty* part (what no run has been through yet) and writes the sealed segments anew
//! without what is superseded, in *groups* of neighbours that make one segment. The *limit* of a run is where the segments
//! end that it may touch.
//!
//! The manifest is the log's checkpoint. A group's segment is synced under a name of its own, takes the place of the old
//! ones for new readers at once, and rules after a crash when the next checkpoint names it; only then the old files go.
//! Readers that have one open read on. So at any moment the old segments rule or the new one, and recovery removes what
//! nothing names.
//!
//! Always true here:
//! - only segments are touched that are sealed, named by a durable checkpoint and below all holds: recovery never writes
//!   to them, and a reader that holds offsets sees no hole that was not there when it began;
//! - groups are replaced from the oldest on, and a run that cannot replace one ends: when a tombstone gets its horizon, or
//!   goes, everything that it deletes has gone before it;
//! - offsets stay; a batch without records covers those that are gone;
//! - records of transactions supersede nothing, control batches stay as they are; a record without a key stays.

mod due;
mod keys;
mod rewrite;

use std::collections::VecDeque;
use std::sync::Arc;

use mainstem_kafka_wire::records::{DECOMPRESSED_BYTES_MAX, OpenBatch};

use crate::failure::{Failure, at};
use crate::partition::{DamagedAt, Partition};
use crate::segment::{OpenSegment, SEGMENT_BYTES_MAX, Segment, SegmentName, partition_dir};
use crate::shared::Shared;
use crate::{CompactionConfig, CompactionReport, Stopped};
use due::Candidate;
use keys::{KeyMap, hash_of};
use rewrite::{Finished, Judge, Output, Source, SourceError};

/// Replaced files that wait for a checkpoint to be removed, before one is taken for them.
const OBSOLETE_BYTES_MAX: u64 = 64 << 20;

/// What goes on between two calls.
#[derive(Debug, Default)]
pub(crate) struct Compacting {
    /// Partitions of the pass that were not begun; `None` between passes.
    waiting: Option<VecDeque<Candidate>>,
    run: Option<Run>,
    obsolete_bytes: u64,
    /// A run came to its end, and no checkpoint knows.
    is_unsaved: bool,
}

/// A segment and the offset behind it.
#[derive(Clone, Debug)]
struct Sealed {
    segment: Arc<Segment>,
    end: i64,
}

/// One partition.
#[derive(Debug)]
struct Run {
    partition: Arc<Partition>,
    config: CompactionConfig,
    /// What may be touched, oldest first.
    sealed: Vec<Sealed>,
    /// All below was compacted before.
    compacted_to: i64,
    map: KeyMap,
    /// The map has all keys in `compacted_to..mapped_to`.
    mapped_to: i64,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Reading the dirty part: which segment is next, and where the one that is open stands.
    Mapping {
        next: usize,
        source: Option<Source>,
    },
    Rewriting {
        groups: VecDeque<Vec<Sealed>>,
        group: Option<Box<Group>>,
    },
}

/// Some segments, and the one that takes their place.
#[derive(Debug)]
struct Group {
    sealed: Vec<Sealed>,
    next: usize,
    source: Option<Source>,
    output: Output,
}

/// How far a step came.
enum Stepped {
    /// So many bytes further.
    On(u64),
    /// The run is through all that its map has.
    Over,
}

/// Why a run ends early.
enum Ended {
    /// Something else came between; nothing is wrong.
    Abandoned(&'static str),
    /// The disk refuses; nothing is lost.
    Failed(Failure),
    /// A sync failed: nobody knows what is on the disk.
    Fatal(Failure),
    Damaged(DamagedAt),
}

impl From<SourceError> for Ended {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Failed(failure) => Ended::Failed(failure),
            SourceError::Damaged(offset, place) => Ended::Damaged(DamagedAt { offset, place }),
        }
    }
}

impl Shared {
    /// Works until about `bytes_max` bytes are read or nothing is left to do.
    pub(crate) fn compact(&self, bytes_max: u64) -> CompactionReport {
        let mut guard = self.compacting.lock();
        let state = &mut *guard;
        let mut report = CompactionReport::default();
        let mut bytes = 0;
        while bytes < bytes_max.max(1) {
            if self.sequencer.lock().stopped.is_some() {
                *state = Compacting::default();
                report.is_done = true;
                return report;
            }
            let Some(run) = &mut state.run else {
                let waiting = state.waiting.get_or_insert_with(|| self.due_partitions(&mut report));
                let Some(candidate) = waiting.pop_front() else {
                    state.waiting = None;
                    report.is_done = true;
                    break;
                };
                state.run = self.begin_run(candidate);
                continue;
            };
            let before = report;
            match self.step(run, &mut report) {
                Ok(Stepped::On(more)) => bytes += more,
                Ok(Stepped::Over) => {
                    report.runs += 1;
                    state.is_unsaved = true;
                    run.partition.set_compacted_to(run.mapped_to);
                    let again = self.go_on(run);
                    state.run = again;
                }
                Err(ended) => {
                    report.runs_abandoned += 1;
                    self.give_up(run, ended);
                    state.run = None;
                }
            }
            state.obsolete_bytes += report.bytes_before - before.bytes_before;
        }
        self.counters.add_compaction(report.bytes_before, report.bytes_after);
        if state.obsolete_bytes >= OBSOLETE_BYTES_MAX
            || report.is_done && (state.obsolete_bytes > 0 || state.is_unsaved)
        {
            (state.obsolete_bytes, state.is_unsaved) = (0, false);
            // When it fails the log has stopped, and the files stay.
            let _ = self.checkpoint();
        }
        report
    }

    fn begin_run(&self, candidate: Candidate) -> Option<Run> {
        let Candidate { partition, config, sealed, .. } = candidate;
        let compacted_to = partition.compacted_to().max(partition.start());
        let limit = sealed.last()?.end;
        let next = sealed.iter().take_while(|sealed| sealed.end <= compacted_to).count();
        let keys_max = u64::try_from(limit - compacted_to).unwrap_or(0);
        let map = KeyMap::new(keys_max, self.config.compaction_map_bytes);
        let phase = Phase::Mapping { next, source: None };
        Some(Run { partition, config, sealed, compacted_to, map, mapped_to: compacted_to.min(limit), phase })
    }

    /// The next run through the same partition, when the keys of the dirty part did not fit one map.
    fn go_on(&self, run: &Run) -> Option<Run> {
        let limit = run.sealed.last()?.end;
        if run.mapped_to >= limit || run.mapped_to <= run.compacted_to {
            return None;
        }
        let candidate = self.candidate(&run.partition, limit)?;
        self.begin_run(candidate)
    }

    fn step(&self, run: &mut Run, report: &mut CompactionReport) -> Result<Stepped, Ended> {
        if run.partition.is_deleted() || run.partition.is_damaged() {
            return Err(Ended::Abandoned("the partition is gone or damaged"));
        }
        match &run.phase {
            Phase::Mapping { .. } => self.step_mapping(run),
            Phase::Rewriting { .. } => self.step_rewriting(run, report),
        }
    }

    fn step_mapping(&self, run: &mut Run) -> Result<Stepped, Ended> {
        let Phase::Mapping { next, source } = &mut run.phase else { return Ok(Stepped::Over) };
        let Some(open) = source else {
            match run.sealed.get(*next) {
                Some(sealed) => {
                    *source = Some(Source::new(&sealed.segment, self.open_source(&sealed.segment)?.file.clone()));
                    *next += 1;
                }
                None => {
                    run.mapped_to = run.sealed.last().map_or(run.mapped_to, |sealed| sealed.end);
                    run.begin_rewriting(self.clock.wall_ms());
                }
            }
            return Ok(Stepped::On(0));
        };
        let Some((header, bytes)) = open.next()? else {
            *source = None;
            return Ok(Stepped::On(0));
        };
        run.mapped_to = run.mapped_to.max(header.base_offset);
        let supersedes = !header.is_control() && !header.is_transactional() && header.record_count > 0;
        if supersedes
            && header.next_offset() > run.compacted_to
            && let Some(offset) = put_keys(&mut run.map, &bytes, run.compacted_to)
        {
            run.mapped_to = offset;
            run.begin_rewriting(self.clock.wall_ms());
            return Ok(Stepped::On(bytes.len() as u64));
        }
        run.mapped_to = run.mapped_to.max(header.next_offset());
        Ok(Stepped::On(bytes.len() as u64))
    }

    fn step_rewriting(&self, run: &mut Run, report: &mut CompactionReport) -> Result<Stepped, Ended> {
        let Phase::Rewriting { groups, group } = &mut run.phase else { return Ok(Stepped::Over) };
        let Some(at_work) = group else {
            let Some(sealed) = groups.pop_front() else { return Ok(Stepped::Over) };
            *group = Some(Box::new(self.begin_group(&run.partition, sealed)?));
            return Ok(Stepped::On(0));
        };
        let Some(open) = &mut at_work.source else {
            if let Some(sealed) = at_work.sealed.get(at_work.next) {
                at_work.source = Some(Source::new(&sealed.segment, self.open_source(&sealed.segment)?.file.clone()));
                at_work.next += 1;
            } else if let Some(group) = group.take() {
                self.finish_group(&run.partition, *group, report)?;
            }
            return Ok(Stepped::On(0));
        };
        let Some((header, bytes)) = open.next()? else {
            at_work.source = None;
            return Ok(Stepped::On(0));
        };
        let read = bytes.len() as u64;
        let judge = Judge {
            map: &run.map,
            mapped_to: run.mapped_to,
            compacted_to: run.compacted_to,
            start: run.partition.start(),
            now: self.clock.wall_ms(),
            delete_retention_ms: run.config.delete_retention_ms,
        };
        let taken = at_work.output.take(&judge, &header, bytes, report);
        taken.map_err(|source| Ended::Failed(at(&at_work.output.path())(source)))?;
        Ok(Stepped::On(read))
    }

    fn open_source(&self, segment: &Segment) -> Result<Arc<OpenSegment>, Ended> {
        // Retention may have removed it.
        self.storage.segments.open(segment).map_err(|source| Ended::Failed(at(&segment.path())(source)))
    }

    fn begin_group(&self, partition: &Partition, sealed: Vec<Sealed>) -> Result<Group, Ended> {
        let bytes: u64 = sealed.iter().map(|sealed| sealed.segment.len()).sum();
        let kept_free = self.config.reserve_bytes.saturating_add(self.config.backlog_bytes_max as u64);
        let available = self.storage.disk.available_bytes().unwrap_or(u64::MAX);
        if available < bytes.saturating_add(kept_free) {
            return Err(Ended::Abandoned("there is no space to write a segment anew"));
        }
        let base_offset = sealed.first().map_or(0, |sealed| sealed.segment.base_offset);
        let generation = sealed.iter().map(|sealed| sealed.segment.generation).max().unwrap_or(0).saturating_add(1);
        let name = SegmentName { base_offset, generation };
        let segment = Segment::named(partition.id, name, 0, 0, -1);
        let file = self.beside_checkpoints(partition, || self.storage.segments.create_compacted(&segment))?;
        let file = file.map_err(|source| Ended::Failed(at(&segment.path())(source)))?;
        self.sequencer.lock().forget_space();
        let output = Output::new(partition.id, name, file, self.storage.index_interval);
        Ok(Group { sealed, next: 0, source: None, output })
    }

    /// A file that comes into being while a checkpoint removes its directory would make that fail.
    fn beside_checkpoints<T>(&self, partition: &Partition, make: impl FnOnce() -> T) -> Result<T, Ended> {
        let _no_checkpoint = self.checkpointing.lock();
        if partition.is_deleted() {
            return Err(Ended::Abandoned("the topic is deleted"));
        }
        Ok(make())
    }

    /// Makes the new segment durable and puts it in the place of the old ones.
    fn finish_group(&self, partition: &Partition, group: Group, report: &mut CompactionReport) -> Result<(), Ended> {
        let Group { sealed, output, .. } = group;
        let path = output.path();
        let newest = sealed.iter().map(|sealed| sealed.segment.max_timestamp()).max().unwrap_or(-1);
        let finished = output.finish(newest).map_err(|source| Ended::Failed(at(&path)(source)))?;
        let has_changed = finished.has_changed
            || sealed.len() > 1
            || sealed.iter().any(|sealed| sealed.segment.delete_horizon != finished.segment.delete_horizon);
        if !has_changed {
            self.discard(&finished.segment);
            return Ok(());
        }
        self.make_durable(partition, finished, |segment| {
            let old: Vec<Arc<Segment>> = sealed.iter().map(|sealed| Arc::clone(&sealed.segment)).collect();
            let end = sealed.last().map_or(0, |sealed| sealed.end);
            let is_replaced =
                self.holds.below_limit(partition.id, |limit| end <= limit && partition.replace_segments(&old, segment));
            if !is_replaced {
                self.discard(segment);
                return Err(Ended::Abandoned("a hold or retention came between"));
            }
            report.segments += old.len() as u64;
            report.bytes_before += old.iter().map(|segment| segment.len()).sum::<u64>();
            report.bytes_after += segment.len();
            self.retire(partition, &old);
            Ok(())
        })
    }

    fn make_durable(
        &self,
        partition: &Partition,
        finished: Finished,
        replace: impl FnOnce(&Arc<Segment>) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        let Finished { segment, file, mut index, .. } = finished;
        let path = segment.path();
        file.sync_data().map_err(|source| Ended::Fatal(at(&path)(source)))?;
        let dir = partition_dir(partition.id);
        self.beside_checkpoints(partition, || {
            if let Err(error) = index.flush(&*self.storage.disk, &segment) {
                tracing::debug!(%path, %error, "index not written; it can be rebuilt");
            }
            self.storage.disk.sync_dir(&dir).map_err(|source| Ended::Fatal(at(&dir)(source)))
        })??;
        replace(&segment)
    }

    /// The files of replaced segments go after the next checkpoint.
    fn retire(&self, partition: &Partition, old: &[Arc<Segment>]) {
        for segment in old {
            self.storage.segments.forget(segment);
        }
        self.checkpointing.lock().removals.extend(old.iter().flat_map(|segment| segment.paths()));
        // The newest record may have been superseded: under this lock nothing is applied and not yet published.
        let mut writer = self.writer.lock();
        if let Some(tail) = writer.tails.get_mut(&partition.id) {
            let newest = partition.segments().iter().map(|segment| segment.max_timestamp()).max().unwrap_or(-1);
            if newest < tail.max_timestamp {
                tail.max_timestamp = newest;
                partition.lower_max_timestamp(newest);
            }
        }
    }

    /// Removes files that nothing names. What stays, the next start removes.
    fn discard(&self, segment: &Segment) {
        for path in segment.paths() {
            if let Err(error) = self.storage.disk.remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::debug!(%path, %error, "a file of a compaction that came to nothing stays until the next start");
            }
        }
    }

    fn give_up(&self, run: &mut Run, ended: Ended) {
        let id = run.partition.id;
        if let Phase::Rewriting { group: Some(group), .. } = &run.phase {
            self.discard(&Segment::named(id, group.output.name(), 0, 0, -1));
        }
        match ended {
            Ended::Abandoned(why) => tracing::debug!(partition = %id, why, "compaction is put off"),
            Ended::Failed(Failure { place, source }) => {
                tracing::warn!(partition = %id, %place, error = %source, "compaction failed; it is tried again later");
            }
            Ended::Fatal(failure) => self.halt(Stopped { reason: failure.reason().into() }),
            Ended::Damaged(damage) => {
                if run.partition.stop_at(damage.clone()) {
                    tracing::error!(partition = %id, place = %damage.place, "damaged");
                }
            }
        }
    }
}

impl Run {
    /// Neighbours that are small enough make one segment.
    fn begin_rewriting(&mut self, now: i64) {
        let bytes_max = self.partition.config().segment_bytes.clamp(1, SEGMENT_BYTES_MAX / 2);
        let mut groups: VecDeque<Vec<Sealed>> = VecDeque::new();
        let mut bytes = 0;
        for sealed in self.sealed.iter().filter(|sealed| sealed.segment.base_offset < self.mapped_to) {
            let len = sealed.segment.len();
            let fits = groups.back().and_then(|group| group.first()).is_some_and(|first| {
                bytes + len <= bytes_max && sealed.end - first.segment.base_offset <= i64::from(i32::MAX)
            });
            match groups.back_mut().filter(|_| fits) {
                Some(group) => group.push(sealed.clone()),
                None => {
                    bytes = 0;
                    groups.push_back(vec![sealed.clone()]);
                }
            }
            bytes += len;
        }
        if self.map.is_empty() {
            // Nothing is superseded: only tombstones may go.
            groups.retain(|group| group.iter().any(|sealed| sealed.segment.delete_horizon <= now));
        }
        self.phase = Phase::Rewriting { groups, group: None };
    }
}

/// Notes the keys of a batch from offset `from` on; the offset of the first one for which there is no room. A batch that
/// cannot be read has no keys: nobody can read it.
fn put_keys(map: &mut KeyMap, batch: &[u8], from: i64) -> Option<i64> {
    let opened = OpenBatch::open(batch, DECOMPRESSED_BYTES_MAX).ok()?;
    let mut left_out = None;
    opened.for_each(|record| {
        if let Some(key) = record.key.filter(|_| left_out.is_none() && record.offset >= from)
            && !map.put(hash_of(key), record.offset)
        {
            left_out = Some(record.offset);
        }
    });
    left_out
}
