//! What the lane does for sinks and indexes: it stops where a sink needs it, shows them each version, and keeps the orders
//! that they want.

use mainstem_catalog::RelationId;

use super::{Lane, Published};
use crate::collection::Collection;
use crate::error::EngineError;
use crate::outputs::wanted_orders;

impl Lane {
    /// New sinks start, dropped ones end.
    pub(super) fn take_outputs(&mut self) -> Result<(), EngineError> {
        self.orders = wanted_orders(&self.catalog);
        let shared = self.shared.clone();
        for (name, body) in shared.outputs.take_catalog(&shared, &self.catalog, self.cut) {
            self.spawn(&name, body)?;
        }
        Ok(())
    }

    /// Before a version is published: rows are kept in the orders that are wanted, and in no others.
    pub(super) fn keep_orders(&mut self) {
        let none = Vec::new();
        let tables = self.tables.iter_mut();
        let views = self.views.iter_mut().map(|(id, view)| (id, &mut view.collection));
        for (id, collection) in tables.chain(views) {
            let wanted = self.orders.get(id).unwrap_or(&none);
            Collection::keep_orders(collection, wanted);
        }
    }

    /// After a version is published.
    pub(super) fn show_outputs(&self, published: &Published) {
        let newest_ms = |id| self.newest_ms(id);
        self.shared.outputs.published(published.cut, &published.relations, &newest_ms);
    }

    /// The newest timestamp among the records that the relation was made of.
    fn newest_ms(&self, id: RelationId) -> i64 {
        if let Some(input) = self.inputs.get(&id) {
            return input.state.newest_timestamp_ms;
        }
        let reads = self.views.get(&id).into_iter().flat_map(|view| view.reads.iter());
        reads.map(|below| self.newest_ms(*below)).max().unwrap_or(0)
    }
}
