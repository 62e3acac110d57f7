//! From a checkpoint back to tables and lanes; and from a store that is damaged to one that is empty.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mainstem_catalog::{Catalog, RelationId, RelationKind};
use mainstem_state::{Disk, StateError, newest, open_files, open_lsm};

use super::coordinator::{Coordinator, LaneHandle};
use super::shared::has_collection;
use super::tables::{content_of, positions, times};
use super::topology::{LaneParts, source_of};
use super::{Command, Flow, Input, JobState, View};
use crate::backfill::Backfill;
use crate::checkpoint::{self, LaneState, Loaded};
use crate::collection::{Collection, Version};
use crate::engine::{EngineConfig, RestoreReport};
use crate::error::EngineError;
use crate::incremental::Shards;
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
    lanes: Vec<LaneParts>,
    backfills: Vec<ResumedBackfill>,
    failed_outputs: BTreeMap<RelationId, String>,
    /// As of which cut the checkpoint has tables and views.
    places: BTreeMap<RelationId, Cut>,
    warnings: Vec<String>,
}

/// A view that had read a part of history.
struct ResumedBackfill {
    view: View,
    state: LaneState,
    /// What it reads of tables and views, as the checkpoint has it.
    below: HashMap<RelationId, Arc<Version>>,
}

impl Coordinator {
    /// Stands where the newest usable checkpoint was, or before everything, and starts its lanes. All that the catalog has is
    /// registered as not ready until it is published.
    pub(super) fn restore(&mut self, catalog: &Arc<Catalog>) -> Result<RestoreReport, EngineError> {
        let old_files = newest(&*self.disk, &self.config.directory).map_err(StateError::from)?;
        let (newest, state, shards) = (self.shared.input.newest(), self.shared.state.clone(), self.config.shards);
        let mut warnings = Vec::new();
        self.checkpoints.has_old_files = !old_files.is_empty();
        let loaded = match checkpoint::load(&state)? {
            Ok(Some(loaded)) => {
                let last = loaded.lanes.iter().map(|lane| lane.cut).fold(loaded.cut, Cut::max);
                let text = format!("it stands at cut {last}, beyond the log's newest, {newest}");
                if last > newest { Err(EngineError::Checkpoint(text)) } else { Ok(Some(loaded)) }
            }
            loaded => loaded,
        };
        let rebuilt = loaded.and_then(|loaded| match loaded {
            Some(loaded) => rebuild(catalog, &state, loaded, shards),
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
                state.clear()?;
                Restored::default()
            }
        };
        warnings.append(&mut restored.warnings);
        self.cut = restored.cut;
        self.inputs = restored.inputs;
        self.tables = restored.tables;
        self.shared.outputs.restore(restored.failed_outputs, restored.places);
        self.take_outputs(catalog)?;
        self.unless_damaged(|it| it.keep_orders());
        let log = self.log();
        self.inputs.values_mut().for_each(|input| input.hold_from_here(&*log));
        self.times = times(&*log, self.cut)?;
        let tables = self.contents();
        self.shared.publish(|all| all.begin(self.cut, tables));
        let least = restored.lanes.iter().map(|lane| lane.cut).fold(self.cut, Cut::min);
        let mut views: BTreeSet<RelationId> = BTreeSet::new();
        for mut lane in restored.lanes {
            views.extend(lane.views.keys());
            self.shared.publish(|all| all.checkpoint_has(lane.views.keys().copied()));
            for (id, input) in &mut lane.sources {
                input.hold_from_here(&*log);
                let ends = positions(&*log, input.topic, self.cut)?;
                self.sources.insert(*id, (input.topic, ends));
            }
            self.start_lane(lane)?;
        }
        for relation in catalog.relations().filter(|relation| has_collection(relation)) {
            if !self.tables.contains_key(&relation.id) && !views.contains(&relation.id) {
                self.shared.set_job(relation, JobState::Waiting);
            }
        }
        let backfills_resumed = restored.backfills.len();
        for ResumedBackfill { view, state, below } in restored.backfills {
            let relation = view.relation.clone();
            let context = self.backfill_context(catalog, &relation);
            let backfill = Backfill::resumed(view, state, below, &source_of(catalog), context)?;
            tracing::info!(view = %relation.name, "goes on reading history where the checkpoint stands");
            self.parked.insert(relation.id, backfill);
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
            backfills_resumed,
            warnings,
        })
    }
}

impl Coordinator {
    /// Empties the store and reads history again, since something in it could not be read.
    pub(super) fn start_over(&mut self, reason: &str) -> Result<(), EngineError> {
        tracing::error!(reason, "the state store is damaged; it is emptied, and history is read again");
        // Nothing that reads the store goes on.
        self.shared.restart_jobs();
        self.lanes.values().for_each(LaneHandle::end);
        self.shared.outputs.start_over();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for command in self.commands.try_iter().collect::<Vec<_>>() {
            match command {
                Command::Checkpointed(result) => self.checkpointed(result),
                Command::Part(part) => self.take_part(*part),
                // Of what is no more.
                Command::Caught(_)
                | Command::Failed(..)
                | Command::Joined(_)
                | Command::Surrendered(_)
                | Command::Ended(_)
                | Command::Damaged
                | Command::Broken => {}
                Command::Advanced | Command::Catalog | Command::Checkpoint(_) | Command::Stop | Command::Abandon => {
                    self.shared.send(command)
                }
            }
        }
        self.give_up_gathering();
        let merging = self.lanes.values().filter_map(|lane| lane.merging.as_ref()).flat_map(|merging| merging.lanes());
        let lanes: Vec<_> = self.lanes.keys().copied().chain(merging).collect();
        self.shared.publish(|all| lanes.into_iter().for_each(|id| all.remove_lane(id)));
        self.lanes.clear();
        self.running.clear();
        self.parked.clear();
        self.waiting.clear();
        self.failed.clear();
        self.tables.clear();
        self.inputs.clear();
        self.sources.clear();
        self.shared.decoded.retain(|_| false);
        self.shared.state.clear()?;
        self.take_catalog()?;
        self.checkpoints.want();
        Ok(())
    }

    /// After a turn: whether there is nothing more to do. What of the turn rested on a damaged store is dropped with all the
    /// rest.
    pub(super) fn look_for_damage(&mut self, turn: std::thread::Result<Flow>) -> Flow {
        if let Ok(Flow::End) = turn {
            return Flow::End;
        }
        let Some(reason) = self.shared.state.take_damage() else {
            return turn.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        };
        match self.start_over(&reason) {
            Ok(()) => Flow::On,
            Err(EngineError::Stopped) => Flow::End,
            Err(error) => {
                tracing::error!(%error, "the state store cannot be emptied; the engine tries again");
                self.shared.state.note_damage(&error);
                self.shared.pause();
                Flow::On
            }
        }
    }
}

impl Coordinator {
    /// Where the store turns out to be damaged, everything begins anew after this turn.
    pub(super) fn unless_damaged(&mut self, read: impl FnOnce(&mut Coordinator)) {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(self)));
        if let Err(panic) = done
            && !self.shared.state.is_damaged()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// What cannot be used of one view makes that view, and those that read it, read history again.
fn rebuild(
    catalog: &Catalog,
    state: &Arc<StateRoot>,
    mut loaded: Loaded,
    shards: Shards,
) -> Result<Restored, EngineError> {
    state.begin_at(loaded.generation);
    let failed_outputs = std::mem::take(&mut loaded.failed_outputs);
    let mut restored = Restored { cut: loaded.cut, failed_outputs, places: places_of(&loaded), ..Restored::default() };
    for relation in catalog.relations().filter(|relation| matches!(relation.kind, RelationKind::Table(_))) {
        let id = relation.id;
        let (Some(read), Some(kept)) = (loaded.inputs.remove(&id), loaded.relations.remove(&id)) else { continue };
        let input = Input::with_state(relation, Some(read))?;
        let codec = input.table_codec().expect("a table");
        let mut collection = Collection::try_new(codec.schema().clone(), codec.key_kind())?;
        let owner = Owner { relation: id, generation: kept.generation };
        collection.attach(&Layers::new(state.clone(), owner, true), kept.cut, &kept.content)?;
        restored.tables.insert(id, collection);
        restored.inputs.insert(id, input);
    }
    for mut lane in std::mem::take(&mut loaded.lanes) {
        let is_source =
            |id: RelationId| catalog.relation(id).is_some_and(|it| matches!(it.kind, RelationKind::Source(_)));
        lane.inputs.retain(|(id, _)| is_source(*id));
        let mut views: BTreeMap<RelationId, View> = BTreeMap::new();
        for relation in catalog.relations().filter(|relation| lane.views.contains(&relation.id)) {
            let Some(kept) = loaded.relations.remove(&relation.id) else { continue };
            let view = View::restored(relation, kept, state, shards);
            match view.and_then(|view| with_inputs(view, &lane, &restored, &views)) {
                Ok(view) => {
                    views.insert(relation.id, view);
                }
                Err(error) => {
                    tracing::warn!(view = %relation.name, %error, "the view's state cannot be used; it reads history again");
                    restored.warnings.push(format!("view \"{}\" reads history again: {error}", relation.name));
                }
            }
        }
        for views in apart(views) {
            let parts = lane_of(catalog, &lane, views, &restored)?;
            restored.lanes.push(parts);
        }
    }
    restored.backfills = resumed_backfills(catalog, state, loaded, &restored, shards);
    Ok(restored)
}

/// Those whose inputs are all there as they were.
fn resumed_backfills(
    catalog: &Catalog,
    state: &Arc<StateRoot>,
    mut loaded: Loaded,
    restored: &Restored,
    shards: Shards,
) -> Vec<ResumedBackfill> {
    let version_of = |id: &RelationId| {
        let view = || restored.lanes.iter().find_map(|lane| lane.views.get(id)).map(|view| view.collection.version());
        restored.tables.get(id).map(Collection::version).or_else(view)
    };
    let mut backfills = Vec::new();
    for kept in std::mem::take(&mut loaded.backfills) {
        let relation = kept.views.first().and_then(|id| catalog.relation(*id));
        let Some((relation, content)) = relation.and_then(|it| Some((it, loaded.relations.remove(&it.id)?))) else {
            continue;
        };
        let view = match View::restored(relation, content, state, shards) {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(view = %relation.name, %error, "the backfill's state cannot be used; it begins anew");
                continue;
            }
        };
        let is_source = |id: &RelationId| kept.inputs.iter().any(|(input, _)| input == id);
        let below = view.reads.iter().filter(|id| !is_source(id)).map(|id| Some((*id, version_of(id)?)));
        match below.collect() {
            Some(below) => backfills.push(ResumedBackfill { view, state: kept, below }),
            None => tracing::warn!(view = %relation.name, "what it reads is not in the checkpoint; it begins anew"),
        }
    }
    backfills
}

/// As of which cut the checkpoint holds tables and views.
fn places_of(loaded: &Loaded) -> BTreeMap<RelationId, Cut> {
    let tables = loaded.inputs.keys().map(|id| (*id, loaded.cut));
    let views = loaded.lanes.iter().flat_map(|lane| lane.views.iter().map(|id| (*id, lane.cut)));
    tables.chain(views).collect()
}

/// The view, if what it reads is there as well.
fn with_inputs(
    view: View,
    lane: &LaneState,
    restored: &Restored,
    views: &BTreeMap<RelationId, View>,
) -> Result<View, EngineError> {
    let is_table = |id: &RelationId| restored.tables.contains_key(id) && lane.cut == restored.cut;
    let is_source = |id: &RelationId| lane.inputs.iter().any(|(input, _)| input == id);
    let is_here = |id: &RelationId| is_table(id) || is_source(id) || views.contains_key(id);
    match view.reads.iter().find(|id| !is_here(id)) {
        None => Ok(view),
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
            tables.insert(id, content_of(restored.inputs.get(&id), table.version()));
        } else if let Some((_, input)) = state.inputs.iter().find(|(input, _)| *input == id)
            && let Some(relation) = catalog.relation(id)
        {
            sources.insert(id, Input::with_state(relation, Some(input.clone()))?);
        }
    }
    Ok(LaneParts { cut: state.cut, sources, tables, views })
}
