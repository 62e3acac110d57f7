//! The state behind a [`crate::Log`] handle, and the checkpoint that ties its parts together.
//!
//! Always true here: locks are taken in the order compacting, committing, checkpointing, writer, then the small ones
//! (sequencer, files, partitions, holds), which are never held while the disk writes or syncs.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mainstem_disk::Clock;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::checkpoint::Checkpoint;
use crate::commit::file::{CommitFiles, DIR, prepare, slot_path};
use crate::commit::writer::{Committed, Dirty, Storage, Writer};
use crate::compaction::Compacting;
use crate::failure::{Failure, at};
use crate::hold::Holds;
use crate::partition::Partition;
use crate::segment::{TOPICS_DIR, partition_dir};
use crate::sequence::{AcceptedPartition, Sequencer};
use crate::{Csn, LogConfig, LogCounters, PartitionConfig, RecoveryReport, Stopped, TopicId, TopicPartition};

/// Called with the visible CSN and the partitions that advanced.
pub(crate) type Listener = Box<dyn Fn(Csn, &[(TopicPartition, i64)]) + Send + Sync>;

/// A topic that is being removed.
#[derive(Clone, Copy, Debug)]
struct Deletion {
    topic: TopicId,
    /// No entry after this one names it.
    until: Csn,
}

/// What the checkpoints have to remember between them.
#[derive(Debug, Default)]
pub(crate) struct Checkpointing {
    pub(crate) sequence: u64,
    /// Files that go away after the next checkpoint, because it names them no more.
    pub(crate) removals: Vec<String>,
}

/// What the background thread is asked for.
#[derive(Debug, Default)]
struct Requests {
    checkpoint: bool,
    close: bool,
}

/// Counters behind [`LogCounters`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    entries: AtomicU64,
    commits: AtomicU64,
    commit_bytes: AtomicU64,
    segment_bytes: AtomicU64,
    checkpoints: AtomicU64,
    sync_us: AtomicU64,
    compacted_bytes: AtomicU64,
    compaction_removed_bytes: AtomicU64,
    recovery_bytes: AtomicU64,
    recovery_entries: AtomicU64,
}

pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: LogConfig,
    pub(crate) storage: Storage,
    pub(crate) compacting: Mutex<Compacting>,
    pub(crate) committing: Mutex<()>,
    pub(crate) checkpointing: Mutex<Checkpointing>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) sequencer: Mutex<Sequencer>,
    pub(crate) work: Condvar,
    pub(crate) room: Condvar,
    pub(crate) files: Mutex<CommitFiles>,
    pub(crate) partitions: RwLock<HashMap<TopicPartition, Arc<Partition>>>,
    pub(crate) visible: AtomicU64,
    pub(crate) listeners: RwLock<Vec<Listener>>,
    pub(crate) holds: Arc<Holds>,
    pub(crate) counters: Counters,
    deletions: Mutex<Vec<Deletion>>,
    requests: Mutex<Requests>,
    requested: Condvar,
    threads: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log(visible {})", self.visible.load(Ordering::Acquire))
    }
}

impl Counters {
    pub(crate) fn add_commit(&self, entries: u64, committed: &Committed, sync: Duration) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_bytes.fetch_add(committed.block_bytes, Ordering::Relaxed);
        self.segment_bytes.fetch_add(committed.segment_bytes, Ordering::Relaxed);
        self.sync_us.fetch_add(u64::try_from(sync.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn set_recovery(&self, report: &RecoveryReport) {
        self.recovery_bytes.store(report.bytes_scanned, Ordering::Relaxed);
        self.recovery_entries.store(report.entries_applied, Ordering::Relaxed);
    }

    pub(crate) fn add_compaction(&self, bytes_before: u64, bytes_after: u64) {
        self.compacted_bytes.fetch_add(bytes_before, Ordering::Relaxed);
        self.compaction_removed_bytes.fetch_add(bytes_before.saturating_sub(bytes_after), Ordering::Relaxed);
    }

    pub(crate) fn read(&self, visible: u64) -> LogCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogCounters {
            entries: load(&self.entries),
            commits: load(&self.commits),
            commit_bytes: load(&self.commit_bytes),
            segment_bytes: load(&self.segment_bytes),
            checkpoints: load(&self.checkpoints),
            visible_csn: visible,
            sync_us: load(&self.sync_us),
            recovery_bytes: load(&self.recovery_bytes),
            recovery_entries: load(&self.recovery_entries),
            compacted_bytes: load(&self.compacted_bytes),
            compaction_removed_bytes: load(&self.compaction_removed_bytes),
            ..LogCounters::default()
        }
    }
}

/// What opening hands over.
pub(crate) struct Opened {
    pub(crate) storage: Storage,
    pub(crate) writer: Writer,
    pub(crate) files: CommitFiles,
    pub(crate) checkpoint_sequence: u64,
}

impl Shared {
    /// Everything recovered is accepted, durable and visible.
    pub(crate) fn new(clock: Arc<dyn Clock>, config: LogConfig, opened: Opened) -> Self {
        let Opened { storage, writer, files, checkpoint_sequence } = opened;
        let mut sequencer = Sequencer::default();
        sequencer.last = writer.applied;
        let mut partitions = HashMap::new();
        for (id, tail) in &writer.tails {
            let partition = Arc::clone(&tail.partition);
            // Recovery has just taken a checkpoint.
            partition.set_sealed_to(tail.segment().map_or(0, |(base_offset, _)| base_offset));
            partition.publish(tail.end_offset, tail.max_timestamp);
            partitions.insert(*id, Arc::clone(&partition));
            let (end_offset, producers) = (tail.end_offset, tail.producers.clone());
            sequencer.partitions.insert(*id, AcceptedPartition { partition, end_offset, producers });
        }
        Self {
            clock,
            config,
            visible: AtomicU64::new(writer.applied.0),
            storage,
            compacting: Mutex::default(),
            committing: Mutex::new(()),
            checkpointing: Mutex::new(Checkpointing { sequence: checkpoint_sequence, ..Checkpointing::default() }),
            writer: Mutex::new(writer),
            sequencer: Mutex::new(sequencer),
            work: Condvar::new(),
            room: Condvar::new(),
            files: Mutex::new(files),
            partitions: RwLock::new(partitions),
            listeners: RwLock::default(),
            holds: Arc::default(),
            counters: Counters::default(),
            deletions: Mutex::default(),
            requests: Mutex::default(),
            requested: Condvar::new(),
            threads: AtomicBool::new(false),
        }
    }

    pub(crate) fn find(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        self.partitions.read().get(&id).filter(|partition| partition.is_open()).cloned()
    }

    pub(crate) fn create_partition(&self, id: TopicPartition, config: PartitionConfig) {
        let mut sequencer = self.sequencer.lock();
        let mut partitions = self.partitions.write();
        let partition = partitions.entry(id).or_insert_with(|| Arc::new(Partition::new(id, config)));
        partition.configure(config);
        partition.declare();
        sequencer.partitions.entry(id).or_insert_with(|| AcceptedPartition {
            partition: Arc::clone(partition),
            end_offset: 0,
            producers: Default::default(),
        });
    }

    /// Refuses all access at once; the files go after the next checkpoint, which names the deletion.
    pub(crate) fn delete_topic(&self, topic: TopicId) {
        let mut sequencer = self.sequencer.lock();
        let mut partitions = self.partitions.write();
        partitions.retain(|id, partition| {
            if id.topic == topic {
                partition.delete();
            }
            id.topic != topic
        });
        sequencer.partitions.retain(|id, _| id.topic != topic);
        let until = sequencer.last;
        self.deletions.lock().push(Deletion { topic, until });
        drop((partitions, sequencer));
        self.want_checkpoint();
    }

    /// Makes everything applied so far durable in segments and order, and frees the commit log before it.
    pub(crate) fn checkpoint(&self) -> Result<(), Stopped> {
        let mut state = self.checkpointing.lock();
        if let Some(stopped) = self.sequencer.lock().stopped.clone() {
            return Err(stopped);
        }
        self.requests.lock().checkpoint = false;
        match self.take_checkpoint(&mut state) {
            Ok(()) => Ok(()),
            // Nothing was lost by not having written a checkpoint: the commit log still has it all.
            Err(failure) if failure.is_full() => {
                tracing::warn!(place = %failure.place, "no space for a checkpoint; trying again later");
                Ok(())
            }
            Err(failure) => {
                let stopped = Stopped { reason: failure.reason().into() };
                self.halt(stopped.clone());
                Err(stopped)
            }
        }
    }

    fn take_checkpoint(&self, state: &mut Checkpointing) -> Result<(), Failure> {
        let removals = std::mem::take(&mut state.removals);
        let (mut checkpoint, dirty, deletions) = self.snapshot();
        checkpoint.sequence = state.sequence + 1;
        let written = sync_dirty(&self.storage, &dirty).and_then(|()| checkpoint.store(&*self.storage.disk));
        if let Err(failure) = written {
            state.removals.extend(removals);
            self.writer.lock().dirty.merge(dirty);
            return Err(failure);
        }
        state.sequence = checkpoint.sequence;
        self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.note_sealed(&checkpoint);
        let surplus = self.files.lock().free_before(checkpoint.next.generation);
        self.remove_files(removals.into_iter().chain(surplus.into_iter().map(slot_path)));
        self.finish_deletions(&deletions, checkpoint.csn)
    }

    fn snapshot(&self) -> (Checkpoint, Dirty, Vec<Deletion>) {
        let mut writer = self.writer.lock();
        writer.drop_deleted();
        let deletions = self.deletions.lock().clone();
        let (order_base, order_bytes) = self.storage.order.position();
        let checkpoint = Checkpoint {
            sequence: 0,
            log_id: writer.log_id,
            csn: writer.applied,
            next: writer.next,
            order_first: self.storage.order.first(),
            order_base,
            order_bytes,
            deleted: deletions.iter().map(|deletion| deletion.topic).collect(),
            partitions: writer.images(),
        };
        writer.since_checkpoint = 0;
        let dirty = std::mem::replace(&mut writer.dirty, Dirty { order_from: order_base, ..Dirty::default() });
        (checkpoint, dirty, deletions)
    }

    /// What lies before the last segment that a durable checkpoint names is written to by nobody any more.
    fn note_sealed(&self, checkpoint: &Checkpoint) {
        let partitions = self.partitions.read();
        for image in &checkpoint.partitions {
            if let (Some(partition), Some(last)) = (partitions.get(&image.id), image.segments.last()) {
                partition.set_sealed_to(last.name.base_offset);
            }
        }
    }

    /// Removes files that the durable checkpoint does not name. What cannot be removed now stays until the next start.
    fn remove_files(&self, paths: impl Iterator<Item = String>) {
        for path in paths {
            if let Err(error) = self.storage.disk.remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%path, %error, "cannot remove an obsolete file");
            }
        }
    }

    fn finish_deletions(&self, deletions: &[Deletion], covered: Csn) -> Result<(), Failure> {
        if deletions.is_empty() {
            return Ok(());
        }
        for deletion in deletions {
            let dir = format!("{TOPICS_DIR}/{}", deletion.topic);
            match self.storage.disk.remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(&dir)(error)),
                _ => {}
            }
            self.storage.segments.forget_topic(deletion.topic);
        }
        self.storage.disk.sync_dir(TOPICS_DIR).map_err(at(TOPICS_DIR))?;
        let is_done = |d: &Deletion| d.until <= covered && deletions.iter().any(|done| done.topic == d.topic);
        self.deletions.lock().retain(|deletion| !is_done(deletion));
        Ok(())
    }

    pub(crate) fn has_threads(&self) -> bool {
        self.threads.load(Ordering::Acquire)
    }

    pub(crate) fn set_threads(&self, running: bool) {
        self.threads.store(running, Ordering::Release);
    }

    pub(crate) fn is_checkpoint_wanted(&self) -> bool {
        self.requests.lock().checkpoint
    }

    pub(crate) fn want_checkpoint(&self) {
        self.requests.lock().checkpoint = true;
        self.requested.notify_all();
    }

    pub(crate) fn close_background(&self) {
        self.requests.lock().close = true;
        self.requested.notify_all();
    }

    /// The body of the background thread: checkpoints, and a spare commit log file before it is needed.
    pub(crate) fn checkpoint_until_closed(&self) {
        self.prepare_spare();
        loop {
            {
                let mut requests = self.requests.lock();
                while !requests.checkpoint && !requests.close {
                    self.requested.wait(&mut requests);
                }
                if requests.close {
                    return;
                }
            }
            if self.checkpoint().is_err() {
                return;
            }
            self.prepare_spare();
        }
    }

    fn prepare_spare(&self) {
        let available = self.storage.disk.available_bytes().unwrap_or(u64::MAX);
        let Some((slot, bytes)) = self.files.lock().wanted(available) else { return };
        match prepare(&*self.storage.disk, slot, bytes) {
            Ok(()) => {
                self.files.lock().add_spare(slot);
                self.sequencer.lock().forget_space();
            }
            Err(error) => tracing::warn!(%error, "cannot prepare the next commit log file"),
        }
    }
}

/// Makes what a checkpoint is about to name durable.
pub(crate) fn sync_dirty(storage: &Storage, dirty: &Dirty) -> Result<(), Failure> {
    let disk = &*storage.disk;
    for segment in dirty.segments.values() {
        let path = segment.path();
        // It is there: files are removed only after a checkpoint, and only one is taken at a time.
        let open = storage.segments.open(segment).map_err(at(&path))?;
        open.file.sync_data().map_err(at(&path))?;
        if let Some(index) = open.index.lock().as_mut()
            && let Err(error) = index.flush(disk, segment)
        {
            tracing::debug!(%path, %error, "index not written; it can be rebuilt");
        }
    }
    storage.order.sync(dirty.order_from)?;
    if storage.order.position().0 > dirty.order_from {
        disk.sync_dir(DIR).map_err(at(DIR))?;
    }
    let mut directories = BTreeMap::new();
    for id in &dirty.directories {
        directories.insert(format!("{TOPICS_DIR}/{}", id.topic), ());
        let path = partition_dir(*id);
        disk.sync_dir(&path).map_err(at(&path))?;
    }
    for path in directories.keys() {
        disk.sync_dir(path).map_err(at(path))?;
    }
    if !dirty.directories.is_empty() {
        disk.sync_dir(TOPICS_DIR).map_err(at(TOPICS_DIR))?;
    }
    Ok(())
}

impl Dirty {
    fn merge(&mut self, other: Dirty) {
        self.segments.extend(other.segments);
        self.directories.extend(other.directories);
        self.order_from = self.order_from.min(other.order_from);
    }
}
