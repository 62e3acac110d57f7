//! How large the next version is: small when idle, large under load, never a part of an entry.

use std::time::Duration;

use crate::input_log::{Cut, InputLog, LogError};

const ENTRIES_MAX: usize = 1 << 20;
const ROWS_MIN: u64 = 1 << 10;

/// Adapts the size of versions to the time that they take.
#[derive(Clone, Debug)]
pub(crate) struct Pacing {
    entries: usize,
    rows: u64,
    rows_max: u64,
}

impl Pacing {
    /// Versions of at most about `rows_max` rows (a single entry may hold more).
    pub(crate) fn new(rows_max: usize) -> Pacing {
        Pacing { entries: ENTRIES_MAX, rows: rows_max as u64, rows_max: rows_max as u64 }
    }

    /// The cut of the next version after `after`, not beyond `limit`; none when there is nothing new. `rows_until` tells how
    /// many rows lie before a cut.
    pub(crate) fn next_cut(
        &mut self,
        log: &dyn InputLog,
        after: Cut,
        limit: Option<Cut>,
        rows_until: &mut dyn FnMut(Cut) -> Result<u64, LogError>,
    ) -> Result<Option<Cut>, LogError> {
        if limit.is_some_and(|limit| after >= limit) {
            return Ok(None);
        }
        loop {
            let Some(cut) = log.next_cut(after, self.entries)? else { return Ok(None) };
            let cut = limit.map_or(cut, |limit| cut.min(limit));
            let rows = rows_until(cut)?;
            if rows > self.rows && self.entries > 1 {
                let fitting = (self.entries as u64).saturating_mul(self.rows) / rows;
                self.entries = (fitting as usize).clamp(1, self.entries - 1);
                continue;
            }
            if rows < self.rows / 2 {
                self.entries = (self.entries * 2).min(ENTRIES_MAX);
            }
            return Ok(Some(cut));
        }
    }

    /// The last version took so long for so many rows.
    pub(crate) fn took(&mut self, time: Duration, time_max: Duration, rows: u64) {
        if time > time_max {
            self.rows = (rows.min(self.rows) / 2).max(ROWS_MIN.min(self.rows_max));
        } else if time < time_max / 2 {
            self.rows = (self.rows * 2).min(self.rows_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input_log::{Batches, Hold};

    /// Ten rows per entry, a thousand entries.
    #[derive(Debug)]
    struct Entries;

    #[derive(Debug)]
    struct NoHold;

    impl Hold for NoHold {
        fn advance(&self, _from: i64) {}
    }

    impl InputLog for Entries {
        fn newest(&self) -> Cut {
            Cut(1000)
        }
        fn next_cut(&self, after: Cut, entries_max: usize) -> Result<Option<Cut>, LogError> {
            Ok((after.0 < 1000).then(|| Cut((after.0 + entries_max as u64).min(1000))))
        }
        fn partitions(&self, _topic: uuid::Uuid) -> Vec<i32> {
            vec![0]
        }
        fn position(&self, _topic: uuid::Uuid, _partition: i32, at: Cut) -> Result<i64, LogError> {
            Ok(at.0 as i64 * 10)
        }
        fn start(&self, _topic: uuid::Uuid, _partition: i32) -> i64 {
            0
        }
        fn read(
            &self,
            _topic: uuid::Uuid,
            _partition: i32,
            _from: i64,
            until: i64,
            _bytes_max: usize,
        ) -> Result<Batches, LogError> {
            Ok(Batches { next_offset: until, ..Batches::default() })
        }
        fn on_advance(&self, _wake: Box<dyn Fn() + Send + Sync>) {}
        fn hold(&self, _topic: uuid::Uuid, _partition: i32, _from: i64) -> Box<dyn Hold> {
            Box::new(NoHold)
        }
    }

    #[test]
    fn versions_stay_below_their_rows_and_reach_the_end() {
        let (mut pacing, mut at, mut sizes) = (Pacing::new(100), Cut::ZERO, Vec::new());
        while let Some(cut) =
            pacing.next_cut(&Entries, at, Some(Cut(900)), &mut |cut| Ok((cut.0 - at.0) * 10)).expect("never fails")
        {
            sizes.push(cut.0 - at.0);
            at = cut;
        }
        assert_eq!(at, Cut(900));
        assert!(sizes.iter().all(|entries| *entries <= 10), "{sizes:?}");
        assert!(sizes.len() < 250, "{}", sizes.len());
    }
}
