//! One materialized view as it moves: its circuit, its collection, its errors.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_catalog::{Relation, RelationId};
use mainstem_sql::{ClockUse, Graph, OperatorId};
use serde::{Deserialize, Serialize};

use crate::collection::{Collection, KeyKind};
use crate::delta::Delta;
use crate::error::EngineError;
use crate::incremental::{Circuit, Shards};
use crate::input_log::Cut;
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
    pub(crate) fn new(relation: &Arc<Relation>, shards: Shards) -> Result<View, EngineError> {
        let graph = graph_of(relation)?;
        let circuit = Circuit::with_shards(&graph, shards)?;
        View::with_circuit(relation, graph, circuit, ViewState::default())
    }

    /// As a checkpoint kept it; its collection's chunks are still to be put back.
    pub(crate) fn restored(
        relation: &Arc<Relation>,
        state: ViewState,
        operators: Vec<(OperatorId, Vec<u8>)>,
        shards: Shards,
    ) -> Result<View, EngineError> {
        let graph = graph_of(relation)?;
        let circuit = Circuit::restore_with_shards(&graph, shards, operators)?;
        View::with_circuit(relation, graph, circuit, state)
    }

    fn with_circuit(
        relation: &Arc<Relation>,
        graph: Graph,
        circuit: Circuit,
        counters: ViewState,
    ) -> Result<View, EngineError> {
        let schema = graph.output_schema().map_err(|error| EngineError::Graph(error.to_string()))?;
        let collection = Collection::try_new(schema, KeyKind::WholeRow)?;
        let reads = graph.relations().into();
        let (relation, clock) = (relation.clone(), graph.clock_use());
        Ok(View { clock, relation, collection, counters, reads, circuit, is_touched: true, times: Times::default() })
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
            return None;
        }
        self.is_touched = false;
        self.times = times;
        let finished = self.circuit.finish_version_at(times);
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

fn graph_of(relation: &Relation) -> Result<Graph, EngineError> {
    let view = relation.materialized().ok_or_else(|| EngineError::Graph("not a materialized view".to_owned()))?;
    let json = view.graph.as_ref().ok_or_else(|| EngineError::Graph("the view has no operator graph".to_owned()))?;
    Graph::from_json(json).map_err(|error| EngineError::Graph(error.to_string()))
}
