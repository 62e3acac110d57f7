//! How fast a new view reads its history: as fast as it can, so many rows per second, or not at all for now.
//!
//! The rate is a setting of the view's definition, so that it holds after a restart; ALTER changes it while a backfill runs.
//! Always true here: a backfill that waits is woken by a change of its rate and by its end.

use std::time::Duration;

use mainstem_catalog::Relation;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// The setting of a view's definition: rows per second, 0 is a pause.
pub const RATE_SETTING: &str = "backfill_rate_limit";
/// The longest wait at once.
const STEP: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Rows per second; none is no limit.
    rate: Option<u32>,
    has_ended: bool,
}

impl Pace {
    /// What a definition says.
    pub(crate) fn rate_of(relation: &Relation) -> Option<u32> {
        let settings = &relation.materialized()?.settings;
        settings.iter().find(|(name, _)| name == RATE_SETTING)?.1.parse().ok()
    }

    pub(crate) fn set(&self, rate: Option<u32>) {
        self.state.lock().rate = rate;
        self.changed.notify_all();
    }

    /// Nobody waits any more.
    pub(crate) fn end(&self) {
        self.state.lock().has_ended = true;
        self.changed.notify_all();
    }

    pub(crate) fn rate(&self) -> Option<u32> {
        self.state.lock().rate
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.rate() == Some(0)
    }

    /// Rows that may be read at once, so that a low rate is not a long wait after many rows.
    pub(crate) fn rows_at_once(&self, rows: usize) -> usize {
        self.rate().map_or(rows, |rate| rows.min(rate.max(1) as usize))
    }

    /// Returns when so many rows, which have been read, have had their time, and there is no pause. `meanwhile` is called now
    /// and then.
    pub(crate) fn wait(&self, rows: u64, meanwhile: &mut dyn FnMut()) {
        meanwhile();
        let mut state = self.state.lock();
        // In rows, so that a change of the rate counts for what is left.
        let mut owed = rows as f64;
        while !state.has_ended {
            let wait = match state.rate {
                None => return,
                Some(0) => STEP,
                Some(_) if owed <= 0.0 => return,
                Some(rate) => STEP.min(Duration::from_secs_f64(owed / f64::from(rate))),
            };
            let rate = f64::from(state.rate.unwrap_or_default());
            MutexGuard::unlocked(&mut state, &mut *meanwhile);
            if self.changed.wait_for(&mut state, wait).timed_out() {
                owed -= wait.as_secs_f64() * rate;
                // A microsecond's rows are not worth a wait, and may be none by rounding.
                owed = if owed < rate * 1e-6 { 0.0 } else { owed };
            }
        }
    }
}
