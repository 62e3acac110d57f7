//! From a checkpoint back to a lane.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};

use super::shared::has_collection;
use super::{Input, JobState, Lane, View};
use crate::checkpoint::{self, Loaded};
use crate::collection::Collection;
use crate::engine::RestoreReport;
use crate::error::EngineError;
use crate::input_log::Cut;

/// What came back.
#[derive(Default)]
struct Restored {
    cut: Cut,
    inputs: BTreeMap<RelationId, Input>,
    tables: BTreeMap<RelationId, Collection>,
    views: BTreeMap<RelationId, View>,
    failed_outputs: BTreeMap<RelationId, String>,
    warnings: Vec<String>,
}

impl Lane {
    /// Stands where the newest usable checkpoint was, or before everything. All that the catalog has is registered as not
    /// ready until it is published.
    pub(super) fn restore(&mut self, catalog: &Arc<Catalog>) -> Result<RestoreReport, EngineError> {
        let newest = self.shared.input.newest();
        let mut restored = Restored::default();
        let mut accept = |loaded: Loaded| {
            if loaded.cut > newest {
                let text = format!("it stands at cut {}, beyond the log's newest, {newest}", loaded.cut);
                return Err(EngineError::Checkpoint(text));
            }
            restored = rebuild(catalog, loaded)?;
            Ok(())
        };
        let (mut warnings, sequence) = checkpoint::load(&*self.disk, &self.config.directory, &mut accept)?;
        warnings.append(&mut restored.warnings);
        let positions = restored.inputs.iter().map(|(id, input)| (*id, input.state.partitions.clone())).collect();
        self.checkpoints.restored(positions);
        self.checkpoints.sequence = sequence;
        self.cut = restored.cut;
        self.inputs = restored.inputs;
        self.tables = restored.tables;
        self.views = restored.views;
        self.shared.outputs.restore_failed(restored.failed_outputs);
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

/// Damage that only one view has makes that view, and those that read it, read history again.
fn rebuild(catalog: &Catalog, mut loaded: Loaded) -> Result<Restored, EngineError> {
    let failed_outputs = std::mem::take(&mut loaded.failed_outputs);
    let mut restored = Restored { cut: loaded.cut, failed_outputs, ..Restored::default() };
    for relation in catalog.relations() {
        let id = relation.id;
        match &relation.kind {
            RelationKind::Source(_) | RelationKind::Table(_) => {
                let Some(state) = loaded.inputs.remove(&id) else { continue };
                let input = Input::with_state(relation, Some(state))?;
                if let Some(codec) = input.table_codec() {
                    let mut collection = Collection::try_new(codec.schema().clone(), codec.key_kind())?;
                    put_back(&mut collection, loaded.cut, loaded.chunks.remove(&id))?;
                    restored.tables.insert(id, collection);
                }
                restored.inputs.insert(id, input);
            }
            RelationKind::MaterializedView(_) => match restore_view(relation, &mut loaded, &restored) {
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
    loaded: &mut Loaded,
    restored: &Restored,
) -> Result<Option<View>, EngineError> {
    let id = relation.id;
    let Some(state) = loaded.views.remove(&id) else { return Ok(None) };
    let cut = state.cut;
    let mut view = View::restored(relation, state, loaded.operators.remove(&id).unwrap_or_default())?;
    put_back(&mut view.collection, cut, loaded.chunks.remove(&id))?;
    let is_here = |id: &RelationId| restored.inputs.contains_key(id) || restored.views.contains_key(id);
    match view.reads.iter().find(|id| !is_here(id)) {
        None => Ok(Some(view)),
        Some(missing) => Err(EngineError::State(format!("relation {} below it is not in the checkpoint", missing.0))),
    }
}

fn put_back(collection: &mut Collection, cut: Cut, chunks: Option<Vec<Vec<u8>>>) -> Result<(), EngineError> {
    chunks.unwrap_or_default().iter().try_for_each(|chunk| collection.restore_chunk(cut, chunk))
}
