//! The log as the engine sees it: two traits, so that the same engine runs on the embedded log and, later, on a Kafka
//! cluster (DESIGN section 8).
//!
//! Words: a [`Cut`] is how far all inputs have been consumed, opaque here: a CSN on the embedded log. A *position* is the
//! next offset of one partition as of a cut. An *output* is a named series of commits, each of which moves the output's
//! *committed cut*: that is how "appended once" survives a replay.
//!
//! Always true here: a cut never stands inside an entry; positions never go back as cuts go on; the engine never invents an
//! offset; what `read` gives is durable, and whole and undamaged as far as the log can tell.

use std::fmt::Debug;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How far an input has been consumed. Opaque outside the log; a CSN on the embedded log. [`Cut::ZERO`] is before
/// everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cut(pub u64);

impl Cut {
    /// Before the first entry.
    pub const ZERO: Cut = Cut(0);
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// Why the log could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No such topic or partition.
    #[error("partition {partition} of topic {topic} does not exist")]
    UnknownPartition {
        /// Topic.
        topic: Uuid,
        /// Partition.
        partition: i32,
    },
    /// The offset is gone: retention was faster than the reader.
    #[error("offset {offset} of partition {partition} of topic {topic} is gone, the first that exists is {start}")]
    Trimmed {
        /// Topic.
        topic: Uuid,
        /// Partition.
        partition: i32,
        /// What was asked for.
        offset: i64,
        /// The first offset that still exists.
        start: i64,
    },
    /// Stored bytes are not what was written. Earlier offsets can still be read, later ones never.
    #[error("partition {partition} of topic {topic} is damaged at offset {offset}: {place}")]
    Damaged {
        /// Topic.
        topic: Uuid,
        /// Partition.
        partition: i32,
        /// First offset that cannot be read.
        offset: i64,
        /// Where on disk, and how it shows.
        place: String,
    },
    /// Anything else: the operating system's error, or the log has stopped.
    #[error("{0}")]
    Failed(String),
}

/// One record as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` deletes the key of a table.
    pub value: Option<Bytes>,
}

/// Records of one partition, in offset order, offsets possibly with holes.
#[derive(Clone, Debug, Default)]
pub struct Batches {
    /// The records; keys and values are slices of the batches they came in.
    pub records: Vec<LogRecord>,
    /// Batches whose records cannot be read though they are what the producer sent; they count as one rejected record each.
    pub unreadable: Vec<UnreadableBatch>,
    /// Where to read on. Beyond the last record's offset where holes follow.
    pub next_offset: i64,
}

/// A batch that came broken from its producer: it does not decompress, or its records are malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableBatch {
    /// First offset.
    pub first: i64,
    /// Last offset.
    pub last: i64,
    /// Why.
    pub reason: String,
}

/// Keeps retention away from offsets that a reader still needs; dropping it lets them go.
pub trait Hold: Debug + Send + Sync {
    /// Offsets below `from` are needed no more.
    fn advance(&self, from: i64);
}

/// The reading side of the log. All methods may be called from any thread; they block only for the disk.
pub trait InputLog: Debug + Send + Sync + 'static {
    /// The newest cut that is durable and visible.
    fn newest(&self) -> Cut;
    /// The next cut after `after`, at most `entries_max` entries further, never inside an entry; `None` when there is
    /// nothing new.
    fn next_cut(&self, after: Cut, entries_max: usize) -> Result<Option<Cut>, LogError>;
    /// The partitions of a topic, ascending; empty when it does not exist.
    fn partitions(&self, topic: Uuid) -> Vec<i32>;
    /// The partition's next offset as of the cut, which must not be newer than [`InputLog::newest`].
    fn position(&self, topic: Uuid, partition: i32, at: Cut) -> Result<i64, LogError>;
    /// [`InputLog::position`] of many partitions at once.
    fn positions(&self, of: &[(Uuid, i32)], at: Cut) -> Result<Vec<i64>, LogError> {
        of.iter().map(|(topic, partition)| self.position(*topic, *partition, at)).collect()
    }
    /// The first offset that still exists; 0 when there is no such partition.
    fn start(&self, topic: Uuid, partition: i32) -> i64;
    /// Compaction has removed records below this offset; 0 when it never has.
    fn compacted_below(&self, _topic: Uuid, _partition: i32) -> i64 {
        0
    }
    /// Records from offset `from` up to, not including, offset `until` (a position), about `bytes_max` bytes of them and
    /// at least one batch. `next_offset` is at most `until`; it equals `until` when all was read. Checksums are verified.
    fn read(&self, topic: Uuid, partition: i32, from: i64, until: i64, bytes_max: usize) -> Result<Batches, LogError>;
    /// About how many bytes the records from `from` up to, not including, `until` are.
    fn bytes(&self, topic: Uuid, partition: i32, from: i64, until: i64) -> u64;
    /// Calls `wake` after [`InputLog::newest`] has advanced, perhaps once for several cuts. `wake` is quick.
    fn on_advance(&self, wake: Box<dyn Fn() + Send + Sync>);
    /// Keeps offsets from `from` on.
    fn hold(&self, topic: Uuid, partition: i32, from: i64) -> Box<dyn Hold>;
}

/// One record to append.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OutRecord {
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<(String, Bytes)>,
    /// Milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: i64,
}

/// What one commit appends to one partition.
#[derive(Clone, Debug)]
pub struct TopicAppend {
    /// Topic.
    pub topic: Uuid,
    /// Partition.
    pub partition: i32,
    /// At least one.
    pub records: Vec<OutRecord>,
    /// The partition's next offset must be this when the commit gets its place, else [`CommitError::Conflict`].
    pub expected_end: Option<i64>,
}

/// How a commit moves an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputStep {
    /// Which output.
    pub output: String,
    /// The committed cut it must have now, else [`CommitError::Fenced`].
    pub expected: Cut,
    /// The committed cut it has from then on.
    pub new: Cut,
    /// What one commit does not hold comes in parts: all but the last keep the committed cut and say how far they are.
    pub ahead: Option<Ahead>,
}

/// How far an output is on its way from its committed cut to a next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The next committed cut.
    pub to: Cut,
    /// Records of that way which are appended.
    pub records: u64,
}

/// One atomic append.
#[derive(Clone, Debug)]
pub struct OutputCommit {
    /// The output whose cut moves with it, if it belongs to one.
    pub output: Option<OutputStep>,
    /// What to append; at most one per partition.
    pub appends: Vec<TopicAppend>,
    /// Partitions that must end here, whether or not something is appended to them.
    pub unchanged: Vec<EndOfPartition>,
}

/// Where a partition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfPartition {
    /// The topic.
    pub topic: Uuid,
    /// The partition.
    pub partition: i32,
    /// The offset of the record that would come next.
    pub end: i64,
}

/// A commit that has its place and is not yet durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedCommit {
    /// The cut that holds it.
    pub cut: Cut,
    /// First offset of each append.
    pub base_offsets: Vec<i64>,
}

/// Why a commit was refused or lost. Nothing was appended, unless the log stopped while it was being made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another has moved the output.
    #[error("the output stands at cut {committed}")]
    Fenced {
        /// Where it stands.
        committed: Cut,
    },
    /// A partition is not where it was expected.
    #[error("conflict: {0}")]
    Conflict(String),
    /// Larger than a commit may be.
    #[error("{0}")]
    TooLarge(String),
    /// The disk is full; appends resume when there is space.
    #[error("{0}")]
    DiskFull(String),
    /// The log has stopped, or refuses for another reason.
    #[error("{0}")]
    Failed(String),
}

/// Told once when a commit is durable and visible, or never will be. It is quick and appends nothing itself.
pub type CommitDone = Box<dyn FnOnce(Result<Cut, CommitError>) + Send>;

/// The writing side of the log.
pub trait OutputLog: Debug + Send + Sync + 'static {
    /// Appends all of the commit as one atom, conditions judged at the moment its place is given. Returns when it has its
    /// place; `done` is called when it is durable. `done` is not called when this returns an error.
    fn commit(&self, commit: OutputCommit, done: CommitDone) -> Result<AcceptedCommit, CommitError>;
    /// The committed cut of an output, durable; [`Cut::ZERO`] for one that never committed.
    fn committed(&self, output: &str) -> Result<Cut, CommitError>;
    /// How far an output is beyond its committed cut, durable: the [`OutputStep::ahead`] of its last commit. A log that does
    /// not keep it refuses commits that have it.
    fn ahead(&self, _output: &str) -> Result<Option<Ahead>, CommitError> {
        Ok(None)
    }
}

impl dyn OutputLog {
    /// Commits and waits until it is durable. Not to be called from the log's own threads.
    pub fn commit_and_wait(&self, commit: OutputCommit) -> Result<AcceptedCommit, CommitError> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let accepted = self.commit(
            commit,
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        )?;
        let lost = || CommitError::Failed("the log dropped a commit".to_owned());
        receiver.recv().map_err(|_| lost())??;
        Ok(accepted)
    }
}
