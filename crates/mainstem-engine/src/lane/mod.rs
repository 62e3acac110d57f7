//! The lane: one thread that moves all views from version to version.
//!
//! Words: a *step* takes the next cut, reads what came to each input, pushes it through the circuits in the order of
//! relation ids (a relation is younger than what it reads), applies what came out to the collections, and publishes all at
//! once. A view *joins* the lane when its backfill stands at the lane's cut. A source is read while some view reads it;
//! tables always are.
//!
//! Always true here: what is published stands at one cut; a version never holds part of an entry; a step is finished or
//! nothing of it is seen; what is read depends on the log alone (the clock only decides how large versions are and when
//! checkpoints are taken).

mod checkpoints;
mod input;
mod pacing;
mod restore;
mod shared;
mod step;
mod topology;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use mainstem_catalog::{Catalog, DEAD_LETTERS_TOPIC, Relation, RelationId};
use mainstem_state::Disk;
use uuid::Uuid;

use crate::collection::Collection;
use crate::dead_letters::DeadLetters;
use crate::engine::{EngineConfig, EngineParts, RestoreReport};
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog};
use crate::state::StateRoot;
use checkpoints::Checkpoints;

pub(crate) use input::{Ends, Input, InputState, PartitionState, Reading, RejectedRecord};
pub(crate) use pacing::{Next, Pacing};
pub(crate) use shared::{Command, JobState, Progress, Published, Shared};
pub(crate) use view::{View, ViewState};

use restore::open_state;

/// What those who wait are told when a thread of the engine has panicked; the log has the details.
const BROKEN: &str = "an invariant of the engine is broken; the server's messages say which";

/// All that moves. Owned by the lane's thread.
#[derive(Debug)]
struct Lane {
    shared: Arc<Shared>,
    config: EngineConfig,
    disk: Arc<dyn Disk>,
    commands: Receiver<Command>,
    /// The definitions that are taken in.
    catalog: Arc<Catalog>,
    cut: Cut,
    inputs: BTreeMap<RelationId, Input>,
    tables: BTreeMap<RelationId, Collection>,
    views: BTreeMap<RelationId, View>,
    /// Views that wait for one that they read.
    waiting: BTreeMap<RelationId, Arc<Relation>>,
    /// Views whose backfill runs.
    running: BTreeSet<RelationId>,
    failed: BTreeSet<RelationId>,
    pacing: Pacing,
    dead_letters: Arc<DeadLetters>,
    state: Arc<StateRoot>,
    checkpoints: Checkpoints,
    /// Backfills and the checkpoint in flight: none of them outlives the lane.
    threads: Vec<JoinHandle<()>>,
}

/// Loads the newest checkpoint, takes in the catalog and starts the thread.
pub(crate) fn start(
    parts: EngineParts,
    catalog: Arc<Catalog>,
) -> Result<(Arc<Shared>, JoinHandle<()>, RestoreReport), EngineError> {
    let (sender, commands) = crossbeam_channel::unbounded();
    let EngineParts { input, output, disk, clock, config } = parts;
    let dead_letters = Arc::new(DeadLetters::new(input.clone(), output.clone()));
    let checkpoints = Checkpoints::new(clock.monotonic());
    let (state, warnings) = open_state(&disk, &config)?;
    let shared = Arc::new(Shared::new((input.clone(), output, clock), config.clone(), sender, catalog.clone()));
    let mut lane = Lane {
        shared: shared.clone(),
        disk,
        commands,
        catalog: Arc::new(Catalog::default()),
        cut: Cut::ZERO,
        inputs: BTreeMap::new(),
        tables: BTreeMap::new(),
        views: BTreeMap::new(),
        waiting: BTreeMap::new(),
        running: BTreeSet::new(),
        failed: BTreeSet::new(),
        pacing: Pacing::new(config.slice_rows),
        dead_letters,
        state,
        checkpoints,
        threads: Vec::new(),
        config,
    };
    let mut report = lane.restore(&catalog)?;
    report.warnings.splice(0..0, warnings);
    let views_restored = lane.views.len();
    lane.take_catalog()?;
    let views_here = lane.views.len();
    report.views_to_backfill = lane.running.len() + lane.waiting.len() + views_here.saturating_sub(views_restored);
    let weak = Arc::downgrade(&shared);
    input.on_advance(Box::new(move || {
        if let Some(shared) = weak.upgrade() {
            shared.wake();
        }
    }));
    let thread = std::thread::Builder::new().name("engine-lane".to_owned()).spawn(move || lane.run());
    let thread = thread.map_err(|error| EngineError::Checkpoint(format!("no thread for the lane: {error}")))?;
    Ok((shared, thread, report))
}

/// Whether the lane goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    End,
}

impl Lane {
    fn run(mut self) {
        let shared = self.shared.clone();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run_until_end()));
        if ended.is_err() {
            tracing::error!("the engine's lane has panicked; views stand still until a restart");
        }
        shared.stopped();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn run_until_end(&mut self) {
        loop {
            let has_moved = match self.step_or_start_over() {
                Ok(has_moved) => has_moved,
                Err(EngineError::Stopped) => return,
                Err(error) => {
                    tracing::error!(%error, "the lane waits for the log");
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
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            };
            if command.map_or(Flow::On, |command| self.obey(command)) == Flow::End {
                return;
            }
            self.checkpoint_if_due();
        }
    }

    fn obey(&mut self, command: Command) -> Flow {
        let result = match command {
            Command::Advanced => {
                self.shared.woken();
                Ok(())
            }
            Command::Catalog => self.take_catalog(),
            Command::Caught(backfill) => self.join_backfill(*backfill),
            Command::Failed(id, reason) => {
                self.fail(id, reason);
                self.take_catalog()
            }
            Command::Checkpoint(reply) => {
                self.checkpoint_wanted(reply);
                Ok(())
            }
            Command::Checkpointed(result) => {
                self.checkpointed(result);
                Ok(())
            }
            Command::Stop => {
                self.last_checkpoint();
                return Flow::End;
            }
            Command::Abandon => return Flow::End,
        };
        match result {
            Ok(()) => Flow::On,
            Err(EngineError::Stopped) => Flow::End,
            Err(error) => {
                tracing::error!(%error, "the lane could not do what it was told");
                Flow::On
            }
        }
    }

    /// A thread that ends before the lane does.
    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
        self.threads.retain(|thread| !thread.is_finished());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|error| EngineError::Checkpoint(format!("no thread: {error}")))?);
        Ok(())
    }

    /// Where dead letters go.
    fn topic_of_letters(&self) -> Option<Uuid> {
        self.catalog.topic_named(DEAD_LETTERS_TOPIC).map(|topic| topic.id)
    }

    fn log(&self) -> Arc<dyn InputLog> {
        self.shared.input.clone()
    }
}
