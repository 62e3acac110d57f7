//! Event time: which rows are late, and how far a source has come.
//!
//! Words: a partition's *watermark* is the largest event time of its rows so far minus the declared delay; a row is *late*
//! if its event time is below the watermark that earlier offsets of its own partition gave.
//!
//! Always true here: both are functions of the records up to a cut, whatever slices they came in. A row without event time
//! is never late and moves nothing. A partition takes part from its first row with an event time on; one that is empty
//! holds nobody up.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use mainstem_catalog::Watermark;
use serde::{Deserialize, Serialize};

pub use crate::incremental::LATE_COLUMN;

/// The event times of one relation, partition by partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkTracker {
    delay_us: i64,
    /// Largest event time by partition.
    newest_us: BTreeMap<i32, i64>,
}

impl WatermarkTracker {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(watermark: &Watermark) -> WatermarkTracker {
        WatermarkTracker { delay_us: watermark.delay_us, newest_us: BTreeMap::new() }
    }

    /// Takes the event times of the next rows of a partition, in offset order, and tells which rows are late.
    ///
    /// # Panics
    /// If the column holds no timestamps in microseconds; the planner refuses such watermarks.
    pub fn observe(&mut self, partition: i32, event_times: &ArrayRef) -> BooleanArray {
        assert!(matches!(event_times.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)), "an event time");
        let times = event_times.as_primitive::<TimestampMicrosecondType>();
        let mut newest = self.newest_us.get(&partition).copied();
        let late = times.iter().map(|time| {
            let Some(time) = time else { return Some(false) };
            let is_late = newest.is_some_and(|newest| time < newest.saturating_sub(self.delay_us));
            newest = Some(newest.map_or(time, |newest| newest.max(time)));
            Some(is_late)
        });
        let late: BooleanArray = late.collect();
        if let Some(newest) = newest {
            self.newest_us.insert(partition, newest);
        }
        late
    }

    /// The smallest watermark of the partitions that take part; `None` when there are none.
    #[must_use]
    pub fn watermark_us(&self) -> Option<i64> {
        self.newest_us.values().min().map(|newest| newest.saturating_sub(self.delay_us))
    }
}

/// The watermark of a view that reads these: a source without any event time yet holds every window open.
pub(crate) fn lowest(mut watermarks: impl Iterator<Item = Option<i64>>) -> Option<i64> {
    let first = watermarks.next()??;
    watermarks.try_fold(first, |lowest, one| Some(lowest.min(one?)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::TimestampMicrosecondArray;

    use super::*;

    fn observe(tracker: &mut WatermarkTracker, partition: i32, times: &[Option<i64>]) -> Vec<bool> {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()));
        tracker.observe(partition, &times).values().iter().collect()
    }

    #[test]
    fn a_row_is_late_by_earlier_offsets_of_its_own_partition_only() {
        let mut tracker = WatermarkTracker::new(&Watermark { column: 0, delay_us: 5 });
        assert_eq!(tracker.watermark_us(), None);
        assert_eq!(observe(&mut tracker, 0, &[None, Some(100), Some(95), Some(94)]), [false, false, false, true]);
        assert_eq!(tracker.watermark_us(), Some(95));
        assert_eq!(observe(&mut tracker, 1, &[Some(10)]), [false]);
        assert_eq!(tracker.watermark_us(), Some(5));
        assert_eq!(observe(&mut tracker, 0, &[Some(94), None]), [true, false]);
        assert_eq!(observe(&mut tracker, 1, &[None, Some(i64::MIN)]), [false, true]);
        assert_eq!(tracker.watermark_us(), Some(5));
    }
}
