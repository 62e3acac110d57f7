//! Blocks of contents that were read or written lately, up to a number of bytes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Owner;
use crate::collection::Block;

/// Owner, chunk, block.
type Place = (Owner, u64, u32);

#[derive(Debug)]
pub(super) struct BlockCache {
    bytes_max: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    blocks: HashMap<Place, (Arc<Block>, u64), ahash::RandomState>,
    bytes: u64,
    now: u64,
}

impl BlockCache {
    pub(super) fn new(bytes_max: u64) -> BlockCache {
        BlockCache { bytes_max, held: Mutex::default() }
    }

    pub(super) fn get(&self, place: &Place) -> Option<Arc<Block>> {
        let mut held = self.held.lock();
        held.now += 1;
        let now = held.now;
        let (block, used) = held.blocks.get_mut(place)?;
        *used = now;
        Some(block.clone())
    }

    pub(super) fn put(&self, place: Place, block: Arc<Block>) {
        let mut held = self.held.lock();
        held.now += 1;
        let (now, bytes) = (held.now, block.memory_bytes());
        held.bytes += bytes;
        if let Some((before, _)) = held.blocks.insert(place, (block, now)) {
            held.bytes -= before.memory_bytes();
        }
        if held.bytes > self.bytes_max {
            held.shrink(self.bytes_max / 4 * 3);
        }
    }

    pub(super) fn clear(&self) {
        let mut held = self.held.lock();
        held.blocks.clear();
        held.bytes = 0;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.held.lock().bytes
    }
}

impl Held {
    /// Drops those first that were used least recently.
    fn shrink(&mut self, bytes: u64) {
        let mut by_use: Vec<(u64, Place)> = self.blocks.iter().map(|(place, (_, used))| (*used, *place)).collect();
        by_use.sort_unstable();
        for (_, place) in by_use {
            if self.bytes <= bytes {
                return;
            }
            if let Some((block, _)) = self.blocks.remove(&place) {
                self.bytes -= block.memory_bytes();
            }
        }
    }
}
