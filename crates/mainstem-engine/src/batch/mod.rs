//! Batch queries: DataFusion over the same relations that the engine keeps, and the proof that both agree.
//!
//! Words: a *read point* is what one statement reads: the published version, at least as new as a cut that its session has
//! seen, or the snapshot of a transaction with its own writes; the *oracle* is a view's query planned by DataFusion alone
//! and run over the log itself.
//!
//! Always true here: all relations of one statement are read at one cut; nothing that a query reads changes while it runs;
//! sums and averages of floats do not depend on the order of rows; the oracle uses no collection, no circuit and no
//! incremental operator.

mod closed;
mod compare;
mod context;
mod errors;
mod event_time;
mod extremes;
mod lookup;
mod lookup_exec;
mod moments;
mod oracle;
mod own_writes;
mod provider;
mod source;
mod sums;
#[cfg(test)]
mod tests;

pub use compare::{Comparison, compare_view};
pub use context::{ContextOptions, ReadPoint, memory_limited, plan_query, relations_of, run, session_context};
pub use errors::{query_error, view_error};
pub use oracle::recompute;
pub use sums::exact_aggregates;

pub(crate) use compare::row_text;
pub(crate) use context::{TARGET_SCHEMA, context_with, plan_text, register, visible_columns};
pub(crate) use errors::{engine_error, log_error};
pub(crate) use lookup::{Lookup, Range};
pub(crate) use oracle::quoted;
pub(crate) use provider::RowsTable;
