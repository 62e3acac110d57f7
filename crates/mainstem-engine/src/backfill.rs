//! A new view over existing history: its own operators, fed apart from all lanes, until it can join the lane of the views
//! that it reads, or be a lane of its own.
//!
//! Words: a *round* moves the backfill to a cut at which what it reads is published: sources by their records, tables and
//! views below by what changed in their collections between two published versions. The first round reads history; later
//! ones what came meanwhile. What is left after the last round, the lane does itself when the view joins.
//!
//! Always true here: between rounds the view is exactly as it would be had it been in a lane from the start; no lane
//! waits; all that is needed since the last checkpoint is held (records by holds, versions by reference), so nothing can be
//! trimmed below it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mainstem_catalog::{Catalog, Relation, RelationId};
use mainstem_sql::ClockUse;
use uuid::Uuid;

use crate::backfill_part::{BackfillPart, Versions};
use crate::checkpoint::LaneState;
use crate::collection::Version;
use crate::dead_letters::DeadLetters;
use crate::engine::EngineConfig;
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog, LogError};
use crate::lane::{Command, Frontiers, Input, Next, Pacing, Progress, Published, Reading, Shared, View};
use crate::state::StateRoot;
use crate::ticks::TickReader;
use crate::watermark::{Times, lowest};

/// Rounds before the lane does the rest, however much it is.
const ROUNDS_MAX: usize = 16;

/// Tables and views at one cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frontier {
    pub(crate) cut: Cut,
    pub(crate) below: HashMap<RelationId, Arc<Version>>,
}

impl From<&Published> for Frontier {
    fn from(published: &Published) -> Frontier {
        let below = published.relations.iter().map(|(id, content)| (*id, content.version.clone()));
        Frontier { cut: published.cut, below: below.collect() }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Backfill {
    pub(crate) view: View,
    pub(crate) sources: BTreeMap<RelationId, Input>,
    cut: Cut,
    /// What of tables and views has been taken in.
    below: HashMap<RelationId, Arc<Version>>,
    pacing: Pacing,
    ticks: TickReader,
    is_begun: bool,
    /// On a thread of its own: it may wait.
    is_paced: bool,
    /// What it has of tables and views is newer than its cut, since a checkpoint asked for its part.
    is_ahead: bool,
    /// It gives its part to checkpoints.
    answers: bool,
    context: Context,
}

/// What a backfill works with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) log: Arc<dyn InputLog>,
    pub(crate) config: EngineConfig,
    pub(crate) state: Arc<StateRoot>,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) topic_of_letters: Option<Uuid>,
    /// Has the tables of late rows.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) progress: Arc<Progress>,
}

impl Backfill {
    /// Before everything. `source_of` gives the relations that the view reads as records.
    pub(crate) fn new(
        relation: &Arc<Relation>,
        source_of: &dyn Fn(RelationId) -> Option<Arc<Relation>>,
        context: Context,
    ) -> Result<Backfill, EngineError> {
        let mut view = View::new(relation, &context.state, context.config.shards)?;
        let mut sources = BTreeMap::new();
        for id in view.reads.clone().iter() {
            if let Some(source) = source_of(*id) {
                let mut input = Input::new(&source)?;
                input.ends(&*context.log, Cut::ZERO)?;
                input.hold_from_here(&*context.log);
                missing_history(&*context.log, &mut view, &input);
                sources.insert(*id, input);
            }
        }
        let pacing = Pacing::new(context.config.slice_rows.saturating_mul(4));
        let below = HashMap::new();
        Ok(Backfill {
            view,
            sources,
            cut: Cut::ZERO,
            below,
            pacing,
            ticks: TickReader::default(),
            is_begun: false,
            is_paced: false,
            is_ahead: false,
            answers: false,
            context,
        })
    }

    /// As a checkpoint had it, with `below` as the same checkpoint has it.
    pub(crate) fn resumed(
        view: View,
        state: LaneState,
        below: HashMap<RelationId, Arc<Version>>,
        source_of: &dyn Fn(RelationId) -> Option<Arc<Relation>>,
        context: Context,
    ) -> Result<Backfill, EngineError> {
        let mut sources = BTreeMap::new();
        for (id, input) in state.inputs {
            if let Some(source) = source_of(id) {
                let mut input = Input::with_state(&source, Some(input))?;
                input.hold_from_here(&*context.log);
                sources.insert(id, input);
            }
        }
        context.progress.rows_done.store(view.counters.rows_in, Ordering::Relaxed);
        let pacing = Pacing::new(context.config.slice_rows.saturating_mul(4));
        Ok(Backfill {
            view,
            sources,
            cut: state.cut,
            below,
            pacing,
            ticks: TickReader::default(),
            is_begun: true,
            is_paced: false,
            is_ahead: false,
            answers: false,
            context,
        })
    }

    /// Records and rows from here to the frontier; rows of collections that were taken in before count as nothing.
    pub(crate) fn distance(&mut self, to: &Frontier) -> Result<u64, EngineError> {
        let mut rows = 0;
        for input in self.sources.values_mut() {
            let ends = input.ends(&*self.context.log, to.cut)?;
            rows += input.distance(&ends);
        }
        for id in self.view.reads.iter() {
            if let (Some(below), None) = (to.below.get(id), self.below.get(id)) {
                rows += below.len();
            }
        }
        Ok(rows)
    }

    /// Moves the view to the frontier. `again` is asked when the log fails to read; the error is `Stopped` when it says no.
    pub(crate) fn advance(&mut self, to: &Frontier, again: &dyn Fn(&LogError) -> bool) -> Result<(), EngineError> {
        let context = self.context.clone();
        let reading = Reading {
            log: &*context.log,
            slice_rows: context.config.slice_rows,
            read_bytes_max: context.config.read_bytes_max,
            again,
            is_over: &|| is_cancelled(&context.progress),
        };
        self.take_below(to);
        if is_cancelled(&context.progress) {
            return Err(EngineError::Stopped);
        }
        let done = |rows: u64| context.progress.rows_done.fetch_add(rows, Ordering::Relaxed);
        loop {
            let log = &*context.log;
            self.release();
            if self.is_paced {
                context.progress.pace.wait(0, &mut || self.answer());
                let rows = context.progress.pace.rows_at_once(context.config.slice_rows.saturating_mul(4));
                self.pacing.limit(rows);
            }
            let ticks = (&self.ticks, self.view.clock);
            let next = Next::of(&mut self.sources, ticks, log, &mut self.pacing, (self.cut, Some(to.cut)));
            let Next { cut, ends, rows, .. } = match next {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) if again(&error) => continue,
                Err(_) => return Err(EngineError::Stopped),
            };
            if is_cancelled(&context.progress) {
                return Err(EngineError::Stopped);
            }
            for (id, input) in &mut self.sources {
                let view = &mut self.view;
                let aside = input.read_source(&reading, (cut, &ends[id]), &mut |delta| view.push(*id, delta))?;
                let (letters, of) = (&context.dead_letters, (cut, &ends[id]));
                letters.offer(&input.relation, context.topic_of_letters, aside.rejected, of);
                letters.offer_late(&context.catalog, &input.relation, aside.late, of);
            }
            self.finish(cut, again)?;
            done(rows);
            if self.is_paced {
                context.progress.pace.wait(rows, &mut || self.answer());
            }
        }
        if !self.is_begun || self.cut < to.cut {
            self.finish(to.cut, again)?;
        }
        self.cut = self.cut.max(to.cut);
        Ok(())
    }

    /// Tables and views that it reads.
    pub(crate) fn below(&self) -> Vec<RelationId> {
        self.view.reads.iter().filter(|id| !self.sources.contains_key(id)).copied().collect()
    }

    /// Where it stands, with what it has taken in of tables and views.
    pub(crate) fn stands(&self) -> Frontier {
        Frontier { cut: self.cut, below: self.below.clone() }
    }

    /// The view was dropped.
    pub(crate) fn is_cancelled(&self) -> bool {
        is_cancelled(&self.context.progress)
    }

    /// A checkpoint asked for its part: gives it, if what the checkpoint has of tables and views is not older.
    fn answer(&mut self) {
        let context = self.context.clone();
        context.progress.desk.answer(|versions| self.part(versions));
    }

    /// What goes into a checkpoint that has tables and views like this. Between versions.
    pub(crate) fn part(&mut self, versions: &Versions) -> Option<BackfillPart> {
        let below = self.below();
        let is_usable = |id: &RelationId| {
            let (now, before) = (versions.relations.get(id), self.below.get(id));
            matches!((now, before), (Some((cut, now)), Some(before)) if now.cut >= before.cut && *cut >= self.cut)
        };
        if !self.is_begun || self.cut > versions.cut || !below.iter().all(is_usable) {
            return None;
        }
        let mut is_changed = false;
        for id in below {
            let (now, before) = (&versions.relations[&id].1, &self.below[&id]);
            for delta in now.since(before, self.context.config.slice_rows) {
                self.view.push(id, &delta);
                is_changed = true;
            }
            self.below.insert(id, now.clone());
        }
        if is_changed {
            self.is_ahead = true;
            self.finish_at(self.cut);
        }
        let kept = self.view.keep();
        let inputs = self.sources.iter().map(|(id, input)| (*id, input.state.clone())).collect();
        let state = LaneState { cut: self.cut, views: vec![self.view.relation.id], inputs };
        let handed = self.view.collection.layers()?.hand_over();
        Some(BackfillPart { state, kept, handed })
    }

    /// What a durable checkpoint has read is not held any more.
    fn release(&self) {
        for (id, positions) in self.context.progress.desk.take_released().unwrap_or_default() {
            if let Some(input) = self.sources.get(&id) {
                input.release_before(&positions);
            }
        }
    }

    /// It goes on where a checkpoint or a round has left it.
    pub(crate) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// What changed in tables and views below since the last round.
    fn take_below(&mut self, to: &Frontier) {
        let progress = self.context.progress.clone();
        let mut slice_rows = self.context.config.slice_rows;
        if self.is_paced {
            progress.pace.wait(0, &mut || ());
            slice_rows = progress.pace.rows_at_once(slice_rows);
        }
        for id in self.view.reads.iter().copied().collect::<Vec<_>>() {
            let Some(now) = to.below.get(&id) else { continue };
            let is_first = !self.below.contains_key(&id);
            let deltas = match self.below.get(&id) {
                None => now.deltas(slice_rows),
                Some(before) => now.since(before, slice_rows),
            };
            for delta in deltas {
                if self.is_paced {
                    progress.pace.wait(delta.len() as u64, &mut || ());
                }
                if is_cancelled(&progress) {
                    return;
                }
                self.view.push(id, &delta);
                if is_first {
                    let rows: i64 = delta.weights.iter().sum();
                    self.context.progress.rows_done.fetch_add(rows.unsigned_abs(), Ordering::Relaxed);
                }
            }
            self.below.insert(id, now.clone());
        }
        self.is_ahead = false;
    }

    fn finish(&mut self, cut: Cut, again: &dyn Fn(&LogError) -> bool) -> Result<(), EngineError> {
        if self.view.clock != ClockUse::None {
            while let Err(error) = self.ticks.advance(&*self.context.log, cut) {
                if !again(&error) {
                    return Err(EngineError::Stopped);
                }
            }
        }
        self.finish_at(cut);
        self.is_begun = true;
        if self.answers {
            self.context.progress.desk.open(true);
        }
        Ok(())
    }

    fn finish_at(&mut self, cut: Cut) {
        let times = lowest(self.sources.values().filter_map(Input::event_time));
        self.view.finish(cut, Times { now_us: self.ticks.now_us(), ..times });
        self.cut = cut;
    }

    /// Rounds until what it reads is near, then the coordinator is told. Runs on a thread of its own.
    pub(crate) fn run(mut self: Box<Self>, shared: &Shared) {
        let below = self.below();
        let id = self.view.relation.id;
        let progress = self.context.progress.clone();
        let gives_up = || shared.gives_up() || is_cancelled(&progress);
        let again = |error: &LogError| {
            tracing::warn!(%error, "a backfill waits for the log");
            shared.pause();
            !gives_up()
        };
        let near = self.context.config.slice_rows as u64 / 4;
        self.is_paced = true;
        let now_us = u64::try_from(shared.clock.monotonic().as_micros()).unwrap_or(u64::MAX);
        progress.begun_us.store(now_us.max(1), Ordering::Relaxed);
        for round in 0..=ROUNDS_MAX {
            // In the last one it does as the lane would: what it has of tables and views stands at its cut.
            self.answers = round < ROUNDS_MAX;
            progress.desk.open(self.answers && self.is_begun);
            let Some(to) = shared.pin_blocking(&below, &gives_up) else { return };
            let to = shared.with_frontiers(|all| all.short_of_held(id, &below, to));
            let result = self.advance(&Frontier::from(&to), &again);
            let left = result.and_then(|()| {
                let common = |all: &Frontiers| all.common(&below).map(|now| all.short_of_held(id, &below, now));
                let now = shared.with_frontiers(common);
                self.distance(&now.map_or_else(|| Frontier::from(&to), |now| Frontier::from(&now)))
            });
            if gives_up() {
                return;
            }
            match left {
                Ok(left) if left <= near && !self.is_ahead => break,
                Ok(left) => {
                    let done = progress.rows_done.load(Ordering::Relaxed);
                    progress.rows_total.store(done + left, Ordering::Relaxed);
                }
                Err(error) => return shared.send(Command::Failed(id, error.to_string())),
            }
        }
        (self.is_paced, self.answers) = (false, false);
        progress.desk.open(false);
        shared.send(Command::Caught(self));
    }
}

/// What the view had of a source and retention or compaction has removed since: the view is not what it was, and says so.
fn missing_history(log: &dyn InputLog, view: &mut View, input: &Input) {
    let relation = view.relation.clone();
    let Some(definition) = relation.materialized() else { return };
    for (partition, state) in &input.state.partitions {
        let origin = definition.origin_of(input.relation.id, *partition);
        let compacted = input.relation.topic().map_or(0, |topic| log.compacted_below(topic, *partition));
        let (until, by) = if state.next > origin.offset {
            (state.next, "retention")
        } else if compacted > origin.compacted_below {
            (compacted, "compaction")
        } else {
            continue;
        };
        let (name, source) = (&relation.name, &input.relation.name);
        let text = format!(
            "history is gone: offsets {} to {} of partition {partition} of source \"{source}\" were removed by {by}, in \
             whole or in part, and no checkpoint holds what view \"{name}\" made of them; to go on with what is left, \
             drop the view and create it again",
            origin.offset,
            until - 1
        );
        tracing::error!(view = %name, "{text}");
        view.counters.errors.insert(text, 1);
    }
}

fn is_cancelled(progress: &Progress) -> bool {
    progress.cancelled.load(Ordering::Acquire)
}
