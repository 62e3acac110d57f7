//! The rows of a collection in further orders: what an index is, and what a sink groups changes by.
//!
//! Words: an *order* is the columns that rows are sorted by first; the collection's own order is one, too.
//!
//! Always true here: a version and its orders hold the same rows; an order is kept by the collection that it belongs to, so
//! that a reader of one version finds all of them at one cut; orders are not saved: they are made again from the rows.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::{Collection, KeyKind, Layout, Scan, Version};
use crate::delta::{EncodedRows, RowKeys};

/// Rows moved at once while an order is made.
const BUILD_ROWS: usize = 64 << 10;

impl Collection {
    /// Keeps exactly these orders from now on, as far as the collection's own is none of them. Making one reads all rows.
    pub(crate) fn keep_orders(&mut self, wanted: &[Vec<usize>]) {
        let wanted: Vec<&Vec<usize>> = wanted.iter().filter(|columns| !self.layout.begins_with(columns)).collect();
        let is_kept = |order: &Collection| wanted.iter().any(|columns| order.layout.begins_with(columns));
        let before = self.orders.len();
        self.orders.retain(is_kept);
        let mut has_changed = self.orders.len() != before;
        for columns in wanted {
            if self.orders.iter().any(|order| order.layout.begins_with(columns)) {
                continue;
            }
            let layout = Layout::ordered(self.layout.schema.clone(), KeyKind::WholeRow, columns);
            let mut order = Collection::with_layout(layout.expect("columns of a collection have an order"));
            for delta in self.current.deltas(BUILD_ROWS) {
                order.apply(self.cut, &delta);
            }
            self.orders.push(order);
            has_changed = true;
        }
        if has_changed {
            self.renew();
        }
    }
}

impl Layout {
    fn begins_with(&self, columns: &[usize]) -> bool {
        self.order.starts_with(columns)
    }

    /// The columns that rows are sorted by, all of them.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// What the bytes of rows begin with that have these values in the first columns of the order.
    ///
    /// # Panics
    /// If the values are not of the columns' types.
    #[must_use]
    pub fn prefix_of(&self, values: &[ArrayRef], rows: usize) -> EncodedRows {
        let types: Vec<_> = values.iter().map(|values| values.data_type().clone()).collect();
        RowKeys::of_types(&types).expect("columns of a collection have an order").encode(values, rows)
    }
}

impl Version {
    /// The same rows, sorted by these columns first; none if no such order is kept.
    #[must_use]
    pub fn ordered_by(&self, columns: &[usize]) -> Option<&Version> {
        if self.layout.begins_with(columns) {
            return Some(self);
        }
        self.orders.iter().map(Arc::as_ref).find(|order| order.layout.begins_with(columns))
    }

    /// This and the versions in other orders.
    pub fn orders(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(self).chain(self.orders.iter().map(Arc::as_ref))
    }

    /// The rows whose bytes begin so ([`Layout::prefix_of`]). Costs a search in each chunk and what is found.
    #[must_use]
    pub fn with_prefix(&self, prefix: &[u8], projection: Option<&[usize]>, batch_rows: usize) -> Scan {
        let before = successor(prefix);
        self.within(prefix, before.as_deref(), projection, batch_rows)
    }

    /// The rows whose bytes are not less than `from` and less than `before`; none: to the end.
    #[must_use]
    pub fn within(&self, from: &[u8], before: Option<&[u8]>, projection: Option<&[usize]>, batch_rows: usize) -> Scan {
        Scan::within(self.layout.clone(), (&self.chunks, from, before), projection, batch_rows)
    }
}

/// The least bytes that are greater than all that begin with these.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = prefix[..=kept].to_vec();
    next[kept] += 1;
    Some(next)
}
