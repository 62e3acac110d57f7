//! Writes to tables through SQL: what each statement does, that concurrent ones lose nothing, and that what failed or was
//! rolled back leaves no trace.

pub(crate) mod database;
mod log;
mod lookups;
mod random;
mod sessions;
mod statements;
