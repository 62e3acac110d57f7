//! When checkpoints are taken, and what follows when one is durable.
//!
//! The coordinator names the front of now: tables go into the checkpoint as they are there. Each lane gives its *part* when
//! it comes there if it reads tables, else where it stands, and stops only to hand over what its views have written since the
//! last one; a thread applies all parts to the store at once. So each lane restarts at a cut of its own. What the store could
//! not take is handed over again with the next. Holds follow the newest durable checkpoint. While lanes are merged no
//! checkpoint is begun, and while parts are gathered no lanes are merged. A checkpoint is
//! written when sinks have written what changed up to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Sender;
use mainstem_catalog::RelationId;
use mainstem_state::{CheckpointError, remove_older};

use super::coordinator::{Coordinator, LaneHandle, Merging};
use super::orders::{Order, What};
use super::{BROKEN, Command, Flow, LaneCommand, LaneId, LanePart, PartitionState, Progress, topic_of_letters};
use crate::backfill_part::{BackfillPart, Versions};
use crate::checkpoint::{self, Kept, Snapshot};
use crate::collection::Collection;
use crate::error::EngineError;
use crate::input_log::Cut;
use crate::state::{Handed, Receipt};

/// Of sources or tables.
pub(super) type Positions = BTreeMap<RelationId, BTreeMap<i32, PartitionState>>;
type Reply = Sender<Result<Cut, EngineError>>;

/// The schedule of checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// There are files of a build before the store, to be removed once there is a checkpoint.
    pub(super) has_old_files: bool,
    sequence: u64,
    /// The newest one, durable or not yet, while nothing has changed since.
    stands: Option<Stands>,
    /// What had been read when the last one was begun.
    rows: u64,
    bytes: u64,
    is_wanted: bool,
    last: Duration,
    gathering: Option<Gathering>,
    in_flight: Option<InFlight>,
    waiting: Vec<Reply>,
    /// Lanes that have ended by themselves: neither parts nor the lanes themselves will come of them.
    failed: BTreeSet<LaneId>,
}

/// What was read of tables and, by lane, of sources when a checkpoint was taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) tables: Positions,
    pub(super) lanes: BTreeMap<LaneId, Positions>,
}

#[derive(Clone, Copy, Debug)]
struct Stands {
    front: Cut,
    versions: u64,
    /// The least cut in it.
    cut: Cut,
}

/// A checkpoint whose parts are not all there.
#[derive(Debug)]
struct Gathering {
    sequence: u64,
    snapshot: Snapshot,
    missing: BTreeSet<LaneId>,
    held: Held,
    /// What backfills are to be in it with.
    versions: Versions,
    replies: Vec<Reply>,
}

#[derive(Debug)]
struct InFlight {
    held: Held,
    /// The tables and views in it.
    relations: BTreeSet<RelationId>,
    receipts: Vec<Receipt>,
    replies: Vec<Reply>,
}

/// The parts of backfills on their way into a checkpoint.
struct BackfillParts {
    versions: Arc<Versions>,
    /// Of those that run.
    asked: Vec<Arc<Progress>>,
    /// Of those that do not.
    parts: Vec<BackfillPart>,
    receipts: Vec<Receipt>,
    given: Vec<(Arc<Progress>, Positions)>,
}

impl BackfillParts {
    fn of(coordinator: &mut Coordinator, versions: Versions) -> BackfillParts {
        let parts = coordinator.parked.values_mut().filter_map(|backfill| backfill.part(&versions)).collect();
        let asked = coordinator.running.values().cloned().collect();
        let versions = Arc::new(versions);
        BackfillParts { versions, asked, parts, receipts: Vec::new(), given: Vec::new() }
    }

    /// Asks those that run, and waits for them a while.
    fn gather(&mut self, snapshot: &mut Snapshot, gives_up: &dyn Fn() -> bool) {
        for progress in std::mem::take(&mut self.asked) {
            if let Some(part) = progress.desk.ask(&self.versions, gives_up) {
                let inputs = part.state.inputs.iter();
                self.given.push((progress, inputs.map(|(id, input)| (*id, input.partitions.clone())).collect()));
                self.parts.push(part);
            }
        }
        for BackfillPart { state, kept, handed } in self.parts.drain(..) {
            self.receipts.push(handed.receipt());
            snapshot.relations.extend(state.views.first().map(|view| (*view, kept)));
            snapshot.backfills.push(state);
            snapshot.handed.push(handed);
        }
    }

    fn settle(self, is_durable: bool) {
        self.receipts.iter().for_each(|receipt| receipt.settle(is_durable));
        for (progress, positions) in self.given.into_iter().filter(|_| is_durable) {
            progress.desk.release(positions);
        }
    }
}

impl Checkpoints {
    pub(super) fn new(now: Duration) -> Checkpoints {
        Checkpoints {
            has_old_files: false,
            sequence: 0,
            stands: None,
            rows: 0,
            bytes: 0,
            is_wanted: false,
            last: now,
            gathering: None,
            in_flight: None,
            waiting: Vec::new(),
            failed: BTreeSet::new(),
        }
    }

    /// Relations have come or gone.
    pub(super) fn changed(&mut self) {
        self.stands = None;
    }

    /// One is due as soon as it can be.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Parts are on their way: lanes are to stay what they are.
    pub(super) fn is_gathering(&self) -> bool {
        self.gathering.is_some()
    }

    /// The lane's views were dropped: no part comes of it.
    pub(super) fn lane_ended(&mut self, lane: LaneId) {
        if let Some(gathering) = &mut self.gathering {
            gathering.missing.remove(&lane);
        }
    }
}

impl Coordinator {
    /// How long the coordinator may sleep.
    pub(super) fn until_checkpoint(&self) -> Duration {
        let next = self.checkpoints.last + self.config.checkpoint_interval;
        next.saturating_sub(self.shared.clock.monotonic()).max(Duration::from_millis(1))
    }

    pub(super) fn checkpoint_if_due(&mut self) {
        let now = self.shared.clock.monotonic();
        let rows = self.rows_read();
        let bytes = self.shared.bytes_read.load(Ordering::Relaxed);
        let is_merging = self.lanes.values().any(|lane| lane.merging.is_some());
        let checkpoints = &mut self.checkpoints;
        let has_read = rows != checkpoints.rows;
        let is_time = now.saturating_sub(checkpoints.last) >= self.config.checkpoint_interval;
        if is_time && !has_read {
            checkpoints.last = now;
        }
        let is_due = checkpoints.is_wanted
            || !checkpoints.waiting.is_empty()
            || bytes - checkpoints.bytes >= self.config.checkpoint_bytes
            || is_time && has_read;
        let is_busy = checkpoints.in_flight.is_some() || checkpoints.gathering.is_some() || is_merging;
        if is_due && !is_busy && !self.has_failed_lanes() {
            self.begin_checkpoint();
        }
    }

    /// By lanes and by backfills that run: the number goes back when one has ended.
    fn rows_read(&self) -> u64 {
        let of_backfills = self.running.values().map(|progress| progress.rows_done.load(Ordering::Relaxed));
        self.shared.rows_read.load(Ordering::Relaxed) + of_backfills.sum::<u64>()
    }

    /// The newest checkpoint, if nothing has changed since.
    fn stands(&self) -> Option<Cut> {
        if !self.running.is_empty() {
            return None;
        }
        let versions = self.shared.versions.load(Ordering::Relaxed);
        let stands = self.checkpoints.stands?;
        // A lane may have gone on without anything new.
        let is_behind = self.shared.published() > stands.cut;
        (stands.front == self.cut && stands.versions == versions && !is_behind).then_some(stands.cut)
    }

    /// Someone waits for one of what is published now.
    pub(super) fn checkpoint_wanted(&mut self, reply: Reply) {
        let stands = self.stands();
        match (stands, &mut self.checkpoints) {
            (Some(_), Checkpoints { gathering: Some(gathering), .. }) => gathering.replies.push(reply),
            (Some(_), Checkpoints { in_flight: Some(in_flight), .. }) => in_flight.replies.push(reply),
            (Some(cut), _) => {
                let _ = reply.send(Ok(cut));
            }
            (None, checkpoints) => checkpoints.waiting.push(reply),
        }
    }

    /// Tables as they are; lanes are asked for their parts. The schedule begins anew.
    fn begin_checkpoint(&mut self) {
        let rows = self.rows_read();
        let checkpoints = &mut self.checkpoints;
        checkpoints.sequence += 1;
        let sequence = checkpoints.sequence;
        checkpoints.is_wanted = false;
        checkpoints.rows = rows;
        checkpoints.bytes = self.shared.bytes_read.load(Ordering::Relaxed);
        checkpoints.last = self.shared.clock.monotonic();
        let versions = self.shared.versions.load(Ordering::Relaxed);
        checkpoints.stands = Some(Stands { front: self.cut, versions, cut: self.cut });
        let replies = std::mem::take(&mut checkpoints.waiting);
        self.shared.publish(|all| all.checkpoint_begins());
        let kept = |(id, table): (&RelationId, &Collection)| Some((*id, table.keep(None)?));
        let relations: BTreeMap<RelationId, Kept> = self.tables.iter().filter_map(kept).collect();
        let layers = self.tables.values().filter_map(Collection::layers);
        let snapshot = Snapshot {
            cut: self.cut,
            generation: 0,
            inputs: self.inputs.iter().map(|(id, input)| (*id, input.state.clone())).collect(),
            relations,
            lanes: Vec::new(),
            backfills: Vec::new(),
            handed: layers.map(|layers| layers.hand_over()).collect(),
            failed_outputs: BTreeMap::new(),
        };
        let tables = snapshot.inputs.iter().map(|(id, input)| (*id, input.partitions.clone())).collect();
        let missing: BTreeSet<LaneId> = self.lanes.keys().copied().collect();
        for (id, lane) in &self.lanes {
            let at = self.shared.publish(|all| all.order(*id));
            let _ = lane.commands.send(LaneCommand::Order(Order { at, what: What::Snapshot(sequence) }));
        }
        let held = Held { tables, lanes: BTreeMap::new() };
        let tables = self.tables.iter().map(|(id, table)| (*id, (self.cut, table.version())));
        let versions = Versions { cut: self.cut, relations: tables.collect() };
        self.checkpoints.gathering = Some(Gathering { sequence, snapshot, missing, held, versions, replies });
        self.write_checkpoint_if_whole();
    }

    pub(super) fn take_part(&mut self, part: LanePart) {
        let wanted = self.checkpoints.gathering.as_mut().filter(|gathering| gathering.sequence == part.sequence);
        let Some(gathering) = wanted.filter(|gathering| gathering.missing.contains(&part.lane)) else {
            return part.handed.iter().for_each(|handed| handed.receipt().settle(false));
        };
        gathering.missing.remove(&part.lane);
        let positions = part.state.inputs.iter().map(|(id, input)| (*id, input.partitions.clone())).collect();
        gathering.held.lanes.insert(part.lane, positions);
        let cut = part.state.cut;
        gathering.versions.relations.extend(part.versions.into_iter().map(|(id, version)| (id, (cut, version))));
        gathering.snapshot.lanes.push(part.state);
        gathering.snapshot.relations.extend(part.relations);
        gathering.snapshot.handed.extend(part.handed);
        self.write_checkpoint_if_whole();
    }

    /// A lane has ended. If not because its views were dropped, but since the log cannot be read or the engine ends, there
    /// is no checkpoint without its part.
    pub(super) fn lane_failed(&mut self, lane: LaneId) {
        let is_merged = |handle: &LaneHandle| handle.merging.as_ref().is_some_and(|it| it.lanes().contains(&lane));
        if !self.lanes.contains_key(&lane) && !self.lanes.values().any(is_merged) {
            return;
        }
        self.checkpoints.failed.insert(lane);
        if self.checkpoints.gathering.as_ref().is_some_and(|gathering| gathering.missing.contains(&lane)) {
            self.give_up_gathering();
        }
    }

    /// Whether a lane has ended that is still needed. Those that wait for a checkpoint are told.
    fn has_failed_lanes(&mut self) -> bool {
        let ids = self.lanes.iter().flat_map(|(id, lane)| {
            let merged = lane.merging.as_ref().map(Merging::lanes).unwrap_or_default();
            merged.into_iter().chain([*id])
        });
        let needed: BTreeSet<LaneId> = ids.collect();
        let checkpoints = &mut self.checkpoints;
        checkpoints.failed.retain(|lane| needed.contains(lane));
        // After damage everything begins anew: there will be another checkpoint.
        if !checkpoints.failed.is_empty() && !self.shared.state.is_damaged() {
            for reply in std::mem::take(&mut checkpoints.waiting) {
                let _ = reply.send(Err(EngineError::Stopped));
            }
        }
        !checkpoints.failed.is_empty()
    }

    /// Not all parts will come.
    pub(super) fn give_up_gathering(&mut self) {
        let Some(gathering) = self.checkpoints.gathering.take() else { return };
        let Gathering { snapshot, held, replies, .. } = gathering;
        let receipts = snapshot.handed.iter().map(Handed::receipt).collect();
        self.checkpoints.in_flight = Some(InFlight { held, relations: BTreeSet::new(), receipts, replies });
        self.checkpointed(Err(EngineError::Stopped));
    }

    pub(super) fn write_checkpoint_if_whole(&mut self) {
        if self.checkpoints.gathering.as_ref().is_none_or(|gathering| !gathering.missing.is_empty()) {
            return;
        }
        let Some(gathering) = self.checkpoints.gathering.take() else { return };
        let Gathering { mut snapshot, held, versions, replies, .. } = gathering;
        let state = self.shared.state.clone();
        snapshot.generation = state.generation();
        let cut = snapshot.least_cut();
        if let Some(stands) = &mut self.checkpoints.stands {
            stands.cut = cut;
        }
        let receipts = snapshot.handed.iter().map(Handed::receipt).collect();
        let relations = snapshot.relations.keys().copied().collect();
        self.checkpoints.in_flight = Some(InFlight { held, relations, receipts, replies });
        let mut backfills = BackfillParts::of(self, versions);
        let (shared, dead_letters) = (self.shared.clone(), self.dead_letters.clone());
        let body = move || {
            let write = std::panic::AssertUnwindSafe(|| {
                backfills.gather(&mut snapshot, &|| shared.gives_up());
                dead_letters.flush(topic_of_letters(&shared))?;
                snapshot.failed_outputs = shared.outputs.flush(&|id| snapshot.cut_of(id))?;
                checkpoint::write(&state, &snapshot).map(|bytes| (cut, bytes))
            });
            let broken = |_| Err(EngineError::Checkpoint(BROKEN.to_owned()));
            let written = std::panic::catch_unwind(write).unwrap_or_else(broken);
            backfills.settle(written.is_ok());
            // What it shares with the lane is let go before the lane hears of it.
            drop(snapshot);
            shared.send(Command::Checkpointed(written));
        };
        if let Err(error) = self.spawn("engine-checkpoint", body) {
            self.checkpointed(Err(error));
        }
    }

    /// The one in flight is durable, or is not.
    pub(super) fn checkpointed(&mut self, result: Result<(Cut, u64), EngineError>) {
        let Some(in_flight) = self.checkpoints.in_flight.take() else { return };
        in_flight.receipts.iter().for_each(|receipt| receipt.settle(result.is_ok()));
        match &result {
            Ok((cut, bytes)) => {
                self.shared.publish(|all| all.checkpoint_is_durable(in_flight.relations));
                for (id, positions) in &in_flight.held.tables {
                    if let Some(input) = self.inputs.get(id) {
                        input.release_before(positions);
                    }
                }
                for (id, positions) in in_flight.held.lanes {
                    if let Some(lane) = self.lanes.get(&id) {
                        let _ = lane.commands.send(LaneCommand::Release(Arc::new(positions)));
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
                self.checkpoints.stands = None;
                self.checkpoints.rows = self.checkpoints.rows.saturating_sub(1);
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

    /// Takes a checkpoint before the end, after the one that is being taken.
    pub(super) fn last_checkpoint(&mut self) {
        if self.wait_for_checkpoint() == Flow::End || self.has_failed_lanes() {
            return;
        }
        if self.stands().is_some() && self.checkpoints.waiting.is_empty() {
            return;
        }
        self.begin_checkpoint();
        let _ = self.wait_for_checkpoint();
    }

    /// Returns when no checkpoint is being taken and no lanes are merged; the end when that will never be.
    fn wait_for_checkpoint(&mut self) -> Flow {
        loop {
            let is_merging = self.lanes.values().any(|lane| lane.merging.is_some());
            if !is_merging && self.checkpoints.in_flight.is_none() && self.checkpoints.gathering.is_none() {
                return Flow::On;
            }
            let Ok(command) = self.commands.recv() else { return Flow::End };
            let flow = match command {
                Command::Checkpointed(_)
                | Command::Checkpoint(_)
                | Command::Part(_)
                | Command::Surrendered(_)
                | Command::Ended(_)
                | Command::Abandon
                | Command::Broken => self.obey(command),
                // A part will not come.
                Command::Damaged => Flow::End,
                _ => Flow::On,
            };
            // Lanes that are merged wait for one that will not come.
            if flow == Flow::End || is_merging && self.has_failed_lanes() {
                return Flow::End;
            }
        }
    }
}
