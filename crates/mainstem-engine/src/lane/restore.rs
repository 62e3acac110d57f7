//! From a checkpoint back to a lane; and from a store that is damaged to one that is empty.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};
use mainstem_state::{Disk, StateError, newest, open_files, open_lsm};

use super::shared::has_collection;
use super::{Command, Input, JobState, Lane, View};
use crate::checkpoint::{self, Loaded};
use crate::collection::Collection;
use crate::engine::{EngineConfig, RestoreReport};
use crate::error::EngineError;
use crate::input_log::Cut;
use crate::state::{Layers, Owner, StateRoot};

/// Of the memory for state, what the store may keep of its files.
const CACHE_PART: u64 = 16;
const CACHE_BYTES_MAX: u64 = 32 << 20;

/// Opens the store. Answers what is to be told of it, too.
pub(super) fn open_state(
    disk: &Arc<dyn Disk>,
    config: &EngineConfig,
) -> Result<(Arc<StateRoot>, Vec<String>), EngineError> {
    let cache_bytes = (config.state_memory_bytes / CACHE_PART).min(CACHE_BYTES_MAX);
    let mut opened = match &config.state_path {
        Some(path) => open_lsm(path, cache_bytes)?,
        None => open_files(disk.clone(), &format!("{}/state", config.directory))?,
    };
    let warnings = std::mem::take(&mut opened.warnings);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}; history is read again"));
    Ok((StateRoot::new(opened, config.state_memory_bytes, 0), warnings))
}

/// What came back.
#[derive(Default)]
struct Restored {
    cut: Cut,
    inputs: BTreeMap<RelationId, Input>,
    tables: BTreeMap<RelationId, Collection>,
    views: BTreeMap<RelationId, View>,
    warnings: Vec<String>,
}

impl Lane {
    /// Stands where the newest usable checkpoint was, or before everything. All that the catalog has is registered as not
    /// ready until it is published.
    pub(super) fn restore(&mut self, catalog: &Arc<Catalog>) -> Result<RestoreReport, EngineError> {
        let old_files = newest(&*self.disk, &self.config.directory).map_err(StateError::from)?;
        let newest = self.shared.input.newest();
        let mut warnings = Vec::new();
        self.checkpoints.has_old_files = !old_files.is_empty();
        let loaded = match checkpoint::load(&self.state)? {
            Ok(Some(loaded)) if loaded.cut > newest => {
                let text = format!("it stands at cut {}, beyond the log's newest, {newest}", loaded.cut);
                Err(EngineError::Checkpoint(text))
            }
            loaded => loaded,
        };
        let rebuilt = loaded.and_then(|loaded| match loaded {
            Some(loaded) => rebuild(catalog, &self.state, loaded),
            None => {
                warnings.extend(old_files.first().map(|newest| {
                    tracing::warn!(newest, "checkpoints of an earlier build are not read; history is");
                    format!("checkpoint {newest} is of an earlier build and is not used: history is read again")
                }));
                Ok(Restored::default())
            }
        });
        let mut restored = match rebuilt {
            Ok(restored) => restored,
            Err(error) => {
                tracing::warn!(%error, "the checkpoint cannot be used; history is read again");
                warnings.push(format!("the checkpoint is not used: {error}"));
                self.state.clear()?;
                Restored::default()
            }
        };
        warnings.append(&mut restored.warnings);
        self.cut = restored.cut;
        self.inputs = restored.inputs;
        self.tables = restored.tables;
        self.views = restored.views;
        let log = self.log();
        self.inputs.values_mut().for_each(|input| input.hold_from_here(&*log));
        for relation in catalog.relations().filter(|relation| has_collection(relation)) {
            if !self.tables.contains_key(&relation.id) && !self.views.contains_key(&relation.id) {
                self.shared.set_job(relation, JobState::Waiting);
            }
        }
        self.shared.with_stats(|stats| {
            stats.replay_started_at = self.cut;
            stats.checkpoint = self.cut;
        });
        tracing::info!(cut = %self.cut, %newest, views = self.views.len(), "the engine starts from its checkpoint");
        Ok(RestoreReport {
            checkpoint: self.cut,
            replay_from: self.cut,
            newest,
            views_restored: self.views.len(),
            views_to_backfill: 0,
            warnings,
        })
    }
}

impl Lane {
    /// A step; or, when it found the store damaged, everything from the start.
    pub(super) fn step_or_start_over(&mut self) -> Result<bool, EngineError> {
        let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.step()));
        match (self.state.take_damage(), step) {
            // Whatever the step left behind is dropped with all the rest.
            (Some(reason), _) => self.start_over(&reason).map(|()| true),
            (None, Ok(result)) => result,
            (None, Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    /// Empties the store and reads history again. What was published stays so until the views are back.
    fn start_over(&mut self, reason: &str) -> Result<(), EngineError> {
        tracing::error!(reason, "the state store is damaged; it is emptied, and history is read again");
        let mut others = Vec::new();
        while self.checkpoints.is_in_flight() {
            match self.commands.recv() {
                Ok(Command::Checkpointed(result)) => self.checkpointed(result),
                Ok(other) => others.push(other),
                Err(_) => return Err(EngineError::Stopped),
            }
        }
        others.into_iter().for_each(|command| self.shared.send(command));
        self.views.clear();
        self.tables.clear();
        self.inputs.clear();
        self.state.clear()?;
        self.take_catalog()?;
        self.checkpoints.want();
        Ok(())
    }
}

/// What cannot be used of one view makes that view, and those that read it, read history again.
fn rebuild(catalog: &Catalog, state: &Arc<StateRoot>, mut loaded: Loaded) -> Result<Restored, EngineError> {
    state.begin_at(loaded.generation);
    let mut restored = Restored { cut: loaded.cut, ..Restored::default() };
    for relation in catalog.relations() {
        let id = relation.id;
        match &relation.kind {
            RelationKind::Source(_) | RelationKind::Table(_) => {
                let Some(read) = loaded.inputs.remove(&id) else { continue };
                let input = Input::with_state(relation, Some(read))?;
                if let Some(codec) = input.table_codec() {
                    let Some(kept) = loaded.relations.remove(&id) else { continue };
                    let mut collection = Collection::try_new(codec.schema().clone(), codec.key_kind())?;
                    let owner = Owner { relation: id, generation: kept.generation };
                    collection.attach(&Layers::new(state.clone(), owner, true), kept.cut, &kept.content)?;
                    restored.tables.insert(id, collection);
                }
                restored.inputs.insert(id, input);
            }
            RelationKind::MaterializedView(_) => match restore_view(relation, state, &mut loaded, &restored) {
                Ok(Some(view)) => {
                    restored.views.insert(id, view);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(view = %relation.name, %error, "the view's state cannot be used; it reads history again");
                    restored.warnings.push(format!("view \"{}\" reads history again: {error}", relation.name));
                }
            },
            RelationKind::View(_) => {}
        }
    }
    Ok(restored)
}

fn restore_view(
    relation: &Arc<Relation>,
    state: &Arc<StateRoot>,
    loaded: &mut Loaded,
    restored: &Restored,
) -> Result<Option<View>, EngineError> {
    let Some(kept) = loaded.relations.remove(&relation.id) else { return Ok(None) };
    let view = View::restored(relation, kept, state)?;
    let is_here = |id: &RelationId| restored.inputs.contains_key(id) || restored.views.contains_key(id);
    match view.reads.iter().find(|id| !is_here(id)) {
        None => Ok(Some(view)),
        Some(missing) => Err(EngineError::State(format!("relation {} below it is not in the checkpoint", missing.0))),
    }
}
