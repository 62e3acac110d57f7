//! The engine: runs operator graphs over the log incrementally, answers batch queries over the same data, and sequences
//! the writes to tables.
//!
//! Words: a [`Delta`] is rows with weights (+n inserts, -n deletes); a *version* is what readers see, the state after
//! all entries up to a [`Cut`]; a *circuit* is one view's operators; a *lane* is views that move
//! together on a thread of their own; a *collection* is
//! the readable content of a relation.
//!
//! Always true here (DESIGN section 5): a view equals its definition at every published version; a version never holds
//! part of an entry; the engine reads no wall clock; readable state is immutable once published.

// Time comes in as an argument or from a trait, so that a seed replays what happens here.
#![deny(clippy::disallowed_methods)]

pub mod backfill_pace;
pub mod batch;
pub mod collection;
pub mod dead_letters;
pub mod delta;
pub mod engine;
pub mod error;
pub mod exact_moments;
pub mod exact_sum;
pub mod incremental;
pub mod input_log;
pub mod outputs;
pub mod scalar;
pub mod source_reader;
pub mod state;
pub mod subscription;
pub mod tables;
pub mod ticker;
pub mod ticks;
pub mod watermark;

mod backfill;
mod backfill_part;
mod checkpoint;
mod lane;
mod late_rows;
mod self_check;

pub use collection::{Collection, KeyKind, Version};
pub use delta::Delta;
pub use engine::{
    Engine, EngineConfig, EngineParts, EngineStats, JobStatus, Pinned, PinnedRelation, RelationStats, RestoreReport,
};
pub use error::EngineError;
pub use input_log::{Cut, InputLog, OutputLog};
pub use outputs::SinkStats;
pub use subscription::{Event, Followed, Subscription};
pub use ticker::Ticker;
