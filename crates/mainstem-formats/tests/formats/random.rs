//! Seeds for randomised tests.

use std::hash::{BuildHasher, Hasher, RandomState};

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// A generator from `MAINSTEM_TEST_SEED` if set, else from a fresh seed; the seed is printed.
pub(crate) fn generator() -> SmallRng {
    let seed = match std::env::var("MAINSTEM_TEST_SEED") {
        Ok(text) => text.parse().expect("MAINSTEM_TEST_SEED is a number"),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    println!("seed {seed}; again with MAINSTEM_TEST_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}
