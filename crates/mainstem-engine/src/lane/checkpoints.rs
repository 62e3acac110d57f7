//! When checkpoints are taken, and what follows when one is durable.
//!
//! The lane stops only to serialise its operators; a thread writes. Holds follow the checkpoint before the newest, so that
//! what that one would replay is still there should the newest be damaged.

use std::collections::BTreeMap;
use std::time::Duration;

use crossbeam_channel::Sender;
use mainstem_catalog::RelationId;

use super::{BROKEN, Command, Lane, PartitionState};
use crate::checkpoint::{self, Snapshot};
use crate::error::EngineError;
use crate::input_log::Cut;

type Positions = BTreeMap<RelationId, BTreeMap<i32, PartitionState>>;
type Reply = Sender<Result<Cut, EngineError>>;

/// The lane's schedule of checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// Of the next one.
    pub(super) sequence: u64,
    /// The cut of the newest one, durable or in flight, while nothing has changed since.
    durable: Option<Cut>,
    /// Positions of the newest durable one.
    durable_positions: Positions,
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
    replies: Vec<Reply>,
}

impl Checkpoints {
    pub(super) fn new(now: Duration) -> Checkpoints {
        Checkpoints {
            sequence: 1,
            durable: None,
            durable_positions: Positions::new(),
            rows: 0,
            bytes: 0,
            is_wanted: false,
            last: now,
            in_flight: None,
            waiting: Vec::new(),
        }
    }

    /// The lane stands where a checkpoint was.
    pub(super) fn restored(&mut self, positions: Positions) {
        self.durable_positions = positions;
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
        let (sequence, mut snapshot) = self.snapshot();
        let (disk, directory) = (self.disk.clone(), self.config.directory.clone());
        let (shared, dead_letters, letters) = (self.shared.clone(), self.dead_letters.clone(), self.topic_of_letters());
        let waits = shared.clone();
        let body = move || {
            let write = std::panic::AssertUnwindSafe(|| {
                dead_letters.flush(letters)?;
                snapshot.failed_outputs = waits.outputs.flush(snapshot.cut)?;
                checkpoint::write(&disk, &directory, sequence, &snapshot).map(|_| snapshot.cut)
            });
            let broken = |_| Err(EngineError::Checkpoint(BROKEN.to_owned()));
            shared.send(Command::Checkpointed(std::panic::catch_unwind(write).unwrap_or_else(broken)));
        };
        if let Err(error) = self.spawn("engine-checkpoint", body) {
            self.checkpointed(Err(error));
        }
    }

    /// Everything as it stands now; the schedule begins anew.
    fn snapshot(&mut self) -> (u64, Snapshot) {
        let mut operators = Vec::new();
        for (id, view) in &self.views {
            view.circuit().save(&mut |operator, bytes| operators.push((*id, operator, bytes.to_vec())));
        }
        let views = self.views.iter().map(|(id, view)| (*id, view.collection.version()));
        let tables = self.tables.iter().map(|(id, table)| (*id, table.version()));
        let snapshot = Snapshot {
            cut: self.cut,
            inputs: self.inputs.iter().map(|(id, input)| (*id, input.state.clone())).collect(),
            views: self.views.iter().map(|(id, view)| (*id, view.counters.clone())).collect(),
            operators,
            collections: tables.chain(views).collect(),
            failed_outputs: BTreeMap::new(),
        };
        let checkpoints = &mut self.checkpoints;
        let sequence = checkpoints.sequence;
        checkpoints.sequence += 1;
        (checkpoints.rows, checkpoints.bytes, checkpoints.is_wanted) = (0, 0, false);
        checkpoints.last = self.shared.clock.monotonic();
        checkpoints.durable = Some(self.cut);
        let positions = snapshot.inputs.iter().map(|(id, input)| (*id, input.partitions.clone())).collect();
        let replies = std::mem::take(&mut checkpoints.waiting);
        checkpoints.in_flight = Some(InFlight { positions, replies });
        (sequence, snapshot)
    }

    /// The one in flight is durable, or is not.
    pub(super) fn checkpointed(&mut self, result: Result<Cut, EngineError>) {
        let Some(in_flight) = self.checkpoints.in_flight.take() else { return };
        match &result {
            Ok(cut) => {
                let before = std::mem::replace(&mut self.checkpoints.durable_positions, in_flight.positions);
                for (id, positions) in &before {
                    if let Some(input) = self.inputs.get(id) {
                        input.release_before(positions);
                    }
                }
                self.shared.with_stats(|stats| {
                    stats.checkpoint = *cut;
                    stats.checkpoints += 1;
                });
            }
            Err(error) => {
                tracing::error!(%error, "no checkpoint could be taken; the next try comes in time");
                self.checkpoints.durable = None;
                self.checkpoints.rows += 1;
            }
        }
        for reply in in_flight.replies {
            let _ = reply.send(result.clone());
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
        let (sequence, mut snapshot) = self.snapshot();
        let written = self
            .dead_letters
            .flush(self.topic_of_letters())
            .and_then(|()| self.shared.outputs.flush(snapshot.cut))
            .map(|failed| snapshot.failed_outputs = failed)
            .and_then(|()| checkpoint::write(&self.disk, &self.config.directory, sequence, &snapshot));
        self.checkpointed(written.map(|_| snapshot.cut));
    }
}
