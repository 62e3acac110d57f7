//! One partition as readers see it.
//!
//! Always true here: the high watermark only grows, and only after the batches below it stand in their segments; the
//! start offset only grows; a partition that is damaged at an offset is never read or written from there on; segments
//! are replaced as a whole, so that who looks sees what was there before or what is there now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::segment::{Segment, SegmentName};
use crate::{PartitionConfig, TopicPartition};

/// Where a partition stops, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedAt {
    /// First offset that cannot be read.
    pub(crate) offset: i64,
    /// File, byte position, meaning.
    pub(crate) place: String,
}

/// Where sequential readers go on, so that they need no index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadHint {
    pub(crate) offset: i64,
    pub(crate) segment: SegmentName,
    pub(crate) position: u64,
}

/// A partition, shared between the committing thread and the readers.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) id: TopicPartition,
    config: Mutex<PartitionConfig>,
    /// Whether the owner of the definitions knows it.
    declared: AtomicBool,
    deleted: AtomicBool,
    start: AtomicI64,
    high_watermark: AtomicI64,
    max_timestamp: AtomicI64,
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Segments below this are sealed and named by a durable checkpoint: nothing writes to them any more.
    sealed_to: AtomicI64,
    compacted_to: AtomicI64,
    is_damaged: AtomicBool,
    damage: Mutex<Option<DamagedAt>>,
    hints: Mutex<(usize, [Option<ReadHint>; 4])>,
}

impl Partition {
    pub(crate) fn new(id: TopicPartition, config: PartitionConfig) -> Self {
        Self {
            id,
            config: Mutex::new(config),
            declared: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            start: AtomicI64::new(0),
            high_watermark: AtomicI64::new(0),
            max_timestamp: AtomicI64::new(-1),
            segments: RwLock::default(),
            sealed_to: AtomicI64::new(0),
            compacted_to: AtomicI64::new(0),
            is_damaged: AtomicBool::new(false),
            damage: Mutex::new(None),
            hints: Mutex::default(),
        }
    }

    pub(crate) fn config(&self) -> PartitionConfig {
        *self.config.lock()
    }

    pub(crate) fn configure(&self, config: PartitionConfig) {
        *self.config.lock() = config;
    }

    pub(crate) fn declare(&self) {
        self.declared.store(true, Ordering::Release);
    }

    /// Whether it may be used: declared and not deleted.
    pub(crate) fn is_open(&self) -> bool {
        self.declared.load(Ordering::Acquire) && !self.is_deleted()
    }

    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn start(&self) -> i64 {
        self.start.load(Ordering::Acquire)
    }

    pub(crate) fn set_start(&self, offset: i64) {
        self.start.fetch_max(offset, Ordering::AcqRel);
    }

    pub(crate) fn high_watermark(&self) -> i64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// Shows all below `offset` to readers.
    pub(crate) fn publish(&self, offset: i64, max_timestamp: i64) {
        self.max_timestamp.fetch_max(max_timestamp, Ordering::AcqRel);
        self.high_watermark.fetch_max(offset, Ordering::AcqRel);
    }

    pub(crate) fn max_timestamp(&self) -> i64 {
        self.max_timestamp.load(Ordering::Acquire)
    }

    /// What compaction has taken away may have been the newest. Called while nothing is applied.
    pub(crate) fn lower_max_timestamp(&self, to: i64) {
        self.max_timestamp.store(to, Ordering::Release);
    }

    pub(crate) fn sealed_to(&self) -> i64 {
        self.sealed_to.load(Ordering::Acquire)
    }

    /// A checkpoint that names a segment with this base offset as the last one is durable.
    pub(crate) fn set_sealed_to(&self, offset: i64) {
        self.sealed_to.fetch_max(offset, Ordering::AcqRel);
    }

    /// Compaction has been through all below.
    pub(crate) fn compacted_to(&self) -> i64 {
        self.compacted_to.load(Ordering::Acquire)
    }

    pub(crate) fn set_compacted_to(&self, offset: i64) {
        self.compacted_to.fetch_max(offset, Ordering::AcqRel);
    }

    /// The end of the last segment that compaction has written.
    pub(crate) fn compacted_below(&self) -> i64 {
        let segments = self.segments.read();
        let ends = segments.iter().zip(segments.iter().skip(1));
        ends.filter(|(segment, _)| segment.generation > 0).map(|(_, next)| next.base_offset).next_back().unwrap_or(0)
    }

    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.read().iter().map(|segment| segment.len()).sum()
    }

    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        self.segments.write().push(segment);
    }

    /// Puts `new` in the place of `old`, which follow one another; false, and nothing changed, when they are not all there.
    pub(crate) fn replace_segments(&self, old: &[Arc<Segment>], new: &Arc<Segment>) -> bool {
        let mut segments = self.segments.write();
        let Some(first) = old.first() else { return false };
        let Some(at) = segments.iter().position(|segment| Arc::ptr_eq(segment, first)) else { return false };
        let there = segments.get(at..at + old.len()).unwrap_or_default();
        if there.len() != old.len() || !there.iter().zip(old).all(|(there, old)| Arc::ptr_eq(there, old)) {
            return false;
        }
        segments.splice(at..at + old.len(), [Arc::clone(new)]);
        true
    }

    /// Replaces the segments by those that pass.
    pub(crate) fn keep_segments(&self, keep: impl FnMut(&Arc<Segment>) -> bool) {
        self.segments.write().retain(keep);
    }

    /// The segment that holds `offset`.
    pub(crate) fn segment_of(&self, offset: i64) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let after = segments.partition_point(|segment| segment.base_offset <= offset);
        segments.get(after.checked_sub(1)?).cloned()
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Acquire)
    }

    pub(crate) fn damage(&self) -> Option<DamagedAt> {
        if self.is_damaged() { self.damage.lock().clone() } else { None }
    }

    /// Stops the partition at `at.offset`, or leaves it where it stopped before. Answers whether it is news.
    pub(crate) fn stop_at(&self, at: DamagedAt) -> bool {
        let mut damage = self.damage.lock();
        if damage.as_ref().is_some_and(|known| known.offset <= at.offset) {
            return false;
        }
        let is_first = damage.is_none();
        *damage = Some(at);
        self.is_damaged.store(true, Ordering::Release);
        is_first
    }

    pub(crate) fn hint(&self, offset: i64) -> Option<ReadHint> {
        self.hints.lock().1.iter().flatten().find(|hint| hint.offset == offset).copied()
    }

    pub(crate) fn remember(&self, hint: ReadHint) {
        let mut guard = self.hints.lock();
        let (next, hints) = &mut *guard;
        let used = *next % hints.len();
        if let Some(slot) = hints.get_mut(used) {
            *slot = Some(hint);
        }
        *next = used + 1;
    }
}
