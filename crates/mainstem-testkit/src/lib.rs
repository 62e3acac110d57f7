//! What Mainstem's tests need and its crates must not: a disk, a clock and randomness that obey a seed.
//!
//! Words: a *crash* is a loss of power: what was not synced is kept, lost or torn, as the seed says. A *fault* is one
//! operation that fails while the power stays on.
//!
//! Always true here: nothing reads the operating system's time, randomness or hash order, so the same seed and the same
//! calls give the same answers ([`SimDisk::trace_hash`] proves it). Only tests depend on this crate.

mod clock;
mod disk;
mod random;

pub use clock::SimClock;
pub use disk::{FaultKind, SimDisk};
pub use random::{SimRandom, seed_from_env};
