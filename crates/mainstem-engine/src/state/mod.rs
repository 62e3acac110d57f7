//! Where operators and collections keep what they hold: key spaces over the state store.
//!
//! Words: an *owner* is a relation in one life (its *generation*: a view that reads history again gets a new one); its
//! [`Layers`] are the store as of the last checkpoint with everything written since above it; a [`Space`] is the part of one
//! operator instance.
//!
//! Keys, in their order: u8 0 and a name, of what belongs to the whole checkpoint; or u8 1, u32 relation, u32 generation
//! (big-endian, as all numbers in keys), then u8 0, u32 operator, u16 shard and an entry of that operator; or u8 1, u64 chunk
//! and u32 block (`u32::MAX`: the list of its blocks) of the relation's content. [`KEY_FORMAT`] stands for all of this.
//!
//! Always true here: what operators write between two versions' ends is handed to a checkpoint as a whole or not at all; a
//! read sees all that was written before it, wherever it is by now.

mod cache;
mod layers;
mod memory;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mainstem_catalog::RelationId;
use mainstem_state::{StateError, after_prefix};
use serde::{Deserialize, Serialize};

use crate::collection::Block;
use crate::error::EngineError;

pub use layers::{Handed, Layers, Receipt};
pub use memory::{StateMemory, StateRoot};

/// The version of the keys, see the module's text; a store of another one is emptied.
pub const KEY_FORMAT: u32 = 2;

const OPERATOR: u8 = 0;
const CONTENT: u8 = 1;

impl From<StateError> for EngineError {
    fn from(error: StateError) -> EngineError {
        EngineError::State(error.to_string())
    }
}

/// A relation in one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Which relation.
    pub relation: RelationId,
    /// Which life of it.
    pub generation: u32,
}

impl Owner {
    /// What all its keys begin with.
    #[must_use]
    pub fn prefix(self) -> Vec<u8> {
        let mut prefix = vec![1];
        prefix.extend_from_slice(&self.relation.0.to_be_bytes());
        prefix.extend_from_slice(&self.generation.to_be_bytes());
        prefix
    }
}

/// The key of something that belongs to a whole checkpoint.
#[must_use]
pub fn meta_key(name: &str) -> Vec<u8> {
    [&[0][..], name.as_bytes()].concat()
}

/// The entries of one operator instance.
#[derive(Clone, Debug)]
pub struct Space {
    layers: Arc<Layers>,
    prefix: Box<[u8]>,
}

impl Space {
    /// Of an operator, or of one shard of it.
    #[must_use]
    pub fn of_operator(layers: Arc<Layers>, operator: u32, shard: u16) -> Space {
        let mut prefix = layers.prefix().to_vec();
        prefix.push(OPERATOR);
        prefix.extend_from_slice(&operator.to_be_bytes());
        prefix.extend_from_slice(&shard.to_be_bytes());
        Space { layers, prefix: prefix.into() }
    }

    /// Of the relation's content.
    #[must_use]
    pub fn of_content(layers: Arc<Layers>) -> Space {
        let mut prefix = layers.prefix().to_vec();
        prefix.push(CONTENT);
        Space { layers, prefix: prefix.into() }
    }

    pub(crate) fn layers(&self) -> &Arc<Layers> {
        &self.layers
    }

    pub(crate) fn root(&self) -> &StateRoot {
        self.layers.root()
    }

    fn key(&self, entry: &[u8]) -> Vec<u8> {
        [&self.prefix[..], entry].concat()
    }

    /// See [`StateRoot::content_limits`].
    pub(crate) fn content_limits(&self) -> (u64, u64) {
        self.root().content_limits()
    }

    /// A block that was read or written lately.
    pub(crate) fn cached(&self, chunk: u64, block: u32) -> Option<Arc<Block>> {
        self.root().blocks().get(&(self.layers.owner(), chunk, block))
    }

    /// Keeps a block for a while.
    pub(crate) fn cache(&self, chunk: u64, block: u32, content: Arc<Block>) {
        self.root().blocks().put((self.layers.owner(), chunk, block), content);
    }

    /// What a reader needs cannot be read. The lane is told, and will empty the store and read history again.
    ///
    /// # Panics
    /// Always: there is nothing that could be answered.
    pub(crate) fn unreadable(&self, error: &EngineError) -> ! {
        if self.layers.is_current() {
            self.root().note_damage(error);
        }
        panic!("{error}; the engine reads history again");
    }

    /// Whether nothing can be in it but what was written through this process.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.layers.is_new()
    }

    /// The values of some entries.
    pub fn get_many<'k>(
        &self,
        entries: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Vec<u8>>>, EngineError> {
        let keys: Vec<Vec<u8>> = entries.into_iter().map(|entry| self.key(entry)).collect();
        Ok(self.layers.get_many(&keys)?)
    }

    /// The value of one entry.
    pub fn get(&self, entry: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.get_many([entry])?.pop().flatten())
    }

    /// What lies under a prefix, in order: the rest of each entry's key, and its value.
    pub fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError> {
        let from = self.key(prefix);
        let mut cut = |key: &[u8], value: &[u8]| {
            visit(&key[from.len()..], value);
            true
        };
        Ok(self.layers.scan(&from, after_prefix(&from).as_deref(), &mut cut)?)
    }

    /// What lies from an entry on, in order, until `visit` answers false: each entry's key and its value.
    pub fn scan_from(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), EngineError> {
        let until = after_prefix(&self.prefix);
        let mut cut = |key: &[u8], value: &[u8]| visit(&key[self.prefix.len()..], value);
        Ok(self.layers.scan(&self.key(from), until.as_deref(), &mut cut)?)
    }

    /// Sets an entry.
    pub fn put(&self, entry: &[u8], value: &[u8]) {
        self.layers.write(self.key(entry), Some(value.into()));
    }

    /// Removes an entry, if it is there.
    pub fn delete(&self, entry: &[u8]) {
        self.layers.write(self.key(entry), None);
    }

    /// Sets an entry to a count, or removes it when that is zero.
    pub fn put_count(&self, entry: &[u8], count: i64) {
        match count {
            0 => self.delete(entry),
            count => self.put(entry, &count.to_le_bytes()),
        }
    }
}

/// A count as [`Space::put_count`] wrote it.
pub fn count_of(value: &[u8]) -> Result<i64, EngineError> {
    let bytes = value.try_into().map_err(|_| EngineError::State("a count is not 8 bytes".to_owned()))?;
    Ok(i64::from_le_bytes(bytes))
}

/// A signed number so that its bytes have its order.
#[must_use]
pub fn ordered_i64(value: i64) -> [u8; 8] {
    (value as u64 ^ 1 << 63).to_be_bytes()
}

/// The number of bytes that [`ordered_i64`] gave.
#[must_use]
pub fn from_ordered_i64(bytes: &[u8]) -> Option<i64> {
    Some((u64::from_be_bytes(*bytes.first_chunk()?) ^ 1 << 63) as i64)
}
