//! The engine end to end over a log in memory: views made before and after the data, kills, checkpoints, dead letters, one
//! frontier. What must come out is computed from what was written, without anything of the engine.

mod backfills;
mod faults;
mod frontier;
mod lanes;
mod log;
mod random_runs;
mod restart;
mod sinks;
mod world;
