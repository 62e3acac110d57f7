//! What the engine knows of time: ticks and idle events, as records of two internal topics.
//!
//! Words: a *tick* says what the clock showed when it was written; an *idle event* says that a partition of a source ended at
//! an offset and has had no records for the source's IDLE TIMEOUT. A ticker outside of the lane writes both; the lane, the
//! backfills and the oracle read them as they read any record, so that time is a function of the cut.
//!
//! Always true here: ticks never go back; an idle event whose partition has grown before it got its place in the log means
//! nothing.

use mainstem_catalog::{IDLE_TOPIC_ID, RelationId, TICKS_TOPIC_ID};
use mainstem_sql::ClockUse;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::input_log::{Cut, Hold, InputLog, LogError, LogRecord, OutRecord};

/// Both topics have one partition.
const PARTITION: i32 = 0;

/// The value of a tick's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// Microseconds since 1970-01-01 UTC.
    pub now_us: i64,
}

/// The value of an idle event's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleEvent {
    /// Whose IDLE TIMEOUT it was.
    pub source: RelationId,
    /// The partition of its topic.
    pub partition: i32,
    /// The partition's next offset all that time.
    pub offset: i64,
}

impl Tick {
    /// Of a record of the topic; none if it is no tick.
    #[must_use]
    pub fn of(record: &LogRecord) -> Option<Tick> {
        serde_json::from_slice(record.value.as_deref()?).ok()
    }

    /// As it is written.
    #[must_use]
    pub fn record(&self) -> OutRecord {
        record(self, self.now_us / 1000)
    }
}

impl IdleEvent {
    /// Of a record of the topic; none if it is no idle event.
    #[must_use]
    pub fn of(record: &LogRecord) -> Option<IdleEvent> {
        serde_json::from_slice(record.value.as_deref()?).ok()
    }

    /// As it is written.
    #[must_use]
    pub fn record(&self, now_ms: i64) -> OutRecord {
        record(self, now_ms)
    }
}

fn record(value: &impl Serialize, timestamp_ms: i64) -> OutRecord {
    let value = serde_json::to_vec(value).expect("plain data");
    OutRecord { key: None, value: Some(value.into()), headers: Vec::new(), timestamp_ms }
}

/// Where the idle events end as of the cut; 0 where there is no such topic.
pub(crate) fn idle_end(log: &dyn InputLog, at: Cut) -> Result<i64, LogError> {
    end_of(log, IDLE_TOPIC_ID, at)
}

/// Where the ticks end as of the cut; 0 where there is no such topic.
pub(crate) fn ticks_end(log: &dyn InputLog, at: Cut) -> Result<i64, LogError> {
    end_of(log, TICKS_TOPIC_ID, at)
}

fn end_of(log: &dyn InputLog, topic: Uuid, at: Cut) -> Result<i64, LogError> {
    if log.partitions(topic).is_empty() { Ok(0) } else { log.position(topic, PARTITION, at) }
}

/// How many entries after `after` it takes until `end` is beyond `next`; at least one. There must be some.
pub(crate) fn entries_until(
    log: &dyn InputLog,
    after: Cut,
    next: i64,
    end: &dyn Fn(Cut) -> Result<i64, LogError>,
) -> Result<usize, LogError> {
    let has_it = |entries: usize| match log.next_cut(after, entries)? {
        Some(at) => Ok(end(at)? > next),
        None => Ok(true),
    };
    let mut enough = 1;
    while !has_it(enough)? {
        enough *= 2;
    }
    let mut too_few = enough / 2;
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        if has_it(middle)? { enough = middle } else { too_few = middle }
    }
    Ok(enough)
}

/// The newest tick as of a cut that moves on.
#[derive(Debug, Default)]
pub(crate) struct TickReader {
    end: i64,
    now_us: Option<i64>,
    hold: Option<Box<dyn Hold>>,
}

impl TickReader {
    /// What the clock showed, by the newest tick that was read.
    pub(crate) fn now_us(&self) -> Option<i64> {
        self.now_us
    }

    /// Ticks between here and the cut, for who needs them.
    pub(crate) fn distance(&self, clock: ClockUse, log: &dyn InputLog, at: Cut) -> Result<u64, LogError> {
        if clock == ClockUse::None {
            return Ok(0);
        }
        Ok(u64::try_from(ticks_end(log, at)? - self.end).unwrap_or(0))
    }

    /// How many entries after `after` a step up to `at` may take, so that a tick stands in its last one only; none when all may
    /// be taken.
    pub(crate) fn entries_until_tick(
        &self,
        clock: ClockUse,
        log: &dyn InputLog,
        (after, at): (Cut, Cut),
    ) -> Result<Option<usize>, LogError> {
        if clock != ClockUse::Each || self.distance(clock, log, at)? == 0 {
            return Ok(None);
        }
        entries_until(log, after, self.end, &|at| ticks_end(log, at)).map(Some)
    }

    /// Moves to the cut. Ticks that retention has removed count as never written, but the newest is held.
    pub(crate) fn advance(&mut self, log: &dyn InputLog, at: Cut) -> Result<(), LogError> {
        let end = ticks_end(log, at)?;
        if end <= self.end {
            return Ok(());
        }
        match &self.hold {
            Some(hold) => hold.advance(end - 1),
            None => self.hold = Some(log.hold(TICKS_TOPIC_ID, PARTITION, end - 1)),
        }
        if let Some(tick) = tick_before(log, end)? {
            self.now_us = self.now_us.max(Some(tick.now_us));
        }
        self.end = end;
        Ok(())
    }
}

/// The newest tick below the offset; none if there is none any more.
pub(crate) fn tick_before(log: &dyn InputLog, end: i64) -> Result<Option<Tick>, LogError> {
    let mut from = (end - 1).max(log.start(TICKS_TOPIC_ID, PARTITION));
    while from < end {
        match log.read(TICKS_TOPIC_ID, PARTITION, from, end, 1 << 12) {
            Ok(read) => match read.records.iter().rev().find_map(Tick::of) {
                Some(tick) => return Ok(Some(tick)),
                None => from = read.next_offset.max(from + 1),
            },
            Err(error @ LogError::Failed(_)) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "a tick cannot be read; the time stands still until the next one");
                return Ok(None);
            }
        }
    }
    Ok(None)
}
