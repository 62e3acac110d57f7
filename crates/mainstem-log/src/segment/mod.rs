//! Segments: the files that hold a partition's batches in Kafka's format, one batch after the other.
//!
//! Words: a segment's *base offset* is that of its first record and its file name; the last segment of a partition is
//! *active*, the others are *sealed* and never change. Files are opened when first needed; at most [`OPEN_MAX`] stay open.
//!
//! Always true here: bytes below `len` were durable in the commit log when they were written; the offsets of a
//! segment's batches follow one another without a gap.

mod index;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use mainstem_disk::{Disk, DiskFile, Open};
use mainstem_kafka_wire::batch::{BatchHeader, HEADER_BYTES};
use parking_lot::Mutex;

use crate::{TopicId, TopicPartition};

pub(crate) use index::SegmentIndex;

/// Where partitions live.
pub(crate) const TOPICS_DIR: &str = "topics";
/// Segments that stay open.
const OPEN_MAX: usize = 512;
/// Positions in an index are 32 bits wide.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 31;

/// The directory of a partition.
pub(crate) fn partition_dir(partition: TopicPartition) -> String {
    format!("{TOPICS_DIR}/{}/{}", partition.topic, partition.partition)
}

/// A file of a segment.
pub(crate) fn segment_path(partition: TopicPartition, base_offset: i64, extension: &str) -> String {
    format!("{}/{base_offset:020}.{extension}", partition_dir(partition))
}

/// The base offset that a segment's file name says; `None` for other files.
pub(crate) fn base_offset_of(name: &str) -> Option<i64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() == 20 { digits.parse().ok() } else { None }
}

/// What is known of a segment while it is closed.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) partition: TopicPartition,
    pub(crate) base_offset: i64,
    len: AtomicU64,
    max_timestamp: AtomicI64,
}

impl Segment {
    pub(crate) fn new(partition: TopicPartition, base_offset: i64, len: u64, max_timestamp: i64) -> Self {
        Self { partition, base_offset, len: AtomicU64::new(len), max_timestamp: AtomicI64::new(max_timestamp) }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(crate) fn max_timestamp(&self) -> i64 {
        self.max_timestamp.load(Ordering::Acquire)
    }

    pub(crate) fn grow(&self, len: u64, max_timestamp: i64) {
        self.max_timestamp.fetch_max(max_timestamp, Ordering::AcqRel);
        self.len.store(len, Ordering::Release);
    }

    pub(crate) fn path(&self) -> String {
        segment_path(self.partition, self.base_offset, "log")
    }
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) file: Arc<dyn DiskFile>,
    /// Loaded when first needed.
    pub(crate) index: Mutex<Option<SegmentIndex>>,
}

type Key = (TopicPartition, i64);

#[derive(Debug, Default)]
struct Recent {
    open: BTreeMap<Key, (Arc<OpenSegment>, u64)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
}

/// The open segments, the least recently used closed first.
#[derive(Debug)]
pub(crate) struct OpenSegments {
    disk: Arc<dyn Disk>,
    recent: Mutex<Recent>,
}

impl OpenSegments {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, recent: Mutex::default() }
    }

    /// Opens a segment that exists.
    pub(crate) fn open(&self, segment: &Segment) -> io::Result<Arc<OpenSegment>> {
        let key = (segment.partition, segment.base_offset);
        if let Some(open) = self.touch(key) {
            return Ok(open);
        }
        let file = self.disk.open(&segment.path(), Open::Write)?;
        Ok(self.insert(key, file, None))
    }

    /// Opens a segment for its first bytes, with an empty index. The names become durable with the next checkpoint.
    pub(crate) fn create(&self, segment: &Segment) -> io::Result<Arc<OpenSegment>> {
        self.disk.create_dir_all(&partition_dir(segment.partition))?;
        let file = self.disk.open(&segment.path(), Open::Create)?;
        let index = SegmentIndex::new(segment.base_offset);
        Ok(self.insert((segment.partition, segment.base_offset), file, Some(index)))
    }

    /// Closes a segment whose file goes away.
    pub(crate) fn forget(&self, partition: TopicPartition, base_offset: i64) {
        let mut recent = self.recent.lock();
        if let Some((_, used)) = recent.open.remove(&(partition, base_offset)) {
            recent.by_use.remove(&used);
        }
    }

    /// Closes all segments of a topic.
    pub(crate) fn forget_topic(&self, topic: TopicId) {
        let mut guard = self.recent.lock();
        let recent = &mut *guard;
        recent.open.retain(|(partition, _), _| partition.topic != topic);
        recent.by_use.retain(|_, (partition, _)| partition.topic != topic);
    }

    fn touch(&self, key: Key) -> Option<Arc<OpenSegment>> {
        let mut guard = self.recent.lock();
        let recent = &mut *guard;
        recent.uses += 1;
        let (open, used) = recent.open.get_mut(&key)?;
        recent.by_use.remove(used);
        *used = recent.uses;
        recent.by_use.insert(recent.uses, key);
        Some(Arc::clone(open))
    }

    fn insert(&self, key: Key, file: Arc<dyn DiskFile>, index: Option<SegmentIndex>) -> Arc<OpenSegment> {
        let open = Arc::new(OpenSegment { file, index: Mutex::new(index) });
        let mut recent = self.recent.lock();
        recent.uses += 1;
        let used = recent.uses;
        if let Some((_, old)) = recent.open.insert(key, (Arc::clone(&open), used)) {
            recent.by_use.remove(&old);
        }
        recent.by_use.insert(used, key);
        while recent.open.len() > OPEN_MAX {
            let Some((_, oldest)) = recent.by_use.pop_first() else { break };
            recent.open.remove(&oldest);
        }
        open
    }
}

/// Why a walk over batch headers ended early.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    /// What stands at `position` is not the batch that begins at `offset`.
    Damaged {
        position: u64,
        offset: i64,
    },
}

/// A walk over the batch headers of a segment.
#[derive(Debug)]
pub(crate) struct HeaderScan<'a> {
    pub(crate) file: &'a Arc<dyn DiskFile>,
    /// Where the next batch begins.
    pub(crate) position: u64,
    /// Where the batches end.
    pub(crate) end: u64,
    /// The base offset that the next batch must have.
    pub(crate) offset: i64,
}

impl HeaderScan<'_> {
    /// The next batch's header and position; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(BatchHeader, u64)>, ScanError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let (position, offset) = (self.position, self.offset);
        let mut bytes = [0; HEADER_BYTES];
        match self.file.read_exact_at(&mut bytes, position) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ScanError::Damaged { position, offset });
            }
            Err(error) => return Err(ScanError::Io(error)),
        }
        match parse_at(&bytes, offset) {
            Some(header) if position + header.total_bytes() as u64 <= self.end => {
                self.position += header.total_bytes() as u64;
                self.offset = header.next_offset();
                Ok(Some((header, position)))
            }
            _ => Err(ScanError::Damaged { position, offset }),
        }
    }
}

/// The header at the front of `bytes` if it is of a batch that begins at `offset`.
pub(crate) fn parse_at(bytes: &[u8], offset: i64) -> Option<BatchHeader> {
    let header = BatchHeader::parse(bytes).ok()?;
    (header.base_offset == offset && header.last_offset_delta >= 0 && header.next_offset() > offset).then_some(header)
}
