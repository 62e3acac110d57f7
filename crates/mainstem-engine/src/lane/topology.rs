//! What the lane holds changes: tables and views come, join and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mainstem_catalog::{Relation, RelationId, RelationKind};

use super::{BROKEN, Command, Input, JobState, Lane, Reading};
use crate::backfill::{Backfill, Below, Context, Frontier};
use crate::collection::{Collection, ContentState};
use crate::error::EngineError;
use crate::input_log::{Cut, LogError};
use crate::state::{Layers, Owner};

/// Views with less history than a slice divided by this are made at once.
const AT_ONCE_PART: usize = 16;

impl Lane {
    /// Takes in the newest definitions: drops what is gone, begins what is new, and publishes.
    pub(super) fn take_catalog(&mut self) -> Result<(), EngineError> {
        let catalog = self.shared.catalog();
        self.catalog = catalog.clone();
        let is_live = |id: &RelationId| catalog.relation(*id).is_some();
        self.inputs.retain(|id, _| is_live(id));
        self.tables.retain(|id, _| is_live(id));
        self.views.retain(|id, _| is_live(id));
        self.waiting.retain(|id, _| is_live(id));
        self.running.retain(is_live);
        self.failed.retain(is_live);
        self.shared.forget_jobs();
        let mut ready = Vec::new();
        for relation in catalog.relations() {
            match &relation.kind {
                RelationKind::Table(_)
                    if !self.tables.contains_key(&relation.id) && !self.failed.contains(&relation.id) =>
                {
                    match self.add_table(relation) {
                        Ok(()) => ready.push(relation.id),
                        Err(EngineError::Stopped) => return Err(EngineError::Stopped),
                        Err(error) => self.fail(relation.id, error.to_string()),
                    }
                }
                RelationKind::MaterializedView(_) if !self.knows_view(relation.id) => {
                    self.shared.set_job(relation, JobState::Waiting);
                    self.waiting.insert(relation.id, relation.clone());
                }
                _ => {}
            }
        }
        ready.extend(self.begin_views()?);
        let views = &self.views;
        let is_read = |id: &RelationId| views.values().any(|view| view.reads.contains(id));
        self.inputs.retain(|id, input| input.is_table() || is_read(id));
        self.checkpoints.changed();
        self.publish();
        ready.into_iter().for_each(|id| self.shared.job_done(id));
        Ok(())
    }

    fn knows_view(&self, id: RelationId) -> bool {
        self.views.contains_key(&id)
            || self.waiting.contains_key(&id)
            || self.running.contains(&id)
            || self.failed.contains(&id)
    }

    /// A table that the lane does not have: its topic is new, or the checkpoint was lost. Read up to the lane's cut.
    fn add_table(&mut self, relation: &Arc<Relation>) -> Result<(), EngineError> {
        let log = self.log();
        let mut input = Input::new(relation)?;
        let codec = input.table_codec().expect("a table");
        let mut collection = Collection::try_new(codec.schema().clone(), codec.key_kind())?;
        let owner = Owner { relation: relation.id, generation: self.state.next_generation() };
        collection.attach(&Layers::new(self.state.clone(), owner, false), Cut::ZERO, &ContentState::default())?;
        let shared = self.shared.clone();
        let again = |_: &LogError| {
            shared.pause();
            !shared.gives_up()
        };
        let reading = Reading {
            log: &*log,
            slice_rows: self.config.slice_rows,
            read_bytes_max: self.config.read_bytes_max,
            again: &again,
        };
        let ends = input.ends(&*log, self.cut)?;
        input.hold_from_here(&*log);
        let (delta, rejected) = input.read_table(&reading, &ends, &collection.version())?;
        collection.apply(self.cut, &delta);
        self.dead_letters.offer(relation, self.topic_of_letters(), rejected, (self.cut, &ends));
        self.inputs.insert(relation.id, input);
        self.tables.insert(relation.id, collection);
        Ok(())
    }

    /// Begins every view that waits and whose inputs are here. Answers those that are ready already.
    fn begin_views(&mut self) -> Result<Vec<RelationId>, EngineError> {
        let mut ready = Vec::new();
        for relation in self.waiting.values().cloned().collect::<Vec<_>>() {
            let id = relation.id;
            let context = Context {
                log: self.log(),
                config: self.config.clone(),
                state: self.state.clone(),
                dead_letters: self.dead_letters.clone(),
                topic_of_letters: self.topic_of_letters(),
                progress: self.shared.set_job(&relation, JobState::Waiting),
            };
            let catalog = self.catalog.clone();
            let is_source = |relation: &&Arc<Relation>| matches!(relation.kind, RelationKind::Source(_));
            let source_of = |id: RelationId| catalog.relation(id).filter(is_source).cloned();
            let mut backfill = match Backfill::new(&relation, &source_of, context) {
                Ok(backfill) => backfill,
                Err(error) => {
                    self.fail(id, error.to_string());
                    continue;
                }
            };
            match self.missing_below(&backfill, &source_of) {
                Some(Missing::Failed(below)) => {
                    self.fail(id, format!("it reads relation {}, which cannot run", below.0))
                }
                Some(Missing::NotYet) => {}
                None => {
                    self.waiting.remove(&id);
                    let frontier = self.frontier();
                    let rows = backfill.distance(&frontier)?;
                    if rows <= (self.config.slice_rows / AT_ONCE_PART) as u64 {
                        self.join(backfill)?;
                        ready.push(id);
                    } else {
                        self.run_backfill(backfill, rows)?;
                    }
                }
            }
        }
        Ok(ready)
    }

    fn missing_below(
        &self,
        backfill: &Backfill,
        source_of: &dyn Fn(RelationId) -> Option<Arc<Relation>>,
    ) -> Option<Missing> {
        let is_here = |id: &RelationId| self.tables.contains_key(id) || self.views.contains_key(id);
        let missing = |id: &&RelationId| !is_here(id) && source_of(**id).is_none();
        let mut absent = backfill.view.reads.iter().filter(missing).peekable();
        absent.peek()?;
        Some(absent.find(|id| self.failed.contains(id)).map_or(Missing::NotYet, |id| Missing::Failed(*id)))
    }

    fn run_backfill(&mut self, backfill: Backfill, rows: u64) -> Result<(), EngineError> {
        let relation = backfill.view.relation.clone();
        let progress = self.shared.set_job(&relation, JobState::Running);
        progress.rows_total.store(rows, Ordering::Relaxed);
        let shared = self.shared.clone();
        // Its versions below must be published ones.
        self.publish();
        let name = format!("engine-backfill-{}", relation.id.0);
        let id = relation.id;
        let body = move || {
            let run = std::panic::AssertUnwindSafe(|| Box::new(backfill).run(&shared));
            // Who waits for the view is told in any case.
            if std::panic::catch_unwind(run).is_err() {
                shared.send(Command::Failed(id, BROKEN.to_owned()));
            }
        };
        self.spawn(&name, body)?;
        self.running.insert(relation.id);
        Ok(())
    }

    /// Tables and views as the lane has them.
    fn frontier(&self) -> Frontier {
        let tables = self.tables.iter().map(|(id, table)| (*id, Below { version: table.version() }));
        let views = self.views.iter();
        let views = views.map(|(id, view)| (*id, Below { version: view.collection.version() }));
        Frontier { cut: self.cut, below: tables.chain(views).collect() }
    }

    /// A backfill's thread is done: what is left is done here, then the view is one of the lane's.
    pub(super) fn join_backfill(&mut self, backfill: Backfill) -> Result<(), EngineError> {
        let relation = backfill.view.relation.clone();
        if !self.running.remove(&relation.id) {
            return Ok(());
        }
        self.shared.set_job(&relation, JobState::Joining);
        self.join(backfill)?;
        self.publish();
        self.shared.job_done(relation.id);
        self.checkpoints.want();
        self.take_catalog()
    }

    fn join(&mut self, mut backfill: Backfill) -> Result<(), EngineError> {
        let shared = self.shared.clone();
        let again = |_: &LogError| {
            shared.pause();
            !shared.gives_up()
        };
        match backfill.advance(&self.frontier(), &again) {
            // Dropped while it was at the door: the catalog that says so is on its way.
            Err(EngineError::Stopped) if backfill.is_cancelled() && !shared.gives_up() => return Ok(()),
            result => result?,
        }
        let Backfill { view, sources, .. } = backfill;
        for (id, input) in sources {
            match self.inputs.get_mut(&id) {
                Some(here) if here.state.partitions == input.state.partitions => {}
                Some(here) => {
                    // Damage or a gap came up between the two readings: the view misses what the others have.
                    let name = &view.relation.name;
                    tracing::error!(source = %here.relation.name, view = %name, "the view could not read all of its source");
                    let new = input.state.errors.into_iter().filter(|error| !here.state.errors.contains(error));
                    let new: Vec<String> = new.map(|error| format!("view \"{name}\": {error}")).collect();
                    here.state.errors.extend(new);
                }
                None => {
                    self.inputs.insert(id, input);
                }
            }
        }
        self.views.insert(view.relation.id, view);
        self.checkpoints.changed();
        // What retention may remove behind the view's back from now on has to be in a checkpoint.
        self.checkpoints.want();
        Ok(())
    }

    /// The view (or table) will not run; the reason is told to whoever asks.
    pub(super) fn fail(&mut self, id: RelationId, reason: String) {
        self.waiting.remove(&id);
        self.running.remove(&id);
        if let Some(relation) = self.catalog.relation(id) {
            tracing::error!(name = %relation.name, %reason, "a relation cannot run");
            self.shared.set_job(relation, JobState::Failed(reason));
            self.failed.insert(id);
        }
    }
}

enum Missing {
    NotYet,
    Failed(RelationId),
}
