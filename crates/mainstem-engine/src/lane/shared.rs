//! What the lane shares with everyone else: the published version, readiness of relations, counters, the command channel.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};
use mainstem_state::Clock;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{broadcast, watch};

use crate::backfill::Backfill;
use crate::collection::Version;
use crate::engine::{EngineConfig, EngineStats, JobStatus};
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog, OutputLog};

/// Published versions that wait for subscriptions; one that is slower skips some. What they hold beyond the newest is at
/// most what the lane has written in as many versions.
const VERSIONS_KEPT: usize = 64;

/// All that wakes the lane.
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
    /// A checkpoint is wanted.
    Checkpoint(Sender<Result<Cut, EngineError>>),
    /// The checkpoint thread has finished one.
    Checkpointed(Result<(Cut, u64), EngineError>),
    /// A last checkpoint, then the end.
    Stop,
    /// The end at once, as if killed.
    Abandon,
}

/// One frontier: what all readers see.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) cut: Cut,
    pub(crate) relations: Arc<HashMap<RelationId, Content>>,
}

/// A relation as published.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) version: Arc<Version>,
    /// The first error that stands in it.
    pub(crate) error: Option<Arc<str>>,
    /// What it reads, directly.
    pub(crate) reads: Arc<[RelationId]>,
}

impl Published {
    /// The first error of the relation or of a view below it: its content is not what its definition says.
    pub(crate) fn first_error(&self, id: RelationId) -> Option<String> {
        let content = self.relations.get(&id)?;
        let own = content.error.as_ref().map(|error| error.to_string());
        own.or_else(|| content.reads.iter().find_map(|below| self.first_error(*below)))
    }
}

/// Where a relation stands on its way to being readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// For a view that it reads, or for the lane.
    Waiting,
    /// Reading history.
    Running,
    /// At the lane's door.
    Joining,
    /// Never.
    Failed(String),
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobState::Waiting => f.write_str("waiting"),
            JobState::Running => f.write_str("running"),
            JobState::Joining => f.write_str("joining"),
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
    commands: Sender<Command>,
    is_woken: AtomicBool,
    has_stopped: AtomicBool,
    is_abandoned: AtomicBool,
    is_stopping: AtomicBool,
    catalog: RwLock<Arc<Catalog>>,
    published: RwLock<Arc<Published>>,
    cuts: watch::Sender<Cut>,
    /// For subscriptions; empty while there is none.
    versions: broadcast::Sender<Arc<Published>>,
    job_changes: watch::Sender<u64>,
    jobs: Mutex<BTreeMap<RelationId, Job>>,
    /// For threads that wait; the mutex guards nothing else.
    changed: (Mutex<()>, Condvar),
    stats: Mutex<EngineStats>,
}

impl Shared {
    pub(crate) fn new(
        (input, output, clock): (Arc<dyn InputLog>, Arc<dyn OutputLog>, Arc<dyn Clock>),
        config: EngineConfig,
        commands: Sender<Command>,
        catalog: Arc<Catalog>,
    ) -> Shared {
        Shared {
            input,
            output,
            clock,
            config,
            commands,
            is_woken: AtomicBool::new(false),
            has_stopped: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            catalog: RwLock::new(catalog),
            published: RwLock::default(),
            cuts: watch::Sender::new(Cut::ZERO),
            versions: broadcast::Sender::new(VERSIONS_KEPT),
            job_changes: watch::Sender::new(0),
            jobs: Mutex::default(),
            changed: (Mutex::new(()), Condvar::new()),
            stats: Mutex::default(),
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
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// The lane is to end; it still finishes what it can.
    pub(crate) fn stopping(&self) {
        self.is_stopping.store(true, Ordering::Release);
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
            job.progress.cancelled.store(true, Ordering::Release);
        }
        self.cuts.send_modify(|_| ());
        let _ = self.versions.send(self.published());
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
                if !is_live {
                    job.progress.cancelled.store(true, Ordering::Release);
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

    fn jobs_changed(&self) {
        self.job_changes.send_modify(|changes| *changes += 1);
        let _waiters_see_it = self.changed.0.lock();
        self.changed.1.notify_all();
    }

    pub(crate) fn jobs(&self) -> Vec<JobStatus> {
        // What is published is ready, also while the lane has not said so yet.
        let published = self.published();
        let jobs = self.jobs.lock();
        let status = |job: &Job| {
            let done = job.progress.rows_done.load(Ordering::Relaxed);
            let total = job.progress.rows_total.load(Ordering::Relaxed);
            JobStatus::new(&job.relation, done, total.max(done), &job.state)
        };
        let is_ready = |job: &Job| published.relations.contains_key(&job.relation.id);
        let views = jobs.values().filter(|job| job.relation.materialized().is_some() && !is_ready(job));
        views.map(status).collect()
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
        if self.published.read().relations.contains_key(&id) {
            return Ok(());
        }
        if self.has_stopped() { Err(EngineError::Stopped) } else { Err(EngineError::NotReady { name }) }
    }

    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.read().clone()
    }

    /// The one swap that makes a version visible.
    pub(crate) fn publish(&self, published: Published) {
        let published = Arc::new(published);
        *self.published.write() = published.clone();
        self.cuts.send_replace(published.cut);
        // Nobody may have subscribed.
        let _ = self.versions.send(published);
        let _waiters_see_it = self.changed.0.lock();
        self.changed.1.notify_all();
    }

    /// All versions that are published from now on.
    pub(crate) fn versions(&self) -> broadcast::Receiver<Arc<Published>> {
        self.versions.subscribe()
    }

    pub(crate) fn subscriptions(&self) -> u64 {
        self.versions.receiver_count() as u64
    }

    pub(crate) fn cuts(&self) -> watch::Receiver<Cut> {
        self.cuts.subscribe()
    }

    pub(crate) fn job_changes(&self) -> watch::Receiver<u64> {
        self.job_changes.subscribe()
    }

    pub(crate) fn wait_published_blocking(&self, at_least: Cut, timeout: Duration) -> bool {
        self.wait_until(timeout, || *self.cuts.borrow() >= at_least || self.has_stopped());
        *self.cuts.borrow() >= at_least
    }

    pub(crate) fn wait_ready_blocking(&self, id: RelationId, timeout: Duration) -> Result<(), EngineError> {
        let pending = || matches!(self.readiness(id), Err(EngineError::NotReady { .. }));
        self.wait_until(timeout, || !pending());
        self.readiness(id)
    }

    fn wait_until(&self, timeout: Duration, is_true: impl Fn() -> bool) {
        let mut guard = self.changed.0.lock();
        let condition = |_: &mut ()| !is_true();
        let _ = self.changed.1.wait_while_for(&mut guard, condition, timeout);
    }

    /// Waits a moment for a failing log or disk; wakes early when the engine is abandoned or stopped.
    pub(crate) fn pause(&self) {
        self.wait_until(Duration::from_millis(100), || self.gives_up());
    }

    pub(crate) fn stats(&self) -> EngineStats {
        self.stats.lock().clone()
    }

    pub(crate) fn with_stats<T>(&self, change: impl FnOnce(&mut EngineStats) -> T) -> T {
        change(&mut self.stats.lock())
    }
}

impl Job {
    fn new(relation: &Arc<Relation>) -> Job {
        Job { relation: relation.clone(), state: JobState::Waiting, progress: Arc::default() }
    }
}

/// Whether readers find rows of it in the engine.
pub(crate) fn has_collection(relation: &Relation) -> bool {
    matches!(relation.kind, RelationKind::Table(_) | RelationKind::MaterializedView(_))
}
