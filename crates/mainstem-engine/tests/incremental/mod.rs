//! `integrate(incremental(deltas)) == batch(integrate(deltas))`, with DataFusion's stock plan of the same graph as the
//! oracle, for each operator and for random graphs; and that no operator recomputes its input.

mod asof_programs;
mod closed_programs;
mod exact;
mod graphs;
mod operators;
mod oracle;
mod random_graphs;
mod sql_programs;
mod sql_work;
mod tables;
mod temporal;
mod work;

pub(crate) use oracle::{reopened, shards};
pub(crate) use tables::sliced;

/// Seeds of a random test: MAINSTEM_SEED (one) or MAINSTEM_SEEDS (how many, from 1), else `default` many.
pub(crate) fn seeds(default: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("MAINSTEM_SEED"), number("MAINSTEM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, many) => (1..=many.unwrap_or(default)).collect(),
    }
}
