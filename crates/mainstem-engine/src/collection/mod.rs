//! The readable content of a relation, in versions that never change.
//!
//! Words: an *entry* is a row with its weight; a *chunk* is entries sorted by their bytes, immutable; a *version* is a list
//! of chunks, oldest first, whose sum is the content as of a cut; the *key* of a row is the bytes of its key columns, which
//! begin the row's bytes (the key columns are put first, see [`Layout`]).
//!
//! Each applied delta becomes a chunk; neighbours of like size are merged, so that there are about log(n) chunks and an
//! entry is copied about log(n) times. Versions share chunks, so a long scan costs the lane nothing.
//!
//! Always true here: the entries of a chunk are sorted, distinct and of weight not zero; a row's weights over the chunks of
//! a version add up to its multiplicity, never below zero; with key columns there is at most one row per key, and the newest
//! chunk that knows a key knows its row.

mod chunk;
mod orders;
mod scan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::delta::{Delta, EncodedRows, RowKeys};
use crate::error::EngineError;
use crate::input_log::Cut;
use chunk::Chunk;

pub(crate) use orders::successor;
pub use scan::{Deltas, Scan};

/// What identifies a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// All of its columns: views, which may hold a row several times.
    WholeRow,
    /// These columns, in this order: tables, by their primary key.
    Columns(Vec<usize>),
}

/// How rows of a collection become bytes: key columns first, then the others, each in Arrow's row encoding.
#[derive(Debug)]
pub struct Layout {
    schema: SchemaRef,
    key: KeyKind,
    /// Column of the schema at each place of the bytes.
    order: Vec<usize>,
    /// Place in the bytes of each column of the schema.
    place: Vec<usize>,
    rows: RowKeys,
    keys: RowKeys,
}

impl Layout {
    fn new(schema: SchemaRef, key: KeyKind) -> Result<Layout, EngineError> {
        let first = match &key {
            KeyKind::WholeRow => Vec::new(),
            KeyKind::Columns(columns) => columns.clone(),
        };
        Layout::ordered(schema, key, &first)
    }

    /// Rows sorted by these columns first.
    fn ordered(schema: SchemaRef, key: KeyKind, first: &[usize]) -> Result<Layout, EngineError> {
        let mut order = first.to_vec();
        order.extend((0..schema.fields().len()).filter(|column| !first.contains(column)));
        let mut place = vec![0; order.len()];
        for (at, column) in order.iter().enumerate() {
            place[*column] = at;
        }
        let in_order: SchemaRef =
            Arc::new(Schema::new(order.iter().map(|c| schema.field(*c).clone()).collect::<Vec<_>>()));
        let no_order = |error: arrow::error::ArrowError| EngineError::Graph(error.to_string());
        let key_types: Vec<DataType> = match &key {
            KeyKind::WholeRow => order.iter().map(|c| schema.field(*c).data_type().clone()).collect(),
            KeyKind::Columns(columns) => columns.iter().map(|c| schema.field(*c).data_type().clone()).collect(),
        };
        let keys = RowKeys::of_types(&key_types).map_err(no_order)?;
        let rows = RowKeys::new(&in_order).map_err(no_order)?;
        Ok(Layout { schema, key, order, place, rows, keys })
    }

    fn encode(&self, rows: &RecordBatch) -> EncodedRows {
        let columns: Vec<_> = self.order.iter().map(|column| rows.column(*column).clone()).collect();
        self.rows.encode(&columns, rows.num_rows())
    }

    fn decode<'a>(&self, rows: impl ExactSizeIterator<Item = &'a [u8]>) -> RecordBatch {
        let in_order = self.rows.decode(rows);
        let columns = self.place.iter().map(|place| in_order.column(*place).clone()).collect();
        crate::delta::batch_of(&self.schema, columns, in_order.num_rows()).expect("the columns of the schema")
    }

    /// The keys of the rows of a batch of the schema, as [`Version::get`] takes them.
    pub fn keys_of(&self, rows: &RecordBatch) -> EncodedRows {
        match &self.key {
            KeyKind::WholeRow => self.encode(rows),
            KeyKind::Columns(columns) => {
                let columns: Vec<_> = columns.iter().map(|column| rows.column(*column).clone()).collect();
                self.keys.encode(&columns, rows.num_rows())
            }
        }
    }

    /// The keys of rows given by their key columns alone, in key order.
    pub fn keys_of_columns(&self, columns: &[arrow::array::ArrayRef], rows: usize) -> EncodedRows {
        self.keys.encode(columns, rows)
    }
}

/// The content of a relation that changes: the writing side, owned by the lane.
#[derive(Debug)]
pub struct Collection {
    layout: Arc<Layout>,
    cut: Cut,
    chunks: Vec<Arc<Chunk>>,
    len: u64,
    /// The same rows in other orders, see `orders`.
    orders: Vec<Collection>,
    current: Arc<Version>,
}

/// The content of a relation as of a cut. Immutable and cheap to keep.
#[derive(Debug)]
pub struct Version {
    /// The cut of the last change that it holds.
    pub cut: Cut,
    layout: Arc<Layout>,
    chunks: Vec<Arc<Chunk>>,
    len: u64,
    orders: Vec<Arc<Version>>,
}

impl Collection {
    /// An empty one.
    ///
    /// # Panics
    /// If a column's type has no order (maps); [`Collection::try_new`] says so instead.
    #[must_use]
    pub fn new(schema: SchemaRef, key: KeyKind) -> Collection {
        Collection::try_new(schema, key).expect("column types that have an order")
    }

    /// An empty one, or the name of the type that has no order.
    pub fn try_new(schema: SchemaRef, key: KeyKind) -> Result<Collection, EngineError> {
        Ok(Collection::with_layout(Layout::new(schema, key)?))
    }

    fn with_layout(layout: Layout) -> Collection {
        let (layout, cut, len) = (Arc::new(layout), Cut::ZERO, 0);
        let current = Version { cut, layout: layout.clone(), chunks: Vec::new(), len, orders: Vec::new() };
        Collection { layout, cut, chunks: Vec::new(), len, orders: Vec::new(), current: Arc::new(current) }
    }

    /// Adds the rows with their weights. The delta need not be consolidated. The collection then stands at `cut`.
    pub fn apply(&mut self, cut: Cut, delta: &Delta) {
        let chunk = Chunk::of_delta(&self.layout, delta);
        self.cut = cut;
        if !chunk.is_empty() {
            self.len =
                self.len.checked_add_signed(chunk.weight()).expect("a collection holds no row less than zero times");
            self.push(Arc::new(chunk));
        }
        self.orders.iter_mut().for_each(|order| order.apply(cut, delta));
        self.renew();
    }

    /// Neighbours are merged while the older one is less than twice as large: sizes fall geometrically.
    fn push(&mut self, chunk: Arc<Chunk>) {
        self.chunks.push(chunk);
        while let [.., older, newer] = self.chunks.as_slice()
            && older.len() < 2 * newer.len()
        {
            let merged = Chunk::merge(older, newer);
            self.chunks.truncate(self.chunks.len() - 2);
            if !merged.is_empty() {
                self.chunks.push(Arc::new(merged));
            }
        }
    }

    fn renew(&mut self) {
        self.current = Arc::new(Version {
            cut: self.cut,
            layout: self.layout.clone(),
            chunks: self.chunks.clone(),
            len: self.len,
            orders: self.orders.iter().map(Collection::version).collect(),
        });
    }

    /// The content now.
    #[must_use]
    pub fn version(&self) -> Arc<Version> {
        self.current.clone()
    }

    /// How rows become keys.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Puts back a chunk that [`Version::save`] wrote, in the order in which they were written.
    pub(crate) fn restore_chunk(&mut self, cut: Cut, bytes: &[u8]) -> Result<(), EngineError> {
        let chunk = Chunk::decode(bytes).map_err(EngineError::State)?;
        let len = self.len as i64 + chunk.weight();
        self.len =
            u64::try_from(len).map_err(|_| EngineError::State("a collection of less than no rows".to_owned()))?;
        self.cut = cut;
        self.chunks.push(Arc::new(chunk));
        self.renew();
        Ok(())
    }
}

impl Version {
    /// The columns, hidden ones included.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.layout.schema
    }

    /// What identifies a row.
    #[must_use]
    pub fn key(&self) -> &KeyKind {
        &self.layout.key
    }

    /// How rows become keys.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The keys of rows of the schema, as [`Version::get`] takes them.
    #[must_use]
    pub fn key_of(&self, rows: &RecordBatch) -> EncodedRows {
        self.layout.keys_of(rows)
    }

    /// Rows, each as often as it is there.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// No rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory that the entries take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let own: u64 = self.chunks.iter().map(|chunk| chunk.bytes()).sum();
        own + self.orders.iter().map(|order| order.bytes()).sum::<u64>()
    }

    /// The rows in the order of their bytes (key columns first), each as often as it is there, in batches of at most
    /// `batch_rows`. With `projection`, those columns in that order.
    #[must_use]
    pub fn scan(&self, projection: Option<&[usize]>, batch_rows: usize) -> Scan {
        let chunks = self.chunks.iter().map(|chunk| (chunk.clone(), 1)).collect();
        Scan::new(self.layout.clone(), chunks, projection, batch_rows)
    }

    /// The rows with their weights, in the same order, in deltas of at most `batch_rows` entries.
    #[must_use]
    pub fn deltas(&self, batch_rows: usize) -> Deltas {
        let chunks = self.chunks.iter().map(|chunk| (chunk.clone(), 1)).collect();
        Deltas::new(self.layout.clone(), chunks, batch_rows)
    }

    /// What turns `older`, a version of the same collection, into this one. Chunks that both have cost nothing.
    #[must_use]
    pub fn since(&self, older: &Version, batch_rows: usize) -> Deltas {
        let only = |of: &Version, other: &Version, sign: i64| {
            let apart = |chunk: &&Arc<Chunk>| !other.chunks.iter().any(|same| Arc::ptr_eq(chunk, same));
            of.chunks.iter().filter(apart).map(|chunk| (chunk.clone(), sign)).collect::<Vec<_>>()
        };
        let mut chunks = only(older, self, -1);
        chunks.extend(only(self, older, 1));
        Deltas::new(self.layout.clone(), chunks, batch_rows)
    }

    /// The row of a key ([`Version::key_of`]), as a batch of one row.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<RecordBatch> {
        self.find(key).map(|row| self.layout.decode([row].into_iter()))
    }

    /// The rows of many keys: a batch of those that are there, and for each key its row in the batch.
    pub fn get_many<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) -> (RecordBatch, Vec<Option<usize>>) {
        let mut found = Vec::new();
        let mut places = Vec::new();
        for key in keys {
            places.push(self.find(key).map(|row| {
                found.push(row);
                found.len() - 1
            }));
        }
        (self.layout.decode(found.into_iter()), places)
    }

    fn find(&self, key: &[u8]) -> Option<&[u8]> {
        match self.layout.key {
            KeyKind::Columns(_) => self.chunks.iter().rev().find_map(|chunk| chunk.newest(key)).flatten(),
            KeyKind::WholeRow => {
                let weight: i64 = self.chunks.iter().map(|chunk| chunk.weight_of(key)).sum();
                let mut chunks = self.chunks.iter();
                if weight > 0 { chunks.find_map(|chunk| chunk.row(key)) } else { None }
            }
        }
    }

    /// Writes the entries, chunk by chunk, in our own encoding; see [`Collection`]'s restoring.
    pub(crate) fn save(&self, out: &mut dyn FnMut(&[u8])) {
        for chunk in &self.chunks {
            out(&chunk.encode());
        }
    }
}
