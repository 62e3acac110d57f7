//! What there is changes: tables and views come and go, lanes begin, are merged and end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Receiver;
use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};
use mainstem_sql::ClockUse;

use super::coordinator::{Coordinator, LaneHandle, Merging};
use super::orders::{Order, What};
use super::tables::{content_of, positions, read_table};
use super::{
    BROKEN, CLOCK, Command, Content, Input, JobState, Lane, LaneCommand, LaneId, Pacing, View, again, topic_of_letters,
};
use crate::backfill::{Backfill, Context, Frontier};
use crate::backfill_pace::Pace;
use crate::collection::{Collection, ContentState};
use crate::error::EngineError;
use crate::input_log::{Cut, LogError};
use crate::state::{Layers, Owner};
use crate::ticks::TickReader;

/// Views with less history than a slice divided by this are made at once.
const AT_ONCE_PART: usize = 16;

/// What a lane begins with.
pub(super) struct LaneParts {
    pub(super) cut: Cut,
    pub(super) sources: BTreeMap<RelationId, Input>,
    pub(super) tables: HashMap<RelationId, Content>,
    pub(super) views: BTreeMap<RelationId, View>,
}

enum Missing {
    NotYet,
    Failed(RelationId),
}

fn needs_clock(view: &View) -> bool {
    view.clock != ClockUse::None
}

/// The relations that are read as records.
pub(super) fn source_of(catalog: &Arc<Catalog>) -> impl Fn(RelationId) -> Option<Arc<Relation>> + use<> {
    let catalog = catalog.clone();
    let is_source = |relation: &&Arc<Relation>| matches!(relation.kind, RelationKind::Source(_));
    move |id| catalog.relation(id).filter(is_source).cloned()
}

impl Coordinator {
    /// Takes in the newest definitions: drops what is gone, begins what is new, and publishes.
    pub(super) fn take_catalog(&mut self) -> Result<(), EngineError> {
        let catalog = self.shared.catalog();
        self.catalog = catalog.clone();
        let is_live = |id: &RelationId| catalog.relation(*id).is_some();
        self.inputs.retain(|id, _| is_live(id));
        self.tables.retain(|id, _| is_live(id));
        self.waiting.retain(is_live);
        self.running.retain(|id, _| is_live(id));
        self.parked.retain(|id, _| is_live(id));
        self.failed.retain(is_live);
        self.shared.forget_jobs();
        self.forget_views(&is_live);
        self.take_outputs(&catalog)?;
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
                    self.waiting.insert(relation.id);
                }
                _ => {}
            }
        }
        self.keep_orders();
        let tables = self.contents();
        self.shared.publish(|all| all.set_tables(tables));
        ready.extend(self.begin_views()?);
        self.checkpoints.changed();
        self.note_stats();
        self.shared.forget_stats(&|id| self.tables.contains_key(&id));
        ready.into_iter().for_each(|id| self.shared.job_done(id));
        Ok(())
    }

    /// Views that were dropped leave their lanes; a lane without views ends.
    fn forget_views(&mut self, is_live: &dyn Fn(&RelationId) -> bool) {
        self.shared.publish(|all| all.forget(&|id| !is_live(&id)));
        let mut ended = Vec::new();
        for (id, lane) in &mut self.lanes {
            let gone: BTreeSet<RelationId> = lane.views.iter().filter(|id| !is_live(id)).copied().collect();
            lane.views.retain(is_live);
            if lane.views.is_empty() {
                ended.push(*id);
            } else if !gone.is_empty() {
                let _ = lane.commands.send(LaneCommand::Forget(gone));
            }
        }
        for id in ended {
            let Some(lane) = self.lanes.remove(&id) else { continue };
            lane.end();
            let from = lane.merging.as_ref().map_or_else(|| vec![id], |merging| merging.lanes());
            self.shared.publish(|all| from.into_iter().for_each(|id| all.remove_lane(id)));
            self.checkpoints.lane_ended(id);
            self.write_checkpoint_if_whole();
        }
        let read: BTreeSet<RelationId> =
            self.shared.with_frontiers(|all| self.sources.keys().filter(|id| all.is_moved(**id)).copied().collect());
        self.sources.retain(|id, _| read.contains(id));
        self.shared.decoded.retain(|id| read.contains(&id));
    }

    fn knows_view(&self, id: RelationId) -> bool {
        self.lanes.values().any(|lane| lane.views.contains(&id))
            || self.waiting.contains(&id)
            || self.running.contains_key(&id)
            || self.failed.contains(&id)
    }

    /// A table that is not here: its topic is new, or the checkpoint was lost. Read up to the front.
    fn add_table(&mut self, relation: &Arc<Relation>) -> Result<(), EngineError> {
        let log = self.log();
        let mut input = Input::new(relation)?;
        let codec = input.table_codec().expect("a table");
        let mut collection = Collection::try_new(codec.schema().clone(), codec.key_kind())?;
        let state = self.shared.state.clone();
        let owner = Owner { relation: relation.id, generation: state.next_generation() };
        collection.attach(&Layers::new(state, owner, false), Cut::ZERO, &ContentState::default())?;
        let ends = input.ends(&*log, self.cut)?;
        input.hold_from_here(&*log);
        read_table(&self.shared, &mut input, &mut collection, &self.dead_letters, (self.cut, &ends))?;
        self.inputs.insert(relation.id, input);
        self.tables.insert(relation.id, collection);
        Ok(())
    }

    /// Begins every view that waits and whose inputs are here. Answers those that are ready already.
    fn begin_views(&mut self) -> Result<Vec<RelationId>, EngineError> {
        let mut ready = Vec::new();
        for id in self.waiting.iter().copied().collect::<Vec<_>>() {
            // As it is now: its rate may be another than when it began to wait.
            let Some(relation) = self.catalog.relation(id).cloned() else { continue };
            let mut backfill = match self.backfill_of(&relation) {
                Ok(backfill) => backfill,
                Err(error) => {
                    self.fail(id, error.to_string());
                    continue;
                }
            };
            match self.missing_below(&backfill) {
                Some(Missing::Failed(below)) => {
                    self.fail(id, format!("it reads relation {}, which cannot run", below.0));
                    continue;
                }
                Some(Missing::NotYet) => {
                    self.park(backfill);
                    continue;
                }
                None => {}
            }
            let lanes = self.lanes_below(&backfill);
            if lanes.len() > 1 {
                self.merge(&lanes);
            }
            if lanes.len() > 1 || lanes.iter().any(|lane| self.lanes[lane].merging.is_some()) {
                self.park(backfill);
                continue;
            }
            self.waiting.remove(&id);
            let below = backfill.below();
            let now = self.shared.with_frontiers(|all| {
                let now = all.common(&below).map(|now| all.short_of_held(id, &below, now));
                now.map(|now| Frontier::from(&now))
            });
            let rows = now.as_ref().map(|now| backfill.distance(now)).transpose()?;
            let is_short = |rows: u64| rows <= (self.config.slice_rows / AT_ONCE_PART) as u64;
            match (now, rows) {
                (Some(now), Some(rows)) if is_short(rows) && Pace::rate_of(&relation).is_none() => {
                    let shared = self.shared.clone();
                    match backfill.advance(&now, &|error: &LogError| again(&shared, error)) {
                        // Dropped meanwhile, which the next definitions say.
                        Err(EngineError::Stopped) if backfill.is_cancelled() && !shared.gives_up() => continue,
                        result => result?,
                    }
                    if self.shared.state.is_damaged() {
                        return Err(EngineError::State("it could not be read".to_owned()));
                    }
                    if self.place(backfill)? {
                        ready.push(id);
                    }
                }
                (_, rows) => self.run_backfill(backfill, rows.unwrap_or(0))?,
            }
        }
        Ok(ready)
    }

    /// As it was left by a checkpoint, or before everything.
    fn backfill_of(&mut self, relation: &Arc<Relation>) -> Result<Backfill, EngineError> {
        if let Some(parked) = self.parked.remove(&relation.id) {
            return Ok(parked);
        }
        let context = self.backfill_context(&self.catalog, relation);
        Backfill::new(relation, &source_of(&self.catalog), context)
    }

    pub(super) fn backfill_context(&self, catalog: &Arc<Catalog>, relation: &Arc<Relation>) -> Context {
        Context {
            log: self.log(),
            config: self.config.clone(),
            state: self.shared.state.clone(),
            dead_letters: self.dead_letters.clone(),
            topic_of_letters: topic_of_letters(&self.shared),
            catalog: catalog.clone(),
            progress: self.shared.set_job(relation, JobState::Waiting),
        }
    }

    /// Its turn has not come.
    fn park(&mut self, backfill: Backfill) {
        if backfill.is_begun() {
            self.parked.insert(backfill.view.relation.id, backfill);
        }
    }

    fn missing_below(&self, backfill: &Backfill) -> Option<Missing> {
        let below = backfill.below();
        let is_here = |id: &RelationId| self.shared.with_frontiers(|all| all.has(*id));
        let mut absent = below.iter().filter(|id| !is_here(id)).peekable();
        absent.peek()?;
        Some(absent.find(|id| self.failed.contains(id)).map_or(Missing::NotYet, |id| Missing::Failed(*id)))
    }

    /// The lanes of the views that it reads.
    fn lanes_below(&self, backfill: &Backfill) -> Vec<LaneId> {
        let reads = &backfill.view.reads;
        let is_below = |lane: &LaneHandle| reads.iter().any(|id| lane.views.contains(id));
        self.lanes.iter().filter(|(_, lane)| is_below(lane)).map(|(id, _)| *id).collect()
    }

    fn run_backfill(&mut self, backfill: Backfill, rows: u64) -> Result<(), EngineError> {
        let relation = backfill.view.relation.clone();
        let progress = self.shared.set_job(&relation, JobState::Running);
        progress.rows_total.store(progress.rows_done.load(Ordering::Relaxed) + rows, Ordering::Relaxed);
        let shared = self.shared.clone();
        let name = format!("engine-backfill-{}", relation.id.0);
        let id = relation.id;
        let body = move || {
            let run = std::panic::AssertUnwindSafe(|| Box::new(backfill).run(&shared));
            // Who waits for the view is told in any case.
            let has_panicked = std::panic::catch_unwind(run).is_err();
            if shared.state.is_damaged() {
                shared.send(Command::Damaged);
            } else if has_panicked {
                shared.send(Command::Failed(id, BROKEN.to_owned()));
            }
        };
        self.spawn(&name, body)?;
        self.running.insert(relation.id, progress);
        Ok(())
    }

    /// A backfill's thread is done.
    pub(super) fn take_backfill(&mut self, backfill: Backfill) -> Result<(), EngineError> {
        let relation = backfill.view.relation.clone();
        if self.running.remove(&relation.id).is_none() || self.shared.state.is_damaged() {
            return Ok(());
        }
        self.shared.set_job(&relation, JobState::Joining);
        if self.place(backfill)? {
            self.shared.job_done(relation.id);
            return self.take_catalog();
        }
        Ok(())
    }

    /// The view joins the lane of the views that it reads, which will say so, or is a lane of its own; whether it is ready.
    fn place(&mut self, backfill: Backfill) -> Result<bool, EngineError> {
        let id = backfill.view.relation.id;
        for (source, input) in &backfill.sources {
            if !self.sources.contains_key(source) {
                let ends = positions(&*self.log(), input.topic, self.cut)?;
                self.sources.insert(*source, (input.topic, ends));
            }
        }
        self.checkpoints.changed();
        // What retention may remove behind the view's back from now on has to be in a checkpoint.
        self.checkpoints.want();
        let lanes = self.lanes_below(&backfill);
        if let Some(lane) = lanes.first() {
            let inputs: Vec<RelationId> = backfill.view.reads.iter().copied().collect();
            let Some(handle) = self.lanes.get_mut(lane) else { return Ok(false) };
            handle.views.insert(id);
            let of = handle.merging.as_ref().map_or_else(|| vec![*lane], Merging::lanes);
            let is_table = |id: &RelationId| self.sources.contains_key(id) || self.tables.contains_key(id);
            let clock = needs_clock(&backfill.view).then_some(CLOCK);
            let inputs: Vec<RelationId> = inputs.into_iter().filter(is_table).chain(clock).collect();
            self.shared.publish(|all| of.into_iter().for_each(|lane| all.add_inputs(lane, inputs.iter().copied())));
            let _ = handle.commands.send(LaneCommand::Join(Box::new(backfill)));
            return Ok(false);
        }
        let Frontier { cut, below } = backfill.stands();
        let tables = below.into_iter().map(|(id, version)| {
            let content = content_of(self.inputs.get(&id), version);
            (id, content)
        });
        let tables = tables.collect();
        let Backfill { view, sources, .. } = backfill;
        let views = BTreeMap::from([(id, view)]);
        self.start_lane(LaneParts { cut, sources, tables, views })?;
        Ok(true)
    }

    /// A view that was placed is one of its lane's.
    pub(super) fn joined(&mut self, id: RelationId) -> Result<(), EngineError> {
        self.shared.job_done(id);
        self.checkpoints.changed();
        self.checkpoints.want();
        self.take_catalog()
    }

    pub(super) fn start_lane(&mut self, parts: LaneParts) -> Result<LaneId, EngineError> {
        let id = self.new_lane_id();
        let (sender, commands) = crossbeam_channel::unbounded();
        let is_over = Arc::new(AtomicBool::new(false));
        let views = parts.views.keys().copied().collect();
        let mut lane = self.lane_of_parts(id, commands, parts, is_over.clone());
        self.unless_damaged(|_| lane.keep_orders());
        let clock = lane.views.values().any(needs_clock).then_some(CLOCK);
        let inputs = lane.sources.keys().chain(lane.tables.keys()).copied().chain(clock).collect();
        let contents = lane.contents();
        let begun = sender.clone();
        self.shared.publish(|all| all.add_lane(id, (lane.cut, contents), inputs, begun));
        self.lanes.insert(id, LaneHandle { commands: sender, views, is_over, merging: None });
        self.run_lane(lane)?;
        Ok(id)
    }

    fn run_lane(&mut self, mut lane: Lane) -> Result<(), EngineError> {
        // Counters are seen from the start.
        lane.publish();
        self.spawn(&format!("engine-lane-{}", lane.id.0), move || lane.run())
    }

    fn lane_of_parts(
        &self,
        id: LaneId,
        commands: Receiver<LaneCommand>,
        parts: LaneParts,
        is_over: Arc<AtomicBool>,
    ) -> Lane {
        let LaneParts { cut, sources, tables, views } = parts;
        Lane {
            id,
            shared: self.shared.clone(),
            commands,
            dead_letters: self.dead_letters.clone(),
            cut,
            sources,
            tables,
            views,
            pacing: Pacing::new(self.config.slice_rows),
            ahead: BTreeMap::new(),
            sorted: Arc::default(),
            ticks: TickReader::default(),
            orders: Vec::new(),
            joining: Vec::new(),
            is_over,
        }
    }

    fn new_lane_id(&mut self) -> LaneId {
        self.next_lane += 1;
        LaneId(self.next_lane)
    }

    /// A view reads views of all these lanes: they become one, at the front of now. What is being merged already, or is
    /// giving its part of a checkpoint, is waited for.
    fn merge(&mut self, lanes: &[LaneId]) {
        if self.checkpoints.is_gathering() || lanes.iter().any(|lane| self.lanes[lane].merging.is_some()) {
            return;
        }
        let into = self.new_lane_id();
        let (sender, commands) = crossbeam_channel::unbounded();
        let (mut views, mut from) = (BTreeSet::new(), Vec::new());
        let at = self.shared.publish(|all| lanes.iter().map(|lane| all.order(*lane)).max().unwrap_or_default());
        for lane in lanes {
            let Some(handle) = self.lanes.remove(lane) else { continue };
            let _ = handle.commands.send(LaneCommand::Order(Order { at, what: What::Surrender }));
            views.extend(handle.views.iter().copied());
            from.push((*lane, handle));
        }
        let merging = Merging { commands, from, at, parts: Vec::new() };
        let is_over = Arc::new(AtomicBool::new(false));
        self.lanes.insert(into, LaneHandle { commands: sender, views, is_over, merging: Some(merging) });
    }

    /// A lane has handed itself over; when all have, the one that they become begins.
    pub(super) fn surrendered(&mut self, lane: Lane) -> Result<(), EngineError> {
        let is_of = |handle: &LaneHandle| handle.merging.as_ref().is_some_and(|it| it.lanes().contains(&lane.id));
        let Some(into) = self.lanes.iter().find(|(_, handle)| is_of(handle)).map(|(id, _)| *id) else { return Ok(()) };
        let handle = self.lanes.get_mut(&into).expect("it was just found");
        // What it was told and has not done yet.
        for command in lane.commands.try_iter().filter(|command| !matches!(command, LaneCommand::Wake)) {
            let _ = handle.commands.send(command);
        }
        let merging = handle.merging.as_mut().expect("lanes that hand themselves over are merged");
        merging.parts.push(lane);
        if merging.parts.len() < merging.from.len() {
            return Ok(());
        }
        let (sender, is_over) = (handle.commands.clone(), handle.is_over.clone());
        let Some(merging) = handle.merging.take() else { return Ok(()) };
        let from = merging.lanes();
        let Merging { commands, at, parts, .. } = merging;
        let empty = LaneParts { cut: at, sources: BTreeMap::new(), tables: HashMap::new(), views: BTreeMap::new() };
        let mut merged = self.lane_of_parts(into, commands, empty, is_over);
        for part in parts {
            let of = part.views.values().next().map_or("", |view| view.relation.name.as_str()).to_owned();
            part.sources.into_iter().for_each(|(id, input)| merged.take_source(id, input, &of));
            merged.tables.extend(part.tables);
            merged.views.extend(part.views);
            merged.joining.extend(part.joining);
        }
        let gone: BTreeSet<RelationId> =
            merged.views.keys().filter(|id| self.catalog.relation(**id).is_none()).copied().collect();
        merged.forget(&gone);
        self.shared.publish(|all| all.merge(&from, into, at, sender));
        self.run_lane(merged)?;
        self.take_catalog()
    }

    /// The view (or table) will not run; the reason is told to whoever asks.
    pub(super) fn fail(&mut self, id: RelationId, reason: String) {
        self.waiting.remove(&id);
        self.running.remove(&id);
        self.parked.remove(&id);
        if let Some(relation) = self.catalog.relation(id) {
            tracing::error!(name = %relation.name, %reason, "a relation cannot run");
            self.shared.outputs.fail_from(id, &reason);
            self.shared.set_job(relation, JobState::Failed(reason));
            self.failed.insert(id);
            self.shared.publish(|_| ());
        }
    }
}
