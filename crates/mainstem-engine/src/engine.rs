//! The handle on the running engine: what sessions, the batch side and the server see of it.
//!
//! Words: a *lane* is a thread that moves views which read one another (see `lane`); a *pin* is the content of several
//! relations at one cut; a *job* is a view that still reads history.
//!
//! Always true here: all relations of a pin stand at the same cut; a pin stays what it is while lanes go on; nothing here
//! makes a lane wait: a pin over several lanes waits for the one that is behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstem_catalog::{Catalog, Origin, Relation, RelationId, RelationKind};
use mainstem_state::{Clock, Disk};
use parking_lot::Mutex;

use crate::collection::Version;
use crate::error::EngineError;
use crate::incremental::Shards;
use crate::input_log::{Cut, Hold, InputLog, OutputLog};
use crate::lane::{self, Command, Demand, JobState, Published, Shared};
use crate::outputs::SinkStats;
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
    /// How operators are divided, so that large deltas are worked on in parallel. Results do not depend on it, and it may
    /// change from start to start. With one shard nothing is read ahead either.
    pub shards: Shards,
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
    /// A sink's commit holds about this many bytes of records at most; what is more comes in parts.
    pub output_commit_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            directory: "engine".to_owned(),
            slice_rows: 64 << 10,
            shards: Shards::default(),
            version_time_max: Duration::from_millis(20),
            read_bytes_max: 4 << 20,
            checkpoint_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(30),
            state_path: None,
            state_memory_bytes: 512 << 20,
            output_commit_bytes: 32 << 20,
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
    /// Views that have history to read.
    pub views_to_backfill: usize,
    /// Of these, those whose backfill goes on where the checkpoint had it.
    pub backfills_resumed: usize,
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
    /// `waiting`, `running`, `paused`, `joining`, `switching` (it is about to take the place of another) or `failed: reason`.
    pub state: String,
    /// Milliseconds since it began to read.
    pub elapsed_ms: u64,
}

impl JobStatus {
    /// Rows that are read per second, and seconds until it has read all, at that rate; none while that cannot be told.
    #[must_use]
    pub fn estimate(&self) -> Option<(u64, u64)> {
        let per_second = self.rows_done.saturating_mul(1000).checked_div(self.elapsed_ms)?;
        let left = self.rows_total.saturating_sub(self.rows_done).checked_div(per_second)?;
        (self.state == "running").then_some((per_second, left))
    }
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
    /// What SELECT sees of all relations.
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
    /// Rows of tables and views that queries have read since the engine was opened.
    pub rows_read: u64,
    /// By relation.
    pub relations: BTreeMap<RelationId, RelationStats>,
    /// By sink.
    pub sinks: BTreeMap<RelationId, SinkStats>,
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

/// Everything at one cut, as far as lanes have come there, see [`Engine::pin_all`].
#[derive(Clone, Debug)]
pub(crate) struct PinnedAll {
    demand: Demand,
}

impl PinnedAll {
    /// Its cut.
    pub(crate) fn cut(&self) -> Cut {
        self.demand.cut
    }

    /// Whether the relation was there.
    pub(crate) fn covers(&self, id: RelationId) -> bool {
        self.demand.covers(id)
    }

    /// These relations, when their lanes have come to the cut. Cancel-safe.
    pub(crate) async fn of(&self, engine: &Engine, relations: &[RelationId]) -> Result<Pinned, EngineError> {
        let mut moves = engine.shared.moves();
        loop {
            moves.borrow_and_update();
            if let Some(published) = self.demand.of(relations) {
                return engine.pinned(relations, Some(published));
            }
            if engine.shared.has_stopped() {
                return Err(EngineError::Stopped);
            }
            // One that was dropped will never be there.
            relations.iter().try_for_each(|id| engine.shared.readiness(*id))?;
            moves.changed().await.map_err(|_| EngineError::Stopped)?;
        }
    }
}

/// The running engine. A clone is another handle; when the last one is dropped, all its threads end as if killed.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    threads: Arc<Threads>,
}

#[derive(Debug)]
struct Threads {
    shared: Arc<Shared>,
    coordinator: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Threads {
    fn end(&self, command: Command) {
        self.shared.send(command);
        if let Some(thread) = self.coordinator.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.abandon();
        self.end(Command::Abandon);
    }
}

impl Engine {
    /// Loads the newest checkpoint that is whole and starts the lanes, which replay what came after it. Views that the
    /// checkpoint does not know read history in the background ([`Engine::wait_ready`]).
    pub fn open(parts: EngineParts, catalog: Arc<Catalog>) -> Result<(Engine, RestoreReport), EngineError> {
        let (shared, thread, report) = lane::start(parts, catalog)?;
        let threads = Arc::new(Threads { shared: shared.clone(), coordinator: Mutex::new(Some(thread)) });
        Ok((Engine { shared, threads }, report))
    }

    /// To be called after DDL is durable: new tables and views start, dropped ones stop. Returns at once.
    pub fn catalog_changed(&self, catalog: Arc<Catalog>) {
        self.shared.catalog_changed(catalog);
    }

    /// What SELECT sees of all relations: the least of what their lanes have published.
    #[must_use]
    pub fn published(&self) -> Cut {
        self.shared.published()
    }

    /// How far tables are, which nothing that can be read is beyond.
    #[must_use]
    pub fn front(&self) -> Cut {
        self.shared.with_frontiers(|all| all.front())
    }

    /// Returns when what is aside has taken the place of these, or is gone. Cancel-safe.
    pub async fn wait_replaced(&self, roots: &[RelationId]) -> Result<(), EngineError> {
        let mut changes = self.shared.job_changes();
        loop {
            changes.borrow_and_update();
            let catalog = self.shared.catalog();
            if roots.iter().all(|root| catalog.replacement_of(*root).is_none()) {
                return Ok(());
            }
            if self.shared.has_stopped() {
                return Err(EngineError::Stopped);
            }
            changes.changed().await.map_err(|_| EngineError::Stopped)?;
        }
    }

    /// Returns when all that there is shows at least this cut; `Stopped` when it never will. Cancel-safe.
    pub async fn wait_published(&self, at_least: Cut) -> Result<(), EngineError> {
        self.wait_until(|shared| shared.published() >= at_least).await
    }

    /// [`Engine::wait_published`] for these relations only: waits for no lane but theirs.
    pub async fn wait_published_of(&self, relations: &[RelationId], at_least: Cut) -> Result<(), EngineError> {
        self.wait_until(|shared| shared.with_frontiers(|all| all.reach_of_all(relations)) >= at_least).await
    }

    async fn wait_until(&self, is_true: impl Fn(&Shared) -> bool) -> Result<(), EngineError> {
        let mut moves = self.shared.moves();
        loop {
            moves.borrow_and_update();
            if is_true(&self.shared) {
                return Ok(());
            }
            if self.shared.has_stopped() {
                return Err(EngineError::Stopped);
            }
            moves.changed().await.map_err(|_| EngineError::Stopped)?;
        }
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

    /// Tables and materialized views with their rows, sources with their positions, all at one cut: the highest that their
    /// lanes have published. Where there is none yet this blocks until there is ([`Engine::pin_when`] does not); relations of
    /// one lane, or tables alone, never wait.
    pub fn pin(&self, relations: &[RelationId]) -> Result<Pinned, EngineError> {
        let stored = self.stored(relations)?;
        let published = self.shared.pin_blocking(&stored, &|| false);
        self.pinned(relations, published)
    }

    /// The same at a cut that is not before `at_least`, as soon as there is one. Waits until the relations are ready.
    /// Cancel-safe.
    pub async fn pin_when(&self, relations: &[RelationId], at_least: Cut) -> Result<Pinned, EngineError> {
        for id in relations {
            self.wait_ready(*id).await?;
        }
        let stored = self.stored(relations)?;
        let (mut moves, mut demand) = (self.shared.moves(), None);
        loop {
            moves.borrow_and_update();
            if let Some(published) = self.shared.pin(&stored, at_least, &mut demand) {
                return self.pinned(relations, Some(published));
            }
            if self.shared.has_stopped() {
                return Err(EngineError::Stopped);
            }
            stored.iter().try_for_each(|id| self.shared.readiness(*id))?;
            moves.changed().await.map_err(|_| EngineError::Stopped)?;
        }
    }

    /// Everything that can be read, at the cut that tables stand at now. Lanes that are not there yet are waited for when
    /// something of theirs is asked for.
    pub(crate) fn pin_all(&self) -> PinnedAll {
        let catalog = self.shared.catalog();
        let is_stored =
            |it: &&Arc<Relation>| matches!(it.kind, RelationKind::Table(_) | RelationKind::MaterializedView(_));
        let stored: Vec<RelationId> = catalog.relations().filter(is_stored).map(|relation| relation.id).collect();
        let demand = self.shared.publish(|all| {
            let ready: Vec<RelationId> = stored.into_iter().filter(|id| all.has(*id)).collect();
            all.demand(&ready)
        });
        PinnedAll { demand }
    }

    /// Tables and materialized views among these; an error for one that is unknown, or that cannot be read.
    fn stored(&self, relations: &[RelationId]) -> Result<Vec<RelationId>, EngineError> {
        let catalog = self.shared.catalog();
        let mut stored = Vec::with_capacity(relations.len());
        for id in relations {
            match catalog.relation(*id).ok_or(EngineError::UnknownRelation(id.0))?.kind {
                RelationKind::Source(_) => {}
                RelationKind::View(_) => return Err(EngineError::UnknownRelation(id.0)),
                RelationKind::Table(_) | RelationKind::MaterializedView(_) => {
                    // What was published stays readable when the engine has stopped.
                    self.shared.readiness(*id)?;
                    stored.push(*id);
                }
            }
        }
        Ok(stored)
    }

    fn pinned(&self, relations: &[RelationId], published: Option<Published>) -> Result<Pinned, EngineError> {
        let catalog = self.shared.catalog();
        let Some(published) = published else {
            relations.iter().try_for_each(|id| self.shared.readiness(*id))?;
            return Err(EngineError::Stopped);
        };
        let mut pinned = Pinned { cut: published.cut, relations: HashMap::with_capacity(relations.len()) };
        for id in relations {
            let relation = catalog.relation(*id).ok_or(EngineError::UnknownRelation(id.0))?;
            let one = match (&relation.kind, published.relations.get(id)) {
                (RelationKind::Source(source), _) => {
                    PinnedRelation::Source { positions: self.source_positions(source.topic, published.cut)? }
                }
                (_, Some(content)) => {
                    let error = content.error.as_ref().map(|error| error.to_string());
                    PinnedRelation::Collection(content.version.clone(), error)
                }
                (_, None) => return Err(EngineError::NotReady { name: relation.name.clone() }),
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
        use std::sync::atomic::Ordering::Relaxed;
        stats.published = self.published();
        stats.versions = self.shared.versions();
        stats.subscriptions = self.shared.subscriptions.load(Relaxed);
        stats.rows_read = self.shared.rows_queried.load(Relaxed);
        let (newest, now_ms) = (self.input().newest(), self.shared.clock.wall_ms());
        let catalog = self.shared.catalog();
        // By relation: its topics and the newest timestamp that was read of them.
        let mut inputs: HashMap<RelationId, BTreeMap<uuid::Uuid, i64>> = HashMap::new();
        for (id, relation) in &mut stats.relations {
            // Relations come after what they read.
            let topics: BTreeMap<uuid::Uuid, i64> = match catalog.relation(*id).and_then(|relation| relation.topic()) {
                Some(topic) => BTreeMap::from([(topic, relation.newest_timestamp_ms)]),
                None => {
                    relation.reads.iter().filter_map(|id| inputs.get(id)).flatten().map(|(t, n)| (*t, *n)).collect()
                }
            };
            let stands = self.shared.with_frontiers(|all| all.reach_of(*id));
            for (topic, newest_timestamp_ms) in &topics {
                let records = self.distance(*topic, stands, newest);
                relation.lag_records += records;
                if records > 0 {
                    let age_ms = u64::try_from(now_ms - newest_timestamp_ms).unwrap_or(0);
                    relation.lag_ms = relation.lag_ms.max(age_ms);
                }
            }
            inputs.insert(*id, topics);
            if let Some(known) = catalog.relation(*id) {
                relation.name.clone_from(&known.name);
            }
            if catalog.is_aside(*id) {
                relation.name.push_str(" (replacement)");
            }
        }
        stats.sinks = self.shared.outputs.stats(&|sink, done, done_ms| {
            let topics = topics_below(&catalog, sink.from);
            let records = topics.into_iter().map(|topic| self.distance(topic, done, newest)).sum();
            let age_ms = u64::try_from(now_ms - done_ms).unwrap_or(0);
            (records, if records > 0 { age_ms } else { 0 })
        });
        stats
    }

    /// Returns when the sink has written what is there at its beginning, or with the reason why it never will. Cancel-safe.
    pub async fn wait_sink(&self, sink: RelationId) -> Result<(), EngineError> {
        let mut changes = self.shared.job_changes();
        loop {
            changes.borrow_and_update();
            match self.shared.outputs.has_begun(sink) {
                Some(Ok(())) => return Ok(()),
                Some(Err(reason)) => return Err(EngineError::SinkFailed(reason)),
                None if self.shared.has_stopped() => return Err(EngineError::Stopped),
                None if self.shared.catalog().sink(sink).is_none() => return Err(EngineError::UnknownRelation(sink.0)),
                None => changes.changed().await.map_err(|_| EngineError::Stopped)?,
            }
        }
    }

    /// Returns when lookups by these columns of a table or view are there, or when the relation will never be. Cancel-safe.
    pub async fn wait_index(&self, of: RelationId, columns: &[usize]) -> Result<(), EngineError> {
        let mut moves = self.shared.moves();
        loop {
            moves.borrow_and_update();
            match self.has_order(of, columns)? {
                true => return Ok(()),
                false => moves.changed().await.map_err(|_| EngineError::Stopped)?,
            }
        }
    }

    /// [`Engine::wait_index`] for threads; whether it was there in time.
    #[must_use]
    pub fn wait_index_blocking(&self, of: RelationId, columns: &[usize], timeout: Duration) -> bool {
        let is_there = || self.has_order(of, columns).unwrap_or(true);
        self.shared.wait_until(timeout, is_there);
        is_there()
    }

    fn has_order(&self, of: RelationId, columns: &[usize]) -> Result<bool, EngineError> {
        let published = self.shared.with_frontiers(|all| all.common(&[of]));
        if let Some(content) = published.as_ref().and_then(|published| published.relations.get(&of)) {
            return Ok(self.shared.has_stopped() || content.version.ordered_by(columns).is_some());
        }
        match self.shared.readiness(of) {
            Err(EngineError::NotReady { .. }) => Ok(false),
            Err(EngineError::ViewFailed { .. }) => Ok(true),
            known => known.map(|()| true),
        }
    }

    /// Records of a topic between two cuts.
    fn distance(&self, topic: uuid::Uuid, from: Cut, to: Cut) -> u64 {
        let partitions: Vec<_> = self.input().partitions(topic).into_iter().map(|p| (topic, p)).collect();
        let at = |cut| self.input().positions(&partitions, cut).unwrap_or_default();
        at(to).iter().zip(at(from)).map(|(to, from)| u64::try_from(to - from).unwrap_or(0)).sum()
    }

    /// Whether the engine has ended, by [`Engine::stop`] or by a failure: what readers see moves no more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.has_stopped()
    }

    /// Blocks until sinks have written all that changed up to this cut; those that have failed for good are not waited for.
    /// Whether the engine had heard of all sinks in time.
    #[must_use]
    pub fn wait_sinks_written(&self, cut: Cut, timeout: Duration) -> bool {
        let catalog = self.shared.catalog();
        let are_known = || catalog.sinks().all(|sink| self.shared.outputs.knows(sink.id));
        self.shared.wait_until(timeout, are_known);
        self.shared.outputs.wait_done(cut);
        are_known()
    }

    /// Writes a checkpoint of what is published, or a later cut, and returns its least cut when it is durable.
    pub fn checkpoint_now(&self) -> Result<Cut, EngineError> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.shared.send(Command::Checkpoint(sender));
        receiver.recv().map_err(|_| EngineError::Stopped)?
    }

    /// Writes a checkpoint and ends all threads. Blocks until both are done; later calls on any handle see a stopped engine.
    pub fn stop(&self) {
        self.shared.stopping();
        self.threads.end(Command::Stop);
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

/// The topics of the sources and tables that a relation is made of.
fn topics_below(catalog: &Catalog, relation: RelationId) -> BTreeSet<uuid::Uuid> {
    let mut topics = BTreeSet::new();
    let mut queue = vec![relation];
    while let Some(relation) = queue.pop().and_then(|id| catalog.relation(id)) {
        topics.extend(relation.topic());
        queue.extend(relation.depends_on.iter().filter_map(|dependency| match dependency {
            mainstem_catalog::Dependency::Relation(below) => Some(*below),
            mainstem_catalog::Dependency::Topic(_) => None,
        }));
    }
    topics
}

impl JobStatus {
    pub(crate) fn new(relation: &Relation, rows_done: u64, rows_total: u64, state: &JobState) -> JobStatus {
        JobStatus {
            relation: relation.id,
            name: relation.name.clone(),
            rows_done,
            rows_total,
            state: state.to_string(),
            elapsed_ms: 0,
        }
    }
}
