//! The lock of each table, its image, and the way of accepted changes into the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use mainstem_catalog::{Relation, RelationId, RelationKind};
use mainstem_state::Clock;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot};
use uuid::Uuid;

use super::DmlError;
use super::overlay::{Image, Overlay, Row, batch_of_rows};
use crate::batch::engine_error;
use crate::collection::Version;
use crate::engine::{Engine, PinnedRelation};
use crate::error::EngineError;
use crate::input_log::{CommitError, Cut, EndOfPartition, OutRecord, OutputCommit, TopicAppend};
use crate::source_reader::TableCodec;

/// Bytes of records that one statement or transaction may write: half of what the log takes as one entry, since all of it is in
/// memory several times on its way.
pub(super) const ENTRY_BYTES_MAX: usize = 128 << 20;
/// Row ids from here on are provisional: the row's record has no offset yet.
pub(super) const PROVISIONAL_ROW_ID: i64 = 1 << 62;
/// A table's topic has one partition.
const PARTITION: i32 = 0;

/// All tables that were written to.
#[derive(Debug)]
pub(super) struct Sequencers {
    engine: Engine,
    clock: Arc<dyn Clock>,
    /// The end of the log at the start: an image that lacks anything before it is not the newest accepted one.
    opened_at: Cut,
    tables: Mutex<HashMap<RelationId, Arc<AsyncMutex<TableState>>>>,
    /// Why an accepted change was lost: the log has stopped, images are no longer true.
    lost: Arc<Mutex<Option<CommitError>>>,
    /// Provisional row ids given out.
    provisional: AtomicI64,
}

/// What a sequencer knows.
#[derive(Debug)]
pub(super) struct TableState {
    relation: RelationId,
    codec: TableCodec,
    topic: Uuid,
    /// Accepted and not published.
    pending: Arc<Overlay>,
    /// The keys in `pending` by the cut that holds them, oldest first.
    order: VecDeque<(Cut, Vec<Box<[u8]>>)>,
    /// The topic's next offset, once known.
    end: Option<i64>,
}

pub(super) type Locked = OwnedMutexGuard<TableState>;

/// Changes of one locked table.
pub(super) struct Accepting {
    pub(super) table: Locked,
    pub(super) relation: Arc<Relation>,
    pub(super) overlay: Overlay,
}

/// Changes that have their place.
#[derive(Debug)]
pub(super) struct Accepted {
    durable: oneshot::Receiver<Result<Cut, CommitError>>,
}

impl Accepted {
    /// Returns when they are durable.
    pub(super) async fn durable(self) -> Result<Cut, DmlError> {
        let lost = || Err(CommitError::Failed("the log has stopped".to_owned()));
        self.durable.await.unwrap_or_else(|_| lost()).map_err(|error| commit_error(&error))
    }
}

pub(super) fn commit_error(error: &CommitError) -> DmlError {
    let (state, hint) = match error {
        CommitError::Conflict(_) | CommitError::Fenced { .. } => ("40001", "Retry the transaction."),
        CommitError::TooLarge(_) => ("54000", "Write fewer rows per statement or transaction."),
        CommitError::DiskFull(_) => ("53100", "Free space on the disk that holds the data directory."),
        CommitError::Failed(_) => return DmlError::new("58030", error.to_string()),
    };
    DmlError::new(state, error.to_string()).with_hint(hint)
}

impl Sequencers {
    pub(super) fn new(engine: Engine, clock: Arc<dyn Clock>) -> Sequencers {
        let opened_at = engine.input().newest();
        Sequencers {
            engine,
            clock,
            opened_at,
            tables: Mutex::default(),
            lost: Arc::default(),
            provisional: AtomicI64::new(0),
        }
    }

    /// Numbers for rows that have no offset yet: the first of so many. They grow, so that rows keep their order.
    pub(super) fn reserve_provisional(&self, rows: usize) -> i64 {
        self.provisional.fetch_add(rows as i64, Ordering::Relaxed)
    }

    /// Waits for the table's lock. Fair: first come, first served.
    pub(super) async fn lock(&self, relation: &Relation) -> Result<Locked, DmlError> {
        let table = {
            let mut tables = self.tables.lock();
            match tables.get(&relation.id) {
                Some(table) => table.clone(),
                None => {
                    let table = Arc::new(AsyncMutex::new(TableState::new(relation)?));
                    tables.insert(relation.id, table.clone());
                    table
                }
            }
        };
        let locked = table.lock_owned().await;
        self.engine.wait_published_of(&[], self.opened_at).await.map_err(|error| engine_error(&error))?;
        Ok(locked)
    }

    /// The newest accepted image.
    pub(super) async fn image(&self, table: &mut Locked, relation: &Relation) -> Result<Image, DmlError> {
        if let Some(error) = self.lost.lock().as_ref() {
            return Err(commit_error(error));
        }
        let (published, version) = pin_table(&self.engine, relation).await?;
        table.published(published);
        Ok(Image { version, overlay: table.pending.clone() })
    }

    /// Waits until nothing that was accepted is unpublished.
    pub(super) async fn settle(&self, table: &mut Locked) -> Result<(), DmlError> {
        if let Some(error) = self.lost.lock().as_ref() {
            return Err(commit_error(error));
        }
        if let Some((last, _)) = table.order.back() {
            let last = *last;
            self.engine.wait_published_of(&[], last).await.map_err(|error| engine_error(&error))?;
            table.published(last);
        }
        Ok(())
    }

    /// Appends the changes of all these tables as one entry, if these partitions end where they are said to. Returns when they have their place, and frees the tables then.
    /// If this future is dropped it happens nevertheless.
    pub(super) async fn accept(
        &self,
        changes: Vec<Accepting>,
        unchanged: Vec<EndOfPartition>,
    ) -> Result<Accepted, DmlError> {
        let (engine, lost) = (self.engine.clone(), self.lost.clone());
        let timestamp_ms = self.clock.wall_ms();
        // The log may wait for space.
        let accepting = tokio::task::spawn_blocking(move || accept(&engine, lost, timestamp_ms, changes, unchanged));
        accepting.await.map_err(|error| DmlError::new("XX000", error.to_string()))?
    }
}

/// The published version of a table; waits while the table is being made.
pub(super) async fn pin_table(engine: &Engine, relation: &Relation) -> Result<(Cut, Arc<Version>), DmlError> {
    loop {
        match engine.pin(&[relation.id]) {
            Ok(mut pinned) => match pinned.relations.remove(&relation.id) {
                Some(PinnedRelation::Collection(version, None)) => return Ok((pinned.cut, version)),
                // What is written to a table that cannot be read would never be seen.
                Some(PinnedRelation::Collection(_, Some(error))) => return Err(DmlError::new("XX001", error)),
                _ => return Err(engine_error(&EngineError::UnknownRelation(relation.id.0))),
            },
            Err(EngineError::NotReady { .. }) => {
                engine.wait_ready(relation.id).await.map_err(|error| engine_error(&error))?;
            }
            Err(error) => return Err(engine_error(&error)),
        }
    }
}

fn accept(
    engine: &Engine,
    lost: Arc<Mutex<Option<CommitError>>>,
    timestamp_ms: i64,
    mut changes: Vec<Accepting>,
    unchanged: Vec<EndOfPartition>,
) -> Result<Accepted, DmlError> {
    let mut appends = Vec::with_capacity(changes.len());
    let mut bytes = 0;
    for change in &mut changes {
        let end = change.table.end(engine)?;
        change.overlay = with_row_ids(std::mem::take(&mut change.overlay), &change.relation, &change.table.codec, end);
        let records = change.table.records(&change.overlay, timestamp_ms);
        let size = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
        bytes += records.iter().map(|record| size(&record.key) + size(&record.value) + 16).sum::<usize>();
        let topic = change.table.topic;
        appends.push(TopicAppend { topic, partition: PARTITION, records, expected_end: Some(end) });
    }
    if bytes > ENTRY_BYTES_MAX {
        let text = format!("the rows take {bytes} bytes as records, at most {ENTRY_BYTES_MAX} can be written at once");
        return Err(commit_error(&CommitError::TooLarge(text)));
    }
    let lengths: Vec<i64> = appends.iter().map(|append| append.records.len() as i64).collect();
    let (sender, durable) = oneshot::channel();
    let done = Box::new(move |result: Result<Cut, CommitError>| {
        if let Err(error) = &result {
            *lost.lock() = Some(error.clone());
        }
        // Nobody waits when the statement was cancelled.
        let _ = sender.send(result);
    });
    let accepted = engine.output().commit(OutputCommit { output: None, appends, unchanged }, done);
    let accepted = accepted.inspect_err(|error| {
        // Refused for want of room, nothing was appended and the end is still right.
        if !matches!(error, CommitError::TooLarge(_) | CommitError::DiskFull(_)) {
            changes.iter_mut().for_each(|change| change.table.end = None);
        }
    });
    let accepted = accepted.map_err(|error| commit_error(&error))?;
    for ((change, base), length) in changes.into_iter().zip(accepted.base_offsets).zip(lengths) {
        let mut table = change.table;
        table.end = Some(base + length);
        table.accepted(accepted.cut, change.overlay);
    }
    Ok(Accepted { durable })
}

impl TableState {
    fn new(relation: &Relation) -> Result<TableState, DmlError> {
        let codec = TableCodec::new(relation).map_err(|error| engine_error(&error))?;
        let topic = relation.topic().expect("a table has a topic");
        let relation = relation.id;
        Ok(TableState { relation, codec, topic, pending: Arc::default(), order: VecDeque::new(), end: None })
    }

    /// What is published need not be kept.
    fn published(&mut self, cut: Cut) {
        while self.order.front().is_some_and(|(held_by, _)| *held_by <= cut) {
            let (held_by, keys) = self.order.pop_front().expect("there is one");
            let pending = Arc::make_mut(&mut self.pending);
            keys.iter().for_each(|key| pending.forget(key, held_by));
        }
    }

    fn accepted(&mut self, cut: Cut, overlay: Overlay) {
        let changes = overlay.into_ordered();
        self.order.push_back((cut, changes.iter().map(|(key, _)| key.clone()).collect()));
        let pending = Arc::make_mut(&mut self.pending);
        for (key, change) in changes {
            if change.is_deleted { pending.delete(key, change.row, cut) } else { pending.write(key, change.row, cut) }
        }
    }

    /// Only this sequencer writes to the topic, so what is durable when nothing of it is on its way is all there is. The
    /// lane writes late rows as well: then a change may be refused, as when another session was faster.
    fn end(&mut self, engine: &Engine) -> Result<i64, DmlError> {
        let keeps_late_rows = engine.shared.catalog().keeps_late_rows(self.relation);
        if let Some(end) = self.end.filter(|_| !keeps_late_rows) {
            return Ok(end);
        }
        let input = engine.input();
        let end = input.position(self.topic, PARTITION, input.newest());
        let end = end.map_err(|error| engine_error(&EngineError::Log(error)))?;
        let end = self.end.unwrap_or(0).max(end);
        self.end = Some(end);
        Ok(end)
    }

    fn records(&self, overlay: &Overlay, timestamp_ms: i64) -> Vec<OutRecord> {
        let record = |row: &Row, is_deleted: bool| OutRecord {
            key: Some(self.codec.encode_key(&row.batch, row.index)),
            value: (!is_deleted).then(|| self.codec.encode_value(&row.batch, row.index)),
            headers: Vec::new(),
            timestamp_ms,
        };
        overlay.clone().into_ordered().iter().map(|(_, change)| record(&change.row, change.is_deleted)).collect()
    }
}

/// The hidden row id, if the table has one.
pub(super) fn row_id_column(relation: &Relation) -> Option<usize> {
    let RelationKind::Table(definition) = &relation.kind else { return None };
    match definition.primary_key.as_slice() {
        [column] if relation.columns[*column].hidden => Some(*column),
        _ => None,
    }
}

/// Rows with provisional row ids get the offset that their record will have, `end` being that of the first change.
fn with_row_ids(overlay: Overlay, relation: &Relation, codec: &TableCodec, end: i64) -> Overlay {
    let Some(column) = row_id_column(relation) else { return overlay };
    let ordered = overlay.into_ordered();
    let is_provisional = |row: &Row| row_id_of(&row.batch, column, row.index) >= PROVISIONAL_ROW_ID;
    let new: Vec<(i64, Row)> = (end..)
        .zip(&ordered)
        .filter(|(_, (_, change))| is_provisional(&change.row))
        .map(|(offset, (_, change))| (offset, change.row.clone()))
        .collect();
    let rows: Vec<Row> = new.iter().map(|(_, row)| row.clone()).collect();
    let batch = batch_of_rows(codec.schema(), &rows);
    let ids: Vec<i64> = new.iter().map(|(offset, _)| *offset).collect();
    let mut columns = batch.columns().to_vec();
    columns[column] = row_ids(&ids, batch.schema().field(column).data_type());
    let batch = RecordBatch::try_new(codec.schema().clone(), columns).expect("the columns of the table");
    let keys = crate::collection::Collection::new(codec.schema().clone(), codec.key_kind());
    let keys = keys.layout().keys_of(&batch);
    let mut renamed = keys.iter().map(Box::from).zip(Row::all(batch));
    let mut result = Overlay::default();
    for (key, change) in ordered {
        if is_provisional(&change.row) {
            let (key, row): (Box<[u8]>, Row) = renamed.next().expect("a row per provisional id");
            result.write(key, row, Cut::ZERO);
        } else if change.is_deleted {
            result.delete(key, change.row, Cut::ZERO);
        } else {
            result.write(key, change.row, Cut::ZERO);
        }
    }
    result
}

fn row_id_of(batch: &RecordBatch, column: usize, row: usize) -> i64 {
    use arrow::array::AsArray;
    let ids = batch.column(column);
    match ids.data_type() {
        DataType::Int64 => ids.as_primitive::<Int64Type>().value(row),
        _ => ids.as_string::<i32>().value(row).parse().unwrap_or_default(),
    }
}

/// Row ids as the column's type has them.
pub(super) fn row_ids(ids: &[i64], data_type: &DataType) -> ArrayRef {
    match data_type {
        DataType::Int64 => Arc::new(Int64Array::from(ids.to_vec())),
        _ => Arc::new(ids.iter().map(|id| Some(id.to_string())).collect::<StringArray>()),
    }
}
