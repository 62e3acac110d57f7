//! Writing: commits as entries, and where outputs stand.

use std::collections::HashMap;

use bytes::Bytes;
use mainstem_engine::Cut;
use mainstem_engine::input_log::{
    AcceptedCommit, Ahead, CommitDone, CommitError, LogError, OutRecord, OutputCommit, OutputLog, OutputStep,
    TopicAppend,
};
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::records::RecordBatchBuilder;
use mainstem_log::{AppendError, Atomicity, Condition, Entry, Log, Part, TopicId, TopicPartition, Urgency};

use super::input::read_records;
use super::{EmbeddedLog, OUTPUT_CUTS, Standing, text_of};

/// A batch is closed when it is this large: consumers fetch whole batches.
const BATCH_BYTES: usize = 256 << 10;
const READ_BYTES: usize = 1 << 20;

impl OutputLog for EmbeddedLog {
    fn commit(&self, commit: OutputCommit, done: CommitDone) -> Result<AcceptedCommit, CommitError> {
        let urgency = if commit.output.is_some() { Urgency::Reserve } else { Urgency::Ordinary };
        let entry = entry_of(&commit);
        let done = Box::new(move |result: Result<mainstem_log::Csn, mainstem_log::Stopped>| {
            done(result.map(|csn| Cut(csn.0)).map_err(|stopped| CommitError::Failed(stopped.to_string())));
        });
        // Held until the entry has its place, so that of two commits of one output one is fenced.
        let mut committed = commit.output.is_some().then(|| self.committed.lock());
        if let (Some(step), Some(committed)) = (&commit.output, &committed) {
            let stands = committed.get(&step.output).copied().unwrap_or_default();
            if stands.cut != step.expected {
                return Err(CommitError::Fenced { committed: stands.cut });
            }
            // A part that is there already.
            if let (Some(here), Some(new)) = (stands.ahead, step.ahead)
                && (new.to != here.to || new.records <= here.records)
            {
                return Err(CommitError::Fenced { committed: stands.cut });
            }
        }
        let accepted = self.log.append(entry, urgency, done).map_err(commit_error)?;
        if let (Some(step), Some(committed)) = (commit.output, &mut committed) {
            committed.insert(step.output, Standing { cut: step.new, ahead: step.ahead });
        }
        let mut base_offsets = Vec::with_capacity(commit.appends.len());
        for part in accepted.parts.iter().take(commit.appends.len()) {
            let placed = part.as_ref().map_err(|error| CommitError::Failed(error.to_string()))?;
            base_offsets.push(placed.base_offset);
        }
        Ok(AcceptedCommit { cut: Cut(accepted.csn.0), base_offsets })
    }

    fn committed(&self, output: &str) -> Result<Cut, CommitError> {
        Ok(self.committed.lock().get(output).copied().unwrap_or_default().cut)
    }

    fn ahead(&self, output: &str) -> Result<Option<Ahead>, CommitError> {
        Ok(self.committed.lock().get(output).and_then(|standing| standing.ahead))
    }
}

fn entry_of(commit: &OutputCommit) -> Entry {
    let to = |append: &TopicAppend| TopicPartition::new(TopicId(append.topic), append.partition);
    let mut parts: Vec<Part> =
        commit.appends.iter().map(|append| Part { to: to(append), batches: batches_of(&append.records) }).collect();
    let conditions = commit.appends.iter().filter_map(|append| {
        let is = append.expected_end?;
        Some(Condition::EndOffset { of: to(append), is })
    });
    let unchanged = commit
        .unchanged
        .iter()
        .map(|end| Condition::EndOffset { of: TopicPartition::new(TopicId(end.topic), end.partition), is: end.end });
    let conditions = conditions.chain(unchanged).collect();
    parts.extend(commit.output.as_ref().map(|step| Part { to: OUTPUT_CUTS, batches: batches_of(&[cut_record(step)]) }));
    Entry { parts, conditions, atomicity: Atomicity::Whole }
}

fn cut_record(step: &OutputStep) -> OutRecord {
    let value = match step.ahead {
        None => format!("{{\"cut\":{}}}", step.new),
        Some(Ahead { to, records }) => format!("{{\"cut\":{},\"to\":{to},\"records\":{records}}}", step.new),
    };
    OutRecord { key: Some(step.output.clone().into()), value: Some(value.into()), ..OutRecord::default() }
}

fn batches_of(records: &[OutRecord]) -> Bytes {
    let mut bytes: Vec<u8> = Vec::new();
    let mut batch = RecordBatchBuilder::new(Compression::None);
    for record in records {
        let headers: Vec<(&str, Option<&[u8]>)> =
            record.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_ref()))).collect();
        if !batch.is_empty() && batch.estimated_bytes() >= BATCH_BYTES {
            bytes.extend_from_slice(&std::mem::take(&mut batch).build());
        }
        batch.append(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    if bytes.is_empty() && !batch.is_empty() {
        return batch.build();
    }
    if !batch.is_empty() {
        bytes.extend_from_slice(&batch.build());
    }
    bytes.into()
}

fn commit_error(error: AppendError) -> CommitError {
    match error {
        AppendError::Conflict(reason) => CommitError::Conflict(reason),
        AppendError::TooLarge { .. } => CommitError::TooLarge(error.to_string()),
        AppendError::DiskFull => CommitError::DiskFull(error.to_string()),
        other => CommitError::Failed(other.to_string()),
    }
}

/// Where each output stands: the last record of its name.
pub(super) fn read_committed(log: &Log) -> Result<HashMap<String, Standing>, LogError> {
    let mut committed = HashMap::new();
    let Some(state) = log.partition(OUTPUT_CUTS) else { return Ok(committed) };
    let mut next = state.start_offset;
    while next < state.high_watermark {
        let batches = read_records(log, OUTPUT_CUTS, next, state.high_watermark, READ_BYTES)?;
        for record in &batches.records {
            let standing = record.value.as_ref().and_then(text_of).and_then(standing_of);
            match (record.key.as_ref().and_then(text_of), standing) {
                (Some(output), Some(standing)) => {
                    committed.insert(output.to_owned(), standing);
                }
                _ => return Err(LogError::Failed(format!("output cut at offset {} is not understood", record.offset))),
            }
        }
        next = batches.next_offset.max(next + 1);
    }
    Ok(committed)
}

/// What [`cut_record`] wrote.
fn standing_of(text: &str) -> Option<Standing> {
    let number = |part: &str, name: &str| -> Option<u64> { part.strip_prefix(name)?.parse().ok() };
    let parts: Vec<&str> = text.strip_prefix('{')?.strip_suffix('}')?.split(',').collect();
    let cut = |part: &str| number(part, "\"cut\":").map(Cut);
    match parts.as_slice() {
        [at] => Some(Standing { cut: cut(at)?, ahead: None }),
        [at, to, records] => {
            let (to, records) = (Cut(number(to, "\"to\":")?), number(records, "\"records\":")?);
            Some(Standing { cut: cut(at)?, ahead: Some(Ahead { to, records }) })
        }
        _ => None,
    }
}
