//! Random numbers that a seed repeats on every platform and in every version.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood 2014): its sequence is fixed here, so that a seed printed by a
//! failing test still means the same run after an update of a dependency.

use std::sync::Arc;

use mainstem_disk::Random;
use parking_lot::Mutex;

/// The seed of a random test: the environment variable when it is set, otherwise `default`. The test prints it.
///
/// # Panics
/// When the variable is set and is not a number.
pub fn seed_from_env(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => match text.parse() {
            Ok(seed) => seed,
            Err(_) => panic!("{variable} must be a whole number, not {text:?}"),
        },
        Err(_) => default,
    }
}

/// Seeded randomness that can be shared between threads.
#[derive(Debug)]
pub struct SimRandom {
    generator: Mutex<SplitMix>,
}

impl SimRandom {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { generator: Mutex::new(SplitMix::new(seed)) })
    }

    /// A number in `0..limit`; 0 when `limit` is 0.
    pub fn below(&self, limit: u64) -> u64 {
        self.generator.lock().below(limit)
    }

    /// True in `percent` of 100 draws.
    pub fn chance(&self, percent: u64) -> bool {
        self.generator.lock().chance(percent)
    }
}

impl Random for SimRandom {
    fn next_u64(&self) -> u64 {
        self.generator.lock().next()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct SplitMix {
    state: u64,
}

impl SplitMix {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // The high half of the product: even enough for limits far below 2^64, and never out of range.
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.below(N as u64) as usize]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

/// SplitMix64's finaliser: spreads every bit of `value` over all bits.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_is_the_published_one() {
        // First outputs of the reference implementation of SplitMix64 for the seed 1234567.
        let random = SimRandom::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let random = SimRandom::new(1);
        let mut seen = [0; 5];
        for _ in 0..1_000 {
            seen[random.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&times| times > 100), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }
}
