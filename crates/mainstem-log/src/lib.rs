//! The log: the one durable, ordered history that everything else is derived from.
//!
//! Words: an [`Entry`] is one atomic append that may span partitions and topics; its [`Csn`] is its place on the one
//! time line of the process. The *commit log* holds all entries interleaved and is what is synced; *segments* hold each
//! partition's batches in Kafka's format and are what is read. The *high watermark* of a partition ends what any reader
//! may see. The *order* remembers which offsets each CSN covers. A *hold* keeps retention and compaction away from what a reader needs.
//!
//! Always true here (DESIGN section 4):
//! - nothing above the high watermark is visible through any method that reads;
//! - an acknowledgement ([`Done`]) fires only after the entry is durable and visible, in CSN order;
//! - an entry is visible as a whole or not at all, also after a crash;
//! - conditions are judged at the moment the CSN is given, against all entries accepted before it;
//! - offsets are dense when given and never change; segments rule up to the last checkpoint, the commit log after it;
//!   compaction touches only what lies below the checkpoint.

// Time comes in as an argument or from a trait, so that a seed replays what happens here.
#![deny(clippy::disallowed_methods)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

mod contract;
mod log;

mod checkpoint;
mod codec;
mod commit;
mod compaction;
mod failure;
mod hold;
mod order;
mod partition;
mod producer;
mod read;
mod recovery;
mod retention;
mod scrub;
mod segment;
mod sequence;
mod shared;

pub use contract::*;
pub use hold::Hold;
pub use log::{CommitThread, Log};
pub use scrub::{ScrubReport, scrub};
