//! The thread that moves tables, begins and ends lanes, and takes checkpoints.
//!
//! Always true here: it waits for no lane, but at the end of the engine; what it does to lanes it tells them by commands
//! and finds in the frontiers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use mainstem_catalog::{Catalog, RelationId};
use mainstem_state::Disk;

use super::checkpoints::Checkpoints;
use super::restore::open_state;
use super::{Command, Ends, Flow, Input, Lane, LaneCommand, LaneId, Pacing, Progress, Shared};
use crate::backfill::Backfill;
use crate::collection::Collection;
use crate::dead_letters::DeadLetters;
use crate::engine::{EngineConfig, EngineParts, RestoreReport};
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog};

/// All that is not in a lane. Owned by its thread.
#[derive(Debug)]
pub(super) struct Coordinator {
    pub(super) shared: Arc<Shared>,
    pub(super) config: EngineConfig,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) commands: Receiver<Command>,
    /// The definitions that are taken in.
    pub(super) catalog: Arc<Catalog>,
    /// The front.
    pub(super) cut: Cut,
    /// Tables, as records and as content.
    pub(super) inputs: BTreeMap<RelationId, Input>,
    pub(super) tables: BTreeMap<RelationId, Collection>,
    /// Where the sources that lanes read end at the front.
    pub(super) sources: BTreeMap<RelationId, (uuid::Uuid, Ends)>,
    /// Where ticks and idle events end there.
    pub(super) times: (i64, i64),
    pub(super) lanes: BTreeMap<LaneId, LaneHandle>,
    pub(super) next_lane: u64,
    /// Views that wait for one that they read.
    pub(super) waiting: BTreeSet<RelationId>,
    /// Views whose backfill runs.
    pub(super) running: BTreeMap<RelationId, Arc<Progress>>,
    /// Backfills that a checkpoint had and that have not gone on yet.
    pub(super) parked: BTreeMap<RelationId, Backfill>,
    pub(super) failed: BTreeSet<RelationId>,
    pub(super) pacing: Pacing,
    pub(super) dead_letters: Arc<DeadLetters>,
    pub(super) checkpoints: Checkpoints,
    /// Lanes, backfills, sinks and the checkpoint in flight: none of them outlives the coordinator.
    pub(super) threads: Vec<JoinHandle<()>>,
}

/// A lane as the coordinator knows it.
#[derive(Debug)]
pub(super) struct LaneHandle {
    pub(super) commands: Sender<LaneCommand>,
    /// Its views, those that are about to join included.
    pub(super) views: BTreeSet<RelationId>,
    pub(super) is_over: Arc<AtomicBool>,
    /// Not yet a thread: lanes that are to be it hand themselves over.
    pub(super) merging: Option<Merging>,
}

#[derive(Debug)]
pub(super) struct Merging {
    pub(super) commands: Receiver<LaneCommand>,
    /// The lanes as they were.
    pub(super) from: Vec<(LaneId, LaneHandle)>,
    pub(super) at: Cut,
    pub(super) parts: Vec<Lane>,
}

impl Merging {
    pub(super) fn lanes(&self) -> Vec<LaneId> {
        self.from.iter().map(|(id, _)| *id).collect()
    }
}

impl LaneHandle {
    /// Lets the lane look at what there is.
    fn wake(&self) {
        // It has ended when nobody receives.
        let _ = self.commands.send(LaneCommand::Wake);
    }

    /// Ends the lane, whatever it is at.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        // It has ended when nobody receives.
        let _ = self.commands.send(LaneCommand::End);
        self.merging.iter().flat_map(|merging| &merging.from).for_each(|(_, lane)| lane.end());
    }
}

/// Loads the newest checkpoint, takes in the catalog and starts the threads.
pub(crate) fn start(
    parts: EngineParts,
    catalog: Arc<Catalog>,
) -> Result<(Arc<Shared>, JoinHandle<()>, RestoreReport), EngineError> {
    let (sender, commands) = crossbeam_channel::unbounded();
    let EngineParts { input, output, disk, clock, config } = parts;
    let dead_letters = Arc::new(DeadLetters::new(input.clone(), output.clone()));
    let checkpoints = Checkpoints::new(clock.monotonic());
    let (state, warnings) = open_state(&disk, &config)?;
    let shared = Shared::new((input.clone(), output, clock), (config.clone(), state), sender, catalog.clone());
    let shared = Arc::new(shared);
    let mut coordinator = Coordinator {
        shared: shared.clone(),
        disk,
        commands,
        catalog: Arc::new(Catalog::default()),
        cut: Cut::ZERO,
        inputs: BTreeMap::new(),
        tables: BTreeMap::new(),
        sources: BTreeMap::new(),
        times: (0, 0),
        lanes: BTreeMap::new(),
        next_lane: 0,
        waiting: BTreeSet::new(),
        running: BTreeMap::new(),
        parked: BTreeMap::new(),
        failed: BTreeSet::new(),
        pacing: Pacing::new(config.slice_rows),
        dead_letters,
        checkpoints,
        threads: Vec::new(),
        config,
    };
    let begun = coordinator.begin(&catalog);
    let report = match begun {
        Ok(mut report) => {
            report.warnings.splice(0..0, warnings);
            report
        }
        Err(error) => {
            coordinator.end();
            return Err(error);
        }
    };
    let weak = Arc::downgrade(&shared);
    input.on_advance(Box::new(move || {
        if let Some(shared) = weak.upgrade() {
            shared.wake();
        }
    }));
    let thread = std::thread::Builder::new().name("engine-coordinator".to_owned()).spawn(move || coordinator.run());
    let thread = thread.map_err(|error| EngineError::Checkpoint(format!("no thread for the engine: {error}")))?;
    Ok((shared, thread, report))
}

impl Coordinator {
    fn begin(&mut self, catalog: &Arc<Catalog>) -> Result<RestoreReport, EngineError> {
        let mut report = self.restore(catalog)?;
        let views = |it: &Coordinator| it.lanes.values().map(|lane| lane.views.len()).sum::<usize>();
        let restored = views(self);
        self.take_catalog()?;
        report.views_restored = restored;
        report.views_to_backfill = self.running.len() + self.waiting.len() + views(self).saturating_sub(restored);
        Ok(report)
    }

    fn run(mut self) {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run_until_end()));
        if ended.is_err() {
            tracing::error!("the engine's coordinator has panicked; views stand still until a restart");
        }
        self.shared.stopped();
        self.end();
    }

    /// Lanes and other threads end, whatever they are at.
    fn end(&mut self) {
        self.lanes.values().for_each(LaneHandle::end);
        self.lanes.clear();
        self.shared.outputs.end();
        self.shared.stopped();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn run_until_end(&mut self) {
        loop {
            let turn = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.turn()));
            if self.look_for_damage(turn) == Flow::End {
                return;
            }
        }
    }

    /// A step, and what was asked for in the meantime.
    fn turn(&mut self) -> Flow {
        let has_moved = match self.step() {
            Ok(has_moved) => has_moved,
            Err(EngineError::Stopped) => return Flow::End,
            Err(error) => {
                tracing::error!(%error, "the engine waits for the log");
                self.shared.pause();
                true
            }
        };
        let command = if has_moved {
            self.commands.try_recv().ok()
        } else {
            match self.commands.recv_timeout(self.until_checkpoint()) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Flow::End,
            }
        };
        if command.map_or(Flow::On, |command| self.obey(command)) == Flow::End {
            return Flow::End;
        }
        if self.shared.state.is_over() {
            // Lanes at rest give back memory, too.
            self.lanes.values().for_each(|lane| lane.wake());
        }
        self.checkpoint_if_due();
        Flow::On
    }

    pub(super) fn obey(&mut self, command: Command) -> Flow {
        let result = match command {
            Command::Advanced => {
                self.shared.woken();
                Ok(())
            }
            Command::Catalog => self.take_catalog(),
            Command::Caught(backfill) => self.take_backfill(*backfill),
            Command::Failed(id, reason) => {
                self.fail(id, reason);
                self.take_catalog()
            }
            Command::Joined(id) => self.joined(id),
            Command::Surrendered(lane) => self.surrendered(*lane),
            Command::Part(part) => {
                self.take_part(*part);
                Ok(())
            }
            Command::Ended(lane) => {
                self.lane_failed(lane);
                Ok(())
            }
            Command::Checkpoint(reply) => {
                self.checkpoint_wanted(reply);
                Ok(())
            }
            Command::Checkpointed(result) => {
                self.checkpointed(result);
                // Lanes may wait for it before they are merged.
                if self.waiting.is_empty() || self.shared.gives_up() { Ok(()) } else { self.take_catalog() }
            }
            // It is looked for after each turn.
            Command::Damaged => Ok(()),
            Command::Stop => {
                self.last_checkpoint();
                return Flow::End;
            }
            Command::Abandon | Command::Broken => return Flow::End,
        };
        match result {
            Ok(()) => Flow::On,
            Err(EngineError::Stopped) => Flow::End,
            Err(error) => {
                tracing::error!(%error, "the engine could not do what it was told");
                Flow::On
            }
        }
    }

    /// A thread that ends before the coordinator does.
    pub(super) fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
        self.threads.retain(|thread| !thread.is_finished());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|error| EngineError::Checkpoint(format!("no thread: {error}")))?);
        Ok(())
    }

    pub(super) fn log(&self) -> Arc<dyn InputLog> {
        self.shared.input.clone()
    }
}
