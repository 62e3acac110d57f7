//! Batch queries and the oracle, over real engines.

mod event_time;
mod queries;
mod views;
