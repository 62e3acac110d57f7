//! A query that is followed: operators of its own, fed by what its relations change.
//!
//! Tables and views give the differences of their versions, sources their records. All of a step is pushed before its
//! output is taken, so that the output is what the step as a whole changes; only where nothing is ever taken back
//! (an append-only graph) is output given as it comes, so that the history of a source is never held whole.
//!
//! Always true here: at the end of a step the operators have taken in exactly what was readable at its cut; nothing is
//! written (records that do not decode are left out, as a SELECT leaves them out); retention is held only while the first
//! step reads history: who falls behind later than a source keeps records is told so (55000).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use mainstem_catalog::{Catalog, RelationId, RelationKind};
use mainstem_sql::{ClockUse, Graph, Operator, SqlError};

use super::{PART_ROWS, Places};
use crate::batch::{engine_error, log_error, view_error};
use crate::collection::{Deltas, Version};
use crate::delta::Delta;
use crate::engine::EngineConfig;
use crate::error::EngineError;
use crate::incremental::{Circuit, VersionOutput};
use crate::input_log::{Cut, InputLog};
use crate::lane::{Input, Next, Pacing, Published, Reading, Shared};
use crate::ticks::TickReader;
use crate::watermark::lowest;

#[derive(Debug)]
pub(super) struct QueryFeed {
    circuit: Circuit,
    is_append_only: bool,
    has_state: bool,
    /// Of tables and views: what was taken in.
    below: HashMap<RelationId, Option<Arc<Version>>>,
    sources: BTreeMap<RelationId, Input>,
    /// What of tables and views is still to be pushed in this step.
    pending: VecDeque<(RelationId, Deltas)>,
    /// Up to here sources were read.
    cut: Cut,
    to: Cut,
    /// Output of this step that waits for its end, parted.
    ready: VecDeque<Delta>,
    is_finished: bool,
    errors: BTreeMap<String, i64>,
    pacing: Pacing,
    log: Arc<dyn InputLog>,
    config: EngineConfig,
}

impl QueryFeed {
    pub(super) fn new(graph: &Graph, catalog: &Catalog, shared: &Shared) -> Result<QueryFeed, EngineError> {
        let (mut below, mut sources) = (HashMap::new(), BTreeMap::new());
        for id in graph.relations() {
            let relation = catalog.relation(id).ok_or(EngineError::UnknownRelation(id.0))?;
            if let RelationKind::Source(_) = relation.kind {
                sources.insert(id, Input::new(relation)?);
            } else {
                below.insert(id, None);
            }
        }
        let is_stateless = |operator: &Operator| {
            use Operator::{Filter, Input, Project, Union, Unnest};
            matches!(operator, Input { .. } | Filter { .. } | Project { .. } | Union | Unnest { .. })
        };
        Ok(QueryFeed {
            circuit: Circuit::with_shards(graph, shared.config.shards)?,
            is_append_only: graph.node(graph.output).append_only,
            has_state: !graph.nodes.iter().all(|node| is_stateless(&node.operator)),
            below,
            sources,
            pending: VecDeque::new(),
            cut: Cut::ZERO,
            to: Cut::ZERO,
            ready: VecDeque::new(),
            is_finished: false,
            errors: BTreeMap::new(),
            pacing: Pacing::new(shared.config.slice_rows),
            log: shared.input.clone(),
            config: shared.config.clone(),
        })
    }

    /// A step to this version begins. `skips`: nobody wants what it gives, and operators without state need not see it.
    pub(super) fn begin(&mut self, to: &Published, places: &Places, skips: bool) -> Result<(), SqlError> {
        self.to = to.cut;
        self.is_finished = false;
        let skips = skips && !self.has_state;
        for (id, before) in &mut self.below {
            let now = to.relations[&places[id]].version.clone();
            let deltas = match &before {
                None if skips => None,
                None => Some(now.deltas(PART_ROWS)),
                Some(before) => Some(now.since(before, PART_ROWS)),
            };
            self.pending.extend(deltas.map(|deltas| (*id, deltas)));
            *before = Some(now);
        }
        if skips {
            for input in self.sources.values_mut() {
                input.skip_to(&*self.log, to.cut).map_err(|error| log_error(&error))?;
            }
            self.cut = to.cut;
        }
        Ok(())
    }

    /// A bounded piece of the step's work: what it gave, and whether the step is done.
    pub(super) fn part(&mut self) -> Result<(Option<Delta>, bool), SqlError> {
        if let Some(delta) = self.ready.pop_front() {
            return Ok((Some(delta), false));
        }
        if self.is_finished {
            return Ok((None, true));
        }
        if let Some((id, deltas)) = self.pending.front_mut() {
            match deltas.next() {
                Some(delta) => self.circuit.push(*id, &delta),
                None => drop(self.pending.pop_front()),
            }
            return Ok((None, false));
        }
        if self.read_sources()? {
            if self.is_append_only {
                self.finish()?;
            }
            return Ok((None, false));
        }
        self.finish()?;
        self.is_finished = true;
        self.cut = self.to;
        self.sources.values_mut().for_each(Input::release);
        Ok((None, false))
    }

    /// The next slice of the sources' records; whether there was one.
    fn read_sources(&mut self) -> Result<bool, SqlError> {
        if self.sources.is_empty() {
            return Ok(false);
        }
        let log = self.log.clone();
        let next = Next::of(
            &mut self.sources,
            (&TickReader::default(), ClockUse::None),
            &*log,
            &mut self.pacing,
            (self.cut, Some(self.to)),
        );
        let Some(next) = next.map_err(|error| log_error(&error))? else { return Ok(false) };
        let failed = RefCell::new(None);
        let again = |error: &crate::input_log::LogError| {
            failed.replace(Some(error.clone()));
            false
        };
        let reading = Reading {
            log: &*log,
            slice_rows: self.config.slice_rows,
            read_bytes_max: self.config.read_bytes_max,
            again: &again,
            is_over: &|| false,
        };
        for (id, input) in &mut self.sources {
            let circuit = &mut self.circuit;
            let read = input.read_source(&reading, (next.cut, &next.ends[id]), &mut |delta| circuit.push(*id, delta));
            if let Err(error) = read {
                return Err(failed.take().map_or_else(|| engine_error(&error), |error| log_error(&error)));
            }
            if let Some(error) = input.first_error() {
                return Err(SqlError::new("55000", error.to_string())
                    .with_hint("Subscribe again to begin with what is there now."));
            }
        }
        self.cut = next.cut;
        Ok(true)
    }

    fn finish(&mut self) -> Result<(), SqlError> {
        let times = lowest(self.sources.values().filter_map(Input::event_time));
        let VersionOutput { output, errors, .. } = self.circuit.finish_version_at(times);
        for (message, weight) in errors {
            *self.errors.entry(message).or_default() += weight;
        }
        self.errors.retain(|_, weight| *weight != 0);
        if let Some(message) = self.errors.keys().next() {
            let mut error = view_error("", message);
            error.detail = Some("Rows that the query reads cannot be evaluated.".to_owned());
            return Err(error);
        }
        let parts = (0..output.len()).step_by(PART_ROWS);
        self.ready.extend(parts.map(|start| output.slice(start, PART_ROWS.min(output.len() - start))));
        Ok(())
    }
}
