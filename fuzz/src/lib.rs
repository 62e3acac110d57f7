//! What arbitrary bytes do to every parser that faces a disk or a network.
//!
//! Words: a *target* is a function of bytes that drives one parser and fails by panicking; its *seeds* are inputs made by
//! the real encoders; its *corpus*, `fuzz/corpus/<name>/`, is what the seeds and earlier fuzzing left that reaches
//! different code; to *seal* an input is to put right the checksums in it, so that what lies behind them is reached.
//!
//! Always true here: a target depends on nothing but its bytes, so that an input fails again or never; what it keeps
//! allocated at any moment stays below its limit, whatever lengths the bytes claim.
//!
//! The fuzzer is libFuzzer, behind the feature `libfuzzer` (`cargo xtask fuzz`); the tests run the same targets over the
//! corpus and seeded mutations without it.

pub mod allocation;
pub mod mutation;
mod seal;
mod targets;

pub use targets::{TARGETS, find};

/// One parser, or several that read the same bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name and its corpus' directory.
    pub name: &'static str,
    /// What it may keep allocated at once: the limit of messages, or less where less is right.
    pub allocated_bytes_max: usize,
    /// Inputs to begin from, made by the real encoders, with names.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
    run: fn(&[u8]),
}

impl Target {
    /// Runs it.
    ///
    /// # Panics
    /// When the parser does, on any thread, or allocates more than it may.
    pub fn run(&self, data: &[u8]) {
        let peak = allocation::peak_of(|| (self.run)(data));
        let (name, limit) = (self.name, self.allocated_bytes_max);
        assert!(peak <= limit, "{name}: {peak} bytes were allocated for an input of {} bytes, {limit} may", data.len());
    }
}
