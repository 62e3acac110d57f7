//! The group commit: takes what is queued, makes it durable with one write and one sync (large parts and entries take more),
//! copies it to the segments, shows it to readers, and only then answers.
//!
//! Always true here: one block is in flight at a time; entries become durable, visible and answered in CSN order; after
//! an error of a write or a sync nothing more is written, and everything that waits is told why.

pub(crate) mod block;
pub(crate) mod file;
mod place;
mod spool;
pub(crate) mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::failure::Failure;
use crate::sequence::Queued;
use crate::shared::Shared;
use crate::{Csn, Stopped, TopicPartition};
use block::Spool;
use writer::{Committed, Writer};

/// Batches of one block.
const BLOCK_BYTES_MAX: usize = 8 << 20;
/// Without a checkpoint for this many times its due distance, the committing thread takes one itself.
const CHECKPOINT_PATIENCE: u64 = 4;

impl Shared {
    /// One group commit; false when nothing was queued.
    pub(crate) fn commit_once(&self) -> bool {
        let committing = self.committing.lock();
        let stopped = self.sequencer.lock().stopped.clone();
        if let Some(stopped) = stopped {
            return self.fail_queued(&stopped);
        }
        let entries = self.sequencer.lock().take(BLOCK_BYTES_MAX);
        if entries.is_empty() {
            drop(committing);
            self.take_due_checkpoint(0);
            return false;
        }
        let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
        match self.commit(&entries) {
            Ok(committed) => {
                self.release_backlog(bytes);
                if entries.iter().any(Queued::is_new) {
                    self.announce(&committed.advanced);
                }
                for entry in entries {
                    (entry.done)(Ok(entry.csn));
                }
            }
            Err(failure) => {
                let stopped = Stopped { reason: failure.reason().into() };
                self.halt(stopped.clone());
                for entry in entries {
                    (entry.done)(Err(stopped.clone()));
                }
                self.fail_queued(&stopped);
            }
        }
        let since = self.writer.lock().since_checkpoint;
        drop(committing);
        self.take_due_checkpoint(since);
        true
    }

    fn commit(&self, entries: &[Queued]) -> Result<Committed, Failure> {
        if !entries.iter().any(Queued::is_new) {
            return Ok(Committed::default());
        }
        let mut writer = self.writer.lock();
        if let [entry] = entries
            && entry.bytes > self.config.entry_bytes_max
        {
            return self.commit_spooled(&mut writer, entry);
        }
        let block = writer.build(&self.storage, entries)?;
        let ready = writer.ready(&*self.storage.disk, &mut self.files.lock());
        if let Err(failure) = ready {
            if !failure.is_full() {
                return Err(failure);
            }
            // No space for another file: a checkpoint frees the ones that are there.
            drop(writer);
            self.checkpoint().map_err(|stopped| Failure {
                place: failure.place,
                source: std::io::Error::other(stopped.reason.to_string()),
            })?;
            writer = self.writer.lock();
            writer.ready(&*self.storage.disk, &mut self.files.lock())?;
        }
        if writer.has_new_file() {
            self.sequencer.lock().forget_space();
        }
        let started = self.clock.monotonic();
        writer.write(&block)?;
        let took = self.clock.monotonic().saturating_sub(started);
        let new = entries.iter().filter(|entry| entry.is_new()).count() as u64;
        let committed = writer.apply(&self.storage, vec![block])?;
        self.publish(&writer, &committed);
        self.counters.add_commit(new, &committed, took);
        Ok(committed)
    }

    /// An entry that is too large for a block, in several. The writer is not let go meanwhile: no checkpoint may begin the
    /// next replay in the middle. Nothing of it is applied before all of it is durable.
    fn commit_spooled(&self, writer: &mut Writer, entry: &Queued) -> Result<Committed, Failure> {
        let pieces = spool::pieces_of(&entry.parts, self.config.entry_bytes_max / 2);
        let mut blocks = Vec::with_capacity(pieces.len());
        let mut took = Duration::ZERO;
        for (nth, parts) in pieces.iter().enumerate() {
            let spool = Spool { continues: nth > 0, has_more: nth + 1 < pieces.len() };
            let block = writer.build_spooled(&self.storage, entry.csn, parts, spool)?;
            writer.ready(&*self.storage.disk, &mut self.files.lock())?;
            let started = self.clock.monotonic();
            writer.write(&block)?;
            took += self.clock.monotonic().saturating_sub(started);
            blocks.push(block);
        }
        self.sequencer.lock().forget_space();
        let committed = writer.apply(&self.storage, blocks)?;
        self.publish(writer, &committed);
        self.counters.add_commit(1, &committed, took);
        Ok(committed)
    }

    /// Shows what is applied: partitions first, then the CSN that covers them.
    pub(crate) fn publish(&self, writer: &Writer, committed: &Committed) {
        for (id, end) in &committed.advanced {
            if let Some(tail) = writer.tails.get(id) {
                tail.partition.publish(*end, tail.max_timestamp);
            }
        }
        self.visible.store(writer.applied.0, Ordering::Release);
    }

    /// Told also when no partition grew: entries of deleted topics move the visible CSN, and somebody may wait for it.
    fn announce(&self, advanced: &[(TopicPartition, i64)]) {
        let visible = Csn(self.visible.load(Ordering::Acquire));
        for listener in self.listeners.read().iter() {
            listener(visible, advanced);
        }
    }

    fn release_backlog(&self, bytes: usize) {
        let mut sequencer = self.sequencer.lock();
        sequencer.backlog_bytes = sequencer.backlog_bytes.saturating_sub(bytes);
        drop(sequencer);
        self.room.notify_all();
    }

    /// Stops for good; the first reason stays.
    pub(crate) fn halt(&self, stopped: Stopped) {
        let mut sequencer = self.sequencer.lock();
        if sequencer.stopped.is_none() {
            tracing::error!(reason = %stopped.reason, "the log has stopped");
            sequencer.stopped = Some(stopped);
        }
        drop(sequencer);
        self.room.notify_all();
        self.work.notify_all();
    }

    /// The orderly end: nothing is accepted and nothing is written from here on.
    pub(crate) fn halt_quietly(&self) {
        let mut sequencer = self.sequencer.lock();
        if sequencer.stopped.is_none() {
            sequencer.stopped = Some(Stopped { reason: "closed".into() });
        }
    }

    /// Tells everything in the queue that it will never be durable.
    pub(crate) fn fail_queued(&self, stopped: &Stopped) -> bool {
        let queued: Vec<Queued> = {
            let mut sequencer = self.sequencer.lock();
            sequencer.backlog_bytes = 0;
            sequencer.queue.drain(..).collect()
        };
        let had_some = !queued.is_empty();
        for entry in queued {
            (entry.done)(Err(stopped.clone()));
        }
        had_some
    }

    /// Takes a checkpoint, or asks the background thread for it, when one is due.
    fn take_due_checkpoint(&self, since: u64) {
        let is_due = since >= self.config.checkpoint_bytes || self.is_checkpoint_wanted();
        if !is_due {
            return;
        }
        if self.has_threads() && since < self.config.checkpoint_bytes.saturating_mul(CHECKPOINT_PATIENCE) {
            self.want_checkpoint();
        } else if let Err(stopped) = self.checkpoint() {
            tracing::debug!(reason = %stopped.reason, "no checkpoint");
        }
    }

    /// The body of the committing thread. A broken invariant stops the log: nobody may wait for an answer for ever.
    pub(crate) fn commit_or_halt(self: &Arc<Self>) {
        let body = std::panic::AssertUnwindSafe(|| self.commit_until_closed());
        if std::panic::catch_unwind(body).is_err() {
            let stopped =
                Stopped { reason: "an invariant of the log is broken; restart, and report the message above".into() };
            self.halt(stopped.clone());
            self.fail_queued(&stopped);
        }
    }

    fn commit_until_closed(self: &Arc<Self>) {
        loop {
            {
                let mut sequencer = self.sequencer.lock();
                while sequencer.queue.is_empty() && sequencer.stopped.is_none() && !sequencer.is_closing {
                    self.work.wait(&mut sequencer);
                }
                if sequencer.queue.is_empty() {
                    return;
                }
            }
            self.commit_once();
        }
    }
}
