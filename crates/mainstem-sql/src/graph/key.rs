//! Columns that tell the rows of a relation apart, as far as its definition says so.

use std::collections::BTreeSet;

use mainstem_catalog::{Catalog, Relation, RelationKind};

use super::{Graph, JoinKind, Operator, OperatorId, Scalar};

/// Indexes of columns of which no two rows have the same values: a table's primary key, the groups of a view. None if the
/// definition does not tell; no columns if there is one row at most.
#[must_use]
pub fn unique_key(catalog: &Catalog, relation: &Relation) -> Option<Vec<usize>> {
    match &relation.kind {
        RelationKind::Table(table) => Some(table.primary_key.clone()),
        RelationKind::MaterializedView(view) => {
            let graph = Graph::from_json(view.graph.as_ref()?).ok()?;
            key_of(catalog, &graph, graph.output)
        }
        _ => None,
    }
}

fn key_of(catalog: &Catalog, graph: &Graph, id: OperatorId) -> Option<Vec<usize>> {
    let node = graph.node(id);
    let input = |place: usize| node.inputs.get(place).and_then(|id| key_of(catalog, graph, *id));
    match &node.operator {
        Operator::Input { relation, columns } => {
            let key = unique_key(catalog, catalog.relation(*relation)?)?;
            key.iter().map(|column| columns.iter().position(|found| found == column)).collect()
        }
        Operator::Aggregate { group, .. } => Some((0..group.len()).collect()),
        Operator::Distinct => Some((0..node.schema.len()).collect()),
        Operator::Filter { .. }
        | Operator::TopN { .. }
        | Operator::Over { .. }
        | Operator::DropLate {}
        | Operator::EmitOnClose { .. }
        | Operator::AsOf { .. } => input(0),
        Operator::Project { expressions } => {
            let place = |column: &usize| expressions.iter().position(|of| *of == Scalar::Column(*column));
            input(0)?.iter().map(place).collect()
        }
        Operator::Join { kind, on, .. } => {
            let left = input(0)?;
            if !kind.gives_pairs() {
                return Some(left);
            }
            let right = input(1)?;
            // Each left row has one partner at most where the equalities name all of the right key.
            let named: BTreeSet<usize> = on.iter().filter_map(|(_, right)| column_of(right)).collect();
            if *kind != JoinKind::Full && right.iter().all(|column| named.contains(column)) {
                return Some(left);
            }
            let width = graph.node(*node.inputs.first()?).schema.len();
            Some(left.into_iter().chain(right.into_iter().map(|column| width + column)).collect())
        }
        _ => None,
    }
}

fn column_of(scalar: &Scalar) -> Option<usize> {
    match scalar {
        Scalar::Column(column) => Some(*column),
        _ => None,
    }
}
