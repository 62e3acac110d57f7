//! Sinks: what changes in a table or materialized view, as records of a topic, exactly once.
//!
//! Words: a sink is an *output* of the log, `sink:<id>`, whose committed cut moves in the commit that appends what changed up
//! to that cut. A *way* leads from the content at one committed cut to that at the next; which published versions a sink takes
//! as its steps is its own affair: it has a thread of its own, takes the newest version whenever it is ready, and holds what
//! it compares by reference, so that a slow sink slows nobody.
//!
//! After a restart a sink is mute until replay stands exactly at its committed cut: the front and the lane of its relation
//! stop there ([`Outputs::look`]), and what the relation holds then is what the topic stands for. In no checkpoint is a
//! relation further than its sinks have written ([`Outputs::flush`]), unless the sink has failed for good, which the
//! checkpoint keeps.

mod debezium;
mod partition;
mod records;
mod slot;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_catalog::{Catalog, RelationId, Sink, SinkFormat};
use parking_lot::Mutex;

use crate::error::EngineError;
use crate::input_log::Cut;
use crate::lane::{Frontiers, Published, Shared};
use slot::{Seen, Slot};
use writer::Writer;

pub use partition::partition_of;

/// The log's output of a sink.
#[must_use]
pub fn output_name(sink: RelationId) -> String {
    format!("sink:{}", sink.0)
}

/// What one sink does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStats {
    /// Its name.
    pub name: String,
    /// `starting`, `running`, `replaying`, `waiting: reason` (it is tried again), `failed: reason`.
    pub state: String,
    /// What its topic stands for is the relation at this cut.
    pub committed: Cut,
    /// All that changed up to here is written.
    pub written_to: Cut,
    /// Records written since the engine was opened.
    pub records: u64,
    /// Rows taken back that `force_append_only` has left out since then.
    pub left_out: u64,
    /// Records of its inputs that are durable and that it has not taken in.
    pub lag_records: u64,
    /// Age of the newest record that it has taken in while there is a lag; 0 without.
    pub lag_ms: u64,
}

/// A thread to be started: its name and what it does.
pub(crate) type Thread = (String, Box<dyn FnOnce() + Send>);

/// See the module's text. One per engine.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    sinks: Mutex<BTreeMap<RelationId, Running>>,
    /// What the checkpoint says.
    restored: Mutex<Restored>,
    orders: Mutex<Arc<WantedOrders>>,
}

#[derive(Debug, Default)]
struct Restored {
    /// Sinks that had failed.
    failed: BTreeMap<RelationId, String>,
    /// As of which cut it holds tables and views.
    places: BTreeMap<RelationId, Cut>,
    /// Sinks that had written all up to a cut when the state store was found to be damaged.
    written: BTreeMap<RelationId, Cut>,
}

/// By relation, the columns that its rows are to be sorted by first, besides its own order.
pub(crate) type WantedOrders = BTreeMap<RelationId, Vec<Vec<usize>>>;

#[derive(Clone, Debug)]
struct Running {
    sink: Arc<Sink>,
    slot: Arc<Slot>,
}

/// The orders that rows are to be kept in for indexes and for sinks whose key is not what they are sorted by.
pub(crate) fn wanted_orders(catalog: &Catalog) -> WantedOrders {
    let mut wanted = WantedOrders::new();
    for index in catalog.indexes() {
        wanted.entry(index.of).or_default().push(index.columns.clone());
    }
    for sink in catalog.sinks().filter(|sink| sink.format != SinkFormat::Plain) {
        wanted.entry(sink.from).or_default().extend(sink.key.clone());
    }
    wanted
}

impl Outputs {
    fn all(&self) -> Vec<Running> {
        self.sinks.lock().values().cloned().collect()
    }

    /// What the checkpoint says: which sinks had failed, and as of which cut it holds tables and views.
    pub(crate) fn restore(&self, failed: BTreeMap<RelationId, String>, places: BTreeMap<RelationId, Cut>) {
        *self.restored.lock() = Restored { failed, places, ..Restored::default() };
    }

    /// Everything is to be made again from the log while the engine runs: all threads end, and begin again with what was
    /// written.
    pub(crate) fn start_over(&self) {
        let (mut sinks, mut restored) = (self.sinks.lock(), self.restored.lock());
        restored.places.clear();
        for (id, running) in std::mem::take(&mut *sinks) {
            running.slot.end();
            running.slot.read(|state| {
                restored.written.insert(id, state.done);
                restored.failed.extend(state.failed.clone().map(|reason| (id, reason)));
            });
        }
    }

    /// Rows are to be kept in these orders from now on; whether these are others than before.
    pub(crate) fn want_orders(&self, wanted: WantedOrders) -> bool {
        let mut orders = self.orders.lock();
        let are_new = **orders != wanted;
        if are_new {
            *orders = Arc::new(wanted);
        }
        are_new
    }

    pub(crate) fn wanted_orders(&self) -> Arc<WantedOrders> {
        self.orders.lock().clone()
    }

    /// Ends the sinks that are gone and gives threads for those that are new.
    pub(crate) fn take_catalog(&self, shared: &Arc<Shared>, catalog: &Catalog) -> Vec<Thread> {
        let mut sinks = self.sinks.lock();
        sinks.retain(|id, running| {
            let is_live = catalog.sink(*id).is_some();
            if !is_live {
                running.slot.end();
            }
            is_live
        });
        let restored = self.restored.lock();
        let mut threads: Vec<Thread> = Vec::new();
        for sink in catalog.sinks() {
            if sinks.contains_key(&sink.id) {
                continue;
            }
            let output = output_name(sink.id);
            let stands = shared.output.committed(&output).and_then(|cut| Ok((cut, shared.output.ahead(&output)?)));
            let (committed, ahead, failed) = match stands {
                Ok((cut, ahead)) => (cut, ahead, restored.failed.get(&sink.id).cloned()),
                Err(error) => (Cut::ZERO, None, Some(error.to_string())),
            };
            // What is not in the checkpoint is made again from its beginning.
            let at = restored.places.get(&sink.from).max(restored.written.get(&sink.id)).copied().unwrap_or(Cut::ZERO);
            let slot = Arc::new(Slot::new(committed, ahead, at, failed));
            let relation = catalog.relation(sink.from).expect("a sink's relation is live while it is");
            match Writer::new(sink.clone(), relation.clone(), slot.clone(), shared.clone()) {
                Ok(writer) => threads.push((format!("engine-sink-{}", sink.id.0), Box::new(move || writer.run()))),
                Err(error) => slot.fail(error.to_string()),
            }
            sinks.insert(sink.id, Running { sink: sink.clone(), slot });
        }
        drop((sinks, restored));
        shared.jobs_changed();
        threads
    }

    /// Something may have been published: each sink sees the newest version of its relation, and the one at the cut that it
    /// waits for. Those that go on waiting hold the front and the relation's lane there.
    pub(crate) fn look(&self, all: &mut Frontiers) {
        let mut held = Vec::new();
        for Running { sink, slot } in self.sinks.lock().values() {
            let ids = [sink.from];
            let order = sink.key.as_deref().filter(|_| sink.format != SinkFormat::Plain).unwrap_or_default();
            let seen = |mut published: Published| {
                let content = published.relations.remove(&sink.from)?;
                // Until the order that it reads by is kept, it sees nothing.
                content.version.ordered_by(order)?;
                Some(Seen { cut: published.cut, version: content.version, newest_ms: content.newest_ms })
            };
            if let Some(newest) = all.common(&ids).and_then(seen) {
                // A new view may be behind a checkpoint that lacks it: a sink begins where a start would come by.
                if slot.has_begun() || all.would_be_found(sink.from, newest.cut) {
                    slot.see(newest, &|cut| all.at(&ids, cut).and_then(seen));
                }
            }
            held.extend(slot.stops().into_iter().flatten().map(|cut| (sink.from, cut)));
        }
        all.hold(held);
    }

    /// The relation will never be readable: its sinks wait for nothing more.
    pub(crate) fn fail_from(&self, relation: RelationId, reason: &str) {
        for Running { sink, slot } in self.sinks.lock().values() {
            if sink.from == relation {
                slot.fail(format!("what it reads cannot run: {reason}"));
            }
        }
    }

    /// Waits until all that changed up to the cuts of their relations is written. Answers the sinks that have failed for
    /// good, and why.
    pub(crate) fn flush(
        &self,
        cut_of: &dyn Fn(RelationId) -> Option<Cut>,
    ) -> Result<BTreeMap<RelationId, String>, EngineError> {
        let mut failed = BTreeMap::new();
        for Running { sink, slot } in self.all() {
            let waits = |reason| EngineError::Checkpoint(format!("sink \"{}\" waits: {reason}", sink.name));
            if let Some(cut) = cut_of(sink.from) {
                slot.wait_written(cut).map_err(waits)?;
            }
            failed.extend(slot.read(|state| state.failed.clone()).map(|reason| (sink.id, reason)));
        }
        Ok(failed)
    }

    /// Waits until all sinks that have not failed have taken in what changed up to the cut.
    pub(crate) fn wait_done(&self, cut: Cut) {
        self.all().iter().for_each(|running| running.slot.wait_done(cut));
    }

    /// Whether the engine has heard of the sink.
    pub(crate) fn knows(&self, sink: RelationId) -> bool {
        self.sinks.lock().contains_key(&sink)
    }

    /// All threads end.
    pub(crate) fn end(&self) {
        self.sinks.lock().values().for_each(|running| running.slot.end());
    }

    /// Whether the sink has written what is there at its beginning; none while it cannot be told.
    pub(crate) fn has_begun(&self, sink: RelationId) -> Option<Result<(), String>> {
        let running = self.sinks.lock().get(&sink).cloned()?;
        running.slot.read(|state| match &state.failed {
            Some(reason) => Some(Err(reason.clone())),
            None => (state.committed != Cut::ZERO).then_some(Ok(())),
        })
    }

    /// What all sinks do; lags are the caller's to fill in, who is told the newest timestamp that was taken in.
    pub(crate) fn stats(&self, lag: &dyn Fn(&Sink, Cut, i64) -> (u64, u64)) -> BTreeMap<RelationId, SinkStats> {
        let one = |Running { sink, slot }: Running| {
            let (mut stats, done_ms) = slot.read(|state| {
                let stats = SinkStats {
                    name: sink.name.clone(),
                    state: state.text(),
                    committed: state.committed,
                    written_to: state.done,
                    records: state.counters.records,
                    left_out: state.counters.left_out,
                    lag_records: 0,
                    lag_ms: 0,
                };
                (stats, state.done_ms)
            });
            (stats.lag_records, stats.lag_ms) = lag(&sink, stats.written_to, done_ms);
            (sink.id, stats)
        };
        self.all().into_iter().map(one).collect()
    }
}
