//! The outside systems that the engine reads from and writes to, one folder each, and `topic/` for our own log.
//!
//! Always true here: the engine sees each of them only through its own traits.

pub mod topic;
