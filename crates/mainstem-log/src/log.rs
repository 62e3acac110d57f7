//! The log's handle: what the other crates call.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use mainstem_disk::{Clock, Disk};
use mainstem_kafka_wire::batch::BatchHeader;

use crate::hold::{Hold, Holds};
use crate::partition::DamagedAt;
use crate::read::Wanted;
use crate::recovery::recover;
use crate::sequence::{Headers, Limits, headers_of};
use crate::shared::{Listener, Shared};
use crate::{
    Accepted, AppendError, Atomicity, CompactionReport, Csn, DeleteRecordsError, Done, Entry, LogConfig, LogCounters,
    OpenError, OrderStep, PartitionConfig, PartitionState, Read, ReadError, RecoveryReport, RetentionReport, Stopped,
    Stored, TopicId, TopicPartition, Urgency,
};

/// With more segments than this to sync, a stop leaves the checkpoint to the next start.
const STOP_SYNCS_MAX: usize = 256;

/// A handle to the log; clones share it.
///
/// The log works in one of two ways: [`Log::start`] spawns the threads that commit and take checkpoints, or the owner
/// calls [`Log::commit_once`] by hand, as the simulation does.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

/// The log's threads. Dropping it finishes the queue and joins them; the log then accepts no more. [`Log::stop`] before it
/// saves the next start the work of recovery.
#[derive(Debug)]
pub struct CommitThread {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Log {
    /// Recovers what is on `disk` and opens it. The caller tells the operator of the damage in the report. When this returns,
    /// everything that was recovered is durable and visible.
    /// The caller keeps other processes out of the directory.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: LogConfig,
    ) -> Result<(Log, RecoveryReport), OpenError> {
        let (shared, report) = recover(disk, clock, config)?;
        shared.counters.set_recovery(&report);
        Ok((Log { shared: Arc::new(shared) }, report))
    }

    /// Declares that a partition exists; its directory is made when it is first written. Doing it again changes the
    /// configuration only. Data of partitions that are never declared stays untouched.
    pub fn create_partition(&self, partition: TopicPartition, config: PartitionConfig) {
        self.shared.create_partition(partition, config);
    }

    /// Changes the limits of a partition; nothing when it does not exist. A smaller segment size takes effect with the
    /// next append.
    pub fn configure_partition(&self, partition: TopicPartition, config: PartitionConfig) {
        if let Some(partition) = self.shared.find(partition) {
            partition.configure(config);
        }
    }

    /// Topics with data or declared partitions, sorted: lets the owner of the definitions find what it has deleted and the
    /// log has not.
    pub fn topics(&self) -> Vec<TopicId> {
        let mut topics: Vec<TopicId> = self.shared.partitions.read().keys().map(|id| id.topic).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// Forgets all partitions of a topic, declared or not, and removes their files after the next checkpoint, which is
    /// asked for. Call it when the deletion is durable. Entries already accepted for the topic are still answered. Topic
    /// ids are never reused. `partitions` is how many the topic had; all that are known are removed in any case.
    pub fn delete_topic(&self, topic: TopicId, partitions: i32) {
        tracing::debug!(%topic, partitions, "topic deleted");
        self.shared.delete_topic(topic);
    }

    /// Gives the entry its CSN and offsets and queues it. Blocks only while the backlog is full ([`Log::has_room`]).
    ///
    /// `done` is called exactly once when this returns `Ok`, and dropped uncalled when it returns `Err`. It fires on the
    /// thread that commits, once the entry is durable and visible, in CSN order; for an entry of duplicates only, once the
    /// originals are; for one whose parts all failed, once everything accepted before it is.
    pub fn append(&self, entry: Entry, urgency: Urgency, done: Done) -> Result<Accepted, AppendError> {
        let shared = &*self.shared;
        let bytes: usize = entry.parts.iter().map(|part| part.batches.len()).sum();
        let headers: Vec<Headers> = entry.parts.iter().map(headers_of).collect();
        let is_spooled = self.check_size(&entry, bytes, &headers)?;
        let mut sequencer = shared.sequencer.lock();
        loop {
            sequencer.check_running()?;
            let backlog = sequencer.backlog_bytes;
            if backlog == 0 || backlog.saturating_add(bytes) <= shared.config.backlog_bytes_max {
                break;
            }
            if shared.has_threads() {
                shared.room.wait(&mut sequencer);
            } else {
                drop(sequencer);
                shared.commit_once();
                sequencer = shared.sequencer.lock();
            }
        }
        // A disk that cannot say how much is free is not refused for that: writing will tell.
        let available = || shared.storage.disk.available_bytes().unwrap_or(u64::MAX);
        let spool_bytes = if is_spooled { shared.config.spool_bytes(bytes) } else { 0 };
        let limits = Limits { reserve_bytes: shared.config.reserve_bytes, spool_bytes, available_bytes: &available };
        let accepted = sequencer.accept(entry, &headers, urgency, &limits, done)?;
        drop(sequencer);
        shared.work.notify_one();
        Ok(accepted)
    }

    /// Whether the entry is too large for a block, and yet may be written, in several.
    fn check_size(&self, entry: &Entry, bytes: usize, headers: &[Headers]) -> Result<bool, AppendError> {
        let config = &self.shared.config;
        if bytes <= config.entry_bytes_max {
            return Ok(false);
        }
        let limit = match entry.atomicity {
            Atomicity::Whole => config.atom_bytes_max.max(config.entry_bytes_max),
            Atomicity::EachPart => config.entry_bytes_max,
        };
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        let largest = headers.iter().flatten().flatten().map(BatchHeader::total_bytes).max().unwrap_or(0);
        if largest > config.entry_bytes_max {
            return Err(AppendError::TooLarge { bytes: largest, limit: config.entry_bytes_max });
        }
        Ok(true)
    }

    /// [`Log::append`], and waits until the entry is durable and visible. For threads that may block.
    pub fn append_and_wait(&self, entry: Entry, urgency: Urgency) -> Result<Accepted, AppendError> {
        let (tell, told) = mpsc::channel();
        let done: Done = Box::new(move |result| {
            // The receiver waits below.
            let _ = tell.send(result);
        });
        let accepted = self.append(entry, urgency, done)?;
        let result = loop {
            if self.shared.has_threads() {
                break told.recv().map_err(|_| mpsc::TryRecvError::Disconnected);
            }
            match told.try_recv() {
                Err(mpsc::TryRecvError::Empty) => {
                    self.shared.commit_once();
                }
                other => break other,
            }
        };
        match result {
            Ok(Ok(_)) => Ok(accepted),
            Ok(Err(stopped)) => Err(stopped.into()),
            // Dropped uncalled: the committing thread has panicked.
            Err(_) => Err(Stopped { reason: "the committing thread has failed; restart".into() }.into()),
        }
    }

    /// True when [`Log::append`] would not wait for an entry of ordinary size.
    pub fn has_room(&self) -> bool {
        let sequencer = self.shared.sequencer.lock();
        sequencer.stopped.is_some() || sequencer.backlog_bytes < self.shared.config.backlog_bytes_max / 2
    }

    /// Whether the newest append that was refused for want of space ([`LogCounters::refused_for_space`]) would find it now.
    /// Asks the disk.
    pub fn has_space(&self) -> bool {
        let Ok(available) = self.shared.storage.disk.available_bytes() else { return true };
        self.shared.sequencer.lock().has_space(available)
    }

    /// The largest entry of which each part goes alone, in bytes of batches: no batch can be larger.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        self.shared.config.entry_bytes_max
    }

    /// The partition as it stands; `None` when it does not exist.
    pub fn partition(&self, partition: TopicPartition) -> Option<PartitionState> {
        let end_offset = self.shared.sequencer.lock().partitions.get(&partition)?.end_offset;
        let partition = self.shared.find(partition)?;
        Some(PartitionState {
            start_offset: partition.start(),
            high_watermark: partition.high_watermark(),
            end_offset,
            bytes: partition.bytes(),
            max_timestamp: partition.max_timestamp(),
            compacted_below: partition.compacted_below(),
        })
    }

    /// Whole batches from the one that holds `offset`, up to the high watermark, about `bytes_max` bytes; with
    /// `at_least_one` the first batch comes even if it is larger. Answers less at the end of a segment: read on.
    ///
    /// Where compaction has removed the records at `offset`, the first batch is the next one with records, if there is one.
    /// Batches without records may follow it: they cover the offsets of what is gone.
    pub fn read(
        &self,
        partition: TopicPartition,
        offset: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Read, ReadError> {
        self.shared.read(partition, Wanted { offset, end: i64::MAX, bytes_max, at_least_one })
    }

    /// Like [`Log::read`], for who sends the batches on: of many bytes at most the headers are read, and the answer says where
    /// they stand.
    pub fn read_in_place(
        &self,
        partition: TopicPartition,
        offset: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Read<Stored>, ReadError> {
        self.shared.read_in_place(partition, Wanted { offset, end: i64::MAX, bytes_max, at_least_one })
    }

    /// Like [`Log::read`] with at least one batch, but stops at `end_offset`, which must be the end of a batch, as the
    /// order names them. When all records up to it are gone, the answer has none and goes on at `end_offset`.
    pub fn read_until(
        &self,
        partition: TopicPartition,
        offset: i64,
        end_offset: i64,
        bytes_max: usize,
    ) -> Result<Read, ReadError> {
        self.shared.read(partition, Wanted { offset, end: end_offset, bytes_max, at_least_one: true })
    }

    /// Offset and timestamp of the first visible record whose timestamp is at least `timestamp_ms`.
    pub fn offset_for_timestamp(
        &self,
        partition: TopicPartition,
        timestamp_ms: i64,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        self.shared.offset_for_timestamp(partition, timestamp_ms)
    }

    /// Everything up to this CSN is durable and visible.
    pub fn visible(&self) -> Csn {
        Csn(self.shared.visible.load(Ordering::Acquire))
    }

    /// Has `listener` called after each publication, with the new visible CSN and the partitions that advanced with their
    /// new high watermarks. It runs on the thread that commits: it must be quick and must not append.
    pub fn on_advance(&self, listener: Listener) {
        self.shared.listeners.write().push(listener);
    }

    /// The steps with CSNs in (`after`, `up_to`], never beyond what is visible: at most `limit`, but never a part of a CSN
    /// and at least one CSN if there is any. The recent past comes from memory.
    pub fn order(&self, after: Csn, up_to: Csn, limit: usize) -> Result<Vec<OrderStep>, ReadError> {
        Ok(self.shared.storage.order.steps(after, up_to.min(self.visible()), limit)?)
    }

    /// The next offset of each partition as it was when `csn` was the newest entry; 0 when it had nothing.
    pub fn ends_at(&self, csn: Csn, partitions: &[TopicPartition]) -> Result<Vec<i64>, ReadError> {
        let now = |id| self.shared.partitions.read().get(&id).map_or(0, |partition| partition.high_watermark());
        Ok(self.shared.storage.order.ends_at(csn, partitions, now)?)
    }

    /// A reader has found that the batch at `offset` is not what was written: the partition stops there, as if this had been
    /// found while reading its headers.
    pub fn report_damage(&self, partition: TopicPartition, offset: i64, place: String) {
        if let Some(found) = self.shared.find(partition) {
            let damage = DamagedAt { offset, place };
            if found.stop_at(damage.clone()) {
                tracing::error!(%partition, offset, place = %damage.place, "damaged");
            }
        }
    }

    /// Where the partition stopped at damage, if it did: the first offset that cannot be read, and the place in the file.
    pub fn damage(&self, partition: TopicPartition) -> Option<(i64, String)> {
        let damage = self.shared.find(partition)?.damage()?;
        Some((damage.offset, damage.place))
    }

    /// About how many bytes the records in `from..until` take in the segments; 0 for an unknown partition. Cheap: asks the
    /// indexes.
    pub fn bytes_between(&self, partition: TopicPartition, from: i64, until: i64) -> u64 {
        self.shared.bytes_between(partition, from, until)
    }

    /// Keeps the partition's records from `from_offset` on while the answer lives.
    pub fn hold(&self, partition: TopicPartition, from_offset: i64) -> Hold {
        Holds::hold(&self.shared.holds, partition, from_offset)
    }

    /// Removes whole sealed segments that retention no longer keeps. The server calls it from time to time; it takes a
    /// checkpoint when something goes.
    pub fn apply_retention(&self) -> RetentionReport {
        self.shared.apply_retention()
    }

    /// Compacts the partitions that are due ([`crate::CompactionConfig`]), reading and writing about `bytes_max` bytes, at
    /// least one batch; what is begun goes on with the next call. The server calls it until the report says that it
    /// is done, with pauses as it likes. Blocks; one call at a time.
    pub fn compact(&self, bytes_max: u64) -> CompactionReport {
        self.shared.compact(bytes_max)
    }

    /// Removes all records before `offset` (before the end when there is none) for good; answers the first offset that
    /// exists then. Durable when this returns: it takes a checkpoint.
    pub fn delete_records(&self, partition: TopicPartition, offset: Option<i64>) -> Result<i64, DeleteRecordsError> {
        self.shared.delete_records(partition, offset)
    }

    /// Makes segments and order durable up to what is visible, and lets the commit log before it be used again. A disk
    /// without space for it is not an error: the commit log still has everything.
    pub fn checkpoint(&self) -> Result<(), Stopped> {
        self.shared.checkpoint()
    }

    /// Counters for `/metrics`.
    pub fn counters(&self) -> LogCounters {
        let damaged = self.shared.partitions.read().values().filter(|partition| partition.is_damaged()).count();
        let refused = self.shared.sequencer.lock().refused_for_space;
        LogCounters {
            damaged_partitions: damaged as u64,
            refused_for_space: refused,
            ..self.shared.counters.read(self.visible().0)
        }
    }

    /// One group commit by hand; false when nothing was queued. Not to be mixed with [`Log::start`].
    pub fn commit_once(&self) -> bool {
        self.shared.commit_once()
    }

    /// Spawns the thread that commits and the one that takes checkpoints and prepares files.
    ///
    /// # Panics
    /// When the operating system gives no thread.
    #[must_use = "dropping it stops the log"]
    pub fn start(&self) -> CommitThread {
        self.shared.set_threads(true);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(body).expect("the operating system gives a thread")
        };
        let (commit, checkpoint) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let threads = vec![
            spawn("log-commit", Box::new(move || commit.commit_or_halt())),
            spawn("log-checkpoint", Box::new(move || checkpoint.checkpoint_until_closed())),
        ];
        CommitThread { shared: Arc::clone(&self.shared), threads }
    }

    /// Why the log has stopped by itself, if it has: the process should end with this message.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let sequencer = self.shared.sequencer.lock();
        let stopped = sequencer.stopped.as_ref().filter(|_| !sequencer.is_closing)?;
        Some(stopped.reason.to_string())
    }

    /// Accepts no more, finishes what is queued, and takes a last checkpoint, so that the next start has nothing to do. Not
    /// when thousands of segments would have to be synced for it: whoever stops the process does not wait that long. The
    /// commit log holds everything, and the next start replays its tail, which the distance of checkpoints bounds.
    pub fn stop(&self) {
        self.shared.sequencer.lock().is_closing = true;
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        // The committing thread does the same; whoever comes first takes the entries.
        while self.shared.commit_once() {}
        let dirty = self.shared.writer.lock().dirty.segments.len();
        if dirty > STOP_SYNCS_MAX {
            tracing::debug!(
                segments = dirty,
                "no checkpoint at the stop; the next start replays the commit log's tail"
            );
        } else {
            // When it fails, the reason is logged and recovery does the work.
            let _ = self.shared.checkpoint();
        }
        self.shared.halt_quietly();
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        self.shared.sequencer.lock().is_closing = true;
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        self.shared.close_background();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the log has panicked");
            }
        }
        self.shared.set_threads(false);
    }
}
