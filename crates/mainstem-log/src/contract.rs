//! The types that the log speaks in: what goes in, what comes out, what can go wrong.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mainstem_disk::FileRange;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Commit sequence number: the place of an entry on the one time line of the process. The first entry has 1;
/// [`Csn::ZERO`] is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Csn(pub u64);

impl Csn {
    /// Before the first entry.
    pub const ZERO: Csn = Csn(0);

    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Csn {
        Csn(self.0 + 1)
    }
}

impl fmt::Display for Csn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Kafka's topic id. Never reused: a topic that is deleted and created again has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// Partition number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    #[must_use]
    pub fn new(topic: TopicId, partition: i32) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// What one entry appends to one partition.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where to. The partition must exist ([`crate::Log::create_partition`]).
    pub to: TopicPartition,
    /// One or more whole record batches (Kafka v2), CRC already verified, base offsets arbitrary: the log gives the
    /// offsets and patches base offset and leader epoch, nothing else.
    pub batches: Bytes,
}

/// Whether one part that cannot be appended refuses the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomicity {
    /// All parts or none: what belongs together (a transaction, outputs with their cut, DDL with its topics).
    Whole,
    /// Each part on its own: a Kafka produce request. The parts that pass share one CSN.
    EachPart,
}

/// Something that must hold for an entry at the moment its CSN is given. A condition that fails refuses the whole entry.
#[derive(Clone)]
pub enum Condition {
    /// The next offset of the partition, counting entries accepted and not yet durable.
    EndOffset {
        /// The partition asked about.
        of: TopicPartition,
        /// What its next offset must be.
        is: i64,
    },
    /// Anything else an owner of state can decide at once: version of a key, epoch of an output. Called with the CSN the
    /// entry would get, under the log's sequencing lock: it must not block and must not call the log.
    Guard(Arc<dyn Fn(Csn) -> Result<(), String> + Send + Sync>),
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::EndOffset { of, is } => write!(f, "EndOffset({of} is {is})"),
            Condition::Guard(_) => f.write_str("Guard"),
        }
    }
}

/// One atomic append.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What to append, at most once per partition.
    pub parts: Vec<Part>,
    /// What must hold for it.
    pub conditions: Vec<Condition>,
    /// Whether parts stand or fall together.
    pub atomicity: Atomicity,
}

/// The answer for one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Offset of the first record. For a duplicate the offset it was given the first time.
    pub base_offset: i64,
    /// Offset after the last record of the part.
    pub end_offset: i64,
    /// Whether an idempotent producer had sent it before; nothing was appended.
    pub is_duplicate: bool,
}

/// An entry that has its place, not yet durable.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Its place. For an entry of duplicates only, the CSN that must be durable before it is answered.
    pub csn: Csn,
    /// One answer per part, in order.
    pub parts: Vec<Result<Placed, PartError>>,
}

/// Called once, when the entry is durable and visible (`Ok`), or when it never will be (`Err`: the log has stopped).
/// Runs on the log's commit thread: it must be quick and must not call [`crate::Log::append`].
pub type Done = Box<dyn FnOnce(Result<Csn, Stopped>) + Send>;

/// Why the whole entry was refused. Nothing was appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A condition does not hold.
    #[error("condition not met: {0}")]
    Conflict(String),
    /// With [`Atomicity::Whole`], the first part that cannot be appended.
    #[error("part {index}: {error}")]
    Part {
        /// Which part.
        index: usize,
        /// Why.
        error: PartError,
    },
    /// The entry is larger than an entry may be; spooled atoms are not written yet.
    #[error("an entry of {bytes} bytes exceeds the limit of {limit} bytes; write it in smaller parts")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// No space for it beyond the reserve. Reads go on; appends resume when space returns.
    #[error("no space left on the disk of the data directory; free some space, writes then resume by themselves")]
    DiskFull,
    /// The log has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why one part was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// No such partition.
    #[error("unknown partition")]
    UnknownPartition,
    /// The partition stopped at damage that recovery or a read found.
    #[error("the partition is damaged and accepts no appends")]
    Damaged,
    /// The bytes are not whole, valid batches.
    #[error("corrupt record batch")]
    CorruptBatch,
    /// The sequence number is not the one that follows.
    #[error("out of order sequence number: expected {expected}, got {got}")]
    OutOfOrderSequence {
        /// What would have followed.
        expected: i32,
        /// What came.
        got: i32,
    },
    /// An older incarnation of the producer.
    #[error("producer epoch {got} is older than {current}")]
    InvalidProducerEpoch {
        /// The newest known.
        current: i16,
        /// What came.
        got: i16,
    },
    /// A sequence below the five batches that are remembered: it was appended, its offset is forgotten.
    #[error("duplicate sequence number, its offset is no longer known")]
    DuplicateSequence,
}

/// The log has stopped for good: closed, or a write or sync failed. The process has to be restarted.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log has stopped: {reason}")]
pub struct Stopped {
    /// Why, for the operator.
    pub reason: Arc<str>,
}

/// Who needs space that others may not use: a reserve is kept for the small writes that let users get out of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Records of users.
    Ordinary,
    /// Offset commits, deletes, checkpoints: may use the reserve.
    Reserve,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub struct Read<B = Bytes> {
    /// Whole batches as stored; the first may begin before the asked offset (Kafka's rule). Empty at the end.
    pub batches: B,
    /// Where to read on.
    pub next_offset: i64,
    /// The high watermark when the read began.
    pub high_watermark: i64,
    /// First offset that still exists.
    pub start_offset: i64,
}

/// Batches, read or left where they are.
#[derive(Clone, Debug)]
pub enum Stored {
    /// Read.
    Memory(Bytes),
    /// Their headers were seen in this life.
    File(FileRange),
}

impl Stored {
    /// Bytes of the batches.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Stored::Memory(batches) => batches.len(),
            Stored::File(range) => range.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// No such partition.
    #[error("unknown partition {0}")]
    UnknownPartition(TopicPartition),
    /// The offset is below the start (trimmed) or above the end.
    #[error("offset {offset} is outside {start}..{end}")]
    OutOfRange {
        /// What was asked for.
        offset: i64,
        /// First offset that exists.
        start: i64,
        /// High watermark.
        end: i64,
    },
    /// The stored bytes are damaged here. Earlier offsets can still be read.
    #[error("partition {partition} is damaged at offset {offset}: {place}")]
    Damaged {
        /// The partition.
        partition: TopicPartition,
        /// First offset that cannot be read.
        offset: i64,
        /// File and byte position.
        place: String,
    },
    /// The operating system's error.
    #[error("reading {place}: {source}")]
    Io {
        /// Which file.
        place: String,
        /// The error.
        source: Arc<std::io::Error>,
    },
}

/// A partition as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// First offset that still exists.
    pub start_offset: i64,
    /// End of what may be read.
    pub high_watermark: i64,
    /// Next offset to be given (accepted, perhaps not yet durable).
    pub end_offset: i64,
    /// Bytes on disk, all segments.
    pub bytes: u64,
    /// Largest record timestamp at or below the high watermark, -1 when none.
    pub max_timestamp: i64,
    /// Compaction has removed records below this offset, 0 when it never has: who needs all of the history from an earlier
    /// offset on cannot have it. Nothing at or above a hold is ever below it.
    pub compacted_below: i64,
}

/// One step of the order: what an entry added to one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderStep {
    /// The entry.
    pub csn: Csn,
    /// The partition.
    pub partition: TopicPartition,
    /// The partition's next offset after the entry.
    pub end_offset: i64,
}

/// When a partition is compacted, which keeps the last record of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// `delete.retention.ms`: how long a tombstone stays after it was first compacted, so that readers that are behind
    /// hear of it.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`: records younger than this stay.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`: a record older than this is compacted, however little there is to gain; `None` for never.
    pub max_lag_ms: Option<i64>,
    /// `min.cleanable.dirty.ratio`, in millionths: bytes that were not compacted yet, of all that could be.
    pub min_dirty_millionths: u32,
    /// `segment.ms`: the active segment is sealed when its first record is older than this, or than `max_lag_ms`.
    pub segment_ms: Option<i64>,
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self {
            delete_retention_ms: 24 * 3600 * 1000,
            min_lag_ms: 0,
            max_lag_ms: None,
            min_dirty_millionths: 500_000,
            segment_ms: Some(7 * 24 * 3600 * 1000),
        }
    }
}

/// Limits of one partition's segments, retention and compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionConfig {
    /// A segment is sealed when it has reached this size.
    pub segment_bytes: u64,
    /// Sealed segments whose newest record is older are removed; `None` keeps them for ever.
    pub retention_ms: Option<i64>,
    /// The oldest sealed segments are removed while the partition is larger than this; `None` keeps them for ever.
    pub retention_bytes: Option<u64>,
    /// Whether and when it is compacted. Compaction and retention do not exclude one another.
    pub compaction: Option<CompactionConfig>,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, retention_ms: None, retention_bytes: None, compaction: None }
    }
}

/// Limits of the log as a whole.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Size of one commit log file, preallocated and recycled.
    pub commit_file_bytes: u64,
    /// An entry of which each part goes alone is at most this large, and so is every batch.
    pub entry_bytes_max: usize,
    /// A whole entry is at most this large. Beyond `entry_bytes_max` it is spooled: written in several blocks, of which the
    /// last publishes it. It is in memory twice while it is written, and all other entries wait.
    pub atom_bytes_max: usize,
    /// From this size on the batches of a part are placed: written once, to their segment, which costs a sync of its own.
    pub placed_bytes_min: usize,
    /// Accepted and not yet durable; beyond it `append` waits.
    pub backlog_bytes_max: usize,
    /// Commit log bytes after which a checkpoint is due.
    pub checkpoint_bytes: u64,
    /// Space kept free for [`Urgency::Reserve`].
    pub reserve_bytes: u64,
    /// Bytes between two entries of an offset or time index.
    pub index_interval_bytes: u64,
    /// `log.cleaner.dedupe.buffer.size`: memory for the keys of a compaction, 24 bytes for each; more keys take more passes.
    pub compaction_map_bytes: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            commit_file_bytes: 64 << 20,
            entry_bytes_max: 16 << 20,
            atom_bytes_max: 256 << 20,
            placed_bytes_min: 256 << 10,
            backlog_bytes_max: 64 << 20,
            checkpoint_bytes: 64 << 20,
            reserve_bytes: 16 << 20,
            index_interval_bytes: 4096,
            compaction_map_bytes: 32 << 20,
        }
    }
}

impl LogConfig {
    /// Space that a spooled entry of so many bytes takes in the commit log, with the files that are begun for it.
    pub(crate) fn spool_bytes(&self, bytes: usize) -> u64 {
        let files = 2 * self.commit_file_bytes + self.reserve_bytes + self.backlog_bytes_max as u64;
        files.saturating_add(bytes as u64)
    }
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The checkpoint that recovery began from.
    pub checkpoint: Csn,
    /// The newest entry that was accepted.
    pub last: Csn,
    /// Entries applied after the checkpoint.
    pub entries_applied: u64,
    /// Bytes of the commit log that were read.
    pub bytes_scanned: u64,
    /// Bytes of a torn tail that were cut; they were never acknowledged.
    pub torn_bytes_cut: u64,
    /// Damage found: file, byte position, meaning.
    pub damage: Vec<Damage>,
}

/// Stored bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File, relative to the data directory.
    pub file: String,
    /// Byte position in it.
    pub position: u64,
    /// The partition that stops there, if one can be told.
    pub partition: Option<TopicPartition>,
    /// What it means, for the operator.
    pub meaning: String,
}

/// Counters, for `/metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogCounters {
    /// Entries accepted.
    pub entries: u64,
    /// Commit log writes (each one write and one sync).
    pub commits: u64,
    /// Bytes written to the commit log.
    pub commit_bytes: u64,
    /// Bytes written to segments.
    pub segment_bytes: u64,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Newest durable and visible CSN.
    pub visible_csn: u64,
    /// Microseconds spent in `fdatasync` of the commit log, in all.
    pub sync_us: u64,
    /// Partitions that stopped at damage.
    pub damaged_partitions: u64,
    /// Appends refused with [`AppendError::DiskFull`].
    pub refused_for_space: u64,
    /// Bytes of the commit log that the start read.
    pub recovery_bytes: u64,
    /// Entries that the start applied.
    pub recovery_entries: u64,
    /// Bytes of segments that compaction has replaced.
    pub compacted_bytes: u64,
    /// Bytes by which they became smaller.
    pub compaction_removed_bytes: u64,
}

/// Why the log could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system's error.
    #[error("{place}: {source}")]
    Io {
        /// Which file.
        place: String,
        /// The error.
        source: Arc<std::io::Error>,
    },
    /// Damage that leaves nothing to begin from.
    #[error("{place} is damaged: {meaning}")]
    Damaged {
        /// Which file.
        place: String,
        /// What it means, for the operator.
        meaning: String,
    },
    /// Written by a later version of the program.
    #[error("{place} was written by a later version of mainstem (format {version}); use that version")]
    LaterVersion {
        /// Which file.
        place: String,
        /// Its format.
        version: u32,
    },
}

/// Why [`crate::Log::delete_records`] removed nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeleteRecordsError {
    /// No such partition.
    #[error("unknown partition {0}")]
    UnknownPartition(TopicPartition),
    /// Below 0, or behind the end.
    #[error("offset {offset} is outside 0..={end}")]
    OutOfRange {
        /// What was asked for.
        offset: i64,
        /// High watermark.
        end: i64,
    },
    /// A view still reads what would go.
    #[error("offset {offset} is behind {held_from}, from which on a view still needs the records")]
    Held {
        /// What was asked for.
        offset: i64,
        /// The first offset that is held.
        held_from: i64,
    },
    /// A damaged partition keeps everything.
    #[error("partition {0} is damaged")]
    Damaged(TopicPartition),
    /// The log has stopped; whether the records are gone shows after a restart.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What [`crate::Log::apply_retention`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionReport {
    /// Segments removed.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Partitions where a hold kept segments that retention would have removed.
    pub held_partitions: u64,
}

/// What a call of [`crate::Log::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Whether nothing is left to do for now; else call again.
    pub is_done: bool,
    /// Runs through a partition that came to their end.
    pub runs: u64,
    /// Segments that were replaced.
    pub segments: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Bytes of those in their place.
    pub bytes_after: u64,
    /// Records removed: a later one of the same key is there, or they lay below the start.
    pub records_removed: u64,
    /// Tombstones removed because their time was over.
    pub tombstones_removed: u64,
    /// Runs that were given up: a hold, retention or the deletion of the topic came between, or the disk refused.
    pub runs_abandoned: u64,
    /// Partitions where a hold kept segments from being compacted.
    pub held_partitions: u64,
}
