//! Event time: which rows are late, and how far a source has come.
//!
//! Words: a partition *begins* with the entry that holds its first record, or its first record after it was idle. Its
//! *watermark* is the largest event time of its rows so far minus the declared delay, and at least its *floor*: the watermark
//! of the source just before the entry with which it began. A row is *late* if its event time is below the watermark that its
//! partition had before it, by more than the lateness allowed. A partition is *idle* from an idle event in the log on until it
//! begins again. The source's watermark is the smallest of the partitions that have begun and are not idle; if all are idle,
//! the largest of them. Its *horizon* is as far below as the lateness allows: no row below it comes any more.
//!
//! Always true here: all of it is a function of the log up to a cut, whatever slices it came in, because whoever reads ends a
//! step before an entry in which a partition begins, and after one with an idle event; the watermark of a source never goes
//! back, because of the floor. A row without event time is never late and moves nothing. A partition without records holds
//! nobody up.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use mainstem_catalog::Watermark;
use serde::{Deserialize, Serialize};

pub use crate::incremental::LATE_COLUMN;

/// The event times of one relation, partition by partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkTracker {
    delay_us: i64,
    #[serde(default)]
    lateness_us: i64,
    /// Of the partitions that have begun; none while nothing of theirs has an event time and there was no floor.
    watermarks_us: BTreeMap<i32, Option<i64>>,
    #[serde(default)]
    idle: BTreeSet<i32>,
}

/// How far event time and the clock have come for a view; all of it a function of the cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Windows that end at or before it are closed.
    pub watermark_us: Option<i64>,
    /// No row of a window that ends at or before it comes any more.
    pub horizon_us: Option<i64>,
    /// The newest tick.
    pub now_us: Option<i64>,
}

impl Times {
    /// Without lateness, without a clock.
    #[must_use]
    pub fn of_watermark(watermark_us: Option<i64>) -> Times {
        Times { watermark_us, horizon_us: watermark_us, now_us: None }
    }
}

impl WatermarkTracker {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(watermark: &Watermark) -> WatermarkTracker {
        WatermarkTracker {
            delay_us: watermark.delay_us,
            lateness_us: watermark.lateness_us,
            watermarks_us: BTreeMap::new(),
            idle: BTreeSet::new(),
        }
    }

    /// Whether the partition has begun and is not idle.
    #[must_use]
    pub fn has_begun(&self, partition: i32) -> bool {
        self.watermarks_us.contains_key(&partition) && !self.idle.contains(&partition)
    }

    /// The partition had no records for a while. One that has not begun stays as it is.
    pub fn idle(&mut self, partition: i32) {
        if self.watermarks_us.contains_key(&partition) {
            self.idle.insert(partition);
        }
    }

    /// These partitions begin with the next entry. To be told before anything of that entry is observed.
    pub fn begin(&mut self, partitions: &[i32]) {
        let floor_us = self.watermark_us();
        for partition in partitions {
            let watermark_us = self.watermarks_us.entry(*partition).or_default();
            *watermark_us = (*watermark_us).max(floor_us);
            self.idle.remove(partition);
        }
    }

    /// Takes the event times of the next rows of a partition, in offset order, and tells which rows are late; `late` gets their
    /// places, each with the watermark that the partition had before it.
    ///
    /// # Panics
    /// If the column holds no timestamps in microseconds; the planner refuses such watermarks.
    pub fn observe(
        &mut self,
        partition: i32,
        event_times: &ArrayRef,
        late: &mut dyn FnMut(usize, i64),
    ) -> BooleanArray {
        assert!(matches!(event_times.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)), "an event time");
        let times = event_times.as_primitive::<TimestampMicrosecondType>();
        let watermark_us = self.watermarks_us.entry(partition).or_default();
        let marks = times.iter().enumerate().map(|(row, time)| {
            let Some(time) = time else { return Some(false) };
            let before = *watermark_us;
            *watermark_us = before.max(Some(time.saturating_sub(self.delay_us)));
            let before = before.filter(|before| time < before.saturating_sub(self.lateness_us));
            before.inspect(|before| late(row, *before));
            Some(before.is_some())
        });
        marks.collect()
    }

    /// The smallest watermark of the partitions that have begun and are not idle; `None` when there are none, or one has no
    /// event time yet. If all are idle the largest: which of them was idle last must not matter.
    #[must_use]
    pub fn watermark_us(&self) -> Option<i64> {
        let active = self.watermarks_us.iter().filter(|(partition, _)| !self.idle.contains(partition));
        let lowest = active.map(|(_, watermark_us)| *watermark_us).min();
        lowest.unwrap_or_else(|| self.watermarks_us.values().max().copied().flatten())
    }

    /// As far below the watermark as the lateness allows.
    #[must_use]
    pub fn horizon_us(&self) -> Option<i64> {
        self.watermark_us().map(|watermark_us| watermark_us.saturating_sub(self.lateness_us))
    }
}

/// The watermark and the horizon of a view that reads sources with these: a source without any event time yet holds every
/// window open.
pub(crate) fn lowest(sources: impl Iterator<Item = (Option<i64>, Option<i64>)>) -> Times {
    let lower = |lowest: (Option<i64>, Option<i64>), one: (Option<i64>, Option<i64>)| {
        (lowest.0.min(one.0), lowest.1.min(one.1))
    };
    let (watermark_us, horizon_us) = sources.reduce(lower).unwrap_or_default();
    Times { watermark_us, horizon_us, now_us: None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::TimestampMicrosecondArray;

    use super::*;

    fn observe(tracker: &mut WatermarkTracker, partition: i32, times: &[Option<i64>]) -> Vec<bool> {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()));
        tracker.observe(partition, &times, &mut |_, _| ()).values().iter().collect()
    }

    #[test]
    fn a_row_is_late_by_earlier_offsets_of_its_own_partition() {
        let mut tracker = WatermarkTracker::new(&Watermark::new(0, 5));
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
        let mut tracker = WatermarkTracker::new(&Watermark::new(0, 5));
        tracker.begin(&[0]);
        assert_eq!(observe(&mut tracker, 0, &[Some(100)]), [false]);
        tracker.begin(&[2, 7]);
        assert!(tracker.has_begun(7) && !tracker.has_begun(1));
        assert_eq!(observe(&mut tracker, 2, &[Some(94), Some(95), Some(101)]), [true, false, false]);
        assert_eq!(tracker.watermark_us(), Some(95), "nothing of partition 7 has an event time");
        assert_eq!(observe(&mut tracker, 7, &[Some(1), Some(200)]), [true, false]);
        assert_eq!(tracker.watermark_us(), Some(95));
    }
    #[test]
    fn an_idle_partition_holds_nobody_up_and_begins_again_at_the_watermark() {
        let mut tracker = WatermarkTracker::new(&Watermark::new(0, 5));
        tracker.idle(0);
        tracker.begin(&[0, 1]);
        assert_eq!(observe(&mut tracker, 0, &[Some(100)]), [false]);
        assert_eq!(observe(&mut tracker, 1, &[Some(10)]), [false]);
        assert_eq!(tracker.watermark_us(), Some(5));
        tracker.idle(1);
        assert!(tracker.has_begun(0) && !tracker.has_begun(1));
        assert_eq!(tracker.watermark_us(), Some(95));
        tracker.idle(0);
        assert_eq!(tracker.watermark_us(), Some(95), "the largest, when all are idle");
        tracker.begin(&[1]);
        assert_eq!(observe(&mut tracker, 1, &[Some(94), Some(95)]), [true, false]);
        assert_eq!(tracker.watermark_us(), Some(95));
        tracker.begin(&[0]);
        assert_eq!(tracker.watermark_us(), Some(95));
    }

    #[test]
    fn with_a_lateness_rows_are_late_that_much_later() {
        let mut tracker = WatermarkTracker::new(&Watermark { lateness_us: 20, ..Watermark::new(0, 5) });
        tracker.begin(&[0]);
        assert_eq!(observe(&mut tracker, 0, &[Some(100), Some(94), Some(75), Some(74)]), [false, false, false, true]);
        assert_eq!((tracker.watermark_us(), tracker.horizon_us()), (Some(95), Some(75)));
    }
}
