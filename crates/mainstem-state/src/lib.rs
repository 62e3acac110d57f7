//! What the engine keeps across a restart: checkpoints, each one atomic.
//!
//! Words: a *section* is some bytes under a [`SectionKey`]; a *checkpoint* is a file of sections, whole or not at all; the
//! *sequence* of a checkpoint is its place among them, the highest is the newest.
//!
//! Always true here: a checkpoint is found only after all of it is durable; a file whose bytes are not what was written is
//! never read as if it were; the checkpoint before the newest stays until the newest is durable.

// Time comes in as an argument or from a trait, so that a seed replays what happens here.
#![deny(clippy::disallowed_methods)]

mod checkpoint;
mod format;

pub use checkpoint::{CheckpointReader, CheckpointWriter, newest, remove_older};
pub use format::{CheckpointError, FORMAT_VERSION, Section, SectionKey};
pub use mainstem_disk::{Clock, Disk, DiskFile, Open};
