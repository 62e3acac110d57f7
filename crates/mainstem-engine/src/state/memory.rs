//! The store with its scratch, and who uses how much memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use mainstem_state::{Opened, Scratch, StateStore};
use parking_lot::Mutex;

use super::cache::BlockCache;
use super::{Layers, Owner};
use crate::error::EngineError;

/// Of the budget, what one owner may always write before it goes to scratch, and what all together may.
const SPILL_PART: u64 = 64;
const WAITING_PART: u64 = 8;
/// Of the budget, what blocks of contents may take.
const CONTENT_PART: u64 = 4;
/// Of the budget, what of one relation's content may wait in memory for a checkpoint.
const HELD_PART: u64 = 64;
/// Of the budget, one block of contents, while that is small.
const BLOCK_PART: u64 = 256;
const BLOCK_BYTES_MIN: u64 = 256;
const SPILL_BYTES_MIN: u64 = 4 << 10;

/// What all owners share: the store, the scratch, and the memory budget.
#[derive(Debug)]
pub struct StateRoot {
    opened: Opened,
    budget_bytes: u64,
    used_bytes: AtomicU64,
    /// What owners have written that went neither to scratch nor to a checkpoint.
    waiting_bytes: AtomicU64,
    generation: AtomicU32,
    epoch: AtomicU32,
    blocks: BlockCache,
    /// Why the store cannot be read, once it could not.
    damage: Mutex<Option<String>>,
    /// Who may still read what the store has of an owner.
    readers: Mutex<BTreeMap<Owner, Weak<Layers>>>,
    spilled_bytes: AtomicU64,
    loaded_units: AtomicU64,
    evicted_units: AtomicU64,
}

/// What of the state is where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateMemory {
    /// What state may take in memory, in bytes.
    pub budget_bytes: u64,
    /// What it takes.
    pub used_bytes: u64,
    /// What the store's files take.
    pub disk_bytes: u64,
    /// Went to scratch between checkpoints, since the start.
    pub spilled_bytes: u64,
    /// Groups, keys, partitions and rows that were read from the store, since the start.
    pub loaded_units: u64,
    /// Those that were dropped from memory.
    pub evicted_units: u64,
    /// How often the store was emptied since it was damaged, since the start.
    pub emptied: u64,
}

impl StateRoot {
    /// Over an opened store. `generation`: of the newest owner that it ever had.
    #[must_use]
    pub fn new(opened: Opened, budget_bytes: u64, generation: u32) -> Arc<StateRoot> {
        Arc::new(StateRoot {
            opened,
            budget_bytes,
            used_bytes: AtomicU64::new(0),
            waiting_bytes: AtomicU64::new(0),
            generation: AtomicU32::new(generation),
            epoch: AtomicU32::new(0),
            blocks: BlockCache::new(budget_bytes / CONTENT_PART),
            damage: Mutex::new(None),
            readers: Mutex::default(),
            spilled_bytes: AtomicU64::new(0),
            loaded_units: AtomicU64::new(0),
            evicted_units: AtomicU64::new(0),
        })
    }

    /// Of an owner that is new.
    pub fn next_generation(&self) -> u32 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Of the newest owner so far.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Somebody reads and writes what is the owner's from now on.
    pub(super) fn add_reader(&self, owner: Owner, layers: &Arc<Layers>) {
        let mut readers = self.readers.lock();
        readers.retain(|_, reader| reader.strong_count() > 0);
        readers.insert(owner, Arc::downgrade(layers));
    }

    /// Whether somebody may still read what is the owner's: a lane at its last step, a version that a SELECT holds.
    pub(crate) fn is_read(&self, owner: Owner) -> bool {
        self.readers.lock().get(&owner).is_some_and(|reader| reader.strong_count() > 0)
    }

    /// A store was read whose newest owner had this generation.
    pub(crate) fn begin_at(&self, generation: u32) {
        self.generation.fetch_max(generation, Ordering::Relaxed);
    }

    /// How often it was emptied.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The store as of the last checkpoint.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn StateStore> {
        &self.opened.store
    }

    pub(super) fn scratch(&self) -> &Arc<dyn Scratch> {
        &self.opened.scratch
    }

    /// Of what an owner has written `now` waits instead of `before`, `in_all` of it. Whether that is to go to scratch.
    pub(super) fn waits(&self, before: u64, now: u64, in_all: u64) -> bool {
        let change = now.wrapping_sub(before);
        let waiting = self.waiting_bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        let part = |part: u64| (self.budget_bytes / part).max(SPILL_BYTES_MIN);
        in_all > part(SPILL_PART) && waiting > part(WAITING_PART)
    }

    pub(super) fn count_spill(&self, bytes: u64) {
        self.spilled_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_loaded(&self, units: u64) {
        self.loaded_units.fetch_add(units, Ordering::Relaxed);
    }

    pub(crate) fn count_evicted(&self, units: u64) {
        self.evicted_units.fetch_add(units, Ordering::Relaxed);
    }

    /// What operators may take, in bytes: the budget but for contents.
    fn operators_bytes(&self) -> u64 {
        self.budget_bytes - self.budget_bytes / CONTENT_PART
    }

    /// How large a block of contents may get, and how much of one relation's content may wait for a checkpoint in memory.
    pub(super) fn content_limits(&self) -> (u64, u64) {
        ((self.budget_bytes / BLOCK_PART).max(BLOCK_BYTES_MIN), self.budget_bytes / HELD_PART)
    }

    pub(super) fn blocks(&self) -> &BlockCache {
        &self.blocks
    }

    /// The store could not be read. The first reason stays until it is taken.
    pub(crate) fn note_damage(&self, error: &EngineError) {
        self.damage.lock().get_or_insert_with(|| error.to_string());
    }

    /// Whether the store could not be read.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damage.lock().is_some()
    }

    /// Why the store could not be read, if it could not: it is to be emptied.
    pub(crate) fn take_damage(&self) -> Option<String> {
        self.damage.lock().take()
    }

    /// Forgets all that was read from it, and empties the store.
    pub(crate) fn clear(&self) -> Result<(), EngineError> {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.blocks.clear();
        self.take_damage();
        Ok(self.opened.store.clear()?)
    }

    /// A user of memory takes `now` instead of `before`. Answers to how much it should come down, when all take too much.
    pub(crate) fn uses(&self, before: u64, now: u64) -> Option<u64> {
        let change = now.wrapping_sub(before);
        let used = self.used_bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        let limit = self.operators_bytes();
        // Down to three quarters, so that it is not to be done with each version.
        (used > limit).then(|| (u128::from(now) * u128::from(limit / 4 * 3) / u128::from(used)) as u64)
    }

    /// Whether all users together take too much: those that rest are to give back some, too.
    pub(crate) fn is_over(&self) -> bool {
        self.used_bytes.load(Ordering::Relaxed) > self.operators_bytes()
    }

    /// See [`StateMemory`].
    #[must_use]
    pub fn memory(&self) -> StateMemory {
        StateMemory {
            budget_bytes: self.budget_bytes,
            used_bytes: self.used_bytes.load(Ordering::Relaxed) + self.blocks.bytes(),
            disk_bytes: self.opened.store.disk_bytes(),
            spilled_bytes: self.spilled_bytes.load(Ordering::Relaxed),
            loaded_units: self.loaded_units.load(Ordering::Relaxed),
            evicted_units: self.evicted_units.load(Ordering::Relaxed),
            emptied: u64::from(self.epoch()),
        }
    }
}
