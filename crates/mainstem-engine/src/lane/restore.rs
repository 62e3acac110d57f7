//! From a checkpoint back to tables and lanes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};

use super::checkpoints::Held;
use super::coordinator::Coordinator;
use super::shared::has_collection;
use super::tables::{positions, times};
use super::topology::LaneParts;
use super::{Content, Input, JobState, View};
use crate::checkpoint::{self, LaneState, Loaded};
use crate::collection::Collection;
use crate::engine::RestoreReport;
use crate::error::EngineError;
use crate::incremental::Shards;
use crate::input_log::Cut;

/// What came back.
#[derive(Default)]
struct Restored {
    cut: Cut,
    inputs: BTreeMap<RelationId, Input>,
    tables: BTreeMap<RelationId, Collection>,
    lanes: Vec<LaneParts>,
    warnings: Vec<String>,
}

impl Coordinator {
    /// Stands where the newest usable checkpoint was, or before everything, and starts its lanes. All that the catalog has is
    /// registered as not ready until it is published.
    pub(super) fn restore(&mut self, catalog: &Arc<Catalog>) -> Result<RestoreReport, EngineError> {
        let (newest, shards) = (self.shared.input.newest(), self.config.shards);
        let mut restored = Restored::default();
        let mut accept = |loaded: Loaded| {
            let last = loaded.lanes.iter().map(|lane| lane.cut).fold(loaded.cut, Cut::max);
            if last > newest {
                let text = format!("it stands at cut {last}, beyond the log's newest, {newest}");
                return Err(EngineError::Checkpoint(text));
            }
            restored = rebuild(catalog, loaded, shards)?;
            Ok(())
        };
        let (mut warnings, sequence) = checkpoint::load(&*self.disk, &self.config.directory, &mut accept)?;
        warnings.append(&mut restored.warnings);
        self.checkpoints.sequence = sequence;
        self.cut = restored.cut;
        self.inputs = restored.inputs;
        self.tables = restored.tables;
        let log = self.log();
        self.inputs.values_mut().for_each(|input| input.hold_from_here(&*log));
        self.times = times(&*log, self.cut)?;
        let tables = self.contents();
        self.shared.publish(|all| all.begin(self.cut, tables));
        let least = restored.lanes.iter().map(|lane| lane.cut).fold(self.cut, Cut::min);
        let of = |input: &Input| input.state.partitions.clone();
        let mut held = Held::default();
        held.tables = self.inputs.iter().map(|(id, input)| (*id, of(input))).collect();
        let mut views: BTreeSet<RelationId> = BTreeSet::new();
        for mut lane in restored.lanes {
            views.extend(lane.views.keys());
            for (id, input) in &mut lane.sources {
                input.hold_from_here(&*log);
                let ends = positions(&*log, input.topic, self.cut)?;
                self.sources.insert(*id, (input.topic, ends));
            }
            let positions = lane.sources.iter().map(|(id, input)| (*id, of(input))).collect();
            let id = self.start_lane(lane)?;
            held.lanes.insert(id, positions);
        }
        self.checkpoints.restored(held);
        for relation in catalog.relations().filter(|relation| has_collection(relation)) {
            if !self.tables.contains_key(&relation.id) && !views.contains(&relation.id) {
                self.shared.set_job(relation, JobState::Waiting);
            }
        }
        self.shared.with_stats(|stats| {
            stats.replay_started_at = least;
            stats.checkpoint = least;
        });
        tracing::info!(cut = %least, %newest, views = views.len(), "the engine starts from its checkpoint");
        Ok(RestoreReport {
            checkpoint: least,
            replay_from: least,
            newest,
            views_restored: views.len(),
            views_to_backfill: 0,
            warnings,
        })
    }
}

/// Damage that only one view has makes that view, and those that read it, read history again.
fn rebuild(catalog: &Catalog, mut loaded: Loaded, shards: Shards) -> Result<Restored, EngineError> {
    let mut restored = Restored { cut: loaded.cut, ..Restored::default() };
    for relation in catalog.relations().filter(|relation| matches!(relation.kind, RelationKind::Table(_))) {
        let id = relation.id;
        let Some(state) = loaded.inputs.remove(&id) else { continue };
        let input = Input::with_state(relation, Some(state))?;
        let codec = input.table_codec().expect("a table");
        let mut collection = Collection::try_new(codec.schema().clone(), codec.key_kind())?;
        put_back(&mut collection, loaded.cut, loaded.chunks.remove(&id))?;
        restored.tables.insert(id, collection);
        restored.inputs.insert(id, input);
    }
    for mut state in std::mem::take(&mut loaded.lanes) {
        let is_source =
            |id: RelationId| catalog.relation(id).is_some_and(|it| matches!(it.kind, RelationKind::Source(_)));
        state.inputs.retain(|(id, _)| is_source(*id));
        let mut views: BTreeMap<RelationId, View> = BTreeMap::new();
        for relation in catalog.relations().filter(|relation| state.views.contains(&relation.id)) {
            match restore_view(relation, &state, &mut loaded, (&restored, &views), shards) {
                Ok(Some(view)) => {
                    views.insert(relation.id, view);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(view = %relation.name, %error, "the view's state cannot be used; it reads history again");
                    restored.warnings.push(format!("view \"{}\" reads history again: {error}", relation.name));
                }
            }
        }
        for views in apart(views) {
            let lane = lane_of(catalog, &state, views, &restored)?;
            restored.lanes.push(lane);
        }
    }
    Ok(restored)
}

fn restore_view(
    relation: &Arc<Relation>,
    lane: &LaneState,
    loaded: &mut Loaded,
    (restored, views): (&Restored, &BTreeMap<RelationId, View>),
    shards: Shards,
) -> Result<Option<View>, EngineError> {
    let id = relation.id;
    let Some(state) = loaded.views.remove(&id) else { return Ok(None) };
    let cut = state.cut;
    let mut view = View::restored(relation, state, loaded.operators.remove(&id).unwrap_or_default(), shards)?;
    put_back(&mut view.collection, cut, loaded.chunks.remove(&id))?;
    let is_table = |id: &RelationId| restored.tables.contains_key(id) && lane.cut == restored.cut;
    let is_source = |id: &RelationId| lane.inputs.iter().any(|(input, _)| input == id);
    let is_here = |id: &RelationId| is_table(id) || is_source(id) || views.contains_key(id);
    match view.reads.iter().find(|id| !is_here(id)) {
        None => Ok(Some(view)),
        Some(missing) => Err(EngineError::State(format!("relation {} below it is not in the checkpoint", missing.0))),
    }
}

/// Views that do not read one another any more are lanes of their own.
fn apart(mut views: BTreeMap<RelationId, View>) -> Vec<BTreeMap<RelationId, View>> {
    let mut groups: Vec<BTreeMap<RelationId, View>> = Vec::new();
    // A view is younger than what it reads.
    while let Some((id, view)) = views.pop_first() {
        let is_below = |group: &BTreeMap<RelationId, View>| view.reads.iter().any(|below| group.contains_key(below));
        let (below, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(is_below);
        groups = others;
        let mut group: BTreeMap<RelationId, View> = below.into_iter().flatten().collect();
        group.insert(id, view);
        groups.push(group);
    }
    groups
}

fn lane_of(
    catalog: &Catalog,
    state: &LaneState,
    views: BTreeMap<RelationId, View>,
    restored: &Restored,
) -> Result<LaneParts, EngineError> {
    let reads: BTreeSet<RelationId> = views.values().flat_map(|view| view.reads.iter().copied()).collect();
    let (mut sources, mut tables) = (BTreeMap::new(), HashMap::new());
    for id in reads {
        if let Some(table) = restored.tables.get(&id) {
            let error = restored.inputs.get(&id).and_then(Input::first_error);
            tables.insert(id, Content { version: table.version(), error });
        } else if let Some((_, input)) = state.inputs.iter().find(|(input, _)| *input == id)
            && let Some(relation) = catalog.relation(id)
        {
            sources.insert(id, Input::with_state(relation, Some(input.clone()))?);
        }
    }
    Ok(LaneParts { cut: state.cut, sources, tables, views })
}

fn put_back(collection: &mut Collection, cut: Cut, chunks: Option<Vec<Vec<u8>>>) -> Result<(), EngineError> {
    chunks.unwrap_or_default().iter().try_for_each(|chunk| collection.restore_chunk(cut, chunk))
}
