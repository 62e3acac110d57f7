//! A circuit whose state is in a store, and which is left hardly any of it in memory.

use std::sync::Arc;

use mainstem_catalog::RelationId;
use mainstem_engine::incremental::Circuit;
use mainstem_engine::state::{Layers, Owner, StateMemory, StateRoot};
use mainstem_sql::Graph;
use mainstem_state::open_memory;

const OWNER: Owner = Owner { relation: RelationId(1), generation: 1 };

/// Where the state of a circuit is.
#[derive(Debug)]
pub(crate) struct Spilled {
    root: Arc<StateRoot>,
    layers: Arc<Layers>,
    versions: usize,
    /// For tests of tests: checkpoints lack the deletions.
    pub(crate) loses_deletions: bool,
}

impl Spilled {
    /// The circuit, to which nothing was pushed yet, keeps its state here from now on.
    pub(crate) fn attach(circuit: &mut Circuit, budget_bytes: u64) -> Spilled {
        let root = StateRoot::new(open_memory(), budget_bytes, 1);
        let layers = Layers::new(root.clone(), OWNER, false);
        circuit.attach(&layers).unwrap();
        Spilled { root, layers, versions: 0, loses_deletions: false }
    }

    /// To be called after each version: everything leaves memory, and after every other version there is a checkpoint.
    pub(crate) fn after_version(&mut self, circuit: &mut Circuit) {
        if let Some(error) = circuit.take_failure() {
            panic!("state cannot be read: {error}");
        }
        circuit.shrink(0);
        self.versions += 1;
        if self.versions.is_multiple_of(2) {
            self.checkpoint(circuit);
        }
    }

    /// Answers the bytes that were written.
    pub(crate) fn checkpoint(&mut self, circuit: &mut Circuit) -> u64 {
        circuit.flush();
        let handed = self.layers.hand_over();
        let is_kept = |change: &Result<mainstem_state::Change, _>| {
            !self.loses_deletions || change.as_ref().is_ok_and(|(_, value)| value.is_some())
        };
        let bytes = self.root.store().apply(&mut handed.changes().filter(is_kept)).unwrap();
        handed.receipt().settle(true);
        bytes
    }

    /// The circuit after a restart, which reads nothing yet.
    pub(crate) fn reopened(&mut self, graph: &Graph, circuit: &mut Circuit) -> Circuit {
        self.checkpoint(circuit);
        self.layers = Layers::new(self.root.clone(), OWNER, true);
        let mut reopened = Circuit::new(graph).unwrap();
        reopened.attach(&self.layers).unwrap();
        reopened
    }

    pub(crate) fn memory(&self) -> StateMemory {
        self.root.memory()
    }
}
