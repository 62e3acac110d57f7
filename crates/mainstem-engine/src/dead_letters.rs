//! Records that did not decode, appended once each to the dead-letter topic; late rows, once each to their source's table.
//!
//! Each source and table is an output of its own, `dead-letters:<relation id>`, whose committed cut moves in the same
//! commit that appends the records rejected up to that cut; so is each source with LATE INTO, `late-rows:<relation id>`.
//! Whoever reads a source (the lane, a backfill, a replay) *offers* what it has, in any steps; what lies below the positions
//! of the committed cut was appended before and is dropped.
//!
//! A dead letter is a JSON object: `source, topic, partition, offset, timestamp_ms, reason, key, value`; key and value are
//! text, or base64 with `key_encoding`/`value_encoding` = `base64`; a value cut for size has `value_bytes` with its length.
//!
//! Always true here: every reader offers from the origin, or from a checkpoint that was taken after all offers up to it were
//! durable, so that nothing is skipped. (More than 8 MiB of letters in one step go in several commits; only a crash between
//! these can repeat some.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use mainstem_catalog::{Catalog, Relation, RelationId};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::error::EngineError;
use crate::input_log::{
    CommitError, Cut, InputLog, LogRecord, OutRecord, OutputCommit, OutputLog, OutputStep, TopicAppend,
};
use crate::lane::{Ends, LateRows, RejectedRecord};
use crate::late_rows::{Placed, records_of};

const COMMIT_BYTES_MAX: usize = 8 << 20;
const VALUE_BYTES_MAX: usize = 1 << 20;

/// The output that keeps the dead letters of a relation.
#[must_use]
pub fn output_name(relation: RelationId) -> String {
    format!("dead-letters:{}", relation.0)
}

/// The output that keeps the late rows of a source.
#[must_use]
pub fn late_output_name(source: RelationId) -> String {
    format!("late-rows:{}", source.0)
}

/// An output by what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Letters(RelationId),
    LateRows(RelationId),
}

impl Of {
    fn name(self) -> String {
        match self {
            Of::Letters(id) => output_name(id),
            Of::LateRows(id) => late_output_name(id),
        }
    }
}

/// See the module's text. Shared by the lane and the backfills.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    input: Arc<dyn InputLog>,
    output: Arc<dyn OutputLog>,
    outputs: Mutex<BTreeMap<Of, Recorded>>,
    taken: AtomicU64,
}

/// One output.
#[derive(Debug, Default)]
struct Recorded {
    committed: Cut,
    /// What is below these positions was appended, or is in `unwritten`.
    positions: Ends,
    /// Where late rows go.
    table: Option<Uuid>,
    /// What the log did not take yet, and the cut it stands for.
    unwritten: Vec<OutRecord>,
    unwritten_cut: Cut,
    in_flight: Vec<Receiver<Result<Cut, CommitError>>>,
    /// The log could not make some durable: no checkpoint may pass them, a restart offers them again.
    lost: Option<CommitError>,
}

impl Recorded {
    fn forget_done(&mut self) {
        let lost = &mut self.lost;
        self.in_flight.retain(|done| match done.try_recv() {
            Ok(result) => {
                *lost = lost.take().or(result.err());
                false
            }
            Err(_) => true,
        });
    }
}

impl DeadLetters {
    pub(crate) fn new(input: Arc<dyn InputLog>, output: Arc<dyn OutputLog>) -> DeadLetters {
        DeadLetters { input, output, outputs: Mutex::default(), taken: AtomicU64::new(0) }
    }

    /// How many letters were taken since the engine was opened.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes what a reader of the relation rejected up to `cut`, whose positions are `ends`.
    pub(crate) fn offer(
        &self,
        relation: &Relation,
        topic_of_letters: Option<Uuid>,
        rejected: Vec<RejectedRecord>,
        (cut, ends): (Cut, &Ends),
    ) {
        if rejected.is_empty() {
            return;
        }
        let placed = |one: &RejectedRecord| Placed {
            partition: one.partition,
            offset: one.record.offset,
            record: letter(relation, one),
        };
        let placed = rejected.iter().map(placed).collect();
        self.offer_to(Of::Letters(relation.id), relation, topic_of_letters, placed, (cut, ends));
    }

    /// Takes the rows of a source up to `cut`, whose positions are `ends`, that were late, for the table that it names.
    pub(crate) fn offer_late(&self, catalog: &Catalog, source: &Relation, late: Vec<LateRows>, at: (Cut, &Ends)) {
        let Some(table) = source.watermark().and_then(|watermark| watermark.late_into) else { return };
        if late.is_empty() {
            return;
        }
        // Without its table the source is being dropped.
        let Some(table) = catalog.relation(table) else { return };
        match records_of(source, table, &late) {
            Ok(placed) => self.offer_to(Of::LateRows(source.id), source, table.topic(), placed, at),
            Err(error) => tracing::error!(source = %source.name, %error, "late rows cannot be kept"),
        }
    }

    fn offer_to(
        &self,
        of: Of,
        relation: &Relation,
        topic: Option<Uuid>,
        placed: Vec<Placed>,
        (cut, ends): (Cut, &Ends),
    ) {
        let mut outputs = self.outputs.lock();
        let recorded = match self.recorded(&mut outputs, of, relation) {
            Ok(recorded) => recorded,
            Err(error) => {
                // Not marked as recorded: a replay offers them again.
                tracing::error!(source = %relation.name, %error, "dead letters or late rows cannot be written");
                return;
            }
        };
        let is_new = |one: &Placed| recorded.positions.get(&one.partition).is_none_or(|at| one.offset >= *at);
        let new: Vec<OutRecord> = placed.into_iter().filter(is_new).map(|one| one.record).collect();
        if let Of::Letters(_) = of {
            self.taken.fetch_add(new.len() as u64, Ordering::Relaxed);
        }
        for (partition, end) in ends {
            let at = recorded.positions.entry(*partition).or_insert(*end);
            *at = (*at).max(*end);
        }
        recorded.table = topic;
        recorded.unwritten.extend(new);
        recorded.unwritten_cut = recorded.unwritten_cut.max(cut);
        self.write(of, topic, recorded);
    }

    /// Makes all that was offered durable. Until then no checkpoint may be taken.
    pub(crate) fn flush(&self, topic_of_letters: Option<Uuid>) -> Result<(), EngineError> {
        let mut outputs = self.outputs.lock();
        for (of, recorded) in outputs.iter_mut() {
            let topic = if let Of::Letters(_) = of { topic_of_letters } else { recorded.table };
            self.write(*of, topic, recorded);
            if !recorded.unwritten.is_empty() {
                return Err(EngineError::Checkpoint(format!("{} are not written yet", of.name())));
            }
            for done in std::mem::take(&mut recorded.in_flight) {
                let dropped = || Err(CommitError::Failed("the log dropped a commit".to_owned()));
                recorded.lost = recorded.lost.take().or(done.recv().unwrap_or_else(|_| dropped()).err());
            }
            if let Some(error) = &recorded.lost {
                return Err(EngineError::Checkpoint(format!("{}: {error}", of.name())));
            }
        }
        Ok(())
    }

    /// What is known of the relation's output; read from the log the first time.
    fn recorded<'a>(
        &self,
        outputs: &'a mut BTreeMap<Of, Recorded>,
        of: Of,
        relation: &Relation,
    ) -> Result<&'a mut Recorded, EngineError> {
        if !outputs.contains_key(&of) {
            let failed = |error: CommitError| EngineError::Checkpoint(error.to_string());
            let committed = self.output.committed(&of.name()).map_err(failed)?;
            let topic = relation.topic().expect("only sources and tables reject records");
            let partitions: Vec<_> = self.input.partitions(topic).into_iter().map(|p| (topic, p)).collect();
            let at = self.input.positions(&partitions, committed.min(self.input.newest()))?;
            let positions = partitions.iter().map(|(_, partition)| *partition).zip(at).collect();
            outputs.insert(of, Recorded { committed, positions, ..Recorded::default() });
        }
        Ok(outputs.get_mut(&of).expect("it is there"))
    }

    fn write(&self, of: Of, topic: Option<Uuid>, recorded: &mut Recorded) {
        let Some(topic) = topic else {
            if !recorded.unwritten.is_empty() {
                tracing::error!("there is no topic for {}; {} records are lost", of.name(), recorded.unwritten.len());
                recorded.unwritten.clear();
            }
            return;
        };
        while !recorded.unwritten.is_empty() {
            let count = fitting(&recorded.unwritten);
            let is_last = count == recorded.unwritten.len();
            let new = if is_last { recorded.unwritten_cut.max(recorded.committed) } else { recorded.committed };
            let records = recorded.unwritten[..count].to_vec();
            let step = OutputStep { output: of.name(), expected: recorded.committed, new, ahead: None };
            let append = TopicAppend { topic, partition: 0, records, expected_end: None };
            let (sender, receiver) = crossbeam_channel::bounded(1);
            let done = Box::new(move |result| {
                let _ = sender.send(result);
            });
            match self
                .output
                .commit(OutputCommit { output: Some(step), appends: vec![append], unchanged: vec![] }, done)
            {
                Ok(_) => {
                    recorded.committed = new;
                    recorded.unwritten.drain(..count);
                    recorded.forget_done();
                    recorded.in_flight.push(receiver);
                }
                Err(error) => {
                    tracing::warn!(%error, "{} wait; they are written later", of.name());
                    return;
                }
            }
        }
    }
}

/// How many of the first records go in one commit.
fn fitting(records: &[OutRecord]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&OutRecord| {
        bytes += record.value.as_ref().map_or(0, Bytes::len) + record.key.as_ref().map_or(0, Bytes::len) + 64;
        bytes <= COMMIT_BYTES_MAX
    };
    records.iter().take_while(fits).count().max(1)
}

fn letter(relation: &Relation, rejected: &RejectedRecord) -> OutRecord {
    use mainstem_catalog::RelationKind;
    let RejectedRecord { partition, record, reason } = rejected;
    let LogRecord { offset, timestamp_ms, key, value } = record;
    let topic = match &relation.kind {
        RelationKind::Source(source) => source.topic_name.as_str(),
        RelationKind::Table(table) => table.topic_name.as_str(),
        _ => "",
    };
    let mut of = Map::new();
    for (name, what) in [
        ("source", json!(relation.name)),
        ("topic", json!(topic)),
        ("partition", json!(partition)),
        ("offset", json!(offset)),
        ("timestamp_ms", json!(timestamp_ms)),
        ("reason", json!(reason)),
    ] {
        of.insert(name.to_owned(), what);
    }
    put_bytes(&mut of, "key", key.as_deref());
    put_bytes(&mut of, "value", value.as_deref());
    let value = serde_json::to_vec(&Value::Object(of)).expect("an object with text as names");
    let key = format!("{topic}-{partition}-{offset}");
    OutRecord { key: Some(key.into()), value: Some(value.into()), headers: Vec::new(), timestamp_ms: *timestamp_ms }
}

fn put_bytes(of: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else {
        of.insert(name.to_owned(), Value::Null);
        return;
    };
    let kept = &bytes[..bytes.len().min(VALUE_BYTES_MAX)];
    if kept.len() < bytes.len() {
        of.insert(format!("{name}_bytes"), json!(bytes.len()));
    }
    match std::str::from_utf8(kept) {
        Ok(text) => of.insert(name.to_owned(), json!(text)),
        Err(_) => {
            of.insert(format!("{name}_encoding"), json!("base64"));
            of.insert(name.to_owned(), json!(base64(kept)))
        }
    };
}

/// RFC 4648, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let is_padding = digit > group.len();
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if is_padding { '=' } else { char::from(DIGITS[index]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }
}
