//! The handle on the running engine: what sessions, the batch side and the server see of it.
//!
//! Words: the *lane* is the thread that moves all views (see `lane`); a *pin* is the content of several relations at one
//! cut; a *job* is a view that still reads history.
//!
//! Always true here: all relations of a pin stand at the same cut; a pin stays what it is while the lane goes on; nothing
//! here blocks the lane.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstem_catalog::{Catalog, Origin, Relation, RelationId, RelationKind};
use mainstem_state::{Clock, Disk};
use parking_lot::Mutex;

use crate::collection::Version;
use crate::error::EngineError;
use crate::input_log::{Cut, Hold, InputLog, OutputLog};
use crate::lane::{self, Command, JobState, Shared};
use crate::state::StateMemory;

/// What an engine is made of.
#[derive(Debug)]
pub struct EngineParts {
    /// Where records come from.
    pub input: Arc<dyn InputLog>,
    /// Where records go to: dead letters, tables.
    pub output: Arc<dyn OutputLog>,
    /// The data directory; the engine keeps its checkpoints in [`EngineConfig::directory`] of it.
    pub disk: Arc<dyn Disk>,
    /// For pacing only (checkpoints, the size of versions). No content depends on it.
    pub clock: Arc<dyn Clock>,
    /// Limits.
    pub config: EngineConfig,
}

/// Limits of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where checkpoints are, relative to the data directory.
    pub directory: String,
    /// Rows pushed through the operators at once.
    pub slice_rows: usize,
    /// About how long a version may take under load.
    pub version_time_max: Duration,
    /// Bytes read from a partition at once.
    pub read_bytes_max: usize,
    /// A checkpoint is due when this many bytes of records were read after the last one ...
    pub checkpoint_bytes: u64,
    /// ... or when this much time has passed and anything was read.
    pub checkpoint_interval: Duration,
    /// The directory of the LSM tree that keeps state; none: state is in memory, with files on the disk (simulations).
    pub state_path: Option<PathBuf>,
    /// What state and contents may take in memory, about; what is more is read from the store when it is needed.
    pub state_memory_bytes: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            directory: "engine".to_owned(),
            slice_rows: 64 << 10,
            version_time_max: Duration::from_millis(20),
            read_bytes_max: 4 << 20,
            checkpoint_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(30),
            state_path: None,
            state_memory_bytes: 512 << 20,
        }
    }
}

/// What opening the engine found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// The cut of the checkpoint that was loaded; [`Cut::ZERO`] without one.
    pub checkpoint: Cut,
    /// Replay begins after this cut.
    pub replay_from: Cut,
    /// The newest cut of the log when the engine was opened.
    pub newest: Cut,
    /// Views that were loaded with their state.
    pub views_restored: usize,
    /// Views that are not in the checkpoint and read history again.
    pub views_to_backfill: usize,
    /// Checkpoints that could not be used, and why.
    pub warnings: Vec<String>,
}

/// How far a view that reads history is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// The view.
    pub relation: RelationId,
    /// Its name.
    pub name: String,
    /// Records and rows read so far.
    pub rows_done: u64,
    /// Records and rows that were to be read when it was last counted; grows while producers go on.
    pub rows_total: u64,
    /// `waiting`, `running`, `joining` or `failed: reason`.
    pub state: String,
}

/// Counters of one relation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelationStats {
    /// Its name.
    pub name: String,
    /// `source`, `table`, `materialized view`.
    pub kind: &'static str,
    /// Rows readable now (0 for sources).
    pub rows: u64,
    /// Memory of the readable rows.
    pub bytes: u64,
    /// Rows of operator state.
    pub state_rows: u64,
    /// Memory of operator state.
    pub state_bytes: u64,
    /// Rows of state that operators have read or written since the engine was opened.
    pub rows_touched: u64,
    /// Records read (sources and tables, since their origin) or rows that came in (views, since the engine was opened).
    pub rows_in: u64,
    /// Error messages that stand now, each as often as it does.
    pub errors: u64,
    /// Rows below their own partition's watermark, since the origin.
    pub late: u64,
    /// Records that did not decode, since the origin.
    pub dead_letters: u64,
    /// Records of its inputs that are durable and not yet in its published version.
    pub lag_records: u64,
    /// Age of the newest record that was read while there is a lag; 0 without.
    pub lag_ms: u64,
    /// The newest timestamp among the records that were read.
    pub newest_timestamp_ms: i64,
    /// What it reads: for views.
    pub reads: Vec<RelationId>,
    /// The watermark, microseconds.
    pub watermark_us: Option<i64>,
    /// Partitions that stopped at damage, and gaps that retention tore: for the operator.
    pub input_errors: Vec<String>,
}

/// Counters of the engine.
#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    /// What SELECT sees.
    pub published: Cut,
    /// Versions published since the engine was opened.
    pub versions: u64,
    /// Where replay began when the engine was opened.
    pub replay_started_at: Cut,
    /// The cut of the newest durable checkpoint.
    pub checkpoint: Cut,
    /// Checkpoints made durable since the engine was opened.
    pub checkpoints: u64,
    /// Bytes of keys and values that the last checkpoint wrote.
    pub checkpoint_bytes: u64,
    /// State in memory and on disk.
    pub state: StateMemory,
    /// Dead letters written since the engine was opened.
    pub dead_letters_written: u64,
    /// Subscriptions that live.
    pub subscriptions: u64,
    /// By relation.
    pub relations: std::collections::BTreeMap<RelationId, RelationStats>,
}

/// Several relations at one cut.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// The cut.
    pub cut: Cut,
    /// What was asked for.
    pub relations: HashMap<RelationId, PinnedRelation>,
}

/// One relation of a pin.
#[derive(Clone, Debug)]
pub enum PinnedRelation {
    /// A table or materialized view: its rows, and the first of the errors that stand in it or in a view below it.
    Collection(Arc<Version>, Option<String>),
    /// A source: what of its topic is its history.
    Source {
        /// Partition, first offset that exists, next offset as of the cut.
        positions: Vec<(i32, i64, i64)>,
    },
}

/// The running engine. A clone is another handle; when the last one is dropped, the lane ends as if killed.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    lane: Arc<LaneThread>,
}

#[derive(Debug)]
struct LaneThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl LaneThread {
    fn end(&self, command: Command) {
        self.shared.send(command);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for LaneThread {
    fn drop(&mut self) {
        self.shared.abandon();
        self.end(Command::Abandon);
    }
}

impl Engine {
    /// Loads the newest checkpoint that is whole and starts the lane, which replays what came after it. Views that the
    /// checkpoint does not know read history in the background ([`Engine::wait_ready`]).
    pub fn open(parts: EngineParts, catalog: Arc<Catalog>) -> Result<(Engine, RestoreReport), EngineError> {
        let (shared, thread, report) = lane::start(parts, catalog)?;
        let lane = Arc::new(LaneThread { shared: shared.clone(), thread: Mutex::new(Some(thread)) });
        Ok((Engine { shared, lane }, report))
    }

    /// To be called after DDL is durable: new tables and views start, dropped ones stop. Returns at once.
    pub fn catalog_changed(&self, catalog: Arc<Catalog>) {
        self.shared.catalog_changed(catalog);
    }

    /// What SELECT sees.
    #[must_use]
    pub fn published(&self) -> Cut {
        self.shared.published().cut
    }

    /// Returns when the published cut is at least this; `Stopped` when it never will be. Cancel-safe.
    pub async fn wait_published(&self, at_least: Cut) -> Result<(), EngineError> {
        let mut cuts = self.shared.cuts();
        while *cuts.borrow_and_update() < at_least {
            if self.shared.has_stopped() {
                return Err(EngineError::Stopped);
            }
            cuts.changed().await.map_err(|_| EngineError::Stopped)?;
        }
        Ok(())
    }

    /// [`Engine::wait_published`] for threads; whether it was reached in time.
    #[must_use]
    pub fn wait_published_blocking(&self, at_least: Cut, timeout: Duration) -> bool {
        self.shared.wait_published_blocking(at_least, timeout)
    }

    /// Returns when the relation can be read, or with the reason why it never will be. Cancel-safe.
    pub async fn wait_ready(&self, relation: RelationId) -> Result<(), EngineError> {
        let mut changes = self.shared.job_changes();
        loop {
            changes.borrow_and_update();
            match self.shared.readiness(relation) {
                Err(EngineError::NotReady { .. }) => changes.changed().await.map_err(|_| EngineError::Stopped)?,
                known => return known,
            }
        }
    }

    /// [`Engine::wait_ready`] for threads.
    pub fn wait_ready_blocking(&self, relation: RelationId, timeout: Duration) -> Result<(), EngineError> {
        self.shared.wait_ready_blocking(relation, timeout)
    }

    /// Tables and materialized views with their rows, sources with their positions, all at the published cut.
    pub fn pin(&self, relations: &[RelationId]) -> Result<Pinned, EngineError> {
        let catalog = self.shared.catalog();
        let published = self.shared.published();
        let mut pinned = Pinned { cut: published.cut, relations: HashMap::with_capacity(relations.len()) };
        for id in relations {
            let relation = catalog.relation(*id).ok_or(EngineError::UnknownRelation(id.0))?;
            let one = match &relation.kind {
                RelationKind::Source(source) => {
                    PinnedRelation::Source { positions: self.source_positions(source.topic, published.cut)? }
                }
                RelationKind::View(_) => return Err(EngineError::UnknownRelation(id.0)),
                RelationKind::Table(_) | RelationKind::MaterializedView(_) => {
                    let Some(content) = published.relations.get(id) else {
                        self.shared.readiness(*id)?;
                        return Err(EngineError::NotReady { name: relation.name.clone() });
                    };
                    PinnedRelation::Collection(content.version.clone(), published.first_error(*id))
                }
            };
            pinned.relations.insert(*id, one);
        }
        Ok(pinned)
    }

    fn source_positions(&self, topic: uuid::Uuid, cut: Cut) -> Result<Vec<(i32, i64, i64)>, EngineError> {
        let input = self.input();
        let partitions: Vec<_> = input.partitions(topic).into_iter().map(|partition| (topic, partition)).collect();
        let ends = input.positions(&partitions, cut)?;
        let one = |((topic, partition), end): (&(uuid::Uuid, i32), i64)| {
            let start = input.start(*topic, *partition);
            (*partition, start.min(end), end)
        };
        Ok(partitions.iter().zip(ends).map(one).collect())
    }

    /// Where the history of a new view on these relations begins, for its definition. What it begins with stays while the
    /// holds live: until the view is ready.
    pub fn origin_of(&self, relations: &[RelationId]) -> (Vec<Origin>, Vec<Box<dyn Hold>>) {
        let (catalog, input) = (self.shared.catalog(), self.input());
        let (mut origins, mut holds) = (Vec::new(), Vec::new());
        for source in relations.iter().filter_map(|id| catalog.relation(*id)) {
            let RelationKind::Source(definition) = &source.kind else { continue };
            for partition in input.partitions(definition.topic) {
                holds.push(input.hold(definition.topic, partition, 0));
                let offset = input.start(definition.topic, partition);
                let compacted_below = input.compacted_below(definition.topic, partition);
                if offset > 0 || compacted_below > 0 {
                    origins.push(Origin { source: source.id, partition, offset, compacted_below });
                }
            }
        }
        (origins, holds)
    }

    /// Views that are not ready, in order of id.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobStatus> {
        self.shared.jobs()
    }

    /// Counters as of the last published version; lags as of now.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let mut stats = self.shared.stats();
        stats.published = self.published();
        stats.subscriptions = self.shared.subscriptions();
        let (newest, now_ms) = (self.input().newest(), self.shared.clock.wall_ms());
        let catalog = self.shared.catalog();
        let mut lags = std::collections::BTreeMap::new();
        for (id, relation) in &mut stats.relations {
            // Relations come after what they read.
            let (records, ms) = match catalog.relation(*id).and_then(|relation| relation.topic()) {
                Some(topic) => {
                    let records = self.distance(topic, stats.published, newest);
                    let age_ms = u64::try_from(now_ms - relation.newest_timestamp_ms).unwrap_or(0);
                    (records, if records > 0 { age_ms } else { 0 })
                }
                None => {
                    let below = || relation.reads.iter().filter_map(|id| lags.get(id).copied());
                    (below().map(|(records, _)| records).sum(), below().map(|(_, ms)| ms).max().unwrap_or(0))
                }
            };
            lags.insert(*id, (records, ms));
            (relation.lag_records, relation.lag_ms) = (records, ms);
        }
        stats
    }

    /// Records of a topic between two cuts.
    fn distance(&self, topic: uuid::Uuid, from: Cut, to: Cut) -> u64 {
        let partitions: Vec<_> = self.input().partitions(topic).into_iter().map(|p| (topic, p)).collect();
        let at = |cut| self.input().positions(&partitions, cut).unwrap_or_default();
        at(to).iter().zip(at(from)).map(|(to, from)| u64::try_from(to - from).unwrap_or(0)).sum()
    }

    /// Whether the lane has ended, by [`Engine::stop`] or by a failure: what readers see moves no more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.has_stopped()
    }

    /// Writes a checkpoint of the published cut and returns when it is durable.
    pub fn checkpoint_now(&self) -> Result<Cut, EngineError> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.shared.send(Command::Checkpoint(sender));
        receiver.recv().map_err(|_| EngineError::Stopped)?
    }

    /// Writes a checkpoint and ends the lane. Blocks until both are done; later calls on any handle see a stopped engine.
    pub fn stop(&self) {
        self.shared.stopping();
        self.lane.end(Command::Stop);
    }

    /// The log, for batch reads of history.
    #[must_use]
    pub fn input(&self) -> &Arc<dyn InputLog> {
        &self.shared.input
    }

    /// The log, for writes of tables.
    #[must_use]
    pub fn output(&self) -> &Arc<dyn OutputLog> {
        &self.shared.output
    }
}

impl JobStatus {
    pub(crate) fn new(relation: &Relation, rows_done: u64, rows_total: u64, state: &JobState) -> JobStatus {
        JobStatus {
            relation: relation.id,
            name: relation.name.clone(),
            rows_done,
            rows_total,
            state: state.to_string(),
        }
    }
}
