//! One sink's thread: the difference of two contents to records, records to commits.
//!
//! Words: a *part* is a commit that holds some of the records of a way, when all of them are more than one commit should be;
//! the last commit of a way moves the output's cut.
//!
//! Always true here: the records of a way depend on its two contents alone, in their order too, so that a way that a crash has
//! cut off is gone on with where it ended; all records of a key go to one partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use mainstem_catalog::{Relation, Sink, SinkFormat};
use mainstem_sql::arrow_schema;

use super::partition::partition_of;
use super::records::{Change, Encoder, Place};
use super::slot::{Slot, Work};
use crate::collection::Version;
use crate::delta::{Delta, RowKeys};
use crate::error::EngineError;
use crate::input_log::{Ahead, CommitError, Cut, OutRecord, OutputCommit, OutputStep, TopicAppend};
use crate::lane::{Command, Shared};

/// Rows decoded at once.
const BATCH_ROWS: usize = 4 << 10;
/// What a record weighs besides its bytes.
const RECORD_BYTES: usize = 64;

/// See the module's text.
pub(super) struct Writer {
    sink: Arc<Sink>,
    relation: Arc<Relation>,
    encoder: Encoder,
    /// Key columns, where changes are grouped by key.
    key: Option<(Vec<usize>, RowKeys)>,
    output: String,
    slot: Arc<Slot>,
    shared: Arc<Shared>,
}

/// Why a way was not gone to its end.
enum Stop {
    /// The sink was dropped, or the engine ends.
    Ended,
    /// For good.
    Failed(String),
}

/// A row that has changed, with its weight.
type Changed = (RecordBatch, usize, i64);

impl Writer {
    pub(super) fn new(
        sink: Arc<Sink>,
        relation: Arc<Relation>,
        slot: Arc<Slot>,
        shared: Arc<Shared>,
    ) -> Result<Writer, EngineError> {
        let encoder = Encoder::new(&sink, &relation)?;
        let key = match (&sink.key, sink.format) {
            (Some(columns), SinkFormat::Upsert | SinkFormat::Debezium) => {
                let schema = arrow_schema(&relation.columns);
                let types: Vec<DataType> =
                    columns.iter().map(|column| schema.field(*column).data_type().clone()).collect();
                let keys = RowKeys::of_types(&types).map_err(|error| EngineError::Graph(error.to_string()))?;
                Some((columns.clone(), keys))
            }
            _ => None,
        };
        let output = super::output_name(sink.id);
        Ok(Writer { sink, relation, encoder, key, output, slot, shared })
    }

    /// Until the sink ends or fails.
    pub(super) fn run(self) {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.write_on())).is_err() {
            if self.shared.state.is_damaged() {
                // The coordinator begins everything anew.
                return self.shared.send(Command::Damaged);
            }
            self.slot.fail("an invariant of the engine is broken; the server's messages say which".to_owned());
            self.shared.jobs_changed();
        }
    }

    fn write_on(&self) {
        while let Some(work) = self.slot.next_work() {
            let has_begun = work.committed != Cut::ZERO;
            match self.write(work) {
                Ok(()) if has_begun => {}
                Ok(()) => self.shared.jobs_changed(),
                Err(Stop::Ended) => return,
                Err(Stop::Failed(reason)) => {
                    tracing::error!(sink = %self.sink.name, %reason, "the sink has stopped");
                    self.slot.fail(reason);
                    self.shared.jobs_changed();
                    return;
                }
            }
        }
    }

    fn write(&self, work: Work) -> Result<(), Stop> {
        let has_begun = work.committed != Cut::ZERO;
        let partitions = self.shared.input.partitions(self.sink.topic).len();
        let Some(partitions) = i32::try_from(partitions).ok().filter(|count| *count > 0) else {
            return Err(Stop::Failed(format!("topic \"{}\" does not exist", self.sink.topic_name)));
        };
        let mut way =
            Way { writer: self, work: &work, partitions, appends: BTreeMap::new(), bytes: 0, next: 0, left_out: 0 };
        if has_begun || self.sink.snapshot {
            way.go()?;
        }
        let left_out = way.left_out;
        let appends = std::mem::take(&mut way.appends);
        let records = appends.values().map(Vec::len).sum::<usize>() as u64;
        let mut committed = work.committed;
        if records > 0 || work.written > 0 || !has_begun {
            let step = OutputStep { output: self.output.clone(), expected: committed, new: work.to.cut, ahead: None };
            self.commit(step, appends)?;
            committed = work.to.cut;
        }
        self.slot.wrote(work, committed, (records, left_out));
        Ok(())
    }

    /// Returns when it is durable.
    fn commit(&self, step: OutputStep, appends: BTreeMap<i32, Vec<OutRecord>>) -> Result<(), Stop> {
        let topic = self.sink.topic;
        let append = |(partition, records)| TopicAppend { topic, partition, records, expected_end: None };
        let appends: Vec<TopicAppend> = appends.into_iter().map(append).collect();
        let commit = OutputCommit { output: Some(step), appends, unchanged: Vec::new() };
        loop {
            if self.slot.has_ended() || self.shared.is_abandoned() {
                return Err(Stop::Ended);
            }
            let error = match self.shared.output.commit_and_wait(commit.clone()) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match error {
                CommitError::Fenced { .. } | CommitError::TooLarge(_) => return Err(Stop::Failed(error.to_string())),
                CommitError::Conflict(_) | CommitError::DiskFull(_) | CommitError::Failed(_) => {
                    tracing::warn!(sink = %self.sink.name, %error, "the sink waits for the log");
                    self.slot.is_troubled(&error.to_string());
                    if self.shared.gives_up() {
                        return Err(Stop::Ended);
                    }
                    self.shared.pause();
                }
            }
        }
    }

    fn in_order<'v>(&self, version: &'v Version) -> Result<&'v Version, Stop> {
        let Some((columns, _)) = &self.key else { return Ok(version) };
        let missing = || Stop::Failed("the rows are not kept in the order of the sink's key".to_owned());
        version.ordered_by(columns).ok_or_else(missing)
    }

    /// A key of which there is more than one row.
    fn not_unique(&self, group: &[Changed], (columns, _): &(Vec<usize>, RowKeys)) -> Stop {
        let names: Vec<&str> = columns.iter().map(|column| self.relation.columns[*column].name.as_str()).collect();
        let values = group.first().map_or_else(String::new, |(batch, row, _)| {
            let text = |column: &usize| {
                arrow::util::display::array_value_to_string(batch.column(*column), *row).unwrap_or_default()
            };
            columns.iter().map(text).collect::<Vec<_>>().join(", ")
        });
        let names = names.join(", ");
        Stop::Failed(format!(
            "\"{}\" has more than one row with the key ({names}) = ({values}), so that a record per key cannot hold them; \
             drop the sink and create it with a primary_key that is unique",
            self.relation.name
        ))
    }
}

/// From one content to another.
struct Way<'a> {
    writer: &'a Writer,
    work: &'a Work,
    partitions: i32,
    appends: BTreeMap<i32, Vec<OutRecord>>,
    bytes: usize,
    /// The ordinal of the next record.
    next: u64,
    left_out: u64,
}

impl Way<'_> {
    fn go(&mut self) -> Result<(), Stop> {
        let (writer, work) = (self.writer, self.work);
        let now = writer.in_order(&work.to.version)?;
        let deltas = match &work.base {
            Some(base) => now.since(writer.in_order(base)?, BATCH_ROWS),
            None => now.deltas(BATCH_ROWS),
        };
        match &writer.key {
            None => deltas.into_iter().try_for_each(|delta| self.rows(&delta)),
            Some(key) => {
                let (mut group, mut bytes): (Vec<Changed>, Vec<u8>) = (Vec::new(), Vec::new());
                for delta in deltas {
                    let columns: Vec<_> = key.0.iter().map(|column| delta.rows.column(*column).clone()).collect();
                    let keys = key.1.encode(&columns, delta.len());
                    for row in 0..delta.len() {
                        if keys.get(row) != bytes.as_slice() {
                            self.group(&std::mem::take(&mut group), &bytes, now, key)?;
                            bytes = keys.get(row).to_vec();
                        }
                        group.push((delta.rows.clone(), row, delta.weights[row]));
                    }
                }
                self.group(&group, &bytes, now, key)
            }
        }
    }

    /// Each new row once.
    fn rows(&mut self, delta: &Delta) -> Result<(), Stop> {
        for (row, weight) in delta.weights.iter().enumerate() {
            if *weight < 0 {
                if !self.writer.sink.force_append_only {
                    return Err(Stop::Failed(format!(
                        "\"{}\" has taken back a row, which FORMAT PLAIN cannot say",
                        self.writer.relation.name
                    )));
                }
                self.left_out += weight.unsigned_abs();
            }
            for _ in 0..*weight {
                self.add(Change { before: None, after: Some((&delta.rows, row)) })?;
            }
        }
        Ok(())
    }

    /// All that changed of one key.
    fn group(
        &mut self,
        group: &[Changed],
        bytes: &[u8],
        now: &Version,
        key: &(Vec<usize>, RowKeys),
    ) -> Result<(), Stop> {
        if group.is_empty() {
            return Ok(());
        }
        let count = |sign: i64| group.iter().map(|(_, _, weight)| (weight * sign).max(0)).sum::<i64>();
        let of = |sign: i64| group.iter().find(|(_, _, weight)| weight * sign > 0).map(|(batch, row, _)| (batch, *row));
        let (before, after) = (of(-1), of(1));
        if count(1) > 1 || count(-1) > 1 {
            return Err(self.writer.not_unique(group, key));
        }
        if !self.writer.sink.is_key_unique {
            let there = now.with_prefix(bytes, Some(&[]), 2).next().map_or(0, |rows| rows.num_rows());
            if there > usize::from(after.is_some()) {
                return Err(self.writer.not_unique(group, key));
            }
        }
        self.add(Change { before, after })
    }

    fn add(&mut self, change: Change<'_>) -> Result<(), Stop> {
        let place = Place {
            cut: self.work.to.cut,
            ordinal: self.next,
            timestamp_ms: self.work.to.newest_ms,
            is_snapshot: self.work.committed == Cut::ZERO,
        };
        for record in self.writer.encoder.records(change, place) {
            let ordinal = self.next;
            self.next += 1;
            if ordinal < self.work.written {
                continue;
            }
            let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
            let bytes = length(&record.key) + length(&record.value) + RECORD_BYTES;
            if self.bytes > 0 && self.bytes + bytes > self.writer.shared.config.output_commit_bytes {
                self.commit_part(ordinal)?;
            }
            self.bytes += bytes;
            let partition = match &record.key {
                Some(key) => partition_of(key, self.partitions),
                None => {
                    i32::try_from(ordinal % u64::from(self.partitions.unsigned_abs())).expect("a partition's number")
                }
            };
            self.appends.entry(partition).or_default().push(record);
        }
        Ok(())
    }

    /// All records before this one are appended.
    fn commit_part(&mut self, until: u64) -> Result<(), Stop> {
        let appends = std::mem::take(&mut self.appends);
        self.bytes = 0;
        let records = appends.values().map(Vec::len).sum::<usize>() as u64;
        let ahead = Ahead { to: self.work.to.cut, records: until };
        let committed = self.work.committed;
        let output = self.writer.output.clone();
        self.writer.commit(OutputStep { output, expected: committed, new: committed, ahead: Some(ahead) }, appends)?;
        self.writer.slot.wrote_part(ahead, records);
        Ok(())
    }
}
