//! What the engine keeps across a restart: a store of keys and values ([`StateStore`]), changed by whole checkpoints.
//!
//! Words: see [`store`] for the store's; a *section* is some bytes under a [`SectionKey`]; a *checkpoint file* is a file of
//! sections, whole or not at all: what builds before the store wrote, and what the store of a simulation consists of.
//!
//! Always true here: a checkpoint is found only after all of it is durable; bytes that are not what was written are never
//! read as if they were.

// Time comes in as an argument or from a trait, so that a seed replays what happens here.
#![deny(clippy::disallowed_methods)]

mod checkpoint;
mod files;
mod format;
mod lsm;
pub mod store;

pub use checkpoint::{CheckpointReader, CheckpointWriter, newest, remove_older};
pub use files::{MemoryStore, open_files, open_memory};
pub use format::{CheckpointError, FORMAT_VERSION, Section, SectionKey};
pub use lsm::{open_lsm, scrub_lsm};
pub use mainstem_disk::{Clock, Disk, DiskFile, Open};
pub use store::{Change, Entries, Opened, Scratch, StateError, StateStore, after_prefix};
