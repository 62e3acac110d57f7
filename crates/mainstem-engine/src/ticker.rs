//! Writes ticks and idle events: the only place where the clock gets into the log, and so into views.
//!
//! A ticker is driven from outside, in rounds. A tick is written while some view needs the clock, at most one per interval, and
//! none while the one before is not published: views that are behind are not given more to do. A partition is told to be idle
//! once, when it has ended at the same offset for the source's IDLE TIMEOUT as measured here; after a restart the time is
//! measured anew.
//!
//! Always true here: a tick is later than every tick before it in the log, whatever the clock does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstem_catalog::{Catalog, IDLE_TOPIC_ID, Relation, RelationId, TICKS_TOPIC_ID};
use mainstem_sql::{ClockUse, Graph};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::input_log::{Cut, OutRecord, OutputCommit, TopicAppend};
use crate::lane::CLOCK;
use crate::ticks::{IdleEvent, Tick, tick_before, ticks_end};

/// What is known of the newest tick; shared by all who write ticks.
#[derive(Debug, Default)]
pub(crate) struct NewestTick {
    /// Read from the log the first time.
    is_read: bool,
    now_us: Option<i64>,
    /// Before this was published the next one waits.
    cut: Cut,
}

/// See the module's text.
#[derive(Debug)]
pub struct Ticker {
    engine: Engine,
    tick: Duration,
    /// When the last one was written, by the clock that never goes back.
    ticked: Option<Duration>,
    needs: Needs,
    partitions: BTreeMap<(RelationId, i32), Seen>,
}

/// What the definitions ask for, as of a version of theirs.
#[derive(Debug)]
struct Needs {
    version: Option<u64>,
    clock: ClockUse,
    sources: Vec<Arc<Relation>>,
}

/// A partition that grows or does not.
#[derive(Clone, Copy, Debug)]
struct Seen {
    end: i64,
    since: Duration,
    is_told: bool,
}

impl Ticker {
    /// Ticks at most as often as this.
    #[must_use]
    pub fn new(engine: Engine, tick: Duration) -> Ticker {
        let needs = Needs { version: None, clock: ClockUse::None, sources: Vec::new() };
        Ticker { engine, tick, ticked: None, needs, partitions: BTreeMap::new() }
    }

    /// Writes what is due. Blocks until it is durable.
    pub fn round(&mut self) -> Result<(), EngineError> {
        self.needs.update(&self.engine.shared.catalog());
        let now = self.engine.shared.clock.monotonic();
        self.idle_events(now)?;
        let is_due = self.ticked.is_none_or(|ticked| now.saturating_sub(ticked) >= self.tick);
        if self.needs.clock != ClockUse::None && is_due && self.engine.is_past_newest_tick() {
            self.engine.tick()?;
            self.ticked = Some(now);
        }
        Ok(())
    }

    fn idle_events(&mut self, now: Duration) -> Result<(), EngineError> {
        let input = self.engine.input().clone();
        if self.needs.sources.is_empty() || input.partitions(IDLE_TOPIC_ID).is_empty() {
            return Ok(());
        }
        let newest = input.newest();
        let mut records: Vec<OutRecord> = Vec::new();
        let mut told: Vec<(RelationId, i32)> = Vec::new();
        for source in &self.needs.sources {
            let timeout_us = source.watermark().and_then(|watermark| watermark.idle_timeout_us).unwrap_or(i64::MAX);
            let topic = source.topic().expect("a source has a topic");
            let of: Vec<_> = input.partitions(topic).into_iter().map(|partition| (topic, partition)).collect();
            for ((_, partition), end) in of.iter().zip(input.positions(&of, newest)?) {
                let fresh = Seen { end, since: now, is_told: false };
                let seen = self.partitions.entry((source.id, *partition)).or_insert(fresh);
                if seen.end != end {
                    *seen = fresh;
                }
                let quiet_us = now.saturating_sub(seen.since).as_micros();
                if end > input.start(topic, *partition) && !seen.is_told && quiet_us >= timeout_us.unsigned_abs().into()
                {
                    let event = IdleEvent { source: source.id, partition: *partition, offset: end };
                    records.push(event.record(self.engine.shared.clock.wall_ms()));
                    told.push((source.id, *partition));
                }
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        self.engine.append(IDLE_TOPIC_ID, records)?;
        for place in told {
            self.partitions.entry(place).and_modify(|seen| seen.is_told = true);
        }
        Ok(())
    }
}

impl Needs {
    fn update(&mut self, catalog: &Catalog) {
        if self.version == Some(catalog.version()) {
            return;
        }
        self.version = Some(catalog.version());
        let graph = |relation: &Arc<Relation>| Graph::from_json(relation.materialized()?.graph.as_ref()?).ok();
        let uses = catalog.relations().filter_map(graph).map(|graph| graph.clock_use());
        self.clock = uses.max().unwrap_or(ClockUse::None);
        let has_timeout = |relation: &&Arc<Relation>| {
            relation.materialized().is_none()
                && relation.watermark().is_some_and(|watermark| watermark.idle_timeout_us.is_some())
        };
        self.sources = catalog.relations().filter(has_timeout).cloned().collect();
    }
}

impl Engine {
    /// Writes what the clock shows now, unless a tick in the log is as late; the cut with it. Blocks until it is durable.
    pub fn tick(&self) -> Result<Option<Cut>, EngineError> {
        let input = self.input();
        if input.partitions(TICKS_TOPIC_ID).is_empty() {
            return Ok(None);
        }
        let mut newest = self.shared.newest_tick.lock();
        if !newest.is_read {
            newest.now_us = tick_before(&**input, ticks_end(&**input, input.newest())?)?.map(|tick| tick.now_us);
            newest.is_read = true;
        }
        let now_us = self.shared.clock.wall_ms().saturating_mul(1000);
        if newest.now_us.is_some_and(|before_us| now_us <= before_us) {
            return Ok(None);
        }
        let cut = self.append(TICKS_TOPIC_ID, vec![Tick { now_us }.record()])?;
        (newest.now_us, newest.cut) = (Some(now_us), cut);
        Ok(Some(cut))
    }

    fn is_past_newest_tick(&self) -> bool {
        let cut = self.shared.newest_tick.lock().cut;
        // Only those who need ticks hold them up.
        self.shared.with_frontiers(|all| all.reach_of(CLOCK)) >= cut
    }

    fn append(&self, topic: uuid::Uuid, records: Vec<OutRecord>) -> Result<Cut, EngineError> {
        let append = TopicAppend { topic, partition: 0, records, expected_end: None };
        let commit = OutputCommit { output: None, appends: vec![append], unchanged: vec![] };
        let accepted = self.shared.output.commit_and_wait(commit);
        let failed = |error| EngineError::Log(crate::input_log::LogError::Failed(format!("a tick: {error}")));
        Ok(accepted.map_err(failed)?.cut)
    }
}
