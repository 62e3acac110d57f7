//! The event time of a source as of a cut, from the log alone: the oracle for what the engine's tracker keeps as it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use mainstem_catalog::{Relation, Watermark};
use uuid::Uuid;

use super::source::Positions;
use crate::error::EngineError;
use crate::input_log::{Cut, InputLog};
use crate::source_reader::SourceReader;

/// Bytes of records that are read and decoded at once.
const SLICE_BYTES: usize = 1 << 20;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct EventTime {
    pub(super) watermark: Watermark,
    /// By partition that has begun: the source's watermark just before its first entry.
    pub(super) floors_us: BTreeMap<i32, Option<i64>>,
    /// The smallest watermark of the partitions that have begun.
    pub(super) watermark_us: Option<i64>,
}

/// A partition on its way through its history.
struct Place {
    partition: i32,
    from: i64,
    until: i64,
    watermark_us: Option<i64>,
}

struct History<'a> {
    input: &'a Arc<dyn InputLog>,
    topic: Uuid,
    reader: SourceReader,
    watermark: Watermark,
    begun: Vec<Place>,
}

impl EventTime {
    /// As of the end of the positions.
    pub(super) fn of(
        relation: &Relation,
        watermark: Watermark,
        input: &Arc<dyn InputLog>,
        positions: &Positions,
    ) -> Result<EventTime, EngineError> {
        let topic = relation.topic().expect("a source has a topic");
        let reader = SourceReader::new(relation)?;
        let mut history = History { input, topic, reader, watermark: watermark.clone(), begun: Vec::new() };
        let mut to_begin: BTreeMap<usize, Vec<Place>> = BTreeMap::new();
        for (partition, from, until) in positions.iter().copied().filter(|(_, from, until)| from < until) {
            let entries = entries_until(&**input, topic, partition, from)?;
            let place = Place { partition, from, until, watermark_us: None };
            to_begin.entry(entries).or_default().push(place);
        }
        let mut floors_us = BTreeMap::new();
        for (entries, places) in to_begin {
            let before = if entries == 1 { Some(Cut::ZERO) } else { input.next_cut(Cut::ZERO, entries - 1)? };
            history.advance(before)?;
            let floor_us = history.watermark_us();
            for place in places {
                floors_us.insert(place.partition, floor_us);
                history.begun.push(Place { watermark_us: floor_us, ..place });
            }
        }
        history.advance(None)?;
        Ok(EventTime { watermark, floors_us, watermark_us: history.watermark_us() })
    }
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

    fn watermark_us(&self) -> Option<i64> {
        self.begun.iter().map(|place| place.watermark_us).min().flatten()
    }
}

/// How many entries from the beginning of the log on it takes to have a record of the partition at or behind `from`.
fn entries_until(input: &dyn InputLog, topic: Uuid, partition: i32, from: i64) -> Result<usize, EngineError> {
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
