//! One step of a lane: the next cut, its views moved to it, published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mainstem_catalog::RelationId;
use mainstem_sql::ClockUse;

use super::frontier::Plan;
use super::{Content, Contents, Input, Lane, Turn, View, again};
use crate::engine::RelationStats;
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog, LogError};
use crate::ticks::ticks_end;
use crate::watermark::{Times, lowest};

impl Lane {
    /// Does what is due where the lane stands, then a step if something has come.
    pub(super) fn turn(&mut self) -> Result<Turn, EngineError> {
        // No plan: all its views were dropped.
        let plan = self.shared.plan(self.id).ok_or(EngineError::Stopped)?;
        self.cut = self.cut.max(plan.from);
        self.keep_new_orders();
        self.join_waiting()?;
        match self.obey_orders() {
            Some(true) => return Ok(Turn::Surrenders),
            // It may go further now.
            Some(false) => return Ok(Turn::Moved),
            None => {}
        }
        let Some(limit) = plan.limit.filter(|limit| *limit > self.cut) else {
            // Others may need the memory.
            self.views.values_mut().for_each(View::keep_within_budget);
            return Ok(Turn::Rests);
        };
        self.step(limit, &plan)
    }

    /// Moves to the next cut that is not beyond the limit. After an error nothing is seen of what was begun.
    fn step(&mut self, limit: Cut, plan: &Plan) -> Result<Turn, EngineError> {
        let begun = self.shared.clock.monotonic();
        let (log, from) = (self.log(), self.cut);
        let mut weight = 0;
        let sources = &mut self.sources;
        let proposed = self.pacing.next_cut(&*log, from, Some(limit), &mut |cut| {
            weight = 0;
            for input in sources.values_mut() {
                let ends = input.ends(&*log, cut)?;
                weight += input.weight(&*log, &ends);
            }
            Ok(weight)
        })?;
        let Some(proposed) = proposed else { return Ok(Turn::Rests) };
        let (cut, tables) = self.shared.settle(from, (proposed, limit), !self.tables.is_empty());
        let clock = self.clock_use();
        let (stops, mut news) = self.ticks_until(&*log, clock, (from, cut))?;
        let mut at = from;
        // Views with early results see what there was at each tick.
        for tick in stops {
            news += self.take_sources(at, tick, plan)?;
            self.finish_views(tick)?;
            at = tick;
        }
        let (of_sources, slices) = self.read_sources(at, cut, plan)?;
        if clock != ClockUse::Each {
            self.read_ahead(cut, limit, plan);
        }
        for (id, slices) in &slices {
            push(&mut self.views, *id, slices);
        }
        drop(slices);
        news += of_sources + self.take_tables(&tables);
        if news == 0 {
            self.cut = cut;
            self.shared.publish(|all| all.publish(self.id, cut, None));
            return Ok(Turn::Moved);
        }
        self.finish(cut)?;
        let took = self.shared.clock.monotonic().saturating_sub(begun);
        self.pacing.took(took, self.shared.config.version_time_max, weight);
        Ok(Turn::Moved)
    }

    /// Pushes what changed in the tables since they were taken in last; answers how many rows that was.
    fn take_tables(&mut self, tables: &Contents) -> u64 {
        let slice_rows = self.config().slice_rows;
        let mut rows = 0;
        for (id, now) in &mut self.tables {
            let Some(content) = tables.get(id) else { continue };
            let before = std::mem::replace(now, content.clone());
            if Arc::ptr_eq(&before.version, &content.version) {
                continue;
            }
            for delta in content.version.since(&before.version, slice_rows) {
                rows += delta.len() as u64;
                push(&mut self.views, *id, &[delta]);
            }
            // Also when it is as it was: its error may be another.
            rows = rows.max(1);
        }
        rows
    }

    /// What the sources hold up to the cut goes to the views; answers how many records that was.
    fn take_sources(&mut self, at: Cut, cut: Cut, plan: &Plan) -> Result<u64, EngineError> {
        let (records, slices) = self.read_sources(at, cut, plan)?;
        for (id, slices) in &slices {
            push(&mut self.views, *id, slices);
        }
        Ok(records)
    }

    /// What the views need of the clock.
    fn clock_use(&self) -> ClockUse {
        self.views.values().map(|view| view.clock).max().unwrap_or(ClockUse::None)
    }

    /// Cuts before `cut` with a tick that the views need to have seen; and how many ticks there are up to it.
    fn ticks_until(
        &mut self,
        log: &dyn InputLog,
        clock: ClockUse,
        (from, cut): (Cut, Cut),
    ) -> Result<(Vec<Cut>, u64), LogError> {
        if clock == ClockUse::None {
            return Ok((Vec::new(), 0));
        }
        // A lane that was restored, merged or has its first view with a clock stands at no tick yet.
        self.ticks.advance(log, from)?;
        let ticks = self.ticks.distance(clock, log, cut)?;
        let (mut stops, mut at) = (Vec::new(), from);
        if clock == ClockUse::Each {
            let end = ticks_end(log, cut)?;
            let mut next = ticks_end(log, from)?;
            while next < end {
                let entries = crate::ticks::entries_until(log, at, next, &|at| ticks_end(log, at))?;
                let Some(tick) = log.next_cut(at, entries)?.filter(|tick| *tick < cut) else { break };
                stops.push(tick);
                (at, next) = (tick, ticks_end(log, tick)?);
            }
        }
        Ok((stops, ticks))
    }

    /// Everything has been pushed: the views give what changed, and it is seen.
    pub(super) fn finish(&mut self, cut: Cut) -> Result<(), EngineError> {
        self.finish_views(cut)?;
        self.cut = cut;
        self.publish();
        // The coordinator begins everything anew.
        if self.shared.state.is_damaged() { Err(EngineError::Stopped) } else { Ok(()) }
    }

    /// The views give what changed, in the order of their ids.
    fn finish_views(&mut self, cut: Cut) -> Result<(), EngineError> {
        if self.clock_use() != ClockUse::None {
            let (log, shared) = (self.log(), self.shared.clone());
            while let Err(error) = self.ticks.advance(&*log, cut) {
                if !again(&shared, &error) {
                    return Err(EngineError::Stopped);
                }
            }
        }
        for id in self.views.keys().copied().collect::<Vec<_>>() {
            let view = self.views.get_mut(&id).expect("a view of the lane");
            let sources = view.reads.iter().filter_map(|input| self.sources.get(input)?.event_time());
            let times = lowest(sources);
            let now_us = if view.clock == ClockUse::None { None } else { self.ticks.now_us() };
            if let Some(delta) = view.finish(cut, Times { now_us, ..times }) {
                // Readers of a view are younger than it.
                for (_, reader) in self.views.range_mut(RelationId(id.0 + 1)..) {
                    if reader.reads.contains(&id) {
                        reader.push(id, &delta);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the views at the lane's cut visible, unless what they were made of could not be read.
    pub(super) fn publish(&mut self) {
        if self.shared.state.is_damaged() {
            return;
        }
        self.keep_orders();
        let contents = self.contents();
        self.shared.versions.fetch_add(1, Ordering::Relaxed);
        let stats: BTreeMap<_, _> = self.stats().collect();
        let letters = self.dead_letters.taken();
        self.shared.publish(|all| {
            self.shared.with_stats(|known| {
                known.dead_letters_written = letters;
                for (id, stats) in stats.into_iter().filter(|(id, _)| all.is_moved(*id)) {
                    // Several lanes may read a source: the furthest tells.
                    let is_behind = known.relations.get(&id).is_some_and(|known| known.rows_in > stats.rows_in);
                    if stats.kind != "source" || !is_behind {
                        known.relations.insert(id, stats);
                    }
                }
            });
            all.publish(self.id, self.cut, Some(contents));
        });
    }

    /// The views as they are, each with the first error of its own or of what it reads.
    pub(super) fn contents(&self) -> Contents {
        let mut contents = Contents::with_capacity(self.views.len());
        for (id, view) in &self.views {
            let below = |id: &RelationId| match (self.sources.get(id), self.tables.get(id)) {
                (Some(source), _) => source.first_error(),
                (None, Some(table)) => table.error.clone(),
                (None, None) => contents.get(id).and_then(|view: &Content| view.error.clone()),
            };
            let error = view.first_error().or_else(|| view.reads.iter().find_map(below));
            let newest = |id: &RelationId| match (self.sources.get(id), self.tables.get(id)) {
                (Some(source), _) => source.state.newest_timestamp_ms,
                (None, Some(table)) => table.newest_ms,
                (None, None) => contents.get(id).map_or(0, |view: &Content| view.newest_ms),
            };
            let newest_ms = view.reads.iter().map(newest).max().unwrap_or(0);
            contents.insert(*id, Content { version: view.collection.version(), error, newest_ms });
        }
        contents
    }

    fn stats(&self) -> impl Iterator<Item = (RelationId, RelationStats)> + '_ {
        let sources = self.sources.iter().map(|(id, input)| (*id, stats_of_input(input)));
        sources.chain(self.views.iter().map(|(id, view)| (*id, stats_of_view(view))))
    }
}

/// A slice of an input to all views that read it.
pub(super) fn push(views: &mut BTreeMap<RelationId, View>, input: RelationId, slices: &[crate::delta::Delta]) {
    for view in views.values_mut().filter(|view| view.reads.contains(&input)) {
        slices.iter().for_each(|delta| view.push(input, delta));
    }
}

pub(super) fn stats_of_input(input: &Input) -> RelationStats {
    RelationStats {
        name: input.relation.name.clone(),
        kind: input.relation.kind.noun(),
        rows_in: input.state.records,
        late: input.state.late,
        dead_letters: input.state.rejected,
        watermark_us: input.watermark_us(),
        newest_timestamp_ms: input.state.newest_timestamp_ms,
        input_errors: input.state.errors.clone(),
        ..RelationStats::default()
    }
}

fn stats_of_view(view: &View) -> RelationStats {
    let version = view.collection.version();
    RelationStats {
        name: view.relation.name.clone(),
        kind: view.relation.kind.noun(),
        rows: version.len(),
        bytes: version.bytes(),
        state_rows: view.circuit().state_rows(),
        state_bytes: view.circuit().state_bytes(),
        rows_touched: view.circuit().rows_touched(),
        rows_in: view.counters.rows_in,
        errors: view.counters.errors.values().filter_map(|count| u64::try_from(*count).ok()).sum(),
        late: view.counters.late,
        reads: view.reads.to_vec(),
        ..RelationStats::default()
    }
}
