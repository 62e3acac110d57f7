//! Sessions over an engine on a log in memory, statement by statement.

mod alter;
mod catalogs;
mod database;
#[path = "../../../mainstem-engine/tests/tables/log.rs"]
#[expect(dead_code, reason = "this model serves the engine's tests too, which use more of it")]
mod log;
mod replace;
mod statements;
mod subscriptions;
mod too_complex;
