//! Segments: the files that hold a partition's batches in Kafka's format, one batch after the other.
//!
//! Words: a segment's *base offset* is that of its first record and its file name; the last segment of a partition is
//! *active*, the others are *sealed* and never change. Compaction writes sealed segments anew, as files of a higher
//! *generation* (the active one has 0). Files are opened when first needed; at most [`OPEN_MAX`] stay open.
//!
//! Always true here: bytes below `len` are those of entries that are durable in the commit log, or what compaction left of
//! such; the offsets of a segment's batches follow one another without a gap, also where records are gone: a batch
//! without records covers them, so that a hole can be told from damage.

mod index;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

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

/// The extensions of a segment's files.
pub(crate) const EXTENSIONS: [&str; 3] = ["log", "index", "timeindex"];
/// No tombstone waits in a segment.
pub(crate) const NO_HORIZON: i64 = i64::MAX;

/// What tells the segments of a partition apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub(crate) base_offset: i64,
    /// 0 as appended, then one more with each compaction.
    pub(crate) generation: u32,
}

impl SegmentName {
    /// As it was appended.
    pub(crate) fn first(base_offset: i64) -> Self {
        Self { base_offset, generation: 0 }
    }

    /// The name that a file of a segment says; `None` for other files.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let (stem, extension) = name.split_once('.')?;
        if !EXTENSIONS.contains(&extension) {
            return None;
        }
        let (digits, generation) = match stem.split_once('-') {
            Some((digits, generation)) if generation.len() == 8 => (digits, generation.parse().ok()?),
            Some(_) => return None,
            None => (stem, 0),
        };
        let base_offset = if digits.len() == 20 { digits.parse().ok()? } else { return None };
        Some(Self { base_offset, generation })
    }

    /// The path of one of its files.
    pub(crate) fn path(self, partition: TopicPartition, extension: &str) -> String {
        let Self { base_offset, generation } = self;
        let dir = partition_dir(partition);
        match generation {
            0 => format!("{dir}/{base_offset:020}.{extension}"),
            _ => format!("{dir}/{base_offset:020}-{generation:08}.{extension}"),
        }
    }
}

/// What is known of a segment while it is closed.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) partition: TopicPartition,
    pub(crate) base_offset: i64,
    pub(crate) generation: u32,
    /// From when on a tombstone in it may go; [`NO_HORIZON`] for never.
    pub(crate) delete_horizon: i64,
    len: AtomicU64,
    max_timestamp: AtomicI64,
    /// Largest timestamp of its first batch, once somebody has asked.
    first_timestamp: OnceLock<i64>,
    /// Its files are about to go: they are not kept open any more.
    is_gone: AtomicBool,
}

impl Segment {
    pub(crate) fn new(partition: TopicPartition, base_offset: i64, len: u64, max_timestamp: i64) -> Self {
        Self::named(partition, SegmentName::first(base_offset), NO_HORIZON, len, max_timestamp)
    }

    /// One that compaction has written, or any that a checkpoint names.
    pub(crate) fn named(
        partition: TopicPartition,
        name: SegmentName,
        delete_horizon: i64,
        len: u64,
        max_timestamp: i64,
    ) -> Self {
        Self {
            partition,
            base_offset: name.base_offset,
            generation: name.generation,
            delete_horizon,
            len: AtomicU64::new(len),
            max_timestamp: AtomicI64::new(max_timestamp),
            first_timestamp: OnceLock::new(),
            is_gone: AtomicBool::new(false),
        }
    }

    pub(crate) fn name(&self) -> SegmentName {
        SegmentName { base_offset: self.base_offset, generation: self.generation }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(crate) fn max_timestamp(&self) -> i64 {
        self.max_timestamp.load(Ordering::Acquire)
    }

    /// The largest timestamp of its first batch, read by `read` when it is not known.
    pub(crate) fn first_timestamp(&self, read: impl FnOnce() -> Option<i64>) -> Option<i64> {
        if let Some(known) = self.first_timestamp.get() {
            return Some(*known);
        }
        let first = read()?;
        Some(*self.first_timestamp.get_or_init(|| first))
    }

    pub(crate) fn grow(&self, len: u64, max_timestamp: i64) {
        self.max_timestamp.fetch_max(max_timestamp, Ordering::AcqRel);
        self.len.store(len, Ordering::Release);
    }

    pub(crate) fn path(&self) -> String {
        self.name().path(self.partition, "log")
    }

    /// All its files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> + '_ {
        EXTENSIONS.iter().map(|extension| self.name().path(self.partition, extension))
    }
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) file: Arc<dyn DiskFile>,
    /// Loaded when first needed.
    pub(crate) index: Mutex<Option<SegmentIndex>>,
}

type Key = (TopicPartition, SegmentName);

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
        let key = (segment.partition, segment.name());
        if let Some(open) = self.touch(key) {
            return Ok(open);
        }
        let file = self.disk.open(&segment.path(), Open::Write)?;
        Ok(self.insert(segment, file, None))
    }

    /// Opens a segment for its first bytes, with an empty index. The names become durable with the next checkpoint.
    pub(crate) fn create(&self, segment: &Segment) -> io::Result<Arc<OpenSegment>> {
        self.disk.create_dir_all(&partition_dir(segment.partition))?;
        let file = self.disk.open(&segment.path(), Open::Create)?;
        let index = SegmentIndex::new(segment.base_offset);
        Ok(self.insert(segment, file, Some(index)))
    }

    /// Opens a segment that compaction writes.
    pub(crate) fn create_compacted(&self, segment: &Segment) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(&segment.path(), Open::Create)?;
        file.set_len(0)?;
        Ok(file)
    }

    /// Closes a segment whose files go away. Who has it open reads on.
    pub(crate) fn forget(&self, segment: &Segment) {
        let mut recent = self.recent.lock();
        segment.is_gone.store(true, Ordering::Release);
        if let Some((_, used)) = recent.open.remove(&(segment.partition, segment.name())) {
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

    fn insert(&self, segment: &Segment, file: Arc<dyn DiskFile>, index: Option<SegmentIndex>) -> Arc<OpenSegment> {
        let key = (segment.partition, segment.name());
        let open = Arc::new(OpenSegment { file, index: Mutex::new(index) });
        let mut recent = self.recent.lock();
        if segment.is_gone.load(Ordering::Acquire) {
            return open;
        }
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
