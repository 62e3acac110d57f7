//! What moves: tables, and lanes of views.
//!
//! Words: views that read one another are a *lane*: a thread of its own that moves them together from version to version.
//! Independent views are in different lanes, and none waits for another. The *coordinator* is the thread that moves tables
//! to the newest cut at once (the *front*, see `frontier`), tells lanes that something has come for them, takes in
//! definitions, begins, merges and ends lanes, and takes checkpoints. A lane's *step* chooses the next cut up to the front,
//! reads its sources up to there in slices (what another lane has decoded is taken from it, see `decoded`), takes what
//! changed in the tables that it reads between the two versions, finishes its views in the order of their ids (a view is
//! younger than what it reads), and publishes. A new view *joins* the lane of the views that it reads when its backfill
//! stands at the lane's cut, or begins a lane of its own. Lanes that a new view brings together are *merged*: each goes to
//! one cut and hands over what it has. A lane that is behind reads on from the log by itself, in steps as large as its
//! pace allows; what it reads of tables it holds by reference.
//!
//! Always true here: what a lane has published stands at one cut; a version never holds part of an entry; a step is
//! finished or nothing of it is seen; what is read depends on the log alone (the clock only decides how large versions are
//! and when checkpoints are taken).

mod checkpoints;
mod coordinator;
mod decoded;
mod frontier;
mod input;
mod orders;
mod outputs;
mod pacing;
mod reading;
mod restore;
mod shared;
mod step;
mod tables;
mod topology;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::Receiver;
use mainstem_catalog::{DEAD_LETTERS_TOPIC, RelationId};
use uuid::Uuid;

use crate::backfill::Backfill;
use crate::collection::Version;
use crate::dead_letters::DeadLetters;
use crate::engine::EngineConfig;
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog, LogError};
use crate::outputs::WantedOrders;
use crate::ticks::TickReader;
use checkpoints::Positions;
use orders::Order;

pub(crate) use coordinator::start;
pub(crate) use frontier::{CLOCK, Content, Contents, Demand, Frontiers, LaneId, Published};
pub(crate) use input::{Ends, Input, InputState, LateRows, PartitionState, Reading, RejectedRecord};
pub(crate) use orders::LanePart;
pub(crate) use pacing::{Next, Pacing};
pub(crate) use shared::{Command, JobState, Progress, Shared};
pub(crate) use view::{View, ViewState};

/// What those who wait are told when a thread of the engine has panicked; the log has the details.
const BROKEN: &str = "an invariant of the engine is broken; the server's messages say which";

/// All that wakes a lane.
#[derive(Debug)]
pub(crate) enum LaneCommand {
    /// Something has come that it reads.
    Wake,
    /// A new view is as near as it can get on its own.
    Join(Box<Backfill>),
    /// Views that were dropped.
    Forget(BTreeSet<RelationId>),
    /// To be done at a certain cut.
    Order(Order),
    /// What is before these positions is needed no more.
    Release(Arc<Positions>),
    /// The end, after what is being done.
    End,
}

/// Views that move together. Owned by the lane's thread, or by the coordinator before it starts.
#[derive(Debug)]
pub(crate) struct Lane {
    id: LaneId,
    shared: Arc<Shared>,
    commands: Receiver<LaneCommand>,
    dead_letters: Arc<DeadLetters>,
    cut: Cut,
    /// The sources that its views read.
    sources: BTreeMap<RelationId, Input>,
    /// Tables as its views have taken them in, with their errors.
    tables: HashMap<RelationId, Content>,
    views: BTreeMap<RelationId, View>,
    pacing: Pacing,
    /// What is being decoded before the lane comes to it, and whether it is still wanted.
    ahead: BTreeMap<RelationId, Arc<AtomicBool>>,
    /// The sort orders that its views are kept in, as they were wanted last.
    sorted: Arc<WantedOrders>,
    /// Stands at the lane's cut, if a view needs the clock.
    ticks: TickReader,
    /// What is to be done at certain cuts.
    orders: Vec<Order>,
    /// Views that come.
    joining: Vec<Backfill>,
    /// Nobody wants what it does.
    is_over: Arc<AtomicBool>,
}

/// Whether a thread goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    End,
}

impl Lane {
    /// On its thread, until it is told to end, is merged, or its log fails for good.
    fn run(mut self) {
        let (shared, id) = (self.shared.clone(), self.id);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let is_handed_over = self.run_until_end();
            shared.send(if is_handed_over { Command::Surrendered(Box::new(self)) } else { Command::Ended(id) });
        }));
        if ended.is_err() && shared.state.is_damaged() {
            shared.send(Command::Damaged);
        } else if ended.is_err() {
            tracing::error!("a lane has panicked; views stand still until a restart");
            shared.send(Command::Broken);
        }
    }

    /// Whether it is to be handed over.
    fn run_until_end(&mut self) -> bool {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                if self.obey(command) == Flow::End {
                    return false;
                }
            }
            let has_moved = match self.turn() {
                Ok(Turn::Moved) => true,
                Ok(Turn::Rests) => false,
                Ok(Turn::Surrenders) => return true,
                Err(EngineError::Stopped) => return false,
                Err(error) => {
                    tracing::error!(%error, "a lane waits for the log");
                    self.shared.pause();
                    true
                }
            };
            if !has_moved {
                let Ok(command) = self.commands.recv() else { return false };
                if self.obey(command) == Flow::End {
                    return false;
                }
            }
        }
    }

    fn obey(&mut self, command: LaneCommand) -> Flow {
        match command {
            LaneCommand::Wake => {}
            LaneCommand::Join(backfill) => self.joining.push(*backfill),
            LaneCommand::Forget(gone) => self.forget(&gone),
            LaneCommand::Order(order) => self.orders.push(order),
            LaneCommand::Release(positions) => {
                for (id, positions) in &*positions {
                    if let Some(input) = self.sources.get(id) {
                        input.release_before(positions);
                    }
                }
            }
            LaneCommand::End => return Flow::End,
        }
        Flow::On
    }

    fn forget(&mut self, gone: &BTreeSet<RelationId>) {
        self.views.retain(|id, _| !gone.contains(id));
        let reads: BTreeSet<RelationId> = self.views.values().flat_map(|view| view.reads.iter().copied()).collect();
        self.sources.retain(|id, _| reads.contains(id));
        self.tables.retain(|id, _| reads.contains(id));
    }

    fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    fn log(&self) -> Arc<dyn InputLog> {
        self.shared.input.clone()
    }

    /// Versions of the tables that its views have taken in, and of its views.
    fn versions(&self) -> HashMap<RelationId, Arc<Version>> {
        let tables = self.tables.iter().map(|(id, content)| (*id, content.version.clone()));
        tables.chain(self.views.iter().map(|(id, view)| (*id, view.collection.version()))).collect()
    }
}

/// What came of one turn of a lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Moved,
    /// There is nothing to do until a command comes.
    Rests,
    /// It stands where it is to be handed over.
    Surrenders,
}

/// Where dead letters go.
fn topic_of_letters(shared: &Shared) -> Option<Uuid> {
    shared.catalog().topic_named(DEAD_LETTERS_TOPIC).map(|topic| topic.id)
}

/// Asks nobody but the shared flags whether to try again.
fn again(shared: &Shared, error: &LogError) -> bool {
    tracing::error!(%error, "the log cannot be read; the engine tries again");
    shared.pause();
    !shared.gives_up()
}
