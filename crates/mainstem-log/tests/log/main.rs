//! The log from outside: its contract, damage and faults, and the simulation of crashes.

mod compaction;
mod contract;
mod damage;
mod faults;
mod fixtures;
mod in_place;
mod rig;
mod scrub;
mod simulation;
