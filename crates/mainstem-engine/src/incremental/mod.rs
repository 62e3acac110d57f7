//! Incremental execution of a view's operator graph.
//!
//! Words: a [`Circuit`] is the operators of one view with their state; deltas are *pushed* in slices and flow as far as
//! they can at once; a version is *finished* when its slices are all in, and then the operators that give net changes
//! (aggregates, top-n, distinct) give theirs.
//!
//! Always true here: the sum of all outputs equals the view's query over the sum of all inputs, at every finished version;
//! every operator takes retractions; no operator recomputes its whole input (functions OVER a window compute the partitions
//! that changed); an output depends on the sum of a version's
//! deltas, not on how they were sliced; floats in deltas are canonical.
//!
//! An operator that [`Operate::uses_space`] keeps its state in a [`Space`] as well: what a version changed of it is written
//! there by the version's end, so that memory may lack whatever the space has, and units (a group, a join key, a partition,
//! a row) are loaded when a delta touches them. The state of other operators is written there as a whole.

mod aggregate;
mod asof;
mod circuit;
mod distinct;
mod emit_on_close;
mod encoding;
mod join;
mod multiset;
mod over;
mod over_spans;
mod pool;
mod sharded;
mod stateless;
mod temporal;
mod top_n;
mod units;

use std::fmt::Debug;

use mainstem_sql::Forget;

use crate::delta::Delta;
use crate::error::EngineError;
use crate::scalar::RowErrors;
use crate::state::Space;
use crate::watermark::Times;

pub(crate) use pool::pool;

pub use circuit::{Circuit, LATE_COLUMN, OperatorStats, VersionOutput};
pub use sharded::Shards;

/// Fixed, so that the same state is laid out the same way in each run.
const STATE_HASHER: ahash::RandomState = ahash::RandomState::with_seeds(
    0x6d61_696e_7374_656d,
    0x9e37_79b9_7f4a_7c15,
    0x2545_f491_4f6c_dd1d,
    0x1405_7b7e_f767_814f,
);

/// A map by row or key bytes.
type ByteMap<V> = hashbrown::HashMap<Box<[u8]>, V, ahash::RandomState>;

fn byte_map<V>() -> ByteMap<V> {
    hashbrown::HashMap::with_hasher(STATE_HASHER)
}

/// Adds to the weight of a key; a weight of zero is no entry. Gives the weight before.
fn adjust(map: &mut ByteMap<i64>, key: &[u8], weight: i64) -> i64 {
    match map.get_mut(key) {
        Some(sum) => {
            let before = *sum;
            *sum += weight;
            if *sum == 0 {
                map.remove(key);
            }
            before
        }
        None => {
            if weight != 0 {
                map.insert(key.into(), weight);
            }
            0
        }
    }
}

/// What the circuit gives an operator to work with.
struct Context<'a> {
    errors: &'a mut RowErrors,
    /// Rows processed, and rows read from or written to state.
    touched: &'a mut u64,
    /// Late rows taken out, by weight.
    late: &'a mut u64,
    /// The graph's as of the version; only while it is being finished.
    times: Times,
    /// Where the operator keeps its state; none: in memory alone.
    space: Option<&'a Space>,
    /// Why state could not be read: what the operator gives from now on is worth nothing.
    failure: &'a mut Option<EngineError>,
}

impl Context<'_> {
    /// The value, or its default after noting the failure.
    fn loaded<T: Default>(&mut self, result: Result<T, EngineError>) -> T {
        result.unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            T::default()
        })
    }
}

/// An operator with its state.
trait Operate: Debug + Send {
    /// Takes a delta on one of its inputs and gives what follows from it at once.
    fn apply(&mut self, port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta>;

    /// The same for operators that may give much more than they take: each piece goes on as soon as it is there.
    fn apply_in_parts(&mut self, port: usize, delta: &Delta, context: &mut Context<'_>, give: &mut dyn FnMut(Delta)) {
        self.apply(port, delta, context).into_iter().for_each(give);
    }

    /// The version's input is complete: gives what is given once per version.
    fn finish(&mut self, _context: &mut Context<'_>) -> Vec<Delta> {
        Vec::new()
    }

    /// What it may forget, by event time; told once, before anything else.
    fn forgets(&mut self, _forgets: &[Forget]) {}

    /// Forgets, without output, what is settled by this horizon: no row below it comes any more.
    fn retire(&mut self, _horizon_us: i64) {}

    /// Removes from the space what belongs to windows that have ended at or before the watermark.
    fn retire_stored(&mut self, _watermark: i64, _space: &Space) -> Result<(), EngineError> {
        Ok(())
    }

    /// Whether it writes its state to its space itself, see the module's text. If not, the circuit writes what
    /// [`Operate::save`] gives.
    fn uses_space(&self) -> bool {
        false
    }

    /// Nothing has been applied yet, and from now on each [`Context`] has this space.
    fn attach(&mut self, _space: &Space) -> Result<(), EngineError> {
        Ok(())
    }

    /// Drops units that the space has until about this many bytes are left in memory, those first that were used least
    /// recently. Only between versions. Answers how many.
    fn shrink(&mut self, _bytes: u64) -> u64 {
        0
    }

    /// Rows held in memory, and about how many bytes.
    fn state_size(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Writes its state, as of the last finished version; if it uses a space, what of it is in memory.
    fn save(&self, _out: &mut dyn FnMut(&[u8])) {}

    /// Adds a section that [`Operate::save`] wrote.
    fn restore(&mut self, section: &[u8]) -> Result<(), EngineError> {
        self.restore_keys(section, &|_| true)
    }

    /// Adds of a section what belongs to the keys for which this is true.
    fn restore_keys(&mut self, _section: &[u8], _is_kept: &dyn Fn(&[u8]) -> bool) -> Result<(), EngineError> {
        Err(EngineError::State("a section for an operator that has no state".to_owned()))
    }
}
