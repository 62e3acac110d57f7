//! When checkpoints are taken, and what follows when one is durable.
//!
//! The lane stops only to hand over what its owners have written since the last one; a thread applies it to the store. What
//! the store could not take is handed over again with the next. Holds follow the newest durable checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use mainstem_catalog::RelationId;
use mainstem_state::{CheckpointError, remove_older};

use super::{BROKEN, Command, Lane, PartitionState};
use crate::checkpoint::{self, Kept, Snapshot};
use crate::collection::Collection;
use crate::error::EngineError;
use crate::input_log::Cut;
use crate::state::Layers;

type Positions = BTreeMap<RelationId, BTreeMap<i32, PartitionState>>;
type Reply = Sender<Result<Cut, EngineError>>;

/// The lane's schedule of checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// There are files of a build before the store, to be removed once there is a checkpoint.
    pub(super) has_old_files: bool,
    /// The cut of the newest one, durable or in flight, while nothing has changed since.
    durable: Option<Cut>,
    rows: u64,
    bytes: u64,
    is_wanted: bool,
    last: Duration,
    in_flight: Option<InFlight>,
    waiting: Vec<Reply>,
}

#[derive(Debug)]
struct InFlight {
    positions: Positions,
    owners: Vec<Arc<Layers>>,
    replies: Vec<Reply>,
}

impl Checkpoints {
    pub(super) fn new(now: Duration) -> Checkpoints {
        Checkpoints {
            has_old_files: false,
            durable: None,
            rows: 0,
            bytes: 0,
            is_wanted: false,
            last: now,
            in_flight: None,
            waiting: Vec::new(),
        }
    }

    /// The thread of one has not reported yet.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// A step has read this much.
    pub(super) fn moved(&mut self, rows: u64, bytes: u64) {
        self.rows += rows;
        self.bytes += bytes;
        self.durable = None;
    }

    /// Relations have come or gone.
    pub(super) fn changed(&mut self) {
        self.durable = None;
    }

    /// One is due as soon as it can be.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }
}

impl Lane {
    /// How long the lane may sleep.
    pub(super) fn until_checkpoint(&self) -> Duration {
        let next = self.checkpoints.last + self.config.checkpoint_interval;
        next.saturating_sub(self.shared.clock.monotonic()).max(Duration::from_millis(1))
    }

    pub(super) fn checkpoint_if_due(&mut self) {
        let now = self.shared.clock.monotonic();
        let checkpoints = &mut self.checkpoints;
        let is_time = now.saturating_sub(checkpoints.last) >= self.config.checkpoint_interval;
        if is_time && checkpoints.rows == 0 {
            checkpoints.last = now;
        }
        let is_due = checkpoints.is_wanted
            || !checkpoints.waiting.is_empty()
            || checkpoints.bytes >= self.config.checkpoint_bytes
            || is_time && checkpoints.rows > 0;
        if is_due && checkpoints.in_flight.is_none() {
            self.begin_checkpoint();
        }
    }

    /// Someone waits for one of the cut that is published now.
    pub(super) fn checkpoint_wanted(&mut self, reply: Reply) {
        let stands = self.checkpoints.durable == Some(self.cut);
        match &mut self.checkpoints.in_flight {
            Some(in_flight) if stands => in_flight.replies.push(reply),
            None if stands => {
                let _ = reply.send(Ok(self.cut));
            }
            _ => self.checkpoints.waiting.push(reply),
        }
    }

    fn begin_checkpoint(&mut self) {
        let snapshot = self.snapshot();
        let state = self.state.clone();
        let (shared, dead_letters, letters) = (self.shared.clone(), self.dead_letters.clone(), self.topic_of_letters());
        let body = move || {
            let write = std::panic::AssertUnwindSafe(|| {
                dead_letters.flush(letters)?;
                checkpoint::write(&state, &snapshot).map(|bytes| (snapshot.cut, bytes))
            });
            let broken = |_| Err(EngineError::Checkpoint(BROKEN.to_owned()));
            let written = std::panic::catch_unwind(write).unwrap_or_else(broken);
            // What it shares with the lane is let go before the lane hears of it.
            drop(snapshot);
            shared.send(Command::Checkpointed(written));
        };
        if let Err(error) = self.spawn("engine-checkpoint", body) {
            self.checkpointed(Err(error));
        }
    }

    /// Everything as it stands now; the schedule begins anew.
    fn snapshot(&mut self) -> Snapshot {
        let kept_table = |(id, table): (&RelationId, &Collection)| Some((*id, table.keep(None)?));
        let mut relations: BTreeMap<RelationId, Kept> = self.tables.iter().filter_map(kept_table).collect();
        relations.extend(self.views.iter_mut().map(|(id, view)| (*id, view.keep())));
        let collections = self.tables.values().chain(self.views.values().map(|view| &view.collection));
        let owners: Vec<Arc<Layers>> = collections.filter_map(Collection::layers).cloned().collect();
        let snapshot = Snapshot {
            cut: self.cut,
            generation: self.state.generation(),
            inputs: self.inputs.iter().map(|(id, input)| (*id, input.state.clone())).collect(),
            relations,
            handed: owners.iter().map(|layers| layers.hand_over()).collect(),
        };
        let checkpoints = &mut self.checkpoints;
        (checkpoints.rows, checkpoints.bytes, checkpoints.is_wanted) = (0, 0, false);
        checkpoints.last = self.shared.clock.monotonic();
        checkpoints.durable = Some(self.cut);
        let positions = snapshot.inputs.iter().map(|(id, input)| (*id, input.partitions.clone())).collect();
        let replies = std::mem::take(&mut checkpoints.waiting);
        checkpoints.in_flight = Some(InFlight { positions, owners, replies });
        snapshot
    }

    /// The one in flight is durable, or is not.
    pub(super) fn checkpointed(&mut self, result: Result<(Cut, u64), EngineError>) {
        let Some(in_flight) = self.checkpoints.in_flight.take() else { return };
        in_flight.owners.iter().for_each(|layers| layers.handed_over(result.is_ok()));
        match &result {
            Ok((cut, bytes)) => {
                for (id, positions) in &in_flight.positions {
                    if let Some(input) = self.inputs.get(id) {
                        input.release_before(positions);
                    }
                }
                self.remove_old_files();
                self.shared.with_stats(|stats| {
                    stats.checkpoint = *cut;
                    stats.checkpoints += 1;
                    stats.checkpoint_bytes = *bytes;
                });
            }
            Err(error) => {
                tracing::error!(%error, "no checkpoint could be taken; the next try comes in time");
                self.checkpoints.durable = None;
                self.checkpoints.rows += 1;
            }
        }
        for reply in in_flight.replies {
            let _ = reply.send(result.clone().map(|(cut, _)| cut));
        }
    }

    fn remove_old_files(&mut self) {
        if !std::mem::take(&mut self.checkpoints.has_old_files) {
            return;
        }
        let directory = &self.config.directory;
        let synced = |()| {
            let io = |source| CheckpointError::Io { place: directory.clone(), source };
            self.disk.sync_dir(directory).map_err(io)
        };
        // What a crash brings back is removed after the next start.
        if let Err(error) = remove_older(&*self.disk, directory, u64::MAX).and_then(synced) {
            tracing::warn!(%error, "a checkpoint of an earlier build could not be removed");
        }
    }

    /// Takes a checkpoint on this thread, after the one in flight.
    pub(super) fn last_checkpoint(&mut self) {
        while self.checkpoints.in_flight.is_some() {
            match self.commands.recv() {
                Ok(Command::Checkpointed(result)) => self.checkpointed(result),
                Ok(Command::Checkpoint(reply)) => self.checkpoint_wanted(reply),
                Ok(_) => {}
                Err(_) => return,
            }
        }
        if self.checkpoints.durable == Some(self.cut) && self.checkpoints.waiting.is_empty() {
            return;
        }
        let snapshot = self.snapshot();
        let written = self
            .dead_letters
            .flush(self.topic_of_letters())
            .and_then(|()| checkpoint::write(&self.state, &snapshot))
            .map(|bytes| (snapshot.cut, bytes));
        self.checkpointed(written);
    }
}
