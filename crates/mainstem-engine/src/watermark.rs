//! Event time: which rows are late, and how far a source has come.
//!
//! Words: a partition *begins* with the entry that holds its first record. Its *watermark* is the largest event time of its rows
//! so far minus the declared delay, and at least its *floor*: the watermark of the source just before that entry. A row is
//! *late* if its event time is below the watermark that its partition had before it. The source's watermark is the smallest
//! of the partitions that have begun.
//!
//! Always true here: all of it is a function of the log up to a cut, whatever slices it came in, because whoever reads ends a
//! step before an entry in which a partition begins; the watermark of a source never goes back, because of the floor. A row
//! without event time is never late and moves nothing. A partition without records holds nobody up.

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
    /// Of the partitions that have begun; none while nothing of theirs has an event time and there was no floor.
    watermarks_us: BTreeMap<i32, Option<i64>>,
}

impl WatermarkTracker {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(watermark: &Watermark) -> WatermarkTracker {
        WatermarkTracker { delay_us: watermark.delay_us, watermarks_us: BTreeMap::new() }
    }

    /// Whether the partition has begun.
    #[must_use]
    pub fn has_begun(&self, partition: i32) -> bool {
        self.watermarks_us.contains_key(&partition)
    }

    /// These partitions begin with the next entry. To be told before anything of that entry is observed.
    pub fn begin(&mut self, partitions: &[i32]) {
        let floor_us = self.watermark_us();
        self.watermarks_us.extend(partitions.iter().map(|partition| (*partition, floor_us)));
    }

    /// Takes the event times of the next rows of a partition, in offset order, and tells which rows are late.
    ///
    /// # Panics
    /// If the column holds no timestamps in microseconds; the planner refuses such watermarks.
    pub fn observe(&mut self, partition: i32, event_times: &ArrayRef) -> BooleanArray {
        assert!(matches!(event_times.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)), "an event time");
        let times = event_times.as_primitive::<TimestampMicrosecondType>();
        let watermark_us = self.watermarks_us.entry(partition).or_default();
        let late = times.iter().map(|time| {
            let Some(time) = time else { return Some(false) };
            let is_late = watermark_us.is_some_and(|watermark_us| time < watermark_us);
            *watermark_us = (*watermark_us).max(Some(time.saturating_sub(self.delay_us)));
            Some(is_late)
        });
        late.collect()
    }

    /// The smallest watermark of the partitions that have begun; `None` when there are none, or one has no event time yet.
    #[must_use]
    pub fn watermark_us(&self) -> Option<i64> {
        self.watermarks_us.values().min().copied().flatten()
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
    fn a_row_is_late_by_earlier_offsets_of_its_own_partition() {
        let mut tracker = WatermarkTracker::new(&Watermark { column: 0, delay_us: 5 });
        assert_eq!(tracker.watermark_us(), None);
        tracker.begin(&[0, 1]);
        assert_eq!(observe(&mut tracker, 0, &[None, Some(100), Some(95), Some(94)]), [false, false, false, true]);
        assert_eq!(tracker.watermark_us(), None, "the other has begun and has no event time yet");
        assert_eq!(observe(&mut tracker, 1, &[Some(10)]), [false]);
        assert_eq!(tracker.watermark_us(), Some(5));
        assert_eq!(observe(&mut tracker, 0, &[Some(94), None]), [true, false]);
        assert_eq!(observe(&mut tracker, 1, &[None, Some(i64::MIN)]), [false, true]);
        assert_eq!(tracker.watermark_us(), Some(5));
    }

    #[test]
    fn a_partition_that_begins_later_does_not_move_the_watermark_back() {
        let mut tracker = WatermarkTracker::new(&Watermark { column: 0, delay_us: 5 });
        tracker.begin(&[0]);
        assert_eq!(observe(&mut tracker, 0, &[Some(100)]), [false]);
        tracker.begin(&[2, 7]);
        assert!(tracker.has_begun(7) && !tracker.has_begun(1));
        assert_eq!(observe(&mut tracker, 2, &[Some(94), Some(95), Some(101)]), [true, false, false]);
        assert_eq!(tracker.watermark_us(), Some(95), "nothing of partition 7 has an event time");
        assert_eq!(observe(&mut tracker, 7, &[Some(1), Some(200)]), [true, false]);
        assert_eq!(tracker.watermark_us(), Some(95));
    }
}
