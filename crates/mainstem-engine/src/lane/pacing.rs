//! How large the next version is: small when idle, large under load, never a part of an entry.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstem_catalog::RelationId;
use mainstem_sql::ClockUse;

use super::{Ends, Input};
use crate::input_log::{Cut, InputLog, LogError};
use crate::ticks::TickReader;

const ENTRIES_MAX: usize = 1 << 20;
const WEIGHT_MIN: u64 = 1 << 10;

/// Adapts the size of versions to the time that they take.
#[derive(Clone, Debug)]
pub(crate) struct Pacing {
    entries: usize,
    weight: u64,
    weight_max: u64,
}

impl Pacing {
    /// Versions of at most about this weight, in rows of ordinary width (a single entry may hold more).
    pub(crate) fn new(weight_max: usize) -> Pacing {
        Pacing { entries: ENTRIES_MAX, weight: weight_max as u64, weight_max: weight_max as u64 }
    }

    /// From now on at most this.
    pub(crate) fn limit(&mut self, weight_max: usize) {
        self.weight_max = weight_max as u64;
        // Without a limit before, or with another one, the size is the most that may be.
        self.weight = self.weight_max;
    }

    /// The cut of the next version after `after`, not beyond `limit`; none when there is nothing new. `weight_until` tells
    /// what lies before a cut.
    pub(crate) fn next_cut(
        &mut self,
        log: &dyn InputLog,
        after: Cut,
        limit: Option<Cut>,
        weight_until: &mut dyn FnMut(Cut) -> Result<u64, LogError>,
    ) -> Result<Option<Cut>, LogError> {
        if limit.is_some_and(|limit| after >= limit) {
            return Ok(None);
        }
        loop {
            let Some(cut) = log.next_cut(after, self.entries)? else { return Ok(None) };
            let cut = limit.map_or(cut, |limit| cut.min(limit));
            let weight = weight_until(cut)?;
            if weight > self.weight && self.entries > 1 {
                let fitting = (self.entries as u64).saturating_mul(self.weight) / weight;
                self.entries = (fitting as usize).clamp(1, self.entries - 1);
                continue;
            }
            if weight < self.weight / 2 {
                self.entries = (self.entries * 2).min(ENTRIES_MAX);
            }
            return Ok(Some(cut));
        }
    }

    /// The last version took so long for so much.
    pub(crate) fn took(&mut self, time: Duration, time_max: Duration, weight: u64) {
        if time > time_max {
            self.weight = (weight.min(self.weight) / 2).max(WEIGHT_MIN.min(self.weight_max));
        } else if time < time_max / 2 {
            self.weight = (self.weight * 2).min(self.weight_max);
        }
    }
}

/// What is read next.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) cut: Cut,
    pub(crate) ends: BTreeMap<RelationId, Ends>,
    /// Records up to there, idle events and ticks that are needed among them.
    pub(crate) rows: u64,
    pub(crate) weight: u64,
}

impl Next {
    /// What comes after `after` for these inputs, not beyond `limit`; none when there is nothing new. It ends before an entry
    /// in which a partition of a source with event time begins, or has that entry as its first; with the first entry that
    /// has an idle event; and, if the views need each tick, with the first one that has a tick.
    pub(crate) fn of(
        inputs: &mut BTreeMap<RelationId, Input>,
        (ticks, clock): (&TickReader, ClockUse),
        log: &dyn InputLog,
        pacing: &mut Pacing,
        (after, limit): (Cut, Option<Cut>),
    ) -> Result<Option<Next>, LogError> {
        let mut next = None;
        let cut = pacing.next_cut(log, after, limit, &mut |cut| {
            let measured = Next::measured(inputs, (ticks, clock), log, cut)?;
            Ok(next.insert(measured).weight)
        })?;
        let (Some(cut), Some(next)) = (cut, next) else { return Ok(None) };
        let mut fitting: Option<usize> = ticks.entries_until_tick(clock, log, (after, cut))?;
        for (id, input) in &*inputs {
            let begin = input.entries_until_begin(log, after, &next.ends[id])?;
            let idle = input.entries_until_idle(log, after, cut)?;
            fitting = [fitting, begin, idle].into_iter().flatten().min();
        }
        let Some(entries) = fitting else { return Ok(Some(next)) };
        match log.next_cut(after, entries)?.filter(|sooner| *sooner < cut) {
            None => Ok(Some(next)),
            Some(sooner) => Next::measured(inputs, (ticks, clock), log, sooner).map(Some),
        }
    }

    fn measured(
        inputs: &mut BTreeMap<RelationId, Input>,
        (ticks, clock): (&TickReader, ClockUse),
        log: &dyn InputLog,
        cut: Cut,
    ) -> Result<Next, LogError> {
        let rows = ticks.distance(clock, log, cut)?;
        let mut next = Next { cut, ends: BTreeMap::new(), rows, weight: 0 };
        for (id, input) in inputs {
            let ends = input.ends(log, cut)?;
            next.rows += input.distance(&ends) + input.idle_distance(log, cut)?;
            next.weight += input.weight(log, &ends);
            next.ends.insert(*id, ends);
        }
        Ok(next)
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
        fn bytes(&self, _topic: uuid::Uuid, _partition: i32, _from: i64, _until: i64) -> u64 {
            0
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
