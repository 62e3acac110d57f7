//! The event time of a source as of a cut, from the log alone: the oracle for what the engine's tracker keeps as it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use mainstem_catalog::{IDLE_TOPIC_ID, Relation, Watermark};
use uuid::Uuid;

use super::source::Positions;
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog, LogRecord};
use crate::source_reader::SourceReader;
use crate::ticks::IdleEvent;

/// Bytes of records that are read and decoded at once.
const SLICE_BYTES: usize = 1 << 20;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct EventTime {
    pub(super) watermark: Watermark,
    /// By partition: from which offset on it began, at first and each time after it was idle, and the source's watermark just
    /// before the entry with it.
    pub(super) floors_us: BTreeMap<i32, Vec<(i64, Option<i64>)>>,
    /// The smallest watermark of the partitions that have begun and are not idle, or the largest if all are.
    pub(super) watermark_us: Option<i64>,
}

/// A partition on its way through its history.
struct Place {
    partition: i32,
    from: i64,
    until: i64,
    watermark_us: Option<i64>,
    is_idle: bool,
}

/// What happens to a partition in the course of the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// With its record at this offset it begins, if it has not or is idle; before the entry's records are read.
    Begins { partition: i32, offset: i64 },
    /// It is idle, if it still ends at this offset; after the entry's records are read.
    Idles { partition: i32, offset: i64 },
}

struct History<'a> {
    input: &'a Arc<dyn InputLog>,
    topic: Uuid,
    reader: SourceReader,
    watermark: Watermark,
    begun: Vec<Place>,
}

impl EventTime {
    /// As of the cut, whose positions these are.
    pub(super) fn of(
        relation: &Relation,
        watermark: Watermark,
        input: &Arc<dyn InputLog>,
        (at, positions): (Cut, &Positions),
    ) -> Result<EventTime, EngineError> {
        let topic = relation.topic().expect("a source has a topic");
        let reader = SourceReader::new(relation)?;
        let mut history = History { input, topic, reader, watermark: watermark.clone(), begun: Vec::new() };
        let ends: BTreeMap<i32, (i64, i64)> = positions.iter().map(|(p, from, until)| (*p, (*from, *until))).collect();
        let mut moments: BTreeMap<usize, Vec<Moment>> = BTreeMap::new();
        let mut begins = |partition: i32, offset: i64| -> Result<(), EngineError> {
            if ends.get(&partition).is_some_and(|(from, until)| *from <= offset && offset < *until) {
                let entries = entries_until(&**input, topic, partition, offset)?;
                moments.entry(entries).or_default().push(Moment::Begins { partition, offset });
            }
            Ok(())
        };
        for (partition, (from, _)) in &ends {
            begins(*partition, *from)?;
        }
        let events = idle_events(&**input, relation, at)?;
        for (_, event) in &events {
            begins(event.partition, event.offset)?;
        }
        for (place, IdleEvent { partition, offset, .. }) in events {
            let entries = entries_until(&**input, IDLE_TOPIC_ID, 0, place)?;
            moments.entry(entries).or_default().push(Moment::Idles { partition, offset });
        }
        let mut floors_us: BTreeMap<i32, Vec<(i64, Option<i64>)>> = BTreeMap::new();
        for (entries, mut of_entry) in moments {
            of_entry.sort_unstable();
            of_entry.dedup();
            let before = if entries == 1 { Some(Cut::ZERO) } else { input.next_cut(Cut::ZERO, entries - 1)? };
            history.advance(before)?;
            let floor_us = history.watermark_us();
            for moment in of_entry {
                match moment {
                    Moment::Begins { partition, offset } => {
                        if history.begins(partition, (offset, ends[&partition].1), floor_us) {
                            floors_us.entry(partition).or_default().push((offset, floor_us));
                        }
                    }
                    Moment::Idles { partition, offset } => {
                        let at = input.next_cut(Cut::ZERO, entries)?.expect("the entry of the event");
                        history.advance(Some(at))?;
                        let stands = input.position(topic, partition, at)? == offset;
                        for place in history.begun.iter_mut().filter(|place| place.partition == partition) {
                            place.is_idle |= stands;
                        }
                    }
                }
            }
        }
        history.advance(None)?;
        Ok(EventTime { watermark, floors_us, watermark_us: history.watermark_us() })
    }

    /// What the record at this offset is measured by, besides the rows before it.
    pub(super) fn floor_us(&self, partition: i32, offset: i64) -> Option<i64> {
        let begun = self.floors_us.get(&partition)?.iter().take_while(|(from, _)| *from <= offset);
        begun.map(|(_, floor_us)| *floor_us).max().flatten()
    }
}

/// The idle events of a source up to the cut, each with its place in its topic.
fn idle_events(input: &dyn InputLog, source: &Relation, at: Cut) -> Result<Vec<(i64, IdleEvent)>, EngineError> {
    let has_timeout = source.watermark().is_some_and(|watermark| watermark.idle_timeout_us.is_some());
    if !has_timeout || input.partitions(IDLE_TOPIC_ID).is_empty() {
        return Ok(Vec::new());
    }
    let (mut from, until) = (input.start(IDLE_TOPIC_ID, 0), input.position(IDLE_TOPIC_ID, 0, at)?);
    let mut events = Vec::new();
    while from < until {
        let read = input.read(IDLE_TOPIC_ID, 0, from, until, SLICE_BYTES)?;
        from = read.next_offset;
        let of_source = |event: &IdleEvent| event.source == source.id;
        let event = |record: &LogRecord| Some((record.offset, IdleEvent::of(record).filter(of_source)?));
        events.extend(read.records.iter().filter_map(event));
    }
    Ok(events)
}

impl History<'_> {
    /// Reads on up to the cut, or to the end.
    fn advance(&mut self, to: Option<Cut>) -> Result<(), EngineError> {
        for place in &mut self.begun {
            let until = match to {
                Some(cut) => self.input.position(self.topic, place.partition, cut)?.min(place.until),
                None => place.until,
            };
            while place.from < until {
                let read = self.input.read(self.topic, place.partition, place.from, until, SLICE_BYTES)?;
                place.from = read.next_offset;
                let rows = self.reader.decode(place.partition, &read.records).rows;
                let times = rows.column(self.watermark.column).as_primitive::<TimestampMicrosecondType>();
                let newest = times.iter().flatten().max();
                let newest = newest.map(|newest| newest.saturating_sub(self.watermark.delay_us));
                place.watermark_us = place.watermark_us.max(newest);
            }
        }
        Ok(())
    }

    /// The partition begins now, unless it has and is not idle.
    fn begins(&mut self, partition: i32, (from, until): (i64, i64), floor_us: Option<i64>) -> bool {
        match self.begun.iter_mut().find(|place| place.partition == partition) {
            Some(place) if place.is_idle => {
                place.watermark_us = place.watermark_us.max(floor_us);
                place.is_idle = false;
                true
            }
            Some(_) => false,
            None => {
                self.begun.push(Place { partition, from, until, watermark_us: floor_us, is_idle: false });
                true
            }
        }
    }

    fn watermark_us(&self) -> Option<i64> {
        let of =
            |idle: bool| self.begun.iter().filter(move |place| place.is_idle == idle).map(|place| place.watermark_us);
        of(false).min().unwrap_or_else(|| of(true).max().flatten())
    }
}

/// How many entries from the beginning of the log on it takes to have a record of the partition at or behind `from`.
pub(super) fn entries_until(
    input: &dyn InputLog,
    topic: Uuid,
    partition: i32,
    from: i64,
) -> Result<usize, EngineError> {
    let has_it = |entries: usize| -> Result<bool, EngineError> {
        let Some(cut) = input.next_cut(Cut::ZERO, entries)? else { return Ok(true) };
        Ok(input.position(topic, partition, cut)? > from)
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
