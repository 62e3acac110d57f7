//! INSERT, UPDATE, DELETE and COPY: rows become JSON records in the topic of their table.
//!
//! Words: the *image* of a table is its newest published version with the changes over it that were accepted and are not
//! published yet; a change is *accepted* when the log has given it its place, and *durable* when the log says so; the
//! *sequencer* of a table is the lock under which statements read the image and have their changes accepted.
//!
//! A record's key is the primary key as a JSON object (`{"id":1}`), its value all columns, a deleted row a null value. A
//! table without primary key has a hidden row id: the offset of the record that brought the row.
//!
//! A statement outside a transaction reads its table at the newest image, and every other relation as published. The lock
//! is released once the change is accepted, so that statements of several sessions are made durable together. Inside a
//! transaction everything is read from one snapshot, taken by its first statement, with the transaction's own writes over
//! it; COMMIT appends all of them as one entry, unless a row that was written or decided upon has changed since (40001):
//! snapshot isolation. A materialized view inside a transaction that wrote to the tables below it is its query over them.
//!
//! Always true here: a statement is one entry, or no trace; nobody reads what was not accepted, and only sequencers read
//! what is not yet durable; `execute` and `commit` return when the change is durable.

mod assign;
mod delete;
mod describe;
mod insert;
mod overlay;
mod sequencer;
mod statement;
mod transaction;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use mainstem_catalog::{Catalog, Relation, RelationId};
use mainstem_sql::SqlError;
use mainstem_state::Clock;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::batch::{ContextOptions, ReadPoint, engine_error};
use crate::engine::Engine;
use crate::input_log::Cut;
use sequencer::{Accepting, Sequencers};
use statement::{Target, Written};

pub use describe::DmlDescription;
pub(crate) use overlay::{Image, Overlay};
pub use statement::{Dml, DmlPlan};
pub use transaction::Snapshot;
pub use transaction::Transaction;

/// Why a statement failed: SQLSTATE and text.
pub type DmlError = SqlError;

/// What a statement did.
#[derive(Clone, Debug, Default)]
pub struct DmlResult {
    /// Rows inserted, updated or deleted.
    pub rows_affected: u64,
    /// With RETURNING, its rows.
    pub returning: Option<Vec<RecordBatch>>,
    /// The cut that holds the change, for the session's next SELECT; none inside a transaction, or when nothing changed.
    pub cut: Option<Cut>,
}

/// A task that ends when nobody waits for it.
struct Running<T>(JoinHandle<T>);

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Nobody writes to a table while this lives.
#[derive(Debug)]
pub struct Quiet(#[expect(dead_code, reason = "held, not read")] sequencer::Locked);

/// Writes to tables. A clone is another handle.
#[derive(Clone, Debug)]
pub struct Tables {
    engine: Engine,
    options: ContextOptions,
    sequencers: Arc<Sequencers>,
    /// Where statements are computed; else by whoever waits for them.
    threads: Option<Handle>,
}

impl Tables {
    /// Writes to the engine's log. There must be one of these per engine (and clones of it): it holds the tables' locks.
    #[must_use]
    pub fn new(engine: Engine, clock: Arc<dyn Clock>, options: ContextOptions) -> Tables {
        let sequencers = Arc::new(Sequencers::new(engine.clone(), clock));
        Tables { engine, options, sequencers, threads: None }
    }

    /// Computes statements on these threads, so that one that takes long does not hold up its own cancellation.
    #[must_use]
    pub fn on_threads(self, threads: Handle) -> Tables {
        Tables { threads: Some(threads), ..self }
    }

    /// Runs a statement and returns when its change is durable; inside a transaction, when it is buffered. On an error
    /// nothing was changed (unless the log stopped while the change was being made durable). If this future is dropped the
    /// change is made as a whole or not at all.
    pub async fn execute(&self, transaction: Option<&mut Transaction>, plan: DmlPlan) -> Result<DmlResult, DmlError> {
        let target = Target::of(&plan.catalog, plan.statement.table())?;
        match transaction {
            Some(transaction) => {
                let snapshot = transaction.snapshot(&self.engine, plan.at_least).await?;
                let image = transaction.image(&self.engine, &target).await?;
                let at = ReadPoint { at_least: plan.at_least, transaction: Some(snapshot) };
                let (written, result) = self.compute(plan, &target, &image, at).await?;
                transaction.keep(&target, &image, written);
                Ok(result)
            }
            None => {
                let mut table = self.sequencers.lock(&target.relation).await?;
                let image = self.sequencers.image(&mut table, &target.relation).await?;
                let at = ReadPoint { at_least: plan.at_least, transaction: None };
                let (written, mut result) = self.compute(plan, &target, &image, at).await?;
                drop(image);
                if !written.overlay.is_empty() {
                    let accepting = Accepting { table, relation: target.relation.clone(), overlay: written.overlay };
                    result.cut = Some(self.sequencers.accept(vec![accepting], vec![]).await?.durable().await?);
                }
                Ok(result)
            }
        }
    }

    /// `COPY table (columns) FROM`: appends rows; `columns` are indexes into the relation's columns, in the order of the
    /// batches' columns. Text is read as a value of the column's type. All of it is one entry.
    pub async fn append(
        &self,
        transaction: Option<&mut Transaction>,
        catalog: Arc<Catalog>,
        table: RelationId,
        columns: &[usize],
        rows: Vec<RecordBatch>,
    ) -> Result<DmlResult, DmlError> {
        let relation = catalog.relation(table).cloned();
        let relation = relation.ok_or_else(|| engine_error(&crate::EngineError::UnknownRelation(table.0)))?;
        let target = Target::new(relation)?;
        let plan = DmlPlan::new(catalog, Dml::Copy { columns: columns.to_vec(), rows, table: target.name() });
        Box::pin(self.execute(transaction, plan)).await
    }

    /// What the statement writes, and its result without a cut. Ends when the future is dropped.
    async fn compute(
        &self,
        plan: DmlPlan,
        target: &Target,
        image: &Image,
        at: ReadPoint,
    ) -> Result<(Written, DmlResult), DmlError> {
        let (tables, target, image) = (self.clone(), target.clone(), image.clone());
        let work = async move {
            let written = statement::run(&tables, &plan, &target, &image, &at).await?;
            let returning = statement::returning(&tables, &plan, &target, &written).await?;
            let result = DmlResult { rows_affected: written.affected, returning, cut: None };
            Ok((written, result))
        };
        match &self.threads {
            None => work.await,
            Some(threads) => {
                let mut running = Running(threads.spawn(work));
                (&mut running.0).await.unwrap_or_else(|error| Err(DmlError::new("XX000", error.to_string())))
            }
        }
    }

    /// Returns when all that was written to the table is published; nobody writes to it until what is returned is dropped.
    pub async fn quiet(&self, table: &Relation) -> Result<Quiet, DmlError> {
        let mut locked = self.sequencers.lock(table).await?;
        self.sequencers.settle(&mut locked).await?;
        Ok(Quiet(locked))
    }

    /// A transaction, without a snapshot yet. To roll back, drop it.
    #[must_use]
    pub fn begin(&self) -> Transaction {
        Transaction::default()
    }

    /// What a SELECT of the session reads, inside a transaction or not. The first one in a transaction takes its snapshot,
    /// of a published version that holds `at_least`.
    pub async fn read_point(
        &self,
        transaction: Option<&mut Transaction>,
        at_least: Cut,
    ) -> Result<ReadPoint, DmlError> {
        let transaction = match transaction {
            Some(transaction) => Some(transaction.snapshot(&self.engine, at_least).await?),
            None => None,
        };
        Ok(ReadPoint { at_least, transaction })
    }

    /// Appends all writes of the transaction as one entry and returns its cut when that is durable; none when there was
    /// nothing to write. 40001 when a serializable one read what has changed since its snapshot, or when a row that it wrote or decided upon has changed since its snapshot, 23505 when a key
    /// that it inserted exists by now; then nothing was written.
    pub async fn commit(&self, transaction: Transaction) -> Result<Option<Cut>, DmlError> {
        let mut accepting = Vec::new();
        let unchanged = transaction.unchanged(&self.engine)?;
        let touched: BTreeMap<_, _> = transaction.into_tables();
        // ORDER: locks are taken in order of id, so that two commits never wait for each other.
        for table in touched.into_values() {
            let mut locked = self.sequencers.lock(&table.relation).await?;
            let image = self.sequencers.image(&mut locked, &table.relation).await?;
            let overlay = table.checked_against(&image)?;
            accepting.push(Accepting { table: locked, relation: table.relation.clone(), overlay });
        }
        accepting.retain(|one| !one.overlay.is_empty());
        if accepting.is_empty() {
            return Ok(None);
        }
        let accepted = self.sequencers.accept(accepting, unchanged).await?;
        Ok(Some(accepted.durable().await?))
    }
}
