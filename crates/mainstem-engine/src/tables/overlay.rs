//! Rows over a published version: changes by key, and the image that both make.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave_record_batch};
use arrow::datatypes::SchemaRef;

use crate::batch::{Lookup, Range};
use crate::collection::Version;
use crate::input_log::Cut;

/// One row of a batch that is shared.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) batch: Arc<RecordBatch>,
    pub(crate) index: usize,
}

impl Row {
    /// All rows of a batch.
    pub(crate) fn all(batch: RecordBatch) -> impl Iterator<Item = Row> {
        let batch = Arc::new(batch);
        (0..batch.num_rows()).map(move |index| Row { batch: batch.clone(), index })
    }

    /// The row alone, with some of its columns.
    pub(crate) fn to_batch(&self, columns: Option<&[usize]>) -> RecordBatch {
        let row = self.batch.slice(self.index, 1);
        match columns {
            Some(columns) => row.project(columns).expect("columns of the row"),
            None => row,
        }
    }

    /// The same values, bit for bit.
    pub(crate) fn equals(&self, other: &Row) -> bool {
        let mut columns = self.batch.columns().iter().zip(other.batch.columns());
        columns.all(|(mine, theirs)| mine.slice(self.index, 1).to_data() == theirs.slice(other.index, 1).to_data())
    }
}

/// Rows as one batch.
pub(crate) fn batch_of_rows(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    if rows.is_empty() {
        return RecordBatch::new_empty(schema.clone());
    }
    let mut batches: Vec<&RecordBatch> = Vec::new();
    let mut places: std::collections::HashMap<*const RecordBatch, usize> = std::collections::HashMap::new();
    let indices: Vec<(usize, usize)> = rows
        .iter()
        .map(|row| {
            let place = *places.entry(Arc::as_ptr(&row.batch)).or_insert_with(|| {
                batches.push(row.batch.as_ref());
                batches.len() - 1
            });
            (place, row.index)
        })
        .collect();
    let gathered = interleave_record_batch(&batches, &indices).expect("rows of one table");
    crate::delta::batch_of(schema, gathered.columns().to_vec(), rows.len()).expect("the columns of the table")
}

/// What becomes of one key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Its place among the changes; records are written in this order.
    sequence: u64,
    /// The row; for a deleted one, the last that had the key.
    pub(crate) row: Row,
    pub(crate) is_deleted: bool,
    /// For accepted changes, the cut that holds it.
    pub(crate) cut: Cut,
}

/// The last change of each key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay {
    changes: BTreeMap<Box<[u8]>, Change>,
    next: u64,
}

impl Overlay {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Change> {
        self.changes.get(key)
    }

    pub(crate) fn write(&mut self, key: Box<[u8]>, row: Row, cut: Cut) {
        self.put(key, row, false, cut);
    }

    /// `row` is the last that had the key.
    pub(crate) fn delete(&mut self, key: Box<[u8]>, row: Row, cut: Cut) {
        self.put(key, row, true, cut);
    }

    fn put(&mut self, key: Box<[u8]>, row: Row, is_deleted: bool, cut: Cut) {
        let sequence = self.next;
        self.next += 1;
        self.changes.insert(key, Change { sequence, row, is_deleted, cut });
    }

    /// Forgets the change of a key, if it is still the one of that cut.
    pub(crate) fn forget(&mut self, key: &[u8], cut: Cut) {
        if self.changes.get(key).is_some_and(|change| change.cut == cut) {
            self.changes.remove(key);
        }
    }

    /// The changes of the other over these.
    pub(crate) fn extend(&mut self, other: Overlay, cut: Cut) {
        for (key, change) in other.into_ordered() {
            self.put(key, change.row, change.is_deleted, cut);
        }
    }

    /// In the order in which they were made.
    pub(crate) fn into_ordered(self) -> Vec<(Box<[u8]>, Change)> {
        let mut changes: Vec<_> = self.changes.into_iter().collect();
        changes.sort_unstable_by_key(|(_, change)| change.sequence);
        changes
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Box<[u8]>, &mut Change) -> bool) {
        self.changes.retain(keep);
    }
}

/// A version with changes over it.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) version: Arc<Version>,
    pub(crate) overlay: Arc<Overlay>,
}

impl Image {
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.version.schema()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Row> {
        match self.overlay.get(key) {
            Some(change) => (!change.is_deleted).then(|| change.row.clone()),
            None => self.version.get(key).map(|batch| Row { batch: Arc::new(batch), index: 0 }),
        }
    }

    /// The rows of the keys, in their order.
    pub(crate) fn get_many<'k>(&self, keys: impl Iterator<Item = &'k [u8]> + Clone) -> Vec<Option<Row>> {
        let (found, places) = self.version.get_many(keys.clone().filter(|key| self.overlay.get(key).is_none()));
        let found = Arc::new(found);
        let mut places = places.into_iter();
        keys.map(|key| match self.overlay.get(key) {
            Some(change) => (!change.is_deleted).then(|| change.row.clone()),
            None => {
                let place = places.next().expect("a place per key that was asked for");
                place.map(|index| Row { batch: found.clone(), index })
            }
        })
        .collect()
    }

    /// Some columns of all rows, in no order.
    pub(crate) fn scan(&self, columns: &[usize], batch_rows: usize) -> Box<dyn Iterator<Item = RecordBatch> + Send> {
        if self.overlay.is_empty() {
            return Box::new(self.version.scan(Some(columns), batch_rows));
        }
        self.with_written(self.version.scan(None, batch_rows), columns)
    }

    /// Some columns of the rows in the ranges of a lookup, and of all rows that are written over the version.
    pub(crate) fn look_up(
        &self,
        lookup: &Lookup,
        columns: &[usize],
        batch_rows: usize,
    ) -> Box<dyn Iterator<Item = RecordBatch> + Send> {
        let projection = self.overlay.is_empty().then_some(columns);
        let order = self.version.orders().nth(lookup.order).expect("an order of the version");
        let scan = |range: &Range| order.within(&range.from, range.before.as_deref(), projection, batch_rows);
        let scans: Vec<_> = lookup.ranges.iter().map(scan).collect();
        let found = scans.into_iter().flatten();
        if projection.is_some() { Box::new(found) } else { self.with_written(found, columns) }
    }

    fn with_written(
        &self,
        of_version: impl Iterator<Item = RecordBatch> + Send + 'static,
        columns: &[usize],
    ) -> Box<dyn Iterator<Item = RecordBatch> + Send> {
        let (version, overlay, columns) = (self.version.clone(), self.overlay.clone(), columns.to_vec());
        let written = overlay.changes.values().filter(|change| !change.is_deleted);
        let written: Vec<Row> = written.map(|change| change.row.clone()).collect();
        let written = batch_of_rows(version.schema(), &written);
        let unchanged = of_version.map(move |batch| {
            let keys = version.key_of(&batch);
            let kept: BooleanArray = keys.iter().map(|key| Some(overlay.get(key).is_none())).collect();
            filter_record_batch(&batch, &kept).expect("a mask as long as the batch")
        });
        let all = unchanged.chain(std::iter::once(written)).filter(|batch| batch.num_rows() > 0);
        Box::new(all.map(move |batch| batch.project(&columns).expect("columns of the table")))
    }
}
