//! The broker as its clients see it, and its coordinator under chance.

mod compaction;
mod coordinator;
mod groups;
mod listener;
mod records;
mod rig;
mod topics;
mod versions;
