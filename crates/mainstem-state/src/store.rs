//! The state store: ordered keys and values, changed by whole checkpoints.
//!
//! Words: a *change* is a key with its new value, or with none; an *ingestion* is a set of changes that becomes durable and
//! visible as a whole; the *scratch* is for what does not fit into memory between two ingestions, and is empty at every start.
//!
//! Always true here: what a store holds after it was opened is exactly its last ingestion and those before it; a value that
//! is not what was written is an error ([`StateError::Damaged`]), never an answer.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use crate::format::CheckpointError;

/// A key with its new value; `None` deletes.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Keys with their values, in the order of the keys.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StateError>> + Send + 'a>;

/// Why a store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system's error. Nothing has changed.
    #[error("{place}: {source}")]
    Io {
        /// Which store or file.
        place: String,
        /// The error.
        source: io::Error,
    },
    /// What is there is not what was written: the store is to be emptied, and history read again.
    #[error("{place} is damaged: {meaning}")]
    Damaged {
        /// Which store or file.
        place: String,
        /// How it shows.
        meaning: String,
    },
}

impl From<CheckpointError> for StateError {
    fn from(error: CheckpointError) -> StateError {
        match error {
            CheckpointError::Io { place, source } => StateError::Io { place, source },
            CheckpointError::Damaged { ref place, .. } | CheckpointError::Version { ref place, .. } => {
                StateError::Damaged { place: place.clone(), meaning: error.to_string() }
            }
        }
    }
}

/// An ordered map of bytes. All methods block; reads may come from any thread, also while an ingestion is under way, and see
/// either what was before it or all of it. Ingestions come one after another.
pub trait StateStore: Debug + Send + Sync {
    /// The values of some keys, in their order.
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError>;

    /// What lies from a key on (it included) until another (it excluded; `None`: the end), as of now.
    fn scan(&self, from: &[u8], until: Option<&[u8]>) -> Entries<'_>;

    /// What lies under each of some prefixes, prefix by prefix.
    fn scan_many(&self, prefixes: &[&[u8]], visit: &mut dyn FnMut(usize, &[u8], &[u8])) -> Result<(), StateError> {
        for (place, prefix) in prefixes.iter().enumerate() {
            for entry in self.scan(prefix, after_prefix(prefix).as_deref()) {
                let (key, value) = entry?;
                visit(place, &key, &value);
            }
        }
        Ok(())
    }

    /// One ingestion: all changes, in the order of their keys, each key once. Durable when it returns; after an error nothing
    /// has changed. Answers the bytes of keys and values that were written.
    fn apply(&self, changes: &mut dyn Iterator<Item = Result<Change, StateError>>) -> Result<u64, StateError>;

    /// Puts the files in order. Called after ingestions, by their thread.
    fn maintain(&self) -> Result<(), StateError> {
        Ok(())
    }

    /// Empties it, also when it is damaged.
    fn clear(&self) -> Result<(), StateError>;

    /// Bytes of its files.
    fn disk_bytes(&self) -> u64;
}

/// Makes stores that live no longer than the process.
pub trait Scratch: Debug + Send + Sync {
    /// A new, empty one; what it takes is given back when it is dropped.
    fn create(&self) -> Result<Arc<dyn StateStore>, StateError>;
}

/// A store that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// As its last ingestion left it.
    pub store: Arc<dyn StateStore>,
    /// Beside it.
    pub scratch: Arc<dyn Scratch>,
    /// Why it was emptied, if it was.
    pub warnings: Vec<String>,
}

/// The least bytes above all that begin with the prefix; `None` when there are none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut after: Vec<u8> = prefix.get(..=last)?.to_vec();
    if let Some(byte) = after.last_mut() {
        *byte += 1;
    }
    Some(after)
}
