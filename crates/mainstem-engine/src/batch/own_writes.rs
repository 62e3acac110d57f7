//! Materialized views inside a transaction that wrote to the tables below them: their queries, run over the snapshot with the
//! writes. What the lane keeps does not have those, and shall not.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::ViewTable;
use futures::future::BoxFuture;
use mainstem_catalog::{Catalog, Dependency, Relation, RelationId, RelationKind, ViewDefinition};
use mainstem_sql::{SqlError, at_time};

use super::closed::ties_decided;
use super::context::{ContextOptions, as_declared, empty_context, plan_text, register, stored_relation, view_over};
use super::errors::{log_error, query_error};
use crate::engine::{Engine, Pinned, PinnedRelation};
use crate::tables::Overlay;
use crate::ticks::{tick_before, ticks_end};

pub(super) type Overlays = HashMap<RelationId, Arc<Overlay>>;

/// The materialized views among `relations` that rest on a table with writes, each with all that it rests on.
pub(super) fn affected(
    catalog: &Catalog,
    relations: &BTreeSet<RelationId>,
    overlays: &Overlays,
) -> HashMap<RelationId, BTreeSet<RelationId>> {
    if overlays.values().all(|overlay| overlay.is_empty()) {
        return HashMap::new();
    }
    let is_written = |id: &RelationId| overlays.get(id).is_some_and(|overlay| !overlay.is_empty());
    let view = |id: &&RelationId| catalog.relation(**id).is_some_and(|it| materialized(it).is_some());
    let below = relations.iter().filter(view).map(|id| (*id, all_below(catalog, *id)));
    below.filter(|(_, below)| below.iter().any(is_written)).collect()
}

/// A view that closes windows shows them when they are closed, whoever asks: it is read as it is.
fn materialized(relation: &Relation) -> Option<&ViewDefinition> {
    match &relation.kind {
        RelationKind::MaterializedView(view) if !view.emit_on_window_close => Some(view),
        _ => None,
    }
}

/// All that a relation rests on, without itself.
pub(super) fn all_below(catalog: &Catalog, of: RelationId) -> BTreeSet<RelationId> {
    let (mut found, mut stack) = (BTreeSet::new(), vec![of]);
    while let Some(relation) = stack.pop().and_then(|id| catalog.relation(id)) {
        for dependency in &relation.depends_on {
            if let Dependency::Relation(id) = dependency
                && found.insert(*id)
            {
                stack.push(*id);
            }
        }
    }
    found
}

/// What such views are made of.
pub(super) struct OwnWrites<'a> {
    pub(super) engine: &'a Engine,
    pub(super) catalog: &'a Catalog,
    /// With all that the affected views rest on.
    pub(super) pinned: &'a Pinned,
    pub(super) overlays: &'a Overlays,
    pub(super) options: &'a ContextOptions,
}

impl OwnWrites<'_> {
    /// The relation as the transaction sees it.
    pub(super) fn provider<'b>(
        &'b self,
        relation: &'b Arc<Relation>,
    ) -> BoxFuture<'b, Result<Arc<dyn TableProvider>, SqlError>> {
        Box::pin(async move {
            let is_affected = |id| !affected(self.catalog, &BTreeSet::from([id]), self.overlays).is_empty();
            let (query, view) = match (&relation.kind, materialized(relation)) {
                (RelationKind::View(view), _) => (&view.query, None),
                (_, Some(view)) if is_affected(relation.id) => (&view.query, Some(view)),
                _ => return stored_relation(self.engine, relation, self.pinned, self.overlays),
            };
            let context = empty_context(self.options);
            for dependency in &relation.depends_on {
                if let Dependency::Relation(id) = dependency
                    && let Some(below) = self.catalog.relation(*id)
                {
                    if let Some(view) = view {
                        self.check_history(relation, view, below)?;
                    }
                    register(&context, &below.schema, &below.name, self.provider(below).await?);
                }
            }
            if view.is_none() {
                return view_over(&context, relation, query).await;
            }
            let plan = at_time(plan_text(&context, query).await?, self.now_us()?).map_err(query_error)?;
            let plan = ties_decided(plan).and_then(|plan| as_declared(plan, relation)).map_err(query_error)?;
            Ok(Arc::new(ViewTable::new(plan, Some(query.clone()))) as Arc<dyn TableProvider>)
        })
    }

    /// What views take for the time.
    fn now_us(&self) -> Result<Option<i64>, SqlError> {
        let input = self.engine.input();
        let newest = ticks_end(&**input, self.pinned.cut).and_then(|end| tick_before(&**input, end));
        Ok(newest.map_err(|error| log_error(&error))?.map(|tick| tick.now_us))
    }

    /// The view may hold more than its sources still have.
    fn check_history(&self, relation: &Relation, view: &ViewDefinition, below: &Relation) -> Result<(), SqlError> {
        let Some(PinnedRelation::Source { positions }) = self.pinned.relations.get(&below.id) else { return Ok(()) };
        let is_short = |(partition, start, _): &(i32, i64, i64)| {
            let origin = view.origin_of(below.id, *partition);
            let compacted = below.topic().map_or(0, |topic| self.engine.input().compacted_below(topic, *partition));
            *start > origin.offset || compacted > origin.compacted_below
        };
        if !positions.iter().any(is_short) {
            return Ok(());
        }
        let message = format!(
            "view \"{}\" cannot be read in a transaction that wrote to the tables below it: history of source \"{}\" is gone",
            relation.name, below.name
        );
        Err(SqlError::new("55000", message).with_hint("COMMIT first, or read the view before the writes."))
    }
}
