//! One partition as readers see it.
//!
//! Always true here: the high watermark only grows, and only after the batches below it stand in their segments; the
//! start offset only grows; a partition that is damaged at an offset is never read or written from there on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::segment::Segment;
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
    pub(crate) segment: i64,
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

    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.read().iter().map(|segment| segment.len()).sum()
    }

    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        self.segments.write().push(segment);
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
