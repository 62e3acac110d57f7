//! One operator as several, each for a part of the keys, or of the rows where there is no state.
//!
//! Words: a *shard* is an operator with the state of some keys; a row's shard is decided by a hash of its key's bytes (group
//! key, join key, partition key, whole row), the bytes under which the operator keeps its state. Operators without state
//! take rows in equal ranges.
//!
//! A large delta is split and its shards run in parallel (see `pool`); a small one goes through them one after the other.
//! Each has its own errors and counters, which are added up afterwards. All shards share the operator's space: an entry there
//! belongs to one key, and so to one shard, whatever their number was when it was written.
//!
//! Always true here: what comes out, added up, does not depend on the number of shards; each key's rows meet in one shard,
//! in the order in which they came; a row whose key fails is reported here, once, as the operator itself would.

use std::sync::Arc;

use mainstem_sql::Forget;

use super::pool::pool;
use super::{Context, Operate, STATE_HASHER};
use crate::delta::{Delta, RowKeys};
use crate::error::EngineError;
use crate::scalar::{CompiledScalar, RowErrors, evaluate_all};
use crate::state::Space;
use crate::watermark::Times;

/// How operators are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    /// How many there are of an operator that can have several.
    pub count: usize,
    /// Rows of a delta from which on they run in parallel.
    pub parallel_rows: usize,
}

impl Shards {
    /// No division.
    pub const ONE: Shards = Shards { count: 1, parallel_rows: usize::MAX };
}

impl Default for Shards {
    /// For two cores.
    fn default() -> Shards {
        Shards { count: 2, parallel_rows: 4096 }
    }
}

/// How rows find their shard.
#[derive(Debug)]
pub(super) enum Routing {
    /// By these expressions, for each input.
    Keys(Vec<(Vec<CompiledScalar>, RowKeys)>),
    /// In ranges.
    Rows,
}

#[derive(Debug)]
pub(super) struct Sharded {
    routing: Arc<Routing>,
    shards: Vec<Box<dyn Operate>>,
    parallel_rows: usize,
    /// Rows that came since the last version.
    rows: usize,
}

/// What a shard did besides giving rows.
#[derive(Default)]
struct Done {
    errors: RowErrors,
    touched: u64,
    late: u64,
    failure: Option<EngineError>,
}

impl Done {
    fn context<'a>(&'a mut self, times: Times, space: Option<&'a Space>) -> Context<'a> {
        Context {
            errors: &mut self.errors,
            touched: &mut self.touched,
            late: &mut self.late,
            times,
            space,
            failure: &mut self.failure,
        }
    }
}

impl Routing {
    /// By keys of these expressions on each input.
    pub(super) fn by(keys: Vec<Vec<CompiledScalar>>) -> Result<Routing, EngineError> {
        let one = |expressions: Vec<CompiledScalar>| {
            let types: Vec<_> = expressions.iter().map(|key| key.data_type().clone()).collect();
            let keys = RowKeys::of_types(&types).map_err(|error| EngineError::Graph(error.to_string()))?;
            Ok((expressions, keys))
        };
        Ok(Routing::Keys(keys.into_iter().map(one).collect::<Result<_, EngineError>>()?))
    }
}

fn shard_of(key: &[u8], shards: usize) -> usize {
    // The low bits decide the place in the shard's own maps: these are others.
    ((STATE_HASHER.hash_one(key) >> 32) as usize) % shards
}

impl Sharded {
    /// At least two shards, alike and empty.
    pub(super) fn new(routing: Routing, shards: Vec<Box<dyn Operate>>, parallel_rows: usize) -> Sharded {
        Sharded { routing: Arc::new(routing), shards, parallel_rows, rows: 0 }
    }

    /// The rows of each shard, in their order.
    fn split(&self, port: usize, delta: &Delta, errors: &mut RowErrors) -> Vec<Delta> {
        let shards = self.shards.len();
        let (expressions, keys) = match &*self.routing {
            Routing::Rows if delta.len() < self.parallel_rows => return vec![delta.clone()],
            Routing::Rows => {
                let rows = delta.len().div_ceil(shards);
                let range = |shard: usize| {
                    let start = (shard * rows).min(delta.len());
                    delta.slice(start, rows.min(delta.len() - start))
                };
                return (0..shards).map(range).collect();
            }
            Routing::Keys(inputs) => &inputs[port],
        };
        let (delta, values) = evaluate_all(expressions, delta, errors);
        let keys = keys.encode(&values, delta.len());
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); shards];
        for (row, key) in (0..).zip(keys.iter()) {
            rows[shard_of(key, shards)].push(row);
        }
        let part = |rows: &Vec<u32>| match rows.len() {
            0 => delta.slice(0, 0),
            all if all == delta.len() => delta.clone(),
            _ => delta.take(rows),
        };
        rows.iter().map(part).collect()
    }

    /// The shards have done their parts.
    fn take_back(&mut self, done: Vec<(Box<dyn Operate>, Done)>, context: &mut Context<'_>) {
        for (shard, mut done) in done {
            self.shards.push(shard);
            for (message, weight) in done.errors.take() {
                context.errors.add(message, weight);
            }
            *context.touched += done.touched;
            *context.late += done.late;
            if let Some(failure) = done.failure {
                context.failure.get_or_insert(failure);
            }
        }
    }
}

impl Operate for Sharded {
    fn apply(&mut self, port: usize, delta: &Delta, context: &mut Context<'_>) -> Vec<Delta> {
        let mut given = Vec::new();
        self.apply_in_parts(port, delta, context, &mut |piece| given.push(piece));
        given
    }

    fn apply_in_parts(&mut self, port: usize, delta: &Delta, context: &mut Context<'_>, give: &mut dyn FnMut(Delta)) {
        self.rows += delta.len();
        let parts = self.split(port, delta, context.errors);
        let busy = parts.iter().filter(|part| !part.is_empty()).count();
        if busy < 2 || delta.len() < self.parallel_rows {
            for (shard, part) in self.shards.iter_mut().zip(&parts).filter(|(_, part)| !part.is_empty()) {
                shard.apply_in_parts(port, part, context, give);
            }
            return;
        }
        let (times, space) = (context.times, context.space.cloned());
        let work = move |(mut shard, part): (Box<dyn Operate>, Delta), give: &mut dyn FnMut(Delta)| {
            let mut done = Done::default();
            if !part.is_empty() {
                shard.apply_in_parts(port, &part, &mut done.context(times, space.as_ref()), give);
            }
            (shard, done)
        };
        let inputs = std::mem::take(&mut self.shards).into_iter().zip(parts).collect();
        self.take_back(pool().flow(inputs, work, give), context);
    }

    fn finish(&mut self, context: &mut Context<'_>) -> Vec<Delta> {
        if std::mem::take(&mut self.rows) < self.parallel_rows {
            return self.shards.iter_mut().flat_map(|shard| shard.finish(context)).collect();
        }
        let (times, space) = (context.times, context.space.cloned());
        let work = move |mut shard: Box<dyn Operate>| {
            let mut done = Done::default();
            let given = shard.finish(&mut done.context(times, space.as_ref()));
            (given, (shard, done))
        };
        let (given, done): (Vec<_>, Vec<_>) = pool().map(std::mem::take(&mut self.shards), work).into_iter().unzip();
        self.take_back(done, context);
        given.into_iter().flatten().collect()
    }

    fn forgets(&mut self, forgets: &[Forget]) {
        self.shards.iter_mut().for_each(|shard| shard.forgets(forgets));
    }

    fn retire(&mut self, horizon_us: i64) {
        self.shards.iter_mut().for_each(|shard| shard.retire(horizon_us));
    }

    fn retire_stored(&mut self, watermark: i64, space: &Space) -> Result<(), EngineError> {
        self.shards.iter_mut().try_for_each(|shard| shard.retire_stored(watermark, space))
    }

    fn uses_space(&self) -> bool {
        self.shards.iter().all(|shard| shard.uses_space())
    }

    fn attach(&mut self, space: &Space) -> Result<(), EngineError> {
        self.shards.iter_mut().try_for_each(|shard| shard.attach(space))
    }

    fn shrink(&mut self, bytes: u64) -> u64 {
        let held = self.state_size().1.max(1);
        let part = |of: u64| (u128::from(bytes) * u128::from(of) / u128::from(held)) as u64;
        self.shards.iter_mut().map(|shard| shard.shrink(part(shard.state_size().1))).sum()
    }

    fn state_size(&self) -> (u64, u64) {
        let sizes = self.shards.iter().map(|shard| shard.state_size());
        sizes.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// What is written does not say which shard it was in.
    fn save(&self, out: &mut dyn FnMut(&[u8])) {
        self.shards.iter().for_each(|shard| shard.save(out));
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), EngineError> {
        let shards = self.shards.len();
        for (place, shard) in self.shards.iter_mut().enumerate() {
            shard.restore_keys(section, &|key| shard_of(key, shards) == place)?;
        }
        Ok(())
    }
}
