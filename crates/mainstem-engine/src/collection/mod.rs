//! The readable content of a relation, in versions that never change.
//!
//! Words: an *entry* is a row with its weight; a *chunk* is entries sorted by their bytes, immutable; a *version* is a list
//! of chunks, oldest first, whose sum is the content as of a cut; the *key* of a row is the bytes of its key columns, which
//! begin the row's bytes (the key columns are put first, see [`Layout`]).
//!
//! Each applied delta becomes a chunk; neighbours of like size are merged, so that there are about log(n) chunks and an
//! entry is copied about log(n) times. Versions share chunks, so a long scan costs the lane nothing. With a space, chunks are
//! written to the store once, block by block, and read again on demand.
//!
//! Always true here: the entries of a chunk are sorted, distinct and of weight not zero; a row's weights over the chunks of
//! a version add up to its multiplicity, never below zero; with key columns there is at most one row per key, and the newest
//! chunk that knows a key knows its row.

mod block;
mod chunk;
mod orders;
mod scan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Kept;
use crate::delta::{Delta, EncodedRows, RowKeys};
use crate::error::EngineError;
use crate::input_log::Cut;
use crate::lane::ViewState;
use crate::state::{Layers, Space};
use chunk::{Chunk, Entry, Home};

pub(crate) use block::Block;
pub(crate) use chunk::ChunkState;
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
    /// Where chunks go; none: they stay in memory.
    space: Option<Space>,
    next_chunk: u64,
}

/// What a checkpoint knows of a collection: its chunks, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentState {
    chunks: Vec<ChunkState>,
    next_chunk: u64,
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
        let (chunks, orders, current) = (Vec::new(), Vec::new(), Arc::new(current));
        Collection { layout, cut, chunks, len, orders, current, space: None, next_chunk: 1 }
    }

    /// An empty one keeps its chunks in the space of an owner from now on; with what a checkpoint had of it (as of `cut`),
    /// it is no longer empty. Nothing of the content is read.
    pub(crate) fn attach(&mut self, layers: &Arc<Layers>, cut: Cut, state: &ContentState) -> Result<(), EngineError> {
        let space = Space::of_content(layers.clone());
        forget_others(&space, state)?;
        self.next_chunk = state.next_chunk.max(1);
        self.chunks = state.chunks.iter().map(|chunk| Arc::new(Chunk::stored(space.clone(), *chunk))).collect();
        let len: i64 = self.chunks.iter().map(|chunk| chunk.weight()).sum();
        self.len =
            u64::try_from(len).map_err(|_| EngineError::State("a collection of less than no rows".to_owned()))?;
        self.space = Some(space);
        self.cut = cut;
        self.renew();
        Ok(())
    }

    /// Memory of what is not in its space yet, in bytes.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.held_bytes()).sum()
    }

    /// Where its owner's keys are, if it is attached.
    pub(crate) fn layers(&self) -> Option<&Arc<Layers>> {
        self.space.as_ref().map(Space::layers)
    }

    /// What a checkpoint keeps of it; its space has all chunks after this.
    pub(crate) fn keep(&self, view: Option<ViewState>) -> Option<Kept> {
        let generation = self.layers()?.owner().generation;
        Some(Kept { generation, cut: self.cut, content: self.flush(), view })
    }

    /// Its space has all chunks after this; what a checkpoint is to keep of it.
    fn flush(&self) -> ContentState {
        let chunks = self.chunks.iter().filter_map(|chunk| chunk.store()).collect();
        ContentState { chunks, next_chunk: self.next_chunk }
    }

    fn home(&mut self) -> Option<Home> {
        let space = self.space.clone()?;
        self.next_chunk += 1;
        Some(Home { space, chunk: self.next_chunk - 1 })
    }

    /// Adds the rows with their weights. The delta need not be consolidated. The collection then stands at `cut`.
    pub fn apply(&mut self, cut: Cut, delta: &Delta) {
        let home = self.home();
        let chunk = Chunk::of_delta(&self.layout, delta, home);
        self.cut = cut;
        if !chunk.is_empty() {
            self.len =
                self.len.checked_add_signed(chunk.weight()).expect("a collection holds no row less than zero times");
            self.push(Arc::new(chunk));
        }
        if self.space.as_ref().is_some_and(|space| self.held_bytes() > space.content_limits().1) {
            self.flush();
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
            let (older, newer) = (older.clone(), newer.clone());
            let merged = Chunk::merge(&older, &newer, self.home());
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
}

/// Removes chunks that the checkpoint does not have: readers held them when it was taken.
fn forget_others(space: &Space, state: &ContentState) -> Result<(), EngineError> {
    let mut from = 0_u64;
    loop {
        let mut found = None;
        space.scan_from(&from.to_be_bytes(), &mut |key, _| {
            found = key.first_chunk::<8>().map(|chunk| u64::from_be_bytes(*chunk));
            false
        })?;
        let Some(chunk) = found else { return Ok(()) };
        if !state.chunks.iter().any(|known| known.chunk == chunk) {
            let mut keys = Vec::new();
            let prefix = chunk.to_be_bytes();
            space.scan(&prefix, &mut |rest, _| keys.push([&prefix[..], rest].concat()))?;
            keys.iter().for_each(|key| space.delete(key));
        }
        let Some(next) = chunk.checked_add(1) else { return Ok(()) };
        from = next;
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
        self.find(key).map(|entry| self.layout.decode([entry.row()].into_iter()))
    }

    /// The rows of many keys: a batch of those that are there, and for each key its row in the batch.
    pub fn get_many<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) -> (RecordBatch, Vec<Option<usize>>) {
        let mut found = Vec::new();
        let mut places = Vec::new();
        for key in keys {
            places.push(self.find(key).map(|entry| {
                found.push(entry);
                found.len() - 1
            }));
        }
        (self.layout.decode(found.iter().map(Entry::row)), places)
    }

    fn find(&self, key: &[u8]) -> Option<Entry> {
        match self.layout.key {
            KeyKind::Columns(_) => self.chunks.iter().rev().find_map(|chunk| chunk.newest(key)).flatten(),
            KeyKind::WholeRow => {
                let entries: Vec<Entry> = self.chunks.iter().filter_map(|chunk| chunk.row(key)).collect();
                let weight: i64 = entries.iter().map(Entry::weight).sum();
                if weight > 0 { entries.into_iter().next() } else { None }
            }
        }
    }
}
