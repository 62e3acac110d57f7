//! A clock that stands still until a test moves it.

use std::sync::Arc;
use std::time::Duration;

use mainstem_disk::Clock;
use parking_lot::Mutex;

/// Time as the test sets it. Wall time may jump either way, monotonic time only grows.
#[derive(Debug)]
pub struct SimClock {
    now: Mutex<Now>,
}

#[derive(Clone, Copy, Debug)]
struct Now {
    wall_ms: i64,
    monotonic: Duration,
    /// What is below a millisecond of the wall time that has passed.
    wall_rest: Duration,
}

impl SimClock {
    /// A clock at this wall time whose monotonic time is zero.
    pub fn new(wall_ms: i64) -> Arc<Self> {
        let now = Now { wall_ms, monotonic: Duration::ZERO, wall_rest: Duration::ZERO };
        Arc::new(Self { now: Mutex::new(now) })
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock();
        now.monotonic += by;
        let passed = now.wall_rest + by;
        let whole_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        now.wall_ms = now.wall_ms.saturating_add(whole_ms);
        now.wall_rest = Duration::from_nanos(u64::from(passed.subsec_nanos() % 1_000_000));
    }

    /// Sets the wall clock, forward or back, as an operator or NTP does. Monotonic time does not move.
    pub fn jump_to(&self, wall_ms: i64) {
        let mut now = self.now.lock();
        now.wall_ms = wall_ms;
        now.wall_rest = Duration::ZERO;
    }

    /// Moves the wall clock by this many milliseconds. Monotonic time does not move.
    pub fn jump_by(&self, ms: i64) {
        let mut now = self.now.lock();
        now.wall_ms = now.wall_ms.saturating_add(ms);
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> i64 {
        self.now.lock().wall_ms
    }

    fn monotonic(&self) -> Duration {
        self.now.lock().monotonic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_only_when_told_and_keeps_the_parts_of_a_millisecond() {
        let clock = SimClock::new(1_000);
        assert_eq!((clock.wall_ms(), clock.monotonic()), (1_000, Duration::ZERO));
        for _ in 0..4 {
            clock.advance(Duration::from_micros(750));
        }
        assert_eq!((clock.wall_ms(), clock.monotonic()), (1_003, Duration::from_millis(3)));
    }

    #[test]
    fn a_jump_of_the_wall_clock_leaves_monotonic_time_alone() {
        let clock = SimClock::new(1_000);
        clock.advance(Duration::from_secs(1));
        clock.jump_to(500);
        assert_eq!((clock.wall_ms(), clock.monotonic()), (500, Duration::from_secs(1)));
        clock.jump_by(-600);
        assert_eq!((clock.wall_ms(), clock.monotonic()), (-100, Duration::from_secs(1)));
    }
}
