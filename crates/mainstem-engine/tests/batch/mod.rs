//! Batch queries and the oracle, over real engines.

mod queries;
mod views;
