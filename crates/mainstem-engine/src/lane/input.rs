//! Reading one source or table from where it stands up to a cut: records to rows, late marks, rejected records.
//!
//! Words: the *ends* of a step are the positions that it reads up to; *late marking* adds the column
//! [`LATE_COLUMN`](crate::watermark::LATE_COLUMN) to the rows of a source with watermark.
//!
//! Always true here: an input gives every record from its origin on once, in offset order within a partition, whatever the
//! steps. The lane and the backfills read with the same code.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use mainstem_catalog::{IDLE_TOPIC_ID, Relation, RelationKind, Watermark};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::decoded::Decoded;
use crate::collection::Version;
use crate::delta::{Delta, batch_of, take_rows};
use crate::error::EngineError;
use crate::input_log::{Batches, Cut, Hold, InputLog, LogError, LogRecord, UnreadableBatch};
use crate::source_reader::{SourceReader, TableCodec};
use crate::ticks::{self, IdleEvent};
use crate::watermark::{LATE_COLUMN, WatermarkTracker};

/// Rows that are wider than this count as several, so that the size of a version is limited in bytes, too.
const BYTES_PER_ROW: u64 = 1 << 10;

/// What reading needs besides the input itself.
pub(crate) struct Reading<'a> {
    pub(crate) log: &'a dyn InputLog,
    pub(crate) slice_rows: usize,
    pub(crate) read_bytes_max: usize,
    /// Called when the log fails to read: waits a moment, answers whether to try again.
    pub(crate) again: &'a dyn Fn(&LogError) -> bool,
    /// Asked between slices: whether nobody wants the rest.
    pub(crate) is_over: &'a dyn Fn() -> bool,
}

/// A record that did not decode.
#[derive(Clone, Debug)]
pub(crate) struct RejectedRecord {
    pub(crate) partition: i32,
    pub(crate) record: LogRecord,
    pub(crate) reason: String,
}

/// Rows of one partition that were late, for the table that the source names.
#[derive(Clone, Debug)]
pub(crate) struct LateRows {
    pub(crate) partition: i32,
    /// All columns of the source.
    pub(crate) rows: RecordBatch,
    /// Of each row's record: its offset and its timestamp.
    pub(crate) records: Vec<(i64, i64)>,
    /// What each row's partition had reached before it.
    pub(crate) watermarks_us: Vec<i64>,
}

/// What a source's records gave that is no row for the operators, or not only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    pub(crate) rejected: Vec<RejectedRecord>,
    /// Only if the source names a table for them.
    pub(crate) late: Vec<LateRows>,
}

/// What a checkpoint keeps of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputState {
    pub(crate) partitions: BTreeMap<i32, PartitionState>,
    pub(crate) tracker: Option<WatermarkTracker>,
    pub(crate) records: u64,
    pub(crate) late: u64,
    pub(crate) rejected: u64,
    pub(crate) newest_timestamp_ms: i64,
    pub(crate) errors: Vec<String>,
    /// The next idle event to read, of a source with IDLE TIMEOUT.
    #[serde(default)]
    pub(crate) idle_next: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionState {
    /// The next offset to read.
    pub(crate) next: i64,
    /// Damage ahead: nothing more is read.
    pub(crate) is_stopped: bool,
}

#[derive(Debug)]
enum Codec {
    Source(Box<SourceReader>),
    Table(Box<TableCodec>),
}

/// One source or table being read.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) relation: Arc<Relation>,
    pub(crate) topic: Uuid,
    pub(crate) state: InputState,
    codec: Codec,
    /// Of the rows that go to the operators.
    schema: SchemaRef,
    event_time: Option<Watermark>,
    holds: BTreeMap<i32, Box<dyn Hold>>,
    bytes_read: u64,
}

/// Positions to read up to, by partition.
pub(crate) type Ends = BTreeMap<i32, i64>;

impl Input {
    /// Stands at the origin: the first offsets that exist.
    pub(crate) fn new(relation: &Arc<Relation>) -> Result<Input, EngineError> {
        Input::with_state(relation, None)
    }

    /// Stands where the state says.
    pub(crate) fn with_state(relation: &Arc<Relation>, state: Option<InputState>) -> Result<Input, EngineError> {
        let (codec, schema, watermark) = match &relation.kind {
            RelationKind::Source(source) => {
                let reader = SourceReader::new(relation)?;
                let schema = with_late_column(reader.schema(), source.watermark.is_some());
                (Codec::Source(Box::new(reader)), schema, source.watermark.as_ref())
            }
            RelationKind::Table(table) => {
                let codec = TableCodec::new(relation)?;
                let schema = codec.schema().clone();
                (Codec::Table(Box::new(codec)), schema, table.watermark.as_ref())
            }
            _ => return Err(EngineError::Graph(format!("\"{}\" has no topic", relation.name))),
        };
        let topic = relation.topic().expect("sources and tables have a topic");
        let fresh = || InputState { tracker: watermark.map(WatermarkTracker::new), ..InputState::default() };
        let state = state.unwrap_or_else(fresh);
        let event_time = watermark.cloned();
        Ok(Input {
            relation: relation.clone(),
            topic,
            state,
            codec,
            schema,
            event_time,
            holds: BTreeMap::new(),
            bytes_read: 0,
        })
    }

    pub(crate) fn table_codec(&self) -> Option<&TableCodec> {
        match &self.codec {
            Codec::Table(codec) => Some(codec),
            Codec::Source(_) => None,
        }
    }

    /// Whether it is a source with event time, and the watermark and the horizon that it has reached.
    pub(crate) fn event_time(&self) -> Option<(Option<i64>, Option<i64>)> {
        match self.codec {
            Codec::Source(_) => self.state.tracker.as_ref().map(|it| (it.watermark_us(), it.horizon_us())),
            Codec::Table(_) => None,
        }
    }

    /// Whether idle events concern it.
    fn can_be_idle(&self) -> bool {
        matches!(self.codec, Codec::Source(_))
            && self.event_time.as_ref().is_some_and(|it| it.idle_timeout_us.is_some())
    }

    /// Idle events between here and the cut.
    pub(crate) fn idle_distance(&self, log: &dyn InputLog, at: Cut) -> Result<u64, LogError> {
        if !self.can_be_idle() {
            return Ok(0);
        }
        Ok(u64::try_from(ticks::idle_end(log, at)? - self.state.idle_next).unwrap_or(0))
    }

    /// How many entries after `after` a step up to `at` may take, so that an idle event stands in its last one only; none when
    /// all may be taken.
    pub(crate) fn entries_until_idle(
        &self,
        log: &dyn InputLog,
        after: Cut,
        at: Cut,
    ) -> Result<Option<usize>, LogError> {
        if self.idle_distance(log, at)? == 0 {
            return Ok(None);
        }
        ticks::entries_until(log, after, self.state.idle_next, &|at| ticks::idle_end(log, at)).map(Some)
    }

    pub(crate) fn watermark_us(&self) -> Option<i64> {
        self.state.tracker.as_ref().and_then(WatermarkTracker::watermark_us)
    }

    /// Damage or a gap that keeps records from being read.
    pub(crate) fn first_error(&self) -> Option<Arc<str>> {
        let error = self.state.errors.first()?;
        Some(format!("\"{}\" cannot be read: {error}", self.relation.name).into())
    }

    /// Bytes of records read since the last call.
    pub(crate) fn take_bytes_read(&mut self) -> u64 {
        std::mem::take(&mut self.bytes_read)
    }

    /// The positions of a cut, for the partitions that exist now. A new partition begins at its first offset.
    pub(crate) fn ends(&mut self, log: &dyn InputLog, at: Cut) -> Result<Ends, LogError> {
        let partitions = log.partitions(self.topic);
        let of: Vec<_> = partitions.iter().map(|partition| (self.topic, *partition)).collect();
        let ends: Ends = partitions.into_iter().zip(log.positions(&of, at)?).collect();
        for partition in ends.keys() {
            if self.state.partitions.contains_key(partition) {
                continue;
            }
            // Held before its start is read, so that retention cannot come between.
            let hold = log.hold(self.topic, *partition, 0);
            let next = log.start(self.topic, *partition);
            hold.advance(next);
            self.holds.insert(*partition, hold);
            self.state.partitions.insert(*partition, PartitionState { next, is_stopped: false });
        }
        Ok(ends)
    }

    /// Records (offsets) between here and there.
    pub(crate) fn distance(&self, ends: &Ends) -> u64 {
        let one = |(partition, end): (&i32, &i64)| match self.state.partitions.get(partition) {
            Some(state) if !state.is_stopped => u64::try_from(end - state.next).unwrap_or(0),
            _ => 0,
        };
        ends.iter().map(one).sum()
    }

    /// What reading up to there weighs: its records, or its bytes in units of [`BYTES_PER_ROW`] where that is more.
    pub(crate) fn weight(&self, log: &dyn InputLog, ends: &Ends) -> u64 {
        let one = |(partition, end): (&i32, &i64)| match self.state.partitions.get(partition) {
            Some(state) if !state.is_stopped && state.next < *end => {
                let rows = u64::try_from(end - state.next).unwrap_or(0);
                rows.max(log.bytes(self.topic, *partition, state.next, *end) / BYTES_PER_ROW)
            }
            _ => 0,
        };
        ends.iter().map(one).sum()
    }

    /// How many entries after `after` a step up to `ends` may take, so that a partition of a source with event time begins at
    /// most with its first entry; none when all may be taken.
    pub(crate) fn entries_until_begin(
        &self,
        log: &dyn InputLog,
        after: Cut,
        ends: &Ends,
    ) -> Result<Option<usize>, LogError> {
        let beginning = self.beginning(ends);
        let Some(first) = (if beginning.is_empty() { None } else { log.next_cut(after, 1)? }) else { return Ok(None) };
        let of: Vec<_> = beginning.iter().map(|(partition, _)| (self.topic, *partition)).collect();
        let positions = log.positions(&of, first)?;
        let new = beginning.iter().zip(positions).filter(|((_, next), end)| end <= next);
        let new: Vec<(i32, i64)> = new.map(|(place, _)| *place).collect();
        if new.is_empty() {
            return Ok(None);
        }
        let of: Vec<_> = new.iter().map(|(partition, _)| (self.topic, *partition)).collect();
        let begins_within = |entries: usize| -> Result<bool, LogError> {
            let Some(at) = log.next_cut(after, entries)? else { return Ok(true) };
            Ok(log.positions(&of, at)?.iter().zip(&new).any(|(end, (_, next))| end > next))
        };
        let mut too_many = 2;
        while !begins_within(too_many)? {
            too_many *= 2;
        }
        let mut fitting = too_many / 2;
        while too_many - fitting > 1 {
            let middle = fitting.midpoint(too_many);
            if begins_within(middle)? { too_many = middle } else { fitting = middle }
        }
        Ok(Some(fitting))
    }

    /// Partitions of a source with event time that have not begun and have records before the ends; where each stands.
    fn beginning(&self, ends: &Ends) -> Vec<(i32, i64)> {
        let (Codec::Source(_), Some(tracker)) = (&self.codec, &self.state.tracker) else { return Vec::new() };
        let new = ends.iter().filter(|(partition, _)| !tracker.has_begun(**partition));
        let place = |(partition, end): (&i32, &i64)| {
            let state = self.state.partitions.get(partition)?;
            (!state.is_stopped && state.next < *end).then_some((*partition, state.next))
        };
        new.filter_map(place).collect()
    }

    /// The next step on the way to `target`, whose positions are `ends`: all of it, or as far as no partition of a source with
    /// event time begins within, and to the end of the first entry with an idle event.
    pub(crate) fn step(
        &self,
        log: &dyn InputLog,
        after: Cut,
        (target, ends): (Cut, Ends),
    ) -> Result<(Cut, Ends), LogError> {
        let (begin, idle) =
            (self.entries_until_begin(log, after, &ends)?, self.entries_until_idle(log, after, target)?);
        let Some(entries) = begin.into_iter().chain(idle).min() else { return Ok((target, ends)) };
        match log.next_cut(after, entries)?.filter(|sooner| *sooner < target) {
            None => Ok((target, ends)),
            Some(sooner) => {
                let of: Vec<_> = ends.keys().map(|partition| (self.topic, *partition)).collect();
                Ok((sooner, ends.into_keys().zip(log.positions(&of, sooner)?).collect()))
            }
        }
    }

    /// Stands where another reader of the source stands after the step that it has decoded, which begins here.
    pub(crate) fn take(&mut self, decoded: &Decoded) {
        let Decoded { before, after, .. } = decoded;
        self.state.partitions.clone_from(&after.partitions);
        self.state.tracker.clone_from(&after.tracker);
        self.state.idle_next = after.idle_next;
        self.state.records += after.records - before.records;
        self.state.late += after.late - before.late;
        self.state.rejected += after.rejected - before.rejected;
        self.state.newest_timestamp_ms = self.state.newest_timestamp_ms.max(after.newest_timestamp_ms);
        for error in after.errors.iter().filter(|error| !before.errors.contains(error)) {
            if !self.state.errors.contains(error) {
                self.state.errors.push(error.clone());
            }
        }
    }

    /// Keeps retention away from everything from here on. What was held before is let go.
    pub(crate) fn hold_from_here(&mut self, log: &dyn InputLog) {
        for (partition, state) in &self.state.partitions {
            match self.holds.get(partition) {
                Some(hold) => hold.advance(state.next),
                None => {
                    self.holds.insert(*partition, log.hold(self.topic, *partition, state.next));
                }
            }
        }
    }

    /// Keeps retention away from nothing any more.
    pub(crate) fn release(&mut self) {
        self.holds.clear();
    }

    /// Stands at the cut without having read what is before it.
    pub(crate) fn skip_to(&mut self, log: &dyn InputLog, at: Cut) -> Result<(), LogError> {
        for (partition, end) in self.ends(log, at)? {
            self.state.partitions.insert(partition, PartitionState { next: end, is_stopped: false });
        }
        Ok(())
    }

    /// Lets go of what is before these positions.
    pub(crate) fn release_before(&self, positions: &BTreeMap<i32, PartitionState>) {
        for (partition, state) in positions {
            if let Some(hold) = self.holds.get(partition) {
                hold.advance(state.next);
            }
        }
    }

    /// Reads a source up to the ends, which are those of the cut. `rows` gets the slices, late rows marked.
    pub(crate) fn read_source(
        &mut self,
        reading: &Reading<'_>,
        (cut, ends): (Cut, &Ends),
        rows: &mut dyn FnMut(&Delta),
    ) -> Result<Aside, EngineError> {
        let beginning: Vec<i32> = self.beginning(ends).into_iter().map(|(partition, _)| partition).collect();
        if let Some(tracker) = &mut self.state.tracker {
            tracker.begin(&beginning);
        }
        let mut aside = Aside::default();
        let unreadable = self.read_records(reading, ends, &mut |input, partition, records| {
            let Codec::Source(reader) = &mut input.codec else { unreachable!("a source") };
            let decoded = reader.decode(partition, records);
            input.reject(partition, records, decoded.rejected, &mut aside.rejected);
            let record_of = |row: usize| &records[decoded.accepted[row] as usize];
            let batch = input.mark_late(partition, decoded.rows, &record_of, &mut aside.late);
            if batch.num_rows() > 0 {
                rows(&Delta::from_inserts(batch));
            }
        })?;
        aside.rejected.extend(unreadable);
        self.take_idle_events(reading, (cut, ends))?;
        Ok(aside)
    }

    /// Takes in the idle events up to the cut. One means something only if its partition still ends where it says.
    pub(crate) fn take_idle_events(
        &mut self,
        reading: &Reading<'_>,
        (cut, ends): (Cut, &Ends),
    ) -> Result<(), EngineError> {
        while let Some(read) = self.read_idle_events(reading, cut) {
            match read {
                Ok(batches) => {
                    for event in batches.records.iter().filter_map(IdleEvent::of) {
                        let stands = ends.get(&event.partition) == Some(&event.offset);
                        if let Some(tracker) = &mut self.state.tracker
                            && event.source == self.relation.id
                            && stands
                        {
                            tracker.idle(event.partition);
                        }
                    }
                    self.state.idle_next = batches.next_offset.max(self.state.idle_next + 1);
                }
                Err(error @ LogError::Failed(_)) => {
                    if !(reading.again)(&error) {
                        return Err(EngineError::Stopped);
                    }
                }
                // Without it windows stay open longer.
                Err(error) => {
                    self.tell(&error);
                    self.state.idle_next += 1;
                }
            }
        }
        Ok(())
    }

    fn read_idle_events(&self, reading: &Reading<'_>, cut: Cut) -> Option<Result<Batches, LogError>> {
        if !self.can_be_idle() {
            return None;
        }
        let next = self.state.idle_next;
        match ticks::idle_end(reading.log, cut) {
            Ok(end) if end <= next => None,
            Ok(end) => Some(reading.log.read(IDLE_TOPIC_ID, 0, next, end, reading.read_bytes_max)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads a table up to the ends. Answers what changes its content, which is `current`, and what was rejected.
    pub(crate) fn read_table(
        &mut self,
        reading: &Reading<'_>,
        ends: &Ends,
        current: &Version,
    ) -> Result<(Delta, Vec<RejectedRecord>), EngineError> {
        let (mut rejected, mut last) = (Vec::new(), LastValues::default());
        let unreadable = self.read_records(reading, ends, &mut |input, partition, records| {
            let Codec::Table(codec) = &mut input.codec else { unreachable!("a table") };
            let decoded = codec.decode(current.layout(), records);
            input.reject(partition, records, decoded.rejected, &mut rejected);
            if let (Some(watermark), Some(tracker)) = (&input.event_time, &mut input.state.tracker) {
                tracker.observe(partition, decoded.rows.column(watermark.column), &mut |_, _| ());
            }
            last.add(decoded.rows, decoded.changes);
        })?;
        rejected.extend(unreadable);
        Ok((last.against(&self.schema, current), rejected))
    }

    fn reject(
        &mut self,
        partition: i32,
        records: &[LogRecord],
        reasons: Vec<(u32, String)>,
        rejected: &mut Vec<RejectedRecord>,
    ) {
        self.state.rejected += reasons.len() as u64;
        rejected.extend(reasons.into_iter().map(|(index, reason)| {
            let record = records[index as usize].clone();
            RejectedRecord { partition, record, reason }
        }));
    }

    fn mark_late<'r>(
        &mut self,
        partition: i32,
        rows: RecordBatch,
        record_of: &dyn Fn(usize) -> &'r LogRecord,
        kept: &mut Vec<LateRows>,
    ) -> RecordBatch {
        let (Some(watermark), Some(tracker)) = (&self.event_time, &mut self.state.tracker) else { return rows };
        let mut found: Vec<(u32, i64)> = Vec::new();
        let late = tracker.observe(partition, rows.column(watermark.column), &mut |row, watermark_us| {
            found.push((row as u32, watermark_us));
        });
        self.state.late += found.len() as u64;
        if watermark.late_into.is_some() && !found.is_empty() {
            let (places, watermarks_us): (Vec<u32>, _) = found.into_iter().unzip();
            let record = |row: &u32| (record_of(*row as usize).offset, record_of(*row as usize).timestamp_ms);
            let records = places.iter().map(record).collect();
            kept.push(LateRows { partition, rows: take_rows(&rows, &places), records, watermarks_us });
        }
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(late));
        batch_of(&self.schema, columns, rows.num_rows()).expect("the schema with the late column")
    }

    fn read_records(
        &mut self,
        reading: &Reading<'_>,
        ends: &Ends,
        take: &mut dyn FnMut(&mut Input, i32, &[LogRecord]),
    ) -> Result<Vec<RejectedRecord>, EngineError> {
        let mut unreadable = Vec::new();
        for (partition, end) in ends {
            while let Some(batches) = self.read_some(reading, *partition, *end)? {
                if (reading.is_over)() {
                    return Err(EngineError::Stopped);
                }
                for records in batches.records.chunks(reading.slice_rows) {
                    self.state.records += records.len() as u64;
                    let newest = records.iter().map(|record| record.timestamp_ms).max();
                    self.state.newest_timestamp_ms = self.state.newest_timestamp_ms.max(newest.unwrap_or(0));
                    self.bytes_read += records.iter().map(bytes_of).sum::<u64>();
                    take(self, *partition, records);
                }
                self.state.rejected += batches.unreadable.len() as u64;
                unreadable.extend(batches.unreadable.into_iter().map(|batch| rejected_batch(*partition, batch)));
                let state = self.state.partitions.entry(*partition).or_default();
                state.next = batches.next_offset.max(state.next + 1);
            }
        }
        Ok(unreadable)
    }

    /// The next records of a partition, none at the end. Damage ends the partition, a gap is skipped; both are told.
    fn read_some(&mut self, reading: &Reading<'_>, partition: i32, end: i64) -> Result<Option<Batches>, EngineError> {
        loop {
            let state = self.state.partitions.entry(partition).or_default();
            if state.is_stopped || state.next >= end {
                return Ok(None);
            }
            let read = reading.log.read(self.topic, partition, state.next, end, reading.read_bytes_max);
            match read {
                Ok(batches) => return Ok(Some(batches)),
                Err(LogError::Damaged { offset, .. }) if offset > state.next && offset < end => {
                    // What is before the damage is still read.
                    let before = self.read_some(reading, partition, offset)?;
                    if before.is_some() {
                        return Ok(before);
                    }
                    return Ok(None);
                }
                Err(error @ LogError::Damaged { .. }) => {
                    state.is_stopped = true;
                    self.tell(&error);
                }
                Err(error @ LogError::Trimmed { start, .. }) => {
                    state.next = start.max(state.next + 1);
                    self.tell(&error);
                }
                Err(error @ LogError::UnknownPartition { .. }) => {
                    state.is_stopped = true;
                    // A topic goes only after what reads it: a DROP was faster than this reader, which will hear of it.
                    tracing::info!(relation = %self.relation.name, partition, "dropped while it was read");
                    self.keep(&error);
                }
                Err(error @ LogError::Failed(_)) => {
                    if !(reading.again)(&error) {
                        return Err(EngineError::Stopped);
                    }
                }
            }
        }
    }

    fn tell(&mut self, error: &LogError) {
        tracing::error!(relation = %self.relation.name, %error, "records cannot be read; views on them miss them");
        self.keep(error);
    }

    /// For `mainstem.sources`.
    fn keep(&mut self, error: &LogError) {
        let text = error.to_string();
        if !self.state.errors.contains(&text) {
            self.state.errors.push(text);
        }
    }
}

fn rejected_batch(partition: i32, batch: UnreadableBatch) -> RejectedRecord {
    let UnreadableBatch { first, last, reason } = batch;
    let record = LogRecord { offset: first, timestamp_ms: 0, key: None, value: None };
    RejectedRecord {
        partition,
        record,
        reason: format!("the batch of offsets {first}..={last} cannot be read: {reason}"),
    }
}

fn bytes_of(record: &LogRecord) -> u64 {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len) as u64;
    length(&record.key) + length(&record.value)
}

fn with_late_column(schema: &SchemaRef, has_watermark: bool) -> SchemaRef {
    if !has_watermark {
        return schema.clone();
    }
    let late = Arc::new(Field::new(LATE_COLUMN, DataType::Boolean, false));
    let fields = schema.fields().iter().cloned().chain([late]);
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// The last thing that a step's records say about each key.
#[derive(Default)]
struct LastValues {
    batches: Vec<RecordBatch>,
    rows: u32,
    /// The row, counted over all batches; none for a delete.
    by_key: HashMap<Box<[u8]>, Option<u32>, ahash::RandomState>,
}

impl LastValues {
    fn add(&mut self, rows: RecordBatch, changes: Vec<(Box<[u8]>, Option<u32>)>) {
        let before = self.rows;
        self.rows =
            u32::try_from(rows.num_rows()).ok().and_then(|rows| before.checked_add(rows)).expect("rows of one step");
        self.batches.push(rows);
        self.by_key.extend(changes.into_iter().map(|(key, row)| (key, row.map(|row| before + row))));
    }

    /// Old rows out, new rows in; what stays as it is cancels.
    fn against(self, schema: &SchemaRef, current: &Version) -> Delta {
        if self.by_key.is_empty() {
            return Delta::empty(schema);
        }
        let (old, _) = current.get_many(self.by_key.keys().map(|key| key.as_ref()));
        let all = concat_batches(schema, &self.batches).expect("rows of one table");
        let kept: Vec<u32> = self.by_key.into_values().flatten().collect();
        let new = take_rows(&all, &kept);
        let weights = vec![-1; old.num_rows()];
        Delta::consolidate(schema, &[Delta::new(old, weights), Delta::from_inserts(new)])
    }
}
