//! What is done here for sinks and indexes: new ones are taken in, and rows are kept in the orders that they want. Where a
//! sink stops the front and its lane, `frontier` has it; what a sink sees, [`Shared::publish`](super::Shared::publish).

use std::sync::Arc;

use mainstem_catalog::Catalog;

use super::coordinator::Coordinator;
use super::{Lane, LaneCommand};
use crate::error::EngineError;
use crate::outputs::wanted_orders;

impl Coordinator {
    /// New sinks start, dropped ones end; lanes hear of orders that are wanted.
    pub(super) fn take_outputs(&mut self, catalog: &Catalog) -> Result<(), EngineError> {
        let shared = self.shared.clone();
        if shared.outputs.want_orders(wanted_orders(catalog)) {
            for lane in self.lanes.values() {
                let _ = lane.commands.send(LaneCommand::Wake);
            }
        }
        for (name, body) in shared.outputs.take_catalog(&shared, catalog) {
            self.spawn(&name, body)?;
        }
        Ok(())
    }

    /// Tables are kept in the orders that are wanted, and in no others.
    pub(super) fn keep_orders(&mut self) {
        let wanted = self.shared.outputs.wanted_orders();
        for (id, table) in &mut self.tables {
            table.keep_orders(wanted.get(id).map(Vec::as_slice).unwrap_or_default());
        }
    }
}

impl Lane {
    /// Before views are shown: they are kept in the orders that are wanted, and in no others.
    pub(super) fn keep_orders(&mut self) {
        let wanted = self.shared.outputs.wanted_orders();
        for (id, view) in &mut self.views {
            view.collection.keep_orders(wanted.get(id).map(Vec::as_slice).unwrap_or_default());
        }
        self.sorted = wanted;
    }

    /// The same at once, if others are wanted than before.
    pub(super) fn keep_new_orders(&mut self) {
        if !Arc::ptr_eq(&self.sorted, &self.shared.outputs.wanted_orders()) {
            self.publish();
        }
    }
}
