//! What the engine's threads share with each other and with everyone else: what is published, readiness of relations,
//! counters, the coordinator's command channel.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};
use mainstem_state::Clock;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use super::decoded::DecodedSteps;
use super::frontier::{Contents, Demand, Frontiers, LaneId, Plan, Published};
use super::{Lane, LanePart};
use crate::backfill::Backfill;
use crate::backfill_pace::Pace;
use crate::backfill_part::PartDesk;
use crate::engine::{EngineConfig, EngineStats, JobStatus};
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog, OutputLog};
use crate::outputs::Outputs;
use crate::state::StateRoot;
use crate::ticker::NewestTick;

/// Slices of a source that are kept for lanes which come to them later.
const DECODED_SLICES: usize = 4;

/// All that wakes the coordinator.
#[derive(Debug)]
pub(crate) enum Command {
    /// The log has advanced.
    Advanced,
    /// Definitions have changed; the newest are in [`Shared::catalog`].
    Catalog,
    /// A backfill is as near as it can get on its own.
    Caught(Box<Backfill>),
    /// A backfill cannot go on.
    Failed(RelationId, String),
    /// A view has joined a lane.
    Joined(RelationId),
    /// A lane's part of the checkpoint that is being taken.
    Part(Box<LanePart>),
    /// A lane stands where it is to be merged with others, and has ended.
    Surrendered(Box<Lane>),
    /// A lane has ended.
    Ended(LaneId),
    /// A lane has panicked.
    Broken,
    /// The state store could not be read; [`StateRoot`] knows why.
    Damaged,
    /// A checkpoint is wanted.
    Checkpoint(Sender<Result<Cut, EngineError>>),
    /// The checkpoint thread has finished one.
    Checkpointed(Result<(Cut, u64), EngineError>),
    /// A last checkpoint, then the end.
    Stop,
    /// The end at once, as if killed.
    Abandon,
}

/// Where a relation stands on its way to being readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// For a view that it reads, or for lanes that are being merged.
    Waiting,
    /// Reading history.
    Running,
    /// At the lane's door.
    Joining,
    /// Ready, and about to take the place of another.
    Switching,
    /// Never.
    Failed(String),
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobState::Waiting => f.write_str("waiting"),
            JobState::Running => f.write_str("running"),
            JobState::Joining => f.write_str("joining"),
            JobState::Switching => f.write_str("switching"),
            JobState::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// How far a job is; written by its thread.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) rows_done: AtomicU64,
    pub(crate) rows_total: AtomicU64,
    pub(crate) cancelled: AtomicBool,
    pub(crate) pace: Pace,
    pub(crate) desk: PartDesk,
    /// When it began to read, monotonic; 0 before.
    pub(crate) begun_us: AtomicU64,
}

impl Progress {
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.pace.end();
    }
}

#[derive(Debug)]
struct Job {
    relation: Arc<Relation>,
    state: JobState,
    progress: Arc<Progress>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) input: Arc<dyn InputLog>,
    pub(crate) output: Arc<dyn OutputLog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: EngineConfig,
    pub(crate) state: Arc<StateRoot>,
    commands: Sender<Command>,
    is_woken: AtomicBool,
    has_stopped: AtomicBool,
    is_abandoned: AtomicBool,
    is_stopping: AtomicBool,
    catalog: RwLock<Arc<Catalog>>,
    frontiers: Mutex<Frontiers>,
    /// Counts what is published.
    moves: watch::Sender<u64>,
    /// What lanes decode for each other.
    pub(super) decoded: DecodedSteps,
    /// Versions that hold something new; rows and bytes that were read. For the schedule of checkpoints.
    pub(super) versions: AtomicU64,
    pub(super) rows_read: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(crate) subscriptions: AtomicU64,
    job_changes: watch::Sender<u64>,
    jobs: Mutex<BTreeMap<RelationId, Job>>,
    /// For threads that wait; the mutex guards nothing else.
    changed: (Mutex<()>, Condvar),
    stats: Mutex<EngineStats>,
    /// Sinks.
    pub(crate) outputs: Outputs,
    /// Rows of tables and views that queries have read.
    pub(crate) rows_queried: Arc<AtomicU64>,
    pub(crate) newest_tick: Mutex<NewestTick>,
}

impl Shared {
    pub(crate) fn new(
        (input, output, clock): (Arc<dyn InputLog>, Arc<dyn OutputLog>, Arc<dyn Clock>),
        (config, state): (EngineConfig, Arc<StateRoot>),
        commands: Sender<Command>,
        catalog: Arc<Catalog>,
    ) -> Shared {
        Shared {
            input,
            output,
            clock,
            decoded: DecodedSteps::new(config.slice_rows * DECODED_SLICES),
            config,
            state,
            commands,
            is_woken: AtomicBool::new(false),
            has_stopped: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            catalog: RwLock::new(catalog),
            frontiers: Mutex::default(),
            moves: watch::Sender::new(0),
            versions: AtomicU64::new(0),
            rows_read: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            subscriptions: AtomicU64::new(0),
            job_changes: watch::Sender::new(0),
            jobs: Mutex::default(),
            changed: (Mutex::new(()), Condvar::new()),
            stats: Mutex::default(),
            outputs: Outputs::default(),
            rows_queried: Arc::default(),
            newest_tick: Mutex::default(),
        }
    }

    pub(crate) fn send(&self, command: Command) {
        // The lane has ended when nobody receives.
        let _ = self.commands.send(command);
    }

    /// The log has advanced: one command stands for all advances until the lane looks.
    pub(crate) fn wake(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if !self.is_woken.swap(true, Ordering::SeqCst) {
            self.send(Command::Advanced);
        }
    }

    /// The lane looks now.
    pub(crate) fn woken(&self) {
        // ORDER: sequentially consistent, as in `wake`: what the lane reads from the log after this must not be read before
        // others can see it, or an advance in between would wake nobody.
        self.is_woken.swap(false, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
        self.moved();
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// The lane is to end; it still finishes what it can.
    pub(crate) fn stopping(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.moved();
    }

    /// Whether to stop trying what fails.
    pub(crate) fn gives_up(&self) -> bool {
        self.is_abandoned() || self.is_stopping.load(Ordering::Acquire)
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.has_stopped.load(Ordering::Acquire)
    }

    /// Waiters are told that nothing will come any more.
    pub(crate) fn stopped(&self) {
        self.has_stopped.store(true, Ordering::Release);
        for job in self.jobs.lock().values() {
            job.progress.cancel();
        }
        self.moved();
        self.jobs_changed();
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().clone()
    }

    /// Registers new relations as not ready before anyone can ask for them, and tells the lane.
    pub(crate) fn catalog_changed(&self, catalog: Arc<Catalog>) {
        {
            let mut current = self.catalog.write();
            // Two sessions may bring theirs in another order than they were decided in.
            if catalog.version() < current.version() {
                return;
            }
            let mut jobs = self.jobs.lock();
            for relation in catalog.relations() {
                if current.relation(relation.id).is_none() && has_collection(relation) {
                    jobs.insert(relation.id, Job::new(relation));
                }
            }
            jobs.retain(|id, job| {
                let is_live = catalog.relation(*id).is_some();
                match catalog.relation(*id) {
                    Some(relation) => {
                        job.relation = relation.clone();
                        job.progress.pace.set(Pace::rate_of(relation));
                    }
                    None => job.progress.cancel(),
                }
                is_live
            });
            *current = catalog;
        }
        self.jobs_changed();
        self.send(Command::Catalog);
    }

    /// A relation that is not ready, with its progress.
    pub(crate) fn set_job(&self, relation: &Arc<Relation>, state: JobState) -> Arc<Progress> {
        let progress = {
            let mut jobs = self.jobs.lock();
            let job = jobs.entry(relation.id).or_insert_with(|| Job::new(relation));
            job.state = state;
            job.progress.clone()
        };
        self.jobs_changed();
        progress
    }

    /// What reads history gives up; the jobs stay, to be begun again.
    pub(super) fn restart_jobs(&self) {
        for job in self.jobs.lock().values_mut() {
            std::mem::take(&mut job.progress).cancelled.store(true, Ordering::Release);
        }
        self.moved();
    }

    /// The relation is readable. Told also when it has no job: somebody may wait for it all the same.
    pub(crate) fn job_done(&self, relation: RelationId) {
        self.jobs.lock().remove(&relation);
        self.jobs_changed();
    }

    /// Relations that are gone have no jobs. By the newest definitions, not by those that the lane has taken in: what they do
    /// not have yet is registered and waited for.
    pub(crate) fn forget_jobs(&self) {
        let catalog = self.catalog.read();
        self.jobs.lock().retain(|id, _| catalog.relation(*id).is_some());
    }

    /// Counters of what is no table, and neither a view of a lane nor read by one.
    pub(super) fn forget_stats(&self, is_table: &dyn Fn(&RelationId) -> bool) {
        let frontiers = self.frontiers.lock();
        self.stats.lock().relations.retain(|id, _| is_table(id) || frontiers.is_moved(*id));
    }

    /// Whoever waits for a relation or a sink looks again.
    pub(crate) fn jobs_changed(&self) {
        self.job_changes.send_modify(|changes| *changes += 1);
        let _waiters_see_it = self.changed.0.lock();
        self.changed.1.notify_all();
    }

    pub(crate) fn jobs(&self) -> Vec<JobStatus> {
        let catalog = self.catalog();
        // What is published is ready, also while the lane has not said so yet.
        let frontiers = self.frontiers.lock();
        let jobs = self.jobs.lock();
        let status = |job: &Job| {
            let done = job.progress.rows_done.load(Ordering::Relaxed);
            let total = job.progress.rows_total.load(Ordering::Relaxed);
            let mut status = JobStatus::new(&job.relation, done, total.max(done), &job.state);
            if job.progress.pace.is_paused() && job.state == JobState::Running {
                status.state = "paused".to_owned();
            }
            let begun_us = job.progress.begun_us.load(Ordering::Relaxed);
            if begun_us > 0 {
                let now_us = u64::try_from(self.clock.monotonic().as_micros()).unwrap_or(u64::MAX);
                status.elapsed_ms = now_us.saturating_sub(begun_us) / 1000;
            }
            status
        };
        let is_ready = |job: &Job| frontiers.has(job.relation.id);
        let views = jobs.values().filter(|job| job.relation.materialized().is_some() && !is_ready(job));
        let mut all: Vec<JobStatus> = views.map(status).collect();
        // What is ready and aside is under way until it has its name.
        let is_building = |id: &RelationId| all.iter().any(|job| job.relation == *id);
        let ready = catalog.replacements().filter(|(_, replacement)| !replacement.new.iter().any(is_building));
        let ready = ready.filter_map(|(_, replacement)| catalog.relation(*replacement.new.first()?));
        let ready: Vec<_> = ready.map(|relation| JobStatus::new(relation, 0, 0, &JobState::Switching)).collect();
        all.extend(ready);
        all.sort_by_key(|job| job.relation);
        all
    }

    /// Whether the relation can be read; `NotReady` while it cannot be told yet.
    pub(crate) fn readiness(&self, id: RelationId) -> Result<(), EngineError> {
        let catalog = self.catalog();
        let relation = catalog.relation(id).ok_or(EngineError::UnknownRelation(id.0))?;
        if !has_collection(relation) {
            return Ok(());
        }
        let name = relation.name.clone();
        if let Some(Job { state: JobState::Failed(reason), .. }) = self.jobs.lock().get(&id) {
            return Err(EngineError::ViewFailed { name, reason: reason.clone() });
        }
        if self.frontiers.lock().has(id) {
            return Ok(());
        }
        if self.has_stopped() { Err(EngineError::Stopped) } else { Err(EngineError::NotReady { name }) }
    }

    /// Looks at where everything stands. To be short.
    pub(crate) fn with_frontiers<T>(&self, look: impl FnOnce(&Frontiers) -> T) -> T {
        look(&self.frontiers.lock())
    }

    /// Moves something, and tells those who wait.
    pub(crate) fn publish<T>(&self, change: impl FnOnce(&mut Frontiers) -> T) -> T {
        let result = {
            let mut frontiers = self.frontiers.lock();
            let result = change(&mut frontiers);
            // Whatever has come to stand somewhere else, sinks see it before it is gone again.
            self.outputs.look(&mut frontiers);
            result
        };
        self.moved();
        result
    }

    fn moved(&self) {
        self.moves.send_modify(|moves| *moves += 1);
        let _waiters_see_it = self.changed.0.lock();
        self.changed.1.notify_all();
    }

    /// What a lane is to do; none when it is no more.
    pub(super) fn plan(&self, lane: LaneId) -> Option<Plan> {
        self.frontiers.lock().plan(lane)
    }

    pub(super) fn settle(&self, from: Cut, to: (Cut, Cut), reads_tables: bool) -> (Cut, Arc<Contents>) {
        self.frontiers.lock().settle(from, to, reads_tables)
    }

    /// What SELECT sees of everything.
    pub(crate) fn published(&self) -> Cut {
        self.frontiers.lock().reach()
    }

    /// These tables and views at one cut, not before `at_least`; what was asked for before, if it is there sooner. Without
    /// either a demand for them.
    pub(crate) fn pin(&self, ids: &[RelationId], at_least: Cut, demand: &mut Option<Demand>) -> Option<Published> {
        let mut frontiers = self.frontiers.lock();
        let common = frontiers.common(ids).filter(|published| published.cut >= at_least);
        let demanded = demand.as_ref().and_then(Demand::done);
        // One that lacks a relation is of no use: it was not there yet.
        let is_whole = |published: &Published| ids.iter().all(|id| published.relations.contains_key(id));
        let is_useless = demanded.as_ref().is_some_and(|published| !is_whole(published));
        if let Some(published) = common.or_else(|| demanded.filter(is_whole)) {
            return Some(published);
        }
        if (demand.is_none() || is_useless) && frontiers.front() >= at_least {
            *demand = Some(frontiers.demand(ids));
        }
        None
    }

    /// [`Shared::pin`] for threads: waits until it is there. None when it will never be.
    pub(crate) fn pin_blocking(&self, ids: &[RelationId], gives_up: &dyn Fn() -> bool) -> Option<Published> {
        let (mut demand, mut found) = (None, None);
        let mut is_done = || {
            found = self.pin(ids, Cut::ZERO, &mut demand);
            found.is_some()
                || gives_up()
                || self.has_stopped()
                || !self.with_frontiers(|all| ids.iter().all(|id| all.has(*id)))
        };
        let mut guard = self.changed.0.lock();
        while !is_done() {
            self.changed.1.wait_for(&mut guard, Duration::from_secs(1));
        }
        found
    }

    /// Changes whenever something is published.
    pub(crate) fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    pub(crate) fn job_changes(&self) -> watch::Receiver<u64> {
        self.job_changes.subscribe()
    }

    pub(crate) fn wait_published_blocking(&self, at_least: Cut, timeout: Duration) -> bool {
        self.wait_until(timeout, || self.published() >= at_least || self.has_stopped());
        self.published() >= at_least
    }

    pub(crate) fn wait_ready_blocking(&self, id: RelationId, timeout: Duration) -> Result<(), EngineError> {
        let pending = || matches!(self.readiness(id), Err(EngineError::NotReady { .. }));
        self.wait_until(timeout, || !pending());
        self.readiness(id)
    }

    /// Asked again whenever something is published or a job changes.
    pub(crate) fn wait_until(&self, timeout: Duration, is_true: impl Fn() -> bool) {
        let mut guard = self.changed.0.lock();
        let condition = |_: &mut ()| !is_true();
        let _ = self.changed.1.wait_while_for(&mut guard, condition, timeout);
    }

    /// Waits a moment for a failing log or disk; wakes early when the engine is abandoned or stopped.
    pub(crate) fn pause(&self) {
        self.wait_until(Duration::from_millis(100), || self.gives_up());
    }

    pub(crate) fn versions(&self) -> u64 {
        self.versions.load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self) -> EngineStats {
        EngineStats { state: self.state.memory(), ..self.stats.lock().clone() }
    }

    pub(crate) fn with_stats<T>(&self, change: impl FnOnce(&mut EngineStats) -> T) -> T {
        change(&mut self.stats.lock())
    }
}

impl Job {
    fn new(relation: &Arc<Relation>) -> Job {
        let progress = Arc::<Progress>::default();
        progress.pace.set(Pace::rate_of(relation));
        Job { relation: relation.clone(), state: JobState::Waiting, progress }
    }
}

/// Whether readers find rows of it in the engine.
pub(crate) fn has_collection(relation: &Relation) -> bool {
    matches!(relation.kind, RelationKind::Table(_) | RelationKind::MaterializedView(_))
}
