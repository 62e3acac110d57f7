//! One materialized view as it moves: its circuit, its collection, its errors.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_catalog::{Relation, RelationId};
use mainstem_sql::{ClockUse, Graph};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Kept;
use crate::collection::{Collection, ContentState, KeyKind};
use crate::delta::Delta;
use crate::error::EngineError;
use crate::incremental::{Circuit, Shards};
use crate::input_log::Cut;
use crate::state::{Layers, Owner, StateRoot};
use crate::watermark::Times;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) relation: Arc<Relation>,
    pub(crate) collection: Collection,
    pub(crate) counters: ViewState,
    /// The relations it reads, in order of id.
    pub(crate) reads: Arc<[RelationId]>,
    pub(crate) clock: ClockUse,
    circuit: Circuit,
    layers: Arc<Layers>,
    /// What it was last said to take of the memory for state.
    held_bytes: u64,
    /// Something was pushed since the last version.
    is_touched: bool,
    /// Of the last version.
    times: Times,
}

/// What a checkpoint keeps of a view besides its circuit and its collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ViewState {
    /// Of the last version that changed its collection.
    pub(crate) cut: Cut,
    /// The errors that stand, each as often as it does.
    pub(crate) errors: BTreeMap<String, i64>,
    pub(crate) late: u64,
    pub(crate) rows_in: u64,
}

impl View {
    /// An empty one: its inputs have given nothing yet.
    pub(crate) fn new(relation: &Arc<Relation>, state: &Arc<StateRoot>, shards: Shards) -> Result<View, EngineError> {
        let owner = Owner { relation: relation.id, generation: state.next_generation() };
        let layers = Layers::new(state.clone(), owner, false);
        View::over(relation, &layers, shards, (Cut::ZERO, &ContentState::default()), ViewState::default())
    }

    /// As a checkpoint kept it. Nothing of its operators and of its content is read.
    pub(crate) fn restored(
        relation: &Arc<Relation>,
        kept: Kept,
        state: &Arc<StateRoot>,
        shards: Shards,
    ) -> Result<View, EngineError> {
        let owner = Owner { relation: relation.id, generation: kept.generation };
        let layers = Layers::new(state.clone(), owner, true);
        let counters = kept.view.ok_or_else(|| EngineError::State("it was not a view".to_owned()))?;
        View::over(relation, &layers, shards, (kept.cut, &kept.content), counters)
    }

    fn over(
        relation: &Arc<Relation>,
        layers: &Arc<Layers>,
        shards: Shards,
        (cut, content): (Cut, &ContentState),
        counters: ViewState,
    ) -> Result<View, EngineError> {
        let graph = graph_of(relation)?;
        let mut circuit = Circuit::with_shards(&graph, shards)?;
        circuit.attach(layers)?;
        let schema = graph.output_schema().map_err(|error| EngineError::Graph(error.to_string()))?;
        let mut collection = Collection::try_new(schema, KeyKind::WholeRow)?;
        collection.attach(layers, cut, content)?;
        Ok(View {
            clock: graph.clock_use(),
            relation: relation.clone(),
            collection,
            counters,
            reads: graph.relations().into(),
            circuit,
            layers: layers.clone(),
            held_bytes: 0,
            is_touched: true,
            times: Times::default(),
        })
    }

    /// What a checkpoint keeps of it, its state apart; after this its spaces have all of that. Between versions.
    pub(crate) fn keep(&mut self) -> Kept {
        self.circuit.flush();
        self.collection.keep(Some(self.counters.clone())).expect("a view's collection is attached")
    }

    /// Tells how much memory the operators take, and gives some of it back when all take too much.
    pub(crate) fn keep_within_budget(&mut self) {
        let state = self.layers.root().clone();
        let pending = self.layers.memory_bytes() + self.collection.held_bytes();
        let now = self.circuit.state_bytes() + pending;
        let wanted = state.uses(std::mem::replace(&mut self.held_bytes, now), now);
        if let Some(wanted) = wanted {
            self.circuit.shrink(wanted.saturating_sub(pending));
            let less = self.circuit.state_bytes() + pending;
            state.uses(std::mem::replace(&mut self.held_bytes, less), less);
        }
    }

    /// A slice of one of its inputs.
    pub(crate) fn push(&mut self, input: RelationId, delta: &Delta) {
        self.is_touched = true;
        self.counters.rows_in += delta.len() as u64;
        self.circuit.push(input, delta);
    }

    /// Ends a version. Answers what changed in the view's content, if anything did.
    pub(crate) fn finish(&mut self, cut: Cut, times: Times) -> Option<Delta> {
        if !self.is_touched && self.times == times {
            self.keep_within_budget();
            return None;
        }
        self.is_touched = false;
        self.times = times;
        let finished = self.circuit.finish_version_at(times);
        if let Some(error) = self.circuit.take_failure() {
            self.layers.root().note_damage(&error);
        }
        self.keep_within_budget();
        self.counters.late += finished.late;
        for (message, weight) in finished.errors {
            let count = self.counters.errors.entry(message).or_default();
            *count += weight;
        }
        self.counters.errors.retain(|_, count| *count != 0);
        if finished.output.is_empty() {
            return None;
        }
        self.counters.cut = cut;
        self.collection.apply(cut, &finished.output);
        Some(finished.output)
    }

    /// The first error that stands, in the order of their texts.
    pub(crate) fn first_error(&self) -> Option<Arc<str>> {
        self.counters.errors.keys().next().map(|message| message.as_str().into())
    }

    pub(crate) fn circuit(&self) -> &Circuit {
        &self.circuit
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.layers.root().uses(self.held_bytes, 0);
    }
}

fn graph_of(relation: &Relation) -> Result<Graph, EngineError> {
    let view = relation.materialized().ok_or_else(|| EngineError::Graph("not a materialized view".to_owned()))?;
    let json = view.graph.as_ref().ok_or_else(|| EngineError::Graph("the view has no operator graph".to_owned()))?;
    Graph::from_json(json).map_err(|error| EngineError::Graph(error.to_string()))
}
