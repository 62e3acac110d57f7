//! Entries sorted by their bytes, in blocks.
//!
//! A chunk without a home has all its blocks in memory. With one, its blocks are written to the space of the relation's
//! content once, at the latest when a checkpoint refers to the chunk, and are read again on demand through a cache. When
//! nothing refers to the chunk any more, it is removed from the space.
//!
//! Keys in the space: u64 chunk, u32 block (big-endian); under block `u32::MAX` the list of the blocks: per block u32
//! entries, u32 length of its first row, the row (little-endian).

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::Layout;
use super::block::Block;
use crate::delta::Delta;
use crate::error::EngineError;
use crate::state::Space;

/// A block is closed when it has this much; less with a small memory budget.
const BLOCK_BYTES: u64 = 64 << 10;
const LIST: u32 = u32::MAX;

/// Where chunks of a relation go.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) space: Space,
    /// Number of the chunk.
    pub(super) chunk: u64,
}

impl Home {
    fn key(&self, block: u32) -> [u8; 12] {
        let mut key = [0; 12];
        key[..8].copy_from_slice(&self.chunk.to_be_bytes());
        key[8..].copy_from_slice(&block.to_be_bytes());
        key
    }
}

/// What a checkpoint knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkState {
    pub(super) chunk: u64,
    entries: usize,
    weight: i64,
    bytes: u64,
    blocks: u32,
}

/// Immutable sorted entries.
pub(super) struct Chunk {
    home: Option<Home>,
    /// Its blocks are in the space.
    is_stored: OnceLock<()>,
    parts: OnceLock<Vec<Part>>,
    state: ChunkState,
}

/// A block in its place.
struct Part {
    first: Box<[u8]>,
    /// While the space does not have it.
    held: RwLock<Option<Arc<Block>>>,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let (Some(home), Some(())) = (&self.home, self.is_stored.get()) {
            for block in (0..self.state.blocks).chain([LIST]) {
                home.space.delete(&home.key(block));
            }
        }
    }
}

/// Makes a chunk of entries that come in order.
pub(super) struct Builder {
    chunk: Chunk,
    parts: Vec<Part>,
    open: Block,
    block_bytes: u64,
    /// Past this the blocks go to the space at once.
    held_bytes_max: u64,
    is_writing: bool,
}

impl Builder {
    pub(super) fn new(home: Option<Home>) -> Builder {
        let limits = home.as_ref().map(|home| home.space.content_limits());
        let state = ChunkState {
            chunk: home.as_ref().map_or(0, |home| home.chunk),
            entries: 0,
            weight: 0,
            bytes: 0,
            blocks: 0,
        };
        Builder {
            chunk: Chunk { home, is_stored: OnceLock::new(), parts: OnceLock::new(), state },
            parts: Vec::new(),
            open: Block::default(),
            block_bytes: limits.map_or(BLOCK_BYTES, |(block_bytes, _)| block_bytes.min(BLOCK_BYTES)),
            held_bytes_max: limits.map_or(u64::MAX, |(_, held_bytes_max)| held_bytes_max),
            is_writing: false,
        }
    }

    pub(super) fn push(&mut self, row: &[u8], weight: i64) {
        if weight != 0 {
            self.open.push(row, weight);
            if self.open.memory_bytes() >= self.block_bytes {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let block = std::mem::take(&mut self.open);
        if block.len() == 0 {
            return;
        }
        let state = &mut self.chunk.state;
        state.entries += block.len();
        state.weight += block.weight();
        state.bytes += block.memory_bytes();
        state.blocks += 1;
        self.parts.push(Part { first: block.key(0).into(), held: RwLock::new(Some(Arc::new(block))) });
        if self.chunk.state.bytes > self.held_bytes_max {
            let from = if std::mem::replace(&mut self.is_writing, true) { self.parts.len() - 1 } else { 0 };
            self.write(from);
        }
    }

    fn write(&self, from: usize) {
        let home = self.chunk.home.as_ref().expect("only with a home there is a limit");
        self.parts.iter().enumerate().skip(from).for_each(|(place, part)| part.write(home, place as u32));
    }

    pub(super) fn finish(mut self) -> Chunk {
        self.close();
        let (is_writing, parts) = (self.is_writing, std::mem::take(&mut self.parts));
        let chunk = self.chunk;
        let _ = chunk.parts.set(parts);
        if is_writing {
            chunk.write_list();
        }
        chunk
    }
}

impl Part {
    /// Gives the block to the space, and to the cache.
    fn write(&self, home: &Home, place: u32) {
        if let Some(block) = self.held.write().take() {
            home.space.put(&home.key(place), &block.encode());
            home.space.cache(home.chunk, place, block);
        }
    }
}

impl Chunk {
    pub(super) fn of_delta(layout: &Layout, delta: &Delta, home: Option<Home>) -> Chunk {
        let rows = layout.encode(&delta.rows);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by(|a, b| rows.get(*a).cmp(rows.get(*b)));
        let mut builder = Builder::new(home);
        for run in order.chunk_by(|a, b| rows.get(*a) == rows.get(*b)) {
            builder.push(rows.get(run[0]), run.iter().map(|row| delta.weights[*row]).sum());
        }
        builder.finish()
    }

    /// One that a checkpoint has.
    pub(super) fn stored(space: Space, state: ChunkState) -> Chunk {
        let home = Some(Home { space, chunk: state.chunk });
        Chunk { home, is_stored: OnceLock::from(()), parts: OnceLock::new(), state }
    }

    /// The sum of two.
    pub(super) fn merge(a: &Arc<Chunk>, b: &Arc<Chunk>, home: Option<Home>) -> Chunk {
        let mut builder = Builder::new(home);
        let (mut a, mut b) = (Cursor::new(a.clone()), Cursor::new(b.clone()));
        loop {
            let order = match (a.entry(), b.entry()) {
                (None, None) => return builder.finish(),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((left, _)), Some((right, _))) => left.cmp(right),
            };
            match order {
                Ordering::Less => {
                    let (row, weight) = a.entry().expect("it has one");
                    builder.push(row, weight);
                    a.advance();
                }
                Ordering::Greater => {
                    let (row, weight) = b.entry().expect("it has one");
                    builder.push(row, weight);
                    b.advance();
                }
                Ordering::Equal => {
                    let ((row, left), (_, right)) = (a.entry().expect("it has one"), b.entry().expect("it has one"));
                    builder.push(row, left + right);
                    a.advance();
                    b.advance();
                }
            }
        }
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.state.entries
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.entries == 0
    }

    /// The sum of all weights.
    pub(super) fn weight(&self) -> i64 {
        self.state.weight
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// Bytes of what only memory has.
    pub(super) fn held_bytes(&self) -> u64 {
        if self.is_stored.get().is_some() { 0 } else { self.state.bytes }
    }

    /// The space has the chunk after this.
    pub(super) fn store(&self) -> Option<ChunkState> {
        let home = self.home.as_ref()?;
        if self.is_stored.get().is_none() {
            for (place, part) in self.parts().iter().enumerate() {
                part.write(home, place as u32);
            }
            self.write_list();
        }
        Some(self.state)
    }

    fn write_list(&self) {
        let home = self.home.as_ref().expect("only with a home a chunk is stored");
        let mut list = Vec::new();
        for part in self.parts() {
            list.extend_from_slice(&(part.first.len() as u32).to_le_bytes());
            list.extend_from_slice(&part.first);
        }
        home.space.put(&home.key(LIST), &list);
        let _ = self.is_stored.set(());
    }

    fn parts(&self) -> &[Part] {
        self.parts.get_or_init(|| {
            let home = self.home.as_ref().expect("a chunk without a home has its parts");
            let list = home.space.get(&home.key(LIST)).and_then(|list| {
                let list = list.ok_or_else(|| missing("the list of its blocks"))?;
                parts_of(&list, self.state.blocks).ok_or_else(|| missing("a part of the list of its blocks"))
            });
            list.unwrap_or_else(|error| home.space.unreadable(&error))
        })
    }

    fn block(&self, place: usize) -> Option<Arc<Block>> {
        let part = self.parts().get(place)?;
        if let Some(block) = part.held.read().clone() {
            return Some(block);
        }
        let home = self.home.as_ref().expect("a chunk without a home holds its blocks");
        let place = place as u32;
        if let Some(block) = home.space.cached(home.chunk, place) {
            return Some(block);
        }
        let block = home.space.get(&home.key(place)).and_then(|bytes| match bytes {
            Some(bytes) => Block::decode(&bytes).map(Arc::new),
            None => Err(missing("one of its blocks")),
        });
        let block = block.unwrap_or_else(|error| home.space.unreadable(&error));
        home.space.cache(home.chunk, place, block.clone());
        Some(block)
    }

    /// From the first entry at or after the bytes.
    pub(super) fn seek(self: &Arc<Chunk>, key: &[u8]) -> Cursor {
        let after = self.parts().partition_point(|part| &*part.first <= key);
        let part = after.saturating_sub(1);
        let block = self.block(part);
        let entry = block.as_ref().map_or(0, |block| block.lower_bound(key));
        Cursor { chunk: self.clone(), part, block, entry }.settled()
    }

    /// What this chunk knows of a key: nothing, that its row is gone, or its row. Keys are free of prefixes of one another,
    /// so that the rows of a key are those that begin with it.
    pub(super) fn newest(self: &Arc<Chunk>, key: &[u8]) -> Option<Option<Entry>> {
        let mut cursor = self.seek(key);
        let mut known = None;
        while let Some((row, weight)) = cursor.entry().filter(|(row, _)| row.starts_with(key)) {
            if weight > 0 {
                debug_assert!(row.starts_with(key), "a row begins with its key");
                return Some(cursor.take());
            }
            known = Some(None);
            cursor.advance();
        }
        known
    }

    /// This row, if it has an entry here.
    pub(super) fn row(self: &Arc<Chunk>, row: &[u8]) -> Option<Entry> {
        let cursor = self.seek(row);
        let is_it = cursor.entry().is_some_and(|(found, _)| found == row);
        if is_it { cursor.take() } else { None }
    }
}

fn missing(what: &str) -> EngineError {
    EngineError::State(format!("{what} of a relation's content is missing"))
}

fn parts_of(list: &[u8], blocks: u32) -> Option<Vec<Part>> {
    let (mut rest, mut parts) = (list, Vec::new());
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (first, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        parts.push(Part { first: first.into(), held: RwLock::new(None) });
        rest = after;
    }
    (parts.len() == blocks as usize).then_some(parts)
}

/// An entry, with the block that has it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    block: Arc<Block>,
    entry: usize,
}

impl Entry {
    pub(super) fn row(&self) -> &[u8] {
        self.block.key(self.entry)
    }

    pub(super) fn weight(&self) -> i64 {
        self.block.weight_at(self.entry)
    }
}

/// A place in a chunk.
#[derive(Debug)]
pub(super) struct Cursor {
    chunk: Arc<Chunk>,
    part: usize,
    /// None at the end.
    block: Option<Arc<Block>>,
    entry: usize,
}

impl Cursor {
    pub(super) fn new(chunk: Arc<Chunk>) -> Cursor {
        let block = if chunk.is_empty() { None } else { chunk.block(0) };
        Cursor { chunk, part: 0, block, entry: 0 }
    }

    /// The row and its weight; none at the end.
    pub(super) fn entry(&self) -> Option<(&[u8], i64)> {
        let block = self.block.as_ref()?;
        Some((block.key(self.entry), block.weight_at(self.entry)))
    }

    pub(super) fn take(&self) -> Option<Entry> {
        Some(Entry { block: self.block.clone()?, entry: self.entry })
    }

    pub(super) fn advance(&mut self) {
        self.entry += 1;
        self.settle();
    }

    /// At the end of a block the next one follows.
    fn settle(&mut self) {
        while self.block.as_ref().is_some_and(|block| self.entry >= block.len()) {
            self.part += 1;
            self.entry = 0;
            self.block = self.chunk.block(self.part);
        }
    }

    fn settled(mut self) -> Cursor {
        self.settle();
        self
    }
}
