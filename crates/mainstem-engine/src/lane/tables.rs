//! The front: tables are moved to the newest cut, and lanes are told what has come for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstem_catalog::RelationId;

use super::coordinator::Coordinator;
use super::step::stats_of_input;
use super::{CLOCK, Content, Contents, Ends, Frontiers, Input, Reading, again, topic_of_letters};
use crate::collection::{Collection, Version};
use crate::engine::RelationStats;
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog, LogError};
use crate::ticks::{idle_end, ticks_end};

impl Coordinator {
    /// Moves the front to the next cut; false when there is none. After an error other than `Stopped` nothing has moved.
    pub(super) fn step(&mut self) -> Result<bool, EngineError> {
        let log = self.log();
        let begun = self.shared.clock.monotonic();
        let (inputs, sources, after) = (&mut self.inputs, &self.sources, self.cut);
        let (mut weight, mut ends) = (0, BTreeMap::new());
        let limit = self.shared.with_frontiers(Frontiers::limit_of_front);
        let next = self.pacing.next_cut(&*log, after, limit, &mut |cut| {
            (weight, ends) = measured(inputs, &*log, cut)?;
            // What of sources lies within a change of tables, lanes take at once with it.
            Ok(if weight > 0 { weight + weight_of(sources, &*log, cut)? } else { 0 })
        })?;
        let Some(cut) = next else { return Ok(false) };
        let news = self.news_of_sources(&*log, cut)?;
        let (times, of_times) = self.news_of_times(&*log, cut)?;
        let mut changed = self.move_tables(cut, &ends)?;
        let tables = (!changed.is_empty()).then(|| self.contents());
        for (id, ends) in news {
            changed.insert(id);
            self.sources.entry(id).and_modify(|known| known.1 = ends);
        }
        changed.extend(of_times);
        (self.cut, self.times) = (cut, times);
        self.shared.publish(|all| all.advance(cut, tables, &changed));
        if weight > 0 {
            let took = self.shared.clock.monotonic().saturating_sub(begun);
            self.pacing.took(took, self.config.version_time_max, weight);
        }
        Ok(true)
    }

    /// Reads all tables up to their ends; answers which have changed.
    fn move_tables(
        &mut self,
        cut: Cut,
        ends: &BTreeMap<RelationId, Ends>,
    ) -> Result<BTreeSet<RelationId>, EngineError> {
        let mut changed = BTreeSet::new();
        for (id, ends) in ends {
            let input = self.inputs.get_mut(id).expect("ends are of inputs");
            let records = input.distance(ends);
            if records == 0 {
                continue;
            }
            let collection = self.tables.get_mut(id).expect("every table has a collection");
            read_table(&self.shared, input, collection, &self.dead_letters, (cut, ends))?;
            use std::sync::atomic::Ordering::Relaxed;
            self.shared.rows_read.fetch_add(records, Relaxed);
            self.shared.bytes_read.fetch_add(input.take_bytes_read(), Relaxed);
            changed.insert(*id);
        }
        if !changed.is_empty() {
            self.shared.versions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.note_stats();
        }
        Ok(changed)
    }

    /// The sources with records that the front did not have before, and where they end now.
    fn news_of_sources(&self, log: &dyn InputLog, cut: Cut) -> Result<Vec<(RelationId, Ends)>, LogError> {
        let mut news = Vec::new();
        for (id, (topic, ends)) in &self.sources {
            let now = positions(log, *topic, cut)?;
            if now != *ends {
                news.push((*id, now));
            }
        }
        Ok(news)
    }

    /// Where ticks and idle events end at the cut; and who is concerned if there are more than before.
    fn news_of_times(&self, log: &dyn InputLog, cut: Cut) -> Result<((i64, i64), Vec<RelationId>), LogError> {
        let (ticks, idle) = times(log, cut)?;
        let mut concerned = Vec::new();
        if ticks > self.times.0 {
            concerned.push(CLOCK);
        }
        if idle > self.times.1 {
            let has_timeout = |id: &&RelationId| {
                let watermark = self.catalog.relation(**id).and_then(|source| source.watermark());
                watermark.is_some_and(|watermark| watermark.idle_timeout_us.is_some())
            };
            concerned.extend(self.sources.keys().filter(has_timeout));
        }
        Ok(((ticks, idle), concerned))
    }

    /// The tables as they are.
    pub(super) fn contents(&self) -> Contents {
        let one =
            |(id, collection): (&RelationId, &Collection)| (*id, content_of(self.inputs.get(id), collection.version()));
        self.tables.iter().map(one).collect()
    }

    pub(super) fn note_stats(&self) {
        let letters = self.dead_letters.taken();
        self.shared.with_stats(|stats| {
            stats.dead_letters_written = letters;
            for (id, collection) in &self.tables {
                let (Some(input), version) = (self.inputs.get(id), collection.version()) else { continue };
                let (rows, bytes) = (version.len(), version.bytes());
                stats.relations.insert(*id, RelationStats { rows, bytes, ..stats_of_input(input) });
            }
        });
    }
}

/// What is seen of a table.
pub(super) fn content_of(input: Option<&Input>, version: Arc<Version>) -> Content {
    let newest_ms = input.map_or(0, |input| input.state.newest_timestamp_ms);
    Content { version, error: input.and_then(Input::first_error), newest_ms }
}

/// Reads a table up to the ends and applies what it says to its content.
pub(super) fn read_table(
    shared: &super::Shared,
    input: &mut Input,
    collection: &mut Collection,
    dead_letters: &crate::dead_letters::DeadLetters,
    (cut, ends): (Cut, &Ends),
) -> Result<(), EngineError> {
    let again = |error: &LogError| again(shared, error);
    let reading = Reading {
        log: &*shared.input,
        slice_rows: shared.config.slice_rows,
        read_bytes_max: shared.config.read_bytes_max,
        again: &again,
        is_over: &|| shared.is_abandoned(),
    };
    let (delta, rejected) = input.read_table(&reading, ends, &collection.version())?;
    if !delta.is_empty() {
        collection.apply(cut, &delta);
    }
    let letters = if rejected.is_empty() { None } else { topic_of_letters(shared) };
    dead_letters.offer(&input.relation, letters, rejected, (cut, ends));
    Ok(())
}

/// What lies between where tables stand and the cut.
fn measured(
    inputs: &mut BTreeMap<RelationId, Input>,
    log: &dyn InputLog,
    cut: Cut,
) -> Result<(u64, BTreeMap<RelationId, Ends>), LogError> {
    let (mut weight, mut all) = (0, BTreeMap::new());
    for (id, input) in inputs {
        let ends = input.ends(log, cut)?;
        weight += input.weight(log, &ends);
        all.insert(*id, ends);
    }
    Ok((weight, all))
}

fn weight_of(
    sources: &BTreeMap<RelationId, (uuid::Uuid, Ends)>,
    log: &dyn InputLog,
    cut: Cut,
) -> Result<u64, LogError> {
    let mut weight = 0;
    for (topic, ends) in sources.values() {
        for (partition, end) in positions(log, *topic, cut)? {
            let from = ends.get(&partition).copied().unwrap_or(0);
            weight += u64::try_from(end - from).unwrap_or(0);
        }
    }
    Ok(weight)
}

/// Where ticks and idle events end at a cut.
pub(super) fn times(log: &dyn InputLog, cut: Cut) -> Result<(i64, i64), LogError> {
    Ok((ticks_end(log, cut)?, idle_end(log, cut)?))
}

/// Where the partitions of a topic end at a cut.
pub(super) fn positions(log: &dyn InputLog, topic: uuid::Uuid, cut: Cut) -> Result<Ends, LogError> {
    let partitions = log.partitions(topic);
    let of: Vec<_> = partitions.iter().map(|partition| (topic, *partition)).collect();
    Ok(partitions.into_iter().zip(log.positions(&of, cut)?).collect())
}
