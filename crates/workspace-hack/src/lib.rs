//! Nothing but dependencies.
//!
//! Cargo unifies features over the packages that one command selects. Without this crate `cargo test -p mainstem-sql` and
//! `cargo test --workspace` would each build a DataFusion of their own, ten minutes apiece on two cores. Crates that use
//! DataFusion depend on it; no code does.
