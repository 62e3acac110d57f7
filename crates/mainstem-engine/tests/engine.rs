//! Tests of the engine through its public interface, by concern.

mod batch;
mod incremental;
mod runner;
mod stock;
mod suites;
mod tables;
