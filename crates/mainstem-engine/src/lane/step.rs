//! One step: the next cut, everything moved to it, published.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_catalog::RelationId;

use super::shared::Content;
use super::{Ends, Input, Lane, Next, Published, Reading, Shared, View};
use crate::collection::Collection;
use crate::engine::RelationStats;
use crate::error::EngineError;
use crate::input_log::{Cut, LogError};
use crate::watermark::lowest;

/// Asks nobody but the shared flags whether to try again.
fn again(shared: &Shared, error: &LogError) -> bool {
    tracing::error!(%error, "the log cannot be read; the engine tries again");
    shared.pause();
    !shared.gives_up()
}

impl Lane {
    /// Moves everything to the next cut; false when there is none. After an error other than `Stopped` nothing has moved.
    pub(super) fn step(&mut self) -> Result<bool, EngineError> {
        let log = self.log();
        let begun = self.shared.clock.monotonic();
        let next = Next::of(&mut self.inputs, &*log, &mut self.pacing, self.cut, None)?;
        let Some(Next { cut, ends, rows, weight }) = next else { return Ok(false) };
        if rows == 0 {
            self.cut = cut;
            self.shared.publish(Published { cut, relations: self.shared.published().relations.clone() });
            return Ok(true);
        }
        self.move_to(cut, &ends)?;
        if self.state.is_damaged() {
            return Ok(true);
        }
        self.publish();
        let took = self.shared.clock.monotonic().saturating_sub(begun);
        self.pacing.took(took, self.config.version_time_max, weight);
        self.checkpoints.moved(rows, self.inputs.values_mut().map(Input::take_bytes_read).sum());
        Ok(true)
    }

    /// Reads all inputs up to their ends and finishes the version.
    fn move_to(&mut self, cut: Cut, ends: &BTreeMap<RelationId, Ends>) -> Result<(), EngineError> {
        let ids: std::collections::BTreeSet<RelationId> =
            self.inputs.keys().chain(self.views.keys()).copied().collect();
        for id in ids {
            match ends.get(&id) {
                Some(ends) => self.move_input(id, cut, ends)?,
                None => self.move_view(id, cut),
            }
        }
        self.cut = cut;
        Ok(())
    }

    fn move_input(&mut self, id: RelationId, cut: Cut, ends: &Ends) -> Result<(), EngineError> {
        let topic_of_letters = self.topic_of_letters();
        let log = self.log();
        let shared = self.shared.clone();
        let again = |error: &LogError| again(&shared, error);
        let reading = Reading {
            log: &*log,
            slice_rows: self.config.slice_rows,
            read_bytes_max: self.config.read_bytes_max,
            again: &again,
        };
        let input = self.inputs.get_mut(&id).expect("ends are of inputs");
        if input.distance(ends) == 0 {
            return Ok(());
        }
        let mut readers: Vec<&mut View> = self.views.values_mut().filter(|view| view.reads.contains(&id)).collect();
        let rejected = match self.tables.get_mut(&id) {
            None => input.read_source(&reading, ends, &mut |delta| {
                readers.iter_mut().for_each(|view| view.push(id, delta));
            })?,
            Some(collection) => {
                let (delta, rejected) = input.read_table(&reading, ends, &collection.version())?;
                if !delta.is_empty() {
                    collection.apply(cut, &delta);
                    readers.iter_mut().for_each(|view| view.push(id, &delta));
                }
                rejected
            }
        };
        self.dead_letters.offer(&input.relation, topic_of_letters, rejected, (cut, ends));
        Ok(())
    }

    fn move_view(&mut self, id: RelationId, cut: Cut) {
        let view = self.views.get_mut(&id).expect("neither an input nor a view");
        let watermark_us = lowest(view.reads.iter().filter_map(|input| self.inputs.get(input)?.event_time()));
        if let Some(delta) = view.finish(cut, watermark_us) {
            // Readers of a view are younger than it.
            for (_, reader) in self.views.range_mut(RelationId(id.0 + 1)..) {
                if reader.reads.contains(&id) {
                    reader.push(id, &delta);
                }
            }
        }
    }

    /// Makes the state of everything at the lane's cut visible.
    pub(super) fn publish(&mut self) {
        let tables = self.tables.iter().map(|(id, collection)| {
            let error = self.inputs.get(id).and_then(Input::first_error);
            (*id, Content { version: collection.version(), error, reads: [].into() })
        });
        let views = self.views.iter().map(|(id, view)| {
            // What a source lacks its views lack; tables tell it themselves.
            let of_source = || view.reads.iter().find_map(|id| self.inputs.get(id)?.first_error());
            let error = view.first_error().or_else(of_source);
            let (version, reads) = (view.collection.version(), view.reads.clone());
            (*id, Content { version, error, reads })
        });
        let relations = Arc::new(tables.chain(views).collect());
        let stats: BTreeMap<_, _> = self.relation_stats().collect();
        let letters = self.dead_letters.taken();
        self.shared.with_stats(|all| {
            all.versions += 1;
            all.dead_letters_written = letters;
            all.state = self.state.memory();
            all.relations = stats;
        });
        self.shared.publish(Published { cut: self.cut, relations });
    }

    fn relation_stats(&self) -> impl Iterator<Item = (RelationId, RelationStats)> + '_ {
        let inputs = self.inputs.iter().map(|(id, input)| (*id, self.stats_of_input(*id, input)));
        inputs.chain(self.views.iter().map(|(id, view)| (*id, stats_of_view(view))))
    }

    fn stats_of_input(&self, id: RelationId, input: &Input) -> RelationStats {
        let version = self.tables.get(&id).map(Collection::version);
        RelationStats {
            name: input.relation.name.clone(),
            kind: input.relation.kind.noun(),
            rows: version.as_ref().map_or(0, |version| version.len()),
            bytes: version.as_ref().map_or(0, |version| version.bytes()),
            rows_in: input.state.records,
            late: input.state.late,
            dead_letters: input.state.rejected,
            watermark_us: input.watermark_us(),
            newest_timestamp_ms: input.state.newest_timestamp_ms,
            input_errors: input.state.errors.clone(),
            ..RelationStats::default()
        }
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
